"""Figures of scene fits: five panels an exposure, light curves, null tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pogson.report.scene_data import ScenePanels, SceneTargetRecord
from pogson.report.style import band_color, new_figure, robust_limits, tidy

__all__ = ["plot_light_curves", "plot_null_pulls", "plot_scene_panels", "plot_separation"]

_PANELS = ("data", "model", "data − scene [nJy]", "data − source", "residual [σ]")
_MAX_ROWS = 6
_UNUSED = "#b9bec5"


def choose_rows(images: Sequence[ScenePanels], limit: int = _MAX_ROWS) -> list[ScenePanels]:
    """Return the exposures to show: every detection, then the first others, in their order.

    Examples
    --------
    >>> zero = np.zeros((2, 2))
    >>> some = [ScenePanels(str(i), zero, zero, zero, zero, detection=i == 8) for i in range(9)]
    >>> [i.exposure_id for i in choose_rows(some, 3)]
    ['0', '1', '8']
    """
    order = sorted(range(len(images)), key=lambda i: (not images[i].detection, i))
    return [images[i] for i in sorted(order[:limit])]


def plot_scene_panels(images: Sequence[ScenePanels]) -> Any:
    """Five panels a row, one row an exposure; None without images.

    Data, model and data less source share one stretch (asinh, about the sky); data less scene is
    linear, the same scale in every row with the source; residuals are in units of each pixel's
    error. Pixels that were not used are grey. Corner marks show where the sources are.
    """
    rows = choose_rows(images)
    if not rows:
        return None
    figure, axes = _panel_axes(len(rows))
    source_limit = _source_limit(rows)
    for line, image in zip(axes, rows, strict=True):
        _one_row(line, image, source_limit)
    for ax, title in zip(axes[0], _PANELS, strict=False):
        ax.set_title(title, fontsize=10)
    return figure


def _panel_axes(n_rows: int) -> tuple[Any, list[list[Any]]]:
    """Return a figure with five square panels a row and the two colour bars of each row.

    Placed by hand: the automatic layout of so many axes takes longer than drawing them.
    """
    side, gap, left, top, bar, room = 1.8, 0.1, 0.55, 0.3, 0.08, 0.5
    width = left + 5 * side + 4 * gap + 2 * (bar + room)
    height = top + n_rows * (side + gap) + 0.05
    figure = Figure(figsize=(width, height), facecolor="white")
    axes = []
    for row in range(n_rows):
        y = (height - top - (row + 1) * side - row * gap) / height
        x, panels, bars = left, [], []
        for number in range(5):
            panels.append(figure.add_axes((x / width, y, side / width, side / height)))
            x += side + gap
            if number in (2, 4):
                place = ((x - 0.5 * gap) / width, y, bar / width, side / height)
                bars.append(figure.add_axes(place))
                x += bar + room
        axes.append([*panels, *bars])
    return figure, axes


def _source_limit(rows: Sequence[ScenePanels]) -> float:
    """Return the scale of data less scene: the brightest source pixel, or a few sigma."""
    peaks = [float(np.nanmax(np.abs(i.source))) for i in rows if i.used.any()]
    noise = [3.0 * float(np.median(i.sigma[i.used])) for i in rows if i.used.any()]
    return max([*peaks, *noise, 1e-30])


def _one_row(line: Sequence[Any], image: ScenePanels, source_limit: float) -> None:
    used = image.used
    sigma = float(np.median(image.sigma[used])) if used.any() else 1.0
    level = image.level
    with np.errstate(invalid="ignore", divide="ignore"):
        pull = image.residual / image.sigma
    bright = [np.where(used, v, np.nan) for v in (image.data, image.source_subtracted)]
    bright.insert(1, image.model)
    stretched = [np.arcsinh((v - level) / (2.0 * sigma)) for v in bright]
    top = 2.0
    if used.any():
        top = max(top, float(np.nanmax(stretched[1])), float(np.nanpercentile(stretched[0], 99.8)))
    low = float(np.arcsinh(-1.0))
    panels = [
        (stretched[0], "magma", (low, top)),
        (stretched[1], "magma", (low, top)),
        (np.where(used, image.scene_subtracted, np.nan), "RdBu_r", (-source_limit, source_limit)),
        (stretched[2], "magma", (low, top)),
        (np.where(used, pull, np.nan), "RdBu_r", (-4.0, 4.0)),
    ]
    for number, (ax, (values, colors, limits)) in enumerate(zip(line[:5], panels, strict=True)):
        ax.set_facecolor(_UNUSED)
        picture = ax.imshow(
            values, origin="lower", cmap=colors, vmin=limits[0], vmax=limits[1],
            interpolation="nearest",
        )  # fmt: skip
        ax.set_xticks([])
        ax.set_yticks([])
        dark = colors == "magma"
        if number != 4:
            for x, y in image.positions:
                _mark(ax, x, y, image.data.shape, "#7fe0ff" if dark else "#222222",
                      solid=image.detection)  # fmt: skip
        if number in (2, 4):
            _bar(line[5 if number == 2 else 6], picture, limits)
    weight = "bold" if image.detection else "normal"
    label = f"{image.exposure_id}\n{image.label}" if image.label else image.exposure_id
    line[0].set_ylabel(label, fontsize=8.5, fontweight=weight)


def _bar(ax: Any, picture: Any, limits: tuple[float, float]) -> None:
    """Draw a small colour bar with three numbers."""
    ramp = np.linspace(limits[0], limits[1], 128)[:, None]
    ax.imshow(
        ramp, cmap=picture.get_cmap(), aspect="auto", origin="lower",
        extent=(0.0, 1.0, limits[0], limits[1]),
    )  # fmt: skip
    ax.set_xticks([])
    top = float(f"{0.8 * limits[1]:.1g}")
    ax.set_yticks([-top, 0.0, top], [f"{v:g}".replace("-", "−") for v in (-top, 0.0, top)])
    ax.yaxis.tick_right()
    ax.tick_params(labelsize=7, length=2)


def _mark(ax: Any, x: float, y: float, shape: tuple[int, ...], color: str, *, solid: bool) -> None:
    """Point at a position from left and below, without covering it."""
    reach = 0.10 * max(shape)
    gap = 0.09 * max(shape)
    style = {"color": color, "lw": 1.3, "ls": "-" if solid else ":"}
    ax.plot([x - gap - reach, x - gap], [y, y], **style)
    ax.plot([x, x], [y - gap - reach, y - gap], **style)
    ax.set_xlim(-0.5, shape[1] - 0.5)
    ax.set_ylim(-0.5, shape[0] - 0.5)


def plot_light_curves(records: Sequence[SceneTargetRecord], *, limit: int = 12) -> Any:
    """Flux of every epoch against time, one panel a target; None if nothing has two epochs.

    Targets of one name in several bands share a panel. Where times are not known the epochs are
    numbered.
    """
    by_name: dict[str, list[SceneTargetRecord]] = {}
    for record in records:
        if record.status == "done":
            by_name.setdefault(record.name, []).append(record)
    several = {n: r for n, r in by_name.items() if sum(len(x.fluxes) for x in r) > 1}
    several = {n: r for n, r in several.items() if any(x.kind != "binary" for x in r)}
    shown = list(several.items())[:limit]
    if not shown:
        return None
    columns = 1 if len(shown) == 1 else 2
    lines = -(-len(shown) // columns)
    figure, axes = new_figure(8.0 if columns == 1 else 10.4, 0.5 + 2.6 * lines, lines, columns)
    for ax, (name, parts) in zip(axes.flat, shown, strict=False):
        _light_curve(ax, name, parts)
    for ax in axes.flat[len(shown) :]:
        ax.remove()
    return figure


def _light_curve(ax: Any, name: str, parts: Sequence[SceneTargetRecord]) -> None:
    bands = list(dict.fromkeys(p.band for p in parts))
    entries = [(p.band, f) for p in parts for f in p.fluxes]
    known = all(f.get("time") is not None for _, f in entries)
    start = 0.0
    if known:
        first = min(float(f["time"]) for _, f in entries)
        start = float(np.floor(first / 10.0) * 10.0)
    for number, band in enumerate(bands):
        mine = [f for b, f in entries if b == band]
        x = [float(f["time"]) - start if known else i + 1 + 0.1 * number
             for i, f in enumerate(mine)]  # fmt: skip
        ax.errorbar(
            x, [f["flux"] for f in mine], [f["flux_err"] for f in mine],
            fmt="osD^v"[number % 5], ms=4.5, lw=1.1, capsize=2, color=band_color(band, bands),
            label=band or None,
        )  # fmt: skip
    values = np.array([f["flux"] for _, f in entries], float)
    errors = np.array([f["flux_err"] for _, f in entries], float)
    ax.set_ylim(*robust_limits([*(values - errors), *(values + errors), 0.0], 0, 100, 0.08))
    ax.axhline(0.0, color="#555555", lw=0.8)
    ax.set_title(name, fontsize=10)
    ax.set_ylabel("flux [nJy]")
    ax.set_xlabel(f"MJD − {start:.0f}" if known else "epoch, in the order of the table")
    ax.ticklabel_format(axis="y", style="sci", scilimits=(-3, 5))
    if len(bands) > 1:
        ax.legend(fontsize=8)
    tidy(ax)


def plot_null_pulls(records: Sequence[SceneTargetRecord]) -> Any:
    """Histogram of the null tests' pulls of all targets over a standard normal curve."""
    from matplotlib.ticker import MaxNLocator

    pulls = np.array([p for r in records for p in r.values.get("null_pulls", ())], float)
    pulls = pulls[np.isfinite(pulls)]
    if pulls.size < 5:
        return None
    figure, axes = new_figure(6.4, 3.4)
    ax = axes[0, 0]
    edges = np.linspace(-5.0, 5.0, int(np.clip(np.sqrt(pulls.size) * 2, 11, 61)))
    ax.hist(np.clip(pulls, -4.999, 4.999), edges, color="#0072b2", alpha=0.75)
    x = np.linspace(-5, 5, 301)
    width = edges[1] - edges[0]
    normal = np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi) * pulls.size * width
    ax.plot(x, normal, color="black", lw=1.4, label="standard normal")
    rms = float(np.sqrt(np.mean(pulls**2)))
    ax.set_title(f"{pulls.size} null fluxes: mean {pulls.mean():+.2f}, rms {rms:.2f}", fontsize=10)
    ax.set_xlabel("flux / error")
    ax.set_ylabel("number")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(fontsize=8)
    tidy(ax)
    return figure


def plot_separation(record: SceneTargetRecord) -> Any:
    """Positions of a binary's two components with their error ellipses, north up, east left."""
    from matplotlib.patches import Ellipse

    parts = [s for s in record.values.get("sources", ()) if s.get("offset") is not None]
    if len(parts) < 2:
        return None
    figure, axes = new_figure(3.8, 3.6)
    ax = axes[0, 0]
    reach = 0.0
    for number, part in enumerate(parts[:2]):
        xi, eta = (float(v) for v in part["offset"])
        color = ("#0072b2", "#d55e00")[number]
        ax.plot([xi], [eta], "o", ms=2.5, color=color, label=str(part["name"]))
        reach = max(reach, abs(xi), abs(eta))
        covariance = part.get("offset_covariance")
        if covariance is None:
            continue
        values, vectors = np.linalg.eigh(np.asarray(covariance, float))
        size = 2.0 * np.sqrt(np.maximum(values, 0.0))
        angle = float(np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])))
        ax.add_patch(Ellipse((xi, eta), size[1], size[0], angle=angle, fill=False, color=color))
        reach = max(reach, abs(xi) + size[1], abs(eta) + size[1])
    reach = 1.25 * max(reach, 0.05)
    ax.set_xlim(reach, -reach)
    ax.set_ylim(-reach, reach)
    ax.set_aspect("equal")
    ax.set_xlabel("east [arcsec]")
    ax.set_ylabel("north [arcsec]")
    ax.legend(fontsize=8)
    tidy(ax)
    return figure
