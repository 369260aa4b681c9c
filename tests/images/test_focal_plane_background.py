"""One sky over a focal plane: chromatic, distorted, with pedestals; against known truth."""

from __future__ import annotations

import numpy as np
import pytest

from pogson.calib import FluxReference
from pogson.errors import (
    CalibrationError,
    MissingDataError,
    PogsonValueError,
    UnitMismatchError,
)
from pogson.fields import Box, ChebyshevField
from pogson.images import (
    Exposure,
    estimate_background,
    fit_color_correction,
    fit_focal_plane_background,
    fit_sky_spectrum,
    measure_sources,
    source_factors,
)
from pogson.sed import Bandpass, Spectrum, synthetic_color
from pogson.simulate.chromatic import ChromaticModel, simulate_chromatic
from pogson.sky import FitsSkyMap

SEED = 20


@pytest.fixture(scope="module")
def scene():
    print("seed", SEED)
    return simulate_chromatic(ChromaticModel(detectors=2), rng_seed=SEED)


@pytest.fixture(scope="module")
def sky(scene):
    return fit_focal_plane_background(scene.exposures, sky_sed=scene.sky_sed, order=2)


def worst_error(scene, model):
    """Largest difference from the true sky, in units of the sky."""
    return max(
        float(np.abs(model.backgrounds[e.detector].level.render() - truth.render()).max())
        for e, truth in zip(scene.exposures, scene.sky, strict=True)
    ) / 1500.0  # fmt: skip


def test_sky_is_flat_to_a_thousandth_in_its_own_state(scene, sky):
    naive = fit_focal_plane_background(scene.exposures, order=2)
    assert worst_error(scene, naive) > 5e-3
    assert worst_error(scene, sky) < 1e-3
    assert naive.chi2 / naive.dof > 20
    # 512 cells: chi2/dof has a standard deviation of 0.06
    assert 0.75 < sky.chi2 / sky.dof < 1.25


def test_pedestals_are_recovered_within_their_errors(scene, sky):
    truth = [t.mean() for t in scene.sky]
    smooth = [
        float(np.mean(sky.backgrounds[e.detector].level.mean() - sky.pedestals[e.detector]))
        for e in scene.exposures
    ]
    assert sum(sky.pedestals.values()) == pytest.approx(0.0, abs=1e-9)
    for k, e in enumerate(scene.exposures):
        total = smooth[k] + sky.pedestals[e.detector]
        assert abs(total - truth[k]) < 0.3  # electrons; 0.02 % of the sky
    assert all(0 < s < 1 for s in sky.pedestal_errors.values())


def test_fluxes_of_all_colours_over_the_field(scene, sky):
    """Fiducial stars need no correction; others get the full or the first-order one."""
    g, r = (Bandpass.from_speclite(f"decam2014-{b}") for b in "gr")
    colors = {t: synthetic_color(s, g, r) for t, s in scene.spectra.items()}
    errors: dict[str, dict[float, list[float]]] = {"naive": {}, "full": {}, "first": {}}
    for index, e in enumerate(sky.attach(scene.exposures)):
        stars = scene.stars[scene.stars["detector"] == index]
        x, y, teff = (np.asarray(stars[n]) for n in ("x", "y", "teff"))
        table = measure_sources(e, x=x, y=y, references=[FluxReference.aperture(12.0)])
        inside = np.ravel(e.psf.enclosed_energy(12.0, x=x, y=y))
        flux = np.asarray(table["flux_aperture_12px_exact"]) / inside / np.asarray(stars["flux"])
        own = [scene.spectra[t] for t in teff]
        first = fit_color_correction(e.flattening, list(scene.spectra.values()), (g, r))
        fluxes = {
            "naive": flux,
            "full": flux * source_factors(e.flattening, own, x=x, y=y),
            "first": first.correct(flux, x=x, y=y, color=[colors[t] for t in teff]),
        }
        for name, values in fluxes.items():
            for t in scene.spectra:
                errors[name].setdefault(t, []).extend(2500 * np.log10(values[teff == t]))
    noise = 0.3  # mmag of one star: photon noise of 2e7 electrons and of the aperture's sky
    for t in scene.spectra:
        naive, full, first = (np.array(errors[n][t]) for n in ("naive", "full", "first"))
        standard_error = noise / np.sqrt(full.size)
        assert abs(full.mean()) < 0.2 + 4 * standard_error
        assert full.std() < 1.5 * noise
        assert abs(first.mean()) < 0.5 + 4 * standard_error
        if t == 5800.0:
            assert naive == pytest.approx(full)
        else:
            assert np.abs(naive).max() > 3.0  # mmag


def test_subtract_and_restore_is_exact(scene, sky):
    for e in sky.attach(scene.exposures):
        assert e.subtract_background().restore_background().image is e.image
        moved = e.subtract_background().to("surface_brightness").restore_background()
        np.testing.assert_allclose(moved.image, e.to("surface_brightness").image, rtol=1e-6)


def test_sky_spectrum_from_its_own_pattern(scene):
    lam = scene.sky_sed.wavelength
    blue = Spectrum(lam, 1e-17 * (lam / 6000.0) ** -4.0, name="twilight")
    found = fit_sky_spectrum(scene.exposures, [scene.sky_sed, blue])
    assert abs(found.fractions["night sky"] - 1.0) < 4 * found.fraction_errors["night sky"]
    assert found.fraction_errors["night sky"] < 0.05
    assert sum(found.fractions.values()) == pytest.approx(1.0)
    again = fit_focal_plane_background(scene.exposures, sky_sed=found.spectrum, order=2)
    assert worst_error(scene, again) < 1.5e-3
    with pytest.raises(CalibrationError, match="cannot tell the templates"):
        fit_sky_spectrum(
            scene.exposures,
            [scene.sky_sed, Spectrum(lam, 2 * scene.sky_sed.flux, name="the same")],
        )
    with pytest.raises(PogsonValueError, match="two sky templates"):
        fit_sky_spectrum(scene.exposures, [blue])


def test_a_halo_that_fills_a_detector_stays(rng):
    """The detector's own background swallows a large galaxy; the focal plane's does not."""
    exposures, light = [], []
    for k in range(3):
        wcs = FitsSkyMap.tan(150.0, 2.0, x=400.0 - 270.0 * k, y=128.0, scale_arcsec=0.3)
        yy, xx = np.mgrid[0:256, 0:256]
        galaxy = 30.0 * np.exp(-np.hypot(xx - 128, yy - 128) / 80.0) * (k == 1)
        image = rng.normal(1000.0 + galaxy, 5.0)
        exposures.append(
            Exposure(image, unit="adu", measure="surface_brightness", sky=wcs, detector=f"c{k}")
        )
        light.append(galaxy)
    model = fit_focal_plane_background(exposures, order=1, pedestals=False, mesh=32)
    kept = exposures[1].image - model.backgrounds["c1"].level.render()
    alone = exposures[1].image - estimate_background(exposures[1], mesh=64).level.render()
    assert kept.sum() > 0.5 * light[1].sum()
    assert alone.sum() < 0.3 * light[1].sum()


class TestBadInput:
    box = Box(0, 0, 128, 128)

    def one(self, **more):
        sky = FitsSkyMap.tan(150.0, 2.0, x=64.0, y=64.0, scale_arcsec=0.3)
        values = {
            "unit": "adu", "measure": "surface_brightness", "sky": sky, "detector": "a",
        } | more  # fmt: skip
        return Exposure(np.full(self.box.shape, 10.0), **values)

    def test_nothing(self):
        with pytest.raises(PogsonValueError, match="no exposures"):
            fit_focal_plane_background([])

    def test_detectors_and_units(self):
        with pytest.raises(PogsonValueError, match="different named detectors"):
            fit_focal_plane_background([self.one(), self.one()])
        with pytest.raises(UnitMismatchError, match="adu, electron"):
            fit_focal_plane_background([self.one(), self.one(detector="b", unit="electron")])
        with pytest.raises(MissingDataError, match="no sky mapping"):
            fit_focal_plane_background([self.one(sky=None)])

    def test_areas_that_do_not_compare(self):
        pair = [
            self.one(area_ratio=ChebyshevField(self.box, [[a]]), detector=d)
            for a, d in ((1.0, "a"), (1.1, "b"))
        ]
        with pytest.raises(CalibrationError, match="Give every detector the same reference"):
            fit_focal_plane_background(pair)

    def test_too_few_cells(self):
        with pytest.raises(PogsonValueError, match="lower the order"):
            fit_focal_plane_background([self.one()], order=4)

    def test_unknown_flattening_is_asked_for(self):
        with pytest.raises(MissingDataError, match="no flattening"):
            fit_focal_plane_background([self.one()], sky_sed=Spectrum.constant_ab(20.0))

    def test_other_visit_cannot_be_attached(self, rng):
        e = self.one().with_(image=rng.normal(10.0, 1.0, self.box.shape))
        model = fit_focal_plane_background([e], order=0, mesh=32)
        with pytest.raises(MissingDataError, match="was not in the fit"):
            model.attach([self.one(detector="z")])
