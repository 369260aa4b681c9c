"""Units: the AB zero point, magnitudes of both kinds, errors, and what is refused."""

from __future__ import annotations

import contextlib

import astropy.units as u
import numpy as np
import pytest
from astropy.table import Column, MaskedColumn, QTable
from astropy.utils.masked import Masked
from hypothesis import given
from hypothesis import strategies as st

from pogson.errors import MeasureError, PogsonValueError, UnitMismatchError
from pogson.units import (
    AB_ZERO_POINT,
    NJY_AB_MAGNITUDE,
    Measure,
    ab_zero_flux,
    asinh_magnitude_to_flux,
    flux_to_asinh_magnitude,
    flux_to_magnitude,
    inverse_variance,
    magnitude_to_flux,
    parse_unit,
    strip_unit,
)

fluxes = st.floats(1e-6, 1e15)
any_flux = st.floats(-1e12, 1e12)
softenings = st.floats(1e-3, 1e6)


def test_zero_point_is_exact() -> None:
    assert AB_ZERO_POINT == -48.60
    assert NJY_AB_MAGNITUDE == 31.4
    assert flux_to_magnitude(1.0) == 31.4
    assert magnitude_to_flux(31.4) == 1.0
    # the definition: 1 nJy = 1e-32 erg/s/cm2/Hz
    definition = 2.5 * 32 + AB_ZERO_POINT
    assert definition == pytest.approx(NJY_AB_MAGNITUDE, abs=1e-14)
    assert magnitude_to_flux(0.0) == pytest.approx(10**12.56, rel=1e-14)
    assert ab_zero_flux().to_value(u.Jy) == pytest.approx(3630.780547701, rel=1e-12)
    # the rounded 3631 Jy is 0.066 mmag away
    assert 1e3 * flux_to_magnitude(3631 * u.Jy) == pytest.approx(-0.0656, abs=1e-4)


def test_against_astropy() -> None:
    f = np.geomspace(1e-3, 1e13, 50) * u.nJy
    np.testing.assert_allclose(flux_to_magnitude(f), f.to_value(u.ABmag), rtol=0, atol=1e-12)
    m = np.linspace(-2, 35, 50)
    np.testing.assert_allclose(magnitude_to_flux(m), (m * u.ABmag).to_value(u.nJy), rtol=1e-12)
    assert ab_zero_flux().to(u.ABmag).value == pytest.approx(0.0, abs=1e-13)
    assert (1 * u.AB).to_value(u.nJy) == pytest.approx(ab_zero_flux().to_value(u.nJy), rel=1e-12)


@given(fluxes)
def test_round_trip(f: float) -> None:
    assert magnitude_to_flux(flux_to_magnitude(f)) == pytest.approx(f, rel=1e-13)


@given(fluxes, st.floats(0, 1e6))
def test_error_round_trip(f: float, err: float) -> None:
    m, m_err = flux_to_magnitude(f, err)
    f2, err2 = magnitude_to_flux(m, m_err)
    assert (f2, err2) == (pytest.approx(f, rel=1e-13), pytest.approx(err, rel=1e-12))


@given(any_flux, st.floats(0, 1e6), softenings)
def test_asinh_round_trip(f: float, err: float, b: float) -> None:
    m, m_err = flux_to_asinh_magnitude(f, err, softening=b)
    f2, err2 = asinh_magnitude_to_flux(m, m_err, softening=b)
    tolerance = 1e-12 * (abs(f) + b)
    assert f2 == pytest.approx(f, rel=1e-12, abs=tolerance)
    assert err2 == pytest.approx(err, rel=1e-11)
    assert np.sign(m - flux_to_asinh_magnitude(0.0, softening=b)) in (0, -np.sign(f))


@given(st.floats(-1e9, 1e9), st.floats(1e-3, 1e3), softenings)
def test_asinh_magnitudes_fall_with_flux(f: float, step: float, b: float) -> None:
    brighter = f + step * (abs(f) * 1e-3 + b)
    assert flux_to_asinh_magnitude(brighter, softening=b) < flux_to_asinh_magnitude(f, softening=b)


def test_asinh_meets_pogson_at_bright_fluxes_and_its_definition() -> None:
    # the difference falls as (b/f)^2 * 2.5/ln 10
    for ratio in (10.0, 100.0, 1000.0):
        gap = flux_to_asinh_magnitude(5.0 * ratio, softening=5.0) - flux_to_magnitude(5.0 * ratio)
        assert gap == pytest.approx(-1.0857362 / ratio**2, rel=0.02, abs=1e-12)
    # Lupton et al. (1999), in their symbols: mu = -2.5/ln10 (asinh((f/f0)/2b) + ln b)
    f0, b = ab_zero_flux().to_value(u.nJy), 1.4e-10
    f = np.array([-30.0, 0.0, 100.0, 1e6])
    theirs = -2.5 / np.log(10) * (np.arcsinh(f / f0 / (2 * b)) + np.log(b))
    ours = flux_to_asinh_magnitude(f, softening=b * f0)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


def test_errors_against_monte_carlo(rng: np.random.Generator) -> None:
    n = 200_000
    # the sample standard deviation is good to 1/sqrt(2n); second order adds (sigma/f)^2
    slack = 5 / np.sqrt(2 * n)
    f, err = 1000.0, 10.0
    draws = rng.normal(f, err, n)
    m, m_err = flux_to_magnitude(f, err)
    assert np.std(flux_to_magnitude(draws)) == pytest.approx(m_err, rel=slack + 2e-4)
    back = magnitude_to_flux(rng.normal(m, m_err, n))
    assert np.std(back) == pytest.approx(err, rel=slack + 2e-4)
    for flux, b in ((0.0, 500.0), (-300.0, 400.0), (2000.0, 5.0)):
        draws = rng.normal(flux, 5.0, n)
        mu, mu_err = flux_to_asinh_magnitude(flux, 5.0, softening=b)
        measured = np.std(flux_to_asinh_magnitude(draws, softening=b))
        assert measured == pytest.approx(mu_err, rel=slack + 2e-4)
        back = asinh_magnitude_to_flux(rng.normal(mu, mu_err, n), softening=b)
        assert np.std(back) == pytest.approx(5.0, rel=slack + 2e-4)


def test_negative_zero_and_missing_fluxes() -> None:
    f = np.array([-5.0, 0.0, np.nan, np.inf, 2.0])
    m, err = flux_to_magnitude(f, np.ones(5))
    assert np.isnan(m).tolist() == [True, True, True, False, False]
    assert m[3] == -np.inf
    assert np.isnan(err).tolist() == [True, True, True, False, False]
    mu = flux_to_asinh_magnitude(f, softening=1.0)
    assert np.isfinite(mu).tolist() == [True, True, False, False, True]
    assert asinh_magnitude_to_flux(mu[0], softening=1.0) == pytest.approx(-5.0)
    # errors are standard deviations: never negative
    assert flux_to_magnitude(2.0, -0.1)[1] > 0
    assert magnitude_to_flux(20.0, -0.1)[1] > 0
    assert flux_to_asinh_magnitude(-2.0, -0.1, softening=1.0)[1] > 0


def test_shapes_and_scalars() -> None:
    assert type(flux_to_magnitude(3.0)) is float
    assert [type(v) for v in magnitude_to_flux(20.0, 0.1)] == [float, float]
    assert type(flux_to_asinh_magnitude(3.0, softening=1.0)) is float
    assert flux_to_magnitude(np.ones((2, 3))).shape == (2, 3)
    assert flux_to_magnitude([]).shape == (0,)
    assert flux_to_asinh_magnitude([1.0, 2.0], softening=[1.0, 2.0]).shape == (2,)
    assert flux_to_magnitude(np.float32(2.0)) == flux_to_magnitude(2.0)


def test_quantities() -> None:
    assert flux_to_magnitude(1 * u.mJy) == pytest.approx(31.4 - 15)
    cgs = 1e-32 * u.erg / u.s / u.cm**2 / u.Hz
    assert flux_to_magnitude(cgs) == pytest.approx(31.4)
    _, err = flux_to_magnitude([1, 2] * u.uJy, [10, 20] * u.nJy)
    np.testing.assert_allclose(err, 1.0857362 * 0.01, rtol=1e-6)
    assert magnitude_to_flux(31.4 * u.ABmag, 0.1 * u.mag) == (
        pytest.approx(1.0),
        pytest.approx(0.1 / 1.0857362, rel=1e-6),
    )
    assert magnitude_to_flux(31.4 * u.mag) == 1.0
    assert flux_to_magnitude(20 * u.ABmag) == pytest.approx(20.0)
    assert flux_to_asinh_magnitude(0.0, softening=1 * u.uJy) == pytest.approx(31.4 - 7.5)
    assert asinh_magnitude_to_flux(23.9 * u.mag, softening=1 * u.uJy) == pytest.approx(0, abs=1e-9)
    for wrong in (3 * u.km, 3 * u.one, 3 * u.nJy / u.arcsec**2, 3 * u.erg / u.s):
        with pytest.raises(UnitMismatchError, match=r"flux has unit .* 'nJy'"):
            flux_to_magnitude(wrong)
    for wrong in (20 * u.STmag, 3 * u.km, 0.1 * u.one):
        with pytest.raises(UnitMismatchError, match="magnitude has unit"):
            magnitude_to_flux(wrong)
    with pytest.raises(UnitMismatchError, match="mag"):
        asinh_magnitude_to_flux(20 * u.ABmag, softening=1.0)
    with pytest.raises(UnitMismatchError, match="magnitude_err"):
        magnitude_to_flux(20.0, 3 * u.nJy)


def test_table_columns_keep_unit_and_mask() -> None:
    for column in (
        MaskedColumn([1.0, 2.0], unit="uJy", mask=[False, True]),
        Masked([1.0, 2.0] * u.uJy, mask=[False, True]),
        QTable({"f": Masked([1.0, 2.0] * u.uJy, mask=[False, True])})["f"],
        MaskedColumn([1000, 2000], unit=None, mask=[False, True]),
        np.ma.array([1000, 2000], mask=[False, True]),
    ):
        np.testing.assert_allclose(strip_unit(column, u.nJy, "flux"), [1000, np.nan])
        assert np.isnan(flux_to_magnitude(column)).tolist() == [False, True]
    np.testing.assert_allclose(strip_unit(Column([1, 2], unit="mJy"), "nJy", "f"), [1e6, 2e6])
    with pytest.raises(UnitMismatchError, match="km"):
        strip_unit(Column([1, 2], unit="km"), "nJy", "f")
    np.testing.assert_allclose(magnitude_to_flux(Column([31.4], unit="mag")), [1.0])
    np.testing.assert_allclose(magnitude_to_flux(MaskedColumn([31.4], mask=[True])), [np.nan])


@pytest.mark.parametrize("bad", ["1", None, [1, "a"], 1j, object(), [[1], [1, 2]], np.array("x")])
def test_what_is_not_numbers_is_refused(bad: object) -> None:
    with pytest.raises(PogsonValueError, match="flux must be numbers"):
        flux_to_magnitude(bad)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf, [1.0, 0.0]])
def test_softening_must_be_positive(bad: object) -> None:
    with pytest.raises(PogsonValueError, match="softening"):
        flux_to_asinh_magnitude(1.0, softening=bad)
    with pytest.raises(PogsonValueError, match="softening"):
        asinh_magnitude_to_flux(20.0, softening=bad)
    with pytest.raises(TypeError):
        flux_to_asinh_magnitude(1.0)


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("ADU", u.adu),
        ("DN/s", u.adu / u.s),
        ("electrons", u.electron),
        ("e-/s", u.electron / u.s),
        (" Counts ", u.count),
        ("nanojansky", u.nJy),
        ("NJY", u.nJy),
        ("nJy / adu", u.nJy / u.adu),
        ("", u.dimensionless_unscaled),
        (None, u.dimensionless_unscaled),
        (u.mJy, u.mJy),
        ("MJy / sr", u.MJy / u.sr),
        ("mJy", u.mJy),  # not to be taken for MJy
    ],
)
def test_parse_unit(text: object, unit: u.UnitBase) -> None:
    assert parse_unit(text) == unit


@pytest.mark.parametrize(
    "text", ["maggies!", "parsnip", "nJy //", "mag(AB)", u.ABmag, object(), "("]
)
def test_parse_unit_refuses(text: object) -> None:
    with pytest.raises(UnitMismatchError, match="nJy"):
        parse_unit(text)


@given(st.text(max_size=12))
def test_parse_unit_raises_nothing_else(text: str) -> None:
    with contextlib.suppress(UnitMismatchError):
        assert isinstance(parse_unit(text), u.UnitBase)


def test_measure() -> None:
    assert Measure.parse("fluence") is Measure.FLUENCE
    assert Measure.parse(Measure.SURFACE_BRIGHTNESS) is Measure.SURFACE_BRIGHTNESS
    for bad in ("Fluence", "flux", "", 3, None):
        with pytest.raises(MeasureError, match="'fluence' or 'surface_brightness'"):
            Measure.parse(bad)


def test_inverse_variance() -> None:
    v = [4.0, 0.0, -1.0, np.nan, np.inf, -np.inf, 1e-320, 1e308]
    np.testing.assert_allclose(inverse_variance(v), [0.25, 0, 0, 0, 0, 0, 0, 1e-308], atol=0)
    masked = np.ma.array([4.0, 4.0], mask=[False, True])
    assert inverse_variance(masked).tolist() == [0.25, 0.0]
    assert inverse_variance(np.float32(4)) == 0.25
