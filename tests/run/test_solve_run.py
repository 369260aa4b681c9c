"""``pogson solve`` on tables with known truth: numbers, products, and bad input."""

from __future__ import annotations

import json

import numpy as np
import pytest
from astropy.table import Table, vstack
from solve_sources_made import FLOOR, SEED, SLOPE, make

from pogson.calib import PhotoCalib
from pogson.errors import CalibrationError, ConfigError, MissingDataError
from pogson.formats import read_catalog
from pogson.run.solve_config import SourcesConfig
from pogson.run.solve_products import read_solution
from pogson.run.solve_run import load_solve_config, run_solve
from pogson.run.solve_sources import read_sources


def solve(folder, *overrides, **options):
    quick = ("report.enabled=false", *overrides)
    config = load_solve_config(folder / "solve.toml", quick)
    return run_solve(config, **{"workers": 1, **options})


def exposures(result):
    return read_catalog(result.folder / "exposures.parquet")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    print("seed", SEED)
    folder = tmp_path_factory.mktemp("made")
    zero = make(folder)
    return folder, zero, solve(folder, "solve.held_out=0.15", "report.enabled=true")


def test_zero_points_are_those_put_in_and_errors_are_honest(finished):
    _, zero, result = finished
    assert (result.n_done, result.n_failed, result.computed) == (32, 0, True)
    table = exposures(result)
    saved = read_solution(result.folder)
    rows = [saved.names.index(f"exposure_zero_point[{201 + v}]") for v in zero]
    # the detectors' mean response is part of the exposures' zero points: 0.002 mag
    difference = saved.values[rows] - (np.array(list(zero.values())) - 0.002)
    covariance = saved.covariance[np.ix_(rows, rows)]
    chi2 = difference @ np.linalg.solve(covariance, difference)
    from scipy.stats import chi2 as law

    print("chi2 of the zero points", chi2, "worst, mmag", 1e3 * np.abs(difference).max())
    assert 0.001 < law.sf(chi2, len(rows)) < 0.999
    assert np.all(table["zero_point_err"] < 0.003)
    slopes = [saved[f"color_slope[{b};c1]"] for b in "gr"]
    np.testing.assert_allclose(slopes, [SLOPE["g"], SLOPE["r"]], atol=0.004)
    np.testing.assert_allclose(saved.facts["floors"], FLOOR, atol=6e-4)
    assert saved.facts["validation"]["p_value"] > 0.001
    assert np.all(np.abs(table["chi2"] - 1.0) < 0.35)


def test_calibrations_carry_their_covariance(finished):
    _, zero, result = finished
    found = json.loads((result.folder / "calibrations" / "203-4.json").read_text())
    calib = PhotoCalib.from_dict(found["photo_calib"])
    assert any(n.startswith("exposure_zero_point[203]") for n in calib.covariance.names)
    assert calib.bandpass == "g"
    error = float(calib.zero_point_error(x=500.0, y=500.0))
    assert 0.0003 < error < 0.003
    expected = 10 ** (0.4 * (31.4 - zero[2]))
    # detector 4 is one with no loss, in the exposure with zero point zero[2]
    assert calib.mean() == pytest.approx(expected, rel=4 * 0.92 * error)


def test_stars_are_calibrated(finished):
    _, _, result = finished
    stars = read_catalog(result.folder / "stars.parquet")
    good = stars[np.isfinite(stars["reference_mag"]) & (stars["detections"] > 2)]
    pull = (good["mag"] - good["reference_mag"]) / np.hypot(good["mag_err"], 0.01)
    assert abs(np.median(pull)) < 0.3
    np.testing.assert_allclose(stars["njy"], 10 ** (0.4 * (31.4 - stars["mag"])))
    assert "The global solution" in result.report.read_text()


def test_nothing_is_done_twice(finished, tmp_path):
    make(tmp_path)
    first = solve(tmp_path)
    again = solve(tmp_path)
    assert (first.computed, again.computed) == (True, False)
    assert again.headlines == first.headlines
    assert solve(tmp_path, "solve.floor=0.004").computed


def test_products_of_another_way_to_solve_do_not_stay(tmp_path):
    make(tmp_path, n_stars=80, visits=4)
    cut = ("solve.partitions=always", "solve.partition_rows=100")
    folder = solve(tmp_path, *cut).folder
    assert len(list((folder / "stars").iterdir())) > 1
    assert not (folder / "stars.parquet").exists()
    solve(tmp_path)
    assert (folder / "stars.parquet").exists()
    assert not (folder / "stars").exists()
    solve(tmp_path, *cut)
    assert not (folder / "stars.parquet").exists()


def test_stars_are_suspect_by_the_probability_asked_for(tmp_path):
    make(tmp_path, n_stars=150, visits=6)
    few, many = (
        read_solution(solve(tmp_path, f"solve.suspect_probability={p}").folder).facts["n_suspects"]
        for p in (1e-6, 0.2)
    )
    assert few < 5 < 20 < many < 120
    cut = ("solve.partitions=always", "solve.partition_rows=300", "solve.suspect_probability=0.2")
    assert read_solution(solve(tmp_path, *cut).folder).facts["n_suspects"] == many


@pytest.mark.parametrize("kind", ["serial", "processes"])
def test_partitions_give_the_same_zero_points(tmp_path, kind):
    make(tmp_path, n_stars=200)
    options = ("solve.floor=0.003", "solve.reference_floor=0.0")
    whole = exposures(solve(tmp_path, *options))
    cut = solve(
        tmp_path, *options, "solve.partitions=always", "solve.partition_rows=300", kind=kind,
        workers=2,
    )  # fmt: skip
    assert read_solution(cut.folder).facts["partitions"] > 2
    np.testing.assert_allclose(exposures(cut)["zero_point"], whole["zero_point"], atol=1e-10)
    np.testing.assert_allclose(exposures(cut)["zero_point_err"], whole["zero_point_err"], rtol=1e-6)
    assert len(list((cut.folder / "stars").glob("*.parquet"))) > 2


# -- bad input -------------------------------------------------------------------------------
def test_degenerate_terms_are_named_before_solving(tmp_path):
    make(tmp_path, n_stars=150)
    bad = 'solve.terms=[{kind="exposure_zero_point"}, {kind="detector_zero_point", gauge=false}]'
    with pytest.raises(ConfigError, match=r"exposure_zero_point.*detector_zero_point") as caught:
        solve(tmp_path, bad)
    assert "do not determine" in str(caught.value)
    assert "prior_sigma" in str(caught.value)
    assert not (tmp_path / "out" / "solution.json").exists()
    found = solve(tmp_path, bad, "solve.gauge=anchor")
    assert any("Gauge" in line for line in found.headlines)


def test_without_references_the_scale_must_be_chosen(tmp_path):
    make(tmp_path, n_stars=150)
    terms = 'solve.terms=[{kind="exposure_zero_point"}]'
    with pytest.raises(ConfigError, match="gauge = 'anchor' for a relative"):
        solve(tmp_path, terms, "solve.references=false")
    found = solve(tmp_path, terms, "solve.references=false", "solve.gauge=anchor")
    assert "no references (relative)" in found.headlines[1]


def test_a_disconnected_set_is_reported_and_refused_without_anchor(tmp_path):
    def away(table, reference):
        far = np.isin(table["exposure"], [205, 207])
        table["dec"][far] += 20.0
        return table, reference

    make(tmp_path, n_stars=200, change=away)
    with pytest.raises(ConfigError, match=r"205.*207"):
        solve(tmp_path)
    found = solve(tmp_path, "solve.gauge=anchor")
    assert any("no reference ties them" in line for line in found.headlines)


def test_a_disconnected_set_with_references_is_anchored(tmp_path):
    def away(table, reference):
        far = np.isin(table["exposure"], [205, 207])
        table["dec"][far] += 20.0
        more = reference.copy()
        more["dec"] += 20.0
        more["id"] += 10_000
        return table, vstack([reference, more])

    zero = make(tmp_path, n_stars=300, change=away)
    found = solve(tmp_path)
    assert any("references tie them" in line for line in found.headlines)
    table = exposures(found)
    row = list(table["exposure"]).index("205")
    assert abs(table["zero_point"][row] - zero[4]) < 0.006


def test_an_exposure_with_one_star_fails_alone(tmp_path):
    def thin(table, reference):
        rows = np.flatnonzero(table["exposure"] == 206)
        return table[np.setdiff1d(np.arange(len(table)), rows[1:])], reference

    make(tmp_path, n_stars=150, change=thin)
    found = solve(tmp_path)
    assert found.n_failed == 1
    (reason,) = found.failures.values()
    assert "Exposure 206 is tied" in reason
    assert "1 star, fewer than solve.min_ties = 3" in reason


def test_duplicates_and_nan_are_counted_and_harmless(tmp_path):
    zero = make(tmp_path / "a")
    clean = exposures(solve(tmp_path / "a"))

    def spoil(table, reference):
        table["flux"][::50] = np.nan
        table["flux_err"][7::50] = 0.0
        table["ra"][11::50] = np.nan
        twice = table[3::40].copy()
        twice["ra"] += 0.1 / 3600
        twice["flux"] *= 1.5
        return vstack([table, twice]), reference

    make(tmp_path / "b", change=spoil)
    found = solve(tmp_path / "b")
    facts = read_solution(found.folder).facts
    assert facts["left_out"]["number missing or error not positive"] > 20
    assert facts["left_out"]["position missing"] > 20
    assert facts["flags"]["DUPLICATE"] > 100
    table = exposures(found)
    # a fifth of the rows is gone: the answers move by a good part of their errors at most
    moved = np.abs(table["zero_point"] - clean["zero_point"])
    assert np.all(moved < 1.5 * clean["zero_point_err"])
    assert len(zero) == len(table)


def test_a_variable_star_is_listed(tmp_path):
    def vary(table, reference):
        on = table["star"] == 350
        table["flux"][on] *= 1.0 + 0.4 * (np.asarray(table["exposure"][on]) // 2 % 2)
        return table, reference

    make(tmp_path, change=vary)
    found = solve(tmp_path)
    sources = read_catalog(tmp_path / "sources.parquet")
    ra = float(sources["ra"][sources["star"] == 350][0])
    suspects = read_solution(found.folder).facts["suspects"]
    assert any(abs(s["ra"] - ra) < 1e-4 for s in suspects)


def test_mismatched_stars_are_rejected_and_listed(tmp_path):
    clean = exposures(solve_made(tmp_path / "clean"))

    def mix(table, reference):
        """Give one star another's flux on two exposures, and one the wrong reference."""
        for exposure in (203, 205):
            on = (table["star"] == 320) & (table["exposure"] == exposure)
            table["flux"][on] *= 2.5
        reference["mag_g"][reference["id"] == 330] += 1.0
        return table, reference

    make(tmp_path / "b", change=mix)
    found = solve(tmp_path / "b")
    facts = read_solution(found.folder).facts
    sources = read_catalog(tmp_path / "b" / "sources.parquet")
    wanted = {n: float(sources["ra"][sources["star"] == n][0]) for n in (320, 330)}
    assert any(s["reference_rejected"] and abs(s["ra"] - wanted[330]) < 1e-4
               for s in facts["suspects"])  # fmt: skip
    assert facts["references_rejected"] >= 1
    assert facts["flags"]["REJECTED"] >= 2
    for exposure in (203, 205):
        seen = [read_catalog(p) for p in found.folder.glob(f"residuals/{exposure}-*.parquet")]
        status = [s for t in seen for s, m in zip(t["status"], t["residual"], strict=True)
                  if m < -0.9]  # fmt: skip
        assert status
        assert set(status) == {"OUTLIER"}
    # zero points are those without the mismatch, to a small part of their errors
    table = exposures(found)
    moved = np.abs(table["zero_point"] - clean["zero_point"])
    assert np.all(moved < 0.3 * clean["zero_point_err"])


def solve_made(folder):
    make(folder)
    return solve(folder)


def test_an_exposure_of_another_filter_is_named(tmp_path):
    def mislabel(table, reference):
        table["band"][table["exposure"] == 202] = "g"  # taken in r
        return table, reference

    make(tmp_path, change=mislabel)
    found = solve(tmp_path)
    assert any("exposure 202 (g)" in line and "filter" in line for line in found.headlines)


@pytest.mark.parametrize("cut", [(), ("solve.partitions=always", "solve.partition_rows=500")])
def test_another_filter_in_a_band_of_few_exposures_can_be_left_out(tmp_path, monkeypatch, cut):
    monkeypatch.setattr("pogson.run.solve_judgement._ENOUGH", 700)  # half of the stars tell

    def mislabel(table, reference):
        table["band"][table["exposure"] == 205] = "r"  # taken in g; r has three
        return table, reference

    zero = make(tmp_path, n_stars=250, visits=6, change=mislabel)
    found = solve(tmp_path, *cut)
    (said,) = [line for line in found.headlines if "another filter" in line]
    assert "exposure 205 (r)" in said
    found = solve(tmp_path, *cut, "solve.exclude=[205]")
    assert set(found.failures) == {f"205-{d}" for d in (1, 2, 3, 4)}
    assert "named in solve.exclude" in found.failures["205-1"]
    assert not any("another filter" in line for line in found.headlines)
    table = exposures(found)
    away = table["zero_point"] - (np.array(list(zero.values())) - 0.002)
    assert np.isnan(away[4])
    assert np.nanmax(np.abs(away)) < 0.004
    with pytest.raises(ConfigError, match="exclude names '999'; the exposures are called 201"):
        solve(tmp_path, *cut, "solve.exclude=[999]")


def test_an_offset_of_the_catalogue_in_one_region_is_shown(tmp_path):
    def shift(table, reference):
        here = (reference["ra"] > 150.05) & (reference["dec"] > 0.05)
        reference["mag_g"][here] += 0.1
        return table, reference

    make(tmp_path, n_stars=900, change=shift)
    found = solve(tmp_path)
    regions = read_solution(found.folder).facts["reference_regions"]
    assert regions
    assert {r["band"] for r in regions} == {"g"}
    for r in regions:
        assert r["ra"] > 150.0
        assert r["dec"] > 0.0
        assert r["median"] > 0.03
    assert any("reference catalogue is off by" in line for line in found.headlines)


@pytest.mark.parametrize(("override", "said"), [
    ('solve.terms=[{kind="exposure_zeropoint"}]', "did you mean 'exposure_zero_point'"),
    ('solve.terms=[{kind="star_flat", ordr=2}]', "Did you mean 'order'"),
    ('solve.terms=[{kind="star_flat", order=0}]', "no parameters"),
    ('solve.terms=[{kind="star_flat", order=1.5}]', "whole number"),
    ('solve.terms=[{kind="detector_zero_point", by="fitler"}]', "by names 'fitler'; allowed"),
    ('solve.terms=[{kind="grey_cloud", cloudy_sigma=-1}]', "must be positive"),
    ('solve.terms=[{kind="exposure_zero_point", prior_sigma=[1, 2]}]', "one for each of the 4"),
    ('solve.terms=[{kind="exposure_zero_point"}, {kind="exposure_zero_point"}]', "two terms"),
    ('solve.terms=[{kind="exposure_zero_point"}, {kind="seeing"}]', "needs the seeing"),
    ('solve.terms=[{kind="jacobian", areas={1="no.json"}}]', "cannot read"),
    ('solve.terms=[{kind="jacobian", areas={9="no.json"}}]', "names detector '9'"),
    ('solve.terms=[{kind="jacobian"}]', "table of field files"),
    ("solve.terms=[]", "at least 1"),
    ("sources.unit=furlong", "not a unit of instrumental flux"),
    ("solve.floor=-1", "0 or more"),
    ("solve.gauge=none", "refuse"),
    ("solve.match_radios=2", "match_radius"),
    ("solve.color=[g, r]", "color"),  # it is that of [reference]
    ("sources.flux=FLUX", "no column 'FLUX'"),
    ("sources.files=no*.parquet", "matches no file"),
    ("solve.min_detections=99", "No star is seen 99 times"),
    ("solve.photometric_threshold=0.01", "grey_cloud"),
    ("reference.catalog=none.parquet", "no file"),
])  # fmt: skip
def test_wrong_configurations_say_what_is_wrong(tmp_path, override, said):
    make(tmp_path, n_stars=60, visits=4)
    with pytest.raises((ConfigError, MissingDataError, CalibrationError), match=said):
        solve(tmp_path, override)


@pytest.mark.parametrize("cut", [(), ("solve.partitions=always", "solve.partition_rows=99")])
def test_a_catalogue_of_another_part_of_the_sky_is_said(tmp_path, cut):
    def elsewhere(table, reference):
        reference["ra"] += 1.0
        return table, reference

    make(tmp_path, n_stars=60, visits=4, change=elsewhere)
    with pytest.raises(ConfigError, match="stars has a reference with g and r within"):
        solve(tmp_path, *cut)
    with pytest.raises(ConfigError, match="No star is in the reference catalogue: choose"):
        solve(tmp_path, *cut, 'solve.terms=[{kind="exposure_zero_point"}]')


def test_stars_held_out_that_are_seen_once_do_not_stop_the_run(tmp_path):
    make(tmp_path, n_stars=60, visits=2)
    terms = 'solve.terms=[{kind="exposure_zero_point"}]'
    found = solve(tmp_path, terms, "solve.held_out=0.3", "solve.floor=0.003",
                  "solve.reference_floor=0.01")  # fmt: skip
    assert any("none can be predicted" in line for line in found.headlines)


@pytest.mark.parametrize("terms", [
    '[{kind="star_flat", ordr=2}]', '[{kind="seeing"}]',
    '[{kind="atmosphere", bandpasses={g="sdss2010-g", r="sdss2010-r"}, solved_colors=["g", "r"]}]',
])  # fmt: skip
def test_wrong_terms_are_refused_before_many_sources_are_matched(tmp_path, terms):
    make(tmp_path, n_stars=60, visits=4)
    with pytest.raises(ConfigError, match=r"ordr|needs the seeing|all stars in memory"):
        solve(tmp_path, "solve.partitions=always", f"solve.terms={terms}")
    assert not (tmp_path / "out" / "match").exists()


def test_a_model_too_large_to_be_searched_says_so(tmp_path, monkeypatch):
    from pogson.run import solve_fit, solve_store

    monkeypatch.setattr(solve_fit, "SEARCHED", 5)
    monkeypatch.setattr(solve_store, "SEARCHED", 5)
    make(tmp_path, n_stars=60, visits=4)
    for cut in ((), ("solve.partitions=always", "solve.partition_rows=99")):
        found = solve(tmp_path, *cut)
        assert any("14 parameters are too many to search" in line for line in found.headlines)


def test_a_place_off_the_sphere_is_counted(tmp_path):
    def off(table, reference):
        table["dec"][3] = 95.0
        return table, reference

    make(tmp_path, n_stars=60, visits=4, change=off)
    counts = read_solution(solve(tmp_path).folder).facts["left_out"]
    assert counts["declination beyond 90 degrees"] == 1


def test_no_sources(tmp_path):
    make(tmp_path, n_stars=30, visits=2)
    with pytest.raises(ConfigError, match="No table of sources"):
        solve(tmp_path, "sources.files=[]")
    config = load_solve_config(tmp_path / "solve.toml")
    with pytest.raises(MissingDataError, match="no table of sources"):
        run_solve(config, [tmp_path / "none.parquet"])


def test_sources_of_other_programs():
    table = Table({"expnum": [1, 1], "RA": [1.0, 2.0], "DEC": [1.0, 2.0], "X": [1.0, 2.0],
                   "Y": [3.0, 4.0], "MAG": [18.0, 19.0], "ERR": [0.1, 0.2]})  # fmt: skip
    from pogson.run.solve_sources import wide_frames

    config = SourcesConfig(exposure="expnum", ra="RA", dec="DEC", x="X", y="Y", mag="MAG",
                           mag_err="ERR", band="r", flux_reference=3.0)  # fmt: skip
    (frame,) = wide_frames(table, config, "t")
    assert (frame.key, frame.band, frame.reference.radius) == ("1-0", "r", 3.0)
    np.testing.assert_allclose(-2.5 * np.log10(frame.flux), [18.0, 19.0])
    table["f"] = ["g", "r"]
    with pytest.raises(MissingDataError, match="one filter"):
        wide_frames(table, config.model_copy(update={"band": "f"}), "t")


def test_the_same_table_twice(tmp_path):
    make(tmp_path, n_stars=30, visits=2)
    file = tmp_path / "sources.parquet"
    with pytest.raises(ConfigError, match="more than once"):
        read_sources([file, file], SourcesConfig())
