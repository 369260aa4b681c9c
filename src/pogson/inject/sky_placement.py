"""Where synthetic sources go on the sky, the same ones for every exposure that sees the place.

`pogson.inject.placement` fills one image; here the pattern belongs to the sky. Whether there is a
source at some place follows from the seed and the place alone, not from the exposures: two visits
of one field hold the same sources, and one exposure more does not move those there are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import PogsonValueError, choices
from pogson.inject.placement import PATTERNS
from pogson.streams import stream

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["largest_density", "place_on_sky"]

_CELL = 1.0 / 60.0  # degrees; random sources are drawn cell by cell
_PACKED = 0.8  # of the density at which thinning would remove everything but the pattern
_ARCSEC2 = (np.pi / 180.0 / 3600.0) ** 2  # in steradian


def largest_density(pattern: str, min_separation: float) -> float:
    """Return the largest density, per arcmin2, that keeps a least separation in arcsec.

    Infinite without a separation. Random sources reach only part of what a lattice does.

    Examples
    --------
    >>> round(largest_density("random", 10.0), 2), round(largest_density("grid", 10.0), 2)
    (9.17, 36.0)
    """
    if min_separation <= 0:
        return float("inf")
    if pattern == "grid":
        return 3600.0 / min_separation**2
    if pattern == "hexagonal":  # rows lie sqrt(3)/2 of the spacing apart and are not aligned
        return 3600.0 * (2.0 / np.sqrt(3.0)) * 0.75 / min_separation**2
    return 3600.0 * _PACKED / (np.pi * min_separation**2)


def place_on_sky(
    footprints: Iterable[Any],
    *,
    density: float,
    pattern: str = "random",
    min_separation: float = 0.0,
    seed: int = 0,
    name: str = "",
) -> Table:
    r"""Choose positions for synthetic sources on the sky.

    Parameters
    ----------
    footprints : iterable of array_like, shape (n, 2)
        Outlines (ra, dec), degrees, of the images: convex, corners in order, as
        `SkyMap.footprint` returns them. Positions in at least one of them are returned.
    density : float
        Sources per arcmin2.
    pattern : {"random", "grid", "hexagonal"}, optional
        A grid consists of rows of equal declination, one spacing apart; hexagonal rows are nearer
        by sqrt(3)/2. Where rows start is random.
    min_separation : float, optional
        Least distance of two sources, arcsec.
    seed : int, optional
        Seed.
    name : str, optional
        Start of the ids; other names give other positions.

    Returns
    -------
    astropy.table.Table
        ``id``, ``ra``, ``dec`` (degrees), ordered by id.

    Raises
    ------
    PogsonValueError
        If a number is out of range, or the density too high for the separation.

    Notes
    -----
    Random: a Poisson process, drawn in cells of an arc minute, each with its own stream, and
    thinned as by Matérn (1960): a source stays if no other within the separation has a lower
    random mark. A process of density L keeps :math:`(1 - e^{-L \pi r^2}) / (\pi r^2)`, from which
    L is chosen.

    Examples
    --------
    >>> field = [(10.0, 0.0), (10.1, 0.0), (10.1, 0.1), (10.0, 0.1)]
    >>> table = place_on_sky([field], density=2.0, min_separation=10.0, seed=1)
    >>> 30 < len(table) < 110
    True
    >>> part = [(10.0, 0.0), (10.05, 0.0), (10.05, 0.1), (10.0, 0.1)]
    >>> fewer = place_on_sky([part], density=2.0, min_separation=10.0, seed=1)
    >>> set(fewer["id"]) < set(table["id"])
    True
    """
    from astropy.table import Table

    _check(density, pattern, min_separation)
    shapes = [_Footprint(np.asarray(f, np.float64)) for f in footprints]
    ids: list[np.ndarray] = []
    vectors: list[np.ndarray] = []
    for shape in shapes:
        if pattern == "random":
            found, v = _random(shape, density, min_separation, seed, name)
        else:
            found, v = _rows(shape, density, pattern, seed, name)
        inside = shape.contains(v)
        ids.append(found[inside])
        vectors.append(v[inside])
    every = np.concatenate([np.zeros(0, "U1"), *ids])
    points = np.concatenate([np.zeros((0, 3)), *vectors])
    every, first = np.unique(every, return_index=True)
    points = points[first]
    table = Table()
    table["id"] = every
    table["ra"] = np.degrees(np.arctan2(points[:, 1], points[:, 0])) % 360.0
    table["dec"] = np.degrees(np.arctan2(points[:, 2], np.hypot(points[:, 0], points[:, 1])))
    table["ra"].unit = table["dec"].unit = "deg"
    table.meta.update(placement_pattern=pattern, placement_seed=seed, placement_field=name)
    return table


def _check(density: float, pattern: str, separation: float) -> None:
    if pattern not in PATTERNS:
        raise PogsonValueError(f"Unknown pattern {pattern!r}; allowed: {choices(PATTERNS)}.")
    if not (np.isfinite(density) and density > 0):
        raise PogsonValueError(f"density={density!r} must be a positive number per arcmin2.")
    if not (np.isfinite(separation) and separation >= 0):
        raise PogsonValueError(f"min_separation={separation!r} must be arcsec, at least 0.")
    most = largest_density(pattern, separation)
    if density > most * (1 + 1e-9):
        raise PogsonValueError(
            f"{density:.3g} sources per arcmin2 do not fit {separation:g} arcsec apart in a "
            f"{pattern} pattern: at most {most:.3g} do. Ask for fewer, or make min_separation "
            "smaller" + ("." if pattern == "grid" else ", or take pattern = 'grid'.")
        )


class _Footprint:
    """A convex outline on the sky, as half-spaces through the centre of the sphere."""

    def __init__(self, corners: np.ndarray) -> None:
        if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3:
            raise PogsonValueError("A footprint needs at least three corners (ra, dec) in degrees.")
        v = _vectors(corners[:, 0], corners[:, 1])
        center = v.mean(axis=0)
        center /= np.linalg.norm(center)
        normals = np.cross(v, np.roll(v, -1, axis=0))
        self.normals = normals * np.sign(normals @ center)[:, None]
        self.center = center
        self.radius = float(np.degrees(np.arccos(np.clip((v @ center).min(), -1.0, 1.0))))

    def contains(self, vectors: np.ndarray) -> np.ndarray:
        return np.asarray((vectors @ self.normals.T >= 0).all(axis=1) & (vectors @ self.center > 0))

    def range(self, margin: float) -> tuple[float, float, float, float]:
        """Return (ra, half range of ra, lowest dec, highest dec) with a margin, degrees."""
        ra = np.degrees(np.arctan2(self.center[1], self.center[0])) % 360.0
        dec = np.degrees(np.arcsin(self.center[2]))
        reach = self.radius + margin
        low, high = max(dec - reach, -90.0), min(dec + reach, 90.0)
        sine = np.sin(np.radians(reach)) / max(np.cos(np.radians(dec)), 1e-12)
        around = low <= -90.0 or high >= 90.0 or sine >= 1.0
        return float(ra), 180.0 if around else float(np.degrees(np.arcsin(sine))), low, high


def _vectors(ra: Any, dec: Any) -> np.ndarray:
    a, d = np.radians(np.asarray(ra, np.float64)), np.radians(np.asarray(dec, np.float64))
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=-1)


def _cells(ra: float, half: float, n: int) -> np.ndarray:
    """Return the numbers of cells in a ring of n cells that an interval of ra touches."""
    if half >= 180.0:
        return np.arange(n)
    first = int(np.floor((ra - half) / 360.0 * n))
    last = int(np.floor((ra + half) / 360.0 * n))
    return np.unique(np.arange(first, min(last, first + n - 1) + 1) % n)


def _random(
    shape: _Footprint, density: float, separation: float, seed: int, name: str
) -> tuple[np.ndarray, np.ndarray]:
    from scipy.spatial import cKDTree

    disc = np.pi * separation**2 / 3600.0  # arcmin2
    process = density if disc == 0 else -np.log1p(-density * disc) / disc
    ra, half, low, high = shape.range(separation / 3600.0)
    ids: list[str] = []
    rows: list[np.ndarray] = []
    first, last = (int(np.floor((dec + 90.0) / _CELL)) for dec in (low, high))
    for ring in range(first, last + 1):
        d0, d1 = -90.0 + ring * _CELL, min(-90.0 + (ring + 1) * _CELL, 90.0)
        if d0 >= d1:
            continue
        n = max(1, int(360.0 * np.cos(np.radians(0.5 * (d0 + d1))) / _CELL))
        z0, z1 = np.sin(np.radians([d0, d1]))
        area = (2 * np.pi / n) * (z1 - z0) / _ARCSEC2 / 3600.0
        for cell in _cells(ra, half, n).tolist():
            rng = stream(seed, "sky", name, ring, cell)
            count = int(rng.poisson(process * area))
            u = rng.random((count, 3))
            dec = np.degrees(np.arcsin(z0 + (z1 - z0) * u[:, 1]))
            rows.append(np.column_stack([360.0 * (cell + u[:, 0]) / n, dec, u[:, 2]]))
            ids += [f"{name}{ring}.{cell}.{k}" for k in range(count)]
    table = np.concatenate([np.zeros((0, 3)), *rows])
    vectors = _vectors(table[:, 0], table[:, 1])
    keep = np.ones(len(table), bool)
    if separation > 0 and len(table) > 1:
        chord = 2.0 * np.sin(np.radians(separation / 3600.0) / 2.0)
        pairs = cKDTree(vectors).query_pairs(chord, output_type="ndarray")
        first = table[pairs[:, 0], 2] < table[pairs[:, 1], 2]
        keep[np.where(first, pairs[:, 1], pairs[:, 0])] = False
    return np.array(ids, dtype=str)[keep], vectors[keep]


def _rows(
    shape: _Footprint, density: float, pattern: str, seed: int, name: str
) -> tuple[np.ndarray, np.ndarray]:
    flat = np.sqrt(0.75) if pattern == "hexagonal" else 1.0
    spacing = 60.0 / np.sqrt(density * flat)  # arcsec
    step = spacing * flat / 3600.0
    start = stream(seed, "sky", name, pattern).random() * step - 90.0
    ra, half, low, high = shape.range(0.0)
    ids: list[str] = []
    ras: list[np.ndarray] = []
    decs: list[np.ndarray] = []
    for row in range(int(np.ceil((low - start) / step)), int(np.floor((high - start) / step)) + 1):
        dec = start + row * step
        n = int(360.0 * np.cos(np.radians(dec)) / (spacing / 3600.0))
        if n < 1:
            continue
        phase = 0.5 * (row % 2) if pattern == "hexagonal" else 0.0
        phase += stream(seed, "sky", name, pattern, row // 2).random()
        cells = _cells(ra - 360.0 * (phase % 1.0) / n, half + 360.0 / n, n)
        ras.append(360.0 * (cells + phase) / n)
        decs.append(np.full(cells.size, dec))
        ids += [f"{name}{row}.{cell}" for cell in cells.tolist()]
    positions = np.concatenate([np.zeros(0), *ras]), np.concatenate([np.zeros(0), *decs])
    return np.array(ids, dtype=str), _vectors(*positions)
