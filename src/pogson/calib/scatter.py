r"""Weighted linear fits with an intrinsic scatter that is fitted too.

The model is :math:`y = A p + \epsilon` with independent errors of variance
:math:`v_i + s^2`, the :math:`v_i` known. The restricted likelihood of *s* (Patterson & Thompson
1971, Biometrika 58, 545) is

.. math:: \ln L(s) = -\tfrac12 \Big[\sum \ln(v_i + s^2) + \ln\det(A^T W A) + r^T W r\Big],

which, unlike the full likelihood, is not biased low by the fitted parameters. The parameters'
covariance is marginalised over *s* with the weak prior :math:`1/(1 + (s/s_0)^2)`: with few points
the scatter is poorly known, and the marginal has the heavy tails of Student's t.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["ScatterFit", "fit_with_scatter"]

_LOG_FLOOR = 20.0  # parts of the posterior below exp(-20) of its peak do not count
_LARGEST = 10.0  # largest scatter considered, in units of the spread of y

# design, data, known variances, prior precision, prior offset
_Problem = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class ScatterFit:
    """Result of `fit_with_scatter`.

    Parameters
    ----------
    parameters : numpy.ndarray, shape (p,)
        Mean over the scatter's posterior.
    covariance : numpy.ndarray, shape (p, p)
        Covariance, marginalised over the scatter.
    scatter : float
        Mode of the restricted likelihood.
    scatter_err : float
        Root-mean-square deviation from the mode under the posterior.
    grid, weights : numpy.ndarray, shape (g,)
        Values of the scatter and their posterior weights (sum 1).
    grid_parameters : numpy.ndarray, shape (g, p)
        Parameters at each.
    grid_covariance : numpy.ndarray, shape (g, p, p)
        Covariance at each.
    """

    parameters: np.ndarray
    covariance: np.ndarray
    scatter: float
    scatter_err: float
    grid: np.ndarray
    weights: np.ndarray
    grid_parameters: np.ndarray
    grid_covariance: np.ndarray


def solve_at(
    a: np.ndarray,
    y: np.ndarray,
    v: np.ndarray,
    prior_precision: np.ndarray,
    prior_offset: np.ndarray,
    s: float,
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return restricted log-likelihood, parameters and covariance at one value of the scatter.

    Parameters
    ----------
    a : numpy.ndarray, shape (n, p)
        Design.
    y, v : numpy.ndarray, shape (n,)
        Data and known variances.
    prior_precision : numpy.ndarray, shape (p,)
        Inverse variances of Gaussian priors, 0 for none.
    prior_offset : numpy.ndarray, shape (p,)
        Their centres.
    s : float
        Scatter.

    Returns
    -------
    log_likelihood : float
    parameters : numpy.ndarray, shape (p,)
    covariance : numpy.ndarray, shape (p, p)
    """
    variance = v + s * s
    w = 1.0 / variance
    normal = a.T @ (w[:, None] * a) + np.diag(prior_precision)
    covariance = np.linalg.inv(normal)
    p = covariance @ (a.T @ (w * y) + prior_precision * prior_offset)
    r = y - a @ p
    chi2 = float(r @ (w * r) + prior_precision @ (p - prior_offset) ** 2)
    log_det = np.linalg.slogdet(normal)[1]
    return -0.5 * (float(np.log(variance).sum()) + log_det + chi2), p, covariance


def fit_with_scatter(
    a: np.ndarray,
    y: np.ndarray,
    v: np.ndarray,
    *,
    prior_scale: float,
    prior_precision: np.ndarray | None = None,
    prior_offset: np.ndarray | None = None,
    fixed: float | None = None,
    n_grid: int = 61,
) -> ScatterFit:
    """Fit a linear model and its intrinsic scatter.

    Parameters
    ----------
    a : numpy.ndarray, shape (n, p)
        Design.
    y, v : numpy.ndarray, shape (n,)
        Data and their known variances.
    prior_scale : float
        Scale s0 of the scatter's prior, in units of ``y``.
    prior_precision, prior_offset : numpy.ndarray, shape (p,), optional
        Gaussian priors on the parameters (inverse variance 0: none).
    fixed : float, optional
        Known scatter; nothing is fitted then.
    n_grid : int
        Points of the grid over the scatter; at most 1: solve at the mode of the restricted
        likelihood only (``scatter_err`` is NaN then).

    Returns
    -------
    fit : ScatterFit

    Examples
    --------
    >>> import numpy as np
    >>> y = np.array([1.0, 1.1, 0.9])
    >>> fit = fit_with_scatter(np.ones((3, 1)), y, np.full(3, 1e-6), prior_scale=0.1)
    >>> fit.parameters, round(fit.scatter, 3)
    (array([1.]), 0.1)
    """
    zero = np.zeros(a.shape[1])
    args: _Problem = (
        a,
        y,
        v,
        zero if prior_precision is None else prior_precision,
        zero if prior_offset is None else prior_offset,
    )
    if fixed is not None:
        _, p, c = solve_at(*args, fixed)
        one = np.ones(1)
        return ScatterFit(p, c, float(fixed), 0.0, one * fixed, one, p[None], c[None])
    mode, low, high = _mode_and_range(args, prior_scale, edges=n_grid > 1)
    if n_grid <= 1:
        _, p, c = solve_at(*args, mode)
        return ScatterFit(p, c, mode, np.nan, np.full(1, mode), np.ones(1), p[None], c[None])
    grid = np.linspace(low, high, n_grid)
    solved = [solve_at(*args, s) for s in grid]
    log_post = np.array([one[0] for one in solved]) - np.log1p((grid / prior_scale) ** 2)
    weights = np.exp(log_post - log_post.max())
    weights[[0, -1]] *= 0.5  # trapezoidal rule
    weights /= weights.sum()
    ps = np.array([one[1] for one in solved])
    cs = np.array([one[2] for one in solved])
    mean = weights @ ps
    d = ps - mean
    covariance = np.einsum("g,gij->ij", weights, cs) + np.einsum("g,gi,gj->ij", weights, d, d)
    error = float(np.sqrt(weights @ (grid - mode) ** 2))
    return ScatterFit(mean, covariance, mode, error, grid, weights, ps, cs)


def _mode_and_range(
    args: _Problem, prior_scale: float, *, edges: bool
) -> tuple[float, float, float]:
    """Return the mode of the restricted likelihood and the range where the posterior lives."""
    from scipy.optimize import minimize_scalar

    y, v = args[1], args[2]
    floor = 1e-3 * float(np.sqrt(np.median(v))) + 1e-9
    top = max(_LARGEST * float(np.std(y)), 10.0 * prior_scale, 10.0 * floor)
    coarse = np.concatenate([[0.0], np.geomspace(floor, top, 23)])
    values = np.array([solve_at(*args, s)[0] for s in coarse])
    best = int(np.argmax(values))
    bracket = (coarse[max(best - 1, 0)], coarse[min(best + 1, len(coarse) - 1)])
    found = minimize_scalar(
        lambda s: -solve_at(*args, s)[0],
        bounds=bracket,
        method="bounded",
        options={"xatol": 1e-6 * top},
    )
    mode = float(found.x) if -found.fun > values[0] else 0.0
    if not edges:
        return mode, mode, mode
    posterior = values - np.log1p((coarse / prior_scale) ** 2)
    peak = max(posterior.max(), max(-found.fun, values[0]) - np.log1p((mode / prior_scale) ** 2))

    def below(s: float) -> bool:
        return bool(solve_at(*args, s)[0] - np.log1p((s / prior_scale) ** 2) < peak - _LOG_FLOOR)

    return mode, _edge(below, mode, 0.0), _edge(below, mode, top)


def _edge(below: Callable[[float], bool], inside: float, outside: float) -> float:
    """Return where the posterior becomes negligible between two values, by bisection."""
    if not below(outside):
        return outside
    for _ in range(40):
        middle = 0.5 * (inside + outside)
        if below(middle):
            outside = middle
        else:
            inside = middle
        if abs(outside - inside) < 0.01 * abs(outside) + 1e-12:
            break
    return outside
