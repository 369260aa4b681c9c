"""The figures of the audit; each None where it would be empty."""

from __future__ import annotations

from typing import Any

import numpy as np

from pogson.report.audit_data import AuditBand, AuditRows
from pogson.report.data import ReportData
from pogson.report.style import band_color, new_figure, pull_axes, pull_histogram, tidy

__all__ = [
    "plot_audit_bias",
    "plot_audit_crowding",
    "plot_audit_maps",
    "plot_audit_pulls",
    "plot_audit_stack",
    "plot_completeness",
]


def _bands(data: ReportData) -> tuple[AuditBand, ...]:
    return () if data.audit is None else data.audit.bands


def plot_completeness(data: ReportData) -> Any:
    """Fraction of injected sources found against magnitude, one panel a band."""
    shown = [b for b in _bands(data) if b.curve("exposures", "completeness", "bins")]
    if not shown:
        return None
    figure, axes = new_figure(9.0, 3.8, 1, len(shown), sharey=True)
    for ax, band in zip(axes[0], shown, strict=True):
        color = band_color(band.band, data.bands)
        bins = band.curve("exposures", "completeness", "bins")
        some = bins["n"] > 0
        middle, fraction = bins["magnitude"][some], bins["fraction"][some]
        low, high = bins["fraction_low"][some], bins["fraction_high"][some]
        errors = np.maximum([fraction - low, high - fraction], 0.0)
        ax.errorbar(middle, fraction, errors, fmt="o", ms=4, lw=1.2, capsize=2, color=color,
                    label="found / injected")  # fmt: skip
        _completeness_fit(ax, band, bins["low"][0], bins["high"][-1])
        for percent, style in ((50, "--"), (90, ":")):
            depth = band.number("exposures", "completeness", f"depth_{percent}")
            if np.isfinite(depth):
                error = band.number("exposures", "completeness", f"depth_{percent}_err")
                ax.axvline(depth, ls=style, color="#555555", lw=1.1,
                           label=f"{percent} %: {depth:.2f} ± {error:.2f}")  # fmt: skip
        ax.set_ylim(-0.03, 1.06)
        ax.set_xlabel("injected magnitude [AB]")
        n = int(band.number("exposures", "counts", "used"))
        ax.set_title(f"{band.band} ({n} sources)", fontsize=10)
        ax.legend(fontsize=8, loc="lower left")
        tidy(ax)
    axes[0, 0].set_ylabel("completeness")
    return figure


def _completeness_fit(ax: Any, band: AuditBand, low: float, high: float) -> None:
    amplitude, midpoint, width = (
        band.number("exposures", "completeness", "fit", n)
        for n in ("amplitude", "midpoint", "width")
    )
    if np.isfinite(width) and width > 0:
        m = np.linspace(low, high, 300)
        t = np.clip((m - midpoint) / width, -500, 500)
        ax.plot(m, amplitude / (1 + np.exp(t)), color="black", lw=1, label="maximum likelihood")


def _curve(ax: Any, curve: dict[str, np.ndarray], **style: Any) -> None:
    if curve:
        some = curve["n"] >= 5
        ax.errorbar(
            curve["center"][some], curve["median"][some], curve["median_err"][some], lw=1.2,
            capsize=2, **style,
        )  # fmt: skip


def _limits(curves: list[dict[str, np.ndarray]], least: float = 2.0) -> tuple[float, float]:
    """Return limits that show every median with its error, zero among them."""
    ends = [0.0]
    for curve in curves:
        if curve:
            some = curve["n"] >= 5
            error = np.nan_to_num(curve["median_err"][some])
            ends += [*(curve["median"][some] - error), *(curve["median"][some] + error)]
    values = np.array(ends)[np.isfinite(ends)]
    reach = max(float(values.max() - values.min()), least)
    return float(values.min() - 0.15 * reach), float(values.max() + 0.15 * reach)


def plot_audit_bias(data: ReportData) -> Any:
    """Recovered less injected magnitude against magnitude, one panel a band."""
    shown = [b for b in _bands(data) if b.curve("exposures", "bias", "by_magnitude")]
    if not shown or data.audit is None:
        return None
    figure, axes = new_figure(9.0, 3.8, 1, len(shown))
    for ax, band in zip(axes[0], shown, strict=True):
        rows = data.audit.exposures.of_band(band.band)
        forced = band.curve("exposures", "bias", "by_magnitude")
        found = band.curve("exposures", "catalogue", "bias", "by_magnitude")
        limits = _limits([forced, found])
        if len(rows):
            points = rows["isolated"]
            ax.scatter(
                rows["magnitude"][points], np.clip(rows["difference"][points], *limits), s=5, lw=0,
                alpha=0.25, color=band_color(band.band, data.bands), rasterized=True,
            )  # fmt: skip
        _curve(ax, found, fmt="D", ms=4, mfc="white", color="#777777",
               label="as detected: the faint ones found are those that noise lifts")  # fmt: skip
        _curve(ax, forced, fmt="o", ms=4, color="black", label="at the injected positions")
        ax.axhline(0.0, color="#555555", lw=0.8)
        ax.set_ylim(*limits)
        ax.set_xlabel("injected magnitude [AB]")
        ax.set_title(band.band, fontsize=10)
        tidy(ax)
    axes[0, 0].set_ylabel("recovered - injected [mmag]")
    axes[0, 0].legend(fontsize=7.5, loc="lower left")
    return figure


def plot_audit_maps(data: ReportData) -> Any:
    """Mean of recovered less injected over detector position, one panel a detector."""
    if data.audit is None or not len(data.audit.exposures):
        return None
    rows = data.audit.exposures
    use = rows["bright"] & np.isfinite(rows["difference"])
    if not use.any():
        return None
    of_row = np.array([e.detector for e in data.exposures], dtype=object)[rows["exposure"]]
    detectors = list(dict.fromkeys(of_row[use]))[:8]
    columns = min(4, len(detectors))
    lines = -(-len(detectors) // columns)
    figure, axes = new_figure(2.5 * columns + 1.4, 2.6 * lines + 0.4, lines, columns)
    maps = [_map(rows, use & (of_row == name)) for name in detectors]
    limit = max(
        1.0, float(np.nanpercentile(np.abs(np.concatenate([m[0].ravel() for m in maps])), 95))
    )
    image = None
    for number, (name, (mean, xe, ye, n)) in enumerate(zip(detectors, maps, strict=True)):
        ax = axes.flat[number]
        image = ax.pcolormesh(xe, ye, mean.T, cmap="RdBu_r", vmin=-limit, vmax=limit)
        ax.set_title(f"detector {name or '-'} ({n} sources)", fontsize=9)
        ax.set_aspect("equal")
        ax.set_xlabel("x [pixel]", fontsize=9)
        ax.tick_params(labelsize=8)
        ax.locator_params(nbins=4)
        if number % columns == 0:
            ax.set_ylabel("y [pixel]", fontsize=9)
        else:
            ax.set_yticklabels([])
    for ax in axes.flat[len(detectors) :]:
        ax.remove()
    figure.colorbar(image, ax=list(axes.flat[: len(detectors)]), shrink=0.9,
                    label="recovered - injected [mmag]")  # fmt: skip
    return figure


def _map(rows: AuditRows, mine: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Return the weighted mean difference in cells of about 25 sources, edges, and the number."""
    n = int(mine.sum())
    bins = int(np.clip(np.sqrt(n / 25.0), 1, 8))
    x, y, difference = rows["x"][mine], rows["y"][mine], rows["difference"][mine]
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.abs(difference / rows["pull"][mine])  # of the flux, in mmag
    weight = np.where(np.isfinite(error) & (error > 0), 1.0 / np.maximum(error, 1.0) ** 2, 0.0)
    total, xe, ye = np.histogram2d(x, y, bins=bins, weights=weight * difference)
    norm, _, _ = np.histogram2d(x, y, bins=(xe, ye), weights=weight)
    return np.where(norm > 0, total / np.where(norm > 0, norm, 1.0), np.nan), xe, ye, n


def plot_audit_crowding(data: ReportData) -> Any:
    """Recovered less injected magnitude against the distance of the nearest real source."""
    shown = [b for b in _bands(data) if b.curve("exposures", "bias", "by_crowding")]
    curves = [b.curve("exposures", "bias", "by_crowding") for b in shown]
    if not any((c["n"] >= 5).any() for c in curves):
        return None
    figure, axes = new_figure(6.4, 3.6)
    ax = axes[0, 0]
    for band, curve in zip(shown, curves, strict=True):
        color = band_color(band.band, data.bands)
        _curve(ax, curve, fmt="o-", ms=4, color=color, label=band.band)
        ax.axvline(band.number("exposures", "bias", "isolation"), color=color, lw=1, ls="--")
    ax.axhline(0.0, color="#555555", lw=0.8)
    ax.set_yscale("symlog", linthresh=10.0)
    ax.set_xlabel("distance of the nearest real source [arcsec]")
    ax.set_ylabel("recovered - injected [mmag]")
    ax.legend(title="band", fontsize=9, loc="lower right")
    tidy(ax)
    return figure


def plot_audit_pulls(data: ReportData) -> Any:
    """Histogram of the pulls, one panel a band, with the unit normal curve."""
    if data.audit is None or not len(data.audit.exposures):
        return None
    rows = data.audit.exposures
    bands = [b.band for b in data.audit.bands if rows.of_band(b.band)["for_pulls"].any()]
    if not bands:
        return None
    figure, axes = new_figure(9.0, 3.6, 1, len(bands))
    for ax, band in zip(axes[0], bands, strict=True):
        mine = rows.of_band(band)
        pull_histogram(ax, mine["pull"][mine["for_pulls"]], band_color(band, data.bands), band)
        pull_axes(ax)
    return figure


def plot_audit_stack(data: ReportData) -> Any:
    """Means over visits: difference against magnitude, and pulls."""
    if data.audit is None or not len(data.audit.stack):
        return None
    rows = data.audit.stack
    figure, axes = new_figure(9.0, 3.8, 1, 2, width_ratios=[3, 2])
    left, right = axes[0]
    curves = [b.curve("stack", "bias", "by_magnitude") for b in data.audit.bands]
    limits = _limits(curves)
    for band, curve in zip(data.audit.bands, curves, strict=True):
        mine, color = rows.of_band(band.band), band_color(band.band, data.bands)
        if not len(mine):
            continue
        use = mine["isolated"]
        left.scatter(mine["magnitude"][use], np.clip(mine["difference"][use], *limits), s=6, lw=0,
                     alpha=0.3, color=color, rasterized=True)  # fmt: skip
        _curve(left, curve, fmt="o", ms=4, color=color, label=band.band)
        if mine["for_pulls"].any():
            pull_histogram(right, mine["pull"][mine["for_pulls"]], color, band.band)
    left.axhline(0.0, color="#555555", lw=0.8)
    left.set_ylim(*limits)
    left.set_xlabel("injected magnitude [AB]")
    left.set_ylabel("mean over visits - injected [mmag]")
    left.legend(title="band", fontsize=9, loc="lower left")
    tidy(left)
    pull_axes(right)
    return figure
