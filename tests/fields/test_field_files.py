"""Damaged descriptions and files raise FileFormatError, and nothing else."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pogson.errors import (
    FileFormatError,
    PogsonError,
    PogsonTypeError,
    PogsonValueError,
    UnitMismatchError,
)
from pogson.fields import (
    Box,
    ChebyshevField,
    ConstantField,
    Field,
    GridField,
    PixelAreaField,
    field_from_dict,
    read_field,
    register_kind,
    write_field,
)

BOX = Box(0, 0, 20, 10)
CHEB = ChebyshevField(BOX, [[1.0, 0.1], [0.3, 0.0]], "nJy / adu", total=True)
GRID = GridField(BOX, [-1, 10, 21], [-1, 12], [[1, 2, 3], [4, 5, 6.5]], "adu")
AREA = PixelAreaField(ChebyshevField(BOX, [[0.07, 0.002]], "arcsec2"), 1e-8, "a mapping")
TREE = (CHEB * GRID + 3.0 * u.nJy) / AREA


def test_schema_is_frozen() -> None:
    """A file written by an earlier pogson must stay readable: this text never changes."""
    text = """{"schema": "pogson.field", "version": 1, "kind": "quotient", "box": [0, 0, 20, 10],
    "unit": "nJy / arcsec2",
    "numerator": {"schema": "pogson.field", "version": 1, "kind": "sum", "box": [0, 0, 20, 10],
      "unit": "nJy", "terms": [
        {"schema": "pogson.field", "version": 1, "kind": "product", "box": [0, 0, 20, 10],
         "unit": "nJy", "factors": [
          {"schema": "pogson.field", "version": 1, "kind": "chebyshev", "box": [0, 0, 20, 10],
           "unit": "nJy / adu", "coefficients": [[1.0, 0.1], [0.3, 0.0]],
           "domain": [-0.5, 19.5, -0.5, 9.5], "total": true},
          {"schema": "pogson.field", "version": 1, "kind": "grid", "box": [0, 0, 20, 10],
           "unit": "adu", "x_nodes": [-1, 10, 21], "y_nodes": [-1, 12],
           "values": [[1, 2, 3], [4, 5, 6.5]], "interpolation": "linear"}]},
        {"schema": "pogson.field", "version": 1, "kind": "constant", "box": [0, 0, 20, 10],
         "unit": "nJy", "value": 3.0}]},
    "denominator": {"schema": "pogson.field", "version": 1, "kind": "pixel_area",
      "box": [0, 0, 20, 10], "unit": "arcsec2",
      "chebyshev": {"schema": "pogson.field", "version": 1, "kind": "chebyshev",
        "box": [0, 0, 20, 10], "unit": "arcsec2", "coefficients": [[0.07, 0.002]],
        "domain": [-0.5, 19.5, -0.5, 9.5], "total": false},
      "achieved_error": 1e-8, "reference": "a mapping"}}"""
    assert field_from_dict(json.loads(text)) == TREE
    assert json.loads(text) == TREE.to_dict()


def _paths(value: Any, path: tuple = ()) -> list[tuple]:
    """List the path of every node of a description."""
    found = [path] if path else []
    if isinstance(value, dict):
        for k, v in value.items():
            found += _paths(v, (*path, k))
    elif isinstance(value, list):
        for k, v in enumerate(value):
            found += _paths(v, (*path, k))
    return found


_ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(
        [[], {}, [[]], [[1.0], [1.0, 2.0]], 10**400, -1, 1e308, "nJy", "constant", {"__array__": 1}]
    ),
    st.lists(st.floats(), max_size=4),
)


@given(st.data())
@settings(max_examples=400)
def test_damaged_descriptions(data: st.DataObject) -> None:
    description = copy.deepcopy(TREE.to_dict())
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(_paths(description)))
        node = description
        for step in path[:-1]:
            node = node[step]
        if data.draw(st.booleans()):
            del node[path[-1]]
        else:
            node[path[-1]] = copy.deepcopy(data.draw(_ODD))
    try:
        field = field_from_dict(description)
    except FileFormatError:
        pass  # what a damaged description should do
    else:
        assert isinstance(field, Field)
        assert np.isfinite(field.coefficients if hasattr(field, "coefficients") else 0).all()


@given(_ODD)
def test_not_a_description(value: Any) -> None:
    with pytest.raises(FileFormatError, match="schema"):
        field_from_dict(value)


def _changed(**changes: Any) -> dict[str, Any]:
    return {k: v for k, v in (CHEB.to_dict() | changes).items() if v is not ...}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": "other"}, "pogson.field"),
        ({"version": 2}, "version 2"),
        ({"version": True}, "version True"),
        ({"kind": "spiral"}, "'spiral'; allowed: 'constant'"),
        ({"box": [0, 0, 0, 5]}, "empty"),
        ({"box": [0, 0, 5.5, 5]}, "whole numbers"),
        ({"box": ...}, "whole numbers"),
        ({"unit": "parsnips"}, "parsnips"),
        ({"unit": 3}, "text"),
        ({"coefficients": ...}, "coefficients"),
        ({"coefficients": [[1, None]]}, "not finite|numbers"),
        ({"colour": "red"}, "no 'colour'"),
        ({"total": "yes"}, "true or false"),
    ],
)
def test_messages(changes: dict, message: str) -> None:
    with pytest.raises(FileFormatError, match=message):
        field_from_dict(_changed(**changes))


def test_parts_must_agree_with_the_whole() -> None:
    description = (CHEB * GRID).to_dict()
    for wrong in ({"box": [0, 0, 10, 10]}, {"unit": "adu"}):
        with pytest.raises(FileFormatError, match="its parts give"):
            field_from_dict(description | wrong)


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    description = CHEB.to_dict()
    for _ in range(200):
        description = (GRID * GRID).to_dict() | {"factors": [description]}
    with pytest.raises(FileFormatError, match="nested"):
        field_from_dict(description)
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(FileFormatError, match=r"deep\.json"):
        read_field(tmp_path / "deep.json")


@pytest.mark.parametrize("name", ["f.json", "f.fits", "f.fits.gz"])
def test_every_truncation_is_an_error_that_names_the_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    write_field(TREE, path)
    whole = path.read_bytes()
    step = max(1, len(whole) // 150)
    for length in (*range(0, len(whole) - 2, step), len(whole) - 3):
        path.write_bytes(whole[:length])
        with pytest.raises(FileFormatError, match=name.replace(".", r"\.")):
            read_field(path)


@pytest.mark.parametrize("name", ["f.json", "f.fits", "f.fits.gz"])
def test_flipped_bits(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    write_field(TREE, path)
    whole = path.read_bytes()
    refused = 0
    messages: list[str] = []

    @given(st.lists(st.integers(0, 8 * len(whole) - 1), min_size=1, max_size=3))
    @settings(max_examples=150)
    @example([0])
    def flip(bits: list[int]) -> None:
        nonlocal refused
        damaged = bytearray(whole)
        for bit in bits:
            damaged[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                assert isinstance(read_field(path), Field)
            except FileFormatError as error:
                refused += 1
                messages.append(str(error))

    flip()
    print(f"{refused} damaged files refused")
    assert refused > 10
    assert all(str(path) in message for message in messages)


@given(st.binary(max_size=3000))
@settings(max_examples=60)
def test_garbage(tmp_path: Path, garbage: bytes) -> None:
    for name in ("g.json", "g.fits", "g.fits.gz"):
        (tmp_path / name).write_bytes(garbage)
        with pytest.raises(FileFormatError, match=r"g\."):
            read_field(tmp_path / name)


def test_other_fits_files(tmp_path: Path) -> None:
    from astropy.io import fits

    path = tmp_path / "image.fits"
    fits.PrimaryHDU(np.ones((3, 3))).writeto(path)
    with pytest.raises(FileFormatError, match="no extension FIELD"):
        read_field(path)
    write_field(CHEB, path, overwrite=True)
    with fits.open(path) as hdus:
        hdus.verify("exception")
        assert hdus[0].header["BUNIT"] == "nJy / adu"
        assert hdus[0].header["PGKIND"] == "chebyshev"
        kept = fits.HDUList([hdus[0].copy(), hdus[1].copy()])
        kept.writeto(path, overwrite=True)
    with pytest.raises(FileFormatError, match="ARRAY1 is missing"):
        read_field(path)


def test_writing_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    write_field(CHEB, path)
    with pytest.raises(FileFormatError, match="overwrite=True"):
        write_field(GRID, path)
    assert read_field(path) == CHEB
    write_field(GRID, path, overwrite=True)
    assert read_field(path) == GRID
    odd = ConstantField(BOX, 1.0, u.def_unit("parsnip"))
    with pytest.raises(UnitMismatchError, match="parsnip"):
        write_field(odd, path, overwrite=True)
    assert read_field(path) == GRID
    with pytest.raises(FileFormatError, match="Cannot make the folder"):
        write_field(GRID, path / "f.json")  # a file is in the way
    with pytest.raises(FileFormatError, match="cannot be read"):
        read_field(tmp_path / "missing.fits")
    for function in (lambda p: write_field(GRID, p), read_field):
        with pytest.raises(PogsonValueError, match=r"'\.json', '\.fits'"):
            function(tmp_path / "f.txt")
    with pytest.raises(PogsonTypeError, match="int"):
        write_field(3, path)
    assert [p.name for p in tmp_path.iterdir()] == ["f.json"]


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(1e-300, 1e300))
def test_every_float_survives(tmp_path: Path, a: float, b: float) -> None:
    field = ChebyshevField(BOX, [[a, b]])
    for name in ("n.json", "n.fits"):
        write_field(field, tmp_path / name, overwrite=True)
        np.testing.assert_array_equal(read_field(tmp_path / name).coefficients, field.coefficients)


def test_kinds_are_registered_once() -> None:
    class Impostor(ConstantField):
        __slots__ = ()

    with pytest.raises(PogsonValueError, match="taken"):
        register_kind(Impostor)
    assert issubclass(FileFormatError, PogsonError)
