"""``pogson fluxcal``: flux calibration of fibre spectra with their standard stars."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pogson.cli.run import ProgressBars, parallel_options

if TYPE_CHECKING:
    from pogson.run.fluxcal_run import FluxCalRunResult

__all__ = ["command"]


@click.command(name="fluxcal")
@click.argument("frame", metavar="[FRAME]", required=False, type=click.Path(path_type=Path))
@click.argument("standards", metavar="[STANDARDS]", required=False,
                type=click.Path(path_type=Path))  # fmt: skip
@click.option("--config", "-c", "config_file", type=click.Path(path_type=Path),
              help="TOML file with everything; arguments and options replace it.")  # fmt: skip
@click.option("--templates", "-t", type=click.Path(path_type=Path),
              help="Library of stellar models: a file, or a folder of BOSZ files.")  # fmt: skip
@click.option("--system", type=click.Choice(["AB", "Vega"], case_sensitive=False),
              help="What the magnitudes are in, where the table does not say.")  # fmt: skip
@click.option("--medium", type=click.Choice(["vacuum", "air"]),
              help="What the wavelengths are in, where the frame does not say.")  # fmt: skip
@click.option("--extinction", metavar="NAME",
              help="Atmospheric extinction: an observatory (paranal), or a file.")  # fmt: skip
@click.option("--apply", "science", multiple=True, type=click.Path(path_type=Path),
              help="Another frame to calibrate; may be given several times.")  # fmt: skip
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Folder of the results.")
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE",
              help="Replace a value of the configuration; may be given several times.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Check everything, list the stars; write nothing.")
@parallel_options
def command(
    frame: Path | None,
    standards: Path | None,
    config_file: Path | None,
    overrides: tuple[str, ...],
    output: Path | None,
    dry_run: bool,
    workers: int | None,
    scheduler: str | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Turn the counts of FRAME into erg/s/cm2/Angstrom, with the standard stars of STANDARDS.

    FRAME is a frame of extracted spectra (SDSS, DESI, plain FITS or ECSV, specutils); STANDARDS a
    table of stars with magnitudes, whose rows find their fibres by number, name or position.
    Writes calibrated FITS files, a table of the stars, one JSON file and one HTML page. A second
    run with the same inputs does only what is missing or out of date. Exit code 1: some frames
    failed, or magnitudes look like another system than was said; 2: the input or the configuration
    is wrong.
    """
    from pogson.errors import ConfigError
    from pogson.run.fluxcal_config import load_fluxcal_config

    given = _given(frame, standards, options)
    if config_file is None:
        needed = {"FRAME": frame, "STANDARDS": standards, "--templates": options["templates"]}
        absent = [name for name, value in needed.items() if value is None]
        if absent:
            raise ConfigError(
                f"{', '.join(absent)} must be given, or --config FILE.toml that says it."
            )
    config = load_fluxcal_config(config_file, overrides, output=output, given=given)
    if dry_run:
        from pogson.run.fluxcal_run import describe_fluxcal_plan

        for line in describe_fluxcal_plan(config):
            click.echo(line)
        return
    from pogson.run.fluxcal_run import run_fluxcal

    with ProgressBars(quiet=quiet) as bars:
        result = run_fluxcal(config, workers=workers, scheduler=scheduler, listener=bars)
    _finish(result)


def _given(
    frame: Path | None, standards: Path | None, options: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Sections of the configuration from arguments and options; paths from the current folder."""
    out: dict[str, dict[str, Any]] = {}

    def put(section: str, key: str, value: Any) -> None:
        if value is not None:
            out.setdefault(section, {})[key] = (
                str(value.absolute()) if isinstance(value, Path) else value
            )

    system = options["system"]
    put("frame", "path", frame)
    put("frame", "medium", options["medium"])
    put("standards", "table", standards)
    put("standards", "system", system and ("AB" if system.upper() == "AB" else "Vega"))
    put("templates", "path", options["templates"])
    extinction = options["extinction"]
    if extinction is not None and Path(extinction).is_file():
        extinction = Path(extinction)
    put("model", "extinction", extinction)
    if options["science"]:
        out["science"] = {"frames": [str(p.absolute()) for p in options["science"]]}
    return out


def _finish(result: FluxCalRunResult) -> None:
    """Print what the job made, its failures, and leave with the fitting exit code."""
    from pogson.cli import EXIT_BAD_INPUT, EXIT_PARTIAL

    for line in result.headlines:
        click.echo(line)
    for failure in result.failures:
        click.echo(f"Error: {failure.key} ({failure.stage}): {failure.reason}", err=True)
    for text in result.summary["suspicions"]:
        click.echo(
            f"Warning: {text}. If so, say it (--system, or [standards] system) and run again.",
            err=True,
        )
    click.echo(f"Results: {result.folder}")
    if result.report is not None:
        click.echo(f"Report:  {result.report}")
    if result.failures and not result.calibrated:
        click.get_current_context().exit(EXIT_BAD_INPUT)
    if result.failures or result.suspicious:
        click.get_current_context().exit(EXIT_PARTIAL)
