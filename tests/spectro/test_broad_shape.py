"""Broad errors of models: the joint solution against the whole Gaussian problem, and bad bands."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pogson.simulate import FibreSimulation, simulate_fibres
from pogson.spectro import (
    FluxCalConfig,
    GridPhotometry,
    ModelGrid,
    Photometry,
    ResponseConfig,
    calibrate_fibres,
    grid_photometry,
)
from pogson.spectro._match_fit import _Problem
from pogson.spectro._shape_modes import ShapePriors, StarShape, hat_matrix, solve_broad_shape
from pogson.spectro.matching import _search
from pogson.spectro.star_match import MatchConfig, StarSpectrum

BINS = np.linspace(8.3, 9.1, 12)
PRIORS = ShapePriors(0.01, 0.007, grey=0.3, slope=0.05, zero_point=0.004)


def made_up_stars(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, list, list]:
    position = np.linspace(8.25, 9.15, 30)
    centres = np.array([[8.45], [8.7], [9.0]])
    weight = np.exp(-0.5 * ((position - centres) / 0.06) ** 2)
    weight /= weight.sum(axis=1, keepdims=True)
    stars, slopes = [], []
    for _ in range(n):
        root = rng.normal(size=(2, 2)) * 0.5
        stars.append(
            StarShape(
                rng.normal(size=2), root @ root.T + 0.1 * np.eye(2), np.zeros((2, 4)),
                0.01 * rng.normal(size=3), rng.uniform(0.008, 0.012, 3),
                0.01 * rng.normal(size=(3, 2)), ("g", "r", "z"), position, weight,
            )
        )  # fmt: skip
        slopes.append(0.01 * np.array([BINS - 8.7, (BINS - 8.7) ** 2 - 0.05]))
    y = 0.01 * rng.normal(size=(n, BINS.size))
    v = np.full_like(y, 0.004**2)
    y[0, 3], v[0, 3] = np.nan, np.nan
    return y, v, stars, slopes


def by_brute_force(y, v, stars, slopes, priors):
    """Posterior mean and covariance of response plus mean losses, with every unknown kept."""
    n, m = len(stars), BINS.size
    ends = [stars[0].position[0], stars[0].position[-1]]
    knots = np.linspace(*ends, int(np.ceil((ends[1] - ends[0]) / 0.04)) + 1)
    k = knots.size
    process = np.exp(-0.5 * ((knots[:, None] - knots) / priors.reach) ** 2) + 1e-8 * np.eye(k)
    size = m + k + 3 + n * (2 + k + 2)
    cov = np.zeros((size, size))
    cov[:m, :m] = 1e6 * np.eye(m)
    cov[m : m + k, m : m + k] = priors.common**2 * process
    cov[m + k : m + k + 3, m + k : m + k + 3] = priors.zero_point**2 * np.eye(3)
    mean = np.zeros(size)
    rows, data, noise = [], [], []
    total = np.zeros((m, size))
    total[:, :m] = np.eye(m)
    for i, (s, d) in enumerate(zip(stars, slopes, strict=True)):
        at = m + k + 3 + i * (2 + k + 2)
        cov[at : at + 2, at : at + 2] = s.covariance
        mean[at : at + 2] = s.shift
        own = slice(at + 2, at + 2 + k)
        cov[own, own] = priors.own**2 * process
        loss = at + 2 + k
        cov[loss, loss], cov[loss + 1, loss + 1] = priors.grey**2, priors.slope**2
        x = BINS - BINS.mean()
        total[:, loss] += 1 / n
        total[:, loss + 1] += x / n
        modes = hat_matrix(knots, BINS)
        for j in np.flatnonzero(np.isfinite(y[i])):
            row = np.zeros(size)
            row[j] = 1
            row[m : m + k] = row[own] = modes[j]
            row[at : at + 2] = d[:, j]
            row[loss], row[loss + 1] = 1, x[j]
            rows.append(row)
            data.append(y[i, j])
            noise.append(v[i, j])
        bands = s.band_weight @ hat_matrix(knots, s.position)
        for j in range(3):
            row = np.zeros(size)
            row[m : m + k] = row[own] = bands[j]
            row[m + k + j] = 1
            row[at : at + 2] = s.band_derivative[j]
            rows.append(row)
            data.append(s.band_gap[j])
            noise.append(s.band_error[j] ** 2)
    a = np.array(rows)
    gain = cov @ a.T @ np.linalg.inv(a @ cov @ a.T + np.diag(noise))
    return total @ (mean + gain @ (np.array(data) - a @ mean))


def test_the_same_as_all_unknowns_at_once(rng: np.random.Generator) -> None:
    y, v, stars, slopes = made_up_stars(rng, 4)
    got = solve_broad_shape(BINS, y, v, stars, slopes, PRIORS)
    expected = by_brute_force(y, v, stars, slopes, PRIORS)
    np.testing.assert_allclose(got.correction, expected, atol=2e-5)
    assert got.grey.mean() == pytest.approx(0, abs=1e-12)
    assert np.all(np.linalg.eigvalsh(got.covariance) > -1e-9)


def test_its_covariance_is_the_scatter(rng: np.random.Generator) -> None:
    """Draw the errors of the models from the priors; the noise of the bins is not in the answer."""
    _, _, stars, slopes = made_up_stars(rng, 4)
    stars = [replace(s, shift=np.zeros(2)) for s in stars]
    knots = np.linspace(8.25, 9.15, 24)
    gap = (knots[:, None] - knots) / PRIORS.reach
    root = np.linalg.cholesky(np.exp(-0.5 * gap**2) + 1e-8 * np.eye(24))
    errors, n_draw = [], 300
    v = np.full((4, BINS.size), 1e-5**2)
    for _ in range(n_draw):
        common = PRIORS.common * root @ rng.normal(size=24)
        zero = PRIORS.zero_point * rng.normal(size=3)
        y, seen = [], []
        for s, d in zip(stars, slopes, strict=True):
            own = common + PRIORS.own * root @ rng.normal(size=24)
            p = np.linalg.cholesky(s.covariance) @ rng.normal(size=2)
            # counts over model: the model's error with the sign of the response's
            y.append(hat_matrix(knots, BINS) @ own + d.T @ p)
            bands = s.band_weight @ hat_matrix(knots, s.position) @ own
            band = bands + zero + s.band_derivative @ p + s.band_error * rng.normal(size=3)
            seen.append(replace(s, band_gap=band))
        errors.append(solve_broad_shape(BINS, np.array(y), v, seen, slopes, PRIORS).correction)
    errors = np.array(errors)
    predicted = solve_broad_shape(BINS, np.array(y), v, seen, slopes, PRIORS).covariance
    # without losses in the draws the scatter is that of the shape; 300 draws: 8 % at 2 sigma
    ratio = np.sqrt(np.mean(errors**2, axis=0) / np.diag(predicted))
    assert np.all(ratio < 1.15)
    assert np.median(ratio) > 0.8


def shape_error(sim: FibreSimulation, standards: dict[str, Photometry], **how: float) -> float:
    config = FluxCalConfig(response=ResponseConfig(**how))  # type: ignore[arg-type]
    calibration = calibrate_fibres(sim.frame, standards, sim.library, config)
    assert calibration.rejected == {}
    lam = sim.frame.wavelength
    ok = (lam > 3950) & (lam < 8900) & (sim.transmission > 0.999)
    ratio = (calibration.factor(lam) / sim.true_factor())[ok]
    return float(np.hypot(np.std(ratio), np.mean(ratio) - 1))


def test_one_wrong_magnitude_does_no_harm() -> None:
    sim = simulate_fibres(
        seed=43, n_stars=5, n_fibres=5, sn=(40, 80),
        wavelength=10 ** np.arange(np.log10(3900), np.log10(9000), 4e-4),
    )  # fmt: skip
    p = sim.standards["star 2"]
    magnitudes = np.array(p.magnitudes)
    magnitudes[2] += 0.25
    wrong = sim.standards | {
        "star 2": Photometry(p.filter_names, magnitudes, p.mag_errors, dict(p.meta))
    }
    good, bad = shape_error(sim, sim.standards), shape_error(sim, wrong)
    naive = shape_error(sim, wrong, template_common=0.0)
    print(f"seed 43: good {good:.4f}, one band 0.25 mag off {bad:.4f}, not doubted {naive:.4f}")
    assert bad < good + 0.004
    assert bad < naive


def test_a_fine_grid_is_searched_like_a_coarse_one() -> None:
    """Trying a few nodes and then their neighbours ends at the node that trying all finds."""
    sim = simulate_fibres(
        seed=44, n_stars=2, n_fibres=2, sn=(30, 60),
        wavelength=10 ** np.arange(np.log10(3900), np.log10(9000), 3e-4),
    )  # fmt: skip
    coarse = sim.library
    teff, feh = np.meshgrid(np.arange(5000.0, 7001.0, 80.0), np.arange(-1.5, 0.01, 0.125))
    labels = np.array([teff.ravel(), np.full(teff.size, 4.25), feh.ravel()])
    flux = np.array([coarse.interpolate(*t).flux for t in labels.T])
    grid = ModelGrid.from_arrays(coarse.wavelength[::3], flux[:, ::3], *labels)
    assert grid.coarse.size < 0.2 * teff.size
    names = sim.standards["star 1"].filter_names
    phot = GridPhotometry(grid, grid_photometry(coarse, _curves(names)).bands)
    everything = GridPhotometry(grid, phot.bands)
    for i, photometry in enumerate(sim.standards.values()):
        frame = sim.frame
        star = StarSpectrum(
            frame.wavelength, frame.counts[i], frame.ivar[i], frame.lsf_sigma, f"{i}"
        )
        flux_, error = phot.observed(photometry, 0.01)
        prior = (photometry.meta["ebv"], photometry.meta["ebv_error"])
        few = grid.coarse
        found = _search(_Problem(star, phot, MatchConfig()), flux_, error, prior)[2]
        grid.__dict__["coarse"] = np.arange(teff.size)
        best = _search(_Problem(star, everything, MatchConfig()), flux_, error, prior)[2]
        grid.__dict__["coarse"] = few
        assert found == best


def _curves(names: tuple[str, ...]):
    from pogson.sed import load_filter_curves

    return load_filter_curves(names)


def test_holes_of_a_grid_are_bridged() -> None:
    """A missing node comes from its neighbours; a grid that is linear in its labels is met."""
    x = np.log(4000.0) + 1e-3 * np.arange(60)

    def flux(t: float, z: float) -> np.ndarray:
        return (
            1 + 1e-4 * (t - 6000) * np.linspace(-1, 1, 60) + 0.1 * z * np.linspace(-1, 1, 60) ** 3
        )

    nodes = [(t, z) for t in (5500, 6000, 6500) for z in (-1.0, 0.0) if (t, z) != (6000, 0.0)]
    t, z = np.array(nodes, float).T
    grid = ModelGrid(x[0], 1e-3, [flux(*n) for n in nodes], t, np.full(5, 4.0), z)
    np.testing.assert_allclose(grid.spectrum(6000, 4.0, 0.0), flux(6000, 0.0), atol=1e-12)
    np.testing.assert_allclose(grid.spectrum(6100, 4.0, -0.3), flux(6100, -0.3), atol=1e-12)
    # beyond the grid: its edge
    np.testing.assert_allclose(grid.spectrum(9999, 1.0, 3.0), flux(6500, 0.0), atol=1e-12)
