"""Which standard star does not belong: leave-one-out over coarse throughput curves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["RejectionPriors", "contradiction", "find_wrong_stars"]


@dataclass(frozen=True)
class RejectionPriors:
    """By how much the throughput curves of good stars may differ, in ln.

    Parameters
    ----------
    grey : float, optional
        Fibre losses: one factor a star.
    slope : float, optional
        Chromatic losses over the whole range of ln(wavelength), end to end.
    shape : float, optional
        Mismatch of a template, broad in wavelength.
    fine : float, optional
        The same, independent in every bin.
    odds : float, optional
        A star is wrong when its chi-square given the others, per degree of freedom, exceeds this.

    Examples
    --------
    >>> RejectionPriors().grey
    0.25
    """

    grey: float = 0.25
    slope: float = 0.05
    shape: float = 0.02
    fine: float = 0.008
    odds: float = 3.0


def find_wrong_stars(
    position: np.ndarray,
    log_throughput: np.ndarray,
    variance: np.ndarray,
    priors: RejectionPriors | None = None,
) -> list[tuple[int, float]]:
    r"""Name the stars whose throughput the other stars do not support.

    Parameters
    ----------
    position : ndarray, shape (n_bin,)
        ln(wavelength) of the bins.
    log_throughput : ndarray, shape (n_star, n_bin)
        ln of counts over model in each bin; NaN where there is none.
    variance : ndarray, shape (n_star, n_bin)
        Noise variance of it.
    priors : RejectionPriors, optional
        What good stars may differ by.

    Returns
    -------
    wrong : list of (int, float)
        Index of each wrong star in the order found, and its chi-square per bin given the others.

    Notes
    -----
    Star i has curve y_i ~ N(mu, C_i), C_i from noise, grey loss, slope and template mismatch, mu
    free. Each star in turn is left out; the one without which the others agree best is the
    suspect, and it is wrong when the prediction of the others (mean and covariance, their own
    losses included) misses it. So three stars are enough: a clip of residuals from a common mean,
    whose largest value among N is sqrt(N-1) sigma, cannot reject anyone below N = 10.
    With two stars left nobody can be named; `contradiction` says whether one of them is wrong.

    Examples
    --------
    >>> x = np.linspace(8.2, 9.1, 12)
    >>> y = np.zeros((3, 12)); y[1] += np.log(100.0)
    >>> [i for i, chi2 in find_wrong_stars(x, y, np.full((3, 12), 1e-4))]
    [1]
    """
    priors = priors or RejectionPriors()
    y = np.array(log_throughput, np.float64)
    use = np.isfinite(y) & np.isfinite(variance)
    shared = _shared(position, priors)
    information = _information(shared, variance, use)
    values = np.where(use, y, 0.0)
    wrong: list[tuple[int, float]] = []
    left = [i for i in range(y.shape[0]) if use[i].sum() >= 3]
    while len(left) >= 3:
        scores = [_disagreement([j for j in left if j != i], values, information) for i in left]
        suspect = left[int(np.argmin(scores))]
        others = [j for j in left if j != suspect]
        chi2 = _prediction_chi2(suspect, others, values, information, shared, use, variance)
        if chi2 < priors.odds:
            break
        wrong.append((suspect, chi2))
        left = others
    return wrong


def contradiction(
    position: np.ndarray,
    log_throughput: np.ndarray,
    variance: np.ndarray,
    priors: RejectionPriors | None = None,
) -> float:
    """Chi-square of the second of two stars given the first, as `find_wrong_stars` counts it.

    Parameters
    ----------
    position, log_throughput, variance, priors
        As there, of two stars.

    Returns
    -------
    chi2 : float
        Above ``priors.odds`` one of the two is wrong, and nobody can say which.

    Examples
    --------
    >>> x = np.linspace(8.2, 9.1, 12)
    >>> y = np.array([np.zeros(12), np.full(12, 0.1)])
    >>> contradiction(x, y, np.full((2, 12), 1e-4)) < 3 < contradiction(x, 20 * y, y + 1e-4)
    True
    """
    use = np.isfinite(log_throughput) & np.isfinite(variance)
    shared = _shared(position, priors or RejectionPriors())
    information = _information(shared, variance, use)
    values = np.where(use, log_throughput, 0.0)
    return _prediction_chi2(1, [0], values, information, shared, use, variance)


def _shared(position: np.ndarray, priors: RejectionPriors) -> np.ndarray:
    """Covariance of what good stars may differ by."""
    x = (position - position.mean()) / max(np.ptp(position), 1e-9)
    distance = position[:, None] - position[None, :]
    return np.asarray(
        priors.grey**2
        + priors.slope**2 * np.outer(x, x)
        + priors.shape**2 * np.exp(-0.5 * (distance / 0.12) ** 2)
        + priors.fine**2 * np.eye(x.size)
    )


def _information(shared: np.ndarray, variance: np.ndarray, use: np.ndarray) -> list[np.ndarray]:
    return [
        np.linalg.inv(shared + np.diag(np.where(u, v, 1e6)))
        for u, v in zip(use, variance, strict=True)
    ]


def _mean(
    stars: list[int], y: np.ndarray, information: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    total = sum((information[j] for j in stars), np.zeros_like(information[0]))
    right = sum((information[j] @ y[j] for j in stars), np.zeros(y.shape[1]))
    covariance = np.linalg.inv(total)
    return covariance @ right, covariance


def _disagreement(stars: list[int], y: np.ndarray, information: list[np.ndarray]) -> float:
    """Chi-square of some stars about their common curve."""
    mean, _ = _mean(stars, y, information)
    return float(sum((y[j] - mean) @ information[j] @ (y[j] - mean) for j in stars))


def _prediction_chi2(
    star: int,
    others: list[int],
    y: np.ndarray,
    information: list[np.ndarray],
    shared: np.ndarray,
    use: np.ndarray,
    variance: np.ndarray,
) -> float:
    """Chi-square per degree of freedom of a star under the prediction of the others.

    The largest of the whole curve and of its grey level alone: one factor wrong by 100 is one
    degree of freedom among many.
    """
    mean, covariance = _mean(others, y, information)
    total = covariance + shared + np.diag(np.where(use[star], variance[star], 1e6))
    gap = np.where(use[star], y[star] - mean, 0.0)
    whole = float(gap @ np.linalg.solve(total, gap)) / max(int(use[star].sum()), 1)
    # the grey level alone, 1 degree of freedom; 4.5 sigma counts like the limit of the whole curve
    inverse = np.linalg.inv(total)
    ones = use[star].astype(np.float64)
    level = (ones @ inverse @ gap) ** 2 / max(float(ones @ inverse @ ones), 1e-300)
    return max(whole, float(level) / 6.75)
