"""Matching on the sky, proper motion, colour terms."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.time import Time
from hypothesis import given, settings
from hypothesis import strategies as st

from pogson.calib import (
    ColorTerm,
    list_color_terms,
    match_catalogs,
    propagate_positions,
    published_color_term,
)
from pogson.errors import MissingDataError, PogsonValueError


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.sampled_from([0.0, 89.9999, -89.99995]))
def test_against_brute_force(seed: int, dec0: float) -> None:
    rng = np.random.default_rng(seed)
    dec1 = np.clip(dec0 + rng.normal(0, 2e-4, 40), -90, 90)
    ra1 = rng.uniform(0, 360, 40) if abs(dec0) > 80 else rng.normal(0, 2e-4, 40) % 360
    dec2, ra2 = dec1[:30] + rng.normal(0, 1e-5, 30), ra1[:30] + rng.normal(0, 1e-5, 30)
    dec2 = np.clip(dec2, -90, 90)
    radius = 0.3
    match = match_catalogs(ra1, dec1, ra2, dec2, radius)
    a = SkyCoord(ra1, dec1, unit="deg")
    b = SkyCoord(ra2, dec2, unit="deg")
    separation = a[:, None].separation(b[None, :]).arcsec
    np.testing.assert_array_equal(match.n_candidates, (separation <= radius).sum(axis=1))
    first, second = match.rows
    assert len(set(second.tolist())) == len(second)
    np.testing.assert_allclose(match.separation[first], separation[first, second], atol=2e-5)
    # greedy by distance, by hand
    pairs = sorted(
        (separation[i, j], i, j) for i in range(40) for j in range(30) if separation[i, j] <= radius
    )
    taken_i, taken_j, expected = set(), set(), {}
    for _, i, j in pairs:
        if i not in taken_i and j not in taken_j:
            taken_i.add(i)
            taken_j.add(j)
            expected[i] = j
    assert dict(zip(first.tolist(), second.tolist(), strict=True)) == expected


def test_flags() -> None:
    match = match_catalogs(
        [10.0, 10.0001, np.nan, 50.0],
        [0.0, 0.0, 0.0, 0.0],
        [10.00002, 50.0, 50.0001],
        [0.0] * 3,
        1.0,
    )
    assert match.index.tolist() == [0, -1, -1, 1]
    assert match.duplicate.tolist() == [False, True, False, False]
    assert match.ambiguous.tolist() == [False, False, False, True]
    assert match.counts() == {
        "rows": 4,
        "matched": 2,
        "ambiguous": 1,
        "duplicate": 1,
        "not_finite": 1,
    }
    empty = match_catalogs([], [], [1.0], [1.0], 1.0)
    assert empty.index.size == 0
    assert not match_catalogs([1.0], [1.0], [], [], 1.0).matched.any()


def test_bad_input() -> None:
    with pytest.raises(PogsonValueError, match="radius"):
        match_catalogs([1], [1], [1], [1], -1.0)
    with pytest.raises(PogsonValueError, match="shapes"):
        match_catalogs([1, 2], [1], [1], [1], 1.0)
    with pytest.raises(PogsonValueError, match="declination"):
        match_catalogs([1], [91], [1], [1], 1.0)


def test_proper_motion_against_astropy() -> None:
    """Barnard's star, a polar star and one without proper motion."""
    import astropy.units as u

    ra, dec = np.array([269.452, 12.0, 5.0]), np.array([4.693, 89.99, -30.0])
    pm_ra, pm_dec = np.array([-801.551, 500.0, np.nan]), np.array([10362.394, -300.0, np.nan])
    new = propagate_positions(ra, dec, pm_ra, pm_dec, from_epoch=2015.5, to_epoch=2020.5)
    # no radial velocity: straight motion, whatever the distance
    moved = SkyCoord(
        ra[:2] * u.deg,
        dec[:2] * u.deg,
        pm_ra_cosdec=pm_ra[:2] * u.mas / u.yr,
        pm_dec=pm_dec[:2] * u.mas / u.yr,
        distance=10.0 * u.pc,
        radial_velocity=0 * u.km / u.s,
        obstime=Time(2015.5, format="jyear"),
    ).apply_space_motion(Time(2020.5, format="jyear"))
    here = SkyCoord(new[0][:2], new[1][:2], unit="deg")
    assert np.max(here.separation(SkyCoord(moved.ra, moved.dec)).arcsec) < 2e-3
    assert (new[0][2], new[1][2]) == (5.0, -30.0)


def test_color_terms() -> None:
    for name in list_color_terms():
        term = published_color_term(name)
        assert "legacypipe" in term.citation
        assert ColorTerm.from_dict(term.to_dict()) == term
        assert hash(term) == hash(ColorTerm.from_dict(term.to_dict()))
        c = np.linspace(-0.6, 4.1, 50)
        step = 1e-6
        inner = c[1:-1]
        slope = (term.correction(inner + step) - term.correction(inner - step)) / (2 * step)
        np.testing.assert_allclose(term.slope(inner), slope, rtol=2e-5, atol=1e-6)
    # hand-summed z polynomial at BP-RP = 1: the sum of the coefficients
    z = published_color_term("gaia_dr2-decam_z")
    assert z.correction(1.0) == pytest.approx(sum(z.coefficients))
    assert z.correction(1.0) == pytest.approx(-0.345, abs=1e-3)
    assert np.isnan(z.correction(4.2))
    assert np.isnan(z.magnitude(18.0, np.nan))
    mag, err = z.magnitude(18.0, 1.0, 0.01, 0.02)
    assert err == pytest.approx(np.hypot(0.01, 0.02 * z.slope(1.0)))
    assert mag == pytest.approx(18.0 + z.correction(1.0))
    with pytest.raises(MissingDataError, match="gaia_dr2-decam_g"):
        published_color_term("nothing")
    with pytest.raises(PogsonValueError):
        ColorTerm((np.nan,))
    with pytest.raises(PogsonValueError):
        ColorTerm((1.0,), color_range=(2.0, 1.0))
    with pytest.raises(PogsonValueError):
        ColorTerm.from_dict({"wrong": 1})
