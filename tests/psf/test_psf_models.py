"""Every kind of PSF keeps one contract, and draws what its formula says."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pogson.errors import BoundsError, FileFormatError, PogsonTypeError, PogsonValueError
from pogson.fields import Box, ChebyshevField
from pogson.psf import (
    ApertureOperator,
    GaussianPSF,
    KolmogorovPSF,
    MoffatPSF,
    PixelFrame,
    PixelGridPSF,
    PsfNormalization,
    SkyFrame,
    gaussian_enclosed_energy,
    kolmogorov_enclosed_energy,
    moffat_enclosed_energy,
    psf_from_dict,
)
from pogson.psf.profiles import kolmogorov_profile, moffat_alpha
from pogson.psf.sampling import sample_psf
from pogson.sky import FitsSkyMap

BOX = Box(0, 0, 400, 300)
X, Y = np.array([100.3, 250.0, 17.5]), np.array([80.75, 120.49, 200.5])


def build(kind):
    fwhm = ChebyshevField(BOX, [[3.5, 0.2], [0.1, 0.05]])
    if kind == "gaussian":
        return GaussianPSF(fwhm, 0.05, 0.03)
    if kind == "moffat":
        return MoffatPSF(fwhm, 3.0, e2=-0.05)
    if kind == "kolmogorov":
        return KolmogorovPSF(3.2, box=BOX)
    if kind == "moffat in aperture":
        return MoffatPSF(fwhm, 2.8, normalization=PsfNormalization("aperture", 12.0))
    if kind == "moffat in box":
        return MoffatPSF(fwhm, 2.8, normalization=PsfNormalization("box", 20))
    if kind == "grid":
        return sample_psf(MoffatPSF(fwhm, 3.0), BOX, degree=2, half_size=15).psf
    samples = MoffatPSF(4.0, 3.0).draw(x=0, y=0, half_size=12).image
    sky = FitsSkyMap.tan(50.0, 10.0, x=100.0, y=100.0, scale_arcsec=0.25, rotation_deg=30.0)
    frame = SkyFrame(sky, 50.05, 10.02, 0.3)
    return PixelGridPSF([samples, 1e-6 * samples], [[0, 0], [1, 0]], frame, box=BOX)


KINDS = [
    "gaussian",
    "moffat",
    "kolmogorov",
    "moffat in aperture",
    "moffat in box",
    "grid",
    "grid on sky",
]


@pytest.fixture(scope="module", params=KINDS)
def psf(request):
    return build(request.param)


def test_draw_and_draw_many_agree(psf):
    stamps, x_min, y_min = psf.draw_many(x=X, y=Y, half_size=10)
    assert stamps.shape == (3, 21, 21)
    for k in range(3):
        one = psf.draw(x=X[k], y=Y[k], half_size=10)
        np.testing.assert_allclose(one.image, stamps[k], rtol=0, atol=1e-15)
        assert (one.box.x_min, one.box.y_min) == (x_min[k], y_min[k])
        assert one.box.center == (np.floor(X[k] + 0.5), np.floor(Y[k] + 0.5))
        with pytest.raises(ValueError, match="read-only"):
            one.image[0, 0] = 1.0
    # the light sits on the star
    column, row = np.arange(21), np.arange(21)[:, None]
    total = stamps.sum(axis=(1, 2))
    np.testing.assert_allclose((stamps * column).sum(axis=(1, 2)) / total + x_min, X, atol=0.06)
    np.testing.assert_allclose((stamps * row).sum(axis=(1, 2)) / total + y_min, Y, atol=0.06)


def test_default_stamp_holds_nearly_all_light(psf):
    sums = psf.draw_many(x=X, y=Y)[0].sum(axis=(1, 2))
    if psf.normalization.kind == "total":
        np.testing.assert_allclose(sums, 1.0, atol=4e-3)
    else:
        assert (np.abs(sums - 1) < 0.02).all()


def test_normalization_means_what_it_says(psf):
    norm = psf.normalization
    if norm.kind == "aperture":
        np.testing.assert_allclose(psf.enclosed_energy(norm.radius, x=X, y=Y), 1.0, atol=1e-12)
    elif norm.kind == "box" and norm.radius is not None:
        sums = psf.draw_many(x=X, y=Y, half_size=int(norm.radius))[0].sum(axis=(1, 2))
        np.testing.assert_allclose(sums, 1.0, atol=1e-12)
    elif norm.kind == "box":
        np.testing.assert_allclose(psf.samples(x=X, y=Y).sum(axis=(1, 2)), 1.0, atol=1e-12)


@pytest.mark.parametrize("name", ["exact", "sinc", "center", "subpixel5"])
def test_enclosed_energy_is_what_the_operator_returns(psf, name):
    operator = ApertureOperator.parse(name)
    radii = [2.0, 5.5, 9.0]
    table = psf.enclosed_energy(radii, operator, x=X, y=Y)
    assert table.shape == (3, 3)
    a, b, theta = np.array([5.0, 6.0, 7.0]), 4.0, np.array([0.1, 0.2, -1.0])
    ellipse = psf.enclosed_energy(operator=name, x=X, y=Y, a=a, b=b, theta=theta)
    for k in range(3):
        image, box = psf.draw(x=X[k], y=Y[k], half_size=60)
        where = {"x": X[k], "y": Y[k], "x_min": box.x_min, "y_min": box.y_min}
        for r, radius in enumerate(radii):
            want = operator.sum(image, a=radius, **where).flux
            assert table[k, r] == pytest.approx(want, abs=1e-12)
        # a box of sinc coefficients depends on the largest axis of the call
        tolerance = 2e-5 if name == "sinc" else 1e-12
        want = operator.sum(image, a=a[k], b=b, theta=theta[k], **where).flux
        assert ellipse[k] == pytest.approx(want, abs=tolerance)
    scalar = psf.enclosed_energy(5.5, operator, x=X[0], y=Y[0])
    assert isinstance(scalar, float)
    assert scalar == pytest.approx(table[0, 1], abs=1e-12)
    assert psf.enclosed_energy(5.5, operator, x=X, y=Y).shape == (3,)
    assert psf.enclosed_energy(radii, operator, x=X[0], y=Y[0]).shape == (3,)


def test_mean_phase_averages_the_source_phase(psf):
    mean = psf.enclosed_energy(3.0, "center", x=100.0, y=80.0, phase="mean")
    shifts = (np.arange(4) + 0.5) / 4 - 0.5
    gx, gy = (g.ravel() for g in np.meshgrid(shifts, shifts))
    each = psf.enclosed_energy(3.0, "center", x=100.0 + gx, y=80.0 + gy)
    assert np.ptp(each) > 1e-3
    assert mean == pytest.approx(each.mean(), abs=1e-9)
    # a position on the very edge of the box is still inside
    edge = psf.enclosed_energy(3.0, x=399.5, y=-0.5, phase="mean")
    assert edge == pytest.approx(psf.enclosed_energy(3.0, x=399.0, y=0.0), abs=0.02)


def test_width_and_effective_area(psf):
    width = psf.fwhm(x=X, y=Y)
    assert width.shape == (3,)
    assert ((width > 2.5) & (width < 6)).all()
    area = psf.effective_area(x=X[0], y=Y[0])
    image = psf.draw(x=X[0], y=Y[0]).image
    assert area == pytest.approx(1 / np.sum(image**2))
    assert area > 0.8 * np.pi / 4 * width[0] ** 2


def test_round_trips_equality_identifier_and_immutability(psf):
    again = psf_from_dict(json.loads(json.dumps(psf.to_dict())))
    assert again == psf
    assert hash(again) == hash(psf)
    assert again.identifier == psf.identifier
    for other in (pickle.loads(pickle.dumps(psf)), copy.copy(psf), copy.deepcopy(psf)):
        assert other == psf
        np.testing.assert_array_equal(
            other.draw(x=50.2, y=60.1, half_size=5).image,
            psf.draw(x=50.2, y=60.1, half_size=5).image,
        )
    assert psf != GaussianPSF(2.0)
    assert psf != "a PSF"
    assert type(psf).__name__ in repr(psf)
    with pytest.raises(AttributeError, match="immutable"):
        psf.anything = 1
    with pytest.raises(AttributeError, match="immutable"):
        psf._box = None


def test_outside_the_box_and_bad_positions(psf):
    assert psf.box == BOX
    with pytest.raises(BoundsError, match=r"x=-3.*outside its box"):
        psf.draw(x=-3.0, y=10.0)
    with pytest.raises(PogsonValueError, match="not a finite pixel position"):
        psf.draw(x=np.nan, y=10.0)
    with pytest.raises(PogsonValueError, match="half_size=-1"):
        psf.draw(x=3.0, y=10.0, half_size=-1)
    with pytest.raises(PogsonValueError, match="do not fit"):
        psf.draw_many(x=[1.0, 2.0], y=[1.0, 2.0, 3.0])
    with pytest.raises(PogsonValueError, match="either radius"):
        psf.enclosed_energy(x=3.0, y=10.0)
    with pytest.raises(PogsonValueError, match="either radius"):
        psf.enclosed_energy(3.0, x=3.0, y=10.0, a=2.0)
    with pytest.raises(PogsonValueError, match="radius 0 must be positive"):
        psf.enclosed_energy(0.0, x=3.0, y=10.0)
    with pytest.raises(PogsonValueError, match="Unknown phase 'here'"):
        psf.enclosed_energy(3.0, x=3.0, y=10.0, phase="here")


def test_no_sources_give_empty_arrays(psf):
    stamps, x_min, _ = psf.draw_many(x=[], y=[])
    assert stamps.shape[0] == x_min.size == 0
    assert psf.enclosed_energy([3.0, 4.0], x=[], y=[]).shape == (0, 2)


# -- truth --------------------------------------------------------------------------------------
def quadratic(e1, e2):
    norm = 1 / np.sqrt(1 - e1**2 - e2**2)
    return lambda u, v: norm * ((1 - e1) * u**2 - 2 * e2 * u * v + (1 + e1) * v**2)


def integrate_pixels(profile, x, y, half, nodes=24):
    """Integrate a profile over pixels with Gauss-Legendre nodes, as the truth."""
    t, w = np.polynomial.legendre.leggauss(nodes)
    i = np.arange(-half, half + 1)
    u = (np.floor(x + 0.5) - x + i)[:, None] + t / 2
    v = (np.floor(y + 0.5) - y + i)[:, None] + t / 2
    values = profile(u[None, :, None, :], v[:, None, :, None])
    return np.einsum("jiqp,q,p->ji", values, w / 2, w / 2)


@settings(max_examples=25)
@given(
    fwhm=st.floats(1.0, 9.0),
    beta=st.floats(1.3, 12.0),
    x=st.floats(-0.5, 0.5),
    y=st.floats(-0.5, 0.5),
    e=st.floats(0.0, 0.5),
    angle=st.floats(0.0, 3.2),
)
def test_pixels_are_integrals_to_a_millionth_of_the_peak(fwhm, beta, x, y, e, angle):
    e1, e2 = e * np.cos(2 * angle), e * np.sin(2 * angle)
    q = quadratic(e1, e2)
    alpha = moffat_alpha(fwhm, beta)
    sigma = fwhm / 2.3548200450309493

    def moffat(u, v):
        return (beta - 1) / (np.pi * alpha**2) * (1 + q(u, v) / alpha**2) ** -beta

    def gaussian(u, v):
        return np.exp(-q(u, v) / (2 * sigma**2)) / (2 * np.pi * sigma**2)

    for made, profile in (
        (MoffatPSF(fwhm, beta, e1, e2), moffat),
        (GaussianPSF(fwhm, e1, e2), gaussian),
    ):
        truth = integrate_pixels(profile, x, y, 12)
        error = np.abs(made.draw(x=x, y=y, half_size=12).image - truth).max() / truth.max()
        assert error < 1e-6, (made, error)


def test_kolmogorov_pixels_are_integrals():
    q = quadratic(0.1, -0.15)
    for fwhm in (1.5, 4.0):

        def profile(u, v, fwhm=fwhm):
            return kolmogorov_profile(np.sqrt(q(u, v)), fwhm)

        truth = integrate_pixels(profile, 0.2, -0.35, 4, nodes=12)
        image = KolmogorovPSF(fwhm, 0.1, -0.15).draw(x=0.2, y=-0.35, half_size=4).image
        assert np.abs(image - truth).max() < 1e-6 * truth.max()


def test_enclosed_energies_of_the_literature():
    # FWHM 4, R = 12
    assert gaussian_enclosed_energy(12.0, 4.0) == pytest.approx(1.0, abs=1e-6)
    for beta, want in ((4.765, 0.99920), (3.0, 0.99068), (2.5, 0.97738)):
        assert moffat_enclosed_energy(12.0, 4.0, beta) == pytest.approx(want, abs=6e-6)
    assert kolmogorov_enclosed_energy(12.0, 4.0) == pytest.approx(0.98406, abs=1.1e-5)
    assert kolmogorov_enclosed_energy(50.0, 4.0) == pytest.approx(0.99855, abs=1.1e-4)
    # the asymptotic series joins the integral smoothly
    below, above = kolmogorov_enclosed_energy(np.array([60.0, 60.001]), 2.9076) * 1.0
    assert 0 < above - below < 1e-6
    # profile and enclosed energy are one function
    r = np.linspace(0, 30, 6001)
    p = 2 * np.pi * r * kolmogorov_profile(r, 4.0)
    total = np.sum(0.5 * (p[1:] + p[:-1]) * np.diff(r))
    assert total == pytest.approx(float(kolmogorov_enclosed_energy(30.0, 4.0)), abs=1e-6)


def test_pixel_enters_once_in_the_psf_and_once_more_in_the_exact_sum():
    """Bias against the textbook EE: pixel convolution, then the box smoothing of the sum."""
    psf = MoffatPSF(3.5, 3.0)
    t, w = np.polynomial.legendre.leggauss(6)
    gx, gy = (g.ravel() / 2 for g in np.meshgrid(t, t))
    weights = (w[:, None] * w[None, :]).ravel() / 4
    published = {2.0: (22, 22), 4.0: (5.0, 5.1), 6.0: (1.1, 1.15), 12.0: (0.04, 0.04)}
    for radius, (pixel, extra) in published.items():
        textbook = moffat_enclosed_energy(radius, 3.5, 3.0)
        sinc = np.sum(weights * psf.enclosed_energy(radius, "sinc", x=gx, y=gy))
        exact = np.sum(weights * psf.enclosed_energy(radius, "exact", x=gx, y=gy))
        assert -2500 * np.log10(sinc / textbook) == pytest.approx(pixel, rel=0.06, abs=0.01)
        assert -2500 * np.log10(exact / sinc) == pytest.approx(extra, rel=0.06, abs=0.015)


def test_phase_scatter_of_the_operators(rng):
    psf = MoffatPSF(3.5, 3.0)
    x, y = rng.uniform(-0.5, 0.5, (2, 400))
    published = {"exact": 0.55, "subpixel5": 0.86, "center": 7.1, "sinc": 0.02}
    for name, want in published.items():
        values = psf.enclosed_energy(4.0, name, x=x, y=y)
        scatter = 1085.7 * np.std(values) / values.mean()
        # rms of 400 draws is good to 4 %; the published figures have two digits
        assert scatter == pytest.approx(want, rel=0.25, abs=0.015), name


def test_agrees_with_galsim():
    galsim = pytest.importorskip("galsim")
    gs = galsim.GSParams(
        maximum_fft_size=16384,
        folding_threshold=1e-4,
        kvalue_accuracy=1e-8,
        maxk_threshold=1e-6,
        xvalue_accuracy=1e-8,
    )
    pairs = [
        (galsim.Moffat(fwhm=3.5, beta=3.0).shear(e1=0.1, e2=0.05), MoffatPSF(3.5, 3.0, 0.1, 0.05)),
        (galsim.Kolmogorov(fwhm=3.5), KolmogorovPSF(3.5)),
        (galsim.Gaussian(fwhm=2.5).shear(e1=-0.2, e2=0.1), GaussianPSF(2.5, -0.2, 0.1)),
    ]
    for theirs, ours in pairs:
        image = galsim.ImageD(41, 41, scale=1)
        theirs.withGSParams(gs).drawImage(image, offset=(0.3, -0.2))
        stamp = ours.draw(x=0.3, y=-0.2, half_size=20).image
        assert np.abs(image.array - stamp).max() < 1e-6 * stamp.max()
    r = np.array([0.0, 1.0, 3.0, 6.0])
    theirs = [galsim.Kolmogorov(fwhm=4.0).xValue(v, 0) for v in r]
    np.testing.assert_allclose(kolmogorov_profile(r, 4.0), theirs, rtol=1e-5)


def test_parameters_follow_their_fields():
    fwhm = ChebyshevField(BOX, [[3.5, 0.5]])
    psf = MoffatPSF(fwhm, 3.0)
    assert psf.box == BOX
    near, far = psf.fwhm(x=[0.0, 399.0], y=100.0)
    assert far - near == pytest.approx(1.0, abs=0.01)
    fixed = MoffatPSF(float(fwhm(x=300.25, y=40.0)), 3.0)
    np.testing.assert_array_equal(
        psf.draw(x=300.25, y=40.0, half_size=9).image,
        fixed.draw(x=300.25, y=40.0, half_size=9).image,
    )
    small = MoffatPSF(fwhm, 3.0, box=Box(100, 100, 50, 50))
    with pytest.raises(BoundsError):
        small.draw(x=90.0, y=120.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MoffatPSF(4.0, 1.0), "beta=1 must be from 1.05.*infinite"),
        (lambda: MoffatPSF(0.0, 3.0), "fwhm=0 must be from 0.2 to 200.0 pixels"),
        (lambda: GaussianPSF(np.nan), "fwhm=nan"),
        (lambda: GaussianPSF(3.0, 0.8, 0.6), r"\|e\|=1 must be at most 0.95"),
        (lambda: GaussianPSF(3.0, e2=0.97), r"\|e\|=0.97"),
        (lambda: GaussianPSF("wide"), "'wide' must be a number or a Field"),
        (lambda: MoffatPSF(4.0, 3.0).parameter("gamma", x=0, y=0), "no parameter 'gamma'"),
        (lambda: PsfNormalization("sum"), "'sum'; allowed: 'total', 'box' or 'aperture'"),
        (lambda: PsfNormalization("aperture"), "needs its radius"),
        (lambda: PsfNormalization("total", 3.0), "has no radius"),
        (lambda: PsfNormalization("box", 3.5), "whole pixels"),
        (lambda: PsfNormalization("aperture", -1.0), "radius=-1.0 must be positive"),
        (lambda: psf_from_dict({"kind": "airy"}), "Unknown PSF kind 'airy'"),
        (lambda: psf_from_dict({"kind": "moffat", "fwhm": 2.0}), "has no 'beta'"),
        (lambda: psf_from_dict([1]), "must be a mapping"),
        (lambda: PixelGridPSF(np.ones(3)), r"shape \(n_terms, ny, nx\)"),
        (lambda: PixelGridPSF([[np.nan]]), "1 PSF samples are not finite"),
        (lambda: PixelGridPSF([["a"]]), "array of numbers"),
        (lambda: PixelGridPSF(np.ones((2, 3, 3))), "one pair of exponents"),
        (lambda: PixelGridPSF(np.ones((3, 3)), interpolation="cubic"), "'cubic'; allowed"),
        (lambda: PixelGridPSF(np.ones((3, 3)), center=(9, 0)), "outside the grid"),
        (lambda: PixelGridPSF(np.ones((3, 3)), frame="pixel"), "PixelFrame or SkyFrame"),
        (lambda: PixelFrame(sampling=0.0), "sampling=0.0"),
        (lambda: PixelFrame(x_scale=-1.0), "x_scale=-1.0"),
        (lambda: PixelFrame(x_zero=np.nan), "x_zero=nan"),
        (lambda: SkyFrame(None, 0, 0, 1), "must be a SkyMap"),
        (lambda: sample_psf(GaussianPSF(3.0), BOX, oversampling=0), "oversampling=0"),
    ],
)
def test_bad_parameters_are_named(call, message):
    with pytest.raises((PogsonValueError, PogsonTypeError, FileFormatError), match=message):
        call()


def test_grid_far_outside_its_fit_is_refused():
    samples = GaussianPSF(3.0).draw(x=0, y=0, half_size=8).image
    psf = PixelGridPSF([samples, -samples], [[0, 0], [1, 0]], PixelFrame(x_scale=100.0))
    psf.draw(x=50.0, y=0.0)
    with pytest.raises(PogsonValueError, match="far outside the region"):
        psf.draw(x=300.0, y=0.0)


def test_sampling_reports_an_error_that_holds(rng):
    fwhm = ChebyshevField(BOX, [[3.5, 0.3], [0.2, 0.1]])
    psf = MoffatPSF(fwhm, 3.0, 0.05)
    for kernel, limit in (("lanczos3", 5e-3), ("lagrange6", 2e-3)):
        made = sample_psf(psf, BOX, degree=3, interpolation=kernel)
        x, y = rng.uniform(5, 290, (2, 60))
        true = psf.draw_many(x=x, y=y, half_size=14)[0]
        got = made.psf.draw_many(x=x, y=y, half_size=14)[0]
        error = (np.abs(got - true).max(axis=(1, 2)) / true.max(axis=(1, 2))).max()
        assert made.max_error < limit
        assert error < 1.5 * made.max_error
        assert 0 < made.lost_light < 5e-3


@given(fx=st.floats(-0.5, 0.5), fy=st.floats(-0.5, 0.5))
@settings(max_examples=15)
def test_a_grid_whose_samples_lie_on_pixels_returns_them(fx, fy):
    samples = GaussianPSF(4.0).draw(x=0, y=0, half_size=10).image
    psf = PixelGridPSF(samples)
    stamp = psf.draw(x=50.0, y=60.0, half_size=10).image
    np.testing.assert_allclose(stamp, samples / samples.sum(), atol=1e-15)
    # the interpolation keeps the flux; Lanczos errs at 1e-3 for such a width
    assert psf.draw(x=50 + fx, y=60 + fy).image.sum() == pytest.approx(1.0, abs=3e-3)
