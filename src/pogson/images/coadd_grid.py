"""Output pixels of coadds: a tangent plane cut into tiles, and tangent planes for the whole sky.

A tile has an inner part, which is its own, and an outer part, which overlaps its neighbours so that
every source lies whole on some tile. Pixels are 0-based with centres on integers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pogson.errors import BoundsError, PogsonTypeError, PogsonValueError
from pogson.fields import Box
from pogson.sky import FitsSkyMap, SkyMap, skymap_from_dict

__all__ = ["CoaddGrid", "SkyTracts", "Tile"]


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile of a grid.

    Parameters
    ----------
    column, row : int
        Its place in the grid, from 0.
    inner : Box
        The pixels that belong to no other tile.
    outer : Box
        The pixels that are made: ``inner`` and the overlap.

    Examples
    --------
    >>> Tile(3, 2, Box(0, 0, 10, 10), Box(-1, -1, 12, 12)).name
    '3,2'
    """

    column: int
    row: int
    inner: Box
    outer: Box

    @property
    def name(self) -> str:
        """Column and row as text."""
        return f"{self.column},{self.row}"


@dataclass(frozen=True)
class CoaddGrid:
    """A sky mapping, the pixels on it, and how they are cut into tiles; immutable.

    Parameters
    ----------
    sky : SkyMap
        Mapping of all tiles: pixels count on from tile to tile.
    box : Box
        All pixels.
    tile_size : int, optional
        Pixels a side of the inner part of a tile.
    overlap : int, optional
        Pixels by which the outer part is wider on every side, within the box.
    name : str, optional
        Name of the grid, for example of a tract.

    Raises
    ------
    PogsonValueError
        If a size is out of range.

    Examples
    --------
    >>> sky = FitsSkyMap.tan(30.0, -20.0, x=500.0, y=500.0, scale_arcsec=0.25)
    >>> grid = CoaddGrid(sky, Box(0, 0, 1000, 700), tile_size=400, overlap=50)
    >>> [tile.name for tile in grid]
    ['0,0', '1,0', '2,0', '0,1', '1,1', '2,1']
    >>> grid.tile_at(x=450.0, y=10.0).outer
    Box(x_min=350, y_min=0, nx=500, ny=450)
    """

    sky: SkyMap
    box: Box
    tile_size: int = 2048
    overlap: int = 100
    name: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.sky, SkyMap) or not isinstance(self.box, Box):
            raise PogsonTypeError("CoaddGrid takes a SkyMap and a Box.")
        if int(self.tile_size) != self.tile_size or self.tile_size < 16:
            raise PogsonValueError(
                f"tile_size={self.tile_size!r} must be a whole number of at least 16 pixels."
            )
        if int(self.overlap) != self.overlap or not 0 <= self.overlap <= self.tile_size:
            raise PogsonValueError(
                f"overlap={self.overlap!r} must be from 0 to tile_size={self.tile_size} pixels."
            )

    @classmethod
    def covering(
        cls,
        images: Iterable[tuple[SkyMap, Box]],
        *,
        scale_arcsec: float | None = None,
        tile_size: int = 2048,
        overlap: int = 100,
        name: str = "",
    ) -> CoaddGrid:
        """Return the grid on a tangent plane, north up, that holds all of some images.

        Parameters
        ----------
        images : iterable of (SkyMap, Box)
            Mappings and pixels of the images.
        scale_arcsec : float, optional
            Pixel scale; by default the finest of the images at their centres.
        tile_size, overlap, name
            As in the class.

        Raises
        ------
        PogsonValueError
            If there are no images, or they do not fit on one tangent plane.

        Examples
        --------
        >>> sky = FitsSkyMap.tan(359.99, 10.0, x=50.0, y=50.0, scale_arcsec=0.5)
        >>> other = FitsSkyMap.tan(0.01, 10.0, x=50.0, y=50.0, scale_arcsec=0.5)
        >>> box = Box(0, 0, 101, 101)
        >>> CoaddGrid.covering([(sky, box), (other, box)]).box.nx
        245
        """
        parts = list(images)
        if not parts:
            raise PogsonValueError("There are no images to cover.")
        ra, dec = (np.concatenate(v) for v in zip(*(_outline(*p) for p in parts), strict=True))
        if not (np.isfinite(ra) & np.isfinite(dec)).all():
            raise PogsonValueError("The outline of an image is not defined on the sky.")
        lon, lat = np.deg2rad(ra), np.deg2rad(dec)
        mean = np.array(
            [
                np.mean(np.cos(lat) * np.cos(lon)),
                np.mean(np.cos(lat) * np.sin(lon)),
                np.mean(np.sin(lat)),
            ]
        )
        size = float(np.linalg.norm(mean))
        if size < 0.9:
            raise PogsonValueError(
                "The images lie too far apart for one tangent plane; use SkyTracts."
            )
        mean /= size
        ra0 = float(np.rad2deg(np.arctan2(mean[1], mean[0])) % 360.0)
        dec0 = float(np.rad2deg(np.arcsin(mean[2])))
        if scale_arcsec is None:
            scale_arcsec = min(float(s.pixel_scale(x=b.center[0], y=b.center[1])) for s, b in parts)
        sky = FitsSkyMap.tan(ra0, dec0, x=0.0, y=0.0, scale_arcsec=scale_arcsec)
        x, y = sky.pixel(ra, dec)
        x0, y0 = math.floor(x.min()), math.floor(y.min())
        box = Box(0, 0, math.ceil(x.max()) - x0 + 1, math.ceil(y.max()) - y0 + 1)
        sky = FitsSkyMap.tan(ra0, dec0, x=-x0, y=-y0, scale_arcsec=scale_arcsec)
        return cls(sky, box, tile_size, overlap, name)

    @property
    def n_columns(self) -> int:
        """Number of tiles along x."""
        return -(-self.box.nx // self.tile_size)

    @property
    def n_rows(self) -> int:
        """Number of tiles along y."""
        return -(-self.box.ny // self.tile_size)

    def tile(self, column: int, row: int) -> Tile:
        """Return a tile by its place.

        Raises
        ------
        BoundsError
            If there is none.
        """
        if not (0 <= column < self.n_columns and 0 <= row < self.n_rows):
            raise BoundsError(
                f"There is no tile {column},{row}; the grid has {self.n_columns} x {self.n_rows}."
            )
        b, s, o = self.box, self.tile_size, self.overlap
        x0, y0 = b.x_min + column * s, b.y_min + row * s
        x1, y1 = min(x0 + s, b.x_max + 1), min(y0 + s, b.y_max + 1)
        inner = Box(x0, y0, x1 - x0, y1 - y0)
        u0, v0 = max(x0 - o, b.x_min), max(y0 - o, b.y_min)
        u1, v1 = min(x1 + o, b.x_max + 1), min(y1 + o, b.y_max + 1)
        return Tile(column, row, inner, Box(u0, v0, u1 - u0, v1 - v0))

    def tile_at(self, *, x: float, y: float) -> Tile:
        """Return the tile whose inner part holds a position in pixels.

        Raises
        ------
        BoundsError
            If the position is outside the grid.
        """
        if not self.box.contains(x=x, y=y):
            raise BoundsError(f"x={x!r}, y={y!r} is outside the grid's {self.box}.")
        column = min(int((x + 0.5 - self.box.x_min) // self.tile_size), self.n_columns - 1)
        row = min(int((y + 0.5 - self.box.y_min) // self.tile_size), self.n_rows - 1)
        return self.tile(column, row)

    def __iter__(self) -> Iterator[Tile]:
        for row in range(self.n_rows):
            for column in range(self.n_columns):
                yield self.tile(column, row)

    def __len__(self) -> int:
        return self.n_columns * self.n_rows

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description, read back by `from_dict`."""
        return {
            "sky": self.sky.to_dict(),
            "box": list(self.box),
            "tile_size": self.tile_size,
            "overlap": self.overlap,
            "name": self.name,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CoaddGrid:
        """Return the grid described by `to_dict`."""
        return cls(
            skymap_from_dict(data["sky"]),
            Box(*data["box"]),
            int(data["tile_size"]),
            int(data["overlap"]),
            str(data["name"]),
        )


def _outline(sky: SkyMap, box: Box) -> tuple[np.ndarray, np.ndarray]:
    """Return points of the sky along the border of a box."""
    t = np.linspace(0.0, 1.0, 17)
    (x0, x1), (y0, y1) = box.x_bounds, box.y_bounds
    x, y = x0 + (x1 - x0) * t, y0 + (y1 - y0) * t
    n = np.ones(t.size)
    ra, dec = sky.sky(
        x=np.concatenate([x, x, x0 * n, x1 * n]), y=np.concatenate([y0 * n, y1 * n, y, y])
    )
    return np.asarray(ra), np.asarray(dec)


@dataclass(frozen=True, slots=True)
class SkyTracts:
    """Tangent planes that cover the whole sky in rings of declination.

    Parameters
    ----------
    n_rings : int, optional
        Rings from pole to pole; a tract is 180 / n_rings degrees high.
    scale_arcsec : float, optional
        Pixel scale at the centres.
    tile_size, overlap : int, optional
        Of the tiles, as in `CoaddGrid`.
    border_arcsec : float, optional
        By how much a tract reaches over its own part of the sky.

    Raises
    ------
    PogsonValueError
        If a number is out of range.

    Notes
    -----
    Tract numbers run along right ascension from 0, ring after ring from the south. A ring has as
    many tracts as its longer parallel needs.

    Examples
    --------
    >>> tracts = SkyTracts(n_rings=120)
    >>> number = tracts.find(150.1, 2.2)
    >>> grid = tracts.tract(number)
    >>> x, y = grid.sky.pixel(150.1, 2.2)
    >>> bool(grid.box.contains(x=x, y=y)), grid.name == str(number)
    (True, True)
    """

    n_rings: int = 120
    scale_arcsec: float = 0.2
    tile_size: int = 4000
    overlap: int = 100
    border_arcsec: float = 60.0

    def __post_init__(self) -> None:
        if (
            not 4 <= self.n_rings <= 2000
            or not self.scale_arcsec > 0
            or not self.border_arcsec >= 0
        ):
            raise PogsonValueError(
                f"SkyTracts needs n_rings from 4 to 2000, scale_arcsec > 0 and border_arcsec >= 0; "
                f"got {self!r}."
            )

    def in_ring(self, ring: int) -> int:
        """Return how many tracts a ring has."""
        height = 180.0 / self.n_rings
        low, high = -90.0 + ring * height, -90.0 + (ring + 1) * height
        nearest = 0.0 if low < 0.0 < high else min(abs(low), abs(high))
        return max(3, math.ceil(360.0 * math.cos(math.radians(nearest)) / height - 1e-9))

    def __len__(self) -> int:
        return sum(self.in_ring(r) for r in range(self.n_rings))

    def find(self, ra: float, dec: float) -> int:
        """Return the number of the tract that owns a position in degrees.

        Raises
        ------
        PogsonValueError
            If the position is not one on the sky.
        """
        if not (math.isfinite(ra) and abs(dec) <= 90.0):
            raise PogsonValueError(f"ra={ra!r}, dec={dec!r} (degrees) is not a position.")
        ring = min(int((dec + 90.0) * self.n_rings / 180.0), self.n_rings - 1)
        n = self.in_ring(ring)
        return sum(self.in_ring(r) for r in range(ring)) + min(int((ra % 360.0) * n / 360.0), n - 1)

    def tract(self, number: int) -> CoaddGrid:
        """Return the grid of a tract.

        Raises
        ------
        BoundsError
            If there is no such tract.
        """
        ring, left = 0, number
        while ring < self.n_rings and left >= self.in_ring(ring):
            left -= self.in_ring(ring)
            ring += 1
        if number < 0 or ring == self.n_rings:
            raise BoundsError(f"There is no tract {number}; there are {len(self)}.")
        n, height = self.in_ring(ring), 180.0 / self.n_rings
        low, ra0 = -90.0 + ring * height, (left + 0.5) * 360.0 / n
        dec0 = low + 0.5 * height
        sky = FitsSkyMap.tan(ra0, dec0, x=0.0, y=0.0, scale_arcsec=self.scale_arcsec)
        ra, dec = np.meshgrid(
            ra0 + np.linspace(-180.0 / n, 180.0 / n, 33), np.linspace(low, low + height, 33)
        )
        x, y = sky.pixel(ra.ravel(), np.clip(dec.ravel(), -90.0, 90.0))
        border = self.border_arcsec / self.scale_arcsec
        x0, x1 = math.floor(x.min() - border), math.ceil(x.max() + border)
        y0, y1 = math.floor(y.min() - border), math.ceil(y.max() + border)
        sky = FitsSkyMap.tan(ra0, dec0, x=-x0, y=-y0, scale_arcsec=self.scale_arcsec)
        box = Box(0, 0, x1 - x0 + 1, y1 - y0 + 1)
        return CoaddGrid(sky, box, self.tile_size, self.overlap, str(number))
