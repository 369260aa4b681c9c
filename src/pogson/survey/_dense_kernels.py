# mypy: disallow-untyped-defs=False
"""Numba kernels for stars that touch a good part of all parameters: rows for a dense product."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def detection_sums(
    s0, s1, start, base, width, column, constant, values, w, r, g, weight, mean, S, b, info
):
    """Add w v v^T of the detections of stars s0 ... s1 - 1 to the upper triangle of S."""
    T = width.size
    at = np.zeros(T + 1, np.int64)
    for t in range(T):
        at[t + 1] = at[t] + width[t]
    v = np.empty(at[T] + 1)
    for s in range(s0, s1):
        if weight[s] <= 0.0:
            continue
        for i in range(start[s], start[s + 1]):
            if w[i] <= 0.0:
                continue
            scale = g[i] if g.size else 1.0
            for t in range(T):
                for j in range(width[t]):
                    x = constant[t] if column[t] < 0 else values[i, column[t] + j]
                    v[at[t] + j] = scale * x
            d = w[i] * (r[i] - mean[s])
            for t in range(T):
                c = base[i, t]
                if c < 0:
                    continue
                for j in range(width[t]):
                    x = w[i] * v[at[t] + j]
                    b[c + j] += d * v[at[t] + j]
                    info[c + j] += x * v[at[t] + j]
                    line = S[c + j]
                    for k in range(j, width[t]):
                        line[c + k] += x * v[at[t] + k]
                    for q in range(t + 1, T):
                        e = base[i, q]
                        if e >= 0:
                            for k in range(width[q]):
                                line[e + k] += x * v[at[q] + k]


@njit(cache=True, nogil=True)
def star_rows(s0, s1, start, width, nonzeros, run_c, run_t, run_n, u, weight, rows):
    """Fill one row a star: its merged runs over the square root of its weight."""
    T = width.size
    for s in range(s0, s1):
        line = rows[s - s0]
        line[:] = 0.0
        if run_n[s] == 0 or weight[s] <= 0.0:
            continue
        f = 1.0 / np.sqrt(weight[s])
        z = start[s] * nonzeros
        for a in range(run_n[s]):
            c = run_c[start[s] * T + a]
            n = width[run_t[start[s] * T + a]]
            for j in range(n):
                line[c + j] = f * u[z + j]
            z += n
