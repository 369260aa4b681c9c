"""Files of stellar model spectra: SDSS Kurucz grid, DESI templates, BOSZ, FITS and HDF5 grids."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from pogson.errors import FileFormatError, MissingDataError, PogsonError, PogsonValueError, choices
from pogson.sed import air_to_vacuum
from pogson.spectro.line_spread import LineSpread

__all__ = ["parse_bosz_filename", "read_library"]

# bosz2024_mp_t5000_g+5.0_m+0.00_a+0.00_c+0.00_v0_r10000_resam.txt.gz
_BOSZ = re.compile(
    r"bosz2024_(?P<atmos>[a-z]{2})_t(?P<teff>\d+)_g(?P<logg>[+-][\d.]+)_m(?P<feh>[+-][\d.]+)"
    r"_a(?P<alpha>[+-][\d.]+)_c(?P<carbon>[+-][\d.]+)_v(?P<vmicro>[\d.]+)"
    r"_(?P<resolution>r\d+|rorig)_(?P<product>resam|noresam)\.txt(\.gz)?$"
)
_MEDIA = {"vac": "vacuum", "vacuum": "vacuum", "air": "air"}


def parse_bosz_filename(filename: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the parameters in the name of a BOSZ file, or None for another name.

    Parameters
    ----------
    filename : str or path-like
        Its folder is ignored.

    Notes
    -----
    Names of the 2024 library, Meszaros et al. (2024, A&A 688, A197).

    Examples
    --------
    >>> name = "bosz2024_mp_t6250_g+4.5_m-0.50_a+0.25_c+0.00_v2_r10000_resam.txt.gz"
    >>> found = parse_bosz_filename(name)
    >>> found["teff"], found["logg"], found["feh"], found["alpha_m"], found["resolution"]
    (6250.0, 4.5, -0.5, 0.25, 'r10000')
    >>> parse_bosz_filename("notes.txt") is None
    True
    """
    match = _BOSZ.match(Path(filename).name)
    if match is None:
        return None
    number = {
        "teff": "teff",
        "logg": "logg",
        "feh": "feh",
        "alpha_m": "alpha",
        "carbon_m": "carbon",
        "vmicro": "vmicro",
    }
    out: dict[str, Any] = {name: float(match[group]) for name, group in number.items()}
    return out | {k: match[k] for k in ("atmos", "resolution", "product")}


def read_library(
    path: str | os.PathLike[str],
    resolution: str = "r10000",
    wave_range: tuple[float, float] | None = (3000.0, 11000.0),
    medium: str | None = None,
) -> dict[str, Any]:
    """Return the arguments of `TemplateLibrary.from_arrays` for a file or folder.

    Parameters
    ----------
    path : path-like
        See `TemplateLibrary`.
    resolution : str, optional
        For folders of BOSZ files.
    wave_range : (float, float), optional
        Wavelengths kept (vacuum Angstrom).
    medium : {"vacuum", "air"}, optional
        For files that do not say it themselves.

    Raises
    ------
    MissingDataError
        If there is no such file, or the folder holds no spectra.
    FileFormatError
        If a file cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> read_library(tempfile.mkdtemp())
    Traceback (most recent call last):
    ...
    pogson.errors.MissingDataError: The folder ... holds no BOSZ spectra of resolution 'r10000' ...
    """
    path = Path(path)
    if medium is not None and medium not in _MEDIA:
        raise PogsonValueError(f"Unknown medium {medium!r}; allowed: 'vacuum' or 'air'.")
    if not path.exists():
        raise MissingDataError(f"There is no template library {path}.")
    try:
        if path.is_dir():
            found = _read_bosz(path, resolution, wave_range, medium)
        elif path.suffix in (".h5", ".hdf5", ".hdf"):
            found = _read_hdf5(path, medium)
        else:
            found = _read_fits(path, medium)
    except PogsonError:
        raise
    except (OSError, KeyError, ValueError, TypeError, IndexError, EOFError) as error:
        raise FileFormatError(f"Cannot read the template library {path}: {error}") from error
    found["wavelength"] = np.asarray(found["wavelength"], np.float64)
    return _cut(found, path, wave_range)


def _cut(
    found: dict[str, Any], path: Path, wave_range: tuple[float, float] | None
) -> dict[str, Any]:
    """Return the library with only the wavelengths asked for."""
    lam = found["wavelength"]
    keep = np.ones(lam.size, bool)
    if wave_range is not None:
        keep = (lam >= wave_range[0]) & (lam <= wave_range[1])
    if keep.sum() < 2:
        raise MissingDataError(
            f"The library {path} ({lam[0]:g}-{lam[-1]:g} Angstrom) has nothing within {wave_range}."
        )
    for name in ("flux", "continuum", "basis"):
        if found.get(name) is not None:
            found[name] = np.asarray(found[name])[..., keep]
    found["wavelength"] = lam[keep]
    return found


def _vacuum(lam: Any, said: Any, given: str | None, path: Path) -> np.ndarray:
    """Return vacuum wavelengths; what the file says wins, silence on both sides is an error."""
    word = _MEDIA.get(str(said).strip().lower()) if said is not None else given
    if word is None:
        raise PogsonValueError(
            f"{path} does not say whether its wavelengths are in vacuum or in air (AIRORVAC in "
            f"FITS, the attribute 'medium' in HDF5); give medium='vacuum' or medium='air'."
        )
    lam = np.asarray(lam, np.float64)
    return lam if word == "vacuum" else np.asarray(air_to_vacuum(lam))


# ---- FITS ----------------------------------------------------------------------------------------


def _read_fits(path: Path, medium: str | None) -> dict[str, Any]:
    from astropy.io import fits

    with path.open("rb") as stream, fits.open(stream, memmap=False) as hdus:
        names = [h.name for h in hdus]
        if "BASIS_VECTORS" in names:
            return _read_desi_basis(hdus, path)
        if len(hdus) > 1 and getattr(hdus[1], "columns", None) is not None:
            columns = {c.upper() for c in hdus[1].columns.names}
            if {"MODEL", "TEFF", "FEH", "G"} <= columns:
                return _read_sdss(hdus, path)
        if "WAVELENGTH" in names:
            return _read_fits_grid(hdus, path, medium)
        raise FileFormatError(
            f"{path} is no library of a known layout. Known: SDSS kurucz_stds_v5.fit, DESI "
            f"rrtemplate-STAR-*.fits, and a grid with extensions FLUX (n_model, n), WAVELENGTH "
            f"(n,) and a table PARAMETERS with TEFF, LOGG, FEH. Found extensions "
            f"{choices(names)}."
        )


def _read_sdss(hdus: Any, path: Path) -> dict[str, Any]:
    """Kurucz models of idlspec2d: log10 vacuum wavelengths, at about the resolution of SDSS."""
    header, table = hdus[0].header, hdus[1].data
    flux = np.array(hdus[0].data, np.float64)
    step = float(header["CD1_1"])
    lam = 10 ** (float(header["CRVAL1"]) + step * (np.arange(flux.shape[1]) + 1 - header["CRPIX1"]))
    # The last samples are empty.
    full = np.all(flux > 0, axis=0)
    keep = slice(int(np.argmax(full)), full.size - int(np.argmax(full[::-1])))
    lam, flux = lam[keep], flux[:, keep]
    native = None
    if len(hdus) > 2:
        row = hdus[2].data[0]
        # Sigma in pixels as a Legendre series in wavelength.
        x = (2 * lam - row["XMIN"] - row["XMAX"]) / (row["XMAX"] - row["XMIN"])
        sigma = np.polynomial.legendre.legval(np.clip(x, -1, 1), np.asarray(row["COEFF"], float))
        native = LineSpread.from_sigma(sigma * lam * step * np.log(10.0), lam)
    return {
        "wavelength": lam,
        "flux": flux,
        "teff": np.asarray(table["TEFF"], np.float64),
        "logg": np.asarray(table["G"], np.float64),
        "feh": np.asarray(table["FEH"], np.float64) + 0.0,
        "native": native,
        "sources": tuple(str(m).strip() for m in table["MODEL"]),
        "name": path.name,
    }


def _read_desi_basis(hdus: Any, path: Path) -> dict[str, Any]:
    """Templates of redrock: basis vectors and the coefficients of many stars, no parameters."""
    header = hdus["BASIS_VECTORS"].header
    basis = np.array(hdus["BASIS_VECTORS"].data, np.float64)
    lam = float(header["CRVAL1"]) + float(header["CDELT1"]) * np.arange(basis.shape[1])
    if header.get("LOGLAM"):
        lam = 10.0**lam
    coefficients = np.eye(basis.shape[0])
    if "ARCHETYPE_COEFF" in [h.name for h in hdus]:
        coefficients = np.array(hdus["ARCHETYPE_COEFF"].data, np.float64)
    return {"wavelength": lam, "coefficients": coefficients, "basis": basis, "name": path.name}


def _read_fits_grid(hdus: Any, path: Path, medium: str | None) -> dict[str, Any]:
    names = [h.name for h in hdus]
    flux = hdus["FLUX"] if "FLUX" in names else hdus[0]
    lam = hdus["WAVELENGTH"]
    said = lam.header.get("AIRORVAC", flux.header.get("AIRORVAC"))
    where = next((n for n in ("PARAMETERS", "METADATA") if n in names), None)
    if where is None or flux.data is None:
        raise FileFormatError(
            f"{path} has WAVELENGTH but lacks fluxes or a table PARAMETERS (or METADATA) with the "
            f"columns TEFF, LOGG, FEH."
        )
    table = hdus[where].data
    resolution = flux.header.get("RESOLUTN", lam.header.get("RESOLUTN"))
    return {
        "wavelength": _vacuum(lam.data, said, medium, path),
        "flux": np.array(flux.data, np.float64),
        **{k: np.asarray(table[k.upper()], np.float64) for k in ("teff", "logg", "feh")},
        "native": None if resolution is None else LineSpread.from_resolution(float(resolution)),
        "name": path.name,
    }


# ---- HDF5 ----------------------------------------------------------------------------------------


def _read_hdf5(path: Path, medium: str | None) -> dict[str, Any]:
    import h5py

    with h5py.File(path, "r") as file:
        missing = sorted({"wavelength", "flux", "teff", "logg", "feh"} - set(file))
        if missing:
            raise FileFormatError(f"The grid {path} lacks the data sets {choices(missing)}.")
        said = file.attrs.get("medium")
        said = said.decode() if isinstance(said, bytes) else said
        resolution = file.attrs.get("resolution")
        return {
            "wavelength": _vacuum(file["wavelength"][:], said, medium, path),
            "flux": file["flux"][:].astype(np.float64),
            **{k: file[k][:].astype(np.float64) for k in ("teff", "logg", "feh")},
            "alpha_m": file["alpha_m"][:] if "alpha_m" in file else 0.0,
            "continuum": file["continuum"][:] if "continuum" in file else None,
            "native": None if resolution is None else LineSpread.from_resolution(float(resolution)),
            "name": path.name,
        }


# ---- BOSZ ----------------------------------------------------------------------------------------


def _read_bosz(
    folder: Path, resolution: str, wave_range: tuple[float, float] | None, medium: str | None
) -> dict[str, Any]:
    """Read every BOSZ file below a folder; the files hold the Eddington flux and its continuum."""
    try:
        files = sorted(folder.rglob("bosz2024_*.txt*"))
    except OSError as error:
        raise FileFormatError(f"The folder {folder} cannot be listed: {error}") from error
    entries = [(f, p) for f in files if (p := parse_bosz_filename(f)) is not None]
    entries = [(f, p) for f, p in entries if p["resolution"] == resolution]
    if not entries:
        raise MissingDataError(
            f"The folder {folder} holds no BOSZ spectra of resolution {resolution!r} (names "
            f"such as bosz2024_mp_t6000_g+4.5_m+0.00_a+0.00_c+0.00_v2_{resolution}_resam.txt.gz); "
            f"it has {len(files)} other BOSZ files."
        )
    shared = None
    if any(p["product"] == "resam" for _, p in entries):
        shared = _bosz_wavelengths(folder, resolution)
    found = _bosz_arrays(folder, entries, shared, resolution, wave_range)
    return found | {"wavelength": _vacuum(found["wavelength"], None, medium or "vacuum", folder)}


def _bosz_wavelengths(folder: Path, resolution: str) -> np.ndarray:
    found = sorted(folder.rglob(f"bosz2024_wave_{resolution}.txt*"))
    if not found:
        raise MissingDataError(
            f"The wavelengths of the BOSZ spectra, bosz2024_wave_{resolution}.txt, are not in "
            f"{folder}; they are one file for all spectra of that resolution."
        )
    return _columns(found[0])[:, 0]


def _columns(path: Path) -> np.ndarray:
    try:
        return np.loadtxt(path, ndmin=2)
    except (OSError, ValueError, EOFError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{path} is not columns of numbers: {error}") from error


def _bosz_arrays(
    folder: Path,
    entries: list[tuple[Path, dict[str, Any]]],
    shared: np.ndarray | None,
    resolution: str,
    wave_range: tuple[float, float] | None,
) -> dict[str, Any]:
    grid, fluxes, continua = None, [], []
    for path, entry in entries:
        data = _columns(path)
        columns = 2 if entry["product"] == "resam" else 3
        lam = shared if columns == 2 else data[:, 0]
        if data.shape[1] < columns or lam is None or lam.size != data.shape[0]:
            raise FileFormatError(
                f"{path} has {data.shape[0]} rows of {data.shape[1]} columns; needed are {columns} "
                f"columns and {0 if lam is None else lam.size} rows."
            )
        keep = slice(None)
        if wave_range is not None:
            keep = (lam >= wave_range[0]) & (lam <= wave_range[1])  # type: ignore[assignment]
        lam = lam[keep]
        if grid is None:
            grid = lam
        elif lam.shape != grid.shape or not np.allclose(lam, grid, rtol=1e-9):
            raise FileFormatError(f"{path} is on another wavelength grid than {entries[0][0]}.")
        fluxes.append(4 * np.pi * data[keep, columns - 2])
        continua.append(4 * np.pi * data[keep, columns - 1])
    native = None
    if resolution != "rorig":
        native = LineSpread.from_resolution(float(resolution[1:]))
    keys = ("teff", "logg", "feh", "alpha_m")
    return {
        "wavelength": grid,
        "flux": np.array(fluxes),
        "continuum": np.array(continua),
        **{k: np.array([e[k] for _, e in entries]) for k in keys},
        "native": native,
        "sources": tuple(f.name for f, _ in entries),
        "name": folder.name,
    }
