"""The table archives in which the LSST pipelines keep objects inside FITS files.

An archive is an index table and one binary table per class: the index says, for each object id,
which rows of which tables describe it. Classes refer to each other by id. Nothing is executed:
the readers of `pogson.formats.lsst_fields` know a fixed list of class names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from pogson.errors import FileFormatError, PogsonError, choices
from pogson.formats.fits_access import open_fits

__all__ = ["ArchiveRow", "LsstArchive", "open_lsst_archive"]

_INDEX_COLUMNS = ("id", "cat.archive", "cat.persistable", "row0", "nrows", "name")


@dataclass(frozen=True, eq=False)
class ArchiveRow:
    """One row of an archive table, read by column name.

    Parameters
    ----------
    values : Mapping
        Column name to value (numbers, text or arrays).
    flags : Mapping
        Name of a flag to bool.
    source : str
        File and table, for messages.
    """

    values: Mapping[str, Any]
    flags: Mapping[str, bool]
    source: str

    def __contains__(self, name: object) -> bool:
        return name in self.values

    def _get(self, name: str) -> Any:
        try:
            return self.values[name]
        except KeyError:
            raise FileFormatError(
                f"{self.source} has no column {name!r}; it has {choices(self.values)}."
            ) from None

    def number(self, name: str) -> float:
        """Return a finite number.

        Raises
        ------
        FileFormatError
            If the column is missing or its value is not a finite number.
        """
        value = np.asarray(self._get(name))
        if value.size != 1 or value.dtype.kind not in "iuf":
            raise FileFormatError(f"{self.source}: {name} is {value!r}; one number is needed.")
        number = float(value.ravel()[0])
        if not np.isfinite(number):
            raise FileFormatError(f"{self.source}: {name} is {number}; it must be finite.")
        return number

    def integer(self, name: str) -> int:
        """Return a whole number; errors as `number`."""
        return int(self.number(name))

    def array(self, name: str) -> np.ndarray:
        """Return a one-dimensional float64 array; errors as `number`."""
        value = np.atleast_1d(np.asarray(self._get(name)))
        if value.ndim != 1 or value.dtype.kind not in "iuf":
            raise FileFormatError(f"{self.source}: {name} is not a list of numbers.")
        value = value.astype(np.float64)
        if not np.isfinite(value).all():
            raise FileFormatError(f"{self.source}: {name} has values that are not finite.")
        return value

    def text_bytes(self, name: str) -> str:
        """Return the ASCII text kept as a column of bytes; errors as `number`."""
        value = np.asarray(self._get(name))
        if value.dtype != np.uint8:
            raise FileFormatError(f"{self.source}: {name} is not a column of bytes.")
        try:
            return value.tobytes().decode("ascii")
        except UnicodeDecodeError:
            raise FileFormatError(f"{self.source}: {name} is not ASCII text.") from None


@dataclass(frozen=True, eq=False)
class _Entry:
    """One row of the index."""

    catalog: int
    persistable: int
    row0: int
    nrows: int
    name: str


class LsstArchive:
    """The objects of an LSST table archive, by id.

    Parameters
    ----------
    hdus : astropy.io.fits.HDUList
        Open file.
    path : path-like
        Its name, for messages.

    Raises
    ------
    FileFormatError
        If there is no archive in the file, or it is damaged.
    """

    def __init__(self, hdus: Any, path: Any) -> None:
        self.path = os.fspath(path)
        index = [h for h in hdus if h.header.get("EXTTYPE") == "ARCHIVE_INDEX"]
        if not index:
            raise FileFormatError(
                f"{self.path} has no LSST object archive (no extension with EXTTYPE "
                f"'ARCHIVE_INDEX')."
            )
        self._entries = _read_index(index[0], self.path)
        self._tables = {
            int(h.header.get("AR_CATN", -1)): h
            for h in hdus
            if h.header.get("EXTTYPE") == "ARCHIVE_DATA"
        }

    def ids(self, name: str | None = None) -> tuple[int, ...]:
        """Return ids in ascending order, all or those of one class."""
        return tuple(
            sorted(i for i, e in self._entries.items() if name is None or e[0].name == name)
        )

    def class_name(self, ident: int) -> str:
        """Return the class name of an object.

        Raises
        ------
        FileFormatError
            If there is no object of that id.
        """
        if ident not in self._entries:
            raise FileFormatError(
                f"{self.path}: no archived object has id {ident}; ids are {list(self.ids())}."
            )
        return self._entries[ident][0].name

    def rows(self, ident: int, part: int = 0) -> list[ArchiveRow]:
        """Return the rows that describe an object.

        Parameters
        ----------
        ident : int
            Object id.
        part : int, optional
            Which of the object's tables (most have one).

        Raises
        ------
        FileFormatError
            If the object or its table is not there or the rows are out of range.
        """
        name = self.class_name(ident)
        found = [e for e in self._entries[ident] if e.persistable == part]
        if not found:
            raise FileFormatError(f"{self.path}: object {ident} ({name}) has no part {part}.")
        entry = found[0]
        hdu = self._tables.get(entry.catalog)
        if hdu is None:
            raise FileFormatError(
                f"{self.path}: the table {entry.catalog} of object {ident} ({name}) is missing."
            )
        data = hdu.data
        count = 0 if data is None else len(data)
        if entry.row0 < 0 or entry.nrows < 0 or entry.row0 + entry.nrows > count:
            raise FileFormatError(
                f"{self.path}: object {ident} ({name}) is said to be in rows {entry.row0} to "
                f"{entry.row0 + entry.nrows} of a table of {count} rows."
            )
        source = f"{self.path}, {name} {ident}"
        return [_row(hdu, i, source) for i in range(entry.row0, entry.row0 + entry.nrows)]

    def row(self, ident: int) -> ArchiveRow:
        """Return the only row of an object.

        Raises
        ------
        FileFormatError
            As `rows`, and if the object has not exactly one row.
        """
        rows = self.rows(ident)
        if len(rows) != 1:
            raise FileFormatError(
                f"{self.path}: object {ident} ({self.class_name(ident)}) has {len(rows)} rows; "
                f"one is needed."
            )
        return rows[0]

    def find(self, name: str, ident: int | None = None) -> int:
        """Return the id of an object of a class.

        Parameters
        ----------
        name : str
            Class name.
        ident : int, optional
            Id wanted; needed where several objects are of that class.

        Raises
        ------
        FileFormatError
            If there is none, or several and no id is given, or the id is of another class.
        """
        if ident is not None:
            if self.class_name(ident) != name:
                raise FileFormatError(
                    f"{self.path}: object {ident} is a {self.class_name(ident)}, not a {name}."
                )
            return ident
        ids = self.ids(name)
        if len(ids) == 1:
            return ids[0]
        classes = sorted({e[0].name for e in self._entries.values()})
        if not ids:
            raise FileFormatError(f"{self.path} holds no {name}; it holds {choices(classes)}.")
        raise FileFormatError(
            f"{self.path} holds {len(ids)} objects of class {name}; pass ident= with one of "
            f"{list(ids)}."
        )


def _read_index(hdu: Any, path: str) -> dict[int, list[_Entry]]:
    names = () if hdu.data is None else tuple(hdu.columns.names)
    missing = [c for c in _INDEX_COLUMNS if c not in names]
    if missing:
        raise FileFormatError(f"{path}: the archive index lacks the column {missing[0]!r}.")
    entries: dict[int, list[_Entry]] = {}
    for record in hdu.data:
        ident, catalog, persistable, row0, nrows = (int(record[c]) for c in _INDEX_COLUMNS[:5])
        entry = _Entry(catalog, persistable, row0, nrows, str(record["name"]).strip())
        entries.setdefault(ident, []).append(entry)
    return entries


def flag_names(header: Any) -> dict[int, str]:
    """Return the names of the bits of an LSST table's flag column, by position from 0."""
    names = {}
    for key in header:
        text = str(key)
        if text.startswith("TFLAG") and text[5:].isdigit():
            names[int(text[5:]) - 1] = str(header[key]).strip()
    return names


def _row(hdu: Any, i: int, source: str) -> ArchiveRow:
    record = hdu.data[i]
    values: dict[str, Any] = {}
    flags: dict[str, bool] = {}
    for name in hdu.columns.names:
        value = record[name]
        if name == "flags":
            bits = np.atleast_1d(np.asarray(value))
            flags = {
                flag: bool(bits[k]) for k, flag in flag_names(hdu.header).items() if k < bits.size
            }
        else:
            values[name] = value
    return ArchiveRow(values, flags, source)


@contextmanager
def open_lsst_archive(path: str | os.PathLike[str]) -> Iterator[LsstArchive]:
    """Open a file and its LSST object archive.

    Parameters
    ----------
    path : path-like
        FITS file.

    Yields
    ------
    LsstArchive

    Raises
    ------
    FileFormatError
        If the file cannot be read or has no archive; every error inside the ``with`` block that is
        a `PogsonError` gets the file's name.
    """
    with open_fits(path) as hdus:
        archive = LsstArchive(hdus, path)
        try:
            yield archive
        except FileFormatError:
            raise
        except PogsonError as error:
            raise FileFormatError(f"{os.fspath(path)}: {error}") from error
