"""Frame, standard stars, filter curves and templates of a flux calibration, read and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np

from pogson.errors import (
    ConfigError,
    FileFormatError,
    MissingDataError,
    PogsonError,
    PogsonValueError,
    choices,
)
from pogson.formats.spectra_targets import NO_FIBRE, table_labels
from pogson.run.fluxcal_columns import as_numbers, standards_columns
from pogson.run.fluxcal_config import FluxCalConfigFile, FrameConfig, StandardsConfig
from pogson.sed import FilterCurve, load_filter_curve
from pogson.spectro import FibreSpectra, LineSpread, Photometry, vega_to_ab

__all__ = ["StandardStars", "read_frame", "read_standards"]

_ERROR_NAMES = ("{}_err", "{}_error", "e_{}", "err_{}", "{}err", "{}_Err", "sigma_{}", "{}_sigma")
_FAINTEST = 60.0  # |magnitude| beyond which a value is a code for "not measured"
_MAP = (("ebv", "ebv_error"), ("ebv", "ebv_err"), ("e_bv", "e_bv_error"))


@dataclass(frozen=True)
class StandardStars:
    """The standard stars of a frame and their photometry.

    Parameters
    ----------
    stars : tuple of (int, str, Photometry)
        Fibre, name and AB magnitudes of every star that can be used.
    lost : dict of str to str
        Stars that cannot, and why.
    matched_by : str
        "fibre", "name" or "position".
    systems : dict of str to str
        System in which the magnitudes of each band were said to be.
    curves : dict of str to FilterCurve
        Filter curves.
    notes : tuple of str
        What else deserves to be said.

    Examples
    --------
    >>> StandardStars((), {}, "name", {}, {}).notes
    ()
    """

    stars: tuple[tuple[int, str, Photometry], ...]
    lost: dict[str, str]
    matched_by: str
    systems: dict[str, str]
    curves: dict[str, FilterCurve]
    notes: tuple[str, ...] = field(default=())


def read_frame(config: FrameConfig, path: Path) -> FibreSpectra:
    """Read a frame and complete it with what the configuration says.

    Parameters
    ----------
    config : FrameConfig
        Section ``[frame]``.
    path : pathlib.Path
        The file.

    Raises
    ------
    PogsonError
        If the file cannot be read, or says too little.
    """
    from pogson.formats import read_fibre_spectra

    known = {"exposure_time": config.exposure_time, "airmass": config.airmass}
    if path.suffix.lower() not in (".ecsv", ".csv", ".txt", ".dat") and _is_sdss(path):
        if config.medium == "air":
            raise ConfigError(f"frame.medium is 'air', but SDSS spectra ({path}) are in vacuum.")
        frame = _sdss_exposure(path, config.extension)
        frame = replace(frame, **{k: v for k, v in known.items() if v is not None})  # type: ignore[arg-type]
    else:
        frame = read_fibre_spectra(path, medium=config.medium, **known)
    spread = None
    if config.resolution is not None:
        spread = LineSpread.from_resolution(config.resolution)
    elif config.fwhm is not None:
        spread = LineSpread.from_fwhm(config.fwhm)  # type: ignore[arg-type]
    if spread is not None:
        frame = replace(frame, lsf_sigma=np.asarray(spread.sigma(frame.wavelength)))
    return frame


def _is_sdss(path: Path) -> bool:
    from pogson.formats.fits_access import open_fits
    from pogson.formats.spectra_sdss import is_sdss_spectrum

    with open_fits(path) as hdus:
        return is_sdss_spectrum(hdus)


def _sdss_exposure(path: Path, extension: str | None) -> FibreSpectra:
    from pogson.formats import read_sdss_exposures

    frames = read_sdss_exposures(path)
    names = [str(f.meta["source"]).partition("[")[2].rstrip("]") for f in frames]
    if extension is None and len(frames) == 1:
        return frames[0]
    if extension not in names:
        said = "no extension is chosen" if extension is None else f"there is no {extension!r}"
        raise ConfigError(
            f"{path} holds {len(frames)} exposures and {said}; set frame.extension to one of "
            f"{choices(names)}."
        )
    return frames[names.index(extension)]


def read_standards(config: FluxCalConfigFile, frame: FibreSpectra) -> StandardStars:
    """Read the table of standards and find the fibre of each.

    Parameters
    ----------
    config : FluxCalConfigFile
        The configuration.
    frame : FibreSpectra
        The frame; ``meta`` may hold ``ra``, ``dec`` and ``standard``.

    Returns
    -------
    StandardStars

    Raises
    ------
    ConfigError
        If the table, its bands or their system cannot be told, a star that ``only`` names has no
        row, or no row has a fibre.
    """
    section = config.standards
    path = config.path(section.table)
    table, units = standards_columns(path, section.columns)
    labels = table_labels(table)
    n = len(next(iter(table.values())))
    names = tuple(
        name or f"row {i + 1}"
        for i, name in enumerate(labels.get("names") or _fibre_names(labels, n))
    )
    bands, notes = _bands(table, section, config)
    magnitudes = [c for b in bands for c in (b, str(_error_column(table, b)))]
    magnitudes += [c for pair in _MAP if pair[0] in table and pair[1] in table for c in pair]
    table |= as_numbers(table, units, magnitudes, u.mag, path)
    notes += _reddening(table, names, path)
    curves = {b: _curve(b, config) for b in bands}
    systems = _systems(table, bands, section)
    rows = _chosen_rows(names, section, path)
    how, fibres, lost = _find_fibres(labels, rows, names, frame, section)
    stars = []
    for row, fibre in fibres.items():
        try:
            photometry = _photometry(table, row, bands, systems[row], config)
        except PogsonError as error:
            lost[names[row]] = str(error)
            continue
        stars.append((fibre, names[row], photometry))
    if not stars:
        why = "; ".join(f"{name}: {reason}" for name, reason in list(lost.items())[:8])
        raise ConfigError(
            f"No valid standard star: none of the {len(rows)} rows of {section.table} can be used. "
            f"{why}"
        )
    notes += _unlisted(frame, [s[0] for s in stars])
    known = {b: systems[next(iter(fibres))][b] for b in bands}
    return StandardStars(tuple(stars), lost, how, known, curves, tuple(notes))


# ---- the table -----------------------------------------------------------------------------------


def _bands(
    table: Mapping[str, np.ndarray], section: StandardsConfig, config: FluxCalConfigFile
) -> tuple[list[str], list[str]]:
    """Bands with a magnitude and an error, and words about those without."""
    wanted = section.bands
    known = wanted if wanted is not None else [c for c in table if _is_band(c, config)]
    bands, notes = [], []
    for band in known:
        if band not in table:
            raise ConfigError(
                f"standards.bands: the table has no column {band!r}; it has "
                f"{choices(sorted(table))}. Name yours: standards.columns = {{ {band} = ... }}."
            )
        if _error_column(table, band) is None:
            usual = choices([e.format(band) for e in _ERROR_NAMES[:3]])
            text = f"band {band} has no column of errors ({usual})"
            if wanted is not None:
                raise ConfigError(f"The {text}; a magnitude without error has no weight.")
            notes.append(f"The {text} and was not used.")
            continue
        bands.append(band)
    if not bands:
        raise ConfigError(
            f"The table of standards {section.table} has no band that can be used (a filter such "
            f"as ps1_g with its error ps1_g_err); it has {choices(sorted(table))}. "
            + " ".join(notes)
        )
    return bands, notes


def _fibre_names(labels: Mapping[str, Any], n: int) -> list[str]:
    ids = labels.get("fibre_ids", range(1, n + 1))
    return ["" if i == NO_FIBRE else f"fibre {i}" for i in ids]


def _plausible(e_bv: float) -> bool:
    """Whether a number can be the E(B-V) of a map, and is no code for "not measured"."""
    return -0.05 <= e_bv < 9.0


def _reddening(table: Mapping[str, np.ndarray], names: Sequence[str], path: Path) -> list[str]:
    """Words about reddenings that cannot be."""
    for value, error in _MAP:
        if value in table and error in table:
            odd = [n for n, x in zip(names, table[value], strict=True)
                   if np.isfinite(x) and not _plausible(float(x))]  # fmt: skip
            if odd:
                return [
                    f"{path.name}: {value} is negative or 9 and more for {choices(odd[:8])}; taken "
                    f"as not measured (model.e_bv is used)."
                ]
    return []


def _is_band(name: str, config: FluxCalConfigFile) -> bool:
    if name in config.bands:
        return True
    try:
        load_filter_curve(name)
    except (PogsonError, ValueError, OSError):
        return False
    return True


def _error_column(table: Mapping[str, np.ndarray], band: str) -> str | None:
    return next((e.format(band) for e in _ERROR_NAMES if e.format(band) in table), None)


def _curve(band: str, config: FluxCalConfigFile) -> FilterCurve:
    own = config.bands.get(band)
    try:
        if own is None:
            return load_filter_curve(band)
        return load_filter_curve(
            config.path(own.file), unit=own.unit, detector=own.detector, medium=own.medium,
            name=band,
        )  # fmt: skip
    except PogsonError as error:
        raise ConfigError(f"The filter curve of band {band!r}: {error}") from None


def _systems(
    table: Mapping[str, np.ndarray], bands: Sequence[str], section: StandardsConfig
) -> list[dict[str, str]]:
    """System of every band of every row; it has to be said."""
    n = len(next(iter(table.values())))
    said = section.system
    words = table.get("system")
    out: list[dict[str, str]] = []
    for i in range(n):
        own = None if words is None else str(_decoded(words[i])).strip()
        if own is not None and own.upper() not in ("AB", "VEGA"):
            raise ConfigError(
                f"The column system of {section.table} says {own!r} in row {i + 1}; allowed: AB or "
                f"Vega."
            )
        row: dict[str, str] = {}
        for band in bands:
            word = said.get(band) if isinstance(said, dict) else said
            word = word or (None if own is None else ("AB" if own.upper() == "AB" else "Vega"))
            if word is None:
                raise ConfigError(
                    f"Neither {section.table} (a column system, or system in its metadata) nor "
                    f"standards.system says whether {band} is in AB or Vega magnitudes; write "
                    f'system = "AB" or "Vega" (or one for each band), or --system AB.'
                )
            row[band] = word
        out.append(row)
    return out


def _decoded(value: Any) -> Any:
    return value.decode("ascii", "replace") if isinstance(value, bytes) else value


def _photometry(
    table: Mapping[str, np.ndarray],
    row: int,
    bands: Sequence[str],
    systems: Mapping[str, str],
    config: FluxCalConfigFile,
) -> Photometry:
    mags, errors = [], []
    for band in bands:
        mag = float(table[band][row])
        err = float(table[str(_error_column(table, band))][row])
        lost = not np.isfinite(mag) or abs(mag) > _FAINTEST or not 0 < err < 9
        if not lost and systems[band] == "Vega":
            own = config.bands.get(band)
            offset = own.vega_to_ab if own is not None else vega_to_ab(band)
            if offset is None:
                raise ConfigError(
                    f"Band {band!r} is in Vega magnitudes; give bands.{band}.vega_to_ab (see "
                    f"pogson.sed.vega_offset). A missing offset is not taken as zero."
                )
            mag += offset
        mags.append(np.nan if lost else mag)
        errors.append(np.nan if lost else err)
    meta: dict[str, Any] = {}
    for value, error in _MAP:
        if value in table and error in table:
            prior = float(table[value][row]), float(table[error][row])
            if np.all(np.isfinite(prior)) and prior[1] > 0 and _plausible(prior[0]):
                meta = {"ebv": prior[0], "ebv_error": prior[1]}
    photometry = Photometry(tuple(bands), mags, errors, meta)
    if not photometry.valid_bands():
        raise MissingDataError(
            f"it has no photometry: no magnitude with a positive error in {choices(list(bands))}. "
            f"Without one there is no flux scale, and none is made up."
        )
    return photometry


# ---- which fibre ---------------------------------------------------------------------------------


def _chosen_rows(names: Sequence[str], section: StandardsConfig, path: Path) -> list[int]:
    if section.only is None:
        return list(range(len(names)))
    absent = [n for n in section.only if n not in names]
    if absent:
        raise ConfigError(
            f"standards.only: {choices(absent)} has no row of photometry in {path}; there is "
            f"{choices(list(names)[:12])}."
        )
    return [names.index(n) for n in section.only]


def _find_fibres(
    labels: Mapping[str, Any],
    rows: Sequence[int],
    names: Sequence[str],
    frame: FibreSpectra,
    section: StandardsConfig,
) -> tuple[str, dict[int, int], dict[str, str]]:
    """How rows were matched, the fibre id of each, and the rows without."""
    how = _way(labels, frame, section)
    if how == "fibre":
        found, lost = _by_fibre(labels["fibre_ids"], rows, names, frame)
    elif how == "name":
        found, lost = _by_name(rows, names, frame)
    else:
        found, lost = _by_position(labels, rows, names, frame, section.radius)
    by_fibre: dict[int, list[int]] = {}
    for row, fibre in found.items():
        by_fibre.setdefault(fibre, []).append(row)
    twice = {f: r for f, r in by_fibre.items() if len(r) > 1}
    if twice:
        fibre, doubles = next(iter(twice.items()))
        raise ConfigError(
            f"{section.table}: the rows {choices([names[r] for r in doubles])} are all on fibre "
            f"{fibre}; a standard has one row."
        )
    if how != "position":
        _check_places(labels, found, names, frame, section.radius, lost)
    return how, found, lost


def _way(labels: Mapping[str, Any], frame: FibreSpectra, section: StandardsConfig) -> str:
    can = {
        "fibre": "fibre_ids" in labels,
        "name": "names" in labels and any(frame.names),
        "position": "ra" in labels and "ra" in frame.meta,
    }
    if section.match == "auto":
        way = next((w for w, possible in can.items() if possible), None)
    else:
        way = section.match if can[section.match] else None
    if way is None:
        raise ConfigError(
            f"The rows of {section.table} cannot be matched with fibres"
            + ("" if section.match == "auto" else f" by {section.match}")
            + f": the table needs a column fibre, name (with names in the frame: "
            f"{'yes' if any(frame.names) else 'none'}) or ra and dec (with places in the frame: "
            f"{'yes' if 'ra' in frame.meta else 'none'}). Rows are never matched by their order."
        )
    return way


def _by_fibre(
    ids: np.ndarray, rows: Sequence[int], names: Sequence[str], frame: FibreSpectra
) -> tuple[dict[int, int], dict[str, str]]:
    known = set(frame.fibre_ids.tolist()) - {NO_FIBRE}
    found = {r: int(ids[r]) for r in rows if int(ids[r]) in known}
    lost = {
        names[r]: "it has no fibre number" if ids[r] == NO_FIBRE
        else f"fibre {int(ids[r])} is not in the frame"
        for r in rows
        if r not in found
    }  # fmt: skip
    return found, lost


def _by_name(
    rows: Sequence[int], names: Sequence[str], frame: FibreSpectra
) -> tuple[dict[int, int], dict[str, str]]:
    found, lost = {}, {}
    targets = [n.strip() for n in frame.names]
    for row in rows:
        where = [i for i, n in enumerate(targets) if n and n == names[row]]
        if len(where) == 1:
            found[row] = int(frame.fibre_ids[where[0]])
        else:
            lost[names[row]] = (
                "no fibre of the frame has this name" if not where
                else f"{len(where)} fibres of the frame have this name; match by fibre or position"
            )  # fmt: skip
    return found, lost


def _separation(ra: Any, dec: Any, ra0: float, dec0: float) -> np.ndarray:
    """Distance on the sky in arcsec; NaN where a position is not known."""
    a, d, a0, d0 = (np.radians(np.asarray(v, np.float64)) for v in (ra, dec, ra0, dec0))
    s = np.sin((d - d0) / 2) ** 2 + np.cos(d) * np.cos(d0) * np.sin((a - a0) / 2) ** 2
    return np.asarray(np.degrees(2 * np.arcsin(np.sqrt(np.clip(s, 0, 1)))) * 3600.0)


def _by_position(
    labels: Mapping[str, Any],
    rows: Sequence[int],
    names: Sequence[str],
    frame: FibreSpectra,
    radius: float,
) -> tuple[dict[int, int], dict[str, str]]:
    found: dict[int, int] = {}
    lost: dict[str, str] = {}
    distance: dict[int, float] = {}
    for row in rows:
        away = _separation(
            frame.meta["ra"], frame.meta["dec"], labels["ra"][row], labels["dec"][row]
        )
        away = np.where(np.isfinite(away), away, np.inf)
        nearest = int(np.argmin(away))
        if not away[nearest] <= radius:
            near = f"{away[nearest]:.1f} arcsec" if np.isfinite(away[nearest]) else "unknown"
            lost[names[row]] = (
                f"no fibre within {radius:g} arcsec; the nearest is at {near} (standards.radius)"
            )
            continue
        fibre = int(frame.fibre_ids[nearest])
        rival = next((r for r, f in found.items() if f == fibre), None)
        if rival is not None:
            worse = row if away[nearest] >= distance[rival] else rival
            lost[names[worse]] = f"another row is nearer to fibre {fibre}"
            if worse == row:
                continue
            del found[rival]
        found[row], distance[row] = fibre, float(away[nearest])
    return found, lost


def _check_places(
    labels: Mapping[str, Any],
    found: dict[int, int],
    names: Sequence[str],
    frame: FibreSpectra,
    radius: float,
    lost: dict[str, str],
) -> None:
    """Drop stars whose fibre points elsewhere: an id or name that belongs to another frame."""
    if "ra" not in labels or "ra" not in frame.meta:
        return
    for row, fibre in list(found.items()):
        i = frame.row(fibre)
        away = float(
            _separation(
                frame.meta["ra"][i], frame.meta["dec"][i], labels["ra"][row], labels["dec"][row]
            )
        )
        if np.isfinite(away) and away > 10 * radius:
            lost[names[row]] = (
                f"fibre {fibre} points {away:.0f} arcsec away from the star; is the table of this "
                f'frame? (standards.match = "position" finds the fibre by place)'
            )
            del found[row]


def _unlisted(frame: FibreSpectra, used: Sequence[int]) -> list[str]:
    """Words about fibres that the frame marks as standards but the table does not have."""
    marks = frame.meta.get("standard")
    if marks is None or not np.any(marks):
        return []
    absent = [int(f) for f in frame.fibre_ids[np.asarray(marks, bool)] if int(f) not in set(used)]
    if not absent:
        return []
    some = ", ".join(str(f) for f in absent[:8]) + (" ..." if len(absent) > 8 else "")
    return [f"{len(absent)} fibres marked as standards have no photometry in the table: {some}."]


def read_library(config: FluxCalConfigFile) -> Any:
    """Read the template library of a configuration.

    Raises
    ------
    ConfigError
        If it is missing, empty or damaged.
    """
    from pogson.spectro import TemplateLibrary

    section = config.templates
    try:
        return TemplateLibrary(
            config.path(section.path), section.resolution, section.wave_range, section.medium
        )
    except (MissingDataError, FileFormatError, PogsonValueError) as error:
        raise ConfigError(f"templates.path: {error}") from None
