"""Integer pixel boxes.

Pixel convention everywhere in pogson: 0-based, the centre of a pixel on integer coordinates, so
that pixel ``i`` covers ``[i - 0.5, i + 0.5]``. Arrays are indexed ``[y, x]``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pogson.errors import BoundsError, PogsonValueError

__all__ = ["Box"]


# Positions up to here are exact in float64, half pixels included.
_LARGEST = 2**51


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of whole pixels.

    Parameters
    ----------
    x_min, y_min : int
        Indices of the first pixel (0-based; pixel centres on integers).
    nx, ny : int
        Number of pixels along x and y, both at least 1.

    Raises
    ------
    PogsonValueError
        If ``nx`` or ``ny`` is below 1.

    Examples
    --------
    >>> box = Box.from_shape((100, 200))
    >>> box.nx, box.ny, box.x_bounds
    (200, 100, (-0.5, 199.5))
    >>> bool(box.contains(x=199.4, y=0.0))
    True
    """

    x_min: int
    y_min: int
    nx: int
    ny: int

    def __post_init__(self) -> None:
        for name in ("x_min", "y_min", "nx", "ny"):
            value = getattr(self, name)
            try:
                whole = int(value)
            except (TypeError, ValueError, OverflowError):
                whole = None
            if whole is None or isinstance(value, str) or whole != value:
                raise PogsonValueError(f"Box {name}={value!r} must be a whole number of pixels.")
            object.__setattr__(self, name, whole)
            if abs(whole) > _LARGEST:
                raise PogsonValueError(f"Box {name}={value!r} is beyond {_LARGEST} pixels.")
        if self.nx < 1 or self.ny < 1:
            raise PogsonValueError(
                f"Box of nx={self.nx}, ny={self.ny} pixels is empty; both must be at least 1."
            )

    @classmethod
    def from_shape(cls, shape: tuple[int, ...], x_min: int = 0, y_min: int = 0) -> Box:
        """Return the box of an array of shape ``(ny, nx)`` whose first pixel is (x_min, y_min).

        Raises
        ------
        PogsonValueError
            If the shape is not two positive numbers.
        """
        if len(shape) != 2:
            raise PogsonValueError(f"An image has a shape (ny, nx), not {tuple(shape)}.")
        ny, nx = shape
        return cls(x_min, y_min, nx, ny)

    @classmethod
    def everywhere(cls) -> Box:
        """Return a box larger than any detector, for what holds at every position.

        Examples
        --------
        >>> bool(Box.everywhere().contains(x=-1e8, y=1e8))
        True
        """
        return cls(-(2**30), -(2**30), 2**31, 2**31)

    @property
    def shape(self) -> tuple[int, int]:
        """Array shape ``(ny, nx)``."""
        return (self.ny, self.nx)

    @property
    def x_max(self) -> int:
        """Index of the last pixel column, inclusive."""
        return self.x_min + self.nx - 1

    @property
    def y_max(self) -> int:
        """Index of the last pixel row, inclusive."""
        return self.y_min + self.ny - 1

    @property
    def x_bounds(self) -> tuple[float, float]:
        """Outer edges along x: (x_min - 0.5, x_max + 0.5)."""
        return (self.x_min - 0.5, self.x_max + 0.5)

    @property
    def y_bounds(self) -> tuple[float, float]:
        """Outer edges along y: (y_min - 0.5, y_max + 0.5)."""
        return (self.y_min - 0.5, self.y_max + 0.5)

    @property
    def area(self) -> int:
        """Number of pixels."""
        return self.nx * self.ny

    @property
    def center(self) -> tuple[float, float]:
        """Centre (x, y) in pixels."""
        return (0.5 * (self.x_min + self.x_max), 0.5 * (self.y_min + self.y_max))

    def contains(self, *, x: Any, y: Any) -> Any:
        """Return whether positions fall on a pixel of the box (edges included), elementwise."""
        x, y = np.asarray(x), np.asarray(y)
        (x0, x1), (y0, y1) = self.x_bounds, self.y_bounds
        return (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)

    def contains_box(self, other: Box) -> bool:
        """Return whether every pixel of ``other`` is also a pixel of this box."""
        return (
            other.x_min >= self.x_min
            and other.y_min >= self.y_min
            and other.x_max <= self.x_max
            and other.y_max <= self.y_max
        )

    def intersection(self, other: Box) -> Box:
        """Return the overlap with ``other``.

        Raises
        ------
        BoundsError
            If the boxes do not overlap.
        """
        x0, x1 = max(self.x_min, other.x_min), min(self.x_max, other.x_max)
        y0, y1 = max(self.y_min, other.y_min), min(self.y_max, other.y_max)
        if x1 < x0 or y1 < y0:
            raise BoundsError(f"{self} and {other} do not overlap.")
        return Box(x0, y0, x1 - x0 + 1, y1 - y0 + 1)

    def slices(self, inside: Box) -> tuple[slice, slice]:
        """Return the ``[y, x]`` slices of this box in an array that covers ``inside``.

        Raises
        ------
        BoundsError
            If this box is not wholly within ``inside``.
        """
        if not inside.contains_box(self):
            raise BoundsError(f"{self} is not inside {inside}.")
        x0, y0 = self.x_min - inside.x_min, self.y_min - inside.y_min
        return (slice(y0, y0 + self.ny), slice(x0, x0 + self.nx))

    def x_pixels(self) -> np.ndarray:
        """Pixel-centre coordinates along x, float64."""
        return np.arange(self.x_min, self.x_max + 1, dtype=np.float64)

    def y_pixels(self) -> np.ndarray:
        """Pixel-centre coordinates along y, float64."""
        return np.arange(self.y_min, self.y_max + 1, dtype=np.float64)

    def __iter__(self) -> Iterator[int]:
        return iter((self.x_min, self.y_min, self.nx, self.ny))
