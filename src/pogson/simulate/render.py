r"""Pixels of one detector in one visit, from photons to a flat-fielded image.

With pixel area :math:`A`, reference area :math:`A_0`, illumination :math:`V` and PSF :math:`P`, the
electrons expected in a pixel are

.. math:: E = V \left(S\,A/A_0 + \sum_i F_i P_i\right)

where :math:`S` is the sky in electrons per reference pixel and :math:`F_i` the electrons of a
star. The detector counts a Poisson number of them and adds read noise. A flat field made on a
uniform sky is :math:`V A/A_0`; dividing by it leaves the sky flat, that is *surface brightness*, in
which a star is brighter where pixels are small:

.. math:: I = N / (g\,V\,A/A_0),\qquad I\,A/A_0 = N/(g V)\ \text{is fluence.}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pogson.simulate.camera import vignetting_field, wcs_header
from pogson.simulate.model import CameraModel, SurveyModel
from pogson.simulate.stars import StarCatalog
from pogson.simulate.visits import PSF_MARGIN, Visit, visit_psf, visit_sky
from pogson.sky import FitsSkyMap
from pogson.streams import stream

if TYPE_CHECKING:
    from astropy.io.fits import Header

    from pogson.psf import MoffatPSF

__all__ = ["MASK_VALUES", "DetectorImage", "render_detector"]

MASK_VALUES = {
    "BAD": 1,
    "SATURATED": 2,
    "COSMIC_RAY": 4,
    "BLEED": 8,
    "NO_DATA": 16,
    "EDGE": 32,
}
"""Bits of the mask files (the ``pogson-sim`` instrument preset)."""

_LOST = 1e-4
_CHUNK = 1_500_000  # stamp pixels drawn at a time


@dataclass(frozen=True, eq=False)
class DetectorImage:
    """One flat-fielded detector image with its truth.

    Parameters
    ----------
    image : numpy.ndarray of float32, shape (ny, nx)
        Surface brightness in adu; NaN where there are no data.
    weight : numpy.ndarray of float32
        Inverse variance, 1/adu2; 0 where there are no data.
    mask : numpy.ndarray of uint8
        Bits of `MASK_VALUES`.
    expected : numpy.ndarray of float64
        The image without noise and defects, adu.
    header : astropy.io.fits.Header
        WCS cards.
    flat : numpy.ndarray of float64
        V A / A0.
    sky_adu : float
        Mean of the sky in adu.
    psf : MoffatPSF
        The true PSF.
    star_id, x, y : numpy.ndarray
        Stars that leave light on the detector: id and position in pixels.
    truncated : numpy.ndarray
        Fraction of each star's light beyond its stamp, below 1e-4.

    Examples
    --------
    >>> from pogson.simulate import demo_model, draw_stars, draw_visit, field_half_width
    >>> model = demo_model(size=96)
    >>> stars = draw_stars(model, field_half_width(model), rng_seed=1)
    >>> made = render_detector(model, draw_visit(model, 0, rng_seed=1), 0, stars, rng_seed=1)
    >>> made.image.shape, made.image.dtype.name, made.flat.min() > 0
    ((96, 96), 'float32', np.True_)
    """

    image: np.ndarray
    weight: np.ndarray
    mask: np.ndarray
    expected: np.ndarray
    header: Header
    flat: np.ndarray
    sky_adu: float
    psf: MoffatPSF
    star_id: np.ndarray
    x: np.ndarray
    y: np.ndarray
    truncated: np.ndarray


def render_detector(
    model: SurveyModel,
    visit: Visit,
    index: int,
    stars: StarCatalog,
    *,
    rng_seed: int,
    noise: bool = True,
    defects: bool = True,
) -> DetectorImage:
    """Simulate one detector in one visit.

    Parameters
    ----------
    model : SurveyModel
        The survey.
    visit : Visit
        Conditions, from `draw_visit`.
    index : int
        Detector, from 0.
    stars : StarCatalog
        True stars, in any order: the result does not depend on it.
    rng_seed : int
        Seed of the simulation; noise comes from a stream of this visit and detector.
    noise : bool, optional
        Whether to add photon and read noise.
    defects : bool, optional
        Whether to add bad columns, cosmic rays, saturation and masked edges.

    Returns
    -------
    DetectorImage

    Examples
    --------
    >>> from pogson.simulate import demo_model, draw_stars, draw_visit
    >>> model = demo_model(size=128)
    >>> stars = draw_stars(model, 60.0, rng_seed=1)
    >>> visit = draw_visit(model, 0, rng_seed=1)
    >>> result = render_detector(model, visit, 0, stars, rng_seed=1)
    >>> result.image.shape, result.image.dtype
    ((128, 128), dtype('float32'))
    """
    camera = model.camera
    header = wcs_header(
        camera, index, ra=visit.ra, dec=visit.dec, rotation=visit.rotation, scale=visit.scale
    )
    sky_map = FitsSkyMap.from_header(header)
    light = vignetting_field(camera, index).render()
    area = sky_map.pixel_area_field(camera.box).relative_to(camera.reference_pixel_area).render()
    flat = light * area
    psf = visit_psf(model, visit, index)
    sky = visit_sky(model, visit, index)
    stars = stars.sorted()
    x, y = sky_map.pixel(stars.ra, stars.dec)
    half, lost = _stamp_size(psf, camera)
    near = _near(camera, x, y, half)
    stars, x, y = stars.take(near), x[near], y[near]
    starlight = np.zeros(camera.box.shape)
    _add_stars(starlight, psf, x, y, stars.flux(visit.band.name) * visit.electrons_per_njy, half)
    electrons = sky * flat + starlight * light
    expected = electrons / (camera.gain * flat)
    counted = electrons.copy()
    mask = np.zeros(camera.box.shape, np.uint8)
    if noise:
        rng = stream(rng_seed, "noise", visit.exposure_id, index)
        counted = rng.poisson(electrons).astype(np.float64)
        counted += camera.read_noise * rng.standard_normal(camera.box.shape)
    if defects:
        _defects(model, visit, index, counted, mask, rng_seed)
    source = electrons if model.variance == "expected" else np.maximum(counted, 0.0)
    weight = (camera.gain * flat) ** 2 / (source + camera.read_noise**2)
    image = counted / (camera.gain * flat)
    missing = (mask & MASK_VALUES["NO_DATA"]) > 0
    image[missing] = np.nan
    weight[missing | ((mask & MASK_VALUES["BAD"]) > 0)] = 0.0
    return DetectorImage(
        image=image.astype(np.float32),
        weight=weight.astype(np.float32),
        mask=mask,
        expected=expected,
        header=header,
        flat=flat,
        sky_adu=float(sky.mean() / camera.gain),
        psf=psf,
        star_id=stars.id,
        x=x,
        y=y,
        truncated=np.full(x.size, lost),
    )


def _stamp_size(psf: MoffatPSF, camera: CameraModel) -> tuple[int, float]:
    """Half-size of stamps that miss at most 1e-4 of the light anywhere, and what they miss there.

    A square stamp holds at least the inscribed circle, beyond which a Moffat profile has
    (1 + R^2/alpha^2)^(1 - beta) of its light (Moffat 1969).
    """
    from pogson.psf import moffat_enclosed_energy

    x, y = (a.ravel() for a in np.meshgrid([0, camera.nx - 1], [0, camera.ny - 1]))
    fwhm = psf.parameter("fwhm", x=x, y=y)
    beta = psf.parameter("beta", x=x, y=y)
    stretch = 1.0 + np.hypot(psf.parameter("e1", x=x, y=y), psf.parameter("e2", x=x, y=y)).max()
    for half in range(8, PSF_MARGIN):
        lost = 1.0 - np.min(moffat_enclosed_energy(half / stretch, fwhm=fwhm, beta=beta))
        if lost <= _LOST:
            break
    return half, float(lost)


def _near(camera: CameraModel, x: np.ndarray, y: np.ndarray, half: int) -> np.ndarray:
    """Return the indices of stars whose stamps reach the detector."""
    reach = min(half, PSF_MARGIN - 1)
    with np.errstate(invalid="ignore"):
        inside = (
            (x > -reach) & (x < camera.nx - 1 + reach) & (y > -reach) & (y < camera.ny - 1 + reach)
        )
    return np.flatnonzero(inside)


def _add_stars(
    image: np.ndarray, psf: MoffatPSF, x: np.ndarray, y: np.ndarray, flux: np.ndarray, half: int
) -> None:
    """Add unit-flux stamps times flux, in the order given, clipped at the borders."""
    ny, nx = image.shape
    side = 2 * half + 1
    step = max(1, _CHUNK // side**2)
    for start in range(0, x.size, step):
        part = slice(start, start + step)
        stamps, x_min, y_min = psf.draw_many(x=x[part], y=y[part], half_size=half)
        for stamp, x0, y0, f in zip(stamps, x_min, y_min, flux[part], strict=True):
            i0, i1 = max(x0, 0), min(x0 + side, nx)
            j0, j1 = max(y0, 0), min(y0 + side, ny)
            if i0 < i1 and j0 < j1:
                image[j0:j1, i0:i1] += f * stamp[j0 - y0 : j1 - y0, i0 - x0 : i1 - x0]


def _defects(
    model: SurveyModel,
    visit: Visit,
    index: int,
    counted: np.ndarray,
    mask: np.ndarray,
    rng_seed: int,
) -> None:
    """Add cosmic rays, saturation with bleeding, bad columns, a dead block and edges, in place."""
    camera = model.camera
    _cosmic_rays(
        counted, mask, model.cosmic_rays, stream(rng_seed, "cosmic", visit.exposure_id, index)
    )
    _saturate(counted, mask, camera.full_well)
    fixed = stream(rng_seed, "detector", index)
    columns = fixed.choice(camera.nx, size=min(camera.bad_columns, camera.nx), replace=False)
    for column in columns:
        counted[:, column] = counted[:, column] * 0.3 + 500.0
        mask[:, column] |= MASK_VALUES["BAD"]
    if camera.bad_columns:
        j, i = (int(fixed.integers(0, n - 24)) for n in counted.shape)
        mask[j : j + 12, i : i + 20] |= MASK_VALUES["NO_DATA"]
    if camera.edge:
        edge = np.ones(mask.shape, bool)
        edge[camera.edge : -camera.edge, camera.edge : -camera.edge] = False
        mask[edge] |= MASK_VALUES["EDGE"]


def _cosmic_rays(
    counted: np.ndarray, mask: np.ndarray, mean: int, rng: np.random.Generator
) -> None:
    """Add straight tracks and mask them with one pixel around."""
    from scipy.ndimage import binary_dilation

    ny, nx = counted.shape
    hit = np.zeros(mask.shape, bool)
    for _ in range(int(rng.poisson(mean))):
        x, y, angle = rng.uniform(0, nx), rng.uniform(0, ny), rng.uniform(0, 2 * np.pi)
        length = rng.uniform(2, 30)
        t = np.arange(0.0, length, 0.5)
        i = np.rint(x + t * np.cos(angle)).astype(int)
        j = np.rint(y + t * np.sin(angle)).astype(int)
        on = (i >= 0) & (i < nx) & (j >= 0) & (j < ny)
        charge = rng.uniform(500, 8000) * rng.uniform(0.5, 1.5, t.size)
        counted[j[on], i[on]] += charge[on]
        hit[j[on], i[on]] = True
    mask[binary_dilation(hit, np.ones((3, 3), bool))] |= MASK_VALUES["COSMIC_RAY"]


def _saturate(counted: np.ndarray, mask: np.ndarray, full_well: float) -> None:
    """Clip at the full well; the charge above it bleeds along the column."""
    full = counted >= full_well
    for column in np.flatnonzero(full.any(axis=0)):
        rows = np.flatnonzero(full[:, column])
        for run in np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1):
            spilled = float(np.sum(counted[run, column] - full_well))
            reach = int(np.ceil(0.5 * spilled / full_well))
            j0, j1 = max(run[0] - reach, 0), min(run[-1] + reach + 1, counted.shape[0])
            counted[j0:j1, column] = full_well
            mask[j0:j1, column] |= MASK_VALUES["BLEED"]
            mask[run, column] |= MASK_VALUES["SATURATED"]
