"""Compiled resampling: Lanczos kernels and exact overlap of pixels.

Every kernel gathers: an output pixel is the sum of weights times input pixels. For Lanczos the
weights are the normalised kernel times the area ratio; for exact overlap they are the area of each
input pixel that the output pixel covers.
"""

# Kernels take plain arrays and are typed by the compiler.
# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import math

import numpy as np
from numba import njit

TABLE = 1024
"""Sub-pixel phases tabulated; between them weights are interpolated linearly (error 1e-6)."""


@njit(cache=True, nogil=True)
def lanczos(t, order):
    """Return the Lanczos kernel."""
    if abs(t) < 1e-9:
        return 1.0
    if abs(t) >= order:
        return 0.0
    a = math.pi * t
    return order * math.sin(a) * math.sin(a / order) / (a * a)


@njit(cache=True, nogil=True)
def weight_table(order):
    """Return normalised weights of the 2 order taps for phases k / TABLE, shape (TABLE + 2, n)."""
    n = 2 * order
    table = np.empty((TABLE + 2, n), np.float32)
    row = np.empty(n)
    for k in range(TABLE + 2):
        f, total = k / TABLE, 0.0
        for t in range(n):
            row[t] = lanczos(f - (t - order + 1), order)
            total += row[t]
        for t in range(n):
            table[k, t] = row[t] / total
    return table


@njit(cache=True, nogil=True)
def fill_taps(x, order, stretch, taps):
    """Fill normalised weights about a position; return the index of the first tap."""
    half = math.ceil(order * stretch)
    n = 2 * half
    first = math.floor(x) - half + 1
    total = 0.0
    for t in range(n):
        taps[t] = lanczos((x - first - t) / stretch, order)
        total += taps[t]
    for t in range(n):
        taps[t] /= total
    return first


@njit(cache=True, nogil=True)
def fill_row(nodes, gx, gy, inverse, work, out):
    """Interpolate the map along one row; gx, gy are the node coordinates of its first position."""
    j = math.floor(gy)
    j = min(max(j, 1), nodes.shape[1] - 3)
    t = gy - j
    a = -t * (t - 1.0) * (t - 2.0) / 6.0
    b = (t + 1.0) * (t - 1.0) * (t - 2.0) / 2.0
    c = -(t + 1.0) * t * (t - 2.0) / 2.0
    d = (t + 1.0) * t * (t - 1.0) / 6.0
    n_nodes = nodes.shape[2]
    for k in range(3):
        for i in range(n_nodes):
            work[k, i] = (
                a * nodes[k, j - 1, i]
                + b * nodes[k, j, i]
                + c * nodes[k, j + 1, i]
                + d * nodes[k, j + 2, i]
            )
    for m in range(out.shape[1]):
        g = gx + m * inverse
        i = min(max(int(g), 1), n_nodes - 3)
        s = g - i
        p = (s - 1.0) * (s - 2.0)
        q = (s + 1.0) * s
        w0 = -s * p / 6.0
        w1 = (s + 1.0) * p / 2.0
        w2 = -q * (s - 2.0) / 2.0
        w3 = q * (s - 1.0) / 6.0
        for k in range(3):
            out[k, m] = (
                w0 * work[k, i - 1] + w1 * work[k, i] + w2 * work[k, i + 1] + w3 * work[k, i + 2]
            )


@njit(cache=True, nogil=True)
def any_in_window(bad, size):
    """Return whether any of the size x size pixels from (y, x) up is bad or off the image."""
    ny, nx = bad.shape
    out = np.zeros((ny, nx), np.uint8)
    for y in range(ny):
        last = nx + size  # the nearest bad pixel to the right
        row = out[y]
        for x in range(nx - 1, -1, -1):
            if bad[y, x]:
                last = x
            row[x] = 1 if (last - x < size or x + size > nx) else 0
    for x0 in range(0, nx, 256):
        x1 = min(x0 + 256, nx)
        last_row = np.full(x1 - x0, ny + size, np.int64)
        for y in range(ny - 1, -1, -1):
            for x in range(x0, x1):
                if out[y, x]:
                    last_row[x - x0] = y
                out[y, x] = 1 if (last_row[x - x0] - y < size or y + size > ny) else 0
    return out


@njit(cache=True, nogil=True)
def column_sums(nodes, geometry, x_in, y_in, order, stretch, table, n_out, rows, sums):
    """Add to each input pixel the sum of the weights with which output pixels take it.

    Interpolation gives every output pixel weights of sum 1 (times the area ratio), but not every
    input pixel: it would be seen with 1 plus or minus up to a per cent, in a pattern of beats
    between the two lattices. Dividing it by this sum first makes its light count exactly once.
    """
    gx, gy, inverse = geometry
    ny, nx = sums.shape
    positions, work = np.empty((3, n_out)), np.empty((3, nodes.shape[2]))
    size = 2 * math.ceil(order * stretch)
    wx, wy = np.empty(size, np.float32), np.empty(size, np.float32)
    quick = stretch == 1.0
    for j in range(rows[0], rows[1]):
        fill_row(nodes, gx, gy + j * inverse, inverse, work, positions)
        for i in range(n_out):
            x, y, area = positions[0, i] - x_in, positions[1, i] - y_in, positions[2, i]
            if not (x > -size and y > -size and x < nx + size and y < ny + size):
                continue
            if quick:
                ix, iy = quick_taps(x, table, wx), quick_taps(y, table, wy)
            else:
                ix, iy = fill_taps(x, order, stretch, wx), fill_taps(y, order, stretch, wy)
            if quick and size == 6 and ix >= 0 and iy >= 0 and ix + 6 <= nx and iy + 6 <= ny:
                w0, w1, w2, w3, w4, w5 = wx[0], wx[1], wx[2], wx[3], wx[4], wx[5]
                for t in range(6):
                    v = wy[t] * np.float32(area)
                    line = sums[iy + t]
                    line[ix] += v * w0
                    line[ix + 1] += v * w1
                    line[ix + 2] += v * w2
                    line[ix + 3] += v * w3
                    line[ix + 4] += v * w4
                    line[ix + 5] += v * w5
                continue
            for t in range(max(0, -iy), min(size, ny - iy)):
                v = wy[t] * np.float32(area)
                line = sums[iy + t]
                for s in range(max(0, -ix), min(size, nx - ix)):
                    line[ix + s] += v * wx[s]


@njit(cache=True, nogil=True)
def quick_taps(x, table, taps):
    """Fill tabulated weights about a position; return the index of the first tap."""
    n = taps.size
    whole = math.floor(x)
    p = (x - whole) * TABLE
    k = int(p)
    d = np.float32(p - k)
    for t in range(n):
        taps[t] = table[k, t] + d * (table[k + 1, t] - table[k, t])
    return int(whole) - n // 2 + 1


@njit(cache=True, nogil=True)
def _careful(
    image, variance, use_variance, mask, use_mask, bad, wx, nwx, ix, wy, nwy, iy, limits, counts
):
    """Weighted sums with missing pixels left out; returns sum, variance, |w| lost, bits."""
    ny, nx = image.shape
    total = lost = kept = value = var = 0.0
    for b in range(32):
        counts[b] = 0.0
    for t in range(nwy):
        y = iy + t
        for s in range(nwx):
            x = ix + s
            w = wy[t] * wx[s]
            size = abs(w)
            total += size
            if y < 0 or y >= ny or x < 0 or x >= nx:
                lost += size
                continue
            if use_mask and mask[y, x] != 0 and size > 0.0:
                bits = mask[y, x]
                for b in range(32):
                    if (bits >> np.uint32(b)) & np.uint32(1):
                        counts[b] += size
            if bad[y, x]:
                lost += size
                continue
            kept += w
            value += w * image[y, x]
            if use_variance:
                var += w * w * variance[y, x]
    bits = np.uint32(0)
    for b in range(32):
        if counts[b] > limits[b] * total:
            bits |= np.uint32(1) << np.uint32(b)
    if total > 0.0:
        lost /= total
    if kept > 0.0:
        value /= kept
        var /= kept * kept
    else:
        lost = 1.0
    return value, var, lost, bits


@njit(cache=True, nogil=True)
def _six_by_six(image, variance, use_variance, ix, iy, x, y, table):
    """Weighted sums over 6 x 6 good pixels, for a position (x, y) within its pixel."""
    px, py = x * TABLE, y * TABLE
    kx, ky = int(px), int(py)
    dx, dy = np.float32(px - kx), np.float32(py - ky)
    a, b = table[kx], table[kx + 1]
    w0 = a[0] + dx * (b[0] - a[0])
    w1 = a[1] + dx * (b[1] - a[1])
    w2 = a[2] + dx * (b[2] - a[2])
    w3 = a[3] + dx * (b[3] - a[3])
    w4 = a[4] + dx * (b[4] - a[4])
    w5 = a[5] + dx * (b[5] - a[5])
    total, spread = np.float32(0.0), np.float32(0.0)
    for t in range(6):
        v = table[ky, t] + dy * (table[ky + 1, t] - table[ky, t])
        r = image[iy + t]
        row = w0 * r[ix] + w1 * r[ix + 1] + w2 * r[ix + 2]
        row += w3 * r[ix + 3] + w4 * r[ix + 4] + w5 * r[ix + 5]
        total += v * row
        if use_variance:
            q = variance[iy + t]
            row = w0 * w0 * q[ix] + w1 * w1 * q[ix + 1] + w2 * w2 * q[ix + 2]
            row += w3 * w3 * q[ix + 3] + w4 * w4 * q[ix + 4] + w5 * w5 * q[ix + 5]
            spread += v * v * row
    return total, spread


@njit(cache=True, nogil=True)
def lanczos_rows(
    image, variance, use_variance, mask, use_mask, bad, window, nodes, geometry, x_in, y_in, order,
    stretch, table, limits, missing, no_data, dropped, rows, out, out_variance, out_mask,
):  # fmt: skip
    """Resample some rows with a Lanczos kernel times the area ratio.

    ``geometry``: node coordinates of the first output pixel and nodes per pixel. ``missing``: the
    largest share of |weight| that may be lost; ``no_data``, ``dropped``: mask values for pixels
    where more, or anything, is.
    """
    gx, gy, inverse = geometry
    ny, nx = image.shape
    n_out = out.shape[1]
    positions = np.empty((3, n_out))
    work = np.empty((3, nodes.shape[2]))
    size = 2 * math.ceil(order * stretch)
    wx, wy, counts = np.empty(size), np.empty(size), np.empty(32)
    quick = order == 3 and stretch == 1.0
    for j in range(rows[0], rows[1]):
        fill_row(nodes, gx, gy + j * inverse, inverse, work, positions)
        for i in range(n_out):
            x, y, area = positions[0, i] - x_in, positions[1, i] - y_in, positions[2, i]
            if not (x > -size and y > -size and x < nx + size and y < ny + size):
                continue
            fx, fy = math.floor(x), math.floor(y)
            ix, iy = int(fx) - 2, int(fy) - 2
            inside = quick and ix >= 0 and iy >= 0 and ix + 6 <= nx and iy + 6 <= ny
            if inside and window[iy, ix] == 0:
                total, spread = _six_by_six(
                    image, variance, use_variance, ix, iy, x - fx, y - fy, table
                )
                out[j, i] = total * area
                out_mask[j, i] = np.uint32(0)
                if use_variance:
                    out_variance[j, i] = spread * area * area
                continue
            first_x = fill_taps(x, order, stretch, wx)
            first_y = fill_taps(y, order, stretch, wy)
            value, var, lost, bits = _careful(
                image, variance, use_variance, mask, use_mask, bad, wx, size, first_x, wy, size,
                first_y, limits, counts,
            )  # fmt: skip
            if lost > missing:
                out_mask[j, i] = bits | no_data
                continue
            out[j, i] = value * area
            out_mask[j, i] = bits | (dropped if lost > 1e-6 else np.uint32(0))
            if use_variance:
                out_variance[j, i] = var * area * area


@njit(cache=True, nogil=True)
def _area_under(x1, y1, x2, y2):
    """Integral of y clamped to [0, 1] along a segment, over x in [0, 1], with its sign."""
    if x1 == x2:
        return 0.0
    sign = 1.0
    if x1 > x2:
        x1, y1, x2, y2 = x2, y2, x1, y1
        sign = -1.0
    if x2 <= 0.0 or x1 >= 1.0:
        return 0.0
    slope = (y2 - y1) / (x2 - x1)
    xa, xb = max(x1, 0.0), min(x2, 1.0)
    ya, yb = y1 + slope * (xa - x1), y1 + slope * (xb - x1)
    width = xb - xa
    if ya >= 1.0 and yb >= 1.0:
        return sign * width
    if ya <= 0.0 and yb <= 0.0:
        return 0.0
    if ya >= 0.0 and ya <= 1.0 and yb >= 0.0 and yb <= 1.0:
        return sign * width * 0.5 * (ya + yb)
    ca = 0.0 if ya <= 0.0 else (0.5 * ya * ya if ya <= 1.0 else ya - 0.5)
    cb = 0.0 if yb <= 0.0 else (0.5 * yb * yb if yb <= 1.0 else yb - 0.5)
    return sign * width * (cb - ca) / (yb - ya)


@njit(cache=True, nogil=True)
def overlap(cx, cy, ix, iy):
    """Area of a quadrilateral on the input pixel (ix, iy), which covers +- 0.5 about it."""
    u, v = ix - 0.5, iy - 0.5
    total = 0.0
    for k in range(4):
        n = (k + 1) % 4
        total += _area_under(cx[k] - u, cy[k] - v, cx[n] - u, cy[n] - v)
    return abs(total)


@njit(cache=True, nogil=True)
def exact_rows(
    image, variance, use_variance, mask, use_mask, bad, nodes, geometry, x_in, y_in, limits,
    missing, no_data, dropped, rows, out, out_variance, out_mask,
):  # fmt: skip
    """Resample some rows by exact overlap: an output pixel is the light of what it covers."""
    gx, gy, inverse = geometry
    ny, nx = image.shape
    n_out = out.shape[1]
    low, high = np.empty((3, n_out + 1)), np.empty((3, n_out + 1))
    work = np.empty((3, nodes.shape[2]))
    cx, cy, counts = np.empty(4), np.empty(4), np.empty(32)
    start = gx - 0.5 * inverse
    fill_row(nodes, start, gy + (rows[0] - 0.5) * inverse, inverse, work, low)
    for j in range(rows[0], rows[1]):
        fill_row(nodes, start, gy + (j + 0.5) * inverse, inverse, work, high)
        for i in range(n_out):
            cx[0], cx[1], cx[2], cx[3] = low[0, i], low[0, i + 1], high[0, i + 1], high[0, i]
            cy[0], cy[1], cy[2], cy[3] = low[1, i], low[1, i + 1], high[1, i + 1], high[1, i]
            for k in range(4):
                cx[k] -= x_in
                cy[k] -= y_in
            x0, x1, y0, y1 = cx.min(), cx.max(), cy.min(), cy.max()
            if not (x1 > -1.0 and y1 > -1.0 and x0 < nx and y0 < ny):
                continue
            total = lost = value = var = 0.0
            if use_mask:
                counts[:] = 0.0
            for y in range(math.floor(y0 + 0.5), math.floor(y1 + 0.5) + 1):
                for x in range(math.floor(x0 + 0.5), math.floor(x1 + 0.5) + 1):
                    w = overlap(cx, cy, x, y)
                    if w <= 0.0:
                        continue
                    total += w
                    if y < 0 or y >= ny or x < 0 or x >= nx:
                        lost += w
                        continue
                    if use_mask and mask[y, x] != 0:
                        bits = mask[y, x]
                        for b in range(32):
                            if (bits >> np.uint32(b)) & np.uint32(1):
                                counts[b] += w
                    if bad[y, x]:
                        lost += w
                        continue
                    value += w * image[y, x]
                    if use_variance:
                        var += w * w * variance[y, x]
            bits = np.uint32(0)
            if use_mask:
                for b in range(32):
                    if counts[b] > limits[b] * total:
                        bits |= np.uint32(1) << np.uint32(b)
            if total <= 0.0 or lost > missing * total:
                out_mask[j, i] = bits | no_data
                continue
            if lost > 1e-6 * total:
                scale = total / (total - lost)
                value *= scale
                var *= scale * scale
                bits |= dropped
            out[j, i] = value
            out_mask[j, i] = bits
            if use_variance:
                out_variance[j, i] = var
        low[:] = high


@njit(cache=True, nogil=True)
def patch_weights(nodes, gx, gy, inverse, exact, order, stretch, work, row, taps, patch):
    """Fill the weights of one output pixel on a patch of input pixels; return its first pixel.

    ``gx, gy`` are the node coordinates of the pixel's centre. Unused entries are zero.
    """
    patch[:] = 0.0
    size = patch.shape[0]
    if exact:
        cx, cy = np.empty(4), np.empty(4)
        for k in range(2):
            fill_row(nodes, gx - 0.5 * inverse, gy + (k - 0.5) * inverse, inverse, work, row)
            for i in range(2):
                corner = i if k == 0 else 3 - i
                cx[corner], cy[corner] = row[0, i], row[1, i]
        x0, y0 = math.floor(cx.min() + 0.5), math.floor(cy.min() + 0.5)
        for y in range(y0, min(y0 + size, math.floor(cy.max() + 0.5) + 1)):
            for x in range(x0, min(x0 + size, math.floor(cx.max() + 0.5) + 1)):
                patch[y - y0, x - x0] = overlap(cx, cy, x, y)
        return x0, y0
    fill_row(nodes, gx, gy, inverse, work, row)
    n = 2 * math.ceil(order * stretch)
    x0 = fill_taps(row[0, 0], order, stretch, taps[0])
    y0 = fill_taps(row[1, 0], order, stretch, taps[1])
    for t in range(n):
        for s in range(n):
            patch[t, s] = taps[1, t] * taps[0, s] * row[2, 0]
    return x0, y0


@njit(cache=True, nogil=True)
def _shared(a, first_a, b, first_b, n):
    """Return the sum of products of two rows of taps where they meet."""
    d = first_b - first_a
    total = 0.0
    for t in range(max(0, d), min(n, n + d)):
        total += a[t] * b[t - d]
    return total


@njit(cache=True, nogil=True)
def _exact_covariances(nodes, gx, gy, inverse, size, reach, work, row, taps, cov, var):
    """Add the covariances of one output pixel under exact overlap."""
    m = 2 * reach + 1
    centre, patch = np.empty((size, size)), np.empty((size, size))
    cx, cy = patch_weights(
        nodes, gx, gy, inverse, True, 0, 1.0, work, row, taps, centre
    )  # fmt: skip
    own = (centre * centre).sum()
    for b in range(reach, m):
        for a in range(m):
            x0, y0 = patch_weights(
                nodes, gx + (a - reach) * inverse, gy + (b - reach) * inverse, inverse, True, 0,
                1.0, work, row, taps, patch,
            )  # fmt: skip
            dx, dy = x0 - cx, y0 - cy
            total = 0.0
            for t in range(max(0, dy), min(size, size + dy)):
                for s in range(max(0, dx), min(size, size + dx)):
                    total += centre[t, s] * patch[t - dy, s - dx]
            cov[b, a] += total
            var[b, a] += math.sqrt(own * (patch * patch).sum())


@njit(cache=True, nogil=True)
def covariance_samples(nodes, gx, gy, inverse, exact, order, stretch, size, reach, cov, var):
    """Sum covariances of output pixels with their neighbours, for input noise of variance 1.

    For each sample position (node coordinates gx, gy) adds to cov[dy, dx] and, for the geometric
    mean of the two variances, to var[dy, dx], at the offsets with dy >= 0.
    """
    m = 2 * reach + 1
    work, row, taps = np.empty((3, nodes.shape[2])), np.empty((3, 2)), np.empty((2, size))
    line = np.empty((3, m))
    own_x, own_y = np.empty(size), np.empty(size)
    for k in range(gx.size):
        if exact:
            _exact_covariances(nodes, gx[k], gy[k], inverse, size, reach, work, row, taps, cov, var)
            continue
        fill_row(nodes, gx[k], gy[k], inverse, work, row)
        cx = fill_taps(row[0, 0], order, stretch, own_x)
        cy = fill_taps(row[1, 0], order, stretch, own_y)
        own = _shared(own_x, cx, own_x, cx, size) * _shared(own_y, cy, own_y, cy, size)
        own *= row[2, 0] * row[2, 0]
        for b in range(reach, m):
            fill_row(nodes, gx[k] - reach * inverse, gy[k] + (b - reach) * inverse, inverse, work,
                     line)  # fmt: skip
            for a in range(m):
                x0 = fill_taps(line[0, a], order, stretch, taps[0])
                y0 = fill_taps(line[1, a], order, stretch, taps[1])
                here = _shared(taps[0], x0, taps[0], x0, size)
                here *= _shared(taps[1], y0, taps[1], y0, size) * line[2, a] * line[2, a]
                both = _shared(own_x, cx, taps[0], x0, size)
                if both != 0.0:
                    both *= _shared(own_y, cy, taps[1], y0, size)
                cov[b, a] += both * line[2, a] * row[2, 0]
                var[b, a] += math.sqrt(own * here)


@njit(cache=True, nogil=True)
def resample_stamps_exact(stamps, x_min, y_min, nodes, guard, size, out):
    """Resample stamps of stars to output stamps by exact overlap; see `resample_stamps`."""
    n, m, h = out.shape[0], out.shape[1], stamps.shape[1]
    taps, row, work = np.empty((2, size)), np.empty((3, 2)), np.empty((3, 4))
    patch = np.empty((size, size))
    inverse = 3.0 / (m + 2 * guard - 1.0)
    for k in range(n):
        for b in range(m):
            for a in range(m):
                x0, y0 = patch_weights(
                    nodes[k], (a + guard) * inverse, (b + guard) * inverse, inverse, True, 0, 1.0,
                    work, row, taps, patch,
                )  # fmt: skip
                u, v = x0 - x_min[k], y0 - y_min[k]
                total = 0.0
                for t in range(max(0, -v), min(size, h - v)):
                    for s in range(max(0, -u), min(size, h - u)):
                        total += patch[t, s] * stamps[k, v + t, u + s]
                out[k, b, a] = total


@njit(cache=True, nogil=True)
def resample_stamps(stamps, x_min, y_min, nodes, guard, order, stretch, table, out):
    """Resample stamps of stars to output stamps with a Lanczos kernel.

    ``nodes`` (n, 3, 4, 4) is the map at 4 x 4 positions that span each output stamp and ``guard``
    pixels around it, which are needed for the sums over the input pixels.
    """
    n, m, h = out.shape[0], out.shape[1], stamps.shape[1]
    size = 2 * math.ceil(order * stretch)
    work, line = np.empty((3, 4)), np.empty((3, m))
    wx, wy = np.empty(size, np.float32), np.empty(size, np.float32)
    wide = m + 2 * guard
    inverse = 3.0 / (wide - 1.0)
    sums, values = np.empty((h, h), np.float32), np.empty((h, h))
    for k in range(n):
        sums[:] = 0.0
        column_sums(
            nodes[k], (0.0, 0.0, inverse), float(x_min[k]), float(y_min[k]), order, stretch, table,
            wide, (0, wide), sums,
        )  # fmt: skip
        for t in range(h):
            for s in range(h):
                c = sums[t, s]
                values[t, s] = stamps[k, t, s] / c if c > 0.5 else stamps[k, t, s]
        for b in range(m):
            fill_row(nodes[k], guard * inverse, (b + guard) * inverse, inverse, work, line)
            for a in range(m):
                x, y = line[0, a] - x_min[k], line[1, a] - y_min[k]
                total = 0.0
                if x > -size and y > -size and x < h + size and y < h + size:
                    if stretch == 1.0:
                        u, v = quick_taps(x, table, wx), quick_taps(y, table, wy)
                    else:
                        u = fill_taps(x, order, stretch, wx)
                        v = fill_taps(y, order, stretch, wy)
                    for t in range(max(0, -v), min(size, h - v)):
                        part = 0.0
                        for s in range(max(0, -u), min(size, h - u)):
                            part += wx[s] * values[v + t, u + s]
                        total += wy[t] * part
                out[k, b, a] = total * line[2, a]
