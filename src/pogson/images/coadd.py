"""Weighted means of resampled images that conserve flux and know their noise and their PSF.

A coadd pixel is the mean of the inputs' pixels with one constant weight an input, so that the PSF
is the same weighted mean of the inputs' PSFs and every star keeps its weighted flux. Pixels are
0-based with centres on integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import BoundsError, MaskedDataError, MissingDataError, PogsonValueError, choices
from pogson.fields import Box
from pogson.images._coadd_checks import check_inputs
from pogson.images._coadd_stack import Contribution, Stack, contribution_of
from pogson.images.coadd_psf import CoaddPSF, PsfInput
from pogson.images.exposure import Exposure
from pogson.images.noise_correlation import NoiseCorrelation, combined
from pogson.images.warp import Warp, calibration_error
from pogson.units import Measure

if TYPE_CHECKING:
    from astropy.table import Table

    from pogson.sky import SkyMap

__all__ = ["Clipping", "Coadd", "CoaddInput", "coadd"]

WEIGHTS = ("inverse_variance", "uniform")


@dataclass(frozen=True, slots=True)
class Clipping:
    """When a pixel of an input is an outlier and left out.

    A pixel is clipped if it differs from the median of the inputs (of two: from the fainter) by
    more than ``sigma`` standard errors plus ``flux_fraction`` of the brightest pixel of the median
    nearby. The second term is what keeps stars: their pixels differ between inputs because the
    seeing does, in proportion to their flux.

    Parameters
    ----------
    sigma : float, optional
        Standard errors.
    flux_fraction : float, optional
        Fraction of the local flux. By default it is computed from the inputs' PSFs: the largest
        difference of a PSF from the mean one in units of the mean one nearby, plus half; 0.3 where
        there are no PSFs.
    reach : int, optional
        "Nearby" is within this many pixels along x and y.

    Raises
    ------
    PogsonValueError
        If a number is out of range.

    Notes
    -----
    The fraction-of-flux term is that of Gruen, Seitz & Bernstein (2014, PASP 126, 158), whose
    constant is 0.3.

    Examples
    --------
    >>> Clipping(sigma=4.0).flux_fraction is None
    True
    """

    sigma: float = 5.0
    flux_fraction: float | None = None
    reach: int = 2

    def __post_init__(self) -> None:
        if not self.sigma > 0 or not 0 <= self.reach <= 20:
            raise PogsonValueError(
                f"Clipping needs sigma > 0 and reach from 0 to 20 pixels; got {self!r}."
            )
        if self.flux_fraction is not None and not self.flux_fraction >= 0:
            raise PogsonValueError(f"flux_fraction={self.flux_fraction!r} must be at least 0.")


@dataclass(frozen=True, slots=True)
class CoaddInput:
    """One input of a coadd, as it was used.

    Parameters
    ----------
    exposure_id, detector : str
        Names.
    weight : float
        Its constant weight.
    white_variance : float
        Variance of its resampled pixels as if uncorrelated, nJy2; NaN where unknown.
    n_pixels, n_clipped : int
        Pixels that it contributed, and that were clipped.
    overlap : Box
        Pixels of the coadd that it may reach.

    Examples
    --------
    >>> CoaddInput("v1", "S3", 2.0, 0.5, 100, 1, Box(0, 0, 10, 10)).n_clipped
    1
    """

    exposure_id: str
    detector: str
    weight: float
    white_variance: float
    n_pixels: int
    n_clipped: int
    overlap: Box

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return {
            "exposure_id": self.exposure_id,
            "detector": self.detector,
            "weight": self.weight,
            "white_variance": self.white_variance,
            "n_pixels": self.n_pixels,
            "n_clipped": self.n_clipped,
            "overlap": list(self.overlap),
        }


@dataclass(frozen=True, eq=False, repr=False)
class Coadd:
    """An image added from others, with the correlation of its noise, its PSF and its inputs.

    Attributes
    ----------
    exposure : Exposure
        In nJy and fluence; its variance is that of a pixel alone, its ``psf`` a `CoaddPSF`.
    noise : NoiseCorrelation
        Correlation between pixels; see `pogson.images.aperture_variance`.
    inputs : tuple of CoaddInput
        What was added.
    count : numpy.ndarray of uint16, shape (ny, nx)
        Number of inputs in each pixel.

    Examples
    --------
    >>> from pogson.calib import FluxReference, PhotoCalib
    >>> from pogson.sky import FitsSkyMap
    >>> sky = FitsSkyMap.tan(30.0, -20.0, x=50.0, y=50.0, scale_arcsec=0.25)
    >>> calib = PhotoCalib.constant(1.0, unit="", reference=FluxReference.total())
    >>> visits = [Exposure(np.full((100, 100), v), variance=np.full((100, 100), 4.0), unit="nJy",
    ...                    measure="fluence", sky=sky, photo_calib=calib, flattening_sed="G2V",
    ...                    exposure_id=f"v{v}") for v in (1, 3)]
    >>> result = coadd(visits, sky, Box(0, 0, 100, 100), clip=None)
    >>> float(result.exposure.image[50, 50]), float(result.exposure.variance[50, 50])
    (2.0, 2.0)
    """

    exposure: Exposure
    noise: NoiseCorrelation
    inputs: tuple[CoaddInput, ...]
    count: np.ndarray

    @property
    def psf(self) -> Any:
        """PSF of the coadd, or None where an input has none."""
        return self.exposure.psf

    def table(self) -> Table:
        """Return the inputs as a table."""
        from astropy.table import Table

        rows = [{k: v for k, v in one.to_dict().items() if k != "overlap"} for one in self.inputs]
        return Table(rows)

    def cutout(self, box: Box) -> Coadd:
        """Return the part of the coadd on a smaller box."""
        part = box.slices(self.exposure.box)
        return Coadd(self.exposure.cutout(box), self.noise.on(box), self.inputs, self.count[part])

    def __repr__(self) -> str:
        return f"<Coadd of {len(self.inputs)} inputs, {self.noise!r}\n{self.exposure!r}>"


def coadd(
    items: Iterable[Exposure | Warp],
    sky: SkyMap,
    box: Box,
    *,
    weights: str | Mapping[str, float] | Sequence[float] = "inverse_variance",
    clip: Clipping | None = Clipping(),
    kernel: str = "lanczos3",
    flattening_sed: str | None = None,
    mask_thresholds: Mapping[str, float] | None = None,
    coadd_thresholds: Mapping[str, float] | None = None,
    threads: int = 2,
) -> Coadd:
    r"""Add images on the pixels of one sky mapping.

    Parameters
    ----------
    items : iterable of Exposure or Warp
        Images in nJy and fluence, all of one flux reference, bandpass and fiducial spectrum.
        Exposures are resampled; warps must lie on ``sky`` already.
    sky : SkyMap
        Mapping of the coadd.
    box : Box
        Its pixels (0-based, centres on integers).
    weights : {"inverse_variance", "uniform"} or mapping or sequence, optional
        One constant an input: the inverse of the variance of its pixels as if uncorrelated
        (median over the input), 1, or given by ``exposure_id`` or by order.
    clip : Clipping or None, optional
        How outliers are found; None to add everything.
    kernel : str, optional
        As in `warp`.
    flattening_sed : str, optional
        Name of the spectrum that inputs which do not say so are flat for. It is asked for because
        it cannot be known: without it such inputs are refused.
    mask_thresholds : mapping of str to float, optional
        As in `warp`.
    coadd_thresholds : mapping of str to float, optional
        Share of a pixel's weight from inputs with a mask name from which the coadd has the name:
        0.1 by default, any at all for SATURATED.
    threads : int, optional
        Threads.

    Returns
    -------
    Coadd

    Raises
    ------
    CalibrationError
        If inputs are mixed, or of unknown flux calibration or flattening; the message lists all of
        them. `MeasureError`, `UnitMismatchError` and `ReferenceMismatchError` where that is the
        whole reason.
    MissingDataError
        If inverse variances are wanted and an input has no variance.
    BoundsError
        If no input overlaps the box; those that do not while others do are left out.
    MaskedDataError
        If no pixel gets data.

    Notes
    -----
    :math:`C = \sum_v w_v F_v / \sum_v w_v` over the inputs that have data there,
    :math:`V = \sum_v w_v^2 V_v / (\sum_v w_v)^2`. Pixels near the border of an input, where the
    PSF of the coadd jumps, have the mask bit EDGE; pixels that an input lost to clipping CLIPPED.

    Examples
    --------
    See `Coadd`.
    """
    parts = list(items)
    if not parts:
        raise PogsonValueError("There is nothing to add: the list of images is empty.")
    meaning = check_inputs(parts, sky, flattening_sed)
    found: list[Contribution] = []
    far: list[str] = []
    for index, item in enumerate(parts):
        try:
            found.append(contribution_of(item, index, sky, box, kernel, mask_thresholds))
        except BoundsError as error:
            far.append(str(error))
    if not found:
        raise BoundsError(f"None of the {len(parts)} images overlaps {box}. The first: {far[0]}")
    numbers = input_weights(found, weights, len(parts))
    stack = Stack(found, numbers, box, clip, coadd_thresholds, threads)
    stack.run()
    return finished(stack, meaning, sky)


def finished(stack: Stack, meaning: Mapping[str, Any], sky: SkyMap) -> Coadd:
    """Return the coadd of a stack that has run."""
    box, found, numbers = stack.box, stack.found, stack.weights
    if not stack.count.any():
        raise MaskedDataError(
            f"No pixel of {box} gets data from the {len(found)} images that overlap it: all are "
            f"masked or missing there."
        )
    shares = [
        np.where(stack.coverage[k] > 0, stack.coverage[k], 0.0)
        * numbers[k] ** 2
        * one.variance_share
        for k, one in enumerate(found)
    ]
    noise = combined(box, [(s, one.noise) for s, one in zip(shares, found, strict=True)])
    exposure = Exposure(
        stack.image,
        variance=stack.variance,
        mask=stack.mask,
        mask_bits=stack.bits,
        box=box,
        sky=sky,
        psf=_psf(found, numbers, sky, box),
        unit="nJy",
        measure=Measure.FLUENCE,
        area_ratio=_area_ratio(sky, box),
        metadata={"n_inputs": len(found), **stack.effective_gain()},
        **{**meaning, "photo_calib": _with_error(meaning["photo_calib"], found, numbers)},
    )
    inputs = tuple(
        CoaddInput(
            one.exposure_id,
            one.detector,
            float(numbers[k]),
            one.white_variance,
            int(stack.n_pixels[k]),
            int(stack.n_clipped[k]),
            one.part,
        )
        for k, one in enumerate(found)
    )
    return Coadd(exposure, noise, inputs, stack.count)


def input_weights(found: Sequence[Contribution], weights: Any, n_items: int) -> np.ndarray:
    """Return one positive weight for each contribution."""
    if isinstance(weights, str):
        if weights not in WEIGHTS:
            raise PogsonValueError(f"Unknown weights {weights!r}; allowed: {choices(WEIGHTS)}.")
        if weights == "uniform":
            return np.ones(len(found))
        without = [c.name for c in found if not c.white_variance > 0]
        if without:
            raise MissingDataError(
                f"Inverse-variance weights need a variance, which {', '.join(without)} "
                f"{'has' if len(without) == 1 else 'have'} not; give variances, or "
                f"weights='uniform'."
            )
        return np.array([1.0 / c.white_variance for c in found])
    if isinstance(weights, Mapping):
        unknown = [c.exposure_id for c in found if c.exposure_id not in weights]
        if unknown:
            raise MissingDataError(f"weights has no entry for exposure {', '.join(unknown)}.")
        out = np.array([float(weights[c.exposure_id]) for c in found])
    else:
        values = np.asarray(weights, np.float64)
        if values.shape != (n_items,):
            raise PogsonValueError(f"weights has shape {values.shape} for {n_items} images.")
        out = values[[c.index for c in found]]
    if not (np.isfinite(out) & (out > 0)).all():
        raise PogsonValueError(f"Weights must be finite and positive; got {out.tolist()}.")
    return out


def _psf(
    found: Sequence[Contribution], weights: np.ndarray, sky: SkyMap, box: Box
) -> CoaddPSF | None:
    if any(one.psf is None for one in found):
        return None
    inputs = [
        PsfInput(one.psf, one.sky, one.box, float(weights[k]), one.resampling)
        for k, one in enumerate(found)
        if one.psf is not None
    ]
    return CoaddPSF(inputs, sky, box)


def _with_error(calib: Any, found: Sequence[Contribution], weights: np.ndarray) -> Any:
    """Return the calibration with the error that those of the inputs leave on the mean.

    Detectors of one exposure share theirs; exposures are taken as independent.
    """
    errors = [calibration_error(one.exposure) for one in found]
    if any(e is None for e in errors):
        return calib
    shares: dict[str, float] = {}
    for one, w, e in zip(found, weights, errors, strict=True):
        key = one.exposure_id or str(one.index)
        shares[key] = shares.get(key, 0.0) + float(w) * float(e or 0.0)
    error = float(np.sqrt(sum(s**2 for s in shares.values())) / weights.sum())
    return type(calib).constant(
        1.0,
        unit=calib.field.unit,
        error=error,
        reference=calib.reference,
        bandpass=calib.bandpass,
        sed=calib.sed,
    )


def _area_ratio(sky: SkyMap, box: Box) -> Any:
    """Return the pixel area over that at the centre of the box."""
    area = sky.pixel_area_field(box)
    x, y = box.center
    return area.relative_to(float(area(x=x, y=y)))
