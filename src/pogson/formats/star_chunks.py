"""Tables of stars read in row ranges and few columns, so that long catalogues fit in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pogson.errors import FileFormatError
from pogson.formats.fits_access import reading

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["CHUNK_BYTES", "read_columns"]

CHUNK_BYTES = 16_000_000
"""Bytes of a file that are decoded at once."""
_HDF5 = (".h5", ".hdf5", ".hdf")
_FITS = (".fits", ".fit", ".fits.fz")

Wanted = Callable[["Table"], Sequence[str]]


def read_columns(
    path: str | os.PathLike[str],
    wanted: Wanted,
    *,
    table: str | int | None = None,
    rows: slice | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> Table | None:
    """Read some columns of a FITS, Parquet or HDF5 table without holding the others.

    Parameters
    ----------
    path : path-like
        The file.
    wanted : callable
        ``wanted(first_rows)`` returns the names of the columns to keep.
    table : str or int, optional
        Extension of a FITS file, or dataset of an HDF5 file.
    rows : slice, optional
        Only these rows (step 1); others are not read.
    chunk_bytes : int, optional
        Bytes of the file decoded at once.

    Returns
    -------
    astropy.table.Table or None
        None if the file is of a kind that is only read whole: text, VOTable, compressed FITS, files
        of `pogson.formats.write_catalog` (whose metadata belong to the whole), HDF5 with several
        tables and no name.

    Raises
    ------
    FileFormatError
        If the file is damaged.

    Examples
    --------
    >>> import tempfile
    >>> from astropy.table import Table
    >>> path = tempfile.mkdtemp() + "/stars.fits"
    >>> Table({"g": [15.0, 16.0, 17.0], "other": [0, 0, 0]}).write(path)
    >>> read_columns(path, lambda t: ["g"], rows=slice(1, 3))["g"].tolist()
    [16.0, 17.0]
    """
    from astropy.table import vstack

    from pogson.formats.catalogs import plain_columns

    file = Path(path)
    chunks = _chunks(file, table, rows, chunk_bytes)
    if chunks is None:
        return None
    kept: list[Table] = []
    with reading(file, "a table"):
        names: list[str] | None = None
        for part in chunks:
            if part is None:
                return None
            if names is None:
                names = [n for n in dict.fromkeys(wanted(part)) if n in part.colnames]
            kept.append(plain_columns(part[names] if names else part))
    if not kept:
        return None
    return kept[0] if len(kept) == 1 else vstack(kept, metadata_conflicts="silent")


def _chunks(
    file: Path, table: str | int | None, rows: slice | None, chunk_bytes: int
) -> Iterator[Table | None] | None:
    """Return the reader for a kind of file, None if there is none."""
    name = file.name.lower()
    if not file.is_file() or (rows is not None and rows.step not in (None, 1)):
        return None
    if name.endswith(".parquet"):
        return _parquet(file, rows, chunk_bytes)
    if name.endswith(_HDF5) and isinstance(table, str):
        return _hdf5(file, table, rows, chunk_bytes)
    if name.endswith(_FITS[:2]) and _plain_fits(file):
        return _fits(file, table, rows, chunk_bytes)
    return None


def _plain_fits(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(6) == b"SIMPLE"


def _range(rows: slice | None, n: int) -> tuple[int, int]:
    first, last, _ = (slice(None) if rows is None else rows).indices(n)
    return first, last


def _fits(
    file: Path, table: str | int | None, rows: slice | None, chunk_bytes: int
) -> Iterator[Table | None]:
    from astropy.io import fits
    from astropy.table import Table

    with fits.open(file, memmap=True, mode="readonly") as hdus:
        kinds = [i for i, h in enumerate(hdus) if type(h).__name__ == "BinTableHDU"]
        if table is None and ("POGSON" in hdus or not kinds):
            yield None
            return
        hdu = hdus[kinds[0] if table is None else _extension(file, hdus, table)]
        if type(hdu).__name__ != "BinTableHDU":
            yield None
            return
        first, last = _range(rows, int(hdu.header["NAXIS2"]))
        step = max(1, chunk_bytes // max(1, int(hdu.header["NAXIS1"])))
        for i in range(first, last, step):
            part = fits.BinTableHDU(hdu.data[i : min(i + step, last)], header=hdu.header)
            yield Table.read(part, mask_invalid=False)


def _extension(file: Path, hdus: Any, table: str | int) -> int:
    """Return the number of an extension, or say which there are."""
    try:
        k = int(hdus.index_of(table))
    except KeyError:
        k = len(hdus)
    if 0 < k < len(hdus):
        return k
    there = ", ".join(f"{i} {h.name!r}" if h.name else str(i) for i, h in enumerate(hdus) if i)
    raise FileFormatError(f"{file} has no table {table!r}; its extensions are: {there or 'none'}.")


def _parquet(file: Path, rows: slice | None, chunk_bytes: int) -> Iterator[Table | None]:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from astropy.table import Table

    from pogson.formats.catalogs import column_from_arrow

    with pq.ParquetFile(file) as source:
        if b"pogson" in (source.schema_arrow.metadata or {}):
            yield None
            return
        n = source.metadata.num_rows
        size = sum(source.metadata.row_group(k).total_byte_size
                   for k in range(source.metadata.num_row_groups))  # fmt: skip
        first, last = _range(rows, n)
        step = max(1, chunk_bytes * n // max(1, size))
        at = 0
        for batch in source.iter_batches(batch_size=step):
            low, high = max(first - at, 0), min(last - at, len(batch))
            at += len(batch)
            if high <= low:
                continue
            part = pa.Table.from_batches([batch.slice(low, high - low)])
            yield _masked(Table(
                {k: column_from_arrow(part.column(k), part.schema.field(k))
                 for k in part.column_names}
            ))  # fmt: skip


def _masked(table: Table) -> Table:
    """Apply masks that are columns of their own, as astropy writes them: name and name.mask."""
    from astropy.table import MaskedColumn

    for name in table.colnames:
        flags = f"{name}.mask"
        if flags in table.colnames and table[flags].dtype.kind == "b":
            table[name] = MaskedColumn(table[name], mask=table[flags])
    return table


def _hdf5(file: Path, table: str, rows: slice | None, chunk_bytes: int) -> Iterator[Table | None]:
    import h5py
    from astropy.table import Table

    try:
        source = h5py.File(file, "r")
    except OSError as error:
        raise FileFormatError(f"Cannot open {file} as HDF5: {error}.") from error
    with source:
        data: Any = source.get(table)
        if not isinstance(data, h5py.Dataset) or not data.dtype.names:
            yield None
            return
        first, last = _range(rows, len(data))
        step = max(1, chunk_bytes // max(1, data.dtype.itemsize))
        for i in range(first, last, step):
            yield Table(data[i : min(i + step, last)])
