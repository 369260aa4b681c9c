"""Resampling: flux, noise, masks and PSF against sums, Monte Carlo and brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pogson.errors import (
    BoundsError,
    CalibrationError,
    MaskedDataError,
    MeasureError,
    MissingDataError,
    PogsonTypeError,
    PogsonValueError,
)
from pogson.fields import Box
from pogson.images import Exposure, NoiseCorrelation, aperture_variance, stamp_variance, warp
from pogson.images._pixel_map import overlap_box, pixel_map
from pogson.psf import MoffatPSF, psf_from_dict
from pogson.sky import FitsSkyMap


def distorted(n=500, strength=3.0):
    """Return a strongly distorted map: pixel areas differ by about a quarter over the image."""
    return FitsSkyMap(
        {
            "CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "CRVAL1": 30.0, "CRVAL2": -20.0,
            "CRPIX1": n / 2 + 0.5, "CRPIX2": n / 2 + 0.5, "CD1_1": -7e-5, "CD1_2": 0.0,
            "CD2_1": 0.0, "CD2_2": 7e-5, "CUNIT1": "deg", "CUNIT2": "deg", "RADESYS": "ICRS",
            "A_ORDER": 3, "B_ORDER": 3, "A_2_0": 6e-5 * strength, "A_0_2": 2e-5 * strength,
            "B_1_1": 5e-5 * strength, "B_0_2": -3e-5 * strength, "A_3_0": 2e-7 * strength,
            "A_1_2": 1e-7 * strength, "B_2_1": 1e-7 * strength, "B_0_3": 2e-7 * strength,
        }
    )  # fmt: skip


def tan(n=500, scale=0.8, rotation=25.0, out=700):
    return FitsSkyMap.tan(
        30.0, -20.0, x=out / 2, y=out / 2, scale_arcsec=7e-5 * 3600 * scale, rotation_deg=rotation
    )


def star_image(psf, x, y, flux, box, half=30):
    image = np.zeros(box.shape)
    stamps, x0, y0 = psf.draw_many(x=x, y=y, half_size=half)
    for s, a, b, f in zip(stamps, x0, y0, flux, strict=True):
        image[b : b + 2 * half + 1, a : a + 2 * half + 1] += f * s / s.sum()
    return image


def noise_visit(rng, n=240, sigma=2.0):
    sky = FitsSkyMap.tan(30.0, -20.0, x=n / 2, y=n / 2, scale_arcsec=0.25)
    return Exposure(
        rng.normal(0.0, sigma, (n, n)), variance=np.full((n, n), sigma**2), unit="nJy",
        measure="fluence", sky=sky,
    )  # fmt: skip


@pytest.mark.parametrize("kernel", ["lanczos3", "exact"])
def test_every_star_keeps_its_flux_on_a_strongly_distorted_field(kernel):
    box, sky, out = Box(0, 0, 500, 500), distorted(), tan(scale=0.95, out=900)
    area = sky.pixel_area(x=np.array([40.0, 460.0]), y=np.array([60.0, 440.0]))
    assert abs(area[0] / area[1] - 1.0) > 0.08  # naive conservation of surface brightness is wrong
    g = np.arange(45, 470, 102.0)
    x, y = (a.ravel() + 0.137 * np.arange(a.size) % 1.0 for a in np.meshgrid(g, g))
    psf = MoffatPSF(3.5, 3.5)
    image = star_image(psf, x, y, np.full(x.size, 1000.0), box)
    exposure = Exposure(image, unit="nJy", measure="fluence", sky=sky)
    made = warp(exposure, out, Box(0, 0, 900, 900), kernel=kernel)
    image = np.nan_to_num(made.exposure.image.astype(np.float64))
    # each star ends 30 input pixels from its centre, the next begins 72 away: windows hold one
    half = 56
    padded = np.pad(image, half)
    px, py = (np.round(a).astype(int) for a in out.pixel(*sky.sky(x=x, y=y)))
    sums = np.array(
        [
            padded[v : v + 2 * half + 1, u : u + 2 * half + 1].sum()
            for u, v in zip(px, py, strict=True)
        ]
    )
    error = sums / 1000.0 - 1.0
    print(f"{kernel}: largest flux error {np.abs(error).max():.2e}")
    assert np.abs(error).max() < 5e-4
    assert image.sum() == pytest.approx(exposure.image.sum(dtype=np.float64), rel=2e-5)


def test_positions_between_nodes_are_right_to_a_ten_thousandth_of_a_pixel(rng):
    sky, out, box = distorted(), tan(), Box(0, 0, 500, 500)
    part = overlap_box(sky, box, out, Box(0, 0, 700, 700), 3)
    made = pixel_map(sky, box, out, part)
    assert made.step >= 8  # coarse, or there is no gain
    x, y = rng.uniform(*part.x_bounds, 5000), rng.uniform(*part.y_bounds, 5000)
    truth = np.array(sky.pixel(*out.sky(x=x, y=y)))
    on = np.isfinite(truth).all(axis=0)
    on &= box.contains(x=np.where(on, truth[0], -9), y=np.where(on, truth[1], -9))
    found = made(x, y)
    assert on.sum() > 1000
    assert np.hypot(*(found[:2] - truth)[:, on]).max() < 1e-4
    area = out.pixel_area(x=x[on], y=y[on]) / sky.pixel_area(x=truth[0, on], y=truth[1, on])
    assert np.abs(found[2, on] / area - 1.0).max() < 1e-5


def test_the_same_pixels_come_back_the_same(rng):
    exposure = noise_visit(rng)
    made = warp(exposure, exposure.sky, exposure.box)
    inner = slice(4, -4)
    np.testing.assert_allclose(
        made.exposure.image[inner, inner], exposure.image[inner, inner], rtol=0, atol=2e-5
    )
    np.testing.assert_allclose(made.exposure.variance[inner, inner], 4.0, rtol=1e-5)
    assert made.noise.total(x=100, y=100) == pytest.approx(1.0, abs=1e-4)
    shifted = warp(exposure, exposure.sky.shifted(10, -5), Box(0, 0, 200, 200))
    np.testing.assert_allclose(
        shifted.exposure.image[50, 60], exposure.image[45, 70], rtol=0, atol=2e-5
    )


def test_exact_overlap_against_brute_force(rng):
    """Sub-pixels counted one by one are the truth of the overlap."""
    exposure = noise_visit(rng, n=40)
    out = FitsSkyMap.tan(30.0, -20.0, x=20.3, y=19.8, scale_arcsec=0.31, rotation_deg=33.0)
    made = warp(exposure, out, Box(12, 12, 14, 14), kernel="exact").exposure.image
    m = 200
    off = (np.arange(m) + 0.5) / m - 0.5
    for x, y in ((15, 17), (20, 20), (24, 13)):
        gx, gy = np.meshgrid(x + off, y + off)
        px, py = exposure.sky.pixel(*out.sky(x=gx, y=gy))
        values = exposure.image[np.floor(py + 0.5).astype(int), np.floor(px + 0.5).astype(int)]
        area = (0.31 / 0.25) ** 2
        assert made[y - 12, x - 12] == pytest.approx(values.mean() * area, abs=0.02)


@settings(max_examples=15)
@given(
    rotation=st.floats(-180, 180), scale=st.floats(0.5, 2.2), dx=st.floats(-0.5, 0.5),
    kernel=st.sampled_from(["lanczos3", "exact"]), flip=st.booleans(),
)  # fmt: skip
def test_flux_survives_any_rotation_and_scale(rotation, scale, dx, kernel, flip):
    box = Box(0, 0, 81, 81)
    sky = FitsSkyMap.tan(30.0, -20.0, x=40.0, y=40.0, scale_arcsec=0.25)
    image = star_image(MoffatPSF(5.0, 4.0), [40.0 + dx], [40.2], [500.0], box, half=22)
    exposure = Exposure(image, unit="nJy", measure="fluence", sky=sky)
    out = FitsSkyMap.tan(
        30.0, -20.0, x=120.0, y=120.0, scale_arcsec=0.25 * scale, rotation_deg=rotation, flip=flip
    )
    made = warp(exposure, out, Box(0, 0, 241, 241), kernel=kernel)
    assert np.nansum(made.exposure.image, dtype=float) == pytest.approx(500.0, rel=5e-4)


@pytest.mark.parametrize(
    ("kernel", "scale"), [("lanczos3", 1.0), ("exact", 1.3), ("lanczos3", 1.5)]
)
def test_noise_and_its_correlation_against_monte_carlo(rng, kernel, scale):
    n, trials, k = 80, 300, 3
    out = FitsSkyMap.tan(30.0, -20.0, x=30.3, y=30.4, scale_arcsec=0.25 * scale, rotation_deg=17.0)
    box = Box(12, 12, 30, 30)
    stack = []
    for _ in range(trials):
        made = warp(noise_visit(rng, n), out, box, kernel=kernel)
        stack.append(made.exposure.image)
    values = np.array(stack, float)
    variance = values.var(axis=0)
    ratio = variance / made.exposure.variance
    # 900 correlated pixels of 300 trials each: the mean ratio is known to well below 2 %
    assert ratio.mean() == pytest.approx(1.0, abs=0.02)
    rho = made.noise.mean()
    r = made.noise.reach
    for dy, dx in ((0, 1), (1, 0), (1, 1), (0, 2), (2, 1)):
        a = values[:, : 30 - dy, : 30 - dx]
        b = values[:, dy:, dx:]
        measured = np.mean(
            np.mean(a * b, axis=0) / np.sqrt(variance[: 30 - dy, : 30 - dx] * variance[dy:, dx:])
        )
        assert rho[r + dy, r + dx] == pytest.approx(measured, abs=0.02), (dy, dx)
    sums = values[:, 5:25, 5:25].sum(axis=(1, 2))
    weights = np.ones((20, 20))
    predicted = stamp_variance(made, weights, x_min=17, y_min=17)
    naive = stamp_variance(made, weights, x_min=17, y_min=17, covariance=False)
    # the variance of 300 sums is known to 8 %
    assert sums.var() / predicted == pytest.approx(1.0, abs=0.3)
    assert naive < 0.85 * predicted
    assert k <= r + 3


def test_large_sums_have_the_variance_of_the_input(rng):
    """Whatever the kernel does to pixels, the light of a region has the noise of its input."""
    exposure = noise_visit(rng)
    for kernel, scale in (("lanczos3", 0.9), ("exact", 0.9), ("exact", 1.7), ("lanczos3", 1.4)):
        out = FitsSkyMap.tan(
            30.0, -20.0, x=120.2, y=120.7, scale_arcsec=0.25 * scale, rotation_deg=40
        )
        made = warp(exposure, out, Box(0, 0, 240, 240), kernel=kernel)
        assert made.white_variance == pytest.approx(4.0 * scale**2, rel=0.04)
        radius = 35.0 / scale
        total = aperture_variance(made, x=[120.0], y=[120.0], radius=radius)[0]
        assert total == pytest.approx(4.0 * np.pi * 35.0**2, rel=0.05)


def test_circle_weights_against_the_exact_aperture():
    from pogson.images._noise_kernels import circle_weights
    from pogson.psf import ApertureOperator

    image = np.random.default_rng(3).normal(size=(40, 40))
    for x, y, r in ((20.0, 20.0, 5.5), (19.31, 21.77, 0.4), (20.5, 20.5, 12.0), (18.2, 20.0, 3.0)):
        weights = np.zeros(image.shape)
        circle_weights(x, y, r, 0, 0, weights)
        assert weights.sum() == pytest.approx(np.pi * r * r, rel=1e-9)
        truth = ApertureOperator.exact().sum(image, x=x, y=y, a=r)
        assert (weights * image).sum() == pytest.approx(float(np.ravel(truth.flux)[0]), abs=1e-9)


def test_masks_follow_the_rules(rng):
    base = noise_visit(rng, 100)
    bits = base.mask_bits
    mask = np.zeros((100, 100), np.uint32)
    mask[50, 50] = bits.value("COSMIC_RAY")
    mask[30, 30] = bits.value("SATURATED")
    mask[70, 20:60] = bits.value("DETECTED")
    image = np.array(base.image)
    image[50, 50], image[20, 70] = 1e6, np.nan
    exposure = base.with_(image=image, mask=mask)
    out = base.sky.shifted(0.4, 0.3)
    made = warp(exposure, out, Box(0, 0, 100, 100)).exposure
    names = lambda y, x: bits.names(int(made.mask[y, x]))  # noqa: E731
    assert np.isnan(made.image[50, 50]), "the cosmic ray is missing, not smeared"
    assert {"NO_DATA", "COSMIC_RAY"} <= set(names(50, 50))
    assert np.isnan(made.image[20, 70])
    assert np.nanmax(made.image) < 50.0, "nothing of a million may leak"
    assert "SATURATED" in names(30, 30)
    assert np.isfinite(made.image[30, 30])
    assert "SATURATED" not in names(30, 36)
    # at a distance of a few pixels the kernel is renormalised, and says so
    flagged = (made.mask & bits.value("INTERPOLATED")) != 0
    assert flagged[44:57, 44:57].any()
    assert np.isfinite(made.image[flagged]).all()
    # footprints do not grow: more than half of the weight
    assert "DETECTED" in names(70, 40)
    assert "DETECTED" not in names(72, 40)
    assert np.isnan(made.image[:, 98:]).all(), "the kernel does not fit at the border"
    everywhere = warp(exposure, out, Box(0, 0, 100, 100), mask_thresholds={"detected": 0.0})
    assert "DETECTED" in bits.names(int(everywhere.exposure.mask[71, 40]))


def test_the_psf_of_a_warp_is_the_star_on_it():
    box, sky, out = Box(0, 0, 500, 500), distorted(), tan(scale=1.0)
    psf = MoffatPSF(3.5, 3.5)
    x, y = np.array([100.3, 400.7, 251.5]), np.array([120.9, 330.2, 250.0])
    image = np.zeros(box.shape)
    for a, b in zip(x, y, strict=True):
        stamp = psf.draw(x=a, y=b, half_size=45)
        image[stamp.box.slices(box)] += 1e4 * stamp.image
    for kernel in ("lanczos3", "exact"):
        exposure = Exposure(image, unit="nJy", measure="fluence", sky=sky, psf=psf)
        made = warp(exposure, out, Box(0, 0, 700, 700), kernel=kernel).exposure
        px, py = out.pixel(*sky.sky(x=x, y=y))
        for u, v in zip(px, py, strict=True):
            stamp = made.psf.draw(x=u, y=v, half_size=20)
            seen = made.image[stamp.box.slices(made.box)] / 1e4
            assert np.abs(seen - stamp.image).max() < 3e-5 * stamp.image.max()
        assert psf_from_dict(made.psf.to_dict()) == made.psf
        energy = made.psf.enclosed_energy(12.0, x=px, y=py)
        assert ((energy > 0.95) & (energy < 1.0)).all()
        assert made.psf.fwhm(x=px[0], y=py[0]) > 3.5
        with pytest.raises(BoundsError, match="No input of the coadd covers"):
            made.psf.draw(x=2.0, y=2.0)


def test_refusals(rng):
    exposure = noise_visit(rng, 60)
    sky, box = exposure.sky, exposure.box
    with pytest.raises(MeasureError, match=r"to\('fluence'\)"):
        warp(exposure.with_(measure="surface_brightness"), sky, box)
    with pytest.raises(MissingDataError, match="no sky mapping"):
        warp(exposure.with_(sky=None), sky, box)
    with pytest.raises(PogsonTypeError, match="Exposure"):
        warp(exposure.image, sky, box)
    with pytest.raises(PogsonTypeError, match="SkyMap"):
        warp(exposure, "TAN", box)
    far = FitsSkyMap.tan(40.0, 20.0, x=30.0, y=30.0, scale_arcsec=0.25)
    with pytest.raises(BoundsError, match="does not overlap"):
        warp(exposure, far, box)
    beside = FitsSkyMap.tan(30.0, -20.0, x=3000.0, y=30.0, scale_arcsec=0.25)
    with pytest.raises(BoundsError, match="output pixels x 29"):
        warp(exposure, beside, box)
    with pytest.raises(PogsonValueError, match="Unknown kernel"):
        warp(exposure, sky, box, kernel="nearest")
    with pytest.raises(PogsonValueError, match="from 0 to below 1"):
        warp(exposure, sky, box, mask_thresholds={"BAD": 1.5})
    with pytest.raises(MissingDataError, match="No mask bit"):
        warp(exposure, sky, box, mask_thresholds={"GHOST": 0.5})
    with pytest.raises(MaskedDataError, match="No pixel"):
        warp(exposure.with_(image=np.full((60, 60), np.nan)), sky, box)
    with pytest.raises(PogsonTypeError, match="Coadd or a Warp"):
        aperture_variance(exposure, x=[1], y=[1], radius=2)
    with pytest.raises(PogsonValueError, match="positive"):
        aperture_variance(warp(exposure, sky, box), x=[1], y=[1], radius=-2)


def test_a_map_that_folds_over_is_refused(rng):
    header = {
        "CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "CRVAL1": 30.0, "CRVAL2": -20.0,
        "CRPIX1": 50.5, "CRPIX2": 50.5, "CD1_1": -7e-5, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 7e-5,
        "A_ORDER": 2, "B_ORDER": 2, "A_2_0": 0.015, "B_0_2": 0.0,
    }  # fmt: skip
    folded = FitsSkyMap(header)
    exposure = Exposure(np.ones((100, 100)), unit="nJy", measure="fluence", sky=folded)
    with pytest.raises(CalibrationError, match="folds over"):
        warp(exposure, tan(), Box(0, 0, 700, 700))


def test_noise_correlation_round_trip_and_checks():
    box = Box(0, 0, 300, 200)
    kernel = np.array([[0.0, 0.2, 0.0], [0.1, 1.0, 0.1], [0.0, 0.2, 0.0]])
    noise = NoiseCorrelation(box, kernel[None, None])
    again = NoiseCorrelation.from_dict(noise.to_dict())
    assert again == noise
    assert noise.total(x=3, y=3) == pytest.approx(1.6)
    for wrong in (np.ones((3, 3)), 2 * kernel[None, None], np.triu(kernel)[None, None]):
        with pytest.raises(PogsonValueError, match=r"[Cc]orrelation"):
            NoiseCorrelation(box, wrong)
    with pytest.raises(OSError, match="Not a description"):
        NoiseCorrelation.from_dict({"box": [0, 0, 1, 1]})


def test_kernels_round_alike_wherever_they_are_compiled():
    # A compiler free to reorder sums did it differently in the process that compiled and in those
    # that read the compiled code from disk, and coadds of workers differed in the last bit.
    from pogson.images import _coadd_kernels, _noise_kernels, _warp_kernels

    found = [
        kernel
        for module in (_coadd_kernels, _noise_kernels, _warp_kernels)
        for kernel in vars(module).values()
        if hasattr(kernel, "targetoptions")
    ]
    assert len(found) > 15
    assert not [k.__name__ for k in found if k.targetoptions.get("fastmath")]
