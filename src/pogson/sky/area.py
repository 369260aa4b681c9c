"""Chebyshev approximation of the pixel area of a sky map."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import astropy.units as u
import numpy as np

from pogson.errors import PogsonValueError, PogsonWarning, UnitMismatchError
from pogson.fields.box import Box

if TYPE_CHECKING:
    from pogson.fields import PixelAreaField
    from pogson.sky.base import SkyMap

__all__ = ["approximate_pixel_area", "chebyshev_coefficients"]

# Orders sampled in turn; each needs (order + 1)^2 Jacobians, so the last is taken rarely.
_SAMPLED_ORDERS = (6, 12, 20, 32, 48, 64)


def approximate_pixel_area(
    sky: SkyMap, box: Box, *, unit: u.UnitBase, tolerance: float, max_order: int
) -> PixelAreaField:
    """Fit the pixel area of a sky map; see `pogson.sky.SkyMap.pixel_area_field`."""
    from pogson.fields import ChebyshevField, PixelAreaField

    if not tolerance > 0:
        raise PogsonValueError(f"tolerance must be positive, not {tolerance!r}; for example 1e-6.")
    if int(max_order) != max_order or max_order < 0:
        raise PogsonValueError(f"max_order must be a whole number >= 0, not {max_order!r}.")
    try:
        factor = float((u.arcsec**2).to(unit))
    except (u.UnitConversionError, TypeError, ValueError):
        raise UnitMismatchError(
            f"A pixel area cannot be in {unit!r}; use a solid angle such as arcsec2 or deg2, and "
            f"PixelAreaField.relative_to(area0) for a dimensionless ratio."
        ) from None
    coefficients, error = _adaptive(sky, box, tolerance, int(max_order))
    if not error <= tolerance:
        warnings.warn(
            f"The pixel-area field of {type(sky).__name__} over {box} has a relative error of "
            f"{error:.2g} at Chebyshev order {max_order}, above the tolerance {tolerance:.2g}.",
            PogsonWarning,
            stacklevel=3,
        )
    field = ChebyshevField(box, coefficients * factor, unit=unit)
    return PixelAreaField(field, achieved_error=error, reference="sky")


def chebyshev_coefficients(values: np.ndarray) -> np.ndarray:
    """Return coefficients of the polynomial through values at the nodes of `chebyshev_nodes`.

    Parameters
    ----------
    values : numpy.ndarray, shape (n, m)
        Function values at the first-kind nodes along y (first axis) and x.

    Returns
    -------
    coefficients : numpy.ndarray, shape (n, m)
        ``c[j, i]`` of ``T_i(x) T_j(y)``.

    Notes
    -----
    The discrete orthogonality of Chebyshev polynomials on first-kind nodes (Mason & Handscomb 2002,
    "Chebyshev Polynomials", section 4.6) makes this two small matrix products.
    """
    return _analysis(values.shape[0]) @ values @ _analysis(values.shape[1]).T


def chebyshev_nodes(n: int) -> np.ndarray:
    """Return the ``n`` first-kind Chebyshev nodes on [-1, 1]."""
    return np.cos(np.pi * (np.arange(n) + 0.5) / n)


def _analysis(n: int) -> np.ndarray:
    matrix = np.cos(np.outer(np.arange(n), np.pi * (np.arange(n) + 0.5) / n)) * 2.0 / n
    matrix[0] /= 2.0
    return matrix


def _grid(box: Box, u_axis: np.ndarray, v_axis: np.ndarray) -> dict[str, np.ndarray]:
    """Return pixel positions of a grid given in [-1, 1] over the box's outer edges."""
    (x0, x1), (y0, y1) = box.x_bounds, box.y_bounds
    x = 0.5 * (x0 + x1) + 0.5 * (x1 - x0) * u_axis
    y = 0.5 * (y0 + y1) + 0.5 * (y1 - y0) * v_axis
    return {"x": x[np.newaxis, :], "y": y[:, np.newaxis]}


def _area(sky: SkyMap, positions: dict[str, np.ndarray]) -> np.ndarray:
    area: np.ndarray = sky.pixel_area(**positions)
    bad = ~(np.isfinite(area) & (area > 0))
    if bad.any():
        i, j = np.argwhere(bad)[0]
        raise PogsonValueError(
            f"The sky map gives no pixel area at x={positions['x'][0, j]:.6g}, "
            f"y={positions['y'][i, 0]:.6g} ({int(bad.sum())} of {bad.size} positions tried); "
            f"a pixel-area field needs a box inside which the map is defined everywhere."
        )
    return area


def _adaptive(sky: SkyMap, box: Box, tolerance: float, max_order: int) -> tuple[Any, float]:
    """Return coefficients of the lowest sufficient order, and the largest relative error."""
    # Edges and corners are in the test grid; its interior points are no Chebyshev nodes.
    axis = np.sort(np.concatenate([[-1.0, 1.0], np.cos(np.pi * (np.arange(24) + 0.31) / 24.0)]))
    truth = _area(sky, _grid(box, axis, axis))
    basis = np.polynomial.chebyshev.chebvander(axis, max_order)

    def error(c: np.ndarray) -> float:
        model = basis[:, : c.shape[0]] @ c @ basis[:, : c.shape[1]].T
        return float(np.max(np.abs(model / truth - 1.0)))

    best: tuple[np.ndarray, float] | None = None
    for order in [o for o in _SAMPLED_ORDERS if o < max_order] + [max_order]:
        nodes = chebyshev_nodes(order + 1)
        full = chebyshev_coefficients(_area(sky, _grid(box, nodes, nodes)))
        achieved = error(full)
        if best is None or achieved < best[1]:
            best = full, achieved
        if achieved <= tolerance:
            break
    assert best is not None
    full, achieved = best
    if achieved <= tolerance:
        for order in range(full.shape[0]):
            cut = full[: order + 1, : order + 1]
            if (cut_error := error(cut)) <= tolerance:
                return cut, cut_error
    return full, achieved
