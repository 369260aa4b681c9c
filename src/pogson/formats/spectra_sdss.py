"""SDSS spectra: single exposures with their calibration vectors, and coadds (spec-*.fits)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from pogson.errors import FileFormatError
from pogson.formats.fits_access import describe_hdus, merged_header, open_fits
from pogson.spectro import FibreSpectra, PixelMask, Spectrum1D

__all__ = ["read_sdss_coadd", "read_sdss_exposures"]

_SCALE = 1e-17
_STEP = 1e-4
_NEEDED = {"flux", "loglam", "ivar", "mask", "wdisp", "calib"}


def is_sdss_spectrum(hdus: Any) -> bool:
    """Return whether a file has the coadd of an SDSS spectrum in its first extension."""
    return len(hdus) > 1 and {"flux", "loglam", "ivar"} <= _columns(hdus[1])


def _columns(hdu: Any) -> set[str]:
    columns = getattr(hdu, "columns", None)
    return set() if columns is None else {c.lower() for c in columns.names}


def read_sdss_exposures(path: str | os.PathLike[str]) -> list[FibreSpectra]:
    """Read the single exposures of one fibre from an SDSS spectrum file, as counts.

    Parameters
    ----------
    path : path-like
        A full ``spec-PLATE-MJD-FIBER.fits`` (the "lite" files have no exposures).

    Returns
    -------
    exposures : list of FibreSpectra
        One fibre each, wavelengths increasing. ``counts = flux / calib`` and
        ``ivar = ivar * calib**2``; ``meta["calib"]`` is the pipeline's own calibration vector in
        erg/s/cm2/Angstrom per count, ``meta["flux"]`` its calibrated flux, ``meta["camera"]``,
        ``meta["exposure"]`` and ``meta["heliocentric_kms"]`` say the rest. Pixels with calib of
        zero are `PixelMask.OUTSIDE`.

    Raises
    ------
    FileFormatError
        If the file is damaged, has no exposures, or says its wavelengths are not in vacuum.

    Notes
    -----
    Data model of SDSS: flux in 1e-17 erg/s/cm2/Angstrom, loglam is log10 of the vacuum wavelength
    in Angstrom (heliocentric), wdisp the dispersion in pixels of 1e-4 dex, which becomes
    ``lsf_sigma``.

    Examples
    --------
    >>> read_sdss_exposures("spec-0266-51602-0031.fits")
    Traceback (most recent call last):
    ...
    pogson.errors.FileFormatError: spec-0266-51602-0031.fits does not exist.
    """
    with open_fits(path) as hdus:
        found = [
            _exposure(hdu, merged_header(hdus, hdu), Path(path))
            for hdu in hdus[1:]
            if _columns(hdu) >= _NEEDED
        ]
        if not found:
            raise FileFormatError(
                f"{path} holds no single exposures with a calibration vector (extensions "
                f"{describe_hdus(hdus)}); 'lite' spectra lack them: get the full file."
            )
    return found


def _exposure(hdu: Any, header: Any, path: Path) -> FibreSpectra:
    if header.get("VACUUM") is False:
        raise FileFormatError(f"{path} says VACUUM = F in {hdu.name}; SDSS files are in vacuum.")
    data = hdu.data
    order = np.argsort(data["loglam"])
    value = {n: np.asarray(data[n], np.float64)[order] for n in _NEEDED - {"mask"}}
    lam = 10.0 ** value["loglam"]
    calib = value["calib"] * _SCALE
    usable = np.isfinite(calib) & (calib > 0)
    safe = np.where(usable, calib, 1.0)
    flagged = np.asarray(data["mask"], np.int64)[order] != 0
    mask = np.where(flagged, int(PixelMask.FLAGGED), 0) | np.where(
        usable, 0, int(PixelMask.OUTSIDE)
    )
    return FibreSpectra(
        lam,
        np.where(usable, value["flux"] * _SCALE / safe, np.nan),
        np.where(usable, value["ivar"] / _SCALE**2 * safe**2, 0.0),
        mask,
        value["wdisp"] * lam * _STEP * np.log(10.0),
        exposure_time=float(header.get("EXPTIME", np.nan)),
        airmass=float(header.get("AIRMASS", np.nan)),
        fibre_ids=[int(header.get("FIBERID", 0))],
        names=[str(header.get("NAME", ""))],
        meta={
            "camera": str(header.get("CAMERAS", "")).strip(),
            "exposure": int(header.get("EXPOSURE", 0)),
            "heliocentric_kms": float(header.get("HELIO_RV", np.nan)),
            "sdss_mask": np.asarray(data["mask"])[order],
            "calib": np.where(usable, calib, np.nan),
            "flux": value["flux"] * _SCALE,
            "source": f"{path.name}[{hdu.name}]",
        },
    )


def read_sdss_coadd(path: str | os.PathLike[str]) -> Spectrum1D:
    """Read the calibrated coadd of an SDSS spectrum file.

    Parameters
    ----------
    path : path-like
        ``spec-PLATE-MJD-FIBER.fits``, full or lite.

    Returns
    -------
    spectrum : Spectrum1D
        erg/s/cm2/Angstrom on vacuum wavelengths; pixels with and_mask set or without inverse
        variance are bad. ``meta["lsf_sigma"]`` is the dispersion in Angstrom.

    Raises
    ------
    FileFormatError
        If it is no SDSS spectrum.

    Examples
    --------
    >>> read_sdss_coadd("spec-0266-51602-0031.fits")
    Traceback (most recent call last):
    ...
    pogson.errors.FileFormatError: spec-0266-51602-0031.fits does not exist.
    """
    with open_fits(path) as hdus:
        if not is_sdss_spectrum(hdus):
            raise FileFormatError(
                f"{path} is no SDSS spectrum: its first extension lacks the columns flux, loglam "
                f"and ivar ({describe_hdus(hdus)})."
            )
        data = hdus[1].data
        lam = 10.0 ** np.asarray(data["loglam"], np.float64)
        ivar = np.asarray(data["ivar"], np.float64) / _SCALE**2
        good = ivar > 0
        if "and_mask" in _columns(hdus[1]):
            good &= np.asarray(data["and_mask"]) == 0
        meta: dict[str, Any] = {"source": Path(path).name}
        if "wdisp" in _columns(hdus[1]):
            wdisp = np.asarray(data["wdisp"], np.float64)
            meta["lsf_sigma"] = wdisp * lam * _STEP * np.log(10.0)
        variance = np.where(ivar > 0, 1.0 / np.where(ivar > 0, ivar, 1.0), 0.0)
        return Spectrum1D(lam, np.asarray(data["flux"], np.float64) * _SCALE, variance, good, meta)
