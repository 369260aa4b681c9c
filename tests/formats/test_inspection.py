"""`inspect_file` is right on every real file, and honest about what it does not know."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from pogson.errors import FileFormatError, PogsonError
from pogson.formats import inspect_file

EXPECTED_KINDS = {
    "image": 24, "lsst-wcs": 18, "header": 14, "piff": 14, "spectrum": 12, "mask": 9, "weight": 9,
    "psfex": 9, "reference-catalog": 8, "sky-model": 8, "lsst-photocalib": 7, "spfluxcalib": 4,
    "meas-mosaic-fcr": 4, "catalog": 3, "zero-points": 2, "gbdes-maps": 2, "lsst-sources": 2,
    "lsst-background": 2, "lsst-visit-summary": 2, "csv": 1, "text": 1, "spectral-grid": 1,
    "spectral-templates": 1, "astrometric-solution": 1, "hdf5": 1,
}  # fmt: skip


def test_every_real_file_gets_a_clear_answer(shared_data):
    root = shared_data("MANIFEST.csv").parent
    kinds = Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for folder, _, names in os.walk(root):
            for name in names:
                found = inspect_file(Path(folder) / name)
                json.loads(found.to_json())
                assert len(found.words) >= 2, name
                kinds[found.kind] += 1
    for kind, count in EXPECTED_KINDS.items():
        assert kinds[kind] >= count, kind
    assert kinds["unknown"] == 0


def test_every_real_decam_image(shared_data):
    root = shared_data("decam-cutouts")
    for path in sorted(root.rglob("*_oo[idw]_*.fits")):
        if "images" not in path.parts:
            continue
        found = inspect_file(path)
        part = path.name.split("_")[3]
        assert found.kind == {"ooi": "image", "ood": "mask", "oow": "weight"}[part]
        with fits.open(path) as hdus:
            primary, header = hdus[0].header, hdus[1].header
        data = found.data
        assert (data["exposure"], data["detector"]) == (primary["EXPNUM"], header["EXTNAME"])
        if part == "ooi":
            assert (data["unit"], data["measure"]) == ("adu", "fluence")
            assert "STARFIL" in data["measure_because"]
            assert data["reference"] is None
            assert data["bandpass"] == f"decam2014-{primary['BAND'].strip()}"
            assert data["gain"] == pytest.approx((header["GAINA"] + header["GAINB"]) / 2)
            assert data["wcs"] == "FITS TPV"
            assert 0.262 < data["pixel_scale"] < 0.2645
            assert data["area_variation_percent"] < 0.1
            assert data["background"] == "the sky is in the image"
            assert data["zero_point"] == primary.get("MAGZERO")
        elif part == "oow":
            assert data["unit"] == "1 / adu2"
            assert data["weight"]["kind"] == "inverse variance"
            assert data["typical_noise"] == pytest.approx(header["AVSIG"], rel=0.1)
        else:
            assert data["mask_kind"] == "codes"


def test_decam_zero_point_words(shared_data):
    path = shared_data(
        "decam-cutouts/testcase4/images/decam/CP/V4.8.2/CP20170315/"
        "c4d_170316_062107_ooi_z_ls9.N2.fits"
    )
    facts = dict(inspect_file(path).facts)
    assert "EXPTIME included, no gain" in facts["zero point"]
    assert "agrees" in facts["zero point"]
    assert "does NOT" not in facts["zero point"]
    assert facts["flux reference"].startswith("unknown")
    survey = inspect_file(shared_data("decam-cutouts/testcase4/survey-ccds-1.fits.gz"))
    assert survey.data["zero_point_includes"] == {"EXPTIME": False, "GAIN": False}


def test_real_lsst_image_admits_assumptions(shared_data):
    found = inspect_file(shared_data("hsc/HSC-0908120-056-small.fits"))
    assert found.data["measure"] == "surface_brightness"
    assert not found.data["measure_stated"]
    assert not found.data["unit_stated"]
    assert found.data["zero_point"] is None
    assert found.data["wcs"] == "FITS TAN-SIP"
    assert found.data["mask"] == {"CROSSTALK": 14, "DETECTED": 5390}
    assert found.data["weight"]["kind"] == "variance"
    assert found.data["bandpass"] is None


def test_real_stamps_are_of_unknown_meaning(shared_data):
    for path in sorted(shared_data("des-smp/stamps").glob("*.fits")):
        data = inspect_file(path).data
        assert (data["unit"], data["measure"], data["zero_point"], data["wcs"]) == (None,) * 4
        assert data["weight"]["kind"] == "inverse variance"
        assert not data["weight"]["stated"]
        assert 0.7 < data["weight"]["noise_over_predicted"] < 1.5


def test_real_lsst_calibrations(shared_data):
    version1 = inspect_file(shared_data("hsc/photoCalib-version1.fits")).data
    assert (version1["mean"], version1["error"], version1["maggies"]) == (123.0, 45.0, False)
    assert version1["zero_point"] == pytest.approx(31.4 - 2.5 * np.log10(123.0))
    assert inspect_file(shared_data("hsc/photoCalib-version0.fits")).data["maggies"]
    varying = inspect_file(shared_data("hsc/jointcal_photoCalib-0011506-050.fits")).data
    assert not varying["constant"]
    fcr = inspect_file(shared_data("hsc/fcr-0011506-050.fits")).data
    assert fcr["zero_point"] == pytest.approx(varying["zero_point"], abs=0.01)
    for name, low, high in (("050", 0.5, 1.0), ("101", 9.0, 10.5)):
        wcs = inspect_file(shared_data(f"hsc/jointcal_wcs-0011506-{name}.fits")).data
        assert low < wcs["area_variation_percent"] < high
    summary = inspect_file(shared_data("jointcal-minimal/visitSummary-849375.fits"))
    assert "32.06" in dict(summary.facts)[next(k for k in dict(summary.facts) if "zero point" in k)]


def test_real_psf_spectra_and_templates(shared_data):
    psf = inspect_file(next(shared_data("des-smp/psf").glob("*.fits")))
    assert psf.data["model"] == "PixelGrid"
    assert "never loaded" in dict(psf.facts)["WCS"]
    vega = inspect_file(shared_data("calspec/alpha_lyr_stis_011.fits.gz"))
    assert vega.data["unit"].startswith("erg/s/cm2/AA")
    assert "vacuum" in dict(vega.facts)["wavelength"]
    assert inspect_file(shared_data("templates/kurucz_stds_v5.fit")).data["rows"] == 89
    assert (
        inspect_file(shared_data("sdss-fluxcal/spFluxcalib-b1.fits")).data["coefficients"] == 2111
    )
    maps = inspect_file(shared_data("decam-starflat/allsf.guts.photo"))
    assert maps.data["photometric"]
    assert maps.data["maps"] == 1525
    assert not inspect_file(shared_data("decam-starflat/y6a1.guts.astro")).data["photometric"]
    assert inspect_file(shared_data("m67/Orion_l204.7_b-19.2.h5")).data["datasets"][0]["shape"] == [
        1642
    ]
    header = inspect_file(shared_data("des-smp/wcs/372125_49.hdr"))
    assert header.data["wcs"] == "FITS TAN-SIP"
    assert header.data["pixel_scale"] == pytest.approx(0.263, abs=0.001)


# -- files made here -------------------------------------------------------------------------
def test_catalogues_show_references(tmp_path):
    from astropy.table import Table

    from pogson.calib import FluxReference
    from pogson.formats import write_catalog

    reference = FluxReference.aperture(3.0, frame="sky")
    table = Table({"flux_a": [1.0], "x": [2.0]}, units={"flux_a": "nJy"})
    table["flux_a"].info.meta = {"reference": reference.to_dict(), "measure": "fluence"}
    for suffix in (".parquet", ".fits", ".ecsv", ".vot"):
        found = inspect_file(write_catalog(tmp_path / f"a{suffix}", table))
        assert reference.label in dict(found.facts)["flux references"]
        column = found.data["columns"]["flux_a"]
        assert (column["unit"], column["measure"]) == ("nJy", "fluence")


def test_native_exposures_state_everything(tmp_path):
    from test_native_files import full_exposure

    from pogson.formats import write_exposure

    exposure = full_exposure(np.random.default_rng(2))
    found = inspect_file(write_exposure(tmp_path / "a.fits", exposure))
    facts = dict(found.facts)
    assert "surface brightness" in facts["measure"]
    assert exposure.photo_calib.reference.label in facts["flux reference"]
    assert "GaussianPSF" in facts["PSF"]
    assert found.data["zero_point"] == pytest.approx(
        31.4 - 2.5 * np.log10(exposure.photo_calib.mean(exposure.box))
    )


def test_calibrations_and_fields(tmp_path):
    from pogson.calib import FluxReference, PhotoCalib
    from pogson.fields import Box, ConstantField, write_field

    calib = PhotoCalib.constant(2.0, reference=FluxReference.psf())
    for suffix in ("json", "fits"):
        calib.write(tmp_path / f"c.{suffix}")
        found = inspect_file(tmp_path / f"c.{suffix}")
        assert found.kind == "photo-calib"
        assert found.data["mean"] == 2.0
    field = ConstantField(Box(0, 0, 4, 5), 3.0, "adu")
    for suffix in ("json", "fits"):
        write_field(field, tmp_path / f"f.{suffix}")
        assert inspect_file(tmp_path / f"f.{suffix}").kind in ("field", "pogson-json")


def test_generic_images_say_unknown(tmp_path):
    fits.PrimaryHDU(np.random.default_rng(1).normal(0, 1, (9, 9)).astype("f4")).writeto(
        tmp_path / "a.fits"
    )
    found = inspect_file(tmp_path / "a.fits")
    facts = dict(found.facts)
    for topic in ("unit", "measure", "flux reference", "gain", "bandpass"):
        assert facts[topic].startswith("unknown"), topic
    assert facts["zero point"] == "none in the header"
    header = fits.Header({"BUNIT": "adu", "MAGZERO": 25.0, "GAIN": 1.5, "FILTER": "R"})
    fits.PrimaryHDU(np.full((9, 9), 5.0), header).writeto(tmp_path / "b.fits")
    facts = dict(inspect_file(tmp_path / "b.fits").facts)
    assert "whether EXPTIME and GAIN are in it is unknown" in facts["zero point"]
    assert facts["unit"].startswith("adu")


def test_a_broken_wcs_is_said_not_raised(tmp_path):
    header = fits.Header({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CD1_1": 0.0, "CD2_2": 0.0})
    fits.PrimaryHDU(np.ones((9, 9)), header).writeto(tmp_path / "a.fits")
    assert dict(inspect_file(tmp_path / "a.fits").facts)["WCS"].startswith("unusable")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"a,b,c\n1,2,3\n", "csv"),
        (b"\x00\x01\x02\x03" * 20, "unknown"),
        (b"hello there\n", "text"),
        (b'{"a": 1}', "json"),
        (b'{"a": ', "unknown"),
    ],
)
def test_odd_files(tmp_path, content, kind):
    path = tmp_path / "a.dat"
    path.write_bytes(content)
    assert inspect_file(path).kind == kind


def test_errors(tmp_path):
    with pytest.raises(FileFormatError, match="does not exist"):
        inspect_file(tmp_path / "a")
    with pytest.raises(FileFormatError, match="folder"):
        inspect_file(tmp_path)
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(FileFormatError, match="empty"):
        inspect_file(tmp_path / "a")


SMALL = (
    "hsc/photoCalib-version1.fits",
    "hsc/fcr-0011506-049.fits",
    "decam-cutouts/testcase4/gaia/chunk-03459.fits",
    "decam-cutouts/testcase4/survey-ccds-1.fits.gz",
    "des-smp/stamps/eris_234928.fits",
    "des-smp/wcs/234928_20.hdr",
)


@pytest.mark.parametrize("name", SMALL)
@settings(max_examples=15)
@given(data=st.data())
def test_fuzzed_files_raise_only_pogson_errors(shared_data, tmp_path, name, data):
    raw = bytearray(shared_data(name).read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, min(len(raw), 9000) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path / Path(name).name
    path.write_bytes(bytes(raw[: data.draw(st.integers(len(raw) // 2, len(raw)))]))
    with contextlib.suppress(PogsonError):
        json.loads(inspect_file(path).to_json())
