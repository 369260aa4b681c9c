"""The names of kspecdr: each known defect has a test here that it would fail."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits

from pogson.errors import MissingDataError, PogsonValueError
from pogson.sed import load_filter_curves
from pogson.simulate import FibreSimulation, simulate_fibres
from pogson.spectro import CalibrationVector, Photometry, Spectrum1D
from pogson.spectro.kspecdr_names import (
    apply_flux_calibration,
    combine_calibration_vectors,
    compute_calibration_vector_for_star,
    scale_template_to_photometry,
    select_best_template,
)

LAM = np.linspace(4000.0, 8000.0, 800)


@pytest.fixture(scope="module")
def sim() -> FibreSimulation:
    return simulate_fibres(seed=21, n_stars=3, n_fibres=3, sn=(40, 60))


def vectors(sim: FibreSimulation) -> list[CalibrationVector]:
    curves = load_filter_curves(sim.standards["star 1"].filter_names)
    return [
        compute_calibration_vector_for_star(
            sim.frame.spectrum(i), phot, sim.library, curves, 2.3548 * sim.frame.lsf_sigma,
            star_name=name, fiber_id=i,
        )
        for i, (name, phot) in enumerate(sim.standards.items())
    ]  # fmt: skip


def flat_vector(factor: float, name: str, rel: float = 0.01) -> CalibrationVector:
    f = np.full(LAM.size, factor)
    return CalibrationVector(LAM, f, (rel * f) ** 2, meta={"star_name": name})


def test_velocity_is_applied(sim: FibreSimulation) -> None:
    # the residual of a line would be 5 % rms in the blue at 100 km/s
    for i, v in enumerate(vectors(sim)):
        assert v.meta["rv_kms"] == pytest.approx(sim.targets[i].rv_kms, abs=10)
        ratio = v.cal_factor / sim.true_factor()
        blue = v.mask & (v.wavelength > 4000) & (v.wavelength < 5000)
        noise = 1.6 / sim.targets[i].sn
        assert np.std(ratio[blue]) / np.mean(ratio[blue]) < noise + 0.01


def test_stars_combine_to_the_truth(sim: FibreSimulation) -> None:
    result = combine_calibration_vectors(vectors(sim), smooth=True)
    combined = result.combined_vector
    good = combined.mask & (sim.transmission > 0.999) & (combined.wavelength > 3900)
    ratio = combined.cal_factor[good] / sim.true_factor()[good]
    assert np.std(ratio) < 0.01
    assert abs(np.mean(ratio) - 1) < 0.02
    assert result.summary["n_stars_used"] == 3
    inside = (combined.wavelength > 7600) & (combined.wavelength < 7690)
    assert not combined.mask[inside].any()  # smoothing does not make masked pixels good
    assert np.all(np.isnan(combined.cal_factor[inside]))


@pytest.mark.parametrize("n", range(3, 11))
def test_a_star_wrong_by_100(n: int) -> None:
    given = [flat_vector(1e-17 * (1 + 0.03 * i), f"s{i}") for i in range(n - 1)]
    result = combine_calibration_vectors([*given, flat_vector(1e-15, "bad")])
    assert list(result.summary["rejected"]) == ["bad"]
    assert result.summary["n_stars_rejected"] == 1


def test_one_star_does_not_look_perfect() -> None:
    result = combine_calibration_vectors([flat_vector(1e-17, "only")])
    assert np.isnan(result.summary["rms_scatter"])
    assert np.nanmedian(result.combined_vector.cal_error) > 0.01e-17
    _, _, header = apply_flux_calibration(np.ones(LAM.size), np.ones(LAM.size), result)
    assert "FCALRMS" not in header


def test_masked_pixels_are_not_perfect_zeros() -> None:
    factor = np.full(LAM.size, 1e-17)
    factor[100:120] = np.nan
    flux, variance, _ = apply_flux_calibration(
        np.ones((2, LAM.size)), np.ones((2, LAM.size)), CalibrationVector(LAM, factor, 0 * LAM)
    )
    assert np.isnan(flux[:, 100:120]).all()
    assert np.isnan(variance[:, 100:120]).all()


def test_variance_has_both_terms_and_either_orientation() -> None:
    v = flat_vector(2e-17, "a", 0.1)
    flux, variance, _ = apply_flux_calibration(np.full((3, 800), 5.0), np.full((3, 800), 4.0), v)
    np.testing.assert_allclose(variance, 4 * (2e-17) ** 2 + 25 * (2e-18) ** 2)
    turned, _, _ = apply_flux_calibration(np.full((800, 3), 5.0), np.full((800, 3), 4.0), v)
    np.testing.assert_array_equal(turned.T, flux)


def test_shapes_and_wavelengths_are_checked() -> None:
    v = flat_vector(1e-17, "a")
    for shape in ((799,), (3, 799), (800, 800)):
        with pytest.raises(PogsonValueError):
            apply_flux_calibration(np.ones(shape), np.ones(shape), v)
    with pytest.raises(PogsonValueError, match="resample"):
        apply_flux_calibration(np.ones(800), np.ones(800), v, wavelength=LAM + 1)


def test_header_is_understood_by_astropy() -> None:
    header = fits.Header()
    v = flat_vector(1e-17, "a")
    apply_flux_calibration(np.ones(800), np.ones(800), v, header)
    unit = u.Unit(header["BUNIT"])
    assert unit.is_equivalent(u.W / u.m**2 / u.AA)
    assert unit.to(u.erg / u.s / u.cm**2 / u.AA) == pytest.approx(1.0)


def test_truncated_bands_and_missing_scales() -> None:
    short = Spectrum1D(np.linspace(3700.0, 5500.0, 500), np.full(500, 1e-15))
    curves = load_filter_curves(["ps1_g", "ps1_r"])
    with pytest.raises(MissingDataError, match=r"ps1_r \(\d+ % covered\)"):
        scale_template_to_photometry(short, Photometry(["ps1_r"], [15.0], [0.01]), curves)
    with pytest.raises(MissingDataError):
        scale_template_to_photometry(short, Photometry(["ps1_g"], [np.nan], [0.01]), curves)


def test_scale_error_follows_the_bands() -> None:
    lam = np.linspace(3500.0, 10000.0, 2000)
    flat = Spectrum1D(lam, 1.0 / lam**2)
    curves = load_filter_curves(["ps1_g", "ps1_r", "ps1_i"])
    good = scale_template_to_photometry(
        flat, Photometry(tuple(curves), [15.0] * 3, [0.01] * 3), curves
    )
    odd = scale_template_to_photometry(
        flat, Photometry(tuple(curves), [15.0, 15.3, 15.0], [0.01] * 3), curves
    )
    assert odd[1] / odd[0] > 5 * good[1] / good[0]
    assert good[1] / good[0] == pytest.approx(
        0.4 * np.log(10) * np.hypot(0.01, 0.01) / 3**0.5, rel=1e-6
    )


def test_history_has_every_star(sim: FibreSimulation) -> None:
    meta = {"fiber_id": 1, "teff": 6000.0, "logg": 4.0, "feh": -1.0, "rv_kms": 5.0}
    given = [
        CalibrationVector(
            LAM, np.full(LAM.size, 1e-17), np.full(LAM.size, 1e-38),
            meta=meta | {"star_name": name, "scale_factor": 2.0},
        )
        for name in ("one", "two", "three")
    ]  # fmt: skip
    result = combine_calibration_vectors(given)
    ones = np.ones(LAM.size)
    for header in ({}, fits.Header()):
        _, _, updates = apply_flux_calibration(ones, ones, result, header)
        assert [line.split()[1] for line in updates["HISTORY"]] == [
            "star=one", "star=two", "star=three",
        ]  # fmt: skip
        assert "star=one" in str(header["HISTORY"])
        assert "star=three" in str(header["HISTORY"])


def test_residuals_of_bands_have_no_nan(sim: FibreSimulation) -> None:
    """A band beyond the models and one without a magnitude are left out, not kept as NaN."""
    p = sim.standards["star 1"]
    names = (*p.filter_names, "2mass_j", "sdss_r")
    photometry = Photometry(
        names, [*p.magnitudes, 14.0, np.nan], [*p.mag_errors, 0.02, 0.02], dict(p.meta)
    )
    v = compute_calibration_vector_for_star(
        sim.frame.spectrum(0), photometry, sim.library, load_filter_curves(names),
        2.3548 * sim.frame.lsf_sigma, star_name="star 1",
    )  # fmt: skip
    residuals = v.meta["band_residuals"]
    assert set(residuals) == set(p.filter_names)
    assert np.all(np.isfinite(list(residuals.values())))


def test_combining_nothing_or_unknown() -> None:
    with pytest.raises(PogsonValueError, match="at least one"):
        combine_calibration_vectors([])
    for method in ("mode", "joint"):
        with pytest.raises(PogsonValueError, match="weighted_mean"):
            combine_calibration_vectors([flat_vector(1e-17, "a")], method=method)  # type: ignore[arg-type]
    for options in ({"sigma_clip": 0}, {"sigma_clip": None}, {"sigma_clip": np.nan},
                    {"smooth_window": -5}):  # fmt: skip
        with pytest.raises(PogsonValueError, match="must be a positive number"):
            combine_calibration_vectors([flat_vector(1e-17, "a")], **options)  # type: ignore[arg-type]


def test_pixels_without_data_are_not_perfect() -> None:
    """0 +- 0, a negative or an unknown variance: no data; 0 variance of a count is allowed."""
    v = flat_vector(2e-17, "a", 0.1)
    counts, variance = np.full(800, 5.0), np.full(800, 4.0)
    counts[0], variance[0] = 0.0, 0.0
    variance[1:4] = -4.0, np.nan, 0.0
    flux, total, _ = apply_flux_calibration(counts, variance, v)
    assert np.isnan(flux[:3]).all()
    assert np.isnan(total[:3]).all()
    assert total[3] == pytest.approx(25 * (2e-18) ** 2)
    assert np.isfinite(flux[3:]).all()
    with pytest.raises(PogsonValueError, match="not on the grid"):
        apply_flux_calibration(counts, variance, v, wavelength=np.full(800, np.nan))


def test_widths_and_ranges_are_checked(sim: FibreSimulation) -> None:
    spectrum = sim.frame.spectrum(0)
    with pytest.raises(PogsonValueError, match="fwhm_poly_coeffs"):
        select_best_template(spectrum, sim.library, np.ones(5))
    with pytest.raises(PogsonValueError, match="must be not negative"):
        select_best_template(spectrum, sim.library, 3.0, fwhm_poly_coeffs=[2.0, -1e-3])
    with pytest.raises(PogsonValueError, match="does not increase"):
        select_best_template(spectrum, sim.library, 3.0, mask_regions=[(6960.0, 6860.0)])


def test_a_template_without_light_has_no_scale() -> None:
    dark = Spectrum1D(np.linspace(3500.0, 10000.0, 500), np.zeros(500))
    with pytest.raises(MissingDataError, match="no light"):
        scale_template_to_photometry(
            dark, Photometry(["ps1_g"], [15.0], [0.01]), load_filter_curves(["ps1_g"])
        )


def test_history_of_names_that_fits_cannot_hold() -> None:
    meta = {"star_name": "\u03b2 Vir\t\u00e9", "teff": 6000.0}
    v = CalibrationVector(LAM, np.full(800, 1e-17), np.full(800, 1e-38), meta=meta)
    header = fits.Header()
    apply_flux_calibration(np.ones(800), np.ones(800), v, header)
    assert "star=beta Vir e " in str(header["HISTORY"])


@pytest.mark.parametrize("metric", ["chi2", "huber"])
def test_lines_alone_find_the_star(sim: FibreSimulation, metric: str) -> None:
    template, rv, stats = select_best_template(
        sim.frame.spectrum(0),
        sim.library,
        2.3548 * sim.frame.lsf_sigma,
        metric=metric,  # type: ignore[arg-type]
    )
    truth = sim.targets[0]
    assert rv == pytest.approx(truth.rv_kms, abs=8)
    assert template.teff == pytest.approx(truth.labels["teff"], abs=150)
    assert template.feh == pytest.approx(truth.labels["feh"], abs=0.15)
    assert 0.8 < stats["best_score"] < 1.3
    assert stats["errors"]["teff"] > 0
