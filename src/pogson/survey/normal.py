"""Normal equations of the calibration parameters, with every star's magnitude eliminated.

They add: the blocks of disjoint sets of stars, summed in a fixed order, are those of all stars.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np

from pogson.errors import CalibrationError, PogsonValueError
from pogson.parallel import SerialExecutor, map_tasks, usable_cores
from pogson.survey.observations import Observations
from pogson.survey.terms import Model, PackedDesign

__all__ = ["NormalBlocks", "Weighting", "accumulate", "accumulate_partitions"]

_POGSON = 2.5 / np.log(10.0)


@dataclass(frozen=True)
class Weighting:
    """How detections and references are weighted.

    Parameters
    ----------
    floor : tuple of float
        Intrinsic scatter of each exposure class, magnitudes, added in quadrature to the noise; one
        value serves all classes.
    reference_floor : float
        The same for reference magnitudes.
    use_references : bool
        Whether reference magnitudes take part.
    huber : float or None
        Beyond this many standard deviations a detection pulls with constant force (Huber's loss).
    space : {'magnitude', 'flux'}
        In which residuals are Gaussian. In flux, ``calibrated flux - star flux`` over the
        calibrated error, linearised at the current parameters; needs several passes.

    Raises
    ------
    PogsonValueError
        If a floor is negative or a name unknown.

    Examples
    --------
    >>> Weighting(floor=(0.003,)).floor
    (0.003,)
    """

    floor: tuple[float, ...] = (0.0,)
    reference_floor: float = 0.0
    use_references: bool = True
    huber: float | None = None
    space: str = "magnitude"

    def __post_init__(self) -> None:
        floor = tuple(float(f) for f in np.atleast_1d(self.floor))
        bad = not all(np.isfinite(f) and f >= 0 for f in (*floor, self.reference_floor))
        if bad or not floor:
            raise PogsonValueError(
                f"Floors {self.floor!r} and {self.reference_floor!r} must be magnitudes >= 0."
            )
        if self.space not in ("magnitude", "flux") or (self.huber is not None and self.huber <= 0):
            raise PogsonValueError(
                f"space must be 'magnitude' or 'flux' and huber positive, not {self.space!r} and "
                f"{self.huber!r}."
            )
        object.__setattr__(self, "floor", floor)

    def weights(self, observations: Observations) -> np.ndarray:
        """Return inverse variances of detections; 0 where flagged."""
        err = np.asarray(observations.mag_err, np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            variance = err * err
            if len(self.floor) == 1:
                variance += self.floor[0] ** 2
            else:
                floor2 = np.square(self.floor)
                variance += floor2[observations.exposure_column("category")]
            w = np.reciprocal(variance, out=variance)
        if observations.flags.any():
            w[observations.flags != 0] = 0.0
        return w

    def reference_weights(self, observations: Observations) -> tuple[np.ndarray, np.ndarray]:
        """Return weights and magnitudes of references (weight 0 where there is none)."""
        stars = observations.stars
        n = len(stars)
        if not self.use_references:
            return np.zeros(n), np.zeros(n)
        good = stars.has_reference
        if not good.any():
            return np.zeros(n), np.zeros(n)
        variance = np.where(good, stars.reference_err, 1.0) ** 2 + self.reference_floor**2
        return np.where(good, 1.0 / variance, 0.0), np.where(good, stars.reference_mag, 0.0)


@dataclass(frozen=True, eq=False)
class NormalBlocks:
    """Sums over stars: the normal equations of the parameters alone.

    Parameters
    ----------
    matrix : numpy.ndarray, shape (P, P)
        Upper triangle of the Schur complement; the lower triangle is not used.
    vector : numpy.ndarray, shape (P,)
        Right-hand side for a step from the parameters of the sums.
    chi2 : float
        Sum of squared residuals over variance at those parameters, stars at their best.
    rows, stars, references : int
        Detections, stars and references with weight.
    information : numpy.ndarray, shape (P,)
        Sum of squared derivatives over variance: what the detections would say of each parameter
        if the stars were known. 0: no detection touches it.

    Examples
    --------
    >>> import numpy as np
    >>> one = NormalBlocks(np.eye(1), np.ones(1), 1.0, 2, 1, 0, np.ones(1))
    >>> (one + one).rows
    4
    """

    matrix: np.ndarray
    vector: np.ndarray
    chi2: float
    rows: int
    stars: int
    references: int
    information: np.ndarray = field(repr=False)

    def __add__(self, other: NormalBlocks) -> NormalBlocks:
        """Return the blocks of both sets of stars."""
        return NormalBlocks(
            self.matrix + other.matrix,
            self.vector + other.vector,
            self.chi2 + other.chi2,
            self.rows + other.rows,
            self.stars + other.stars,
            self.references + other.references,
            self.information + other.information,
        )

    def _add_into(self, other: NormalBlocks) -> NormalBlocks:
        """Add in place (the arrays of self are its own)."""
        np.add(self.matrix, other.matrix, out=self.matrix)
        np.add(self.vector, other.vector, out=self.vector)
        np.add(self.information, other.information, out=self.information)
        return NormalBlocks(
            self.matrix, self.vector, self.chi2 + other.chi2, self.rows + other.rows,
            self.stars + other.stars, self.references + other.references, self.information,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Prepared:
    """Detections as kernels take them: design, weights, residuals, references."""

    start: np.ndarray
    star0: int
    design: PackedDesign
    weight: np.ndarray
    residual: np.ndarray
    ref_weight: np.ndarray
    ref_residual: np.ndarray
    gain: np.ndarray
    missing: int
    center: np.ndarray  # magnitudes of the stars about which residuals are taken

    @property
    def arrays(self) -> tuple[Any, ...]:
        """Positional arguments shared by the kernels."""
        d = self.design
        return (self.start, d.base, d.width, d.column, d.constant, d.values)


def prepare(
    model: Model,
    observations: Observations,
    parameters: np.ndarray,
    weighting: Weighting,
    threads: int = 1,
) -> Prepared:
    """Evaluate design, weights and residuals at the current parameters."""
    o = observations
    star0, star1 = (int(o.star[0]), int(o.star[-1]) + 1) if len(o) else (0, 0)
    start = o.start[star0 : star1 + 1]
    design = model.design(o, None if model.linear else parameters)
    w = weighting.weights(o)
    missing = 0
    if design.values.size:
        bad = ~np.isfinite(design.values).all(axis=1)
        missing = int(np.count_nonzero(bad & (w > 0)))
        if bad.any():
            design.values[bad] = 0.0
            w[bad] = 0.0
    r = np.array(o.mag, np.float64)
    known = model.offset(o)
    if known is not None:
        r -= known
    if np.any(parameters):
        r -= _fitted(model, o, design, parameters, threads)
    bad = ~np.isfinite(r)
    if bad.any():
        missing += int(np.count_nonzero(bad & (w > 0)))
        r[bad] = 0.0
        w[bad] = 0.0
    w_ref, m_ref = (a[star0:star1] for a in weighting.reference_weights(o))
    zero = np.zeros(w_ref.size)
    p = Prepared(start, star0, design, w, r, w_ref, m_ref, np.empty(0), missing, zero)
    if weighting.huber is not None:
        p = _huber(p, weighting.huber)
    return _in_flux(p) if weighting.space == "flux" else p


def _fitted(
    model: Model, o: Observations, design: PackedDesign, parameters: np.ndarray, threads: int
) -> np.ndarray:
    if not model.linear:
        out = np.zeros(len(o))
        for t, p in zip(model.terms, model.split(parameters), strict=True):
            if p.size:
                out += t.evaluate(o, p)
        return out
    return linear_model(design, parameters, threads)


def linear_model(design: PackedDesign, parameters: np.ndarray, threads: int = 1) -> np.ndarray:
    """Return the linear model at detections."""
    from pogson.survey._schur_kernels import predict

    d = design
    n = d.base.shape[0]
    out = np.zeros(n)
    edges = np.linspace(0, n, threads + 1).astype(np.int64)

    def run(k: int) -> None:
        predict(
            d.base, d.width, d.column, d.constant, d.values, parameters, edges[k], edges[k + 1], out
        )

    share(run, threads, threads)
    return out


def _huber(p: Prepared, limit: float) -> Prepared:
    from pogson.survey._schur_kernels import robust_weights

    out = np.empty_like(p.weight)
    robust_weights(
        p.start, np.sqrt(p.weight), p.weight, p.ref_weight, p.residual, p.ref_residual,
        float(limit), 5, out,
    )  # fmt: skip
    return replace(p, weight=out)


def _in_flux(p: Prepared) -> Prepared:
    """Turn residuals in magnitudes into relative residuals in flux about the star's flux.

    With s f the calibrated flux, F the star's and e the error, the residual (s f - F) / (s e) is
    linearised in the logarithms of s and F: per unit of F it has derivative g = s f / F by ln s,
    weight (F / (s e))**2 = w / g**2, and 1 by ln F.
    """
    star, w, r = np.repeat(np.arange(p.start.size - 1), np.diff(p.start)), p.weight, p.residual
    mean = np.zeros(p.start.size - 1)
    w_now, w_ref = w.copy(), p.ref_weight.copy()
    for _ in range(60):  # the flux-weighted mean flux of each star, by its own fixed point
        g = 10.0 ** (-0.4 * (r - mean[star]))
        g_ref = 10.0 ** (-0.4 * (p.ref_residual - mean))
        w_now = np.where(w > 0, w / g**2, 0.0)
        w_ref = np.where(p.ref_weight > 0, p.ref_weight / g_ref**2, 0.0)
        W = np.bincount(star, w_now, mean.size) + w_ref
        shift = np.bincount(star, w_now * (g - 1.0), mean.size) + w_ref * (g_ref - 1.0)
        step = np.where(W > 0, shift / np.where(W > 0, W, 1.0), 0.0)
        mean -= _POGSON * np.log1p(np.clip(step, -0.5, 1.0))
        if np.abs(step).max(initial=0.0) < 1e-14:
            break
    return replace(
        p, weight=w_now, residual=-_POGSON * (g - 1.0), ref_weight=w_ref,
        ref_residual=-_POGSON * (g_ref - 1.0), gain=g, center=mean,
    )  # fmt: skip


def share(run: Callable[[int], None], pieces: int, threads: int) -> None:
    """Call ``run(0) ... run(pieces - 1)`` in some threads."""
    if threads <= 1 or pieces <= 1:
        for k in range(pieces):
            run(k)
        return
    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(run, k) for k in range(pieces)]:
            future.result()


def accumulate(
    model: Model,
    observations: Observations,
    parameters: Any = None,
    *,
    weighting: Weighting | None = None,
    threads: int | None = None,
) -> NormalBlocks:
    """Sum the normal equations over the stars of some detections.

    Parameters
    ----------
    model : Model
        Terms.
    observations : Observations
        Detections; a star must not be split between calls.
    parameters : array_like, shape (P,), optional
        Where to linearise; the model's start by default.
    weighting : Weighting, optional
        Weights; noise alone by default.
    threads : int, optional
        Threads; all usable cores by default. Sums are equal to the bit for any number.

    Returns
    -------
    NormalBlocks

    Raises
    ------
    PogsonValueError
        If the parameters do not fit the model.

    Examples
    --------
    >>> from pogson.survey import (Detectors, Exposures, ExposureZeroPoint, Model, Observations,
    ...     Stars, SurveyTables)
    >>> tables = SurveyTables(Exposures([1, 2]), Detectors([0]))
    >>> obs = Observations.from_columns(tables, Stars([5]), star=[0, 0], exposure=[0, 1],
    ...     detector=0, x=0, y=0, mag=[-9.0, -8.8], mag_err=0.1)
    >>> accumulate(Model([ExposureZeroPoint()], tables), obs).matrix
    array([[ 50., -50.], [  0.,  50.]])
    """
    p0 = model.start() if parameters is None else np.asarray(parameters, np.float64)
    if p0.shape != (model.size,):
        raise PogsonValueError(f"Parameters of shape {p0.shape}; the model has {model.size}.")
    threads = usable_cores() if threads is None else int(threads)
    prepared = prepare(model, observations, p0, weighting or Weighting(), threads)
    return sums(model, prepared, threads)


_GREY_PIECES = 2  # of the stars, always: sums do not depend on the number of threads
_DENSE = 3000  # parameters up to which stars that touch many may be products of dense rows
_TILE = 330  # parameters of a tile of the matrix: its square stays in the cache of a core


def sums(model: Model, p: Prepared, threads: int = 1) -> NormalBlocks:
    """Run the kernels over prepared detections."""
    d = p.design
    chi2 = np.zeros(p.ref_weight.size)
    if d.width.size == 1 and d.width[0] == 1 and d.column[0] < 0 and p.gain.size == 0:
        matrix, b, information, stars = _grey(model.size, p, chi2, threads)
    else:
        matrix, b, information, stars = _blocks(model, p, chi2, threads)
    rows = int(np.count_nonzero(p.weight > 0))
    references = int(np.count_nonzero(p.ref_weight > 0))
    return NormalBlocks(matrix, b, float(chi2.sum()), rows, stars, references, information)


def _grey(size: int, p: Prepared, chi2: np.ndarray, threads: int) -> tuple[Any, ...]:
    """One constant term: each piece of the stars has a matrix of its own."""
    from pogson.survey._schur_kernels import grey_sums

    pieces = _GREY_PIECES if size <= 4000 and p.weight.size > 100_000 else 1
    edges = np.searchsorted(p.start, np.linspace(0, p.weight.size, pieces + 1).astype(np.int64))
    edges[-1] = p.start.size - 1
    S, b = np.zeros((pieces, size, size)), np.zeros((pieces, size))
    information, d = np.zeros((pieces, size)), p.design

    def run(k: int) -> None:
        grey_sums(
            edges[k], edges[k + 1], p.start, d.base, d.constant[0], p.weight, p.residual,
            p.ref_weight, p.ref_residual, S[k], b[k], information[k], chi2,
        )  # fmt: skip

    share(run, pieces, threads)
    for k in range(1, pieces):
        S[0] += S[k]
    counts = np.add.reduceat(np.append(p.weight > 0, False), p.start[:-1]) if p.weight.size else 0
    counts = np.where(np.diff(p.start) > 0, counts, 0)
    stars = int(np.count_nonzero((counts > 0) | (p.ref_weight > 0)))
    return S[0], b.sum(axis=0), information.sum(axis=0), stars


def _blocks(model: Model, p: Prepared, chi2: np.ndarray, threads: int) -> tuple[Any, ...]:
    """Any terms: merge the detections of each star, then add its outer product tile by tile."""
    from pogson.survey._schur_kernels import gather_runs
    from pogson.survey._tile_kernels import direct_sums

    d, size, n, stars = p.design, model.size, p.weight.size, p.ref_weight.size
    T, nnz = d.width.size, d.nonzeros
    run_c, run_t = np.empty(n * T, np.int32), np.empty(n * T, np.int16)
    run_n, u = np.zeros(stars, np.int32), np.empty(n * nnz)
    weight, mean = np.zeros(stars), np.zeros(stars)
    edges = np.linspace(0, stars, threads + 1).astype(np.int64)
    data = (*p.arrays, p.weight, p.residual, p.gain)

    def gather(k: int) -> None:
        gather_runs(
            edges[k], edges[k + 1], *data, p.ref_weight, p.ref_residual, size,
            run_c, run_t, run_n, u, weight, mean, chi2,
        )  # fmt: skip

    share(gather, threads, threads)
    merged = (run_c, run_t, run_n, u, weight)
    if size <= _DENSE and 10.0 * float(np.sum(run_n.astype(float) ** 2)) > stars * float(size) ** 2:
        return (*_dense(p, size, merged, mean, threads), int(np.count_nonzero(weight > 0)))
    S, b, information = np.zeros((size, size)), np.zeros(size), np.zeros(size)
    owner = _owner(model, d, threads)

    def direct(k: int) -> None:
        direct_sums(*data, owner, k, weight, mean, S, b, information)

    share(direct, threads, threads)
    _tiles(model, p, merged, S, threads)
    return S, b, information, int(np.count_nonzero(weight > 0))


def _runs(model: Model, design: PackedDesign) -> np.ndarray:
    """Return the first parameter of every run of parameters, and the end."""
    kept = [(f, s) for f, s in zip(model.first, model.sizes, strict=True) if s]
    parts = [np.arange(f, f + s, int(w)) for (f, s), w in zip(kept, design.width, strict=True)]
    return np.append(np.concatenate(parts), model.size)


def _owner(model: Model, design: PackedDesign, threads: int) -> np.ndarray:
    """Return the thread that adds detections to the rows of each parameter; runs stay together."""
    first = _runs(model, design)
    return np.repeat((np.arange(first.size - 1) // 4 % threads).astype(np.int32), np.diff(first))


def _tiles(model: Model, p: Prepared, merged: tuple[Any, ...], S: np.ndarray, threads: int) -> None:
    """Subtract the outer products of the stars' merged derivatives from the matrix."""
    from pogson.survey._tile_kernels import count_runs, sort_runs, tile_sums

    d, size = p.design, model.size
    run_c, run_t, run_n, u, weight = merged
    runs = _runs(model, d)
    wanted = np.arange(0, size, min(_TILE, max(size // 4, 1)))
    first = runs[np.unique(np.searchsorted(runs, wanted))]
    first = np.append(first[first < size], size)
    tiles = first.size - 1
    tile = np.repeat(np.arange(tiles, dtype=np.int32), np.diff(first))
    count, length = np.zeros(tiles, np.int64), np.zeros(tiles, np.int64)
    count_runs(p.start, d.width.size, d.width, run_c, run_t, run_n, tile, count, length)
    at_run, at_u = (np.concatenate([[0], np.cumsum(a)]) for a in (count, length))
    star, place = np.empty(at_run[-1], np.int32), np.empty(at_run[-1], np.int32)
    sizes, lined = np.empty(at_run[-1], np.int32), np.empty(at_u[-1])
    edges = np.linspace(0, tiles, threads + 1).astype(np.int64)

    def sort(k: int) -> None:
        sort_runs(
            edges[k], edges[k + 1], p.start, d.width, d.nonzeros, run_c, run_t, run_n, u, weight,
            tile, first, at_run, at_u, star, place, sizes, lined,
        )  # fmt: skip

    share(sort, threads, threads)
    pairs = [(a, b) for a in range(tiles) for b in range(a, tiles)]

    def one(k: int) -> None:
        a, b = pairs[k]
        block = np.zeros((first[a + 1] - first[a], first[b + 1] - first[b]))
        tile_sums(
            at_run[a], at_run[a + 1], at_u[a], at_run[b], at_run[b + 1], at_u[b], a == b,
            star, place, sizes, lined, block,
        )  # fmt: skip
        S[first[a] : first[a + 1], first[b] : first[b + 1]] += block

    share(one, len(pairs), threads)


def _dense(
    p: Prepared, size: int, merged: tuple[Any, ...], mean: np.ndarray, threads: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stars that touch much of the model: their rows as matrix products, in fixed pieces."""
    from threadpoolctl import threadpool_limits

    from pogson.survey._dense_kernels import detection_sums, star_rows

    pieces, chunk, stars, weight = 2, 512, p.ref_weight.size, merged[4]
    edges = np.searchsorted(p.start, np.linspace(0, p.weight.size, pieces + 1).astype(np.int64))
    edges[-1] = stars
    S, b, information = (np.zeros((pieces, *shape)) for shape in ((size, size), (size,), (size,)))

    def run(k: int) -> None:
        detection_sums(
            edges[k], edges[k + 1], *p.arrays, p.weight, p.residual, p.gain, weight, mean,
            S[k], b[k], information[k],
        )  # fmt: skip
        rows = np.empty((chunk, size))
        for s0 in range(int(edges[k]), int(edges[k + 1]), chunk):
            s1 = min(s0 + chunk, int(edges[k + 1]))
            star_rows(s0, s1, p.start, p.design.width, p.design.nonzeros, *merged, rows)
            S[k] -= rows[: s1 - s0].T @ rows[: s1 - s0]

    with threadpool_limits(1):
        share(run, pieces, threads)
    return S.sum(axis=0), b.sum(axis=0), information.sum(axis=0)


def accumulate_partitions(
    function: Callable[[Any], NormalBlocks],
    items: Iterable[Any],
    *,
    executor: Executor | None = None,
    batch: int = 8,
) -> NormalBlocks:
    """Sum normal equations over partitions of the stars, each made by a task.

    Partitions are added in the order of the items whatever the executor, so that results are equal
    to the bit for any number of workers. A partition whose worker died is done again in this
    process.

    Parameters
    ----------
    function : callable
        From an item (a path, a range of stars) to its `NormalBlocks`; importable, for processes.
    items : iterable
        Partitions, each with whole stars.
    executor : concurrent.futures.Executor, optional
        From `pogson.parallel.get_executor`; serial by default.
    batch : int
        Partitions held in memory at a time.

    Raises
    ------
    CalibrationError
        If there are no partitions, or one fails for another reason than the death of a worker.

    Examples
    --------
    >>> import numpy as np
    >>> one = lambda k: NormalBlocks(np.eye(1) * k, np.ones(1), 0.0, 1, 1, 0, np.ones(1))
    >>> accumulate_partitions(one, [1.0, 2.0]).matrix
    array([[3.]])
    """
    total: NormalBlocks | None = None
    rest = iter(items)
    serial = executor is None or isinstance(executor, SerialExecutor)
    while chunk := list(islice(rest, 1 if serial else batch)):
        for value in _values(function, chunk, executor):
            if total is None:
                total = NormalBlocks(
                    np.array(value.matrix), np.array(value.vector), value.chi2, value.rows,
                    value.stars, value.references, np.array(value.information),
                )  # fmt: skip
            else:
                total = total._add_into(value)
            del value
    if total is None:
        raise CalibrationError("There are no partitions to sum; give at least one.")
    return total


def _values(
    function: Callable[[Any], NormalBlocks], chunk: Sequence[Any], executor: Executor | None
) -> Iterable[NormalBlocks]:
    results = map_tasks(function, chunk, executor=executor)
    for item, result in zip(chunk, results, strict=True):
        if result.ok:
            yield result.value
            continue
        error = result.error
        if error is not None and error.kind in (
            "BrokenProcessPool",
            "KilledWorker",
            "CancelledError",
        ):
            yield function(item)
            continue
        raise CalibrationError(f"Partition {item!r} failed: {error.message if error else '?'}")
