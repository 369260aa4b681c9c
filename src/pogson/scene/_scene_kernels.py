"""Compiled rendering of one sampled PSF at many positions on one box of pixels.

Values are those of `pogson.psf.PixelGridPSF`: Lanczos taps divided by their sum, or (negative
order) the Lagrange polynomial through the nearest samples. Here all points share one grid of
samples and one box, pixels that the grid cannot reach are skipped, and derivatives with respect to
the position of the source come from the derivatives of the taps.
"""

# Kernels take plain arrays and are typed by the compiler.
# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.extending import intrinsic

from pogson.psf._grid_kernels import _angles, _row_taps

# nearer to a sample than this the taps are those of a point this far away: 1e-12 of a derivative
_CLOSE = 1e-6


@njit(cache=True, nogil=True)
def _reach(matrix, ny, nx, cx, cy, order):
    """Return half-sizes in pixels beyond which a grid of samples is zero."""
    n = abs(order)
    wide = max(cx, nx - 1 - cx) + n
    high = max(cy, ny - 1 - cy) + n
    det = abs(matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0])
    rx = (abs(matrix[1, 1]) * wide + abs(matrix[0, 1]) * high) / det
    ry = (abs(matrix[1, 0]) * wide + abs(matrix[0, 0]) * high) / det
    return rx, ry


# taps are tabulated at this many fractions of a sample and joined by straight lines: the error
# is the second derivative of a tap (at most about 5) over 8 times the square, 6e-7
_FRACTIONS = 1024
# unsigned indices need no test for counting from the end
_U = tuple(np.uint64(i) for i in range(16))


@njit(cache=True, nogil=True, error_model="numpy")
def _tap_table(order, width):
    """Return taps at all fractions, one row of ``width`` after the other, zeros at the end."""
    size = 2 * abs(order)
    cosines, sines = _angles(order)
    fractions = np.empty(_FRACTIONS + 1)
    for k in range(_FRACTIONS + 1):
        # just inside the interval: the first and last taps are those of its ends
        fractions[k] = min(max(k / _FRACTIONS, 1e-9), 1.0 - 1e-9)
    first, taps = np.empty(_FRACTIONS + 1, np.int64), np.empty((size, _FRACTIONS + 1))
    _row_taps(fractions, order, cosines, sines, first, taps)
    # one row more: rounding may take a fraction to 1
    table = np.zeros((_FRACTIONS + 2, width))
    for k in range(_FRACTIONS + 2):
        for t in range(size):
            table[k, t] = taps[t, min(k, _FRACTIONS)]
    return table.reshape(-1)


_FAST = {"contract", "reassoc", "nsz"}


@intrinsic
def _six(typing_context, flat, at, width, taps, ty, tx, fy, fx):
    """Return the weighted sum of 6 x 6 samples, each row of 6 in one register of 8.

    ``taps`` has rows of 8 whose last two are zero. The compiler does not find this form itself: it
    takes the samples one by one, three times slower.
    """

    def generate(context, builder, signature, arguments):
        def data(number):
            kind = signature.args[number]
            return context.make_array(kind)(context, builder, arguments[number]).data

        def row(pointer, index):
            place = builder.bitcast(builder.gep(pointer, [index]), eight.as_pointer())
            return builder.load(place, align=8)

        def spread(value):
            lone = builder.insert_element(ir.Constant(eight, ir.Undefined), value, integer(0))
            return builder.shuffle_vector(lone, lone, ir.Constant(lanes, [0] * 8))

        def integer(value):
            return ir.Constant(ir.IntType(32), value)

        def add(a, b):
            return builder.fadd(a, b, flags=("contract",))

        def times(a, b):
            return builder.fmul(a, b, flags=("contract",))

        def weights(index, fraction):
            low = row(table, index)
            high = row(table, builder.add(index, ir.Constant(index.type, 8)))
            step = builder.fsub(high, low)
            return add(low, times(spread(fraction), step))

        eight = ir.VectorType(ir.DoubleType(), 8)
        lanes = ir.VectorType(ir.IntType(32), 8)
        samples, table = data(0), data(3)
        _, place, stride, _, row_index, column_index, row_part, column_part = arguments
        down = weights(row_index, row_part)
        total = ir.Constant(eight, [0.0] * 8)
        for t in range(6):
            weight = spread(builder.extract_element(down, integer(t)))
            total = add(total, times(weight, row(samples, place)))
            place = builder.add(place, stride)
        total = times(total, weights(column_index, column_part))
        for half in (4, 2, 1):
            order = [(k + half) % 8 for k in range(8)]
            total = add(total, builder.shuffle_vector(total, total, ir.Constant(lanes, order)))
        return builder.extract_element(total, integer(0))

    whole = types.uint64
    signature = types.float64(flat, whole, whole, taps, whole, whole, types.float64, types.float64)
    return signature, generate


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _many(flat, at, width, taps, ty, tx, fy, fx, size):
    """Return the weighted sum of size x size samples."""
    value, n = 0.0, np.uint64(size)
    for t in range(size):
        row, line = ty + np.uint64(t), 0.0
        for q in range(size):
            column = tx + np.uint64(q)
            w = taps[column] + fx * (taps[column + n] - taps[column])
            line += w * flat[at + np.uint64(q)]
        value += line * (taps[row] + fy * (taps[row + n] - taps[row]))
        at += width
    return value


@njit(cache=True, nogil=True, error_model="numpy")
def render_points(samples, cx, cy, matrix, scale, order, x, y, x_min, y_min, out):
    """Fill ``out`` (n, ny, nx) with unit-flux points at pixel positions (x, y).

    ``matrix`` (m, 2, 2) is d(grid)/d(pixel) and ``scale`` (m,) multiplies the interpolated samples,
    of every point, or one for all; the first pixel of ``out`` is (x_min, y_min).
    """
    n, rows, columns = out.shape
    ny, nx = samples.shape
    half = abs(order)
    size = 2 * half
    padded = 8 if size == 6 else size
    taps = _tap_table(order, padded)
    margin = 2 * size
    width = nx + 2 * margin
    step = np.uint64(width)
    framed = np.zeros((ny + 2 * margin, width))
    framed[margin : margin + ny, margin : margin + nx] = samples
    flat = framed.reshape(-1)
    for k in range(n):
        own = matrix[min(k, len(matrix) - 1)]
        factor = scale[min(k, len(matrix) - 1)]
        rx, ry = _reach(own, ny, nx, cx, cy, order)
        m00, m01, m10, m11 = own[0, 0], own[0, 1], own[1, 0], own[1, 1]
        i0 = max(0, math.floor(x[k] - rx) - x_min)
        i1 = min(columns, math.ceil(x[k] + rx) - x_min + 1)
        j0 = max(0, math.floor(y[k] - ry) - y_min)
        j1 = min(rows, math.ceil(y[k] + ry) - y_min + 1)
        out[k] = 0.0
        for j in range(j0, j1):
            dy = y_min + j - y[k]
            for i in range(i0, i1):
                dx = x_min + i - x[k]
                gx = cx + m00 * dx + m01 * dy
                gy = cy + m10 * dx + m11 * dy
                if not (-half < gx < nx - 1 + half and -half < gy < ny - 1 + half):
                    continue
                bx, by = math.floor(gx), math.floor(gy)
                px, py = (gx - bx) * _FRACTIONS, (gy - by) * _FRACTIONS
                kx, ky = int(px), int(py)
                fx, fy = px - kx, py - ky
                at = np.uint64((int(by) - half + 1 + margin) * width + int(bx) - half + 1 + margin)
                tx, ty = np.uint64(kx * padded), np.uint64(ky * padded)
                if size == 6:
                    value = _six(flat, at, step, taps, ty, tx, fy, fx)
                else:
                    value = _many(flat, at, step, taps, ty, tx, fy, fx, size)
                out[k, j, i] = factor * value


@njit(cache=True, nogil=True, error_model="numpy")
def _slopes(g, order, cosines, sines, taps, slopes):
    """Fill taps and their derivatives with respect to g; return the index of the first sample."""
    n = abs(order)
    base = math.floor(g)
    f = min(max(g - base, _CLOSE), 1.0 - _CLOSE)
    if order < 0:
        for t in range(2 * n):
            value, slope = 1.0, 0.0
            for s in range(2 * n):
                if s != t:
                    inverse = 1.0 / (t - s)
                    factor = (f - (s - n + 1)) * inverse
                    slope = slope * factor + value * inverse
                    value *= factor
            taps[t], slopes[t] = value, slope
        return int(base) - n + 1
    w = math.pi / n
    sn, cn = math.sin(w * f), math.cos(w * f)
    total, change = 0.0, 0.0
    for t in range(2 * n):
        d = 1.0 / (f - (t - n + 1))
        wave = sn * cosines[t] - cn * sines[t]
        taps[t] = wave * d * d
        slopes[t] = w * (cn * cosines[t] + sn * sines[t]) * d * d - 2.0 * wave * d * d * d
        total += taps[t]
        change += slopes[t]
    for t in range(2 * n):
        taps[t] /= total
        slopes[t] = (slopes[t] - taps[t] * change) / total
    return int(base) - n + 1


@njit(cache=True, nogil=True, error_model="numpy")
def render_gradients(samples, cx, cy, matrix, scale, order, x, y, x_min, y_min, out):
    """Fill ``out`` (n, 3, ny, nx) with points and derivatives by the x and y of the source.

    Arguments as for `render_points`; matrices are held in the derivatives.
    """
    n, rows, columns = out.shape[0], out.shape[2], out.shape[3]
    ny, nx = samples.shape
    size = 2 * abs(order)
    cosines, sines = _angles(order)
    tx, ty, sx, sy = np.empty(size), np.empty(size), np.empty(size), np.empty(size)
    for k in range(n):
        own = matrix[min(k, len(matrix) - 1)]
        factor = scale[min(k, len(matrix) - 1)]
        m00, m01, m10, m11 = own[0, 0], own[0, 1], own[1, 0], own[1, 1]
        for j in range(rows):
            dy = y_min + j - y[k]
            for i in range(columns):
                dx = x_min + i - x[k]
                gx = cx + m00 * dx + m01 * dy
                gy = cy + m10 * dx + m11 * dy
                value, by_gx, by_gy = 0.0, 0.0, 0.0
                if -size < gx < nx + size and -size < gy < ny + size:
                    ix = _slopes(gx, order, cosines, sines, tx, sx)
                    iy = _slopes(gy, order, cosines, sines, ty, sy)
                    for t in range(max(0, -iy), min(size, ny - iy)):
                        row, slope = 0.0, 0.0
                        for q in range(max(0, -ix), min(size, nx - ix)):
                            sample = samples[iy + t, ix + q]
                            row += tx[q] * sample
                            slope += sx[q] * sample
                        value += ty[t] * row
                        by_gx += ty[t] * slope
                        by_gy += sy[t] * row
                out[k, 0, j, i] = factor * value
                out[k, 1, j, i] = -factor * (m00 * by_gx + m10 * by_gy)
                out[k, 2, j, i] = -factor * (m01 * by_gx + m11 * by_gy)


@njit(cache=True, nogil=True)
def apply_reflectors(packed, tau, vector):
    """Turn a vector into the basis of a tridiagonal matrix (LAPACK dsytrd, lower), in place."""
    n = vector.size
    for i in range(n - 1):
        total = vector[i + 1]
        for k in range(i + 2, n):
            total += packed[k, i] * vector[k]
        total *= tau[i]
        vector[i + 1] -= total
        for k in range(i + 2, n):
            vector[k] -= total * packed[k, i]


@njit(cache=True, nogil=True, error_model="numpy")
def tridiagonal_evidence(diagonal, off, vector, square, gains, logs):
    """Fill a^2 q (1 + a^2 T)^-1 q and log det(1 + a^2 T) for squared amplitudes a^2."""
    for s in range(square.size):
        a2 = square[s]
        pivot = 1.0 + a2 * diagonal[0]
        y = vector[0]
        gain, log, product = y * y / pivot, 0.0, pivot
        for k in range(1, diagonal.size):
            inverse = a2 / pivot
            ratio = inverse * off[k - 1]
            pivot = max(1.0 + a2 * (diagonal[k] - ratio * off[k - 1]), 1e-300)
            y = vector[k] - ratio * y
            gain += y * y / pivot
            # one logarithm for many pivots
            if not 1e-100 < product < 1e100:
                log += math.log(product)
                product = 1.0
            if not 1e-100 < pivot < 1e100:
                log += math.log(pivot)
            else:
                product *= pivot
        gains[s], logs[s] = a2 * gain, log + math.log(product)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def project_rows(rows, root, basis, out):
    """Fill ``out`` with rows times ``root`` less their part in the orthonormal ``basis``."""
    n = root.size
    for k in range(rows.shape[0]):
        line = out[k]
        row = rows[k]
        for i in range(n):
            line[i] = row[i] * root[i]
        for b in range(basis.shape[0]):
            total, axis = 0.0, basis[b]
            for i in range(n):
                total += line[i] * axis[i]
            for i in range(n):
                line[i] -= total * axis[i]


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def add_squares(rows, variance, out):
    """Add to ``out`` the sums of squared rows over variance."""
    inverse = 1.0 / variance
    for k in range(rows.shape[0]):
        total, row = 0.0, rows[k]
        for i in range(inverse.size):
            total += row[i] * row[i] * inverse[i]
        out[k] += total
