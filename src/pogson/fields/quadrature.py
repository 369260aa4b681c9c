"""Integrals of fields over a box by Gauss-Legendre quadrature.

A field made of polynomial pieces is integrated exactly, piece by piece, with the number of nodes
that its degree needs (n nodes are exact up to degree 2 n - 1). Any other field, as a quotient, is
integrated with a growing number of nodes until two successive rules agree. Products with tables
of the radius have kinks along circles: for them it is the midpoint rule with cells of two of their
steps.
"""

from __future__ import annotations

import heapq
import itertools
import warnings
from typing import NamedTuple

import numpy as np

from pogson.errors import PogsonWarning
from pogson.fields.base import Field
from pogson.fields.box import Box
from pogson.fields.chebyshev import gauss_legendre

__all__ = ["TOLERANCE", "integrate"]

TOLERANCE = 1e-12
"""Relative agreement of two successive rules at which an integral counts as converged."""

_BLOCK_VALUES = 2**17

# At most this many evaluations for one rule, and this many cells of the adaptive rule; beyond them
# the achieved agreement is reported.
_MAX_VALUES = 2**28
_MAX_CELLS = 8000


def integrate(field: Field, box: Box) -> float:
    """Integrate a field over a box.

    Parameters
    ----------
    field : Field
        The field.
    box : Box
        Pixel box inside the field's; the integral runs to its outer pixel edges.

    Returns
    -------
    integral : float
        In the field's unit times pixels squared.

    Warns
    -----
    PogsonWarning
        If a field that is not a polynomial did not converge to `TOLERANCE`.

    Examples
    --------
    >>> from pogson.fields import ChebyshevField
    >>> ramp = ChebyshevField(Box(0, 0, 10, 10), [[2.0, 1.0]])
    >>> round(integrate(1 / ramp, ramp.box), 9)        # 100 * ln(3) / 2
    54.930614433
    """
    texture = field._texture()
    if texture is not None:  # kinks along circles, as in products with tree rings
        edges = [
            np.linspace(a, b, int(np.ceil((b - a) / (2.0 * texture))) + 1)
            for a, b in (box.x_bounds, box.y_bounds)
        ]
        return _apply(field, edges[0], edges[1], 1, 1)[0]
    x_breaks, y_breaks = field._breaks()
    x_edges = _edges(box.x_bounds, x_breaks)
    y_edges = _edges(box.y_bounds, y_breaks)
    degrees = field._degrees()
    if degrees is not None:
        return _apply(field, x_edges, y_edges, degrees[0] // 2 + 1, degrees[1] // 2 + 1)[0]
    return _refine(field, x_edges, y_edges)


def _edges(bounds: tuple[float, float], breaks: np.ndarray) -> np.ndarray:
    inside = breaks[(breaks > bounds[0]) & (breaks < bounds[1])]
    return np.concatenate([[bounds[0]], inside, [bounds[1]]])


def _refine(field: Field, x_edges: np.ndarray, y_edges: np.ndarray) -> float:
    """Double the nodes on every piece; where that does not do, split the pieces that need it."""
    pieces = (x_edges.size - 1) * (y_edges.size - 1)
    n = 8 if pieces <= _MAX_CELLS // 16 else 2
    previous, _ = _apply(field, x_edges, y_edges, n, n)
    agreement = np.inf
    while n < 32 and 4 * pieces * n * n <= _MAX_VALUES:
        n *= 2
        value, size = _apply(field, x_edges, y_edges, n, n)
        agreement = abs(value - previous) / size if size > 0 else 0.0
        if agreement <= TOLERANCE:
            return value
        previous = value
    if pieces <= _MAX_CELLS // 16:
        previous, agreement = _split(field, x_edges, y_edges)
    if agreement > TOLERANCE:
        warnings.warn(
            f"The integral of this {type(field).__name__} converged to a relative "
            f"{agreement:.1e} only, not {TOLERANCE:.0e}: does its denominator come close to zero?",
            PogsonWarning,
            stacklevel=2,
        )
    return previous


def _split(field: Field, x_edges: np.ndarray, y_edges: np.ndarray) -> tuple[float, float]:
    """Integrate by halving the worst cell, along its rougher axis, until the errors are small."""
    order = itertools.count()
    cells: list[tuple[float, int, _Cell]] = []

    def push(bounds: tuple[float, float, float, float]) -> None:
        cell = _measure(field, bounds)
        heapq.heappush(cells, (-cell.error, next(order), cell))

    for x0, x1 in itertools.pairwise(x_edges):
        for y0, y1 in itertools.pairwise(y_edges):
            push((x0, x1, y0, y1))
    while True:
        size = sum(c.size for _, _, c in cells)
        error = sum(c.error for _, _, c in cells)
        if error <= TOLERANCE * size or len(cells) > _MAX_CELLS:
            return sum(c.value for _, _, c in cells), error / size if size > 0 else 0.0
        # a tenth of the cells at a time, so that the sums above cost little
        for _ in range(1 + len(cells) // 10):
            cell = heapq.heappop(cells)[2]
            x0, x1, y0, y1 = cell.bounds
            if cell.split_x:
                push((x0, 0.5 * (x0 + x1), y0, y1))
                push((0.5 * (x0 + x1), x1, y0, y1))
            else:
                push((x0, x1, y0, 0.5 * (y0 + y1)))
                push((x0, x1, 0.5 * (y0 + y1), y1))


class _Cell(NamedTuple):
    """One cell of the adaptive rule."""

    bounds: tuple[float, float, float, float]
    value: float
    size: float
    error: float
    split_x: bool


def _measure(field: Field, bounds: tuple[float, float, float, float]) -> _Cell:
    """Integrate one cell by two rules, and see along which axis the field is rougher."""
    x_edges, y_edges = np.array(bounds[:2]), np.array(bounds[2:])
    coarse, _ = _apply(field, x_edges, y_edges, 10, 10)
    x, wx = _nodes(x_edges, 20)
    y, wy = _nodes(y_edges, 20)
    values = np.empty((20, 20))
    field._rows(x, y)(0, 20, values)
    value, size = float(wy @ values @ wx), float(wy @ np.abs(values) @ wx)
    # the last Legendre coefficients along an axis tell how well it is resolved
    tail = np.polynomial.legendre.legvander(gauss_legendre(20)[0], 19)[:, -3:]
    tail = tail * gauss_legendre(20)[1][:, np.newaxis]
    rough_x, rough_y = np.abs(values @ tail).sum(), np.abs(tail.T @ values).sum()
    return _Cell(bounds, value, size, abs(value - coarse), bool(rough_x >= rough_y))


def _nodes(edges: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes and weights of the n-point rule on every piece."""
    t, w = gauss_legendre(n)
    half = 0.5 * np.diff(edges)[:, np.newaxis]
    middle = 0.5 * (edges[1:] + edges[:-1])[:, np.newaxis]
    return (middle + half * t).ravel(), (half * w).ravel()


def _apply(
    field: Field, x_edges: np.ndarray, y_edges: np.ndarray, nx: int, ny: int
) -> tuple[float, float]:
    """Return the integral by one rule, and that of the absolute value."""
    x, wx = _nodes(x_edges, nx)
    y, wy = _nodes(y_edges, ny)
    fill = field._rows(x, y)
    step = max(1, _BLOCK_VALUES // x.size)
    block = np.empty((min(step, y.size), x.size))
    value = size = 0.0
    for start in range(0, y.size, step):
        stop = min(start + step, y.size)
        part = block[: stop - start]
        fill(start, stop, part)
        value += float(wy[start:stop] @ (part @ wx))
        size += float(wy[start:stop] @ (np.abs(part) @ wx))
    return value, size
