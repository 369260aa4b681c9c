"""The area of a pixel on the sky, as a field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import astropy.units as u
import numpy as np

from pogson.errors import PogsonTypeError, PogsonValueError, UnitMismatchError
from pogson.fields.base import Field, RowFiller, finite_float
from pogson.fields.box import Box
from pogson.fields.chebyshev import ChebyshevField
from pogson.units import strip_unit

__all__ = ["PixelAreaField"]


class PixelAreaField(Field):
    """The sky area covered by a pixel, or its ratio to a reference area.

    Fluence is surface brightness times this ratio. A pixel area keeps its identity in products, so
    that it can be divided out of a calibration again.

    Parameters
    ----------
    chebyshev : ChebyshevField
        The area, in a unit of solid angle (arcsec2 as a rule), or dimensionless when it is a ratio
        to a reference area. It must be positive all over its box.
    achieved_error : float
        Largest relative error of this approximation to the mapping it was made from.
    reference : str
        What the area was computed from, and which area it is relative to if it is a ratio.

    Raises
    ------
    PogsonTypeError
        If ``chebyshev`` is not a ChebyshevField.
    PogsonValueError
        If the area is not positive, or the error is negative or not finite.
    UnitMismatchError
        If the unit is neither a solid angle nor dimensionless.

    Examples
    --------
    >>> area = PixelAreaField(
    ...     ChebyshevField(Box(0, 0, 100, 100), [[0.07, 0.001]], "arcsec2"), 1e-9, "a TAN mapping")
    >>> ratio = area.relative_to(0.07)
    >>> ratio(x=99.5, y=0.0), ratio.unit
    (1.0142857142857142, Unit(dimensionless))
    """

    __slots__ = ("_achieved_error", "_chebyshev", "_reference")
    kind = "pixel_area"
    _chebyshev: ChebyshevField
    _achieved_error: float
    _reference: str

    def __init__(
        self, chebyshev: ChebyshevField, achieved_error: float = 0.0, reference: str = ""
    ) -> None:
        if not isinstance(chebyshev, ChebyshevField):
            raise PogsonTypeError(
                f"A pixel area is a ChebyshevField, not a {type(chebyshev).__name__}; "
                "approximate it first with ChebyshevField.approximate."
            )
        if not isinstance(reference, str):
            raise PogsonTypeError(f"reference must be text, not {reference!r}.")
        error = finite_float(achieved_error, "achieved_error")
        if error < 0:
            raise PogsonValueError(f"achieved_error={error} must be 0 or more.")
        unit = chebyshev.unit
        if unit != u.dimensionless_unscaled and not unit.is_equivalent(u.arcsec**2):
            raise UnitMismatchError(
                f"A pixel area has the unit of a solid angle, as arcsec2, or none; not '{unit}'."
            )
        _check_positive(chebyshev)
        self._set(
            _box=chebyshev.box,
            _unit=unit,
            _chebyshev=chebyshev,
            _achieved_error=error,
            _reference=reference,
        )

    @property
    def chebyshev(self) -> ChebyshevField:
        """The area as a plain Chebyshev series."""
        return self._chebyshev

    @property
    def achieved_error(self) -> float:
        """Largest relative error of the approximation."""
        return self._achieved_error

    @property
    def reference(self) -> str:
        """What the area was computed from."""
        return self._reference

    def relative_to(self, area: Any) -> PixelAreaField:
        """Return the ratio to a reference area.

        Parameters
        ----------
        area : float or Quantity
            Reference area A0; a bare number is in `unit`.

        Returns
        -------
        ratio : PixelAreaField
            A(x, y) / A0, dimensionless, with the same relative error.

        Raises
        ------
        PogsonValueError
            If the reference area is not a positive number.

        Examples
        --------
        >>> area = PixelAreaField(ChebyshevField(Box(0, 0, 9, 9), [[0.07]], "arcsec2"))
        >>> area.relative_to(0.035 * u.arcsec**2).mean()
        2.0
        """
        a0 = finite_float(strip_unit(area, self._unit, "area"), "area")
        if a0 <= 0:
            raise PogsonValueError(f"The reference area must be positive; got {area!r}.")
        unit = self._unit.to_string()
        ratio = self._chebyshev._like(self._chebyshev.coefficients / a0)._scaled(
            1.0, 1 / self._unit
        )
        note = f"relative to {a0!r} {unit}".rstrip()
        reference = f"{self._reference}; {note}" if self._reference else note
        return PixelAreaField(ratio, self._achieved_error, reference)

    def _evaluate(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return self._chebyshev._evaluate(x, y)

    def _rows(self, x: np.ndarray, y: np.ndarray) -> RowFiller:
        return self._chebyshev._rows(x, y)

    def _degrees(self) -> tuple[int, int]:
        return self._chebyshev._degrees()

    def _integral(self, box: Box) -> float:
        return self._chebyshev._integral(box)

    def with_box(self, box: Box) -> PixelAreaField:
        """Return the same area on a smaller box.

        Examples
        --------
        >>> area = PixelAreaField(ChebyshevField(Box(0, 0, 9, 9), [[0.07]], "arcsec2"))
        >>> area.with_box(Box(0, 0, 2, 2)).box.nx
        2
        """
        # A subset of a positive field is positive, and the error holds there too.
        cut = object.__new__(PixelAreaField)
        cut._set(
            _box=self._restricted(box),
            _unit=self._unit,
            _chebyshev=self._chebyshev.with_box(box),
            _achieved_error=self._achieved_error,
            _reference=self._reference,
        )
        return cut

    def _parameters(self) -> dict[str, Any]:
        return {
            "chebyshev": self._chebyshev,
            "achieved_error": self._achieved_error,
            "reference": self._reference,
        }

    def _repr_arguments(self) -> dict[str, Any]:
        return self._parameters()

    @classmethod
    def _from_parameters(
        cls, box: Box, unit: u.UnitBase, parameters: Mapping[str, Any]
    ) -> PixelAreaField:
        return cls(parameters["chebyshev"], parameters["achieved_error"], parameters["reference"])


def _check_positive(area: ChebyshevField) -> None:
    """Raise when the area is not positive on a grid finer than its polynomial can turn."""
    n = 4 * (max(area.order_x, area.order_y) + 1)
    (x0, x1), (y0, y1) = area.box.x_bounds, area.box.y_bounds
    x, y = np.linspace(x0, x1, n), np.linspace(y0, y1, n)
    values = np.empty((n, n))
    area._rows(x, y)(0, n, values)
    if not values.min() > 0:
        j, i = np.unravel_index(int(values.argmin()), values.shape)
        raise PogsonValueError(
            f"A pixel area must be positive; it is {values[j, i]:.6g} at x={x[i]:.6g}, "
            f"y={y[j]:.6g}."
        )
