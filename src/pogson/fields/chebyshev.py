"""Two-dimensional Chebyshev polynomials on a pixel box."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import astropy.units as u
import numpy as np

from pogson.errors import PogsonValueError
from pogson.fields.base import Field, RowFiller, checked_box, checked_unit, finite_array
from pogson.fields.box import Box
from pogson.fields.constant import split_quantity

__all__ = ["ChebyshevField", "chebyshev_basis", "gauss_legendre"]

# Points evaluated at a time: the basis of one chunk stays in the second-level cache.
_CHUNK = 8192


@lru_cache(maxsize=64)
def gauss_legendre(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes and weights of n-point Gauss-Legendre quadrature on [-1, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    nodes.flags.writeable = weights.flags.writeable = False
    return nodes, weights


def chebyshev_basis(t: np.ndarray, order: int) -> np.ndarray:
    """Chebyshev polynomials T_0 ... T_order at positions on [-1, 1].

    Parameters
    ----------
    t : numpy.ndarray, shape (n,)
        Scaled positions.
    order : int
        Highest degree.

    Returns
    -------
    basis : numpy.ndarray, shape (order + 1, n)
        By the recurrence T_{k+1} = 2 t T_k - T_{k-1}.

    Examples
    --------
    >>> import numpy as np
    >>> chebyshev_basis(np.array([0.5]), 2)
    array([[ 1. ], [ 0.5], [-0.5]])
    """
    basis = np.empty((order + 1, t.size))
    basis[0] = 1.0
    if order:
        basis[1] = t
        twice = 2.0 * t
        for k in range(2, order + 1):
            np.multiply(twice, basis[k - 1], out=basis[k])
            basis[k] -= basis[k - 2]
    return basis


class ChebyshevField(Field):
    r"""A Chebyshev series in two variables.

    .. math:: f(x, y) = \sum_{j,i} c_{ji}\, T_i(\tilde x)\, T_j(\tilde y)

    where :math:`\tilde x, \tilde y` run from -1 to 1 over ``domain``.

    Parameters
    ----------
    box : Box
        Pixel box (0-based, pixel centres on integers).
    coefficients : array_like, shape (order_y + 1, order_x + 1)
        ``c[j, i]`` multiplies :math:`T_i(\tilde x) T_j(\tilde y)`.
    unit : unit-like, optional
        Unit of the values; dimensionless by default.
    domain : tuple of 4 floats, optional
        (x0, x1, y0, y1) mapped to [-1, 1]; by default the outer pixel edges of ``box``. It is kept
        when the box is cut.
    total : bool, optional
        The series is one of total order: ``c[j, i]`` with ``i + j > max(order_x, order_y)`` are
        not part of it and must be zero.

    Raises
    ------
    PogsonValueError
        If coefficients or domain are not finite or have the wrong shape, or if ``total`` does not
        fit the coefficients.

    Notes
    -----
    The layout of the coefficients and the mapping of the pixel edges to [-1, 1] are those of the
    ``ChebyshevBoundedField`` of the LSST pipelines (class ``lsst.afw.math``), so that its
    coefficients can be used as they are.

    Examples
    --------
    >>> field = ChebyshevField(Box(0, 0, 100, 50), [[2.0, 0.5], [0.25, 0.0]], "nJy / adu")
    >>> field(x=-0.5, y=-0.5)        # lower left corner: 2 - 0.5 - 0.25
    1.25
    >>> field.mean(), field.order_x, field.order_y
    (2.0, 1, 1)
    """

    __slots__ = ("_coefficients", "_domain", "_total")
    kind = "chebyshev"
    _coefficients: np.ndarray
    _domain: tuple[float, float, float, float]
    _total: bool

    def __init__(
        self,
        box: Box,
        coefficients: Any,
        unit: Any = None,
        *,
        domain: tuple[float, float, float, float] | None = None,
        total: bool = False,
    ) -> None:
        coefficients, unit = split_quantity(coefficients, unit, "coefficients")
        c = finite_array(coefficients, "coefficients", 2)
        box = checked_box(box)
        if total and np.any(c[~_free_mask(c.shape, True)]):
            raise PogsonValueError(
                f"total=True, but coefficients with i + j > {max(c.shape) - 1} are not zero."
            )
        self._set(
            _box=box,
            _unit=checked_unit(unit),
            _coefficients=c,
            _domain=_checked_domain(domain, box),
            _total=bool(total),
        )

    @property
    def coefficients(self) -> np.ndarray:
        """Coefficients ``c[j, i]``, shape (order_y + 1, order_x + 1), read-only."""
        return self._coefficients

    @property
    def domain(self) -> tuple[float, float, float, float]:
        """Positions (x0, x1, y0, y1) in pixels that map to -1 and 1."""
        return self._domain

    @property
    def order_x(self) -> int:
        """Highest degree along x."""
        return int(self._coefficients.shape[1]) - 1

    @property
    def order_y(self) -> int:
        """Highest degree along y."""
        return int(self._coefficients.shape[0]) - 1

    @property
    def total(self) -> bool:
        """Whether the degrees are limited by their sum rather than per axis."""
        return self._total

    @property
    def free_coefficients(self) -> tuple[tuple[int, int], ...]:
        """Index pairs (j, i) of the free coefficients, row by row: the order of a covariance."""
        mask = _free_mask(self._coefficients.shape, self._total)
        return tuple((int(j), int(i)) for j, i in np.argwhere(mask))

    @property
    def free_values(self) -> np.ndarray:
        """Values of the free coefficients, in the order of `free_coefficients`."""
        return self._coefficients[_free_mask(self._coefficients.shape, self._total)]

    # -- evaluation -------------------------------------------------------------------------
    def _scale_x(self, x: np.ndarray) -> np.ndarray:
        x0, x1 = self._domain[:2]
        return (2.0 * x - (x0 + x1)) / (x1 - x0)

    def _scale_y(self, y: np.ndarray) -> np.ndarray:
        y0, y1 = self._domain[2:]
        return (2.0 * y - (y0 + y1)) / (y1 - y0)

    def _evaluate(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        # Matrix products treat the last few columns otherwise (a single one most of all): whole
        # groups of 8 make the value at a position independent of the positions beside it.
        size = x.size
        xf, yf = np.zeros(size + -size % 8), np.zeros(size + -size % 8)
        xf[:size], yf[:size] = x.ravel(), y.ravel()
        if size:
            xf[size:], yf[size:] = xf[size - 1], yf[size - 1]
        out = np.empty(xf.size)
        for start in range(0, xf.size, _CHUNK):
            part = slice(start, start + _CHUNK)
            tx = chebyshev_basis(self._scale_x(xf[part]), self.order_x)
            ty = chebyshev_basis(self._scale_y(yf[part]), self.order_y)
            np.einsum("jn,jn->n", ty, self._coefficients @ tx, out=out[part])
        # T_0 is 1 whatever the position, so that an order-0 axis would hide a NaN
        out[np.isnan(xf) | np.isnan(yf)] = np.nan
        return out[:size].reshape(x.shape)

    def _rows(self, x: np.ndarray, y: np.ndarray) -> RowFiller:
        along_x = self._coefficients @ chebyshev_basis(self._scale_x(x), self.order_x)
        along_y = np.ascontiguousarray(chebyshev_basis(self._scale_y(y), self.order_y).T)

        def fill(start: int, stop: int, out: np.ndarray) -> None:
            np.matmul(along_y[start:stop], along_x, out=out)

        return fill

    def basis(self, *, x: Any, y: Any) -> np.ndarray:
        """Design matrix: the derivative of the values with respect to the free coefficients.

        Parameters
        ----------
        x, y : array_like
            Positions in pixels, broadcast together to n positions.

        Returns
        -------
        basis : numpy.ndarray, shape (n, n_free)
            Columns in the order of `free_coefficients`; ``basis @ free_values`` are the values,
            and ``basis @ covariance @ basis.T`` is their covariance.

        Examples
        --------
        >>> field = ChebyshevField(Box(0, 0, 100, 50), [[2.0, 0.5], [0.25, 0.0]], total=True)
        >>> field.basis(x=[99.5], y=[-0.5])
        array([[ 1.,  1., -1.]])
        """
        xa, ya = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(y, np.float64))
        tx = chebyshev_basis(self._scale_x(xa.ravel()), self.order_x)
        ty = chebyshev_basis(self._scale_y(ya.ravel()), self.order_y)
        j, i = np.nonzero(_free_mask(self._coefficients.shape, self._total))
        return np.ascontiguousarray((ty[j] * tx[i]).T)

    # -- integrals --------------------------------------------------------------------------
    def _degrees(self) -> tuple[int, int]:
        return (self.order_x, self.order_y)

    def _integral(self, box: Box) -> float:
        # Gauss-Legendre with enough nodes is exact for a polynomial and, unlike a difference of
        # antiderivatives, loses nothing to cancellation on a small box.
        nx, wx = gauss_legendre(self.order_x // 2 + 1)
        ny, wy = gauss_legendre(self.order_y // 2 + 1)
        x = box.center[0] + 0.5 * box.nx * nx
        y = box.center[1] + 0.5 * box.ny * ny
        along_x = chebyshev_basis(self._scale_x(x), self.order_x) @ wx
        along_y = chebyshev_basis(self._scale_y(y), self.order_y) @ wy
        return float(along_y @ self._coefficients @ along_x) * 0.25 * box.area

    # -- making and changing ----------------------------------------------------------------
    @classmethod
    def fit(cls, box: Box, x: Any, y: Any, values: Any, **options: Any) -> ChebyshevField:
        """Fit values at points by weighted least squares.

        Parameters
        ----------
        box : Box
            Pixel box of the field; every point must be inside it.
        x, y : array_like, shape (n,)
            Positions in pixels (0-based, pixel centres on integers).
        values : array_like or Quantity, shape (n,)
            Values to fit.
        **options
            ``order`` (both axes) or ``order_x`` and ``order_y``; ``total`` (True by default: terms
            with i + j above the order are left out); ``weights`` (1/sigma of each value, 0 leaves
            a point out; equal weights by default); ``unit``; ``domain``.

        Returns
        -------
        field : ChebyshevField
            The field of least chi-square.

        Raises
        ------
        PogsonValueError
            If numbers are missing or not finite, weights are negative, or the points do not
            determine the coefficients (fewer points than coefficients, or points on a curve).
        BoundsError
            If a point is outside the box.

        Examples
        --------
        >>> import numpy as np
        >>> x, y = np.meshgrid(np.arange(0.0, 100.0, 9.0), np.arange(0.0, 50.0, 9.0))
        >>> field = ChebyshevField.fit(
        ...     Box(0, 0, 100, 50), x.ravel(), y.ravel(), (3.0 + 0.01 * x).ravel(), order=1)
        >>> field(x=50.0, y=20.0)
        3.5
        """
        from pogson.fields.chebyshev_fit import fit_points

        return fit_points(cls, box, x, y, values, **options)[0]

    @classmethod
    def fit_with_covariance(
        cls, box: Box, x: Any, y: Any, values: Any, **options: Any
    ) -> tuple[ChebyshevField, np.ndarray]:
        """Fit as `fit` does, and return the covariance of the coefficients too.

        Parameters
        ----------
        box, x, y, values, **options
            As for `fit`.

        Returns
        -------
        field : ChebyshevField
            The field of least chi-square.
        covariance : numpy.ndarray, shape (n_free, n_free)
            Covariance of `free_values`, in the order of `free_coefficients`. With ``weights`` it is
            what those sigmas imply; without, it is scaled by the scatter of the residuals.

        Raises
        ------
        PogsonValueError
            As for `fit`; also without weights when no degree of freedom is left.

        Examples
        --------
        >>> field, covariance = ChebyshevField.fit_with_covariance(
        ...     Box(0, 0, 10, 10), [1, 8, 1, 8], [1, 1, 8, 8], [4.0, 6.0, 4.0, 6.0], order=0,
        ...     weights=[2.0, 2.0, 2.0, 2.0])
        >>> float(field.free_values[0]), float(covariance[0, 0])
        (5.0, 0.0625)
        """
        from pogson.fields.chebyshev_fit import fit_points

        return fit_points(cls, box, x, y, values, want_covariance=True, **options)

    @classmethod
    def approximate(
        cls,
        other: Field,
        order: int | None = None,
        *,
        order_x: int | None = None,
        order_y: int | None = None,
        total: bool = False,
    ) -> ChebyshevField:
        """Approximate another field by a Chebyshev series on its box.

        The other field is sampled at Chebyshev nodes, which makes the result close to the best
        approximation in the largest error; a field that is a polynomial of no higher order is
        reproduced exactly (to rounding).

        Parameters
        ----------
        other : Field
            The field to approximate.
        order, order_x, order_y : int
            Order on both axes, or per axis.
        total : bool, optional
            Leave out terms with i + j above the larger order.

        Returns
        -------
        field : ChebyshevField
            On the box of ``other``, in its unit.

        Raises
        ------
        PogsonValueError
            If the orders are not given or negative.

        Examples
        --------
        >>> a = ChebyshevField(Box(0, 0, 100, 50), [[2.0, 0.5]])
        >>> ChebyshevField.approximate(a * a, 2)(x=10.0, y=5.0) - a(x=10.0, y=5.0) ** 2
        0.0
        """
        from pogson.fields.chebyshev_fit import approximate

        return approximate(cls, other, orders(order, order_x, order_y), total)

    def truncate(
        self,
        order: int | None = None,
        *,
        order_x: int | None = None,
        order_y: int | None = None,
        total: bool | None = None,
    ) -> ChebyshevField:
        """Drop the terms above an order.

        Parameters
        ----------
        order, order_x, order_y : int
            New order on both axes, or per axis; not above the present one.
        total : bool, optional
            Whether the new order limits i + j; as at present by default.

        Returns
        -------
        field : ChebyshevField
            Same box, domain and unit.

        Raises
        ------
        PogsonValueError
            If an order is negative or above the present one.

        Examples
        --------
        >>> ChebyshevField(Box(0, 0, 9, 9), [[2.0, 0.5, 0.1]]).truncate(order_x=1, order_y=0)
        ChebyshevField(box=Box(x_min=0, y_min=0, nx=9, ny=9), coefficients=[[2.0, 0.5]], unit='')
        """
        if order is not None and order_x is None and order_y is None and order >= 0:
            # an axis of lower order already has nothing to drop
            order_x, order_y = min(order, self.order_x), min(order, self.order_y)
            if order > max(self.order_x, self.order_y):
                order_x = order_y = order
            order = None
        new_x, new_y = orders(order, order_x, order_y)
        if new_x > self.order_x or new_y > self.order_y:
            raise PogsonValueError(
                f"Cannot truncate order_x={self.order_x}, order_y={self.order_y} to "
                f"order_x={new_x}, order_y={new_y}: truncation only lowers the order."
            )
        total = self._total if total is None else bool(total)
        c = self._coefficients[: new_y + 1, : new_x + 1].copy()
        if total:
            c[~_free_mask(c.shape, True)] = 0.0
        return self._like(c, total=total)

    def _like(self, coefficients: np.ndarray, *, total: bool | None = None) -> ChebyshevField:
        return ChebyshevField(
            self._box,
            coefficients,
            self._unit,
            domain=self._domain,
            total=self._total if total is None else total,
        )

    def _scaled(self, factor: float, unit: u.UnitBase) -> ChebyshevField:
        return ChebyshevField(
            self._box,
            self._coefficients * factor,
            self._unit * unit,
            domain=self._domain,
            total=self._total,
        )

    def with_box(self, box: Box) -> ChebyshevField:
        """Return the same series on a smaller box; the domain stays, so the values do.

        Examples
        --------
        >>> field = ChebyshevField(Box(0, 0, 100, 50), [[2.0, 0.5]])
        >>> field.with_box(Box(10, 10, 5, 5))(x=12, y=12) == field(x=12, y=12)
        True
        """
        return ChebyshevField(
            self._restricted(box),
            self._coefficients,
            self._unit,
            domain=self._domain,
            total=self._total,
        )

    def _parameters(self) -> dict[str, Any]:
        return {
            "coefficients": self._coefficients,
            "domain": self._domain,
            "total": self._total,
        }

    def _repr_arguments(self) -> dict[str, Any]:
        shown = {
            "box": self._box,
            "coefficients": self._coefficients,
            "unit": self._unit.to_string(),
        }
        if self._domain != (*self._box.x_bounds, *self._box.y_bounds):
            shown["domain"] = self._domain
        if self._total:
            shown["total"] = True
        return shown

    @classmethod
    def _from_parameters(
        cls, box: Box, unit: u.UnitBase, parameters: Mapping[str, Any]
    ) -> ChebyshevField:
        if not isinstance(parameters["total"], bool):
            raise PogsonValueError(f"total={parameters['total']!r} must be true or false.")
        return cls(
            box,
            parameters["coefficients"],
            unit,
            domain=tuple(parameters["domain"]),
            total=parameters["total"],
        )


def _checked_domain(domain: Any, box: Box) -> tuple[float, float, float, float]:
    """Return a domain as four floats, increasing along each axis."""
    if domain is None:
        return (*box.x_bounds, *box.y_bounds)
    values = finite_array(list(domain), "domain", 1)
    if values.size != 4 or not (values[0] < values[1] and values[2] < values[3]):
        raise PogsonValueError(
            f"domain must be (x0, x1, y0, y1) with x0 < x1 and y0 < y1; got {tuple(domain)}."
        )
    x0, x1, y0, y1 = (float(v) for v in values)
    return (x0, x1, y0, y1)


@lru_cache(maxsize=128)
def _free_mask(shape: tuple[int, int], total: bool) -> np.ndarray:
    """Return which coefficients c[j, i] belong to the series."""
    j, i = np.indices(shape)
    mask = (i + j <= max(shape) - 1) if total else np.ones(shape, bool)
    mask.flags.writeable = False
    return np.asarray(mask)


def orders(order: int | None, order_x: int | None, order_y: int | None) -> tuple[int, int]:
    """Return (order_x, order_y) from either way of giving them."""
    if (order is None) == (order_x is None and order_y is None):
        raise PogsonValueError(
            "Give either order= (both axes) or order_x= and order_y=; got "
            f"order={order}, order_x={order_x}, order_y={order_y}."
        )
    if order is not None:
        order_x = order_y = order
    if order_x is None or order_y is None:
        raise PogsonValueError(f"Give both axes: order_x={order_x}, order_y={order_y}.")
    for value in (order_x, order_y):
        if isinstance(value, bool) or int(value) != value or value < 0:
            raise PogsonValueError(f"An order must be a whole number, 0 or more; got {value!r}.")
    return int(order_x), int(order_y)
