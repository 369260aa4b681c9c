"""Grid fields, pixel areas and boxes."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import CubicSpline, RegularGridInterpolator

from pogson.errors import BoundsError, PogsonTypeError, PogsonValueError, UnitMismatchError
from pogson.fields import Box, ChebyshevField, ConstantField, GridField, PixelAreaField

BOX = Box(3, 5, 60, 40)


def _nodes(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x = np.concatenate([[2.0], np.sort(rng.uniform(4, 60, 9)), [64.0]])
    y = np.concatenate([[3.0], np.sort(rng.uniform(6, 40, 5)), [46.0]])
    return x, y, rng.normal(size=(y.size, x.size))


def test_linear_against_scipy(rng: np.random.Generator) -> None:
    x, y, v = _nodes(rng)
    field = GridField(BOX, x, y, v, "adu")
    px, py = rng.uniform(*BOX.x_bounds, 40_000), rng.uniform(*BOX.y_bounds, 40_000)
    truth = RegularGridInterpolator((y, x), v)((py, px))
    np.testing.assert_allclose(field(x=px, y=py), truth, rtol=0, atol=1e-12)


def test_cubic_against_scipy(rng: np.random.Generator) -> None:
    x, y, v = _nodes(rng)
    field = GridField(BOX, x, y, v, "adu", "cubic")
    truth = CubicSpline(x, CubicSpline(y, v)(BOX.y_pixels()), axis=1)(BOX.x_pixels())
    np.testing.assert_allclose(field.render(), truth, rtol=0, atol=1e-10)
    along_y = CubicSpline(y, v).integrate(*BOX.y_bounds)
    assert field.integral() == pytest.approx(CubicSpline(x, along_y).integrate(*BOX.x_bounds))


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
def test_nodes_are_hit_and_end_pieces_continue(interpolation: str) -> None:
    rng = np.random.default_rng(5)
    image = rng.normal(size=BOX.shape)
    field = GridField.from_image(image, BOX, "adu", interpolation)
    np.testing.assert_allclose(field.render(), image, rtol=0, atol=1e-12)
    if interpolation == "linear":
        edge = field(x=BOX.x_bounds[0], y=BOX.y_min)
        assert edge == pytest.approx(1.5 * image[0, 0] - 0.5 * image[0, 1])


def test_cubic_reproduces_cubics() -> None:
    x, y = np.linspace(0, 66, 7), np.linspace(2, 50, 6)

    def poly(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (1 + a / 30 - (a / 40) ** 3) * (2 - (b / 20) ** 2 + (b / 30) ** 3)

    field = GridField(BOX, x, y, poly(x[None, :], y[:, None]), "", "cubic")
    truth = poly(BOX.x_pixels()[None, :], BOX.y_pixels()[:, None])
    np.testing.assert_allclose(field.render(), truth, rtol=1e-11, atol=1e-11)


def test_linear_integral_by_hand() -> None:
    # a roof along x: 0 at -0.5, 1 at 9.5, 0 at 19.5; mean 1/2
    field = GridField(Box(0, 0, 20, 4), [-0.5, 9.5, 19.5], [-0.5, 3.5], [[0, 1, 0], [0, 1, 0]])
    assert field.mean() == pytest.approx(0.5, rel=1e-14)
    assert field.integral(Box(0, 0, 10, 4)) == pytest.approx(20.0, rel=1e-14)


def test_many_nodes_use_the_sparse_path(rng: np.random.Generator) -> None:
    box = Box(0, 0, 300, 200)
    rings = 1 + 0.003 * np.sin(np.hypot(*np.indices(box.shape)) / 5)
    field = GridField.from_image(rings, box)
    np.testing.assert_allclose(field.render(), rings, rtol=1e-14)
    smooth = ChebyshevField(box, [[1.0, 0.1], [0.05, 0.01]])
    product = field * smooth
    t, w = np.polynomial.legendre.leggauss(2)
    edges = np.unique([-0.5, *range(200), 199.5]), np.unique([-0.5, *range(300), 299.5])
    (y, wy), (x, wx) = (
        (
            (0.5 * (e[1:] + e[:-1])[:, None] + 0.5 * np.diff(e)[:, None] * t).ravel(),
            (0.5 * np.diff(e)[:, None] * w).ravel(),
        )
        for e in edges
    )
    values = field(x=x, y=y[:, None]) * smooth(x=x, y=y[:, None])
    assert product.integral() == pytest.approx(wy @ values @ wx, rel=1e-13)
    assert (smooth / field).mean() == pytest.approx(
        wy @ (smooth(x=x, y=y[:, None]) / field(x=x, y=y[:, None])) @ wx / box.area, rel=1e-9
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_nodes": [0.0]}, "at least 2"),
        ({"x_nodes": [0, 30, 70], "interpolation": "cubic"}, "at least 4"),
        ({"x_nodes": [0, 30, 30]}, r"must increase; node 2 \(30.0\)"),
        ({"x_nodes": [0, np.nan, 70]}, "finite"),
        ({"x_nodes": [20, 30, 70]}, "without support"),
        ({"x_nodes": [0, 30, 40]}, "without support"),
        ({"values": np.ones((3, 2))}, r"must be \(2, 3\)"),
        ({"values": [[1, 2, np.nan], [1, 2, 3]]}, "1 of 6 values"),
        ({"interpolation": "nearest"}, "'linear' or 'cubic'"),
        ({"interpolation": ["linear"]}, "'linear' or 'cubic'"),
        ({"x_nodes": "abc"}, "numbers"),
    ],
)
def test_grid_refuses(change: dict, message: str) -> None:
    good = {"x_nodes": [0, 30, 70], "y_nodes": [0, 60], "values": np.ones((2, 3))}
    with pytest.raises(PogsonValueError, match=message):
        GridField(BOX, **(good | change))


def test_from_image_refuses() -> None:
    with pytest.raises(PogsonValueError, match="2 dimensions"):
        GridField.from_image(np.ones(3))
    with pytest.raises(PogsonValueError, match="do not fit"):
        GridField.from_image(np.ones((3, 3)), Box(0, 0, 4, 3))
    assert GridField.from_image(np.ones((3, 4)) * u.adu).unit == u.adu


# -- pixel areas ------------------------------------------------------------------------------
def _area(unit: str = "arcsec2") -> PixelAreaField:
    return PixelAreaField(ChebyshevField(BOX, [[0.07, 0.002]], unit), 1e-8, "a mapping")


def test_relative_area() -> None:
    area = _area()
    ratio = area.relative_to(0.07)
    assert ratio.unit == u.dimensionless_unscaled
    assert ratio.achieved_error == 1e-8
    assert ratio.reference == "a mapping; relative to 0.07 arcsec2"
    np.testing.assert_allclose(ratio.render(), area.render() / 0.07, rtol=1e-15)
    assert ratio.mean() == pytest.approx(1.0, rel=1e-15)
    sr = area.relative_to((0.07 * u.arcsec**2).to(u.sr))
    assert sr.mean() == pytest.approx(1.0, rel=1e-12)
    for bad in (0.0, -1.0, np.nan):
        with pytest.raises(PogsonValueError):
            area.relative_to(bad)
    with pytest.raises(UnitMismatchError):
        area.relative_to(3 * u.nJy)


def test_pixel_area_refuses() -> None:
    cheb = ChebyshevField(BOX, [[0.07, 0.2]], "arcsec2")
    with pytest.raises(PogsonValueError, match=r"positive; it is -0.13 at x=2.5"):
        PixelAreaField(cheb)
    with pytest.raises(UnitMismatchError, match="nJy"):
        PixelAreaField(ChebyshevField(BOX, [[1.0]], "nJy"))
    with pytest.raises(PogsonValueError, match="achieved_error"):
        PixelAreaField(ChebyshevField(BOX, [[1.0]]), -1e-9)
    with pytest.raises(PogsonTypeError, match="approximate"):
        PixelAreaField(ConstantField(BOX, 1.0))
    with pytest.raises(PogsonTypeError, match="text"):
        PixelAreaField(ChebyshevField(BOX, [[1.0]]), 0.0, 3)


def test_area_divides_out_of_a_calibration() -> None:
    area = _area().relative_to(0.07)
    scale = ConstantField(BOX, 0.54, "nJy / adu")
    flat = ChebyshevField(BOX, [[1.0, 0.01], [0.02, 0.0]])
    calibration = scale * flat * area
    assert calibration / area == scale * flat
    assert calibration / area / flat == scale
    assert calibration / (area * flat) == scale
    assert (1 / area) * calibration == scale * flat
    assert calibration.mean() == pytest.approx(
        ChebyshevField.approximate(calibration, 4).mean(), rel=1e-13
    )
    # another area of the same shape of numbers but another error is not the same factor
    other = PixelAreaField(area.chebyshev, 1e-3, area.reference)
    assert calibration / other != scale * flat


# -- boxes ------------------------------------------------------------------------------------
boxes = st.builds(
    Box, st.integers(-50, 50), st.integers(-50, 50), st.integers(1, 60), st.integers(1, 60)
)


@given(boxes, boxes)
def test_box_intersection(a: Box, b: Box) -> None:
    cells = [
        {(x, y) for x in range(k.x_min, k.x_max + 1) for y in range(k.y_min, k.y_max + 1)}
        for k in (a, b)
    ]
    shared = cells[0] & cells[1]
    if not shared:
        with pytest.raises(BoundsError, match="do not overlap"):
            a.intersection(b)
        return
    both = a.intersection(b)
    assert both == b.intersection(a)
    assert both.area == len(shared)
    assert a.contains_box(both)
    assert b.contains_box(both)
    image = np.arange(a.area).reshape(a.shape)
    part = image[both.slices(a)]
    assert part.shape == both.shape
    assert part[0, 0] == image[both.y_min - a.y_min, both.x_min - a.x_min]


def test_box_edges_and_repr() -> None:
    box = Box(2, 3, 4, 5)
    assert box.contains(x=[1.5, 1.49, 5.5, 5.51], y=3.0).tolist() == [True, False, True, False]
    assert not box.contains(x=np.nan, y=3.0)
    assert eval(repr(box)) == box
    assert tuple(box) == (2, 3, 4, 5)
    assert box.center == (3.5, 5.0)
    assert Box.from_shape((5, 4), 2, 3) == box
    assert Box(np.int64(2), 3.0, 4, 5) == box
    assert Box.everywhere().contains_box(box)
    with pytest.raises(BoundsError, match="not inside"):
        box.slices(Box(0, 0, 3, 3))


@pytest.mark.parametrize(
    "values", [(0, 0, 0, 1), (0, 0, 1, -1), (0.5, 0, 1, 1), ("0", 0, 1, 1), (0, 0, np.nan, 1),
               (0, 0, np.inf, 1), (None, 0, 1, 1), (0, 0, 10**30, 1)]
)  # fmt: skip
def test_box_refuses(values: tuple) -> None:
    with pytest.raises(PogsonValueError, match="Box"):
        Box(*values)
    with pytest.raises(PogsonValueError, match="shape"):
        Box.from_shape((1, 2, 3))


def test_field_that_holds_everywhere() -> None:
    field = ConstantField(Box.everywhere(), 2.0, "nJy / adu")
    assert field(x=-1e6, y=1e8) == 2.0
    assert field.mean() == 2.0
    assert field.render(Box(-5, -5, 2, 2)).tolist() == [[2, 2], [2, 2]]
    with pytest.raises(BoundsError, match="box="):
        field.render()
    assert (field * ChebyshevField(BOX, [[1.0, 0.1]])).box == BOX
