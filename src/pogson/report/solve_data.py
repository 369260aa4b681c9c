"""What a report shows of a global solution, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pogson.survey.star_flats import StarFlats
    from pogson.survey.survey_diagnostics import SurveyDiagnostics

__all__ = ["SolveReport"]

Columns = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class SolveReport:
    """A global solution.

    Parameters
    ----------
    title : str
        Of a page of its own.
    words : sequence of str
        Sentences at its head.
    facts : mapping
        Numbers of the solution: those of ``solution.json``.
    sample : mapping of str to array
        Some detections: ``star``, ``exposure``, ``detector`` (rows), ``band``, ``u``, ``v`` (focal
        plane), ``magnitude``, ``color``, ``airmass``, ``mjd``, ``residual``, ``error`` (mag),
        ``pull``, ``used``, ``n`` (detections of the star).
    exposures : mapping of str to array
        One row an exposure: ``exposure``, ``band``, ``mjd``, ``airmass``, ``zero_point``,
        ``zero_point_err``, ``chi2``, ``tied_stars``, ``set``, ``problem``.
    parameters : mapping of str to array
        ``term``, ``parameter``, ``unit``, ``value``, ``error``.
    stars : mapping of str to array
        ``band``, ``ra``, ``dec``, ``mag``, ``reference_mag``, ``reference_err``, ``suspect``.
    diagnostics : SurveyDiagnostics, optional
        Repeatability, maps, trends, structure, nights, leave-out validation.
    flats : StarFlats, optional
        Star flats of the solution.

    Examples
    --------
    >>> SolveReport("x").bands
    ()
    """

    title: str
    words: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    sample: Columns = field(default_factory=dict)
    exposures: Columns = field(default_factory=dict)
    parameters: Columns = field(default_factory=dict)
    stars: Columns = field(default_factory=dict)
    diagnostics: SurveyDiagnostics | None = None
    flats: StarFlats | None = None

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands, in the order of the exposures."""
        return tuple(dict.fromkeys(map(str, self.exposures.get("band", ()))))
