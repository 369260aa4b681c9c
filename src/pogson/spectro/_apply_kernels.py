"""Kernels that multiply spectra by a calibration: one pass over memory."""

from __future__ import annotations

import numpy as np
from numba import njit, prange


@njit(cache=True, parallel=True)
def apply_factor(  # pragma: no cover - compiled
    counts: np.ndarray,
    ivar: np.ndarray,
    mask: np.ndarray,
    factor: np.ndarray,
    bits: np.ndarray,
    flux_out: np.ndarray,
    ivar_out: np.ndarray,
    mask_out: np.ndarray,
) -> None:
    """Write flux, inverse variance and mask of (n_fibre, n_pixel) spectra.

    ``factor`` and ``bits`` (mask bits to add) have one row for all fibres or one for each. Where
    the mask is not 0 the flux is NaN and the inverse variance 0.
    """
    shared = factor.shape[0] == 1
    n_pix = counts.shape[1]
    for f in prange(counts.shape[0]):
        g = np.int64(0) if shared else np.int64(f)
        for p in range(n_pix):
            bad = mask[f, p] | bits[g, p]
            value = factor[g, p]
            mask_out[f, p] = bad
            flux_out[f, p] = counts[f, p] * value if bad == 0 else np.nan
            ivar_out[f, p] = ivar[f, p] / (value * value) if bad == 0 else 0.0
