"""Figures of a global solution."""

from __future__ import annotations

from typing import Any

import numpy as np

from pogson.report.solve_data import SolveReport
from pogson.report.style import (
    band_color,
    new_figure,
    pull_axes,
    pull_histogram,
    tidy,
)

__all__ = [
    "plot_solve_clouds",
    "plot_solve_exposures",
    "plot_solve_pit",
    "plot_solve_pulls",
    "plot_solve_references",
]


def _legend(ax: Any) -> None:
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=8)


def _used(data: SolveReport) -> dict[str, np.ndarray]:
    s = data.sample
    if not s:
        return {}
    on = np.asarray(s["used"], bool) & (s["n"] > 1) & np.isfinite(s["residual"])
    return {k: np.asarray(v)[on] for k, v in s.items()} if on.any() else {}


def plot_solve_exposures(data: SolveReport) -> Any:
    """Zero point of each exposure with its error, about the median of its band, and its chi2."""
    e = data.exposures
    if not e or not np.isfinite(e["zero_point"]).any():
        return None
    figure, axes = new_figure(9.0, 5.2, 2, 1, sharex=True)
    top, low = axes[0, 0], axes[1, 0]
    order = np.argsort(e["mjd"], kind="stable")
    place = np.empty(order.size, int)
    place[order] = np.arange(order.size)
    for band in data.bands:
        on = (e["band"].astype(str) == band) & np.isfinite(e["zero_point"])
        if not on.any():
            continue
        middle = float(np.median(e["zero_point"][on]))
        color = band_color(band, data.bands)
        top.errorbar(
            place[on], 1e3 * (e["zero_point"][on] - middle), 1e3 * e["zero_point_err"][on],
            fmt="o", ms=4, color=color, lw=1, label=f"{band}: {middle:.4f} mag",
        )  # fmt: skip
        low.plot(place[on], e["chi2"][on], "o", ms=4, color=color)
    top.set_ylabel("zero point − median [mmag]")
    low.set_ylabel("mean squared pull")
    low.set_xlabel("exposure, in order of time")
    low.axhline(1.0, color="black", lw=0.8)
    _legend(top)
    for ax in (top, low):
        tidy(ax)
    return figure


def plot_solve_clouds(data: SolveReport) -> Any:
    """Light lost beyond the clearest exposure of each night and band, or the fitted clouds."""
    e = data.exposures
    if not e or "night" not in e or not np.isfinite(e["zero_point"]).any():
        return None
    fitted = _fitted_clouds(data)
    lost = _below_clearest(e) if fitted is None else fitted
    figure, axes = new_figure(9.0, 3.4, 1, 1)
    ax = axes[0, 0]
    order = np.argsort(e["mjd"], kind="stable")
    place = np.empty(order.size, int)
    place[order] = np.arange(order.size)
    clear = np.asarray(e.get("photometric", np.ones(order.size)), bool)
    for band in data.bands:
        for kind, fill in ((True, None), (False, "none")):
            on = (e["band"].astype(str) == band) & (clear == kind) & np.isfinite(lost)
            if on.any():
                word = band if kind else f"{band}, not photometric"
                ax.plot(place[on], 1e3 * lost[on], "o", ms=4, mfc=fill, label=word,
                        color=band_color(band, data.bands))  # fmt: skip
    for k in np.flatnonzero(np.diff(e["night"][order])):
        ax.axvline(k + 0.5, color="#9aa5b1", lw=0.8, ls=":")
    ax.set_xlabel("exposure, in order of time; dotted: nights")
    ax.set_ylabel("fitted cloud [mmag]" if fitted is not None else "below the clearest [mmag]")
    _legend(ax)
    tidy(ax)
    return figure


def _fitted_clouds(data: SolveReport) -> np.ndarray | None:
    """Return the term of grey clouds by exposure, None without one."""
    p, n = data.parameters, len(data.exposures["exposure"])
    if not p:
        return None
    on = p["term"].astype(str) == "grey_cloud"
    value = np.asarray(p["value"], float)[on]
    return value.reshape(n, -1).mean(axis=1) if value.size and value.size % n == 0 else None


def _below_clearest(e: Any) -> np.ndarray:
    out = np.full(len(e["night"]), np.nan)
    for band in np.unique(e["band"].astype(str)):
        for night in np.unique(e["night"]):
            on = (e["band"].astype(str) == band) & (e["night"] == night)
            zero = e["zero_point"][on]
            if np.isfinite(zero).any():
                out[on] = np.nanmax(zero) - zero
    return out


def plot_solve_pulls(data: SolveReport) -> Any:
    """Pulls of detections about their stars."""
    s = _used(data)
    if not s:
        return None
    figure, axes = new_figure(6.4, 3.6, 1, 1)
    for band in data.bands:
        on = s["band"].astype(str) == band
        if on.any():
            pull_histogram(axes[0, 0], s["pull"][on], band_color(band, data.bands), band)
    pull_axes(axes[0, 0])
    return figure


def plot_solve_pit(data: SolveReport) -> Any:
    """Probability integral transform of held-out stars."""
    found = data.facts.get("validation")
    if not found:
        return None
    figure, axes = new_figure(6.4, 3.2, 1, 1)
    ax = axes[0, 0]
    pit = np.asarray(found["pit"], float)
    ax.hist(pit, np.linspace(0, 1, 21), density=True, alpha=0.4, color="#0072b2",
            label=f"{found['stars']} stars, KS p = {found['p_value']:.2g}")  # fmt: skip
    ax.axhline(1.0, color="black", lw=1)
    ax.set_xlabel("PIT of one detection of a held-out star")
    ax.set_ylabel("density")
    _legend(ax)
    tidy(ax)
    return figure


def plot_solve_references(data: SolveReport) -> Any:
    """Reference minus solution over the sky, by band."""
    s = data.stars
    if not s or "reference_residual" not in s or not np.isfinite(s["reference_residual"]).any():
        return None
    bands = [b for b in data.bands if np.any(s["band"].astype(str) == b)]
    figure, axes = new_figure(4.4 * len(bands) + 0.6, 4.0, 1, len(bands))
    ra0, dec0 = float(s["ra"][0]), float(np.median(s["dec"]))
    x = 60.0 * ((s["ra"] - ra0 + 180.0) % 360.0 - 180.0) * np.cos(np.radians(dec0))
    x = x - np.median(x)
    y = 60.0 * (s["dec"] - dec0)
    good = np.isfinite(s["reference_residual"])
    cells = int(np.clip(np.sqrt(good.sum() / len(bands) / 15.0), 3, 30))
    edges = [np.linspace(v.min(), v.max() + 1e-9, cells + 1) for v in (x, y)]
    maps = [_medians(x, y, s, good & (s["band"].astype(str) == b), edges) for b in bands]
    top = max(float(np.nanmax(np.abs(m), initial=0.0)) for m in maps) or 1.0
    image = None
    for ax, band, values in zip(axes[0], bands, maps, strict=True):
        image = ax.imshow(
            values, origin="lower", cmap="RdBu_r", vmin=-top, vmax=top, aspect="equal",
            extent=(edges[0][0], edges[0][-1], edges[1][0], edges[1][-1]), interpolation="nearest",
        )  # fmt: skip
        ax.invert_xaxis()
        ax.set_title(band, fontsize=10)
        ax.set_xlabel("east [arcmin]")
    axes[0, 0].set_ylabel("north [arcmin]")
    figure.colorbar(image, ax=list(axes[0]), label="reference − detections [mmag]", shrink=0.85)
    return figure


def _medians(x: Any, y: Any, s: Any, on: np.ndarray, edges: list[np.ndarray]) -> np.ndarray:
    """Return the median reference residual in cells with three stars or more, mmag."""
    n = edges[0].size - 1
    out = np.full((n, n), np.nan)
    i, j = (np.clip(np.searchsorted(e, v[on], "right") - 1, 0, n - 1)
            for e, v in zip(edges, (x, y), strict=True))  # fmt: skip
    value = s["reference_residual"][on]
    for cell in np.unique(j * n + i):
        here = value[j * n + i == cell]
        if here.size >= 3:
            out.flat[cell] = 1e3 * np.median(here)
    return out
