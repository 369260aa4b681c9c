"""The gnomonic (TAN) projection with SIP distortion in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import PogsonValueError
from pogson.fields.box import Box
from pogson.sky.geometry import ARCSEC_PER_RADIAN, unit_vectors

if TYPE_CHECKING:
    from pogson.sky.base import SkyMap

__all__ = ["Gnomonic"]


@dataclass(frozen=True, eq=False, slots=True)
class Gnomonic:
    """Tangent point, linear part and SIP polynomials of a TAN or TAN-SIP map.

    Parameters
    ----------
    crpix : numpy.ndarray, shape (2,)
        Reference pixel, 0-based.
    cd : numpy.ndarray, shape (2, 2)
        Intermediate world coordinates (xi toward east, eta toward north) in radians per pixel.
    crval : tuple of float
        Tangent point (ra, dec), degrees.
    a, b : numpy.ndarray or None
        SIP coefficients ``[p, q]`` of ``u^p v^q``.
    """

    crpix: np.ndarray
    cd: np.ndarray
    crval: tuple[float, float]
    a: np.ndarray | None
    b: np.ndarray | None

    @classmethod
    def from_wcs(cls, wcs: Any, header: Any) -> Gnomonic | None:
        """Return the closed form of an astropy WCS, or None where it has none of this kind.

        ``header`` has the cards of the same map: once set up, wcslib calls a TPV map TAN and keeps
        the distortion out of sight, but writes it to the cards.
        """
        w = wcs.wcs
        kinds = {str(header.get(f"CTYPE{i}"))[4:].lstrip("-") for i in (1, 2)}
        hidden = any(str(key).startswith(("PV", "DP", "DQ")) for key in header)
        plain = kinds <= {"TAN", "TAN-SIP"} and not hidden
        if not plain or not np.isclose(w.lonpole, 180.0, rtol=0, atol=1e-12):
            return None
        order = [w.lng, w.lat]
        scale = np.deg2rad(1.0)
        a, b = (None, None) if wcs.sip is None else (wcs.sip.a, wcs.sip.b)
        zero = np.zeros((1, 1))
        if wcs.sip is not None:
            a, b = (zero if a is None else a), (zero if b is None else b)
        return cls(
            crpix=np.asarray(w.crpix, np.float64) - 1.0,
            cd=np.asarray(wcs.pixel_scale_matrix, np.float64)[order] * scale,
            crval=(float(w.crval[w.lng]), float(w.crval[w.lat])),
            a=a,
            b=b,
        )

    def jacobian(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the Jacobian in arcsec per pixel, shape (n, 2, 2); see `SkyMap.jacobian`."""
        u, v = x - self.crpix[0], y - self.crpix[1]
        # d(u', v') / d(x, y) of the SIP polynomials
        distortion = np.zeros((x.size, 2, 2))
        distortion[:, 0, 0] = distortion[:, 1, 1] = 1.0
        if self.a is not None and self.b is not None:
            du, au, av = _polynomial(self.a, u, v)
            dv, bu, bv = _polynomial(self.b, u, v)
            distortion += np.stack([np.stack([au, av], -1), np.stack([bu, bv], -1)], -2)
            u, v = u + du, v + dv
        xi = self.cd[0, 0] * u + self.cd[0, 1] * v
        eta = self.cd[1, 0] * u + self.cd[1, 1] * v
        return _tangent_derivative(xi, eta, self.crval) @ (self.cd @ distortion)


def _tangent_derivative(xi: np.ndarray, eta: np.ndarray, crval: tuple[float, float]) -> np.ndarray:
    """Return d(local east, local north)/d(xi, eta) in arcsec per radian, shape (n, 2, 2).

    A position is the unit vector ``p = (c + xi e + eta n) / rho`` of the tangent point's basis.
    """
    lon, lat = np.deg2rad(crval)
    cx, cy, cz = unit_vectors(*crval)
    ex, ey = -np.sin(lon), np.cos(lon)
    nx, ny, nz = -np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)
    rho = np.sqrt(1.0 + xi**2 + eta**2)
    px = (cx + xi * ex + eta * nx) / rho
    py = (cy + xi * ey + eta * ny) / rho
    pz = (cz + eta * nz) / rho
    horizontal = np.hypot(px, py)
    on_axis = horizontal < 1e-300
    safe = np.where(on_axis, 1.0, horizontal)
    # At a pole right ascension is 0 by convention, as `sky` gives it.
    cos_lon = np.where(on_axis, 1.0, px / safe)
    sin_lon = np.where(on_axis, 0.0, py / safe)
    # East is (-sin, cos, 0), north (-pz cos, -pz sin, horizontal). The radial part of dp/dxi is
    # along p, hence orthogonal to both: it drops out.
    out = np.empty((xi.size, 2, 2))
    out[:, 0, 0] = cos_lon * ey - sin_lon * ex
    out[:, 0, 1] = cos_lon * ny - sin_lon * nx
    out[:, 1, 0] = -pz * (cos_lon * ex + sin_lon * ey)
    out[:, 1, 1] = horizontal * nz - pz * (cos_lon * nx + sin_lon * ny)
    return out * (ARCSEC_PER_RADIAN / rho)[:, np.newaxis, np.newaxis]


def _polynomial(
    table: np.ndarray, u: np.ndarray, v: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a polynomial ``sum c[p, q] u^p v^q`` and its derivatives along u and v."""
    n, m = table.shape
    one, zero = np.ones_like(u), np.zeros_like(u)
    powers_u, powers_v = [one], [one]
    for _ in range(n - 1):
        powers_u.append(powers_u[-1] * u)
    for _ in range(m - 1):
        powers_v.append(powers_v[-1] * v)
    slopes_u = [zero, *(k * powers_u[k - 1] for k in range(1, n))]
    slopes_v = [zero, *(k * powers_v[k - 1] for k in range(1, m))]
    along = table @ np.array(powers_v)
    across = table @ np.array(slopes_v)
    basis = np.array(powers_u)
    return (
        (basis * along).sum(axis=0),
        (np.array(slopes_u) * along).sum(axis=0),
        (basis * across).sum(axis=0),
    )


def fit_tan_sip_header(
    sky: SkyMap, box: Box, degree: int
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the cards of a TAN-SIP fit to a map, and an independent grid of test positions.

    The tangent point is the centre of the box and the linear part the Jacobian there, so that SIP
    holds only what is beyond linear.
    """
    from pogson.sky.area import chebyshev_nodes

    if int(degree) != degree or not 2 <= degree <= 9:
        raise PogsonValueError(f"The SIP degree must be a whole number from 2 to 9, not {degree}.")
    degree = int(degree)
    x0, y0 = box.center
    ra0, dec0 = sky.sky(x=x0, y=y0)
    cd = sky.jacobian(x=x0, y=y0) / 3600.0
    if not np.isfinite(cd).all():
        raise PogsonValueError(f"The map is not defined at the centre of {box}.")
    (left, right), (low, high) = box.x_bounds, box.y_bounds
    nodes = chebyshev_nodes(3 * degree + 3)
    half_x, half_y = 0.5 * (right - left), 0.5 * (high - low)
    u, v = (g.ravel() for g in np.meshgrid(nodes * half_x, nodes * half_y))
    ra, dec = sky.sky(x=x0 + u, y=y0 + v)
    lon, lat = np.deg2rad(ra0), np.deg2rad(dec0)
    p, c = unit_vectors(ra, dec), unit_vectors(ra0, dec0)
    e = np.array([-np.sin(lon), np.cos(lon), 0.0])
    n = np.array([-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)])
    plane = np.rad2deg(np.stack([p @ e, p @ n]) / (p @ c))
    if not np.isfinite(plane).all():
        raise PogsonValueError(f"The map is not defined everywhere on {box}.")
    target = np.linalg.solve(cd, plane) - np.stack([u, v])
    powers = [(i, j) for i in range(degree + 1) for j in range(degree + 1 - i)]
    design = np.stack([(u / half_x) ** i * (v / half_y) ** j for i, j in powers], axis=-1)
    solution = np.linalg.lstsq(design, target.T, rcond=None)[0]
    scale = np.array([half_x**i * half_y**j for i, j in powers])
    header: dict[str, Any] = {
        "CTYPE1": "RA---TAN-SIP",
        "CTYPE2": "DEC--TAN-SIP",
        "CUNIT1": "deg",
        "CUNIT2": "deg",
        "CRVAL1": float(ra0),
        "CRVAL2": float(dec0),
        "RADESYS": "ICRS",
        "CRPIX1": x0 + 1.0,
        "CRPIX2": y0 + 1.0,
        **{f"CD{i + 1}_{j + 1}": float(cd[i, j]) for i in range(2) for j in range(2)},
        "A_ORDER": degree,
        "B_ORDER": degree,
    }
    for k, (i, j) in enumerate(powers):
        for name, column in (("A", 0), ("B", 1)):
            header[f"{name}_{i}_{j}"] = float(solution[k, column] / scale[k])
    axis = np.concatenate([[-1.0, 1.0], np.cos(np.pi * (np.arange(16) + 0.37) / 16.0)])
    return header, {
        "x": (x0 + axis * half_x)[np.newaxis, :],
        "y": (y0 + axis * half_y)[:, np.newaxis],
    }
