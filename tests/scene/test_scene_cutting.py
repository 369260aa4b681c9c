"""Cutting stamps out of whole exposures, and ephemerides."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table
from astropy.time import Time
from hypothesis import given
from hypothesis import strategies as st

from pogson import Exposure, FitsSkyMap, FluxReference, GaussianPSF, PhotoCalib
from pogson.errors import (
    BoundsError,
    MaskedDataError,
    MissingDataError,
    PogsonValueError,
    ReferenceMismatchError,
)
from pogson.psf import PsfNormalization
from pogson.scene import offset_position
from pogson.scene.cutting import cut_exposure, cut_scene
from pogson.scene.ephemeris import Ephemeris


def exposure(name="a", *, time=60000.0, band="r", shape=(80, 90), x=45.2, y=40.4, **changes):
    values = {
        "variance": np.full(shape, 9.0),
        "unit": "adu",
        "measure": "fluence",
        "sky": FitsSkyMap.tan(150.0, 2.0, x=x, y=y, scale_arcsec=0.26),
        "psf": GaussianPSF(fwhm=3.5),
        "exposure_id": name,
        "bandpass": band,
        "photo_calib": PhotoCalib.constant(2.5, error=0.05, reference=FluxReference.total()),
        "metadata": {"mjd": time, "gain": 5.0},
    }
    image = changes.pop("image", np.arange(shape[0] * shape[1], dtype=float).reshape(shape))
    return Exposure(image, **(values | changes))


class TestCut:
    def test_pixels_keep_their_coordinates_and_become_njy(self):
        whole = exposure()
        cut = cut_exposure(whole, ra=150.0, dec=2.0, size=21)
        assert (cut.box.x_min, cut.box.y_min, cut.box.nx, cut.box.ny) == (35, 30, 21, 21)
        part = whole.image[30:51, 35:56]
        np.testing.assert_allclose(cut.image * cut.scale, 2.5 * part, rtol=1e-6)
        np.testing.assert_allclose(cut.variance * cut.scale**2, 2.5**2 * 9.0, rtol=1e-6)
        assert cut.gain == pytest.approx(5.0 / 2.5)  # electrons per nJy
        assert cut.scale_error == pytest.approx(0.02)
        assert cut.origin_exact

    def test_surface_brightness_becomes_fluence(self):
        whole = exposure(measure="surface_brightness").with_area_ratio(0.5 * 0.26**2)
        cut = cut_exposure(whole, ra=150.0, dec=2.0, size=11, zero_point=31.4)
        np.testing.assert_allclose(cut.image, 2.0 * whole.image[35:46, 40:51], rtol=1e-5)

    def test_edge_makes_a_smaller_stamp(self):
        ra, dec = exposure().sky.sky(x=3.0, y=78.0)
        cut = cut_exposure(exposure(), ra=ra, dec=dec, size=21)
        assert cut.box.shape == (12, 14)

    def test_masked_and_missing_pixels(self):
        mask = np.zeros((80, 90), np.uint32)
        mask[40, 45], mask[40, 46] = 1 << 2, 1 << 8  # SATURATED, SUSPECT
        image = np.ones((80, 90))
        image[41, 45] = np.nan
        cut = cut_exposure(exposure(image=image, mask=mask), ra=150.0, dec=2.0, size=21)
        assert cut.n_good == 441 - 2
        cut = cut_exposure(
            exposure(image=image, mask=mask), ra=150.0, dec=2.0, size=21, bad=["SUSPECT"]
        )
        assert cut.n_good == 441 - 2

    @pytest.mark.parametrize("part", ["sky", "psf", "variance", "photo_calib"])
    def test_missing_part(self, part):
        with pytest.raises(MissingDataError, match="a has no"):
            cut_exposure(exposure(**{part: None}), ra=150.0, dec=2.0)

    def test_outside_and_fully_masked(self):
        with pytest.raises(BoundsError, match="outside a"):
            cut_exposure(exposure(), ra=150.1, dec=2.0)
        mask = np.full((80, 90), 1 << 2, np.uint32)
        with pytest.raises(MaskedDataError, match="no usable pixel"):
            cut_exposure(exposure(mask=mask), ra=150.0, dec=2.0)


class TestScene:
    def test_moving_target(self):
        night = [exposure(str(k), time=60000.0 + t) for k, t in enumerate((0.0, 0.01, 1.0, 2.0))]
        night.append(exposure("g", time=60005.0, band="g"))
        night.append(exposure("off", time=60006.0, x=2000.0))
        time = 60000.0 + np.array([-1.0, 0.0, 1.0, 3.0])
        ra, dec = offset_position(150.0, 2.0, 100.0 * (time - 60000.0), np.zeros(4))
        table = Table({"time": time, "ra": ra, "dec": dec})
        cut = cut_scene(night, table, detection="0")
        assert [e.exposure_id for e in cut.exposures] == ["0", "2", "3"]
        assert sorted(cut.dropped) == ["1", "g", "off"]
        assert "moving target" in cut.dropped["1"]
        assert "band g" in cut.dropped["g"]
        assert "outside" in cut.dropped["off"]
        assert (cut.ra, cut.dec) == pytest.approx((150.0, 2.0), abs=1e-7)
        near = cut_scene(night, table, detection="0", avoid_arcsec=0.5)
        assert "1" not in near.dropped

    def test_static_target_takes_every_exposure(self):
        cut = cut_scene([exposure("a"), exposure("b")], Table({"ra": [150.0], "dec": [2.0]}))
        assert len(cut.exposures) == 2
        assert cut.detection == ""

    def test_detection_must_be_usable(self):
        place = Table({"ra": [150.0], "dec": [2.0]})
        with pytest.raises(MissingDataError, match="not among"):
            cut_scene([exposure("a")], place, detection="b")
        with pytest.raises(MissingDataError, match="a has no PSF"):
            cut_scene([exposure("a", psf=None), exposure("b")], place, detection="a")
        with pytest.raises(MissingDataError, match="No exposure"):
            cut_scene([exposure("a", psf=None)], place)


class TestEphemeris:
    @given(st.floats(0, 360), st.floats(-89.9, 89.9), st.floats(-600, 600), st.floats(-600, 600))
    def test_steady_motion_is_followed_anywhere_on_the_sky(self, ra, dec, east, north):
        time = 60000.0 + np.arange(5) * 0.25
        path = offset_position(ra, dec, east * (time - 60000.5), north * (time - 60000.5))
        at = 60000.4
        expected = offset_position(ra, dec, east * (at - 60000.5), north * (at - 60000.5))
        ephemeris = Ephemeris(time, *path)
        assert ephemeris.separation(at, float(expected[0]), float(expected[1])) < 1e-4

    def test_columns_with_units_and_times(self):
        table = Table({"time": Time([60001.0, 60000.0], format="mjd"), "ra": [2.0, 1.0],
                       "dec": [0.0, 0.0]})  # fmt: skip
        table["ra"].unit = "hourangle"
        path = Ephemeris.from_table(table)
        assert path.at(60000.0) == pytest.approx((15.0, 0.0))

    def test_nothing_is_extrapolated(self):
        path = Ephemeris([60000.0, 60001.0], [1.0, 2.0], [0.0, 0.0], "rock")
        with pytest.raises(BoundsError, match="rock runs from"):
            path.at(60001.5)

    @pytest.mark.parametrize(("time", "ra", "dec"), [
        ([1.0, 1.0], [1.0, 2.0], [0.0, 0.0]), ([1.0], [np.nan], [0.0]), ([1.0], [1.0], [91.0]),
        ([1.0, 2.0], [1.0], [0.0]), ([], [], []),
    ])  # fmt: skip
    def test_bad_tables(self, time, ra, dec):
        with pytest.raises(PogsonValueError):
            Ephemeris(time, ra, dec)

    def test_missing_columns(self):
        with pytest.raises(MissingDataError, match="dec"):
            Ephemeris.from_table(Table({"ra": [1.0]}))
        with pytest.raises(MissingDataError, match="time"):
            Ephemeris.from_table(Table({"ra": [1.0, 2.0], "dec": [0.0, 0.0]}))

    def test_goes_straight_on_beyond_its_table(self):
        path = Ephemeris([60000.0, 60000.5], [359.999, 0.001], [0.0, 0.0], name="rock")
        assert path.separation(60001.0, 0.003, 0.0) < 1e-3
        assert path.separation(59999.5, 359.997, 0.0) < 1e-3
        assert path.separation(60001.0, 0.001, 0.0) == pytest.approx(7.2, rel=1e-6)

    def test_times_of_any_scale_are_utc(self):
        times = Time([60000.0, 60001.0], format="mjd", scale="utc").tdb
        table = Table({"ra": [10.0, 10.1], "dec": [0.0, 0.0]})
        table["time"] = times
        np.testing.assert_allclose(Ephemeris.from_table(table).time, [60000.0, 60001.0], atol=1e-9)
        table["time"] = ["2023-02-25T00:00:00", "2023-02-26"]
        np.testing.assert_allclose(Ephemeris.from_table(table).time, [60000.0, 60001.0], atol=1e-9)
        table["time"] = ["yesterday", "2023-02-26"]
        with pytest.raises(PogsonValueError, match="'yesterday' is neither"):
            Ephemeris.from_table(table)


def sum_circle(image, x, y, radius):
    """Return the exact sum in a circle by another code."""
    import sep

    return float(sep.sum_circle(np.array(image), [x], [y], radius, subpix=0)[0][0])


class TestReference:
    def test_aperture_calibration_holds_what_the_aperture_loses(self):
        calib = PhotoCalib.constant(2.5, reference=FluxReference.aperture(3.0))
        frame = exposure(photo_calib=calib)
        stamp = cut_exposure(frame, ra=150.0, dec=2.0)
        # a star whose whole light is 1000 counts, by sums of its pixels
        x, y = frame.sky.pixel(150.0, 2.0)
        star = frame.psf.draw(x=x, y=y, half_size=40)
        inside = sum_circle(star.image, x - star.box.x_min, y - star.box.y_min, 3.0)
        assert 0.7 < inside < 0.97
        # its aperture flux is calibrated as 2.5 nJy a count, and that is its flux
        assert stamp.scale == pytest.approx(inside, rel=2e-5)
        stamp = cut_exposure(frame, ra=150.0, dec=2.0, zero_point=30.0)
        assert stamp.scale == pytest.approx(10**0.56)

    def test_other_normalization_is_refused(self):
        stated = PsfNormalization("aperture", 8.0)
        calib = PhotoCalib.constant(2.5, reference=FluxReference.total(normalization=stated))
        with pytest.raises(ReferenceMismatchError, match="PSF is normalised to total"):
            cut_exposure(exposure(photo_calib=calib), ra=150.0, dec=2.0)

    def test_bands_do_not_mix(self):
        some = [exposure("a"), exposure("b", band="g"), exposure("c")]
        cut = cut_scene(some, Table({"ra": [150.0], "dec": [2.0]}))
        assert [e.exposure_id for e in cut.exposures] == ["a", "c"]
        assert cut.dropped["b"] == "b is in band g, not in r."

    def test_zero_points_and_noise_of_all(self):
        some = [exposure("a"), exposure("b", photo_calib=None)]
        cut = cut_scene(
            some, Table({"ra": [150.0], "dec": [2.0]}), zero_points={"b": 30.0},
            variance_includes_sources=False,
        )  # fmt: skip
        assert [e.scale for e in cut.exposures] == pytest.approx([1.0, 10**0.56])
        assert cut.exposures[1].gain == 5.0  # electrons per unit of the image
        assert not any(e.variance_includes_sources for e in cut.exposures)

    def test_exposure_without_time_may_show_a_moving_target(self):
        path = Table({"time": [59999.0, 60003.0], "ra": [149.9, 150.3], "dec": [2.0, 2.0]})
        some = [exposure("a", time=60000.0), exposure("b", time=60002.0),
                exposure("c", metadata={})]  # fmt: skip
        cut = cut_scene(some, path, detection="a")
        assert [e.exposure_id for e in cut.exposures] == ["a", "b"]
        assert "does not say when" in cut.dropped["c"]
