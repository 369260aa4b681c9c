"""Compiled loops of the offsets: model fluxes of draws, their weights, histograms of ratios."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["accumulate", "draw_fluxes", "summarise"]

_K = 0.4 * np.log(10.0)


@njit(cache=True, nogil=True, error_model="numpy")
def draw_fluxes(models, idxs, reds, dreds, dists, usable, out):  # type: ignore[no-untyped-def]
    """Fill ``out`` (objects, draws, bands) with model fluxes; 0 where a draw is not usable."""
    n, s, bands = out.shape
    for i in range(n):
        for d in range(s):
            if not usable[i, d]:
                for b in range(bands):
                    out[i, d, b] = 0.0
                continue
            k = idxs[i, d]
            av = float(reds[i, d])
            rv = float(dreds[i, d])
            dist = float(dists[i, d])
            scale = 1.0 / (dist * dist)
            for b in range(bands):
                m = models[k, b, 0] + av * (models[k, b, 1] + rv * models[k, b, 2])
                out[i, d, b] = np.exp(-_K * m) * scale


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _power(a, x):  # type: ignore[no-untyped-def]
    """Return a ln x with 0 ln 0 = 0."""
    if a == 0.0:
        return 0.0
    return a * np.log(x) if x > 0.0 else -np.inf * a


@njit(cache=True, nogil=True, error_model="numpy")
def _chi2_of_draws(flux, y, ivar, mask, fitted, i, chi2):  # type: ignore[no-untyped-def]
    """Fill ``chi2`` with each draw's sum over observed fitted bands; return how many bands."""
    s, bands = flux.shape[1], flux.shape[2]
    count = 0
    for d in range(s):
        chi2[d] = 0.0
    for b in range(bands):
        if mask[i, b] and fitted[b]:
            count += 1
            for d in range(s):
                r = y[i, b] - flux[i, d, b]
                chi2[d] += r * r * ivar[i, b]
    return count


@njit(cache=True, nogil=True, error_model="numpy")
def _weights(  # type: ignore[no-untyped-def]
    flux, y, ivar, weights, usable, i, b, loo, dim_prior, chi2, count, w
):
    """Fill ``w`` with the normalised weights of object i in band b; return the effective number."""
    s = flux.shape[1]
    top = -np.inf
    for d in range(s):
        log_w = 0.0
        if loo:
            r = y[i, b] - flux[i, d, b]
            mine = r * r * ivar[i, b]
            if dim_prior:
                if count <= 2:
                    return 0.0
                rest = max(chi2[d] - mine, 0.0)
                log_w = _power(0.5 * (count - 2) - 1.0, rest) - 0.5 * rest
                log_w += 0.5 * chi2[d] - _power(0.5 * (count - 1) - 1.0, chi2[d])
            else:
                log_w = 0.5 * mine
        if not (usable[i, d] and weights[i, d] > 0.0):
            log_w = -np.inf
        w[d] = log_w
        top = max(top, log_w)
    if not np.isfinite(top):
        return 0.0
    total, square = 0.0, 0.0
    for d in range(s):
        w[d] = np.exp(w[d] - top)
        if loo:
            square += w[d] * w[d]
            total += w[d]
        w[d] *= weights[i, d]
    norm, norm_square = 0.0, 0.0
    for d in range(s):
        norm += w[d]
        norm_square += w[d] * w[d]
    if norm <= 0.0:
        return 0.0
    for d in range(s):
        w[d] /= norm
    # the effective number judges the importance weights, not the user's
    return total * total / square if loo else norm * norm / norm_square


@njit(cache=True, nogil=True, error_model="numpy")
def summarise(  # type: ignore[no-untyped-def]
    flux, y, ivar, mask, fitted, dim_prior, weights, usable, need, mean, std, ess
):
    """Weighted mean and spread of the model flux, and effective draws, by object and band."""
    n, s, bands = flux.shape
    chi2, w = np.empty(s), np.empty(s)
    any_fitted = fitted.any()
    for i in range(n):
        count = 0
        if any_fitted:
            count = _chi2_of_draws(flux, y, ivar, mask, fitted, i, chi2)
        for b in range(bands):
            mean[i, b] = np.nan
            std[i, b] = np.nan
            ess[i, b] = 0.0
            if not need[i, b]:
                continue
            ess[i, b] = _weights(
                flux, y, ivar, weights, usable, i, b, fitted[b], dim_prior, chi2, count, w
            )
            if ess[i, b] <= 0.0:
                continue
            m, q = 0.0, 0.0
            for d in range(s):
                m += w[d] * flux[i, d, b]
            for d in range(s):
                q += w[d] * (flux[i, d, b] - m) ** 2
            mean[i, b] = m
            std[i, b] = np.sqrt(q)


@njit(cache=True, nogil=True, error_model="numpy")
def accumulate(  # type: ignore[no-untyped-def]
    flux, phot, y, ivar, mask, fitted, dim_prior, weights, usable, need, low, width, hist
):
    """Add each object's weighted ln(model / data) to the histograms; the ends catch the rest."""
    n, s, bands = flux.shape
    bins = hist.shape[1]
    chi2, w = np.empty(s), np.empty(s)
    any_fitted = fitted.any()
    for i in range(n):
        count = 0
        if any_fitted:
            count = _chi2_of_draws(flux, y, ivar, mask, fitted, i, chi2)
        for b in range(bands):
            if not need[i, b]:
                continue
            _weights(flux, y, ivar, weights, usable, i, b, fitted[b], dim_prior, chi2, count, w)
            # a flux of zero or less lies below its model whatever the offset: ratio infinite
            positive = phot[i, b] > 0.0
            log_phot = np.log(phot[i, b]) if positive else 0.0
            for d in range(s):
                if w[d] <= 0.0:
                    continue
                k = bins - 1
                if positive:
                    place = (np.log(flux[i, d, b]) - log_phot - low) / width
                    k = 0 if place < 0.0 else int(min(place + 1.0, bins - 1.0))
                hist[b, k] += w[d]
