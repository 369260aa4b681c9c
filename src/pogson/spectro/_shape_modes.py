"""Broad errors of star models: what lines, photometry and the stars together say about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

__all__ = ["BroadSolution", "ShapePriors", "StarShape", "hat_matrix", "solve_broad_shape"]

_KNOT_STEP = 0.04
_DOUBT = 4.0
_MOST_WRONG_BANDS = 3


@dataclass(frozen=True, eq=False)
class StarShape:
    """What one star's own fit leaves open about the shape of its model, and its photometry.

    Parameters
    ----------
    shift : ndarray, shape (p,)
        Change of the model's parameters that the lines and priors alone, without the bands, ask.
    covariance : ndarray, shape (p, p)
        Of the parameters, from the lines and priors alone.
    derivative : ndarray, shape (p, n)
        Of ln(model) at the star's pixels.
    band_gap : ndarray, shape (n_band,)
        ln of catalogue flux over synthetic flux of the model.
    band_error : ndarray, shape (n_band,)
        Error of it in the catalogue.
    band_derivative : ndarray, shape (n_band, p)
        Of ln of the synthetic flux.
    band_names : tuple of str
        The bands.
    position : ndarray, shape (m,)
        ln(wavelength) of the samples of ``band_weight``.
    band_weight : ndarray, shape (n_band, m)
        Share of every sample in the synthetic flux; rows add to 1.

    Examples
    --------
    >>> one = np.ones((1, 1))
    >>> star = StarShape(np.zeros(1), one, one, np.zeros(1), np.ones(1), one, ("r",), one[0], one)
    >>> star.band_names
    ('r',)
    """

    shift: np.ndarray
    covariance: np.ndarray
    derivative: np.ndarray
    band_gap: np.ndarray
    band_error: np.ndarray
    band_derivative: np.ndarray
    band_names: tuple[str, ...]
    position: np.ndarray
    band_weight: np.ndarray


@dataclass(frozen=True)
class ShapePriors:
    """Sizes of the errors before any star has been seen, in ln.

    Parameters
    ----------
    common : float
        Error that all models share, broad in wavelength.
    own : float
        The same, of each star.
    reach : float
        Over which ln(wavelength) both are correlated.
    grey, slope : float
        Fibre losses, and chromatic losses per ln(wavelength); 0: none.
    zero_point : float
        Error of the zero point of every band, shared by all stars.

    Examples
    --------
    >>> ShapePriors(0.01, 0.012).reach
    0.12
    """

    common: float
    own: float
    reach: float = 0.12
    grey: float = 0.5
    slope: float = 0.0
    zero_point: float = 0.005


@dataclass(frozen=True, eq=False)
class BroadSolution:
    """Correction of ln(response) at bins and what is known about it.

    Parameters
    ----------
    correction : ndarray, shape (n_bin,)
        To be added to ln(response).
    covariance : ndarray, shape (n_bin, n_bin)
        Of its error, without the noise of the pixels.
    grey, slope : ndarray, shape (n_star,)
        Corrections of the losses; their means are 0.

    Examples
    --------
    >>> BroadSolution(np.zeros(2), np.eye(2), np.zeros(1), np.zeros(1)).grey
    array([0.])
    """

    correction: np.ndarray
    covariance: np.ndarray
    grey: np.ndarray
    slope: np.ndarray


def hat_matrix(knots: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Linear interpolation from knots as a matrix (n, n_knot); constant beyond the ends.

    Examples
    --------
    >>> hat_matrix(np.array([0.0, 1.0]), np.array([0.25, 3.0]))
    array([[0.75, 0.25],
           [0.  , 1.  ]])
    """
    x = np.clip(x, knots[0], knots[-1])
    left = np.clip(np.searchsorted(knots, x) - 1, 0, knots.size - 2)
    f = (x - knots[left]) / (knots[left + 1] - knots[left])
    out = np.zeros((x.size, knots.size))
    out[np.arange(x.size), left] = 1 - f
    out[np.arange(x.size), left + 1] += f
    return out


def solve_broad_shape(
    bins: np.ndarray,
    curves: np.ndarray,
    noise: np.ndarray,
    stars: Sequence[StarShape],
    derivatives: Sequence[np.ndarray],
    priors: ShapePriors,
) -> BroadSolution:
    r"""Solve for the broad shape of the response together with the errors of the stars' models.

    Parameters
    ----------
    bins : ndarray, shape (n_bin,)
        ln(wavelength).
    curves, noise : ndarray, shape (n_star, n_bin)
        ln of counts over those expected, and the noise variance; NaN where there is none.
    stars : sequence of StarShape
        The stars.
    derivatives : sequence of ndarray, shape (p, n_bin)
        Of ln(model) by the parameters, at the bins.
    priors : ShapePriors
        Sizes of the errors.

    Returns
    -------
    BroadSolution

    Notes
    -----
    Star i shows :math:`y_i = r + a_i + b_i x + e_i` in the bins and
    :math:`m_i = W_i e_i + z` in the bands, with the error of its model
    :math:`e_i = D_i p_i + c + o_i`: parameters as the lines leave them, a mode c that all models
    share and one of its own, both Gaussian processes. All are Gaussian, so that the best r, c and
    z are a linear least-squares solution with the stars' own unknowns marginalised, and the means
    of a and b belong to r. Photometry is what tells c from r.

    Examples
    --------
    >>> x = np.linspace(8.3, 9.1, 24)
    >>> w = np.exp(-0.5 * ((x - np.array([[8.45], [8.7], [9.0]])) / 0.06) ** 2)
    >>> w /= w.sum(axis=1, keepdims=True)
    >>> none = np.zeros((1, x.size))
    >>> stars = [StarShape(np.zeros(1), np.eye(1), none, -0.02 * w @ (x - 8.7), np.full(3, 1e-3),
    ...                    np.zeros((3, 1)), ("g", "r", "z"), x, w) for _ in range(5)]
    >>> y, v = np.zeros((5, x.size)), np.full((5, x.size), 1e-8)
    >>> got = solve_broad_shape(x, y, v, stars, [none] * 5,
    ...                         ShapePriors(0.02, 1e-4, zero_point=1e-4))
    >>> np.round([got.correction[3], got.correction[-3]], 3)   # the models are 2 % too red
    array([-0.005,  0.006])
    """
    grid = _ShapeGrid(bins, stars, priors)
    errors = [np.array(s.band_error, np.float64) for s in stars]
    for _ in range(_MOST_WRONG_BANDS + 1):
        information, moment = grid.prior()
        kept = []
        for y, v, star, slope, error in zip(curves, noise, stars, derivatives, errors, strict=True):
            terms = grid.terms(y, v, star, slope, error)
            information += terms.design.T @ terms.weighted
            moment += terms.weighted.T @ terms.data
            kept.append(terms)
        covariance = np.linalg.inv(information)
        best = covariance @ moment
        wrong = [_doubt_a_band(t, best, e) for t, e in zip(kept, errors, strict=True)]
        if not any(wrong):
            break
    solution = _collect(best, covariance, kept, grid)
    return _bridge_gaps(solution, bins, np.isfinite(curves).any(axis=0))


def _bridge_gaps(solution: BroadSolution, bins: np.ndarray, seen: np.ndarray) -> BroadSolution:
    """Take bins in which no star has data from their neighbours, as the spline does."""
    if seen.all():
        return solution
    rows = [np.interp(bins, bins[seen], row) for row in np.eye(int(seen.sum()))]
    at = np.transpose(rows)
    return replace(
        solution,
        correction=at @ solution.correction[seen],
        covariance=at @ solution.covariance[np.ix_(seen, seen)] @ at.T,
    )


@dataclass(frozen=True, eq=False)
class _Terms:
    """One star's data, their design matrix, and the same weighted by the inverse covariance."""

    design: np.ndarray
    data: np.ndarray
    weighted: np.ndarray
    precision: np.ndarray
    pull: np.ndarray
    lost: np.ndarray
    noise: np.ndarray


class _ShapeGrid:
    """Layout of the unknowns that all stars share: r at bins, c at knots, z of bands."""

    def __init__(self, bins: np.ndarray, stars: Sequence[StarShape], priors: ShapePriors) -> None:
        self.priors = priors
        self.names = sorted({name for s in stars for name in s.band_names})
        low = min([bins[0], *(s.position[0] for s in stars)])
        high = max([bins[-1], *(s.position[-1] for s in stars)])
        self.knots = np.linspace(low, high, int(np.ceil((high - low) / _KNOT_STEP)) + 1)
        self.n_bin, self.n_knot = bins.size, self.knots.size
        self.size = self.n_bin + self.n_knot + len(self.names)
        gap = (self.knots[:, None] - self.knots) / priors.reach
        self.process = np.exp(-0.5 * gap**2) + 1e-8 * np.eye(self.n_knot)
        self.at_bins = hat_matrix(self.knots, bins)
        self.losses = np.stack([np.ones(self.n_bin), bins - bins.mean()], axis=1)
        self.loss_prior = np.diag([priors.grey**2, priors.slope**2])

    def prior(self) -> tuple[np.ndarray, np.ndarray]:
        """Information and moment before any star."""
        n, part = self.n_bin, slice(self.n_bin, self.n_bin + self.n_knot)
        out = np.zeros((self.size, self.size))
        out[:n, :n] = 1e-6 * np.eye(n)
        out[part, part] = np.linalg.inv(max(self.priors.common, 1e-6) ** 2 * self.process)
        out[part.stop :, part.stop :] = np.eye(len(self.names)) / self.priors.zero_point**2
        return out, np.zeros(self.size)

    def terms(
        self, y: np.ndarray, v: np.ndarray, star: StarShape, slope: np.ndarray, error: np.ndarray
    ) -> _Terms:
        """What one star says about the common unknowns, its own marginalised."""
        use = np.isfinite(y) & np.isfinite(v)
        n, n_band = int(use.sum()), len(star.band_names)
        design = np.zeros((n + n_band, self.size))
        design[:n, : self.n_bin] = np.eye(self.n_bin)[use]
        modes = np.concatenate(
            [self.at_bins[use], star.band_weight @ hat_matrix(self.knots, star.position)]
        )
        design[:, self.n_bin : self.n_bin + self.n_knot] = modes
        for row, name in enumerate(star.band_names):
            design[n + row, self.n_bin + self.n_knot + self.names.index(name)] = 1.0
        tilt = np.concatenate([slope.T[use], star.band_derivative])
        lost = np.concatenate([self.losses[use], np.zeros((n_band, 2))])
        spread = tilt @ star.covariance @ tilt.T + lost @ self.loss_prior @ lost.T
        spread += self.priors.own**2 * modes @ self.process @ modes.T
        spread += np.diag(np.concatenate([v[use], error**2]) + 1e-12)
        data = np.concatenate([y[use], star.band_gap]) - tilt @ star.shift
        precision = np.linalg.inv(spread)
        pull = self.loss_prior @ (precision @ lost).T
        return _Terms(design, data, precision @ design, precision, pull, lost, v[use])


def _doubt_a_band(terms: _Terms, best: np.ndarray, error: np.ndarray) -> bool:
    """Enlarge the error of the band that misses its prediction most, if by more than 4 sigma."""
    n = terms.noise.size
    if error.size == 0:
        return False
    own = np.diag(terms.precision)
    miss = terms.precision @ (terms.data - terms.design @ best)
    sigmas = np.abs(miss / np.sqrt(own))[n:]
    worst = int(np.argmax(sigmas))
    if sigmas[worst] < _DOUBT:
        return False
    size = abs(float((miss / own)[n + worst]))
    if size <= error[worst]:
        return False
    error[worst] = size
    return True


def _collect(
    best: np.ndarray, covariance: np.ndarray, kept: Sequence[_Terms], grid: _ShapeGrid
) -> BroadSolution:
    """Turn the common solution into the convention that mean losses are 0, with its errors."""
    n_bin, n_star, losses = grid.n_bin, len(kept), grid.losses
    own = np.array([t.pull @ (t.data - t.design @ best) for t in kept])
    to_common = np.zeros((n_bin, best.size))
    to_common[:, :n_bin] = np.eye(n_bin)
    for t in kept:
        to_common -= losses @ t.pull @ t.design / n_star
    total = to_common @ covariance @ to_common.T
    for t in kept:
        left = grid.loss_prior - t.pull @ t.lost @ grid.loss_prior
        total += losses @ left @ losses.T / n_star**2
        gain = to_common @ covariance @ t.weighted.T + losses @ t.pull / n_star
        gain = gain[:, : t.noise.size]
        total -= (gain * t.noise) @ gain.T
    mean = own.mean(axis=0)
    return BroadSolution(
        best[:n_bin] + losses @ mean,
        0.5 * (total + total.T),
        own[:, 0] - mean[0],
        own[:, 1] - mean[1],
    )
