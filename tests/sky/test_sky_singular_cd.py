"""A CD matrix with a row or a column of zeros is refused: astropy would make it one degree."""

from __future__ import annotations

import numpy as np
import pytest

from pogson.errors import PogsonValueError
from pogson.sky import FitsSkyMap

CARDS = {
    "CTYPE1": "RA---TAN", "CRVAL1": 150.0, "CRPIX1": 50.0,
    "CTYPE2": "DEC--TAN", "CRVAL2": 2.0, "CRPIX2": 50.0,
}  # fmt: skip


@pytest.mark.parametrize(
    "matrix",
    [
        {"CD1_1": 0.0, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 7e-5},
        {"CD1_1": -7e-5, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 0.0},
        {"CD1_1": 0.0, "CD1_2": 7e-5, "CD2_1": 0.0, "CD2_2": 7e-5},
        {"CD2_2": 7e-5},
        {"CD1_1": 7e-5, "CD1_2": 7e-5, "CD2_1": 7e-5, "CD2_2": 7e-5},
    ],
)
def test_singular_matrices(matrix):
    with pytest.raises(PogsonValueError, match="singular CD"):
        FitsSkyMap({**CARDS, **matrix})


@pytest.mark.parametrize(
    "matrix",
    [
        {"CD1_1": -7e-5, "CD2_2": 7e-5},
        {"CD1_1": 0.0, "CD1_2": 7e-5, "CD2_1": 7e-5, "CD2_2": 0.0},
    ],
)
def test_matrices_that_are_not(matrix):
    sky = FitsSkyMap({**CARDS, **matrix})
    area = sky.pixel_area(x=49.0, y=49.0)
    assert area == pytest.approx((7e-5 * 3600.0) ** 2, rel=1e-9)
    assert np.isfinite(area)
