"""Calibrated spectra in FITS: units that parse, stars that come back, nothing half-written."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits

from pogson.errors import FileFormatError, PogsonValueError
from pogson.formats import write_calibrated_spectra
from pogson.spectro import CalibrationVector, PixelMask

LAM = np.linspace(5000.0, 5090.0, 10)
STARS = [
    {
        "name": "HD 1",
        "fibre": 3,
        "used": True,
        "teff": 6250.0,
        "rv_kms": -31.5,
        "scale": 1.2e-3,
        "template": "am05",
    },
    {
        "name": "HD 2",
        "fibre": 9,
        "used": False,
        "teff": 9999.0,
        "rv_kms": 0.0,
        "scale": 0.1,
        "template": "",
    },
]


def write(path, **changes):
    flux = np.full((2, 10), 3e-17)
    ivar = np.full((2, 10), 1e35)
    ivar[0, 4] = 0.0
    flux[1, 2] = np.nan
    mask = np.zeros((2, 10), np.uint32)
    mask[0, 4] = PixelMask.TELLURIC
    given = {
        "fibre_ids": [3, 9],
        "names": ["HD 1", "galaxy"],
        "stars": STARS,
        "calibration": CalibrationVector(LAM, np.full(10, 1e-19), np.full(10, 1e-42)),
        "components": {"scale": np.full(10, 0.01)},
        "keywords": {"FCALRMS": np.nan, "OBSERVER": "me"},
        "history": ["made in a test"],
    }
    return write_calibrated_spectra(path, LAM, flux, ivar, mask, **(given | changes))


def test_the_unit_parses_as_flux_density(tmp_path):
    header = fits.getheader(write(tmp_path / "a.fits"))
    unit = u.Unit(header["BUNIT"], format="fits")
    assert unit == u.erg / u.s / u.cm**2 / u.AA
    assert unit.is_equivalent(u.W / u.m**2 / u.AA)
    assert header["AIRORVAC"] == "vac"


def test_everything_comes_back(tmp_path):
    path = write(tmp_path / "a.fits")
    with fits.open(path, checksum=True) as hdus:
        assert [h.name for h in hdus] == [
            "FLUX",
            "IVAR",
            "MASK",
            "WAVELENGTH",
            "FIBRES",
            "STARS",
            "CALIBRATION",
        ]
        assert np.isnan(hdus["FLUX"].data[0, 4])
        assert np.isnan(hdus["FLUX"].data[1, 2])
        assert hdus["IVAR"].data[0, 4] == hdus["IVAR"].data[1, 2] == 0
        assert hdus["FLUX"].data[0, 0] == 3e-17
        assert hdus["IVAR"].data[0, 0] == 1e35
        assert hdus["MASK"].data[0, 4] == PixelMask.TELLURIC
        assert hdus["MASK"].header["BIT04"] == "TELLURIC"
        stars = hdus["STARS"].data
        for row, star in zip(stars, STARS, strict=True):
            assert {k: row[k.upper()] for k in star} == star
        assert hdus["CALIBRATION"].data["SCALE"].tolist() == [0.01] * 10
        unit = u.Unit(hdus["CALIBRATION"].header["TUNIT2"])
        assert unit.is_equivalent(u.erg / u.s / u.cm**2 / u.AA / u.ct)
        header = hdus[0].header
        assert (header["FLUXCAL"], header["FCALNSTR"], header["FCALNREJ"]) == (True, 1, 1)
        assert "FCALRMS" in header
        assert header["FCALRMS"] is None
        assert header["CREATOR"].startswith("pogson")
        assert header["VERNUMPY"] == np.__version__
        history = " ".join(header["HISTORY"])
        assert "made in a test" in history
        assert "HD 1" in history
        assert "rejected star" in history


def test_two_dimensional_wavelengths(tmp_path):
    grid = LAM + np.array([[0.0], [0.5]])
    path = write_calibrated_spectra(tmp_path / "b.fits", grid, np.ones((2, 10)), np.ones((2, 10)))
    assert fits.getdata(path, "WAVELENGTH").shape == (2, 10)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = write(tmp_path / "a.fits")
    before = path.read_bytes()
    for changes in (
        {"stars": [{"a": 1}, {"b": 1}]},
        {"components": {"x": np.ones(3)}},
        {"names": ["one"]},
        {"keywords": {"BAD": object()}},
    ):
        with pytest.raises(PogsonValueError):
            write(path, **changes)
        assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.fits"]
    with pytest.raises(PogsonValueError, match="Shapes differ"):
        write_calibrated_spectra(path, LAM, np.ones((2, 9)), np.ones((2, 9)))
    with pytest.raises(FileFormatError):
        write(tmp_path)
