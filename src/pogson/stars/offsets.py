"""Photometric offsets from given posterior draws: the fast path, with brutus's names and shapes."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pogson.errors import CalibrationError, PogsonValueError, PogsonWarning, choices
from pogson.stars.offset_inputs import UNFITTED, checked, per_band

__all__ = [
    "OffsetAccumulator",
    "OffsetEstimate",
    "PhotometricOffsetsConfig",
    "photometric_offsets",
]

Floats = NDArray[np.float64]
_METHODS = ("bootstrap_iqr", "bootstrap_std")
_LOG_RANGE, _LOG_WIDTH = 3.0, 2e-5
_ROWS = 500_000  # (object, draw) rows held at once: 32 MB of model fluxes in eight bands
_FEW = 10  # fewer objects than this also get an error from their own measurement errors
_PILOT = 20_000  # objects from which the centre of the outlier cut is learned


@dataclass(frozen=True)
class PhotometricOffsetsConfig:
    """Options of `photometric_offsets`: brutus's fields, and two that guard.

    Parameters
    ----------
    min_bands_used : int, optional
        Other observed bands an object needs for a band that was used in the fit.
    min_bands_unused : int, optional
        Observed bands, this one included, for a band that was not.
    n_bootstrap : int, optional
        Kept for compatibility. The bootstrap is evaluated in the limit of infinitely many
        realisations, without random numbers, so the value changes nothing.
    uncertainty_method : {"bootstrap_iqr", "bootstrap_std"}, optional
        Spread of the bootstrap medians: interquartile range / 1.349, or standard deviation.
    progress_interval : int, optional
        Kept for compatibility; nothing is printed while running.
    use_vectorized_bootstrap : bool, optional
        Kept for compatibility.
    random_seed : int or None, optional
        Kept for compatibility; the result does not depend on random numbers.
    validate_inputs : bool, optional
        Kept for compatibility; inputs are always checked (it takes a few milliseconds).
    outlier_sigma : float or None, optional
        Objects farther than this many of their own standard deviations (measurement and draws
        together, inflated to the scatter seen) from the band's offset are left out and counted.
        None keeps all.
    min_effective_draws : float, optional
        An object whose leave-one-out weights amount to fewer effective draws than this says
        nothing about the band; it is left out and counted.

    Examples
    --------
    >>> PhotometricOffsetsConfig(min_bands_used=5).min_bands_used
    5
    """

    min_bands_used: int = 4
    min_bands_unused: int = 3
    n_bootstrap: int = 300
    uncertainty_method: Literal["bootstrap_iqr", "bootstrap_std"] = "bootstrap_iqr"
    progress_interval: int = 10
    use_vectorized_bootstrap: bool = True
    random_seed: int | None = None
    validate_inputs: bool = True
    outlier_sigma: float | None = 5.0
    min_effective_draws: float = 3.0

    def __post_init__(self) -> None:
        for name, least in (
            ("min_bands_used", 1),
            ("min_bands_unused", 1),
            ("n_bootstrap", 1),
            ("progress_interval", 0),
            ("min_effective_draws", 1),
        ):
            value = getattr(self, name)
            if not value >= least:
                raise PogsonValueError(f"{name}={value!r}: it must be {least} or more.")
        if self.uncertainty_method not in _METHODS:
            raise PogsonValueError(
                f"uncertainty_method={self.uncertainty_method!r}: it must be {choices(_METHODS)}."
            )
        if self.outlier_sigma is not None and not self.outlier_sigma > 0:
            raise PogsonValueError(
                f"outlier_sigma={self.outlier_sigma!r}: give a positive number, or None for no cut."
            )


@dataclass(frozen=True, eq=False)
class OffsetEstimate:
    """What `OffsetAccumulator.result` returns: the offsets and how they came about.

    Parameters
    ----------
    offsets : ndarray (bands,)
        Flux factors: corrected flux = flux x offset.
    errors : ndarray (bands,)
        Standard errors; infinite where no object speaks.
    n_used : ndarray of int (bands,)
        Objects that informed each offset.
    n_outliers : ndarray of int (bands,)
        Objects left out as outliers.
    n_collapsed : ndarray of int (bands,)
        Objects left out because their leave-one-out weights rest on too few draws.
    median_effective_draws : ndarray (bands,)
        Median over objects of the effective number of draws.
    n_unfitted : int
        Objects without a single usable draw.
    n_bad_draws : int
        Draws with NaN or a distance that is not positive, in objects that have good ones.

    Examples
    --------
    >>> import numpy as np
    >>> one = np.ones(1)
    >>> OffsetEstimate(one, 0.01 * one, one, 0 * one, 0 * one, one, 0, 0).offsets
    array([1.])
    """

    offsets: Floats
    errors: Floats
    n_used: NDArray[np.int64]
    n_outliers: NDArray[np.int64]
    n_collapsed: NDArray[np.int64]
    median_effective_draws: Floats
    n_unfitted: int
    n_bad_draws: int


@dataclass
class _Chunk:
    """Objects as the kernels want them."""

    phot: Floats
    err: Floats
    mask: NDArray[np.bool_]
    need: NDArray[np.bool_]
    weights: Floats
    usable: NDArray[np.bool_]
    flux: Floats
    mean: Floats = field(default_factory=lambda: np.empty((0, 0)))
    std: Floats = field(default_factory=lambda: np.empty((0, 0)))


class OffsetAccumulator:
    r"""Photometric offsets of any number of objects, a chunk at a time in fixed memory.

    Parameters
    ----------
    models : array (n_models, bands, 3)
        Grid coefficients: m = c0 + A_V (c1 + R_V c2) at 1 kpc, flux 1 at magnitude 0.
    mask_fit : array of bool (bands,), optional
        Bands that the draws were fitted to; all by default.
    old_offsets : array (bands,), optional
        Offsets applied to the photometry in that fit; ones by default.
    dim_prior : bool, optional
        Form of the likelihood in the leave-one-out weights, see `photometric_offsets`.
    config : PhotometricOffsetsConfig, optional
        Options.

    Notes
    -----
    Every object spreads a weight of one over its draws' :math:`\ln(F/f)`; the pooled weight is
    held in a histogram of bins of 2e-5 (19 MB in eight bands), within which the distribution is
    interpolated linearly, so a quantile is exact to about 1e-5. A chunk's model fluxes are
    computed, used and forgotten. The cut on outliers needs a centre: it is learned from the first
    chunk, which should hold a fair sample of some thousand objects.

    Examples
    --------
    >>> import numpy as np
    >>> models = np.zeros((1, 2, 3), dtype=np.float32)
    >>> rng = np.random.default_rng(1)
    >>> total = OffsetAccumulator(models, mask_fit=[False, False])
    >>> for chunk in range(3):
    ...     flux = 0.98 * (1 + 0.02 * rng.normal(size=(500, 2)))
    ...     draws = np.zeros((500, 5))
    ...     total.add(flux, np.full_like(flux, 0.02), np.ones((500, 2), bool),
    ...               draws.astype(int), draws, draws + 3.1, draws + 1, min_bands=1)
    >>> estimate = total.result()
    >>> bool(np.all(np.abs(estimate.offsets - 1 / 0.98) < 5 * estimate.errors))
    True
    """

    def __init__(
        self,
        models: ArrayLike,
        *,
        mask_fit: ArrayLike | None = None,
        old_offsets: ArrayLike | None = None,
        dim_prior: bool = True,
        config: PhotometricOffsetsConfig | None = None,
    ) -> None:
        self._models = np.asarray(models)
        if self._models.ndim != 3 or self._models.shape[2] != 3:
            raise PogsonValueError(
                f"models has shape {self._models.shape}; it must be (n_models, bands, 3)."
            )
        bands = self._models.shape[1]
        self.config = config if config is not None else PhotometricOffsetsConfig()
        fitted = np.ones(bands) if mask_fit is None else np.asarray(mask_fit)
        self._fitted = per_band(fitted, bands, "mask_fit").astype(bool)
        old = np.ones(bands) if old_offsets is None else np.asarray(old_offsets)
        self._old = per_band(old, bands, "old_offsets")
        if not (np.isfinite(self._old).all() and (self._old > 0).all()):
            raise PogsonValueError(f"old_offsets={self._old}: flux factors must be positive.")
        self._dim_prior = bool(dim_prior)
        bins = round(2 * _LOG_RANGE / _LOG_WIDTH) + 2
        self._hist = np.zeros((bands, bins))
        self._counts = np.zeros((4, bands), dtype=np.int64)  # used, outliers, collapsed, asked
        self._sigmas: list[NDArray[Any]] = []
        self._ess: list[NDArray[Any]] = []
        self._unfitted = self._bad_draws = 0
        self._centre: Floats | None = None
        self._inflate = np.ones(bands)

    def add(
        self,
        phot: ArrayLike,
        err: ArrayLike,
        mask: ArrayLike,
        idxs: ArrayLike,
        reds: ArrayLike,
        dreds: ArrayLike,
        dists: ArrayLike,
        *,
        sel: ArrayLike | None = None,
        weights: ArrayLike | None = None,
        min_bands: int | None = None,
    ) -> None:
        """Add objects and their draws.

        Parameters
        ----------
        phot, err, mask : array (objects, bands)
            Fluxes in maggies, their errors, and 1 where observed.
        idxs, reds, dreds, dists : array (objects, draws)
            Model rows, A_V, R_V and distances in kpc. A row of -99 was never fitted.
        sel : array of bool (objects,), optional
            Objects to use.
        weights : array (objects, draws), optional
            Weights of the draws.
        min_bands : int, optional
            In place of both numbers of the configuration.

        Raises
        ------
        PogsonValueError, PogsonTypeError
            If shapes, values or types are wrong; the message says which.
        """
        arrays = checked(phot, err, mask, idxs, reds, dreds, dists, sel, weights, self._models)
        step = max(1, _ROWS // max(arrays[3].shape[1], 1))
        n = len(arrays[0])
        if self._centre is None and n > step:
            rows: Any = slice(None, None, n // min(step, _PILOT))
            self._learn(self._chunk([a[rows] for a in arrays], min_bands))
        for start in range(0, n, step):
            chunk = self._chunk([a[start : start + step] for a in arrays], min_bands, count=True)
            if self._centre is None:
                self._learn(chunk)
            self._take(chunk)

    def _chunk(self, arrays: list[Any], min_bands: int | None, count: bool = False) -> _Chunk:
        """Return model fluxes of the draws, their means and spreads, and who may speak."""
        from pogson.stars import _offset_kernels as kernels

        phot, err, mask, idxs, reds, dreds, dists, sel, weights = arrays
        usable = (idxs != UNFITTED) & np.isfinite(reds) & np.isfinite(dreds)
        usable &= np.isfinite(dists) & (dists > 0)
        fitted_object = usable.any(axis=1)
        few = self.config.min_bands_used, self.config.min_bands_unused
        if min_bands is not None:
            few = min_bands, min_bands
        observed = mask.sum(axis=1)[:, None]
        enough = np.where(self._fitted, observed - mask >= few[0], observed >= few[1])
        need = mask & enough & (sel & fitted_object & (weights.sum(axis=1) > 0))[:, None]
        phot, err = np.where(mask, phot, 0.0), np.where(mask, err, 1.0)
        flux = np.empty((*idxs.shape, phot.shape[1]))
        kernels.draw_fluxes(self._models, idxs, reds, dreds, dists, usable, flux)
        chunk = _Chunk(phot, err, mask, need, weights, usable, flux)
        chunk.mean, chunk.std, ess = (np.empty(phot.shape) for _ in range(3))
        kernels.summarise(
            flux, phot * self._old, (err * self._old) ** -2.0, mask, self._fitted,
            self._dim_prior, weights, usable, need, chunk.mean, chunk.std, ess,
        )  # fmt: skip
        collapsed = need & self._fitted & (ess < self.config.min_effective_draws)
        collapsed |= need & ~(ess > 0)
        chunk.need = need & ~collapsed
        if count:
            self._counts[2] += collapsed.sum(axis=0)
            self._counts[3] += need.sum(axis=0)
            self._unfitted += int((~fitted_object).sum())
            self._bad_draws += int((~usable[fitted_object]).sum())
            self._ess.append(np.where(need, ess, np.nan).astype(np.float32))
        return chunk

    def _deviations(self, chunk: _Chunk, band: int, centre: float) -> Floats:
        """Return (flux x offset - model) in standard deviations of data and draws together."""
        use = chunk.need[:, band]
        scale = np.hypot(chunk.err[use, band] * centre, chunk.std[use, band])
        return (chunk.phot[use, band] * centre - chunk.mean[use, band]) / scale

    def _learn(self, chunk: _Chunk) -> None:
        """Find each band's centre and the scatter of the objects about it, outliers left out."""
        bands = chunk.phot.shape[1]
        centre = np.ones(bands)
        for b in range(bands):
            use = chunk.need[:, b]
            if not use.any():
                continue
            f, m = chunk.phot[use, b], chunk.mean[use, b]
            ratio = np.where(f > 0, m / np.where(f > 0, f, 1.0), np.inf)
            keep = np.ones(len(ratio), dtype=bool)
            for _ in range(10):
                middle = float(np.median(ratio[keep]))
                if not np.isfinite(middle):
                    break
                centre[b] = middle
                z = self._deviations(chunk, b, middle)
                self._inflate[b] = max(1.0, 1.4826 * float(np.median(np.abs(z[keep]))))
                limit = (self.config.outlier_sigma or np.inf) * self._inflate[b]
                now = np.abs(z) <= limit
                if np.array_equal(now, keep) or not now.any():
                    break
                keep = now
        self._centre = centre

    def _take(self, chunk: _Chunk) -> None:
        """Drop outliers and add the rest to the histograms."""
        from pogson.stars import _offset_kernels as kernels

        assert self._centre is not None
        sigma = np.full(chunk.phot.shape, np.nan, dtype=np.float32)
        for b in range(chunk.phot.shape[1]):
            use = np.flatnonzero(chunk.need[:, b])
            if not len(use):
                continue
            z = self._deviations(chunk, b, self._centre[b])
            limit = (self.config.outlier_sigma or np.inf) * self._inflate[b]
            out = np.abs(z) > limit
            chunk.need[use[out], b] = False
            self._counts[1, b] += int(out.sum())
            scale = np.hypot(chunk.err[use, b] * self._centre[b], chunk.std[use, b])
            sigma[use[~out], b] = (scale * self._centre[b] / chunk.mean[use, b])[~out]
        self._sigmas.append(sigma)
        self._counts[0] += chunk.need.sum(axis=0)
        kernels.accumulate(
            chunk.flux, chunk.phot, chunk.phot * self._old, (chunk.err * self._old) ** -2.0,
            chunk.mask, self._fitted, self._dim_prior, chunk.weights, chunk.usable, chunk.need,
            -_LOG_RANGE, _LOG_WIDTH, self._hist,
        )  # fmt: skip

    def result(self) -> OffsetEstimate:
        """Return the offsets of what was added so far.

        Raises
        ------
        CalibrationError
            If in some band the leave-one-out weights collapsed for half the objects or more, or
            the median ratio is beyond a factor of 20.
        """
        used, outliers, collapsed, asked = self._counts
        bands = len(used)
        self._refuse_collapse(collapsed, asked)
        offsets, errors = np.ones(bands), np.full(bands, np.inf)
        sigmas = np.concatenate(self._sigmas) if self._sigmas else np.empty((0, bands))
        ess = np.concatenate(self._ess) if self._ess else np.empty((0, bands))
        middle = np.full(bands, np.nan)
        for b in range(bands):
            if np.isfinite(ess[:, b]).any():
                middle[b] = np.nanmedian(ess[:, b])
            if used[b] == 0:
                continue
            offsets[b], errors[b] = _median_and_error(
                self._hist[b], int(used[b]), self.config.uncertainty_method, b
            )
            if used[b] < _FEW:
                typical = float(np.nanmedian(sigmas[:, b])) * np.sqrt(np.pi / 2 / used[b])
                errors[b] = max(errors[b], typical)
        return OffsetEstimate(
            offsets, errors, used.copy(), outliers.copy(), collapsed.copy(), middle,
            self._unfitted, self._bad_draws,
        )  # fmt: skip

    def _refuse_collapse(self, collapsed: NDArray[np.int64], asked: NDArray[np.int64]) -> None:
        share = collapsed / np.maximum(asked, 1)
        if not (share >= 0.5).any():
            return
        b = int(np.argmax(share))
        raise CalibrationError(
            f"Band {b}: the leave-one-out weights of {collapsed[b]} of {asked[b]} objects rest on "
            f"fewer than {self.config.min_effective_draws:g} draws. The draws are not draws of a "
            "posterior that used this band, or too few. Pass mask_fit=False for bands that the "
            "fit did not use, fit again without the band, or use calibrate_bands, which needs no "
            "such weights."
        )


def _median_and_error(hist: Floats, n: int, method: str, band: int) -> tuple[float, float]:
    """Return the median of the pooled ratios and the spread of its bootstrap."""
    from scipy.special import betaincinv

    total = np.concatenate([[0.0], np.cumsum(hist)])
    total /= total[-1]
    # edges of the inner bins; the last bin holds ratios that are infinite or absurd
    edges = -_LOG_RANGE + _LOG_WIDTH * np.arange(len(hist) - 1)
    cdf = total[1:-1]
    half = 0.5 * (n + 1)
    if method == "bootstrap_iqr":
        p, middle = np.array([0.25, 0.5, 0.75]), 1
    else:
        p, middle = np.concatenate([[0.5], (np.arange(400) + 0.5) / 400]), 0
    p = betaincinv(half, half, p)
    at = np.searchsorted(cdf, p)
    if not 0 < at[middle] < len(cdf):
        raise CalibrationError(
            f"Band {band}: the median ratio of model to data is beyond a factor "
            f"{np.exp(_LOG_RANGE):.0f}, or most fluxes are not positive. Are fluxes in maggies "
            "(1 at magnitude 0) and distances in kpc?"
        )
    at = np.clip(at, 1, len(cdf) - 1)
    step = np.maximum(cdf[at] - cdf[at - 1], 1e-300)
    q = np.exp(edges[at - 1] + _LOG_WIDTH * np.clip((p - cdf[at - 1]) / step, 0.0, 1.0))
    if method == "bootstrap_iqr":
        return float(q[1]), float((q[2] - q[0]) / 1.3489795)
    return float(q[0]), float(np.std(q[1:]))


def photometric_offsets(
    phot: ArrayLike,
    err: ArrayLike,
    mask: ArrayLike,
    models: ArrayLike,
    idxs: ArrayLike,
    reds: ArrayLike,
    dreds: ArrayLike,
    dists: ArrayLike,
    sel: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    mask_fit: ArrayLike | None = None,
    old_offsets: ArrayLike | None = None,
    dim_prior: bool = True,
    prior_mean: ArrayLike | None = None,
    prior_std: ArrayLike | None = None,
    verbose: bool = False,
    config: PhotometricOffsetsConfig | None = None,
    rng: np.random.Generator | None = None,
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    r"""Median ratio of model to observed flux in each band, over stars and posterior draws.

    Parameters
    ----------
    phot, err : array (objects, bands)
        Fluxes and errors in maggies (1 at magnitude 0). Zero and negative fluxes are data.
    mask : array (objects, bands)
        1 where observed, 0 where not; what is not observed may hold anything.
    models : array (n_models, bands, 3)
        Grid coefficients, as `load_models` returns them.
    idxs, reds, dreds, dists : array (objects, draws)
        Draws of each star's posterior: model row, A_V, R_V, distance in kpc.
    sel : array of bool (objects,), optional
        Objects to use; all by default.
    weights : array (objects, draws), optional
        Weights of the draws, zero or positive; equal by default.
    mask_fit : array of bool (bands,), optional
        Bands that the draws were fitted to; **all by default**. In these the draws are reweighted
        to the posterior without the band.
    old_offsets : array (bands,), optional
        Offsets that multiplied the fluxes in that fit. The result is always the total offset.
    dim_prior : bool, optional
        True weights by a ratio of chi-square densities with n-1 and n-2 degrees of freedom, as
        brutus does by default; False by exp(chi2_b / 2), exact for draws of a Gaussian likelihood.
    prior_mean, prior_std : array (bands,), optional
        Gaussian prior of the offsets; both or neither.
    verbose : bool, optional
        Print a line a band.
    config : PhotometricOffsetsConfig, optional
        Options.
    rng : numpy.random.Generator, optional
        Not used: the result does not depend on random numbers.

    Returns
    -------
    offsets, errors : ndarray (bands,)
        Flux factors, corrected flux = flux x offset (magnitude offset = -2.5 log10 of it), and
        their standard errors: infinite where no object speaks and no prior is given.
    n_used : ndarray of int (bands,)
        Objects that informed each offset.

    Raises
    ------
    PogsonValueError, PogsonTypeError
        If shapes, types or values are wrong.
    CalibrationError
        If the leave-one-out weights collapse: the draws are not of the posterior they should be.

    Warns
    -----
    PogsonWarning
        If objects have no fit, draws are unusable, weights rest on few draws, more than one per
        cent of the objects are outliers, or no object informs a band; the message has the numbers.

    Notes
    -----
    The arguments, their order and the estimate are those of ``brutus.analysis`` (astro-brutus 1.2).
    The bootstrap there draws n objects, one draw of each, and takes the median: n independent
    values from the pooled distribution, whose median is its quantile at a
    Beta((n+1)/2, (n+1)/2) variate (David & Nagaraja 2003, *Order Statistics*, ch. 2). Its centre
    and width follow without drawing anything (cf. Woodruff 1952, JASA 47, 635).

    A flux of zero or less has an infinite ratio: it lies below its model whatever the offset.
    Counted so, the median solves sum sign(f o - F) = 0 and stays unbiased at any
    signal-to-noise ratio; leaving such fluxes out does not.

    These errors leave out what the stars' models can absorb. For offsets with a covariance that
    does not, see `calibrate_bands`.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(5)
    >>> models = np.zeros((3, 4, 3), dtype=np.float32)
    >>> idxs = rng.integers(0, 3, (400, 10))
    >>> ones = np.ones((400, 10))
    >>> flux = np.array([1.02, 1.0, 0.97, 1.0]) * (1 + 0.03 * rng.normal(size=(400, 4)))
    >>> offsets, errors, n_used = photometric_offsets(
    ...     flux, 0.03 * np.ones_like(flux), np.ones((400, 4)), models, idxs, 0 * ones,
    ...     3.1 * ones, ones, mask_fit=np.zeros(4, bool))
    >>> bool(np.all(np.abs(offsets - 1 / np.array([1.02, 1.0, 0.97, 1.0])) < 4 * errors))
    True
    """
    if (prior_mean is None) != (prior_std is None):
        raise PogsonValueError("Give prior_mean and prior_std together, or neither.")
    total = OffsetAccumulator(
        models, mask_fit=mask_fit, old_offsets=old_offsets, dim_prior=dim_prior, config=config
    )
    total.add(phot, err, mask, idxs, reds, dreds, dists, sel=sel, weights=weights)
    estimate = total.result()
    _warn(estimate, np.shape(idxs), total)
    offsets, errors = estimate.offsets, estimate.errors
    if prior_mean is not None:
        offsets, errors = _with_prior(offsets, errors, prior_mean, prior_std)
    if verbose:
        for b, (o, e, n) in enumerate(zip(offsets, errors, estimate.n_used, strict=True)):
            print(f"band {b}: offset {o:.5f} +- {e:.5f} from {n} objects")
    return offsets, errors, estimate.n_used


def _with_prior(
    offsets: Floats, errors: Floats, prior_mean: ArrayLike | None, prior_std: ArrayLike | None
) -> tuple[Floats, Floats]:
    """Return the precision-weighted mean with a Gaussian prior."""
    mean = per_band(np.asarray(prior_mean), len(offsets), "prior_mean")
    std = per_band(np.asarray(prior_std), len(offsets), "prior_std")
    if not (np.isfinite(mean).all() and (std > 0).all()):
        raise PogsonValueError(f"prior_mean={mean} +- prior_std={std}: the errors are positive.")
    precision = np.where(np.isfinite(errors), errors, np.inf) ** -2.0
    total = precision + std**-2.0
    return (precision * offsets + mean * std**-2.0) / total, total**-0.5


def _warn(estimate: OffsetEstimate, shape: tuple[int, ...], total: OffsetAccumulator) -> None:
    """Say with numbers what was left out."""
    said = []
    if estimate.n_unfitted:
        said.append(f"{estimate.n_unfitted} of {shape[0]} objects have no usable draw (-99 or NaN)")
    if estimate.n_bad_draws:
        said.append(f"{estimate.n_bad_draws} draws hold NaN or a distance that is not positive")
    if estimate.n_collapsed.any():
        b = int(np.argmax(estimate.n_collapsed))
        said.append(
            f"{estimate.n_collapsed[b]} objects in band {b} have leave-one-out weights on fewer "
            f"than {total.config.min_effective_draws:g} draws (median "
            f"{estimate.median_effective_draws[b]:.1f} of {shape[1]})"
        )
    share = estimate.n_outliers / np.maximum(estimate.n_used + estimate.n_outliers, 1)
    if (share > 0.01).any():
        b = int(np.argmax(share))
        said.append(f"{100 * share[b]:.1f} % of the objects in band {b} are outliers")
    if said:
        warnings.warn("; ".join(said) + "; they were left out.", PogsonWarning, stacklevel=3)
    silent = np.flatnonzero(estimate.n_used == 0).tolist()
    if silent:
        warnings.warn(
            f"No object of {shape[0]} says anything about band{'s' * (len(silent) > 1)} "
            f"{', '.join(map(str, silent))}: 1 with an infinite error there, or the prior.",
            PogsonWarning,
            stacklevel=3,
        )
