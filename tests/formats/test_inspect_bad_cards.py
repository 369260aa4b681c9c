"""`inspect_file` on images whose header is wrong in places: it says so, and goes on."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from pogson.errors import PogsonError
from pogson.formats import inspect_file, read_exposure


def image(path, **cards):
    pixels = np.random.default_rng(1).normal(100.0, 5.0, (32, 32)).astype("f4")
    fits.PrimaryHDU(pixels, fits.Header(cards)).writeto(path)
    return path


@pytest.mark.parametrize("unit", ["furlongs", "mag", "Counts/sec", "unknown"])
def test_a_unit_that_is_none_is_called_unknown(tmp_path, unit):
    path = image(tmp_path / "a.fits", BUNIT=unit, GAIN=2.0)
    found = inspect_file(path)
    said = dict(found.facts)["unit"]
    assert said.startswith("unknown (")
    assert unit.lower() in said.lower()
    assert str(path) not in said
    assert found.data["unit"] is None
    assert found.data["unit_stated"] is False
    assert dict(found.facts)["background"]
    with pytest.raises(PogsonError, match="unit"):  # measuring on it is refused as before
        read_exposure(path, measure="fluence")


@pytest.mark.parametrize("gain", [-1.0, 0.0, "high"])
def test_a_gain_that_is_none_is_called_unknown(tmp_path, gain):
    path = image(tmp_path / "a.fits", BUNIT="adu", GAIN=gain, FILTER="r")
    facts = dict(inspect_file(path).facts)
    assert facts["gain"].startswith("unknown (GAIN")
    assert repr(gain) in facts["gain"]
    assert facts["unit"].startswith("adu")
    assert inspect_file(path).data["gain"] is None
    with pytest.raises(PogsonError, match="GAIN"):
        read_exposure(path, measure="fluence")
