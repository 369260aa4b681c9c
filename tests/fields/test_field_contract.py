"""One contract that every kind of field keeps."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import astropy.units as u
import numpy as np
import pytest

import pogson.fields as pf
from pogson.errors import BoundsError, PogsonTypeError, PogsonValueError, UnitMismatchError
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
    TableField,
    field_from_dict,
    read_field,
    write_field,
)

BOX = Box(-7, 11, 64, 48)
SUB = Box(5, 20, 17, 9)


def _chebyshev(seed: int = 1, unit: str = "nJy / adu", total: bool = False) -> ChebyshevField:
    rng = np.random.default_rng(seed)
    c = 0.1 * rng.normal(size=(4, 6))
    c[0, 0] = 2.0
    if total:
        j, i = np.indices(c.shape)
        c[i + j > 5] = 0
    return ChebyshevField(BOX, c, unit, total=total)


def _grid(interpolation: str, seed: int = 2, unit: str = "adu / s") -> GridField:
    rng = np.random.default_rng(seed)
    x = np.sort(rng.uniform(-6.0, 55.0, 11))
    x = np.concatenate([[-8.0], x, [57.5]])
    y = np.linspace(9.5, 60.0, 8)
    return GridField(BOX, x, y, 2 + rng.uniform(-0.5, 0.5, (8, 13)), unit, interpolation)


def _area() -> PixelAreaField:
    c = ChebyshevField(BOX, [[0.07, 0.002], [-0.001, 0.0003]], "arcsec2")
    return PixelAreaField(c, 3e-8, "a made-up mapping")


class RippleField(Field):
    """A kind from outside, with nothing but the required methods."""

    __slots__ = ("_depth",)
    kind = "test_ripple"

    def __init__(self, box: Box, depth: float, unit: Any = "") -> None:
        self._set(_box=box, _unit=u.Unit(unit), _depth=float(depth))

    def _evaluate(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return 1 + self._depth * np.sin(x / 9) * np.cos(y / 7)

    def _parameters(self) -> dict[str, Any]:
        return {"depth": self._depth}

    @classmethod
    def _from_parameters(cls, box: Box, unit: Any, parameters: Any) -> RippleField:
        return cls(box, parameters["depth"], unit)

    def with_box(self, box: Box) -> RippleField:
        return RippleField(self._restricted(box), self._depth, self._unit)


pf.register_kind(RippleField)

FIELDS: dict[str, Field] = {
    "constant": ConstantField(BOX, 0.54, "nJy / adu"),
    "chebyshev": _chebyshev(),
    "chebyshev-total": _chebyshev(3, "", True),
    "chebyshev-order0": ChebyshevField(BOX, [[3.0]], "nJy"),
    "chebyshev-cut": ChebyshevField(
        Box(-100, -100, 4000, 300), _chebyshev(4).coefficients, "nJy"
    ).with_box(BOX),
    "linear": _grid("linear"),
    "cubic": _grid("cubic"),
    "image": GridField.from_image(
        np.random.default_rng(8).uniform(0.9, 1.1, BOX.shape), BOX, interpolation="linear"
    ),
    "area": _area(),
    "product": _chebyshev() * _grid("cubic") * _area(),
    "product-constant": ConstantField(BOX, 2.0, "nJy / adu") * _area(),
    "quotient": _chebyshev() / _grid("cubic"),
    "reciprocal": 1.0 / _area(),
    "sum": _chebyshev() + 3 * _chebyshev(5) - 0.2 * u.nJy / u.adu,
    "nested": (_chebyshev() / _area() + _chebyshev(6) * (1 * u.arcsec**-2)) * _grid("linear"),
    "table": TableField(BOX, "x", -3.0, 7.0, [1.0, 1.4, 0.8, 1.1], unit="nJy / adu"),
    "table-radius": TableField(BOX, "radius", 0.0, 500.0, [1.0, 2.0], (70.0, -5.0)),  # no kink
    "outside-kind": RippleField(BOX, 0.3, "nJy"),
}


@pytest.fixture(params=list(FIELDS))
def field(request: pytest.FixtureRequest) -> Field:
    return FIELDS[request.param]


def close(a: Any, b: Any, rtol: float = 1e-12) -> bool:
    np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)
    return True


def test_call_render_and_sub_box_agree(field: Field) -> None:
    image = field.render()
    assert image.shape == BOX.shape
    assert image.dtype == np.float64
    xx, yy = np.meshgrid(BOX.x_pixels(), BOX.y_pixels())
    assert close(field(x=xx, y=yy), image)
    part = image[SUB.slices(BOX)]
    assert close(field.render(SUB), part)
    cut = field.with_box(SUB)
    assert cut.box == SUB
    assert cut.unit == field.unit
    assert close(cut.render(), part)
    assert close(cut.integral(), field.integral(SUB))


def test_call_shapes(field: Field) -> None:
    one = field(x=3, y=15)
    assert type(one) is float
    assert field(x=[3, 4], y=15).shape == (2,)
    assert field(x=np.zeros((3, 1)), y=np.full(4, 20.0)).shape == (3, 4)
    assert field(x=np.empty(0), y=np.empty(0)).shape == (0,)
    assert close(field(x=3 * u.pix, y=15 * u.pix), one)
    value = field(x=3, y=15, quantity=True)
    assert value.unit == field.unit
    assert close(value.value, one)
    with pytest.raises(TypeError):
        field(3, 15)
    with pytest.raises(PogsonValueError, match="broadcast"):
        field(x=[1, 2, 3], y=[20, 21])
    with pytest.raises(PogsonValueError, match="numbers"):
        field(x="three", y=15)


def test_float32_is_the_rounded_float64(field: Field) -> None:
    image = field.render(dtype=np.float32)
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image, field.render().astype(np.float32))
    with pytest.raises(PogsonValueError, match="int16"):
        field.render(dtype=np.int16)


def test_bounds(field: Field) -> None:
    (x0, x1), (y0, y1) = BOX.x_bounds, BOX.y_bounds
    corners = field(x=[x0, x1, x0, x1], y=[y0, y0, y1, y1])
    assert np.isfinite(corners).all()
    with pytest.raises(BoundsError, match=r"x=56\.75, y=20 \(2 of 3 positions\)") as caught:
        field(x=[3.0, 56.75, -99.0], y=20.0)
    assert str(BOX.x_bounds) in str(caught.value)
    assert "extrapolate" in str(caught.value)
    assert np.isfinite(field(x=57.0, y=20.0, extrapolate=True))
    with pytest.raises(BoundsError):
        field(x=np.inf, y=20.0)
    for method in (field.render, field.integral, field.mean, field.with_box):
        with pytest.raises(BoundsError, match="nx=65"):
            method(Box(-7, 11, 65, 48))


def test_nan_positions_give_nan(field: Field) -> None:
    values = field(x=[np.nan, 3.0, 3.0], y=[15.0, np.nan, 15.0])
    assert np.isnan(values).tolist() == [True, True, False]
    masked = field(x=np.ma.array([3.0, 4.0], mask=[True, False]), y=15.0)
    assert np.isnan(masked).tolist() == [True, False]


def _quadrature(field: Field, box: Box) -> float:
    """Integrate by brute force: a 6-point rule on cells between all kinks, subdivided."""
    t, w = np.polynomial.legendre.leggauss(6)

    def axis(bounds: tuple[float, float], n: int, kinks: Any) -> tuple[np.ndarray, np.ndarray]:
        inside = [k for k in kinks if bounds[0] < k < bounds[1]]
        edges = np.unique(np.concatenate([np.linspace(*bounds, n + 1), inside]))
        half, mid = np.diff(edges)[:, None] / 2, (edges[1:] + edges[:-1])[:, None] / 2
        return (mid + half * t).ravel(), (half * w).ravel()

    grid, image = FIELDS["linear"], FIELDS["image"]
    x, wx = axis(box.x_bounds, box.nx // 2 + 1, [*grid.x_nodes, *image.x_nodes])
    y, wy = axis(box.y_bounds, box.ny // 2 + 1, [*grid.y_nodes, *image.y_nodes])
    return float(wy @ field(x=x[None, :], y=y[:, None]) @ wx)


@pytest.mark.parametrize("box", [BOX, SUB, Box(0, 30, 1, 1)], ids=["all", "part", "pixel"])
def test_integral_and_mean(field: Field, box: Box) -> None:
    truth = _quadrature(field, box)
    scale = np.abs(field.render(box)).mean() * box.area
    assert abs(field.integral(box) - truth) < 3e-12 * scale
    assert abs(field.mean(box) - truth / box.area) < 3e-12 * scale / box.area
    assert type(field.mean(box)) is float


def test_integral_adds_up_over_boxes(field: Field) -> None:
    left, right = Box(-7, 11, 20, 48), Box(13, 11, 44, 48)
    assert close(field.integral(left) + field.integral(right), field.integral(), 1e-11)


def test_scaling_by_numbers_quantities_and_units(field: Field) -> None:
    image = field.render()
    for scaled in (2.5 * field, field * 2.5, field * np.float64(2.5), np.float32(2.5) * field):
        assert close(scaled.render(), 2.5 * image)
        assert scaled.unit == field.unit
        assert scaled.box == field.box
    assert close((field / 2.5).render(), image / 2.5)
    assert close((-field).render(), -image)
    assert +field is field
    for scaled in (field * u.s, u.s * field, field * (1 * u.s), (1 * u.s) * field):
        assert scaled.unit == field.unit * u.s
        assert close(scaled.render(), image)
    assert (field / (2 * u.s)).unit == field.unit / u.s
    assert close(((2 * u.s) / field).render(), 2 / image)
    assert ((2 * u.s) / field).unit == u.s / field.unit
    assert (u.s / field).unit == u.s / field.unit
    assert field * 1 == field
    with pytest.raises(PogsonValueError, match="zero"):
        field / 0
    with pytest.raises(PogsonValueError, match="finite"):
        field * np.nan


def test_adding_checks_units(field: Field) -> None:
    image = field.render()
    assert close((field + 2 * field).render(), 3 * image)
    assert close((field - field / 2).render(), image / 2)
    assert sum([field, field]).unit == field.unit
    assert close((field + 1.5 * field.unit).render(), image + 1.5)
    assert close((1.5 * field.unit - field).render(), 1.5 - image)
    with pytest.raises(UnitMismatchError, match="km"):
        field + 3 * u.km
    with pytest.raises(UnitMismatchError):
        field - ConstantField(BOX, 1.0, "km")
    assert field - field == ConstantField(BOX, 0.0, field.unit)


def test_other_operands_are_refused(field: Field) -> None:
    for other in (np.ones(3), "nJy", None, [1.0], np.ones(2) * u.nJy, 1j):
        for combine in (
            lambda f, o: f * o,
            lambda f, o: f / o,
            lambda f, o: f + o,
            lambda f, o: f - o,
        ):
            with pytest.raises(PogsonTypeError, match="render"):
                combine(field, other)
    with pytest.raises(PogsonTypeError, match="render"):
        np.ones(3) * field


def test_json_and_fits_round_trip(field: Field, tmp_path: Any) -> None:
    description = field.to_dict()
    assert description["schema"] == "pogson.field"
    assert description["version"] == 1
    text = json.dumps(description, allow_nan=False)
    again = field_from_dict(json.loads(text))
    assert again == field
    np.testing.assert_array_equal(again.render(), field.render())
    for name in ("f.json", "f.fits", "f.fits.gz"):
        write_field(field, tmp_path / name)
        again = read_field(tmp_path / name)
        assert again == field
        assert again.unit == field.unit
        np.testing.assert_array_equal(again.render(), field.render())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.fits", "f.fits.gz", "f.json"]


def test_copies_and_processes(field: Field) -> None:
    assert copy.copy(field) is field
    assert copy.deepcopy(field) is field
    again = pickle.loads(pickle.dumps(field))
    assert again == field
    assert hash(again) == hash(field)
    np.testing.assert_array_equal(again.render(), field.render())


def test_repr_evaluates(field: Field) -> None:
    text = repr(field)
    if "sha256" in text:
        assert "values" in text
        return
    names = {name: getattr(pf, name) for name in pf.__all__} | {"RippleField": RippleField}
    assert eval(text, names) == field


def test_equality(field: Field) -> None:
    others = [f for f in FIELDS.values() if f is not field]
    assert field not in others
    assert field != 1
    assert field != 2 * field
    assert field != field.with_box(SUB)
    assert field != field * u.s
    assert len({field, pickle.loads(pickle.dumps(field))}) == 1


def test_immutable(field: Field) -> None:
    for name in ("box", "unit", "_box", "anything"):
        with pytest.raises(AttributeError, match="immutable"):
            setattr(field, name, 1)
    with pytest.raises(AttributeError, match="immutable"):
        del field._box
    for value in field._parameters().values():
        if isinstance(value, np.ndarray):
            with pytest.raises(ValueError, match="read-only"):
                value[...] = 0


@pytest.mark.parametrize("other", list(FIELDS))
def test_product_and_sum_cancel_exactly(field: Field, other: str) -> None:
    g = FIELDS[other]
    back = (field * g) / g
    assert close(back.render(), field.render())
    assert back.unit == field.unit
    # constants fold, to rounding; everything else cancels as it is
    if not isinstance(g, ConstantField) and "constant" not in other:
        assert back == field
    if field.unit.is_equivalent(g.unit):
        assert close(((field + g) - g).render(), field.render())
        if field.unit == g.unit and not isinstance(g, ConstantField):
            assert (field + g) - g == field


@pytest.mark.parametrize("other", list(FIELDS))
def test_binary_operations_act_on_values(field: Field, other: str) -> None:
    g = FIELDS[other]
    a, b = field.render(), g.render()
    assert close((field * g).render(), a * b)
    assert (field * g).unit == field.unit * g.unit
    assert (field * g) == (g * field)
    assert close((field / g).render(), a / b)
    assert (field / g).unit == field.unit / g.unit
    if field.unit.is_equivalent(g.unit):
        total = field + g
        assert total.unit == field.unit
        assert close(total.render(), a + b * g.unit.to(field.unit))
    else:
        with pytest.raises(UnitMismatchError):
            field + g


def test_boxes_intersect(field: Field) -> None:
    g = ChebyshevField(Box(20, 0, 100, 30), [[1.0, 0.2]])
    shared = Box(20, 11, 37, 19)
    for result in (field * g, field / g, g / field):
        assert result.box == shared
    assert close((field * g).render(), field.render(shared) * g.render(shared))
    assert (field * g) / g == field.with_box(shared)
    with pytest.raises(BoundsError, match="do not overlap"):
        field * ChebyshevField(Box(500, 500, 3, 3), [[1.0]])


def test_composites_made_by_hand() -> None:
    a, g = _area(), _grid("linear")
    assert ProductField([a, g]) == a * g
    assert QuotientField(a, g) == a / g
    assert SumField([g, 2 * g]) == g + 2 * g
    assert ProductField([a]).render().shape == BOX.shape
    for make in (ProductField, SumField):
        with pytest.raises(PogsonValueError, match="at least one"):
            make([])
        with pytest.raises(PogsonTypeError, match="int"):
            make([a, 3])
