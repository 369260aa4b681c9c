"""``pogson report``: write the HTML report of a finished run again."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["command"]


@click.command(name="report")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--output", "-o", type=click.Path(path_type=Path), help="HTML file to write.")
def command(folder: Path, output: Path | None) -> None:
    """Write the HTML report of the run whose results are in FOLDER."""
    if (folder / "fluxcal.json").is_file():
        from pogson.run.fluxcal_products import fluxcal_page

        click.echo(f"Report: {fluxcal_page(folder, output)}")
        return
    from pogson.run.reporting import report_from_folder

    click.echo(f"Report: {report_from_folder(folder, output)}")
