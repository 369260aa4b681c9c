"""Applying a calibration: identities, masks, other exposures, and real SDSS exposures."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pogson.errors import BoundsError, CalibrationError, MissingDataError, PogsonValueError
from pogson.simulate import FibreSimulation, simulate_fibres
from pogson.spectro import (
    CalibrationVector,
    FibreSpectra,
    FluxCalConfig,
    FluxCalibration,
    PixelMask,
    apply_calibration,
    calibrate_fibres,
)


@functools.cache
def calibrated() -> tuple[FibreSimulation, FluxCalibration]:
    sim = simulate_fibres(seed=11, n_stars=4, n_fibres=7)
    return sim, calibrate_fibres(sim.frame, sim.standards, sim.library)


@given(st.integers(0, 2**31))
def test_masked_stays_masked_and_variance_follows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lam = np.sort(rng.uniform(4000, 5000, 40)) + np.arange(40)
    counts, ivar = rng.normal(0, 10, (3, 40)), rng.uniform(0.1, 2, (3, 40))
    counts[rng.random((3, 40)) < 0.1] = np.nan
    ivar[rng.random((3, 40)) < 0.1] = 0.0
    frame = FibreSpectra(lam, counts, ivar)
    factor = rng.uniform(1e-18, 1e-16, 40)
    factor[rng.random(40) < 0.2] = np.nan
    out = apply_calibration(frame, CalibrationVector(lam, factor, np.zeros(40)))
    lost = ~(frame.good & np.isfinite(factor))
    assert np.array_equal(np.isnan(out.flux), lost)
    assert np.array_equal(out.ivar == 0, lost)
    assert np.array_equal(out.mask != 0, lost)
    assert np.all(out.mask[:, np.isnan(factor)] & PixelMask.OUTSIDE)
    good = ~lost
    # signal-to-noise is what it was
    np.testing.assert_allclose(
        (out.flux * np.sqrt(out.ivar))[good], (frame.counts * np.sqrt(frame.ivar))[good], rtol=1e-12
    )


def test_wavelengths_are_checked() -> None:
    vector = CalibrationVector([5000.0, 5001.0], [1e-17, 1e-17], [0.0, 0.0])
    with pytest.raises(PogsonValueError, match="not on the wavelengths"):
        apply_calibration(FibreSpectra([5000.5, 5001.5], [[1.0, 1.0]], [[1.0, 1.0]]), vector)
    _, calibration = calibrated()
    far = FibreSpectra(
        [1000.0, 1001.0], [[1.0, 1.0]], [[1.0, 1.0]], exposure_time=900, airmass=1.15
    )
    with pytest.raises(BoundsError, match="covered"):
        apply_calibration(far, calibration)


def test_every_fibre_gets_its_own_wavelengths() -> None:
    sim, calibration = calibrated()
    frame = sim.frame
    lam = np.array([frame.wavelength, frame.wavelength * 1.002])
    two = FibreSpectra(lam, frame.counts[:2], frame.ivar[:2], exposure_time=900.0, airmass=1.15)
    out = apply_calibration(two, calibration)
    alone = apply_calibration(
        FibreSpectra(lam[1], frame.counts[1], frame.ivar[1], exposure_time=900.0, airmass=1.15),
        calibration,
    )
    np.testing.assert_array_equal(out.flux[1], alone.flux[0])
    assert not np.allclose(
        out.flux[1], apply_calibration(frame, calibration).flux[1], equal_nan=True
    )


def test_exposure_time_unit_and_airmass() -> None:
    sim, calibration = calibrated()
    lam = sim.frame.wavelength
    base = calibration.factor(lam)
    np.testing.assert_allclose(calibration.factor(lam, exposure_time=1800.0), base / 2)
    per_second = calibration.factor(lam, unit="count/s")
    np.testing.assert_allclose(per_second, base * 900.0)
    with pytest.raises(CalibrationError, match="extinction curve"):
        calibration.factor(lam, airmass=1.6)


def test_another_airmass_with_an_extinction_curve() -> None:
    def curve(lam: np.ndarray) -> np.ndarray:
        return 0.12 * (lam / 5500.0) ** -3

    sim = simulate_fibres(seed=11, n_stars=4, n_fibres=4)
    config = FluxCalConfig(extinction=curve)
    calibration = calibrate_fibres(sim.frame, sim.standards, sim.library, config)
    lam = np.array([4000.0, 5500.0])
    ratio = (
        calibration.factor(np.linspace(3990, 4010, 21), airmass=2.15)[10]
        / calibration.factor(np.linspace(3990, 4010, 21))[10]
    )
    assert ratio == pytest.approx(10 ** (0.4 * curve(lam[:1])[0]), rel=1e-6)


def test_the_calibration_is_right() -> None:
    sim, calibration = calibrated()
    out = apply_calibration(sim.frame, calibration)
    grey = np.exp(np.mean([np.log(t.grey) for t in sim.targets[:4]]))
    for row, target in enumerate(sim.targets):
        ratio = out.flux[row] / sim.true_flux[row] / (target.grey / grey)
        ok = np.isfinite(ratio) & (sim.transmission > 0.999)
        error = 1.25 / target.sn / np.sqrt(ok.sum())
        assert abs(np.median(ratio[ok]) - 1) < 0.01 + 5 * error
    # the shared error is apart from the noise of pixels
    shared = out.calibration_variance(5)
    assert np.nanmedian(np.sqrt(shared) / np.abs(out.flux[5])) < 0.03


def test_standards_must_be_there() -> None:
    sim, _ = calibrated()
    with pytest.raises(MissingDataError, match="fibres are called"):
        calibrate_fibres(sim.frame, {"star 99": sim.standards["star 1"]}, sim.library)
    with pytest.raises(MissingDataError, match="No standard star was given"):
        calibrate_fibres(sim.frame, {}, sim.library)
    one = sim.standards["star 1"]
    with pytest.raises(PogsonValueError, match="given twice"):
        calibrate_fibres(sim.frame, [("star 1", one), (0, one)], sim.library)


def _sdss() -> Path:
    path = Path("/usr/share/ppxf/NGC3073_SDSS_DR18.fits")
    try:
        import ppxf

        path = Path(ppxf.__file__).parent / "spectra" / "NGC3073_SDSS_DR18.fits"
    except ImportError:
        pass
    if not path.exists():
        pytest.skip("the SDSS exposures come with the package ppxf, which is not installed")
    return path


def test_sdss_exposures() -> None:
    from astropy.io import fits

    arms: dict[str, list[tuple[np.ndarray, ...]]] = {"B": [], "R": []}
    with fits.open(_sdss()) as hdus:
        for hdu in hdus[4:]:
            d = hdu.data[np.argsort(hdu.data["loglam"])]  # stored from red to blue
            lam = 10 ** d["loglam"].astype(np.float64)
            calib = d["calib"].astype(np.float64)
            flux = d["flux"].astype(np.float64)
            good = (d["ivar"] > 0) & (calib > 0)
            counts = np.where(good, flux / np.where(good, calib, 1), np.nan)
            ivar = np.where(good, d["ivar"] * calib**2, 0.0)
            frame = FibreSpectra(lam, counts, ivar)
            vector = CalibrationVector(lam, np.where(calib > 0, calib, np.nan), np.zeros(lam.size))
            out = apply_calibration(frame, vector)
            assert np.nanmax(np.abs(out.flux[0][good] / flux[good] - 1)) < 1e-3
            arms[hdu.name[0]].append((lam, out.flux[0], out.ivar[0]))
    # the four exposures of each arm agree within errors once each has its own grey level
    for arm, exposures in arms.items():
        grid = exposures[0][0][100:-100]
        flux = np.array([np.interp(grid, e[0], np.nan_to_num(e[1])) for e in exposures])
        ivar = np.array([np.interp(grid, e[0], e[2]) for e in exposures])
        ok = (ivar > 0).all(axis=0)
        mean = np.sum(flux * ivar, axis=0) / np.maximum(np.sum(ivar, axis=0), 1e-9)
        for f, w in zip(flux, ivar, strict=True):
            level = np.sum((f * mean * w)[ok]) / np.sum((mean**2 * w)[ok])
            assert abs(level - 1) < 0.05, arm
    blue = _level(arms["B"], 5900.0, 6050.0)
    red = _level(arms["R"], 5900.0, 6050.0)
    assert abs(blue[0] - red[0]) < 4 * np.hypot(blue[1], red[1]) + 0.02 * red[0]


def _level(exposures: list[tuple[np.ndarray, ...]], low: float, high: float) -> tuple[float, float]:
    top = bottom = 0.0
    for lam, flux, ivar in exposures:
        pick = (lam > low) & (lam < high) & (ivar > 0)
        top += float(np.sum((flux * ivar)[pick]))
        bottom += float(np.sum(ivar[pick]))
    return top / bottom, bottom**-0.5
