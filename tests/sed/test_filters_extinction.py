"""Filter curves from names and files; dust laws against published values."""

from __future__ import annotations

import numpy as np
import pytest

from pogson.errors import FileFormatError, MissingDataError, PogsonValueError
from pogson.sed import (
    EXTINCTION_LAWS,
    SFD_SCALE,
    Bandpass,
    FilterCurve,
    Spectrum,
    air_to_vacuum,
    extinction_curve,
    load_filter_curve,
    load_filter_curves,
    reddening,
)


def test_names_of_speclite_and_short_names():
    curves = load_filter_curves(
        ["ps1_g", "sdss_r", "gaia_bp", "2mass_k", "lsst2023-z", "bessell-V"]
    )
    assert curves["ps1_g"].pivot_wavelength == pytest.approx(4849, abs=2)  # Tonry et al. 2012
    assert curves["2mass_k"].detector == curves["bessell-V"].detector == "energy"
    assert curves["lsst2023-z"].system == "AB"
    assert curves["lsst2023-z"].vega_to_ab == 0.0
    assert curves["gaia_bp"] == load_filter_curve("gaia_bp")
    assert len({curves["gaia_bp"], load_filter_curve("gaia_bp")}) == 1


def test_mean_and_pivot_wavelengths_of_a_box():
    box = FilterCurve("box", [3999.999, 4000, 6000, 6000.001], [0, 1, 1, 0])
    assert box.wave_eff == pytest.approx(5000.0)
    assert box.pivot_wavelength == pytest.approx(np.sqrt(1e7 / np.log(1.5)), rel=1e-6)
    energy = FilterCurve("box", [3999.999, 4000, 6000, 6000.001], [0, 1, 1, 0], detector="energy")
    assert energy.pivot_wavelength == pytest.approx(np.sqrt(4000 * 6000), rel=1e-6)
    assert box.wave_range == (4000, 6000)


@pytest.mark.parametrize(("unit", "scale"), [("Angstrom", 1.0), ("nm", 0.1), ("um", 1e-4)])
@pytest.mark.parametrize("separator", [" ", ","])
def test_files_of_two_columns(tmp_path, unit, scale, separator):
    path = tmp_path / "mine.dat"
    lam, response = np.linspace(5000, 6000, 11), np.r_[0, np.ones(9), 0]
    path.write_text(
        "# a filter\n"
        + "\n".join(f"{x * scale:.8f}{separator}{y}" for x, y in zip(lam, response, strict=True))
    )
    curve = load_filter_curve(path, unit=unit, detector="energy")
    assert curve.name == "mine"
    assert curve.bandpass == Bandpass("mine", curve.wavelength, response, "energy")
    assert curve.wavelength == pytest.approx(lam)
    in_air = load_filter_curve(path, unit=unit, detector="photon", medium="air", name="x")
    assert in_air.wavelength == pytest.approx(air_to_vacuum(lam))
    both = load_filter_curves({str(path): {"unit": unit, "detector": "photon"}})
    assert list(both) == ["mine"]


def test_ecsv_brings_its_unit(tmp_path):
    from astropy.table import Table

    path = tmp_path / "mine.ecsv"
    table = Table({"wavelength": [500.0, 600.0, 700.0], "response": [0.0, 1.0, 0.0]})
    table["wavelength"].unit = "nm"
    table.write(path)
    assert load_filter_curve(path, detector="photon").wavelength == pytest.approx(
        [5000, 6000, 7000]
    )


def test_what_a_file_does_not_say_must_be_said(tmp_path):
    path = tmp_path / "f.dat"
    path.write_text("5000 0\n5500 1\n6000 0\n")
    for words, error, declared in [
        ("per: detector", PogsonValueError, {"unit": "nm"}),
        ("unit of the wavelengths", PogsonValueError, {"detector": "photon"}),
        (
            "missing offset",
            PogsonValueError,
            {"unit": "AA", "detector": "photon", "system": "Vega"},
        ),
        ("is the unit right", PogsonValueError, {"unit": "m", "detector": "photon"}),
        ("not a filter curve", FileFormatError, {"unit": "s", "detector": "photon"}),
        ("medium", PogsonValueError, {"unit": "AA", "detector": "photon", "medium": "water"}),
    ]:
        with pytest.raises(error, match=words):
            load_filter_curve(path, **declared)
    path.write_text("a b c")
    with pytest.raises(FileFormatError, match="two columns"):
        load_filter_curve(path, unit="AA", detector="photon")
    with pytest.raises(MissingDataError, match="no filter file"):
        load_filter_curve(tmp_path / "g.dat", unit="AA", detector="photon")
    with pytest.raises(MissingDataError, match="short names are"):
        load_filter_curve("ps1_q")
    with pytest.raises(PogsonValueError, match="list of filter names"):
        load_filter_curves("ps1_g")


def test_bad_curves_are_refused():
    with pytest.raises(PogsonValueError, match="missing offset is not"):
        FilterCurve("x", [1e3, 2e3], [1, 1], "Vega", np.nan)
    with pytest.raises(PogsonValueError, match="system"):
        FilterCurve("x", [1e3, 2e3], [1, 1], "ST")  # type: ignore[arg-type]
    with pytest.raises(PogsonValueError, match="increas"):
        FilterCurve("x", [2e3, 1e3], [1, 1])


def test_extinction_of_f99_and_ccm89_as_published():
    # Fitzpatrick (1999) table 3: A(lambda)/E(B-V) for R = 3.1
    got = extinction_curve([26500, 12200, 6000, 5470, 4670, 4110], law="F99")
    assert got == pytest.approx([0.265, 0.829, 2.688, 3.055, 3.806, 4.315], abs=0.03)
    # Cardelli, Clayton & Mathis (1989): a(1.82/um) = 1, b = 0, so A = A(V) there
    assert extinction_curve(1e4 / 1.82, law="CCM89") == pytest.approx(3.1, rel=1e-9)


@pytest.mark.parametrize("law", EXTINCTION_LAWS)
def test_all_laws_redden_and_undo(law):
    lam = np.linspace(3500.0, 9500.0, 13)
    if law == "GCC09":  # Gordon, Cartledge & Clayton (2009): ultraviolet only
        lam = np.linspace(2300.0, 3000.0, 13)
    through = reddening(lam, 0.1, law=law)
    assert np.all(np.diff(through) > 0)
    assert reddening(lam, -0.1, law=law) * through == pytest.approx(1.0)
    spectrum = Spectrum(lam, np.ones(lam.size))
    assert spectrum.redden(0.1, law=law).flux == pytest.approx(through, rel=1e-12)


def test_tilt_of_a_reddened_star_between_4000_and_9000():
    # 15.1 % for E(B-V) = 0.05 by CCM with R = 3.1
    a, b = reddening([4000.0, 9000.0], 0.05, law="CCM89")
    assert b / a - 1 == pytest.approx(0.151, abs=0.002)
    assert SFD_SCALE == 0.86


def test_bad_dust():
    with pytest.raises(PogsonValueError, match="Unknown extinction law"):
        reddening([5000.0], 0.1, law="X99")
    with pytest.raises(PogsonValueError, match="refuses"):
        reddening([5000.0], 0.1, r_v=50.0)
    with pytest.raises(PogsonValueError, match="cannot be evaluated"):
        reddening([5e6], 0.1)
    with pytest.raises(PogsonValueError, match="finite"):
        reddening([5000.0], np.nan)
