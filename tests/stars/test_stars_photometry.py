"""Photometry of stars: missing values, mixed-up units, bad errors, limits."""

from __future__ import annotations

from typing import Any

import astropy.units as u
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pogson.errors import MissingDataError, PogsonValueError, UnitMismatchError
from pogson.stars import (
    NJY_PER_MAGGIE,
    FlatDistance,
    StarFlag,
    StarPhotometry,
    StarPriors,
    StellarGrid,
    fit_stars,
)


def test_missing_codes_are_not_measurements() -> None:
    mag = [[15.0, 0.0, -9999.0, 99.0, np.nan, 16.0, -999.0, 15.5]]
    err = [[0.02, 0.02, 0.02, 0.02, 0.02, 9.995, np.inf, 0.03]]
    stars = StarPhotometry.from_magnitudes(mag, err, bands=list("abcdefgh"))
    assert stars.observed.tolist() == [[True] + [False] * 6 + [True]]
    assert np.isnan(stars.flux[0, 1])


@given(st.floats(-1.0, 26.0), st.floats(0.001, 0.5))
def test_magnitudes_and_fluxes_agree(mag: float, err: float) -> None:
    if abs(mag) < 0.1:
        mag = 1.0
    a = StarPhotometry.from_magnitudes([[mag]], [[err]], bands=["g"])
    njy = 10 ** (0.4 * (31.4 - mag))
    b = StarPhotometry.from_fluxes(
        [[njy]] * u.nJy, [[njy * err * 0.4 * np.log(10)]] * u.nJy, bands=["g"]
    )
    np.testing.assert_allclose(a.flux, b.flux, rtol=1e-12)
    np.testing.assert_allclose(a.flux_err, b.flux_err, rtol=1e-12)
    assert abs(a.flux[0, 0] * NJY_PER_MAGGIE / njy - 1) < 1e-12


@pytest.mark.parametrize("unit", ["maggie", "nJy"])
def test_magnitudes_given_as_fluxes_are_named(unit: str) -> None:
    with pytest.raises(PogsonValueError, match=r"'PS_g'.*look like magnitudes"):
        StarPhotometry.from_fluxes([[15.2], [18.0]], [[0.02], [0.1]], bands=["PS_g"], unit=unit)


@pytest.mark.parametrize("flux", [1e-7, 3e5])
def test_fluxes_given_as_magnitudes_are_named(flux: float) -> None:
    with pytest.raises(PogsonValueError, match=r"'PS_g'.*look like fluxes"):
        StarPhotometry.from_magnitudes([[flux]], [[0.01 * flux]], bands=["PS_g"])


@pytest.mark.parametrize("bad", [0.0, -0.1])
def test_bad_errors_raise_or_flag(bad: float) -> None:
    mags, errs = [[15.0, 15.5], [16.0, 16.5]], [[0.02, 0.02], [0.02, bad]]
    with pytest.raises(PogsonValueError, match=r"row 1, band 'r'"):
        StarPhotometry.from_magnitudes(mags, errs, bands=["g", "r"])
    stars = StarPhotometry.from_magnitudes(mags, errs, bands=["g", "r"], bad_errors="mask")
    assert stars.observed.tolist() == [[True, True], [True, False]]
    assert stars.flags[1] & StarFlag.BAD_ERROR
    assert not stars.flags[0] & StarFlag.BAD_ERROR


def test_negative_fluxes_and_limits_are_kept() -> None:
    stars = StarPhotometry.from_fluxes([[-1e-9, 0.0]], [[2e-9, 1e-9]], bands=["g", "r"])
    assert stars.observed.all()
    limit = StarPhotometry.from_magnitudes(
        [[22.5]], [[np.nan]], bands=["g"], upper_limit=[[True]], limit_sigma=3.0
    )
    assert limit.flux[0, 0] == 0.0
    np.testing.assert_allclose(limit.flux_err, 1e-9 / 3.0)


def test_parallaxes_say_their_unit() -> None:
    stars = [[1e-6], [1e-6], [1e-6]], [[1e-8], [1e-8], [1e-8]]
    plx, err = [0.00118, 0.0, -0.0004], [0.0003, 1e10, 0.0005]  # arcsec; 1e10: none
    with pytest.raises(PogsonValueError, match=r"look like arcseconds.*parallax_unit='arcsec'"):
        StarPhotometry.from_fluxes(*stars, bands=["g"], parallax=plx, parallax_err=err)
    for unit, values in (("arcsec", (plx, err)), ("mas", (plx * u.arcsec, err * u.arcsec))):
        got = StarPhotometry.from_fluxes(
            *stars, bands=["g"], parallax=values[0], parallax_err=values[1], parallax_unit=unit
        )
        np.testing.assert_allclose(got.parallax, [1.18, np.nan, -0.4])
        np.testing.assert_allclose(got.parallax_err, [0.3, np.nan, 0.5])
    table = {"g": [15.0] * 3, "e": [0.1] * 3, "p": plx, "pe": err}
    got = StarPhotometry.from_table(
        table, {"g": ("g", "e")}, parallax=("p", "pe"), parallax_unit="arcsec"
    )
    np.testing.assert_allclose(got.parallax, [1.18, np.nan, -0.4])
    with pytest.raises(UnitMismatchError, match="parallaxes"):
        StarPhotometry.from_fluxes(
            *stars, bands=["g"], parallax=plx, parallax_err=err, parallax_unit="kpc"
        )


def test_table_columns_and_flags() -> None:
    table = {"g": [15.0, -999.0], "e": [0.1, 0.1], "p": [1.0, np.nan], "pe": [0.1, 0.1]}
    stars = StarPhotometry.from_table(table, {"g": ("g", "e")}, parallax=("p", "pe"))
    assert stars.flags.tolist() == [0, int(StarFlag.NO_PARALLAX | StarFlag.ALL_MASKED)]
    with pytest.raises(MissingDataError, match="no column 'x'"):
        StarPhotometry.from_table(table, {"g": ("x", "e")})
    with pytest.raises(UnitMismatchError):
        StarPhotometry.from_fluxes([[1.0]], [[0.1]], bands=["g"], unit="jansky")
    with pytest.raises(ValueError):
        stars.flux[0, 0] = 1.0


def test_real_catalogue_with_its_sentinels(shared_data) -> None:
    from astropy.io import fits

    data = fits.getdata(shared_data("m67/NGC_2682.fits"))
    columns = {f"PS_{b}": (f"PS_{b}", f"PS_{b}_Err") for b in "grizy"}
    columns |= {f"2MASS_{b}": (f"2MASS_{b}", f"2MASS_{b}_Err") for b in ("J", "H", "Ks")}
    missing = [c for pair in columns.values() for c in pair if c not in data.dtype.names]
    if missing:
        pytest.skip(f"columns are named otherwise: {missing[:3]}")
    stars = StarPhotometry.from_table(
        data, columns, parallax=("Parallax", "Parallax_Err"), bad_errors="mask"
    )
    assert len(stars) == 1585
    mags = np.column_stack([data[v] for v, _ in columns.values()])
    errs = np.column_stack([data[e] for _, e in columns.values()])
    assert int(np.isfinite(mags).all(axis=1).sum()) == 1174
    # 15 of those have a 2MASS magnitude without an error: an upper limit on the flux
    assert int((np.isfinite(mags).all(axis=1) & stars.observed.all(axis=1)).sum()) == 1159
    with np.errstate(invalid="ignore"):
        usable = np.isfinite(mags) & (mags > 1.0) & (mags < 90.0) & (errs > 0.0) & (errs < 9.0)
    assert np.array_equal(stars.observed, usable)


def test_units_of_fluxes_and_exchanged_coordinates() -> None:
    flux = 10 ** (-0.4 * np.array([[15.0, 16.0], [18.0, 19.0], [20.0, 21.0]]))
    stars = StarPhotometry.from_fluxes(flux, 0.02 * flux, bands=["g", "r"])
    njy = flux * NJY_PER_MAGGIE
    same = StarPhotometry.from_fluxes(njy, 0.02 * njy, bands=["g", "r"], unit="nJy")
    np.testing.assert_allclose(same.flux, stars.flux)
    with pytest.raises(PogsonValueError, match="look like nJy"):
        StarPhotometry.from_fluxes(njy, 0.02 * njy, bands=["g", "r"])
    with pytest.raises(PogsonValueError, match="look like maggie"):
        StarPhotometry.from_fluxes(flux, 0.02 * flux, bands=["g", "r"], unit="nJy")
    place = {"l": [200.0, 210.0, -999.0], "b": [30.0, 95.0, -999.0]}
    placed = StarPhotometry.from_fluxes(flux, 0.02 * flux, bands=["g", "r"], **place)
    np.testing.assert_array_equal(placed.b, [30.0, np.nan, np.nan])
    with pytest.raises(PogsonValueError, match="l and b exchanged"):
        StarPhotometry.from_fluxes(flux, 0.02 * flux, bands=["g", "r"], l=place["b"], b=place["l"])


def test_fluxes_in_nanojansky_are_refused_in_vega_bands() -> None:
    c = [[[5.0, 0.9, 0.08], [4.4, 0.6, 0.07]]]
    systems = {"systems": {"g": "AB", "J": "Vega"}}
    grid = StellarGrid(c, ["g", "J"], {"mini": [1.0]}, provenance=systems)
    flux = grid.fluxes([0])
    priors = StarPriors(distance=FlatDistance(), models=())

    def fit(flux: Any, **unit: Any) -> Any:
        stars = StarPhotometry.from_fluxes(flux, 0.1 * flux, bands=["g", "J"], **unit)
        return fit_stars(grid, stars.select([0]), seed=1, priors=priors)

    assert fit(flux).fitted.all()
    for unit in ({"unit": "nJy"}, {}):
        physical = flux * NJY_PER_MAGGIE
        with pytest.raises(UnitMismatchError, match="J are Vega"):
            fit(physical if unit else physical * u.nJy, **unit)
