"""Figures of a flux calibration: stars and templates, response, residuals, bands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pogson.report.fluxcal_data import FluxCalReportData, StandardRecord
from pogson.report.style import band_color, new_figure, robust_limits, tidy

__all__ = [
    "plot_band_residuals",
    "plot_calibration_vectors",
    "plot_response",
    "plot_star_fits",
    "plot_star_residuals",
    "plot_telluric",
]

_INK = "#20252b"
_GREY = "#9aa3ad"
_FIT = "#d55e00"
_SHADE = "#eef1f4"
_CYCLE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#7b4fb5", "#56585a")


def _color(i: int) -> str:
    return _CYCLE[i % len(_CYCLE)]


def _style(i: int) -> str:
    """Another dash pattern each time the colours come round."""
    return ("-", "--", ":", "-.")[(i // len(_CYCLE)) % 4]


def _binned(lam: np.ndarray, values: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Means of runs of pixels, NaN where fewer than a third of a run are there."""
    n = lam.size // width
    if n < 1:
        return lam, values
    x = lam[: n * width].reshape(n, width).mean(axis=1)
    v = values[: n * width].reshape(n, width)
    ok = np.isfinite(v)
    count = ok.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(ok, v, 0.0).sum(axis=1) / count
    return x, np.where(count * 3 >= width, mean, np.nan)


def _shade(ax: Any, data: FluxCalReportData) -> None:
    """Grey bands where the atmosphere absorbs, within the axis as it is."""
    low, high = ax.get_xlim()
    for a, b in data.telluric_regions:
        if b > low and a < high:
            ax.axvspan(max(a, low), min(b, high), color=_SHADE, lw=0, zorder=0)
    ax.set_xlim(low, high)


def _limits(data: FluxCalReportData) -> tuple[float, float]:
    lam = data.response["wavelength"]
    pad = 0.01 * (lam[-1] - lam[0])
    return float(lam[0] - pad), float(lam[-1] + pad)


def _star_title(star: StandardRecord) -> str:
    v = star.number
    state = "" if star.used else "   REJECTED"
    return (
        f"{star.name}: Teff {v('teff'):.0f} ± {v('teff_err'):.0f} K, log g {v('logg'):.2f}, "
        f"[Fe/H] {v('feh'):+.2f}, RV {v('rv_kms'):.0f} km/s, E(B−V) {v('e_bv'):.3f}{state}"
    )


def plot_star_fits(data: FluxCalReportData, most: int = 16) -> Figure | None:
    """Draw every star's calibrated spectrum with its model, and the residuals below.

    Parameters
    ----------
    data : FluxCalReportData
        The stars.
    most : int, optional
        Stars shown; rejected ones come first.

    Returns
    -------
    matplotlib.figure.Figure or None
        None without stars.

    Examples
    --------
    >>> plot_star_fits(FluxCalReportData("x")) is None
    True
    """
    stars = sorted(data.matched, key=lambda s: s.used)[:most]
    if not stars:
        return None
    figure, axes = new_figure(
        11.0, 3.1 * len(stars), 2 * len(stars), 1, sharex=True,
        height_ratios=[2.4, 1] * len(stars),
    )  # fmt: skip
    for k, star in enumerate(stars):
        _one_star(axes[2 * k, 0], axes[2 * k + 1, 0], data, star)
    axes[0, 0].set_xlim(*_limits(data))
    for ax in axes[:, 0]:
        _shade(ax, data)
        ax.tick_params(labelbottom=True)
    axes[-1, 0].set_xlabel("vacuum wavelength [Å]")
    return figure


def _one_star(top: Any, bottom: Any, data: FluxCalReportData, star: StandardRecord) -> None:
    a = dict(star.arrays)
    lam = a["wavelength"]
    title = _star_title(star)
    with np.errstate(invalid="ignore", divide="ignore"):
        level = float(np.nanmedian(a["flux"] / a["model"]))
    if not star.used and level > 0:  # its own level, so that its shape can be judged
        a["flux"], a["variance"] = a["flux"] / level, a["variance"] / level**2
        title += f" (spectrum divided by {level:.3g})"
    scale = 10.0 ** np.floor(np.log10(np.nanmedian(np.abs(a["model"]))))
    top.plot(lam, a["flux"] / scale, color=_GREY, lw=0.5, label="calibrated spectrum")
    top.plot(lam, a["model"] / scale, color=_FIT, lw=0.9, label="model")
    top.set_ylim(*_flux_limits(a, scale))
    top.set_ylabel(f"flux density\n[10$^{{{int(np.log10(scale))}}}$ erg/s/cm²/Å]", fontsize=9)
    top.set_title(title, fontsize=10, loc="left",
                  color=_INK if star.used else "#b3261e")  # fmt: skip
    top.legend(fontsize=8, loc="upper right", ncols=2)
    with np.errstate(invalid="ignore", divide="ignore"):
        left = 100 * (a["flux"] / a["model"] - 1)
        noise = 100 * np.sqrt(a["variance"]) / a["model"]
    outside = ~_inside(lam, data)
    width = 25
    x, mean = _binned(lam, np.where(outside, left, np.nan), width)
    bottom.axhline(0, color="black", lw=0.8)
    _, error = _binned(lam, np.where(outside & np.isfinite(noise), noise**2, np.nan), width)
    error = np.sqrt(error / width)
    bottom.fill_between(x, -error, error, color="#56b4e9", alpha=0.35, lw=0, zorder=2,
                        label=f"1σ noise of {width} pixels")  # fmt: skip
    bottom.plot(x, mean, color="#0072b2", lw=1.2, zorder=3, label=f"mean of {width} pixels")
    low, high = _symmetric(mean, 3.0)
    bottom.set_ylim(low, 1.6 * high)
    bottom.set_ylabel("data − model\n[%]", fontsize=9)
    bottom.legend(fontsize=7.5, loc="upper right", ncols=2)
    for ax in (top, bottom):
        tidy(ax)


def _flux_limits(arrays: Any, scale: float) -> tuple[float, float]:
    model = arrays["model"] / scale
    low, high = np.nanmin(model), np.nanmax(model)
    pad = 0.12 * (high - low)
    return float(min(0.0, low - pad) if low < 0.3 * high else low - pad), float(high + 2.2 * pad)


def _symmetric(values: np.ndarray, least: float, pad: float = 1.5) -> tuple[float, float]:
    good = np.abs(values[np.isfinite(values)])
    top = max(least, pad * float(np.percentile(good, 99)) if good.size else least)
    return -top, top


def _inside(lam: np.ndarray, data: FluxCalReportData) -> np.ndarray:
    out = np.zeros(lam.shape, bool)
    for a, b in data.telluric_regions:
        out |= (lam >= a) & (lam <= b)
    return out


def plot_calibration_vectors(data: FluxCalReportData) -> Figure | None:
    """Draw the throughput of every star with its own fibre loss, and its ratio to the response.

    Examples
    --------
    >>> plot_calibration_vectors(FluxCalReportData("x")) is None
    True
    """
    stars = data.matched
    if not stars:
        return None
    figure, axes = new_figure(11.0, 6.6, 2, 1, sharex=True, height_ratios=[1.3, 1])
    top, bottom = axes[:, 0]
    lam0, response = data.response["wavelength"], data.response["response"]
    shown, spread = [], []
    for i, star in enumerate(stars):
        lam, ratio = star.arrays["wavelength"], star.arrays["ratio"]
        x, mean = _binned(lam, np.where(_inside(lam, data), np.nan, ratio), 25)
        style: dict[str, Any] = {"color": _color(i), "lw": 1.2 if star.used else 1.0,
                 "ls": _style(i), "alpha": 1.0 if star.used else 0.55}  # fmt: skip
        level = np.interp(x, lam0, response) * mean
        name = star.name if star.used else f"{star.name} (rejected)"
        top.plot(x, level, label=name, **style)
        bottom.plot(x, mean, **style)
        if star.used:
            shown.append(level)
            spread.append(mean)
    top.plot(lam0, response, color="black", lw=1.8, label="response")
    pool = np.concatenate([response, *shown])
    top.set_ylim(0, 1.25 * float(np.nanpercentile(pool, 99.8)))
    if spread:
        low, high = robust_limits(np.concatenate(spread), 0.5, 99.5, 0.25, 0.1)
        bottom.set_ylim(max(low, 0.0), high)
    bottom.axhline(1, color="black", lw=0.8)
    top.set_ylabel("counts / s / Å for\n1 erg/s/cm²/Å", fontsize=10)
    bottom.set_ylabel("star / response:\nfibre loss", fontsize=10)
    bottom.set_xlabel("vacuum wavelength [Å]")
    top.legend(fontsize=8, ncols=min(5, len(stars) + 1), loc="upper left")
    top.set_xlim(*_limits(data))
    for ax in (top, bottom):
        tidy(ax)
        _shade(ax, data)
    return figure


def plot_star_residuals(data: FluxCalReportData) -> Figure | None:
    """Draw what each star's throughput leaves about the solution, its grey loss and slope removed.

    Examples
    --------
    >>> plot_star_residuals(FluxCalReportData("x")) is None
    True
    """
    stars = data.matched
    if not stars or "scatter" not in data.response:
        return None
    lam = np.exp(data.response["bins"])
    rows = 100 * np.asarray(data.response["scatter"])
    step = max(4.0, 2.2 * float(np.nanpercentile(np.abs(_used_rows(rows, stars)), 97)))
    figure, axes = new_figure(11.0, 1.6 + 0.62 * len(stars), 1, 1)
    ax = axes[0, 0]
    labels = []
    for i, (star, row) in enumerate(zip(stars, rows, strict=True)):
        offset = -i * step
        ax.axhline(offset, color="#c9d0d7", lw=0.8)
        color = _color(i) if star.used else "#b3261e"
        if not np.isfinite(row).any():
            row = _own_shape(star, data)
        # a rejected star may be far away; it stays within its lane
        shown = np.clip(row, -0.55 * step, 0.55 * step) if np.isfinite(row).any() else row
        ax.plot(lam, offset + shown, "o-", color=color, ms=3, lw=1.0)
        rms = float(np.sqrt(np.nanmean(row**2))) if np.isfinite(row).any() else np.nan
        labels.append(f"{star.name}: " + (f"{rms:.2f} %" if star.used else "rejected"))
    ax.set_yticks([-i * step for i in range(len(stars))], labels, fontsize=9)
    ax.set_ylim(-(len(stars) - 0.3) * step, 0.75 * step)
    ax.set_xlim(*_limits(data))
    beside = ax.get_yaxis_transform()
    ax.plot([1.012, 1.012], [-0.5 * step, 0.5 * step], color=_INK, lw=1.6, transform=beside,
            clip_on=False, marker="_", ms=7)  # fmt: skip
    ax.text(1.022, 0.0, f"{step:.1f} %", transform=beside, va="center", fontsize=9, color=_INK)
    ax.set_xlabel("vacuum wavelength [Å]")
    tidy(ax)
    _shade(ax, data)
    return figure


def _own_shape(star: StandardRecord, data: FluxCalReportData) -> np.ndarray:
    """Throughput of a star that was not used over the response, its level taken out, percent."""
    lam, ratio = star.arrays["wavelength"], star.arrays["ratio"]
    bins = np.asarray(data.response["bins"])
    edges = np.concatenate([[-np.inf], 0.5 * (bins[1:] + bins[:-1]), [np.inf]])
    good = np.isfinite(ratio) & ~_inside(lam, data)
    place = np.digitize(np.log(lam[good]), edges) - 1
    count = np.bincount(place, minlength=bins.size)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.bincount(place, ratio[good], bins.size) / count
        return np.asarray(100 * np.log(mean / np.median(ratio[good]))) if good.any() else mean


def _used_rows(rows: np.ndarray, stars: Sequence[StandardRecord]) -> np.ndarray:
    pick = np.array([s.used for s in stars])
    values = rows[pick] if pick.any() else rows
    return values[np.isfinite(values)] if np.isfinite(values).any() else np.zeros(1)


def plot_response(data: FluxCalReportData) -> Figure | None:
    """Draw the response with its error band, and the parts of the error.

    Examples
    --------
    >>> plot_response(FluxCalReportData("x")) is None
    True
    """
    if "response" not in data.response:
        return None
    r = data.response
    lam, value = r["wavelength"], r["response"]
    scale = np.full(lam.size, data.numbers.get("log_scale_error", np.nan))
    total = np.sqrt(r["noise"] ** 2 + r["template"] ** 2 + np.nan_to_num(scale) ** 2)
    figure, axes = new_figure(11.0, 6.2, 2, 1, sharex=True, height_ratios=[1.4, 1])
    top, bottom = axes[:, 0]
    for k, alpha in ((3, 0.18), (1, 0.4)):
        top.fill_between(lam, value * (1 - k * total), value * (1 + k * total), lw=0,
                         color="#0072b2", alpha=alpha, label=f"{k}σ")  # fmt: skip
    top.plot(lam, value, color=_INK, lw=1.2, label="response")
    top.set_ylim(0, None)
    top.set_ylabel("counts / s / Å for\n1 erg/s/cm²/Å", fontsize=10)
    top.legend(fontsize=9, loc="upper left")
    parts = (("total", total, "black", 1.6), ("noise of the stars", r["noise"], "#0072b2", 1.2),
             ("models", r["template"], "#009e73", 1.2), ("scale", scale, _FIT, 1.2))  # fmt: skip
    for name, y, color, lw in parts:
        bottom.plot(lam, 100 * y, color=color, lw=lw, label=name)
    bottom.set_ylim(0, 1.3 * 100 * float(np.nanpercentile(total, 99)))
    bottom.set_ylabel("1σ error [%]", fontsize=10)
    bottom.set_xlabel("vacuum wavelength [Å]")
    bottom.legend(fontsize=9, ncols=4, loc="upper center")
    top.set_xlim(*_limits(data))
    for ax in (top, bottom):
        tidy(ax)
        _shade(ax, data)
    return figure


def plot_telluric(data: FluxCalReportData) -> Figure | None:
    """Draw the telluric transmission of every region, with its noise.

    Examples
    --------
    >>> plot_telluric(FluxCalReportData("x")) is None
    True
    """
    lam = np.asarray(data.response.get("telluric_wavelength", ()))
    regions = [(a, b) for a, b in data.telluric_regions if np.sum((lam >= a) & (lam <= b)) > 2]
    if not regions:
        return None
    columns = min(3, len(regions))
    rows = -(-len(regions) // columns)
    figure, axes = new_figure(11.0, 2.7 * rows, rows, columns, sharey=True)
    value, error = data.response["telluric"], data.response["telluric_error"]
    for ax, (a, b) in zip(axes.ravel(), regions, strict=False):
        pick = (lam >= a) & (lam <= b)
        ax.fill_between(lam[pick], value[pick] - error[pick], value[pick] + error[pick], lw=0,
                        color="#0072b2", alpha=0.35, label="1σ")  # fmt: skip
        ax.plot(lam[pick], value[pick], color=_INK, lw=0.9)
        ax.axhline(1, color="#9aa3ad", lw=0.8, ls="--")
        ax.set_xlim(a, b)
        ax.xaxis.set_major_locator(MaxNLocator(5, prune="both"))
        ax.set_title(f"{a:.0f}–{b:.0f} Å", fontsize=10, loc="left")
        if not np.isfinite(value[pick]).any():
            ax.text(0.5, 0.5, "no star tells it", transform=ax.transAxes, ha="center", color=_INK)
        tidy(ax)
    for ax in axes.ravel()[len(regions) :]:
        ax.set_visible(False)
    shown = value[np.isfinite(value)] if np.isfinite(value).any() else np.ones(1)
    axes[0, 0].set_ylim(min(0.0, float(shown.min())), max(1.1, float(np.percentile(shown, 99.5))))
    for row in axes:
        row[0].set_ylabel("transmission")
    figure.supxlabel("vacuum wavelength [Å]", fontsize=10)
    return figure


def plot_band_residuals(data: FluxCalReportData) -> Figure | None:
    """Draw synthetic minus catalogue magnitudes, star by star in every band.

    Examples
    --------
    >>> plot_band_residuals(FluxCalReportData("x")) is None
    True
    """
    stars = [s for s in data.matched if s.values.get("band_residuals")]
    if not stars or not data.bands:
        return None
    figure, axes = new_figure(11.0, 4.4, 1, 1)
    ax = axes[0, 0]
    ax.axhspan(-0.01, 0.01, color=_SHADE, lw=0)
    ax.axhline(0, color="black", lw=0.8)
    n = len(stars)
    everything: list[float] = []
    for k, band in enumerate(data.bands):
        color = band_color(band, data.bands)
        for i, star in enumerate(stars):
            x = k + 0.7 * ((i + 0.5) / n - 0.5)
            y = star.values["band_residuals"].get(band)
            e = (star.values.get("band_errors") or {}).get(band)
            seen = (star.values.get("spectrum_residuals") or {}).get(band)
            full = {"mfc": color if star.used else "white", "mec": color}
            if y is not None:
                ax.errorbar(x, y, e or 0.0, fmt="o", color=color, ms=5.5, lw=1.1, capsize=2, **full)
                everything += [float(y) - (e or 0.0), float(y) + (e or 0.0)]
            if seen is not None:
                ax.plot(x, seen, "_", color=_INK, ms=9, mew=1.6)
                if star.used:
                    everything.append(float(seen))
    handles = [
        ax.errorbar([], [], [], fmt="o", color="0.35", ms=5.5, capsize=2),
        ax.plot([], [], "o", mfc="white", mec="0.35")[0],
        ax.plot([], [], "_", color=_INK, ms=9, mew=1.6)[0],
    ]
    words = ["model", "model of a rejected star", "calibrated spectrum, fibre loss removed"]
    ax.legend(handles, words, fontsize=8.5, ncols=3, loc="upper center")
    ax.set_xticks(range(len(data.bands)), data.bands)
    ax.set_xlim(-0.6, len(data.bands) - 0.4)
    top = max(0.03, 1.15 * float(np.percentile(np.abs(everything), 98)))
    ax.set_ylim(-top, 1.3 * top)
    ax.set_ylabel("synthetic − catalogue [AB mag]")
    tidy(ax)
    ax.grid(False, axis="x")
    return figure
