"""Figures of coadds: the picture, backgrounds, fluxes against the visits, completeness.

Every figure returns None where it would be empty.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from pogson.report.coadd_data import BackgroundMaps, CoaddPicture, CoaddReport, LevelsOfVisits
from pogson.report.style import band_color, new_figure, pull_axes, robust_limits, tidy

__all__ = [
    "plot_backgrounds",
    "plot_completeness",
    "plot_counts",
    "plot_fluxes",
    "plot_levels",
    "plot_picture",
    "plot_pulls",
]

_POGSON = 2.5 / np.log(10.0)
_FEW = 8  # sources, too few for a band of errors


def plot_picture(picture: CoaddPicture | None) -> Any:
    """The coadd in colour where there are two bands or more, else in grey.

    Parameters
    ----------
    picture : CoaddPicture or None
        Mosaics.
    """
    if picture is None or not picture.images:
        return None
    figure, ax = _square(picture)
    if len(picture.images) > 1:
        ax.imshow(color_image(picture), origin="lower", extent=picture.extent,
                  interpolation="nearest")  # fmt: skip
    else:
        image = next(iter(picture.images.values()))
        low, high = robust_limits(image, 1.0, 99.0, 0.0)
        shown = np.arcsinh((image - low) / max(0.1 * (high - low), 1e-30))
        ax.imshow(shown, origin="lower", extent=picture.extent, cmap="gray", vmin=0.0,
                  interpolation="nearest")  # fmt: skip
    return figure


def color_image(picture: CoaddPicture) -> np.ndarray:
    """Return the picture in red, green and blue, 0 to 255: the redder the band the redder.

    Parameters
    ----------
    picture : CoaddPicture
        Mosaics of at least two bands, in order of wavelength.
    """
    from astropy.visualization import make_lupton_rgb

    names = list(picture.images)
    blue, red = picture.images[names[0]], picture.images[names[-1]]
    middle = picture.images[names[len(names) // 2]] if len(names) > 2 else 0.5 * (blue + red)
    planes, seen = [red, middle, blue], np.isfinite(red) & np.isfinite(blue)
    seen &= np.isfinite(middle)
    if not seen.any():
        return np.zeros((*red.shape, 3), np.uint8)
    planes = [np.where(seen, p - np.median(p[seen]), 0.0) for p in planes]
    noise = [max(1.4826 * float(np.median(np.abs(p[seen]))), 1e-30) for p in planes]
    total = np.sum([p / n for p, n in zip(planes, noise, strict=True)], axis=0)
    bright = seen & (total > 15.0) & (planes[1] > 3.0 * noise[1])
    if bright.sum() >= 5:  # the median colour of the field is white
        light = [float(np.median(p[bright] / planes[1][bright])) for p in planes]
        planes = [p / f if f > 0 else p / n
                  for p, f, n in zip(planes, light, noise, strict=True)]  # fmt: skip
    else:
        planes = [p / n for p, n in zip(planes, noise, strict=True)]
    width = float(np.median([1.4826 * np.median(np.abs(p[seen])) for p in planes]))
    # the function's limits are absolute: in units of some times the noise
    unit = [p / max(8.0 * width, 1e-30) for p in planes]
    out = np.array(make_lupton_rgb(*unit, minimum=-0.15, stretch=1.2, Q=6.0))
    out[~seen] = 35
    return out


def _square(picture: CoaddPicture) -> tuple[Any, Any]:
    """Return a figure in the shape of the mosaic, with axes in arcmin beside the pixels."""
    x0, x1, y0, y1 = picture.extent
    width = 7.4
    height = float(np.clip(width * (y1 - y0) / (x1 - x0), 2.5, 10.0))
    figure, axes = new_figure(width + 0.4, height + 0.4)
    ax = axes[0, 0]
    ax.set_xlabel(f"x [pixel of {picture.scale:.3g} arcsec]")
    ax.set_ylabel("y [pixel]")
    ax.tick_params(labelsize=9)
    return figure, ax


def plot_counts(picture: CoaddPicture | None) -> Any:
    """Number of inputs of each pixel, a panel a band.

    Parameters
    ----------
    picture : CoaddPicture or None
        Mosaics.
    """
    if picture is None or not picture.counts:
        return None
    names = list(picture.counts)[:6]
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure, axes = new_figure(2.9 * columns + 1.0, 2.8 * rows + 0.4, rows, columns)
    most = max(int(np.max(picture.counts[n])) for n in names)
    import matplotlib as mpl

    colors = mpl.colormaps["viridis"].resampled(most + 1)
    image = None
    for number, name in enumerate(names):
        ax = axes.flat[number]
        image = ax.imshow(picture.counts[name], origin="lower", extent=picture.extent, vmin=-0.5,
                          vmax=most + 0.5, cmap=colors, interpolation="nearest")  # fmt: skip
        ax.set_title(name, fontsize=9)
        ax.set_xlabel("x [pixel]", fontsize=9)
        if number % columns == 0:
            ax.set_ylabel("y [pixel]", fontsize=9)
        ax.tick_params(labelsize=8)
        ax.locator_params(nbins=4)
    for ax in axes.flat[len(names) :]:
        ax.remove()
    ticks = np.unique(np.linspace(0, most, min(most + 1, 7)).round())
    figure.colorbar(image, ax=list(axes.flat[: len(names)]), label="inputs", ticks=ticks,
                    shrink=0.9)  # fmt: skip
    return figure


def plot_backgrounds(maps: tuple[BackgroundMaps, ...], *, most: int = 6) -> Any:
    """Detector images in coarse cells before (upper row) and after (lower row) the subtraction.

    Parameters
    ----------
    maps : tuple of BackgroundMaps
        Detectors of one visit.
    most : int, optional
        No more than this many columns.
    """
    shown = [m for m in maps if np.isfinite(m.before).any()][:most]
    if not shown:
        return None
    figure, axes = new_figure(2.1 * len(shown) + 1.6, 5.0, 2, len(shown))
    before = robust_limits(np.concatenate([m.before.ravel() for m in shown]), 0.5, 99.5, 0.0)
    after = np.concatenate([m.after.ravel() for m in shown])
    limit = float(np.nanpercentile(np.abs(after[np.isfinite(after)]), 99)) or 1.0
    for row, (name, low, high, colors) in enumerate(
        (("before", *before, "viridis"), ("after", -limit, limit, "RdBu_r"))
    ):
        image = None
        for column, item in enumerate(shown):
            ax = axes[row, column]
            image = ax.imshow(getattr(item, name), origin="lower", extent=item.extent, vmin=low,
                              vmax=high, cmap=colors, interpolation="nearest")  # fmt: skip
            ax.tick_params(labelsize=8)
            ax.locator_params(nbins=3)
            if row == 0:
                ax.set_title(item.label, fontsize=9)
                ax.set_xticklabels([])
            else:
                ax.set_xlabel("x [pixel]", fontsize=9)
            if column == 0:
                ax.set_ylabel(f"{name}\ny [pixel]", fontsize=9)
            else:
                ax.set_yticklabels([])
        bar = figure.colorbar(image, ax=list(axes[row]), shrink=0.85)
        unit = shown[0].unit
        bar.set_label(f"surface brightness\n[{unit} / reference pixel]"
                      if shown[0].surface_brightness else f"fluence [{unit} / pixel]",
                      fontsize=9)  # fmt: skip
        bar.ax.tick_params(labelsize=8)
    return figure


def plot_levels(levels: tuple[LevelsOfVisits, ...]) -> Any:
    """Levels taken from the visits of each band: mean, and range over the sky that they share.

    Parameters
    ----------
    levels : tuple of LevelsOfVisits
        By band.
    """
    shown = [item for item in levels if item.visits]
    if not shown:
        return None
    figure, axes = new_figure(8.6, 0.7 + 2.4 * len(shown), len(shown), 1)
    for row, item in enumerate(shown):
        ax, n = axes[row, 0], len(item.visits)
        x, color = np.arange(n), band_color(item.band, [i.band for i in shown])
        spread = np.stack([item.mean - item.lowest, item.highest - item.mean])
        ax.errorbar(x, item.mean, np.maximum(spread, 0.0), fmt="o", ms=6, color=color, capsize=3,
                    lw=1.2)  # fmt: skip
        left = np.isin(item.visits, item.unmatched)
        if left.any():
            ax.plot(x[left], item.mean[left], "x", ms=9, color="black", label="not matched")
            ax.legend(fontsize=8)
        ax.axhline(0.0, color="#555555", lw=0.8)
        ax.set_ylabel(f"{item.band}: level\n[{item.unit.replace('arcsec2', 'arcsec²')}]")
        if item.rms_before is not None and item.rms_after is not None:
            ax.set_title(f"{item.band}: differences {item.rms_before:.1f} of their error before, "
                         f"{item.rms_after:.1f} after", fontsize=9)  # fmt: skip
        ax.set_xlim(-0.5, n - 0.5)
        step = max(1, -(-n // 12))
        ax.set_xticks(x[::step], [item.visits[k] for k in x[::step]], fontsize=8)
        tidy(ax)
    axes[-1, 0].set_xlabel("visit")
    return figure


def _compared(data: CoaddReport) -> list[str]:
    return [b for b, found in data.bands.items() if "visit_flux" in found.rows
            and np.isfinite(found.rows["visit_flux"]).any()]  # fmt: skip


def plot_fluxes(data: CoaddReport) -> Any:
    """Flux on the coadd over the weighted flux on the visits, against magnitude.

    Parameters
    ----------
    data : CoaddReport
        Coadds.
    """
    bands = _compared(data)
    if not bands:
        return None
    figure, axes = new_figure(8.6, 0.5 + 2.5 * len(bands), len(bands), 1, sharex=True)
    for row, band in enumerate(bands):
        ax, r = axes[row, 0], data.bands[band].rows
        good = (r["flux"] > 0) & (r["visit_flux"] > 0)
        magnitude = 31.4 - 2.5 * np.log10(r["flux"][good])
        ratio = 2500.0 * np.log10(r["flux"][good] / r["visit_flux"][good])
        error = 1e3 * _POGSON * r["flux_err"][good] / r["flux"][good]
        few, color = ratio.size < _FEW, band_color(band, list(data.bands))
        order = np.argsort(magnitude)
        if few:
            ax.errorbar(magnitude, ratio, error, fmt="none", ecolor="#b9bec6", lw=1.5, capsize=4,
                        label="standard error of the flux")  # fmt: skip
        else:
            ax.fill_between(magnitude[order], -error[order], error[order], color="#d5d9df", lw=0,
                            label="standard error of the flux")  # fmt: skip
        ax.plot(magnitude, ratio, "o", ms=7 if few else 3, alpha=1.0 if few else 0.6, mew=0,
                color=color)  # fmt: skip
        ax.axhline(0.0, color="#555555", lw=0.8)
        median = data.bands[band].numbers.get("median_mmag")
        if median is not None:
            snr = data.snr
            ax.axhline(median, color="black", lw=1.2, ls="--",
                       label=f"median above {snr:g}σ: {median:+.3f} mmag")  # fmt: skip
        limit = max(1.0, float(np.percentile(np.abs(ratio), 97)) * 1.6)
        if few:
            limit = max(limit, 1.6 * float(np.max(error)))
        ax.set_ylim(-limit, limit)
        ax.set_ylabel(f"{band}: coadd - visits [mmag]")
        ax.legend(fontsize=8, loc="upper center" if few else "upper left")
        tidy(ax)
    axes[-1, 0].set_xlabel("magnitude on the coadd [AB]")
    return figure


def plot_pulls(data: CoaddReport) -> Any:
    """Pulls against the truth with the tracked covariance, and with the diagonal only.

    Parameters
    ----------
    data : CoaddReport
        Coadds.
    """
    bands = [b for b, v in data.bands.items() if np.size(v.truth.get("pull", ())) > 10]
    if not bands:
        return None
    figure, axes = new_figure(9.2, 3.7, 1, 2, sharey=True)
    edges = np.linspace(-5, 5, 31)
    for ax, name, number, title in (
        (axes[0, 0], "pull", "pulls", "tracked covariance"),
        (axes[0, 1], "pull_diagonal", "pulls_diagonal", "diagonal of the covariance only"),
    ):
        for band in bands:
            found = data.bands[band]
            snr = np.asarray(found.truth["true_snr"])
            some = np.asarray(found.truth[name])[(snr > 5) & (snr < 100)]
            said = found.numbers.get(number) or {}
            ax.hist(np.clip(some, -5, 5), edges, density=True, histtype="stepfilled", alpha=0.35,
                    color=band_color(band, list(data.bands)),
                    label=f"{band}: rms {said.get('rms', np.nan):.2f} (n={some.size})")  # fmt: skip
        ax.set_title(title, fontsize=10)
        pull_axes(ax)
    axes[0, 1].set_ylabel("")
    return figure


def plot_completeness(data: CoaddReport) -> Any:
    """Share of the true stars that reach a signal over noise, and the share that should.

    Parameters
    ----------
    data : CoaddReport
        Coadds.
    """
    bands = [b for b, v in data.bands.items() if np.size(v.truth.get("expected", ())) > 20]
    if not bands:
        return None
    figure, axes = new_figure(7.4, 3.8)
    ax = axes[0, 0]
    from matplotlib.lines import Line2D

    from pogson.inject.audit_statistics import binomial_interval

    handles = []
    for band in bands:
        t, color = data.bands[band].truth, band_color(band, list(data.bands))
        magnitude = np.asarray(t["magnitude"])
        depth = (data.bands[band].numbers.get("completeness") or {}).get("depth")
        middle = depth if depth is not None else float(np.median(magnitude))
        edges = middle + 0.15 * np.arange(-7.5, 8.0)
        points = []
        for low, high in itertools.pairwise(edges):
            some = (magnitude >= low) & (magnitude < high)
            n = int(some.sum())
            if n < 3:
                continue
            p = np.asarray(t["expected"])[some]
            points.append((0.5 * (low + high), np.sum(np.asarray(t["reached"])[some]), p.mean(), n))
        if not points:
            continue
        m, k, expected, n_stars = (np.array(v) for v in zip(*points, strict=True))
        low, high = binomial_interval(k, n_stars)
        share = k / n_stars
        ax.plot(m, expected, color=color, lw=1.4)
        ax.errorbar(m, share, np.stack([share - low, high - share]).clip(0.0), fmt="o", ms=4.5,
                    color=color, lw=1, capsize=2)  # fmt: skip
        if depth is not None:
            ax.axvline(depth, color=color, ls=":", lw=1.2)
        text = f"{band}" + ("" if depth is None else f", depth {depth:.2f} mag")
        handles.append(Line2D([], [], color=color, marker="o", ms=4.5, lw=0, label=text))
    if not handles:
        return None
    grey = "#444444"
    handles += [Line2D([], [], color=grey, lw=1.4, label="predicted from the errors"),
                Line2D([], [], color=grey, lw=1.2, ls=":", label="predicted depth")]  # fmt: skip
    ax.set_ylim(-0.05, 1.08)
    ax.set_xlabel("true magnitude [AB]")
    ax.set_ylabel(f"share of stars above {data.snr:g}σ")
    ax.legend(handles=handles, fontsize=9, loc="lower left")
    tidy(ax)
    return figure
