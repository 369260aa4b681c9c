"""What no command may answer with a traceback: wrong files, folders, sizes, names and devices."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import click
import numpy as np
import pytest
from astropy.table import Table
from click.testing import CliRunner

from pogson.calib import FluxReference, PhotoCalib
from pogson.cli import main
from pogson.formats import inspect_file, read_catalog, write_catalog, write_exposure
from pogson.images import Exposure
from pogson.psf import MoffatPSF
from pogson.sky import FitsSkyMap


def run(*words):
    result = CliRunner().invoke(main, [str(w) for w in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def exposure(**changes):
    given = {"unit": "nJy", "measure": "fluence", "exposure_id": "v1", "bandpass": "decam2014-r",
             "photo_calib": PhotoCalib.constant(1.0, unit="", reference=FluxReference.total()),
             "psf": MoffatPSF(4.0, 3.0), **changes}  # fmt: skip
    pixels = np.random.default_rng(1).normal(0.0, 2.0, (80, 80))
    sky = FitsSkyMap.tan(30.0, -20.0, x=40, y=40, scale_arcsec=0.25)
    return Exposure(pixels, variance=np.full((80, 80), 4.0), sky=sky, **given).with_area_ratio()


@pytest.fixture
def image(tmp_path):
    return write_exposure(tmp_path / "v1.fits", exposure())


@pytest.mark.parametrize(
    ("raised", "words"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/data/a.fits"),
         ["'/data/a.fits'", "Permission denied", "permissions"]),
        (OSError(errno.ENOSPC, "No space left on device", "out/b.fits"),
         ["'out/b.fits'", "No space left on device"]),
        (OSError("network file system went away"), ["network file system went away"]),
        (MemoryError("Unable to allocate 5.06 TiB"), ["Not enough memory", "5.06 TiB", "fewer"]),
    ],
)  # fmt: skip
def test_what_the_system_refuses_is_said(monkeypatch, raised, words):
    @click.command()
    def command():
        raise raised

    monkeypatch.setattr(type(main), "get_command", lambda *_: command)
    result = run("run")
    assert result.exit_code == 2
    for word in ["Error: ", *words]:
        assert word in result.stderr


def test_a_closed_pipe_is_no_error_of_ours(monkeypatch):
    @click.command()
    def command():
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(type(main), "get_command", lambda *_: command)
    result = CliRunner().invoke(main, ["run"])
    assert result.exit_code == 1
    assert "Error" not in result.stderr


def test_pipes_devices_folders_and_long_names_are_no_files(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    began = time.monotonic()
    result = run("inspect", pipe, "/dev/null", tmp_path, tmp_path / ("a" * 300), tmp_path / "no")
    assert time.monotonic() - began < 20.0  # a pipe that nobody writes into does not hang
    assert result.exit_code == 2
    lines = result.stderr.strip().splitlines()
    said = ["pipe or a device", "pipe or a device", "is a folder", "too long", "does not exist"]
    for line, words in zip(lines, said, strict=True):
        assert words in line
    folder = tmp_path / "folder.ecsv"
    folder.mkdir()
    with pytest.raises(OSError, match="is a folder"):
        read_catalog(folder)


def test_results_cannot_go_into_a_file(image, tmp_path):
    file = tmp_path / "file"
    file.write_text("kept")
    coadd = run("image", "coadd", image, "-o", file, "--flattening-sed", "G2V", "-q", "-j", 1)
    assert coadd.exit_code == 2
    assert f"{file}: it is a file" in coadd.stderr
    background = run("image", "background", image, "-o", file)
    assert background.exit_code == 2
    assert "is a file" in background.stderr
    assert file.read_text() == "kept"


def test_background_refuses_its_own_folder_before_any_work(image, tmp_path):
    missing = tmp_path / "missing.fits"  # would fail if images were read first
    result = run("image", "background", image, missing, "-o", tmp_path)
    assert result.exit_code == 2
    assert "is an input" in result.stderr


def test_words_of_the_command_line_not_of_python(image, tmp_path):
    sky = run("image", "background", image, "-o", tmp_path / "b", "--sky-sed", "moonlight")
    assert "--flattened-for" in sky.stderr
    coadd = run("image", "coadd", image, "-o", tmp_path / "c", "-q")
    assert "--flattening-sed" in coadd.stderr
    counts = write_exposure(tmp_path / "n.fits", exposure(unit="adu", photo_calib=None))
    plain = write_exposure(tmp_path / "plain.fits", exposure(psf=None))
    sources = write_catalog(
        tmp_path / "s.ecsv", Table({"x": [40.0], "y": [40.0], "mag": [20.0]})
    )  # fmt: skip
    out = ("-o", tmp_path / "o.fits")
    assert "--reference total" in run("inject", image, sources, *out).stderr
    given = ("--reference", "total", *out)
    assert "--zero-point" in run("inject", counts, sources, *given).stderr
    assert "--image-psf" in run("inject", plain, sources, *given).stderr
    assert run("inject", image, sources, *given).exit_code == 0
    again = run("inject", tmp_path / "o.fits", sources, "--reference", "total", "-o",
                tmp_path / "p.fits")  # fmt: skip
    assert "--again" in again.stderr
    text = write_catalog(
        tmp_path / "t.ecsv", Table({"ra": ["a"], "dec": ["b"], "mag": ["c"]})
    )  # fmt: skip
    said = run("inject", image, text, *given).stderr
    assert "must be numbers" in said
    assert len(said.strip().splitlines()) == 1


@pytest.mark.parametrize("magnitudes", ["nan:25", "18:nan", "18:inf"])
def test_magnitudes_that_are_no_range(image, tmp_path, magnitudes):
    result = run("inject", image, "--generate", "random", "--number", 3, "--separation", 5,
                 "--reference", "total", "--magnitudes", magnitudes,
                 "-o", tmp_path / "o.fits")  # fmt: skip
    assert result.exit_code == 2
    assert "no range" in result.stderr
    assert not (tmp_path / "o.fits").exists()


@pytest.mark.parametrize("scale", ["1e-6", "1e-3"])
def test_outputs_without_end_are_refused_at_once(image, tmp_path, scale):
    plane = ("--center", 30, -20, "--size", 1, 1, "--scale", scale)
    began = time.monotonic()
    warp = run("image", "warp", image, "-o", tmp_path / "w.fits", *plane)
    assert warp.exit_code == 2
    assert "more than can be made" in warp.stderr
    if scale == "1e-6":
        coadd = run("image", "coadd", image, "-o", tmp_path / "c", *plane, "-q",
                    "--flattening-sed", "G2V")  # fmt: skip
        assert coadd.exit_code == 2
        assert "60000000 x 60000000 pixels" in coadd.stderr
    assert time.monotonic() - began < 60.0


def test_states_and_inspection_say_what_is_known(image, tmp_path):
    state = run("image", "to-surface-brightness", image, "-o", tmp_path / "s.fits")
    assert "no background attached" in state.stdout
    assert run("image", "warp", image, "-o", tmp_path / "w.fits", "--scale", 0.3).exit_code == 0
    facts = dict(inspect_file(tmp_path / "w.fits").facts)
    assert "share noise" in facts["noise"]
    assert inspect_file(tmp_path / "w.fits").data["resampled"] is True
    plain = inspect_file(image)
    assert dict(plain.facts)["noise"] == "variance of each pixel (stated)"
    assert dict(plain.facts)["flat for"] == "an unknown spectrum"
    assert plain.data["resampled"] is False
    made = run("image", "coadd", image, "-o", tmp_path / "c", "--flattening-sed", "G2V", "-q",
               "-j", 1)  # fmt: skip
    assert made.exit_code == 0
    assert made.stdout.startswith("1 tile, ")
    coadd = inspect_file(next(Path(tmp_path / "c").glob("*.fits")))
    assert coadd.title.startswith("A pogson coadd of 1 image")
    assert dict(coadd.facts)["flat for"] == "G2V (stated)"


SURVEY = """\
[inputs]
exposures = "v1.fits"
[reference]
catalog = "ref.ecsv"
"""


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ("zero_point.header_convention=decamcp", ["'decamcp'", "'decam-cp'"]),
        ("reference.transformation=foo", ["'foo'", "gaia_dr2-decam_g"]),
        ("reference.transformation='gaia_dr2-decm_{band}'", ["gaia_dr2-decm_"]),
        ("reference.transformation='{foo}'", ["{foo}"]),
        ("coadd.center=[1]", ["at least 2 values, not 1"]),
    ],
)
def test_names_are_checked_before_anything_is_measured(image, tmp_path, item, words):
    write_catalog(tmp_path / "ref.ecsv", Table({"ra": [30.0], "dec": [-20.0], "mag_r": [20.0]}))
    (tmp_path / "survey.toml").write_text(SURVEY)
    good = run("run", tmp_path / "survey.toml", "--dry-run")
    assert good.exit_code == 0, good.output
    right = run("run", tmp_path / "survey.toml", "--dry-run", "--set",
                "reference.transformation='gaia_dr2-decam_{band}'")  # fmt: skip
    assert right.exit_code == 0, right.output
    bad = run("run", tmp_path / "survey.toml", "--dry-run", "--set", item)
    assert bad.exit_code == 2
    for word in words:
        assert word in bad.stderr


@pytest.mark.parametrize("center", ["[10, 95]", "[nan, 0]"])
def test_centers_off_the_sky(image, tmp_path, center):
    write_catalog(tmp_path / "ref.ecsv", Table({"ra": [30.0], "dec": [-20.0], "mag_r": [20.0]}))
    (tmp_path / "survey.toml").write_text(SURVEY + f"[coadd]\ncenter = {center}\nsize = [1, 1]\n")
    bad = run("run", tmp_path / "survey.toml", "--dry-run")
    assert bad.exit_code == 2
    assert "dec from -90 to 90" in bad.stderr


def test_sections_that_are_no_sections(tmp_path):
    file = tmp_path / "s.toml"
    file.write_text("inputs = 3\n")
    assert "section [inputs]" in run("run", file).stderr
    assert "it is a folder" in run("run", tmp_path).stderr
    file.write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in run("run", file).stderr


def test_a_scheduler_without_a_port_is_refused_at_once():
    pytest.importorskip("distributed")
    from pogson.errors import MissingDataError
    from pogson.parallel import get_executor

    began = time.monotonic()
    with pytest.raises(MissingDataError, match="missing port"), get_executor(scheduler="nonsense"):
        pass
    assert time.monotonic() - began < 15.0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["no summary.json", "pogson run"]),
        ("{", ["summary.json", "damaged"]),
        ("[]", ["does not hold a finished run"]),
        ('{"exposures": [], "title": "x"}', ["damaged"]),
        ('{"exposures": [{"key": 3}], "title": "x"}', ["damaged"]),
    ],
)
def test_reports_of_damaged_runs(tmp_path, content, words):
    if content is not None:
        (tmp_path / "summary.json").write_text(content)
    (tmp_path / "audit.json").write_text('{"a":')
    result = run("report", tmp_path)
    assert result.exit_code == 2
    for word in words:
        assert word in result.stderr
    assert not (tmp_path / "report.html").exists()
