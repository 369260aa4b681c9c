"""A camera of 4-pixel seeing whose PSF, calibration and pixel area vary over the field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pogson.calib import FluxReference, PhotoCalib
from pogson.fields import Box, ChebyshevField
from pogson.images import Exposure
from pogson.psf import MoffatPSF
from pogson.sky import FitsSkyMap

SIDE = 700


def varying_psf(box: Box) -> MoffatPSF:
    """FWHM 3.0 to 4.3 px and beta 2.65 to 3.35, as in the notes on established injectors."""
    fwhm = ChebyshevField(box, [[3.65, 0.4], [0.25, 0.0]])
    beta = ChebyshevField(box, [[3.0, -0.2], [0.15, 0.0]])
    return MoffatPSF(fwhm=fwhm, beta=beta, box=box)


@pytest.fixture(scope="session")
def make_exposure() -> Callable[..., Exposure]:
    """Return a function that makes exposures: empty unless changed."""

    def make(shape: tuple[int, int] = (SIDE, SIDE), **changes: Any) -> Exposure:
        box = Box.from_shape(shape)
        values: dict[str, Any] = {
            "unit": "adu",
            "measure": "fluence",
            "psf": varying_psf(box),
            "sky": FitsSkyMap.tan(150.0, 2.0, x=shape[1] / 2, y=shape[0] / 2, scale_arcsec=0.2),
            "photo_calib": PhotoCalib(
                ChebyshevField(box, [[2.0, 0.02], [-0.03, 0.0]], "nJy / adu"),
                measure="fluence",
                reference=FluxReference.total(),
            ),
            "exposure_id": "visit1",
            "detector": "3",
            "metadata": {"gain": 1.6, "exposure_time": 30.0},
        }
        values.update(changes)
        image = values.pop("image", np.zeros(shape, np.float32))
        return Exposure(image, **values)

    return make


@pytest.fixture(scope="session")
def star_grid() -> Callable[..., dict[str, np.ndarray]]:
    """Return a function that lists isolated stars at all sub-pixel phases."""

    def make(spacing: float = 40.3, side: int = SIDE, margin: float = 30.0) -> dict[str, Any]:
        edge = np.arange(margin, side - margin, spacing)
        x, y = (v.ravel() for v in np.meshgrid(edge, edge))
        rng = np.random.default_rng(8)
        x, y = x + rng.uniform(-0.5, 0.5, x.size), y + rng.uniform(-0.5, 0.5, x.size)
        ids = [f"s{k:05d}" for k in range(x.size)]
        return {"id": ids, "x": x, "y": y, "flux": 10 ** rng.uniform(4.0, 6.0, x.size)}

    return make
