"""A small stellar world whose posteriors are sampled exactly: truth for the band calibration.

Models of `simulated_grid`, flat in model row, distance modulus and A_V, five values of R_V; stars
are drawn from that same prior. The sampler draws (model, R_V) by their evidence in magnitude space,
(modulus, A_V) from the Gaussian there with A_V truncated, and returns the weights that make the
draws exact for Gaussian errors in flux and parallax.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import log_ndtr, ndtr, ndtri

from pogson.stars import (
    ExtinctionPrior,
    GalacticPrior,
    StarPriors,
    StellarGrid,
    draw_stars,
    simulated_grid,
)
from pogson.stars.calibrate import StarDraws
from pogson.stars.photometry_table import StarPhotometry
from pogson.streams import stream

BANDS = ("PS_g", "PS_r", "PS_i", "PS_z", "PS_y", "2MASS_J", "2MASS_H", "2MASS_Ks")
OFFSETS = np.array([1.04, 0.97, 1.01, 0.98, 1.03, 0.99, 1.02, 0.96])
RV = 3.32 + 0.18 * ndtri((np.arange(5) + 0.5) / 5)
AV_MAX, MU = 1.5, (-2.0, 2.0)
_LN = 0.4 * np.log(10.0)


@dataclass
class World:
    """A grid, expanded in R_V, and the sampler over it."""

    grid: StellarGrid
    draws: int = 300

    def __post_init__(self) -> None:
        c = np.asarray(self.grid.coefficients, dtype=float)
        self.c0 = np.repeat(c[:, :, 0], len(RV), axis=0)
        self.slope = (c[:, None, :, 1] + RV[None, :, None] * c[:, None, :, 2]).reshape(
            self.c0.shape
        )
        self.calls = 0

    def fluxes(self, k, mu, av):
        return np.exp(-_LN * (self.c0[k] + mu[..., None] + av[..., None] * self.slope[k]))

    def stars(self, n, *, error=0.03, parallax_error=0.02, seed=1, offsets=OFFSETS, scatter=0.0):
        """Draw stars from the prior and observe them with calibration factors ``offsets``."""
        rng = stream(seed, "world")
        k = rng.integers(0, len(self.c0), n)
        mu, av = rng.uniform(*MU, n), rng.uniform(0, AV_MAX, n)
        true = self.fluxes(k, mu, av)
        seen = true * offsets * (1 + scatter * rng.normal(size=true.shape))
        err = error * true * offsets
        flux = seen + err * rng.normal(size=true.shape)
        plx = 10 ** (-mu / 5)
        plx_err = parallax_error * plx
        return StarPhotometry.from_fluxes(
            flux, err, bands=self.grid.bands, unit="maggie",
            parallax=plx + plx_err * rng.normal(size=n), parallax_err=plx_err,
        )  # fmt: skip

    def __call__(self, stars: StarPhotometry, seed: int) -> StarDraws:
        """Exact posterior draws with weights."""
        self.calls += 1
        rng = stream(seed, "draws")
        parts = [
            self._sample(stars.select(np.arange(i, min(i + 100, len(stars)))), rng)
            for i in range(0, len(stars), 100)
        ]
        return StarDraws(*(np.concatenate(p) for p in zip(*parts, strict=True)))

    def _sample(self, stars, rng):
        obs = stars.observed
        flux, err = np.where(obs, stars.flux, 1.0), np.where(obs, stars.flux_err, 1.0)
        safe = np.maximum(flux, 0.5 * err)
        w = np.where(obs, (safe / err * _LN) ** 2, 0.0)
        m = np.where(obs, -np.log(safe) / _LN, 0.0)
        plx = np.maximum(stars.parallax, 0.5 * stars.parallax_err)
        mu_p = -5 * np.log10(plx)
        w_p = (plx / stars.parallax_err * np.log(10) / 5) ** 2
        a, c = self.slope, self.c0
        s0 = (w.sum(1) + w_p)[:, None]
        s1, s2 = w @ a.T, w @ (a * a).T
        wm = w * m
        t0 = (wm.sum(1) + w_p * mu_p)[:, None] - w @ c.T
        t1 = wm @ a.T - w @ (a * c).T
        tt = ((wm * m).sum(1) + w_p * mu_p**2)[:, None] - 2 * wm @ c.T + w @ (c * c).T
        det = s0 * s2 - s1 * s1
        av = (s0 * t1 - s1 * t0) / det
        mu = (s2 * t0 - s1 * t1) / det
        chi2 = tt - mu * t0 - av * t1
        sd = np.sqrt(s0 / det)
        lo, hi = -av / sd, (AV_MAX - av) / sd
        flip = lo > 0
        lo2, hi2 = np.where(flip, -hi, lo), np.where(flip, -lo, hi)
        log_in = log_ndtr(hi2) + np.log1p(
            -np.exp(np.minimum(log_ndtr(lo2) - log_ndtr(hi2), -1e-12))
        )
        log_z = -0.5 * chi2 - 0.5 * np.log(det) + log_in
        n, d = len(flux), self.draws
        p = np.exp(log_z - log_z.max(1, keepdims=True))
        cum = np.cumsum(p, axis=1)
        # stratified in the cumulative evidence: fewer repeats, same distribution
        u = (np.arange(d) + rng.random((n, d))) / d * cum[:, -1:]
        k = np.stack([np.searchsorted(cum[i], u[i]) for i in range(n)]).clip(0, p.shape[1] - 1)
        rows = np.arange(n)[:, None]
        av_k, sd_k, lo_k, hi_k = av[rows, k], sd[rows, k], lo[rows, k], hi[rows, k]
        p_lo, p_hi = ndtr(lo_k), ndtr(hi_k)
        z = ndtri(np.clip(p_lo + rng.random((n, d)) * (p_hi - p_lo), 1e-300, 1 - 1e-16))
        av_d = np.clip(av_k + sd_k * z, 0, AV_MAX)
        mean = (t0[rows, k] - s1[rows, k] * av_d) / s0
        mu_d = mean + rng.normal(size=(n, d)) / np.sqrt(s0)
        # exact target over proposal
        model = self.fluxes(k, mu_d, av_d)
        r = np.where(obs[:, None], flux[:, None] - model, 0.0) / err[:, None]
        plx_d = 10 ** (-mu_d / 5)
        z = (stars.parallax[:, None] - plx_d) / stars.parallax_err[:, None]
        res = m[:, None] - c[k] - mu_d[..., None] - av_d[..., None] * a[k]
        log_w = -0.5 * ((r**2).sum(2) + z**2)
        log_w += (
            0.5 * (w[:, None] * res**2).sum(2) + 0.5 * w_p[:, None] * (mu_p[:, None] - mu_d) ** 2
        )
        log_w[(mu_d < MU[0]) | (mu_d > MU[1])] = -np.inf
        # Stein's identity: derivatives of the log posterior have zero mean, times a function that
        # vanishes at the limits
        by_m = -_LN * r * model / err[:, None]
        by_mu = by_m.sum(2) - z * plx_d / stars.parallax_err[:, None] * np.log(10) / 5
        by_av = (by_m * a[k]).sum(2)
        f, df = _inside(mu_d, *MU)
        g, dg = _inside(av_d, 0.0, AV_MAX)
        controls = np.stack([f * by_mu + df, g * by_av + dg], axis=2)
        along = [-_LN * f[..., None] * np.ones_like(model), -_LN * g[..., None] * a[k]]
        return model, log_w, controls, np.stack(along, axis=2)


def _inside(x, lo, hi):
    """A function that is nearly 1 within the limits and 0 at them, and its derivative."""
    p, q, s = (x - lo), (hi - x), 0.05 * (hi - lo)
    f, g = p / (p + s), q / (q + s)
    return f * g, s / (p + s) ** 2 * g - f * s / (q + s) ** 2


@dataclass(frozen=True)
class Nearby(GalacticPrior):
    """The Galactic prior times a smooth limit of distance, as of a survey's volume."""

    reach: float = 2.0  # kpc

    def log_density(self, distance_kpc, l, b):  # noqa: E741
        return (
            super().log_density(distance_kpc, l, b) - (np.asarray(distance_kpc) / self.reach) ** 4
        )


# metallicities, ages and masses of the Galaxy; extinction known to 0.1 mag
PRIORS = StarPriors(distance=Nearby(), extinction=ExtinctionPrior(0.3, 0.1, 0.0, 2.0))


def observed_from_prior(grid, n, seed, *, error=0.03, outliers=0.0):
    """Stars drawn from `PRIORS`, parallaxes to 0.02-0.05 mas, offsets `OFFSETS` to be found.

    A share ``outliers`` of the stars has one band too bright by half. Returns where, too.
    """
    rng = stream(seed, "observed from prior")
    stars, _ = draw_stars(
        grid, n, rng, priors=PRIORS, error=error, parallax_error=(0.02, 0.05), offsets=1 / OFFSETS
    )
    hit = np.zeros(stars.flux.shape, bool)
    rows = np.flatnonzero(rng.random(n) < outliers)
    hit[rows, rng.integers(0, hit.shape[1], len(rows))] = True
    factor = np.where(hit, 1.5, 1.0)
    return replace(stars, flux=stars.flux * factor, flux_err=stars.flux_err * factor), hit


def small_world(n_models=2000, draws=300) -> World:
    return World(simulated_grid(n_models, BANDS), draws)
