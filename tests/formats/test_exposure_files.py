"""Reading exposures of several instruments, and every way their files can be wrong."""

from __future__ import annotations

import contextlib
import shutil
import warnings
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from pogson.errors import (
    ConfigError,
    FileFormatError,
    MaskedDataError,
    MeasureError,
    MissingDataError,
    PogsonError,
    PogsonValueError,
    PogsonWarning,
    UnitMismatchError,
)
from pogson.formats import (
    available_instruments,
    load_instrument,
    read_exposure,
    sniff_instrument,
)
from pogson.units import Measure

SHAPE = (20, 30)


def wcs_header(**cards):
    header = fits.Header()
    header.update(
        CTYPE1="RA---TAN", CTYPE2="DEC--TAN", CRPIX1=10.0, CRPIX2=12.0, CRVAL1=150.0, CRVAL2=2.0,
        CD1_1=-7e-5, CD1_2=0.0, CD2_1=0.0, CD2_2=7e-5, CUNIT1="deg", CUNIT2="deg",
    )  # fmt: skip
    header.update(cards)
    return header


def image_pixels(seed=3):
    return np.random.default_rng(seed).normal(1000.0, 16.0, SHAPE).astype(np.float32)


def write_decam(folder, *, image=None, dq=None, weight=None, header=None, primary=None, ext="N4",
                suffix="fits"):  # fmt: skip
    """Write a DECam Community Pipeline triplet and return the image's path."""
    folder.mkdir(parents=True, exist_ok=True)
    image = image_pixels() if image is None else image
    dq = np.zeros(SHAPE, np.int32) if dq is None else dq
    weight = np.full(SHAPE, 1 / 256.0, np.float32) if weight is None else weight
    cards = {"EXTNAME": ext, "CCDNUM": 60, "GAINA": 4.0, "GAINB": 4.4, "SATURATE": 40000.0}
    cards |= {"STARFIL": "star.fits", "FLATFIL": "dome.fits", **(header or {})}
    first = fits.PrimaryHDU()
    first.header.update(
        {"INSTRUME": "DECam", "PROCTYPE": "InstCal", "EXPTIME": 90.0, "EXPNUM": 123456,
         "FILTER": "r DECam SDSS c0002 6415.0 1480.0", "BAND": "r", "AIRMASS": 1.2,
         "MJD-OBS": 57000.0, "PLVER": "V4.8.2", "MAGZERO": 30.0} | (primary or {})
    )  # fmt: skip
    for part, data in (("ooi", image), ("ood", dq), ("oow", weight)):
        if data is None:
            continue
        hdus = fits.HDUList([first.copy(), fits.ImageHDU(data, wcs_header(**cards), name=ext)])
        hdus.writeto(folder / f"c4d_150101_010203_{part}_r_v1.{suffix}", overwrite=True)
    return folder / f"c4d_150101_010203_ooi_r_v1.{suffix}"


def write_generic(path, *, data=None, **cards):
    data = image_pixels() if data is None else data
    fits.PrimaryHDU(data, wcs_header(**cards)).writeto(path, overwrite=True)
    return path


# -- DECam -----------------------------------------------------------------------------------
def test_decam_triplet_from_any_of_the_three(tmp_path):
    path = write_decam(tmp_path)
    exposures = [
        read_exposure(tmp_path / path.name.replace("ooi", part)) for part in ("ooi", "ood", "oow")
    ]
    assert exposures[0] == exposures[1] == exposures[2]
    e = exposures[0]
    assert e.unit == u.adu
    assert e.measure is Measure.FLUENCE
    assert e.bandpass == "decam2014-r"
    assert (e.exposure_id, e.detector) == ("123456", "N4")
    assert e.metadata["gain"] == pytest.approx(4.2)
    assert e.metadata["exposure_time"] == 90.0
    np.testing.assert_array_equal(e.variance, np.float32(256.0))
    # A / A0 with A0 the nominal 0.263 arcsec squared; this WCS has 0.252 arcsec
    assert e.area_ratio.mean() == pytest.approx((7e-5 * 3600) ** 2 / 0.263**2, rel=1e-5)


def test_decam_codes_and_weights(tmp_path):
    dq = np.zeros(SHAPE, np.int32)
    for code in range(1, 9):
        dq[code, code] = code
    weight = np.full(SHAPE, 0.004, np.float32)
    weight[5, 5] = 0.0  # cosmic ray: has a reason, keeps its value
    weight[15, 3] = 0.0  # no reason: no data
    e = read_exposure(write_decam(tmp_path, dq=dq, weight=weight))
    names = {code: e.mask_bits.names(int(e.mask[code, code])) for code in range(1, 9)}
    assert names == {
        1: ("BAD",), 2: ("NO_DATA",), 3: ("SATURATED",), 4: ("BLEED",), 5: ("COSMIC_RAY",),
        6: ("BAD",), 7: ("SUSPECT",), 8: ("STREAK",),
    }  # fmt: skip
    assert np.isfinite(e.image[5, 5])
    assert np.isinf(e.variance[5, 5])
    assert np.isnan(e.image[15, 3])
    assert e.mask_bits.names(int(e.mask[15, 3])) == ("NO_DATA",)
    assert np.isnan(e.image[2, 2])
    assert e.bad()[5, 5]


def test_decam_bits_before_v3_5(tmp_path):
    dq = np.zeros(SHAPE, np.int32)
    dq[1, 1], dq[2, 2], dq[3, 3] = 2 + 64, 16, 4
    e = read_exposure(write_decam(tmp_path, dq=dq, primary={"PLVER": "V3.2.1"}))
    assert set(e.mask_bits.names(int(e.mask[1, 1]))) == {"SATURATED", "BLEED"}
    assert e.mask_bits.names(int(e.mask[2, 2])) == ("COSMIC_RAY",)
    assert e.mask_bits.names(int(e.mask[3, 3])) == ("INTERPOLATED",)


def test_decam_unknown_code_is_bad_and_said(tmp_path):
    dq = np.zeros(SHAPE, np.int32)
    dq[0, :3] = 77
    with pytest.warns(PogsonWarning, match=r"77 \(3 pixels\)"):
        e = read_exposure(write_decam(tmp_path, dq=dq))
    assert e.mask_bits.names(int(e.mask[0, 0])) == ("BAD",)


def test_decam_measure_follows_the_flats(tmp_path):
    path = write_decam(tmp_path / "a", header={"STARFIL": ""})
    assert read_exposure(path).measure is Measure.SURFACE_BRIGHTNESS
    assert read_exposure(path, measure="fluence").measure is Measure.FLUENCE
    with pytest.raises(MeasureError, match="'fluence' or 'surface_brightness'"):
        read_exposure(path, measure="flux")


def test_decam_mef_and_fpacked(tmp_path):
    hdus = {part: [fits.PrimaryHDU()] for part in ("ooi", "ood", "oow")}
    for part in hdus.values():
        part[0].header["INSTRUME"], part[0].header["PLVER"] = "DECam", "V4.8.2"
        part[0].header["PROCTYPE"] = "InstCal"
    for ccd, name in ((1, "S29"), (2, "S30")):
        planes = {
            "ooi": image_pixels(ccd), "ood": np.full(SHAPE, 0, np.int32),
            "oow": np.full(SHAPE, 0.004 * ccd, np.float32),
        }  # fmt: skip
        planes["ood"][0, 0] = ccd
        for part, data in planes.items():
            header = wcs_header(CCDNUM=ccd, STARFIL="s")
            kind = {"quantize_level": 16.0} if part != "ood" else {}
            hdus[part].append(
                fits.CompImageHDU(data, header, name=name, compression_type="RICE_1", **kind)
            )
    for part, each in hdus.items():
        fits.HDUList(each).writeto(tmp_path / f"c4d_150101_010203_{part}_g_v1.fits.fz")
    path = tmp_path / "c4d_150101_010203_ooi_g_v1.fits.fz"
    with pytest.raises(MissingDataError, match="'S29' or 'S30'"):
        read_exposure(path)
    for choice in ("S30", 2, "2"):
        e = read_exposure(path, detector=choice)
        assert e.detector == "S30"
        assert e.mask_bits.names(int(e.mask[0, 0])) == ("NO_DATA",)
        np.testing.assert_allclose(e.variance[5, 5], 1 / 0.008, rtol=0.05)
        np.testing.assert_allclose(e.image[1:], image_pixels(2)[1:], atol=2.0)
    with pytest.raises(MissingDataError, match="no image 'N9'"):
        read_exposure(path, detector="N9")


def test_decam_without_siblings_and_orphan(tmp_path):
    path = write_decam(tmp_path)
    (tmp_path / path.name.replace("ooi", "oow")).unlink()
    (tmp_path / path.name.replace("ooi", "ood")).unlink()
    e = read_exposure(path)
    assert e.variance is None
    assert "weight_file" not in e.metadata
    path.rename(tmp_path / path.name.replace("ooi", "ood"))
    with pytest.raises(MissingDataError, match=r"its image .* is not beside it"):
        read_exposure(tmp_path / path.name.replace("ooi", "ood"))


# -- bad input -------------------------------------------------------------------------------
def test_weight_of_another_shape(tmp_path):
    path = write_decam(tmp_path, weight=np.ones((5, 6), np.float32))
    with pytest.raises(FileFormatError, match=r"oow.*shape \(5, 6\).*\(20, 30\)"):
        read_exposure(path)


def test_negative_weight(tmp_path):
    weight = np.full(SHAPE, 0.01, np.float32)
    weight[3, 3] = -2.0
    with pytest.raises(
        FileFormatError, match="negative at 1 of 600 pixels, the lowest value is -2"
    ):
        read_exposure(write_decam(tmp_path, weight=weight))


@pytest.mark.parametrize("gain", [0.0, -3.0])
def test_bad_gain(tmp_path, gain):
    with pytest.raises(PogsonValueError, match=f"GAINA {gain}"):
        read_exposure(write_decam(tmp_path, header={"GAINA": gain}))
    with pytest.raises(PogsonValueError, match="gain="):
        read_exposure(write_decam(tmp_path), gain=gain)


def test_all_masked(tmp_path):
    with pytest.raises(MaskedDataError, match=r"all 600 pixels are masked.*SATURATED 600"):
        read_exposure(write_decam(tmp_path, dq=np.full(SHAPE, 3, np.int32)))
    with pytest.raises(MaskedDataError, match="NO_DATA 600"):
        read_exposure(write_decam(tmp_path, image=np.full(SHAPE, np.nan, np.float32)))


@pytest.mark.parametrize(
    "cards",
    [
        {"CTYPE1": "LINEAR", "CTYPE2": "LINEAR"},
        {"CD1_1": 0.0, "CD2_2": 0.0},
        {"CTYPE1": "RA---XYZ", "CTYPE2": "DEC--XYZ"},
    ],
)
def test_bad_wcs_names_the_file(tmp_path, cards):
    path = write_generic(tmp_path / "a.fits", BUNIT="adu", **cards)
    with pytest.raises(PogsonError, match=r"a\.fits"):
        read_exposure(path, measure="fluence")


def test_nan_in_wcs(tmp_path):
    path = write_generic(tmp_path / "a.fits", BUNIT="adu")
    raw = path.read_bytes().replace(
        b"CRVAL1  =                150.0", b"CRVAL1  =                  NaN"
    )
    assert b"NaN" in raw
    path.write_bytes(raw)
    with pytest.raises(PogsonError, match=r"a\.fits"):
        read_exposure(path, measure="fluence")


def test_truncated_and_non_fits(tmp_path):
    path = write_generic(tmp_path / "a.fits", BUNIT="adu")
    raw = path.read_bytes()
    for size in (0, 100, 2880, len(raw) - 2000):
        path.write_bytes(raw[:size])
        with pytest.raises(FileFormatError, match=r"a\.fits"):
            read_exposure(path, measure="fluence")
    path.write_bytes(b"hello world" * 500)
    with pytest.raises(FileFormatError, match="not a FITS file"):
        read_exposure(path)
    with pytest.raises(FileFormatError, match="does not exist"):
        read_exposure(tmp_path / "none.fits")
    with pytest.raises(FileFormatError, match="folder"):
        read_exposure(tmp_path)


def test_missing_extension(tmp_path):
    path = write_generic(tmp_path / "a.fits", BUNIT="adu")
    with pytest.raises(MissingDataError, match="no extension 'IMAGE'"):
        read_exposure(path, instrument="hsc")
    with pytest.raises(MissingDataError, match="POGSON"):
        read_exposure(path, instrument="native")
    fits.PrimaryHDU().writeto(tmp_path / "b.fits")
    with pytest.raises(MissingDataError, match="no two-dimensional image"):
        read_exposure(tmp_path / "b.fits")


def test_unknown_unit_and_measure(tmp_path):
    path = write_generic(tmp_path / "a.fits", BUNIT="bananas")
    with pytest.raises(UnitMismatchError, match="bananas"):
        read_exposure(path, measure="fluence")
    path = write_generic(tmp_path / "b.fits", BUNIT="km")
    with pytest.raises(UnitMismatchError, match="not a unit of pixels"):
        read_exposure(path, measure="fluence")
    path = write_generic(tmp_path / "c.fits")
    with pytest.raises(UnitMismatchError, match="unit="):
        read_exposure(path, measure="fluence")
    with pytest.raises(MeasureError, match="measure="):
        read_exposure(path, unit="adu")
    with pytest.raises(ConfigError, match=r"Unknown instrument 'nope'.*'decam-cp'"):
        read_exposure(path, instrument="nope")


# -- units, rates and gains ------------------------------------------------------------------
@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("adu", 2.5),
        ("electron", 1.0),
        ("adu / s", 2.5 * 40.0),
        ("electron / s", 40.0),
        ("nJy", None),
    ],
)
def test_gain_is_electrons_per_pixel_unit(tmp_path, unit, expected):
    path = write_generic(tmp_path / "a.fits", BUNIT=unit, GAIN=2.5, EXPTIME=40.0)
    e = read_exposure(path, measure="fluence")
    assert e.unit == u.Unit(unit)
    assert e.metadata.get("gain") == (None if expected is None else pytest.approx(expected))


def test_generic_preset_from_a_users_file(tmp_path):
    preset = tmp_path / "mine.toml"
    preset.write_text(
        'based_on = "generic"\nname = "mine"\nunit = "electron / s"\n'
        'measure = "surface_brightness"\nimage_extension = "SCI"\nweight_extension = "ERR"\n'
        'weight_kind = "standard_deviation"\nmask_extension = "DQ"\npixel_area = 0.04\n'
        '[keywords]\nexposure_time = ["ITIME"]\nband = ["WHEEL"]\n'
        '[mask]\nkind = "bits"\n[mask.values]\n1 = "BAD"\n8 = "SATURATED"\n'
    )
    dq = np.zeros(SHAPE, np.uint8)
    dq[2, 2] = 9
    hdus = fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(image_pixels(), wcs_header(), name="SCI"),
                         fits.ImageHDU(np.full(SHAPE, 3.0, np.float32), name="ERR"),
                         fits.ImageHDU(dq, name="DQ")])  # fmt: skip
    hdus[0].header["ITIME"], hdus[0].header["WHEEL"] = 12.0, "K"
    hdus.writeto(tmp_path / "a.fits")
    e = read_exposure(tmp_path / "a.fits", instrument=preset)
    assert e.unit == u.electron / u.s
    assert e.measure is Measure.SURFACE_BRIGHTNESS
    assert e.metadata["exposure_time"] == 12.0
    assert e.bandpass == "K"
    assert float(e.variance[0, 0]) == 9.0
    assert set(e.mask_bits.names(int(e.mask[2, 2]))) == {"BAD", "SATURATED"}
    area = float(e.sky.pixel_area(x=4.0, y=5.0))
    assert float(e.area_ratio(x=4.0, y=5.0)) == pytest.approx(area / 0.04, rel=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "a"\ncolour = 1\n', "colour: unknown key"),
        ('name = "a"\nunit = "bananas"\n', "unit"),
        ('name = "a"\nmeasure = "flux"\n', "measure"),
        ('name = "a"\n[mask]\nkind = "bits"\n[mask.values]\n1 = "SPLAT"\n', "SPLAT.*'BAD'"),
        ('name = "a"\nweight_kind = "ivar"\n', "inverse_variance"),
        ('name = "a"\n[siblings]\npattern = "a"\nimage = "b"\n', "one group"),
        ("name = ", "not valid TOML"),
    ],
)
def test_bad_presets(tmp_path, text, message):
    path = tmp_path / "p.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_instrument(path)


def test_every_shipped_preset_loads():
    for name in available_instruments():
        assert load_instrument(name).name == name


def test_simulated_mask_values_agree_with_the_preset():
    render = pytest.importorskip("pogson.simulate.render")
    rule = load_instrument("pogson-sim").mask
    assert {str(v): n for n, v in render.MASK_VALUES.items()} == rule.values


# -- real files ------------------------------------------------------------------------------
TESTCASE4 = "decam-cutouts/testcase4/images/decam/CP/V4.8.2/CP20170315"


def test_real_decam_cutout(shared_data):
    path = shared_data(f"{TESTCASE4}/c4d_170316_062107_ooi_z_ls9.N2.fits")
    e = read_exposure(path, psf="auto")
    assert e.box.shape == (251, 245)
    assert (e.exposure_id, e.detector, e.bandpass) == ("630780", "N2", "decam2014-z")
    assert e.mask_bits.names(int(e.mask.max())) == ("COSMIC_RAY",)
    assert int((e.mask != 0).sum()) == 177
    # the unit and the gain: the sky noise is what Poisson gives for this gain, within 5 %
    sky = float(np.median(e.image[e.good]))
    noise = 1.4826 * float(np.median(np.abs(e.image[e.good] - sky)))
    poisson = np.sqrt(sky / e.metadata["gain"] + (6.06 / e.metadata["gain"]) ** 2)
    assert noise == pytest.approx(poisson, rel=0.05)
    # MAGZERO includes EXPTIME, MAGZPT does not
    per_second = e.metadata["zero_point_magnitude_per_second"]
    step = 2.5 * np.log10(e.metadata["exposure_time"])
    assert e.metadata["zero_point_magnitude"] - per_second == pytest.approx(step, abs=1e-3)


def test_real_decam_wcs_puts_gaia_stars_on_stars(shared_data):
    from pogson.formats import read_reference_catalog

    folder = shared_data("decam-cutouts/testcase4/gaia")
    e = read_exposure(shared_data(f"{TESTCASE4}/c4d_170316_062107_ooi_z_ls9.N2.fits"))
    stars = read_reference_catalog(sorted(folder.glob("chunk-*.fits")))
    stars = stars.at_epoch(mjd=e.metadata["mjd"]).within(e.sky, e.box, margin=0.0)
    assert len(stars) == 3
    image = e.image - np.median(e.image[e.good])
    for row in stars.table:
        x, y = e.sky.pixel(row["ra"], row["dec"])
        i, j = round(x), round(y)
        stamp = image[j - 3 : j + 4, i - 3 : i + 4]
        gx, gy = np.meshgrid(np.arange(i - 3, i + 4), np.arange(j - 3, j + 4))
        dx, dy = (stamp * gx).sum() / stamp.sum() - x, (stamp * gy).sum() / stamp.sum() - y
        print(f"G {row['mag_G']:.2f}: {dx:+.3f} {dy:+.3f} px")
        assert np.hypot(dx, dy) < 0.25


def test_real_decam_testcase3_all_read(shared_data):
    folder = shared_data("decam-cutouts/testcase3/images")
    paths = sorted(folder.rglob("*ooi*.fits"))
    assert len(paths) == 8
    for path in paths:
        e = read_exposure(path, psf="auto")
        assert e.good.any()
        # PSFEx FWHM of the model against the header's median of stars
        assert e.psf.fwhm(x=20.0, y=25.0) == pytest.approx(e.metadata["seeing_pixels"], rel=0.12)


def test_real_psf_of_another_detector(shared_data):
    path = shared_data(f"{TESTCASE4}/c4d_170316_062107_ooi_z_ls9.N2.fits")
    other = sorted(shared_data("decam-cutouts/testcase3/calib").rglob("*N10-psfex.fits"))[0]
    with pytest.raises(MissingDataError, match="'N10', not of 'N2'"):
        read_exposure(path, psf=other)


def test_psf_auto_says_where_it_looked(tmp_path):
    path = write_decam(tmp_path / "images" / "decam")
    with pytest.raises(MissingDataError, match="psfex-single"):
        read_exposure(path, psf="auto")
    with pytest.raises(MissingDataError, match="Give psf= a file"):
        read_exposure(
            write_generic(tmp_path / "a.fits", BUNIT="adu"), measure="fluence", psf="auto"
        )


def test_real_lsst_exposure(shared_data):
    path = shared_data("hsc/HSC-0908120-056-small.fits")
    assert sniff_instrument(path) == "hsc"
    e = read_exposure(path)
    assert (e.box.x_min, e.box.y_min, e.box.nx, e.box.ny) == (100, 100, 200, 200)
    assert e.metadata["unit_because"].startswith("assumed")
    with fits.open(path) as hdus:
        np.testing.assert_array_equal(e.image, hdus[1].data)
        np.testing.assert_array_equal(e.variance, hdus[3].data)
        # pixel (x, y) of the parent is FITS pixel (x - 100 + 1): the archive's own crpix is the
        # parent's, 0-based
        crpix = hdus[5].data["crpix"][0]
        crval = hdus[5].data["crval"][0]
    x, y = e.sky.pixel(*crval)
    np.testing.assert_allclose([x, y], crpix, atol=1e-3)


def test_sniffing(tmp_path, shared_data):
    assert sniff_instrument(write_generic(tmp_path / "a.fits")) == "generic"
    path = write_decam(tmp_path)
    assert sniff_instrument(path) == "decam-cp"
    renamed = tmp_path / "renamed.fits"
    shutil.copy(path, renamed)
    assert sniff_instrument(renamed) == "decam-cp"
    assert isinstance(Path(renamed), Path)


# -- fuzz ------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def decam_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decam")
    write_decam(folder)
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@settings(max_examples=60)
@given(data=st.data())
def test_fuzzed_decam_triplets_raise_only_pogson_errors(decam_files, tmp_path, data):
    victim = data.draw(st.sampled_from(sorted(decam_files)))
    for name, raw in decam_files.items():
        damaged = bytearray(raw)
        if name == victim:
            if data.draw(st.booleans(), label="truncate"):
                damaged = damaged[: data.draw(st.integers(0, len(raw) - 1))]
            else:
                for _ in range(data.draw(st.integers(1, 8))):
                    where = data.draw(st.integers(0, len(raw) - 1))
                    damaged[where] ^= 1 << data.draw(st.integers(0, 7))
        (tmp_path / name).write_bytes(bytes(damaged))
    with contextlib.suppress(PogsonError), warnings.catch_warnings():
        # a damaged mask has codes that nobody knows: said by a warning, as it should be
        warnings.simplefilter("ignore", PogsonWarning)
        read_exposure(tmp_path / victim)
