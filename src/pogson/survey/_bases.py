"""Polynomial bases at detections and as fields over a detector's box."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pogson.errors import ConfigError
from pogson.fields import Box, ChebyshevField, Field
from pogson.fields.chebyshev import chebyshev_basis

_CHUNK = 65536


def check_order(order: Any, name: str, *, constant: bool = False) -> None:
    """Raise a ConfigError unless the order of a term is a whole number that gives parameters."""
    if isinstance(order, bool) or not isinstance(order, (int, np.integer)):
        raise ConfigError(f"Term {name!r}: order {order!r} must be a whole number.")
    if order < 1 - constant:
        raise ConfigError(f"Term {name!r} of order {order} has no parameters.")


def orders(order: int, constant: bool) -> list[tuple[int, int]]:
    """Pairs (i, j) with i + j <= order, by total degree; (0, 0) only with ``constant``."""
    pairs = [(d - j, j) for d in range(order + 1) for j in range(d + 1)]
    return pairs if constant else pairs[1:]


def design_2d(u: np.ndarray, v: np.ndarray, pairs: list[tuple[int, int]]) -> np.ndarray:
    """T_i(u) T_j(v) for each pair, shape (n, pairs); in chunks, to stay in the cache."""
    order = max(max(p) for p in pairs)
    out = np.empty((u.size, len(pairs)))
    for a in range(0, u.size, _CHUNK):
        part = slice(a, a + _CHUNK)
        tu = chebyshev_basis(np.asarray(u[part], np.float64), order)
        tv = chebyshev_basis(np.asarray(v[part], np.float64), order)
        for k, (i, j) in enumerate(pairs):
            np.multiply(tu[i], tv[j], out=out[part, k])
    return out


def interpolated(
    function: Callable[[np.ndarray, np.ndarray], np.ndarray], box: Box, order: int
) -> Field:
    """The Chebyshev field of an order that equals a function at the Chebyshev nodes of a box.

    Exact for polynomials up to the order in each variable.
    """
    n = order + 1
    nodes = np.cos(np.pi * (np.arange(n) + 0.5) / n)
    (x0, x1), (y0, y1) = box.x_bounds, box.y_bounds
    x = 0.5 * ((x1 - x0) * nodes + x0 + x1)
    y = 0.5 * ((y1 - y0) * nodes + y0 + y1)
    gx, gy = np.meshgrid(x, y)
    values = function(gx.ravel(), gy.ravel()).reshape(n, n)
    analysis = chebyshev_basis(nodes, order) * (2.0 / n)
    analysis[0] *= 0.5
    return ChebyshevField(box, analysis @ values @ analysis.T)
