"""The job of `pogson offsets`: offsets of bands against a grid, their covariance, and a page."""

from __future__ import annotations

import logging
import shutil
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import ConfigError, MaskedDataError, choices
from pogson.parallel import get_executor
from pogson.run.resume import TaskState
from pogson.run.stages import Listener, locked, logging_to
from pogson.run.stars_config import StarsRunConfig
from pogson.run.stars_fit import (
    StarsRunResult,
    describe_stars_plan,
    fit_fingerprint,
    threads_only,
)
from pogson.run.stars_inputs import StarInputs, fit_config, open_star_inputs
from pogson.streams import stream

if TYPE_CHECKING:
    from pogson.parallel import TaskResult
    from pogson.report.stars_data import OffsetsRecord
    from pogson.stars import BandCalibration, StarPhotometry

__all__ = ["describe_offsets_plan", "offsets_record", "run_offsets"]

_log = logging.getLogger("pogson.run")
_FAR = 3.0  # offsets beyond this many standard deviations of their prior are suspect


def run_offsets(
    config: StarsRunConfig,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    kind: Any = None,
    listener: Listener | None = None,
) -> StarsRunResult:
    """Infer the offsets of all bands, and fit the stars with them; go on where a job was killed.

    Parameters
    ----------
    config : StarsRunConfig
        From `load_stars_config`; ``[offsets] gauge`` must be given.
    workers : int, optional
        Number of processes; default all cores.
    scheduler : str, optional
        Address of a Dask scheduler.
    kind : {'serial', 'threads', 'processes', 'dask'}, optional
        Where stars are fitted; see `pogson.parallel.get_executor`. No number depends on it.
    listener : object, optional
        Progress display with the methods ``begin(stage, total, reused)`` and
        ``advance(key, reason)``.

    Returns
    -------
    StarsRunResult
        Its folder has ``offsets.txt``, ``offsets.ecsv`` (with the covariance), ``offsets.json``,
        ``offsets.html`` and ``posteriors.parquet``.

    Raises
    ------
    PogsonError
        If the configuration, or a file that it names, is wrong.

    Examples
    --------
    >>> import tempfile
    >>> from pogson.run.stars_config import load_stars_config
    >>> from pogson.run.stars_simulated import write_stars_job
    >>> file = write_stars_job(tempfile.mkdtemp(), n_stars=60, offsets=True, rng_seed=1)
    >>> quick = ["offsets.gauge=PS_r", "offsets.averages=1", "report.enabled=false",
    ...          "offsets.max_rounds=4", "offsets.trends=false"]
    >>> result = run_offsets(load_stars_config(file, quick), workers=1)
    >>> sorted(p.name for p in result.folder.glob("offsets.*"))
    ['offsets.ecsv', 'offsets.json', 'offsets.txt']
    """
    from pogson.run.stars_products import finish_stars
    from pogson.stars import read_offsets, write_offsets

    inputs = _opened(config)
    gauge = checked_gauge(config, inputs)
    inputs = _chosen(config, inputs)
    truth = None
    if config.offsets.truth is not None:
        truth = _truth(read_offsets(config.path(config.offsets.truth)), inputs, gauge)
    root = config.output_folder
    with locked(root), logging_to(root / "run.log"):
        mark = fit_fingerprint(config, config.model_dump(mode="json", include={"offsets"}))
        state = TaskState(root / "stages" / "offsets", "offsets")
        names = ("posteriors.parquet", "offsets.ecsv", "offsets.txt")
        table, ecsv, text = (root / n for n in names)
        record_file = root / "stages" / "offsets" / "calibration.npz"
        n_computed = 0
        if state.is_current(mark):
            if listener is not None:
                listener.begin("calibrate", 1, 1)
            record = _load(record_file)
        else:
            state.begin()
            work = _work_folder(state.path.parent, mark)
            if not config.grid.whole:
                kind = threads_only(workers, kind, scheduler)
            with get_executor(workers, kind=kind, scheduler=scheduler) as executor:
                stage = _Stage(config, inputs, executor, work, listener)
                made = stage.calibrated(gauge)
                record = offsets_record(made, truth)
                stage.fitted(made).replace(table)
            _save(record_file, record)
            write_offsets(text, made)
            write_offsets(ecsv, made)
            state.finish(mark, [table, ecsv, text, record_file])
            shutil.rmtree(work, ignore_errors=True)
            n_computed = 1
        factors = record.offsets
        corrected = replace(inputs, photometry=inputs.photometry.scaled(factors))
        return finish_stars(
            config, corrected, table, n_computed, listener, name="offsets", offsets=record,
            more={"offsets": _json(record)}, said=_headlines(config, record, inputs),
        )  # fmt: skip


def describe_offsets_plan(config: StarsRunConfig) -> list[str]:
    """Return what a job would do, in lines; nothing is written.

    Raises
    ------
    PogsonError
        If the configuration or a file that it names is wrong.
    """
    inputs = _opened(config)
    gauge = checked_gauge(config, inputs)
    chosen = _chosen(config, inputs)
    return [
        *describe_stars_plan(config),
        f"  offsets from {len(chosen.photometry)} stars, gauge {gauge}",
    ]


def _opened(config: StarsRunConfig) -> StarInputs:
    fit = config.fit
    if fit.offsets is not None or fit.error_floor != 0.0 or fit.fit_error_scale != 0.0:
        raise ConfigError(
            "[fit] offsets, error_floor and fit_error_scale belong to `pogson stars fit`; here "
            "offsets and scatter are inferred. Set [offsets] scatter to hold the scatter fixed."
        )
    return open_star_inputs(config)


def checked_gauge(config: StarsRunConfig, inputs: StarInputs) -> str:
    """Return the gauge, or say why one must be given.

    Raises
    ------
    ConfigError
        If none is given, it is not a band, or it needs parallaxes that are not there.
    """
    gauge, bands = config.offsets.gauge, inputs.photometry.bands
    allowed = choices(["parallax", "mean", *bands])
    if gauge is None:
        raise ConfigError(
            "Say what holds the grey term of the offsets, which looks like a change of all "
            f"distances: --gauge (or [offsets] gauge) is {allowed}. 'parallax' gives absolute "
            "offsets, a band's name offsets relative to it."
        )
    if gauge not in ("parallax", "mean", *bands):
        raise ConfigError(f"[offsets] gauge is {gauge!r}; allowed: {allowed}.")
    n = int(np.isfinite(inputs.photometry.parallax).sum())
    if gauge == "parallax" and n == 0:
        raise ConfigError(
            "The gauge 'parallax' needs parallaxes and the catalogue has none (say which columns "
            f"they are: [catalog] parallax); or choose {choices(['mean', *bands])}."
        )
    return gauge


def _chosen(config: StarsRunConfig, inputs: StarInputs) -> StarInputs:
    """Leave out stars with too few bands; take a random sample of the others if asked."""
    p, notes = inputs.photometry, list(inputs.notes)
    least = config.offsets.min_bands
    rows = np.flatnonzero(p.n_bands >= least)
    if not len(rows):
        raise MaskedDataError(
            f"No star of {len(p)} has {least} bands ([offsets] min_bands); the most is "
            f"{int(p.n_bands.max(initial=0))}."
        )
    most = config.offsets.max_stars
    if min(len(rows), len(rows) if most is None else most) <= len(p.bands):
        raise MaskedDataError(
            f"{len(rows) if most is None else min(len(rows), most)} stars are too few for "
            f"{len(p.bands)} offsets: what they say is learned from the differences between stars. "
            "Give more stars, or fewer bands."
        )
    if len(rows) < len(p):
        notes.append(f"{len(p) - len(rows)} stars with fewer than {least} bands are not used.")
    if most is not None and len(rows) > most:
        notes.append(f"A random {most} of {len(rows)} stars are used ([offsets] max_stars).")
        rng = stream(config.stars.seed, "offsets sample")
        rows = np.sort(rng.choice(rows, most, replace=False))
    return replace(inputs, photometry=p.select(rows), notes=tuple(notes))


def _truth(expected: BandCalibration, inputs: StarInputs, gauge: str) -> np.ndarray:
    """Return expected offsets of the bands, in the gauge of the result."""
    from pogson.stars.grid import missing_name

    known = dict(zip(expected.bands, expected.log_offsets, strict=True))
    for band in inputs.photometry.bands:
        if band not in known:
            raise missing_name(band, expected.bands, "filter", "The file of [offsets] truth")
    x = np.array([known[b] for b in inputs.photometry.bands])
    if gauge == "mean":
        x = x - x.mean()
    elif gauge != "parallax":
        x = x - known[gauge]
    return np.exp(x)


class _Counted:
    """A sampler that reports each refit of the stars."""

    def __init__(self, sampler: Any, n_stars: int, listener: Listener | None) -> None:
        self.sampler, self.n_stars, self.listener = sampler, n_stars, listener

    def __call__(self, stars: StarPhotometry, seed: int, /) -> Any:
        """Fit, and advance by one when these are most of the stars."""
        out = self.sampler(stars, seed)
        if self.listener is not None and 2 * len(stars) > self.n_stars:
            self.listener.advance("round", None)
        return out


def _work_folder(folder: Path, mark: str) -> Path:
    """Return the folder of a job that is not finished; remove those of other jobs."""
    work = folder / f"work-{mark[:16]}"
    for other in folder.glob("work-*"):
        if other != work:
            shutil.rmtree(other, ignore_errors=True)
    return work


@dataclass(frozen=True)
class _Stage:
    """The two parts of a job that fit stars, and where they do."""

    config: StarsRunConfig
    inputs: StarInputs
    executor: Executor
    work: Path
    listener: Listener | None

    @property
    def grid(self) -> Any:
        """The grid's file, or the grid itself where not all of its models are wanted."""
        c = self.config
        bands = self.inputs.photometry.bands
        return c.path(c.grid.file) if c.grid.whole else c.read_grid(bands)

    def calibrated(self, gauge: str) -> BandCalibration:
        """Return the calibration of the bands."""
        from pogson.stars import CalibrationConfig, calibrate_bands, grid_sampler

        config, stars = self.config, self.inputs.photometry
        o = config.offsets
        settings = CalibrationConfig(
            max_rounds=o.max_rounds, averages=o.averages, prior_std=o.prior_std, scatter=o.scatter,
            scatter_floor=o.scatter_floor, outliers=o.outliers,
            min_bands=min(o.min_bands, len(stars.bands)),
        )  # fmt: skip
        if self.listener is not None:
            self.listener.begin("calibrate", o.max_rounds + o.averages)
        priors = config.priors_object()
        sampler = grid_sampler(
            self.grid, priors=priors, executor=self.executor, keep=self.work,
            config=fit_config(config, self.inputs, n_draws=o.draws, error_floor=0.0),
        )  # fmt: skip
        made = calibrate_bands(
            stars, _Counted(sampler, len(stars), self.listener), config=settings,
            covariates=_covariates(stars) if o.trends else None, seed=config.stars.seed,
        )  # fmt: skip
        _log.info("offsets: %s after %d rounds, converged %s", made, made.rounds, made.converged)
        settled = made if gauge == "parallax" else made.relative_to(gauge)
        origin = {
            "catalogue": list(self.inputs.sources), "grid": str(config.grid.file),
            "grid_digest": config.read_grid(stars.bands).digest, "n_stars": len(stars),
            "converged": bool(made.converged), "rounds": int(made.rounds),
            "priors": dict(priors.describe()),
        }  # fmt: skip
        return replace(settled, provenance={**settled.provenance, **origin})

    def fitted(self, made: BandCalibration) -> Path:
        """Fit the stars with offsets applied and the scatter as error floor; return the file."""
        from pogson.stars import fit_catalog

        config, listener = self.config, self.listener
        floors = {b: float(s) for b, s in zip(made.bands, made.scatter, strict=True)}
        stars, chunk = self.inputs.photometry.scaled(made.offsets), config.fit.chunk
        if listener is not None:
            listener.begin("fit", -(-len(stars) // chunk))

        def done(result: TaskResult) -> None:
            if listener is not None:
                reason = None if result.error is None else result.error.message
                listener.advance(f"part {result.index}", reason)

        return fit_catalog(
            self.grid, stars, self.work / "posteriors.parquet", seed=config.stars.seed,
            priors=config.priors_object(), chunk_size=chunk, executor=self.executor, progress=done,
            config=fit_config(config, self.inputs, error_floor=floors),
        )  # fmt: skip


def _covariates(stars: StarPhotometry) -> dict[str, Any]:
    """Return the magnitude in a middle band and a colour, NaN where unknown."""
    with np.errstate(invalid="ignore", divide="ignore"):
        mag = np.where(stars.flux > 0, -2.5 * np.log10(stars.flux), np.nan)
    middle = min(1, len(stars.bands) - 1)
    out = {stars.bands[middle]: mag[:, middle]}
    if len(stars.bands) > 2:
        out[f"{stars.bands[0]} - {stars.bands[2]}"] = mag[:, 0] - mag[:, 2]
    return {k: v for k, v in out.items() if np.isfinite(v).sum() > 1 and np.nanstd(v) > 0}


def offsets_record(made: BandCalibration, truth: np.ndarray | None = None) -> OffsetsRecord:
    """Return a calibration as the report shows it.

    Parameters
    ----------
    made : BandCalibration
        The calibration.
    truth : numpy.ndarray, shape (n_bands,), optional
        Expected flux factors in the same gauge.

    Examples
    --------
    >>> from pogson.stars import BandCalibration
    >>> offsets_record(BandCalibration.from_offsets(["g"], [1.02], [[1e-4]])).offsets
    array([1.02])
    """
    from pogson.report.stars_data import OffsetsRecord

    sigma = np.sqrt(np.maximum(np.diagonal(made.covariance), 0.0))
    free = sigma > 1e-9
    scale = np.where(free, sigma, np.nan)
    outlier = made.outlier if len(made.outlier) else np.zeros((0, len(made.bands)), bool)
    return OffsetsRecord(
        made.bands, made.offsets, np.where(free, made.errors, 0.0),
        made.covariance / np.outer(scale, scale), made.gauge, made.scatter, made.scatter_error,
        np.asarray(made.n_used), np.asarray(outlier.sum(axis=0)), np.asarray(made.history),
        {k: (s, np.sqrt(np.maximum(np.diagonal(c), 0.0))) for k, (s, c) in made.trends.items()},
        truth, made.converged,
    )  # fmt: skip


_ARRAYS = ("offsets", "errors", "correlation", "scatter", "scatter_error", "n_used", "n_outliers",
           "history")  # fmt: skip


def _save(path: Path, record: OffsetsRecord) -> None:
    from pogson.atomic import atomic_path

    names = list(record.trends)
    arrays = {n: getattr(record, n) for n in _ARRAYS}
    arrays |= {f"trend{k}": np.array(record.trends[n]) for k, n in enumerate(names)}
    if record.truth is not None:
        arrays["truth"] = record.truth
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, bands=list(record.bands), gauge=record.gauge, converged=record.converged,
                 trend_names=np.array(names, dtype=str), **arrays)  # fmt: skip


def _load(path: Path) -> OffsetsRecord:
    from pogson.report.stars_data import OffsetsRecord

    with np.load(path, allow_pickle=False) as file:
        trends = {
            str(n): (file[f"trend{k}"][0], file[f"trend{k}"][1])
            for k, n in enumerate(file["trend_names"])
        }
        return OffsetsRecord(
            bands=tuple(map(str, file["bands"])), gauge=str(file["gauge"]), trends=trends,
            truth=file.get("truth"), converged=bool(file["converged"]),
            **{n: file[n] for n in _ARRAYS},
        )  # fmt: skip


def _json(record: OffsetsRecord) -> dict[str, Any]:
    out: dict[str, Any] = {
        b: {"offset": float(record.offsets[k]), "error": float(record.errors[k]),
            "scatter": float(record.scatter[k]), "n_used": int(record.n_used[k]),
            "n_outliers": int(record.n_outliers[k])}
        for k, b in enumerate(record.bands)
    }  # fmt: skip
    return {"gauge": record.gauge, "convention": "corrected flux = flux x offset", "bands": out}


def _headlines(config: StarsRunConfig, record: OffsetsRecord, inputs: StarInputs) -> list[str]:
    gauge = {"parallax": "absolute", "mean": "relative to the mean"}
    words = gauge.get(record.gauge, f"relative to {record.gauge}")
    lines = [f"Offsets of {len(record.bands)} bands from {len(inputs.photometry)} stars, {words}:"]
    lines += [
        f"  {b} {record.offsets[k]:.4f} +- {record.errors[k]:.4f}"
        for k, b in enumerate(record.bands)
    ]
    rounds = len(record.history)
    floor = config.offsets.scatter_floor
    if config.offsets.scatter is None and floor > 0 and len(record.scatter):
        held = [b for b, s in zip(record.bands, record.scatter, strict=True) if s <= 1.001 * floor]
        if held:
            lines.append(
                f"Scatter at its floor of {100 * floor:g} % ([offsets] scatter_floor): "
                f"{', '.join(held)}."
            )
    if not record.converged:
        lines.append(
            f"NOT CONVERGED after {rounds} rounds: the offsets were still moving. More rounds "
            "([offsets] max_rounds), or a firmer hold: priors, parallaxes, scatter."
        )
    last = record.history[-1] if rounds else np.zeros(len(record.bands))
    if np.abs(last).max() > _FAR * config.offsets.prior_std:
        k = int(np.argmax(np.abs(last)))
        lines.append(
            f"SUSPECT: ln offset of {record.bands[k]} reached {last[k]:.2f}, more than {_FAR:g} "
            f"times its prior ({config.offsets.prior_std:g}). Models that fit the stars badly drag "
            "offsets along; hold [offsets] scatter at the models' accuracy, and look at the "
            "residuals by colour."
        )
    if record.truth is not None:
        free = record.errors > 0
        if free.any():
            pull = (record.offsets - record.truth)[free] / record.errors[free]
            rms = 100 * np.sqrt(np.mean((record.offsets - record.truth)[free] ** 2))
            lines.append(
                f"Against the expected offsets: residual rms {rms:.2f} %, pulls rms "
                f"{np.sqrt(np.mean(pull**2)):.2f}."
            )
    return lines
