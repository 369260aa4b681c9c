"""What one visit was like: pointing, seeing, transparency, sky; drawn from keyed streams."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.fields import Box, ChebyshevField
from pogson.simulate.camera import focal_plane_field
from pogson.simulate.model import BandModel, CameraModel, SurveyModel
from pogson.streams import stream
from pogson.units import NJY_AB_MAGNITUDE

if TYPE_CHECKING:
    from pogson.psf import MoffatPSF

__all__ = ["Visit", "draw_visit", "visit_psf", "visit_sky"]

# Stars this far outside a detector still put light on it; the PSF is defined there too.
PSF_MARGIN = 160


@dataclass(frozen=True)
class Visit:
    """Conditions of one visit (exposure), all of them truth.

    Parameters
    ----------
    index : int
        From 0.
    exposure_id : int
        Number in the file names and headers.
    band : BandModel
        Band.
    ra, dec, rotation : float
        Pointing and camera angle, degrees.
    scale : float
        Relative plate scale.
    mjd, airmass, exposure_time : float
        As in the headers; seconds.
    cloud : float
        Grey loss in magnitudes beyond the extinction.
    fwhm, beta : float
        Moffat parameters on the axis, pixels.
    shape : tuple of float
        Coefficients of the PSF's change over the focal plane.
    sky : tuple of float
        Coefficients of the sky's structure.

    Examples
    --------
    >>> visit = draw_visit(SurveyModel(), 0, rng_seed=1)
    >>> visit.band.name, visit.exposure_id
    ('g', 1001)
    """

    index: int
    exposure_id: int
    band: BandModel
    ra: float
    dec: float
    rotation: float
    scale: float
    mjd: float
    airmass: float
    exposure_time: float
    cloud: float
    fwhm: float
    beta: float
    shape: tuple[float, ...]
    sky: tuple[float, ...]

    @property
    def electrons_per_njy(self) -> float:
        """Electrons that 1 nJy above the atmosphere leaves on the axis in this exposure."""
        rate = 10.0 ** (0.4 * (self.band.zero_point - NJY_AB_MAGNITUDE))
        return float(rate * self.exposure_time * 10.0 ** (-0.4 * self.extinction))

    @property
    def extinction(self) -> float:
        """Grey loss in the atmosphere in magnitudes: airmass times coefficient, and clouds."""
        return self.band.extinction * self.airmass + self.cloud

    def calibration(self, camera: CameraModel) -> float:
        """Flux per total count of a star in the flat-fielded fluence image, nJy/adu."""
        return camera.gain / self.electrons_per_njy

    def sky_level(self, camera: CameraModel) -> float:
        """Electrons of sky in a pixel of area A0 on the axis, before its structure."""
        # the sky brightness is what is seen from the ground: no extinction
        per_njy = self.electrons_per_njy * 10.0 ** (0.4 * self.extinction)
        njy = 10.0 ** (0.4 * (NJY_AB_MAGNITUDE - self.band.sky_magnitude))
        return float(njy * camera.reference_pixel_area * per_njy)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return asdict(self) | {"band": self.band.name}


def draw_visit(model: SurveyModel, index: int, *, rng_seed: int) -> Visit:
    """Draw the conditions of a visit from the stream of its own number.

    Parameters
    ----------
    model : SurveyModel
        The survey.
    index : int
        Visit, from 0.
    rng_seed : int
        Seed of the simulation.

    Examples
    --------
    >>> from pogson.simulate import demo_model
    >>> visit = draw_visit(demo_model(), 0, rng_seed=1)
    >>> visit.exposure_id, visit == draw_visit(demo_model(), 0, rng_seed=1)
    (1001, True)
    """
    rng = stream(rng_seed, "visit", index)
    band = model.band_of(index)
    # dithers on a golden-angle spiral cover the disc evenly for any number of visits
    turn = index * np.pi * (3.0 - np.sqrt(5.0))
    radius = model.dither * np.sqrt((index + 0.5) / model.n_visits)
    jitter = rng.normal(0.0, 1.0, 2)
    airmass = float(rng.uniform(*model.airmass))
    return Visit(
        index=index,
        exposure_id=1001 + index,
        band=band,
        ra=float(
            model.ra + (radius * np.cos(turn) + jitter[0]) / 3600.0 / np.cos(np.deg2rad(model.dec))
        ),
        dec=float(model.dec + (radius * np.sin(turn) + jitter[1]) / 3600.0),
        rotation=float(rng.normal(0.0, 0.15)),
        scale=float(1.0 + 1e-4 * rng.standard_normal()),
        mjd=float(60000.1 + 0.002 * index + 1e-5 * rng.random()),
        airmass=airmass,
        exposure_time=float(band.exposure_time + [0.0, 1.0, 2.5, 0.5, 1.5][index % 5]),
        cloud=float(model.cloud * rng.random() ** 2),
        fwhm=float(rng.uniform(*model.seeing)),
        beta=float(rng.uniform(*model.moffat_beta)),
        shape=tuple(float(s) for s in rng.uniform(-1.0, 1.0, 8)),
        sky=tuple(float(s) for s in rng.uniform(-1.0, 1.0, 6)),
    )


def visit_psf(model: SurveyModel, visit: Visit, index: int) -> MoffatPSF:
    """Return the true PSF of a detector in a visit.

    Width, wings and shape vary smoothly over the focal plane: a defocus that grows with the square
    of the radius, a tilt, and coma- and astigmatism-like ellipticity.

    Parameters
    ----------
    model : SurveyModel
        The survey.
    visit : Visit
        The visit.
    index : int
        Detector, from 0.

    Examples
    --------
    >>> from pogson.simulate import demo_model
    >>> model = demo_model(size=96)
    >>> visit = draw_visit(model, 0, rng_seed=1)
    >>> width = visit_psf(model, visit, 0).fwhm(x=48.0, y=48.0)
    >>> 0.9 < float(width) / visit.fwhm < 1.2
    True
    """
    from pogson.psf import MoffatPSF

    s, limit = visit.shape, model.ellipticity / np.sqrt(2.0)
    camera = model.camera

    def width(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        growth = 1 + (0.05 + 0.02 * s[0]) * (u**2 + v**2) + 0.02 * (s[1] * u + s[2] * v)
        return visit.fwhm * growth

    def wings(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return visit.beta * (1 + 0.04 * (s[3] * u + s[4] * v))

    def plus(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return limit * (0.5 * s[5] + 0.5 * (u**2 - v**2))

    def cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return limit * (0.5 * s[6] + u * v + 0.3 * s[7] * u)

    fields = [_with_margin(camera, index, f) for f in (width, wings, plus, cross)]
    return MoffatPSF(fields[0], fields[1], e1=fields[2], e2=fields[3])


def _with_margin(camera: CameraModel, index: int, function: Any) -> ChebyshevField:
    """Return a quadratic of focal-plane position, defined also beyond the detector's border."""
    inner = focal_plane_field(camera, index, function, order=2)
    box = Box(-PSF_MARGIN, -PSF_MARGIN, camera.nx + 2 * PSF_MARGIN, camera.ny + 2 * PSF_MARGIN)
    return ChebyshevField(
        box, inner.coefficients, unit=inner.unit, domain=inner.domain, total=inner.total
    )


def visit_sky(model: SurveyModel, visit: Visit, index: int) -> np.ndarray:
    """Sky surface brightness in electrons per pixel of area A0, shape (ny, nx).

    A level, a gradient, the glow of a moon off one side, and a fringe-like ripple.

    Parameters
    ----------
    model, visit, index
        As for `visit_psf`.

    Examples
    --------
    >>> from pogson.simulate import demo_model
    >>> model = demo_model(size=96)
    >>> visit_sky(model, draw_visit(model, 0, rng_seed=1), 0).shape
    (96, 96)
    """
    camera, s = model.camera, visit.sky
    u, v = camera.focal_plane(
        index, x=camera.box.x_pixels()[None, :], y=camera.box.y_pixels()[:, None]
    )
    angle = np.pi * s[0]
    gradient = model.sky_gradient * (np.cos(angle) * u + np.sin(angle) * v)
    moon_u, moon_v = 1.3 * np.cos(np.pi * s[1]), 1.3 * np.sin(np.pi * s[1])
    distance2 = (u - moon_u) ** 2 + (v - moon_v) ** 2
    moon = model.moon_glow * (0.5 + 0.5 * abs(s[2])) * np.exp(-distance2 / (2 * 0.8**2))
    # wavelength 400 pixels, bent by the radius as thickness fringes are
    k = 2 * np.pi * camera.corner / 400.0
    phase = k * (u * np.cos(0.7) + v * np.sin(0.7) + 0.3 * (u**2 + v**2)) + np.pi * s[3]
    ripple = visit.band.fringing * np.sin(phase)
    return np.asarray(visit.sky_level(camera) * (1.0 + gradient + moon + ripple))
