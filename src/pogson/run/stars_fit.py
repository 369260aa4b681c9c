"""The job of `pogson stars fit`: all stars of a catalogue, into Parquet, a summary and a page."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pogson.errors import ConfigError
from pogson.parallel import get_executor
from pogson.run.resume import TaskState, fingerprint
from pogson.run.stages import Listener, locked, logging_to
from pogson.run.stars_config import StarsRunConfig
from pogson.run.stars_inputs import StarInputs, fit_config, open_star_inputs, star_files

if TYPE_CHECKING:
    from pogson.parallel import TaskResult

__all__ = ["StarsRunResult", "describe_stars_plan", "run_stars"]

_log = logging.getLogger("pogson.run")


@dataclass(frozen=True)
class StarsRunResult:
    """What a job on stars made.

    Parameters
    ----------
    folder : pathlib.Path
        Folder of the results.
    n_stars, n_fitted : int
        Stars, and those that have a fit.
    n_computed : int
        Tasks computed now; 0 if all was up to date.
    summary : dict
        What the JSON file holds.
    headlines : tuple of str
        The result in a few sentences.
    table : pathlib.Path
        Posterior draws of all stars.
    report : pathlib.Path or None
        The HTML page.

    Examples
    --------
    >>> StarsRunResult(Path("out"), 10, 9, 1, {}, (), Path("out/posteriors.parquet"), None).n_fitted
    9
    """

    folder: Path
    n_stars: int
    n_fitted: int
    n_computed: int
    summary: dict[str, Any]
    headlines: tuple[str, ...]
    table: Path
    report: Path | None


def describe_stars_plan(config: StarsRunConfig) -> list[str]:
    """Return what a job would do, in lines; nothing is written.

    Parameters
    ----------
    config : StarsRunConfig
        The configuration.

    Raises
    ------
    PogsonError
        If the configuration or a file that it names is wrong.
    """
    inputs = open_star_inputs(config)
    p = inputs.photometry
    lines = [
        f"{config.stars.name}: {len(p)} stars of {', '.join(inputs.sources)}, into "
        f"{config.output_folder}",
        f"  grid {config.grid.file}; bands {', '.join(p.bands)}",
        f"  {int(p.observed.sum())} measurements, {_count(p.parallax)} parallaxes",
    ]
    for band, codes in inputs.missing.items():
        if codes:
            said = ", ".join(f"{n} x {c}" for c, n in codes.items())
            lines.append(f"  {band}: missing {said}")
    return lines + [f"  {note}" for note in inputs.notes]


def _count(values: Any) -> int:
    import numpy as np

    return int(np.isfinite(values).sum())


def run_stars(
    config: StarsRunConfig,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    kind: Any = None,
    listener: Listener | None = None,
) -> StarsRunResult:
    """Fit all stars of a catalogue; go on where a killed job stopped.

    Parameters
    ----------
    config : StarsRunConfig
        From `load_stars_config`.
    workers : int, optional
        Number of processes; default all cores.
    scheduler : str, optional
        Address of a Dask scheduler.
    kind : {'serial', 'threads', 'processes', 'dask'}, optional
        Where tasks run; see `pogson.parallel.get_executor`.
    listener : object, optional
        Progress display with the methods ``begin(stage, total, reused)`` and
        ``advance(key, reason)``.

    Returns
    -------
    StarsRunResult

    Raises
    ------
    PogsonError
        If the configuration, or a file that it names, is wrong, or parts failed.

    Examples
    --------
    >>> import tempfile
    >>> from pogson.run.stars_config import load_stars_config
    >>> from pogson.run.stars_simulated import write_stars_job
    >>> file = write_stars_job(tempfile.mkdtemp(), n_stars=12, rng_seed=1)
    >>> result = run_stars(load_stars_config(file, ["report.enabled=false"]), workers=1)
    >>> result.n_fitted, result.table.name
    (12, 'posteriors.parquet')
    """
    from pogson.run.stars_products import finish_stars

    inputs = open_star_inputs(config)
    root = config.output_folder
    with locked(root), logging_to(root / "run.log"):
        _log.info("stars %s: %d stars", config.stars.name, len(inputs.photometry))
        table = root / "posteriors.parquet"
        mark = fit_fingerprint(config)
        state = TaskState(root / "stages" / "fit", "posteriors")
        n_computed = 0
        if state.is_current(mark):
            if listener is not None:
                listener.begin("fit", 1, 1)
        else:
            state.begin()
            if not config.grid.whole:
                kind = threads_only(workers, kind, scheduler)
            with get_executor(workers, kind=kind, scheduler=scheduler) as executor:
                n_computed = _fit(config, inputs, table, executor, listener)
            state.finish(mark, [table])
        return finish_stars(config, inputs, table, n_computed, listener)


def fit_fingerprint(config: StarsRunConfig, *more: Any) -> str:
    """Return what the posteriors of a configuration depend on."""
    sections = config.model_dump(mode="json", include={"catalog", "grid", "fit", "priors"})
    return fingerprint(files=star_files(config), settings=[sections, config.stars.seed, *more])


def _fit(
    config: StarsRunConfig,
    inputs: StarInputs,
    table: Path,
    executor: Any,
    listener: Listener | None,
) -> int:
    """Fit what is missing of the table; return how many parts were computed."""
    from pogson.stars import fit_catalog

    n, chunk = len(inputs.photometry), config.fit.chunk
    parts = table.with_name(table.name + ".parts")
    total = -(-n // chunk) if config.fit.nside is None else _n_parts(config, inputs)
    reused = len(list(parts.glob("part-*.parquet")))
    if listener is not None:
        listener.begin("fit", total, reused)
    computed = 0

    def done(result: TaskResult) -> None:
        nonlocal computed
        computed += 1
        reason = None if result.error is None else result.error.message
        if result.error is not None:
            _log.error("part failed: %s\n%s", reason, result.error.traceback)
        if listener is not None:
            listener.advance(f"part {result.index}", reason)

    stars = inputs.photometry
    file = config.path(config.grid.file)
    fit_catalog(
        file if config.grid.whole else config.read_grid(stars.bands), stars, table,
        seed=config.stars.seed,
        priors=config.priors_object(), config=fit_config(config, inputs), chunk_size=chunk,
        nside=config.fit.nside, executor=executor, progress=done,
    )  # fmt: skip
    _log.info("fit: %d of %d parts computed", computed, total)
    return computed


def threads_only(workers: int | None, kind: Any, scheduler: str | None) -> Any:
    """Return the kind of executor for a grid that is not read from its file by every process.

    Parameters
    ----------
    workers, kind, scheduler
        As in `run_stars`.

    Raises
    ------
    ConfigError
        If processes or a cluster are asked for.
    """
    if scheduler is not None or kind in ("processes", "dask"):
        raise ConfigError(
            "With [grid] binaries, main_sequence or evolved changed, stars are fitted in threads "
            "of this process; write the models you want into a grid of their own for a cluster."
        )
    return "serial" if workers == 1 or kind == "serial" else "threads"


def _n_parts(config: StarsRunConfig, inputs: StarInputs) -> int:
    import numpy as np

    from pogson.stars import healpix_of

    assert config.fit.nside is not None
    pixel = healpix_of(inputs.photometry.l, inputs.photometry.b, config.fit.nside)
    counts: Sequence[int] = np.unique(pixel, return_counts=True)[1].tolist()
    return sum(-(-k // config.fit.chunk) for k in counts)
