"""Damaged AST descriptions are refused before the library can trip over them."""

from __future__ import annotations

import pytest

from pogson.errors import PogsonValueError
from pogson.sky import AstField, AstSkyMap, FitsSkyMap
from pogson.sky.ast_text import checked_ast_text

pytest.importorskip("starlink.Ast")


@pytest.fixture(scope="module")
def text() -> str:
    """A FrameSet with a polynomial, rotations and a projection."""
    header = FitsSkyMap.tan(10.0, 20.0, x=5.0, y=6.0, scale_arcsec=0.3).to_header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN-SIP", "DEC--TAN-SIP"
    header.update({"A_ORDER": 2, "B_ORDER": 2, "A_2_0": 1e-6, "B_1_1": 1e-6})
    return AstSkyMap.from_header(header).ast_text


def test_sound_text_is_kept(text: str) -> None:
    assert checked_ast_text(text) == text
    commented = text.replace("Begin FrameSet", "Begin FrameSet   # a set of frames", 1)
    assert checked_ast_text(commented) == text


CHANGES = {
    "another class": ("Begin SphMap", "Begin SphereMap", "not supported"),
    "class outside the list": ("Begin SphMap", "Begin MathMap", "not supported"),
    "unclosed": ("End FrameSet", "", "ends inside"),
    "closed by another": ("End SphMap", "End CmpMap", "closed by"),
    "no number of frames": ("Nframe = 2", "Nframe = 9", "lacks its part"),
    "huge": ("Nframe = 2", "Nframe = 999999999", "allowed are"),
    "current frame": ("Currnt = 2", "Currnt = 7", "allowed are"),
    "loop": ("Lnk2 = 1", "Lnk2 = 2", "Lnk2"),
    "axes": ("Nin = 3", "Nin = 4", "inconsistent"),
    "parent": ("IsA Mapping", "IsA Frame", "is said to be"),
    "attribute of another": ("Currnt = 2", "Zoom = 2", "expected|not allowed"),
    "text for a number": ("Nframe = 2", 'Nframe = "2"', "not allowed"),
    "number for a text": ('SRefIs = "Ignored"', "SRefIs = 4", "not allowed"),
    "unknown word": ('System = "ICRS"', 'System = "ICRT"', "not allowed"),
    "not a number": ("Nframe = 2", "Nframe = 2x", "not a number"),
    "infinite": ("Nframe = 2", "Nframe = inf", "not a finite number"),
    "twice": ("Currnt = 2", "Currnt = 2\nCurrnt = 2", "twice"),
    "unclosed quote": ('SRefIs = "Ignored"', 'SRefIs = "Ignored', "unclosed"),
    "control character": ("Nframe", "Nfr\x07ame", "Unprintable"),
}


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_damage(text: str, name: str) -> None:
    old, new, message = CHANGES[name]
    assert old in text
    with pytest.raises(PogsonValueError, match=message):
        AstSkyMap(text.replace(old, new, 1))


POLYNOMIAL = """Begin PolyMap
Nin = 2
Nout = 1
IsA Mapping
MPF1 = 1
MPF2 = 2
NCF1 = 2
CF1 = 0.5
CF2 = 2
PF1 = 1
PF4 = 2
End PolyMap"""


def test_polynomial_field() -> None:
    from pogson.fields import Box

    field = AstField(Box(0, 0, 9, 9), POLYNOMIAL, unit="nJy / adu")
    assert field(x=3.0, y=2.0) == pytest.approx(0.5 * 3 + 2 * 4)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("PF4 = 2", "PF4 = 3"),
        ("PF4 = 2", "PF9 = 1"),
        ("CF2 = 2", "CF3 = 2"),
        ("NCF1 = 2", "NCF1 = 1"),
        ("NCF1 = 2", "NCF2 = 2"),
        ("MPF2 = 2", "MPF3 = 2"),
        ("MPF2 = 2", "MPF2 = -1"),
        ("NCF1 = 2", "NCF1 = 2000000000"),
    ],
)
def test_polynomial_counts(old: str, new: str) -> None:
    from pogson.fields import Box

    with pytest.raises(PogsonValueError):
        AstField(Box(0, 0, 9, 9), POLYNOMIAL.replace(old, new))
