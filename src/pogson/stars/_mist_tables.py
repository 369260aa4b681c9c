"""Isochrones and bolometric corrections of MIST as installed packages hold them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pogson.errors import FileFormatError, MissingDataError, PogsonValueError
from pogson.sed import extinction_curve
from pogson.stars.extinction_fit import RV_NODES, fit_extinction
from pogson.stars.grid import missing_name

ISOCHRONES = ("lachesis-grids", "lachesis_grids", "grids/mist_v2.5_vvcrit0.4.h5")
CORRECTIONS = ("astrolachesis", "lachesis", "Datafiles/BC_tables/bc_tables.h5")
VEGA_TABLES = ("UBVRIplus", "WISE")

SOLAR_MBOL = 4.74
"""Bolometric magnitude of the Sun (IAU 2015 resolution B2, rounded, as the corrections have it)."""

# Bands in the far ultraviolet have no wavelength of their own extinction on the monotonic part of
# the law: pivot wavelengths in micron.
_ULTRAVIOLET = {"GALEX_FUV": 0.1536, "GALEX_NUV": 0.2300}
# The law is inverted for wavelength in this range (micron); beyond it keeps its shape.
_OPTICAL = (0.30, 3.3)


def installed_file(what: tuple[str, str, str], given: Any) -> tuple[Path, str]:
    """Return the path of a data file and a word on its origin, without importing the package."""
    distribution, module, relative = what
    if given is not None:
        path = Path(given)
        if not path.is_file():
            raise MissingDataError(f"There is no file {path}.")
        return path, path.name
    spec = importlib.util.find_spec(module)
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    for folder in folders:
        path = Path(folder) / relative
        if path.is_file():
            version = importlib.metadata.version(distribution)
            return path, f"{distribution} {version}: {relative}"
    raise MissingDataError(
        f"The data of the package {distribution!r} are not installed. Install them with 'pip "
        f"install --no-deps astrolachesis lachesis-grids' (100 MB; only their data files are "
        f"read), or give the path of {Path(relative).name}."
    )


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def opened(path: str | os.PathLike[str]) -> Any:
    """Return an HDF5 file opened for reading."""
    import h5py

    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise FileFormatError(f"Cannot open {os.fspath(path)} as HDF5: {error}") from error


@dataclass(frozen=True, eq=False)
class Isochrones:
    """Isochrones on a dense lattice of (metallicity, age, EEP); NaN where there is no star.

    ``values`` has the last axis (log10 initial mass, log L, log Teff, log g); ``eep`` counts up
    in steps of one.
    """

    feh: np.ndarray
    log_age: np.ndarray
    eep: np.ndarray
    values: np.ndarray


_COLUMNS = ("initial_mass", "log_L", "log_Teff", "log_g")


def read_isochrones(path: Path, eep_range: tuple[int, int]) -> Isochrones:
    """Read isochrones stored as runs of EEPs, one run a metallicity and age."""
    with opened(path) as file:
        storage = file.attrs.get("storage")
        if storage != "sparse_v1":
            raise FileFormatError(
                f"{path} has storage {storage!r}; only 'sparse_v1' of lachesis-grids is known."
            )
        columns = [str(c) for c in file.attrs["columns"]]
        missing = [c for c in _COLUMNS if c not in columns]
        if missing:
            raise FileFormatError(f"{path} has no columns {missing}; it has {columns}.")
        values = file["values"][:][:, [columns.index(c) for c in _COLUMNS]]
        first, length = file["offsets"][:], file["lengths"][:]
        feh, log_age, axis = (file[n][:] for n in ("feh_values", "age_values", "eep_values"))
    if np.sum(length) != len(values) or first.size != feh.size * log_age.size:
        raise FileFormatError(f"The runs of {path} do not add up to its {len(values)} rows.")
    if not np.all(np.diff(axis) == 1):
        raise FileFormatError(f"The EEPs of {path} do not count up in steps of one.")
    low, high = eep_range
    if low < axis[0] or high > axis[-1]:
        raise PogsonValueError(
            f"EEPs {low} to {high} asked for; the isochrones have {axis[0]:g} to {axis[-1]:g}."
        )
    eep = np.arange(low, high + 1)
    dense = np.full((first.size, eep.size, 4), np.nan)
    # rows of all runs at once: which run, and which EEP
    run = np.repeat(np.arange(first.size), length)
    begin = np.concatenate([[0], np.cumsum(length)[:-1]])
    place = np.arange(len(values)) - begin[run] + first[run] + int(axis[0]) - low
    kept = (place >= 0) & (place < eep.size)
    dense[run[kept], place[kept]] = values[kept]
    with np.errstate(invalid="ignore"):
        dense[..., 0] = np.log10(dense[..., 0])
    return Isochrones(feh, log_age, eep, dense.reshape(feh.size, log_age.size, eep.size, 4))


@dataclass(frozen=True, eq=False)
class Corrections:
    """Coefficients of bands on a lattice of (metallicity, log Teff, log g).

    ``values`` has shape (n_feh, n_teff, n_logg, n_bands, 4): minus the bolometric correction
    without extinction, c1, c2 and the error of the formula.
    """

    feh: np.ndarray
    log_teff: np.ndarray
    logg: np.ndarray
    bands: tuple[str, ...]
    systems: dict[str, str]
    values: np.ndarray


def available_bands(path: Path) -> dict[str, str]:
    """Return the bands of a file of bolometric corrections and the table each is in."""
    with opened(path) as file:
        return {b.decode(): table for table in sorted(file) for b in file[table]["band_names"][:]}


def near(axis: np.ndarray, asked: Sequence[float]) -> slice:
    """Return the part of an axis that holds values asked for and two nodes around them."""
    first = int(np.searchsorted(axis, min(asked), side="right")) - 3
    last = int(np.searchsorted(axis, max(asked))) + 3
    return slice(max(first, 0), min(last, axis.size))


def _axes(group: Any, name: str, path: Path) -> tuple[np.ndarray, ...]:
    """Return the values of A_V, Teff and log g of a table, checking that it is a full lattice."""
    first = group["data"][0, :, :5].astype(np.float64)
    axes = tuple(np.unique(first[:, j]) for j in (3, 0, 1))
    if int(np.prod([a.size for a in axes])) != len(first) or np.abs(first[:, 4] - 3.1).max() > 1e-6:
        raise FileFormatError(
            f"Table {name!r} of {path} is not a full lattice in A_V, Teff and log g at R_V 3.1."
        )
    mesh = np.stack([m.ravel() for m in np.meshgrid(*axes, indexing="ij")])
    if not np.array_equal(first[:, [3, 0, 1]].T, mesh):
        raise FileFormatError(f"The rows of table {name!r} of {path} are not in the known order.")
    return axes


def law_curve(law: str, rv: float, micron: Any) -> np.ndarray:
    """Return A(lambda) / A_V of a law at wavelengths in micron."""
    return extinction_curve(np.asarray(micron, np.float64) * 1e4, r_v=rv, law=law) / rv


def law_ratio(law: str, band: str, k: np.ndarray) -> np.ndarray:
    r"""Extinction at each of `RV_NODES` over that at 3.1, at the wavelength with extinction k.

    The wavelength is where the law of Cardelli, Clayton & Mathis (1989), which the corrections
    were computed with, has :math:`A_\lambda / A_V = k` at :math:`R_V = 3.1`.
    """
    wavelength = np.geomspace(*_OPTICAL, 400)
    at = np.stack([law_curve(law, r, wavelength) for r in (3.1, *RV_NODES)])
    ratio = at[1:] / at[0]
    if band in _ULTRAVIOLET:
        there = np.array([law_curve(law, r, _ULTRAVIOLET[band]) for r in (3.1, *RV_NODES)])
        return np.broadcast_to(there[1:] / there[0], (*k.shape, len(RV_NODES)))
    used = law_curve("CCM89", 3.1, wavelength)
    place = np.interp(-k, -used, np.log(wavelength))
    return np.stack([np.interp(place, np.log(wavelength), r) for r in ratio], axis=-1)


def _coefficients(table: np.ndarray, av: np.ndarray, band: str, law: str) -> np.ndarray:
    """Return (c0, c1, c2, error) from corrections of one band, shaped (feh, av, teff, logg)."""
    bare = table[:, 0].astype(np.float64)
    change = np.moveaxis(bare[:, None] - table[:, 1:], 1, -1)  # (feh, teff, logg, av)
    k = (change @ av) / (av @ av)
    ratio = law_ratio(law, band, k)
    extinction = change[..., None] + av[:, None] * (k[..., None] * (ratio - 1.0))[..., None, :]
    c1, c2, error = fit_extinction(extinction, av, RV_NODES)
    return np.stack([-bare, c1, c2, error], axis=-1)


def check_asked(path: Path, bands: Sequence[str], law: str) -> dict[str, str]:
    """Return the table of each band there is, or raise if one asked for or the law is unknown."""
    there = available_bands(path)
    for band in bands:
        if band not in there:
            raise missing_name(band, there, "filter", "The table of bolometric corrections")
    law_curve(law, 3.1, _OPTICAL)
    return there


def read_corrections(
    path: Path,
    bands: tuple[str, ...],
    law: str,
    av_max: float,
    teff_range: tuple[float, float],
    feh_asked: Sequence[float],
) -> Corrections:
    """Read bolometric corrections of some bands and reduce them to coefficients.

    The lattice in temperature is refined with modified Akima splines, since corrections of cool
    stars bend by up to 0.015 mag between the published temperatures.
    """
    from scipy.interpolate import Akima1DInterpolator

    there = check_asked(path, bands, law)
    out: dict[str, np.ndarray] = {}
    lattices = []
    with opened(path) as file:
        for name in sorted({there[b] for b in bands}):
            group = file[name]
            all_av, teff, logg = _axes(group, name, path)
            feh = group["feh_values"][:]
            part = near(feh, feh_asked)
            feh = feh[part]
            lattices.append((feh, teff, logg))
            n_av = int(np.sum(all_av <= av_max + 1e-6))
            if n_av < 3:
                raise PogsonValueError(
                    f"av_max={av_max:g} leaves {n_av - 1} values of A_V to fit; the corrections "
                    f"are at {np.round(all_av, 3).tolist()}."
                )
            names = [b.decode() for b in group["band_names"][:]]
            used = n_av * teff.size * logg.size
            for band in (b for b in bands if there[b] == name):
                column = group["data"][part, :used, 5 + names.index(band)]
                table = column.reshape(feh.size, n_av, teff.size, logg.size)
                out[band] = _coefficients(table, all_av[1:n_av], band, law)
    if any(not np.array_equal(a, b) for t in lattices for a, b in zip(t, lattices[0], strict=True)):
        raise FileFormatError(f"The tables of {path} are not on one lattice.")
    values = np.stack([out[b] for b in bands], axis=3)
    log_teff = np.log10(teff)
    fine = np.unique(np.concatenate([log_teff, np.arange(log_teff[0], 5.0, 0.004)]))
    fine = fine[(fine >= np.log10(teff_range[0])) & (fine <= np.log10(teff_range[1]))]
    values = Akima1DInterpolator(log_teff, values, axis=1, method="makima")(fine)
    values[..., 3] = np.maximum(values[..., 3], 0.0)
    systems = {b: "Vega" if there[b] in VEGA_TABLES else "AB" for b in bands}
    return Corrections(feh, fine, logg, bands, systems, np.asarray(values, np.float32))
