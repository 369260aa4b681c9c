"""Fields that follow a table of one coordinate or of the distance from a centre.

Tree rings are a table of the radius, the glowing or dark edges of thick CCDs one of a column.
Pixel convention: 0-based, pixel centres on integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import astropy.units as u
import numpy as np

from pogson.errors import PogsonValueError, choices
from pogson.fields.base import Field, checked_box, checked_unit, finite_array, finite_float
from pogson.fields.box import Box

__all__ = ["TableField"]

_AXES = ("x", "y", "radius")


class TableField(Field):
    """A piecewise linear table of x, of y or of the distance from a centre.

    Parameters
    ----------
    box : Box
        Pixel box (0-based, pixel centres on integers).
    axis : {"x", "y", "radius"}
        Argument of the table, pixels.
    start, step : float
        Argument of the first node and spacing of the nodes, pixels.
    values : array_like, shape (n,)
        Values at the nodes, at least two; beyond the first and last node their values hold.
    center : tuple of float, optional
        x and y of the centre of "radius", which may lie outside the box.
    unit : unit-like, optional
        Unit of the values; dimensionless by default.

    Raises
    ------
    PogsonValueError
        If the axis is unknown, the step not positive, or there are fewer than two finite values.

    Notes
    -----
    The templates of Bernstein et al. (2017, PASP 129, 114502) are of this kind.

    Examples
    --------
    >>> ring = TableField(Box(0, 0, 100, 100), "radius", 0.0, 50.0, [0.0, 1.0, 0.0])
    >>> ring(x=[30.0, 0.0], y=[40.0, 75.0])
    array([1. , 0.5])
    """

    __slots__ = ("_axis", "_center", "_start", "_step", "_values")
    kind = "table"
    _axis: str
    _center: tuple[float, float]
    _start: float
    _step: float
    _values: np.ndarray

    def __init__(
        self,
        box: Box,
        axis: str,
        start: float,
        step: float,
        values: Any,
        center: Any = (0.0, 0.0),
        unit: Any = None,
    ) -> None:
        if axis not in _AXES:
            raise PogsonValueError(f"Unknown axis {axis!r} of a table; allowed: {choices(_AXES)}.")
        v = finite_array(values, "values", 1)
        width = finite_float(step, "step")
        if v.size < 2 or width <= 0:
            raise PogsonValueError(
                f"A table needs two values or more and a positive step; got {v.size} and {width}."
            )
        if not isinstance(center, list | tuple) or len(center) != 2:
            raise PogsonValueError(f"center must be two numbers x, y; got {center!r}.")
        self._set(
            _box=checked_box(box), _unit=checked_unit(unit), _axis=axis, _values=v,
            _start=finite_float(start, "start"), _step=width,
            _center=(finite_float(center[0], "center x"), finite_float(center[1], "center y")),
        )  # fmt: skip

    @property
    def axis(self) -> str:
        """Argument of the table: "x", "y" or "radius"."""
        return self._axis

    @property
    def center(self) -> tuple[float, float]:
        """X and y of the centre of "radius", pixels."""
        return self._center

    @property
    def nodes(self) -> np.ndarray:
        """Arguments of the nodes, pixels."""
        return np.asarray(self._start + self._step * np.arange(self._values.size))

    @property
    def values(self) -> np.ndarray:
        """Values at the nodes, in `unit`, read-only."""
        return self._values

    def _evaluate(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        if self._axis == "radius":
            argument = np.hypot(x - self._center[0], y - self._center[1])
        else:
            argument = np.where(np.isnan(x + y), np.nan, x if self._axis == "x" else y)
        at = (argument - self._start) / self._step
        last = self._values.size - 1
        t = np.clip(at, 0.0, last)
        i = np.minimum(np.nan_to_num(t).astype(np.int64), last - 1)
        f = t - i
        return np.asarray(self._values[i] * (1.0 - f) + self._values[i + 1] * f)

    # -- integrals ----------------------------------------------------------------------------
    def _degrees(self) -> tuple[int, int] | None:
        return {"x": (1, 0), "y": (0, 1)}.get(self._axis)

    def _breaks(self) -> tuple[np.ndarray, np.ndarray]:
        none = np.zeros(0)
        if self._axis == "x":
            return self.nodes, none
        return none, self.nodes if self._axis == "y" else none

    def _texture(self) -> float | None:
        return self._step if self._axis == "radius" else None

    def _integral(self, box: Box) -> float:
        if self._axis != "radius":
            return super()._integral(box)
        # in polar coordinates: signed triangles between the centre and the edges of the box
        (x0, x1), (y0, y1) = (
            (a - c, b - c)
            for (a, b), c in zip((box.x_bounds, box.y_bounds), self._center, strict=True)
        )
        return (
            self._beside(-y0, x0, x1) + self._beside(x1, y0, y1)
            + self._beside(y1, -x1, -x0) + self._beside(-x0, -y1, -y0)
        )  # fmt: skip

    def _beside(self, d: float, t0: float, t1: float) -> float:
        """Integral over the triangle from the centre to a line at distance d, from t0 to t1."""
        if d == 0.0:
            return 0.0
        knots, inner = self._inner()
        far = np.sqrt(np.maximum(knots**2 - d * d, 0.0))
        near = abs(d) * 2.0 ** np.arange(-1, 2 + max(0.0, np.log2(max(abs(t0), abs(t1)) / abs(d))))
        breaks = np.concatenate([far, -far, near, -near, [0.0]])
        edges = np.unique(np.clip(np.concatenate([breaks, [t0, t1]]), t0, t1))
        z, w = np.polynomial.legendre.leggauss(12)
        half, middle = 0.5 * np.diff(edges)[:, None], 0.5 * (edges[1:] + edges[:-1])[:, None]
        t, weight = middle + half * z, half * w
        square = t * t + d * d
        return float(np.sum(weight * inner(np.sqrt(square)) * d / square))

    def _inner(self) -> tuple[np.ndarray, Any]:
        """Radii of the nodes, and the function R to the integral of value times r from 0 to R."""
        knots = self.nodes[self.nodes > 0.0]
        knots = np.concatenate([[0.0], knots]) if knots.size else np.zeros(1)
        value = np.interp(knots, self.nodes, self._values)
        slope = np.append(np.diff(value) / np.diff(knots), 0.0)
        base = value - slope * knots

        def antiderivative(r: np.ndarray, k: np.ndarray) -> np.ndarray:
            return np.asarray(r * r * (base[k] / 2.0 + slope[k] * r / 3.0))

        k = np.arange(knots.size - 1)
        steps = antiderivative(knots[1:], k) - antiderivative(knots[:-1], k)
        below = np.concatenate([[0.0], np.cumsum(steps)])

        def inner(r: np.ndarray) -> np.ndarray:
            i = np.clip(np.searchsorted(knots, r, "right") - 1, 0, knots.size - 1)
            return np.asarray(below[i] + antiderivative(r, i) - antiderivative(knots[i], i))

        return knots, inner

    def _scaled(self, factor: float, unit: u.UnitBase) -> TableField:
        return TableField(
            self._box, self._axis, self._start, self._step, self._values * factor, self._center,
            self._unit * unit,
        )  # fmt: skip

    def _parameters(self) -> dict[str, Any]:
        return {"axis": self._axis, "start": self._start, "step": self._step,
                "values": self._values, "center": list(self._center)}  # fmt: skip

    @classmethod
    def _from_parameters(
        cls, box: Box, unit: u.UnitBase, parameters: Mapping[str, Any]
    ) -> TableField:
        p = parameters
        return cls(box, p["axis"], p["start"], p["step"], p["values"], p["center"], unit)

    def with_box(self, box: Box) -> TableField:
        """Return the same table on a smaller box.

        Examples
        --------
        >>> edge = TableField(Box(0, 0, 9, 9), "x", 0.0, 4.0, [-0.05, 0.0])
        >>> edge.with_box(Box(2, 2, 4, 4)).box
        Box(x_min=2, y_min=2, nx=4, ny=4)
        """
        return TableField(
            self._restricted(box), self._axis, self._start, self._step, self._values, self._center,
            self._unit,
        )  # fmt: skip
