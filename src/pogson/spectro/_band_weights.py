"""Synthetic photometry of a whole library as one matrix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pogson.errors import CalibrationError
from pogson.sed import Bandpass, FilterCurve, Spectrum, bandpass_coverage
from pogson.sed._grid import quadrature, union_grid
from pogson.sed.spectrum import SPEED_OF_LIGHT
from pogson.sed.synthetic import _weight

_NJY = 1e-32


def band_weights(
    lam: np.ndarray,
    bands: Sequence[Bandpass | FilterCurve],
    *,
    e_bv: float = 0.0,
    r_v: float = 3.1,
    law: str = "G23",
) -> np.ndarray:
    """Return the (n_band, n) matrix that takes spectra to `pogson.sed.synthetic_flux`."""
    flat = Spectrum(lam, np.ones(lam.size))
    dust = flat.redden(e_bv, r_v=r_v, law=law).flux if e_bv else np.ones(lam.size)
    out = np.zeros((len(bands), lam.size))
    for row, band in zip(out, bands, strict=True):
        band = band.bandpass if isinstance(band, FilterCurve) else band
        covered = bandpass_coverage(flat, band)
        if covered < 0.99:
            raise CalibrationError(
                f"The library ({lam[0]:g}-{lam[-1]:g} Angstrom) covers {100 * covered:.2f} % of "
                f"{band.name!r}; at least 99 % is needed."
            )
        low, high = band.wavelength_range
        node, w = quadrature(union_grid(band.wavelength, lam, max(low, lam[0]), min(high, lam[-1])))
        w = w * _weight(band, node)
        w /= w.sum() * SPEED_OF_LIGHT * _NJY
        # lambda^2 f is linear between samples
        j = np.clip(np.searchsorted(lam, node) - 1, 0, lam.size - 2)
        right = (node - lam[j]) / (lam[j + 1] - lam[j])
        np.add.at(row, j, w * (1 - right))
        np.add.at(row, j + 1, w * right)
        row *= lam**2 * dust
    return out
