"""Figures of the global solution: one calibration of a survey, beside scipy in the same run.

Usage alone: python benchmarks/bench_survey.py [stream ROWS], for example 100_000_000.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np

STARS, VISITS, DETECTORS = 200_000, 20, 60


def tables(visits: int = VISITS, detectors: int = DETECTORS) -> Any:
    from pogson.survey import Detectors, Exposures, SurveyTables

    return SurveyTables(Exposures(np.arange(visits)), Detectors(np.arange(detectors)))


def survey(stars: int, rng: np.random.Generator, zero: np.ndarray, first: int = 0) -> Any:
    """Dithered visits: each star falls on a random detector of every visit."""
    from pogson.survey import Observations, Stars

    visits, detectors = zero.shape
    star = np.repeat(np.arange(stars, dtype=np.int32), visits)
    exposure = np.tile(np.arange(visits, dtype=np.int32), stars)
    detector = rng.integers(0, detectors, star.size, dtype=np.int32)
    err = rng.uniform(0.004, 0.03, star.size)
    mag = rng.uniform(16, 20, stars)[star] - zero[exposure, detector]
    return Observations(
        star=star, exposure=exposure, detector=detector,
        x=rng.uniform(0, 2047, star.size), y=rng.uniform(0, 4095, star.size),
        mag=mag + err * rng.normal(size=star.size), mag_err=err,
        tables=tables(visits, detectors), stars=Stars(np.arange(first, first + stars)),
    )  # fmt: skip


def timed(function: Any, repeats: int) -> tuple[float, Any]:
    """Return the shortest wall time of several calls and the last result."""
    best, result = np.inf, None
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        best = min(best, time.perf_counter() - start)
    return best, result


def scipy_schur(obs: Any) -> np.ndarray:
    """Eliminate the stars with scipy's sparse product; dense Cholesky; full covariance."""
    from scipy.linalg import cho_factor, cho_solve
    from scipy.sparse import csr_matrix

    size, stars = VISITS * DETECTORS, STARS
    column = obs.exposure * DETECTORS + obs.detector
    w = 1.0 / obs.mag_err**2
    W = np.bincount(obs.star, w, stars)
    mean = np.bincount(obs.star, w * obs.mag, stars) / W
    C = csr_matrix((w / np.sqrt(W[obs.star]), (obs.star, column)), shape=(stars, size))
    S = -(C.T @ C).toarray()
    i = np.arange(size)
    S[i, i] += np.bincount(column, w, size) + 1.0
    b = -np.bincount(column, w * (obs.mag - mean[obs.star]), size)
    factor = cho_factor(S)
    cho_solve(factor, np.eye(size))
    return np.asarray(cho_solve(factor, b))


def scipy_lsmr(obs: Any) -> np.ndarray:
    """All unknowns at once by LSMR, scaled columns, with the weak prior as rows."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.linalg import lsmr

    size, n = VISITS * DETECTORS, len(obs)
    root = 1.0 / obs.mag_err
    rows = np.concatenate([np.arange(n), np.arange(n), n + np.arange(size)])
    cols = np.concatenate(
        [obs.exposure * DETECTORS + obs.detector, size + obs.star, np.arange(size)]
    )
    values = np.concatenate([-root, root, np.ones(size)])
    A = csr_matrix((values, (rows, cols)), shape=(n + size, size + STARS))
    scale = 1.0 / np.sqrt(np.asarray(A.multiply(A).sum(axis=0)).ravel())
    A = A.multiply(scale).tocsr()
    found = lsmr(A, np.concatenate([obs.mag * root, np.zeros(size)]), atol=1e-12, btol=1e-12)
    return np.asarray(found[0] * scale)[:size]


def row(
    figure: str, ours: float, peer: Any, name: str, target: str, passed: bool
) -> dict[str, Any]:
    return {"figure": figure, "ours": ours, "peer": peer, "peer_name": name, "target": target,
            "passed": bool(passed)}  # fmt: skip


def grey_rows() -> list[dict[str, Any]]:
    from pogson.survey import ExposureZeroPoint, calibrate

    rng = np.random.default_rng(20261121)
    zero = rng.normal(0, 0.1, (VISITS, DETECTORS))
    obs = survey(STARS, rng, zero)
    terms = [ExposureZeroPoint(per="exposure_detector", prior_sigma=1.0)]
    calibrate(obs.select_stars(0, 100), terms)
    ours, solution = timed(lambda: calibrate(obs, terms), 4)
    schur, s = timed(lambda: scipy_schur(obs), 2)
    again, _ = timed(lambda: calibrate(obs, terms), 3)
    ours = min(ours, again)
    lsmr, x = timed(lambda: scipy_lsmr(obs), 1)
    z = solution["exposure_zero_point"]
    worst = float(np.abs(z - s).max())
    size = f"4M measurements, {z.size} parameters, full covariance, s"
    return [
        row(f"survey: grey, {size}", ours, schur, "scipy Schur", "<= 1 s, <= 1/3 peer",
            ours <= 1.0 and ours <= schur / 3),
        row(f"survey: grey, {size}", ours, lsmr, "scipy lsmr (no covariance)", "<= 1/5 peer",
            ours <= lsmr / 5),
        row("survey: grey, largest difference to scipy Schur, mag", worst,
            float(np.abs(z - x).max()), "lsmr to ours", "<= 1e-8", worst <= 1e-8),
    ]  # fmt: skip


def polynomial_rows() -> list[dict[str, Any]]:
    from pogson.survey import ExposurePolynomial, calibrate

    rng = np.random.default_rng(7)
    obs = survey(STARS, rng, rng.normal(0, 0.1, (VISITS, DETECTORS)))
    term = ExposurePolynomial(order=2, frame="detector", constant=True, prior_sigma=1.0)
    calibrate(obs.select_stars(0, 100), [term])
    out = []
    for covariance, text in ((False, "without"), (True, "with full")):
        ours, _ = timed(lambda c=covariance: calibrate(obs, [term], covariance=c), 2)
        floor, _ = timed(lambda c=covariance: lapack(term.size(obs.tables), c), 1)
        out.append(row(f"survey: 4M measurements, 7200 parameters, {text} covariance, s", ours,
                       floor, "LAPACK alone, the floor", "<= 12 s", ours <= 12.0))  # fmt: skip
    return out


def lapack(size: int, covariance: bool) -> None:
    """Factor a matrix of ones and a strong diagonal; invert it."""
    from scipy.linalg.lapack import dpotrf, dpotri

    A = np.asfortranarray(np.ones((size, size)))
    A[np.arange(size), np.arange(size)] = 2.0 * size
    factor, _ = dpotrf(A, lower=1, overwrite_a=1, clean=0)
    if covariance:
        dpotri(factor, lower=1, overwrite_c=1)


def stream(measurements: int, partition: int = 2_000_000) -> dict[str, float]:
    """Accumulate generated partitions one after the other; time the accumulation alone."""
    from pogson.survey import ExposureZeroPoint, Model, accumulate, accumulate_partitions

    zero = np.random.default_rng(5).normal(0, 0.1, (VISITS, DETECTORS))
    terms = [ExposureZeroPoint(per="exposure_detector", prior_sigma=1.0)]
    spent = busy = 0.0

    def one(k: int) -> Any:
        nonlocal spent, busy
        obs = survey(partition // VISITS, np.random.default_rng([5, k]), zero)
        model = Model(terms, obs.tables)
        start, cpu = time.perf_counter(), time.thread_time()
        blocks = accumulate(model, obs, threads=1)
        spent += time.perf_counter() - start
        busy += time.thread_time() - cpu
        return blocks

    one(0)
    spent = busy = 0.0
    total = accumulate_partitions(one, range(measurements // partition))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"seconds": spent, "cpu": busy, "gigabytes": peak, "rows": float(total.rows)}


def stream_rows(measurements: int = 20_000_000) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, __file__, "stream", str(measurements)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    r = json.loads(done.stdout)
    seconds, wall = (r[k] * 1e8 / r["rows"] for k in ("cpu", "seconds"))
    what = f"survey: streamed, one core, per 100M measurements (from {measurements / 1e6:.0f}M)"
    return [
        row(f"{what}, CPU s", seconds, wall, "wall clock, shared machine", "<= 12 s",
            seconds <= 12.0),
        row("survey: streamed, peak memory, GB", r["gigabytes"], None, "", "< 3 GB",
            r["gigabytes"] < 3.0),
    ]  # fmt: skip


def rows() -> list[dict[str, Any]]:
    """Measure and return the rows of the benchmark table."""
    return [*grey_rows(), *polynomial_rows(), *stream_rows()]


if __name__ == "__main__":
    if sys.argv[1:2] == ["stream"]:
        print(json.dumps(stream(int(sys.argv[2]))))
    else:
        for r in rows():
            print(r)
