"""Compiled scan of all models: weighted least squares in magnitudes, many stars a grid tile.

With B = A_V R_V the magnitudes of a model are linear in (mu, A_V, B). Around the mean R0 of the
prior, ``m = c0 + mu + A r + y s`` with ``r = c1 + R0 c2``, ``s = c2`` and ``y = A (R_V - R0)``. A
Gaussian prior of R_V makes y Gaussian of width A sigma_R: the solution without it gives that A.

Models lie in tiles of `TILE` lanes, one array a band and coefficient, so that the sums over bands
run over many models an instruction. Only models that their bound, or a lot, picks are treated one
by one: low-signal bands in flux, prior of distance, truncation of A_V.
"""

# Kernels take plain arrays and are typed by the compiler.
# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import math

import numpy as np
from numba import njit

TILE = 256
N_SUMS = 9
N_LINES = 6
K = 0.4 * math.log(10.0)
_U = np.uint64  # unsigned indices need no test for counting from the end
_F = np.float32
_LN2 = math.log(2.0)
MOST_HALVINGS = 24

# columns of the table of numbers a star: see `fit_setup.star_scalars`
WEIGHT, MU_WEIGHT, MU_DATA, AV_PREC, AV_MEAN, RV_PREC = range(6)
SCAN_PLX, SCAN_PLX_IVAR, FLUX_SCAN, DUST, CENTRE, PLX, PLX_IVAR = range(6, 13)
N_STAR = 13
# columns of the table of limits: see `fit_setup.limits_of`
MU0, DMU, AV_LOW, AV_HIGH, RV_MEAN, RV_LOW, RV_HIGH = range(7)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=True)
def band_sums(tile, first, w, m, acc):
    """Sum w times products of (1, r, s, residual) over bands from `first`, every lane of a tile."""
    acc[:] = _F(0.0)
    for k in range(first, w.size):
        wk, mk = w[k], m[k]
        o = _U(k * 3 * TILE)
        for t in range(TILE):
            u = _U(t)
            d, r, s = mk - tile[o + u], tile[o + u + _U(TILE)], tile[o + u + _U(2 * TILE)]
            wr, ws, wd = wk * r, wk * s, wk * d
            acc[u] += wr
            acc[u + _U(TILE)] += ws
            acc[u + _U(2 * TILE)] += wr * r
            acc[u + _U(3 * TILE)] += wr * s
            acc[u + _U(4 * TILE)] += ws * s
            acc[u + _U(5 * TILE)] += wd
            acc[u + _U(6 * TILE)] += wr * d
            acc[u + _U(7 * TILE)] += ws * d
            acc[u + _U(8 * TILE)] += wd * d


@njit(cache=True, nogil=True, error_model="numpy", fastmath=True)
def bounds(tile, bands, w, m, acc, star, limits, lines, log_prior, centre, first, out):
    """Bound the log posterior of every lane from above: chi-square, prior of model and distance.

    The length of the tuple `bands` is known to the compiler, which keeps the sums over so many
    bands in registers; sums over further bands go through `acc`. Returns the largest bound.
    """
    more = w.size > len(bands)
    if more:
        band_sums(tile, len(bands), w, m, acc)
    mu_w, mu_0, shift = _F(star[MU_WEIGHT]), _F(star[MU_DATA] - star[CENTRE]), _F(star[CENTRE])
    inv = _F(1.0) / (_F(star[WEIGHT]) + mu_w)
    av_prec, av_mean, rv_prec = _F(star[AV_PREC]), _F(star[AV_MEAN]), _F(star[RV_PREC])
    low, high = _F(limits[AV_LOW]), _F(limits[AV_HIGH])
    a1, b1, a2, b2, a3, b3 = lines[0], lines[1], lines[2], lines[3], lines[4], lines[5]
    a4, b4, a5, b5, a6, b6 = lines[6], lines[7], lines[8], lines[9], lines[10], lines[11]
    log_prior, centre = log_prior[first : first + TILE], centre[first : first + TILE]
    for t in range(TILE):
        u = _U(t)
        sr = ss = rr = rs = s2 = sd = rd = sy = dd = _F(0.0)
        if more:
            sr, ss, rr = acc[u], acc[u + _U(TILE)], acc[u + _U(2 * TILE)]
            rs, s2, sd = acc[u + _U(3 * TILE)], acc[u + _U(4 * TILE)], acc[u + _U(5 * TILE)]
            rd, sy, dd = acc[u + _U(6 * TILE)], acc[u + _U(7 * TILE)], acc[u + _U(8 * TILE)]
        for k in range(len(bands)):
            o = _U(k * 3 * TILE)
            d, r, s = m[k] - tile[o + u], tile[o + u + _U(TILE)], tile[o + u + _U(2 * TILE)]
            wr, ws, wd = w[k] * r, w[k] * s, w[k] * d
            sr, ss, rr, rs, s2 = sr + wr, ss + ws, rr + wr * r, rs + wr * s, s2 + ws * s
            sd, rd, sy, dd = sd + wd, rd + wr * d, sy + ws * d, dd + wd * d
        mu_d = mu_0 + centre[u]
        b0 = sd + mu_w * mu_d
        prr = rr - sr * sr * inv + av_prec
        prs = rs - sr * ss * inv
        qr = rd - sr * b0 * inv + av_prec * av_mean
        qs = sy - ss * b0 * inv
        chi = dd + mu_w * mu_d * mu_d + av_prec * av_mean * av_mean - b0 * b0 * inv
        a0 = min(max(qr / prr, _F(0.1)), high)
        over = _F(1.0) / (s2 - ss * ss * inv + rv_prec / (a0 * a0))
        # eliminate y, then cut A_V at its limits
        p = max(prr - prs * prs * over, _F(1e-4))
        q = qr - prs * qs * over
        av = min(max(q / p, low), high)
        y = (qs - prs * av) * over
        chi += -_F(2.0) * q * av + p * av * av - qs * qs * over
        mu = (b0 - sr * av - ss * y) * inv + shift - centre[u]
        line = min(min(a1 + b1 * mu, a2 + b2 * mu), min(a3 + b3 * mu, a4 + b4 * mu))
        line = min(line, min(a5 + b5 * mu, a6 + b6 * mu))
        out[u] = _F(-0.5) * chi + line + log_prior[u]
    top = _F(-1e30)
    for t in range(TILE):
        top = max(top, out[_U(t)])
    return top


@njit(cache=True, nogil=True, error_model="numpy")
def lane_sums(tile, t, w, m, acc):
    """Sum as `band_sums` does, over all bands, for one lane."""
    acc[:] = 0.0
    for k in range(w.size):
        o = k * 3 * TILE + t
        d, r, s = m[k] - tile[o], tile[o + TILE], tile[o + 2 * TILE]
        wr, ws, wd = w[k] * r, w[k] * s, w[k] * d
        acc[0] += wr
        acc[1] += ws
        acc[2] += wr * r
        acc[3] += wr * s
        acc[4] += ws * s
        acc[5] += wd
        acc[6] += wr * d
        acc[7] += ws * d
        acc[8] += wd * d


@njit(cache=True, nogil=True, error_model="numpy")
def log_mass(low, high):
    """Log probability of a standard normal between two limits."""
    if low > 0.0:
        low, high = -high, -low
    if low < -8.0 and high > 8.0:
        return 0.0
    if high < -5.0:  # the tail: x exp(-x**2 / 2) is easy to integrate
        x = -high
        return -0.5 * x * x - math.log(x * 2.5066282746) + math.log1p(-1.0 / (x * x + 2.0))
    mass = 0.5 * (math.erfc(-high / 1.4142135623730951) - math.erfc(-low / 1.4142135623730951))
    return math.log(max(mass, 1e-300))


@njit(cache=True, nogil=True, error_model="numpy")
def table_place(mu, limits, n):
    """Return index and fraction of a distance modulus in the tables of a sightline."""
    x = (mu - limits[MU0]) / limits[DMU]
    x = min(max(x, 0.0), n - 1.000001)
    i = int(x)
    return i, x - i


@njit(cache=True, nogil=True, error_model="numpy")
def log_distance_prior(mu, weights, table, limits):
    """Log of sum_c n_c(mu) q_c, the tables linear in the logarithm; -inf outside the limits."""
    n = table.shape[1]
    if mu < limits[MU0] or mu > limits[MU0] + (n - 1) * limits[DMU]:
        return -np.inf
    i, f = table_place(mu, limits, n)
    total = 0.0
    for c in range(table.shape[0]):
        total += weights[c] * math.exp(table[c, i] * (1.0 - f) + table[c, i + 1] * f)
    return math.log(total) if total > 0.0 else -np.inf


@njit(cache=True, nogil=True, error_model="numpy")
def scan_density(mu, weights, table, limits):
    """Sum n_c(mu) q_c over components, from tables of the densities over their scale."""
    i, f = table_place(mu, limits, table.shape[1])
    total = 0.0
    for c in range(table.shape[0] - 1):
        total += weights[c] * (table[c, i] * (1.0 - f) + table[c, i + 1] * f)
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def scan_prior(mu, weights, table, limits):
    """Log of `scan_density`, the scale included."""
    density = scan_density(mu, weights, table, limits)
    return math.log(max(density, 1e-300)) + table[table.shape[0] - 1, 0]


@njit(cache=True, nogil=True, error_model="numpy")
def upper_curve(table, largest, limits, plx, plx_ivar, spread):
    """Log of the largest density times a weak parallax, its peaks blurred by spread in mu."""
    n = table.shape[1]
    curve, out = np.empty(n), np.empty(n)
    for i in range(n):
        total = 0.0
        for c in range(table.shape[0] - 1):
            total += table[c, i] * largest[c]
        off = plx - math.exp(-0.5 * K * (limits[MU0] + i * limits[DMU]))
        curve[i] = math.log(max(total, 1e-300)) + table[table.shape[0] - 1, 0]
        curve[i] -= 0.5 * plx_ivar * off * off
    for i in range(n):
        out[i] = curve[i]
        for k in range(-5, 6):
            x = min(max(i + 0.5 * k * spread / limits[DMU], 0.0), n - 1.000001)
            j = int(x)
            value = curve[j] * (1.0 - x + j) + curve[j + 1] * (x - j) - 0.125 * k * k
            out[i] = max(out[i], value)
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def upper_lines(table, largest, limits, plx, plx_ivar, spread):
    """Return straight lines (a, b, a, b ...) whose minimum is nowhere below `upper_curve`.

    Tangents at three depths below the peak, on both sides.
    """
    curve = upper_curve(table, largest, limits, plx, plx_ivar, spread)
    peak = np.argmax(curve)
    n, top = curve.size, curve[peak]
    low, high = 0, n - 1
    while curve[low] < top - 40.0:
        low += 1
    while curve[high] < top - 40.0:
        high -= 1
    lines = np.empty(2 * N_LINES)
    for k in range(N_LINES):
        depth = (20.0, 4.0, 0.5)[k % 3]
        way = 1 if k >= N_LINES // 2 else -1
        end = high if way > 0 else low
        i = peak
        while i != end and curve[i] > top - depth:
            i += way
        before, after = max(i - 1, 0), min(i + 1, n - 1)
        slope = (curve[after] - curve[before]) / ((after - before) * limits[DMU])
        lines[2 * k + 1] = slope
        lines[2 * k] = -1e300
        for j in range(low, high + 1):
            lines[2 * k] = max(lines[2 * k], curve[j] - slope * (limits[MU0] + j * limits[DMU]))
    return lines


@njit(cache=True, nogil=True, error_model="numpy")
def scale_modulus(coef, flux, ivar, av, rv):
    """Distance modulus that scales a model to the fluxes, or to twice their noise if negative."""
    top, square = 0.0, 0.0
    for b in range(flux.size):
        if ivar[b] > 0.0:
            model = math.exp(min(-K * (coef[b, 0] + av * (coef[b, 1] + rv * coef[b, 2])), 80.0))
            top += ivar[b] * model * flux[b]
            square += ivar[b] * model * model
    return -math.log(max(top / square, 0.5 / math.sqrt(square))) / K


@njit(cache=True, nogil=True, error_model="numpy")
def flux_refined(coef, flux, ivar, limits, star, weights, table, mu, av, rv, steps):
    """Return chi-square in flux and parallax at the mode in (mu, A_V), mode and curvature."""
    chi, haa, hmm, hma = 0.0, 0.0, 0.0, 0.0
    if star[WEIGHT] == 0.0 and star[MU_WEIGHT] < 1e-2:  # no strong band or parallax: scale
        mu = scale_modulus(coef, flux, ivar, av, rv)
    for step in range(steps + 1):
        gm, ga = star[MU_WEIGHT] * (star[MU_DATA] - mu), star[AV_PREC] * (star[AV_MEAN] - av)
        hmm, haa, hma = star[MU_WEIGHT] + 1e-3, star[AV_PREC] + 1e-3, 0.0
        chi = (
            star[MU_WEIGHT] * (star[MU_DATA] - mu) ** 2 + star[AV_PREC] * (av - star[AV_MEAN]) ** 2
        )
        for b in range(flux.size):
            if ivar[b] > 0.0:
                vector = coef[b, 1] + rv * coef[b, 2]
                model = math.exp(min(-K * (coef[b, 0] + mu + av * vector), 80.0))
                res, jac = flux[b] - model, -K * model
                chi += ivar[b] * res * res
                gm += ivar[b] * jac * res
                ga += ivar[b] * jac * vector * res
                hmm += ivar[b] * jac * jac
                hma += ivar[b] * jac * jac * vector
                haa += ivar[b] * jac * jac * vector * vector
        if star[SCAN_PLX_IVAR] > 0.0:
            plx = math.exp(min(-0.5 * K * mu, 80.0))
            jac, res = -0.5 * K * plx, star[SCAN_PLX] - plx
            chi += star[SCAN_PLX_IVAR] * res * res
            gm += star[SCAN_PLX_IVAR] * jac * res
            hmm += star[SCAN_PLX_IVAR] * jac * jac
        if step == steps:
            break
        ahead = scan_prior(mu + 0.25, weights, table, limits)
        gm += 2.0 * (ahead - scan_prior(mu - 0.25, weights, table, limits))
        hmm += 0.05
        det = hmm * haa - hma * hma
        dm, da = (haa * gm - hma * ga) / det, (hmm * ga - hma * gm) / det
        da = min(max(da, -1.0), 1.0)
        new = min(max(av + da, limits[AV_LOW]), limits[AV_HIGH])
        dm = (gm - hma * (new - av)) / hmm
        mu, av = mu + min(max(dm, -1.0), 1.0), new
    return chi, mu, av, hmm, haa, hma


@njit(cache=True, nogil=True, error_model="numpy")
def solved(acc, star, limits, centre):
    """Return the solution of one lane: chi2, mu, A_V, var A, var mu, cov, log volume factor."""
    inv = 1.0 / (star[WEIGHT] + star[MU_WEIGHT])
    sr, ss = acc[0], acc[1]
    mu_d = star[MU_DATA] - star[CENTRE] + centre
    b0 = acc[5] + star[MU_WEIGHT] * mu_d
    prec, mean = star[AV_PREC], star[AV_MEAN]
    prr = acc[2] - sr * sr * inv + prec
    prs = acc[3] - sr * ss * inv
    qr = acc[6] - sr * b0 * inv + prec * mean
    qs = acc[7] - ss * b0 * inv
    chi = acc[8] + star[MU_WEIGHT] * mu_d * mu_d + prec * mean * mean
    chi -= b0 * b0 * inv
    a0 = min(max(qr / prr, 0.1), limits[AV_HIGH])
    pss = acc[4] - ss * ss * inv + star[RV_PREC] / (a0 * a0)
    p, q = prr - prs * prs / pss, qr - prs * qs / pss
    p = max(p, 1e-4)
    av = q / p
    chi -= q * av + qs * qs / pss
    y = (qs - prs * av) / pss
    mu = (b0 - sr * av - ss * y) * inv + star[CENTRE] - centre
    slope = -(sr - ss * prs / pss) * inv  # d mu / d A_V
    var_mu = inv + (ss * inv) ** 2 / pss + slope * slope / p
    volume = 0.5 * math.log(inv / (p * pss * a0 * a0))
    return chi, mu, av, 1.0 / p, var_mu, slope / p, volume, y / a0


@njit(cache=True, nogil=True, error_model="numpy")
def model_score(acc, star, limits, centre, coef, flux, ivar, weights, log_prior, table, dust):
    """Approximate log of prior times likelihood of one model, integrated over (mu, A_V, R_V)."""
    chi, mu, av, va, vm, cov, volume, drv = solved(acc, star, limits, centre)
    if star[FLUX_SCAN] > 0.0:
        rv = limits[RV_MEAN] + min(max(drv, -0.3), 0.3)
        start = min(max(av, limits[AV_LOW]), limits[AV_HIGH])
        mu += cov / va * (start - av)
        chi, mu, av, hmm, haa, hma = flux_refined(
            coef, flux, ivar, limits, star, weights, table, mu, start, rv, 5
        )
        det = max(hmm * haa - hma * hma, 1e-12)
        va, vm, cov = hmm / det, haa / det, -hma / det
        volume = -0.5 * math.log(det)
    elif star[SCAN_PLX_IVAR] > 0.0:  # linear about the photometric distance
        plx = math.exp(min(-0.5 * K * mu, 80.0))
        jac = -0.5 * K * plx
        s = jac * jac * vm + 1.0 / star[SCAN_PLX_IVAR]
        y = star[SCAN_PLX] - plx
        chi += y * y / s + math.log(s * star[SCAN_PLX_IVAR])
        gm, ga = jac * vm / s, jac * cov / s
        mu, av = mu + gm * y, av + ga * y
        vm, va, cov = vm - gm * jac * vm, va - ga * jac * cov, cov - gm * jac * cov
    value = -0.5 * chi + volume
    if star[DUST] > 0.0:
        i, f = table_place(mu, limits, table.shape[1])
        if np.isfinite(dust[1, i]):
            rise = (dust[0, i + 1] - dust[0, i]) / limits[DMU]
            s = max(va - 2.0 * rise * cov + rise * rise * vm, 0.0) + dust[1, i] ** 2
            y = dust[0, i] * (1.0 - f) + dust[0, i + 1] * f - av
            value -= 0.5 * (y * y / s + math.log(s))
            ga, gm = (va - rise * cov) / s, (cov - rise * vm) / s
            mu, av, va = mu + gm * y, av + ga * y, max(va - ga * (va - rise * cov), 1e-8)
    sd = math.sqrt(max(va, 1e-12))
    value += log_mass((limits[AV_LOW] - av) / sd, (limits[AV_HIGH] - av) / sd)
    inside = min(max(av, limits[AV_LOW]), limits[AV_HIGH])
    mu += cov / max(va, 1e-12) * (inside - av)
    return value + log_prior + scan_prior(mu, weights, table, limits), mu, inside


@njit(cache=True, nogil=True, error_model="numpy")
def mixed(x):
    """Mix the bits of a 64-bit integer (the finaliser of SplitMix64, Steele et al. 2014)."""
    x = (x ^ (x >> _U(30))) * _U(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> _U(27))) * _U(0x94D049BB133111EB)
    return x ^ (x >> _U(31))


@njit(cache=True, nogil=True, error_model="numpy")
def floor_of(values, top, scale, wanted):
    """Return how high bounds must be to be scored for sure, so that about `wanted` models are.

    From the bounds of a sample of the models, each standing for `scale` of them.
    """
    bins = np.zeros(96)
    width = 0.25
    for value in values:
        below = (top - value) / width
        if below < bins.size:
            bins[int(below)] += scale
    sure, lots = 0.0, 0.0
    for k in range(bins.size):
        lots += bins[k] * math.exp(-k * width)
    if lots >= wanted:
        return top + math.log(lots / wanted)
    for k in range(bins.size):  # a floor one bin lower: this bin for sure, better lots for others
        sure += bins[k]
        lots = (lots - bins[k]) * math.exp(width)
        if sure + lots > wanted:
            return top - k * width
    return top - bins.size * width


@njit(cache=True, nogil=True, error_model="numpy")
def survivors_of(out, sure, key, first, kept, halved):
    """List the lanes whose bounds are sure to be scored or win their lot, and their halvings."""
    n = 0
    for t in range(TILE):
        below = sure - out[t]
        if below < MOST_HALVINGS * _LN2:
            halvings = 0
            if below > 0.0:
                halvings = int(below / _LN2) + 1
                if mixed(key + _U(first + t)) & ((_U(1) << _U(halvings)) - _U(1)) != 0:
                    continue
            kept[n], halved[n] = t, halvings
            n += 1
    return n


@njit(cache=True, nogil=True, error_model="numpy")
def scan_block(
    tiles, bands, order, centre, coefficients, weights, log_prior, flux, ivar, w, m, stars, limits,
    lines, tables, dusts, keys, wanted, n_pilot, index, score, start, count,
):  # fmt: skip
    """Scan all tiles for a block of stars; keep models that matter, the others by lot.

    A model whose bound lies below the floor survives with a probability that halves with every
    ln 2 below it, and then stands for the others like it. The floor is what lets about `wanted`
    models survive, estimated from the first `n_pilot` tiles (tiles sample the grid evenly); without
    a pilot all are scored. Writes model index, score, (mu, A_V, minus log probability of survival)
    of the survivors of star s to row s and their number to ``count[s]``; those for which a row has
    no room are only counted.
    """
    acc = np.empty(N_SUMS * TILE, np.float32)
    out = np.empty(TILE, np.float32)
    kept, halved = np.empty(TILE, np.int64), np.empty(TILE, np.int64)
    sums = np.empty(N_SUMS)
    floor = np.full(stars.shape[0], -1e30)
    pilot = np.empty(n_pilot * TILE, np.float32)
    for s in range(stars.shape[0]):
        best = -1e30
        for i in range(n_pilot):
            top = bounds(
                tiles[i], bands, w[s], m[s], acc, stars[s], limits, lines[s], log_prior, centre,
                i * TILE, out,
            )  # fmt: skip
            best = max(best, top)
            pilot[i * TILE : (i + 1) * TILE] = out
        if n_pilot > 0:
            floor[s] = floor_of(pilot, best, tiles.shape[0] / n_pilot, wanted)
    for i in range(tiles.shape[0]):
        first = i * TILE
        for s in range(stars.shape[0]):
            top = bounds(
                tiles[i], bands, w[s], m[s], acc, stars[s], limits, lines[s], log_prior, centre,
                first, out,
            )  # fmt: skip
            if top < floor[s] - MOST_HALVINGS * _LN2:
                continue
            for k in range(survivors_of(out, floor[s], keys[s], first, kept, halved)):
                t = kept[k]
                j = order[first + t]
                lane_sums(tiles[i], t, w[s], m[s], sums)
                value, mu, av = model_score(
                    sums, stars[s], limits, centre[first + t], coefficients[j], flux[s], ivar[s],
                    weights[first + t], log_prior[first + t], tables[s], dusts[s],
                )  # fmt: skip
                if value > -1e30:
                    n = count[s]
                    if n < index.shape[1]:
                        index[s, n], score[s, n] = j, value
                        start[s, n, 0], start[s, n, 1], start[s, n, 2] = mu, av, halved[k] * _LN2
                    count[s] = n + 1
