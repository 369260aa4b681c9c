"""Sky templates against the colours they are known by."""

from __future__ import annotations

import numpy as np
import pytest

from pogson.errors import PogsonValueError
from pogson.sed import Bandpass, stellar_template, synthetic_color
from pogson.sed.sky_spectra import (
    dark_sky_spectrum,
    moonlight_spectrum,
    twilight_spectrum,
    zodiacal_spectrum,
)

G, R, I_BAND = (Bandpass.from_speclite(f"sdss2010-{b}") for b in "gri")


def test_colours_are_in_the_order_of_the_sky():
    """Twilight is the bluest, then moonlight, the Sun, zodiacal light; the dark sky is red."""
    sun = stellar_template(5777.0)
    spectra = [
        twilight_spectrum(),
        moonlight_spectrum(mie_fraction=0.0),
        moonlight_spectrum(mie_fraction=1.0),
        sun,
        zodiacal_spectrum(),
        dark_sky_spectrum(),
    ]
    g_r = [synthetic_color(s, G, R) for s in spectra]
    assert g_r[0] < g_r[1] < g_r[2] < g_r[3] < g_r[5]
    # the zodiacal light is solar in colour to about a tenth of a magnitude
    assert abs(g_r[4] - synthetic_color(sun, G, R)) < 0.12
    assert synthetic_color(dark_sky_spectrum(), R, I_BAND) > 0.4


def test_dark_sky_has_the_brightness_it_was_made_from():
    v = Bandpass("V", [5490.0, 5491.0, 5509.0, 5510.0], [0.0, 1.0, 1.0, 0.0])
    from pogson.sed import synthetic_magnitude

    assert synthetic_magnitude(dark_sky_spectrum(), v) == pytest.approx(21.63, abs=0.01)


def test_ozone_darkens_the_orange():
    without, with_ozone = twilight_spectrum(ozone_paths=0.0), twilight_spectrum(ozone_paths=20.0)
    depth = -np.log(with_ozone.evaluate(6000.0) / without.evaluate(6000.0))
    assert depth == pytest.approx(20 * 300 * 2.687e16 * 5e-21)


@pytest.mark.parametrize("value", [-0.1, 1.1, np.nan])
def test_shares_are_checked(value):
    with pytest.raises(PogsonValueError, match="between 0 and 1"):
        moonlight_spectrum(mie_fraction=value)


def test_ozone_is_checked():
    with pytest.raises(PogsonValueError, match="must not be negative"):
        twilight_spectrum(ozone_paths=-1.0)
