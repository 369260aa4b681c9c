r"""How large a stamp must be: chosen by the light it may miss, never by habit.

A measurement within radius R of a source sees only what was drawn. The stamp of half-size h misses,
of the light within R, the part beyond the square; `stamp_half_size` returns the smallest h for
which that part is no more than asked. A stamp that holds the whole circle misses nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pogson.errors import PogsonValueError
from pogson.psf import PSF, PixelGridPSF, PsfNormalization, psf_from_dict
from pogson.psf.base import MAX_HALF_SIZE

__all__ = ["light_within", "nearest_position", "stamp_half_size"]

_CELL = 256  # pixels: a PSF hardly changes its wings over such a cell
_PIXELS_AT_ONCE = 2_000_000


def nearest_position(
    psf: PSF, *, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return positions on which a PSF is defined, and the whole pixels they were moved by.

    A source just off the box of its PSF is drawn with the PSF of the nearest pixel at its own
    sub-pixel phase: draw it at the position returned and move the stamp by the shift.

    Parameters
    ----------
    psf : PSF
        PSF, with or without a box.
    x, y : numpy.ndarray, shape (n,)
        Positions in pixels (0-based, centres on integers).

    Returns
    -------
    x, y : numpy.ndarray
        Positions inside the box of the PSF.
    shift_x, shift_y : numpy.ndarray of int
        What to add to return to the positions asked for; 0 inside the box.

    Examples
    --------
    >>> import numpy as np
    >>> from pogson.fields import Box
    >>> from pogson.psf import MoffatPSF
    >>> psf = MoffatPSF(3.0, 3.0, box=Box(0, 0, 100, 100))
    >>> nearest_position(psf, x=np.array([102.3]), y=np.array([50.0]))
    (array([99.3]), array([50.]), array([3]), array([0]))
    """
    if psf.box is None:
        zero = np.zeros(x.shape, np.int64)
        return x, y, zero, zero
    moved = []
    for values, low, high in (
        (x, psf.box.x_min, psf.box.x_max),
        (y, psf.box.y_min, psf.box.y_max),
    ):
        pixel = np.floor(values + 0.5)
        shift = pixel - np.clip(pixel, low, high)
        moved.append((values - shift, shift.astype(np.int64)))
    return moved[0][0], moved[1][0], moved[0][1], moved[1][1]


def light_within(psf: PSF, *, x: Any, y: Any, half_size: int) -> np.ndarray:
    """Return the light inside the stamps of half-size 0 to ``half_size``.

    Parameters
    ----------
    psf : PSF
        Unit flux is that of its normalisation.
    x, y : array_like, shape (n,)
        Positions in pixels (0-based, centres on integers).
    half_size : int
        Largest half-size.

    Returns
    -------
    light : numpy.ndarray, shape (n, half_size + 1)
        Sums of unit-flux stamps.

    Examples
    --------
    >>> from pogson.psf import MoffatPSF
    >>> psf = MoffatPSF(fwhm=3.5, beta=3.0)
    >>> light_within(psf, x=[10.0], y=[10.0], half_size=25)[0, [8, 12, 25]].round(4)
    array([0.9858, 0.9965, 0.9998])
    """
    return _ring_sums(psf, x, y, half_size, None)


def _ring_sums(psf: PSF, x: Any, y: Any, half_size: int, radius: np.ndarray | None) -> np.ndarray:
    """Return cumulative light in squares, of the whole stamp or of circles of given radii."""
    xs, ys = np.broadcast_arrays(*(np.atleast_1d(np.asarray(v, np.float64)) for v in (x, y)))
    half = int(half_size)
    side = 2 * half + 1
    offset = np.abs(np.arange(-half, half + 1))
    ring = np.maximum(offset[:, None], offset[None, :]).ravel()
    out = np.empty((xs.size, half + 1))
    step = max(1, _PIXELS_AT_ONCE // side**2)
    for start in range(0, xs.size, step):
        part = slice(start, start + step)
        stamps, x_min, y_min = psf.draw_many(x=xs[part], y=ys[part], half_size=half)
        if radius is not None:
            u = x_min[:, None] + np.arange(side) - xs[part, None]
            v = y_min[:, None] + np.arange(side) - ys[part, None]
            distance = np.sqrt(u[:, None, :] ** 2 + v[:, :, None] ** 2)
            # the share of a pixel inside the circle, well enough for what lies outside a stamp
            stamps *= np.clip(radius[part, None, None] - distance + 0.5, 0.0, 1.0)
        for k, stamp in enumerate(stamps, start):
            out[k] = np.cumsum(np.bincount(ring, stamp.ravel(), half + 1))
    return out


def stamp_half_size(
    psf: PSF,
    *,
    x: Any,
    y: Any,
    accuracy: float = 1e-4,
    radius: Any = None,
    max_half_size: int = MAX_HALF_SIZE,
) -> np.ndarray:
    """Return the smallest half-size of a stamp that keeps a measurement right.

    Parameters
    ----------
    psf : PSF
        PSF to be drawn.
    x, y : array_like, shape (n,)
        Positions in pixels (0-based, centres on integers).
    accuracy : float, optional
        Largest fraction of the light within `radius` (of all light, without a radius) that the
        stamp may miss.
    radius : float or array_like, shape (n,), optional
        Largest radius in pixels within which the source will be measured. None: the total.
    max_half_size : int, optional
        Limit; a half-size equal to it may miss more than `accuracy`.

    Returns
    -------
    half_size : numpy.ndarray of int, shape (n,)

    Raises
    ------
    BoundsError
        If the PSF is not defined at a position.
    PogsonValueError
        If the accuracy is not between 0 and 1 or a radius not positive.

    Notes
    -----
    The missing light is that of the PSF at the middle of the cell of 256 pixels a side around the
    source (or the point of the PSF's box nearest to it), for a star at a corner of its pixel, the
    worst place. It depends on nothing but the position, so that tiles agree; the fraction really
    deposited is counted when the source is drawn. A pixel counts as inside the circle by
    its distance from it.

    Examples
    --------
    >>> from pogson.psf import MoffatPSF
    >>> psf = MoffatPSF(fwhm=3.5, beta=3.0)
    >>> stamp_half_size(psf, x=[10.0, 600.0], y=[10.0, 20.0], accuracy=1e-3, radius=12.0)
    array([11, 11])
    >>> stamp_half_size(psf, x=10.0, y=10.0, accuracy=1e-3)
    array([17])
    """
    if not 0.0 < accuracy < 1.0:
        raise PogsonValueError(f"accuracy={accuracy!r} must be a fraction between 0 and 1.")
    xs, ys = psf._positions(np.atleast_1d(x), np.atleast_1d(y))
    if radius is None:
        reach = np.full(xs.size, np.inf)
    else:
        reach = np.broadcast_to(np.asarray(radius, np.float64), xs.shape)
        if not (reach > 0).all():
            raise PogsonValueError(
                f"radius={reach[~(reach > 0)][0]} must be positive, in pixels; or None."
            )
    # radii in steps of half a pixel: few different ones to work out
    reach = np.ceil(2.0 * reach) / 2.0
    cells = np.stack([np.floor(xs / _CELL), np.floor(ys / _CELL), reach])
    unique, inverse = np.unique(cells, axis=1, return_inverse=True)
    cx, cy = (unique[:2] + 0.5) * _CELL + 0.49
    cx, cy, _, _ = nearest_position(psf, x=cx, y=cy)
    return _smallest(psf, cx, cy, accuracy, unique[2], int(max_half_size))[inverse.ravel()]


def _smallest(
    psf: PSF, x: np.ndarray, y: np.ndarray, accuracy: float, reach: np.ndarray, limit: int
) -> np.ndarray:
    """Return half-sizes for positions with radii (infinite: the total)."""
    out = np.full(x.size, limit, np.int64)
    finite = np.isfinite(reach)
    for radius in np.unique(reach[finite]).tolist():
        rows = np.flatnonzero(reach == radius)
        half = min(int(np.ceil(radius)) + 1, limit)
        light = _ring_sums(psf, x[rows], y[rows], half, np.full(rows.size, radius))
        enough = light >= (1.0 - accuracy) * light[:, -1:]
        out[rows] = np.argmax(enough, axis=1)
    rows = np.flatnonzero(~finite)
    half = min(16, limit)
    if rows.size and isinstance(psf, PixelGridPSF):
        # samples end: what the whole grid holds is all there is
        half = min(psf.default_half_size(x=x[rows], y=y[rows]), limit)
        light = light_within(psf, x=x[rows], y=y[rows], half_size=half)
        out[rows] = np.argmax(light >= (1.0 - accuracy) * light[:, -1:], axis=1)
        return out
    whole = _with_total_flux(psf)
    while rows.size:
        enough = light_within(whole, x=x[rows], y=y[rows], half_size=half) >= 1.0 - accuracy
        done = enough.any(axis=1)
        out[rows[done]] = np.argmax(enough[done], axis=1)
        rows = rows[~done]
        if half == limit:
            break
        half = min(2 * half, limit)
    return out


def _with_total_flux(psf: PSF) -> PSF:
    """Return the same PSF with all its light as unit flux."""
    if psf.normalization.kind == "total":
        return psf
    total = PsfNormalization("total").to_dict()
    return psf_from_dict({**psf.to_dict(), "normalization": total})
