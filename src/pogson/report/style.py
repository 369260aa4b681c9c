"""Colours and small plotting pieces that all figures of the report share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

__all__ = [
    "band_color",
    "binned_median",
    "new_figure",
    "pull_axes",
    "pull_histogram",
    "robust_limits",
    "tidy",
]

# Okabe & Ito's colours, which colour-blind readers can tell apart, in order of wavelength
_BANDS = {"u": "#7b4fb5", "g": "#009e73", "r": "#d55e00", "i": "#b8860b", "z": "#0072b2",
          "y": "#56585a", "Y": "#56585a", "G": "#009e73"}  # fmt: skip
_CYCLE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#56585a")


def band_color(band: str, bands: Sequence[str] = ()) -> str:
    """Return a colour for a band: its usual one, else the next of a cycle.

    Examples
    --------
    >>> band_color("r")
    '#d55e00'
    """
    name = band.split("-")[-1].split("_")[-1]
    if name in _BANDS:
        return _BANDS[name]
    position = list(bands).index(band) if band in bands else 0
    return _CYCLE[position % len(_CYCLE)]


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1, **kw: Any) -> Any:
    """Return a figure without global state, and its axes as a (rows, columns) array."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    return figure, figure.subplots(rows, columns, squeeze=False, **kw)


def tidy(axes: Any) -> None:
    """Make an axes quiet: light grid, no upper and right frame."""
    axes.grid(True, color="#e4e7eb", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=9)


def robust_limits(
    values: Any, low: float = 0.5, high: float = 99.5, pad: float = 0.12, least: float = 0.0
) -> tuple[float, float]:
    """Return axis limits from percentiles, padded, at least ``least`` wide; (-1, 1) if empty.

    Examples
    --------
    >>> robust_limits([0.0, 1.0], low=0, high=100, pad=0.1)
    (-0.1, 1.1)
    """
    good = np.asarray(values, float)
    good = good[np.isfinite(good)]
    if good.size == 0:
        return (-1.0, 1.0)
    lo, hi = np.percentile(good, [low, high])
    width = max(hi - lo, least, 1e-12 * max(abs(lo), abs(hi), 1e-300))
    middle = 0.5 * (lo + hi)
    half = 0.5 * width * (1 + 2 * pad)
    return (float(middle - half), float(middle + half))


def binned_median(x: Any, y: Any, bins: int = 12, least: int = 5) -> Any:
    """Return centres, medians and standard errors of the median of y in bins of equal counts.

    Examples
    --------
    >>> centre, median, err = binned_median(range(100), [2.0] * 100, bins=4)
    >>> median
    array([2., 2., 2., 2.])
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    good = np.isfinite(x) & np.isfinite(y)
    x, y = x[good], y[good]
    bins = int(min(bins, x.size // least))
    if bins < 1:
        return np.zeros(0), np.zeros(0), np.zeros(0)
    parts = np.array_split(np.argsort(x, kind="stable"), bins)
    centre = np.array([np.median(x[p]) for p in parts])
    median = np.array([np.median(y[p]) for p in parts])
    spread = np.array([1.4826 * np.median(np.abs(y[p] - np.median(y[p]))) for p in parts])
    count = np.array([len(p) for p in parts])
    # the median of normal deviates scatters sqrt(pi/2) more than their mean
    return centre, median, np.sqrt(np.pi / 2) * spread / np.sqrt(count)


def pull_histogram(ax: Any, pull: np.ndarray, color: str, label: str) -> None:
    """Draw the histogram of pulls, with their rms and robust width in the legend."""
    good = pull[np.isfinite(pull)]
    rms = float(np.sqrt(np.mean(good**2))) if good.size else float("nan")
    robust = float(1.4826 * np.median(np.abs(good - np.median(good)))) if good.size else np.nan
    edges = np.linspace(-5, 5, 41)
    text = f"{label}: rms {rms:.2f}, robust {robust:.2f} (n={good.size})"
    style = {"density": True, "histtype": "stepfilled", "alpha": 0.35, "color": color}
    ax.hist(np.clip(good, -5, 5), edges, label=text, **style)


def pull_axes(ax: Any) -> None:
    """Draw the unit normal curve over histograms of pulls, and finish the axes."""
    t = np.linspace(-5, 5, 201)
    ax.plot(t, np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi), color="black", lw=1.2, label="unit normal")
    ax.set_xlabel("pull: difference / standard error")
    ax.set_ylabel("density")
    top = ax.get_ylim()[1]
    ax.set_ylim(0, 1.45 * top)
    ax.legend(fontsize=8, loc="upper center", ncols=1)
    tidy(ax)
