"""Compiled loops of `pogson.spectro.resample`; plain arrays in and out."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

_REACH = 6.5
_ROOT_HALF = math.sqrt(0.5)
_NORM = 1.0 / math.sqrt(2.0 * math.pi)


@njit(cache=True, nogil=True)
def _primitives(u: float) -> tuple[float, float]:
    """Return the first and second repeated integral of the normal distribution at u."""
    if u > _REACH:
        return u, 0.5 * (u * u + 1.0)
    if u < -_REACH:
        return 0.0, 0.0
    phi = _NORM * math.exp(-0.5 * u * u)
    big = 0.5 * math.erfc(-u * _ROOT_HALF)
    return u * big + phi, 0.5 * ((u * u + 1.0) * big + u * phi)


@njit(cache=True, nogil=True)
def _light_below(edge: float, left: float, right: float, sigma: float) -> tuple[float, float]:
    """Return the integrals over a cell of 1 and (x - centre), times the fraction below an edge."""
    center = 0.5 * (left + right)
    if sigma <= 0.0:
        if edge >= right:
            return right - left, 0.0
        if edge <= left:
            return 0.0, 0.0
        return edge - left, 0.5 * ((edge - center) ** 2 - (left - center) ** 2)
    a, b = (edge - left) / sigma, (edge - right) / sigma
    if b > _REACH:
        return right - left, 0.0
    if a < -_REACH:
        return 0.0, 0.0
    ga, ka = _primitives(a)
    gb, kb = _primitives(b)
    flat = sigma * (ga - gb)
    half = 0.5 * (right - left)
    slope = -sigma * half * (gb + ga) + sigma * sigma * (ka - kb)
    return flat, slope


@njit(cache=True, nogil=True)
def band_limits(
    cells: np.ndarray, sigma: np.ndarray, pixels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and one past the last cell that reaches each pixel."""
    n_cell, n_pixel = cells.size - 1, pixels.size - 1
    first = np.full(n_pixel, n_cell)
    stop = np.zeros(n_pixel, np.int64)
    for j in range(n_cell):
        low = cells[j] - _REACH * sigma[j]
        high = cells[j + 1] + _REACH * sigma[j]
        if high <= pixels[0] or low >= pixels[n_pixel]:
            continue
        i0 = max(np.searchsorted(pixels, low) - 1, 0)
        i1 = min(np.searchsorted(pixels, high), n_pixel)
        for i in range(i0, i1):
            first[i] = min(first[i], j)
            stop[i] = max(stop[i], j + 1)
    return first, stop


@njit(cache=True, nogil=True)
def _missing(pixels: np.ndarray, i: int, cells: np.ndarray, sigma: np.ndarray) -> float:
    """Return the light that a pixel would get from beyond the ends of the input."""
    low, high = pixels[i], pixels[i + 1]
    lost = 0.0
    left, s = cells[0], sigma[0]
    if s <= 0.0:
        lost += max(min(high, left) - low, 0.0)
    else:
        lost += (
            high - low - s * (_primitives((high - left) / s)[0] - _primitives((low - left) / s)[0])
        )
    right, s = cells[-1], sigma[-1]
    if s <= 0.0:
        lost += max(high - max(low, right), 0.0)
    else:
        lost += s * (_primitives((high - right) / s)[0] - _primitives((low - right) / s)[0])
    return lost


@njit(cache=True, nogil=True)
def fill_weights(
    cells: np.ndarray,
    sample: np.ndarray,
    sigma: np.ndarray,
    pixels: np.ndarray,
    first: np.ndarray,
    stop: np.ndarray,
    start: np.ndarray,
    begin: np.ndarray,
    weights: np.ndarray,
    coverage: np.ndarray,
) -> None:
    """Fill the rows of the transfer matrix; see `pogson.spectro.resample.SpectralTransfer`."""
    n_cell, n_pixel = cells.size - 1, pixels.size - 1
    for i in range(n_pixel):
        row = begin[i]
        inside = 0.0
        for j in range(first[i], stop[i]):
            low0, low1 = _light_below(pixels[i], cells[j], cells[j + 1], sigma[j])
            high0, high1 = _light_below(pixels[i + 1], cells[j], cells[j + 1], sigma[j])
            flat, slope = high0 - low0, high1 - low1
            weights[row + j - start[i]] += flat
            inside += flat
            if 0 < j < n_cell - 1:
                slope /= sample[j + 1] - sample[j - 1]
                weights[row + j + 1 - start[i]] += slope
                weights[row + j - 1 - start[i]] -= slope
        missing = _missing(pixels, i, cells, sigma)
        whole = inside + missing
        coverage[i] = max(1.0 - missing / whole, 0.0) if whole > 0.0 else 0.0
        for k in range(row, begin[i + 1]):
            weights[k] /= whole


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def apply_rows(
    flux: np.ndarray,
    start: np.ndarray,
    begin: np.ndarray,
    weights: np.ndarray,
    out: np.ndarray,
) -> None:
    """Multiply every spectrum (rows of ``flux``) by the banded matrix, four at a time."""
    n_model = flux.shape[0]
    whole = n_model - n_model % 4
    for m in range(0, whole, 4):
        for i in range(start.size):
            a = b = c = d = 0.0
            base = start[i] - begin[i]
            for k in range(begin[i], begin[i + 1]):
                w = weights[k]
                a += w * flux[m, base + k]
                b += w * flux[m + 1, base + k]
                c += w * flux[m + 2, base + k]
                d += w * flux[m + 3, base + k]
            out[m, i], out[m + 1, i], out[m + 2, i], out[m + 3, i] = a, b, c, d
    for m in range(whole, n_model):
        for i in range(start.size):
            total = 0.0
            base = start[i] - begin[i]
            for k in range(begin[i], begin[i + 1]):
                total += weights[k] * flux[m, base + k]
            out[m, i] = total


@njit(cache=True, nogil=True)
def apply_squared(
    variance: np.ndarray,
    start: np.ndarray,
    begin: np.ndarray,
    weights: np.ndarray,
    out: np.ndarray,
) -> None:
    """Multiply one variance spectrum by the squared matrix."""
    for i in range(start.size):
        total = 0.0
        for k in range(begin[i], begin[i + 1]):
            total += weights[k] ** 2 * variance[start[i] + k - begin[i]]
        out[i] = total
