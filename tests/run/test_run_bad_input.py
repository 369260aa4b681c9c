"""Bad input through the command line: a clear message, exit code 2, nothing half-written."""

# ruff: noqa: F811 - fixtures are imported by name and shadowed by arguments

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from click.testing import CliRunner, Result
from simulated_run_files import small_survey  # noqa: F401 - a fixture, used by name

from pogson.cli import main
from pogson.formats import read_catalog, write_catalog

Change = Callable[[Path], None]


def files(survey: Path, part: str) -> list[Path]:
    return sorted((survey / "images").glob(f"*_{part}.fits"))


def edit(part: str, change: Callable[[fits.HDUList], None]) -> Change:
    def apply(survey: Path) -> None:
        for path in files(survey, part):
            with fits.open(path, memmap=False, mode="update") as hdus:
                change(hdus)

    return apply


def set_pixels(part: str, change: Callable[[np.ndarray], np.ndarray]) -> Change:
    def apply(hdus: fits.HDUList) -> None:
        hdus[1].data = change(np.array(hdus[1].data))

    return edit(part, apply)


def set_card(keyword: str, value: object) -> Change:
    def apply(hdus: fits.HDUList) -> None:
        hdus[1].header[keyword] = value

    return edit("image", apply)


def truncate(survey: Path) -> None:
    for path in files(survey, "image"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def not_fits(survey: Path) -> None:
    for path in files(survey, "image"):
        path.write_text("these are not the pixels you are looking for\n" * 100)


def no_image_extension(survey: Path) -> None:
    for path in files(survey, "image"):
        fits.PrimaryHDU().writeto(path, overwrite=True)


def no_projection(hdus: fits.HDUList) -> None:
    for keyword in ("CTYPE1", "CTYPE2"):
        del hdus[1].header[keyword]


def negative(weight: np.ndarray) -> np.ndarray:
    weight[5, 5] = -1.0
    return weight


def wrong_psf(survey: Path) -> None:
    import json

    from pogson.fields import Box
    from pogson.psf import MoffatPSF

    for path in (survey / "psf").glob("*.json"):
        psf = MoffatPSF(fwhm=4.0, beta=3.0, box=Box(5000, 5000, 100, 100))
        path.write_text(json.dumps(psf.to_dict()))


def psf_of_detector(name: str, card: str) -> Change:
    """PSFEx files in place of the JSON files, their detector another one."""

    def apply(survey: Path) -> None:
        from pogson.fields import Box
        from pogson.formats import write_psfex
        from pogson.psf import MoffatPSF

        for path in (survey / "psf").glob("*.json"):
            out = path.with_suffix(".psf")
            write_psfex(MoffatPSF(4.0, 3.0), out, box=Box(0, 0, 320, 320), half_size=12, degree=0)
            with fits.open(out, memmap=False, mode="update") as hdus:
                hdus[1].header[card] = name
        config(".json", ".psf")(survey)

    return apply


def json_psf_of_detector(survey: Path) -> None:
    import json

    from pogson.fields import Box
    from pogson.psf import MoffatPSF, PixelGridPSF

    samples = MoffatPSF(4.0, 3.0).draw(x=20, y=20, half_size=15).image
    psf = PixelGridPSF(samples, box=Box(0, 0, 320, 320), metadata={"detector": "D7"})
    for path in (survey / "psf").glob("*.json"):
        path.write_text(json.dumps(psf.to_dict()))


def unknown_projection(hdus: fits.HDUList) -> None:
    hdus[1].header["CTYPE1"] = "RA---XYZ"
    hdus[1].header["CTYPE2"] = "DEC--XYZ"


def change_reference(change: Callable[[Table], Table]) -> Change:
    def apply(survey: Path) -> None:
        path = survey / "reference.parquet"
        write_catalog(path, change(read_catalog(path)))

    return apply


def elsewhere(table: Table) -> Table:
    table["dec"] = table["dec"] + 20.0
    return table


def without_g(table: Table) -> Table:
    table.remove_columns([c for c in table.colnames if "_g" in c])
    return table


def all_nan(table: Table) -> Table:
    table["ra"][:] = np.nan
    return table


def all_double(table: Table) -> Table:
    from astropy.table import vstack

    other = table.copy()
    other["id"] = np.array([f"other {i}" for i in table["id"]])
    table["id"] = np.array([str(i) for i in table["id"]])
    return vstack([table, other])


def config(old: str, new: str) -> Change:
    def apply(survey: Path) -> None:
        path = survey / "survey.toml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return apply


CASES: dict[str, tuple[Change, list[str]]] = {
    "truncated": (truncate, ["_image.fits"]),
    "not FITS": (not_fits, ["_image.fits", "FITS"]),
    "no image": (no_image_extension, ["_image.fits has no two-dimensional image", "PRIMARY"]),
    "no such extension": (
        config("[inputs]", '[inputs]\ndetectors = ["N9"]'), ["'N9'", "the first has 'D1'"]),
    "no projection": (edit("image", no_projection), ["_image.fits", "WCS"]),
    "unknown projection": (edit("image", unknown_projection), ["_image.fits", "XYZ"]),
    "NaN in the WCS": (set_card("CRVAL1", "nan"), ["_image.fits", "CRVAL1"]),
    "weight of another shape": (
        set_pixels("weight", lambda w: w[:-10]), ["_weight.fits", "shape", "(310, 320)"]),
    "negative weight": (
        set_pixels("weight", negative), ["_weight.fits", "negative at 1 of 102400", "-1"]),
    "all masked": (
        set_pixels("mask", lambda m: m | 1),
        ["_image.fits", "all 102400 pixels are masked", "BAD"]),
    "zero gain": (set_card("GAIN", 0.0), ["_image.fits", "GAIN", "0.0", "positive"]),
    "negative gain": (set_card("GAIN", -2.0), ["_image.fits", "GAIN", "-2.0"]),
    "unknown unit": (set_card("BUNIT", "furlong"), ["_image.fits", "BUNIT", "'furlong'", "'adu'"]),
    "unknown measure": (
        set_card("MEASURE", "brightness"),
        ["_image.fits", "MEASURE", "'brightness'", "'fluence' or"]),
    "PSF of other pixels": (wrong_psf, ["_image.fits", ".json", "another detector"]),
    "PSF of another detector": (
        psf_of_detector("N9", "DETECTOR"), [".psf", "detector 'N9'", "not of 'D1'"]),
    "PSF in JSON of another detector": (
        json_psf_of_detector, [".json", "_image.fits", "detector 'D7'", "exposure of 'D1'"]),
    "reference elsewhere": (change_reference(elsewhere), ["reference.parquet", "overlap"]),
    "reference without band": (change_reference(without_g), ["'g'", "reference.parquet"]),
    "reference all NaN": (
        change_reference(all_nan), ["reference.parquet", "no usable star", "BAD_POSITION 201"]),
    "reference all duplicates": (
        change_reference(all_double), ["reference.parquet", "no usable star", "DUPLICATE 402"]),
    "unknown key": (config("[measure]", "[measure]\ntreshold = 3"),
                    ["survey.toml, line", "'treshold'", "Did you mean 'threshold'"]),
    "unknown section": (config("[truth]", "[thruth]"), ["'thruth'", "'truth'"]),
    "not TOML": (config("[truth]", "[truth"), ["survey.toml", "TOML"]),
    "no such files": (config("*_image.fits", "*_none.fits"), ["*_none.fits", "matches no file"]),
    "no such catalogue": (config('"reference.parquet"', '"gone.parquet"'), ["gone.parquet"]),
    "no such preset": (config('"pogson-sim"', '"pogson-sin"'), ["pogson-sin", "'decam-cp'"]),
    "no such PSF": (config('"psf/', '"nowhere/'), ["psf = 'nowhere/", "no file"]),
}  # fmt: skip


def invoke(survey: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["run", str(survey / "survey.toml"), "-j", "1", "-q", *options])


@pytest.mark.parametrize("name", list(CASES))
def test_bad_input(small_survey: Path, tmp_path: Path, name: str) -> None:
    survey = tmp_path / "survey"
    shutil.copytree(small_survey, survey)
    change, words = CASES[name]
    change(survey)
    out = tmp_path / "out"
    result = invoke(survey, "-o", str(out))
    print(result.output)
    assert result.exit_code == 2, result.exception
    assert "Traceback" not in result.output
    assert "unexpected" not in result.stderr
    for word in words:
        assert word in result.stderr
    assert not list(out.rglob("*.part*"))
    for folder in ("catalogs", "images"):
        assert not list((out / folder).glob("*"))


def test_one_bad_of_three_is_exit_code_1(small_survey: Path, tmp_path: Path) -> None:
    survey = tmp_path / "survey"
    shutil.copytree(small_survey, survey)
    files(survey, "image")[0].write_text("no")
    result = invoke(survey, "-o", str(tmp_path / "out"))
    assert result.exit_code == 1
    assert "2 of 3 detector images calibrated (of 2 exposures), 1 failed." in result.stdout
    assert files(survey, "image")[0].name in result.stderr


def test_dry_run_writes_nothing(small_survey: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = invoke(small_survey, "--dry-run", "-o", str(out))
    assert result.exit_code == 0
    assert "3 detector images of 3 files" in result.stdout
    assert not out.exists()


def test_good_run_then_report_command(small_survey: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = invoke(small_survey, "-o", str(out), "--set", "output.images=false")
    assert result.exit_code == 0, result.output
    assert "Report:" in result.stdout
    page = tmp_path / "again.html"
    result = CliRunner().invoke(main, ["report", str(out), "-o", str(page)])
    assert result.exit_code == 0
    assert page.exists()
    result = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert result.exit_code == 2
    assert "summary.json" in result.stderr


def test_demo_refuses_a_folder_of_other_files(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    result = CliRunner().invoke(main, ["demo", "-o", str(tmp_path), "-q"])
    assert result.exit_code == 2
    assert "other files" in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
