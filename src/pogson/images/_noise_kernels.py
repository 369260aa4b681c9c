"""Compiled variances of sums of correlated pixels."""

# Kernels take plain arrays and are typed by the compiler.
# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import math

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def _half_disc(t, r):
    """Integral of sqrt(r^2 - t^2) from 0 to t."""
    s = min(max(t / r, -1.0), 1.0)
    return 0.5 * r * r * (s * math.sqrt((1.0 - s) * (1.0 + s)) + math.asin(s))


@njit(cache=True, nogil=True)
def _corner(x, y, r):
    """Integral from -r to x of y clamped to the circle, +- sqrt(r^2 - t^2)."""
    sign = 1.0
    if y < 0.0:
        sign, y = -1.0, -y
    x = min(max(x, -r), r)
    if y >= r:
        return sign * (_half_disc(x, r) - _half_disc(-r, r))
    c = math.sqrt((r - y) * (r + y))
    total = _half_disc(min(x, -c), r) - _half_disc(-r, r)
    if x > -c:
        total += y * (min(x, c) + c)
    if x > c:
        total += _half_disc(x, r) - _half_disc(c, r)
    return sign * total


@njit(cache=True, nogil=True)
def circle_weights(x, y, r, x0, y0, out):
    """Fill the overlap of pixels (x0 + i, y0 + j) with a circle."""
    for j in range(out.shape[0]):
        low, high = y0 + j - 0.5 - y, y0 + j + 0.5 - y
        for i in range(out.shape[1]):
            left, right = x0 + i - 0.5 - x, x0 + i + 0.5 - x
            out[j, i] = (
                _corner(right, high, r)
                - _corner(left, high, r)
                - _corner(right, low, r)
                + _corner(left, low, r)
            )


@njit(cache=True, nogil=True)
def weighted_variance(variance, weights, x0, y0, rho):
    """Variance of a weighted sum; NaN where no pixel with a variance is left."""
    ny, nx = variance.shape
    h, w = weights.shape
    b = np.zeros((h, w))
    n = 0
    for j in range(h):
        for i in range(w):
            y, x = y0 + j, x0 + i
            if y < 0 or y >= ny or x < 0 or x >= nx or weights[j, i] == 0.0:
                continue
            v = variance[y, x]
            if not (v > 0.0 and v < np.inf):
                continue
            b[j, i] = weights[j, i] * math.sqrt(v)
            n += 1
    if n == 0:
        return np.nan
    reach = rho.shape[0] // 2
    total = 0.0
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            c = rho[dy + reach, dx + reach]
            if c == 0.0:
                continue
            part = 0.0
            for j in range(max(0, -dy), min(h, h - dy)):
                for i in range(max(0, -dx), min(w, w - dx)):
                    part += b[j, i] * b[j + dy, i + dx]
            total += c * part
    return total


@njit(cache=True, nogil=True)
def aperture_variances(variance, x, y, radius, rho, out):
    """Variances of circular sums."""
    for k in range(x.size):
        if not (math.isfinite(x[k]) and math.isfinite(y[k])):
            continue
        x0 = math.floor(x[k] - radius[k] + 0.5)
        y0 = math.floor(y[k] - radius[k] + 0.5)
        nx = math.floor(x[k] + radius[k] + 0.5) - x0 + 1
        ny = math.floor(y[k] + radius[k] + 0.5) - y0 + 1
        weights = np.empty((ny, nx))
        circle_weights(x[k], y[k], radius[k], x0, y0, weights)
        out[k] = weighted_variance(variance, weights, x0, y0, rho[k])
