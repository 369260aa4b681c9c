# mypy: disallow-untyped-defs=False
"""Numba kernels of the atmosphere term: the magnitude of each detection and its derivatives."""

from __future__ import annotations

import numpy as np
from numba import njit

_POGSON = 2.5 / np.log(10.0)


@njit(cache=True, nogil=True)
def chromatic_rows(
    first, last, star, exposure, detector, set_of, coefficient, flux, slope, by_airmass, standard,
    airmass, nominal, value, values,
):  # fmt: skip
    """Fill the term and its derivatives for detections first ... last - 1.

    ``flux[e, d, k]`` and ``slope[e, d, k, j]`` are the integrals of basis function k and their
    derivatives by parameter j, ``standard[set, k]`` those of the standard passband; ``airmass`` has
    size 0 where all detections have that of their exposure.
    """
    K = coefficient.shape[1]
    P = values.shape[1]
    D = flux.shape[1]
    for i in range(first, last):
        e = exposure[i]
        d = detector[i] if D > 1 else 0
        c = coefficient[star[i]]
        top = 0.0
        bottom = 0.0
        for k in range(K):
            top += c[k] * flux[e, d, k]
            bottom += c[k] * standard[set_of[e], k]
        if not (top > 0.0 and bottom > 0.0):
            value[i] = np.nan
            for j in range(P):
                values[i, j] = np.nan
            continue
        m = -_POGSON * np.log(top / bottom)
        if airmass.size:
            s = 0.0
            for k in range(K):
                s += c[k] * by_airmass[e, d, k]
            m -= _POGSON * (s / top) * (airmass[i] - nominal[e])
        value[i] = m
        scale = -_POGSON / top
        for j in range(P):
            s = 0.0
            for k in range(K):
                s += c[k] * slope[e, d, k, j]
            values[i, j] = scale * s
