"""Postage stamps for scene modelling: SCI, MSK and WGT extensions cut around a target.

Stamps of this kind carry pixels only: where they were cut, their map to the sky, PSF and zero point
come from elsewhere, and are put together here with their conventions said.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pogson.errors import (
    BoundsError,
    FileFormatError,
    MaskedDataError,
    MissingDataError,
    PogsonValueError,
    choices,
)
from pogson.fields import Box
from pogson.formats.fits_access import (
    describe_hdus,
    find_image_hdu,
    header_value,
    merged_header,
    open_fits,
    pixels,
    reading,
)
from pogson.images.mask import MaskBits
from pogson.units import NJY_AB_MAGNITUDE

if TYPE_CHECKING:
    from pogson.psf import PSF
    from pogson.scene.exposure import SceneExposure
    from pogson.sky import FitsSkyMap, SkyMap

__all__ = [
    "DES_MASK_BITS",
    "STAMP_ORIGINS",
    "StampPixels",
    "read_sky_header",
    "read_stamp",
    "read_stamp_pixels",
    "stamp_box",
]

DES_MASK_BITS = MaskBits(
    {
        "BPM": 0, "SATURATE": 1, "INTERP": 2, "BADAMP": 3, "CRAY": 4, "STAR": 5, "TRAIL": 6,
        "EDGEBLEED": 7, "SSXTALK": 8, "EDGE": 9, "STREAK": 10, "SUSPECT": 11, "FIXED": 12,
        "NEAREDGE": 13, "TAPEBUMP": 14,
    },
    {
        "BPM": "bad pixel", "SATURATE": "saturated", "INTERP": "interpolated",
        "BADAMP": "bad amplifier", "CRAY": "cosmic ray", "STAR": "part of a bright star",
        "TRAIL": "bleed trail", "EDGEBLEED": "bleed into the edge",
        "SSXTALK": "crosstalk of a saturated star", "EDGE": "edge of the detector",
        "STREAK": "satellite or aeroplane", "SUSPECT": "usable with care", "FIXED": "repaired",
        "NEAREDGE": "near the edge", "TAPEBUMP": "tape bump",
    },
)  # fmt: skip
"""Mask bits of DES single-exposure images (Morganson et al. 2018, PASP 130, 074501)."""

STAMP_ORIGINS: Mapping[str, str] = {
    "smp2023": "first pixel ceil(x - n/2) with x counted from 1 but used as if from 0",
    "cutout": "first pixel ceil(x - n/2), x counted from 0 (as astropy's Cutout2D)",
    "centered": "first pixel round(x) - n // 2, x counted from 0",
    "header": "from the cards LTV1, LTV2 (or a WCS of the stamp itself, where no other is given)",
}
"""Ways to say which pixel of the detector a stamp starts with, and what they mean."""


class StampPixels(NamedTuple):
    """The pixels of a stamp file.

    Parameters
    ----------
    image : numpy.ndarray, shape (ny, nx)
        Float64; NaN where nothing was recorded.
    variance : numpy.ndarray, shape (ny, nx)
        One over the weight; infinite where the weight is 0 or not finite.
    mask : numpy.ndarray of uint32, shape (ny, nx)
        Bits as in the file.
    header : astropy.io.fits.Header
        Of the image, with the primary header's cards beneath it.
    """

    image: np.ndarray
    variance: np.ndarray
    mask: np.ndarray
    header: Any


def read_stamp_pixels(
    path: str | os.PathLike[str],
    *,
    science: str = "SCI",
    mask: str | None = "MSK",
    weight: str = "WGT",
) -> StampPixels:
    """Read the three planes of a stamp file.

    Parameters
    ----------
    path : path-like
        FITS file.
    science, weight : str
        Names of the extensions with the image and its weight, the inverse of its variance.
    mask : str or None
        Name of the extension with the mask; None: there is none.

    Returns
    -------
    StampPixels

    Raises
    ------
    FileFormatError
        If the file is damaged, the planes have different shapes, or a weight is negative.
    MissingDataError
        If an extension is missing.

    Examples
    --------
    >>> import tempfile
    >>> from astropy.io import fits
    >>> name = tempfile.mktemp(suffix=".fits")
    >>> planes = [("SCI", np.ones((3, 4), "f4")), ("MSK", np.zeros((3, 4), "i2")),
    ...           ("WGT", np.full((3, 4), 0.25, "f4"))]
    >>> hdus = [fits.PrimaryHDU()] + [fits.ImageHDU(data, name=name) for name, data in planes]
    >>> fits.HDUList(hdus).writeto(name)
    >>> float(read_stamp_pixels(name).variance[0, 0])
    4.0
    """
    target = Path(path)
    with open_fits(target) as hdus:
        names = {str(hdu.name).upper() for hdu in hdus}
        for wanted in (science, weight, mask):
            if wanted is not None and wanted.upper() not in names:
                raise MissingDataError(
                    f"{target} has no extension {wanted!r}; it has {describe_hdus(hdus)}. A stamp "
                    "file holds an image, its weight (inverse variance) and a mask."
                )
        hdu = hdus[find_image_hdu(hdus, target, science)]
        image = pixels(hdu, target, "image").astype(np.float64)
        weights = pixels(hdus[find_image_hdu(hdus, target, weight)], target, "weight")
        bits = np.zeros(image.shape, np.uint32)
        if mask is not None:
            raw = pixels(hdus[find_image_hdu(hdus, target, mask)], target, "mask")
            bits = _bits(raw, target)
        header = merged_header(hdus, hdu)
    for plane, what in ((weights, "weight"), (bits, "mask")):
        if plane.shape != image.shape:
            raise FileFormatError(
                f"{target}: the {what} has shape {plane.shape} (ny, nx), the image {image.shape}; "
                "they must be equal."
            )
    return StampPixels(_missing(image), _variance(weights, target), bits, header)


def _bits(raw: np.ndarray, path: Path) -> np.ndarray:
    if raw.dtype.kind == "f":
        if not np.array_equal(raw, np.floor(raw)):
            raise FileFormatError(f"{path}: the mask has values that are not whole numbers.")
        raw = raw.astype(np.int64)
    if raw.dtype.kind == "i" and raw.dtype.itemsize == 2:
        raw = raw.view(np.uint16)  # bit 15 of an int16 mask is a bit, not a sign
    return raw.astype(np.int64).astype(np.uint32)


def _missing(image: np.ndarray) -> np.ndarray:
    image[~np.isfinite(image)] = np.nan
    return image


def _variance(weight: np.ndarray, path: Path) -> np.ndarray:
    weights = weight.astype(np.float64)
    if np.any(weights < 0):
        raise FileFormatError(
            f"{path}: {int(np.sum(weights < 0))} weights are negative; a weight is an inverse "
            "variance, 0 where there is no information."
        )
    good = np.isfinite(weights) & (weights > 0)
    variance = np.full(weights.shape, np.inf)
    np.divide(1.0, weights, out=variance, where=good)
    return variance


def stamp_box(
    shape: tuple[int, int], *, x: float, y: float, origin: str | tuple[int, int] = "smp2023"
) -> Box:
    """Return where a stamp lies on its detector.

    Parameters
    ----------
    shape : tuple of int
        (ny, nx) of the stamp.
    x, y : float
        Position of the target in the detector's pixels (0-based, centres on integers).
    origin : str or tuple of int
        A name of `STAMP_ORIGINS` (except ``"header"``), or the first pixel (x_min, y_min) itself.

    Returns
    -------
    Box

    Raises
    ------
    PogsonValueError
        If the origin is unknown.
    BoundsError
        If the target is not on the stamp.

    Notes
    -----
    ``"smp2023"`` is the cutting of Bernardinelli et al. (2023, ApJS 269, 18): a position counted
    from 1 is used as if it were counted from 0, so that in a stamp of 30 pixels the target lies at
    13 + frac(x), not 14 + frac(x). When the fraction is within about 0.01 of 0 or 1, the origin can
    be one pixel off, because the stamp was cut at a slightly different position; the fit tests that
    (see `pogson.scene.SceneModel`).

    Examples
    --------
    >>> box = stamp_box((30, 30), x=870.42, y=2368.66)
    >>> box.x_min, box.y_min, round(870.42 - box.x_min, 2)
    (857, 2355, 13.42)
    """
    ny, nx = shape
    if not (np.isfinite(x) and np.isfinite(y)):
        raise BoundsError(f"The target is at x={x!r}, y={y!r}: its sky map does not reach there.")
    if isinstance(origin, str):
        if origin == "smp2023":
            first = [int(np.ceil(p + 1.0 - 0.5 * n)) for p, n in ((x, nx), (y, ny))]
        elif origin == "cutout":
            first = [int(np.ceil(p - 0.5 * n)) for p, n in ((x, nx), (y, ny))]
        elif origin == "centered":
            first = [int(np.floor(p + 0.5)) - n // 2 for p, n in ((x, nx), (y, ny))]
        else:
            named = [name for name in STAMP_ORIGINS if name != "header"]
            raise PogsonValueError(
                f"origin={origin!r} is unknown; allowed: {choices(named)}, or (x_min, y_min)."
            )
    else:
        first = [int(v) for v in origin]
    box = Box(first[0], first[1], nx, ny)
    if not bool(box.contains(x=x, y=y)):
        raise BoundsError(
            f"The target at x={x:.2f}, y={y:.2f} (pixels from 0) is outside its stamp, which "
            f"covers x {box.x_min} to {box.x_max}, y {box.y_min} to {box.y_max}: wrong position, "
            "sky map or origin."
        )
    return box


def read_sky_header(path: str | os.PathLike[str], *, extension: str | None = None) -> FitsSkyMap:
    r"""Read the map to the sky in a header: a text file of cards (``.hdr``) or a FITS file.

    Parameters
    ----------
    path : path-like
        Cards of 80 characters, with or without line breaks; or a FITS file.
    extension : str, optional
        Which extension of a FITS file; by default the first with an image, else the primary header.

    Returns
    -------
    pogson.sky.FitsSkyMap

    Raises
    ------
    FileFormatError
        If the file is neither.
    PogsonValueError
        If the header has no usable celestial map.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from pogson.sky import FitsSkyMap
    >>> header = FitsSkyMap.tan(150.0, 2.0, x=50.0, y=50.0, scale_arcsec=0.2).to_header()
    >>> name = pathlib.Path(tempfile.mkdtemp()) / "a.hdr"
    >>> _ = name.write_text(header.tostring(sep="\n"))
    >>> ra, dec = read_sky_header(name).sky(x=50.0, y=50.0)
    >>> round(ra, 6), round(dec, 6)
    (150.0, 2.0)
    """
    from astropy.io import fits

    from pogson.sky import FitsSkyMap

    target = Path(path)
    if not target.is_file():
        raise FileFormatError(f"{target} does not exist; it should hold a FITS header.")
    with reading(target, "a FITS header"):
        content = target.read_bytes()
        if content[:9] == b"SIMPLE  =" or content[:2] == b"\x1f\x8b":
            return FitsSkyMap.from_header(_header_of_file(target, extension))
        text = content.decode("ascii")
        broken = "\n" in text[:400]
        header = fits.Header.fromstring(
            text.replace("\r\n", "\n").rstrip("\n"), sep="\n" if broken else ""
        )
        return FitsSkyMap.from_header(header)


def _header_of_file(path: Path, extension: str | None) -> Any:
    with open_fits(path) as hdus:
        if extension is not None:
            return merged_header(hdus, hdus[find_image_hdu(hdus, path, extension)])
        if len(hdus) == 1 or "CTYPE1" in hdus[0].header:
            return hdus[0].header.copy()
        return merged_header(hdus, hdus[find_image_hdu(hdus, path)])


def read_stamp(
    path: str | os.PathLike[str],
    *,
    ra: float,
    dec: float,
    psf: PSF | None,
    zero_point: float,
    zero_point_err: float = 0.0,
    sky: SkyMap | None = None,
    origin: str | tuple[int, int] = "smp2023",
    bad: str | Iterable[str | int] = "any",
    mask_bits: MaskBits = DES_MASK_BITS,
    gain: float | None = None,
    exposure_id: str = "",
    time: float | None = None,
    variance_includes_sources: bool = False,
    science: str = "SCI",
    mask: str | None = "MSK",
    weight: str = "WGT",
    metadata: Mapping[str, Any] | None = None,
) -> SceneExposure:
    """Read a stamp and put it where it belongs.

    Parameters
    ----------
    path : path-like
        FITS file with image, weight (inverse variance) and mask.
    ra, dec : float
        Position of the target that the stamp was cut for, in degrees.
    psf : PSF
        Of this detector, in the detector's pixels.
    zero_point : float
        AB magnitude of one count of the image; the result is scaled to nJy.
    zero_point_err : float, optional
        Its standard error in magnitudes.
    sky : SkyMap, optional
        Of the detector. None: the stamp's own header has a map (with ``origin="header"``).
    origin : str or tuple of int
        See `stamp_box` and `STAMP_ORIGINS`.
    bad : "any", "none" or iterable of str or int
        Mask bits whose pixels are left out: any bit, none, or names of ``mask_bits`` and values.
    mask_bits : MaskBits
        Names of the file's bits; those of DES by default.
    gain : float, optional
        Electrons per count.
    exposure_id : str
        Name of the exposure.
    time : float, optional
        Modified Julian date.
    variance_includes_sources : bool
        Whether the weight has the photon noise of the sources in it already.
    science, mask, weight : str
        Names of the extensions.
    metadata : mapping, optional
        Anything else to keep with the exposure.

    Returns
    -------
    pogson.scene.SceneExposure

    Raises
    ------
    FileFormatError
        If the file is missing, damaged, or its planes differ in shape.
    MissingDataError
        If an extension, the PSF, the zero point or the map to the sky is missing.
    MaskedDataError
        If no pixel is usable: masked, without weight, or NaN.
    BoundsError
        If the target is outside the stamp.

    Examples
    --------
    >>> import tempfile
    >>> from astropy.io import fits
    >>> from pogson import FitsSkyMap, GaussianPSF
    >>> name = tempfile.mktemp(suffix=".fits")
    >>> planes = [("SCI", np.ones((30, 30), "f4")), ("MSK", np.zeros((30, 30), "i2")),
    ...           ("WGT", np.full((30, 30), 0.25, "f4"))]
    >>> hdus = [fits.PrimaryHDU()] + [fits.ImageHDU(data, name=name) for name, data in planes]
    >>> fits.HDUList(hdus).writeto(name)
    >>> sky = FitsSkyMap.tan(150.0, 2.0, x=500.3, y=400.7, scale_arcsec=0.26)
    >>> read_stamp(name, ra=150.0, dec=2.0, psf=GaussianPSF(fwhm=4.0), zero_point=30.0, sky=sky,
    ...            exposure_id="a")
    <SceneExposure 'a' 30 x 30 pixels at (487, 387), 900 usable>
    """
    from pogson.scene.exposure import SceneExposure, scale_from_zero_point

    target = Path(path)
    if psf is None:
        raise MissingDataError(f"{target.name} has no PSF; every exposure needs its own.")
    if zero_point is None or not np.isfinite(zero_point):
        raise MissingDataError(f"{target.name} has no zero point (it is {zero_point!r}).")
    planes = read_stamp_pixels(target, science=science, mask=mask, weight=weight)
    box, sky = _place(planes, target, sky, ra, dec, origin)
    wrong = bad_pixels(planes, bad, mask_bits)
    if wrong.all():
        raise MaskedDataError(f"{target.name} has no usable pixel: {_why_unusable(planes, wrong)}.")
    return SceneExposure(
        planes.image,
        planes.variance,
        box,
        sky,
        psf,
        scale_from_zero_point(float(zero_point), NJY_AB_MAGNITUDE),
        wrong,
        exposure_id=exposure_id or target.stem,
        gain=gain,
        time=time,
        variance_includes_sources=variance_includes_sources,
        origin_exact=origin == "header" or not isinstance(origin, str),
        scale_error=float(zero_point_err) * np.log(10.0) / 2.5,
        metadata=dict(metadata or {}),
    )


def bad_pixels(
    planes: StampPixels, bad: str | Iterable[str | int], mask_bits: MaskBits = DES_MASK_BITS
) -> np.ndarray:
    """Return which pixels of a stamp are not to be used.

    Parameters
    ----------
    planes : StampPixels
        The stamp.
    bad : "any", "none" or iterable of str or int
        Mask bits that count.
    mask_bits : MaskBits
        Their names.

    Returns
    -------
    numpy.ndarray of bool

    Examples
    --------
    >>> image = np.ones((1, 4))
    >>> planes = StampPixels(image, image, np.array([[0, 2, 16, 2048]], np.uint32), {})
    >>> bad_pixels(planes, ["SATURATE", 16])
    array([[False,  True,  True, False]])
    """
    if isinstance(bad, str):
        if bad not in ("any", "none"):
            raise PogsonValueError(
                f"bad={bad!r} is unknown; allowed: 'any', 'none', or a list of names and values."
            )
        value = 0xFFFFFFFF if bad == "any" else 0
    else:
        value = 0
        for item in bad:
            value |= int(item) if isinstance(item, int) else mask_bits.value(str(item).upper())
    wrong = (planes.mask & np.uint32(value)) != 0
    return np.asarray(wrong | ~np.isfinite(planes.image) | ~np.isfinite(planes.variance), bool)


def _why_unusable(planes: StampPixels, wrong: np.ndarray) -> str:
    n = wrong.size
    parts = [
        (int(np.isinf(planes.variance).sum()), "have weight 0"),
        (int(np.isnan(planes.image).sum()), "are NaN"),
        (int((planes.mask != 0).sum()), "have mask bits"),
    ]
    return ", ".join(f"{count} of {n} {words}" for count, words in parts if count)


def _place(
    planes: StampPixels,
    path: Path,
    sky: SkyMap | None,
    ra: float,
    dec: float,
    origin: str | tuple[int, int],
) -> tuple[Box, SkyMap]:
    """Return the stamp's box on the detector and the detector's map to the sky."""
    shape = planes.image.shape
    if origin == "header":
        first = [0, 0]
        for axis, keyword in enumerate(("LTV1", "LTV2")):
            value = header_value(planes.header, [keyword], path)
            if value is not None:
                first[axis] = round(-float(value))
            elif sky is not None:
                raise MissingDataError(
                    f"{path.name} has no card {keyword}, which says where the stamp was cut; give "
                    "another origin."
                )
        if sky is None:
            from pogson.sky import FitsSkyMap

            own = FitsSkyMap.from_header(planes.header)
            sky = own.shifted(-first[0], -first[1])
        origin = (first[0], first[1])
    if sky is None:
        raise MissingDataError(
            f"{path.name} has no map to the sky; give the WCS of its detector, a PSF file with "
            "star positions (Piff), or origin = 'header' where the stamp has a WCS of its own."
        )
    x, y = sky.pixel(float(ra), float(dec))
    return stamp_box((shape[0], shape[1]), x=x, y=y, origin=origin), sky
