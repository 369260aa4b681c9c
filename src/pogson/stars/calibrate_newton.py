"""One scoring step of the band calibration, and its covariance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pogson.stars.calibrate_scores import Scores

__all__ = ["Pair", "Step", "bent", "information", "newton_step"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Pair:
    """A move of the parameters, and how much it lowered the score.

    Parameters
    ----------
    move, fall : ndarray (parameters,)
        The move, and the score before less the score after it.

    Examples
    --------
    >>> import numpy as np
    >>> Pair(np.ones(2), np.ones(2)).fall
    array([1., 1.])
    """

    move: Floats
    fall: Floats


def bent(matrix: Floats, pairs: Sequence[Pair]) -> Floats:
    r"""Return information corrected for how much the score fell along moves already made.

    The covariance of the scores is the curvature of the likelihood where errors and models are
    right. With errors of the models held at k times what they are it is :math:`k^2` times too
    small, and steps overshoot as much. The formula of Broyden, Fletcher, Goldfarb and Shanno
    (Nocedal & Wright 2006, Numerical Optimization, eq. 6.19) gives a matrix that agrees with the
    moves and stays positive.

    Examples
    --------
    >>> import numpy as np
    >>> bent(np.eye(2), [Pair(np.array([0.1, 0.0]), np.array([1.0, 0.0]))])
    array([[10.,  0.],
           [ 0., 10.]])
    """
    if not pairs:
        return matrix
    last = pairs[-1]
    factor = float(last.move @ last.fall) / float(last.move @ matrix @ last.move)
    out = matrix * np.clip(factor, 1.0, 100.0)
    for pair in pairs:
        along = out @ pair.move
        out = out - np.outer(along, along) / (pair.move @ along)
        out = out + np.outer(pair.fall, pair.fall) / (pair.move @ pair.fall)
    return np.asarray(0.5 * (out + out.T))


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
    distance : float
        The same with nothing taken off.
    gradient : ndarray (parameters,)
        Summed score, of the prior too.
    metric : ndarray (parameters, parameters)
        The information that the step was taken with, zero for parameters held.

    Examples
    --------
    >>> import numpy as np
    >>> one = np.eye(2)
    >>> Step(np.zeros((1, 1)), np.zeros(1), one, 0 * one, 0.0, 0.0, np.zeros(2), one).size
    0.0
    """

    by_a: Floats
    by_t: Floats
    covariance: Floats
    noise: Floats
    size: float
    distance: float
    gradient: Floats
    metric: Floats


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
    >>> s, z = np.array([[1.0, 0.0], [-1.0, 0.0]]), np.zeros(2)
    >>> scores = Scores(s, (s, s), s, s, z, z, z)
    >>> information(scores, np.ones((2, 1)), np.ones(2, bool))[0]
    array([[2., 0.], [0., 0.]])
    """
    parts = np.stack([expand(p[keep], design[keep]) for p in scores.parts])
    count = len(parts)
    about = parts - parts.mean(axis=(0, 1))
    total = about.sum(axis=0)
    product = total.T @ total - np.einsum("kip,kiq->pq", about, about)
    deviation = parts - parts.mean(axis=0)
    noise = np.einsum("kip,kiq->pq", deviation, deviation) / (count * (count - 1))
    return product / (count * (count - 1)), noise


def _floored(matrix: Floats, noise: Floats, prior: Floats, share: float) -> Floats:
    """Return prior + matrix, whose eigenvalues do not fall below a share of the noise's."""
    unit = np.sqrt(np.maximum(np.diagonal(matrix + noise), 1e-300))
    values, vectors = np.linalg.eigh(matrix / np.outer(unit, unit))
    held = np.einsum("ij,ik,kj->j", vectors, noise / np.outer(unit, unit), vectors)
    values = np.maximum(values, np.maximum(share * held, 1e-7))
    return np.asarray((vectors * values) @ vectors.T * np.outer(unit, unit) + np.diag(prior))


def _sizes(step: Floats, covariance: Floats, noise: Floats) -> tuple[float, float]:
    """Return the rms step in units of the errors, beyond Monte Carlo noise and as it is."""
    both = covariance + noise
    share = np.linalg.solve(both, noise)
    expected = np.trace(share) + 2.0 * np.sqrt(2.0 * max(np.trace(share @ share), 0.0))
    whole = float(step @ np.linalg.solve(both, step))
    beyond = max(whole - float(expected), 0.0)
    return float(np.sqrt(beyond / len(step))), float(np.sqrt(max(whole, 0.0) / len(step)))


def newton_step(
    scores: Scores,
    design: Floats,
    keep: NDArray[np.bool_],
    a: Floats,
    t: Floats,
    prior_std: float,
    fit_scatter: bool,
    pairs: Sequence[Pair] = (),
    floor: float = 0.0,
) -> Step:
    """Return the scoring step of ln offsets and squared scatters.

    A squared scatter that would fall below the floor stops there and is held; the covariance
    is that of the parameters left. Where the scatter is held, the step goes by the curvature that
    earlier moves met (see `bent`); the covariance does not.

    Examples
    --------
    >>> import numpy as np
    >>> s, z = np.array([[150.0, 0.0], [50.0, 0.0]]), np.zeros(2)
    >>> scores = Scores(s, (s, s), s, s, z, z, z)
    >>> step = newton_step(scores, np.ones((2, 1)), np.ones(2, bool), np.zeros((1, 1)), np.zeros(1),
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
        inner = [Pair(p.move[at], p.fall[at]) for p in pairs]
        step[at] = np.linalg.solve(bent(whole, inner), gradient[at])
        # scatters that the step would take below the floor go there, the others follow
        low = free.copy()
        low[:number] = False
        low[number:] &= t + step[number:] < floor
        if not low.any():
            break
        free &= ~low
    held = np.flatnonzero(~free[number:]) if fit_scatter else np.empty(0, int)
    step[number + held] = floor - t[held]
    covariance, spread = np.zeros((size, size)), np.zeros((size, size))
    damped = np.linalg.inv(whole)
    covariance[sub] = np.linalg.inv(_floored(matrix[sub], noise[sub], prior[at], 0.1))
    spread[sub] = damped @ noise[sub] @ damped
    sizes = _sizes(step[:number], covariance[:number, :number], spread[:number, :number])
    metric = np.zeros((size, size))
    metric[sub] = whole
    return Step(
        step[:number].reshape(bands, terms), step[number:], covariance, spread, *sizes, gradient,
        metric,
    )  # fmt: skip
