"""``pogson run`` with one solution of all exposures: truth, products, resume, failures."""

# ruff: noqa: F811 - fixtures are imported by name and shadowed by arguments

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from simulated_run_files import small_survey  # noqa: F401 - a fixture, used by name

from pogson.calib import PhotoCalib
from pogson.errors import ConfigError
from pogson.formats import read_catalog
from pogson.run import load_config, run_survey
from pogson.run.solve_products import read_solution

TERMS = (
    'solve.terms=[{kind="exposure_zero_point"}, '
    '{kind="color_slope", per_detector=false, gauge=false, pivot=0.5}]'
)


def run(survey, output, *overrides, **options):
    config = load_config(survey / "survey.toml", (TERMS, *overrides), output=output)
    return run_survey(config, **{"workers": 1, **options})


@pytest.fixture(scope="module")
def finished(small_survey, tmp_path_factory):
    return run(small_survey, tmp_path_factory.mktemp("out"))


def test_the_solution_gives_the_zero_points(finished, small_survey):
    assert finished.failures == ()
    # three tasks each of measure, zero_point and calibrate, and one solution
    assert (finished.n_done, finished.n_computed) == (3, 10)
    assert finished.summary["zero_point_source"] == "solve"
    truth = json.loads((small_survey / "truth.json").read_text())
    saved = read_solution(finished.folder)
    for row in truth["exposures"]:
        name = f"exposure_zero_point[{row['exposure']}]"
        i = saved.names.index(name)
        assert abs(saved.values[i] - row["zero_point"]) < 4 * saved.errors[i]
    n = finished.summary["truth"]["pulls"]["n"]
    assert abs(finished.summary["truth"]["pulls"]["rms"] - 1) < 4 / np.sqrt(2 * n)
    assert any(line.startswith("One solution:") for line in finished.headlines)
    assert "The global solution" in finished.report.read_text()


def test_catalogues_hold_the_solved_calibration(finished):
    for entry in finished.summary["exposures"]:
        catalog = read_catalog(finished.folder / "catalogs" / f"{entry['key']}.parquet")
        calib = PhotoCalib.from_dict(catalog.meta["photo_calib"])
        assert calib.provenance["by"] == "survey solution"
        assert calib.bandpass == entry["band"]
        assert any("exposure_zero_point" in n for n in calib.covariance.names)
        assert catalog["njy_total"].info.meta["reference"]["kind"] == "total"
        np.testing.assert_allclose(
            catalog["njy_total"], calib.mean() * catalog["flux_total"], rtol=1e-9
        )
        assert entry["values"]["zero_point_err"] == pytest.approx(
            float(calib.zero_point_error(x=160.0, y=160.0))
        )
        assert entry["values"]["depth"] > 20
        own = json.loads(
            (finished.folder / "solve" / "calibrations" / f"{entry['key']}.json").read_text()
        )
        assert own["photo_calib"]["field"] == catalog.meta["photo_calib"]["field"]


def test_only_what_changes_is_done_again(finished, small_survey, tmp_path):
    shutil.copytree(finished.folder, tmp_path / "out")
    # copied states name the first folder's files: the same run there does nothing
    again = run(small_survey, finished.folder)
    assert again.n_computed == 0
    titled = run(small_survey, finished.folder, "report.title=Another")
    assert titled.n_computed == 0
    # another setting that does not change the answer: the solution alone is done again
    same = run(small_survey, finished.folder, "solve.max_passes=49")
    assert same.n_computed == 1
    other = run(small_survey, finished.folder, "solve.floor=0.01")
    assert other.n_computed == 7  # the solution, three zero points, three catalogues
    back = run(small_survey, finished.folder)
    assert back.n_computed == 7


def test_degenerate_terms_stop_the_run(small_survey, tmp_path):
    bad = 'solve.terms=[{kind="exposure_zero_point"}, {kind="airmass_extinction"}]'
    with pytest.raises(ConfigError, match="airmass_extinction"):
        run(small_survey, tmp_path / "out", bad)


def test_a_relative_solution_needs_no_catalogue(small_survey, tmp_path):
    text = (small_survey / "survey.toml").read_text()
    cut = text[: text.index("[reference]")] + text[text.index("[measure]") :]
    folder = tmp_path / "survey"
    shutil.copytree(small_survey, folder)
    (folder / "survey.toml").write_text(cut.replace('color_term = "fit"', 'color_term = "none"'))
    result = run(
        folder, tmp_path / "out", 'solve.terms=[{kind="exposure_zero_point"}]',
        "solve.references=false", "solve.gauge=anchor",
    )  # fmt: skip
    assert result.n_done == 2 or result.n_done == 3
    assert any("relative" in line for line in result.headlines)
