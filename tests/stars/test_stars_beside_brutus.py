"""The stellar fit, astro-brutus and an integral that has converged, under one set of priors.

What brutus draws from differs from the posterior in two known ways, which this file measures. It
weighs each model by its largest likelihood alone, without the prior of R_V there and without the
volume of the peak (the square root of the determinant of the covariance). And the R_V it finds for
a model is not at the maximum of likelihood times prior. Given both back, its draws agree with the
integral.

Measured with 50 stars, share of means within 0.1 sigma in (ln d, A_V, R_V): ours and the integral
100, 100, 100 %; brutus 1.2.0 and ours 98, 88, 68 %; brutus repaired and the integral 98, 98, 100 %.
Widths within 10 %: brutus and ours 98, 98, 100 %. So brutus as it is agrees for 95 % of the stars
in distance alone, and this file does not claim more.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import logsumexp

from pogson.stars import (
    ExtinctionPrior,
    FitConfig,
    StarPhotometry,
    StarPriors,
    StellarGrid,
    fit_stars,
    simulated_grid,
)

K = 0.4 * np.log(10.0)
UNITS = np.array([np.log(10.0) / 5.0, 1.0, 1.0])  # of (ln d, A_V, R_V) in (mu, A_V, R_V)
N_STARS = 50


def benchmark() -> Any:
    path = Path(__file__).parents[2] / "benchmarks" / "bench_stars_fit.py"
    if not path.exists():
        pytest.skip(f"there is no {path.name} beside the tests (a source distribution without it)")
    spec = importlib.util.spec_from_file_location("bench_stars_fit", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Exact:
    """Posterior of one star: the peak of every model, and the trapezium rule about it."""

    def __init__(self, grid: StellarGrid, stars: StarPhotometry, k: int, priors: StarPriors):
        self.c = grid.coefficients.astype(float)
        self.flux, self.err = stars.flux[k], stars.flux_err[k]
        self.plx, self.plx_err = stars.parallax[k], stars.parallax_err[k]
        self.priors = priors
        self.mu = np.linspace(-15.0, 10.0, 5001)
        d = 10 ** (self.mu / 5)
        density = priors.distance.log_density(d, float(stars.l[k]), float(stars.b[k]))
        self.density = density + 3 * np.log(d)
        self.lnq = priors.distance.log_model_weights(grid).T
        self.lnp = priors.log_model_prior(grid)

    def value(self, x: Any, j: np.ndarray) -> np.ndarray:
        """Log posterior of models j at x = (mu, A_V, R_V), each of shape (n, ...)."""
        shape = (len(j),) + (1,) * (x[0].ndim - 1)
        c = self.c[j].reshape((*shape, *self.c.shape[1:]))
        mag = c[..., 0] + x[0][..., None]
        mag = mag + x[1][..., None] * (c[..., 1] + x[2][..., None] * c[..., 2])
        out = -0.5 * (((self.flux - np.exp(-K * mag)) / self.err) ** 2).sum(-1)
        out -= 0.5 * ((self.plx - np.exp(-0.5 * K * x[0])) / self.plx_err) ** 2
        out -= 0.5 * ((x[2] - self.priors.rv.mean) / self.priors.rv.sd) ** 2
        terms = [
            np.interp(x[0], self.mu, self.density[q]) + self.lnq[j, q].reshape(shape)
            for q in range(3)
        ]
        return np.asarray(out + logsumexp(np.stack(terms), axis=0) + self.lnp[j].reshape(shape))

    def modes(self, j: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Peaks of likelihood times prior of R_V, and the precision there."""
        rv, ex = self.priors.rv, self.priors.extinction
        x = np.array([np.zeros(len(j)), np.ones(len(j)), np.full(len(j), rv.mean)])
        w = (K * self.flux / self.err) ** 2
        c = self.c[j]
        colour = c[:, :, 0] + c[:, :, 1] + rv.mean * c[:, :, 2]
        x[0] = (w * (-np.log(self.flux) / K - colour)).sum(1) / w.sum()
        for _ in range(steps):
            vec = c[:, :, 1] + x[2][:, None] * c[:, :, 2]
            model = np.exp(-K * (c[:, :, 0] + x[0][:, None] + x[1][:, None] * vec))
            slope = np.stack([np.ones_like(vec), vec, x[1][:, None] * c[:, :, 2]], -1)
            slope *= (-K * model / self.err)[..., None]
            h = np.einsum("nbi,nbj->nij", slope, slope)
            g = np.einsum("nbi,nb->ni", slope, (self.flux - model) / self.err)
            far = np.exp(-0.5 * K * x[0])
            turn = -0.5 * K * far / self.plx_err
            h[:, 0, 0] += turn**2 + 1e-3
            g[:, 0] += turn * (self.plx - far) / self.plx_err
            h[:, 1, 1] += 1e-3
            h[:, 2, 2] += 1 / rv.sd**2
            g[:, 2] += (rv.mean - x[2]) / rv.sd**2
            step = np.linalg.solve(h, g[..., None])[..., 0]
            x[0] += np.clip(step[:, 0], -1, 1)
            x[1] = np.clip(x[1] + np.clip(step[:, 1], -0.5, 0.5), ex.low, ex.high)
            x[2] = np.clip(x[2] + np.clip(step[:, 2], -0.3, 0.3), 1.5, 6.0)
        return x, h

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of (ln d, A_V, R_V)."""
        j = np.flatnonzero(np.isfinite(self.lnp + self.lnq.max(1)))
        x, h = self.modes(j, 16)
        laplace = self.value(x, j) - 0.5 * np.linalg.slogdet(h)[1]
        near = laplace > np.nanmax(laplace) - 10.0
        lost = 1 - np.exp(logsumexp(laplace[near]) - logsumexp(laplace[np.isfinite(laplace)]))
        assert lost < 0.01
        j, x, h = j[near], x[:, near], h[near]
        rows = [self.model(j[i : i + 200], x[:, i : i + 200], h[i : i + 200])
                for i in range(0, len(j), 200)]  # fmt: skip
        table = np.concatenate(rows)
        w = np.exp(table[:, 0] - logsumexp(table[:, 0]))
        mean = w @ table[:, 1::2]
        return mean, np.sqrt(w @ table[:, 2::2] - mean**2)

    def model(self, j: np.ndarray, x: np.ndarray, h: np.ndarray) -> np.ndarray:
        """Log mass and first two moments of each model: A_V, R_V given it, mu given both."""
        ex, cov, u = self.priors.extinction, np.linalg.inv(h), np.linspace(-4.5, 4.5, 9)
        sd = np.sqrt(cov[:, 1, 1])
        low, high = np.maximum(x[1] - 5 * sd, ex.low), np.minimum(x[1] + 5 * sd, ex.high)
        av = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, 15)
        da = av - x[1][:, None]
        sr = np.sqrt(cov[:, 2, 2] - cov[:, 1, 2] ** 2 / cov[:, 1, 1])
        dr = ((cov[:, 1, 2] / cov[:, 1, 1])[:, None] * da)[:, :, None] + sr[:, None, None] * u
        lead = h[:, 0, 0][:, None, None]
        mean = -(h[:, 0, 1][:, None, None] * da[:, :, None] + h[:, 0, 2][:, None, None] * dr) / lead
        mu = (x[0][:, None, None] + mean)[..., None] + u / np.sqrt(lead)[..., None]
        at = np.broadcast_arrays(mu, av[:, :, None, None], (x[2][:, None, None] + dr)[..., None])
        value = self.value(at, j)
        top = value.max(axis=(1, 2, 3), keepdims=True)
        p = np.exp(value - top)
        p[:, [0, -1]] *= 0.5
        total = p.sum(axis=(1, 2, 3))
        out = [top[:, 0, 0, 0] + np.log(total * (high - low) * sr / np.sqrt(h[:, 0, 0]))]
        for values, unit in zip(at, UNITS, strict=True):
            y = values * unit
            out += [(p * y).sum(axis=(1, 2, 3)) / total, (p * y * y).sum(axis=(1, 2, 3)) / total]
        return np.array(out).T


def repaired(exact: Exact, peer: dict[str, np.ndarray], k: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights that brutus leaves out, and how far its R_V lies from the peak, draw by draw."""
    rv = exact.priors.rv
    chosen, place = np.unique(peer["model_idx"][k], return_inverse=True)
    shift = exact.modes(chosen, 30)[0][2][place] - peer["ml_rv"][k]
    det = np.linalg.det(peer["ml_cov_sar"][k].astype(float))
    z = (peer["ml_rv"][k].astype(float) - rv.mean) / rv.sd
    weight = np.exp(-0.5 * z**2) * np.sqrt(np.maximum(det, 0)) / peer["ml_scale"][k].astype(float)
    weight = np.where(np.isfinite(weight), weight, 0.0)
    return weight / weight.sum(), shift


@pytest.mark.slow
def test_brutus_and_the_converged_integral() -> None:
    pytest.importorskip("brutus", reason="astro-brutus is not installed (pip install astro-brutus)")
    bench = benchmark()
    grid = simulated_grid(12_000)
    stars = bench.stars_of(grid, N_STARS, 3)
    priors = StarPriors(extinction=ExtinctionPrior(high=20.0))
    config = FitConfig(n_draws=4000, n_proposals=16_000)
    fit = fit_stars(grid, stars, seed=1, priors=priors, config=config)
    ours = np.stack([np.log(fit.distance_kpc), fit.av, fit.rv], -1).astype(float)
    peer, _ = bench.brutus_fit(grid, stars, priors, Ndraws=4000)
    names = ("samps_dist", "samps_red", "samps_dred")
    theirs = np.stack([peer[name].astype(float) for name in names], -1)
    theirs[..., 0] = np.log(theirs[..., 0])
    off = {name: np.empty((N_STARS, 3)) for name in ("ours", "brutus", "repaired", "beside")}
    width = np.empty((N_STARS, 2, 3))
    for k in range(N_STARS):
        exact = Exact(grid, stars, k, priors)
        mean, sd = exact.moments()
        weight, shift = repaired(exact, peer, k)
        off["ours"][k] = (ours[k].mean(0) - mean) / sd
        off["brutus"][k] = (theirs[k].mean(0) - mean) / sd
        off["beside"][k] = (ours[k].mean(0) - theirs[k].mean(0)) / ours[k].std(0)
        better = theirs[k] + np.array([0.0, 0.0, 1.0]) * shift[:, None]
        off["repaired"][k] = (weight @ better - mean) / sd
        width[k] = ours[k].std(0) / sd, theirs[k].std(0) / ours[k].std(0)
    near = {name: np.mean(np.abs(v) < 0.1, axis=0) for name, v in off.items()}
    alike = np.mean(np.abs(width - 1) < 0.1, axis=0)
    print("means within 0.1 sigma (ln d, A_V, R_V)", near)
    print("widths within 10 %: ours of the integral, brutus of ours", alike)
    print("mean offset of brutus from the integral", off["brutus"].mean(0), off["brutus"].std(0))
    assert near["ours"].min() >= 0.95
    assert alike[0].min() >= 0.95
    assert near["beside"][0] >= 0.95
    assert alike[1].min() >= 0.95
    assert near["repaired"].min() >= 0.95
