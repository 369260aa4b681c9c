"""Piff files read from their tables, with no pickle loaded."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from pogson.errors import FileFormatError, MissingDataError, PogsonError, PogsonWarning
from pogson.fields import Box
from pogson.formats.piff import fit_sky_map, read_piff
from pogson.psf import MoffatPSF
from pogson.sky import FitsSkyMap
from pogson.sky.geometry import gnomonic

SKY = FitsSkyMap.tan(50.0, -20.0, x=400.0, y=300.0, scale_arcsec=0.263, rotation_deg=88.0)
POINTING = (50.3, -19.8)
SIZE, SPACING = 17, 0.3


def table(name, **columns):
    made = []
    for key, value in columns.items():
        array = np.asarray(value)
        if array.dtype.kind == "U":
            made.append(fits.Column(key, f"{max(len(str(v)) for v in array)}A", array=array))
        elif array.dtype.kind == "i":
            made.append(fits.Column(key, "K", array=array))
        elif array.ndim > 1:
            shape = array.shape[1:]
            dim = str(shape[::-1]).replace(" ", "") if len(shape) > 1 else None
            made.append(fits.Column(key, f"{np.prod(shape)}D", dim=dim, array=array))
        else:
            made.append(fits.Column(key, "D", array=array))
    return fits.BinTableHDU.from_columns(made, name=name)


def write_piff(path, rng, n_stars=60):
    """Write a Piff file whose PSF is known: a Moffat that widens along u."""
    x, y = rng.uniform(0, 800, n_stars), rng.uniform(0, 600, n_stars)
    ra, dec = SKY.sky(x=x, y=y)
    xi, eta = gnomonic(ra, dec, *POINTING)
    scale = 0.263 / SPACING
    base = MoffatPSF(4.0 * scale, 3.0).draw(x=0, y=0, half_size=8).image
    wide = MoffatPSF(5.0 * scale, 3.0).draw(x=0, y=0, half_size=8).image
    q = np.zeros((SIZE**2, 10))
    q[:, 0] = base.ravel()
    # terms 1, v, v^2, v^3, u, ...: the fifth is u
    q[:, 4] = (wide - base).ravel() / 2000.0
    primary = fits.PrimaryHDU()
    primary.header["EXPNUM"], primary.header["CCDNUM"], primary.header["BAND"] = 42, 7, "r"
    fits.HDUList(
        [
            primary,
            table("psf", type=["SimplePSF"]),
            table("psf_stars", x=x + 1, y=y + 1, u=-xi, v=eta, ra=ra / 15, dec=dec),
            table("psf_wcs", ra=[POINTING[0] / 15], dec=[POINTING[1]], wcs_str_0000=["never"]),
            table("psf_model", type=["PixelGrid"], size=[SIZE], scale=[SPACING],
                  interp=["galsim.Lanczos(3, True, 0.0001)"]),
            table("psf_interp", type=["BasisPolynomial"], order=[3]),
            table("psf_interp_solution", q=q[None]),
        ]
    ).writeto(path, overwrite=True)  # fmt: skip
    return base, wide


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("piff") / "42_7_piff.fits"
    return path, *write_piff(path, np.random.default_rng(8))


def test_reads_the_tables_without_a_pickle(made):
    path, base, wide = made
    psf = read_piff(path, SKY)
    assert "pixmappy" not in sys.modules
    assert psf.metadata["sky_source"] == "given"
    assert psf.metadata["sky_rms_pixels"] < 1e-6
    assert (psf.metadata["exposure"], psf.metadata["detector"]) == ("42", "7")
    x, y = 123.4, 456.7
    xi, _ = gnomonic(*SKY.sky(x=x, y=y), *POINTING)
    want = base - xi / 2000.0 * (wide - base)
    got = psf.samples(x=[x], y=[y])[0]
    np.testing.assert_allclose(got, want / want.sum(), atol=1e-12)


def test_rendering_is_the_sum_of_lanczos_kernels(made):
    psf = read_piff(made[0], SKY)
    x, y = 223.37, 156.81
    samples = psf.samples(x=[x], y=[y])[0]
    image, box = psf.draw(x=x, y=y, half_size=6)
    jac = SKY.jacobian(x=x, y=y)

    def kernel(t):
        return np.where(np.abs(t) < 3, np.sinc(t) * np.sinc(t / 3), 0.0)

    k = np.arange(-20, 21)
    for j, i in ((0, 0), (6, 6), (5, 8), (12, 3)):
        d = np.array([box.x_min + i - x, box.y_min + j - y])
        u, v = -jac[0] @ d / SPACING, jac[1] @ d / SPACING
        wx, wy = (kernel(g - (np.arange(SIZE) - 8)) / kernel(g - k).sum() for g in (u, v))
        want = wy @ samples @ wx * abs(np.linalg.det(jac)) / SPACING**2
        assert image[j, i] == pytest.approx(want, rel=1e-9, abs=1e-15)


def test_galsim_renders_the_same(made):
    galsim = pytest.importorskip("galsim")
    psf = read_piff(made[0], SKY)
    x, y = 300.3, 500.8
    jac = SKY.jacobian(x=x, y=y)
    profile = galsim.InterpolatedImage(
        galsim.ImageD(psf.samples(x=[x], y=[y])[0].copy(), scale=SPACING),
        x_interpolant=galsim.Lanczos(3, True),
        use_true_center=False,
        flux=1.0,
    )
    image = galsim.ImageD(41, 41, wcs=galsim.JacobianWCS(*(-jac[0]), *jac[1]))
    profile.drawImage(
        image, method="no_pixel", offset=(x - np.floor(x + 0.5), y - np.floor(y + 0.5))
    )
    stamp = psf.draw(x=x, y=y, half_size=20).image
    assert np.abs(image.array - stamp).max() < 2e-5 * stamp.max()


def test_map_fitted_to_the_stars(made):
    given_map, fitted = read_piff(made[0], SKY), read_piff(made[0])
    assert fitted.metadata["sky_source"] == "fitted to stars"
    # noiseless stars on a nearly affine map: the cubic leaves almost nothing
    assert fitted.metadata["sky_rms_pixels"] < 1e-5
    one, two = (p.draw(x=400.2, y=300.9, half_size=12).image for p in (given_map, fitted))
    assert np.abs(one - two).max() < 1e-6 * one.max()


def test_fit_error_is_the_error_of_the_positions(rng):
    x, y = rng.uniform(0, 2000, 70), rng.uniform(0, 4000, 70)
    sigma = 0.05
    ra, dec = SKY.sky(x=x + rng.normal(0, sigma, 70), y=y + rng.normal(0, sigma, 70))
    sky, rms = fit_sky_map(x, y, ra, dec)
    # 2 x 60 degrees of freedom: rms good to 6.5 % (1 sigma)
    assert rms == pytest.approx(sigma, rel=0.3)
    px, py = sky.pixel(*SKY.sky(x=x, y=y))
    assert np.hypot(px - x, py - y).max() < 5 * sigma
    with pytest.raises(FileFormatError, match="5 stars are too few"):
        fit_sky_map(x[:5], y[:5], ra[:5], dec[:5])
    with pytest.raises(FileFormatError, match="do not span"):
        fit_sky_map(x, 0 * y, ra, dec)


def test_map_of_another_detector_is_refused(made):
    with pytest.raises(FileFormatError, match=r"off the stars.*another detector"):
        read_piff(made[0], SKY.shifted(2048.0, 0.0))
    with pytest.raises(MissingDataError, match="detector '7', not of '8'"):
        read_piff(made[0], detector=8)
    with pytest.raises(MissingDataError, match="exposure '42', not of '43'"):
        read_piff(made[0], exposure="43")


@pytest.mark.parametrize(
    ("extension", "column", "value", "message"),
    [
        ("psf", "type", "SingleChip", "'SingleChi'; pogson reads 'SimplePSF'"),
        ("psf_model", "type", "Moffat   ", "'Moffat'"),
        ("psf_model", "interp", "galsim.Cubic()", "Cubic"),
        ("psf_model", "size", 16, "289"),
        ("psf_model", "scale", -1.0, "-1.0"),
        ("psf_interp", "order", 2, "needs"),
        ("psf_stars", "u", 1e5, "damaged or of another convention"),
        ("psf_stars", "x", np.nan, "not finite"),
    ],
)
def test_other_models_and_wrong_values_are_refused(
    made, tmp_path, extension, column, value, message
):
    with fits.open(made[0]) as hdus:
        hdus[extension].data[column][0] = value
        hdus.writeto(tmp_path / "bad.fits")
    if message == "289":
        message = "2890 values"
    with pytest.raises(FileFormatError, match=message):
        read_piff(tmp_path / "bad.fits")


def test_missing_table_is_named(made, tmp_path):
    with fits.open(made[0]) as hdus:
        del hdus["psf_interp"]
        hdus.writeto(tmp_path / "bad.fits")
    with pytest.raises(FileFormatError, match="no table 'psf_interp'"):
        read_piff(tmp_path / "bad.fits")


@settings(max_examples=40)
@given(data=st.data())
def test_damaged_files_raise_only_our_errors(made, tmp_path_factory, data):
    content = bytearray(made[0].read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    for _ in range(data.draw(st.integers(0, 4))):
        if content:
            at = data.draw(st.integers(0, len(content) - 1))
            content[at] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.mktemp("fuzz") / "f.fits"
    path.write_bytes(bytes(content))
    try:
        psf = read_piff(path)
        psf.draw(x=100.0, y=100.0, half_size=5)
    except PogsonError:
        pass


def test_every_real_file(shared_data):
    paths = sorted(shared_data("des-smp/psf").glob("*_piff.fits"))
    assert len(paths) == 14
    for path in paths:
        psf = read_piff(path)
        # the cubic through about 60 stars leaves hundredths of a pixel
        assert 0.005 < psf.metadata["sky_rms_pixels"] < 0.03
        stars = fits.getdata(path, "psf_stars")
        x, y = stars["x"] - 1.0, stars["y"] - 1.0
        sums = psf.draw_many(x=x, y=y)[0].sum(axis=(1, 2))
        assert (np.abs(sums - 1) < 0.01).all()
        # the file's own fit of each star scatters about the interpolated samples
        samples = psf.samples(x=x, y=y).reshape(x.size, -1)
        own = np.array(stars["params"], float)
        own /= own.sum(axis=1)[:, None]
        assert np.corrcoef(samples.ravel(), own.ravel())[0, 1] > 0.98
        # Jacobian of the file's own map, without its small-scale distortion
        matrix = psf.frame.matrix(x, y) * psf.frame.spacing
        held = np.stack([stars[k] for k in ("dudx", "dudy", "dvdx", "dvdy")], -1)
        assert np.abs(matrix.reshape(-1, 4) - held).max() < 4e-3
        width = psf.fwhm(x=np.array([200.0, 1000.0, 1800.0]), y=np.array([300.0, 2000.0, 3800.0]))
        assert (width > 2.4).all()
        assert (width < 7.5).all()
        assert np.ptp(width) < 0.25 * width.mean()


def test_real_maps_given_and_fitted_agree(shared_data):
    for name in ("234928_20", "372125_49", "670427_2"):
        header = fits.Header.fromtextfile(shared_data(f"des-smp/wcs/{name}.hdr"))
        path = shared_data(f"des-smp/psf/{name}_piff.fits")
        sky = FitsSkyMap.from_header(header)
        x, y = header["CRPIX1"] - 1, header["CRPIX2"] - 1
        box = Box(int(x) - 15, int(y) - 15, 31, 31)
        one, two = read_piff(path, sky, box=box), read_piff(path)
        assert one.metadata["sky_rms_pixels"] < 0.05
        assert one.metadata["sky_reach"] == 1.0
        a, b = (p.draw(x=x, y=y, half_size=15).image for p in (one, two))
        assert np.abs(a - b).max() < 2e-3 * a.max()
        # these maps hold near their target only; without a box that is said
        with pytest.warns(PogsonWarning, match="% of the detector only"):
            read_piff(path, sky)


def test_effective_area_of_the_published_case(shared_data):
    """Eris, exposure 234928: 138 pixels noise-equivalent area, 0.9989 of the light in 30 x 30."""
    psf = read_piff(shared_data("des-smp/psf/234928_20_piff.fits"))
    x, y = 870.42, 2368.66
    assert psf.effective_area(x=x, y=y) == pytest.approx(138.0, abs=1.0)
    # the grid ends where the star still has 1e-3 of its peak: the sum of the pixels depends on the
    # sub-pixel phase at that level
    assert psf.draw(x=x, y=y, half_size=15).image[:30, :30].sum() == pytest.approx(0.9989, abs=3e-3)
