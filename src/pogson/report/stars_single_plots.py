"""Figures of one star: the corner plot of its posterior, and its spectral energy distribution."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pogson.report.stars_data import BAND_MICRON, StarRecord
from pogson.report.stars_plots import distinct_color
from pogson.report.style import new_figure, robust_limits, tidy

__all__ = ["plot_corner", "plot_sed"]

_INK = "#20252b"


def plot_corner(star: StarRecord) -> Figure | None:
    """Draw the posterior of one star: each parameter, and each pair of them.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> star = StarRecord("a", {"distance [kpc]": rng.normal(size=50), "A_V": rng.normal(size=50)},
    ...                   ("g",), np.zeros(1), np.ones(1), np.zeros((50, 1)))
    >>> len(plot_corner(star).axes)
    4
    """
    draws = {k: np.asarray(v, float) for k, v in star.parameters.items()}
    draws = {k: v[np.isfinite(v)] for k, v in draws.items()}
    draws = {k: v for k, v in draws.items() if len(v) > 5 and np.ptp(v) > 0}
    n = len(draws)
    if n == 0:
        return None
    names, values = list(draws), list(draws.values())
    figure, axes = new_figure(1.55 * n + 0.7, 1.5 * n + 0.5, n, n)
    limits = [robust_limits(v, 0.5, 99.5, pad=0.08) for v in values]
    for i in range(n):
        for j in range(n):
            ax = axes[i, j]
            if j > i:
                ax.set_axis_off()
                continue
            ax.set_xlim(limits[j])
            ax.xaxis.set_major_locator(_corner_ticks())
            if i == j:
                _one_parameter(ax, values[i], limits[i])
            else:
                _two_parameters(ax, values[j], values[i], limits[j], limits[i])
                ax.set_ylim(limits[i])
                ax.yaxis.set_major_locator(_corner_ticks())
            ax.tick_params(labelsize=7)
            for text in ax.get_xticklabels():
                text.set_rotation(35)
            if i < n - 1:
                ax.set_xticklabels([])
            else:
                ax.set_xlabel(names[j], fontsize=8)
            if j > 0 or i == 0:
                ax.set_yticklabels([])
            if j == 0 and i > 0:
                ax.set_ylabel(names[i], fontsize=8)
    figure.align_labels()
    figure.suptitle(f"{star.name}   {star.note}".strip(), fontsize=10)
    return figure


def _corner_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(3, prune="both")


def _one_parameter(ax: Any, v: np.ndarray, limits: tuple[float, float]) -> None:
    ax.hist(v, bins=np.linspace(*limits, 21), color="#0072b2", alpha=0.45, lw=0)
    low, middle, high = np.percentile(v, [16, 50, 84])
    ax.axvspan(low, high, color="#0072b2", alpha=0.12, lw=0)
    ax.axvline(middle, color=_INK, lw=1)
    width = 0.5 * (high - low)
    digits = int(np.clip(1 - np.floor(np.log10(width)), 0, 5)) if width > 0 else 2
    text = f"{middle:.{digits}f} ± {width:.{digits}f}".replace("-", "−")
    ax.set_title(text, fontsize=7.5, pad=2)
    ax.set_yticks([])


def _two_parameters(
    ax: Any, x: np.ndarray, y: np.ndarray, xlim: tuple[float, float], ylim: tuple[float, float]
) -> None:
    m = min(len(x), len(y))
    ax.plot(x[:m], y[:m], ".", ms=2, color="#0072b2", alpha=0.35, rasterized=True)
    if m < 40:
        return
    from scipy.ndimage import gaussian_filter

    counts, xe, ye = np.histogram2d(x[:m], y[:m], bins=24, range=[xlim, ylim])
    smooth = gaussian_filter(counts, 1.3)
    order = np.sort(smooth.ravel())[::-1]
    share = np.cumsum(order) / max(order.sum(), 1e-300)
    levels = sorted({float(order[np.searchsorted(share, p)]) for p in (0.95, 0.68)})
    if len(levels) == 2 and levels[0] > 0:
        centres = 0.5 * (xe[1:] + xe[:-1]), 0.5 * (ye[1:] + ye[:-1])
        ax.contour(*centres, smooth.T, levels=levels, colors=_INK, linewidths=[0.7, 1.1])


def plot_sed(star: StarRecord) -> Figure | None:
    """Draw a star's photometry over the magnitudes of its draws, with residuals below.

    Examples
    --------
    >>> star = StarRecord("a", {}, ("PS_g", "PS_r"), np.array([15.0, 14.5]), np.array([0.1, 0.1]),
    ...                   np.array([[15.1, 14.4], [15.0, 14.6]]))
    >>> len(plot_sed(star).axes)
    2
    """
    model = star.model[np.isfinite(star.model).all(axis=1)]
    if not len(model) or not np.isfinite(star.magnitudes).any():
        return None
    known = all(b in BAND_MICRON for b in star.bands)
    x = (
        np.array([BAND_MICRON[b] for b in star.bands])
        if known
        else np.arange(len(star.bands)) * 1.0
    )
    order = np.argsort(x)
    figure, axes = new_figure(8.0, 5.2, 2, 1, sharex=True, height_ratios=[2.4, 1])
    top, bottom = axes[:, 0]
    q = np.percentile(model, [2.5, 16, 50, 84, 97.5], axis=0)
    for ax, base in ((top, np.zeros(len(x))), (bottom, q[2])):
        scale = 1.0 if ax is top else 1e3
        for low, high, alpha in ((0, 4, 0.15), (1, 3, 0.3)):
            ax.fill_between(
                x[order],
                scale * (q[low] - base)[order],
                scale * (q[high] - base)[order],
                color="#0072b2",
                alpha=alpha,
                lw=0,
            )
        ax.plot(x[order], scale * (q[2] - base)[order], color="#0072b2", lw=1.2)
        for k, band in enumerate(star.bands):
            ax.errorbar(x[k], scale * (star.magnitudes[k] - base[k]),
                        scale * star.magnitude_errors[k], fmt="o", ms=5, capsize=2,
                        color=distinct_color(band, star.bands), zorder=3)  # fmt: skip
        tidy(ax)
    top.invert_yaxis()
    bottom.invert_yaxis()
    top.set_ylabel(f"magnitude ({star.systems})" if star.systems else "magnitude")
    bottom.set_ylabel("obs. − model\n[mmag]", fontsize=9)
    if known:
        top.set_xscale("log")
        bottom.set_xlabel("wavelength [µm]")
        _micron_ticks(bottom, x)
    else:
        bottom.set_xticks(x, star.bands, rotation=30, ha="right")
    low, high = top.get_ylim()
    top.set_ylim(low, high + 0.13 * (high - low))
    for k, band in enumerate(star.bands):
        top.annotate(band.split("_")[-1], (x[k], 1.0), xycoords=("data", "axes fraction"),
                     xytext=(0, -12), textcoords="offset points", ha="center", fontsize=8,
                     color=distinct_color(band, star.bands))  # fmt: skip
    top.set_title(f"{star.name}   {star.note}".strip(), fontsize=10, loc="left")
    return figure


def _micron_ticks(ax: Any, x: np.ndarray) -> None:
    from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

    nice = [t for t in (0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0)
            if 0.9 * x.min() <= t <= 1.1 * x.max()]  # fmt: skip
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_locator(FixedLocator(nice))
    ax.set_xticklabels([f"{t:g}" for t in nice])
    ax.set_xlim(0.92 * x.min(), 1.09 * x.max())
