r"""Joint inference of band offsets and intrinsic scatter with the posteriors of the stars."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pogson.errors import CalibrationError, MaskedDataError, PogsonValueError
from pogson.stars.calibrate_draws import StarDraws, StarSampler
from pogson.stars.calibrate_newton import Step, newton_step
from pogson.stars.calibrate_outliers import OutlierState, find_outliers
from pogson.stars.calibrate_result import BandCalibration
from pogson.stars.calibrate_scores import Scores, star_scores
from pogson.stars.calibrate_trends import score_trends
from pogson.stars.photometry_table import StarPhotometry

__all__ = ["CalibrationConfig", "StarDraws", "StarSampler", "calibrate_bands"]

Floats = NDArray[np.float64]
_SCATTER = 0.03  # to begin with: wide errors let offsets that are far off come in
_SMALL = 0.002


@dataclass(frozen=True)
class CalibrationConfig:
    """Options of `calibrate_bands`.

    Parameters
    ----------
    max_rounds : int, optional
        Most refits before giving up on convergence.
    averages : int, optional
        Refits at the solution whose estimates are averaged, against Monte Carlo noise.
    tolerance : float, optional
        Converged when the step is smaller than this many standard errors (rms over parameters).
    largest_step : float, optional
        Limit of one step in ln offset.
    prior_std : float, optional
        Standard deviation of the Gaussian prior of every ln offset about zero.
    scatter : float or None, optional
        Intrinsic scatter of all bands as a fraction of the flux; None infers one for each.
    outliers : bool, optional
        Whether to find outliers by mixture probability.
    outlier_width : float, optional
        Standard deviation of an outlier's flux error, as a fraction of the flux.
    outlier_fraction : float, optional
        Fraction of outliers to begin with; updated from what is found.
    max_outlier_bands : int, optional
        A star with more outliers than this is left out.
    min_bands : int, optional
        Fewest bands of a star.

    Examples
    --------
    >>> CalibrationConfig(averages=8).averages
    8
    """

    max_rounds: int = 20
    averages: int = 4
    tolerance: float = 0.3
    largest_step: float = 0.05
    prior_std: float = 0.1
    scatter: float | None = None
    outliers: bool = True
    outlier_width: float = 0.5
    outlier_fraction: float = 0.01
    max_outlier_bands: int = 2
    min_bands: int = 4

    def __post_init__(self) -> None:
        for name in ("max_rounds", "averages", "min_bands"):
            if getattr(self, name) < 1:
                raise PogsonValueError(f"{name}={getattr(self, name)!r}: it must be 1 or more.")
        for name in ("tolerance", "largest_step", "prior_std", "outlier_width"):
            if not getattr(self, name) > 0:
                raise PogsonValueError(f"{name}={getattr(self, name)!r}: it must be positive.")
        if not 0 < self.outlier_fraction < 0.5:
            raise PogsonValueError(f"outlier_fraction={self.outlier_fraction!r}: within 0 to 0.5.")
        if self.scatter is not None and not self.scatter >= 0:
            raise PogsonValueError(f"scatter={self.scatter!r}: zero or more, or None to infer it.")


@dataclass
class _State:
    """Where the iteration stands."""

    a: Floats  # (bands, terms) ln offset
    t: Floats  # (bands,) scatter squared
    scale: Floats  # (n, bands) model flux on the scale of the data
    outliers: OutlierState

    def x(self, design: Floats) -> Floats:
        return np.asarray(design @ self.a.T)


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


def calibrate_bands(
    stars: StarPhotometry,
    sampler: StarSampler,
    *,
    gauge: str = "parallax",
    design: ArrayLike | None = None,
    terms: tuple[str, ...] | None = None,
    covariates: dict[str, ArrayLike] | None = None,
    config: CalibrationConfig | None = None,
    seed: int = 0,
) -> BandCalibration:
    r"""Infer the offset and intrinsic scatter of every band, marginalised over the stars' models.

    Parameters
    ----------
    stars : StarPhotometry
        Photometry, parallaxes and positions.
    sampler : StarSampler
        Fits stars: ``sampler(stars, seed)`` returns `StarDraws`. `grid_sampler` makes one from a
        grid and priors. It is called once a round with the offsets of that round applied.
    gauge : str, optional
        "parallax": absolute, the grey term held by the parallaxes and priors of the fit. A band's
        name: relative to that band. "mean": relative to the mean of all.
    design : array (stars, terms), optional
        Basis for offsets that vary with magnitude, colour or position, see `polynomial_basis`;
        its first column is ones.
    terms : tuple of str, optional
        Names of its columns.
    covariates : dict of str to array (stars,), optional
        Quantities against which residual trends are reported, without being corrected.
    config : CalibrationConfig, optional
        Options.
    seed : int, optional
        Seed; round k fits with a seed of its own.

    Returns
    -------
    BandCalibration
        Offsets, their covariance, scatter, outliers, diagnostics.

    Raises
    ------
    MaskedDataError
        If no star has enough bands.
    CalibrationError
        If the draws do not describe the stars.

    Notes
    -----
    With x = ln offset and the stars' models integrated out, the score and information of
    `pogson.stars.calibrate_scores` give Newton steps (Fisher scoring with the empirical
    information, Berndt et al. 1974). Each round fits the stars again with the offsets so far, so
    that importance weights never have to carry draws far; a star's effective number of draws is
    reported. At the solution ``averages`` refits give independent estimates; their mean is the
    result and its Monte Carlo variance is part of the covariance.

    S/N weighting follows from the likelihood. The scatter's square is bounded at zero.
    Outliers: a measurement is good, or has an error of ``outlier_width`` times the flux, with
    probabilities updated from the data; it is left out while it is more likely bad than good,
    judged by the posterior predictive density of a fit without it.

    Examples
    --------
    Stars that are all the same model at known distance:

    >>> import numpy as np
    >>> rng = np.random.default_rng(2)
    >>> flux = np.array([1.02, 0.98, 1.0, 1.0]) * (1 + 0.02 * rng.normal(size=(400, 4)))
    >>> stars = StarPhotometry.from_fluxes(1e-6 * flux, np.full((400, 4), 2e-8), bands=list("griz"))
    >>> def sampler(stars, seed):
    ...     return StarDraws(np.full((len(stars), 4, 4), 1e-6), np.zeros((len(stars), 4)))
    >>> made = calibrate_bands(stars, sampler)
    >>> pulls = (made.offsets - 1 / np.array([1.02, 0.98, 1, 1])) / made.errors
    >>> bool(np.all(np.abs(pulls) < 4))
    True
    """
    config = config if config is not None else CalibrationConfig()
    design, terms = _design(design, terms, len(stars))
    run = _Run(stars, sampler, design, config, seed)
    converged = False
    for _ in range(config.max_rounds):
        step = run.round()
        if step.size < config.tolerance and run.outliers_settled:
            converged = True
            break
    estimates = run.average()
    result = _result(run, estimates, terms, converged, covariates)
    return result if gauge == "parallax" else result.relative_to(gauge)


class _Run:
    """The iteration: one refit of the stars a round."""

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
        self.state = _State(
            np.zeros((bands, design.shape[1])),
            np.full(bands, (_SCATTER if config.scatter is None else config.scatter) ** 2),
            np.where(stars.observed, np.maximum(stars.flux, 0.0), 0.0),
            OutlierState.fresh(n, bands, few, config.outlier_fraction),
        )
        self.rounds = 0
        self.history: list[Floats] = []
        self.outliers_settled = not config.outliers
        self.scores: Scores | None = None
        self.rows = np.arange(n)
        self.trust = 1.0
        self.direction: Floats | None = None

    def variance(self) -> Floats:
        """Total variance of each measurement on the scale of the data."""
        error = np.where(self.stars.observed, self.stars.flux_err, 1.0)
        return np.asarray(error**2 + self.state.t * self.state.scale**2)

    def draw(self, rows: NDArray[np.intp], use: NDArray[np.bool_], purpose: int) -> StarDraws:
        """Fit some stars with some of their bands at the offsets of now."""
        x, variance = self.state.x(self.design), self.variance()
        photometry = corrected(self.stars, x, variance, use_all(use, rows, self.stars.observed))
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
        return StarDraws(flux, np.where(dead[:, None], 0.0, draws.log_weight), draws.controls)

    def round(self, move: bool = True) -> Step:
        """Fit all stars, judge outliers, and take one Newton step."""
        state, config = self.state, self.config
        self.rounds += 1
        rows = self.rows = np.flatnonzero(~state.outliers.excluded)
        use: NDArray[np.bool_] = np.logical_and(self.stars.observed, ~state.outliers.masked)
        draws = self.draw(rows, use[rows], 0)
        x, variance = state.x(self.design)[rows], self.variance()[rows]
        self.scores = star_scores(
            draws.flux, draws.log_weight, self.stars.flux[rows], use[rows], x, variance,
            state.scale[rows], draws.controls,
        )  # fmt: skip
        if config.outliers:
            before = state.outliers
            if self.rounds > 1:
                state.outliers = find_outliers(self, draws, rows, use[rows])
            changed = (before.masked != state.outliers.masked).sum()
            self.outliers_settled = self.rounds > 2 and changed <= max(2, 0.002 * use.sum())
        fitted = np.isfinite(self.scores.score).all(axis=1)
        # a star judged anew this round has scores of the old judgement
        same = np.all(use == (self.stars.observed & ~state.outliers.masked), axis=1)
        keep = fitted & same[rows] & ~state.outliers.excluded[rows]
        if not keep.any():
            raise MaskedDataError(
                f"No star of {len(rows)} is left: all have outliers or no fit. Are the errors, the "
                "grid and the units right?"
            )
        step = newton_step(
            self.scores, self.design[rows], keep, state.a, state.t,
            config.prior_std, config.scatter is None,
        )  # fmt: skip
        model = self.scores.model_flux * np.exp(-x)
        state.scale[rows] = np.where(np.isfinite(model), model, state.scale[rows])
        if move:
            self._move(step)
        self.history.append(state.a[:, 0].copy())
        return step

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
        # errors that shrink at once would leave few models near stars whose offsets are still off
        least = np.where(state.t > _SMALL**2, 0.25 * state.t, 0.0)
        state.t = np.maximum(state.t + limit * step.by_t, least if step.size > 1.0 else 0.0)

    def average(self) -> list[tuple[Floats, Floats, Step]]:
        """Refit at the solution and return each refit's estimate."""
        found = []
        for _ in range(self.config.averages):
            a, t = self.state.a.copy(), self.state.t.copy()
            step = self.round(move=False)
            found.append((a + step.by_a, np.maximum(t + step.by_t, 0.0), step))
            self.state.a = np.mean([f[0] for f in found], axis=0)
            self.state.t = np.mean([f[1] for f in found], axis=0)
        return found


def use_all(
    use: NDArray[np.bool_], rows: NDArray[np.intp], observed: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return ``use`` of some rows spread over all stars, the others as observed.

    Examples
    --------
    >>> import numpy as np
    >>> use_all(np.array([[False]]), np.array([1]), np.ones((2, 1), bool)).ravel()
    array([ True, False])
    """
    out = observed.copy()
    out[rows] = use
    return out


def _design(
    design: ArrayLike | None, terms: tuple[str, ...] | None, n: int
) -> tuple[Floats, tuple[str, ...]]:
    """Return the basis and its names, checked."""
    if design is None:
        return np.ones((n, 1)), ("constant",)
    values = np.asarray(design, dtype=float)
    if values.ndim != 2 or len(values) != n or not np.isfinite(values).all():
        raise PogsonValueError(
            f"design has shape {values.shape}; it must be ({n}, terms) of finite numbers."
        )
    if not np.allclose(values[:, 0], 1.0):
        raise PogsonValueError("The first column of design must be ones, the constant term.")
    names = terms if terms is not None else tuple(f"term{j}" for j in range(values.shape[1]))
    if len(names) != values.shape[1]:
        raise PogsonValueError(f"{len(names)} names for {values.shape[1]} columns of design.")
    return values, tuple(names)


def _result(
    run: _Run,
    estimates: list[tuple[Floats, Floats, Step]],
    terms: tuple[str, ...],
    converged: bool,
    covariates: dict[str, ArrayLike] | None,
) -> BandCalibration:
    """Average the refits and gather what is known."""
    state, config, stars = run.state, run.config, run.stars
    bands, k = len(stars.bands), len(estimates)
    number = bands * len(terms)
    covariance = np.mean([e[2].covariance for e in estimates], axis=0)
    noise = np.mean([e[2].noise for e in estimates], axis=0) / k
    total = covariance + noise
    t = np.maximum(np.mean([e[1] for e in estimates], axis=0), 0.0)
    t_error = np.sqrt(np.maximum(np.diagonal(total)[number:], 0.0))
    scatter = np.sqrt(t)
    assert run.scores is not None
    fitted = run.rows[np.isfinite(run.scores.score).all(axis=1)]
    excluded = np.ones(len(stars), dtype=bool)
    excluded[fitted] = state.outliers.excluded[fitted]
    trends = score_trends(run.scores, run.design, run.rows, covariates or {}, config.prior_std)
    use = stars.observed & ~state.outliers.masked & ~excluded[:, None]
    share = np.diagonal(noise)[:number] / np.maximum(np.diagonal(total)[:number], 1e-300)
    return BandCalibration(
        tuple(stars.bands),
        np.mean([e[0] for e in estimates], axis=0),
        total[:number, :number],
        scatter,
        np.where(t > t_error, t_error / np.maximum(2 * scatter, 1e-300), np.sqrt(t_error)),
        "parallax",
        terms,
        use.sum(axis=0),
        state.outliers.masked,
        excluded,
        float(np.nanmedian(run.scores.ess)),
        run.rounds,
        converged,
        share[:: len(terms)],
        np.array(run.history),
        trends,
        {"config": asdict(config), "seed": run.seed, "n_stars": len(stars),
         "outlier_fraction": state.outliers.fraction},
    )  # fmt: skip
