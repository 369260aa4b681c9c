"""The rules of ``*``, ``/``, ``+`` and ``-`` between fields, numbers, quantities and units.

Numbers, quantities and units scale a field: constant, Chebyshev and grid fields stay what they are.
Fields combine on the intersection of their boxes. Products keep their factors (with one constant at
most, in front), quotients cancel the factors that both sides share, so that ``(f * g) / g == f``;
sums cancel a term against its negative, so that ``(f + g) - g == f``. A factor that cancels is gone
exactly, also where it would be zero.
"""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Real
from typing import Any, NamedTuple

import astropy.units as u
import numpy as np

from pogson.errors import PogsonTypeError, PogsonValueError, UnitMismatchError
from pogson.fields.base import Field, checked_unit, finite_float
from pogson.fields.box import Box
from pogson.fields.composite import ProductField, QuotientField, SumField, common
from pogson.fields.constant import ConstantField

__all__ = ["add", "convert", "divide", "multiply", "subtract"]

_NONE = u.dimensionless_unscaled


class _Parts(NamedTuple):
    """A field taken apart: value * unit * product(above) / product(below)."""

    value: float
    unit: u.UnitBase
    above: tuple[Field, ...]
    below: tuple[Field, ...]


def multiply(a: Any, b: Any) -> Field:
    """Return ``a * b``; at least one is a field.

    Raises
    ------
    BoundsError
        If the boxes of two fields do not overlap.
    PogsonTypeError
        If one is neither field, number, quantity nor unit.

    Examples
    --------
    >>> multiply(ConstantField(Box(0, 0, 2, 2), 3.0), 2.0 * u.nJy)
    ConstantField(box=Box(x_min=0, y_min=0, nx=2, ny=2), value=6.0, unit='nJy')
    """
    if not isinstance(a, Field):
        a, b = b, a
    if not isinstance(b, Field):
        value, unit = _scalar(b)
        return _scale(a, value, unit)
    fa, fb = common((a, b), "factors")
    p, q = _take_apart(fa), _take_apart(fb)
    return _assemble(
        fa.box, p.value * q.value, p.unit * q.unit, p.above + q.above, p.below + q.below
    )


def divide(a: Any, b: Any) -> Field:
    """Return ``a / b``; at least one is a field.

    Raises
    ------
    BoundsError
        If the boxes of two fields do not overlap.
    PogsonTypeError
        If one is neither field, number, quantity nor unit.
    PogsonValueError
        If the divisor is the constant 0.

    Examples
    --------
    >>> divide(ConstantField(Box(0, 0, 2, 2), 3.0), 2.0)
    ConstantField(box=Box(x_min=0, y_min=0, nx=2, ny=2), value=1.5, unit='')
    """
    if not isinstance(b, Field):
        value, unit = _scalar(b)
        return _scale(a, _inverse(value), _NONE / unit, divisor=value)
    if not isinstance(a, Field):
        value, unit = _scalar(a)
        a = ConstantField(b.box, value, unit)
    fa, fb = common((a, b), "numerator and denominator")
    p, q = _take_apart(fa), _take_apart(fb)
    _inverse(q.value)
    return _assemble(
        fa.box, p.value / q.value, p.unit / q.unit, p.above + q.below, p.below + q.above
    )


def add(a: Any, b: Any) -> Field:
    """Return ``a + b``; at least one is a field, and the unit is the first field's.

    A bare number counts as dimensionless, except 0, which fits every unit.

    Raises
    ------
    UnitMismatchError
        If the units are not compatible.
    BoundsError
        If the boxes of two fields do not overlap.
    PogsonTypeError
        If one is neither field, number nor quantity.

    Examples
    --------
    >>> add(ConstantField(Box(0, 0, 2, 2), 3.0, "nJy"), 1.0 * u.uJy)
    ConstantField(box=Box(x_min=0, y_min=0, nx=2, ny=2), value=1003.0, unit='nJy')
    """
    if not isinstance(a, Field):
        a, b = b, a
    if not isinstance(b, Field):
        value, unit = _scalar(b, bare_unit=False)
        if value == 0 and unit == _NONE:
            return a
        b = ConstantField(a.box, value, unit)
    fa, fb = common((a, b), "terms")
    terms = SumField((fa, fb)).terms
    return _collect(fa.box, fa.unit, terms)


def subtract(a: Any, b: Any) -> Field:
    """Return ``a - b``; at least one is a field. Rules as for `add`.

    Examples
    --------
    >>> subtract(5.0, ConstantField(Box(0, 0, 2, 2), 3.0))
    ConstantField(box=Box(x_min=0, y_min=0, nx=2, ny=2), value=2.0, unit='')
    """
    if isinstance(b, Field):
        return add(a, _scale(b, -1.0, _NONE)) if isinstance(a, Field) else add(-b, a)
    value, unit = _scalar(b, bare_unit=False)
    return add(a, -value * unit)


def convert(field: Field, unit: Any) -> Field:
    """Return a field in another unit of the same dimension; see `Field.to`."""
    target = checked_unit(unit)
    if field.unit == target:
        return field
    try:
        factor = float(field.unit.to(target))
    except u.UnitConversionError:
        raise UnitMismatchError(
            f"A {type(field).__name__} in '{field.unit}' cannot be converted to '{target}'."
        ) from None
    return _scale(field, factor, target / field.unit)


def _scalar(value: Any, *, bare_unit: bool = True) -> tuple[float, u.UnitBase]:
    """Return number and unit of a constant operand."""
    if isinstance(value, u.UnitBase) and bare_unit:
        return 1.0, value
    if isinstance(value, u.Quantity) and value.isscalar:
        return finite_float(value.value, "The constant"), checked_unit(value.unit)
    if isinstance(value, Real) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return finite_float(value, "The constant"), _NONE
    raise PogsonTypeError(
        f"A field combines with a field, a number, a scalar Quantity or a unit, not with "
        f"{type(value).__name__}; to change an array, render() the field first."
    )


def _inverse(value: float) -> float:
    if value == 0:
        raise PogsonValueError("Cannot divide a field by zero.")
    return 1.0 / value


def _scale(field: Any, value: float, unit: u.UnitBase, *, divisor: float | None = None) -> Field:
    """Return a field times a constant (divided by ``divisor`` where it is given)."""
    if not isinstance(field, Field):
        raise PogsonTypeError(f"One operand must be a field; got {type(field).__name__}.")
    if value == 1.0 and unit == _NONE:
        return field
    if isinstance(field, SumField):
        terms = tuple(_scale(t, value, unit, divisor=divisor) for t in field.terms)
        return SumField(terms)
    if isinstance(field, ConstantField) and divisor is not None:
        return ConstantField(field.box, field.value / divisor, field.unit * unit)
    scaled = field._scaled(value, unit)
    if scaled is not None:
        return scaled
    p = _take_apart(field)
    total = p.value * value if divisor is None else p.value / divisor
    return _assemble(field.box, total, p.unit * unit, p.above, p.below)


def _take_apart(field: Field) -> _Parts:
    """Flatten products and quotients into constant, factors above and factors below."""
    if isinstance(field, ConstantField):
        return _Parts(field.value, field.unit, (), ())
    if isinstance(field, ProductField):
        value, unit = 1.0, _NONE
        above: tuple[Field, ...] = ()
        below: tuple[Field, ...] = ()
        for factor in field.factors:
            p = _take_apart(factor)
            value, unit = value * p.value, unit * p.unit
            above, below = above + p.above, below + p.below
        return _Parts(value, unit, above, below)
    if isinstance(field, QuotientField):
        p, q = _take_apart(field.numerator), _take_apart(field.denominator)
        _inverse(q.value)
        return _Parts(p.value / q.value, p.unit / q.unit, p.above + q.below, p.below + q.above)
    return _Parts(1.0, _NONE, (field,), ())


def _assemble(
    box: Box,
    value: float,
    unit: u.UnitBase,
    above: Iterable[Field],
    below: Iterable[Field],
) -> Field:
    """Put a field together, cancelling what is both above and below."""
    left: list[Field] = list(above)
    kept: list[Field] = []
    for field in below:
        if field in left:
            left.remove(field)
        else:
            kept.append(field)
    top = _product(box, value, unit, left)
    if not kept:
        return top
    return QuotientField(top, _product(box, 1.0, _NONE, kept))


def _product(box: Box, value: float, unit: u.UnitBase, factors: list[Field]) -> Field:
    """Return a product with its constant in front, or something simpler where that is all."""
    if not factors:
        return ConstantField(box, value, unit)
    if value == 1.0 and unit == _NONE:
        return factors[0] if len(factors) == 1 else ProductField(factors)
    return ProductField((ConstantField(box, value, unit), *factors))


def _collect(box: Box, unit: u.UnitBase, terms: Iterable[Field]) -> Field:
    """Return a sum with nested sums opened, constants folded and opposite terms gone."""
    constant = 0.0
    kept: list[Field] = []
    for field in terms:
        for term in field.terms if isinstance(field, SumField) else (field,):
            if isinstance(term, ConstantField):
                constant += term.value
                continue
            # the negative is made only where there may be one to meet
            opposite = -term if kept else None
            if opposite in kept:
                kept.remove(opposite)
            else:
                kept.append(term)
    if not kept:
        return ConstantField(box, constant, unit)
    if constant:
        kept.append(ConstantField(box, constant, unit))
    return kept[0] if len(kept) == 1 else SumField(kept)
