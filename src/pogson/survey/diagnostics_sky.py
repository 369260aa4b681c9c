"""Diagnostics on the sky: offsets of detectors, their structure function, references."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pogson.errors import MissingDataError, PogsonValueError
from pogson.survey.diagnostics_rows import filter_row, used_rows
from pogson.survey.solution import Solution

__all__ = [
    "ExposureOffsets",
    "SkyMap2D",
    "StructureFunction",
    "detector_offsets",
    "reference_residual_map",
    "structure_function",
]


@dataclass(frozen=True, eq=False)
class ExposureOffsets:
    """Mean residual of each detector of each exposure: what its zero point still lacks.

    Parameters
    ----------
    exposure, detector : numpy.ndarray of int, shape (n,)
        Row numbers.
    offset, error : numpy.ndarray, shape (n,)
        Magnitudes.
    ra, dec : numpy.ndarray, shape (n,)
        Mean position of the stars, degrees (NaN without positions).
    count : numpy.ndarray of int
        Detections.

    Examples
    --------
    >>> ExposureOffsets.__name__
    'ExposureOffsets'
    """

    exposure: np.ndarray
    detector: np.ndarray
    offset: np.ndarray
    error: np.ndarray
    ra: np.ndarray
    dec: np.ndarray
    count: np.ndarray


def detector_offsets(
    solution: Solution, *, filter: int | str | None = None, minimum: int = 5
) -> ExposureOffsets:
    """Return the mean residual of every detector of every exposure.

    Parameters
    ----------
    solution : Solution
        Of a survey.
    filter : int or str, optional
        Of one filter only.
    minimum : int
        Smallest number of detections.

    Examples
    --------
    >>> import numpy as np
    >>> from pogson.survey import (Detectors, Exposures, ExposureZeroPoint, Observations, Stars,
    ...     SurveyTables, calibrate)
    >>> rng, n = np.random.default_rng(2), 300
    >>> stars = Stars(np.arange(n), reference_mag=np.full(n, 18.0), reference_err=np.full(n, 0.02),
    ...     ra=rng.uniform(10, 11, n), dec=rng.uniform(0, 1, n))
    >>> obs = Observations.from_columns(SurveyTables(Exposures([11, 12, 13]), Detectors([0])),
    ...     stars, star=np.repeat(np.arange(n), 3), exposure=np.tile(np.arange(3), n), detector=0,
    ...     x=1.0, y=2.0, mag=-7.0 + 0.01 * rng.normal(size=3 * n), mag_err=0.01)
    >>> solution = calibrate(obs, [ExposureZeroPoint()])
    >>> detector_offsets(solution).count
    array([300, 300, 300])
    """
    o = solution.observations
    r = used_rows(solution, filter)
    key = o.exposure[r.rows].astype(np.int64) * o.tables.counts[1] + o.detector[r.rows]
    unique, where, count = np.unique(key, return_inverse=True, return_counts=True)
    total = np.bincount(where, r.weight * r.free)
    offset = np.bincount(where, r.weight * r.residual) / total
    star = o.star[r.rows]
    ra0 = np.nanmedian(o.stars.ra) if np.isfinite(o.stars.ra).any() else 0.0
    near = (o.stars.ra[star] - ra0 + 180.0) % 360.0 - 180.0
    ra = (ra0 + np.bincount(where, near) / count) % 360.0
    dec = np.bincount(where, o.stars.dec[star]) / count
    e, d = np.divmod(unique, o.tables.counts[1])
    k = count >= minimum
    return ExposureOffsets(e[k], d[k], offset[k], 1.0 / np.sqrt(total[k]), ra[k], dec[k], count[k])


@dataclass(frozen=True, eq=False)
class StructureFunction:
    """Half the mean square difference of pairs by their distance, without the noise.

    Parameters
    ----------
    separation : numpy.ndarray, shape (b,)
        Mean separation, degrees.
    variance, error : numpy.ndarray, shape (b,)
        Structure function and its standard error, magnitudes squared.
    pairs : numpy.ndarray of int, shape (b,)
        Pairs.

    Examples
    --------
    >>> one = np.ones(1)
    >>> StructureFunction(one, 4e-6 * one, one, one).root
    array([0.002])
    """

    separation: np.ndarray
    variance: np.ndarray
    error: np.ndarray
    pairs: np.ndarray

    @property
    def root(self) -> np.ndarray:
        """Square root with the sign of the variance, magnitudes."""
        return np.asarray(np.sign(self.variance) * np.sqrt(np.abs(self.variance)))


def structure_function(
    ra: Any,
    dec: Any,
    value: Any,
    error: Any,
    edges: Any,
    *,
    group: Any = None,
    rng: np.random.Generator | None = None,
    limit: int = 4000,
) -> StructureFunction:
    r"""Return the structure function of errors on the sky.

    .. math:: D(\theta) = \tfrac12 \langle (v_i - v_j)^2 - \sigma_i^2 - \sigma_j^2 \rangle

    Parameters
    ----------
    ra, dec : array_like, shape (n,)
        Positions, degrees.
    value, error : array_like, shape (n,)
        Zero-point errors (or residuals) and their noise, magnitudes.
    edges : array_like
        Edges of bins in separation, degrees.
    group : array_like of int, optional
        Only pairs of equal numbers count, for example of the same exposure.
    rng : numpy.random.Generator, optional
        Chooses ``limit`` points where there are more; the first by default.
    limit : int
        Largest number of points.

    Raises
    ------
    PogsonValueError
        If lengths differ.

    Examples
    --------
    >>> rng = np.random.default_rng(3)
    >>> ra, dec = rng.uniform(0, 1, 800), rng.uniform(0, 1, 800)
    >>> noise = structure_function(ra, dec, 0.01 * rng.normal(size=800), 0.01, [0.0, 0.3, 0.6])
    >>> bool(np.all(np.abs(noise.variance) < 3 * noise.error))
    True
    """
    arrays = [np.asarray(v, np.float64) for v in (ra, dec, value)]
    sigma = np.broadcast_to(np.asarray(error, np.float64), arrays[2].shape)
    if len({a.shape for a in arrays}) != 1 or arrays[0].ndim != 1:
        raise PogsonValueError(f"Shapes {[a.shape for a in arrays]} must be the same, (n,).")
    use = np.isfinite(arrays[0] + arrays[1] + arrays[2] + sigma)
    index = np.flatnonzero(use)
    if index.size > limit:
        index = index[:limit] if rng is None else rng.choice(index, limit, replace=False)
    lon, lat = np.radians(arrays[0][index]), np.radians(arrays[1][index])
    v, s = arrays[2][index], sigma[index]
    xyz = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
    e = np.asarray(edges, np.float64)
    sums = np.zeros((4, e.size - 1))
    g = None if group is None else np.asarray(group)[index]
    # each point's own sum, for errors that allow for pairs that share a point
    own = np.zeros((e.size - 1, index.size))
    for i in range(index.size):
        j = np.arange(i + 1, index.size)
        if g is not None:
            j = j[g[j] == g[i]]
        if not j.size:
            continue
        chord = np.linalg.norm(xyz[j] - xyz[i], axis=1)
        angle = np.degrees(2.0 * np.arcsin(np.minimum(0.5 * chord, 1.0)))
        b = np.digitize(angle, e) - 1
        on = (b >= 0) & (b < e.size - 1)
        b, j, angle = b[on], j[on], angle[on]
        d = 0.5 * ((v[j] - v[i]) ** 2 - s[j] ** 2 - s[i] ** 2)
        sums[0] += np.bincount(b, minlength=e.size - 1)
        sums[1] += np.bincount(b, angle, e.size - 1)
        sums[2] += np.bincount(b, d, e.size - 1)
        np.add.at(own, (b, j), 0.5 * d)
        own[:, i] += 0.5 * np.bincount(b, d, e.size - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = sums[2] / sums[0]
        spread = np.sqrt(index.size * np.var(own, axis=1)) / sums[0]
    return StructureFunction(
        sums[1] / np.maximum(sums[0], 1), mean, 2.0 * spread, sums[0].astype(np.int64)
    )


@dataclass(frozen=True, eq=False)
class SkyMap2D:
    """Means in cells of right ascension and declination.

    Parameters
    ----------
    ra_edges, dec_edges : numpy.ndarray
        Edges of the cells, degrees.
    mean, error : numpy.ndarray, shape (dec cells, ra cells)
        Magnitudes; NaN where a cell is empty.
    count : numpy.ndarray of int
        Stars.

    Examples
    --------
    >>> edges = np.array([0.0, 1.0])
    >>> one = np.ones((1, 1))
    >>> SkyMap2D(edges, edges, 0.1 * one, 0.01 * one, one).offset_cells(5.0)
    [(0.5, 0.5, 0.1, 10.0)]
    """

    ra_edges: np.ndarray
    dec_edges: np.ndarray
    mean: np.ndarray
    error: np.ndarray
    count: np.ndarray

    def offset_cells(self, sigma: float = 5.0) -> list[tuple[float, float, float, float]]:
        """Return the cells that are off: right ascension, declination, mean, mean over error."""
        with np.errstate(divide="ignore", invalid="ignore"):
            s = self.mean / self.error
        ra = 0.5 * (self.ra_edges[1:] + self.ra_edges[:-1])
        dec = 0.5 * (self.dec_edges[1:] + self.dec_edges[:-1])
        j, i = np.nonzero(np.abs(np.nan_to_num(s)) > sigma)
        order = np.argsort(-np.abs(s[j, i]), kind="stable")
        return [
            (float(ra[i[k]]), float(dec[j[k]]), float(self.mean[j[k], i[k]]), float(s[j[k], i[k]]))
            for k in order
        ]


def reference_residual_map(
    solution: Solution, *, cells: int = 10, filter: int | str | None = None
) -> SkyMap2D:
    """Return reference minus the stars' detections over the sky: where the catalogue is off.

    Parameters
    ----------
    solution : Solution
        Of stars with positions and references.
    cells : int
        Cells along each axis.
    filter : int or str, optional
        Of one filter only.

    Raises
    ------
    MissingDataError
        If no star has both.

    Examples
    --------
    >>> import numpy as np
    >>> from pogson.survey import (Detectors, Exposures, ExposureZeroPoint, Observations, Stars,
    ...     SurveyTables, calibrate)
    >>> rng, n = np.random.default_rng(2), 300
    >>> stars = Stars(np.arange(n), reference_mag=np.full(n, 18.0), reference_err=np.full(n, 0.02),
    ...     ra=rng.uniform(10, 11, n), dec=rng.uniform(0, 1, n))
    >>> obs = Observations.from_columns(SurveyTables(Exposures([11, 12, 13]), Detectors([0])),
    ...     stars, star=np.repeat(np.arange(n), 3), exposure=np.tile(np.arange(3), n), detector=0,
    ...     x=1.0, y=2.0, mag=-7.0 + 0.01 * rng.normal(size=3 * n), mag_err=0.01)
    >>> solution = calibrate(obs, [ExposureZeroPoint()])
    >>> int(reference_residual_map(solution, cells=2).count.sum())
    300
    """
    table = solution.observations.stars
    residual = solution.stars.reference_residual
    use = np.isfinite(residual) & np.isfinite(table.ra + table.dec)
    use &= solution.stars.detections > 0  # the others are their own reference
    if filter is not None:
        use &= table.filter == filter_row(solution, filter)
    if not use.any():
        raise MissingDataError("No star with position and reference; give ra and dec to Stars.")
    x, y, r = table.ra[use], table.dec[use], residual[use]
    ex, ey = (np.linspace(v.min(), v.max() + 1e-9, cells + 1) for v in (x, y))
    i, j = (np.clip(np.digitize(v, e) - 1, 0, cells - 1) for v, e in ((x, ex), (y, ey)))
    cell = j * cells + i
    count = np.bincount(cell, minlength=cells**2)
    # against the star's detections alone: the star itself leans on its reference
    sigma = np.hypot(table.reference_err[use], solution.weighting.reference_floor)
    free = np.maximum(1.0 - (solution.stars.mag_err[use] / sigma) ** 2, 1e-6)
    r = r / free
    w = 1.0 / (sigma**2 + solution.stars.mag_err[use] ** 2 / free)
    total = np.bincount(cell, w, cells**2)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.bincount(cell, w * r, cells**2) / total
        error = np.where(count > 0, 1.0 / np.sqrt(total), np.nan)
    shape = (cells, cells)
    return SkyMap2D(ex, ey, mean.reshape(shape), error.reshape(shape), count.reshape(shape))
