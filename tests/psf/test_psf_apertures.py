"""Aperture operators against analytic areas, brute force, sep and photutils."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from pogson.errors import PogsonError, PogsonTypeError, PogsonValueError
from pogson.psf import ApertureOperator, sky_circle_to_ellipse

EXACT = ApertureOperator.exact()
positions = st.floats(12.0, 27.0)
axes = st.floats(0.02, 11.0)
angles = st.floats(-4.0, 4.0)


def inside(shape, x, y, a, b, theta, factor):
    """Fraction of factor^2 points of each pixel inside the ellipse, by brute force."""
    ny, nx = shape
    step = (np.arange(factor) + 0.5) / factor - 0.5
    px = (np.arange(nx)[:, None] + step).ravel() - x
    py = (np.arange(ny)[:, None] + step).ravel() - y
    c, s = np.cos(theta), np.sin(theta)
    u = (px[None, :] * c + py[:, None] * s) / a
    v = (-px[None, :] * s + py[:, None] * c) / b
    hit = (u * u + v * v <= 1.0).reshape(ny, factor, nx, factor)
    return hit.mean(axis=(1, 3))


@given(x=positions, y=positions, a=axes, b=axes, theta=angles)
def test_exact_area_of_an_ellipse_inside_the_image_is_pi_a_b(x, y, a, b, theta):
    sums = EXACT.sum(np.ones((40, 40)), x=x, y=y, a=a, b=b, theta=theta)
    assert not sums.truncated
    assert sums.area == pytest.approx(np.pi * a * b, rel=1e-10, abs=1e-12)
    assert sums.flux == pytest.approx(np.pi * a * b, rel=1e-10, abs=1e-12)


@settings(max_examples=15)
@given(x=positions, y=positions, a=st.floats(0.5, 11.0), b=st.floats(0.5, 11.0), theta=angles)
def test_exact_weight_of_every_pixel_is_its_overlap(x, y, a, b, theta):
    ny = nx = 40
    factor = 20
    fine = inside((ny, nx), x, y, a, b, theta, factor)
    rng = np.random.default_rng(5)
    image = rng.uniform(size=(ny, nx))
    got = EXACT.sum(image, x=x, y=y, a=a, b=b, theta=theta).flux
    # a boundary pixel's fraction by counting is off by at most ~1/factor
    border = np.count_nonzero((fine > 0) & (fine < 1)) + 4
    assert abs(got - np.sum(fine * image)) < 1.5 * border**0.5 / factor


def test_exact_overlap_with_one_pixel_by_quadrature():
    rng = np.random.default_rng(11)
    for _ in range(40):
        a, b = rng.uniform(0.3, 4.0, 2)
        theta, x, y = rng.uniform(-2, 2), *rng.uniform(3.0, 7.0, 2)
        i, j = round(x + rng.uniform(-a, a)), round(y + rng.uniform(-b, b))
        image = np.zeros((11, 11))
        image[j, i] = 1.0
        c, s = np.cos(theta), np.sin(theta)
        cxx, cyy, cxy = a**2 * c**2 + b**2 * s**2, a**2 * s**2 + b**2 * c**2, (a**2 - b**2) * c * s

        def chord(py, i=i, x=x, a=a, b=b, cxx=cxx, cyy=cyy, cxy=cxy, y=y):
            t = (py - y) ** 2 / cyy
            if t >= 1:
                return 0.0
            mid = x + (py - y) * cxy / cyy
            half = a * b / np.sqrt(cyy) * np.sqrt(1 - t)
            return max(0.0, min(mid + half, i + 0.5) - max(mid - half, i - 0.5))

        grid = np.linspace(j - 0.5, j + 0.5, 20001)
        area = integrate.simpson([chord(v) for v in grid[::20]], x=grid[::20])
        assert EXACT.sum(image, x=x, y=y, a=a, b=b, theta=theta).flux == pytest.approx(
            area, abs=2e-5
        )


@given(x=positions, y=positions, a=axes, theta=angles, n=st.integers(1, 7))
def test_subpixel_and_center_count_sub_pixel_centres(x, y, a, theta, n):
    b = 0.7 * a
    image = np.random.default_rng(3).uniform(size=(40, 40))
    want = np.sum(inside(image.shape, x, y, a, b, theta, n) * image)
    operator = ApertureOperator.center() if n == 1 else ApertureOperator.subpixel(n)
    sums = operator.sum(image, x=x, y=y, a=a, b=b, theta=theta)
    if want == 0:
        assert np.isnan(sums.flux)
        assert sums.area == 0
    else:
        # a sub-pixel centre exactly on the ellipse may fall either way
        assert abs(sums.flux - want) < 1e-9 or abs(sums.flux - want) <= 4.0 / n**2


def test_agrees_with_sep(rng):
    sep = pytest.importorskip("sep")
    image = rng.normal(10.0, 3.0, (256, 256))
    n = 1500
    x, y = rng.uniform(-5, 261, (2, n))
    a = rng.uniform(0.5, 12.0, n)
    b = a * rng.uniform(0.3, 1.0, n)
    theta = rng.uniform(-np.pi / 2, np.pi / 2, n)
    cases = [
        (EXACT.sum(image, x=x, y=y, a=a), sep.sum_circle(image, x, y, a, subpix=0)),
        (
            EXACT.sum(image, x=x, y=y, a=a, b=b, theta=theta),
            sep.sum_ellipse(image, x, y, a, b, theta, 1.0, subpix=0),
        ),
        (
            ApertureOperator.subpixel(5).sum(image, x=x, y=y, a=a),
            sep.sum_circle(image, x, y, a, subpix=5),
        ),
    ]
    for ours, (flux, _, _) in cases:
        used = ours.area > 0
        # sep keeps pixels in float32: 6e-8 of each value of about 10, 450 pixels
        assert np.abs(ours.flux - flux)[used].max() < 6e-8 * 15 * 450
        assert used.sum() > 1300


def test_agrees_with_photutils(rng):
    aperture = pytest.importorskip("photutils.aperture")
    image = rng.normal(10.0, 3.0, (120, 120))
    xy = rng.uniform(15, 105, (60, 2))
    shape = aperture.EllipticalAperture(xy, 6.3, 4.1, theta=0.4)
    want = shape.do_photometry(image, method="exact")[0]
    got = EXACT.sum(image, x=xy[:, 0], y=xy[:, 1], a=6.3, b=4.1, theta=0.4).flux
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-9)


def test_variance_bad_pixels_and_truncation():
    image = np.full((30, 30), 2.0, np.float32)
    variance = np.full((30, 30), 3.0)
    bad = np.zeros((30, 30), bool)
    bad[10, 10] = True
    image[12, 11] = np.nan
    variance[9, 10] = np.inf
    sums = EXACT.sum(image, x=10.3, y=10.1, a=5.0, variance=variance, bad=bad)
    assert sums.bad_area == pytest.approx(3.0)
    assert sums.area == pytest.approx(25 * np.pi - 3.0)
    assert sums.flux == pytest.approx(2.0 * sums.area)
    # variance of sum(w I) is sum(w^2 V): below V times area, because border weights are below 1
    weights = inside((30, 30), 10.3, 10.1, 5.0, 5.0, 0.0, 50)
    weights[[10, 12, 9], [10, 11, 10]] = 0.0
    assert sums.variance == pytest.approx(3.0 * np.sum(weights**2), rel=2e-3)
    cut = EXACT.sum(image, x=[0.0, 15.0, 60.0, np.nan], y=[15.0, 15.0, 60.0, 3.0], a=4.0)
    assert cut.truncated.tolist() == [True, False, True, True]
    assert cut.area[0] == pytest.approx(8 * np.pi + 4 * 0.995, abs=0.05)
    assert np.isnan(cut.flux[2:]).all()
    assert cut.variance is None


def test_nan_pixels_are_bad_without_a_mask():
    image = np.ones((30, 30))
    image[15, 15] = np.nan
    image[14, 15] = np.inf
    for operator in (EXACT, ApertureOperator.center(), ApertureOperator.sinc()):
        sums = operator.sum(image, x=15.0, y=15.0, a=4.0)
        assert np.isfinite(sums.flux)
        assert sums.bad_area == pytest.approx(2.0, abs=0.3)


@given(dx=st.integers(-5, 5), dy=st.integers(-5, 5))
@settings(max_examples=10)
def test_whole_pixel_origin_changes_nothing(dx, dy):
    image = np.random.default_rng(0).normal(size=(40, 50))
    for operator in (EXACT, ApertureOperator.sinc(), ApertureOperator.subpixel(3)):
        one = operator.sum(image, x=20.25, y=19.5, a=4.0, b=2.0, theta=0.3)
        two = operator.sum(
            image, x=20.25 + dx, y=19.5 + dy, a=4.0, b=2.0, theta=0.3, x_min=dx, y_min=dy
        )
        assert one.flux == pytest.approx(two.flux, abs=1e-9)


def test_sinc_is_the_integral_over_the_true_circle(rng):
    # Gaussian with sigma 1.7 integrated over pixels; its integral over the true circle is known
    # from quadrature of the pixel-convolved profile
    from scipy.special import erf

    sigma, radius = 1.7, 3.3
    x, y = 32 + rng.uniform(-0.5, 0.5, 2)
    grid = np.arange(65)

    def cdf(v):
        return 0.5 * erf(v / sigma / np.sqrt(2))

    px = cdf(grid + 0.5 - x) - cdf(grid - 0.5 - x)
    py = cdf(grid + 0.5 - y) - cdf(grid - 0.5 - y)
    image = py[:, None] * px[None, :]

    def row(v):
        half = np.sqrt(radius**2 - v**2)
        t, w = np.polynomial.legendre.leggauss(40)
        u = half * t
        return half * np.sum(w * (cdf(u + 0.5) - cdf(u - 0.5))) * (cdf(v + 0.5) - cdf(v - 0.5))

    want = integrate.quad(row, -radius, radius, epsabs=1e-12, limit=200)[0]
    got = ApertureOperator.sinc().sum(image, x=x, y=y, a=radius).flux
    assert got == pytest.approx(want, abs=2e-6)
    # an ellipse with equal axes at any angle is the circle
    turned = ApertureOperator.sinc().sum(image, x=x, y=y, a=radius, b=radius, theta=0.7).flux
    assert turned == pytest.approx(got, abs=1e-12)


@given(
    j=st.tuples(*[st.floats(-0.4, 0.4)] * 4),
    radius=st.floats(0.5, 5.0),
)
def test_sky_circle_is_a_circle_on_the_sky(j, radius):
    jac = np.array([[0.26 + j[0], j[1]], [j[2], -0.26 + j[3]]])
    if abs(np.linalg.det(jac)) < 1e-3:
        return
    a, b, theta = sky_circle_to_ellipse(jac, radius)
    t = np.linspace(0, 2 * np.pi, 50)
    c, s = np.cos(theta), np.sin(theta)
    edge = np.stack([a * np.cos(t) * c - b * np.sin(t) * s, a * np.cos(t) * s + b * np.sin(t) * c])
    np.testing.assert_allclose(np.hypot(*(jac @ edge)), radius, rtol=1e-9)
    assert a >= b > 0
    assert np.pi * a * b == pytest.approx(np.pi * radius**2 / abs(np.linalg.det(jac)), rel=1e-9)


def test_operator_names_and_repr():
    for operator in (
        EXACT,
        ApertureOperator.sinc(),
        ApertureOperator.center(),
        ApertureOperator.subpixel(7),
    ):
        assert eval(repr(operator)) == operator
        assert ApertureOperator.parse(operator.name) == operator
        assert len({operator, ApertureOperator.parse(operator.name)}) == 1
    with pytest.raises(AttributeError):
        EXACT.kind = "sinc"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ApertureOperator("round"), "'round'.*allowed: exact"),
        (lambda: ApertureOperator.parse("subpixels"), "'subpixelN'"),
        (lambda: ApertureOperator.subpixel(0), "from 1 to 100"),
        (lambda: ApertureOperator("exact", 3), "no meaning"),
        (lambda: EXACT.sum(np.ones(5), x=1, y=1, a=1), "2-d array.*\\(5,\\)"),
        (lambda: EXACT.sum(np.ones((5, 5)), x=1, y=1, a=0.0), "a=0 .*positive"),
        (lambda: EXACT.sum(np.ones((5, 5)), x=1, y=1, a=[1, np.nan]), "a=nan"),
        (lambda: EXACT.sum(np.ones((5, 5)), x=1, y=1, a=1, b=-2.0), "b=-2 "),
        (lambda: EXACT.sum(np.ones((5, 5)), x=1, y=1, a=1, theta=np.inf), "theta must be finite"),
        (lambda: EXACT.sum(np.ones((5, 5)), x=[1, 2], y=[1, 2, 3], a=1), "broadcast"),
        (
            lambda: EXACT.sum(np.ones((5, 5)), x=1, y=1, a=1, variance=np.ones((4, 5))),
            "variance has shape \\(4, 5\\)",
        ),
        (lambda: EXACT.sum(np.ones((5, 5)), x=1, y=1, a=1, bad=np.ones((4, 5), bool)), "bad has"),
        (lambda: EXACT.sum(np.ones((5, 5)), x=1, y=1, a=1, bad=np.ones((5, 5))), "boolean"),
        (lambda: EXACT.sum(np.ones((5, 5)) * 1j, x=1, y=1, a=1), "real numbers"),
        (lambda: sky_circle_to_ellipse(np.zeros((2, 2)), 1.0), "singular"),
        (lambda: sky_circle_to_ellipse(np.eye(2), -1.0), "radius=-1.0"),
        (lambda: sky_circle_to_ellipse(np.ones(4), 1.0), "\\(4,\\)"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises((PogsonValueError, PogsonTypeError), match=message) as caught:
        call()
    assert isinstance(caught.value, PogsonError)
