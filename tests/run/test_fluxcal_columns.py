"""Tables of standards as people have them: masked, in other units, in texts, with names."""

from __future__ import annotations

import shutil

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import MaskedColumn, Table

from pogson.errors import ConfigError
from pogson.run import load_fluxcal_config, run_fluxcal
from pogson.run.fluxcal_inputs import StandardStars, read_frame, read_standards
from pogson.simulate import write_fibre_job

BANDS = ("ps1_g", "ps1_r", "ps1_i", "ps1_z")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("columns")
    lam = 10 ** np.arange(np.log10(3900.0), np.log10(8800.0), 2.5e-4)
    write_fibre_job(folder, seed=5, n_stars=3, n_fibres=4, wavelength=lam, sn=(60, 100))
    return folder


def standards(folder, change, tmp_path, suffix="ecsv", **section) -> StandardStars:
    """Read the table after a change."""
    table = Table.read(folder / "standards.ecsv")
    change(table)
    path = tmp_path / f"standards.{suffix}"
    table.write(path, overwrite=True)
    given = {"standards": {"table": str(path), "system": "AB", **section}}
    config = load_fluxcal_config(folder / "fluxcal.toml", given=given)
    return read_standards(config, read_frame(config.frame, config.path(config.frame.path)))


def mags(stars: StandardStars) -> np.ndarray:
    return np.array([[*p.magnitudes, *p.mag_errors] for _, _, p in sorted(stars.stars)])


def test_units_are_converted(made, tmp_path):
    plain = standards(made, lambda t: None, tmp_path)

    def other(t):
        for b in BANDS:
            t[b].unit = u.mag
            t[f"{b}_err"] *= 1000
            t[f"{b}_err"].unit = u.mmag
        t["ra"] /= 15
        t["ra"].unit = u.hourangle
        t["dec"] = np.radians(t["dec"])
        t["dec"].unit = u.rad

    got = standards(made, other, tmp_path, match="position")
    assert [s[:2] for s in got.stars] == [s[:2] for s in plain.stars]
    np.testing.assert_allclose(mags(got), mags(plain), rtol=1e-12)

    def flux(t):
        t["ps1_r"] = 3631 * 10 ** (-0.4 * t["ps1_r"])
        t["ps1_r"].unit = u.Jy

    with pytest.raises(ConfigError, match=r"'ps1_r' is in 'Jy'; it must be in mag"):
        standards(made, flux, tmp_path)


@pytest.mark.parametrize("suffix", ["ecsv", "fits"])
def test_masked_values_are_missing(made, tmp_path, suffix):
    """What lies under a mask is never used: a fibre number, an integer magnitude, a name."""

    def masked(t):
        t["fibre"] = MaskedColumn(t["fibre"], mask=t["name"] == "star 1")
        t["ps1_g"] = MaskedColumn(np.rint(t["ps1_g"]).astype(int), mask=t["name"] == "star 2")
        t["ps1_z"] = MaskedColumn(t["ps1_z"], mask=t["name"] == "star 2")
        t["fibre"].fill_value = 1
        t["ps1_g"].fill_value = 15

    got = standards(made, masked, tmp_path, suffix, match="fibre")
    assert got.lost == {"star 1": "it has no fibre number"}
    photometry = {name: p for _, name, p in got.stars}
    assert photometry["star 2"].valid_bands() == ["ps1_r", "ps1_i"]
    assert len(photometry["star 3"].valid_bands()) == 4


def test_texts_for_numbers(made, tmp_path):
    def texts(t):
        words = [f"{x:.4f}" for x in t["ps1_g"]]
        words[0] = "--"
        t["ps1_g"] = words

    got = standards(made, texts, tmp_path)
    assert [len(p.valid_bands()) for _, _, p in got.stars] == [3, 4, 4]

    def wrong(t):
        t["ps1_g"] = ["15.1", "bright", "15.2"]

    with pytest.raises(ConfigError, match=r"'ps1_g' has 'bright' in row 2, which is no number"):
        standards(made, wrong, tmp_path)

    def sexagesimal(t):
        t["ra"] = ["10:00:01.2"] * 3

    with pytest.raises(ConfigError, match=r"'ra' has '10:00:01.2' in row 1"):
        standards(made, sexagesimal, tmp_path)


@pytest.mark.parametrize("value", [-999.0, -0.1, 99.0])
def test_a_reddening_that_cannot_be_is_no_prior(made, tmp_path, value):
    def odd(t):
        t["ebv"][1] = value

    got = standards(made, odd, tmp_path)
    assert ["ebv" in p.meta for _, _, p in got.stars] == [True, False, True]
    assert any("taken as not measured" in note for note in got.notes)


def test_names_that_fits_cannot_hold(made, tmp_path):
    job = shutil.copytree(made, tmp_path / "job")
    table = Table.read(job / "standards.ecsv")
    table.replace_column("name", ["\u03b2 Vir", "Nu\u00f1o\t1", "star \u2605"])
    table.write(job / "standards.ecsv", overwrite=True)
    with fits.open(job / "frame.fits", mode="update") as hdus:
        hdus["FIBRES"].data["NAME"] = ""
        hdus["COUNTS"].header["BUNIT"] = "electron/s"
    config = load_fluxcal_config(job / "fluxcal.toml", ["report.enabled=false"])
    result = run_fluxcal(config, workers=1)
    assert {s["name"] for s in result.summary["stars"]} == set(table["name"])
    with fits.open(result.calibrated[0]) as hdus:
        assert set(hdus["STARS"].data["NAME"]) == {"beta Vir", "Nuno 1", "star ?"}
        # the factor's unit follows that of the counts; every column of a unit has it
        calibration = hdus["CALIBRATION"]
        assert u.Unit(calibration.header["TUNIT2"]) == u.erg / u.cm**2 / u.AA / u.count
        assert u.Unit(calibration.header["TUNIT3"]) == (u.erg / u.cm**2 / u.AA / u.count) ** 2
        units = {c.name: c.unit for c in hdus["STARS"].columns}
        assert (units["TEFF"], units["RV_KMS_ERR"], units["D_PS1_G"]) == ("K", "km s-1", "mag")
        fibres = hdus["FIBRES"].data
        np.testing.assert_allclose(
            hdus["LSF_SIGMA"].data, fits.getdata(job / "frame.fits", "LSF_SIGMA")
        )
        np.testing.assert_allclose(fibres["RA"], fits.getdata(job / "frame.fits", "FIBRES")["RA"])
        factor = calibration.data["FACTOR"]
        good = hdus["MASK"].data[3] == 0
        counts = fits.getdata(job / "frame.fits", "COUNTS")[3]
        np.testing.assert_allclose(hdus[0].data[3][good], (counts * factor)[good])


def test_cards_that_are_no_numbers(made, tmp_path):
    path = shutil.copy(made / "frame.fits", tmp_path)
    for value, words in (("unknown", "AIRMASS is 'unknown', which is no number"), ("", None)):
        fits.setval(path, "AIRMASS", value=value)
        config = load_fluxcal_config(made / "fluxcal.toml", given={"frame": {"path": str(path)}})
        if words is None:
            assert np.isnan(read_frame(config.frame, config.path(path)).airmass)
        else:
            with pytest.raises(Exception, match=words):
                read_frame(config.frame, config.path(path))
