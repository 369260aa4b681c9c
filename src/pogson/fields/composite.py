"""Products, quotients and sums of fields."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import astropy.units as u
import numpy as np

from pogson.errors import PogsonTypeError, PogsonValueError
from pogson.fields.base import Field, RowFiller
from pogson.fields.box import Box
from pogson.fields.constant import ConstantField

__all__ = ["ProductField", "QuotientField", "SumField"]


class ProductField(Field):
    """The product of several fields.

    Made by ``*``, which folds constants together; a product keeps its factors, so that each can be
    divided out again. The order of the factors does not count for equality.

    Parameters
    ----------
    factors : iterable of Field
        One or more fields; the product is defined where all of them are.

    Raises
    ------
    BoundsError
        If the boxes do not overlap.

    Examples
    --------
    >>> from pogson.fields import ChebyshevField
    >>> box = Box(0, 0, 10, 10)
    >>> scale = ConstantField(box, 0.5, "nJy / adu")
    >>> flat = ChebyshevField(box, [[1.0, 0.1]])
    >>> product = scale * flat
    >>> product(x=9.5, y=0.0), product.unit, product / flat == scale
    (0.55, Unit("nJy / adu"), True)
    """

    __slots__ = ("_factors",)
    kind = "product"
    _factors: tuple[Field, ...]

    def __init__(self, factors: Iterable[Field]) -> None:
        parts = common(factors, "factors")
        unit = parts[0].unit
        for part in parts[1:]:
            unit = unit * part.unit
        self._set(_box=parts[0].box, _unit=unit, _factors=parts)

    @property
    def factors(self) -> tuple[Field, ...]:
        """The factors, each restricted to the product's box."""
        return self._factors

    def _evaluate(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        value = self._factors[0]._evaluate(x, y)
        for factor in self._factors[1:]:
            value = value * factor._evaluate(x, y)
        return value

    def _rows(self, x: np.ndarray, y: np.ndarray) -> RowFiller:
        # constants last and as plain numbers: no array is filled for them
        constant = 1.0
        fillers = []
        for factor in self._factors:
            if isinstance(factor, ConstantField):
                constant *= factor.value
            else:
                fillers.append(factor._rows(x, y))

        def fill(start: int, stop: int, out: np.ndarray) -> None:
            if not fillers:
                out[...] = constant
                return
            fillers[0](start, stop, out)
            if len(fillers) > 1:
                other = np.empty_like(out)
                for filler in fillers[1:]:
                    filler(start, stop, other)
                    out *= other
            if constant != 1.0:
                out *= constant

        return fill

    def _degrees(self) -> tuple[int, int] | None:
        total_x = total_y = 0
        for factor in self._factors:
            degrees = factor._degrees()
            if degrees is None:
                return None
            total_x, total_y = total_x + degrees[0], total_y + degrees[1]
        return total_x, total_y

    def _breaks(self) -> tuple[np.ndarray, np.ndarray]:
        return merged_breaks(self._factors)

    def _texture(self) -> float | None:
        return finest_texture(self._factors)

    def _integral(self, box: Box) -> float:
        varying = [f for f in self._factors if not isinstance(f, ConstantField)]
        if len(varying) != 1:
            return super()._integral(box)
        constant = 1.0
        for factor in self._factors:
            if isinstance(factor, ConstantField):
                constant *= factor.value
        return constant * varying[0]._integral(box)

    def with_box(self, box: Box) -> ProductField:
        """Return the same product on a smaller box.

        Examples
        --------
        >>> from pogson.fields import ChebyshevField
        >>> flat = ChebyshevField(Box(0, 0, 10, 10), [[1.0, 0.1]])
        >>> (flat * flat).with_box(Box(2, 2, 3, 3)).box.nx
        3
        """
        self._restricted(box)
        return ProductField(f.with_box(box) for f in self._factors)

    def _parameters(self) -> dict[str, Any]:
        return {"factors": self._factors}

    def _digest_parts(self) -> Any:
        return sorted(f._digest for f in self._factors)

    def _repr_arguments(self) -> dict[str, Any]:
        return self._parameters()

    @classmethod
    def _from_parameters(
        cls, box: Box, unit: u.UnitBase, parameters: Mapping[str, Any]
    ) -> ProductField:
        return cls(parameters["factors"])


class QuotientField(Field):
    """One field divided by another.

    Made by ``/``, which first cancels every factor that numerator and denominator share.

    Parameters
    ----------
    numerator, denominator : Field
        The quotient is defined where both are.

    Raises
    ------
    BoundsError
        If the boxes do not overlap.
    PogsonValueError
        When evaluated or rendered where the denominator is 0 or not a number; the message names
        the first such position.

    Notes
    -----
    The integral is a Gauss-Legendre quadrature refined until two successive rules agree to a
    relative 1e-12.

    Examples
    --------
    >>> from pogson.fields import ChebyshevField
    >>> box = Box(0, 0, 10, 10)
    >>> ratio = 1.0 / ChebyshevField(box, [[1.0, 0.5]])
    >>> ratio(x=9.5, y=0.0)
    0.6666666666666666
    """

    __slots__ = ("_denominator", "_numerator")
    kind = "quotient"
    _numerator: Field
    _denominator: Field

    def __init__(self, numerator: Field, denominator: Field) -> None:
        top, bottom = common((numerator, denominator), "numerator and denominator")
        self._set(_box=top.box, _unit=top.unit / bottom.unit, _numerator=top, _denominator=bottom)

    @property
    def numerator(self) -> Field:
        """The field above the bar."""
        return self._numerator

    @property
    def denominator(self) -> Field:
        """The field below the bar."""
        return self._denominator

    def _evaluate(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        below = np.asarray(self._denominator._evaluate(x, y))
        bad = ((below == 0) | ~np.isfinite(below)) & ~(np.isnan(x) | np.isnan(y))
        if bad.any():
            i = int(np.flatnonzero(bad.ravel())[0])
            _refuse(below.ravel()[i], x.ravel()[i], y.ravel()[i], int(bad.sum()), below.size)
        return self._numerator._evaluate(x, y) / below

    def _rows(self, x: np.ndarray, y: np.ndarray) -> RowFiller:
        above, below = self._numerator._rows(x, y), self._denominator._rows(x, y)

        def fill(start: int, stop: int, out: np.ndarray) -> None:
            divisor = np.empty_like(out)
            below(start, stop, divisor)
            bad = (divisor == 0) | ~np.isfinite(divisor)
            if bad.any():
                j, i = (int(k[0]) for k in np.nonzero(bad))
                _refuse(divisor[j, i], x[i], y[start + j], int(bad.sum()), divisor.size)
            above(start, stop, out)
            out /= divisor

        return fill

    def _breaks(self) -> tuple[np.ndarray, np.ndarray]:
        return merged_breaks((self._numerator, self._denominator))

    def _texture(self) -> float | None:
        return finest_texture((self._numerator, self._denominator))

    def with_box(self, box: Box) -> QuotientField:
        """Return the same quotient on a smaller box.

        Examples
        --------
        >>> from pogson.fields import ChebyshevField
        >>> flat = ChebyshevField(Box(0, 0, 10, 10), [[1.0, 0.1]])
        >>> (1 / flat).with_box(Box(2, 2, 3, 3)).box.nx
        3
        """
        self._restricted(box)
        return QuotientField(self._numerator.with_box(box), self._denominator.with_box(box))

    def _parameters(self) -> dict[str, Any]:
        return {"numerator": self._numerator, "denominator": self._denominator}

    def _repr_arguments(self) -> dict[str, Any]:
        return self._parameters()

    @classmethod
    def _from_parameters(
        cls, box: Box, unit: u.UnitBase, parameters: Mapping[str, Any]
    ) -> QuotientField:
        return cls(parameters["numerator"], parameters["denominator"])


class SumField(Field):
    """The sum of several fields, in the unit of the first.

    Made by ``+`` and ``-``, which fold constants together and cancel a term against its negative.
    The order of the terms does not count for equality.

    Parameters
    ----------
    terms : iterable of Field
        One or more fields of compatible units; the sum is defined where all of them are.

    Raises
    ------
    UnitMismatchError
        If a term cannot be converted to the unit of the first.
    BoundsError
        If the boxes do not overlap.

    Examples
    --------
    >>> from pogson.fields import ChebyshevField
    >>> box = Box(0, 0, 10, 10)
    >>> total = ConstantField(box, 1.0, "uJy") + ChebyshevField(box, [[0.0, 100.0]], "nJy")
    >>> total(x=9.5, y=0.0), total.unit
    (1.1, Unit("uJy"))
    """

    __slots__ = ("_terms",)
    kind = "sum"
    _terms: tuple[Field, ...]

    def __init__(self, terms: Iterable[Field]) -> None:
        from pogson.fields.algebra import convert

        parts = common(terms, "terms")
        unit = parts[0].unit
        converted = tuple(convert(part, unit) for part in parts)
        self._set(_box=parts[0].box, _unit=unit, _terms=converted)

    @property
    def terms(self) -> tuple[Field, ...]:
        """The terms, each in the sum's unit and restricted to its box."""
        return self._terms

    def _evaluate(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        value = self._terms[0]._evaluate(x, y)
        for term in self._terms[1:]:
            value = value + term._evaluate(x, y)
        return value

    def _rows(self, x: np.ndarray, y: np.ndarray) -> RowFiller:
        fillers = [term._rows(x, y) for term in self._terms]

        def fill(start: int, stop: int, out: np.ndarray) -> None:
            fillers[0](start, stop, out)
            if len(fillers) > 1:
                other = np.empty_like(out)
                for filler in fillers[1:]:
                    filler(start, stop, other)
                    out += other

        return fill

    def _degrees(self) -> tuple[int, int] | None:
        most_x = most_y = 0
        for term in self._terms:
            degrees = term._degrees()
            if degrees is None:
                return None
            most_x, most_y = max(most_x, degrees[0]), max(most_y, degrees[1])
        return most_x, most_y

    def _breaks(self) -> tuple[np.ndarray, np.ndarray]:
        return merged_breaks(self._terms)

    def _texture(self) -> float | None:
        return finest_texture(self._terms)

    def _integral(self, box: Box) -> float:
        return sum(term._integral(box) for term in self._terms)

    def with_box(self, box: Box) -> SumField:
        """Return the same sum on a smaller box.

        Examples
        --------
        >>> from pogson.fields import ChebyshevField
        >>> flat = ChebyshevField(Box(0, 0, 10, 10), [[1.0, 0.1]])
        >>> (flat + 1).with_box(Box(2, 2, 3, 3)).box.nx
        3
        """
        self._restricted(box)
        return SumField(term.with_box(box) for term in self._terms)

    def _parameters(self) -> dict[str, Any]:
        return {"terms": self._terms}

    def _digest_parts(self) -> Any:
        return sorted(term._digest for term in self._terms)

    def _repr_arguments(self) -> dict[str, Any]:
        return self._parameters()

    @classmethod
    def _from_parameters(
        cls, box: Box, unit: u.UnitBase, parameters: Mapping[str, Any]
    ) -> SumField:
        return cls(parameters["terms"])


def common(fields: Iterable[Field], what: str) -> tuple[Field, ...]:
    """Return fields restricted to the box that all of them share."""
    parts = tuple(fields)
    if not parts:
        raise PogsonValueError(f"There are no {what}; give at least one field.")
    for part in parts:
        if not isinstance(part, Field):
            raise PogsonTypeError(f"The {what} must be fields, not {type(part).__name__}.")
    box = parts[0].box
    for part in parts[1:]:
        box = box.intersection(part.box)
    return tuple(part if part.box == box else part.with_box(box) for part in parts)


def finest_texture(fields: Iterable[Field]) -> float | None:
    """Smallest scale of kinks of some fields, None without such."""
    found = [t for t in (field._texture() for field in fields) if t is not None]
    return min(found, default=None)


def merged_breaks(fields: Iterable[Field]) -> tuple[np.ndarray, np.ndarray]:
    """Return the breaks of several fields together."""
    pairs = [field._breaks() for field in fields]
    return (
        np.unique(np.concatenate([p[0] for p in pairs])),
        np.unique(np.concatenate([p[1] for p in pairs])),
    )


def _refuse(value: float, x: float, y: float, count: int, size: int) -> None:
    """Raise for a denominator that cannot be divided by."""
    raise PogsonValueError(
        f"The denominator is {value} at x={x:.10g}, y={y:.10g} ({count} of {size} values looked "
        "at are 0 or not finite); restrict the field to a box where it is not zero with with_box()."
    )
