r"""From one wavelength grid to another: redshift, line spread and pixel integration in one step.

A sampled spectrum is read as the mean flux density of cells that tile the wavelength axis, and made
piecewise linear inside them without changing those means. Each cell is moved by the Doppler factor,
spread by the Gaussian of its wavelength, and integrated over the pixels of the new grid; all of it
in closed form, so that light is conserved exactly. The result is a banded matrix that many spectra
share.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from pogson.errors import PogsonValueError
from pogson.spectro._checks import check_wavelengths, freeze
from pogson.spectro.line_spread import LineSpread

__all__ = [
    "SPEED_OF_LIGHT_KMS",
    "SpectralTransfer",
    "convolve_spectrum",
    "doppler_factor",
    "pixel_edges",
    "resample_spectrum",
    "spectral_transfer",
]

SPEED_OF_LIGHT_KMS = 299792.458
"""Speed of light in km/s."""

_COVERED = 1.0 - 1e-6


def doppler_factor(rv_kms: float) -> float:
    r"""Return observed over rest wavelength, :math:`\sqrt{(1+\beta)/(1-\beta)}`.

    Parameters
    ----------
    rv_kms : float
        Radial velocity in km/s, positive when receding.

    Raises
    ------
    PogsonValueError
        If it is not finite or reaches the speed of light.

    Examples
    --------
    >>> doppler_factor(0.0), round(doppler_factor(300.0), 9)
    (1.0, 1.001001193)
    """
    beta = float(rv_kms) / SPEED_OF_LIGHT_KMS
    if not abs(beta) < 1:
        raise PogsonValueError(
            f"A radial velocity of {rv_kms} km/s is impossible; it must be finite and below the "
            f"speed of light."
        )
    return float(np.sqrt((1.0 + beta) / (1.0 - beta)))


def pixel_edges(wavelength: Any) -> np.ndarray:
    """Return the n + 1 edges of pixels: midway between centres, the ends mirrored.

    Examples
    --------
    >>> pixel_edges([5000.0, 5002.0, 5006.0])
    array([4999., 5001., 5004., 5008.])
    """
    lam = check_wavelengths(wavelength, "the pixels")
    middle = 0.5 * (lam[1:] + lam[:-1])
    return np.concatenate([[2 * lam[0] - middle[0]], middle, [2 * lam[-1] - middle[-1]]])


@dataclass(frozen=True, eq=False, repr=False)
class SpectralTransfer:
    """Banded matrix from samples on one grid to pixels of another; made by `spectral_transfer`.

    Parameters
    ----------
    wavelength_in, wavelength_out : ndarray
        The two grids, vacuum Angstrom; the input at rest.
    start : ndarray of int, shape (n_out,)
        First input sample of each row.
    begin : ndarray of int, shape (n_out + 1,)
        Where each row begins in ``weights``.
    weights : ndarray
        Matrix elements, row after row.
    coverage : ndarray, shape (n_out,)
        Fraction of each pixel's light that the input grid holds, 0 to 1.
    blunt : ndarray of bool, shape (n_out,)
        True where the input is already broader than the line spread asked for, so that nothing
        could be added.

    Examples
    --------
    >>> lam = np.arange(5000.0, 5100.0, 0.1)
    >>> transfer = spectral_transfer(lam, [5040.0, 5041.0], LineSpread.from_fwhm(3.0))
    >>> transfer(np.ones(lam.size))
    array([1., 1.])
    """

    wavelength_in: np.ndarray
    wavelength_out: np.ndarray
    start: np.ndarray
    begin: np.ndarray
    weights: np.ndarray
    coverage: np.ndarray
    blunt: np.ndarray

    def __call__(self, flux: Any) -> np.ndarray:
        """Return spectra (..., n_in) on the new grid (..., n_out); NaN where not covered."""
        from pogson.spectro._transfer_kernels import apply_rows

        values = np.ascontiguousarray(flux, np.float64)
        if values.shape[-1:] != self.wavelength_in.shape:
            raise PogsonValueError(
                f"Spectra of shape {values.shape} do not fit a grid of {self.wavelength_in.size} "
                f"samples; the last axis is wavelength."
            )
        rows = values.reshape(-1, values.shape[-1])
        out = np.empty((rows.shape[0], self.wavelength_out.size))
        apply_rows(rows, self.start, self.begin, self.weights, out)
        out[:, ~self.covered] = np.nan
        return out.reshape(*values.shape[:-1], -1)

    def variance(self, variance: Any) -> np.ndarray:
        """Return the variance of each pixel from that of independent samples, (n_in,).

        Pixels that share samples become correlated; this is the diagonal only.
        """
        from pogson.spectro._transfer_kernels import apply_squared

        values = np.ascontiguousarray(variance, np.float64)
        if values.shape != self.wavelength_in.shape:
            raise PogsonValueError(
                f"A variance of shape {values.shape} does not fit {self.wavelength_in.size} "
                f"samples."
            )
        out = np.empty(self.wavelength_out.size)
        apply_squared(values, self.start, self.begin, self.weights, out)
        out[~self.covered] = np.nan
        return out

    @cached_property
    def covered(self) -> np.ndarray:
        """True where the input grid holds all of a pixel's light."""
        return freeze(self.coverage > _COVERED)

    def __repr__(self) -> str:
        return (
            f"SpectralTransfer({self.wavelength_in.size} samples -> {self.wavelength_out.size} "
            f"pixels, {int(self.covered.sum())} covered, {self.weights.size} weights)"
        )


def spectral_transfer(
    wavelength_in: Any,
    wavelength_out: Any,
    line_spread: LineSpread | None = None,
    *,
    native_sigma: Any = 0.0,
    rv_kms: float = 0.0,
    samples: Literal["means", "points"] = "means",
) -> SpectralTransfer:
    r"""Return the matrix that takes spectra to an observed pixel grid.

    Parameters
    ----------
    wavelength_in : array_like, shape (n_in,)
        Vacuum Angstrom of the input samples, at rest.
    wavelength_out : array_like, shape (n_out,)
        Vacuum Angstrom of the pixel centres, as observed; edges are midway (`pixel_edges`).
    line_spread : LineSpread, optional
        The instrument's, at observed wavelengths. Without it only pixels integrate.
    native_sigma : float or array_like, shape (n_in,), optional
        Gaussian sigma in Angstrom that the input already has, at rest; taken off in quadrature.
    rv_kms : float, optional
        Radial velocity, applied before the line spread.
    samples : {"means", "points"}, optional
        Whether input values are means over their cells (the default: spectra that were themselves
        binned) or values at points.

    Raises
    ------
    PogsonValueError
        If a grid does not increase, a width is negative, or a word is unknown.

    Notes
    -----
    The line spread :math:`\sigma(\lambda')` belongs to the wavelength of the light, so that a line
    at :math:`\lambda'` is a Gaussian of that width. Row i is
    :math:`\Delta_i^{-1}\int f(\lambda')\,[\Phi((e_{i+1}-\lambda')/\sigma)
    -\Phi((e_i-\lambda')/\sigma)]\,d\lambda'` with f linear in each cell around its mean (slopes
    from central differences), divided by its sum, so that a flat spectrum stays flat as it does in
    flat-fielded data; the sums differ from 1 by half the second derivative of
    :math:`\sigma^2` (below 1e-6 for real spectrographs, 0 for a constant width), which is all by
    which light is not conserved. Means smoothed this way keep their second moments to the width of
    a cell squared over 12, which is added back for points.

    Examples
    --------
    >>> lam = np.linspace(4900.0, 5100.0, 4001)
    >>> transfer = spectral_transfer(
    ...     lam, np.arange(4950.0, 5050.0, 1.2), LineSpread.from_resolution(1800.0), rv_kms=-120.0
    ... )
    >>> transfer
    SpectralTransfer(4001 samples -> 84 pixels, 84 covered, ... weights)
    >>> transfer(np.ones((3, lam.size))).shape
    (3, 84)
    """
    if samples not in ("means", "points"):
        raise PogsonValueError(f"Unknown kind of samples {samples!r}; allowed: 'means', 'points'.")
    rest = check_wavelengths(wavelength_in, "the input grid")
    target = check_wavelengths(wavelength_out, "the output grid")
    if rest.ndim != 1 or target.ndim != 1:
        raise PogsonValueError("Grids are one-dimensional here; make one transfer for each fibre.")
    factor = doppler_factor(rv_kms)
    lam, cells, pixels = rest * factor, pixel_edges(rest) * factor, pixel_edges(target)
    added, blunt = _sigma_to_add(lam, line_spread, native_sigma, factor)
    # below this a width changes no digit and its square would underflow
    added[added < 1e-5 * np.diff(cells)] = 0.0
    if samples == "points":
        added = np.sqrt(added**2 + np.diff(cells) ** 2 / 12.0)
    return _build(rest, target, lam, cells, pixels, added, blunt)


def _sigma_to_add(
    lam: np.ndarray, line_spread: LineSpread | None, native_sigma: Any, factor: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the width still to be added at each sample, and where there was too much already."""
    native = np.broadcast_to(np.asarray(native_sigma, np.float64), lam.shape) * factor
    if not np.all(np.isfinite(native) & (native >= 0)):
        raise PogsonValueError(
            f"{int((~(native >= 0)).sum())} native widths are negative or not finite."
        )
    if line_spread is None:
        return np.zeros(lam.size), np.zeros(lam.size, bool)
    wanted = line_spread.sigma(lam)
    difference = wanted**2 - native**2
    return np.sqrt(np.maximum(difference, 0.0)), difference < -1e-9 * wanted**2


def _build(
    rest: np.ndarray,
    target: np.ndarray,
    lam: np.ndarray,
    cells: np.ndarray,
    pixels: np.ndarray,
    sigma: np.ndarray,
    blunt: np.ndarray,
) -> SpectralTransfer:
    from pogson.spectro._transfer_kernels import band_limits, fill_weights

    first, stop = band_limits(cells, sigma, pixels)
    empty = stop <= first
    first[empty] = stop[empty] = 0
    # one sample more on both sides for the slopes
    start = np.where(empty, 0, np.maximum(first - 1, 0))
    last = np.where(empty, 0, np.minimum(stop + 1, rest.size))
    begin = np.concatenate([[0], np.cumsum(last - start)]).astype(np.int64)
    weights, coverage = np.zeros(int(begin[-1])), np.zeros(target.size)
    fill_weights(cells, lam, sigma, pixels, first, stop, start, begin, weights, coverage)
    nearest = np.clip(np.searchsorted(lam, target), 0, lam.size - 1)
    return SpectralTransfer(
        *(freeze(a) for a in (rest, target, start, begin, weights, coverage, blunt[nearest]))
    )


def resample_spectrum(
    wave_in: Any, flux_in: Any, wave_out: Any, fill_value: float = float("nan")
) -> np.ndarray:
    """Return the mean flux density in each new pixel; integrals are conserved.

    Parameters
    ----------
    wave_in : array_like, shape (n_in,)
        Vacuum Angstrom.
    flux_in : array_like, shape (..., n_in)
        Flux densities (per Angstrom), means over the pixels of ``wave_in``.
    wave_out : array_like, shape (n_out,)
        New pixel centres.
    fill_value : float, optional
        For pixels not wholly inside ``wave_in``; NaN unless given.

    Examples
    --------
    >>> lam = np.arange(4000.0, 4100.0)
    >>> resample_spectrum(lam, 2.0 * lam, [4050.5, 4060.5, 4070.5])
    array([8101., 8121., 8141.])
    >>> resample_spectrum(lam, 2.0 * lam, [4095.5, 4105.5])
    array([nan, nan])
    """
    out = spectral_transfer(wave_in, wave_out)(flux_in)
    return np.where(np.isnan(out), fill_value, out)


def convolve_spectrum(
    wavelength: Any, flux: Any, line_spread: LineSpread, *, native_sigma: Any = 0.0
) -> np.ndarray:
    """Return spectra broadened to a line spread on their own grid, any spacing, any width.

    Parameters
    ----------
    wavelength : array_like, shape (n,)
        Vacuum Angstrom.
    flux : array_like, shape (..., n)
        Values at points.
    line_spread : LineSpread
        Width wanted.
    native_sigma : float or array_like, optional
        Width there already, Angstrom.

    Examples
    --------
    >>> lam = np.geomspace(4000.0, 4400.0, 2001)
    >>> line = np.exp(-0.5 * ((lam - 4200.0) / 0.5) ** 2)
    >>> out = convolve_spectrum(lam, line, LineSpread.from_sigma(1.3), native_sigma=0.5)
    >>> bool(abs(np.nanmax(out) - 0.5 / 1.3) < 1e-3)
    True
    """
    return spectral_transfer(
        wavelength, wavelength, line_spread, native_sigma=native_sigma, samples="points"
    )(flux)
