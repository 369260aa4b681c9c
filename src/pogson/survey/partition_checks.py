"""What is done with one partition of the stars, and what partitions say of the exposures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np

from pogson.errors import CalibrationError
from pogson.parallel import SerialExecutor, usable_cores
from pogson.survey.degeneracy import Connections, Degeneracy, degeneracies_of
from pogson.survey.likelihood import SolveSettings
from pogson.survey.normal import (
    NormalBlocks,
    Prepared,
    Weighting,
    _values,
    accumulate_partitions,
    prepare,
    sums,
)
from pogson.survey.observations import Observations, RowFlag, SurveyTables
from pogson.survey.partition_files import Partition, read_partition
from pogson.survey.solve import Priors
from pogson.survey.terms import Model, Term

__all__ = ["connect_partitions", "find_degeneracies_partitions"]


@dataclass(frozen=True, eq=False)
class Job:
    """All that a task needs of the state of the fit; ``left_out`` are rows of exposures."""

    partition: Partition
    model: Model
    parameters: np.ndarray
    weighting: Weighting
    settings: SolveSettings
    total: int
    threads: int
    rejected: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    references: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    output: str | None = None
    left_out: tuple[int, ...] = ()

    def observations(self) -> Observations:
        """Read the partition, with the flags of this pass."""
        o = read_partition(self.partition, self.model.tables)
        flags = np.array(o.flags)
        flags[self.rejected] |= RowFlag.REJECTED.value
        if self.settings.held_out > 0:
            from pogson.streams import stream

            rng = stream(self.settings.seed, "held out")
            first = self.partition.first_star
            number = np.arange(first, first + self.partition.stars)
            if self.partition.numbered:
                number = np.asarray(o.stars.identifier) - 1
            chosen = rng.random(self.total)[number]
            flags[(chosen < self.settings.held_out)[o.star]] |= RowFlag.HELD_OUT.value
        if self.left_out:
            flags[np.isin(o.exposure, self.left_out)] |= RowFlag.MISSING_INPUT.value
        o = o.with_flags(flags)
        if self.references.size:
            err = np.array(o.stars.reference_err)
            err[self.references] = np.nan
            o = replace(o, stars=replace(o.stars, reference_err=err))
        return o

    def prepared(self) -> tuple[Observations, Prepared]:
        """Read and evaluate at the parameters of the job."""
        o = self.observations()
        return o, prepare(self.model, o, self.parameters, self.weighting, self.threads)


def sum_of(job: Job) -> NormalBlocks:
    """Sum the normal equations of a partition."""
    return sums(job.model, job.prepared()[1], job.threads)


@dataclass(frozen=True, eq=False)
class Links:
    """Which exposures the stars of a partition join."""

    parent: np.ndarray
    shared: np.ndarray
    used: np.ndarray
    anchored: np.ndarray
    usable: int
    flags: dict[str, int]


def link_of(job: Job) -> Links:
    """Find which exposures of a partition share stars."""
    from pogson.survey._schur_kernels import connect, shared_stars

    o, p = job.prepared()
    n = len(o.tables.exposures)
    node, on = np.asarray(o.exposure), p.weight > 0
    parent = np.arange(n + 1, dtype=np.int64)
    count, last = np.zeros(n, np.int64), np.full(n, -1, np.int64)
    connect(p.start, node, p.weight, np.zeros_like(p.ref_weight), parent)
    shared_stars(p.start, node, p.weight, p.ref_weight, count, last)
    used = np.bincount(node[on], minlength=n) > 0
    anchored = np.zeros(n, bool)
    anchored[node[on & np.repeat(p.ref_weight > 0, np.diff(p.start))]] = True
    return Links(parent, count, used, anchored, int(np.count_nonzero(on)), o.flag_counts())


def mapped(
    function: Callable[[Job], Any], jobs: Sequence[Job], executor: Executor | None, batch: int = 8
) -> Iterator[Any]:
    """Apply a function to jobs, some at a time; values come in order."""
    rest: Iterable[Job] = iter(jobs)
    serial = executor is None or isinstance(executor, SerialExecutor)
    while chunk := list(islice(rest, 1 if serial else batch)):
        yield from _values(function, chunk, executor)


def joined(parts: Iterable[Links], tables: SurveyTables) -> tuple[Connections, int, dict[str, int]]:
    """Join what partitions say of exposures that share stars; count usable rows and flags."""
    n = len(tables.exposures)
    root = np.arange(n)
    shared, used = np.zeros(n, np.int64), np.zeros(n, bool)
    anchored, usable = np.zeros(n, bool), 0
    flags: dict[str, int] = {}

    def find(a: int) -> int:
        while root[a] != a:
            root[a] = root[root[a]]
            a = int(root[a])
        return a

    for part in parts:
        for a, b in enumerate(part.parent[:n]):
            i, j = find(a), find(int(b)) if b < n else find(a)
            root[min(i, j)] = max(i, j)
        shared += part.shared
        used |= part.used
        anchored |= part.anchored
        usable += part.usable
        for k, v in part.flags.items():
            flags[k] = flags.get(k, 0) + v
    top = np.array([find(a) for a in range(n)])
    sets, sizes = np.unique(top[used], return_counts=True)
    group, with_references = np.full(n, -1), np.zeros(sets.size, bool)
    for rank, k in enumerate(np.argsort(-sizes, kind="stable")):
        here = used & (top == sets[k])
        group[here] = rank
        with_references[rank] = bool(anchored[here].any())
    ids = tables.exposures.identifier
    return Connections(group, with_references, shared, ids), usable, flags


def _jobs(
    partitions: Sequence[Partition], model: Model, use_references: bool, left_out: Sequence[int]
) -> list[Job]:
    if not partitions:
        raise CalibrationError("There are no partitions to solve; give at least one.")
    total = sum(p.stars for p in partitions)
    settings = SolveSettings(use_references=use_references)
    weighting = Weighting(use_references=use_references)
    rows = tuple(int(i) for i in left_out)
    return [
        Job(p, model, model.start(), weighting, settings, total, usable_cores(), left_out=rows)
        for p in partitions
    ]


def connect_partitions(
    partitions: Sequence[Partition],
    model: Model | Sequence[Term],
    tables: SurveyTables,
    *,
    use_references: bool = True,
    left_out: Sequence[int] = (),
    executor: Executor | None = None,
) -> Connections:
    """Find how the exposures hang together through the stars of all partitions.

    Parameters
    ----------
    partitions : sequence of Partition
        From `pogson.survey.write_partitions`.
    model : Model or sequence of Term
        The terms (detections that lack an input of one do not tie).
    tables : SurveyTables
        Exposures and detectors.
    use_references : bool
        Whether references tie exposures.
    left_out : sequence of int
        Rows of exposures that take no part.
    executor : concurrent.futures.Executor, optional
        Where partitions are worked on.

    Examples
    --------
    >>> import tempfile
    >>> from pogson.survey import (Detectors, Exposures, ExposureZeroPoint, Stars,
    ...                            write_partitions)
    >>> tables = SurveyTables(Exposures([11, 12]), Detectors([0]))
    >>> obs = Observations.from_columns(tables, Stars([5, 6]), star=[0, 0, 1], exposure=[0, 1, 1],
    ...     detector=0, x=0, y=0, mag=-9.0, mag_err=0.1)
    >>> parts = write_partitions(obs, tempfile.mkdtemp(), rows=2)
    >>> connect_partitions(parts, [ExposureZeroPoint()], tables).shared
    array([1, 1])
    """
    if not isinstance(model, Model):
        model = Model(tuple(model), tables)
    jobs = _jobs(partitions, model, use_references, left_out)
    return joined(mapped(link_of, jobs, executor), tables)[0]


def find_degeneracies_partitions(
    partitions: Sequence[Partition],
    model: Model | Sequence[Term],
    tables: SurveyTables,
    *,
    use_references: bool = True,
    left_out: Sequence[int] = (),
    executor: Executor | None = None,
) -> list[Degeneracy]:
    """Name the combinations of parameters that the stars of all partitions cannot determine.

    Parameters
    ----------
    partitions, model, tables, use_references, left_out, executor
        As in `connect_partitions`.

    Examples
    --------
    >>> import tempfile
    >>> from pogson.survey import (Detectors, Exposures, ExposureZeroPoint, Stars,
    ...                            write_partitions)
    >>> tables = SurveyTables(Exposures([11, 12]), Detectors([0]))
    >>> obs = Observations.from_columns(tables, Stars([5]), star=[0, 0], exposure=[0, 1],
    ...     detector=0, x=0, y=0, mag=-9.0, mag_err=0.1)
    >>> parts = write_partitions(obs, tempfile.mkdtemp())
    >>> len(find_degeneracies_partitions(parts, [ExposureZeroPoint()], tables))
    1
    """
    if not isinstance(model, Model):
        model = Model(tuple(model), tables)
    jobs = _jobs(partitions, model, use_references, left_out)
    blocks = accumulate_partitions(sum_of, jobs, executor=executor)
    return degeneracies_of(model, blocks, Priors.of(model, model.start(), blocks.information))
