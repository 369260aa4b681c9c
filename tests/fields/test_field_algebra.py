"""The laws of the field algebra."""

from __future__ import annotations

import warnings

import astropy.units as u
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pogson.errors import PogsonTypeError, PogsonValueError, PogsonWarning, UnitMismatchError
from pogson.fields import (
    Box,
    ChebyshevField,
    ConstantField,
    Field,
    GridField,
    PixelAreaField,
    ProductField,
    QuotientField,
    SumField,
    algebra,
)

BOX = Box(0, 0, 24, 18)
UNITS = st.sampled_from(["", "nJy / adu", "nJy", "adu / s"])


@st.composite
def leaves(draw: st.DrawFn, unit: str | None = None) -> Field:
    """Draw a field well away from zero."""
    unit = draw(UNITS) if unit is None else unit
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["constant", "chebyshev", "linear", "cubic", "area"]))
    if kind == "constant":
        return ConstantField(BOX, rng.uniform(0.5, 2), unit)
    if kind in ("linear", "cubic"):
        x, y = np.linspace(-1, 25, 5), np.linspace(-2, 19, 4)
        return GridField(BOX, x, y, rng.uniform(1.0, 1.3, (4, 5)), unit, kind)
    c = rng.uniform(-0.05, 0.05, (3, 4))
    c[0, 0] = rng.uniform(0.8, 2.0)
    field = ChebyshevField(BOX, c, unit)
    return PixelAreaField(field) if kind == "area" and unit == "" else field


@st.composite
def trees(draw: st.DrawFn, depth: int = 2) -> Field:
    """Draw a field built by a few operations."""
    if depth == 0 or draw(st.booleans()):
        return draw(leaves())
    a, b = draw(trees(depth - 1)), draw(trees(depth - 1))
    operation = draw(st.sampled_from(["mul", "div", "add", "scale"]))
    if operation == "mul":
        return a * b
    if operation == "div":
        return a / b
    if operation == "scale":
        return a * draw(st.floats(0.5, 2.0))
    return a + a * (b / (1 * b.unit))


def same(a: Field, b: Field, rtol: float = 1e-11) -> None:
    assert a.unit.is_equivalent(b.unit)
    np.testing.assert_allclose(a.to(b.unit).render(), b.render(), rtol=rtol)


@given(trees(), trees())
def test_product_then_quotient(f: Field, g: Field) -> None:
    same((f * g) / g, f)
    same((f / g) * g, f)
    same(g / (f * g), 1 / f)
    same(1 / (1 / f), f)


@given(leaves(), leaves())
def test_product_then_quotient_is_exact_for_leaves(f: Field, g: Field) -> None:
    assume(not isinstance(g, ConstantField))
    assert (f * g) / g == f
    assert (f / g) * g == f
    assert (g * f) / g == f
    assert 1 / (1 / g) == g


@given(trees(), trees(), trees())
def test_ring_laws(f: Field, g: Field, h: Field) -> None:
    assert f * g == g * f
    same((f * g) * h, f * (g * h))
    g2 = g.with_box(BOX) * (1 * f.unit / g.unit)
    same((f + g2) * h, f * h + g2 * h)
    same((f + g2) / h, f / h + g2 / h)
    assert f + g2 == g2 + f
    same((f + g2) - g2, f)
    assert f - f == ConstantField(BOX, 0.0, f.unit)


@given(trees(), trees())
def test_linearity_of_the_integral(f: Field, g: Field) -> None:
    g = g * (1 * f.unit / g.unit)
    both = f.integral() + 2 * g.integral()
    assert (f + 2 * g).integral() == pytest.approx(both, rel=1e-10)


@given(trees(), st.integers(1, 23), st.integers(1, 17))
def test_additivity_of_the_integral(f: Field, i: int, j: int) -> None:
    parts = [
        Box(0, 0, i, j),
        Box(i, 0, 24 - i, j),
        Box(0, j, i, 18 - j),
        Box(i, j, 24 - i, 18 - j),
    ]
    assert sum(f.integral(part) for part in parts) == pytest.approx(f.integral(), rel=1e-10)


def test_kinds_that_result() -> None:
    c = ConstantField(BOX, 2.0, "nJy / adu")
    f = ChebyshevField(BOX, [[1.0, 0.1]])
    g = GridField(BOX, [-1, 12, 25], [-1, 19], [[1, 2, 1], [1, 1, 1]])
    assert isinstance(3 * f, ChebyshevField)
    assert isinstance(f / u.s, ChebyshevField)
    assert isinstance(3 * g, GridField)
    assert c * c == ConstantField(BOX, 4.0, c.unit**2)
    assert c / (4 * c) == ConstantField(BOX, 0.25)
    assert isinstance(c * f, ProductField)
    assert len((2 * (c * f) * c * 5).factors) == 2
    assert (2 * (c * f) * c * 5).factors[0].value == 40.0
    assert isinstance(f / g, QuotientField)
    assert isinstance((c * f) / (c * g), QuotientField)
    assert ((c * f) / (c * g)).numerator == f
    assert isinstance(f + g, SumField)
    assert len((f + g + 1 + (f - 3)).terms) == 4
    assert f + 0 is f
    assert (f + 1) - 1 == f
    assert f / f == ConstantField(BOX, 1.0)
    assert (f * f) / f == f
    assert f / (f * f) == 1 / f


def test_cancelling_only_equal_factors() -> None:
    f = ChebyshevField(BOX, [[1.0, 0.1]])
    almost = ChebyshevField(BOX, [[1.0, 0.1 + 1e-15]])
    assert isinstance((f * f) / almost, QuotientField)
    in_njy, in_ujy = f * u.nJy, f * u.uJy
    ratio = in_ujy / in_njy
    assert ratio.to("")(x=3, y=3) == pytest.approx(1000.0)
    assert (in_ujy * f) / f == in_ujy


def test_a_zero_that_cancels_is_gone_and_one_that_stays_raises_with_its_position() -> None:
    ramp = ChebyshevField(BOX, [[0.0, 1.0]])  # zero at x = 11.5
    f = GridField(BOX, [-1, 25], [-1, 19], [[1, 2], [3, 4]])
    assert (f * ramp) / ramp == f
    ratio = f / ramp
    assert np.isfinite(ratio.render()).all()  # no pixel centre is at 11.5
    with pytest.raises(PogsonValueError, match=r"0\.0 at x=11\.5, y=3 \(1 of 2 values"):
        ratio(x=[3.0, 11.5], y=3.0)
    stripe = GridField(BOX, [-1, 9, 10, 11, 25], [-1, 19], [[1, 1, 0, 1, 1]] * 2)
    for dtype in (float, np.float32):
        with pytest.raises(PogsonValueError, match=r"0\.0 at x=10, y=0 .*with_box"):
            (f / stripe).render(dtype=dtype)
    clear = Box(12, 0, 5, 5)
    assert np.isfinite((f / stripe).with_box(clear).render()).all()
    assert np.isfinite((f / stripe).render(clear)).all()
    assert np.isnan(ratio(x=np.nan, y=3.0))


def test_a_denominator_that_is_not_a_number_raises() -> None:
    class Hole(ConstantField):
        __slots__ = ()

        def _evaluate(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
            return np.where(x == 4, np.nan, 1.0)

        _rows = Field._rows

    hole = QuotientField(ChebyshevField(BOX, [[1.0]]), Hole(BOX, 1.0))
    with pytest.raises(PogsonValueError, match="nan at x=4, y=2"):
        hole(x=[3, 4], y=2)
    with pytest.raises(PogsonValueError, match="nan at x=4, y=0"):
        hole.render()


def test_integral_of_a_quotient() -> None:
    # mean of 1/(a + t) over t in [-1, 1] is ln((a + 1)/(a - 1)) / 2
    for a in (2.0, 1.1, 1.01, 1.0001):
        f = 1 / ChebyshevField(BOX, [[a, 1.0]])
        assert f.mean() == pytest.approx(np.log((a + 1) / (a - 1)) / 2, rel=1e-11)
    at_the_edge = 1 / ChebyshevField(BOX, [[1.0, 1.0]])
    with pytest.raises(PogsonValueError, match=r"0\.0 at x=-0\.5"):
        at_the_edge.mean()
    across = 1 / ChebyshevField(BOX, [[0.3, 1.0], [0.7, 0.0]])
    with pytest.warns(PogsonWarning, match="converged to a relative"):
        across.mean()


def test_integral_of_a_quotient_of_grids_resolves_the_kinks() -> None:
    x = np.array([-1.0, 5.3, 11.1, 25.0])
    v = np.array([1.0, 3.0, 1.5, 2.0])
    f = 1 / GridField(BOX, x, [-1, 19], [v, v])
    # between nodes 1/linear integrates to log(v2/v1)/slope
    edges = [-0.5, 5.3, 11.1, 23.5]
    w = np.interp(edges, x, v)
    truth = sum(
        (b - a) * np.log(q / p) / (q - p)
        for a, b, p, q in zip(edges[:-1], edges[1:], w[:-1], w[1:], strict=True)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert f.mean() == pytest.approx(truth / 24, rel=1e-12)


def test_units_of_sums_convert() -> None:
    total = ConstantField(BOX, 1.0, "uJy") + ConstantField(BOX, 500.0, "nJy")
    assert total == ConstantField(BOX, 1.5, "uJy")
    f = ChebyshevField(BOX, [[100.0, 1.0]], "nJy") + 2 * u.uJy
    assert f.unit == u.nJy
    assert f(x=11.5, y=0) == pytest.approx(2100.0)
    g = (2 * u.uJy) - ChebyshevField(BOX, [[100.0, 1.0]], "nJy")
    assert g.unit == u.nJy
    assert g(x=11.5, y=0) == pytest.approx(1900.0)
    with pytest.raises(UnitMismatchError, match=r"'nJy / adu'.*'nJy'|'nJy'.*'nJy / adu'"):
        f + ConstantField(BOX, 1.0, "nJy / adu")
    with pytest.raises(UnitMismatchError):
        f + 1.0
    with pytest.raises(UnitMismatchError):
        f.to("adu")
    same(f.to("uJy").to("nJy"), f)


def test_functions_refuse_what_is_no_field() -> None:
    for function in (algebra.multiply, algebra.divide, algebra.add):
        with pytest.raises(PogsonTypeError, match=r"must be a field|combines with"):
            function("a", "b")
    with pytest.raises(PogsonTypeError, match="must be a field"):
        algebra.multiply(2.0, 3.0)


def test_constant_takes_quantities() -> None:
    assert ConstantField(BOX, 3 * u.nJy) == ConstantField(BOX, 3, "nJy")
    assert ConstantField(BOX, 3 * u.uJy, "nJy").value == pytest.approx(3000)
    assert ConstantField(BOX, -0.0) == ConstantField(BOX, 0.0)
    for bad in (np.nan, np.inf, "x", None, [1, 2]):
        with pytest.raises(PogsonValueError):
            ConstantField(BOX, bad)
