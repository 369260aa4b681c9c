"""The whole job: files against the truth, matching, resuming, other frames."""

from __future__ import annotations

import json
import os
import shutil

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from pogson.errors import ConfigError, FileFormatError
from pogson.formats import read_catalog
from pogson.run import load_calibration, load_fluxcal_config, run_fluxcal
from pogson.run.fluxcal_inputs import read_frame, read_standards
from pogson.simulate import write_fibre_frame, write_fibre_job
from pogson.spectro import (
    FluxCalConfig,
    calibrate_fibres,
    load_atmosphere_extinction,
    load_mask_regions,
)

LAM = 10 ** np.arange(np.log10(3900.0), np.log10(8800.0), 2e-4)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    config, sim = write_fibre_job(
        folder, seed=11, n_stars=5, n_fibres=7, wavelength=LAM, sn=(40, 120)
    )
    result = run_fluxcal(load_fluxcal_config(config), workers=1)
    return config, sim, result


@pytest.fixture
def job(finished, tmp_path):
    folder = shutil.copytree(
        finished[0].parent, tmp_path / "job", ignore=shutil.ignore_patterns("fluxcal-output")
    )
    return folder / "fluxcal.toml", finished[1]


def test_fluxes_are_true(finished):
    """Absolute flux of each fibre: truth times its fibre loss over the mean of the standards."""
    _, sim, result = finished
    (path,) = result.calibrated
    with fits.open(path) as hdus:
        flux, lam = hdus["FLUX"].data, hdus["WAVELENGTH"].data
    grey = np.array([t.grey for t in sim.targets])
    mean = np.exp(np.mean(np.log(grey[:5])))
    outside = (sim.transmission > 0.999) & (lam > 4000) & (lam < 8700)
    ratio = flux[:, outside] / (sim.true_flux[:, outside] * grey[:, None] / mean)
    level = np.median(ratio, axis=1)
    # 1 % photometric errors of 4 bands and 5 stars, models, noise
    np.testing.assert_allclose(level, 1.0, atol=0.015)
    shape = np.median(ratio / level[:, None], axis=0)
    blocks = shape[: shape.size // 20 * 20].reshape(-1, 20).mean(axis=1)
    assert np.std(blocks) < 0.01


def test_fits_file(finished):
    _, sim, result = finished
    with fits.open(result.calibrated[0], checksum=True) as hdus:
        header = hdus[0].header
        assert u.Unit(header["BUNIT"]) == u.erg / u.s / u.cm**2 / u.AA
        assert header["FCALNSTR"] == 5
        assert header["AIRORVAC"] == "vac"
        stars = Table(hdus["STARS"].data)
        assert set(stars["NAME"]) == set(sim.standards)
        assert np.all(stars["USED"])
        truth = {t.name: t for t in sim.targets}
        for row in stars:
            assert abs(row["RV_KMS"] - truth[row["NAME"]].rv_kms) < 6 * row["RV_KMS_ERR"] + 1
            assert abs(row["TEFF"] - truth[row["NAME"]].labels["teff"]) < 250
        calibration = hdus["CALIBRATION"].data
        parts = [calibration[f"{n}_ERROR"] for n in ("NOISE", "SCALE", "TEMPLATE")]
        good = calibration["GOOD"]
        np.testing.assert_allclose(
            (calibration["FACTOR"] ** 2 * sum(p**2 for p in parts))[good],
            calibration["VARIANCE"][good],
        )
        total = sum(hdus[f"COV_{n}"].data for n in ("NOISE", "SCALE", "TEMPLATE"))
        assert total.shape == (160, 160)
        assert np.linalg.eigvalsh(total).min() > -1e-9
        assert np.all(hdus["COV_SCALE"].data == header["FCALSERR"] ** 2)
        assert np.all(np.isnan(hdus["FLUX"].data) == (hdus["IVAR"].data == 0))
        assert any("star 1" in line for line in header["HISTORY"])


def test_table_and_summary(finished):
    _, _, result = finished
    table = read_catalog(result.table)
    assert len(table) == 5
    assert table["teff"].unit == u.K
    assert "d_ps1_z" in table.colnames
    summary = json.loads((result.folder / "fluxcal.json").read_text())
    assert summary == json.loads(json.dumps(result.summary))
    assert summary["matched_by"] == "fibre"
    assert summary["suspicions"] == []
    star = summary["stars"][0]
    # what the calibrated spectrum itself gives agrees with the model where it covers a band
    for band in ("ps1_r", "ps1_i"):
        assert star["spectrum_residuals"][band] == pytest.approx(
            star["band_residuals"][band], abs=0.02
        )
    assert "ps1_z" not in star["spectrum_residuals"]  # beyond 8800 Angstrom
    assert set(summary["versions"]) == {"pogson", "numpy", "astropy"}


def test_same_as_the_functions(finished):
    """The job is `calibrate_fibres` and nothing else."""
    config, sim, result = finished
    ours = load_calibration(result.folder / "calibration" / "calibration.npz")
    names = list(Table.read(config.parent / "standards.ecsv")["name"])
    theirs = calibrate_fibres(sim.frame, {n: sim.standards[n] for n in names}, sim.library)
    lam = np.linspace(4000.0, 8500.0, 300)
    # magnitudes are written with four decimals, templates as float32
    np.testing.assert_allclose(ours.factor(lam), theirs.factor(lam), rtol=3e-4)
    stored, made = (c.solution.log_covariance(lam[::30]) for c in (ours, theirs))
    np.testing.assert_allclose(stored, made, atol=0.01 * made.max())


def test_resume(job):
    config = load_fluxcal_config(job[0], ["report.enabled=false"])
    first = run_fluxcal(config, workers=1)
    assert first.n_computed == 2
    before = first.calibrated[0].stat().st_mtime_ns
    assert run_fluxcal(config, workers=1).n_computed == 0
    assert first.calibrated[0].stat().st_mtime_ns == before
    # a lost product is made again, from the stored calibration
    first.calibrated[0].unlink()
    assert run_fluxcal(config, workers=1).n_computed == 1
    # another table: everything
    os.utime(job[0].parent / "standards.ecsv")
    assert run_fluxcal(config, workers=1).n_computed == 2
    # report settings change nothing
    other = load_fluxcal_config(job[0], ["report.enabled=false", "report.stars=2"])
    assert run_fluxcal(other, workers=1).n_computed == 0


def test_a_failed_calibration_leaves_no_old_product(job):
    config = load_fluxcal_config(job[0], ["report.enabled=false"])
    result = run_fluxcal(config, workers=1)
    table = Table.read(job[0].parent / "standards.ecsv")
    table["fibre"] += 50
    table.write(job[0].parent / "standards.ecsv", overwrite=True)
    with pytest.raises(ConfigError, match="No valid standard"):
        run_fluxcal(config, workers=1)
    assert not (result.folder / "calibration" / "calibration.npz").exists()


@pytest.mark.parametrize("way", ["auto", "fibre", "name", "position"])
def test_ways_to_match_agree(finished, way):
    """The rows are in another order than the fibres; every way finds the same."""
    config = load_fluxcal_config(finished[0], [f"standards.match={way}"])
    frame = read_frame(config.frame, config.path("frame.fits"))
    found = read_standards(config, frame)
    assert found.matched_by == ("fibre" if way == "auto" else way)
    assert {name: fibre for fibre, name, _ in found.stars} == {f"star {i}": i for i in range(1, 6)}
    assert [s[0] for s in found.stars] != sorted(s[0] for s in found.stars)
    for _, name, photometry in found.stars:
        truth = finished[1].standards[name]
        np.testing.assert_allclose(photometry.magnitudes, truth.magnitudes, atol=6e-5)
    assert found.lost == {}


def test_wrong_star_is_rejected_and_named_everywhere(job):
    folder = job[0].parent
    table = Table.read(folder / "standards.ecsv")
    i = list(table["name"]).index("star 4")
    for band in ("ps1_g", "ps1_r", "ps1_i", "ps1_z"):
        table[band][i] -= 5.0
    table.write(folder / "standards.ecsv", overwrite=True)
    result = run_fluxcal(load_fluxcal_config(job[0]), workers=1)
    assert list(result.summary["rejected"]) == ["star 4"]
    assert any("Rejected: star 4" in line for line in result.headlines)
    with fits.open(result.calibrated[0]) as hdus:
        assert hdus[0].header["FCALNREJ"] == 1
        rows = {r["NAME"]: r for r in hdus["STARS"].data}
    assert not rows["star 4"]["USED"]
    assert rows["star 4"]["REJECTED"]
    assert "star 4" in result.report.read_text()


@pytest.mark.parametrize("curve", ["paranal", "file"])
def test_other_exposure_time_and_airmass(job, curve):
    """A frame of half the time at airmass 1.8, made from the first, gets the same fluxes."""
    config_file, sim = job
    name = curve
    if curve == "file":
        table = load_atmosphere_extinction("mko")
        name = str(config_file.parent / "mko.txt")
        np.savetxt(name, np.column_stack([table.wavelength, table.extinction]))
    k = load_atmosphere_extinction("paranal" if curve == "paranal" else "mko")
    frame = sim.frame
    fade = 0.5 * 10 ** (-0.4 * k(frame.wavelength) * (1.8 - frame.airmass))
    from dataclasses import replace

    later = replace(
        frame, counts=frame.counts * fade, ivar=frame.ivar / fade**2, exposure_time=450.0,
        airmass=1.8,
    )  # fmt: skip
    write_fibre_frame(config_file.parent / "later.fits", later)
    config = load_fluxcal_config(
        config_file,
        [f"model.extinction={name}", "science.frames=later.fits", "report.enabled=false"],
    )
    result = run_fluxcal(config, workers=1, kind="serial")
    assert len(result.calibrated) == 2
    a, b = (fits.getdata(p) for p in result.calibrated)
    outside = np.ones(LAM.size, bool)
    for low, high in load_mask_regions("telluric_default"):
        inside = np.clip(LAM, low, high) == LAM  # there the transmission is raised to a power
        outside &= ~inside
    np.testing.assert_allclose(b[:, outside], a[:, outside], rtol=1e-9)


def test_configuration_by_name_of_observatory():
    curve = FluxCalConfig(extinction="lasilla").extinction
    k = load_atmosphere_extinction("lasilla")
    np.testing.assert_array_equal(curve(np.array([4000.0, 8000.0])), k([4000.0, 8000.0]))
    # red of the table: its last value
    assert curve(np.array([9900.0]))[0] == k.extinction[-1]


def test_calibration_file_is_checked(tmp_path):
    np.savez(tmp_path / "x.npz", words=np.array('{"schema": "other", "version": 1}'))
    with pytest.raises(FileFormatError, match="schema 'other'"):
        load_calibration(tmp_path / "x.npz")


def test_two_runs_do_not_write_into_one_folder(job):
    from pogson.run.stages import locked

    config = load_fluxcal_config(job[0])
    with locked(config.output_folder), pytest.raises(ConfigError, match="Another run"):
        run_fluxcal(config)


def test_real_models_and_response(tmp_path, shared_data):
    """Stars between the nodes of the SDSS grid through the real response of an SDSS camera."""
    from pogson.simulate import simulate_fibres
    from pogson.spectro import TemplateLibrary

    grid = shared_data("templates/kurucz_stds_v5.fit")
    sim = simulate_fibres(
        6, n_stars=5, n_fibres=6, library=TemplateLibrary(grid), wavelength=LAM, sn=(60, 120)
    )
    config, sim = write_fibre_job(tmp_path, seed=6, simulation=sim)
    result = run_fluxcal(
        load_fluxcal_config(
            config, ["report.enabled=false"], given={"templates": {"path": str(grid)}}
        ),
        workers=1,
    )
    flux = fits.getdata(result.calibrated[0])
    grey = np.array([t.grey for t in sim.targets])
    used = result.summary["n_used"]
    assert used == 5
    mean = np.exp(np.mean(np.log(grey[:5])))
    outside = (sim.transmission > 0.999) & (LAM > 4000) & (LAM < 8700)
    ratio = (flux / (sim.true_flux * grey[:, None] / mean))[:, outside]
    np.testing.assert_allclose(np.median(ratio, axis=1), 1.0, atol=0.02)
