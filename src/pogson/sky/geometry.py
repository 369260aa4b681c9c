"""Small functions on the unit sphere: unit vectors, local east and north, separations, areas."""

from __future__ import annotations

from typing import Any

import numpy as np

from pogson.errors import PogsonValueError

__all__ = ["ARCSEC_PER_RADIAN", "angular_separation", "gnomonic", "polygon_area"]

ARCSEC_PER_RADIAN = 180.0 * 3600.0 / np.pi
"""Arcseconds in one radian."""


def unit_vectors(ra: Any, dec: Any) -> np.ndarray:
    """Return unit vectors of shape ``(..., 3)`` for right ascension and declination in degrees."""
    lon, lat = np.deg2rad(ra), np.deg2rad(dec)
    cos_lat = np.cos(lat)
    return np.stack([cos_lat * np.cos(lon), cos_lat * np.sin(lon), np.sin(lat)], axis=-1)


def local_basis(ra: Any, dec: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the unit vectors toward east and north, each ``(..., 3)``, at positions in degrees."""
    lon, lat = np.deg2rad(ra), np.deg2rad(dec)
    sin_lon, cos_lon, sin_lat = np.sin(lon), np.cos(lon), np.sin(lat)
    east = np.stack([-sin_lon, cos_lon, np.zeros_like(sin_lon)], axis=-1)
    north = np.stack([-sin_lat * cos_lon, -sin_lat * sin_lon, np.cos(lat)], axis=-1)
    return east, north


def angular_separation(ra1: Any, dec1: Any, ra2: Any, dec2: Any) -> Any:
    """Angle between positions, accurate at every distance.

    Parameters
    ----------
    ra1, dec1, ra2, dec2 : array_like
        Positions in degrees, broadcast together.

    Returns
    -------
    separation : float or numpy.ndarray
        Degrees, 0 to 180.

    Notes
    -----
    ``2 atan2(|a - b|, |a + b|)`` of the unit vectors: unlike the arc cosine it does not lose digits
    at small angles, and unlike the haversine none near 180 degrees (W. Kahan, "How futile are
    mindless assessments of roundoff in floating-point computation?", section 12).

    Examples
    --------
    >>> round(float(angular_separation(359.9999, 0.0, 0.0001, 0.0)) * 3600, 9)
    0.72
    """
    a, b = np.broadcast_arrays(unit_vectors(ra1, dec1), unit_vectors(ra2, dec2))
    difference = np.linalg.norm(a - b, axis=-1)
    return np.rad2deg(2 * np.arctan2(difference, np.linalg.norm(a + b, axis=-1)))


def gnomonic(ra: Any, dec: Any, ra0: float, dec0: float) -> tuple[np.ndarray, np.ndarray]:
    r"""Project sky positions on the tangent plane of (ra0, dec0).

    Parameters
    ----------
    ra, dec : array_like
        Positions in degrees.
    ra0, dec0 : float
        Tangent point in degrees.

    Returns
    -------
    xi, eta : numpy.ndarray
        Standard coordinates toward east and north, in arcsec.

    Raises
    ------
    PogsonValueError
        If a position is 90 degrees or more from the tangent point.

    Notes
    -----
    :math:`\xi = \cos\delta\sin\Delta\alpha / D`, :math:`\eta = (\sin\delta\cos\delta_0 -
    \cos\delta\sin\delta_0\cos\Delta\alpha) / D` with :math:`D = \sin\delta\sin\delta_0 +
    \cos\delta\cos\delta_0\cos\Delta\alpha` (Calabretta & Greisen 2002, A&A 395, 1077).

    Examples
    --------
    >>> xi, eta = gnomonic(10.1, 20.0, 10.0, 20.0)
    >>> round(float(xi), 2)
    338.29
    """
    d, d0 = np.deg2rad(np.asarray(dec, np.float64)), np.deg2rad(dec0)
    da = np.deg2rad(np.asarray(ra, np.float64) - ra0)
    depth = np.sin(d) * np.sin(d0) + np.cos(d) * np.cos(d0) * np.cos(da)
    if not (depth > 1e-6).all():
        raise PogsonValueError(
            f"Positions lie 90 degrees or more from the tangent point ra={ra0:.6g}, "
            f"dec={dec0:.6g}; the sky map does not belong to this pointing."
        )
    xi = np.cos(d) * np.sin(da) / depth
    eta = (np.sin(d) * np.cos(d0) - np.cos(d) * np.sin(d0) * np.cos(da)) / depth
    return np.rad2deg(xi) * 3600.0, np.rad2deg(eta) * 3600.0


def polygon_area(ra: Any, dec: Any) -> float:
    """Area of a convex polygon of great-circle arcs.

    Parameters
    ----------
    ra, dec : array_like, shape (n,)
        Corners in degrees, in order along the boundary, n >= 3.

    Returns
    -------
    area : float
        Square arcseconds, never negative.

    Notes
    -----
    Sum over a fan of spherical triangles, each by the formula of Van Oosterom & Strackee (1983,
    IEEE Trans. Biomed. Eng. 30, 125): ``tan(E / 2) = a.(b x c) / (1 + a.b + b.c + c.a)``, with the
    triple product taken on differences of the corners so that tiny polygons keep their digits.

    Examples
    --------
    An octant of the sphere has pi / 2 steradian:

    >>> octant = polygon_area([0.0, 90.0, 0.0], [0.0, 0.0, 90.0])
    >>> round(octant / (180 * 3600 / 3.141592653589793) ** 2, 6)
    1.570796
    """
    corners = unit_vectors(np.asarray(ra, np.float64), np.asarray(dec, np.float64))
    a, b, c = corners[0], corners[1:-1], corners[2:]
    triple = np.sum(a * np.cross(b - a, c - a), axis=-1)
    below = 1 + b @ a + np.sum(b * c, axis=-1) + c @ a
    return float(abs(np.sum(2 * np.arctan2(triple, below)))) * ARCSEC_PER_RADIAN**2
