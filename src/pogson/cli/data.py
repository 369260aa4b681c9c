"""``pogson data``: the real data sets used in examples and tests."""

from __future__ import annotations

import json

import click

__all__ = ["command"]


@click.group(name="data")
def command() -> None:
    """List, fetch and find the real data sets used in examples.

    Files are looked for in the folder that POGSON_DATA names, then in the cache.
    """


@command.command(name="list", short_help="List data sets, all or those of a GROUP.")
@click.argument("group", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_command(group: str | None, as_json: bool) -> None:
    """List data sets, all or those of a GROUP such as hsc or decam-cutouts/testcase4."""
    from pogson.datasets import dataset_path, list_datasets
    from pogson.errors import MissingDataError

    def here(name: str) -> bool:
        try:
            dataset_path(name)
        except MissingDataError:
            return False
        return True

    found = list_datasets(group)
    if as_json:
        rows = [
            {"name": d.name, "bytes": d.size, "sha256": d.sha256, "url": d.url,
             "licence": d.licence, "here": here(d.name)}
            for d in found
        ]  # fmt: skip
        click.echo(json.dumps(rows, indent=2))
        return
    for entry in found:
        mark = "here" if here(entry.name) else "    "
        size = f"{entry.size / 1e6:8.3f} MB"
        click.echo(f"{mark}  {size}  {entry.name}  ({entry.repository}; {entry.licence})")
    click.echo(f"{len(found)} files, {sum(d.size for d in found) / 1e6:.1f} MB")


@command.command(name="fetch", short_help="Download files or groups that are missing.")
@click.argument("names", nargs=-1, required=True)
def fetch_command(names: tuple[str, ...]) -> None:
    """Download files or groups NAMES that are missing, checking their SHA-256."""
    from pogson.datasets import fetch, find_datasets

    for name in names:
        find_datasets(name)  # a misspelt name fails before anything is downloaded
    for name in names:
        for path in fetch(name):
            click.echo(str(path))


@command.command(name="path", short_help="Print where a file or group is.")
@click.argument("name")
@click.option("--check", is_flag=True, help="Compare the SHA-256 with the registered one.")
def path_command(name: str, check: bool) -> None:
    """Print where a file or group NAME is on this machine; nothing is downloaded."""
    from pogson.datasets import dataset_path

    click.echo(str(dataset_path(name, check=check)))
