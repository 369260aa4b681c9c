"""The job of ``pogson solve``: tables of sources in, one calibration out."""

from __future__ import annotations

import glob
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pogson.errors import ConfigError
from pogson.run.config import ReferenceConfig, ReportConfig, SurveyConfig
from pogson.run.solve_config import SolveConfig, SourcesConfig
from pogson.run.toml_config import read_toml_config

__all__ = ["SolveRunConfig", "SolveRunResult", "load_solve_config", "run_solve"]


class SolveRunConfig(BaseModel):
    """A whole configuration of ``pogson solve``; see `load_solve_config`.

    The configuration of ``pogson run`` serves as well: sections that it alone needs are allowed
    and not read.

    Examples
    --------
    >>> SolveRunConfig(solve={"floor": 0.005}).solve.floor
    0.005
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    survey: SurveyConfig = Field(default_factory=SurveyConfig)
    sources: SourcesConfig = Field(default_factory=SourcesConfig)
    reference: ReferenceConfig | None = None
    solve: SolveConfig = Field(default_factory=SolveConfig)
    report: ReportConfig = Field(default_factory=ReportConfig)
    inputs: dict[str, Any] | None = None
    measure: dict[str, Any] | None = None
    zero_point: dict[str, Any] | None = None
    output: dict[str, Any] | None = None
    truth: dict[str, Any] | None = None
    audit: dict[str, Any] | None = None
    folder: Path = Field(default=Path(), exclude=True, repr=False)

    @property
    def output_folder(self) -> Path:
        """Folder of the results; a relative one is taken from the folder of the TOML file."""
        return self.folder / self.survey.output

    def path(self, text: str) -> Path:
        """Return a path of the configuration, relative ones from the folder of the TOML file."""
        return self.folder / text


def load_solve_config(
    path: str | Path, overrides: Sequence[str] = (), *, output: str | Path | None = None
) -> SolveRunConfig:
    r"""Read and check the configuration of ``pogson solve``.

    Parameters
    ----------
    path : str or pathlib.Path
        TOML file.
    overrides : sequence of str, optional
        ``"section.key=value"`` texts that replace values of the file.
    output : str or pathlib.Path, optional
        Replaces ``survey.output``; relative to the current folder.

    Returns
    -------
    SolveRunConfig

    Raises
    ------
    ConfigError
        Naming the file, the line, the key, the value and what is allowed.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "solve.toml"
    >>> _ = file.write_text('[solve]\nfloor = 0.003\n[[solve.terms]]\nkind = "star_flat"\n')
    >>> load_solve_config(file).solve.terms[0].kind
    'star_flat'
    """
    return read_toml_config(path, SolveRunConfig, overrides, output=output, output_section="survey")


@dataclass(frozen=True)
class SolveRunResult:
    """What ``pogson solve`` made.

    Parameters
    ----------
    folder : pathlib.Path
        Folder of the results.
    n_done, n_failed : int
        Exposures and detectors with and without a calibration.
    failures : dict
        Key -> why there is none.
    headlines : tuple of str
        The result in a few sentences.
    report : pathlib.Path or None
        The HTML report.
    computed : bool
        False: everything was up to date.

    Examples
    --------
    >>> SolveRunResult(Path("out"), 2, 0, {}, ("One solution.",), None).n_done
    2
    """

    folder: Path
    n_done: int
    n_failed: int
    failures: dict[str, str]
    headlines: tuple[str, ...]
    report: Path | None
    computed: bool = True


def source_files(config: SolveRunConfig, given: Sequence[str | Path]) -> list[Path]:
    """Return the tables of sources: those given, else those of ``[sources] files``.

    Raises
    ------
    ConfigError
        If there are none, or a pattern matches none.
    """
    if given:
        return [Path(g) for g in given]
    found: list[Path] = []
    for pattern in config.sources.files:
        here = [Path(p) for p in sorted(glob.glob(str(config.path(pattern)), recursive=True))]
        if not here:
            raise ConfigError(
                f"[sources] files: {pattern!r} matches no file (looked in {config.folder})."
            )
        found += here
    if not found:
        raise ConfigError(
            "No table of sources: name some, as in 'pogson solve sources/*.parquet --config "
            "solve.toml', or give [sources] files."
        )
    return list(dict.fromkeys(found))


def run_solve(
    config: SolveRunConfig,
    sources: Sequence[str | Path] = (),
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    kind: Any = None,
    listener: Any = None,
) -> SolveRunResult:
    """Solve for one calibration of all exposures in some tables of sources.

    Parameters
    ----------
    config : SolveRunConfig
        From `load_solve_config`.
    sources : sequence of path-like, optional
        Tables; by default those of the configuration.
    workers : int, optional
        Number of processes for partitions; default all cores.
    scheduler : str, optional
        Address of a Dask scheduler.
    kind : {'serial', 'threads', 'processes', 'dask'}, optional
        Where partitions are worked on.
    listener : object, optional
        Progress display; see `pogson.run.run_survey`.

    Returns
    -------
    SolveRunResult

    Raises
    ------
    ConfigError
        If the configuration is wrong or its terms do not suit the data.
    PogsonError
        If the sources cannot be read or solved.

    Examples
    --------
    >>> run_solve(SolveRunConfig())
    Traceback (most recent call last):
      ...
    pogson.errors.ConfigError: No table of sources: name some, ...
    """
    from pogson.parallel import get_executor
    from pogson.run.resume import TaskState, fingerprint
    from pogson.run.solve_sources import iter_sources
    from pogson.run.solve_stage import reference_catalog, solve_and_write
    from pogson.run.stages import locked, logging_to
    from pogson.run.zeroing import reference_files

    files = source_files(config, sources)
    references = [] if config.reference is None else list(reference_files(config))
    root = config.output_folder
    mark = fingerprint(
        files=[*files, *references],
        settings=[config.model_dump(mode="json")[k] for k in ("sources", "reference", "solve")],
    )
    state = TaskState(root / "stages" / "solve", "survey")
    with locked(root), logging_to(root / "run.log"):
        computed = not state.is_current(mark)
        if listener is not None:
            listener.begin("solve", 1, 0 if computed else 1)
        if computed:
            state.begin()
            catalog = reference_catalog(config.reference, config)
            with get_executor(workers, kind=kind, scheduler=scheduler) as executor:
                solve_and_write(
                    partial(iter_sources, files, config.sources), config.solve, config.reference,
                    catalog, config.folder, root, executor,
                    fingerprint(files=[*files, *references],
                                settings=config.sources.model_dump(mode="json")),
                )  # fmt: skip
            outputs = [p for p in root.glob("*.*") if p.suffix in (".json", ".h5", ".parquet")]
            for name in ("calibrations", "residuals", "stars"):
                outputs += (root / name).glob("*")
            state.finish(mark, outputs)
            if listener is not None:
                listener.advance("survey", None)
        return _finish(config, root, computed)


def _finish(config: SolveRunConfig, root: Path, computed: bool) -> SolveRunResult:
    from pogson.run.solve_summary import solve_headlines, solve_summary

    summary = solve_summary(root)
    assert summary is not None
    failures = dict(summary["failed"])
    done = len(list((root / "calibrations").glob("*.json"))) - len(failures)
    words = (
        f"{done} of {done + len(failures)} detector images calibrated.",
        *solve_headlines(summary),
    )
    report = None
    if config.report.enabled:
        from pogson.report.solve_page import write_solve_report
        from pogson.run.solve_reporting import solve_report

        data = solve_report(root, config.report.title or config.survey.name, words)
        text = json.dumps(config.model_dump(mode="json", exclude_none=True), indent=1)
        report = write_solve_report(data, root / "report.html", config_text=text)
    return SolveRunResult(root, done, len(failures), failures, words, report, computed)
