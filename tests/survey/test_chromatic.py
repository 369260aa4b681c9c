"""Chromatic integrals against whole-spectrum integrals done apart."""

from __future__ import annotations

import numpy as np
import pytest

from pogson.errors import PogsonValueError
from pogson.sed import Bandpass, stellar_template, synthetic_color
from pogson.survey.atmosphere import AtmosphereModel, AtmosphereState
from pogson.survey.chromatic import ColorSeds, SedBasis, StarSeds, first_order_correction

BANDS = [Bandpass.from_speclite(f"decamDR1noatm-{b}") for b in "griz"]
COLOR = (Bandpass.from_speclite("sdss2010-g"), Bandpass.from_speclite("sdss2010-i"))
WET, DRY = AtmosphereState(water=10.0, aerosol=0.08), AtmosphereState(water=1.0)


def whole(spectrum, band, airmass, state, step=0.5):
    """Photons by Simpson's rule on a grid of its own."""
    from scipy.integrate import simpson

    lam = np.arange(*band.wavelength_range, step)
    through = AtmosphereModel().transmission(lam, airmass, state)
    return simpson(spectrum.evaluate(lam) * lam * band.evaluate(lam) * through, x=lam)


def from_basis(basis, coefficient, band, airmass, state):
    through = AtmosphereModel().transmission(basis.wavelength, airmass, state)
    return float(coefficient @ (basis.weights(band) @ through))


@pytest.mark.parametrize("teff", [3700.0, 5000.0, 6500.0, 9000.0])
@pytest.mark.parametrize("band", BANDS, ids=lambda b: b.name[-1])
def test_full_basis_reproduces_whole_integrals_and_first_order_comes_close(teff, band):
    star = stellar_template(teff)
    exact = -2.5 * np.log10(whole(star, band, 2.0, WET) / whole(star, band, 1.2, DRY))
    library = [stellar_template(t) for t in np.geomspace(3550, 11000, 20)]
    full = SedBasis.from_spectra([*library, star], band, tolerance=1e-5)
    first = SedBasis.first_order(band)
    for basis, limit in ((full, 5e-5), (first, 1.5e-3)):
        c = basis.coefficients([star], band)[0]
        ratio = from_basis(basis, c, band, 2.0, WET) / from_basis(basis, c, band, 1.2, DRY)
        assert -2.5 * np.log10(ratio) == pytest.approx(exact, abs=limit), basis.size


def test_correction_is_the_ratio_of_sums():
    band = BANDS[0]
    basis = SedBasis.first_order(band)
    air = AtmosphereModel()
    obs = basis.weights(band) @ air.transmission(basis.wavelength, 1.8, WET)
    std = basis.weights(band) @ air.transmission(basis.wavelength, 1.2, DRY)
    slope = 0.3
    direct = -2.5 * np.log10((obs @ [1, slope]) / (std @ [1, slope]))
    grey = -2.5 * np.log10(obs[0] / std[0])
    assert grey - direct == pytest.approx(float(first_order_correction(slope, obs, std)), abs=1e-12)


def test_spectra_follow_colour_and_unknown_colours_are_unknown():
    stars = [stellar_template(t) for t in (4000.0, 5000.0, 6000.0, 8000.0)]
    seds = ColorSeds.from_spectra(stars, BANDS, color=COLOR)
    c = np.array([synthetic_color(s, *COLOR) for s in stars])
    got = seds.coefficients(np.zeros(5, int), np.append(c, np.nan))
    np.testing.assert_allclose(got[:4], seds.bases[0].coefficients(stars, BANDS[0]), rtol=1e-12)
    assert np.isnan(got[4]).all()
    beyond = seds.coefficients(np.zeros(2, int), np.array([-5.0, 9.0]))
    assert np.isfinite(beyond).all()
    assert got[0, 1] > got[3, 1]  # cool stars rise to the red


def test_star_by_star():
    stars = [stellar_template(t) for t in (4000.0, 8000.0)]
    seds = StarSeds.from_spectra(stars, [1, 0, 0], [0, 0, 1], BANDS[:2])
    own = seds.bases[1].coefficients(stars, BANDS[1])[0]
    np.testing.assert_allclose(
        seds.coefficients(np.array([0, 0, 1]), np.zeros(3))[2, : own.size], own
    )
    with pytest.raises(PogsonValueError, match="Spectra of 3 stars for 2"):
        seds.coefficients(np.zeros(2, int), np.zeros(2))


def test_bad_spectra_are_refused():
    short = stellar_template(5000.0, wavelength_range=(4000.0, 5000.0))
    with pytest.raises(PogsonValueError, match="outside the spectrum"):
        SedBasis.first_order(BANDS[0]).coefficients([short], BANDS[0])
    with pytest.raises(PogsonValueError, match="all of different colours"):
        ColorSeds.from_spectra([stellar_template(5000.0)] * 2, BANDS, color=COLOR)
    with pytest.raises(PogsonValueError, match="order is 'second'"):
        ColorSeds.from_spectra([stellar_template(5000.0)] * 2, BANDS, color=COLOR, order="second")
