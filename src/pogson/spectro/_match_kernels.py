"""Kernels of the spectral fits: banded observation operators and profiled smooth continua."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

# The LSF is cut where less than 1e-5 of it is left.
_REACH = 4.4


@njit(cache=True, nogil=True)
def observation_operator(  # pragma: no cover - compiled
    log_start: float,
    log_step: float,
    n_samples: int,
    doppler: float,
    low: np.ndarray,
    high: np.ndarray,
    sigma: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """First sample and weights with which each pixel averages a shifted model through its LSF.

    The model is sampled evenly in ln(wavelength); ``doppler`` is observed over rest wavelength.
    A pixel from ``low`` to ``high`` is the mean of the model convolved with a Gaussian of
    ``sigma``, all in Angstrom. Weights add to 1, or to NaN where the model does not reach.
    """
    n_pix = low.size
    step = log_step
    shift = math.log(doppler)
    widest = 0
    for p in range(n_pix):
        centre = 0.5 * (low[p] + high[p])
        s = max(sigma[p], 0.3 * step * centre)
        span = (high[p] - low[p] + 2 * _REACH * s) / (step * centre)
        widest = max(widest, int(span) + 3)
    start = np.zeros(n_pix, np.int64)
    weights = np.zeros((n_pix, widest))
    for p in range(n_pix):
        centre = 0.5 * (low[p] + high[p])
        s = max(sigma[p], 0.3 * step * centre)
        first = int((math.log(low[p] - _REACH * s) - shift - log_start) // step)
        last = first + widest - 1
        if first < 0 or (math.log(high[p] + _REACH * s) - shift - log_start) / step > n_samples - 1:
            start[p] = max(0, min(first, n_samples - widest))
            weights[p, :] = np.nan
            continue
        first = min(first, n_samples - widest)
        last = first + widest - 1
        start[p] = first
        total = 0.0
        root = 1.0 / (s * math.sqrt(2.0))
        for j in range(first, last + 1):
            lam = math.exp(log_start + j * step + shift)
            below = (low[p] - lam) * root
            above = (high[p] - lam) * root
            if above < -4.4 or below > 4.4:
                continue
            value = (math.erf(above) - math.erf(below)) * lam
            weights[p, j - first] = value
            total += value
        for j in range(widest):
            weights[p, j] /= total
    return start, weights


@njit(cache=True, nogil=True, fastmath=True)
def observe(  # pragma: no cover - compiled
    models: np.ndarray, rows: np.ndarray, start: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Rows of models (n_model, n_sample) seen through an observation operator: (n_row, n_pixel)."""
    n_row, n_pix, width = rows.size, start.size, weights.shape[1]
    out = np.empty((n_row, n_pix))
    whole = n_row - n_row % 4
    for m in range(0, whole, 4):
        one, two, three, four = rows[m], rows[m + 1], rows[m + 2], rows[m + 3]
        for p in range(n_pix):
            first = start[p]
            a = b = c = d = 0.0
            for j in range(width):
                w = weights[p, j]
                a += w * models[one, first + j]
                b += w * models[two, first + j]
                c += w * models[three, first + j]
                d += w * models[four, first + j]
            out[m, p], out[m + 1, p], out[m + 2, p], out[m + 3, p] = a, b, c, d
    for m in range(whole, n_row):
        row = rows[m]
        for p in range(n_pix):
            first = start[p]
            total = 0.0
            for j in range(width):
                total += weights[p, j] * models[row, first + j]
            out[m, p] = total
    return out


@njit(cache=True, nogil=True, fastmath=True)
def combine(  # pragma: no cover - compiled
    models: np.ndarray, slope: np.ndarray, rows: np.ndarray, weights: np.ndarray, shift: float
) -> np.ndarray:
    """Weighted sum of some rows of ``models + shift * slope``."""
    out = np.zeros(models.shape[1])
    for r in range(rows.size):
        w, v = weights[r], weights[r] * shift
        one, two = models[rows[r]], slope[rows[r]]
        for p in range(out.size):
            out[p] += w * one[p] + v * two[p]
    return out


@njit(cache=True, nogil=True)
def uniform_spline(  # pragma: no cover - compiled
    x: np.ndarray, first: float, last: float, intervals: int
) -> tuple[np.ndarray, np.ndarray]:
    """Index and values of the four cubic B-splines on even knots that are not zero at each x.

    Outside ``first`` to ``last`` the splines of the end interval are evaluated at the end.
    """
    index = np.empty(x.size, np.int64)
    value = np.empty((x.size, 4))
    scale = intervals / (last - first)
    for p in range(x.size):
        u = min(max((x[p] - first) * scale, 0.0), float(intervals))
        k = min(int(u), intervals - 1)
        t = u - k
        index[p] = k
        value[p, 0] = (1 - t) ** 3 / 6
        value[p, 1] = (3 * t**3 - 6 * t**2 + 4) / 6
        value[p, 2] = (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6
        value[p, 3] = t**3 / 6
    return index, value


@njit(cache=True, nogil=True, fastmath=True)
def accumulate(  # pragma: no cover - compiled
    counts: np.ndarray,
    weight: np.ndarray,
    design: np.ndarray,
    index: np.ndarray,
    value: np.ndarray,
    gram: np.ndarray,
    moment: np.ndarray,
) -> float:
    """Add to the normal equations of counts = design * spline; return the sum of w counts^2.

    ``gram`` (n_coefficient, 4) is the upper band, ``moment`` (n_coefficient,) the right side.
    """
    total = 0.0
    for p in range(counts.size):
        w = weight[p]
        if w == 0.0:
            continue
        d = design[p]
        wd2 = w * d * d
        wdc = w * d * counts[p]
        total += w * counts[p] * counts[p]
        k = index[p]
        for i in range(4):
            vi = value[p, i]
            moment[k + i] += wdc * vi
            for j in range(i, 4):
                gram[k + i, j - i] += wd2 * vi * value[p, j]
    return total


@njit(cache=True, nogil=True)
def solve_band(  # pragma: no cover - compiled
    gram: np.ndarray, moment: np.ndarray, smooth: float
) -> np.ndarray:
    """Solve a symmetric band system of bandwidth 4 after adding a small roughness penalty.

    The penalty, ``smooth`` times the mean diagonal on squared second differences, bridges
    intervals without data and does nothing to the others.
    """
    n = moment.size
    a = gram.copy()
    mean = 0.0
    for k in range(n):
        mean += a[k, 0]
    mean = max(mean / n, 1e-300)
    lam = smooth * mean
    for k in range(n - 2):
        a[k, 0] += lam
        a[k + 1, 0] += 4 * lam
        a[k + 2, 0] += lam
        a[k, 1] -= 2 * lam
        a[k + 1, 1] -= 2 * lam
        a[k, 2] += lam
    for k in range(n):
        a[k, 0] += 1e-12 * mean
    # Cholesky: a = L L^T, row k of the band holds L[k + j, k]
    for k in range(n):
        root = math.sqrt(max(a[k, 0], 1e-300))
        a[k, 0] = root
        for j in range(1, min(4, n - k)):
            a[k, j] /= root
        for i in range(1, min(4, n - k)):
            for j in range(i, min(4, n - k)):
                a[k + i, j - i] -= a[k, i] * a[k, j]
    x = moment.copy()
    for k in range(n):
        x[k] /= a[k, 0]
        for j in range(1, min(4, n - k)):
            x[k + j] -= a[k, j] * x[k]
    for k in range(n - 1, -1, -1):
        for j in range(1, min(4, n - k)):
            x[k] -= a[k, j] * x[k + j]
        x[k] /= a[k, 0]
    return x


@njit(cache=True, nogil=True, fastmath=True)
def spline_values(  # pragma: no cover - compiled
    coefficients: np.ndarray, index: np.ndarray, value: np.ndarray
) -> np.ndarray:
    """The spline at every pixel."""
    out = np.empty(index.size)
    for p in range(index.size):
        k = index[p]
        out[p] = (
            coefficients[k] * value[p, 0]
            + coefficients[k + 1] * value[p, 1]
            + coefficients[k + 2] * value[p, 2]
            + coefficients[k + 3] * value[p, 3]
        )
    return out


@njit(cache=True, nogil=True)
def profiled_fit(  # pragma: no cover - compiled
    counts: np.ndarray,
    weight: np.ndarray,
    model: np.ndarray,
    index: np.ndarray,
    value: np.ndarray,
    n_coefficient: int,
) -> np.ndarray:
    """The model times the smooth continuum that fits the counts best."""
    gram = np.zeros((n_coefficient, 4))
    moment = np.zeros(n_coefficient)
    accumulate(counts, weight, model, index, value, gram, moment)
    c = solve_band(gram, moment, 1e-6)
    return model * spline_values(c, index, value)


@njit(cache=True, nogil=True)
def profiled_chi2(  # pragma: no cover - compiled
    counts: np.ndarray,
    weight: np.ndarray,
    models: np.ndarray,
    index: np.ndarray,
    value: np.ndarray,
    n_coefficient: int,
    huber: float,
) -> np.ndarray:
    """Chi-square of each model with its best smooth continuum.

    ``huber`` > 0: Huber's rho (twice, so that it is chi-square for small residuals) after two
    rounds of reweighting; 0: chi-square.
    """
    out = np.empty(models.shape[0])
    w = weight.copy()
    for m in range(models.shape[0]):
        if huber > 0:
            w[:] = weight
        total = 0.0
        for _ in range(3 if huber > 0 else 1):
            fit = profiled_fit(counts, w, models[m], index, value, n_coefficient)
            total = 0.0
            for p in range(counts.size):
                if weight[p] == 0.0:
                    continue
                z2 = (counts[p] - fit[p]) ** 2 * weight[p]
                if huber > 0 and z2 > huber * huber:
                    z = math.sqrt(z2)
                    total += 2 * huber * z - huber * huber
                    w[p] = weight[p] * huber / z
                else:
                    total += z2
                    w[p] = weight[p]
        out[m] = total
    return out
