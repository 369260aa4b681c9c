"""``pogson solve`` from partitions on disk: the numbers of those in memory; resume; death."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest
from astropy.table import vstack
from click.testing import CliRunner
from solve_sources_made import SEED, make

from pogson.cli import main
from pogson.errors import CalibrationError, ConfigError
from pogson.formats import read_catalog
from pogson.run import solve_partitions, solve_store
from pogson.run.solve_products import read_solution
from pogson.run.solve_run import load_solve_config, run_solve

CUT = ("solve.partitions=always", "solve.partition_rows=300")
GIVEN = ("solve.floor=0.003", "solve.reference_floor=0.0")


def solve(folder, *overrides, output=None, **options):
    quick = ("report.enabled=false", *overrides)
    config = load_solve_config(folder / "solve.toml", quick, output=output)
    return run_solve(config, **{"workers": 1, **options})


def spoiled(table, reference):
    """Return sources with everything wrong, over the seam of right ascension."""
    table["flux"][::50] = np.nan
    table["flux_err"][7::50] = 0.0
    table["ra"][11::50] = np.nan
    twice = table[3::40].copy()
    twice["ra"] += 0.1 / 3600
    twice["flux"] *= 1.5
    near = table[5::60].copy()  # neighbours that spoil the isolation of some
    near["dec"] += 2.0 / 3600
    on = table["star"] == 150
    table["flux"][on] *= 1.0 + 0.4 * (np.asarray(table["exposure"][on]) // 2 % 2)
    here = (reference["ra"] > 150.05) & (reference["dec"] > 0.05)
    reference["mag_g"][here] += 0.1
    table = vstack([table, twice, near])
    for t in (table, reference):
        t["ra"] = (np.asarray(t["ra"]) - 150.0) % 360.0
    return table, reference


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    print("seed", SEED)
    folder = tmp_path_factory.mktemp("both")
    make(folder, n_stars=500, change=spoiled)
    options = (*GIVEN, "solve.isolation=3", "solve.min_detections=2", "solve.held_out=0.1")
    whole = solve(folder, *options, output=folder / "whole")
    cut = solve(folder, *options, *CUT, output=folder / "cut")
    return whole.folder, cut.folder


def test_the_solution_is_that_in_memory(both):
    whole, cut = (read_solution(f) for f in both)
    assert whole.facts["partitions"] == 0
    assert cut.facts["partitions"] > 4
    assert cut.names == whole.names
    np.testing.assert_allclose(cut.values, whole.values, rtol=0, atol=1e-10)
    np.testing.assert_allclose(cut.covariance, whole.covariance, rtol=1e-8, atol=1e-16)
    same = ("stars", "detections", "references", "references_rejected", "degrees_of_freedom",
            "flags", "left_out", "missing_input", "n_suspects", "failed", "notes")  # fmt: skip
    for key in same:
        if key != "missing_input":
            assert cut.facts[key] == whole.facts[key], key
    assert cut.facts["chi2"] == pytest.approx(whole.facts["chi2"], rel=1e-9)
    assert cut.facts["left_out"]["not isolated"] > 20
    assert cut.facts["n_suspects"] > 0
    key = {s["id"]: s for s in whole.facts["suspects"]}
    for s in cut.facts["suspects"]:
        assert s["chi2"] == pytest.approx(key[s["id"]]["chi2"], rel=1e-7)
        assert s["ra"] == pytest.approx(key[s["id"]]["ra"], abs=1e-11)


def test_regions_where_the_catalogue_is_off_are_found(both):
    whole, cut = (read_solution(f).facts["reference_regions"] for f in both)
    assert whole
    assert len(cut) == len(whole)
    for a, b in zip(cut, whole, strict=True):
        assert a["median"] == pytest.approx(b["median"], abs=1e-9)


def test_products_of_each_image_are_those_in_memory(both):
    whole, cut = both
    files = sorted(p.name for p in (whole / "residuals").iterdir())
    assert files == sorted(p.name for p in (cut / "residuals").iterdir())
    for name in files:
        a, b = (read_catalog(f / "residuals" / name) for f in both)
        a.sort("id")
        b.sort("id")
        assert list(a["id"]) == list(b["id"])
        assert list(a["status"]) == list(b["status"])
        for column in ("x", "y", "magnitude", "color", "residual", "residual_err", "pull"):
            np.testing.assert_allclose(a[column], b[column], rtol=1e-9, atol=1e-9)
    for path in (whole / "calibrations").iterdir():
        a, b = (json.loads((f / "calibrations" / path.name).read_text()) for f in both)
        assert a["counts"] == b["counts"]
        for key, value in a["values"].items():
            assert b["values"][key] == pytest.approx(value, rel=1e-6, abs=1e-9), key
    assert not list(cut.glob("residuals-*.npy"))
    a, b = (read_catalog(f / "exposures.parquet") for f in both)
    assert list(a["tied_stars"]) == list(b["tied_stars"])
    stars = read_catalog(whole / "stars.parquet")
    parts = [read_catalog(p) for p in sorted((cut / "stars").glob("*.parquet"))]
    theirs = vstack(parts)
    theirs.sort("id")
    np.testing.assert_array_equal(theirs["id"], stars["id"])
    np.testing.assert_allclose(theirs["ra"], stars["ra"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(theirs["mag"], stars["mag"], rtol=0, atol=1e-9)


def test_weak_exposures_and_held_out_stars(tmp_path):
    def thin(table, reference):
        rows = np.flatnonzero(table["exposure"] == 206)
        return table[np.setdiff1d(np.arange(len(table)), rows[1:])], reference

    make(tmp_path, n_stars=300, change=thin)
    found = solve(tmp_path, *CUT, "solve.held_out=0.2", "report.enabled=true")
    assert found.n_failed == 1
    assert "1 star, fewer than solve.min_ties" in next(iter(found.failures.values()))
    assert read_solution(found.folder).facts["validation"]["p_value"] > 0.001
    assert "The global solution" in found.report.read_text()


def test_bad_terms_are_refused_from_partitions_too(tmp_path):
    make(tmp_path, n_stars=150)
    bad = 'solve.terms=[{kind="exposure_zero_point"}, {kind="detector_zero_point", gauge=false}]'
    with pytest.raises(ConfigError, match=r"exposure_zero_point.*detector_zero_point"):
        solve(tmp_path, bad, *CUT)
    terms = 'solve.terms=[{kind="exposure_zero_point"}]'
    with pytest.raises(ConfigError, match="gauge = 'anchor' for a relative"):
        solve(tmp_path, *CUT, terms, "solve.references=false")
    with pytest.raises(CalibrationError, match="No star is seen 99 times"):
        solve(tmp_path, *CUT, "solve.min_detections=99")
    with pytest.raises(ConfigError, match="seeing of every exposure"):
        solve(tmp_path, *CUT, 'solve.terms=[{kind="seeing"}]')


def test_photometric_exposures_are_chosen_from_partitions_too(tmp_path):
    def cloudy(table, reference):
        table["flux"][np.isin(table["exposure"], [203, 204])] *= 10 ** (-0.4 * 0.2)
        return table, reference

    make(tmp_path, change=cloudy)
    terms = (
        'solve.terms=[{kind="detector_zero_point", by=["filter"], gauge=false}, '
        '{kind="grey_cloud", photometric_sigma=0.1}]'
    )
    options = (terms, *GIVEN, "solve.photometric_threshold=0.15")
    whole = solve(tmp_path, *options, output=tmp_path / "a")
    cut = solve(tmp_path, *options, *CUT, output=tmp_path / "b")
    for found in (whole, cut):
        assert any("6 of 8 exposures are photometric" in line for line in found.headlines)
    a, b = (read_solution(f.folder).values for f in (whole, cut))
    np.testing.assert_allclose(a, b, atol=1e-9)


def test_an_interrupted_run_goes_on_where_it_was(tmp_path, monkeypatch):
    make(tmp_path, n_stars=150)
    calls = []
    match = solve_partitions._detections
    monkeypatch.setattr(
        solve_partitions, "_detections", lambda *a: calls.append("match") or match(*a)
    )
    finish = solve_partitions._Writer.finish
    monkeypatch.setattr(solve_partitions._Writer, "finish", _interrupted)
    with pytest.raises(KeyboardInterrupt):
        solve(tmp_path, *CUT)
    assert calls == ["match"]
    monkeypatch.setattr(solve_partitions._Writer, "finish", finish)
    fit = solve_store.fit_partitions
    monkeypatch.setattr(solve_store, "fit_partitions", _interrupted)
    with pytest.raises(KeyboardInterrupt):
        solve(tmp_path, *CUT)  # matched before: partitions alone are made again
    assert calls == ["match"]
    monkeypatch.setattr(solve_store, "fit_partitions", fit)
    monkeypatch.setattr(solve_partitions, "_Writer", None)
    done = solve(tmp_path, *CUT)  # and now nothing but the solution
    assert done.n_done == 32
    assert not (tmp_path / "out" / "match" / "association").exists()
    solve(tmp_path, *CUT, "solve.floor=0.004")  # another floor asks for no other match
    assert calls == ["match"]
    monkeypatch.undo()
    monkeypatch.setattr(
        solve_partitions, "_detections", lambda *a: calls.append("match") or match(*a)
    )
    solve(tmp_path, *CUT, "solve.match_radius=0.9")
    assert calls == ["match", "match"]
    whole = solve(tmp_path, "solve.match_radius=0.9", output=tmp_path / "whole")
    a, b = (read_solution(f).values for f in (tmp_path / "out", whole.folder))
    np.testing.assert_allclose(a, b, atol=3e-5)  # floors are fitted to a tolerance


def _interrupted(*_arguments, **_options):
    raise KeyboardInterrupt


def test_death_of_a_worker_is_survived_by_the_command(tmp_path):
    make(tmp_path, n_stars=250, visits=4)
    killed = []

    def kill():
        end = time.monotonic() + 60.0
        while not killed and time.monotonic() < end:
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)
                killed.append(child.pid)
                break
            time.sleep(0.02)

    def call(output, *more):
        line = ["solve", str(tmp_path / "sources.parquet"), "-c", str(tmp_path / "solve.toml"),
                "-o", str(output), "--set", "report.enabled=false"]  # fmt: skip
        for text in CUT:
            line += ["--set", text]
        return CliRunner().invoke(main, [*line, *more])

    assert call(tmp_path / "one", "-j", "1").exit_code == 0
    thread = threading.Thread(target=kill)
    thread.start()
    result = call(tmp_path / "two", "-j", "2")
    thread.join()
    assert killed
    assert result.exit_code == 0, result.output
    one, two = read_solution(tmp_path / "one"), read_solution(tmp_path / "two")
    assert one.facts["partitions"] > 2
    np.testing.assert_array_equal(two.values, one.values)
    np.testing.assert_array_equal(two.covariance, one.covariance)
