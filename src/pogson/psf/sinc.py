r"""The sinc aperture: the integral of the band-limited image over the true ellipse.

The coefficient of pixel r for an ellipse centred at c is the Fourier integral over the Nyquist
square of the transform of the ellipse,

.. math:: w(r) = \int \frac{ab\,J_1(2\pi\kappa)}{\kappa} e^{2\pi i k\cdot(r-c)} d^2k,
          \qquad \kappa^2 = (a k_a)^2 + (b k_b)^2,

(Bickerton & Lupton 2013, MNRAS 431, 1275, generalised to ellipses). It is evaluated by an FFT on a
box of side N; the shift to the source's sub-pixel position is a phase, hence exact.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from scipy import fft, special

__all__ = ["sinc_box_size", "sinc_coefficients", "sinc_sums"]

_CHUNK_PIXELS = 2_000_000


def sinc_box_size(semi_axis: float) -> int:
    """Return the even side N of the coefficient box for a semi-major axis in pixels.

    At least four times the semi-axis, and 12 pixels beyond the edge on each side.

    Examples
    --------
    >>> sinc_box_size(12.0)
    48
    """
    least = int(np.ceil(2 * max(2 * semi_axis, semi_axis + 12)))
    size = least + least % 2
    while fft.next_fast_len(size, real=True) != size:
        size += 2
    return size


def _disc_transform(a: np.ndarray, b: np.ndarray, theta: np.ndarray, size: int) -> np.ndarray:
    """Return the transform of unit-height ellipses on the rfft grid, shape (n, N, N/2+1)."""
    ky = fft.fftfreq(size)[:, None]
    kx = fft.rfftfreq(size)[None, :]
    c, s = np.cos(theta)[:, None, None], np.sin(theta)[:, None, None]
    ka = a[:, None, None] * (c * kx + s * ky)
    kb = b[:, None, None] * (-s * kx + c * ky)
    kappa = np.hypot(ka, kb)
    kappa[:, 0, 0] = 1.0
    transform = (a * b)[:, None, None] * special.j1(2 * np.pi * kappa) / kappa
    transform[:, 0, 0] = np.pi * a * b
    return transform


@lru_cache(maxsize=32)
def _one_transform(a: float, b: float, theta: float, size: int) -> np.ndarray:
    transform = _disc_transform(np.array([a]), np.array([b]), np.array([theta]), size)
    transform.flags.writeable = False
    return transform


def _phase(shift: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """Return exp(-2 pi i k shift); the Nyquist term, shared by +k and -k, is the cosine."""
    phase = np.exp(-2j * np.pi * shift[:, None] * frequencies[None, :])
    nyquist = np.abs(np.abs(frequencies) - 0.5) < 1e-12
    phase[:, nyquist] = np.cos(np.pi * shift)[:, None]
    return phase


def sinc_coefficients(fx: Any, fy: Any, a: Any, b: Any, theta: Any, size: int) -> np.ndarray:
    """Return sinc-aperture coefficients for ellipses offset from the central pixel.

    Parameters
    ----------
    fx, fy : array_like, shape (n,)
        Offset of the centre from pixel ``(size // 2, size // 2)``, in pixels.
    a, b, theta : array_like, shape (n,)
        Semi-axes in pixels and angle in radians.
    size : int
        Side of the box; even (see `sinc_box_size`).

    Returns
    -------
    coefficients : numpy.ndarray, shape (n, size, size)
        Their sum over the box is the area of the ellipse.

    Examples
    --------
    >>> w = sinc_coefficients([0.3], [-0.2], [3.0], [3.0], [0.0], 32)
    >>> float(w.sum() / (9 * np.pi))
    1.0
    """
    fx, fy, a, b, theta = (np.atleast_1d(np.asarray(v, np.float64)) for v in (fx, fy, a, b, theta))
    if np.ptp(a) == 0 and np.ptp(b) == 0 and np.ptp(theta) == 0:
        transform = _one_transform(float(a[0]), float(b[0]), float(theta[0]), size)
    else:
        transform = _disc_transform(a, b, theta, size)
    middle = size // 2
    phase_y = _phase(fy + middle, fft.fftfreq(size))
    phase_x = _phase(fx + middle, fft.rfftfreq(size))
    spectrum = transform * phase_y[:, :, None] * phase_x[:, None, :]
    return fft.irfft2(spectrum, s=(size, size), axes=(1, 2))


def sinc_sums(
    image: np.ndarray, variance: np.ndarray, bad: np.ndarray, has_variance: bool, has_bad: bool,
    x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray, theta: np.ndarray,
    flux: np.ndarray, var: np.ndarray, area: np.ndarray, lost: np.ndarray, cut: np.ndarray,
    squares: np.ndarray, square_area: np.ndarray,
) -> None:  # fmt: skip
    """Fill sinc-aperture sums for flat arrays of sources (see `ApertureOperator.sum`)."""
    if x.size == 0:
        return
    good = np.isfinite(x) & np.isfinite(y)
    flux[~good], var[~good], squares[~good], cut[~good] = np.nan, np.nan, np.nan, True
    sizes = np.array([sinc_box_size(s) for s in np.maximum(a, b)])
    for size in np.unique(sizes[good]):
        rows = np.flatnonzero(good & (sizes == size))
        step = max(1, _CHUNK_PIXELS // int(size) ** 2)
        for start in range(0, rows.size, step):
            part = rows[start : start + step]
            ix, iy = np.floor(x[part] + 0.5), np.floor(y[part] + 0.5)
            weights = sinc_coefficients(
                x[part] - ix, y[part] - iy, a[part], b[part], theta[part], int(size)
            )
            for k, w, i, j in zip(part, weights, ix, iy, strict=True):
                _apply(k, w, float(i), float(j), image, variance, bad, has_variance, has_bad,
                       flux, var, area, lost, cut, squares, square_area)  # fmt: skip


def _apply(
    k: int, weights: np.ndarray, ix: float, iy: float,
    image: np.ndarray, variance: np.ndarray, bad: np.ndarray, has_variance: bool, has_bad: bool,
    flux: np.ndarray, var: np.ndarray, area: np.ndarray, lost: np.ndarray, cut: np.ndarray,
    squares: np.ndarray, square_area: np.ndarray,
) -> None:  # fmt: skip
    """Apply one coefficient box to the image."""
    ny, nx = image.shape
    half = weights.shape[0] // 2
    if abs(ix) > 1e9 or abs(iy) > 1e9:
        flux[k], var[k], squares[k], cut[k] = np.nan, np.nan, np.nan, True
        return
    x0, y0 = int(ix) - half, int(iy) - half
    i0, i1 = max(x0, 0), min(x0 + 2 * half, nx)
    j0, j1 = max(y0, 0), min(y0 + 2 * half, ny)
    cut[k] = (i1 - i0, j1 - j0) != (2 * half, 2 * half)
    if i1 <= i0 or j1 <= j0:
        flux[k], var[k], squares[k] = np.nan, np.nan, np.nan
        return
    w = weights[j0 - y0 : j1 - y0, i0 - x0 : i1 - x0]
    values = image[j0:j1, i0:i1].astype(np.float64)
    usable = np.isfinite(values)
    if has_variance:
        noise = variance[j0:j1, i0:i1].astype(np.float64)
        usable &= np.isfinite(noise)
    if has_bad:
        usable &= ~bad[j0:j1, i0:i1]
    if usable.all():
        flux[k], area[k] = np.vdot(w, values), w.sum()
        if has_variance:
            w2 = w * w
            var[k], squares[k], square_area[k] = np.vdot(w2, noise), np.vdot(w2, values), w2.sum()
        return
    flux[k] = np.sum(w[usable] * values[usable]) if usable.any() else np.nan
    area[k], lost[k] = w[usable].sum(), w[~usable].sum()
    if has_variance:
        w2 = w[usable] ** 2
        var[k] = np.sum(w2 * noise[usable]) if usable.any() else np.nan
        squares[k] = np.sum(w2 * values[usable]) if usable.any() else np.nan
        square_area[k] = w2.sum()
