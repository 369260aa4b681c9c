"""The names of brutus: against formulas always, against brutus itself where it is installed."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pogson.errors import PogsonValueError, PogsonWarning
from pogson.stars import (
    FILTERS,
    StellarGrid,
    get_seds,
    inv_luptitude,
    inv_magnitude,
    load_models,
    luptitude,
    magnitude,
    simulated_grid,
    write_grid,
)

finite = st.floats(-1e6, 1e6).filter(lambda v: v == 0 or abs(v) > 1e-6)


def peer(module: str) -> Any:
    """Return a module of brutus, or skip."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(module, reason="astro-brutus is not installed")


def test_magnitudes_by_the_definition() -> None:
    mag, err = magnitude(np.array([[1.0, 100.0, 0.01]]), np.array([[0.01, 1.0, 0.001]]))
    assert mag == pytest.approx(np.array([[0.0, -5.0, 5.0]]))
    assert err == pytest.approx(1.0857362 * np.array([[0.01, 0.01, 0.1]]))
    zero = np.array([3631.0, 1.0])
    assert magnitude(np.array([3631.0, 1.0]), np.ones(2), zero)[0] == pytest.approx([0.0, 0.0])
    mag, err = magnitude(np.array([0.0, -1.0]), np.ones(2))
    assert np.isnan(mag).all()
    assert np.isnan(err).all()


@settings(max_examples=40)
@given(st.floats(-30, 30), st.floats(1e-4, 1), st.floats(1e-3, 1e4))
def test_magnitudes_round_trip(mag: float, err: float, zero: float) -> None:
    back, back_err = magnitude(*inv_magnitude(mag, err, zero), zero)
    assert back == pytest.approx(mag, abs=1e-9)
    assert back_err == pytest.approx(err, rel=1e-9)


@settings(max_examples=40)
@given(finite, st.floats(1e-3, 1e3), st.floats(1e-2, 1e3), st.floats(1e-2, 1e3))
def test_asinh_magnitudes_round_trip(flux: float, err: float, sky: float, zero: float) -> None:
    lupt, lupt_err = luptitude(flux, err, sky, zero)
    back, back_err = inv_luptitude(lupt, lupt_err, sky, zero)
    assert back == pytest.approx(flux, rel=1e-7, abs=1e-9 * sky)
    assert back_err == pytest.approx(err, rel=1e-7)


def test_asinh_magnitudes_are_magnitudes_where_it_is_bright() -> None:
    lupt, lupt_err = luptitude(1e6, 1e3, 1.0)
    mag, mag_err = magnitude(1e6, 1e3)
    assert lupt == pytest.approx(mag, abs=1e-11)
    assert lupt_err == pytest.approx(mag_err, rel=1e-9)
    # the slope at zero flux is 2.5 / ln 10 / 2b
    slope = (luptitude(1e-4, 1.0, 2.0)[0] - luptitude(-1e-4, 1.0, 2.0)[0]) / 2e-4
    assert slope == pytest.approx(-1.0857362 / 4.0)


def test_seds_and_their_slopes(rng: np.random.Generator) -> None:
    c = np.stack(
        [rng.uniform(10, 20, (5, 3)), rng.uniform(0, 1, (5, 3)), rng.uniform(0, 0.1, (5, 3))], -1
    )
    av, rv = rng.uniform(0, 3, 5), rng.uniform(2, 6, 5)
    mags, rvec, drvec = get_seds(c, av, rv, return_rvec=True, return_drvec=True)
    assert mags == pytest.approx(c[..., 0] + av[:, None] * (c[..., 1] + rv[:, None] * c[..., 2]))
    flux, frvec, fdrvec = get_seds(c, av, rv, True, True, True)
    assert flux == pytest.approx(10 ** (-0.4 * mags))
    h = 1e-5
    assert rvec == pytest.approx((get_seds(c, av + h, rv) - get_seds(c, av - h, rv)) / (2 * h))
    numeric = (get_seds(c, av + h, rv, True) - get_seds(c, av - h, rv, True)) / (2 * h)
    assert frvec == pytest.approx(numeric, rel=1e-6)
    # per unit of A_V: the derivative by R_V is A_V times it
    numeric = (get_seds(c, av, rv + h, True) - get_seds(c, av, rv - h, True)) / (2 * h)
    assert av[:, None] * fdrvec == pytest.approx(numeric, rel=1e-5)
    assert drvec == pytest.approx(c[..., 2])
    assert get_seds(c) == pytest.approx(c[..., 0])
    assert get_seds(c, 1.0) == pytest.approx(c[..., 0] + c[..., 1] + 3.3 * c[..., 2])
    assert len(get_seds(c, 1.0, return_drvec=True)) == 2
    with pytest.raises(PogsonValueError, match=r"av must be one number or have shape \(5,\)"):
        get_seds(c, av=np.ones(4))
    with pytest.raises(PogsonValueError, match="n_models, n_bands, 3"):
        get_seds(c[0])


def test_against_brutus_numbers(rng: np.random.Generator) -> None:
    photometry, sed = peer("brutus.utils.photometry"), peer("brutus.core.sed_utils")
    flux, err = rng.lognormal(0, 3, (50, 4)), rng.lognormal(-2, 1, (50, 4))
    zero, sky = rng.uniform(0.5, 2, 4), rng.uniform(0.5, 2, 4)
    for ours, theirs in (
        (magnitude(flux, err, zero), photometry.magnitude(flux, err, zero)),
        (inv_magnitude(flux, err, zero), photometry.inv_magnitude(flux, err, zero)),
        (luptitude(-flux, err, sky, zero), photometry.luptitude(-flux, err, sky, zero)),
        (
            inv_luptitude(flux / 9, err, sky, zero),
            photometry.inv_luptitude(flux / 9, err, sky, zero),
        ),
    ):
        for a, b in zip(ours, theirs, strict=True):
            assert a == pytest.approx(b, rel=1e-12)
    c = np.array(simulated_grid(300).coefficients)
    av, rv = rng.uniform(0, 3, len(c)), rng.uniform(2, 6, len(c))
    for fluxes in (False, True):
        ours = get_seds(c, av, rv, fluxes, True, True)
        theirs = sed.get_seds(c, av, rv, fluxes, True, True)
        for a, b in zip(ours, theirs, strict=True):
            assert a.dtype == b.dtype
            assert a == pytest.approx(b, rel=1e-13)
    assert get_seds(c) == pytest.approx(sed.get_seds(c), rel=1e-13)


def with_binaries() -> StellarGrid:
    """Return a grid with half of its models binaries, two abundances and an empty label."""
    grid = simulated_grid(400, ["2MASS_J", "PS_g", "WISE_W1"])
    labels = np.array(grid.labels)
    labels["smf"][::2] = 0.5
    labels["afe"][1::4] = 0.2
    names = grid.predictions.dtype.names or ()
    outputs = {n: np.array(grid.label(n)) for n in names} | {
        "empty": np.full(grid.n_models, np.nan)
    }
    return StellarGrid(grid.coefficients, grid.bands, labels, outputs)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"filters": ["PS_g", "2MASS_J"]},
    {"include_ms": False},
    {"include_postms": False},
    {"include_binaries": True},
    {"labels": ["mini", "afe", "logg", "nonsense"]},
    {"labels": ["mini", "smf"], "include_binaries": True, "include_ms": False},
    {"labels": ["eep", "empty"], "include_postms": False},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: " ".join(o) or "default")
@pytest.mark.parametrize("constant_afe", [True, False])
def test_load_models_as_brutus_does(
    tmp_path: Path, options: dict[str, Any], constant_afe: bool
) -> None:
    loader = peer("brutus.data.loader")
    grid = simulated_grid(400, ["2MASS_J", "PS_g"]) if constant_afe else with_binaries()
    path = write_grid(grid, tmp_path / "grid.h5")
    ours = load_models(path, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = loader.load_models(path, verbose=False, **options)
    assert ours[0].dtype == theirs[0].dtype
    assert np.array_equal(ours[0], theirs[0])
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        assert a.dtype.names == b.dtype.names
        assert a.shape == b.shape
        for name in a.dtype.names:
            assert np.array_equal(a[name], b[name]), name


def test_filters_are_those_of_brutus() -> None:
    assert list(FILTERS) == peer("brutus.data.filters").FILTERS


def test_load_models_says_what_is_missing(tmp_path: Path) -> None:
    path = write_grid(simulated_grid(200, ["PS_g", "PS_r"]), tmp_path / "grid.h5")
    with pytest.warns(PogsonWarning, match=r"\['SDSS_u'\] are not in .* columns are \['PS_r'\]"):
        models, _, _ = load_models(path, filters=["SDSS_u", "PS_r"])
    assert models.shape[1] == 1
    with pytest.raises(ValueError, match=r"None of the filters.*'PS_g' or 'PS_r'"):
        load_models(path, filters=["SDSS_u"])
    for labels in (None, ["mini"]):
        with pytest.raises(ValueError, match="no model is left"):
            load_models(path, labels=labels, include_ms=False, include_postms=False)


def test_load_models_of_bands_brutus_does_not_know(tmp_path: Path) -> None:
    grid = simulated_grid(200, ["PS_g"])
    renamed = StellarGrid(grid.coefficients, ["Roman_F062"], grid.labels)
    models, labels, _ = load_models(write_grid(renamed, tmp_path / "grid.h5"))
    assert models.shape[1] == 1
    assert labels.dtype.names == ("mini", "feh", "eep")
