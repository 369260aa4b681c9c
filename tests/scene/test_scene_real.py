"""Scene fits of the real stamps of Eris and 2014 VV39."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scene_campaigns as campaigns

from pogson.scene import (
    PointSource,
    SceneExposure,
    SceneFlag,
    SceneGrid,
    SceneModel,
    fit_binary,
    fit_scene,
    light_curve,
    null_tests,
)
from pogson.scene.design import PsfTable, build_design, local_matrices

SMP = SceneGrid.smp2023()


@pytest.fixture(scope="module")
def eris(shared_data):
    exposures, detection, at = campaigns.load(shared_data, "eris")
    return exposures, PointSource("eris", *at, epochs=detection)


@pytest.fixture(scope="module")
def vv39(shared_data):
    exposures, detection, at = campaigns.load(shared_data, "2014vv39")
    return exposures, PointSource("vv39", *at, epochs=detection)


PUBLISHED = {
    # flux, error, chi2, pixels, parameters; exact solution of the published model
    "eris": (37946.5, 925.0, 5071.2, 5400, 407),
    # the published 410 count the sky of an exposure whose stamp does not exist
    "vv39": (929.4, 77.0, 6746.6, 7170, 409),
}


def published_model(source):
    return SceneModel(source, SMP, prior=None, convention="smp2023", origin_test=False)


@pytest.mark.parametrize("target", ["eris", "vv39"])
def test_published_geometry(target, request, rng):
    """The published numbers, as near as the WCS headers allow.

    The published code took its positions from a WCS that is pickled in the PSF files. The headers
    used here are fits to it, good to 0.01 px; shifting every exposure by 0.01 px per axis moves the
    flux by about 1 % of its error on Eris and 2.6 % on VV39, which lies on a galaxy and whose
    detection is 40 pixels from the edge of a CCD. That, not 1 % of the error, is how near one can
    come on VV39.
    """
    exposures, source = request.getfixturevalue(target)
    flux, error, chi2, pixels, parameters = PUBLISHED[target]
    result = fit_scene(exposures, published_model(source))
    moved = []
    for _ in range(24):
        shifted = [replace(e, sky=e.sky.shifted(*rng.normal(0, 0.01, 2))) for e in exposures]
        trial = fit_scene(shifted, published_model(source))
        moved.append((trial.flux()[0], trial.chi2))
    spread = np.std(moved, axis=0, ddof=1)
    print(
        f"{target} smp2023: {result.flux()[0]:.1f} +- {result.flux()[1]:.2f} "
        f"({abs(result.flux()[0] - flux) / error:.2%} of the error from the published), "
        f"chi2 {result.chi2:.2f}; 0.01 px in the WCS: flux {spread[0]:.1f} "
        f"({spread[0] / error:.2%}), chi2 {spread[1]:.2f}"
    )
    # what 0.01 px does: 0.9 % and 2.6 % of the error (24 trials: 15 % of that)
    share = {"eris": 0.009, "vv39": 0.026}[target]
    assert spread[0] / error == pytest.approx(share, rel=0.5)
    assert abs(result.flux()[0] - flux) < {"eris": 0.01, "vv39": 2 * share}[target] * error
    assert result.flux()[1] == pytest.approx(error, rel=1e-3)
    assert result.chi2 == pytest.approx(chi2, abs=0.15)
    assert result.n_pixels.sum() == pixels
    assert result.n_parameters == parameters


def test_correct_geometry_fits_the_galaxy(vv39):
    exposures, source = vv39
    result = fit_scene(exposures, SceneModel(source, SMP, prior=None, origin_test=False))
    flux, error = result.flux()
    print(f"VV39: {flux:.1f} +- {error:.1f}, chi2 {result.chi2:.1f}")
    assert result.chi2 <= 6650
    assert 940 <= flux <= 960
    assert result.n_parameters == fit_scene(exposures, published_model(source)).n_parameters
    assert error == pytest.approx(76.8, abs=0.3)


def test_origin_test_moves_one_stamp(vv39):
    exposures, source = vv39
    result = fit_scene(exposures, SceneModel(source, SMP, prior=None))
    print(f"VV39, origins tested: {result.flux()}, chi2 {result.chi2:.1f}")
    assert result.chi2 <= 6620
    moved = {k: (v.dx, v.dy) for k, v in result.origins.items() if v.applied}
    assert moved == {"372125": (0, 1)}
    assert SceneFlag.ORIGIN_MOVED in result.flags


@pytest.mark.parametrize("target", ["eris", "vv39"])
def test_prior_makes_errors_smaller(target, request):
    exposures, source = request.getfixturevalue(target)
    free = fit_scene(exposures, SceneModel(source, SMP, prior=None))
    held = fit_scene(exposures, SceneModel(source))
    print(target, "free", free.flux(), "prior", held.flux())
    assert held.flux()[1] < free.flux()[1]
    assert abs(held.flux()[0] - free.flux()[0]) < 0.5 * free.flux()[1]
    assert held.effective_parameters < free.effective_parameters


@pytest.mark.parametrize("target", ["eris", "vv39"])
@pytest.mark.parametrize("prior", ["auto", None])
def test_null_pulls(target, prior, request):
    exposures, source = request.getfixturevalue(target)
    grid = "auto" if prior else SMP
    tests = null_tests(exposures, SceneModel(source, grid, prior=prior))
    print(target, prior, f"null rms {tests.rms:.3f}", f"largest {np.abs(tests.pulls).max():.2f}")
    assert 0.90 <= tests.rms <= 1.10


def test_null_pulls_show_the_flip(vv39):
    exposures, source = vv39
    model = SceneModel(source, SMP, prior=None, convention="smp2023", origin_test=False)
    assert null_tests(exposures, model).rms > 1.3


def test_free_position(eris):
    exposures, source = eris
    free = replace(source, position="free")
    result = fit_scene(exposures, SceneModel(free, SMP, prior=None), starts=4)
    fixed = fit_scene(exposures, SceneModel(source, SMP, prior=None))
    print("free position gains", fixed.chi2 - result.chi2, result.positions[0].offset)
    assert fixed.chi2 - result.chi2 == pytest.approx(8.0, abs=1.0)
    assert np.ptp(result.starts) < 1e-3
    assert result.flux()[1] >= fixed.flux()[1]
    # an astrometric prior lies between
    held = fit_scene(exposures, SceneModel(replace(source, position=0.01), SMP, prior=None))
    assert fixed.chi2 > held.chi2 > result.chi2


def test_binary_starts_agree(eris, vv39):
    for exposures, source in (eris, vv39):
        found = fit_binary(exposures, SceneModel(source), starts=4)
        print(source.name, found.delta_chi2, found.binary.starts)
        assert np.ptp(found.binary.starts) < 1e-2
        assert 0 <= found.delta_chi2 < 10
        assert not found.is_binary
        # fluxes of an unresolved pair are anticorrelated
        c = found.binary.covariance
        assert c[0, 1] < -0.9 * np.sqrt(c[0, 0] * c[1, 1])


def test_light_curve_of_some_epochs(vv39):
    exposures, source = vv39
    names = [e.exposure_id for e in exposures][:4]
    result = light_curve(exposures, source.ra, source.dec, epochs=names)
    assert result.fluxes.size == 4
    pulls = result.fluxes / result.flux_err
    at = names.index("572637")
    assert pulls[at] > 8
    assert np.abs(np.delete(pulls, at)).max() < 4.5
    # epochs share the scene that is subtracted
    assert (result.covariance[~np.eye(4, dtype=bool)] > 0).all()


def test_rendering_is_that_of_the_psf(eris):
    exposures, source = eris
    exposure = exposures[0]
    x, y = (float(v) for v in exposure.sky.pixel(source.ra, source.dec))
    table = PsfTable.of(exposure.psf, x=x, y=y, reach=60)
    stamp = exposure.psf.draw(x=x, y=y, half_size=12)
    mine = table.render(np.array([x]), np.array([y]), stamp.box)[0]
    assert np.abs(mine - stamp.image).max() < 1e-6 * stamp.image.max()


def test_rendering_beside_galsim(eris):
    galsim = pytest.importorskip("galsim")
    exposures, source = eris
    for exposure in exposures[:3]:
        x, y = (float(v) for v in exposure.sky.pixel(source.ra, source.dec))
        table = PsfTable.of(exposure.psf, x=x, y=y, reach=60)
        samples = galsim.Image(table.samples.copy(), scale=0.3)
        profile = galsim.InterpolatedImage(
            samples, x_interpolant=galsim.Lanczos(3), use_true_center=False, flux=1.0
        )
        box = exposure.box
        worst = 0.0
        for dx, dy in ((0.0, 0.0), (0.31, -0.47), (3.2, 4.9)):
            there = local_matrices(exposure.psf, np.array([x + dx]), np.array([y + dy]))
            image = galsim.Image(
                galsim.BoundsI(box.x_min, box.x_max, box.y_min, box.y_max),
                wcs=galsim.JacobianWCS(*(0.3 * there[0]).ravel()), dtype=float,
            )  # fmt: skip
            at = galsim.PositionD(x + dx, y + dy)
            profile.drawImage(image, center=at, method="no_pixel")
            mine = table.render(np.array([x + dx]), np.array([y + dy]), box, there)[0]
            worst = max(worst, np.abs(mine - image.array).max() / image.array.max())
        print(f"beside GalSim: {worst:.1e} of the peak")
        assert worst < 1e-5


def test_masked_detection_is_an_error(eris):
    exposures, source = eris
    hidden = [
        replace(e, bad=np.ones(e.box.shape, bool)) if e.exposure_id == source.epochs else e
        for e in exposures
    ]
    with pytest.raises(RuntimeError, match="0 of 900 pixels are usable"):
        fit_scene(hidden, SceneModel(source))
    others: list[SceneExposure] = [
        replace(e, psf=None) if e.exposure_id == "384049" else e for e in exposures
    ]
    result = fit_scene(others, SceneModel(source))
    assert result.dropped == {"384049": "it has no PSF"}
    assert SceneFlag.DROPPED in result.flags


def test_design_keeps_the_exact_grid(vv39):
    exposures, source = vv39
    grid = SMP.centered(source.ra, source.dec)
    design = build_design(exposures[0], grid, [(source.ra, source.dec)], search_radius=1.0)
    x, y = design.exposure.sky.pixel(source.ra, source.dec)
    mx, my = design.maps[0].pixel(0.0, 0.0)
    assert np.hypot(mx - x, my - y) < 1e-4
