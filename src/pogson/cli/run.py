"""``pogson run``: calibrate the exposures of a survey."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pogson.run import RunResult

__all__ = ["ProgressBars", "command", "finish", "parallel_options"]


class ProgressBars:
    """Progress bars of a run on the terminal; plain lines where there is none.

    Examples
    --------
    >>> with ProgressBars(quiet=True) as bars:
    ...     bars.begin("measure", 3)
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._progress: Any = None
        self._bar: Any = None
        self._failed = 0

    def __enter__(self) -> ProgressBars:
        """Start drawing, on the standard error stream."""
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeElapsedColumn,
            )

            self._progress = Progress(
                TextColumn("{task.description:<12}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop drawing."""
        if self._progress is not None:
            self._progress.stop()

    def begin(self, stage: str, total: int, reused: int = 0) -> None:
        """Start the bar of a stage with a number of tasks, some of them up to date already."""
        self._failed = 0
        note = f"{reused} up to date" if reused else ""
        if self._progress is not None:
            self._bar = self._progress.add_task(stage, total=total, completed=reused, note=note)
        elif not self._quiet:
            tail = f" ({note})" if note else ""
            click.echo(f"{stage}: {total} task{'s' if total != 1 else ''}{tail}", err=True)

    def advance(self, key: str, reason: str | None) -> None:
        """Count one task; ``reason`` says why it failed."""
        if reason is not None:
            self._failed += 1
            if self._progress is None and not self._quiet:
                click.echo(f"  {key} failed: {reason}", err=True)
        if self._progress is not None:
            note = f"{self._failed} failed" if self._failed else ""
            self._progress.update(self._bar, advance=1, note=note)


def parallel_options(function: Any) -> Any:
    """Add the options that say where tasks run."""
    for option in (
        click.option("--workers", "-j", type=click.IntRange(min=1),
                     help="Number of processes; default: all cores."),
        click.option("--scheduler", metavar="ADDRESS",
                     help="Run on a Dask cluster, such as tcp://host:8786."),
        click.option("--quiet", "-q", is_flag=True, help="No progress."),
    ):  # fmt: skip
        function = option(function)
    return function


def finish(result: RunResult) -> None:
    """Print what a run made, its failures, and leave with the fitting exit code."""
    from pogson.cli import EXIT_BAD_INPUT, EXIT_PARTIAL

    for line in result.headlines:
        click.echo(line)
    for failure in result.failures:
        click.echo(f"Error: {failure.key} ({failure.stage}): {failure.reason}", err=True)
    click.echo(f"Results: {result.folder}")
    if result.report is not None:
        click.echo(f"Report:  {result.report}")
    if result.failures or result.audit_passed is False:
        code = EXIT_PARTIAL if result.n_done else EXIT_BAD_INPUT
        click.get_current_context().exit(code)


@click.command(name="run")
@click.argument("config_file", metavar="CONFIG.toml", type=click.Path(path_type=Path))
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Folder of the results.")
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE",
              help="Replace a value of the configuration; may be given several times.")  # fmt: skip
@click.option("--audit/--no-audit", default=None,
              help="Inject sources and recover them, whatever the configuration says.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Check everything and list the tasks; write nothing.")
@parallel_options
def command(
    config_file: Path,
    output: Path | None,
    overrides: tuple[str, ...],
    audit: bool | None,
    dry_run: bool,
    workers: int | None,
    scheduler: str | None,
    quiet: bool,
) -> None:
    """Calibrate the exposures that CONFIG.toml names.

    Measures sources, finds zero points, writes calibrated catalogues and images in nJy and one
    HTML report. A second run with the same inputs does only what is missing or out of date. Exit
    code 1: some exposures failed, or the audit broke a limit; 2: the input or the configuration is
    wrong.
    """
    from pogson.run.config import load_config

    if audit is not None:
        overrides = (*overrides, f"audit.enabled={str(audit).lower()}")
    config = load_config(config_file, overrides, output=output)
    if dry_run:
        from pogson.run.pipeline import describe_plan

        for line in describe_plan(config):
            click.echo(line)
        return
    from pogson.run.pipeline import run_survey

    with ProgressBars(quiet=quiet) as bars:
        result = run_survey(config, workers=workers, scheduler=scheduler, listener=bars)
    finish(result)
