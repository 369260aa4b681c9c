"""Stamps: planes, mask bits, origins, sky headers."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st

from pogson import Box, FitsSkyMap, GaussianPSF
from pogson.errors import (
    BoundsError,
    FileFormatError,
    MaskedDataError,
    MissingDataError,
    PogsonError,
    PogsonValueError,
)
from pogson.formats import read_catalog, read_piff
from pogson.formats.stamps import (
    DES_MASK_BITS,
    read_sky_header,
    read_stamp,
    read_stamp_pixels,
    stamp_box,
)

SKY = FitsSkyMap.tan(150.0, 2.0, x=500.3, y=400.7, scale_arcsec=0.26)


def write(path, *, image=None, weight=None, mask=None, header=None, names=("SCI", "MSK", "WGT")):
    image = np.ones((30, 30), "f4") if image is None else image
    weight = np.full(image.shape, 0.25, "f4") if weight is None else weight
    mask = np.zeros(image.shape, "i2") if mask is None else mask
    hdus = [fits.PrimaryHDU()]
    for name, data in zip(names, (image, mask, weight), strict=True):
        hdus.append(fits.ImageHDU(data, name=name))
    if header:
        hdus[1].header.update(header)
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return path


def stamp(path, **changes):
    given = {"ra": 150.0, "dec": 2.0, "psf": GaussianPSF(fwhm=4.0), "zero_point": 30.0, "sky": SKY}
    return read_stamp(path, **(given | changes))


class TestPixels:
    def test_weight_is_inverse_variance(self, tmp_path):
        exposure = stamp(write(tmp_path / "a.fits"))
        assert exposure.variance[3, 4] == 4.0
        assert exposure.n_good == 900

    def test_scale_is_to_njy(self, tmp_path):
        exposure = stamp(write(tmp_path / "a.fits"), zero_point=31.4, zero_point_err=0.01)
        assert exposure.scale == pytest.approx(1.0)
        assert exposure.scale_error == pytest.approx(0.00921, rel=1e-3)

    def test_no_warning_at_zero_weight(self, tmp_path):
        weight = np.full((30, 30), 0.25, "f4")
        weight[5, 6], weight[7, 8] = 0.0, np.nan
        planes = read_stamp_pixels(write(tmp_path / "a.fits", weight=weight))
        assert np.isinf(planes.variance).sum() == 2

    def test_bits_by_name_value_any_or_none(self, tmp_path):
        mask = np.zeros((30, 30), "i2")
        mask[0, 0], mask[0, 1], mask[0, 2] = 2, 8192, -32768
        path = write(tmp_path / "a.fits", mask=mask)
        assert stamp(path).n_good == 897
        assert stamp(path, bad="none").n_good == 900
        assert stamp(path, bad=["SATURATE", 8192]).n_good == 898
        assert stamp(path, bad=[32768]).n_good == 899
        assert DES_MASK_BITS.names(8192) == ("NEAREDGE",)
        with pytest.raises(MissingDataError, match="NEAREDGE"):
            stamp(path, bad=["EDGY"])
        with pytest.raises(PogsonValueError, match="'any'"):
            stamp(path, bad="all")

    def test_nan_is_left_out(self, tmp_path):
        image = np.ones((30, 30), "f4")
        image[2, 2], image[3, 3] = np.nan, np.inf
        assert stamp(write(tmp_path / "a.fits", image=image)).n_good == 898

    def test_fully_masked_says_why(self, tmp_path):
        mask = np.full((30, 30), 128, "i2")
        with pytest.raises(MaskedDataError, match="900 of 900 have mask bits"):
            stamp(write(tmp_path / "a.fits", mask=mask))

    def test_missing_parts(self, tmp_path):
        path = write(tmp_path / "a.fits")
        with pytest.raises(MissingDataError, match="no PSF"):
            stamp(path, psf=None)
        with pytest.raises(MissingDataError, match="zero point"):
            stamp(path, zero_point=np.nan)
        with pytest.raises(MissingDataError, match="map to the sky"):
            stamp(path, sky=None)
        with pytest.raises(MissingDataError, match="WEIGHT"):
            stamp(path, weight="WEIGHT")
        with pytest.raises(FileFormatError, match="does not exist"):
            stamp(tmp_path / "b.fits")

    def test_shapes_must_agree(self, tmp_path):
        path = write(tmp_path / "a.fits", weight=np.ones((30, 29), "f4"))
        with pytest.raises(FileFormatError, match="equal"):
            stamp(path)

    @given(cut=st.integers(0, 8639), flip=st.integers(0, 255))
    def test_damaged_files_give_pogson_errors(self, tmp_path_factory, cut, flip):
        folder = tmp_path_factory.mktemp("fuzz")
        path = write(folder / "a.fits")
        content = bytearray(path.read_bytes())
        content[cut] ^= flip
        path.write_bytes(content[: len(content) - cut])
        with contextlib.suppress(PogsonError):
            stamp(path)


class TestOrigins:
    @given(st.floats(100, 3000), st.floats(100, 3000))
    def test_published_stamps_have_their_target_at_13_plus_the_fraction(self, x, y):
        box = stamp_box((30, 30), x=x, y=y, origin="smp2023")
        # ceil(x - 15) with x from 1, used as if from 0; the published offset of -1
        assert (x - box.x_min) == pytest.approx(13 + (x % 1 or 1), abs=1e-6)
        assert (y - box.y_min) == pytest.approx(13 + (y % 1 or 1), abs=1e-6)

    @given(st.floats(100, 3000), st.integers(5, 60))
    def test_cutout_is_that_of_astropy(self, x, n):
        from astropy.nddata import Cutout2D

        cut = Cutout2D(np.zeros((80, 3200)), (x, 40.0), (n, n))
        box = stamp_box((n, n), x=x, y=40.0, origin="cutout")
        assert (box.x_min, box.y_min) == (cut.origin_original[0], cut.origin_original[1])

    def test_explicit_and_header_origins(self, tmp_path):
        path = write(tmp_path / "a.fits", header={"LTV1": -486.0, "LTV2": -386.0})
        assert stamp(path, origin=(486, 386)).box == Box(486, 386, 30, 30)
        from_header = stamp(path, origin="header")
        assert from_header.box == Box(486, 386, 30, 30)
        assert from_header.origin_exact

    def test_stamp_with_its_own_map(self, tmp_path):
        own = dict(SKY.shifted(486, 386).to_header())
        path = write(tmp_path / "a.fits", header=own | {"LTV1": -486.0, "LTV2": -386.0})
        exposure = stamp(path, sky=None, origin="header")
        x, y = exposure.sky.pixel(150.0, 2.0)
        assert (x, y) == pytest.approx((500.3, 400.7), abs=1e-6)
        assert exposure.box == Box(486, 386, 30, 30)
        path = write(tmp_path / "b.fits", header=own)
        assert stamp(path, sky=None, origin="header").box == Box(0, 0, 30, 30)

    def test_target_outside(self, tmp_path):
        path = write(tmp_path / "a.fits")
        with pytest.raises(BoundsError, match="outside its stamp"):
            stamp(path, origin=(0, 0))
        with pytest.raises(MissingDataError, match="LTV1"):
            stamp(path, origin="header")
        with pytest.raises(PogsonValueError, match="smp2023"):
            stamp(path, origin="middle")


class TestSkyHeaders:
    @pytest.mark.parametrize("sep", ["\n", "\r\n", ""])
    def test_text(self, tmp_path, sep):
        path = tmp_path / "a.hdr"
        path.write_bytes(SKY.to_header().tostring(sep=sep, padding=False).encode())
        assert read_sky_header(path).pixel(150.0, 2.0) == pytest.approx((500.3, 400.7))

    def test_fits(self, tmp_path):
        path = tmp_path / "a.fits"
        fits.PrimaryHDU(np.zeros((3, 3)), SKY.to_header()).writeto(path)
        assert read_sky_header(path).pixel(150.0, 2.0) == pytest.approx((500.3, 400.7))

    @pytest.mark.parametrize("content", [b"", b"hello", b"\xff\xfe" * 40, b"CRVAL1 = 'x'"])
    def test_rubbish(self, tmp_path, content):
        path = tmp_path / "a.hdr"
        path.write_bytes(content)
        with pytest.raises(PogsonError):
            read_sky_header(path)


def test_real_stamps_fall_where_the_fits_positions_say(shared_data):
    table = read_catalog(shared_data("des-smp/exposures.ecsv"))
    for row in table:
        name = f"{row['expnum']}_{row['ccdnum']}"
        sky = read_sky_header(shared_data(f"des-smp/wcs/{name}.hdr"))
        near = Box(int(row["x_fits"]) - 20, int(row["y_fits"]) - 20, 40, 40)
        psf = read_piff(shared_data(f"des-smp/psf/{name}_piff.fits"), sky, box=near)
        path = shared_data(f"des-smp/stamps/{row['target']}_{row['expnum']}.fits")
        exposure = read_stamp(
            path, ra=row["ra"], dec=row["dec"], psf=psf, sky=sky, zero_point=row["zeropoint"]
        )
        x, y = sky.pixel(row["ra"], row["dec"])
        assert x - exposure.box.x_min == pytest.approx(13 + row["x_fits"] % 1, abs=0.02)
        assert y - exposure.box.y_min == pytest.approx(13 + row["y_fits"] % 1, abs=0.02)
        assert exposure.n_good >= 870
