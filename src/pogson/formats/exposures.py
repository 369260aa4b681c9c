"""Reading and writing exposures: one door for every camera's files."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import (
    FileFormatError,
    MaskedDataError,
    MeasureError,
    MissingDataError,
    PogsonError,
    PogsonValueError,
    UnitMismatchError,
)
from pogson.fields import Box
from pogson.formats.fits_access import (
    describe_hdus,
    find_image_hdu,
    header_value,
    is_image,
    merged_header,
    open_fits,
    pixels,
    reading,
)
from pogson.formats.header_meaning import (
    amplifier_gains,
    checked_gain,
    decide_measure,
    decide_unit,
    read_metadata,
)
from pogson.formats.instruments import InstrumentPreset, load_instrument
from pogson.formats.mask_translation import translate_mask
from pogson.units import Measure

if TYPE_CHECKING:
    from pogson.images import Exposure

__all__ = ["read_exposure", "sniff_instrument", "write_exposure"]

Pathlike = str | os.PathLike[str]


def sniff_instrument(path: Pathlike) -> str:
    """Return the name of the preset that fits a FITS image file.

    Parameters
    ----------
    path : path-like
        The file.

    Returns
    -------
    str
        ``"native"``, ``"decam-cp"``, ``"hsc"`` (any LSST-stack exposure), ``"pogson-sim"`` or
        ``"generic"``.

    Raises
    ------
    FileFormatError
        If it is not a readable FITS file.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from astropy.io import fits
    >>> name = tempfile.mktemp(suffix=".fits")
    >>> fits.PrimaryHDU(np.ones((2, 2), "f4")).writeto(name)
    >>> sniff_instrument(name)
    'generic'
    """
    with open_fits(path) as hdus:
        return sniff_open(hdus, Path(path))


def sniff_open(hdus: Any, path: Path) -> str:
    """Return what `sniff_instrument` returns, for a file that is open."""
    if any(hdu.name == "POGSON" for hdu in hdus):
        return "native"
    primary = hdus[0].header
    camera = str(header_value(primary, ["INSTRUME"], path) or "").lower()
    cp_name = re.search(r"c4d_\d{6}_\d{6}_oo[idw]_", path.name) is not None
    instcal = str(primary.get("PROCTYPE", "")).strip().lower() == "instcal"
    if cp_name or (camera == "decam" and instcal):
        return "decam-cp"
    kinds = {str(hdu.header.get("EXTTYPE", hdu.name)).strip().upper() for hdu in hdus[1:]}
    if {"IMAGE", "MASK", "VARIANCE"} <= kinds:
        return "hsc"
    if camera.startswith("pogson"):
        return "pogson-sim"
    return "generic"


@dataclass(frozen=True)
class ExposureFiles:
    """The files of one exposure: image, and where they are files of their own, mask and weight."""

    image: Path
    mask: Path | None
    weight: Path | None


def locate_files(path: Pathlike, preset: InstrumentPreset) -> ExposureFiles:
    """Find an exposure's files from any one of them by the preset's file-name rule.

    Raises
    ------
    MissingDataError
        If ``path`` is a mask or weight whose image is not beside it.
    """
    target = Path(path)
    rule = preset.siblings
    match = re.search(rule.pattern, target.name) if rule else None
    if rule is None or match is None:
        return ExposureFiles(target, None, None)

    def sibling(part: str) -> Path | None:
        if not part:
            return None
        name = target.name[: match.start(1)] + part + target.name[match.end(1) :]
        bare = re.sub(r"\.(fz|gz)$", "", name)
        for candidate in (name, bare, f"{bare}.fz", f"{bare}.gz"):
            if target.with_name(candidate).exists():
                return target.with_name(candidate)
        return None

    image = sibling(rule.image)
    if image is None:
        raise MissingDataError(
            f"{target} is the {match.group(1)!r} file of a set, but its image (with "
            f"{rule.image!r} in the name) is not beside it."
        )
    return ExposureFiles(image, sibling(rule.mask), sibling(rule.weight))


def read_exposure(
    path: Pathlike,
    *,
    instrument: str | os.PathLike[str] | InstrumentPreset | None = None,
    detector: str | int | None = None,
    weight: Pathlike | None = None,
    mask: Pathlike | None = None,
    psf: Any = None,
    measure: str | Measure | None = None,
    unit: Any = None,
    gain: float | None = None,
    bandpass: str | None = None,
    reference_pixel_area: float | None = None,
) -> Exposure:
    """Read one detector's image with everything that says what its numbers mean.

    Parameters
    ----------
    path : path-like
        Image file; for cameras that write image, mask and weight as three files, any of the three.
    instrument : str, path-like or InstrumentPreset, optional
        Preset (`pogson.formats.load_instrument`); found from the file by default.
    detector : str or int, optional
        Which image of a file with several: extension name, DETPOS or CCDNUM.
    weight, mask : path-like, optional
        Files to use instead of those that the preset finds.
    psf : PSF or path-like or "auto", optional
        A PSF, a PSF file (PSFEx, Piff), or ``"auto"`` to look where the Legacy Surveys keep theirs
        (``calib/psfex...`` beside ``images``). None (default): no PSF.
    measure : str or Measure, optional
        ``"fluence"`` or ``"surface_brightness"``, overriding header and preset.
    unit : unit-like, optional
        Unit of the pixels, overriding header and preset.
    gain : float, optional
        Electrons per unit of the pixels (per second where the unit is per second, times the
        exposure time), overriding the header.
    bandpass : str, optional
        Name of the bandpass, overriding the preset's choice from the filter.
    reference_pixel_area : float, optional
        A0 in arcsec2: ``fluence = surface brightness x A(x, y) / A0``. By default the camera's
        nominal pixel area from the preset, else the area at the centre of the image.

    Returns
    -------
    pogson.images.Exposure
        Pixels as float32, variance (infinite where the weight is 0), mask in pogson's names.

    Raises
    ------
    FileFormatError
        Truncated, damaged or non-FITS file; mask or weight of another shape; negative weights.
    MissingDataError
        A missing extension or file.
    MeasureError
        If neither the header nor the preset nor ``measure`` tells what the pixels measure.
    UnitMismatchError
        If the unit is unknown or not one of counts, electrons or flux density.
    MaskedDataError
        If no usable pixel is left.
    PogsonValueError
        For a gain that is not positive, or a WCS that is not usable.

    Notes
    -----
    Pixels that hold no information (NaN, or weight 0 without a reason in the mask) get the mask
    name NO_DATA and the value NaN: missing is missing. Weight 0 with a reason keeps its value and
    its mask name, with infinite variance.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from astropy.io import fits
    >>> name = tempfile.mktemp(suffix=".fits")
    >>> hdu = fits.PrimaryHDU(np.full((4, 5), 100.0, "f4"))
    >>> hdu.header["BUNIT"], hdu.header["GAIN"] = "adu", 2.0
    >>> hdu.writeto(name)
    >>> exposure = read_exposure(name, measure="fluence")
    >>> exposure.unit, exposure.box.shape, exposure.metadata["gain"]
    (Unit("adu"), (4, 5), 2.0)
    """
    target = Path(path)
    preset = load_instrument(sniff_instrument(target) if instrument is None else instrument)
    if preset.name == "native":
        from pogson.formats.native import read_native

        exposure = read_native(target)
        return exposure if psf is None else exposure.with_(psf=resolve_psf(psf, target, exposure))
    if gain is not None:
        checked_gain(gain, "gain=", "argument")
    files = locate_files(target, preset)
    files = ExposureFiles(
        files.image,
        files.mask if mask is None else Path(mask),
        files.weight if weight is None else Path(weight),
    )
    planes = _read_planes(files, preset, detector)
    with reading(files.image, "an exposure"):  # header cards are parsed when they are looked at
        return _assemble(
            planes, files, preset, measure=measure, unit=unit, gain=gain, bandpass=bandpass,
            area=reference_pixel_area, psf=psf,
        )  # fmt: skip


@dataclass(frozen=True)
class _Planes:
    """Raw planes as read: arrays in native byte order and the merged image header."""

    image: np.ndarray
    mask: np.ndarray | None
    weight: np.ndarray | None
    header: Any
    mask_header: Any
    extension: str


def _read_planes(
    files: ExposureFiles, preset: InstrumentPreset, detector: str | int | None
) -> _Planes:
    with open_fits(files.image) as hdus:
        index = _image_index(hdus, files.image, preset, detector)
        hdu = hdus[index]
        header = merged_header(hdus, hdu)
        image = pixels(hdu, files.image, "image")
        name = str(header_value(header, ["EXTNAME"], files.image) or "")
        mask = mask_header = weight = None
        if files.mask is None and preset.mask_extension:
            other = _same_file_plane(hdus, files.image, preset.mask_extension)
            mask_header, mask = other.header, pixels(other, files.image, "mask")
        if files.weight is None and preset.weight_extension:
            other = _same_file_plane(hdus, files.image, preset.weight_extension)
            weight = pixels(other, files.image, "weight")
    wanted = detector if detector is not None else (name or None)
    if files.mask is not None:
        mask, mask_header = _plane_of_file(files.mask, wanted, "mask")
    if files.weight is not None:
        weight, _ = _plane_of_file(files.weight, wanted, "weight map")
    for plane, what, where in ((mask, "mask", files.mask), (weight, "weight map", files.weight)):
        if plane is not None and plane.shape != image.shape:
            raise FileFormatError(
                f"The {what} {where or files.image} has shape {plane.shape} (ny, nx), but the "
                f"image {files.image} has {image.shape}; they must be equal."
            )
    return _Planes(image, mask, weight, header, mask_header, name)


def _image_index(
    hdus: Any, path: Path, preset: InstrumentPreset, detector: str | int | None
) -> int:
    if detector is None and preset.image_extension:
        wanted = _named_extension(hdus, preset.image_extension)
        if wanted is None:
            raise MissingDataError(
                f"{path} has no extension {preset.image_extension!r}, which the instrument preset "
                f"{preset.name!r} needs; it has {describe_hdus(hdus)}."
            )
        return wanted
    return find_image_hdu(hdus, path, detector)


def _named_extension(hdus: Any, name: str) -> int | None:
    for i, hdu in enumerate(hdus):
        names = (hdu.name, str(hdu.header.get("EXTTYPE", "")).strip().upper())
        if name.upper() in names and is_image(hdu):
            return i
    return None


def _same_file_plane(hdus: Any, path: Path, name: str) -> Any:
    index = _named_extension(hdus, name)
    if index is None:
        raise MissingDataError(
            f"{path} has no extension {name!r}, which the instrument preset names; it has "
            f"{describe_hdus(hdus)}."
        )
    return hdus[index]


def _plane_of_file(path: Path, detector: Any, what: str) -> tuple[np.ndarray, Any]:
    with open_fits(path) as hdus:
        images = [i for i, hdu in enumerate(hdus) if is_image(hdu)]
        index = images[0] if len(images) == 1 else find_image_hdu(hdus, path, detector)
        return pixels(hdus[index], path, what), merged_header(hdus, hdus[index])


def _variance(
    planes: _Planes, preset: InstrumentPreset, where: Path
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return variance (infinite where unusable) and a boolean array of weight 0."""
    raw = planes.weight
    if raw is None:
        return None, None
    weight = raw.astype(np.float64)
    negative = weight < 0
    if negative.any():
        raise FileFormatError(
            f"{where}: the weight map ({preset.weight_kind.replace('_', ' ')}) is negative at "
            f"{int(negative.sum())} of {weight.size} pixels, the lowest value is "
            f"{np.nanmin(weight):.6g}; a weight is positive, or 0 where there is no information."
        )
    if preset.weight_kind == "inverse_variance":
        usable = np.isfinite(weight) & (weight > 0)
        variance = np.where(usable, 1.0 / np.where(usable, weight, 1.0), np.inf)
    else:
        variance = weight if preset.weight_kind == "variance" else weight**2
        usable = np.isfinite(variance) & (variance > 0)
        variance = np.where(usable, variance, np.inf)
    with np.errstate(over="ignore"):
        return variance.astype(np.float32), ~usable


def _assemble(
    planes: _Planes,
    files: ExposureFiles,
    preset: InstrumentPreset,
    *,
    measure: Any,
    unit: Any,
    gain: float | None,
    bandpass: str | None,
    area: float | None,
    psf: Any,
) -> Exposure:
    from pogson.images import Exposure
    from pogson.images.mask import MaskBits

    path, header = files.image, planes.header
    kind, measure_why = decide_measure(header, preset, measure, path)
    if kind is None:
        raise MeasureError(
            f"{path}: cannot tell whether the pixels are fluence or surface brightness "
            f"({measure_why}). Divided by a dome or sky flat only they are surface brightness; "
            f"with a star flat or illumination correction fluence. Say it with measure=."
        )
    pixel_unit, unit_why = decide_unit(header, preset, unit, path)
    if pixel_unit is None:
        raise UnitMismatchError(
            f"{path}: the unit of the pixels is unknown ({unit_why}). Say it with unit=, for "
            f"example 'adu' or 'electron / s'."
        )
    metadata = read_metadata(header, preset, path, pixel_unit, gain)
    bits = MaskBits.standard()
    rule = preset.mask_rule(metadata.get("pipeline_version"))
    mask = translate_mask(planes.mask, planes.mask_header, rule, bits, files.mask or path)
    image = planes.image.astype(np.float32)
    variance, weightless = _variance(planes, preset, files.weight or path)
    mask = _mark_missing(image, mask, weightless, bits)
    if variance is not None:
        variance[np.isnan(image)] = np.inf
    _check_usable(mask, bits, path)
    box, sky = read_geometry(header, preset, image.shape, path)
    if gain is None and pixel_unit.is_equivalent("adu"):
        amplifiers = amplifier_gains(header, preset, path, box)
        if amplifiers:
            metadata["amplifiers"] = amplifiers
    metadata.update(
        instrument=preset.name, file=str(path), extension=planes.extension,
        mask_file=None if files.mask is None else str(files.mask),
        weight_file=None if files.weight is None else str(files.weight),
        measure_because=measure_why, unit_because=unit_why,
    )  # fmt: skip
    band = metadata.get("band")
    exposure = Exposure(
        image=image, variance=variance, mask=mask, mask_bits=bits, box=box, unit=pixel_unit,
        measure=kind, sky=sky, psf=None, photo_calib=None,
        bandpass=bandpass or preset.bandpasses.get(str(band), None if band is None else str(band)),
        flattening_sed=None, area_ratio=_area_ratio(sky, box, area or preset.pixel_area),
        background=None,
        exposure_id=str(metadata.get("exposure") or path.name.split(".")[0]),
        detector=str(metadata.get("detector") or _detector_of_extension(planes.extension)),
        metadata={k: v for k, v in metadata.items() if v is not None},
    )  # fmt: skip
    if psf is None:
        return exposure
    return exposure.with_(psf=resolve_psf(psf, path, exposure))


def _detector_of_extension(name: str) -> str:
    """Return an extension name that may be a detector's, not the name of a plane."""
    return "" if name.upper() in ("SCI", "IMAGE", "PRIMARY", "SCIENCE") else name


def _mark_missing(
    image: np.ndarray, mask: np.ndarray | None, weightless: np.ndarray | None, bits: Any
) -> np.ndarray:
    """Set NaN and NO_DATA, together, where there is no information; change ``image`` in place."""
    mask = np.zeros(image.shape, np.uint32) if mask is None else mask
    missing = ~np.isfinite(image)
    if weightless is not None:
        missing |= weightless & (mask == 0)
    missing |= (mask & np.uint32(bits.value("NO_DATA"))) != 0
    image[missing] = np.nan
    mask[missing] |= np.uint32(bits.value("NO_DATA"))
    return mask


def _check_usable(mask: np.ndarray, bits: Any, path: Path) -> None:
    from pogson.images.mask import BAD_FOR_PHOTOMETRY

    bad = (mask & np.uint32(bits.value_of_known(BAD_FOR_PHOTOMETRY))) != 0
    if bad.all():
        counts = {
            name: int(((mask >> np.uint32(bits[name])) & np.uint32(1)).sum())
            for name in BAD_FOR_PHOTOMETRY
        }
        words = ", ".join(f"{name} {n}" for name, n in counts.items() if n)
        raise MaskedDataError(
            f"{path}: all {mask.size} pixels are masked ({words}); nothing can be measured. At "
            f"least some must be good: check the mask and weight files that belong to it."
        )


def read_geometry(
    header: Any, preset: InstrumentPreset, shape: tuple[int, ...], path: Path
) -> tuple[Box, Any]:
    """Return box and sky map; LSST-stack sub-images keep their parent's pixel origin."""
    x0 = y0 = 0
    if preset.name == "hsc":
        x0, y0 = (round(-float(header.get(k, 0.0))) for k in ("LTV1", "LTV2"))
    box = Box.from_shape(shape, x_min=x0, y_min=y0)
    if header_value(header, ["CTYPE1"], path) is None:
        return box, None
    from pogson.sky import FitsSkyMap

    with reading(path, "an image with a WCS"):
        try:
            sky: Any = FitsSkyMap.from_header(header)
        except PogsonValueError as error:
            raise type(error)(f"{path}: {error}") from error
    if x0 or y0:
        sky = sky.shifted(-x0, -y0)
    return box, sky


def _area_ratio(sky: Any, box: Box, area: float | None) -> Any:
    if sky is None:
        return None
    x, y = box.center
    reference = float(sky.pixel_area(x=x, y=y)) if area is None else float(area)
    return sky.pixel_area_field(box).relative_to(reference)


def resolve_psf(psf: Any, path: Path, exposure: Exposure) -> Any:
    """Return a PSF from a PSF, a file, or ``"auto"`` (the Legacy Surveys' calib tree).

    Raises
    ------
    MissingDataError
        If no PSF file is found, or the file has no PSF of this exposure and detector.
    """
    from pogson.psf import PSF

    if isinstance(psf, PSF):
        return psf
    from pogson.formats.psf_files import find_psf_file, read_psf

    where = find_psf_file(path, exposure.detector) if psf == "auto" else Path(psf)
    meta: Mapping[str, Any] = exposure.metadata
    found = read_psf(
        where,
        detector=exposure.detector or None,
        detector_number=meta.get("detector_number"),
        exposure=exposure.exposure_id or None,
        sky=exposure.sky,
        box=exposure.box,
    )
    try:
        exposure.with_(psf=found)
    except PogsonError as error:
        raise type(error)(f"The PSF file {where} does not fit {path}: {error}") from None
    return found


def write_exposure(path: Pathlike, exposure: Exposure) -> Path:
    """Write an exposure as pogson's native FITS file; see `pogson.formats.native`.

    Parameters
    ----------
    path : path-like
        File to write; ``.fits`` or ``.fits.gz``. Written under a temporary name and renamed.
    exposure : pogson.images.Exposure
        What to write.

    Returns
    -------
    pathlib.Path

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from pogson.images import Exposure
    >>> from pogson.fields import Box
    >>> name = tempfile.mktemp(suffix=".fits")
    >>> exposure = Exposure(image=np.ones((3, 4), np.float32), box=Box(0, 0, 4, 3), unit="adu",
    ...                     measure="fluence")
    >>> read_exposure(write_exposure(name, exposure)) == exposure
    True
    """
    from pogson.formats.native import write_native

    return write_native(path, exposure)
