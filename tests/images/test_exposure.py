"""Exposure: what it refuses, what it keeps, and the conversion between measures."""

from __future__ import annotations

import gc
import pickle

import astropy.units as u
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pogson.calib import FluxReference, PhotoCalib
from pogson.errors import (
    BoundsError,
    MaskedDataError,
    MeasureError,
    MissingDataError,
    PogsonTypeError,
    PogsonValueError,
    UnitMismatchError,
)
from pogson.fields import Box, ChebyshevField, ConstantField, PixelAreaField
from pogson.images import Background, Exposure, MaskBits
from pogson.psf import MoffatPSF
from pogson.sky import FitsSkyMap

BOX = Box(10, 20, 40, 30)
RATIO = PixelAreaField(ChebyshevField(BOX, [[1.0, 0.02], [0.01, 0.0]]), 0.0, "test")


def make(**changes):
    values = {
        "image": np.arange(BOX.area, dtype=np.float32).reshape(BOX.shape) - 50.0,
        "variance": np.full(BOX.shape, 4.0),
        "unit": "adu",
        "measure": "surface_brightness",
        "box": BOX,
        "area_ratio": RATIO,
        "exposure_id": "e1",
        "detector": "3",
        "metadata": {"gain": 2.0, "exposure_time": 30.0},
    }
    values.update(changes)
    return Exposure(values.pop("image"), **values)


# -- conversion -------------------------------------------------------------------------------
def test_fluence_is_surface_brightness_times_the_ratio_and_variance_its_square():
    e = make()
    f = e.to("fluence")
    ratio = RATIO.render()
    np.testing.assert_allclose(f.image, e.image * ratio, rtol=2e-7)
    np.testing.assert_allclose(f.variance, 4.0 * ratio**2, rtol=4e-7)
    assert f.measure == "fluence"
    assert f.unit == u.adu


def test_conversion_is_applied_once_however_often_it_is_asked():
    e = make()
    f = e.to("fluence")
    assert f.to("fluence") is f
    assert e.to("surface_brightness") is e
    nested = e.to("fluence").to("surface_brightness").to("fluence")
    np.testing.assert_array_max_ulp(nested.image, f.image, maxulp=2)


finite32 = st.floats(-(2.0**99), 2.0**99, width=32).filter(lambda v: v == 0 or abs(v) > 1e-30)


@given(
    hnp.arrays(np.float32, (6, 7), elements=finite32),
    st.floats(0.5, 2.0),
    st.floats(-0.2, 0.2),
    st.floats(-0.2, 0.2),
)
def test_round_trip_within_two_ulp(image, a0, ax, ay):
    box = Box.from_shape(image.shape)
    ratio = PixelAreaField(ChebyshevField(box, [[a0, ax * a0], [ay * a0, 0.0]]))
    e = Exposure(image, unit="adu", measure="fluence", area_ratio=ratio,
                 variance=np.abs(image))  # fmt: skip
    back = e.to("surface_brightness").to("fluence")
    np.testing.assert_array_max_ulp(back.image, e.image, maxulp=2)
    assert back.variance is e.variance  # never scaled there and back


def test_variance_is_scaled_when_read_and_once():
    f = make().to("fluence")
    assert "variance" not in f.__dict__
    assert f.variance is f.variance
    assert not f.variance.flags.writeable


def test_large_image_uses_two_threads_with_the_same_numbers(rng):
    image = rng.normal(size=(1100, 1000)).astype(np.float32)
    box = Box.from_shape(image.shape)
    ratio = PixelAreaField(ChebyshevField(box, [[1.0, 0.02], [0.01, 0.0]]))
    e = Exposure(image, unit="adu", measure="surface_brightness", area_ratio=ratio)
    np.testing.assert_array_equal(e.to("fluence").image, image * ratio.render(dtype=np.float32))


def test_memory_is_recycled_only_when_nothing_uses_it():
    e = make()
    first = e.to("fluence")
    kept = first.image[3:5]
    copy = kept.copy()
    address = first.image.__array_interface__["data"][0]
    del first
    gc.collect()
    second = e.with_(exposure_id="x").to("fluence")
    assert second.image.__array_interface__["data"][0] != address  # a view still needs it
    np.testing.assert_array_equal(kept, copy)
    address = second.image.__array_interface__["data"][0]
    del second
    third = e.to("fluence")
    assert third.image.__array_interface__["data"][0] == address
    np.testing.assert_array_equal(third.image, e.image * e.area_ratio_image())


def test_nan_stays_nan_and_is_masked():
    image = np.ones(BOX.shape)
    image[2, 3] = np.nan
    image[4, 5] = np.inf
    e = make(image=image)
    f = e.to("fluence")
    for x in (e, f):
        assert np.isnan(x.image[2, 3])
        assert np.isnan(x.image[4, 5])
        assert np.isnan(x.variance[2, 3])
        assert x.mask[2, 3] == x.mask[4, 5] == x.mask_bits.value("NO_DATA")
        assert x.bad().sum() == 2


def test_no_data_bit_makes_the_pixel_nan():
    mask = np.zeros(BOX.shape, np.uint16)
    mask[1, 1] = 1 << MaskBits.standard()["NO_DATA"]
    e = make(mask=mask)
    assert np.isnan(e.image[1, 1])
    assert np.isnan(e.variance[1, 1])


def test_without_area_ratio_the_message_says_what_to_do():
    with pytest.raises(MeasureError, match=r"with_area_ratio\(\)"):
        make(area_ratio=None).to("fluence")


def test_area_ratio_from_the_sky_mapping():
    sky = FitsSkyMap.tan(30.0, -20.0, x=30.0, y=35.0, scale_arcsec=0.25)
    e = make(area_ratio=None, sky=sky).with_area_ratio()
    assert e.area_ratio.mean() == pytest.approx(1.0, abs=1e-12)
    other = make(area_ratio=None, sky=sky).with_area_ratio(0.0625 / 2)
    assert other.area_ratio.mean() == pytest.approx(2.0, rel=1e-5)
    with pytest.raises(MissingDataError, match="no sky mapping"):
        make(area_ratio=None).with_area_ratio()


# -- refusals ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"variance": np.ones((3, 4))}, PogsonValueError, r"variance .*shape \(3, 4\)"),
        ({"variance": -np.ones(BOX.shape)}, PogsonValueError, "negative at 1200 pixels.*-1"),
        ({"mask": np.zeros((2, 2), int)}, PogsonValueError, "mask has shape"),
        ({"mask": np.zeros(BOX.shape)}, PogsonTypeError, "mask must hold integers"),
        ({"metadata": {"gain": 0.0}}, PogsonValueError, r"metadata\['gain'\] is 0.0"),
        ({"metadata": {"gain": -1}}, PogsonValueError, "above 0"),
        ({"metadata": {"exposure_time": "long"}}, PogsonValueError, "exposure_time"),
        ({"unit": "furlongs"}, UnitMismatchError, "furlongs"),
        ({"measure": "brightness"}, MeasureError, "'fluence' or 'surface_brightness'"),
        ({"box": Box(0, 0, 5, 5)}, PogsonValueError, "box has shape"),
        ({"image": np.zeros(5)}, PogsonValueError, "two dimensions"),
        ({"image": "stars"}, PogsonTypeError, "array of numbers"),
        ({"area_ratio": ConstantField(BOX, 0.0)}, MeasureError, "zero, negative or not finite"),
        ({"area_ratio": ConstantField(BOX, 0.06, "arcsec2")}, UnitMismatchError, "dimensionless"),
        ({"area_ratio": ConstantField(Box(0, 0, 5, 5), 1.0)}, BoundsError, "covers"),
        ({"psf": MoffatPSF(3.0, 3.0, box=Box(0, 0, 9, 9))}, BoundsError, "another detector"),
        ({"background": Background(ConstantField(Box(0, 0, 5, 5), 1.0, "adu"),
                                   ConstantField(Box(0, 0, 5, 5), 1.0, "adu"))},
         BoundsError, "background covers"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_words(changes, error, words):
    with pytest.raises(error, match=words):
        make(**changes)


def test_ratio_that_crosses_zero_between_grid_points_is_refused():
    from pogson.fields import GridField

    values = np.ones((30, 40))
    values[7, 9] = 0.0  # off the coarse grid: found when rendered
    e = make(area_ratio=GridField.from_image(values, BOX))
    with pytest.raises(MeasureError, match="at 1 of 1200"):
        e.to("fluence")


def test_all_masked_is_an_error_when_used():
    e = make(mask=np.full(BOX.shape, 1 << MaskBits.standard()["BAD"], np.uint32))
    with pytest.raises(MaskedDataError, match="1200 pixels of exposure 'e1' detector '3'"):
        e.usable()


def test_measure_must_be_given():
    with pytest.raises(TypeError):
        Exposure(np.ones((2, 2)), unit="adu")


# -- value semantics --------------------------------------------------------------------------
def test_arrays_are_read_only_and_not_shared_with_the_caller():
    image = np.ones(BOX.shape, np.float32)
    e = make(image=image)
    image[:] = 7.0
    assert e.image.max() == 1.0
    with pytest.raises(ValueError, match="read-only"):
        e.image[0, 0] = 3.0
    with pytest.raises(AttributeError):
        e.unit = u.nJy
    with pytest.raises(TypeError):
        e.metadata["gain"] = 5.0


def test_read_only_arrays_are_not_copied():
    e = make()
    assert e.with_(metadata={}).image is e.image
    f = e.to("fluence")
    assert f.with_(metadata={}).image is f.image


def test_equality_and_pickling():
    e = make(psf=MoffatPSF(3.0, 3.0))
    assert e == make(psf=MoffatPSF(3.0, 3.0))
    assert e != make()
    assert e != e.with_(detector="4")
    assert e.to("fluence") != e
    for x in (e, e.to("fluence")):
        again = pickle.loads(pickle.dumps(x))
        assert again == x
        assert not again.image.flags.writeable
        assert again.to("fluence") == e.to("fluence")


def test_cutout_keeps_pixel_coordinates():
    e = make()
    part = e.cutout(Box(15, 25, 6, 4))
    assert part.image[0, 0] == e.image[5, 5]
    np.testing.assert_array_equal(part.to("fluence").image, e.to("fluence").image[5:9, 5:11])
    np.testing.assert_array_equal(
        e.to("fluence").cutout(part.box).variance, e.to("fluence").variance[5:9, 5:11]
    )
    with pytest.raises(BoundsError):
        e.cutout(Box(0, 0, 5, 5))


def test_with_refuses_unknown_names():
    with pytest.raises(PogsonTypeError, match="colour"):
        make().with_(colour="red")


def test_repr_says_what_the_numbers_mean():
    text = repr(make())
    assert "surface brightness in adu" in text
    assert "times the pixel-area ratio A/A0 it is fluence" in text
    assert "sums of pixels are fluxes" in repr(make().to("fluence"))
    assert "not fluxes" in repr(make(area_ratio=None))


# -- calibration ------------------------------------------------------------------------------
@pytest.mark.parametrize("measure", ["fluence", "surface_brightness"])
def test_calibrated(measure):
    field = ChebyshevField(BOX, [[2.0, 0.1], [0.0, 0.0]], "nJy/adu")
    calib = PhotoCalib(field, measure=measure, reference=FluxReference.aperture(12))
    sky = Background(ConstantField(BOX, 10.0, "adu"), ConstantField(BOX, 2.0, "adu"), RATIO)
    e = make(photo_calib=calib, background=sky)
    out = e.calibrated()
    assert out.unit == u.nJy
    assert out.measure == "fluence"
    per_pixel = field.render() * (RATIO.render() if measure == "fluence" else 1.0)
    np.testing.assert_allclose(out.image, e.image * per_pixel, rtol=1e-6)
    np.testing.assert_allclose(out.variance, 4.0 * per_pixel**2, rtol=1e-6)
    # calibrating and subtracting commute
    np.testing.assert_allclose(
        out.subtract_background().image,
        (e.subtract_background().image) * per_pixel,
        rtol=1e-5,
        atol=1e-4,
    )
    assert out.photo_calib.reference == FluxReference.aperture(12)
    np.testing.assert_array_equal(out.calibrated().image, out.image)


def test_calibration_of_another_unit_is_refused():
    calib = PhotoCalib.constant(2.0, unit="nJy/electron", reference=FluxReference.total())
    with pytest.raises(UnitMismatchError, match="'adu'"):
        make(photo_calib=calib).calibrated()
    with pytest.raises(MissingDataError, match="no photo_calib"):
        make().calibrated()


# -- masks ------------------------------------------------------------------------------------
def test_bad_selects_by_name():
    bits = MaskBits.standard()
    mask = np.zeros(BOX.shape, np.uint32)
    mask[0, 0], mask[0, 1], mask[0, 2] = (
        bits.value("SATURATED"), bits.value("SUSPECT"), bits.value("DETECTED", "BAD"),
    )  # fmt: skip
    variance = np.ones(BOX.shape)
    variance[0, 3] = 0.0
    e = make(mask=mask, variance=variance)
    assert e.bad()[0, :5].tolist() == [True, False, True, True, False]
    assert e.bad(["SUSPECT"])[0, :5].tolist() == [False, True, False, True, False]
    assert e.bad([])[0, :5].tolist() == [False, False, False, True, False]
    assert e.good.sum() == BOX.area - 3
    np.testing.assert_array_equal(e.to("fluence").bad(), e.bad())
    with pytest.raises(MissingDataError, match="COSMIC_RAY"):
        e.bad(["GHOST"])


def test_mask_bits_registry():
    bits = MaskBits.standard()
    assert pickle.loads(pickle.dumps(bits)) == bits
    assert MaskBits.from_dict(bits.to_dict()) == bits
    assert all(bits.doc(name) for name in bits)
    assert bits.with_names(GHOST="a reflection").doc("GHOST") == "a reflection"
    assert bits.names(bits.value("BAD", "EDGE")) == ("BAD", "EDGE")
    with pytest.raises(PogsonValueError, match="two names"):
        MaskBits({"A": 1, "B": 1})
    with pytest.raises(PogsonValueError, match="0 to 31"):
        MaskBits({"A": 32})
    with pytest.raises(AttributeError):
        bits.extra = 3
    signed = bits.translate(np.array([[4, -1]], np.int16), {"BAD": [2]})
    assert signed.tolist() == [[bits.value("BAD")] * 2]
