"""Vega magnitudes given as AB: told from residuals, without false alarms."""

from __future__ import annotations

import numpy as np
import pytest

from pogson.errors import MissingDataError, PogsonValueError
from pogson.sed import calspec_spectrum, load_filter_curve, vega_offset
from pogson.spectro import MagnitudeShift, check_magnitude_systems, vega_to_ab
from pogson.spectro.magnitude_systems import _AB_BANDS

PS1 = ("ps1_g", "ps1_r", "ps1_i", "ps1_z", "ps1_y")


@pytest.mark.parametrize("band", sorted(_AB_BANDS))
def test_tabulated_offsets_are_those_of_vega(band, shared_data):
    vega = calspec_spectrum(shared_data("calspec/alpha_lyr_stis_011.fits.gz"))
    assert vega_to_ab(band) == pytest.approx(
        vega_offset(load_filter_curve(band).bandpass, vega), abs=1e-4
    )


def test_unknown_offset_is_an_error_not_zero():
    with pytest.raises(MissingDataError, match="not tabulated"):
        vega_to_ab("lsst2023-r")


def noise(rng, stars=4, bands=5, sigma=0.015):
    return rng.normal(0, sigma, (stars, bands)), np.full((stars, bands), sigma)


@pytest.mark.parametrize("declared", ["AB", "Vega"])
def test_all_bands_mixed_up(rng, declared):
    r, e = noise(rng)
    sign = 1 if declared == "AB" else -1
    r = r + sign * np.array([vega_to_ab(b) for b in PS1])
    (found,) = check_magnitude_systems(PS1, r, e, declared)
    assert found.bands == PS1
    assert found.likely != declared
    assert found.amplitude == pytest.approx(1.0, abs=5 * found.amplitude_error)


def test_two_surveys_one_wrong(rng):
    bands = ("sdss_g", "sdss_r", "sdss_i", "2mass_j", "2mass_h")
    r, e = noise(rng)
    r = r + np.array([vega_to_ab(b) if b.startswith("2mass") else 0.0 for b in bands])
    system = dict.fromkeys(bands, "AB")
    (found,) = check_magnitude_systems(bands, r, e, system)
    assert set(found.bands) == {"2mass_j", "2mass_h"}


def test_no_false_alarm_in_thousand_catalogues(rng):
    """The limit is a chi-square of 25 (5 sigma, one-sided): none of 1000 expected."""
    alarms = 0
    for _ in range(1000):
        r, e = noise(rng)
        alarms += bool(check_magnitude_systems(PS1, r, e))
    assert alarms == 0


def test_reddening_is_no_vega(rng):
    """Stars redder than expected by an unknown E(B-V) whose error is stated raise no alarm."""
    k = np.array([3.6, 2.6, 1.9, 1.5, 1.25])
    r, e = noise(rng)
    moved = rng.normal(0, 0.08, 4)
    shift = MagnitudeShift(k, moved, 0.08)
    assert check_magnitude_systems(PS1, r, e, shifts=[shift]) == ()


def test_what_a_fit_moved_is_put_back(rng):
    """Residuals that the reddening has soaked up are found again."""
    k = np.array([3.6, 2.6, 1.9, 1.5, 1.25])
    offset = np.array([vega_to_ab(b) for b in PS1])
    r, e = noise(rng)
    moved = np.full(4, -0.25)  # as if E(B-V) had followed
    soaked = r + offset + moved[:, None] * k
    assert [s.bands for s in check_magnitude_systems(PS1, soaked, e, shifts=[
        MagnitudeShift(k, moved, 0.02)])] == [PS1]  # fmt: skip


def test_one_band_or_missing_bands_say_nothing(rng):
    assert check_magnitude_systems(["ps1_z"], [[0.5]], [[0.01]]) == ()
    r, e = noise(rng)
    r[:, 1:] = np.nan
    assert check_magnitude_systems(PS1, r, e) == ()


def test_shapes_are_checked():
    with pytest.raises(PogsonValueError, match=r"n_star, n_band"):
        check_magnitude_systems(PS1, np.zeros((2, 3)), np.zeros((2, 3)))
