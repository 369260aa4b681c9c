r"""Statistics of recovered sources: completeness, bias, pulls, confusion.

Plain functions over arrays; fluxes in nJy, differences in magnitudes where said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pogson.errors import PogsonValueError

__all__ = [
    "CompletenessFit",
    "binned_bias",
    "binomial_interval",
    "completeness_curve",
    "confusion_matrix",
    "fit_completeness",
    "pull_statistics",
]

_MAD = 1.482602218505602
_MEDIAN_ERROR = 1.2533141373155003  # sqrt(pi/2): error of a median over that of a mean
_POGSON = 2.5 / np.log(10.0)
_LARGEST_SLOPE = 50.0


def binomial_interval(k: Any, n: Any, confidence: float = 0.6827) -> tuple[Any, Any]:
    r"""Return the Wilson score interval of a fraction k/n.

    Parameters
    ----------
    k, n : array_like
        Successes and trials.
    confidence : float, optional
        Probability content.

    Returns
    -------
    low, high : numpy.ndarray
        Within [0, 1]; 0 and 1 where there were no trials.

    Raises
    ------
    PogsonValueError
        If a count or the confidence is out of range.

    Notes
    -----
    Wilson (1927, JASA 22, 209):
    :math:`(p + z^2/2n \pm z\sqrt{p(1-p)/n + z^2/4n^2})/(1 + z^2/n)`. Unlike
    :math:`\sqrt{p(1-p)/n}` it is not zero for k = 0 or k = n.

    Examples
    --------
    >>> low, high = binomial_interval([0, 5, 10], 10)
    >>> low.round(3), high.round(3)
    (array([0.   , 0.349, 0.909]), array([0.091, 0.651, 1.   ]))
    """
    from scipy.special import ndtri

    kk, nn = np.broadcast_arrays(np.asarray(k, np.float64), np.asarray(n, np.float64))
    if not ((kk >= 0) & (kk <= nn)).all() or not 0 < confidence < 1:
        raise PogsonValueError("Counts must satisfy 0 <= k <= n, and 0 < confidence < 1.")
    z = float(ndtri(0.5 + 0.5 * confidence))
    safe = np.maximum(nn, 1.0)
    p = kk / safe
    middle = (p + z * z / (2 * safe)) / (1 + z * z / safe)
    half = z * np.sqrt(p * (1 - p) / safe + z * z / (4 * safe**2)) / (1 + z * z / safe)
    low = np.where(nn > 0, np.clip(middle - half, 0.0, 1.0), 0.0)
    high = np.where(nn > 0, np.clip(middle + half, 0.0, 1.0), 1.0)
    # at the ends the interval starts at the end itself; rounding must not move it
    return np.where(kk == 0, 0.0, low), np.where((kk == nn), 1.0, high)


def completeness_curve(
    magnitude: Any, detected: Any, edges: Any, confidence: float = 0.6827
) -> dict[str, np.ndarray]:
    """Return the fraction found in bins of magnitude.

    Parameters
    ----------
    magnitude : array_like, shape (n,)
        Injected magnitudes; rows that are not finite are left out.
    detected : array_like of bool, shape (n,)
        Which were found.
    edges : array_like
        Edges of the bins, ascending.
    confidence : float, optional
        Of the errors.

    Returns
    -------
    dict of numpy.ndarray
        ``low``, ``high`` (edges), ``magnitude`` (mean of the bin's sources, its middle where it is
        empty), ``n``, ``found``, ``fraction`` (NaN where empty), ``fraction_low``,
        ``fraction_high``.

    Examples
    --------
    >>> curve = completeness_curve([20.1, 20.2, 21.5], [True, True, False], [20, 21, 22])
    >>> curve["fraction"], curve["n"]
    (array([1., 0.]), array([2, 1]))
    """
    m, d = np.asarray(magnitude, np.float64), np.asarray(detected, bool)
    steps = np.asarray(edges, np.float64)
    if steps.ndim != 1 or steps.size < 2 or not (np.diff(steps) > 0).all():
        raise PogsonValueError("Bin edges must be at least two ascending numbers.")
    good = np.isfinite(m)
    m, d = m[good], d[good]
    n, _ = np.histogram(m, steps)
    found, _ = np.histogram(m[d], steps)
    total, _ = np.histogram(m, steps, weights=m)
    low, high = binomial_interval(found, n, confidence)
    middle = 0.5 * (steps[1:] + steps[:-1])
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "low": steps[:-1],
            "high": steps[1:],
            "magnitude": np.where(n > 0, total / np.maximum(n, 1), middle),
            "n": n,
            "found": found,
            "fraction": np.where(n > 0, found / np.maximum(n, 1), np.nan),
            "fraction_low": low,
            "fraction_high": high,
        }


@dataclass(frozen=True)
class CompletenessFit:
    r"""A completeness curve :math:`C(m) = A / (1 + e^{(m - m_0)/w})`; see `fit_completeness`.

    Parameters
    ----------
    amplitude : float
        Completeness of bright sources, A.
    midpoint : float
        Magnitude at which C is A / 2.
    width : float
        Width w in magnitudes.
    covariance : numpy.ndarray, shape (3, 3)
        Of amplitude, midpoint, width.
    n : int
        Sources fitted.
    range : tuple of float
        Brightest and faintest magnitude fitted.
    """

    amplitude: float
    midpoint: float
    width: float
    covariance: np.ndarray
    n: int
    range: tuple[float, float]

    def __call__(self, magnitude: Any) -> np.ndarray:
        """Return the completeness at magnitudes."""
        t = (np.asarray(magnitude, np.float64) - self.midpoint) / self.width
        return np.asarray(self.amplitude / (1.0 + np.exp(np.clip(t, -500, 500))))

    def depth(self, fraction: float) -> tuple[float, float]:
        """Return the magnitude at which the completeness is a fraction, and its error.

        NaN where the curve does not pass the fraction within the magnitudes fitted: nothing is
        extrapolated.
        """
        if not 0 < fraction < 1:
            raise PogsonValueError(f"A completeness of {fraction!r} is not between 0 and 1.")
        if fraction >= self.amplitude:
            return float("nan"), float("nan")
        ratio = self.amplitude / fraction - 1.0
        magnitude = self.midpoint + self.width * np.log(ratio)
        if not self.range[0] <= magnitude <= self.range[1]:
            return float("nan"), float("nan")
        gradient = np.array([self.width / (ratio * fraction), 1.0, np.log(ratio)])
        variance = gradient @ self.covariance @ gradient
        return float(magnitude), float(np.sqrt(max(variance, 0.0)))


def fit_completeness(magnitude: Any, detected: Any) -> CompletenessFit | None:
    """Fit a completeness curve to single sources by maximum likelihood.

    Parameters
    ----------
    magnitude : array_like, shape (n,)
        Injected magnitudes.
    detected : array_like of bool, shape (n,)
        Which were found.

    Returns
    -------
    CompletenessFit or None
        None where there is nothing to fit: fewer than 10 sources, all found, or none found.

    Notes
    -----
    Each source is a trial of probability C(m), so no bins are needed; the covariance is the
    inverse Fisher information. An amplitude of 1 is at the edge of what is possible and is then
    held.

    Examples
    --------
    >>> rng = np.random.default_rng(3)
    >>> m = rng.uniform(20, 26, 4000)
    >>> found = rng.random(4000) < 1 / (1 + np.exp((m - 24.0) / 0.3))
    >>> depth, error = fit_completeness(m, found).depth(0.5)
    >>> abs(depth - 24.0) < 4 * error, error < 0.05
    (True, True)
    """
    from scipy.optimize import minimize

    m, d = np.asarray(magnitude, np.float64), np.asarray(detected, bool)
    good = np.isfinite(m)
    m, d = m[good], d[good]
    if m.size < 10 or d.all() or not d.any():
        return None
    spread = max(float(m.max() - m.min()), 1e-3)
    center = float(np.median(m))

    def cost(p: np.ndarray) -> float:
        c = p[0] / (1.0 + np.exp(np.clip((m - center - p[1]) / np.exp(p[2]), -500, 500)))
        c = np.clip(c, 1e-12, 1 - 1e-12)
        return -float(np.sum(np.where(d, np.log(c), np.log1p(-c))))

    bounds = [(0.02, 1.0), (-2 * spread, 2 * spread), (np.log(spread / 1e3), np.log(2 * spread))]
    best = None
    for start in (-0.25, 0.0, 0.25):
        found = minimize(
            cost, [0.98, start * spread, np.log(spread / 12)], method="L-BFGS-B", bounds=bounds
        )
        if best is None or found.fun < best.fun:
            best = found
    assert best is not None
    amplitude, midpoint, width = float(best.x[0]), center + float(best.x[1]), np.exp(best.x[2])
    t = np.clip((m - midpoint) / width, -500, 500)
    e = np.exp(-np.logaddexp(0.0, t))  # 1 / (1 + e^t)
    c = np.clip(amplitude * e, 1e-9, 1 - 1e-9)
    slope = amplitude * e * (1 - e) / width
    gradients = np.stack([e, slope, slope * t], axis=1)
    free = [1, 2] if amplitude > 1 - 1e-4 else [0, 1, 2]
    g = gradients[:, free] / np.sqrt(c * (1 - c))[:, None]
    covariance = np.zeros((3, 3))
    covariance[np.ix_(free, free)] = np.linalg.pinv(g.T @ g)
    limits = (float(m.min()), float(m.max()))
    return CompletenessFit(amplitude, midpoint, float(width), covariance, int(m.size), limits)


def binned_bias(coordinate: Any, difference: Any, edges: Any) -> dict[str, np.ndarray]:
    """Return robust bias and scatter in bins of a coordinate.

    Parameters
    ----------
    coordinate : array_like, shape (n,)
        Magnitude, position or distance to the next source.
    difference : array_like, shape (n,)
        What is averaged, as magnitudes out less in; rows that are not finite are left out.
    edges : array_like
        Edges of the bins, ascending.

    Returns
    -------
    dict of numpy.ndarray
        ``low``, ``high``, ``center`` (median coordinate), ``n``, ``median``, ``median_err`` (from
        the scatter, sqrt(pi/2) times that of a mean), ``scatter`` (1.4826 median absolute
        deviation); NaN in empty bins, errors NaN with fewer than 3.

    Examples
    --------
    >>> bins = binned_bias([1, 1, 1, 2], [0.1, 0.2, 0.3, 0.0], [0.5, 1.5, 2.5])
    >>> bins["n"], bins["median"]
    (array([3, 1]), array([0.2, 0. ]))
    """
    c, v = np.asarray(coordinate, np.float64), np.asarray(difference, np.float64)
    steps = np.asarray(edges, np.float64)
    good = np.isfinite(c) & np.isfinite(v)
    c, v = c[good], v[good]
    bins = np.searchsorted(steps, c, side="right") - 1
    bins[c == steps[-1]] = steps.size - 2
    n_bins = steps.size - 1
    out = {name: np.full(n_bins, np.nan) for name in ("center", "median", "median_err", "scatter")}
    count = np.zeros(n_bins, np.int64)
    for k in range(n_bins):
        some = v[bins == k]
        count[k] = some.size
        if not some.size:
            out["center"][k] = 0.5 * (steps[k] + steps[k + 1])
            continue
        out["center"][k] = np.median(c[bins == k])
        out["median"][k], out["median_err"][k], out["scatter"][k] = robust_center(some)
    return {"low": steps[:-1], "high": steps[1:], "n": count, **out}


def robust_center(values: np.ndarray) -> tuple[float, float, float]:
    """Return median, its error, and scatter (1.4826 MAD) of values.

    Examples
    --------
    >>> median, error, scatter = robust_center(np.array([1.0, 2.0, 3.0, 100.0, 2.5]))
    >>> median, round(scatter, 2)
    (2.5, 0.74)
    """
    if values.size == 0:
        return float("nan"), float("nan"), float("nan")
    median = float(np.median(values))
    if values.size < 3:
        return median, float("nan"), float("nan")
    scatter = float(_MAD * np.median(np.abs(values - median)))
    return median, _MEDIAN_ERROR * scatter / np.sqrt(values.size), scatter


def pull_statistics(pulls: Any, *, clip: float = 5.0) -> dict[str, float | int]:
    """Return how the pulls (out - in) / error are distributed.

    Parameters
    ----------
    pulls : array_like
        Pulls; values that are not finite are left out and counted.
    clip : float, optional
        Pulls beyond this are counted as outliers and left out of the clipped mean and rms.

    Returns
    -------
    dict
        ``n``, ``n_not_finite``, ``n_outliers``, ``mean``, ``mean_err``, ``rms`` (about 0),
        ``rms_err``, ``median``, ``robust_width`` (1.4826 MAD), ``clipped_mean``, ``clipped_rms``,
        ``ks`` and ``ks_probability`` (Kolmogorov-Smirnov against the unit normal).

    Examples
    --------
    >>> stats = pull_statistics(np.random.default_rng(1).normal(size=4000))
    >>> bool(abs(stats["rms"] - 1) < 3 * stats["rms_err"]), stats["ks_probability"] > 0.001
    (True, True)
    """
    from scipy.stats import kstest

    p = np.asarray(pulls, np.float64).ravel()
    good = p[np.isfinite(p)]
    out: dict[str, float | int] = {"n": int(good.size), "n_not_finite": int(p.size - good.size)}
    names = (
        "mean", "mean_err", "rms", "rms_err", "median", "robust_width", "clipped_mean",
        "clipped_rms", "ks", "ks_probability",
    )  # fmt: skip
    if good.size < 2:
        return {**out, "n_outliers": 0, **dict.fromkeys(names, float("nan"))}
    inside = good[np.abs(good) <= clip]
    rms = float(np.sqrt(np.mean(good**2)))
    median, _, width = robust_center(good)
    test = kstest(good, "norm")
    values = (
        float(good.mean()), float(good.std(ddof=1) / np.sqrt(good.size)), rms,
        rms / np.sqrt(2.0 * good.size), median, width,
        float(inside.mean()) if inside.size else float("nan"),
        float(np.sqrt(np.mean(inside**2))) if inside.size else float("nan"),
        float(test.statistic), float(test.pvalue),
    )  # fmt: skip
    out["n_outliers"] = int(good.size - inside.size)
    return {**out, **dict(zip(names, values, strict=True))}


def confusion_matrix(is_star: Any, called_star: Any) -> dict[str, Any]:
    """Return how often stars and galaxies are called by the other name.

    Parameters
    ----------
    is_star : array_like of bool, shape (n,)
        What was injected.
    called_star : array_like of bool, shape (n,)
        What the classifier said.

    Returns
    -------
    dict
        ``stars``, ``stars_called_stars``, ``galaxies``, ``galaxies_called_stars``,
        ``star_completeness`` and ``galaxy_contamination`` (galaxies called stars over galaxies),
        each fraction with ``_low`` and ``_high`` (Wilson, 68 %).

    Examples
    --------
    >>> matrix = confusion_matrix([True, True, False], [True, False, False])
    >>> matrix["star_completeness"], matrix["galaxy_contamination"]
    (0.5, 0.0)
    """
    star, called = np.asarray(is_star, bool), np.asarray(called_star, bool)
    if star.shape != called.shape:
        raise PogsonValueError(f"Classes have shapes {star.shape} and {called.shape}.")
    out: dict[str, Any] = {
        "stars": int(star.sum()),
        "stars_called_stars": int((star & called).sum()),
        "galaxies": int((~star).sum()),
        "galaxies_called_stars": int((~star & called).sum()),
    }
    for name, k, n in (
        ("star_completeness", out["stars_called_stars"], out["stars"]),
        ("galaxy_contamination", out["galaxies_called_stars"], out["galaxies"]),
    ):
        low, high = binomial_interval(k, n)
        out[name] = k / n if n else float("nan")
        out[f"{name}_low"], out[f"{name}_high"] = float(low), float(high)
    return out


def magnitude_difference(flux_out: np.ndarray, flux_in: np.ndarray) -> np.ndarray:
    """Return out less in, in magnitudes, to first order in the flux, so that any flux counts.

    Examples
    --------
    >>> magnitude_difference(np.array([101.0]), np.array([100.0])).round(4)
    array([-0.0109])
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(flux_in > 0, -_POGSON * (flux_out / flux_in - 1.0), np.nan)
