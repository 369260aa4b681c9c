r"""Where a pixel-grid PSF lives: the plane of its samples and the coordinates it varies with.

A frame answers two questions at a pixel position: the coordinates (U, V) of the polynomial in
which the samples vary, and the matrix d(grid)/d(pixel) that takes pixel offsets from the star to
offsets on the sample grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pogson.errors import FileFormatError, PogsonValueError
from pogson.sky import SkyMap, skymap_from_dict
from pogson.sky.geometry import gnomonic

__all__ = ["PixelFrame", "SkyFrame", "frame_from_dict"]


@dataclass(frozen=True, slots=True)
class PixelFrame:
    """Samples aligned with the pixels, varying with pixel position.

    Parameters
    ----------
    sampling : float
        Pixels per sample: below 1 for an oversampled grid.
    x_zero, y_zero : float
        Pixel position (0-based, centres on integers) of U = V = 0.
    x_scale, y_scale : float
        Pixels per unit of U and V.

    Raises
    ------
    PogsonValueError
        If the sampling is not from 0.02 to 10, or a scale is not positive.

    Examples
    --------
    >>> frame = PixelFrame(sampling=0.5, x_zero=100.0, x_scale=50.0)
    >>> frame.coordinates(np.array([125.0]), np.array([0.0]))
    (array([0.5]), array([0.]))
    """

    sampling: float = 1.0
    x_zero: float = 0.0
    y_zero: float = 0.0
    x_scale: float = 1.0
    y_scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("sampling", "x_zero", "y_zero", "x_scale", "y_scale"):
            value = float(getattr(self, name))
            if not np.isfinite(value):
                raise PogsonValueError(f"PixelFrame {name}={value!r} must be finite.")
            object.__setattr__(self, name, value)
        if not 0.02 <= self.sampling <= 10:
            raise PogsonValueError(
                f"PSF sampling={self.sampling!r} must be from 0.02 to 10 pixels per sample."
            )
        if not (self.x_scale > 0 and self.y_scale > 0):
            raise PogsonValueError(
                f"x_scale={self.x_scale!r} and y_scale={self.y_scale!r} must be positive."
            )

    def coordinates(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (U, V) at pixel positions."""
        return (x - self.x_zero) / self.x_scale, (y - self.y_zero) / self.y_scale

    def matrix(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return d(grid)/d(pixel), shape (n, 2, 2)."""
        return np.broadcast_to(np.eye(2) / self.sampling, (x.size, 2, 2))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return {
            "frame": "pixel",
            "sampling": self.sampling,
            "x_zero": self.x_zero,
            "y_zero": self.y_zero,
            "x_scale": self.x_scale,
            "y_scale": self.y_scale,
        }


def _in_groups(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Repeat the last position until there are whole groups of 8.

    Matrix products round the last few rows otherwise, a single one most of all; a star must not
    depend on which others are drawn with it.
    """
    if not x.size:
        return x, y
    extra = (0, -x.size % 8)
    return np.pad(x, extra, mode="edge"), np.pad(y, extra, mode="edge")


@dataclass(frozen=True, slots=True)
class SkyFrame:
    """Samples on the sky, u toward west and v toward north, varying with field position.

    (U, V) are the gnomonic coordinates about the pointing, in arcsec, U toward west; the samples
    lie on the tangent plane at the star.

    Parameters
    ----------
    sky : SkyMap
        Map from pixels to the sky.
    ra, dec : float
        Pointing in degrees.
    spacing : float
        Distance of samples in arcsec.

    Raises
    ------
    PogsonValueError
        If the spacing is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> from pogson.sky import FitsSkyMap
    >>> sky = FitsSkyMap.tan(30.0, -20.0, x=100.0, y=100.0, scale_arcsec=0.25)
    >>> frame = SkyFrame(sky, 30.0, -20.0, spacing=0.3)
    >>> u, v = frame.coordinates(np.array([104.0]), np.array([100.0]))
    >>> float(u[0]), float(abs(v[0]))
    (1.0, 0.0)
    """

    sky: SkyMap
    ra: float
    dec: float
    spacing: float

    def __post_init__(self) -> None:
        if not isinstance(self.sky, SkyMap):
            raise PogsonValueError(f"sky must be a SkyMap, not {type(self.sky).__name__}.")
        for name in ("ra", "dec", "spacing"):
            object.__setattr__(self, name, float(getattr(self, name)))
        if not (np.isfinite(self.ra) and abs(self.dec) <= 90 and 1e-6 < self.spacing < 1e6):
            raise PogsonValueError(
                f"Pointing ra={self.ra!r}, dec={self.dec!r} (degrees) or spacing="
                f"{self.spacing!r} (arcsec, positive) is impossible."
            )

    def coordinates(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (U, V) at pixel positions, in arcsec."""
        xs, ys = _in_groups(x, y)
        ra, dec = self.sky.sky(x=xs, y=ys)
        xi, eta = gnomonic(ra, dec, self.ra, self.dec)
        return -xi[: x.size], eta[: x.size]

    def matrix(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return d(grid)/d(pixel), shape (n, 2, 2)."""
        xs, ys = _in_groups(x, y)
        jacobian = np.array(self.sky.jacobian(x=xs, y=ys)[: x.size], np.float64)
        jacobian[:, 0, :] *= -1.0
        return jacobian / self.spacing

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return {
            "frame": "sky",
            "sky": self.sky.to_dict(),
            "ra": self.ra,
            "dec": self.dec,
            "spacing": self.spacing,
        }


def frame_from_dict(description: Mapping[str, Any]) -> PixelFrame | SkyFrame:
    """Return the frame of a description.

    Raises
    ------
    FileFormatError
        If the kind of frame is unknown.
    """
    values = {k: v for k, v in description.items() if k != "frame"}
    if description["frame"] == "pixel":
        return PixelFrame(**values)
    if description["frame"] == "sky":
        return SkyFrame(
            skymap_from_dict(values["sky"]), values["ra"], values["dec"], values["spacing"]
        )
    raise FileFormatError(f"Unknown PSF frame {description['frame']!r}; allowed: 'pixel' or 'sky'.")
