"""Calibrated spectra written to FITS: flux, noise, masks, the stars and the calibration itself."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np

from pogson.atomic import atomic_path
from pogson.errors import PogsonValueError
from pogson.spectro import CalibrationVector, PixelMask
from pogson.spectro._checks import fits_text

__all__ = ["FLUX_UNIT", "write_calibrated_spectra"]

FLUX_UNIT = "erg s-1 cm-2 Angstrom-1"
"""BUNIT of calibrated spectra; the FITS standard's spelling, no multiple slashes."""

_FACTOR_UNIT = {
    "count": f"{FLUX_UNIT} count-1",
    "count/s": "erg cm-2 Angstrom-1 count-1",
    "count/Angstrom": "erg s-1 cm-2 count-1",
    "count/s/Angstrom": "erg cm-2 count-1",
}
_STAR_UNIT = {
    "teff": "K", "teff_err": "K", "rv_kms": "km s-1", "rv_kms_err": "km s-1", "e_bv": "mag",
    "e_bv_err": "mag", "scale": FLUX_UNIT,
}  # fmt: skip
_IMAGE_UNIT = {"COV_WAVELENGTH": "Angstrom", "LSF_SIGMA": "Angstrom"}


def write_calibrated_spectra(
    path: str | os.PathLike[str],
    wavelength: Any,
    flux: Any,
    ivar: Any,
    mask: Any = None,
    *,
    fibre_ids: Any = None,
    names: Sequence[str] = (),
    places: tuple[Any, Any] | None = None,
    stars: Sequence[Mapping[str, Any]] = (),
    calibration: CalibrationVector | None = None,
    components: Mapping[str, Any] | None = None,
    keywords: Mapping[str, Any] | None = None,
    history: Iterable[str] = (),
    images: Mapping[str, Any] | None = None,
) -> Path:
    """Write calibrated spectra to a FITS file, whole or not at all.

    Parameters
    ----------
    path : path-like
        The file; an older one is replaced.
    wavelength : array_like, shape (n_pixel,) or (n_fibre, n_pixel)
        Vacuum Angstrom.
    flux, ivar : array_like, shape (n_fibre, n_pixel)
        erg/s/cm2/Angstrom and inverse variance. Pixels with inverse variance 0 are written as NaN.
    mask : array_like of int, same shape, optional
        Bits of `pogson.spectro.PixelMask`.
    fibre_ids, names : optional
        One for each row. Texts are written in ASCII, as FITS demands: Greek letters by name.
    places : (ra, dec) of array_like, shape (n_fibre,), optional
        Where the fibres point, degrees.
    stars : sequence of mappings, optional
        One for each standard star, all with the same keys: ``name``, ``fibre``, ``used``,
        ``teff``, ``logg``, ``feh``, ``rv_kms``, ``ebv``, ``scale``, ``rejected`` ... Numbers,
        booleans and texts.
    calibration : CalibrationVector, optional
        What was applied, for the extension CALIBRATION; ``meta["bunit"]`` is the unit of the counts
        ("count" unless given).
    components : mapping of str to array, shape (n_pixel,), optional
        Parts of the calibration's error that the fibres share, as fractions of the flux.
    keywords : mapping, optional
        More cards for the primary header, values or pairs of value and comment; values that are
        not finite are written as undefined.
    history : iterable of str, optional
        HISTORY cards.
    images : mapping of str to array, optional
        More arrays, each its own extension: covariances, for example.

    Returns
    -------
    path : Path

    Raises
    ------
    PogsonValueError
        If shapes differ or the stars have different keys.
    FileFormatError
        If the file cannot be written.

    Notes
    -----
    Extensions: primary FLUX (BUNIT `FLUX_UNIT`), IVAR, MASK (bits named in its header),
    WAVELENGTH, FIBRES, STARS, CALIBRATION. FCALNSTR counts stars whose ``used`` is true, FCALNREJ
    the others. The variance of each pixel is its own noise; what fibres share is in CALIBRATION.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from astropy.io import fits
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "cal.fits"
    >>> star = {"name": "HD 1", "used": True, "teff": 6250.0}
    >>> _ = write_calibrated_spectra(path, [5000.0, 5001.0], [[1e-16, 2e-16]], [[1e34, 0.0]],
    ...                              stars=[star])
    >>> fits.getheader(path)["BUNIT"], fits.getdata(path).tolist()
    ('erg s-1 cm-2 Angstrom-1', [[1e-16, nan]])
    """
    lam = np.asarray(wavelength, np.float64)
    values = np.array(flux, np.float64, ndmin=2)
    noise = np.array(ivar, np.float64, ndmin=2)
    bits = np.zeros(values.shape, np.int32) if mask is None else np.array(mask, ndmin=2)
    if not values.shape == noise.shape == bits.shape or lam.shape not in (
        values.shape,
        values.shape[1:],
    ):
        raise PogsonValueError(
            f"Shapes differ: flux {values.shape}, inverse variance {noise.shape}, mask "
            f"{bits.shape}, wavelength {lam.shape}."
        )
    lost = ~(np.isfinite(values) & np.isfinite(noise) & (noise > 0))
    values[lost], noise[lost] = np.nan, 0.0
    hdus = _image_hdus(lam, values, noise, bits)
    hdus.append(_fibres(values.shape[0], fibre_ids, names, places))
    if stars:
        hdus.append(_stars(stars))
    if calibration is not None:
        hdus.append(_calibration(calibration, components or {}))
    hdus.extend(_more_images(images or {}))
    _fill_header(hdus[0].header, stars, keywords or {}, history)
    with atomic_path(path) as temporary:
        hdus.writeto(temporary, checksum=True)
    return Path(path)


def _image_hdus(lam: np.ndarray, flux: np.ndarray, ivar: np.ndarray, bits: np.ndarray) -> Any:
    from astropy.io import fits

    primary = fits.PrimaryHDU(flux)
    primary.header["EXTNAME"] = "FLUX"
    primary.header["BUNIT"] = (FLUX_UNIT, "flux density per wavelength")
    noise = fits.ImageHDU(ivar, name="IVAR")
    noise.header["BUNIT"] = "erg-2 s2 cm4 Angstrom2"
    mask = fits.ImageHDU(bits.astype(np.int32), name="MASK")
    for i, bit in enumerate(PixelMask):
        mask.header[f"BIT{i:02d}"] = (bit.name, f"value {int(bit)}")
    grid = fits.ImageHDU(lam, name="WAVELENGTH")
    grid.header["BUNIT"] = "Angstrom"
    for hdu in (primary, grid):
        hdu.header["AIRORVAC"] = ("vac", "wavelengths are in vacuum")
    return fits.HDUList([primary, noise, mask, grid])


def _more_images(images: Mapping[str, Any]) -> list[Any]:
    from astropy.io import fits

    out = [fits.ImageHDU(np.asarray(a, np.float64), name=name) for name, a in images.items()]
    for hdu in out:
        if hdu.name in _IMAGE_UNIT:
            hdu.header["BUNIT"] = _IMAGE_UNIT[hdu.name]
    return out


def _texts(values: Iterable[Any]) -> np.ndarray:
    return np.array([fits_text("" if v is None else v) for v in values], "S")


def _fibres(
    n: int, fibre_ids: Any, names: Sequence[str], places: tuple[Any, Any] | None = None
) -> Any:
    from astropy.io import fits
    from astropy.table import Table

    ids = np.arange(n) if fibre_ids is None else np.asarray(fibre_ids)
    labels = [str(x) for x in names] or [""] * n
    if ids.shape != (n,) or len(labels) != n:
        raise PogsonValueError(f"{n} spectra but {ids.size} fibre ids and {len(labels)} names.")
    table = Table({"FIBRE": ids.astype(np.int64), "NAME": _texts(labels)})
    for name, values in zip(("RA", "DEC"), places or (), strict=False):
        table[name] = np.asarray(values, np.float64)
        table[name].unit = "deg"
    return fits.BinTableHDU(table, name="FIBRES")


def _stars(stars: Sequence[Mapping[str, Any]]) -> Any:
    from astropy.io import fits
    from astropy.table import Table

    keys = list(stars[0])
    for star in stars:
        if set(star) != set(keys):
            raise PogsonValueError(
                f"The stars have different keys: {sorted(set(star) ^ set(keys))} are not in all."
            )
    columns: dict[str, Any] = {}
    for key in keys:
        column = [star[key] for star in stars]
        if any(isinstance(v, str) or v is None for v in column):
            columns[key.upper()] = _texts(column)
        else:
            columns[key.upper()] = np.array(column)
    table = Table(columns)
    for key in keys:
        unit = "mag" if key.startswith("d_") else _STAR_UNIT.get(key)
        if unit is not None and table[key.upper()].dtype.kind == "f":
            table[key.upper()].unit = unit
    return fits.BinTableHDU(table, name="STARS")


def _calibration(calibration: CalibrationVector, components: Mapping[str, Any]) -> Any:
    from astropy.io import fits
    from astropy.table import Table

    table = Table(
        {
            "WAVELENGTH": calibration.wavelength,
            "FACTOR": np.where(calibration.mask, calibration.cal_factor, np.nan),
            "VARIANCE": np.where(calibration.mask, calibration.cal_variance, np.nan),
            "GOOD": calibration.mask,
        }
    )
    for name, values in components.items():
        values = np.asarray(values, np.float64)
        if values.shape != calibration.wavelength.shape:
            raise PogsonValueError(
                f"The component {name!r} has shape {values.shape}, the calibration "
                f"{calibration.wavelength.shape}."
            )
        table[name.upper()] = values
    hdu = fits.BinTableHDU(table, name="CALIBRATION")
    unit = _FACTOR_UNIT[str(calibration.meta.get("bunit") or "count")]
    hdu.header["TUNIT1"] = "Angstrom"
    hdu.header["TUNIT2"] = (unit, "flux = counts * FACTOR")
    hdu.header["TUNIT3"] = (u.Unit(unit) ** 2).to_string("fits")
    return hdu


def _fill_header(
    header: Any,
    stars: Sequence[Mapping[str, Any]],
    keywords: Mapping[str, Any],
    history: Iterable[str],
) -> None:
    import astropy

    from pogson._version import __version__

    used = [s for s in stars if s.get("used", True)]
    header["FLUXCAL"] = (True, "spectra are flux calibrated")
    header["FCALNSTR"] = (len(used), "standard stars used")
    header["FCALNREJ"] = (len(stars) - len(used), "standard stars rejected")
    header["CREATOR"] = f"pogson {__version__}"
    header["VERNUMPY"] = np.__version__
    header["VERASTRO"] = astropy.__version__
    for key, given in keywords.items():
        value, comment = given if isinstance(given, tuple) else (given, None)
        if isinstance(value, float | np.floating) and not np.isfinite(value):
            value = None
        try:
            header[key[:8].upper()] = (fits_text(value) if isinstance(value, str) else value,
                                       comment)  # fmt: skip
        except ValueError as error:
            raise PogsonValueError(f"The card {key!r} cannot be written: {error}") from error
    for star in stars:
        words = ", ".join(f"{k}={_short(v)}" for k, v in star.items())
        kind = "star" if star.get("used", True) else "rejected star"
        for line in textwrap.wrap(fits_text(f"{kind}: {words}"), 72, subsequent_indent="  "):
            header.add_history(line)
    for line in history:
        header.add_history(fits_text(line))


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float | np.floating) else str(value)
