"""The iteration of the band calibration: fits, reweighted steps, fits again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pogson.errors import CalibrationError, MaskedDataError, PogsonValueError
from pogson.stars.calibrate_draws import StarDraws, StarSampler
from pogson.stars.calibrate_newton import Pair, Step, newton_step
from pogson.stars.calibrate_outliers import OutlierState, find_outliers
from pogson.stars.calibrate_scores import Conditions, Scores, pooled, star_scores
from pogson.stars.photometry_table import StarPhotometry

if TYPE_CHECKING:
    from pogson.stars.calibrate import CalibrationConfig

__all__ = ["Run", "State", "corrected"]

Floats = NDArray[np.float64]
_SCATTER = 0.03  # to begin with: wide errors let offsets that are far off come in
_SMALL = 0.002
_STEPS = 4  # of reweighting, before the next fit
_LAST_STEPS = 12
_CLOSE = 0.05  # standard errors: the root of the pooled score is found to this


@dataclass
class State:
    """Where the iteration stands.

    Parameters
    ----------
    a : ndarray (bands, terms)
        ln offset.
    t : ndarray (bands,)
        Scatter squared.
    scale : ndarray (n, bands)
        Model flux on the scale of the data.
    outliers : OutlierState
        What is left out.

    Examples
    --------
    >>> state = State(np.zeros((2, 1)), np.zeros(2), np.ones((3, 2)), None)
    >>> state.x(np.ones((3, 1))).shape
    (3, 2)
    """

    a: Floats
    t: Floats
    scale: Floats
    outliers: OutlierState

    def x(self, design: Floats) -> Floats:
        """Return ln offset of every star and band."""
        return np.asarray(design @ self.a.T)


@dataclass(frozen=True, eq=False)
class _Fit:
    """Draws of all stars, and where they were made."""

    draws: StarDraws
    drawn: Conditions


def _begin(config: CalibrationConfig) -> float:
    """Return the scatter to begin with."""
    return max(_SCATTER, config.scatter_floor) if config.scatter is None else config.scatter


def corrected(stars: StarPhotometry, x: Floats, variance: Floats, use: Any) -> StarPhotometry:
    """Return photometry with offsets applied, scatter in the errors and only ``use`` observed.

    Examples
    --------
    >>> import numpy as np
    >>> stars = StarPhotometry.from_fluxes([[2e-6]], [[1e-8]], bands=["g"])
    >>> corrected(stars, np.log([[1.5]]), np.array([[4e-16]]), [[True]]).flux_err
    array([[3.e-08]])
    """
    factor = np.exp(x)
    return replace(
        stars,
        flux=np.where(use, stars.flux * factor, np.nan),
        flux_err=np.where(use, np.sqrt(variance) * factor, np.nan),
        observed=np.asarray(use, dtype=bool),
    )


class Run:
    """A calibration under way.

    Parameters
    ----------
    stars, sampler, design, config, seed
        As given to `calibrate_bands`, checked.

    Examples
    --------
    >>> from pogson.stars import CalibrationConfig
    >>> stars = StarPhotometry.from_fluxes([[1e-6] * 4], [[1e-8] * 4], bands=list("griz"))
    >>> Run(stars, lambda s, k: None, np.ones((1, 1)), CalibrationConfig(), 1).rounds
    0
    """

    def __init__(
        self,
        stars: StarPhotometry,
        sampler: StarSampler,
        design: Floats,
        config: CalibrationConfig,
        seed: int,
    ) -> None:
        self.stars, self.sampler, self.design = stars, sampler, design
        self.config, self.seed = config, seed
        n, bands = stars.flux.shape
        few = stars.observed.sum(axis=1) < config.min_bands
        if few.all():
            raise MaskedDataError(
                f"None of {n} stars has {config.min_bands} observed bands; give more bands or "
                "lower min_bands."
            )
        self.state = State(
            np.zeros((bands, design.shape[1])),
            np.full(bands, _begin(config) ** 2),
            np.where(stars.observed, np.maximum(stars.flux, 0.0), 0.0),
            OutlierState.fresh(n, bands, few, config.outlier_fraction),
        )
        self.rows = np.flatnonzero(~few)
        self.rounds = self.steps = 0
        self.history: list[Floats] = []
        self.settled = not config.outliers
        self.scores: Scores | None = None
        self.fits: list[_Fit] = []
        self.trust = 1.0
        self.direction: Floats | None = None
        # the scatter is freed once the offsets have settled at a wide one
        self.freed = config.scatter is not None
        self.pairs: list[Pair] = []
        self.before: tuple[Floats, Floats, Step, Any] | None = None

    def variance(self) -> Floats:
        """Return the variance of each good measurement on the scale of the data."""
        error = np.where(self.stars.observed, self.stars.flux_err, 1.0)
        return np.asarray(error**2 + self.state.t * self.state.scale**2)

    def conditions(self, rows: NDArray[np.intp], use: NDArray[np.bool_], mixed: bool) -> Conditions:
        """Return the likelihood as it stands, with or without its outlier part."""
        scale = self.state.scale[rows]
        extra = (self.config.outlier_width * scale) ** 2 if mixed else None
        return Conditions(
            self.stars.flux[rows], use, self.state.x(self.design)[rows], self.variance()[rows],
            scale, extra, self.state.outliers.fraction if mixed else 0.0,
        )  # fmt: skip

    def used(self) -> NDArray[np.bool_]:
        """Return which measurements of the stars in ``rows`` a fit takes."""
        out = self.stars.observed & ~self.state.outliers.masked
        return np.asarray(out[self.rows], dtype=bool)

    def draw(self, rows: NDArray[np.intp], use: NDArray[np.bool_], purpose: int) -> StarDraws:
        """Fit some stars with some of their bands at the offsets of now."""
        x, variance = self.state.x(self.design), self.variance()
        spread = self.stars.observed.copy()
        spread[rows] = use
        photometry = corrected(self.stars, x, variance, spread)
        seed = (self.seed * 1000 + self.rounds) * 100 + purpose
        draws = self.sampler(photometry.select(rows), seed)
        if draws.flux.shape[0] != len(rows) or draws.flux.shape[2] != use.shape[1]:
            raise PogsonValueError(
                f"The sampler returned fluxes of shape {draws.flux.shape} for {len(rows)} stars "
                f"in {use.shape[1]} bands."
            )
        dead: Any = ~np.isfinite(draws.log_weight).any(axis=1) | ~(draws.flux > 0).any(axis=(1, 2))
        if not dead.any():
            return draws
        if dead.mean() > 0.5 and purpose == 0:
            raise CalibrationError(
                f"{int(dead.sum())} of {len(rows)} stars got no draw from the sampler. Are units, "
                "bands and grid the right ones?"
            )
        # scores of these become NaN and are left out
        flux = np.where(dead[:, None, None], np.nan, draws.flux)
        weight = np.where(dead[:, None], 0.0, draws.log_weight)
        return StarDraws(flux, weight, draws.controls, draws.directions)

    def fit(self) -> None:
        """Fit all stars at the solution so far."""
        self.rounds += 1
        self.history.append(self.state.a[:, 0].copy())
        use = self.used()
        self.fits.append(_Fit(self.draw(self.rows, use, 0), self.conditions(self.rows, use, False)))

    def score(self) -> Scores:
        """Return the scores here, all fits reweighted."""
        seen = np.asarray(self.stars.observed[self.rows], dtype=bool)
        mixed = self.config.outliers
        now = self.conditions(self.rows, seen if mixed else self.used(), mixed)
        self.scores = pooled([star_scores(f.draws, now, f.drawn) for f in self.fits])
        return self.scores

    def kept(self, scores: Scores) -> NDArray[np.bool_]:
        """Return which of the fitted stars count.

        Left out are those without a fit, excluded ones, and those judged anew since their fit.
        """
        use = self.used()
        keep = np.isfinite(scores.score).all(axis=1) & ~self.state.outliers.excluded[self.rows]
        for fit in self.fits:
            keep &= np.all(fit.drawn.observed == use, axis=1)
        return np.asarray(keep, dtype=bool)

    def step(self, scores: Scores) -> Step:
        """Return the Newton step here."""
        keep = self.kept(scores)
        if not keep.any():
            raise MaskedDataError(
                f"No star of {len(self.rows)} is left: all have outliers or no fit. Are the "
                "errors, the grid and the units right?"
            )
        if keep.sum() <= self.state.a.size:
            raise CalibrationError(
                f"{int(keep.sum())} stars are too few for {self.state.a.size} offsets: what they "
                "say is learned from the differences between stars. Give more stars, or fewer "
                "bands or terms."
            )
        self.steps += 1
        outliers = self.state.outliers
        if self.config.outliers:
            judged = self.stars.observed[self.rows][keep]
            bad = float(scores.bad[keep][judged].sum())
            fraction = float(np.clip((bad + 1.0) / (judged.sum() + 100.0), 1e-4, 0.3))
            self.state.outliers = replace(outliers, fraction=fraction)
        free = self.config.scatter is None and self.freed

        def taken() -> Step:
            return newton_step(
                scores, self.design[self.rows], keep, self.state.a, self.state.t,
                self.config.prior_std, free, self.pairs, self.config.scatter_floor**2,
            )  # fmt: skip

        step = taken()
        if self._learned(step, keep):
            step = taken()
        self.before = (self.state.a.copy(), self.state.t.copy(), step, keep)
        return step

    def _learned(self, step: Step, keep: NDArray[np.bool_]) -> bool:
        """Remember how much the score fell over the last move; return whether it tells anything.

        Only moves at the same scatter and of the same stars count, and falls that are well above
        the Monte Carlo noise.
        """
        if self.before is None:
            return False
        a, t, last, kept = self.before
        self.before = None
        if np.any(np.abs(self.state.t - t) > 0.02 * t):
            self.pairs = []
            return False
        if (keep != kept).sum() > 0.01 * keep.sum():
            return False
        number = a.size
        move = np.concatenate([(self.state.a - a).ravel(), np.zeros(len(t))])
        fall = last.gradient - step.gradient
        fall[number:] = 0.0
        noise = step.metric @ step.noise @ step.metric
        work, doubt = float(move @ fall), float(np.sqrt(2.0 * max(move @ noise @ move, 0.0)))
        if not work > max(5.0 * doubt, 0.1 * float(move @ step.metric @ move)):
            return False
        self.pairs = [*self.pairs[-7:], Pair(move, fall)]
        return True

    def approach(self) -> bool:
        """Fit and step until the steps are within the noise; return whether they got there."""
        for _ in range(self.config.max_rounds):
            self.fits = []
            self.fit()
            scores = self.score()
            if self.config.outliers and self.rounds > 1:
                before = self.state.outliers.masked
                self.state.outliers = find_outliers(self)
                changed = (before != self.state.outliers.masked).sum()
                self.settled = self.rounds > 2 and changed <= max(2, 0.002 * before.size)
            for k in range(_STEPS):
                step = self.step(scores)
                if not self.freed and step.size < 1.0:
                    self.freed = True
                    step = self.step(scores)
                if step.size < self.config.tolerance and self.settled and self.rounds > 1:
                    return self.freed
                self._move(step)
                if k == _STEPS - 1:
                    break
                scores = self.score()
                if not np.nanmedian(scores.share) > self.config.min_share:
                    break
            self._rescale(scores)
        self.fits = []
        return False

    def finish(self) -> tuple[Step, bool]:
        """Pool independent fits and find the root of their score; return the step left there."""
        for _ in range(2):
            while len(self.fits) < self.config.averages:
                self.fit()
            for k in range(_LAST_STEPS):
                scores = self.score()
                step = self.step(scores)
                done = step.distance < _CLOSE or (k >= _STEPS and step.size == 0.0)
                if done:
                    break
                self._move(step)
            if np.nanmedian(scores.share) > self.config.min_share:
                break
            self.fits = []
        return step, done

    def _rescale(self, scores: Scores) -> None:
        """Take the posterior mean as the flux that the scatter multiplies, for the next fit."""
        model = scores.model_flux * np.exp(-self.state.x(self.design)[self.rows])
        self.state.scale[self.rows] = np.where(
            np.isfinite(model), model, self.state.scale[self.rows]
        )

    def _move(self, step: Step) -> None:
        """Take a step, shorter while the steps turn back, and let the scatter shrink slowly."""
        state, direction = self.state, step.by_a.ravel()
        if self.direction is not None and step.size > 1.0:
            turned = float(direction @ self.direction) < 0
            self.trust = self.trust / 2 if turned else min(1.0, 1.5 * self.trust)
        self.direction = direction
        largest = self.trust * self.config.largest_step
        limit = min(1.0, largest / max(np.abs(step.by_a).max(), 1e-12))
        state.a = state.a + limit * step.by_a
        self.history[-1] = state.a[:, 0].copy()
        # errors that shrink at once would leave few models near stars whose offsets are still off
        least = np.where(state.t > _SMALL**2, 0.25 * state.t, 0.0)
        state.t = np.maximum(state.t + limit * step.by_t, least)
        if self.config.scatter is None:
            state.t = np.maximum(state.t, self.config.scatter_floor**2)
