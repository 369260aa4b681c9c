"""Least-squares fits and approximations that give Chebyshev fields."""

from __future__ import annotations

from typing import Any

import numpy as np

from pogson.errors import BoundsError, PogsonTypeError, PogsonValueError
from pogson.fields.base import Field, checked_box, checked_unit
from pogson.fields.box import Box
from pogson.fields.chebyshev import ChebyshevField, _free_mask, chebyshev_basis, orders
from pogson.fields.constant import split_quantity
from pogson.units import strip_unit

__all__ = ["approximate", "fit_points"]

# Rows of the design matrix factored at a time, so that a whole image can be fitted.
_CHUNK = 32768


def fit_points(
    cls: type[ChebyshevField],
    box: Box,
    x: Any,
    y: Any,
    values: Any,
    *,
    order: int | None = None,
    order_x: int | None = None,
    order_y: int | None = None,
    total: bool = True,
    weights: Any = None,
    unit: Any = None,
    domain: tuple[float, float, float, float] | None = None,
    want_covariance: bool = False,
) -> tuple[ChebyshevField, np.ndarray]:
    """Fit a Chebyshev field to points; see `ChebyshevField.fit`."""
    nx, ny = orders(order, order_x, order_y)
    values, unit = split_quantity(values, unit, "values")
    xa, ya, za, wa = _checked_points(checked_box(box), x, y, values, weights)
    blank = cls(box, np.zeros((ny + 1, nx + 1)), checked_unit(unit), domain=domain, total=total)
    n_free = len(blank.free_coefficients)
    n_used = int(np.count_nonzero(wa))
    if n_used < n_free:
        raise PogsonValueError(
            f"{n_used} points with weight above 0 (of {za.size}) cannot determine the {n_free} "
            f"coefficients of order_x={nx}, order_y={ny}, total={total}; lower the order."
        )
    r, rhs, residual = _triangular(blank, xa, ya, za, wa)
    _check_rank(r, n_free, n_used)
    inverse = np.linalg.inv(r)
    c = np.zeros((ny + 1, nx + 1))
    c[_free_mask(c.shape, total)] = np.linalg.solve(r, rhs)
    field = blank._like(c)
    if not want_covariance:
        return field, np.empty((0, 0))
    covariance = inverse @ inverse.T
    if weights is None:
        if n_used == n_free:
            raise PogsonValueError(
                f"{n_used} points and {n_free} coefficients leave no scatter to estimate a "
                "covariance from; give weights= (1/sigma) or more points."
            )
        covariance *= residual**2 / (n_used - n_free)
    return field, covariance


def _checked_points(
    box: Box, x: Any, y: Any, values: Any, weights: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return flat float64 points, all finite and inside the box."""
    given = {
        name: strip_unit(value, unit, name)
        for name, value, unit in (("x", x, "pix"), ("y", y, "pix"), ("values", values, ""))
    }
    given["weights"] = (
        np.ones(given["values"].shape) if weights is None else np.asarray(weights, np.float64)
    )
    shapes = {name: a.shape for name, a in given.items()}
    if len(set(shapes.values())) != 1:
        raise PogsonValueError(f"x, y, values and weights must have one shape; got {shapes}.")
    flat = {name: a.ravel() for name, a in given.items()}
    for name, a in flat.items():
        bad = np.flatnonzero(~np.isfinite(a))
        if bad.size:
            raise PogsonValueError(
                f"{bad.size} of {a.size} {name} are not finite, the first at row {bad[0]} "
                f"({a[bad[0]]}); drop these rows or give them weight 0 and a finite value."
            )
    negative = np.flatnonzero(flat["weights"] < 0)
    if negative.size:
        raise PogsonValueError(
            f"{negative.size} weights are negative, the first at row {negative[0]} "
            f"({flat['weights'][negative[0]]}); weights are 1/sigma, or 0 to leave a point out."
        )
    outside = np.flatnonzero(~box.contains(x=flat["x"], y=flat["y"]))
    if outside.size:
        i = outside[0]
        raise BoundsError(
            f"{outside.size} of {flat['x'].size} points are outside {box}, the first at row {i}: "
            f"x={flat['x'][i]:.10g}, y={flat['y'][i]:.10g}."
        )
    return flat["x"], flat["y"], flat["values"], flat["weights"]


def _triangular(
    blank: ChebyshevField, x: np.ndarray, y: np.ndarray, z: np.ndarray, w: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Reduce weighted rows to R c = rhs by QR, chunk by chunk; also the residual's norm.

    QR keeps the accuracy that normal equations square away (Golub & Van Loan, Matrix
    Computations, section 5.3); stacking the R of earlier chunks on the next one keeps the memory
    bounded.
    """
    n = len(blank.free_coefficients)
    stack = np.empty((0, n + 1))
    for start in range(0, z.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        rows = np.column_stack([blank.basis(x=x[part], y=y[part]), z[part]]) * w[part, np.newaxis]
        stack = np.asarray(np.linalg.qr(np.vstack([stack, rows]), mode="r"))
    residual = float(abs(stack[n, n])) if stack.shape[0] > n else 0.0
    return stack[:n, :n], stack[:n, n], residual


def _check_rank(r: np.ndarray, n_free: int, n_used: int) -> None:
    """Raise when the positions do not determine every coefficient."""
    scale = np.linalg.norm(r, axis=0)
    singular = np.linalg.svd(r / np.where(scale > 0, scale, 1.0), compute_uv=False)
    rank = int(np.count_nonzero(singular > singular[0] * 1e-11)) if singular[0] > 0 else 0
    if rank < n_free:
        raise PogsonValueError(
            f"The positions of the {n_used} points determine only {rank} of the {n_free} "
            "coefficients (they lie on a line, a curve or a few places); lower the order."
        )


def approximate(
    cls: type[ChebyshevField], other: Field, order: tuple[int, int], total: bool
) -> ChebyshevField:
    """Project a field on Chebyshev polynomials; see `ChebyshevField.approximate`."""
    if not isinstance(other, Field):
        raise PogsonTypeError(f"Only a Field can be approximated, not {type(other).__name__}.")
    degrees = other._degrees() or (0, 0)
    axes = []
    for k in (0, 1):
        # discrete orthogonality on n nodes holds for degrees below n; more nodes damp aliasing
        n = max(3 * (order[k] + 1), degrees[k] + 1, 16)
        t = np.cos(np.pi * (np.arange(n) + 0.5) / n)
        projection = chebyshev_basis(t, order[k]) * (2.0 / n)
        projection[0] *= 0.5
        size = (other.box.nx, other.box.ny)[k]
        axes.append((other.box.center[k] + 0.5 * size * t, projection))
    (x, px), (y, py) = axes
    samples = np.empty((y.size, x.size))
    other._rows(x, y)(0, y.size, samples)
    c = py @ samples @ px.T
    if total:
        c = np.where(_free_mask(c.shape, True), c, 0.0)
    return cls(other.box, c, other.unit, total=total)
