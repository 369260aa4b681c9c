"""Compiled accumulation of stamps in an image, row by row and always in the same order.

Rows are gathered in double precision in a ring of rows and added to the image once, when no later
stamp can reach them. The value of a pixel is thus the image's plus one sum, taken in the order of
the stamps, however the image is cut and whichever thread does it.
"""

# Kernels take plain arrays and are typed by the compiler.
# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

from numba import njit


@njit(cache=True, nogil=True)
def flush(image, ring, first, last):
    """Add rows ``first`` to ``last - 1`` of a ring to the image and clear them."""
    height, nx = ring.shape
    for j in range(first, last):
        row = ring[j % height]
        for i in range(nx):
            # a pixel that no light reaches keeps even the sign of its zero
            if row[i] != 0.0:
                image[j, i] = image[j, i] + row[i]
                row[i] = 0.0


@njit(cache=True, nogil=True)
def accumulate(stamps, starts, sides, x_min, y_min, flux, rows, image, ring, sums, first_sum):
    """Add stamps, ordered by ``y_min``, to the rows ``rows[0]`` to ``rows[1] - 1`` of an image.

    ``stamps`` is flat, stamp k being ``sides[k]`` pixels a side from ``starts[k]`` on; ``rows[2]``
    is the first row that was not yet flushed. The sum of row j of stamp k over the columns inside
    the image goes to ``sums[first_sum[k] + j]``.
    """
    nx = image.shape[1]
    height = ring.shape[0]
    bottom, top = rows[0], rows[1]
    for k in range(starts.size):
        side = sides[k]
        low, high = max(y_min[k], bottom), min(y_min[k] + side, top)
        if low > rows[2]:
            flush(image, ring, rows[2], min(low, top))
            rows[2] = min(low, top)
        left, right = max(x_min[k], 0), min(x_min[k] + side, nx)
        if low >= high or left >= right:
            continue
        for j in range(low, high):
            at = starts[k] + (j - y_min[k]) * side + (left - x_min[k])
            stamp = stamps[at : at + right - left]
            line = ring[j % height, left:right]
            # four sums side by side: a single chain of additions would be slower than the rest
            a, b, c, d = 0.0, 0.0, 0.0, 0.0
            whole = (right - left) // 4 * 4
            for i in range(0, whole, 4):
                a += stamp[i]
                b += stamp[i + 1]
                c += stamp[i + 2]
                d += stamp[i + 3]
            for i in range(whole, right - left):
                a += stamp[i]
            for i in range(right - left):
                line[i] += flux[k] * stamp[i]
            sums[first_sum[k] + j - y_min[k]] = (a + b) + (c + d)


@njit(cache=True, nogil=True)
def total_sums(sums, first_sum, sides, flux, out):
    """Sum the rows of every stamp, times its flux."""
    for k in range(sides.size):
        total = 0.0
        for j in range(sides[k]):
            total += sums[first_sum[k] + j]
        out[k] = flux[k] * total
