"""A first look at a FITS file's structure, before a full parser is let loose on it.

A damaged NAXIS can send a parser backwards for ever, or ask it for all the memory there is. This
scan walks from header to header by the rules of the FITS Standard 4.0 (sections 3 and 4) and
accepts only sizes that fit in the file.
"""

from __future__ import annotations

import os
from typing import Any

from pogson.errors import FileFormatError

__all__ = ["check_structure"]

_BLOCK = 2880
_CARD = 80
_BITPIX = (8, 16, 32, 64, -32, -64)
_MAX_HEADER_BLOCKS = 20_000
_MAX_AXES = 999


def check_structure(stream: Any, size: int, path: Any) -> int:
    """Walk through a FITS stream and return its number of header-data units.

    Parameters
    ----------
    stream : binary file
        Positioned anywhere; left at the start.
    size : int
        Bytes in the stream.
    path : path-like
        File named in messages.

    Raises
    ------
    FileFormatError
        If a header does not end, a size is not a whole number of zero or more, or the data of an
        extension run beyond the end of the file.

    Examples
    --------
    >>> import io
    >>> cards = ["SIMPLE  =                    T", "BITPIX  =                    8",
    ...          "NAXIS   =                    0", "END"]
    >>> block = "".join(c.ljust(80) for c in cards).ljust(2880).encode()
    >>> check_structure(io.BytesIO(block), len(block), "a.fits")
    1
    """
    position, number = 0, 0
    while position < size:
        stream.seek(position)
        start = stream.read(9)
        if number and not start.startswith(b"XTENSION="):
            break  # special records may follow the last extension; parsers ignore them
        values, position = _read_header(stream, position, number, path)
        bytes_of_data = _data_size(values, number, path)
        if position + bytes_of_data > size:
            raise FileFormatError(
                f"{os.fspath(path)} is truncated: extension {number} ends at byte "
                f"{position + bytes_of_data}, but the file has {size} bytes."
            )
        position += -(-bytes_of_data // _BLOCK) * _BLOCK
        number += 1
    stream.seek(0)
    return number


def _read_header(stream: Any, start: int, number: int, path: Any) -> tuple[dict[str, str], int]:
    """Return the structural cards of one header and the position of its data."""
    values: dict[str, str] = {}
    stream.seek(start)
    for block in range(_MAX_HEADER_BLOCKS):
        text = stream.read(_BLOCK)
        if len(text) < _BLOCK:
            raise FileFormatError(
                f"{os.fspath(path)} is truncated: the header of extension {number} has no END card "
                f"before the end of the file."
            )
        for at in range(0, _BLOCK, _CARD):
            card = text[at : at + _CARD]
            keyword = card[:8].rstrip()
            if keyword == b"END":
                return values, start + (block + 1) * _BLOCK
            structural = keyword in (b"BITPIX", b"PCOUNT", b"GCOUNT", b"GROUPS")
            if structural or keyword.startswith(b"NAXIS"):
                value = card[10:].split(b"/", 1)[0].strip()
                values.setdefault(
                    keyword.decode("ascii", "replace"), value.decode("ascii", "replace")
                )
    raise FileFormatError(f"{os.fspath(path)}: the header of extension {number} has no END card.")


def _data_size(values: dict[str, str], number: int, path: Any) -> int:
    """Return the bytes of data that a header announces."""

    def whole(keyword: str, default: int | None = None) -> int:
        text = values.get(keyword)
        if text is None and default is not None:
            return default
        try:
            value = int(str(text))
        except ValueError:
            value = -1
        if value < 0 and keyword != "BITPIX":
            raise FileFormatError(
                f"{os.fspath(path)}: the card {keyword} of extension {number} is {text!r}; it must "
                f"be a whole number of 0 or more."
            )
        return value

    axes = whole("NAXIS")
    if axes == 0:
        return 0
    if axes > _MAX_AXES:
        raise FileFormatError(f"{os.fspath(path)}: extension {number} has NAXIS = {axes}.")
    bits = whole("BITPIX")
    if bits not in _BITPIX:
        raise FileFormatError(
            f"{os.fspath(path)}: BITPIX of extension {number} is {values.get('BITPIX')!r}; allowed "
            f"are 8, 16, 32, 64, -32 and -64."
        )
    lengths = [whole(f"NAXIS{i + 1}") for i in range(axes)]
    groups = values.get("GROUPS") == "T" and lengths[0] == 0
    if groups:
        lengths = lengths[1:]
    pixels = 1
    for length in lengths:
        pixels *= length
    return abs(bits) // 8 * whole("GCOUNT", 1) * (whole("PCOUNT", 0) + pixels)
