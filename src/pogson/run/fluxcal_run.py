"""The whole flux calibration: check, solve, apply in parallel, tables, JSON and the HTML page."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pogson.errors import CalibrationError, ConfigError
from pogson.parallel import SerialExecutor, get_executor
from pogson.run.fluxcal_config import FluxCalConfigFile
from pogson.run.fluxcal_fit import (
    ApplyJob,
    CalibrateJob,
    apply_to_frame,
    calibrate_frame,
    read_extinction,
)
from pogson.run.fluxcal_inputs import read_frame, read_standards
from pogson.run.fluxcal_products import (
    fluxcal_headlines,
    fluxcal_page,
    make_fluxcal_summary,
    star_table,
)
from pogson.run.resume import fingerprint
from pogson.run.stages import Failure, Listener, StagedRun, StageItem, locked, logging_to

__all__ = ["FluxCalRunResult", "describe_fluxcal_plan", "run_fluxcal"]

_log = logging.getLogger("pogson.run")
_KEY = "standards"


@dataclass(frozen=True)
class FluxCalRunResult:
    """What a flux calibration made.

    Parameters
    ----------
    folder : pathlib.Path
        Folder of the results.
    calibrated : tuple of pathlib.Path
        Frames in erg/s/cm2/Angstrom.
    n_computed : int
        Tasks computed now; the others were up to date.
    failures : tuple of Failure
        Frames that could not be calibrated.
    summary : dict
        What ``fluxcal.json`` holds.
    headlines : tuple of str
        The result in a few sentences.
    table : pathlib.Path
        The Parquet table of the stars.
    report : pathlib.Path or None
        The HTML page.

    Examples
    --------
    >>> FluxCalRunResult(Path("out"), (), 1, (), {}, (), Path("out/stars.parquet"), None).n_computed
    1
    """

    folder: Path
    calibrated: tuple[Path, ...]
    n_computed: int
    failures: tuple[Failure, ...]
    summary: dict[str, Any]
    headlines: tuple[str, ...]
    table: Path
    report: Path | None

    @property
    def suspicious(self) -> bool:
        """Whether magnitudes seem to be in another system than was said."""
        return bool(self.summary["suspicions"])


def describe_fluxcal_plan(config: FluxCalConfigFile) -> list[str]:
    """Return what a job would do, in lines; nothing is written.

    Parameters
    ----------
    config : FluxCalConfigFile
        The configuration.

    Returns
    -------
    list of str

    Raises
    ------
    PogsonError
        If the configuration or a file that it names is wrong.

    Examples
    --------
    >>> import tempfile
    >>> from pogson.run.fluxcal_config import load_fluxcal_config
    >>> from pogson.simulate import write_fibre_job
    >>> job, _ = write_fibre_job(tempfile.mkdtemp(), seed=1, n_stars=2, n_fibres=3)
    >>> sorted(describe_fluxcal_plan(load_fluxcal_config(job)))[0]
    '  star 1: fibre 1, ps1_g, ps1_r, ps1_i, ps1_z'
    """
    frame = read_frame(config.frame, config.path(config.frame.path))
    standards = read_standards(config, frame)
    read_extinction(config)
    library = config.path(config.templates.path)
    if not library.exists():
        raise ConfigError(f"templates.path: there is no template library {library}.")
    lines = [
        f"{config.fluxcal.name}: into {config.output_folder}; {frame!r}, {len(standards.stars)} "
        f"standard stars by {standards.matched_by}"
    ]
    for fibre, name, photometry in standards.stars:
        lines.append(f"  {name}: fibre {fibre}, {', '.join(photometry.valid_bands())}")
    lines += [f"  {name}: not used: {why}" for name, why in standards.lost.items()]
    lines += [f"  {note}" for note in standards.notes]
    lines += [f"  also: {path}" for path in config.science.frames]
    return lines


def run_fluxcal(
    config: FluxCalConfigFile,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    kind: Any = None,
    listener: Listener | None = None,
) -> FluxCalRunResult:
    """Calibrate a frame and all others that the configuration names.

    What is up to date is not computed again; a science frame that fails is recorded and the
    others go on.

    Parameters
    ----------
    config : FluxCalConfigFile
        From `load_fluxcal_config`.
    workers : int, optional
        Number of processes for frames and of threads for stars; default all cores.
    scheduler : str, optional
        Address of a Dask scheduler.
    kind : {'serial', 'threads', 'processes', 'dask'}, optional
        Where frames are calibrated; see `pogson.parallel.get_executor`.
    listener : object, optional
        Progress display with the methods ``begin(stage, total, reused)`` and
        ``advance(key, reason)``.

    Returns
    -------
    FluxCalRunResult

    Raises
    ------
    ConfigError
        If the configuration or a file that it names is wrong.
    CalibrationError
        If no response can be solved; every reason is in the message.

    Examples
    --------
    >>> import tempfile
    >>> from pogson.run.fluxcal_config import load_fluxcal_config
    >>> from pogson.simulate import write_fibre_job
    >>> job, _ = write_fibre_job(tempfile.mkdtemp(), seed=1, n_stars=3, n_fibres=4)
    >>> result = run_fluxcal(load_fluxcal_config(job, ["report.enabled=false"]), workers=1)
    >>> print(result.headlines[0])
    3 of 3 standard stars used, 3800-9298 Angstrom; stars found by fibre.
    """
    root = config.output_folder
    _writable(root)
    with locked(root), logging_to(root / "run.log"):
        run = StagedRun(root, SerialExecutor(), listener, later=("apply",))
        files = _calibrate_stage(config, run, workers)
        if _KEY in run.failures:
            raise CalibrationError(run.failures[_KEY].reason)
        frames = _frames(config)
        several = kind or scheduler or len(frames) > 1
        with get_executor(
            workers if several else 1, kind=kind if several else "serial", scheduler=scheduler
        ) as executor:
            run.executor = executor
            outputs = _apply_stage(config, run, frames, files)
        return _finish(config, run, outputs, files, listener)


def _writable(root: Path) -> None:
    """Refuse an output folder that cannot be written before anything is computed."""
    here = root
    while not here.exists() and here != here.parent:
        here = here.parent
    if not here.is_dir() or not os.access(here, os.W_OK | os.X_OK):
        raise ConfigError(
            f"Cannot write results into {root}: {here} is not a folder that may be written. Choose "
            f"another --output."
        )


def _calibrate_stage(
    config: FluxCalConfigFile, run: StagedRun, workers: int | None
) -> dict[str, str]:
    folder = run.root / "calibration"
    files = {
        "calibration": str(folder / "calibration.npz"),
        "spectra": str(folder / "spectra.npz"),
        "record": str(folder / "record.json"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    inputs = [config.path(t) for t in (config.frame.path, config.standards.table)]
    library = config.path(config.templates.path)
    inputs += sorted(library.iterdir()) if library.is_dir() else [library]
    inputs += [config.path(b.file) for b in config.bands.values()]
    inputs += [config.path(config.model.extinction)] if config.model.extinction else []
    settings = config.model_dump(
        mode="json", include={"frame", "standards", "templates", "bands", "model"}
    )
    mark = fingerprint(files=inputs, settings=[settings, str(config.folder)])
    job = CalibrateJob(config, **files, workers=workers)
    run.stage("calibrate", calibrate_frame, [StageItem(_KEY, job, mark, tuple(files.values()))])
    return files


def _frames(config: FluxCalConfigFile) -> dict[str, tuple[Path, bool]]:
    """Frames to be calibrated by key; the keys are names of files without their endings."""
    out: dict[str, tuple[Path, bool]] = {}
    first = config.path(config.frame.path)
    for i, path in enumerate([first, *(config.path(f) for f in config.science.frames)]):
        stem = path.name.removesuffix(".gz").rsplit(".", 1)[0]
        key, n = stem, 2
        while key in out:
            key, n = f"{stem}-{n}", n + 1
        out[key] = (path, i == 0)
    return out


def _apply_stage(
    config: FluxCalConfigFile,
    run: StagedRun,
    frames: dict[str, tuple[Path, bool]],
    files: dict[str, str],
) -> dict[str, Path]:
    items, outputs = [], {}
    settings = [config.frame.model_dump(mode="json"), config.templates.path,
                config.model.extinction, str(config.folder)]  # fmt: skip
    for key, (path, first) in frames.items():
        outputs[key] = run.root / f"{key}-calibrated.fits"
        mark = fingerprint(
            files=[path], settings=[settings, first], upstream=[run.prints["calibrate", _KEY]]
        )
        job = ApplyJob(
            config, str(path), files["calibration"], files["record"], str(outputs[key]), first
        )
        items.append(StageItem(key, job, mark, (str(outputs[key]),)))
    run.stage("apply", apply_to_frame, items)
    return {k: p for k, p in outputs.items() if k not in run.failures}


def _finish(
    config: FluxCalConfigFile,
    run: StagedRun,
    outputs: dict[str, Path],
    files: dict[str, str],
    listener: Listener | None,
) -> FluxCalRunResult:
    """Write the table, the JSON file and the page."""
    from pogson.atomic import atomic_write_text
    from pogson.formats import write_catalog

    root = run.root
    record = json.loads(Path(files["record"]).read_text(encoding="utf-8"))
    failures = tuple(run.failures.values())
    summary = make_fluxcal_summary(config, record, list(outputs.values()), failures)
    table = root / "stars.parquet"
    write_catalog(table, star_table(summary))
    atomic_write_text(root / "config.json", config.model_dump_json(indent=1))
    atomic_write_text(root / "fluxcal.json", json.dumps(summary, indent=1, allow_nan=False))
    report = None
    if config.report.enabled:
        if listener is not None:
            listener.begin("report", 1)
        report = fluxcal_page(root)
        if listener is not None:
            listener.advance("report", None)
    _log.info("finished: %d frames, %d failed", len(outputs), len(failures))
    return FluxCalRunResult(
        root, tuple(outputs.values()), run.n_computed, failures, summary,
        tuple(fluxcal_headlines(summary)), table, report,
    )  # fmt: skip
