"""Line spread, Doppler shift and pixel integration against Gaussian integrals in closed form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import ndtr

from pogson.errors import PogsonValueError
from pogson.spectro import (
    LineSpread,
    convolve_spectrum,
    doppler_factor,
    pixel_edges,
    resample_spectrum,
    spectral_transfer,
)
from pogson.spectro.line_spread import FWHM_PER_SIGMA

GRIDS = {
    "linear": np.arange(3600.0, 9400.0, 0.25),
    "log": 10 ** np.arange(np.log10(3600.0), np.log10(9400.0), 1.5e-5),
    "stretched": 3600.0 + 5800.0 * np.linspace(0, 1, 24001) ** 1.3,
}
SPREADS = {
    "constant": LineSpread.from_fwhm(4.0),
    "R": LineSpread.from_resolution(1800.0),
    "polynomial": LineSpread.from_fwhm([2.0, -1e-4, 5e-8]),
    "per pixel": LineSpread.from_sigma([1.1, 1.9, 1.2, 2.2], [3600.0, 5200.0, 7100.0, 9400.0]),
}


def pixel_gaussian(lam, center, sigma):
    """Mean of a unit Gaussian over each pixel, exact."""
    edges = pixel_edges(lam)
    return np.diff(ndtr((edges - center) / sigma)) / np.diff(edges)


def fitted_sigma(lam, line, center, guess):
    """Sigma of the pixel-integrated Gaussian that best fits a line, amplitude free."""
    near = np.abs(lam - center) < 8 * guess

    def slope(sigma):
        def chi2(s):
            model = pixel_gaussian(lam, center, s)[near]
            amplitude = line[near] @ model / (model @ model)
            return np.sum((line[near] - amplitude * model) ** 2)

        return chi2(sigma * 1.001) - chi2(sigma * 0.999)

    return brentq(slope, 0.5 * guess, 2 * guess, xtol=1e-7)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("spread", SPREADS)
def test_a_line_gets_the_width_asked_for_at_every_wavelength(grid, spread):
    lam, lsf, native = GRIDS[grid], SPREADS[spread], 0.45
    out = np.arange(3650.0, 9350.0, 1.1)
    transfer = spectral_transfer(lam, out, lsf, native_sigma=native, samples="points")
    worst = 0.0
    for center in (3800.3, 4861.7, 5890.2, 7003.4, 8200.9, 9100.1):
        line = np.exp(-0.5 * ((lam - center) / native) ** 2)
        wanted = float(lsf.sigma(center))
        got = fitted_sigma(out, transfer(line), center, wanted)
        worst = max(worst, abs(got / wanted - 1))
    assert worst < 1e-3, worst


def test_convolution_on_its_own_grid_is_the_analytic_gaussian():
    lam = GRIDS["log"]
    for center in (4000.0, 6000.0, 9000.0):
        line = np.exp(-0.5 * ((lam - center) / 0.8) ** 2)
        out = convolve_spectrum(lam, line, LineSpread.from_sigma(2.0), native_sigma=0.8)
        truth = 0.4 * 2.0 * np.sqrt(2 * np.pi) * pixel_gaussian(lam, center, 2.0)
        assert np.nanmax(np.abs(out - truth)) < 2e-5


def test_resampling_conserves_integrals_exactly(rng):
    lam = np.sort(rng.uniform(4000.0, 5000.0, 700))
    flux = rng.normal(10.0, 3.0, lam.size)
    cells = pixel_edges(lam)
    total = np.concatenate([[0.0], np.cumsum(flux * np.diff(cells))])
    out = spectral_transfer(lam, np.linspace(4100.0, 4900.0, 333))
    got = out(flux)
    new = pixel_edges(out.wavelength_out)
    whole = np.sum(got * np.diff(new))
    # linear inside a cell around its mean: only the two cut cells are not known from means alone
    inside = np.interp(new[-1], cells, total) - np.interp(new[0], cells, total)
    cut = np.max(np.diff(cells)) * np.ptp(flux)
    assert abs(whole - inside) < cut
    # the same light on two grids with the same ends
    other = np.sort(np.concatenate([[4100.0], rng.uniform(4101, 4899, 50), [4900.0]]))
    ends = (pixel_edges(other)[0], pixel_edges(other)[-1])
    fine = np.linspace(*ends, 4001)
    middle = 0.5 * (fine[1:] + fine[:-1])
    a = np.sum(resample_spectrum(lam, flux, other) * np.diff(pixel_edges(other)))
    b = np.sum(resample_spectrum(lam, flux, middle) * np.diff(fine))
    assert a == pytest.approx(b, rel=1e-12)


def test_light_is_conserved_through_a_constant_line_spread(rng):
    lam = np.arange(4000.0, 5000.0, 0.5)
    flux = np.zeros(lam.size)
    flux[800:1200] = rng.uniform(0, 5, 400)
    out = np.arange(4050.0, 4950.0, 1.7)
    for spread in (None, LineSpread.from_fwhm(3.0)):
        got = (
            resample_spectrum(lam, flux, out)
            if spread is None
            else spectral_transfer(lam, out, spread)(flux)
        )
        assert np.sum(got * np.diff(pixel_edges(out))) == pytest.approx(flux.sum() * 0.5, rel=1e-12)


@settings(max_examples=25)
@given(
    st.floats(0.2, 4.0), st.floats(0.0, 3.0), st.floats(-500, 500), st.sampled_from(sorted(GRIDS))
)
def test_a_flat_spectrum_stays_flat_and_a_slope_keeps_its_place(step, sigma, rv, grid):
    lam = GRIDS[grid][::4]
    out = np.arange(4000.0, 4600.0, step)
    transfer = spectral_transfer(lam, out, LineSpread.from_sigma(sigma), rv_kms=rv)
    assert transfer(np.ones(lam.size)) == pytest.approx(1.0, rel=1e-12)
    d = doppler_factor(rv)
    assert transfer(lam) == pytest.approx(out / d, rel=3e-8)


def test_the_doppler_shift_comes_before_the_line_spread():
    lam = np.arange(4700.0, 5000.0, 0.05)
    rest, native, rv = 4862.68, 0.3, 250.0
    line = np.exp(-0.5 * ((lam - rest) / native) ** 2)
    lsf = LineSpread.from_fwhm([1.0, 4e-4])
    out = np.arange(4800.0, 4920.0, 0.7)
    got = spectral_transfer(lam, out, lsf, native_sigma=native, rv_kms=rv, samples="points")(line)
    center = rest * np.sqrt((1 + rv / 299792.458) / (1 - rv / 299792.458))
    truth = pixel_gaussian(out, center, float(lsf.sigma(center)))
    scale = native * np.sqrt(2 * np.pi) * doppler_factor(rv)
    assert np.max(np.abs(got - scale * truth)) < 2e-4 * np.max(got)


def test_pixels_not_wholly_covered_are_nan_never_zero():
    lam = np.arange(5000.0, 5100.0, 0.5)
    out = np.arange(4980.0, 5120.0, 1.0)
    transfer = spectral_transfer(lam, out, LineSpread.from_sigma(2.0))
    got = transfer(np.ones(lam.size))
    inside = (out > 5000 + 12) & (out < 5099.5 - 12)
    assert np.all(np.isnan(got[(out < 5004) | (out > 5095)]))
    assert np.all(got[inside] == pytest.approx(1.0))
    assert np.array_equal(np.isfinite(got), transfer.covered)


def test_a_template_blunter_than_the_instrument_is_flagged():
    lam = np.arange(5000.0, 5100.0, 0.5)
    out = np.arange(5020.0, 5080.0, 1.0)
    lsf = LineSpread.from_sigma([0.5, 3.0], [5000.0, 5100.0])
    blunt = spectral_transfer(lam, out, lsf, native_sigma=1.5).blunt
    crossing = 5000 + 100 * (1.5 - 0.5) / 2.5
    assert (
        np.array_equal(blunt, out < crossing)
        or abs(int(blunt.sum()) - int((out < crossing).sum())) <= 1
    )


def test_variance_of_the_resampled_pixels(rng):
    lam = np.arange(5000.0, 5100.0, 1.0)
    transfer = spectral_transfer(lam, np.arange(5020.0, 5080.0, 1.7), LineSpread.from_sigma(1.0))
    draws = rng.normal(size=(20000, lam.size))
    spread = transfer(draws).var(axis=0)
    # the variance of a variance over n draws is 2/n
    assert np.max(np.abs(spread / transfer.variance(np.ones(lam.size)) - 1)) < 6 * np.sqrt(
        2 / 20000
    )


def test_line_spread_descriptions_agree():
    lam = np.linspace(4000, 9000, 7)
    a = LineSpread.from_resolution(2000.0)
    b = LineSpread.from_fwhm([0.0, 1 / 2000.0])
    c = LineSpread.from_sigma(lam / 2000 / FWHM_PER_SIGMA, lam)
    for other in (b, c):
        assert other.sigma(lam) == pytest.approx(a.sigma(lam), rel=1e-12)
        assert other != a
    assert LineSpread.from_resolution(2000.0) == a
    assert a.resolution(lam) == pytest.approx(2000.0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: LineSpread.from_fwhm([np.nan]), "finite"),
        (lambda: LineSpread.from_sigma([1.0, -1.0], [4000.0, 5000.0]), "not negative"),
        (lambda: LineSpread.from_resolution([0.0, 10.0], [4000.0, 5000.0]), "positive"),
        (lambda: LineSpread.from_fwhm([5.0, -1e-3]).sigma(9000.0), "not negative"),
        (lambda: LineSpread([1.0], what="width"), "allowed"),
        (lambda: LineSpread.from_sigma([1.0, 2.0], [4000.0]), "2 pixels"),
        (lambda: doppler_factor(4e5), "speed of light"),
        (lambda: spectral_transfer([2.0, 1.0], [1.0, 2.0]), "do not increase"),
        (lambda: spectral_transfer([1.0, 2.0], [1.0, 2.0], samples="x"), "samples"),
        (lambda: spectral_transfer([1.0, 2.0], [1.0, 2.0])(np.ones(3)), "last axis"),
        (lambda: spectral_transfer([1.0, 2.0], [1.0, 2.0], native_sigma=-1.0), "native"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(PogsonValueError, match=words):
        call()
