"""Unit-flux stamps of sources that are not points: galaxies, trails, images and GalSim objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.calib import FluxReference
from pogson.errors import MissingDataError, PogsonValueError
from pogson.fields import Box
from pogson.inject.flags import InjectionFlag

if TYPE_CHECKING:
    from pogson.inject.plan import InjectionPlan

__all__ = ["shifted_image", "unit_stamp"]

_LANCZOS = 5
_LARGEST_GALAXY = 256
_OK = InjectionFlag(0)

UnitStamp = tuple[np.ndarray | None, Box | None, InjectionFlag]


def unit_stamp(plan: InjectionPlan, row: int, radius: float) -> UnitStamp:
    """Draw a source of unit flux at its place.

    Parameters
    ----------
    plan : InjectionPlan
        The injection.
    row : int
        Row of the catalogue.
    radius : float
        Largest radius in pixels that will be measured; 0 for all the light.

    Returns
    -------
    image : numpy.ndarray or None
        Pixel values, fluence; None where the source cannot be drawn.
    box : Box or None
        Where it lies.
    flag : InjectionFlag
        What is wrong, or 0.
    """
    kind = str(plan.catalog.table["source_type"][row])
    return _KINDS[kind](plan, row, radius if radius > 0 else None)


def _jacobian(plan: InjectionPlan, row: int) -> np.ndarray:
    sky = plan.exposure.sky
    if sky is None:
        raise MissingDataError(
            "A source with a shape in arcsec needs the exposure's sky map; give it one with "
            "exposure.with_(sky=...)."
        )
    return np.asarray(sky.jacobian(x=plan.x[row], y=plan.y[row]), np.float64).reshape(2, 2)


def _galaxy(plan: InjectionPlan, row: int, radius: float | None) -> UnitStamp:
    from pogson.inject.galaxies import BulgeDisc, Sersic, galaxy_half_size, render_galaxy

    table, jacobian = plan.catalog.table, _jacobian(plan, row)

    def sersic(prefix: str = "") -> Sersic:
        names = ("sersic_index", "half_light_radius", "axis_ratio", "position_angle")
        return Sersic(*(float(table[prefix + n][row]) for n in names))

    profile: Sersic | BulgeDisc
    if table["source_type"][row] == "sersic":
        profile = sersic()
    else:
        profile = BulgeDisc(sersic("bulge_"), sersic("disc_"), float(table["bulge_fraction"][row]))
    assert plan.psf is not None
    x, y = float(plan.x[row]), float(plan.y[row])
    half = galaxy_half_size(
        profile, plan.psf, x=x, y=y, accuracy=plan.accuracy, radius=radius, jacobian=jacobian,
        max_half_size=_LARGEST_GALAXY,
    )  # fmt: skip
    stamp = render_galaxy(profile, plan.psf, x=x, y=y, half_size=half, jacobian=jacobian)
    limited = half >= _LARGEST_GALAXY
    return stamp.image, stamp.box, InjectionFlag.STAMP_LIMITED if limited else _OK


def _trail(plan: InjectionPlan, row: int, radius: float | None) -> UnitStamp:
    from pogson.inject.stamps import stamp_half_size
    from pogson.inject.trails import render_trail

    seconds = plan.exposure.metadata.get("exposure_time")
    if seconds is None:
        return None, None, InjectionFlag.NO_EXPOSURE_TIME
    table, psf = plan.catalog.table, plan.psf
    assert psf is not None
    # arcsec on the sky to pixels at the middle of the trail
    path = np.array([float(table[n][row]) for n in ("rate_ra", "rate_dec")]) * float(seconds)
    dx, dy = np.linalg.solve(_jacobian(plan, row), path)
    x, y = float(plan.x[row]), float(plan.y[row])
    half = stamp_half_size(psf, x=[x], y=[y], accuracy=plan.accuracy, radius=radius)
    stamp = render_trail(psf, x=x, y=y, dx=float(dx), dy=float(dy), half_size=int(half[0]))
    return stamp.image, stamp.box, _OK


def _image(plan: InjectionPlan, row: int, radius: float | None) -> UnitStamp:
    table, bad = plan.catalog.table, (None, None, InjectionFlag.BAD_STAMP)
    if "stamp_reference" not in table.colnames:
        return bad
    try:
        holds = _stamp_reference(table["stamp_reference"][row])
        pixels = np.asarray(table["stamp"][row], np.float64)
    except (PogsonValueError, TypeError, ValueError):
        return bad
    if holds is None or (holds.kind != "total" and not holds.matches(plan.reference)):
        return bad
    if pixels.ndim != 2 or pixels.size == 0 or not np.isfinite(pixels).all():
        return bad
    total = pixels.sum()
    if not (np.isfinite(total) and total > 0):
        return bad
    return (*shifted_image(pixels / total, x=float(plan.x[row]), y=float(plan.y[row])), _OK)


def _stamp_reference(value: Any) -> FluxReference | None:
    """Return what a stamp's pixels add up to, or None where it is not said."""
    if value is None or isinstance(value, FluxReference):
        return value
    if isinstance(value, Mapping):
        return FluxReference.from_dict(dict(value))
    return FluxReference.total() if str(value).strip().lower() == "total" else None


def shifted_image(image: np.ndarray, *, x: float, y: float) -> tuple[np.ndarray, Box]:
    """Put the middle of an image at a position, keeping its sum.

    Parameters
    ----------
    image : numpy.ndarray, shape (ny, nx)
        Pixel values; the middle is ``((nx - 1) / 2, (ny - 1) / 2)``.
    x, y : float
        Position in pixels (0-based, pixel centres on integers).

    Returns
    -------
    image : numpy.ndarray
        Resampled by a Lanczos kernel of order 5, each shift's weights normalised to 1; unchanged
        for a shift by whole pixels.
    box : Box
        Where it lies.

    Examples
    --------
    >>> moved, box = shifted_image(np.ones((3, 3)), x=10.25, y=20.0)
    >>> box, round(float(moved.sum()), 12)
    (Box(x_min=5, y_min=19, nx=12, ny=3), 9.0)
    """
    ny, nx = image.shape
    x0, y0 = x - 0.5 * (nx - 1), y - 0.5 * (ny - 1)
    i0, j0 = int(np.floor(x0)), int(np.floor(y0))
    out = np.asarray(image, np.float64)
    starts = []
    for axis, start, first in ((1, x0, i0), (0, y0, j0)):
        fraction = start - first
        if fraction < 1e-9 or fraction > 1 - 1e-9:
            starts.append(first + (1 if fraction > 0.5 else 0))
            continue
        offsets = np.arange(-_LANCZOS + 1, _LANCZOS + 1)
        distance = offsets - fraction
        weights = np.sinc(distance) * np.sinc(distance / _LANCZOS)
        weights /= weights.sum()
        out = np.apply_along_axis(np.convolve, axis, out, weights)
        starts.append(first + int(offsets[0]))
    return out, Box(starts[0], starts[1], out.shape[1], out.shape[0])


def _galsim(plan: InjectionPlan, row: int, radius: float | None) -> UnitStamp:
    try:
        import galsim
    except ImportError:
        raise MissingDataError(
            "Sources of type 'galsim' need the GalSim package: pip install 'pogson[galsim]'."
        ) from None

    profile = plan.catalog.table["galsim"][row]
    if not isinstance(profile, galsim.GSObject):
        return None, None, InjectionFlag.BAD_STAMP
    from pogson.inject.stamps import stamp_half_size

    psf, jacobian = plan.psf, _jacobian(plan, row)
    assert psf is not None
    x, y = float(plan.x[row]), float(plan.y[row])
    cx, cy = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
    wcs = galsim.JacobianWCS(*jacobian.ravel().tolist())
    reach = stamp_half_size(psf, x=[x], y=[y], accuracy=plan.accuracy, radius=radius)
    kernel = psf.draw(x=float(cx), y=float(cy), half_size=int(reach[0])).image
    star = galsim.InterpolatedImage(
        galsim.Image(np.ascontiguousarray(kernel), wcs=wcs), x_interpolant="lanczos15",
        normalization="flux",
    )  # fmt: skip
    object_ = galsim.Convolve(profile.withFlux(1.0), star)
    scale = float(np.sqrt(abs(np.linalg.det(jacobian))))
    half = int(np.clip(object_.getGoodImageSize(scale) // 2 + 1, reach[0], _LARGEST_GALAXY))
    if radius is not None:
        half = int(min(half, np.ceil(radius) + 2))
    side = 2 * half + 1
    try:
        drawn = object_.drawImage(
            nx=side, ny=side, wcs=wcs, method="no_pixel", offset=(x - cx, y - cy),
            dtype=np.float64,
        )  # fmt: skip
    except galsim.GalSimError:
        return None, None, InjectionFlag.RENDER_FAILED
    return drawn.array, Box(cx - half, cy - half, side, side), _OK


_KINDS: dict[str, Callable[[Any, int, float | None], UnitStamp]] = {
    "sersic": _galaxy,
    "bulge_disc": _galaxy,
    "trail": _trail,
    "stamp": _image,
    "galsim": _galsim,
}
