"""One scoring step of the band calibration, and its covariance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pogson.stars.calibrate_scores import Scores

__all__ = ["Step", "information", "newton_step"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Step:
    """A scoring step.

    Parameters
    ----------
    by_a : ndarray (bands, terms)
        Step of the ln offsets.
    by_t : ndarray (bands,)
        Step of the squared scatter.
    covariance, noise : ndarray (parameters, parameters)
        Inverse information, and the variance of this one estimate from its finite draws.
    size : float
        Root mean square of the step of the offsets in standard errors, less what Monte Carlo noise
        alone makes (its mean and two standard deviations).

    Examples
    --------
    >>> import numpy as np
    >>> Step(np.zeros((1, 1)), np.zeros(1), np.eye(2), 0 * np.eye(2), 0.0).size
    0.0
    """

    by_a: Floats
    by_t: Floats
    covariance: Floats
    noise: Floats
    size: float


def expand(score: Floats, design: Floats) -> Floats:
    """Return scores by the coefficients of a basis: bands slowest, then the scatters.

    Examples
    --------
    >>> import numpy as np
    >>> expand(np.array([[1.0, 5.0]]), np.array([[1.0, 3.0]]))
    array([[1., 3., 5.]])
    """
    bands = score.shape[1] // 2
    by_a = score[:, :bands, None] * design[:, None, :]
    return np.concatenate([by_a.reshape(len(score), -1), score[:, bands:]], axis=1)


def information(scores: Scores, design: Floats, keep: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Return the empirical information and the Monte Carlo variance of the summed score.

    Examples
    --------
    >>> import numpy as np
    >>> s = np.array([[1.0, 0.0], [-1.0, 0.0]])
    >>> z = Scores(s, s, s, s, s, s)
    >>> information(z, np.ones((2, 1)), np.ones(2, bool))[0]
    array([[2., 0.], [0., 0.]])
    """
    first = expand(scores.first[keep], design[keep])
    second = expand(scores.second[keep], design[keep])
    mean = 0.5 * (first + second).mean(axis=0)
    product = (first - mean).T @ (second - mean)
    difference = first - second
    return 0.5 * (product + product.T), 0.25 * difference.T @ difference


def _floored(matrix: Floats, noise: Floats, prior: Floats, share: float) -> Floats:
    """Return prior + matrix, whose eigenvalues do not fall below a share of the noise's."""
    unit = np.sqrt(np.maximum(np.diagonal(matrix + noise), 1e-300))
    values, vectors = np.linalg.eigh(matrix / np.outer(unit, unit))
    held = np.einsum("ij,ik,kj->j", vectors, noise / np.outer(unit, unit), vectors)
    values = np.maximum(values, np.maximum(share * held, 1e-7))
    return np.asarray((vectors * values) @ vectors.T * np.outer(unit, unit) + np.diag(prior))


def _size2(step: Floats, covariance: Floats, noise: Floats) -> float:
    """Return the squared step in units of the errors, beyond Monte Carlo noise, per parameter."""
    both = covariance + noise
    share = np.linalg.solve(both, noise)
    expected = np.trace(share) + 2.0 * np.sqrt(2.0 * max(np.trace(share @ share), 0.0))
    return max(float(step @ np.linalg.solve(both, step)) - float(expected), 0.0) / len(step)


def newton_step(
    scores: Scores,
    design: Floats,
    keep: NDArray[np.bool_],
    a: Floats,
    t: Floats,
    prior_std: float,
    fit_scatter: bool,
) -> Step:
    """Return the scoring step of ln offsets and squared scatters.

    A squared scatter that would become negative stops at zero and is held there; the covariance
    is that of the parameters left.

    Examples
    --------
    >>> import numpy as np
    >>> s = np.array([[150.0, 0.0], [50.0, 0.0]])
    >>> z = Scores(s, s, s, s, s, s)
    >>> step = newton_step(z, np.ones((2, 1)), np.ones(2, bool), np.zeros((1, 1)), np.zeros(1),
    ...                    0.1, False)
    >>> step.by_a
    array([[0.03921569]])
    """
    bands, terms = a.shape
    number = bands * terms
    gradient = expand(scores.score[keep], design[keep]).sum(axis=0)
    matrix, noise = information(scores, design, keep)
    prior = np.concatenate([np.full(number, prior_std**-2.0), np.zeros(bands)])
    gradient[:number] -= prior[:number] * a.ravel()
    free = np.concatenate([np.ones(number, bool), np.full(bands, fit_scatter)])
    size = number + bands
    step = np.zeros(size)
    for _ in range(bands + 1):
        at = np.flatnonzero(free)
        sub = np.ix_(at, at)
        # where noise is all there is, steps are damped
        whole = _floored(matrix[sub], noise[sub], prior[at], 1.0)
        step[:] = 0.0
        step[at] = np.linalg.solve(whole, gradient[at])
        # scatters that the step would take below zero go to zero, the others follow
        low = free.copy()
        low[:number] = False
        low[number:] &= t + step[number:] < 0
        if not low.any():
            break
        free &= ~low
    held = np.flatnonzero(~free[number:]) if fit_scatter else np.empty(0, int)
    step[number + held] = -t[held]
    covariance, spread = np.zeros((size, size)), np.zeros((size, size))
    damped = np.linalg.inv(whole)
    covariance[sub] = np.linalg.inv(_floored(matrix[sub], noise[sub], prior[at], 0.1))
    spread[sub] = damped @ noise[sub] @ damped
    relative = _size2(step[:number], covariance[:number, :number], spread[:number, :number])
    return Step(
        step[:number].reshape(bands, terms), step[number:], covariance, spread,
        float(np.sqrt(relative)),
    )  # fmt: skip
