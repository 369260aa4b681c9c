"""``pogson solve`` at the command line: exit codes, messages, a cluster."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from pogson.cli import main
from pogson.formats import read_catalog
from pogson.run.solve_products import read_solution

sys.path.insert(0, str(Path(__file__).parents[1] / "run"))
from solve_sources_made import make


def call(folder, *arguments):
    line = ["solve", str(folder / "sources.parquet"), "--config", str(folder / "solve.toml")]
    return CliRunner().invoke(main, [*line, "-j", "1", *map(str, arguments)])


def test_sources_become_calibrations(tmp_path):
    make(tmp_path, n_stars=150)
    result = call(tmp_path, "-o", tmp_path / "there")
    assert result.exit_code == 0, result.output
    assert "32 of 32 detector images calibrated." in result.output
    assert "One solution:" in result.output
    assert "Report:" in result.output
    made = {p.name for p in (tmp_path / "there").iterdir()}
    assert {"solution.json", "solution.h5", "parameters.parquet", "stars.parquet",
            "exposures.parquet", "calibrations", "report.html"} <= made  # fmt: skip
    assert len(list((tmp_path / "there" / "calibrations").glob("*.json"))) == 32
    again = call(tmp_path, "-o", tmp_path / "there")
    assert "1 up to date" in again.output


def test_degenerate_terms_leave_with_code_2_and_their_names(tmp_path):
    make(tmp_path, n_stars=80, visits=4)
    terms = 'solve.terms=[{kind="exposure_zero_point"}, {kind="grey_cloud", cloudy_sigma=1e9, '
    result = call(tmp_path, "--set", terms + "photometric_sigma=1e9}]")
    assert result.exit_code == 2
    assert "do not determine" in result.output
    assert "exposure_zero_point[" in result.output
    assert "grey_cloud[" in result.output


def test_wrong_input_leaves_with_code_2(tmp_path):
    make(tmp_path, n_stars=60, visits=4)
    result = call(tmp_path, "--set", "solve.terms=[{kind='starflat'}]")
    assert result.exit_code == 2
    assert "did you mean 'star_flat'" in result.output
    (tmp_path / "sources.parquet").write_bytes(b"no table")
    result = call(tmp_path)
    assert result.exit_code == 2
    assert "sources.parquet" in result.output
    result = CliRunner().invoke(main, ["solve", "-c", str(tmp_path / "none.toml")])
    assert result.exit_code == 2
    assert "no configuration file" in result.output


def test_an_exposure_that_cannot_be_tied_gives_code_1(tmp_path):
    def thin(table, reference):
        rows = np.flatnonzero(table["exposure"] == 203)
        return table[np.setdiff1d(np.arange(len(table)), rows[2:])], reference

    make(tmp_path, n_stars=150, visits=6, change=thin)
    result = call(tmp_path)
    assert result.exit_code == 1
    assert "Error: 203-" in result.output
    assert "solve.min_ties = 3" in result.output


@pytest.mark.filterwarnings("ignore")
def test_one_worker_two_processes_and_a_cluster_give_the_same_bits(tmp_path):
    distributed = pytest.importorskip("distributed")
    make(tmp_path, n_stars=150, visits=4)
    cut = ("--set", "solve.partitions=always", "--set", "solve.partition_rows=200")
    assert call(tmp_path, "-o", tmp_path / "one", *cut).exit_code == 0
    assert call(tmp_path, "-o", tmp_path / "processes", "-j", "2", *cut).exit_code == 0
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, protocol="tcp", dashboard_address=None
    )
    with cluster:
        address = cluster.scheduler_address
        result = call(tmp_path, "-o", tmp_path / "two", "--scheduler", address, *cut)
    assert result.exit_code == 0, result.output
    assert address.startswith("tcp://")
    one = read_solution(tmp_path / "one")
    assert one.facts["partitions"] > 2
    for name in ("processes", "two"):
        other = read_solution(tmp_path / name)
        np.testing.assert_array_equal(other.values, one.values)
        np.testing.assert_array_equal(other.covariance, one.covariance)
        assert other.facts["floors"] == one.facts["floors"]
        assert other.facts["chi2"] == one.facts["chi2"]
    a, b = (read_catalog(tmp_path / n / "exposures.parquet") for n in ("one", "two"))
    np.testing.assert_array_equal(a["zero_point"], b["zero_point"])


def test_no_scheduler_answers(tmp_path):
    make(tmp_path, n_stars=60, visits=4)
    result = call(tmp_path, "--scheduler", "tcp://127.0.0.1:1", "--set", "solve.partitions=always")
    assert result.exit_code == 2
    assert "No Dask scheduler answers" in result.output
