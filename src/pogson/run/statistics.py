"""Numbers across exposures: how well stars repeat, and how results compare with known truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pogson.report.data import Repeatability

__all__ = ["Detections", "associate", "median_and_error", "repeatability", "summarize_pulls"]

_POGSON = 2.5 / np.log(10.0)


@dataclass(frozen=True)
class Detections:
    """Calibrated measurements of all exposures of one band, one row each.

    Parameters
    ----------
    exposure : array of int
        Index of the exposure.
    ra, dec : array of float
        Degrees.
    flux, flux_err : array of float
        nJy.

    Examples
    --------
    >>> Detections([0], [1.0], [2.0], [10.0], [1.0]).flux
    array([10.])
    """

    exposure: np.ndarray
    ra: np.ndarray
    dec: np.ndarray
    flux: np.ndarray
    flux_err: np.ndarray

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            object.__setattr__(self, name, np.asarray(getattr(self, name)))

    @classmethod
    def join(cls, parts: Sequence[Detections]) -> Detections:
        """Return the rows of several tables as one."""
        if not parts:
            return cls(np.zeros(0, int), *([np.zeros(0)] * 4))
        return cls(*(np.concatenate([getattr(p, n) for p in parts]) for n in
                     ("exposure", "ra", "dec", "flux", "flux_err")))  # fmt: skip


def associate(ra: Any, dec: Any, radius: float) -> np.ndarray:
    """Return a group number for each position: positions joined by links shorter than a radius.

    Parameters
    ----------
    ra, dec : array_like
        Degrees.
    radius : float
        Arcsec.

    Returns
    -------
    group : numpy.ndarray of int
        Numbers from 0; the result does not depend on the order of the rows, except for the
        numbering. -1 where a position is not finite.

    Examples
    --------
    >>> associate([10.0, 10.0001, 20.0], [0.0, 0.0, 0.0], radius=1.0)
    array([0, 0, 1])
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    ra, dec = np.asarray(ra, float), np.asarray(dec, float)
    good = np.flatnonzero(np.isfinite(ra) & np.isfinite(dec))
    group = np.full(ra.shape, -1, dtype=np.int64)
    if good.size == 0:
        return group
    a, d = np.radians(ra[good]), np.radians(dec[good])
    vectors = np.column_stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)])
    chord = 2.0 * np.sin(np.radians(radius / 3600.0) / 2.0)
    pairs = cKDTree(vectors).query_pairs(chord, output_type="ndarray")
    links = coo_array(
        (np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(good.size, good.size)
    )
    group[good] = connected_components(links, directed=False)[1]
    return group


def repeatability(
    bands: Mapping[str, Detections], radius: float, *, least: int = 2
) -> tuple[Repeatability, dict[str, dict[str, float]]]:
    """Scatter of each star over exposures, and a summary for each band.

    Parameters
    ----------
    bands : mapping of str to Detections
        Calibrated measurements by band.
    radius : float
        Association radius in arcsec.
    least : int, optional
        Least number of exposures of a star.

    Returns
    -------
    table : Repeatability
        One row a star and band.
    summary : dict
        By band: ``n_stars``; ``n_ambiguous`` (groups with two measurements of one exposure, left
        out); ``bright_scatter`` (median scatter, in magnitudes, of the brightest quarter, with the
        factor for a median of standard deviations of few exposures taken out); ``chi2_per_dof``
        (over all stars; 1 if the errors explain the scatter).

    Notes
    -----
    The scatter is the sample standard deviation of the fluxes over their weighted mean, times
    2.5 / ln 10.

    Examples
    --------
    >>> d = Detections([0, 1], [10.0, 10.0], [0.0, 0.0], [100.0, 102.0], [1.0, 1.0])
    >>> table, summary = repeatability({"g": d}, radius=1.0)
    >>> table.n, round(summary["g"]["chi2_per_dof"], 6)
    (array([2]), 2.0)
    """
    columns: dict[str, list[Any]] = {k: [] for k in ("band", "mag", "scatter", "expected", "n")}
    summary: dict[str, dict[str, float]] = {}
    for band, rows in bands.items():
        usable = np.isfinite(rows.flux) & (rows.flux_err > 0) & np.isfinite(rows.flux_err)
        group = np.where(usable, associate(rows.ra, rows.dec, radius), -1)
        ambiguous = 0
        chi2 = dof = 0.0
        start = len(columns["n"])
        for members in _members(group):
            exposures = rows.exposure[members]
            if len(set(exposures.tolist())) != exposures.size:
                ambiguous += 1
                continue
            if exposures.size < least:
                continue
            flux, err = rows.flux[members], rows.flux_err[members]
            weight = 1.0 / err**2
            mean = float(np.sum(weight * flux) / np.sum(weight))
            chi2 += float(np.sum(weight * (flux - mean) ** 2))
            dof += exposures.size - 1
            if mean <= 0:
                continue
            columns["band"].append(band)
            columns["mag"].append(31.4 - 2.5 * np.log10(mean))
            columns["scatter"].append(_POGSON * float(np.std(flux, ddof=1)) / mean)
            columns["expected"].append(_POGSON * float(np.sqrt(np.mean(err**2))) / mean)
            columns["n"].append(int(exposures.size))
        summary[band] = {
            "n_stars": len(columns["n"]) - start,
            "n_ambiguous": ambiguous,
            "bright_scatter": _bright_scatter(columns, start),
            "chi2_per_dof": chi2 / dof if dof else float("nan"),
        }
    table = Repeatability(
        np.array(columns["band"], dtype=str), np.array(columns["mag"], float),
        np.array(columns["scatter"], float), np.array(columns["expected"], float),
        np.array(columns["n"], int),
    )  # fmt: skip
    return table, summary


def _members(group: np.ndarray) -> list[np.ndarray]:
    order = np.argsort(group, kind="stable")
    order = order[group[order] >= 0]
    if order.size == 0:
        return []
    return np.split(order, np.flatnonzero(np.diff(group[order])) + 1)


def _bright_scatter(columns: Mapping[str, list[Any]], start: int) -> float:
    from scipy.stats import chi2

    mag = np.array(columns["mag"][start:], float)
    if mag.size == 0:
        return float("nan")
    bright = mag <= np.percentile(mag, 25)
    scatter = np.array(columns["scatter"][start:], float)[bright]
    dof = np.array(columns["n"][start:], int)[bright] - 1
    # The median of a standard deviation of few values lies below the true one.
    return float(np.median(scatter / np.sqrt(chi2.median(dof) / dof)))


def median_and_error(values: Any) -> tuple[float, float]:
    """Return the median and its standard error, from the robust scatter; NaN where unknown.

    Examples
    --------
    >>> median_and_error([1.0, 1.0, 1.0])
    (1.0, 0.0)
    """
    good = np.asarray(values, float)
    good = good[np.isfinite(good)]
    if good.size == 0:
        return (float("nan"), float("nan"))
    median = float(np.median(good))
    scatter = 1.4826 * float(np.median(np.abs(good - median)))
    return median, float(np.sqrt(np.pi / 2) * scatter / np.sqrt(good.size))


def summarize_pulls(pulls: Any) -> dict[str, float]:
    """Return number, mean, rms and robust width of pulls.

    Examples
    --------
    >>> summarize_pulls([1.0, -1.0])["rms"]
    1.0
    """
    good = np.asarray(pulls, float)
    good = good[np.isfinite(good)]
    if good.size == 0:
        return {"n": 0, "mean": float("nan"), "rms": float("nan"), "robust": float("nan")}
    return {
        "n": int(good.size),
        "mean": float(good.mean()),
        "rms": float(np.sqrt(np.mean(good**2))),
        "robust": float(1.4826 * np.median(np.abs(good - np.median(good)))),
    }
