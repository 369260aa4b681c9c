"""The whole run on a small simulated survey: results, resume, failures, workers."""

# ruff: noqa: F811 - fixtures are imported by name and shadowed by arguments

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from simulated_run_files import small_survey  # noqa: F401 - a fixture, used by name

from pogson.calib import FluxReference
from pogson.errors import ConfigError
from pogson.formats import read_catalog, read_exposure
from pogson.report import render_html
from pogson.run import RunResult, load_config, run_survey
from pogson.run.reporting import report_data, report_from_folder
from pogson.run.statistics import Detections, associate, repeatability


def run(survey: Path, output: Path, *overrides: str, **options: object) -> RunResult:
    config = load_config(survey / "survey.toml", overrides, output=output)
    return run_survey(config, **{"workers": 1, **options})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def finished(small_survey: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return run(small_survey, tmp_path_factory.mktemp("out"))


def test_everything_is_calibrated_and_agrees_with_truth(finished: RunResult) -> None:
    assert finished.failures == ()
    assert (finished.n_done, finished.n_computed) == (3, 9)
    truth = finished.summary["truth"]
    n = truth["pulls"]["n"]
    print(truth)
    assert abs(truth["pulls"]["rms"] - 1) < 4 / np.sqrt(2 * n)
    for entry in finished.summary["exposures"]:
        v = entry["values"]
        error = np.hypot(v["zero_point_err"], v["truth_median_err"])
        assert abs(v["truth_median"]) < 4 * error
        assert v["pixel_area_error"] < 1e-6


def test_files_say_what_they_hold(finished: RunResult) -> None:
    entry = finished.summary["exposures"][0]
    catalog = read_catalog(finished.folder / "catalogs" / f"{entry['key']}.parquet")
    assert str(catalog["njy_total"].unit) == "nJy"
    assert catalog["njy_total"].info.meta["reference"]["kind"] == "total"
    assert "instrumental flux, not calibrated" in str(catalog["flux_psf"].description)
    # Apertures in nJy are the light inside them, each under its own reference: what the PSF
    # encloses of the total, but for neighbours and defects (medians of clean stars).
    clean = (np.asarray(catalog["main_flags"]) == 0) & (catalog["njy_total"] > 3e4)
    assert clean.sum() > 5
    wanted = FluxReference.aperture(2.0, frame="sky")
    name = f"njy_{wanted.slug}"
    assert FluxReference.from_dict(catalog[name].info.meta["reference"]) == wanted
    assert "not a total flux" in catalog[name].description
    assert f"mag_{wanted.slug}" not in catalog.colnames
    total = catalog["njy_total"]
    fractions = {
        radius: float(np.median((catalog[f"njy_aperture_{radius}arcsec_exact"] / total)[clean]))
        for radius in (1, 2, 3, 5)
    }
    print(fractions)
    assert fractions[1] < fractions[2] < fractions[3] < 1.01
    assert abs(fractions[5] - 1.0) < 0.03
    assert catalog.meta["band"] == entry["band"]
    assert len(catalog) == entry["values"]["n_sources"]
    image = read_exposure(finished.folder / "images" / f"{entry['key']}.fits")
    assert str(image.unit) == "nJy"
    assert image.measure == "fluence"
    assert image.background_subtracted
    assert abs(np.nanmedian(image.image)) < 3 * np.sqrt(np.nanmedian(image.variance))
    summary = json.loads((finished.folder / "summary.json").read_text())
    assert summary == finished.summary
    assert not list(finished.folder.rglob("*.part*"))


def test_report_of_the_run(finished: RunResult, tmp_path: Path) -> None:
    assert finished.report is not None
    html = finished.report.read_text()
    for word in ("Truth beside result", "Repeatability", "base64,", "surface_brightness"):
        assert word in html
    assert "http" not in html.replace("http-equiv", "")
    again = report_from_folder(finished.folder, tmp_path / "again.html")
    assert again.read_text() == html
    data = report_data(finished.folder)
    assert data.stars.used.sum() > 20
    assert len(data.growth) == 3
    assert render_html(data)


def test_second_run_computes_nothing_and_changes_only_what_depends(
    small_survey: Path, tmp_path: Path
) -> None:
    survey = tmp_path / "survey"
    shutil.copytree(small_survey, survey)
    out = tmp_path / "out"
    first = run(survey, out)
    assert run(survey, out).n_computed == 0
    # another output format: only the last stage
    assert run(survey, out, "output.catalog=ecsv").n_computed == 3
    # another fit: zero points and what follows, nothing measured again
    assert run(survey, out, "output.catalog=ecsv", "zero_point.clip=5").n_computed == 6
    # one changed exposure: its three tasks
    image = sorted((survey / "images").glob("*_weight.fits"))[0]
    os.utime(image, ns=(1, 1))
    assert run(survey, out, "output.catalog=ecsv", "zero_point.clip=5").n_computed == 3
    # a lost output is made again
    next((out / "catalogs").glob("*.ecsv")).unlink()
    back = run(survey, out, "output.catalog=ecsv", "zero_point.clip=5")
    assert back.n_computed == 1
    assert [e["values"]["n_sources"] for e in back.summary["exposures"]] == [
        e["values"]["n_sources"] for e in first.summary["exposures"]
    ]


def test_interrupted_run_resumes(
    small_survey: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pogson.run import pipeline

    done = []

    class Impatient:
        def begin(self, stage: str, total: int, reused: int = 0) -> None: ...

        def advance(self, key: str, reason: str | None) -> None:
            done.append(key)
            if len(done) == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(small_survey, tmp_path / "out", listener=Impatient())
    assert not (tmp_path / "out" / "summary.json").exists()
    assert run(small_survey, tmp_path / "out").n_computed == 7
    assert pipeline.__name__


def test_one_bad_exposure_does_not_lose_the_others(small_survey: Path, tmp_path: Path) -> None:
    survey = tmp_path / "survey"
    shutil.copytree(small_survey, survey)
    run(survey, tmp_path / "out")
    image = sorted((survey / "images").glob("*_image.fits"))[1]
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    result = run(survey, tmp_path / "out")
    assert result.n_done == 2
    assert [f.stage for f in result.failures] == ["measure"]
    assert image.name in result.failures[0].reason
    key = result.failures[0].key
    assert not (result.folder / "catalogs" / f"{key}.parquet").exists()  # the old one is gone
    assert not (result.folder / "images" / f"{key}.fits").exists()
    assert result.report is not None
    assert image.name in result.report.read_text()


def test_results_do_not_depend_on_workers(
    small_survey: Path, finished: RunResult, tmp_path: Path
) -> None:
    other = run(small_survey, tmp_path / "out", "output.images=false", workers=2)
    for entry in finished.summary["exposures"]:
        a, b = (
            read_catalog(r.folder / "catalogs" / f"{entry['key']}.parquet")
            for r in (finished, other)
        )
        for name in a.colnames:
            np.testing.assert_array_equal(np.asarray(a[name]), np.asarray(b[name]), err_msg=name)


def test_two_runs_into_one_folder_are_refused(small_survey: Path, tmp_path: Path) -> None:
    import fcntl

    out = tmp_path / "out"
    out.mkdir()
    with (out / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="Another run"):
            run(small_survey, out)


@pytest.mark.parametrize(
    "overrides",
    [("measure.total=growth",), ("measure.total=none", "measure.psf_flux=false"),
     ("measure.background=local",),
     ("zero_point.color_term=fixed", "zero_point.color_term_value=0.0"),
     ("output.catalog=fits", "output.images=false"), ("output.catalog=votable",),
     ("measure.mode=forced", "measure.operator=subpixel5")],
)  # fmt: skip
def test_other_ways_to_run(small_survey: Path, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    result = run(small_survey, tmp_path / "out", *overrides, "report.enabled=false")
    assert result.failures == ()
    for entry in result.summary["exposures"]:
        v = entry["values"]
        # apertures do not hold all the light, and colours are not free: a few per cent at most
        assert abs(v["truth_median"]) < 0.06
    if "measure.mode=forced" in overrides:
        positions = read_catalog(result.folder / "positions.ecsv")
        assert positions.meta["because"].startswith("most sources found")


def test_forced_mode_and_given_zero_points(
    small_survey: Path, finished: RunResult, tmp_path: Path
) -> None:
    from astropy.table import Table

    rows = finished.summary["exposures"]
    table = Table({"exposure": [e["exposure_id"] for e in rows],
                   "zero_point": [e["values"]["zero_point"] for e in rows]})  # fmt: skip
    table.write(tmp_path / "zp.ecsv", format="ascii.ecsv")
    result = run(
        small_survey, tmp_path / "out", "measure.mode=forced", "zero_point.source=table",
        f"zero_point.table={tmp_path / 'zp.ecsv'}", "zero_point.per=exposure",
    )  # fmt: skip
    assert result.failures == ()
    ids = [
        set(read_catalog(result.folder / "catalogs" / f"{e['key']}.parquet")["id"]) for e in rows
    ]
    positions = read_catalog(result.folder / "positions.ecsv")
    assert len(set.union(*ids)) == len(positions)
    # zero points are given: the deepest is the one with the faintest limit in the PSF's area
    noise = {e["key"]: e["values"]["flux_err_sky"] * e["values"]["fwhm"]
             * 10 ** (-0.4 * e["values"]["zero_point"]) for e in rows}  # fmt: skip
    assert positions.meta["from"] == min(noise, key=noise.__getitem__)
    assert "faintest 5-sigma limit" in positions.meta["because"]
    for ours, before in zip(result.summary["exposures"], rows, strict=True):
        assert ours["values"]["zero_point"] == pytest.approx(before["values"]["zero_point"])


def test_association_does_not_depend_on_order(rng: np.random.Generator) -> None:
    ra, dec = rng.uniform(0, 0.02, 300), rng.uniform(-0.01, 0.01, 300)
    group = associate(ra, dec, 5.0)
    order = rng.permutation(300)
    other = associate(ra[order], dec[order], 5.0)
    back = np.empty(300, int)
    back[order] = other
    same = (group[:, None] == group[None, :]) == (back[:, None] == back[None, :])
    assert same.all()
    assert associate([np.nan, 1.0], [0.0, 0.0], 1.0).tolist() == [-1, 0]
    assert associate([359.99999, 0.00001], [0.0, 0.0], 1.0).tolist() == [0, 0]


def test_repeatability_finds_the_scatter_put_in(rng: np.random.Generator) -> None:
    n, visits = 400, 6
    flux = np.full(n, 1e5)
    parts = [
        Detections(np.full(n, v), 10 + np.arange(n) / 100, np.zeros(n),
                   flux * (1 + 0.01 * rng.normal(size=n)), np.full(n, 1e3))
        for v in range(visits)
    ]  # fmt: skip
    table, summary = repeatability({"g": Detections.join(parts)}, 1.0)
    assert table.n.tolist() == [visits] * n
    sigma = np.sqrt(2 / (n * (visits - 1)))
    assert abs(summary["g"]["chi2_per_dof"] - 1) < 4 * sigma
    assert abs(summary["g"]["bright_scatter"] / 0.010857 - 1) < 0.15
