"""Extinction by the atmosphere above nine observatories, and correction to another airmass."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import astropy.units as u
import numpy as np

from pogson.errors import BoundsError, MissingDataError, PogsonValueError, choices
from pogson.sed._grid import check_values, check_wavelength
from pogson.units import strip_unit

__all__ = [
    "OBSERVATORIES",
    "AtmosphereExtinction",
    "airmass_factor",
    "load_atmosphere_extinction",
]

OBSERVATORIES: dict[str, str] = {
    "ctio": "Cerro Tololo: Stone & Baldwin (1983, MNRAS 204, 347) and Baldwin & Stone (1984, MNRAS "
    "206, 241), as IRAF distributed it",
    "kpno": "Kitt Peak: the table that IRAF distributed (its last four points are those of CTIO)",
    "lapalma": "Roque de los Muchachos: King (1985, ING/RGO La Palma Technical Note 31)",
    "lasilla": "La Silla: the table of the ESO observing tools",
    "lbto": "Mount Graham: model for 692 hPa, aerosols 0.012 lambda^-1.38, 258 DU of ozone (LBTO, "
    "2024)",
    "mko": "Mauna Kea: Nearby Supernova Factory, Buton et al. (2013, A&A 549, A8)",
    "mtham": "Mount Hamilton: the mean curve of Lick Observatory",
    "palomar": "Palomar: Hayes & Latham (1975, ApJ 197, 593)",
    "paranal": "Paranal: Patat et al. (2011, A&A 527, A91); below 3300 Angstrom ESO's table",
}
"""Where the table of each observatory comes from.

The numbers were compiled in the PypeIt repository (BSD-3-Clause); tables with more points than
their curvature needs were thinned, which changes no value by more than 0.0005 mag.
"""


@dataclass(frozen=True, eq=False)
class AtmosphereExtinction:
    """Extinction of the atmosphere at each wavelength; immutable.

    Parameters
    ----------
    wavelength : array_like, shape (n,)
        Angstrom, strictly increasing.
    extinction : array_like, shape (n,)
        Magnitudes per airmass; linear between samples.
    name : str, optional
        What it is called.

    Raises
    ------
    PogsonValueError
        If the wavelengths do not increase or a value is not finite.

    Examples
    --------
    >>> sky = AtmosphereExtinction([3000.0, 9000.0], [1.0, 0.0], "toy")
    >>> sky([6000.0]), sky.transmission([6000.0], 2.0).round(3)
    (array([0.5]), array([0.398]))
    """

    wavelength: np.ndarray
    extinction: np.ndarray
    name: str = ""

    def __post_init__(self) -> None:
        what = f"the extinction curve {self.name!r}"
        lam = check_wavelength(self.wavelength, what)
        object.__setattr__(self, "wavelength", lam)
        object.__setattr__(
            self, "extinction", check_values(self.extinction, lam, what.capitalize())
        )

    def __call__(self, wavelength: Any, *, extrapolate: bool = False) -> np.ndarray:
        """Extinction in magnitudes per airmass.

        Parameters
        ----------
        wavelength : array_like
            Angstrom.
        extrapolate : bool, optional
            Use the last value beyond the red end, where extinction is small and flat. The blue end
            is never extrapolated: it rises steeply there.

        Raises
        ------
        BoundsError
            Outside the table.
        """
        lam = np.asarray(strip_unit(wavelength, u.AA, "wavelength"), np.float64)
        low, high = float(self.wavelength[0]), float(self.wavelength[-1])
        outside = (lam < low) | ((lam > high) & (not extrapolate))
        if np.any(outside):
            raise BoundsError(
                f"The extinction curve {self.name!r} covers {low:g}-{high:g} Angstrom, not "
                f"{float(np.atleast_1d(lam)[np.atleast_1d(outside)][0]):g}"
                + ("." if lam.min() < low else "; extrapolate=True uses its last value.")
            )
        return np.asarray(np.interp(lam, self.wavelength, self.extinction))

    def transmission(self, wavelength: Any, airmass: float) -> np.ndarray:
        """Fraction of light that arrives through an airmass."""
        return np.asarray(10.0 ** (-0.4 * self(wavelength) * _airmass(airmass)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AtmosphereExtinction):
            return NotImplemented
        return (
            self.name == other.name
            and np.array_equal(self.wavelength, other.wavelength)
            and np.array_equal(self.extinction, other.extinction)
        )

    def __hash__(self) -> int:
        return hash((self.name, self.extinction.tobytes()))

    def __repr__(self) -> str:
        lam = self.wavelength
        return (
            f"AtmosphereExtinction({self.name!r}, {lam.size} samples {lam[0]:g}-{lam[-1]:g} "
            f"Angstrom)"
        )


def _airmass(value: float) -> float:
    airmass = float(value)
    if not 0.999 <= airmass < 40:
        raise PogsonValueError(
            f"The airmass is {value}; it must be at least 1 (and below 40). Where it is unknown "
            f"nothing can be corrected for it."
        )
    return airmass


@cache
def _tables() -> dict[str, AtmosphereExtinction]:
    text = (resources.files("pogson.spectro") / "atmosphere_extinction.csv").read_text("utf-8")
    rows: dict[str, list[tuple[float, float]]] = {}
    for line in text.splitlines():
        if line.startswith(("#", "observatory")):
            continue
        name, lam, value = line.split(",")
        rows.setdefault(name, []).append((float(lam), float(value)))
    tables = {n: np.array(v) for n, v in rows.items()}
    return {n: AtmosphereExtinction(t[:, 0], t[:, 1], n) for n, t in tables.items()}


def load_atmosphere_extinction(observatory: str) -> AtmosphereExtinction:
    """Return the mean extinction curve of an observatory.

    Parameters
    ----------
    observatory : str
        A key of `OBSERVATORIES`, which says where each is from.

    Raises
    ------
    MissingDataError
        If there is none of that name.

    Examples
    --------
    >>> load_atmosphere_extinction("mko")([4000.0, 8000.0]).round(3)
    array([0.265, 0.027])
    """
    try:
        return _tables()[str(observatory).lower()]
    except KeyError:
        raise MissingDataError(
            f"There is no extinction curve of {observatory!r}; allowed: "
            f"{choices(sorted(OBSERVATORIES))}. Others: AtmosphereExtinction(wavelength, values)."
        ) from None


def airmass_factor(
    wavelength: Any,
    extinction: AtmosphereExtinction,
    *,
    airmass: float,
    standard_airmass: float,
) -> np.ndarray:
    r"""Factor for a flux calibrated at one airmass but observed at another.

    .. math:: 10^{0.4\,k(\lambda)\,(X - X_{standard})}

    Parameters
    ----------
    wavelength : array_like
        Angstrom.
    extinction : AtmosphereExtinction
        The observatory's curve.
    airmass, standard_airmass : float
        Airmass of the exposure, and the one at which the calibration was derived.

    Examples
    --------
    >>> curve = load_atmosphere_extinction("paranal")
    >>> airmass_factor([4000.0, 8000.0], curve, airmass=1.5, standard_airmass=1.0).round(3)
    array([1.168, 1.019])
    """
    difference = _airmass(airmass) - _airmass(standard_airmass)
    return np.asarray(10.0 ** (0.4 * extinction(wavelength, extrapolate=True) * difference))
