"""The solver against dense least squares, its sums against themselves, its errors against draws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pogson.errors import CalibrationError, PogsonValueError
from pogson.parallel import get_executor
from pogson.survey import (
    AirmassExtinction,
    Detectors,
    DetectorZeroPoint,
    ExposurePolynomial,
    Exposures,
    ExposureZeroPoint,
    Model,
    Observations,
    Stars,
    SurveyTables,
    Weighting,
    accumulate,
    accumulate_partitions,
    calibrate,
)

SEED = 20261121


def make(stars, exposures, detectors, rng, *, references=0.0, drop=0.2):
    tables = SurveyTables(
        Exposures(np.arange(exposures) + 100, airmass=rng.uniform(1, 2, exposures),
                  night=np.arange(exposures) % 2, mjd=np.linspace(0, 1, exposures)),
        Detectors(np.arange(detectors)),
    )  # fmt: skip
    truth = rng.uniform(15, 20, stars)
    star = np.repeat(np.arange(stars), exposures)
    exposure = np.tile(np.arange(exposures), stars)
    kept = rng.random(star.size) > drop
    star, exposure = star[kept], exposure[kept]
    n = star.size
    detector = rng.integers(0, detectors, n)
    err = rng.uniform(0.005, 0.03, n)
    ref = np.where(rng.random(stars) < references, truth, np.nan)
    return Observations.from_columns(
        tables,
        Stars(np.arange(stars), reference_mag=ref + 0.02 * rng.normal(size=stars),
              reference_err=0.02, color=rng.uniform(0, 2, stars)),
        star=star, exposure=exposure, detector=detector, x=rng.uniform(0, 2047, n),
        y=rng.uniform(0, 4095, n), mag=truth[star] - 25.0 + err * rng.normal(size=n), mag_err=err,
    ), truth  # fmt: skip


def dense(model, obs, weighting=None):
    """The least-squares problem with the stars as unknowns, row by row."""
    weighting = weighting or Weighting()
    n, stars = len(obs), len(obs.stars)
    d = model.design(obs)
    A = np.zeros((n, model.size + stars))
    for i in range(n):
        for t in range(d.width.size):
            for j in range(d.width[t] if d.base[i, t] >= 0 else 0):
                v = d.constant[t] if d.column[t] < 0 else d.values[i, d.column[t] + j]
                A[i, d.base[i, t] + j] += v
    A[np.arange(n), model.size + obs.star] = 1.0
    w = weighting.weights(obs)
    rows, target = [A * np.sqrt(w)[:, None]], [np.nan_to_num(obs.mag) * np.sqrt(w)]
    w_ref, m_ref = weighting.reference_weights(obs)
    R = np.zeros((stars, model.size + stars))
    R[np.arange(stars), model.size + np.arange(stars)] = np.sqrt(w_ref)
    rows.append(R)
    target.append(m_ref * np.sqrt(w_ref))
    mean, sigma = model.prior()
    P = np.zeros((model.size, model.size + stars))
    P[np.arange(model.size), np.arange(model.size)] = 1.0 / sigma
    rows.append(P)
    target.append(mean / sigma)
    for c in model.constraints():
        row = np.zeros((1, model.size + stars))
        row[0, c.columns] = c.values / c.sigma
        rows.append(row)
        target.append([c.target / c.sigma])
    return np.concatenate(rows), np.concatenate(target)


TERMS = {
    "grey": lambda: [ExposureZeroPoint(per="exposure_detector", prior_sigma=1.0)],
    "sum": lambda: [ExposureZeroPoint(), DetectorZeroPoint(), ExposurePolynomial(order=1)],
    "extinction": lambda: [
        ExposureZeroPoint(prior_sigma=0.5, prior_mean=25.0),
        AirmassExtinction(slope=True, prior_mean=0.1, prior_sigma=0.1, slope_sigma=0.1),
        ExposurePolynomial(order=2, frame="detector", prior_sigma=0.1),
    ],
}


@pytest.mark.parametrize("name", TERMS)
def test_equals_dense_least_squares(name):
    rng = np.random.default_rng(SEED)
    obs, _ = make(150, 4, 3, rng, references=0.5, drop=0.02)
    model = Model(TERMS[name](), obs.tables)
    solution = calibrate(obs, model)
    A, y = dense(model, obs)
    scale = 1.0 / np.linalg.norm(A, axis=0)
    x, *_ = np.linalg.lstsq(A * scale, y, rcond=None)
    x *= scale
    np.testing.assert_allclose(solution.parameters, x[: model.size], atol=2e-9)
    np.testing.assert_allclose(solution.stars.mag, x[model.size :], atol=2e-9)
    assert solution.chi2 == pytest.approx(float(np.sum((A @ x - y) ** 2)), rel=1e-7)
    _Q, R = np.linalg.qr(A * scale)
    inverse = np.linalg.inv(R)
    C = (inverse @ inverse.T) * scale[:, None] * scale
    ours = solution.covariance.block(np.arange(model.size))
    np.testing.assert_allclose(ours, C[: model.size, : model.size], rtol=1e-5, atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(1, 4), st.integers(1, 40))
def test_schur_complement_of_any_survey(seed, exposures, detectors, stars):
    """Duplicated, single and missing detections, stars without any, several per exposure."""
    rng = np.random.default_rng(seed)
    obs, _ = make(stars, exposures, detectors, rng, references=0.3, drop=0.5)
    if not len(obs):
        return
    flags = np.array(obs.flags)
    flags[rng.random(flags.size) < 0.2] = 16
    obs = obs.with_flags(flags)
    terms = [ExposureZeroPoint(prior_sigma=1.0), ExposurePolynomial(order=1, prior_sigma=1.0),
             DetectorZeroPoint(gauge=False, prior_sigma=1.0)]  # fmt: skip
    for chosen in (terms, [ExposureZeroPoint(prior_sigma=1.0)]):
        model = Model(chosen, obs.tables)
        blocks = accumulate(model, obs, np.zeros(model.size), threads=1)
        A, y = dense(model, obs)
        n = len(obs) + len(obs.stars)
        A, y = A[:n], y[:n]
        N = A.T @ A
        p = model.size
        D = N[p:, p:].diagonal()
        safe = np.where(D > 0, 1.0 / np.where(D > 0, D, 1.0), 0.0)
        S = N[:p, :p] - (N[:p, p:] * safe) @ N[p:, :p]
        b = A[:, :p].T @ y - N[:p, p:] @ (safe * (A[:, p:].T @ y))
        np.testing.assert_allclose(
            np.triu(blocks.matrix), np.triu(S), atol=1e-8 * (abs(S).max() + 1)
        )
        np.testing.assert_allclose(blocks.vector, b, atol=1e-7 * (abs(b).max() + 1))


@pytest.mark.parametrize("tile", [1, 7, 40, 1000])
def test_sums_do_not_depend_on_the_tiles_of_the_matrix(monkeypatch, tile):
    from pogson.survey import normal

    obs, _ = make(120, 9, 5, np.random.default_rng(SEED), references=0.3)
    terms = [ExposurePolynomial(order=2, frame="detector", constant=True), ExposureZeroPoint()]
    model = Model(terms, obs.tables)
    monkeypatch.setattr(normal, "_DENSE", 0)
    one = accumulate(model, obs)
    monkeypatch.setattr(normal, "_TILE", tile)
    other = accumulate(model, obs, threads=2)
    np.testing.assert_array_equal(np.triu(other.matrix), np.triu(one.matrix))
    np.testing.assert_array_equal(other.vector, one.vector)
    # against the sums written out star by star
    d, w = model.design(obs), Weighting().weights(obs)
    V = np.zeros((len(obs), model.size))
    for t in range(d.width.size):
        for j in range(d.width[t]):
            c = d.column[t]
            v = d.constant[t] if c < 0 else d.values[:, c + j]
            V[np.arange(len(obs)), d.base[:, t] + j] = v
    S = (V * w[:, None]).T @ V
    w_ref = Weighting().reference_weights(obs)[0]
    for s in range(len(obs.stars)):
        u = w[obs.star == s] @ V[obs.star == s]
        S -= np.outer(u, u) / (w[obs.star == s].sum() + w_ref[s])
    np.testing.assert_allclose(np.triu(one.matrix), np.triu(S), atol=1e-9 * np.abs(S).max())


@pytest.mark.parametrize("name", ["grey", "sum"])
def test_sums_are_equal_to_the_bit_for_any_threads(name):
    obs, _ = make(3000, 5, 4, np.random.default_rng(SEED))
    model = Model(TERMS[name](), obs.tables)
    one = accumulate(model, obs, threads=1)
    for threads in (2, 3):
        other = accumulate(model, obs, threads=threads)
        assert np.array_equal(np.triu(one.matrix), np.triu(other.matrix))
        assert np.array_equal(one.vector, other.vector)
        assert one.chi2 == other.chi2


def partition_blocks(k):
    """One partition of a survey, made where the task runs."""
    obs, _ = make(400, 5, 4, np.random.default_rng(SEED))
    model = Model(TERMS["sum"](), obs.tables)
    return accumulate(model, obs.select_stars(100 * k, 100 * (k + 1)), threads=1)


def test_partitions_add_and_two_processes_give_the_same_bits():
    serial = accumulate_partitions(partition_blocks, range(4))
    with get_executor(2, kind="processes") as executor:
        spread = accumulate_partitions(partition_blocks, range(4), executor=executor)
    assert np.array_equal(np.triu(serial.matrix), np.triu(spread.matrix))
    assert np.array_equal(serial.vector, spread.vector)
    assert (serial.chi2, serial.rows, serial.stars) == (spread.chi2, spread.rows, spread.stars)
    obs, _ = make(400, 5, 4, np.random.default_rng(SEED))
    whole = accumulate(Model(TERMS["sum"](), obs.tables), obs)
    scale = np.abs(whole.matrix).max()
    np.testing.assert_allclose(np.triu(serial.matrix), np.triu(whole.matrix), atol=1e-12 * scale)
    assert serial.rows == whole.rows


def dies_once(k):
    """Kill the worker process of partition 1; in the parent, return the sums."""
    import multiprocessing
    import os

    if k == 1 and multiprocessing.parent_process() is not None:
        os._exit(9)
    return partition_blocks(k)


def test_death_of_a_worker_is_recovered():
    serial = accumulate_partitions(partition_blocks, range(3))
    with get_executor(2, kind="processes") as executor:
        found = accumulate_partitions(dies_once, range(3), executor=executor)
    assert np.array_equal(np.triu(serial.matrix), np.triu(found.matrix))


def fails(k):
    raise PogsonValueError(f"bad partition {k}")


def test_a_failed_partition_is_an_error_with_its_name():
    with pytest.raises(CalibrationError, match="Partition 7 failed: bad partition 7"):
        accumulate_partitions(fails, [7])
    with pytest.raises(CalibrationError, match="no partitions"):
        accumulate_partitions(fails, [])


def test_conjugate_gradients_equal_cholesky():
    obs, _ = make(2000, 6, 4, np.random.default_rng(SEED), references=0.2)
    terms = TERMS["sum"]()
    exact = calibrate(obs, terms)
    found = calibrate(obs, terms, solver="iterative", draws=200)
    np.testing.assert_allclose(found.parameters, exact.parameters, atol=1e-8)
    assert found.chi2 == pytest.approx(exact.chi2, rel=1e-9)
    ratio = found.error("exposure_zero_point") / exact.error("exposure_zero_point")
    # the relative error of an error from 200 draws is 1 / sqrt(400) = 0.05
    assert np.all(np.abs(ratio - 1.0) < 0.2), ratio


def test_iterative_does_not_depend_on_threads():
    obs, _ = make(500, 4, 3, np.random.default_rng(SEED))
    terms = TERMS["grey"]()
    one = calibrate(obs, terms, solver="iterative", threads=1, draws=8)
    two = calibrate(obs, terms, solver="iterative", threads=2, draws=8)
    assert np.array_equal(one.parameters, two.parameters)


def test_pulls_from_the_kept_covariance():
    """Pulls of all parameters over realisations: standard deviation 0.9 - 1.1."""
    print("seed", SEED)
    pulls = []
    for k in range(60):
        rng = np.random.default_rng([SEED, k])
        obs, _ = make(600, 6, 5, rng, references=0.3)
        terms = [ExposureZeroPoint(), DetectorZeroPoint(), ExposurePolynomial(order=1)]
        s = calibrate(obs, terms)
        truth = np.where(np.arange(s.parameters.size) < 6, 25.0, 0.0)
        error = np.concatenate([s.error(t.name) for t in terms])
        pulls.append((s.parameters - truth) / error)
    # 60 runs of about 17 independent combinations: the scatter of the rms is 1 / sqrt(2040)
    rms = np.sqrt(np.mean(np.square(pulls)))
    assert 0.9 < rms < 1.1, rms


def test_parameters_must_fit():
    obs, _ = make(5, 3, 1, np.random.default_rng(1))
    with pytest.raises(PogsonValueError, match="has 3"):
        accumulate(Model([ExposureZeroPoint()], obs.tables), obs, np.zeros(4))
