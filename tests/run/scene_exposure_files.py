"""Whole exposures with a galaxy and a source, written as pogson's own files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pogson import Exposure, FitsSkyMap, FluxReference, GaussianPSF, PhotoCalib
from pogson.formats import write_exposure
from pogson.scene import offset_position

RATE = 40.0  # arcsec a day
NOISE = 5.0


def where(time: float, *, moving: bool) -> tuple[float, float]:
    """Return where the source is at a time (MJD)."""
    if not moving:
        return 150.0, 2.0
    ra, dec = offset_position(150.0, 2.0, RATE * (time - 60000.0), 0.0)
    return float(ra), float(dec)


def write_exposures(
    folder: Path, rng: np.random.Generator, *, times: list[float], moving: bool, flux: float = 900.0
) -> None:
    """Write one exposure for each time (middle of the exposure), in counts of 2 nJy."""
    for number, time in enumerate(times):
        sky = FitsSkyMap.tan(
            150.0, 2.0, x=75 + rng.uniform(-9, 9), y=75 + rng.uniform(-9, 9), scale_arcsec=0.26
        )
        psf = GaussianPSF(fwhm=rng.uniform(3.2, 4.4))
        image = rng.normal(20.0, NOISE, (151, 151))
        galaxy = GaussianPSF(fwhm=float(np.hypot(psf.fwhm(x=0, y=0), 4.0)))
        at = offset_position(150.0, 2.0, 1.0, -0.6)
        for model, (ra, dec), light in (
            (galaxy, at, 4000.0),
            (psf, where(time, moving=moving), flux),
        ):
            x, y = sky.pixel(ra, dec)
            if not (0 < x < 150 and 0 < y < 150):
                continue
            stamp = model.draw(x=x, y=y, half_size=160)
            rows = slice(-stamp.box.y_min, 151 - stamp.box.y_min)
            columns = slice(-stamp.box.x_min, 151 - stamp.box.x_min)
            image += 0.5 * light * stamp.image[rows, columns]
        exposure = Exposure(
            image,
            variance=np.full(image.shape, NOISE**2),
            unit="adu",
            measure="fluence",
            sky=sky,
            psf=psf,
            exposure_id=f"e{number}",
            detector="1",
            bandpass="r",
            photo_calib=PhotoCalib.constant(2.0, unit="nJy/adu", reference=FluxReference.total()),
            metadata={"mjd": time - 50.0 / 86400.0, "exposure_time": 100.0},
        ).with_area_ratio()
        write_exposure(folder / f"e{number}.fits", exposure)
