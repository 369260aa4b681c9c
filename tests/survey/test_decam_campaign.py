"""A DECam campaign through the real star flat, recovered: nine detectors, and (slow) all 61."""

from __future__ import annotations

import numpy as np
import pytest
from decam_world import (
    NINE,
    color_slopes,
    find_clouds,
    make,
    map_error,
    solve,
    solve_atmosphere,
    white_pulls,
)
from scipy.stats import chi2

from pogson.survey.diagnostics import (
    hold_out_exposures,
    reference_residual_map,
    repeatability,
    residuals_versus,
    superpixel_map,
)

SEED = 20261121


def folder(shared_data):
    for name in ("y6a1.guts.astro", "y6a1.affine.fits", "allsf.guts.photo"):
        path = shared_data(f"decam-starflat/{name}")
    return path.parent


@pytest.fixture(scope="module")
def small(shared_data):
    """Two bands, two nights, nine detectors in the middle, a quarter of the exposures cloudy."""
    survey = make(
        folder(shared_data), NINE, bands=("g", "i"), nights=2, exposures=7, dither=0.25, stars=6000,
        seed=SEED,
    )  # fmt: skip
    print("seed", SEED)
    return survey, *solve(survey, held_out=0.1, seed=SEED)


def test_star_flat_and_zero_points_come_back(small):
    survey, solution, flats = small
    assert solution.converged
    for band in survey.campaign.bands:
        m = map_error(survey, flats, band)
        print(f"{band}: map {1e3 * m.rms:.2f} mmag rms, expected {1e3 * m.expected:.2f}")
        assert m.ratio < 1.3
        assert m.rms < 0.002
    clear = survey.tables.exposures.photometric
    d = solution["exposure_zero_point"] - survey.zero_points_in_gauge()
    print(f"photometric zero points: {1e3 * np.sqrt(np.mean(d[clear] ** 2)):.2f} mmag rms")
    assert np.sqrt(np.mean(d[clear] ** 2)) < 0.0015
    assert survey.cloud[~clear].min() > 0.05


def test_errors_are_right(small):
    survey, solution, _ = small
    z = white_pulls(survey, solution)
    print(f"pulls of {z.size} parameters: {np.sqrt(np.mean(z**2)):.3f}")
    assert 0.9 < np.sqrt(np.mean(z**2)) < 1.1
    p = chi2.sf(np.sum(white_pulls(survey, solution, "exposure_zero_point") ** 2), 28)
    assert 1e-3 < p < 1 - 1e-3
    assert solution.weighting.floor[1] > 2 * solution.weighting.floor[0]
    assert solution.validate(SEED).p_value > 0.01
    r = repeatability(solution, np.arange(15.0, 20.0, 1.0))
    np.testing.assert_allclose(r.ratio[r.detections > 200], 1.0, atol=0.15)
    # the star flat is fitted to these very residuals, so that less than the noise is left
    assert superpixel_map(solution, shape=(4, 2)).chi2_per_cell < 1.3


def test_a_star_flat_left_out_is_seen(small):
    """What the diagnostics are for: a model without star flat leaves its map in the residuals."""
    from pogson.survey import DetectorZeroPoint, ExposureZeroPoint, KnownJacobian, calibrate

    survey, good, _ = small
    terms = [ExposureZeroPoint(), DetectorZeroPoint(), KnownJacobian(areas=survey.areas())]
    bad = calibrate(survey.observations, terms, floor="fit")
    assert bad.weighting.floor[0] > 2 * good.weighting.floor[0]
    assert superpixel_map(bad, shape=(4, 2)).chi2_per_cell > 2


def test_reference_offset_in_one_band(small):
    """0.1 mag over a corner of the g catalogue: on the map of g, and i stays clean."""
    from dataclasses import replace

    survey, good, _ = small
    stars = survey.observations.stars
    seen = good.stars.detections > 0
    ra0, dec0 = np.percentile(stars.ra[seen], 65), np.percentile(stars.dec[seen], 65)
    region = (stars.ra > ra0) & (stars.dec > dec0) & (stars.filter == 0)
    off = replace(stars, reference_mag=stars.reference_mag + 0.1 * region)
    shifted = replace(survey, observations=replace(survey.observations, stars=off))
    solution, _ = solve(shifted)
    before, g, i = (
        reference_residual_map(s, cells=5, filter=b)
        for s, b in ((good, "g"), (solution, "g"), (solution, "i"))
    )
    assert before.offset_cells(5.0) == i.offset_cells(5.0) == []
    off = [cell for cell in g.offset_cells(5.0) if cell[2] > 0]
    print(f"{region[seen].mean():.2f} of the stars offset; cells of the map: {off}")
    # a slope of the star flat over the focal plane takes a part of it, and the map says so
    assert max(mean for _, _, mean, _ in off) > 0.03
    assert all(ra > ra0 - 0.2 and dec > dec0 - 0.2 for ra, dec, _, _ in off)


@pytest.mark.slow
def test_photometric_exposures_are_found_and_clouds_do_not_bias_them(shared_data):
    """Clouds of 0.05 to 0.3 mag, known to nobody, beside the extinction of every night."""
    survey = make(
        folder(shared_data), NINE, bands=("g", "i"), nights=2, exposures=9, dither=0.25,
        stars=20_000, cloudy=0.3, color_terms=False, seed=SEED,
    )  # fmt: skip
    zero, photometric = find_clouds(survey)
    clear = survey.tables.exposures.photometric
    d = 1e3 * (zero - survey.zero_points_in_gauge())
    rms = np.sqrt(np.mean(d[clear] ** 2))
    print(f"{photometric.sum()} of {clear.size} photometric, truly {clear.sum()}; theirs off by "
          f"{np.mean(d[clear]):+.2f} mmag, rms {rms:.2f}, worst {np.abs(d[clear]).max():.2f}; "
          f"those of the cloudy ones by {d[~clear].std():.2f} rms")  # fmt: skip
    assert np.array_equal(photometric, clear)
    assert np.abs(np.mean(d[clear])) < 1.0
    assert rms < 1.0


@pytest.mark.slow
def test_whole_camera(shared_data):
    """61 detectors, three bands, three nights: the figures asked of a survey."""
    print("seed", SEED)
    survey = make(folder(shared_data), nights=3, exposures=8, stars=40_000, seed=SEED)
    solution, flats = solve(survey, held_out=0.1, seed=SEED)
    clear = survey.tables.exposures.photometric
    for band in survey.campaign.bands:
        m = map_error(survey, flats, band)
        print(f"{band}: map {1e3 * m.rms:.3f} mmag rms, expected {1e3 * m.expected:.3f}")
        assert m.rms < 0.001
        assert m.ratio < 1.2
    d = solution["exposure_zero_point"] - survey.zero_points_in_gauge()
    rms = np.sqrt(np.mean(d**2))
    print(f"zero points {1e3 * rms:.3f} mmag rms, photometric {1e3 * d[clear].std():.3f}")
    assert rms < 0.001
    assert np.abs(d[clear]).max() < 0.001  # clouds do not bias photometric exposures
    z = white_pulls(survey, solution)
    print(f"pulls of {z.size} parameters: {np.sqrt(np.mean(z**2)):.3f}")
    assert 0.9 < np.sqrt(np.mean(z**2)) < 1.1
    p = solution.validate(SEED).p_value
    print(f"held-out stars: KS p {p:.3f}")
    assert p > 0.01


@pytest.mark.slow
def test_whole_camera_exposures_held_out(shared_data):
    """Zero points of exposures that took no part, from stars and flats of the others."""
    survey = make(
        folder(shared_data), bands=("r",), nights=2, exposures=10, cloudy=0.0, stars=20_000,
        seed=SEED,
    )  # fmt: skip
    solution, _ = solve(survey)
    out = survey.tables.exposures.identifier[[3, 12]]
    _, held = hold_out_exposures(
        survey.observations, solution.model.terms, out, floor="fit"
    )  # fmt: skip
    error = held.zero_point - survey.zero_points_in_gauge()[[3, 12]]
    print(f"held-out zero points off by {1e3 * error} mmag, chi2 {held.chi2}, p {held.p_value}")
    assert np.abs(error).max() < 0.001
    assert held.chi2 / held.degrees_of_freedom == pytest.approx(1.0, abs=0.1)
    assert abs(residuals_versus(solution, "color").slope) < 5e-4


@pytest.mark.slow
def test_atmosphere_of_every_night(shared_data):
    """2 to 10 mm of water: no slope with colour, g - i 0.3 to 3, once the atmosphere is solved."""
    print("seed", SEED)
    survey = make(
        folder(shared_data), NINE, bands=("g", "r", "i", "z"), nights=4, exposures=6, dither=0.25,
        stars=16_000, chromatic=True, cloudy=0.0, reference_fraction=1.0, reference_error=0.005,
        seed=SEED,
    )  # fmt: skip
    grey, found = solve_atmosphere(survey)
    for band, name in enumerate(survey.campaign.bands):
        before, after = (color_slopes(survey, s, band) for s in (grey, found))
        print(f"{name}: residuals {1e3 * before.exposures:.2f} -> {1e3 * after.exposures:.2f}, ",
              f"stars {1e3 * before.stars:+.2f} -> {1e3 * after.stars:+.2f} mmag/mag")  # fmt: skip
        assert after.exposures < 0.0005
        assert abs(after.stars) < 0.0005
    assert color_slopes(survey, grey, 0).exposures > 0.001  # it mattered
