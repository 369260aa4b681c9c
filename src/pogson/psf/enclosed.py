"""The flux an aperture operator finds for a unit-flux star."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import PogsonValueError
from pogson.psf.apertures import ApertureOperator

if TYPE_CHECKING:
    from pogson.psf.base import PSF

__all__ = ["enclosed_energy", "sum_stamps"]

_CHUNK_PIXELS = 500_000
_PHASES = (np.arange(4) + 0.5) / 4 - 0.5


def sum_stamps(
    stamps: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    theta: np.ndarray,
    operator: ApertureOperator,
) -> np.ndarray:
    """Sum ellipses (n, r) on stamps (n, m, m), each with its own centre.

    Parameters
    ----------
    stamps : numpy.ndarray, shape (n, m, m)
        One image per source.
    x, y : numpy.ndarray, shape (n,)
        Centres in pixels of each stamp.
    a, b, theta : numpy.ndarray, shape (n, r)
        Ellipses (pixels, radians).
    operator : ApertureOperator
        How pixels are summed.

    Returns
    -------
    sums : numpy.ndarray, shape (n, r)
        Pixels outside the stamp count as 0.
    """
    out = np.empty(a.shape)
    if operator.kind == "sinc":
        from pogson.psf.sinc import sinc_box_size, sinc_coefficients

        m = stamps.shape[1]
        for r in range(a.shape[1]):
            size = sinc_box_size(float(max(a[:, r].max(), b[:, r].max())))
            ix, iy = np.floor(x + 0.5), np.floor(y + 0.5)
            weights = sinc_coefficients(x - ix, y - iy, a[:, r], b[:, r], theta[:, r], size)
            for k in range(x.size):
                # overlap of the coefficient box with the stamp
                i0, j0 = int(ix[k]) - size // 2, int(iy[k]) - size // 2
                i_low, i_high = max(i0, 0), min(i0 + size, m)
                j_low, j_high = max(j0, 0), min(j0 + size, m)
                out[k, r] = np.sum(
                    weights[k, j_low - j0 : j_high - j0, i_low - i0 : i_high - i0]
                    * stamps[k, j_low:j_high, i_low:i_high]
                )
        return out
    from pogson.psf import _aperture_kernels as kernels

    kernels.stack_sums(
        stamps, np.zeros((0, 0), bool), np.ascontiguousarray(x), np.ascontiguousarray(y),
        np.ascontiguousarray(a), np.ascontiguousarray(b), np.ascontiguousarray(theta),
        operator._samples, stamps.shape[1] + 2, out,
    )  # fmt: skip
    return out


def _ellipses(
    n: int, radius: Any, a: Any, b: Any, theta: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a, b, theta of shape (n, r), checked."""
    if (radius is None) == (a is None):
        raise PogsonValueError("Give either radius (circles) or a, b, theta (an ellipse per star).")
    if radius is not None:
        if b is not None:
            raise PogsonValueError("b goes with a, not with radius.")
        radii = np.atleast_1d(np.asarray(radius, np.float64))
        if radii.ndim != 1:
            raise PogsonValueError(
                f"radius must be a number or a 1-d sequence, not of shape {radii.shape}."
            )
        aa = np.broadcast_to(radii, (n, radii.size))
        bb, tt = aa, np.zeros(aa.shape)
    else:
        try:
            aa, bb, tt = (
                np.broadcast_to(np.asarray(v, np.float64).ravel(), (n,))[:, None]
                for v in (a, a if b is None else b, theta)
            )
        except ValueError:
            raise PogsonValueError(
                f"a, b, theta must each be one number or one per star ({n})."
            ) from None
    wrong = ~((aa > 0) & (bb > 0) & (aa <= 500) & (bb <= 500))
    if wrong.any():
        raise PogsonValueError(
            f"Aperture radius {np.minimum(aa, bb)[wrong][0]:.6g} must be positive and at most "
            "500 pixels."
        )
    if not np.isfinite(tt).all():
        raise PogsonValueError("Aperture angle theta must be finite (radians).")
    return aa, bb, tt


def enclosed_energy(
    psf: PSF,
    radius: Any,
    operator: ApertureOperator | str | None,
    *,
    x: Any,
    y: Any,
    a: Any,
    b: Any,
    theta: Any,
    phase: str,
) -> Any:
    """Compute `PSF.enclosed_energy`; see there."""
    chosen = ApertureOperator.exact() if operator is None else ApertureOperator.parse(operator)
    if phase not in ("source", "mean"):
        raise PogsonValueError(f"Unknown phase {phase!r}; allowed: 'source' or 'mean'.")
    shape = np.broadcast_shapes(np.shape(x), np.shape(y), np.shape(a), np.shape(b))
    if radius is not None:
        shape = np.broadcast_shapes(np.shape(x), np.shape(y))
    xs, ys = psf._positions(np.broadcast_to(x, shape), np.broadcast_to(y, shape))
    n = xs.size
    aa, bb, tt = _ellipses(n, radius, a, b, theta)
    out = np.empty(aa.shape)
    if n and aa.shape[1]:
        reach = float(max(aa.max(), bb.max()))
        if chosen.kind == "sinc":
            from pogson.psf.sinc import sinc_box_size

            half = sinc_box_size(reach) // 2
        else:
            half = int(np.ceil(reach)) + 1
        half = min(half, 512)
        step = max(1, _CHUNK_PIXELS // (2 * half + 1) ** 2)
        for start in range(0, n, step):
            part = slice(start, start + step)
            out[part] = _chunk(psf, xs[part], ys[part], aa[part], bb[part], tt[part], half,
                               chosen, phase)  # fmt: skip
    one_radius = radius is None or np.ndim(radius) == 0
    n_radii = int(aa.shape[1])
    result = out.reshape(shape if one_radius else (*shape, n_radii))
    return float(result) if result.ndim == 0 else result


def _chunk(
    psf: PSF, x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray, theta: np.ndarray,
    half: int, operator: ApertureOperator, phase: str,
) -> np.ndarray:  # fmt: skip
    """Draw stars and sum them, at their own phase or averaged over phases."""
    stamps: np.ndarray
    if phase == "source":
        stamps, x_min, y_min = psf.draw_many(x=x, y=y, half_size=half)
        return sum_stamps(stamps, x - x_min, y - y_min, a, b, theta, operator)
    total = np.zeros(a.shape)
    cx, cy = np.floor(x + 0.5), np.floor(y + 0.5)
    if psf.box is not None:
        # a position on the very edge of the box rounds to a pixel outside
        cx = np.clip(cx, psf.box.x_min, psf.box.x_max)
        cy = np.clip(cy, psf.box.y_min, psf.box.y_max)
    for fy in _PHASES:
        for fx in _PHASES:
            # move the star within its pixel: the PSF changes negligibly, the phase fully
            xs, ys = cx + fx, cy + fy
            stamps, x_min, y_min = psf.draw_many(x=xs, y=ys, half_size=half)
            total += sum_stamps(stamps, xs - x_min, ys - y_min, a, b, theta, operator)
    return total / _PHASES.size**2
