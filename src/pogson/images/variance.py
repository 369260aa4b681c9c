"""Variance of an image with and without the photon noise of its sources, and the gain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pogson.errors import CalibrationError, MissingDataError, PogsonValueError
from pogson.images.background import background_subtracted_image
from pogson.images.exposure import Exposure
from pogson.units import Measure

__all__ = ["VarianceEstimate", "estimate_gain", "estimate_variance", "resolve_gain"]

_SOURCE_SIGMA = 3.0  # pixels above this many sigma hold source light
_BRIGHT_SIGMA = 10.0
_LEAST_BRIGHT_PIXELS = 100


@dataclass(frozen=True, eq=False)
class VarianceEstimate:
    """A variance image and how it was made.

    Parameters
    ----------
    variance : numpy.ndarray, shape (ny, nx)
        Variance in ``unit**2`` of the exposure, in its measure; NaN where there is no data.
    includes_sources : bool
        Whether the photon noise of the sources is in it.
    gain : float or None
        Electrons per unit of the fluence image; None where unknown.
    gain_from : {"argument", "metadata", "regression", "unknown"}
        Where the gain came from.
    variance_from : {"variance plane", "background rms"}
        Where the variance came from.

    Examples
    --------
    >>> import numpy as np
    >>> from pogson.images import Exposure
    >>> exposure = Exposure(np.ones((2, 2)), variance=np.full((2, 2), 4.0), unit="adu",
    ...                     measure="fluence")
    >>> estimate_variance(exposure).to_dict()
    {'includes_sources': True, 'gain': None, 'gain_from': 'unknown',
     'variance_from': 'variance plane'}
    """

    variance: np.ndarray
    includes_sources: bool
    gain: float | None
    gain_from: str
    variance_from: str

    def to_dict(self) -> dict[str, Any]:
        """Return the description without the image, JSON-ready."""
        return {
            "includes_sources": self.includes_sources,
            "gain": self.gain,
            "gain_from": self.gain_from,
            "variance_from": self.variance_from,
        }


def resolve_gain(exposure: Exposure, gain: float | str | None = None) -> tuple[float | None, str]:
    """Return the gain and where it came from.

    Parameters
    ----------
    exposure : Exposure
        Its metadata may have ``gain``, in electron per unit of the fluence image.
    gain : float or "estimate" or None, optional
        A number to use; "estimate" to regress it from the variance plane where the metadata has
        none; None to take the metadata's or do without.

    Returns
    -------
    gain : float or None
        Electrons per unit of the fluence image.
    origin : {"argument", "metadata", "regression", "unknown"}

    Raises
    ------
    PogsonValueError
        If the gain is zero, negative or not finite.
    CalibrationError
        If it had to be estimated and could not.

    Examples
    --------
    >>> import numpy as np
    >>> from pogson.images import Exposure
    >>> exposure = Exposure(np.ones((2, 2)), unit="adu", measure="fluence", metadata={"gain": 4.0})
    >>> resolve_gain(exposure), resolve_gain(exposure, 3.5)
    ((4.0, 'metadata'), (3.5, 'argument'))
    """
    if gain is not None and gain != "estimate":
        value = float(gain)
        if not (np.isfinite(value) and value > 0):
            raise PogsonValueError(
                f"The gain is {gain!r}; it must be above 0 (electron per image unit)."
            )
        return value, "argument"
    known = exposure.metadata.get("gain")
    if known is not None:
        return float(known), "metadata"
    if exposure.unit.to_string() == "electron":
        return 1.0, "metadata"
    if gain == "estimate":
        return estimate_gain(exposure)[0], "regression"
    return None, "unknown"


def estimate_gain(exposure: Exposure) -> tuple[float, float]:
    """Estimate the gain from how the variance plane grows with the image.

    Parameters
    ----------
    exposure : Exposure
        With a variance plane that includes the photon noise of the sources.

    Returns
    -------
    gain, gain_err : float
        Electrons per unit of the fluence image, and its standard error.

    Raises
    ------
    MissingDataError
        If there is no variance plane.
    CalibrationError
        If too few bright pixels are there, or the variance does not grow with the image.

    Notes
    -----
    The variance of photon noise is (sky + source) / gain + constant, so its slope against the
    background-subtracted image is 1 / gain. Medians in bins of pixels above 10 sigma are fitted, so
    that the noise of the image itself does not flatten the slope.

    Examples
    --------
    >>> import numpy as np
    >>> from pogson.images import Exposure
    >>> image = np.random.default_rng(2).exponential(500.0, (100, 100))
    >>> exposure = Exposure(image, variance=image / 2.5 + 9.0, unit="adu", measure="fluence")
    >>> round(estimate_gain(exposure)[0], 3)
    2.5
    """
    if exposure.variance is None:
        raise MissingDataError("The gain cannot be estimated: the exposure has no variance plane.")
    if exposure.area_ratio is not None:
        exposure = exposure.to(Measure.FLUENCE)
    assert exposure.variance is not None
    good = ~exposure.usable()
    signal = background_subtracted_image(exposure)[good].astype(np.float64)
    variance = exposure.variance[good].astype(np.float64)
    bright = signal > _BRIGHT_SIGMA * np.sqrt(np.quantile(variance, 0.1))
    n = int(bright.sum())
    if n < _LEAST_BRIGHT_PIXELS:
        raise CalibrationError(
            f"Only {n} pixels are bright enough (10 sigma) to estimate the gain; "
            f"{_LEAST_BRIGHT_PIXELS} are needed. Put the gain into the metadata instead."
        )
    s, v = signal[bright], variance[bright]
    order = np.argsort(s)
    bins = np.array_split(order, min(30, n // 30))
    sm = np.array([np.median(s[b]) for b in bins])
    vm = np.array([np.median(v[b]) for b in bins])
    design = np.stack([np.ones_like(sm), sm], axis=1) / vm[:, None]  # errors grow with the variance
    fit, *_ = np.linalg.lstsq(design, np.ones_like(vm), rcond=None)
    residual = 1.0 - design @ fit
    covariance = np.linalg.pinv(design.T @ design) * (residual @ residual / max(len(vm) - 2, 1))
    slope, slope_err = float(fit[1]), float(np.sqrt(covariance[1, 1]))
    growth = slope * (sm.max() - sm.min()) / vm.min()
    if not (growth > 0.05 and slope_err < 0.3 * slope):
        raise CalibrationError(
            f"The variance plane grows with the image by {slope:.3g} +- {slope_err:.3g} per unit; "
            f"no gain can be derived from it. Perhaps it holds no source noise; put the gain into "
            f"the metadata instead."
        )
    return 1.0 / slope, slope_err / slope**2


def estimate_variance(
    exposure: Exposure, *, include_sources: bool = True, gain: float | str | None = None
) -> VarianceEstimate:
    """Return a variance image with or without the photon noise of the sources.

    Parameters
    ----------
    exposure : Exposure
        With a variance plane, or with a background whose rms stands for it. A variance plane is
        taken to include source noise unless ``metadata["variance_includes_sources"]`` is False.
    include_sources : bool, optional
        What is wanted.
    gain : float or "estimate" or None, optional
        See `resolve_gain`.

    Returns
    -------
    VarianceEstimate
        In the exposure's measure.

    Raises
    ------
    MissingDataError
        If there is neither variance nor background, or the gain is needed and unknown.

    Notes
    -----
    Source noise is (image - background) / gain in pixels more than 3 sigma above the background.
    A variance without it gives unbiased matched-filter fluxes: weights that know the noisy pixel
    values favour low ones. A variance with it gives honest errors of bright sources.

    Examples
    --------
    >>> import numpy as np
    >>> from pogson.images import Exposure
    >>> image = np.zeros((5, 5))
    >>> image[2, 2] = 1000.0
    >>> exposure = Exposure(image, variance=9.0 + image / 2.0, unit="adu", measure="fluence",
    ...                     metadata={"gain": 2.0})
    >>> sky = estimate_variance(exposure, include_sources=False)
    >>> float(sky.variance[2, 2]), sky.gain_from
    (9.0, 'metadata')
    """
    value, origin = resolve_gain(exposure, gain)
    has_plane = exposure.variance is not None
    if has_plane:
        base = np.asarray(exposure.variance)
        included = bool(exposure.metadata.get("variance_includes_sources", True))
    elif exposure.background is not None:
        base = exposure.background.rms_image(exposure.measure, box=exposure.box) ** 2
        included = False
    else:
        raise MissingDataError(
            "The exposure has neither a variance nor a background to take the noise from; attach "
            "one with exposure.with_background(estimate_background(exposure))."
        )
    made_from = "variance plane" if has_plane else "background rms"
    if included != include_sources:
        if value is None:
            raise MissingDataError(
                f"The variance {'includes' if included else 'lacks'} source noise, and to "
                f"{'remove' if included else 'add'} it the gain is needed; put it into "
                f"metadata['gain'], pass gain=, or pass gain='estimate' if there is a variance "
                f"plane with source noise."
            )
        base = _with_source_noise(exposure, base, value, +1 if include_sources else -1)
    base = np.where(np.isfinite(exposure.image), base, np.float32(np.nan)).astype(np.float32)
    base.flags.writeable = False
    return VarianceEstimate(base, include_sources, value, origin, made_from)


def _with_source_noise(
    exposure: Exposure, variance: np.ndarray, gain: float, sign: int
) -> np.ndarray:
    """Add or remove the photon noise of source light."""
    signal = background_subtracted_image(exposure)
    typical = np.nanquantile(variance[variance > 0], 0.25) if (variance > 0).any() else 0.0
    noise = np.where(signal > _SOURCE_SIGMA * np.sqrt(typical), signal, 0.0) / gain
    if exposure.measure is Measure.SURFACE_BRIGHTNESS and exposure.area_ratio is not None:
        noise = noise / exposure.area_ratio_image()  # V_sb = F / gain / r^2 = S / gain / r
    if sign > 0:
        return np.asarray(variance + noise)
    # Where a plane says less than photon noise demands, at least a tenth of the sky's is left.
    return np.where(noise > 0, np.maximum(variance - noise, 0.1 * typical), variance)
