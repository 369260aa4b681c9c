"""Where synthetic sources go, and how bright they are.

Pixel positions are 0-based with pixel centres on integers. Every number is drawn from a stream
keyed by the seed, the name of the field and the number or id of the source: asking for more
sources does not move those there are, and two fields never share their numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import MaskedDataError, MissingDataError, PogsonValueError, choices
from pogson.streams import stream

if TYPE_CHECKING:
    from astropy.table import Table

    from pogson.calib import FluxReference
    from pogson.images import Exposure

__all__ = ["PATTERNS", "place_sources", "sample_fluxes", "uniform_magnitudes"]

PATTERNS = ("random", "grid", "hexagonal")
"""Ways to place sources."""

_BAD_CENTRES = (
    "NO_DATA", "BAD", "SATURATED", "BLEED", "COSMIC_RAY", "CROSSTALK", "STREAK", "EDGE",
)  # fmt: skip
_TRIES_PER_SOURCE = 200


def place_sources(
    exposure: Exposure,
    *,
    n: int | None = None,
    pattern: str = "random",
    spacing: float | None = None,
    min_separation: float = 0.0,
    margin: float = 0.0,
    avoid: Any = None,
    avoid_radius: float = 0.0,
    mask_names: Iterable[str] | None = None,
    seed: int = 0,
    name: str = "",
) -> Table:
    """Choose positions for synthetic sources on an exposure.

    Parameters
    ----------
    exposure : Exposure
        Its box is filled; its sky map, where there is one, gives the sky positions.
    n : int, optional
        Number of sources; needed for the random pattern, the largest number for the others.
    pattern : {"random", "grid", "hexagonal"}, optional
        "grid" and "hexagonal" lie ``spacing`` apart, from a random origin, each source moved by
        up to half a pixel so that all sub-pixel phases occur.
    spacing : float, optional
        Distance in pixels of neighbours in a grid or hexagonal pattern.
    min_separation : float, optional
        Least distance in pixels between two of the sources.
    margin : float, optional
        Least distance in pixels from the edge of the image.
    avoid : Table or (x, y), optional
        Real sources to stay away from: a table with ``x``, ``y``, or two arrays, in pixels.
    avoid_radius : float, optional
        Least distance in pixels from them.
    mask_names : iterable of str, optional
        Mask names on whose pixels no centre may lie; by default defects, saturation and no data.
    seed : int, optional
        Seed.
    name : str, optional
        Name of the field; by default the exposure's id and detector. It keys the positions and
        starts the ids.

    Returns
    -------
    astropy.table.Table
        ``id``, ``x``, ``y``, ``ra``, ``dec`` (NaN without sky map).

    Raises
    ------
    MaskedDataError
        If no place, or for the random pattern fewer than ``n``, can be found.
    PogsonValueError
        If the pattern or a number is not allowed.

    Examples
    --------
    >>> import numpy as np
    >>> from pogson.images import Exposure
    >>> exposure = Exposure(np.zeros((100, 200)), unit="adu", measure="fluence")
    >>> table = place_sources(exposure, n=20, min_separation=15, margin=10, seed=3)
    >>> len(table), bool(table["x"].min() >= 9.5), bool(table["x"].max() <= 189.5)
    (20, True, True)
    >>> len(place_sources(exposure, pattern="hexagonal", spacing=20, seed=3)) > 40
    True
    """
    if pattern not in PATTERNS:
        raise PogsonValueError(f"Unknown pattern {pattern!r}; allowed: {choices(PATTERNS)}.")
    for label, value in (
        ("min_separation", min_separation), ("margin", margin), ("avoid_radius", avoid_radius),
    ):  # fmt: skip
        if not (np.isfinite(value) and value >= 0):
            raise PogsonValueError(f"{label}={value!r} must be a number of pixels, at least 0.")
    field = name or ":".join(w for w in (exposure.exposure_id, exposure.detector) if w)
    free = _free_pixels(exposure, mask_names)
    keep_off = _KeepOff(exposure, free, margin, avoid, avoid_radius)
    if pattern == "random":
        if n is None or int(n) != n or n < 1:
            raise PogsonValueError(f"n={n!r}: a random pattern needs the number of sources.")
        numbers, x, y = _random(exposure, int(n), keep_off, float(min_separation), seed, field)
    else:
        numbers, x, y = _lattice(exposure, pattern, spacing, keep_off, min_separation, seed, field)
        if n is not None:
            numbers, x, y = numbers[:n], x[:n], y[:n]
    return _table(exposure, numbers, x, y, field, seed, pattern)


def _free_pixels(exposure: Exposure, mask_names: Iterable[str] | None) -> np.ndarray:
    if mask_names is None:
        mask_names = [m for m in _BAD_CENTRES if m in exposure.mask_bits]
    return ~exposure.bad(mask_names)


class _KeepOff:
    """Says which positions are allowed: on a free pixel, off the edges, away from real sources."""

    def __init__(
        self, exposure: Exposure, free: np.ndarray, margin: float, avoid: Any, radius: float
    ) -> None:
        self.box, self.free, self.margin, self.radius = exposure.box, free, margin, radius
        self.tree: Any = None
        if avoid is not None and radius > 0:
            from scipy.spatial import cKDTree

            ax, ay = (avoid["x"], avoid["y"]) if hasattr(avoid, "colnames") else avoid
            points = np.stack([np.asarray(ax, np.float64), np.asarray(ay, np.float64)], axis=1)
            points = points[np.isfinite(points).all(axis=1)]
            self.tree = cKDTree(points) if len(points) else None

    @property
    def limits(self) -> tuple[float, float, float, float]:
        (x0, x1), (y0, y1) = self.box.x_bounds, self.box.y_bounds
        m = self.margin
        if x0 + m >= x1 - m or y0 + m >= y1 - m:
            raise MaskedDataError(
                f"A margin of {m:g} pixels leaves nothing of {self.box.nx} x {self.box.ny} pixels."
            )
        return x0 + m, x1 - m, y0 + m, y1 - m

    def allowed(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        x0, x1, y0, y1 = self.limits
        good = (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
        i = np.clip(np.floor(x + 0.5).astype(int) - self.box.x_min, 0, self.box.nx - 1)
        j = np.clip(np.floor(y + 0.5).astype(int) - self.box.y_min, 0, self.box.ny - 1)
        good &= self.free[j, i]
        if self.tree is not None and good.any():
            distance, _ = self.tree.query(np.stack([x[good], y[good]], axis=1))
            good[np.flatnonzero(good)[distance < self.radius]] = False
        return good


class _Spaced:
    """Positions taken so far, in cells of the least separation, to refuse those too near."""

    def __init__(self, separation: float) -> None:
        self.separation = separation
        self.cells: dict[tuple[int, int], list[tuple[float, float]]] = {}

    def take(self, x: float, y: float) -> bool:
        s = self.separation
        if s <= 0:
            return True
        i, j = int(x // s), int(y // s)
        for a in (i - 1, i, i + 1):
            for b in (j - 1, j, j + 1):
                for px, py in self.cells.get((a, b), ()):
                    if (px - x) ** 2 + (py - y) ** 2 < s * s:
                        return False
        self.cells.setdefault((i, j), []).append((x, y))
        return True


def _random(
    exposure: Exposure, n: int, keep_off: _KeepOff, separation: float, seed: int, field: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw candidates one block after the other, and keep those that fit, in their order."""
    x0, x1, y0, y1 = keep_off.limits
    spaced = _Spaced(separation)
    numbers: list[int] = []
    xs: list[float] = []
    ys: list[float] = []
    block, start = 256, 0
    while len(xs) < n and start < _TRIES_PER_SOURCE * n + block:
        uniform = stream(seed, "place", field, start // block).random((block, 2))
        x, y = x0 + (x1 - x0) * uniform[:, 0], y0 + (y1 - y0) * uniform[:, 1]
        for k in np.flatnonzero(keep_off.allowed(x, y)):
            if spaced.take(float(x[k]), float(y[k])):
                numbers.append(start + int(k))
                xs.append(float(x[k]))
                ys.append(float(y[k]))
                if len(xs) == n:
                    break
        start += block
    if len(xs) < n:
        raise MaskedDataError(
            f"Only {len(xs)} of {n} sources found a place after {start} tries; ask for fewer, or "
            "make min_separation (--separation), margin or avoid_radius smaller."
        )
    return np.array(numbers), np.array(xs), np.array(ys)


def _lattice(
    exposure: Exposure,
    pattern: str,
    spacing: float | None,
    keep_off: _KeepOff,
    separation: float,
    seed: int,
    field: str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if spacing is None or not (np.isfinite(spacing) and spacing >= 2):
        raise PogsonValueError(
            f"spacing={spacing!r}: a {pattern} pattern needs the distance of neighbours, at least "
            "2 pixels."
        )
    if spacing - np.sqrt(2.0) < separation:
        raise PogsonValueError(
            f"A spacing of {spacing:g} pixels, less sqrt(2) for the shifts of up to half a pixel, "
            f"does not keep min_separation={separation:g}."
        )
    x0, x1, y0, y1 = keep_off.limits
    rng = stream(seed, "place", field, pattern)
    dy = spacing * (np.sqrt(0.75) if pattern == "hexagonal" else 1.0)
    origin = rng.random(2)
    columns = int((x1 - x0) / spacing) + 2
    rows = int((y1 - y0) / dy) + 2
    j, i = np.mgrid[:rows, :columns]
    shift = 0.5 * (j % 2) if pattern == "hexagonal" else 0.0
    x = x0 + spacing * (i - 1 + origin[0] + shift)
    y = y0 + dy * (j - 1 + origin[1])
    jitter = rng.random((rows, columns, 2)) - 0.5
    x, y = (x + jitter[..., 0]).ravel(), (y + jitter[..., 1]).ravel()
    kept = np.flatnonzero(keep_off.allowed(x, y))
    if not kept.size:
        raise MaskedDataError("No place of the pattern is free; make the margins smaller.")
    return kept, x[kept], y[kept]


def _table(
    exposure: Exposure,
    numbers: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    field: str,
    seed: int,
    pattern: str,
) -> Table:
    from astropy.table import Table

    table = Table()
    start = f"{field}:" if field else ""
    table["id"] = [f"{start}{k}" for k in numbers.tolist()]
    table["x"], table["y"] = x, y
    ra, dec = np.full(x.shape, np.nan), np.full(x.shape, np.nan)
    if exposure.sky is not None:
        ra, dec = exposure.sky.sky(x=x, y=y)
    table["ra"], table["dec"] = ra, dec
    table["x"].unit = table["y"].unit = "pixel"
    table["ra"].unit = table["dec"].unit = "deg"
    table.meta.update(placement_pattern=pattern, placement_seed=seed, placement_field=field)
    return table


def sample_fluxes(
    positions: Table, distribution: Table, *, seed: int = 0, weight: str | None = None
) -> Table:
    """Give sources the magnitudes, colours and shapes of rows drawn from a table.

    Parameters
    ----------
    positions : astropy.table.Table
        With an ``id`` for each source.
    distribution : astropy.table.Table
        A sample of the population: all its columns but ids and positions are taken over, whole
        rows at a time, so that colours and sizes stay together.
    seed : int, optional
        Seed.
    weight : str, optional
        Column of the relative number of sources like each row; equal by default.

    Returns
    -------
    astropy.table.Table
        ``positions`` with the columns added; references in column metadata are kept.

    Raises
    ------
    MissingDataError
        If the distribution is empty or the weight column missing.
    PogsonValueError
        If a weight is negative or none is positive.

    Examples
    --------
    >>> from astropy.table import Table
    >>> sample = Table({"mag_g": [20.0, 22.0], "mag_r": [19.5, 21.0]})
    >>> out = sample_fluxes(Table({"id": ["a", "b", "c"]}), sample, seed=1)
    >>> out.colnames, set((out["mag_g"] - out["mag_r"]).tolist()) <= {0.5, 1.0}
    (['id', 'mag_g', 'mag_r'], True)
    """
    if len(distribution) == 0:
        raise MissingDataError("The distribution to draw from has no rows.")
    if weight is not None and weight not in distribution.colnames:
        raise MissingDataError(f"The distribution has no column {weight!r}.")
    w = np.ones(len(distribution)) if weight is None else np.asarray(distribution[weight], float)
    if not (np.isfinite(w).all() and (w >= 0).all() and w.sum() > 0):
        raise PogsonValueError("Weights must be at least 0, and one of them above 0.")
    edges = np.cumsum(w) / w.sum()
    uniform = [stream(seed, "population", str(i)).random() for i in positions["id"]]
    rows = np.minimum(np.searchsorted(edges, uniform, side="right"), len(distribution) - 1)
    out = positions.copy()
    skipped = {"id", "x", "y", "ra", "dec", weight}
    for column in distribution.colnames:
        if column not in skipped:
            out[column] = distribution[column][rows]
            out[column].info.meta = dict(distribution[column].info.meta or {})
    return out


def uniform_magnitudes(
    positions: Table,
    faint: float,
    bright: float,
    *,
    reference: FluxReference,
    band: str = "",
    seed: int = 0,
) -> Table:
    """Give sources magnitudes spread evenly over a range.

    Parameters
    ----------
    positions : astropy.table.Table
        With an ``id`` for each source.
    faint, bright : float
        Ends of the range, AB magnitudes.
    reference : FluxReference
        What the magnitudes are magnitudes of.
    band : str, optional
        Band of the column, ``mag_<band>``; ``mag`` without.
    seed : int, optional
        Seed.

    Returns
    -------
    astropy.table.Table
        ``positions`` with the column added, its reference in the column's metadata.

    Raises
    ------
    PogsonValueError
        If the range or the band's name is not usable.

    Examples
    --------
    >>> from astropy.table import Table
    >>> from pogson.calib import FluxReference
    >>> table = Table({"id": ["a", "b"], "x": [10.0, 50.0], "y": [10.0, 20.0]})
    >>> out = uniform_magnitudes(table, 24, 20, reference=FluxReference.total(), band="r")
    >>> out["mag_r"].info.meta["reference"]
    {'kind': 'total'}
    """
    low, high = sorted((float(faint), float(bright)))
    if not (np.isfinite([faint, bright]).all() and low >= 0):
        raise PogsonValueError(f"Magnitudes from {bright!r} to {faint!r} are no range.")
    if band and not re.fullmatch(r"\w+", band):
        raise PogsonValueError(f"band={band!r} must be letters, digits and underscores.")
    out = positions.copy()
    column = f"mag_{band}" if band else "mag"
    out[column] = [
        low + (high - low) * stream(seed, "magnitude", str(i)).random() for i in positions["id"]
    ]
    out[column].unit = "mag"
    out[column].info.meta = {"reference": reference.to_dict()}
    return out
