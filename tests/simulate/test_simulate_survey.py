"""Stars, files and the comparison with truth."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from pogson.errors import MaskedDataError, MissingDataError, PogsonValueError
from pogson.formats import read_catalog, read_exposure, read_reference_catalog
from pogson.sed import Bandpass, stellar_template, synthetic_flux
from pogson.simulate import (
    StarCatalog,
    demo_model,
    draw_stars,
    reference_catalog,
    simulate_survey,
    system_ties,
    truth_comparison,
)
from pogson.units import Measure, flux_to_magnitude

SEED = 20261121


@pytest.fixture(scope="module")
def small():
    return demo_model(size=160).with_(n_visits=2)


@pytest.fixture(scope="module")
def survey(small, tmp_path_factory):
    steps = []
    made = simulate_survey(
        small,
        tmp_path_factory.mktemp("survey"),
        rng_seed=SEED,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert steps == [(1, 2), (2, 2)]
    return made


@pytest.fixture(scope="module")
def stars():
    return draw_stars(demo_model(), 340.0, rng_seed=SEED)


# -- stars ------------------------------------------------------------------------------------
def test_star_fluxes_are_those_of_the_templates(stars):
    """The interpolated grid agrees with the template of each star to 1 mmag."""
    model = demo_model()
    for i in range(0, len(stars), len(stars) // 12):
        spectrum = stellar_template(
            float(stars.teff[i]),
            metallicity=float(stars.metallicity[i]),
            wavelength_range=(2900.0, 12000.0),
        )
        r = model.bands[1].standard_bandpass
        scale = stars.flux("r", "standard")[i] / synthetic_flux(spectrum, r)
        for band in model.bands:
            for system, bandpass in (
                ("natural", band.natural_bandpass),
                ("standard", band.standard_bandpass),
            ):
                expected = scale * synthetic_flux(spectrum, bandpass)
                assert stars.flux(band.name, system)[i] == pytest.approx(expected, rel=1e-3)


def test_star_counts_and_colors_are_realistic(stars):
    model = demo_model()
    r = flux_to_magnitude(stars.flux("r", "standard"))
    color = flux_to_magnitude(stars.flux("g", "standard")) - r
    assert model.stars.magnitude_range[0] <= r.min()
    assert r.max() <= model.stars.magnitude_range[1] + 1e-9
    assert np.sum(r > 21) > 3 * np.sum(r < 18)
    assert 0.35 < np.median(color) < 0.6
    assert np.ptp(np.percentile(color, [5, 95])) > 0.5


def test_stars_keep_their_distance(stars):
    model = demo_model()
    x = (stars.ra - model.ra) * np.cos(np.deg2rad(stars.dec)) * 3600
    y = (stars.dec - model.dec) * 3600
    distance = cKDTree(np.column_stack([x, y])).query(np.column_stack([x, y]), k=2)[0][:, 1]
    assert distance.min() >= 0.999 * model.stars.minimum_separation


def test_a_star_does_not_depend_on_the_others():
    """Stars are keyed by id: a denser field keeps nothing but adds; one star's numbers stay."""
    model = demo_model()
    loose = model.with_(stars=replace(model.stars, minimum_separation=0.0))
    few = draw_stars(loose.with_(stars=replace(loose.stars, density=5.0)), 100.0, rng_seed=SEED)
    many = draw_stars(loose, 100.0, rng_seed=SEED)
    n = len(few)
    assert len(many) > 2 * n
    np.testing.assert_array_equal(few.ra, many.ra[:n])
    np.testing.assert_array_equal(few.flux("g"), many.flux("g")[:n])


def test_catalog_is_immutable_and_checked(stars):
    with pytest.raises(ValueError, match="read-only"):
        stars.ra[0] = 0.0
    with pytest.raises(MissingDataError, match="No band 'z'"):
        stars.flux("z")
    with pytest.raises(PogsonValueError, match="Unknown system"):
        stars.flux("g", "instrumental")
    one = np.array([1, 1])
    with pytest.raises(PogsonValueError, match="different"):
        StarCatalog(one, *[np.zeros(2) for _ in range(4)])


def test_reference_catalog_has_the_errors_it_claims(stars):
    print("seed", SEED)
    model = demo_model()
    table = reference_catalog(model, stars, rng_seed=SEED)
    index = np.searchsorted(stars.id, table["id"])
    outliers = 0
    for band in "gr":
        true = flux_to_magnitude(stars.flux(band, "standard"))[index]
        pull = (np.asarray(table[f"mag_{band}"]) - true) / np.asarray(table[f"mag_{band}_err"])
        bad = np.abs(pull) > 5
        outliers += bad.sum()
        n = np.sum(~bad)
        assert np.std(pull[~bad]) == pytest.approx(1.0, abs=5 / np.sqrt(2 * n))
        assert abs(np.mean(pull[~bad])) < 5 / np.sqrt(n)
    assert 0 < outliers < 0.05 * 2 * len(table)
    order = np.random.default_rng(1).permutation(len(stars))
    again = reference_catalog(model, stars.take(order), rng_seed=SEED)
    np.testing.assert_array_equal(again["mag_g"], table["mag_g"])


def test_natural_and_standard_differ_by_a_small_linear_color_term(stars):
    model = demo_model()
    ties = system_ties(model, stars)
    color = flux_to_magnitude(stars.flux("g", "standard")) - flux_to_magnitude(
        stars.flux("r", "standard")
    )
    for band, sign in (("g", -1), ("r", 1)):
        term = ties[band]
        assert 0.005 < sign * term["slope"] < 0.08
        difference = flux_to_magnitude(stars.flux(band)) - flux_to_magnitude(
            stars.flux(band, "standard")
        )
        residual = difference - term["tie"] - term["slope"] * (color - model.color_pivot)
        assert np.sqrt(np.mean(residual**2)) < 0.002


# -- files --------------------------------------------------------------------------------------
def test_files_are_plain_fits_with_a_valid_wcs(small, survey):
    truth = read_catalog(survey.truth_catalog)
    ra, dec = np.asarray(truth["ra"]), np.asarray(truth["dec"])
    for path in survey.images:
        for part in ("image", "mask", "weight"):
            with fits.open(str(path).replace("_image", f"_{part}")) as hdus:
                hdus.verify("exception")
                assert [h.name for h in hdus[1:]] == ["D1", "D2", "D3", "D4"]
                assert hdus[1].data.shape == (160, 160)
        with fits.open(path) as hdus:
            primary = hdus[0].header
            for key in ("EXPTIME", "FILTER", "AIRMASS", "MJD-OBS", "EXPNUM", "INSTRUME"):
                assert key in primary
            header = hdus[2].header
            assert header["BUNIT"] == "adu"
            assert header["GAIN"] == small.camera.gain
            assert "MAGZERO" not in header
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                wcs = WCS(header)
            assert header["CTYPE1"] == "RA---TPV"
            x, y = wcs.all_world2pix(ra, dec, 0)
            inside = (x > 5) & (x < 154) & (y > 5) & (y < 154)
            bright = inside & (np.asarray(truth["flux_r_standard"]) > 1e5)
            assert bright.any()
            data = hdus[2].data
            for i in np.flatnonzero(bright):
                j, k = round(float(y[i])), round(float(x[i]))
                assert np.nanmax(data[j - 1 : j + 2, k - 1 : k + 2]) > 2 * np.nanmedian(data)


def test_read_exposure_knows_what_the_numbers_mean(small, survey):
    path = survey.images[0]
    exposure = read_exposure(path, detector="D4", psf=survey.psfs[3])
    assert exposure.measure is Measure.SURFACE_BRIGHTNESS
    assert exposure.metadata["gain"] == small.camera.gain
    assert exposure.metadata["exposure_time"] > 0
    assert str(exposure.detector) == "D4"
    a0 = small.camera.reference_pixel_area
    area = exposure.sky.pixel_area(x=10.0, y=150.0)
    assert exposure.area_ratio(x=10.0, y=150.0) == pytest.approx(area / a0, rel=1e-6)
    with fits.open(str(path).replace("_image", "_mask")) as hdus:
        mask = hdus["D4"].data
    bits = exposure.mask_bits
    for name, value in (("NO_DATA", 16), ("EDGE", 32), ("BAD", 1)):
        np.testing.assert_array_equal((exposure.mask >> bits[name]) & 1, (mask & value) > 0)
    assert 2.5 < exposure.psf.fwhm(x=80.0, y=80.0) < 4.5


def test_psfex_files_hold_the_true_psf(small, survey, tmp_path):
    truth = simulate_survey(small.with_(psf_files="json"), tmp_path, rng_seed=SEED)
    for k in (0, 7):
        path = survey.images[k // 4]
        detector = f"D{k % 4 + 1}"
        files = [read_exposure(path, detector=detector, psf=s.psfs[k]) for s in (survey, truth)]
        x, y = np.array([20.0, 80.3, 140.7]), np.array([30.2, 75.1, 130.0])
        ours, true = (e.psf.enclosed_energy(9.0, x=x, y=y) for e in files)
        np.testing.assert_allclose(ours, true, atol=1e-3)
        assert np.std(ours / true) < 2e-4


def test_files_do_not_depend_on_workers_and_repeat(small, survey, tmp_path):
    again = simulate_survey(small, tmp_path, rng_seed=SEED, workers=2)

    def digest(made):
        files = sorted(p for p in made.folder.rglob("*") if p.suffix in (".fits", ".json", ".toml"))
        return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    assert digest(again) == digest(survey)
    np.testing.assert_array_equal(
        read_catalog(again.reference_catalog)["mag_g"],
        read_catalog(survey.reference_catalog)["mag_g"],
    )


def test_truth_and_reference_are_readable_and_consistent(small, survey):
    truth = read_catalog(survey.truth_catalog)
    assert str(truth["flux_g"].unit) == "nJy"
    assert truth["flux_g"].info.meta == {"reference": {"kind": "total"}}
    told = json.loads(survey.truth_exposures.read_text())
    assert [e["band"] for e in told["exposures"]] == ["g", "r"]
    tie = told["color_terms"]["g"]["tie"]
    ratio = np.asarray(truth["flux_g"]) / np.asarray(truth["flux_g_ab"])
    np.testing.assert_allclose(ratio, 10 ** (0.4 * tie), rtol=1e-12)
    for exposure in told["exposures"]:
        assert exposure["zero_point"] == pytest.approx(
            flux_to_magnitude(exposure["calibration"]), abs=1e-9
        )
    reference = read_reference_catalog(survey.reference_catalog, bands=["g", "r"])
    flux, err = reference.flux("g")
    assert np.all(flux > 0)
    assert np.all(err > 0)


def test_config_is_accepted_by_the_run(survey):
    from pogson.run.config import load_config
    from pogson.run.plan import plan_exposures

    config = load_config(survey.config)
    tasks = plan_exposures(config)
    assert len(tasks) == 8
    assert {t.psf for t in tasks} == {str(p) for p in survey.psfs}


# -- comparison ---------------------------------------------------------------------------------
def catalogs(seed, n=400, scale=1.0, sigma=0.01):
    rng = np.random.default_rng(seed)
    flux = 10 ** rng.uniform(3, 5, n)
    # on a grid, so that no two stars are within the matching radius
    row, column = np.divmod(np.arange(n), 20)
    truth = Table({"ra": 10 + 0.01 * column, "dec": 0.01 * row, "flux_g": flux})
    err = sigma * flux
    order = rng.permutation(n)
    seen = Table({"ra": truth["ra"][order] + 2e-5, "dec": truth["dec"][order]})
    seen["f"] = (flux * scale + err * rng.normal(size=n))[order]
    seen["f_err"] = err[order]
    return seen, truth


@given(st.integers(0, 2**31), st.floats(-0.02, 0.02))
def test_comparison_finds_a_known_offset(seed, offset):
    print("seed", seed)
    seen, truth = catalogs(seed, scale=10 ** (-0.4 * offset))
    result = truth_comparison(seen, truth, flux="f", true_flux="flux_g")
    assert result.row.size == len(truth)
    # a median of 400 stars of 10 mmag: 0.68 mmag; 6 sigma, and 1.1 % of 20 mmag beyond first order
    assert abs(result.median - 1e3 * offset) < 6 * result.median_err + 0.25
    assert result.median_err == pytest.approx(10.86 * 1.2533 / 20, rel=0.05)
    assert abs(result.pull_rms - 1) < 6 / np.sqrt(800) + 0.02
    assert result.n_outliers <= 2
    np.testing.assert_allclose(truth["ra"][result.truth_row], seen["ra"][result.row], atol=3e-5)


def test_comparison_counts_what_it_leaves_out():
    seen, truth = catalogs(3)
    seen["f"][0] *= 3
    seen["ra"][1] += 1.0
    seen["f_err"][2] = np.nan
    use = np.ones(len(seen), bool)
    use[3] = False
    result = truth_comparison(seen, truth, flux="f", true_flux="flux_g", use=use)
    assert (result.n_outliers, result.n_unmatched) == (1, 1)
    assert result.row.size == len(seen) - 3
    assert json.loads(json.dumps(result.to_dict()))["n"] == len(seen) - 3


def test_comparison_refuses_what_cannot_be_compared():
    seen, truth = catalogs(4)
    with pytest.raises(MissingDataError, match="no column 'flux_z'"):
        truth_comparison(seen, truth, flux="f", true_flux="flux_z")
    with pytest.raises(PogsonValueError, match="use has shape"):
        truth_comparison(seen, truth, flux="f", true_flux="flux_g", use=[True])
    truth["ra"] += 5
    with pytest.raises(MaskedDataError, match=r"true star within 0\.5 arcsec"):
        truth_comparison(seen, truth, flux="f", true_flux="flux_g")


def test_color_term_of_the_demo_from_its_bandpasses():
    g = Bandpass.from_speclite("decam2014-g")
    assert demo_model().bands[0].natural_bandpass.pivot_wavelength == pytest.approx(
        g.pivot_wavelength + 40, abs=0.5
    )
