"""``pogson solve``: one calibration of all exposures, from tables of sources."""

from __future__ import annotations

from pathlib import Path

import click

from pogson.cli.run import ProgressBars, parallel_options

__all__ = ["command"]


@click.command(name="solve")
@click.argument("sources", nargs=-1, type=click.Path(path_type=Path))
@click.option("--config", "-c", "config_file", metavar="SOLVE.toml", required=True,
              type=click.Path(path_type=Path),
              help="Terms, references, names of columns.")  # fmt: skip
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Folder of the results.")
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE",
              help="Replace a value of the configuration; may be given several times.")  # fmt: skip
@parallel_options
def command(
    sources: tuple[Path, ...],
    config_file: Path,
    output: Path | None,
    overrides: tuple[str, ...],
    workers: int | None,
    scheduler: str | None,
    quiet: bool,
) -> None:
    """Calibrate all exposures at once from the stars that they share.

    SOURCES are tables of detections: catalogues of `pogson run`, or those of any program. Writes a
    calibration with covariance for each exposure and detector, the stars, the solution and one
    HTML report. Exit code 1: some exposures could not be calibrated; 2: the input or the
    configuration is wrong, or the terms chosen cannot be told apart.
    """
    from pogson.cli import EXIT_BAD_INPUT, EXIT_PARTIAL
    from pogson.run.solve_run import load_solve_config, run_solve

    config = load_solve_config(config_file, overrides, output=output)
    with ProgressBars(quiet=quiet) as bars:
        result = run_solve(config, sources, workers=workers, scheduler=scheduler, listener=bars)
    for line in result.headlines:
        click.echo(line)
    for key, reason in result.failures.items():
        click.echo(f"Error: {key} (solve): {reason}", err=True)
    click.echo(f"Results: {result.folder}")
    if result.report is not None:
        click.echo(f"Report:  {result.report}")
    if result.failures:
        click.get_current_context().exit(EXIT_PARTIAL if result.n_done else EXIT_BAD_INPUT)
