"""Vega magnitudes and AB magnitudes: what Vega is in AB, band by band."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from pogson.errors import FileFormatError, MissingDataError
from pogson.sed.bandpass import Bandpass
from pogson.sed.spectrum import Spectrum
from pogson.sed.synthetic import synthetic_magnitude

__all__ = ["VEGA_OFFSETS", "VEGA_SOURCE", "calspec_spectrum", "vega_offset"]

VEGA_SOURCE = "alpha_lyr_stis_011"
"""CALSPEC spectrum of Vega behind `VEGA_OFFSETS` (Bohlin, Hubeny & Rauch 2020, AJ 160, 21)."""

# Derived with `vega_offset` from VEGA_SOURCE; tests/sed/test_vega.py derives them again.
VEGA_OFFSETS: dict[str, float] = {
    "bessell-U": 0.7913, "bessell-B": -0.1185, "bessell-V": 0.0017,
    "bessell-R": 0.1918, "bessell-I": 0.4448,
    "gaiadr2-G": 0.1218, "gaiadr2-BP": 0.0585, "gaiadr2-RP": 0.3767,
    "gaiadr3-G": 0.1269, "gaiadr3-BP": 0.0232, "gaiadr3-RP": 0.3814,
    "twomass-J": 0.9033, "twomass-H": 1.3842, "twomass-Ks": 1.8571,
}  # fmt: skip
"""AB magnitude of Vega in responses of speclite: ``m_AB = m_Vega + offset`` if Vega is 0.

The responses of Bessell (1990, PASP 102, 1181) and 2MASS (Cohen, Wheaton & Megeath 2003, AJ 126,
1090) are taken per unit energy, those of Gaia per photon. Taken per photon 2MASS would be 0.005,
0.003 and 0.003 mag larger.
"""


def vega_offset(bandpass: Bandpass, vega: Spectrum, *, vega_magnitude: float = 0.0) -> float:
    """Return what to add to a Vega magnitude to get an AB magnitude.

    Parameters
    ----------
    bandpass : Bandpass
        The response.
    vega : Spectrum
        Spectrum of Vega, of CALSPEC for example (`calspec_spectrum`).
    vega_magnitude : float, optional
        The magnitude that the system gives to Vega; 0 in most, 0.03 in V of some.

    Raises
    ------
    CalibrationError
        If the spectrum covers less than 99 % of the bandpass.

    Examples
    --------
    >>> band = Bandpass.from_speclite("decam2014-r")
    >>> round(vega_offset(band, Spectrum.constant_ab(0.4)), 6)
    0.4
    """
    return synthetic_magnitude(vega, bandpass) - float(vega_magnitude)


def calspec_spectrum(path: str | os.PathLike[str]) -> Spectrum:
    """Read a spectrum of CALSPEC: a FITS table with WAVELENGTH (vacuum Angstrom) and FLUX.

    Parameters
    ----------
    path : path-like
        The file, gzipped or not.

    Raises
    ------
    MissingDataError
        If there is no such file.
    FileFormatError
        If it is damaged or has no such columns.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from astropy.table import Table
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "star_stis_001.fits"
    >>> Table({"WAVELENGTH": [3000.0, 9000.0], "FLUX": [1e-13, 1e-14]}).write(path)
    >>> calspec_spectrum(path)
    Spectrum('star_stis_001', 2 samples 3000-9000 Angstrom, vacuum)
    """
    from pathlib import Path

    from astropy.io import fits

    path = Path(path)
    if not path.is_file():
        raise MissingDataError(f"There is no file {path}.")
    try:
        with path.open("rb") as stream, fits.open(stream, memmap=False) as hdus:
            data: Any = hdus[1].data
            lam = np.array(data["WAVELENGTH"], np.float64)
            flux = np.array(data["FLUX"], np.float64)
    except (OSError, KeyError, IndexError, TypeError, ValueError) as error:
        raise FileFormatError(
            f"{path} is not a spectrum of CALSPEC (a FITS table with WAVELENGTH and FLUX): {error}"
        ) from error
    return Spectrum(lam, flux, name=path.name.split(".")[0])
