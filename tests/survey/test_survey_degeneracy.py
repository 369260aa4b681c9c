"""What the data cannot know is named before solving, and bad input is reported."""

from __future__ import annotations

import numpy as np
import pytest

from pogson.errors import CalibrationError, ConfigError, PogsonValueError
from pogson.survey import (
    ColorSlope,
    Detectors,
    DetectorZeroPoint,
    Exposures,
    ExposureZeroPoint,
    Model,
    Observations,
    Stars,
    SurveyTables,
    calibrate,
    find_degeneracies,
)


def survey(links, *, stars_each=30, references=(), seed=3, sigma=0.01):
    """Exposures that share stars as listed: links[k] are the exposures of the k-th group."""
    rng = np.random.default_rng(seed)
    n_exposures = max(max(g) for g in links) + 1
    star, exposure = [], []
    for k, group in enumerate(links):
        for s in range(stars_each):
            for e in group:
                star.append(k * stars_each + s)
                exposure.append(e)
    star, exposure = np.array(star), np.array(exposure)
    n = len(links) * stars_each
    truth = rng.uniform(15, 20, n)
    zero = 25.0 + 0.1 * np.arange(n_exposures)
    ref = np.full(n, np.nan)
    for k in references:
        ref[k * stars_each : (k + 1) * stars_each] = truth[k * stars_each : (k + 1) * stars_each]
    tables = SurveyTables(Exposures(np.arange(n_exposures) + 11), Detectors([0, 1]))
    obs = Observations.from_columns(
        tables,
        Stars(np.arange(n), reference_mag=ref, reference_err=0.02, color=rng.uniform(0, 1, n)),
        star=star, exposure=exposure, detector=rng.integers(0, 2, star.size), x=5.0, y=5.0,
        mag=truth[star] - zero[exposure] + sigma * rng.normal(size=star.size), mag_err=sigma,
    )  # fmt: skip
    return obs, zero


def test_a_relative_solution_names_its_constant():
    obs, _ = survey([(0, 1, 2)])
    with pytest.raises(
        CalibrationError, match=r"adding the same \+1 to all 3 of exposure_zero_point"
    ):
        calibrate(obs, [ExposureZeroPoint()])


def test_anchored_relative_solution_keeps_the_mean_and_finds_differences():
    obs, zero = survey([(0, 1, 2)])
    s = calibrate(obs, [ExposureZeroPoint(prior_mean=25.0)], gauge="anchor")
    z = s["exposure_zero_point"]
    assert z.mean() == pytest.approx(25.0, abs=1e-6)
    assert np.all(np.abs((z - z.mean()) - (zero - zero.mean())) < 5 * 0.01 * np.sqrt(2 / 30))
    assert len(s.gauges) == 1
    assert "exposure_zero_point" in s.gauges[0]
    assert s.degrees_of_freedom == 90 + 1 - 30 - 3


def test_disconnected_sets_are_reported_and_each_anchored_or_refused():
    obs, zero = survey([(0, 1, 2), (3, 4)])
    with pytest.raises(CalibrationError, match=r"2 combination\(s\)"):
        calibrate(obs, [ExposureZeroPoint()])
    s = calibrate(obs, [ExposureZeroPoint(prior_mean=25.0)], gauge="anchor")
    assert s.connections.count == 2
    assert list(s.connections.members(0)) == [11, 12, 13]
    assert list(s.connections.members(1)) == [14, 15]
    assert not s.connections.anchored.any()
    assert any("disconnected" in line for line in s.connections.describe())
    z = s["exposure_zero_point"]
    assert z[:3].mean() == pytest.approx(25.0, abs=1e-6)
    assert z[3:].mean() == pytest.approx(25.0, abs=1e-6)
    assert (z[4] - z[3]) == pytest.approx(zero[4] - zero[3], abs=0.015)


def test_references_in_one_set_leave_the_other_undetermined():
    obs, _ = survey([(0, 1), (2, 3)], references=[0])
    found = find_degeneracies(Model([ExposureZeroPoint()], obs.tables), obs)
    assert len(found) == 1
    assert "[13, 14]" in found[0].text
    s = calibrate(obs, [ExposureZeroPoint()], gauge="anchor")
    assert list(s.connections.anchored) == [True, False]


def test_terms_that_say_the_same_are_named():
    obs, _ = survey([(0, 1, 2)], references=[0])
    model = Model([ExposureZeroPoint(), DetectorZeroPoint(gauge=False)], obs.tables)
    found = find_degeneracies(model, obs)
    assert [d.terms for d in found] == [("exposure_zero_point", "detector_zero_point")]
    twice = Model([ExposureZeroPoint(), ExposureZeroPoint("again")], obs.tables)
    found = find_degeneracies(twice, obs)
    assert len(found) == 3
    assert all(set(d.terms) == {"exposure_zero_point", "again"} for d in found)
    with pytest.raises(ConfigError, match="each its own name"):
        Model([ExposureZeroPoint(), ExposureZeroPoint()], obs.tables)


def test_the_mean_colour_term_needs_a_gauge():
    obs, _ = survey([(0, 1, 2)], references=[])
    anchored = [ExposureZeroPoint(prior_sigma=1.0)]
    assert not find_degeneracies(Model([*anchored, ColorSlope()], obs.tables), obs)
    loose = Model([*anchored, ColorSlope(gauge=False)], obs.tables)
    found = find_degeneracies(loose, obs)
    assert [d.terms for d in found] == [("color_slope",)]
    assert "the same" in found[0].text


def test_null_vectors_change_no_residual():
    """Each vector named is checked on the design itself, not on the matrix it came from."""
    obs, _ = survey([(0, 1), (2, 3), (4,)])
    model = Model([ExposureZeroPoint(), DetectorZeroPoint(gauge=False)], obs.tables)
    found = find_degeneracies(model, obs)
    assert len(found) == 4  # three sets, and the constant of the detectors
    for d in found:
        shift = model.evaluate(obs, d.vector)
        for s in np.unique(obs.star):
            assert np.ptp(shift[obs.star == s]) < 1e-8


def test_exposure_tied_by_one_star():
    obs, _ = survey([(0, 1)], references=[0])
    flags = np.array(obs.flags)
    flags[np.flatnonzero(obs.exposure == 1)[1:]] = 16
    s = calibrate(obs.with_flags(flags), [ExposureZeroPoint()])
    assert list(s.connections.weak(3)) == [12]
    assert any("fewer than 3 stars: 12" in line for line in s.connections.describe())
    assert s.error("exposure_zero_point")[1] == pytest.approx(
        np.hypot(0.01, s.stars.mag_err[0]), rel=0.5
    )


def test_bad_rows_are_flagged_and_counted():
    obs, _ = survey([(0, 1, 2)], references=[0])
    columns = {n: np.array(getattr(obs, n)) for n in
               ("star", "exposure", "detector", "x", "y", "mag", "mag_err")}  # fmt: skip
    columns["mag"][0] = np.nan
    columns["mag_err"][1] = 0.0
    columns["mag_err"][2] = -1.0
    columns = {k: np.append(v, v[5]) for k, v in columns.items()}  # one detection twice
    again = Observations.from_columns(obs.tables, obs.stars, **columns)
    assert again.flag_counts() == {"NOT_FINITE": 1, "BAD_ERROR": 2, "DUPLICATE": 1}
    s = calibrate(again, [ExposureZeroPoint()])
    assert int(np.sum(s.weight > 0)) == 87
    assert "DUPLICATE" in s.summary()


def test_wrong_filter_exposures_take_no_part():
    obs, _ = survey([(0, 1, 2)], references=[0])
    tables = SurveyTables(Exposures([11, 12, 13], filter=[0, 0, 1]), obs.tables.detectors)
    stars = Stars(obs.stars.identifier, filter=np.zeros(30, int),
                  reference_mag=obs.stars.reference_mag, reference_err=0.02)  # fmt: skip
    columns = {n: getattr(obs, n) for n in
               ("star", "exposure", "detector", "x", "y", "mag", "mag_err")}  # fmt: skip
    again = Observations.from_columns(tables, stars, **columns)
    assert again.flag_counts() == {"WRONG_FILTER": 30}
    s = calibrate(again, [ExposureZeroPoint()])
    assert np.isnan(s.error("exposure_zero_point")[2])
    from pogson.calib import FluxReference

    with pytest.raises(CalibrationError, match="no detection touches"):
        s.photo_calib(13, 0, reference=FluxReference.total())


def test_unsorted_rows_and_rows_outside_the_tables_are_refused():
    tables = SurveyTables(Exposures([1]), Detectors([0]))
    common = {"detector": [0, 0], "x": 0.0, "y": 0.0, "mag": 1.0, "mag_err": 1.0}
    with pytest.raises(PogsonValueError, match="sorted by star"):
        Observations(star=[1, 0], exposure=[0, 0], tables=tables, stars=Stars([1, 2]), **common)
    with pytest.raises(PogsonValueError, match="1 rows"):
        Observations(star=[0, 1], exposure=[0, 1], tables=tables, stars=Stars([1, 2]), **common)


def test_nothing_usable():
    obs, _ = survey([(0, 1)])
    with pytest.raises(CalibrationError, match="None of the 60 detections"):
        calibrate(obs.with_flags(np.full(60, 16)), [ExposureZeroPoint()])
