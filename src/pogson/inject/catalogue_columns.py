"""Columns of an injection catalogue: reading and checking them, row by row."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.calib import FluxReference
from pogson.errors import (
    MissingDataError,
    PogsonTypeError,
    PogsonValueError,
    ReferenceMismatchError,
    choices,
)
from pogson.inject.flags import InjectionFlag
from pogson.units import magnitude_to_flux, strip_unit

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["SERSIC_RANGE", "SOURCE_TYPES"]

SOURCE_TYPES = ("point", "sersic", "bulge_disc", "stamp", "trail", "galsim")
"""Source types that can be drawn."""

SERSIC_RANGE = (0.3, 6.2)
"""Sersic indices that can be drawn; outside, profiles are too peaked or too wide for a stamp."""

_LEAST_AXIS_RATIO = 0.05
_FLUX_COLUMN = re.compile(r"(flux|mag)(?:_(\w+))?")
_SHAPE_COLUMNS = {
    "sersic": ("sersic_index", "half_light_radius"),
    "bulge_disc": (
        "bulge_fraction",
        "bulge_half_light_radius",
        "disc_half_light_radius",
    ),
    "trail": ("rate_ra", "rate_dec"),
}
_DEFAULTS = {
    "axis_ratio": 1.0,
    "position_angle": 0.0,
    "bulge_sersic_index": 4.0,
    "bulge_axis_ratio": 1.0,
    "bulge_position_angle": 0.0,
    "disc_sersic_index": 1.0,
    "disc_axis_ratio": 1.0,
    "disc_position_angle": 0.0,
}
_NUMBER_COLUMNS = (
    "x", "y", "ra", "dec", "sersic_index", "half_light_radius", "bulge_fraction",
    "bulge_half_light_radius", "disc_half_light_radius", "rate_ra", "rate_dec", *_DEFAULTS,
)  # fmt: skip


def as_reference(value: Any) -> FluxReference | None:
    if value is None or isinstance(value, FluxReference):
        return value
    if isinstance(value, Mapping):
        return FluxReference.from_dict(dict(value))
    raise PogsonTypeError(
        f"reference={value!r} must be a FluxReference, as FluxReference.total() or "
        "FluxReference.aperture(12)."
    )


def flux_columns(
    table: Table, band: str | None, reference: FluxReference | None
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], dict[str, FluxReference]]:
    """Return fluxes in nJy with the bad rows, and the reference, of each band."""
    found: dict[str, tuple[str, str]] = {}
    for name in table.colnames:
        match = _FLUX_COLUMN.fullmatch(name)
        if not match or name.endswith("_err"):
            continue
        key = match[2] or band or ""
        if band is not None and key != band:
            continue
        if key in found:
            raise PogsonValueError(
                f"The columns {found[key][1]!r} and {name!r} both give the flux of one band; keep "
                "one of them."
            )
        found[key] = (match[1], name)
    if not found:
        what = "flux or mag" if band is None else f"flux_{band} or mag_{band}"
        raise MissingDataError(
            f"The catalogue has no column {what}; it has {choices(table.colnames)}."
        )
    values, references = {}, {}
    for key, (kind, name) in found.items():
        column = table[name]
        references[key] = _column_reference(column, name, reference)
        if kind == "flux":
            flux = strip_unit(column, "nJy", name)
            bad = ~np.isfinite(flux)
        else:
            magnitude = strip_unit(column, getattr(column, "unit", None) or "mag", name)
            with np.errstate(over="ignore"):
                flux = np.atleast_1d(np.asarray(magnitude_to_flux(column), np.float64))
            bad = ~(np.isfinite(magnitude) & (magnitude >= 0))
            flux[bad] = np.nan
        values[key] = (flux, bad)
    return values, references


def _column_reference(column: Any, name: str, reference: FluxReference | None) -> FluxReference:
    stated = as_reference((column.info.meta or {}).get("reference"))
    if stated is None and reference is None:
        raise ReferenceMismatchError(
            f"The column {name!r} holds bare numbers: nothing says whether they are total fluxes "
            "or fluxes in an aperture. Say it on the command line with --reference total, or "
            "--reference 'aperture 12 px'; in Python in the column, "
            f"table[{name!r}].info.meta = {{'reference': FluxReference.total().to_dict()}}; or in "
            "the call, InjectionCatalog.from_table(table, reference=FluxReference.aperture(12))."
        )
    if stated is not None and reference is not None and stated != reference:
        raise ReferenceMismatchError(
            f"The column {name!r} says that its reference is '{stated.label}', the call says "
            f"'{reference.label}'. Leave out reference=, or convert the fluxes first."
        )
    chosen = stated if stated is not None else reference
    assert chosen is not None
    return chosen


def read_positions(given: Table, out: Table) -> None:
    names = set(given.colnames)
    if not ({"ra", "dec"} <= names or {"x", "y"} <= names):
        raise MissingDataError(
            "The catalogue has no positions: give columns ra, dec in degrees, or x, y in pixels "
            f"(0-based). It has {choices(given.colnames)}; column names of other injectors are "
            "read with schema='lsst' or schema='legacy-radians' (--schema)."
        )
    for name, unit in (("x", "pixel"), ("y", "pixel"), ("ra", "deg"), ("dec", "deg")):
        if name in names:
            out[name] = strip_unit(given[name], unit, name)
        else:
            out[name] = np.full(len(given), np.nan)
        out[name].unit = unit


def read_source_types(given: Table, flags: np.ndarray) -> np.ndarray:
    if "source_type" not in given.colnames:
        return np.full(len(given), "point", dtype="U10")
    types = np.array([str(t).strip().lower() for t in given["source_type"]], dtype=str)
    flags[~np.isin(types, SOURCE_TYPES)] |= int(InjectionFlag.UNKNOWN_TYPE)
    return types if types.size else np.zeros(0, "U10")


def read_parameters(given: Table, out: Table) -> None:
    """Copy the shape parameters as float64 numbers, and the columns of objects as they are."""
    units = {"rate_ra": "arcsec / s", "rate_dec": "arcsec / s"}
    for name in _NUMBER_COLUMNS[4:]:
        if name in given.colnames:
            unit = units.get(name, "arcsec" if name.endswith("radius") else None)
            unit = "deg" if name.endswith("angle") else unit
            out[name] = strip_unit(given[name], unit or "", name)
            out[name].unit = unit
        elif name in _DEFAULTS and any(t in ("sersic", "bulge_disc") for t in out["source_type"]):
            out[name] = np.full(len(given), _DEFAULTS[name])
    for name in ("stamp", "stamp_reference", "galsim"):
        if name in given.colnames:
            column = np.empty(len(given), object)
            for k, value in enumerate(given[name]):
                column[k] = None if value is np.ma.masked else value
            out[name] = column


def id_text(value: Any) -> str:
    return str(value.decode() if isinstance(value, bytes) else value)


def read_ids(given: Table, out: Table, flags: np.ndarray) -> np.ndarray:
    if "id" in given.colnames:
        ids = np.array([id_text(v) for v in given["id"]], dtype=str)
    else:
        fluxes = [c for c in out.colnames if c.startswith("flux")]
        ids = np.array(
            [
                hashlib.sha256(
                    repr(
                        [float(row[n]) for n in ("x", "y", "ra", "dec", *fluxes)]
                        + [str(row["source_type"])]
                    ).encode()
                ).hexdigest()[:16]
                for row in out
            ],
            dtype=str,
        )
    if not ids.size:
        return np.zeros(0, "U16")
    flag_duplicates(ids, flags)
    return ids


def flag_duplicates(ids: np.ndarray, flags: np.ndarray) -> None:
    _, inverse, counts = np.unique(ids, return_inverse=True, return_counts=True)
    flags[counts[inverse] > 1] |= int(InjectionFlag.DUPLICATE_ID)


def flag_shapes(table: Table, flags: np.ndarray) -> None:
    """Flag rows whose type lacks a parameter or has one out of range."""
    types = np.asarray(table["source_type"])
    for kind, required in _SHAPE_COLUMNS.items():
        rows = types == kind
        if not rows.any():
            continue
        good = np.ones(len(table), bool)
        for name in required:
            good &= np.isfinite(table[name]) if name in table.colnames else False
        for name in table.colnames:
            if kind == "trail" or name not in _NUMBER_COLUMNS:
                continue
            if name.startswith(("bulge_", "disc_")) != (kind == "bulge_disc"):
                continue
            good &= _in_range(name, np.asarray(table[name], np.float64))
        flags[rows & ~good] |= int(InjectionFlag.BAD_SHAPE)
    for kind in ("stamp", "galsim"):
        rows = types == kind
        if kind not in table.colnames:
            flags[rows] |= int(InjectionFlag.BAD_STAMP)
        else:
            missing = np.array([v is None for v in table[kind]], bool)
            flags[rows & missing] |= int(InjectionFlag.BAD_STAMP)


def _in_range(name: str, values: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        if name.endswith("sersic_index"):
            return (values >= SERSIC_RANGE[0]) & (values <= SERSIC_RANGE[1])
        if name.endswith("half_light_radius"):
            return (values > 0) & (values < 1e4)
        if name.endswith("axis_ratio"):
            return (values >= _LEAST_AXIS_RATIO) & (values <= 1)
        if name == "bulge_fraction":
            return (values >= 0) & (values <= 1)
        if name.endswith("position_angle"):
            return np.isfinite(values)
    return np.ones(values.shape, bool)
