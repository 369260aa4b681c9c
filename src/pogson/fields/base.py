"""The interface of bounded two-dimensional functions on a pixel box."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import astropy.units as u
import numpy as np

from pogson.errors import BoundsError, PogsonValueError, UnitMismatchError
from pogson.fields.box import Box
from pogson.units import parse_unit, strip_unit

__all__ = ["SCHEMA", "SCHEMA_VERSION", "Field", "RowFiller"]

SCHEMA = "pogson.field"
"""Name of the JSON schema of a field."""

SCHEMA_VERSION = 1
"""Version of the JSON schema that this pogson writes."""

RowFiller = Callable[[int, int, np.ndarray], None]
"""``fill(start, stop, out)``: write rows ``start:stop`` of a tensor grid into ``out`` (float64)."""

# Values per block of rows: 1 MiB of float64, so that the passes of a product stay in cache.
_BLOCK_VALUES = 2**17

# The largest image render() makes (64 GiB of float64): beyond it the box is surely not an image's.
_MAX_RENDER = 2**33

# Arrays of up to this many values are written out in a repr.
_REPR_VALUES, _REPR_NODES = 64, 16


class Field(ABC):
    """A real function of pixel position on a box, with a unit; immutable.

    Pixel convention: 0-based, pixel centres on integers, so that a box covers half a pixel beyond
    its outermost pixel centres. Evaluation outside the box raises unless ``extrapolate=True``.

    Fields of compatible boxes combine with ``*``, ``/``, ``+`` and ``-`` (also with numbers,
    quantities and units); the result is defined on the intersection of the boxes and has the
    matching unit.

    Notes
    -----
    A new kind of field implements `_evaluate`, `_parameters`, `_from_parameters` and `with_box`,
    sets ``kind`` and is made known to the readers by
    `pogson.fields.persistence.register_kind`. It may override `_rows` (fast evaluation on a tensor
    grid), `_degrees` and `_breaks` (for exact integrals); everything public is here, so that every
    kind behaves alike.

    Examples
    --------
    >>> from pogson.fields import Box, ChebyshevField, ConstantField
    >>> box = Box(0, 0, 100, 100)
    >>> calibration = ConstantField(box, 2.0, "nJy / adu") / ChebyshevField(box, [[1.0, 0.1]])
    >>> calibration.unit, round(float(calibration(x=49.5, y=49.5)), 6)
    (Unit("nJy / adu"), 2.0)
    >>> calibration.render(Box(0, 0, 3, 2)).shape
    (2, 3)
    """

    __slots__ = ("__weakref__", "_box", "_digest_cache", "_unit")
    kind: ClassVar[str] = ""
    _box: Box
    _unit: u.UnitBase
    _digest_cache: str

    @property
    def box(self) -> Box:
        """Pixel box on which the field is defined."""
        return self._box

    @property
    def unit(self) -> u.UnitBase:
        """Unit of the values."""
        return self._unit

    def __call__(self, *, x: Any, y: Any, extrapolate: bool = False, quantity: bool = False) -> Any:
        """Evaluate at pixel positions.

        Parameters
        ----------
        x, y : array_like
            Positions in pixels (0-based, centres on integers), broadcast together.
        extrapolate : bool, optional
            Allow positions outside `box`.
        quantity : bool, optional
            Return an `astropy.units.Quantity` instead of bare numbers in `unit`.

        Returns
        -------
        value : float or numpy.ndarray or astropy.units.Quantity
            Values in `unit`, of the broadcast shape (a float for scalars). NaN positions give NaN.

        Raises
        ------
        BoundsError
            If a position is outside `box` and ``extrapolate`` is False.
        PogsonValueError
            If the shapes of ``x`` and ``y`` do not broadcast.

        Examples
        --------
        >>> from pogson.fields import Box, ConstantField
        >>> field = ConstantField(Box(0, 0, 100, 50), 2.5, "nJy / adu")
        >>> field(x=[0.0, 99.0], y=10.0)
        array([2.5, 2.5])
        """
        try:
            xa, ya = np.broadcast_arrays(strip_unit(x, u.pix, "x"), strip_unit(y, u.pix, "y"))
        except PogsonValueError:
            raise
        except ValueError as error:
            raise PogsonValueError(
                f"x of shape {np.shape(x)} and y of shape {np.shape(y)} do not broadcast."
            ) from error
        if not extrapolate:
            self._check_inside(xa, ya)
        values = self._evaluate(xa, ya)
        result = float(values) if values.ndim == 0 else values
        return result * self._unit if quantity else result

    def _check_inside(self, x: np.ndarray, y: np.ndarray) -> None:
        """Raise a BoundsError that names the first position outside the box."""
        outside = ~(self._box.contains(x=x, y=y) | np.isnan(x) | np.isnan(y))
        if outside.any():
            i = int(np.flatnonzero(outside.ravel())[0])
            raise BoundsError(
                f"Position x={x.ravel()[i]:.10g}, y={y.ravel()[i]:.10g} "
                f"({int(outside.sum())} of {outside.size} positions) is outside the box "
                f"x {self._box.x_bounds}, y {self._box.y_bounds} of this "
                f"{type(self).__name__}. Pass extrapolate=True to evaluate there all the same."
            )

    def render(self, box: Box | None = None, *, dtype: Any = np.float64) -> np.ndarray:
        """Evaluate on every pixel centre of a box.

        Parameters
        ----------
        box : Box, optional
            Box to render, inside `box`; the whole field by default.
        dtype : dtype, optional
            float64 (default) or float32. Values are computed in float64 and then rounded.

        Returns
        -------
        image : numpy.ndarray, shape (ny, nx)
            Values in `unit`.

        Raises
        ------
        BoundsError
            If ``box`` is not inside the field's box, or is too large to be an image.
        PogsonValueError
            If ``dtype`` is neither float64 nor float32.

        Examples
        --------
        >>> from pogson.fields import Box, ChebyshevField
        >>> field = ChebyshevField(Box(0, 0, 3, 2), [[1.0, 3.0]])
        >>> field.render()
        array([[-1.,  1.,  3.],
               [-1.,  1.,  3.]])
        """
        box = self._box if box is None else box
        if not self._box.contains_box(box):
            raise BoundsError(f"Cannot render {box}: it is not inside the field's {self._box}.")
        if box.area > _MAX_RENDER:
            raise BoundsError(
                f"Cannot render {box}: {box.area:.3g} pixels. Pass box= with the image's box."
            )
        kind = np.dtype(dtype)
        if kind not in (np.dtype(np.float64), np.dtype(np.float32)):
            raise PogsonValueError(f"Cannot render as {kind}; use float64 or float32.")
        return self._render(box, kind)

    def integral(self, box: Box | None = None) -> float:
        """Integral over the area of a box, in `unit` times pixels squared.

        Exact (to rounding) for constants, Chebyshev and grid fields and for products and sums of
        them; to a relative 1e-12 for quotients. The area runs to the outer pixel edges, half a
        pixel beyond the outermost pixel centres.

        Raises
        ------
        BoundsError
            If ``box`` is not inside the field's box.

        Examples
        --------
        >>> from pogson.fields import Box, ConstantField
        >>> ConstantField(Box(0, 0, 10, 5), 2.0).integral()
        100.0
        """
        box = self._box if box is None else box
        if not self._box.contains_box(box):
            raise BoundsError(f"Cannot integrate over {box}: it is not inside {self._box}.")
        return float(self._integral(box))

    def mean(self, box: Box | None = None) -> float:
        """Area average in `unit`: `integral` over the area. This is the only meaning of "mean".

        Examples
        --------
        >>> from pogson.fields import Box, ChebyshevField
        >>> ChebyshevField(Box(0, 0, 10, 5), [[1.0, 0.3, 0.6]]).mean()
        0.8
        """
        box = self._box if box is None else box
        return self.integral(box) / box.area

    def to(self, unit: Any) -> Field:
        """Return the same field in another unit of the same dimension.

        Raises
        ------
        UnitMismatchError
            If the unit cannot be converted.

        Examples
        --------
        >>> from pogson.fields import Box, ConstantField
        >>> ConstantField(Box(0, 0, 2, 2), 2.0, "uJy").to("nJy")(x=0, y=0)
        2000.0
        """
        from pogson.fields import algebra

        return algebra.convert(self, unit)

    # -- what a concrete kind provides ------------------------------------------------------
    @abstractmethod
    def _evaluate(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Evaluate at broadcast float64 arrays of equal shape; NaN where a position is NaN."""

    @abstractmethod
    def _parameters(self) -> dict[str, Any]:
        """Return what defines the field besides box and unit: numbers, text, arrays, fields."""

    @classmethod
    @abstractmethod
    def _from_parameters(cls, box: Box, unit: u.UnitBase, parameters: Mapping[str, Any]) -> Field:
        """Make a field from what `_parameters` returned (arrays may come as nested lists)."""

    @abstractmethod
    def with_box(self, box: Box) -> Field:
        """Return the same function restricted to a box inside `box`.

        Raises
        ------
        BoundsError
            If ``box`` is not inside the field's box.
        """

    # -- what a concrete kind may override --------------------------------------------------
    def _rows(self, x: np.ndarray, y: np.ndarray) -> RowFiller:
        """Prepare evaluation on the tensor grid of 1-d ``x`` and ``y``."""

        def fill(start: int, stop: int, out: np.ndarray) -> None:
            xx, yy = np.broadcast_arrays(x[np.newaxis, :], y[start:stop, np.newaxis])
            out[...] = self._evaluate(xx, yy)

        return fill

    def _degrees(self) -> tuple[int, int] | None:
        """Polynomial degree along x and y of each piece, or None where it is not a polynomial."""
        return None

    def _breaks(self) -> tuple[np.ndarray, np.ndarray]:
        """Return positions along x and y where one polynomial piece ends and the next begins."""
        return np.empty(0), np.empty(0)

    def _texture(self) -> float | None:
        """Return the scale in pixels of kinks that run in any direction, None without such."""
        return None

    def _integral(self, box: Box) -> float:
        """Integrate over the box."""
        from pogson.fields.quadrature import integrate

        return integrate(self, box)

    def _scaled(self, factor: float, unit: u.UnitBase) -> Field | None:
        """Return the field times a constant as the same kind, or None if the kind has no such."""
        return None

    def _render(self, box: Box, dtype: np.dtype) -> np.ndarray:
        """Evaluate on a pixel grid, in blocks of rows."""
        fill = self._rows(box.x_pixels(), box.y_pixels())
        image = np.empty(box.shape, dtype)
        step = max(1, _BLOCK_VALUES // box.nx)
        direct = dtype == np.float64
        block = np.empty((0 if direct else min(step, box.ny), box.nx))
        for start in range(0, box.ny, step):
            stop = min(start + step, box.ny)
            if direct:
                fill(start, stop, image[start:stop])
            else:
                fill(start, stop, block[: stop - start])
                image[start:stop] = block[: stop - start]
        return image

    # -- files ------------------------------------------------------------------------------
    def _describe(self) -> dict[str, Any]:
        """Return the full description, with arrays and fields as they are."""
        text = self._unit.to_string()
        try:
            known = u.Unit(text) == self._unit
        except ValueError:
            known = False
        if not known:
            raise UnitMismatchError(
                f"The unit '{text}' of this {type(self).__name__} cannot be written so that it "
                "reads back; convert the field to a standard unit with .to()."
            )
        return {
            "schema": SCHEMA,
            "version": SCHEMA_VERSION,
            "kind": self.kind,
            "box": list(self._box),
            "unit": text,
            **self._parameters(),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description, read back by `pogson.fields.field_from_dict`.

        Examples
        --------
        >>> from pogson.fields import Box, ConstantField
        >>> sorted(ConstantField(Box(0, 0, 2, 2), 2.0, "nJy").to_dict())
        ['box', 'kind', 'schema', 'unit', 'value', 'version']
        """
        plain: dict[str, Any] = _plain(self._describe())
        return plain

    # -- algebra: implemented in pogson.fields.algebra --------------------------------------
    def __mul__(self, other: Any) -> Field:
        from pogson.fields import algebra

        return algebra.multiply(self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Field:
        from pogson.fields import algebra

        return algebra.divide(self, other)

    def __rtruediv__(self, other: Any) -> Field:
        from pogson.fields import algebra

        return algebra.divide(other, self)

    def __add__(self, other: Any) -> Field:
        from pogson.fields import algebra

        return algebra.add(self, other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Field:
        from pogson.fields import algebra

        return algebra.subtract(self, other)

    def __rsub__(self, other: Any) -> Field:
        from pogson.fields import algebra

        return algebra.subtract(other, self)

    def __neg__(self) -> Field:
        return self * -1.0

    def __pos__(self) -> Field:
        return self

    # numpy scalars and Quantities must defer to the methods above
    __array_ufunc__ = None

    # -- identity ---------------------------------------------------------------------------
    def _digest_parts(self) -> Any:
        """Return what equality compares besides type, box and unit."""
        return self._parameters()

    @property
    def _digest(self) -> str:
        """Hash of the parameters (not of the unit), the same in every process."""
        try:
            return self._digest_cache
        except AttributeError:
            state = hashlib.sha256(type(self).__name__.encode())
            _update(state, list(self._box))
            _update(state, self._digest_parts())
            self._set(_digest_cache=state.hexdigest())
            return self._digest_cache

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Field):
            return NotImplemented
        return self is other or (
            type(self) is type(other)
            and self._box == other._box
            and bool(self._unit == other._unit)
            and self._digest == other._digest
        )

    def __hash__(self) -> int:
        return hash(self._digest)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{k}={_text(v)}" for k, v in self._repr_arguments().items())
        return f"{type(self).__name__}({arguments})"

    def _repr_arguments(self) -> dict[str, Any]:
        """Return the constructor's arguments that a repr shows."""
        return {"box": self._box, **self._parameters(), "unit": self._unit.to_string()}

    def __copy__(self) -> Field:
        return self

    def __deepcopy__(self, memo: Any) -> Field:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self._box, self._unit, self._parameters()))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable; cannot set {name!r}.")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable; cannot delete {name!r}.")

    def _set(self, **values: Any) -> None:
        """Fill slots during construction."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _restricted(self, box: Box) -> Box:
        """Return ``box`` if it is inside the field's."""
        if not self._box.contains_box(box):
            raise BoundsError(f"Cannot restrict the field's {self._box} to {box}: not inside it.")
        return box


def checked_box(box: Any) -> Box:
    """Return a Box, or raise when something else was given."""
    if not isinstance(box, Box):
        raise PogsonValueError(f"box must be a pogson.fields.Box, not {box!r}.")
    return box


def checked_unit(unit: Any) -> u.UnitBase:
    """Return a linear unit; magnitudes and other logarithmic units have no field algebra."""
    parsed = parse_unit(unit)
    if not isinstance(parsed, u.UnitBase):
        raise UnitMismatchError(f"A field cannot have the logarithmic unit '{parsed}'.")
    return parsed


def finite_array(values: Any, what: str, ndim: int) -> np.ndarray:
    """Return a private, read-only, finite float64 array of ``ndim`` dimensions."""
    try:
        array = np.array(values, dtype=np.float64, order="C", ndmin=0)
    except (TypeError, ValueError):
        raise PogsonValueError(f"{what} must be an array of numbers.") from None
    if array.ndim != ndim or array.size == 0:
        raise PogsonValueError(
            f"{what} must be a {ndim}-d array with at least one value; its shape is {array.shape}."
        )
    bad = int(np.count_nonzero(~np.isfinite(array)))
    if bad:
        raise PogsonValueError(f"{what} has {bad} of {array.size} values that are not finite.")
    array.flags.writeable = False
    return array


def finite_float(value: Any, what: str) -> float:
    """Return a finite float."""
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise PogsonValueError(f"{what} must be a number, not {value!r}.") from None
    if not np.isfinite(number):
        raise PogsonValueError(f"{what}={number} must be finite.")
    return number


def _rebuild(cls: type[Field], box: Box, unit: u.UnitBase, parameters: dict[str, Any]) -> Field:
    """Remake a field when a copy of it reaches another process."""
    return cls._from_parameters(box, unit, parameters)


def _plain(value: Any) -> Any:
    """Turn arrays, tuples and fields into lists and dictionaries."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Field):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def stored_values(value: Any) -> int:
    """Return how many numbers a field (or one of its parameters) holds."""
    if isinstance(value, Field):
        return stored_values(value._parameters())
    if isinstance(value, np.ndarray):
        return value.size
    if isinstance(value, Mapping):
        return sum(stored_values(v) for v in value.values())
    if isinstance(value, list | tuple):
        return sum(stored_values(v) for v in value)
    return 1


def _update(state: Any, value: Any) -> None:
    """Feed a parameter to a hash; 0.0 and -0.0 count as equal."""
    if isinstance(value, Field):
        state.update(b"field" + value._digest.encode())
    elif isinstance(value, np.ndarray):
        state.update(f"array{value.shape}".encode())
        state.update(np.ascontiguousarray(value + 0.0).tobytes())
    elif isinstance(value, Mapping):
        for key in sorted(value):
            state.update(f"key{key}".encode())
            _update(state, value[key])
    elif isinstance(value, list | tuple):
        state.update(f"list{len(value)}".encode())
        for item in value:
            _update(state, item)
    elif isinstance(value, float):
        state.update(repr(value + 0.0).encode() + b";")
    else:
        state.update(repr(value).encode() + b";")


def _text(value: Any) -> str:
    """Write an argument of a repr; large arrays are abbreviated."""
    if isinstance(value, np.ndarray):
        if value.size <= (_REPR_NODES if value.ndim == 1 else _REPR_VALUES):
            return repr(value.tolist())
        shape = "x".join(str(n) for n in value.shape)
        return f"<{shape} values, sha256 {hashlib.sha256(value.tobytes()).hexdigest()[:12]}>"
    if isinstance(value, tuple):
        items = ", ".join(_text(v) for v in value)
        return f"({items},)" if len(value) == 1 else f"({items})"
    return repr(value)
