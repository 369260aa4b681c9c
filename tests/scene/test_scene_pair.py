"""The posterior of a pair beside the fit's own objective, its covariance and Laplace's evidence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scene_stamps_made import DEC, RA, empty, with_light

from pogson.scene import PointSource, SceneModel, fit_binary, fit_scene, offset_position
from pogson.scene import _pair_kernels as kernels
from pogson.scene.fit import prepare, solve_scene
from pogson.scene.pair import _tabulate, sample_pair
from pogson.scene.positions import evaluate
from pogson.streams import stream

APART = [(0.45, 0.1), (-0.45, -0.05)]


def pair(rng, fluxes=(3000.0, 1500.0), places=APART, extra=()):
    """Return exposures of a pair in the first of four, and stars in all."""
    rows = [[*fluxes, *(f for f, _ in extra)]] + [[0.0, 0.0, *(f for f, _ in extra)]] * 3
    return with_light(empty(rng), rows, [*places, *(p for _, p in extra)], rng)


def free(**changes):
    return PointSource("p", RA, DEC, epochs="0", position="free", **changes)


def test_likelihood_is_that_of_the_fit(rng):
    """Short vectors give what the whole fit gives, with a known star eliminated beside it."""
    where = (1.1, -0.9)
    star = PointSource("star", *(float(v) for v in offset_position(RA, DEC, *where)),
                       per_epoch=False)  # fmt: skip
    exposures = pair(rng, extra=[(400.0, where)])
    alone = SceneModel((free(), star), poisson=False)
    prepared = prepare(exposures, alone)
    first = solve_scene(prepared, alone, [np.zeros(2)]).done
    stars = _tabulate(first, 0, prepared.radius, prepared.fwhm_arcsec)
    both = SceneModel((free(), replace(free(), name="q"), star), poisson=False)
    doubled = prepare(exposures, both)
    second = solve_scene(doubled, both, [np.array([0.4, 0.1, -0.4, 0.0])]).done
    second.system.factor(first.choice.factor)
    scratch = np.empty((2, stars.z.size))
    for a, b in ((APART[0], APART[1]), ((0.3, 0.3), (-0.5, 0.2)), ((0.11, -0.07), (-0.2, 0.0))):
        trial = evaluate(second.system, second.layout, np.array([*a, *b]), positive=False)
        order = (a, b) if trial.fluxes[0] >= trial.fluxes[1] else (b, a)
        big, small = np.sort(trial.fluxes[:2])[::-1]
        if small < 0:
            continue
        bright, faint = np.array(order)
        vector, ratio = faint - bright, small / big
        place = np.array([*(bright + vector * ratio / (1 + ratio)), *vector, ratio])
        value = kernels.log_likelihood(*stars, 9.0, 9.0, place, *scratch)
        signal2 = 2 * value + np.log(np.sum(scratch[0] ** 2))
        # the star's own gain is in the constant of both
        one = evaluate(first.system, first.layout, np.zeros(2), positive=False)
        at = kernels.log_likelihood(*stars, 9.0, 9.0, np.zeros(5), *scratch)
        at2 = 2 * at + np.log(np.sum(scratch[0] ** 2))
        assert one.objective - trial.objective == pytest.approx(signal2 - at2, rel=1e-4)


def test_resolved_pair_has_the_errors_and_the_evidence_of_a_gaussian(rng):
    exposures = pair(rng)
    model = SceneModel(free(), poisson=False)
    found = fit_binary(exposures, model)
    said = found.intervals
    flux, error = found.binary.fluxes, found.binary.flux_err
    for k, name in enumerate(("flux_a", "flux_b")):
        half = 0.5 * (said[name].high - said[name].low)
        assert said[name].median == pytest.approx(flux[k], abs=0.3 * error[k])
        assert half == pytest.approx(error[k], rel=0.15)
    assert said["separation"].median == pytest.approx(
        found.separation, abs=0.3 * found.separation_err
    )
    # Laplace's evidence: peak, Gaussian volume, and the priors' density there
    prepared = prepare(exposures, replace(model, sources=(free(),)))
    radius = prepared.radius
    a, b = flux

    def volume(result):
        total = np.block([[result.covariance, result.cross_covariance],
                          [result.cross_covariance.T, result.position_covariance]])  # fmt: skip
        return 0.5 * np.linalg.slogdet(2 * np.pi * total)[1]

    # density of (positions, fluxes) when (separation, direction, ratio, total) are uniform
    density = -np.log(2 * np.pi * found.separation * 2 * radius) + np.log((a + b) / a**2)
    expected = 0.5 * found.delta_chi2 + volume(found.binary) + density - volume(found.single)
    assert found.log_bayes_factor == pytest.approx(expected, abs=1.0)


def test_single_star_is_not_torn_apart(rng):
    exposures = with_light(empty(rng), [[3000.0]] + [[0.0]] * 3, [(0.1, 0.1)], rng)
    found = fit_binary(exposures, SceneModel(free(), poisson=False))
    print(found.log_bayes_factor, found.intervals["separation"])
    assert not found.is_binary
    # three parameters more for nothing
    assert found.log_bayes_factor < 3.0
    low, _, high = found.intervals["flux_total"]
    assert low - (high - low) < 3000.0 < high + (high - low)


def test_other_seed_same_posterior(rng):
    exposures = pair(rng, places=[(0.15, 0.05), (-0.15, 0.0)])
    model = SceneModel(free(), poisson=False)
    prepared = prepare(exposures, model)
    done = solve_scene(prepared, model, [np.zeros(2)]).done
    one, two = (
        sample_pair(done, 0, prepared.radius, prepared.fwhm_arcsec, stream(seed, "t"))
        for seed in (1, 2)
    )
    for name, first in one.intervals.items():
        second, width = two.intervals[name], first.high - first.low
        assert abs(first.median - second.median) < 0.2 * width, name
        assert second.high - second.low == pytest.approx(width, rel=0.25), name
    assert one.log_bayes_factor == pytest.approx(two.log_bayes_factor, abs=1.5)
    again = sample_pair(done, 0, prepared.radius, prepared.fwhm_arcsec, stream(1, "t"))
    np.testing.assert_array_equal(again.flux_a, one.flux_a)
    assert (one.flux_a >= one.flux_b).all()
    assert (one.flux_b >= 0).all()


def test_separation_known(rng):
    """A pair at a given separation: one position for both."""
    exposures = pair(rng, places=[(0.25, 0.1), (-0.05, 0.1)])
    ra, dec = (float(v) for v in offset_position(RA, DEC, -0.3, 0.0))
    a = free()
    model = SceneModel(
        (a, PointSource("q", ra, dec, epochs="0", tied_to="p")), poisson=False
    )  # fmt: skip
    tied = fit_scene(exposures, model)
    assert [p.source for p in tied.positions] == ["p"]
    assert np.abs((tied.fluxes - [3000.0, 1500.0]) / tied.flux_err).max() < 4.5
    pulls = (np.array(tied.positions[0].offset) - [0.25, 0.1]) / np.sqrt(
        np.diag(tied.positions[0].covariance)
    )
    assert np.abs(pulls).max() < 4.5
    loose = fit_binary(exposures, SceneModel(a, poisson=False))
    assert (tied.flux_err < loose.binary.flux_err).all()
