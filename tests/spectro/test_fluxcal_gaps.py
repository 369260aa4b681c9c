"""Wavelengths of which no standard tells anything, and standards of which nothing can be told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pogson.errors import CalibrationError
from pogson.sed import load_filter_curves
from pogson.simulate import FibreSimulation, simulate_fibres
from pogson.spectro import (
    FluxCalConfig,
    FluxCalibration,
    GridPhotometry,
    PixelMask,
    ResponseConfig,
    StandardData,
    apply_calibration,
    calibrate_fibres,
    grid_photometry,
    solve_response,
)

LAM = 10 ** np.arange(np.log10(3900.0), np.log10(9000.0), 2e-4)


@pytest.fixture(scope="module")
def sim() -> FibreSimulation:
    return simulate_fibres(seed=5, n_stars=3, n_fibres=4, sn=(50, 80), wavelength=LAM)


@pytest.fixture(scope="module")
def phot(sim: FibreSimulation) -> GridPhotometry:
    return grid_photometry(sim.library, load_filter_curves(sim.standards["star 1"].filter_names))


def without(
    sim: FibreSimulation, phot: GridPhotometry, low: float, high: float
) -> tuple[FluxCalibration, np.ndarray, np.ndarray]:
    """Calibrate with a range masked in the standards; the range and the science fibre's mask."""
    inside = (low < LAM) & (high > LAM)
    ivar = sim.frame.ivar.copy()
    ivar[:3, inside] = 0.0
    frame = replace(sim.frame, ivar=ivar)
    calibration = calibrate_fibres(frame, sim.standards, phot)
    return calibration, inside, apply_calibration(frame, calibration).mask[3]


@pytest.mark.parametrize(("low", "high"), [(7585.0, 7705.0), (7620.0, 7640.0)])
def test_a_telluric_band_without_standards_has_no_calibration(sim, phot, low, high):
    # a transmission of 1 that nobody measured would be wrong by up to a factor of 4 here
    calibration, inside, mask = without(sim, phot, low, high)
    inside &= (LAM > 7590) & (LAM < 7700)
    assert np.all(np.isnan(calibration.factor(LAM)[inside]))
    assert np.all(mask[inside] == PixelMask.OUTSIDE)
    beside = (LAM > 7150) & (LAM < 7340)
    assert np.all(mask[beside] == 0)
    np.testing.assert_allclose(
        calibration.factor(LAM)[beside], sim.true_factor()[beside], rtol=0.08
    )


def test_a_gap_of_all_standards_does_not_ruin_the_errors(sim, phot):
    calibration, inside, mask = without(sim, phot, 5200.0, 5900.0)
    whole = calibrate_fibres(sim.frame, sim.standards, phot)
    solution = calibration.solution
    assert solution.log_scale_error < 1.5 * whole.solution.log_scale_error
    assert np.sqrt(solution.log_variance(LAM[~inside]).max()) < 0.2
    # the spline bridges it, and says how well
    miss = calibration.factor(LAM)[inside] / sim.true_factor()[inside] - 1
    error = np.sqrt(solution.log_variance(LAM[inside]))
    assert np.all(np.abs(miss) < 4 * error)
    assert np.all(error < 0.1)
    assert np.all(mask[inside] == 0)


def test_a_response_that_nothing_holds_is_missing():
    # a gap of ten intervals of the spline
    rng = np.random.default_rng(3)
    lam = np.linspace(5000.0, 7000.0, 2000)
    counts = 1 + rng.normal(0, 0.02, 2000)
    ivar = np.where((lam > 5500) & (lam < 6000), 0.0, 2500.0)
    stars = [StandardData(n, lam, counts, ivar, np.ones(2000)) for n in "ab"]
    solution = solve_response(stars, ResponseConfig(knots=(40,)))
    middle = (lam > 5650) & (lam < 5850)
    assert np.all(np.isnan(solution.response(lam)[middle]))
    assert np.all(np.isfinite(solution.response(lam)[(lam < 5500) | (lam > 6000)]))


def test_covariance_of_tellurics_is_their_variance():
    rng = np.random.default_rng(8)
    lam = np.linspace(6800.0, 7300.0, 700)
    through = np.where((lam > 7000) & (lam < 7100), 0.6 + 0.2 * np.sin(lam / 3), 1.0)
    stars = [
        StandardData(f"s{i}", lam, through * (1 + rng.normal(0, 0.02, 700)), np.full(700, 2500.0),
                     np.ones(700)) for i in range(3)
    ]  # fmt: skip
    solution = solve_response(stars, ResponseConfig(telluric_regions=[(7000.0, 7100.0)]))
    at = np.concatenate([lam[200:420:7], lam[250:400:5] + 0.31])
    covariance = solution.log_covariance(at, ["noise"])
    variance = solution.noise_variance(at)
    np.testing.assert_allclose(np.diag(covariance), variance, rtol=1e-9)
    inside = inside_region(at)
    # three stars of 2 % noise seen through T: 2 % / sqrt(3) / T, less between two samples
    own = 0.02 / np.sqrt(3) / solution.transmission(at[inside])
    assert np.all(np.sqrt(variance[inside]) < 1.1 * own)
    assert np.all(np.sqrt(variance[inside]) > 0.6 * own)
    exact = np.isin(at, lam) & inside
    np.testing.assert_allclose(
        np.sqrt(variance[exact]), 0.02 / np.sqrt(3) / solution.transmission(at[exact]), rtol=0.15
    )
    assert np.linalg.eigvalsh(covariance).min() > -1e-12


def inside_region(lam: np.ndarray) -> np.ndarray:
    return (lam > 7001) & (lam < 7099)


def test_extinction_needs_an_airmass(sim, phot):
    config = FluxCalConfig(extinction="paranal")
    unknown = replace(sim.frame, airmass=np.nan)
    with pytest.raises(CalibrationError, match="airmass of the frame is unknown"):
        calibrate_fibres(unknown, sim.standards, phot, config)
    calibration = calibrate_fibres(sim.frame, sim.standards, phot, config)
    with pytest.raises(CalibrationError, match="airmass of the spectrum is unknown"):
        apply_calibration(unknown, calibration)
    # without a curve there is nothing to use it for
    plain = calibrate_fibres(unknown, sim.standards, phot)
    assert np.all(apply_calibration(unknown, plain).mask[3] == 0)


@pytest.mark.parametrize("sign", [0.0, -1.0])
def test_a_star_without_light_is_named_with_the_reason(sim, phot, sign):
    counts = sim.frame.counts.copy()
    counts[0] *= sign
    frame = replace(sim.frame, counts=counts)
    calibration = calibrate_fibres(frame, sim.standards, phot)
    assert "has no light" in calibration.rejected["star 1"]
    assert calibration.solution.names_used == ("star 2", "star 3")
