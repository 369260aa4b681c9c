"""Detection, forced apertures, PSF fluxes, variances, growth curves, aperture corrections."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table

from pogson.calib import FluxReference, PhotoCalib
from pogson.errors import (
    CalibrationError,
    MaskedDataError,
    MeasureError,
    MissingDataError,
    PogsonValueError,
    ReferenceMismatchError,
)
from pogson.fields import Box, ChebyshevField, ConstantField, PixelAreaField
from pogson.images import (
    ApertureCorrection,
    Background,
    Exposure,
    LocalAnnulus,
    MaskBits,
    SourceFlag,
    curve_of_growth,
    detect,
    estimate_background,
    estimate_gain,
    estimate_variance,
    fit_aperture_correction,
    measure_sources,
    psf_flux,
)
from pogson.psf import ApertureOperator, MoffatPSF
from pogson.sky import FitsSkyMap

BOX = Box(100, 50, 300, 260)
PSF = MoffatPSF(fwhm=3.5, beta=3.0)
RATIO = PixelAreaField(ChebyshevField(BOX, [[1.0, 0.03], [0.02, 0.0]]))
BITS = MaskBits.standard()
R5 = FluxReference.aperture(5.0)


def scene(x, y, flux, *, sky=0.0, **changes):
    """Noiseless stars in fluence on a sky flat in surface brightness."""
    image = sky * RATIO.render()
    stamps, x_min, y_min = PSF.draw_many(x=x, y=y, half_size=25)
    for stamp, x0, y0, f in zip(stamps, x_min, y_min, np.broadcast_to(flux, len(x)), strict=True):
        part = Box(int(x0), int(y0), 51, 51).intersection(BOX)
        image[part.slices(BOX)] += f * stamp[part.slices(Box(int(x0), int(y0), 51, 51))]
    values = {"unit": "adu", "measure": "fluence", "box": BOX, "psf": PSF, "area_ratio": RATIO,
              "variance": np.full(BOX.shape, 9.0)}  # fmt: skip
    return Exposure(values.pop("image", image), **{**values, **changes})


X = np.array([150.3, 220.8, 310.1])
Y = np.array([90.2, 200.6, 150.5])
FLUX = np.array([5000.0, 20000.0, 800.0])


# -- detection --------------------------------------------------------------------------------
def test_detection_finds_positions_on_sky_and_pixels(rng):
    sky = FitsSkyMap.tan(30.0, -20.0, x=200.0, y=150.0, scale_arcsec=0.25)
    e = scene(X, Y, FLUX, sky=300.0)
    e = e.with_(image=e.image + rng.normal(0, 3, BOX.shape), sky=sky)
    e = e.with_background(estimate_background(e))
    for exposure in (e, e.to("surface_brightness")):
        found = detect(exposure, 5.0)
        assert len(found) == 3
        order = np.argsort(found["x"])
        # photon-free centroid noise of the faintest: about FWHM / (S/N) / 2
        np.testing.assert_allclose(found["x"][order], X, atol=0.15)
        np.testing.assert_allclose(found["y"][order], Y, atol=0.15)
        ra, dec = sky.sky(x=np.asarray(found["x"]), y=np.asarray(found["y"]))
        np.testing.assert_allclose(found["ra"], ra)
        np.testing.assert_allclose(found["dec"], dec)
        assert found["flux_isophotal"].unit == e.unit
        assert not np.any(found["flags"])


def test_detection_flags_saturated_blended_and_edge_sources():
    x, y = np.array([150.0, 250.0, 257.0, 100.4]), np.array([90.0, 200.0, 200.0, 250.0])
    e = scene(x, y, 2e4)
    mask = np.zeros(BOX.shape, np.uint32)
    mask[40, 50] = BITS.value("SATURATED")
    found = detect(e.with_(mask=mask), 5.0)
    found.sort("x")
    flags = [SourceFlag(int(f)) for f in found["flags"]]
    assert SourceFlag.EDGE in flags[0]
    assert SourceFlag.SATURATED in flags[1]
    assert SourceFlag.BLENDED in flags[2] | flags[3]


def test_detection_without_noise_or_with_nonsense_is_refused():
    e = scene(X, Y, FLUX)
    with pytest.raises(PogsonValueError, match="needs to know the noise"):
        detect(e.with_(variance=None))
    with pytest.raises(PogsonValueError, match="threshold is -1"):
        detect(e, -1)
    with pytest.raises(PogsonValueError, match="'conv' or 'matched'"):
        detect(e, filter_type="best")
    with pytest.raises(MaskedDataError):
        detect(e.with_(mask=np.full(BOX.shape, BITS.value("BAD"), np.uint32)))
    assert len(detect(e.with_(image=np.zeros(BOX.shape)))) == 0


def test_crowded_image_gets_a_larger_buffer(rng):
    import sep

    before = sep.get_extract_pixstack()
    sep.set_extract_pixstack(1000)
    try:
        found = detect(scene(X, Y, FLUX * 100), 1.0)
        assert sep.get_extract_pixstack() == 1000  # the library's state is left as it was
    finally:
        sep.set_extract_pixstack(before)
    assert len(found) >= 3


# -- forced apertures -------------------------------------------------------------------------
def test_fluxes_equal_enclosed_energy_times_total_in_either_measure():
    e = scene(X, Y, FLUX)
    expected = FLUX * PSF.enclosed_energy(5.0, "exact", x=X, y=Y)
    for exposure in (e, e.to("surface_brightness")):
        table = measure_sources(exposure, x=X, y=Y, references=[R5, FluxReference.psf()])
        np.testing.assert_allclose(table["flux_aperture_5px_exact"], expected, rtol=2e-6)
        np.testing.assert_allclose(table["flux_psf"], FLUX, rtol=2e-6)
        meta = table["flux_aperture_5px_exact"].info.meta
        assert FluxReference.from_dict(meta["reference"]) == R5
        assert meta["measure"] == "fluence"
        assert table["flux_psf"].unit == e.unit
        assert not table["flags"].any()


def test_sky_apertures_follow_the_jacobian():
    sky = FitsSkyMap.tan(30.0, -20.0, x=200.0, y=150.0, scale_arcsec=0.25, rotation_deg=30)
    e = scene(X, Y, FLUX, sky=0.0).with_(sky=sky)
    reference = FluxReference.aperture(1.25, "sky")
    table = measure_sources(e, x=X, y=Y, references=[reference, R5])
    np.testing.assert_allclose(
        table[f"flux_{reference.slug}"], table["flux_aperture_5px_exact"], rtol=1e-5
    )
    with pytest.raises(MissingDataError, match="sized on the sky"):
        measure_sources(e.with_(sky=None), x=X, y=Y, references=[reference])


def test_catalogue_can_be_calibrated():
    table = measure_sources(scene(X, Y, FLUX), x=X, y=Y, references=[R5])
    calib = PhotoCalib.constant(3.0, reference=R5)
    out = calib.calibrate_catalog(table)
    np.testing.assert_allclose(
        out["njy_aperture_5px_exact"], 3.0 * table["flux_aperture_5px_exact"]
    )
    np.testing.assert_allclose(
        out["njy_aperture_5px_exact_err"], 3.0 * table["flux_aperture_5px_exact_err"]
    )


def test_surface_brightness_without_areas_is_refused():
    e = scene(X, Y, FLUX, measure="surface_brightness", area_ratio=None)
    with pytest.raises(MeasureError, match=r"with_area_ratio\(\)"):
        measure_sources(e, x=X, y=Y, references=[R5])
    with pytest.raises(MeasureError, match="PSF photometry needs fluence"):
        psf_flux(e, x=X, y=Y)


def test_references_are_checked():
    e = scene(X, Y, FLUX)
    with pytest.raises(ReferenceMismatchError, match="total flux cannot be measured"):
        measure_sources(e, x=X, y=Y, references=[FluxReference.total()])
    with pytest.raises(ReferenceMismatchError, match="listed twice"):
        measure_sources(e, x=X, y=Y, references=[R5, R5])
    with pytest.raises(PogsonValueError, match="empty"):
        measure_sources(e, x=X, y=Y, references=[])
    with pytest.raises(PogsonValueError, match="equally long"):
        measure_sources(e, x=X, y=Y[:2], references=[R5])
    with pytest.raises(PogsonValueError, match="allowed: 'attached'"):
        measure_sources(e, x=X, y=Y, references=[R5], background="local")
    with pytest.raises(PogsonValueError, match="inner < outer"):
        LocalAnnulus(5, 5)


def test_flags_say_what_happened_and_no_row_is_dropped():
    x = np.array([150.0, 200.0, 250.0, 300.0, 101.0, np.nan, 1e4, 350.0, 353.0])
    y = np.array([100.0, 100.0, 100.0, 100.0, 100.0, 100.0, 100.0, 200.0, 200.0])
    mask = np.zeros(BOX.shape, np.uint32)
    mask[50, 52] = BITS.value("COSMIC_RAY")
    mask[50, 100] = BITS.value("SATURATED")
    mask[40:62, 140:162] = BITS.value("NO_DATA")
    mask[51, 201] = BITS.value("SUSPECT")
    e = scene(x[:5], y[:5], 1e4).with_(mask=mask)
    table = measure_sources(
        e, x=x, y=y, references=[R5, FluxReference.psf()], ids=list("abcdefghi")
    )
    f = [SourceFlag(int(v)) for v in table["flags"]]
    assert SourceFlag.BAD_PIXEL in f[0]
    assert SourceFlag.SATURATED in f[1]
    assert SourceFlag.NO_DATA | SourceFlag.ALL_MASKED in f[2]
    assert f[3] == SourceFlag.SUSPECT
    assert SourceFlag.EDGE in f[4]
    assert f[5] == SourceFlag.BAD_POSITION
    assert SourceFlag.OUTSIDE in f[6]
    assert f[7] == f[8] == SourceFlag.NEIGHBOR
    flux = np.asarray(table["flux_aperture_5px_exact"])
    assert np.isnan(flux[[2, 5, 6]]).all()
    assert np.isnan(np.asarray(table["flux_aperture_5px_exact_err"])[[2, 5, 6]]).all()
    assert np.isfinite(flux[[0, 1, 3, 4, 7, 8]]).all()
    assert table["flux_aperture_5px_exact_masked"][0] == pytest.approx(1 / (25 * np.pi), rel=1e-6)
    assert table["id"].tolist() == list("abcdefghi")
    assert table.meta["flag_counts"]["NEIGHBOR"] == 2
    # the PSF fit loses nothing to one masked pixel
    assert table["flux_psf"][0] == pytest.approx(1e4, rel=1e-5)


def test_local_background_is_flat_in_surface_brightness():
    e = scene(X, Y, 0.0, sky=500.0)
    table = measure_sources(
        e, x=X, y=Y, references=[R5, FluxReference.psf()], background=LocalAnnulus(12, 25)
    )
    np.testing.assert_allclose(table["local_background"], 500.0, rtol=1e-6)
    # the area ratio is linear, so nothing is left but the rounding of float32
    np.testing.assert_allclose(table["flux_aperture_5px_exact"], 0.0, atol=40000 * 2e-6)
    np.testing.assert_allclose(table["flux_psf"], 0.0, atol=40000 * 2e-6)
    # in fluence, the annulus of a tilted sky is as good only because its mean is taken on both
    # sides; near an edge it is not
    edge = measure_sources(
        e, x=[103.0], y=[150.0], references=[R5], background=LocalAnnulus(12, 25)
    )
    assert edge["local_background"][0] == pytest.approx(500.0, rel=1e-6)


def test_annulus_on_the_sky_and_with_too_few_pixels():
    sky = FitsSkyMap.tan(30.0, -20.0, x=200.0, y=150.0, scale_arcsec=0.25)
    e = scene(X, Y, 0.0, sky=500.0).with_(sky=sky)
    table = measure_sources(e, x=X, y=Y, references=[R5], background=LocalAnnulus(3, 6, "sky"))
    np.testing.assert_allclose(table["local_background"], 500.0, rtol=1e-6)
    few = measure_sources(
        e, x=X, y=Y, references=[R5], background=LocalAnnulus(12, 12.2, min_pixels=500)
    )
    assert np.all(few["flags"] & int(SourceFlag.LOCAL_BACKGROUND))


# -- variance ---------------------------------------------------------------------------------
def squared_weight_sums(image, x, y, radius):
    """Sums of w^2 and w^2 I with weights from 200 x 200 sub-pixels, by numpy alone."""
    n, half = 200, int(radius) + 2
    sub = (np.arange((2 * half + 1) * n) + 0.5) / n - 0.5 - half
    out = []
    for xc, yc in zip(x, y, strict=True):
        ix, iy = round(xc), round(yc)
        inside = (sub + ix - xc)[None, :] ** 2 + (sub + iy - yc)[:, None] ** 2 < radius**2
        w = inside.reshape(2 * half + 1, n, 2 * half + 1, n).mean(axis=(1, 3))
        pixels = image[Box(ix - half, iy - half, 2 * half + 1, 2 * half + 1).slices(BOX)]
        out.append((np.sum(w**2), np.sum(w**2 * pixels)))
    return np.array(out).T


@pytest.mark.parametrize("background", [None, LocalAnnulus(12, 25)])
@pytest.mark.parametrize("operator", ["exact", "sinc"])
def test_sky_errors_do_not_know_how_bright_a_star_is(background, operator):
    """The errors of bright stars, less their photons, are those of an empty sky."""
    gain, sky = 2.0, (0.0 if background is None else 50.0)
    references = [FluxReference.aperture(5.0, operator=operator), FluxReference.psf()]
    errors = []
    for brightness in (0.0, 1.0, 1e5):
        e = scene(X, Y, 300.0 * brightness, sky=sky)
        light = e.image - sky * RATIO.render()
        e = e.with_(variance=9.0 + light / gain, metadata={"gain": gain})
        table = measure_sources(e, x=X, y=Y, references=references, background=background)
        errors.append([np.asarray(table[f"flux_{r.slug}_err_sky"]) for r in references])
    # the wings of a star are in its annulus and raise the error of the local level a little
    np.testing.assert_allclose(errors[1], errors[0], rtol=1e-4 if background is None else 1e-3)
    if background is None:
        # photon noise is 500 times that of the sky: what is left shows the float32 of the plane
        np.testing.assert_allclose(errors[2], errors[0], rtol=0.05)


def test_errors_with_and_without_source_noise():
    gain = 2.0
    base = scene(X, Y, FLUX)
    # sums with the squares of the weights, for pixels on the rim count with w < 1
    square_area, light = squared_weight_sums(base.image, X, Y, 5.0)
    sky_only = np.sqrt(9.0 * square_area)
    total = np.sqrt(9.0 * square_area + light / gain)
    for variance, meta in (
        (np.full(BOX.shape, 9.0), {"gain": gain, "variance_includes_sources": False}),
        (9.0 + base.image / gain, {"gain": gain}),
    ):
        e = base.with_(variance=variance, metadata=meta)
        table = measure_sources(e, x=X, y=Y, references=[R5])
        np.testing.assert_allclose(table["flux_aperture_5px_exact_err"], total, rtol=3e-5)
        np.testing.assert_allclose(table["flux_aperture_5px_exact_err_sky"], sky_only, rtol=3e-5)
        assert table.meta["gain_from"] == "metadata"
        assert table.meta["source_noise"] == "included"
    unknown = measure_sources(
        base.with_(metadata={"variance_includes_sources": False}), x=X, y=Y, references=[R5]
    )
    assert "not included" in unknown.meta["source_noise"]
    none = measure_sources(base.with_(variance=None), x=X, y=Y, references=[R5])
    assert np.isnan(none["flux_aperture_5px_exact_err"]).all()
    sky = Background(ConstantField(BOX, 0.0, "adu"), ConstantField(BOX, 3.0, "adu"), RATIO)
    from_rms = measure_sources(
        base.with_(variance=None).with_background(sky), x=X, y=Y, references=[R5]
    )
    assert from_rms.meta["variance_from"] == "background rms"
    assert np.isfinite(from_rms["flux_aperture_5px_exact_err"]).all()


def test_gain_is_estimated_from_the_variance_plane(rng):
    x, y = rng.uniform(130, 370, 40), rng.uniform(80, 280, 40)
    e = scene(x, y, 5e4)
    noisy = e.image + rng.normal(0, 1, BOX.shape) * np.sqrt(e.image / 3.0 + 9.0)
    # planes computed from the noisy pixels, as pipelines do, and from the model
    for plane in (np.maximum(noisy, 0) / 3.0 + 9.0, e.image / 3.0 + 9.0):
        gain, err = estimate_gain(e.with_(image=noisy, variance=plane))
        assert gain == pytest.approx(3.0, rel=0.03)
        assert err < 0.1
    with pytest.raises(CalibrationError, match=r"no gain can be derived|bright enough"):
        estimate_gain(e.with_(image=noisy, variance=np.full(BOX.shape, 9.0)))
    with pytest.raises(CalibrationError, match="bright enough"):
        estimate_gain(e.with_(image=np.zeros(BOX.shape)))
    with pytest.raises(MissingDataError):
        estimate_gain(e.with_(variance=None))


@pytest.mark.parametrize("measure", ["fluence", "surface_brightness"])
def test_estimate_variance_adds_and_removes_source_noise(measure):
    e = scene(X, Y, FLUX)
    with_sources = 9.0 + e.image / 2.0
    e = e.with_(variance=with_sources, metadata={"gain": 2.0}).to(measure)
    scale = 1.0 if measure == "fluence" else RATIO.render() ** -2
    sky = estimate_variance(e, include_sources=False)
    bright = e.to("fluence").image > 12.0
    np.testing.assert_allclose(sky.variance[bright], (9.0 * scale * np.ones(BOX.shape))[bright],
                               rtol=1e-4)  # fmt: skip
    again = estimate_variance(
        e.with_(variance=sky.variance, metadata={"gain": 2.0, "variance_includes_sources": False})
    )
    np.testing.assert_allclose(again.variance, e.variance, rtol=1e-4)
    assert estimate_variance(e).variance_from == "variance plane"
    with pytest.raises(MissingDataError, match="the gain is needed"):
        estimate_variance(e.with_(metadata={}), include_sources=False)
    with pytest.raises(MissingDataError, match="neither a variance nor a background"):
        estimate_variance(e.with_(variance=None))
    with pytest.raises(PogsonValueError, match="gain is 0"):
        estimate_variance(e, gain=0)


# -- PSF fluxes -------------------------------------------------------------------------------
@pytest.mark.parametrize("weighting", ["uniform", "variance"])
@pytest.mark.parametrize("local", [False, True])
def test_psf_flux_with_masks_and_background(weighting, local):
    e = scene(X, Y, FLUX, sky=40.0 if local else 0.0)
    mask = np.zeros(BOX.shape, np.uint32)
    mask[:, ::7] = BITS.value("BAD")
    e = e.with_(mask=mask)
    table = psf_flux(e, x=X, y=Y, weighting=weighting, local_background=local)
    np.testing.assert_allclose(table["flux_psf"], FLUX, rtol=3e-5)
    assert np.all(table["flags"] & int(SourceFlag.BAD_PIXEL))
    assert np.all(table["chi2"] < 1.0)  # noiseless
    if local:
        np.testing.assert_allclose(table["local_background"], 40.0, rtol=1e-4)
    meta = table["flux_psf"].info.meta
    assert FluxReference.from_dict(meta["reference"]).kind == "psf"


def test_psf_flux_flags_and_refusals():
    e = scene(X, Y, FLUX)
    mask = np.zeros(BOX.shape, np.uint32)
    mask[20:60, 30:70] = BITS.value("BAD")
    table = psf_flux(e.with_(mask=mask), x=[150.3, np.nan, 99.0], y=[90.2, 90.0, 100.0])
    f = [SourceFlag(int(v)) for v in table["flags"]]
    assert SourceFlag.POOR_FIT in f[0]
    assert f[1] == SourceFlag.BAD_POSITION
    assert SourceFlag.EDGE | SourceFlag.PSF_TRUNCATED in f[2]
    assert np.isnan(table["flux_psf"][:2]).all()
    with pytest.raises(MissingDataError, match="need a PSF"):
        psf_flux(e.with_(psf=None), x=X, y=Y)
    with pytest.raises(MissingDataError, match="needs a variance"):
        psf_flux(e.with_(variance=None), x=X, y=Y, weighting="variance")
    with pytest.raises(PogsonValueError, match="'uniform' or 'variance'"):
        psf_flux(e, x=X, y=Y, weighting="best")


# -- growth and corrections -------------------------------------------------------------------
def test_curve_of_growth_is_the_enclosed_energy_of_the_psf():
    e = scene(X, Y, FLUX).with_(
        sky=FitsSkyMap.tan(30.0, -20.0, x=200.0, y=150.0, scale_arcsec=0.25)
    )
    for frame, radii in (("pixel", [2, 4, 8, 12]), ("sky", [0.5, 1.0, 2.0, 3.0])):
        growth = curve_of_growth(e, x=X, y=Y, radii=radii, frame=frame)
        np.testing.assert_allclose(growth.fraction, growth.model, atol=5e-4)
        assert growth.fraction[-1] == 1.0
        assert growth.n_stars == 3
        assert np.all(growth.scatter < 0.01)
        assert np.all(np.diff(growth.magnitude) < 0)
    sinc = curve_of_growth(e, x=X, y=Y, radii=[2, 12], operator=ApertureOperator.sinc())
    assert sinc.fraction[0] != pytest.approx(growth.fraction[0], abs=1e-3)
    with pytest.raises(MaskedDataError, match="None of the 1 stars"):
        curve_of_growth(e, x=[101.0], y=[60.0], radii=[4])
    with pytest.raises(PogsonValueError, match="positive"):
        curve_of_growth(e, x=X, y=Y, radii=[-1, 3])


SMALL, LARGE = FluxReference.aperture(4.0), FluxReference.aperture(12.0)


def correction_table(rng, n=400, scatter=0.004, noise=0.003, outliers=8):
    box = Box(0, 0, 1000, 1000)
    x, y = rng.uniform(0, 999, (2, n))
    truth = ChebyshevField(box, [[1.25, 0.02], [-0.03, 0.0]])
    flux = 10 ** rng.uniform(3, 4, n)
    ratio = truth(x=x, y=y) * (1 + rng.normal(0, scatter, n) / 1.25)
    large = flux * ratio + flux * rng.normal(0, noise, n)
    large[:outliers] *= 1.3
    table = Table({"x": x, "y": y, "flags": np.zeros(n, int)})
    table[f"flux_{SMALL.slug}"], table[f"flux_{LARGE.slug}"] = flux, large
    # nothing shared: var(large) = (noise f)^2 + 2 ratio ... as the formula wants it
    table[f"flux_{SMALL.slug}_err"] = np.zeros(n)
    table[f"flux_{LARGE.slug}_err"] = noise * flux
    return box, truth, table


def test_aperture_correction_field_scatter_and_covariance(rng):
    box, truth, table = correction_table(rng)
    fit = fit_aperture_correction(table, SMALL, LARGE, box=box, order=1)
    assert fit.n_rejected >= 8
    assert not fit.used[:8].any()
    # standard error of a standard deviation sigma_tot/sqrt(2n), propagated; 5 sigma
    assert fit.intrinsic_scatter == pytest.approx(0.004, abs=5 * 0.005**2 / 0.004 / np.sqrt(800))
    x, y = np.array([100.0, 500.0, 900.0]), np.array([900.0, 500.0, 300.0])
    pull = (fit.ratio(x=x, y=y) - truth(x=x, y=y)) / fit.ratio_error(x=x, y=y)
    assert np.all(np.abs(pull) < 4.5)
    assert fit.ratio_error(x=500.0, y=500.0)[0] == pytest.approx(0.005 / np.sqrt(392), rel=0.25)
    out = fit.apply([100.0, 200.0, 300.0], [1.0, 2.0, 3.0], x=x, y=y)
    np.testing.assert_allclose(out["flux"], [100, 200, 300] * fit.ratio(x=x, y=y))
    np.testing.assert_allclose(out["flux_err"], [1, 2, 3] * fit.ratio(x=x, y=y))
    covariance = fit.flux_covariance([100.0, 200.0, 300.0], x=x, y=y)
    np.testing.assert_allclose(np.sqrt(np.diag(covariance)), out["common_err"])
    assert covariance[0, 1] != 0
    again = ApertureCorrection.from_dict(fit.to_dict())
    assert again.ratio == fit.ratio


def test_aperture_correction_flags_what_cannot_be_corrected(rng):
    box, _, table = correction_table(rng)
    fit = fit_aperture_correction(table, SMALL, LARGE, box=box, order=1)
    out = fit.apply([1.0, 1.0], x=[500.0, 5000.0], y=[500.0, 500.0])
    assert out["flags"].tolist() == [0, int(SourceFlag.APERTURE_CORRECTION)]
    assert np.isnan(out["flux"][1])
    with pytest.raises(CalibrationError, match="Only 2 of 2 stars"):
        fit_aperture_correction(table[8:10], SMALL, LARGE, box=box, order=1)
    with pytest.raises(MissingDataError, match="flux_aperture_9px_exact"):
        fit_aperture_correction(table, FluxReference.aperture(9), LARGE, box=box)
    flagged = table.copy()
    flagged["flags"][::2] = int(SourceFlag.SATURATED)
    assert not fit_aperture_correction(flagged, SMALL, LARGE, box=box, order=1).used[::2].any()
