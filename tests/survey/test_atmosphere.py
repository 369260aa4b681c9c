"""The physical atmosphere: published numbers, an independent model, derivatives, whole fits."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import least_squares

from pogson.calib import FluxReference
from pogson.errors import CalibrationError, ConfigError, MissingDataError, PogsonValueError
from pogson.sed import Bandpass, stellar_template, synthetic_color
from pogson.survey import (
    Detectors,
    DetectorZeroPoint,
    Exposures,
    ExposureZeroPoint,
    GreyCloud,
    Model,
    Observations,
    Stars,
    SurveyTables,
    accumulate,
    normal,
)
from pogson.survey.atmosphere import AtmosphereModel, AtmosphereState, site_pressure
from pogson.survey.atmosphere_absorption import (
    TabulatedAbsorber,
    load_absorber,
    rayleigh_depth,
)
from pogson.survey.atmosphere_fit import blind_parameters, calibrate_physical
from pogson.survey.atmosphere_term import ATMOSPHERE_PARAMETERS, Atmosphere
from pogson.survey.chromatic import ColorSeds

SEED = 20261123
BANDS = [Bandpass.from_speclite(f"decamDR1noatm-{b}") for b in "grz"]
COLOR = (Bandpass.from_speclite("sdss2010-g"), Bandpass.from_speclite("sdss2010-i"))
STANDARD = AtmosphereState(pressure=780.0)


def test_rayleigh_is_that_of_first_principles():
    """The fit in use against the full chain: refractivity, King factor, column of molecules."""
    lam = np.linspace(3000.0, 10500.0, 50)
    m2 = (lam * 1e-4) ** -2
    # Peck & Reeder (1972), with 360 instead of 300 ppm of carbon dioxide
    n = 1e-8 * (8060.51 + 2480990 / (132.274 - m2) + 17455.7 / (39.32957 - m2))
    n = 1 + n * (1 + 0.54 * (360e-6 - 300e-6))
    oxygen = 1.096 + 1.385e-3 * m2 + 1.448e-4 * m2**2
    king = 78.084 * (1.034 + 3.17e-4 * m2) + 20.946 * oxygen + 0.934 + 0.036 * 1.15
    king /= 78.084 + 20.946 + 0.934 + 0.036  # Bates (1984)
    cross = (
        24 * np.pi**3 * ((n**2 - 1) / (n**2 + 2)) ** 2 / ((lam * 1e-8) ** 4 * 2.546899e19**2) * king
    )
    molecules = 1013250.0 * 6.0221367e23 / (28.9595 * 978.916)  # g at the mean height of the air
    np.testing.assert_allclose(rayleigh_depth(lam), cross * molecules, rtol=1e-3)
    np.testing.assert_allclose(rayleigh_depth(lam, 506.625), rayleigh_depth(lam) / 2)


def test_ozone_is_that_of_the_literature():
    ozone = load_absorber("ozone")
    # Chappuis peak about 5.1e-21 cm2 at 6020 Angstrom (Gorshelev et al. 2014); Huggins: Bass & Paur
    per_dobson = ozone.depth([6020.0], 1.0)[0]
    assert per_dobson / 2.6868e16 == pytest.approx(5.1e-21, rel=0.10)
    assert ozone.depth([3255.0], 1.0)[0] / 2.6868e16 == pytest.approx(1.3e-20, rel=0.3)
    assert ozone.depth([8500.0], 300.0)[0] == 0.0


def test_transmission_agrees_with_the_published_atmosphere_of_a_survey():
    """DES's standard atmosphere, from MODTRAN, is the ratio of two published sets of curves."""
    lam, ratio = [], []
    for b in "grizY":
        bare = Bandpass.from_speclite(f"decamDR1noatm-{b}")
        with_air = Bandpass.from_speclite(f"decamDR1-{b}")
        on = bare.throughput > 0.1 * bare.throughput.max()
        lam.append(bare.wavelength[on])
        ratio.append(with_air.evaluate(bare.wavelength[on]) / bare.throughput[on])
    lam, ratio = np.concatenate(lam), np.concatenate(ratio)
    air = AtmosphereModel()

    def gap(q):
        state = AtmosphereState(
            pressure=q[4], ozone=q[1], aerosol=q[2], aerosol_exponent=q[3], water=q[0]
        )
        return q[5] * air.transmission(lam, 1.2, state) - ratio

    fit = least_squares(
        gap, [3.0, 250.0, 0.03, 1.0, 780.0, 1.0], x_scale=[1, 50, 0.01, 0.3, 50, 0.01]
    )
    water, ozone = fit.x[:2]
    assert 2.0 < water < 6.0
    assert 200 < ozone < 400
    outside = (lam < 6800) | ((lam > 7800) & (lam < 8900)) | (lam > 10000)
    assert fit.fun[outside].std() < 0.007
    assert fit.fun.std() < 0.014  # inside bands two codes of different resolution differ by 2 %


def test_user_tables_reproduce_what_they_are_made_from():
    water = load_absorber("water")
    lam = np.arange(6800.0, 10500.0, 5.0)
    amounts = np.array([0.5, 1, 2, 4, 8, 16, 32])
    mine = TabulatedAbsorber("water", lam, amounts, np.exp(-water.depth(lam, amounts, 780.0)))
    depth, slope = mine.depth_and_slope(lam, np.array([3.0, 20.0, 40.0]))
    truth, steep = water.depth_and_slope(lam, np.array([3.0, 20.0, 40.0]), 780.0)
    np.testing.assert_allclose(depth, truth, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(slope, steep, rtol=1e-9, atol=1e-12)
    dry = AtmosphereModel(water=mine)
    a = dry.transmission(lam, 1.5, AtmosphereState(pressure=780.0))
    b = AtmosphereModel().transmission(lam, 1.5, AtmosphereState(pressure=780.0))
    np.testing.assert_allclose(a, b, rtol=1e-9)


def test_derivatives_of_the_depth_are_those_of_differences():
    air, lam = AtmosphereModel(), np.linspace(3500, 10500, 400)
    base = {
        "pressure": 780.0,
        "ozone": 300.0,
        "aerosol": 0.05,
        "aerosol_exponent": 1.2,
        "water": 4.0,
    }
    _, slopes = air.depth_and_slopes(lam, 1.4, AtmosphereState(**base))
    for name in ("ozone", "aerosol", "aerosol_exponent", "water"):
        h = 1e-4 * base[name]
        low, high = (
            air.depth(lam, 1.4, AtmosphereState(**{**base, name: base[name] + s * h}))
            for s in (-1, 1)
        )
        np.testing.assert_allclose(slopes[name], (high - low) / (2 * h), rtol=1e-5, atol=1e-10)
    low, high = (air.depth(lam, x, AtmosphereState(**base)) for x in (1.3999, 1.4001))
    np.testing.assert_allclose(slopes["airmass"], (high - low) / 2e-4, rtol=1e-5)


def library(n=16):
    return [stellar_template(t) for t in np.geomspace(3550, 11500, n)]


def survey(seed=SEED, *, stars=250, exposures=60, nights=3, noise=0.005, order="first", grey=0.002,
           water=(2.0, 10.0), **settings):  # fmt: skip
    """Observations whose truth is whole-spectrum sums on a grid of 2 Angstrom."""
    rng = np.random.default_rng(seed)
    own = [stellar_template(t, metallicity=rng.uniform(-1, 0)) for t in rng.uniform(3700, 8000, 40)]
    color = np.array([synthetic_color(s, *COLOR) for s in own])
    night, band = np.arange(exposures) * nights // exposures, np.arange(exposures) % 3
    hour, airmass = rng.uniform(-4, 4, exposures), rng.uniform(1, 2, exposures)
    truth = {
        "ozone": rng.normal(260, 20, nights),
        "aerosol_exponent": rng.normal(1.0, 0.2, nights),
        "log_aerosol": rng.normal(np.log(0.03), 0.4, nights),
        "log_aerosol_slope": rng.normal(0, 0.03, nights),
        "log_water": np.log(np.linspace(*water, nights)),
        "log_water_slope": rng.normal(0, 0.05, nights),
    }
    tables = SurveyTables(
        Exposures(np.arange(exposures), mjd=60000 + night + hour / 24, airmass=airmass, night=night,
                  filter=band, filter_names=("g", "r", "z")), Detectors(np.arange(2)),
    )  # fmt: skip
    seds = ColorSeds.from_spectra(library(), BANDS, color=COLOR, order=order)
    term = Atmosphere(BANDS, seds, standard=STANDARD, **settings)
    p = np.stack([truth[k] for k in ATMOSPHERE_PARAMETERS if k in truth], axis=1)
    full = Atmosphere(BANDS, seds, standard=STANDARD)
    state = full.state(tables.exposures, p.ravel())
    air, seen, standard = AtmosphereModel(), np.empty((exposures, 40)), np.empty((3, 40))
    for f, b in enumerate(BANDS):
        lam = np.arange(*b.wavelength_range, 2.0)
        photons = np.array([s.evaluate(lam) for s in own]) * lam * b.evaluate(lam)
        rows = np.flatnonzero(band == f)
        names = ("pressure", "ozone", "aerosol", "aerosol_exponent", "water")
        part = AtmosphereState(**{k: np.asarray(getattr(state, k))[rows] for k in names})
        seen[rows] = -2.5 * np.log10(air.transmission(lam, airmass[rows], part) @ photons.T)
        standard[f] = -2.5 * np.log10(photons @ air.transmission(lam, 1.2, STANDARD))
    which, base = rng.integers(0, 40, stars), rng.uniform(15, 18, stars)
    cloud = grey * rng.normal(size=exposures)
    star, exposure = np.repeat(np.arange(stars), exposures), np.tile(np.arange(exposures), stars)
    detector, f = rng.integers(0, 2, star.size), band[exposure]
    shift = (
        (seen - standard[band])[exposure, which[star]]
        - cloud[exposure]
        - np.array([0.01, -0.01])[detector]
    )
    mag = base[star] + standard[f, which[star]] + shift - 25 + noise * rng.normal(size=star.size)
    table = Stars(np.repeat(np.arange(stars), 3), filter=np.tile(np.arange(3), stars),
                  color=np.repeat(color[which], 3))  # fmt: skip
    obs = Observations.from_columns(tables, table, star=star * 3 + f, exposure=exposure,
        detector=detector, x=5.0, y=5.0, mag=mag, mag_err=noise)  # fmt: skip
    key = table.identifier[obs.star]
    known = (seen - standard[band])[obs.exposure, which[key]] - cloud[obs.exposure]
    known -= np.array([0.01, -0.01])[obs.detector]
    return obs, term, known, truth, p.ravel()


def test_derivatives_of_the_term_are_those_of_differences():
    obs, term, _, _, p = survey(stars=40, exposures=30, nights=2)
    design = term.design(obs, p)
    per = len(term.fit)
    for j, name in enumerate(term.fit):
        h = 1e-4 * max(abs(p[j]), 1.0)
        step = np.zeros(p.size)
        step[j::per] = h
        numeric = (term.evaluate(obs, p + step) - term.evaluate(obs, p - step)) / (2 * h)
        np.testing.assert_allclose(design.values[:, j], numeric, rtol=2e-4, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("order", ["first", "full"])
def test_parameters_zero_points_and_colours_are_recovered(order):
    obs, term, known, truth, _ = survey(order=order)
    found = calibrate_physical(
        obs, [term, DetectorZeroPoint(by=()), GreyCloud(photometric_sigma=0.003)], gauge="anchor"
    )
    s = found.solution
    assert s.converged
    assert found.at_bounds == ()
    assert s.chi2 / s.degrees_of_freedom == pytest.approx(
        1.0, abs=5 * np.sqrt(2 / s.degrees_of_freedom)
    )
    night = found.nights()
    for name in ("log_aerosol", "log_water", "log_water_slope", "aerosol_exponent", "ozone"):
        z = (night[name] - truth[name]) / night[f"{name}_err"]
        assert np.all(np.abs(z) < 5), (name, z, SEED)
    assert np.all(night["log_water_err"] < 0.5)
    d = s.model.evaluate(obs, s.parameters) - known
    e, band = obs.exposure, obs.tables.exposures.filter
    count = np.bincount(e)
    zero = np.bincount(e, d) / count
    for f in range(3):
        zero[band == f] -= zero[band == f].mean()
    # noise alone: 5 mmag over the root of 250 detections an exposure is 0.32 mmag
    assert zero.std() < 1.4 * 0.005 / np.sqrt(count.mean()), SEED
    c = obs.detection_color() - (np.bincount(e, obs.detection_color()) / count)[e]
    slope = np.bincount(e, c * d) / np.bincount(e, c * c)
    assert np.abs(slope).max() < 0.0005, (order, SEED)


def test_ignoring_spectra_leaves_errors_with_colour():
    """The test above can fail: with one grey spectrum for all stars the slopes are several mmag."""
    obs, term, known, _, p = survey(stars=60)
    flat = Stars(obs.stars.identifier, filter=obs.stars.filter, color=np.full(len(obs.stars), 0.5))
    same = Observations.from_columns(obs.tables, flat, star=obs.star, exposure=obs.exposure,
        detector=obs.detector, x=0, y=0, mag=obs.mag, mag_err=0.005)  # fmt: skip
    d = term.evaluate(same, p) - known
    e, c = obs.exposure, obs.detection_color()
    c = c - (np.bincount(e, c) / np.bincount(e))[e]
    slope = np.bincount(e, c * d) / np.bincount(e, c * c)
    assert np.abs(slope).max() > 0.005


def test_colours_from_the_solution_itself():
    obs, _, _, truth, _ = survey()
    rng = np.random.default_rng(SEED)
    air = AtmosphereModel()
    inside = tuple(air.bandpass(b, 1.2, STANDARD) for b in (BANDS[0], BANDS[2]))
    seds = ColorSeds.from_spectra(library(), BANDS, color=inside)
    mine = Atmosphere(BANDS, seds, standard=STANDARD)
    g_z = np.interp(obs.stars.color, *_color_relation(inside))
    poor = np.repeat(g_z[::3] + 0.3 * rng.normal(size=g_z.size // 3), 3)
    stars = Stars(obs.stars.identifier, filter=obs.stars.filter, color=poor)
    start = Observations.from_columns(obs.tables, stars, star=obs.star, exposure=obs.exposure,
        detector=obs.detector, x=0, y=0, mag=obs.mag, mag_err=0.005)  # fmt: skip
    model = [mine, DetectorZeroPoint(by=()), GreyCloud(photometric_sigma=0.003)]
    found = calibrate_physical(start, model, gauge="anchor", color_filters=(0, 2))
    assert 1 < found.rounds < 8
    assert found.color_change <= 0.002
    better = found.solution.observations.stars.color - g_z
    assert np.std(better) < 0.08  # the spectra's own spread about the sequence
    z = (found.nights()["log_water"] - truth["log_water"]) / found.nights()["log_water_err"]
    assert np.all(np.abs(z) < 8)


def _color_relation(inside):
    stars = library(40)
    gi = np.array([synthetic_color(s, *COLOR) for s in stars])
    gz = np.array([synthetic_color(s, *inside) for s in stars])
    order = np.argsort(gi)
    return gi[order], gz[order]


def test_bounds_hold_and_blind_parameters_are_named():
    obs, term, _, _, _ = survey(bounds={"log_water": (np.log(1.0), np.log(5.0))})
    model = [term, DetectorZeroPoint(by=()), GreyCloud(photometric_sigma=0.003)]
    found = calibrate_physical(obs, model, gauge="anchor")
    assert "atmosphere[night2;log_water]" in found.at_bounds
    assert found.nights()["log_water"].max() <= np.log(5.0) + 1e-6
    blue = Atmosphere(BANDS[:1], ColorSeds.from_spectra(library(), BANDS[:1], color=COLOR))
    tables = SurveyTables(Exposures([1, 2], airmass=[1.0, 1.6]), Detectors([0]))
    names = blind_parameters(Model([blue], tables))
    assert any("log_water]" in n for n in names)
    assert not any("log_aerosol]" in n or "ozone" in n for n in names)


def test_degenerate_combinations_are_named_before_solving():
    obs, term, _, _, _ = survey(stars=30)
    with pytest.raises(CalibrationError, match="exposure_zero_point"):
        calibrate_physical(obs, [term, ExposureZeroPoint()])
    with pytest.raises(ConfigError, match="0 Atmosphere terms"):
        calibrate_physical(obs, [ExposureZeroPoint()])


def test_calibration_of_an_image_includes_the_atmosphere():
    obs, term, _, _, _ = survey(stars=60, noise=0.001, grey=0.0)
    s = calibrate_physical(obs, [term, GreyCloud(photometric_sigma=0.001)], gauge="anchor").solution
    p = s["atmosphere"]
    calib = [s.photo_calib(e, 0, reference=FluxReference.total()) for e in (0, 3, 6)]
    flat = [term.grey(e, 0, obs.tables, p)[0] + s["grey_cloud"][e] for e in (0, 3, 6)]
    mags = [2.5 * np.log10(float(c.field(x=5.0, y=5.0))) for c in calib]
    np.testing.assert_allclose(np.diff(mags), np.diff(flat), atol=1e-9)
    # the error of the atmosphere travels along
    assert calib[0].covariance is not None
    assert any("log_water" in n for n in calib[0].covariance.names)


def test_two_ways_to_the_normal_equations(monkeypatch):
    obs, term, _, _, _ = survey(stars=30, exposures=120, nights=1)
    model = Model([term, GreyCloud()], obs.tables)
    monkeypatch.setattr(normal, "_DENSE", 10**9)
    a = accumulate(model, obs)
    monkeypatch.setattr(normal, "_DENSE", 0)
    b = accumulate(model, obs)
    scale = np.sqrt(np.outer(np.diag(b.matrix), np.diag(b.matrix)))
    assert not np.array_equal(np.triu(a.matrix), np.triu(b.matrix))  # both ways were gone
    assert np.max(np.abs(np.triu(a.matrix - b.matrix) / scale)) < 1e-10
    np.testing.assert_allclose(a.vector, b.vector, rtol=1e-9, atol=1e-9 * np.abs(b.vector).max())
    np.testing.assert_allclose(a.information, b.information, rtol=1e-12)


def test_airmass_of_each_detection_and_of_each_detector():
    obs, term, _, _, p = survey(stars=30, exposures=12, nights=1)
    mine = obs.detection_airmass() + 0.03
    near = Observations.from_columns(obs.tables, obs.stars, star=obs.star, exposure=obs.exposure,
        detector=obs.detector, x=0, y=0, mag=obs.mag, mag_err=0.005, airmass=mine)  # fmt: skip
    e = obs.tables.exposures
    moved = SurveyTables(
        Exposures(
            e.identifier, mjd=e.mjd, airmass=e.airmass + 0.03, night=e.night, filter=e.filter
        ),
        obs.tables.detectors,
    )
    there = Observations.from_columns(moved, obs.stars, star=obs.star, exposure=obs.exposure,
        detector=obs.detector, x=0, y=0, mag=obs.mag, mag_err=0.005)  # fmt: skip
    np.testing.assert_allclose(term.evaluate(near, p), term.evaluate(there, p), atol=3e-5)
    red = Bandpass("r", BANDS[1].wavelength + 30.0, BANDS[1].throughput)
    pairs = [(b, b) for b in BANDS[:1]] + [(BANDS[1], red), (BANDS[2],) * 2]
    each = Atmosphere(
        pairs, ColorSeds.from_spectra(library(), pairs, color=COLOR), standard=STANDARD
    )
    d = each.evaluate(obs, p) - term.evaluate(obs, p)
    in_r = obs.exposure_column("filter") == 1
    assert np.abs(d[~in_r]).max() < 1e-9
    assert np.abs(d[in_r & (obs.detector == 1)]).max() > 1e-3


def test_bad_input_says_what_is_wrong():
    seds = ColorSeds.from_spectra(library(4), BANDS, color=COLOR)
    with pytest.raises(ConfigError, match="parameter 'dust'"):
        Atmosphere(BANDS, seds, fit=("dust",))
    with pytest.raises(ConfigError, match="must enclose"):
        Atmosphere(BANDS, seds, bounds={"ozone": (300.0, 400.0)})
    with pytest.raises(ConfigError, match="2 bandpasses and spectra for 3"):
        Atmosphere(BANDS[:2], seds)
    with pytest.raises(PogsonValueError, match="water of the atmosphere runs from -1"):
        AtmosphereState(water=-1.0)
    with pytest.raises(MissingDataError, match="table of 'argon'"):
        load_absorber("argon")
    with pytest.raises(PogsonValueError, match="altitude of 20000"):
        site_pressure(20000)
    with pytest.raises(PogsonValueError, match=r"transmissions in \(0, 1\]"):
        TabulatedAbsorber("x", [1.0, 2.0], [1.0], [[0.0, 1.0]])
    tables = SurveyTables(Exposures([1], filter=[5]), Detectors([0]))
    with pytest.raises(PogsonValueError, match="filters up to 5"):
        Atmosphere(BANDS, seds).integrals(tables.exposures)
