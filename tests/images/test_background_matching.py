"""Backgrounds matched between visits: known planes come back, sources and sky stay."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pogson.errors import (
    CalibrationError,
    MeasureError,
    MissingDataError,
    PogsonTypeError,
    PogsonValueError,
)
from pogson.fields import Box, ConstantField
from pogson.images import (
    Background,
    BackgroundSamples,
    CoaddSource,
    Exposure,
    match_backgrounds,
    sample_backgrounds,
    solve_backgrounds,
    warp,
)
from pogson.psf import MoffatPSF
from pogson.sky import FitsSkyMap

BOX = Box(0, 0, 360, 360)
SKY = FitsSkyMap.tan(30.0, -20.0, x=180.0, y=180.0, scale_arcsec=0.3)


def visit(rng, plane, seeing, rotation=0.0, n=360):
    """Return a visit whose background is a plane of the output's pixels, in surface brightness."""
    sky = FitsSkyMap.tan(30.0, -20.0, x=180.0, y=180.0, scale_arcsec=0.3, rotation_deg=rotation)
    gx, gy = np.meshgrid(np.arange(n), np.arange(n))
    px, py = SKY.pixel(*sky.sky(x=gx, y=gy))
    image = (plane[0] + plane[1] * (px - 180) / 180 + plane[2] * (py - 180) / 180) * 0.09
    image += 30.0 * np.exp(-((px - 150) ** 2 + (py - 200) ** 2) / 60.0**2) * 0.09  # nebula: stays
    place = np.random.default_rng(9).uniform(40, 320, (2, 40))
    x, y = sky.pixel(*SKY.sky(x=place[0], y=place[1]))
    stamps, x0, y0 = MoffatPSF(seeing, 3.0).draw_many(x=x, y=y, half_size=15)
    for s, a, b in zip(stamps, x0, y0, strict=True):
        image[b : b + 31, a : a + 31] += 2000.0 * s
    image += rng.normal(0.0, 1.0, image.shape)
    return Exposure(
        image, variance=np.ones(image.shape), unit="nJy", measure="fluence", sky=sky,
        exposure_id=f"{rotation:g}",
    )  # fmt: skip


def test_planes_between_visits_come_back(rng):
    planes = [(5.0, 1.0, 0.0), (-2.0, 0.0, 3.0), (9.0, -4.0, 1.0)]
    warps = [
        warp(visit(rng, p, s, r), SKY, BOX)
        for p, s, r in zip(planes, (3.0, 4.5, 3.5), (0.0, 90.0, 180.0), strict=True)
    ]
    matched = match_backgrounds(warps, degree=1, bin_size=60, reference=0)
    x, y = np.array([60.0, 180.0, 300.0]), np.array([60.0, 200.0, 290.0])
    for k, p in enumerate(planes):
        truth = sum(
            (a - b) * f
            for a, b, f in zip(p, planes[0], (1.0, (x - 180) / 180, (y - 180) / 180), strict=True)
        )
        # medians of 3600 pixels of noise 11 nJy/arcsec2: 0.23 a bin, 36 bins
        np.testing.assert_allclose(matched.levels[k](x=x, y=y), truth, atol=0.35)
    assert matched.rms_after < 0.4 * matched.rms_before
    less = [matched.subtract(k, w).exposure.image for k, w in enumerate(warps)]
    inner = (slice(30, 330), slice(30, 330))
    # 0.6 apart before; what is left is the wings of stars in worse seeing, which are no background
    assert abs(np.nanmedian(less[1][inner] - less[0][inner])) < 0.2
    again = matched.restore(1, matched.subtract(1, warps[1])).exposure.image
    np.testing.assert_allclose(again, warps[1].exposure.image, rtol=1e-5, atol=1e-4)
    # the nebula, which all visits share, is untouched in the reference
    np.testing.assert_allclose(less[0], warps[0].exposure.image, rtol=0, atol=1e-6)


def test_without_a_reference_the_mean_is_zero(rng):
    warps = [warp(visit(rng, (c, 0.0, 0.0), 3.0), SKY, BOX) for c in (1.0, 4.0)]
    matched = match_backgrounds(warps, degree=0)
    values = [float(f(x=180, y=180)) for f in matched.levels]
    assert sum(values) == pytest.approx(0.0, abs=1e-6)
    assert values[1] - values[0] == pytest.approx(3.0, abs=0.3)


def test_refusals(rng):
    one = warp(visit(rng, (1.0, 0.0, 0.0), 3.0), SKY, BOX)
    with pytest.raises(PogsonValueError, match="at least two"):
        match_backgrounds([one])
    with pytest.raises(PogsonValueError, match="degree"):
        match_backgrounds([one, one], degree=9)
    with pytest.raises(CalibrationError, match="other output pixels"):
        match_backgrounds([one, warp(visit(rng, (1.0, 0, 0), 3.0), SKY, Box(0, 0, 300, 300))])
    with pytest.raises(PogsonTypeError, match="give warps"):
        match_backgrounds([one, one.exposure])
    bare = visit(rng, (1.0, 0.0, 0.0), 3.0).with_(variance=None)
    with pytest.raises(MissingDataError, match="no variance"):
        match_backgrounds([one, warp(bare, SKY, BOX)])
    with pytest.raises(PogsonValueError, match="no visit 4"):
        match_backgrounds([one, one]).subtract(4, one)


def samples_of(levels, x, y, rng=None, error=0.1):
    """Return samples of visits that see a common sky and levels of their own; NaN: not there."""
    sky = 40.0 + 0.1 * np.sin(x / 40.0) * y
    n = x.size
    values = np.stack([sky + level for level in levels])
    if rng is not None:
        values += rng.normal(0.0, error, values.shape)
    seen = np.isfinite(values).ravel()
    visit, cell = (
        np.repeat(np.arange(len(levels)), n)[seen],
        np.tile(np.arange(n), len(levels))[seen],
    )
    names = tuple("abcdefgh"[: len(levels)])
    return BackgroundSamples(
        names, Box(0, 0, 640, 640), np.column_stack([x, y]), visit, cell, values.ravel()[seen],
        np.full(visit.size, error), "nJy / arcsec2",
    )  # fmt: skip


def grid_of_bins():
    x, y = np.meshgrid(np.arange(32.0, 640, 64), np.arange(32.0, 640, 64))
    return x.ravel(), y.ravel()


def test_levels_come_back_through_chains_of_overlaps(rng):
    x, y = grid_of_bins()
    planes = [3.0 + 0.01 * x, -2.0 + 0.02 * y, 5.0 - 0.01 * x + 0.01 * y, 0.5 + 0.0 * x]
    # a strip each: the first and the last share nothing, and hang together by those between
    strips = [np.where((x >= 160 * k) & (x < 160 * k + 320), p, np.nan)
              for k, p in enumerate(planes)]  # fmt: skip
    samples = samples_of(strips, x, y, rng, error=0.02)
    for reference in (None, "b"):
        found = solve_backgrounds(samples, degree=1, reference=reference)
        levels = np.stack([f(x=x, y=y, extrapolate=True) for f in found.levels])
        left = levels - np.stack(planes)
        # up to one plane that all share
        common = left[1]
        for k in range(4):
            some = np.isfinite(strips[k])
            assert np.abs(left[k] - common)[some].max() < 0.15, (reference, k)
        if reference == "b":
            assert np.abs(levels[1]).max() < 1e-9
    assert found.rms_after < 1.3
    assert found.rms_before > 20.0


def test_groups_that_do_not_touch_have_a_mean_of_zero_each(rng):
    x, y = grid_of_bins()
    left, right = x < 250, x > 400
    levels = [np.where(left, 1.0, np.nan), np.where(left, 3.0, np.nan),
              np.where(right, 10.0, np.nan), np.where(right, 30.0, np.nan),
              np.where((x > 250) & (x < 400), 7.0, np.nan)]  # fmt: skip
    found = solve_backgrounds(samples_of(levels, x, y), degree=0)
    values = [float(f(x=100.0, y=100.0)) for f in found.levels]
    np.testing.assert_allclose(values, [-1.0, 1.0, -10.0, 10.0, 0.0], atol=1e-9)
    assert found.unmatched == ("e",)  # alone where it is


def test_a_visit_that_shares_too_little_is_left_as_it_is():
    x, y = grid_of_bins()
    corner = (x < 100) & (y < 40)  # two bins, and a plane has three coefficients
    levels = [0.0 * x, 2.0 + 0.0 * x, np.where(corner, 9.0, np.nan)]
    found = solve_backgrounds(samples_of(levels, x, y), degree=1)
    assert found.unmatched == ("c",)
    assert float(found.levels[2](x=10.0, y=10.0)) == 0.0
    assert float(found.levels[1](x=300.0, y=300.0)) == pytest.approx(1.0, abs=1e-9)
    nothing = solve_backgrounds(samples_of([levels[0], np.nan * x, levels[2]], x, y), degree=2)
    assert nothing.unmatched == ("a", "b", "c")


def test_a_wild_bin_does_not_move_the_levels(rng):
    x, y = grid_of_bins()
    samples = samples_of([0.0 * x, 2.0 + 0.0 * x, 1.0 + 0.0 * x], x, y, rng)
    value = samples.value.copy()
    value[5] += 500.0
    moved = solve_backgrounds(replace(samples, value=value), degree=0, reference="b")
    assert float(moved.levels[0](x=300.0, y=300.0)) == pytest.approx(-2.0, abs=0.1)


@given(st.permutations(range(4)))
@settings(max_examples=10, deadline=None)
def test_the_order_of_visits_and_rows_does_not_matter(order):
    x, y = grid_of_bins()
    planes = [k + 0.01 * k * x for k in range(4)]
    samples = samples_of(planes, x, y, np.random.default_rng(3))
    base = solve_backgrounds(samples)
    rows = np.random.default_rng(order[0]).permutation(samples.visit.size)
    place = np.argsort(order)
    mixed = replace(
        samples, visits=tuple(samples.visits[k] for k in order), visit=place[samples.visit][rows],
        cell=samples.cell[rows], value=samples.value[rows], error=samples.error[rows],
    )  # fmt: skip
    found = solve_backgrounds(mixed)
    for k, name in enumerate(found.visits):
        mine = base.levels[base.visits.index(name)]
        np.testing.assert_allclose(found.levels[k](x=x, y=y), mine(x=x, y=y), rtol=0, atol=1e-8)


def test_parts_of_the_output_are_as_good_as_the_whole(rng):
    """Detectors one by one and tile by tile, as a run has them, against all in memory."""
    visits = [visit(rng, p, 3.0) for p in ((5.0, 1.0, 0.0), (-2.0, 0.0, 3.0))]
    whole = match_backgrounds([warp(v, SKY, BOX) for v in visits], bin_size=60)
    halves = []
    for k, v in enumerate(visits):
        for x0, nx in ((0, 187), (187, 173)):
            part = v.cutout(Box(x0, 0, nx, 360)).with_(exposure_id=f"v{k}", detector=f"D{x0}")
            halves.append(CoaddSource.of(part))
    tiles = [Box(0, 0, 180, 360), Box(180, 0, 180, 360)]
    parts = [sample_backgrounds(halves, SKY, t, bin_size=60) for t in tiles]
    found = solve_backgrounds(BackgroundSamples.joined(parts), SKY)
    assert found.visits == ("v0", "v1")
    x, y = np.meshgrid([60.0, 180.0, 300.0], [60.0, 180.0, 300.0])
    for a, b in zip(found.levels, whole.levels, strict=True):
        # the pixels at the seam of the detectors are lost; the noise of a level is 0.05
        np.testing.assert_allclose(a(x=x, y=y), b(x=x, y=y), atol=0.1)
    assert sample_backgrounds(halves, SKY, Box(5000, 0, 64, 64)) is None


@pytest.mark.parametrize("rotation", [0.0, 90.0, 33.0])
def test_a_level_is_taken_from_the_image_before_it_is_resampled(rng, rotation):
    planes, turns = [(5.0, 1.0, 0.0), (-2.0, 0.5, 3.0)], (0.0, rotation)
    visits = [visit(rng, p, 3.0, r) for p, r in zip(planes, turns, strict=True)]
    warps = [warp(v, SKY, BOX) for v in visits]
    matched = match_backgrounds(warps)
    bare = visits[1].with_area_ratio()
    less = matched.subtract(1, bare)
    # twin: the level as it is by definition, at the place of every pixel
    gx, gy = np.meshgrid(np.arange(360.0), np.arange(360.0))
    own = visits[1].sky
    px, py = SKY.pixel(*own.sky(x=gx, y=gy))
    light = matched.levels[1](x=px, y=py, extrapolate=True) * own.pixel_area(x=gx, y=gy)
    np.testing.assert_allclose(bare.image - less.image, light, atol=3e-5)
    # nothing was subtracted before: restored, the image is what it was
    np.testing.assert_allclose(less.restore_background().image, bare.image, atol=3e-5)
    # with a background that was subtracted, the level is added to it
    sky = Background(
        ConstantField(bare.box, 100.0, "nJy"), ConstantField(bare.box, 1.0, "nJy"), bare.area_ratio
    )
    dark = bare.with_(image=bare.image + 100.0 * bare.area_ratio_image()).with_background(sky)
    dark = dark.subtract_background()
    lower = matched.subtract(1, dark)
    np.testing.assert_allclose(lower.image, less.image, atol=3e-5)
    np.testing.assert_allclose(
        lower.restore_background().image, dark.restore_background().image, atol=5e-5
    )
    back = matched.restore(1, lower)
    np.testing.assert_allclose(back.image, dark.image, atol=3e-5)


def test_what_cannot_be_matched_is_said(rng):
    x, y = grid_of_bins()
    samples = samples_of([0.0 * x, 2.0 + 0.0 * x], x, y)
    with pytest.raises(PogsonValueError, match="none of the visits"):
        solve_backgrounds(samples, reference="z")
    with pytest.raises(PogsonValueError, match="at least two"):
        solve_backgrounds(samples_of([0.0 * x], x, y))
    with pytest.raises(PogsonValueError, match="no samples"):
        BackgroundSamples.joined([])
    with pytest.raises(MeasureError, match="different units"):
        BackgroundSamples.joined([samples, replace(samples, unit="adu / arcsec2")])
    one = visit(rng, (1.0, 0.0, 0.0), 3.0)
    with pytest.raises(MissingDataError, match="mapping of their pixels"):
        solve_backgrounds(samples).subtract(0, one)
    matched = solve_backgrounds(samples, SKY)
    with pytest.raises(MissingDataError, match="no sky mapping"):
        matched.subtract(0, Exposure(np.ones((9, 9)), unit="nJy", measure="fluence"))
    with pytest.raises(MeasureError, match="fluence"):
        matched.subtract(0, one.with_area_ratio().to("surface_brightness"))
    sky = Background(ConstantField(one.box, 1.0, "nJy"), ConstantField(one.box, 1.0, "nJy"))
    with pytest.raises(PogsonValueError, match="not subtracted"):
        matched.subtract(0, one.with_background(sky))
    with pytest.raises(MissingDataError, match="no variance"):
        sample_backgrounds([CoaddSource.of(one.with_(variance=None))], SKY, BOX)
