"""First stage: from the files of one exposure to a table of instrumental fluxes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import MissingDataError, PogsonError
from pogson.run.config import MeasureConfig, RunConfig
from pogson.run.plan import ExposureTask, instrument_argument

if TYPE_CHECKING:
    from astropy.table import Table

    from pogson.calib import FluxReference
    from pogson.images import Exposure

__all__ = ["MeasureJob", "measure_exposure", "open_exposure"]

_GROWTH_SNR = 30.0
_GROWTH_STARS = 3
_MAP_SIZE = 32


@dataclass(frozen=True)
class MeasureJob:
    """What `measure_exposure` needs, as plain values that travel between processes.

    Parameters
    ----------
    config : RunConfig
        The configuration.
    task : ExposureTask
        The exposure.
    reference_area : float or None
        Reference pixel area of the survey, arcsec2; None: the instrument preset's own.
    table, record : str
        Files to write: measurements (Parquet) and everything else (JSON).
    positions : str or None
        Table with columns ``ra`` and ``dec`` whose positions are forced; None: detect.
    """

    config: RunConfig
    task: ExposureTask
    reference_area: float | None
    table: str
    record: str
    positions: str | None = None


def open_exposure(
    config: RunConfig, task: ExposureTask, reference_area: float | None = None
) -> Exposure:
    """Read an exposure as the configuration says.

    Parameters
    ----------
    config : RunConfig
        The configuration.
    task : ExposureTask
        The exposure.
    reference_area : float, optional
        Reference pixel area in arcsec2.

    Raises
    ------
    MissingDataError
        If it has no WCS: without one, apertures cannot be sized on the sky.
    """
    from pogson.formats import read_exposure

    measure = None if config.measure.measure == "auto" else config.measure.measure
    exposure = read_exposure(
        task.path,
        instrument=instrument_argument(config),
        detector=task.detector,
        weight=task.weight,
        mask=task.mask,
        psf=task.psf,
        measure=measure,
        gain=config.inputs.gain,
        reference_pixel_area=reference_area,
    )
    if exposure.sky is None:
        raise MissingDataError(
            f"{task.path} has no WCS (no celestial axes in its header): sources cannot be placed "
            "on the sky. Solve its astrometry first."
        )
    if exposure.area_ratio is None:
        exposure = exposure.with_area_ratio(reference_area)
    return exposure


def measure_exposure(job: MeasureJob) -> dict[str, Any]:
    """Measure one exposure: background, detection, apertures, PSF fluxes, growth.

    Parameters
    ----------
    job : MeasureJob
        What to read and write.

    Returns
    -------
    dict
        Short summary: ``n_sources``.
    """
    from pogson.atomic import atomic_write_text
    from pogson.formats import write_catalog

    if job.task.problem:
        raise MissingDataError(job.task.problem)
    exposure = open_exposure(job.config, job.task, job.reference_area)
    settings = job.config.measure
    exposure = with_background(exposure, settings)
    table, origin = _measured(exposure, settings, job.positions)
    reference, how = add_calibration_flux(table, exposure, settings)
    record = _record(exposure, table, settings, reference, how)
    record["positions_from"] = origin
    record["key"] = job.task.key
    write_catalog(job.table, table)
    atomic_write_text(job.record, json.dumps(record, allow_nan=False))
    return {"n_sources": len(table)}


def with_background(exposure: Exposure, settings: MeasureConfig) -> Exposure:
    """Return the exposure with the background that the configuration asks for.

    Parameters
    ----------
    exposure : Exposure
        The exposure; a background that it has already is kept.
    settings : MeasureConfig
        Section ``[measure]``.
    """
    from pogson.images import estimate_background

    if settings.background == "none" or exposure.background is not None:
        return exposure
    sky = estimate_background(
        exposure,
        mesh=max(4, min(settings.background_mesh, *exposure.box.shape)),
        filter_size=settings.background_filter,
        mask_sources=True,
    )
    return exposure.with_background(sky)


def aperture_references(settings: MeasureConfig) -> list[FluxReference]:
    """Return the apertures of the configuration, smallest first, circles on the sky."""
    from pogson.calib import FluxReference
    from pogson.psf import ApertureOperator

    operator = ApertureOperator.parse(settings.operator)
    radii = sorted({*settings.apertures, settings.calibration_aperture})
    return [FluxReference.aperture(r, frame="sky", operator=operator) for r in radii]


def _measured(
    exposure: Exposure, settings: MeasureConfig, positions: str | None
) -> tuple[Table, str]:
    """Return the measurements at detected or given positions, and where those came from."""
    if positions is None:
        return measure_detected(exposure, settings), f"detected at {settings.threshold:g} sigma"
    x, y, ids = _forced_positions(exposure, positions)
    table = measure_positions(exposure, settings, x=x, y=y, ids=ids)
    return table, f"forced from {Path(positions).name}"


def measure_detected(exposure: Exposure, settings: MeasureConfig) -> Table:
    """Return the measurements of the sources that are found on an exposure.

    Parameters
    ----------
    exposure : Exposure
        With its background.
    settings : MeasureConfig
        Section ``[measure]``.
    """
    from pogson.images import detect

    found = detect(exposure, settings.threshold, min_pixels=settings.min_area)
    table = measure_positions(exposure, settings, x=found["x"], y=found["y"], ids=found["id"])
    for name in ("half_light_radius", "a", "b", "theta", "n_pixels"):
        table[name] = found[name]
    table["flags"] |= found["flags"]
    table["detection_flags"] = found["flags"]
    return table


def measure_positions(
    exposure: Exposure, settings: MeasureConfig, *, x: Any, y: Any, ids: Any
) -> Table:
    """Return the measurements at positions: every aperture of the configuration, and the PSF's.

    Parameters
    ----------
    exposure : Exposure
        With its background.
    settings : MeasureConfig
        Section ``[measure]``.
    x, y : array_like
        Positions in pixels (0-based, pixel centres on integers).
    ids : array_like
        Identifiers.
    """
    from pogson.calib import FluxReference
    from pogson.images.apertures import LocalAnnulus, measure_sources

    references: list[FluxReference] = list(aperture_references(settings))
    if settings.psf_flux and exposure.psf is not None:
        references.append(FluxReference.psf(normalization=exposure.psf.normalization))
    background: Any = "attached" if settings.background != "none" else None
    if settings.background == "local":
        inner, outer = settings.background_annulus
        background = LocalAnnulus(inner, outer, frame="sky")
    center_x, center_y = exposure.box.center
    scale = float(exposure.sky.pixel_scale(x=center_x, y=center_y))  # type: ignore[union-attr]
    return measure_sources(
        exposure,
        x=x,
        y=y,
        references=references,
        background=background,
        ids=ids,
        neighbor_radius=1.5 * settings.calibration_aperture / scale,
    )


def _forced_positions(exposure: Exposure, path: str) -> tuple[Any, Any, Any]:
    """Return pixel positions of a table's (ra, dec) that fall on the image, and their ids."""
    from pogson.formats import read_catalog

    table = read_catalog(path)
    if not {"ra", "dec"} <= set(table.colnames):
        raise MissingDataError(
            f"{path} has columns {', '.join(table.colnames)}; positions need 'ra' and 'dec' in "
            "degrees."
        )
    ra, dec = np.asarray(table["ra"], float), np.asarray(table["dec"], float)
    ids = np.asarray(table["id"]) if "id" in table.colnames else np.arange(1, len(table) + 1)
    assert exposure.sky is not None
    x, y = exposure.sky.pixel(ra, dec)
    with np.errstate(invalid="ignore"):
        inside = np.asarray(exposure.box.contains(x=x, y=y), bool)
    return np.asarray(x)[inside], np.asarray(y)[inside], ids[inside]


def add_calibration_flux(
    table: Table, exposure: Exposure, settings: MeasureConfig, stars: Table | None = None
) -> tuple[FluxReference, str]:
    """Make sure that the flux to which zero points are fitted is there; return its reference.

    Parameters
    ----------
    table : astropy.table.Table
        Measurements; a column named ``flux_`` and the slug of the reference is added.
    exposure : Exposure
        The exposure measured.
    settings : MeasureConfig
        Section ``[measure]``.
    stars : astropy.table.Table, optional
        Measurements whose curve of growth is used; by default ``table`` itself.

    Returns
    -------
    reference : FluxReference
    how : str
        How the flux was made, in words.
    """
    from pogson.calib import FluxReference

    apertures = aperture_references(settings)
    aperture = next(r for r in apertures if r.radius == settings.calibration_aperture)
    flux = np.asarray(table[f"flux_{aperture.slug}"], float)
    err = np.asarray(table[f"flux_{aperture.slug}_err"], float)
    table["main_flags"] = _main_flags(table, f"flux_{aperture.slug}_flags")
    kind = settings.total
    if kind == "auto":
        kind = "psf" if exposure.psf is not None else "none"
    reference: FluxReference = aperture
    if kind == "psf":
        if exposure.psf is None:
            raise MissingDataError(
                "measure.total = 'psf' needs a PSF: give [inputs] psf = '...', or set "
                "measure.total to 'growth' or 'none'."
            )
        reference = FluxReference.total().resolved(exposure.psf)
        x, y = np.asarray(table["x"], float), np.asarray(table["y"], float)
        flux, err = aperture.convert(
            flux, to=reference, psf=exposure.psf, sky=exposure.sky, x=x, y=y, flux_err=err
        )
        how = f"{aperture.label}, to total by the PSF's enclosed energy"
    elif kind == "growth":
        from pogson.run.growth import corrected_to_largest

        flux, err, reference = corrected_to_largest(table, apertures, aperture, exposure, stars)
        how = f"{aperture.label}, corrected to {reference.label} by the curve of growth"
    else:
        return reference, f"{aperture.label}, as it is"
    meta = {"reference": reference.to_dict(), "measure": "fluence", "made_from": how}
    for name, values in ((f"flux_{reference.slug}", flux), (f"flux_{reference.slug}_err", err)):
        table[name] = np.asarray(values, float)
        table[name].unit = exposure.unit
        table[name].info.meta = dict(meta)
    return reference, how


def _main_flags(table: Table, column: str) -> np.ndarray:
    """Return what is wrong with the flux that is calibrated; larger apertures may touch more."""
    from pogson.images import SourceFlag

    shared = SourceFlag.BAD_POSITION | SourceFlag.OUTSIDE | SourceFlag.NEIGHBOR
    shared |= SourceFlag.LOCAL_BACKGROUND
    flags = np.asarray(table[column]) | (np.asarray(table["flags"]) & int(shared))
    if "detection_flags" in table.colnames:
        flags = flags | np.asarray(table["detection_flags"])
    return np.asarray(flags, np.int32)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def _record(
    exposure: Exposure,
    table: Table,
    settings: MeasureConfig,
    reference: FluxReference,
    how: str,
) -> dict[str, Any]:
    """Return everything about the measured exposure that later stages and the report use."""
    from pogson.images import count_flags

    assert exposure.sky is not None
    meta, (x, y) = exposure.metadata, exposure.box.center
    scale = float(exposure.sky.pixel_scale(x=x, y=y))
    aperture = next(
        r for r in aperture_references(settings) if r.radius == settings.calibration_aperture
    )
    sky_err = np.asarray(table[f"flux_{aperture.slug}_err_sky"], float)
    if not np.isfinite(sky_err).any():
        sky_err = np.asarray(table[f"flux_{aperture.slug}_err"], float)
    area = exposure.sky.pixel_area(x=x, y=y) / _ratio_at_center(exposure)
    background = exposure.background
    values = {
        "airmass": _number(meta.get("airmass")),
        "mjd": _number(meta.get("mjd")),
        "exposure_time": _number(meta.get("exposure_time")),
        "gain": _number(meta.get("gain")),
        "n_sources": len(table),
        "fwhm": _fwhm(exposure, table, scale),
        "sky_level": None if background is None else _number(background.level.mean()),
        "reference_pixel_area": _number(area),
        "flux_err_sky": _number(_percentile(sky_err, 30)),
        "pixel_area_error": _number(getattr(exposure.area_ratio, "achieved_error", None)),
    }
    return {
        "exposure_id": exposure.exposure_id,
        "detector": exposure.detector,
        "band": str(meta.get("band") or meta.get("filter") or exposure.bandpass or "unknown"),
        "bandpass": exposure.bandpass,
        "unit": exposure.unit.to_string(),
        "measure": exposure.measure.value,
        "measure_because": str(meta.get("measure_because", "")),
        "box": list(exposure.box),
        "values": values,
        "variance_from": str(table.meta.get("variance_from", "")),
        "gain_from": str(table.meta.get("gain_from", "")),
        "footprint": np.asarray(exposure.sky.footprint(exposure.box)).tolist(),
        "reference": reference.to_dict(),
        "reference_label": reference.label,
        "flux_column": f"flux_{reference.slug}",
        "flux_from": how,
        "psf": None if exposure.psf is None else exposure.psf.identifier,
        "flags": count_flags(np.asarray(table["main_flags"])),
        "growth": _growth(exposure, table, settings),
        "area_map": _small_map(exposure, exposure.area_ratio),
        "background_map": None
        if background is None
        else _small_map(exposure, background.level, normalized=True),
        "background": None if background is None else background.to_dict(),
        "background_subtracted": exposure.background_subtracted,
        "photo_calib": None if exposure.photo_calib is None else exposure.photo_calib.to_dict(),
    }


def _percentile(values: np.ndarray, percent: float) -> float:
    good = values[np.isfinite(values) & (values > 0)]
    return float(np.percentile(good, percent)) if good.size else float("nan")


def _ratio_at_center(exposure: Exposure) -> float:
    x, y = exposure.box.center
    return 1.0 if exposure.area_ratio is None else float(exposure.area_ratio(x=x, y=y))


def _fwhm(exposure: Exposure, table: Table, scale: float) -> float | None:
    """Return the FWHM in arcsec: of the PSF model, else twice the half-light radius of stars."""
    x, y = exposure.box.center
    if exposure.psf is not None:
        try:
            return _number(float(exposure.psf.fwhm(x=x, y=y)) * scale)
        except PogsonError:
            return None
    if "half_light_radius" not in table.colnames:
        return None
    good = (np.asarray(table["flags"]) == 0) & np.isfinite(table["half_light_radius"])
    if not good.any():
        return None
    return _number(2.0 * float(np.median(np.asarray(table["half_light_radius"])[good])) * scale)


def _small_map(exposure: Exposure, field: Any, *, normalized: bool = False) -> Any:
    """Return a field on a coarse grid of the image, for the report."""
    if field is None:
        return None
    box = exposure.box
    (x0, x1), (y0, y1) = box.x_bounds, box.y_bounds
    nx, ny = min(_MAP_SIZE, box.nx), min(_MAP_SIZE, box.ny)
    xs = x0 + (np.arange(nx) + 0.5) * (x1 - x0) / nx
    ys = y0 + (np.arange(ny) + 0.5) * (y1 - y0) / ny
    values = np.asarray(field(x=xs[None, :], y=ys[:, None]), float)
    if normalized:
        middle = float(np.nanmedian(values))
        values = values / middle if middle > 0 else values * np.nan
    shown = [[_number(float(f"{v:.7g}")) for v in row] for row in values]
    return {"values": shown, "extent": [x0, x1, y0, y1]}


def _growth(exposure: Exposure, table: Table, settings: MeasureConfig) -> Any:
    """Return the median curve of growth of bright, unflagged stars, and the PSF's."""
    references = aperture_references(settings)
    fluxes = np.stack([np.asarray(table[f"flux_{r.slug}"], float) for r in references])
    if len(references) < 2 or fluxes.shape[1] == 0:
        return None
    middle = f"flux_{references[len(references) // 2].slug}"
    with np.errstate(invalid="ignore", divide="ignore"):
        snr = np.asarray(table[middle], float) / np.asarray(table[f"{middle}_err"], float)
        good = (np.asarray(table["flags"]) == 0) & (snr > _GROWTH_SNR) & (fluxes[-1] > 0)
    if "half_light_radius" in table.colnames and good.sum() >= 5:
        size = np.asarray(table["half_light_radius"], float)
        center = np.median(size[good])
        width = 1.4826 * np.median(np.abs(size[good] - center))
        good &= np.abs(size - center) <= max(4.0 * width, 0.02 * center)
    if good.sum() < _GROWTH_STARS:
        return None
    fraction = fluxes[:, good] / fluxes[-1, good]
    median = np.median(fraction, axis=1)
    scatter = 1.4826 * np.median(np.abs(fraction - median[:, None]), axis=1)
    model = None
    if exposure.psf is not None:
        x, y = np.asarray(table["x"], float)[good], np.asarray(table["y"], float)[good]
        energy = np.stack(
            [r.enclosed_energy(exposure.psf, exposure.sky, x=x, y=y) for r in references]
        )
        model = np.median(energy / energy[-1], axis=1).tolist()
    return {
        "radius": [r.radius for r in references],
        "fraction": median.tolist(),
        "scatter": scatter.tolist(),
        "model": model,
        "n_stars": int(good.sum()),
    }
