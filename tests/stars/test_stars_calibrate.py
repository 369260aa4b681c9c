"""The closed loop of the band calibration, its errors, outliers, trends and bases."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from offset_worlds import OFFSETS, small_world

from pogson.errors import CalibrationError, MaskedDataError, PogsonValueError
from pogson.fields import Box
from pogson.stars import (
    CalibrationConfig,
    StarDraws,
    calibrate_bands,
    offset_field,
    polynomial_basis,
    position_basis,
)
from pogson.stars.calibrate_scores import star_scores
from pogson.stars.photometry_table import StarPhotometry

TRUTH = -np.log(OFFSETS)
REFERENCE = 1
OTHERS = np.arange(8) != REFERENCE


def one_model(flux, err, scale):
    """A sampler of stars that are one model at unknown distance: exact, Gaussian in flux."""

    def sampler(stars, seed):
        rng = np.random.default_rng(seed)
        w = np.where(stars.observed, stars.flux_err, np.inf) ** -2.0
        mean = (np.where(stars.observed, stars.flux, 0) * w).sum(1) / w.sum(1)
        draws = mean[:, None] + rng.normal(size=(len(w), 200)) / np.sqrt(w.sum(1))[:, None]
        # flat in ln amplitude: a prior flat in amplitude would pull the grey offset up for ever
        model = np.repeat(draws[..., None], flux.shape[1], axis=2)
        return StarDraws(model, -np.log(draws))

    return sampler


def grey_stars(n=1500, bands=5, error=0.02, scatter=0.0, seed=3, x=None):
    rng = np.random.default_rng(seed)
    x = np.zeros((n, bands)) if x is None else x
    true = 10 ** rng.uniform(-7, -6, (n, 1))
    seen = true * np.exp(-x) * (1 + scatter * rng.normal(size=(n, bands)))
    err = error * true * np.ones((1, bands))
    flux = seen + err * rng.normal(size=seen.shape)
    return StarPhotometry.from_fluxes(flux, err, bands=[f"b{j}" for j in range(bands)])


def test_score_of_a_gaussian_is_exact():
    """Unknown amplitude, prior flat in its logarithm: residual from the mean over variance."""
    stars = grey_stars(40)
    f, e = stars.flux, stars.flux_err
    draws = one_model(f, e, 1)(stars, 1)
    n, bands = f.shape
    s = star_scores(
        draws.flux, draws.log_weight, f, stars.observed, np.zeros((n, bands)), e**2, np.abs(f)
    )
    mean = (f / e**2).sum(1) / (e**-2.0).sum(1)
    expected = -(f - mean[:, None]) * mean[:, None] / e**2
    # plus the term from the amplitude's variance, which is 1 / bands, and Monte Carlo noise
    noise = np.sqrt((mean[:, None] / e) ** 2 / bands / 200)
    assert np.abs((s.score[:, :bands] - expected) / noise).max() < 6


def test_grey_world_offsets_scatter_and_covariance_are_analytic():
    x = np.array([0.03, -0.02, 0.0, 0.01, -0.02])
    stars = grey_stars(scatter=0.02, x=np.tile(x, (1500, 1)))
    made = calibrate_bands(stars, one_model(stars.flux, stars.flux_err, 1), gauge="mean", seed=1)
    per_band = (0.02**2 + 0.02**2) / 1500
    expected = per_band * (np.eye(5) - 0.2)
    assert np.allclose(made.covariance, expected, atol=0.2 * per_band)
    pulls = (made.log_offsets - (x - x.mean())) / np.sqrt(np.diagonal(expected))
    assert np.abs(pulls).max() < 4
    assert np.abs(made.scatter - 0.02).max() < 4 * made.scatter_error.max()
    assert made.converged


@pytest.fixture(scope="module")
def world():
    return small_world(800, 200)


def closed_loop(world, seeds, n, *, error=0.03, outliers=0.0):
    """Pulls relative to the reference band, and residuals."""
    pulls, residuals = [], []
    for seed in seeds:
        stars = world.stars(n, error=error, seed=seed)
        if outliers:
            rng = np.random.default_rng(seed)
            rows = np.flatnonzero(rng.random(n) < outliers)
            band = rng.integers(0, 8, len(rows))
            flux, err = stars.flux.copy(), stars.flux_err.copy()
            flux[rows, band] *= 1.5
            err[rows, band] *= 1.5
            stars = replace(stars, flux=flux, flux_err=err)
        made = calibrate_bands(stars, world, seed=seed, gauge="PS_r")
        if outliers:
            assert made.outlier[rows, band].mean() > 0.9
            assert made.outlier.sum() < len(rows) + 0.01 * n
        d = made.log_offsets - (TRUTH - TRUTH[REFERENCE])
        pulls.append(d[OTHERS] / np.sqrt(np.diagonal(made.covariance)[OTHERS]))
        residuals.append(d[OTHERS])
    print(f"seeds {list(seeds)} error {error}: pull rms {np.sqrt(np.mean(np.square(pulls))):.2f}, "
          f"residual rms {np.sqrt(np.mean(np.square(residuals))):.4f}")  # fmt: skip
    return np.array(pulls), np.array(residuals)


def test_closed_loop(world):
    pulls, residuals = closed_loop(world, [11], 400)
    assert np.abs(pulls).max() < 4
    # the pulls of one realisation are strongly correlated: rms 0.35 to 1.9 in 99 %
    assert 0.15 < np.sqrt(np.mean(pulls**2)) < 2.0
    assert np.sqrt(np.mean(residuals**2)) < 0.012


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "outliers", "n_models"),
    [(0.03, 0.0, 800), (0.01, 0.0, 4000), (0.10, 0.0, 800), (0.03, 0.05, 800)],
)
def test_closed_loop_pulls(error, outliers, n_models):
    pulls, _ = closed_loop(
        small_world(n_models, 300), range(8), 500, error=error, outliers=outliers
    )
    # 8 realisations with about 3 independent directions each: rms 1 +- 0.15
    assert 0.6 < np.sqrt(np.mean(pulls**2)) < 1.4


def test_outliers_are_found(world):
    pulls, _ = closed_loop(world, [21], 300, outliers=0.05)
    assert np.abs(pulls).max() < 4


def test_offsets_that_vary_with_position_and_as_a_field():
    n, box = 1500, Box(0, 0, 1000, 1000)
    rng = np.random.default_rng(4)
    px, py = rng.uniform(0, 999, n), rng.uniform(0, 999, n)
    design, terms = position_basis(box, 1, x=px, y=py)
    a = np.zeros((5, 3))
    a[:, 0] = [0.02, -0.02, 0.01, 0.0, -0.01]
    a[0, 1], a[1, 2] = 0.02, -0.015
    stars = grey_stars(n, x=design @ a.T)
    made = calibrate_bands(
        stars, one_model(stars.flux, stars.flux_err, 1), design=design, terms=terms, gauge="mean",
        config=CalibrationConfig(scatter=0.0, outliers=False),
    )  # fmt: skip
    error = np.sqrt(np.diagonal(made.coefficient_covariance)).reshape(5, 3)
    assert np.abs((made.coefficients - (a - a.mean(axis=0))) / error).max() < 4
    field = offset_field(made, "b0", box)
    factor = made.factors(design)[:, 0]
    assert np.allclose(np.exp(field(x=px, y=py)), factor, rtol=1e-12)
    with pytest.raises(PogsonValueError, match="basis has shape"):
        made.factors(np.ones((3, 1)))


def test_trend_is_reported_with_its_error():
    n = 1500
    colour = np.random.default_rng(8).normal(1.0, 0.5, n)
    slope = np.array([0.02, 0.0, 0.0, 0.0, -0.02])
    stars = grey_stars(n, x=(colour[:, None] - 1.0) * slope)
    made = calibrate_bands(
        stars, one_model(stars.flux, stars.flux_err, 1), covariates={"colour": colour},
        config=CalibrationConfig(outliers=False), gauge="mean",
    )  # fmt: skip
    found, covariance = made.trends["colour"]
    error = np.sqrt(np.diagonal(covariance))
    # one step from no trend: significant, of the right sign, and 20-30 % low at 20 sigma
    assert np.allclose(found, slope, atol=4 * error.max() + 0.3 * 0.02)
    assert found[0] > 5 * error[0]
    assert found[4] < -5 * error[4]


def test_polynomial_basis_refuses_what_cannot_be():
    with pytest.raises(PogsonValueError, match="vary"):
        polynomial_basis(1, mag=np.ones(5))
    design, terms = polynomial_basis(2, mag=np.arange(5.0), colour=np.arange(5.0) ** 2)
    assert design.shape == (5, 6)
    assert terms[-1] == "colour*colour"


def test_bad_input():
    stars = grey_stars(50)
    sampler = one_model(stars.flux, stars.flux_err, 1)
    with pytest.raises(MaskedDataError, match="min_bands"):
        calibrate_bands(stars, sampler, config=CalibrationConfig(min_bands=6))
    with pytest.raises(PogsonValueError, match="ones"):
        calibrate_bands(stars, sampler, design=np.zeros((50, 2)))
    with pytest.raises(PogsonValueError, match="sampler returned"):
        calibrate_bands(stars, lambda s, k: StarDraws(np.ones((50, 4, 2)), np.zeros((50, 4))))
    with pytest.raises(CalibrationError, match="no draw"):
        calibrate_bands(
            stars, lambda s, k: StarDraws(np.ones((50, 4, 5)), np.full((50, 4), -np.inf))
        )
    with pytest.raises(PogsonValueError, match="gauge"):
        calibrate_bands(stars, sampler, gauge="z", config=CalibrationConfig(averages=1))
    with pytest.raises(PogsonValueError, match="tolerance"):
        CalibrationConfig(tolerance=0)


def test_same_seed_same_result():
    stars = grey_stars(200)
    sampler = one_model(stars.flux, stars.flux_err, 1)
    first, second = (calibrate_bands(stars, sampler, seed=5) for _ in range(2))
    assert np.array_equal(first.coefficients, second.coefficients)
    assert np.array_equal(first.covariance, second.covariance)
