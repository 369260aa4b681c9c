"""Compiled drawing of analytic profiles integrated over pixels.

Gaussians are integrated exactly along x by the error function and along y by Gauss-Legendre
nodes (exactly along both when the axes are aligned with the pixels). Moffat profiles use the
Taylor series of the pixel average,

    P + (P_xx + P_yy)/24 + (P_xxxx + P_yyyy)/1920 + P_xxyy/576,

where the profile is smooth on the scale of a pixel, and 3 to 12 Gauss-Legendre nodes a side
elsewhere. Which rule a pixel gets follows from alpha^2 s^(3/2) / (beta + 2) with
s = 1 + r^2/alpha^2: the distance to the nearest complex singularity of the profile, in pixels,
sets how fast its derivatives grow. Tabulated profiles (Kolmogorov) use cubic Hermite
interpolation at Gauss-Legendre nodes, fewer far from the centre.
"""

# Kernels take plain arrays and are typed by the compiler.
# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import math

import numpy as np
from numba import njit

# Gauss-Legendre nodes and weights on [-1/2, 1/2], row n for n points
_MAX_NODES = 12
NODES = np.zeros((_MAX_NODES + 1, _MAX_NODES))
WEIGHTS = np.zeros((_MAX_NODES + 1, _MAX_NODES))
for _n in range(1, _MAX_NODES + 1):
    _x, _w = np.polynomial.legendre.leggauss(_n)
    NODES[_n, :_n], WEIGHTS[_n, :_n] = 0.5 * _x, 0.5 * _w

_SQRT_HALF = math.sqrt(0.5)

# a row of Moffat pixels below limit q gets rule q: Gauss-Legendre nodes a side
_LIMITS = np.array([20.0, 7.7, 2.1, 0.8, 0.5, 0.2])
_RULES = np.array([3, 4, 5, 6, 8, 12])


@njit(cache=True, nogil=True)
def draw_gaussian(x, y, x_min, y_min, sigma, e1, e2, scale, out):
    """Draw pixel-integrated elliptical Gaussians; ``scale`` multiplies each stamp."""
    n, m = out.shape[0], out.shape[1]
    edge = np.empty(m + 1)
    column = np.empty(m)
    for k in range(n):
        norm = 1.0 / math.sqrt(1.0 - e1[k] ** 2 - e2[k] ** 2)
        var = sigma[k] ** 2 * norm
        cxx, cyy, cxy = var * (1.0 + e1[k]), var * (1.0 - e1[k]), var * e2[k]
        slope = cxy / cyy
        sx = math.sqrt(cxx - cxy * slope)
        sy = math.sqrt(cyy)
        x0, y0 = x_min[k] - x[k], y_min[k] - y[k]
        if cxy == 0.0:
            for j in range(m + 1):
                edge[j] = math.erf((y0 + j - 0.5) / sy * _SQRT_HALF)
            for j in range(m):
                column[j] = 0.5 * (edge[j + 1] - edge[j]) * scale[k]
            for i in range(m + 1):
                edge[i] = 0.5 * math.erf((x0 + i - 0.5) / sx * _SQRT_HALF)
            for j in range(m):
                for i in range(m):
                    out[k, j, i] = column[j] * (edge[i + 1] - edge[i])
            continue
        # given y the profile along x is a Gaussian about slope*y, of width sx
        width = min(sy, sx / max(abs(slope), 1e-3))
        nodes = 4 if width > 2.0 else (6 if width > 1.0 else (8 if width > 0.6 else _MAX_NODES))
        for j in range(m):
            for i in range(m):
                out[k, j, i] = 0.0
            for q in range(nodes):
                v = y0 + j + NODES[nodes, q]
                if abs(v) > 9.0 * sy:
                    continue  # below 3e-18 of the peak
                weight = (
                    WEIGHTS[nodes, q] * math.exp(-0.5 * (v / sy) ** 2)
                    / (sy * math.sqrt(2.0 * math.pi)) * scale[k]
                )  # fmt: skip
                previous = 0.5 * math.erf((x0 - 0.5 - slope * v) / sx * _SQRT_HALF)
                for i in range(m):
                    following = 0.5 * math.erf((x0 + i + 0.5 - slope * v) / sx * _SQRT_HALF)
                    out[k, j, i] += weight * (following - previous)
                    previous = following


# 2^52 + 2^51: adding it to a number leaves the nearest whole number in the low bits
_MAGIC = 6755399441055744.0
_MAGIC_BITS = 0x4338000000000000
_SQRT_HALF_BITS = 0x3FE6A09E667F3BCD
_MANTISSA = 0xFFFFFFFFFFFFF
_POWERS = 2048


@njit(cache=True, nogil=True, error_model="numpy")
def powers(base, exponent, n, work, out):
    """Fill ``out[:n]`` with ``base ** -exponent`` for bases of 1 and more.

    Written without calls, so that the compiler turns the loops into vector instructions. The
    logarithm is the series of artanh about a fraction in [sqrt(1/2), sqrt(2)), the exponential its
    Taylor series; relative error 2e-15 times the exponent. Results below 1e-300 stay at 1e-300.
    """
    bits, work_bits, out_bits = base.view(np.int64), work.view(np.int64), out.view(np.int64)
    for i in range(n):
        above = bits[i] - _SQRT_HALF_BITS
        work_bits[i] = (above & _MANTISSA) + _SQRT_HALF_BITS
        out_bits[i] = (above >> 52) + _MAGIC_BITS
    for i in range(n):
        z = (work[i] - 1.0) / (work[i] + 1.0)
        q = z * z
        c = 1.0 / 17.0 + q * (1.0 / 19.0)
        c = 1.0 / 13.0 + q * (1.0 / 15.0 + q * c)
        c = 1.0 / 9.0 + q * (1.0 / 11.0 + q * c)
        c = 1.0 / 5.0 + q * (1.0 / 7.0 + q * c)
        c = 1.0 + q * (1.0 / 3.0 + q * c)
        log2 = (out[i] - _MAGIC) + 2.8853900817779268 * z * c
        t = max(-exponent * log2, -996.0)
        whole = t + _MAGIC
        work[i] = whole
        t = 0.6931471805599453 * (t - (whole - _MAGIC))
        c = 1.0 / 39916800.0 + t * (1.0 / 479001600.0)
        c = 1.0 / 362880.0 + t * (1.0 / 3628800.0 + t * c)
        c = 1.0 / 5040.0 + t * (1.0 / 40320.0 + t * c)
        c = 1.0 / 120.0 + t * (1.0 / 720.0 + t * c)
        c = 1.0 / 6.0 + t * (1.0 / 24.0 + t * c)
        out[i] = 1.0 + t * (1.0 + t * (0.5 + t * c))
    for i in range(n):
        out_bits[i] += work_bits[i] << 52


@njit(cache=True, nogil=True, error_model="numpy")
def _moffat_core(x0, v, first, width, nodes, qa, qb, qc, exponent, work, line):
    """Fill ``line[first:first+width]`` with Gauss-Legendre means of a Moffat profile of peak 1."""
    base, value, scratch, across = work[0], work[1], work[2], work[3]
    # nodes of one kind of all pixels lie side by side: long inner loops
    size = nodes * width
    for iq in range(nodes):
        shift = x0 + first + NODES[nodes, iq]
        for i in range(width):
            across[iq * width + i] = shift + i
    for jq in range(nodes):
        vq = v + NODES[nodes, jq]
        start, b, c = jq * size, 2.0 * qb * vq, 1.0 + qc * vq * vq
        for t in range(size):
            base[start + t] = c + across[t] * (b + qa * across[t])
    powers(base, exponent, nodes * size, scratch, value)
    for t in range(size):
        across[t] = WEIGHTS[nodes, 0] * value[t]
    for jq in range(1, nodes):
        start, weight = jq * size, WEIGHTS[nodes, jq]
        for t in range(size):
            across[t] += weight * value[start + t]
    for i in range(width):
        line[first + i] = WEIGHTS[nodes, 0] * across[i]
    for iq in range(1, nodes):
        weight = WEIGHTS[nodes, iq]
        for i in range(width):
            line[first + i] += weight * across[iq * width + i]


@njit(cache=True, nogil=True, error_model="numpy")
def _moffat_smooth(x0, v, m, qa, qb, qc, exponent, work, line):
    """Fill ``line[:m]`` with the Taylor series of the pixel mean of a Moffat profile of peak 1."""
    base, value, scratch = work[0], work[1], work[2]
    for i in range(m):
        u = x0 + i
        base[i] = 1.0 + qa * u * u + 2.0 * qb * u * v + qc * v * v
    powers(base, exponent, m, scratch, value)
    a2, b2, c2 = 2.0 * qa, 2.0 * qb, 2.0 * qc
    trace, squares, cross = a2 + c2, 3.0 * (a2 * a2 + c2 * c2), a2 * c2 + 2.0 * b2 * b2
    for i in range(m):
        u = x0 + i
        r = 1.0 / base[i]
        f1 = -exponent * r
        f2 = -(exponent + 1.0) * r * f1
        f3 = -(exponent + 2.0) * r * f2
        f4 = -(exponent + 3.0) * r * f3
        gx, gy = a2 * u + b2 * v, b2 * u + c2 * v
        gx2, gy2 = gx * gx, gy * gy
        second = f2 * (gx2 + gy2) + f1 * trace
        pure = f4 * (gx2 * gx2 + gy2 * gy2) + 6.0 * f3 * (gx2 * a2 + gy2 * c2) + f2 * squares
        mixed = f4 * gx2 * gy2 + f3 * (gx2 * c2 + gy2 * a2 + 4.0 * gx * gy * b2) + f2 * cross
        line[i] = value[i] * (
            1.0 + second * (1.0 / 24.0) + pure * (1.0 / 1920.0) + mixed * (1.0 / 576.0)
        )


@njit(cache=True, nogil=True, error_model="numpy")
def draw_moffat(x, y, x_min, y_min, alpha, beta, e1, e2, scale, out):
    """Draw pixel-integrated elliptical Moffat profiles; ``scale`` multiplies each stamp.

    A pixel depends on its star and its offset from it alone, not on the size of the stamp nor on
    the other stars.
    """
    n, m = out.shape[0], out.shape[1]
    work = np.empty((4, max(m, _POWERS)))
    line = np.empty(m)
    limits = np.empty(6)
    for k in range(n):
        norm = 1.0 / math.sqrt(1.0 - e1[k] ** 2 - e2[k] ** 2)
        inv = norm / alpha[k] ** 2
        qa, qb, qc = inv * (1.0 - e1[k]), -inv * e2[k], inv * (1.0 + e1[k])
        peak = scale[k] * (beta[k] - 1.0) / (math.pi * alpha[k] ** 2)
        # squared scale of change along the narrow axis, in pixels; with s^(3/2) it orders pixels
        # by the error of each rule, and the limits below keep all errors under 3e-7 of the peak
        ellipticity = math.sqrt(e1[k] ** 2 + e2[k] ** 2)
        narrow = alpha[k] ** 2 * math.sqrt((1.0 - ellipticity) / (1.0 + ellipticity))
        narrow /= beta[k] + 2.0
        for q in range(6):
            limits[q] = (_LIMITS[q] / narrow) ** (2.0 / 3.0)
        x0, y0 = x_min[k] - x[k], y_min[k] - y[k]
        for j in range(m):
            v = y0 + j
            _moffat_smooth(x0, v, m, qa, qb, qc, beta[k], work, line)
            # the rule of a row is that of its smallest s, wherever along the row that lies
            lowest = 1.0 + (qc - qb * qb / qa) * v * v
            if lowest <= limits[0]:
                nodes = 3
                for q in range(1, 6):
                    if lowest <= limits[q]:
                        nodes = _RULES[q]
                first, last = m, -1
                for i in range(m):
                    if work[0, i] <= limits[0]:
                        first, last = min(first, i), i
                step = max(1, _POWERS // nodes**2)
                for i in range(first, last + 1, step):
                    _moffat_core(
                        x0, v, i, min(step, last + 1 - i), nodes, qa, qb, qc, beta[k], work, line
                    )
            for i in range(m):
                out[k, j, i] = peak * line[i]


@njit(cache=True, nogil=True)
def _table_value(r, table, step, tail):
    """Return a tabulated profile at radius r; beyond the table a power series in 1/r."""
    t = r / step
    i = int(t)
    if i >= table.shape[0] - 1:
        # asymptotic series: r^-(2+5n/3)
        z = r ** (-5.0 / 3.0)
        value = 0.0
        for q in range(tail.size - 1, -1, -1):
            value = (value + tail[q]) * z
        return value / (r * r)
    t -= i
    p0, p1 = table[i, 0], table[i + 1, 0]
    d0, d1 = table[i, 1] * step, table[i + 1, 1] * step
    return p0 + t * (d0 + t * (3.0 * (p1 - p0) - 2.0 * d0 - d1 + t * (2.0 * (p0 - p1) + d0 + d1)))


@njit(cache=True, nogil=True)
def draw_table(x, y, x_min, y_min, unit, e1, e2, scale, table, step, tail, out):
    """Draw pixel-integrated profiles P(r/unit)/unit^2 given by a radial table."""
    n, m = out.shape[0], out.shape[1]
    for k in range(n):
        norm = 1.0 / math.sqrt(1.0 - e1[k] ** 2 - e2[k] ** 2)
        inv = norm / unit[k] ** 2
        qa, qb, qc = inv * (1.0 - e1[k]), -inv * e2[k], inv * (1.0 + e1[k])
        ellipticity = math.sqrt(e1[k] ** 2 + e2[k] ** 2)
        narrow = unit[k] * ((1.0 - ellipticity) / (1.0 + ellipticity)) ** 0.25
        peak = scale[k] / unit[k] ** 2
        x0, y0 = x_min[k] - x[k], y_min[k] - y[k]
        for j in range(m):
            v = y0 + j
            for i in range(m):
                u = x0 + i
                # smoothness grows with the radius as with the width
                r0 = math.sqrt(qa * u * u + 2.0 * qb * u * v + qc * v * v)
                near = narrow * math.sqrt(1.0 + 0.3 * r0 * r0)
                if near > 12.0:
                    nodes = 2
                elif near > 4.0:
                    nodes = 3
                elif near > 1.6:
                    nodes = 4
                elif near > 0.8:
                    nodes = 6
                else:
                    nodes = 10
                total = 0.0
                for jq in range(nodes):
                    vq = v + NODES[nodes, jq]
                    row = 0.0
                    for iq in range(nodes):
                        uq = u + NODES[nodes, iq]
                        rq = math.sqrt(qa * uq * uq + 2.0 * qb * uq * vq + qc * vq * vq)
                        row += WEIGHTS[nodes, iq] * _table_value(rq, table, step, tail)
                    total += WEIGHTS[nodes, jq] * row
                out[k, j, i] = peak * total
