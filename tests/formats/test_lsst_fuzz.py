"""Truncated and bit-flipped LSST files: only pogson's own errors may come out."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pogson.errors import PogsonError, PogsonWarning
from pogson.formats.lsst_background import read_lsst_background
from pogson.formats.lsst_catalogs import (
    read_lsst_catalog,
    read_lsst_reference_catalog,
    read_lsst_visit_summary,
)
from pogson.formats.lsst_fields import (
    read_lsst_field,
    read_lsst_photo_calib_parts,
    read_meas_mosaic_fcr,
)
from pogson.formats.lsst_sky import read_lsst_sky_map

pytest.importorskip("starlink.Ast")

Shared = Callable[[str], Path]


def _use_sky(path: Path) -> None:
    sky = read_lsst_sky_map(path)
    ra, dec = sky.sky(x=[0.0, 1000.0], y=[0.0, 3000.0])
    sky.pixel(ra, dec)


def _use_photo_calib(path: Path) -> None:
    parts = read_lsst_photo_calib_parts(path, convert_maggies=True)
    parts.field(x=parts.field.box.center[0], y=parts.field.box.center[1])


CASES: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "sky": ("hsc/jointcal_wcs-0023900-049.fits", _use_sky),
    "photo-calib": ("hsc/photoCalib-version1.fits", _use_photo_calib),
    "mosaic": ("hsc/jointcal_photoCalib-0011506-049.fits", _use_photo_calib),
    "field": ("hsc/jointcal_photoCalib-0011506-101.fits", read_lsst_field),
    "fcr": ("hsc/fcr-0011506-101.fits", read_meas_mosaic_fcr),
    "background": ("jointcal-minimal/bkgd-849375-12.fits", read_lsst_background),
    "summary": ("jointcal-minimal/visitSummary-849375.fits", read_lsst_visit_summary),
    "catalog": ("jointcal-minimal/SRC-849375-12.fits", read_lsst_catalog),
    "reference": ("jointcal-minimal/225822.fits", read_lsst_reference_catalog),
}


def damage(content: bytes, flips: list[tuple[float, int]], keep: float) -> bytes:
    """Flip bits at fractional positions and cut the end off."""
    data = bytearray(content)
    for where, bit in flips:
        data[min(int(where * len(data)), len(data) - 1)] ^= 1 << bit
    return bytes(data[: max(1, round(keep * len(data)))])


def attempt(reader: Callable[[Path], Any], path: Path) -> None:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", PogsonWarning)
        message = "read"
        try:
            reader(path)
        except PogsonError as error:
            message = str(error)
    assert message.strip()


where = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize("name", sorted(CASES))
@settings(max_examples=40)
@given(
    flips=st.lists(st.tuples(where, st.integers(0, 7)), max_size=6),
    keep=st.one_of(st.just(1.0), st.floats(0, 1)),
)
def test_damaged(
    shared_data: Shared,
    tmp_path: Path,
    name: str,
    flips: list[tuple[float, int]],
    keep: float,
) -> None:
    source, reader = CASES[name]
    broken = tmp_path / "broken.fits"
    broken.write_bytes(damage(shared_data(source).read_bytes(), flips, keep))
    attempt(reader, broken)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CASES))
def test_damaged_at_length(
    shared_data: Shared, tmp_path: Path, rng: np.random.Generator, name: str
) -> None:
    """Many flips, half of them in the headers and the text, where they hurt most."""
    source, reader = CASES[name]
    content = shared_data(source).read_bytes()
    broken = tmp_path / "broken.fits"
    for _ in range(200):
        flips = [(float(rng.random()), int(rng.integers(8))) for _ in range(rng.integers(1, 40))]
        keep = 1.0 if rng.random() < 0.8 else float(rng.random())
        broken.write_bytes(damage(content, flips, keep))
        attempt(reader, broken)
