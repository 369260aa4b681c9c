"""The sampler of the band calibration that fits stars with `pogson.stars.fit`."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pogson.errors import PogsonValueError
from pogson.parallel import SerialExecutor
from pogson.stars.calibrate_draws import StarDraws, StarSampler
from pogson.stars.calibrate_tasks import DrawnStars, draw_in_tasks, grid_of, kept_draws
from pogson.stars.fit_setup import FitConfig
from pogson.stars.grid import LN_FLUX, StellarGrid
from pogson.stars.photometry_table import StarPhotometry
from pogson.stars.priors import StarPriors
from pogson.stars.priors_dust import needs_extinctions

if TYPE_CHECKING:
    from pogson.stars.fit import StarFitter

__all__ = ["grid_sampler"]

Floats = NDArray[np.float64]
_STEP = 1e-3  # magnitudes of distance modulus, for the derivative of the distance prior
_SOFT = 0.05  # from a limit inwards, magnitudes or units of R_V


def grid_sampler(
    grid: StellarGrid | str | Path,
    *,
    priors: Any = None,
    config: Any = None,
    workers: int = 1,
    executor: Executor | None = None,
    chunk_size: int = 64,
    keep: str | Path | None = None,
) -> StarSampler:
    """Return a sampler for `calibrate_bands` that fits stars with a grid.

    Parameters
    ----------
    grid : StellarGrid or path
        Models with the bands of the photometry, or their file. Processes and Dask need the file.
    priors : StarPriors, optional
        Priors of the fit; those of `fit_stars` by default.
    config : FitConfig, optional
        Options of the fit. Its error floors, and the scale of the grid's own errors, must be zero:
        the calibration infers the scatter.
    workers : int, optional
        Threads of the fit, where no executor is given.
    executor : concurrent.futures.Executor, optional
        From `pogson.parallel.get_executor`: each fit of the stars is divided into tasks for it.
    chunk_size : int, optional
        Stars a task.
    keep : path-like, optional
        Folder for the draws of every fit (16 bytes a draw). A calibration that is started again
        with it takes those that are there instead of fitting; it must not be shared by different
        grids, priors or configurations.

    Returns
    -------
    StarSampler
        Stars without a fit get draws of zero flux, which carry no information.

    Raises
    ------
    PogsonValueError
        If the configuration has an error floor or a scale of the grid's errors, or ``chunk_size``
        is below 1.
    PogsonTypeError
        If processes or Dask are given a grid in memory.

    Notes
    -----
    Each star has its own random stream: workers, executor and chunks change no number.

    Where the extinction prior does not depend on distance, the draws come with functions of zero
    posterior mean (Stein's identity): the derivatives of the log posterior by distance modulus, A_V
    and R_V, times factors that vanish at the limits of each. They take most of the Monte Carlo
    noise out of the grey and reddening directions (Mira et al. 2013, Stat. Comput. 23, 653).

    Examples
    --------
    >>> from pogson.stars import simulated_grid
    >>> grid = simulated_grid()
    >>> flux = grid.fluxes([40, 90], av=0.3, distance_kpc=2.0)
    >>> stars = StarPhotometry.from_fluxes(
    ...     flux, 0.02 * flux, bands=grid.bands, parallax=[0.5, 0.5], parallax_err=[0.01, 0.01],
    ...     l=[120.0, 121.0], b=[20.0, 21.0])
    >>> grid_sampler(grid)(stars, 1).flux.shape
    (2, 250, 8)
    """
    priors = StarPriors() if priors is None else priors
    config = FitConfig() if config is None else config
    if chunk_size < 1:
        raise PogsonValueError(f"chunk_size must be at least 1, not {chunk_size}.")
    floors = config.error_floor
    if np.any(np.array([*floors.values()] if isinstance(floors, Mapping) else floors) > 0):
        raise PogsonValueError(
            f"error_floor={config.error_floor!r}: set it to 0 here; the calibration infers the "
            "scatter of each band and passes it on in the errors."
        )
    if config.fit_error_scale > 0:
        raise PogsonValueError(
            f"fit_error_scale={config.fit_error_scale}: set it to 0 here, for the same reason as "
            "error_floor: the scatter that the calibration infers contains the error of the grid."
        )
    if isinstance(grid, StellarGrid):
        grid_of(grid, (), SerialExecutor() if executor is None else executor)
    return _GridSampler(grid, priors, config, workers, executor, chunk_size, keep)


@dataclass(frozen=True, eq=False)
class _GridSampler:
    """What `grid_sampler` returns; grids and fitters are made once for each set of bands."""

    grid: StellarGrid | str | Path
    priors: StarPriors
    config: FitConfig
    workers: int
    executor: Executor | None
    chunk_size: int
    keep: str | Path | None
    grids: dict[tuple[str, ...], tuple[StellarGrid, Floats]] = field(default_factory=dict)
    fitters: dict[tuple[str, ...], StarFitter] = field(default_factory=dict)

    def __call__(self, stars: StarPhotometry, seed: int, /) -> StarDraws:
        """Fit the stars and return model fluxes of their draws."""
        priors = self.priors
        grid, weights = self._grid(stars)
        fit = self._fit(stars, seed)
        coefficients = np.asarray(grid.coefficients)[:, grid.band_index(stars.bands)]
        good = np.asarray(fit.model) >= 0
        k = np.where(good, fit.model, 0)
        av, rv = np.where(good, fit.av, 0.0), np.where(good, fit.rv, 3.1)
        distance = np.where(good, fit.distance, 1.0)
        c = coefficients[k].astype(float)
        slope = c[..., 1] + rv[..., None] * c[..., 2]
        flux = np.exp(LN_FLUX * (c[..., 0] + av[..., None] * slope)) / distance[..., None] ** 2
        flux *= good[..., None]
        controls = directions = None
        if _distance_free(priors.extinction):
            by_prior = _distance_derivative(priors.distance, weights, stars, k, distance)
            rows = _Rows(stars, flux, slope, c[..., 2], av, rv, distance)
            controls, directions = _controls(rows, by_prior, priors, self.config.distance_limits)
            controls *= good[..., None]
            directions *= good[..., None, None]
        return StarDraws(flux, np.zeros(k.shape), controls, directions)

    def _grid(self, stars: StarPhotometry) -> tuple[StellarGrid, Floats]:
        """Return the grid in the bands of the stars, and the weights of its models by component."""
        if stars.bands not in self.grids:
            needs_extinctions(self.priors.extinction, stars)
            grid = grid_of(self.grid, stars.bands, SerialExecutor())
            weights = np.asarray(self.priors.distance.log_model_weights(grid))
            self.grids[stars.bands] = grid, weights
        return self.grids[stars.bands]

    def _fit(self, stars: StarPhotometry, seed: int) -> DrawnStars:
        """Return the draws of the stars, those kept if they are there."""
        if self.keep is None:
            return self._drawn(stars, seed)
        return kept_draws(self.keep, stars, seed, lambda: self._drawn(stars, seed))

    def _drawn(self, stars: StarPhotometry, seed: int) -> DrawnStars:
        from pogson.stars.fit import StarFitter

        if self.executor is not None:
            return draw_in_tasks(
                self.grid, stars, seed, self.priors, self.config, executor=self.executor,
                chunk_size=self.chunk_size, grid_digest=self.grids[stars.bands][0].digest,
            )  # fmt: skip
        bands = stars.bands
        if bands not in self.fitters:
            self.fitters[bands] = StarFitter(
                self.grids[bands][0], bands, priors=self.priors, config=self.config
            )
        fit = self.fitters[bands].fit(stars, seed=seed, workers=self.workers)
        return DrawnStars(fit.model_index, fit.distance_kpc, fit.av, fit.rv)


def _distance_free(extinction: Any) -> bool:
    """Whether the prior of A_V is alike at every distance."""
    prior = getattr(extinction, "otherwise", extinction)
    return not getattr(prior, "needs_position", True) and hasattr(prior, "sd")


def _distance_derivative(
    prior: Any, weights: Floats, stars: StarPhotometry, k: NDArray[Any], distance: Floats
) -> Floats:
    """Return the derivative of the log prior by distance modulus at the draws."""
    out = np.empty(distance.shape)
    ratio = 10.0 ** (0.2 * _STEP)
    for i in range(len(out)):
        w = weights[:, k[i]]
        place = float(stars.l[i]), float(stars.b[i])
        value = []
        for d in (distance[i] * ratio, distance[i] / ratio):
            log = np.asarray(prior.log_density(d, *place)) + w
            top = log.max(axis=0)
            value.append(top + np.log(np.exp(log - top).sum(axis=0)) + 3.0 * np.log(d))
        out[i] = (value[0] - value[1]) / (2 * _STEP)
    return out


@dataclass(frozen=True)
class _Rows:
    """Draws of a batch of stars."""

    stars: StarPhotometry
    flux: Floats
    slope: Floats
    by_rv: Floats
    av: Floats
    rv: Floats
    distance: Floats


def _controls(
    rows: _Rows, by_prior: Floats, priors: Any, limits: tuple[float, float]
) -> tuple[Floats, Floats]:
    """Return the functions of zero posterior mean, and the directions of flux they follow."""
    stars, av, rv, distance = rows.stars, rows.av, rows.rv, rows.distance
    use = stars.observed[:, None]
    data = np.where(stars.observed, stars.flux, 0.0)[:, None]
    error = np.where(stars.observed, stars.flux_err, 1.0)[:, None]
    by_ln = np.where(use, (data - rows.flux) / error, 0.0) * rows.flux / error
    known = np.isfinite(stars.parallax) & (stars.parallax_err > 0)
    error_p = np.where(known, stars.parallax_err, np.inf)[:, None]
    parallax = 1.0 / distance
    pull = (np.where(known, stars.parallax, 0.0)[:, None] - parallax) / error_p**2
    dust, other = priors.extinction, getattr(priors.extinction, "otherwise", priors.extinction)
    own = np.isfinite(stars.av_mean)
    mean = np.where(own, stars.av_mean, other.mean)[:, None]
    prec = np.where(own, stars.av_sd, other.sd)[:, None] ** -2.0
    prior = [by_prior - 0.2 * np.log(10.0) * parallax * pull, -(av - mean) * prec]
    near, far = (float(5.0 * np.log10(d)) for d in limits)
    along = [np.broadcast_to(LN_FLUX, rows.flux.shape), LN_FLUX * rows.slope]
    inside = [_inside(5.0 * np.log10(distance), near, far), _inside(av, dust.low, dust.high)]
    if priors.rv.sd > 0:
        prior.append(-(rv - priors.rv.mean) / priors.rv.sd**2)
        along.append(LN_FLUX * av[..., None] * rows.by_rv)
        inside.append(_inside(rv, priors.rv.low, priors.rv.high))
    controls, directions = [], []
    for log_prior, by, (factor, derivative) in zip(prior, along, inside, strict=True):
        directions.append(factor[..., None] * by)
        controls.append((directions[-1] * by_ln).sum(axis=2) + factor * log_prior + derivative)
    return np.stack(controls, axis=2), np.stack(directions, axis=2)


def _inside(x: Floats, low: float, high: float) -> tuple[Floats, Floats]:
    """Return a factor that is zero at the limits and one within, and its derivative."""
    p, q = np.maximum(x - low, 0.0), np.maximum(high - x, 0.0)
    f, g = p / (p + _SOFT), q / (q + _SOFT)
    return f * g, _SOFT / (p + _SOFT) ** 2 * g - f * _SOFT / (q + _SOFT) ** 2
