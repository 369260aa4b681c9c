"""The audit of a run on a small simulated survey: verdict, resume, workers, coadds."""

# ruff: noqa: F811 - fixtures are imported by name and shadowed by arguments

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from simulated_run_files import small_survey  # noqa: F401 - a fixture, used by name

from pogson.cli import main
from pogson.errors import ConfigError
from pogson.formats import read_catalog, read_exposure, write_exposure
from pogson.inject import AuditLimits
from pogson.psf import psf_from_dict
from pogson.run import RunResult, load_config, run_survey
from pogson.run.audit_stage import audit_tasks
from pogson.run.auditing import AUDIT_COLUMNS
from pogson.run.config import AuditLimitsConfig
from pogson.run.reporting import report_data

AUDIT = (
    "audit.number=20", "audit.rounds=6", "audit.neighbors=truth.parquet", "report.enabled=false",
    "output.images=false", "audit.magnitudes=[17.5, 23.5]",
)  # fmt: skip


def run(survey: Path, output: Path, *overrides: str, **options: object) -> RunResult:
    config = load_config(survey / "survey.toml", (*AUDIT, *overrides), output=output)
    return run_survey(config, **{"workers": 1, **options})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def audited(small_survey: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return run(small_survey, tmp_path_factory.mktemp("out"), "report.enabled=true")


def rows(result: RunResult) -> dict[str, np.ndarray]:
    table = read_catalog(result.folder / "statistics" / "audit.parquet")
    return {name: np.asarray(table[name]) for name in table.colnames}


def test_injected_flux_comes_back_with_honest_errors(audited: RunResult) -> None:
    assert audited.failures == ()
    assert audited.audit_passed is True
    assert audited.n_computed == 12
    r = rows(audited)
    pulls = r["pull"][r["for_pulls"]]
    print(f"{pulls.size} pulls: mean {pulls.mean():.3f}, rms {np.sqrt(np.mean(pulls**2)):.3f}")
    assert pulls.size > 60
    # errors of mean and rms, and 0.1 for what neighbours are allowed to leave
    assert abs(pulls.mean()) < 0.1 + 4 / np.sqrt(pulls.size)
    assert abs(np.sqrt(np.mean(pulls**2)) - 1) < 0.05 + 4 / np.sqrt(2 * pulls.size)
    audit = json.loads((audited.folder / "audit.json").read_text())
    assert audit["passed"] is True
    for band in audit["bands"].values():
        found = band["exposures"]
        assert found["completeness"]["bright"] > 0.8
        assert found["purity"]["purity"] > 0.9
    assert audited.summary["audit"]["bands"].keys() == audit["bands"].keys()
    assert any(line.startswith("Audit, g:") for line in audited.headlines)


def test_recovery_files_have_meaning_and_reference(audited: RunResult) -> None:
    key = audited.summary["exposures"][0]["key"]
    table = read_catalog(audited.folder / "stages" / "audit" / f"{key}.parquet")
    assert table.colnames == list(AUDIT_COLUMNS)
    assert table["flux_in"].info.meta["reference"]["kind"] == "total"
    assert str(table["flux_out"].unit) == "nJy"
    assert table.meta["band"] == "g"
    assert set(np.asarray(table["round"])) == set(range(6))
    assert len(set(np.asarray(table["id"]))) == len(table)
    values = json.loads((audited.folder / "stages" / "audit" / f"{key}.json").read_text())
    assert values["n_sources"] == len(table)
    assert "electron" in values["photon_noise"]


def test_the_same_source_is_in_every_visit_and_the_stack_compares_their_mean(
    audited: RunResult,
) -> None:
    tables = [
        read_catalog(audited.folder / "stages" / "audit" / f"{e['key']}.parquet")
        for e in audited.summary["exposures"]
    ]
    first, third = tables[0], tables[2]  # both in g
    both, i, j = np.intersect1d(first["id"], third["id"], return_indices=True)
    assert both.size > 20
    np.testing.assert_allclose(first["ra"][i], third["ra"][j], atol=1e-9)
    np.testing.assert_allclose(first["flux_in"][i], third["flux_in"][j], rtol=1e-12)
    assert not np.array_equal(first["x"][i], third["x"][j])  # the visits are dithered
    assert not np.array_equal(first["flux_out"][i], third["flux_out"][j])
    stack = read_catalog(audited.folder / "statistics" / "audit_stack.parquet")
    assert set(np.asarray(stack["band"])) == {"g"}
    assert (np.asarray(stack["n_visits"]) == 2).all()
    row = int(np.flatnonzero(np.isin(np.asarray(stack["id"]), both))[0])
    name = stack["id"][row]
    values = [
        (float(t["flux_out"][k]), float(t["flux_out_err"][k]))
        for t in (first, third)
        for k in np.flatnonzero(np.asarray(t["id"]) == name)
    ]
    flux, err = np.array(values).T
    assert float(stack["flux_out"][row]) == pytest.approx(np.average(flux, weights=err**-2))
    assert float(stack["flux_out_err"][row]) == pytest.approx(np.sum(err**-2.0) ** -0.5)


def test_resume_repeats_only_what_depends(small_survey: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = run(small_survey, out)
    assert first.n_computed == 12
    assert run(small_survey, out).n_computed == 0
    # limits and what is looked at judge the same results anew
    strict = run(small_survey, out, "audit.limits.min_depth_50=30", "audit.bin_width=1.0")
    assert (strict.n_computed, strict.audit_passed) == (0, False)
    assert run(small_survey, out, "audit.seed=3").n_computed == 3
    assert run(small_survey, out, "audit.seed=3", "zero_point.clip=5").n_computed == 9
    off = run(small_survey, out, "audit.enabled=false")
    assert off.audit_passed is None
    assert not (out / "audit.json").exists()
    assert report_data(out).audit is None


def test_an_interrupted_audit_resumes(small_survey: Path, tmp_path: Path) -> None:
    class Impatient:
        stage, done = "", 0

        def begin(self, stage: str, total: int, reused: int = 0) -> None:
            self.stage = stage

        def advance(self, key: str, reason: str | None) -> None:
            self.done += self.stage == "audit"
            if self.done == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(small_survey, tmp_path / "out", listener=Impatient())
    assert run(small_survey, tmp_path / "out").n_computed == 1


def test_results_do_not_depend_on_workers(
    small_survey: Path, audited: RunResult, tmp_path: Path
) -> None:
    other = run(small_survey, tmp_path / "out", workers=2)
    a, b = rows(audited), rows(other)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_broken_limits_end_with_exit_code_1(small_survey: Path, tmp_path: Path) -> None:
    text = (small_survey / "survey.toml").read_text()
    config = tmp_path / "survey.toml"
    config.write_text(
        text.replace('"images/', f'"{small_survey}/images/').replace(
            '"psf/', f'"{small_survey}/psf/').replace(
            'catalog = "', f'catalog = "{small_survey}/')
        + f'[audit]\nnumber = 20\nrounds = 4\nneighbors = "{small_survey}/truth.parquet"\n'
        "[audit.limits]\nmin_depth_50 = 27.0\nmin_bright_completeness = 0.3\nsignificance = 0\n"
    )  # fmt: skip
    args = ["run", str(config), "-o", str(tmp_path / "out"), "-q", "-j", "1"]
    result = CliRunner().invoke(main, args)
    print(result.output)
    assert result.exit_code == 1
    assert "Audit BROKEN: g exposures: min_depth_50 is" in result.stdout
    report = (tmp_path / "out" / "report.html").read_text()
    assert "broken: beyond the limit" in report
    assert "2 of 4" in report  # both bands: bright sources are found, the depth is not reached
    kept = CliRunner().invoke(main, [*args, "--set", "audit.limits.min_depth_50=18"])
    assert kept.exit_code == 0, kept.output
    assert CliRunner().invoke(main, [*args, "--no-audit"]).exit_code == 0


def test_an_aperture_that_does_not_fit_the_psf_is_caught(
    small_survey: Path, tmp_path: Path
) -> None:
    """Sources drawn with another PSF than the calibration believes in come back too faint."""
    import shutil

    survey = tmp_path / "survey"
    shutil.copytree(small_survey, survey)
    wide = survey / "wide"
    wide.mkdir()
    for path in (survey / "psf").glob("*.json"):
        psf = json.loads(path.read_text())
        assert psf["kind"] == "moffat"
        (wide / path.name).write_text(json.dumps({**psf, **_wider(psf)}))
    result = run(
        survey, tmp_path / "out", "audit.injection_psf=wide/{stem}.{detector}.json",
        "audit.limits.max_bias_mmag=15",
    )  # fmt: skip
    print(*result.headlines, sep="\n")
    assert result.audit_passed is False
    # what the wide PSF has less within 3 arcsec than the PSF that converts to total
    energy = [
        psf_from_dict(json.loads(next(folder.glob("*_g_*.json")).read_text())).enclosed_energy(
            3.0 / 0.263, x=np.array([160.0]), y=np.array([160.0])
        )
        for folder in (survey / "psf", wide)
    ]
    expected = 2500 * np.log10(float(energy[0][0]) / float(energy[1][0]))
    found = result.summary["audit"]["bands"]["g"]["exposures"]["bias"]["overall"]
    print(f"expected {expected:.1f} mmag")
    assert expected > 15
    assert abs(found["median_mmag"] - expected) < 4 * found["median_err_mmag"] + 0.1 * expected


def _wider(psf: dict) -> dict:
    """Return the changed parameters of a Moffat PSF with far more light in its wings."""
    assert "beta" in psf
    return {"beta": 2.2}


def test_another_reference_is_converted(
    small_survey: Path, audited: RunResult, tmp_path: Path
) -> None:
    result = run(small_survey, tmp_path / "out", "audit.reference=aperture 1.5 arcsec")
    r, before = rows(result), rows(audited)
    pulls = r["pull"][r["for_pulls"]]
    assert abs(pulls.mean()) < 0.1 + 4 / np.sqrt(pulls.size)
    # the same magnitudes, now of part of the light: more light in all
    ratio = r["flux_in"] / before["flux_in"]
    assert (ratio > 1.02).all()
    assert (ratio < 2.0).all()


def test_native_images_in_njy_are_audited_like_coadds(small_survey: Path, tmp_path: Path) -> None:
    """A calibrated, background-subtracted native file goes in as a coadd does."""
    first = run(small_survey, tmp_path / "first", "output.images=true", "audit.enabled=false")
    images = sorted((first.folder / "images").glob("*.fits"))
    exposure = read_exposure(images[0])
    folder = tmp_path / "coadds"
    folder.mkdir()
    write_exposure(folder / "coadd.fits", exposure)
    (folder / "survey.toml").write_text(
        f'[inputs]\nexposures = "coadd.fits"\n[zero_point]\nsource = "header"\n'
        f'[audit]\nnumber = 20\nrounds = 6\nneighbors = "{small_survey}/truth.parquet"\n'
        "[audit.limits]\nmax_pull_rms = 1.3\n"
    )
    result = run_survey(load_config(folder / "survey.toml"), workers=1)
    print(*result.headlines, sep="\n")
    assert result.failures == ()
    assert result.audit_passed is True
    r = rows(result)
    pulls = r["pull"][r["for_pulls"]]
    assert abs(pulls.mean()) < 0.1 + 4 / np.sqrt(pulls.size)


def test_an_exposure_without_psf_is_calibrated_but_not_audited(
    small_survey: Path, tmp_path: Path
) -> None:
    text = (small_survey / "survey.toml").read_text()
    bare = small_survey / "bare.toml"
    bare.write_text("".join(x for x in text.splitlines(True) if not x.startswith("psf =")))
    config = load_config(
        bare, [*AUDIT, "measure.total=none", "audit.limits.max_bias_mmag=50"],
        output=tmp_path / "out",
    )  # fmt: skip
    result = run_survey(config, workers=1)
    assert result.n_done == 3
    assert {f.stage for f in result.failures} == {"audit"}
    assert "injection_psf" in result.failures[0].reason
    assert result.audit_passed is False
    assert all(e["status"] == "done" for e in result.summary["exposures"])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("audit.neighbors=nothing.parquet", "audit"),
        ("audit.distribution=nothing.parquet", "audit"),
        ("audit.reference=aperture 12", "names no flux reference"),
        ("audit.reference=psf", "aperture"),
        ("audit.magnitudes=[24, 20]", "bright, faint"),
        ("audit.number=5000", "at most"),
        ("audit.limits.max_bias=3", "max_bias_mmag"),
        ("audit.pattern=spiral", "hexagonal"),
        ("audit.injection_psf=psf/{night}.json", "injection_psf"),
        ("audit.weight=w", "distribution"),
    ],
)
def test_wrong_settings_are_refused(
    small_survey: Path, tmp_path: Path, override: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        run(small_survey, tmp_path / "out", override)


def test_config_and_audit_know_the_same_limits() -> None:
    ours = {f.name for f in fields(AuditLimits)} - {"max_star_contamination"}
    assert set(AuditLimitsConfig.model_fields) == ours
    assert audit_tasks.__doc__


def test_magnitudes_from_a_distribution(small_survey: Path, tmp_path: Path) -> None:
    from astropy.table import Table

    path = tmp_path / "population.ecsv"
    Table({"mag_g": [19.0, 20.0], "mag_r": [18.5, 19.0], "w": [0.0, 1.0]}).write(
        path, format="ascii.ecsv"
    )
    result = run(small_survey, tmp_path / "out", f"audit.distribution={path}", "audit.weight=w",
                 "audit.rounds=1", "audit.avoid=3")  # fmt: skip
    r = rows(result)
    np.testing.assert_allclose(r["magnitude"][r["band"] == "g"], 20.0)
    np.testing.assert_allclose(r["magnitude"][r["band"] == "r"], 19.0)
    assert (r["neighbour_distance"] >= 0).all()
