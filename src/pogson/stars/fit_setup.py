"""What the fit prepares once a grid and once a star: tiles of models, tables of priors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pogson.errors import MissingDataError, PogsonValueError
from pogson.stars.grid import StellarGrid
from pogson.stars.photometry_table import StarPhotometry
from pogson.stars.priors import StarPriors
from pogson.stars.priors_dust import own_extinctions

__all__ = ["FitConfig"]

_K = 0.4 * np.log(10.0)
_LN_D = np.log(10.0) / 5.0  # d ln(distance) / d mu


@dataclass(frozen=True)
class FitConfig:
    """Settings of the fit.

    Parameters
    ----------
    n_draws : int
        Posterior draws kept a star.
    n_proposals : int
        Draws of the importance sampler that the posterior draws are resampled from. About four
        times as many models (at least 4000) are scored, the likeliest for sure and the others by
        lot: each with a probability that falls as the bound of its posterior does, a survivor
        standing for those left out. No mass is lost, and the effective sample size counts the
        noise of the lots.
    min_ess : float
        Effective sample size below which a star is sampled again with 8 times the proposals and
        models, and flagged `StarFlag.LOW_ESS` if that does not help.
    error_floor : float or mapping of str to float
        Error added in quadrature to every measurement, as a fraction of its flux (0.02 is about
        0.022 mag): for all bands, or by band. Of models and photometry both.
    fit_error_scale : float
        Times the grid's own ``fit_error`` (the largest error of its extinction formula; root mean
        square over the models under their prior, band by band), added in quadrature to the floors.
        0 (default): not used.
    distance_limits : tuple of float
        Nearest and farthest distance, kpc.
    scan_signal : float
        A star with a band of lower signal-to-noise than this has its models scored in flux, as
        magnitudes are not Gaussian there.
    parallax_signal : float
        Above this signal-to-noise the scan takes a parallax as a Gaussian distance modulus. The
        posterior always uses the parallax itself.
    poor_fit : float
        Probability of the best chi-square below which a star is flagged `StarFlag.POOR_FIT`.
    block_size : int
        Stars scanned together a pass over the grid.

    Raises
    ------
    PogsonValueError
        If a setting is not allowed.

    Examples
    --------
    >>> FitConfig(n_draws=100).n_draws
    100
    """

    n_draws: int = 250
    n_proposals: int = 2000
    min_ess: float = 200.0
    error_floor: float | Mapping[str, float] = 0.0
    fit_error_scale: float = 0.0
    distance_limits: tuple[float, float] = (0.001, 1000.0)
    scan_signal: float = 12.0
    parallax_signal: float = 8.0
    poor_fit: float = 1e-4
    block_size: int = 16

    def __post_init__(self) -> None:
        for name in ("n_draws", "n_proposals", "block_size"):
            if getattr(self, name) < 1:
                raise PogsonValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        near, far = self.distance_limits
        if not 0.0 < near < far < np.inf:
            raise PogsonValueError(
                f"distance_limits must be positive, finite and rising; got {self.distance_limits}."
            )
        if not 0.0 <= self.fit_error_scale < np.inf:
            raise PogsonValueError(
                f"fit_error_scale must be 0 or positive, not {self.fit_error_scale}."
            )
        floors = self.error_floor
        values = list(floors.values()) if isinstance(floors, Mapping) else [floors]
        if not all(0.0 <= float(v) < 1.0 for v in values):
            raise PogsonValueError(
                f"error_floor is a fraction of the flux, between 0 and 1; got {floors!r}."
            )

    def floors(self, bands: tuple[str, ...]) -> np.ndarray:
        """Return the error floor of each band.

        Raises
        ------
        PogsonValueError
            If a floor is given for a band that is not there.
        """
        if not isinstance(self.error_floor, Mapping):
            return np.full(len(bands), float(self.error_floor))
        unknown = sorted(set(self.error_floor) - set(bands))
        if unknown:
            raise PogsonValueError(
                f"error_floor names bands {unknown} that are not fitted; there are {list(bands)}."
            )
        return np.array([float(self.error_floor.get(band, 0.0)) for band in bands])

    def describe(self) -> dict[str, Any]:
        """Return all settings as JSON-like values."""
        out = asdict(self)
        if isinstance(self.error_floor, Mapping):
            out["error_floor"] = {k: float(v) for k, v in sorted(self.error_floor.items())}
        out["distance_limits"] = list(self.distance_limits)
        return out


@dataclass(frozen=True)
class PreparedGrid:
    """A grid in the layout of the kernels; see `_scan_kernels`."""

    tiles: np.ndarray
    n_bands: int
    order: np.ndarray
    centre: np.ndarray
    coefficients: np.ndarray
    weights: np.ndarray
    largest: np.ndarray
    log_prior: np.ndarray
    tile_prior: np.ndarray
    tile_weights: np.ndarray
    component_mass: np.ndarray
    floors: np.ndarray


def _floors(grid: StellarGrid, share: np.ndarray, config: FitConfig) -> np.ndarray:
    """Return the fractional error floor of each band, that of the grid's formula included."""
    floors = config.floors(grid.bands)
    if config.fit_error_scale == 0.0:
        return floors
    if grid.fit_error is None:
        raise MissingDataError(
            "fit_error_scale needs the fit_error of the grid and it has none; build it with "
            "pogson, or set fit_error_scale=0 and give error_floor."
        )
    used = np.flatnonzero(share > 0.0)
    square = share[used] @ grid.fit_error[used].astype(np.float64) ** 2 / share[used].sum()
    return np.asarray(np.hypot(floors, config.fit_error_scale * _K * np.sqrt(square)))


def prepare_grid(grid: StellarGrid, priors: StarPriors, config: FitConfig) -> PreparedGrid:
    """Return the grid in tiles, with the prior of every model."""
    from pogson.stars._scan_kernels import TILE

    n, n_bands = grid.coefficients.shape[:2]
    log_prior = priors.log_model_prior(grid)
    log_prior = log_prior - _log_sum(log_prior)
    log_weights = np.atleast_2d(np.asarray(priors.distance.log_model_weights(grid), np.float64))
    log_weights = np.where(np.isnan(log_weights), -np.inf, log_weights)
    with np.errstate(under="ignore"):
        weights = np.ascontiguousarray(np.exp(log_weights).T, np.float32)
        mass = np.exp(log_prior) @ weights.astype(np.float64)
    if not mass.sum() > 0.0:
        raise PogsonValueError(
            "Every model has prior probability zero: check the metallicities and ages of the grid "
            "against those of the prior of distance."
        )
    alive = weights.max(axis=1) > 0.0
    log_prior = np.where(alive, log_prior, -np.inf)
    padded = -(-n // TILE) * TILE
    order = np.zeros(padded, np.int64)
    order[:n] = _spread(n)
    c = grid.coefficients
    centre = np.zeros(padded, np.float32)
    tiles = np.zeros((padded // TILE, n_bands, 3, TILE), np.float32)
    for first in range(0, padded, 64 * TILE):  # a few megabytes at a time
        rows = slice(first, min(first + 64 * TILE, padded))
        part = c[order[rows]].astype(np.float64)
        middle = part[:, :, 0].mean(axis=1).astype(np.float32)
        centre[rows] = middle
        part[:, :, 0] -= middle[:, None]
        part[:, :, 1] += priors.rv.mean * part[:, :, 2]
        shaped = part.reshape(-1, TILE, n_bands, 3).transpose(0, 2, 3, 1)
        tiles[first // TILE : first // TILE + len(shaped)] = shaped
    tile_prior = np.full(padded, -1e30, np.float32)
    tile_prior[:n] = np.maximum(log_prior[order[:n]], -1e30)
    return PreparedGrid(
        tiles.reshape(len(tiles), -1), n_bands, order, centre, np.ascontiguousarray(c), weights,
        weights.max(axis=0).astype(np.float64), log_prior, tile_prior, weights[order], mass,
        _floors(grid, np.exp(log_prior), config),
    )  # fmt: skip


def _log_sum(values: np.ndarray) -> float:
    top = values.max()
    with np.errstate(under="ignore"):
        return float(top + np.log(np.exp(values - top).sum()))


def _spread(n: int) -> np.ndarray:
    """Return a fixed permutation in which every run of models samples the whole grid."""
    step = max(1, round(n * 0.6180339887498949))
    while np.gcd(step, n) != 1:
        step += 1
    return np.arange(n, dtype=np.int64) * step % n


def limits_of(priors: StarPriors, config: FitConfig) -> tuple[np.ndarray, int]:
    """Return the numbers all stars share (see `_scan_kernels`) and the size of the tables."""
    mu = 5.0 * np.log10(config.distance_limits)
    n = max(64, round((mu[1] - mu[0]) / 0.02)) + 1
    step = (mu[1] - mu[0]) / (n - 1)
    dust, rv = priors.extinction, priors.rv
    return np.array([mu[0], step, dust.low, dust.high, rv.mean, rv.low, rv.high], np.float64), n


def rv_log_norm(priors: StarPriors) -> float:
    """Return the log normalisation of the prior of R_V, 0 where it is fixed."""
    from scipy.special import ndtr

    rv = priors.rv
    if rv.sd == 0.0:
        return 0.0
    mass = ndtr((rv.high - rv.mean) / rv.sd) - ndtr((rv.low - rv.mean) / rv.sd)
    return -float(np.log(rv.sd * np.sqrt(2.0 * np.pi) * mass))


def sightline_tables(
    priors: StarPriors,
    prepared: PreparedGrid,
    limits: np.ndarray,
    n: int,
    l: float,  # noqa: E741
    b: float,
    parallax: tuple[float, float],
    spread: float,
    own: tuple[float, float] = (np.nan, np.nan),
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]:
    """Return tables over distance modulus: densities, dust, upper lines, scan; and the log norm.

    The upper lines bound prior times a weak parallax (value, inverse variance) blurred by the
    spread of photometric distance moduli. ``own`` is mean and sd of the star's own A_V, if any.
    """
    from pogson.stars._scan_kernels import upper_lines

    mu = limits[0] + limits[1] * np.arange(n)
    distance = 10.0 ** (mu / 5.0)
    density = np.atleast_2d(priors.distance.log_density(distance, l, b)) + 3.0 * np.log(distance)
    density = np.maximum(density + np.log(_LN_D), -690.0)
    top = density.max()
    mass = np.trapezoid(np.exp(density - top), dx=float(limits[1]), axis=1)
    log_norm = float(top + np.log(mass @ prepared.component_mass))
    if np.isfinite(own[0]):
        mean, sd = np.full(n, own[0]), np.full(n, own[1])
    else:
        mean, sd = priors.extinction.profile(distance, l, b)
    dust = np.stack([mean, sd, np.full(n, -np.log(limits[3] - limits[2]))])
    with np.errstate(under="ignore"):
        scan = np.concatenate([np.exp(density - top), np.full((1, n), top)])
    lines = upper_lines(scan, prepared.largest, limits, parallax[0], parallax[1], spread)
    return density, dust, lines, scan, log_norm


def star_numbers(
    photometry: StarPhotometry, priors: StarPriors, config: FitConfig, prepared: PreparedGrid
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return flux, inverse variance, scan weights, scan magnitudes and scalars of every star."""
    from pogson.stars import _scan_kernels as k

    floors = prepared.floors
    seen = photometry.observed
    flux = np.where(seen, photometry.flux, 0.0)
    variance = np.where(seen, photometry.flux_err, 1.0) ** 2 + (floors * flux) ** 2
    ivar = np.where(seen, 1.0 / variance, 0.0)
    signal = flux * np.sqrt(ivar)
    in_flux = np.any(seen & (signal < config.scan_signal), axis=1) | (signal.max(axis=1) > 160.0)
    strong = seen & (signal >= 5.0)
    weight = np.where(strong, np.minimum((_K * signal) ** 2, 2e5), 0.0)
    weight = np.where(in_flux[:, None], weight * _bounding(signal), weight)
    mags = -np.log(np.where(strong, flux, 1.0)) / _K
    total = weight.sum(axis=1)
    centre = (weight * mags).sum(axis=1) / np.maximum(total, 1e-30)
    w = weight.astype(np.float32)
    m = np.where(strong, mags - centre[:, None], 0.0).astype(np.float32)
    star = np.zeros((len(flux), k.N_STAR))
    star[:, k.WEIGHT], star[:, k.CENTRE] = total, centre
    star[:, k.FLUX_SCAN] = in_flux
    star[:, k.MU_WEIGHT] = np.where(total > 0.0, 0.0, 1e-3)
    star[:, k.MU_DATA] = 10.0
    star[:, k.RV_PREC] = 1.0 / max(priors.rv.sd, 1e-6) ** 2
    _parallax_numbers(star, photometry, config)
    _extinction_numbers(star, priors, photometry)
    return flux, ivar, w, m, star


def _bounding(signal: np.ndarray) -> np.ndarray:
    """Return factors of scan weights that keep chi-square in magnitudes below that in flux.

    A flux residual of z sigma at signal-to-noise S is ``-S ln(1 - z/S)`` in scaled magnitudes. Only
    residuals below 4.7 sigma matter for models that can survive.
    """
    part = np.clip(4.7 / np.maximum(signal, 1e-3), 1e-6, 0.95)
    return np.asarray((part / np.log1p(-part)) ** 2)


def _parallax_numbers(star: np.ndarray, photometry: StarPhotometry, config: FitConfig) -> None:
    from pogson.stars import _scan_kernels as k

    has = np.isfinite(photometry.parallax)
    plx = np.where(has, photometry.parallax, 0.0)
    ivar = np.where(has, 1.0 / np.where(has, photometry.parallax_err, 1.0) ** 2, 0.0)
    star[:, k.PLX], star[:, k.PLX_IVAR] = plx, ivar
    good = has & (plx * np.sqrt(ivar) >= config.parallax_signal)
    safe = np.where(good, plx, 1.0)
    star[good, k.MU_DATA] = (-5.0 * np.log10(safe))[good]
    star[good, k.MU_WEIGHT] = ((_LN_D * plx) ** 2 * ivar)[good]
    star[:, k.SCAN_PLX] = plx
    star[:, k.SCAN_PLX_IVAR] = np.where(good, 0.0, ivar)


def _extinction_numbers(star: np.ndarray, priors: StarPriors, photometry: StarPhotometry) -> None:
    from pogson.stars import _scan_kernels as k

    dust = priors.extinction
    star[:, k.AV_PREC], star[:, k.AV_MEAN] = 1e-4, dust.low
    if getattr(dust, "needs_position", True):
        star[:, k.DUST] = 1.0
    else:
        mean, sd = dust.profile(np.array([1.0]), 0.0, 0.0)
        if np.isfinite(sd[0]):
            star[:, k.AV_PREC], star[:, k.AV_MEAN] = 1.0 / sd[0] ** 2, mean[0]
    own, own_sd = own_extinctions(dust, photometry)
    has = np.isfinite(own)
    star[has, k.DUST] = 0.0
    star[has, k.AV_PREC], star[has, k.AV_MEAN] = 1.0 / own_sd[has] ** 2, own[has]
