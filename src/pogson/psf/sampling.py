"""Sampling any PSF on an oversampled grid with polynomial variation, with the error stated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pogson.errors import PogsonValueError
from pogson.fields import Box
from pogson.psf.base import PSF, PsfNormalization
from pogson.psf.frames import PixelFrame
from pogson.psf.pixel_grid import PixelGridPSF, polynomial_powers

__all__ = ["GridApproximation", "sample_psf"]


@dataclass(frozen=True, slots=True)
class GridApproximation:
    """A sampled PSF and how well it stands for the original.

    Attributes
    ----------
    psf : PixelGridPSF
        The approximation, in the normalisation "total" (samples are taken as they are).
    max_error, rms_error : float
        Largest and rms difference of drawn pixels at test positions between the nodes of the fit,
        at random sub-pixel phases, as fractions of the peak.
    lost_light : float
        Largest fraction of the flux that falls outside the grid (for a PSF whose flux is finite
        and normalised to the total).
    """

    psf: PixelGridPSF
    max_error: float
    rms_error: float
    lost_light: float


def _oversampled(psf: PSF, x: float, y: float, factor: int, half: int) -> np.ndarray:
    """Return the effective PSF on a grid of 1/factor pixel about the star, shape (n, n).

    A pixel of a star displaced by a phase is the effective PSF at an offset of minus the phase, so
    factor^2 drawings interleave into the grid.
    """
    reach = (half + factor - 1) // factor
    grid = np.zeros((2 * half + 1, 2 * half + 1))
    x0, y0 = np.floor(x + 0.5), np.floor(y + 0.5)
    offsets = np.arange(-half, half + 1)
    # keep phases in [-1/2, 1/2): the star stays on the pixel its stamp is centred on
    whole = np.floor(offsets / factor + 0.5).astype(np.int64)
    part = offsets - whole * factor
    for py in np.unique(part):
        for px in np.unique(part):
            stamp = psf.draw_many(
                x=[x0 - px / factor], y=[y0 - py / factor], half_size=int(reach) + 1
            )[0][0]
            jj, ii = np.flatnonzero(part == py), np.flatnonzero(part == px)
            # phase exactly +1/2 moves the stamp's central pixel
            shift_x = int(np.floor(x0 - px / factor + 0.5) - x0)
            shift_y = int(np.floor(y0 - py / factor + 0.5) - y0)
            rows = whole[jj] - shift_y + int(reach) + 1
            columns = whole[ii] - shift_x + int(reach) + 1
            grid[np.ix_(jj, ii)] = stamp[np.ix_(rows, columns)]
    return grid / factor**2


def sample_psf(
    psf: PSF,
    box: Box,
    *,
    oversampling: int = 2,
    half_size: int = 20,
    degree: int = 2,
    interpolation: str = "lagrange6",
) -> GridApproximation:
    """Approximate a PSF by samples that are polynomials of position.

    Parameters
    ----------
    psf : PSF
        PSF to sample, defined on ``box``.
    box : Box
        Pixels to represent.
    oversampling : int, optional
        Samples per pixel, 1 to 8.
    half_size : int, optional
        The grid reaches this many pixels from the star.
    degree : int, optional
        Total degree of the polynomial in x and y, 0 to 8.
    interpolation : str, optional
        Kernel of the approximation, as for `PixelGridPSF`. Lanczos kernels do not keep slopes and
        err by about 0.3 % of the peak at FWHM 4 with 2 samples a pixel.

    Returns
    -------
    approximation : GridApproximation
        The sampled PSF with its errors at positions not used in the fit.

    Raises
    ------
    PogsonValueError
        If a number is out of range.
    BoundsError
        If the PSF is not defined on the box.

    Examples
    --------
    >>> from pogson.psf import MoffatPSF
    >>> result = sample_psf(MoffatPSF(4.0, 3.0), Box(0, 0, 100, 100), degree=0)
    >>> result.max_error < 3e-4
    True
    """
    for name, value, low, high in (
        ("oversampling", oversampling, 1, 8),
        ("half_size", half_size, 2, 200),
        ("degree", degree, 0, 8),
    ):
        if int(value) != value or not low <= value <= high:
            raise PogsonValueError(f"{name}={value!r} must be a whole number from {low} to {high}.")
    half = int(half_size) * int(oversampling)
    (x0, x1), (y0, y1) = (_inner(*bounds) for bounds in (box.x_bounds, box.y_bounds))
    nodes = np.cos(np.pi * (np.arange(degree + 2) + 0.5) / (degree + 2)) if degree else np.zeros(1)
    xs, ys = (
        g.ravel()
        for g in np.meshgrid(
            0.5 * (x0 + x1 + (x1 - x0) * nodes), 0.5 * (y0 + y1 + (y1 - y0) * nodes)
        )
    )
    frame = PixelFrame(
        sampling=1.0 / oversampling,
        x_zero=0.5 * (x0 + x1),
        y_zero=0.5 * (y0 + y1),
        x_scale=max(0.5 * (x1 - x0), 1.0),
        y_scale=max(0.5 * (y1 - y0), 1.0),
    )
    # the samples are of the PSF at the centre of the pixel nearest to the node
    px, py = np.floor(xs + 0.5), np.floor(ys + 0.5)
    grids = np.array(
        [_oversampled(psf, a, b, int(oversampling), half) for a, b in zip(px, py, strict=True)]
    )
    powers = polynomial_powers(int(degree))
    u, v = frame.coordinates(px, py)
    design = u[:, None] ** powers[:, 0] * v[:, None] ** powers[:, 1]
    solution = np.linalg.lstsq(design, grids.reshape(xs.size, -1), rcond=None)[0]
    fitted = PixelGridPSF(
        solution.reshape(-1, *grids.shape[1:]),
        powers,
        frame,
        interpolation=interpolation,
        box=box,
        normalization=PsfNormalization("total"),
    )
    return GridApproximation(fitted, *_errors(psf, fitted, (x0, x1, y0, y1), int(half_size)))


def _inner(low: float, high: float) -> tuple[float, float]:
    """Return bounds one pixel inside, or the middle of a very small box."""
    if high - low <= 2.0:
        return 0.5 * (low + high), 0.5 * (low + high)
    return low + 1.0, high - 1.0


def _errors(
    psf: PSF, fitted: PixelGridPSF, bounds: tuple[float, float, float, float], half: int
) -> tuple[float, float, float]:
    """Return max and rms pixel error over the peak, and the light lost outside the grid."""
    x0, x1, y0, y1 = bounds
    # golden-ratio points: spread over the box and over sub-pixel phases, the same every time
    k = np.arange(25)
    x = x0 + (x1 - x0) * ((0.5 + 0.754877666 * k) % 1.0)
    y = y0 + (y1 - y0) * ((0.5 + 0.569840291 * k) % 1.0)
    inside = max(half - 4, 1)
    true = psf.draw_many(x=x, y=y, half_size=inside)[0]
    model = fitted.draw_many(x=x, y=y, half_size=inside)[0]
    peak = true.max(axis=(1, 2))[:, None, None]
    difference = (model - true) / peak
    light = fitted.samples(x=x, y=y).sum(axis=(1, 2))
    return (
        float(np.abs(difference).max()),
        float(np.sqrt(np.mean(difference**2))),
        float(np.max(1.0 - light)),
    )
