"""Real data: one LCO frame, and what the zero points of DECam and the Legacy Surveys mean."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from pogson.calib import (
    FluxReference,
    PhotoCalib,
    fit_zero_point,
    match_catalogs,
    photo_calib_from_header,
    propagate_positions,
    published_color_term,
)
from pogson.fields import Box
from pogson.psf import ApertureOperator
from pogson.units import magnitude_to_flux

LCO = "lco-catalog/cpt1m012-fa06-20200113-0102-matched-cat.fits"
LCO_BOX = Box(0, 0, 4096, 4096)
LCO_EXPOSURE_TIME = 250.032  # s; from the test of the pipeline that made the catalogue
NANOMAGGY = magnitude_to_flux(22.5)  # nJy


@pytest.fixture(scope="module")
def lco(shared_data) -> Table:
    return Table.read(shared_data(LCO))


def lco_fit(table: Table, diameter: int, band: str = "i", **options):
    """Fit one of six apertures of 1 to 6 arcsec diameter."""
    ref, ref_err = magnitude_to_flux(table[f"{band}mag"], table[f"{band}magerr"])
    return fit_zero_point(
        table[f"fluxaper{diameter}"],
        table[f"fluxerr{diameter}"],
        ref,
        ref_err,
        # sep.sum_circle with its default 5 x 5 sub-pixels
        reference=FluxReference.aperture(diameter / 2, "sky", ApertureOperator.subpixel(5)),
        unit="electron",
        x=np.asarray(table["x"]) - 1.0,  # the catalogue counts pixels from 1
        y=np.asarray(table["y"]) - 1.0,
        box=LCO_BOX,
        color=np.asarray(table["rmag"] - table["imag"]),
        color_term="fit",
        color_range=(-0.5, 2.5),
        saturated=np.asarray(table["peak"]) > 60000,
        flagged=np.asarray(table["flag"]) > 0,
        min_snr=20.0,
        **options,
    )


def test_lco_zero_point_color_and_field(lco: Table, capsys) -> None:
    """Six apertures, constant and quadratic zero point: what the field removes."""
    lines, fits_by = [], {}
    bright = np.asarray(lco["imag"]) < 16.0
    for diameter in range(1, 7):
        for order in (0, 2):
            fit = lco_fit(lco, diameter, order=order)
            fits_by[diameter, order] = fit
            r = fit.residuals[fit.used & bright]
            lines.append(
                f'diameter {diameter}" order {order}: zero point '
                f"{fit.zero_point - 2.5 * np.log10(LCO_EXPOSURE_TIME):.4f} +- "
                f"{fit.zero_point_err:.4f} per second, colour slope "
                f"{fit.parameters['color_slope']:.4f} +- {fit.covariance.error('color_slope'):.4f},"
                f" scatter {1e3 * fit.intrinsic_scatter:.1f} +- "
                f"{1e3 * fit.intrinsic_scatter_err:.1f} mmag, rms of {r.size} stars brighter than "
                f"16: {1e3 * r.std():.1f} mmag; {fit.counts()}"
            )
    with capsys.disabled():
        print("\n" + "\n".join(lines))
    zero_points = [fits_by[d, 2].zero_point for d in range(1, 7)]
    assert np.all(np.diff(zero_points) > 0.03)  # wider apertures hold more light
    # published for this frame: 23.1 +- 0.1 per second with Kron apertures
    per_second = zero_points[-1] - 2.5 * np.log10(LCO_EXPOSURE_TIME)
    assert per_second == pytest.approx(23.1, abs=0.1)
    for diameter in (1, 2, 3, 4):  # small apertures see the PSF change over the field
        flat, curved = fits_by[diameter, 0], fits_by[diameter, 2]
        drop = flat.intrinsic_scatter - curved.intrinsic_scatter
        assert drop > 5 * flat.intrinsic_scatter_err
    best = fits_by[3, 2]
    assert best.intrinsic_scatter < 0.013
    assert best.n_used > 2200
    assert sum(best.counts().values()) == len(lco) == 2752
    assert abs(best.parameters["color_slope"]) < 0.08
    # an aperture of 1 arcsec diameter loses a magnitude and more: never the same reference
    assert fits_by[1, 2].zero_point < best.zero_point - 1.5
    assert best.chi2 / best.degrees_of_freedom == pytest.approx(1.0, abs=0.1)


def test_lco_halves_agree(lco: Table, rng) -> None:
    """Repeatability: fields fitted to random halves of the stars agree within their errors."""
    half = rng.random(len(lco)) < 0.5
    a, b = lco_fit(lco[half], 3, order=2), lco_fit(lco[~half], 3, order=2)
    names = list(a.parameters)
    d = np.array([a.parameters[n] - b.parameters[n] for n in names])
    # the pivots are medians: refer both slopes to one pivot
    d[0] += (a.color_term.pivot - b.color_term.pivot) * b.parameters["color_slope"] * -1.0
    chi2 = d @ np.linalg.solve(a.covariance.matrix + b.covariance.matrix, d)
    print(
        f"chi2 {chi2:.1f} of {len(names)} parameters; zero points differ by {1e3 * d[0]:.2f} mmag"
    )
    assert chi2 < 7 + 4 * np.sqrt(14)
    assert abs(d[0]) < 0.004


def test_lco_filter_is_recognised(lco: Table) -> None:
    """The frame is an i frame: only there is the colour slope near zero."""
    slopes = {}
    for band in "griz":
        fit = lco_fit(lco, 3, band, order=2)
        slopes[band] = fit.parameters["color_slope"]
    print(slopes)
    assert min(slopes, key=lambda b: abs(slopes[b])) == "i"


# -- DECam ----------------------------------------------------------------------------------
CASE4 = "decam-cutouts/testcase4/"
CASE4_NAME = "images/decam/CP/V4.8.2/CP20170315/c4d_170316_062107_{}_z_ls9.N2.fits"


def test_decam_header_is_per_exposure(shared_data) -> None:
    """MAGZERO of the community pipeline is for the counts of the exposure, MAGZPT per second."""
    header = fits.getheader(shared_data(CASE4 + CASE4_NAME.format("ooi")), 0)
    calib = photo_calib_from_header(header, convention="decam-cp", reference=FluxReference.total())
    second = photo_calib_from_header(
        header, convention="magzpt-second", reference=FluxReference.total()
    )
    assert header["MAGZERO"] - header["MAGZPT"] == pytest.approx(
        2.5 * np.log10(header["EXPTIME"]), abs=1e-3
    )
    assert calib.mean() == pytest.approx(second.mean(), rel=1e-3)


@pytest.mark.parametrize("case", ["testcase3", "testcase4"])
def test_ccdzpt_is_per_second_in_adu(shared_data, case: str) -> None:
    """The Legacy Surveys' ccdzpt is per second: shown on the noise of the pixels.

    ``sig1`` of the survey table is the median pixel noise in nanomaggies. The weight maps give
    the noise in the unit of the image. The two agree with ccdzpt + 2.5 log10(EXPTIME), to the
    rounding of the maps, and not without the exposure time or with the gain of about 4.
    """
    root = f"decam-cutouts/{case}/"
    table = Table.read(shared_data(root + "survey-ccds-1.fits.gz"))
    ratios = []
    for row in table:
        name = str(row["image_filename"]).strip()
        weight_path = shared_data(root + "images/" + name.replace("_ooi_", "_oow_"))
        weight = np.asarray(fits.getdata(weight_path, 1), np.float64)
        noise = 1.0 / np.sqrt(np.median(weight[weight > 0]))
        calib = PhotoCalib.from_zero_point(
            float(row["ccdzpt"]), exposure_time=float(row["exptime"]), reference=FluxReference.psf()
        )
        sigma = float(calib.flux(noise)) / NANOMAGGY
        ratios.append(sigma / row["sig1"])
        print(
            f"{row['filter']} {row['exptime']:5.0f} s: noise of the pixels {sigma:.5f} nanomaggies,"
            f" sig1 {row['sig1']:.5f}, ratio {ratios[-1]:.4f}"
        )
    # the cutout's own median against that of the whole CCD: the sky varies by a few per cent
    assert np.all(np.abs(np.array(ratios) - 1) < 0.06)


def test_testcase4_against_gaia(shared_data) -> None:
    """Three Gaia stars, published colour term, honest error; compared with ccdzpt."""
    formats = pytest.importorskip("pogson.formats")
    images = pytest.importorskip("pogson.images")
    path = shared_data(CASE4 + CASE4_NAME.format("ooi"))
    exposure = formats.read_exposure(path, psf="auto")
    chunks = sorted(shared_data(CASE4 + "gaia").glob("chunk-*.fits"))
    gaia = Table(np.concatenate([fits.getdata(p, 1) for p in chunks]))
    epoch = 2000.0 + (exposure.metadata["mjd"] - 51544.5) / 365.25
    ra, dec = propagate_positions(
        gaia["ra"],
        gaia["dec"],
        gaia["pmra"],
        gaia["pmdec"],
        from_epoch=gaia["ref_epoch"],
        to_epoch=epoch,
    )
    near = (np.abs(ra - 186.745) < 0.1) & (np.abs(dec - 25.4615) < 0.1)
    gaia, ra, dec = gaia[near], ra[near], dec[near]
    x, y = exposure.sky.pixel(ra, dec)
    inside = exposure.box.contains(x=x, y=y)
    gaia, x, y = gaia[inside], x[inside], y[inside]
    assert len(gaia) == 3
    color = np.asarray(gaia["phot_bp_mean_mag"] - gaia["phot_rp_mean_mag"], np.float64)
    err = {
        band: 1.0857 / np.asarray(gaia[f"phot_{band}_mean_flux_over_error"], np.float64)
        for band in ("g", "bp", "rp")
    }
    ref, ref_err = magnitude_to_flux(np.asarray(gaia["phot_g_mean_mag"], np.float64), err["g"])
    psf = FluxReference.psf()
    table = images.measure_sources(
        exposure, x=x, y=y, references=[psf], background=images.LocalAnnulus(25.0, 45.0)
    )
    fit = fit_zero_point(
        table["flux_psf"],
        table["flux_psf_err"],
        ref,
        ref_err,
        reference=psf,
        measure=exposure.measure,
        unit=exposure.unit,
        color=color,
        color_err=np.hypot(err["bp"], err["rp"]),
        color_term=published_color_term("gaia_dr2-decam_z"),
        bandpass="decam2014-z",
    )
    survey = Table.read(shared_data(CASE4 + "survey-ccds-1.fits.gz"))[0]
    exposure_time = float(survey["exptime"])
    ours = fit.zero_point - 2.5 * np.log10(exposure_time)
    low, high = (v - 2.5 * np.log10(exposure_time) for v in fit.zero_point_interval(0.95))
    print(fit.summary())
    print(f"colours {color}, residuals {fit.residuals}")
    print(
        f"per second: ours {ours:.4f} +- {fit.zero_point_err:.4f} (95 %: {low:.4f} to {high:.4f}), "
        f"ccdzpt {survey['ccdzpt']:.4f}, header MAGZPT 24.842"
    )
    assert fit.n_used == 3
    assert low < survey["ccdzpt"] < high
    assert abs(ours - survey["ccdzpt"]) < 0.15
    assert fit.zero_point_err > 0.005  # three stars cannot claim less


def test_gaia_chunks_match_themselves(shared_data) -> None:
    chunks = sorted(shared_data("decam-cutouts/testcase3/gaia").glob("chunk-*.fits"))
    stars = [Table.read(p) for p in chunks]
    ra = np.concatenate([t["ra"] for t in stars])
    dec = np.concatenate([t["dec"] for t in stars])
    match = match_catalogs(ra, dec, ra, dec, 0.1)
    np.testing.assert_array_equal(match.index, np.arange(len(ra)))
