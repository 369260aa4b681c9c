"""Catalogues of stars: formats, columns, codes of missing values."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import Table

from pogson.errors import FileFormatError, MissingDataError, PogsonValueError
from pogson.formats.star_catalogs import StarColumns, read_star_catalog, read_star_table

BANDS = ("PS_g", "PS_r", "PS_i", "PS_z", "PS_y", "2MASS_J", "2MASS_H", "2MASS_Ks")


def table():
    return Table(
        {"id": [7, 8, 9], "ra": [130.0, 131.0, 132.0], "dec": [10.0, 11.0, 12.0],
         "PS_g": [15.0, 16.0, 17.0], "PS_g_Err": [0.01, 0.02, 0.03],
         "PS_r": [14.5, 15.5, 16.5], "PS_r_Err": [0.01, 0.02, 0.03],
         "parallax": [1.0, 2.0, 3.0], "parallax_error": [0.05, 0.06, 0.07]}
    )  # fmt: skip


@pytest.mark.parametrize("suffix", ["fits", "csv", "ecsv", "parquet", "vot", "h5"])
def test_every_format_gives_the_same_stars(tmp_path, suffix):
    path = tmp_path / f"stars.{suffix}"
    if suffix == "h5":
        with h5py.File(path, "w") as file:
            file["here/stars"] = table().as_array()
    elif suffix == "csv":
        table().write(path, format="ascii.csv")
    elif suffix == "vot":
        table().write(path, format="votable")
    else:
        table().write(path, format={"ecsv": "ascii.ecsv"}.get(suffix, suffix))
    stars = read_star_catalog(path, BANDS).photometry
    assert stars.bands == ("PS_g", "PS_r")
    np.testing.assert_allclose(stars.flux[:, 0], 10 ** (-0.4 * np.array([15.0, 16.0, 17.0])))
    np.testing.assert_array_equal(stars.parallax, [1.0, 2.0, 3.0])
    assert stars.ids.tolist() == [7, 8, 9]
    sky = SkyCoord([130, 131, 132] * u.deg, [10, 11, 12] * u.deg).galactic
    np.testing.assert_allclose(stars.l, sky.l.deg)


def test_codes_of_missing_values_are_counted_by_what_says_so(tmp_path):
    t = Table({"PS_g": [15, 0, -9999, -999, 99, np.nan, 20, 20, 20, 18.0]})
    t["PS_g_Err"] = [0.1, 0, -9999, np.inf, 0.1, np.nan, 9.995, np.inf, -0.5, 0.0]
    t.write(tmp_path / "a.fits")
    catalog = read_star_catalog(tmp_path / "a.fits", BANDS)
    assert catalog.missing["PS_g"] == {
        "-9999": 1, "-999": 1, "99": 1, "NaN": 1, "0": 1, "error 9.995": 1,
        "error infinite or NaN": 1, "error zero or negative": 2,
    }  # fmt: skip
    assert catalog.photometry.observed[:, 0].tolist() == [True] + [False] * 9
    assert len(catalog.photometry) == 10  # no row is dropped
    with pytest.raises(PogsonValueError, match="error"):
        read_star_catalog(tmp_path / "a.fits", BANDS, bad_errors="raise")


def test_vectors_units_and_parallaxes(tmp_path):
    t = Table({"f": np.array([[3631.0, 1.0], [36.31, 2.0]]) * u.Jy, "e": np.ones((2, 2)) * u.Jy,
               "p": [0.001, 0.002], "ep": [0.0001, 1e10]})  # fmt: skip
    t.write(tmp_path / "a.ecsv", format="ascii.ecsv")
    catalog = read_star_catalog(
        tmp_path / "a.ecsv", BANDS, bands={"PS_g": ("f[0]", "e[0]")}, kind="flux",
        parallax=("p", "ep"), parallax_unit="arcsec", parallax_zero_point=-0.05,
        parallax_floor=0.1,
    )  # fmt: skip
    stars = catalog.photometry
    np.testing.assert_allclose(stars.flux[:, 0], [1.0, 0.01], rtol=1e-3)
    np.testing.assert_allclose(stars.parallax[0], 1.05)
    np.testing.assert_allclose(stars.parallax_err[0], np.hypot(0.1, 0.1))
    assert np.isnan(stars.parallax[1])
    assert "1 parallaxes" in catalog.notes[0]
    with pytest.raises(PogsonValueError, match=r"f\[0\] to f\[1\]"):
        read_star_catalog(tmp_path / "a.ecsv", BANDS, bands={"PS_g": ("f", "e")})
    with pytest.raises(PogsonValueError, match="no element 5"):
        read_star_catalog(tmp_path / "a.ecsv", BANDS, bands={"PS_g": ("f[5]", "e[0]")})


def test_parallaxes_in_the_wrong_unit_are_noticed(tmp_path):
    t = table()
    t["parallax"], t["parallax_error"] = [1e-3, 2e-3, 3e-3], [5e-5, 6e-5, 7e-5]
    t.write(tmp_path / "a.fits")
    with pytest.raises(PogsonValueError, match="arcsec"):
        read_star_catalog(tmp_path / "a.fits", BANDS)


def test_repeated_identifiers_become_row_numbers(tmp_path):
    t = table()
    t["id"] = [1, 1, 2]
    t.write(tmp_path / "a.fits")
    catalog = read_star_catalog(tmp_path / "a.fits", BANDS)
    assert catalog.photometry.ids.tolist() == [0, 1, 2]
    assert "2 different values for 3 stars" in catalog.notes[0]


def test_what_is_not_there_is_said(tmp_path):
    path = tmp_path / "a.fits"
    table().write(path)
    with pytest.raises(FileFormatError, match="no catalogue"):
        read_star_table(tmp_path / "none.fits")
    with pytest.raises(MissingDataError, match=r"\[catalog.bands\].*parallax_error"):
        read_star_catalog(path, ["SDSS_g"])
    with pytest.raises(MissingDataError, match="did you mean 'PS_g'"):
        read_star_catalog(path, ["PS_g"], bands={"PS_G": ("PS_g", "PS_g_Err")})
    with pytest.raises(MissingDataError, match="no column 'gmag'"):
        read_star_catalog(path, BANDS, bands={"PS_g": ("gmag", "PS_g_Err")})
    with pytest.raises(PogsonValueError, match="look like magnitudes"):
        read_star_catalog(path, BANDS, kind="flux")
    with pytest.raises(FileFormatError, match="no rows"):
        read_star_catalog(path, BANDS, rows=slice(5, 9))
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["a"], file["b"] = table().as_array(), table().as_array()
    with pytest.raises(FileFormatError, match="'a' or 'b'"):
        read_star_table(tmp_path / "two.h5")
    (tmp_path / "bad.h5").write_text("not HDF5")
    with pytest.raises(FileFormatError, match="HDF5"):
        read_star_table(tmp_path / "bad.h5")
    with pytest.raises(PogsonValueError, match="frame"):
        StarColumns({"g": ("a", "b")}, frame="fk4")


def test_all_bands_missing_is_an_error(tmp_path):
    t = table()
    for band in ("PS_g", "PS_r"):
        t[band] = [-999.0] * 3
    t.write(tmp_path / "a.fits")
    with pytest.raises(PogsonValueError, match="No star"):
        read_star_catalog(tmp_path / "a.fits", BANDS)


def test_real_catalogues(shared_data):
    m67 = read_star_catalog(shared_data("m67/NGC_2682.fits"), BANDS)
    stars = m67.photometry
    assert len(stars) == 1585
    assert stars.bands == BANDS
    assert int((stars.n_bands == 8).sum()) == 1159  # of 1174 with all magnitudes 15 lack an error
    assert m67.missing["2MASS_Ks"]["error 9.995"] == 1
    wise = read_star_catalog(shared_data("m67/NGC_2682.fits"), ["WISE_W1", "WISE_W4"])
    assert wise.missing["WISE_W4"]["error -9999"] == 1450
    tycho = read_star_catalog(
        shared_data("m67/NGC_2682.fits"), ["Tycho_B"],
        bands={"Tycho_B": ("tycho2.btmag", "tycho2.e_btmag")},
    )  # fmt: skip
    assert tycho.missing["Tycho_B"]["0"] == 1539
    columns = {b: (f"mag[{k}]", f"err[{k}]") for k, b in enumerate(BANDS)}
    orion = read_star_catalog(
        shared_data("m67/Orion_l204.7_b-19.2.h5"), BANDS, bands=columns, parallax_unit="arcsec"
    )
    assert len(orion.photometry) == 1642
    assert orion.missing["2MASS_Ks"] == {"-999": 1408}
    assert len(set(orion.photometry.ids.tolist())) == 1642
    assert 0.3 < np.nanmedian(orion.photometry.parallax) < 0.7


@pytest.mark.parametrize("suffix", ["fits", "parquet", "h5"])
@pytest.mark.parametrize("rows", [None, slice(37, 311), slice(390, 999)])
def test_row_ranges_give_what_the_whole_file_gives(tmp_path, monkeypatch, suffix, rows):
    from pogson.formats import star_chunks

    rng = np.random.default_rng(2)
    n, path = 400, tmp_path / f"a.{suffix}"
    t = Table({"source_id": np.arange(n) + 2**60, "name": [f"star {k}" for k in range(n)]})
    t["mag"], t["err"] = rng.uniform(14, 18, (n, 3)), rng.uniform(0.01, 0.1, (n, 3))
    t["l"], t["b"], t["parallax"] = rng.uniform(0, 360, n), rng.uniform(30, 60, n), rng.random(n)
    t["parallax_error"] = 0.1
    for k in range(20):
        t[f"other{k}"] = rng.random(n)
    if suffix == "h5":
        with h5py.File(path, "w") as file:
            t.remove_column("name")
            file["stars"] = t.as_array()
    else:
        t.write(path)
    options = {
        "bands": {"PS_g": ("mag[0]", "err[0]"), "PS_i": ("mag[2]", "err[2]")},
        "select": {"other3": (0.1, 0.9)}, "rows": rows,
        "table": "stars" if suffix == "h5" else None,
    }  # fmt: skip
    if suffix == "parquet":
        t.remove_columns(["mag", "err"])
        t["PS_g"], t["PS_g_Err"] = rng.uniform(14, 18, n), 0.1
        t.write(path, overwrite=True)
        del options["bands"]
    monkeypatch.setattr(star_chunks, "_chunks", lambda *a: None)
    whole = read_star_catalog(path, BANDS, **options)
    monkeypatch.undo()
    seen = []
    one = star_chunks._range
    monkeypatch.setattr(star_chunks, "_range", lambda *a: seen.append(a) or one(*a))
    defaults = {**star_chunks.read_columns.__kwdefaults__, "chunk_bytes": 3000}
    monkeypatch.setattr(star_chunks.read_columns, "__kwdefaults__", defaults)
    parts = read_star_catalog(path, BANDS, **options)
    assert len(seen) == 1  # read by ranges indeed
    assert parts.notes == whole.notes
    assert parts.missing == whole.missing
    assert parts.photometry == whole.photometry


def test_columns_that_are_not_used_are_not_held(tmp_path):
    import tracemalloc

    n, path = 60_000, tmp_path / "wide.fits"
    t = table()[np.zeros(n, int)]
    t["id"] = np.arange(n)
    for k in range(60):
        t[f"other{k}"] = np.zeros(n)
    t.write(path)
    size = path.stat().st_size
    assert size > 33e6
    del t
    tracemalloc.start()
    stars = read_star_catalog(path, BANDS).photometry
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    held = sum(getattr(stars, k).nbytes for k in ("flux", "flux_err", "parallax", "l", "b", "ids"))
    print(f"file {size / 1e6:.0f} MB, peak {peak / 1e6:.0f} MB, kept {held / 1e6:.0f} MB")
    assert len(stars) == n
    # the columns used are twice in memory at most, beside one range
    assert peak < 2 * 16e6 + 3 * held
