"""The pixels of one exposure that a scene model is fitted to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pogson.errors import PogsonTypeError, PogsonValueError
from pogson.fields import Box
from pogson.psf import PSF
from pogson.sky import SkyMap
from pogson.units import NJY_AB_MAGNITUDE

__all__ = ["SceneExposure", "scale_from_zero_point"]


def scale_from_zero_point(zero_point: float, common: float = NJY_AB_MAGNITUDE) -> float:
    """Return the factor from counts of an exposure to counts at a common zero point.

    Parameters
    ----------
    zero_point : float
        Magnitude of one count in the exposure.
    common : float, optional
        Magnitude of one count of the result; 31.4, the default, for nJy.

    Returns
    -------
    scale : float
        ``10**(-0.4 (zero_point - common))``.

    Raises
    ------
    PogsonValueError
        If a zero point is not a finite number.

    Examples
    --------
    >>> round(scale_from_zero_point(31.0), 6), round(scale_from_zero_point(31.0, 30.0), 6)
    (1.44544, 0.398107)
    """
    if not (np.isfinite(zero_point) and np.isfinite(common)):
        raise PogsonValueError(
            f"Zero points must be finite magnitudes, not {zero_point!r} and {common!r}."
        )
    return float(10.0 ** (-0.4 * (zero_point - common)))


@dataclass(frozen=True, eq=False)
class SceneExposure:
    """Pixels of one exposure, with all that says where they are and what a count means.

    Parameters
    ----------
    image : array_like, shape (ny, nx)
        Pixel values in counts, as *fluence* (a star's counts sum to its flux).
    variance : array_like, shape (ny, nx)
        Variance in counts squared; inf, NaN or not positive where a pixel must not be used.
    box : Box
        Where the pixels lie in the pixel frame of ``sky`` and ``psf`` (0-based, centres on
        integers): a stamp cut from a detector keeps its own origin.
    sky : SkyMap
        Map from pixels of the detector to the sky.
    psf : PSF or None
        Effective PSF on the detector. An exposure with None is dropped from fits.
    scale : float or None, optional
        Factor from counts to the common unit of all exposures; see `scale_from_zero_point`. An
        exposure with None is dropped from fits.
    bad : array_like of bool, shape (ny, nx), optional
        Pixels not to use; masked elements of ``image`` and ``variance`` are not used either.
    exposure_id : str
        Name, unique within a fit.
    gain : float, optional
        Electrons per count, for the noise of source and scene photons.
    time : float, optional
        Mid-exposure time (MJD); kept for light curves.
    variance_includes_sources : bool, optional
        True if ``variance`` already holds the photon noise of sources.
    origin_exact : bool, optional
        True if the first pixel is known (a cut of a whole exposure): its origin is not tested.
    scale_error : float, optional
        Relative error of ``scale``.
    flux_zero_point : float, optional
        AB magnitude of one common unit, that is of ``scale`` times one count: 31.4 (nJy) unless
        ``scale`` was made for another. All exposures of a fit must agree.
    metadata : mapping, optional
        Anything else to keep (band, file); not interpreted.

    Raises
    ------
    PogsonValueError
        If shapes disagree, or scale or gain is not positive.
    PogsonTypeError
        If box, sky or psf are of the wrong type.

    Examples
    --------
    >>> from pogson.psf import GaussianPSF
    >>> from pogson.sky import FitsSkyMap
    >>> sky = FitsSkyMap.tan(150.0, 2.0, x=50.0, y=50.0, scale_arcsec=0.25)
    >>> exposure = SceneExposure(
    ...     np.zeros((30, 30)), np.ones((30, 30)), Box(35, 35, 30, 30), sky,
    ...     GaussianPSF(fwhm=4.0), exposure_id="a",
    ... )
    >>> exposure.n_good
    900
    """

    image: np.ndarray
    variance: np.ndarray
    box: Box
    sky: SkyMap
    psf: PSF | None
    scale: float | None = 1.0
    bad: np.ndarray | None = None
    exposure_id: str = ""
    gain: float | None = None
    time: float | None = None
    variance_includes_sources: bool = False
    origin_exact: bool = False
    scale_error: float = 0.0
    flux_zero_point: float = NJY_AB_MAGNITUDE
    metadata: Any = None

    def __post_init__(self) -> None:
        if not isinstance(self.box, Box):
            raise PogsonTypeError(f"box must be a Box, not {type(self.box).__name__}.")
        if not isinstance(self.sky, SkyMap):
            raise PogsonTypeError(f"sky must be a SkyMap, not {type(self.sky).__name__}.")
        if self.psf is not None and not isinstance(self.psf, PSF):
            raise PogsonTypeError(f"psf must be a PSF or None, not {type(self.psf).__name__}.")
        name = self.exposure_id
        given = (self.image, self.variance)
        masks = [np.ma.getmaskarray(v) for v in given if isinstance(v, np.ma.MaskedArray)]
        for key in ("image", "variance"):
            object.__setattr__(self, key, _frozen(getattr(self, key), np.float64, key, self))
        bad = np.zeros(self.box.shape, bool) if self.bad is None else np.ma.filled(self.bad, True)
        for mask in masks:
            if np.shape(mask) == np.shape(bad):
                bad = np.asarray(bad, bool) | mask
        object.__setattr__(self, "bad", _frozen(bad, np.bool_, "bad", self))
        for key in ("scale", "gain"):
            value = getattr(self, key)
            if value is not None and not (np.isfinite(value) and value > 0):
                raise PogsonValueError(
                    f"Exposure {name!r}: {key}={value!r} must be positive, or None if unknown."
                )
        if not (np.isfinite(self.scale_error) and self.scale_error >= 0):
            raise PogsonValueError(
                f"Exposure {name!r}: scale_error={self.scale_error!r} must be 0 or more."
            )
        if not np.isfinite(self.flux_zero_point):
            raise PogsonValueError(
                f"Exposure {name!r}: flux_zero_point={self.flux_zero_point!r} must be a finite "
                "magnitude."
            )

    @property
    def good(self) -> np.ndarray:
        """Pixels to use: finite, with positive finite variance, not bad; shape (ny, nx)."""
        with np.errstate(invalid="ignore"):
            usable = np.isfinite(self.image) & np.isfinite(self.variance) & (self.variance > 0)
        return usable & ~np.asarray(self.bad)

    @property
    def n_good(self) -> int:
        """Number of pixels to use."""
        return int(self.good.sum())

    def moved(self, dx: int, dy: int) -> SceneExposure:
        """Return the exposure with its origin moved by whole pixels.

        Parameters
        ----------
        dx, dy : int
            Added to the coordinates of the first pixel.
        """
        box = Box(self.box.x_min + dx, self.box.y_min + dy, self.box.nx, self.box.ny)
        return replace(self, box=box)

    def __repr__(self) -> str:
        return (
            f"<SceneExposure {self.exposure_id!r} {self.box.nx} x {self.box.ny} pixels at "
            f"({self.box.x_min}, {self.box.y_min}), {self.n_good} usable>"
        )


def _frozen(values: Any, kind: Any, name: str, exposure: SceneExposure) -> np.ndarray:
    """Return a read-only array of the shape of the exposure's box."""
    array = np.array(values, kind)
    if array.shape != exposure.box.shape:
        raise PogsonValueError(
            f"Exposure {exposure.exposure_id!r}: {name} has shape {array.shape}, its box "
            f"{exposure.box.shape}; they must agree."
        )
    array.flags.writeable = False
    return array
