"""Which detection is which injected source, and when nobody can tell.

Separations are in pixels, or in arcsec where sky positions are used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pogson.calib import FluxReference
from pogson.calib.reference import require_same
from pogson.errors import MissingDataError, PogsonValueError, ReferenceMismatchError, choices

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["InjectionMatch", "column_reference", "match_injections"]


@dataclass(frozen=True, eq=False)
class InjectionMatch:
    """Result of `match_injections`; one entry for each injected source.

    Parameters
    ----------
    index : numpy.ndarray of int
        Row of the detections, -1 where there is none.
    separation : numpy.ndarray
        Distance of the match, NaN without.
    ambiguous : numpy.ndarray of bool
        A real source at least as bright lies within the radius, so that the detection may be
        that one: such sources tell nothing about completeness or bias.
    neighbour_distance : numpy.ndarray
        Distance to the nearest real source, infinite without.
    n_spurious : int
        Detections that are neither an injected nor a real source.
    n_detections : int
        All detections.
    """

    index: np.ndarray
    separation: np.ndarray
    ambiguous: np.ndarray
    neighbour_distance: np.ndarray
    n_spurious: int
    n_detections: int

    @property
    def matched(self) -> np.ndarray:
        """Which injected sources have a detection."""
        return np.asarray(self.index >= 0)


def match_injections(
    truth: Table,
    detections: Table,
    radius: float,
    *,
    real: Table | None = None,
    frame: str = "pixel",
    real_flux: str | None = None,
    truth_flux: str = "inst_flux_total",
) -> InjectionMatch:
    """Match injected sources with the detections on the injected image.

    Parameters
    ----------
    truth : astropy.table.Table
        Truth table of the injection.
    detections : astropy.table.Table
        Detections on the injected image, with ``x``, ``y`` or ``ra``, ``dec``.
    radius : float
        Largest separation, pixels or arcsec.
    real : astropy.table.Table, optional
        Real sources: detections on the image before the injection, or a deeper catalogue.
    frame : {"pixel", "sky"}, optional
        Which positions to compare.
    real_flux : str, optional
        Column of ``real`` to compare with ``truth_flux``: a real source that is fainter than the
        injected one does not make it ambiguous. Without it every real source within the radius
        does.
    truth_flux : str, optional
        Column of ``truth`` in the unit of ``real_flux``.

    Returns
    -------
    InjectionMatch

    Raises
    ------
    PogsonValueError
        If the radius is not positive or the frame unknown.

    Notes
    -----
    One to one, nearest pairs first.

    Examples
    --------
    >>> from astropy.table import Table
    >>> truth = Table({"x": [10.0, 50.0, 80.0], "y": [10.0, 50.0, 80.0],
    ...                "inst_flux_total": [100.0, 10.0, 5.0]})
    >>> found = Table({"x": [10.2, 50.6], "y": [10.0, 50.0]})
    >>> real = Table({"x": [50.7], "y": [50.0], "flux_isophotal": [500.0]})
    >>> match = match_injections(truth, found, 2.0, real=real, real_flux="flux_isophotal")
    >>> match.index, match.ambiguous, match.n_spurious
    (array([ 0,  1, -1]), array([False,  True, False]), 0)
    """
    if not (np.isfinite(radius) and radius > 0):
        raise PogsonValueError(f"The match radius {radius!r} must be a positive number.")
    a, b = _points(truth, frame), _points(detections, frame)
    reach = _reach(radius, frame)
    index, separation = _nearest_pairs(a, b, reach)
    n = len(a)
    ambiguous, distance = np.zeros(n, bool), np.full(n, np.inf)
    known = np.zeros(len(b), bool)
    known[index[index >= 0]] = True
    if real is not None and len(real):
        c = _points(real, frame)
        brightness = None if real_flux is None else np.asarray(real[real_flux], np.float64)
        mine = np.asarray(truth[truth_flux], np.float64) if real_flux is not None else None
        ambiguous, distance = _near_real(a, c, reach, mine, brightness)
        other, _ = _nearest_pairs(b, c, reach)
        known |= other >= 0
    return InjectionMatch(
        index,
        _length(separation, frame),
        ambiguous,
        _length(distance, frame),
        int((~known).sum()),
        len(b),
    )


def _points(table: Table, frame: str) -> np.ndarray:
    names = {"pixel": ("x", "y"), "sky": ("ra", "dec")}.get(frame)
    if names is None:
        raise PogsonValueError(f"Unknown frame {frame!r}; allowed: 'pixel' or 'sky'.")
    missing = [n for n in names if n not in table.colnames]
    if missing:
        raise MissingDataError(
            f"Matching in frame {frame!r} needs the columns {choices(names)}; the table has "
            f"{choices(table.colnames)}."
        )
    p, q = (np.ma.filled(np.ma.asarray(table[n]).astype(np.float64), np.nan) for n in names)
    if frame == "pixel":
        return np.stack([p, q], axis=1)
    lon, lat = np.radians(p), np.radians(q)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)


def _reach(radius: float, frame: str) -> float:
    """Return the radius as a distance between points: pixels, or the chord on the unit sphere."""
    return float(radius) if frame == "pixel" else 2.0 * np.sin(0.5 * np.radians(radius / 3600.0))


def _length(distance: np.ndarray, frame: str) -> np.ndarray:
    if frame == "pixel":
        return distance
    angle = np.degrees(2.0 * np.arcsin(np.minimum(0.5 * distance, 1.0))) * 3600.0
    return np.where(np.isfinite(distance), angle, distance)


def _nearest_pairs(a: np.ndarray, b: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Match one to one, nearest pairs first; index -1 and NaN where there is none."""
    from scipy.spatial import cKDTree

    index, separation = np.full(len(a), -1), np.full(len(a), np.nan)
    rows, others = (np.flatnonzero(np.isfinite(p).all(axis=1)) for p in (a, b))
    if not rows.size or not others.size:
        return index, separation
    pairs = cKDTree(a[rows]).sparse_distance_matrix(
        cKDTree(b[others]), reach, output_type="ndarray"
    )
    pairs = pairs[np.lexsort((pairs["j"], pairs["i"], pairs["v"]))]
    taken: set[int] = set()
    for i, j, v in zip(pairs["i"].tolist(), pairs["j"].tolist(), pairs["v"], strict=True):
        if index[rows[i]] < 0 and j not in taken:
            taken.add(j)
            index[rows[i]], separation[rows[i]] = others[j], v
    return index, separation


def _near_real(
    a: np.ndarray,
    c: np.ndarray,
    reach: float,
    mine: np.ndarray | None,
    theirs: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return which points have a real source as bright within reach, and the nearest distance."""
    from scipy.spatial import cKDTree

    ambiguous, distance = np.zeros(len(a), bool), np.full(len(a), np.inf)
    rows, others = (np.flatnonzero(np.isfinite(p).all(axis=1)) for p in (a, c))
    if not rows.size or not others.size:
        return ambiguous, distance
    tree = cKDTree(c[others])
    distance[rows], _ = tree.query(a[rows])
    for row, near in zip(rows, tree.query_ball_point(a[rows], reach), strict=True):
        if near and mine is not None and theirs is not None:
            ambiguous[row] = bool((theirs[others[near]] >= mine[row]).any())
        else:
            ambiguous[row] = bool(near)
    return ambiguous, distance


def column_reference(table: Table, column: str) -> FluxReference:
    """Return the flux reference that a column states in its metadata.

    Raises
    ------
    MissingDataError
        If the column is not there.
    ReferenceMismatchError
        If it states no reference.

    Examples
    --------
    >>> from astropy.table import Table
    >>> table = Table({"flux": [1.0]})
    >>> table["flux"].info.meta = {"reference": {"kind": "total"}}
    >>> column_reference(table, "flux")
    FluxReference.total()
    """
    if column not in table.colnames:
        raise MissingDataError(
            f"There is no column {column!r}; there are {choices(table.colnames)}."
        )
    stated = (table[column].info.meta or {}).get("reference")
    if stated is None:
        raise ReferenceMismatchError(
            f"The column {column!r} states no flux reference: say what it is the flux of, "
            f"table[{column!r}].info.meta = {{'reference': FluxReference.total().to_dict()}}."
        )
    return stated if isinstance(stated, FluxReference) else FluxReference.from_dict(dict(stated))


def require_comparable(truth: Table, measured: Table, flux: str) -> FluxReference:
    """Return the common reference of requested and measured fluxes.

    Raises
    ------
    ReferenceMismatchError
        If they have different references.
    """
    asked, seen = column_reference(truth, "flux_requested"), column_reference(measured, flux)
    require_same(asked, seen, f"The injected fluxes and the measured column {flux!r}")
    return asked
