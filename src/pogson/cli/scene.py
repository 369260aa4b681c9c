"""``pogson scene``: photometry of moving objects, transients and binaries over a scene."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pogson.cli.run import ProgressBars, parallel_options

if TYPE_CHECKING:
    from pogson.run.scene_run import SceneRunResult

__all__ = ["command"]


@click.command(name="scene")
@click.argument("config_file", metavar="SCENE.toml", type=click.Path(path_type=Path))
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Folder of the results.")
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE",
              help="Replace a value of the configuration; may be given several times.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Check everything and list the tasks; write nothing.")
@parallel_options
def command(
    config_file: Path,
    output: Path | None,
    overrides: tuple[str, ...],
    dry_run: bool,
    workers: int | None,
    scheduler: str | None,
    quiet: bool,
) -> None:
    """Measure the targets that SCENE.toml names: point sources over a static scene.

    Fits all exposures of a target at once: the scene that they share, the sky of each, and the
    source where it shines. Writes one table of fluxes in nJy, one JSON file and one HTML page. A
    second run with the same inputs does only what is missing or out of date. Exit code 1: some
    targets failed; 2: the input or the configuration is wrong.
    """
    from pogson.run.scene_config import load_scene_config

    config = load_scene_config(config_file, overrides, output=output)
    if dry_run:
        from pogson.run.scene_run import describe_scene_plan

        for line in describe_scene_plan(config):
            click.echo(line)
        return
    from pogson.run.scene_run import run_scene

    with ProgressBars(quiet=quiet) as bars:
        result = run_scene(config, workers=workers, scheduler=scheduler, listener=bars)
    _finish(result)


def _finish(result: SceneRunResult) -> None:
    """Print what the job made, its failures, and leave with the fitting exit code."""
    from pogson.cli import EXIT_BAD_INPUT, EXIT_PARTIAL

    for line in result.headlines:
        click.echo(line)
    for failure in result.failures:
        click.echo(f"Error: {failure.key} ({failure.stage}): {failure.reason}", err=True)
    click.echo(f"Results: {result.folder}")
    if result.report is not None:
        click.echo(f"Report:  {result.report}")
    if result.failures:
        code = EXIT_PARTIAL if result.n_done else EXIT_BAD_INPUT
        click.get_current_context().exit(code)
