"""Flux-conserving resampling of fluence images, with the covariance of their noise.

A pixel of a fluence image holds light. Its resampled value is an interpolation of the input times
the area of the output pixel over that of the input pixel *there*, so that sums of pixels, fluxes,
stay what they were however the map stretches. Pixels are 0-based with centres on integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import (
    MaskedDataError,
    MeasureError,
    MissingDataError,
    PogsonTypeError,
    PogsonValueError,
)
from pogson.fields import Box, ConstantField
from pogson.images._pixel_map import TOLERANCE, PixelMap, check_fold, overlap_box, pixel_map
from pogson.images._resampling import Resampling
from pogson.images.coadd_psf import CoaddPSF, PsfInput
from pogson.images.exposure import Exposure
from pogson.images.mask import BAD_FOR_PHOTOMETRY, MaskBits
from pogson.images.noise_correlation import NoiseCorrelation, warp_correlation
from pogson.units import Measure

if TYPE_CHECKING:
    from pogson.sky import SkyMap

__all__ = ["DEFAULT_MASK_THRESHOLD", "MASK_THRESHOLDS", "MAX_MISSING", "Warp", "warp"]

DEFAULT_MASK_THRESHOLD = 0.02
"""Share of the kernel's weight from which a mask name of an input pixel goes to the output."""

MASK_THRESHOLDS: Mapping[str, float] = {"DETECTED": 0.5, "INJECTED": 0.5, "INJECTED_CORE": 0.5}
"""Mask names with a threshold of their own: footprints, that need not grow."""

MAX_MISSING = 0.02
"""Share of the kernel's weight that may be missing; the rest is then scaled up."""

_MISSING = tuple(n for n in BAD_FOR_PHOTOMETRY if n != "SATURATED")
_THREADED = 1 << 16


@dataclass(frozen=True, eq=False, repr=False)
class Warp:
    """A resampled image with the correlation of its noise.

    Attributes
    ----------
    exposure : Exposure
        The resampled image: variance is that of a pixel alone (the diagonal).
    noise : NoiseCorrelation
        Correlation between pixels.
    resampling : Resampling
        The kernel.
    map_error : float
        Largest error of the interpolated pixel positions, in input pixels.
    white_variance : float
        Variance that a pixel would have if the same noise were uncorrelated: the median over good
        pixels; variances of large sums, and weights, come from it. NaN without a variance.
    source : Exposure or None
        Sky mapping, PSF and box of the input, without its pixels.

    Examples
    --------
    >>> from pogson.sky import FitsSkyMap
    >>> sky = FitsSkyMap.tan(30.0, -20.0, x=50.0, y=50.0, scale_arcsec=0.25)
    >>> exposure = Exposure(np.ones((100, 100)), unit="nJy", measure="fluence", sky=sky)
    >>> warp(exposure, sky, Box(0, 0, 100, 100)).noise.reach
    5
    """

    exposure: Exposure
    noise: NoiseCorrelation
    resampling: Resampling
    map_error: float
    white_variance: float
    source: WarpSource

    def __repr__(self) -> str:
        return f"<Warp by {self.resampling.kernel}, {self.noise!r} of\n{self.exposure!r}>"


@dataclass(frozen=True, eq=False)
class WarpSource:
    """What is kept of the image that was resampled."""

    sky: SkyMap
    box: Box
    psf: Any
    overlap: Box
    flattening: Any = None


def warp(
    exposure: Exposure,
    sky: SkyMap,
    box: Box,
    *,
    kernel: str = "lanczos3",
    mask_thresholds: Mapping[str, float] | None = None,
    missing: Any = _MISSING,
    max_missing: float = MAX_MISSING,
    tolerance: float = TOLERANCE,
    crop: bool = False,
    threads: int = 2,
) -> Warp:
    r"""Resample a fluence image to the pixels of another sky mapping, conserving flux.

    Parameters
    ----------
    exposure : Exposure
        In fluence, with a sky mapping.
    sky : SkyMap
        Mapping of the output.
    box : Box
        Output pixels (0-based, centres on integers).
    kernel : {"lanczos3", "lanczos2", "lanczos4", "exact"}, optional
        Lanczos interpolation times the area ratio; or the exact overlap of output with input
        pixels, for undersampled images and much larger output pixels. A Lanczos kernel is
        stretched where output pixels are more than 1.1 input pixels wide.
    mask_thresholds : mapping of str to float, optional
        Share of the kernel's absolute weight from which a mask name of input pixels is set on the
        output, where it is not `MASK_THRESHOLDS` or `DEFAULT_MASK_THRESHOLD`.
    missing : iterable of str, optional
        Mask names whose pixels count as missing: all that are bad for photometry but SATURATED.
    max_missing : float, optional
        Where more than this share of the kernel's absolute weight is missing or off the image, the
        output is NO_DATA. Where less is, the kernel is renormalised over what is left and the
        output has the bit INTERPOLATED.
    tolerance : float, optional
        Largest error of pixel positions, which are interpolated between nodes, in input pixels.
    crop : bool, optional
        Return only the part of the box that the image may reach.
    threads : int, optional
        Threads that share the rows.

    Returns
    -------
    Warp
        Exposure on ``box`` and correlation of its noise.

    Raises
    ------
    MeasureError
        If the image is in surface brightness: adding and resampling are done on fluence.
    MissingDataError
        If it has no sky mapping.
    CalibrationError
        If a mapping folds over: its Jacobian vanishes or changes sign.
    BoundsError
        If image and output do not overlap.
    MaskedDataError
        If no output pixel gets data.

    Notes
    -----
    :math:`F(p) = \frac{A_{out}(p)}{A_{in}(x)} \sum_i L(x - i) f_i / c_i`, x the place of p on
    the input, L normalised to 1, and :math:`c_i` the sum of the weights with which all output
    pixels take input pixel i. It is 1 within a per cent, in beats between the two lattices;
    without it the flux of a star would be off by up to 0.6 % where output pixels are about as
    large as input pixels. With it sums are exact and a *constant* has the beats instead:
    subtract backgrounds first, or use ``kernel="exact"``, which keeps both. The variance of a
    pixel is the sum of squared weights times variances; what was moved to its neighbours is in
    ``noise``. With ``kernel="exact"`` a weight is the area of input pixel i inside the output
    pixel, and sums are conserved pixel by pixel (Fruchter & Hook 2002, PASP 114, 144, with
    pixfrac 1). The Lanczos kernels are those of Duchon (1979, J. Appl. Meteor. 18, 1016).

    Examples
    --------
    >>> from pogson.psf import MoffatPSF
    >>> from pogson.sky import FitsSkyMap
    >>> stamp = MoffatPSF(4.0, 3.0).draw(x=60.3, y=59.8, half_size=45)
    >>> image = np.zeros((120, 120))
    >>> image[stamp.box.slices(Box(0, 0, 120, 120))] = 1000.0 * stamp.image
    >>> sky = FitsSkyMap.tan(30.0, -20.0, x=60.0, y=60.0, scale_arcsec=0.25)
    >>> exposure = Exposure(image, unit="nJy", measure="fluence", sky=sky)
    >>> finer = FitsSkyMap.tan(30.0, -20.0, x=80.0, y=80.0, scale_arcsec=0.2, rotation_deg=30.0)
    >>> warped = warp(exposure, finer, Box(0, 0, 160, 160))
    >>> round(float(np.nansum(warped.exposure.image) / image.sum()), 3)
    1.0
    """
    check_input(exposure)
    rules = MaskRules.of(exposure.mask_bits, mask_thresholds, missing, max_missing)
    source_sky: Any = exposure.sky
    mapping, part, resampling = map_between(
        source_sky, exposure.box, sky, box, exposure._name(), kernel, tolerance
    )
    arrays = resample(exposure, mapping, part, resampling, rules, threads)
    if not np.isfinite(arrays[0]).any():
        raise MaskedDataError(
            f"No pixel of the output gets data from {exposure._name()}: what overlaps {box} is "
            f"masked, missing, or narrower than the kernel."
        )
    wanted = part if crop else box
    noise, _ = warp_correlation(
        mapping, wanted, resampling.order, resampling.stretch, resampling.exact, part
    )
    image, variance, mask = arrays if crop else _on_box(arrays, part, box, exposure.mask_bits)
    source = WarpSource(source_sky, exposure.box, exposure.psf, part, exposure.flattening)
    new = Exposure(
        image,
        variance=variance,
        mask=mask,
        sky=sky,
        box=wanted,
        psf=_psf(source, sky, wanted, resampling),
        **_carried(exposure, wanted),
    )
    white = variance_level(exposure) * float(np.median(mapping.nodes[2]))
    return Warp(new, noise, resampling, mapping.error, white, source)


def check_input(exposure: Any) -> None:
    """Raise unless an exposure can be resampled."""
    if not isinstance(exposure, Exposure):
        raise PogsonTypeError(f"An Exposure is resampled, not a {type(exposure).__name__}.")
    name = exposure._name()
    if exposure.measure is not Measure.FLUENCE:
        raise MeasureError(
            f"The {name} is in surface brightness; images are resampled and added in fluence: "
            f"exposure.to('fluence')."
        )
    if exposure.sky is None:
        raise MissingDataError(
            f"The {name} has no sky mapping, so its place on the output is unknown; pass it to "
            f"Exposure as sky=."
        )


def map_between(
    sky_in: SkyMap,
    box_in: Box,
    sky: SkyMap,
    box: Box,
    name: str,
    kernel: str,
    tolerance: float = TOLERANCE,
) -> tuple[PixelMap, Box, Resampling]:
    """Return the map for the output pixels that an input may reach, these pixels, and the kernel.

    The map holds on a wider box, of all output pixels that share input pixels with them.
    """
    from pogson.sky import SkyMap

    if not isinstance(sky, SkyMap):
        raise PogsonTypeError(f"sky must be the SkyMap of the output, not {type(sky).__name__}.")
    check_fold(sky_in, box_in, name)
    part = overlap_box(sky_in, box_in, sky, box, 3)
    check_fold(sky, part, "the output")
    x, y = box_in.center
    ra, dec = sky_in.sky(x=x, y=y)
    u, v = sky.pixel(ra, dec)
    scale = float(sky.pixel_scale(x=u, y=v) / sky_in.pixel_scale(x=x, y=y))
    resampling = Resampling.for_scale(kernel, scale)
    m = resampling.guard(0.7 * scale)
    wide = Box(part.x_min - m, part.y_min - m, part.nx + 2 * m, part.ny + 2 * m)
    return pixel_map(sky_in, box_in, sky, wide, tolerance), part, resampling


@dataclass(frozen=True, eq=False)
class MaskRules:
    """How masks and missing pixels are treated, by bit number."""

    limits: np.ndarray
    missing: tuple[str, ...]
    max_missing: float
    no_data: np.uint32
    dropped: np.uint32

    @classmethod
    def of(
        cls,
        bits: MaskBits,
        thresholds: Mapping[str, float] | None = None,
        missing: Any = _MISSING,
        max_missing: float = MAX_MISSING,
    ) -> MaskRules:
        """Check the rules against the names of a mask."""
        limits = np.full(32, DEFAULT_MASK_THRESHOLD)
        given = {str(k).upper(): float(v) for k, v in (thresholds or {}).items()}
        bits.value(*given)
        for name, value in {**MASK_THRESHOLDS, **given, "max_missing": max_missing}.items():
            if not 0.0 <= value < 1.0:
                raise PogsonValueError(
                    f"The threshold of {name} is {value!r}; it is a share of the weight, from 0 to "
                    f"below 1."
                )
            if name in bits:
                limits[bits[name]] = value
        return cls(
            limits,
            tuple(n for n in missing if n in bits),
            float(max_missing),
            np.uint32(bits.value_of_known(["NO_DATA"])),
            np.uint32(bits.value_of_known(["INTERPOLATED"])),
        )


def resample(
    exposure: Exposure,
    mapping: PixelMap,
    box: Box,
    resampling: Resampling,
    rules: MaskRules,
    threads: int = 2,
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Return image, variance and mask on a box inside that of the map."""
    from pogson.images import _warp_kernels as kernels

    bad = exposure.bad(rules.missing)
    shape = box.shape
    has_variance, has_mask = exposure.variance is not None, exposure.mask is not None
    out = np.full(shape, np.nan, np.float32)
    out_variance = np.full(shape if has_variance else (1, 1), np.nan, np.float32)
    out_mask = np.full(shape, rules.no_data, np.uint32)
    variance: Any = exposure.variance if has_variance else np.ones((1, 1), np.float32)
    mask: Any = exposure.mask if has_mask else np.zeros((1, 1), np.uint32)
    geometry = _geometry(mapping, box)
    places = (float(exposure.box.x_min), float(exposure.box.y_min))
    image = exposure.image
    if not resampling.exact:
        inverse = _inverse_sums(exposure.box, mapping, box, resampling, threads)
        image = image * inverse
        if has_variance:
            inverse *= inverse
            variance = np.multiply(variance, inverse, out=inverse)
    planes = (image, variance, has_variance, mask, has_mask, bad)
    last = (rules.limits, rules.max_missing, rules.no_data, rules.dropped)
    outputs = (out, out_variance, out_mask)
    if not resampling.exact:
        window = kernels.any_in_window((bad | (mask != 0)) if has_mask else bad, 6)
        table = kernels.weight_table(3)
        kind = (resampling.order, float(resampling.stretch), table)

    def rows(part: tuple[int, int]) -> None:
        if resampling.exact:
            kernels.exact_rows(*planes, mapping.nodes, geometry, *places, *last, part, *outputs)
        else:
            kernels.lanczos_rows(
                *planes, window, mapping.nodes, geometry, *places, *kind, *last, part, *outputs
            )

    in_bands(rows, shape, threads)
    return out, out_variance if has_variance else None, out_mask


def _geometry(mapping: PixelMap, box: Box) -> tuple[float, float, float]:
    """Return the node coordinates of the first pixel of a box, and nodes per pixel."""
    return (
        (box.x_min - mapping.x_zero) / mapping.step,
        (box.y_min - mapping.y_zero) / mapping.step,
        1.0 / mapping.step,
    )


def _inverse_sums(
    box_in: Box, mapping: PixelMap, box: Box, resampling: Resampling, threads: int
) -> np.ndarray:
    """Return one over the sum of weights with which the output takes each input pixel.

    Counted over all output pixels that share input pixels with those of the box.
    """
    from pogson.images import _warp_kernels as kernels

    m = resampling.guard(0.7 * mapping.scale)
    x0, x1 = max(box.x_min - m, mapping.box.x_min), min(box.x_max + m, mapping.box.x_max)
    y0, y1 = max(box.y_min - m, mapping.box.y_min), min(box.y_max + m, mapping.box.y_max)
    wide = Box(x0, y0, x1 - x0 + 1, y1 - y0 + 1)
    table = kernels.weight_table(resampling.order)
    n = threads if wide.area >= _THREADED else 1
    edges = np.linspace(0, wide.ny, n + 1).astype(int)
    bands = [(int(a), int(b)) for a, b in pairwise(edges)]

    def sums(rows: tuple[int, int]) -> np.ndarray:
        out = np.zeros(box_in.shape, np.float32)
        kernels.column_sums(
            mapping.nodes, _geometry(mapping, wide), float(box_in.x_min), float(box_in.y_min),
            resampling.order, float(resampling.stretch), table, wide.nx, rows, out,
        )  # fmt: skip
        return out

    if n == 1:
        total = sums(bands[0])
    else:
        with ThreadPoolExecutor(n) as pool:
            parts = list(pool.map(sums, bands))
        total = parts.pop()
        while parts:
            total += parts.pop()
    total[total < 0.5] = 1.0  # not reached by this output
    return np.reciprocal(total, out=total)


def in_bands(rows: Any, shape: tuple[int, int], threads: int) -> None:
    """Call a function for bands of rows, several at a time where the image is large."""
    ny = shape[0]
    if threads <= 1 or shape[0] * shape[1] < _THREADED:
        rows((0, ny))
        return
    edges = np.linspace(0, ny, 4 * threads + 1).astype(int)
    bands = [(int(a), int(b)) for a, b in pairwise(edges) if b > a]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(rows, bands))


def _on_box(
    arrays: tuple[np.ndarray, np.ndarray | None, np.ndarray], part: Box, box: Box, bits: MaskBits
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Return arrays of a part of a box on the whole box."""
    if part == box:
        return arrays
    some = part.slices(box)

    def whole(array: np.ndarray, value: float) -> np.ndarray:
        out = np.full(box.shape, value, array.dtype)
        out[some] = array
        return out

    image, variance, mask = arrays
    return (
        whole(image, np.nan),
        None if variance is None else whole(variance, np.nan),
        whole(mask, bits.value_of_known(["NO_DATA"])),
    )


def _psf(source: WarpSource, sky: SkyMap, box: Box, resampling: Resampling) -> CoaddPSF | None:
    if source.psf is None:
        return None
    return CoaddPSF([PsfInput(source.psf, source.sky, source.box, 1.0, resampling)], sky, box)


def _carried(exposure: Exposure, box: Box) -> dict[str, Any]:
    """Return what the resampled exposure keeps of the input's meaning."""
    calib = exposure.photo_calib
    if calib is not None and isinstance(calib.field, ConstantField):
        # one number for all pixels holds on the new pixels as well
        x, y = exposure.box.center
        value = float(calib.field(x=x, y=y))
        error = calibration_error(exposure)
        calib = type(calib).constant(
            value,
            unit=calib.field.unit,
            error=None if error is None else value * error,
            reference=calib.reference,
            bandpass=calib.bandpass,
            sed=calib.sed,
        )
    else:
        calib = None
    metadata = {
        k: v
        for k, v in exposure.metadata.items()
        if isinstance(v, (str, int, float, bool)) and k != "detector_number"
    }
    return {
        "unit": exposure.unit,
        "measure": Measure.FLUENCE,
        "mask_bits": exposure.mask_bits,
        "photo_calib": calib,
        "bandpass": exposure.bandpass,
        "flattening_sed": exposure.flattening_sed,
        "exposure_id": exposure.exposure_id,
        "metadata": metadata,
    }


def calibration_error(exposure: Exposure) -> float | None:
    """Return the relative error of the calibration at the middle of an exposure, where known."""
    calib = exposure.photo_calib
    if calib is None or calib.covariance is None:
        return None
    x, y = exposure.box.center
    return float(calib.relative_error(x=x, y=y, extrapolate=True))


def variance_level(exposure: Exposure) -> float:
    """Return the median variance of an exposure's good pixels; NaN where there is none."""
    variance = exposure.variance
    if variance is None:
        return float("nan")
    step = max(1, int(np.sqrt(variance.size / 250_000)))
    some = variance[step // 2 :: step, step // 2 :: step]
    good = np.isfinite(some) & (some > 0)
    return float(np.median(some[good])) if good.any() else float("nan")
