"""The linear algebra, the prior, derivatives and options of scene fits, on simulated stamps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scene_stamps_made import DEC, RA, empty, star, with_light

from pogson.errors import CalibrationError, MaskedDataError, PogsonTypeError, PogsonValueError
from pogson.fields import Box
from pogson.images import Exposure
from pogson.psf import GaussianPSF, MoffatPSF, PixelGridPSF, SkyFrame
from pogson.scene import (
    PointSource,
    SceneExposure,
    SceneFlag,
    SceneGrid,
    SceneModel,
    ScenePrior,
    fit_binary,
    fit_scene,
    light_curve,
    offset_position,
)
from pogson.scene.design import PsfTable, build_design
from pogson.scene.fit import prepare, solve_scene
from pogson.scene.positions import evaluate, trail_nodes
from pogson.scene.prior import choose_prior, correlation
from pogson.sky import FitsSkyMap


def test_same_as_dense_least_squares(rng):
    exposures = with_light(empty(rng), [[300.0], [0.0], [0.0], [0.0]], [(0.1, 0.2)], rng)
    grid = SceneGrid(0.6, 1.8)
    source = PointSource("t", RA, DEC, epochs="0")
    model = SceneModel(source, grid, prior=None, poisson=False, sky_order=1, origin_test=False)
    result = fit_scene(exposures, model)
    rows, data = [], []
    for k, e in enumerate(exposures):
        design = build_design(e, grid.centered(RA, DEC), [(RA, DEC)], sky_order=1)
        sky = np.zeros((12, design.good.size))
        sky[3 * k : 3 * k + 3] = design.sky
        target = design.stars(0, np.zeros(1), np.zeros(1)) * (k == 0)
        rows.append(np.concatenate([design.scene, sky, target]))
        data.append(design.data)
    matrix, values = np.concatenate(rows, axis=1).T, np.concatenate(data)
    solution, chi2 = np.linalg.lstsq(matrix, values, rcond=None)[:2]
    covariance = np.linalg.inv(matrix.T @ matrix)
    assert result.flux()[0] == pytest.approx(solution[-1], rel=1e-7)
    assert result.flux()[1] == pytest.approx(np.sqrt(covariance[-1, -1]), rel=1e-7)
    assert result.chi2 == pytest.approx(float(chi2[0]), rel=1e-9)
    assert result.objective == pytest.approx(result.chi2, rel=1e-9)
    np.testing.assert_allclose(result.sky_levels[1], solution[-13 + 3 : -13 + 6], atol=1e-6)


def test_prior_is_a_ridge(rng):
    exposures = with_light(
        empty(rng), [[300.0, 80.0]] + [[0.0, 80.0]] * 3, [(0, 0), (0.5, 0.3)], rng
    )
    grid, amplitude, length = SceneGrid(0.5, 1.5), 20.0, 0.5
    model = SceneModel(
        PointSource("t", RA, DEC, epochs="0"), grid, poisson=False,
        prior=ScenePrior(amplitude, length),
    )  # fmt: skip
    result = fit_scene(exposures, model)
    prior = np.linalg.inv(amplitude**2 * (correlation(*grid.offsets(), length) + 1e-9 * np.eye(49)))
    normal, rhs = np.zeros((54, 54)), np.zeros(54)
    normal[:49, :49] = prior
    for k, e in enumerate(exposures):
        design = build_design(e, grid.centered(RA, DEC), [(RA, DEC)])
        sky = np.zeros((4, design.good.size))
        sky[k] = 1.0
        target = design.stars(0, np.zeros(1), np.zeros(1)) * (k == 0)
        rows = np.concatenate([design.scene, sky, target])
        normal += rows @ rows.T
        rhs += rows @ design.data
    solution = np.linalg.solve(normal, rhs)
    assert result.flux()[0] == pytest.approx(solution[-1], rel=1e-6)
    assert result.flux()[1] == pytest.approx(np.sqrt(np.linalg.inv(normal)[-1, -1]), rel=1e-6)


def test_amplitude_maximises_the_marginal_likelihood(rng):
    n = 30
    design = rng.normal(size=(80, n))
    xi, eta = rng.uniform(-1, 1, (2, n))
    data = design @ (3.0 * rng.normal(size=n)) + rng.normal(size=80)
    prior = ScenePrior(smoothness_arcsec=0.4)
    args = (design.T @ design, design.T @ data, float(data @ data), (xi, eta), 0.2)
    choice = choose_prior(prior, *args)

    def log_likelihood(amplitude: float) -> float:
        shape = correlation(xi, eta, 0.4) + 1e-9 * np.eye(n)
        covariance = np.eye(80) + amplitude**2 * design @ shape @ design.T
        return float(
            -0.5 * data @ np.linalg.solve(covariance, data) - 0.5 * np.linalg.slogdet(covariance)[1]
        )

    best = log_likelihood(choice.amplitude)
    assert choice.log_evidence == pytest.approx(best, abs=1e-4)
    for factor in (0.9, 0.98, 1.02, 1.1):
        assert log_likelihood(factor * choice.amplitude) < best
    given_amplitude = choose_prior(ScenePrior(choice.amplitude, 0.4), *args)
    assert given_amplitude.log_evidence == pytest.approx(best, abs=1e-4)


@settings(max_examples=20)
@given(st.floats(-0.4, 0.4), st.floats(-0.4, 0.4), st.booleans())
def test_derivatives_are_those_of_the_objective(xi, eta, with_prior):
    rng = np.random.default_rng(3)
    exposures = with_light(empty(rng), [[300.0]] + [[0.0]] * 3, [(0.1, -0.1)], rng)
    source = PointSource("t", RA, DEC, epochs="0", position=0.3)
    model = SceneModel(
        source, SceneGrid(0.6, 1.8), prior="auto" if with_prior else None, poisson=False
    )
    done = solve_scene(prepare(exposures, model), model, [np.zeros(2)]).done
    theta, step = np.array([xi, eta]), 1e-5
    trial = evaluate(done.system, done.layout, theta, positive=False)
    for axis in range(2):
        move = step * np.eye(2)[axis]
        high = evaluate(done.system, done.layout, theta + move, positive=False)
        low = evaluate(done.system, done.layout, theta - move, positive=False)
        slope = (high.objective - low.objective) / (2 * step)
        assert -2 * trial.slope[axis] == pytest.approx(slope, rel=1e-3, abs=0.3)


def test_noiseless_fluxes_are_exact(rng):
    exposures = with_light(empty(rng), [[500.0]] + [[0.0]] * 3, [(0.0, 0.0)])
    exposures = [replace(e, image=e.image + 7.0 * k) for k, e in enumerate(exposures)]
    for prior in (None, "auto"):
        model = SceneModel(
            PointSource("t", RA, DEC, epochs="0"), SceneGrid(0.6, 1.8), prior=prior, poisson=False
        )
        result = fit_scene(exposures, model)
        # the PSF is sampled at the target's place to 1e-5
        assert result.flux()[0] == pytest.approx(500.0, rel=1e-4)
        np.testing.assert_allclose(result.sky_levels[:, 0], 7.0 * np.arange(4), atol=1e-3)
        assert result.chi2 < 1e-2


def test_known_star_and_trail(rng):
    exposures = empty(rng, size=31)
    trail = (1.5, 30.0)
    angle = np.deg2rad(30.0)
    t = (np.arange(400) + 0.5) / 400 - 0.5
    streak = np.mean(
        [star(exposures[0], 1.5 * q * np.sin(angle), 1.5 * q * np.cos(angle)) for q in t], axis=0
    )
    data = with_light(exposures, [[200.0]] * 4, [(0.9, -0.8)])
    data[0] = replace(data[0], image=data[0].image + 400.0 * streak)
    ra, dec = offset_position(RA, DEC, 0.9, -0.8)
    model = SceneModel(
        (
            PointSource("t", RA, DEC, epochs="0", trail=trail),
            PointSource("star", float(ra), float(dec), per_epoch=False),
        ), grid=None, poisson=False,
    )  # fmt: skip
    result = fit_scene(data, model)
    assert result.flux("t")[0] == pytest.approx(400.0, rel=1e-4)
    assert result.flux("star")[0] == pytest.approx(200.0, rel=1e-4)
    assert [c.epoch for c in result.components] == ["0", "all"]


def test_trail_nodes_integrate():
    xi, eta, weight = trail_nodes((3.0, 0.0), 1.0)
    assert np.abs(xi).max() < 1e-12
    sigma = 1.0 / 2.3548
    value = weight @ np.exp(-0.5 * (eta / sigma) ** 2)
    from scipy.special import erf

    truth = sigma * np.sqrt(2 * np.pi) * erf(1.5 / sigma / np.sqrt(2)) / 3.0
    assert value == pytest.approx(truth, abs=1e-6)


@pytest.mark.parametrize(
    "psf", [GaussianPSF(3.0), MoffatPSF(3.4, 2.5, 0.1, -0.05), MoffatPSF(8, 4)]
)
def test_tables_follow_analytic_psfs(psf, rng):
    table = PsfTable.of(psf, x=50.0, y=50.0, reach=30)
    for x, y in rng.uniform(47, 53, (5, 2)):
        stamp = psf.draw(x=x, y=y, half_size=10)
        mine = table.gradients(np.array([x]), np.array([y]), stamp.box)[0]
        assert np.abs(mine[0] - stamp.image).max() < 1.5e-5 * stamp.image.max()
        h = 1e-4
        for axis, (dx, dy) in ((1, (h, 0.0)), (2, (0.0, h))):
            images = table.render(np.array([x + dx, x - dx]), np.array([y + dy, y - dy]), stamp.box)
            slope = (images[0] - images[1]) / (2 * h)
            assert np.abs(slope - mine[axis]).max() < 1e-3 * np.abs(slope).max()


def edge_exposure(rng):
    """Return an exposure whose pixels grow by 1.5 % within the stamp, as at the edge of a CCD."""
    header = FitsSkyMap.tan(RA, DEC, x=100.0, y=100.0, scale_arcsec=0.26).to_header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN-SIP", "DEC--TAN-SIP"
    for name, order in (("A", 2), ("B", 2), ("AP", 2), ("BP", 2)):
        header[f"{name}_ORDER"] = order
    header["A_2_0"], header["B_1_1"] = 6e-4, 1e-4
    sky, box = FitsSkyMap(header), Box(85, 85, 31, 31)
    axis = np.arange(-8, 9)
    samples = np.exp(-0.5 * (axis[:, None] ** 2 + 1.2 * axis**2) / 1.6**2)
    psf = PixelGridPSF(samples / samples.sum(), frame=SkyFrame(sky, RA, DEC, 0.3))
    image = rng.normal(size=box.shape)
    return SceneExposure(image, np.ones(box.shape), box, sky, psf, exposure_id="0")


def test_pixel_scale_is_that_of_each_place(rng):
    """Grid points and sources are what the PSF itself draws at their places."""
    exposure = edge_exposure(rng)
    grid = SceneGrid(0.8, 3.2).centered(RA, DEC)
    design = build_design(exposure, grid, [(RA, DEC)])
    truth = [star(exposure, *p).ravel() for p in zip(*grid.offsets(), strict=True)]
    np.testing.assert_allclose(design.scene, truth, atol=1e-5 * np.max(truth))
    # one scale for all pixels would be off by half a per cent of the peak
    plain = replace(design.table, slopes=None)
    x, y = exposure.sky.pixel(*grid.positions())
    one = plain.render(x, y, exposure.box).reshape(len(truth), -1)
    assert np.abs(one - truth).max() > 5e-3 * np.max(truth)
    # sources follow the scale to first order: 1 arcsec is 4 pixels
    near = design.stars(0, np.array([0.5, -1.0]), np.array([0.3, 0.8]))
    for image, place in zip(near, ((0.5, 0.3), (-1.0, 0.8)), strict=True):
        wanted = star(exposure, *place).ravel()
        np.testing.assert_allclose(image, wanted, atol=1e-4 * wanted.max())


def test_light_curve_needs_references_or_a_prior(rng):
    exposures = with_light(empty(rng), [[100.0], [200.0], [0.0], [50.0]], [(0.0, 0.0)], rng)
    curve = light_curve(exposures, RA, DEC, epochs=["0", "1", "3"])
    pulls = (curve.fluxes - [100.0, 200.0, 50.0]) / curve.flux_err
    assert np.abs(pulls).max() < 4.5
    assert SceneFlag.NO_REFERENCE not in curve.flags
    everywhere = light_curve(exposures, RA, DEC)
    assert SceneFlag.NO_REFERENCE in everywhere.flags
    # a grid point below the source: nothing tells them apart
    model = SceneModel(PointSource("t", RA, DEC), SceneGrid(0.5, 1.0), prior=None)
    with pytest.raises(CalibrationError, match=r"not determined|singular"):
        light_curve(exposures, RA, DEC, model=model)


def test_singular_grid_is_reported(rng):
    exposures = empty(rng)
    model = SceneModel(PointSource("t", RA, DEC, epochs="0"), SceneGrid(0.05, 0.5), prior=None)
    with pytest.raises(CalibrationError, match="singular"):
        fit_scene(exposures, model)


def test_robust_fit_shrugs_at_a_cosmic_ray(rng):
    exposures = with_light(empty(rng), [[300.0]] + [[0.0]] * 3, [(0.0, 0.0)], rng)
    source = PointSource("t", RA, DEC, epochs="0")
    clean = fit_scene(exposures, SceneModel(source, poisson=False)).flux()
    image = exposures[0].image.copy()
    image[9:12, 14:17] += 60.0
    hit = [replace(exposures[0], image=image), *exposures[1:]]
    plain = fit_scene(hit, SceneModel(source, poisson=False)).flux()
    robust = fit_scene(hit, SceneModel(source, poisson=False, robust=3.0)).flux()
    assert abs(robust[0] - clean[0]) < 0.35 * abs(plain[0] - clean[0])


def test_noise_rescale_finds_the_noise(rng):
    exposures = with_light(empty(rng), [[300.0]] + [[0.0]] * 3, [(0.0, 0.0)], rng)
    wrong = [
        replace(e, variance=e.variance * f) for e, f in zip(exposures, (4, 1, 0.25, 1), strict=True)
    ]
    model = SceneModel(PointSource("t", RA, DEC, epochs="0"), poisson=False, noise_rescale=True)
    result = fit_scene(wrong, model)
    # relative error of a variance from 625 pixels: 0.057
    np.testing.assert_allclose(result.noise_factors * [4, 1, 0.25, 1], 1.0, atol=0.24)


def test_gain_adds_photon_noise(rng):
    source = PointSource("t", RA, DEC, epochs="0")
    exposures = [replace(e, gain=2.0) for e in empty(rng)]
    exposures = with_light(exposures, [[5000.0]] + [[0.0]] * 3, [(0.0, 0.0)], rng)
    plain = fit_scene(exposures, SceneModel(source, poisson=False))
    photons = fit_scene(exposures, SceneModel(source))
    expected = np.sum(1.0 / photons.images["0"].sigma ** 2)
    assert photons.flux()[1] > 1.4 * plain.flux()[1]
    assert expected < plain.n_pixels[0]
    # photon noise alone would be sqrt(5000 / 2) = 50
    assert 50.0 < photons.flux()[1] < 75.0
    done = fit_scene(
        [replace(e, variance_includes_sources=True) for e in exposures], SceneModel(source)
    )
    assert done.flux()[1] == pytest.approx(plain.flux()[1], rel=1e-6)


def test_binary_order_and_errors(rng):
    exposures = with_light(
        empty(rng), [[1500.0, 3000.0]] + [[0.0, 0.0]] * 3, [(0.25, 0.0), (-0.25, 0.1)], rng
    )
    found = fit_binary(exposures, SceneModel(PointSource("p", RA, DEC, epochs="0"), poisson=False))
    assert found.is_binary
    assert found.delta_bic > 0
    assert found.log_bayes_factor > 0
    assert found.binary.fluxes[0] >= found.binary.fluxes[1]
    pulls = (found.binary.fluxes - [3000.0, 1500.0]) / found.binary.flux_err
    assert np.abs(pulls).max() < 4.5
    assert abs(found.separation - np.hypot(0.5, 0.1)) < 4.5 * found.separation_err
    # marginal errors are larger than those at fixed positions
    fixed = [
        PointSource(n, *(float(v) for v in offset_position(RA, DEC, *p)), epochs="0")
        for n, p in (("b", (0.25, 0.0)), ("a", (-0.25, 0.1)))
    ]
    held = fit_scene(exposures, SceneModel(tuple(fixed), poisson=False))
    assert (found.binary.flux_err > 1.2 * held.flux_err[::-1]).all()
    assert found.to_dict()["is_binary"]


def test_total_covariance_keeps_common_modes_apart(rng):
    exposures = with_light(empty(rng), [[300.0]] + [[0.0]] * 3, [(0.0, 0.0)], rng)
    exposures[0] = replace(exposures[0], scale_error=0.1)
    result = fit_scene(exposures, SceneModel(PointSource("t", RA, DEC, epochs="0")))
    total = float(np.sqrt(result.total_covariance()[0, 0]))
    flux, error = result.flux()
    assert total == pytest.approx(np.hypot(error, 0.1 * flux))


def test_stamps_of_any_size_and_bad_pixels(rng):
    exposures = with_light(empty(rng), [[300.0]] + [[0.0]] * 3, [(0.0, 0.0)], rng)
    small = empty(rng, 1, size=15)[0]
    image = exposures[0].image.copy()
    image[3, 4] = np.nan
    variance = exposures[0].variance.copy()
    variance[20, 2] = np.inf
    first = replace(exposures[0], image=image, variance=variance)
    data = [first, *exposures[1:], replace(small, exposure_id="small")]
    result = fit_scene(data, SceneModel(PointSource("t", RA, DEC, epochs="0")))
    assert result.n_pixels.tolist() == [623, 625, 625, 625, 225]
    assert abs(result.flux()[0] - 300.0) < 4.5 * result.flux()[1]
    assert np.isnan(result.images["0"].residual[3, 4])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"epochs": "x"}, "not among the exposures"),
        ({"position": "maybe"}, "allowed: 'fixed', 'free'"),
        ({"position": -1.0}, "positive"),
        ({"trail": (-1.0, 0.0)}, "trail"),
        ({"ra": np.nan}, "not a position"),
    ],
)
def test_bad_sources_say_so(rng, change, match):
    exposures = empty(rng)

    def fit() -> None:
        source = replace(PointSource("t", RA, DEC, epochs="0"), **change)
        fit_scene(exposures, SceneModel(source))

    with pytest.raises(PogsonValueError, match=match):
        fit()


def test_target_outside_a_stamp(rng):
    exposures = empty(rng)
    exposures[2] = exposures[2].moved(40, 0)
    result = fit_scene(exposures, SceneModel(PointSource("t", RA, DEC, epochs="0")))
    assert "outside its pixels" in result.dropped["2"]
    with pytest.raises(MaskedDataError, match="outside its pixels"):
        fit_scene(exposures, SceneModel(PointSource("t", RA, DEC, epochs="2")))


def test_flux_that_the_scene_can_wholly_stand_for(rng):
    """A grid point below the source and no exposure without it: only rounding tells them apart."""
    exposures = with_light(empty(rng, n=1), [[100.0]], [(0.0, 0.0)], rng)
    grid = SceneGrid(0.5, 2.0)
    assert 0.0 in np.hypot(*grid.offsets())
    model = SceneModel(PointSource("t", RA, DEC), grid, prior=None, origin_test=False)
    with pytest.raises(CalibrationError, match="not determined"):
        fit_scene(exposures, model)


def test_masked_arrays_keep_their_masks(rng):
    (exposure,) = empty(rng, n=1)
    spoiled = np.ma.array(exposure.image, mask=np.zeros((25, 25), bool), copy=True)
    spoiled[2, 3], spoiled[5, 6] = 1e6, np.ma.masked
    spoiled.mask[2, 3] = True
    variance = np.ma.masked_equal(np.where(np.arange(25) == 7, -1.0, exposure.variance), -1.0)
    made = replace(exposure, image=spoiled, variance=variance, bad=None)
    assert made.n_good == 625 - 25 - 2
    assert not made.good[2, 3]


def test_pair_beside_a_source_seen_in_all_exposures(rng):
    places = [(0.0, 0.0), (1.5, 0.5)]
    exposures = with_light(empty(rng), [[900.0, 300.0], *3 * [[0.0, 400.0]]], places, rng)
    ra, dec = offset_position(RA, DEC, *places[1])
    neighbour = PointSource("variable", float(ra), float(dec))
    model = SceneModel((PointSource("t", RA, DEC, epochs="0"), neighbour), origin_test=False)
    found = fit_binary(exposures, model)
    assert len(found.binary.fluxes) == 2 + 4
    assert not found.is_binary
    with pytest.raises(PogsonValueError, match="'t' has 2 fluxes, in '0' or '1'"):
        fit_binary(exposures, SceneModel(PointSource("t", RA, DEC, epochs=("0", "1"))))


def test_constant_image_under_noise_rescale(rng):
    """Zeros where there are no data: their noise is not nothing."""
    exposures = with_light(empty(rng), [[300.0], [0.0], [0.0], [0.0]], [(0.0, 0.0)], rng)
    exposures[2] = replace(exposures[2], image=np.zeros(exposures[2].box.shape))
    model = SceneModel(PointSource("t", RA, DEC, epochs="0"), noise_rescale=True)
    result = fit_scene(exposures, model)
    assert abs(result.flux()[0] - 300.0) < 4.5 * result.flux()[1]
    assert result.noise_factors[2] == 1.0
    assert SceneFlag.BAD_CHI2 in result.flags


def test_grid_that_no_pixel_sees(rng, capfd):
    exposures = with_light(empty(rng), [[300.0], [0.0], [0.0], [0.0]], [(0.0, 0.0)], rng)
    source = PointSource("t", RA, DEC, epochs="0")
    away = fit_scene(exposures, SceneModel(source, SceneGrid(0.5, 2.0, RA + 1.0, DEC)))
    none = fit_scene(exposures, SceneModel(source, None))
    assert away.flux() == pytest.approx(none.flux(), rel=1e-9)
    assert capfd.readouterr().err == ""


def test_whole_exposures_are_not_stamps(rng):
    whole = Exposure(np.zeros((9, 9)), unit="adu", measure="fluence")
    with pytest.raises(PogsonTypeError, match="not Exposure; cut_exposure"):
        fit_scene([whole], SceneModel(PointSource("t", RA, DEC, epochs="0")))
