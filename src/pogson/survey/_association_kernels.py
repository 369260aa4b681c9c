# mypy: disable-error-code="no-untyped-def"
"""Compiled matching on the sphere: positions sorted by zones of declination, then right ascension.

Angles are degrees, right ascensions in [0, 360). ``limit`` is the squared chord of the radius.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_RAD = np.pi / 180.0


@njit(cache=True, nogil=True)
def chord2(ra1, dec1, ra2, dec2):
    """Squared chord between two directions, accurate for small angles."""
    a = np.sin(0.5 * (dec2 - dec1) * _RAD)
    b = np.sin(0.5 * (ra2 - ra1) * _RAD)
    return 4.0 * (a * a + np.cos(dec1 * _RAD) * np.cos(dec2 * _RAD) * b * b)


@njit(cache=True, nogil=True)
def ra_reach(dec, radius):
    """Largest difference of right ascension within a radius of a declination (180: all)."""
    if abs(dec) + radius >= 89.999:
        return 180.0
    return np.arcsin(min(1.0, np.sin(radius * _RAD) / np.cos(dec * _RAD))) / _RAD * (1.0 + 1e-9)


@njit(cache=True, nogil=True)
def _root(parent, a):
    while parent[a] != a:
        parent[a] = parent[parent[a]]
        a = parent[a]
    return a


@njit(cache=True, nogil=True)
def _lower(ra, lo, hi, value):
    """First index in [lo, hi) with ra >= value."""
    while lo < hi:
        mid = (lo + hi) // 2
        if ra[mid] < value:
            lo = mid + 1
        else:
            hi = mid
    return lo


@njit(cache=True, nogil=True)
def _link(parent, i, a, b, ra, dec, limit):
    """Join i with every position of [a, b) that is near; the root is always the smaller index."""
    for j in range(a, b):
        if chord2(ra[i], dec[i], ra[j], dec[j]) <= limit:
            p, q = _root(parent, i), _root(parent, j)
            if p < q:
                parent[q] = p
            elif q < p:
                parent[p] = q


@njit(cache=True, nogil=True)
def friends(zone_start, zone, ra, dec, radius, limit, parent):
    """Friends of friends: sets ``parent`` so that its roots are the first members of groups."""
    n = ra.size
    for i in range(n):
        reach = ra_reach(dec[i], radius)
        z = zone[i]
        for other in range(z, min(z + 2, zone_start.size - 1)):
            lo, hi = zone_start[other], zone_start[other + 1]
            if lo == hi:
                continue
            if reach >= 180.0:
                _link(parent, i, max(lo, i + 1) if other == z else lo, hi, ra, dec, limit)
                continue
            if other == z:
                a = i + 1
                b = a
                while b < hi and ra[b] - ra[i] <= reach:
                    b += 1
                _link(parent, i, a, b, ra, dec, limit)
            else:
                a = _lower(ra, lo, hi, ra[i] - reach)
                b = a
                while b < hi and ra[b] - ra[i] <= reach:
                    b += 1
                _link(parent, i, a, b, ra, dec, limit)
            if ra[i] + reach >= 360.0:  # over the zero of right ascension
                b = _lower(ra, lo, hi, ra[i] + reach - 360.0 + 1e-12)
                _link(parent, i, lo, min(b, hi), ra, dec, limit)
            if other != z and ra[i] - reach < 0.0:
                a = _lower(ra, lo, hi, ra[i] - reach + 360.0)
                _link(parent, i, a, hi, ra, dec, limit)
    for i in range(n):
        parent[i] = _root(parent, i)


@njit(cache=True, nogil=True)
def _best(i, a, b, ra, dec, x, y, skip, found, best):
    for j in range(a, b):
        if j == skip:
            continue
        c = chord2(x, y, ra[j], dec[j])
        if c < best or (c == best and found >= 0 and j < found):
            best = c
            found = j
    return found, best


@njit(cache=True, nogil=True)
def nearest(first, last, x, y, zone_start, zone_height, ra, dec, radius, limit, same, out, out2):
    """Nearest sorted position to each query first ... last - 1, within the radius (-1: none).

    With ``same`` the queries are the sorted positions themselves and a position is not its own
    neighbour. ``out2`` receives squared chords.
    """
    zones = zone_start.size - 1
    for i in range(first, last):
        reach = ra_reach(y[i], radius)
        z0 = int(np.floor((y[i] + 90.0 - radius) / zone_height))
        z1 = int(np.floor((y[i] + 90.0 + radius) / zone_height))
        found, best = -1, np.inf
        skip = i if same else -1
        for z in range(max(z0, 0), min(z1, zones - 1) + 1):
            lo, hi = zone_start[z], zone_start[z + 1]
            if lo == hi:
                continue
            if reach >= 180.0:
                found, best = _best(i, lo, hi, ra, dec, x[i], y[i], skip, found, best)
                continue
            a = _lower(ra, lo, hi, x[i] - reach)
            b = _lower(ra, a, hi, x[i] + reach + 1e-12)
            found, best = _best(i, a, b, ra, dec, x[i], y[i], skip, found, best)
            if x[i] - reach < 0.0:
                a = _lower(ra, lo, hi, x[i] - reach + 360.0)
                found, best = _best(i, a, hi, ra, dec, x[i], y[i], skip, found, best)
            if x[i] + reach >= 360.0:
                b = _lower(ra, lo, hi, x[i] + reach - 360.0 + 1e-12)
                found, best = _best(i, lo, b, ra, dec, x[i], y[i], skip, found, best)
        if best > limit:
            found = -1
        out[i] = found
        out2[i] = best


@njit(cache=True, nogil=True)
def summarise(start, ra, dec, exposure, mean_ra, mean_dec, count, exposures, extent2, kept, w):
    """Mean place, numbers, extent and duplicates of groups of detections sorted by exposure.

    ``kept`` is 0 for detections that are further from the mean than another one of the same
    exposure (ties: the earlier row).
    """
    for s in range(start.size - 1):
        lo, hi = start[s], start[s + 1]
        if lo == hi:
            continue
        x = 0.0
        y = 0.0
        total = 0.0
        for i in range(lo, hi):
            d = ra[i] - ra[lo]
            if d > 180.0:
                d -= 360.0
            elif d < -180.0:
                d += 360.0
            x += w[i] * d
            y += w[i] * (dec[i] - dec[lo])
            total += w[i]
        mean_ra[s] = (ra[lo] + x / total) % 360.0
        mean_dec[s] = dec[lo] + y / total
        count[s] = hi - lo
        far = 0.0
        n = 0
        best = lo
        nearest_c = np.inf
        for i in range(lo, hi):
            c = chord2(mean_ra[s], mean_dec[s], ra[i], dec[i])
            far = max(far, c)
            kept[i] = 0
            if i == lo or exposure[i] != exposure[i - 1]:
                if i > lo:
                    kept[best] = 1
                n += 1
                best = i
                nearest_c = c
            elif c < nearest_c:
                best = i
                nearest_c = c
        kept[best] = 1
        exposures[s] = n
        extent2[s] = far
