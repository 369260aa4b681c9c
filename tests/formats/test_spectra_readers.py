"""Readers of fibre spectra: real SDSS exposures, DESI frames, plain FITS, ECSV, specutils."""

from __future__ import annotations

from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from pogson.errors import FileFormatError, PogsonError, PogsonValueError, UnitMismatchError
from pogson.formats import (
    from_specutils,
    read_desi_frame,
    read_fibre_spectra,
    read_sdss_coadd,
    read_sdss_exposures,
)
from pogson.formats.spectra_desi import resolution_sigma
from pogson.sed import air_to_vacuum
from pogson.spectro import pixel_edges

LAM = np.arange(5000.0, 5040.0, 0.8)


@pytest.fixture(scope="module")
def sdss_file():
    ppxf = pytest.importorskip(
        "ppxf", reason="ppxf, which ships a real SDSS file, is not installed"
    )
    return Path(ppxf.__file__).parent / "spectra" / "NGC3073_SDSS_DR18.fits"


# ---- SDSS ----------------------------------------------------------------------------------------


def test_real_sdss_exposures(sdss_file):
    exposures = read_sdss_exposures(sdss_file)
    assert [e.meta["camera"] for e in exposures] == ["b2"] * 4 + ["r2"] * 4
    assert [e.meta["exposure"] for e in exposures[:4]] == [18071, 18072, 18073, 18074]
    assert [round(e.airmass, 3) for e in exposures[:4]] == [1.136, 1.164, 1.200, 1.243]
    assert {round(e.exposure_time) for e in exposures} == {1200}
    for e in exposures:
        assert np.all(np.diff(e.wavelength) > 0)
        counts = np.nanmedian(e.counts)
        assert 1000 < counts < 4000
        # the pipeline's own calibration of the counts is the pipeline's flux
        good = e.good[0]
        assert (e.counts[0] * e.meta["calib"])[good] == pytest.approx(
            e.meta["flux"][good], rel=1e-9
        )
        resolution = e.line_spread(0).resolution(e.wavelength)
        assert 1300 < np.median(resolution) < 2500
        # real counts have noise near that of photons
        assert 0.2 < np.median(e.counts[0][good] * e.ivar[0][good]) < 1.5


def test_the_coadd_and_the_exposures_agree(sdss_file):
    coadd = read_sdss_coadd(sdss_file)
    assert coadd.n_good > 3500
    blue = read_sdss_exposures(sdss_file)[:4]
    mean = np.mean(
        [np.interp(coadd.wavelength, e.wavelength, e.meta["flux"]) for e in blue], axis=0
    )
    inside = (coadd.wavelength > 4200) & (coadd.wavelength < 5600) & coadd.mask
    ratio = mean[inside] / coadd.flux[inside]
    assert np.median(ratio) == pytest.approx(1.0, abs=0.01)


def test_sdss_files_that_will_not_do(tmp_path, sdss_file):
    path = tmp_path / "lite.fits"
    with fits.open(sdss_file) as hdus:
        fits.HDUList([hdus[0], hdus[1]]).writeto(path)
    with pytest.raises(FileFormatError, match="lite"):
        read_sdss_exposures(path)
    with pytest.raises(FileFormatError, match="read_sdss_exposures"):
        read_fibre_spectra(path)
    fits.HDUList([fits.PrimaryHDU(np.ones((3, 3)))]).writeto(path, overwrite=True)
    with pytest.raises(FileFormatError, match="no SDSS spectrum"):
        read_sdss_coadd(path)
    path.write_bytes(sdss_file.read_bytes()[:200000])
    with pytest.raises(PogsonError):
        read_sdss_exposures(path)


# ---- DESI ----------------------------------------------------------------------------------------


def gaussian_resolution(sigma_pixels, n_pixel, n_diagonal=11):
    """Bands of pixel-integrated Gaussians, as dia_matrix keeps them."""
    from scipy.special import ndtr

    offset = n_diagonal // 2 - np.arange(n_diagonal)
    s = np.broadcast_to(sigma_pixels, n_pixel)
    return ndtr((offset[:, None] + 0.5) / s) - ndtr((offset[:, None] - 0.5) / s)


def write_desi(path, unit="electron/Angstrom", **drop):
    rng = np.random.default_rng(5)
    n = LAM.size
    hdus = fits.HDUList([fits.PrimaryHDU(rng.normal(100, 5, (3, n)).astype("f4"))])
    hdus[0].header.update(EXTNAME="FLUX", BUNIT=unit, EXPTIME=900.0, AIRMASS=1.1, CAMERA="B0")
    mask = np.zeros((3, n), np.int32)
    mask[1, 7] = 16
    bands = np.stack([gaussian_resolution(s, n) for s in (1.0, 1.3, np.linspace(0.9, 1.5, n))])
    table = Table(
        {"FIBER": [3, 8, 11], "TARGETID": [39000, 39001, 39002], "DESI_TARGET": [1, 1 << 33, 0]}
    )
    hdus += [
        fits.ImageHDU(np.full((3, n), 0.04, "f4"), name="IVAR"),
        fits.ImageHDU(mask, name="MASK"),
        fits.ImageHDU(LAM, name="WAVELENGTH"),
        fits.ImageHDU(bands.astype("f4"), name="RESOLUTION"),
        fits.BinTableHDU(table, name="FIBERMAP"),
    ]
    fits.HDUList([h for h in hdus if h.name not in drop]).writeto(path, overwrite=True)


def test_desi_frame(tmp_path):
    path = tmp_path / "frame-b0-00000001.fits"
    write_desi(path)
    frame = read_desi_frame(path)
    assert read_fibre_spectra(path) == frame
    assert frame.unit == "count/Angstrom"
    assert frame.fibre_ids.tolist() == [3, 8, 11]
    assert frame.names == ("39000", "39001", "39002")
    assert frame.meta["standard"].tolist() == [False, True, False]
    assert (frame.exposure_time, frame.airmass, frame.meta["camera"]) == (900.0, 1.1, "b0")
    assert frame.mask[1, 7] != 0
    assert frame.ivar[1, 7] == 0
    # sigma before pixels integrate, in Angstrom; the bands hold 5 sigma
    step = np.diff(pixel_edges(LAM))
    assert frame.lsf_sigma[0] == pytest.approx(1.0 * step, rel=2e-3)
    assert frame.lsf_sigma[1] == pytest.approx(1.3 * step, rel=2e-3)
    middle = slice(6, -6)
    assert frame.lsf_sigma[2][middle] == pytest.approx(
        (np.linspace(0.9, 1.5, LAM.size) * step)[middle], rel=5e-3
    )


def test_resolution_of_real_desi_spectra():
    specutils = pytest.importorskip(
        "specutils", reason="specutils, which ships DESI spectra, is absent"
    )
    folder = Path(specutils.__file__).parent / "io" / "default_loaders" / "tests" / "desi_test_data"
    path = folder / "coadd-sv3-dark-26065.fits"
    if not path.exists():
        pytest.skip(f"this specutils does not ship {path.name}")
    with fits.open(path) as hdus:
        for arm, low, high in (("B", 1900, 4200), ("R", 3000, 6200), ("Z", 3600, 7200)):
            lam = hdus[f"{arm}_WAVELENGTH"].data.astype(float)
            sigma = resolution_sigma(hdus[f"{arm}_RESOLUTION"].data, lam)
            # three of the five fibres are dead and take the width of the others
            empty = ~hdus[f"{arm}_RESOLUTION"].data.any(axis=(1, 2))
            assert empty.sum() == 3
            assert np.allclose(sigma[empty], np.median(sigma[~empty], axis=0))
            # DESI's instrument overview (Abareshi et al. 2022) has 2000-3200, 3200-4100, 4100-5100
            # with pixels in it; without them it is up to a quarter more
            resolution = np.percentile(lam / (2.3548 * sigma), [2, 98])
            assert low < resolution[0] < resolution[1] < high, (arm, resolution)
    with pytest.raises(FileFormatError):
        read_desi_frame(path)


def test_desi_frames_that_will_not_do(tmp_path):
    path = tmp_path / "frame.fits"
    write_desi(path, unit="1e-17 erg/(s cm2 Angstrom)")
    with pytest.raises(FileFormatError, match="calibrated already"):
        read_desi_frame(path)
    write_desi(path, RESOLUTION=True)
    with pytest.raises(FileFormatError, match="needs IVAR, WAVELENGTH and RESOLUTION"):
        read_desi_frame(path)


# ---- plain FITS ----------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", ["IVAR", "VARIANCE", "ERROR"])
def test_plain_images(tmp_path, noise):
    path = tmp_path / "plain.fits"
    value = {"IVAR": 0.25, "VARIANCE": 4.0, "ERROR": 2.0}[noise]
    flux = fits.PrimaryHDU(np.arange(100.0).reshape(2, 50))
    flux.header.update(EXPTIME=60.0, AIRMASS=1.3, BUNIT="electron", AIRORVAC="vac")
    wave = fits.ImageHDU(LAM / 10, name="WAVELENGTH")
    wave.header["BUNIT"] = "nm"
    fits.HDUList([flux, fits.ImageHDU(np.full((2, 50), value), name=noise), wave]).writeto(path)
    got = read_fibre_spectra(path)
    assert got.wavelength == pytest.approx(LAM)
    assert np.all(got.ivar == 0.25)
    assert (got.unit, got.exposure_time, got.airmass) == ("count", 60.0, 1.3)
    assert read_fibre_spectra(path, exposure_time=61, airmass=1.4).airmass == 1.4
    with pytest.raises(PogsonValueError, match="says its wavelengths are in vacuum"):
        read_fibre_spectra(path, medium="air")


N = np.arange(50)
LINEAR = 5000.0 + 2.0 * N


@pytest.mark.parametrize(
    ("cards", "expected", "medium"),
    [
        ({"CTYPE1": "WAVE", "CRVAL1": 5000.0, "CDELT1": 2.0}, LINEAR, "vacuum"),
        ({"CTYPE1": "AWAV", "CRVAL1": 500.0, "CDELT1": 0.2, "CUNIT1": "nm"}, LINEAR, "air"),
        (
            {"CRVAL1": 3.7, "CD1_1": 1e-4, "DC-FLAG": 1, "VACUUM": True},
            10 ** (3.7 + 1e-4 * N),
            "vacuum",
        ),
        (
            {"CTYPE1": "WAVE-LOG", "CRVAL1": 5000.0, "CDELT1": 1.0},
            5000 * np.exp(N / 5000),
            "vacuum",
        ),
    ],
)
def test_wavelengths_from_header_cards(tmp_path, cards, expected, medium):
    path = tmp_path / "wcs.fits"
    hdu = fits.PrimaryHDU(np.ones((2, 50)))
    hdu.header.update(cards)
    fits.HDUList([hdu, fits.ImageHDU(np.ones((2, 50)), name="IVAR")]).writeto(path)
    truth = expected if medium == "vacuum" else air_to_vacuum(expected)
    assert read_fibre_spectra(path).wavelength == pytest.approx(truth, rel=1e-12)


def test_plain_files_that_will_not_do(tmp_path):
    path = tmp_path / "plain.fits"

    def write(*hdus, **cards):
        first = fits.PrimaryHDU(np.ones((2, 50)))
        first.header.update(cards)
        fits.HDUList([first, *hdus]).writeto(path, overwrite=True)

    ivar = fits.ImageHDU(np.ones((2, 50)), name="IVAR")
    wave = fits.ImageHDU(LAM, name="WAVELENGTH")
    write(wave)
    with pytest.raises(FileFormatError, match="no noise"):
        read_fibre_spectra(path, medium="vacuum")
    write(ivar)
    with pytest.raises(FileFormatError, match="wavelengths are unknown"):
        read_fibre_spectra(path, medium="vacuum")
    write(ivar, wave)
    with pytest.raises(PogsonValueError, match="vacuum or in air"):
        read_fibre_spectra(path)
    write(ivar, wave, BUNIT="erg/s/cm2")
    with pytest.raises(UnitMismatchError, match="counts"):
        read_fibre_spectra(path, medium="air")
    write(ivar, fits.ImageHDU(LAM[::-1], name="WAVELENGTH"))
    with pytest.raises(PogsonValueError, match="do not increase"):
        read_fibre_spectra(path, medium="air")
    write(fits.ImageHDU(-np.ones((2, 50)), name="VARIANCE"), wave)
    with pytest.raises(PogsonValueError, match="variances are negative"):
        read_fibre_spectra(path, medium="air")
    path.write_text("no fits")
    with pytest.raises(FileFormatError):
        read_fibre_spectra(path)


# ---- tables --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["fits", "ecsv"])
def test_tables_with_many_fibres(tmp_path, suffix):
    path = tmp_path / f"table.{suffix}"
    table = Table(
        {
            "fibre": np.repeat([4, 2], 50),
            "wavelength": np.tile(LAM, 2),
            "counts": np.r_[np.arange(50.0), -np.arange(50.0)],
            "error": np.full(100, 2.0),
        },
        meta={"EXPTIME": 30.0, "AIRORVAC": "vac"},
    )
    table["wavelength"].unit = "Angstrom"
    table.write(path)
    got = read_fibre_spectra(path)
    assert got.fibre_ids.tolist() == [2, 4]
    assert got.counts[1] == pytest.approx(np.arange(50.0))
    assert got.wavelength.shape == (2, 50)
    assert got.exposure_time == 30.0
    table[:-1].write(path, overwrite=True)
    with pytest.raises(FileFormatError, match="different numbers of pixels"):
        read_fibre_spectra(path)
    table.remove_column("error")
    table.write(path, overwrite=True)
    with pytest.raises(FileFormatError, match="needs columns"):
        read_fibre_spectra(path)


def test_specutils_spectrum():
    specutils = pytest.importorskip("specutils", reason="specutils is not installed")
    from astropy.nddata import InverseVariance, StdDevUncertainty

    kind = getattr(specutils, "Spectrum", None) or specutils.Spectrum1D
    axis = LAM * 0.1 * u.nm
    one = kind(
        spectral_axis=axis,
        flux=np.arange(50.0) * u.ct,
        uncertainty=StdDevUncertainty(np.full(50, 2.0)),
    )
    got = from_specutils(one, medium="air", airmass=1.2)
    assert got.wavelength == pytest.approx(air_to_vacuum(LAM))
    assert got.counts.shape == (1, 50)
    assert np.all(got.ivar == 0.25)
    many = kind(
        spectral_axis=axis,
        flux=np.ones((3, 50)) * u.electron / u.AA,
        uncertainty=InverseVariance(np.ones((3, 50))),
    )
    assert from_specutils(many, medium="vacuum").unit == "count/Angstrom"
    with pytest.raises(PogsonValueError, match="vacuum or in air"):
        from_specutils(one)
    with pytest.raises(PogsonValueError, match="no uncertainty"):
        from_specutils(kind(spectral_axis=axis, flux=np.ones(50) * u.ct), medium="air")
    with pytest.raises(UnitMismatchError):
        from_specutils(
            kind(
                spectral_axis=axis,
                flux=np.ones(50) * u.Jy,
                uncertainty=StdDevUncertainty(np.ones(50)),
            ),
            medium="air",
        )
