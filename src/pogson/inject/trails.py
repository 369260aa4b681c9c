r"""Trailed point sources: the PSF integrated along a straight line.

A source that moves at constant speed during the exposure leaves

.. math:: T(\mathbf{r}) = \int_{-1/2}^{1/2} P(\mathbf{r} - \mathbf{r}_0 - t\,\mathbf{d})\,dt

with r_0 its position at mid-exposure and d its whole displacement. The integral is taken by
Gauss-Legendre quadrature on panels about as long as the PSF is wide, each node drawn at its own
sub-pixel position with the PSF of that place.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pogson.errors import PogsonValueError
from pogson.fields import Box
from pogson.inject.stamps import nearest_position
from pogson.psf import PSF, Stamp
from pogson.psf.base import MAX_HALF_SIZE

__all__ = ["render_trail"]

_NODES = 6  # a panel
_MAX_LENGTH = 20_000.0
_STAMP_PIXELS = 2**20


def render_trail(psf: PSF, *, x: float, y: float, dx: float, dy: float, half_size: int) -> Stamp:
    """Draw a point source of unit flux that moves during the exposure.

    Parameters
    ----------
    psf : PSF
        PSF at rest; evaluated along the trail. Where the trail leaves its box, the PSF of the
        nearest pixel is taken.
    x, y : float
        Position at mid-exposure in pixels (0-based, pixel centres on integers).
    dx, dy : float
        Displacement from the beginning of the exposure to its end, in pixels; 0 is a point source.
    half_size : int
        Half-size in pixels of the stamp drawn at each place of the trail.

    Returns
    -------
    stamp : Stamp
        The flux of the **whole** trail is 1, less what lies beyond the stamps.

    Raises
    ------
    PogsonValueError
        If a number is not finite, the trail is longer than 20 000 pixels, or the half-size not
        from 0 to 512.

    Notes
    -----
    Panels are at most 0.7 FWHM long (0.7 pixel for narrower PSFs) with 6 Gauss-Legendre nodes each:
    good to 1e-6 of the peak for PSFs no sharper than a Gaussian of 1.5 pixels FWHM.

    Examples
    --------
    >>> from pogson.psf import GaussianPSF
    >>> trail = render_trail(
    ...     GaussianPSF(fwhm=3.0), x=50.0, y=20.0, dx=30.0, dy=5.0, half_size=10
    ... )
    >>> trail.box.nx, trail.box.ny, round(float(trail.image.sum()), 6)
    (51, 25, 1.0)
    """
    numbers = np.array([x, y, dx, dy], np.float64)
    length = float(np.hypot(dx, dy))
    if not np.isfinite(numbers).all() or length > _MAX_LENGTH:
        raise PogsonValueError(
            f"A trail at x={x!r}, y={y!r} of displacement dx={dx!r}, dy={dy!r} pixels must be "
            f"finite and no longer than {_MAX_LENGTH:g} pixels."
        )
    if int(half_size) != half_size or not 0 <= half_size <= MAX_HALF_SIZE:
        raise PogsonValueError(
            f"half_size={half_size!r} must be a whole number from 0 to {MAX_HALF_SIZE} pixels."
        )
    half = int(half_size)
    t, weights = _quadrature(psf, numbers, length)
    xs, ys = x + t * dx, y + t * dy
    px, py = np.floor(xs + 0.5).astype(np.int64), np.floor(ys + 0.5).astype(np.int64)
    box = Box(
        int(px.min()) - half,
        int(py.min()) - half,
        int(px.max() - px.min()) + 2 * half + 1,
        int(py.max() - py.min()) + 2 * half + 1,
    )
    image = np.zeros(box.shape)
    side = 2 * half + 1
    step = max(1, _STAMP_PIXELS // side**2)
    for start in range(0, t.size, step):
        part = slice(start, start + step)
        inside = nearest_position(psf, x=xs[part], y=ys[part])
        stamps, x_min, y_min = psf.draw_many(x=inside[0], y=inside[1], half_size=half)
        x_min, y_min = x_min + inside[2] - box.x_min, y_min + inside[3] - box.y_min
        for k, weight in enumerate(weights[part]):
            rows, columns = slice(y_min[k], y_min[k] + side), slice(x_min[k], x_min[k] + side)
            image[rows, columns] += weight * stamps[k]
    image.flags.writeable = False
    return Stamp(image, box)


def _quadrature(psf: PSF, numbers: np.ndarray, length: float) -> tuple[np.ndarray, np.ndarray]:
    """Return times from -1/2 to 1/2 and weights that sum to 1."""
    if length == 0.0:
        return np.zeros(1), np.ones(1)
    x, y, dx, dy = numbers
    where = np.array([-0.5, 0.0, 0.5])
    ends = nearest_position(psf, x=x + where * dx, y=y + where * dy)
    width: Any = np.asarray(psf.fwhm(x=ends[0], y=ends[1]))
    narrowest = max(1.0, float(np.nanmin(width))) if np.isfinite(width).any() else 1.0
    panels = int(np.ceil(length / (0.7 * narrowest)))
    node, weight = np.polynomial.legendre.leggauss(_NODES)
    t = ((np.arange(panels)[:, None] + 0.5 + 0.5 * node) / panels - 0.5).ravel()
    return t, np.tile(0.5 * weight / panels, panels)
