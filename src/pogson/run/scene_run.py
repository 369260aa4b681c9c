"""The whole scene job: plan, cut, fit in parallel, tables, JSON and the HTML page."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pogson.errors import ConfigError
from pogson.parallel import get_executor
from pogson.run.plan import ExposureTask, plan_exposures
from pogson.run.resume import fingerprint
from pogson.run.scene_config import SceneRunConfig
from pogson.run.scene_cuts import CutJob, ScanJob, cut_one_exposure, scan_exposure
from pogson.run.scene_fit import FitJob, fit_target
from pogson.run.scene_places import ScannedExposure, plan_places
from pogson.run.scene_products import headlines, make_summary, result_table, scene_page
from pogson.run.scene_targets import SceneTarget, plan_stamp_targets, read_targets_table
from pogson.run.stages import Failure, Listener, StagedRun, StageItem, locked, logging_to

__all__ = ["SceneRunResult", "describe_scene_plan", "run_scene"]

_log = logging.getLogger("pogson.run")


@dataclass(frozen=True)
class SceneRunResult:
    """What a scene job made.

    Parameters
    ----------
    folder : pathlib.Path
        Folder of the results.
    n_done : int
        Targets measured.
    n_computed : int
        Tasks computed now; the others were up to date.
    failures : tuple of Failure
        Targets and exposures that failed.
    summary : dict
        What ``scene.json`` holds.
    headlines : tuple of str
        The result in a few sentences.
    table : pathlib.Path
        The Parquet table of all fluxes.
    report : pathlib.Path or None
        The HTML page.

    Examples
    --------
    >>> result = SceneRunResult(Path("out"), 2, 2, (), {}, ("2 of 2 targets measured.",),
    ...                         Path("out/fluxes.parquet"), None)
    >>> result.n_done
    2
    """

    folder: Path
    n_done: int
    n_computed: int
    failures: tuple[Failure, ...]
    summary: dict[str, Any]
    headlines: tuple[str, ...]
    table: Path
    report: Path | None


def describe_scene_plan(config: SceneRunConfig) -> list[str]:
    """Return what a job would do, in lines; nothing is written.

    Parameters
    ----------
    config : SceneRunConfig
        The configuration.

    Returns
    -------
    list of str
        One line for the job and one for each target (or exposure, where targets are found by
        reading exposures first).

    Raises
    ------
    ConfigError
        If the configuration or a file that it names is wrong.

    Examples
    --------
    >>> import tempfile
    >>> from pogson.run.scene_config import load_scene_config
    >>> from pogson.simulate import SceneJobModel, write_scene_job
    >>> model = SceneJobModel(n_targets=1, n_exposures=3, size=21)
    >>> config_file, _ = write_scene_job(model, tempfile.mkdtemp(), rng_seed=1)
    >>> describe_scene_plan(load_scene_config(config_file))[1]
    '  t0000: 3 exposures, detected in 100'
    """
    head = f"{config.scene.name}: into {config.output_folder}"
    if not config.from_stamps:
        tasks = plan_exposures(config.run_config())
        table = read_targets_table(config, ("target", "ra", "dec"))
        names = dict.fromkeys(str(n) for n in table["target"])
        lines = [f"{head}; {len(names)} targets in {len(tasks)} exposures"]
        return lines + [f"  {task.key}: {task.path}" for task in tasks]
    targets = plan_stamp_targets(config)
    lines = [f"{head}; {len(targets)} targets"]
    for target in targets:
        what = f"detected in {', '.join(target.detections)}" if target.detections else "every epoch"
        absent = [f for f in target.files if not Path(f).is_file()]
        tail = f"; {len(absent)} files are not there, such as {absent[0]}" if absent else ""
        lines.append(f"  {target.key}: {len(target.rows)} exposures, {what}{tail}")
    return lines


def run_scene(
    config: SceneRunConfig,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    kind: Any = None,
    listener: Listener | None = None,
) -> SceneRunResult:
    """Measure all targets of a scene job.

    Targets that are up to date are not fitted again; a target that fails is recorded and the
    others go on.

    Parameters
    ----------
    config : SceneRunConfig
        From `load_scene_config`.
    workers : int, optional
        Number of processes; default all cores.
    scheduler : str, optional
        Address of a Dask scheduler.
    kind : {'serial', 'threads', 'processes', 'dask'}, optional
        Where tasks run; see `pogson.parallel.get_executor`.
    listener : object, optional
        Progress display with the methods ``begin(stage, total, reused)`` and
        ``advance(key, reason)``.

    Returns
    -------
    SceneRunResult

    Raises
    ------
    ConfigError
        If the configuration, or a file that all targets need, is wrong.

    Examples
    --------
    >>> import tempfile
    >>> from pogson.run.scene_config import load_scene_config
    >>> from pogson.simulate import SceneJobModel, write_scene_job
    >>> model = SceneJobModel(n_targets=1, n_exposures=3, size=21)
    >>> config_file, _ = write_scene_job(model, tempfile.mkdtemp(), rng_seed=1)
    >>> result = run_scene(load_scene_config(config_file), workers=1)
    >>> result.n_done, result.failures, result.report.name
    (1, (), 'scene.html')
    """
    targets: list[SceneTarget] | None = None
    tasks: list[ExposureTask] = []
    if config.from_stamps:
        targets = plan_stamp_targets(config)
    else:
        read_targets_table(config, ("target", "ra", "dec"))
        tasks = plan_exposures(config.run_config())
    stars = config.model.stars
    if stars is not None and not config.path(stars).exists():
        raise ConfigError(f"[model] stars: there is no file {str(config.path(stars))!r}.")
    root = config.output_folder
    with locked(root), logging_to(root / "run.log"):
        _log.info("scene %s", config.scene.name)
        with get_executor(workers, kind=kind, scheduler=scheduler) as executor:
            run = StagedRun(root, executor, listener)
            if targets is None:
                targets = _cut_stages(config, run, tasks)
            _fit_stage(config, run, targets)
        return _finish(config, run, targets, listener)


def _path(root: Path, stage: str, key: str, suffix: str) -> str:
    return str(root / "stages" / stage / f"{key}{suffix}")


def _cut_stages(
    config: SceneRunConfig, run: StagedRun, tasks: Sequence[ExposureTask]
) -> list[SceneTarget]:
    """Scan the exposures, find which target is where, and cut."""
    run_config = config.run_config()
    root = run.root
    inputs = run_config.model_dump(mode="json", include={"inputs", "zero_point"})
    items = []
    for task in tasks:
        record = _path(root, "scan", task.key, ".json")
        mark = fingerprint(files=task.files, settings=[inputs["inputs"], task.detector])
        items.append(StageItem(task.key, ScanJob(run_config, task, record), mark, (record,)))
    run.stage("scan", scan_exposure, items)
    alive = [t for t in tasks if t.key not in run.failures]
    scanned = [
        ScannedExposure.from_record(
            json.loads(Path(_path(root, "scan", t.key, ".json")).read_text(encoding="utf-8")),
            _path(root, "cut", t.key, ".npz"),
        )
        for t in alive
    ]
    targets = plan_places(config, scanned)
    places: dict[str, list[tuple[str, float, float]]] = {}
    for target in targets:
        for row in target.rows:
            places.setdefault(row.stamp, []).append((target.key, row.ra, row.dec))
    shared = [run_config.path(t) for t in (run_config.zero_point.table,) if t is not None]
    items = []
    for task in alive:
        output = _path(root, "cut", task.key, ".npz")
        mine = tuple(places.get(output, ()))
        if not mine:
            continue
        mark = fingerprint(
            files=shared,
            settings=[inputs["zero_point"], config.cut.model_dump(mode="json"), mine],
            upstream=[run.prints["scan", task.key]],
        )
        job = CutJob(run_config, config.cut, task, mine, output)
        items.append(StageItem(task.key, job, mark, (output,)))
    run.stage("cut", cut_one_exposure, items)
    return targets


def _fit_stage(config: SceneRunConfig, run: StagedRun, targets: Sequence[SceneTarget]) -> None:
    settings = config.model_dump(mode="json", include={"stamps", "zero_point", "model", "nulls"})
    stars = config.model.stars
    shared = [] if stars is None else [config.path(stars)]
    items = []
    for target in targets:
        outputs = tuple(_path(run.root, "fit", target.key, s) for s in (".json", ".npz"))
        upstream = [
            run.prints["cut", Path(row.stamp).stem]
            for row in target.rows
            if ("cut", Path(row.stamp).stem) in run.prints
        ]
        mark = fingerprint(
            files=[*shared, *(target.files if config.from_stamps else ())],
            settings=[settings, config.scene.seed, asdict(target)],
            upstream=upstream,
        )
        job = FitJob(config, target, outputs[0], outputs[1])
        items.append(StageItem(target.key, job, mark, outputs))
    run.stage("fit", fit_target, items)


def _finish(
    config: SceneRunConfig,
    run: StagedRun,
    targets: Sequence[SceneTarget],
    listener: Listener | None,
) -> SceneRunResult:
    """Write the table, the JSON file and the page."""
    from pogson.atomic import atomic_write_text
    from pogson.formats import write_catalog

    root = run.root
    records = []
    for target in targets:
        failure = run.failures.get(target.key)
        if failure is None:
            text = Path(_path(root, "fit", target.key, ".json")).read_text(encoding="utf-8")
            records.append(json.loads(text))
        else:
            records.append(
                {"key": target.key, "name": target.name, "status": "failed",
                 "reason": failure.reason,
                 **{k: v if np.isfinite(v) else None
                    for k, v in (("ra", target.ra), ("dec", target.dec))},
                 "kind": config.model.kind,
                 "band": next((r.band for r in target.rows if r.band), "")}
            )  # fmt: skip
    failures = tuple(run.failures.values())
    summary = make_summary(config, records, failures)
    table = root / "fluxes.parquet"
    write_catalog(table, result_table(config, records))
    atomic_write_text(root / "config.json", config.model_dump_json(indent=1))
    atomic_write_text(root / "scene.json", json.dumps(summary, indent=1, allow_nan=False))
    report = None
    if config.report.enabled:
        if listener is not None:
            listener.begin("report", 1)
        report = scene_page(root)
        if listener is not None:
            listener.advance("report", None)
    done = [r for r in records if r["status"] == "done"]
    _log.info("finished: %d done, %d failed", len(done), len(failures))
    return SceneRunResult(
        root, len(done), run.n_computed, failures, summary, tuple(headlines(summary)), table,
        report,
    )  # fmt: skip
