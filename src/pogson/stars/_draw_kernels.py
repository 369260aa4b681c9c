"""Compiled refinement of the models that survive the scan, in flux, and importance sampling."""

# Kernels take plain arrays and are typed by the compiler.
# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import math

import numpy as np
from numba import njit

from pogson.stars._scan_kernels import (
    AV_HIGH,
    AV_LOW,
    DMU,
    PLX,
    PLX_IVAR,
    RV_HIGH,
    RV_LOW,
    RV_MEAN,
    RV_PREC,
    K,
    log_distance_prior,
    log_mass,
    scan_density,
    table_place,
)

WIDE = 3.0
NARROW = 1.1
WIDE_SHARE = 0.1
_LOG_2PI = math.log(2.0 * math.pi)


@njit(cache=True, nogil=True, error_model="numpy")
def normal_quantile(p):
    """Quantile of the standard normal (Acklam's rational approximation, relative error 1e-9)."""
    if p <= 0.0:
        return -40.0
    if p >= 1.0:
        return 40.0
    low = 0.02425
    if p < low or p > 1.0 - low:
        q = math.sqrt(-2.0 * math.log(p if p < low else 1.0 - p))
        x = (
            ((((-7.784894002430293e-03 * q - 3.223964580411365e-01) * q - 2.400758277161838e00) * q
              - 2.549732539343734e00) * q + 4.374664141464968e00) * q + 2.938163982698783e00
        ) / ((((7.784695709041462e-03 * q + 3.224671290700398e-01) * q + 2.445134137142996e00) * q
              + 3.754408661907416e00) * q + 1.0)  # fmt: skip
        return x if p < low else -x
    q = p - 0.5
    r = q * q
    return (
        (((((-3.969683028665376e01 * r + 2.209460984245205e02) * r - 2.759285104469687e02) * r
           + 1.383577518672690e02) * r - 3.066479806614716e01) * r + 2.506628277459239e00) * q
    ) / (((((-5.447609879822406e01 * r + 1.615858368580409e02) * r - 1.556989798598866e02) * r
           + 6.680131188771972e01) * r - 1.328068155288572e01) * r + 1.0)  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def cut_normal(u, low, high):
    """Draw from a standard normal cut to (low, high); beyond 5 sigma from its tail's envelope."""
    if low > 5.0:
        return cut_normal_tail(u, low, high)
    if high < -5.0:
        return -cut_normal_tail(u, -high, -low)
    if low > 0.0:
        return -cut_normal_body(u, -high, -low)
    return cut_normal_body(u, low, high)


@njit(cache=True, nogil=True, error_model="numpy")
def cut_normal_tail(u, low, high):
    """Draw from x exp(-x**2 / 2) between two positive limits."""
    span = -math.expm1(-0.5 * (high * high - low * low))
    return math.sqrt(low * low - 2.0 * math.log1p(-u * span))


@njit(cache=True, nogil=True, error_model="numpy")
def cut_normal_body(u, low, high):
    """Draw by the quantile function; the lower limit must not be far up."""
    if low < -8.0 and high > 8.0:
        return normal_quantile(u)
    a = 0.5 * math.erfc(-low / 1.4142135623730951)
    b = 0.5 * math.erfc(-high / 1.4142135623730951)
    return min(max(normal_quantile(a + u * (b - a)), low), high)


@njit(cache=True, nogil=True, error_model="numpy")
def cut_normal_log_density(x, low, high):
    """Log density of what `cut_normal` draws."""
    if low > 5.0:
        span = -math.expm1(-0.5 * (high * high - low * low))
        return math.log(x) - 0.5 * (x * x - low * low) - math.log(span)
    if high < -5.0:
        span = -math.expm1(-0.5 * (low * low - high * high))
        return math.log(-x) - 0.5 * (x * x - high * high) - math.log(span)
    return -0.5 * (x * x + _LOG_2PI) - log_mass(low, high)


@njit(cache=True, nogil=True, error_model="numpy")
def chi_square(coef, flux, ivar, plx, mu, av, rv):
    """Chi-square of photometry in flux and of the parallax."""
    chi = 0.0
    for b in range(flux.size):
        if ivar[b] > 0.0:
            mag = coef[b, 0] + mu + av * (coef[b, 1] + rv * coef[b, 2])
            res = flux[b] - math.exp(min(-K * mag, 80.0))
            chi += ivar[b] * res * res
    if plx[1] > 0.0:
        res = plx[0] - math.exp(min(-0.5 * K * mu, 80.0))
        chi += plx[1] * res * res
    return chi


@njit(cache=True, nogil=True, error_model="numpy")
def log_dust(mu, av, dust, limits):
    """Log density of A_V at a distance: a Gaussian cut and normalised, or flat."""
    n = dust.shape[1]
    i, f = table_place(mu, limits, n)
    value = dust[2, i] * (1.0 - f) + dust[2, i + 1] * f
    if np.isfinite(dust[1, i]) and np.isfinite(dust[1, i + 1]):
        mean = dust[0, i] * (1.0 - f) + dust[0, i + 1] * f
        sd = dust[1, i] * (1.0 - f) + dust[1, i + 1] * f
        return log_gauss_cut(av, mean, sd, limits)
    return value


@njit(cache=True, nogil=True, error_model="numpy")
def log_gauss_cut(av, mean, sd, limits):
    """Log density of a Gaussian cut to the limits of A_V."""
    z = (av - mean) / sd
    mass = log_mass((limits[AV_LOW] - mean) / sd, (limits[AV_HIGH] - mean) / sd)
    return -0.5 * (z * z + _LOG_2PI) - math.log(sd) - mass


@njit(cache=True, nogil=True, error_model="numpy")
def curvature(coef, flux, ivar, plx, star, limits, weights, scan, dust, x, grad, prec):
    """Gradient and Gauss-Newton precision of the log posterior at (mu, A_V, R_V); chi2 there."""
    mu, av, rv = x[0], x[1], x[2]
    g0, g1, g2, p00, p01, p02, p11, p12, p22 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    chi = 0.0
    for b in range(flux.size):
        iv = ivar[b]
        if iv > 0.0:
            vec = coef[b, 1] + rv * coef[b, 2]
            model = math.exp(min(-K * (coef[b, 0] + mu + av * vec), 80.0))
            res, jac, turn = flux[b] - model, -K * model, av * coef[b, 2]
            pull, weight = iv * jac * res, iv * jac * jac
            chi += iv * res * res
            g0 += pull
            g1 += pull * vec
            g2 += pull * turn
            p00 += weight
            p01 += weight * vec
            p02 += weight * turn
            p11 += weight * vec * vec
            p12 += weight * vec * turn
            p22 += weight * turn * turn
    if plx[1] > 0.0:
        model = math.exp(min(-0.5 * K * mu, 80.0))
        jac, res = -0.5 * K * model, plx[0] - model
        chi += plx[1] * res * res
        g0 += plx[1] * jac * res
        p00 += plx[1] * jac * jac
    grad[0], grad[1], grad[2] = g0, g1, g2 + star[RV_PREC] * (limits[RV_MEAN] - rv)
    prec[0, 0], prec[0, 1], prec[0, 2] = p00 + 0.01, p01, p02
    prec[1, 1] = p11 + 12.0 / (limits[AV_HIGH] - limits[AV_LOW]) ** 2
    prec[1, 2], prec[2, 2] = p12, p22 + star[RV_PREC]
    prior_curvature(mu, av, limits, weights, scan, dust, grad, prec)
    prec[1, 0], prec[2, 0], prec[2, 1] = prec[0, 1], prec[0, 2], prec[1, 2]
    return chi


@njit(cache=True, nogil=True, error_model="numpy")
def prior_curvature(mu, av, limits, weights, scan, dust, grad, prec):
    """Add gradient and curvature of the priors of distance and extinction."""
    h = 0.25
    near = scan_density(mu - h, weights, scan, limits)
    here = scan_density(mu, weights, scan, limits)
    far = scan_density(mu + h, weights, scan, limits)
    if here > 1e-30:
        slope = min(max((far - near) / (2.0 * h * here), -5.0), 5.0)
        grad[0] += slope
        prec[0, 0] += max(slope * slope - (far - 2.0 * here + near) / (h * h * here), 0.0)
    i, f = table_place(mu, limits, dust.shape[1])
    if np.isfinite(dust[1, i]) and np.isfinite(dust[1, i + 1]):
        rise = (dust[0, i + 1] - dust[0, i]) / limits[DMU]
        res = dust[0, i] * (1.0 - f) + dust[0, i + 1] * f - av
        iv = 1.0 / dust[1, i] ** 2
        grad[1] += iv * res
        grad[0] -= iv * res * rise
        prec[1, 1] += iv
        prec[0, 1] -= iv * rise
        prec[0, 0] += iv * rise * rise


@njit(cache=True, nogil=True, error_model="numpy")
def inverse3(p, out):
    """Inverse of a symmetric 3x3 matrix; returns its determinant."""
    c00 = p[1, 1] * p[2, 2] - p[1, 2] * p[1, 2]
    c01 = p[0, 2] * p[1, 2] - p[0, 1] * p[2, 2]
    c02 = p[0, 1] * p[1, 2] - p[0, 2] * p[1, 1]
    det = p[0, 0] * c00 + p[0, 1] * c01 + p[0, 2] * c02
    out[0, 0], out[0, 1], out[0, 2] = c00 / det, c01 / det, c02 / det
    out[1, 1] = (p[0, 0] * p[2, 2] - p[0, 2] * p[0, 2]) / det
    out[1, 2] = (p[0, 1] * p[0, 2] - p[0, 0] * p[1, 2]) / det
    out[2, 2] = (p[0, 0] * p[1, 1] - p[0, 1] * p[0, 1]) / det
    out[1, 0], out[2, 0], out[2, 1] = out[0, 1], out[0, 2], out[1, 2]
    return det


@njit(cache=True, nogil=True, error_model="numpy")
def refined(
    coef, flux, ivar, plx, star, limits, weights, scan, dust, x, target, prec, cov, grad
):  # fmt: skip
    """Move x to the mode within the limits; give the Gaussian there. Returns the mode's chi2."""
    chi = 0.0
    for attempt in range(5):
        chi = curvature(coef, flux, ivar, plx, star, limits, weights, scan, dust, x, grad, prec)
        inverse3(prec, cov)
        if attempt == 4:
            break
        da = cov[1, 0] * grad[0] + cov[1, 1] * grad[1] + cov[1, 2] * grad[2]
        new = min(max(x[1] + min(max(da, -1.5), 1.5), limits[AV_LOW]), limits[AV_HIGH])
        da = new - x[1]
        # the best (mu, R_V) at the A_V taken
        g0, g2 = grad[0] - prec[0, 1] * da, grad[2] - prec[2, 1] * da
        det = prec[0, 0] * prec[2, 2] - prec[0, 2] ** 2
        dm, dr = (
            (prec[2, 2] * g0 - prec[0, 2] * g2) / det,
            (prec[0, 0] * g2 - prec[0, 2] * g0) / det,
        )
        if prec[0, 0] * dm * dm + prec[1, 1] * da * da + prec[2, 2] * dr * dr < 0.04:
            break  # the step left to the mode is taken by the target below
        x[0] += min(max(dm, -1.0), 1.0)
        x[1] = new
        x[2] = min(max(x[2] + min(max(dr, -0.5), 0.5), limits[RV_LOW]), limits[RV_HIGH])
    for i in range(3):
        target[i] = x[i] + cov[i, 0] * grad[0] + cov[i, 1] * grad[1] + cov[i, 2] * grad[2]
    inside = min(max(target[2], limits[RV_LOW]), limits[RV_HIGH])
    target[0] -= prec[0, 2] / prec[0, 0] * (inside - target[2])
    target[2] = inside
    return chi


@njit(cache=True, nogil=True, error_model="numpy")
def proposal_log_density(x, target, prec, cov, limits, scale):
    """Log density of the proposal of one scale: A_V cut, R_V given A_V, mu given both."""
    sd = math.sqrt(cov[1, 1]) * scale
    low, high = (limits[AV_LOW] - target[1]) / sd, (limits[AV_HIGH] - target[1]) / sd
    value = cut_normal_log_density((x[1] - target[1]) / sd, low, high) - math.log(sd)
    da = x[1] - target[1]
    dr = x[2] - target[2]
    if star_free(prec):
        mean = cov[1, 2] / cov[1, 1] * da
        sd = math.sqrt(cov[2, 2] - cov[1, 2] ** 2 / cov[1, 1]) * scale
        value -= 0.5 * ((dr - mean) / sd) ** 2 + math.log(sd) + 0.5 * _LOG_2PI
    else:
        dr = 0.0
    mean = -(prec[0, 1] * da + prec[0, 2] * dr) / prec[0, 0]
    sd = scale / math.sqrt(prec[0, 0])
    return value - 0.5 * ((x[0] - target[0] - mean) / sd) ** 2 - math.log(sd) - 0.5 * _LOG_2PI


@njit(cache=True, nogil=True, error_model="numpy")
def star_free(prec):
    """Whether R_V is free: a fixed one has a precision beyond measure."""
    return prec[2, 2] < 1e11


@njit(cache=True, nogil=True, error_model="numpy")
def propose(u, z, target, prec, cov, limits, x):
    """Draw (mu, A_V, R_V) from a narrow or, now and then, a wide Gaussian. Log density."""
    scale = WIDE if u[0] < WIDE_SHARE else NARROW
    sd = math.sqrt(cov[1, 1]) * scale
    low, high = (limits[AV_LOW] - target[1]) / sd, (limits[AV_HIGH] - target[1]) / sd
    da = cut_normal(u[1], low, high) * sd
    dr = 0.0
    if star_free(prec):
        sd = math.sqrt(cov[2, 2] - cov[1, 2] ** 2 / cov[1, 1]) * scale
        dr = cov[1, 2] / cov[1, 1] * da + sd * z[0]
    mean = -(prec[0, 1] * da + prec[0, 2] * dr) / prec[0, 0]
    x[0] = target[0] + mean + scale / math.sqrt(prec[0, 0]) * z[1]
    x[1] = min(max(target[1] + da, limits[AV_LOW]), limits[AV_HIGH])
    x[2] = target[2] + dr if star_free(prec) else limits[RV_MEAN]
    narrow = proposal_log_density(x, target, prec, cov, limits, NARROW) + math.log1p(-WIDE_SHARE)
    wide = proposal_log_density(x, target, prec, cov, limits, WIDE) + math.log(WIDE_SHARE)
    top = max(narrow, wide)
    return top + math.log(math.exp(narrow - top) + math.exp(wide - top))


@njit(cache=True, nogil=True, error_model="numpy")
def sample_models(
    index, score, start, n, coefficients, weights, log_prior, flux, ivar, star, limits, table, scan,
    dust, uniforms, normals, offset, model, params, log_like, log_prior_out, log_weight,
):  # fmt: skip
    """Draw models by systematic sampling of their scores, refine each, draw and weigh parameters.

    Returns the smallest chi-square of the models drawn, and the relative variance that the lots of
    the scan add.
    """
    plx = np.array([star[PLX], star[PLX_IVAR]])
    best = score[0] + start[0, 2]
    for i in range(n):
        best = max(best, score[i] + start[i, 2])
    total, square = 0.0, 0.0
    for i in range(n):
        share = math.exp(score[i] + start[i, 2] - best)
        total += share
        square += share * share * -math.expm1(-start[i, 2])
    n_draws = uniforms.shape[0]
    x, y, target, grad = np.empty(3), np.empty(3), np.empty(3), np.empty(3)
    prec, cov = np.empty((3, 3)), np.empty((3, 3))
    step = total / n_draws
    position, passed, lowest, k = offset * step, 0.0, np.inf, 0
    for i in range(n):
        share = math.exp(score[i] + start[i, 2] - best)
        passed += share
        if k < n_draws and position < passed:
            j = index[i]
            x[0], x[1], x[2] = start[i, 0], start[i, 1], limits[RV_MEAN]
            chi = refined(
                coefficients[j], flux, ivar, plx, star, limits, weights[j], scan, dust, x, target,
                prec, cov, grad,
            )  # fmt: skip
            lowest = min(lowest, chi)
        while k < n_draws and position < passed:
            g = propose(uniforms[k], normals[k], target, prec, cov, limits, y)
            like = -0.5 * chi_square(coefficients[j], flux, ivar, plx, y[0], y[1], y[2])
            prior = log_distance_prior(y[0], weights[j], table, limits) + log_prior[j]
            if limits[RV_LOW] <= y[2] <= limits[RV_HIGH]:
                if star_free(prec):
                    prior -= 0.5 * star[RV_PREC] * (y[2] - limits[RV_MEAN]) ** 2
            else:
                prior = -np.inf
            prior += log_dust(y[0], y[1], dust, limits)
            model[k], log_like[k], log_prior_out[k] = j, like, prior
            params[k, 0], params[k, 1], params[k, 2] = y[0], y[1], y[2]
            log_weight[k] = like + prior - g - (score[i] - best - math.log(total))
            k += 1
            position += step
    for i in range(k, n_draws):  # rounding at the very end
        log_weight[i] = -np.inf
        model[i] = index[0]
    return lowest, square / (total * total)
