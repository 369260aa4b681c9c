"""Bandpasses: the response of a whole system (atmosphere, optics, filter, detector)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import astropy.units as u
import numpy as np

from pogson.errors import MissingDataError, PogsonValueError, choices
from pogson.sed._grid import check_values, check_wavelength, quadrature, union_grid
from pogson.units import strip_unit

__all__ = ["Bandpass"]

_DETECTORS = ("photon", "energy")


@dataclass(frozen=True, eq=False)
class Bandpass:
    r"""A response curve, linear between its samples and zero outside them; immutable.

    Parameters
    ----------
    name : str
        What it is called in catalogues, ``"decam2014-g"`` for example.
    wavelength : array_like, shape (n,)
        Vacuum wavelengths in Angstrom (or a Quantity), strictly increasing.
    throughput : array_like, shape (n,)
        Response, not negative. Its scale does not enter AB fluxes.
    detector : {"photon", "energy"}, optional
        Whether ``throughput`` is the response per photon (a CCD; the default) or per unit energy
        (a bolometer, and curves published that way).

    Raises
    ------
    PogsonValueError
        If the wavelengths do not increase, a value is negative or not finite, or all are zero.

    Notes
    -----
    With :math:`p = 1` for photon and :math:`p = 2` for energy response, the mean AB flux density
    of a source is :math:`\int f_\nu T \lambda^{-p} d\lambda / \int T \lambda^{-p} d\lambda`; see
    Bessell & Murphy (2012, PASP 124, 140) and `pogson.sed.synthetic_flux`.

    Examples
    --------
    >>> box = Bandpass("box", [4000.0, 4000.1, 5000.0, 5000.1], [0.0, 1.0, 1.0, 0.0])
    >>> box.pivot_wavelength, box.effective_width
    (4490.750553926322, 1000.0)
    >>> box.evaluate([3000.0, 4500.0])
    array([0., 1.])
    """

    name: str
    wavelength: np.ndarray
    throughput: np.ndarray
    detector: Literal["photon", "energy"] = "photon"

    def __post_init__(self) -> None:
        lam = check_wavelength(self.wavelength, f"bandpass {self.name!r}")
        response = check_values(self.throughput, lam, f"The throughput of bandpass {self.name!r}")
        if self.detector not in _DETECTORS:
            raise PogsonValueError(
                f"Unknown detector kind {self.detector!r} of bandpass {self.name!r}; allowed: "
                f"{choices(_DETECTORS)}."
            )
        if response.min() < 0 or not response.any():
            raise PogsonValueError(
                f"The throughput of bandpass {self.name!r} runs from {response.min():g} to "
                f"{response.max():g}; it must not be negative and not be zero everywhere."
            )
        object.__setattr__(self, "wavelength", lam)
        object.__setattr__(self, "throughput", response)

    @classmethod
    def from_speclite(cls, name: str) -> Bandpass:
        """Return a bandpass that the speclite package ships, by its name there.

        Parameters
        ----------
        name : str
            ``"group-band"``: ``"decam2014-g"``, ``"lsst2023-r"``, ``"sdss2010-u"`` ...

        Raises
        ------
        MissingDataError
            If speclite has no such response.

        Examples
        --------
        >>> Bandpass.from_speclite("decam2014-g")
        Bandpass('decam2014-g', 522 samples 3410-10980 Angstrom, pivot 4820.0, photon)
        """
        import speclite.filters

        try:
            response = speclite.filters.load_filter(name)
        except (ValueError, OSError) as error:
            raise MissingDataError(
                f"speclite has no filter response {name!r}; write 'group-band' with a group such "
                f"as 'decam2014', 'lsst2023', 'sdss2010', 'hsc2017', 'gaiadr2' or 'BASS'."
            ) from error
        return cls(name, np.asarray(response.wavelength, np.float64), np.asarray(response.response))

    @property
    def wavelength_range(self) -> tuple[float, float]:
        """First and last wavelength with a response above zero on one side, in Angstrom."""
        on = np.flatnonzero(self.throughput)
        first, last = max(on[0] - 1, 0), min(on[-1] + 1, self.wavelength.size - 1)
        return (float(self.wavelength[first]), float(self.wavelength[last]))

    @property
    def _power(self) -> int:
        """Power p of the weight T / lambda^p of f_nu."""
        return 1 if self.detector == "photon" else 2

    def _moment(self, power: int) -> float:
        """Integral of T lambda^power d lambda."""
        edges = union_grid(self.wavelength, self.wavelength, *self.wavelength_range)
        lam, weight = quadrature(edges)
        return float(np.sum(weight * self.evaluate(lam) * lam**power))

    @cached_property
    def pivot_wavelength(self) -> float:
        r"""Pivot wavelength in Angstrom.

        :math:`\lambda_p^2 = \int T\lambda\,d\lambda / \int T\lambda^{-1}d\lambda` for a photon
        response (energy response: :math:`\int T d\lambda / \int T\lambda^{-2}d\lambda`), so that
        :math:`\langle f_\nu\rangle = \langle f_\lambda\rangle \lambda_p^2 / c` for every source
        (Koornneef et al. 1986; Bessell & Murphy 2012, eq. A11).
        """
        p = self._power
        return float(np.sqrt(self._moment(2 - p) / self._moment(-p)))

    @cached_property
    def effective_width(self) -> float:
        r"""Equivalent width :math:`\int T d\lambda / \max T` in Angstrom."""
        return self._moment(0) / float(self.throughput.max())

    def evaluate(self, wavelength: Any) -> np.ndarray:
        """Response at vacuum wavelengths in Angstrom: linear between samples, zero outside."""
        lam = strip_unit(wavelength, u.AA, "wavelength")
        return np.interp(lam, self.wavelength, self.throughput, left=0.0, right=0.0)

    def shifted(self, shift: float, name: str | None = None) -> Bandpass:
        """Return the same curve moved by ``shift`` Angstrom towards the red.

        Examples
        --------
        >>> g = Bandpass.from_speclite("decam2014-g")
        >>> round(g.shifted(25.0).pivot_wavelength - g.pivot_wavelength)
        25
        """
        label = f"{self.name}{shift:+g}A" if name is None else name
        return Bandpass(label, self.wavelength + shift, self.throughput, self.detector)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Bandpass):
            return NotImplemented
        return (
            self.name == other.name
            and self.detector == other.detector
            and np.array_equal(self.wavelength, other.wavelength)
            and np.array_equal(self.throughput, other.throughput)
        )

    def __hash__(self) -> int:
        return hash((self.name, self.detector, self.throughput.tobytes()))

    def __repr__(self) -> str:
        return (
            f"Bandpass({self.name!r}, {self.wavelength.size} samples "
            f"{self.wavelength[0]:g}-{self.wavelength[-1]:g} Angstrom, "
            f"pivot {self.pivot_wavelength:.1f}, {self.detector})"
        )
