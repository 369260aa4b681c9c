"""Grids from spectra: against `synthetic_flux` of reddened spectra, and published coefficients."""

from __future__ import annotations

import numpy as np
import pytest

from pogson.errors import CalibrationError, MissingDataError, PogsonValueError
from pogson.sed import (
    Bandpass,
    Spectrum,
    extinction_curve,
    stellar_template,
    synthetic_magnitude,
)
from pogson.stars import build_synthetic_grid

GRI = {b: Bandpass.from_speclite(f"sdss2010-{b}") for b in "gri"}


def test_coefficients_are_those_of_reddened_spectra() -> None:
    stars = [stellar_template(t, step=2.0) for t in (4500.0, 6000.0, 9000.0)]
    av, rv = np.array([0.3, 1.0, 2.0]), np.array([2.5, 3.1, 4.0])
    grid = build_synthetic_grid(
        stars, GRI, {"teff": [4500.0, 6000.0, 9000.0]}, av=av, rv=rv, law="F99"
    )
    assert grid.fit_error is not None
    for i, star in enumerate(stars):
        for j, band in enumerate(GRI.values()):
            assert grid.coefficients[i, j, 0] == pytest.approx(
                synthetic_magnitude(star, band), abs=2e-6
            )
            worst = 0.0
            for a in av:
                for r in rv:
                    true = synthetic_magnitude(star.redden(a / r, r_v=r, law="F99"), band)
                    formula = grid.magnitudes(i, a, r)[j]
                    worst = max(worst, abs(true - formula))
            # the error recorded is the largest on the lattice, no more and no less
            assert worst == pytest.approx(grid.fit_error[i, j], abs=3e-5)


def test_a_narrow_band_has_the_extinction_of_the_law() -> None:
    lam = np.linspace(5000.0, 7000.0, 4001)
    line = Bandpass("line", [5998.0, 5999.0, 6001.0, 6002.0], [0.0, 1.0, 1.0, 0.0])
    rv = np.array([2.4, 3.3, 4.2])
    grid = build_synthetic_grid(
        [Spectrum(lam, np.ones(lam.size))], [line], {"teff": [1.0]}, av=[1.0], rv=rv, law="CCM89"
    )
    law = [float(extinction_curve(6000.0, r_v=r, law="CCM89")) / r for r in rv]
    formula = grid.magnitudes(0, 1.0, rv, distance_kpc=np.ones(3))[:, 0] - grid.magnitudes(0)[0]
    assert grid.fit_error is not None
    assert np.abs(formula - law).max() == pytest.approx(float(grid.fit_error[0, 0]), abs=3e-5)
    assert grid.fit_error[0, 0] < 0.02


def test_published_coefficients_of_pan_starrs() -> None:
    """Schlafly & Finkbeiner (2011, table 6): A of grizy at R_V 3.1, F99, a star of 7000 K."""
    bands = {b: Bandpass.from_speclite(f"panstarrs-{b}") for b in "griz"}
    grid = build_synthetic_grid([stellar_template(7000.0)], bands, {"teff": [7000.0]}, law="F99")
    k = (grid.magnitudes(0, 0.1, 3.1) - grid.magnitudes(0, 0.0)) / 0.1
    published = np.array([3.172, 2.271, 1.682, 1.322])
    assert k / k[1] == pytest.approx(published / published[1], rel=0.02)


def test_spectra_of_different_wavelengths_mix() -> None:
    fine, coarse = stellar_template(5000.0, step=2.0), stellar_template(6500.0, step=10.0)
    labels = {"teff": [5000.0, 6500.0, 5000.0]}
    grid = build_synthetic_grid([fine, coarse, fine.scaled(100.0)], GRI, labels)
    assert grid.coefficients[2, :, 0] == pytest.approx(grid.coefficients[0, :, 0] - 5.0, abs=2e-6)
    assert grid.coefficients[2, :, 1:] == pytest.approx(grid.coefficients[0, :, 1:], abs=1e-6)
    alone = build_synthetic_grid([coarse], GRI, {"teff": [6500.0]})
    assert np.array_equal(alone.coefficients[0], grid.coefficients[1])


def test_air_wavelengths_are_converted() -> None:
    star = stellar_template(5000.0, step=2.0)
    as_air = Spectrum(star.wavelength, star.flux, "air")
    grid = build_synthetic_grid([as_air], GRI, {"teff": [1.0]})
    for j, band in enumerate(GRI.values()):
        assert grid.coefficients[0, j, 0] == pytest.approx(
            synthetic_magnitude(as_air, band), abs=2e-6
        )


def test_scale_and_vega() -> None:
    seen: list[tuple[int, int]] = []
    stars = [stellar_template(5000.0), stellar_template(6000.0)]
    labels = {"teff": [5000.0, 6000.0]}
    plain = build_synthetic_grid(stars, GRI, labels)
    grid = build_synthetic_grid(
        stars,
        GRI,
        labels,
        predictions={"logg": [4.5, 4.4]},
        scale=[1e-2, 1e-4],
        vega_offsets={"i": 0.37},
        progress=lambda done, total: seen.append((done, total)),
    )
    difference = grid.coefficients[..., 0] - plain.coefficients[..., 0]
    assert difference == pytest.approx(np.array([[5.0, 5.0, 4.63], [10.0, 10.0, 9.63]]), abs=5e-6)
    assert grid.systems == {"g": "AB", "r": "AB", "i": "Vega"}
    assert grid.provenance["vega_offsets"] == {"i": 0.37}
    assert grid.label_names == ("teff", "logg")
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_clear_errors() -> None:
    star = stellar_template(5000.0)
    one = {"teff": [1.0]}
    short = Spectrum(star.wavelength[:300], star.flux[:300], name="short")
    with pytest.raises(CalibrationError, match=r"Spectrum 1 'short'.*covers.*'sdss2010-r'"):
        build_synthetic_grid([star, short], {"r": GRI["r"]}, {"teff": [1.0, 2.0]})
    dark = Spectrum(star.wavelength, -star.flux)
    with pytest.raises(CalibrationError, match=r"1 spectra give no light.*number 1"):
        build_synthetic_grid([star, dark], GRI, {"teff": [1.0, 2.0]})
    with pytest.raises(MissingDataError, match="'I'.*did you mean 'i'"):  # noqa: RUF043
        build_synthetic_grid([star], GRI, one, vega_offsets={"I": 0.4})
    with pytest.raises(PogsonValueError, match=r"scale must be one number or have shape \(1,\)"):
        build_synthetic_grid([star], GRI, one, scale=[1.0, 2.0])
    for spectra, bands, scale in (([], GRI, 1.0), ([star], {}, 1.0), ([star], GRI, 0.0)):
        with pytest.raises(PogsonValueError, match="needs spectra"):
            build_synthetic_grid(spectra, bands, one, scale=scale)
    with pytest.raises(PogsonValueError, match="1 rows"):
        build_synthetic_grid([star], GRI, {"teff": [1.0, 2.0]})
    with pytest.raises(PogsonValueError, match="law"):
        build_synthetic_grid([star], GRI, one, law="SF11")
