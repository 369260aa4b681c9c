"""Spectra in plain FITS, ECSV and specutils objects; the reader that finds out which."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np

from pogson.errors import FileFormatError, PogsonValueError, UnitMismatchError, choices
from pogson.formats.fits_access import describe_hdus, merged_header, open_fits, reading
from pogson.formats.spectra_targets import fibre_labels, table_labels
from pogson.spectro import FibreSpectra, PixelMask

__all__ = ["from_specutils", "read_fibre_spectra"]

_MEDIA = {"vac": "vacuum", "vacuum": "vacuum", "air": "air"}
_WAVELENGTH = ("wavelength", "wave", "lambda", "lam", "loglam")
_COUNTS = ("counts", "flux", "spectrum", "data")
_NOISE = ("ivar", "variance", "var", "error", "err", "uncertainty", "sigma", "stat")
_MASK = ("mask", "dq", "flags")
_LSF = ("lsf_sigma", "lsf", "wdisp_angstrom")


def _ivar(values: Any, kind: str) -> np.ndarray:
    """Return inverse variances of a column by the name it had."""
    values = np.asarray(values, np.float64)
    if kind == "ivar":
        return values
    variance = values if kind in ("variance", "var") else values**2
    if np.any(variance < 0):
        raise PogsonValueError(
            f"{int((variance < 0).sum())} variances are negative, the lowest {variance.min():g}."
        )
    ok = np.isfinite(variance) & (variance > 0)
    return np.where(ok, 1.0 / np.where(ok, variance, 1.0), 0.0)


def _medium(said: Any, given: str | None, path: Any) -> str:
    word = _MEDIA.get(str(said).strip().lower()) if said is not None else None
    if word and given and word != given:
        raise PogsonValueError(f"{path} says its wavelengths are in {word}, not in {given}.")
    if not (word or given):
        raise PogsonValueError(
            f"{path} does not say whether its wavelengths are in vacuum or in air; give "
            f"medium='vacuum' or medium='air'. The difference is 80 km/s."
        )
    if given and given not in _MEDIA.values():
        raise PogsonValueError(f"Unknown medium {given!r}; allowed: 'vacuum' or 'air'.")
    return str(word or given)


def _unit(text: Any, path: Any) -> str:
    """Return the count unit of a frame from the unit a file gives."""
    if text is None or not str(text).strip():
        return "count"
    word = str(text).strip().lower()
    for name in ("electrons", "electron", "photons", "photon", "counts", "adu", "dn", "ct"):
        word = word.replace(name, "count") if name in word and "count" not in word else word
    try:
        unit = u.Unit(
            word.replace("counts", "count")
            .replace("angstroms", "Angstrom")
            .replace("angstrom", "Angstrom")
        )
    except ValueError as error:
        raise UnitMismatchError(f"{path}: the unit {text!r} is not understood.") from error
    for known in ("count", "count/s", "count/Angstrom", "count/s/Angstrom"):
        if unit == u.Unit(known):
            return known
    raise UnitMismatchError(
        f"{path} is in {text!r}; a frame to calibrate is in counts (per s, per Angstrom)."
    )


def read_fibre_spectra(
    path: str | os.PathLike[str],
    *,
    medium: str | None = None,
    exposure_time: float | None = None,
    airmass: float | None = None,
) -> FibreSpectra:
    """Read a frame of fibre spectra of any layout known.

    Parameters
    ----------
    path : path-like
        A DESI frame; a FITS file with an image (n_fibre, n_pixel) in FLUX, COUNTS or the primary
        extension, noise in IVAR, VARIANCE or ERROR, wavelengths in WAVELENGTH or in the WCS cards;
        a FITS or ECSV table with columns wavelength (or loglam), counts (or flux), ivar (or
        variance, error), perhaps mask, lsf_sigma and fibre. Files of SDSS hold several exposures:
        see `read_sdss_exposures`.
    medium : {"vacuum", "air"}, optional
        Needed where the file does not say (AIRORVAC, VACUUM, or CTYPE1 of WAVE or AWAV).
    exposure_time, airmass : float, optional
        Where the file does not say (EXPTIME, AIRMASS) or is wrong.

    Returns
    -------
    frame : FibreSpectra
        On vacuum wavelengths.

    Raises
    ------
    FileFormatError
        If the file is damaged or parts are missing.
    PogsonValueError
        If neither file nor caller says air or vacuum, or shapes differ.
    UnitMismatchError
        If it is not in counts.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from astropy.table import Table
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "star.ecsv"
    >>> Table(
    ...     {"wavelength": [5000.0, 5001.0], "counts": [10.0, 11.0], "error": [1.0, 2.0]}
    ... ).write(path)
    >>> read_fibre_spectra(path, medium="vacuum").ivar
    array([[1.  , 0.25]])
    """
    path = Path(path)
    if path.suffix.lower() in (".ecsv", ".csv", ".txt", ".dat"):
        parts = _read_text(path)
    else:
        with open_fits(path) as hdus:
            parts = _read_hdus(hdus, path)
    if isinstance(parts, FibreSpectra):  # of DESI and SDSS, always in vacuum
        _medium("vacuum", medium, path)
        given = {"exposure_time": exposure_time, "airmass": airmass}
        known = {k: float(v) for k, v in given.items() if v is not None}
        return replace(parts, **known) if known else parts  # type: ignore[arg-type]
    parts["medium"] = _medium(parts.pop("said"), medium, path)
    meta: dict[str, Any] = {k: parts.pop(k) for k in ("ra", "dec", "standard") if k in parts}
    for name, value in (("exposure_time", exposure_time), ("airmass", airmass)):
        if value is not None:
            parts[name] = float(value)
    return FibreSpectra(**parts, meta={**meta, "source": path.name})


def _read_hdus(hdus: Any, path: Path) -> Any:
    from pogson.formats.spectra_desi import is_desi_frame, read_desi_frame
    from pogson.formats.spectra_sdss import is_sdss_spectrum
    from pogson.formats.spectra_sdss_frame import is_sdss_frame, read_sdss_frame

    if is_desi_frame(hdus):
        return read_desi_frame(path)
    if is_sdss_frame(hdus):
        return read_sdss_frame(path)
    if is_sdss_spectrum(hdus):
        raise FileFormatError(
            f"{path} is an SDSS spectrum; read_sdss_exposures gives its exposures as frames and "
            f"read_sdss_coadd its calibrated coadd."
        )
    images = {
        h.name.lower(): h for h in hdus if getattr(h, "is_image", False) and h.data is not None
    }
    for name in ("primary", ""):
        if name in images and not set(_COUNTS) & set(images):
            images["counts"] = images[name]
    counts = next((images[n] for n in _COUNTS if n in images), None)
    if counts is not None:
        parts = _from_images(images, counts, merged_header(hdus, counts), path)
        return parts | fibre_labels(hdus, parts["counts"].shape[0], path)
    for hdu in hdus[1:]:
        if getattr(hdu, "columns", None) is not None:
            header = merged_header(hdus, hdu)
            data = {n.lower(): np.asarray(hdu.data[n]) for n in hdu.columns.names}
            units = {c.name.lower(): c.unit for c in hdu.columns}
            return _from_columns(data, units, header, path)
    raise FileFormatError(f"{path} holds no spectra that can be told: {describe_hdus(hdus)}.")


def _from_images(images: dict[str, Any], counts: Any, header: Any, path: Path) -> dict[str, Any]:
    kind = next((n for n in _NOISE if n in images), None)
    if kind is None:
        raise FileFormatError(
            f"{path} has spectra but no noise: one of the extensions "
            f"{choices([n.upper() for n in _NOISE])} is needed."
        )
    data = np.atleast_2d(np.asarray(counts.data, np.float64))
    said = header.get("AIRORVAC")
    name = next((n for n in _WAVELENGTH if n in images), None)
    if name is not None:
        lam = np.asarray(images[name].data, np.float64)
        said = said or images[name].header.get("AIRORVAC")
        unit = images[name].header.get("BUNIT")
        lam = 10.0**lam if name == "loglam" else lam * _to_angstrom(unit, path)
    else:
        lam, ctype = _wcs_wavelength(header, data.shape[1], path)
        said = said or {"WAVE": "vacuum", "AWAV": "air"}.get(ctype)
    if said is None and isinstance(header.get("VACUUM"), bool):
        said = "vacuum" if header["VACUUM"] else "air"
    mask = next((images[n].data for n in _MASK if n in images), None)
    lsf = next((np.asarray(images[n].data, np.float64) for n in _LSF if n in images), None)
    flags = None if mask is None else np.where(np.asarray(mask) != 0, int(PixelMask.FLAGGED), 0)
    return {
        "wavelength": lam,
        "counts": data,
        "ivar": _ivar(np.atleast_2d(images[kind].data), kind),
        "mask": flags,
        "lsf_sigma": lsf,
        "exposure_time": _card(header, "EXPTIME", path),
        "airmass": _card(header, "AIRMASS", path),
        "unit": _unit(header.get("BUNIT"), path),
        "said": said,
    }


def _card(header: Any, name: str, path: Any) -> float:
    """Return a number of a header, NaN where it is missing or undefined."""
    value = header.get(name)
    if value is None or not str(value).strip() or type(value).__name__ == "Undefined":
        return float("nan")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise FileFormatError(
            f"{path}: {name} is {value!r}, which is no number; correct it or leave it out."
        ) from None


def _to_angstrom(unit: Any, path: Any) -> float:
    if unit is None or not str(unit).strip():
        return 1.0
    try:
        return float(u.Unit(str(unit).replace("angstroms", "Angstrom")).to(u.AA))
    except (ValueError, u.UnitConversionError) as error:
        raise UnitMismatchError(f"{path}: wavelengths are in {unit!r}, no length.") from error


def _wcs_wavelength(header: Any, n: int, path: Path) -> tuple[np.ndarray, str]:
    """Return wavelengths from CRVAL1, CRPIX1 and CDELT1 or CD1_1, linear or logarithmic."""
    step = header.get("CDELT1", header.get("CD1_1"))
    if "CRVAL1" not in header or step is None:
        raise FileFormatError(
            f"{path} has no extension WAVELENGTH and no CRVAL1 with CDELT1 or CD1_1: its "
            f"wavelengths are unknown."
        )
    offset = np.arange(n) + 1.0 - float(header.get("CRPIX1", 1.0))
    ctype = str(header.get("CTYPE1", "")).upper()
    scale = _to_angstrom(header.get("CUNIT1"), path)
    start, step = float(header["CRVAL1"]), float(step)
    if ctype.endswith("-LOG"):
        return start * np.exp(offset * step / start) * scale, ctype[:4]
    lam = start + offset * step
    if header.get("DC-FLAG") == 1 or lam[-1] < 10:
        lam = 10.0**lam
    return lam * scale, ctype[:4]


def _read_text(path: Path) -> dict[str, Any]:
    from astropy.table import Table

    with reading(path, "a table of a spectrum"):
        if not path.is_file():
            raise FileFormatError(f"{path} does not exist.")
        style = "ascii.ecsv" if path.suffix.lower() == ".ecsv" else "ascii"
        table = Table.read(path, format=style)
    data = {n.lower(): np.ma.filled(np.ma.asarray(table[n].data), np.nan) for n in table.colnames}
    units = {n.lower(): table[n].unit for n in table.colnames}
    return _from_columns(data, units, {str(k).upper(): v for k, v in table.meta.items()}, path)


def _from_columns(
    data: dict[str, np.ndarray], units: dict[str, Any], header: Any, path: Path
) -> dict[str, Any]:
    name = next((n for n in _WAVELENGTH if n in data), None)
    values = next((n for n in _COUNTS if n in data), None)
    kind = next((n for n in _NOISE if n in data), None)
    if name is None or values is None or kind is None:
        raise FileFormatError(
            f"{path} needs columns for wavelength ({choices(_WAVELENGTH)}), counts "
            f"({choices(_COUNTS)}) and noise ({choices(_NOISE)}); it has {choices(sorted(data))}."
        )
    columns = {n: data[n] for n in (name, values, kind) if n}
    optional = {"mask": _MASK, "lsf_sigma": _LSF}
    for key, names in optional.items():
        found = next((n for n in names if n in data), None)
        columns |= {} if found is None else {key: data[found]}
    labels = table_labels(data) if "fibre_ids" in table_labels(data) else {}
    if labels and np.ndim(columns[values]) == 1:
        first, columns = _by_fibre(labels["fibre_ids"], columns, path)
        labels = {k: _pick(v, first) for k, v in labels.items()}
    elif np.ndim(columns[name]) == 1 and np.ndim(columns[values]) == 2:
        # one row a pixel, as specutils writes spectra that share their wavelengths
        columns = {n: np.asarray(v).T if np.ndim(v) == 2 else v for n, v in columns.items()}
        labels = {}
    if kind == "uncertainty":
        kind = _uncertainty(units[kind], units[values])
        columns[kind] = columns.pop("uncertainty")
    lam = np.asarray(columns[name], np.float64)
    lam = 10.0**lam if name == "loglam" else lam * _to_angstrom(units[name], path)
    said = header.get("AIRORVAC", header.get("MEDIUM"))
    if said is None and isinstance(header.get("VACUUM"), bool):
        said = "vacuum" if header["VACUUM"] else "air"
    flags = None
    if "mask" in columns:
        flags = np.where(np.asarray(columns["mask"]) != 0, int(PixelMask.FLAGGED), 0)
    return {
        "wavelength": lam,
        "counts": np.atleast_2d(np.asarray(columns[values], np.float64)),
        "ivar": _ivar(np.atleast_2d(columns[kind]), kind),
        "mask": flags,
        "lsf_sigma": columns.get("lsf_sigma"),
        "exposure_time": _card(header, "EXPTIME", path),
        "airmass": _card(header, "AIRMASS", path),
        **labels,
        "unit": _unit(units[values], path),
        "said": said,
    }


def _pick(values: Any, index: np.ndarray) -> Any:
    if isinstance(values, tuple):
        return tuple(values[i] for i in index)
    return np.asarray(values)[index]


def _uncertainty(unit: Any, of: Any) -> str:
    """Return what a column "uncertainty" is, from its unit beside that of the counts."""
    try:
        powers = {1: "error", 2: "variance", -2: "ivar"}
        one, other = u.Unit(of or ""), u.Unit(unit or "")
        found = [word for power, word in powers.items() if other == one**power]
    except ValueError:
        found = []
    return found[0] if found else "error"


def _by_fibre(
    fibre: np.ndarray, columns: dict[str, np.ndarray], path: Path
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return columns of a long table as (n_fibre, n_pixel) arrays."""
    ids, first, count = np.unique(fibre, return_index=True, return_counts=True)
    if np.unique(count).size != 1:
        raise FileFormatError(
            f"{path}: the fibres have different numbers of pixels ({count.min()} to "
            f"{count.max()}); pad them with NaN."
        )
    order = np.argsort(fibre, kind="stable")
    shape = (ids.size, int(count[0]))
    return first, {n: np.asarray(v)[order].reshape(shape) for n, v in columns.items()}


def from_specutils(spectrum: Any, *, medium: str | None = None, **known: Any) -> FibreSpectra:
    """Return a frame from a specutils spectrum (one, or many on one spectral axis).

    Parameters
    ----------
    spectrum : specutils.Spectrum or Spectrum1D
        Flux in counts (or without unit), with an uncertainty.
    medium : {"vacuum", "air"}, optional
        specutils does not record it; required unless ``spectrum.meta`` has AIRORVAC.
    **known : optional
        ``exposure_time``, ``airmass``, ``fibre_ids``, ``names``, ``lsf_sigma``.

    Raises
    ------
    PogsonValueError
        If there is no uncertainty, or air or vacuum is not said.
    UnitMismatchError
        If the flux is not in counts.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> import astropy.nddata as nd
    >>> like = SimpleNamespace(
    ...     spectral_axis=[500.0, 500.1] * u.nm, flux=[10.0, 11.0] * u.ct, mask=None, meta={},
    ...     uncertainty=nd.StdDevUncertainty([1.0, 2.0]),
    ... )
    >>> from_specutils(like, medium="vacuum").wavelength
    array([5000., 5001.])
    """
    if spectrum.uncertainty is None:
        raise PogsonValueError("The spectrum has no uncertainty; without noise nothing is fitted.")
    lam = np.asarray(u.Quantity(spectrum.spectral_axis).to_value(u.AA, u.spectral()), np.float64)
    kinds = {"std": "error", "var": "variance", "ivar": "ivar"}
    kind = kinds.get(spectrum.uncertainty.uncertainty_type)
    if kind is None:
        raise PogsonValueError(
            f"Uncertainties of type {spectrum.uncertainty.uncertainty_type!r} are not understood; "
            f"allowed: {choices(sorted(kinds))}."
        )
    order = np.argsort(lam)
    flux = np.atleast_2d(u.Quantity(spectrum.flux).value)
    unit = u.Quantity(spectrum.flux).unit
    noise = np.atleast_2d(np.asarray(spectrum.uncertainty.array, np.float64))
    flags = None
    if spectrum.mask is not None:
        flags = np.where(np.atleast_2d(spectrum.mask), int(PixelMask.FLAGGED), 0)[:, order]
    header = {str(k).upper(): v for k, v in dict(spectrum.meta).items()}
    return FibreSpectra(
        lam[order],
        flux[:, order],
        _ivar(noise[:, order], kind),
        flags,
        unit=_unit(None if unit == u.dimensionless_unscaled else unit.to_string(), "the spectrum"),
        medium=_medium(header.get("AIRORVAC"), medium, "The spectrum"),  # type: ignore[arg-type]
        **known,
    )
