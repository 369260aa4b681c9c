"""The pixels of the simulator against independent truth."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS

from pogson.errors import PogsonError
from pogson.psf import ApertureOperator
from pogson.simulate import (
    CameraModel,
    StarModel,
    SurveyModel,
    demo_model,
    draw_stars,
    draw_visit,
    render_detector,
    visit_sky,
)
from pogson.simulate.camera import vignetting_field, wcs_header
from pogson.simulate.render import MASK_VALUES
from pogson.streams import stream

SEED = 20261121


@pytest.fixture(scope="module")
def model():
    return demo_model(size=512)


@pytest.fixture(scope="module")
def stars(model):
    return draw_stars(model, 200.0, rng_seed=SEED)


def astropy_area(header, x, y):
    """Pixel area in arcsec2 from astropy alone: corners of the pixel as 3-vectors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wcs = WCS(header)
    corners = []
    for dx, dy in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)):
        ra, dec = wcs.all_pix2world(x + dx, y + dy, 0)
        corners.append(SkyCoord(ra, dec, unit="deg").cartesian.xyz.value)
    a, b, c, d = corners
    return 0.5 * np.linalg.norm(np.cross(c - a, d - b, axis=0), axis=0) * (180 / np.pi * 3600) ** 2


def test_pixel_area_changes_by_several_percent_inside_each_detector():
    camera = demo_model().camera
    assert camera.n_detectors >= 4
    grid = np.array([0, 511.5, 1023])
    x, y = (g.ravel() for g in np.meshgrid(grid, grid))
    for index in range(camera.n_detectors):
        header = wcs_header(camera, index, ra=150.0, dec=2.0, rotation=10.0)
        area = astropy_area(header, x, y)
        assert 0.06 < np.ptp(area) / area.min() < 0.15
        # A0 is the area on the optical axis, next to the inner corner
        assert area.min() / camera.reference_pixel_area == pytest.approx(1.0, abs=1e-3)


def test_detectors_share_one_undistorted_focal_plane():
    """Neighbouring detectors are a gap apart on the sky and do not overlap."""
    camera = CameraModel(area_growth=0.0, area_tilt=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        maps = [WCS(wcs_header(camera, i, ra=10.0, dec=0.0, rotation=0.0)) for i in (0, 1)]
    right = SkyCoord(*maps[0].all_pix2world(1023.5, 512, 0), unit="deg")
    left = SkyCoord(*maps[1].all_pix2world(-0.5, 512, 0), unit="deg")
    gap = right.separation(left).arcsec / camera.pixel_scale
    assert gap == pytest.approx(camera.gap, abs=1.5)  # mounting rotations move it by a pixel


def brightest_apart(stars, ra, dec, distance):
    """The brightest stars that are at least ``distance`` arcsec from each other."""
    x = (stars.ra - ra) * np.cos(np.deg2rad(dec)) * 3600
    y = (stars.dec - dec) * 3600
    kept = []
    for i in np.argsort(-stars.flux("r")):
        if all(np.hypot(x[i] - x[k], y[i] - y[k]) > distance for k in kept):
            kept.append(int(i))
        if len(kept) == 12:
            break
    return stars.take(np.array(kept))


def test_big_aperture_on_fluence_is_the_true_flux():
    """Sums over a very large circle of the noiseless, sky-free image are F electrons / gain."""
    model = demo_model()
    stars = brightest_apart(draw_stars(model, 280.0, rng_seed=SEED), model.ra, model.dec, 90.0)
    x0, n = np.meshgrid(np.arange(1024.0), np.arange(1024.0)), 0
    for visit_index, index in ((0, 0), (1, 3)):
        visit = draw_visit(model, visit_index, rng_seed=SEED)
        made = render_detector(
            model, visit, index, stars, rng_seed=SEED, noise=False, defects=False
        )
        ratio = astropy_area(made.header, *x0) / model.camera.reference_pixel_area
        fluence = (made.expected - visit_sky(model, visit, index) / model.camera.gain) * ratio
        inside = (made.x > 90) & (made.x < 933) & (made.y > 90) & (made.y < 933)
        order = [int(np.flatnonzero(stars.id == i)[0]) for i in made.star_id[inside]]
        true = stars.flux(visit.band.name)[order] / visit.calibration(model.camera)
        sums = ApertureOperator.exact().sum(fluence, x=made.x[inside], y=made.y[inside], a=80.0)
        print(sums.flux / true - 1)
        # the stamps miss at most 1e-4; wings of stars 90 arcsec away add less than that
        np.testing.assert_allclose(sums.flux, true, rtol=2e-4)
        assert np.all(made.truncated <= 1e-4)
        n += true.size
    assert n >= 3


def test_ignoring_the_pixel_area_is_wrong_by_percents(model, stars):
    visit = draw_visit(model, 0, rng_seed=SEED)
    made = render_detector(model, visit, 0, stars, rng_seed=SEED, noise=False, defects=False)
    light = vignetting_field(model.camera, 0).render()
    area = astropy_area(made.header, *np.meshgrid(np.arange(512.0), np.arange(512.0)))
    ratio = made.flat / light
    np.testing.assert_allclose(ratio, area / model.camera.reference_pixel_area, rtol=2e-6)
    assert ratio.max() > 1.05
    assert light.min() < 0.85


def test_sky_alone_is_flat_in_surface_brightness(model, stars):
    """With no structure and no stars, the image is constant whatever the pixel area."""
    plain = model.with_(
        sky_gradient=0.0,
        moon_glow=0.0,
        bands=tuple(replace(b, fringing=0.0) for b in model.bands),
    )
    visit = draw_visit(plain, 1, rng_seed=SEED)
    none = stars.take(np.zeros(0, int))
    made = render_detector(plain, visit, 2, none, rng_seed=SEED, noise=False, defects=False)
    level = visit.sky_level(plain.camera) / plain.camera.gain
    np.testing.assert_allclose(made.image, level, rtol=1e-6)
    # by hand: m_sky in nJy per pixel of area A0, times electrons, over the gain
    band = visit.band
    rate = 10 ** (0.4 * (band.zero_point - band.sky_magnitude))
    area = plain.camera.pixel_scale**2
    expected = rate * area * visit.exposure_time / plain.camera.gain
    assert level == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("variance", ["expected", "data"])
def test_noise_has_the_variance_of_the_weight_map(model, stars, variance):
    print("seed", SEED)
    chosen = model.with_(variance=variance)
    for visit_index, index in ((0, 0), (1, 3)):
        visit = draw_visit(chosen, visit_index, rng_seed=SEED)
        made = render_detector(chosen, visit, index, stars, rng_seed=SEED, defects=False)
        residual = (made.image - made.expected) * np.sqrt(made.weight)
        n = residual.size
        # chi2 of n normal pixels: sqrt(2/n); Poisson kurtosis adds 1/mean electrons, some 10 %
        limit = 5 * 1.1 * np.sqrt(2 / n)
        if variance == "expected":
            assert abs(np.mean(residual**2) - 1) < limit
            assert abs(np.mean(residual)) < 5 / np.sqrt(n)
            star = made.expected > 3 * np.median(made.expected)
            assert star.sum() > 300
            assert abs(np.mean(residual[star] ** 2) - 1) < 5 * 1.1 * np.sqrt(2 / star.sum())
        else:
            # estimated from the pixels themselves the weights correlate with the noise
            assert 0.98 < np.mean(residual**2) < 1.08


def test_gain_convention_poisson_in_electrons(model, stars):
    """Halving the gain leaves the electrons, and so the signal to noise, as they are."""
    visit = draw_visit(model, 0, rng_seed=SEED)
    half = model.with_(camera=replace(model.camera, gain=2.0))
    one = render_detector(model, visit, 0, stars, rng_seed=SEED, defects=False)
    two = render_detector(half, visit, 0, stars, rng_seed=SEED, defects=False)
    np.testing.assert_allclose(two.image, 2.0 * one.image, rtol=1e-6)
    np.testing.assert_allclose(two.weight, one.weight / 4.0, rtol=1e-6)


def test_order_of_stars_changes_nothing(model, stars):
    visit = draw_visit(model, 1, rng_seed=SEED)
    first = render_detector(model, visit, 1, stars, rng_seed=SEED)
    order = np.random.default_rng(SEED).permutation(len(stars))
    second = render_detector(model, visit, 1, stars.take(order), rng_seed=SEED)
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.mask, second.mask)
    np.testing.assert_array_equal(first.star_id, second.star_id)


def test_other_seed_visit_or_detector_gives_other_noise(model, stars):
    visit = draw_visit(model, 1, rng_seed=SEED)
    images = [
        render_detector(model, visit, d, stars, rng_seed=s, defects=False)
        for d, s in ((0, SEED), (0, SEED + 1), (1, SEED))
    ]
    pulls = [((i.image - i.expected) * np.sqrt(i.weight)).ravel() for i in images]
    for other in pulls[1:]:
        correlation = np.corrcoef(pulls[0], other)[0, 1]
        assert abs(correlation) < 5 / np.sqrt(pulls[0].size)


def test_defects_are_in_the_mask(model):
    deep = model.with_(camera=replace(model.camera, full_well=20_000.0), cosmic_rays=10)
    stars = draw_stars(deep, 200.0, rng_seed=SEED)
    visit = draw_visit(deep, 1, rng_seed=SEED)
    made = render_detector(deep, visit, 0, stars, rng_seed=SEED)
    for name, value in MASK_VALUES.items():
        assert (made.mask & value).any(), name
    no_data = (made.mask & MASK_VALUES["NO_DATA"]) > 0
    assert np.isnan(made.image[no_data]).all()
    assert np.isfinite(made.image[~no_data]).all()
    assert (made.weight[no_data] == 0).all()
    assert (made.weight[(made.mask & MASK_VALUES["BAD"]) > 0] == 0).all()
    good = made.mask == 0
    residual = (made.image - made.expected)[good] * np.sqrt(made.weight[good])
    # every defect is masked: no pixel beyond what normal and Poisson tails allow
    assert np.abs(residual).max() < 7
    saturated = (made.mask & MASK_VALUES["SATURATED"]) > 0
    flat_adu = deep.camera.full_well / (deep.camera.gain * made.flat)
    keep = saturated & ((made.mask & (MASK_VALUES["BAD"] | MASK_VALUES["NO_DATA"])) == 0)
    np.testing.assert_allclose(made.image[keep], flat_adu[keep], rtol=1e-6)


def test_streams_are_keyed_and_typed():
    assert stream(1, "a", 1).random() == stream(1, "a", 1).random()
    values = {
        float(stream(*key).random())
        for key in ((1, "a", 1), (1, "a", 2), (2, "a", 1), (1, "b", 1), (1, "a", "1"), (1, "a1"))
    }
    assert len(values) == 6


def test_visit_conditions_do_not_depend_on_each_other(model):
    assert draw_visit(model, 3, rng_seed=SEED) == draw_visit(model, 3, rng_seed=SEED)
    fewer = [draw_visit(model, i, rng_seed=SEED).fwhm for i in range(3)]
    more = [draw_visit(model, i, rng_seed=SEED).fwhm for i in range(6)]
    assert fewer == more[:3]
    assert len(set(more)) == 6


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CameraModel(gain=0.0), "gain=0.0 must be positive"),
        (lambda: CameraModel(nx=10), "too small"),
        (lambda: CameraModel(vignetting=0.95), "vignetting"),
        (lambda: CameraModel(area_growth=0.7), "area_growth"),
        (lambda: StarModel(density=-1.0), "density=-1.0 must be positive"),
        (lambda: StarModel(magnitude_range=(20.0, 15.0)), "must increase"),
        (lambda: StarModel(temperature_range=(2000.0, 5000.0)), "3800 to 12000"),
        (lambda: SurveyModel(n_visits=0), "n_visits=0"),
        (lambda: SurveyModel(variance="none"), "'expected' or 'data'"),
        (lambda: SurveyModel(psf_files="piff"), "'psfex' or 'json'"),
        (lambda: SurveyModel(bands=()), "bands must be"),
        (lambda: SurveyModel(seeing=(1.0, 2.0)), "seeing"),
        (lambda: SurveyModel(moffat_beta=(1.0, 2.0)), "moffat_beta"),
    ],
)
def test_models_refuse_nonsense(build, message):
    with pytest.raises(PogsonError, match=message):
        build()
