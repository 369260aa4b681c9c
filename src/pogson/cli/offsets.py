"""``pogson offsets``: offsets of bands against stellar models."""

from __future__ import annotations

from pathlib import Path

import click

from pogson.cli.run import ProgressBars, parallel_options
from pogson.cli.stars import finish_stars_command, job_options

__all__ = ["command"]


@click.command(name="offsets")
@click.argument("source", metavar="STARS.toml|CATALOGUE", type=click.Path(path_type=Path))
@job_options
@click.option(
    "--gauge",
    metavar="parallax|mean|BAND",
    help="What holds the grey term: parallaxes (absolute offsets), the mean of the bands, "
    "or one band (offsets relative to it). Must be given, here or as [offsets] gauge.",
)
@click.option(
    "--truth",
    type=click.Path(path_type=Path),
    help="Offsets file to compare with, for simulations.",
)
@parallel_options
def command(
    source: Path,
    grid: Path | None,
    output: Path | None,
    overrides: tuple[str, ...],
    dry_run: bool,
    gauge: str | None,
    truth: Path | None,
    workers: int | None,
    scheduler: str | None,
    quiet: bool,
) -> None:
    """Infer the zero-point offset of every band from stars and a grid of models.

    Offsets, their covariance and the intrinsic scatter of each band are inferred together with the
    stars' models, distances and extinctions. Writes offsets.txt ("filter offset"), offsets.ecsv
    (with the covariance), offsets.json and offsets.html. A job that was killed goes on where it
    stopped. Exit code 2: the input or the configuration is wrong.
    """
    from pogson.run.stars_config import load_stars_config

    given = {
        "grid": {} if grid is None else {"file": str(grid)},
        "offsets": {} if gauge is None else {"gauge": gauge},
    }
    if truth is not None:
        given["offsets"]["truth"] = str(truth)
    if output is None and source.suffix != ".toml":
        output = Path("offsets-output")
    config = load_stars_config(source, overrides, output=output, given=given)
    from pogson.run.stars_offsets import describe_offsets_plan, run_offsets

    if dry_run:
        for line in describe_offsets_plan(config):
            click.echo(line)
        return
    with ProgressBars(quiet=quiet) as bars:
        result = run_offsets(config, workers=workers, scheduler=scheduler, listener=bars)
    finish_stars_command(result)
