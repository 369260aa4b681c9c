"""Compiled aperture sums: exact, centre and sub-pixel overlap of ellipses with pixels.

The exact overlap needs no polygon. Write the ellipse as ``|x| <= alpha`` and ``y`` between
``kappa x -+ beta sqrt(1 - x^2/alpha^2)``. For a horizontal grid line at height y let K(y, x) be the
area of the part of the ellipse above y and left of x. K has a closed form with one square root and
one arcsine, and the area of the ellipse inside a pixel is the mixed difference of K at its four
corners. So a source costs one arcsine per grid column and two per grid row, whatever the ellipse.
"""

# Kernels take plain arrays and are typed by the compiler.
# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import math

import numpy as np
from numba import njit

_HALF_PI = 0.5 * math.pi


@njit(cache=True, nogil=True)
def _segment(t: float) -> float:
    """Return t sqrt(1 - t^2) + asin(t), the area of the unit disc left of t less half of it."""
    if t <= -1.0:
        return -_HALF_PI
    if t >= 1.0:
        return _HALF_PI
    return t * math.sqrt((1.0 - t) * (1.0 + t)) + math.asin(t)


@njit(cache=True, nogil=True)
def _line(y, cxx, cxy, cyy, area, edges, below, cumulative):
    """Fill K(y, edge) for a grid line and return the ends of its chord (inf, -inf if none).

    ``below`` holds, for each edge, the area of the ellipse left of the edge.
    """
    n = edges.size
    gamma = math.sqrt(cyy)
    if y >= gamma:
        for i in range(n):
            cumulative[i] = 0.0
        return np.inf, -np.inf
    if y <= -gamma:
        for i in range(n):
            cumulative[i] = below[i]
        return np.inf, -np.inf
    alpha = math.sqrt(cxx)
    kappa = cxy / cxx
    middle = y * cxy / cyy
    half = area / gamma * math.sqrt((1.0 - y / gamma) * (1.0 + y / gamma))
    left = max(middle - half, -alpha)
    right = min(middle + half, alpha)
    # a chord end on the upper arc has the ellipse below the line beyond it, on the lower arc above
    left_upper = y >= kappa * left
    right_upper = y >= kappa * right
    below_left = area * (_segment(left / alpha) + _HALF_PI)
    below_right = area * (_segment(right / alpha) + _HALF_PI)
    at_left = 0.0 if left_upper else below_left
    arc_left = 0.5 * (kappa * left * left + below_left)
    at_right = at_left + 0.5 * (kappa * right * right + below_right) - arc_left - y * (right - left)
    for i in range(n):
        x = edges[i]
        if x <= left:
            cumulative[i] = 0.0 if left_upper else below[i]
        elif x < right:
            cumulative[i] = at_left + 0.5 * (kappa * x * x + below[i]) - arc_left - y * (x - left)
        else:
            cumulative[i] = at_right + (0.0 if right_upper else below[i] - below_right)
    return left, right


@njit(cache=True, nogil=True)
def _subpixel_row(y, subpixels, cxx, cxy, cyy, area, first_edge, n, weights):
    """Fill the fraction of sub-pixel centres inside the ellipse for one row of pixels."""
    for i in range(n):
        weights[i] = 0.0
    gamma = math.sqrt(cyy)
    unit = 1.0 / (subpixels * subpixels)
    for s in range(subpixels):
        ys = y - 0.5 + (s + 0.5) / subpixels
        if abs(ys) > gamma:
            continue
        middle = ys * cxy / cyy
        half = area / gamma * math.sqrt((1.0 - ys / gamma) * (1.0 + ys / gamma))
        low = max(math.ceil((middle - half - first_edge) * subpixels - 0.5), 0)
        high = math.floor((middle + half - first_edge) * subpixels - 0.5)
        high = min(high, n * subpixels - 1)
        if high < low:
            continue
        for i in range(low // subpixels, high // subpixels + 1):
            count = min(high, (i + 1) * subpixels - 1) - max(low, i * subpixels) + 1
            weights[i] += count * unit


@njit(cache=True, nogil=True)
def _careful_row(row, variance, bad, has_variance, has_bad, j, i0, n, weights):
    """Sum one row pixel by pixel.

    Returns flux, variance, good and bad area, and the sums of w^2 I and w^2.
    """
    flux, var, used, lost, squares, square_area = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(n):
        w = weights[i]
        if w == 0.0:
            continue
        value = row[i0 + i]
        usable = math.isfinite(value)
        v = 0.0
        if has_variance:
            v = variance[j, i0 + i]
            usable = usable and math.isfinite(v)
        if has_bad and bad[j, i0 + i]:
            usable = False
        if usable:
            flux += w * value
            var += w * w * v
            used += w
            squares += w * w * value
            square_area += w * w
        else:
            lost += w
    return flux, var, used, lost, squares, square_area


@njit(cache=True, nogil=True)
def _one(image, variance, bad, has_variance, has_bad, careful, xc, yc, a, b, theta, subpixels,
         edges, below, line0, line1, weights):  # fmt: skip
    """Sum one aperture; returns flux, variance, area, bad area, truncated, sums of w^2 I, w^2."""
    ny, nx = image.shape
    c, s = math.cos(theta), math.sin(theta)
    cxx = a * a * c * c + b * b * s * s
    cyy = a * a * s * s + b * b * c * c
    cxy = (a * a - b * b) * c * s
    area = a * b
    alpha, gamma = math.sqrt(cxx), math.sqrt(cyy)
    truncated = (
        xc - alpha < -0.5 or yc - gamma < -0.5 or xc + alpha > nx - 0.5 or yc + gamma > ny - 0.5
    )
    i0 = math.floor(max(xc - alpha + 0.5, 0.0))
    i1 = math.floor(min(xc + alpha + 0.5, nx - 1.0))
    j0 = math.floor(max(yc - gamma + 0.5, 0.0))
    j1 = math.floor(min(yc + gamma + 0.5, ny - 1.0))
    n = i1 - i0 + 1
    flux, var, used, lost, squares, square_area = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    if n < 1 or j1 < j0:
        return flux, var, used, lost, True, squares, square_area
    left0, right0 = np.inf, -np.inf
    if subpixels == 0:
        for i in range(n + 1):
            edges[i] = min(max(i0 + i - 0.5 - xc, -alpha), alpha)
            below[i] = area * (_segment(edges[i] / alpha) + _HALF_PI)
        left0, right0 = _line(
            j0 - 0.5 - yc, cxx, cxy, cyy, area, edges[: n + 1], below[: n + 1], line0
        )
    for j in range(j0, j1 + 1):
        if subpixels == 0:
            left1, right1 = _line(
                j + 0.5 - yc, cxx, cxy, cyy, area, edges[: n + 1], below[: n + 1], line1
            )
            inner_left, inner_right = max(left0, left1), min(right0, right1)
            previous = line0[0] - line1[0]
            for i in range(n):
                following = line0[i + 1] - line1[i + 1]
                w = following - previous
                previous = following
                # exactly 1 where both corners lie inside both chords
                if i0 + i - 0.5 - xc >= inner_left and i0 + i + 0.5 - xc <= inner_right:
                    w = 1.0
                weights[i] = min(max(w, 0.0), 1.0)
            left0, right0 = left1, right1
            line0, line1 = line1, line0
        else:
            _subpixel_row(j - yc, subpixels, cxx, cxy, cyy, area, i0 - 0.5 - xc, n, weights)
        row = image[j]
        if not careful:
            for i in range(n):
                w = weights[i]
                flux += w * row[i0 + i]
                used += w
            continue
        f, v, u, w, s2, a2 = _careful_row(
            row, variance, bad, has_variance, has_bad, j, i0, n, weights
        )
        flux, var, used, lost = flux + f, var + v, used + u, lost + w
        squares, square_area = squares + s2, square_area + a2
    return flux, var, used, lost, truncated, squares, square_area


@njit(cache=True, nogil=True)
def aperture_sums(image, variance, bad, has_variance, has_bad, x, y, a, b, theta, subpixels,
                  size, flux, var, area, bad_area, truncated, squares, square_area):  # fmt: skip
    """Sum apertures on one image; ``subpixels`` 0 means exact overlap."""
    edges, below = np.empty(size), np.empty(size)
    line0, line1, weights = np.empty(size), np.empty(size), np.empty(size)
    for k in range(x.size):
        if not (math.isfinite(x[k]) and math.isfinite(y[k])):
            flux[k], var[k], area[k], bad_area[k], truncated[k] = np.nan, np.nan, 0.0, 0.0, True
            squares[k], square_area[k] = np.nan, 0.0
            continue
        careful = has_variance or has_bad
        f, v, u, lost, cut, s2, a2 = _one(
            image, variance, bad, has_variance, has_bad, careful,
            x[k], y[k], a[k], b[k], theta[k], subpixels, edges, below, line0, line1, weights,
        )  # fmt: skip
        if not careful and not math.isfinite(f):
            f, v, u, lost, cut, s2, a2 = _one(
                image, variance, bad, has_variance, has_bad, True,
                x[k], y[k], a[k], b[k], theta[k], subpixels, edges, below, line0, line1, weights,
            )  # fmt: skip
        if u <= 0.0:
            f, v, s2 = np.nan, np.nan, np.nan
        squares[k], square_area[k] = s2, a2
        flux[k], var[k], area[k], bad_area[k], truncated[k] = f, v, u, lost, cut


@njit(cache=True, nogil=True)
def stack_sums(stamps, bad, x, y, a, b, theta, subpixels, size, out):
    """Sum apertures (n, r) on a stack of stamps (n, m, m), each with its own centre."""
    edges, below = np.empty(size), np.empty(size)
    line0, line1, weights = np.empty(size), np.empty(size), np.empty(size)
    for k in range(stamps.shape[0]):
        for r in range(a.shape[1]):
            out[k, r] = _one(
                stamps[k], stamps[k], bad, False, False, False,
                x[k], y[k], a[k, r], b[k, r], theta[k, r], subpixels,
                edges, below, line0, line1, weights,
            )[0]  # fmt: skip
