"""Stars drawn from the priors of a fit and observed: truth for closed loops."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

from pogson.errors import PogsonValueError
from pogson.stars.fit_setup import FitConfig
from pogson.stars.grid import StellarGrid
from pogson.stars.photometry_table import StarPhotometry
from pogson.stars.priors import StarPriors

__all__ = ["draw_stars"]

Floats = NDArray[np.float64]
_STEPS = 4000


def draw_stars(
    grid: StellarGrid,
    n: int,
    rng: np.random.Generator,
    *,
    priors: StarPriors | None = None,
    config: FitConfig | None = None,
    error: ArrayLike = 0.03,
    parallax_error: ArrayLike = 0.03,
    offsets: ArrayLike = 1.0,
    l: tuple[float, float] = (0.0, 360.0),  # noqa: E741
    b: tuple[float, float] = (30.0, 60.0),
) -> tuple[StarPhotometry, dict[str, NDArray[Any]]]:
    """Draw stars from the joint prior of a fit, and observe them.

    Stars and fit then share one prior, so that posteriors must be calibrated and band offsets
    unbiased: what is left is the method's own.

    Parameters
    ----------
    grid : StellarGrid
        Models.
    n : int
        How many stars.
    rng : numpy.random.Generator
        Source of all randomness.
    priors, config : StarPriors, FitConfig, optional
        Those of the fit; of the configuration only the limits of distance matter.
    error : float or array (bands,), optional
        Standard error of the fluxes as a fraction of the true flux.
    parallax_error : float or pair of float, optional
        Standard error of the parallaxes in mas, or limits between which it is uniform.
    offsets : float or array (bands,), optional
        True offsets: the observed fluxes times these are right.
    l, b : pair of float, optional
        Limits of Galactic longitude and latitude in degrees, uniform between.

    Returns
    -------
    stars : StarPhotometry
        What was observed.
    truth : dict of str to ndarray (n,)
        ``model_index``, ``distance_kpc``, ``av``, ``rv``.

    Raises
    ------
    PogsonValueError
        If the offsets are not positive.

    Notes
    -----
    Component and distance are drawn from the density along each sightline times the prior mass of
    the models in the component, the model from its prior there, A_V and R_V from their truncated
    Gaussians. Magnitudes are not limited: a limit would be part of the prior.

    Examples
    --------
    >>> from pogson.stars import simulated_grid
    >>> stars, truth = draw_stars(simulated_grid(), 5, np.random.default_rng(1))
    >>> stars.flux.shape, bool((truth["av"] >= 0).all())
    ((5, 8), True)
    """
    priors = StarPriors() if priors is None else priors
    config = FitConfig() if config is None else config
    factors = np.broadcast_to(np.asarray(offsets, float), grid.n_bands)
    if not (factors > 0).all():
        raise PogsonValueError(f"offsets={offsets!r}: give positive flux factors.")
    lon, lat = rng.uniform(l[0], l[1], n), rng.uniform(b[0], b[1], n)
    log_model = priors.log_model_prior(grid)
    weights = np.atleast_2d(np.asarray(priors.distance.log_model_weights(grid), float))
    log_joint = np.nan_to_num(log_model + weights, nan=-np.inf)
    joint = np.exp(log_joint - log_joint.max())
    cumulative = np.cumsum(joint, axis=1)
    near, far = config.distance_limits
    mu = np.linspace(5.0 * np.log10(near), 5.0 * np.log10(far), _STEPS)
    component, distance = np.empty(n, np.int64), np.empty(n)
    for i in range(n):
        d = 10.0 ** (0.2 * mu)
        log = np.atleast_2d(priors.distance.log_density(d, float(lon[i]), float(lat[i])))
        density = np.exp(log + 3.0 * np.log(d) - log.max()) * cumulative[:, -1:]
        component[i], distance[i] = _place(density, mu, rng)
    model = np.empty(n, np.int64)
    for k in range(len(joint)):
        at = np.flatnonzero(component == k)
        where = rng.random(len(at)) * cumulative[k, -1]
        model[at] = np.searchsorted(cumulative[k], where, side="right")
    av, rv = np.empty(n), priors.rv
    dust = priors.extinction
    for i in range(n):
        mean, sd = dust.profile(distance[i : i + 1], float(lon[i]), float(lat[i]))
        av[i] = _cut_normal(float(mean[0]), float(sd[0]), dust.low, dust.high, rng)
    ratio = np.array([_cut_normal(rv.mean, rv.sd, rv.low, rv.high, rng) for _ in range(n)])
    true = grid.fluxes(model, av=av, rv=ratio, distance_kpc=distance)
    seen = true / factors
    err = seen * np.broadcast_to(np.asarray(error, float), grid.n_bands)
    limits = np.broadcast_to(np.asarray(parallax_error, float), 2)
    plx_err = rng.uniform(limits[0], limits[1], n)
    stars = StarPhotometry.from_fluxes(
        seen + err * rng.normal(size=seen.shape), err, bands=grid.bands, unit="maggie",
        parallax=1.0 / distance + plx_err * rng.normal(size=n), parallax_err=plx_err, l=lon, b=lat,
    )  # fmt: skip
    return stars, {"model_index": model, "distance_kpc": distance, "av": av, "rv": ratio}


def _place(density: Floats, mu: Floats, rng: np.random.Generator) -> tuple[int, float]:
    """Draw a component and a distance from densities tabulated by distance modulus."""
    steps = 0.5 * (density[:, 1:] + density[:, :-1])
    total = np.cumsum(steps.ravel())
    k = int(np.searchsorted(total, rng.random() * total[-1], side="right"))
    component, place = divmod(min(k, steps.size - 1), steps.shape[1])
    value = mu[place] + (mu[1] - mu[0]) * rng.random()
    return component, float(10.0 ** (0.2 * value))


def _cut_normal(mean: float, sd: float, low: float, high: float, rng: np.random.Generator) -> float:
    """Draw from a Gaussian cut at limits: flat if its sd is infinite, fixed if zero."""
    if sd == 0.0:
        return mean
    if not np.isfinite(sd):
        return float(rng.uniform(low, high))
    p = ndtr((np.array([low, high]) - mean) / sd)
    return float(np.clip(mean + sd * ndtri(rng.uniform(p[0], p[1])), low, high))
