"""Fields in JSON and FITS files."""

from __future__ import annotations

import io
import json
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np

from pogson.atomic import atomic_path
from pogson.errors import FileFormatError, PogsonError, PogsonTypeError, PogsonValueError, choices
from pogson.fields.base import SCHEMA, SCHEMA_VERSION, Field
from pogson.fields.box import Box
from pogson.fields.chebyshev import ChebyshevField
from pogson.fields.composite import ProductField, QuotientField, SumField
from pogson.fields.constant import ConstantField
from pogson.fields.grid import GridField
from pogson.fields.pixel_area import PixelAreaField
from pogson.fields.table import TableField
from pogson.units import parse_unit

__all__ = ["field_from_dict", "read_field", "register_kind", "write_field"]

_KINDS: dict[str, type[Field]] = {
    cls.kind: cls
    for cls in (
        ConstantField,
        ChebyshevField,
        GridField,
        PixelAreaField,
        ProductField,
        QuotientField,
        SumField,
        TableField,
    )
}

# Fields nested deeper than this are not real, and would exhaust the stack.
_MAX_DEPTH = 50

_HEADER = frozenset({"schema", "version", "kind", "box", "unit"})
_FITS_SUFFIXES = (".fits", ".fit", ".fits.gz")
_DOCUMENT = "FIELD"
_ARRAY = "__array__"


def register_kind(cls: type[Field]) -> type[Field]:
    """Make a new kind of field known to the readers; usable as a class decorator.

    Raises
    ------
    PogsonValueError
        If ``cls.kind`` is empty or taken by another class.

    Examples
    --------
    >>> register_kind(ConstantField) is ConstantField
    True
    """
    if not cls.kind or _KINDS.get(cls.kind, cls) is not cls:
        raise PogsonValueError(f"kind={cls.kind!r} of {cls.__name__} is empty or already taken.")
    _KINDS[cls.kind] = cls
    return cls


def field_from_dict(description: Any) -> Field:
    """Make a field from what `Field.to_dict` returned.

    Parameters
    ----------
    description : mapping
        The description, as read from JSON.

    Returns
    -------
    field : Field
        Equal to the field described.

    Raises
    ------
    FileFormatError
        If the description is not that of a field, has parts missing or too many, or was written
        in a newer schema version.

    Examples
    --------
    >>> field = ChebyshevField(Box(0, 0, 10, 10), [[1.0, 0.1]], "nJy / adu")
    >>> field_from_dict(field.to_dict()) == field
    True
    """
    try:
        return _from_dict(description, 0)
    except FileFormatError:
        raise
    except (PogsonError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as e:
        raise FileFormatError(f"The description of a field is damaged: {e}") from e


def _from_dict(description: Any, depth: int) -> Field:
    if depth > _MAX_DEPTH:
        raise FileFormatError(f"Fields are nested more than {_MAX_DEPTH} deep.")
    if not isinstance(description, Mapping) or description.get("schema") != SCHEMA:
        raise FileFormatError(
            f"Not the description of a field: it must be an object with schema '{SCHEMA}'."
        )
    version = description.get("version")
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise FileFormatError(
            f"Schema version {version!r} of '{SCHEMA}' is not known; this pogson reads "
            f"version {SCHEMA_VERSION}."
        )
    kind = description.get("kind")
    cls = _KINDS.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise FileFormatError(
            f"Unknown kind of field {kind!r}; allowed: {choices(_KINDS)}. A kind from elsewhere is "
            "known once the module that registers it is imported."
        )
    box, unit = _box(description.get("box")), _unit(description.get("unit"))
    parameters = {str(k): _parameter(v, depth) for k, v in description.items() if k not in _HEADER}
    field = cls._from_parameters(box, unit, parameters)
    extra = set(parameters) - set(field._parameters())
    if extra:
        raise FileFormatError(f"A {kind} field has no {choices(sorted(extra))}.")
    if field.box != box or not field.unit == unit:
        raise FileFormatError(
            f"The {kind} field says {box} and unit '{unit}', but its parts give {field.box} and "
            f"'{field.unit}'."
        )
    return field


def _box(value: Any) -> Box:
    good = isinstance(value, list | tuple) and len(value) == 4
    if not good or not all(isinstance(v, int) and not isinstance(v, bool) for v in value):
        raise FileFormatError(f"box must be 4 whole numbers x_min, y_min, nx, ny; got {value!r}.")
    return Box(*value)


def _unit(value: Any) -> u.UnitBase:
    if not isinstance(value, str):
        raise FileFormatError(f"unit must be text; got {value!r}.")
    return parse_unit(value)


def _parameter(value: Any, depth: int) -> Any:
    """Turn nested descriptions into fields; everything else the kind itself checks."""
    if isinstance(value, Mapping):
        return _from_dict(value, depth + 1)
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return tuple(_from_dict(v, depth + 1) for v in value)
    return value


def write_field(field: Field, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write a field to a JSON or FITS file.

    Parameters
    ----------
    field : Field
        Any field.
    path : path-like
        Name ending in ``.json``, ``.fits``, ``.fit`` or ``.fits.gz``. The file appears when it is
        complete.
    overwrite : bool, optional
        Replace an existing file.

    Raises
    ------
    PogsonValueError
        If the suffix is another one.
    FileFormatError
        If the file exists and ``overwrite`` is False, or cannot be written.

    Notes
    -----
    JSON holds the numbers in full (they read back to the same bits). In FITS, the arrays are
    64-bit image extensions ``ARRAY1``, ``ARRAY2`` ... and the rest is the same JSON text in a byte
    extension ``FIELD``; prefer it for grids of many nodes.

    Examples
    --------
    >>> import tempfile
    >>> field = ConstantField(Box(0, 0, 10, 10), 0.5, "nJy / adu")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_field(field, folder + "/scale.fits")
    ...     read_field(folder + "/scale.fits") == field
    True
    """
    if not isinstance(field, Field):
        raise PogsonTypeError(f"write_field writes fields, not {type(field).__name__}.")
    target = Path(path)
    encode = _suffix(target)[0]
    if target.exists() and not overwrite:
        raise FileFormatError(f"{target} exists; pass overwrite=True to replace it.")
    data = encode(field, target)
    with atomic_path(target) as temporary:
        temporary.write_bytes(data)


def read_field(path: str | os.PathLike[str]) -> Field:
    """Read a field from a file of `write_field`.

    Parameters
    ----------
    path : path-like
        Name ending in ``.json``, ``.fits``, ``.fit`` or ``.fits.gz``.

    Returns
    -------
    field : Field
        Equal to the field written.

    Raises
    ------
    PogsonValueError
        If the suffix is another one.
    FileFormatError
        If the file is missing, truncated, damaged or holds something else; the message names it.

    Examples
    --------
    >>> read_field("nowhere.json")
    Traceback (most recent call last):
    pogson.errors.FileFormatError: nowhere.json cannot be read: ...
    """
    source = Path(path)
    decode = _suffix(source)[1]
    try:
        data = source.read_bytes()
    except OSError as error:
        raise FileFormatError(f"{source} cannot be read: {error}") from error
    try:
        return field_from_dict(decode(data))
    except FileFormatError as error:
        raise FileFormatError(f"{source}: {error}") from error


def _suffix(path: Path) -> tuple[Callable[[Field, Path], bytes], Callable[[bytes], Any]]:
    """Return encoder and decoder for a file name."""
    name = path.name.lower()
    if name.endswith(".json"):
        return _to_json, _from_json
    if name.endswith(_FITS_SUFFIXES):
        return _to_fits, _from_fits
    raise PogsonValueError(
        f"{path} must end in {choices(['.json', *_FITS_SUFFIXES])}, which says its format."
    )


def _to_json(field: Field, path: Path) -> bytes:
    return (json.dumps(field.to_dict(), indent=1, allow_nan=False) + "\n").encode()


def _from_json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"This is not JSON: {error}") from error


def _to_fits(field: Field, path: Path) -> bytes:
    """Return the bytes of a FITS file with the document and its arrays."""
    import gzip

    from astropy.io import fits

    arrays: list[np.ndarray] = []
    document = json.dumps(externalised(field, arrays), allow_nan=False).encode()
    primary = fits.PrimaryHDU()
    primary.header["POGSON"] = (SCHEMA, "what this file holds")
    primary.header["PGVER"] = (SCHEMA_VERSION, "version of its schema")
    primary.header["PGKIND"] = (field.kind, "kind of field")
    primary.header["BUNIT"] = (field.unit.to_string(), "unit of the values")
    hdus = [primary, fits.ImageHDU(np.frombuffer(document, np.uint8).copy(), name=_DOCUMENT)]
    hdus += [fits.ImageHDU(array, name=f"ARRAY{k + 1}") for k, array in enumerate(arrays)]
    stream = io.BytesIO()
    fits.HDUList(hdus).writeto(stream, checksum=True)
    data = stream.getvalue()
    return gzip.compress(data, mtime=0) if path.name.lower().endswith(".gz") else data


def externalised(value: Any, arrays: list[np.ndarray]) -> Any:
    """Return a description whose arrays are replaced by references to a list of them."""
    if isinstance(value, Field):
        return externalised(value._describe(), arrays)
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return {_ARRAY: len(arrays)}
    if isinstance(value, Mapping):
        return {k: externalised(v, arrays) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [externalised(v, arrays) for v in value]
    return value


def _from_fits(data: bytes) -> Any:
    """Return the description in the bytes of a FITS file, arrays put back."""
    import gzip

    from astropy.io import fits
    from astropy.utils.exceptions import AstropyWarning

    try:
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        with warnings.catch_warnings():
            # a truncated file or a wrong checksum is only a warning there
            warnings.simplefilter("error", AstropyWarning)
            with fits.open(io.BytesIO(data), checksum=True, memmap=False) as hdus:
                names = {hdu.name: hdu for hdu in hdus}
                text = bytes(np.asarray(names[_DOCUMENT].data, np.uint8))
                arrays = {
                    name: np.asarray(hdu.data, np.float64)
                    for name, hdu in names.items()
                    if name.startswith("ARRAY") and hdu.data is not None
                }
    except KeyError:
        raise FileFormatError(
            f"There is no extension {_DOCUMENT}: this FITS file does not hold a pogson field."
        ) from None
    except Exception as error:  # whatever a damaged file makes the FITS reader do
        raise FileFormatError(f"This is not a sound FITS file: {error}") from error
    return internalised(_from_json(text), arrays, 0)


def internalised(value: Any, arrays: Mapping[str, np.ndarray], depth: int) -> Any:
    """Put arrays back in the place of their references."""
    if depth > 4 * _MAX_DEPTH:
        raise FileFormatError("The description of the field is nested too deep.")
    if isinstance(value, dict):
        if _ARRAY in value:
            name = f"ARRAY{value[_ARRAY]}"
            if name not in arrays:
                raise FileFormatError(f"The extension {name} is missing.")
            return arrays[name]
        return {k: internalised(v, arrays, depth + 1) for k, v in value.items()}
    if isinstance(value, list):
        return [internalised(v, arrays, depth + 1) for v in value]
    return value
