"""Distance and extinction that the stars of a cluster share, from their posteriors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pogson.errors import MaskedDataError, PogsonValueError
from pogson.stars.posteriors import StarPosteriors

__all__ = ["ClusterSummary", "cluster_summary"]

_LN_D = np.log(10.0) / 5.0
_LEAST = np.log([0.005, 0.002])  # scatter below which nothing is resolved, mag


@dataclass(frozen=True, eq=False)
class ClusterSummary:
    """What the stars of a cluster have in common.

    Parameters
    ----------
    distance_modulus, av : float
        Of the cluster.
    covariance : numpy.ndarray, shape (2, 2)
        Of (distance modulus, A_V), from the scatter of the stars (sandwich estimate): it holds
        for wrong star errors too, but has no part that all stars share, such as that of the
        parallax zero point, the models or the bands' zero points.
    modulus_scatter, av_scatter : float
        Standard deviations of members about the mean beyond their own errors, magnitudes.
    member_fraction : float
        Share of stars that belong to it.
    membership : numpy.ndarray, shape (n_stars,)
        Probability that each star does; NaN without a fit.
    n_used : int
        Stars with a fit.

    Examples
    --------
    >>> one = ClusterSummary(9.6, 0.12, np.diag([1e-4, 1e-4]), 0.02, 0.01, 0.9, np.ones(3), 3)
    >>> round(one.distance_kpc, 4), round(one.distance_err_kpc, 4)
    (0.8318, 0.0038)
    """

    distance_modulus: float
    av: float
    covariance: np.ndarray
    modulus_scatter: float
    av_scatter: float
    member_fraction: float
    membership: np.ndarray
    n_used: int

    def __repr__(self) -> str:
        return (
            f"ClusterSummary({1e3 * self.distance_kpc:.1f} +- {1e3 * self.distance_err_kpc:.1f} pc,"
            f" A_V {self.av:.3f} +- {self.av_err:.3f}, scatter {self.modulus_scatter:.3f} and "
            f"{self.av_scatter:.3f} mag, {100 * self.member_fraction:.0f} % of {self.n_used} stars)"
        )

    @property
    def distance_kpc(self) -> float:
        """Distance in kpc."""
        return float(10.0 ** (self.distance_modulus / 5.0 - 2.0))

    @property
    def distance_err_kpc(self) -> float:
        """Standard error of the distance in kpc."""
        return float(self.distance_kpc * _LN_D * np.sqrt(self.covariance[0, 0]))

    @property
    def av_err(self) -> float:
        """Standard error of A_V."""
        return float(np.sqrt(self.covariance[1, 1]))


def cluster_summary(posteriors: StarPosteriors, *, use: Any = None) -> ClusterSummary:
    r"""Return the distance and extinction that stars share.

    Parameters
    ----------
    posteriors : StarPosteriors
        Of a fit whose priors are the same for all stars and models: `FlatDistance` and
        `ExtinctionPrior`.
    use : array_like of bool, shape (n_stars,), optional
        Stars to use.

    Returns
    -------
    ClusterSummary

    Raises
    ------
    PogsonValueError
        If the fit used other priors: they cannot be divided out.
    MaskedDataError
        If fewer than five stars have a fit.

    Notes
    -----
    Members have distance modulus and A_V from a Gaussian about the cluster's, other stars from the
    prior of the fit. With draws :math:`\theta_{sk}` under the prior :math:`\pi` the likelihood of
    star s is :math:`f K^{-1} \sum_k N(\theta_{sk}) / \pi(\theta_{sk}) + 1 - f` (Hogg, Myers & Bovy
    2010, ApJ 725, 2166). Means, scatters and f are those of its maximum.

    Examples
    --------
    >>> from pogson.stars import (
    ...     ExtinctionPrior, FitConfig, FlatDistance, StarPhotometry, StarPriors, fit_stars,
    ...     simulated_grid)
    >>> grid, rng = simulated_grid(), np.random.default_rng(5)
    >>> dwarfs = np.flatnonzero((grid.label("eep") < 454) & (abs(grid.label("feh")) < 0.3))
    >>> flux = grid.fluxes(rng.choice(dwarfs, 40), av=0.3, distance_kpc=0.8)
    >>> stars = StarPhotometry.from_fluxes(
    ...     flux * (1 + 0.02 * rng.normal(size=flux.shape)), 0.02 * flux, bands=grid.bands,
    ...     parallax=1.25 + 0.05 * rng.normal(size=40), parallax_err=np.full(40, 0.05))
    >>> priors = StarPriors(distance=FlatDistance(-1.0), extinction=ExtinctionPrior(high=2.0))
    >>> cluster = cluster_summary(fit_stars(grid, stars, seed=1, priors=priors))
    >>> bool(abs(cluster.distance_kpc - 0.8) < 4 * cluster.distance_err_kpc)
    True
    """
    from scipy.optimize import minimize

    chosen = np.array(posteriors.fitted)
    if use is not None:
        given = np.asarray(use)
        if given.shape != chosen.shape or given.dtype != bool:
            raise PogsonValueError(f"use must be boolean with shape {chosen.shape}.")
        chosen &= given
    if chosen.sum() < 5:
        raise MaskedDataError(f"A cluster needs at least 5 fitted stars; there are {chosen.sum()}.")
    distance = np.asarray(posteriors.distance_kpc[chosen], np.float64)
    mu = 5.0 * np.log10(distance) + 10.0
    av = np.asarray(posteriors.av[chosen], np.float64)
    log_prior = _log_prior(posteriors, distance, av)

    def per_star(p: np.ndarray) -> np.ndarray:
        """Return ln likelihoods; p = mean mu, mean A_V, ln scatters, logit f."""
        return np.logaddexp(_log_member(p, mu, av, log_prior), -np.logaddexp(0.0, p[4]))

    def loss(p: np.ndarray) -> float:
        extra = np.sum(np.maximum(_LEAST - p[2:4], 0.0) ** 2) * 10.0 + 1e-3 * p[4] ** 2
        return float(extra - per_star(p).sum() / len(mu))

    middles = np.median(mu, axis=1), np.median(av, axis=1)
    start = np.array([np.median(middles[0]), np.median(middles[1]), np.log(0.1), np.log(0.05), 1.5])
    best: Any = None
    for factor in (1.0, 3.0):
        first = start + np.array([0.0, 0.0, np.log(factor), np.log(factor), 0.0])
        options = {"maxiter": 4000, "xatol": 1e-5, "fatol": 1e-9, "adaptive": True}
        found = minimize(loss, first, method="Nelder-Mead", options=options)
        best = found if best is None or found.fun < best.fun else best
    p = best.x
    member = np.full(len(posteriors), np.nan)
    member[chosen] = np.exp(_log_member(p, mu, av, log_prior) - per_star(p))
    return ClusterSummary(
        float(p[0]), float(p[1]), _sandwich(per_star, p)[:2, :2],
        float(np.exp(p[2])), float(np.exp(p[3])), float(1.0 / (1.0 + np.exp(-p[4]))), member,
        int(chosen.sum()),
    )  # fmt: skip


def _log_member(p: np.ndarray, mu: np.ndarray, av: np.ndarray, log_prior: np.ndarray) -> np.ndarray:
    """Return ln(f) + ln of the mean over draws of N / prior, one a star."""
    s, t = np.exp(p[2:4])
    log = -0.5 * (((mu - p[0]) / s) ** 2 + ((av - p[1]) / t) ** 2) - np.log(2.0 * np.pi * s * t)
    log = log - log_prior
    top = log.max(axis=1)
    with np.errstate(under="ignore"):
        mean = np.log(np.mean(np.exp(log - top[:, None]), axis=1))
    return np.asarray(top + mean - np.logaddexp(0.0, -p[4]))


def _log_prior(posteriors: StarPosteriors, distance: np.ndarray, av: np.ndarray) -> np.ndarray:
    """Return the log density of the prior in distance modulus and A_V at the draws."""
    from scipy.special import ndtr

    priors = posteriors.provenance.get("priors", {})
    kinds = [priors.get(k, {}).get("kind") for k in ("distance", "extinction")]
    if kinds != ["FlatDistance", "ExtinctionPrior"]:
        raise PogsonValueError(
            f"The stars were fitted with priors of distance and extinction {kinds}, which differ "
            "from star to star. For a cluster fit with FlatDistance(-1) and ExtinctionPrior "
            '(in a configuration: [priors] distance = "modulus").'
        )
    near, far = posteriors.provenance["config"]["distance_limits"]
    power = float(priors["distance"]["power"]) + 1.0
    log = power * np.log(distance) + np.log(_LN_D)
    if power == 0.0:
        log = log - np.log(np.log(far / near))
    else:
        log = log - np.log((far**power - near**power) / power)
    dust = priors["extinction"]
    low, high = float(dust["low"]), float(dust["high"])
    if dust["sd"] == "flat":
        return np.asarray(log - np.log(high - low))
    mean, sd = float(dust["mean"]), float(dust["sd"])
    mass = ndtr((high - mean) / sd) - ndtr((low - mean) / sd)
    z = (av - mean) / sd
    return np.asarray(log - 0.5 * z**2 - np.log(sd * np.sqrt(2.0 * np.pi) * mass))


def _sandwich(per_star: Any, p: np.ndarray) -> np.ndarray:
    """Return H^-1 J H^-1 with the curvature H and the scores' products J."""
    step = np.array([2e-3, 2e-3, 1e-2, 1e-2, 1e-2])
    eye = np.diag(step)
    plus = np.stack([per_star(p + e) for e in eye])
    minus = np.stack([per_star(p - e) for e in eye])
    scores = (plus - minus) / (2.0 * step[:, None])
    curvature = np.empty((5, 5))
    for i in range(5):
        for j in range(i, 5):
            four = [
                per_star(p + a * eye[i] + b * eye[j]).sum() * a * b
                for a in (1.0, -1.0)
                for b in (1.0, -1.0)
            ]
            curvature[i, j] = curvature[j, i] = sum(four) / (4.0 * step[i] * step[j])
    inverse = np.linalg.pinv(-curvature)
    return np.asarray(inverse @ (scores @ scores.T) @ inverse)
