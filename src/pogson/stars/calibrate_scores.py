r"""Scores of band offsets and scatter, each star's model marginalised over its posterior draws.

A star's flux in band b is Gaussian about :math:`\mu_b = F_b(\theta) e^{-x_b}` with variance
:math:`v_b = \sigma_b^2 + s_b^2 m_b^2`; :math:`x = \ln` of the offset, ``s`` the intrinsic scatter
and ``m`` a fixed model flux (the posterior mean of the round before, on the scale of the data).
:math:`\theta` = (model, distance, A_V, R_V) is integrated over:
:math:`L = \sum_i L_i = \sum_i \ln \int p(f_i | \theta, x, s) \pi(\theta) d\theta`.

Fisher's identity gives a star's score from draws of its posterior,
:math:`\partial L_i = E_i[\partial \ln p(f_i|\theta)]`. The information is the covariance of the
scores over stars, :math:`\sum_i \partial L_i \partial L_i^T`: what a star's model can absorb has no
score, so the shared-model degeneracy is in it. (Louis's identity gives the same as the difference
of two large numbers, whose Monte Carlo noise drowns the weak directions.) The product is taken
between two disjoint halves of the draws, so that Monte Carlo noise does not count as information.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Scores", "star_scores"]

Floats = NDArray[np.float64]
_VALUES = 4_000_000  # (star, draw, parameter) values held at once


@dataclass(frozen=True, eq=False)
class Scores:
    """Posterior means of every star: scores from all draws and from two halves, and residuals.

    Parameters
    ----------
    score, first, second : ndarray (n, 2 bands)
        Mean derivative of ln p by the x's, then by the s^2's: all draws, and the two halves.
    model_flux : ndarray (n, bands)
        Mean model flux.
    ess : ndarray (n,)
        Effective number of draws.
    chi2 : ndarray (n,)
        Smallest chi-square among the draws.

    Examples
    --------
    >>> import numpy as np
    >>> z = np.zeros
    >>> Scores(z((1, 4)), z((1, 4)), z((1, 4)), z((1, 2)), z(1), z(1)).ess
    array([0.])
    """

    score: Floats
    first: Floats
    second: Floats
    model_flux: Floats
    ess: Floats
    chi2: Floats


def star_scores(
    model: Floats,
    log_weight: Floats,
    flux: Floats,
    observed: NDArray[np.bool_],
    x: Floats,
    variance: Floats,
    scale: Floats,
    controls: Floats | None = None,
) -> Scores:
    """Return the scores of every star at the offsets and variances of its draws.

    Parameters
    ----------
    model : ndarray (n, draws, bands)
        Model fluxes of the draws.
    log_weight : ndarray (n, draws)
        ln of the draws' weights.
    flux, observed, x, variance : ndarray (n, bands)
        Data, whether observed, ln of the offset, total variance.
    scale : ndarray (n, bands)
        The model flux that the scatter multiplies, on the scale of the data.
    controls : ndarray (n, draws, k), optional
        Functions of zero posterior mean, regressed out.

    Returns
    -------
    Scores
        Means over each star's draws.

    Examples
    --------
    >>> import numpy as np
    >>> one = np.ones((1, 1))
    >>> s = star_scores(np.ones((1, 4, 1)), np.zeros((1, 4)), 1.1 * one, one > 0, 0 * one, one, one)
    >>> s.score[:, 0]
    array([-0.1])
    """
    n, draws, bands = model.shape
    step = max(1, _VALUES // (draws * 2 * bands))
    parts = []
    for i in range(0, n, step):
        rows = slice(i, i + step)
        parts.append(
            _scores(
                model[rows], log_weight[rows], flux[rows], observed[rows], x[rows],
                variance[rows], scale[rows], None if controls is None else controls[rows],
            )
        )  # fmt: skip
    return Scores(*(np.concatenate(p) for p in zip(*parts, strict=True)))


def _scores(
    model: Floats,
    log_weight: Floats,
    flux: Floats,
    observed: NDArray[np.bool_],
    x: Floats,
    variance: Floats,
    scale: Floats,
    controls: Floats | None,
) -> tuple[Floats, ...]:
    w = np.exp(log_weight - log_weight.max(axis=1, keepdims=True))
    inverse = np.where(observed, 1.0 / variance, 0.0)[:, None]
    mu = model * np.exp(-x)[:, None]
    r = np.where(observed, flux, 0.0)[:, None] - mu
    m2 = (scale**2)[:, None]
    g = np.concatenate([-r * mu * inverse, 0.5 * m2 * (r * r * inverse - 1.0) * inverse], axis=2)
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
    chi2 = np.min((r * r * inverse).sum(axis=2) + np.where(w > 0, 0.0, np.inf), axis=1)
    return score, halves[0], halves[1], flux_mean, total[:, 0] ** 2 / (w * w).sum(axis=1), chi2


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
