# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: E501
"""Compiled sums over stars with the star's magnitude eliminated. Arrays in, arrays out.

For a star with detections i of weight w_i, residual r_i and derivatives v_i, and a reference of
weight w_r and residual r_r, minimising over the star's own magnitude leaves

    S = sum_i w_i v_i v_i^T - u u^T / W,     u = sum_i w_i v_i,   W = w_r + sum_i w_i,
    b = sum_i w_i v_i (r_i - mean),          mean = (w_r r_r + sum_i w_i r_i) / W.

What is added to an element of S is added in the order of the stars, in pieces that do not depend on
the number of threads: sums are equal to the bit for any number.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def _longest(start, s0, s1):
    """Largest number of detections of a star."""
    n = 0
    for s in range(s0, s1):
        n = max(n, start[s + 1] - start[s])
    return n


@njit(cache=True, nogil=True)
def grey_sums(s0, s1, start, base, constant, w, r, w_ref, r_ref, S, b, info, chi2):
    """One term, one parameter a detection, constant derivative: the fast case."""
    longest = 0
    for s in range(s0, s1):
        longest = max(longest, start[s + 1] - start[s])
    cols = np.empty(longest + 1, np.int32)
    u = np.empty(longest + 1)
    square = constant * constant
    for s in range(s0, s1):
        lo, hi = start[s], start[s + 1]
        W = w_ref[s]
        total = 0.0
        if W > 0.0:
            total = W * r_ref[s]
        else:
            W = 0.0
        for i in range(lo, hi):
            W += w[i]
            total += w[i] * r[i]
        if W <= 0.0:
            continue
        mean = total / W
        m = 0
        for i in range(lo, hi):
            if w[i] <= 0.0:
                continue
            d = r[i] - mean
            chi2[s] += w[i] * d * d
            c = base[i, 0]
            if c < 0:
                continue
            S[c, c] += square * w[i]
            b[c] += constant * w[i] * d
            info[c] += square * w[i]
            k = m
            while k > 0 and cols[k - 1] > c:
                k -= 1
            if k > 0 and cols[k - 1] == c:
                u[k - 1] += w[i]
                continue
            for j in range(m, k, -1):
                cols[j] = cols[j - 1]
                u[j] = u[j - 1]
            cols[k] = c
            u[k] = w[i]
            m += 1
        if w_ref[s] > 0.0:
            chi2[s] += w_ref[s] * (r_ref[s] - mean) ** 2
        f = square / W
        for a in range(m):
            g = f * u[a]
            line = S[cols[a]]
            for k in range(a, m):
                line[cols[k]] -= g * u[k]


@njit(cache=True, nogil=True)
def _derivative(t, j, i, column, constant, values):
    if column[t] < 0:
        return constant[t]
    return values[i, column[t] + j]


@njit(cache=True, nogil=True)
def _star_level(lo, hi, w, r, w_ref, r_ref):
    """Weight, mean residual and chi2 of one star with the reference (weight 0: none)."""
    W = 0.0
    total = 0.0
    if w_ref > 0.0:
        W = w_ref
        total = W * r_ref
    for i in range(lo, hi):
        W += w[i]
        total += w[i] * r[i]
    if W <= 0.0:
        return 0.0, 0.0, 0.0
    mean = total / W
    chi2 = 0.0
    if w_ref > 0.0:
        chi2 = w_ref * (r_ref - mean) ** 2
    for i in range(lo, hi):
        if w[i] > 0.0:
            chi2 += w[i] * (r[i] - mean) ** 2
    return W, mean, chi2


@njit(cache=True, nogil=True)
def gather_runs(
    s0,
    s1,
    start,
    base,
    width,
    column,
    constant,
    values,
    w,
    r,
    g,
    w_ref,
    r_ref,
    size,
    run_c,
    run_t,
    run_n,
    u,
    weight,
    mean,
    chi2,
):
    """Merge the detections of stars s0 ... s1 - 1 run by run: u = sum w v for each run touched.

    A star whose first row is ``lo`` writes its runs from ``lo * terms`` (``run_n`` of them) and
    their sums, one after the other, from ``lo * nonzeros``. ``g`` (size 0: ones) multiplies every
    derivative of a detection.
    """
    T = width.size
    nnz = 0
    for t in range(T):
        nnz += width[t]
    longest = _longest(start, s0, s1)
    pos = np.full(size, -1, np.int64)
    at_u = np.empty(longest * T + 1, np.int64)
    for s in range(s0, s1):
        lo, hi = start[s], start[s + 1]
        run_n[s] = 0
        weight[s], mean[s], chi2[s] = _star_level(lo, hi, w, r, w_ref[s], r_ref[s])
        if weight[s] <= 0.0:
            continue
        m = 0
        at = lo * T
        filled = lo * nnz
        for i in range(lo, hi):
            if w[i] <= 0.0:
                continue
            f = w[i] * g[i] if g.size else w[i]
            for t in range(T):
                c0 = base[i, t]
                if c0 < 0:
                    continue
                n = width[t]
                p = pos[c0]
                if p < 0:
                    p = m
                    pos[c0] = m
                    run_c[at + m] = c0
                    run_t[at + m] = t
                    at_u[m] = filled
                    u[filled : filled + n] = 0.0
                    filled += n
                    m += 1
                z = at_u[p]
                for j in range(n):
                    u[z + j] += f * _derivative(t, j, i, column, constant, values)
        run_n[s] = m
        for a in range(m):
            pos[run_c[at + a]] = -1


@njit(cache=True, nogil=True)
def schur_apply(start, base, width, column, constant, values, w, w_ref, p, out):
    """Add S @ p to out without forming S; p and out have shape (parameters, right-hand sides)."""
    longest = _longest(start, 0, start.size - 1)
    R = p.shape[1]
    q = np.empty((longest, R))
    mean = np.empty(R)
    for s in range(start.size - 1):
        lo, hi = start[s], start[s + 1]
        W = max(w_ref[s], 0.0)
        mean[:] = 0.0
        for i in range(lo, hi):
            if w[i] <= 0.0:
                continue
            W += w[i]
            line = q[i - lo]
            line[:] = 0.0
            for t in range(width.size):
                c0 = base[i, t]
                if c0 < 0:
                    continue
                for j in range(width[t]):
                    v = _derivative(t, j, i, column, constant, values)
                    for k in range(R):
                        line[k] += v * p[c0 + j, k]
            for k in range(R):
                mean[k] += w[i] * line[k]
        if W <= 0.0:
            continue
        for k in range(R):
            mean[k] /= W
        for i in range(lo, hi):
            if w[i] <= 0.0:
                continue
            line = q[i - lo]
            for k in range(R):
                line[k] = w[i] * (line[k] - mean[k])
            for t in range(width.size):
                c0 = base[i, t]
                if c0 < 0:
                    continue
                for j in range(width[t]):
                    v = _derivative(t, j, i, column, constant, values)
                    for k in range(R):
                        out[c0 + j, k] += v * line[k]


@njit(cache=True, nogil=True)
def schur_transpose(start, base, width, column, constant, values, w, w_ref, r, r_ref, out):
    """Add b = V^T w (r - star mean) to out for several residual vectors r (n, R), r_ref (stars, R)."""
    R = r.shape[1]
    mean = np.empty(R)
    for s in range(start.size - 1):
        lo, hi = start[s], start[s + 1]
        W = max(w_ref[s], 0.0)
        for k in range(R):
            mean[k] = W * r_ref[s, k] if W > 0.0 else 0.0
        for i in range(lo, hi):
            if w[i] > 0.0:
                W += w[i]
                for k in range(R):
                    mean[k] += w[i] * r[i, k]
        if W <= 0.0:
            continue
        for k in range(R):
            mean[k] /= W
        for i in range(lo, hi):
            if w[i] <= 0.0:
                continue
            for t in range(width.size):
                c0 = base[i, t]
                if c0 < 0:
                    continue
                for j in range(width[t]):
                    f = w[i] * _derivative(t, j, i, column, constant, values)
                    for k in range(R):
                        out[c0 + j, k] += f * (r[i, k] - mean[k])


@njit(cache=True, nogil=True)
def diagonal_blocks(start, base, width, column, constant, values, w, w_ref, size, offset, blocks):
    """Add the diagonal blocks of S, one a run of parameters, row by row into ``blocks``.

    The block of the run that starts at parameter c of term t begins at ``offset[t] + c * width[t]``
    (c global, offset made to fit).
    """
    longest = _longest(start, 0, start.size - 1)
    widest = 1
    for t in range(width.size):
        widest = max(widest, width[t])
    pos = np.full(size, -1, np.int32)
    runs = np.empty(longest + 1, np.int32)
    u = np.empty((longest + 1, widest))
    for s in range(start.size - 1):
        lo, hi = start[s], start[s + 1]
        W = max(w_ref[s], 0.0)
        for i in range(lo, hi):
            W += w[i]
        if W <= 0.0:
            continue
        for t in range(width.size):
            m = 0
            n = width[t]
            for i in range(lo, hi):
                c = base[i, t]
                if w[i] <= 0.0 or c < 0:
                    continue
                p = pos[c]
                if p < 0:
                    p = m
                    pos[c] = m
                    runs[m] = c
                    u[m, :n] = 0.0
                    m += 1
                at = offset[t] + c * n
                for j in range(n):
                    vj = w[i] * _derivative(t, j, i, column, constant, values)
                    u[p, j] += vj
                    for k in range(n):
                        blocks[at + j * n + k] += vj * _derivative(
                            t, k, i, column, constant, values
                        )
            for a in range(m):
                c = runs[a]
                pos[c] = -1
                at = offset[t] + c * n
                for j in range(n):
                    f = u[a, j] / W
                    for k in range(n):
                        blocks[at + j * n + k] -= f * u[a, k]


@njit(cache=True, nogil=True)
def predict(base, width, column, constant, values, p, lo, hi, out):
    """Add the linear model at detections lo ... hi - 1 to out."""
    for i in range(lo, hi):
        total = 0.0
        for t in range(width.size):
            c0 = base[i, t]
            if c0 < 0:
                continue
            for j in range(width[t]):
                total += _derivative(t, j, i, column, constant, values) * p[c0 + j]
        out[i] += total


@njit(cache=True, nogil=True)
def star_means(start, w, r, w_ref, r_ref, first, last, mean, weight):
    """Weighted mean residual and total weight of stars first ... last - 1 (NaN without weight)."""
    for s in range(first, last):
        W = 0.0
        total = 0.0
        if w_ref[s] > 0.0:
            W = w_ref[s]
            total = W * r_ref[s]
        for i in range(start[s], start[s + 1]):
            W += w[i]
            total += w[i] * r[i]
        weight[s] = W
        mean[s] = total / W if W > 0.0 else np.nan


@njit(cache=True, nogil=True)
def robust_weights(start, z0, w0, w_ref, r, r_ref, limit, passes, out):
    """Huber weights about each star's own robust mean: out = w0 * min(1, limit / |z|).

    The star's mean is iterated with its weights; ``z0`` is 1 / sigma.
    """
    for s in range(start.size - 1):
        lo, hi = start[s], start[s + 1]
        for i in range(lo, hi):
            out[i] = w0[i]
        for _ in range(passes):
            W = 0.0
            total = 0.0
            if w_ref[s] > 0.0:
                W = w_ref[s]
                total = W * r_ref[s]
            for i in range(lo, hi):
                W += out[i]
                total += out[i] * r[i]
            if W <= 0.0:
                break
            mean = total / W
            for i in range(lo, hi):
                z = abs(r[i] - mean) * z0[i]
                out[i] = w0[i] * (limit / z if z > limit else 1.0)


@njit(cache=True, nogil=True)
def connect(start, node, w, w_ref, parent):
    """Join the nodes (exposures) that share a star; the last node stands for the references."""
    anchor = parent.size - 1
    for s in range(start.size - 1):
        first = anchor if w_ref[s] > 0.0 else -1
        for i in range(start[s], start[s + 1]):
            if w[i] <= 0.0:
                continue
            a = node[i]
            while parent[a] != a:
                parent[a] = parent[parent[a]]
                a = parent[a]
            if first < 0:
                first = a
            else:
                c = first
                while parent[c] != c:
                    parent[c] = parent[parent[c]]
                    c = parent[c]
                if a != c:
                    parent[min(a, c)] = max(a, c)
                first = max(a, c)


@njit(cache=True, nogil=True)
def shared_stars(start, node, w, w_ref, count, last):
    """Count, for each exposure, the stars that tie it to another exposure or to a reference."""
    for s in range(start.size - 1):
        lo, hi = start[s], start[s + 1]
        tied = w_ref[s] > 0.0
        first = -1
        for i in range(lo, hi):
            if w[i] > 0.0:
                if first < 0:
                    first = node[i]
                elif node[i] != first:
                    tied = True
        if not tied:
            continue
        for i in range(lo, hi):
            if w[i] > 0.0 and last[node[i]] != s:
                last[node[i]] = s
                count[node[i]] += 1


@njit(cache=True, nogil=True)
def reject_pass(order, star, base, width, influence, info, w, g2, star_used, used, flags, bit):
    """Flag candidates, strongest first, at most one for a star and for each parameter it touches.

    A parameter counts as touched if the candidate holds at least the fraction ``influence`` of
    its information.
    """
    n = 0
    for k in range(order.size):
        i = order[k]
        if star_used[star[i]]:
            continue
        free = True
        for t in range(width.size):
            c0 = base[i, t]
            if c0 < 0:
                continue
            for j in range(width[t]):
                if used[c0 + j] and w[i] * g2[i, t] >= influence * info[c0 + j]:
                    free = False
        if not free:
            continue
        star_used[star[i]] = True
        for t in range(width.size):
            c0 = base[i, t]
            if c0 >= 0:
                for j in range(width[t]):
                    if w[i] * g2[i, t] >= influence * info[c0 + j]:
                        used[c0 + j] = True
        flags[i] |= bit
        n += 1
    return n
