"""What the page of a flux calibration shows, as plain data: no files, no science types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["FluxCalReportData", "StandardRecord"]


@dataclass(frozen=True, eq=False)
class StandardRecord:
    """One standard star: its entry in ``fluxcal.json`` and its arrays.

    Parameters
    ----------
    name : str
        The star.
    used : bool
        Whether the response rests on it.
    values : mapping
        Its entry in ``fluxcal.json``.
    arrays : mapping of str to ndarray, shape (n,)
        ``wavelength`` (vacuum Angstrom), ``flux``, ``variance`` and ``model``
        (erg/s/cm2/Angstrom), ``counts`` and ``fit``, ``expected`` (counts of the model through the
        calibration without the star's own loss) and ``ratio`` (counts over these); empty for a
        star that could not be matched.

    Examples
    --------
    >>> StandardRecord("a", True, {"teff": None}).number("teff")
    nan
    """

    name: str
    used: bool
    values: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)

    def number(self, name: str) -> float:
        """Return a number, NaN where it is not known."""
        value = self.values.get(name)
        return float("nan") if value is None else float(value)


@dataclass(frozen=True, eq=False)
class FluxCalReportData:
    """Everything that the page of a flux calibration shows.

    Parameters
    ----------
    title : str
        Of the page.
    stars : tuple of StandardRecord
        All standards.
    response : mapping of str to ndarray
        ``wavelength``, ``response`` (counts/s/Angstrom per erg/s/cm2/Angstrom), ``noise`` and
        ``template`` (errors of its logarithm), ``telluric_wavelength``, ``telluric``,
        ``telluric_error``, ``bins`` (ln wavelength) and ``scatter`` (n_star, n_bin), of the stars
        that were matched, in order.
    bands : tuple of str
        In order of wavelength.
    headlines : tuple of str
        The result in a few sentences.
    facts : mapping of str to str
        Settings worth saying.
    suspicions : tuple of str
        Magnitudes that look wrong.
    numbers : mapping of str to float
        ``log_scale_error``, ``grey_scatter`` and ``shape_scatter``, fractions.
    telluric_regions : tuple of (float, float)
        Vacuum Angstrom.
    failures, unmatched : mapping of str to str
        Frames and rows of the table that were not used, and why.
    config_text : str
        The configuration.

    Examples
    --------
    >>> FluxCalReportData("x").matched
    []
    """

    title: str
    stars: tuple[StandardRecord, ...] = ()
    response: Mapping[str, np.ndarray] = field(default_factory=dict)
    bands: tuple[str, ...] = ()
    headlines: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    suspicions: tuple[str, ...] = ()
    numbers: Mapping[str, float] = field(default_factory=dict)
    telluric_regions: tuple[tuple[float, float], ...] = ()
    failures: Mapping[str, str] = field(default_factory=dict)
    unmatched: Mapping[str, str] = field(default_factory=dict)
    config_text: str = ""

    @property
    def matched(self) -> list[StandardRecord]:
        """Stars that have a model."""
        return [s for s in self.stars if s.arrays]
