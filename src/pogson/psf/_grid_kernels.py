"""Compiled interpolation of pixel-grid PSFs.

The Lanczos kernel of order n, sinc(x) sinc(x/n) for |x| < n, is divided by the sum of its taps so
that a constant stays a constant; it does not keep slopes, so its error falls only linearly with
the spacing. A negative order -n means the Lagrange polynomial through the 2n nearest samples, which
reproduces polynomials up to degree 2n - 1. Samples outside the grid are zero.
"""

# Kernels take plain arrays and are typed by the compiler.
# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import math

import numpy as np
from numba import njit

# unsigned indices need no test for counting from the end
_U = tuple(np.uint64(i) for i in range(6))


@njit(cache=True, nogil=True)
def _angles(order):
    """Return (-1)^k cos(pi k/n) and (-1)^k sin(pi k/n) of the taps k = 1-n ... n."""
    n = abs(order)
    cosines, sines = np.empty(2 * n), np.empty(2 * n)
    for t in range(2 * n):
        k = t - n + 1
        sign = -1.0 if k % 2 != 0 else 1.0
        cosines[t] = sign * math.cos(math.pi * k / n)
        sines[t] = sign * math.sin(math.pi * k / n)
    return cosines, sines


@njit(cache=True, nogil=True)
def _taps(g, order, cosines, sines, taps):
    """Fill the weights of the samples about grid coordinate g; return the index of the first."""
    n = abs(order)
    base = math.floor(g)
    f = g - base
    if f < 1e-12 or f > 1.0 - 1e-12:
        for t in range(2 * n):
            taps[t] = 0.0
        taps[n if f > 0.5 else n - 1] = 1.0
        return int(base) - n + 1
    if order < 0:
        for t in range(2 * n):
            value = 1.0
            for s in range(2 * n):
                if s != t:
                    value *= (f - (s - n + 1)) / (t - s)
            taps[t] = value
        return int(base) - n + 1
    # sin(pi (f-k)/n) by the addition theorem; the common factor sin(pi f) cancels in the division
    sn, cn = math.sin(math.pi * f / n), math.cos(math.pi * f / n)
    total = 0.0
    for t in range(2 * n):
        d = f - (t - n + 1)
        taps[t] = (sn * cosines[t] - cn * sines[t]) / (d * d)
        total += taps[t]
    inverse = 1.0 / total
    for t in range(2 * n):
        taps[t] *= inverse
    return int(base) - n + 1


@njit(cache=True, nogil=True)
def draw_separable(samples, cx, cy, x, y, x_min, y_min, inverse, scale, order, out):
    """Draw stamps of grids aligned with the pixels; ``inverse`` is grid samples per pixel.

    Rows first, then columns, with a transposition between, so that inner loops run along memory.
    """
    n, m = out.shape[0], out.shape[1]
    ny, nx = samples.shape[1], samples.shape[2]
    size = 2 * abs(order)
    taps = np.empty(size)
    cosines, sines = _angles(order)
    rows, columns = np.empty(nx), np.empty((nx, m))
    line = np.empty(m)
    for k in range(n):
        for j in range(m):
            first = _taps(cy + (y_min[k] + j - y[k]) * inverse, order, cosines, sines, taps)
            rows[:] = 0.0
            for t in range(max(0, -first), min(size, ny - first)):
                w, row = taps[t] * scale[k], samples[k, first + t]
                for i in range(nx):
                    rows[i] += w * row[i]
            for i in range(nx):
                columns[i, j] = rows[i]
        for i in range(m):
            first = _taps(cx + (x_min[k] + i - x[k]) * inverse, order, cosines, sines, taps)
            line[:] = 0.0
            for t in range(max(0, -first), min(size, nx - first)):
                w, column = taps[t], columns[first + t]
                for j in range(m):
                    line[j] += w * column[j]
            for j in range(m):
                out[k, j, i] = line[j]


@njit(cache=True, nogil=True)
def _point(samples, gx, gy, order, cosines, sines, tx, ty):
    """Interpolate one grid at one position; taps as in `_taps`."""
    ny, nx = samples.shape
    n = abs(order)
    size = 2 * n
    if gx <= -n or gy <= -n or gx >= nx - 1 + n or gy >= ny - 1 + n:
        return 0.0
    ix = _taps(gx, order, cosines, sines, tx)
    iy = _taps(gy, order, cosines, sines, ty)
    x_low, x_high = max(0, -ix), min(size, nx - ix)
    value = 0.0
    for t in range(max(0, -iy), min(size, ny - iy)):
        row = 0.0
        for q in range(x_low, x_high):
            row += tx[q] * samples[iy + t, ix + q]
        value += ty[t] * row
    return value


@njit(cache=True, nogil=True)
def polynomial_samples(u, v, exponents, coefficients, out, sums):
    """Fill ``out`` with sum_k U^i V^j coefficients[k] for each star, and ``sums`` with its sums.

    Every star is summed by itself, term after term: the result does not depend on which stars come
    along, as that of a matrix product may.
    """
    n_terms, size = coefficients.shape
    for k in range(u.size):
        for t in range(n_terms):
            factor = 1.0
            for _ in range(exponents[t, 0]):
                factor *= u[k]
            for _ in range(exponents[t, 1]):
                factor *= v[k]
            if t == 0:
                for i in range(size):
                    out[k, i] = factor * coefficients[t, i]
            else:
                for i in range(size):
                    out[k, i] += factor * coefficients[t, i]
        total = 0.0
        for i in range(size):
            total += out[k, i]
        sums[k] = total


@njit(cache=True, nogil=True, error_model="numpy")
def _row_taps(g, order, cosines, sines, first, taps):
    """Fill weights (2n, m) and first indices of the samples about a row of grid coordinates.

    The same weights as those of `_taps`, without calls, so that loops become vector instructions.
    """
    n, m = abs(order), g.size
    for i in range(m):
        base = math.floor(g[i])
        first[i] = int(base) - n + 1
        # a whole coordinate would divide by zero; 1e-9 of a sample is nothing
        g[i] = min(max(g[i] - base, 1e-9), 1.0 - 1e-9)
    if order < 0:
        for t in range(2 * n):
            for i in range(m):
                taps[t, i] = 1.0
            for s in range(2 * n):
                if s != t:
                    shift, inverse = s - n + 1.0, 1.0 / (t - s)
                    for i in range(m):
                        taps[t, i] *= (g[i] - shift) * inverse
        return
    sn, cn, total = np.empty(m), np.empty(m), np.zeros(m)
    for i in range(m):
        # Taylor series on [0, pi/3]
        z = (math.pi / n) * g[i]
        q = -z * z
        c = 1.0 + q * (1.0 / 210.0) * (1.0 + q * (1.0 / 272.0))
        c = 1.0 + q * (1.0 / 110.0) * (1.0 + q * (1.0 / 156.0) * c)
        c = 1.0 + q * (1.0 / 42.0) * (1.0 + q * (1.0 / 72.0) * c)
        sn[i] = z * (1.0 + q * (1.0 / 6.0) * (1.0 + q * (1.0 / 20.0) * c))
        c = 1.0 + q * (1.0 / 240.0) * (1.0 + q * (1.0 / 306.0))
        c = 1.0 + q * (1.0 / 132.0) * (1.0 + q * (1.0 / 182.0) * c)
        c = 1.0 + q * (1.0 / 56.0) * (1.0 + q * (1.0 / 90.0) * c)
        cn[i] = 1.0 + q * 0.5 * (1.0 + q * (1.0 / 12.0) * (1.0 + q * (1.0 / 30.0) * c))
    for t in range(2 * n):
        shift, cosine, sine = t - n + 1.0, cosines[t], sines[t]
        for i in range(m):
            d = g[i] - shift
            taps[t, i] = (sn[i] * cosine - cn[i] * sine) / (d * d)
            total[i] += taps[t, i]
    for i in range(m):
        total[i] = 1.0 / total[i]
    for t in range(2 * n):
        for i in range(m):
            taps[t, i] *= total[i]


@njit(cache=True, nogil=True)
def _row_sums(framed, ix, iy, tx, ty, line):
    """Fill ``line`` with weighted sums of windows of samples within a frame of zeros."""
    size = tx.shape[0]
    last_x, last_y = framed.shape[1] - size, framed.shape[0] - size
    flat, width = framed.reshape(-1), np.uint64(framed.shape[1])
    for i in range(line.size):
        first_x, first_y = ix[i] + size, iy[i] + size
        value = 0.0
        if 0 <= first_x <= last_x and 0 <= first_y <= last_y:
            at = np.uint64(first_y) * width + np.uint64(first_x)
            if size == 6:
                # the usual kernels, unrolled by hand: three times faster
                a, b, c = tx[0, i], tx[1, i], tx[2, i]
                d, e, f = tx[3, i], tx[4, i], tx[5, i]
                for t in range(6):
                    row = (
                        (a * flat[at] + b * flat[at + _U[1]])
                        + (c * flat[at + _U[2]] + d * flat[at + _U[3]])
                        + (e * flat[at + _U[4]] + f * flat[at + _U[5]])
                    )
                    value += ty[t, i] * row
                    at += width
            else:
                for t in range(size):
                    row = 0.0
                    for q in range(size):
                        row += tx[q, i] * flat[at + np.uint64(q)]
                    value += ty[t, i] * row
                    at += width
        line[i] = value


@njit(cache=True, nogil=True)
def draw_general(samples, cx, cy, x, y, x_min, y_min, matrix, scale, order, out):
    """Draw stamps of grids in any linear frame; ``matrix`` (n, 2, 2) is d(grid)/d(pixel)."""
    n, m = out.shape[0], out.shape[1]
    ny, nx = samples.shape[1], samples.shape[2]
    size = 2 * abs(order)
    tx, ty = np.empty((size, m)), np.empty((size, m))
    ix, iy = np.empty(m, np.int64), np.empty(m, np.int64)
    gx, gy, line = np.empty(m), np.empty(m), np.empty(m)
    cosines, sines = _angles(order)
    # a frame of zeros spares the inner loops all tests of bounds
    framed = np.zeros((ny + 2 * size, nx + 2 * size))
    for k in range(n):
        framed[size : size + ny, size : size + nx] = samples[k]
        for j in range(m):
            dy = y_min[k] + j - y[k]
            for i in range(m):
                dx = x_min[k] + i - x[k]
                gx[i] = cx + matrix[k, 0, 0] * dx + matrix[k, 0, 1] * dy
                gy[i] = cy + matrix[k, 1, 0] * dx + matrix[k, 1, 1] * dy
            _row_taps(gx, order, cosines, sines, ix, tx)
            _row_taps(gy, order, cosines, sines, iy, ty)
            _row_sums(framed, ix, iy, tx, ty, line)
            for i in range(m):
                out[k, j, i] = scale[k] * line[i]


@njit(cache=True, nogil=True)
def grid_points(samples, gx, gy, order, out):
    """Interpolate one grid at many grid positions."""
    tx, ty = np.empty(2 * abs(order)), np.empty(2 * abs(order))
    cosines, sines = _angles(order)
    for k in range(gx.size):
        out[k] = _point(samples, gx[k], gy[k], order, cosines, sines, tx, ty)
