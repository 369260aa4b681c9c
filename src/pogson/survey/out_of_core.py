"""The whole fit over partitions of the stars on disk: memory is that of one partition.

Each pass maps two functions over the partitions, in this process, in several, or on a cluster: one
sums the normal equations, the other looks at the residuals of the new parameters. What a pass
remembers of a partition - its rejected rows - is small and stays with the caller, so that a
partition whose worker died is simply done again. Sums are taken in the order of the partitions:
results are equal to the bit for any executor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pogson.errors import CalibrationError, ConfigError
from pogson.parallel import SerialExecutor
from pogson.survey.degeneracy import Connections, degeneracies_of
from pogson.survey.likelihood import SolveSettings, _residuals, is_steady
from pogson.survey.normal import NormalBlocks, Prepared, Weighting, accumulate_partitions
from pogson.survey.observations import Observations, RowFlag, Stars, SurveyTables
from pogson.survey.partition_checks import Job, joined, link_of, mapped, sum_of
from pogson.survey.partition_files import Partition
from pogson.survey.solution import Solution, StarResults
from pogson.survey.solve import Covariance, Priors, solve_dense
from pogson.survey.terms import Constraint, Model, Term

__all__ = ["PartitionedSolution", "calibrate_partitions"]

_SAMPLE = 20_000  # values of a partition kept for a median
_LARGEST = 20_000  # parameters of a dense matrix
_REFERENCE = -1  # the class of the references among the floors


@dataclass(frozen=True, eq=False)
class PartitionedSolution:
    """A solution whose stars and residuals stay on disk.

    Parameters
    ----------
    solution : Solution
        Parameters, covariance and calibrations; its observations have no rows.
    rows, stars, references : int
        Detections, stars and references that took part.
    rejected : int
        Detections rejected.
    exposure_chi2 : numpy.ndarray, shape (exposures,)
        Chi2 per detection of each exposure.
    results : tuple of pathlib.Path
        One Parquet file a partition with a row a star, if a folder was given.
    rejected_rows, rejected_references : tuple of numpy.ndarray of int
        Of each partition: rows, and stars whose reference was rejected.

    Examples
    --------
    >>> PartitionedSolution.__name__
    'PartitionedSolution'
    """

    solution: Solution
    rows: int
    stars: int
    references: int
    rejected: int
    exposure_chi2: np.ndarray
    results: tuple[Path, ...] = ()
    rejected_rows: tuple[np.ndarray, ...] = ()
    rejected_references: tuple[np.ndarray, ...] = ()


@dataclass(frozen=True, eq=False)
class _Floor:
    """Sums of one class for one step of its floor."""

    use: int
    kept: int
    excess: float
    weight: float
    ratio: np.ndarray
    variance: np.ndarray


@dataclass(frozen=True, eq=False)
class _Look:
    """What the residuals of a partition say."""

    chi2: float
    floors: dict[int, _Floor]
    star: np.ndarray
    row: np.ndarray
    z: np.ndarray
    base: np.ndarray
    width: np.ndarray
    weight: np.ndarray
    g2: np.ndarray
    references: np.ndarray


def _floor_sums(w: np.ndarray, d: np.ndarray, h: np.ndarray) -> _Floor:
    use = (w > 0) & (h < 0.95)
    n = int(np.count_nonzero(use))
    w, d2, free = w[use], d[use] ** 2, 1.0 - h[use]
    kept = d2 * w < 25.0 * free
    step = max(1, n // _SAMPLE)
    wk, dk, fk = w[kept], d2[kept], free[kept]
    return _Floor(
        n, int(np.count_nonzero(kept)), float(np.sum(wk * wk * (dk / fk - 1.0 / wk))),
        float(np.sum(wk * wk)), (d2 / free)[::step], (1.0 / w)[::step],
    )  # fmt: skip


def _new_floor(parts: Sequence[_Floor], old: float) -> float:
    """One Fisher-scoring step from the sums of all partitions."""
    n = sum(p.use for p in parts)
    if n < 10:
        return old
    if sum(p.kept for p in parts) < 0.98 * n:
        ratio = np.concatenate([p.ratio for p in parts])
        variance = np.concatenate([p.variance for p in parts])
        robust = float(np.median(ratio)) / 0.4549 - float(np.median(variance)) + old**2
        return float(np.sqrt(max(robust, 0.0)))
    excess = sum(p.excess for p in parts) / sum(p.weight for p in parts)
    return float(np.sqrt(max(old**2 + excess, 0.0)))


def _look(job: Job) -> _Look:
    """Evaluate residuals: chi2, sums for the floors, candidates for rejection."""
    o, p = job.prepared()
    res = _residuals(p, None, job.threads)
    floors = {}
    if isinstance(job.settings.floor, str):
        category = o.exposure_column("category")
        for c in range(len(job.weighting.floor)):
            rows = category == c if len(job.weighting.floor) > 1 else slice(None)
            floors[c] = _floor_sums(p.weight[rows], res.deviation[rows], res.leverage[rows])
    with np.errstate(divide="ignore", invalid="ignore"):
        h = np.where(p.ref_weight > 0, p.ref_weight / res.star_weight, 1.0)
    if isinstance(job.settings.reference_floor, str):
        floors[_REFERENCE] = _floor_sums(p.ref_weight, np.nan_to_num(res.reference), h)
    limit = np.inf if job.settings.reject_sigma is None else job.settings.reject_sigma
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.abs(res.deviation) * np.sqrt(p.weight / np.maximum(1.0 - res.leverage, 1e-6))
        z_ref = np.abs(res.reference) * np.sqrt(p.ref_weight / np.maximum(1.0 - h, 1e-6))
    z = np.where((p.weight > 0) & (res.leverage < 0.999), np.nan_to_num(z), 0.0)
    z_ref = np.where((p.ref_weight > 0) & (h < 0.999), np.nan_to_num(z_ref), 0.0)
    out, found = np.flatnonzero(z > limit), np.flatnonzero(z_ref > limit)
    local = np.asarray(o.star, np.int64) - p.star0
    worst = np.zeros(p.ref_weight.size)
    np.maximum.at(worst, local[out], z[out])
    found = found[z_ref[found] >= worst[found]]
    d = p.design
    g2 = np.empty((out.size, d.width.size))
    for t in range(d.width.size):
        c = int(d.column[t])
        g2[:, t] = (
            d.constant[t] ** 2
            if c < 0
            else np.max(d.values[out, c : c + int(d.width[t])] ** 2, axis=1, initial=0.0)
        )
    return _Look(
        res.chi2, floors, local[out] + p.star0, out, z[out], d.base[out], d.width, p.weight[out],
        g2, found + p.star0,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Finish:
    chi2: float
    total: np.ndarray
    count: np.ndarray
    stars: int
    references: int
    missing: int


def _finish(job: Job) -> _Finish:
    """Take the final residuals of a partition; write its stars if asked to."""
    o, p = job.prepared()
    res = _residuals(p, None, job.threads)
    n, on = len(o.tables.exposures), p.weight > 0
    chi2 = p.weight[on] * res.deviation[on] ** 2
    out = _Finish(
        res.chi2, np.bincount(o.exposure[on], chi2, n), np.bincount(o.exposure[on], minlength=n),
        int(np.count_nonzero(res.star_weight > 0)), int(np.count_nonzero(p.ref_weight > 0)),
        p.missing,
    )  # fmt: skip
    if job.output is not None:
        _write_stars(job, o, p, res)
    return out


def _write_stars(job: Job, o: Observations, p: Prepared, res: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pogson.atomic import atomic_path

    part, s, on = slice(p.star0, p.star0 + p.ref_weight.size), o.stars, p.weight > 0
    size = p.ref_weight.size
    local = o.star - p.star0
    with np.errstate(divide="ignore", invalid="ignore"):
        mag = np.where(res.star_weight > 0, p.center + res.star_mean, np.nan)
        err = np.where(res.star_weight > 0, 1.0 / np.sqrt(res.star_weight), np.nan)
    columns = {
        "id": s.identifier[part], "filter": s.filter[part], "ra": s.ra[part], "dec": s.dec[part],
        "color": s.color[part], "mag": mag, "mag_err": err,
        "detections": np.bincount(local[on], minlength=size),
        "chi2": np.bincount(local[on], p.weight[on] * res.deviation[on] ** 2, size),
        "rejected": np.bincount(local[(o.flags & RowFlag.REJECTED.value) > 0], minlength=size),
        "reference_residual": res.reference,
    }  # fmt: skip
    assert job.output is not None
    with atomic_path(Path(job.output)) as temporary:
        pq.write_table(pa.table({k: np.asarray(v) for k, v in columns.items()}), temporary)


class _Passes:
    """State of the fit, with its partitions."""

    def __init__(
        self,
        partitions: Sequence[Partition],
        model: Model,
        settings: SolveSettings,
        executor: Executor | None,
        batch: int,
    ) -> None:
        self.model, self.settings, self.executor, self.batch = model, settings, executor, batch
        serial = executor is None or isinstance(executor, SerialExecutor)
        from pogson.parallel import usable_cores

        threads = usable_cores() if settings.threads is None else settings.threads
        self.total = sum(p.stars for p in partitions)
        classes = max(1, model.tables.exposures.category_count)
        fit = isinstance(settings.floor, str)
        floor = np.zeros(classes) if fit else np.atleast_1d(settings.floor)
        if floor.size not in (1, classes):
            raise ConfigError(
                f"{floor.size} floors for {classes} exposure classes; give one, or one a class."
            )
        reference = 0.0 if isinstance(settings.reference_floor, str) else settings.reference_floor
        weighting = Weighting(
            tuple(float(f) for f in floor), float(reference), settings.use_references,
            settings.huber, settings.space,
        )  # fmt: skip
        self.jobs = [
            Job(p, model, model.start(), weighting, settings, self.total, threads if serial else 1)
            for p in partitions
        ]
        self.gauges: list[Constraint] = []
        self.covariance: Covariance | None = None
        self.promise = 0.0

    @property
    def weighting(self) -> Weighting:
        """Present weights."""
        return self.jobs[0].weighting

    @property
    def parameters(self) -> np.ndarray:
        """Present parameters."""
        return self.jobs[0].parameters

    def all(self, **changes: Any) -> None:
        """Change all jobs."""
        self.jobs = [replace(j, **changes) for j in self.jobs]

    def map(self, function: Callable[[Job], Any]) -> Iterator[Any]:
        """Apply a function to the jobs, some at a time; values come in order."""
        return mapped(function, self.jobs, self.executor, self.batch)

    def step(self) -> NormalBlocks:
        """Sum, solve, and move the parameters."""
        blocks = accumulate_partitions(sum_of, self.jobs, executor=self.executor, batch=self.batch)
        priors = Priors.of(self.model, self.parameters, blocks.information)
        found = solve_dense(blocks, priors, covariance=self.settings.covariance)
        if found is None:
            self._fix_gauge(blocks, priors)
            priors = Priors.of(self.model, self.parameters, blocks.information)
            found = solve_dense(blocks, priors, covariance=self.settings.covariance)
            if found is None:
                raise CalibrationError(
                    "The normal equations stay singular with a gauge for every degenerate "
                    "combination; rescale the terms or give them priors."
                )
        self.info = np.diag(blocks.matrix) + priors.diagonal
        self.covariance = found.covariance
        self.promise = float((blocks.vector + priors.vector) @ found.step)
        self.all(parameters=self.parameters + self.model.limited(found.step))
        return blocks

    def _fix_gauge(self, blocks: NormalBlocks, priors: Priors) -> None:
        found = degeneracies_of(self.model, blocks, priors)
        if self.settings.gauge == "refuse":
            lines = "".join(f"\n  {k + 1}. {d.text}" for k, d in enumerate(found))
            raise CalibrationError(
                f"The data do not determine {len(found)} combination(s) of parameters:{lines}\n"
                "Give references, a prior or a constraint to one of the terms named, remove a "
                "term, or choose gauge='anchor' for a relative solution."
            )
        made = [d.gauge(self.parameters) for d in found]
        self.gauges += made
        self.model = Model(self.model.terms, self.model.tables, (*self.model.extra, *made))
        self.all(model=self.model)

    def update(self, looks: Sequence[_Look], steady: bool) -> tuple[float, int]:
        """Fit floors and reject; return the change of the floors and the number rejected."""
        w = self.weighting
        floor = [
            _new_floor([x.floors[c] for x in looks], f) if c in looks[0].floors else f
            for c, f in enumerate(w.floor)
        ]
        reference = w.reference_floor
        if _REFERENCE in looks[0].floors:
            reference = _new_floor([x.floors[_REFERENCE] for x in looks], reference)
        change = max(abs(a - b) for a, b in zip((*floor, reference), (*w.floor, w.reference_floor),
                                                strict=True))  # fmt: skip
        self.all(weighting=replace(w, floor=tuple(floor), reference_floor=reference))
        rough = change > 0.1 * max(floor)
        return change, self._reject(looks) if steady and not rough else 0

    def _reject(self, looks: Sequence[_Look]) -> int:
        from pogson.survey._schur_kernels import reject_pass

        if self.settings.reject_sigma is None:
            return 0
        used = np.zeros(self.total, bool)
        first = [j.partition.first_star for j in self.jobs]
        sizes = [x.row.size for x in looks]
        part = np.repeat(np.arange(len(looks)), sizes)
        star = np.concatenate([x.star + f for x, f in zip(looks, first, strict=True)])
        for x, f in zip(looks, first, strict=True):
            used[x.references + f] = True
        n_references = sum(x.references.size for x in looks)
        row, z, base, weight, g2 = (
            np.concatenate([getattr(x, n) for x in looks])
            for n in ("row", "z", "base", "weight", "g2")
        )
        order = np.argsort(-z, kind="stable")
        flags = np.zeros(order.size, np.uint8)
        n = reject_pass(
            np.arange(order.size), star[order], base[order], looks[0].width,
            self.settings.influence, self.info, weight[order], g2[order], used,
            np.zeros(self.model.size, bool), flags, np.uint8(RowFlag.REJECTED.value),
        )  # fmt: skip
        gone = order[flags > 0]
        self.jobs = [
            replace(
                j,
                rejected=np.union1d(j.rejected, row[gone[part[gone] == k]]),
                references=np.union1d(j.references, looks[k].references),
            )
            for k, j in enumerate(self.jobs)
        ]
        return int(n) + int(n_references)


def calibrate_partitions(
    partitions: Sequence[Partition],
    model: Model | Sequence[Term],
    tables: SurveyTables,
    settings: SolveSettings | None = None,
    *,
    executor: Executor | None = None,
    results: str | Path | None = None,
    batch: int = 8,
    left_out: Sequence[int] = (),
    **changes: Any,
) -> PartitionedSolution:
    """Solve for one calibration from partitions of the stars on disk.

    The numbers are those of `calibrate`: to rounding for given floors, and to the tolerance of the
    fit of the floors otherwise.

    Parameters
    ----------
    partitions : sequence of Partition
        From `pogson.survey.write_partitions`.
    model : Model or sequence of Term
        The terms; at most 20,000 parameters.
    tables : SurveyTables
        Exposures and detectors.
    settings : SolveSettings, optional
        How to solve.
    executor : concurrent.futures.Executor, optional
        From `pogson.parallel.get_executor`; serial by default. Files must be visible where tasks
        run.
    results : path-like, optional
        Folder for the stars of each partition.
    batch : int
        Partitions whose sums are held in memory at a time.
    left_out : sequence of int
        Rows of exposures that take no part.
    **changes
        Single settings by name.

    Returns
    -------
    PartitionedSolution

    Raises
    ------
    CalibrationError
        As `calibrate`; or if a partition cannot be read.
    ConfigError
        If the model has too many parameters.

    Examples
    --------
    >>> import tempfile
    >>> from pogson.survey import (Detectors, Exposures, ExposureZeroPoint, write_partitions)
    >>> rng = np.random.default_rng(2)
    >>> tables = SurveyTables(Exposures([11, 12]), Detectors([0]))
    >>> truth, zero = rng.uniform(16, 20, 400), np.array([25.0, 25.1])
    >>> star, exposure = np.repeat(np.arange(400), 2), np.tile(np.arange(2), 400)
    >>> obs = Observations.from_columns(tables,
    ...     Stars(np.arange(400), reference_mag=truth, reference_err=0.02), star=star,
    ...     exposure=exposure, detector=0, x=0, y=0, mag_err=0.01,
    ...     mag=truth[star] - zero[exposure] + 0.01 * rng.normal(size=800))
    >>> parts = write_partitions(obs, tempfile.mkdtemp(), rows=200)
    >>> found = calibrate_partitions(parts, [ExposureZeroPoint()], tables)
    >>> len(parts), bool(np.all(np.abs(found.solution["exposure_zero_point"] - zero) < 0.005))
    (4, True)
    """
    s = replace(settings or SolveSettings(), **changes)
    if not isinstance(model, Model):
        model = Model(tuple(model), tables)
    if not partitions:
        raise CalibrationError("There are no partitions to solve; give at least one.")
    if model.size > _LARGEST or s.solver == "iterative":
        raise ConfigError(
            f"Partitions are solved by Cholesky, up to {_LARGEST} parameters; the model has "
            f"{model.size} and solver is {s.solver!r}. Use fewer parameters, or solve in memory."
        )
    fit = _Passes(partitions, model, s, executor, batch)
    fit.all(left_out=tuple(int(i) for i in left_out))
    links, usable, flags = joined(fit.map(link_of), tables)
    if not usable:
        raise CalibrationError(f"None of the detections is usable: {flags}.")
    fitted = isinstance(s.floor, str) or isinstance(s.reference_floor, str)
    repeated = fitted or s.reject_sigma is not None or s.huber is not None
    once = not repeated and model.linear and s.space == "magnitude"
    simple = model.linear and s.space == "magnitude" and s.huber is None
    passes = 0
    while True:
        passes += 1
        blocks = fit.step()
        if once or passes >= s.max_passes:
            break
        looks = list(fit.map(_look))
        chi2 = sum(x.chi2 for x in looks)
        change, rejected = fit.update(looks, simple or is_steady(fit.promise, chi2))
        settled = simple or abs(fit.promise) < 1e-12 * max(1.0, chi2)
        if rejected == 0 and change < 1e-5 and settled:
            break
    return _result(fit, blocks, links, passes, once or passes < s.max_passes, results)


def _result(
    fit: _Passes,
    blocks: NormalBlocks,
    links: Connections,
    passes: int,
    converged: bool,
    results: str | Path | None,
) -> PartitionedSolution:
    files: list[Path] = []
    if results is not None:
        Path(results).mkdir(parents=True, exist_ok=True)
        files = [Path(results) / f"stars-{k:05d}.parquet" for k in range(len(fit.jobs))]
        fit.jobs = [replace(j, output=str(f)) for j, f in zip(fit.jobs, files, strict=True)]
    parts = list(fit.map(_finish))
    count = np.sum([p.count for p in parts], axis=0)
    total = np.sum([p.total for p in parts], axis=0)
    priors = Priors.of(fit.model, fit.parameters, blocks.information)
    rows, stars = int(count.sum()), sum(p.stars for p in parts)
    references = sum(p.references for p in parts)
    known = int(np.count_nonzero(priors.diagonal > 0)) + len(priors.rows)
    free = int(np.count_nonzero((blocks.information > 0) | (priors.diagonal > 0)))
    none = np.zeros(0)
    empty = Observations(none, none, none, none, none, none, none, fit.model.tables,
                         Stars(np.zeros(0, np.int64)))  # fmt: skip
    solution = Solution(
        model=fit.model, parameters=np.array(fit.parameters), covariance=fit.covariance,
        observations=empty, weighting=fit.weighting,
        stars=StarResults(none, none, none.astype(int), none, none), residual=none.copy(),
        weight=none.copy(), chi2=sum(p.chi2 for p in parts) + priors.chi2,
        degrees_of_freedom=rows + references + known - stars - free,
        information=np.array(blocks.information), connections=links,
        gauges=tuple(g.name for g in fit.gauges), rejected_references=np.zeros(0, bool),
        missing_input=sum(p.missing for p in parts), passes=passes, converged=converged,
    )  # fmt: skip
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(count > 0, total / count, np.nan)
    rejected = sum(j.rejected.size for j in fit.jobs)
    return PartitionedSolution(
        solution, rows, stars, references, rejected, mean, tuple(files),
        tuple(j.rejected for j in fit.jobs), tuple(j.references for j in fit.jobs),
    )  # fmt: skip
