"""Audit stage: sources injected into one exposure, measured by the run's own code, and compared.

The sources go into the exposure as it was read, before its background is estimated, through the
zero point that the run found; they are then found and measured by the functions of the first stage
with the same settings. What the audit tests is therefore everything between pixels and catalogue
but the zero point itself, which cancels.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import ConfigError, MissingDataError
from pogson.run.audit_plan import AuditPlan
from pogson.run.config import AuditConfig, MeasureConfig, RunConfig
from pogson.run.measuring import (
    add_calibration_flux,
    aperture_references,
    measure_detected,
    measure_positions,
    open_exposure,
    with_background,
)
from pogson.run.plan import ExposureTask
from pogson.run.resume import file_identity

if TYPE_CHECKING:
    from astropy.table import Table

    from pogson.calib import FluxReference, PhotoCalib
    from pogson.images import Exposure
    from pogson.psf import PSF

__all__ = ["AUDIT_COLUMNS", "AuditJob", "audit_exposure"]

AUDIT_COLUMNS = {
    "id": "id of the source, the same in every exposure",
    "round": "number of the injection, from 0; each is into the exposure as it was",
    "x": "injected position, pixels (0-based, centres on integers)",
    "y": "injected position, pixels (0-based, centres on integers)",
    "ra": "injected right ascension, degrees",
    "dec": "injected declination, degrees",
    "magnitude": "injected AB magnitude in the reference of flux_in",
    "flux_in": "injected flux in the reference of the calibrated catalogue, nJy",
    "flux_realised": "the same with the photon noise drawn and clipped light, nJy",
    "flux_out": "flux measured at the injected position, nJy",
    "flux_out_err": "its error, nJy",
    "flux_before": "the same measurement before the injection, nJy",
    "flux_catalog": "flux of the detection, measured where it was found, nJy",
    "flux_catalog_err": "its error, nJy",
    "neighbour_light": "light of real sources within the aperture, by catalogue and PSF, nJy",
    "neighbour_distance": "distance to the nearest real source, arcsec",
    "separation": "distance of the detection from the injected position, arcsec",
    "drawn": "whether the source was put on the image",
    "detected": "whether it was found again",
    "ambiguous": "a real source as bright lies within the match radius",
    "is_star": "whether a point source was injected",
    "deposited_fraction": "fraction of the light on usable pixels of the image",
    "injection_flags": "InjectionFlag bits",
    "flags": "SourceFlag bits of the measurement at the injected position",
}
"""Columns of the tables in ``stages/audit``."""


@dataclass(frozen=True)
class AuditJob:
    """What `audit_exposure` needs, as plain values that travel between processes.

    Parameters
    ----------
    config : RunConfig
        The configuration.
    task : ExposureTask
        The exposure.
    reference_area : float or None
        Reference pixel area of the survey, arcsec2.
    plan : AuditPlan
        Density and magnitudes, common to all exposures.
    psf : str or None
        File of the PSF to inject with; None: the exposure's own.
    table, record, zero_point : str
        Files that the stages before wrote.
    output, values : str
        Files to write: the recovered sources (Parquet) and a summary (JSON).
    """

    config: RunConfig
    task: ExposureTask
    reference_area: float | None
    plan: AuditPlan
    psf: str | None
    table: str
    record: str
    zero_point: str
    output: str
    values: str

    @property
    def audit(self) -> AuditConfig:
        """Section ``[audit]``."""
        assert self.config.audit is not None
        return self.config.audit


def audit_exposure(job: AuditJob) -> dict[str, Any]:
    """Inject sources into one exposure, recover them, and write the comparison.

    Parameters
    ----------
    job : AuditJob
        What to read and write.

    Returns
    -------
    dict
        ``n_sources`` and ``n_detected``.

    Raises
    ------
    MissingDataError
        If there is no PSF to inject with.
    """
    from astropy.table import vstack

    from pogson.atomic import atomic_write_text
    from pogson.formats import write_catalog

    scene = _Scene.open(job)
    rounds = [_one_round(scene, number) for number in range(job.audit.rounds)]
    tables = [t for t, _ in rounds if len(t)]
    table = vstack(tables, metadata_conflicts="silent") if tables else rounds[0][0]
    counts = {name: int(sum(c[name] for _, c in rounds)) for name in ("n_detections", "n_spurious")}
    counts["n_avoided"] = int(sum(c["n_avoided"] for _, c in rounds))
    _describe(table, scene.main)
    table.meta.clear()
    table.meta.update(
        exposure_id=scene.record["exposure_id"], detector=scene.record["detector"],
        band=scene.record["band"], match_radius=scene.match_radius, **counts,
    )  # fmt: skip
    values = {
        **counts,
        "n_sources": len(table),
        "n_detected": int(np.sum(table["detected"])),
        "match_radius": scene.match_radius,
        "photon_noise": scene.photon_noise,
        "reference": scene.asked.label,
        "measured_reference": scene.main.label,
        "psf": "" if scene.bare.psf is None else scene.bare.psf.identifier,
        "injection_psf": scene.psf.identifier,
        "rounds": [c["report"] for _, c in rounds],
    }
    write_catalog(job.output, table)
    atomic_write_text(job.values, json.dumps(values, allow_nan=False))
    return {k: values[k] for k in ("n_sources", "n_detected")}


@dataclass(frozen=True, eq=False)
class _Scene:
    """One exposure made ready: what is the same in every round."""

    job: AuditJob
    record: dict[str, Any]
    bare: Exposure
    before: Exposure
    psf: PSF
    calib: PhotoCalib
    main: FluxReference
    asked: FluxReference
    real: Table
    neighbors: Table
    settings: MeasureConfig
    scale: float
    match_radius: float
    photon_noise: str

    @classmethod
    def open(cls, job: AuditJob) -> _Scene:
        from astropy.table import vstack

        from pogson.calib import FluxReference, PhotoCalib
        from pogson.calib.reference_words import reference_from_words
        from pogson.formats import read_catalog

        record = json.loads(Path(job.record).read_text(encoding="utf-8"))
        found = json.loads(Path(job.zero_point).read_text(encoding="utf-8"))
        calib = PhotoCalib.from_dict(found["photo_calib"])
        exposure = open_exposure(job.config, job.task, job.reference_area)
        psf = _injection_psf(job, exposure)
        main = FluxReference.from_dict(record["reference"])
        asked = main if job.audit.reference is None else reference_from_words(job.audit.reference)
        if asked.kind == "psf":
            raise ConfigError("[audit] reference = 'psf': inject 'total' fluxes, or an aperture's.")
        if asked.kind == "total":
            asked = FluxReference.total()  # of whichever PSF is injected
        exposure = exposure.with_(photo_calib=calib)
        x, y = exposure.box.center
        scale = float(exposure.sky.pixel_scale(x=x, y=y))  # type: ignore[union-attr]
        radius = job.audit.match_radius
        if radius is None:
            radius = scale * max(2.0, float(psf.fwhm(x=x, y=y)))
        found_here = _real_sources(read_catalog(job.table), record["flux_column"])
        neighbors = _neighbors(job, exposure, calib, record["band"])
        real = found_here if neighbors is None else vstack([found_here, neighbors])
        return cls(
            job, record, exposure, _before(exposure, record), psf, calib, main, asked, real,
            found_here if neighbors is None else neighbors,
            _lean(job.config.measure), scale, float(radius), _photon_noise(job.audit, exposure),
        )  # fmt: skip


def _injection_psf(job: AuditJob, exposure: Exposure) -> PSF:
    from pogson.formats import read_psf

    if job.psf is not None:
        return read_psf(
            job.psf, detector=exposure.detector or None, sky=exposure.sky, box=exposure.box
        )
    if exposure.psf is None:
        raise MissingDataError(
            f"{job.task.path}: sources cannot be injected without a PSF: give [inputs] psf, or "
            "[audit] injection_psf."
        )
    return exposure.psf


def _before(exposure: Exposure, record: dict[str, Any]) -> Exposure:
    """Return the exposure with the background that the first stage found."""
    from pogson.images.background import Background

    if record["background"] is None or exposure.background is not None:
        return exposure
    return exposure.with_background(Background.from_dict(record["background"]))


def _real_sources(table: Table, column: str) -> Table:
    """Return what the run found on the exposure; a flux that is not known counts as bright."""
    from astropy.table import Table

    flux = np.asarray(table[column], float)
    return Table(
        {
            "x": np.asarray(table["x"], float),
            "y": np.asarray(table["y"], float),
            "flux": np.where(np.isfinite(flux), flux, np.inf),
        }
    )


def _neighbors(job: AuditJob, exposure: Exposure, calib: PhotoCalib, band: str) -> Table | None:
    """Return the real sources of a deep catalogue with their flux in image units."""
    from astropy.table import Table

    from pogson.units import magnitude_to_flux

    if job.audit.neighbors is None:
        return None
    path = job.config.path(job.audit.neighbors)
    table = read_neighbors(str(path), file_identity(path))
    names = [n for n in (f"flux_{band}", f"mag_{band}") if n in table.colnames]
    if not names or not {"ra", "dec"} <= set(table.colnames):
        raise ConfigError(
            f"[audit] neighbors: {path} needs the columns ra, dec and flux_{band} (nJy) or "
            f"mag_{band}; it has {', '.join(table.colnames)}."
        )
    values = np.asarray(table[names[0]], float)
    flux = values if names[0].startswith("flux") else magnitude_to_flux(values)
    assert exposure.sky is not None
    x, y = exposure.sky.pixel(np.asarray(table["ra"], float), np.asarray(table["dec"], float))
    (x0, x1), (y0, y1) = exposure.box.x_bounds, exposure.box.y_bounds
    reach = 0.25 * max(exposure.box.shape)
    with np.errstate(invalid="ignore"):
        near = (x > x0 - reach) & (x < x1 + reach) & (y > y0 - reach) & (y < y1 + reach)
    near &= np.isfinite(flux)
    x, y, flux = x[near], y[near], np.asarray(flux, float)[near]
    nearest = {"x": np.clip(x, x0, x1 - 1e-9), "y": np.clip(y, y0, y1 - 1e-9)}
    return Table({"x": x, "y": y, "flux": flux / np.asarray(calib.field(**nearest), float)})


@lru_cache(maxsize=2)
def read_neighbors(path: str, _identity: Any) -> Table:
    """Return a catalogue, read once a process."""
    from pogson.formats import read_catalog

    return read_catalog(path)


def _lean(settings: MeasureConfig) -> MeasureConfig:
    """Return the settings without measurements that the audit does not compare."""
    apertures = settings.apertures
    if settings.total != "growth":
        apertures = [settings.calibration_aperture]
    return settings.model_copy(
        update={"psf_flux": False, "apertures": apertures, "mode": "detect", "positions": None}
    )


def _photon_noise(audit: AuditConfig, exposure: Exposure) -> str:
    """Return in words what photon noise the sources get; empty: none."""
    from pogson.inject import GainMap

    if audit.photon_noise == "off":
        return ""
    try:
        return GainMap.from_exposure(exposure).describe()
    except MissingDataError:
        if audit.photon_noise == "on":
            raise
        return ""


def _one_round(scene: _Scene, number: int) -> tuple[Table, dict[str, Any]]:
    """Return the recovered sources of one round, and counts."""
    from pogson.inject import inject, match_injections

    job = scene.job
    exposure = scene.bare
    sources = job.plan.sources(exposure, scene.record["band"], number)
    sources, avoided = _avoiding(scene, sources)
    injection = inject(
        exposure, sources, reference=scene.asked, injection_psf=scene.psf,
        largest_radius=aperture_references(scene.settings), poisson=bool(scene.photon_noise),
        seed=job.audit.seed, image_id=f"{job.task.key}:{number}", again=True, threads=1,
    )  # fmt: skip
    after = with_background(injection.exposure, scene.settings)
    detections = measure_detected(after, scene.settings)
    add_calibration_flux(detections, after, scene.settings)
    truth = injection.truth
    in_box = np.asarray(exposure.box.contains(x=truth["x"], y=truth["y"]), bool)
    if not in_box.all():
        truth = truth[in_box]
    flux_in = _flux_in(scene, truth)
    x, y = (np.asarray(truth[c], float) for c in ("x", "y"))
    truth["_inst"] = flux_in / np.asarray(scene.calib.field(x=x, y=y), float)
    match = match_injections(
        truth, detections, scene.match_radius / scene.scale, real=scene.real, real_flux="flux",
        truth_flux="_inst",
    )  # fmt: skip
    table = _recovered(scene, truth, flux_in, match, after, detections, number)
    counts = {
        "n_detections": match.n_detections, "n_spurious": match.n_spurious,
        "n_avoided": avoided, "report": list(injection.report),
    }  # fmt: skip
    return table, counts


def _avoiding(scene: _Scene, sources: Table) -> tuple[Table, int]:
    """Leave out sources near real ones, if the configuration asks for it, and count them."""
    from scipy.spatial import cKDTree

    avoid = scene.job.audit.avoid
    if avoid <= 0 or not len(scene.real) or not len(sources):
        return sources, 0
    assert scene.bare.sky is not None
    x, y = scene.bare.sky.pixel(sources["ra"], sources["dec"])
    distance, _ = cKDTree(np.stack([scene.real["x"], scene.real["y"]], axis=1)).query(
        np.stack([x, y], axis=1)
    )
    keep = distance * scene.scale >= avoid
    return sources[keep], int((~keep).sum())


def _flux_in(scene: _Scene, truth: Table) -> np.ndarray:
    """Return injected fluxes in the reference that the run measures."""
    flux = np.asarray(truth["flux_requested"], float)
    if scene.asked.matches(scene.main) or not len(truth):
        return flux
    converted = scene.asked.convert(
        flux, to=scene.main, psf=scene.psf, sky=scene.bare.sky,
        x=np.asarray(truth["x"], float), y=np.asarray(truth["y"], float),
    )  # fmt: skip
    return np.asarray(converted, float)


def _recovered(
    scene: _Scene,
    truth: Table,
    flux_in: np.ndarray,
    match: Any,
    after: Exposure,
    detections: Table,
    number: int,
) -> Table:
    """Return the comparison of injected and measured sources."""
    from astropy.table import Table

    from pogson.inject.flags import NOT_DRAWN
    from pogson.units import flux_to_magnitude

    x, y = (np.asarray(truth[c], float) for c in ("x", "y"))
    column = scene.record["flux_column"]
    calibration = np.asarray(scene.calib.field(x=x, y=y), float)
    forced = [
        _forced(scene, exposure, truth, stars)
        for exposure, stars in ((after, detections), (scene.before, None))
    ]
    catalog = _of_matches(scene, detections, match.index)
    flags = np.asarray(truth["flags"])
    given = ("id", "x", "y", "ra", "dec")
    values: dict[str, Any] = {name: np.asarray(truth[name]) for name in given}
    values.update(
        round=np.full(len(truth), number),
        magnitude=flux_to_magnitude(flux_in),
        flux_in=flux_in,
        flux_realised=np.asarray(truth["flux_realised"], float)
        * _ratio(flux_in, np.asarray(truth["flux_requested"], float)),
        flux_out=np.asarray(forced[0][column], float) * calibration,
        flux_out_err=np.asarray(forced[0][f"{column}_err"], float) * calibration,
        flux_before=np.asarray(forced[1][column], float) * calibration,
        flux_catalog=catalog[0],
        flux_catalog_err=catalog[1],
        neighbour_light=_neighbour_light(scene, x, y) * calibration,
        neighbour_distance=match.neighbour_distance * scene.scale,
        separation=match.separation * scene.scale,
        drawn=(flags & int(NOT_DRAWN)) == 0,
        detected=match.matched,
        ambiguous=match.ambiguous,
        is_star=np.asarray(truth["source_type"]) == "point",
        deposited_fraction=np.asarray(truth["deposited_fraction"], float),
        injection_flags=flags,
        flags=np.asarray(forced[0]["main_flags"]),
    )
    return Table({name: values[name] for name in AUDIT_COLUMNS})


def _forced(scene: _Scene, exposure: Exposure, truth: Table, stars: Table | None) -> Table:
    """Measure at the injected positions as the run measures its sources."""
    table = measure_positions(exposure, scene.settings, x=truth["x"], y=truth["y"], ids=truth["id"])
    add_calibration_flux(table, exposure, scene.settings, stars)
    return table


def _of_matches(
    scene: _Scene, detections: Table, index: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return calibrated flux and error of the matched detections, NaN without one."""
    column = scene.record["flux_column"]
    out = []
    for name in (column, f"{column}_err"):
        values = np.full(index.size, np.nan)
        rows = index[index >= 0]
        place = {"x": np.asarray(detections["x"], float)[rows],
                 "y": np.asarray(detections["y"], float)[rows]}  # fmt: skip
        values[index >= 0] = np.asarray(detections[name], float)[rows] * np.asarray(
            scene.calib.field(**place, extrapolate=True), float
        )
        out.append(values)
    return out[0], out[1]


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(b != 0, a / b, np.nan)


def _neighbour_light(scene: _Scene, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return what real sources put into the aperture at each position, image units.

    Each real source is taken for a star with the flux that ``audit.neighbors`` or the run's own
    catalogue gives; the PSF at the centre of the image says how much of it an aperture at some
    distance holds. Sources that are in neither are not known.
    """
    from scipy.spatial import cKDTree

    out = np.zeros(x.size)
    if not len(scene.neighbors) or not x.size:
        return out
    distance, fraction = _off_center(scene)
    stars = np.stack([scene.neighbors["x"], scene.neighbors["y"]], axis=1)
    flux = np.asarray(scene.neighbors["flux"], float)
    near = cKDTree(stars).query_ball_point(np.stack([x, y], axis=1), distance[-1])
    for row, rows in enumerate(near):
        if rows:
            d = np.hypot(stars[rows, 0] - x[row], stars[rows, 1] - y[row])
            out[row] = np.sum(np.maximum(flux[rows], 0.0) * np.interp(d, distance, fraction))
    return out


def _off_center(scene: _Scene) -> tuple[np.ndarray, np.ndarray]:
    """Return the fraction of a star's light in the aperture by the distance of its centre, pixels.

    Relative to the fraction in a centred aperture where the calibrated flux is the total: an
    aperture's flux is then scaled up by that.
    """
    from pogson.psf import ApertureOperator

    radius = scene.settings.calibration_aperture / scene.scale
    half = int(np.ceil(5.0 * radius))
    center_x, center_y = (float(round(v)) for v in scene.bare.box.center)
    stamp = scene.psf.draw(x=center_x, y=center_y, half_size=half)
    distance = np.linspace(0.0, half - radius - 1.0, 48)
    sums = ApertureOperator.exact().sum(
        stamp.image, x=center_x + distance, y=np.full(distance.size, center_y), a=radius,
        x_min=stamp.box.x_min, y_min=stamp.box.y_min,
    )  # fmt: skip
    fraction = np.asarray(sums.flux, float)
    return distance, fraction / (fraction[0] if scene.main.kind == "total" else 1.0)


def _describe(table: Table, main: FluxReference) -> None:
    """Add units, meanings and the reference of the fluxes."""
    for name, text in AUDIT_COLUMNS.items():
        table[name].info.description = text
        if name.startswith("flux_") or name == "neighbour_light":
            table[name].unit = "nJy"
            table[name].info.meta = {"reference": main.to_dict(), "measure": "fluence"}
    for name in ("ra", "dec"):
        table[name].unit = "deg"
    for name in ("separation", "neighbour_distance"):
        table[name].unit = "arcsec"
