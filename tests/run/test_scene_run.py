"""`pogson.run.scene_run`: from files to fluxes, in parallel, resumable; and bad input."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from scene_exposure_files import where, write_exposures

from pogson.errors import ConfigError
from pogson.formats import read_catalog, write_catalog
from pogson.run.scene_config import load_scene_config
from pogson.run.scene_run import describe_scene_plan, run_scene
from pogson.scene import offset_position
from pogson.simulate import SceneJobModel, write_scene_job

SEED = 41
MODEL = SceneJobModel(n_targets=2, n_exposures=4, size=25)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    return write_scene_job(MODEL, tmp_path_factory.mktemp("scene"), rng_seed=SEED)


@pytest.fixture(scope="module")
def result(job, tmp_path_factory):
    config = load_scene_config(job[0], ["nulls.enabled=true"], output=tmp_path_factory.mktemp("o"))
    return run_scene(config, workers=1)


@pytest.fixture
def fresh(tmp_path):
    """A job of one target whose files a test may spoil."""
    return write_scene_job(
        SceneJobModel(n_targets=1, n_exposures=4, size=25), tmp_path, rng_seed=SEED
    )


def run_fresh(fresh, *overrides):
    return run_scene(load_scene_config(fresh[0], overrides), workers=1)


def only_target(result):
    (target,) = result.summary["targets"]
    return target


class TestStamps:
    def test_fluxes_agree_with_truth(self, job, result):
        table = read_catalog(result.table)
        truth = {t.name: t.fluxes[0] for t in job[1]}
        pulls = [(r["flux"] - truth[r["target"]]) / r["flux_err"] for r in table]
        print(f"seed {SEED}, pulls {pulls}")
        assert len(pulls) == 2
        assert np.abs(pulls).max() < 4.0  # 1e-4 by chance for two

    def test_table_says_what_its_fluxes_are(self, result):
        table = read_catalog(result.table)
        assert table["flux"].unit == "nJy"
        assert table["flux"].info.meta["reference"]["kind"] == "total"
        assert table["flux_err"].info.meta["measure"] == "fluence"
        assert table.meta["failed"] == {}
        np.testing.assert_allclose(table["magnitude"], 31.4 - 2.5 * np.log10(table["flux"]))

    def test_json_has_covariance_and_exposures(self, result):
        content = json.loads((result.folder / "scene.json").read_text())
        assert content["n_done"] == 2
        for target in content["targets"]:
            n = len(target["fluxes"])
            assert np.shape(target["covariance"]) == (n, n)
            assert len(target["exposures"]) == 4
            assert 0.8 < target["chi2"] / target["dof"] < 1.2
            assert 0.6 < target["null_rms"] < 1.5

    def test_page_holds_pictures_and_needs_no_network(self, result):
        html = result.report.read_text()
        assert html.count("data:image/png") >= 3
        assert "http" not in html

    def test_second_run_computes_nothing_and_a_changed_stamp_only_its_target(self, fresh):
        first = run_fresh(fresh)
        assert first.n_computed == 1
        assert run_fresh(fresh).n_computed == 0
        stamp = fresh[0].parent / "stamps" / "t0000_101.fits"
        stamp.write_bytes(stamp.read_bytes())
        again = run_fresh(fresh)
        assert again.n_computed == 1
        assert run_fresh(fresh, "model.sky_order=1").n_computed == 1

    def test_workers_do_not_change_the_result(self, job, result, tmp_path):
        config = load_scene_config(job[0], ["nulls.enabled=true"], output=tmp_path)
        other = run_scene(config, workers=2, kind="processes")
        a, b = read_catalog(result.table), read_catalog(other.table)
        np.testing.assert_allclose(a["flux"], b["flux"], rtol=1e-6)

    def test_light_curve_has_a_flux_for_every_epoch(self, tmp_path):
        model = SceneJobModel(kind="light_curve", n_targets=1, n_exposures=6, size=25)
        config, truths = write_scene_job(model, tmp_path, rng_seed=SEED + 1)
        found = run_scene(load_scene_config(config), workers=1)
        table = read_catalog(found.table)
        truth = dict(zip([str(100 + k) for k in range(6)], truths[0].fluxes, strict=True))
        assert list(table["exposure"]) == [e for e, f in truth.items() if f > 0]
        pulls = [(r["flux"] - truth[r["exposure"]]) / r["flux_err"] for r in table]
        assert np.abs(pulls).max() < 4.5
        covariance = np.array(only_target(found)["covariance"])
        assert (covariance - np.diag(np.diag(covariance))).any()

    def test_binary_reports_both_and_the_comparison(self, tmp_path):
        model = SceneJobModel(kind="binary", n_targets=1, n_exposures=4, size=25,
                              flux=(4000.0, 4000.1), separation=0.9)  # fmt: skip
        config, _ = write_scene_job(model, tmp_path, rng_seed=SEED + 2)
        found = run_scene(load_scene_config(config), workers=1)
        target = only_target(found)
        assert target["binary"]["is_binary"]
        assert abs(target["binary"]["separation_arcsec"] - 0.9) < 0.2
        assert [f["source"] for f in target["fluxes"]] == ["target/A", "target/B"]
        table = read_catalog(found.table)
        for row, part in zip(table, ("flux_a", "flux_b"), strict=True):
            interval = target["binary"]["intervals"][part]
            assert row["flux_low"] == pytest.approx(interval["low"])
            assert row["flux_high"] == pytest.approx(interval["high"])
            assert row["flux_low"] < row["flux"] < row["flux_high"]
        assert "One source or two" in found.report.read_text()

    def test_known_stars_trails_and_priors(self, fresh):
        truth = fresh[1][0]
        ra, dec = offset_position(truth.ra, truth.dec, [2.0, 60.0], [1.0, 0.0])
        write_catalog(fresh[0].parent / "stars.ecsv", Table({"ra": ra, "dec": dec}))
        target = only_target(
            run_fresh(fresh, "model.stars=stars.ecsv", "model.position=prior",
                      "model.trail_length=0.05", "model.grid=none", "model.prior=none")
        )  # fmt: skip
        # the star off the stamps is left out; the other has one flux for all exposures
        assert [(f["source"], f["epoch"]) for f in target["fluxes"]] == [
            ("target", "100"), ("star 0", "all"),
        ]  # fmt: skip
        (position,) = target["positions"]
        assert np.sqrt(position["covariance"][0][0]) <= 0.0101

    def test_companion_at_a_known_place(self, fresh):
        """Where there is none its flux is nothing, and the target's is what it was."""
        truth = fresh[1][0]
        options = ("model.companion_separation=1.2", "model.companion_angle=30.0")
        target = only_target(run_fresh(fresh, "model.position=free", *options))
        assert [f["source"] for f in target["fluxes"]] == ["target", "companion"]
        one, two = target["fluxes"]
        assert abs(one["flux"] - truth.fluxes[0]) < 4.5 * one["flux_err"]
        assert abs(two["flux"]) < 4.5 * two["flux_err"]
        # one position is fitted for both
        assert len(target["positions"]) == 1

    def test_dry_run_names_missing_files(self, fresh):
        (fresh[0].parent / "psf" / "102.json").unlink()
        lines = describe_scene_plan(load_scene_config(fresh[0]))
        assert "4 exposures, detected in 100" in lines[1]
        assert "102.json" in lines[1]


class TestBadStamps:
    def dropped(self, fresh, *overrides):
        result = run_fresh(fresh, *overrides)
        assert result.failures == ()
        return only_target(result)["dropped"]

    def failed(self, fresh, *overrides):
        result = run_fresh(fresh, *overrides)
        assert result.n_done == 0
        assert len(read_catalog(result.table)) == 0
        (failure,) = result.failures
        assert "unexpected" not in failure.reason
        return failure.reason

    def spoil(self, fresh, exposure, **planes):
        path = fresh[0].parent / "stamps" / f"t0000_{exposure}.fits"
        with fits.open(path) as hdus:
            content = {h.name: h.data.copy() for h in hdus[1:]}
        for name, change in planes.items():
            content[name] = change(content[name])
        hdus = [fits.PrimaryHDU(), *(fits.ImageHDU(d, name=n) for n, d in content.items())]
        fits.HDUList(hdus).writeto(path, overwrite=True)

    def change_table(self, fresh, change):
        path = fresh[0].parent / "targets.ecsv"
        table = read_catalog(path)
        change(table)
        write_catalog(path, table)

    @pytest.mark.parametrize(("folder", "name", "word"), [
        ("stamps", "t0000_{}.fits", "stamp file"), ("psf", "{}.json", "PSF file"),
        ("wcs", "{}.hdr", "WCS file"),
    ])  # fmt: skip
    def test_missing_file(self, fresh, folder, name, word):
        (fresh[0].parent / folder / name.format("102")).unlink()
        reasons = self.dropped(fresh)
        assert list(reasons) == ["102"]
        assert word in reasons["102"]
        (fresh[0].parent / folder / name.format("100")).unlink()
        reason = self.failed(fresh)
        assert "detection" in reason
        assert word in reason

    def test_missing_zero_point(self, fresh):
        def change(table):
            table["zero_point"][table["exposure"] == "103"] = np.nan

        self.change_table(fresh, change)
        assert "zero point" in self.dropped(fresh)["103"]
        self.change_table(fresh, lambda t: t["zero_point"].fill(np.nan))
        assert "zero point" in self.failed(fresh)

    def test_zero_weights(self, fresh):
        self.spoil(fresh, 101, WGT=np.zeros_like)
        assert "weight 0" in self.dropped(fresh)["101"]
        self.spoil(fresh, 100, WGT=np.zeros_like)
        assert "no usable pixel" in self.failed(fresh)

    def test_all_masked(self, fresh):
        self.spoil(fresh, 101, MSK=lambda m: m + 128)
        assert "mask bits" in self.dropped(fresh)["101"]
        assert self.dropped(fresh, "stamps.bad=['CRAY', 2]") == {}

    def test_unknown_mask_name(self, fresh):
        assert "EDGEBLEED" in self.failed(fresh, "stamps.bad='COSMICS'")

    def test_nan_pixels_are_left_out(self, fresh):
        before = only_target(run_fresh(fresh))

        def change(image):
            image[3, 4] = np.nan
            image[8:10, 2] = np.inf
            return image

        self.spoil(fresh, 102, SCI=change)
        after = only_target(run_fresh(fresh))
        n = [{e["exposure"]: e["n_pixels"] for e in t["exposures"]} for t in (before, after)]
        assert n[0]["102"] - n[1]["102"] == 3
        assert abs(before["fluxes"][0]["flux"] - after["fluxes"][0]["flux"]) < 20.0

    def test_planes_of_different_sizes(self, fresh):
        self.spoil(fresh, 102, WGT=lambda w: w[:-1])
        assert "shape" in self.dropped(fresh)["102"]

    def test_stamps_of_different_sizes(self, fresh):
        # a centred cut of a stamp is a centred stamp
        cut = {name: (lambda a: a[3:-3, 3:-3]) for name in ("SCI", "MSK", "WGT")}
        self.spoil(fresh, 102, **cut)
        target = only_target(run_fresh(fresh))
        assert {e["n_pixels"] for e in target["exposures"]} == {625, 361}
        truth = fresh[1][0].fluxes[0]
        assert abs(target["fluxes"][0]["flux"] - truth) < 4.5 * target["fluxes"][0]["flux_err"]

    def test_target_outside_its_stamp(self, fresh):
        self.change_table(fresh, lambda t: [t.add_column(0, name="x_min"),
                                            t.add_column(0, name="y_min")])  # fmt: skip
        assert "outside its stamp" in self.failed(fresh, "stamps.origin=table")

    def test_negative_weight(self, fresh):
        self.spoil(fresh, 102, WGT=lambda w: -w)
        assert "negative" in self.dropped(fresh)["102"]

    def test_truncated_stamp(self, fresh):
        path = fresh[0].parent / "stamps" / "t0000_101.fits"
        path.write_bytes(path.read_bytes()[:4000])
        assert "101" in self.dropped(fresh)

    def test_pickle_as_psf_is_not_loaded(self, fresh, tmp_path):
        trap = tmp_path / "was-loaded"

        class Trap:
            def __reduce__(self):
                return (Path.touch, (trap,))

        (fresh[0].parent / "psf" / "102.json").write_bytes(pickle.dumps(Trap()))
        assert "102" in self.dropped(fresh)
        assert not trap.exists()

    def test_repeated_exposure(self, fresh):
        self.change_table(fresh, lambda t: t.add_row(t[1]))
        assert "more than one row" in self.failed(fresh)

    @pytest.mark.parametrize(("override", "words"), [
        ("targets.table=none.ecsv", "there is no file"),
        ("targets.columns={exposure='expnum'}", "expnum"),
        ("targets.only=['ceres']", "ceres"),
        ("stamps.files='{targt}.fits'", "targt"),
        ("stamps.origin=center", "centered"),
        ("model.prior=maybe", "prior"),
        ("model.grid_spacing=0.3", "grid_half_extent"),
        ("zero_point.source=fit", "pogson run"),
        ("model.stars=none.ecsv", "stars"),
    ])  # fmt: skip
    def test_wrong_configuration(self, fresh, override, words):
        with pytest.raises(ConfigError, match=words):
            run_fresh(fresh, override)

    def test_pixels_must_come_from_one_place(self, tmp_path):
        file = tmp_path / "scene.toml"
        file.write_text('[targets]\ntable = "a"\n')
        with pytest.raises(ConfigError, match=r"\[stamps\].*\[inputs\]"):
            load_scene_config(file)

    def test_message_names_the_line(self, fresh):
        text = fresh[0].read_text().replace("gain =", "gian =")
        fresh[0].write_text(text)
        line = text[: text.index("gian")].count("\n") + 1
        with pytest.raises(ConfigError, match=rf"line {line}: .*gian.*Did you mean 'gain'"):
            load_scene_config(fresh[0])


class TestWholeExposures:
    TOML = '[inputs]\nexposures = "e*.fits"\n[targets]\ntable = "places.ecsv"\n'

    def config(self, folder, table, *overrides):
        write_catalog(folder / "places.ecsv", table)
        (folder / "scene.toml").write_text(self.TOML)
        return load_scene_config(folder / "scene.toml", overrides)

    def test_moving_target(self, tmp_path, rng):
        times = [60000.0, 60000.01, 60001.0, 60002.0, 60030.0]
        write_exposures(tmp_path, rng, times=times, moving=True)
        when = np.array([59999.9, 60000.0, 60000.1, 60000.2])
        place = np.array([where(t, moving=True) for t in when])
        table = Table({"target": ["rock"] * 4, "time": when, "ra": place[:, 0], "dec": place[:, 1]})
        config = self.config(tmp_path, table)
        found = run_scene(config, workers=1)
        rows = read_catalog(found.table)
        assert found.failures == ()
        assert sorted(rows["key"]) == ["rock-e0", "rock-e1"]
        assert np.all(np.abs(rows["flux"] - 900.0) < 4.5 * rows["flux_err"])
        # the other exposure of the same night shows the target itself
        for target in found.summary["targets"]:
            (why,) = target["dropped"].values()
            assert "moving target itself" in why
            assert len(target["exposures"]) == 4
        assert run_scene(config, workers=1).n_computed == 0

    def test_static_target_is_a_light_curve(self, tmp_path, rng):
        write_exposures(tmp_path, rng, times=[60000.0, 60001.0, 60002.0], moving=False)
        table = Table({"target": ["sn"], "ra": [150.0], "dec": [2.0]})
        found = run_scene(self.config(tmp_path, table, "cut.size=31"), workers=1)
        rows = read_catalog(found.table)
        assert list(rows["exposure"]) == ["e0", "e1", "e2"]
        assert set(rows["n_pixels"]) == {31 * 31}
        np.testing.assert_allclose(rows["time"], [60000.0, 60001.0, 60002.0], atol=1e-6)

    def test_target_that_no_exposure_shows(self, tmp_path, rng):
        write_exposures(tmp_path, rng, times=[60000.0, 60001.0], moving=False)
        table = Table({"target": ["sn"], "ra": [151.0], "dec": [2.0]})
        found = run_scene(self.config(tmp_path, table), workers=1)
        assert "no exposure shows sn" in found.failures[0].reason

    def test_exposure_that_cannot_be_read_is_left_out(self, tmp_path, rng):
        write_exposures(tmp_path, rng, times=[60000.0, 60001.0, 60002.0], moving=False)
        path = tmp_path / "e1.fits"
        path.write_bytes(path.read_bytes()[:20000])
        table = Table({"target": ["sn"], "ra": [150.0], "dec": [2.0]})
        found = run_scene(self.config(tmp_path, table), workers=1)
        assert [(f.key, f.stage) for f in found.failures] == [("e1", "scan")]
        assert found.n_done == 1


def test_without_wcs_the_scatter_of_the_star_positions_is_the_astrometric_prior(
    shared_data, tmp_path
):
    data = shared_data("des-smp/exposures.ecsv").parent
    file = tmp_path / "scene.toml"
    file.write_text(
        f"""
[targets]
table = "{data}/exposures.ecsv"
columns = {{ exposure = "expnum", detector = "ccdnum", zero_point = "zeropoint",
            detection = "is_detection" }}
only = "2014vv39"
[stamps]
files = "{data}/stamps/{{target}}_{{exposure}}.fits"
psf = "{data}/psf/{{exposure}}_{{detector}}_piff.fits"
origin = "smp2023"
""".replace(",\n           ", ",")
    )
    target = only_target(run_scene(load_scene_config(file), workers=1))
    (position,) = target["positions"]
    sigma = np.sqrt(position["covariance"][0][0])
    print(f"position error {sigma:.4f} arcsec")
    assert 0.0005 < sigma < 0.02
    flux = target["fluxes"][0]
    assert abs(flux["flux"] / 10**0.56 - 930.03) < 0.7 * 76.99
