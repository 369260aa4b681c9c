"""Calibration over partitions on disk: the numbers of the whole, for any executor."""

from __future__ import annotations

import multiprocessing
import os
import tracemalloc
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from pogson.errors import CalibrationError, ConfigError, FileFormatError, MissingDataError
from pogson.fields import Box
from pogson.parallel import get_executor
from pogson.survey import (
    ColorSlope,
    Detectors,
    DetectorZeroPoint,
    ExposurePolynomial,
    Exposures,
    ExposureZeroPoint,
    Observations,
    Partition,
    Stars,
    SurveyTables,
    calibrate,
    calibrate_partitions,
    read_partition,
    write_partitions,
)

SEED = 20261121


def make(stars=3000, visits=6, outliers=0.01, references=0.2, floor=0.004):
    """Return observations of a small survey with outliers and an intrinsic floor."""
    rng = np.random.default_rng(SEED)
    tables = SurveyTables(
        Exposures(np.arange(100, 100 + visits), category=np.arange(visits) % 2),
        Detectors([1, 2, 3], Box(0, 0, 1000, 800)),
    )
    zero = 25.0 + rng.normal(0, 0.05, visits)
    truth, color = rng.uniform(15, 19, stars), rng.uniform(0, 2, stars)
    star, exposure = np.repeat(np.arange(stars), visits), np.tile(np.arange(visits), stars)
    detector = rng.integers(0, 3, star.size)
    err = 0.003 * 10 ** (0.2 * (truth[star] - 15.0))
    mag = truth[star] - zero[exposure] + 0.01 * (detector - 1) * (color[star] - 1.0)
    mag += rng.normal(size=star.size) * np.hypot(err, floor)
    bad = rng.random(star.size) < outliers
    mag[bad] += rng.normal(0, 0.5, int(bad.sum()))
    known = rng.random(stars) < references
    table = Stars(
        np.arange(stars), color=color, reference_err=0.01,
        reference_mag=np.where(known, truth + 0.01 * rng.normal(size=stars), np.nan),
    )  # fmt: skip
    x, y = rng.uniform(0, 999, star.size), rng.uniform(0, 799, star.size)
    return Observations.from_columns(
        tables, table, star=star, exposure=exposure, detector=detector, x=x, y=y, mag=mag,
        mag_err=err,
    )  # fmt: skip


def terms():
    return [
        ExposureZeroPoint(), DetectorZeroPoint(by=()), ExposurePolynomial(order=1),
        ColorSlope(pivot=1.0),
    ]  # fmt: skip


def test_partitions_come_back_as_they_were(tmp_path):
    obs = make(300)
    parts = write_partitions(obs, tmp_path, rows=400)
    assert len(parts) >= 4
    assert sum(p.stars for p in parts) == 300
    assert sum(p.rows for p in parts) == len(obs)
    read = [read_partition(p, obs.tables) for p in parts]
    np.testing.assert_array_equal(np.concatenate([r.mag for r in read]), obs.mag)
    np.testing.assert_array_equal(
        np.concatenate([r.star + p.first_star for r, p in zip(read, parts, strict=True)]), obs.star
    )
    np.testing.assert_array_equal(
        np.concatenate([r.stars.reference_mag for r in read]), obs.stars.reference_mag
    )


@pytest.mark.parametrize("options", [
    {"floor": 0.004, "reject_sigma": 5.0}, {"floor": (0.004, 0.005), "held_out": 0.1},
    {"floor": 0.004, "huber": 2.0},
])  # fmt: skip
def test_equal_to_the_solution_in_memory(tmp_path, options):
    obs = make()
    parts = write_partitions(obs, tmp_path / "p", rows=2500)
    whole = calibrate(obs, terms(), **options)
    found = calibrate_partitions(parts, terms(), obs.tables, results=tmp_path / "s", **options)
    s = found.solution
    np.testing.assert_allclose(s.parameters, whole.parameters, rtol=0, atol=1e-10)
    np.testing.assert_allclose(s.covariance.matrix, whole.covariance.matrix, rtol=1e-8, atol=1e-16)
    assert s.chi2 == pytest.approx(whole.chi2, rel=1e-9)
    assert s.degrees_of_freedom == whole.degrees_of_freedom
    np.testing.assert_allclose(found.exposure_chi2, whole.exposure_chi2(), rtol=1e-8)
    assert s.connections.shared.tolist() == whole.connections.shared.tolist()
    import pyarrow.parquet as pq

    mag = np.concatenate([pq.read_table(f).column("mag").to_numpy() for f in found.results])
    np.testing.assert_allclose(mag, whole.stars.mag, atol=1e-9)


def test_fitted_floors_agree_to_their_tolerance(tmp_path):
    obs = make()
    parts = write_partitions(obs, tmp_path, rows=2500)
    options = {"floor": "fit", "reference_floor": "fit", "reject_sigma": 5.0}
    whole = calibrate(obs, terms(), **options)
    s = calibrate_partitions(parts, terms(), obs.tables, **options).solution
    # passes end when floors change by less than 1e-5
    np.testing.assert_allclose(s.weighting.floor, whole.weighting.floor, atol=2e-5)
    np.testing.assert_allclose(s.weighting.floor, 0.004, atol=4e-4)
    np.testing.assert_allclose(s.parameters, whole.parameters, atol=2e-5)


def test_relative_solution_names_its_gauge(tmp_path):
    obs = make(400, references=0.0)
    parts = write_partitions(obs, tmp_path, rows=900)
    with pytest.raises(CalibrationError, match="exposure_zero_point"):
        calibrate_partitions(parts, [ExposureZeroPoint()], obs.tables)
    s = calibrate_partitions(parts, [ExposureZeroPoint()], obs.tables, gauge="anchor").solution
    assert len(s.gauges) == 1


def solved(parts, tables, executor=None, chosen=None):
    return calibrate_partitions(
        parts, terms() if chosen is None else chosen, tables, floor="fit", reject_sigma=5.0,
        executor=executor, threads=1,
    )  # fmt: skip


def same_bits(a, b):
    assert np.array_equal(a.solution.parameters, b.solution.parameters)
    assert np.array_equal(a.solution.covariance.matrix, b.solution.covariance.matrix)
    assert a.solution.weighting == b.solution.weighting
    assert (a.solution.chi2, a.rows, a.rejected) == (b.solution.chi2, b.rows, b.rejected)


@pytest.mark.filterwarnings("ignore")
def test_one_worker_two_processes_and_a_cluster_give_the_same_bits(tmp_path):
    distributed = pytest.importorskip("distributed")
    obs = make(1200)
    parts = write_partitions(obs, tmp_path, rows=1500)
    one = solved(parts, obs.tables)
    with get_executor(2, kind="processes") as executor:
        same_bits(one, solved(parts, obs.tables, executor))
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, protocol="tcp", dashboard_address=None
    )
    with cluster:
        assert cluster.scheduler_address.startswith("tcp://")
        with get_executor(scheduler=cluster.scheduler_address) as executor:
            same_bits(one, solved(parts, obs.tables, executor))


@dataclass(frozen=True)
class DeadlyZeroPoint(ExposureZeroPoint):
    """Kill the first worker process that uses it, once the fit is under way."""

    flag: str = ""

    def design(self, observations, parameters=None):
        if multiprocessing.parent_process() is not None and not Path(self.flag).exists():
            Path(self.flag).touch()
            os._exit(9)
        return super().design(observations, parameters)


def test_death_of_a_worker_in_the_middle_changes_nothing(tmp_path):
    obs = make(600)
    parts = write_partitions(obs, tmp_path / "p", rows=900)
    flag = tmp_path / "died"
    one = solved(parts, obs.tables, chosen=[ExposureZeroPoint()])
    with get_executor(2, kind="processes") as executor:
        two = solved(parts, obs.tables, executor, [DeadlyZeroPoint(flag=str(flag))])
    assert flag.exists()
    same_bits(one, two)


@pytest.mark.filterwarnings("ignore")
def test_death_of_a_dask_worker_in_the_middle_changes_nothing(tmp_path):
    distributed = pytest.importorskip("distributed")
    obs = make(600)
    parts = write_partitions(obs, tmp_path / "p", rows=900)
    flag = tmp_path / "died"
    one = solved(parts, obs.tables, chosen=[ExposureZeroPoint()])
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, protocol="tcp", dashboard_address=None
    )
    with cluster, get_executor(scheduler=cluster.scheduler_address) as executor:
        two = solved(parts, obs.tables, executor, [DeadlyZeroPoint(flag=str(flag))])
    assert flag.exists()
    same_bits(one, two)


def test_memory_is_that_of_a_partition(tmp_path):
    obs = make(12_000)
    parts = write_partitions(obs, tmp_path, rows=len(obs) // 12)
    chosen = [ExposureZeroPoint(), ExposurePolynomial(order=1)]

    def peak(run):
        run()  # compile
        tracemalloc.start()
        run()
        value = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return value

    whole = peak(lambda: calibrate(obs, chosen, floor=0.004, threads=1))
    cut = peak(lambda: calibrate_partitions(parts, chosen, obs.tables, floor=0.004, threads=1))
    print("peak of the whole and of partitions, MB", whole / 1e6, cut / 1e6)
    assert cut < 0.3 * whole  # the whole holds its arrays of 12 partitions at once


def test_what_cannot_be_solved_says_so(tmp_path):
    obs = make(100)
    parts = write_partitions(obs, tmp_path, rows=300)
    with pytest.raises(CalibrationError, match="no partitions"):
        calibrate_partitions([], terms(), obs.tables)
    with pytest.raises(ConfigError, match="Cholesky"):
        calibrate_partitions(parts, terms(), obs.tables, solver="iterative")
    with pytest.raises(MissingDataError, match="no partition file"):
        read_partition(Partition("none", "none", 0, 1, 1), obs.tables)
    wrong = replace(parts[0], detections=parts[0].star_table)
    with pytest.raises(FileFormatError, match="not a partition"):
        read_partition(wrong, obs.tables)
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"no parquet")
    with pytest.raises(CalibrationError, match="cannot be read as Parquet"):
        calibrate_partitions([replace(parts[0], detections=str(broken))], terms(), obs.tables)
    gone = obs.with_flags(np.ones(len(obs)))
    with pytest.raises(CalibrationError, match="None of the detections"):
        calibrate_partitions(write_partitions(gone, tmp_path / "g"), terms(), obs.tables)
