"""``pogson demo``: a simulated survey, calibrated, with the truth beside the result."""

from __future__ import annotations

from pathlib import Path

import click

from pogson.cli.run import ProgressBars, finish, parallel_options

__all__ = ["command"]


@click.command(name="demo")
@click.option("--output", "-o", type=click.Path(path_type=Path), default=Path("pogson-demo"),
              show_default=True, help="Folder to make.")  # fmt: skip
@click.option("--size", type=click.IntRange(min=64), default=1024, show_default=True,
              help="Pixels of a detector's side.")  # fmt: skip
@click.option("--seed", type=int, default=20260101, show_default=True, help="Random seed.")
@click.option("--audit/--no-audit", default=True, show_default=True,
              help="Inject sources and recover them.")  # fmt: skip
@parallel_options
def command(
    output: Path,
    size: int,
    seed: int,
    audit: bool,
    workers: int | None,
    scheduler: str | None,
    quiet: bool,
) -> None:
    """Simulate a small survey, calibrate it, and audit the calibration.

    Four detectors, ten dithered visits in two bands, a strongly distorted sky, a varying PSF; the
    report shows the truth beside the result, and synthetic sources put in and found again.
    """
    from pogson.run.demo import run_demo

    with ProgressBars(quiet=quiet) as bars:
        result = run_demo(
            output, workers=workers, scheduler=scheduler, size=size, seed=seed, listener=bars,
            audit=audit,
        )  # fmt: skip
    finish(result)
