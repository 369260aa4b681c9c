"""Point sources on an image: accuracy, edges, and bits that never depend on the cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pogson.errors import BoundsError, PogsonTypeError, PogsonValueError
from pogson.fields import Box, ChebyshevField
from pogson.inject.render import add_point_sources, add_stamps
from pogson.inject.stamps import light_within, nearest_position, stamp_half_size
from pogson.inject.wings import WingModel
from pogson.psf import (
    GaussianPSF,
    KolmogorovPSF,
    MoffatPSF,
    PixelFrame,
    PixelGridPSF,
    PsfNormalization,
    SkyFrame,
    Stamp,
)
from pogson.psf.pixel_grid import polynomial_powers
from pogson.psf.profiles import moffat_alpha
from pogson.sky import FitsSkyMap

NX, NY = 230, 310
BOX = Box(-20, 35, NX, NY)


def field(*rows: list[float]) -> ChebyshevField:
    return ChebyshevField(BOX, np.array(rows))


def grid_psf(frame: PixelFrame | SkyFrame, spread: float) -> PixelGridPSF:
    samples = MoffatPSF(3.5, 3.0).draw(x=0, y=0, half_size=15).image
    powers = polynomial_powers(2)
    rng = np.random.default_rng(5)
    terms = rng.normal(size=(len(powers), *samples.shape)) * 0.02 * samples
    terms /= (spread ** powers.sum(axis=1))[:, None, None]
    terms[0] = samples
    return PixelGridPSF(terms, powers, frame)


SKY = FitsSkyMap.tan(10.0, -20.0, x=95.0, y=190.0, scale_arcsec=0.26, rotation_deg=20.0)
VARYING = MoffatPSF(
    field([3.5, 0.4, 0.05], [0.2, 0.05, 0.02], [0.1, 0.0, 0.01]),
    field([3.0, 0.2], [0.15, 0.03]),
    field([0.02, 0.03], [0.01, 0.0]),
    field([0.0, 0.02], [-0.03, 0.01]),
)
PSFS = {
    "gaussian": GaussianPSF(field([3.0, 0.3], [0.2, 0.0]), e1=0.1, e2=0.05),
    "moffat": VARYING,
    "moffat aperture": MoffatPSF(3.2, 3.1, normalization=PsfNormalization("aperture", 12.0)),
    "kolmogorov": KolmogorovPSF(field([3.5, 0.2], [0.1, 0.0])),
    "pixel grid": grid_psf(PixelFrame(1.0, 95.0, 190.0, 115.0, 155.0), 1.0),
    "sky grid": grid_psf(SkyFrame(SKY, 10.0, -20.0, 0.26), 30.0),
    "wings": WingModel(9.0, 2.6).join(VARYING),
}


def scene(n: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "x": rng.uniform(BOX.x_min - 0.4, BOX.x_max + 0.4, n),
        "y": rng.uniform(BOX.y_min - 0.4, BOX.y_max + 0.4, n),
        "flux": 10 ** rng.uniform(1, 5, n) * rng.choice([-1.0, 1.0, 1.0], n),
        "half_size": rng.choice([0, 4, 11, 20], n),
    }


def background(dtype: type, seed: int = 3) -> np.ndarray:
    image = np.random.default_rng(seed).normal(0, 30, BOX.shape).astype(dtype)
    image[5, :7] = np.nan
    image[6, :7] = -0.0
    return image


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.tobytes() == np.ascontiguousarray(b).tobytes()


@pytest.mark.parametrize("name", PSFS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bits_do_not_depend_on_order_tiles_or_threads(name: str, dtype: type) -> None:
    psf, sources = PSFS[name], scene(150, 11)
    whole = background(dtype)
    light = add_point_sources(whole, psf, **sources, box=BOX, threads=1)

    order = np.random.default_rng(1).permutation(150)
    shuffled = background(dtype)
    again = add_point_sources(
        shuffled, psf, **{k: v[order] for k, v in sources.items()}, box=BOX, threads=3
    )
    assert same_bits(whole, shuffled)
    assert same_bits(light[order], again)

    tiled, parts = background(dtype), np.zeros(150)
    for y0, ny in ((0, 1), (1, 100), (101, NY - 101)):
        for x0, nx in ((0, 77), (77, NX - 77)):
            tile = Box(BOX.x_min + x0, BOX.y_min + y0, nx, ny)
            parts += add_point_sources(
                tiled[y0 : y0 + ny, x0 : x0 + nx], psf, **sources, box=tile, threads=2
            )
    assert same_bits(whole, tiled)
    np.testing.assert_allclose(parts, light, rtol=1e-12)


@pytest.mark.parametrize("name", PSFS)
def test_each_source_alone_gives_its_own_bits(name: str) -> None:
    """Of many sources each is the same as when it comes alone."""
    psf = PSFS[name]
    n = 40
    x, y = 10.0 + 17.3 * (np.arange(n) % 10), 60.0 + 61.7 * (np.arange(n) // 10)
    together = np.zeros(BOX.shape)
    add_point_sources(together, psf, x=x, y=y, flux=1.0, half_size=8, box=BOX)
    alone = np.zeros(BOX.shape)
    for k in range(n):
        add_point_sources(alone, psf, x=x[k], y=y[k], flux=1.0, half_size=8, box=BOX)
    # columns 17 px apart: stamps of 17 px may touch by a pixel, which adds in another order
    np.testing.assert_allclose(together, alone, rtol=1e-14, atol=0)
    lonely = np.zeros(BOX.shape)
    add_point_sources(lonely, psf, x=x[::2], y=y[::2], flux=1.0, half_size=8, box=BOX)
    for k in range(0, n, 2):
        own = np.zeros(BOX.shape)
        add_point_sources(own, psf, x=x[k], y=y[k], flux=1.0, half_size=8, box=BOX)
        assert same_bits(own[own != 0], lonely[own != 0])


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(1, 90),
    threads=st.integers(1, 5),
    cut=st.integers(1, NY - 1),
)
def test_any_cut_gives_the_same_bits(seed: int, n: int, threads: int, cut: int) -> None:
    sources = scene(n, seed)
    whole, parts = background(np.float32), background(np.float32)
    add_point_sources(whole, VARYING, **sources, box=BOX, threads=threads)
    for y0, ny in ((0, cut), (cut, NY - cut)):
        tile = Box(BOX.x_min, BOX.y_min + y0, NX, ny)
        add_point_sources(parts[y0 : y0 + ny], VARYING, **sources, box=tile, threads=1)
    assert same_bits(whole, parts)


def test_pixels_are_the_integral_of_the_profile() -> None:
    node, weight = np.polynomial.legendre.leggauss(12)
    rng = np.random.default_rng(8)
    for k in range(25):
        x, y = rng.uniform(30, 190, 2)
        fwhm, beta = rng.uniform(2.8, 4.2), rng.uniform(2.6, 3.4)
        image = np.zeros((250, 250))
        add_point_sources(image, MoffatPSF(fwhm, beta), x=x, y=y, flux=1.0, half_size=25)
        x0, y0 = int(np.floor(x + 0.5)) - 25, int(np.floor(y + 0.5)) - 25
        u = ((x0 + np.arange(51) - x)[:, None] + node / 2)[None, :, None, :]
        v = ((y0 + np.arange(51) - y)[:, None] + node / 2)[:, None, :, None]
        alpha = moffat_alpha(fwhm, beta)
        profile = (beta - 1) / (np.pi * alpha**2) * (1 + (u * u + v * v) / alpha**2) ** -beta
        true = np.einsum("jiqp,q,p->ji", profile, weight / 2, weight / 2)
        mine = image[y0 : y0 + 51, x0 : x0 + 51]
        assert np.abs(mine - true).max() < 1e-6 * true.max(), k
        radius = np.hypot(*np.meshgrid(x0 + np.arange(51) - x, y0 + np.arange(51) - y)) < 12
        assert abs(2500 * np.log10(mine[radius].sum() / true[radius].sum())) < 1e-3


def test_deposited_light_is_what_the_image_gained() -> None:
    sources = scene(60, 2)
    image = np.zeros(BOX.shape)
    light = add_point_sources(image, VARYING, **sources, box=BOX)
    assert image.sum() == pytest.approx(light.sum(), rel=1e-12)
    inside = 5 * (sources["half_size"] == 20)
    assert inside.any()
    for k in range(60):
        stamp = VARYING.draw(
            x=sources["x"][k], y=sources["y"][k], half_size=int(sources["half_size"][k])
        )
        common = stamp.box.intersection(BOX)
        share = stamp.image[common.slices(stamp.box)].sum()
        assert light[k] == pytest.approx(sources["flux"][k] * share, rel=1e-12)


def test_sources_off_the_image_deposit_nothing_and_need_no_psf() -> None:
    image = np.zeros(BOX.shape, np.float32)
    light = add_point_sources(
        image, VARYING, x=[BOX.x_max + 500.0], y=[50.0], flux=3.0, half_size=10, box=BOX
    )
    assert light.tolist() == [0.0]
    assert not image.any()
    with pytest.raises(BoundsError):
        add_point_sources(
            image, VARYING, x=[BOX.x_max + 5.0], y=[50.0], flux=3.0, half_size=10, box=BOX
        )
    empty = add_point_sources(image, VARYING, x=[], y=[], flux=[], half_size=[], box=BOX)
    assert empty.shape == (0,)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": [np.nan]}, "x=nan"),
        ({"flux": [np.inf]}, "flux=inf"),
        ({"half_size": [-1]}, "half_size"),
        ({"half_size": [2.5]}, "half_size"),
        ({"half_size": [100000]}, "half_size"),
        ({"y": [1.0, 2.0], "x": [1.0, 2.0, 3.0]}, "do not fit"),
        ({"threads": 0}, "threads"),
        ({"box": Box(0, 0, 3, 3)}, "does not fit"),
    ],
)
def test_bad_values_are_refused(change: dict[str, object], words: str) -> None:
    good: dict[str, object] = {"x": [5.0], "y": [5.0], "flux": [1.0], "half_size": [3]}
    with pytest.raises(PogsonValueError, match=words):
        add_point_sources(np.zeros((20, 20)), GaussianPSF(3.0), **{**good, **change})


def test_bad_images_are_refused() -> None:
    good = {"x": [5.0], "y": [5.0], "flux": [1.0], "half_size": [3]}
    locked = np.zeros((20, 20))
    locked.flags.writeable = False
    for image in (
        np.zeros((20, 20), int),
        np.zeros(20),
        locked,
        [[0.0]],
        np.zeros((20, 20), ">f4"),
    ):
        with pytest.raises(PogsonTypeError, match="draw on a copy"):
            add_point_sources(image, GaussianPSF(3.0), **good)  # type: ignore[arg-type]


def test_stamps_add_in_any_order_to_the_same_bits() -> None:
    rng = np.random.default_rng(4)
    stamps = [
        Stamp(rng.normal(size=(5 + k % 3, 7)), Box(int(x), int(y), 7, 5 + k % 3))
        for k, (x, y) in enumerate(rng.integers(-30, 60, (60, 2)))
    ]
    flux = rng.normal(size=60) * 1e3
    image = rng.normal(size=(50, 50)).astype(np.float32)
    one, two, tiles = image.copy(), image.copy(), image.copy()
    light = add_stamps(one, stamps, flux=flux)
    order = rng.permutation(60)
    assert same_bits(add_stamps(two, [stamps[k] for k in order], flux=flux[order]), light[order])
    assert same_bits(one, two)
    for x0, nx in ((0, 21), (21, 29)):
        add_stamps(tiles[:, x0 : x0 + nx], stamps, flux=flux, box=Box(x0, 0, nx, 50))
    assert same_bits(one, tiles)
    assert (one.astype(float) - image).sum() == pytest.approx(light.sum(), abs=0.05)
    with pytest.raises(PogsonValueError, match="does not fit its box"):
        add_stamps(one, [Stamp(np.ones((2, 3)), Box(0, 0, 2, 3))], flux=1.0)


# -- sizes of stamps -----------------------------------------------------------------------
@pytest.mark.parametrize("accuracy", [1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("radius", [4.0, 12.0, 25.0])
def test_half_size_keeps_a_measurement_right(accuracy: float, radius: float) -> None:
    psf = MoffatPSF(3.5, 2.6)
    x, y = 100.37, 80.49
    half = int(stamp_half_size(psf, x=x, y=y, accuracy=accuracy, radius=radius)[0])

    def measure(size: int) -> float:
        image = np.zeros((200, 200))
        add_point_sources(image, psf, x=x, y=y, flux=1.0, half_size=size)
        from pogson.psf import ApertureOperator

        return float(ApertureOperator.exact().sum(image, x=x, y=y, a=radius).flux)

    whole = measure(60)
    assert 1.0 - measure(half) / whole <= 1.05 * accuracy
    assert 1.0 - measure(half - 1) / whole > 0.7 * accuracy
    assert half <= radius + 1.5


def test_half_size_for_the_total() -> None:
    psf = MoffatPSF(3.5, 3.0)
    half = stamp_half_size(psf, x=[10.0, 400.0], y=[10.0, 1e4], accuracy=1e-4)
    assert half[0] == half[1]
    light = light_within(psf, x=10.49, y=10.49, half_size=int(half[0]))[0]
    assert light[-1] >= 1 - 1e-4 > light[-2]
    assert stamp_half_size(psf, x=0, y=0, accuracy=1e-9, max_half_size=40).tolist() == [40]
    # what unit flux means changes nothing
    other = MoffatPSF(3.5, 3.0, normalization=PsfNormalization("aperture", 6.0))
    assert stamp_half_size(other, x=10.0, y=10.0, accuracy=1e-4)[0] == half[0]
    grid = PSFS["pixel grid"]
    assert stamp_half_size(grid, x=10.0, y=60.0, accuracy=1e-6)[0] <= 16


def test_half_size_does_not_depend_on_company() -> None:
    x, y = scene(80, 9)["x"], scene(80, 9)["y"]
    radius = np.where(np.arange(80) % 2, 12.0, 7.3)
    all_ = stamp_half_size(VARYING, x=x, y=y, accuracy=1e-3, radius=radius)
    for k in range(0, 80, 9):
        one = stamp_half_size(VARYING, x=x[k], y=y[k], accuracy=1e-3, radius=radius[k])
        assert one[0] == all_[k]


@pytest.mark.parametrize(
    ("values", "words"), [({"accuracy": 0.0}, "accuracy"), ({"radius": -1.0}, "radius")]
)
def test_bad_requests_for_a_size(values: dict[str, float], words: str) -> None:
    with pytest.raises(PogsonValueError, match=words):
        stamp_half_size(GaussianPSF(3.0), x=0.0, y=0.0, **values)


def test_nearest_position_keeps_the_phase() -> None:
    x = np.array([-60.3, -20.5, 0.0, 209.4, 300.7])
    moved, _, shift, _ = nearest_position(VARYING, x=x, y=np.full(5, 100.0))
    np.testing.assert_allclose(moved + shift, x)
    assert np.asarray(BOX.contains(x=moved, y=np.full(5, 100.0))).all()
    assert shift.tolist()[1:4] == [0, 0, 0]
