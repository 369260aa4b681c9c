"""Second stage: the zero point of one exposure, fitted, from a table or from its header."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import CalibrationError, ConfigError, MissingDataError
from pogson.run.config import ReferenceConfig, RunConfig
from pogson.run.plan import ExposureTask
from pogson.run.resume import file_identity

if TYPE_CHECKING:
    from astropy.table import Table

    from pogson.calib import FluxReference, PhotoCalib
    from pogson.formats import ReferenceCatalog
    from pogson.images import Exposure

__all__ = ["ZeroPointJob", "find_zero_point", "reference_magnitudes"]

_POGSON = 2.5 / np.log(10.0)
_ROW_STATUS = {
    "USED": "in the fit",
    "OUTLIER": "residual beyond the clipping threshold",
    "SATURATED": "saturated pixels in the aperture",
    "FLAGGED": "flagged in the measurement or in the reference catalogue, or an ambiguous match",
    "LOW_SNR": "signal-to-noise expected from the reference flux below zero_point.min_snr",
    "NOT_FINITE": "a number is missing, or an error is not positive",
    "NO_REFERENCE": "no positive reference flux, or no colour for the transformation",
    "COLOR_RANGE": "colour missing or outside the range",
    "DUPLICATE": "its identifier occurs more than once in the reference catalogue",
    "OUTSIDE_BOX": "not on the detector",
}


@dataclass(frozen=True)
class ZeroPointJob:
    """What `find_zero_point` needs, as plain values that travel between processes.

    Parameters
    ----------
    config : RunConfig
        The configuration.
    task : ExposureTask
        The exposure.
    table, record : str
        Files that the first stage wrote.
    residuals, output : str
        Files to write: residuals of the stars (Parquet) and the calibration (JSON).
    """

    config: RunConfig
    task: ExposureTask
    table: str
    record: str
    residuals: str
    output: str


def find_zero_point(job: ZeroPointJob) -> dict[str, Any]:
    """Find the calibration of one exposure and write it.

    Parameters
    ----------
    job : ZeroPointJob
        What to read and write.

    Returns
    -------
    dict
        ``zero_point`` and ``zero_point_err`` in magnitudes.
    """
    from pogson.atomic import atomic_write_text
    from pogson.calib import FluxReference
    from pogson.formats import read_catalog, write_catalog

    record = json.loads(Path(job.record).read_text(encoding="utf-8"))
    table = read_catalog(job.table)
    reference = FluxReference.from_dict(record["reference"])
    source = job.config.zero_point.source
    if source == "fit":
        calib, values, residuals, counts = _fitted(job, record, table, reference)
    else:
        from pogson.run.given_zero_points import given_zero_point

        calib, values = given_zero_point(job.config, job.task, record, reference)
        residuals, counts = _no_residuals(), {}
    values.update(depth_and_sky(record, values["zero_point"]))
    out: dict[str, Any] = {
        "photo_calib": calib.to_dict(),
        "values": {k: _finite(v) for k, v in values.items()},
        "counts": counts,
        "meanings": {k: _ROW_STATUS[k] for k in counts if k in _ROW_STATUS},
        "source": source,
    }
    write_catalog(job.residuals, residuals)
    atomic_write_text(job.output, json.dumps(out, allow_nan=False))
    return {k: out["values"].get(k) for k in ("zero_point", "zero_point_err")}


def _finite(value: Any) -> Any:
    if isinstance(value, str) or value is None:
        return value
    number = float(value)
    return number if np.isfinite(number) else None


def depth_and_sky(record: dict[str, Any], zero_point: float) -> dict[str, float]:
    """Return the 5-sigma depth in the calibration aperture and the sky brightness."""
    values = record["values"]
    out = {}
    if values.get("flux_err_sky"):
        out["depth"] = zero_point - 2.5 * np.log10(5.0 * values["flux_err_sky"])
    level, area = values.get("sky_level"), values.get("reference_pixel_area")
    if level and level > 0 and area:
        out["sky"] = zero_point - 2.5 * np.log10(level / area)
    return out


@lru_cache(maxsize=4)
def _read_reference(paths: tuple[str, ...], kind: str, _identity: Any) -> ReferenceCatalog:
    from pogson.formats import read_reference_catalog

    return read_reference_catalog(list(paths), format=kind)


def load_reference(config: Any) -> ReferenceCatalog:
    """Return the reference catalogue of a configuration, read once a process.

    Raises
    ------
    ConfigError
        If a file is not there.
    """
    settings = _settings(config)
    paths = reference_files(config)
    identity = tuple(file_identity(p) for p in paths)
    return _read_reference(paths, settings.format, identity)


def reference_files(config: Any) -> tuple[str, ...]:
    """Return the files of the reference catalogue; patterns are expanded.

    Raises
    ------
    ConfigError
        If one is not there.
    """
    import glob

    found: list[str] = []
    for text in _settings(config).catalog:
        here = sorted(glob.glob(str(config.path(text)), recursive=True))
        if not here:
            raise ConfigError(
                f"[reference] catalog: there is no file {str(config.path(text))!r}; give the path "
                "of a FITS, Parquet, ECSV or VOTable catalogue."
            )
        found += here
    return tuple(dict.fromkeys(found))


def _settings(config: Any) -> ReferenceConfig:
    if config.reference is None:
        raise ConfigError("Fitting zero points needs the section [reference] with a catalog.")
    return config.reference


def reference_magnitudes(
    catalog: ReferenceCatalog, settings: ReferenceConfig, band: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, str]:
    """Reference fluxes of a band and colours, transformed if the configuration says so.

    Parameters
    ----------
    catalog : ReferenceCatalog
        The catalogue.
    settings : ReferenceConfig
        Section ``[reference]``.
    band : str
        Band of the exposure.

    Returns
    -------
    flux, flux_err : numpy.ndarray
        nJy; NaN where there is none.
    color, color_err : numpy.ndarray
        Magnitudes; NaN where there is none or none is used.
    how : str
        In words, with the citation of a transformation.

    Raises
    ------
    MissingDataError
        If the catalogue lacks a band, or there is no such transformation.
    """
    from pogson.units import magnitude_to_flux

    name = settings.bands.get(band, band)
    color = color_err = np.full(len(catalog), np.nan)
    if settings.transformation is not None:
        from pogson.calib.color_terms import published_color_term

        term = published_color_term(settings.transformation.format(band=name))
        base, base_err = catalog.magnitude(term.base)
        color, color_err = catalog.color(*term.color)
        mag, mag_err = term.magnitude(base, color, base_err, color_err)
        flux, flux_err = magnitude_to_flux(mag, mag_err)
        return flux, flux_err, color, color_err, f"{term.name}: {term.citation}"
    flux, flux_err = catalog.flux(name)
    if settings.color is not None:
        color, color_err = catalog.color(settings.color[0], settings.color[1])
    system = catalog.systems.get(catalog.band(name), "AB")
    return flux, flux_err, color, color_err, f"band {catalog.band(name)} ({system})"


def _open_geometry(job: ZeroPointJob) -> Exposure:
    from pogson.run.measuring import open_exposure

    return open_exposure(job.config, job.task)


def _matched(
    job: ZeroPointJob, record: dict[str, Any], table: Table
) -> tuple[ReferenceCatalog, np.ndarray, np.ndarray, np.ndarray]:
    """Return the catalogue at the epoch, rows of table and catalogue, and which are ambiguous."""
    from pogson.calib.matching import match_catalogs

    settings = _settings(job.config)
    catalog = load_reference(job.config)
    mjd = record["values"].get("mjd")
    if mjd is not None:
        catalog = catalog.at_epoch(mjd=mjd)
    usable = catalog.usable()
    if not usable.any():
        found = ", ".join(f"{name} {n}" for name, n in catalog.counts().items()) or "it is empty"
        raise MissingDataError(
            f"The reference catalogue ({', '.join(catalog.sources)}) has no usable star; its "
            f"{len(catalog)} rows are flagged: {found}. A star needs a finite position in degrees, "
            "and no other row with its identifier or within the duplicate radius."
        )
    match = match_catalogs(
        np.asarray(table["ra"], float), np.asarray(table["dec"], float),
        np.where(usable, np.asarray(catalog.table["ra"], float), np.nan),
        np.asarray(catalog.table["dec"], float), settings.match_radius,
    )  # fmt: skip
    ours, theirs = match.rows
    if ours.size == 0:
        sky = _open_geometry(job).sky
        assert sky is not None
        catalog.within(sky, _box(record))  # says so if there is no overlap
        raise CalibrationError(
            f"{job.task.path}: none of the {len(table)} sources lies within "
            f"{settings.match_radius:g} arcsec of one of the {int(usable.sum())} usable reference "
            "stars. "
            "Check the WCS, the epoch of the catalogue and reference.match_radius."
        )
    ambiguous = match.ambiguous[ours]
    if settings.isolation > 0:
        ambiguous = ambiguous | _crowded(catalog, theirs, settings.isolation)
    return catalog, ours, theirs, ambiguous


def _box(record: dict[str, Any]) -> Any:
    from pogson.fields import Box

    return Box(*record["box"])


def _crowded(catalog: ReferenceCatalog, rows: np.ndarray, radius: float) -> np.ndarray:
    """Return which reference stars have another one within a radius in arcsec."""
    from pogson.run.statistics import associate

    group = associate(catalog.table["ra"], catalog.table["dec"], radius)
    size = np.bincount(group[group >= 0], minlength=1)
    return np.asarray(size[np.maximum(group, 0)] > 1)[rows]


def _serious(flags: np.ndarray) -> np.ndarray:
    from pogson.images import SourceFlag

    harmless = int(SourceFlag.SUSPECT | SourceFlag.CENTROID)
    return np.asarray((flags & ~harmless) != 0)


def _fitted(
    job: ZeroPointJob, record: dict[str, Any], table: Table, reference: FluxReference
) -> tuple[PhotoCalib, dict[str, Any], Table, dict[str, int]]:
    from pogson.calib.color_terms import ColorTerm
    from pogson.calib.zero_points import fit_zero_point
    from pogson.images import SourceFlag

    settings, choice = _settings(job.config), job.config.zero_point
    catalog, ours, theirs, ambiguous = _matched(job, record, table)
    parts = reference_magnitudes(catalog, settings, record["band"])
    ref_flux, ref_err, color, color_err = (np.asarray(p, float)[theirs] for p in parts[:4])
    ref_err = np.where(np.isfinite(ref_err), ref_err, 0.0)
    rows = table[ours]
    name = record["flux_column"]
    flags = np.asarray(rows["main_flags"])
    bright = ~_within(ref_flux, settings.magnitude_range)
    term: Any = None
    if choice.color_term == "fit":
        term = "fit"
    elif choice.color_term == "fixed":
        term = ColorTerm((0.0, float(choice.color_term_value or 0.0)), pivot=choice.color_pivot)
    use_color = settings.color is not None and settings.transformation is None
    if term is not None and not use_color:
        raise ConfigError(
            f"zero_point.color_term = {choice.color_term!r} needs reference.color = ['g', 'r'], "
            "and no reference.transformation."
        )
    fit = fit_zero_point(
        np.asarray(rows[name], float), np.asarray(rows[f"{name}_err"], float), ref_flux, ref_err,
        reference=reference, measure="fluence", unit=record["unit"],
        x=np.asarray(rows["x"], float), y=np.asarray(rows["y"], float), box=_box(record),
        order=choice.order, color=color if use_color else None,
        color_err=color_err if use_color else None, color_term=term,
        color_pivot=choice.color_pivot if choice.color_term == "fit" else None,
        color_range=None if settings.color_range is None or not use_color
        else (settings.color_range[0], settings.color_range[1]),
        saturated=(flags & int(SourceFlag.SATURATED)) != 0,
        flagged=_serious(flags) | ambiguous | bright, ids=np.asarray(catalog.table["id"])[theirs],
        min_snr=choice.min_snr, clip=choice.clip, bandpass=record["bandpass"],
        provenance={"reference_catalog": parts[4], "exposure": record["exposure_id"],
                    "detector": record["detector"], "flux_from": record["flux_from"]},
    )  # fmt: skip
    if fit.n_used < choice.min_stars:
        said = ", ".join(f"{n} {k}" for k, n in fit.counts().items())
        raise CalibrationError(
            f"{job.task.path}: only {fit.n_used} reference stars can be used, fewer than "
            f"zero_point.min_stars = {choice.min_stars} (matched: {said})."
        )
    values = _fit_values(fit, record)
    values["n_matched"] = int(ours.size)
    return fit.photo_calib, values, _residual_table(fit, rows, ref_flux, color), fit.counts()


def _within(flux: np.ndarray, limits: list[float] | None) -> np.ndarray:
    """Return which reference fluxes lie in a range of magnitudes."""
    from pogson.units import flux_to_magnitude

    if limits is None:
        return np.ones(flux.shape, bool)
    magnitude = flux_to_magnitude(flux)
    with np.errstate(invalid="ignore"):
        return np.asarray((magnitude >= min(limits)) & (magnitude <= max(limits)))


def _fit_values(fit: Any, record: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers of a fit; the zero point is that of the detector's mean calibration."""
    box = _box(record)
    x, y = box.center
    low, high = fit.zero_point_interval()
    pulls = fit.pulls[fit.used]
    values = {
        "zero_point": 31.4 - 2.5 * np.log10(fit.photo_calib.mean(box)),
        "zero_point_err": float(fit.photo_calib.zero_point_error(x=x, y=y)),
        "zero_point_low": low,
        "zero_point_high": high,
        "intrinsic_scatter": fit.intrinsic_scatter,
        "intrinsic_scatter_err": fit.intrinsic_scatter_err,
        "chi2": fit.chi2,
        "degrees_of_freedom": fit.degrees_of_freedom,
        "n_used": fit.n_used,
        "pull_rms": float(np.sqrt(np.mean(pulls**2))) if pulls.size else float("nan"),
    }
    if "color_slope" in fit.parameters:
        values["color_term"] = fit.parameters["color_slope"]
        values["color_term_err"] = fit.covariance.error("color_slope")
    return values


def _residual_table(fit: Any, rows: Table, ref_flux: np.ndarray, color: np.ndarray) -> Table:
    from astropy.table import Table

    from pogson.units import flux_to_magnitude

    made = fit.table()
    return Table(
        {
            "id": np.asarray(rows["id"]),
            "x": np.asarray(rows["x"], float),
            "y": np.asarray(rows["y"], float),
            "magnitude": flux_to_magnitude(ref_flux),
            "color": color,
            "residual": np.asarray(made["residual"], float),
            "residual_err": np.asarray(made["residual_err"], float),
            "pull": np.asarray(made["pull"], float),
            "status": np.asarray(made["status"], str),
        }
    )


def _no_residuals() -> Table:
    from astropy.table import Table

    names = ("x", "y", "magnitude", "color", "residual", "residual_err", "pull")
    table = Table({"id": np.zeros(0, np.int64), **{n: np.zeros(0) for n in names}})
    table["status"] = np.zeros(0, "U12")
    return table
