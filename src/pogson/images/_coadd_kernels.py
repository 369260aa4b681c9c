"""Compiled means of stacks: references for clipping, clipping, weighted means and masks."""

# Kernels take plain arrays and are typed by the compiler.
# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import math

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def reference_rows(planes, rows, out):
    """Fill the median of the inputs; of two, the lower; of one, itself."""
    n, _, nx = planes.shape
    values = np.empty(n, np.float32)
    for j in range(rows[0], rows[1]):
        for i in range(nx):
            m = 0
            for k in range(n):
                v = planes[k, j, i]
                if not math.isnan(v):
                    # insertion keeps the values sorted
                    p = m
                    while p > 0 and values[p - 1] > v:
                        values[p] = values[p - 1]
                        p -= 1
                    values[p] = v
                    m += 1
            if m == 0:
                out[j, i] = np.nan
            elif m % 2 == 1:
                out[j, i] = values[m // 2]
            elif m == 2:
                out[j, i] = values[0]
            else:
                out[j, i] = 0.5 * (values[m // 2 - 1] + values[m // 2])


@njit(cache=True, nogil=True)
def local_maximum(image, reach):
    """Return the largest value within ``reach`` pixels along x and y, at least 0."""
    ny, nx = image.shape
    rows, out = np.zeros((ny, nx), np.float32), np.zeros((ny, nx), np.float32)
    for j in range(ny):
        for i in range(nx):
            v = image[j, i]
            if not v > 0.0:
                continue
            for a in range(max(0, i - reach), min(nx, i + reach + 1)):
                if v > rows[j, a]:
                    rows[j, a] = v
    for j in range(ny):
        for b in range(max(0, j - reach), min(ny, j + reach + 1)):
            for i in range(nx):
                if rows[j, i] > out[b, i]:
                    out[b, i] = rows[j, i]
    return out


@njit(cache=True, nogil=True)
def clip_rows(planes, variances, reference, bright, sigma, fraction, rows, keep):
    """Clear ``keep`` of pixels too far from the reference."""
    n, _, nx = planes.shape
    for j in range(rows[0], rows[1]):
        for i in range(nx):
            r = reference[j, i]
            if math.isnan(r):
                continue
            m, mean = 0, 0.0
            for k in range(n):
                if not math.isnan(planes[k, j, i]):
                    m += 1
                    mean += variances[k, j, i]
            if m < 2:
                continue
            # variance of a median is pi / 2 of that of a mean; the lower of two is one of them
            base = mean / m if m == 2 else 0.5 * math.pi * mean / (m * m)
            for k in range(n):
                v = planes[k, j, i]
                if math.isnan(v):
                    continue
                allowed = sigma * math.sqrt(variances[k, j, i] + base)
                allowed += fraction[k] * bright[j, i]
                if abs(v - r) > allowed:
                    keep[k, j, i] = False


@njit(cache=True, nogil=True)
def mean_rows(
    planes, variances, masks, keep, has_variance, weights, limits, no_data, clipped, rows, image,
    variance, mask, count,
):  # fmt: skip
    """Fill weighted means, their variances, masks and counts."""
    n, _, nx = planes.shape
    shares = np.empty(32)
    for j in range(rows[0], rows[1]):
        for i in range(nx):
            total = value = var = 0.0
            m = 0
            some = np.uint32(0)
            lost = False
            for k in range(n):
                v = planes[k, j, i]
                some |= masks[k, j, i]
                if math.isnan(v):
                    continue
                if not keep[k, j, i]:
                    lost = True
                    continue
                w = weights[k]
                total += w
                value += w * v
                if has_variance:
                    var += w * w * variances[k, j, i]
                m += 1
            count[j, i] = m
            if m == 0:
                mask[j, i] = some | no_data
                continue
            image[j, i] = value / total
            if has_variance:
                variance[j, i] = var / (total * total)
            bits = clipped if lost else np.uint32(0)
            if some & ~no_data:
                shares[:] = 0.0
                for k in range(n):
                    if math.isnan(planes[k, j, i]) or not keep[k, j, i]:
                        continue
                    own = masks[k, j, i]
                    if own:
                        for b in range(32):
                            if (own >> np.uint32(b)) & np.uint32(1):
                                shares[b] += weights[k]
                for b in range(32):
                    if shares[b] > limits[b] * total:
                        bits |= np.uint32(1) << np.uint32(b)
            mask[j, i] = bits & ~no_data
