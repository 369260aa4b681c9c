"""Frames of SDSS plates, specutils files and tables of fibres."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import InverseVariance, StdDevUncertainty

from pogson.errors import FileFormatError, UnitMismatchError
from pogson.formats import read_fibre_spectra, read_sdss_frame
from pogson.formats.spectra_sdss_frame import evaluate_trace_set

N_FIBRE, N_PIXEL = 3, 400


def trace_set(coefficients, **jump):
    c = np.asarray(coefficients, float)
    columns = [
        fits.Column("FUNC", "8A", array=["legendre"]),
        fits.Column("XMIN", "D", array=[0.0]),
        fits.Column("XMAX", "D", array=[N_PIXEL - 1.0]),
        fits.Column("COEFF", f"{c.size}D", dim=f"({c.shape[1]},{c.shape[0]})", array=[c]),
    ]
    columns += [fits.Column(k, "D", array=[v]) for k, v in jump.items()]
    return fits.BinTableHDU.from_columns(columns)


def write_frame(path, *, reverse=False, calibrated=False):
    slope = -0.02 if reverse else 0.02
    counts = np.arange(N_FIBRE * N_PIXEL, dtype=float).reshape(N_FIBRE, N_PIXEL)
    primary = fits.PrimaryHDU(counts)
    primary.header["EXPTIME"] = 900.0
    primary.header["CAMERAS"] = "b1"
    primary.header["VACUUM"] = True
    plug = fits.BinTableHDU.from_columns(
        [
            fits.Column("FIBERID", "J", array=[1, 2, 3]),
            fits.Column("OBJTYPE", "16A", array=["QSO", "SPECTROPHOTO_STD", "SKY"]),
            fits.Column("RA", "D", array=[10.0, 10.1, 10.2]),
            fits.Column("DEC", "D", array=[0.0, 0.1, 0.2]),
        ]
    )
    lam = trace_set([[3.65, slope, 1e-4 * i] for i in range(N_FIBRE)])
    wave = fits.ImageHDU(np.ones_like(counts)) if calibrated else lam
    mask = np.zeros(counts.shape, np.int32)
    mask[1, 7] = 4
    fits.HDUList(
        [primary, fits.ImageHDU(np.ones_like(counts)), fits.ImageHDU(mask), wave,
         trace_set([[1.1, 0.1]] * N_FIBRE), plug]
    ).writeto(path)  # fmt: skip


@pytest.mark.parametrize("reverse", [False, True])
def test_sdss_frame(tmp_path, reverse):
    path = tmp_path / "spFrame-b1-00123456.fits"
    write_frame(path, reverse=reverse)
    frame = read_sdss_frame(path)
    x = np.linspace(-1, 1, N_PIXEL)
    slope = -0.02 if reverse else 0.02
    expected = 10 ** (3.65 + slope * x + 2e-4 * 0.5 * (3 * x**2 - 1))
    expected = expected[::-1] if reverse else expected
    np.testing.assert_allclose(frame.wavelength[2], expected, rtol=1e-12)
    assert np.all(np.diff(frame.wavelength) > 0)
    pixel = 7 if not reverse else N_PIXEL - 1 - 7
    assert frame.counts[1, pixel] == 407.0 if not np.isnan(frame.counts[1, pixel]) else True
    assert frame.ivar[1, pixel] == 0
    # dispersion in pixels times the width of a pixel
    width = np.gradient(frame.wavelength[0])
    middle = N_PIXEL // 2
    assert frame.lsf_sigma[0, middle] / width[middle] == pytest.approx(1.1, abs=0.002)
    assert frame.meta["standard"].tolist() == [False, True, False]
    assert frame.meta["ra"].tolist() == [10.0, 10.1, 10.2]
    assert frame.fibre_ids.tolist() == [1, 2, 3]
    assert read_fibre_spectra(path) == frame
    assert read_fibre_spectra(path, airmass=1.2).airmass == 1.2


def test_calibrated_sdss_frame_is_refused(tmp_path):
    path = tmp_path / "spCFrame-b1-00123456.fits"
    write_frame(path, calibrated=True)
    with pytest.raises(UnitMismatchError, match="calibrated already"):
        read_sdss_frame(path)


def test_trace_set_with_a_step_of_the_detector():
    """Half-way through the step half of its value is added to the pixel coordinate."""
    table = trace_set([[0.0, 1.0]], XJUMPVAL=2.0, XJUMPLO=100.0, XJUMPHI=102.0).data
    y = evaluate_trace_set(table, N_PIXEL)[0]
    per_pixel = 2.0 / (N_PIXEL - 1)
    assert y[100] == pytest.approx(-1 + 100 * per_pixel)
    assert y[101] == pytest.approx(-1 + 102 * per_pixel)
    assert y[102] == pytest.approx(-1 + 104 * per_pixel)


def test_trace_set_of_another_function():
    table = trace_set([[0.0, 1.0]]).data
    table["FUNC"] = "spline"
    with pytest.raises(FileFormatError, match="not understood"):
        evaluate_trace_set(table, 5)


@pytest.mark.parametrize("shape", [(50,), (3, 50), (50, 50)])
@pytest.mark.parametrize("kind", [StdDevUncertainty, InverseVariance])
@pytest.mark.filterwarnings("ignore")
def test_file_of_specutils(tmp_path, shape, kind):
    specutils = pytest.importorskip("specutils")
    spectrum_class = getattr(specutils, "Spectrum", None) or specutils.Spectrum1D
    counts = np.arange(np.prod(shape), dtype=float).reshape(shape)
    noise = 4.0 + np.zeros(shape)
    spectrum = spectrum_class(
        spectral_axis=np.geomspace(400.0, 500.0, 50) * u.nm, flux=counts * u.ct,
        uncertainty=kind(noise), mask=np.zeros(shape, bool), spectral_axis_index=len(shape) - 1,
    )  # fmt: skip
    path = tmp_path / "s.fits"
    spectrum.write(path, format="tabular-fits")
    frame = read_fibre_spectra(path, medium="vacuum")
    np.testing.assert_allclose(frame.counts, np.atleast_2d(counts))
    np.testing.assert_allclose(frame.ivar, 1 / 16 if kind is StdDevUncertainty else 4.0)
    np.testing.assert_allclose(frame.wavelength, np.geomspace(4000.0, 5000.0, 50))


def test_table_of_fibres_of_the_wrong_length(tmp_path):
    path = tmp_path / "frame.fits"
    table = fits.BinTableHDU.from_columns([fits.Column("FIBRE", "J", array=[1, 2])], name="FIBRES")
    hdus = [fits.PrimaryHDU()]
    for name, data in (("COUNTS", np.ones((3, 5))), ("IVAR", np.ones((3, 5))),
                       ("WAVELENGTH", 5000.0 + np.arange(5))):  # fmt: skip
        hdus.append(fits.ImageHDU(data, name=name))
    hdus[0].header["AIRORVAC"] = "vac"
    fits.HDUList([*hdus, table]).writeto(path)
    with pytest.raises(FileFormatError, match="2 rows but there are 3"):
        read_fibre_spectra(path)
