"""``pogson inspect``: say what the numbers of a file mean."""

from __future__ import annotations

import json
from pathlib import Path

import click

__all__ = ["command"]


@click.command(name="inspect")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON: one object, or a list of them.")
def command(files: tuple[Path, ...], as_json: bool) -> None:
    """Say in words or JSON what the numbers in FILES mean.

    For images: unit, fluence or surface brightness and why, zero point and what it includes, flux
    reference, bandpass, WCS and pixel areas, mask, background, PSF. What a file does not say is
    called unknown. A file that cannot be read does not stop the others; the exit code is then 2.
    """
    from pogson.errors import PogsonError
    from pogson.formats import inspect_file

    found = []
    failures = 0
    for path in files:
        try:
            inspection = inspect_file(path)
        except PogsonError as error:
            failures += 1
            click.echo(f"Error: {error}", err=True)
            if as_json:
                found.append({"path": str(path), "kind": "error", "title": str(error)})
            continue
        if as_json:
            found.append(inspection.to_dict())
        else:
            click.echo(str(inspection))
            click.echo()
    if as_json:
        click.echo(json.dumps(found[0] if len(files) == 1 else found, indent=2, allow_nan=False))
    if failures:
        raise click.exceptions.Exit(2)
