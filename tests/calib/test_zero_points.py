"""Zero-point fits against simulations with known truth."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
from scipy import stats

from pogson.calib import ColorTerm, FluxReference, PhotoCalib, StarStatus, fit_zero_point
from pogson.errors import (
    CalibrationError,
    MaskedDataError,
    MissingDataError,
    PogsonValueError,
    UnitMismatchError,
)
from pogson.fields import Box, ChebyshevField

REFERENCE = FluxReference.aperture(12)
BOX = Box(0, 0, 2048, 4096)
ZP = 25.0
SHAPE = ChebyshevField(BOX, [[ZP, 0.04, -0.02], [0.03, 0.01, 0.0], [0.015, 0.0, 0.0]], total=True)


def simulate(rng, n, *, scatter=0.02, snr=(20.0, 300.0), ref_error=0.01, slope=0.0, **more):
    """Return what a fit takes: stars with known truth, intrinsic scatter lognormal."""
    truth = 10 ** rng.uniform(3, 5.5, n)
    x, y = rng.uniform(0, 2047, n), rng.uniform(0, 4095, n)
    color = rng.uniform(0.2, 2.5, n)
    zero_point = SHAPE(x=x, y=y) if more.get("spatial") else np.full(n, ZP)
    natural = truth * 10 ** (-0.4 * slope * (color - 1.0))
    counts = natural * 10 ** (0.4 * (zero_point - 31.4))
    error = counts / rng.uniform(*snr, n)
    measured = counts * 10 ** (-0.4 * rng.normal(0, scatter, n)) + rng.normal(0, error)
    outlier = rng.random(n) < more.get("outliers", 0.0)
    blend = 10 ** (0.4 * rng.uniform(0.15, 2.0, n))
    measured = np.where(outlier, measured * blend, measured)
    color_error = more.get("color_error", 0.0)
    out = {
        "inst_flux": measured,
        "inst_flux_err": error,
        "ref_flux": truth + rng.normal(0, ref_error * truth),
        "ref_flux_err": ref_error * truth,
        "reference": REFERENCE,
    }
    if more.get("spatial"):
        out |= {"x": x, "y": y, "box": BOX, "order": 2}
    if slope or more.get("color"):
        out |= {"color": color + rng.normal(0, color_error, n), "color_err": color_error}
    return out, outlier


def campaign(rng, n_fits, n, truth, *, options=None, **more):
    """Return pulls of named parameters, pulls of the scatter and the fits."""
    pulls, fits = [], []
    for _ in range(n_fits):
        fit = fit_zero_point(**simulate(rng, n, **more)[0], **(options or {}))
        fits.append(fit)
        pulls.append([(fit.parameters[k] - v) / fit.covariance.error(k) for k, v in truth.items()])
    return np.array(pulls), fits


def check_pulls(pulls, label, sigma=3.5):
    """Mean within sigma/sqrt(N) of 0, width within the chi-square limits of 1."""
    n = len(pulls)
    alpha = stats.norm.sf(sigma)
    low, high = np.sqrt(stats.chi2.ppf([alpha, 1 - alpha], n - 1) / (n - 1))
    mean, width = pulls.mean(axis=0), pulls.std(axis=0, ddof=1)
    print(f"{label}: {n} fits, mean pull {mean.round(3)}, width {width.round(3)}")
    assert np.all(np.abs(mean) < sigma / np.sqrt(n)), (label, mean)
    assert np.all((width > low) & (width < high)), (label, width, low, high)


def test_constant_pulls(rng) -> None:
    pulls, fits = campaign(rng, 150, 100, {"zero_point": ZP})
    check_pulls(pulls, "constant")
    scatter = np.array([f.intrinsic_scatter for f in fits])
    errors = np.array([f.intrinsic_scatter_err for f in fits])
    print(f"scatter {scatter.mean():.5f} +- {scatter.std():.5f}, claimed {errors.mean():.5f}")
    assert abs(scatter.mean() - 0.02) < 3.5 * scatter.std() / np.sqrt(150)
    assert errors.mean() == pytest.approx(scatter.std(), rel=0.3)
    chi2 = np.array([f.chi2 / f.degrees_of_freedom for f in fits])
    assert chi2.mean() == pytest.approx(1.0, abs=0.03)


def test_spatial_and_color_pulls(rng) -> None:
    """Every parameter of an order-2 field with a colour slope, at once."""
    truth = {
        "zero_point": ZP,
        "zero_point_x1_y0": 0.04,
        "zero_point_x2_y0": -0.02,
        "zero_point_x0_y1": 0.03,
        "zero_point_x1_y1": 0.01,
        "zero_point_x0_y2": 0.015,
        "color_slope": 0.08,
    }
    # the basis has (j, i) total order 2: the three missing cross terms are zero
    pulls, fits = campaign(
        rng,
        100,
        150,
        truth,
        spatial=True,
        slope=0.08,
        options={"color_term": "fit", "color_pivot": 1.0},
    )
    assert list(fits[0].parameters) == [
        "zero_point",
        "zero_point_x1_y0",
        "zero_point_x2_y0",
        "zero_point_x0_y1",
        "zero_point_x1_y1",
        "zero_point_x0_y2",
        "color_slope",
    ]
    check_pulls(pulls, "field and colour", sigma=3.9)  # seven parameters


def test_full_covariance_not_only_its_diagonal(rng) -> None:
    """Mahalanobis distances follow chi-square with as many degrees as parameters."""
    truth = np.array([ZP, 0.04, -0.02, 0.03, 0.01, 0.015])
    distances = []
    for _ in range(100):
        fit = fit_zero_point(**simulate(rng, 60, spatial=True)[0])
        d = np.array(list(fit.parameters.values())) - truth
        distances.append(d @ np.linalg.solve(fit.covariance.matrix, d))
    p = stats.kstest(distances, stats.chi2(6).cdf).pvalue
    print(f"KS probability of the distances {p:.3f}, mean {np.mean(distances):.2f} (6)")
    assert p > 1e-3


@pytest.mark.parametrize("ref_error", [0.005, 0.12])
def test_unbiased_at_low_signal_to_noise(rng, ref_error: float) -> None:
    """S/N 5 to 6 in every star: the zero point is unbiased; the mean of magnitudes is not."""
    n_fits, n = 80, 600
    zero_points, errors, naive = [], [], []
    for _ in range(n_fits):
        stars, _ = simulate(rng, n, snr=(5.0, 6.0), ref_error=ref_error, scatter=0.02)
        fit = fit_zero_point(**stars, min_snr=3.0)
        zero_points.append(fit.zero_point - ZP)
        errors.append(fit.zero_point_err)
        good = stars["inst_flux"] > 0
        mags = 31.4 - 2.5 * np.log10(stars["ref_flux"][good] / stars["inst_flux"][good])
        weights = (stars["inst_flux"][good] / stars["inst_flux_err"][good]) ** 2
        naive.append(np.average(mags, weights=weights) - ZP)
    bias, of_bias = np.mean(zero_points), np.std(zero_points) / np.sqrt(n_fits)
    print(
        f"S/N 5-6, reference {ref_error:.3f}: bias {1e3 * bias:.2f} +- {1e3 * of_bias:.2f} mmag, "
        f"error of one fit {1e3 * np.mean(errors):.2f}; mean of magnitudes "
        f"{1e3 * np.mean(naive):.1f} mmag"
    )
    assert abs(bias) < 3.5 * of_bias
    assert abs(np.mean(naive)) > 10 * of_bias


@pytest.mark.parametrize("scatter", [0.0, 0.02, 0.05])
def test_three_stars_honest(rng, scatter: float) -> None:
    """With three stars the intervals cover at least what they claim."""
    inside68, inside95 = 0, 0
    n_fits = 150
    for _ in range(n_fits):
        stars, _ = simulate(rng, 3, scatter=scatter, snr=(50, 200), ref_error=0.01)
        fit = fit_zero_point(**stars)
        low, high = fit.zero_point_interval(0.6827)
        inside68 += low <= ZP <= high
        low, high = fit.zero_point_interval(0.95)
        inside95 += low <= ZP <= high
        assert fit.n_used == 3
    print(f"scatter {scatter}: coverage {inside68 / n_fits:.3f} (0.683), {inside95 / n_fits:.3f}")
    margin = 3.5 * np.sqrt(0.6827 * 0.3173 / n_fits)
    assert inside68 / n_fits > 0.6827 - margin
    assert inside95 / n_fits > 0.95 - 3.5 * np.sqrt(0.95 * 0.05 / n_fits)


@pytest.mark.parametrize("fraction", [0.05, 0.20])
def test_outliers(rng, fraction: float) -> None:
    """One-sided outliers (blends) of 0.15-2 mag leave the zero point where it is."""
    pulls, found, wrong = [], 0, 0
    for _ in range(60):
        stars, outlier = simulate(rng, 100, outliers=fraction, ref_error=0.005, scatter=0.01)
        fit = fit_zero_point(**stars)
        pulls.append([(fit.zero_point - ZP) / fit.zero_point_err])
        found += np.sum(fit.status[outlier] == StarStatus.OUTLIER) / max(outlier.sum(), 1)
        wrong += np.sum(fit.status[~outlier] == StarStatus.OUTLIER)
    print(f"{fraction:.0%}: {found / 60:.3f} of outliers found, {wrong / 60:.2f} wrong per fit")
    check_pulls(np.array(pulls), f"{fraction:.0%} outliers")
    assert found / 60 > 0.95
    assert wrong / 60 < 0.3


def test_color_errors_do_not_flatten_the_slope(rng) -> None:
    """Errors of colours attenuate a naive slope by 1/(1 + 0.3^2/0.44) = 17 %; not this one."""
    pulls, fits = campaign(
        rng,
        80,
        200,
        {"color_slope": 0.3, "zero_point": ZP},
        slope=0.3,
        color_error=0.3,
        scatter=0.0,
        options={"color_term": "fit", "color_pivot": 1.0},
    )
    slopes = np.array([f.parameters["color_slope"] for f in fits])
    print(f"slope {slopes.mean():.4f} +- {slopes.std() / np.sqrt(80):.4f} (0.3)")
    assert abs(slopes.mean() - 0.3) < 0.01
    check_pulls(pulls, "colour errors", sigma=4.0)


def test_fixed_color_term(rng) -> None:
    term = ColorTerm((0.0, 0.08), pivot=1.0, color_range=(0.5, 2.0))
    stars, _ = simulate(rng, 400, slope=0.08)
    fit = fit_zero_point(**stars, color_term=term)
    assert abs(fit.zero_point - ZP) < 4 * fit.zero_point_err
    assert fit.color_term == term
    beyond = (stars["color"] < 0.5) | (stars["color"] > 2.0)
    np.testing.assert_array_equal(fit.status[beyond], StarStatus.COLOR_RANGE)
    assert fit.photo_calib.provenance["color_term"]["coefficients"] == [0.0, 0.08]


def test_calibration_reproduces_the_fit(rng) -> None:
    """The PhotoCalib's field is the fitted zero point, and its error the fit's."""
    stars, _ = simulate(rng, 300, spatial=True)
    fit = fit_zero_point(**stars, bandpass="decam2014-r", provenance={"night": 3})
    calib = fit.photo_calib
    assert calib.reference == REFERENCE
    assert calib.bandpass == "decam2014-r"
    assert calib.provenance["night"] == 3
    c = np.zeros((3, 3))
    for name, value in fit.parameters.items():
        i, j = (0, 0) if name == "zero_point" else (int(name[12]), int(name[-1]))
        c[j, i] = value
    exact = ChebyshevField(BOX, c)
    x, y = rng.uniform(0, 2047, 500), rng.uniform(0, 4095, 500)
    np.testing.assert_allclose(calib.zero_point(x=x, y=y), exact(x=x, y=y), atol=2e-9)
    basis = ChebyshevField(BOX, c, total=True).basis(x=x, y=y)
    error = np.sqrt(np.einsum("ni,ij,nj->n", basis, fit.covariance.matrix, basis))
    np.testing.assert_allclose(calib.zero_point_error(x=x, y=y), error, rtol=1e-10)
    used = fit.used
    flux = calib.flux(stars["inst_flux"], x=stars["x"], y=stars["y"])
    expected = -2.5 * np.log10(flux / stars["ref_flux"])
    np.testing.assert_allclose(fit.residuals[used], expected[used], rtol=0.05, atol=3e-4)
    assert PhotoCalib.from_json(calib.to_json()) == calib


def test_pulls_of_stars(rng) -> None:
    fit = fit_zero_point(**simulate(rng, 2000)[0])
    pulls = fit.pulls[fit.used]
    assert abs(pulls.mean()) < 4 / np.sqrt(2000)
    assert pulls.std() == pytest.approx(1.0, abs=0.06)
    assert stats.kstest(pulls, "norm").pvalue > 1e-3


def test_known_scatter_and_priors(rng) -> None:
    stars, _ = simulate(rng, 50)
    known = fit_zero_point(**stars, intrinsic_scatter=0.02)
    assert known.intrinsic_scatter == 0.02
    assert known.intrinsic_scatter_err == 0.0
    assert np.isinf(known.covariance.degrees_of_freedom)
    tight = fit_zero_point(**stars, prior={"zero_point": (24.9, 1e-5)})
    assert tight.zero_point == pytest.approx(24.9, abs=1e-4)
    loose = fit_zero_point(**stars, prior={"zero_point": (20.0, 100.0)})
    free = fit_zero_point(**stars)
    assert loose.zero_point == pytest.approx(free.zero_point, abs=1e-5)
    # one star and a prior: the weighted mean of the two
    one = {k: (v[:1] if isinstance(v, np.ndarray) else v) for k, v in stars.items()}
    alone = fit_zero_point(**one, intrinsic_scatter=0.0)
    both = fit_zero_point(
        **one, intrinsic_scatter=0.0, prior={"zero_point": (ZP, alone.zero_point_err)}
    )
    assert both.zero_point == pytest.approx((alone.zero_point + ZP) / 2, abs=3e-4)


def test_against_a_weighted_mean_by_hand() -> None:
    """High S/N, no scatter: the textbook weighted mean."""
    ref = np.array([1e6, 2e6, 4e6])
    counts = ref * 10 ** (0.4 * (25.0 - 31.4)) * (1 + np.array([1e-5, -2e-5, 5e-6]))
    err = counts * np.array([1e-5, 2e-5, 1e-5])
    fit = fit_zero_point(counts, err, ref, reference=REFERENCE, intrinsic_scatter=0.0, clip=None)
    weights = (counts / err) ** 2
    mean = np.average(25.0 + 2.5 * np.log10(1 + np.array([1e-5, -2e-5, 5e-6])), weights=weights)
    assert fit.zero_point == pytest.approx(mean, abs=1e-8)
    assert fit.zero_point_err == pytest.approx(1.0857362 / np.sqrt(weights.sum()), rel=1e-4)


def test_statuses_are_reported(rng) -> None:
    stars, _ = simulate(rng, 40, color=True)
    stars["inst_flux"][0] = np.nan
    stars["inst_flux_err"][1] = 0.0
    stars["ref_flux"][2] = np.nan
    stars["ref_flux"][3] = -5.0
    stars["color"][4] = np.nan
    stars["inst_flux_err"][5] = stars["inst_flux"][5]
    stars["inst_flux"][6] *= 3.0
    ids = np.arange(40)
    ids[[7, 8]] = 99
    saturated, flagged = np.zeros(40, bool), np.zeros(40, bool)
    saturated[9], flagged[10] = True, True
    x, y = np.full(40, 100.0), np.full(40, 100.0)
    x[11] = -100.0
    fit = fit_zero_point(
        **stars,
        color_term="fit",
        ids=ids,
        saturated=saturated,
        flagged=flagged,
        x=x,
        y=y,
        box=BOX,
    )
    expected = {
        0: "NOT_FINITE",
        1: "NOT_FINITE",
        2: "NO_REFERENCE",
        3: "NO_REFERENCE",
        4: "COLOR_RANGE",
        5: "LOW_SNR",
        6: "OUTLIER",
        7: "DUPLICATE",
        8: "DUPLICATE",
        9: "SATURATED",
        10: "FLAGGED",
        11: "OUTSIDE_BOX",
        12: "USED",
    }
    assert {i: StarStatus(fit.status[i]).name for i in expected} == expected
    assert sum(fit.counts().values()) == 40
    assert "OUTLIER" in fit.summary()
    table = fit.table()
    assert len(table) == 40
    assert np.isnan(table["residual"][0])
    assert table["residual"][6] < -1.0  # too bright: minus


def test_bad_input(rng) -> None:
    stars, _ = simulate(rng, 30)
    none = {k: (v[:0] if isinstance(v, np.ndarray) else v) for k, v in stars.items()}
    with pytest.raises(MaskedDataError, match="do not overlap"):
        fit_zero_point(**none)
    with pytest.raises(MaskedDataError, match="30 SATURATED"):
        fit_zero_point(**stars, saturated=np.ones(30, bool))
    with pytest.raises(MaskedDataError, match="30 LOW_SNR"):
        fit_zero_point(**stars, min_snr=1e9)
    with pytest.raises(MissingDataError, match="color="):
        fit_zero_point(**stars, color_term="fit")
    with pytest.raises(MissingDataError, match="order 2"):
        fit_zero_point(**stars, order=2)
    with pytest.raises(CalibrationError, match="cannot determine"):
        fit_zero_point(**simulate(rng, 4, spatial=True)[0])
    with pytest.raises(CalibrationError, match="too much alike"):
        fit_zero_point(**stars, color=np.ones(30), color_term="fit")
    with pytest.raises(CalibrationError, match="positive measured flux"):
        fit_zero_point(**(stars | {"inst_flux": -stars["inst_flux"]}))
    with pytest.raises(PogsonValueError, match="shape"):
        fit_zero_point(**(stars | {"ref_flux": stars["ref_flux"][:7]}))
    with pytest.raises(UnitMismatchError):
        fit_zero_point(**(stars | {"inst_flux": stars["inst_flux"] * u.electron}))
    for options in (
        {"order": -1},
        {"clip": 0.5},
        {"min_snr": -1},
        {"intrinsic_scatter": -0.1},
        {"scatter_prior": 0.0},
        {"color": np.ones(30), "color_term": 3},
        {"prior": {"slope": (0, 1)}},
        {"prior": {"zero_point": (25, 0)}},
        {"ids": [1, 2]},
        {"flagged": [True]},
    ):
        with pytest.raises(PogsonValueError):
            fit_zero_point(**stars, **options)


@pytest.mark.slow
def test_constant_pulls_long(rng) -> None:
    for n in (8, 30, 300):
        pulls, _ = campaign(rng, 2000, n, {"zero_point": ZP})
        print(n, pulls.mean(), pulls.std())
        if n >= 30:
            check_pulls(pulls, f"{n} stars")
        else:
            assert pulls.std() < 1.05
