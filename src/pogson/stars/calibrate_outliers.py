r"""Outliers of the band calibration: each measurement is good, or off by much more than its error.

A good measurement is Gaussian with variance v, a bad one with v + (width x flux)^2; bad ones are a
fraction :math:`\epsilon`. Whether one is bad is judged by the predictive densities under the star's
posterior from its *other* bands,

.. math:: \frac{P(\mathrm{bad})}{P(\mathrm{good})} = \frac{\epsilon}{1-\epsilon}
    \frac{E_\theta[p_\mathrm{bad}(f|\theta)]}{E_\theta[p_\mathrm{good}(f|\theta)]} ,

which needs a fit without the band. That is made for the stars whose best chi-square is poor; of the
bands of a star the most suspicious goes first, and comes back if a later round finds it good.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2 as chi2_distribution

from pogson.stars.calibrate_draws import StarDraws

if TYPE_CHECKING:
    from pogson.stars.calibrate_run import Run

__all__ = ["OutlierState", "find_outliers", "odds_of_bad"]

Floats = NDArray[np.float64]
_POOR = 0.01
_HOPELESS = 1e-4


@dataclass(frozen=True, eq=False)
class OutlierState:
    """Which measurements and stars are left out.

    Parameters
    ----------
    masked : ndarray of bool (n, bands)
        Measurements held to be bad.
    excluded : ndarray of bool (n,)
        Stars left out whole.
    fraction : float
        Fraction of bad measurements.

    Examples
    --------
    >>> import numpy as np
    >>> OutlierState.fresh(3, 2, np.zeros(3, bool), 0.01).masked.any()
    np.False_
    """

    masked: NDArray[np.bool_]
    excluded: NDArray[np.bool_]
    fraction: float

    @classmethod
    def fresh(
        cls, n: int, bands: int, excluded: NDArray[np.bool_], fraction: float
    ) -> OutlierState:
        """Return a state without outliers."""
        return cls(np.zeros((n, bands), bool), excluded.copy(), fraction)


def odds_of_bad(
    model: Floats, log_weight: Floats, flux: Floats, x: Floats, variance: Floats, extra: Floats
) -> Floats:
    """Return the ratio of predictive densities, bad over good, of one band.

    Parameters
    ----------
    model, log_weight : ndarray (n, draws)
        Model fluxes in the band, and ln weights, of draws fitted without it.
    flux, x, variance, extra : ndarray (n,)
        Measurement, ln offset, variance, and the variance that a bad one has on top.

    Returns
    -------
    ndarray (n,)
        Bayes factor.

    Examples
    --------
    >>> import numpy as np
    >>> one = np.ones(1)
    >>> far = odds_of_bad(np.ones((1, 5)), np.zeros((1, 5)), 1.9 * one, 0 * one, 0.01 * one, one)
    >>> bool(far[0] > 1e6)
    True
    """
    w = np.exp(log_weight - log_weight.max(axis=1, keepdims=True))
    r2 = (flux[:, None] - model * np.exp(-x)[:, None]) ** 2
    wide = variance + extra
    least = (r2 / variance[:, None]).min(axis=1)[:, None]
    good = (w * np.exp(-0.5 * (r2 / variance[:, None] - least))).sum(axis=1) / np.sqrt(variance)
    bad = (w * np.exp(-0.5 * r2 / wide[:, None])).sum(axis=1) / np.sqrt(wide)
    log = np.log(np.maximum(bad, 1e-300)) - np.log(np.maximum(good, 1e-300)) + 0.5 * least[:, 0]
    return np.asarray(np.exp(np.clip(log, -600.0, 600.0)))


def _odds(
    run: Run, draws: StarDraws, rows: NDArray[np.intp], part: slice | NDArray[np.intp], b: int
) -> Floats:
    """Return prior odds times Bayes factor of band b for some stars."""
    state = run.state
    fraction = state.outliers.fraction
    extra = (run.config.outlier_width * state.scale[rows, b]) ** 2
    factor = odds_of_bad(
        draws.flux[part, :, b], draws.log_weight[part], run.stars.flux[rows, b],
        state.x(run.design)[rows, b], run.variance()[rows, b], extra,
    )  # fmt: skip
    return factor * fraction / (1.0 - fraction)


def find_outliers(run: Run) -> OutlierState:
    """Return the outliers after judging the stars whose fit is poor, and those judged before.

    Parameters
    ----------
    run : Run
        The calibration under way, just fitted.

    Returns
    -------
    OutlierState
        The new state.
    """
    assert run.scores is not None
    rows, use, draws = run.rows, run.used(), run.fits[-1].draws
    state, config = run.state.outliers, run.config
    masked, excluded = state.masked.copy(), state.excluded.copy()
    bands = use.shape[1]
    # bands judged bad before come back if the fit without them predicts them
    for b in range(bands):
        out = np.flatnonzero(masked[rows, b])
        if len(out):
            odds = _odds(run, draws, rows[out], out, b)
            masked[rows[out[odds < 1.0]], b] = False
    freedom = np.maximum(use.sum(axis=1) - 3, 1)
    tail = chi2_distribution.sf(run.scores.chi2, freedom)
    poor = np.flatnonzero(tail < _POOR)
    worst = np.zeros((len(poor), bands))
    for b in range(bands):
        able = np.flatnonzero(use[poor, b] & (use[poor].sum(axis=1) > config.min_bands))
        if not len(able):
            continue
        at = poor[able]
        without = use[at].copy()
        without[:, b] = False
        fit = run.draw(rows[at], without, b + 1)
        worst[able, b] = _odds(run, fit, rows[at], slice(None), b)
    worst = np.nan_to_num(worst, nan=0.0)
    band = worst.argmax(axis=1)
    bad = worst[np.arange(len(poor)), band] > 1.0
    masked[rows[poor[bad]], band[bad]] = True
    many = masked[rows].sum(axis=1) > config.max_outlier_bands
    hopeless = (tail < _HOPELESS) & ~np.isin(np.arange(len(rows)), poor[bad])
    excluded[rows[many | hopeless]] = True
    return OutlierState(masked, excluded, state.fraction)
