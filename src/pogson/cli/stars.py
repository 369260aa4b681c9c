"""``pogson stars``: grids of stellar models, fits of stars, offsets applied to catalogues."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pogson.cli.run import ProgressBars, parallel_options

if TYPE_CHECKING:
    from pogson.run.stars_fit import StarsRunResult

__all__ = ["command", "finish_stars_command", "job_options"]


def job_options(function: Any) -> Any:
    """Add the options of a job on stars."""
    for option in (
        click.option("--grid", "-g", type=click.Path(path_type=Path), help="File of models."),
        click.option("--output", "-o", type=click.Path(path_type=Path),
                     help="Folder of the results."),
        click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE",
                     help="Replace a value of the configuration; may be given several times."),
        click.option("--dry-run", is_flag=True,
                     help="Check everything and say what was found; write nothing."),
    ):  # fmt: skip
        function = option(function)
    return function


def finish_stars_command(result: StarsRunResult) -> None:
    """Print what a job made, and leave with the fitting exit code."""
    from pogson.cli import EXIT_BAD_INPUT

    for line in result.headlines:
        click.echo(line)
    click.echo(f"Results: {result.folder}")
    if result.report is not None:
        click.echo(f"Report:  {result.report}")
    if result.n_fitted == 0:
        click.echo("Error: no star could be fitted; the flags say why.", err=True)
        click.get_current_context().exit(EXIT_BAD_INPUT)


@click.group(name="stars")
def command() -> None:
    """Fit stars with model grids: distances, extinctions, types."""


@command.command(name="grid")
@click.argument("file", metavar="GRID.h5", type=click.Path(path_type=Path))
@click.option("--build", "kind", type=click.Choice(["mist", "synthetic", "simulated"]),
              help="Build a grid of this kind instead of reading one.")  # fmt: skip
@click.option("--band", "bands", multiple=True, metavar="NAME",
              help="A band; may be given several times. For synthetic grids NAME=FILTER, with a "
              "filter of speclite.")  # fmt: skip
@click.option("--law", help="Extinction law, such as CCM89, F19 or G23.")
@click.option("--av-max", type=click.FloatRange(min=0.1), default=2.0, show_default=True,
              help="The extinction formula of a MIST grid is fitted up to this A_V.")  # fmt: skip
@click.option("--mini", metavar="LIST", help="Initial masses: 0.5,1,2 or low:high:step.")
@click.option("--eep", metavar="LIST", help="Equivalent evolutionary points.")
@click.option("--feh", metavar="LIST", help="Initial [Fe/H].")
@click.option("--smf", metavar="LIST", help="Masses of companions over the primary's; 0: single.")
@click.option("--log-age", metavar="LIST", help="log10 ages in years, in place of masses.")
@click.option("--temperatures", metavar="LIST", help="Of the templates of a synthetic grid, K.")
@click.option("--models", "n_models", type=click.IntRange(min=100), default=4000, show_default=True,
              help="About how many models a simulated grid has.")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@click.option("--quiet", "-q", is_flag=True, help="No progress.")
def grid_command(
    file: Path,
    kind: str | None,
    bands: tuple[str, ...],
    law: str | None,
    av_max: float,
    n_models: int,
    temperatures: str | None,
    force: bool,
    quiet: bool,
    **axes: str | None,
) -> None:
    """Say what is in GRID.h5, or build it.

    MIST grids are made from the packages lachesis-grids and astrolachesis, which you install
    yourself: pip install --no-deps lachesis-grids astrolachesis.
    """
    from pogson.errors import ConfigError
    from pogson.run.stars_grid import build_grid, describe_grid

    if kind is None:
        lines = describe_grid(file, bands or None)
    else:
        if file.exists() and not force:
            raise ConfigError(f"{file} exists; give another name, or --force to replace it.")
        with ProgressBars(quiet=quiet) as bars:
            given = {k: v for k, v in axes.items() if v is not None}
            build_grid(
                kind, file, bands=bands or None, law=law, av_max=av_max, axes=given,
                temperatures=temperatures, n_models=n_models, progress=_steps(bars),
            )  # fmt: skip
        lines = describe_grid(file)
    for line in lines:
        click.echo(line)


def _steps(bars: ProgressBars) -> Any:
    """Return a callable (done, total) that draws a bar."""
    begun = False

    def step(done: int, total: int) -> None:
        nonlocal begun
        if not begun:
            bars.begin("build", total)
            begun = True
        bars.advance(str(done), None)

    return step


@command.command(name="fit")
@click.argument("source", metavar="STARS.toml|CATALOGUE", type=click.Path(path_type=Path))
@job_options
@click.option("--offsets", type=click.Path(path_type=Path),
              help="Offsets file: applied to the photometry first.")  # fmt: skip
@parallel_options
def fit_command(
    source: Path,
    grid: Path | None,
    output: Path | None,
    overrides: tuple[str, ...],
    dry_run: bool,
    offsets: Path | None,
    workers: int | None,
    scheduler: str | None,
    quiet: bool,
) -> None:
    """Fit all stars of a catalogue with a grid of models.

    Takes a configuration, or a catalogue (FITS, CSV, ECSV, Parquet, VOTable, HDF5) whose columns
    have the names of the grid's bands. Writes posterior draws, a summary table, a JSON file and an
    HTML page. A job that was killed goes on where it stopped. Exit code 2: the input or the
    configuration is wrong.
    """
    from pogson.run.stars_config import load_stars_config

    given = {"grid": _values(file=grid), "fit": _values(offsets=offsets)}
    config = load_stars_config(source, overrides, output=output, given=given)
    from pogson.run.stars_fit import describe_stars_plan, run_stars

    if dry_run:
        for line in describe_stars_plan(config):
            click.echo(line)
        return
    with ProgressBars(quiet=quiet) as bars:
        result = run_stars(config, workers=workers, scheduler=scheduler, listener=bars)
    finish_stars_command(result)


def _values(**options: Any) -> dict[str, Any]:
    return {k: str(v) for k, v in options.items() if v is not None}


@command.command(name="apply-offsets")
@click.argument("catalogue", type=click.Path(path_type=Path))
@click.argument("offsets", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--kind", type=click.Choice(["magnitude", "flux"]), default="magnitude",
              show_default=True, help="What the columns hold.")  # fmt: skip
@click.option("--column", "columns", multiple=True, metavar="BAND=COLUMN",
              help="Column of a band; by default columns of the band's name.")  # fmt: skip
@click.option("--table", help="FITS extension, or dataset of an HDF5 file.")
def apply_command(
    catalogue: Path,
    offsets: Path,
    output: Path,
    kind: str,
    columns: tuple[str, ...],
    table: str | None,
) -> None:
    """Write a copy of CATALOGUE with OFFSETS applied to OUTPUT.

    What was applied is recorded in the copy; the same offsets are not applied twice. For fluxes
    the errors in columns such as PS_g_Err are scaled too.
    """
    from pogson.run.stars_apply import apply_offsets_to_file

    for line in apply_offsets_to_file(
        catalogue, offsets, output, kind=kind, columns=columns, table=table
    ):
        click.echo(line)
