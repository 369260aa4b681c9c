"""The kernels below the drawing: powers, interpolation weights, samples of one star."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pogson.errors import PogsonValueError
from pogson.fields import Box, ChebyshevField
from pogson.psf import MoffatPSF, PixelGridPSF, SkyFrame
from pogson.psf import _draw_kernels as draw
from pogson.psf import _grid_kernels as grid
from pogson.sky import FitsSkyMap


@settings(max_examples=30, deadline=None)
@given(exponent=st.floats(0.5, 1000.0), seed=st.integers(0, 1000))
def test_powers(exponent: float, seed: int) -> None:
    base = np.exp(np.random.default_rng(seed).uniform(0, 30, 67))
    base[:3] = 1.0, np.sqrt(2.0), np.nextafter(2.0, 1.0)
    out, work = np.empty(67), np.empty(67)
    draw.powers(base, exponent, 67, work, out)
    true = base**-exponent
    large = true > 1e-290
    np.testing.assert_allclose(out[large], true[large], rtol=4e-15 * max(1, exponent * 30))
    assert (out[~large] < 1e-289).all()
    assert (out >= 0).all()


@pytest.mark.parametrize("order", [3, 4, 5, -3])
def test_rows_of_weights_are_the_weights(order: int) -> None:
    g = np.random.default_rng(2).uniform(-3, 60, 400)
    g[:3] = 4.0, 5.0, -1.0
    size = 2 * abs(order)
    cosines, sines = grid._angles(order)
    first, taps, own = np.empty(g.size, np.int64), np.empty((size, g.size)), np.empty(size)
    coordinates = g.copy()
    grid._row_taps(coordinates, order, cosines, sines, first, taps)
    for i in range(g.size):
        assert grid._taps(g[i], order, cosines, sines, own) == first[i]
        np.testing.assert_allclose(taps[:, i], own, atol=2e-9)


def test_grids_in_a_sky_frame_are_their_interpolant() -> None:
    """The fast rows against the plain interpolation of single points."""
    sky = FitsSkyMap.tan(10.0, -20.0, x=50.0, y=50.0, scale_arcsec=0.26, rotation_deg=33.0)
    samples = MoffatPSF(3.5, 3.0).draw(x=0.1, y=0.2, half_size=9).image
    for name in ("lanczos3", "lanczos4", "lagrange6"):
        psf = PixelGridPSF(samples, frame=SkyFrame(sky, 10.0, -20.0, 0.21), interpolation=name)
        stamp = psf.draw(x=60.3, y=40.7, half_size=20)
        matrix = psf.frame.matrix(np.array([60.3]), np.array([40.7]))[0]
        dx, dy = np.meshgrid(stamp.box.x_pixels() - 60.3, stamp.box.y_pixels() - 40.7)
        gx, gy = np.tensordot(matrix, np.stack([dx, dy]), 1)
        true = np.empty(dx.size)
        order = {"lanczos3": 3, "lanczos4": 4, "lagrange6": -3}[name]
        own = psf.samples(x=[60.3], y=[40.7])[0]
        grid.grid_points(own, gx.ravel() + 9.0, gy.ravel() + 9.0, order, true)
        true = true.reshape(dx.shape) * abs(np.linalg.det(matrix))
        assert np.abs(stamp.image - true).max() < 2e-9 * true.max()


def test_fields_do_not_depend_on_company() -> None:
    rng = np.random.default_rng(1)
    field = ChebyshevField(Box(0, 0, 1000, 1000), rng.normal(size=(7, 7)))
    x, y = rng.uniform(0, 999, (2, 203))
    values = field(x=x, y=y)
    for n in (1, 2, 3, 7, 8, 9, 50):
        for start in range(0, 203 - n, 31):
            part = slice(start, start + n)
            np.testing.assert_array_equal(field(x=x[part], y=y[part]), values[part])


def test_drawing_into_a_given_array() -> None:
    psf = MoffatPSF(3.0, 3.0)
    out = np.full((2, 9, 9), np.nan)
    stamps, _, _ = psf.draw_many(x=[1.0, 2.2], y=[3.0, 4.1], half_size=4, out=out)
    assert stamps is out
    np.testing.assert_array_equal(out, psf.draw_many(x=[1.0, 2.2], y=[3.0, 4.1], half_size=4)[0])
    for bad in (out[:1], out.astype(np.float32), out[:, :, ::-1]):
        with pytest.raises(PogsonValueError, match="contiguous float64"):
            psf.draw_many(x=[1.0, 2.2], y=[3.0, 4.1], half_size=4, out=bad)
