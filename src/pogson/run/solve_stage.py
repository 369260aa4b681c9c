"""The global solution as a stage of a run: between measuring and calibrating."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pogson.errors import CalibrationError
from pogson.parallel import SerialExecutor
from pogson.run.config import ReferenceConfig, RunConfig
from pogson.run.resume import fingerprint
from pogson.run.solve_config import SolveConfig
from pogson.run.solve_sources import SourceFrame
from pogson.run.stages import StagedRun, StageItem

__all__ = ["SolvedZeroPointJob", "find_solved_zero_point", "solve_and_write", "solve_stage"]

KEY = "survey"


@dataclass(frozen=True)
class SolveJob:
    """What the stage "solve" needs.

    Parameters
    ----------
    config : RunConfig
        The configuration.
    tables : tuple of (str, str)
        Measured sources and their records.
    root : str
        Folder of the solution.
    references : tuple of str
        Files of the reference catalogue.
    """

    config: RunConfig
    tables: tuple[tuple[str, str], ...]
    root: str
    references: tuple[str, ...] = ()


@dataclass(frozen=True)
class SolvedZeroPointJob:
    """What `find_solved_zero_point` needs.

    Parameters
    ----------
    calibration, residuals_in : str
        What the solution says of this exposure and detector.
    table, record : str
        What the first stage wrote about it.
    residuals, output : str
        Files to write, as `pogson.run.zeroing.ZeroPointJob`.
    """

    calibration: str
    residuals_in: str
    table: str
    record: str
    residuals: str
    output: str


def solve_and_write(
    source: Callable[[], Iterator[SourceFrame]],
    config: SolveConfig,
    reference: ReferenceConfig | None,
    catalog: Any,
    folder: Path,
    root: Path,
    executor: Executor | None = None,
    mark: str = "",
) -> dict[str, Any]:
    """Solve and write the products.

    Parameters
    ----------
    source : callable
        Yields the frames of sources; called twice where they are too many for the memory.
    config : SolveConfig
        Section ``[solve]``.
    reference : ReferenceConfig or None
        Section ``[reference]``.
    catalog : ReferenceCatalog or None
        The catalogue.
    folder : pathlib.Path
        Where relative paths of the configuration start.
    root : pathlib.Path
        Folder to write.
    executor : concurrent.futures.Executor, optional
        For partitions.
    mark : str
        Fingerprint of the input files: what was matched from the same ones is used again.

    Returns
    -------
    dict
        Short summary.
    """
    from pogson.run.solve_partitions import assemble_partitions, scan_sources
    from pogson.run.solve_products import write_products

    scan = scan_sources(source, config)
    if scan.large:
        from pogson.run.solve_store import fit_partitions

        _check_first(scan, config, folder)
        survey = assemble_partitions(
            scan, source, config, root / "match", catalog, reference, mark=mark
        )
        solved = fit_partitions(
            survey, config, folder, root, reference=reference, executor=executor
        )
        stars, detections = survey.stars, survey.detections
    else:
        from pogson.run.solve_fit import fit_survey
        from pogson.run.solve_stars import assemble

        assembled = assemble(scan.frames, config, catalog, reference)
        solved = fit_survey(assembled, config, folder, reference=reference)
        stars, detections = len(assembled.observations.stars), len(assembled.observations)
    write_products(root, solved)
    s = solved.solution
    return {
        "stars": stars, "detections": detections, "parameters": int(s.parameters.size),
        "chi2": s.chi2, "degrees_of_freedom": s.degrees_of_freedom, "passes": s.passes,
    }  # fmt: skip


def _check_first(scan: Any, config: SolveConfig, folder: Path) -> None:
    """Raise what is wrong with the terms before millions of sources are matched."""
    from pogson.run.solve_config import build_terms
    from pogson.run.solve_fit import check_inputs
    from pogson.run.solve_methods import check_partitionable
    from pogson.run.solve_stars import survey_tables

    tables, _, _, names, _ = survey_tables(scan.frames, config)
    check_partitionable(config)
    build_terms(config, folder, tables)
    check_inputs(config, tables, names)


def _solve(executor: Executor, job: SolveJob) -> dict[str, Any]:
    """Read the measured sources of a run and solve them."""
    from pogson.run.solve_sources import measured_frame

    def source() -> Iterator[SourceFrame]:
        return (measured_frame(table, record) for table, record in job.tables)

    files = [f for pair in job.tables for f in pair]
    return solve_and_write(
        source, solve_config(job.config), job.config.reference,
        reference_catalog(job.config.reference, job.config), job.config.folder, Path(job.root),
        None if isinstance(executor, SerialExecutor) else executor,
        fingerprint(files=[*files, *job.references]),
    )  # fmt: skip


def solve_config(config: RunConfig) -> SolveConfig:
    """Return the section ``[solve]`` of a run that has one."""
    assert config.solve is not None
    return config.solve


def reference_catalog(reference: ReferenceConfig | None, config: Any) -> Any:
    """Return the reference catalogue of a configuration, None without the section."""
    if reference is None:
        return None
    from pogson.run.zeroing import load_reference

    return load_reference(config)


def solve_stage(
    run: StagedRun, config: RunConfig, tables: Sequence[tuple[str, str, str]], files: Sequence[str]
) -> Path:
    """Run the stage "solve"; return the folder of the solution.

    Parameters
    ----------
    run : StagedRun
        The run.
    config : RunConfig
        With a section ``[solve]``.
    tables : sequence of (str, str, str)
        Key, measured sources and record of each exposure and detector.
    files : sequence of str
        Files of the reference catalogue.

    Raises
    ------
    ConfigError
        If the terms do not suit the data.
    CalibrationError
        If there is no solution.
    """
    root = run.root / "solve"
    settings = config.model_dump(mode="json")
    mark = fingerprint(
        files=files, settings=[settings["solve"], settings["reference"]],
        upstream=[run.prints["measure", key] for key, _, _ in tables],
    )  # fmt: skip
    names = ["solution.json", "solution.h5", "parameters.parquet", "exposures.parquet"]
    outputs = [str(root / n) for n in [*names, "sample.parquet", "diagnostics.json"]]
    for key, _, _ in tables:
        outputs += [str(root / "calibrations" / f"{key}.json"),
                    str(root / "residuals" / f"{key}.parquet")]  # fmt: skip
    job = SolveJob(config, tuple((t, r) for _, t, r in tables), str(root), tuple(files))
    shared, run.executor = run.executor, SerialExecutor()  # partitions are its tasks
    try:
        run.stage("solve", partial(_solve, shared), [StageItem(KEY, job, mark, tuple(outputs))])
    finally:
        run.executor = shared
    failure = run.failures.pop(KEY, None)
    if failure is not None:
        raise CalibrationError(f"There is no global solution: {failure.reason}")
    return root


def solved_item(run: StagedRun, key: str, files: Any, root: Path) -> StageItem:
    """Return the task that takes an exposure's zero point from the solution.

    Its fingerprint holds the content of the solution for this exposure: where another solution
    says the same, nothing after it is repeated.
    """
    calibration = root / "calibrations" / f"{key}.json"
    residuals = root / "residuals" / f"{key}.parquet"
    outputs = (files.stage("zero_point", ".parquet"), files.stage("zero_point", ".json"))
    said = [hashlib.sha256(p.read_bytes()).hexdigest() for p in (calibration, residuals)]
    mark = fingerprint(settings=["solve", *said], upstream=[run.prints["measure", key]])
    job = SolvedZeroPointJob(
        str(calibration),
        str(residuals),
        files.stage("measure", ".parquet"),
        files.stage("measure", ".json"),
        *outputs,
    )
    return StageItem(key, job, mark, outputs)


def find_solved_zero_point(job: SolvedZeroPointJob) -> dict[str, Any]:
    """Write the calibration that the solution gives an exposure, as the stage "zero_point" does.

    Parameters
    ----------
    job : SolvedZeroPointJob
        What to read and write.

    Raises
    ------
    CalibrationError
        If the solution has none for it, with the reason.
    """
    import numpy as np

    from pogson.atomic import atomic_write_text
    from pogson.calib import PhotoCalib
    from pogson.formats import read_catalog, write_catalog
    from pogson.run.summary import json_ready
    from pogson.run.zeroing import depth_and_sky

    found = json.loads(Path(job.calibration).read_text(encoding="utf-8"))
    if "problem" in found:
        raise CalibrationError(found["problem"])
    record = json.loads(Path(job.record).read_text(encoding="utf-8"))
    calib = PhotoCalib.from_dict(found["photo_calib"])
    calib = calib.with_(
        bandpass=record["bandpass"],
        provenance={**calib.provenance, "flux_from": record["flux_from"]},
    )
    residuals = read_catalog(job.residuals_in)
    rows = np.asarray(residuals["id"], int) - 1
    residuals["id"] = np.asarray(read_catalog(job.table)["id"])[rows]
    values = {**found["values"], **depth_and_sky(record, found["values"]["zero_point"])}
    out = {k: found[k] for k in ("counts", "meanings", "source")}
    out |= {"photo_calib": calib.to_dict(), "values": values}
    write_catalog(job.residuals, residuals)
    atomic_write_text(job.output, json.dumps(json_ready(out), allow_nan=False))
    return {k: values.get(k) for k in ("zero_point", "zero_point_err")}
