"""Tables of sources as they come: in pieces, with names, without sizes, with holes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from astropy.table import Table
from solve_sources_made import SEED, make

from pogson.calib import FluxReference, PhotoCalib
from pogson.errors import ConfigError, FileFormatError, MissingDataError
from pogson.fields import Box
from pogson.formats import read_catalog, write_catalog
from pogson.run import solve_sources
from pogson.run.solve_config import SolveConfig, SourcesConfig
from pogson.run.solve_partitions import scan_sources
from pogson.run.solve_products import read_solution
from pogson.run.solve_run import load_solve_config, run_solve
from pogson.run.solve_sources import iter_sources, joined, read_sources
from pogson.run.solve_stars import FOCAL_SAMPLE, survey_tables, thinning

SOME = Table({"exposure": [7, 7, 8], "band": ["g", "g", "r"], "ra": [1.0, 2.0, 3.0],
              "dec": [1.0, 2.0, 3.0], "x": [1.0, 2.0, 3.0], "y": [3.0, 4.0, 5.0],
              "flux": [1.0, 2.0, 3.0], "flux_err": [0.1, 0.1, 0.1]})  # fmt: skip


def solve(folder, *overrides, **options):
    config = load_solve_config(folder / "solve.toml", ("report.enabled=false", *overrides))
    return run_solve(config, **{"workers": 1, **options})


def shuffled(table, reference):
    rows = np.random.default_rng(SEED).permutation(len(table))
    table["mjd"] = 60000.0 + 0.002 * (np.asarray(table["exposure"]) - 201)
    return table[rows], reference


def same_frame(a, b):
    """Whether all is the same but the box: what sources of the pieces of an image span."""
    for name in ("key", "image", "mjd", "airmass"):
        assert getattr(a, name) == getattr(b, name)
    for name in ("ra", "dec", "x", "y", "flux", "flux_err", "bad", "row"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@pytest.mark.parametrize("cut", [(), ("solve.partitions=always", "solve.partition_rows=300")])
def test_pieces_of_a_table_give_the_same_bits(tmp_path, monkeypatch, cut):
    print("seed", SEED)
    make(tmp_path, n_stars=250, visits=6, change=shuffled)
    config = tmp_path / "solve.toml"
    config.write_text(config.read_text().replace("detector_size = [1000, 1000]\n", ""))
    whole = read_solution(solve(tmp_path, *cut).folder)
    frames = read_sources([tmp_path / "sources.parquet"], SourcesConfig())
    residuals = read_catalog(tmp_path / "out" / "residuals" / "201-1.parquet")
    monkeypatch.setattr(solve_sources, "BATCH", 97)
    source = list(iter_sources([tmp_path / "sources.parquet"], SourcesConfig()))
    assert max(len(f) for f in source) < 97  # in pieces indeed
    assert len(source) > 4 * len(frames)
    for a, b in zip(frames, read_sources([tmp_path / "sources.parquet"], SourcesConfig()),
                    strict=True):  # fmt: skip
        same_frame(a, b)
    pieces = read_solution(solve(tmp_path, *cut, "survey.output=again").folder)
    np.testing.assert_array_equal(whole.values, pieces.values)
    np.testing.assert_array_equal(whole.covariance, pieces.covariance)
    again = read_catalog(tmp_path / "again" / "residuals" / "201-1.parquet")
    assert len(residuals) > 10
    for name in ("id", "residual", "x"):
        np.testing.assert_array_equal(residuals[name], again[name])


def test_images_in_pieces_are_thinned_as_whole_ones(tmp_path, monkeypatch):
    n = 5 * FOCAL_SAMPLE + 3
    rng = np.random.default_rng(SEED)
    table = Table(
        {"exposure": rng.integers(1, 3, n), "detector": np.ones(n, int), "band": ["r"] * n}
    )
    for name in ("ra", "dec", "x", "y", "flux"):
        table[name] = rng.uniform(1, 2, n)
    table["flux_err"] = 0.1
    write_catalog(tmp_path / "s.parquet", table)

    def source():
        return iter_sources([tmp_path / "s.parquet"], SourcesConfig())

    whole = scan_sources(source, SolveConfig(partitions="always"))
    monkeypatch.setattr(solve_sources, "BATCH", 331)
    always = scan_sources(source, SolveConfig(partitions="always"))
    late = scan_sources(source, SolveConfig(partition_rows=n // 9))  # found to be many on the way
    everything = read_sources([tmp_path / "s.parquet"], SourcesConfig())
    for one in (always, late):
        assert one.large
        np.testing.assert_array_equal(one.sizes, whole.sizes)
        for a, b, c in zip(whole.frames, one.frames, everything, strict=True):
            np.testing.assert_array_equal(a.row, b.row)
            np.testing.assert_array_equal(b.row, c.row[:: thinning(len(c))])
            assert FOCAL_SAMPLE / 2 <= len(b) <= FOCAL_SAMPLE
    assert not scan_sources(source, SolveConfig()).large


def test_names_that_are_no_numbers(tmp_path):
    def name(table, reference):
        table.replace_column("exposure", [f"night 1/exp {v}" for v in table["exposure"]])
        table.replace_column("detector", [f"S{v}" for v in table["detector"]])
        lonely = np.flatnonzero(np.char.endswith(np.asarray(table["exposure"]), "206"))
        return table[np.setdiff1d(np.arange(len(table)), lonely[1:])], reference

    make(tmp_path, n_stars=200, visits=6, change=name)
    found = solve(tmp_path)
    assert (found.n_done, found.n_failed) == (20, 1)
    (reason,) = found.failures.values()
    assert "Exposure night 1/exp 206" in reason
    files = {p.name for p in (found.folder / "calibrations").iterdir()}
    assert "night_1_exp_201-S1.json" in files
    assert all((found.folder / "calibrations" / f).is_file() for f in files)
    saved = read_solution(found.folder)
    assert "exposure_zero_point[night 1/exp 201]" in saved.names
    assert "detector_zero_point[g;S2]" in saved.names
    with pytest.raises(ConfigError, match="cannot read"):  # detectors go by their names
        solve(tmp_path, 'solve.terms=[{kind="jacobian", areas={S1="none.json"}}]')
    with pytest.raises(ConfigError, match="the sources have 'S1', 'S2', 'S3' or 'S4'"):
        solve(tmp_path, 'solve.terms=[{kind="jacobian", areas={1="none.json"}}]')


def test_names_that_would_share_a_file_are_refused(tmp_path):
    table = SOME.copy()
    table.replace_column("exposure", ["a/1", "a/1", "a_1"])
    write_catalog(tmp_path / "s.parquet", table)
    with pytest.raises(ConfigError, match="same file, 'a_1-0'; rename"):
        read_sources([tmp_path / "s.parquet"], SourcesConfig())


def test_detectors_are_as_large_as_the_sources_of_all_tables(tmp_path):
    def corner(table, reference):
        small = (np.asarray(table["x"]) < 500) & (np.asarray(table["y"]) < 500)
        return table[small | (np.asarray(table["exposure"]) != 201)], reference

    make(tmp_path, n_stars=400, visits=6, change=corner)
    table = read_catalog(tmp_path / "sources.parquet")
    for e in np.unique(table["exposure"]):
        write_catalog(tmp_path / f"s{e}.parquet", table[table["exposure"] == e])
    text = (tmp_path / "solve.toml").read_text().replace("detector_size = [1000, 1000]\n", "")
    (tmp_path / "solve.toml").write_text(text.replace("sources.parquet", "s2*.parquet"))
    solve(tmp_path, 'solve.terms=[{kind="exposure_zero_point"}, {kind="star_flat", order=1}]')
    out = json.loads((tmp_path / "out" / "calibrations" / "201-1.json").read_text())
    box = PhotoCalib.from_dict(out["photo_calib"]).field.box
    on = table["detector"] == 1
    assert box.contains(x=np.max(table["x"][on]), y=np.max(table["y"][on]))
    assert (box.x_min, box.y_min) == (0, 0)


def test_places_that_are_not_finite_do_not_make_a_detector_infinite(tmp_path):
    table = SOME.copy()
    table["x"][0], table["y"][1] = np.inf, np.nan
    write_catalog(tmp_path / "s.parquet", table)
    frames = read_sources([tmp_path / "s.parquet"], SourcesConfig())
    assert [f.box for f in frames] == [Box(0, 0, 4, 6)] * 2


@pytest.mark.parametrize(("column", "values", "said"), [
    ("exposure", np.ma.array([7, 7, 8], mask=[False, True, False]), "1 rows have no exposure"),
    ("exposure", np.array([7.0, 7.0, np.nan]), "the first is row 2"),
    ("band", ["g", "", "g"], "1 rows have no band in column 'band', the first is row 1"),
    ("flux", ["a", "b", "c"], "column 'flux' holds"),
    ("band", ["g", "r", "g"], "one filter"),
])  # fmt: skip
@pytest.mark.parametrize("suffix", ["parquet", "ecsv"])
def test_rows_that_do_not_say_what_they_are_of(tmp_path, column, values, said, suffix):
    table = Table(SOME, masked=isinstance(values, np.ma.MaskedArray))
    table.replace_column(column, values)
    write_catalog(tmp_path / f"s.{suffix}", table)
    with pytest.raises(MissingDataError, match=said):
        read_sources([tmp_path / f"s.{suffix}"], SourcesConfig())


def test_bands_are_compared_over_all_pieces(tmp_path, monkeypatch):
    table = SOME.copy()
    table["band"] = ["g", "r", "g"]
    write_catalog(tmp_path / "s.parquet", table)
    monkeypatch.setattr(solve_sources, "BATCH", 1)
    with pytest.raises(MissingDataError, match="one filter"):
        read_sources([tmp_path / "s.parquet"], SourcesConfig())


def test_integers_read_as_floats_and_blanks_are_the_same_exposure(tmp_path):
    table = SOME.copy()
    table.replace_column("exposure", np.array([7.0, 7.0, 8.0]))
    table.replace_column("band", ["g", "g ", "r"])
    write_catalog(tmp_path / "s.parquet", table)
    frames = read_sources([tmp_path / "s.parquet"], SourcesConfig())
    assert [(f.key, f.band, len(f)) for f in frames] == [("7-0", "g", 2), ("8-0", "r", 1)]


def test_damaged_and_empty_tables(tmp_path):
    (tmp_path / "s.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(FileFormatError, match="parquet"):
        read_sources([tmp_path / "s.parquet"], SourcesConfig())
    write_catalog(tmp_path / "t.parquet", SOME[:0])
    with pytest.raises(MissingDataError, match="no rows"):
        read_sources([tmp_path / "t.parquet"], SourcesConfig())


def test_tables_of_a_run_with_detector_0_and_images_of_one_exposure_apart(tmp_path):
    table = SOME[["ra", "dec", "x", "y"]]
    table["flux_total"], table["flux_total_err"], table["main_flags"] = 10.0, 1.0, 0
    record = {"values": {"mjd": 6e4}, "flux_column": "flux_total", "unit": "adu", "band": "r",
              "reference": FluxReference.total().to_dict(), "box": [0, 0, 9, 9],
              "exposure_id": 7}  # fmt: skip
    for key, detector in (("a", 0), ("b", None), ("c", None)):
        write_catalog(tmp_path / f"{key}.parquet", table)
        said = {**record, "key": key, "detector": detector}
        (tmp_path / f"{key}.json").write_text(json.dumps(said))
    frames = read_sources([tmp_path / f"{k}.parquet" for k in "abc"], SourcesConfig())
    assert sorted((f.key, f.detector) for f in frames) == [("a", "0"), ("b", ""), ("c", "")]
    assert [len(f) for f in frames] == [3, 3, 3]


def test_conditions_of_pieces_are_their_mean():
    frames = solve_sources.wide_frames(SOME, SourcesConfig(), "t")
    from dataclasses import replace

    a = replace(frames[0], mjd=1.0, airmass=np.nan)
    b = replace(frames[0], mjd=4.0, airmass=1.3)
    one = joined([a, b, a])
    assert (one.mjd, one.airmass, len(one)) == (2.0, 1.3, 6)
    assert np.isnan(one.seeing)


@pytest.mark.parametrize(("terms", "said"), [
    ('[{kind="exposure_zero_point"},{kind="mirror_decay",prior_sigma=0.1}]', "mirror_decay"),
    ('[{kind="airmass_extinction"}]', "'airmass_extinction' needs the mjd of every .* none: 203"),
    ('[{kind="exposure_zero_point"},{kind="star_flat",by=["night"]}]', "star_flat"),
])  # fmt: skip
def test_terms_that_go_by_time_need_the_time(tmp_path, terms, said):
    def forget(table, reference):
        table["mjd"][table["exposure"] == 203] = np.nan
        return table, reference

    make(tmp_path, n_stars=60, visits=4, change=forget)
    with pytest.raises(ConfigError, match=said):
        solve(tmp_path, f"solve.terms={terms}")
    with pytest.raises(ConfigError, match="floor_per = 'night' needs the mjd"):
        solve(tmp_path, "solve.floor_per=night")
    frames = read_sources([tmp_path / "sources.parquet"], SourcesConfig())
    survey_tables(frames, SolveConfig())  # others do not


SPEED, SPAN = 2000.0, 6.0  # of one star, milliarcsec a year; years between first and last exposure


def moving(table, reference):
    """Spread the exposures over years; let star 200 move, as the catalogue says."""
    year = SPAN * (np.asarray(table["exposure"]) - 201) / 7.0
    table["mjd"] = 57388.5 + 365.25 * year  # 2016.0 is 57388.5
    on = np.asarray(table["star"]) == 200
    table["ra"][on] += SPEED / 3.6e6 * year[on] / np.cos(np.radians(table["dec"][on]))
    reference["pmra"] = np.where(reference["id"] == 200, SPEED, 1.0)
    reference["pmdec"] = 0.0
    reference["epoch"] = 2016.0
    return table, reference


def test_a_star_that_moves_is_one_star_with_its_reference(tmp_path):
    make(tmp_path, n_stars=300, visits=8, change=moving)
    found = solve(tmp_path)
    stars = read_catalog(found.folder / "stars.parquet")
    reference = read_catalog(tmp_path / "reference.parquet")
    (truth,) = reference[reference["id"] == 200]
    for band in "gr":
        near = (np.abs(stars["ra"] - truth["ra"]) < 20.0 / 3600) & (
            np.abs(stars["dec"] - truth["dec"]) < 0.1 / 3600
        )
        (star,) = stars[near & (stars["band"] == band)]
        assert star["detections"] == 4
        assert star["reference_mag"] == pytest.approx(truth[f"mag_{band}"])
        assert not star["suspect"]
    cut = ("solve.partitions=always", "solve.partition_rows=300", "survey.output=parts")
    one, parts = (read_solution(f).facts for f in (found.folder, solve(tmp_path, *cut).folder))
    for name in ("stars", "detections", "references", "left_out"):
        assert one[name] == parts[name]
    for name in ("pmra", "pmdec", "epoch"):
        del reference[name]
    write_catalog(tmp_path / "reference.parquet", reference)
    still = read_solution(solve(tmp_path, "survey.output=still").folder).facts
    assert still["stars"] == one["stars"] + 6  # each detection a star: eight instead of two
    assert still["references"] < one["references"]
