"""Residual trends of the band calibration: score estimates of slopes that were not corrected."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pogson.errors import PogsonValueError
from pogson.stars.calibrate_newton import newton_step
from pogson.stars.calibrate_scores import Scores

__all__ = ["score_trends"]

Floats = NDArray[np.float64]


def score_trends(
    scores: Scores,
    design: Floats,
    rows: NDArray[np.intp],
    covariates: Mapping[str, ArrayLike],
    prior_std: float,
) -> dict[str, tuple[Floats, Floats]]:
    """Return the slopes of ln offset with each covariate, with their covariance, by band.

    One scoring step from no trend, with the constants free (Rao 1948, Proc. Camb. Phil. Soc.
    44, 50): the slopes have the degeneracies of the stars' models in their errors. One step tells
    significance and sign; a slope of many errors is underestimated, and wants a ``design``.

    Parameters
    ----------
    scores : Scores
        Scores at the solution, of the stars of ``rows``.
    design : ndarray (n, terms)
        Basis of the solution.
    rows : ndarray of int
        Stars that have scores.
    covariates : mapping of str to array (n,)
        What to look for trends with; NaN where unknown.
    prior_std : float
        Prior of the slopes, per standard deviation of the covariate.

    Returns
    -------
    dict of str to (ndarray (bands,), ndarray (bands, bands))
        Slopes per unit of the covariate, and their covariance between bands.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(1)
    >>> z = rng.normal(size=500)
    >>> s = np.stack([1e3 * z + 1e2 * rng.normal(size=500), 0 * z], axis=1)
    >>> slope, covariance = score_trends(
    ...     Scores(s, (s, s), s, s, z, z, z), np.ones((500, 1)), np.arange(500), {"z": z}, 0.1)["z"]
    >>> bool(slope[0] > 0)
    True
    """
    out = {}
    bands = scores.score.shape[1] // 2
    for name, given in covariates.items():
        values = np.asarray(given, dtype=float)
        if values.shape != (len(design),):
            raise PogsonValueError(
                f"Covariate {name!r} has shape {values.shape}; it must be ({len(design)},)."
            )
        known = np.isfinite(values[rows]) & np.isfinite(scores.score).all(axis=1)
        z = values[rows]
        middle, spread = (np.mean(z[known]), np.std(z[known])) if known.any() else (0.0, 0.0)
        if not spread > 0:
            raise PogsonValueError(f"Covariate {name!r} does not vary; no trend can be found.")
        z = np.where(known, (z - middle) / spread, 0.0)
        basis = np.column_stack([np.ones(len(z)), z])
        start = np.zeros((bands, 2))
        step = newton_step(scores, basis, known, start, np.zeros(bands), prior_std, False)
        covariance = (step.covariance + step.noise)[1 : 2 * bands : 2, 1 : 2 * bands : 2]
        out[name] = (step.by_a[:, 1] / spread, covariance / spread**2)
    return out
