"""Chebyshev fields: values, fits and their covariance, truncation, approximation."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from pogson.errors import BoundsError, PogsonTypeError, PogsonValueError, UnitMismatchError
from pogson.fields import Box, ChebyshevField, ConstantField, GridField

BOX = Box(10, -20, 200, 100)


def _random(rng: np.random.Generator, order_y: int, order_x: int, total: bool) -> ChebyshevField:
    c = rng.normal(size=(order_y + 1, order_x + 1))
    if total:
        j, i = np.indices(c.shape)
        c[i + j > max(order_x, order_y)] = 0
    return ChebyshevField(BOX, c, "nJy / adu", total=total)


def test_values_against_numpy(rng: np.random.Generator) -> None:
    field = _random(rng, 3, 5, False)
    x, y = rng.uniform(*BOX.x_bounds, 20000), rng.uniform(*BOX.y_bounds, 20000)
    xt, yt = (x - 9.5) / 100 - 1, (y + 20.5) / 50 - 1
    truth = np.polynomial.chebyshev.chebval2d(xt, yt, field.coefficients.T)
    np.testing.assert_allclose(field(x=x, y=y), truth, rtol=0, atol=1e-13)


def test_lsst_layout() -> None:
    # c[j, i] multiplies T_i(x) T_j(y); the outer pixel edges map to -1 and 1
    along_x = ChebyshevField(BOX, [[0.0, 1.0]])
    assert along_x(x=9.5, y=0.0) == -1
    assert along_x(x=209.5, y=0.0) == 1
    along_y = ChebyshevField(BOX, [[0.0], [0.0], [1.0]])
    assert along_y(x=50.0, y=-20.5) == 1
    assert along_y(x=50.0, y=29.5) == -1


def test_integral_by_hand() -> None:
    # mean of T_n over [-1, 1] is 1/(1 - n^2) for even n, 0 for odd
    c = np.zeros((5, 5))
    for j in range(5):
        for i in range(5):
            c[...] = 0
            c[j, i] = 1.0
            means = [0.0 if n % 2 else 1 / (1 - n**2) for n in (i, j)]
            assert ChebyshevField(BOX, c).mean() == pytest.approx(means[0] * means[1], abs=1e-15)


@given(st.data())
def test_linear_fit_recovers_coefficients(data: st.DataObject) -> None:
    total = data.draw(st.booleans())
    nx, ny = data.draw(st.integers(0, 5)), data.draw(st.integers(0, 5))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    truth = _random(rng, ny, nx, total)
    n = 3 * len(truth.free_coefficients) + 20
    x, y = rng.uniform(*BOX.x_bounds, n), rng.uniform(*BOX.y_bounds, n)
    weights = rng.uniform(0.1, 10.0, n) if data.draw(st.booleans()) else None
    fit = ChebyshevField.fit(
        BOX, x, y, truth(x=x, y=y), order_x=nx, order_y=ny, total=total, weights=weights
    )
    np.testing.assert_allclose(fit.coefficients, truth.coefficients, rtol=0, atol=1e-9)
    assert fit.total is total
    np.testing.assert_allclose(
        truth.basis(x=x, y=y) @ truth.free_values, truth(x=x, y=y), rtol=0, atol=1e-12
    )


def test_fit_uses_weights_and_leaves_out_weight_zero() -> None:
    x, y = [10, 20, 30, 40], [0, 0, 0, 0]
    fit = ChebyshevField.fit(BOX, x, y, [1.0, 3.0, 2.0, 900.0], order=0, weights=[1, 2, 1, 0])
    assert fit.coefficients[0, 0] == pytest.approx((1 + 4 * 3 + 2) / 6, rel=1e-14)


def test_fit_of_many_points_in_chunks(rng: np.random.Generator) -> None:
    # more rows than one chunk: the stacked factorisation must equal a plain least squares
    n = 100_000
    x, y = rng.uniform(*BOX.x_bounds, n), rng.uniform(*BOX.y_bounds, n)
    z, w = rng.normal(size=n), rng.uniform(0.5, 2, n)
    fit, covariance = ChebyshevField.fit_with_covariance(BOX, x, y, z, order=3, weights=w)
    a = fit.basis(x=x, y=y) * w[:, None]
    plain = np.linalg.lstsq(a, z * w, rcond=None)[0]
    np.testing.assert_allclose(fit.free_values, plain, rtol=0, atol=1e-13)
    np.testing.assert_allclose(covariance, np.linalg.inv(a.T @ a), rtol=1e-10, atol=1e-18)


def test_fit_units() -> None:
    x, y = [10, 20, 30], [0, 5, 0]
    assert ChebyshevField.fit(BOX, x, y, [1, 2, 3] * u.mag, order=0).unit == u.mag
    fit = ChebyshevField.fit(BOX, x, y, [1, 2, 3] * u.uJy, order=0, unit="nJy")
    assert fit.coefficients[0, 0] == pytest.approx(2000)
    with pytest.raises(UnitMismatchError, match="mag"):
        ChebyshevField.fit(BOX, x, y, [1, 2, 3] * u.mag, order=0, unit="nJy")


@pytest.mark.parametrize("weighted", [True, False])
def test_covariance_pulls(rng: np.random.Generator, weighted: bool) -> None:
    """Pulls of all coefficients follow the chi-square their covariance says."""
    truth = _random(rng, 2, 2, True)
    n, trials = 60, 400
    x, y = rng.uniform(*BOX.x_bounds, n), rng.uniform(*BOX.y_bounds, n)
    sigma = rng.uniform(0.02, 0.2, n) if weighted else np.full(n, 0.05)
    clean = truth(x=x, y=y)
    distance = np.empty(trials)
    for k in range(trials):
        fit, covariance = ChebyshevField.fit_with_covariance(
            BOX, x, y, rng.normal(clean, sigma), order=2, weights=1 / sigma if weighted else None
        )
        delta = fit.free_values - truth.free_values
        distance[k] = delta @ np.linalg.solve(covariance, delta)
    p = len(truth.free_coefficients)
    # known sigma: chi-square of p; sigma from the scatter: p times an F(p, n - p)
    law = stats.chi2(p) if weighted else stats.f(p, n - p, scale=p)
    pvalue = stats.kstest(distance, law.cdf).pvalue
    print(f"mean distance {distance.mean():.3f} (expected {law.mean():.3f}), KS p={pvalue:.3g}")
    assert pvalue > 1e-4  # one false alarm in ten thousand seeds; the seed is fixed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": [10, np.nan, 30, 40]}, "1 of 4 x are not finite, the first at row 1"),
        ({"values": [1, 2, np.inf, 4]}, "1 of 4 values .* row 2"),
        ({"values": np.ma.array([1, 2, 3, 4], mask=[0, 0, 0, 1])}, "1 of 4 values .* row 3"),
        ({"weights": [1, 1, np.nan, 1]}, "1 of 4 weights"),
        ({"weights": [1, -1, -2, 1]}, "2 weights are negative, the first at row 1"),
        ({"y": [0, 1, 2]}, "one shape"),
        ({"order": 2}, "4 points .* 6 coefficients"),
        ({"order": 1, "weights": [1, 1, 0, 0]}, r"2 points with weight above 0 \(of 4\)"),
        ({"order": 1}, "only 2 of the 3"),
        ({"order": -1}, "whole number"),
        ({"order": 1.5}, "whole number"),
        ({"order": None}, "either order"),
        ({"order": None, "order_x": 1}, "both axes"),
        ({"order": 1, "order_x": 1}, "either order"),
        ({"values": ["a"] * 4}, "numbers"),
    ],
)
def test_fit_refuses(change: dict, message: str) -> None:
    x, y, v = [10.0, 20.0, 30.0, 40.0], [0.0] * 4, [1.0, 2.0, 3.0, 4.0]
    arguments = {"x": x, "y": y, "values": v, "order": 0} | change
    with pytest.raises(PogsonValueError, match=message):
        ChebyshevField.fit(BOX, **arguments)


def test_fit_refuses_points_outside() -> None:
    with pytest.raises(BoundsError, match=r"1 of 2 points .* row 1: x=300"):
        ChebyshevField.fit(BOX, [20, 300], [0, 0], [1, 2], order=0)


def test_covariance_needs_scatter() -> None:
    with pytest.raises(PogsonValueError, match="no scatter"):
        ChebyshevField.fit_with_covariance(BOX, [20.0], [0.0], [1.0], order=0)
    _, c = ChebyshevField.fit_with_covariance(BOX, [20.0], [0.0], [1.0], order=0, weights=[4.0])
    assert c[0, 0] == pytest.approx(1 / 16)


@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 6), st.booleans())
@settings(max_examples=30)
def test_truncate(ny: int, nx: int, order: int, total: bool) -> None:
    field = _random(np.random.default_rng(nx + 10 * ny), ny, nx, False)
    if order > max(nx, ny):
        with pytest.raises(PogsonValueError, match="only lowers"):
            field.truncate(order)
        return
    cut = field.truncate(order, total=total)
    assert (cut.order_x, cut.order_y) == (min(order, nx), min(order, ny))
    j, i = np.indices(cut.coefficients.shape)
    kept = i + j <= max(cut.order_x, cut.order_y) if total else i >= 0
    same = field.coefficients[: cut.order_y + 1, : cut.order_x + 1]
    np.testing.assert_array_equal(cut.coefficients, np.where(kept, same, 0))
    assert cut.domain == field.domain
    assert cut.unit == field.unit
    assert cut.truncate(order) == cut


def test_truncate_per_axis() -> None:
    field = _random(np.random.default_rng(3), 4, 4, False)
    assert field.truncate(order_x=1, order_y=3).coefficients.shape == (4, 2)
    with pytest.raises(PogsonValueError, match="only lowers"):
        field.truncate(order_x=1, order_y=5)


def test_approximate_is_exact_for_polynomials(rng: np.random.Generator) -> None:
    a, b = _random(rng, 2, 3, False), _random(rng, 1, 4, True)
    product = ChebyshevField.approximate(a * b, order_x=7, order_y=3 + 3)
    np.testing.assert_allclose(product.render(), (a * b).render(), rtol=0, atol=1e-11)
    assert product.unit == a.unit * b.unit
    same = ChebyshevField.approximate(a, order_x=3, order_y=2)
    np.testing.assert_allclose(same.coefficients, a.coefficients, rtol=0, atol=1e-14)
    cut = Box(30, 0, 20, 20)
    local = ChebyshevField.approximate(a.with_box(cut), 3)
    assert local.domain == (*cut.x_bounds, *cut.y_bounds)
    np.testing.assert_allclose(local.render(), a.render(cut), rtol=0, atol=1e-13)


def test_approximate_converges_geometrically() -> None:
    # 1 / (2.5 + t) has Chebyshev coefficients falling by r = 2.5 - sqrt(5.25) per order
    truth = 1 / ChebyshevField(BOX, [[2.5, 1.0]])
    r = 2.5 - np.sqrt(5.25)
    for order in (2, 4, 6, 8):
        error = np.abs(ChebyshevField.approximate(truth, order).render() - truth.render()).max()
        tail = 2 * r ** (order + 1) / (1 - r) / np.sqrt(5.25)
        assert 0.1 * tail < error <= 1.001 * tail


def test_approximate_total_drops_the_high_terms(rng: np.random.Generator) -> None:
    a = _random(rng, 3, 3, False)
    assert ChebyshevField.approximate(a, 3, total=True).total
    c = ChebyshevField.approximate(a, 3, total=True).coefficients
    j, i = np.indices(c.shape)
    np.testing.assert_allclose(c, np.where(i + j <= 3, a.coefficients, 0), atol=1e-14)
    with pytest.raises(PogsonTypeError, match="Field"):
        ChebyshevField.approximate(np.ones((3, 3)), 2)


def test_high_order_stays_accurate() -> None:
    c = np.zeros((1, 61))
    c[0, 60] = 1.0
    field = ChebyshevField(Box(0, 0, 4096, 4), c)
    x = np.linspace(-0.5, 4095.5, 5001)
    truth = np.cos(60 * np.arccos(np.clip((x + 0.5) / 2048 - 1, -1, 1)))
    np.testing.assert_allclose(field(x=x, y=0.0), truth, atol=1e-11)
    assert field.mean() == pytest.approx(1 / (1 - 60**2), rel=1e-10)


@given(arrays(np.float64, (3, 4), elements=st.floats(-5, 5)), st.integers(1, 40))
def test_integral_equals_the_antiderivative(c: np.ndarray, width: int) -> None:
    field = ChebyshevField(BOX, c)
    box = Box(17, -3, width, 11)
    cheb = np.polynomial.chebyshev
    anti = cheb.chebint(cheb.chebint(c, axis=0, scl=50), axis=1, scl=100)
    x = [(v - 9.5) / 100 - 1 for v in box.x_bounds]
    y = [(v + 20.5) / 50 - 1 for v in box.y_bounds]
    corners = cheb.chebgrid2d(x, y, anti.T)
    truth = corners[1, 1] - corners[0, 1] - corners[1, 0] + corners[0, 0]
    assert field.integral(box) == pytest.approx(truth, abs=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coefficients": [1.0]}, "2-d"),
        ({"coefficients": np.empty((0, 0))}, "at least one"),
        ({"coefficients": [[np.nan, 1]]}, "1 of 2 values that are not finite"),
        ({"coefficients": [["a"]]}, "numbers"),
        ({"coefficients": [[1.0]], "domain": (0, 0, 1, 2)}, "x0 < x1"),
        ({"coefficients": [[1.0]], "domain": (0, 1, 2)}, "x0 < x1"),
        ({"coefficients": [[1.0]], "domain": (0, np.inf, 1, 2)}, "finite"),
        ({"coefficients": [[1, 1], [1, 1]], "total": True}, "i \\+ j > 1"),
        ({"coefficients": [[1]], "unit": "furlongs"}, "Unknown unit"),
        ({"coefficients": [[1]], "unit": u.ABmag}, "logarithmic"),
        ({"coefficients": [[1]], "box": (0, 0, 1, 1)}, "Box"),
    ],
)
def test_constructor_refuses(arguments: dict, message: str) -> None:
    with pytest.raises(PogsonValueError, match=message):
        ChebyshevField(**({"box": BOX} | arguments))


def test_caller_keeps_its_own_array() -> None:
    c = np.ones((2, 2))
    field = ChebyshevField(BOX, c)
    c[0, 0] = 99
    assert field.coefficients[0, 0] == 1


def test_fit_of_a_grid_field_agrees_with_approximation_at_low_order() -> None:
    x = np.linspace(0, 220, 45)
    y = np.linspace(-30, 90, 25)
    smooth = GridField(BOX, x, y, np.cos(x / 150) * np.sin(y[:, None] / 100), "", "cubic")
    approx = ChebyshevField.approximate(smooth, 8)
    assert np.abs(approx.render() - smooth.render()).max() < 1e-6
    assert abs(approx.mean() - smooth.mean()) < 1e-8
    assert ChebyshevField.approximate(ConstantField(BOX, 3.0), 0).coefficients[0, 0] == (
        pytest.approx(3.0, rel=1e-15)
    )
