"""Photometric calibrations as JSON text and FITS extensions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pogson.atomic import atomic_path
from pogson.calib.covariance import ParameterCovariance
from pogson.calib.photo_calib import SCHEMA, SCHEMA_VERSION, PhotoCalib
from pogson.calib.reference import FluxReference
from pogson.errors import FileFormatError, PogsonError, choices

if TYPE_CHECKING:
    from astropy.io import fits

__all__ = [
    "photo_calib_from_dict",
    "photo_calib_from_hdu",
    "photo_calib_from_json",
    "photo_calib_to_hdu",
    "read_photo_calib",
    "write_photo_calib",
]

_COLUMN = "photo_calib_json"
_SUFFIXES = (".json", ".fits")


def photo_calib_from_dict(data: Any) -> PhotoCalib:
    """Read the description written by `PhotoCalib.to_dict`.

    Parameters
    ----------
    data : dict
        Description.

    Raises
    ------
    FileFormatError
        If it is not such a description, or of a newer schema version.
    """
    from pogson.fields import field_from_dict

    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise FileFormatError(f"This is not a description of a calibration (schema {SCHEMA!r}).")
    if data.get("version") != SCHEMA_VERSION:
        raise FileFormatError(
            f"Calibration description of version {data.get('version')!r}; this release reads "
            f"version {SCHEMA_VERSION}."
        )
    try:
        covariance = data["covariance"]
        return PhotoCalib(
            field_from_dict(data["field"]),
            measure=data["measure"],
            reference=FluxReference.from_dict(data["reference"]),
            bandpass=data["bandpass"],
            sed=data["sed"],
            covariance=None if covariance is None else ParameterCovariance.from_dict(covariance),
            provenance=data["provenance"],
        )
    except PogsonError as error:
        raise FileFormatError(f"The description of the calibration is wrong: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise FileFormatError(f"The description of the calibration is wrong: {error!r}") from error


def photo_calib_from_json(text: str) -> PhotoCalib:
    """Read JSON text written by `PhotoCalib.to_json`.

    Parameters
    ----------
    text : str
        JSON text.

    Raises
    ------
    FileFormatError
        If it is not JSON or not a calibration.
    """
    try:
        data = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise FileFormatError(f"The calibration is not valid JSON: {error}.") from None
    return photo_calib_from_dict(data)


def photo_calib_to_hdu(calib: PhotoCalib, name: str = "PHOTOCALIB") -> fits.BinTableHDU:
    """Return a FITS table with the exact description and standard header cards.

    Parameters
    ----------
    calib : PhotoCalib
        Calibration.
    name : str
        EXTNAME.

    Returns
    -------
    hdu : astropy.io.fits.BinTableHDU
        One row with one text column; MAGZERO, FLUXMAG0 ... of the area average in the header.
    """
    from astropy.io import fits

    from pogson.calib.headers import header_cards

    text = calib.to_json().encode("ascii")
    column = fits.Column(name=_COLUMN, format=f"{len(text)}A", array=[text])
    hdu = fits.BinTableHDU.from_columns([column], name=name)
    for key, value, comment in header_cards(calib):
        hdu.header[key] = (value, comment)
    hdu.header["PGSCHEMA"] = (SCHEMA, "what the JSON text describes")
    return hdu


def photo_calib_from_hdu(hdu: Any) -> PhotoCalib:
    """Read the extension written by `photo_calib_to_hdu`.

    Parameters
    ----------
    hdu : astropy.io.fits.BinTableHDU
        Extension.

    Raises
    ------
    FileFormatError
        If the extension is another one.
    """
    names = [] if getattr(hdu, "columns", None) is None else list(hdu.columns.names)
    if _COLUMN not in names:
        raise FileFormatError(
            f"The extension {getattr(hdu, 'name', '')!r} has no column {_COLUMN!r}: it is not a "
            "calibration written by PhotoCalib.to_hdu."
        )
    try:
        text = str(hdu.data[_COLUMN][0])
    except (IndexError, ValueError, UnicodeDecodeError, TypeError, OSError) as error:
        raise FileFormatError(f"The calibration extension is damaged: {error!r}.") from None
    return photo_calib_from_json(text)


def write_photo_calib(calib: PhotoCalib, path: Any) -> None:
    """Write a ``.json`` or ``.fits`` file, whole or not at all.

    Parameters
    ----------
    calib : PhotoCalib
        Calibration.
    path : path-like
        File name; replaced if it exists.

    Raises
    ------
    FileFormatError
        If the suffix is another one or the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in _SUFFIXES:
        raise FileFormatError(f"Cannot write {path}: use a name in {choices(_SUFFIXES)}.")
    with atomic_path(path) as temporary:
        if path.suffix == ".json":
            temporary.write_text(calib.to_json(), encoding="ascii")
        else:
            from astropy.io import fits

            hdus = fits.HDUList([fits.PrimaryHDU(), photo_calib_to_hdu(calib)])
            hdus.writeto(temporary)


def read_photo_calib(path: Any) -> PhotoCalib:
    """Read a file written by `write_photo_calib`.

    Parameters
    ----------
    path : path-like
        A ``.json`` or ``.fits`` file.

    Raises
    ------
    FileFormatError
        Naming the file, if it is missing, damaged or something else.
    """
    path = Path(path)
    try:
        if path.suffix == ".json":
            return photo_calib_from_json(path.read_text(encoding="utf-8"))
        return _read_fits(path)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise FileFormatError(f"Cannot read a calibration from {path}: {error}") from None


def _read_fits(path: Path) -> PhotoCalib:
    import warnings

    from astropy.io import fits

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a damaged file is reported below, once
        try:
            # The stream is ours: astropy leaves its own open where a damaged header stops it.
            with path.open("rb") as stream, fits.open(stream, memmap=False) as hdus:
                for hdu in hdus:
                    columns = getattr(hdu, "columns", None)
                    if columns is not None and _COLUMN in columns.names:
                        return photo_calib_from_hdu(hdu)
        except FileFormatError:
            raise
        except Exception as error:  # astropy raises many kinds on damaged files
            raise FileFormatError(f"not a readable FITS file ({error!r})") from None
    raise FileFormatError(f"no extension with a column {_COLUMN!r}")
