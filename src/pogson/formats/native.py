"""pogson's own exposure files: FITS that any viewer opens, with the exact typed objects inside.

Layout
------
``PRIMARY``
    No pixels. Cards about the exposure, and the schema version.
``SCI``
    The image, float32. Cards any software reads: BUNIT, the WCS where it can be written as FITS
    cards, MEASURE, and for a calibrated exposure PHOTSYS and MAGZERO with what it includes.
``VARIANCE``, ``MASK``
    float32 and uint32, where there are any; mask bits as cards ``MP_<NAME>``.
``POGSON``
    A table of one row and one column, ``JSON``: the sky map, PSF, calibration, pixel-area ratio,
    background and metadata, exactly. The reader uses this and the pixels, nothing else.

Each extension carries DATASUM, which the reader checks: a damaged file is refused, not read as if
it were right.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.atomic import atomic_path
from pogson.errors import FileFormatError, MissingDataError, PogsonError, PogsonValueError
from pogson.fields import Box, field_from_dict
from pogson.formats.fits_access import open_fits, pixels
from pogson.formats.json_values import from_json_value, to_json_value

if TYPE_CHECKING:
    from pogson.images import ChromaticFlat, Exposure, FlatFactors

__all__ = ["SCHEMA", "SCHEMA_VERSION", "read_native", "read_native_description", "write_native"]

SCHEMA = "pogson/exposure"
"""Name of the schema in the JSON extension."""

SCHEMA_VERSION = 1
"""Version written; a reader refuses newer ones."""


def describe(exposure: Exposure) -> dict[str, Any]:
    """Return the JSON-ready description of everything in an exposure that is not pixels."""
    parts = ("sky", "psf", "photo_calib", "area_ratio", "background", "flattening")
    out: dict[str, Any] = {"schema": SCHEMA, "version": SCHEMA_VERSION}
    for name in parts:
        value = getattr(exposure, name)
        out[name] = None if value is None else to_json_value(value.to_dict(), name)
    out.update(
        unit=exposure.unit.to_string(),
        measure=exposure.measure.value,
        box=list(exposure.box),
        mask_bits=dict(exposure.mask_bits),
        mask_docs={name: exposure.mask_bits.doc(name) for name in exposure.mask_bits},
        bandpass=exposure.bandpass,
        flattening_sed=exposure.flattening_sed,
        background_subtracted=exposure.background_subtracted,
        exposure_id=exposure.exposure_id,
        detector=exposure.detector,
        metadata={k: to_json_value(v, f"metadata[{k!r}]") for k, v in exposure.metadata.items()},
        has_variance=exposure.variance is not None,
        has_mask=exposure.mask is not None,
    )
    return out


def write_native(path: str | os.PathLike[str], exposure: Exposure) -> Path:
    """Write an exposure, whole or not at all.

    Parameters
    ----------
    path : path-like
        ``.fits`` or ``.fits.gz``.
    exposure : pogson.images.Exposure
        What to write.

    Returns
    -------
    pathlib.Path
        The path written.

    Raises
    ------
    PogsonValueError
        If the metadata holds something that JSON cannot keep, or the suffix is not FITS.
    """
    from astropy.io import fits

    target = Path(path)
    if not target.name.endswith((".fits", ".fits.gz", ".fit")):
        raise PogsonValueError(f"{target}: exposures are written as .fits or .fits.gz.")
    text = json.dumps(describe(exposure), allow_nan=False, ensure_ascii=True)
    science = fits.ImageHDU(_array(exposure.image), name="SCI")
    science.header.update(_science_cards(exposure))
    hdus = [fits.PrimaryHDU(), science]
    _primary_cards(hdus[0].header, exposure)
    if exposure.variance is not None:
        hdus.append(fits.ImageHDU(_array(exposure.variance), name="VARIANCE"))
        hdus[-1].header["BUNIT"] = (f"({exposure.unit.to_string()})2", "variance of SCI")
    if exposure.mask is not None:
        hdus.append(fits.ImageHDU(_array(exposure.mask), name="MASK"))
        for name, bit in exposure.mask_bits.items():
            doc = exposure.mask_bits.doc(name)[:30]
            key = f"MP_{name}" if len(name) <= 5 else f"HIERARCH MP_{name}"
            hdus[-1].header[key] = (bit, _card_text(doc))
    # As bytes: astropy strips long texts character by character, seconds for a big PSF.
    content = np.frombuffer(text.encode("ascii"), np.uint8).reshape(1, -1)
    column = fits.Column(name="JSON", format=f"{len(text)}B", array=content)
    hdus.append(fits.BinTableHDU.from_columns([column], name="POGSON"))
    with atomic_path(target) as temporary:
        fits.HDUList(hdus).writeto(temporary, checksum=True)
    return target


def _card_text(text: Any) -> str:
    """Return what a header card can hold of a text; the JSON extension keeps it exactly."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in str(text))[:60]


def _array(array: np.ndarray) -> np.ndarray:
    # astropy scales unsigned integers in place while writing: give it its own copy of those
    return array.copy() if array.dtype.kind == "u" else array


def _primary_cards(header: Any, exposure: Exposure) -> None:
    from pogson import __version__

    header["ORIGIN"] = (f"pogson {__version__}", "software that wrote this file")
    header["PGSCHEMA"] = (SCHEMA, "schema of the extension POGSON")
    header["PGVERS"] = (SCHEMA_VERSION, "its version")
    cards = {
        "EXPTIME": ("exposure_time", "[s] exposure time"),
        "AIRMASS": ("airmass", "airmass"),
        "MJD-OBS": ("mjd", "[d] MJD"),
        "GAIN": ("gain", "electron per unit of the fluence image"),
    }
    for keyword, (name, comment) in cards.items():
        value = exposure.metadata.get(name)
        if isinstance(value, (int, float)) and math.isfinite(value):
            header[keyword] = (value, comment)
    for keyword, text in (
        ("EXPID", exposure.exposure_id),
        ("DETECTOR", exposure.detector),
        ("BANDPASS", exposure.bandpass),
        ("FILTER", exposure.metadata.get("filter")),
    ):
        if text:
            header[keyword] = _card_text(text)
    if exposure.metadata.get("INJECTED"):
        header["INJECTED"] = (True, "holds synthetic sources")
    history = exposure.metadata.get("history")
    for line in history if isinstance(history, (list, tuple)) else ():
        words = "".join(c if c.isascii() and c.isprintable() else "?" for c in str(line))
        header.add_history(words)


def _science_cards(exposure: Exposure) -> Any:
    """Return the standard cards of the image extension."""
    from astropy.io import fits

    header = fits.Header()
    if exposure.sky is not None:
        try:
            header.update(exposure.sky.shifted(exposure.box.x_min, exposure.box.y_min).to_header())
        except (PogsonError, NotImplementedError):
            header["COMMENT"] = "The sky map has no FITS form; it is in the extension POGSON."
    # IRAF physical coordinates: physical = FITS pixel - LTV, so that physical is the parent's pixel
    header["LTV1"] = (-float(exposure.box.x_min), "parent pixel = pixel - LTV1")
    header["LTV2"] = (-float(exposure.box.y_min), "parent pixel = pixel - LTV2")
    header["BUNIT"] = (exposure.unit.to_string(), "unit of the pixels")
    header["MEASURE"] = (exposure.measure.value, "fluence: light per pixel; else per area")
    header["BKGSUB"] = (exposure.background_subtracted, "background subtracted")
    calib = exposure.photo_calib
    if calib is not None and calib.instrument_unit == exposure.unit:
        from pogson.calib import header_cards

        restricted = calib
        if not calib.is_constant and calib.box.contains_box(exposure.box):
            restricted = calib.with_(field=calib.field.with_box(exposure.box), covariance=None)
        for keyword, value, comment in header_cards(restricted):
            header[keyword] = (value, comment)
        rate = exposure.unit.is_equivalent("adu / s") or exposure.unit.is_equivalent("electron / s")
        header["MAGZCONV"] = "MAGZERO is the AB magnitude of 1 unit of SCI as stored: " + (
            "a rate, EXPTIME not included" if rate else "EXPTIME included"
        )
    elif exposure.unit.is_equivalent("nJy"):
        per_unit = float(exposure.unit.to("nJy"))
        header["PHOTSYS"] = ("AB", "m = -2.5 log10(f_nu) - 48.60")
        header["MAGZERO"] = (31.4 - 2.5 * math.log10(per_unit), "mag of 1 unit of SCI")
    return header


def read_native_description(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the JSON description in a native exposure file, without reading pixels.

    Raises
    ------
    FileFormatError
        If the file has none, or of a version newer than this package knows.
    """
    with open_fits(path) as hdus:
        return _description(hdus, path)


def _description(hdus: Any, path: Any) -> dict[str, Any]:
    if "POGSON" not in hdus:
        raise MissingDataError(
            f"{os.fspath(path)} has no extension POGSON; it is not an exposure written by pogson. "
            f"Read it with instrument= one of the other presets."
        )
    _check_sum(hdus["POGSON"], path)
    text = hdus["POGSON"].data["JSON"][0]
    data = json.loads(text if isinstance(text, str) else bytes(text).decode("ascii"))
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise FileFormatError(
            f"{os.fspath(path)}: the extension POGSON holds no description with schema {SCHEMA!r}."
        )
    version = data.get("version")
    if not isinstance(version, int) or version < 1:
        raise FileFormatError(f"{os.fspath(path)}: schema version {version!r} is not a number.")
    if version > SCHEMA_VERSION:
        raise FileFormatError(
            f"{os.fspath(path)} was written with schema version {version}; this pogson reads up to "
            f"{SCHEMA_VERSION}. Upgrade pogson."
        )
    return data


def _check_sum(hdu: Any, path: Any) -> None:
    # 0: the sum disagrees; 1: it agrees; 2: the file carries none
    if hdu.verify_datasum() == 0:
        raise FileFormatError(
            f"{os.fspath(path)}: the data of extension {hdu.name} do not agree with its DATASUM; "
            f"the file is damaged."
        )


def _plane(
    hdus: Any, name: str, dtype: Any, box: Box, path: Any, part: Box | None = None
) -> np.ndarray:
    if name not in hdus:
        raise MissingDataError(f"{os.fspath(path)} has no extension {name}.")
    hdu = hdus[name]
    if part is not None and hdu.shape == box.shape:
        # the sum is of all pixels, which are not read here
        rows, columns = part.slices(box)
        data = np.asarray(hdu.section[rows])[:, columns]  # whole rows lie together in the file
        data = np.ascontiguousarray(data, data.dtype.newbyteorder("="))
        box = part
    else:
        _check_sum(hdu, path)
        data = pixels(hdu, path, name)
    if data.shape != box.shape:
        raise FileFormatError(
            f"{os.fspath(path)}: {name} has shape {data.shape}, its description says {box.shape}."
        )
    if data.dtype != np.dtype(dtype):
        raise FileFormatError(
            f"{os.fspath(path)}: {name} has type {data.dtype}; {np.dtype(dtype)} was expected."
        )
    data.flags.writeable = False
    return data


def read_native(
    path: str | os.PathLike[str],
    *,
    flat: ChromaticFlat | FlatFactors | None = None,
    box: Box | None = None,
) -> Exposure:
    """Read an exposure written by `write_native`, equal to what was written.

    Parameters
    ----------
    path : path-like
        The file.
    flat : ChromaticFlat or FlatFactors, optional
        The flat that the image was divided by, where it is too large to be kept with the image.
        Without it the exposure has no ``flattening``, only the name ``flattening_sed``.
    box : Box, optional
        Read only this part, which must lie inside the image; its pixels alone are held in memory.

    Returns
    -------
    pogson.images.Exposure

    Raises
    ------
    FileFormatError
        If the file is damaged, incomplete, or of a newer schema.
    MissingDataError
        If it is not a pogson exposure; or if its background is for another spectrum than the image
        and the flat is not given.
    BoundsError
        If ``box`` is not inside the image.
    """
    from pogson.images import Exposure, MaskBits

    with open_fits(path) as hdus:
        data = _description(hdus, path)
        whole = Box(*data["box"])
        part = None if box is None or box == whole else box
        at = (whole, path, part)
        image = _plane(hdus, "SCI", np.float32, *at)
        variance = _plane(hdus, "VARIANCE", np.float32, *at) if data["has_variance"] else None
        mask = _plane(hdus, "MASK", np.uint32, *at) if data["has_mask"] else None
        ratio, background = _field(data["area_ratio"]), _background(data, flat)
        if part is not None:
            ratio = None if ratio is None else ratio.with_box(part)
            background = None if background is None else background.with_box(part)
        return Exposure(
            image=image,
            variance=variance,
            mask=mask,
            mask_bits=MaskBits(data["mask_bits"], data.get("mask_docs") or {}),
            box=whole if part is None else part,
            unit=data["unit"],
            measure=data["measure"],
            sky=_sky(data["sky"]),
            psf=_psf(data["psf"]),
            photo_calib=_photo_calib(data["photo_calib"]),
            bandpass=data["bandpass"],
            flattening_sed=data["flattening_sed"],
            area_ratio=ratio,
            flattening=_flattening(data, flat),
            background=background,
            background_subtracted=data["background_subtracted"],
            exposure_id=data["exposure_id"],
            detector=data["detector"],
            metadata=from_json_value(data["metadata"]),
        )


def _field(data: Any) -> Any:
    return None if data is None else field_from_dict(from_json_value(data))


def _sky(data: Any) -> Any:
    from pogson.sky import skymap_from_dict

    return None if data is None else skymap_from_dict(from_json_value(data))


def _psf(data: Any) -> Any:
    if data is None:
        return None
    from pogson.psf import psf_from_dict

    return psf_from_dict(from_json_value(data))


def _photo_calib(data: Any) -> Any:
    if data is None:
        return None
    from pogson.calib import PhotoCalib

    return PhotoCalib.from_dict(from_json_value(data))


def _flattening(data: Any, flat: Any) -> Any:
    """Return the flattening, or None where the flat is neither in the file nor given."""
    description = data.get("flattening")
    if description is None or (description["flat"] is None and flat is None):
        return None
    from pogson.images import Flattening

    return Flattening.from_dict(from_json_value(description), flat)


def _background(data: Any, flat: Any) -> Any:
    description = data["background"]
    if description is None:
        return None
    from pogson.images import Background

    own = description.get("flattening")
    if own is not None and own["flat"] is None and flat is None and own == data.get("flattening"):
        # of the same state as the image: it can be subtracted and restored without the flat
        description = {**description, "flattening": None}
    return Background.from_dict(from_json_value(description), flat)
