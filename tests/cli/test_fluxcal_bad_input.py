"""`pogson fluxcal` with everything that can be wrong: exit code 2 and a sentence, never a guess."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from click.testing import CliRunner

from pogson.cli import main
from pogson.simulate import write_fibre_job

BANDS = ("ps1_g", "ps1_r", "ps1_i", "ps1_z")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fluxcal")
    lam = 10 ** np.arange(np.log10(3900.0), np.log10(8800.0), 2.5e-4)
    write_fibre_job(folder, seed=5, n_stars=3, n_fibres=4, wavelength=lam, sn=(60, 100))
    return folder


@pytest.fixture
def job(made, tmp_path):
    return shutil.copytree(made, tmp_path / "job")


def fluxcal(*arguments):
    return CliRunner().invoke(main, ["fluxcal", *map(str, arguments)])


def run(job, *more):
    return fluxcal("-c", job / "fluxcal.toml", "-o", job / "out", "-q", "-j", 1,
                   "--set", "report.enabled=false", *more)  # fmt: skip


def refused(result, *words):
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("Error: "), result.stderr
    assert "Traceback" not in result.output
    for word in words:
        assert word in result.output, result.output
    return True


def edit(job, extension, change):
    with fits.open(job / "frame.fits", mode="update") as hdus:
        hdus[extension].data = change(hdus[extension].data)


def edit_table(job, change):
    table = Table.read(job / "standards.ecsv")
    changed = change(table)
    table = table if changed is None else changed
    table.write(job / "standards.ecsv", overwrite=True)


# ---- wavelengths ---------------------------------------------------------------------------------


def test_wavelengths_that_do_not_increase(job):
    def swap(lam):
        lam = lam.copy()
        lam[[100, 101]] = lam[[101, 100]]
        return lam

    edit(job, "WAVELENGTH", swap)
    refused(run(job), "increas")


def test_wavelengths_of_another_length(job):
    edit(job, "WAVELENGTH", lambda lam: lam[:-5])
    refused(run(job), "Wavelengths have shape", "but the counts")


def test_air_or_vacuum_unknown(job):
    with fits.open(job / "frame.fits", mode="update") as hdus:
        del hdus[0].header["AIRORVAC"]
    refused(run(job), "vacuum or in air", "medium")
    assert run(job, "--medium", "vacuum").exit_code == 0


def test_medium_that_contradicts_the_file(job):
    refused(run(job, "--medium", "air"), "says its wavelengths are in vacuum")


# ---- pixels --------------------------------------------------------------------------------------


def test_nan_zero_and_negative_counts_and_zero_variance_are_no_obstacle(job):
    """NaN and zero variance are masked and said; zero and negative counts take part."""

    def worse(counts):
        counts = counts.copy()
        counts[0, 200:220] = np.nan
        counts[1, 300:303] = -5.0
        counts[1, 303:306] = 0.0
        return counts

    def unknown(ivar):
        ivar = ivar.copy()
        ivar[2, 400:420] = 0.0
        return ivar

    edit(job, "COUNTS", worse)
    edit(job, "IVAR", unknown)
    result = run(job)
    assert result.exit_code == 0, result.output
    with fits.open(job / "out" / "frame-calibrated.fits") as hdus:
        flux, ivar, mask = hdus["FLUX"].data, hdus["IVAR"].data, hdus["MASK"].data
        assert np.all(np.isnan(flux[0, 200:220]))
        assert np.all(mask[0, 200:220] & 1)
        assert np.all(np.isnan(flux[2, 400:420]))
        assert np.all(ivar[2, 400:420] == 0)
        assert np.all(mask[2, 400:420] & 2)
        assert np.all(flux[1, 300:303] < 0)
        assert np.all(flux[1, 303:306] == 0)
        assert np.all(ivar[1, 300:306] > 0)


def test_spectra_without_any_variance(job):
    edit(job, "IVAR", lambda ivar: 0.0 * ivar)
    refused(run(job), "No standard star could be matched", "0 usable pixels")


def test_negative_variance(job):
    edit(job, "IVAR", lambda ivar: -ivar)
    refused(run(job), "inverse variances are negative")


def test_all_counts_nan(job):
    edit(job, "COUNTS", lambda c: np.full_like(c, np.nan))
    refused(run(job), "No standard star could be matched")


def test_no_noise_at_all(job):
    with fits.open(job / "frame.fits") as hdus:
        kept = fits.HDUList([h.copy() for h in hdus if h.name != "IVAR"])
    kept.writeto(job / "frame.fits", overwrite=True)
    refused(run(job), "no noise", "IVAR")


def test_no_line_spread(job):
    with fits.open(job / "frame.fits") as hdus:
        kept = fits.HDUList([h.copy() for h in hdus if h.name != "LSF_SIGMA"])
    kept.writeto(job / "frame.fits", overwrite=True)
    refused(run(job), "line-spread")
    assert run(job, "--set", "frame.resolution=1800").exit_code == 0


def test_not_counts(job):
    with fits.open(job / "frame.fits", mode="update") as hdus:
        hdus["COUNTS"].header["BUNIT"] = "erg / (s cm2 Angstrom)"
    refused(run(job), "counts")


def test_no_frame_or_a_damaged_one(job):
    (job / "frame.fits").write_bytes(b"SIMPLE  =                    T" * 30)
    refused(run(job), "frame.fits")
    (job / "frame.fits").unlink()
    refused(run(job), "does not exist")


# ---- standards -----------------------------------------------------------------------------------


def test_star_without_photometry_is_named(job):
    def lose(table):
        i = list(table["name"]).index("star 2")
        for band in BANDS:
            table[band][i] = np.nan

    edit_table(job, lose)
    result = run(job)
    assert result.exit_code == 0, result.output
    assert "star 2: it has no photometry" in result.output
    assert "2 of 2 standard stars used" in result.output


def test_star_that_is_asked_for_but_not_in_the_table(job):
    refused(
        run(job, "--set", 'standards.only=["star 1", "HD 9"]'), "'HD 9'", "no row of photometry"
    )


def test_no_photometry_at_all_never_becomes_a_scale_of_one(job):
    def lose(table):
        for band in BANDS:
            table[f"{band}_err"] = 0.0

    edit_table(job, lose)
    refused(run(job), "No valid standard star", "no flux scale")
    assert not list(job.glob("out/*-calibrated.fits"))


def test_codes_for_missing_magnitudes(job):
    edit_table(job, lambda t: t.replace_column("ps1_g", np.full(len(t), -999.0)))
    result = run(job, "--dry-run")
    assert "ps1_r, ps1_i, ps1_z" in result.output
    assert "ps1_g" not in result.output


def test_bands_without_errors(job):
    edit_table(job, lambda t: t.remove_columns([f"{b}_err" for b in BANDS]))
    refused(run(job), "no band that can be used", "ps1_g_err")


def test_bands_outside_the_coverage(job):
    def add(table):
        table["2mass_k"], table["2mass_k_err"] = 15.0, 0.02

    edit_table(job, add)
    refused(run(job, "--set", "standards.bands=['ps1_g', '2mass_k']"), "2mass_k", "99 %")
    result = run(job)
    assert result.exit_code == 0
    assert "Bands not used: 2mass_k" in result.output


def test_system_not_said(job):
    def silent(table):
        table.meta.clear()

    edit_table(job, silent)
    refused(run(job), "AB or Vega")
    assert run(job, "--system", "ab", "--dry-run").exit_code == 0


def test_no_valid_standard(job):
    def elsewhere(table):
        table["fibre"] = [91, 92, 93]

    edit_table(job, elsewhere)
    refused(run(job), "No valid standard star", "fibre 91 is not in the frame")
    edit_table(job, lambda t: t[:0])
    refused(run(job), "no valid standard star")


def test_rows_are_never_matched_by_order(job):
    edit_table(job, lambda t: t.remove_columns(["fibre", "name", "ra", "dec"]))
    refused(run(job), "never matched by their order")


def test_fibre_numbers_of_another_plate(job):
    def turn(table):
        table["fibre"] = np.roll(table["fibre"], 1)

    edit_table(job, turn)
    refused(run(job), "arcsec away from the star")
    assert run(job, "--set", "standards.match=position").exit_code == 0


def test_two_rows_on_one_fibre(job):
    def double(table):
        table["fibre"][1] = table["fibre"][0]
        table.remove_columns(["ra", "dec"])

    edit_table(job, double)
    refused(run(job), "are all on fibre")


def test_two_stars_that_contradict_each_other(job):
    def two(table):
        table = table[:2]
        for band in BANDS:
            table[band][0] -= 5
        return table

    edit_table(job, two)
    result = run(job)
    assert "The two stars contradict each other" in result.output
    header = fits.getheader(job / "out" / "frame-calibrated.fits")
    assert header["FCALNSTR"] == 2
    assert header["FCALSERR"] > 1


def test_too_few_stars_left(job):
    refused(run(job, "--set", "model.least_stars=4"), "model.least_stars asks for 4")


def test_no_table(job):
    (job / "standards.ecsv").unlink()
    refused(run(job), "no table of standards")


# ---- templates and the rest ----------------------------------------------------------------------


def test_library_missing_or_empty(job):
    refused(run(job, "-t", job / "nowhere"), "There is no template library")
    (job / "empty").mkdir()
    refused(run(job, "-t", job / "empty"), "holds no BOSZ spectra")


def test_library_that_may_only_be_read(job):
    """Nothing is written beside the templates, so that a read-only folder will do."""
    library = job / "library"
    library.mkdir()
    shutil.move(job / "templates.fits", library)
    (library / "templates.fits").chmod(0o444)
    library.chmod(0o555)
    before = sorted(library.iterdir())
    assert run(job, "-t", library / "templates.fits").exit_code == 0
    assert sorted(library.iterdir()) == before
    library.chmod(0o755)


def test_output_that_cannot_be_written(job):
    (job / "file").write_text("x")
    refused(fluxcal("-c", job / "fluxcal.toml", "-o", job / "file" / "out", "-q"), "Cannot write")
    if os.geteuid() != 0:
        (job / "closed").mkdir(mode=0o555)
        refused(fluxcal("-c", job / "fluxcal.toml", "-o", job / "closed" / "out"), "Cannot write")


def test_unknown_observatory(job):
    refused(run(job, "--extinction", "atlantis"), "neither an observatory", "paranal")


def test_arguments_that_are_missing_or_misspelt(job):
    refused(fluxcal(job / "frame.fits"), "STANDARDS, --templates must be given")
    refused(run(job, "--set", "model.extintion=ctio"), "extinction")
    refused(fluxcal("-c", job / "none.toml"), "no configuration file")


def test_science_at_another_airmass_needs_an_extinction_curve(job):
    shutil.copy(job / "frame.fits", job / "later.fits")
    with fits.open(job / "later.fits", mode="update") as hdus:
        hdus[0].header["AIRMASS"] = 1.6
    result = run(job, "--apply", job / "later.fits")
    assert result.exit_code == 1
    assert "later (apply)" in result.output
    assert "extinction curve" in result.output
    assert not (job / "out" / "later-calibrated.fits").exists()
    assert run(job, "--apply", job / "later.fits", "--extinction", "mko").exit_code == 0


# ---- magnitudes of another system ----------------------------------------------------------------


def test_vega_magnitudes_given_as_ab_are_flagged(job):
    from pogson.spectro import vega_to_ab

    def convert(table):
        for band in BANDS:
            table[band] -= vega_to_ab(band)

    edit_table(job, convert)
    result = run(job)
    assert result.exit_code == 1, result.output
    assert "given as AB, look like Vega" in result.stderr
    said = run(job, "--system", "Vega")
    # the table's own word loses against the option
    assert said.exit_code == 0, said.output
    assert "look like" not in said.output


def test_report_again(job):
    assert run(job).exit_code == 0
    assert not (job / "out" / "fluxcal.html").exists()
    result = CliRunner().invoke(main, ["report", str(job / "out")])
    assert result.exit_code == 0, result.output
    assert (job / "out" / "fluxcal.html").stat().st_size > 100_000
