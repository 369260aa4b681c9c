"""The interface of maps between pixels and the sky."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import astropy.units as u
import numpy as np

from pogson.errors import PogsonTypeError, PogsonValueError, choices
from pogson.fields.box import Box
from pogson.sky.geometry import ARCSEC_PER_RADIAN, local_basis, unit_vectors

if TYPE_CHECKING:
    from astropy.io.fits import Header

    from pogson.fields import PixelAreaField

__all__ = ["SkyMap", "skymap_from_dict"]

# Length on the sky of a finite-difference step. Rounding of degrees near 360 costs about 5e-16 rad,
# hence 3e-12 of this; the five-point rule's truncation is the fourth power of it, far below that.
_STEP_RADIAN = 2e-4
# Steps longer than this many pixels would smear detector-scale distortion.
_STEP_PIXELS = 4.0


class SkyMap(ABC):
    """A map from pixels to right ascension and declination, and back; immutable.

    Pixel convention: 0-based, pixel centres on integers, positions keyword-only. Angles are degrees
    in ICRS (a map in FK5 of equinox J2000 is taken as it is; the two differ by less than 0.03
    arcsec), right ascension in [0, 360). Positions that have no image under the map are NaN.

    Two maps are equal when their descriptions (`to_dict`) are. Maps can be pickled, as process
    pools need.

    Examples
    --------
    >>> from pogson.sky import FitsSkyMap
    >>> sky = FitsSkyMap.tan(30.0, -20.0, x=100.0, y=100.0, scale_arcsec=0.25)
    >>> ra, dec = sky.sky(x=100.0, y=104.0)
    >>> round(float(dec + 20.0) * 3600.0, 4), round(float(sky.pixel_area(x=100.0, y=100.0)), 6)
    (1.0, 0.0625)
    >>> sky.shifted(10.0, 0.0).pixel(30.0, -20.0)[0]
    90.0
    """

    __slots__ = ("_offset",)
    _offset: tuple[float, float]

    # -- what a concrete kind provides ------------------------------------------------------
    @abstractmethod
    def _to_sky(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map one-dimensional pixel arrays of the unshifted map to degrees."""

    @abstractmethod
    def _to_pixel(self, ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map one-dimensional arrays of degrees to pixels of the unshifted map."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description, read back by `skymap_from_dict`."""

    @abstractmethod
    def shifted(self, dx: float, dy: float) -> SkyMap:
        """Return the map of an image whose first pixel is pixel (dx, dy) of this one.

        Parameters
        ----------
        dx, dy : float
            New pixel = old pixel - (dx, dy), as for a cutout that starts at (dx, dy).
        """

    def _analytic_jacobian(self, x: np.ndarray, y: np.ndarray) -> np.ndarray | None:
        """Return the Jacobian at unshifted positions where a closed form is cheap, else None."""
        return None

    # -- public -----------------------------------------------------------------------------
    @property
    def offset(self) -> tuple[float, float]:
        """Pixels added to (x, y) before the map of the original image is applied."""
        return self._offset

    def sky(self, *, x: Any, y: Any) -> tuple[Any, Any]:
        """Sky position of pixel positions.

        Parameters
        ----------
        x, y : array_like
            Pixels (0-based, centres on integers), broadcast together.

        Returns
        -------
        ra, dec : float or numpy.ndarray
            Degrees, ``ra`` in [0, 360); NaN where the map is not defined.
        """
        x, y = _broadcast(x, y, "x and y")
        ra, dec = self._to_sky(x.ravel() + self._offset[0], y.ravel() + self._offset[1])
        # -1e-17 % 360 rounds to 360 itself
        ra = np.where(ra % 360.0 == 360.0, 0.0, ra % 360.0)
        return _shaped(ra, x.shape), _shaped(dec, x.shape)

    def pixel(self, ra: Any, dec: Any) -> tuple[Any, Any]:
        """Pixel position of sky positions.

        Parameters
        ----------
        ra, dec : array_like
            Degrees, broadcast together.

        Returns
        -------
        x, y : float or numpy.ndarray
            Pixels (0-based, centres on integers); NaN where the map has no pixel for the position.
            Positions outside the image give pixels outside it.
        """
        ra, dec = _broadcast(ra, dec, "ra and dec")
        x, y = self._to_pixel(ra.ravel(), dec.ravel())
        return _shaped(x - self._offset[0], ra.shape), _shaped(y - self._offset[1], ra.shape)

    def jacobian(self, *, x: Any, y: Any) -> np.ndarray:
        r"""Derivative of the sky position with respect to the pixel position.

        Parameters
        ----------
        x, y : array_like
            Pixels (0-based, centres on integers), broadcast together.

        Returns
        -------
        jacobian : numpy.ndarray, shape (..., 2, 2)
            ``[[dxi/dx, dxi/dy], [deta/dx, deta/dy]]`` in arcsec per pixel, with xi toward east and
            eta toward north in the plane that touches the sky AT the position.

        Notes
        -----
        A gnomonic FITS map, with or without SIP, has a closed form. The others use the five-point
        central difference of *unit vectors*, projected on the local east and north, so that neither
        the poles nor RA = 0 are special; the step is 4 pixels, or 40 arcsec where that is less, and
        the relative error about 1e-10.

        Examples
        --------
        >>> from pogson.sky import FitsSkyMap
        >>> sky = FitsSkyMap.tan(150.0, 2.0, x=50.0, y=50.0, scale_arcsec=0.2)
        >>> sky.jacobian(x=50.0, y=50.0).round(9)
        array([[-0.2, 0. ], [ 0. , 0.2]])
        """
        x, y = _broadcast(x, y, "x and y")
        flat_x, flat_y = x.ravel() + self._offset[0], y.ravel() + self._offset[1]
        jacobian = self._analytic_jacobian(flat_x, flat_y)
        if jacobian is None:
            jacobian = self._difference_jacobian(flat_x, flat_y)
        return jacobian.reshape(*x.shape, 2, 2)

    def pixel_area(self, *, x: Any, y: Any) -> Any:
        """Area of a pixel on the sky, ``abs(det(jacobian))``, in square arcseconds.

        Parameters
        ----------
        x, y : array_like
            Pixels (0-based, centres on integers), broadcast together.

        Returns
        -------
        area : float or numpy.ndarray
            arcsec2.

        Examples
        --------
        >>> from pogson.sky import FitsSkyMap
        >>> sky = FitsSkyMap.tan(150.0, 2.0, x=50.0, y=50.0, scale_arcsec=0.2)
        >>> round(sky.pixel_area(x=50.0, y=50.0), 12)
        0.04
        """
        j = self.jacobian(x=x, y=y)
        area = np.abs(j[..., 0, 0] * j[..., 1, 1] - j[..., 0, 1] * j[..., 1, 0])
        return float(area) if area.ndim == 0 else area

    def pixel_scale(self, *, x: Any, y: Any) -> Any:
        """Square root of `pixel_area`, in arcsec per pixel."""
        return self.pixel_area(x=x, y=y) ** 0.5

    def pixel_area_field(
        self,
        box: Box,
        *,
        unit: u.UnitBase = u.arcsec**2,
        tolerance: float = 1e-6,
        max_order: int = 32,
    ) -> PixelAreaField:
        """Area of pixels over a box, as a Chebyshev field with its achieved error.

        Parameters
        ----------
        box : Box
            Pixels to cover, edges included.
        unit : Unit, optional
            Unit of the field, an area on the sky; arcsec2 by default. Divide by a reference area
            with `pogson.fields.PixelAreaField.relative_to`.
        tolerance : float, optional
            Largest relative error allowed on an independent grid of test positions.
        max_order : int, optional
            Largest Chebyshev order along either axis.

        Returns
        -------
        field : PixelAreaField
            With the lowest order that meets the tolerance, and the error achieved.

        Warns
        -----
        PogsonWarning
            If the tolerance is not reached at ``max_order``; the field is returned all the same and
            holds the error.

        Raises
        ------
        PogsonValueError
            If the map is not defined everywhere on the box.
        UnitMismatchError
            If ``unit`` is not a solid angle.

        Examples
        --------
        >>> from pogson.fields import Box
        >>> from pogson.sky import FitsSkyMap
        >>> sky = FitsSkyMap.tan(150.0, 2.0, x=500.0, y=500.0, scale_arcsec=2.0)
        >>> area = sky.pixel_area_field(Box.from_shape((1000, 1000)))
        >>> round(area(x=500.0, y=500.0), 6), area.achieved_error < 1e-6
        (4.0, True)
        """
        from pogson.sky.area import approximate_pixel_area

        return approximate_pixel_area(
            self, box, unit=unit, tolerance=tolerance, max_order=max_order
        )

    def footprint(self, box: Box) -> np.ndarray:
        """Corners of a box on the sky.

        Parameters
        ----------
        box : Box
            Pixels; the corners are the outer edges of the corner pixels.

        Returns
        -------
        corners : numpy.ndarray, shape (4, 2)
            (ra, dec) in degrees of the corners (x low, y low), (x high, y low), (x high, y high),
            (x low, y high).
        """
        (x0, x1), (y0, y1) = box.x_bounds, box.y_bounds
        ra, dec = self.sky(x=[x0, x1, x1, x0], y=[y0, y0, y1, y1])
        return np.stack([ra, dec], axis=-1)

    def to_header(self) -> Header:
        """Return the FITS header cards of this map.

        Raises
        ------
        PogsonValueError
            If this kind of map has no exact FITS form.
        """
        raise PogsonValueError(
            f"{type(self).__name__} has no exact FITS header; keep its to_dict() instead, or fit "
            f"one with FitsSkyMap.fit_tan_sip(sky, box), which reports its error."
        )

    # -- numerical parts --------------------------------------------------------------------
    def _difference_jacobian(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        ra, dec = self._to_sky(x, y)
        east, north = local_basis(ra, dec)
        h = self._step(x, y)
        jacobian = np.empty((x.size, 2, 2))
        for axis, (ux, uy) in enumerate(((h, 0.0), (0.0, h))):
            near = self._vector(x + ux, y + uy) - self._vector(x - ux, y - uy)
            far = self._vector(x + 2 * ux, y + 2 * uy) - self._vector(x - 2 * ux, y - 2 * uy)
            derivative = (8 * near - far) / (12 * h)
            jacobian[:, 0, axis] = np.sum(derivative * east, axis=-1)
            jacobian[:, 1, axis] = np.sum(derivative * north, axis=-1)
        return jacobian * ARCSEC_PER_RADIAN

    def _vector(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return unit_vectors(*self._to_sky(x, y))

    def _scale(self, x: np.ndarray, y: np.ndarray) -> float:
        """Return a typical pixel scale in radians, from one of the positions; NaN if unknown."""
        good = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
        if good.size == 0:
            return float("nan")
        i = good[good.size // 2 : good.size // 2 + 1]
        small = 1e-2
        d = self._vector(x[i] + small, y[i] + small) - self._vector(x[i] - small, y[i] - small)
        return float(np.linalg.norm(d)) / (2 * small * np.sqrt(2.0))

    def _step(self, x: np.ndarray, y: np.ndarray) -> float:
        """Return the difference step in pixels."""
        scale = self._scale(x, y)
        return min(_STEP_PIXELS, _STEP_RADIAN / scale) if scale > 0 else _STEP_PIXELS

    def _newton_pixel(
        self, ra: np.ndarray, dec: np.ndarray, x: np.ndarray, y: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Invert by Newton's rule from starting pixels; NaN where it does not converge."""
        target = unit_vectors(ra, dec)
        x, y = x.copy(), y.copy()
        step = np.full(x.shape, np.inf)
        with np.errstate(all="ignore"):
            for _ in range(30):
                at_ra, at_dec = self._to_sky(x, y)
                east, north = local_basis(at_ra, at_dec)
                gap = (target - unit_vectors(at_ra, at_dec)) * ARCSEC_PER_RADIAN
                xi, eta = np.sum(gap * east, axis=-1), np.sum(gap * north, axis=-1)
                j = self._analytic_jacobian(x, y)
                j = self._difference_jacobian(x, y) if j is None else j
                det = j[:, 0, 0] * j[:, 1, 1] - j[:, 0, 1] * j[:, 1, 0]
                dx = (j[:, 1, 1] * xi - j[:, 0, 1] * eta) / det
                dy = (j[:, 0, 0] * eta - j[:, 1, 0] * xi) / det
                x, y = x + dx, y + dy
                step = np.hypot(dx, dy)
                if not np.any(step > 1e-9):
                    break
        lost = ~(step < 1e-6)
        return np.where(lost, np.nan, x), np.where(lost, np.nan, y)

    # -- value semantics --------------------------------------------------------------------
    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SkyMap):
            return NotImplemented
        return type(self) is type(other) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(repr(self.to_dict()))

    def __reduce__(self) -> tuple[Any, ...]:
        return (skymap_from_dict, (self.to_dict(),))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable; cannot set {name!r}.")

    def _set(self, **values: Any) -> None:
        """Fill slots during construction."""
        for name, value in values.items():
            object.__setattr__(self, name, value)


def _broadcast(a: Any, b: Any, names: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        first, second = np.broadcast_arrays(np.asarray(a, np.float64), np.asarray(b, np.float64))
    except (TypeError, ValueError) as error:
        raise PogsonValueError(f"{names} must be numbers that broadcast: {error}") from None
    return first, second


def _shaped(values: np.ndarray, shape: tuple[int, ...]) -> Any:
    return float(values[0]) if shape == () else values.reshape(shape)


def check_offset(offset: Any) -> tuple[float, float]:
    """Return an offset as two finite floats.

    Raises
    ------
    PogsonValueError
        If it is anything else.
    """
    try:
        dx, dy = (float(v) for v in offset)
    except (TypeError, ValueError):
        raise PogsonValueError(f"An offset must be two numbers (dx, dy), not {offset!r}.") from None
    if not np.isfinite([dx, dy]).all():
        raise PogsonValueError(f"An offset must be finite, not {offset!r}.")
    return dx, dy


def skymap_from_dict(description: Mapping[str, Any]) -> SkyMap:
    """Build a sky map from its `SkyMap.to_dict` description.

    Parameters
    ----------
    description : Mapping
        With ``kind`` ``"fits"``, ``"ast"`` or ``"gwcs"``.

    Returns
    -------
    sky : SkyMap

    Raises
    ------
    PogsonValueError
        If the kind is unknown or a part is missing or wrong.

    Examples
    --------
    >>> from pogson.sky import FitsSkyMap
    >>> sky = FitsSkyMap.tan(150.0, 2.0, x=50.0, y=50.0, scale_arcsec=0.2)
    >>> skymap_from_dict(sky.to_dict()) == sky
    True
    """
    from pogson.sky.ast_map import AstSkyMap
    from pogson.sky.fits_map import FitsSkyMap
    from pogson.sky.gwcs_map import GwcsSkyMap

    kinds: dict[str, Any] = {"fits": FitsSkyMap, "ast": AstSkyMap, "gwcs": GwcsSkyMap}
    if not isinstance(description, Mapping):
        raise PogsonTypeError(f"A sky map description is a mapping, not {type(description)}.")
    kind = description.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise PogsonValueError(f"Unknown sky map kind {kind!r}; allowed: {choices(kinds)}.")
    try:
        return kinds[kind]._from_dict(description)
    except KeyError as missing:
        raise PogsonValueError(f"The {kind} sky map description lacks {missing}.") from None
