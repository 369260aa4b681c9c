"""Coadds as stages of a run: after calibrating, one coadd a band of all calibrated images.

Per visit, the stage "coadd_visits" fits the background over its detectors and writes its images in
the state for adding; with ``match_backgrounds`` they then lose what they differ by (see
`pogson.run.coadd_matching`); per tile, "coadd" adds them; per tile, "coadd_check" holds fluxes on
it against those of its visits. What fails is recorded, and the rest goes on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pogson.errors import PogsonError
from pogson.run.coadd_background import VisitJob, prepare_visit
from pogson.run.coadd_check import CheckJob, check_tile
from pogson.run.coadd_config import CoaddConfig
from pogson.run.coadd_matching import MATCH, SAMPLE, MatchingOptions, matched_groups
from pogson.run.coadd_states import output_grid
from pogson.run.coadd_tiles import (
    STAGE,
    CoaddFile,
    check_coadd_files,
    coadd_file,
    tiles_stage,
)
from pogson.run.config import RunConfig
from pogson.run.plan import ExposureTask
from pogson.run.resume import fingerprint
from pogson.run.stages import Failure, StagedRun, StageItem

__all__ = ["COADD_STAGES", "coadd_failures", "coadd_stage", "forget_coadds"]

VISITS, CHECK = "coadd_visits", "coadd_check"
COADD_STAGES = (VISITS, SAMPLE, MATCH, STAGE, CHECK)
"""Stages whose failures leave the calibration of the exposures as it is."""
_NOT_PREPARING = {
    "enabled", "kernel", "clip", "clip_sigma", "center", "size", "scale", "tile_size", "overlap",
    "match_backgrounds", "match_degree", "match_bin", "compare_snr", "compare_radius",
}  # fmt: skip


def coadd_stage(
    run: StagedRun, config: RunConfig, tasks: Sequence[ExposureTask], files: Callable[[str], Any]
) -> dict[str, Any] | None:
    """Make the coadds of a run; return what ``coadd.json`` holds, None where there are none.

    Parameters
    ----------
    run : StagedRun
        The run; problems go to its ``optional_failures``.
    config : RunConfig
        With a section ``[coadd]``.
    tasks : sequence of ExposureTask
        Exposures that were calibrated.
    files : callable
        From a key to the files of that task.
    """
    settings = config.coadd
    if settings is None or not settings.enabled or not tasks:
        forget_coadds(run.root)
        return None
    ready = _visits(run, config, settings, tasks, files)
    try:
        groups = _groups(run, settings, ready)
        if not groups:
            forget_coadds(run.root)
            return None
        grid = output_grid(
            [(f.sky, f.box) for found in groups.values() for f in found],
            center=settings.center, size=settings.size, scale=settings.scale,
            tile_size=settings.tile_size, overlap=settings.overlap,
        )  # fmt: skip
        levels: dict[str, str] = {}
        if settings.match_backgrounds:
            matching = MatchingOptions(settings.match_degree, settings.match_bin)
            folder = run.root / "coadd" / "matched"
            groups, levels = matched_groups(run, groups, grid, folder, matching)
        made = tiles_stage(
            run, groups, grid, run.root / "coadd", _options(settings), matching=levels
        )
    except PogsonError as error:
        forget_coadds(run.root)
        _fail(run, "coadd", str(error))
        return None
    _check(run, config, settings, made)
    return made


def forget_coadds(root: Path) -> None:
    """Remove the list of tiles of another run, so that it is not reported as one of this."""
    (root / "coadd" / "coadd.json").unlink(missing_ok=True)


def coadd_failures(run: StagedRun) -> list[Failure]:
    """Return what failed on the way to the coadds."""
    return [f for f in run.optional_failures.values() if f.stage in COADD_STAGES]


def _fail(run: StagedRun, key: str, reason: str, stage: str = STAGE) -> None:
    run.optional_failures[f"{stage}:{key}"] = Failure(key, stage, reason)


def _record(path: str) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def _visits(
    run: StagedRun,
    config: RunConfig,
    settings: CoaddConfig,
    tasks: Sequence[ExposureTask],
    files: Callable[[str], Any],
) -> list[tuple[str, str]]:
    """Prepare the images of every visit; return (band, record) of those that worked."""
    visits: dict[tuple[str, str], list[ExposureTask]] = {}
    for task in tasks:
        record = _record(files(task.key).stage("measure", ".json"))
        visits.setdefault((record["band"], record["exposure_id"]), []).append(task)
    folder = run.root / "coadd" / "visits"
    chosen = {k: v for k, v in settings.model_dump(mode="json").items() if k not in _NOT_PREPARING}
    items, found = [], []
    for (band, exposure_id), group in visits.items():
        key = re.sub(r"[^A-Za-z0-9_.+-]+", "_", f"{exposure_id}-{band}")
        keys = tuple(t.key for t in group)
        outputs = tuple(str(folder / f"{k}.fits") for k in keys)
        record_file = str(run.root / "stages" / VISITS / f"{key}.json")
        flat = [] if settings.flat is None else [config.path(settings.flat)]
        mark = fingerprint(
            files=flat, settings=chosen, upstream=[run.prints["calibrate", k] for k in keys]
        )
        images = tuple(str(files(k).image) for k in keys)
        job = VisitJob(settings, config.folder, images, keys, outputs, record_file)
        items.append(StageItem(key, job, mark, (*outputs, record_file)))
        found.append((key, band, record_file))
    run.stage(VISITS, prepare_visit, items)
    failed = {f.key for f in run.optional_failures.values() if f.stage == VISITS}
    return [(band, record) for key, band, record in found if key not in failed]


def _groups(
    run: StagedRun, settings: CoaddConfig, ready: Sequence[tuple[str, str]]
) -> dict[str, list[CoaddFile]]:
    """Return the images of each band; a band whose images do not go together is left out."""
    groups: dict[str, list[CoaddFile]] = {}
    for band, record in ready:
        for one in _record(record)["images"]:
            file = coadd_file(one["file"], weights=settings.weights, known=one["weight"])
            groups.setdefault(band, []).append(file)
    for band in list(groups):
        try:
            check_coadd_files(groups[band], settings.flattening_sed)
        except PogsonError as error:
            _fail(run, band, str(error))
            del groups[band]
    return groups


def _options(settings: CoaddConfig) -> Any:
    from pogson.images import Clipping, CoaddOptions

    return CoaddOptions(
        clip=Clipping(sigma=settings.clip_sigma) if settings.clip else None,
        kernel=settings.kernel, flattening_sed=settings.flattening_sed,
    )  # fmt: skip


def _check(run: StagedRun, config: RunConfig, settings: CoaddConfig, made: dict[str, Any]) -> None:
    """Measure the tiles and the same sources on their visits."""
    truth = config.truth
    items = []
    for band, entry in made["bands"].items():
        catalog = None if truth is None else str(config.path(truth.catalog))
        column = None if truth is None else truth.bands.get(band, f"flux_{band}")
        paths = {(i["exposure_id"], i["detector"]): i["file"] for i in entry["inputs"]}
        for tile in entry["tiles"]:
            if tile["status"] != "made":
                continue
            key = "-".join([band, *map(str, tile["tile"])])
            image = str(run.root / "coadd" / tile["file"])
            inputs = tuple(
                (paths[i["exposure_id"], i["detector"]], i["weight"]) for i in tile["inputs"]
            )
            outputs = tuple(
                str(run.root / "stages" / CHECK / f"{key}{s}") for s in (".parquet", ".json")
            )
            job = CheckJob(
                image, tuple(tile["inner"]), inputs, settings.compare_snr,
                settings.compare_radius or config.measure.calibration_aperture,
                catalog, column, *outputs,
            )  # fmt: skip
            mark = fingerprint(
                files=[] if catalog is None else [catalog],
                settings=[job.snr, job.radius, column], upstream=[run.prints[STAGE, key]],
            )  # fmt: skip
            items.append(StageItem(key, job, mark, outputs))
    run.stage(CHECK, check_tile, items)
