"""Photon noise, its variance, and bits that depend on nothing they should not depend on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from astropy.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st

from pogson.calib import FluxReference
from pogson.errors import MissingDataError, PogsonValueError
from pogson.fields import Box, ChebyshevField
from pogson.images import Exposure, measure_sources
from pogson.inject import inject, local_calibration
from pogson.inject.noise import GainMap, poisson_light

Make = Callable[..., Exposure]
R8 = FluxReference.aperture(8)


def crowded(side: int, n: int = 900, flux: float = 4e5) -> dict[str, Any]:
    rng = np.random.default_rng(4)
    return {
        "id": [f"c{k}" for k in range(n)],
        "x": rng.uniform(0, side - 1, n),
        "y": rng.uniform(0, side - 1, n),
        "flux": np.full(n, flux),
    }


@pytest.mark.parametrize("gain", [0.5, 1.0, 1.6, 4.0])
@pytest.mark.parametrize("kind", ["exposure", "coadd", "amplifiers", "surface_brightness"])
def test_noise_agrees_with_the_variance_plane(make_exposure: Make, gain: float, kind: str) -> None:
    """Injected variance over variance plane is 1 +- 0.01; sqrt(2 / n) is 0.004 here."""
    side = 360
    changes: dict[str, Any] = {"metadata": {"gain": gain}}
    if kind == "coadd":
        changes["metadata"] = {"gain": 1.0, "effective_gain": gain}
    if kind == "amplifiers":
        half = [[0, 0, side // 2, side], [side // 2, 0, side // 2, side]]
        parts = [{"box": b, "gain": g} for b, g in zip(half, (gain, 1.3 * gain), strict=True)]
        changes["metadata"] = {"amplifiers": parts}
    if kind == "surface_brightness":
        ratio = ChebyshevField(Box(0, 0, side, side), [[1.1, 0.1]])
        changes |= {"measure": "surface_brightness", "area_ratio": ratio}
    start = np.full((side, side), 100.0, np.float32)
    exposure = make_exposure((side, side), variance=start, **changes)
    stars = crowded(side)
    smooth = inject(exposure, stars, reference=R8)
    noisy = inject(exposure, stars, reference=R8, poisson=True, seed=12)
    added = noisy.exposure.variance.astype(float) - 100.0
    chi = noisy.exposure.image.astype(float) - smooth.exposure.image
    # where photons are few the distribution is skew, not wrong: take pixels with light
    light = added > np.quantile(added, 0.05)
    chi2 = float(np.mean(chi[light] ** 2 / added[light]))
    mean = float(np.mean(chi[light] / np.sqrt(added[light])))
    print(f"{kind}, gain {gain}: variance ratio {chi2:.4f}, mean {mean:+.4f}, n {light.sum()}")
    assert abs(chi2 - 1.0) < 0.01
    assert abs(mean) < 4 / np.sqrt(light.sum())
    # the plane grows by the expectation: light / gain, without a trace of the noise
    light_image = smooth.exposure.image.astype(float)
    if kind in ("exposure", "coadd"):
        assert np.allclose(added, light_image / gain, rtol=1e-3, atol=1e-3)
    assert smooth.exposure.variance is not None
    assert np.array_equal(smooth.exposure.variance, exposure.variance)


def test_wrong_conventions_are_seen_by_that_test() -> None:
    """Poisson(F / g) * g, the defect of an established injector, is off by g squared."""
    rng = np.random.default_rng(1)
    for gain, ratio in ((0.5, 0.25), (1.6, 2.56), (4.0, 16.0)):
        wrong = rng.poisson(500.0 / gain, 200_000) * gain - 500.0
        right = poisson_light(np.full((400, 500), 500.0), np.full((400, 500), gain), 1, "i", "s")
        assert abs(wrong.var() / (500.0 / gain) / ratio - 1) < 0.02
        assert abs(right.var() / (500.0 / gain) - 1) < 0.02


def test_measured_fluxes_scatter_as_their_errors_say(make_exposure: Make) -> None:
    """Pulls of injected stars with photon noise and sky noise."""
    side = 640
    rng = np.random.default_rng(77)
    exposure = make_exposure(
        (side, side), image=rng.normal(0, 5.0, (side, side)),
        variance=np.full((side, side), 25.0), metadata={"gain": 1.6},
    )  # fmt: skip
    edge = np.arange(20, side - 20, 20.0)
    x, y = (v.ravel() + rng.uniform(-0.5, 0.5, v.size) for v in np.meshgrid(edge, edge))
    stars = {"id": np.arange(x.size), "x": x, "y": y, "flux": rng.uniform(2e3, 2e5, x.size)}
    result = inject(exposure, stars, reference=R8, poisson=True, seed=3)
    table = measure_sources(result.exposure, x=x, y=y, references=R8, neighbor_radius=0)
    cal = local_calibration(exposure, x=x, y=y)
    # neighbours 20 px away add light that is known: take it off by the noiseless image
    smooth = inject(make_exposure((side, side)), stars, reference=R8)
    crowd = measure_sources(smooth.exposure, x=x, y=y, references=R8)["flux_aperture_8px_exact"]
    pulls = (table["flux_aperture_8px_exact"] - crowd) / table["flux_aperture_8px_exact_err"]
    n = pulls.size
    print(f"pulls: mean {pulls.mean():+.3f}, rms {pulls.std():.3f}, n {n}")
    assert abs(pulls.mean()) < 4 / np.sqrt(n)
    assert abs(pulls.std() - 1) < 4 / np.sqrt(2 * n)
    # what the truth table says was realised is what a noiseless sky would have shown
    dark = inject(make_exposure((side, side)), stars, reference=R8, poisson=True, seed=3)
    realised = np.asarray(dark.truth["flux_realised"])
    seen = measure_sources(dark.exposure, x=x, y=y, references=R8)["flux_aperture_8px_exact"] * cal
    neighbours = crowd * cal - stars["flux"]
    assert (
        np.abs(realised - (seen - neighbours)).max()
        < 0.1 * np.asarray(table["flux_aperture_8px_exact_err"] * cal).max()
    )


def test_noise_needs_a_gain(make_exposure: Make) -> None:
    star = {"id": ["a"], "x": [50.0], "y": [50.0], "flux": [1e4]}
    exposure = make_exposure((100, 100), metadata={})
    with pytest.raises(MissingDataError, match="amplifiers"):
        inject(exposure, star, reference=R8, poisson=True)
    assert "gain" not in inject(exposure, star, reference=R8).report[0]
    for bad in (0.0, -1.0, np.nan, "much"):
        with pytest.raises(PogsonValueError):
            inject(exposure, star, reference=R8, poisson=True, gain=bad)
    with pytest.raises(PogsonValueError, match="amplifiers"):
        GainMap.from_exposure(make_exposure((9, 9), metadata={"amplifiers": [{"gain": 1.0}]}))
    field = ChebyshevField(Box(0, 0, 100, 100), [[2.0, 0.5]])
    assert np.ptp(GainMap.from_exposure(exposure, field).at(Box(0, 0, 50, 2))) > 0.3


# -- bits ------------------------------------------------------------------------------------
def mixed(n: int, side: int) -> Table:
    """Stars and galaxies, some over the edge, overlapping."""
    rng = np.random.default_rng(31)
    table = Table({"id": [f"m{k}" for k in range(n)]})
    table["x"], table["y"] = rng.uniform(-8, side + 7, n), rng.uniform(-8, side + 7, n)
    table["flux"] = 10 ** rng.uniform(4, 6, n)
    table["source_type"] = np.where(np.arange(n) % 6 == 0, "sersic", "point")
    table["sersic_index"], table["half_light_radius"] = 1.0, 0.4
    return table


@pytest.fixture(scope="module")
def whole(make_exposure: Make) -> tuple[Exposure, Table, Any]:
    side = 200
    rng = np.random.default_rng(5)
    box = Box(-30, -30, side + 60, side + 60)
    psf_box = ChebyshevField(box, [[3.4, 0.3], [0.2, 0.0]])
    from pogson.calib import PhotoCalib
    from pogson.psf import MoffatPSF

    exposure = make_exposure(
        (side, side), image=rng.normal(50, 5, (side, side)),
        variance=np.full((side, side), 25.0),
        psf=MoffatPSF(fwhm=psf_box, beta=3.0, box=box),
        photo_calib=PhotoCalib.constant(2.0, reference=FluxReference.total()),
    )  # fmt: skip
    table = mixed(60, side)
    return exposure, table, inject(exposure, table, reference=R8, poisson=True, seed=9)


def same(a: Exposure, b: Exposure) -> bool:
    return all(
        np.array_equal(getattr(a, n), getattr(b, n), equal_nan=n != "mask")
        for n in ("image", "variance", "mask")
    )


def test_rows_may_be_permuted(whole: Any) -> None:
    exposure, table, result = whole
    order = np.random.default_rng(2).permutation(len(table))
    other = inject(exposure, table[order], reference=R8, poisson=True, seed=9)
    assert same(other.exposure, result.exposure)
    assert list(other.truth["id"]) == list(table["id"][order])
    for name in ("flux_realised", "deposited_fraction", "flags"):
        assert np.array_equal(other.truth[name], result.truth[name][order])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_do_not_matter(whole: Any, threads: int) -> None:
    exposure, table, result = whole
    other = inject(exposure, table, reference=R8, poisson=True, seed=9, threads=threads)
    assert same(other.exposure, result.exposure)


@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_tiles_do_not_matter(whole: Any, data: Any) -> None:
    exposure, table, result = whole
    x0, y0 = data.draw(st.integers(0, 150)), data.draw(st.integers(0, 150))
    box = Box(x0, y0, data.draw(st.integers(1, 200 - x0)), data.draw(st.integers(1, 200 - y0)))
    tile = inject(exposure.cutout(box), table, reference=R8, poisson=True, seed=9)
    assert same(tile.exposure, result.exposure.cutout(box))


def test_other_seeds_images_and_ids_give_other_noise(whole: Any) -> None:
    exposure, table, result = whole
    for changed in (
        inject(exposure, table, reference=R8, poisson=True, seed=10),
        inject(exposure.with_(exposure_id="visit2"), table, reference=R8, poisson=True, seed=9),
        inject(exposure, table, reference=R8, poisson=True, seed=9, image_id="x"),
    ):
        assert not np.array_equal(changed.exposure.image, result.exposure.image)
        assert np.array_equal(changed.exposure.variance, result.exposure.variance)
