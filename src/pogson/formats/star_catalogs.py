"""Catalogues of stars for model fitting: any table, with a map of its columns to bands.

FITS, CSV, ECSV, Parquet, VOTable and HDF5. Codes for "not measured" (NaN, 0, -999, -9999, 99,
errors of 9.995 or infinity) are recognised and counted by band.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import (
    FileFormatError,
    MissingDataError,
    PogsonValueError,
    PogsonWarning,
    choices,
)
from pogson.formats.catalogs import read_catalog
from pogson.formats.star_chunks import read_columns
from pogson.formats.star_columns import MAS, StarColumns, listed

if TYPE_CHECKING:
    from astropy.table import Table

    from pogson.stars import StarPhotometry

__all__ = ["StarCatalog", "StarColumns", "read_star_catalog", "read_star_table"]

_HDF5 = (".h5", ".hdf5", ".hdf")
_CSV = (".csv", ".csv.gz", ".tsv")
LARGE_FILE = 500_000_000
"""Bytes of a file that is read whole beyond which its reader warns."""
_LARGEST_PARALLAX_ERROR = 1000.0  # mas; larger ones are a way to say that there is none


@dataclass(frozen=True, eq=False)
class StarCatalog:
    """Photometry of stars as read, and what was found in the file.

    Parameters
    ----------
    photometry : StarPhotometry
        The stars, in the order of the file; none are dropped.
    columns : StarColumns
        Where it came from.
    missing : mapping of str to mapping
        By band: code of a missing value -> number of stars.
    notes : tuple of str
        What a reader of the result should know.
    source : str
        Name of the file.
    """

    photometry: StarPhotometry
    columns: StarColumns
    missing: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    source: str = ""


def read_star_table(path: str | os.PathLike[str], *, table: str | int | None = None) -> Table:
    r"""Read any table of stars.

    Parameters
    ----------
    path : path-like
        FITS, CSV, ECSV, Parquet, VOTable or HDF5 file.
    table : str or int, optional
        Extension of a FITS file, or dataset of an HDF5 file such as ``photometry/pixel 0-0``;
        needed where there are several.

    Returns
    -------
    astropy.table.Table

    Raises
    ------
    FileFormatError
        If there is no such file, no such table, or it cannot be read.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "stars.csv"
    >>> _ = path.write_text("g,g_err\n15.0,0.1\n")
    >>> len(read_star_table(path))
    1
    """
    file = Path(path)
    name = file.name.lower()
    if not file.is_file():
        raise FileFormatError(f"There is no catalogue {str(file)!r}.")
    if name.endswith(_HDF5):
        return _read_hdf5(file, table)
    if name.endswith(_CSV):
        return _read_text(file)
    return read_catalog(file, hdu=table)


def _read_text(path: Path) -> Table:
    from astropy.table import Table

    try:
        layout = "ascii.tab" if path.suffix == ".tsv" else "ascii.csv"
        return Table.read(path, format=layout)
    except Exception as error:  # astropy.io.ascii raises many kinds
        raise FileFormatError(f"Cannot read {path} as a table: {error}.") from error


def _read_hdf5(path: Path, name: str | int | None) -> Table:
    import h5py
    from astropy.table import Table

    try:
        with h5py.File(path, "r") as file:
            found: list[str] = []

            def look(key: str, item: Any) -> None:
                if isinstance(item, h5py.Dataset) and item.dtype.names:
                    found.append(key)

            file.visititems(look)
            if name is None and len(found) == 1:
                name = found[0]
            if name not in found:
                said = "" if name is None else f", and {name!r} is not one of them"
                raise FileFormatError(
                    f"{path} has the tables {choices(found) if found else '(none)'}{said}; "
                    "name one with 'table'."
                )
            return Table(file[name][:])
    except OSError as error:
        if isinstance(error, FileFormatError):
            raise
        raise FileFormatError(f"Cannot open {path} as HDF5: {error}.") from error


def read_star_catalog(
    path: str | os.PathLike[str],
    available: Sequence[str],
    *,
    table: str | int | None = None,
    rows: slice | None = None,
    select: Mapping[str, tuple[float, float]] | None = None,
    bad_errors: str = "mask",
    **columns: Any,
) -> StarCatalog:
    r"""Read the photometry of stars from a file.

    Parameters
    ----------
    path : path-like
        See `read_star_table`.
    available : sequence of str
        Bands of the grid, looked for among the columns where ``bands=`` does not name them.
    table : str or int, optional
        See `read_star_table`.
    rows : slice, optional
        Only these rows.
    select : mapping of str to (float, float), optional
        Only rows whose values in these columns lie within the limits; others are counted in the
        notes.
    bad_errors : {'mask', 'raise'}
        What to do about measurements with zero or negative errors: leave them out and flag the
        star, or raise.
    **columns
        Parameters of `StarColumns`; those not given are guessed.

    Returns
    -------
    StarCatalog

    Raises
    ------
    FileFormatError, MissingDataError
        If file or columns are not there.
    PogsonValueError
        If magnitudes look like fluxes or the reverse, or no star has any photometry.

    Notes
    -----
    FITS, Parquet and HDF5 are read in row ranges and only the columns that matter. Text, VOTable
    and compressed files are read whole, with a warning beyond 500 MB.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "stars.csv"
    >>> _ = path.write_text("PS_g,PS_g_Err,l,b\n15.0,0.1,10,45\n-999,inf,11,45\n")
    >>> catalog = read_star_catalog(path, ["PS_g", "PS_r"])
    >>> catalog.photometry
    StarPhotometry(2 stars, 1 bands: PS_g, 1 measurements, 0 parallaxes)
    >>> catalog.missing["PS_g"]
    {'-999': 1}
    """
    stars = _needed(path, available, table, rows, [*(select or {})], columns)
    if len(stars) == 0:
        raise FileFormatError(f"{os.fspath(path)} has no rows" + (" there." if rows else "."))
    stars, notes = _selected(stars, select or {})
    chosen = StarColumns.guess(stars, list(available), **columns)
    unknown = [b for b in chosen.bands if b not in available]
    if unknown:
        from pogson.stars.grid import missing_name

        raise missing_name(unknown[0], available, "filter", "The grid")
    return _photometry(stars, chosen, bad_errors, Path(path).name, notes)


def _needed(
    path: str | os.PathLike[str],
    available: Sequence[str],
    table: str | int | None,
    rows: slice | None,
    select: Sequence[str],
    columns: Mapping[str, Any],
) -> Table:
    """Read a catalogue: by row ranges and only the columns that matter, where its kind allows."""

    def wanted(first: Table) -> list[str]:
        chosen = StarColumns.guess(first, list(available), **columns)
        names = [n for pair in chosen.bands.values() for n in pair]
        for pair in (chosen.parallax, chosen.position, chosen.extinction):
            names += [] if pair is None else pair
        names += [*select, *([] if chosen.id is None else [chosen.id])]
        whole = [re.sub(r"\[\d+\]$", "", n) for n in names]
        there = set(first.colnames)
        if all({n, w} & there for n, w in zip(names, whole, strict=True)):
            return [*names, *whole]
        return list(first.colnames)  # for the error about the missing one to list

    stars = read_columns(path, wanted, table=table, rows=rows)
    if stars is None:
        _say_large(Path(path))
        stars = read_star_table(path, table=table)
        return stars if rows is None else stars[rows]
    return stars


def _say_large(path: Path) -> None:
    """Warn of a large file of a kind that is only read whole."""
    size = path.stat().st_size if path.is_file() else 0
    if size > LARGE_FILE:
        warnings.warn(
            f"{path} ({size / 1e9:.2g} GB) is read whole, as all text, VOTable and compressed "
            "files: that takes several times its size in memory. As FITS, Parquet or HDF5 it "
            "would be read in row ranges.",
            PogsonWarning,
            stacklevel=3,
        )


def _selected(table: Table, select: Mapping[str, tuple[float, float]]) -> tuple[Table, list[str]]:
    """Return the rows within limits, and a sentence for each limit."""
    notes = []
    keep = np.ones(len(table), bool)
    for name, (low, high) in select.items():
        with np.errstate(invalid="ignore"):
            values = _values(table, name, "")
            inside = (values >= low) & (values <= high)
        out = int((keep & ~inside).sum())
        notes.append(f"{out} rows with {name} not within {low:g} to {high:g} are left out.")
        keep &= inside
    if not keep.any():
        raise PogsonValueError(
            f"No row of {len(table)} lies within the limits of "
            f"{', '.join(f'{k} {v[0]:g} to {v[1]:g}' for k, v in select.items())}."
        )
    return (table if keep.all() else table[keep]), notes


def _photometry(
    table: Table, columns: StarColumns, bad_errors: str, source: str, notes: list[str]
) -> StarCatalog:
    from pogson.stars import StarPhotometry

    names = list(columns.bands)
    pairs = [columns.bands[b] for b in names]
    numbers = columns.kind == "flux"
    value, error = (
        np.column_stack([_values(table, p[k], columns.unit if numbers else "") for p in pairs])
        for k in (0, 1)
    )
    common: dict[str, Any] = {"bands": names, "bad_errors": bad_errors}
    common |= _parallaxes(table, columns, notes)
    common |= _places(table, columns)
    common["ids"] = _identifiers(table, columns, notes)
    missing = {
        b: _codes(value[:, k], error[:, k], columns.kind) for k, b in enumerate(names)
    }  # fmt: skip
    if columns.kind == "magnitude":
        photometry = StarPhotometry.from_magnitudes(value, error, **common)
    else:
        photometry = StarPhotometry.from_fluxes(value, error, unit=columns.unit, **common)
        if any(getattr(_column(table, n), "unit", None) for p in pairs for n in p):
            photometry = replace(photometry, ab=True)  # a physical unit
    if columns.extinction is not None:
        photometry = _with_extinctions(photometry, table, columns, notes)
    if not photometry.observed.any():
        raise PogsonValueError(
            f"No star of {source} has a usable measurement in {', '.join(names)}: all are missing "
            "values or have no positive error."
        )
    return StarCatalog(photometry, columns, missing, tuple(notes), source)


def _column(table: Table, name: str) -> Any:
    """Return a column, or an element of a column of vectors."""
    if name in table.colnames:
        column = table[name]
        if column.ndim > 1:
            raise PogsonValueError(
                f"The column {name!r} has {column.shape[1]} values a star; write {name}[0] to "
                f"{name}[{column.shape[1] - 1}] for one of them."
            )
        return column
    match = re.fullmatch(r"(.+)\[(\d+)\]", name)
    if match and match[1] in table.colnames:
        column, k = table[match[1]], int(match[2])
        if column.ndim == 2 and k < column.shape[1]:
            return column[:, k]
        raise PogsonValueError(f"The column {match[1]!r} has shape {column.shape}; no element {k}.")
    raise MissingDataError(
        f"The catalogue has no column {name!r}; it has {listed(table.colnames)}."
    )


def _values(table: Table, name: str, unit: str) -> np.ndarray:
    """Return numbers; a unit of the column itself is converted where one is wanted."""
    from pogson.stars import NJY_PER_MAGGIE
    from pogson.units import strip_unit

    column = _column(table, name)
    own = getattr(column, "unit", None)
    if own is not None and unit:
        values = strip_unit(column, "nJy", name)
        return np.asarray(values if unit == "nJy" else values / NJY_PER_MAGGIE, np.float64)
    try:
        filled = np.ma.filled(np.ma.asarray(column).astype(np.float64), np.nan)
    except (TypeError, ValueError):
        raise PogsonValueError(f"The column {name!r} does not hold numbers.") from None
    return np.asarray(filled, np.float64)


def _parallaxes(table: Table, columns: StarColumns, notes: list[str]) -> dict[str, Any]:
    if columns.parallax is None:
        return {}
    out = []
    for name in columns.parallax:
        own = getattr(_column(table, name), "unit", None)
        factor = MAS[columns.parallax_unit] if own is None else float(own.to("mas"))
        out.append(_values(table, name, "") * factor)
    value, error = out
    with np.errstate(invalid="ignore"):
        none = error >= _LARGEST_PARALLAX_ERROR
        value = np.where(none, np.nan, value - columns.parallax_zero_point)
        # codes such as -999 stay what they are
        real = error > 0.0
        error = np.where(
            none, np.nan, np.where(real, np.hypot(error, columns.parallax_floor), error)
        )
        wild = np.isfinite(value) & real & (value > 1000.0)
    if none.any():
        notes.append(f"{int(none.sum())} parallaxes with errors of an arcsecond or more: left out.")
    good = np.isfinite(value) & np.isfinite(error) & (error > 0)
    if wild.any():
        raise PogsonValueError(
            f"{int(wild.sum())} parallaxes exceed 1000 mas ({columns.parallax[0]}): is "
            f"parallax_unit = {columns.parallax_unit!r} right?"
        )
    if good.any() and columns.parallax_unit == "mas" and np.median(error[good]) < 2e-3:
        raise PogsonValueError(
            f"The errors of the parallaxes have a median of {np.median(error[good]):.2g} mas, "
            "which no survey reaches: are they in arcsec? Then set parallax_unit = 'arcsec'."
        )
    return {"parallax": value, "parallax_err": error}


def _places(table: Table, columns: StarColumns) -> dict[str, Any]:
    if columns.position is None:
        return {}
    lon, lat = (_values(table, name, "") for name in columns.position)
    if columns.frame == "galactic":
        return {"l": lon, "b": lat}
    from astropy import units as u
    from astropy.coordinates import SkyCoord

    good = np.isfinite(lon) & np.isfinite(lat) & (np.abs(lat) <= 90.0)
    sky = SkyCoord(np.where(good, lon, 0.0) * u.deg, np.where(good, lat, 0.0) * u.deg).galactic
    return {"l": np.where(good, sky.l.deg, np.nan), "b": np.where(good, sky.b.deg, np.nan)}


def _with_extinctions(
    photometry: StarPhotometry, table: Table, columns: StarColumns, notes: list[str]
) -> StarPhotometry:
    """Add what the catalogue says of each star's extinction, as A_V."""
    assert columns.extinction is not None
    name, scale = columns.extinction[0], columns.extinction_scale
    mean = _values(table, name, "")
    sd = np.zeros(len(table))
    if len(columns.extinction) == 2:
        sd = _values(table, columns.extinction[1], "")
    with np.errstate(invalid="ignore"):
        none = (mean <= -90.0) | (sd < 0.0)
    sd = np.where(none, np.nan, np.hypot(sd * scale, columns.extinction_floor))
    out = photometry.with_extinctions(np.where(none, np.nan, mean * scale), sd)
    known = int(np.isfinite(out.av_mean).sum())
    if known == 0:
        raise PogsonValueError(
            f"No star has an extinction in {' and '.join(columns.extinction)}: all are missing."
        )
    if known < len(out):
        notes.append(
            f"{len(out) - known} stars have no extinction in {name!r}: they get the prior of all."
        )
    return out


def _identifiers(table: Table, columns: StarColumns, notes: list[str]) -> np.ndarray:
    """Return identifiers that are all different: those of the file, else row numbers."""
    rows = np.arange(len(table))
    if columns.id is None:
        return rows
    column = _column(table, columns.id)
    ids = np.asarray(np.ma.filled(column, 0 if column.dtype.kind in "iu" else ""))
    if ids.dtype.kind == "S":
        ids = np.char.decode(ids, "utf-8", "replace")
    if ids.dtype.kind in "fO":
        ids = ids.astype(str)
    n = len(np.unique(ids))
    if n < len(ids):
        notes.append(
            f"The column {columns.id!r} has {n} different values for {len(ids)} stars; row numbers "
            "are used as identifiers."
        )
        return rows
    return ids


def _codes(value: np.ndarray, error: np.ndarray, kind: str) -> dict[str, int]:
    """Return how many measurements are missing, by what says so; the first that applies counts."""
    taken = np.zeros(value.shape, bool)
    out: dict[str, int] = {}

    def count(label: str, mask: np.ndarray) -> None:
        here = mask & ~taken
        if here.any():
            out[label] = int(here.sum())
            taken[here] = True

    with np.errstate(invalid="ignore"):
        for code in (-99.0, -999.0, -9999.0, -99999.0, 99.0, 999.0):
            if code < 0.0 or kind == "magnitude":
                count(f"{code:g}", value == code)
        count("NaN", ~np.isfinite(value))
        count("0", (value == 0.0) & ((kind == "magnitude") | ~(error > 0.0)))
        if kind == "magnitude":
            count("beyond 90 mag", np.abs(value) >= 90.0)
            count("error 9.995", np.abs(error - 9.995) < 0.01)
            count("error beyond 9 mag", np.isfinite(error) & (error >= 9.0))
        for code in (-99.0, -999.0, -9999.0):
            count(f"error {code:g}", error == code)
        count("error infinite or NaN", ~np.isfinite(error))
        count("error zero or negative", error <= 0.0)
    return out
