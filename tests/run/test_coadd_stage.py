"""``pogson run`` with ``[coadd]``: backgrounds, tiles, checks, report, resume, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pogson.errors import ConfigError
from pogson.formats import read_catalog, read_exposure, write_exposure
from pogson.formats.coadd_files import read_coadd
from pogson.run import coadd_stage, load_config, run_survey
from pogson.run.coadd_check import predicted_and_found
from pogson.simulate import demo_model, simulate_survey

BASE = ("coadd.tile_size=240", "coadd.overlap=20", "coadd.background_mesh=128",
        "report.enabled=false")  # fmt: skip
TOLD = ('coadd.flattening_sed="night sky"',)


@pytest.fixture(scope="module")
def small_survey(tmp_path_factory):
    """Return the folder of three exposures of one 400-pixel detector: g, r, g."""
    model = demo_model(400)
    stars = replace(model.stars, density=60.0, minimum_separation=6.5)
    camera = replace(model.camera, columns=1, rows=1)
    model = model.with_(n_visits=3, dither=8.0, psf_files="json", stars=stars, camera=camera)
    folder = tmp_path_factory.mktemp("added")
    simulate_survey(model, folder, rng_seed=15)
    return folder


def run(survey, output, *overrides):
    config = load_config(survey / "survey.toml", (*BASE, *overrides), output=output)
    return run_survey(config, workers=1)


@pytest.fixture(scope="module")
def finished(small_survey, tmp_path_factory):
    return run(small_survey, tmp_path_factory.mktemp("out"), *TOLD, "report.enabled=true")


def tiles_of(result, band="g"):
    made = json.loads((result.folder / "coadd" / "coadd.json").read_text())
    return made["bands"][band]["tiles"]


def test_tiles_of_every_band_in_the_state_for_photometry(finished):
    assert finished.failures == ()
    made = json.loads((finished.folder / "coadd" / "coadd.json").read_text())
    assert sorted(made["bands"]) == ["g", "r"]
    assert [len(made["bands"][b]["inputs"]) for b in "gr"] == [2, 1]
    for tile in tiles_of(finished):
        assert tile["status"] == "made"
        coadd = read_coadd(finished.folder / "coadd" / tile["file"])
        exposure = coadd.exposure
        assert (exposure.measure.value, exposure.unit.to_string()) == ("fluence", "nJy")
        assert exposure.flattening_sed == "night sky"
        assert exposure.photo_calib.reference.kind == "total"
        assert coadd.noise.total(x=exposure.box.center[0], y=exposure.box.center[1]) > 1.1


def test_fluxes_are_those_of_the_visits_and_of_the_truth(finished):
    numbers = finished.summary["coadd"]["bands"]["g"]
    assert numbers["n_compared"] >= 15
    assert abs(numbers["median_mmag"]) < 0.5
    pulls = numbers["pulls"]
    print(f"pulls of {pulls['n']} stars: {pulls['rms']:.3f}, "
          f"by the diagonal {numbers['pulls_diagonal']['rms']:.3f}")  # fmt: skip
    # one field: the rms of n normal deviates scatters by 1 / sqrt(2 n), and the background of so
    # small a detector has an error of its own
    assert abs(pulls["rms"] - 1.0) < 0.1 + 3.5 / np.sqrt(2 * pulls["n"])
    assert numbers["pulls_diagonal"]["rms"] > 1.05 * pulls["rms"]
    found = numbers["completeness"]
    assert abs(found["reached"] - found["expected"]) < 4 * found["expected_err"] + 1
    table = read_catalog(next((finished.folder / "stages" / "coadd_check").glob("g-*.parquet")))
    assert {"flux", "flux_err", "flux_err_diagonal", "visit_flux", "true_flux"} <= set(
        table.colnames
    )
    assert (table["flux_err"] > table["flux_err_diagonal"]).all()


def test_backgrounds_are_taken_out_and_can_be_put_back(finished):
    record = next((finished.folder / "stages" / "coadd_visits").glob("*-g.json"))
    image = json.loads(record.read_text())["images"][0]
    assert image["background_subtracted"]
    before, after = (np.array(image["maps"][n], float) for n in ("before", "after"))
    assert abs(np.median(after)) < 0.02 * np.median(before)
    ready = read_exposure(image["file"])
    assert np.nanmedian(ready.restore_background().image) > 10 * abs(np.nanmedian(ready.image))


def test_the_report_shows_it(finished):
    html = finished.report.read_text()
    parts = ("counts", "background-g", "background-r", "fluxes", "pulls", "completeness", "states")
    for anchor in ("coadd", *(f"coadd-{part}" for part in parts)):
        assert f'<section id="{anchor}">' in html, anchor
    states = html.split('<section id="coadd-states">')[1].split("</section>")[0]
    for words in ("g-0-0", "fluence", "night sky", "subtracted", "image of a visit"):
        assert words in states, words
    assert any(line.startswith("Coadd, g:") for line in finished.headlines)


def test_nothing_is_done_twice_and_a_lost_tile_is_made_again(finished, small_survey):
    again = run(small_survey, finished.folder, *TOLD)
    assert again.n_computed == 0
    kept = [finished.folder / "coadd" / t["file"] for t in tiles_of(finished)]
    times = [p.stat().st_mtime_ns for p in kept[1:]]
    kept[0].unlink()
    mended = run(small_survey, finished.folder, *TOLD)
    assert mended.n_computed == 1
    assert kept[0].exists()
    assert [p.stat().st_mtime_ns for p in kept[1:]] == times


def test_interrupted_between_tiles_it_goes_on_where_it_was(finished, small_survey, monkeypatch):
    from pogson.run import coadd_tiles

    real, count = coadd_tiles.make_tile, []

    def interrupted(job):
        count.append(job.image)
        if len(count) == 3:
            raise KeyboardInterrupt
        return real(job)

    changed = (*TOLD, "coadd.kernel=lanczos2")
    monkeypatch.setattr(coadd_tiles, "make_tile", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(small_survey, finished.folder, *changed)
    monkeypatch.undo()
    first = [Path(p).stat().st_mtime_ns for p in count[:2]]
    resumed = run(small_survey, finished.folder, *changed)
    n_tiles = sum(len(tiles_of(resumed, b)) for b in "gr")
    assert resumed.failures == ()
    assert resumed.n_computed == (n_tiles - 2) + n_tiles  # tiles, and the checks of all
    assert [Path(p).stat().st_mtime_ns for p in count[:2]] == first
    run(small_survey, finished.folder, *TOLD)  # as the other tests expect it


def test_a_full_disk_keeps_finished_tiles(finished, small_survey, monkeypatch):
    from pogson.formats import coadd_files

    write, count = coadd_files.write_coadd, []

    def full(path, made):
        count.append(path)
        if len(count) > 2:
            raise OSError(28, "No space left on device")
        return write(path, made)

    changed = (*TOLD, "coadd.clip=false")
    monkeypatch.setattr(coadd_files, "write_coadd", full)
    stopped = run(small_survey, finished.folder, *changed)
    assert stopped.n_done == 3  # the calibration of the exposures stands
    assert {f.stage for f in stopped.failures} == {"coadd"}
    assert all("No space left" in f.reason for f in stopped.failures)
    made = [t for b in "gr" for t in tiles_of(stopped, b)]
    assert len(made) == 2
    monkeypatch.undo()
    resumed = run(small_survey, finished.folder, *changed)
    assert resumed.failures == ()
    n_tiles = sum(len(tiles_of(resumed, b)) for b in "gr")
    assert resumed.n_computed == 2 * (n_tiles - 2)
    run(small_survey, finished.folder, *TOLD)


def test_an_unknown_flattening_is_asked_for_and_not_assumed(small_survey, tmp_path):
    result = run(small_survey, tmp_path / "out", "coadd.enabled=true")
    assert result.n_done == 3
    assert {f.stage for f in result.failures} == {"coadd_visits"}
    assert all("flattening_sed = " in f.reason for f in result.failures)
    assert result.summary["coadd"] is None
    assert not list((tmp_path / "out" / "coadd").glob("*.fits"))


def test_mixed_images_are_refused_with_the_list(finished, small_survey, monkeypatch):
    real = coadd_stage.prepare_visit

    def mixed(job):
        out = real(job)
        if any("002_r" in path for path in job.outputs):  # the only visit in r
            return out
        if any("001001" in path for path in job.outputs):
            write_exposure(job.outputs[0], read_exposure(job.outputs[0]).to("surface_brightness"))
        return out

    changed = (*TOLD, "coadd.background_mesh=80")
    monkeypatch.setattr(coadd_stage, "prepare_visit", mixed)
    result = run(small_survey, finished.folder, *changed)
    (failure,) = result.failures
    assert (failure.key, failure.stage) == ("g", "coadd")
    assert "1001" in failure.reason
    assert "surface brightness" in failure.reason
    assert list(result.summary["coadd"]["bands"]) == ["r"]  # the other band is made


def test_one_lost_visit_does_not_stop_the_others(finished, small_survey, monkeypatch):
    real = coadd_stage.prepare_visit

    def broken(job):
        if any("001001" in path for path in job.outputs):
            raise OSError("the file server is gone")
        return real(job)

    monkeypatch.setattr(coadd_stage, "prepare_visit", broken)
    result = run(small_survey, finished.folder, *TOLD, "coadd.background_mesh=72")
    (failure,) = result.failures
    assert failure.stage == "coadd_visits"
    assert "file server" in failure.reason
    assert result.summary["coadd"]["bands"]["g"]["inputs"] == 1


def test_the_focal_plane_background_on_a_given_plane(finished, small_survey):
    plane = ("coadd.center=[150.0, 2.2]", "coadd.size=[0.6, 0.5]", "coadd.scale=0.3",
             "coadd.background=focal-plane", "coadd.background_order=2")  # fmt: skip
    result = run(small_survey, finished.folder, *TOLD, *plane, "coadd.background_mesh=40")
    assert result.failures == ()
    (tile,) = tiles_of(result)
    assert read_coadd(finished.folder / "coadd" / tile["file"]).exposure.box.shape == (100, 120)
    record = next((finished.folder / "stages" / "coadd_visits").glob("*-g.json"))
    assert "order 2" in json.loads(record.read_text())["background"]
    # the flat for another spectrum needs the flat itself, not only the name of its spectrum
    asked = run(small_survey, finished.folder, *TOLD, *plane, "coadd.sky_sed=moonlight")
    assert {f.stage for f in asked.failures} == {"coadd_visits"}
    assert all("flat" in f.reason for f in asked.failures)


def test_backgrounds_of_visits_are_matched(small_survey, tmp_path, monkeypatch):
    """A plane of moonlight in one visit comes out again; the sky can still be put back."""
    from pogson.images import estimate_background

    real, slope = coadd_stage.prepare_visit, 40.0  # nJy per pixel from edge to edge

    def moonlit(job):
        out = real(job)
        for path in job.outputs:
            if "001001" in path:
                exposure = read_exposure(path)
                x = np.linspace(0.0, 1.0, exposure.box.nx, dtype=np.float32)
                write_exposure(path, exposure.with_(image=exposure.image + slope * x))
        return out

    monkeypatch.setattr(coadd_stage, "prepare_visit", moonlit)
    settings = (*TOLD, "coadd.match_backgrounds=true", "coadd.match_bin=40",
                "report.enabled=true")  # fmt: skip
    result = run(small_survey, tmp_path / "out", *settings)
    assert result.failures == ()
    numbers = result.summary["coadd"]["bands"]
    assert numbers["r"]["matching"] is None  # one visit: nothing to match
    said = numbers["g"]["matching"]
    assert said["n_visits"] == 2
    assert said["unmatched"] == []
    assert said["rms_after"] < 1.5 < 2.0 < said["rms_before"]
    made = json.loads((result.folder / "coadd" / "coadd.json").read_text())
    paths = [Path(i["file"]) for i in made["bands"]["g"]["inputs"]]
    assert {p.parent.name for p in paths} == {"matched"}
    steps = {}
    for path in paths:
        before = read_exposure(path.parent.parent / "visits" / path.name)
        after = read_exposure(path)
        # the sky is not lost: the level is in the background of the image
        np.testing.assert_allclose(
            after.restore_background().image, before.restore_background().image, atol=2e-3
        )
        level = before.image - after.image
        steps["001001" in path.name] = float(np.mean(level[:, -1]) - np.mean(level[:, 0]))
        if "001001" in path.name:
            tilt = estimate_background(after, mesh=100, mask_sources=True).image("fluence")
    # both move by half of the difference, for what they share cannot be told from the sky
    assert steps[True] - steps[False] == pytest.approx(slope, rel=0.15)
    assert abs(tilt[:, -50:].mean() - tilt[:, :50].mean()) < 0.75 * slope
    html = result.report.read_text()
    assert '<section id="coadd-levels">' in html
    assert any("backgrounds of 2 visits matched" in line for line in result.headlines)
    assert run(small_survey, result.folder, *settings).n_computed == 0
    # without it the visits are added as they were prepared, and nothing says otherwise
    plain = run(small_survey, result.folder, *TOLD, "report.enabled=true")
    assert plain.summary["coadd"]["bands"]["g"]["matching"] is None
    assert '<section id="coadd-levels">' not in plain.report.read_text()


@pytest.mark.parametrize(("overrides", "words"), [
    (("coadd.match_degree=9",), "match_degree"),
    (("output.images=false",), "output.images"),
    (("coadd.center=[1.0, 2.0]",), "go together"),
    (("coadd.kernel=sinc",), "lanczos3"),
    (("coadd.tile_size=100", "coadd.overlap=200"), "overlap"),
])  # fmt: skip
def test_wrong_settings_are_refused_before_any_work(small_survey, overrides, words):
    with pytest.raises(ConfigError, match=words):
        load_config(small_survey / "survey.toml", (*TOLD, *overrides))


def test_completeness_of_normal_errors_is_the_predicted_one():
    rng = np.random.default_rng(11)
    true = rng.uniform(100.0, 400.0, 4000)
    error = np.full(true.size, 10.0)
    found = predicted_and_found(true + rng.normal(0, 10.0, true.size), error, error, true, 20.0)
    p = np.array(found["expected"])
    assert abs(sum(found["reached"]) - p.sum()) < 4 * np.sqrt(np.sum(p * (1 - p)))
    # the limit is at a flux of 20 errors
    assert found["depth"] == pytest.approx(31.4 - 2.5 * np.log10(200.0), abs=1e-9)
    # errors too small by 1.3 are seen
    small = predicted_and_found(true + rng.normal(0, 13.0, true.size), error, error, true, 20.0)
    assert np.std(small["pull"]) > 1.2
