"""Catalogue and grid of a job on stars, as its configuration asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import ConfigError, MaskedDataError, MissingDataError
from pogson.run.stars_config import StarsRunConfig

if TYPE_CHECKING:
    from pogson.stars import BandCalibration, FitConfig, StarPhotometry

__all__ = ["StarInputs", "fit_config", "open_star_inputs", "star_files"]


@dataclass(frozen=True, eq=False)
class StarInputs:
    """Stars ready to fit.

    Parameters
    ----------
    photometry : StarPhotometry
        All stars of all files, in order, offsets applied.
    missing : dict of str to dict
        Band -> code of missing values -> count.
    notes : tuple of str
        Remarks.
    grid_bands : tuple of str
        Bands of the grid.
    calibration : BandCalibration or None
        Offsets that were applied.
    sources : tuple of str
        Names of the files.
    """

    photometry: StarPhotometry
    missing: dict[str, dict[str, int]]
    notes: tuple[str, ...]
    grid_bands: tuple[str, ...]
    calibration: BandCalibration | None
    sources: tuple[str, ...]


def star_files(config: StarsRunConfig) -> list[Path]:
    """Return all files that a job reads.

    Raises
    ------
    ConfigError
        If one is not there.
    """
    files = [*config.catalog_files(), _existing(config, "grid", "file", config.grid.file)]
    for section, key, text in (
        ("fit", "offsets", config.fit.offsets), ("offsets", "truth", config.offsets.truth),
        ("priors", "dust_map", config.priors.dust_map),
    ):  # fmt: skip
        if text is not None:
            files.append(_existing(config, section, key, text))
    return files


def _existing(config: StarsRunConfig, section: str, key: str, text: str) -> Path:
    path = config.path(text)
    if not path.is_file():
        raise ConfigError(f"[{section}] {key}: there is no file {str(path)!r}.")
    return path


def open_star_inputs(config: StarsRunConfig, *, apply_offsets: bool = True) -> StarInputs:
    """Read the catalogue against the bands of the grid, and apply offsets.

    Parameters
    ----------
    config : StarsRunConfig
        The configuration.
    apply_offsets : bool, optional
        Whether to apply the offsets of ``[fit] offsets``.

    Returns
    -------
    StarInputs

    Raises
    ------
    ConfigError, FileFormatError, MissingDataError, PogsonValueError
        If something is not there or not what it should be.
    """
    from pogson.formats.star_catalogs import read_star_catalog
    from pogson.stars import grid_contents

    star_files(config)
    contents = grid_contents(config.path(config.grid.file))
    bands = contents.bands
    if config.grid.bands is not None:
        unknown = [b for b in config.grid.bands if b not in bands]
        if unknown:
            from pogson.stars.grid import missing_name

            raise missing_name(unknown[0], bands, "filter", f"The grid {config.grid.file}")
        bands = tuple(config.grid.bands)
    options = config.catalog.column_options()
    rows = None if config.catalog.rows is None else slice(*config.catalog.rows)
    catalogs = [
        read_star_catalog(
            path, bands, table=config.catalog.table, rows=rows, select=config.catalog.select,
            bad_errors=config.catalog.bad_errors, **options,
        )
        for path in config.catalog_files()
    ]  # fmt: skip
    used = catalogs[0].photometry.bands
    for other in catalogs[1:]:
        if other.photometry.bands != used:
            raise MissingDataError(
                f"{other.source} has the bands {', '.join(other.photometry.bands)}, "
                f"{catalogs[0].source} {', '.join(used)}; name those to use with [grid] bands."
            )
    absent = [b for b in bands if b not in used]
    if config.grid.bands is not None and absent:
        raise MissingDataError(
            f"[grid] bands asks for {', '.join(absent)} and {catalogs[0].source} has no columns "
            "for that: say which they are in [catalog.bands], or leave it out. Found: "
            f"{', '.join(used)}."
        )
    missing: dict[str, dict[str, int]] = {b: {} for b in used}
    for catalog in catalogs:
        for band, codes in catalog.missing.items():
            for code, n in codes.items():
                missing[band][code] = missing[band].get(code, 0) + n
    notes = [n if len(catalogs) == 1 else f"{c.source}: {n}" for c in catalogs for n in c.notes]
    photometry = joined([c.photometry for c in catalogs], notes)
    photometry = _enough_bands(photometry, config.catalog.min_bands, notes)
    calibration = None
    if apply_offsets and config.fit.offsets is not None:
        photometry, calibration = _with_offsets(config, photometry, notes)
    inputs = StarInputs(
        photometry, missing, tuple(notes), contents.bands, calibration,
        tuple(c.source for c in catalogs),
    )  # fmt: skip
    _check_settings(config, inputs)
    return inputs


def _check_settings(config: StarsRunConfig, inputs: StarInputs) -> None:
    """Raise now if priors or settings of the fit are wrong, or priors lack what they need."""
    from pogson.stars import grid_contents
    from pogson.stars._photometry_checks import refuse_vega

    priors, stars = config.priors_object(), inputs.photometry
    fit_config(config, inputs)
    systems = grid_contents(config.path(config.grid.file)).provenance.get("systems") or {}
    refuse_vega(stars.ab, stars.bands, systems)
    if config.fit.nside is not None:
        from pogson.stars import healpix_of

        healpix_of([], [], config.fit.nside)
    if priors.needs_position and not (np.isfinite(stars.l) & np.isfinite(stars.b)).any():
        raise ConfigError(
            "The priors depend on the direction and no star has a position: say which columns "
            'they are, [catalog] position, or take [priors] distance = "modulus" (flat in distance '
            'modulus), "flat" or "volume", without a dust_map.'
        )


def joined(parts: Sequence[StarPhotometry], notes: list[str]) -> StarPhotometry:
    """Return the stars of several catalogues in order, with identifiers that are all different."""
    if len(parts) == 1:
        return parts[0]
    names = ("flux", "flux_err", "observed", "parallax", "parallax_err", "l", "b", "flags",
             "av_mean", "av_sd")  # fmt: skip
    arrays: dict[str, Any] = {k: np.concatenate([getattr(p, k) for p in parts]) for k in names}
    kinds = {p.ids.dtype.kind for p in parts}
    ids = np.concatenate([p.ids if len(kinds) == 1 else p.ids.astype(str) for p in parts])
    if len(np.unique(ids)) < len(ids):
        notes.append("Identifiers repeat between the files; row numbers are used instead.")
        ids = np.arange(len(ids))
    return replace(parts[0], ids=ids, ab=any(p.ab for p in parts), **arrays)


def _enough_bands(photometry: StarPhotometry, least: int, notes: list[str]) -> StarPhotometry:
    """Leave out stars that have too few bands, and say how many."""
    if least <= 1:
        return photometry
    enough = photometry.n_bands >= least
    if not enough.any():
        raise MaskedDataError(
            f"No star of {len(photometry)} has {least} bands ([catalog] min_bands); the most is "
            f"{int(photometry.n_bands.max(initial=0))}."
        )
    if not enough.all():
        notes.append(f"{int((~enough).sum())} stars with fewer than {least} bands are left out.")
    return photometry.select(enough)


def _with_offsets(
    config: StarsRunConfig, photometry: StarPhotometry, notes: list[str]
) -> tuple[StarPhotometry, BandCalibration]:
    from pogson.stars import read_offsets
    from pogson.stars.grid import missing_name

    assert config.fit.offsets is not None
    made = read_offsets(config.path(config.fit.offsets))
    known = dict(zip(made.bands, made.offsets, strict=True))
    without = [b for b in photometry.bands if b not in known]
    if len(without) == len(photometry.bands):
        raise missing_name(without[0], made.bands, "filter", f"The file {config.fit.offsets}")
    if without:
        notes.append(f"No offsets for {', '.join(without)}: used as they are.")
    notes.append(f"Offsets of {Path(config.fit.offsets).name} (gauge {made.gauge}) applied.")
    if not made.converged:
        notes.append("These offsets had NOT CONVERGED when they were written.")
    return photometry.scaled([known.get(b, 1.0) for b in photometry.bands]), made


def fit_config(config: StarsRunConfig, inputs: StarInputs, **changes: Any) -> FitConfig:
    """Return the settings of the fit.

    Parameters
    ----------
    config : StarsRunConfig
        The configuration.
    inputs : StarInputs
        The stars, for the bands and the scatter of the offsets.
    **changes
        Settings in place of the configuration's.
    """
    from pogson.stars import FitConfig

    f = config.fit
    floor: Any = f.error_floor
    bands = inputs.photometry.bands
    if floor == "offsets":
        made = inputs.calibration
        floor = {}
        if made is not None and made.gauge == "unknown":
            raise ConfigError(
                f"[fit] error_floor = 'offsets' and {f.offsets} holds no scatter, as no text file "
                "does: give the ECSV file of the same job, or a number."
            )
        if made is not None:
            pairs = zip(made.bands, made.scatter, strict=True)
            floor = {b: float(s) for b, s in pairs if b in bands}
    elif isinstance(floor, dict):
        from pogson.stars.grid import missing_name

        for band in floor:
            if band not in inputs.grid_bands:
                raise missing_name(band, inputs.grid_bands, "filter", "[fit] error_floor: the grid")
        floor = {b: v for b, v in floor.items() if b in bands}
    values = {
        "n_draws": f.draws, "n_proposals": f.proposals, "min_ess": f.min_ess,
        "error_floor": floor, "distance_limits": f.distance_limits,
        "fit_error_scale": f.fit_error_scale,
    }  # fmt: skip
    return FitConfig(**{**values, **changes})
