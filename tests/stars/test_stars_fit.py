"""The stellar fit against a brute-force integral, calibration under its own prior, bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import logsumexp, ndtr

from pogson.errors import MissingDataError, PogsonValueError
from pogson.stars import (
    DustMapPrior,
    ExtinctionPrior,
    FitConfig,
    FlatDistance,
    GalacticPrior,
    RvPrior,
    StarFitter,
    StarFlag,
    StarPhotometry,
    StarPriors,
    StellarGrid,
    fit_stars,
    simulated_grid,
)

_MU = np.log(10.0) / 5.0


def small_grid(n: int = 40) -> StellarGrid:
    grid = simulated_grid()
    rng = np.random.default_rng(5)
    return grid.select(np.sort(rng.choice(grid.n_models, n, replace=False)))


def log_extinction(priors: StarPriors, d: np.ndarray, av: np.ndarray) -> np.ndarray:
    """Log density of A_V at each distance, shape (n_d, n_av)."""
    ex = priors.extinction
    mean, sd = (v[:, None] for v in ex.profile(d, 100.0, 20.0))
    if np.isinf(sd).all():
        return np.full((d.size, av.size), -np.log(ex.high - ex.low))
    mass = ndtr((ex.high - mean) / sd) - ndtr((ex.low - mean) / sd)
    return -0.5 * ((av - mean) / sd) ** 2 - np.log(sd * np.sqrt(2 * np.pi) * mass)


class Truth:
    """Posterior of one star by sums over a dense grid of (mu, A_V, R_V), zoomed per model."""

    def __init__(self, grid: StellarGrid, star: StarPhotometry, priors: StarPriors, limits: Any):
        self.star, self.priors = star, priors
        near, far = (5 * np.log10(x) for x in limits)
        lnp = priors.log_model_prior(grid)
        lnq = priors.distance.log_model_weights(grid)
        mu = np.linspace(near, far, 20001)
        total = [
            logsumexp(self.density(mu)[c]) + np.log(mu[1] - mu[0]) + logsumexp(lnq[c] + lnp)
            for c in range(len(lnq))
        ]
        norm = logsumexp(total)
        rows = []
        for j in np.flatnonzero(np.isfinite(lnp + lnq.max(axis=0))):
            rows.append((j, *self.model(grid.coefficients[j].astype(float), lnq[:, j], near, far)))
            rows[-1] = (j, rows[-1][1] + lnp[j] - norm, *rows[-1][2:])
        table = np.array(rows)
        self.log_evidence = float(logsumexp(table[:, 1]))
        share = np.exp(table[:, 1] - self.log_evidence)
        self.share = dict(zip(table[:, 0].astype(int), share, strict=True))
        first, second = share @ table[:, 2::2], share @ table[:, 3::2]
        self.mean, self.sd = first, np.sqrt(second - first**2)

    def density(self, mu: np.ndarray) -> np.ndarray:
        d = 10 ** (mu / 5)
        return self.priors.distance.log_density(d, 100.0, 20.0) + 3 * np.log(d) + np.log(_MU)

    def model(self, c: np.ndarray, lnq: np.ndarray, near: float, far: float) -> list[float]:
        rvp, ex, star = self.priors.rv, self.priors.extinction, self.star
        rv = np.linspace(
            max(rvp.low, rvp.mean - 5 * rvp.sd), min(rvp.high, rvp.mean + 5 * rvp.sd), 21
        )
        mass = ndtr((rvp.high - rvp.mean) / rvp.sd) - ndtr((rvp.low - rvp.mean) / rvp.sd)
        lnr = -0.5 * ((rv - rvp.mean) / rvp.sd) ** 2
        lnr -= np.log(rvp.sd * np.sqrt(2 * np.pi) * mass)

        def log_posterior(mu: np.ndarray, av: np.ndarray, r: np.ndarray) -> np.ndarray:
            mags = mu[:, None, None, None] + av[:, None, None] * (c[:, 1] + r[:, None] * c[:, 2])
            flux = 10 ** (-0.4 * (c[:, 0] + mags))
            err = star.flux_err[0]
            out = -0.5 * (((star.flux[0] - flux) / err) ** 2).sum(-1)
            out -= np.log(err * np.sqrt(2 * np.pi)).sum()
            d = 10 ** (mu / 5)
            if np.isfinite(star.parallax[0]):
                z = (1 / d - star.parallax[0]) / star.parallax_err[0]
                out += (-0.5 * z**2 - np.log(star.parallax_err[0] * np.sqrt(2 * np.pi)))[
                    :, None, None
                ]
            out += logsumexp(self.density(mu) + lnq[:, None], axis=0)[:, None, None]
            return out + log_extinction(self.priors, d, av)[:, :, None]

        mu, av = np.linspace(near, far, 121), np.linspace(ex.low, ex.high, 81)
        for _ in range(3):
            value = log_posterior(mu, av, np.array([rvp.mean]))[:, :, 0]
            seen = value > value.max() - 18
            i, k = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
            dm, da = mu[1] - mu[0], av[1] - av[0]
            mu = np.linspace(max(mu[i[0]] - 2 * dm, near), min(mu[i[-1]] + 2 * dm, far), 121)
            low, high = max(av[k[0]] - 2 * da, ex.low), min(av[k[-1]] + 2 * da, ex.high)
            av = np.linspace(low, high, 81)
        value = log_posterior(mu, av, rv) + lnr
        top = value.max()
        p = np.exp(value - top)
        p[:, [0, -1]] *= 0.5  # trapezium
        total = p.sum()
        cell = (mu[1] - mu[0]) * (av[1] - av[0]) * (rv[1] - rv[0])
        out = [top + np.log(total * cell)]
        for axes, x in (((1, 2), mu * _MU), ((0, 2), av), ((0, 1), rv)):
            w = p.sum(axis=axes) / total
            out += [float(w @ x), float(w @ x**2)]
        return out


def screen(d: np.ndarray, l: float, b: float) -> tuple[np.ndarray, np.ndarray]:  # noqa: E741
    return 0.4 * np.minimum(d / 0.5, 1.0), np.full_like(d, 0.05)


FLAT = ExtinctionPrior(high=6.0)
CASES = {
    "bright": (0.03, 0.05, 1.0, FLAT),
    "no parallax": (0.05, None, 1.0, FLAT),
    "at the limit of A_V": (0.03, 0.05, 0.0, FLAT),
    "faint, fluxes below zero": (0.5, 0.3, 1.0, FLAT),
    "hardly seen": (2.0, 0.3, 1.0, FLAT),
    "Gaussian A_V": (0.05, 0.2, 0.3, ExtinctionPrior(0.3, 0.1, high=6.0)),
    "dust map": (0.05, 0.2, 0.4, DustMapPrior(screen, "screen", high=6.0)),
}


@pytest.mark.parametrize("case", CASES)
def test_posterior_is_the_brute_force_integral(case: str) -> None:
    noise, plx_err, av, extinction = CASES[case]
    seed = 11
    print("seed", seed)
    rng = np.random.default_rng(seed)
    grid = small_grid()
    flux = grid.fluxes([20], av=av, distance_kpc=1.5)
    err = noise * flux if noise < 0.3 else np.full_like(flux, noise * np.median(flux))
    plx: dict[str, Any] = {}
    if plx_err is not None:
        plx = {"parallax": [1 / 1.5 + plx_err * rng.normal()], "parallax_err": [plx_err]}
    star = StarPhotometry.from_fluxes(
        flux + err * rng.normal(size=flux.shape), err, bands=grid.bands, l=[100.0], b=[20.0], **plx
    )
    config = FitConfig(n_draws=50_000, n_proposals=200_000, distance_limits=(0.01, 100.0))
    priors = StarPriors(extinction=extinction)
    fit = fit_stars(grid, star, seed=1, priors=priors, config=config)
    truth = Truth(grid, star, priors, config.distance_limits)
    ess = float(fit.ess[0])
    print("ess", ess)
    assert ess > 5000
    n = min(ess, config.n_draws)
    assert abs(fit.log_evidence[0] - truth.log_evidence) < 5 / np.sqrt(ess) + 0.01
    draws = [np.log(fit.distance_kpc[0].astype(float)), fit.av[0], fit.rv[0]]
    for k, x in enumerate(draws):
        assert abs(np.mean(x) - truth.mean[k]) / truth.sd[k] < 5 / np.sqrt(n) + 0.005
        assert abs(np.std(x) / truth.sd[k] - 1) < 0.10  # rare far modes: heavy-tailed variance
    share = np.bincount(fit.model_index[0], minlength=grid.n_models) / config.n_draws
    for j, p in truth.share.items():
        assert abs(share[j] - p) < 5 * np.sqrt(p / n) + 0.003


def simulate(grid: StellarGrid, priors: StarPriors, n: int, limits: Any, seed: int) -> Any:
    """Draw stars from the prior itself, along one sightline, with 3 % photometry."""
    rng = np.random.default_rng(seed)
    mu = np.linspace(5 * np.log10(limits[0]), 5 * np.log10(limits[1]), 4001)
    lnp = priors.log_model_prior(grid)
    lnq = priors.distance.log_model_weights(grid)
    d = 10 ** (mu / 5)
    lnn = priors.distance.log_density(d, 100.0, 20.0) + 3 * np.log(d)
    mass = np.array([logsumexp(lnn[c]) + logsumexp(lnp + lnq[c]) for c in range(len(lnq))])
    c = rng.choice(len(mass), n, p=np.exp(mass - logsumexp(mass)))
    model, modulus = np.empty(n, int), np.empty(n)
    for k in range(len(mass)):
        w = np.exp(lnp + lnq[k] - (lnp + lnq[k]).max())
        model[c == k] = rng.choice(grid.n_models, (c == k).sum(), p=w / w.sum())
        w = np.cumsum(np.exp(lnn[k] - lnn[k].max()))
        modulus[c == k] = np.interp(rng.random((c == k).sum()) * w[-1], w, mu)
    av = rng.uniform(priors.extinction.low, priors.extinction.high, n)
    rv = rng.normal(priors.rv.mean, priors.rv.sd, n)
    dist = 10 ** (modulus / 5)
    flux = grid.fluxes(model, av=av, rv=rv, distance_kpc=dist)
    stars = StarPhotometry.from_fluxes(
        flux + 0.03 * flux * rng.normal(size=flux.shape), 0.03 * flux, bands=grid.bands,
        parallax=1 / dist + 0.1 * rng.normal(size=n), parallax_err=np.full(n, 0.1),
        l=np.full(n, 100.0), b=np.full(n, 20.0),
    )  # fmt: skip
    return stars, dist, av


def calibration(n: int, seed: int) -> dict[str, tuple[float, float]]:
    """Return coverage of the 68 % interval and the Kolmogorov-Smirnov p of the PIT."""
    from scipy.stats import kstest

    priors = StarPriors(extinction=ExtinctionPrior(high=3.0))
    grid = simulated_grid()
    config = FitConfig(distance_limits=(0.05, 30.0))
    stars, dist, av = simulate(grid, priors, n, config.distance_limits, seed)
    # errors are fractions of the true flux: known, as the likelihood supposes
    fit = fit_stars(grid, stars, seed=1, priors=priors, config=config)
    out = {}
    rng = np.random.default_rng(seed)
    for name, truth in (("distance_kpc", dist), ("av", av)):
        draws = getattr(fit, name).astype(float)
        below = (draws < truth[:, None]).sum(axis=1)
        pit = (below + rng.random(n)) / (fit.n_draws + 1)
        out[name] = (float(np.mean(np.abs(pit - 0.5) < 0.34)), float(kstest(pit, "uniform").pvalue))
    return out


def test_intervals_are_calibrated_quickly() -> None:
    n, seed = 300, 3
    result = calibration(n, seed)
    print("seed", seed, result)
    for cover, p in result.values():
        assert abs(cover - 0.68) < 4 * np.sqrt(0.68 * 0.32 / n)
        assert p > 1e-4


@pytest.mark.slow
def test_intervals_are_calibrated() -> None:
    n, seed = 4000, 4
    result = calibration(n, seed)
    print("seed", seed, result)
    for cover, p in result.values():
        assert 0.65 <= cover <= 0.71  # 4 sigma of 4000 stars
        assert p > 1e-4


def plain(n: int = 3, **kw: Any) -> tuple[StellarGrid, StarPhotometry]:
    grid = simulated_grid()
    flux = grid.fluxes(np.arange(100, 100 + n), av=0.4)
    kw = {"l": np.full(n, 30.0), "b": np.full(n, 40.0)} | kw
    return grid, StarPhotometry.from_fluxes(flux, 0.03 * flux, bands=grid.bands, **kw)


def test_order_blocks_and_threads_change_nothing() -> None:
    grid, stars = plain(40)
    one = fit_stars(grid, stars, seed=5)
    two = fit_stars(grid, stars, seed=5, workers=2, config=FitConfig(block_size=16))
    assert one == two
    back = fit_stars(grid, stars.select(np.arange(39, -1, -1)), seed=5)
    assert np.array_equal(back.model_index[::-1], one.model_index)
    assert not np.array_equal(fit_stars(grid, stars, seed=6).model_index, one.model_index)


def test_unfittable_stars_keep_their_rows() -> None:
    grid, stars = plain(3, parallax=[1.0, np.nan, 1.0], parallax_err=[0.1, np.nan, 0.1])
    flux = stars.flux.copy()
    flux[1] = np.nan
    lat = np.array([40.0, 40.0, np.nan])
    stars = StarPhotometry.from_fluxes(
        flux, stars.flux_err, bands=stars.bands, parallax=stars.parallax,
        parallax_err=stars.parallax_err, l=stars.l, b=lat,
    )  # fmt: skip
    fit = fit_stars(grid, stars, seed=1)
    assert fit.fitted.tolist() == [True, False, False]
    assert fit.flags[1] & StarFlag.ALL_MASKED
    assert fit.flags[1] & StarFlag.NO_PARALLAX
    assert fit.flags[2] & StarFlag.NO_POSITION
    assert np.all(fit.model_index[1:] == -1)
    assert np.isnan(fit.distance_kpc[1:]).all()


def test_bad_input_says_so() -> None:
    grid, stars = plain(2)
    with pytest.raises(MissingDataError, match="'PS_x'"):
        StarFitter(grid, ["PS_g", "PS_x"])
    with pytest.raises(PogsonValueError, match="fitter"):
        StarFitter(grid, grid.bands[:4]).fit(stars, seed=1)
    _, nowhere = plain(2, l=None, b=None)
    with pytest.raises(PogsonValueError, match="Galactic coordinates"):
        fit_stars(grid, nowhere, seed=1)
    assert fit_stars(grid, nowhere, seed=1, priors=StarPriors(distance=FlatDistance())).fitted.all()
    with pytest.raises(PogsonValueError, match="error_floor names"):
        fit_stars(grid, stars, seed=1, config=FitConfig(error_floor={"PS_q": 0.1}))
    for bad in ({"n_draws": 0}, {"distance_limits": (1.0, 0.5)}, {"error_floor": -0.1}):
        with pytest.raises(PogsonValueError):
            FitConfig(**bad)  # type: ignore[arg-type]


def test_fixed_rv_floors_and_poor_fits() -> None:
    grid, stars = plain(3)
    fixed = fit_stars(grid, stars, seed=1, priors=StarPriors(rv=RvPrior(sd=0.0)))
    assert np.all(fixed.rv == np.float32(3.32))
    wide = fit_stars(grid, stars, seed=1, config=FitConfig(error_floor=0.1))
    sharp = fit_stars(grid, stars, seed=1)
    assert np.all(wide.av.std(axis=1) > sharp.av.std(axis=1))
    broken = StarPhotometry.from_fluxes(
        stars.flux * np.where(np.arange(8) == 2, 5.0, 1.0), stars.flux_err, bands=stars.bands,
        l=stars.l, b=stars.b,
    )  # fmt: skip
    assert np.all(fit_stars(grid, broken, seed=1).flags & StarFlag.POOR_FIT)


def test_error_of_the_extinction_formula_joins_the_floor() -> None:
    grid, stars = plain(2)
    with pytest.raises(MissingDataError, match="fit_error_scale needs"):
        fit_stars(grid, stars, seed=1, config=FitConfig(fit_error_scale=1.0))
    error = np.broadcast_to(np.arange(1, 9) * np.float32(0.01), (grid.n_models, 8))
    with_error = StellarGrid(
        grid.coefficients, grid.bands, grid.labels, grid.predictions, fit_error=error
    )
    # the same error in every model: the same as a floor of that many magnitudes, band by band
    floors = dict(zip(grid.bands, np.hypot(0.02, 0.5 * 0.4 * np.log(10) * error[0]), strict=True))
    one = fit_stars(
        with_error, stars, seed=1, config=FitConfig(fit_error_scale=0.5, error_floor=0.02)
    )
    two = fit_stars(grid, stars, seed=1, config=FitConfig(error_floor=floors))
    np.testing.assert_allclose(one.av, two.av, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(one.provenance["error_floors"], list(floors.values()), rtol=1e-6)
    with pytest.raises(PogsonValueError, match="fit_error_scale"):
        FitConfig(fit_error_scale=-1.0)


def test_metal_free_prior_can_be_switched_off() -> None:
    grid, stars = plain(1)
    off = StarPriors(distance=GalacticPrior(metallicity=False, age=False))
    assert fit_stars(grid, stars, seed=1, priors=off).fitted.all()
