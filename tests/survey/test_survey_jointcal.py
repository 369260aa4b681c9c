"""The hand-solved case of jointcal: two visits, three measurements, two reference stars.

The data are jointcal's own test set. Its tests quote chi2 2.336915 with one degree of freedom for
the simple flux model, in which the error of a calibrated flux scales with the calibration but is
not differentiated. The same condition, solved by hand below, is the independent truth for the other
spaces.
"""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from scipy.optimize import fsolve, minimize

from pogson.survey import (
    Detectors,
    ExposurePolynomial,
    Exposures,
    ExposureZeroPoint,
    Observations,
    Stars,
    SurveyTables,
    calibrate,
)

POGSON = 2.5 / np.log(10.0)
MAGGY = 3631e9  # nJy, of the data's own calibration


@pytest.fixture(scope="module")
def data(shared_data):
    """Fluxes as three measurements: (visit, star), flux, error in nJy, and two references."""
    flux, err, visit, star = [], [], [], []
    reference = fits.getdata(shared_data("jointcal-minimal/225822.fits"))
    names = reference.dtype.names
    flux_name = next(n for n in names if n.lower() in ("r_flux", "r_instflux"))
    err_name = next(n for n in names if n.startswith("r_flux") and n != flux_name)
    positions = []
    for v, number in enumerate((849375, 850587)):
        summary = fits.getdata(shared_data(f"jointcal-minimal/visitSummary-{number}.fits"))
        del summary
        table = fits.getdata(shared_data(f"jointcal-minimal/SRC-{number}-12.fits"))
        scale = (0.54322, 0.52578)[v]  # nJy per ADU, calibration means of the two exposures
        for row in table:
            f = row["base_CircularApertureFlux_12_0_flux"]
            e = row["base_CircularApertureFlux_12_0_fluxSigma"]
            if row["base_ClassificationExtendedness_value"] > 0.5 or f / e < 10:
                continue
            ra, dec = row["coord_ra"], row["coord_dec"]
            near = [
                k
                for k, (a, d) in enumerate(positions)
                if np.hypot((ra - a) * np.cos(dec), dec - d) < np.radians(3 / 3600)
            ]
            k = near[0] if near else len(positions)
            if not near:
                positions.append((ra, dec))
            visit.append(v)
            star.append(k)
            flux.append(f * scale)
            err.append(e * scale)
    ref, ref_err = [], []
    for ra, dec in positions:
        d = np.hypot((reference["coord_ra"] - ra) * np.cos(dec), reference["coord_dec"] - dec)
        k = int(np.argmin(d))
        assert d[k] < np.radians(3 / 3600)
        ref.append(float(reference[flux_name][k]))
        ref_err.append(float(reference[err_name][k]))
    return (np.array(visit), np.array(star), np.array(flux), np.array(err), np.array(ref),
            np.array(ref_err))  # fmt: skip


def observations(data):
    visit, star, flux, err, ref, ref_err = data
    tables = SurveyTables(Exposures([849375, 850587]), Detectors([12]))
    stars = Stars([0, 1], reference_mag=-2.5 * np.log10(ref), reference_err=POGSON * ref_err / ref)
    return Observations.from_fluxes(
        tables, stars, star=star, exposure=visit, detector=0, x=1000.0, y=2000.0, flux=flux,
        flux_err=err,
    )  # fmt: skip


def by_hand(data):
    """Scales and star fluxes that zero jointcal's gradient, in which errors are held fixed."""
    visit, star, flux, err, ref, ref_err = data

    def terms(p):
        scale, star_flux = p[:2][visit], p[2:][star] * ref[0]
        return (scale * flux - star_flux) / (scale * err), scale

    def gradient(p):
        z, scale = terms(p)
        gap = (p[2:] * ref[0] - ref) / ref_err
        by_scale = np.bincount(visit, z * flux / (scale * err), 2)
        by_star = ref[0] * (gap / ref_err - np.bincount(star, z / (scale * err), 2))
        return np.concatenate([by_scale, by_star])

    p = fsolve(gradient, [1.0, 1.0, 1.0, ref[1] / ref[0]], xtol=1e-13)
    z, _ = terms(p)
    return float(np.sum(z**2) + np.sum(((p[2:] * ref[0] - ref) / ref_err) ** 2)), p


def test_simple_flux_chi2(data):
    """The figure jointcal's own test holds exact, from its data."""
    solution = calibrate(observations(data), [ExposureZeroPoint()], space="flux")
    assert solution.degrees_of_freedom == 1
    assert solution.chi2 == pytest.approx(2.336915, abs=2e-6)
    assert solution.observations.flag_counts() == {}


def test_flux_solution_is_the_hand_solved_one(data):
    truth, p = by_hand(data)
    solution = calibrate(observations(data), [ExposureZeroPoint()], space="flux")
    assert solution.chi2 == pytest.approx(truth, rel=1e-9)
    zero_points = solution["exposure_zero_point"]
    np.testing.assert_allclose(10.0 ** (-0.4 * zero_points), p[:2], rtol=1e-8)
    np.testing.assert_allclose(10.0 ** (-0.4 * solution.stars.mag), p[2:] * data[4][0], rtol=1e-8)


def test_simple_magnitude_is_the_least_squares_one(data):
    visit, star, flux, err, ref, ref_err = data
    solution = calibrate(observations(data), [ExposureZeroPoint()])

    def chi2(p):
        z = (-2.5 * np.log10(flux) + p[visit] - p[2:][star]) / (POGSON * err / flux)
        gap = (p[2:] + 2.5 * np.log10(ref)) / (POGSON * ref_err / ref)
        return np.sum(z**2) + np.sum(gap**2)

    found = minimize(chi2, [0, 0, *(-2.5 * np.log10(ref))], method="BFGS", options={"gtol": 1e-9})
    assert solution.degrees_of_freedom == 1
    assert solution.chi2 == pytest.approx(found.fun, rel=1e-7)


def test_constrained_variant_needs_priors(data):
    """With a polynomial a visit (jointcal's constrained models) three stars do not suffice.

    jointcal holds the chip constant and starts the polynomial at one; the extra coefficients are
    undetermined, which is said by name, and priors leave chi2 where the simple model has it.
    """
    from pogson.errors import CalibrationError

    obs = observations(data)
    terms = [ExposureZeroPoint(), ExposurePolynomial(order=1)]
    with pytest.raises(CalibrationError, match="exposure_polynomial"):
        calibrate(obs, terms, space="flux")
    terms[1] = ExposurePolynomial(order=1, prior_sigma=1e-6)
    solution = calibrate(obs, terms, space="flux")
    assert solution.chi2 == pytest.approx(2.336915, abs=5e-6)
