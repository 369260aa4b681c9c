"""The grid type, its report, the extinction formula and the made-up grid."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pogson.errors import (
    BoundsError,
    MissingDataError,
    PogsonTypeError,
    PogsonValueError,
)
from pogson.stars import StellarGrid, fit_extinction, grid_report, simulated_grid


def small_grid() -> StellarGrid:
    c = np.array(
        [
            [[14.0, 1.0, 0.05], [13.0, 0.8, 0.02]],
            [[15.0, 1.1, 0.05], [13.5, 0.8, 0.02]],
            [[16.0, 1.2, 0.05], [14.5, 0.8, 0.02]],
        ]
    )
    labels = {"mini": [1.0, 1.0, 2.0], "eep": [300.0, 460.0, 300.0]}
    return StellarGrid(
        c, ["g", "r"], labels, {"logg": [4.5, 3.0, 4.0]}, provenance={"systems": {"g": "AB"}}
    )


def test_magnitudes_are_the_formula() -> None:
    grid = small_grid()
    mags = grid.magnitudes([2, 0], av=[0.5, 0.0], rv=3.1, distance_kpc=10.0)
    expected = [[21.0 + 0.5 * (1.2 + 3.1 * 0.05), 19.5 + 0.5 * (0.8 + 3.1 * 0.02)], [19.0, 18.0]]
    assert mags == pytest.approx(np.array(expected), abs=2e-6)
    assert grid.magnitudes().shape == (3, 2)
    assert grid.magnitudes(1).shape == (2,)
    assert grid.magnitudes(np.zeros((4, 5), int), av=np.ones(5)).shape == (4, 5, 2)
    flux = grid.fluxes([2, 0], av=[0.5, 0.0], rv=3.1, distance_kpc=10.0)
    assert flux == pytest.approx(10 ** (-0.4 * mags))
    # twice as far: a quarter of the light
    assert grid.fluxes(0, distance_kpc=2.0) == pytest.approx(grid.fluxes(0) / 4.0)


def test_the_grid_cannot_be_changed() -> None:
    grid = small_grid()
    for array in (grid.coefficients, grid.labels, grid.predictions, grid.row):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = array[1]
    with pytest.raises(ValueError, match="read-only"):
        grid.log_volume[0] = 1.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        grid.bands = ("a", "b")  # type: ignore[misc]
    with pytest.raises(TypeError):
        grid.provenance["x"] = 1  # type: ignore[index]


def test_a_caller_keeps_a_writable_array() -> None:
    c = np.zeros((2, 1, 3), np.float32)
    StellarGrid(c, ["g"], {"mini": [1.0, 2.0]})
    c[0] = 1.0


def test_digest_identifies_the_numbers() -> None:
    grid = small_grid()
    assert grid.digest == small_grid().digest
    assert grid == small_grid()
    assert hash(grid) == hash(small_grid())
    others = [
        grid.with_bands(["r", "g"]),
        grid.select([0, 1]),
        grid.select([1, 0, 2]),
        StellarGrid(grid.coefficients, ["g", "i"], grid.labels),
        StellarGrid(np.nextafter(grid.coefficients, 99), grid.bands, grid.labels),
        StellarGrid(grid.coefficients, grid.bands, {"mini": [1.0, 1.0, 2.1], "eep": [3, 4, 5]}),
    ]
    assert len({grid.digest, *(g.digest for g in others)}) == 7
    assert all(g != grid for g in others)
    assert grid != "grid"
    changed = StellarGrid(grid.coefficients, grid.bands, grid.labels, {"logg": [4.5, 3.0, 4.1]})
    assert changed != grid


@settings(max_examples=30)
@given(st.lists(st.integers(0, 99), min_size=1, max_size=30), st.data())
def test_rows_go_on_pointing_into_the_original(first: list[int], data: st.DataObject) -> None:
    grid = simulated_grid(200).select(np.arange(100))
    second = data.draw(st.lists(st.integers(0, len(first) - 1), min_size=1, max_size=30))
    chosen = grid.select(first).select(second)
    assert np.array_equal(chosen.row, np.array(first)[second])
    assert np.array_equal(chosen.coefficients, grid.coefficients[chosen.row])
    assert np.array_equal(chosen.label("agewt"), grid.label("agewt")[chosen.row])


def test_selection_by_mask_keeps_errors_and_labels_together() -> None:
    grid = simulated_grid(200)
    error = np.arange(grid.n_models * 8, dtype=float).reshape(-1, 8)
    grid = dataclasses.replace(grid, fit_error=error)
    mask = grid.label("feh") > -1.0
    part = grid.select(mask).with_bands(["2MASS_J", "PS_g"])
    assert part.n_models == mask.sum()
    assert part.fit_error is not None
    assert np.array_equal(part.fit_error, error[mask][:, [5, 0]].astype(np.float32))
    assert np.array_equal(part.label("mini"), grid.label("mini")[mask])
    assert part.bands == ("2MASS_J", "PS_g")
    assert part.systems == {"2MASS_J": "AB", "PS_g": "AB"}


def test_clear_errors() -> None:
    grid = small_grid()
    with pytest.raises(BoundsError, match=r"outside 0 .. 2, the first is -99"):
        grid.magnitudes([0, -99])
    with pytest.raises(BoundsError, match="is 3"):
        grid.select([3])
    with pytest.raises(PogsonTypeError, match="float64"):
        grid.select([0.5])
    with pytest.raises(PogsonValueError, match="none of the 3 models"):
        grid.select(np.zeros(3, bool))
    with pytest.raises(PogsonValueError, match=r"\(3,\)"):
        grid.select(np.ones(4, bool))
    with pytest.raises(MissingDataError, match=r"did you mean 'g'.*'g' or 'r'"):
        grid.with_bands(["G"])
    with pytest.raises(MissingDataError, match="'mini', 'eep' or 'logg'"):
        grid.label("teff")
    with pytest.raises(PogsonValueError, match="named twice"):
        StellarGrid(grid.coefficients, ["g", "g"], grid.labels)
    with pytest.raises(PogsonValueError, match="must have shape"):
        StellarGrid(grid.coefficients, ["g"], grid.labels)
    with pytest.raises(PogsonValueError, match="3 rows"):
        StellarGrid(grid.coefficients, ["g", "r"], {"mini": [1.0]})
    with pytest.raises(PogsonValueError, match="row must have"):
        dataclasses.replace(grid, row=np.arange(4))
    with pytest.raises(PogsonValueError, match="fit_error"):
        dataclasses.replace(grid, fit_error=np.zeros(3))
    broken = np.array(grid.coefficients)
    broken[1, 0, 2] = np.nan
    with pytest.raises(PogsonValueError, match=r"1 of 3 models.*row 1"):
        StellarGrid(broken, ["g", "r"], grid.labels)


def test_log_volume_integrates_over_an_uneven_lattice() -> None:
    """Each model stands for its cell, those at the ends too: the sum is the midpoint rule."""
    mini = np.geomspace(0.5, 2.0, 60)
    eep = np.concatenate([np.arange(202, 454, 6), np.arange(454, 607, 2)]).astype(float)
    m, e = (a.ravel() for a in np.meshgrid(mini, eep, indexing="ij"))
    agewt = 1e9 * m**-2.5 * np.exp(-(e - 202) / 200)
    grid = StellarGrid(np.zeros((m.size, 1, 3)), ["g"], {"mini": m, "eep": e}, {"agewt": agewt})
    total = np.sum(np.exp(grid.log_volume) * m**-1.3)
    low, high = 0.5 - (mini[1] - mini[0]) / 2, 2.0 + (mini[-1] - mini[-2]) / 2
    exact = 1e9 * (low**-2.8 - high**-2.8) / 2.8
    exact *= 200 * (np.exp(3 / 200) - np.exp(-405 / 200))
    assert total == pytest.approx(exact, rel=0.003)


def test_report_counts() -> None:
    grid = dataclasses.replace(small_grid(), fit_error=[[0.01, 0.0], [0.03, 0.0], [0.02, 0.0]])
    report = grid_report(grid)
    assert (report.n_models, report.n_main_sequence, report.n_evolved) == (3, 2, 1)
    assert report.digest == grid.digest
    mini = report.labels[0]
    assert (mini.name, mini.is_input, mini.low, mini.high, mini.distinct) == (
        "mini", True, 1.0, 2.0, 2,
    )  # fmt: skip
    assert not report.labels[-1].is_input
    g = report.bands[0]
    assert (g.system, g.brightest, g.faintest) == ("AB", 4.0, 6.0)
    assert g.extinction == pytest.approx(1.1 + 3.1 * 0.05)
    assert (g.fit_error, g.largest_fit_error) == pytest.approx((0.02, 0.03))
    text = "\n".join(report.lines())
    assert "3 models" in text
    assert "logg" in text
    bare = grid_report(StellarGrid(np.zeros((1, 1, 3)), ["g"], {"teff": [5000.0]}))
    assert (bare.n_main_sequence, bare.n_evolved, bare.bands[0].fit_error) == (0, 0, None)


def test_extinction_formula_is_exact_where_it_holds_and_says_where_not() -> None:
    av, rv = np.array([0.5, 1.0, 2.0]), np.array([2.4, 3.0, 3.6, 4.2])
    k = np.array([0.9, 0.2])[:, None] + np.array([0.04, 0.0])[:, None] * rv
    c1, c2, error = fit_extinction(av[:, None] * k[:, None, :], av, rv)
    assert c1 == pytest.approx([0.9, 0.2])
    assert c2 == pytest.approx([0.04, 0.0], abs=1e-12)
    assert error.max() < 1e-12
    # 1 / R_V is curved: the error is the largest residual, and dust of R_V 3.3 is fitted best
    curved = av[:, None] * (1.0 + 1.0 / rv)
    c1, c2, error = fit_extinction(curved, av, rv)
    residual = curved - av[:, None] * (c1 + rv * c2)
    assert error == pytest.approx(np.abs(residual).max())
    assert np.abs(residual[:, 1:3]).max() < 0.5 * error
    for bad in ([0.0, 1.0, 2.0], [[1.0]]):
        with pytest.raises(PogsonValueError, match="positive A_V"):
            fit_extinction(curved, bad, rv)
    with pytest.raises(PogsonValueError, match=r"\(3, 2\)"):
        fit_extinction(curved, av, rv[:2])


def test_the_made_up_grid_behaves_like_stars() -> None:
    grid = simulated_grid(3000)
    assert 2400 < grid.n_models < 3600
    assert np.all(10 ** grid.label("loga") <= 13.8e9)
    assert np.all(grid.label("agewt") > 0)
    assert np.all(np.isfinite(grid.log_volume))
    k = grid.coefficients[0, :, 1] + 3.1 * grid.coefficients[0, :, 2]
    assert np.all(np.diff(k) < 0)
    # CCM89, A(V) = 1: 2MASS J, H, K of its table 3 are 0.282, 0.190, 0.114
    assert k[5:] == pytest.approx([0.282, 0.190, 0.114], abs=0.02)
    color = grid.coefficients[:, 0, 0] - grid.coefficients[:, 2, 0]
    assert np.corrcoef(color, grid.label("logt"))[0, 1] < -0.8
    sun = np.argmin(
        np.abs(grid.label("mini") - 1)
        + np.abs(grid.label("feh"))
        + np.abs(grid.label("loga") - 9.6)
    )
    assert abs(grid.label("Mr")[sun] - 4.6) < 0.5
    with pytest.raises(PogsonValueError, match="at least 100"):
        simulated_grid(10)
    with pytest.raises(MissingDataError, match="PS_g"):
        simulated_grid(500, ["PS_G"])
