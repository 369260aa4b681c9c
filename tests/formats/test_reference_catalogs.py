"""Reference catalogues: columns, units, systems, epochs, flags."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table

from pogson.errors import (
    FileFormatError,
    MissingDataError,
    PogsonValueError,
    UnitMismatchError,
)
from pogson.fields import Box
from pogson.formats import (
    ReferenceCatalog,
    read_catalog,
    read_reference_catalog,
    write_catalog,
)
from pogson.formats.reference import GAIA_DR2_AB_OFFSETS, ReferenceFlag
from pogson.sky import FitsSkyMap


def stars(**columns):
    table = Table({"ra": [10.0, 10.1, 10.2], "dec": [1.0, 1.0, 1.0]})
    for name, values in columns.items():
        table[name] = values
    return table


def test_magnitudes_and_fluxes_agree():
    by_mag = ReferenceCatalog.from_table(stars(gmag=[20.0, 21.0, 22.0], gmagerr=[0.1, 0.1, 0.2]))
    flux = by_mag.flux("g")[0]
    table = stars(flux_g=flux / 1e9, flux_g_err=by_mag.flux("g")[1] / 1e9)
    table["flux_g"].unit = table["flux_g_err"].unit = "Jy"
    by_flux = ReferenceCatalog.from_table(table)
    np.testing.assert_allclose(by_flux.flux("g")[0], flux, rtol=1e-12)
    np.testing.assert_allclose(by_flux.magnitude("g")[0], [20.0, 21.0, 22.0], atol=1e-12)
    np.testing.assert_allclose(by_flux.magnitude("g")[1], [0.1, 0.1, 0.2], rtol=1e-9)


def test_negative_fluxes_survive():
    table = stars(r_flux=[-5.0, 0.0, 7.0], r_fluxErr=[1.0, 1.0, 1.0])
    table["r_flux"].unit = table["r_fluxErr"].unit = "nJy"
    catalog = ReferenceCatalog.from_table(table)
    assert catalog.flux("r")[0].tolist() == [-5.0, 0.0, 7.0]
    assert catalog.counts() == {}
    assert catalog.usable(["r"]).tolist() == [False, False, True]


def test_flags_are_counted_and_nothing_is_dropped():
    table = Table(
        {
            "id": ["a", "b", "b", "c", "d", "e"],
            "ra": [10.0, 10.1, 10.2, np.nan, 10.3, 10.3 + 0.1 / 3600],
            "dec": [0.0] * 6,
            "gmag": [20.0, 99.0, 20.0, 20.0, 20.0, -999.0],
        }
    )
    catalog = ReferenceCatalog.from_table(table)
    assert len(catalog) == 6
    assert catalog.counts() == {"BAD_POSITION": 1, "DUPLICATE": 3, "MISSING_BAND": 2}
    flags = np.asarray(catalog.table["flags"])
    assert (flags & ReferenceFlag.DUPLICATE > 0).tolist() == [False, False, True, False, True, True]
    assert catalog.usable(["g"]).tolist() == [True, False, False, False, False, False]


def test_bands_asked_for_must_be_there():
    table = stars(gmag=[20.0, 21.0, 22.0])
    with pytest.raises(MissingDataError, match=r"no band 'z'.*'g'"):
        ReferenceCatalog.from_table(table, bands=["g", "z"])
    catalog = ReferenceCatalog.from_table(table)
    with pytest.raises(MissingDataError, match="no band 'r'; it has 'g'"):
        catalog.require(["r"])
    assert catalog.require(["g", "G"]) == ("g", "g")
    with pytest.raises(MissingDataError, match=r"No flux or magnitude column|was recognised"):
        ReferenceCatalog.from_table(stars(other=[1, 2, 3]))
    with pytest.raises(MissingDataError, match="no column 'nope'"):
        ReferenceCatalog.from_table(table, bands={"g": "nope"})
    with pytest.raises(PogsonValueError, match="unknown keys \\['fluxx'\\]"):
        ReferenceCatalog.from_table(table, bands={"g": {"fluxx": "gmag"}})


def test_column_mapping_system_and_offset():
    table = Table({"alpha": [1.0], "delta": [2.0], "V": [15.0], "eV": [0.02]})
    rule = {"V": {"mag": "V", "mag_err": "eV", "system": "Vega", "ab_offset": 0.02}}
    catalog = ReferenceCatalog.from_table(
        table, columns={"ra": "alpha", "dec": "delta"}, bands=rule, epoch=2000.0
    )
    assert catalog.magnitude("V")[0][0] == 15.0
    assert catalog.magnitude("V", "AB")[0][0] == pytest.approx(15.02)
    assert catalog.systems["V"] == "Vega"
    with pytest.raises(PogsonValueError, match="'native' or 'AB'"):
        catalog.magnitude("V", "ST")
    with pytest.raises(MissingDataError, match="no column for ra"):
        ReferenceCatalog.from_table(table)
    with pytest.raises(MissingDataError, match="no column 'x' for ra"):
        ReferenceCatalog.from_table(table, columns={"ra": "x"})


def test_units_are_needed():
    table = stars(flux_g=[1.0, 2.0, 3.0])
    with pytest.raises(UnitMismatchError, match="has no unit; say it"):
        ReferenceCatalog.from_table(table)
    table["flux_g"].unit = "adu"
    with pytest.raises(UnitMismatchError, match="'adu'"):
        ReferenceCatalog.from_table(table)
    catalog = ReferenceCatalog.from_table(
        stars(f=[1.0, 2.0, 3.0]), bands={"g": {"flux": "f", "unit": "uJy"}}
    )
    np.testing.assert_allclose(catalog.flux("g")[0], [1e3, 2e3, 3e3])
    table = stars(gmag=[1.0, 2.0, 3.0])
    table["ra"].unit = "m"
    with pytest.raises(UnitMismatchError, match="degrees or radians"):
        ReferenceCatalog.from_table(table)


def test_epoch_propagation_against_astropy():
    import astropy.units as u
    from astropy.coordinates import SkyCoord
    from astropy.time import Time

    table = Table(
        {"ra": [200.0, 359.9999], "dec": [-45.0, 70.0], "gmag": [1.0, 2.0], "epoch": [2015.5] * 2,
         "pmra": [350.0, 900.0], "pmdec": [-120.0, 40.0]}
    )  # fmt: skip
    moved = ReferenceCatalog.from_table(table).at_epoch(2025.5).table
    start = SkyCoord(
        table["ra"] * u.deg, table["dec"] * u.deg, pm_ra_cosdec=table["pmra"] * u.mas / u.yr,
        pm_dec=table["pmdec"] * u.mas / u.yr, obstime=Time(2015.5, format="jyear"),
        distance=100 * u.pc,
    )  # fmt: skip
    want = start.apply_space_motion(Time(2025.5, format="jyear"))
    got = SkyCoord(moved["ra"], moved["dec"], unit="deg")
    assert float(got.separation(want).to_value("mas").max()) < 1.0
    assert moved["ra"][1] < 1.0  # crossed 0 h
    catalog = ReferenceCatalog.from_table(table)
    by_mjd = catalog.at_epoch(mjd=float(Time(2025.5, format="jyear").mjd))
    np.testing.assert_allclose(by_mjd.table["ra"], moved["ra"], atol=1e-12)
    with pytest.raises(PogsonValueError, match="either"):
        catalog.at_epoch()


def test_no_overlap_says_how_far():
    catalog = ReferenceCatalog.from_table(stars(gmag=[20.0, 21.0, 22.0]))
    sky = FitsSkyMap.tan(150.0, 2.0, x=50.0, y=50.0, scale_arcsec=0.25)
    with pytest.raises(
        MissingDataError, match=r"does not overlap .* of its 3 stars the nearest is"
    ):
        catalog.within(sky, Box(0, 0, 100, 100))
    sky = FitsSkyMap.tan(10.1, 1.0, x=50.0, y=50.0, scale_arcsec=0.25)
    assert catalog.within(sky, Box(0, 0, 100, 100)).table["ra"].tolist() == [10.1]
    wide = FitsSkyMap.tan(10.1, 1.0, x=50.0, y=50.0, scale_arcsec=10.0)
    assert len(catalog.within(wide, Box(0, 0, 100, 100))) == 3


def test_files_are_stacked_and_written(tmp_path):
    one = write_catalog(tmp_path / "1.parquet", stars(gmag=[20.0, 21.0, 22.0]))
    two = write_catalog(tmp_path / "2.fits", stars(gmag=[20.0, 21.0, 22.0]))
    catalog = read_reference_catalog([one, two], duplicate_radius=0.0)
    assert len(catalog) == 6
    assert read_reference_catalog([one, two]).counts()["DUPLICATE"] == 6
    assert catalog == read_reference_catalog([one, two], duplicate_radius=0.0)
    assert "1.parquet" in repr(catalog.sources)
    with pytest.raises(FileFormatError, match="not a Gaia chunk"):
        read_reference_catalog(one, format="gaia-chunk")
    with pytest.raises(PogsonValueError, match="'auto', 'gaia-chunk' or 'table'"):
        read_reference_catalog(one, format="csv")
    with pytest.raises(MissingDataError, match="No reference"):
        read_reference_catalog([])
    empty = write_catalog(tmp_path / "3.parquet", stars(gmag=[20.0, 21.0, 22.0])[:0])
    with pytest.raises(MissingDataError, match="no rows"):
        read_reference_catalog(empty)


# -- real catalogues -------------------------------------------------------------------------
def test_real_gaia_chunks(shared_data):
    paths = sorted(shared_data("decam-cutouts/testcase3/gaia").glob("*.fits"))
    catalog = read_reference_catalog(paths, bands=["G", "phot_bp_mean_mag"])
    assert len(catalog) == 122 + 97 + 252 + 238
    assert catalog.counts().get("DUPLICATE", 0) < 10
    assert set(catalog.systems.values()) == {"Vega (Gaia DR2)"}
    with pytest.raises(MissingDataError, match="no band 'z'; it has 'G', 'BP' or 'RP'"):
        read_reference_catalog(paths, bands=["z"])
    mag, err = catalog.magnitude("phot_g_mean_mag")
    raw = Table.read(paths[0])
    np.testing.assert_array_equal(mag[: len(raw)], raw["phot_g_mean_mag"])
    snr = np.asarray(raw["phot_g_mean_flux_over_error"], float)
    np.testing.assert_allclose(err[: len(raw)], 1.0857362 / snr, rtol=1e-6)
    assert np.all(catalog.table["epoch"] == 2015.5)


def test_gaia_ab_offsets_against_synthetic_photometry_of_vega(shared_data):
    """Evans et al. zero points agree with Vega's spectrum through the DR2 passbands to 0.02 mag."""
    from pogson.sed import Bandpass, Spectrum, synthetic_flux
    from pogson.units import flux_to_magnitude

    table = read_catalog(shared_data("calspec/alpha_lyr_stis_011.fits.gz"))
    vega = Spectrum(np.asarray(table["WAVELENGTH"], float), np.asarray(table["FLUX"], float))
    for band, name in (("G", "gaiadr2-G"), ("BP", "gaiadr2-BP"), ("RP", "gaiadr2-RP")):
        try:
            bandpass = Bandpass.from_speclite(name)
        except Exception:
            pytest.skip("speclite has no Gaia DR2 passbands")
        magnitude = float(flux_to_magnitude(synthetic_flux(vega, bandpass)))
        # Gaia puts Vega at magnitude 0.0 to 0.03, so its AB magnitude is the offset
        assert GAIA_DR2_AB_OFFSETS[band] == pytest.approx(magnitude, abs=0.035), band


def test_real_lsst_reference_catalogue(shared_data):
    catalog = read_reference_catalog(shared_data("jointcal-minimal/225822.fits"))
    assert len(catalog) == 2628
    assert catalog.bands == ("u", "g", "r", "i", "z")
    ra = np.asarray(catalog.table["ra"])
    assert 213.9 < ra.min() < ra.max() < 215.5
    assert np.nanmedian(catalog.magnitude("r")[0]) == pytest.approx(22.0, abs=2.5)


def test_real_matched_catalogue(shared_data):
    path = shared_data("lco-catalog/cpt1m012-fa06-20200113-0102-matched-cat.fits")
    catalog = read_reference_catalog(path, bands=["g", "r", "i", "z"])
    assert len(catalog) == 2752
    assert np.isfinite(catalog.magnitude("g")[1]).all()
