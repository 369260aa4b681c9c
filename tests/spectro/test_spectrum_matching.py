"""Matching stars with models: operators, velocities, temperatures, dust, bad input."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pogson.errors import CalibrationError, MaskedDataError, MissingDataError, PogsonValueError
from pogson.sed import load_filter_curves, synthetic_flux
from pogson.simulate import FibreSimulation, demo_library, simulate_fibres
from pogson.spectro import (
    GridPhotometry,
    LineSpread,
    MatchConfig,
    Photometry,
    StarSpectrum,
    cross_correlate_rv,
    grid_photometry,
    match_star,
    spectral_transfer,
)
from pogson.spectro._match_kernels import observation_operator, observe, solve_band

BANDS = ("ps1_g", "ps1_r", "ps1_i", "ps1_z")


@functools.cache
def models() -> GridPhotometry:
    return grid_photometry(demo_library(), load_filter_curves(BANDS))


@functools.cache
def simulated(sn: float, seed: int = 31) -> FibreSimulation:
    return simulate_fibres(seed, n_stars=6, n_fibres=6, sn=(sn, sn * 1.01))


def spectrum(sim: FibreSimulation, i: int) -> StarSpectrum:
    f = sim.frame
    lost = (f.wavelength > 6860) & (sim.transmission < 0.999)
    return StarSpectrum(
        f.wavelength, f.counts[i], np.where(lost, 0, f.ivar[i]), f.lsf_sigma, f.names[i]
    )  # type: ignore[arg-type]


@settings(max_examples=10)
@given(st.floats(-400, 400), st.floats(1.2, 4.0))
def test_operator_agrees_with_the_transfer_matrix(rv: float, sigma: float) -> None:
    # two codes: erf over pixels here, cell moments there
    grid = models().grid
    pixels = np.linspace(4500.0, 5000.0, 300)
    edges = np.linspace(
        pixels[0] - 0.5 * np.diff(pixels)[0], pixels[-1] + 0.5 * np.diff(pixels)[0], 301
    )
    doppler = np.sqrt((1 + rv / 299792.458) / (1 - rv / 299792.458))
    start, weights = observation_operator(
        grid.log_start,
        grid.log_step,
        grid.flux.shape[1],
        doppler,
        edges[:-1],
        edges[1:],
        np.full(300, sigma),
    )
    mine = observe(grid.flux, np.array([0]), start, weights)[0]
    spread = LineSpread.from_sigma(sigma)
    other = spectral_transfer(grid.wavelength, pixels, spread, rv_kms=rv)(grid.flux[0])
    assert np.max(np.abs(mine / other - 1)) < 5e-4


@given(st.integers(4, 30), st.integers(0, 2**31))
def test_band_solver(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    dense = np.tril(np.triu(rng.normal(size=(n, n)), -1), 2)
    dense = np.tril(np.triu(dense @ dense.T, -3), 3) + 20 * n * np.eye(n)
    band = np.array([[dense[k, k + j] if k + j < n else 0.0 for j in range(4)] for k in range(n)])
    right = rng.normal(size=n)
    np.testing.assert_allclose(
        solve_band(band, right, 0.0), np.linalg.solve(dense, right), rtol=1e-8, atol=1e-12
    )


def test_band_fluxes_are_those_of_the_spectrum() -> None:
    from pogson.sed import Spectrum

    phot, curves = models(), load_filter_curves(BANDS)
    for e_bv in (0.0, 0.07, 0.4):
        rows, w = phot.grid.weights(6130.0, 4.25, -0.4)
        flux = phot.fluxes(rows, w, e_bv)
        star = Spectrum(phot.grid.wavelength, w @ phot.grid.flux[rows]).redden(e_bv, law="F99")
        exact = [synthetic_flux(star, curves[b].bandpass) for b in BANDS]
        np.testing.assert_allclose(flux, exact, rtol=3e-4)


def test_parameters_and_their_errors() -> None:
    sim = simulated(40.0)
    pulls = []
    for i, target in enumerate(sim.targets):
        m = match_star(spectrum(sim, i), sim.standards[target.name], models())
        assert m.rv_kms == pytest.approx(target.rv_kms, abs=12)
        assert m.teff == pytest.approx(target.labels["teff"], abs=250)
        assert m.e_bv == pytest.approx(target.e_bv, abs=0.05)
        assert 0.85 < m.chi2 / m.ndof < 1.2
        assert m.flags == ()
        pulls.append((m.teff - target.labels["teff"]) / m.error("teff"))
        pulls.append((m.e_bv - target.e_bv) / m.error("e_bv"))
    assert np.sqrt(np.mean(np.square(pulls))) < 2.0


def test_cosmic_rays_do_not_matter(rng: np.random.Generator) -> None:
    sim = simulated(40.0)
    clean = spectrum(sim, 1)
    counts = clean.counts.copy()
    hit = rng.integers(0, counts.size, 30)
    counts[hit] += 50 * np.median(counts)
    spoiled = StarSpectrum(clean.wavelength, counts, clean.ivar, clean.lsf_sigma, "b")
    phot = sim.standards["star 2"]
    a, b = match_star(clean, phot, models()), match_star(spoiled, phot, models())
    assert b.n_clipped >= 25
    assert abs(a.rv_kms - b.rv_kms) < 8
    assert abs(a.teff - b.teff) < 60


def test_velocity_at_the_edge_is_flagged() -> None:
    sim = simulated(40.0)
    star = spectrum(sim, 0)
    far = StarSpectrum(star.wavelength * 1.0012, star.counts, star.ivar, star.lsf_sigma, "far")
    rv, _, at_edge = cross_correlate_rv(far, models(), MatchConfig(rv_limit=250.0))
    assert at_edge
    assert rv > 200


def test_a_band_that_does_not_fit_is_flagged() -> None:
    sim = simulated(40.0)
    p = sim.standards["star 1"]
    odd = Photometry(BANDS, p.magnitudes + np.array([0, 0.8, 0, 0]), p.mag_errors, p.meta)
    m = match_star(spectrum(sim, 0), odd, models())
    assert "colours do not fit" in m.flags


def test_bad_input() -> None:
    sim = simulated(40.0)
    star = spectrum(sim, 0)
    with pytest.raises(MissingDataError, match="no flux scale"):
        match_star(star, Photometry(("u",), [15.0], [0.01]), models())
    with pytest.raises(MaskedDataError, match="at least 50"):
        StarSpectrum(star.wavelength, star.counts, np.zeros(star.counts.size), 1.2)
    with pytest.raises(PogsonValueError, match="chi2"):
        MatchConfig(metric="l1")  # type: ignore[arg-type]
    with pytest.raises(PogsonValueError, match="No parameter"):
        match_star(star, sim.standards["star 1"], models()).error("age")
    with pytest.raises(CalibrationError, match="at least 99 %"):
        models().grid.band_operator(load_filter_curves(["sdss_u"])["sdss_u"].bandpass)
