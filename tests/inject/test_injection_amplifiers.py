"""Gains of amplifiers, from a file's header to the noise of a source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pogson.calib import FluxReference, PhotoCalib
from pogson.errors import PogsonValueError
from pogson.fields import Box
from pogson.formats import read_exposure
from pogson.inject import GainMap, inject
from pogson.psf import GaussianPSF

PRESET = """
name = "two-amplifiers"
based_on = "generic"
measure = "fluence"
[[amplifiers]]
gain = "GAINA"
section = "DATASECA"
[[amplifiers]]
gain = "GAINB"
section = "DATASECB"
"""


def write(folder: Path, section: str = "[1:50,1:80]") -> Path:
    from astropy.io import fits

    (folder / "two.toml").write_text(PRESET)
    hdu = fits.PrimaryHDU(np.zeros((80, 100), np.float32))
    hdu.header.update(BUNIT="adu", GAINA=1.0, DATASECA=section, GAINB=4.0, EXPTIME=10.0)
    hdu.header["DATASECB"] = "[51:100,1:80]"
    hdu.writeto(folder / "raw.fits", overwrite=True)
    return folder / "raw.fits"


def test_each_amplifier_has_its_own_noise(tmp_path: Path) -> None:
    exposure = read_exposure(write(tmp_path), instrument=str(tmp_path / "two.toml"))
    gains = GainMap.from_exposure(exposure)
    assert gains.at(Box(49, 0, 2, 1)).tolist() == [[1.0, 4.0]]
    calib = PhotoCalib.constant(2.0, reference=FluxReference.total())
    exposure = exposure.with_(
        psf=GaussianPSF(fwhm=3.0), photo_calib=calib, variance=np.ones(exposure.image.shape)
    )
    star = {"id": ["a", "b"], "x": [25.0, 75.0], "y": [40.0, 40.0], "flux": [1e4, 1e4]}
    result = inject(exposure, star, reference=FluxReference.total(), poisson=True)
    assert result.exposure.variance is not None
    left, right = (result.exposure.variance[:, s] - 1.0 for s in (slice(0, 50), slice(50, 100)))
    assert np.isclose(left.sum() / right.sum(), 4.0, rtol=1e-3)
    # in nJy the gains are electrons per nJy
    again = GainMap.from_exposure(exposure.calibrated())
    assert np.allclose(again.at(Box(49, 0, 2, 1)), [[0.5, 2.0]])


def test_a_section_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(PogsonValueError, match="DATASECA"):
        read_exposure(write(tmp_path, "[50:1,1:80]"), instrument=str(tmp_path / "two.toml"))
