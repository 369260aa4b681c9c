"""What a solution is worth: pure functions from a `Solution` to arrays.

Residuals are in magnitudes, detection minus model. Those of a star's own detections are smaller
than the errors because the star was fitted to them; everything here allows for that through the
leverage of each detection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pogson.errors import MissingDataError, PogsonValueError, choices
from pogson.survey.diagnostics_parameters import (
    HeldOutExposures,
    LooseCombination,
    NightlyValues,
    hold_out_exposures,
    loosest_combinations,
    nightly_extinction,
    nightly_values,
)
from pogson.survey.diagnostics_rows import used_rows
from pogson.survey.diagnostics_sky import (
    ExposureOffsets,
    SkyMap2D,
    StructureFunction,
    detector_offsets,
    reference_residual_map,
    structure_function,
)
from pogson.survey.solution import Solution

__all__ = [
    "BinnedResiduals",
    "ExposureOffsets",
    "HeldOutExposures",
    "LooseCombination",
    "NightlyValues",
    "Repeatability",
    "SkyMap2D",
    "StructureFunction",
    "SuperpixelMap",
    "detector_offsets",
    "hold_out_exposures",
    "loosest_combinations",
    "nightly_extinction",
    "nightly_values",
    "reference_residual_map",
    "repeatability",
    "residuals_versus",
    "structure_function",
    "superpixel_map",
]

_QUANTITIES = ("airmass", "color", "mjd", "magnitude", "seeing", "radius", "night")


@dataclass(frozen=True, eq=False)
class Repeatability:
    """Scatter of repeated measurements by magnitude.

    Parameters
    ----------
    low, high : numpy.ndarray, shape (b,)
        Limits of the bins, magnitudes.
    stars, detections : numpy.ndarray of int, shape (b,)
        Stars and detections in each.
    scatter : numpy.ndarray, shape (b,)
        Scatter of single detections about their star, magnitudes, corrected for the star's fit.
    robust : numpy.ndarray, shape (b,)
        The same from the median absolute deviation.
    expected : numpy.ndarray, shape (b,)
        Root mean square of the errors said (noise and intrinsic floor).

    Examples
    --------
    >>> one = np.ones(1)
    >>> Repeatability(one, one, one, one, 0.006 * one, one, 0.005 * one).ratio
    array([1.2])
    """

    low: np.ndarray
    high: np.ndarray
    stars: np.ndarray
    detections: np.ndarray
    scatter: np.ndarray
    robust: np.ndarray
    expected: np.ndarray

    @property
    def ratio(self) -> np.ndarray:
        """Scatter found over scatter expected."""
        return np.asarray(self.scatter / self.expected)


def repeatability(
    solution: Solution, edges: Any = None, *, filter: int | str | None = None
) -> Repeatability:
    """Return the scatter of repeated measurements per magnitude bin.

    Parameters
    ----------
    solution : Solution
        Of a survey.
    edges : array_like, optional
        Edges of the bins in calibrated magnitude; half magnitudes by default.
    filter : int or str, optional
        Of one filter only.

    Raises
    ------
    MissingDataError
        If no star is measured twice.

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
    >>> bool(abs(repeatability(solution, [17.9, 18.1]).ratio[0] - 1) < 0.1)
    True
    """
    r = used_rows(solution, filter)
    if not r.rows.size:
        raise MissingDataError("No star of this choice is measured twice.")
    star = solution.observations.star[r.rows]
    mag = solution.stars.mag[star]
    if edges is None:
        edges = np.arange(np.floor(2 * mag.min()) / 2, np.ceil(2 * mag.max()) / 2 + 0.25, 0.5)
    e = np.asarray(edges, np.float64)
    which = np.digitize(mag, e) - 1
    out = np.full((3, e.size - 1), np.nan)
    counts = np.zeros((2, e.size - 1), np.int64)
    for b in range(e.size - 1):
        on = which == b
        n = int(np.count_nonzero(on))
        counts[:, b] = np.unique(star[on]).size, n
        if n < 2:
            continue
        out[0, b] = np.sqrt(np.sum(r.residual[on] ** 2) / np.sum(r.free[on]))
        out[1, b] = 1.4826 * np.median(np.abs(r.residual[on]) / np.sqrt(r.free[on]))
        # weighted alike: what the scatter would be if the errors were right
        out[2, b] = np.sqrt(np.sum(r.free[on] / r.weight[on]) / np.sum(r.free[on]))
    return Repeatability(e[:-1], e[1:], counts[0], counts[1], *out)


@dataclass(frozen=True, eq=False)
class SuperpixelMap:
    """Mean residuals over the detectors of the focal plane.

    Parameters
    ----------
    u, v : numpy.ndarray, shape (detectors, ny, nx)
        Centres in the focal plane, half widths.
    mean, error : numpy.ndarray, shape (detectors, ny, nx)
        Weighted mean residual and its error, magnitudes; NaN without detections.
    count : numpy.ndarray of int
        Detections.

    Examples
    --------
    >>> one = np.ones((1, 1, 1))
    >>> SuperpixelMap(one, one, 0.002 * one, 0.001 * one, 50 * one).chi2_per_cell
    4.0
    """

    u: np.ndarray
    v: np.ndarray
    mean: np.ndarray
    error: np.ndarray
    count: np.ndarray

    @property
    def chi2_per_cell(self) -> float:
        """Mean square of the means over their errors: 1 if nothing is left but noise."""
        return float(np.nanmean((self.mean / self.error) ** 2))

    @property
    def excess(self) -> float:
        """Structure beyond the noise, rms magnitudes."""
        good = np.isfinite(self.mean)
        return float(np.sqrt(max(np.mean(self.mean[good] ** 2 - self.error[good] ** 2), 0.0)))


def superpixel_map(
    solution: Solution,
    *,
    shape: tuple[int, int] = (8, 4),
    filter: int | str | None = None,
    select: Any = None,
) -> SuperpixelMap:
    """Return mean residuals in cells of each detector.

    Parameters
    ----------
    solution : Solution
        Of a survey.
    shape : tuple of int
        Cells along y and x of a detector.
    filter : int or str, optional
        Of one filter only.
    select : array_like of bool, optional
        Detections to use.

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
    >>> superpixel_map(solution, shape=(2, 1)).count.ravel()
    array([900,   0])
    """
    o = solution.observations
    detectors = o.tables.detectors
    ny, nx = shape
    r = used_rows(solution, filter, select)
    xs, ys = detectors.scaled(o.detector[r.rows], x=o.x[r.rows], y=o.y[r.rows])
    i = np.clip(((xs + 1.0) * 0.5 * nx).astype(np.int64), 0, nx - 1)
    j = np.clip(((ys + 1.0) * 0.5 * ny).astype(np.int64), 0, ny - 1)
    cell = (o.detector[r.rows].astype(np.int64) * ny + j) * nx + i
    size = len(detectors) * ny * nx
    w = r.weight * r.free
    total = np.bincount(cell, w, size)
    with np.errstate(divide="ignore", invalid="ignore"):
        # residual / free has the variance of the detection about the others' star
        mean = np.bincount(cell, r.weight * r.residual, size) / total
        error = 1.0 / np.sqrt(total)
    u, v = np.empty((2, len(detectors), ny, nx))
    for d, box in enumerate(detectors.boxes):
        (x0, x1), (y0, y1) = box.x_bounds, box.y_bounds
        gx = x0 + (np.arange(nx) + 0.5) * (x1 - x0) / nx
        gy = y0 + (np.arange(ny) + 0.5) * (y1 - y0) / ny
        xx, yy = np.meshgrid(gx, gy)
        u[d], v[d] = detectors.focal_plane(np.full(xx.shape, d), x=xx, y=yy)
    count = np.bincount(cell, minlength=size).reshape(u.shape)
    empty = count == 0
    mean, error = mean.reshape(u.shape), error.reshape(u.shape)
    mean[empty] = error[empty] = np.nan
    return SuperpixelMap(u, v, mean, error, count)


@dataclass(frozen=True, eq=False)
class BinnedResiduals:
    """Mean residuals against a quantity.

    Parameters
    ----------
    quantity : str
        Which.
    center, mean, error : numpy.ndarray, shape (b,)
        Mean of the quantity, weighted mean residual and its error, magnitudes.
    count : numpy.ndarray of int, shape (b,)
        Detections.
    slope, slope_error : float
        Weighted straight line through all detections, magnitudes per unit.

    Examples
    --------
    >>> one = np.ones(1)
    >>> BinnedResiduals("airmass", one, one, one, one, 0.001, 0.002).slope
    0.001
    """

    quantity: str
    center: np.ndarray
    mean: np.ndarray
    error: np.ndarray
    count: np.ndarray
    slope: float
    slope_error: float


def _quantity(solution: Solution, name: str, rows: np.ndarray) -> np.ndarray:
    o = solution.observations
    if name == "airmass":
        return np.asarray(o.detection_airmass()[rows])
    if name == "seeing":
        return np.asarray(o.detection_seeing()[rows])
    if name in ("mjd", "night"):
        return np.asarray(o.exposure_column(name)[rows], np.float64)
    if name == "color":
        return np.asarray(o.detection_color()[rows])
    if name == "magnitude":
        return np.asarray(solution.stars.mag[o.star[rows]])
    if name == "radius":
        u, v = o.tables.detectors.focal_plane(o.detector[rows], x=o.x[rows], y=o.y[rows])
        return np.hypot(u, v)
    raise PogsonValueError(f"No quantity {name!r}; allowed: {choices(_QUANTITIES)}.")


def residuals_versus(
    solution: Solution,
    quantity: str,
    *,
    bins: int = 20,
    filter: int | str | None = None,
    select: Any = None,
) -> BinnedResiduals:
    """Return mean residuals against airmass, colour, time, ...

    Parameters
    ----------
    solution : Solution
        Of a survey.
    quantity : str
        One of airmass, color, mjd, night, magnitude, seeing, radius (of the focal plane).
    bins : int
        Bins of equal numbers of detections.
    filter : int or str, optional
        Of one filter only.
    select : array_like of bool, optional
        Detections to use.

    Raises
    ------
    MissingDataError
        If no detection has the quantity.

    Notes
    -----
    A star's colour is the same for all its detections, so that a term in colour alone goes into
    the stars; what shows is colour times something that differs between exposures or detectors.
    Select by exposure or detector to see it.

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
    >>> residuals_versus(solution, "magnitude", bins=3).count
    array([300, 300, 300])
    """
    if quantity not in _QUANTITIES:
        raise PogsonValueError(f"No quantity {quantity!r}; allowed: {choices(_QUANTITIES)}.")
    r = used_rows(solution, filter, select)
    q = _quantity(solution, quantity, r.rows)
    good = np.isfinite(q)
    if np.count_nonzero(good) < 2:
        raise MissingDataError(f"No two detections of this choice have a {quantity}.")
    q, res, w, free = q[good], r.residual[good], r.weight[good], r.free[good]
    order = np.argsort(q, kind="stable")
    edges = np.unique(np.linspace(0, q.size, min(bins, q.size) + 1).astype(np.int64))
    out = np.empty((3, edges.size - 1))
    for b in range(edges.size - 1):
        k = order[edges[b] : edges[b + 1]]
        total = np.sum(w[k] * free[k])
        out[:, b] = np.mean(q[k]), np.sum(w[k] * res[k]) / total, 1.0 / np.sqrt(total)
    mean = np.sum(w * free * q) / np.sum(w * free)
    spread = np.sum(w * free * (q - mean) ** 2)
    slope = float(np.sum(w * res * (q - mean)) / spread) if spread > 0 else np.nan
    error = float(1.0 / np.sqrt(spread)) if spread > 0 else np.nan
    return BinnedResiduals(quantity, out[0], out[1], out[2], np.diff(edges), slope, error)
