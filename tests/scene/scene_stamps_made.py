"""Simulated stamps for the tests of scene fits: light drawn by the PSFs themselves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pogson.fields import Box
from pogson.psf import GaussianPSF
from pogson.scene import SceneExposure, offset_position
from pogson.sky import FitsSkyMap

RA, DEC = 150.0, 2.0


def star(exposure: SceneExposure, xi: float = 0.0, eta: float = 0.0) -> np.ndarray:
    """Draw a unit-flux star by the PSF itself."""
    ra, dec = offset_position(RA, DEC, xi, eta)
    x, y = (float(v) for v in exposure.sky.pixel(ra, dec))
    stamp = exposure.psf.draw(x=x, y=y, half_size=25)
    image = np.zeros(exposure.box.shape)
    part = stamp.box.intersection(exposure.box)
    image[part.slices(exposure.box)] = stamp.image[part.slices(stamp.box)]
    return image


def empty(rng: np.random.Generator, n: int = 4, size: int = 25, noise: float = 1.0):
    """Return exposures of nothing, at different places and seeings."""
    result = []
    for k in range(n):
        x, y = rng.uniform(100, 900, 2)
        sky = FitsSkyMap.tan(RA, DEC, x=x, y=y, scale_arcsec=0.25, rotation_deg=20.0 * k)
        box = Box(int(x) - size // 2, int(y) - size // 2, size, size)
        psf = GaussianPSF(fwhm=rng.uniform(3.2, 4.5), e1=0.05)
        variance = np.full(box.shape, noise**2)
        result.append(
            SceneExposure(np.zeros(box.shape), variance, box, sky, psf, exposure_id=str(k))
        )
    return result


def with_light(exposures, fluxes, places, rng=None):
    """Add point sources: ``fluxes[k][j]`` of source j in exposure k."""
    result = []
    for e, own in zip(exposures, fluxes, strict=True):
        image = sum((f * star(e, *p) for f, p in zip(own, places, strict=True)), e.image * 1.0)
        if rng is not None:
            image = image + rng.normal(size=image.shape) * np.sqrt(e.variance)
        result.append(replace(e, image=image))
    return result
