"""Integrals of a chromatic flat over the light of a spectrum through a bandpass."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pogson.errors import CalibrationError
from pogson.sed import Bandpass, Spectrum, bandpass_coverage

if TYPE_CHECKING:
    from pogson.images.flats import ChromaticFlat

__all__ = ["effective_weights"]

_SMALLEST_COVERAGE = 0.99
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(4)


def effective_weights(flat: ChromaticFlat, sed: Spectrum, bandpass: Bandpass) -> np.ndarray:
    """Return the coefficients of a flat's components for light of a spectrum, shape (k,).

    Parameters
    ----------
    flat : ChromaticFlat
        The flat.
    sed : Spectrum
        The light.
    bandpass : Bandpass
        The response.

    Raises
    ------
    CalibrationError
        See `ChromaticFlat.flat_for`.

    Examples
    --------
    >>> from pogson.fields import Box, ConstantField
    >>> from pogson.images import ChromaticFlat
    >>> box = Box(0, 0, 9, 9)
    >>> flat = ChromaticFlat.from_fields([3000.0, 12000.0], [ConstantField(box, 1.0)] * 2)
    >>> r = Bandpass.from_speclite("decam2014-r")
    >>> round(float(effective_weights(flat, Spectrum.constant_ab(20.0), r).sum()), 12)
    1.0
    """
    spectrum = sed.to_vacuum()
    low, high = bandpass.wavelength_range
    first = max(low, float(spectrum.wavelength[0]))
    last = min(high, float(spectrum.wavelength[-1]))
    _check_spectrum(spectrum, bandpass, first, last)
    lam, signal = _signal(spectrum, bandpass, flat.wavelength, first, last)
    total = float(signal.sum())
    if not total > 0:
        raise CalibrationError(
            f"The spectrum {sed.name!r} gives a signal of {total:g} through {bandpass.name!r}; "
            f"a flat can be made only for positive light."
        )
    inside = (lam >= flat.wavelength[0]) & (lam <= flat.wavelength[-1])
    covered = float(np.abs(signal[inside]).sum() / np.abs(signal).sum())
    if covered < _SMALLEST_COVERAGE:
        raise CalibrationError(
            f"The flat {flat.name!r} ({flat.wavelength[0]:g}-{flat.wavelength[-1]:g} Angstrom) "
            f"covers {100 * covered:.2f} % of the light of {sed.name!r} through "
            f"{bandpass.name!r} ({low:g}-{high:g} Angstrom); at least "
            f"{100 * _SMALLEST_COVERAGE:g} % is needed."
        )
    lam, signal = lam[inside], signal[inside]
    return np.array([signal @ np.interp(lam, flat.wavelength, a) for a in flat.weights.T]) / (
        signal.sum()
    )


def _check_spectrum(spectrum: Spectrum, bandpass: Bandpass, first: float, last: float) -> None:
    covered = bandpass_coverage(spectrum, bandpass)
    if covered < _SMALLEST_COVERAGE or not last > first:
        low, high = bandpass.wavelength_range
        raise CalibrationError(
            f"The spectrum {spectrum.name!r} ({spectrum.wavelength[0]:g}-"
            f"{spectrum.wavelength[-1]:g} Angstrom) covers {100 * covered:.2f} % of bandpass "
            f"{bandpass.name!r} ({low:g}-{high:g} Angstrom); at least "
            f"{100 * _SMALLEST_COVERAGE:g} % is needed. Extend the spectrum with a model."
        )


def _signal(
    spectrum: Spectrum, bandpass: Bandpass, nodes: np.ndarray, first: float, last: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return wavelengths and quadrature weights times the signal there.

    Four Gauss-Legendre points between all samples of the three curves, whose product is smooth
    there.
    """
    edges = np.concatenate([bandpass.wavelength, spectrum.wavelength, nodes, [first, last]])
    edges = np.unique(edges[(edges >= first) & (edges <= last)])
    half, middle = 0.5 * np.diff(edges)[:, None], 0.5 * (edges[1:] + edges[:-1])[:, None]
    lam = (middle + half * _NODES).ravel()
    weight = (half * _WEIGHTS).ravel()
    light = spectrum.evaluate(np.clip(lam, spectrum.wavelength[0], spectrum.wavelength[-1]))
    energy = lam if bandpass.detector == "photon" else 1.0
    return lam, weight * bandpass.evaluate(lam) * light * energy
