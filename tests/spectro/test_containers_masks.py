"""Containers of the room, mask regions and the atmosphere's extinction."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest

from pogson.errors import (
    BoundsError,
    FileFormatError,
    MissingDataError,
    PogsonError,
    PogsonValueError,
)
from pogson.spectro import (
    OBSERVATORIES,
    AtmosphereExtinction,
    CalibrationVector,
    FibreSpectra,
    FluxCalibrationResult,
    Photometry,
    PixelMask,
    Spectrum1D,
    StellarTemplate,
    airmass_factor,
    apply_mask_regions,
    combine_regions,
    load_atmosphere_extinction,
    load_mask_array,
    load_mask_regions,
    mask_coverage_fraction,
)

LAM = np.linspace(5000.0, 5009.0, 10)


def frame(**changes):
    given = {"wavelength": LAM, "counts": np.ones((3, 10)), "ivar": np.ones((3, 10))}
    return FibreSpectra(**(given | changes))


THINGS = [
    Spectrum1D(LAM, np.ones(10)),
    Photometry(["a", "b"], [1.0, np.nan], [0.1, np.nan]),
    StellarTemplate(LAM, np.ones(10), teff=6000, logg=4, feh=0),
    CalibrationVector(LAM, np.ones(10), np.ones(10)),
    FluxCalibrationResult(CalibrationVector(LAM, np.ones(10), np.ones(10)), [], []),
    frame(),
]


@pytest.mark.parametrize("thing", THINGS, ids=lambda t: type(t).__name__)
def test_containers_are_frozen_equal_and_travel(thing):
    again = pickle.loads(pickle.dumps(thing))
    assert again == thing
    assert thing != "something else"
    assert type(thing).__name__ in repr(thing)
    for field in dataclasses.fields(thing):
        value = getattr(thing, field.name)
        if isinstance(value, np.ndarray):
            with pytest.raises(ValueError, match="read-only"):
                value[...] = 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(thing, dataclasses.fields(thing)[0].name, 1)


def test_containers_do_not_alias_what_they_were_given():
    flux = np.ones(10)
    spectrum = Spectrum1D(LAM, flux)
    flux[:] = 7
    assert spectrum.flux.max() == 1
    assert flux.flags.writeable


def test_zero_and_negative_counts_are_used_nan_is_not():
    counts = np.array([[5.0, 0.0, -3.0, np.nan, np.inf, 1.0, 1.0, 1.0, 1.0, 1.0]])
    ivar = np.array([[1.0, 1.0, 1.0, 1.0, 1.0, 0.0, np.nan, 1.0, 1.0, 1.0]])
    mask = np.array([[0, 0, 0, 0, 0, 0, 0, 4, 0, 0]])
    got = FibreSpectra(LAM, counts, ivar, mask)
    assert got.good.tolist() == [[True] * 3 + [False] * 5 + [True] * 2]
    assert got.mask[0].tolist() == [0, 0, 0, 1, 1, 2, 2, 4, 0, 0]
    assert np.isnan(got.counts[0, 3:5]).all()
    assert PixelMask(int(got.mask[0, 7])) is PixelMask.FLAGGED
    spectrum = got.spectrum(0)
    assert spectrum.n_good == 5
    assert spectrum.ivar.tolist() == got.ivar[0].tolist()


def test_air_wavelengths_are_converted_once():
    from pogson.sed import air_to_vacuum

    got = frame(medium="air")
    assert got.wavelength == pytest.approx(air_to_vacuum(LAM))
    assert got.medium == "vacuum"
    assert dataclasses.replace(got, airmass=1.2).wavelength.tolist() == got.wavelength.tolist()


def test_rows_by_id_and_name_and_two_dimensional_grids():
    grid = LAM + 0.1 * np.arange(3)[:, None]
    got = frame(
        wavelength=grid, lsf_sigma=grid / 5000.0, fibre_ids=[7, 9, 11], names=["a", "b", "b"]
    )
    assert (got.row(9), got.row("a")) == (1, 0)
    for missing in (8, "b", "c"):
        with pytest.raises(MissingDataError):
            got.row(missing)
    part = got.select([2])
    assert part.fibre_ids.tolist() == [11]
    assert part.wavelength.shape == (1, 10)
    assert got.line_spread(1).sigma(5004.1) == pytest.approx(5004.1 / 5000.0, rel=1e-6)
    assert frame().line_spread(0) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"wavelength": LAM[::-1]}, "do not increase at 9 places"),
        ({"wavelength": np.r_[LAM[:5], LAM[4], LAM[6:]]}, "pixel 5"),
        ({"wavelength": LAM[:9]}, "transpose"),
        ({"wavelength": np.where(LAM > 5005, np.nan, LAM)}, "finite"),
        ({"counts": np.ones((10, 3))}, "both must"),
        ({"ivar": -np.ones((3, 10))}, "negative"),
        ({"mask": np.zeros(10)}, "mask has shape"),
        ({"medium": "glass"}, "medium"),
        ({"unit": "erg"}, "count unit"),
        ({"airmass": 0.3}, "airmass"),
        ({"exposure_time": -1.0}, "exposure time"),
        ({"fibre_ids": [1, 1, 2]}, "not all different"),
        ({"names": ["a"]}, "1 names"),
        ({"lsf_sigma": np.full(10, np.nan)}, "LSF sigmas"),
        ({"lsf_sigma": np.ones(4)}, "LSF has shape"),
    ],
)
def test_bad_frames_say_what_is_wrong(changes, words):
    with pytest.raises(PogsonValueError, match=words):
        frame(**changes)


def test_calibration_vector_never_calls_a_bad_pixel_reliable():
    factor = [1.0, 0.0, -1.0, np.nan, np.inf, 1.0]
    variance = [1.0, 1.0, 1.0, 1.0, 1.0, np.nan]
    got = CalibrationVector(np.arange(6) + 4e3, factor, variance)
    assert got.mask.tolist() == [True] + [False] * 5
    assert np.isnan(got.cal_error[1:]).all()


def test_photometry_names_are_checked():
    with pytest.raises(PogsonValueError, match="more than once"):
        Photometry(["g", "g"], [1, 2], [0.1, 0.1])
    with pytest.raises(PogsonValueError, match="one magnitude"):
        Photometry(["g"], [1, 2], [0.1, 0.1])
    star = Photometry(["g", "r", "i"], [15.0, 14.0, np.nan], [0.01, 0.0, 0.01])
    assert star.valid_bands() == ["g"]
    with pytest.raises(MissingDataError, match="No photometry in band 'z'"):
        star.get_band("z")


# ---- masks ---------------------------------------------------------------------------------------


def test_the_default_mask_is_that_of_the_reference():
    assert load_mask_regions("telluric_default") == [
        (6860.0, 6960.0), (7150.0, 7340.0), (7590.0, 7700.0), (8100.0, 8360.0), (8920.0, 9200.0),
    ]  # fmt: skip
    assert load_mask_array([6859.0, 6860.0, 6960.0, 6961.0]).tolist() == [True, False, False, True]
    lam = np.arange(6800.0, 7000.0)
    assert mask_coverage_fraction(lam) == pytest.approx(101 / 200)


def test_masks_from_files(tmp_path):
    path = tmp_path / "mine.dat"
    path.write_text("# mine\n 5003 5005 # a line\n\n4000\t4100\n")
    regions = load_mask_regions(path)
    assert regions == [(4000.0, 4100.0), (5003.0, 5005.0)]
    assert apply_mask_regions(Spectrum1D(LAM, np.ones(10)), regions).n_good == 7
    path.write_text("5005 5003\n")
    with pytest.raises(FileFormatError, match="Line 1"):
        load_mask_regions(path)
    with pytest.raises(MissingDataError, match="telluric_default"):
        load_mask_regions("absent")
    assert combine_regions([(1, 2), (3, 4)], [(1.5, 3.5)]) == [(1, 4)]


# ---- atmosphere ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(OBSERVATORIES))
def test_nine_observatories(name):
    curve = load_atmosphere_extinction(name)
    # Rayleigh, aerosols and ozone: what every good site has, to a factor
    k = curve([4000.0, 5000.0, 7000.0])
    assert np.all((k > [0.2, 0.1, 0.02]) & (k < [0.45, 0.22, 0.11]))
    assert np.all(np.diff(k) < 0)


@pytest.mark.parametrize(
    ("name", "wavelength", "published"),
    [
        ("ctio", 3571.0, 0.57), ("kpno", 4036.0, 0.352), ("palomar", 4036.0, 0.365),
        ("lasilla", 5000.0, 0.13), ("mtham", 4036.0, 0.396), ("lapalma", 4000.0, 0.2938),
        ("paranal", 3325.0, 0.686),
    ],
)  # fmt: skip
def test_values_as_published(name, wavelength, published):
    assert load_atmosphere_extinction(name)(wavelength) == pytest.approx(published, abs=0.006)


def test_airmass_correction_and_its_limits():
    curve = load_atmosphere_extinction("MKO")
    lam = np.linspace(3600.0, 9000.0, 50)
    up = airmass_factor(lam, curve, airmass=1.8, standard_airmass=1.1)
    assert up == pytest.approx(10 ** (0.4 * 0.7 * curve(lam)), rel=1e-12)
    assert up * curve.transmission(lam, 1.8) == pytest.approx(curve.transmission(lam, 1.1))
    with pytest.raises(BoundsError, match="covers 3200-10300"):
        curve(3000.0)
    with pytest.raises(BoundsError, match="extrapolate"):
        curve(11000.0)
    assert curve(11000.0, extrapolate=True) == curve(10300.0)
    for bad in (0.0, np.nan, 0.5):
        with pytest.raises(PogsonError, match="airmass"):
            airmass_factor(lam, curve, airmass=bad, standard_airmass=1.0)
    with pytest.raises(MissingDataError, match="paranal"):
        load_atmosphere_extinction("moon")
    with pytest.raises(PogsonValueError):
        AtmosphereExtinction([5000.0, 4000.0], [1.0, 1.0])
