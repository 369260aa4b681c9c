"""What a scene fit can be asked for, what it answers, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scene_stamps_made import DEC, RA, empty, star, with_light

from pogson.errors import MaskedDataError, PogsonValueError
from pogson.scene import (
    PointSource,
    SceneFlag,
    SceneGrid,
    SceneModel,
    ScenePrior,
    fit_scene,
    light_curve,
    offset_position,
    scale_from_zero_point,
)
from pogson.scene.design import build_design
from pogson.scene.prior import choose_prior, correlation

TARGET = PointSource("t", RA, DEC, epochs="0")


def one_source(rng, flux=300.0, **kwargs):
    return with_light(empty(rng, **kwargs), [[flux]] + [[0.0]] * 3, [(0.0, 0.0)], rng)


class TestUnits:
    def test_fluxes_are_njy_unless_the_exposures_say_otherwise(self, rng):
        exposures = one_source(rng)
        result = fit_scene(exposures, SceneModel(TARGET))
        assert (result.flux_zero_point, result.unit) == (31.4, "nJy")
        assert result.to_dict()["unit"] == "nJy"
        factor = scale_from_zero_point(31.4, 30.0)
        other = [replace(e, scale=factor, flux_zero_point=30.0) for e in exposures]
        thirty = fit_scene(other, SceneModel(TARGET))
        assert thirty.unit == "counts at AB zero point 30"
        assert thirty.flux()[0] == pytest.approx(result.flux()[0] * factor, rel=1e-6)
        # a magnitude is a magnitude
        assert thirty.magnitudes[0][0] == pytest.approx(result.magnitudes[0][0], abs=1e-6)
        assert thirty.magnitudes[0][0] == pytest.approx(30 - 2.5 * np.log10(thirty.flux()[0]))

    def test_units_do_not_mix(self, rng):
        exposures = one_source(rng)
        exposures[1] = replace(exposures[1], flux_zero_point=30.0)
        with pytest.raises(PogsonValueError, match="different zero points"):
            fit_scene(exposures, SceneModel(TARGET))
        with pytest.raises(PogsonValueError, match="flux_zero_point"):
            replace(exposures[0], flux_zero_point=np.nan)

    def test_result_is_json(self, rng):
        result = fit_scene(one_source(rng), SceneModel(replace(TARGET, position="free")))
        said = json.loads(json.dumps(result.to_dict(), allow_nan=False))
        assert said["fluxes"][0]["flux"] == pytest.approx(result.flux()[0])
        assert said["bic"] == pytest.approx(
            result.objective + result.effective_parameters * np.log(result.n_pixels.sum())
        )


class TestErrors:
    def test_covariance_between_epochs_is_that_of_all_parameters(self, rng):
        epochs = ("0", "2")
        exposures = with_light(empty(rng), [[300.0], [0.0], [100.0], [0.0]], [(0.0, 0.0)], rng)
        grid = SceneGrid(0.6, 1.8)
        model = SceneModel(TARGET, grid, prior=None, poisson=False, origin_test=False)
        curve = light_curve(exposures, RA, DEC, epochs=epochs, model=model)
        rows = []
        for k, e in enumerate(exposures):
            design = build_design(e, grid.centered(RA, DEC), [(RA, DEC)])
            skies = np.eye(4)[:, k : k + 1] * design.sky
            shape = design.stars(0, np.zeros(1), np.zeros(1))
            rows.append(np.concatenate([design.scene, skies, shape * (k == 0), shape * (k == 2)]))
        matrix = np.concatenate(rows, axis=1)
        covariance = np.linalg.inv(matrix @ matrix.T)[-2:, -2:]
        np.testing.assert_allclose(curve.covariance, covariance, rtol=1e-6)
        assert curve.covariance[0, 1] > 0

    def test_common_modes_stay_apart(self, rng):
        exposures = with_light(empty(rng), [[300.0], [200.0], [0.0], [0.0]], [(0.0, 0.0)], rng)
        model = SceneModel(TARGET, zero_point_error=0.03, psf_normalization_error=0.04)
        plain = light_curve(exposures, RA, DEC, epochs=["0", "1"])
        curve = light_curve(exposures, RA, DEC, epochs=["0", "1"], model=model)
        assert curve.common_modes == {"zero_point": 0.03, "psf_normalization": 0.04}
        np.testing.assert_allclose(curve.covariance, plain.covariance)
        np.testing.assert_allclose(
            curve.total_covariance() - curve.covariance,
            0.05**2 * np.outer(curve.fluxes, curve.fluxes), rtol=1e-9,
        )  # fmt: skip
        for name in ("zero_point_error", "psf_normalization_error"):
            with pytest.raises(PogsonValueError, match=name):
                SceneModel(TARGET, **{name: -0.1})

    def test_gain_is_estimated_where_photons_show(self, rng):
        gain, where = 0.8, (0.6, -0.4)
        bright = with_light(empty(rng, size=31), [[60000.0]] * 4, [where])
        exposures = []
        for e in bright:
            sigma = np.sqrt(e.variance + np.maximum(e.image, 0.0) / gain)
            exposures.append(replace(e, image=e.image + sigma * rng.normal(size=sigma.shape)))
        ra, dec = (float(v) for v in offset_position(RA, DEC, *where))
        known = PointSource("star", ra, dec, per_epoch=False)
        model = SceneModel((TARGET, known), grid=None, poisson="estimate")
        result = fit_scene(exposures, model)
        found = [g for g in result.gains if g is not None]
        assert len(found) == 4
        # over 100 such exposures: 1.255, with a scatter of 0.17 each; 4.5 of it
        np.testing.assert_allclose(1 / np.array(found), 1 / gain, rtol=0.6)
        assert np.mean(1 / np.array(found)) == pytest.approx(1 / gain, rel=0.3)
        assert SceneFlag.NO_GAIN not in result.flags
        # nothing to see: no gain, and said
        faint = fit_scene(one_source(rng, 10.0), model)
        assert set(faint.gains) == {None}
        assert SceneFlag.NO_GAIN in faint.flags
        with pytest.raises(PogsonValueError, match="estimate"):
            fit_scene(exposures, replace(model, poisson="guess"))

    def test_astrometric_prior_with_a_direction(self, rng):
        exposures = with_light(empty(rng), [[300.0]] + [[0.0]] * 3, [(0.1, 0.1)], rng)
        covariance = np.diag([1e-8, 1.0])
        result = fit_scene(exposures, SceneModel(replace(TARGET, position=covariance)))
        (place,) = result.positions
        assert abs(place.offset[0]) < 1e-3
        assert abs(place.offset[1] - 0.1) < 4.5 * np.sqrt(place.covariance[1, 1])
        fixed = fit_scene(exposures, SceneModel(TARGET))
        free = fit_scene(exposures, SceneModel(replace(TARGET, position="free")))
        assert fixed.flux()[1] <= result.flux()[1] * 1.001 <= free.flux()[1] * 1.002


class TestModel:
    def test_sky_plane(self, rng):
        exposures = one_source(rng)
        y, x = np.mgrid[-1:1:25j, -1:1:25j]
        tilted = [
            replace(e, image=e.image + 5 + (20 * k) * x - 10 * y) for k, e in enumerate(exposures)
        ]
        plain = fit_scene(exposures, SceneModel(TARGET, sky_order=1))
        result = fit_scene(tilted, SceneModel(TARGET, sky_order=1))
        assert result.flux()[0] == pytest.approx(plain.flux()[0], abs=1e-4 * plain.flux()[1])
        np.testing.assert_allclose(
            result.sky_levels - plain.sky_levels,
            [[5.0, 20.0 * k, -10.0] for k in range(4)], atol=1e-3,
        )  # fmt: skip
        level = fit_scene(tilted, SceneModel(TARGET, grid=None))
        assert SceneFlag.BAD_CHI2 in level.flags

    def test_trail_at_a_free_place(self, rng):
        trail = (1.2, 70.0)
        exposures = empty(rng, size=31)
        angle = np.deg2rad(trail[1])
        along = np.linspace(-0.5, 0.5, 301) * trail[0]
        streak = np.mean(
            [star(exposures[0], 0.1 + a * np.sin(angle), a * np.cos(angle)) for a in along], axis=0
        )
        exposures[0] = replace(exposures[0], image=800.0 * streak)
        data = [replace(e, image=e.image + rng.normal(size=e.image.shape)) for e in exposures]
        source = replace(TARGET, trail=trail, position="free")
        result = fit_scene(data, SceneModel(source, poisson=False))
        flux, error = result.flux()
        assert abs(flux - 800.0) < 4.5 * error
        (place,) = result.positions
        pulls = (np.array(place.offset) - [0.1, 0.0]) / np.sqrt(np.diag(place.covariance))
        assert np.abs(pulls).max() < 4.5
        point = fit_scene(data, SceneModel(replace(source, trail=None), poisson=False))
        assert point.chi2 > result.chi2 + 25

    def test_smoothness_is_that_of_the_scene(self, rng):
        """Marginal likelihood tells a smooth scene from a rough one."""
        n = 13
        axis = np.arange(n) * 1.0
        xi, eta = (g.ravel() for g in np.meshgrid(axis, axis))
        blur = np.exp(-0.5 * ((xi[:, None] - xi) ** 2 + (eta[:, None] - eta) ** 2) / 1.0**2)
        for length, same in ((0.0, (0.0,)), (2.5, (1.0, 2.5))):
            shape = correlation(xi, eta, length) + 1e-9 * np.eye(xi.size)
            scene = 5.0 * np.linalg.cholesky(shape) @ rng.normal(size=xi.size)
            data = blur @ scene + 0.3 * rng.normal(size=xi.size)
            normal, right = blur @ blur / 0.09, blur @ data / 0.09
            constant = float(data @ data) / 0.09
            best = choose_prior(ScenePrior(), normal, right, constant, (xi, eta), 1.0)
            assert best.smoothness_arcsec in same
            for other in (0.0, 1.0, 2.5):
                tried = choose_prior(
                    ScenePrior(smoothness_arcsec=other), normal, right, constant, (xi, eta), 1.0
                )
                assert tried.log_evidence <= best.log_evidence + 1e-6

    def test_tied_sources_need_a_lead(self):
        for sources in (
            (TARGET, PointSource("b", RA, DEC, tied_to="t")),
            (replace(TARGET, position="free"), PointSource("b", RA, DEC, tied_to="c")),
            (
                replace(TARGET, position="free"),
                PointSource("b", RA, DEC, tied_to="t", position="free"),
            ),
        ):
            with pytest.raises(PogsonValueError, match="tied to"):
                SceneModel(sources)


class TestFlags:
    @pytest.mark.parametrize("gain", [None, 4.0])
    @pytest.mark.parametrize("position", ["fixed", "free"])
    def test_starts_that_agree_are_not_said_to_disagree(self, rng, gain, position):
        """The weights change after the starts were followed: that is no disagreement."""
        exposures = [replace(e, gain=gain) for e in one_source(rng, 3000.0)]
        result = fit_scene(exposures, SceneModel(replace(TARGET, position=position)))
        assert SceneFlag.STARTS_DISAGREE not in result.flags
        assert np.ptp(result.starts) < 1e-3

    def test_flat_valley_and_limit(self, rng):
        """Where there is no source a free position is anywhere."""
        exposures = one_source(rng, 0.0)
        source = replace(TARGET, position="free")
        result = fit_scene(exposures, SceneModel(source, search_radius_arcsec=0.3))
        assert result.flags & (SceneFlag.FLAT_VALLEY | SceneFlag.AT_LIMIT)
        far = with_light(empty(rng), [[3000.0]] + [[0.0]] * 3, [(0.6, 0.0)], rng)
        stopped = fit_scene(far, SceneModel(source, search_radius_arcsec=0.3))
        assert SceneFlag.AT_LIMIT in stopped.flags
        assert np.hypot(*stopped.positions[0].offset) == pytest.approx(0.3, rel=1e-3)
        found = fit_scene(far, SceneModel(source))
        assert not found.flags & (SceneFlag.FLAT_VALLEY | SceneFlag.AT_LIMIT)

    def test_masked_core(self, rng):
        exposures = one_source(rng, 3000.0)
        bad = np.zeros((25, 25), bool)
        bad[12:14, 11:14] = True
        hurt = [replace(exposures[0], bad=bad), *exposures[1:]]
        result = fit_scene(hurt, SceneModel(TARGET))
        assert SceneFlag.MASKED_CORE in result.flags
        assert SceneFlag.MASKED_CORE not in fit_scene(exposures, SceneModel(TARGET)).flags
        assert abs(result.flux()[0] - 3000.0) < 4.5 * result.flux()[1]

    @pytest.mark.parametrize("exact", [False, True])
    def test_stamp_a_pixel_off(self, rng, exact):
        """A wrong origin is moved where rounding explains it, and only said where nothing does."""
        base = empty(rng)
        rows = [[800.0, 4000.0]] + [[0.0, 4000.0]] * 3
        exposures = with_light(base, rows, [(0.0, 0.0), (0.4, 0.5)], rng)
        x, y = (float(v) for v in exposures[2].sky.pixel(RA, DEC))
        # the target where rounding turns over in x, or far from it
        shift = (x - np.floor(x) - (0.25 if exact else 0.005), y - np.floor(y) - 0.25)
        sky = exposures[2].sky.shifted(*shift)
        near = with_light([replace(base[2], sky=sky)], rows[2:3], [(0.0, 0.0), (0.4, 0.5)], rng)
        wrong = [*exposures[:2], near[0].moved(1, 0), exposures[3]]
        result = fit_scene(wrong, SceneModel(TARGET))
        origin = result.origins["2"]
        if exact:
            assert SceneFlag.ORIGIN_SUSPECT in result.flags
            assert not origin.applied
        else:
            assert (origin.dx, origin.dy, origin.applied) == (-1, 0, True)
            assert SceneFlag.ORIGIN_MOVED in result.flags
            assert abs(result.flux()[0] - 800.0) < 4.5 * result.flux()[1]

    def test_robust_loss_is_said(self, rng):
        exposures = one_source(rng)
        image = exposures[0].image.copy()
        image[::4, ::4] += 30.0
        exposures[0] = replace(exposures[0], image=image)
        result = fit_scene(exposures, SceneModel(TARGET, robust=3.0))
        assert SceneFlag.ROBUST in result.flags


class TestBadInput:
    """An exposure that cannot be used is left out with its reason; a detection is an error."""

    CASES = {
        "psf": ({"psf": None}, "no PSF"),
        "zero point": ({"scale": None}, "no zero point"),
        "mask": ({"bad": np.ones((25, 25), bool)}, "0 of 625 pixels are usable"),
        "weights": ({"variance": np.full((25, 25), np.inf)}, "0 of 625 pixels are usable"),
        "no variance": ({"variance": np.zeros((25, 25))}, "0 of 625 pixels are usable"),
        "nan": ({"image": np.full((25, 25), np.nan)}, "0 of 625 pixels are usable"),
    }

    @pytest.mark.parametrize("case", list(CASES))
    def test_dropped_or_refused(self, rng, case):
        change, words = self.CASES[case]
        exposures = one_source(rng)
        whole = fit_scene(exposures, SceneModel(TARGET))
        hurt = [*exposures[:2], replace(exposures[2], **change), exposures[3]]
        result = fit_scene(hurt, SceneModel(TARGET))
        assert words in result.dropped["2"]
        assert SceneFlag.DROPPED in result.flags
        assert result.exposure_ids == ("0", "1", "3")
        # the same as if it had never been there
        never = fit_scene([exposures[i] for i in (0, 1, 3)], SceneModel(TARGET))
        assert result.flux() == pytest.approx(never.flux(), rel=1e-9)
        assert abs(result.flux()[0] - whole.flux()[0]) < 3 * whole.flux()[1]
        detection = [replace(exposures[0], **change), *exposures[1:]]
        with pytest.raises(MaskedDataError, match=words):
            fit_scene(detection, SceneModel(TARGET))

    def test_zero_weight_of_some_pixels(self, rng):
        exposures = one_source(rng)
        variance = exposures[0].variance.copy()
        variance[:, :3] = np.inf
        variance[:, 3] = 0.0
        image = exposures[0].image.copy()
        image[:, :4] = 1e6
        hurt = [replace(exposures[0], variance=variance, image=image), *exposures[1:]]
        result = fit_scene(hurt, SceneModel(TARGET))
        assert result.n_pixels[0] == 25 * 21
        assert abs(result.flux()[0] - 300.0) < 4.5 * result.flux()[1]

    def test_nothing_left(self, rng):
        exposures = [replace(e, psf=None) for e in one_source(rng)]
        with pytest.raises(MaskedDataError, match=r"No exposure can be used|cannot be used"):
            fit_scene(exposures, SceneModel(PointSource("t", RA, DEC)))

    def test_names_and_shapes(self, rng):
        exposures = one_source(rng)
        with pytest.raises(PogsonValueError, match="must differ"):
            fit_scene([exposures[0], exposures[0]], SceneModel(TARGET))
        with pytest.raises(PogsonValueError, match="shape"):
            replace(exposures[0], variance=np.ones((3, 3)))
        for key in ("scale", "gain"):
            with pytest.raises(PogsonValueError, match=key):
                replace(exposures[0], **{key: -1.0})
        with pytest.raises(PogsonValueError, match="sky_order"):
            SceneModel(TARGET, sky_order=2)
        with pytest.raises(PogsonValueError, match="convention"):
            SceneModel(TARGET, convention="smp2024")

    def test_source_on_masked_pixels(self, rng):
        exposures = one_source(rng)
        ra, dec = (float(v) for v in offset_position(RA, DEC, 0.0, 40.0))
        model = SceneModel((TARGET, PointSource("far", ra, dec, epochs="0")), poisson=False)
        with pytest.raises(RuntimeError, match="not determined"):
            fit_scene(exposures, model)
