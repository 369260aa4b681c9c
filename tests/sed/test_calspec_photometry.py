"""CALSPEC stars: synthetic magnitudes against synphot's, Vega's offsets derived again."""

from __future__ import annotations

import numpy as np
import pytest

from pogson.errors import CalibrationError, FileFormatError, MissingDataError
from pogson.sed import (
    VEGA_OFFSETS,
    Bandpass,
    Spectrum,
    calspec_spectrum,
    load_filter_curve,
    synthetic_magnitude,
    synthetic_photometry,
    vega_offset,
)
from pogson.spectro import Spectrum1D

VEGA = "calspec/alpha_lyr_stis_011.fits.gz"
P330E = "calspec/p330e_stiswfcnic_006.fits.gz"

# synphot 1.8.0, Observation(...).effstim("abmag") on the union of both grids, responses of
# speclite 1.0.0 (2MASS per unit energy), the two CALSPEC files named above.
SYNPHOT = {
    VEGA: {
        "panstarrs-z": 0.51378, "panstarrs-y": 0.55321, "gaiadr2-G": 0.12183,
        "gaiadr2-BP": 0.05846, "gaiadr2-RP": 0.37668, "gaiadr3-G": 0.12692, "gaiadr3-BP": 0.02318,
        "gaiadr3-RP": 0.38139, "twomass-J": 0.90328, "twomass-H": 1.38423, "twomass-Ks": 1.85706,
    },
    P330E: {
        "sdss2010-u": 14.45322, "sdss2010-g": 13.29027, "sdss2010-r": 12.84066,
        "sdss2010-i": 12.71446, "sdss2010-z": 12.68169, "panstarrs-g": 13.21582,
        "panstarrs-r": 12.83924, "panstarrs-i": 12.71242, "panstarrs-z": 12.68373,
        "panstarrs-y": 12.67203, "gaiadr2-G": 12.96090, "gaiadr2-BP": 13.22082,
        "gaiadr2-RP": 12.72096, "twomass-J": 12.71175, "twomass-H": 12.83972,
        "twomass-Ks": 13.26130,
    },
}  # fmt: skip


@pytest.mark.parametrize(("star", "limit"), [(VEGA, 0.005), (P330E, 0.002)])
def test_magnitudes_are_those_that_synphot_gave(shared_data, star, limit):
    spectrum = calspec_spectrum(shared_data(star))
    for name, truth in SYNPHOT[star].items():
        got = synthetic_photometry(spectrum, load_filter_curve(name))
        assert got == pytest.approx(truth, abs=limit), name


@pytest.mark.parametrize(("star", "limit"), [(VEGA, 0.005), (P330E, 0.002)])
def test_magnitudes_are_those_of_the_synphot_installed(shared_data, star, limit):
    synphot = pytest.importorskip("synphot", reason="synphot, the truth here, is not installed")
    import astropy.units as u
    from synphot.models import Empirical1D

    spectrum = calspec_spectrum(shared_data(star))
    lam = spectrum.wavelength
    source = synphot.SourceSpectrum(
        Empirical1D, points=lam * u.AA, lookup_table=spectrum.flux * synphot.units.FLAM
    )
    worst = 0.0
    for name in SYNPHOT[star]:
        curve = load_filter_curve(name)
        # synphot knows photon responses only
        per_photon = curve.transmission / (curve.wavelength if curve.detector == "energy" else 1.0)
        band = synphot.SpectralElement(
            Empirical1D, points=curve.wavelength * u.AA, lookup_table=per_photon / per_photon.max()
        )
        seen = synphot.Observation(
            source, band, binset=np.union1d(lam, curve.wavelength) * u.AA, force="extrap"
        )
        difference = synthetic_photometry(spectrum, curve) - seen.effstim("abmag").value
        worst = max(worst, abs(difference))
    print(f"{star}: largest difference {worst:.5f} mag")
    assert worst < limit


def test_vega_offsets_are_derived_from_calspec(shared_data):
    vega = calspec_spectrum(shared_data(VEGA))
    for name, tabulated in VEGA_OFFSETS.items():
        band = load_filter_curve(name).bandpass
        assert vega_offset(band, vega) == pytest.approx(tabulated, abs=6e-5), name
        assert vega_offset(band, vega, vega_magnitude=0.03) == pytest.approx(
            tabulated - 0.03, abs=6e-5
        )


@pytest.mark.parametrize(
    ("name", "true"),
    [
        ("gaia_g", 0.1218), ("gaia_bp", 0.0585), ("gaia_rp", 0.377),
        ("2mass_j", 0.908), ("2mass_h", 1.388), ("2mass_k", 1.860),
    ],
)  # fmt: skip
def test_short_names_carry_true_vega_offsets(name, true):
    curve = load_filter_curve(name)
    assert curve.system == "Vega"
    assert curve.vega_to_ab == pytest.approx(true, abs=0.005)


@pytest.mark.parametrize(
    ("name", "cut"),
    [("gaiadr2-G", (3700, 5500)), ("panstarrs-r", (3700, 6200)), ("sdss2010-u", (3400, 9000))],
)
def test_truncated_bands_are_refused(shared_data, name, cut):
    spectrum = calspec_spectrum(shared_data(P330E))
    keep = (spectrum.wavelength > cut[0]) & (spectrum.wavelength < cut[1])
    part = Spectrum1D(spectrum.wavelength[keep], spectrum.flux[keep])
    with pytest.raises(CalibrationError, match="at least 99 %"):
        synthetic_photometry(part, load_filter_curve(name))


def test_masked_pixels_count_as_not_covered(shared_data):
    spectrum = calspec_spectrum(shared_data(P330E))
    curve = load_filter_curve("ps1_r")
    lam, flux = spectrum.wavelength, np.array(spectrum.flux)
    whole = synthetic_magnitude(spectrum, curve.bandpass)
    few = (lam > 6200) & (lam < 6206)
    flux[few] = np.nan
    assert synthetic_photometry(Spectrum1D(lam, flux), curve) == pytest.approx(whole, abs=2e-4)
    many = ~((lam > 6100) & (lam < 6150))
    with pytest.raises(CalibrationError, match="hide"):
        synthetic_photometry(Spectrum1D(lam, spectrum.flux, mask=many), curve)
    with pytest.raises(CalibrationError, match="0 good pixels"):
        synthetic_photometry(Spectrum1D(lam, np.full(lam.size, np.nan)), curve)


def test_negative_flux_has_no_magnitude_but_is_integrated():
    lam = np.linspace(5000.0, 7500.0, 500)
    assert np.isnan(
        synthetic_photometry(Spectrum1D(lam, -np.ones(500)), load_filter_curve("ps1_r"))
    )
    alternating = np.where(np.arange(500) % 2, 3.0, -1.0)
    got = synthetic_photometry(Spectrum1D(lam, alternating), load_filter_curve("ps1_r"))
    one = synthetic_magnitude(Spectrum(lam, np.ones(500)), Bandpass.from_speclite("panstarrs-r"))
    assert got == pytest.approx(one, abs=0.01)


def test_files_that_are_no_calspec_spectra(tmp_path):
    with pytest.raises(MissingDataError):
        calspec_spectrum(tmp_path / "none.fits")
    (tmp_path / "bad.fits").write_bytes(b"SIMPLE")
    with pytest.raises(FileFormatError, match="WAVELENGTH"):
        calspec_spectrum(tmp_path / "bad.fits")
