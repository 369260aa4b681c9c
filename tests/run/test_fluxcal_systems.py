"""Vega given as AB, told from real stars: CALSPEC spectra against the SDSS grid of models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pogson.run.fluxcal_fit import suspect_systems
from pogson.run.fluxcal_inputs import StandardStars
from pogson.sed import calspec_spectrum, load_filter_curves
from pogson.simulate import FibreTarget, simulate_fibres
from pogson.spectro import (
    LineSpread,
    Photometry,
    TemplateLibrary,
    calibrate_fibres,
    grid_photometry,
    vega_to_ab,
)

BANDS = {
    "ps1": ("ps1_g", "ps1_r", "ps1_i", "ps1_z"),
    "gaia": ("gaia_g", "gaia_bp", "gaia_rp"),
}


@pytest.fixture(scope="module")
def real(shared_data):
    library = TemplateLibrary(shared_data("templates/kurucz_stds_v5.fit"))
    targets = []
    for path in sorted(shared_data("calspec").glob("*.fits.gz")):
        if path.name.startswith("alpha_lyr"):
            continue  # an A star, outside the grid
        s = calspec_spectrum(path)
        keep = (s.wavelength > 3000) & (s.wavelength < 10800)
        targets.append(
            FibreTarget(
                path.name.rpartition("_stis")[0],
                s.wavelength[keep],
                s.flux[keep],
                sn=80.0,
                native=LineSpread.from_resolution(900.0),
            )
        )
    return library, targets


@pytest.mark.slow
@pytest.mark.parametrize("survey", list(BANDS))
def test_real_stars(real, survey):
    library, targets = real
    bands = BANDS[survey]
    curves = load_filter_curves(bands)
    phot = grid_photometry(library, curves)
    sim = simulate_fibres(
        3, n_stars=len(targets), targets=targets, library=library, bands=bands,
        resolution=(700.0, 700.0), map_error=0.03,
    )  # fmt: skip
    offsets = np.array([vega_to_ab(b) for b in bands])
    alone = []
    for wrong in (False, True):
        given = {
            n: Photometry(bands, np.asarray(p.magnitudes) - wrong * offsets, p.mag_errors, p.meta)
            for n, p in sim.standards.items()
        }
        calibration = calibrate_fibres(sim.frame, given, phot)
        stars = StandardStars(
            tuple((i, n, p) for i, (n, p) in enumerate(given.items())), {}, "name",
            dict.fromkeys(bands, "AB"), curves,
        )  # fmt: skip
        found = suspect_systems(calibration, stars, phot)
        assert [s.bands for s in found] == ([bands] if wrong else [])
        if wrong:
            assert found[0].amplitude == pytest.approx(1.0, abs=0.15)
        one = [
            bool(suspect_systems(replace(calibration, matches={n: m}), stars, phot))
            for n, m in calibration.matches.items()
        ]
        alone.append(np.mean(one))
    # a single star is enough nearly always, and never speaks up for nothing
    assert alone[0] == 0
    assert alone[1] >= 0.8
