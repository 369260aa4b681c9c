"""``pogson inject`` as a command."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table
from click.testing import CliRunner

from pogson.calib import FluxReference, PhotoCalib
from pogson.cli import main
from pogson.formats import read_catalog, read_exposure, write_catalog, write_exposure
from pogson.images import Exposure, measure_sources
from pogson.psf import MoffatPSF
from pogson.sky import FitsSkyMap

R12 = FluxReference.aperture(12)


@pytest.fixture
def image(tmp_path):
    exposure = Exposure(
        np.zeros((200, 240)), variance=np.full((200, 240), 4.0), unit="adu", measure="fluence",
        sky=FitsSkyMap.tan(150.0, 2.0, x=120, y=100, scale_arcsec=0.26),
        psf=MoffatPSF(fwhm=3.5, beta=3.0), exposure_id="v1", detector="N1", bandpass="decam2014-r",
        photo_calib=PhotoCalib.constant(2.0, unit="nJy / adu", reference=R12),
        metadata={"gain": 2.0},
    )  # fmt: skip
    return write_exposure(tmp_path / "v1.fits", exposure)


@pytest.fixture
def catalog(tmp_path):
    table = Table({"id": ["a", "b", "c", "off"], "x": [60.2, 120.7, 180.1, 900.0],
                   "y": [60.9, 100.3, 140.6, 10.0],
                   "mag_r": [20.0, 21.0, np.nan, 20.0],
                   "mag_g": [21.0, 22.0, 23.0, 21.0]})  # fmt: skip
    return write_catalog(tmp_path / "sources.parquet", table)


def run(*args):
    return CliRunner().invoke(main, [str(a) for a in args])


def test_flux_in_is_flux_out(image, catalog, tmp_path):
    out = tmp_path / "in.fits"
    result = run("inject", image, catalog, "--reference", "aperture 12 px", "-o", out)
    assert result.exit_code == 0, result.output
    assert "2 of 4 sources injected" in result.stdout
    assert "1 BAD_FLUX: flux or magnitude missing" in result.stdout
    assert "OFF_IMAGE" in result.stdout
    exposure, truth = read_exposure(out), read_catalog(tmp_path / "in-truth.parquet")
    assert exposure.metadata["INJECTED"] is True
    assert truth["flux_requested"].info.meta["reference"] == R12.to_dict()
    assert list(truth["band"][:2]) == ["r", "r"]
    seen = measure_sources(exposure, x=[60.2, 120.7], y=[60.9, 100.3], references=R12)
    flux = np.asarray(seen["flux_aperture_12px_exact"]) * 2.0
    wanted = 10 ** (0.4 * (31.4 - np.array([20.0, 21.0])))
    print(2500 * np.log10(flux / wanted), "mmag")
    np.testing.assert_allclose(flux, wanted, rtol=5e-5)
    assert not read_exposure(image).image.any()  # the input is as it was


def test_options_reach_the_injection(image, catalog, tmp_path):
    common = ("inject", image, catalog, "--reference", "total", "--band", "g")
    one = run(*common, "--poisson", "--seed", 3, "-o", tmp_path / "1.fits")
    two = run(*common, "--poisson", "--seed", 3, "-o", tmp_path / "2.fits",
              "--truth", tmp_path / "t.ecsv")  # fmt: skip
    other = run(*common, "--poisson", "--seed", 4, "--gain", 1.0, "-o", tmp_path / "3.fits")
    for result in (one, two, other):
        assert result.exit_code == 0, result.output
    images = [read_exposure(tmp_path / f"{k}.fits") for k in (1, 2, 3)]
    np.testing.assert_array_equal(images[0].image, images[1].image)
    assert not np.array_equal(images[0].image, images[2].image)
    assert images[2].variance.max() > images[0].variance.max() > 4.0
    assert len(read_catalog(tmp_path / "t.ecsv")) == 4


def test_injecting_again_must_be_said(image, catalog, tmp_path):
    first = tmp_path / "1.fits"
    assert run("inject", image, catalog, "--reference", "total", "-o", first).exit_code == 0
    result = run("inject", first, catalog, "--reference", "total", "-o", tmp_path / "2.fits")
    assert result.exit_code == 2
    assert "again" in result.stderr
    assert not (tmp_path / "2.fits").exists()
    again = run("inject", first, catalog, "--reference", "total", "--again",
                "-o", tmp_path / "2.fits")  # fmt: skip
    assert again.exit_code == 0


@pytest.mark.parametrize("pattern", ["random", "grid", "hexagonal"])
def test_generated_sources(image, tmp_path, pattern):
    out = tmp_path / "g.fits"
    result = run(
        "inject", image, "--generate", pattern, "--number", 6, "--separation", 40,
        "--magnitudes", "19:21", "--reference", "aperture 12 px", "-o", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    truth = read_catalog(tmp_path / "g-truth.parquet")
    assert len(truth) == 6
    magnitude = 31.4 - 2.5 * np.log10(np.asarray(truth["flux_requested"]))
    assert ((magnitude >= 19) & (magnitude <= 21)).all()


def test_another_psf_is_recorded(image, catalog, tmp_path):
    import json

    path = tmp_path / "wide.json"
    path.write_text(json.dumps(MoffatPSF(fwhm=5.0, beta=3.0).to_dict()))
    out = tmp_path / "o.fits"
    result = run("inject", image, catalog, "--reference", "total", "--psf", path, "-o", out)
    assert result.exit_code == 0, result.output
    assert "the image's own is" in result.stdout
    truth = read_catalog(tmp_path / "o-truth.parquet")
    assert truth["psf_id"][0] != truth["injection_psf_id"][0]


def test_an_image_that_is_not_our_own(catalog, tmp_path):
    import json

    from astropy.io import fits

    header = fits.Header({"BUNIT": "adu", "MEASURE": "fluence", "GAIN": 1.5})
    path = tmp_path / "plain.fits"
    fits.PrimaryHDU(np.zeros((200, 240), "f4"), header).writeto(path)
    psf = tmp_path / "psf.json"
    psf.write_text(json.dumps(MoffatPSF(fwhm=3.5, beta=3.0).to_dict()))
    args = ("inject", path, catalog, "--reference", "total", "--band", "r", "-o",
            tmp_path / "o.fits")  # fmt: skip
    bare = run(*args, "--image-psf", psf)
    assert bare.exit_code == 2
    assert "photo_calib" in bare.stderr
    result = run(*args, "--image-psf", psf, "--zero-point", 30.0)
    assert result.exit_code == 0, result.output
    truth = read_catalog(tmp_path / "o-truth.parquet")
    assert float(truth["inst_flux_total"][0]) == pytest.approx(10 ** (0.4 * 10.0))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("{image}",), "Give a CATALOG, or --generate"),
        (("{image}", "{catalog}"), "bare numbers"),
        (("{image}", "{catalog}", "--reference", "12"), "names no flux reference"),
        (("{image}", "{catalog}", "--reference", "total", "--band", "z"), "flux_z or mag_z"),
        (("{image}", "{catalog}", "--reference", "total", "-o", "{image}"), "three files"),
        (("{image}", "{catalog}", "--reference", "total", "-o", "{tmp}/a.png"), ".fits"),
        (("{image}", "{catalog}", "--reference", "total", "--truth", "{tmp}/a.xyz"), "xyz"),
        (("{image}", "{catalog}", "--reference", "total", "--schema", "legacy-radians"), "raJ2000"),
        (("{image}", "{catalog}", "--reference", "total", "--zero-point", "30"), "zero-point"),
        (("{image}", "--generate", "grid"), "--reference"),
        (("{image}", "--generate", "grid", "--reference", "total", "--magnitudes", "x"), "18:25"),
        (("{tmp}/no.fits", "{catalog}", "--reference", "total"), "no.fits"),
        (("{image}", "{tmp}/no.parquet", "--reference", "total"), "no.parquet"),
    ],
)
def test_bad_input_is_said_clearly(image, catalog, tmp_path, args, said, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = sorted(tmp_path.iterdir())
    words = [a.format(image=image, catalog=catalog, tmp=tmp_path) for a in args]
    result = run("inject", *words)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.output
    assert sorted(tmp_path.iterdir()) == made  # nothing is written
