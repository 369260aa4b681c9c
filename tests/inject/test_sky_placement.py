"""Sources placed on the sky: density, separation, and the same ones in every image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from pogson.errors import PogsonValueError
from pogson.inject.sky_placement import largest_density, place_on_sky


def square(ra: float, dec: float, side: float) -> np.ndarray:
    half = 0.5 * side
    wide = half / np.cos(np.radians(dec))
    return np.array([(ra - wide, dec - half), (ra + wide, dec - half), (ra + wide, dec + half),
                     (ra - wide, dec + half)])  # fmt: skip


def vectors(table) -> np.ndarray:
    a, d = np.radians(np.asarray(table["ra"])), np.radians(np.asarray(table["dec"]))
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=1)


@pytest.mark.parametrize("pattern", ["random", "grid", "hexagonal"])
@pytest.mark.parametrize("where", [(150.0, 2.2), (0.0, -30.0), (359.99, 75.0)])
def test_density_and_separation(pattern: str, where: tuple[float, float]) -> None:
    density, separation = 5.0, 8.0
    table = place_on_sky([square(*where, 0.2)], density=density, pattern=pattern,
                         min_separation=separation, seed=3)  # fmt: skip
    expected = density * 144.0
    print(f"{len(table)} sources, {expected:.0f} expected")
    assert abs(len(table) - expected) < 4 * np.sqrt(expected)
    tree = cKDTree(vectors(table))
    nearest = tree.query(vectors(table), k=2)[0][:, 1]
    assert np.degrees(nearest.min()) * 3600 >= separation * (1 - 1e-9)


@pytest.mark.parametrize("pattern", ["random", "grid", "hexagonal"])
@settings(max_examples=15)
@given(ra=st.floats(0, 359.9), dec=st.floats(-85, 85), shift=st.floats(-0.04, 0.04))
def test_overlapping_images_get_the_same_sources(
    pattern: str, ra: float, dec: float, shift: float
) -> None:
    options = {"density": 6.0, "pattern": pattern, "min_separation": 5.0, "seed": 9}
    first = place_on_sky([square(ra, dec, 0.08)], **options)
    second = place_on_sky([square(ra, dec + shift, 0.08)], **options)
    joint = place_on_sky([square(ra, dec, 0.08), square(ra, dec + shift, 0.08)], **options)
    assert set(joint["id"]) == set(first["id"]) | set(second["id"])
    places = {str(r["id"]): (float(r["ra"]), float(r["dec"])) for r in joint}
    for table in (first, second):
        for row in table:
            assert places[str(row["id"])] == (float(row["ra"]), float(row["dec"]))


def test_a_pole_and_the_meridian_are_no_exceptions() -> None:
    pole = [(0.0, 89.9), (90.0, 89.9), (180.0, 89.9), (270.0, 89.9)]
    table = place_on_sky([pole], density=5.0, min_separation=5.0, seed=1)
    expected = 5.0 * 0.5 * 0.2**2 * 3600
    assert abs(len(table) - expected) < 4 * np.sqrt(expected)
    across = place_on_sky([square(0.0, 0.0, 0.1)], density=5.0, pattern="grid", seed=1)
    assert (np.asarray(across["ra"]) > 359).any()
    assert (np.asarray(across["ra"]) < 1).any()
    assert abs(len(across) - 180) < 30


def test_other_names_and_seeds_give_other_places() -> None:
    field = [square(10.0, 0.0, 0.1)]
    tables = [place_on_sky(field, density=3.0, seed=s, name=n) for s, n in
              ((1, ""), (2, ""), (1, "1-"))]  # fmt: skip
    dec = [set(np.asarray(t["dec"]).tolist()) for t in tables]
    assert not dec[0] & dec[1]
    assert not dec[0] & dec[2]


def test_bad_requests_are_refused() -> None:
    field = [square(10.0, 0.0, 0.1)]
    for options, said in (
        ({"density": 0.0}, "positive"),
        ({"density": 5.0, "pattern": "spiral"}, "grid"),
        ({"density": 5.0, "min_separation": -1.0}, "at least 0"),
        ({"density": 100.0, "min_separation": 10.0}, "at most"),
    ):
        with pytest.raises(PogsonValueError, match=said):
            place_on_sky(field, **options)
    with pytest.raises(PogsonValueError, match="three corners"):
        place_on_sky([[(1.0, 2.0)]], density=1.0)
    assert largest_density("grid", 0.0) == np.inf
