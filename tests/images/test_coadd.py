"""Coadds: fluxes, errors, clipping, masks and refusals on simulated visits with known truth."""

import functools

import numpy as np
import pytest

from pogson.calib import FluxReference, PhotoCalib
from pogson.errors import (
    BoundsError,
    CalibrationError,
    MeasureError,
    MissingDataError,
    PogsonTypeError,
    PogsonValueError,
    ReferenceMismatchError,
    UnitMismatchError,
)
from pogson.fields import Box
from pogson.images import (
    Clipping,
    Exposure,
    aperture_variance,
    coadd,
    stamp_variance,
    warp,
)
from pogson.psf import ApertureOperator, MoffatPSF, psf_from_dict
from pogson.sky import FitsSkyMap

SEED = 20261121
N, OUT = 420, 520
CALIB = PhotoCalib.constant(1.0, unit="", reference=FluxReference.total())
SKY = FitsSkyMap.tan(30.0, -20.0, x=OUT / 2, y=OUT / 2, scale_arcsec=0.25)
BOX = Box(0, 0, OUT, OUT)


def add_stars(image, psf, x, y, flux, half=60):
    """Add whole stars, cut at the border of the image."""
    ny, nx = image.shape
    on = (x > -half) & (y > -half) & (x < nx + half) & (y < ny + half)
    stamps, x0, y0 = psf.draw_many(x=x[on], y=y[on], half_size=half)
    m = 2 * half + 1
    for s, a, b, f in zip(stamps, x0, y0, flux[on], strict=True):
        ya, yb, xa, xb = max(b, 0), min(b + m, ny), max(a, 0), min(a + m, nx)
        image[ya:yb, xa:xb] += f * s[ya - b : yb - b, xa - a : xb - a]


def stars(n=49, seed=SEED):
    """Return isolated stars: positions on the output and fluxes in nJy."""
    rng = np.random.default_rng(seed)
    side = int(np.sqrt(n))
    g = np.linspace(120, OUT - 120, side)
    x, y = (a.ravel() + rng.uniform(-4, 4, side**2) for a in np.meshgrid(g, g))
    return x, y, 10 ** rng.uniform(3.5, 5.5, side**2)


def visits(n=5, noise=True, rays=0, seed=SEED, gain=2.0, seeing=(3.0, 4.4), empty=False):
    """Return dithered, rotated, distorted visits of different seeing and depth."""
    rng = np.random.default_rng(seed + 1)
    x, y, flux = stars()
    ra, dec = SKY.sky(x=x, y=y)
    out = []
    for v in range(n):
        psf = MoffatPSF(float(np.linspace(*seeing, n)[v]), 3.5)
        sky = FitsSkyMap.tan(
            30.0, -20.0, x=N / 2 + rng.uniform(-12, 12), y=N / 2 + rng.uniform(-12, 12),
            scale_arcsec=0.25 * (1 + 0.05 * rng.uniform(-1, 1)),
            rotation_deg=90 * v + rng.uniform(-9, 9),
        )  # fmt: skip
        sigma = float(rng.uniform(8, 14))
        light = np.zeros((N, N))
        if not empty:
            add_stars(light, psf, *sky.pixel(ra, dec), flux)
        variance = sigma**2 + light / gain
        image = light + (rng.normal(size=light.shape) * np.sqrt(variance) if noise else 0.0)
        hit = rng.integers(20, N - 20, (2, rays))
        image[hit[0], hit[1]] += 3000.0
        out.append(
            Exposure(
                image, variance=variance, unit="nJy", measure="fluence", sky=sky, psf=psf,
                photo_calib=CALIB, flattening_sed="G2V", bandpass="r", exposure_id=f"v{v}",
                metadata={"gain": gain},
            )
        )  # fmt: skip
    return out


@functools.cache
def clean():
    return visits(noise=False)


@functools.cache
def deep():
    return coadd(visits(), SKY, BOX)


def aperture(exposure, x, y, radius):
    sums = ApertureOperator.exact().sum(
        exposure.image, x=np.asarray(x), y=np.asarray(y), a=radius,
        x_min=exposure.box.x_min, y_min=exposure.box.y_min,
    )  # fmt: skip
    return np.asarray(sums.flux)


def test_star_fluxes_are_the_weighted_fluxes_of_the_visits():
    """Median below 0.5 mmag, in apertures that hold the star and by PSF fits."""
    parts = clean()
    made = coadd(parts, SKY, BOX, weights=[3.0, 1.0, 2.0, 1.5, 1.0])
    x, y, _ = stars()
    ra, dec = SKY.sky(x=x, y=y)
    on, own = aperture(made.exposure, x, y, 24.0), []
    for v in parts:
        px, py = v.sky.pixel(ra, dec)
        scale = v.sky.pixel_scale(x=N / 2, y=N / 2)
        own.append(aperture(v, px, py, 24.0 * 0.25 / scale))
    expected = np.average(own, axis=0, weights=[3.0, 1.0, 2.0, 1.5, 1.0])
    difference = -2.5 * np.log10(on / expected) * 1000
    print(
        f"coadd - visits: median {np.median(difference):.3f}, "
        f"worst {np.abs(difference).max():.3f} mmag"
    )
    assert abs(np.median(difference)) < 0.1
    assert np.abs(difference).max() < 0.5


def psf_fluxes(made, x, y, half=9):
    """Return unweighted PSF fluxes and their two errors, from covariance and diagonal."""
    stamps, x0, y0 = made.psf.draw_many(x=x, y=y, half_size=half)
    out = []
    for s, a, b in zip(stamps, x0, y0, strict=True):
        part = Box(int(a), int(b), 2 * half + 1, 2 * half + 1).slices(made.exposure.box)
        w = s / (s * s).sum()
        flux = (w * made.exposure.image[part]).sum()
        errors = [
            np.sqrt(stamp_variance(made, w, x_min=int(a), y_min=int(b), covariance=c))
            for c in (True, False)
        ]
        out.append((flux, *errors))
    return np.array(out).T


def test_psf_fluxes_return_the_truth():
    made = coadd(clean(), SKY, BOX)
    x, y, flux = stars()
    found, _, _ = psf_fluxes(made, x, y)
    error = -2.5 * np.log10(found / flux) * 1000
    print(f"PSF flux on the coadd - truth: {np.median(error):.3f}, {np.abs(error).max():.3f} mmag")
    assert np.abs(error).max() < 0.5
    assert psf_from_dict(made.psf.to_dict()) == made.psf
    assert made.psf.coverage(x=[260.0], y=[260.0]).all()


def test_errors_are_right_with_the_covariance_and_not_without():
    """Pulls of apertures on blank sky of a noisy coadd; the diagonal alone is too certain."""
    pulls, naive = [], []
    for seed in range(3):
        made = coadd(visits(4, seed=SEED + 50 * seed, empty=True), SKY, BOX, clip=None)
        g = np.arange(130, OUT - 130, 13.0)
        x, y = (a.ravel() for a in np.meshgrid(g, g))
        sums = aperture(made.exposure, x, y, 5.0)
        pulls.append(sums / np.sqrt(aperture_variance(made, x=x, y=y, radius=5.0)))
        naive.append(
            sums / np.sqrt(aperture_variance(made, x=x, y=y, radius=5.0, covariance=False))
        )
    pull, bare = np.concatenate(pulls), np.concatenate(naive)
    width = 1 / np.sqrt(2 * pull.size)
    print(f"seed {SEED}: pulls {pull.std():.3f} +- {width:.3f}, diagonal only {bare.std():.3f}")
    # 1200 apertures: the width of the pulls is known to 2 %; three times that, and the 0.95 asked
    assert pull.std() == pytest.approx(1.0, abs=0.05 + 2 * width)
    assert bare.std() > pull.std() + 0.07


def test_star_fluxes_scatter_as_their_errors_say():
    made = deep()
    x, y, flux = stars()
    found, error, bare = psf_fluxes(made, x, y)
    pull = (found - flux) / error
    print(
        f"PSF pulls {pull.std():.2f}, mean {pull.mean():.2f}; "
        f"diagonal {((found - flux) / bare).std():.2f}"
    )
    # 49 stars: the width is known to 10 %
    assert 0.7 < pull.std() < 1.35
    assert abs(pull.mean()) < 4 / np.sqrt(pull.size)


def test_completeness_at_a_signal_to_noise_follows_the_depth():
    """Faint stars of true S/N 5 pass a cut at 5 half of the time."""
    from scipy.stats import norm

    empty = visits(4, seed=SEED + 7, empty=True)
    made = coadd(empty, SKY, BOX, clip=None)
    g = np.arange(110, OUT - 110, 22.0)
    x, y = (a.ravel() for a in np.meshgrid(g, g))
    found, error, _ = psf_fluxes(made, x, y)
    for truth in (3.0, 5.0, 7.0):
        seen = np.mean((found + truth * error) / error > 5.0)
        expected = norm.sf(5.0 - truth)
        print(f"S/N {truth}: completeness {seen:.3f}, predicted {expected:.3f}")
        assert seen == pytest.approx(
            expected, abs=3.5 * np.sqrt(max(expected * (1 - expected), 0.01) / x.size)
        )


def test_clipping_takes_cosmic_rays_and_leaves_stars():
    rays = visits(5, rays=60)
    made = coadd(rays, SKY, BOX)
    plain = coadd(rays, SKY, BOX, clip=None)
    clear = deep()
    assert sum(one.n_clipped for one in made.inputs) > 1500, "each ray covers several pixels"
    x, y, _ = stars()
    bit = made.exposure.mask_bits.value("CLIPPED")
    for u, v in zip(np.round(x).astype(int), np.round(y).astype(int), strict=True):
        assert not (clear.exposure.mask[v - 4 : v + 5, u - 4 : u + 5] & bit).any(), (u, v)
    middle = (slice(150, 370), slice(150, 370))
    left = np.abs(made.exposure.image - clear.exposure.image)[middle]
    before = np.abs(plain.exposure.image - clear.exposure.image)[middle]
    assert (before > 60).sum() > 200
    assert (left > 60).sum() < 0.1 * (before > 60).sum()


def test_fixed_fraction_and_two_visits():
    two = coadd(visits(2, rays=40), SKY, BOX, clip=Clipping(flux_fraction=0.3))
    assert all(one.n_clipped > 200 for one in two.inputs)
    with pytest.raises(PogsonValueError, match="sigma > 0"):
        Clipping(sigma=0.0)


def test_warps_and_exposures_add_alike():
    parts = clean()[:3]
    one = coadd(parts, SKY, BOX, clip=None)
    other = coadd([warp(p, SKY, BOX) for p in parts], SKY, BOX, clip=None)
    np.testing.assert_allclose(
        one.exposure.image, other.exposure.image, rtol=1e-4, atol=1e-3, equal_nan=True
    )
    np.testing.assert_allclose(one.noise.mean(), other.noise.mean(), atol=0.01)
    assert [a.weight for a in one.inputs] == pytest.approx([a.weight for a in other.inputs])


def test_a_coadd_says_what_it_is():
    made = deep()
    e = made.exposure
    assert e.unit.to_string() == "nJy"
    assert e.measure.value == "fluence"
    assert e.photo_calib.reference == FluxReference.total()
    assert (e.bandpass, e.flattening_sed) == ("r", "G2V")
    assert made.count.max() == 5
    assert e.metadata["effective_gain"] > 2.0 * 3
    assert made.table()["n_pixels"].min() > 1e5
    assert np.isnan(e.image[0, 0])
    assert "NO_DATA" in e.mask_bits.names(int(e.mask[0, 0]))
    edge = e.mask_bits.value("EDGE")
    changes = np.diff(made.count[260].astype(int)) != 0
    assert (e.mask[260][1:][changes] & edge).all(), "where the set of inputs changes the PSF jumps"
    part = made.cutout(Box(100, 110, 50, 40))
    assert part.exposure.image[0, 0] == e.image[110, 100]
    assert part.noise.total(x=120, y=120) == pytest.approx(made.noise.total(x=120, y=120))
    assert e.to("surface_brightness").to("fluence").measure.value == "fluence"


def test_the_calibration_error_is_kept():
    calib = PhotoCalib.constant(1.0, unit="", error=0.01, reference=FluxReference.total())
    parts = [v.with_(photo_calib=calib) for v in clean()[:4]]
    made = coadd(parts, SKY, BOX, weights="uniform", clip=None)
    # four independent exposures of 1 % each
    assert made.exposure.photo_calib.relative_error(x=200, y=200) == pytest.approx(0.005)


def test_mixtures_are_refused_with_the_list():
    a, b, c = clean()[:3]
    with pytest.raises(MeasureError, match=r"image 1 \(v1\): in surface brightness"):
        coadd([a, b.with_(measure="surface_brightness"), c], SKY, BOX)
    with pytest.raises(UnitMismatchError, match=r"image 2 \(v2\): in 'adu'"):
        coadd([a, b, c.with_(unit="adu")], SKY, BOX)
    other = PhotoCalib.constant(1.0, unit="", reference=FluxReference.aperture(12))
    with pytest.raises(ReferenceMismatchError, match="aperture 12 px"):
        coadd([a, b.with_(photo_calib=other)], SKY, BOX)
    with pytest.raises(CalibrationError, match=r"(?s)flat for 'M5V'.*band 'g'"):
        coadd([a, b.with_(flattening_sed="M5V"), c.with_(bandpass="g")], SKY, BOX)
    with pytest.raises(MissingDataError, match="for which spectrum it is flat"):
        coadd([a, b.with_(flattening_sed=None)], SKY, BOX)
    assert coadd([a, b.with_(flattening_sed=None)], SKY, BOX, flattening_sed="G2V").count.max() == 2
    with pytest.raises(CalibrationError, match=r"(?s)v0.*adu.*v1.*no photo_calib"):
        coadd([a.with_(unit="adu"), b.with_(photo_calib=None)], SKY, BOX)
    with pytest.raises(PogsonTypeError, match="Exposure or Warp"):
        coadd([a.image], SKY, BOX)
    with pytest.raises(PogsonValueError, match="nothing to add"):
        coadd([], SKY, BOX)
    with pytest.raises(BoundsError, match="None of the 2 images"):
        coadd([a, b], FitsSkyMap.tan(100.0, 50.0, x=0, y=0, scale_arcsec=0.25), BOX)
    with pytest.raises(MissingDataError, match=r"variance, which image 1 \(v1\) has not"):
        coadd([a, b.with_(variance=None)], SKY, BOX)
    with pytest.raises(PogsonValueError, match="Unknown weights"):
        coadd([a, b], SKY, BOX, weights="seeing")
    with pytest.raises(MissingDataError, match="no entry for exposure v1"):
        coadd([a, b], SKY, BOX, weights={"v0": 1.0})


def test_a_flat_for_the_sky_is_refused():
    from pogson.images import ChromaticFlat, Flattening
    from pogson.sed import Bandpass, Spectrum

    a = clean()[0]
    flat = ChromaticFlat.from_fields([3000.0, 12000.0], [_field(0.02), _field(-0.02)])
    state = Flattening(
        flat, Bandpass.from_speclite("decam2014-r"),
        Spectrum([3000.0, 12000.0], [9.0, 0.1], name="dusk"), Spectrum.constant_ab(20.0),
    )  # fmt: skip
    with pytest.raises(MissingDataError, match=r"flattened_for\('fiducial'\)"):
        coadd([a.with_(flattening=state)], SKY, BOX)


def _field(slope):
    from pogson.fields import ChebyshevField

    return ChebyshevField(Box(0, 0, N, N), [[1.0, slope]])
