"""Opening FITS files so that only pogson's own errors come out.

Files from the network and from disks are not to be trusted: a truncated or damaged file must give
one clear error with the file's name, never a crash, a segmentation fault through a memory map, or
a foreign exception from deep inside a parser.
"""

from __future__ import annotations

import gzip
import io
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pogson.errors import FileFormatError, MissingDataError, PogsonError, choices
from pogson.formats.fits_structure import check_structure

__all__ = [
    "find_image_hdu",
    "header_value",
    "merged_header",
    "open_fits",
    "opened",
    "pixels",
    "reading",
]

MAX_PIXELS = 2**31
"""Largest number of pixels read from one extension (a damaged NAXIS must not eat the memory)."""


@contextmanager
def reading(path: Any, what: str = "file") -> Iterator[None]:
    """Turn every foreign exception raised while reading a file into a `FileFormatError`.

    Parameters
    ----------
    path : path-like
        File named in the message.
    what : str
        What the file should be, for the message.

    Notes
    -----
    Warnings of the FITS and WCS libraries about untidy but readable headers are silenced; those
    about truncation become errors.
    """
    from astropy.utils.exceptions import AstropyWarning

    try:
        with warnings.catch_warnings():
            # pogson's own warnings pass
            warnings.simplefilter("ignore", AstropyWarning)
            warnings.simplefilter("ignore", RuntimeWarning)
            warnings.simplefilter("ignore", ResourceWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.filterwarnings("error", message=".*truncated.*")
            yield
    except PogsonError:
        raise
    except (Exception, SystemError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise FileFormatError(
            f"Cannot read {os.fspath(path)} as {what}: {reason}. The file may be truncated, "
            f"damaged, or of another format."
        ) from error


def opened(path: Path) -> BinaryIO:
    """Open a file for reading, or say why that is not possible.

    Parameters
    ----------
    path : pathlib.Path
        The file.

    Raises
    ------
    FileFormatError
        If it is missing, a folder, a pipe or device, or may not be read.

    Examples
    --------
    >>> opened(Path("/"))
    Traceback (most recent call last):
    pogson.errors.FileFormatError: / is a folder; name a file in it.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            return path.open("rb")
    except FileNotFoundError:
        raise FileFormatError(f"{path} does not exist.") from None
    except OSError as error:
        raise FileFormatError(f"{path} cannot be opened: {error.strerror}.") from None
    if stat.S_ISDIR(mode):
        raise FileFormatError(f"{path} is a folder; name a file in it.")
    raise FileFormatError(
        f"{path} is a pipe or a device, which cannot be read twice; save it in a file first."
    )


def _fits_stream(path: Path) -> tuple[Any, int]:
    """Return a binary stream of a FITS file, unzipped where needed, and its size."""
    # The stream is ours: astropy leaves its own open when a damaged header makes it give up.
    stream: Any = opened(path)
    try:
        size = path.stat().st_size
        if stream.read(2) == b"\x1f\x8b":
            with reading(path, "a gzipped FITS file"), stream, gzip.open(path) as packed:
                content = packed.read()
            stream, size = io.BytesIO(content), len(content)
        stream.seek(0)
        head = stream.read(30)
        stream.seek(0)
        if not head:
            raise FileFormatError(f"{path} is empty (0 bytes).")
        if head[:9] != b"SIMPLE  =":
            raise FileFormatError(
                f"{path} is not a FITS file: it starts with {head[:12]!r} instead of 'SIMPLE  ='."
            )
        check_structure(stream, size, path)
    except BaseException:
        stream.close()
        raise
    return stream, size


@contextmanager
def open_fits(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Open a FITS file (plain, gzipped or fpacked) for reading.

    Parameters
    ----------
    path : path-like
        The file.

    Yields
    ------
    astropy.io.fits.HDUList
        Read without a memory map.

    Raises
    ------
    FileFormatError
        If the file is missing, not FITS, truncated or damaged; also for any error inside the
        ``with`` block that is not already a `PogsonError`.
    """
    from astropy.io import fits

    target = Path(path)
    stream, _ = _fits_stream(target)
    with (
        stream,
        reading(target, "a FITS file"),
        fits.open(stream, memmap=False, lazy_load_hdus=False, mode="readonly") as hdus,
    ):
        yield hdus


def merged_header(hdus: Any, hdu: Any) -> Any:
    """Return an extension's header with the primary header's cards beneath it.

    DECam and many mosaics write exposure-wide cards (EXPTIME, FILTER) only in the primary header
    and mark extensions with INHERIT. Structural keywords are not inherited, and neither is a WCS:
    an extension with a WCS of its own keeps exactly that one.
    """
    header = hdu.header.copy()
    primary = hdus[0].header
    if hdu is hdus[0]:
        return header
    skip = {"SIMPLE", "BITPIX", "NAXIS", "EXTEND", "EXTNAME", "COMMENT", "HISTORY", "", "CHECKSUM"}
    for card in primary.cards:
        if card.keyword in skip or card.keyword.startswith("NAXIS") or card.keyword in header:
            continue
        header.append(card, end=True)
    return header


def header_value(header: Any, keywords: Any, path: Any = "header") -> Any:
    """Return the first present, non-blank value among keywords, or None.

    Parameters
    ----------
    header : astropy.io.fits.Header or mapping
        The header.
    keywords : sequence of str
        Alternative keywords in order of preference.
    path : path-like
        File named in an error.

    Examples
    --------
    >>> header_value({"EXPTIME": 30.0}, ["EXPOSURE", "EXPTIME"])
    30.0
    """
    for keyword in keywords:
        if keyword in header:
            try:
                value = header[keyword]
            except Exception as error:
                raise FileFormatError(
                    f"{os.fspath(path)}: the header card {keyword} cannot be parsed ({error})."
                ) from error
            if value is None or type(value).__name__ == "Undefined":
                continue
            if isinstance(value, str):
                value = value.strip()
                if not value:
                    continue
            return value
    return None


def is_image(hdu: Any) -> bool:
    """Return whether an HDU holds a non-empty two-dimensional image (fpacked ones included)."""
    if type(hdu).__name__ not in ("PrimaryHDU", "ImageHDU", "CompImageHDU"):
        return False
    shape = hdu.shape
    return len(shape) == 2 and min(shape) > 0


def describe_hdus(hdus: Any) -> str:
    """Return the extensions of a file in words, for a message."""
    parts = [f"{i}:{h.name or type(h).__name__}" for i, h in enumerate(hdus)]
    return ", ".join(parts[:20]) + (" ..." if len(parts) > 20 else "")


def find_image_hdu(hdus: Any, path: Any, extension: str | int | None = None) -> int:
    """Return the index of the image extension asked for.

    Parameters
    ----------
    hdus : astropy.io.fits.HDUList
        Open file.
    path : path-like
        Its name, for messages.
    extension : str or int, optional
        Extension name, DETPOS, CCDNUM (as ``"33"`` or 33), or index when no name fits. Without it
        the file must have one image only, or several of which the first named SCI or IMAGE counts.

    Raises
    ------
    MissingDataError
        If there is no such image, or more than one to choose from.
    """
    images = [i for i, hdu in enumerate(hdus) if is_image(hdu)]
    if not images:
        raise MissingDataError(
            f"{path} has no two-dimensional image; its extensions are {describe_hdus(hdus)}."
        )
    if extension is None:
        named = [i for i in images if hdus[i].name in ("SCI", "IMAGE")]
        if len(images) == 1 or named:
            return (named or images)[0]
        names = [hdus[i].name or i for i in images]
        raise MissingDataError(
            f"{path} has {len(images)} images; say which one with detector= ({choices(names)})."
        )
    wanted = str(extension).strip().upper()
    for i in images:
        header = hdus[i].header
        for key in ("EXTNAME", "DETPOS", "CCDNUM"):
            if key in header and str(header[key]).strip().upper() == wanted:
                return i
    if isinstance(extension, int) and extension in images:
        return extension
    names = [hdus[i].name or i for i in images]
    raise MissingDataError(f"{path} has no image {extension!r}; it has {choices(names)}.")


def pixels(hdu: Any, path: Any, what: str) -> np.ndarray:
    """Return an extension's two-dimensional pixels in native byte order.

    Raises
    ------
    FileFormatError
        If the extension is not a two-dimensional image of numbers.
    """
    shape = tuple(hdu.shape)
    if len(shape) != 2 or min(shape) < 1:
        raise FileFormatError(
            f"{path}: the {what} must be two-dimensional (ny, nx); extension "
            f"{hdu.name or 'unnamed'} has shape {shape}."
        )
    if int(shape[0]) * int(shape[1]) > MAX_PIXELS:
        raise FileFormatError(f"{path}: the {what} has shape {shape}; at most 2**31 pixels.")
    data = hdu.data
    if data is None or data.ndim != 2:
        raise FileFormatError(f"{path}: the {what} has no pixels.")
    if data.dtype.kind not in "iuf":
        raise FileFormatError(f"{path}: the {what} has type {data.dtype}; numbers are needed.")
    return np.ascontiguousarray(data.astype(data.dtype.newbyteorder("="), copy=False))
