"""Source flags from the pixels of a mask."""

from __future__ import annotations

from typing import Any

import numpy as np

from pogson.images.exposure import Exposure
from pogson.images.flags import SourceFlag
from pogson.images.mask import BAD_FOR_PHOTOMETRY

__all__ = ["mask_flags"]

_FLAGS = {
    SourceFlag.SATURATED: ("SATURATED", "BLEED"),
    SourceFlag.NO_DATA: ("NO_DATA",),
    SourceFlag.SUSPECT: ("SUSPECT", "INTERPOLATED"),
    SourceFlag.BAD_PIXEL: BAD_FOR_PHOTOMETRY,
}


def mask_flags(
    exposure: Exposure,
    *,
    x: Any,
    y: Any,
    radius: Any = None,
    ellipse: tuple[Any, Any, Any] | None = None,
) -> np.ndarray:
    """Return flags for the masked pixels inside circles or ellipses.

    Parameters
    ----------
    exposure : Exposure
        With the mask to look at; without a mask all flags are 0.
    x, y : array_like, shape (n,)
        Centres in pixels (0-based, centres on integers); positions that are not finite get 0.
    radius : array_like, optional
        Radius of circles in pixels.
    ellipse : tuple of array_like, optional
        Semi-axes a, b (pixels) and angle theta (radians from +x) instead of ``radius``.

    Returns
    -------
    numpy.ndarray of int32, shape (n,)
        SATURATED, NO_DATA, SUSPECT and BAD_PIXEL of `SourceFlag`.

    Examples
    --------
    >>> import numpy as np
    >>> from pogson.images import Exposure, SourceFlag
    >>> mask = np.zeros((9, 9), np.uint32)
    >>> mask[4, 4] = 1 << 2
    >>> exposure = Exposure(np.ones((9, 9)), mask=mask, unit="adu", measure="fluence")
    >>> flags = mask_flags(exposure, x=[4.0, 0.0], y=[4.0, 0.0], radius=2)
    >>> SourceFlag(int(flags[0])), int(flags[1])
    (<SourceFlag.BAD_PIXEL|SATURATED: 6>, 0)
    """
    from pogson.images import _kernels

    xs, ys = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(y, np.float64))
    flags = np.zeros(xs.shape, np.int32)
    if exposure.mask is None or not xs.size:
        return flags
    if ellipse is None:
        ellipse = (radius, radius, 0.0)
    a, b, theta = (
        np.ascontiguousarray(np.broadcast_to(np.asarray(v, np.float64), xs.shape)) for v in ellipse
    )
    value = np.zeros(xs.shape, np.uint32)
    _kernels.mask_or(
        np.ascontiguousarray(exposure.mask),
        xs - exposure.box.x_min,
        ys - exposure.box.y_min,
        a,
        b,
        theta,
        value,
    )
    for flag, names in _FLAGS.items():
        bits = np.uint32(exposure.mask_bits.value_of_known(names))
        flags[(value & bits) != 0] |= int(flag)
    return flags
