"""Checks that the containers of the room share."""

from __future__ import annotations

import unicodedata
from typing import Any

import astropy.units as u
import numpy as np

from pogson.errors import PogsonValueError
from pogson.units import strip_unit


def freeze(values: np.ndarray) -> np.ndarray:
    """Return the array, read-only."""
    if values.flags.writeable and values.base is not None:
        values = values.copy()
    values.flags.writeable = False
    return values


def check_wavelengths(wavelength: Any, what: str) -> np.ndarray:
    """Return float64 wavelengths in Angstrom, (n,) or (n_fibre, n), that increase along a row."""
    lam = np.array(strip_unit(wavelength, u.AA, "wavelength"), np.float64)
    if lam.ndim not in (1, 2) or lam.shape[-1] < 2:
        raise PogsonValueError(
            f"The wavelengths of {what} must have shape (n_pixel,) or (n_fibre, n_pixel) with at "
            f"least 2 pixels; got {lam.shape}."
        )
    if not np.all(np.isfinite(lam)) or lam.min() <= 0:
        raise PogsonValueError(
            f"The wavelengths of {what} must be finite and positive (Angstrom); "
            f"{int((~(lam > 0)).sum())} are not."
        )
    wrong = ~(np.diff(lam, axis=-1) > 0)
    if wrong.any():
        at = np.argwhere(wrong)[0]
        where = f"pixel {at[-1] + 1}" + (f" of fibre row {at[0]}" if lam.ndim == 2 else "")
        raise PogsonValueError(
            f"The wavelengths of {what} do not increase at {int(wrong.sum())} places, the first at "
            f"{where} ({lam[tuple(at)]:g} Angstrom). Sort the pixels and drop repeated values."
        )
    return lam


def per_pixel(
    values: Any,
    like: np.ndarray,
    what: str,
    *,
    default: Any = None,
    dtype: Any = np.float64,
) -> np.ndarray:
    """Return a fresh array of one value a pixel, or raise with both shapes."""
    if values is None:
        if default is None:
            raise PogsonValueError(f"{what} is missing; give one value for each pixel.")
        return np.full(like.shape, default, dtype)
    out = np.array(values, dtype)
    if out.shape != like.shape:
        raise PogsonValueError(
            f"{what} has shape {out.shape} but the pixels have shape {like.shape}; give one value "
            f"for each pixel."
        )
    return out


def fits_text(text: object) -> str:
    """Return a text as FITS can hold it: printable ASCII, Greek letters by name, others as '?'."""
    out = []
    for c in str(text):
        name = unicodedata.name(c, "")
        plain = unicodedata.normalize("NFKD", c).encode("ascii", "ignore").decode("ascii")
        if c.isascii():
            out.append(c if c.isprintable() else " ")
        elif name.startswith("GREEK") and " LETTER " in name:
            out.append(name.partition(" LETTER ")[2].split()[0].lower())
        else:
            out.append(plain or "?")
    return "".join(out)


def inverse(variance: np.ndarray) -> np.ndarray:
    """Return 1 / variance, and 0 where the variance is not positive and finite."""
    ok = np.isfinite(variance) & (variance > 0)
    return np.where(ok, 1.0 / np.where(ok, variance, 1.0), 0.0)
