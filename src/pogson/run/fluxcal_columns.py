"""Columns of a table of standard stars as plain arrays: masks, texts and units seen to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np

from pogson.errors import ConfigError, PogsonError, choices
from pogson.formats import read_catalog
from pogson.formats.spectra_targets import PLACE_COLUMNS

__all__ = ["as_numbers", "standards_columns"]

_NOTHING = ("", "-", "--", "---", "nan", "null", "none", "masked", "n/a")


def standards_columns(
    path: Path, columns: Mapping[str, str]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read the table of standards.

    Parameters
    ----------
    path : pathlib.Path
        The table.
    columns : mapping of str to str
        Names used here to those of the table.

    Returns
    -------
    table : dict of str to ndarray
        Columns by name. Masked numbers are NaN, masked texts empty; places in degrees.
    units : dict of str to unit or None
        What their units are.

    Raises
    ------
    ConfigError
        If there is no such table, it has no rows or lacks a column, or places are no angles.

    Examples
    --------
    >>> standards_columns(Path("none.ecsv"), {})
    Traceback (most recent call last):
    pogson.errors.ConfigError: There is no table of standards 'none.ecsv' (standards.table).
    """
    if not path.is_file():
        raise ConfigError(f"There is no table of standards {str(path)!r} (standards.table).")
    try:
        table = read_catalog(path)
    except PogsonError as error:
        raise ConfigError(f"standards.table: {error}") from None
    if len(table) == 0:
        raise ConfigError(f"The table of standards {path} has no rows: no valid standard star.")
    out = {name: _plain(table[name]) for name in table.colnames}
    units = {name: table[name].unit for name in table.colnames}
    system = table.meta.get("system", table.meta.get("SYSTEM"))
    if system is not None and "system" not in out:
        out["system"] = np.array([str(system)] * len(table))
    for ours, theirs in columns.items():
        if theirs not in out:
            raise ConfigError(
                f"standards.columns: {path} has no column {theirs!r} (for {ours!r}); it has "
                f"{choices(sorted(table.colnames))}."
            )
        out[ours], units[ours] = out[theirs], units[theirs]
    places = [name for name in out if name.lower() in PLACE_COLUMNS]
    return out | as_numbers(out, units, places, u.deg, path), units


def _plain(column: Any) -> np.ndarray:
    """Values without a mask: NaN or an empty text where it was."""
    data = np.asarray(column)
    mask = np.broadcast_to(getattr(column, "mask", False), data.shape)
    if not mask.any():
        return data
    if data.dtype.kind in "iuf":
        return np.where(mask, np.nan, data)
    if data.dtype.kind in "US":
        return np.where(mask, data.dtype.type(), data)
    return data


def as_numbers(
    table: Mapping[str, np.ndarray],
    units: Mapping[str, Any],
    names: Iterable[str],
    unit: Any,
    path: Path,
) -> dict[str, np.ndarray]:
    """Return columns as float64 in a unit.

    Parameters
    ----------
    table, units : mapping
        Columns, and the units they are in; a column without one is in ``unit``.
    names : iterable of str
        Columns wanted.
    unit : astropy unit
        Magnitudes or degrees.
    path : pathlib.Path
        For messages.

    Raises
    ------
    ConfigError
        If a value is no number or the unit is of another kind.

    Examples
    --------
    >>> table = {"g_err": np.array(["5", "--"])}
    >>> as_numbers(table, {"g_err": u.mmag}, ["g_err"], u.mag, Path("t.ecsv"))
    {'g_err': array([0.005,   nan])}
    """
    return {
        name: _numbers(table[name], name, path) * _factor(units.get(name), unit, name, path)
        for name in names
    }


def _numbers(values: np.ndarray, name: str, path: Path) -> np.ndarray:
    out = np.full(values.shape, np.nan)
    for i, value in enumerate(values.tolist()):
        text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
        if (isinstance(text, str) and text.strip().lower() in _NOTHING) or text is None:
            continue
        try:
            out[i] = float(text)
        except (TypeError, ValueError):
            raise ConfigError(
                f"{path}: column {name!r} has {text!r} in row {i + 1}, which is no number."
            ) from None
    return out


def _factor(own: Any, unit: Any, name: str, path: Path) -> float:
    if own is None or not str(own).strip():
        return 1.0
    if unit == u.mag and (hasattr(own, "physical_unit") or str(own).lower() in ("mag", "abmag")):
        return 1.0  # mag(AB) and the like; the system is said elsewhere
    try:
        return float(u.Unit(own).to(unit))
    except (u.UnitConversionError, ValueError, TypeError):
        raise ConfigError(
            f"{path}: column {name!r} is in {str(own)!r}; it must be in {unit.to_string()}."
        ) from None
