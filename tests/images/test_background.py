"""Backgrounds: estimated on surface brightness, given in the caller's measure."""

from __future__ import annotations

import numpy as np
import pytest
import sep

from pogson.errors import MaskedDataError, MeasureError, MissingDataError, PogsonValueError
from pogson.fields import Box, ChebyshevField, ConstantField, PixelAreaField
from pogson.images import (
    Background,
    Exposure,
    MaskBits,
    background_subtracted_image,
    estimate_background,
)
from pogson.images.background import cell_size

BOX = Box(5, 7, 512, 448)
RATIO = PixelAreaField(ChebyshevField(BOX, [[1.025, 0.025], [0.0, 0.0]]), 0.0, "5 % along x")
SIGMA = 5.0


def flat_sky(rng, level=1000.0, **changes):
    """A sky that is flat in surface brightness, seen by pixels of growing area."""
    image = level + rng.normal(0.0, SIGMA, BOX.shape)
    values = {"unit": "adu", "measure": "surface_brightness", "box": BOX, "area_ratio": RATIO}
    return Exposure(image, **{**values, **changes})


def test_unbiased_in_surface_brightness_whichever_measure_the_caller_has(rng):
    e = flat_sky(rng)
    error = SIGMA / np.sqrt(BOX.area)
    for exposure in (e, e.to("fluence")):
        sky = estimate_background(exposure)
        # The median-like estimator has at most pi/2 of the variance of a mean; 5 sigma.
        assert abs(sky.level.mean() - 1000.0) < 5 * np.sqrt(np.pi / 2) * error
        assert sky.rms.mean() == pytest.approx(SIGMA, rel=0.03)
        np.testing.assert_allclose(
            sky.image("fluence"), sky.image("surface_brightness") * RATIO.render(), rtol=1e-6
        )


def gradient(image):
    """Difference of the means of the right and left quarter of an image."""
    return float(image[:, -128:].mean() - image[:, :128].mean())


def test_an_estimate_in_fluence_would_show_the_pixel_area_as_a_gradient(rng):
    e = flat_sky(rng)
    fluence = e.to("fluence")
    # what a code does that does not know what its numbers mean:
    naive = estimate_background(
        Exposure(fluence.image, unit="adu", measure="surface_brightness", box=BOX)
    )
    right = estimate_background(fluence)
    noise = 5 * SIGMA * np.sqrt(np.pi / 2 * 2 / (128 * 448))
    assert abs(gradient(right.image("surface_brightness"))) < noise
    assert gradient(naive.image("surface_brightness")) == pytest.approx(1000 * 0.0375, abs=2.0)
    # the step that subtraction would leave in the sky, after going back to surface brightness:
    left = (fluence.image - naive.image("surface_brightness").mean()) / RATIO.render()
    assert abs(gradient(left)) > 30.0
    flat = fluence.with_background(right).subtract_background().to("surface_brightness")
    assert abs(gradient(flat.image)) < noise


def test_subtraction_is_not_destructive(rng):
    e = flat_sky(rng).to("fluence")
    attached = e.with_background(estimate_background(e))
    assert attached.image is e.image
    assert not attached.background_subtracted
    down = attached.subtract_background()
    assert down.subtract_background() is down  # once
    np.testing.assert_array_equal(background_subtracted_image(attached), down.image)
    np.testing.assert_array_equal(background_subtracted_image(down), down.image)
    up = down.restore_background()
    np.testing.assert_allclose(up.image, e.image, rtol=3e-7)
    assert up.restore_background() is up
    # to the other measure and back: the background follows
    other = down.to("surface_brightness").restore_background()
    np.testing.assert_allclose(other.image, e.to("surface_brightness").image, rtol=1e-6)
    with pytest.raises(PogsonValueError, match="subtracted from this exposure already"):
        down.with_background(attached.background)
    with pytest.raises(MissingDataError, match="No background is attached"):
        e.subtract_background()


def test_sources_and_masks(rng):
    e = flat_sky(rng)
    y, x = np.mgrid[: BOX.ny, : BOX.nx]
    light = np.zeros(BOX.shape)
    for cx, cy in rng.uniform(20, 420, (150, 2)):
        light += 400.0 * (1 + ((x - cx) ** 2 + (y - cy) ** 2) / 9.0) ** -2.5
    image = e.image + light
    mask = np.zeros(BOX.shape, np.uint32)
    mask[200:260, 100:300] = MaskBits.standard().value("BAD")
    image[200:260, 100:300] = 1e6
    crowded = e.with_(image=image, mask=mask)
    plain = estimate_background(crowded).level.mean() - 1000.0
    masked = estimate_background(crowded, mask_sources=True).level.mean() - 1000.0
    assert 0 < masked < 0.6 * plain
    assert masked < 0.5  # the wings below the threshold
    extra = estimate_background(crowded, mask=light > 0.2).level.mean() - 1000.0
    assert abs(extra) < 0.1


@pytest.mark.parametrize("shape", [(512, 640), (300, 431), (64, 70), (100, 200), (33, 1000)])
def test_the_field_is_the_mesh_of_sep(rng, shape):
    """At the cells' centres the values are SEP's own; between them a true natural spline."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    truth = 100 + 10 * np.sin(x / 150) * np.cos(y / 170)
    image = (truth + rng.normal(0, 0.5, shape)).astype(np.float32)
    e = Exposure(image, unit="adu", measure="surface_brightness")
    sky = estimate_background(e, filter_size=1)
    bw, bh = cell_size(shape[1], 64, 1), cell_size(shape[0], 64, 0)
    mesh = sep.Background(image, bw=bw, bh=bh, fw=1, fh=1).back(dtype=np.float32)
    ours = sky.level.render()
    # SEP places rows half a pixel high, and the second derivatives of its spline are not those of
    # a natural spline: allow the slope x 0.5 and a little of the curvature.
    assert np.abs(ours - mesh).max() < 0.5 * 10 / 150 + 0.2
    ours_error, mesh_error = np.std(ours - truth), np.std(mesh - truth)
    print(f"rms error of the field {ours_error:.4f}, of SEP's own rendering {mesh_error:.4f}")
    assert ours_error <= 1.1 * mesh_error


def test_cell_values_are_exact(rng):
    image = rng.normal(100, 5, (640, 1300)).astype(np.float32)
    e = Exposure(image, unit="adu", measure="surface_brightness")
    sky = estimate_background(e, filter_size=1)
    bw, bh = cell_size(1300, 64, 1), cell_size(640, 64, 0)
    mesh = sep.Background(image, bw=bw, bh=bh, fw=1, fh=1).back(dtype=np.float32)
    i, j = np.arange(1300 // bw), np.arange(640 // bh)
    columns, rows = bw * i + bw // 2, bh * j + bh // 2
    x, y = np.meshgrid(columns, rows - 0.5)
    np.testing.assert_allclose(sky.level(x=x, y=y), mesh[np.ix_(rows, columns)], rtol=1e-6)


def test_sep_leaves_the_read_only_input_alone(rng):
    e = flat_sky(rng, variance=np.full(BOX.shape, 25.0))
    image, variance = e.image.copy(), e.variance.copy()
    from pogson.images import detect

    detect(e.with_background(estimate_background(e)), 5.0, filter_type="matched")
    np.testing.assert_array_equal(e.image, image)
    np.testing.assert_array_equal(e.variance, variance)


def test_refusals(rng):
    e = flat_sky(rng)
    with pytest.raises(PogsonValueError, match="at least 4"):
        estimate_background(e, mesh=2)
    with pytest.raises(PogsonValueError, match="filter_size"):
        estimate_background(e, filter_size=0)
    with pytest.raises(PogsonValueError, match="mask has shape"):
        estimate_background(e, mask=np.zeros((3, 3), bool))
    with pytest.raises(MaskedDataError, match="Every one"):
        estimate_background(e, mask=np.ones(BOX.shape, bool))
    no_area = Exposure(e.image, unit="adu", measure="fluence", box=BOX)
    with pytest.raises(MeasureError, match="estimated on surface brightness"):
        estimate_background(no_area)
    with pytest.raises(MeasureError, match="knows no pixel areas"):
        estimate_background(flat_sky(rng, area_ratio=None)).image("fluence")
    with pytest.raises(PogsonValueError, match="rms in"):
        Background(ConstantField(BOX, 1.0, "adu"), ConstantField(BOX, 1.0, "electron"))


def test_round_trip_and_cut(rng):
    sky = estimate_background(flat_sky(rng))
    assert Background.from_dict(sky.to_dict()) == sky
    part = Box(100, 100, 50, 60)
    np.testing.assert_allclose(
        sky.with_box(part).image("fluence"), sky.image("fluence")[93:153, 95:145], rtol=1e-6
    )


def test_repr_is_short_whatever_the_size(rng):
    image = rng.normal(100.0, 3.0, (400, 600))
    box = Box(10, 20, 600, 400)
    areas = ConstantField(box, 1.0)
    e = Exposure(image, unit="adu", measure="fluence", box=box, area_ratio=areas)
    text = repr(estimate_background(e, mesh=16))
    assert text.startswith("<Background: 600 x 400 pixels, x 10 to 609, y 20 to 419; surface ")
    assert text.endswith("pixel areas known>")
    assert len(text) < 200
    assert "<Background" not in repr(e)
