"""What photometry of stars is checked for: shapes, codes of missing values, mixed-up units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pogson.errors import PogsonValueError, UnitMismatchError, choices
from pogson.units import strip_unit


def star_column(values: Any, n: int, name: str, unit: str = "") -> np.ndarray:
    """Return n float64 numbers, NaN where masked or missing."""
    if values is None:
        return np.full(n, np.nan)
    array = np.atleast_1d(strip_unit(values, unit, name))
    if array.shape != (n,):
        raise PogsonValueError(
            f"{name} must have one value a star, shape ({n},); its shape is {array.shape}."
        )
    return array.astype(np.float64)


def band_table(values: Any, name: str, n_bands: int, unit: str | None) -> np.ndarray:
    """Return a copy of float64 numbers of shape (n_stars, n_bands)."""
    array = np.asarray(values, np.float64) if unit is None else strip_unit(values, unit, name)
    if array.ndim == 1 and array.size == n_bands:
        array = array[None, :]
    if array.ndim != 2 or array.shape[1] != n_bands:
        raise PogsonValueError(
            f"{name} must have shape (n_stars, {n_bands}), one column a band; it has {array.shape}."
        )
    return np.array(array, np.float64)


def checked_latitudes(values: Any, n: int) -> np.ndarray:
    """Return latitudes in degrees, NaN where they are none.

    Raises
    ------
    PogsonValueError
        If most of them are beyond the poles, as longitudes are.
    """
    b = star_column(values, n, "b", "deg")
    with np.errstate(invalid="ignore"):
        given = np.isfinite(b) & (b > -90.0 - 1e-9)  # -99, -999 ...: none
        wild = given & (b > 90.0 + 1e-9)
    if 2 * wild.sum() > given.sum():
        raise PogsonValueError(
            f"{int(wild.sum())} of {int(given.sum())} latitudes b exceed 90 degrees, the largest "
            f"is {float(b[wild].max()):.6g}: are l and b exchanged?"
        )
    return np.where(given & ~wild, b, np.nan)


def refuse_vega(ab: bool, bands: Sequence[str], systems: Mapping[str, str]) -> None:
    """Raise if fluxes that are AB meet bands whose grid magnitudes are Vega.

    Raises
    ------
    UnitMismatchError
        Naming the bands.
    """
    vega = [b for b in bands if systems.get(b) == "Vega"] if ab else []
    if vega:
        raise UnitMismatchError(
            f"The fluxes are in nJy and so AB, and the grid's magnitudes of {', '.join(vega)} are "
            "Vega. Give magnitudes, or fluxes in units of Vega's (maggies of magnitude 0), or "
            "leave these bands out."
        )


def sentinel_magnitudes(mag: np.ndarray, err: np.ndarray) -> np.ndarray:
    """Return where a magnitude or its error is one of the codes for "missing"."""
    with np.errstate(invalid="ignore"):
        no_value = ~np.isfinite(mag) | (mag == 0.0) | (mag <= -90.0) | (mag >= 90.0)
        no_error = ~np.isfinite(err) | (err >= 9.0) | (err <= -9.0)
    return no_value | no_error


def sentinel_fluxes(flux: np.ndarray, err: np.ndarray) -> np.ndarray:
    """Return where a flux or its error is one of the codes for "missing"."""
    codes = np.isin(flux, (-99.0, -999.0, -9999.0, -99999.0))
    with np.errstate(invalid="ignore"):
        bare = (flux == 0.0) & ~(err > 0.0)
        return ~np.isfinite(flux) | codes | bare | ~np.isfinite(err) | np.isin(err, (-99.0, -999.0))


def checked_parallaxes(
    parallax: Any, parallax_err: Any, n: int, unit: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return parallaxes and errors in mas, and where there are none."""
    import astropy.units as u

    try:
        factor = float(u.Unit(unit).to("mas"))
    except (ValueError, TypeError, u.UnitConversionError):
        raise UnitMismatchError(
            f"Unknown unit {unit!r} of parallaxes; give an angle such as 'mas' or 'arcsec'."
        ) from None
    bare = getattr(parallax_err, "unit", None) is None
    plx = star_column(parallax, n, "parallax", unit)
    err = star_column(parallax_err, n, "parallax_err", unit)
    with np.errstate(invalid="ignore"):
        gone = ~np.isfinite(plx) | ~np.isfinite(err) | (err <= -9.0) | (err >= 1e4)
        gone |= (plx <= -900.0) | ((plx == 0.0) & ~(err > 0.0))
        errors = err[~gone & (err > 0.0)] * factor
    if bare and errors.size and float(np.median(errors)) < 1e-3:
        raise PogsonValueError(
            f"The errors of the parallaxes have a median of {float(np.median(errors)):.2g} mas, "
            f"below what any survey reaches, taken to be in {unit!r}: these look like arcseconds. "
            "Pass parallax_unit='arcsec', or a Quantity if they are right."
        )
    return plx * factor, err * factor, gone


def refuse_fluxes(mag: np.ndarray, good: np.ndarray, bands: Sequence[str]) -> None:
    """Raise if the columns given as magnitudes hold fluxes."""
    for k, band in enumerate(bands):
        values = mag[good[:, k], k]
        codes = (values >= 90.0) & (values < 1e4) & (values == values.max(initial=0.0))
        values = values[~codes]  # 99, 99.99, 999 ...
        if values.size == 0:
            continue
        middle = float(np.median(values))
        if abs(middle) < 0.05 or middle > 45.0 or middle < -30.0:
            raise PogsonValueError(
                f"The magnitudes of band {band!r} have a median of {middle:.4g}: these look like "
                "fluxes. Magnitudes of stars lie between about -2 and 30; use "
                "StarPhotometry.from_fluxes(..., unit='maggie' or 'nJy') for fluxes (in a "
                "configuration: [catalog] kind = 'flux')."
            )


def refuse_magnitudes(
    flux: np.ndarray, err: np.ndarray, good: np.ndarray, bands: Sequence[str], unit: str
) -> None:
    """Raise if the columns given as fluxes hold magnitudes."""
    for k, band in enumerate(bands):
        values, errors = flux[good[:, k], k], err[good[:, k], k]
        if values.size == 0:
            continue
        low, high, middle = float(values.min()), float(values.max()), float(np.median(values))
        if unit == "maggie":
            wrong = low > 2.0 and high < 40.0
        else:  # a star measured to 10 % at 10 nJy would have magnitude 29
            wrong = low > 2.0 and high < 40.0 and float(np.median(errors)) < 1.0
        if wrong:
            raise PogsonValueError(
                f"The fluxes of band {band!r} lie between {low:.4g} and {high:.4g} {unit} (median "
                f"{middle:.4g}): these look like magnitudes. Use StarPhotometry.from_magnitudes "
                "for magnitudes (in a configuration: [catalog] kind = 'magnitude')."
            )
        _refuse_unit(band, middle, float(np.median(errors)), unit)


def _refuse_unit(band: str, middle: float, error: float, unit: str) -> None:
    """Raise if fluxes are beyond what stars have and surveys measure, so in the other unit."""
    too_bright = unit == "maggie" and middle > 1e3  # magnitude -7.5
    too_faint = unit == "nJy" and 0.0 < error < 1e-4  # one sigma of magnitude 41
    if too_bright or too_faint:
        said = f"median flux {middle:.4g}" if too_bright else f"median error {error:.4g}"
        other = "nJy" if too_bright else "maggie"
        raise PogsonValueError(
            f"The fluxes of band {band!r} have a {said} {unit}: these look like {other}. Say "
            f"unit={other!r}, or give a Quantity."
        )


def refuse_errors(
    bad: np.ndarray, err: np.ndarray, bands: Sequence[str], bad_errors: str
) -> np.ndarray:
    """Raise on zero and negative errors, or return the rows that have them."""
    if bad_errors not in ("raise", "mask"):
        raise PogsonValueError(
            f"bad_errors is {bad_errors!r}; allowed: {choices(['raise', 'mask'])}."
        )
    rows = bad.any(axis=1)
    if bad_errors == "raise" and rows.any():
        row = int(np.flatnonzero(rows)[0])
        k = int(np.flatnonzero(bad[row])[0])
        raise PogsonValueError(
            f"{int(bad.sum())} errors in {int(rows.sum())} rows are zero or negative, the first in "
            f"row {row}, band {bands[k]!r}: {err[row, k]:g}. Errors must be positive; pass "
            "bad_errors='mask' to leave those bands out and flag their stars."
        )
    return np.asarray(rows)
