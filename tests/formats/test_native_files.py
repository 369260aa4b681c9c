"""pogson's own exposure files: exact round trip, other readers, damage, fuzz."""

from __future__ import annotations

import contextlib
import json
import os

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st

from pogson.atomic import atomic_path
from pogson.calib import FluxReference, PhotoCalib
from pogson.errors import FileFormatError, MissingDataError, PogsonError, PogsonValueError
from pogson.fields import Box, ChebyshevField
from pogson.formats import read_exposure, sniff_instrument, write_exposure
from pogson.formats.native import SCHEMA_VERSION, read_native_description
from pogson.images import Exposure, MaskBits, estimate_background
from pogson.psf import GaussianPSF
from pogson.sky import FitsSkyMap

BOX = Box(7, -3, 40, 32)


def full_exposure(rng, measure="surface_brightness"):
    image = rng.normal(200.0, 10.0, BOX.shape).astype(np.float32)
    image[3, 4] = np.nan
    mask = rng.integers(0, 4, BOX.shape).astype(np.uint32)
    mask[0, 0] |= np.uint32(1 << 31)
    bits = MaskBits({"NO_DATA": 3, "BAD": 0, "SATURATED": 1, "GHOST": 31}, {"GHOST": "a ghost"})
    sky = FitsSkyMap.tan(150.0, 2.0, x=20.0, y=10.0, scale_arcsec=0.2, rotation_deg=30.0)
    x, y = rng.uniform(8, 46, 50), rng.uniform(-2, 28, 50)
    field = ChebyshevField.fit(BOX, x, y, 0.5 + 1e-3 * x - 2e-3 * y, order=2, unit="nJy/adu")
    reference = FluxReference.aperture(12.0)
    calib = PhotoCalib(field, measure=measure, reference=reference, bandpass="decam2014-r")
    return Exposure(
        image=image, variance=rng.uniform(1, 2, BOX.shape), mask=mask, mask_bits=bits, box=BOX,
        unit="adu", measure=measure, sky=sky, psf=GaussianPSF(3.3), photo_calib=calib,
        bandpass="decam2014-r", flattening_sed="G2V", exposure_id="e1", detector="N4",
        metadata={"gain": 2.0, "exposure_time": 30.0, "note": "caf\u00e9", "list": [1, 2.5, None],
                  "bad": float("inf"), "deep": {"a": True}},
    ).with_area_ratio(0.0400001)  # fmt: skip


def test_round_trip_is_exact(tmp_path, rng):
    e = full_exposure(rng)
    for name in ("a.fits", "b.fits.gz"):
        path = write_exposure(tmp_path / name, e)
        assert sniff_instrument(path) == "native"
        back = read_exposure(path)
        assert back == e
        assert back.image.tobytes() == e.image.tobytes()
        assert back.mask_bits.doc("GHOST") == "a ghost"
        assert back.metadata["bad"] == np.inf
        assert not back.image.flags.writeable
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.fits", "b.fits.gz"]


def test_round_trip_with_background(tmp_path, rng):
    image = rng.normal(500.0, 5.0, (200, 220)).astype(np.float32)
    e = Exposure(image=image, unit="adu", measure="surface_brightness")
    e = e.with_background(estimate_background(e, mesh=50))
    back = read_exposure(write_exposure(tmp_path / "a.fits", e))
    assert back == e
    subtracted = e.subtract_background()
    assert read_exposure(write_exposure(tmp_path / "b.fits", subtracted)) == subtracted


def test_minimal_exposure(tmp_path):
    e = Exposure(image=np.zeros((2, 3)), unit="electron / s", measure="fluence")
    back = read_exposure(write_exposure(tmp_path / "a.fits", e))
    assert back == e
    assert (back.variance, back.mask, back.sky) == (None, None, None)


def test_other_software_understands_it(tmp_path, rng):
    e = full_exposure(rng)
    path = write_exposure(tmp_path / "a.fits", e)
    with fits.open(path, checksum=True) as hdus:
        header = hdus["SCI"].header
        np.testing.assert_array_equal(hdus["SCI"].data, e.image)
        assert u.Unit(header["BUNIT"]) == u.adu
        assert header["MEASURE"] == "surface_brightness"
        assert header["PHOTSYS"] == "AB"
        # MAGZERO is of the area mean over the image, and says what it includes
        expected = 31.4 - 2.5 * np.log10(e.photo_calib.field.with_box(BOX).mean())
        assert header["MAGZERO"] == pytest.approx(expected, abs=1e-9)
        assert header["MAGZVARY"]
        assert header["MAGZTIME"] == "exposure"
        assert "EXPTIME included" in header["MAGZCONV"]
        ra, dec = WCS(header).all_pix2world(10.0, 5.0, 0)
        assert hdus["MASK"].header["MP_BAD"] == 0
        json.loads(bytes(hdus["POGSON"].data["JSON"][0]))
    want = e.sky.sky(x=10.0 + BOX.x_min, y=5.0 + BOX.y_min)
    np.testing.assert_allclose((ra, dec), want, atol=1e-10)


def test_calibrated_image_has_the_nanojansky_zero_point(tmp_path, rng):
    e = full_exposure(rng).calibrated()
    with fits.open(write_exposure(tmp_path / "a.fits", e)) as hdus:
        assert hdus["SCI"].header["BUNIT"] == "nJy"
        assert hdus["SCI"].header["MAGZERO"] == pytest.approx(31.4)


def test_newer_schema_and_damage_are_refused(tmp_path, rng):
    path = write_exposure(tmp_path / "a.fits", full_exposure(rng))
    assert read_native_description(path)["version"] == SCHEMA_VERSION
    raw = path.read_bytes()
    newer = raw.replace(b'"version": 1, "sky"', b'"version": 9, "sky"')
    assert newer != raw
    path.write_bytes(newer)
    with pytest.raises(FileFormatError, match="DATASUM"):
        read_exposure(path)
    with fits.open(path) as hdus:
        hdus["POGSON"].add_datasum()
        hdus.writeto(path, overwrite=True, checksum=True)
    with pytest.raises(FileFormatError, match=r"version 9.*Upgrade"):
        read_exposure(path)
    with fits.open(write_exposure(tmp_path / "b.fits", full_exposure(rng))) as hdus:
        where = hdus["SCI"].fileinfo()["datLoc"]
    damaged = bytearray((tmp_path / "b.fits").read_bytes())
    damaged[where + 50] ^= 0x10
    (tmp_path / "b.fits").write_bytes(bytes(damaged))
    with pytest.raises(FileFormatError, match="SCI do not agree with its DATASUM"):
        read_exposure(tmp_path / "b.fits")


def test_missing_planes(tmp_path, rng):
    path = write_exposure(tmp_path / "a.fits", full_exposure(rng))
    with fits.open(path) as hdus:
        del hdus["VARIANCE"]
        hdus.writeto(tmp_path / "b.fits")
    with pytest.raises(MissingDataError, match="no extension VARIANCE"):
        read_exposure(tmp_path / "b.fits")


def test_metadata_that_cannot_be_kept(tmp_path):
    e = Exposure(image=np.zeros((2, 3)), unit="adu", measure="fluence", metadata={"x": object()})
    with pytest.raises(PogsonValueError, match=r"metadata\['x'\]"):
        write_exposure(tmp_path / "a.fits", e)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(PogsonValueError, match=r"\.fits"):
        write_exposure(tmp_path / "a.png", e)


def test_atomic_path_keeps_the_old_file(tmp_path):
    target = tmp_path / "deep" / "a.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("old")
    with pytest.raises(RuntimeError, match="stop"):
        _write_half(target)
    assert target.read_text() == "old"
    assert [p.name for p in target.parent.iterdir()] == ["a.txt"]
    with pytest.raises(FileFormatError, match="Nothing was written"), atomic_path(target):
        pass
    with pytest.raises(FileFormatError, match="folder"), atomic_path(tmp_path):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(FileFormatError, match="Cannot make"), atomic_path(tmp_path / "file" / "x"):
        pass


def _write_half(target):
    with atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError("stop")


@settings(max_examples=20)
@given(
    ny=st.integers(1, 9),
    nx=st.integers(1, 9),
    x0=st.integers(-1000, 1000),
    bits=st.integers(0, 2**32 - 1),
    text=st.text(max_size=20),
    number=st.floats(allow_nan=False),
)
def test_round_trip_of_any_exposure(tmp_path_factory, ny, nx, x0, bits, text, number):
    image = np.arange(nx * ny, dtype=np.float32).reshape(ny, nx)
    e = Exposure(
        image=image, unit="adu", measure="fluence", box=Box(x0, 5, nx, ny),
        mask=np.full((ny, nx), bits & ~1, np.uint32), exposure_id=text,
        metadata={"text": text, "number": number},
    )  # fmt: skip
    path = tmp_path_factory.mktemp("native") / "a.fits"
    assert read_exposure(write_exposure(path, e)) == e


@pytest.fixture(scope="module")
def native_bytes(tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz") / "a.fits"
    e = full_exposure(np.random.default_rng(5))
    return write_exposure(path, e).read_bytes()


@settings(max_examples=60)
@given(data=st.data())
def test_fuzzed_native_files_raise_only_pogson_errors(native_bytes, tmp_path, data):
    path = tmp_path / "a.fits"
    path.write_bytes(fuzz(native_bytes, data))
    with contextlib.suppress(PogsonError):
        read_exposure(path)


def fuzz(raw, data):
    """Return a truncated or bit-flipped copy."""
    damaged = bytearray(raw)
    if data.draw(st.booleans(), label="truncate"):
        return bytes(damaged[: data.draw(st.integers(0, len(raw) - 1))])
    # headers are where parsers break: aim there half of the time
    span = len(raw) if data.draw(st.booleans(), label="anywhere") else min(len(raw), 15000)
    for _ in range(data.draw(st.integers(1, 8))):
        where = data.draw(st.integers(0, span - 1))
        damaged[where] ^= 1 << data.draw(st.integers(0, 7))
    return bytes(damaged)


def test_no_temporary_names_are_left(tmp_path, rng):
    write_exposure(tmp_path / "a.fits", full_exposure(rng))
    assert os.listdir(tmp_path) == ["a.fits"]
