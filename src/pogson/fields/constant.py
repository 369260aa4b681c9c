"""A field with one value everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import astropy.units as u
import numpy as np

from pogson.fields.base import Field, RowFiller, checked_box, checked_unit, finite_float
from pogson.fields.box import Box

__all__ = ["ConstantField"]


class ConstantField(Field):
    """The same value at every position.

    Parameters
    ----------
    box : Box
        Pixel box (0-based, pixel centres on integers); `Box.everywhere` for a value that holds at
        any position.
    value : float or Quantity
        The value; a Quantity is converted to ``unit`` where one is given, else gives the unit.
    unit : unit-like, optional
        Unit of a bare number; dimensionless by default.

    Raises
    ------
    PogsonValueError
        If the value is not a finite number.
    UnitMismatchError
        If the unit is unknown or does not fit the Quantity.

    Examples
    --------
    >>> field = ConstantField(Box(0, 0, 2048, 4096), 0.54, "nJy / adu")
    >>> field(x=10.0, y=20.0), field.unit
    (0.54, Unit("nJy / adu"))
    >>> (2 * field).mean()
    1.08
    """

    __slots__ = ("_value",)
    kind = "constant"
    _value: float

    def __init__(self, box: Box, value: Any, unit: Any = None) -> None:
        value, unit = split_quantity(value, unit, "value")
        self._set(
            _box=checked_box(box), _unit=checked_unit(unit), _value=finite_float(value, "value")
        )

    @property
    def value(self) -> float:
        """The value, in `unit`."""
        return self._value

    def _evaluate(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.where(np.isnan(x) | np.isnan(y), np.nan, self._value)

    def _rows(self, x: np.ndarray, y: np.ndarray) -> RowFiller:
        def fill(start: int, stop: int, out: np.ndarray) -> None:
            out[...] = self._value

        return fill

    def _degrees(self) -> tuple[int, int]:
        return (0, 0)

    def _integral(self, box: Box) -> float:
        return self._value * box.area

    def _scaled(self, factor: float, unit: u.UnitBase) -> ConstantField:
        return ConstantField(self._box, self._value * factor, self._unit * unit)

    def _parameters(self) -> dict[str, Any]:
        return {"value": self._value}

    @classmethod
    def _from_parameters(
        cls, box: Box, unit: u.UnitBase, parameters: Mapping[str, Any]
    ) -> ConstantField:
        return cls(box, parameters["value"], unit)

    def with_box(self, box: Box) -> ConstantField:
        """Return the same value on a smaller box.

        Examples
        --------
        >>> ConstantField(Box(0, 0, 9, 9), 3.0).with_box(Box(2, 2, 4, 4)).box
        Box(x_min=2, y_min=2, nx=4, ny=4)
        """
        return ConstantField(self._restricted(box), self._value, self._unit)


def split_quantity(values: Any, unit: Any, name: str) -> tuple[Any, Any]:
    """Return bare numbers and their unit from numbers or a Quantity and an optional unit."""
    from pogson.units import strip_unit

    if not isinstance(values, u.Quantity):
        return values, "" if unit is None else unit
    if unit is None:
        return values.value, values.unit
    parsed = checked_unit(unit)
    return strip_unit(values, parsed, name), parsed
