"""The audit as a stage of the run: its tasks, and what is made of their results."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pogson.errors import ConfigError, MissingDataError
from pogson.run.audit_plan import AuditPlan, make_audit_plan
from pogson.run.audit_summary import combine_audits, exposure_numbers
from pogson.run.auditing import AuditJob
from pogson.run.config import RunConfig
from pogson.run.plan import ExposureTask, pattern_file
from pogson.run.resume import file_identity, fingerprint

__all__ = ["audit_tasks", "audited", "check_audit_files", "finish_audit", "forget_audit"]

_RESULTS = ("audit.json", "statistics/audit.parquet", "statistics/audit_stack.parquet")


def audited(config: RunConfig) -> bool:
    """Return whether a configuration asks for the audit."""
    return config.audit is not None and config.audit.enabled


def check_audit_files(config: RunConfig) -> None:
    """Check, before any work, what the audit needs of the configuration.

    Raises
    ------
    ConfigError
        If a file is not there or the reference is not understood.
    """
    from pogson.calib.reference_words import reference_from_words
    from pogson.errors import PogsonValueError

    if not audited(config):
        return
    assert config.audit is not None
    for key in ("distribution", "neighbors"):
        value = getattr(config.audit, key)
        if value is not None and not config.path(value).exists():
            raise ConfigError(f"[audit] {key}: there is no file {str(config.path(value))!r}.")
    if config.audit.reference is not None:
        try:
            reference = reference_from_words(config.audit.reference)
        except PogsonValueError as error:
            raise ConfigError(f"[audit] reference: {error}") from None
        if reference.kind == "psf":
            raise ConfigError("[audit] reference = 'psf': inject 'total' fluxes, or an aperture's.")


def _read(path: str | Path) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def audit_tasks(
    config: RunConfig,
    tasks: Sequence[ExposureTask],
    files: Callable[[str], Any],
    prints: Mapping[tuple[str, str], str],
    area: float | None,
) -> tuple[AuditPlan, list[tuple[str, AuditJob, str, tuple[str, ...]]], dict[str, str]]:
    """Return what to audit.

    Parameters
    ----------
    config : RunConfig
        The configuration.
    tasks : sequence of ExposureTask
        Exposures that were calibrated.
    files : callable
        From a key to the files of that task.
    prints : mapping
        Fingerprints of the stages before.
    area : float or None
        Reference pixel area of the survey, arcsec2.

    Returns
    -------
    plan : AuditPlan
        Common to all.
    items : list of (key, job, fingerprint, outputs)
        One a task.
    problems : dict
        Reasons of exposures that cannot be audited, by key.
    """
    audit = config.audit
    assert audit is not None
    entries: dict[str, list[tuple[float, float]]] = {}
    records = {}
    for task in tasks:
        where = files(task.key)
        record = records[task.key] = _read(where.stage("measure", ".json"))
        depth = _read(where.stage("zero_point", ".json"))["values"].get("depth")
        pixel = record["values"]["reference_pixel_area"] or float("nan")
        sky = pixel * record["box"][2] * record["box"][3] / 3600.0
        entries.setdefault(record["band"], []).append((sky, np.nan if depth is None else depth))
    plan = make_audit_plan(config, entries)
    shared = plan.settings()
    if audit.neighbors is not None:
        shared["neighbors"] = file_identity(config.path(audit.neighbors))
    items: list[tuple[str, AuditJob, str, tuple[str, ...]]] = []
    problems: dict[str, str] = {}
    for task in tasks:
        where = files(task.key)
        try:
            psf = pattern_file(
                config, "injection_psf", audit.injection_psf, Path(task.path),
                str(task.detector or records[task.key]["detector"] or ""), "audit",
            )  # fmt: skip
        except MissingDataError as error:
            problems[task.key] = str(error)
            continue
        outputs = (where.stage("audit", ".parquet"), where.stage("audit", ".json"))
        job = AuditJob(
            config, task, area, plan, psf, where.stage("measure", ".parquet"),
            where.stage("measure", ".json"), where.stage("zero_point", ".json"), *outputs,
        )  # fmt: skip
        mine = {**shared, "magnitudes": shared["magnitudes"].get(records[task.key]["band"])}
        mark = fingerprint(
            files=[psf] if psf else [], settings=mine, upstream=[prints["zero_point", task.key]]
        )
        items.append((task.key, job, mark, outputs))
    return plan, items, problems


def finish_audit(
    config: RunConfig,
    tasks: Sequence[ExposureTask],
    files: Callable[[str], Any],
    plan: AuditPlan,
    failures: Mapping[str, str],
    summary: dict[str, Any],
    root: Path,
) -> dict[str, Any]:
    """Gather the audit of all exposures; its numbers go into their entries of the summary.

    Parameters
    ----------
    config : RunConfig
        The configuration.
    tasks : sequence of ExposureTask
        All exposures of the run, in the order of the summary's.
    files : callable
        From a key to the files of that task.
    plan : AuditPlan
        What was injected.
    failures : mapping
        Reasons of exposures that could not be audited, by key.
    summary : dict
        The run's summary; changed in place.
    root : pathlib.Path
        Folder of the results.

    Returns
    -------
    dict
        What ``audit.json`` holds.
    """
    from pogson.formats import read_catalog
    from pogson.run.summary import json_ready

    assert config.audit is not None
    tables: dict[str, dict[int, Any]] = {}
    for index, (task, entry) in enumerate(zip(tasks, summary["exposures"], strict=True)):
        if entry["status"] != "done":
            continue
        if task.key in failures:
            entry["audit_reason"] = failures[task.key]
            continue
        table = read_catalog(files(task.key).stage("audit", ".parquet"))
        tables.setdefault(entry["band"], {})[index] = table
        entry["values"].update(json_ready(exposure_numbers(table, config.audit)))
    result: dict[str, Any] = json_ready(
        combine_audits(config.audit, tables, plan, sorted(failures), root / "statistics")
    )
    result["reasons"] = dict(failures)
    notes = [_read(files(tasks[i].key).stage("audit", ".json")) for t in tables.values() for i in t]
    for name in ("photon_noise", "reference", "measured_reference"):
        result[name] = "; ".join(dict.fromkeys(str(n[name]) for n in notes))
    result["injection_psf"] = config.audit.injection_psf or "the PSF of each exposure"
    result["neighbors"] = config.audit.neighbors or "the sources that the run itself found"
    return result


def shorten(audit: Mapping[str, Any]) -> dict[str, Any]:
    """Return an audit without its curves, for ``summary.json``."""
    bands: dict[str, Any] = {}
    for band, found in audit["bands"].items():
        bands[band] = {}
        for name, values in found.items():
            if "bias" not in values:
                bands[band][name] = values
                continue
            complete = {k: v for k, v in values["completeness"].items() if k not in ("bins", "fit")}
            bands[band][name] = {
                "counts": values["counts"], "bias": {"overall": values["bias"]["overall"]},
                "pulls": values["pulls"], "completeness": complete, "purity": values["purity"],
                "background": values["background"],
            }  # fmt: skip
    keep = ("passed", "exit_code", "checks", "failures")
    return {**{k: audit[k] for k in keep}, "bands": bands}


def forget_audit(root: Path) -> None:
    """Remove the results of an earlier audit that this run does not repeat."""
    for name in _RESULTS:
        (root / name).unlink(missing_ok=True)
