"""Flats as a function of wavelength: integrals, states of an image, catalogues, files."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pogson.errors import (
    BoundsError,
    CalibrationError,
    MissingDataError,
    PogsonTypeError,
    PogsonValueError,
    UnitMismatchError,
)
from pogson.fields import Box, ChebyshevField, ConstantField, GridField, PixelAreaField
from pogson.formats import (
    read_chromatic_flat,
    read_exposure,
    write_chromatic_flat,
    write_exposure,
)
from pogson.images import (
    Background,
    ChromaticFlat,
    Exposure,
    FlatFactors,
    Flattening,
    estimate_background,
    fit_color_correction,
    flatten,
    source_factors,
)
from pogson.sed import Bandpass, Spectrum, stellar_template, synthetic_color

BOX = Box(10, 20, 60, 40)
R = Bandpass.from_speclite("decam2014-r")
G = Bandpass.from_speclite("decam2014-g")
BLUE = Spectrum([3000.0, 12000.0], [9.0, 0.1], name="blue")
RED = Spectrum([3000.0, 12000.0], [0.1, 9.0], name="red")
FIDUCIAL = Spectrum.constant_ab(20.0)


def tilted(amount: float = 0.05, box: Box = BOX) -> ChromaticFlat:
    """A flat that slopes to the right in the blue and to the left in the red."""
    lam = np.array([3000.0, 5000.0, 7000.0, 12000.0])
    slopes = amount * np.array([1.0, 0.5, -0.6, -1.0])
    return ChromaticFlat.from_fields(
        lam, [ChebyshevField(box, [[1.0, s], [0.3 * s, 0.0]]) for s in slopes], name="tilted"
    )


def state(sed: Spectrum = FIDUCIAL, amount: float = 0.05) -> Flattening:
    return Flattening(tilted(amount), R, sed, FIDUCIAL)


def exposure(image=None, **more) -> Exposure:
    image = np.full(BOX.shape, 100.0) if image is None else image
    ratio = PixelAreaField(ChebyshevField(BOX, [[1.0, 0.04], [-0.02, 0.0]]))
    values = {
        "unit": "adu",
        "measure": "fluence",
        "box": BOX,
        "area_ratio": ratio,
        "variance": np.full(BOX.shape, 4.0),
        "flattening": state(),
    } | more
    return Exposure(image, **values)


@pytest.mark.parametrize("detector", ["photon", "energy"])
@pytest.mark.parametrize("sed", [BLUE, RED, FIDUCIAL], ids=lambda s: s.name)
def test_flat_for_a_spectrum_is_the_converged_integral(sed, detector):
    bandpass = Bandpass(R.name, R.wavelength, R.throughput, detector)
    flat = tilted()
    position = {"x": 55.0, "y": 31.0}

    low, high = bandpass.wavelength_range
    lam = np.linspace(low, high, 2_000_001)
    signal = bandpass.evaluate(lam) * sed.evaluate(lam) * (lam if detector == "photon" else 1.0)
    values = [f(**position) for f in flat.components]
    shape = np.interp(lam, [3000.0, 5000.0, 7000.0, 12000.0], values)
    above, below = np.trapezoid(signal * shape, lam), np.trapezoid(signal, lam)
    assert flat.flat_for(sed, bandpass)(**position) == pytest.approx(above / below, rel=1e-9)


def test_cube_is_reduced_to_what_it_needs(rng):
    lam = np.linspace(4000.0, 9000.0, 11)
    u = (lam - 6500.0) / 2500.0
    shapes = 1 + 0.02 * rng.normal(size=(3, *BOX.shape))
    cube = shapes[0] + 0.5 * u[:, None, None] * shapes[1] + 0.2 * (u**2)[:, None, None] * shapes[2]
    flat = ChromaticFlat.from_cube(lam, cube, box=BOX, tolerance=1e-9)
    assert len(flat.components) == 3
    assert flat.achieved_error < 1e-9
    for k in (0, 5, 10):
        np.testing.assert_allclose(flat.at(lam[k]).render(), cube[k], atol=1e-9)
    coarse = ChromaticFlat.from_cube(lam, cube, box=BOX, tolerance=0.05)
    assert len(coarse.components) < 3
    worst = max(np.abs(coarse.at(w).render() - c).max() for w, c in zip(lam, cube, strict=True))
    assert coarse.achieved_error == pytest.approx(worst, rel=1e-6)
    assert worst <= 0.05


def test_scan_recovers_the_flat_within_its_noise(rng):
    flat = tilted()
    lam = np.repeat([4000.0, 6000.0, 8000.0], 200)
    x, y = rng.uniform(10, 69, lam.size), rng.uniform(20, 59, lam.size)
    truth = np.array([flat.at(w)(x=a, y=b) for w, a, b in zip(lam, x, y, strict=True)])
    err = np.full(lam.size, 1e-3)
    scan = ChromaticFlat.from_scan(
        lam, truth + rng.normal(size=lam.size) * err, err, x=x, y=y, box=BOX, order=1
    )
    # three coefficients from 200 spots: 1e-3 * sqrt(3 / 200) rms over the detector
    difference = scan.at(6000.0).render() - flat.at(6000.0).render()
    assert np.sqrt((difference**2).mean()) < 4 * 1e-3 * np.sqrt(3 / 200)


@given(
    hnp.arrays(np.float32, BOX.shape, elements=st.floats(1.0, 2.0**60, width=32)),
    st.sampled_from([BLUE, RED]),
    st.floats(0.001, 0.2),
)
def test_there_and_back_is_within_two_ulp(image, sed, amount):
    e = exposure(image, flattening=state(amount=amount))
    there = e.to_state(measure="surface_brightness", sed=sed)
    back = there.to_state(measure="fluence", sed="fiducial")
    np.testing.assert_array_max_ulp(back.image, e.image, maxulp=2)
    np.testing.assert_array_max_ulp(back.variance, e.variance, maxulp=3)
    between = there.flattened_for(BLUE if sed is RED else RED).to_state(sed=sed)
    np.testing.assert_array_max_ulp(between.image, there.image, maxulp=2)


def test_a_state_is_reached_once_however_often_it_is_asked():
    e = exposure()
    dusk = e.flattened_for(BLUE)
    assert dusk.flattened_for(BLUE) is dusk
    assert e.flattened_for("fiducial") is e
    assert dusk.flattening_sed == "blue"
    assert dusk.flattening.fiducial == FIDUCIAL
    assert "flat for 'blue'" in repr(dusk)


def test_one_mapping_is_area_times_ratio_of_flats():
    e = exposure(measure="surface_brightness").flattened_for(RED)
    out = e.to_state(measure="fluence", sed="fiducial")
    flat = tilted()
    ratio = (flat.flat_for(RED, R) / flat.flat_for(FIDUCIAL, R)).render()
    area = e.area_ratio.render()
    np.testing.assert_allclose(out.image, e.image * ratio * area, rtol=2e-7)
    np.testing.assert_allclose(out.variance, e.variance * (ratio * area) ** 2, rtol=4e-7)


def test_flatten_divides_once_and_says_what_it_did():
    flat = tilted().flat_for(RED, R).render()
    raw = Exposure(1000.0 * flat, unit="adu", measure="fluence", box=BOX)
    done = flatten(raw, state(RED), measure="surface_brightness")
    np.testing.assert_allclose(done.image, 1000.0, rtol=2e-7)
    assert done.measure.value == "surface_brightness"
    assert done.flattening_sed == "red"
    with pytest.raises(CalibrationError, match="flattened already"):
        flatten(done, state(RED), measure="fluence")


def test_an_unknown_spectrum_is_asked_for():
    e = exposure(flattening=None, flattening_sed="dome lamp")
    with pytest.raises(MissingDataError, match="only the name 'dome lamp'"):
        e.flattened_for(RED)
    with pytest.raises(MissingDataError, match="not said for which spectrum"):
        exposure(flattening=None).to_state(sed=RED)
    with pytest.raises(PogsonTypeError, match="a name does not say what"):
        exposure().flattened_for("red")
    with pytest.raises(PogsonTypeError, match="has to be known"):
        Flattening(tilted(), R, "red")
    with pytest.raises(PogsonValueError, match="leave flattening_sed out"):
        exposure(flattening_sed="other")


def test_background_follows_the_image_from_state_to_state():
    sky = exposure(measure="surface_brightness").flattened_for(RED)
    field = ConstantField(BOX, 50.0, "adu")
    rms = ConstantField(BOX, 2.0, "adu")
    for known in (sky.flattening, None):  # None: whatever the image is when it is attached
        e = sky.with_background(Background(field, rms, sky.area_ratio, known))
        photometric = e.to_state(measure="fluence", sed="fiducial")
        subtracted = photometric.subtract_background()
        expected = (e.image - 50.0) * (photometric.image.astype(float) / e.image)
        np.testing.assert_allclose(subtracted.image, expected, rtol=1e-6)
        assert np.array_equal(subtracted.restore_background().image, photometric.image)


def test_background_under_the_sky_spectrum_is_flat(rng):
    """A 5 % chromatic flat difference: naive 5 % structure, under the sky's spectrum none."""
    box = Box(0, 0, 256, 256)
    lam = [3000.0, 5500.0, 7300.0, 12000.0]
    slopes = (0.3, 0.3, -0.3, -0.3)
    flat = ChromaticFlat.from_fields(lam, [ChebyshevField(box, [[1.0, s]]) for s in slopes])
    now = Flattening(flat, R, BLUE, BLUE)
    sky = (flat.flat_for(RED, R) / flat.flat_for(BLUE, R)).render() * 1000.0
    e = Exposure(
        sky + rng.normal(size=box.shape), unit="adu", measure="surface_brightness", flattening=now
    )
    naive = estimate_background(e, mesh=32).level.render()
    right = estimate_background(e, mesh=32, sky_sed=RED)
    assert np.ptp(naive) / naive.mean() > 0.05
    assert np.ptp(right.level.render()) / 1000.0 < 1e-3
    done = e.with_background(right).subtract_background()
    # 64 cells of 32 x 32 pixels: the mean of the residual is good to 1/256
    assert abs(done.image.mean()) < 5 / 256
    assert abs(done.image[:, :32].mean() - done.image[:, -32:].mean()) < 0.2


def test_exposure_survives_the_native_file_with_its_flattening(tmp_path):
    e = exposure().with_background(
        Background(ConstantField(BOX, 5.0, "adu"), ConstantField(BOX, 1.0, "adu"),
                   exposure().area_ratio, state(RED))
    )  # fmt: skip
    path = write_exposure(tmp_path / "e.fits", e)
    assert read_exposure(path) == e


def test_large_flat_is_named_in_the_file_and_asked_for(tmp_path, rng):
    from pogson.formats.native import read_native

    box = Box(0, 0, 200, 150)
    flat = ChromaticFlat.from_cube(
        [4000.0, 9000.0], 1 + 0.01 * rng.normal(size=(2, *box.shape)), box=box
    )
    flattening = Flattening(flat, R, FIDUCIAL)
    e = Exposure(np.ones(box.shape), unit="adu", measure="fluence", flattening=flattening)
    path = write_exposure(tmp_path / "e.fits", e)
    assert path.stat().st_size < 1_000_000
    bare = read_native(path)
    assert bare.flattening is None
    assert bare.flattening_sed == FIDUCIAL.name
    flat_path = write_chromatic_flat(tmp_path / "flat.fits", flat)
    assert read_native(path, flat=read_chromatic_flat(flat_path)) == e
    with pytest.raises(MissingDataError, match="the one given is"):
        read_native(path, flat=tilted())


def test_sources_of_other_colours_are_put_right():
    flat = tilted(0.05)
    fiducial = stellar_template(5800.0)
    now = Flattening(flat, R, fiducial)
    stars = [stellar_template(t) for t in (3800.0, 4200.0, 5000.0, 7000.0, 10000.0)]
    x, y = np.array([12.0, 25.0, 40.0, 60.0, 68.0]), np.array([22.0, 58.0, 40.0, 30.0, 55.0])
    # what the detector does to each star, from the flat itself
    seen = np.array(
        [
            flat.flat_for(s, R)(x=a, y=b) / flat.flat_for(fiducial, R)(x=a, y=b)
            for s, a, b in zip(stars, x, y, strict=True)
        ]
    )
    naive = 2.5 * np.log10(seen)
    assert np.abs(naive).max() > 2e-3  # mag: worth a correction
    full = seen * source_factors(now, stars, x=x, y=y)
    np.testing.assert_allclose(full, 1.0, rtol=1e-12)
    colors = np.array([synthetic_color(s, G, R) for s in stars])
    correction = fit_color_correction(now, stars, (G, R))
    first = correction.correct(seen, x=x, y=y, color=colors)
    worst = np.abs(2.5 * np.log10(first)).max()
    assert worst <= correction.largest_residual * 1.01
    assert worst < np.abs(naive).max() / 5
    np.testing.assert_allclose(correction.restore(first, x=x, y=y, color=colors), seen, rtol=1e-14)
    assert correction.factor(x=30.0, y=30.0, color=correction.reference_color) == 1.0


def test_factors_multiply_and_can_be_replaced():
    grey = ChebyshevField(BOX, [[1.0, 0.1]])
    factors = FlatFactors({"dome": tilted(), "star": grey})
    product = factors.flat_for(RED, R)
    expected = tilted().flat_for(RED, R).render() * grey.render()
    np.testing.assert_allclose(product.render(), expected, rtol=1e-14)
    assert factors.without("star").flat_for(RED, R) == tilted().flat_for(RED, R)
    assert factors.with_factor("star", ConstantField(BOX, 1.0)).digest != factors.digest
    now = Flattening(factors, R, FIDUCIAL)
    np.testing.assert_allclose(
        source_factors(now, [RED], x=[40.0], y=[40.0]),
        source_factors(state(), [RED], x=[40.0], y=[40.0]),
        rtol=1e-12,
    )
    with pytest.raises(MissingDataError, match="it has dome, star"):
        factors.without("illumination")


class TestBadFlats:
    def test_unsorted_wavelengths(self):
        with pytest.raises(PogsonValueError, match="Sort the planes"):
            ChromaticFlat.from_cube([5000.0, 4000.0], np.ones((2, 5, 5)))

    @pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
    def test_zeros_and_nan(self, value):
        cube = np.ones((2, 5, 5))
        cube[1, 2, 3] = value
        with pytest.raises(PogsonValueError, match=r"index \[y=2, x=3\]"):
            ChromaticFlat.from_cube([4000.0, 5000.0], cube)
        if value <= 0:
            with pytest.raises(PogsonValueError, match="must be positive"):
                ChromaticFlat.from_fields([4e3, 5e3], [ConstantField(BOX, value)] * 2)

    def test_spectrum_or_flat_that_does_not_cover_the_band(self):
        short = Spectrum([3000.0, 6000.0], [1.0, 1.0], name="short")
        with pytest.raises(CalibrationError, match=r"'short' .* of bandpass 'decam2014-r'"):
            Flattening(tilted(), R, short)
        narrow = ChromaticFlat.from_fields([6000.0, 6500.0], [ConstantField(BOX, 1.0)] * 2)
        with pytest.raises(CalibrationError, match="at least 99 % is needed"):
            narrow.flat_for(FIDUCIAL, R)
        with pytest.raises(BoundsError, match="covers 6000-6500"):
            narrow.at(7000.0)

    def test_light_that_is_not_positive(self):
        with pytest.raises(CalibrationError, match="only for positive light"):
            tilted().flat_for(FIDUCIAL.scaled(-1.0), R)

    def test_units_and_boxes(self):
        with pytest.raises(UnitMismatchError, match="flats have no unit"):
            ChromaticFlat.from_fields([4e3], [ConstantField(BOX, 1.0, "adu")])
        with pytest.raises(BoundsError, match="lie on"):
            ChromaticFlat.from_fields(
                [4e3, 5e3], [ConstantField(BOX, 1.0), ConstantField(Box(0, 0, 5, 5), 1.0)]
            )
        with pytest.raises(BoundsError, match="The flat covers"):
            exposure(flattening=Flattening(tilted(box=Box(0, 0, 20, 20)), R, FIDUCIAL))
        with pytest.raises(BoundsError, match="1 of 1 sources are outside"):
            source_factors(state(), [RED], x=[0.0], y=[0.0])

    def test_flats_that_differ_do_not_mix(self):
        with pytest.raises(CalibrationError, match="another flat"):
            state().check_same_flat(state(amount=0.01))


class TestFiles:
    def test_own_file(self, tmp_path):
        for flat in (tilted(), FlatFactors({"dome": tilted(), "star": ConstantField(BOX, 1.1)})):
            path = write_chromatic_flat(tmp_path / "flat.fits", flat, overwrite=True)
            assert read_chromatic_flat(path).digest == flat.digest
        with pytest.raises(Exception, match="overwrite=True"):
            write_chromatic_flat(path, flat)

    def cube(self):
        lam = np.array([400.0, 600.0, 900.0])
        slope = np.linspace(-0.1, 0.1, 30)
        return lam, np.stack([np.tile(1 + s * slope, (20, 1)) for s in (1.0, 0.0, -1.0)])

    def test_cube_with_a_table_of_wavelengths(self, tmp_path):
        lam, cube = self.cube()
        table = fits.BinTableHDU(
            Table({"WAVELENGTH": lam}, units={"WAVELENGTH": "nm"}), name="WAVE"
        )
        fits.HDUList([fits.PrimaryHDU(cube), table]).writeto(tmp_path / "c.fits")
        flat = read_chromatic_flat(tmp_path / "c.fits")
        np.testing.assert_allclose(flat.wavelength, 10 * lam)
        np.testing.assert_allclose(flat.at(9000.0).render(), cube[2], atol=1e-12)

    def test_cube_with_a_wavelength_axis(self, tmp_path):
        _, cube = self.cube()
        hdu = fits.PrimaryHDU(cube)
        hdu.header.update(CTYPE3="WAVE", CRVAL3=4e-7, CDELT3=1e-7, CRPIX3=1.0, CUNIT3="m")
        hdu.writeto(tmp_path / "c.fits")
        flat = read_chromatic_flat(tmp_path / "c.fits")
        np.testing.assert_allclose(flat.wavelength, [4000.0, 5000.0, 6000.0])

    def test_cube_without_wavelengths(self, tmp_path):
        fits.PrimaryHDU(self.cube()[1]).writeto(tmp_path / "c.fits")
        with pytest.raises(MissingDataError, match="does not say its wavelengths"):
            read_chromatic_flat(tmp_path / "c.fits")

    def test_scan(self, tmp_path, rng):
        n = 60
        lam = np.repeat([400.0, 700.0], n)
        x, y = rng.uniform(10, 69, 2 * n), rng.uniform(20, 59, 2 * n)
        flat = tilted()
        values = [flat.at(10 * w)(x=a, y=b) for w, a, b in zip(lam, x, y, strict=True)]
        table = Table({"X": x, "Y": y, "lambda": lam, "throughput": values, "error": 0 * x + 0.01})
        table["lambda"].unit = "nm"
        table.write(tmp_path / "s.fits")
        scan = read_chromatic_flat(tmp_path / "s.fits", box=BOX, order=1)
        np.testing.assert_allclose(scan.at(4e3).render(), flat.at(4e3).render(), atol=1e-9)
        with pytest.raises(MissingDataError, match="pass box="):
            read_chromatic_flat(tmp_path / "s.fits")
        with pytest.raises(PogsonValueError, match="Lower the order"):
            read_chromatic_flat(tmp_path / "s.fits", box=BOX, order=12)

    def test_something_else(self, tmp_path):
        fits.PrimaryHDU(np.ones((5, 5))).writeto(tmp_path / "i.fits")
        with pytest.raises(MissingDataError, match="holds no chromatic flat"):
            read_chromatic_flat(tmp_path / "i.fits")


def test_small_structure_is_kept(rng):
    """Tree rings: one value a pixel survives the mean over a spectrum."""
    rings = 1 + 0.01 * np.sin(np.hypot(*np.mgrid[0:40, 0:60]) / 2.0)
    flat = ChromaticFlat.from_fields(
        [3000.0, 12000.0], [GridField.from_image(rings), GridField.from_image(rings**2)]
    )
    got = flat.flat_for(RED, R).render()
    weight = np.sum((got - rings) * (rings**2 - rings)) / np.sum((rings**2 - rings) ** 2)
    assert 0.3 < weight < 0.7
    np.testing.assert_allclose(got, rings + weight * (rings**2 - rings), rtol=1e-12)
