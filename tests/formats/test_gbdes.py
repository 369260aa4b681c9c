"""Maps of gbdes: the real DECam star flat and astrometry, and files that are not what they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pogson.errors import FileFormatError, MissingDataError, PogsonValueError
from pogson.fields import Box, ChebyshevField
from pogson.formats.gbdes import (
    PhotoMaps,
    PixelMaps,
    decam_detector_number,
    read_detector_offsets,
    read_map_templates,
    read_photo_maps,
    read_pixel_maps,
)

FOLDER = "decam-starflat/"


@pytest.fixture(scope="module")
def photo(shared_data) -> PhotoMaps:
    return read_photo_maps(shared_data(FOLDER + "allsf.guts.photo"))


@pytest.fixture(scope="module")
def pixels(shared_data) -> PixelMaps:
    return read_pixel_maps(shared_data(FOLDER + "y6a1.guts.astro"), lenient=True)


def polynomial(order: int, coefficients) -> dict:
    return {
        "Type": "Poly", "UsePixelCoords": True, "XMin": 0, "XMax": 2048, "YMin": 0, "YMax": 4096,
        "Poly": {"SumOrder": True, "OrderX": order, "Coefficients": list(coefficients)},
    }  # fmt: skip


def test_real_star_flat(photo: PhotoMaps):
    """The counts and sizes that are known of this solution, and one polynomial by hand."""
    assert len(photo) == 1525
    assert photo.bands == ["g", "r", "i", "z", "Y"]
    assert len(photo.detectors) == 61
    assert "N30" not in photo.detectors  # failed in 2012
    constants = [photo.node(f"g/{d}/poly")["Poly"]["Coefficients"][0] for d in photo.detectors]
    assert np.std(constants) == pytest.approx(0.0213, abs=5e-4)
    c = photo.node("g/N1/poly")["Poly"]["Coefficients"]
    x, y = 100.0, 3000.0  # 0-based; the file counts from 1
    u, v = (x + 1) / 1024 - 1, (y + 1) / 2048 - 1
    by_hand = (
        c[0] + c[1] * u + c[2] * v + c[3] * u**2 + c[4] * u * v + c[5] * v**2 + c[6] * u**3
        + c[7] * u**2 * v + c[8] * u * v**2 + c[9] * v**3
    )  # fmt: skip
    field = photo.field("g/N1/poly")
    assert isinstance(field, ChebyshevField)
    assert field(x=x, y=y) == pytest.approx(by_hand, abs=1e-15)
    term = photo.color("g/N1/color")
    a = photo.node("g/N1/color")["Function"]["Poly"]["Coefficients"]
    assert term.reference == 0.61
    expected = (1.5 - 0.61) * (a[0] + a[1] * u + a[2] * v)
    assert photo.correction("g/N1/color", x=x, y=y, color=1.5) == pytest.approx(expected, abs=1e-15)
    with pytest.raises(MissingDataError, match="colour"):
        photo.correction("g/N1/color", x=x, y=y)


def test_templates_that_the_file_names_are_asked_for(photo: PhotoMaps):
    name, amplitude = photo.amplitude("g/N1/rings")
    assert (name, round(amplitude, 4)) == ("N1", 0.9250)
    assert "N1" in photo.missing_templates
    with pytest.raises(MissingDataError, match=r"photorings4\.yaml"):
        photo.field("g/N1/rings")
    flat = ChebyshevField(photo.box, [[0.01]])
    known = photo.with_templates({"N1": flat})
    assert known.field("g/N1/rings")(x=0.0, y=0.0) == pytest.approx(0.01 * amplitude)
    assert "N1" not in known.missing_templates
    with pytest.raises(PogsonValueError, match="not a Template"):
        photo.amplitude("g/N1/poly")
    with pytest.raises(MissingDataError, match="there are"):
        photo.field("g/N1/polynomial")


def test_real_astrometry(pixels: PixelMaps):
    """Scale, place and gaps of DECam's detectors, from what is published of the camera."""
    name = "g20130829/{}"
    assert pixels.elements(name.format("N1"))[-2:] == ["20130829/N1/ccdshift", "g/color"]
    h = 0.5

    def area(d: str, x: float, y: float) -> float:
        ax, ay = (
            np.subtract(pixels.plane(name.format(d), x=x + h * i, y=y + h * j),
                        pixels.plane(name.format(d), x=x - h * i, y=y - h * j))
            for i, j in ((1, 0), (0, 1))
        )  # fmt: skip
        return float(abs(ax[0] * ay[1] - ax[1] * ay[0]) * 3600**2)

    assert area("N4", 1000, 4000) == pytest.approx(0.2637**2, rel=0.005)
    assert area("N1", 1000, 2000) / area("N4", 1000, 2000) == pytest.approx(0.992, abs=0.003)
    centers = {d: pixels.plane(name.format(d), x=1023.5, y=2047.5) for d in ("N4", "N5", "S4")}

    def step(a: str, b: str) -> float:
        return float(np.hypot(*np.subtract(centers[a], centers[b])) * 3600 / 0.2637)

    # gaps of 153 pixels along columns and 201 along rows (Flaugher et al. 2015, AJ 150, 150)
    assert step("N4", "N5") == pytest.approx(4096 + 153, abs=15)
    assert step("N4", "S4") == pytest.approx(2048 + 201, abs=15)


def test_detector_offsets(shared_data):
    offsets = read_detector_offsets(shared_data(FOLDER + "y6a1.affine.fits"))
    assert np.unique(offsets.position).size == 61
    x, y = offsets.pixels("N1", 57000.0, x=1023.5, y=2047.5)
    assert 0 < np.hypot(x - 1023.5, y - 2047.5) < 0.2
    early = offsets.pixels("N1", 50000.0, x=0.0, y=0.0)
    first = offsets.pixels("N1", offsets.mjd[offsets.position == "N1"].min(), x=0.0, y=0.0)
    assert early == first
    with pytest.raises(MissingDataError, match="N99"):
        offsets.pixels("N99", 57000.0, x=0.0, y=0.0)


def test_detector_numbers():
    """CCDNUM of DECam by DETPOS, as in its headers."""
    known = {"S29": 1, "S25": 4, "S20": 8, "S14": 13, "S8": 19, "S1": 25, "N1": 32, "N31": 62}
    assert {k: decam_detector_number(k) for k in known} == known
    with pytest.raises(MissingDataError, match="N32"):
        decam_detector_number("N32")


@settings(max_examples=30)
@given(st.integers(0, 4), st.integers(0, 2**31))
def test_polynomials_are_exact(order: int, seed: int):
    rng = np.random.default_rng(seed)
    pairs = [(d - j, j) for d in range(order + 1) for j in range(d + 1)]
    c = rng.normal(size=len(pairs))
    maps = PhotoMaps({"a": polynomial(order, c)})
    x, y = rng.uniform(0, 2047, 5), rng.uniform(0, 4095, 5)
    u, v = (x + 1) / 1024 - 1, (y + 1) / 2048 - 1
    expected = sum(k * u**i * v**j for k, (i, j) in zip(c, pairs, strict=True))
    np.testing.assert_allclose(maps.field("a")(x=x, y=y), expected, atol=1e-12)


def test_pixel_maps_of_every_kind():
    box = Box(0, 0, 2048, 4096)
    poly = polynomial(1, [0.0, 1.0, 0.0])
    poly["XPoly"], poly["YPoly"] = poly.pop("Poly"), {
        "SumOrder": False, "OrderX": 1, "OrderY": 1, "Coefficients": [1.0, 2.0, 0.0, 3.0],
    }  # fmt: skip
    from pogson.fields import TableField

    ring = TableField(box, "radius", 0.0, 1000.0, [0.0, 1.0, 1.0], (0.0, 0.0))
    maps = PixelMaps(
        {
            "shift": {"Type": "Constant", "Parameters": [1.0, -1.0]},
            "poly": poly,
            "ring": {"Type": "Template", "LowTable": "r", "Parameter": 2.0, "HasSplit": False},
            "same": {"Type": "Identity"},
            "both": {"Type": "Composite", "Elements": ["shift", "same", "shift"]},
        },
        templates={"r": ring},
    )
    assert maps.plane("both", x=0.0, y=10.0) == (3.0, 9.0)
    u, v = 0.5, -0.25
    x, y = (u + 1) * 1024 - 1, (v + 1) * 2048 - 1
    assert maps.plane("poly", x=x, y=y) == pytest.approx((u, 1.0 + 2.0 * v + 3.0 * u * v))
    px, py = maps.plane("ring", x=300.0, y=400.0)  # 0.5 of the table times 2 along the radius
    assert (px - 301.0, py - 401.0) == pytest.approx((0.6, 0.8))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("just words", "not a mapping"),
        ("a: [1", "not readable YAML"),
        ("a: 1", "no PhotoMapCollection"),
        ("PhotoMapCollection: x\nb: !!python/object/apply:os.getcwd []", "not readable YAML"),
        ("PhotoMapCollection: &a [1]\nb: [*a, *a]", "aliases"),
        ("PhotoMapCollection: x\nb: {Type: Magic}", "Magic"),
        ("PhotoMapCollection: x\nb: 7", "must be a mapping"),
    ],
)
def test_files_that_are_not_maps(tmp_path, text: str, message: str):
    path = tmp_path / "bad.photo"
    path.write_text(text)
    with pytest.raises(FileFormatError, match=message):
        read_photo_maps(path)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (polynomial(2, [1.0, 2.0]), "2 coefficients for total degree 2"),
        (polynomial(0, [float("nan")]), "finite numbers"),
        (polynomial(0, ["x"]), "finite numbers"),
        ({**polynomial(0, [1.0]), "XMax": 0}, "empty"),
        ({**polynomial(0, [1.0]), "UsePixelCoords": False}, "exposure coordinates"),
        ({**polynomial(99, [1.0])}, "0 to 30"),
        ({"Type": "Composite", "Elements": ["a"]}, "contains itself"),
        ({"Type": "Composite", "Elements": "a"}, "list of Elements"),
        ({"Type": "Template", "LowTable": "t", "HasSplit": True, "Parameter": 1.0}, "split"),
        ({"Type": "Constant", "Parameter": None}, "finite number"),
        ({"Type": "Linear"}, "no meaning"),
    ],
)
def test_damaged_maps(node: dict, message: str):
    with pytest.raises(FileFormatError, match=message):
        PhotoMaps({"a": node}).field("a")


def test_template_libraries(tmp_path):
    path = tmp_path / "rings.yaml"
    path.write_text(
        "N1:\n  {Axis: R, XCenter: 1, YCenter: 1, ArgStart: 0, ArgStep: 10, Values: [0.0, 1.0]}\n"
    )
    ring = read_map_templates(path, box=Box(0, 0, 20, 20))["N1"]
    assert ring(x=3.0, y=4.0) == pytest.approx(0.5)
    for bad in ("{Axis: Q}", "{Axis: X, ArgStart: 0, ArgStep: -1, Values: [0, 1]}", "[1]"):
        path.write_text(f"N1: {bad}")
        with pytest.raises(FileFormatError, match="N1"):
            read_map_templates(path, box=Box(0, 0, 20, 20))
    path.write_text("not a table")
    with pytest.raises(FileFormatError, match="offsets"):
        read_detector_offsets(path)
