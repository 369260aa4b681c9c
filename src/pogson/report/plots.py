"""The figures of the report: each a function from plain data to a matplotlib figure.

Every figure returns None where it would be empty, so that the report says so in words instead.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pogson.report.data import PixelMap, ReportData
from pogson.report.style import (
    band_color,
    binned_median,
    new_figure,
    pull_axes,
    pull_histogram,
    robust_limits,
    tidy,
)

__all__ = [
    "plot_growth",
    "plot_maps",
    "plot_pulls",
    "plot_repeatability",
    "plot_residual_airmass",
    "plot_residual_maps",
    "plot_residuals",
    "plot_sky",
    "plot_truth",
    "plot_truth_exposures",
    "plot_zero_points",
]


def _unwrap(ra: np.ndarray, center: float) -> np.ndarray:
    """Return right ascensions within 180 degrees of a centre, so that 359 and 1 are neighbours."""
    return center + (ra - center + 180.0) % 360.0 - 180.0


def plot_sky(data: ReportData) -> Any:
    """Footprints of all exposures on the sky, one colour a band; failed ones dashed grey."""
    shown = [e for e in data.exposures if len(e.footprint) >= 3]
    if not shown:
        return None
    corners = [np.asarray(e.footprint, float) for e in shown]
    first = float(corners[0][0, 0])
    corners = [np.column_stack([_unwrap(c[:, 0], first), c[:, 1]]) for c in corners]
    every = np.vstack(corners)
    figure, axes = new_figure(6.4, 5.2)
    ax = axes[0, 0]
    alpha = float(np.clip(1.5 / len(shown), 0.03, 0.25))
    labelled = set()
    for record, corner in zip(shown, corners, strict=True):
        loop = np.vstack([corner, corner[:1]])
        if record.status != "done":
            ax.plot(loop[:, 0], loop[:, 1], "--", color="#888888", lw=0.9)
            continue
        color = band_color(record.band, data.bands)
        label = None if record.band in labelled else record.band
        labelled.add(record.band)
        ax.fill(corner[:, 0], corner[:, 1], color=color, alpha=alpha, lw=0)
        ax.plot(loop[:, 0], loop[:, 1], color=color, lw=0.8, label=label)
    ax.set_aspect(1.0 / np.cos(np.radians(np.mean(every[:, 1]))))
    ax.invert_xaxis()
    ax.locator_params(nbins=5)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value % 360.0:.5g}")
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:.5g}")
    ax.set_xlabel("right ascension [deg]")
    ax.set_ylabel("declination [deg]")
    if labelled:
        ax.legend(title="band", fontsize=9, loc="upper left", bbox_to_anchor=(1.02, 1.0))
    tidy(ax)
    return figure


def plot_zero_points(data: ReportData) -> Any:
    """Zero point of each exposure with its error; one row a band, one symbol a detector."""
    done = [e for e in data.done if np.isfinite(e.number("zero_point"))]
    bands = [b for b in data.bands if any(e.band == b for e in done)]
    if not bands:
        return None
    detectors = list(dict.fromkeys(e.detector for e in done))
    figure, axes = new_figure(9.0, 0.9 + 2.3 * len(bands), len(bands), 1)
    for ax, band in zip(axes[:, 0], bands, strict=True):
        rows = sorted((e for e in done if e.band == band), key=lambda e: (e.number("mjd"), e.key))
        names = list(dict.fromkeys(e.exposure_id for e in rows))
        step = 0.6 / max(1, len(detectors))
        for number, detector in enumerate(detectors):
            some = [e for e in rows if e.detector == detector]
            shift = (number - 0.5 * (len(detectors) - 1)) * step
            ax.errorbar(
                [names.index(e.exposure_id) + shift for e in some],
                [e.number("zero_point") for e in some],
                [np.nan_to_num(e.number("zero_point_err")) for e in some],
                fmt="osD^v<>ph"[number % 9], ms=4, lw=1, capsize=2,
                color=band_color("?", ()) if len(detectors) == 1 else f"C{number % 10}",
                label=detector or "-",
            )  # fmt: skip
        ax.set_xlim(-0.6, len(names) - 0.4)
        if len(names) <= 20:
            long = max(map(len, names)) > 6 and len(names) > 4
            ax.set_xticks(
                range(len(names)), names, rotation=30 if long else 0,
                ha="right" if long else "center", fontsize=8,
            )  # fmt: skip
        else:
            ax.set_xlabel("exposure, in order of time")
        ax.set_ylabel(f"{band}: zero point [AB mag]")
        ax.ticklabel_format(axis="y", useOffset=False)
        tidy(ax)
    if 1 < len(detectors) <= 12:
        axes[0, 0].legend(title="detector", fontsize=8, ncols=min(6, len(detectors)))
    return figure


def _running(ax: Any, x: np.ndarray, y: np.ndarray) -> None:
    centre, median, err = binned_median(x, y)
    if centre.size:
        ax.errorbar(centre, median, err, fmt="o", ms=4, color="black", lw=1.2, zorder=5,
                    label="median in bins of equal counts")  # fmt: skip


def _scatter(ax: Any, x: np.ndarray, y: np.ndarray, used: np.ndarray, color: str) -> None:
    size = float(np.clip(3000 / max(1, x.size), 3, 22))
    ax.scatter(x[used], y[used], s=size, color=color, alpha=0.45, lw=0, rasterized=True)
    if (~used).any():
        ax.scatter(x[~used], y[~used], s=size + 6, marker="x", color="#999999", lw=0.8,
                   label="rejected")  # fmt: skip


def plot_residuals(data: ReportData) -> Any:
    """Residuals of the reference stars against magnitude and colour, one row a band."""
    stars = data.stars
    bands = [b for b in data.bands if np.any(stars.band == b)]
    if not bands:
        return None
    colored = bool(np.isfinite(stars.color).any())
    columns = 2 if colored else 1
    figure, axes = new_figure(9.0, 0.6 + 2.6 * len(bands), len(bands), columns, sharey="row")
    for row, band in enumerate(bands):
        mine = stars.band == band
        residual, used = 1e3 * stars.residual[mine], stars.used[mine]
        limits = robust_limits(np.append(residual[used], 0.0), least=1.0)
        residual = np.clip(residual, *limits)  # rejected stars far off are drawn at the edge
        for column, (x, label) in enumerate(
            [(stars.magnitude, "reference magnitude [AB]"), (stars.color, "colour [mag]")][:columns]
        ):
            ax = axes[row, column]
            _scatter(ax, x[mine], residual, used, band_color(band, data.bands))
            _running(ax, x[mine][used], residual[used])
            ax.axhline(0.0, color="#555555", lw=0.8)
            ax.set_ylim(*limits)
            ax.set_xlim(*robust_limits(x[mine], 0, 100, 0.05, 0.1))
            ax.set_xlabel(label)
            tidy(ax)
        axes[row, 0].set_ylabel(f"{band}: measured - reference [mmag]")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    if handles:
        axes[0, 0].legend(handles, labels, fontsize=8, loc="upper left")
    return figure


def plot_residual_maps(data: ReportData) -> Any:
    """Mean residual over detector position, one panel a detector (all bands)."""
    stars = data.stars
    if not stars.used.any():
        return None
    of_star = np.array([e.detector for e in data.exposures], dtype=object)[stars.exposure]
    detectors = list(dict.fromkeys(of_star[stars.used]))[:12]
    columns = min(4, len(detectors))
    rows = -(-len(detectors) // columns)
    figure, axes = new_figure(2.5 * columns + 1.2, 2.6 * rows + 0.4, rows, columns)
    limit = max(1e-3, float(np.percentile(np.abs(1e3 * stars.residual[stars.used]), 68)))
    image = None
    for number, detector in enumerate(detectors):
        ax = axes.flat[number]
        mine = stars.used & (of_star == detector)
        bins = int(np.clip(np.sqrt(mine.sum() / 6.0), 1, 12))
        total, xe, ye = np.histogram2d(
            stars.x[mine], stars.y[mine], bins=bins, weights=1e3 * stars.residual[mine]
        )
        count, _, _ = np.histogram2d(stars.x[mine], stars.y[mine], bins=(xe, ye))
        mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        image = ax.pcolormesh(xe, ye, mean.T, cmap="RdBu_r", vmin=-limit, vmax=limit)
        ax.set_title(f"detector {detector or '-'} ({int(mine.sum())} stars)", fontsize=9)
        ax.set_aspect("equal")
        ax.set_xlabel("x [pixel]", fontsize=9)
        if number % columns == 0:
            ax.set_ylabel("y [pixel]", fontsize=9)
        else:
            ax.set_yticklabels([])
        ax.tick_params(labelsize=8)
        ax.locator_params(nbins=4)
    for ax in axes.flat[len(detectors) :]:
        ax.remove()
    figure.colorbar(
        image, ax=list(axes.flat[: len(detectors)]), label="mean residual [mmag]", shrink=0.9
    )
    return figure


def plot_residual_airmass(data: ReportData) -> Any:
    """Mean residual of each exposure against its airmass, with the error of the mean."""
    stars = data.stars
    points = []
    for index, record in enumerate(data.exposures):
        mine = stars.used & (stars.exposure == index)
        if mine.sum() < 2 or not np.isfinite(record.number("airmass")):
            continue
        residual = 1e3 * stars.residual[mine]
        points.append(
            (record.number("airmass"), float(np.median(residual)),
             float(np.std(residual) * np.sqrt(np.pi / 2 / residual.size)), record.band)
        )  # fmt: skip
    if not points:
        return None
    figure, axes = new_figure(6.4, 3.4)
    ax = axes[0, 0]
    width = max(0.1, max(p[0] for p in points) - min(p[0] for p in points))
    for band in data.bands:
        some = [p for p in points if p[3] == band]
        if some:
            x, y, err, _ = (np.array(v) for v in zip(*some, strict=True))
            for value in np.unique(x):  # detectors of one exposure share its airmass: spread them
                same = np.flatnonzero(x == value)
                x[same] += 0.012 * width * (np.arange(same.size) - 0.5 * (same.size - 1))
            ax.errorbar(x, y, err, fmt="o", ms=4, lw=1, capsize=2, label=band,
                        color=band_color(band, data.bands))  # fmt: skip
    ax.axhline(0.0, color="#555555", lw=0.8)
    ax.set_xlabel("airmass")
    ax.set_ylabel("median residual [mmag]")
    ax.legend(title="band", fontsize=9, loc="upper left", bbox_to_anchor=(1.02, 1.0))
    tidy(ax)
    return figure


def plot_growth(data: ReportData) -> Any:
    """Flux in growing apertures over that in the largest; dashed: the PSF model."""
    curves = [c for c in data.growth if c.radius.size > 1 and np.isfinite(c.fraction).any()]
    if not curves:
        return None
    bands = [b for b in data.bands if any(c.band == b for c in curves)]
    figure, axes = new_figure(9.0, 3.6, 1, 2)
    left, right = axes[0]
    for band in bands:
        color = band_color(band, data.bands)
        some = [c for c in curves if c.band == band]
        alpha = float(np.clip(6 / len(some), 0.15, 0.9))
        for number, c in enumerate(some):
            left.plot(c.radius, c.fraction, color=color, alpha=alpha, lw=1,
                      label=band if number == 0 else None)  # fmt: skip
            if c.model is not None:
                right.plot(c.radius, 100 * (c.fraction - c.model), color=color, alpha=alpha, lw=1,
                           label=band if number == 0 else None)  # fmt: skip
            else:
                right.plot(c.radius, 100 * c.scatter, color=color, alpha=alpha, lw=1, ls=":")
    modelled = any(c.model is not None for c in curves)
    left.set_ylabel("flux / flux in largest aperture")
    right.set_ylabel("measured - PSF model [%]" if modelled else "scatter between stars [%]")
    if modelled:
        right.axhline(0.0, color="#555555", lw=0.8)
    for ax in (left, right):
        ax.set_xlabel("aperture radius [arcsec]")
        tidy(ax)
    left.legend(title="band", fontsize=9)
    return figure


def plot_pulls(data: ReportData) -> Any:
    """Histogram of the pulls of the reference stars used, with the unit normal curve."""
    stars = data.stars
    good = stars.used & np.isfinite(stars.pull)
    if not good.any():
        return None
    figure, axes = new_figure(6.4, 3.6)
    ax = axes[0, 0]
    for band in data.bands:
        if np.any(good & (stars.band == band)):
            pull_histogram(ax, stars.pull[good & (stars.band == band)],
                       band_color(band, data.bands), band)  # fmt: skip
    pull_axes(ax)
    return figure


def plot_repeatability(data: ReportData) -> Any:
    """Scatter of each star over its exposures against magnitude, beside what errors predict."""
    table = data.repeatability
    if table.n.size == 0:
        return None
    bands = list(dict.fromkeys(table.band))
    figure, axes = new_figure(9.0, 3.6, 1, len(bands), sharey=True)
    for ax, band in zip(axes[0], bands, strict=True):
        mine = (table.band == band) & (table.scatter > 0)
        ax.scatter(table.magnitude[mine], 1e3 * table.scatter[mine], s=9, alpha=0.5, lw=0,
                   color=band_color(band, data.bands), label="star")  # fmt: skip
        centre, median, _ = binned_median(table.magnitude[mine], 1e3 * table.scatter[mine])
        ax.plot(centre, median, "o-", color="black", ms=3.5, lw=1, label="median")
        centre, median, _ = binned_median(table.magnitude[mine], 1e3 * table.expected[mine])
        ax.plot(centre, median, "--", color="#555555", lw=1.3, label="from the errors")
        ax.set_yscale("log")
        ax.set_xlabel("mean magnitude [AB]")
        ax.set_title(f"{band} ({int(mine.sum())} stars)", fontsize=10)
        tidy(ax)
    axes[0, 0].set_ylabel("scatter over exposures [mmag]")
    axes[0, 0].legend(fontsize=8)
    return figure


def plot_maps(maps: tuple[PixelMap, ...], label: str, *, most: int = 12) -> Any:
    """Small maps over detector pixels, on one colour scale each row of panels shares.

    Parameters
    ----------
    maps : tuple of PixelMap
    label : str
        What the colour means, with its unit.
    most : int, optional
        No more than this many panels.
    """
    shown = [m for m in maps if np.isfinite(m.values).any()][:most]
    if not shown:
        return None
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = new_figure(2.5 * columns + 1.2, 2.5 * rows + 0.5, rows, columns)
    low, high = robust_limits(np.concatenate([m.values.ravel() for m in shown]), 0, 100, 0.0)
    image = None
    for number, item in enumerate(shown):
        ax = axes.flat[number]
        image = ax.imshow(item.values, origin="lower", extent=item.extent, vmin=low, vmax=high,
                          cmap="viridis", interpolation="nearest")  # fmt: skip
        ax.set_title(item.key, fontsize=8)
        ax.tick_params(labelsize=8)
        ax.locator_params(nbins=4)
        if number + columns >= len(shown):  # nothing below it
            ax.set_xlabel("x [pixel]", fontsize=8)
        if number % columns == 0:
            ax.set_ylabel("y [pixel]", fontsize=8)
        elif all(m.extent == shown[0].extent for m in shown):
            ax.set_yticklabels([])
    for ax in axes.flat[len(shown) :]:
        ax.remove()
    figure.colorbar(image, ax=list(axes.flat[: len(shown)]), label=label, shrink=0.9)
    return figure


def plot_truth(data: ReportData) -> Any:
    """Measured minus true magnitude against true magnitude, and the pulls."""
    truth = data.truth
    if truth is None or truth.pull.size == 0:
        return None
    figure, axes = new_figure(9.0, 3.8, 1, 2, width_ratios=[3, 2])
    left, right = axes[0]
    bright = truth.magnitude < np.nanpercentile(truth.magnitude, 90)
    for band in data.bands:
        mine = truth.band == band
        if not mine.any():
            continue
        color = band_color(band, data.bands)
        size = float(np.clip(6000 / truth.pull.size, 2, 20))
        left.scatter(truth.magnitude[mine], 1e3 * truth.difference[mine], s=size, color=color,
                     alpha=0.35, lw=0, label=band, rasterized=True)  # fmt: skip
        pull_histogram(right, truth.pull[mine], color, band)
    _running(left, truth.magnitude, 1e3 * truth.difference)
    left.axhline(0.0, color="#555555", lw=0.8)
    left.set_ylim(*robust_limits(np.append(1e3 * truth.difference[bright], 0.0), 1, 99))
    left.set_xlabel("true magnitude [AB]")
    left.set_ylabel("measured - true [mmag]")
    for handle in left.legend(fontsize=8, loc="upper left").legend_handles:
        handle.set_alpha(1.0)
        if hasattr(handle, "set_sizes"):
            handle.set_sizes([25.0])
    tidy(left)
    pull_axes(right)
    return figure


def plot_truth_exposures(data: ReportData) -> Any:
    """Median of measured minus true for each exposure, with its standard error."""
    rows = [e for e in data.done if np.isfinite(e.number("truth_median"))]
    if not rows:
        return None
    figure, axes = new_figure(9.0, 3.2)
    ax = axes[0, 0]
    for band in data.bands:
        some = [(i, e) for i, e in enumerate(rows) if e.band == band]
        if some:
            ax.errorbar(
                [i for i, _ in some],
                [1e3 * e.number("truth_median") for _, e in some],
                [1e3 * e.number("truth_median_err") for _, e in some],
                fmt="o", ms=4, lw=1, capsize=2, color=band_color(band, data.bands), label=band,
            )  # fmt: skip
    ax.axhspan(-2, 2, color="#009e73", alpha=0.08, label="±2 mmag")
    ax.axhline(0.0, color="#555555", lw=0.8)
    ax.set_xlabel("exposure and detector, in order")
    ax.set_ylabel("median measured - true [mmag]")
    ax.legend(fontsize=8, ncols=4)
    tidy(ax)
    return figure
