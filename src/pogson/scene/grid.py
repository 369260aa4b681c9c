"""The grid of point sources that stands for the static scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pogson.errors import PogsonValueError
from pogson.scene.exposure import SceneExposure

__all__ = ["SceneGrid", "auto_grid", "offset_position", "tangent_offset"]

_MAX_POINTS = 10_000


def offset_position(ra: float, dec: float, xi: Any, eta: Any) -> tuple[Any, Any]:
    r"""Return sky positions at gnomonic offsets from a point.

    Parameters
    ----------
    ra, dec : float
        Tangent point in degrees.
    xi, eta : array_like
        Offsets toward east and north in arcsec.

    Returns
    -------
    ra, dec : numpy.ndarray
        Degrees.

    Notes
    -----
    :math:`\tan\Delta\alpha = \xi / (\cos\delta_0 - \eta\sin\delta_0)`, :math:`\tan\delta =
    \cos\Delta\alpha (\sin\delta_0 + \eta\cos\delta_0) / (\cos\delta_0 - \eta\sin\delta_0)`
    (Calabretta & Greisen 2002, A&A 395, 1077, inverted).

    Examples
    --------
    >>> ra, dec = offset_position(10.0, 60.0, 3600.0, 0.0)
    >>> round(float(ra), 3), round(float(dec), 3)
    (11.999, 59.985)
    """
    a, b = np.deg2rad(np.asarray(xi, float) / 3600), np.deg2rad(np.asarray(eta, float) / 3600)
    d0 = np.deg2rad(dec)
    depth = np.cos(d0) - b * np.sin(d0)
    height = np.sin(d0) + b * np.cos(d0)
    angle = np.arctan2(a, depth)
    return (ra + np.rad2deg(angle)) % 360.0, np.rad2deg(np.arctan2(height, np.hypot(a, depth)))


def tangent_offset(ra: Any, dec: Any, ra0: float, dec0: float) -> tuple[Any, Any]:
    """Return gnomonic offsets (east, north) in arcsec of positions from a point.

    Parameters
    ----------
    ra, dec : array_like
        Positions in degrees.
    ra0, dec0 : float
        Tangent point in degrees.

    Examples
    --------
    >>> xi, eta = tangent_offset(*offset_position(10.0, 60.0, 3.0, -4.0), 10.0, 60.0)
    >>> round(float(xi), 9), round(float(eta), 9)
    (3.0, -4.0)
    """
    from pogson.sky.geometry import gnomonic

    return gnomonic(np.asarray(ra, float), np.asarray(dec, float), ra0, dec0)


@dataclass(frozen=True, slots=True)
class SceneGrid:
    """A square grid of point sources on the tangent plane, whose fluxes make the static scene.

    Parameters
    ----------
    spacing_arcsec : float
        Distance of neighbours in arcsec.
    half_extent_arcsec : float
        The grid reaches this far from its centre, east, west, north and south, in arcsec.
    ra, dec : float, optional
        Centre in degrees; by default the position of the first source of the model.

    Raises
    ------
    PogsonValueError
        If the spacing is not positive, the extent negative, or there are over 10 000 points.

    Notes
    -----
    The points should lie about half a width of the sharpest PSF apart: nearer ones cannot be told
    from each other, wider ones cannot follow the scene.

    Examples
    --------
    >>> SceneGrid(0.5, 2.0).size
    9
    >>> SceneGrid.smp2023().n_points
    400
    """

    spacing_arcsec: float
    half_extent_arcsec: float
    ra: float | None = None
    dec: float | None = None

    def __post_init__(self) -> None:
        if not (np.isfinite(self.spacing_arcsec) and self.spacing_arcsec > 0):
            raise PogsonValueError(
                f"Grid spacing_arcsec={self.spacing_arcsec!r} must be a positive number."
            )
        if not (np.isfinite(self.half_extent_arcsec) and self.half_extent_arcsec >= 0):
            raise PogsonValueError(
                f"Grid half_extent_arcsec={self.half_extent_arcsec!r} must be 0 or more."
            )
        if self.n_points > _MAX_POINTS:
            raise PogsonValueError(
                f"A grid of {self.n_points} points is too large (at most {_MAX_POINTS}); widen "
                "the spacing or shrink the extent."
            )
        if (self.ra is None) != (self.dec is None):
            raise PogsonValueError("Give both ra and dec of the grid's centre, or neither.")

    @classmethod
    def smp2023(cls) -> SceneGrid:
        """Return the grid of Bernardinelli et al. (2023): 20 x 20 points over +-3.5 arcsec."""
        return cls(7.0 / 19.0, 3.5)

    @property
    def size(self) -> int:
        """Points along a side."""
        return int(np.floor(2 * self.half_extent_arcsec / self.spacing_arcsec + 1e-6)) + 1

    @property
    def n_points(self) -> int:
        """Number of points."""
        return self.size**2

    def offsets(self) -> tuple[np.ndarray, np.ndarray]:
        """Return offsets (xi east, eta north) of all points from the centre, in arcsec."""
        axis = (np.arange(self.size) - 0.5 * (self.size - 1)) * self.spacing_arcsec
        eta, xi = np.meshgrid(axis, axis, indexing="ij")
        return xi.ravel(), eta.ravel()

    def centered(self, ra: float, dec: float) -> SceneGrid:
        """Return the grid with this centre, unless it has one.

        Parameters
        ----------
        ra, dec : float
            Degrees.
        """
        if self.ra is not None:
            return self
        return SceneGrid(self.spacing_arcsec, self.half_extent_arcsec, float(ra), float(dec))

    def positions(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (ra, dec) of all points in degrees.

        Raises
        ------
        PogsonValueError
            If the grid has no centre yet.
        """
        if self.ra is None or self.dec is None:
            raise PogsonValueError("The grid has no centre; use centered(ra, dec) first.")
        return offset_position(self.ra, self.dec, *self.offsets())


def psf_widths(
    exposures: Sequence[SceneExposure], ra: float, dec: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the FWHM of all PSFs at a position, in pixels and in arcsec; NaN without a PSF.

    Parameters
    ----------
    exposures : sequence of SceneExposure
        Exposures.
    ra, dec : float
        Position in degrees.
    """
    widths = np.full((2, len(exposures)), np.nan)
    for k, exposure in enumerate(exposures):
        if exposure.psf is not None:
            x, y = exposure.sky.pixel(ra, dec)
            scale = float(exposure.sky.pixel_scale(x=x, y=y))
            widths[0, k] = float(exposure.psf.fwhm(x=x, y=y))
            widths[1, k] = widths[0, k] * scale
    return widths[0], widths[1]


def narrowest(widths: np.ndarray) -> float:
    """Return the smallest of some widths.

    Parameters
    ----------
    widths : numpy.ndarray
        FWHM of PSFs, NaN where there is none.

    Raises
    ------
    PogsonValueError
        If there is none at all.
    """
    if not np.isfinite(widths).any():
        raise PogsonValueError("No exposure has a PSF with a width; a scene cannot be made.")
    return float(np.nanmin(widths))


def auto_grid(
    exposures: Sequence[SceneExposure],
    ra: float,
    dec: float,
    *,
    with_prior: bool = True,
    width_arcsec: float | None = None,
) -> SceneGrid:
    """Choose a grid from the sharpest PSF and the size of the stamps.

    Parameters
    ----------
    exposures : sequence of SceneExposure
        Exposures that have a PSF.
    ra, dec : float
        Centre in degrees.
    with_prior : bool, optional
        A grid for a fit with a scene prior covers the stamps to their edges; without, it ends half
        a PSF width inside them, as points that few pixels see cannot be solved for.
    width_arcsec : float, optional
        Smallest FWHM, where it is known already.

    Returns
    -------
    grid : SceneGrid
        Spacing half the smallest FWHM, with at most 41 points a side.

    Examples
    --------
    >>> from pogson.fields import Box
    >>> from pogson.psf import GaussianPSF
    >>> from pogson.sky import FitsSkyMap
    >>> sky = FitsSkyMap.tan(150.0, 2.0, x=50.0, y=50.0, scale_arcsec=0.25)
    >>> exposure = SceneExposure(
    ...     np.zeros((30, 30)), np.ones((30, 30)), Box(35, 35, 30, 30), sky, GaussianPSF(fwhm=4.0)
    ... )
    >>> auto_grid([exposure], 150.0, 2.0).size
    16
    """
    width = narrowest(psf_widths(exposures, ra, dec)[1]) if width_arcsec is None else width_arcsec
    reach = 0.0
    for exposure in exposures:
        x, y = exposure.sky.pixel(ra, dec)
        scale = float(exposure.sky.pixel_scale(x=x, y=y))
        reach = max(reach, 0.5 * max(exposure.box.nx, exposure.box.ny) * scale)
    extent = reach + (0.0 if with_prior else -0.5) * width
    spacing = max(0.5 * width, 2 * extent / 40.0)
    return SceneGrid(spacing, extent, float(ra), float(dec))
