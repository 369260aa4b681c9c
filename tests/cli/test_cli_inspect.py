"""``pogson inspect`` and ``pogson data`` as commands."""

from __future__ import annotations

import json

import numpy as np
import pytest
from astropy.io import fits
from click.testing import CliRunner

from pogson.cli import main


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "a.fits"
    header = fits.Header({"BUNIT": "adu", "MEASURE": "fluence"})
    fits.PrimaryHDU(np.ones((4, 5), "f4"), header).writeto(path)
    return path


def run(*args):
    return CliRunner().invoke(main, [str(a) for a in args])


def test_words(image):
    result = run("inspect", image)
    assert result.exit_code == 0
    assert "unit: adu" in result.output
    assert "fluence" in result.output


def test_json_of_one_and_of_several(image, tmp_path):
    one = json.loads(run("inspect", image, "--json").stdout)
    assert (one["kind"], one["data"]["unit"], one["data"]["measure"]) == ("image", "adu", "fluence")
    two = json.loads(run("inspect", image, image, "--json").stdout)
    assert [item["kind"] for item in two] == ["image", "image"]


def test_an_unreadable_file_does_not_stop_the_others(image, tmp_path):
    bad = tmp_path / "bad.fits"
    bad.write_bytes(image.read_bytes()[:3000])
    result = run("inspect", bad, image, "--json")
    assert result.exit_code == 2
    assert "bad.fits" in result.stderr
    kinds = [item["kind"] for item in json.loads(result.stdout)]
    assert kinds == ["error", "image"]
    result = run("inspect", tmp_path / "nothing")
    assert result.exit_code == 2
    assert "does not exist" in result.stderr
    assert "Traceback" not in result.output
    assert run("inspect").exit_code == 2
