"""One simulated exposure in the layouts of several projects: the same fluxes from each."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from pogson.errors import PogsonValueError
from pogson.formats import read_fibre_spectra
from pogson.run import load_fluxcal_config, run_fluxcal
from pogson.simulate import write_fibre_job

LAM = 10 ** np.arange(np.log10(3900.0), np.log10(8800.0), 2e-4)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("layouts")
    config, sim = write_fibre_job(
        folder, seed=4, n_stars=3, n_fibres=5, wavelength=LAM, sn=(60, 120)
    )
    result = run_fluxcal(load_fluxcal_config(config, ["report.enabled=false"]), workers=1)
    return folder, sim.frame, fits.getdata(result.calibrated[0])


def run(folder, name, *more):
    given = {"frame": {"path": str(folder / name)}}
    config = load_fluxcal_config(
        folder / "fluxcal.toml", ["report.enabled=false", *more], given=given,
        output=folder / f"out-{name}",
    )  # fmt: skip
    result = run_fluxcal(config, workers=1)
    return fits.getdata(result.calibrated[0]), result.summary


def places(folder):
    return fits.getdata(folder / "frame.fits", "FIBRES")


def trace_set(coefficients):
    c = np.asarray(coefficients, float)
    columns = [
        fits.Column("FUNC", "8A", array=["legendre"]),
        fits.Column("XMIN", "D", array=[0.0]),
        fits.Column("XMAX", "D", array=[LAM.size - 1.0]),
        fits.Column("COEFF", f"{c.size}D", dim=f"({c.shape[1]},{c.shape[0]})", array=[c]),
    ]
    return fits.BinTableHDU.from_columns(columns)


def test_sdss_plate_frame_by_position(plain):
    folder, frame, expected = plain
    x = np.linspace(-1, 1, LAM.size)
    log = np.log10(LAM)
    spread = np.polynomial.legendre.legfit(x, frame.lsf_sigma / np.gradient(LAM), 4)
    seen = places(folder)
    plug = fits.BinTableHDU.from_columns(
        [
            fits.Column("FIBERID", "J", array=np.arange(1, 6)),
            fits.Column("OBJTYPE", "16A", array=["SPECTROPHOTO_STD"] * 4 + ["QSO"]),
            fits.Column("RA", "D", array=seen["RA"]),
            fits.Column("DEC", "D", array=seen["DEC"]),
        ]
    )
    primary = fits.PrimaryHDU(np.asarray(frame.counts))
    primary.header["EXPTIME"], primary.header["AIRMASS"] = frame.exposure_time, frame.airmass
    fits.HDUList(
        [primary, fits.ImageHDU(np.asarray(frame.ivar)),
         fits.ImageHDU(np.zeros(frame.counts.shape, np.int32)),
         trace_set([[log.mean(), 0.5 * np.ptp(log)]] * 5), trace_set([spread] * 5), plug]
    ).writeto(folder / "spFrame.fits")  # fmt: skip
    flux, summary = run(folder, "spFrame.fits", "standards.match=position")
    np.testing.assert_allclose(flux, expected, rtol=2e-3)
    assert summary["matched_by"] == "position"
    # star 4 is marked as a standard, but nobody measured its magnitudes
    assert "1 fibres marked as standards have no photometry in the table: 4." in summary["notes"]


def test_desi_frame(plain):
    folder, frame, expected = plain
    width = np.gradient(LAM)
    offsets = np.arange(5, -6, -1)
    # a resolution matrix holds the line spread through the pixels
    pixels = np.sqrt((frame.lsf_sigma / width) ** 2 + 1.0 / 12.0)
    bands = np.exp(-0.5 * (offsets[:, None] / pixels) ** 2)
    bands /= bands.sum(axis=0)
    seen = places(folder)
    fibermap = Table({"FIBER": np.arange(1, 6), "TARGETID": 1000 + np.arange(5),
                      "TARGET_RA": seen["RA"], "TARGET_DEC": seen["DEC"],
                      "DESI_TARGET": np.array([1 << 33] * 3 + [1, 1])})  # fmt: skip
    primary = fits.PrimaryHDU(np.asarray(frame.counts) / width)
    primary.header["EXTNAME"], primary.header["BUNIT"] = "FLUX", "electron/Angstrom"
    primary.header["EXPTIME"], primary.header["AIRMASS"] = frame.exposure_time, frame.airmass
    fits.HDUList(
        [primary, fits.ImageHDU(np.asarray(frame.ivar) * width**2, name="IVAR"),
         fits.ImageHDU(LAM, name="WAVELENGTH"),
         fits.ImageHDU(np.broadcast_to(bands, (5, *bands.shape)).copy(), name="RESOLUTION"),
         fits.BinTableHDU(fibermap, name="FIBERMAP")]
    ).writeto(folder / "frame-b0-00000001.fits")  # fmt: skip
    flux, summary = run(folder, "frame-b0-00000001.fits", "standards.match=position")
    # moments of a sampled Gaussian are those of the Gaussian to 1e-3
    np.testing.assert_allclose(flux, expected, rtol=5e-3)
    assert summary["frame"]["unit"] == "count/Angstrom"
    assert summary["notes"] == []
    # what DESI writes is in vacuum; saying air is a mistake, and was ignored
    with pytest.raises(PogsonValueError, match="in vacuum, not in air"):
        read_fibre_spectra(folder / "frame-b0-00000001.fits", medium="air")


def test_long_ecsv_table(plain):
    folder, frame, expected = plain
    n = frame.n_pixels
    table = Table(
        {
            "fibre": np.repeat(np.arange(1, 6), n),
            "wavelength": np.tile(LAM, 5),
            "counts": np.ravel(frame.counts),
            "ivar": np.ravel(frame.ivar),
            "lsf_sigma": np.tile(frame.lsf_sigma, 5),
        },
        meta={"EXPTIME": frame.exposure_time, "AIRMASS": frame.airmass, "AIRORVAC": "vac"},
    )
    table.write(folder / "frame.ecsv")
    flux, _ = run(folder, "frame.ecsv")
    np.testing.assert_allclose(flux, expected, rtol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_file_of_specutils_with_what_it_lacks(plain):
    import astropy.units as u
    from astropy.nddata import InverseVariance

    specutils = pytest.importorskip("specutils")
    spectrum_class = getattr(specutils, "Spectrum", None) or specutils.Spectrum1D
    folder, frame, expected = plain
    spectrum_class(
        spectral_axis=LAM * u.AA, flux=np.asarray(frame.counts) * u.ct,
        uncertainty=InverseVariance(np.asarray(frame.ivar)), spectral_axis_index=1,
    ).write(folder / "specutils.fits", format="tabular-fits")  # fmt: skip
    table = Table.read(folder / "standards.ecsv")
    table["fibre"] -= 1  # such a file has no fibre numbers: rows count from 0
    table.write(folder / "from_zero.ecsv", overwrite=True)
    resolution = float(np.median(LAM / (2.3548 * frame.lsf_sigma)))
    flux, _ = run(
        folder, "specutils.fits", "frame.medium=vacuum",
        f"frame.exposure_time={frame.exposure_time}",
        f"frame.airmass={frame.airmass}", f"frame.resolution={resolution}",
        "standards.table=from_zero.ecsv",
    )  # fmt: skip
    # a constant resolution in place of one that grows by 25 %: lines differ, the level does not
    np.testing.assert_allclose(np.nanmedian(flux / expected, axis=1), 1.0, atol=0.01)


def test_sdss_spectrum_needs_an_exposure(plain, tmp_path):
    from pogson.errors import ConfigError

    folder = plain[0]
    hdus = [
        fits.PrimaryHDU(),
        fits.BinTableHDU(
            Table({"flux": np.ones(5), "loglam": np.log10(LAM[:5]), "ivar": np.ones(5)}),
            name="COADD",
        ),
    ]
    columns = {name: np.ones(500) for name in ("flux", "ivar", "wdisp", "calib")}
    columns |= {"loglam": np.log10(LAM[:500]), "mask": np.zeros(500, int)}
    hdus += [fits.BinTableHDU(Table(columns), name=f"B1-0000000{i}") for i in (1, 2)]
    fits.HDUList(hdus).writeto(folder / "spec.fits")
    with pytest.raises(ConfigError, match=r"frame\.extension to one of 'B1-00000001'"):
        run(folder, "spec.fits")
    with pytest.raises(ConfigError, match="are in vacuum"):
        run(folder, "spec.fits", "frame.medium=air")
    with pytest.raises(ConfigError, match="there is no 'R9'"):
        run(folder, "spec.fits", "frame.extension=R9")
