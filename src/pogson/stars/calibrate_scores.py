r"""Scores of band offsets and scatter, each star's model marginalised over its posterior draws.

A star's flux in band b is Gaussian about :math:`\mu_b = F_b(\theta) e^{-x_b}` with variance
:math:`v_b = \sigma_b^2 + s_b^2 m_b^2`; :math:`x = \ln` of the offset, ``s`` the intrinsic scatter
and ``m`` a fixed model flux (the posterior mean of the fit before, on the scale of the data). With
outliers, a fraction :math:`\epsilon` of the measurements has a wider Gaussian instead.
:math:`\theta` = (model, distance, A_V, R_V) is integrated over:
:math:`L = \sum_i L_i = \sum_i \ln \int p(f_i | \theta, x, s) \pi(\theta) d\theta`.

Fisher's identity gives a star's score from draws of its posterior,
:math:`\partial L_i = E_i[\partial \ln p(f_i|\theta)]`. Draws made at other offsets, scatters or
bands are reweighted by the ratio of their likelihoods. The information is the covariance of the
scores over stars, :math:`\sum_i \partial L_i \partial L_i^T`: what a star's model can absorb has no
score, so the shared-model degeneracy is in it. (Louis's identity gives the same as the difference
of two large numbers, whose Monte Carlo noise drowns the weak directions.) The product is taken
between independent sets of draws, so that Monte Carlo noise does not count as information.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pogson.stars.calibrate_draws import StarDraws

__all__ = ["Conditions", "Scores", "pooled", "star_scores"]

Floats = NDArray[np.float64]
_VALUES = 1_000_000  # (star, draw, band) values held at once


@dataclass(frozen=True, eq=False)
class Conditions:
    """Data of stars and what they are taken to be: the likelihood, given a model.

    Parameters
    ----------
    flux, observed, x, variance : ndarray (n, bands)
        Data, whether used, ln of the offset, total variance.
    scale : ndarray (n, bands)
        The model flux that the scatter multiplies, on the scale of the data.
    extra : ndarray (n, bands), optional
        Variance that an outlier has on top.
    fraction : float, optional
        Share of outliers; zero for none.

    Examples
    --------
    >>> import numpy as np
    >>> one = np.ones((2, 1))
    >>> Conditions(one, one > 0, 0 * one, one, one).rows(slice(0, 1)).flux.shape
    (1, 1)
    """

    flux: Floats
    observed: NDArray[np.bool_]
    x: Floats
    variance: Floats
    scale: Floats
    extra: Floats | None = None
    fraction: float = 0.0

    def rows(self, at: slice | NDArray[np.intp]) -> Conditions:
        """Return those of some stars."""
        extra = None if self.extra is None else self.extra[at]
        return Conditions(
            self.flux[at], self.observed[at], self.x[at], self.variance[at], self.scale[at],
            extra, self.fraction,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Scores:
    """Posterior means of every star: scores, also of independent parts of the draws.

    Parameters
    ----------
    score : ndarray (n, 2 bands)
        Mean derivative of ln p by the x's, then by the s^2's.
    parts : tuple of ndarray (n, 2 bands)
        The same from independent parts of the draws, two or more; ``score`` is their mean, or
        close to it.
    model_flux : ndarray (n, bands)
        Mean model flux.
    bad : ndarray (n, bands)
        Probability of being an outlier.
    ess, share : ndarray (n,)
        Effective number of draws, and what is left of it after reweighting.
    chi2 : ndarray (n,)
        Smallest chi-square among the draws, in the bands they were fitted to.

    Examples
    --------
    >>> import numpy as np
    >>> z = np.zeros((1, 4))
    >>> Scores(z, (z, z), z[:, :2], z[:, :2], z[:, 0], z[:, 0], z[:, 0]).ess
    array([0.])
    """

    score: Floats
    parts: tuple[Floats, ...]
    model_flux: Floats
    bad: Floats
    ess: Floats
    share: Floats
    chi2: Floats


def pooled(sets: Sequence[Scores]) -> Scores:
    """Return the scores of several independent sets of draws together.

    Examples
    --------
    >>> import numpy as np
    >>> z, o = np.zeros((1, 4)), np.ones((1, 4))
    >>> sets = [Scores(s, (s, s), s, s, s[:, 0], s[:, 0], s[:, 0]) for s in (z, o)]
    >>> pooled(sets).score, len(pooled(sets).parts)
    (array([[0.5, 0.5, 0.5, 0.5]]), 2)
    """
    if len(sets) == 1:
        return sets[0]

    def mean(name: str) -> Floats:
        return np.asarray(np.mean([getattr(s, name) for s in sets], axis=0))

    return Scores(
        mean("score"), tuple(s.score for s in sets), mean("model_flux"), mean("bad"),
        np.sum([s.ess for s in sets], axis=0), mean("share"),
        np.min([s.chi2 for s in sets], axis=0),
    )  # fmt: skip


def star_scores(draws: StarDraws, now: Conditions, drawn: Conditions | None = None) -> Scores:
    """Return the scores of every star.

    Parameters
    ----------
    draws : StarDraws
        Posterior draws.
    now : Conditions
        Where the scores are wanted.
    drawn : Conditions, optional
        Where the draws were made; the same by default. The draws are reweighted from there.

    Returns
    -------
    Scores
        Means over each star's draws; the parts are two halves of the draws.

    Examples
    --------
    >>> import numpy as np
    >>> one = np.ones((1, 1))
    >>> at = Conditions(1.1 * one, one > 0, 0 * one, one, one)
    >>> s = star_scores(StarDraws(np.ones((1, 4, 1)), np.zeros((1, 4))), at)
    >>> s.score[:, 0]
    array([-0.1])
    """
    n, count, bands = draws.flux.shape
    step = max(1, _VALUES // (count * bands))
    parts = []
    for i in range(0, n, step):
        rows = slice(i, i + step)
        before = None if drawn is None else drawn.rows(rows)
        parts.append(_scores(draws.rows(rows), now.rows(rows), before))
    score, first, second, *rest = (np.concatenate(p) for p in zip(*parts, strict=True))
    return Scores(score, (first, second), *rest)


def _likelihood(model: Floats, at: Conditions) -> tuple[Floats, Floats, Floats, Floats]:
    """Return ln p (n, draws), its derivatives by ln model flux and s^2, and outlier odds."""
    seen = at.observed[:, None]
    variance = np.where(at.observed, at.variance, 1.0)[:, None]
    mu = model * np.exp(-at.x)[:, None]
    r = np.where(seen, at.flux[:, None] - mu, 0.0)
    inverse = np.where(seen, 1.0 / variance, 0.0)
    half = 0.5 * (at.scale**2)[:, None]
    r2 = r * r * inverse
    if at.extra is None or at.fraction == 0.0:
        by_t = half * (r2 - 1.0) * inverse
        return -0.5 * r2.sum(axis=2), r * mu * inverse, by_t, np.zeros_like(by_t)
    ratio = 1.0 + np.where(at.observed, at.extra, 0.0)[:, None] / variance
    r2_bad = r2 / ratio
    odds = np.log(at.fraction / (1.0 - at.fraction)) - 0.5 * (np.log(ratio) - r2 + r2_bad)
    # p = good (1 + exp(odds)), without overflow
    bad = np.where(seen, 1.0 / (1.0 + np.exp(-np.clip(odds, -500.0, 500.0))), 0.0)
    log = np.where(seen, np.maximum(odds, 0.0) + np.log1p(np.exp(-np.abs(odds))) - 0.5 * r2, 0.0)
    mixed = ((1.0 - bad) + bad / ratio) * inverse
    by_t = (1.0 - bad) * (r2 - 1.0) + bad * (r2_bad - 1.0) / ratio
    return log.sum(axis=2), r * mu * mixed, half * by_t * inverse, bad


def _scores(draws: StarDraws, now: Conditions, drawn: Conditions | None) -> tuple[Floats, ...]:
    model, log_weight, controls = draws.flux, draws.log_weight, draws.controls
    log, by_ln, by_t, bad = _likelihood(model, now)
    fresh = np.exp(log_weight - log_weight.max(axis=1, keepdims=True))
    w, fitted = fresh, now
    if drawn is not None:
        fitted = drawn
        log_drawn, by_drawn, _, _ = _likelihood(model, drawn)
        log_weight = log_weight + log - log_drawn
        w = np.exp(log_weight - log_weight.max(axis=1, keepdims=True))
        if controls is not None:
            change = by_ln - by_drawn
            if draws.directions is not None:
                controls = controls + np.einsum("ndkb,ndb->ndk", draws.directions, change)
            elif np.any(change != 0):
                controls = None
    g = np.concatenate([-by_ln, by_t], axis=2)
    if controls is not None:
        g = _without(g, controls, w)
    halves = []
    for part in (slice(0, None, 2), slice(1, None, 2)):
        total = w[:, part].sum(axis=1, keepdims=True)
        mean = np.einsum("nd,ndp->np", w[:, part], g[:, part])
        halves.append(mean / np.where(total > 0, total, 1.0))
    total = w.sum(axis=1, keepdims=True)
    score = np.einsum("nd,ndp->np", w, g) / total
    flux_mean = np.einsum("nd,ndb->nb", w, model) / total
    bad_mean = np.einsum("nd,ndb->nb", w, bad) / total
    ess = total[:, 0] ** 2 / (w * w).sum(axis=1)
    share = ess * (fresh * fresh).sum(axis=1) / fresh.sum(axis=1) ** 2
    r = np.where(fitted.observed, fitted.flux, 0.0)[:, None] - np.where(
        fitted.observed[:, None], model * np.exp(-fitted.x)[:, None], 0.0
    )
    chi2 = (r * r / np.where(fitted.observed, fitted.variance, 1.0)[:, None]).sum(axis=2)
    chi2 = np.min(chi2 + np.where(fresh > 0, 0.0, np.inf), axis=1)
    return score, halves[0], halves[1], flux_mean, bad_mean, ess, share, chi2


def _without(g: Floats, controls: Floats, w: Floats) -> Floats:
    """Return scores less their regression on the controls, each half by the other's slopes."""
    out = np.empty_like(g)
    halves = (slice(0, None, 2), slice(1, None, 2))
    ridge = 1e-9 * np.eye(controls.shape[2])
    for part, other in (halves, halves[::-1]):
        weight = w[:, other] / np.maximum(w[:, other].sum(axis=1, keepdims=True), 1e-300)
        h, y = controls[:, other], g[:, other]
        h0 = h - np.einsum("nd,ndk->nk", weight, h)[:, None]
        y0 = y - np.einsum("nd,ndp->np", weight, y)[:, None]
        hw = h0 * weight[..., None]
        square = np.matmul(hw.transpose(0, 2, 1), h0)
        square += ridge * (np.trace(square, axis1=1, axis2=2)[:, None, None] + 1e-300)
        slope = np.linalg.solve(square, np.matmul(hw.transpose(0, 2, 1), y0))
        out[:, part] = g[:, part] - np.matmul(controls[:, part], slope)
    return out
