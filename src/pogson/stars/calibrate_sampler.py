"""The sampler of the band calibration that fits stars with `pogson.stars.fit`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pogson.errors import PogsonValueError
from pogson.stars.calibrate_draws import StarDraws, StarSampler
from pogson.stars.grid import LN_FLUX, StellarGrid
from pogson.stars.photometry_table import StarPhotometry

__all__ = ["grid_sampler"]

Floats = NDArray[np.float64]
_STEP = 1e-3  # magnitudes of distance modulus, for the derivative of the distance prior
_SOFT = 0.05  # from a limit inwards, magnitudes or units of R_V


def grid_sampler(
    grid: StellarGrid,
    *,
    priors: Any = None,
    config: Any = None,
    workers: int = 1,
) -> StarSampler:
    """Return a sampler for `calibrate_bands` that fits stars with a grid.

    Parameters
    ----------
    grid : StellarGrid
        Models with the bands of the photometry.
    priors : StarPriors, optional
        Priors of the fit; those of `fit_stars` by default.
    config : FitConfig, optional
        Options of the fit. Its error floors, and the scale of the grid's own errors, must be zero:
        the calibration infers the scatter.
    workers : int, optional
        Threads of the fit.

    Returns
    -------
    StarSampler
        Stars without a fit get draws of zero flux, which carry no information.

    Raises
    ------
    PogsonValueError
        If the configuration has an error floor or a scale of the grid's errors.

    Notes
    -----
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
    from pogson.stars.fit import StarFitter
    from pogson.stars.fit_setup import FitConfig
    from pogson.stars.priors import StarPriors

    priors = StarPriors() if priors is None else priors
    config = FitConfig() if config is None else config
    if np.any(config.floors(tuple(grid.bands)) > 0):
        raise PogsonValueError(
            f"error_floor={config.error_floor!r}: set it to 0 here; the calibration infers the "
            "scatter of each band and passes it on in the errors."
        )
    if config.fit_error_scale > 0:
        raise PogsonValueError(
            f"fit_error_scale={config.fit_error_scale}: set it to 0 here, for the same reason as "
            "error_floor: the scatter that the calibration infers contains the error of the grid."
        )
    fitters: dict[tuple[str, ...], Any] = {}
    weights = np.asarray(priors.distance.log_model_weights(grid))

    def sampler(stars: StarPhotometry, seed: int, /) -> StarDraws:
        """Fit the stars and return model fluxes of their draws."""
        bands = tuple(stars.bands)
        if bands not in fitters:
            fitters[bands] = StarFitter(grid, bands, priors=priors, config=config)
        fit = fitters[bands].fit(stars, seed=seed, workers=workers)
        coefficients = np.asarray(grid.coefficients)[:, grid.band_index(bands)]
        good = np.asarray(fit.model_index) >= 0
        k = np.where(good, fit.model_index, 0)
        av, rv = np.where(good, fit.av, 0.0), np.where(good, fit.rv, 3.1)
        distance = np.where(good, fit.distance_kpc, 1.0)
        c = coefficients[k].astype(float)
        slope = c[..., 1] + rv[..., None] * c[..., 2]
        flux = np.exp(LN_FLUX * (c[..., 0] + av[..., None] * slope)) / distance[..., None] ** 2
        flux *= good[..., None]
        controls = directions = None
        if _distance_free(priors.extinction):
            by_prior = _distance_derivative(priors.distance, weights, stars, k, distance)
            rows = _Rows(stars, flux, slope, c[..., 2], av, rv, distance)
            controls, directions = _controls(rows, by_prior, priors, config.distance_limits)
            controls *= good[..., None]
            directions *= good[..., None, None]
        return StarDraws(flux, np.zeros(k.shape), controls, directions)

    return sampler


def _distance_free(extinction: Any) -> bool:
    """Whether the prior of A_V is alike at every distance."""
    return not getattr(extinction, "needs_position", True) and hasattr(extinction, "sd")


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
    dust = priors.extinction
    prior = [by_prior - 0.2 * np.log(10.0) * parallax * pull, np.zeros_like(av)]
    if np.isfinite(dust.sd):
        prior[1] = -(av - dust.mean) / dust.sd**2
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
