"""Every kind of term: one contract, and the physics it stands for."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pogson.errors import ConfigError, MissingDataError, PogsonValueError
from pogson.fields import Box, ChebyshevField, ConstantField
from pogson.survey import (
    AirmassExtinction,
    BackgroundOffset,
    ColorFlat,
    ColorSlope,
    Detectors,
    DetectorZeroPoint,
    ExposurePolynomial,
    Exposures,
    ExposureZeroPoint,
    GreyCloud,
    KnownJacobian,
    MirrorDecay,
    Model,
    Observations,
    RadialFlat,
    SeeingTerm,
    StarFlat,
    Stars,
    SurveyTables,
    TemplateFlat,
    calibrate,
)

BOX = Box(0, 0, 200, 100)
RINGS = tuple(
    {1: ChebyshevField(BOX, [[0.0, 0.01 * k], [0.02, 0.0]]), 3: ConstantField(BOX, 0.01 * k)}
    for k in (1, 2)
)
AREAS = {d: ChebyshevField(BOX, [[1.0, 0.01 * d]]) for d in (1, 2, 3)}

KINDS = {
    "zero": ExposureZeroPoint(),
    "zero per detector": ExposureZeroPoint(per="exposure_detector"),
    "detector": DetectorZeroPoint(),
    "cloud": GreyCloud(),
    "cloud per detector": GreyCloud(per="exposure_detector"),
    "extinction": AirmassExtinction(),
    "extinction with drift": AirmassExtinction(slope=True),
    "mirror": MirrorDecay(),
    "polynomial": ExposurePolynomial(order=3),
    "polynomial per detector": ExposurePolynomial(order=2, frame="detector", constant=True),
    "star flat": StarFlat(order=3),
    "star flat with constant": StarFlat(order=1, constant=True),
    "radial": RadialFlat(order=2),
    "rings": TemplateFlat(templates=RINGS),
    "rings per detector": TemplateFlat(templates=RINGS, per_detector=True),
    "jacobian": KnownJacobian(areas=AREAS),
    "colour": ColorSlope(order=2, pivot=0.7),
    "colour of the camera": ColorSlope(per_detector=False),
    "seeing": SeeingTerm(),
    "background": BackgroundOffset(),
}


@pytest.fixture(scope="module")
def obs():
    rng = np.random.default_rng(4)
    angle = 0.3
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * 0.004
    transform = np.stack([np.column_stack([turn, [-0.9 + 0.6 * k, -0.2]]) for k in range(3)])
    exposures = Exposures(
        [11, 12, 13, 14], mjd=[1.0, 1.1, 2.0, 2.2], airmass=[1.0, 1.5, 1.2, 1.9],
        night=[0, 0, 1, 1], epoch=[0, 0, 0, 1], filter=[0, 1, 0, 1], seeing=[0.8, 1.0, 1.2, 0.9],
        filter_names=("g", "r"),
    )  # fmt: skip
    tables = SurveyTables(exposures, Detectors([1, 2, 3], BOX, transform))
    n = 400
    return Observations.from_columns(
        tables, Stars(np.arange(100), color=rng.uniform(0, 2, 100)), star=rng.integers(0, 100, n),
        exposure=rng.integers(0, 4, n), detector=rng.integers(0, 3, n), x=rng.uniform(0, 199, n),
        y=rng.uniform(0, 99, n), mag=rng.uniform(-12, -8, n), mag_err=0.01,
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_contract(kind, obs):
    """Names, sizes, aligned runs, and evaluate = design @ parameters = local fields."""
    term, tables = KINDS[kind], obs.tables
    size = term.size(tables)
    assert len(term.parameter_names(tables)) == size
    assert len(set(term.parameter_names(tables))) == size
    d = term.design(obs)
    assert d.base.dtype == np.int32
    assert d.base.shape == (len(obs),)
    used = d.base >= 0
    assert np.all(d.base[used] % d.width == 0)
    assert np.all(d.base[used] + d.width <= size)
    if d.values is not None:
        assert d.values.shape == (len(obs), d.width)
    mean, sigma = term.prior(tables)
    assert mean.shape == sigma.shape == (size,)
    assert str(size) in term.describe(tables)
    p = np.random.default_rng(1).normal(size=size)
    ours = term.evaluate(obs, p) if size else np.zeros(len(obs))
    dense = np.zeros((len(obs), size))
    for j in range(d.width if size else 0):
        v = d.constant if d.values is None else d.values[:, j]
        dense[np.arange(len(obs)), d.base + j] += v
    np.testing.assert_allclose(ours, dense @ p, atol=1e-12)
    known = term.offset(obs)
    for e in range(4):
        for k in range(3):
            here = term.local(e, k, tables)
            on = (obs.exposure == e) & (obs.detector == k)
            x, y = obs.x[on], obs.y[on]
            if here.factor is not None:
                np.testing.assert_allclose(
                    2.5 * np.log10(here.factor(x=x, y=y)), known[on], atol=1e-12
                )
            if here.base < 0 or any(f is None for f in here.fields):
                continue
            assert np.all(d.base[on] == here.base)
            value = sum(p[here.base + j] * f(x=x, y=y) for j, f in enumerate(here.fields))
            np.testing.assert_allclose(value, ours[on], atol=1e-9)


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("jacobian", "background")])
def test_a_term_is_recovered_without_noise(kind, obs):
    """Magnitudes made by the term are explained by it to rounding, beside zero points."""
    term, tables = KINDS[kind], obs.tables
    rng = np.random.default_rng(9)
    p = 0.1 * rng.normal(size=term.size(tables))
    scale = np.abs(Model([term], tables).evaluate(obs, p)).max()
    p *= 0.1 / scale
    truth = rng.uniform(15, 20, 100)
    base = truth[obs.star] - 25.0
    signal = term.evaluate(obs, p)
    columns = {n: getattr(obs, n) for n in ("star", "exposure", "detector", "x", "y")}
    again = Observations.from_columns(
        tables, Stars(np.arange(100), color=obs.stars.color, reference_mag=truth,
                      reference_err=1e-3),
        mag=base + signal, mag_err=1e-3, **columns,
    )  # fmt: skip
    settings = {"prior_sigma": 10.0, "photometric_sigma": 10.0, "gauge": False}
    loose = dataclasses.replace(term, **{k: v for k, v in settings.items() if hasattr(term, k)})
    s = calibrate(again, [loose, ExposureZeroPoint("level", prior_mean=25.0, prior_sigma=1.0)])
    assert np.sqrt(np.mean((s.stars.mag - truth)[s.stars.detections > 0] ** 2)) < 1e-4
    on = s.weight > 0
    assert np.sqrt(np.mean(s.residual[on] ** 2)) < 1e-4


def test_signs_mean_what_they_say(obs):
    tables = obs.tables
    one = lambda t, p: Model([t], tables).evaluate(obs, np.asarray(p, float))  # noqa: E731
    assert np.all(one(ExposureZeroPoint(), [25.0] * 4) == -25.0)
    k = one(AirmassExtinction(by=()), [0.1])
    np.testing.assert_allclose(k, 0.1 * (obs.detection_airmass() - 1.0))
    assert np.all(one(GreyCloud(), [0.2] * 4) == 0.2)
    # a positive background makes sources brighter, more so the faint ones
    b = one(BackgroundOffset(by=()), [10.0] * 3)
    flux = 10.0 ** (-0.4 * obs.mag)
    exact = -2.5 * np.log10(flux) + 2.5 * np.log10(flux - 10.0)
    assert np.all(b < 0)
    np.testing.assert_allclose(b, exact, rtol=0.01)


def test_large_pixels_make_stars_faint_on_a_sky_flat(obs):
    offset = KnownJacobian(areas={d: ConstantField(BOX, 1.1) for d in (1, 2, 3)}).offset(obs)
    np.testing.assert_allclose(offset, 2.5 * np.log10(1.1))
    pairs = {(e, d): ConstantField(BOX, 1.0 + 0.1 * (e == 12)) for e in (11, 12, 13, 14)
             for d in (1, 2, 3)}  # fmt: skip
    per = KnownJacobian(areas=pairs).offset(obs)
    np.testing.assert_allclose(
        per, np.where(obs.exposure == 1, 2.5 * np.log10(1.1), 0.0), atol=1e-15
    )
    with pytest.raises(ConfigError, match="no pixel area for detector"):
        KnownJacobian(areas={1: ConstantField(BOX, 1.0)}).offset(obs)


def test_clouds_follow_photometric_exposures():
    """Clouds of 0.05 - 0.3 mag do not bias the photometric exposures by more than 1 mmag."""
    rng = np.random.default_rng(8)
    clouds = np.array([0, 0, 0, 0.05, 0.3, 0.12])
    tables = SurveyTables(Exposures(np.arange(6), photometric=clouds == 0), Detectors([0]))
    truth = rng.uniform(15, 19, 2000)
    star, exposure = np.repeat(np.arange(2000), 6), np.tile(np.arange(6), 2000)
    obs = Observations.from_columns(
        tables, Stars(np.arange(2000)), star=star, exposure=exposure, detector=0, x=0, y=0,
        mag=truth[star] - 25.0 + clouds[exposure] + 0.005 * rng.normal(size=star.size),
        mag_err=0.005,
    )  # fmt: skip
    term = GreyCloud(photometric_sigma=0.002)
    s = calibrate(obs, [term, ExposureZeroPoint("level", prior_mean=25.0, prior_sigma=1e-9)])
    found = s["grey_cloud"]
    assert np.all(np.abs(found[:3]) < 0.001)
    np.testing.assert_allclose(found[3:] - found[:3].mean(), clouds[3:], atol=0.001)
    assert list(term.photometric(tables, found, 0.01)) == list(clouds == 0)


def test_exposures_that_were_not_seen_are_not_photometric():
    tables = SurveyTables(Exposures([1, 2, 3, 4], night=[0, 0, 0, 1]), Detectors([1, 2]))
    term = GreyCloud(per="exposure_detector")
    clouds = [np.nan, np.nan, 0.30, np.nan, 0.31, 0.30, np.nan, np.nan]
    np.testing.assert_array_equal(
        term.photometric(tables, clouds, 0.02), [False, True, True, False]
    )
    far = [np.nan, np.nan, 0.30, np.nan, 0.35, 0.30, np.nan, np.nan]
    np.testing.assert_array_equal(term.photometric(tables, far, 0.02), [False, True, False, False])


def test_stars_without_colour_are_left_out_and_counted(obs):
    color = np.array(obs.stars.color)
    color[:10] = np.nan
    columns = {n: getattr(obs, n) for n in ("star", "exposure", "detector", "x", "y", "mag")}
    again = Observations.from_columns(obs.tables, Stars(np.arange(100), color=color), mag_err=0.01,
                                      **columns)  # fmt: skip
    s = calibrate(again, [ExposureZeroPoint(prior_sigma=1.0), ColorSlope()])
    assert s.missing_input == np.count_nonzero((obs.star < 10) & obs.usable)
    assert np.all(s.weight[obs.star < 10] == 0)


def test_names_of_exposures_and_detectors_are_those_of_parameters():
    tables = SurveyTables(Exposures([1, 2], names=("a", "b")), Detectors([1], names=("N1",)))
    assert ExposureZeroPoint(per="exposure_detector").parameter_names(tables) == ["a,N1", "b,N1"]
    assert StarFlat(order=1).parameter_names(tables)[0] == "0,epoch0;N1;T10"
    assert Exposures([7]).labels == ["7"]
    with pytest.raises(PogsonValueError, match="2 names, 1 of them different, for 2 exposures"):
        Exposures([1, 2], names=("a", "a"))
    with pytest.raises(PogsonValueError, match="for 1 detectors"):
        Detectors([1], names=("a", "b"))


def test_settings_and_names_are_checked(obs):
    with pytest.raises(ConfigError, match="'exposure' or 'exposure_detector'"):
        ExposureZeroPoint(per="night")
    with pytest.raises(ConfigError, match="no parameters"):
        ExposurePolynomial(order=0)
    with pytest.raises(ConfigError, match="prior sigmas positive"):
        Model([ExposureZeroPoint(prior_sigma=0.0)], obs.tables).prior()
    for made in (ColorSlope, RadialFlat, ColorFlat, StarFlat):
        with pytest.raises(ConfigError, match="order 0 has no parameters"):
            made(order=0)
        with pytest.raises(ConfigError, match=r"order 1\.5 must be a whole number"):
            made(order=1.5)
    assert StarFlat(order=0, constant=True, by=()).size(obs.tables) == 3
    with pytest.raises(ConfigError, match="by names 'fitler'; allowed: 'night', 'epoch'"):
        DetectorZeroPoint(by=("fitler",)).size(obs.tables)
    with pytest.raises(ConfigError, match=r"shapes \(\) and \(2,\); give one number, or one for"):
        Model([ExposureZeroPoint(prior_sigma=[0.1, 0.2])], obs.tables).prior()
    for wrong in (-0.1, 0.0, np.nan):
        with pytest.raises(ConfigError, match="photometric_sigma is"):
            GreyCloud(photometric_sigma=wrong)
        with pytest.raises(ConfigError, match="slope_sigma is"):
            AirmassExtinction(slope=True, slope_sigma=wrong)
    with pytest.raises(ConfigError, match="no parameters; give at least one"):
        Model([KnownJacobian(areas=AREAS)], obs.tables)
    with pytest.raises(MissingDataError, match="No term 'flat'"):
        Model([ExposureZeroPoint()], obs.tables).term("flat")
