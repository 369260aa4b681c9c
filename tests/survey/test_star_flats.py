"""Star flats from dithered exposures and from one frame; apart from pixel areas and grey terms."""

from __future__ import annotations

import json

import numpy as np
import pytest
from astropy.table import Table

from pogson.calib import FluxReference
from pogson.errors import (
    CalibrationError,
    ConfigError,
    FileFormatError,
    MeasureError,
    MissingDataError,
)
from pogson.fields import Box, ChebyshevField, ConstantField, TableField, field_from_dict
from pogson.images import Exposure
from pogson.survey import (
    AirmassExtinction,
    Detectors,
    Exposures,
    ExposureZeroPoint,
    KnownJacobian,
    Observations,
    SolveSettings,
    Stars,
    SurveyTables,
    calibrate,
)
from pogson.survey.color_flat import ColorFlat
from pogson.survey.star_flats import DetectorFlat, StarFlats, derive_star_flats, solve_star_flats
from pogson.units import magnitude_to_flux

SEED = 20261121
BOX = Box(0, 0, 400, 800)
LCO = "lco-catalog/cpt1m012-fa06-20200113-0102-matched-cat.fits"


def dithered(seed=SEED, exposures=10, stars=3000, refs=0.3, areas=None, color=0.0):
    """Four detectors, dithered at random, through a known star flat."""
    rng = np.random.default_rng(seed)
    tables = SurveyTables(
        Exposures(np.arange(exposures) + 1, airmass=rng.uniform(1, 1.6, exposures),
                  filter_names=("r",)),
        Detectors(np.array([11, 12, 13, 14]), (BOX,) * 4),
    )  # fmt: skip
    c = 0.02 * rng.normal(size=(4, 3, 3))
    for j in range(3):
        c[:, j, 3 - j :] = 0.0
    flat = [ChebyshevField(BOX, k) for k in c]
    zero = 25.0 + 0.1 * rng.normal(size=exposures)
    star, e = np.repeat(np.arange(stars), exposures), np.tile(np.arange(exposures), stars)
    d = rng.integers(0, 4, star.size)
    x, y = rng.uniform(0, 399, star.size), rng.uniform(0, 799, star.size)
    truth, hue = rng.uniform(15, 19, stars), rng.uniform(0, 2, stars)
    mag = truth[star] - zero[e]
    for k in range(4):
        on = d == k
        mag[on] -= flat[k](x=x[on], y=y[on])
        mag[on] -= color * (k - 1.5) * x[on] / 200 * (hue[star[on]] - 1.0)
        if areas is not None:
            mag[on] += 2.5 * np.log10(areas[k](x=x[on], y=y[on]))
    err = rng.uniform(0.002, 0.01, star.size)
    known = rng.random(stars) < refs
    obs = Observations.from_columns(
        tables,
        Stars(np.arange(stars), color=hue, reference_err=np.full(stars, 0.01),
              reference_mag=np.where(known, truth + 0.01 * rng.normal(size=stars), np.nan)),
        star=star, exposure=e, detector=d, x=x, y=y, mag=mag + err * rng.normal(size=star.size),
        mag_err=err,
    )  # fmt: skip
    return obs, flat, zero, truth


def grid():
    x, y = np.meshgrid(np.linspace(0, 399, 9), np.linspace(0, 799, 11))
    return x.ravel(), y.ravel()


def test_flat_apart_from_area_and_zero_points():
    """What is derived is the star flat alone, with errors that are right."""
    print("seed", SEED)
    areas = [ChebyshevField(BOX, [[1.0, 0.04], [0.02 * k, 0.0]]) for k in range(4)]
    obs, flat, zero, _ = dithered(areas=areas)
    by_number = {11 + k: areas[k] for k in range(4)}
    solution, flats = solve_star_flats(obs, order=2, areas=by_number, settings=SolveSettings())
    x, y = grid()
    z, difference = [], []
    common = np.mean([f.coefficients[0, 0] for f in flat])
    for k in range(4):
        one = flats.get("r", 11 + k)
        d = one.magnitudes(x=x, y=y) - (flat[k](x=x, y=y) - common)
        difference.append(d)
        z.append(d / one.error(x=x, y=y))
    assert np.std(difference) < 0.0005
    assert np.sqrt(np.mean(np.square(z))) == pytest.approx(1.0, abs=0.35)  # 24 parameters
    assert solution["exposure_zero_point"] == pytest.approx(zero + common, abs=0.002)
    # without the areas they go into the star flat
    _, mixed = solve_star_flats(obs, order=2, settings=SolveSettings())
    both = [mixed.get("r", 11 + k).magnitudes(x=x, y=y) for k in range(4)]
    expected = [flat[k](x=x, y=y) - 2.5 * np.log10(areas[k](x=x, y=y)) for k in range(4)]
    left = np.array(both) - np.array(expected)
    assert np.std(left) < 0.001
    assert np.std(np.array(both) - [flat[k](x=x, y=y) for k in range(4)]) > 0.01


def test_undithered_exposures_are_refused_by_name():
    obs, *_ = dithered(exposures=2, stars=300, refs=0.0)
    first = obs.exposure == 0
    with pytest.raises(CalibrationError, match="exposure_zero_point"):
        solve_star_flats(obs.with_flags(np.where(first, 0, 1)), order=1)


def test_terms_that_are_no_star_flat():
    obs, *_ = dithered(exposures=3, stars=300)
    only = calibrate(obs, [ExposureZeroPoint()])
    with pytest.raises(ConfigError, match="no term that is a star flat"):
        derive_star_flats(only)
    night = calibrate(obs, [ExposureZeroPoint(), AirmassExtinction(prior_sigma=0.1)])
    with pytest.raises(ConfigError, match="filter and epoch only"):
        derive_star_flats(night, ["airmass_extinction"])


def test_files(tmp_path):
    obs, *_ = dithered(stars=500)
    ring = TableField(BOX, "radius", 0.0, 20.0, np.sin(np.arange(50.0)), (-50.0, -50.0))
    _, flats = solve_star_flats(
        obs, order=1, templates=({11: ring, 13: ring},), settings=SolveSettings()
    )
    path = tmp_path / "flats.json"
    flats.write(path)
    back = StarFlats.read(path)
    x, y = grid()
    assert len(back) == len(flats) == 4
    for a, b in zip(flats.flats, back.flats, strict=True):
        np.testing.assert_array_equal(a.magnitudes(x=x, y=y), b.magnitudes(x=x, y=y))
        np.testing.assert_allclose(a.error(x=x, y=y), b.error(x=x, y=y), rtol=1e-12)
    with pytest.raises(MissingDataError, match="'i'"):
        back.get("i", 11)
    for text in ("{}", "[1", '{"schema": "pogson.star_flats", "version": 9}'):
        path.write_text(text)
        with pytest.raises(FileFormatError):
            StarFlats.read(path)


def test_images_and_back():
    """Star fluxes on an image no longer depend on place; nothing is applied twice or to a sky."""
    box = Box(0, 0, 60, 50)
    flat = DetectorFlat("r", 0, 5, ChebyshevField(box, [[0.0, 0.05], [0.03, 0.0]]))
    rng = np.random.default_rng(1)
    response = flat.response().render()
    truth = rng.uniform(50, 100, box.shape)
    exposure = Exposure(
        truth * response, unit="adu", measure="fluence", variance=np.full(box.shape, 4.0)
    )
    done = flat.apply(exposure)
    np.testing.assert_allclose(done.image, truth, rtol=2e-6)
    np.testing.assert_allclose(done.variance, 4.0 / response**2, rtol=2e-6)
    with pytest.raises(CalibrationError, match="has been applied"):
        flat.apply(done)
    np.testing.assert_allclose(flat.remove(done).image, exposure.image, rtol=2e-7)
    with pytest.raises(CalibrationError, match="'none'"):
        flat.remove(exposure)
    sky = Exposure(truth, unit="adu", measure="surface_brightness")
    with pytest.raises(MeasureError, match="surface brightness"):
        flat.apply(sky)
    assert flat.response()(x=59.5, y=24.5) == pytest.approx(10 ** (0.4 * 0.05), rel=1e-6)
    with pytest.raises(MissingDataError, match="not kept"):
        flat.error(x=1.0, y=1.0)


def test_calibrations_with_and_without():
    """Calibration times response: the star flat is separable from zero points and areas."""
    areas = {11 + k: ChebyshevField(BOX, [[1.0, 0.03]]) for k in range(4)}
    obs, *_ = dithered(areas=list(areas.values()))
    solution, flats = solve_star_flats(obs, order=2, areas=areas, settings=SolveSettings())
    x, y = grid()
    whole = solution.photo_calib(3, 12, reference=FluxReference.total())
    grey = flats.get("r", 12).without(whole)
    zero = solution["exposure_zero_point"][2]
    expected = magnitude_to_flux(zero) * areas[12](x=x, y=y)
    np.testing.assert_allclose(grey.field(x=x, y=y), expected, rtol=2e-7)
    again = flats.get("r", 12).calibration(grey)
    np.testing.assert_allclose(again.field(x=x, y=y), whole.field(x=x, y=y), rtol=1e-9)
    assert len(again.covariance.names) > len(grey.covariance.names)


def test_calibrations_with_rings_stay_small():
    """Rings are kept as tables: the exact response, in files of kilobytes."""
    obs, *_ = dithered(stars=400)
    ring = TableField(BOX, "radius", 0.0, 2.0, 0.005 * np.sin(np.arange(600.0) / 4), (450.0, -50.0))
    edge = TableField(BOX, "x", 7.0, 8.0, [-0.07, -0.03, 0.005, 0.0])
    _, flats = solve_star_flats(
        obs, order=2, templates=({11: ring}, {11: edge}), settings=SolveSettings()
    )
    flat = flats.get("r", 11)
    response = flat.response()
    x, y = (v.ravel() for v in np.meshgrid(np.arange(400.0), np.arange(0, 800, 7.0)))
    expected = 10 ** (0.4 * flat.magnitudes(x=x, y=y))
    np.testing.assert_allclose(response(x=x, y=y), expected, rtol=4e-7)
    assert len(json.dumps(response.to_dict())) < 30_000
    grid = np.meshgrid(np.arange(400), np.arange(800))
    assert response.mean() == pytest.approx(response(x=grid[0], y=grid[1]).mean(), rel=2e-5)


def test_color_flat_finds_color_times_place():
    obs, *_ = dithered(color=0.01)
    terms = [ColorFlat(pivot=1.0)]
    solution, _ = solve_star_flats(obs, order=2, color_pivot=1.0, terms=terms,
                                   settings=SolveSettings())  # fmt: skip
    slopes = solution["color_flat"].reshape(4, 2)
    # x / 200 is 1 + T10 nearly; the term is minus the parameters
    assert slopes[:, 0] == pytest.approx(0.01 * (np.arange(4) - 1.5), abs=0.0015)
    assert np.abs(slopes[:, 1]).max() < 0.0015
    with pytest.raises(ConfigError, match="order 0"):
        ColorFlat(order=0)


def test_table_fields():
    """The contract of fields: analytic values, files, units, scaling, edges that hold."""
    table = TableField(Box(0, 0, 50, 40), "x", 10.0, 5.0, [1.0, 3.0, -1.0], unit="mag")
    x = np.array([0.0, 10.0, 12.5, 15.0, 20.0, 49.0])
    np.testing.assert_allclose(table(x=x, y=3.0), [1.0, 1.0, 2.0, 3.0, -1.0, -1.0])
    assert field_from_dict(table.to_dict()) == table
    assert (2 * table)(x=15.0, y=0.0) == 6.0
    assert table.render().shape == (40, 50)
    assert np.isnan(table(x=np.nan, y=1.0))
    assert np.isnan(table(x=1.0, y=np.nan))
    ring = TableField(Box(0, 0, 50, 40), "radius", 0.0, 10.0, [0.0, 1.0], (3.0, 4.0))
    assert ring(x=6.0, y=8.0) == pytest.approx(0.5)
    assert ring.nodes.tolist() == [0.0, 10.0]
    # integrals: midpoints of a fine grid, with the centre inside, on an edge, and far away
    for center in ((20.2, 11.0), (-0.5, 5.0), (400.0, -300.0)):
        waves = TableField(
            Box(0, 0, 50, 40), "radius", -1.0, 6.0, 1 + np.cos(np.arange(90)), center
        )
        gx, gy = np.meshgrid((np.arange(1000) - 9.5) / 20, (np.arange(800) - 9.5) / 20)
        assert waves.mean() == pytest.approx(waves(x=gx, y=gy).mean(), rel=3e-5)
    assert table.mean() == pytest.approx((10.5 + 10.0 + 5.0 - 29.5) / 50, rel=1e-12)
    for bad in (
        {"axis": "z"}, {"step": 0.0}, {"values": [1.0]}, {"values": [1.0, np.nan]},
        {"center": (1.0,)},
    ):  # fmt: skip
        kw = {"axis": "x", "start": 0.0, "step": 1.0, "values": [0.0, 1.0], **bad}
        with pytest.raises(ValueError):
            TableField(Box(0, 0, 5, 5), **kw)


HSC = "hsc/jointcal_wcs-0023900-{:03d}.fits"


@pytest.fixture(scope="module")
def hsc_areas(shared_data):
    pytest.importorskip("starlink.Ast", reason="the AST library reads HSC's mappings")
    from pogson.formats import read_lsst_sky_map

    box = Box(0, 0, 2048, 4176)
    found = {}
    for ccd in (37, 49, 90, 103):
        area = read_lsst_sky_map(shared_data(HSC.format(ccd))).pixel_area_field(box)
        found[ccd] = area
    return found


def test_hsc_areas_matter(hsc_areas):
    """Real WCSs: 24 % across the field; leaving them out costs the spread of the areas."""
    values = {c: a.render(Box(0, 0, 2048, 4176))[::64, ::64] for c, a in hsc_areas.items()}
    low, high = min(v.min() for v in values.values()), max(v.max() for v in values.values())
    assert high / low - 1 == pytest.approx(0.24, abs=0.02)
    print("seed", SEED)
    rng = np.random.default_rng(SEED)
    ids = np.array(list(hsc_areas))
    box = Box(0, 0, 2048, 4176)
    relative = {int(c): hsc_areas[c].relative_to(hsc_areas[49].mean()) for c in ids}
    n, stars = 12, 2000
    tables = SurveyTables(Exposures(np.arange(n)), Detectors(ids, (box,) * 4))
    star, e = np.repeat(np.arange(stars), n), np.tile(np.arange(n), stars)
    d = rng.integers(0, 4, star.size)
    x, y = rng.uniform(0, 2047, star.size), rng.uniform(0, 4175, star.size)
    truth = rng.uniform(17, 20, stars)
    area = np.empty(star.size)
    for k, c in enumerate(ids):
        area[d == k] = 2.5 * np.log10(relative[int(c)](x=x[d == k], y=y[d == k]))
    mag = truth[star] - 27.0 + area + 0.003 * rng.normal(size=star.size)
    reference = truth + 0.005 * rng.normal(size=stars)
    obs = Observations.from_columns(
        tables,
        Stars(np.arange(stars), reference_mag=reference, reference_err=np.full(stars, 0.005)),
        star=star, exposure=e, detector=d, x=x, y=y, mag=mag, mag_err=0.003,
    )  # fmt: skip
    known, _ = solve_star_flats(obs, order=0, areas=relative, settings=SolveSettings(floor="fit"))
    without, _ = solve_star_flats(obs, order=0, settings=SolveSettings(floor="fit"))
    assert known["exposure_zero_point"] == pytest.approx(27.0, abs=0.001)
    assert np.abs(known["detector_zero_point"]).max() < 0.0005
    assert known.weighting.floor[0] < 0.0008
    # detector zero points take the mean area; what is left is its spread inside each detector
    inside = np.sqrt(np.mean([area[d == k].var() for k in range(4)]))
    print(f"left out: floor {1e3 * without.weighting.floor[0]:.1f} mmag, spread {1e3 * inside:.1f}")
    assert without.weighting.floor[0] == pytest.approx(inside, rel=0.1)
    assert inside > 0.01
    means = np.array([area[d == k].mean() for k in range(4)])
    assert without["detector_zero_point"] == pytest.approx(-(means - means.mean()), abs=0.003)
    assert np.ptp(without["detector_zero_point"]) > 0.1


def test_lco_single_frame(shared_data):
    """One real frame with references: a star flat takes 29 mmag of scatter to 10."""
    t = Table.read(shared_data(LCO))
    flux, err = np.asarray(t["fluxaper3"], float), np.asarray(t["fluxerr3"], float)
    mag, mag_err = np.asarray(t["imag"], float), np.asarray(t["imagerr"], float)
    with np.errstate(divide="ignore", invalid="ignore"):
        good = (
            (flux / err > 20)
            & (np.asarray(t["flag"]) == 0) & (mag > 0)
            & (np.asarray(t["peak"]) < 60000) & np.isfinite(mag + flux)
        )  # fmt: skip
    t, n = t[good], int(good.sum())
    box = Box(0, 0, 4096, 4096)
    stars = Stars(
        np.arange(n), color=np.asarray(t["rmag"] - t["imag"], float), reference_mag=mag[good],
        reference_err=mag_err[good],
    )  # fmt: skip
    tables = SurveyTables(Exposures([102], filter_names=("i",)), Detectors(np.array([1]), (box,)))
    obs = Observations.from_fluxes(
        tables, stars,
        flux=flux[good], flux_err=err[good], star=np.arange(n), exposure=0, detector=0,
        x=np.asarray(t["x"]) - 1.0, y=np.asarray(t["y"]) - 1.0,
    )  # fmt: skip
    found = {}
    settings = SolveSettings(reference_floor="fit", reject_sigma=4.0)
    for order in (0, 1, 2, 3):
        terms = [ExposureZeroPoint()]
        if order:
            solution, flats = solve_star_flats(obs, order=order, settings=settings, color_pivot=0.3)
        else:
            from pogson.survey import ColorSlope

            solution = calibrate(obs, [*terms, ColorSlope(pivot=0.3, gauge=False)], settings)
        found[order] = 1e3 * solution.weighting.reference_floor
    print({k: round(v, 1) for k, v in found.items()}, "mmag,", n, "stars")
    assert found[0] > 25.0
    assert found[2] < 0.6 * found[0]
    assert found[3] < 11.0
    one = flats.get("i", 1)
    centre, corner = one.magnitudes(x=[2048.0, 50.0], y=[2048.0, 50.0])
    assert abs(centre - corner) > 0.01
    assert one.error(x=2048.0, y=2048.0) < 0.002


def test_constant_area_changes_nothing():
    obs, *_ = dithered(stars=400, exposures=4)
    one = {11 + k: ConstantField(BOX, 1.0) for k in range(4)}
    a, _ = solve_star_flats(obs, order=1, settings=SolveSettings())
    b, _ = solve_star_flats(obs, order=1, areas=one, settings=SolveSettings())
    np.testing.assert_allclose(a.parameters, b.parameters, atol=1e-12)
    assert isinstance(b.model.term("jacobian"), KnownJacobian)
