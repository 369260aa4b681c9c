r"""Joint inference of band offsets and intrinsic scatter with the posteriors of the stars."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pogson.errors import PogsonValueError
from pogson.stars.calibrate_draws import StarDraws, StarSampler
from pogson.stars.calibrate_newton import Step
from pogson.stars.calibrate_result import BandCalibration
from pogson.stars.calibrate_run import Run
from pogson.stars.calibrate_trends import score_trends
from pogson.stars.photometry_table import StarPhotometry

__all__ = ["CalibrationConfig", "StarDraws", "StarSampler", "calibrate_bands"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CalibrationConfig:
    """Options of `calibrate_bands`.

    Parameters
    ----------
    max_rounds : int, optional
        Most refits before giving up on convergence.
    averages : int, optional
        Independent refits at the solution whose draws are pooled. Two or more tell Monte Carlo
        noise from information.
    min_share : float, optional
        Stars are fitted again once reweighting leaves less than this part of the effective number
        of draws (median of the stars).
    tolerance : float, optional
        Converged when the step is smaller than this many standard errors (rms over parameters).
    largest_step : float, optional
        Limit of one step in ln offset.
    prior_std : float, optional
        Standard deviation of the Gaussian prior of every ln offset about zero.
    scatter : float or None, optional
        Intrinsic scatter of all bands as a fraction of the flux; None infers one for each.
    scatter_floor : float, optional
        Prior of an inferred scatter: none is below this, all above are alike. 0 for simulated
        stars; for real ones what the colours of the models are good to (0.02; see Notes of
        `calibrate_bands`).
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
    averages: int = 3
    min_share: float = 0.5
    tolerance: float = 0.3
    largest_step: float = 0.05
    prior_std: float = 0.1
    scatter: float | None = None
    scatter_floor: float = 0.0
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
        if not 0 < self.min_share < 1:
            raise PogsonValueError(f"min_share={self.min_share!r}: between 0 and 1.")
        if not 0 < self.outlier_fraction < 0.5:
            raise PogsonValueError(f"outlier_fraction={self.outlier_fraction!r}: within 0 to 0.5.")
        if self.scatter is not None and not self.scatter >= 0:
            raise PogsonValueError(f"scatter={self.scatter!r}: zero or more, or None to infer it.")
        if not 0 <= self.scatter_floor < 1:
            raise PogsonValueError(f"scatter_floor={self.scatter_floor!r}: a fraction, 0 to 1.")


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
    information, Berndt et al. 1974). Draws are reweighted from step to step as long as their
    effective number allows, and the stars fitted again when it falls. At the solution ``averages``
    independent fits are pooled and their common root found by reweighting; the information is the
    product of scores from different fits, and what Monte Carlo noise is left is part of the
    covariance.

    S/N weighting follows from the likelihood. The scatter is bounded at ``scatter_floor``, and
    held at 3 % until the offsets have settled there. The floor matters for real stars. Where models
    are wrong they are so in the same way for all stars of a colour; each star takes most of that up
    in its own model, and a scatter that is alike for all stars is then inferred to be as small as
    the errors of the photometry. With that, wrong models drag the offsets along the directions that
    are known worst. A smooth prior (half-Cauchy or other) does not help, as hundreds of stars tell
    the scatter to a few per cent of itself.
    Outliers: a measurement is good, or has an error of ``outlier_width`` times the flux; which one
    is summed over, with a fraction learned from the data. Bands that are likely bad by the
    prediction of a fit without them are left out of the fits whose draws are reweighted.

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
    run = Run(stars, sampler, design, config, seed)
    converged = run.approach()
    step, settled = run.finish()
    result = _result(run, step, terms, converged and settled, covariates)
    return result if gauge == "parallax" else result.relative_to(gauge)


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
    run: Run,
    step: Step,
    terms: tuple[str, ...],
    converged: bool,
    covariates: dict[str, ArrayLike] | None,
) -> BandCalibration:
    """Gather what is known."""
    state, config, stars = run.state, run.config, run.stars
    number = len(stars.bands) * len(terms)
    total = step.covariance + step.noise
    t_error = np.sqrt(np.maximum(np.diagonal(total)[number:], 0.0))
    scatter = np.sqrt(state.t)
    scores = run.scores
    assert scores is not None
    excluded = np.ones(len(stars), dtype=bool)
    excluded[run.rows] = ~run.kept(scores)
    trends = score_trends(scores, run.design, run.rows, covariates or {}, config.prior_std)
    use = stars.observed & ~state.outliers.masked & ~excluded[:, None]
    share = np.diagonal(step.noise)[:number] / np.maximum(np.diagonal(total)[:number], 1e-300)
    return BandCalibration(
        tuple(stars.bands),
        state.a,
        total[:number, :number],
        scatter,
        np.where(state.t > t_error, t_error / np.maximum(2 * scatter, 1e-300), np.sqrt(t_error)),
        "parallax",
        terms,
        use.sum(axis=0),
        state.outliers.masked,
        excluded,
        float(np.nanmedian(scores.ess)),
        run.rounds,
        converged,
        share[:: len(terms)],
        np.array(run.history),
        trends,
        {"config": asdict(config), "seed": run.seed, "n_stars": len(stars), "steps": run.steps,
         "outlier_fraction": state.outliers.fraction,
         "ess_share": float(np.nanmedian(scores.share))},
    )  # fmt: skip
