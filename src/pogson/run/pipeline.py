"""The whole run: plan, stages of parallel tasks, numbers across exposures, report."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pogson.errors import ConfigError, PogsonError, choices
from pogson.parallel import get_executor, map_tasks
from pogson.run.audit_plan import AuditPlan
from pogson.run.audit_stage import (
    audit_tasks,
    audited,
    check_audit_files,
    finish_audit,
    forget_audit,
    shorten,
)
from pogson.run.auditing import audit_exposure
from pogson.run.calibrating import CalibrateJob, calibrate_exposure
from pogson.run.coadd_stage import COADD_STAGES, coadd_failures, coadd_stage
from pogson.run.config import RunConfig
from pogson.run.measuring import MeasureJob, measure_exposure
from pogson.run.plan import ExposureTask, plan_exposures
from pogson.run.resume import fingerprint
from pogson.run.solve_stage import find_solved_zero_point, solve_stage, solved_item
from pogson.run.stages import Failure, Listener, StagedRun, StageItem, locked, logging_to
from pogson.run.zeroing import ZeroPointJob, find_zero_point, reference_files

__all__ = ["RunResult", "describe_plan", "run_survey"]

_log = logging.getLogger("pogson.run")
_SUFFIX = {"parquet": ".parquet", "ecsv": ".ecsv", "fits": ".fits", "votable": ".vot"}
_LATER = ("zero_point", "calibrate", "audit")


@dataclass(frozen=True)
class RunResult:
    """What a run made.

    Parameters
    ----------
    folder : pathlib.Path
        Folder of the results.
    n_done : int
        Exposures calibrated.
    n_computed : int
        Tasks computed now; the others were up to date.
    failures : tuple of Failure
        Exposures that failed; those of stage "audit" and of the coadds were calibrated all the
        same.
    summary : dict
        What ``summary.json`` holds.
    headlines : tuple of str
        The result in a few sentences.
    report : pathlib.Path or None
        The HTML report.
    audit_passed : bool or None
        Whether the audit broke no limit; None: there was none.

    Examples
    --------
    >>> result = RunResult(Path("results"), n_done=3, n_computed=9, failures=(), summary={},
    ...                    headlines=("3 of 3 detector images calibrated.",), report=None)
    >>> result.n_done, result.failures
    (3, ())
    """

    folder: Path
    n_done: int
    n_computed: int
    failures: tuple[Failure, ...]
    summary: dict[str, Any]
    headlines: tuple[str, ...]
    report: Path | None
    audit_passed: bool | None = None


@dataclass(frozen=True)
class _Files:
    """Where the files of a task are."""

    root: Path
    key: str
    catalog_suffix: str

    def stage(self, stage: str, suffix: str) -> str:
        return str(self.root / "stages" / stage / f"{self.key}{suffix}")

    @property
    def catalog(self) -> str:
        return str(self.root / "catalogs" / f"{self.key}{self.catalog_suffix}")

    @property
    def image(self) -> str:
        return str(self.root / "images" / f"{self.key}.fits")


@dataclass
class _Run(StagedRun):
    """State of a run while it runs."""

    config: RunConfig = field(kw_only=True)
    tasks: list[ExposureTask] = field(kw_only=True)
    audit_plan: AuditPlan | None = None

    def files(self, key: str) -> _Files:
        return _Files(self.root, key, _SUFFIX[self.config.output.catalog])

    def alive(self) -> list[ExposureTask]:
        return [t for t in self.tasks if t.key not in self.failures]


def describe_plan(config: RunConfig) -> list[str]:
    """Return what a run would do, in lines; nothing is written.

    Parameters
    ----------
    config : RunConfig
        The configuration.

    Returns
    -------
    list of str
        One line for the run and one for each exposure.

    Raises
    ------
    ConfigError
        If the configuration or a file that it names is wrong.

    Examples
    --------
    >>> import tempfile
    >>> from pogson.run import load_config
    >>> from pogson.simulate import demo_model, simulate_survey
    >>> model = demo_model(size=96).with_(n_visits=1, psf_files="json")
    >>> survey = simulate_survey(model, tempfile.mkdtemp(), rng_seed=1)
    >>> lines = describe_plan(load_config(survey.config))
    >>> len(lines), lines[0][:46]
    (5, 'simulated survey: 4 detector images of 1 file,')
    """
    tasks = plan_exposures(config)
    _check_given_files(config)
    files = len({str(task.path) for task in tasks})
    source = "one solution of all" if config.solves else config.zero_point.source
    lines = [
        f"{config.survey.name}: {len(tasks)} detector image{'s' * (len(tasks) != 1)} of {files} "
        f"file{'s' * (files != 1)}, results into {config.output_folder}; zero points from {source}"
        + ("; coadds" if config.coadds else "")
        + ("; audited" if audited(config) else "")
    ]
    for task in tasks:
        extra = [f"detector {task.detector}"] if task.detector is not None else []
        extra += [f"PSF {Path(task.psf).name}"] if task.psf else []
        lines.append(f"  {task.key}: {task.path}" + (f" ({', '.join(extra)})" if extra else ""))
    return lines


def _check_given_files(config: RunConfig) -> None:
    """Check, before any work, that files used by every exposure are there."""
    if config.reference is not None and (config.zero_point.source == "fit" or config.solves):
        reference_files(config)
    for section, key, value in (
        ("zero_point", "table", config.zero_point.table),
        ("measure", "positions", config.measure.positions),
        ("truth", "catalog", None if config.truth is None else config.truth.catalog),
    ):
        if value is not None and value != "deepest" and not config.path(value).exists():
            raise ConfigError(f"[{section}] {key}: there is no file {str(config.path(value))!r}.")
    _check_names(config)
    check_audit_files(config)


def _check_names(config: RunConfig) -> None:
    """Check names of conventions and colour terms before anything is measured."""
    from pogson.calib import HEADER_CONVENTIONS, list_color_terms

    convention = config.zero_point.header_convention
    if convention is not None and convention not in HEADER_CONVENTIONS:
        raise ConfigError(
            f"[zero_point] header_convention = {convention!r} is unknown; allowed: "
            f"{choices(HEADER_CONVENTIONS)}."
        )
    pattern = None if config.reference is None else config.reference.transformation
    if pattern is None:
        return
    wanted = re.escape(pattern).replace(re.escape("{band}"), r"\w+")
    if not any(re.fullmatch(wanted, name) for name in list_color_terms()):
        raise ConfigError(
            f"[reference] transformation = {pattern!r} is no published transformation; there are "
            f"{choices(list_color_terms())}, whose last part may be written {{band}}."
        )


def run_survey(
    config: RunConfig,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    kind: Any = None,
    listener: Listener | None = None,
) -> RunResult:
    """Calibrate a survey: measure, zero points, catalogues and images, report.

    Tasks that are up to date are not repeated; a failure of one exposure is recorded and the
    others go on.

    Parameters
    ----------
    config : RunConfig
        From `pogson.run.load_config`.
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
    RunResult
        With the failures of single exposures.

    Raises
    ------
    ConfigError
        If the configuration, or a file that all exposures need, is wrong.
    """
    tasks = plan_exposures(config)
    _check_given_files(config)
    if config.reference is not None and (config.zero_point.source == "fit" or config.solves):
        _check_reference(config)
    root = config.output_folder
    with locked(root), logging_to(root / "run.log"):
        _log.info("run %s: %d exposures", config.survey.name, len(tasks))
        with get_executor(workers, kind=kind, scheduler=scheduler) as executor:
            run = _Run(
                root, executor, listener, _LATER, ("audit", *COADD_STAGES),
                config=config, tasks=tasks,
            )  # fmt: skip
            _run_stages(run)
        return _finish(run)


def _check_reference(config: RunConfig) -> None:
    """Read the reference catalogue once before the work, so that its faults show at once."""
    from pogson.run.zeroing import load_reference

    catalog = load_reference(config)
    assert config.reference is not None
    if config.reference.color is not None:
        catalog.require(config.reference.color)
    catalog.require(config.reference.bands.values())


def _run_stages(run: _Run) -> None:
    area = _reference_area(run)
    positions = _positions(run, area)
    settings = run.config.model_dump(mode="json")
    upstream = [] if positions is None else [fingerprint(files=[positions])]
    items = []
    for task in run.tasks:
        files = run.files(task.key)
        table, record = files.stage("measure", ".parquet"), files.stage("measure", ".json")
        mark = fingerprint(
            files=task.files,
            settings=[settings["inputs"], settings["measure"], task.detector, area],
            upstream=upstream,
        )
        job = MeasureJob(run.config, task, area, table, record, positions)
        items.append(StageItem(task.key, job, mark, (table, record)))
    run.stage("measure", measure_exposure, items)
    _zero_point_stage(run, settings)
    _calibrate_stage(run, settings, area)
    coadd_stage(run, run.config, run.alive(), run.files)
    _audit_stage(run, area)


def _audit_stage(run: _Run, area: float | None) -> None:
    if not audited(run.config) or not run.alive():
        forget_audit(run.root)
        return
    run.audit_plan, found, problems = audit_tasks(
        run.config, run.alive(), run.files, run.prints, area
    )
    for key, reason in problems.items():
        run.optional_failures[key] = Failure(key, "audit", reason)
        _log.error("audit %s failed: %s", key, reason)
    run.stage("audit", audit_exposure, [StageItem(*item) for item in found])


def _solved_stages(run: _Run) -> None:
    tables = [(t.key, run.files(t.key).stage("measure", ".parquet"),
               run.files(t.key).stage("measure", ".json")) for t in run.alive()]  # fmt: skip
    if not tables:
        return
    shared = [] if run.config.reference is None else reference_files(run.config)
    root = solve_stage(run, run.config, tables, shared)
    items = [solved_item(run, t.key, run.files(t.key), root) for t in run.alive()]
    run.stage("zero_point", find_solved_zero_point, items)


def _zero_point_stage(run: _Run, settings: dict[str, Any]) -> None:
    if run.config.solves:
        _solved_stages(run)
        return
    shared: list[str | Path] = []
    if run.config.zero_point.source == "fit":
        shared += reference_files(run.config)
    if run.config.zero_point.table is not None:
        shared.append(run.config.path(run.config.zero_point.table))
    items = []
    for task in run.alive():
        files = run.files(task.key)
        outputs = (files.stage("zero_point", ".parquet"), files.stage("zero_point", ".json"))
        mark = fingerprint(
            files=shared,
            settings=[settings["reference"], settings["zero_point"]],
            upstream=[run.prints["measure", task.key]],
        )
        job = ZeroPointJob(
            run.config, task, files.stage("measure", ".parquet"), files.stage("measure", ".json"),
            outputs[0], outputs[1],
        )  # fmt: skip
        items.append(StageItem(task.key, job, mark, outputs))
    run.stage("zero_point", find_zero_point, items)


def _calibrate_stage(run: _Run, settings: dict[str, Any], area: float | None) -> None:
    items = []
    for task in run.alive():
        files = run.files(task.key)
        image = files.image if run.config.output.images else None
        mark = fingerprint(
            settings=settings["output"], upstream=[run.prints["zero_point", task.key]]
        )
        job = CalibrateJob(
            run.config, task, area, files.stage("measure", ".parquet"),
            files.stage("measure", ".json"), files.stage("zero_point", ".json"), files.catalog,
            image,
        )  # fmt: skip
        outputs = (files.catalog,) if image is None else (files.catalog, image)
        items.append(StageItem(task.key, job, mark, outputs))
    run.stage("calibrate", calibrate_exposure, items)


def _central_area(job: tuple[RunConfig, ExposureTask]) -> tuple[float | None, float]:
    """Return the preset's reference pixel area, or the area at the centre of the image."""
    from pogson.formats.exposures import sniff_instrument
    from pogson.formats.fits_access import find_image_hdu, merged_header, open_fits
    from pogson.formats.instruments import load_instrument
    from pogson.run.plan import instrument_argument
    from pogson.sky import FitsSkyMap

    config, task = job
    preset = load_instrument(instrument_argument(config) or sniff_instrument(task.path))
    if preset.pixel_area is not None or preset.name == "native":
        return preset.pixel_area, float("nan")
    with open_fits(task.path) as hdus:
        hdu = hdus[find_image_hdu(hdus, Path(task.path), task.detector)]
        header = merged_header(hdus, hdu)
        ny, nx = hdu.shape
    sky = FitsSkyMap.from_header(header)
    return None, float(sky.pixel_area(x=0.5 * (nx - 1), y=0.5 * (ny - 1)))


def _reference_area(run: _Run) -> float | None:
    """Return one reference pixel area for the whole survey; None: the presets say it.

    Rounded to four digits, so that one more exposure does not change (and recompute) all others.
    """
    given = run.config.measure.reference_pixel_area
    if given is not None:
        return given
    results = map_tasks(_central_area, [(run.config, t) for t in run.tasks])
    known = [r.value for r in results if r.ok]
    areas = np.array([area for preset, area in known if preset is None], float)
    areas = areas[np.isfinite(areas)]
    return float(f"{np.median(areas):.4g}") if areas.size else None


def _positions(run: _Run, area: float | None) -> str | None:
    """Return the table of positions to force; made from the deepest image if none is given."""
    settings = run.config.measure
    if settings.mode == "detect":
        return None
    if settings.positions not in (None, "deepest"):
        return str(run.config.path(str(settings.positions)))
    config = run.config.model_copy(
        update={"measure": settings.model_copy(update={"mode": "detect", "psf_flux": False})}
    )
    items = []
    for task in run.tasks:
        files = run.files(task.key)
        outputs = (files.stage("detect", ".parquet"), files.stage("detect", ".json"))
        mark = fingerprint(
            files=task.files,
            settings=[config.inputs.model_dump(mode="json"),
                      config.measure.model_dump(mode="json"), task.detector, area],
        )  # fmt: skip
        items.append(StageItem(task.key, MeasureJob(config, task, area, *outputs), mark, outputs))
    run.stage("detect", measure_exposure, items)
    return _deepest(run)


def _deepest(run: _Run) -> str:
    """Write the positions found in the deepest image."""
    from pogson.run.deepest import deepest_image, write_positions

    def stage(key: str, suffix: str) -> str:
        return run.files(key).stage("detect", suffix)

    best = deepest_image(run.config, run.alive(), stage)
    if best is None:
        raise PogsonError(
            "No exposure could be searched for sources: "
            + " ".join(f.reason for f in run.failures.values())
        )
    path, n = write_positions(run.root, *best, stage(best[0], ".parquet"))
    _log.info("positions of %d sources from %s (%s)", n, *best)
    return str(path)


def _finish(run: _Run) -> RunResult:
    """Write the summary and the report."""
    from pogson.atomic import atomic_write_text
    from pogson.run.reporting import report_from_folder
    from pogson.run.summary import headlines, make_summary

    failures = tuple(run.failures[t.key] for t in run.tasks if t.key in run.failures)
    summary = make_summary(run.config, run.tasks, failures, run.root, run.files)
    root = run.root
    passed = None
    if run.audit_plan is not None:
        reasons = {f.key: f.reason for f in run.optional_failures.values() if f.stage == "audit"}
        audit = finish_audit(
            run.config, run.tasks, run.files, run.audit_plan, reasons, summary, root
        )
        summary["audit"], passed = shorten(audit), bool(audit["passed"])
        atomic_write_text(root / "audit.json", json.dumps(audit, indent=1, allow_nan=False))
    text = run.config.model_dump_json(indent=1)
    atomic_write_text(root / "config.json", text)
    atomic_write_text(root / "summary.json", json.dumps(summary, indent=1, allow_nan=False))
    report = None
    if run.config.report.enabled:
        if run.listener is not None:
            run.listener.begin("report", 1)
        report = report_from_folder(root)
        if run.listener is not None:
            run.listener.advance("report", None)
    _log.info("finished: %d done, %d failed", len(run.alive()), len(failures))
    optional = run.optional_failures
    unaudited = [optional[t.key] for t in run.tasks if t.key in optional]
    return RunResult(
        root, len(run.alive()), run.n_computed,
        (*failures, *unaudited, *coadd_failures(run)),
        summary, tuple(headlines(summary)), report, passed,
    )  # fmt: skip
