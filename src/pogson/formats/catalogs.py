"""Catalogues as files: Parquet, ECSV, FITS binary tables and VOTables, chosen by suffix.

Units, descriptions, the flux reference and other metadata of every column, the table's own
metadata, data types and masks come back as they were written, in every format.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.atomic import atomic_path
from pogson.errors import FileFormatError, PogsonTypeError, PogsonValueError, choices
from pogson.formats.fits_access import open_fits, opened, reading
from pogson.formats.json_values import from_json_value, to_json_value

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["catalog_format", "read_catalog", "write_catalog"]

SCHEMA = "pogson/catalog"
SCHEMA_VERSION = 1

_SUFFIXES = {
    ".parquet": "parquet",
    ".parq": "parquet",
    ".pq": "parquet",
    ".ecsv": "ecsv",
    ".fits": "fits",
    ".fit": "fits",
    ".fits.gz": "fits",
    ".vot": "votable",
    ".votable": "votable",
    ".xml": "votable",
}
_MASK_SUFFIX = "__mask"


def catalog_format(path: str | os.PathLike[str]) -> str:
    """Return the format that a file's suffix says: parquet, ecsv, fits or votable.

    Raises
    ------
    PogsonValueError
        If the suffix is none of the known ones.

    Examples
    --------
    >>> catalog_format("stars.parquet"), catalog_format("stars.fits.gz")
    ('parquet', 'fits')
    """
    name = Path(path).name.lower()
    for suffix in sorted(_SUFFIXES, key=len, reverse=True):
        if name.endswith(suffix):
            return _SUFFIXES[suffix]
    raise PogsonValueError(
        f"{os.fspath(path)}: no catalogue format has this suffix; allowed: {choices(_SUFFIXES)}."
    )


# -- the description that every format carries -----------------------------------------------
def _describe(table: Table) -> dict[str, Any]:
    columns = {}
    for name in table.colnames:
        column = table[name]
        info = column.info
        columns[name] = {
            "unit": None if column.unit is None else column.unit.to_string(),
            "description": None if info.description is None else str(info.description),
            "meta": to_json_value(dict(info.meta or {}), f"meta of column {name!r}"),
            "dtype": column.dtype.newbyteorder("=").str,
            "shape": list(column.shape[1:]),
            "masked": hasattr(column, "mask"),
        }
    return {
        "schema": SCHEMA,
        "version": SCHEMA_VERSION,
        "meta": to_json_value(dict(table.meta), "meta of the table"),
        "columns": columns,
    }


def _check_description(data: Any, path: Any) -> dict[str, Any]:
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise FileFormatError(f"{os.fspath(path)}: its pogson description is not {SCHEMA!r}.")
    if not isinstance(data.get("version"), int) or data["version"] > SCHEMA_VERSION:
        raise FileFormatError(
            f"{os.fspath(path)} was written with catalogue schema {data.get('version')!r}; this "
            f"pogson reads up to {SCHEMA_VERSION}. Upgrade pogson."
        )
    return data


def _plain(table: Any) -> Table:
    """Return a Table of plain columns in native byte order, checked for what files can keep."""
    from astropy.table import Column, MaskedColumn, Table

    if not isinstance(table, Table):
        raise PogsonTypeError(f"A catalogue must be an astropy Table, not {type(table).__name__}.")
    plain = Table(table, copy=False) if type(table) is not Table else table
    out = Table(meta=dict(plain.meta))
    for name in plain.colnames:
        column = plain[name]
        if not isinstance(column, Column):
            raise PogsonTypeError(
                f"Column {name!r} is a {type(column).__name__}; catalogues hold plain columns "
                f"(numbers, texts, booleans). Split it into such columns first."
            )
        if column.dtype.kind not in "biufUS":
            raise PogsonTypeError(
                f"Column {name!r} has type {column.dtype}; allowed are booleans, integers, "
                f"floating-point numbers and texts."
            )
        kind = MaskedColumn if hasattr(column, "mask") else Column
        native = kind(
            column, dtype=column.dtype.newbyteorder("="), unit=column.unit, meta=column.info.meta,
            description=column.info.description, copy=not column.dtype.isnative,
        )  # fmt: skip
        out[name] = native
    return out


def _restore(table: Table, description: dict[str, Any]) -> Table:
    """Rebuild exact columns from plain ones and the description.

    A file may have been edited by other programs since: columns added, values removed or replaced
    by others of another type are taken as they are found.
    """
    from astropy.table import Column, MaskedColumn, Table
    from astropy.units import Unit

    out = Table()
    for name, about in description["columns"].items():
        if name not in table.colnames:
            raise FileFormatError(f"the column {name!r} that its description names is missing")
        if not isinstance(table[name], Column):
            out[name] = table[name]
            continue
        raw = np.asarray(np.ma.getdata(table[name]))
        dtype, shape = np.dtype(about["dtype"]), tuple(about["shape"])
        if raw.dtype.kind == "S" and dtype.kind == "U":
            raw = np.char.decode(raw, "utf-8")
        absent = getattr(table[name], "mask", None)
        if absent is not None and raw.dtype.kind in "USO":
            # ECSV reads an empty text as a missing one
            raw = np.where(absent, b"" if raw.dtype.kind == "S" else "", raw)
        if raw.dtype.kind == "O":
            raw = np.array([_text(v, dtype) for v in raw.ravel()], dtype).reshape(raw.shape)
        if not _same_class(raw.dtype, dtype):
            # the column was given other values since
            out[name] = table[name]
            continue
        raw = raw.reshape((len(table), *shape)).astype(dtype)
        common = {
            "name": name,
            "unit": None if about["unit"] is None else Unit(about["unit"], parse_strict="silent"),
            "description": about["description"],
            "meta": from_json_value(about["meta"]),
        }
        if about["masked"]:
            mask = np.asarray(np.ma.getdata(table[name + _MASK_SUFFIX])).astype(bool)
            out[name] = MaskedColumn(raw, mask=mask.reshape(raw.shape), **common)
        elif absent is not None and raw.dtype.kind == "f":
            raw[np.reshape(absent, raw.shape)] = np.nan
            out[name] = Column(raw, **common)
        elif absent is not None and raw.dtype.kind in "iub" and np.any(absent):
            out[name] = MaskedColumn(raw, mask=np.reshape(absent, raw.shape), **common)
        else:
            out[name] = Column(raw, **common)
    masks = {name + _MASK_SUFFIX for name, a in description["columns"].items() if a["masked"]}
    for name in table.colnames:
        if name not in out.colnames and name not in masks:
            out[name] = table[name]  # added since
    out.meta.update(from_json_value(description["meta"]))
    return out


def _same_class(found: np.dtype, described: np.dtype) -> bool:
    """Return whether values found can be those of a column as it was described."""
    classes = ("iu", "f", "b", "USO")
    return any(found.kind in kinds and described.kind in kinds for kinds in classes)


def _text(value: Any, dtype: np.dtype) -> Any:
    if dtype.kind == "S":
        return value if isinstance(value, bytes) else str(value).encode()
    return value.decode() if isinstance(value, bytes) else str(value)


def _check_texts(table: Table, path: Path, ascii_only: bool) -> None:
    """Refuse texts that a text-like format would change silently."""
    for name in table.colnames:
        column = table[name]
        if column.dtype.kind not in "US" or len(column) == 0:
            continue
        texts = np.char.decode(column, "utf-8", "replace") if column.dtype.kind == "S" else column
        flat = np.asarray(np.ma.getdata(texts)).ravel()
        for text in flat.tolist():
            if text != text.strip() or not (text.isprintable() or text == ""):
                raise PogsonValueError(
                    f"{path}: column {name!r} holds the text {text!r}, whose spaces at the ends or "
                    f"control characters this format does not keep; write .parquet."
                )
            if ascii_only and not text.isascii():
                raise PogsonValueError(
                    f"{path}: column {name!r} holds {text!r}; FITS keeps ASCII texts only. Write "
                    f".parquet, .ecsv or .vot."
                )


def _with_mask_columns(table: Table) -> Table:
    """Return plain columns only: a masked column becomes its filled data and a boolean column."""
    from astropy.table import Column, Table

    out = Table()
    for name in table.colnames:
        column = table[name]
        values = np.asarray(np.ma.getdata(column))
        if hasattr(column, "mask"):
            fill: Any = {"f": np.nan, "U": "", "S": b""}.get(values.dtype.kind, 0)
            values = np.where(column.mask, np.array(fill, values.dtype), values)
        if len(table) == 0:
            values = values.reshape(-1)  # ECSV cannot tell the shape of no rows
        kwargs = {"unit": column.unit, "description": column.info.description}
        out[name] = Column(_storable(values), **kwargs)
        if hasattr(column, "mask"):
            mask = np.asarray(column.mask).reshape(values.shape)
            out[name + _MASK_SUFFIX] = Column(mask, description=f"true where {name} has no value")
    return out


def _storable(values: np.ndarray) -> np.ndarray:
    """Widen data types that FITS, VOTable or ECSV lack; the description brings them back."""
    if values.dtype.kind in "US" and values.dtype.itemsize == 0:
        return values.astype(values.dtype.kind + "1")
    wider = {"float16": np.float32, "int8": np.int16, "uint16": np.int32, "uint32": np.int64}
    if values.dtype.name in wider:
        return values.astype(wider[values.dtype.name])
    if values.dtype == np.uint64:
        return values.view(np.int64)  # same bits; the description says uint64
    return values


# -- formats ---------------------------------------------------------------------------------
def _write_parquet(path: Path, table: Table, description: dict[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields, arrays = [], []
    for name in table.colnames:
        about = description["columns"][name]
        array = _arrow(table[name])
        metadata = {"dtype": about["dtype"], "shape": json.dumps(about["shape"])}
        for key in ("unit", "description"):
            if about[key] is not None:
                metadata[key] = about[key]
        if about["meta"]:
            metadata["meta"] = json.dumps(about["meta"])
        fields.append(pa.field(name, array.type, metadata=metadata))
        arrays.append(array)
    schema = pa.schema(fields, metadata={"pogson": json.dumps(description)})
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), path, compression="zstd")


def _arrow(column: Any) -> Any:
    import pyarrow as pa

    values = np.asarray(np.ma.getdata(column))
    mask = np.asarray(column.mask) if hasattr(column, "mask") else None
    flat = np.ascontiguousarray(values).reshape(-1)
    flat_mask = None if mask is None else mask.reshape(-1)
    if values.dtype.kind in "US":
        kind = pa.string() if values.dtype.kind == "U" else pa.binary()
        arrow = pa.array(flat.tolist(), type=kind, mask=flat_mask)
    else:
        arrow = pa.array(flat, mask=flat_mask, from_pandas=False)
    for size in reversed(values.shape[1:]):
        arrow = pa.FixedSizeListArray.from_arrays(arrow, size)
    return arrow


def _read_parquet(path: Path) -> Table:
    import pyarrow.parquet as pq
    from astropy.table import Table

    arrow = pq.read_table(path, use_threads=False)
    metadata = arrow.schema.metadata or {}
    columns = {}
    for name in arrow.column_names:
        columns[name] = column_from_arrow(arrow.column(name), arrow.schema.field(name))
    table = Table(columns)
    if b"pogson" not in metadata:
        return table
    description = _check_description(json.loads(metadata[b"pogson"]), path)
    for name, about in description["columns"].items():
        if about["masked"] and name in table.colnames:
            column = table[name]
            table[name + _MASK_SUFFIX] = (
                column.mask if hasattr(column, "mask") else np.zeros(column.shape, bool)
            )
    return _restore(table, description)


def column_from_arrow(chunked: Any, field: Any) -> Any:
    """Return a Column or MaskedColumn for an Arrow column, foreign files included."""
    import pyarrow as pa
    from astropy.table import Column, MaskedColumn

    array = chunked.combine_chunks()
    shape: list[int] = []
    while pa.types.is_fixed_size_list(array.type):
        shape.append(array.type.list_size)
        array = array.flatten()
    if pa.types.is_nested(array.type) or pa.types.is_temporal(array.type):
        array = pa.array([None if v is None else str(v) for v in array.to_pylist()], pa.string())
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    null = np.asarray(array.is_null())
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        values = np.array(["" if v is None else v for v in array.to_pylist()], str)
    elif pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type):
        values = np.array([b"" if v is None else v for v in array.to_pylist()], bytes)
    elif pa.types.is_null(array.type):
        values = np.zeros(len(array))
    else:
        values = np.asarray(array.fill_null(pa.scalar(0).cast(array.type)) if null.any() else array)
    rows = len(chunked)
    values, null = values.reshape((rows, *shape)), null.reshape((rows, *shape))
    metadata = {k.decode(): v.decode() for k, v in (field.metadata or {}).items()}
    kwargs: dict[str, Any] = {"description": metadata.get("description")}
    if metadata.get("unit"):
        from astropy.units import Unit

        kwargs["unit"] = Unit(metadata["unit"], parse_strict="silent")
    return MaskedColumn(values, mask=null, **kwargs) if null.any() else Column(values, **kwargs)


def _write_fits(path: Path, table: Table, description: dict[str, Any]) -> None:
    from astropy.io import fits

    _check_texts(table, path, ascii_only=True)
    text = json.dumps(description, ensure_ascii=True)
    content = np.frombuffer(text.encode("ascii"), np.uint8).reshape(1, -1)
    column = fits.Column(name="JSON", format=f"{len(text)}B", array=content)
    about = fits.BinTableHDU.from_columns([column], name="POGSON")
    data = fits.table_to_hdu(_with_mask_columns(table))
    data.name = "CATALOG"
    fits.HDUList([fits.PrimaryHDU(), data, about]).writeto(path, checksum=True)


def _read_fits(path: Path, hdu: Any = None) -> Table:
    from astropy.table import Table

    with open_fits(path) as hdus:
        tables = [i for i, h in enumerate(hdus) if type(h).__name__ in ("BinTableHDU", "TableHDU")]
        if hdu is None and "POGSON" in hdus and "CATALOG" in hdus:
            text = bytes(hdus["POGSON"].data["JSON"][0]).decode("ascii")
            description = _check_description(json.loads(text), path)
            return _restore(Table.read(hdus["CATALOG"], mask_invalid=False), description)
        if not tables:
            raise FileFormatError(f"{path} has no table; it has {len(hdus)} image extensions.")
        index = tables[0] if hdu is None else hdus.index_of(hdu)
        return plain_columns(Table.read(hdus[index], mask_invalid=False))


def plain_columns(table: Table) -> Table:
    """Return a table as read from FITS with text for bytes, in this machine's byte order."""
    for name in table.colnames:
        column = table[name]
        if column.dtype.kind == "S":
            table[name] = np.char.decode(np.asarray(column), "utf-8", "replace")
        elif not column.dtype.isnative:
            table[name] = column.astype(column.dtype.newbyteorder("="))
    return table


def _write_ecsv(path: Path, table: Table, description: dict[str, Any]) -> None:
    _check_texts(table, path, ascii_only=False)
    plain = _with_mask_columns(table)
    plain.meta["pogson"] = json.dumps(description)
    plain.write(path, format="ascii.ecsv")


def _read_ecsv(path: Path) -> Table:
    from astropy.table import Table

    table = Table.read(path, format="ascii.ecsv")
    text = table.meta.get("pogson")
    if not isinstance(text, str):
        return table
    description = _check_description(json.loads(text), path)
    for name in set(description["columns"]) & set(table.colnames):
        if getattr(table[name], "unit", None) is not None:  # as the file says now
            description["columns"][name]["unit"] = table[name].unit.to_string()
    return _restore(table, description)


def _write_votable(path: Path, table: Table, description: dict[str, Any]) -> None:
    from astropy.io.votable import from_table
    from astropy.io.votable.tree import Info

    _check_texts(table, path, ascii_only=False)
    votable = from_table(_with_mask_columns(table))
    votable.infos.append(Info(name="pogson", value=json.dumps(description, ensure_ascii=True)))
    votable.to_xml(str(path))


def _read_votable(path: Path) -> Table:
    from astropy.io.votable import parse

    votable = parse(str(path), verify="ignore")
    table = votable.get_first_table().to_table(use_names_over_ids=True)
    for info in votable.infos:
        if info.name == "pogson":
            return _restore(table, _check_description(json.loads(info.value), path))
    return table


_WRITERS: dict[str, Callable[[Path, Any, dict[str, Any]], None]] = {
    "parquet": _write_parquet,
    "fits": _write_fits,
    "ecsv": _write_ecsv,
    "votable": _write_votable,
}


def write_catalog(path: str | os.PathLike[str], table: Table) -> Path:
    """Write a catalogue in the format its suffix says, whole or not at all.

    Parameters
    ----------
    path : path-like
        ``.parquet``, ``.ecsv``, ``.fits`` or ``.vot``; an existing file is replaced.
    table : astropy.table.Table
        Columns of numbers, booleans and texts, of any fixed shape per row; units, descriptions,
        ``info.meta`` (where flux references live) and ``table.meta`` are kept.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    PogsonValueError
        If the suffix is unknown, metadata hold something JSON cannot keep, or the format would
        change a text silently.
    PogsonTypeError
        If a column is not of numbers, booleans or texts.

    Notes
    -----
    In Parquet masked values are nulls and NaN stays NaN. In the other formats a masked column
    *a* is accompanied by a boolean column ``a__mask``.

    Examples
    --------
    >>> import tempfile
    >>> from astropy.table import Table
    >>> table = Table({"flux": [1.0, -2.0]}, units={"flux": "nJy"})
    >>> table["flux"].info.meta = {"reference": {"kind": "total"}}
    >>> back = read_catalog(write_catalog(tempfile.mktemp(suffix=".parquet"), table))
    >>> back["flux"].unit, back["flux"].info.meta
    (Unit("nJy"), {'reference': {'kind': 'total'}})
    """
    import warnings

    target = Path(path)
    kind = catalog_format(target)
    plain = _plain(table)
    clash = [n for n in plain.colnames if n.endswith(_MASK_SUFFIX)]
    if clash:
        raise PogsonValueError(f"Column names may not end in {_MASK_SUFFIX!r}: {clash}.")
    description = _describe(plain)
    with atomic_path(target) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # units a format cannot spell are in the description
        _WRITERS[kind](temporary, plain, description)
    return target


def read_catalog(path: str | os.PathLike[str], *, hdu: int | str | None = None) -> Table:
    """Read a catalogue: Parquet, ECSV, FITS table or VOTable, pogson's own or any other.

    Parameters
    ----------
    path : path-like
        The file.
    hdu : int or str, optional
        Extension of a FITS file; the first table by default.

    Returns
    -------
    astropy.table.Table
        With units, and for files written by `write_catalog` everything as it was.

    Raises
    ------
    FileFormatError
        If the file is missing, damaged or not of the format that its suffix says.
    PogsonValueError
        If the suffix is unknown.

    Examples
    --------
    >>> import tempfile
    >>> from astropy.table import Table
    >>> name = write_catalog(tempfile.mktemp(suffix=".ecsv"), Table({"a": [1, 2]}))
    >>> read_catalog(name)["a"].tolist()
    [1, 2]
    """
    target = Path(path)
    kind = "" if target.is_dir() else catalog_format(target)
    opened(target).close()
    with reading(target, f"a {kind} catalogue"):
        if kind == "fits":
            return _read_fits(target, hdu)
        readers = {"parquet": _read_parquet, "ecsv": _read_ecsv, "votable": _read_votable}
        return readers[kind](target)
