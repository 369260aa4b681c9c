"""How much the pixels of a star may differ between inputs because their PSFs do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["seeing_fractions"]

_HALF = 12
_FAINTEST = 3e-3  # of the peak: what is fainter drowns in the noise term
_SAFETY = 1.5
_LEAST = 0.05  # registration and PSF models are not perfect
_LARGEST = 3.0


def seeing_fractions(found: Sequence[Any], weights: np.ndarray, reach: int) -> np.ndarray:
    """Return for each input the largest difference of its PSF from the reference, over the flux.

    Parameters
    ----------
    found : sequence of Contribution
        Inputs, all with PSFs.
    weights : numpy.ndarray
        Their weights.
    reach : int
        The flux is the largest of the reference within this many pixels.

    Returns
    -------
    fractions : numpy.ndarray, shape (n,)
        At least 0.05.
    """
    from scipy.ndimage import maximum_filter

    stamps = np.array([_stamp(one) for one in found])
    # of two inputs the lower is the reference, and the one with the wider PSF exceeds it outside
    reference = np.median(stamps, axis=0) if len(stamps) > 2 else stamps.min(axis=0)
    near = maximum_filter(reference, size=2 * reach + 1)
    used = near > _FAINTEST * near.max()
    worst = np.array([float(np.max(np.abs(s - reference)[used] / near[used])) for s in stamps])
    return np.clip(_SAFETY * worst + _LEAST, _LEAST, _LARGEST)


def _stamp(one: Any) -> np.ndarray:
    """Return the input's resampled PSF, centred, at the middle of where it overlaps."""
    from pogson.images.coadd_psf import CoaddPSF, PsfInput

    sky = one.sky_out
    x, y = one.part.center
    u, v = one.sky.pixel(*sky.sky(x=x, y=y))
    if not (np.isfinite(u) and np.isfinite(v)):
        u, v = one.box.center
    u = min(max(u, one.box.x_min + 1.0), one.box.x_max - 1.0)
    v = min(max(v, one.box.y_min + 1.0), one.box.y_max - 1.0)
    x, y = sky.pixel(*one.sky.sky(x=u, y=v))
    psf = CoaddPSF([PsfInput(one.psf, one.sky, one.box, 1.0, one.resampling)], sky)
    return psf.draw_many(x=[np.floor(x + 0.5)], y=[np.floor(y + 0.5)], half_size=_HALF)[0][0]
