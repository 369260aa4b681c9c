"""Compiled loops over sources: mask bits and local backgrounds. Arrays in, arrays out."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True)
def mask_or(mask, x, y, a, b, theta, out):  # type: ignore[no-untyped-def]
    """OR of the mask over the pixels that an ellipse touches (to half a pixel)."""
    ny, nx = mask.shape
    for i in range(x.size):
        value = np.uint32(0)
        if np.isfinite(x[i]) and np.isfinite(y[i]):
            # an ellipse grown by half a pixel holds the centre of nearly every pixel it touches
            ai, bi = a[i] + 0.5, b[i] + 0.5
            c, s = np.cos(theta[i]), np.sin(theta[i])
            hx = np.sqrt((ai * c) ** 2 + (bi * s) ** 2)
            hy = np.sqrt((ai * s) ** 2 + (bi * c) ** 2)
            x0 = max(0, int(np.ceil(max(x[i] - hx, -1.0))))
            x1 = min(nx - 1, int(np.floor(min(x[i] + hx, nx + 1.0))))
            y0 = max(0, int(np.ceil(max(y[i] - hy, -1.0))))
            y1 = min(ny - 1, int(np.floor(min(y[i] + hy, ny + 1.0))))
            for iy in range(y0, y1 + 1):
                for ix in range(x0, x1 + 1):
                    if mask[iy, ix] == 0:
                        continue
                    dx, dy = ix - x[i], iy - y[i]
                    u = (dx * c + dy * s) / ai
                    v = (-dx * s + dy * c) / bi
                    if u * u + v * v <= 1.0:
                        value |= mask[iy, ix]
        out[i] = value


@njit(cache=True)
def _clipped(values, n, kappa):  # type: ignore[no-untyped-def]
    """Sigma-clipped median-centred mean of the first n values: (mean, standard error, n kept)."""
    kept = np.sort(values[:n])
    lo, hi = 0, n
    for _ in range(10):
        m = hi - lo
        if m < 3:
            break
        middle = 0.5 * (kept[lo + (m - 1) // 2] + kept[lo + m // 2])
        total, squares = 0.0, 0.0
        for k in range(lo, hi):
            d = kept[k] - middle
            total += d
            squares += d * d
        sigma = np.sqrt(max(squares / m - (total / m) ** 2, 0.0))
        l2, h2 = lo, hi
        while l2 < h2 and kept[l2] < middle - kappa * sigma:
            l2 += 1
        while h2 > l2 and kept[h2 - 1] > middle + kappa * sigma:
            h2 -= 1
        if l2 == lo and h2 == hi:
            break
        lo, hi = l2, h2
    m = hi - lo
    if m < 1:
        return np.nan, np.nan, 0
    mean = 0.0
    for k in range(lo, hi):
        mean += kept[k]
    mean /= m
    squares = 0.0
    for k in range(lo, hi):
        squares += (kept[k] - mean) ** 2
    if m < 2:
        return mean, np.nan, m
    return mean, np.sqrt(squares / (m - 1) / m), m


@njit(cache=True)
def annulus_levels(  # type: ignore[no-untyped-def]
    image, bad, ratio, use_ratio, x, y, a, b, theta, inner, outer, kappa, level, error, count
):
    """Clipped mean of surface brightness in elliptical annuli inner..outer times (a, b)."""
    ny, nx = image.shape
    for i in range(x.size):
        level[i], error[i], count[i] = np.nan, np.nan, 0
        if not (np.isfinite(x[i]) and np.isfinite(y[i])):
            continue
        ao, bo = a[i] * outer, b[i] * outer
        c, s = np.cos(theta[i]), np.sin(theta[i])
        hx = np.sqrt((ao * c) ** 2 + (bo * s) ** 2)
        hy = np.sqrt((ao * s) ** 2 + (bo * c) ** 2)
        x0 = max(0, int(np.ceil(max(x[i] - hx, -1.0))))
        x1 = min(nx - 1, int(np.floor(min(x[i] + hx, nx + 1.0))))
        y0 = max(0, int(np.ceil(max(y[i] - hy, -1.0))))
        y1 = min(ny - 1, int(np.floor(min(y[i] + hy, ny + 1.0))))
        if x1 < x0 or y1 < y0:
            continue
        values = np.empty((x1 - x0 + 1) * (y1 - y0 + 1))
        n = 0
        for iy in range(y0, y1 + 1):
            for ix in range(x0, x1 + 1):
                if bad[iy, ix]:
                    continue
                dx, dy = ix - x[i], iy - y[i]
                u = (dx * c + dy * s) / a[i]
                v = (-dx * s + dy * c) / b[i]
                r2 = u * u + v * v
                if r2 < inner * inner or r2 > outer * outer:
                    continue
                value = image[iy, ix]
                values[n] = value / ratio[iy, ix] if use_ratio else value
                n += 1
        if n:
            level[i], error[i], count[i] = _clipped(values, n, kappa)


@njit(cache=True)
def _psf_sums(  # type: ignore[no-untyped-def]
    image, variance, bad, ratio, use_ratio, stamp, x0, y0, weighted
):
    """Sums over one stamp of PSF p, sky q and data d: weighted products, and with V and p.

    Returns (pp, pb, bb, pd, bd), (vpp, vpb, vbb), (spp, spb, sbb), light of the stamp, light on
    usable pixels, number of those, whether the stamp runs off the image.
    """
    ny, nx = image.shape
    m = stamp.shape[0]
    pp = pb = bb = pd = bd = 0.0
    vpp = vpb = vbb = 0.0
    spp = spb = sbb = 0.0
    total, seen, n, off = 0.0, 0.0, 0, False
    for sy in range(m):
        iy = y0 + sy
        for sx in range(m):
            ix = x0 + sx
            p = stamp[sy, sx]
            total += p
            if iy < 0 or iy >= ny or ix < 0 or ix >= nx:
                off = True
                continue
            if bad[iy, ix]:
                continue
            v = variance[iy, ix]
            w = 1.0 / v if weighted else 1.0
            q = ratio[iy, ix] if use_ratio else 1.0
            d = image[iy, ix]
            seen += p
            n += 1
            pp += w * p * p
            pb += w * p * q
            bb += w * q * q
            pd += w * p * d
            bd += w * q * d
            u = w * w * v
            vpp += u * p * p
            vpb += u * p * q
            vbb += u * q * q
            s = w * w * p
            spp += s * p * p
            spb += s * p * q
            sbb += s * q * q
    return (pp, pb, bb, pd, bd), (vpp, vpb, vbb), (spp, spb, sbb), total, seen, n, off


@njit(cache=True)
def _psf_chi2(  # type: ignore[no-untyped-def]
    image, variance, bad, ratio, use_ratio, stamp, x0, y0, f, b
):
    """Sum of squared residuals over variances for flux f and sky b."""
    ny, nx = image.shape
    total = 0.0
    for sy in range(stamp.shape[0]):
        iy = y0 + sy
        if iy < 0 or iy >= ny:
            continue
        for sx in range(stamp.shape[1]):
            ix = x0 + sx
            if ix < 0 or ix >= nx or bad[iy, ix]:
                continue
            q = ratio[iy, ix] if use_ratio else 1.0
            r = image[iy, ix] - f * stamp[sy, sx] - b * q
            total += r * r / variance[iy, ix]
    return total


@njit(cache=True)
def psf_fits(  # type: ignore[no-untyped-def]
    image, variance, bad, ratio, use_ratio, stamps, x_min, y_min, weighted, fit_background,
    flux, flux_var, level, level_var, chi2, photons, used, lost, cut,
):  # fmt: skip
    """Linear fits of one amplitude (and one constant in surface brightness) a source.

    The parameters solve the normal equations with weights w = 1/V (weighted) or 1; their variance
    is the sandwich A^-1 (sum w^2 V m m^T) A^-1, right for either weighting. ``photons`` is the part
    of the flux's variance that the star's own photons make, per unit flux and gain: the same
    sandwich with the PSF in place of V.
    """
    for i in range(stamps.shape[0]):
        flux[i] = flux_var[i] = level[i] = level_var[i] = chi2[i] = photons[i] = np.nan
        stamp, x0, y0 = stamps[i], x_min[i], y_min[i]
        products, vs, ss, total, seen, n, off = _psf_sums(
            image, variance, bad, ratio, use_ratio, stamp, x0, y0, weighted
        )
        pp, pb, bb, pd, bd = products
        used[i], lost[i], cut[i] = n, 1.0, off
        if not np.isfinite(total) or total == 0.0:
            continue
        lost[i] = 1.0 - seen / total
        if n < (2 if fit_background else 1) or not pp > 0.0:
            continue
        b = 0.0
        if fit_background:
            det = pp * bb - pb * pb
            if not det > 1e-12 * pp * bb:
                continue
            f = (bb * pd - pb * bd) / det
            b = (pp * bd - pb * pd) / det
            d2 = det * det
            flux_var[i] = (bb * bb * vs[0] - 2 * bb * pb * vs[1] + pb * pb * vs[2]) / d2
            level_var[i] = (pp * pp * vs[2] - 2 * pp * pb * vs[1] + pb * pb * vs[0]) / d2
            photons[i] = (bb * bb * ss[0] - 2 * bb * pb * ss[1] + pb * pb * ss[2]) / d2
            level[i] = b
        else:
            f = pd / pp
            flux_var[i] = vs[0] / (pp * pp)
            photons[i] = ss[0] / (pp * pp)
        flux[i] = f
        chi2[i] = _psf_chi2(image, variance, bad, ratio, use_ratio, stamp, x0, y0, f, b)
