# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: SIM110
"""Numba kernels that add the outer products of the stars tile by tile of the normal matrix.

The parameters are cut into ranges. What each star has within a range (its merged derivatives over
the square root of its weight) is brought together once, in the order of the stars; a tile of the
matrix then takes two such lists from end to end and adds into a block that stays in the cache. Each
element belongs to one tile and is added to in the order of the stars: sums do not depend on who
works on which tile.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def direct_sums(start, base, width, column, constant, values, w, r, g, owner, me, weight, mean, S, b, info):  # noqa: E501 # fmt: skip
    """Add w v v^T of all detections to the rows of S owned by ``me`` (upper triangle)."""
    T = width.size
    at = np.zeros(T + 1, np.int64)
    for t in range(T):
        at[t + 1] = at[t] + width[t]
    v = np.empty(at[T] + 1)
    for s in range(start.size - 1):
        if weight[s] <= 0.0:
            continue
        for i in range(start[s], start[s + 1]):
            if w[i] <= 0.0 or not _touches(i, base, owner, me):
                continue
            scale = g[i] if g.size else 1.0
            for t in range(T):
                for j in range(width[t]):
                    x = constant[t] if column[t] < 0 else values[i, column[t] + j]
                    v[at[t] + j] = scale * x
            d = w[i] * (r[i] - mean[s])
            for t in range(T):
                c = base[i, t]
                if c < 0 or owner[c] != me:
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
def _touches(i, base, owner, me):
    """Whether a detection touches a row owned by ``me``."""
    for t in range(base.shape[1]):
        if base[i, t] >= 0 and owner[base[i, t]] == me:
            return True
    return False


@njit(cache=True, nogil=True)
def count_runs(start, terms, width, run_c, run_t, run_n, tile, count, length):
    """Count the runs in each range of parameters, and the numbers that they hold."""
    for s in range(run_n.size):
        at = start[s] * terms
        for a in range(run_n[s]):
            k = tile[run_c[at + a]]
            count[k] += 1
            length[k] += width[run_t[at + a]]


@njit(cache=True, nogil=True)
def sort_runs(
    k0, k1, start, width, nonzeros, run_c, run_t, run_n, u, weight, tile, first,
    at_run, at_u, star, place, size, out_u,
):  # fmt: skip
    """Bring the runs of ranges k0 ... k1 - 1 together, in the order of the stars, scaled.

    Run by run: ``star``, ``place`` (its first parameter from the first of its range), ``size`` and,
    one after the other, the numbers ``out_u``. ``at_run`` and ``at_u`` say where each range begins.
    """
    terms = width.size
    fill = at_run[k0:k1].copy()
    fill_u = at_u[k0:k1].copy()
    for s in range(run_n.size):
        if run_n[s] == 0:
            continue
        f = 1.0 / np.sqrt(weight[s])
        at = start[s] * terms
        z = start[s] * nonzeros
        for a in range(run_n[s]):
            c = run_c[at + a]
            n = width[run_t[at + a]]
            k = tile[c]
            if k0 <= k < k1:
                i = fill[k - k0]
                star[i] = s
                place[i] = c - first[k]
                size[i] = n
                y = fill_u[k - k0]
                for j in range(n):
                    out_u[y + j] = f * u[z + j]
                fill[k - k0] = i + 1
                fill_u[k - k0] = y + n
            z += n


@njit(cache=True, nogil=True)
def _take(block, a, n, p, b, m, q):
    """Subtract p q^T from a part of a block; common sizes with fixed trip counts."""
    if n == 1 and m == 1:
        block[a, b] -= p[0] * q[0]
    elif n == 6 and m == 6:
        for j in range(6):
            x = p[j]
            line = block[a + j, b : b + 6]
            for k in range(6):
                line[k] -= x * q[k]
    elif n == 3 and m == 3:
        for j in range(3):
            x = p[j]
            line = block[a + j, b : b + 3]
            for k in range(3):
                line[k] -= x * q[k]
    else:
        for j in range(n):
            x = p[j]
            line = block[a + j, b : b + m]
            for k in range(m):
                line[k] -= x * q[k]


@njit(cache=True, nogil=True)
def tile_sums(i, i1, y, j, j1, z, same, star, place, size, u, block):
    """Subtract u u^T of all stars from one tile.

    Runs i ... i1 - 1 (numbers from ``u[y]``) are those of its rows, j ... j1 - 1 (from ``u[z]``)
    those of its columns; ``same`` on the diagonal, where only the upper triangle of runs is filled.
    """
    while i < i1 and j < j1:
        s = star[i]
        if s < star[j]:
            y += size[i]
            i += 1
            continue
        if star[j] < s:
            z += size[j]
            j += 1
            continue
        while i < i1 and star[i] == s:
            n = size[i]
            p = u[y : y + n]
            x = z
            k = j
            while k < j1 and star[k] == s:
                m = size[k]
                if not same or place[k] >= place[i]:
                    _take(block, place[i], n, p, place[k], m, u[x : x + m])
                x += m
                k += 1
            y += n
            i += 1
        while j < j1 and star[j] == s:
            z += size[j]
            j += 1
