"""The whole fit: weights, gauge, rejection, intrinsic floors, solution and validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pogson.errors import CalibrationError, ConfigError, PogsonValueError, choices
from pogson.parallel import usable_cores
from pogson.streams import stream
from pogson.survey.degeneracy import Connections, connections, degeneracies_of
from pogson.survey.normal import NormalBlocks, Prepared, Weighting, linear_model, prepare, sums
from pogson.survey.observations import Observations, RowFlag
from pogson.survey.solution import Solution, StarResults
from pogson.survey.solve import Covariance, Priors, SchurOperator, solve_dense
from pogson.survey.terms import Constraint, Model, Term

__all__ = ["SolveSettings", "calibrate"]


@dataclass(frozen=True)
class SolveSettings:
    """How to solve.

    Parameters
    ----------
    floor : float, sequence of float or 'fit'
        Intrinsic scatter per exposure class, magnitudes; "fit": estimated from the residuals.
    reference_floor : float or 'fit'
        The same for references.
    use_references : bool
        Tie the scale to the stars' reference magnitudes.
    space : {'magnitude', 'flux'}
        In which residuals are taken to be Gaussian.
    huber : float, optional
        Robust loss beyond this many standard deviations.
    reject_sigma : float, optional
        Reject detections and references beyond this many standard deviations, in passes, the
        strongest first and at most one per star and per touched parameter in a pass.
    influence : float
        A parameter counts as touched by a candidate that holds this fraction of its information.
    max_passes : int
        Largest number of solutions.
    gauge : {'refuse', 'anchor'}
        What to do with degenerate combinations: raise, naming them, or keep each where it starts
        (for a relative solution: the mean zero point of each connected set).
    solver : {'auto', 'dense', 'iterative'}
        Cholesky or conjugate gradients; auto changes over at 10,000 parameters.
    covariance : bool
        Keep the covariance (exact when dense, draws otherwise).
    draws : int
        Draws of a sampled covariance.
    held_out : float
        Fraction of the stars that take no part, for validation.
    seed : int
        Of held-out stars and draws.
    threads : int, optional
        Threads; all usable cores by default.

    Raises
    ------
    ConfigError
        If a setting is not one of those allowed.

    Examples
    --------
    >>> SolveSettings(floor="fit", reject_sigma=5.0).gauge
    'refuse'
    """

    floor: Any = 0.0
    reference_floor: Any = 0.0
    use_references: bool = True
    space: str = "magnitude"
    huber: float | None = None
    reject_sigma: float | None = None
    influence: float = 0.01
    max_passes: int = 50
    gauge: str = "refuse"
    solver: str = "auto"
    covariance: bool = True
    draws: int = 64
    held_out: float = 0.0
    seed: int = 1
    threads: int | None = None

    def __post_init__(self) -> None:
        allowed = {
            "gauge": ("refuse", "anchor"),
            "solver": ("auto", "dense", "iterative"),
            "space": ("magnitude", "flux"),
        }
        for name, words in allowed.items():
            if getattr(self, name) not in words:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; allowed: {choices(words)}.")
        for name in ("floor", "reference_floor"):
            value = getattr(self, name)
            if isinstance(value, str) and value != "fit":
                raise ConfigError(f"{name} is {value!r}; give magnitudes or 'fit'.")
        if self.reject_sigma is not None and not self.reject_sigma > 0:
            raise ConfigError(f"reject_sigma is {self.reject_sigma!r}; it must be positive.")
        if not 0.0 <= self.held_out < 1.0:
            raise ConfigError(f"held_out is {self.held_out!r}; it must be in [0, 1).")


class _Fit:
    """State of a fit in progress."""

    def __init__(self, o: Observations, model: Model, settings: SolveSettings) -> None:
        self.o, self.model, self.settings = o, model, settings
        self.threads = usable_cores() if settings.threads is None else settings.threads
        self.p = model.start()
        fit_floor = isinstance(settings.floor, str)
        classes = max(1, o.tables.exposures.category_count)
        floor = np.zeros(classes) if fit_floor else np.atleast_1d(settings.floor)
        if floor.size not in (1, classes):
            raise PogsonValueError(
                f"{floor.size} floors for {classes} exposure classes; give one, or one a class."
            )
        self.weighting = Weighting(
            tuple(float(f) for f in floor),
            0.0 if isinstance(settings.reference_floor, str) else float(settings.reference_floor),
            settings.use_references, settings.huber, settings.space,
        )  # fmt: skip
        size = model.size
        self.dense = settings.solver == "dense" or (settings.solver == "auto" and size <= 10_000)
        self.gauges: list[Constraint] = []
        self.covariance: Covariance | None = None
        self.information = np.zeros(size)
        self.info = np.zeros(size)
        self.iterations = 0
        self.rejected_references = np.zeros(len(o.stars), bool)

    def prepare(self) -> Prepared:
        return prepare(self.model, self.o, self.p, self.weighting, self.threads)

    def step(self, p: Prepared, covariance: bool) -> float:
        """Solve once; return the decrease of chi2 that the step promises."""
        if self.dense:
            return self._dense(p, covariance)
        d = p.design
        information = np.zeros(self.model.size)
        for t in range(d.width.size):
            on = np.flatnonzero((d.base[:, t] >= 0) & (p.weight > 0))
            for j in range(int(d.width[t])):
                c = int(d.column[t])
                v = d.constant[t] if c < 0 else d.values[on, c + j]
                information += np.bincount(d.base[on, t] + j, p.weight[on] * v**2, self.model.size)
        self.information = information
        priors = Priors.of(self.model, self.p, information)
        operator = SchurOperator(p, priors, self.model, self.threads)
        b = operator.vector()
        x, self.iterations = operator.solve(b[:, None])
        self.p = self.p + self.model.limited(x[:, 0])
        self.info = np.concatenate(
            [np.einsum("nii->ni", np.linalg.pinv(i, hermitian=True)).ravel()
             for _, _, i in operator._inverse]
        )  # fmt: skip
        if covariance:
            rng = stream(self.settings.seed, "covariance")
            self.covariance = operator.sample(rng, self.settings.draws)
        return float(b @ x[:, 0])

    def _dense(self, p: Prepared, covariance: bool) -> float:
        blocks = sums(self.model, p, self.threads)
        self.information = blocks.information
        priors = Priors.of(self.model, self.p, blocks.information)
        found = solve_dense(blocks, priors, covariance=covariance)
        if found is None:
            self._fix_gauge(blocks, priors)
            priors = Priors.of(self.model, self.p, blocks.information)
            found = solve_dense(blocks, priors, covariance=covariance)
            if found is None:
                raise CalibrationError(
                    "The normal equations stay singular with a gauge for every degenerate "
                    "combination; rescale the terms or give them priors."
                )
        self.info = np.diag(blocks.matrix) + priors.diagonal
        self.p = self.p + self.model.limited(found.step)
        self.covariance = found.covariance
        return float((blocks.vector + priors.vector) @ found.step)

    def _fix_gauge(self, blocks: NormalBlocks, priors: Priors) -> None:
        found = degeneracies_of(self.model, blocks, priors)
        if self.settings.gauge == "refuse":
            lines = "".join(f"\n  {k + 1}. {d.text}" for k, d in enumerate(found[:12]))
            if len(found) > 12:
                lines += f"\n  ... and {len(found) - 12} more (see find_degeneracies)"
            raise CalibrationError(
                f"The data do not determine {len(found)} combination(s) of parameters:{lines}\n"
                "Give references, a prior or a constraint to one of the terms named, remove a "
                "term, or choose gauge='anchor' for a relative solution."
            )
        self.gauges += [d.gauge(self.p) for d in found]
        self.model = Model(
            self.model.terms,
            self.model.tables,
            (*self.model.extra, *(d.gauge(self.p) for d in found)),
        )


@dataclass(frozen=True, eq=False)
class _Residuals:
    """Residuals about the stars at the present parameters."""

    deviation: np.ndarray
    leverage: np.ndarray
    star_mean: np.ndarray
    star_weight: np.ndarray
    reference: np.ndarray
    chi2: float


def _residuals(p: Prepared, shift: np.ndarray | None, threads: int) -> _Residuals:
    from pogson.survey._schur_kernels import star_means

    r = p.residual if shift is None else p.residual - shift
    n = p.ref_weight.size
    mean, weight = np.empty(n), np.empty(n)
    star_means(p.start, p.weight, r, p.ref_weight, p.ref_residual, 0, n, mean, weight)
    counts = np.diff(p.start)
    d = r - np.repeat(mean, counts)
    with np.errstate(divide="ignore", invalid="ignore"):
        h = p.weight * np.repeat(1.0 / weight, counts)
    reference = np.where(p.ref_weight > 0, p.ref_residual - mean, np.nan)
    on = p.weight > 0
    chi2 = float(np.sum(p.weight[on] * d[on] ** 2)) + float(np.nansum(p.ref_weight * reference**2))
    return _Residuals(d, h, mean, weight, reference, chi2)


def _new_floor(
    variance: np.ndarray, w: np.ndarray, d: np.ndarray, h: np.ndarray, old: float
) -> float:
    """One Fisher-scoring step of the intrinsic scatter, allowing for the fitted star."""
    use = (w > 0) & (h < 0.95)
    if np.count_nonzero(use) < 10:
        return old
    w, d2, free = w[use], d[use] ** 2, 1.0 - h[use]
    kept = d2 * w < 25.0 * free
    if np.mean(kept) < 0.98:  # far off: start from the median, which outliers do not move
        robust = float(np.median(d2 / free)) / 0.4549 - float(np.median(1.0 / w)) + old**2
        return float(np.sqrt(max(robust, 0.0)))
    w, d2, free = w[kept], d2[kept], free[kept]
    excess = float(np.sum(w * w * (d2 / free - 1.0 / w)) / np.sum(w * w))
    return float(np.sqrt(max(old**2 + excess, 0.0)))


def _update_floors(fit: _Fit, p: Prepared, res: _Residuals) -> float:
    """Fit floors; return the largest change in magnitudes."""
    s, change = fit.settings, 0.0
    w = fit.weighting
    if isinstance(s.floor, str):
        category = fit.o.exposure_column("category")
        floor = list(w.floor)
        for c in range(len(floor)):
            rows = category == c if len(floor) > 1 else slice(None)
            floor[c] = _new_floor(
                p.weight[rows], p.weight[rows], res.deviation[rows], res.leverage[rows], floor[c]
            )
        change = max(abs(a - b) for a, b in zip(floor, w.floor, strict=True))
        fit.weighting = replace(fit.weighting, floor=tuple(floor))
    if isinstance(s.reference_floor, str) and np.any(p.ref_weight > 0):
        with np.errstate(divide="ignore", invalid="ignore"):
            h = np.where(p.ref_weight > 0, p.ref_weight / res.star_weight, 1.0)
        new = _new_floor(
            p.ref_weight, p.ref_weight, np.nan_to_num(res.reference), h, w.reference_floor
        )
        change = max(change, abs(new - w.reference_floor))
        fit.weighting = replace(fit.weighting, reference_floor=new)
    return change


def _reject(fit: _Fit, p: Prepared, res: _Residuals) -> int:
    """Flag the strongest outliers; return how many."""
    from pogson.survey._schur_kernels import reject_pass

    limit = fit.settings.reject_sigma
    if limit is None:
        return 0
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.abs(res.deviation) * np.sqrt(p.weight / np.maximum(1.0 - res.leverage, 1e-6))
        h = p.ref_weight / res.star_weight
        z_ref = np.abs(res.reference) * np.sqrt(p.ref_weight / np.maximum(1.0 - h, 1e-6))
    z = np.where((p.weight > 0) & (res.leverage < 0.999), np.nan_to_num(z), 0.0)
    z_ref = np.where((p.ref_weight > 0) & (h < 0.999), np.nan_to_num(z_ref), 0.0)
    out = np.flatnonzero(z > limit)
    used_star = np.zeros(p.ref_weight.size, bool)
    found = np.flatnonzero(z_ref > limit)
    local = np.asarray(fit.o.star, np.int64) - p.star0
    if found.size:
        worst = np.zeros(p.ref_weight.size)
        np.maximum.at(worst, local[out], z[out])
        found = found[z_ref[found] >= worst[found]]
        used_star[found] = True
        fit.rejected_references[found + p.star0] = True
        err = np.array(fit.o.stars.reference_err)
        err[fit.rejected_references] = np.nan
        fit.o = replace(fit.o, stars=replace(fit.o.stars, reference_err=err))
    order = out[np.argsort(-z[out], kind="stable")]
    flags = np.array(fit.o.flags)
    d = p.design
    g2 = np.empty((order.size, d.width.size))
    for t in range(d.width.size):
        c = int(d.column[t])
        g2[:, t] = (
            d.constant[t] ** 2
            if c < 0
            else np.max(d.values[order, c : c + int(d.width[t])] ** 2, axis=1, initial=0.0)
        )
    small = flags[order]
    n = reject_pass(
        np.arange(order.size), local[order], d.base[order], d.width, fit.settings.influence,
        fit.info, p.weight[order], g2, used_star, np.zeros(fit.model.size, bool), small,
        np.uint8(RowFlag.REJECTED.value),
    )  # fmt: skip
    flags[order] = small
    if n:
        fit.o = fit.o.with_flags(flags)
    return int(n) + int(found.size)


def _hold_out(o: Observations, fraction: float, seed: int) -> Observations:
    if fraction <= 0:
        return o
    rng = stream(seed, "held out")
    chosen = rng.random(len(o.stars)) < fraction
    flags = np.array(o.flags)
    flags[chosen[o.star]] |= RowFlag.HELD_OUT.value
    return o.with_flags(flags)


def calibrate(
    observations: Observations,
    model: Model | Sequence[Term],
    settings: SolveSettings | None = None,
    **changes: Any,
) -> Solution:
    """Solve for one self-consistent calibration of all exposures.

    Parameters
    ----------
    observations : Observations
        Detections of stars on the exposures, with references where there are any.
    model : Model or sequence of Term
        The terms.
    settings : SolveSettings, optional
        How to solve.
    **changes
        Single settings by name.

    Returns
    -------
    Solution

    Raises
    ------
    CalibrationError
        If nothing is usable, or the data leave combinations of parameters undetermined (which are
        named) and ``gauge`` is "refuse".

    Examples
    --------
    >>> import numpy as np
    >>> from pogson.survey import Detectors, Exposures, ExposureZeroPoint, Stars, SurveyTables
    >>> rng = np.random.default_rng(2)
    >>> tables = SurveyTables(Exposures([11, 12, 13]), Detectors([0]))
    >>> truth, zero = rng.uniform(16, 20, 400), np.array([25.0, 25.1, 24.8])
    >>> star, exposure = np.repeat(np.arange(400), 3), np.tile(np.arange(3), 400)
    >>> obs = Observations.from_columns(tables,
    ...     Stars(np.arange(400), reference_mag=truth, reference_err=0.02), star=star,
    ...     exposure=exposure, detector=0, x=0, y=0, mag_err=0.01,
    ...     mag=truth[star] - zero[exposure] + 0.01 * rng.normal(size=1200))
    >>> solution = calibrate(obs, [ExposureZeroPoint()])
    >>> bool(np.all(np.abs(solution["exposure_zero_point"] - zero) < 0.005))
    True
    """
    s = replace(settings or SolveSettings(), **changes)
    tables = observations.tables
    if not isinstance(model, Model):
        model = Model(tuple(model), tables)
    fit = _Fit(_hold_out(observations, s.held_out, s.seed), model, s)
    p = fit.prepare()
    if not np.any(p.weight > 0):
        raise CalibrationError(
            f"None of the {len(observations)} detections is usable: {observations.flag_counts()}."
        )
    fitted = isinstance(s.floor, str) or isinstance(s.reference_floor, str)
    passes = fitted or s.reject_sigma is not None or s.huber is not None
    once = not passes and model.linear and s.space == "magnitude"
    return _iterate(fit, p, connections(p, fit.o), once)


def is_steady(promise: float, chi2: float) -> bool:
    """Whether a fit that is not linear is near enough to its end to judge single detections."""
    return abs(promise) < 1e-3 * max(1.0, chi2)


def _iterate(fit: _Fit, p: Prepared, links: Connections, once: bool) -> Solution:
    s, rejected, passes = fit.settings, 0, 0
    while True:
        passes += 1
        before = fit.p
        last_chance = once or passes >= s.max_passes
        promise = fit.step(p, s.covariance and (once or fit.dense))
        simple = fit.model.linear and s.space == "magnitude" and s.huber is None
        if simple:
            shift = linear_model(p.design, fit.p - before, fit.threads)
            res = _residuals(p, shift, fit.threads)
        else:
            p = fit.prepare()
            res = _residuals(p, None, fit.threads)
        if last_chance:
            break
        change = _update_floors(fit, p, res)
        rough = change > 0.1 * max(fit.weighting.floor)
        steady = simple or is_steady(promise, res.chi2)
        rejected = 0 if rough or not steady else _reject(fit, p, res)
        settled = simple or abs(promise) < 1e-12 * max(1.0, res.chi2)
        if rejected == 0 and change < 1e-5 and settled:
            break
        if simple or rejected or change > 0.0:
            p = fit.prepare()
    converged = once or passes < s.max_passes
    if s.covariance and fit.covariance is None:
        fit.step(p, True)
    return _finish(fit, p, res, links, passes, converged)


def _finish(
    fit: _Fit, p: Prepared, res: _Residuals, links: Connections, passes: int, converged: bool
) -> Solution:
    priors = Priors.of(fit.model, fit.p, fit.information)
    n = len(fit.o.stars)
    mag, err = np.full(n, np.nan), np.full(n, np.nan)
    part = slice(p.star0, p.star0 + p.ref_weight.size)
    with np.errstate(divide="ignore", invalid="ignore"):
        mag[part] = p.center + res.star_mean
        err[part] = np.where(res.star_weight > 0, 1.0 / np.sqrt(res.star_weight), np.nan)
    counts = np.zeros(n, np.int64)
    counts[part] = np.bincount(fit.o.star[p.weight > 0] - p.star0, minlength=p.ref_weight.size)
    on = p.weight > 0
    chi2 = np.zeros(n)
    chi2[part] = np.bincount(
        fit.o.star[on] - p.star0, p.weight[on] * res.deviation[on] ** 2, p.ref_weight.size
    )
    references = np.full(n, np.nan)
    references[part] = res.reference
    free = int(np.count_nonzero((fit.information > 0) | (priors.diagonal > 0)))
    rows, refs = int(np.count_nonzero(on)), int(np.count_nonzero(p.ref_weight > 0))
    stars = int(np.count_nonzero(res.star_weight > 0))
    known = int(np.count_nonzero(priors.diagonal > 0)) + len(priors.rows)
    return Solution(
        model=fit.model,
        parameters=fit.p,
        covariance=fit.covariance,
        observations=fit.o,
        weighting=fit.weighting,
        stars=StarResults(mag, err, counts, chi2, references),
        residual=res.deviation,
        weight=p.weight,
        chi2=res.chi2 + priors.chi2,
        degrees_of_freedom=rows + refs + known - stars - free,
        information=fit.information,
        connections=links,
        gauges=tuple(g.name for g in fit.gauges),
        rejected_references=fit.rejected_references,
        missing_input=p.missing,
        passes=passes,
        converged=converged,
    )
