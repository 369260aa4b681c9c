"""Fields interpolated between nodes of a rectangular grid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import astropy.units as u
import numpy as np

from pogson.errors import PogsonValueError, choices
from pogson.fields.base import Field, RowFiller, checked_box, checked_unit, finite_array
from pogson.fields.box import Box
from pogson.fields.constant import split_quantity

__all__ = ["GridField"]

_DEGREES = {"linear": 1, "cubic": 3}

# Up to this many nodes a dense basis matrix is faster than a sparse one.
_DENSE_NODES = 32

# Points evaluated at a time.
_CHUNK = 16384


class GridField(Field):
    """Values at the nodes of a grid, interpolated by a tensor-product spline.

    For structure too small for a polynomial: tree rings, edge roll-off, background meshes,
    flat-field ratios.

    Parameters
    ----------
    box : Box
        Pixel box (0-based, pixel centres on integers).
    x_nodes, y_nodes : array_like
        Increasing node positions in pixels; at least 2 (linear) or 4 (cubic) on each axis. They
        need not be whole pixels nor evenly spaced. The outermost nodes must lie outside the box or
        within one node spacing of its edges; up to there the end pieces are continued.
    values : array_like or Quantity, shape (len(y_nodes), len(x_nodes))
        Values at the nodes.
    unit : unit-like, optional
        Unit of the values; dimensionless by default.
    interpolation : {"linear", "cubic"}, optional
        Bilinear, or cubic spline with continuous second derivative ("not-a-knot" ends).

    Raises
    ------
    PogsonValueError
        If the nodes do not increase, are too few or leave part of the box without support, if
        shapes disagree, or if something is not finite.

    Notes
    -----
    Both kinds are B-splines (de Boor 1978, A Practical Guide to Splines); the integral is that of
    the interpolant, exactly.

    Examples
    --------
    >>> field = GridField(Box(0, 0, 11, 11), [0, 5, 10], [0, 10], [[1, 2, 1], [1, 4, 1]])
    >>> field(x=[5.0, 2.5], y=[5.0, 0.0])
    array([3. , 1.5])
    """

    __slots__ = ("_interpolation", "_spline", "_values", "_x_nodes", "_y_nodes")
    kind = "grid"
    _x_nodes: np.ndarray
    _y_nodes: np.ndarray
    _values: np.ndarray
    _interpolation: str
    # knots along x, knots along y, B-spline coefficients (ny, nx)
    _spline: tuple[np.ndarray, np.ndarray, np.ndarray]

    def __init__(
        self,
        box: Box,
        x_nodes: Any,
        y_nodes: Any,
        values: Any,
        unit: Any = None,
        interpolation: str = "linear",
    ) -> None:
        values, unit = split_quantity(values, unit, "values")
        if not isinstance(interpolation, str) or interpolation not in _DEGREES:
            raise PogsonValueError(
                f"Unknown interpolation {interpolation!r}; allowed: {choices(_DEGREES)}."
            )
        degree = _DEGREES[interpolation]
        box = checked_box(box)
        xn = _checked_nodes(x_nodes, "x_nodes", box.x_bounds, degree)
        yn = _checked_nodes(y_nodes, "y_nodes", box.y_bounds, degree)
        v = finite_array(values, "values", 2)
        if v.shape != (yn.size, xn.size):
            raise PogsonValueError(
                f"values of shape {v.shape} do not fit {yn.size} y_nodes and {xn.size} x_nodes; "
                f"their shape must be {(yn.size, xn.size)}, indexed [y, x]."
            )
        self._set(
            _box=box,
            _unit=checked_unit(unit),
            _x_nodes=xn,
            _y_nodes=yn,
            _values=v,
            _interpolation=interpolation,
            _spline=_spline_coefficients(xn, yn, v, degree),
        )

    @classmethod
    def from_image(
        cls, image: Any, box: Box | None = None, unit: Any = None, interpolation: str = "linear"
    ) -> GridField:
        """Make a field with one node per pixel, so that it renders the image itself.

        Parameters
        ----------
        image : array_like or Quantity, shape (ny, nx)
            Values at pixel centres, indexed [y, x]; at least 2 by 2 pixels.
        box : Box, optional
            Box of the image; starts at (0, 0) by default.
        unit : unit-like, optional
            Unit of the values.
        interpolation : {"linear", "cubic"}, optional
            Interpolation between pixel centres.

        Raises
        ------
        PogsonValueError
            If the image has another shape than the box, or values that are not finite.

        Examples
        --------
        >>> GridField.from_image([[1.0, 2.0], [3.0, 4.0]]).render()
        array([[1., 2.],
               [3., 4.]])
        """
        if box is None:
            if np.ndim(image) != 2:
                raise PogsonValueError(f"An image has 2 dimensions, not {np.ndim(image)}.")
            box = Box.from_shape(np.shape(image))
        return cls(box, box.x_pixels(), box.y_pixels(), image, unit, interpolation)

    @property
    def x_nodes(self) -> np.ndarray:
        """Node positions along x in pixels, read-only."""
        return self._x_nodes

    @property
    def y_nodes(self) -> np.ndarray:
        """Node positions along y in pixels, read-only."""
        return self._y_nodes

    @property
    def values(self) -> np.ndarray:
        """Values at the nodes, shape (len(y_nodes), len(x_nodes)), read-only."""
        return self._values

    @property
    def interpolation(self) -> str:
        """Interpolation between the nodes: "linear" or "cubic"."""
        return self._interpolation

    # -- evaluation -------------------------------------------------------------------------
    def _evaluate(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        tx, ty, c = self._spline
        k = _DEGREES[self._interpolation]
        xf, yf = x.ravel(), y.ravel()
        known = np.isfinite(xf) & np.isfinite(yf)
        out = np.full(xf.size, np.nan)
        rows = np.flatnonzero(known)
        for start in range(0, rows.size, _CHUNK):
            part = rows[start : start + _CHUNK]
            wx, ix = _local_basis(xf[part], tx, k)
            wy, iy = _local_basis(yf[part], ty, k)
            nearby = c[iy[:, :, np.newaxis], ix[:, np.newaxis, :]]
            out[part] = np.einsum("nj,nji,ni->n", wy, nearby, wx, optimize=False)
        return out.reshape(x.shape)

    def _rows(self, x: np.ndarray, y: np.ndarray) -> RowFiller:
        tx, ty, c = self._spline
        k = _DEGREES[self._interpolation]
        bx = _basis_matrix(x, tx, k)
        along_x = np.ascontiguousarray((bx @ c.T).T)
        by = _design_matrix(y, ty, k)
        first, last = by.indices[by.indptr[:-1]], by.indices[by.indptr[1:] - 1]

        def fill(start: int, stop: int, out: np.ndarray) -> None:
            # A block of rows meets few basis functions: a small dense product, not a sparse one.
            low, high = int(first[start:stop].min()), int(last[start:stop].max()) + 1
            np.matmul(by[start:stop, low:high].toarray(), along_x[low:high], out=out)

        return fill

    # -- integrals --------------------------------------------------------------------------
    def _degrees(self) -> tuple[int, int]:
        k = _DEGREES[self._interpolation]
        return (k, k)

    def _breaks(self) -> tuple[np.ndarray, np.ndarray]:
        return np.unique(self._spline[0]), np.unique(self._spline[1])

    def _integral(self, box: Box) -> float:
        from scipy.interpolate import BSpline

        tx, ty, c = self._spline
        k = _DEGREES[self._interpolation]
        along_x = BSpline(ty, c, k).integrate(*box.y_bounds)
        return float(BSpline(tx, along_x, k).integrate(*box.x_bounds))

    # -- changing ---------------------------------------------------------------------------
    def _scaled(self, factor: float, unit: u.UnitBase) -> GridField:
        return GridField(
            self._box,
            self._x_nodes,
            self._y_nodes,
            self._values * factor,
            self._unit * unit,
            self._interpolation,
        )

    def with_box(self, box: Box) -> GridField:
        """Return the same interpolant on a smaller box; all nodes are kept, so the values are too.

        Examples
        --------
        >>> field = GridField(Box(0, 0, 11, 11), [0, 10], [0, 10], [[1, 2], [3, 4]])
        >>> field.with_box(Box(3, 3, 2, 2))(x=3, y=4) == field(x=3, y=4)
        True
        """
        cut = object.__new__(GridField)
        cut._set(
            _box=self._restricted(box),
            _unit=self._unit,
            _x_nodes=self._x_nodes,
            _y_nodes=self._y_nodes,
            _values=self._values,
            _interpolation=self._interpolation,
            _spline=self._spline,
        )
        return cut

    def _parameters(self) -> dict[str, Any]:
        return {
            "x_nodes": self._x_nodes,
            "y_nodes": self._y_nodes,
            "values": self._values,
            "interpolation": self._interpolation,
        }

    @classmethod
    def _from_parameters(
        cls, box: Box, unit: u.UnitBase, parameters: Mapping[str, Any]
    ) -> GridField:
        return cls(
            box,
            parameters["x_nodes"],
            parameters["y_nodes"],
            parameters["values"],
            unit,
            parameters["interpolation"],
        )


def _checked_nodes(nodes: Any, name: str, bounds: tuple[float, float], degree: int) -> np.ndarray:
    """Return increasing nodes that reach the box."""
    array = finite_array(nodes, name, 1)
    if array.size < degree + 1:
        raise PogsonValueError(
            f"{name} has {array.size} nodes; this interpolation needs at least {degree + 1}."
        )
    step = np.diff(array)
    if not np.all(step > 0):
        i = int(np.flatnonzero(~(step > 0))[0])
        raise PogsonValueError(
            f"{name} must increase; node {i + 1} ({array[i + 1]}) follows {array[i]}."
        )
    low, high = array[0] - bounds[0], bounds[1] - array[-1]
    if low > step[0] * (1 + 1e-9) or high > step[-1] * (1 + 1e-9):
        raise PogsonValueError(
            f"{name} run from {array[0]} to {array[-1]} and leave the box's {bounds} without "
            "support; nodes must come within one node spacing of both edges."
        )
    return array


def _spline_coefficients(
    xn: np.ndarray, yn: np.ndarray, v: np.ndarray, degree: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return knots and B-spline coefficients of the tensor-product interpolant."""
    if degree == 1:
        tx = np.concatenate([xn[:1], xn, xn[-1:]])
        ty = np.concatenate([yn[:1], yn, yn[-1:]])
        return tx, ty, v
    from scipy.interpolate import make_interp_spline

    along_y = make_interp_spline(yn, v, k=degree)
    both = make_interp_spline(xn, along_y.c.T, k=degree)
    return both.t, along_y.t, np.ascontiguousarray(both.c.T)


def _local_basis(x: np.ndarray, knots: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k + 1 B-splines that are not zero at each position, and their indices."""
    from scipy.interpolate import BSpline

    matrix = BSpline.design_matrix(x, knots, k, extrapolate=True)
    shape = (x.size, k + 1)
    return matrix.data.reshape(shape), matrix.indices.reshape(shape)


def _design_matrix(x: np.ndarray, knots: np.ndarray, k: int) -> Any:
    """Return the basis at positions as a sparse matrix in rows, column indices ascending."""
    from scipy.interpolate import BSpline

    return BSpline.design_matrix(x, knots, k, extrapolate=True)


def _basis_matrix(x: np.ndarray, knots: np.ndarray, k: int) -> Any:
    """Return the basis at positions: a dense matrix for few nodes, a sparse one for many."""
    matrix = _design_matrix(x, knots, k)
    return matrix.toarray() if matrix.shape[1] <= _DENSE_NODES else matrix
