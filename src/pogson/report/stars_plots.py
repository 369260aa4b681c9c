"""Figures of stars fitted with model grids: offsets, residuals, sky, single stars, dust."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pogson.report.stars_data import ClusterRecord, OffsetsRecord
from pogson.report.style import band_color, binned_median, new_figure, robust_limits, tidy

__all__ = [
    "plot_correlation",
    "plot_distance_reddening",
    "plot_history",
    "plot_offsets",
    "plot_residuals",
    "plot_residuals_on_sky",
    "plot_sky",
]

_CMAP = "cividis"
_DIVERGING = "RdBu_r"
_INK = "#20252b"


def distinct_color(band: str, bands: Sequence[str]) -> Any:
    """Return a colour for a band: its usual one, unless another of these bands has the same."""
    usual = [band_color(b, bands) for b in bands]
    if len(set(usual)) == len(usual):
        return band_color(band, bands)
    from matplotlib import colormaps

    place = list(bands).index(band) / max(len(bands) - 1, 1)
    red, green, blue, _ = colormaps["turbo"](0.06 + 0.88 * place)
    return (0.85 * red, 0.8 * green, 0.9 * blue)  # yellow must show on white


def _band_names(ax: Any, bands: Sequence[str]) -> None:
    ax.set_xticks(range(len(bands)), list(bands), rotation=30, ha="right", fontsize=9)
    ax.set_xlim(-0.6, len(bands) - 0.4)


def _gauge_words(gauge: str) -> str:
    known = {"parallax": "absolute, held by the parallaxes", "mean": "relative to the mean band",
             "unknown": "gauge not stated"}  # fmt: skip
    return known.get(gauge, f"relative to {gauge}")


def plot_offsets(record: OffsetsRecord) -> Figure | None:
    """Draw the offset of each band with its error, beside what is expected in simulations.

    Parameters
    ----------
    record : OffsetsRecord
        Offsets; with ``truth`` a second panel has the pulls, else the intrinsic scatter.

    Returns
    -------
    matplotlib.figure.Figure or None
        None without bands.

    Examples
    --------
    >>> z = np.zeros(2)
    >>> record = OffsetsRecord(("PS_g", "PS_r"), z + 1.01, z + 0.002, np.eye(2), "mean", z, z, z,
    ...                        z, np.zeros((0, 2)), {}, truth=z + 1.012)
    >>> len(plot_offsets(record).axes)
    2
    """
    n = len(record.bands)
    if n == 0:
        return None
    width = float(np.clip(1.6 + 0.75 * n, 6.5, 13.0))
    figure, axes = new_figure(width, 6.0, 2, 1, sharex=True, height_ratios=[2, 1])
    top, bottom = axes[:, 0]
    x = np.arange(n)
    value, error = 100 * (record.offsets - 1), 100 * record.errors
    top.axhline(0, color="black", lw=0.8)
    for k, band in enumerate(record.bands):
        color = distinct_color(band, record.bands)
        if error[k] > 0 or record.gauge not in record.bands:
            top.errorbar(k, value[k], error[k], fmt="o", color=color, ms=6, capsize=3, lw=1.6)
        else:
            top.plot(k, value[k], "s", mfc="white", mec=color, ms=7)
    if record.truth is not None:
        expected = 100 * (record.truth - 1)
        top.plot(x + 0.18, expected, "D", mfc="none", mec=_INK, ms=6, ls="none", label="expected")
        top.errorbar([], [], [], fmt="o", color="0.4", capsize=3, label="recovered, 1σ")
        top.legend(fontsize=9, loc="best", ncols=2)
    top.set_ylabel("offset: flux factor − 1 [%]")
    top.set_title(f"Offsets of the bands, {_gauge_words(record.gauge)}", fontsize=11, loc="left")
    if record.truth is not None:
        free = error > 1e-9 * max(float(error.max()), 1e-300)
        pull = np.where(free, (value - 100 * (record.truth - 1)) / np.where(free, error, 1), np.nan)
        bottom.axhspan(-1, 1, color="#e4e7eb", lw=0)
        bottom.axhline(0, color="black", lw=0.8)
        bottom.bar(
            x, pull, width=0.5, color=[distinct_color(b, record.bands) for b in record.bands]
        )
        rms = float(np.sqrt(np.nanmean(pull**2))) if free.any() else np.nan
        bottom.set_ylabel("pull")
        bottom.set_title(f"(recovered − expected) / error, rms {rms:.2f}", fontsize=10, loc="left")
        low, high = bottom.get_ylim()
        bottom.set_ylim(min(low, -2.0), max(high, 2.0))
    else:
        for k, band in enumerate(record.bands):
            bottom.errorbar(k, 100 * record.scatter[k], 100 * record.scatter_error[k], fmt="o",
                            color=distinct_color(band, record.bands), capsize=3)  # fmt: skip
        bottom.set_ylabel("scatter [%]")
        bottom.set_ylim(0, None)
        bottom.set_title("Intrinsic scatter beside the stated errors", fontsize=10, loc="left")
    _band_names(bottom, record.bands)
    for ax in (top, bottom):
        tidy(ax)
    return figure


def plot_correlation(record: OffsetsRecord) -> Figure | None:
    """Draw the correlation of the offsets between bands.

    Examples
    --------
    >>> z = np.zeros(2)
    >>> record = OffsetsRecord(("g", "r"), z, z, np.eye(2), "mean", z, z, z, z, z[None], {})
    >>> plot_correlation(record) is None
    False
    """
    n = len(record.bands)
    if n < 2 or not np.isfinite(record.correlation).any():
        return None
    size = float(np.clip(2.2 + 0.55 * n, 4.5, 10.0))
    figure, axes = new_figure(size + 0.8, size)
    ax = axes[0, 0]
    shown = ax.imshow(record.correlation, vmin=-1, vmax=1, cmap=_DIVERGING)
    for i in range(n):
        for j in range(n):
            c = record.correlation[i, j]
            if np.isfinite(c) and n <= 14:
                ax.text(j, i, f"{c:.2f}".replace("-", "−"), ha="center", va="center", fontsize=8,
                        color="white" if abs(c) > 0.65 else _INK)  # fmt: skip
    ax.set_xticks(range(n), record.bands, rotation=40, ha="right", fontsize=9)
    ax.set_yticks(range(n), record.bands, fontsize=9)
    figure.colorbar(shown, ax=ax, shrink=0.8, label="correlation of ln offset")
    return figure


def plot_history(record: OffsetsRecord) -> Figure | None:
    """Draw the offsets after each round of the iteration.

    Examples
    --------
    >>> z = np.zeros(1)
    >>> record = OffsetsRecord(("g",), z, z, z[None], "mean", z, z, z, z, np.zeros((3, 1)), {})
    >>> plot_history(record) is None
    False
    """
    if len(record.history) < 2:
        return None
    figure, axes = new_figure(8.0, 4.2)
    ax = axes[0, 0]
    rounds = np.arange(1, len(record.history) + 1)
    for k, band in enumerate(record.bands):
        ax.plot(rounds, 100 * record.history[:, k], marker=_MARKERS[k % len(_MARKERS)], ms=4,
                lw=1.2, color=distinct_color(band, record.bands), label=band)  # fmt: skip
    ax.set_xlabel("round (refit of all stars)")
    ax.set_ylabel("ln offset × 100, absolute gauge")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    tidy(ax)
    return figure


_MARKERS = "osD^v<>P"


def plot_residuals(
    x: np.ndarray, residuals: np.ndarray, bands: Sequence[str], label: str
) -> Figure | None:
    """Draw residuals of each band against a quantity, with running medians.

    Parameters
    ----------
    x : numpy.ndarray, shape (n,) or (n, n_bands)
        A colour, or each band's magnitude.
    residuals : numpy.ndarray, shape (n, n_bands)
        Observed less model, magnitudes.
    bands : sequence of str
        Names.
    label : str
        What ``x`` is; ``{band}`` stands for the band.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> figure = plot_residuals(rng.uniform(14, 18, 99), rng.normal(size=(99, 2)), "gr", "colour")
    >>> len(figure.axes)
    2
    """
    shown = [k for k in range(len(bands)) if np.isfinite(residuals[:, k]).any()]
    if not shown:
        return None
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = new_figure(3.1 * columns + 0.6, 2.5 * rows + 0.4, rows, columns,
                              sharey=True, sharex=x.ndim == 1)  # fmt: skip
    low, high = robust_limits(1e3 * residuals[:, shown], 1, 99, least=20.0)
    for ax in axes.flat[len(shown) :]:
        ax.set_axis_off()
    for ax, k in zip(axes.flat, shown, strict=False):
        band = bands[k]
        here = x if x.ndim == 1 else x[:, k]
        y = 1e3 * residuals[:, k]
        good = np.isfinite(here) & np.isfinite(y)
        ax.axhline(0, color="black", lw=0.8)
        ax.plot(here[good], np.clip(y[good], low, high), ".", ms=2.5, color="#9aa5b1",
                alpha=float(np.clip(300 / max(good.sum(), 1), 0.15, 0.7)))  # fmt: skip
        centre, median, error = binned_median(here, y, bins=10, least=8)
        ax.errorbar(
            centre, median, error, fmt="o-", ms=4, lw=1.3, color=distinct_color(band, bands)
        )
        ax.set_ylim(low, high)
        if good.any():
            ax.set_xlim(*robust_limits(here[good], 0.5, 99.5, pad=0.05))
        ax.set_title(f"{band}, n = {good.sum()}", fontsize=9, loc="left")
        if x.ndim == 2:
            ax.set_xlabel(label.format(band=band), fontsize=9)
        tidy(ax)
    if x.ndim == 1:
        figure.supxlabel(label, fontsize=10)
    figure.supylabel("observed − model [mmag]", fontsize=10)
    return figure


def plot_sky(
    longitude: np.ndarray, latitude: np.ndarray, panels: Sequence[tuple[str, np.ndarray, bool]]
) -> Figure | None:
    """Draw quantities of the stars on the sky.

    Parameters
    ----------
    longitude, latitude : numpy.ndarray, shape (n,)
        Galactic coordinates in degrees; longitude grows to the left.
    panels : sequence of (str, numpy.ndarray, bool)
        Label, values, and whether colours diverge about zero.

    Examples
    --------
    >>> x = np.arange(5.0)
    >>> len(plot_sky(x, x, [("A_V [mag]", x, False)]).axes)
    2
    """
    good = np.isfinite(longitude) & np.isfinite(latitude)
    panels = [p for p in panels if np.isfinite(p[1][good]).any()]
    if good.sum() < 3 or not panels:
        return None
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure, axes = new_figure(4.5 * columns + 0.3, 3.7 * rows, rows, columns)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.08)
    lon = _unwrapped(longitude)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    size = float(np.clip(6000 / good.sum(), 2, 30))
    for ax, (label, values, diverging) in zip(axes.flat, panels, strict=False):
        here = good & np.isfinite(values)
        low, high = robust_limits(values[here], 2, 98, pad=0.0)
        if diverging:
            high = max(abs(low), abs(high))
            low = -high
        shown = ax.scatter(lon[here], latitude[here], c=values[here], s=size, vmin=low, vmax=high,
                           cmap=_DIVERGING if diverging else _CMAP, lw=0)  # fmt: skip
        _sky_axes(ax, lon[good], latitude[good])
        figure.colorbar(shown, ax=ax, label=label, shrink=0.85)
    return figure


def _unwrapped(longitude: np.ndarray) -> np.ndarray:
    """Return longitudes without a jump at 360 degrees."""
    lon = np.mod(longitude, 360.0)
    with np.errstate(invalid="ignore"):
        across = (lon < 90).any() and (lon > 270).any() and not ((lon > 90) & (lon < 270)).any()
        return np.where(lon > 180, lon - 360, lon) if across else lon


def _sky_axes(ax: Any, lon: np.ndarray, lat: np.ndarray) -> None:
    low, high = robust_limits(lon, 0, 100, pad=0.04, least=1e-3)
    ax.set_xlim(high, low)
    ax.set_ylim(*robust_limits(lat, 0, 100, pad=0.04, least=1e-3))
    middle = np.clip(np.cos(np.radians(np.median(lat))), 0.1, 1.0)
    if high - low < 60:
        ax.set_aspect(1.0 / middle, adjustable="box")
    ax.set_xlabel("l [deg]", fontsize=9)
    ax.set_ylabel("b [deg]", fontsize=9)
    ax.xaxis.set_major_locator(_few_ticks())
    tidy(ax)


def _few_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(5)


def plot_residuals_on_sky(
    longitude: np.ndarray, latitude: np.ndarray, residuals: np.ndarray, bands: Sequence[str]
) -> Figure | None:
    """Draw the median residual of each band in cells of the sky.

    Parameters
    ----------
    longitude, latitude : numpy.ndarray, shape (n,)
        Galactic coordinates in degrees.
    residuals : numpy.ndarray, shape (n, n_bands)
        Observed less model, magnitudes.
    bands : sequence of str
        Names.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> where = rng.uniform(10, 12, (2, 400))
    >>> figure = plot_residuals_on_sky(*where, 0.01 * rng.normal(size=(400, 2)), ["g", "r"])
    >>> len(figure.axes)
    3
    """
    good = np.isfinite(longitude) & np.isfinite(latitude)
    shown = [k for k in range(len(bands)) if np.isfinite(residuals[good, k]).sum() >= 20]
    if not shown:
        return None
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = new_figure(2.9 * columns + 1.2, 2.8 * rows, rows, columns,
                              sharex=True, sharey=True)  # fmt: skip
    lon = _unwrapped(longitude)
    side = int(np.clip(np.sqrt(good.sum() / 8.0), 2, 24))
    box = [np.percentile(v[good], [0.5, 99.5]) for v in (lon, latitude)]
    maps = []
    for k in shown:
        use = good & np.isfinite(residuals[:, k])
        maps.append(_cell_medians(lon[use], latitude[use], 1e3 * residuals[use, k], box, side))
    limit = max(abs(v) for v in robust_limits(np.stack(maps), 2, 98, pad=0.0, least=10.0))
    for ax in axes.flat[len(shown) :]:
        ax.set_axis_off()
    image = None
    for ax, k, cells in zip(axes.flat, shown, maps, strict=False):
        image = ax.imshow(cells.T, origin="lower", extent=(*box[0], *box[1]), vmin=-limit,
                          vmax=limit, cmap=_DIVERGING, aspect="auto")  # fmt: skip
        ax.set_facecolor("#e4e7eb")
        ax.set_xlim(box[0][1], box[0][0])
        ax.set_title(bands[k], fontsize=9, loc="left")
        ax.xaxis.set_major_locator(_few_ticks())
        ax.tick_params(labelsize=8)
    figure.supxlabel("l [deg]", fontsize=10)
    figure.supylabel("b [deg]", fontsize=10)
    figure.colorbar(image, ax=axes.ravel().tolist(), label="median of observed − model [mmag]")
    return figure


def _cell_medians(
    x: np.ndarray, y: np.ndarray, values: np.ndarray, box: Any, side: int
) -> np.ndarray:
    """Return medians in a grid of cells (x, y); NaN where fewer than 3 values fall."""
    out = np.full((side, side), np.nan)
    places = []
    for v, (low, high) in zip((x, y), box, strict=True):
        cell = np.floor((v - low) / max(high - low, 1e-12) * side).astype(int)
        places.append(np.where((v >= low) & (v <= high), np.minimum(cell, side - 1), -1))
    inside = (places[0] >= 0) & (places[1] >= 0)
    index = (places[0] * side + places[1])[inside]
    order = np.argsort(index, kind="stable")
    groups = np.split(values[inside][order], np.flatnonzero(np.diff(index[order])) + 1)
    for cell, group in zip(np.unique(index), groups, strict=True):
        if len(group) >= 3:
            out[cell // side, cell % side] = np.median(group)
    return out


def plot_distance_reddening(
    distance_kpc: np.ndarray, av: np.ndarray, cluster: ClusterRecord | None = None
) -> Figure | None:
    """Draw how extinction grows with distance: draws of all stars, and medians by distance.

    Parameters
    ----------
    distance_kpc, av : numpy.ndarray, shape (n, n_draws)
        Draws.
    cluster : ClusterRecord, optional
        Its place is marked, and a second panel enlarges it.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> figure = plot_distance_reddening(rng.uniform(0.5, 3, (99, 20)), rng.uniform(0, 1, (99, 20)))
    >>> len(figure.axes) >= 1
    True
    """
    good = np.isfinite(distance_kpc) & np.isfinite(av) & (distance_kpc > 0)
    if good.sum() < 20:
        return None
    from matplotlib.colors import PowerNorm

    mu = 5 * np.log10(np.where(good, distance_kpc, 1.0)) + 10
    columns = 1 if cluster is None else 2
    figure, axes = new_figure(6.6 * columns, 4.8, 1, columns)
    windows = [
        (robust_limits(mu[good], 1, 99), (0.0, max(robust_limits(av[good], 1, 99)[1], 0.05)))
    ]
    if cluster is not None:
        w = max(4 * cluster.modulus_scatter, 0.4), max(4 * cluster.av_scatter, 0.15)
        middle = cluster.distance_modulus, cluster.av
        windows.append(
            ((middle[0] - w[0], middle[0] + w[0]), (max(middle[1] - w[1], 0.0), middle[1] + w[1]))
        )
    for ax, (xlim, ylim) in zip(axes[0], windows, strict=True):
        counts, xe, ye = np.histogram2d(mu[good], av[good], bins=(60, 50), range=[xlim, ylim])
        shown = np.where(counts > 0, 100 * counts / good.sum(), np.nan)
        mesh = ax.pcolormesh(xe, ye, shown.T, cmap="Blues", norm=PowerNorm(0.5), rasterized=True)
        ax.set_xlim(xlim)
        ax.set_ylim(ylim)
        ax.set_xlabel("distance modulus [mag]")
        ax.set_ylabel("$A_V$ [mag]")
        tidy(ax)
        _kpc_axis(ax, xlim)
    figure.colorbar(mesh, ax=axes[0, -1], label="share of all draws in a cell [%]")
    centre, median, error = binned_median(np.median(mu, axis=1), np.median(av, axis=1), 12, 8)
    axes[0, 0].errorbar(centre, median, error, fmt="o-", ms=4, lw=1.2, color="#d55e00",
                        label="median of stars")  # fmt: skip
    if cluster is not None:
        _mark_cluster(axes[0], cluster)
    axes[0, 0].legend(fontsize=8, loc="upper left")
    return figure


def _kpc_axis(ax: Any, xlim: tuple[float, float]) -> None:
    """Add distances in kpc above an axis of distance moduli."""
    low, high = (10 ** (v / 5 - 2) for v in xlim)
    nice = np.array([m * 10.0**e for e in range(-4, 5) for m in (1, 1.5, 2, 3, 5, 7)])
    ticks = nice[(nice >= low) & (nice <= high)]
    if len(ticks) < 3:
        from matplotlib.ticker import MaxNLocator

        ticks = np.array([t for t in MaxNLocator(6).tick_values(low, high) if low <= t <= high])
    above = ax.secondary_xaxis("top")
    above.set_xticks(5 * np.log10(ticks) + 10, [f"{t:g}" for t in np.round(ticks, 4)])
    above.set_xlabel("distance [kpc]", fontsize=9)
    above.tick_params(labelsize=8)


def _mark_cluster(axes: Any, cluster: ClusterRecord) -> None:
    text = (
        f"cluster: {1e3 * cluster.distance_kpc:.0f} ± {1e3 * cluster.distance_err_kpc:.0f} pc, "
        f"$A_V$ {cluster.av:.3f} ± {np.sqrt(cluster.covariance[1, 1]):.3f}"
    )
    for ax in axes:
        ax.errorbar(cluster.distance_modulus, cluster.av, cluster.av_scatter,
                    cluster.modulus_scatter, fmt="s", ms=6, mfc="white", color=_INK, capsize=3,
                    label="cluster; bars: scatter of members", zorder=4)  # fmt: skip
    axes[1].set_title(text, fontsize=10, loc="left")
