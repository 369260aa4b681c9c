"""PhotoCalib: fluxes, magnitudes, images, catalogues, measures, errors, files."""

from __future__ import annotations

import json
import pickle

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st

from pogson.calib import (
    FluxReference,
    HeaderConvention,
    ParameterCovariance,
    PhotoCalib,
    header_cards,
    photo_calib_from_header,
)
from pogson.errors import (
    BoundsError,
    CalibrationError,
    FileFormatError,
    MeasureError,
    MissingDataError,
    PogsonError,
    PogsonTypeError,
    PogsonValueError,
    ReferenceMismatchError,
    UnitMismatchError,
)
from pogson.fields import Box, ChebyshevField, ConstantField, PixelAreaField
from pogson.sky import FitsSkyMap
from pogson.units import Measure, flux_to_asinh_magnitude

BOX = Box(10, -5, 200, 100)
TOTAL = FluxReference.total()
AB0 = 10 ** (0.4 * 31.4)  # nJy


def varying(measure: str = "fluence") -> PhotoCalib:
    field = ChebyshevField(BOX, [[0.5, 0.02], [0.01, 0.005]], "nJy/adu")
    terms = [ConstantField(BOX, 1.0), ChebyshevField(BOX, [[0.0, 1.0]])]
    return PhotoCalib(
        field,
        measure=measure,
        reference=FluxReference.aperture(12),
        bandpass="decam2014-r",
        sed="ab",
        covariance=ParameterCovariance(["a", "b"], [[4e-4, 1e-4], [1e-4, 1e-4]], terms, 7.0),
        provenance={"source": "test", "stars": 12},
    )


def area_ratio(box: Box = BOX) -> PixelAreaField:
    cheb = ChebyshevField(box, [[1.0, 0.03], [0.02, 0.0]])
    return PixelAreaField(cheb, 0.0, "test")


CALIBS = [
    PhotoCalib.constant(2.5, reference=TOTAL),
    PhotoCalib.constant(2.5, reference=TOTAL, error=0.1, box=BOX, unit="nJy/electron"),
    varying(),
    varying("surface_brightness"),
    PhotoCalib(
        varying().field * area_ratio(), measure="surface_brightness", reference=FluxReference.psf()
    ),
]


# -- fluxes ---------------------------------------------------------------------------------
@settings(max_examples=100)
@given(
    st.floats(-1e9, 1e9),
    st.floats(0, 1e6),
    st.floats(10, 209),
    st.floats(-5, 94),
    st.sampled_from(CALIBS),
)
def test_flux_round_trip(f: float, e: float, x: float, y: float, calib: PhotoCalib) -> None:
    flux, err = calib.flux(f, e, x=x, y=y)
    assert flux == pytest.approx(f * calib.local(x=x, y=y), rel=1e-14)
    back, back_err = calib.inst_flux(flux, err, x=x, y=y)
    assert back == pytest.approx(f, rel=1e-13)
    assert back_err == pytest.approx(e, rel=1e-13)
    mag, mag_err = calib.magnitude(f, e, x=x, y=y)
    if f > 0 and flux > 0:  # a subnormal count can underflow to a flux of 0
        assert mag == pytest.approx(31.4 - 2.5 * np.log10(flux), abs=1e-10)
        assert mag_err >= 0
        there = calib.inst_flux_from_magnitude(mag, x=x, y=y)
        assert there == pytest.approx(f, rel=1e-11)
    else:
        assert np.isnan(mag)
        assert np.isnan(mag_err)  # never negative


def test_round_numbers() -> None:
    calib = PhotoCalib.constant(1.0, reference=TOTAL)
    assert calib.magnitude(100.0) == pytest.approx(26.4)
    assert calib.zero_point() == pytest.approx(31.4)
    assert calib.inst_flux_at_zero_magnitude() == pytest.approx(AB0, rel=1e-14)
    assert calib.inst_flux_from_magnitude(26.4, 0.01)[1] == pytest.approx(
        100 * 0.01 * np.log(10) / 2.5
    )
    assert PhotoCalib.from_zero_point(25.0, reference=TOTAL).zero_point() == pytest.approx(25.0)


def test_quantities_and_units() -> None:
    calib = PhotoCalib.constant(2.0, unit="nJy/electron", reference=TOTAL)
    assert calib.flux(3 * u.electron) == 6.0
    assert calib.inst_flux(6e-3 * u.uJy) == pytest.approx(3.0)
    with pytest.raises(UnitMismatchError):
        calib.flux(3 * u.adu)
    for unit in ("mJy/adu", "adu", "Jy", "m"):
        with pytest.raises(UnitMismatchError):
            PhotoCalib.constant(2.0, unit=unit, reference=TOTAL)
    assert PhotoCalib.constant(1.0, unit="", reference=TOTAL).instrument_unit == u.nJy


def test_varying_needs_positions_inside() -> None:
    calib = varying()
    with pytest.raises(MissingDataError, match="x="):
        calib.flux(1.0)
    with pytest.raises(BoundsError):
        calib.flux(1.0, x=0.0, y=0.0)
    assert np.isnan(calib.flux(1.0, x=np.nan, y=0.0))
    assert calib.flux(1.0, x=0.0, y=0.0, extrapolate=True) > 0


def test_mixing_is_refused() -> None:
    calib = varying()
    with pytest.raises(ReferenceMismatchError, match=r"total.*aperture 12 px"):
        calib.flux(1.0, x=50, y=50, reference=TOTAL)
    with pytest.raises(MeasureError, match="surface_brightness"):
        calib.flux(1.0, x=50, y=50, measure="surface_brightness")
    calib.flux(1.0, x=50, y=50, measure=Measure.FLUENCE, reference=FluxReference.aperture(12))


def test_mean_is_the_area_average() -> None:
    calib = varying()
    assert calib.mean() == pytest.approx(calib.field.render().mean(), rel=1e-3)
    assert calib.mean() == calib.field.integral() / BOX.area


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_bad_constants(value: float) -> None:
    with pytest.raises(PogsonError):
        PhotoCalib.constant(value, reference=TOTAL)
    with pytest.raises(CalibrationError):
        PhotoCalib.from_zero_point(25.0, exposure_time=value, reference=TOTAL)


def test_bad_types() -> None:
    with pytest.raises(PogsonTypeError, match="Field"):
        PhotoCalib(3.0, measure="fluence", reference=TOTAL)  # type: ignore[arg-type]
    with pytest.raises(PogsonTypeError, match="reference"):
        PhotoCalib.constant(3.0, reference="total")  # type: ignore[arg-type]
    with pytest.raises(MeasureError):
        PhotoCalib.constant(3.0, reference=TOTAL, measure="counts")
    with pytest.raises(PogsonValueError, match="JSON"):
        PhotoCalib.constant(3.0, reference=TOTAL, provenance={"a": object()})
    with pytest.raises(AttributeError):
        varying().bandpass = "g"  # type: ignore[misc]
    negative = PhotoCalib(
        ChebyshevField(BOX, [[0.1, 1.0]], "nJy/adu"), measure="fluence", reference=TOTAL
    )
    with pytest.raises(CalibrationError, match="not positive"):
        negative.calibrate_image(np.ones(BOX.shape), box=BOX)


# -- errors of the calibration --------------------------------------------------------------
def test_shared_error_against_finite_differences(rng) -> None:
    """Monte Carlo over the parameters gives the covariance between sources."""
    calib = varying()
    x, y = np.array([20.0, 100.0, 190.0]), np.array([0.0, 50.0, 90.0])
    flux = np.array([100.0, -50.0, 2000.0])
    cov = calib.flux_covariance(flux, [1.0, 2.0, 3.0], x=x, y=y)
    draws = rng.multivariate_normal([0, 0], calib.covariance.matrix, 40000)
    design = calib.covariance.design(x=x, y=y)
    fluxes = flux * (1 + draws @ design.T) + rng.normal(0, [1.0, 2.0, 3.0], (40000, 3))
    sample = np.cov(fluxes.T)
    scale = np.sqrt(np.outer(np.diag(cov), np.diag(cov)))
    # the correlation of 40000 draws is known to 1/200; five standard deviations
    assert np.max(np.abs(sample - cov) / scale) < 5 / 200 * np.sqrt(2)
    np.testing.assert_allclose(
        calib.relative_error(x=x, y=y) ** 2,
        np.diag(calib.covariance.relative_covariance(x=x, y=y)),
    )
    assert calib.zero_point_error(x=20.0, y=0.0) == pytest.approx(
        1.0857362 * calib.relative_error(x=20.0, y=0.0), rel=1e-6
    )


def test_errors_do_not_include_the_shared_error() -> None:
    calib = PhotoCalib.constant(2.0, error=1.0, reference=TOTAL)
    assert calib.flux(10.0, 1.0)[1] == 2.0
    _, var = calib.calibrate_image(np.ones((3, 3)), np.ones((3, 3)))
    assert var[0, 0] == 4.0
    with pytest.raises(MissingDataError, match="unknown, not zero"):
        PhotoCalib.constant(2.0, reference=TOTAL).relative_error()


@pytest.mark.parametrize(
    "args",
    [
        (["a", "a"], np.eye(2), [None, None]),
        (["a"], np.eye(2), [None]),
        (["a", "b"], [[1, 2], [2, 1]], [None, None]),
        (["a", "b"], [[1, 0.5], [0, 1]], [None, None]),
        (["a"], [[np.nan]], [None]),
        (["a"], [[1.0]], [None], -1),
    ],
)
def test_bad_covariances(args) -> None:
    with pytest.raises(PogsonValueError):
        ParameterCovariance(*args)


# -- images ---------------------------------------------------------------------------------
@pytest.mark.parametrize("calib", CALIBS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_image_round_trip(calib: PhotoCalib, dtype, rng) -> None:
    image = rng.normal(100, 10, BOX.shape).astype(dtype)
    image[3, 4] = np.nan
    variance = np.full(BOX.shape, 9.0, dtype)
    out, var = calib.calibrate_image(image, variance, box=BOX)
    assert out.dtype == dtype
    assert var.dtype == dtype
    x, y = np.meshgrid(BOX.x_pixels(), BOX.y_pixels())
    rtol = 3e-6 if dtype is np.float32 else 1e-13
    np.testing.assert_allclose(out, image * calib.local(x=x, y=y), rtol=rtol)
    np.testing.assert_allclose(var, 9.0 * calib.local(x=x, y=y) ** 2, rtol=rtol)
    back, back_var = calib.uncalibrate_image(out, var, box=BOX)
    np.testing.assert_allclose(back, image, rtol=rtol)
    np.testing.assert_allclose(back_var, variance, rtol=rtol)


def test_image_outside_is_refused() -> None:
    calib = varying()
    with pytest.raises(BoundsError, match="not wholly inside"):
        calib.calibrate_image(np.ones((100, 201)), box=Box(10, -5, 201, 100))
    with pytest.raises(BoundsError):
        calib.calibrate_image(np.ones((5, 5)))
    with pytest.raises(PogsonValueError, match="shape"):
        calib.calibrate_image(np.ones((5, 5)), box=BOX)
    with pytest.raises(PogsonValueError, match="variance"):
        calib.calibrate_image(np.ones(BOX.shape), np.ones((2, 2)), box=BOX)
    with pytest.raises(PogsonValueError, match="2-d"):
        calib.calibrate_image(np.ones(7))
    with pytest.raises(MeasureError):
        calib.calibrate_image(np.ones(BOX.shape), box=BOX, measure="surface_brightness")


# -- measures -------------------------------------------------------------------------------
def test_fluence_part_is_exactly_invertible() -> None:
    sb, ratio = varying("surface_brightness"), area_ratio()
    fluence = sb.fluence_part(ratio)
    assert fluence.measure is Measure.FLUENCE
    assert fluence.surface_brightness_part(ratio) == sb
    there = varying().surface_brightness_part(ratio)
    assert there.fluence_part(ratio) == varying()
    with pytest.raises(MeasureError, match="twice"):
        fluence.fluence_part(ratio)
    with pytest.raises(MeasureError, match="twice"):
        sb.surface_brightness_part(ratio)


def test_fluence_part_calibrates_the_same_pixels() -> None:
    sb, ratio = varying("surface_brightness"), area_ratio()
    image = np.full(BOX.shape, 7.0)
    fluence_image = image * ratio.render()
    np.testing.assert_allclose(
        sb.fluence_part(ratio).calibrate_image(fluence_image, box=BOX),
        sb.calibrate_image(image, box=BOX),
        rtol=1e-13,
    )


def test_fluence_part_from_a_sky_map() -> None:
    sky = FitsSkyMap.tan(150.0, 2.0, x=100.0, y=50.0, scale_arcsec=0.25)
    sb = varying("surface_brightness")
    out = sb.fluence_part(sky, reference_area=0.0625 * u.arcsec**2)
    assert out.local(x=100.0, y=50.0) == pytest.approx(sb.local(x=100.0, y=50.0), rel=1e-6)
    with pytest.raises(UnitMismatchError, match="reference_area"):
        sb.fluence_part(sky)
    with pytest.raises(MissingDataError, match="box"):
        PhotoCalib.constant(1.0, reference=TOTAL, measure="surface_brightness").fluence_part(
            sky, reference_area=0.0625
        )
    with pytest.raises(PogsonTypeError):
        sb.fluence_part(3.0)  # type: ignore[arg-type]


# -- catalogues -----------------------------------------------------------------------------
def catalog() -> Table:
    table = Table(
        {
            "x": [20.0, 100.0, np.nan],
            "y": [0.0, 50.0, 3.0],
            "flux_ap12": [100.0, -3.0, 5.0] * u.adu,
            "flux_ap12_err": [10.0, 1.0, 1.0] * u.adu,
            "flux_ap3": [80.0, -2.0, 4.0] * u.adu,
        }
    )
    table["flux_ap12"].info.meta = {
        "reference": FluxReference.aperture(12).to_dict(),
        "measure": "fluence",
    }
    table["flux_ap3"].info.meta = {"reference": FluxReference.aperture(3).to_dict()}
    return table


def test_catalog() -> None:
    calib, table = varying(), catalog()
    out = calib.calibrate_catalog(table)
    assert len(out) == 3
    flux, err = calib.flux(
        np.array([100.0, -3.0, 5.0]), np.array([10.0, 1.0, 1.0]), x=table["x"], y=table["y"]
    )
    np.testing.assert_array_equal(out["njy_ap12"], flux)
    np.testing.assert_array_equal(out["njy_ap12_err"], err)
    assert out["njy_ap12"].unit == u.nJy
    assert np.isnan(out["njy_ap12"][2])
    assert np.isnan(out["mag_ap12"][1])
    assert "njy_ap3" not in out.colnames
    meta = out["mag_ap12"].info.meta
    assert FluxReference.from_dict(meta["reference"]) == FluxReference.aperture(12)
    assert meta["bandpass"] == "decam2014-r"
    assert "njy_ap12" not in table.colnames
    with pytest.raises(PogsonValueError, match="overwrite"):
        calib.calibrate_catalog(out)
    calib.calibrate_catalog(out, overwrite=True)


def test_catalog_asinh_magnitudes_state_their_softening() -> None:
    out = varying().calibrate_catalog(catalog(), asinh_softening=20.0)
    mag, err = flux_to_asinh_magnitude(out["njy_ap12"], out["njy_ap12_err"], softening=20.0)
    np.testing.assert_array_equal(out["asinh_mag_ap12"], mag)
    np.testing.assert_array_equal(out["asinh_mag_ap12_err"], err)
    assert np.isfinite(out["asinh_mag_ap12"][1])  # a negative flux
    assert out["asinh_mag_ap12"].unit == u.mag
    assert out["asinh_mag_ap12"].info.meta["asinh_softening_njy"] == 20.0
    assert "softening 20 nJy" in out["asinh_mag_ap12"].description
    assert "asinh_mag_ap12" not in varying().calibrate_catalog(catalog()).colnames
    with pytest.raises(PogsonValueError, match="softening"):
        varying().calibrate_catalog(catalog(), asinh_softening=0.0)


def test_catalog_refuses() -> None:
    calib, table = varying(), catalog()
    with pytest.raises(ReferenceMismatchError, match=r"aperture 3 px.*aperture 12 px"):
        calib.calibrate_catalog(table, columns=["flux_ap3"])
    with pytest.raises(MissingDataError, match="no column"):
        calib.calibrate_catalog(table, columns=["flux_ap99"])
    with pytest.raises(MissingDataError, match="does not say"):
        calib.calibrate_catalog(table, columns=["flux_ap12_err"])
    with pytest.raises(ReferenceMismatchError, match="No instrumental"):
        calib.with_(reference=TOTAL).calibrate_catalog(table)
    with pytest.raises(MeasureError, match="flux_ap12"):
        varying("surface_brightness").calibrate_catalog(table)
    with pytest.raises(MissingDataError, match="position column"):
        calib.calibrate_catalog(table["flux_ap12", "flux_ap12_err"])
    table["flux_ap12"].unit = "electron"
    with pytest.raises(UnitMismatchError):
        calib.calibrate_catalog(table, columns=["flux_ap12"])
    wild = catalog()
    wild["x"][0] = -100.0
    with pytest.raises(BoundsError):
        calib.calibrate_catalog(wild)


# -- headers --------------------------------------------------------------------------------
def test_header_conventions() -> None:
    header = {"MAGZERO": 29.915, "MAGZPT": 24.842, "EXPTIME": 107.0, "FLUXMAG0": 1e12}
    read = {
        name: photo_calib_from_header(header, convention=name, reference=TOTAL).mean()
        for name in ("magzero-exposure", "magzero-second", "magzpt-second", "decam-cp", "fluxmag0")
    }
    per_exposure = AB0 * 10 ** (-0.4 * 29.915)
    assert read["magzero-exposure"] == pytest.approx(per_exposure)
    assert read["magzero-second"] == pytest.approx(per_exposure / 107)
    assert read["decam-cp"] == read["magzero-exposure"]
    assert read["magzpt-second"] == pytest.approx(per_exposure, rel=2e-3)
    assert read["fluxmag0"] == pytest.approx(AB0 / 1e12)
    custom = HeaderConvention("MAGZPT", per="second", image_is_rate=True)
    rate = photo_calib_from_header(header, convention=custom, reference=TOTAL, unit="electron/s")
    assert rate.mean() == pytest.approx(AB0 * 10 ** (-0.4 * 24.842))


def test_header_errors_and_others() -> None:
    header = {"FLUXMAG0": 1e10, "FLUXMAG0ERR": 1e8}
    calib = photo_calib_from_header(header, convention="fluxmag0", reference=TOTAL)
    assert calib.relative_error() == pytest.approx(0.01)
    # jointcal's fixture: cal = F0 / FLUXMAG0, err = F0 err / FLUXMAG0^2
    assert calib.mean() * calib.relative_error() == pytest.approx(AB0 * 1e8 / 1e20)
    magzero = photo_calib_from_header(
        {"MAGZERO": 25.0, "MAGZUNC": 0.02}, convention="magzero-exposure", reference=TOTAL
    )
    assert magzero.zero_point_error() == pytest.approx(0.02)
    # ACS/WFC F814W: PHOTFLAM 7.03e-20, PHOTPLAM 8045: AB zero point 25.95 (STScI's own formula)
    hst = {"PHOTFLAM": 7.0332e-20, "PHOTPLAM": 8045.0}
    calib = photo_calib_from_header(hst, convention="hst-rate", reference=TOTAL, unit="electron/s")
    stsci = -2.5 * np.log10(7.0332e-20) - 5 * np.log10(8045.0) - 2.408
    assert calib.zero_point() == pytest.approx(stsci, abs=1e-3)
    sdss = photo_calib_from_header({"NMGY": 0.005}, convention="nanomaggies", reference=TOTAL)
    assert sdss.zero_point() == pytest.approx(22.5 - 2.5 * np.log10(0.005))


@pytest.mark.parametrize(
    ("header", "convention", "error"),
    [
        ({}, "magzero-exposure", MissingDataError),
        ({"MAGZERO": 25.0}, "magzero-second", MissingDataError),
        ({"MAGZERO": 25.0, "EXPTIME": 0.0}, "magzero-second", CalibrationError),
        ({"MAGZERO": "bad"}, "magzero-exposure", CalibrationError),
        ({"MAGZERO": np.nan}, "magzero-exposure", CalibrationError),
        ({"FLUXMAG0": -3.0}, "fluxmag0", CalibrationError),
        ({"MAGZERO": 25.0, "MAGZPT": 25.0, "EXPTIME": 100.0}, "decam-cp", CalibrationError),
        ({"MAGZERO": 25.0}, "guess", PogsonValueError),
    ],
)
def test_bad_headers(header, convention, error) -> None:
    with pytest.raises(error):
        photo_calib_from_header(header, convention=convention, reference=TOTAL)


@pytest.mark.parametrize("time", [None, 30.0])
def test_header_round_trip(time: float | None) -> None:
    calib = PhotoCalib.constant(0.37, error=0.004, reference=FluxReference.aperture(6))
    header = fits.Header()
    for key, value, comment in header_cards(calib, exposure_time=time):
        header[key] = (value, comment)
    header["EXPTIME"] = 30.0
    name = "magzero-exposure" if time is None else "magzero-second"
    assert header["MAGZTIME"] in name
    for convention in (name, "fluxmag0"):
        back = photo_calib_from_header(header, convention=convention, reference=calib.reference)
        assert back.mean() == pytest.approx(0.37, rel=1e-12)
        assert back.relative_error() == pytest.approx(0.004 / 0.37, rel=1e-9)


# -- files ----------------------------------------------------------------------------------
@pytest.mark.parametrize("calib", CALIBS)
def test_files_round_trip(calib: PhotoCalib, tmp_path) -> None:
    for copy in (
        PhotoCalib.from_dict(json.loads(json.dumps(calib.to_dict()))),
        PhotoCalib.from_hdu(calib.to_hdu()),
        pickle.loads(pickle.dumps(calib)),
    ):
        assert copy == calib
        assert hash(copy) == hash(calib)
    for name in ("a.json", "a.fits"):
        calib.write(tmp_path / name)
        calib.write(tmp_path / name)
        assert PhotoCalib.read(tmp_path / name) == calib
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.fits", "a.json"]
    header = fits.getheader(tmp_path / "a.fits", 1)
    assert header["PHOTSYS"] == "AB"
    assert 10 ** (-0.4 * (header["MAGZERO"] - 31.4)) == pytest.approx(calib.mean())


def test_repr_round_trips() -> None:
    from pogson.psf import ApertureOperator  # noqa: F401 - a name that repr uses

    for calib in CALIBS[:4]:
        assert eval(repr(calib)) == calib


@settings(max_examples=60)
@given(st.data())
def test_damaged_files_raise_only_our_errors(data) -> None:
    import tempfile
    from pathlib import Path

    suffix = data.draw(st.sampled_from([".json", ".fits"]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        varying().write(path)
        raw = bytearray(path.read_bytes())
        if data.draw(st.booleans()):
            raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
        else:
            for _ in range(data.draw(st.integers(1, 20))):
                raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(raw)
        try:
            PhotoCalib.read(path)
        except PogsonError as error:
            assert path.name in str(error)  # noqa: PT017


def test_foreign_files(tmp_path) -> None:
    with pytest.raises(FileFormatError, match=r"none\.json"):
        PhotoCalib.read(tmp_path / "none.json")
    fits.PrimaryHDU(np.ones((3, 3))).writeto(tmp_path / "image.fits")
    with pytest.raises(FileFormatError, match="no extension"):
        PhotoCalib.read(tmp_path / "image.fits")
    with pytest.raises(FileFormatError, match="name in"):
        varying().write(tmp_path / "a.pkl")
    with pytest.raises(FileFormatError, match="version"):
        PhotoCalib.from_dict(varying().to_dict() | {"version": 99})
    with pytest.raises(FileFormatError):
        PhotoCalib.from_dict({"schema": "other"})
