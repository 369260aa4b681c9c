"""Compiled posterior of a pair of stars whose images are splines in a few numbers.

A star at any place is a short vector: the spline of its coefficients. Products of two stars with
scene and sky eliminated are plain products of such vectors, so that one likelihood takes about a
microsecond.
"""

# Kernels take plain arrays and are typed by the compiler.
# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import math

import numpy as np
from numba import njit

_NOWHERE = -1e300


@njit(cache=True, nogil=True, error_model="numpy")
def _star(coefficients, half, step, x, y, out):
    """Write the vector of a star at an offset; False outside of the table."""
    ny, nx, size = coefficients.shape
    u, v = (x + half) / step, (y + half) / step
    i, j = math.floor(u), math.floor(v)
    if i < 1 or j < 1 or i > nx - 3 or j > ny - 3:
        return False
    wx, wy = np.empty(4), np.empty(4)
    for t, weight in ((u - i, wx), (v - j, wy)):
        s = 1.0 - t
        weight[0] = s * s * s / 6.0
        weight[1] = (4.0 - 6.0 * t * t + 3.0 * t * t * t) / 6.0
        weight[2] = (4.0 - 6.0 * s * s + 3.0 * s * s * s) / 6.0
        weight[3] = t * t * t / 6.0
    out[:] = 0.0
    for b in range(4):
        for a in range(4):
            weight_ab = wy[b] * wx[a]
            for r in range(size):
                out[r] += weight_ab * coefficients[j + b - 1, i + a - 1, r]
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def log_likelihood(coefficients, half, step, z, radius, longest, place, first, second):
    """Return the log likelihood of a pair, its total flux (0 or more) integrated out.

    ``place`` is the centre of light x and y, the vector from the brighter to the fainter x and y,
    and the ratio of fluxes. ``first`` and ``second`` are scratch; ``first`` returns the vector of
    the pair with unit flux.
    """
    cx, cy, dx, dy, ratio = place
    if ratio < 0.0 or ratio > 1.0 or dx * dx + dy * dy > longest * longest:
        return _NOWHERE
    share = ratio / (1.0 + ratio)
    ax, ay = cx - dx * share, cy - dy * share
    bx, by = ax + dx, ay + dy
    if ax * ax + ay * ay > radius * radius or bx * bx + by * by > radius * radius:
        return _NOWHERE
    if not _star(coefficients, half, step, ax, ay, first):
        return _NOWHERE
    if not _star(coefficients, half, step, bx, by, second):
        return _NOWHERE
    norm = 0.0
    along = 0.0
    for r in range(first.size):
        first[r] = (1.0 - share) * first[r] + share * second[r]
        norm += first[r] * first[r]
        along += first[r] * z[r]
    if norm <= 0.0:
        return _NOWHERE
    signal = along / math.sqrt(norm)
    positive = max(0.5 * math.erfc(-signal / math.sqrt(2.0)), 1e-300)
    return 0.5 * signal * signal - 0.5 * math.log(norm) + math.log(positive)


@njit(cache=True, nogil=True, error_model="numpy")
def log_likelihoods(coefficients, half, step, z, radius, longest, places):
    """Return the log likelihoods of many pairs."""
    first, second = np.empty(z.size), np.empty(z.size)
    out = np.empty(len(places))
    for n in range(len(places)):
        out[n] = log_likelihood(
            coefficients, half, step, z, radius, longest, places[n], first, second
        )
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def flux_moments(coefficients, half, step, z, places):
    """Return the mean and the error of the total flux of each pair."""
    first, second = np.empty(z.size), np.empty(z.size)
    out = np.empty((len(places), 2))
    for n in range(len(places)):
        log_likelihood(coefficients, half, step, z, 1e30, 1e30, places[n], first, second)
        norm = np.sum(first * first)
        out[n, 0], out[n, 1] = np.sum(first * z) / norm, 1.0 / math.sqrt(norm)
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def _log_prior(place):
    # uniform in separation and direction
    return -0.5 * math.log(max(place[2] * place[2] + place[3] * place[3], 1e-300))


@njit(cache=True, nogil=True, error_model="numpy")
def _propose(rng, places, n, start, stop, trial):
    """Write a proposal for place n from two others; return the log of its correction."""
    i, j = rng.integers(start, stop), rng.integers(start, stop)
    kind = rng.random()
    if kind < 0.05:
        trial[:] = places[n]
        trial[2], trial[3] = -trial[2], -trial[3]
        return 0.0
    if kind < 0.5:
        # Goodman & Weare's stretch, by a factor between one half and 2
        q = (1.0 + rng.random()) ** 2 / 2.0
        for t in range(5):
            trial[t] = places[i, t] + q * (places[n, t] - places[i, t])
        return 4.0 * math.log(q)
    factor = 1.0 if kind < 0.6 else 0.75 * (0.5 + rng.random())
    for t in range(5):
        trial[t] = places[n, t] + factor * (places[i, t] - places[j, t])
    return 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def sweep(rng, coefficients, half, step, z, radius, longest, places, values, power, turns):
    """Move all places ``turns`` times under likelihood**power times the prior; return the share."""
    first, second, trial = np.empty(z.size), np.empty(z.size), np.empty(5)
    count, taken = len(places), 0
    middle = count // 2
    for _ in range(turns):
        for n in range(count):
            start, stop = (middle, count) if n < middle else (0, middle)
            correction = _propose(rng, places, n, start, stop, trial)
            value = log_likelihood(
                coefficients, half, step, z, radius, longest, trial, first, second
            )
            if value == _NOWHERE:
                continue
            gain = power * (value - values[n]) + _log_prior(trial) - _log_prior(places[n])
            if math.log(rng.random()) < gain + correction:
                places[n], values[n] = trial, value
                taken += 1
    return taken / (count * turns)
