"""Galaxies, trails and wings against analytic answers and GalSim."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from pogson.errors import PogsonTypeError, PogsonValueError
from pogson.fields import Box
from pogson.inject.galaxies import (
    BulgeDisc,
    Sersic,
    galaxy_half_size,
    render_galaxy,
    sersic_transform,
)
from pogson.inject.trails import render_trail
from pogson.inject.wings import WingedPSF, WingModel
from pogson.psf import GaussianPSF, KolmogorovPSF, MoffatPSF, PixelGridPSF, psf_from_dict
from pogson.psf.profiles import gaussian_sigma
from pogson.sky import FitsSkyMap


# -- galaxies --------------------------------------------------------------------------------
def test_transforms_with_closed_forms() -> None:
    k = np.geomspace(1e-6, 1e4, 400)
    b = special.gammaincinv(2.0, 0.5)
    np.testing.assert_allclose(sersic_transform(k, 1.0), (1 + (k / b) ** 2) ** -1.5, atol=2e-8)
    b = special.gammaincinv(1.0, 0.5)
    np.testing.assert_allclose(sersic_transform(k, 0.5), np.exp(-k * k / 4 / b), atol=2e-8)


def test_a_gaussian_galaxy_under_a_gaussian_psf_is_a_gaussian() -> None:
    """Index 1/2 is a Gaussian: variances add."""
    sigma = gaussian_sigma(3.0)
    width = 2.0 / np.sqrt(2.0 * np.log(2.0))  # half the light within 2
    wide = np.hypot(sigma, width)
    expected = GaussianPSF(fwhm=wide * 2 * np.sqrt(2 * np.log(2)))
    for x, y in ((40.0, 41.0), (40.37, 40.81)):
        mine = render_galaxy(Sersic(0.5, 2.0), GaussianPSF(3.0), x=x, y=y, half_size=20)
        true = expected.draw(x=x, y=y, half_size=20)
        assert mine.box == true.box
        assert np.abs(mine.image - true.image).max() < 2e-7 * true.image.max()


def test_position_angle_runs_from_north_to_east() -> None:
    sky = FitsSkyMap.tan(10.0, 30.0, x=50.0, y=50.0, scale_arcsec=0.2, rotation_deg=37.0)
    jacobian = np.asarray(sky.jacobian(x=50.0, y=50.0))
    stamp = render_galaxy(
        Sersic(1.0, 1.0, axis_ratio=0.4, position_angle=25.0), GaussianPSF(2.0),
        x=50.0, y=50.0, half_size=40, jacobian=jacobian,
    )  # fmt: skip
    yy, xx = np.mgrid[-40:41, -40:41].astype(float)
    moments = (
        np.array([[(stamp.image * a * b).sum() for a in (xx, yy)] for b in (xx, yy)])
        / stamp.image.sum()
    )
    on_sky = jacobian @ moments @ jacobian.T
    values, vectors = np.linalg.eigh(on_sky)
    east, north = vectors[:, 1]
    assert np.rad2deg(np.arctan2(east, north)) % 180 == pytest.approx(25.0, abs=0.1)
    assert values[1] > 3 * values[0]


def test_high_index_far_wings_are_not_folded_back() -> None:
    """Far from the centre the convolved profile is the profile, whatever the stamp."""
    profile = Sersic(4.0, 5.0)
    small = render_galaxy(profile, MoffatPSF(3.0, 4.0), x=0.0, y=0.0, half_size=20)
    large = render_galaxy(profile, MoffatPSF(3.0, 4.0), x=0.0, y=0.0, half_size=120)
    middle = large.image[100:141, 100:141]
    np.testing.assert_allclose(small.image, middle, rtol=2e-4, atol=1e-9)
    radius = np.arange(60, 121)
    b = special.gammaincinv(8.0, 0.5)
    surface = np.exp(-b * (radius / 5.0) ** 0.25) / (8 * np.pi * 25 * b**-8.0 * special.gamma(8.0))
    np.testing.assert_allclose(large.image[120, 180:], surface, rtol=6e-3)


def test_bulge_and_disc_add() -> None:
    bulge, disc = Sersic(4.0, 1.0, 0.9, 10.0), Sersic(1.0, 3.0, 0.4, 60.0)
    psf, where = MoffatPSF(3.0, 3.0), {"x": 30.2, "y": 29.9, "half_size": 30}
    both = render_galaxy(BulgeDisc(bulge, disc, 0.3), psf, **where).image
    parts = [render_galaxy(p, psf, **where).image for p in (bulge, disc)]
    np.testing.assert_allclose(both, 0.3 * parts[0] + 0.7 * parts[1], atol=1e-8)
    only = render_galaxy(BulgeDisc(bulge, disc, 1.0), psf, **where).image
    np.testing.assert_array_equal(only, parts[0])


def test_empirical_psf_and_box_edge() -> None:
    """A sampled PSF gives the galaxy of the profile it was sampled from; edges are no obstacle."""
    true = MoffatPSF(4.0, 3.5)
    psf = PixelGridPSF(
        true.draw(x=0, y=0, half_size=40).image, interpolation="lagrange6", box=Box(0, 0, 60, 60)
    )
    profile = Sersic(1.0, 3.0, 0.6, 20.0)
    for x, y in ((30.0, 30.0), (59.4, 0.3), (65.25, 30.0)):
        mine = render_galaxy(profile, psf, x=x, y=y, half_size=20).image
        expected = render_galaxy(profile, true, x=x, y=y, half_size=20).image
        # six samples a side interpolate this PSF to 4e-4 of its peak
        assert np.abs(mine - expected).max() < 1e-3 * expected.max()


def test_galaxies_agree_with_galsim() -> None:
    galsim = pytest.importorskip("galsim")
    fine = galsim.GSParams(
        folding_threshold=1e-5, maxk_threshold=1e-6, kvalue_accuracy=1e-8, xvalue_accuracy=1e-8,
        maximum_fft_size=20000,
    )  # fmt: skip
    seeing = galsim.Moffat(fwhm=3.5, beta=3.0, gsparams=fine)
    for n, radius, q in (
        (0.3, 4, 0.7),
        (1.0, 3, 0.5),
        (2.5, 2, 0.8),
        (4.0, 1.5, 1.0),
        (6.2, 1, 0.7),
    ):
        stamp = render_galaxy(
            Sersic(n, radius, q, 30.0), MoffatPSF(3.5, 3.0), x=50.3, y=49.8, half_size=35
        )
        galaxy = galsim.Sersic(n, half_light_radius=radius, gsparams=fine)
        model = galsim.Convolve(galaxy.shear(q=q, beta=120 * galsim.degrees), seeing, gsparams=fine)
        true = model.drawImage(galsim.ImageD(71, 71, scale=1.0), offset=(0.3, -0.2)).array
        assert abs(stamp.image.sum() - true.sum()) < 1e-4, n
        assert np.abs(stamp.image - true).max() < 2e-6 * true.max(), n


def test_galaxy_half_size_holds_the_light() -> None:
    psf = MoffatPSF(3.0, 3.0)
    for profile in (Sersic(0.5, 2.0), Sersic(1.0, 3.0, 0.5, 45.0), Sersic(2.0, 1.0)):
        half = galaxy_half_size(profile, psf, x=0.0, y=0.0, accuracy=1e-3)
        stamp = render_galaxy(profile, psf, x=0.0, y=0.0, half_size=half)
        assert 1 - 1e-3 <= stamp.image.sum() <= 1 + 1e-7
    assert galaxy_half_size(Sersic(6.0, 9.0), psf, x=0, y=0, max_half_size=64) == 64
    assert galaxy_half_size(Sersic(6.0, 9.0), psf, x=0, y=0, radius=20.0) == 22


@pytest.mark.parametrize(
    "build",
    [
        lambda: Sersic(0.2, 1.0),
        lambda: Sersic(7.0, 1.0),
        lambda: Sersic(1.0, -1.0),
        lambda: Sersic(1.0, float("nan")),
        lambda: Sersic(1.0, 1.0, axis_ratio=0.0),
        lambda: Sersic(1.0, 1.0, position_angle=float("inf")),
        lambda: BulgeDisc(Sersic(4, 1), Sersic(1, 1), 1.5),
        lambda: render_galaxy(Sersic(1, 1), GaussianPSF(3.0), x=np.nan, y=0, half_size=5),
        lambda: render_galaxy(Sersic(1, 1), GaussianPSF(3.0), x=0, y=0, half_size=-5),
        lambda: render_galaxy(
            Sersic(1, 1), GaussianPSF(3.0), x=0, y=0, half_size=5, jacobian=np.zeros((2, 2))
        ),
        lambda: galaxy_half_size(Sersic(1, 1), GaussianPSF(3.0), x=0, y=0, accuracy=2.0),
    ],
)
def test_bad_galaxies_are_refused(build: object) -> None:
    with pytest.raises(PogsonValueError):
        build()  # type: ignore[operator]


# -- trails ----------------------------------------------------------------------------------
@pytest.mark.parametrize("length", [0.3, 5.0, 60.0])
def test_a_trail_along_the_pixels_is_a_product_of_error_functions(length: float) -> None:
    fwhm, x, y = 2.5, 80.3, 40.6
    sigma = gaussian_sigma(fwhm)
    trail = render_trail(GaussianPSF(fwhm), x=x, y=y, dx=length, dy=0.0, half_size=15)

    def primitive(t: np.ndarray) -> np.ndarray:
        """Integrate the normal cumulative distribution."""
        return t * special.ndtr(t / sigma) + sigma * np.exp(-0.5 * (t / sigma) ** 2) / np.sqrt(
            2 * np.pi
        )

    i = trail.box.x_pixels() - x
    # mean over the trail, integral over the pixel, of a Gaussian: a second difference
    along = sum(
        s * primitive(i + a + b)
        for s, a, b in ((1, 0.5, length / 2), (-1, -0.5, length / 2), (-1, 0.5, -length / 2),
                        (1, -0.5, -length / 2))
    ) / length  # fmt: skip
    j = trail.box.y_pixels() - y
    across = special.ndtr((j + 0.5) / sigma) - special.ndtr((j - 0.5) / sigma)
    true = across[:, None] * along
    assert np.abs(trail.image - true).max() < 1e-6 * true.max()
    assert trail.image.sum() == pytest.approx(1.0, abs=1e-6)


def test_a_trail_of_no_length_is_a_star() -> None:
    psf = MoffatPSF(3.0, 3.0)
    trail = render_trail(psf, x=10.2, y=11.7, dx=0.0, dy=0.0, half_size=9)
    star = psf.draw(x=10.2, y=11.7, half_size=9)
    assert trail.box == star.box
    np.testing.assert_array_equal(trail.image, star.image)


def test_a_slanted_trail_is_converged_and_runs_off_the_box() -> None:
    psf = MoffatPSF(3.0, 3.0, box=Box(0, 0, 50, 50))
    trail = render_trail(psf, x=45.0, y=25.0, dx=40.0, dy=-25.0, half_size=12)
    free = MoffatPSF(3.0, 3.0)
    t = (np.arange(4000) + 0.5) / 4000 - 0.5
    image = np.zeros(trail.box.shape)
    stamps, x0, y0 = free.draw_many(x=45 + 40 * t, y=25 - 25 * t, half_size=12)
    for s, i, j in zip(stamps, x0 - trail.box.x_min, y0 - trail.box.y_min, strict=True):
        j, i = max(j, 0), max(i, 0)
        part = image[j : j + 25, i : i + 25]
        part += s[: part.shape[0], : part.shape[1]] / 4000
    # stamps end at other places along the trail: their edges differ, at 1e-4 of the peak
    assert np.abs(trail.image - image).max() < 4e-4 * image.max()
    middle = np.hypot(*np.meshgrid(trail.box.x_pixels() - 45, trail.box.y_pixels() - 25)) < 6
    assert np.abs(trail.image - image)[middle].max() < 2e-5 * image.max()


def test_bad_trails_are_refused() -> None:
    psf = GaussianPSF(3.0)
    for values in ({"dx": np.nan}, {"dx": 1e6}, {"half_size": -1}, {"half_size": 1000}):
        with pytest.raises(PogsonValueError):
            render_trail(
                psf, **{"x": 0.0, "y": 0.0, "dx": 1.0, "dy": 0.0, "half_size": 5, **values}
            )


# -- wings -----------------------------------------------------------------------------------
@pytest.mark.parametrize("outer", [None, 200.0])
@pytest.mark.parametrize(("slope", "core_width"), [(3.0, 0.0), (2.3, 0.0), (5.0, 4.0)])
def test_wings_hold_the_light_they_should(
    slope: float, core_width: float, outer: float | None
) -> None:
    wing = WingModel(12.0, slope, core_width, outer)
    psf = wing.join(MoffatPSF(3.5, 4.0))
    x, y, radius = 20.3, 19.6, 250.0
    beyond = 0.0
    if outer is None:
        stamp = psf.draw(x=x, y=y, half_size=300)
        level = stamp.image[300, 300 + 200] / float(
            wing.profile(np.array((200 + 20 - x) ** 2 + (20 - y) ** 2))
        )
        q = radius**2 + core_width**2
        scale = (12.0**2 + core_width**2) ** (slope / 2)
        beyond = level * np.pi * scale * q ** (1 - slope / 2) / (slope / 2 - 1)
    inside = psf.enclosed_energy(radius, x=x, y=y)
    assert inside + beyond == pytest.approx(1.0, abs=2e-6)


def test_wings_join_continuously_and_take_their_light_from_the_core() -> None:
    core, wing = MoffatPSF(3.5, 4.765), WingModel(14.0, 2.5)
    psf = wing.join(core)
    line = psf.draw(x=100.0, y=100.0, half_size=60).image[60, 60:]
    slope = np.diff(np.log(line[4:]))
    assert (slope < 0).all()
    # ln P bends from a slope of -0.7 to one of -0.2 a pixel within the step of 7 pixels
    assert np.abs(np.diff(slope)).max() < 0.3
    r = np.arange(20, 61)
    np.testing.assert_allclose(line[20:] / line[20], (r / 20.0) ** -2.5, rtol=2e-3)
    share = psf.wing_fraction(x=100.0, y=100.0)
    assert 0 < share < 0.01
    expected = core.enclosed_energy(8.0, x=0.0, y=0.0) * (1 - share)
    assert psf.enclosed_energy(8.0, x=0.0, y=0.0) == pytest.approx(expected, rel=2e-4)


def test_a_wing_like_the_core_changes_nothing() -> None:
    alpha = 3.5 / (2 * np.sqrt(2 ** (1 / 3.0) - 1))
    core = MoffatPSF(3.5, 3.0)
    psf = WingModel(10.0, slope=6.0, core_width=alpha).join(core)
    one, other = (p.draw(x=5.3, y=5.6, half_size=40).image for p in (psf, core))
    assert np.abs(one - other).max() < 1e-5 * other.max()
    np.testing.assert_allclose(one, other, rtol=3e-4)


def test_winged_psfs_are_values() -> None:
    psf = WingModel(10.0, 3.0).join(KolmogorovPSF(3.0))
    assert psf_from_dict(psf.to_dict()) == psf
    assert isinstance(psf_from_dict(psf.to_dict()), WingedPSF)
    assert psf != WingModel(10.0, 3.1).join(KolmogorovPSF(3.0))
    assert psf.default_half_size(x=0.0, y=0.0) >= 50
    assert psf.fwhm(x=0.0, y=0.0) == 3.0
    assert "WingModel" in repr(psf)
    assert psf.pixel_integrated
    stamps = psf.draw_many(x=[3.0, 4.2], y=[3.0, 4.1], half_size=5)[0]
    big = psf.draw_many(x=[3.0, 4.2], y=[3.0, 4.1], half_size=30)[0]
    np.testing.assert_allclose(stamps, big[:, 25:36, 25:36], rtol=1e-13)


@pytest.mark.parametrize(
    "values",
    [
        {"radius": 1.0},
        {"radius": 10.0, "slope": 2.0},
        {"radius": 10.0, "slope": -1.0, "outer_radius": 50.0},
        {"radius": 10.0, "outer_radius": 11.0},
        {"radius": 10.0, "blend": 20.0},
        {"radius": 10.0, "core_width": -1.0},
    ],
)
def test_bad_wings_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(PogsonValueError):
        WingModel(**values)


def test_wings_need_light_at_the_join() -> None:
    with pytest.raises(PogsonValueError, match="join where it still has light"):
        WingModel(30.0).join(PixelGridPSF(np.ones((5, 5)))).draw(x=0.0, y=0.0)
    with pytest.raises(PogsonTypeError):
        WingedPSF("psf", WingModel(10.0))  # type: ignore[arg-type]
