"""Tables of targets as people write them: texts, units, gaps, windows in time."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import MaskedColumn, Table
from astropy.time import Time
from scene_exposure_files import where, write_exposures

from pogson.calib import FluxReference, PhotoCalib
from pogson.errors import ConfigError, PogsonValueError
from pogson.formats import read_catalog, read_exposure, write_catalog, write_exposure
from pogson.run.scene_config import load_scene_config
from pogson.run.scene_run import run_scene
from pogson.scene import offset_position
from pogson.simulate import SceneJobModel, write_scene_job

SEED = 41
MODEL = SceneJobModel(n_targets=1, n_exposures=4, size=21)


class TestStampTable:
    @pytest.fixture
    def job(self, tmp_path):
        return write_scene_job(MODEL, tmp_path, rng_seed=SEED)[0]

    def run(self, job, change, *overrides):
        """Run with a table that was changed by astropy, as users change it."""
        path = job.parent / "targets.ecsv"
        table = Table.read(path, format="ascii.ecsv")
        change(table)
        table.write(path, format="ascii.ecsv", overwrite=True)
        return run_scene(load_scene_config(job, overrides), workers=1)

    def failed(self, job, change, *overrides):
        result = self.run(job, change, *overrides)
        assert result.n_done == 0
        (failure,) = result.failures
        assert "unexpected" not in failure.reason
        return failure.reason

    def epochs(self, result):
        (target,) = result.summary["targets"]
        return [f["epoch"] for f in target["fluxes"]]

    @pytest.mark.parametrize("values", [
        ["True", "False", "False", "False"], ["yes", "no", "no", "no"], [1, 0, 0, 0],
        [1.0, 0.0, 0.0, np.nan], MaskedColumn([True, True, False, False], mask=[0, 1, 0, 1]),
    ])  # fmt: skip
    def test_detections_as_people_write_them(self, job, values):
        def change(table):
            table["detection"] = values

        assert self.epochs(self.run(job, change)) == ["100"]

    def test_unclear_detection(self, job):
        def change(table):
            table["detection"] = ["x", "", "", ""]

        with pytest.raises(ConfigError, match="detection = 'x' is not clear"):
            self.run(job, change)

    def test_units_and_times_are_honoured(self, job):
        plain = self.run(job, lambda table: None)

        def change(table):
            table["ra"] = np.array(table["ra"]) / 15.0
            table["ra"].unit = "hourangle"
            table["time"] = Time(np.array(table["time"]), format="mjd", scale="utc").tai
            table["trail_length"] = 0.0
            table["trail_length"].unit = "deg"

        (before,), (after,) = plain.summary["targets"], self.run(job, change).summary["targets"]
        assert after["fluxes"][0]["flux"] == pytest.approx(before["fluxes"][0]["flux"], rel=1e-6)
        assert after["fluxes"][0]["time"] == pytest.approx(before["fluxes"][0]["time"], abs=1e-7)

    def test_masked_zero_point(self, job):
        def change(table):
            table["zero_point"] = MaskedColumn(table["zero_point"], mask=[0, 1, 0, 0])

        (target,) = self.run(job, change).summary["targets"]
        assert "no zero point" in target["dropped"]["101"]

    def test_text_for_a_number(self, job):
        def change(table):
            table["zero_point"] = ["31.0", "abc", "31.0", "31.0"]

        with pytest.raises(ConfigError, match="'abc' is not a number"):
            self.run(job, change)

    def test_gain_of_zero_is_not_replaced(self, job):
        def change(table):
            table["gain"] = 0.0

        assert "gain=0.0 must be positive" in self.failed(job, change)

    def test_detections_at_two_places(self, job):
        def change(table):
            table["detection"] = [True, True, False, False]
            table["ra"][1] += 2.0 / 3600.0

        assert "differ by up to 2 arcsec" in self.failed(job, change)

    def test_companion_moves_with_its_target(self, job):
        options = ("model.position=free", "model.companion_separation=1.2")
        result = self.run(job, lambda table: None, *options)
        (target,) = result.summary["targets"]
        one, two = target["sources"]
        assert one["offset"] == two["offset"] != [0.0, 0.0]
        assert (two["dec"] - one["dec"]) * 3600.0 == pytest.approx(1.2, abs=1e-6)
        assert list(read_catalog(result.table)["dec"]) == [one["dec"], two["dec"]]

    def test_missing_position_fails_its_target_alone(self, job):
        def change(table):
            table["dec"][2] = np.nan

        assert "no position (ra, dec) for exposure '102'" in self.failed(job, change)

    def test_detection_wanted_but_none_named(self, job):
        def change(table):
            table["detection"] = False

        assert "has no detection" in self.failed(job, change)

    def test_stars_without_columns(self, job):
        Table({"x": [1.0]}).write(job.parent / "stars.ecsv")
        with pytest.raises(ConfigError, match="has no column 'ra' or 'dec'; it has x"):
            self.run(job, lambda table: None, "model.stars=stars.ecsv")

    def test_stars_in_hours(self, job):
        table = Table.read(job.parent / "targets.ecsv", format="ascii.ecsv")
        stars = Table({"ra": [table["ra"][0] / 15.0], "dec": [table["dec"][0] + 1.0 / 3600.0]})
        stars["ra"].unit = "hourangle"
        stars.write(job.parent / "stars.ecsv")
        result = self.run(job, lambda table: None, "model.stars=stars.ecsv")
        assert self.epochs(result) == ["100", "all"]

    def test_common_modes_are_configured(self, job):
        result = self.run(
            job, lambda table: None, "model.zero_point_error=0.02",
            "model.psf_normalization_error=0.01",
        )  # fmt: skip
        (target,) = result.summary["targets"]
        assert target["common_modes"] == {"zero_point": 0.02, "psf_normalization": 0.01}

    def test_numbers_must_be_finite(self, job):
        with pytest.raises(ConfigError, match="finite"):
            load_scene_config(job, ["model.search_radius=inf"])

    def test_null_places_off_the_stamp(self, job):
        result = self.run(
            job, lambda table: None, "nulls.enabled=true", "nulls.offsets=[0.0, 100.0]"
        )
        (target,) = result.summary["targets"]
        assert len(target["null_pulls"]) == 3  # one place of four, three exposures


def test_null_tests_of_a_pair_know_both(tmp_path):
    """A pair taken for one star at the nominal place would end in the scene of all exposures."""
    model = SceneJobModel(kind="binary", n_targets=1, n_exposures=5, size=27,
                          flux=(4000.0, 4001.0), separation=0.7, flux_ratio=0.6)  # fmt: skip
    job, _ = write_scene_job(model, tmp_path, rng_seed=3)
    (target,) = run_scene(
        load_scene_config(job, ["nulls.enabled=true"]), workers=1
    ).summary["targets"]  # fmt: skip
    assert target["binary"]["is_binary"]
    assert len(target["null_pulls"]) == 100
    assert 0.5 < target["null_rms"] < 1.6


class TestPlacesTable:
    TIMES = (60000.0, 60000.01, 60001.0, 60002.0, 60030.0)
    TOML = '[inputs]\nexposures = "e*.fits"\n[targets]\ntable = "places.ecsv"\n'

    def run(self, folder, table, *overrides):
        table.write(folder / "places.ecsv", format="ascii.ecsv", overwrite=True)
        (folder / "scene.toml").write_text(self.TOML)
        return run_scene(load_scene_config(folder / "scene.toml", overrides), workers=1)

    @pytest.mark.parametrize("as_text", [False, True])
    def test_window_of_a_transient(self, tmp_path, rng, as_text):
        """Exposures outside the window fix the host: the errors are several times smaller."""
        write_exposures(tmp_path, rng, times=list(self.TIMES), moving=False, flux=0.0)
        exposure = read_exposure(tmp_path / "e3.fits")
        x, y = (float(v) for v in exposure.sky.pixel(150.0, 2.0))
        stamp = exposure.psf.draw(x=x, y=y, half_size=20)
        image = exposure.image.copy()
        image[stamp.box.slices(exposure.box)] += 0.5 * 900.0 * stamp.image
        write_exposure(tmp_path / "e3.fits", exposure.with_(image=image))
        first = Time(60001.5, format="mjd").isot if as_text else 60001.5
        table = Table({"target": ["sn"], "ra": [150.0], "dec": [2.0], "first": [first]})
        table["last"] = 60010.0
        found = self.run(tmp_path, table)
        (row,) = read_catalog(found.table)
        assert row["exposure"] == "e3"
        assert abs(row["flux"] - 900.0) < 4.5 * row["flux_err"]
        assert row["flux_err"] < 120.0
        (target,) = found.summary["targets"]
        assert len(target["exposures"]) == 5
        assert target["flags"] == "none"

    def test_window_without_exposures_or_reversed(self, tmp_path, rng):
        write_exposures(tmp_path, rng, times=[60000.0, 60001.0], moving=False)
        table = Table({"target": ["late", "odd"], "ra": [150.0] * 2, "dec": [2.0] * 2,
                       "first": [61000.0, 60001.0], "last": [np.nan, 60000.0]})  # fmt: skip
        reasons = [f.reason for f in self.run(tmp_path, table).failures]
        assert "no exposure of band r was taken while late may shine" in reasons[0]
        assert "first = 60001.0000 after last = 60000.0000" in reasons[1]

    def test_one_bad_ephemeris_does_not_stop_the_others(self, tmp_path, rng):
        write_exposures(tmp_path, rng, times=[60000.0, 60001.0], moving=False)
        table = Table({"target": ["pole", "sn"], "ra": [10.0, 150.0], "dec": [95.0, 2.0]})
        found = self.run(tmp_path, table)
        assert found.n_done == 1
        assert "not on the sky" in found.failures[0].reason

    def test_target_just_beyond_its_ephemeris_is_no_reference(self, tmp_path, rng):
        """The ephemeris ends before the second exposure, which shows the target all the same."""
        write_exposures(tmp_path, rng, times=list(self.TIMES), moving=True)
        when = np.array([59999.9, 60000.0])
        place = np.array([where(t, moving=True) for t in when])
        table = Table({"target": ["rock"] * 2, "time": when, "ra": place[:, 0], "dec": place[:, 1]})
        found = self.run(tmp_path, table)
        (target,) = found.summary["targets"]
        assert "moving target itself" in target["dropped"]["e1"]
        flux = target["fluxes"][0]
        assert abs(flux["flux"] - 900.0) < 4.0 * flux["flux_err"]

    def test_trail_of_a_fast_target_is_that_of_its_ephemeris(self, tmp_path, rng):
        """Two arcsec in an exposure: as a point it would lose a good part of its light."""
        rate = 2.0 * 864.0  # arcsec a day, in exposures of 100 s
        write_exposures(tmp_path, rng, times=[60000.0, 60001.0, 60002.0], moving=True, flux=0.0)
        exposure = read_exposure(tmp_path / "e0.fits")
        image = exposure.image.copy()
        for step in (np.arange(40) + 0.5) / 40.0 - 0.5:
            ra, dec = offset_position(150.0, 2.0, 0.6 * 2.0 * step, 0.8 * 2.0 * step)
            x, y = (float(v) for v in exposure.sky.pixel(ra, dec))
            stamp = exposure.psf.draw(x=x, y=y, half_size=25)
            image[stamp.box.slices(exposure.box)] += 0.5 * 5000.0 / 40.0 * stamp.image
        write_exposure(tmp_path / "e0.fits", exposure.with_(image=image))
        when = np.array([-0.1, 0.0, 0.1])
        ra, dec = offset_position(150.0, 2.0, 0.6 * rate * when, 0.8 * rate * when)
        table = Table({"target": ["neo"] * 3, "time": 60000.0 + when, "ra": ra, "dec": dec})
        found = self.run(tmp_path, table)
        trail = found.summary["targets"][0]["trail"]
        assert trail["length_arcsec"] == pytest.approx(2.0, rel=1e-5)
        assert trail["angle_deg"] == pytest.approx(36.8699, abs=1e-3)
        (row,) = read_catalog(found.table)
        assert abs(row["flux"] - 5000.0) < 4.5 * row["flux_err"]
        config = load_scene_config(
            tmp_path / "scene.toml", ["model.trail_length=0.0"], output=tmp_path / "point"
        )
        (point,) = read_catalog(run_scene(config, workers=1).table)
        assert point["flux"] < 5000.0 - 6.0 * point["flux_err"]

    def test_times_do_not_meet(self, tmp_path, rng):
        write_exposures(tmp_path, rng, times=[60000.0, 60001.0], moving=True)
        table = Table({"target": ["rock"] * 2, "time": [59000.0, 59000.5], "ra": [150.0, 150.01],
                       "dec": [2.0, 2.0]})  # fmt: skip
        (failure,) = self.run(tmp_path, table).failures
        assert "from MJD 59000.0000 to 59000.5000, the exposures from 60000.0000" in failure.reason

    def test_julian_dates(self, tmp_path, rng):
        write_exposures(tmp_path, rng, times=[60000.0], moving=True)
        table = Table({"target": ["rock"] * 2, "time": [2459999.5, 2460001.5],
                       "ra": [150.0, 150.01], "dec": [2.0, 2.0]})  # fmt: skip
        with pytest.raises(PogsonValueError, match=r"subtract 2400000\.5"):
            self.run(tmp_path, table)

    def test_calibration_of_aperture_fluxes(self, tmp_path, rng):
        """What an aperture loses is in its zero point, and is taken out of it again."""
        write_exposures(tmp_path, rng, times=[60000.0, 60001.0], moving=False)
        table = Table({"target": ["sn"], "ra": [150.0], "dec": [2.0]})
        made = self.run(tmp_path, table)
        assert not made.failures
        total = np.array(read_catalog(made.table)["flux"])
        for name in ("e0.fits", "e1.fits"):
            exposure = read_exposure(tmp_path / name)
            reference = FluxReference.aperture(0.7, frame="sky")
            x, y = exposure.sky.pixel(150.0, 2.0)
            share = float(reference.enclosed_energy(exposure.psf, exposure.sky, x=x, y=y))
            assert share < 0.9
            old = exposure.photo_calib
            per_count = float(old.field(x=x, y=y)) / share  # as stars in this aperture give it
            calib = PhotoCalib.constant(per_count, unit=old.field.unit, reference=reference)
            write_exposure(tmp_path / name, exposure.with_(photo_calib=calib))
        made = self.run(tmp_path, table)
        assert not made.failures
        assert made.n_computed > 0
        # the scale of the pixels is the same but for rounding
        np.testing.assert_allclose(read_catalog(made.table)["flux"], total, rtol=1e-4)


def test_table_written_by_pogson_and_extended_by_astropy(tmp_path):
    """A column added to a table of ours is a column like any other."""
    path = write_catalog(tmp_path / "a.ecsv", Table({"target": ["a"], "ra": [1.0]}))
    table = Table.read(path, format="ascii.ecsv")
    table["gain"] = 4.0
    table.write(path, format="ascii.ecsv", overwrite=True)
    assert read_catalog(path)["gain"][0] == 4.0
