"""`pogson scene` on the command line."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from pogson.cli import main
from pogson.simulate import SceneJobModel, write_scene_job


@pytest.fixture
def config(tmp_path):
    model = SceneJobModel(n_targets=2, n_exposures=3, size=21)
    return write_scene_job(model, tmp_path, rng_seed=3)[0]


def scene(*arguments):
    return CliRunner().invoke(main, ["scene", *map(str, arguments)])


def test_results_and_exit_code(config, tmp_path):
    result = scene(config, "--output", tmp_path / "out", "--workers", "1", "--quiet")
    assert result.exit_code == 0, result.output
    assert "2 of 2 targets measured" in result.output
    for name in ("fluxes.parquet", "scene.json", "scene.html"):
        assert (tmp_path / "out" / name).exists()


def test_dry_run_writes_nothing(config, tmp_path):
    result = scene(config, "--dry-run")
    assert result.exit_code == 0
    assert "t0001: 3 exposures, detected in 100" in result.output
    assert not (tmp_path / "scene-output").exists()


def test_partial_and_total_failure(config):
    stamps = config.parent / "stamps"
    (stamps / "t0000_100.fits").unlink()
    result = scene(config, "-j", "1")
    assert result.exit_code == 1
    assert "t0000 (fit)" in result.output
    (stamps / "t0001_100.fits").unlink()
    assert scene(config, "-j", "1").exit_code == 2


def test_wrong_configuration_is_a_sentence(config):
    result = scene(config, "--set", "model.prior=strong")
    assert result.exit_code == 2
    assert "Error: " in result.output
    assert "Traceback" not in result.output
    assert scene("none.toml").exit_code == 2
