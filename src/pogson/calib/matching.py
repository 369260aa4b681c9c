"""Matching of catalogues on the sky, with ambiguous matches told, and proper motion.

Angles are degrees (ICRS), separations arcsec.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pogson.errors import PogsonValueError

__all__ = ["CatalogMatch", "match_catalogs", "propagate_positions"]

_ARCSEC = np.pi / 180.0 / 3600.0


@dataclass(frozen=True, eq=False)
class CatalogMatch:
    """Result of `match_catalogs`; one entry for each row of the first catalogue.

    Parameters
    ----------
    index : numpy.ndarray of int
        Row of the second catalogue, -1 where there is none.
    separation : numpy.ndarray
        Separation in arcsec, NaN where there is no match.
    n_candidates : numpy.ndarray of int
        Rows of the second catalogue within the radius. More than 1: the match is ambiguous.
    duplicate : numpy.ndarray of bool
        Another row of the first catalogue is nearer to the same row of the second; the match was
        given to that one and this row has none.
    usable : numpy.ndarray of bool
        False for rows whose position is not finite.

    Examples
    --------
    >>> match = match_catalogs([10.0, 20.0], [0.0, 0.0], [10.0001, 50.0], [0.0, 0.0], 1.0)
    >>> match.matched, match.rows, match.counts()["matched"]
    (array([ True, False]), (array([0]), array([0])), 1)
    """

    index: np.ndarray
    separation: np.ndarray
    n_candidates: np.ndarray
    duplicate: np.ndarray
    usable: np.ndarray

    @property
    def matched(self) -> np.ndarray:
        """Whether each row of the first catalogue has a match."""
        return self.index >= 0

    @property
    def ambiguous(self) -> np.ndarray:
        """Whether more than one row of the second catalogue lies within the radius."""
        return self.n_candidates > 1

    @property
    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the two catalogues that match, pair by pair."""
        first = np.flatnonzero(self.matched)
        return first, self.index[first]

    def counts(self) -> dict[str, int]:
        """Return how many rows matched, did not, and why."""
        return {
            "rows": int(self.index.size),
            "matched": int(self.matched.sum()),
            "ambiguous": int(self.ambiguous.sum()),
            "duplicate": int(self.duplicate.sum()),
            "not_finite": int((~self.usable).sum()),
        }


def match_catalogs(ra1: Any, dec1: Any, ra2: Any, dec2: Any, radius_arcsec: float) -> CatalogMatch:
    """Match two catalogues one to one, nearest first, within a radius.

    Parameters
    ----------
    ra1, dec1 : array_like, shape (n,)
        First catalogue, degrees. Rows that are not finite match nothing.
    ra2, dec2 : array_like, shape (m,)
        Second catalogue, degrees.
    radius_arcsec : float
        Largest separation in arcsec.

    Returns
    -------
    match : CatalogMatch
        Each row of the second catalogue is given to at most one row of the first: the nearest.

    Raises
    ------
    PogsonValueError
        If the radius is not positive or lengths disagree.

    Notes
    -----
    Exact on the sphere: a k-d tree of unit vectors with the chord 2 sin(r/2).

    Examples
    --------
    >>> match = match_catalogs([10.0, 20.0], [0.0, 0.0], [10.0001, 50.0], [0.0, 0.0], 1.0)
    >>> match.index, match.separation
    (array([ 0, -1]), array([0.36,  nan]))
    """
    from scipy.spatial import cKDTree

    if not (np.isfinite(radius_arcsec) and radius_arcsec > 0):
        raise PogsonValueError(
            f"The match radius {radius_arcsec!r} must be a positive number of arcsec."
        )
    a, good_a = _unit_vectors(ra1, dec1, "first")
    b, good_b = _unit_vectors(ra2, dec2, "second")
    n = len(a)
    index, separation = np.full(n, -1), np.full(n, np.nan)
    candidates, duplicate = np.zeros(n, np.int64), np.zeros(n, bool)
    rows_a, rows_b = np.flatnonzero(good_a), np.flatnonzero(good_b)
    if rows_a.size and rows_b.size:
        chord = 2.0 * np.sin(0.5 * min(radius_arcsec * _ARCSEC, np.pi))
        tree_a, tree_b = cKDTree(a[rows_a]), cKDTree(b[rows_b])
        pairs = tree_a.sparse_distance_matrix(tree_b, chord, output_type="ndarray")
        # nearest pairs first; ties by row, so that the result does not depend on the tree
        pairs = pairs[np.lexsort((pairs["j"], pairs["i"], pairs["v"]))]
        i, j = rows_a[pairs["i"]], rows_b[pairs["j"]]
        np.add.at(candidates, i, 1)
        taken: set[int] = set()
        for row, other, chord_length in zip(i.tolist(), j.tolist(), pairs["v"], strict=True):
            if index[row] >= 0:
                continue
            if other in taken:
                duplicate[row] = True
                continue
            taken.add(other)
            index[row] = other
            separation[row] = 2.0 * np.arcsin(min(0.5 * chord_length, 1.0)) / _ARCSEC
        duplicate &= index < 0
    return CatalogMatch(index, separation, candidates, duplicate, good_a)


def propagate_positions(
    ra: Any,
    dec: Any,
    pm_ra: Any,
    pm_dec: Any,
    *,
    from_epoch: Any,
    to_epoch: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """Move stars along their proper motion to another epoch.

    Parameters
    ----------
    ra, dec : array_like
        Positions in degrees at ``from_epoch``.
    pm_ra, pm_dec : array_like
        Proper motion in mas/yr; ``pm_ra`` includes cos(dec), as in the Gaia catalogues. NaN (no
        proper motion known) leaves the star where it is.
    from_epoch, to_epoch : array_like
        Julian years, for example 2015.5 for Gaia DR2.

    Returns
    -------
    ra, dec : numpy.ndarray
        Degrees at ``to_epoch``.

    Notes
    -----
    Straight motion in space without the radial velocity and parallax (below 0.8 arcsec and
    mostly below a mas): the unit vector moves in its tangent plane and is normalised.

    Examples
    --------
    >>> ra, dec = propagate_positions(10.0, 0.0, 3600e3, 0.0, from_epoch=2015.5, to_epoch=2016.5)
    >>> round(float(ra), 3), float(dec)
    (11.0, 0.0)
    """
    lon, lat = np.radians(np.asarray(ra, np.float64)), np.radians(np.asarray(dec, np.float64))
    years = np.asarray(to_epoch, np.float64) - np.asarray(from_epoch, np.float64)
    mas = _ARCSEC * 1e-3
    east = np.nan_to_num(np.asarray(pm_ra, np.float64)) * years * mas
    north = np.nan_to_num(np.asarray(pm_dec, np.float64)) * years * mas
    sin_lon, cos_lon, sin_lat, cos_lat = np.sin(lon), np.cos(lon), np.sin(lat), np.cos(lat)
    vx = cos_lat * cos_lon - east * sin_lon - north * sin_lat * cos_lon
    vy = cos_lat * sin_lon + east * cos_lon - north * sin_lat * sin_lon
    vz = sin_lat + north * cos_lat
    new_ra = np.degrees(np.arctan2(vy, vx)) % 360.0
    new_dec = np.degrees(np.arctan2(vz, np.hypot(vx, vy)))
    still = (east == 0) & (north == 0)  # bit for bit where it was
    return np.where(still, ra, new_ra), np.where(still, dec, new_dec)


def _unit_vectors(ra: Any, dec: Any, which: str) -> tuple[np.ndarray, np.ndarray]:
    lon, lat = np.asarray(ra, np.float64), np.asarray(dec, np.float64)
    if lon.shape != lat.shape or lon.ndim != 1:
        raise PogsonValueError(
            f"ra and dec of the {which} catalogue have shapes {lon.shape} and {lat.shape}; both "
            "must be one-dimensional and of one length."
        )
    good = np.isfinite(lon) & np.isfinite(lat)
    if np.any(np.abs(lat[good]) > 90.0):
        raise PogsonValueError(f"A declination of the {which} catalogue is beyond 90 degrees.")
    lon, lat = np.radians(np.where(good, lon, 0.0)), np.radians(np.where(good, lat, 0.0))
    cos_lat = np.cos(lat)
    return np.stack([cos_lat * np.cos(lon), cos_lat * np.sin(lon), np.sin(lat)], axis=1), good
