"""`pogson stars` and `pogson offsets` on the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from astropy.table import Table
from click.testing import CliRunner

from pogson.cli import main
from pogson.formats import read_catalog
from pogson.run.stars_simulated import write_stars_job
from pogson.stars import read_grid, read_offsets, read_posteriors


@pytest.fixture
def job(tmp_path):
    return write_stars_job(tmp_path, n_stars=24, n_models=500, rng_seed=3)


def pogson(*arguments):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert "Traceback" not in result.output
    return result


def refused(*arguments):
    """Run a command that must fail with a sentence, and return it."""
    result = pogson(*arguments)
    assert result.exit_code == 2, result.output
    assert "Error: " in result.output
    return result.output


def test_fit_from_a_configuration(job, tmp_path):
    result = pogson("stars", "fit", job, "-o", tmp_path / "out", "-j", "1", "-q")
    assert result.exit_code == 0, result.output
    assert "24 of 24 stars fitted" in result.output
    names = {"posteriors.parquet", "summary.parquet", "stars.json", "stars.html", "config.json"}
    assert names <= {p.name for p in (tmp_path / "out").iterdir()}
    missing = json.loads((tmp_path / "out/stars.json").read_text())["missing"]
    assert missing["PS_g"] == {"NaN": 1}
    assert missing["PS_r"] == {"0": 1}


def test_fit_from_a_catalogue_alone(job, tmp_path):
    arguments = ("stars", "fit", tmp_path / "stars.ecsv", "--grid", tmp_path / "grid.h5", "-q",
                 "-o", tmp_path / "out", "-j", "1", "--set", "priors.distance=flat",
                 "--set", "report.enabled=false", "--set", "fit.draws=40")  # fmt: skip
    result = pogson(*arguments)
    assert result.exit_code == 0, result.output
    fit = read_posteriors(tmp_path / "out/posteriors.parquet")
    assert (len(fit), fit.n_draws) == (24, 40)
    assert fit.ids.tolist() == list(range(1000, 1024))


def test_dry_run_says_what_is_missing_and_writes_nothing(job, tmp_path):
    result = pogson("stars", "fit", job, "--dry-run")
    assert result.exit_code == 0
    assert "24 stars of stars.ecsv" in result.output
    assert "2MASS_J: missing" not in result.output
    assert "PS_i: missing 1 x -9999" in result.output
    assert not (tmp_path / "stars-output").exists()
    result = pogson("offsets", job, "--gauge", "mean", "--dry-run")
    assert "offsets from 24 stars, gauge mean" in result.output


def test_offsets_and_their_application(job, tmp_path):
    quick = [f"--set={s}" for s in ("offsets.max_rounds=3", "offsets.averages=1", "fit.draws=60",
             "offsets.draws=60", "report.stars=1", "fit.proposals=500")]  # fmt: skip
    out = tmp_path / "off"
    result = pogson("offsets", job, "--gauge", "PS_r", "--truth", tmp_path / "truth.txt", "-q",
                    "-j", "1", "-o", out, *quick)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "Offsets of 8 bands from 24 stars, relative to PS_r" in result.output
    assert "Against the expected offsets" in result.output
    made = read_offsets(out / "offsets.ecsv")
    assert made.gauge == "PS_r"
    assert made.offsets[1] == 1.0
    assert np.isfinite(made.covariance).all()
    assert np.allclose(read_offsets(out / "offsets.txt").offsets, made.offsets, atol=1e-7)
    assert "data:image/png" in (out / "offsets.html").read_text()
    again = pogson("offsets", job, "--gauge", "PS_r", "--truth", tmp_path / "truth.txt",
                   "-j", "1", "-o", out, *quick)  # fmt: skip
    assert "1 up to date" in again.output

    new = tmp_path / "new.ecsv"
    result = pogson("stars", "apply-offsets", tmp_path / "stars.ecsv", out / "offsets.ecsv", new)
    assert result.exit_code == 0, result.output
    old, corrected = Table.read(tmp_path / "stars.ecsv"), Table.read(new)
    np.testing.assert_allclose(
        corrected["2MASS_H"][5], old["2MASS_H"][5] + made.magnitude_offsets[6], atol=1e-9
    )
    assert corrected["PS_i"][20] == -9999
    assert "before" in refused("stars", "apply-offsets", new, out / "offsets.ecsv",
                               tmp_path / "twice.ecsv")  # fmt: skip
    assert not (tmp_path / "twice.ecsv").exists()
    result = pogson("stars", "fit", job, "--offsets", out / "offsets.ecsv", "-j", "1", "-q",
                    "--set", "fit.error_floor=offsets",
                    "--set", "report.enabled=false")  # fmt: skip
    assert result.exit_code == 0, result.output
    notes = json.loads((tmp_path / "stars-output/stars.json").read_text())["notes"]
    assert any("gauge PS_r) applied" in note for note in notes)


def test_grids(tmp_path):
    file = tmp_path / "grid.h5"
    result = pogson("stars", "grid", file, "--build", "simulated", "--models", "500")
    assert result.exit_code == 0, result.output
    assert "442 models" in result.output
    assert "442 models" in pogson("stars", "grid", file).output
    assert "442 models" in pogson("stars", "grid", file, "--band", "PS_g").output
    assert "--force" in refused("stars", "grid", file, "--build", "simulated")
    assert "did you mean 'PS_g'" in refused("stars", "grid", file, "--band", "PS_G")
    made = tmp_path / "made.h5"
    result = pogson("stars", "grid", made, "--build", "synthetic", "--band", "g=sdss2010-g",
                    "--band", "r=sdss2010-r", "--temperatures", "4500:7500:1000", "-q")  # fmt: skip
    assert result.exit_code == 0, result.output
    grid = read_grid(made)
    sun = 10 - 5 + grid.magnitudes([1])[0] - 10 - 5 + 10  # absolute, at 5500 K
    assert grid.n_models == 4
    assert sun.shape == (2,)
    assert 4.0 < grid.magnitudes([1])[0, 1] - 10 < 6.0  # M_r of a G dwarf is near 4.7


def test_wrong_grid_commands_are_sentences(tmp_path):
    text = tmp_path / "a.txt"
    text.write_text("no grid")
    assert "HDF5" in refused("stars", "grid", text)
    assert "ending in .h5" in refused("stars", "grid", tmp_path / "x.fits", "--build", "simulated")
    assert "no folder" in refused("stars", "grid", tmp_path / "no/x.h5", "--build", "simulated")
    new = tmp_path / "x.h5"
    assert "for grids of kind mist" in refused("stars", "grid", new, "--build", "simulated",
                                               "--mini", "1,2")  # fmt: skip
    assert "low:high:step" in refused("stars", "grid", new, "--build", "mist", "--mini", "1:2")
    assert "needs filters" in refused("stars", "grid", new, "--build", "synthetic")
    assert not new.exists()


def with_column(job, name, values):
    """Replace a column of the catalogue."""
    path = job.parent / "stars.ecsv"
    table = Table.read(path)
    table[name] = values
    table.write(path, format="ascii.ecsv", overwrite=True)


def test_bad_input_is_a_sentence_and_leaves_nothing(job, tmp_path):
    fit = ("stars", "fit", job, "-j", "1", "-q")
    assert "did you mean 'PS_g'" in refused(*fit, "--set", 'grid.bands=["PS_G"]')
    assert "look like magnitudes" in refused(*fit, "--set", "catalog.kind=flux")
    assert "no file" in refused(*fit, "--grid", tmp_path / "none.h5")
    assert "HDF5" in refused(*fit, "--grid", tmp_path / "stars.ecsv")
    assert "no configuration file" in refused("stars", "fit", tmp_path / "none.toml")
    assert "--grid" in refused("stars", "fit", tmp_path / "stars.ecsv")
    assert "Did you mean 'draws'" in refused(*fit, "--set", "fit.drows=3")
    assert "no column 'x'" in refused(*fit, "--set", 'catalog.bands={PS_g=["x", "y"]}')
    assert "needs the file" in refused(*fit, "--set", "fit.error_floor=offsets")
    assert "limits" in refused(*fit, "--set", "priors.av_limits=[2.0, 1.0]")
    assert "within the limits" in refused(*fit, "--set", "catalog.select={PS_g=[1, 2]}")
    (tmp_path / "bad.txt").write_text("PS_g -0.02\n")
    assert "not positive" in refused(*fit, "--offsets", tmp_path / "bad.txt")
    (tmp_path / "other.txt").write_text("WISE_W1 1.02\n")
    assert "WISE_W1" in refused(*fit, "--offsets", tmp_path / "other.txt")
    assert not list((tmp_path / "stars-output").glob("*.parquet"))


def test_bad_errors_are_masked_and_counted_or_refused(job, tmp_path):
    with_column(job, "2MASS_J_Err", [0.0, -0.5] * 12)
    fit = ("stars", "fit", job, "-j", "1", "-q", "--set", "report.enabled=false")
    assert "error" in refused(*fit, "--set", "catalog.bad_errors=raise")
    result = pogson(*fit)
    assert result.exit_code == 0, result.output
    assert "24 stars BAD_ERROR" in result.output
    content = json.loads((tmp_path / "stars-output/stars.json").read_text())
    assert content["missing"]["2MASS_J"]["error zero or negative"] == 24


def test_stars_without_parallax_or_bands_keep_their_rows(job, tmp_path):
    table = Table.read(tmp_path / "stars.ecsv")
    table["parallax"][3] = np.nan
    for name in table.colnames:
        if name.endswith("_Err"):
            table[name.removesuffix("_Err")][5] = -999.0
    table.write(tmp_path / "stars.ecsv", format="ascii.ecsv", overwrite=True)
    result = pogson("stars", "fit", job, "-j", "1", "-q", "--set", "report.stars=1")
    assert result.exit_code == 0, result.output
    assert "23 of 24 stars fitted" in result.output
    assert "1 stars NO_PARALLAX" in result.output
    assert "1 stars ALL_MASKED" in result.output


def test_offsets_want_a_gauge_that_the_data_can_hold(job, tmp_path):
    offsets = ("offsets", job, "-q")
    assert "grey term" in refused(*offsets)
    assert "allowed" in refused(*offsets, "--gauge", "PS_w")
    nothing = ("--set", "catalog.parallax=none")
    assert "needs parallaxes" in refused(*offsets, "--gauge", "parallax", *nothing)
    assert "No star" in refused(*offsets, "--gauge", "mean", "--set", "offsets.min_bands=9")
    assert "belong to" in refused(*offsets, "--gauge", "mean", "--set", "fit.error_floor=0.02")
    (tmp_path / "part.txt").write_text("PS_g 1.02\n")
    assert "PS_r" in refused(*offsets, "--gauge", "mean", "--truth", tmp_path / "part.txt")
    assert not (tmp_path / "stars-output" / "offsets.txt").exists()


def test_results_of_another_grid_are_not_combined(job, tmp_path):
    """Parts of a killed job with one grid are refused with another."""
    from pogson.stars import posterior_file, simulated_grid, write_grid

    folder = tmp_path / "stars-output" / "posteriors.parquet.parts"
    posterior_file.PosteriorWriter(folder.with_suffix(""), {"grid": "another"}, 1)
    assert folder.is_dir()
    said = refused("stars", "fit", job, "-j", "1", "-q")
    assert "another fit" in said
    # a finished job is simply done again
    folder.joinpath("plan.json").unlink()
    assert pogson("stars", "fit", job, "-j", "1", "-q").exit_code == 0
    first = read_posteriors(tmp_path / "stars-output/posteriors.parquet")
    write_grid(simulated_grid(300), tmp_path / "grid.h5")
    assert pogson("stars", "fit", job, "-j", "1", "-q").exit_code == 0
    second = read_posteriors(tmp_path / "stars-output/posteriors.parquet")
    assert first.grid_digest != second.grid_digest


def test_text_identifiers_and_masks_in_columns_of_their_own(job, tmp_path):
    stars = Table.read(tmp_path / "stars.ecsv")
    stars["source_id"] = [f"star {k} of M 67" for k in range(len(stars))]
    stars = Table(stars, masked=True)
    stars["parallax"].mask[3] = True
    stars.write(tmp_path / "stars.parquet")  # astropy: parallax and parallax.mask
    result = pogson("stars", "fit", tmp_path / "stars.parquet", "-g", tmp_path / "grid.h5", "-q",
                    "-o", tmp_path / "out", "-j", "1", "--set", "priors.distance=modulus",
                    "--set", "fit.draws=20", "--set", "fit.proposals=200")  # fmt: skip
    assert result.exit_code == 0, result.output
    fit = read_posteriors(tmp_path / "out/posteriors.parquet")
    assert np.flatnonzero(fit.flags & 1).tolist() == [3]
    summary = read_catalog(tmp_path / "out/summary.parquet")
    assert summary["id"][3] == "star 3 of M 67"
    assert "star 3 of M 67" in (tmp_path / "out/stars.html").read_text()


def test_what_is_wrong_is_said_before_anything_is_fitted(job, tmp_path):
    stars = Table.read(tmp_path / "stars.ecsv")
    stars.remove_columns(["l", "b"])
    stars.write(tmp_path / "nowhere.ecsv", format="ascii.ecsv")
    grid, out = ("-g", tmp_path / "grid.h5"), tmp_path / "none"
    args = ("stars", "fit", tmp_path / "nowhere.ecsv", *grid, "-o", out, "-j", "1")
    assert "[catalog] position" in refused(*args)
    assert "[catalog] position" in refused(*args, "--dry-run")
    args = ("stars", "fit", tmp_path / "stars.ecsv", *grid, "-o", out, "-j", "1", "--set")
    assert "low < high" in refused(*args, "priors.av_limits=[2,0]")
    assert "power of two" in refused(*args, "fit.nside=3")
    assert "PS_g more than once" in refused(*args, 'grid.bands=["PS_g","PS_g"]')
    assert "l and b exchanged" in refused(*args, 'catalog.position=["b","l"]')
    assert not out.exists()


def test_offsets_of_too_few_stars(job, tmp_path):
    stars = Table.read(tmp_path / "stars.ecsv")
    stars[:5].write(tmp_path / "few.ecsv", format="ascii.ecsv")
    said = refused("offsets", tmp_path / "few.ecsv", "-g", tmp_path / "grid.h5", "-j", "1", "-q",
                   "-o", tmp_path / "off", "--gauge", "PS_r", "--set", "priors.distance=modulus",
                   "--set", "offsets.draws=20", "--set", "fit.proposals=200")  # fmt: skip
    assert "too few for 8 offsets" in said


def test_offsets_are_not_applied_to_what_columns_are_not(job, tmp_path):
    offsets = ("--column", "PS_g=PS_g")
    args = ("stars", "apply-offsets", tmp_path / "stars.ecsv", tmp_path / "truth.txt",
            tmp_path / "new.ecsv", *offsets)  # fmt: skip
    assert "look like magnitudes. Say --kind magnitude" in refused(*args, "--kind", "flux")
    stars = Table.read(tmp_path / "stars.ecsv")
    stars["PS_g"] = 10 ** (-0.4 * np.where(stars["PS_g"] > 0, stars["PS_g"], 20.0))
    stars["PS_g"][2] = -999.0
    stars["PS_g_Err"] = 0.02 * stars["PS_g"]
    stars["PS_g_Err"][2] = -999.0
    stars.write(tmp_path / "stars.ecsv", format="ascii.ecsv", overwrite=True)
    assert "look like fluxes. Say --kind flux" in refused(*args)
    assert pogson(*args, "--kind", "flux").exit_code == 0
    new, factor = Table.read(tmp_path / "new.ecsv"), read_offsets(tmp_path / "truth.txt").offsets[0]
    rows = np.arange(24) != 2
    for column in ("PS_g", "PS_g_Err"):
        np.testing.assert_allclose(new[column][rows], factor * stars[column][rows], rtol=1e-6)
        assert new[column][2] == -999.0  # still "not measured"


def test_what_is_asked_for_and_not_there(job, tmp_path):
    stars = Table.read(tmp_path / "stars.ecsv")
    stars.remove_columns(["2MASS_Ks", "2MASS_Ks_Err"])
    stars.write(tmp_path / "stars.fits")
    args = ("stars", "fit", tmp_path / "stars.fits", "-g", tmp_path / "grid.h5", "--dry-run")
    bands = ("--set", 'grid.bands=["PS_g","PS_r","2MASS_Ks"]')
    assert "asks for 2MASS_Ks" in refused(*args, *bands)
    for table in ("nope", "7", "0"):
        said = refused(*args, "--set", f"catalog.table={table}")
        assert "has no table" in said
        assert "extensions are: 1" in said
    text = ("--offsets", tmp_path / "truth.txt", "--set", "fit.error_floor=offsets")
    assert "holds no scatter" in refused(*args, *text)
    args = ("offsets", job, "--gauge", "PS_r", "--dry-run", "--set")
    assert "fit_error_scale belong" in refused(*args, "fit.error_floor=0.02")
    assert "fit_error_scale belong" in refused(*args, "fit.fit_error_scale=1")
    assert "3 stars are too few for 8" in refused(*args, "offsets.max_stars=3")
