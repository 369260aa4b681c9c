"""Catalogues in four formats: what goes in comes out."""

from __future__ import annotations

import contextlib

import astropy.units as u
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import Column, MaskedColumn, QTable, Table
from astropy.time import Time
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pogson.errors import FileFormatError, PogsonError, PogsonTypeError, PogsonValueError
from pogson.formats import read_catalog, write_catalog
from pogson.formats.catalogs import catalog_format

SUFFIXES = (".parquet", ".ecsv", ".fits", ".vot")


def same(a, b):
    """Assert that two tables are equal in everything that a catalogue carries."""
    assert a.colnames == b.colnames
    assert dict(a.meta) == dict(b.meta)
    for name in a.colnames:
        one, two = a[name], b[name]
        assert one.dtype.newbyteorder("=") == two.dtype, name
        assert one.shape == two.shape, name
        assert one.unit == two.unit, name
        assert one.info.description == two.info.description, name
        assert dict(one.info.meta or {}) == dict(two.info.meta or {}), name
        assert hasattr(one, "mask") == hasattr(two, "mask"), name
        x, y = np.asarray(np.ma.getdata(one)), np.asarray(np.ma.getdata(two))
        if hasattr(one, "mask"):
            np.testing.assert_array_equal(one.mask, two.mask)
            x, y = x[~one.mask], y[~two.mask]
        np.testing.assert_array_equal(x, y)


def example():
    table = Table()
    table["id"] = np.array([1, 2, 2**63 - 1])
    table["big"] = np.array([0, 1, 2**64 - 1], np.uint64)
    table["flux"] = Column([1.5, np.nan, -np.inf], unit="nJy", description="total flux")
    table["flux"].info.meta = {"reference": {"kind": "total"}, "numbers": [1, 2.5, None, True]}
    table["rate"] = Column([1.0, 2.0, 3.0], unit=u.electron / u.s, dtype=np.float32)
    table["curve"] = Column(np.arange(12.0).reshape(3, 2, 2), unit="adu")
    table["n"] = MaskedColumn([1, 2, 3], mask=[False, True, False], dtype=np.int16)
    table["f"] = MaskedColumn([np.nan, 2.0, 3.0], mask=[False, True, False], unit="mag")
    table["name"] = ["a", "", "long name"]
    table["s"] = MaskedColumn(["x", "", "z"], mask=[True, False, False])
    table["ok"] = np.array([True, False, True])
    table["okm"] = MaskedColumn([True, False, True], mask=[0, 0, 1])
    table["byte"] = np.array([-1, 0, 1], np.int8)
    table["u2"] = np.array([0, 1, 65535], np.uint16)
    table["swapped"] = np.array([1.0, 2.0, 3.0], ">f4")
    table["raw"] = np.array([b"ab", b"", b"c"])
    table.meta = {"provenance": {"steps": ["a", "b"], "version": "1"}, "nothing": None, "x": 0.1}
    return table


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".fits.gz"])
def test_everything_comes_back(tmp_path, suffix):
    path = write_catalog(tmp_path / f"a{suffix}", example())
    same(example(), read_catalog(path))
    assert [p.name for p in tmp_path.iterdir()] == [f"a{suffix}"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_empty_tables(tmp_path, suffix):
    table = example()[:0]
    same(table, read_catalog(write_catalog(tmp_path / f"a{suffix}", table)))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_quantity_tables_become_plain_columns_with_units(tmp_path, suffix):
    table = QTable({"f": [1.0, 2.0] * u.nJy})
    back = read_catalog(write_catalog(tmp_path / f"a{suffix}", table))
    assert back["f"].unit == u.nJy
    np.testing.assert_array_equal(back["f"], [1.0, 2.0])


def test_parquet_is_ordinary_parquet(tmp_path):
    path = write_catalog(tmp_path / "a.parquet", example())
    arrow = pq.read_table(path)
    assert arrow.schema.field("flux").metadata[b"unit"] == b"nJy"
    assert b"reference" in arrow.schema.field("flux").metadata[b"meta"]
    assert arrow.column("n").null_count == 1
    assert arrow.column("flux").null_count == 0  # NaN is a number here, not a missing value


def test_foreign_parquet(tmp_path):
    arrow = pa.table(
        {
            "a": pa.array([1, None, 3]),
            "t": pa.array(["x", None, "z"]),
            "d": pa.array(["p", "q", "p"]).dictionary_encode(),
            "l": pa.array([[1, 2], [3], None]),
            "b": pa.array([True, None, False]),
        }
    )
    pq.write_table(arrow, tmp_path / "a.parquet")
    table = read_catalog(tmp_path / "a.parquet")
    assert table["a"].mask.tolist() == [False, True, False]
    assert table["d"].tolist() == ["p", "q", "p"]
    assert table["b"][0]
    assert table["t"][2] == "z"


def test_foreign_fits_keeps_nan_as_nan(tmp_path):
    Table({"a": [1.0, np.nan], "s": ["x", ""]}).write(tmp_path / "a.fits")
    table = read_catalog(tmp_path / "a.fits")
    assert not hasattr(table["a"], "mask")
    assert np.isnan(table["a"][1])
    assert table["s"].dtype.kind == "U"
    assert table["a"].dtype.isnative


def test_real_tables(shared_data):
    table = read_catalog(shared_data("des-smp/exposures.ecsv"))
    assert len(table) == 14
    table = read_catalog(shared_data("lco-catalog/cpt1m012-fa06-20200113-0102-matched-cat.fits"))
    assert len(table) == 2752
    assert len(read_catalog(shared_data("jointcal-minimal/225822.fits"), hdu=1)) == 2628


def test_errors(tmp_path):
    with pytest.raises(PogsonValueError, match=r"\.parquet"):
        write_catalog(tmp_path / "a.csv", example())
    with pytest.raises(PogsonTypeError, match="dict"):
        write_catalog(tmp_path / "a.fits", {"a": [1]})
    with pytest.raises(PogsonTypeError, match="'c' has type complex"):
        write_catalog(tmp_path / "a.fits", Table({"c": [1j]}))
    with pytest.raises(PogsonTypeError, match="Split it"):
        write_catalog(tmp_path / "a.fits", Table({"t": Time([50000.0], format="mjd")}))
    with pytest.raises(PogsonValueError, match="meta of the table"):
        write_catalog(tmp_path / "a.fits", Table({"a": [1]}, meta={"x": object()}))
    with pytest.raises(PogsonValueError, match="ASCII"):
        write_catalog(tmp_path / "a.fits", Table({"a": ["caf\u00e9"]}))
    with pytest.raises(PogsonValueError, match="__mask"):
        write_catalog(tmp_path / "a.fits", Table({"a__mask": [1]}))
    for suffix in (".ecsv", ".fits", ".vot"):
        with pytest.raises(PogsonValueError, match=r"write .parquet"):
            write_catalog(tmp_path / f"a{suffix}", Table({"a": [" x"]}))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileFormatError, match="does not exist"):
        read_catalog(tmp_path / "a.parquet")
    for suffix in SUFFIXES:
        (tmp_path / f"bad{suffix}").write_bytes(b"rubbish" * 40)
        with pytest.raises(FileFormatError, match="bad"):
            read_catalog(tmp_path / f"bad{suffix}")
    from astropy.io import fits

    fits.PrimaryHDU(np.zeros((2, 2))).writeto(tmp_path / "image.fits")
    with pytest.raises(FileFormatError, match="has no table"):
        read_catalog(tmp_path / "image.fits")


def test_newer_schema_is_refused(tmp_path, monkeypatch):
    import pogson.formats.catalogs as catalogs

    monkeypatch.setattr(catalogs, "SCHEMA_VERSION", 7)
    path = write_catalog(tmp_path / "a.parquet", example())
    monkeypatch.undo()
    with pytest.raises(FileFormatError, match=r"schema 7.*Upgrade"):
        read_catalog(path)


def test_formats_by_suffix():
    assert catalog_format("A.FITS") == "fits"
    assert catalog_format("a.xml") == "votable"


TEXT = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="&<>\"'\\"), max_size=6
)
DTYPES = st.sampled_from(["i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8", "bool"])


@st.composite
def tables(draw):
    rows = draw(st.integers(1, 5))
    table = Table()
    for i in range(draw(st.integers(1, 4))):
        shape = (rows, *draw(st.sampled_from([(), (2,), (2, 3)])))
        values = draw(hnp.arrays(draw(DTYPES), shape))
        if draw(st.booleans()):
            mask = draw(hnp.arrays(bool, shape))
            table[f"c{i}"] = MaskedColumn(values, mask=mask)
        else:
            table[f"c{i}"] = Column(values)
        table[f"c{i}"].unit = draw(st.sampled_from([None, "nJy", "adu / s", "mag", "arcsec2"]))
        table[f"c{i}"].info.meta = draw(st.dictionaries(TEXT, st.integers(), max_size=2))
    table["t"] = np.array(draw(st.lists(TEXT, min_size=rows, max_size=rows)), str)
    table.meta = draw(st.dictionaries(TEXT, st.floats(allow_nan=False) | TEXT, max_size=3))
    return table


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=25)
@given(table=tables())
def test_round_trip_of_any_table(tmp_path, suffix, table):
    same(table, read_catalog(write_catalog(tmp_path / f"a{suffix}", table)))


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=40)
@given(data=st.data())
def test_fuzzed_catalogues_raise_only_pogson_errors(tmp_path, suffix, data):
    path = tmp_path / f"a{suffix}"
    raw = bytearray(write_catalog(path, example()).read_bytes())
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
    else:
        for _ in range(data.draw(st.integers(1, 5))):
            raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(bytes(raw))
    with contextlib.suppress(PogsonError):
        read_catalog(path)


@pytest.mark.parametrize("suffix", [".ecsv", ".vot"])
def test_what_others_changed_is_read_as_it_is_now(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    write_catalog(path, Table({"x": [1.0, 2.0], "n": [3, 4], "ok": [True, False]}))
    form = {".ecsv": "ascii.ecsv", ".vot": "votable"}[suffix]
    table = Table.read(path, format=form)
    table["gain"] = [4.0, 5.0]
    table["x"] = MaskedColumn([1.0, 0.0], mask=[False, True])
    table["n"] = [3.5, 4.5]
    table["ok"] = ["no", "yes"]
    table.write(path, format=form, overwrite=True)
    back = read_catalog(path)
    np.testing.assert_array_equal(back["gain"], [4.0, 5.0])
    np.testing.assert_array_equal(np.ma.filled(back["x"], np.nan), [1.0, np.nan])
    np.testing.assert_array_equal(back["n"], [3.5, 4.5])
    assert [str(v) for v in back["ok"]] == ["no", "yes"]


def test_unit_that_others_changed_in_ecsv(tmp_path):
    path = write_catalog(tmp_path / "a.ecsv", Table({"ra": [150.0]}, units={"ra": "deg"}))
    table = Table.read(path, format="ascii.ecsv")
    table["ra"] = Column([10.0], unit="hourangle")
    table.write(path, format="ascii.ecsv", overwrite=True)
    assert read_catalog(path)["ra"].unit == u.hourangle
