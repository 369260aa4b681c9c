"""Diagnostics against what was put in: bumps, slopes, offsets, correlated errors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pogson.errors import CalibrationError, MissingDataError, PogsonValueError
from pogson.fields import Box
from pogson.survey import (
    AirmassExtinction,
    Detectors,
    DetectorZeroPoint,
    Exposures,
    ExposureZeroPoint,
    Observations,
    SolveSettings,
    Stars,
    SurveyTables,
    calibrate,
    diagnose,
    solution_at,
)
from pogson.survey.diagnostics import (
    detector_offsets,
    hold_out_exposures,
    loosest_combinations,
    nightly_extinction,
    nightly_values,
    reference_residual_map,
    repeatability,
    residuals_versus,
    structure_function,
    superpixel_map,
)
from pogson.survey.diagnostics_parameters import replace_rows

SEED = 20261121
BOX = Box(0, 0, 400, 800)
N, STARS = 12, 3000


def columns(seed=SEED):
    """Dithered exposures of two filters with zero points and extinction; noise said rightly."""
    rng = np.random.default_rng(seed)
    exposures = Exposures(
        np.arange(N) + 101, airmass=np.tile(np.linspace(1.0, 1.8, N // 2), 2),
        mjd=np.arange(N) / 20,
        night=np.arange(N) % 2, filter=np.arange(N) // (N // 2), filter_names=("g", "r"),
    )  # fmt: skip
    tables = SurveyTables(exposures, Detectors(np.array([1, 2, 3, 4]), (BOX,) * 4))
    ra, dec = rng.uniform(10, 11, STARS), rng.uniform(-1, 0, STARS)
    truth = rng.uniform(15, 20, 2 * STARS)
    half = np.tile(np.arange(STARS), N // 2)
    star = np.concatenate([half, STARS + half])
    e = np.repeat(np.arange(N), STARS)
    err = 0.003 * 10 ** (0.15 * (truth[star] - 17))
    zero = 25.0 + 0.1 * rng.normal(size=N)
    reference = truth + 0.01 * rng.normal(size=truth.size)
    return {
        "tables": tables, "truth": truth, "zero": zero, "rng": rng, "reference": reference,
        "ra": np.tile(ra, 2), "dec": np.tile(dec, 2), "color": np.tile(rng.uniform(0, 2, STARS), 2),
        "star": star, "exposure": e, "detector": rng.integers(0, 4, e.size),
        "x": rng.uniform(0, 399, e.size), "y": rng.uniform(0, 799, e.size), "mag_err": err,
        "mag": truth[star] - zero[e] + err * rng.normal(size=e.size),
    }  # fmt: skip


def observations(c, refs=0.2) -> Observations:
    known = c["rng"].random(c["truth"].size) < refs
    stars = Stars(
        np.tile(np.arange(STARS), 2), filter=np.repeat([0, 1], STARS), color=c["color"],
        reference_mag=np.where(known, c["reference"], np.nan),
        reference_err=np.full(2 * STARS, 0.01), ra=c["ra"], dec=c["dec"],
    )  # fmt: skip
    names = ("star", "exposure", "detector", "x", "y", "mag", "mag_err")
    return Observations.from_columns(c["tables"], stars, **{n: c[n] for n in names})


@pytest.fixture(scope="module")
def clean():
    return calibrate(observations(columns()), [ExposureZeroPoint(), DetectorZeroPoint()])


def test_repeatability_finds_the_errors_said_and_those_not_said(clean):
    r = repeatability(clean, np.arange(15.0, 20.5, 1.0), filter="g")
    assert r.detections.sum() == pytest.approx(N // 2 * STARS, rel=0.01)
    np.testing.assert_allclose(r.ratio, 1.0, atol=4 / np.sqrt(2 * r.detections.min()))
    np.testing.assert_allclose(r.robust / r.expected, 1.0, atol=0.15)
    assert r.expected[-1] > 3 * r.expected[0]
    c = columns()
    c["mag"] = c["mag"] + 0.01 * c["rng"].normal(size=c["mag"].size)
    worse = repeatability(calibrate(observations(c), [ExposureZeroPoint()]), [15.0, 16.0])
    assert worse.scatter[0] == pytest.approx(np.hypot(0.01, worse.expected[0]), rel=0.05)
    with pytest.raises(MissingDataError, match="'z'"):
        repeatability(clean, filter="z")


def test_superpixels_show_a_bump_and_nothing_else(clean):
    m = superpixel_map(clean)
    assert m.mean.shape == (4, 8, 4)
    cells = np.isfinite(m.mean).sum()
    assert m.chi2_per_cell == pytest.approx(1.0, abs=5 * np.sqrt(2 / cells))
    assert m.excess < 2 * np.nanmedian(m.error)
    assert m.count.sum() == N * STARS
    c = columns()
    on = (c["detector"] == 2) & (c["x"] > 300) & (c["y"] < 100)
    c["mag"] = np.where(on, c["mag"] + 0.02, c["mag"])
    bad = superpixel_map(calibrate(observations(c), [ExposureZeroPoint()]), filter="r")
    worst = np.unravel_index(np.nanargmax(np.abs(bad.mean / bad.error)), bad.mean.shape)
    assert worst == (2, 0, 3)
    # the other detections of the same stars lie elsewhere, so nearly all of it shows
    assert bad.mean[worst] == pytest.approx(0.02, abs=0.003)
    assert bad.chi2_per_cell > 2.0
    half = superpixel_map(clean, select=np.arange(N * STARS) % 2 == 0)
    assert half.count.sum() == N * STARS // 2
    with pytest.raises(PogsonValueError, match="one bool a detection"):
        superpixel_map(clean, select=[True])


def test_trends_show_an_extinction_that_was_left_out(clean):
    for quantity in ("airmass", "mjd", "magnitude", "radius", "seeing", "night", "color"):
        b = residuals_versus(clean, quantity, bins=8)
        assert b.count.sum() == N * STARS
        pull = b.mean / b.error
        assert np.sqrt(np.mean(pull**2)) < 2.2
        if quantity not in ("seeing",):  # the same everywhere: no slope
            assert abs(b.slope) < 4.5 * b.slope_error
    c = columns()
    airmass = c["tables"].exposures.airmass[c["exposure"]]
    c["mag"] = c["mag"] + 0.02 * (c["color"][c["star"]] - 1) * (airmass - 1)
    s = calibrate(observations(c), [ExposureZeroPoint(), DetectorZeroPoint()])
    high = s.observations.exposure_column("airmass") > 1.7
    # airmass 1.8 against the mean of the others, 1.32
    assert residuals_versus(s, "color", select=high).slope == pytest.approx(0.0096, abs=5e-4)
    with pytest.raises(PogsonValueError, match="'phase'"):
        residuals_versus(clean, "phase")


def test_offsets_of_detectors_and_their_structure(clean):
    o = detector_offsets(clean)
    assert o.offset.size == N * 4
    assert np.sqrt(np.mean((o.offset / o.error) ** 2)) == pytest.approx(1.0, abs=0.35)
    assert np.all((o.ra > 10) & (o.ra < 11) & (o.dec < 0))
    rng = np.random.default_rng(SEED)
    print("seed", SEED)
    # a plane wave of amplitude a and wave number k along a great circle: D = a^2/2 (1 - cos k t)
    ra, a, k = rng.uniform(0.0, 6.0, 1500), 0.004, 2 * np.pi / 3.0
    value = a * np.sin(k * ra) + 0.002 * rng.normal(size=ra.size)
    edges = np.linspace(0.0, 3.0, 13)
    s = structure_function(ra, np.zeros(ra.size), value, 0.002, edges)
    expected = 0.5 * a**2 * (1 - np.cos(k * s.separation))
    np.testing.assert_allclose(s.variance, expected, atol=4 * s.error.max())
    assert s.root.max() > 0.003
    assert s.error.max() < 2e-6
    half = structure_function(ra, 0 * ra, value, 0.002, edges, group=np.arange(ra.size) % 2)
    assert half.pairs.sum() < 0.6 * s.pairs.sum()
    few = structure_function(ra, 0 * ra, value, 0.002, edges, rng=rng, limit=100)
    assert few.pairs.sum() < 100 * 99 / 2
    with pytest.raises(PogsonValueError, match="must be the same"):
        structure_function([1.0], [1.0, 2.0], [0.0], 0.1, edges)


def test_exposures_held_out_are_predicted():
    print("seed", SEED)
    c = columns()
    terms = [ExposureZeroPoint(), DetectorZeroPoint()]
    s, held = hold_out_exposures(observations(c), terms, [102, 109])
    assert s.observations.flag_counts() == {"HELD_OUT": 2 * STARS}
    assert held.zero_point == pytest.approx(c["zero"][[1, 8]], abs=0.002)
    assert held.chi2 / held.degrees_of_freedom == pytest.approx(1.0, abs=5 * np.sqrt(2 / STARS))
    assert held.p_value > 0.01
    assert held.scatter == pytest.approx(0.006, abs=0.004)
    on = c["exposure"] == 8
    c["mag"] = np.where(on, c["mag"] + 0.01 * np.sign(c["x"] - 200), c["mag"])
    _, held = hold_out_exposures(observations(c), terms, [102, 109], SolveSettings())
    ratio = held.chi2 / held.degrees_of_freedom
    assert ratio[0] < 1.2 < 2.0 < ratio[1]
    assert held.p_value < 1e-4
    lonely = columns()
    keep = lonely["exposure"] == 0
    lonely = {k: v[keep] if np.shape(v) == keep.shape else v for k, v in lonely.items()}
    with pytest.raises(CalibrationError):
        hold_out_exposures(observations(lonely), terms, [101])


def test_what_is_known_worst_is_named(clean):
    first, *rest = loosest_combinations(clean, 3)
    assert "exposure_zero_point" in first.terms
    assert all(first.sigma >= 0.3 * r.sigma for r in rest)
    # the scale of a filter rests on 600 references of 10 mmag
    assert first.sigma == pytest.approx(0.01 / np.sqrt(600), rel=0.3)
    none = calibrate(observations(columns()), [ExposureZeroPoint()], covariance=False)
    with pytest.raises(MissingDataError, match="covariance"):
        loosest_combinations(none)
    drawn = calibrate(observations(columns()), [ExposureZeroPoint()], solver="iterative", draws=200)
    assert loosest_combinations(drawn, 1)[0].sigma == pytest.approx(first.sigma, rel=0.5)


def test_values_by_night():
    c = columns()
    x = c["tables"].exposures
    k = np.array([0.15, 0.25])
    c["mag"] = c["mag"] + (k[x.night] * (x.airmass - 1.0))[c["exposure"]]
    c["mag"] = c["mag"] + (c["zero"] - 25.0)[c["exposure"]]  # one zero point for all
    s = calibrate(
        observations(c, refs=1.0),
        [ExposureZeroPoint(prior_mean=25.0, prior_sigma=1e-4), AirmassExtinction()],
    )
    found = {v.parameter: v for v in nightly_values(s)}
    assert set(found) == {"g;k", "r;k"}
    for v in found.values():
        assert v.term == "airmass_extinction"
        assert v.night.tolist() == [0, 1]
        assert v.value == pytest.approx(k, abs=0.003)
        assert np.all((v.error > 0) & (v.error < 0.003))
        assert np.all(np.isfinite(v.mjd))
    assert nightly_values(calibrate(observations(columns()), [ExposureZeroPoint()])) == []


def test_extinction_from_zero_points():
    """Zero points of their own for every exposure, whose slope with airmass is the extinction."""
    c = columns()
    x = c["tables"].exposures
    k = np.array([0.15, 0.25])[x.night]
    zero = 25.0 - k * x.airmass  # the same but for extinction
    zero[3] -= 0.2  # a cloud
    c["mag"] = c["mag"] + (c["zero"] - zero)[c["exposure"]]
    photometric = np.arange(N) != 3
    c["tables"] = replace(c["tables"], exposures=replace(x, photometric=photometric))
    s = calibrate(observations(c), [ExposureZeroPoint(), DetectorZeroPoint()])
    g, r = nightly_extinction(s)
    assert (g.parameter, r.parameter, g.unit) == ("g", "r", "mag/airmass")
    assert g.night.tolist() == [0]  # the other has two photometric exposures left
    assert r.night.tolist() == [0, 1]
    value, error = np.append(g.value, r.value), np.append(g.error, r.error)
    assert np.all(np.abs(value - [0.15, 0.15, 0.25]) < 4 * error)
    assert np.all(error < 0.003)
    assert nightly_extinction(s, least_range=2.0) == []


def test_values_of_the_atmosphere_are_physical():
    from pogson.sed import Bandpass, stellar_template
    from pogson.survey import Atmosphere, ColorSeds, Model

    bands = [
        Bandpass(n, [a, a + 100, a + 900, a + 1000], [0.0, 1.0, 1.0, 0.0])
        for n, a in (("g", 4200.0), ("r", 6000.0))
    ]
    seds = ColorSeds.from_spectra(
        [stellar_template(t) for t in (4000, 5000, 7000)], bands, color=(bands[0], bands[1])
    )
    air = Atmosphere(bands, seds, fit=("ozone", "log_water"), initial=np.array([250.0, 0.0] * 2))
    s = calibrate(observations(columns(), refs=1.0), [ExposureZeroPoint()])
    model = Model([air], s.model.tables)
    part = replace(
        s, model=model, parameters=np.array([250.0, np.log(2.0), 300.0, np.log(5.0)]),
        information=np.ones(4), covariance=None,
    )  # fmt: skip
    found = {v.parameter: v for v in nightly_values(part)}
    assert found["water vapour"].value == pytest.approx([2.0, 5.0])
    assert found["water vapour"].unit == "mm"
    assert found["ozone"].value.tolist() == [250.0, 300.0]
    assert found["ozone"].unit == "DU"


def test_a_solution_at_other_detections(clean):
    """Residuals and stars of a part, or of a solution that kept none, are those of the whole."""
    o = clean.observations
    half = replace_rows(o, np.flatnonzero(o.star % 2 == 0))
    part = solution_at(clean, half)
    assert len(part.observations) == N * STARS // 2
    on = o.star % 2 == 0
    np.testing.assert_allclose(part.residual, clean.residual[on], atol=1e-9)
    even = np.arange(2 * STARS) % 2 == 0
    np.testing.assert_allclose(part.stars.mag[even], clean.stars.mag[even], atol=1e-9)
    assert np.isnan(part.stars.mag_err[~even & ~o.stars.has_reference]).all()
    np.testing.assert_allclose(part.stars.chi2[even], clean.stars.chi2[even], rtol=1e-6)
    mag = np.array(half.mag)
    mag[5] += 1.0
    assert solution_at(clean, replace(half, mag=mag)).observations.flag_counts() == {"REJECTED": 1}


def test_diagnostics_of_a_survey_are_those_of_the_functions(clean):
    found = diagnose(clean, held_out=1)
    assert found.bands == ("g", "r")
    r = repeatability(clean, filter="r")
    np.testing.assert_array_equal(found.repeatability["r"].scatter, r.scatter)
    assert [b.quantity for b in found.trends["g"]] == [
        "airmass", "color", "mjd", "magnitude", "radius"]  # fmt: skip
    assert set(found.structure) == {"g", "g same exposure", "r", "r same exposure"}
    assert len(found.held_out.exposure) == 2
    assert found.held_out.p_value > 0.001


def test_reference_offset_in_a_region_of_one_band_shows():
    """0.1 mag in a corner of g: in the map of g, at its place and size; r is clean."""
    c = columns()
    corner = (c["ra"] < 10.3) & (c["dec"] < -0.7) & (np.arange(2 * STARS) < STARS)
    c["reference"] = c["reference"] + 0.1 * corner
    s = calibrate(observations(c, refs=1.0), [ExposureZeroPoint(), DetectorZeroPoint()])
    g, r = (reference_residual_map(s, filter=b) for b in "gr")
    shift = 0.1 * corner[:STARS].mean()
    assert g.mean[:3, :3] == pytest.approx(0.1 - shift, abs=0.01)
    off = g.offset_cells(5.0)
    assert all(ra < 10.31 and dec < -0.69 for ra, dec, _, s in off if s > 0)
    assert sum(s > 5 for *_, s in off) == 9
    assert r.offset_cells(5.0) == []
    # the stars of the corner follow their detections: none takes the offset
    error = (s.stars.mag - c["truth"])[:STARS]
    assert np.nanmean(error[corner[:STARS]]) == pytest.approx(np.nanmean(error), abs=0.006)
    none = calibrate(observations(columns(), refs=0.0), [ExposureZeroPoint()], gauge="anchor")
    with pytest.raises(MissingDataError, match="reference"):
        reference_residual_map(none)


def test_variable_star_is_listed():
    c = columns()
    on = c["star"] == 77
    c["mag"] = np.where(on, c["mag"] + 0.2 * np.sin(5.0 * c["exposure"]), c["mag"])
    s = calibrate(observations(c), [ExposureZeroPoint()], reject_sigma=5.0)
    assert 77 in s.suspect_stars()
    assert s.suspect_stars().size < 5
