"""The simulated telescope: where each pixel looks, how big it is on the sky, what it loses."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.fields import ChebyshevField
from pogson.simulate.model import CameraModel

if TYPE_CHECKING:
    from astropy.io.fits import Header

__all__ = ["focal_plane_field", "vignetting_field", "wcs_header"]


def wcs_header(
    camera: CameraModel, index: int, *, ra: float, dec: float, rotation: float, scale: float = 1.0
) -> Header:
    r"""FITS header with the TPV WCS of one detector in one visit.

    Parameters
    ----------
    camera : CameraModel
        The camera.
    index : int
        Detector, from 0.
    ra, dec : float
        Where the optical axis points, degrees.
    rotation : float
        Camera angle in degrees.
    scale : float, optional
        Relative plate scale of the visit.

    Returns
    -------
    astropy.io.fits.Header
        The WCS cards, FITS pixel convention (first pixel is 1).

    Notes
    -----
    The tangent point is common to all detectors. With intermediate coordinates :math:`(x, y)` in
    degrees the TPV polynomial is :math:`\xi = x + k x (x^2 + y^2) + q x^2` and
    :math:`\eta = y + k y (x^2 + y^2)`, so that the pixel area grows by
    :math:`4 k r^2 + 2 q x` to first order (TPV convention, Calabretta et al.; in PV2 the two
    coordinates are swapped). Detectors are mounted with small rotations of their own.

    Examples
    --------
    >>> header = wcs_header(CameraModel(), 0, ra=150.0, dec=2.0, rotation=0.0)
    >>> header["CTYPE1"], header["CRPIX1"]
    ('RA---TPV', 1044.5)
    """
    from astropy.io import fits

    u0, v0 = camera.origin(index)
    corner = camera.corner * camera.pixel_scale / 3600.0
    width = camera.columns * camera.nx * camera.pixel_scale / 3600.0
    cubic = camera.area_growth / (4 * corner**2)
    quadratic = camera.area_tilt / (2 * width)
    # mounting errors of a few hundredths of a degree, fixed for the camera
    angle = np.deg2rad(rotation + 0.03 * (((index * 7) % 5) - 2))
    step = scale * camera.pixel_scale / 3600.0
    cards = {
        "CTYPE1": "RA---TPV",
        "CTYPE2": "DEC--TPV",
        "CUNIT1": "deg",
        "CUNIT2": "deg",
        "CRVAL1": ra,
        "CRVAL2": dec,
        # focal-plane 0 is the pixel edge u0 + x + 0.5 = 0; FITS counts from 1
        "CRPIX1": 0.5 - u0,
        "CRPIX2": 0.5 - v0,
        "CD1_1": -step * np.cos(angle),
        "CD1_2": step * np.sin(angle),
        "CD2_1": step * np.sin(angle),
        "CD2_2": step * np.cos(angle),
        "PV1_0": 0.0,
        "PV1_1": 1.0,
        "PV1_2": 0.0,
        "PV1_4": quadratic,
        "PV1_7": cubic,
        "PV1_9": cubic,
        "PV2_0": 0.0,
        "PV2_1": 1.0,
        "PV2_2": 0.0,
        "PV2_7": cubic,
        "PV2_9": cubic,
        "RADESYS": "ICRS",
        "EQUINOX": 2000.0,
    }
    header = fits.Header()
    for key, value in cards.items():
        header[key] = value if isinstance(value, str) else float(value)
    return header


def focal_plane_field(
    camera: CameraModel, index: int, function: Callable[..., Any], *, order: int, unit: Any = ""
) -> ChebyshevField:
    """Return a polynomial of focal-plane position as a field on one detector.

    Parameters
    ----------
    camera : CameraModel
        The camera.
    index : int
        Detector, from 0.
    function : callable
        ``function(u, v)`` of focal-plane position in units of `CameraModel.corner`; a polynomial
        of total degree at most ``order``, which is then represented exactly.
    order : int
        Order of the field.
    unit : unit-like, optional
        Unit of the values.

    Examples
    --------
    >>> field = focal_plane_field(CameraModel(), 0, lambda u, v: 1 + u * v, order=2)
    >>> bool(abs(field(x=1023.0, y=0.0) - 1.0) < 0.02)
    True
    """
    box = camera.box
    n = order + 3
    x = np.linspace(*box.x_bounds, n + 2)[1:-1]
    y = np.linspace(*box.y_bounds, n + 2)[1:-1]
    xx, yy = np.meshgrid(x, y)
    u, v = camera.focal_plane(index, x=xx, y=yy)
    values = np.broadcast_to(np.asarray(function(u, v), np.float64), xx.shape)
    return ChebyshevField.fit(
        box, xx.ravel(), yy.ravel(), values.ravel(), order=order, total=True, unit=unit
    )


def vignetting_field(camera: CameraModel, index: int) -> ChebyshevField:
    """Fraction of the light that reaches the detector: 1 on the axis, quartic in radius.

    Examples
    --------
    >>> bool(vignetting_field(CameraModel(), 0)(x=0.0, y=0.0) < 0.83)
    True
    """

    def light(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        r2 = u**2 + v**2
        return 1.0 - camera.vignetting * (0.6 * r2 + 0.4 * r2**2)

    return focal_plane_field(camera, index, light, order=4)
