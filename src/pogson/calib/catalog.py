"""Calibrated columns of a catalogue, with what they mean attached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import astropy.units as u
import numpy as np

from pogson.calib.photo_calib import PhotoCalib
from pogson.calib.reference import FluxReference, require_same
from pogson.errors import (
    MeasureError,
    MissingDataError,
    PogsonValueError,
    ReferenceMismatchError,
    UnitMismatchError,
)
from pogson.units import Measure, flux_to_asinh_magnitude, flux_to_magnitude, strip_unit

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["calibrate_catalog"]


def calibrate_catalog(
    calib: PhotoCalib,
    table: Table,
    *,
    columns: Sequence[str] | None = None,
    x: str = "x",
    y: str = "y",
    extrapolate: bool = False,
    overwrite: bool = False,
    asinh_softening: Any = None,
) -> Table:
    """Add nJy and magnitude columns to a catalogue.

    For a flux column ``flux_NAME`` (errors in ``flux_NAME_err``, if there) the copy returned has
    ``njy_NAME``, ``njy_NAME_err``, ``mag_NAME`` and ``mag_NAME_err`` besides. Each new column's
    ``info.meta`` says reference, measure, bandpass and fiducial SED. Errors are the sources' own;
    the calibration's is shared and stays in its covariance.

    Parameters
    ----------
    calib : PhotoCalib
        Calibration.
    table : astropy.table.Table
        Catalogue. A flux column says what it is in ``info.meta``: ``"reference"`` (the dict of
        `FluxReference.to_dict`) and, if known, ``"measure"``; and has an instrumental unit.
    columns : sequence of str, optional
        Flux columns to calibrate. By default every instrumental flux column whose reference is
        that of the calibration.
    x, y : str
        Columns of pixel positions (0-based, pixel centres on integers).
    extrapolate : bool
        Allow positions outside the calibration's box.
    overwrite : bool
        Replace columns that are there already.
    asinh_softening : float or Quantity, optional
        Flux in nJy at which asinh magnitudes turn linear. With it there are also columns
        ``asinh_mag_NAME`` and ``asinh_mag_NAME_err``, finite for negative fluxes; their
        ``info.meta["asinh_softening_njy"]`` and description state the softening.

    Returns
    -------
    table : astropy.table.Table
        A copy with the new columns; every row kept, NaN where the flux or position is NaN.

    Raises
    ------
    ReferenceMismatchError
        If a column named has another reference than the calibration (both are named), or no
        column has the calibration's reference.
    MeasureError
        If a column was measured on the other kind of image.
    MissingDataError
        If a column is not there or does not say its reference.

    Examples
    --------
    >>> from astropy.table import Table
    >>> table = Table({"flux_psf": [100.0, 200.0]}, units={"flux_psf": "adu"})
    >>> table["flux_psf"].info.meta = {"reference": FluxReference.psf().to_dict()}
    >>> calib = PhotoCalib.constant(2.0, reference=FluxReference.psf())
    >>> calibrate_catalog(calib, table)["njy_psf"]
    <Column name='njy_psf' dtype='float64' unit='nJy' description='AB flux density: psf' length=2>
    200.0
    400.0
    """
    chosen = _flux_columns(calib, table, columns)
    where: dict[str, Any] = {}
    if not calib.is_constant or {x, y} <= set(table.colnames):
        missing = [name for name in (x, y) if name not in table.colnames]
        if missing:
            raise MissingDataError(
                f"The calibration varies over the image, but the catalogue has no position column "
                f"{missing[0]!r}; name the columns with x= and y=."
            )
        where = {"x": _values(table, x), "y": _values(table, y), "extrapolate": extrapolate}
    out = table.copy()
    for name in chosen:
        _add(out, calib, name, where, overwrite, asinh_softening)
    return out


def _flux_columns(calib: PhotoCalib, table: Table, columns: Sequence[str] | None) -> list[str]:
    """Return the columns to calibrate, each checked."""
    if columns is not None:
        for name in columns:
            reference = _reference(table, name)
            if reference is None:
                raise MissingDataError(
                    f"Column {name!r} does not say what its fluxes count: set "
                    f"table[{name!r}].info.meta = {{'reference': FluxReference....to_dict()}}."
                )
            require_same(reference, calib.reference, f"Column {name!r} and the calibration")
            _check_column(calib, table, name)
        return list(columns)
    found = {
        name: reference
        for name in table.colnames
        if not name.endswith("_err")
        and (reference := _reference(table, name)) is not None
        and _is_instrumental(calib, table, name)
    }
    chosen = [name for name, reference in found.items() if reference.matches(calib.reference)]
    if not chosen:
        listed = "; ".join(f"{name!r} is '{r.label}'" for name, r in found.items()) or "none at all"
        raise ReferenceMismatchError(
            f"No instrumental flux column (in '{calib.instrument_unit}') has the calibration's "
            f"reference '{calib.reference.label}'. Flux columns with a reference: {listed}."
        )
    for name in chosen:
        _check_column(calib, table, name)
    return chosen


def _meta(table: Table, name: str) -> dict[str, Any]:
    if name not in table.colnames:
        raise MissingDataError(
            f"The catalogue has no column {name!r}; it has {', '.join(table.colnames)}."
        )
    return dict(table[name].info.meta or {})


def _reference(table: Table, name: str) -> FluxReference | None:
    data = _meta(table, name).get("reference")
    return None if data is None else FluxReference.from_dict(data)


def _is_instrumental(calib: PhotoCalib, table: Table, name: str) -> bool:
    unit = table[name].unit
    return unit is not None and unit.is_equivalent(calib.instrument_unit)


def _check_column(calib: PhotoCalib, table: Table, name: str) -> None:
    measure = _meta(table, name).get("measure")
    if measure is not None and Measure.parse(measure) is not calib.measure:
        raise MeasureError(
            f"Column {name!r} was measured on {measure!r}, but the calibration applies to "
            f"{calib.measure.value!r}."
        )
    if not _is_instrumental(calib, table, name):
        raise UnitMismatchError(
            f"Column {name!r} has unit '{table[name].unit}', but the calibration applies to "
            f"'{calib.instrument_unit}'."
        )


def _values(table: Table, name: str, unit: u.UnitBase | None = None) -> np.ndarray:
    """Return a column as float64 in a unit, NaN where it is masked."""
    column = table[name]
    values = np.ma.filled(np.ma.asarray(np.asanyarray(column), np.float64), np.nan)
    if unit is not None and column.unit is not None and column.unit != unit:
        values = (np.asarray(values) * column.unit).to_value(unit)
    return np.asarray(values)


def _add(
    table: Table,
    calib: PhotoCalib,
    name: str,
    where: dict[str, Any],
    overwrite: bool,
    softening: Any = None,
) -> None:
    """Add the calibrated columns of one flux column."""
    stem = name.removeprefix("flux_")
    unit = calib.instrument_unit
    has_err = f"{name}_err" in table.colnames
    inst = _values(table, name, unit)
    if has_err:
        flux, flux_err = calib.flux(inst, _values(table, f"{name}_err", unit), **where)
        mag, mag_err = flux_to_magnitude(flux, flux_err)
    else:
        flux, flux_err = calib.flux(inst, **where), None
        mag, mag_err = flux_to_magnitude(flux), None
    new = {
        f"njy_{stem}": (flux, u.nJy),
        f"njy_{stem}_err": (flux_err, u.nJy),
        f"mag_{stem}": (mag, u.ABmag),
        f"mag_{stem}_err": (mag_err, u.mag),
    }
    if softening is not None:
        asinh = flux_to_asinh_magnitude(flux, flux_err, softening=softening)
        values = (asinh, None) if flux_err is None else asinh
        new[f"asinh_mag_{stem}"], new[f"asinh_mag_{stem}_err"] = ((v, u.mag) for v in values)
    meta = {
        "reference": calib.reference.to_dict(),
        "measure": calib.measure.value,
        "bandpass": calib.bandpass,
        "sed": calib.sed,
        "calibrated_from": name,
    }
    for key, (values, column_unit) in new.items():
        if values is None:
            continue
        if key in table.colnames and not overwrite:
            raise PogsonValueError(
                f"The catalogue has a column {key!r} already; pass overwrite=True to replace it."
            )
        table[key] = values
        table[key].unit = column_unit
        table[key].info.meta = dict(meta)
        what = "AB flux density" if key.startswith("njy_") else "AB magnitude"
        if key.startswith("asinh_"):
            soft = strip_unit(softening, u.nJy, "asinh_softening")
            table[key].info.meta["asinh_softening_njy"] = float(soft)
            what = f"AB asinh magnitude with softening {float(soft):g} nJy"
        error = "standard error of the " if key.endswith("_err") else ""
        table[key].description = f"{error}{what}: {calib.reference.label}"
