"""One target: read its exposures, fit, write numbers (JSON) and pictures (NPZ)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pogson.errors import ConfigError, MissingDataError, PogsonError, choices
from pogson.run.scene_config import SceneRunConfig
from pogson.run.scene_targets import SceneTarget
from pogson.units import strip_unit

if TYPE_CHECKING:
    from pogson.scene import PointSource, SceneExposure, SceneModel, SceneResult

__all__ = ["FitJob", "build_model", "fit_target", "load_exposures", "read_panels"]

SOURCE = "target"
"""Name of the target in its own fit."""
COMPANION = "companion"
"""Name of a second source at a known place beside it."""
STAR = "star "
"""Before the names of known stars."""


@dataclass(frozen=True)
class FitJob:
    """What `fit_target` reads and writes.

    Parameters
    ----------
    config : SceneRunConfig
        The configuration.
    target : SceneTarget
        The target.
    record : str
        JSON file to write.
    pictures : str
        NPZ file to write.
    """

    config: SceneRunConfig
    target: SceneTarget
    record: str
    pictures: str


def fit_target(job: FitJob) -> dict[str, Any]:
    """Fit one target.

    Parameters
    ----------
    job : FitJob
        What to read and write.

    Returns
    -------
    dict
        Short summary for the log: ``flux`` and ``flux_err`` in nJy of the first epoch.

    Raises
    ------
    MissingDataError
        If a detection cannot be used, or nothing is left.
    """
    from pogson.atomic import atomic_write_text

    config, target = job.config, job.target
    if target.problem:
        raise MissingDataError(target.problem)
    exposures, dropped = load_exposures(config, target)
    model = build_model(config, target, exposures)
    result, binary, settled = _fitted(config, exposures, model)
    record = _record(config, target, exposures, model, result)
    record["dropped"] = {**dict(target.left_out), **dropped, **record["dropped"]}
    if binary is not None:
        record["binary"] = binary
    if config.nulls.enabled:
        record.update(_nulls(config, exposures, settled))
    _write_pictures(Path(job.pictures), model, exposures, result)
    atomic_write_text(job.record, json.dumps(_finite(record), allow_nan=False))
    first = record["fluxes"][0]
    return {"flux": first["flux"], "flux_err": first["flux_err"]}


def load_exposures(
    config: SceneRunConfig, target: SceneTarget
) -> tuple[list[SceneExposure], dict[str, str]]:
    """Return the exposures of a target, and why others were left out.

    Parameters
    ----------
    config : SceneRunConfig
        The configuration.
    target : SceneTarget
        The target.

    Raises
    ------
    MissingDataError
        If a detection cannot be used, or nothing is left.
    """
    if config.from_stamps:
        from pogson.run.scene_stamps import load_stamps

        return load_stamps(config, target)
    from pogson.run.scene_cuts import read_cut

    exposures, dropped = [], {}
    for row in target.rows:
        try:
            exposures.append(read_cut(row.stamp, target.key))
        except PogsonError as error:
            if row.exposure in target.detections:
                raise MissingDataError(
                    f"The detection of {target.name}, exposure {row.exposure}, cannot be used: "
                    f"{error}"
                ) from error
            dropped[row.exposure] = str(error)
    if not exposures:
        raise MissingDataError(
            f"No exposure of {target.name} can be used: "
            + " ".join(dict.fromkeys(dropped.values()))
        )
    return exposures, dropped


def build_model(
    config: SceneRunConfig, target: SceneTarget, exposures: Sequence[SceneExposure]
) -> SceneModel:
    """Return the model that the configuration asks for.

    Parameters
    ----------
    config : SceneRunConfig
        Section ``[model]``.
    target : SceneTarget
        The target.
    exposures : sequence of SceneExposure
        Its exposures.

    Returns
    -------
    pogson.scene.SceneModel
        Its first source is the target, then a companion and known stars.
    """
    from pogson.scene import PointSource, SceneGrid, SceneModel

    choice = config.model
    if choice.kind == "detection" and not target.detections:
        raise MissingDataError(
            f"[model] kind = 'detection', but {target.name} has no detection: name its exposure in "
            "the column detection, or take kind = 'light_curve'."
        )
    epochs: Any = target.detections or "all"
    trail = target.trail
    if trail is None and choice.trail_length:
        trail = (choice.trail_length, choice.trail_angle)
    source = PointSource(
        SOURCE, target.ra, target.dec, epochs=epochs, trail=trail,
        position=_position(config, target, exposures),
    )  # fmt: skip
    sources = [source, *_companion(config, source), *_stars(config, exposures)]
    grid: Any = choice.grid if choice.grid == "auto" else None
    if choice.grid == "smp2023":
        grid = SceneGrid.smp2023()
    if choice.grid_spacing is not None and choice.grid_half_extent is not None:
        grid = SceneGrid(choice.grid_spacing, choice.grid_half_extent)
    return SceneModel(
        tuple(sources),
        grid=grid,
        sky_order=choice.sky_order,
        prior="auto" if choice.prior == "auto" else None,
        convention=choice.convention,
        origin_test=choice.origin_test,
        poisson=choice.poisson,
        robust=choice.robust,
        noise_rescale=choice.noise_rescale,
        search_radius_arcsec=choice.search_radius,
        positive=choice.positive,
        zero_point_error=choice.zero_point_error,
        psf_normalization_error=choice.psf_normalization_error,
    )


def _kind(config: SceneRunConfig, target: SceneTarget) -> str:
    if config.model.kind in ("binary", "light_curve"):
        return config.model.kind
    return "detection" if len(target.detections) == 1 else "light_curve"


def _position(
    config: SceneRunConfig, target: SceneTarget, exposures: Sequence[SceneExposure]
) -> Any:
    """Return what `PointSource` takes: fixed, free, or the error of an astrometric prior.

    A map to the sky that was fitted to the stars of a PSF file is as good as its scatter: then the
    position has that error.
    """
    choice = config.model.position
    if choice in ("fixed", "free"):
        return choice
    fitted = [
        float(e.metadata["sky_rms_pixels"]) * float(e.sky.pixel_scale(x=x, y=y))
        for e in exposures
        if (not target.detections or e.exposure_id in target.detections)
        and (e.metadata or {}).get("sky_rms_pixels")
        for x, y in [e.box.center]
    ]
    if choice == "prior":
        return float(np.hypot(config.model.position_error, max(fitted, default=0.0)))
    return max(fitted) if fitted else "fixed"


def _companion(config: SceneRunConfig, source: PointSource) -> list[PointSource]:
    """Return the companion at a known place beside the source, if there is to be one."""
    from pogson.scene import PointSource, offset_position

    choice = config.model
    if choice.companion_separation is None:
        return []
    angle = np.deg2rad(choice.companion_angle)
    xi, eta = choice.companion_separation * np.array([np.sin(angle), np.cos(angle)])
    ra, dec = (float(v) for v in offset_position(source.ra, source.dec, xi, eta))
    tied = source.name if source.moves else None
    return [PointSource(COMPANION, ra, dec, epochs=source.epochs, trail=source.trail, tied_to=tied)]


def _stars(config: SceneRunConfig, exposures: Sequence[SceneExposure]) -> list[Any]:
    """Return the known stars that fall on a stamp: fixed positions, one flux for all epochs."""
    if config.model.stars is None:
        return []
    from pogson.formats import read_catalog
    from pogson.scene import PointSource

    table = read_catalog(config.path(config.model.stars))
    missing = [c for c in ("ra", "dec") if c not in table.colnames]
    if missing:
        raise ConfigError(
            f"[model] stars: {config.model.stars} has no column {choices(missing)}; it has "
            f"{', '.join(table.colnames)}."
        )
    ra, dec = (np.atleast_1d(strip_unit(table[c], "deg", c)) for c in ("ra", "dec"))
    seen = np.zeros(ra.size, bool)
    for exposure in exposures:
        x, y = exposure.sky.pixel(ra, dec)
        with np.errstate(invalid="ignore"):
            seen |= exposure.box.contains(x=x, y=y)
    names = [str(n) for n in (table["id"] if "id" in table.colnames else range(ra.size))]
    return [
        PointSource(f"{STAR}{names[i]}", float(ra[i]), float(dec[i]), per_epoch=False)
        for i in np.flatnonzero(seen)
    ]


def _fitted(
    config: SceneRunConfig, exposures: Sequence[SceneExposure], model: SceneModel
) -> tuple[SceneResult, dict[str, Any] | None, SceneModel]:
    """Return the fit, for a binary how it compares with one source, and the model to go on with."""
    from pogson.scene import fit_scene

    starts, seed = config.model.starts, config.scene.seed
    if config.model.kind != "binary":
        return fit_scene(exposures, model, starts=starts, seed=seed), None, model
    from pogson.scene import fit_binary

    found = fit_binary(exposures, model, starts=starts, seed=seed)
    best = found.binary if found.is_binary else found.single
    return found.binary, found.to_dict(), _held(best)


def _held(result: SceneResult) -> SceneModel:
    """Return the model of a fit with its sources where they were found."""
    found = {p.source: p for p in result.positions}
    sources = [
        replace(s, ra=found[s.name].ra, dec=found[s.name].dec, position="fixed")
        if s.name in found
        else s
        for s in result.model.sources
    ]
    return replace(result.model, sources=tuple(sources))


def _record(
    config: SceneRunConfig,
    target: SceneTarget,
    exposures: Sequence[SceneExposure],
    model: SceneModel,
    result: SceneResult,
) -> dict[str, Any]:
    """Return the numbers of a target, JSON-ready."""
    record = result.to_dict()
    rows = {row.exposure: row for row in target.rows}
    known = {e.exposure_id: e for e in exposures}
    for one in record["exposures"]:
        row = rows.get(one["exposure"])
        one["time"] = known[one["exposure"]].time
        one["detection"] = bool(not target.detections or one["exposure"] in target.detections)
        one["detector"] = "" if row is None else row.detector
    sources = [{"name": name, **place._asdict()} for name, place in _places(model, result).items()]
    return {
        "key": target.key,
        "name": target.name,
        "kind": _kind(config, target),
        "band": next((r.band for r in target.rows if r.band), ""),
        "ra": target.ra,
        "dec": target.dec,
        "status": "done",
        "reason": "",
        **record,
        "flag_bits": int(result.flags),
        "sources": sources,
        "trail": _trail_words(model.sources[0].trail),
        "scale_errors": [float(v) for v in result.scale_errors],
    }


def _trail_words(trail: tuple[float, float] | None) -> dict[str, float] | None:
    """Return the trail that the target was fitted with, JSON-ready."""
    return None if trail is None else {"length_arcsec": trail[0], "angle_deg": trail[1]}


class _Place(NamedTuple):
    """Where a source is, degrees; its fitted offset from its nominal place, where it has one."""

    ra: float
    dec: float
    offset: list[float] | None = None
    offset_covariance: list[list[float]] | None = None


def _places(model: SceneModel, result: SceneResult) -> dict[str, _Place]:
    """Return where each source is: as fitted, or as told; one tied to another moves with it."""
    from pogson.scene import offset_position

    fitted = {p.source: p for p in result.positions}
    places = {}
    for name in dict.fromkeys(c.source for c in result.components):
        nominal = next((s for s in model.sources if s.name == name), model.sources[0])
        found = fitted.get(name) or fitted.get(nominal.tied_to or "")
        if found is None:
            places[name] = _Place(nominal.ra, nominal.dec)
            continue
        ra, dec = (float(v) for v in offset_position(nominal.ra, nominal.dec, *found.offset))
        places[name] = _Place(ra, dec, list(found.offset), found.covariance.tolist())
    return places


def _nulls(
    config: SceneRunConfig, exposures: Sequence[SceneExposure], model: SceneModel
) -> dict[str, Any]:
    """Return the pulls of sources forced where there is none."""
    from pogson.scene import null_tests

    axis = np.asarray(config.nulls.offsets, float)
    where = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    found = null_tests(exposures, model, offsets=where, min_good=config.nulls.min_good)
    pulls = np.asarray(found.pulls, float)
    pulls = pulls[np.isfinite(pulls)]
    return {
        "null_pulls": [float(v) for v in pulls],
        "null_rms": float(np.sqrt(np.mean(pulls**2))) if pulls.size else None,
        "null_mean": float(np.mean(pulls)) if pulls.size else None,
    }


def _finite(value: Any) -> Any:
    """Replace numbers that JSON cannot hold by None."""
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, np.ndarray):
        return _finite(value.tolist())
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value


def _write_pictures(
    path: Path, model: SceneModel, exposures: Sequence[SceneExposure], result: SceneResult
) -> None:
    """Write the images of the fit, and where the sources are in them."""
    from pogson.atomic import atomic_path

    known = {e.exposure_id: e for e in exposures}
    arrays: dict[str, np.ndarray] = {"exposures": np.array(list(result.images), np.str_)}
    places = [p[:2] for n, p in _places(model, result).items() if not n.startswith(STAR)]
    for number, (name, images) in enumerate(result.images.items()):
        exposure = known[name]
        origin = result.origins.get(name)
        moved = (origin.dx, origin.dy) if origin is not None and origin.applied else (0, 0)
        x, y = exposure.sky.pixel(*np.array(places, float).T)
        x, y = x - exposure.box.x_min - moved[0], y - exposure.box.y_min - moved[1]
        arrays[f"positions{number}"] = np.column_stack([x, y])
        k = result.exposure_ids.index(name)
        arrays[f"level{number}"] = np.array(float(result.sky_levels[k][0]))
        for part in ("data", "sigma", "scene", "sources"):
            arrays[f"{part}{number}"] = np.asarray(getattr(images, part), np.float32)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]


def read_panels(path: str | Path, record: dict[str, Any]) -> tuple[Any, ...]:
    """Return the pictures of a target as the report shows them.

    Parameters
    ----------
    path : path-like
        File that `fit_target` wrote.
    record : dict
        The numbers of the target.

    Returns
    -------
    tuple of pogson.report.scene_data.ScenePanels
    """
    from pogson.report.scene_data import ScenePanels

    about = {e["exposure"]: e for e in record["exposures"]}
    panels = []
    with np.load(path, allow_pickle=False) as content:
        for number, name in enumerate(content["exposures"]):
            one = about[str(name)]
            ratio = one["chi2"] / one["dof"] if one["dof"] else float("nan")
            panels.append(
                ScenePanels(
                    str(name),
                    content[f"data{number}"],
                    content[f"sigma{number}"],
                    content[f"scene{number}"],
                    content[f"sources{number}"],
                    float(content[f"level{number}"]),
                    tuple((float(x), float(y)) for x, y in content[f"positions{number}"]),
                    bool(one["detection"]),
                    f"χ²/dof {ratio:.2f}",
                )
            )
    return tuple(panels)
