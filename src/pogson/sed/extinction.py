"""Reddening by Milky Way dust, by the laws of the dust_extinction package."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import astropy.units as u
import numpy as np

from pogson.errors import PogsonValueError, choices
from pogson.units import strip_unit

__all__ = ["EXTINCTION_LAWS", "SFD_SCALE", "extinction_curve", "reddening"]

EXTINCTION_LAWS: tuple[str, ...] = ("G23", "F99", "CCM89", "O94", "F04", "GCC09", "M14", "F19")
"""Laws by their class name in `dust_extinction.parameter_averages`."""

SFD_SCALE = 0.86
"""E(B-V) of the SFD map times this is E(B-V): Schlafly & Finkbeiner (2011, ApJ 737, 103)."""


@lru_cache(maxsize=32)
def _law(law: str, r_v: float) -> Any:
    from dust_extinction import parameter_averages

    if law not in EXTINCTION_LAWS:
        raise PogsonValueError(
            f"Unknown extinction law {law!r}; allowed: {choices(EXTINCTION_LAWS)}."
        )
    try:
        return getattr(parameter_averages, law)(Rv=r_v)
    except ValueError as error:
        raise PogsonValueError(f"The extinction law {law} refuses R(V)={r_v:g}: {error}") from None


def extinction_curve(wavelength: Any, *, r_v: float = 3.1, law: str = "G23") -> np.ndarray:
    r"""Extinction in magnitudes for E(B-V) = 1, :math:`k(\lambda) = A(\lambda)/E(B-V)`.

    Parameters
    ----------
    wavelength : array_like
        Vacuum Angstrom.
    r_v : float, optional
        A(V)/E(B-V).
    law : str, optional
        One of `EXTINCTION_LAWS`: "G23" (Gordon et al. 2023, ApJ 950, 86; the default), "F99"
        (Fitzpatrick 1999, PASP 111, 63), "CCM89" (Cardelli, Clayton & Mathis 1989, ApJ 345, 245),
        "O94" (O'Donnell 1994, ApJ 422, 158), "F04", "GCC09", "M14", "F19".

    Raises
    ------
    PogsonValueError
        If the law is unknown, or does not cover a wavelength or R(V).

    Examples
    --------
    >>> extinction_curve([4405.0, 5470.0], law="F99").round(1)
    array([4.1, 3.1])
    """
    model = _law(law, float(r_v))
    lam = np.asarray(strip_unit(wavelength, u.AA, "wavelength"), np.float64)
    flat = np.atleast_1d(lam)
    try:
        curve = np.asarray(model(flat * u.AA), np.float64)
    except ValueError as error:
        raise PogsonValueError(
            f"The extinction law {law} with R(V)={r_v:g} cannot be evaluated on "
            f"{flat.min():g}-{flat.max():g} Angstrom: {error}."
        ) from None
    return curve.reshape(lam.shape) * float(r_v)


def reddening(wavelength: Any, e_bv: float, *, r_v: float = 3.1, law: str = "G23") -> np.ndarray:
    """Fraction of light that dust lets through at vacuum wavelengths.

    Parameters
    ----------
    wavelength : array_like
        Vacuum Angstrom.
    e_bv : float
        Colour excess in magnitudes; negative values take dust away. Multiply E(B-V) of the SFD
        map by `SFD_SCALE` first.
    r_v, law : optional
        See `extinction_curve`.

    Examples
    --------
    >>> reddening([4000.0, 9000.0], 0.1).round(2)
    array([0.67, 0.87])
    """
    if not np.isfinite(e_bv):
        raise PogsonValueError(f"E(B-V) is {e_bv}; it must be a finite number of magnitudes.")
    curve = extinction_curve(wavelength, r_v=r_v, law=law)
    return np.asarray(10.0 ** (-0.4 * float(e_bv) * curve))
