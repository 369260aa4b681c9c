"""The drop-in functions at another exposure time and airmass than the stars'."""

from __future__ import annotations

import numpy as np
import pytest

from pogson.errors import CalibrationError, PogsonValueError
from pogson.spectro import (
    CalibrationVector,
    apply_flux_calibration,
    combine_calibration_vectors,
    load_atmosphere_extinction,
)

LAM = np.linspace(4000.0, 8500.0, 400)


def vector(name="a", factor=1e-17, **meta):
    return CalibrationVector(
        LAM, np.full(400, factor), np.full(400, (0.02 * factor) ** 2),
        meta={"star_name": name, **meta},
    )  # fmt: skip


@pytest.mark.parametrize("extinction", ["paranal", "object", "function"])
def test_half_the_time_at_a_higher_airmass(extinction):
    """The same source: half the counts, dimmed by the air between; the flux must not change."""
    k = load_atmosphere_extinction("paranal")
    given = {"paranal": "paranal", "object": k, "function": lambda lam: k(lam)}[extinction]
    result = combine_calibration_vectors(
        [vector(n, exptime=600.0, airmass=1.1, bunit="count") for n in "abc"]
    )
    counts = np.full((2, 400), 100.0)
    here, variance, _ = apply_flux_calibration(counts, counts, result)
    fade = 0.5 * 10 ** (-0.4 * k(LAM) * (1.7 - 1.1))
    there, other, _ = apply_flux_calibration(
        counts * fade, counts * fade**2, result, exposure_time=300.0, airmass=1.7, extinction=given
    )
    np.testing.assert_allclose(there, here, rtol=1e-12)
    np.testing.assert_allclose(other, variance, rtol=1e-12)


def test_counts_per_second_know_no_time():
    v = vector(exptime=600.0, bunit="count/s")
    flux, _, _ = apply_flux_calibration(np.ones(400), np.ones(400), v, exposure_time=30.0)
    np.testing.assert_allclose(flux, 1e-17)


def test_unknown_conditions_are_errors_never_one():
    with pytest.raises(CalibrationError, match="exptime"):
        apply_flux_calibration(np.ones(400), np.ones(400), vector(), exposure_time=30.0)
    with pytest.raises(CalibrationError, match='meta\\["airmass"\\]'):
        apply_flux_calibration(np.ones(400), np.ones(400), vector(), airmass=1.2)
    with pytest.raises(CalibrationError, match="give extinction"):
        apply_flux_calibration(np.ones(400), np.ones(400), vector(airmass=1.0), airmass=1.2)
    with pytest.raises(PogsonValueError, match="must be positive"):
        apply_flux_calibration(
            np.ones(400), np.ones(400), vector(exptime=600.0), exposure_time=-1.0
        )


def test_stars_of_different_times_are_not_combined():
    with pytest.raises(PogsonValueError, match="300 to 600 s"):
        combine_calibration_vectors([vector("a", exptime=300.0), vector("b", exptime=600.0)])
    rates = [vector(n, exptime=t, bunit="count/s") for n, t in (("a", 300.0), ("b", 600.0))]
    assert combine_calibration_vectors(rates).summary["n_stars_used"] == 2
    with pytest.raises(PogsonValueError, match="different units"):
        combine_calibration_vectors([vector("a", bunit="count"), vector("b", bunit="count/s")])
