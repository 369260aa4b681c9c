"""Floors, rejection, references, held-out validation and the calibrations handed on."""

from __future__ import annotations

import numpy as np
import pytest

from pogson.calib import FluxReference, PhotoCalib
from pogson.errors import ConfigError, MissingDataError
from pogson.fields import Box, ChebyshevField
from pogson.survey import (
    Detectors,
    DetectorZeroPoint,
    ExposurePolynomial,
    Exposures,
    ExposureZeroPoint,
    KnownJacobian,
    Observations,
    SolveSettings,
    Stars,
    SurveyTables,
    calibrate,
)

SEED = 20261121


def survey(seed=SEED, *, stars=1500, exposures=8, detectors=4, floor=(0.004, 0.012), refs=0.3):
    rng = np.random.default_rng(seed)
    zero = 25.0 + 0.1 * rng.normal(size=exposures)
    category = np.arange(exposures) % 2
    tables = SurveyTables(
        Exposures(np.arange(exposures) + 100, category=category),
        Detectors(np.arange(detectors) + 1, Box(0, 0, 1000, 1000)),
    )
    truth = rng.uniform(15, 19, stars)
    star, exposure = np.repeat(np.arange(stars), exposures), np.tile(np.arange(exposures), stars)
    n = star.size
    err = rng.uniform(0.002, 0.01, n)
    total = np.hypot(err, np.asarray(floor)[category[exposure]])
    reference = np.where(rng.random(stars) < refs, truth + 0.02 * rng.normal(size=stars), np.nan)
    columns = {
        "star": star, "exposure": exposure, "detector": rng.integers(0, detectors, n),
        "x": rng.uniform(0, 999, n), "y": rng.uniform(0, 999, n),
        "mag": truth[star] - zero[exposure] + total * rng.normal(size=n), "mag_err": err,
    }  # fmt: skip
    table = Stars(np.arange(stars), reference_mag=reference, reference_err=0.02,
                  ra=10 + rng.random(stars), dec=rng.random(stars))  # fmt: skip
    return tables, table, columns, truth, zero


def test_floor_per_exposure_class_is_recovered():
    tables, stars, columns, _, _ = survey()
    s = calibrate(Observations.from_columns(tables, stars, **columns), [ExposureZeroPoint()],
                  floor="fit")  # fmt: skip
    assert s.converged
    # 6000 detections a class: relative error of a variance sqrt(2 / 5250), of the floor less than
    # (total / floor)^2 times half of it: 0.05 and 0.012
    assert s.weighting.floor == pytest.approx((0.004, 0.012), rel=0.15)
    assert s.chi2 / s.degrees_of_freedom == pytest.approx(1.0, abs=5 * np.sqrt(2 / 10_000))


def test_reference_floor_is_recovered():
    tables, stars, columns, _, _ = survey(refs=1.0)
    stars = Stars(stars.identifier, reference_mag=stars.reference_mag, reference_err=0.005)
    s = calibrate(Observations.from_columns(tables, stars, **columns), [ExposureZeroPoint()],
                  floor=[0.004, 0.012], reference_floor="fit")  # fmt: skip
    assert s.weighting.reference_floor == pytest.approx(np.sqrt(0.02**2 - 0.005**2), rel=0.1)


def test_outliers_are_rejected_and_listed():
    tables, stars, columns, _, zero = survey()
    rng = np.random.default_rng(5)
    bad = rng.choice(columns["mag"].size, 100, replace=False)
    columns["mag"] = columns["mag"].copy()
    columns["mag"][bad] += rng.choice([-1, 1], 100) * rng.uniform(0.2, 2.0, 100)
    variable = 17
    on = columns["star"] == variable
    columns["mag"][on] += 0.3 * np.sin(np.arange(on.sum()))
    reference = np.array(stars.reference_mag)
    mismatched = int(np.flatnonzero(np.isfinite(reference))[3])
    reference[mismatched] += 1.0
    stars = Stars(stars.identifier, reference_mag=reference, reference_err=0.02)
    obs = Observations.from_columns(tables, stars, **columns)
    s = calibrate(obs, [ExposureZeroPoint()], floor="fit", reject_sigma=5.0)
    assert s.converged
    rejected = (s.observations.flags & 16) > 0
    assert rejected[bad].all()
    wrong = rejected.copy()
    wrong[bad] = wrong[on] = False
    assert wrong.sum() <= 3  # 12000 detections at 5 sigma: 0.007 expected
    suspects = s.suspect_stars()
    assert variable in suspects
    assert mismatched in suspects
    assert s.rejected_references[mismatched]
    assert s.rejected_references.sum() == 1
    np.testing.assert_allclose(s["exposure_zero_point"], zero, atol=0.005)
    robust = calibrate(obs, [ExposureZeroPoint()], floor=[0.004, 0.012], huber=2.0)
    np.testing.assert_allclose(robust["exposure_zero_point"], zero, atol=0.01)


def test_at_most_one_rejection_per_touched_parameter_in_a_pass():
    """With no influence threshold and one pass, one detection an exposure goes."""
    tables, stars, columns, _, _ = survey(exposures=4, stars=300)
    columns["mag"] = columns["mag"].copy()
    columns["mag"][columns["star"] < 40] += np.tile([1.0, 0, 0, 0], 40)
    obs = Observations.from_columns(tables, stars, **columns)
    s = calibrate(obs, [ExposureZeroPoint()], floor=0.01, reject_sigma=5.0, influence=0.0,
                  max_passes=2)  # fmt: skip
    flagged = (s.observations.flags & 16) > 0
    assert 1 <= np.bincount(obs.exposure[flagged], minlength=4).max() <= 1
    assert not s.converged


def test_held_out_stars_are_predicted_to_their_errors():
    """PIT of held-out stars uniform; a floor left out makes it fail, so the test can fail."""
    print("seed", SEED)
    tables, stars, columns, _, _ = survey(stars=3000)
    obs = Observations.from_columns(tables, stars, **columns)
    terms = [ExposureZeroPoint(), DetectorZeroPoint(), ExposurePolynomial(order=1)]
    good = calibrate(obs, terms, floor="fit", held_out=0.2, seed=SEED).validate(SEED)
    assert good.z.size > 500
    assert good.p_value > 0.01, good.p_value
    bad = calibrate(obs, terms, floor=0.0, held_out=0.2, seed=SEED).validate(SEED)
    assert bad.p_value < 1e-3
    with pytest.raises(MissingDataError, match="held_out"):
        calibrate(obs, terms, floor=0.01).validate()


def test_shared_error_enters_the_prediction():
    """Few stars: parameter errors dominate, and the prediction still has unit scatter."""
    z = []
    for k in range(30):
        tables, stars, columns, _, _ = survey(SEED + k, stars=40, exposures=5, floor=(0.0, 0.0))
        columns["mag_err"] = np.hypot(columns["mag_err"], 0)
        obs = Observations.from_columns(tables, stars, **columns)
        terms = [ExposureZeroPoint(per="exposure_detector", prior_sigma=1.0, prior_mean=25.0)]
        z.append(calibrate(obs, terms, held_out=0.5, seed=k).validate(k).z)
    z = np.concatenate(z)
    assert z.size > 400
    assert np.std(z) == pytest.approx(1.0, abs=0.15)


def test_reference_offset_in_a_region_is_seen_and_not_absorbed():
    tables, stars, columns, truth, zero = survey(refs=1.0)
    reference = np.array(stars.reference_mag)
    region = (stars.ra < 10.3) & (stars.dec < 0.3)
    reference[region] += 0.1
    stars = Stars(stars.identifier, reference_mag=reference, reference_err=0.02, ra=stars.ra,
                  dec=stars.dec)  # fmt: skip
    s = calibrate(Observations.from_columns(tables, stars, **columns), [ExposureZeroPoint()],
                  floor="fit", reference_floor="fit")  # fmt: skip
    mean, error, count = s.reference_map(10)
    shift = 0.1 * region.mean()
    assert count.sum() == 1500
    inside, outside = mean[:3, :3], mean[4:, 4:]
    assert np.nanmean(inside) == pytest.approx(0.1 - shift, abs=0.01)
    assert np.nanmean(outside) == pytest.approx(-shift, abs=0.01)
    assert np.isfinite(error).any()
    # the region moves the whole scale by its share and no star of it by the offset
    assert np.nanmean((s.stars.mag - truth)[region]) == pytest.approx(shift, abs=0.006)
    assert s["exposure_zero_point"] == pytest.approx(zero + shift, abs=0.006)


def test_reference_map_has_no_seam():
    tables, stars, columns, _, _ = survey(refs=1.0)
    maps = []
    for shift in (0.0, -10.3):  # across right ascension 0
        moved = Stars(stars.identifier, reference_mag=stars.reference_mag, reference_err=0.02,
                      ra=(stars.ra + shift) % 360.0, dec=stars.dec)  # fmt: skip
        s = calibrate(Observations.from_columns(tables, moved, **columns), [ExposureZeroPoint()])
        maps.append(s.reference_map(5))
    assert np.ptp((stars.ra - 10.3) % 360.0) > 300.0
    np.testing.assert_array_equal(maps[0][2], maps[1][2])
    np.testing.assert_allclose(maps[0][0], maps[1][0], atol=1e-9)


def test_photo_calib_carries_jacobian_terms_and_covariance(tmp_path):
    tables, stars, columns, truth, _ = survey(refs=1.0)
    box = Box(0, 0, 1000, 1000)
    area = ChebyshevField(box, [[1.0, 0.05], [0.02, 0.0]])
    columns["mag"] = columns["mag"] + 2.5 * np.log10(area(x=columns["x"], y=columns["y"]))
    obs = Observations.from_columns(tables, stars, **columns)
    terms = [ExposureZeroPoint(), ExposurePolynomial(order=2), DetectorZeroPoint(),
             KnownJacobian(areas={1: area, 2: area, 3: area, 4: area})]  # fmt: skip
    s = calibrate(obs, terms, floor=[0.004, 0.012])
    calib = s.photo_calib(103, 2, reference=FluxReference.total())
    on = (obs.exposure == 3) & (obs.detector == 1)
    flux = 10.0 ** (-0.4 * obs.mag[on])
    x, y = obs.x[on], obs.y[on]
    ours = calib.magnitude(flux, x=x, y=y)
    expected = obs.mag[on] - s.model.evaluate(obs, s.parameters)[on]
    np.testing.assert_allclose(ours, expected, atol=1e-7)
    assert abs(np.mean(ours - truth[obs.star[on]])) < 0.005
    without = s.photo_calib(103, 2, reference=FluxReference.total(), jacobian=False)
    np.testing.assert_allclose(
        calib.field(x=x, y=y) / without.field(x=x, y=y), area(x=x, y=y), rtol=1e-12
    )
    assert calib.covariance.names[0] == "exposure_zero_point[103]"
    relative = calib.relative_error(x=500.0, y=500.0)
    columns_ = [3, *range(8 + 3 * 5, 8 + 4 * 5), 8 * 6 + 1]
    v = np.concatenate([[-1.0], -np.zeros(0)])
    del v
    design = [f(x=500.0, y=500.0) for f in calib.covariance.terms]
    block = s.covariance.block(columns_)
    assert relative == pytest.approx(np.sqrt(design @ block @ design), rel=1e-9)
    calib.write(tmp_path / "calib.fits")
    assert PhotoCalib.read(tmp_path / "calib.fits") == calib


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="'refuse' or 'anchor'"):
        SolveSettings(gauge="hope")
    with pytest.raises(ConfigError, match="held_out"):
        SolveSettings(held_out=1.0)
    with pytest.raises(ConfigError, match="'fit'"):
        SolveSettings(floor="guess")
    with pytest.raises(ConfigError, match="reject_sigma"):
        SolveSettings(reject_sigma=-1.0)
