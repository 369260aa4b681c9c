"""The figures of a survey solution: each a function from diagnostics to a matplotlib figure.

Every figure returns None where it would be empty.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pogson.report.style import band_color, new_figure, pull_axes, pull_histogram, tidy
from pogson.survey import Detectors, Solution, Validation
from pogson.survey.diagnostics import (
    BinnedResiduals,
    HeldOutExposures,
    LooseCombination,
    NightlyValues,
    Repeatability,
    SkyMap2D,
    StructureFunction,
    SuperpixelMap,
)
from pogson.survey.star_flats import StarFlats

__all__ = [
    "plot_clouds",
    "plot_held_out",
    "plot_held_out_exposures",
    "plot_loose_combinations",
    "plot_nightly",
    "plot_reference_map",
    "plot_repeatability_by_magnitude",
    "plot_residual_trends",
    "plot_star_flats",
    "plot_structure_functions",
    "plot_superpixels",
    "plot_survey_zero_points",
]

_MMAG = 1e3
_DIVERGING = "RdBu_r"


def plot_repeatability_by_magnitude(found: Mapping[str, Repeatability]) -> Any:
    """Scatter of repeated measurements by magnitude, with the errors said; one colour a band.

    Examples
    --------
    >>> plot_repeatability_by_magnitude({}) is None
    True
    """
    shown = {b: r for b, r in found.items() if np.isfinite(r.scatter).any()}
    if not shown:
        return None
    figure, axes = new_figure(7.2, 4.4)
    ax = axes[0, 0]
    for band, r in shown.items():
        middle, color = 0.5 * (r.low + r.high), band_color(band, list(shown))
        ax.plot(middle, _MMAG * r.scatter, "o", ms=4, color=color, label=f"{band}: measured")
        ax.plot(middle, _MMAG * r.expected, "-", lw=1.3, color=color, label=f"{band}: expected")
    ax.set_yscale("log")
    ax.set_xlabel("calibrated magnitude [AB]")
    ax.set_ylabel("scatter of single measurements [mmag]")
    ax.legend(fontsize=8, ncols=2)
    tidy(ax)
    return figure


def _cells(ax: Any, detectors: Detectors, values: np.ndarray, limit: float) -> Any:
    """Draw cells of each detector at their place in the focal plane."""
    from matplotlib.collections import PolyCollection

    corners, colors = [], []
    ny, nx = values.shape[1:]
    for d, box in enumerate(detectors.boxes):
        (x0, x1), (y0, y1) = box.x_bounds, box.y_bounds
        x, y = np.linspace(x0, x1, nx + 1), np.linspace(y0, y1, ny + 1)
        for j in range(ny):
            for i in range(nx):
                px, py = x[[i, i + 1, i + 1, i]], y[[j, j, j + 1, j + 1]]
                u, v = detectors.focal_plane(np.full(4, d), x=px, y=py)
                corners.append(np.stack([u, v], axis=1))
                colors.append(values[d, j, i])
    patches = PolyCollection(corners, cmap=_DIVERGING, linewidth=0)
    patches.set_array(np.ma.masked_invalid(np.array(colors)))
    patches.set_clim(-limit, limit)
    ax.add_collection(patches)
    every = np.concatenate(corners)
    for k, set_limit in enumerate((ax.set_xlim, ax.set_ylim)):
        low, high = every[:, k].min(), every[:, k].max()
        pad = 0.03 * max(high - low, 1e-9)
        set_limit(low - pad, high + pad)
    ax.set_aspect("equal")
    ax.set_xlabel("focal plane u")
    return patches


def plot_superpixels(found: Mapping[str, SuperpixelMap], detectors: Detectors) -> Any:
    """Mean residuals over the focal plane in cells of each detector, and over their errors.

    Examples
    --------
    >>> plot_superpixels({}, Detectors([0])) is None
    True
    """
    shown = {b: m for b, m in found.items() if np.isfinite(m.mean).any()}
    if not shown:
        return None
    figure, axes = new_figure(9.6, 0.4 + 4.2 * len(shown), len(shown), 2)
    for row, (band, m) in zip(axes, shown.items(), strict=True):
        limit = max(_MMAG * float(np.nanpercentile(np.abs(m.mean), 98)), 0.1)
        parts = _cells(row[0], detectors, _MMAG * m.mean, limit)
        figure.colorbar(parts, ax=row[0], label="mean residual [mmag]", shrink=0.85)
        row[0].set_title(f"{band}: beyond the noise {_MMAG * m.excess:.2f} mmag rms", fontsize=10)
        parts = _cells(row[1], detectors, m.mean / m.error, 4.0)
        figure.colorbar(parts, ax=row[1], label="mean residual / error", shrink=0.85)
        row[1].set_title(f"{band}: mean square {m.chi2_per_cell:.2f}", fontsize=10)
        row[0].set_ylabel("focal plane v")
    return figure


def plot_residual_trends(found: Mapping[str, Sequence[BinnedResiduals]]) -> Any:
    """Mean residuals against airmass, colour, time, ...: a panel a quantity, a colour a band.

    Examples
    --------
    >>> plot_residual_trends({}) is None
    True
    """
    names = list(dict.fromkeys(b.quantity for rows in found.values() for b in rows))
    if not names:
        return None
    columns = min(2, len(names))
    rows = -(-len(names) // columns)
    figure, axes = new_figure(4.9 * columns, 0.3 + 2.9 * rows, rows, columns)
    units = {"mjd": "MJD [days]", "color": "colour [mag]", "magnitude": "magnitude [AB]",
             "radius": "radius [half widths]", "seeing": "seeing [arcsec]"}  # fmt: skip
    for ax, name in zip(axes.ravel(), names, strict=False):
        for band, binned in found.items():
            for b in binned:
                if b.quantity != name:
                    continue
                text = f"{band}: {_MMAG * b.slope:+.2f} ± {_MMAG * b.slope_error:.2f} mmag per unit"
                ax.errorbar(
                    b.center, _MMAG * b.mean, _MMAG * b.error, fmt="o", ms=3, lw=1,
                    color=band_color(band, list(found)), label=text,
                )  # fmt: skip
        ax.axhline(0.0, color="black", lw=0.8)
        ax.set_xlabel(units.get(name, name))
        ax.set_ylabel("mean residual [mmag]")
        low, high = ax.get_ylim()
        ax.set_ylim(low, high + 0.4 * (high - low))
        ax.legend(fontsize=7, loc="upper center")
        ax.ticklabel_format(axis="x", useOffset=False)
        ax.locator_params(axis="x", nbins=5)
        tidy(ax)
    for ax in axes.ravel()[len(names) :]:
        ax.set_visible(False)
    return figure


def plot_star_flats(flats: StarFlats, detectors: Detectors, *, cells: int = 4) -> Any:
    """The star flat of each filter over the focal plane, about its mean.

    Examples
    --------
    >>> plot_star_flats(StarFlats(()), Detectors([0])) is None
    True
    """
    sets = list(dict.fromkeys((f.filter, f.epoch) for f in flats.flats))
    if not sets:
        return None
    columns = min(3, len(sets))
    rows = -(-len(sets) // columns)
    figure, axes = new_figure(4.4 * columns, 0.2 + 4.0 * rows, rows, columns)
    for ax, (band, epoch) in zip(axes.ravel(), sets, strict=False):
        values = np.full((len(detectors), 2 * cells, cells), np.nan)
        found = {f.detector: f for f in flats.flats if (f.filter, f.epoch) == (band, epoch)}
        for d, number in enumerate(detectors.identifier):
            if int(number) in found:
                values[d] = _sampled(found[int(number)].magnitudes, values.shape[1:])
        values -= np.nanmean(values)
        limit = max(_MMAG * float(np.nanpercentile(np.abs(values), 99)), 0.1)
        parts = _cells(ax, detectors, _MMAG * values, limit)
        figure.colorbar(parts, ax=ax, label="star flat [mmag]", shrink=0.8)
        rms = _MMAG * float(np.nanstd(values))
        ax.set_title(f"{band}, epoch {epoch}: {rms:.1f} mmag rms", fontsize=10)
        ax.set_ylabel("focal plane v")
    for ax in axes.ravel()[len(sets) :]:
        ax.set_visible(False)
    return figure


def _sampled(field: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Means of a field over cells of its box, from 5 x 5 points each."""
    (x0, x1), (y0, y1) = field.box.x_bounds, field.box.y_bounds
    ny, nx = shape
    x = x0 + (np.arange(5 * nx) + 0.5) * (x1 - x0) / (5 * nx)
    y = y0 + (np.arange(5 * ny) + 0.5) * (y1 - y0) / (5 * ny)
    xx, yy = np.meshgrid(x, y)
    return np.asarray(field(x=xx, y=yy).reshape(ny, 5, nx, 5).mean(axis=(1, 3)))


def plot_structure_functions(found: Mapping[str, StructureFunction]) -> Any:
    """Structure function of zero-point errors on the sky, as a square root, by band.

    Examples
    --------
    >>> plot_structure_functions({}) is None
    True
    """
    shown = {k: s for k, s in found.items() if np.any(s.pairs >= 10)}
    if not shown:
        return None
    figure, axes = new_figure(6.6, 4.2)
    ax = axes[0, 0]
    for band, s in shown.items():
        on = s.pairs >= 10
        root = _MMAG * s.root[on]
        spread = np.abs(s.variance[on] + s.error[on])
        top = _MMAG * np.sqrt(spread) - np.abs(root)
        color = band_color(band.split()[0], [b.split()[0] for b in shown])
        style = {"fmt": "o-"} if " " not in band else {"fmt": "s--", "mfc": "none"}
        ax.errorbar(
            s.separation[on], root, np.abs(top), ms=4, lw=1, color=color, label=band, **style
        )
    ax.axhline(0.0, color="black", lw=0.8)
    ax.set_xlabel("separation [deg]")
    ax.set_ylabel("structure function, root, noise removed [mmag]")
    ax.legend(fontsize=8)
    tidy(ax)
    return figure


def plot_held_out(found: Validation) -> Any:
    """Prediction of stars held out: pulls, and the PIT histogram that should be flat.

    Examples
    --------
    >>> plot_held_out(Validation(np.zeros(0), np.zeros(0), 1.0)) is None
    True
    """
    if not found.z.size:
        return None
    figure, axes = new_figure(8.6, 3.5, 1, 2)
    pull_histogram(axes[0, 0], found.z, "#0072b2", "held-out stars")
    pull_axes(axes[0, 0])
    _pit(axes[0, 1], found.pit, found.p_value)
    return figure


def _pit(ax: Any, pit: np.ndarray, p_value: float) -> None:
    bins = 20
    count, edges = np.histogram(pit, bins, (0.0, 1.0))
    level = pit.size / bins
    width = np.sqrt(level * (1 - 1 / bins))
    ax.axhspan(level - width, level + width, color="#e4e7eb", label="expected, one sigma")
    ax.stairs(count, edges, color="#0072b2", lw=1.4, label=f"KS probability {p_value:.2g}")
    ax.set_xlabel("probability integral transform")
    ax.set_ylabel("stars")
    ax.set_ylim(0, 1.5 * max(float(count.max()), level + width))
    ax.legend(fontsize=8, loc="upper center")
    tidy(ax)


def plot_held_out_exposures(found: HeldOutExposures) -> Any:
    """Exposures predicted by a solution without them: chi2 per degree of freedom, and pulls.

    Examples
    --------
    >>> plot_held_out_exposures(HeldOutExposures(*[np.full(1, np.nan)] * 7, 1.0)) is None
    True
    """
    good = np.isfinite(found.chi2)
    if not good.any():
        return None
    figure, axes = new_figure(8.6, 3.6, 1, 2)
    ax = axes[0, 0]
    n = found.degrees_of_freedom[good]
    x = np.arange(good.sum())
    ax.errorbar(x, found.chi2[good] / n, np.sqrt(2.0 / n), fmt="o", ms=4, color="#0072b2")
    ax.axhline(1.0, color="black", lw=0.8)
    if x.size <= 20:
        ax.set_xticks(
            x, [str(e) for e in found.exposure[good]], rotation=30, ha="right", fontsize=8
        )
    ax.set_xlabel("exposure held out")
    ax.set_ylabel("chi2 per degree of freedom")
    tidy(ax)
    pull_histogram(axes[0, 1], found.z, "#009e73", "their detections")
    pull_axes(axes[0, 1])
    return figure


def plot_nightly(found: Sequence[NightlyValues]) -> Any:
    """Parameters of every night against time: extinction, aerosols, water, ...

    Examples
    --------
    >>> plot_nightly([]) is None
    True
    """
    if not found:
        return None
    columns = min(2, len(found))
    rows = -(-len(found) // columns)
    figure, axes = new_figure(4.8 * columns, 0.3 + 2.5 * rows, rows, columns)
    for ax, one in zip(axes.ravel(), found, strict=False):
        error = np.where(np.isfinite(one.error), one.error, 0.0)
        ax.errorbar(one.night, one.value, error, fmt="o", ms=4, lw=1, capsize=2, color="#0072b2")
        ax.set_title(f"{one.term} {one.parameter}".strip(), fontsize=10)
        ax.set_ylabel(one.unit)
        ax.set_xlabel("night")
        ax.set_xlim(one.night.min() - 0.5, one.night.max() + 0.5)
        ax.locator_params(axis="x", integer=True, nbins=8)
        ax.ticklabel_format(axis="y", useOffset=False)
        tidy(ax)
    for ax in axes.ravel()[len(found) :]:
        ax.set_visible(False)
    return figure


def plot_reference_map(found: Mapping[str, SkyMap2D], *, sigma: float = 5.0) -> Any:
    """Reference catalogue minus solution over the sky; cells that are off are framed.

    Examples
    --------
    >>> plot_reference_map({}) is None
    True
    """
    shown = {b: m for b, m in found.items() if np.isfinite(m.mean).any()}
    if not shown:
        return None
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = new_figure(4.4 * columns, 0.2 + 3.7 * rows, rows, columns)
    for ax, (band, m) in zip(axes.ravel(), shown.items(), strict=False):
        limit = max(_MMAG * float(np.nanpercentile(np.abs(m.mean), 99)), 1.0)
        parts = ax.pcolormesh(
            m.ra_edges, m.dec_edges, _MMAG * m.mean, cmap=_DIVERGING, vmin=-limit, vmax=limit
        )
        figure.colorbar(parts, ax=ax, label="reference - solution [mmag]", shrink=0.85)
        off = m.offset_cells(sigma)
        if off:
            ax.plot([c[0] for c in off], [c[1] for c in off], "ks", ms=5, mfc="none")
        ax.set_title(f"{band}: {len(off)} cells off by more than {sigma:g} sigma", fontsize=10)
        ax.invert_xaxis()
        ax.set_xlabel("right ascension [deg]")
        ax.set_ylabel("declination [deg]")
    for ax in axes.ravel()[len(shown) :]:
        ax.set_visible(False)
    return figure


def plot_survey_zero_points(solution: Solution, term: str = "exposure_zero_point") -> Any:
    """Zero point of each exposure against time, with its error; cloudy exposures hollow.

    Examples
    --------
    >>> from pogson.survey import Exposures, ExposureZeroPoint, Observations, Stars, SurveyTables
    >>> from pogson.survey import calibrate
    >>> obs = Observations.from_columns(SurveyTables(Exposures([1, 2]), Detectors([0])),
    ...     Stars([7], reference_mag=[18.0], reference_err=[0.01]), star=[0, 0], exposure=[0, 1],
    ...     detector=0, x=0, y=0, mag=[-7.0, -7.1], mag_err=0.01)
    >>> figure = plot_survey_zero_points(calibrate(obs, [ExposureZeroPoint()]))
    >>> len(figure.axes) > 0
    True
    """
    if term not in [t.name for t in solution.model.terms]:
        return None
    x = solution.model.tables.exposures
    value = solution[term]
    if value.size != len(x):
        return None
    error = solution.error(term) if solution.covariance is not None else np.zeros(value.size)
    bands = [b for b in range(x.filter_count) if np.any(x.filter == b)]
    figure, axes = new_figure(9.0, 0.5 + 2.2 * len(bands), len(bands), 1, sharex=True)
    for ax, b in zip(axes[:, 0], bands, strict=True):
        name = x.filter_name(b)
        for clear, fill in ((True, None), (False, "none")):
            on = (x.filter == b) & (x.photometric == clear) & np.isfinite(error)
            if np.any(on):
                ax.errorbar(
                    np.flatnonzero(on), value[on], error[on], fmt="o", ms=4, lw=1, mfc=fill,
                    color=band_color(name), label="photometric" if clear else "cloudy",
                )  # fmt: skip
        ax.set_ylabel(f"{name}: zero point [AB mag]")
        ax.ticklabel_format(axis="y", useOffset=False)
        ax.legend(fontsize=8, ncols=2)
        tidy(ax)
    axes[-1, 0].set_xlabel("exposure, in order of the table")
    return figure


def plot_clouds(solution: Solution, term: str = "exposure_zero_point") -> Any:
    """Extinction beyond the clearest exposure of each night and filter, and chi2 by exposure.

    Examples
    --------
    >>> from pogson.survey import Exposures, ExposureZeroPoint, Observations, Stars, SurveyTables
    >>> from pogson.survey import calibrate
    >>> obs = Observations.from_columns(SurveyTables(Exposures([1, 2]), Detectors([0])),
    ...     Stars([7], reference_mag=[18.0], reference_err=[0.01]), star=[0, 0], exposure=[0, 1],
    ...     detector=0, x=0, y=0, mag=[-7.0, -7.1], mag_err=0.01)
    >>> figure = plot_clouds(calibrate(obs, [ExposureZeroPoint()]))
    >>> len(figure.axes) > 0
    True
    """
    if term not in [t.name for t in solution.model.terms]:
        return None
    x, value = solution.model.tables.exposures, solution[term]
    if value.size != len(x):
        return None
    cloud = np.full(value.size, np.nan)
    for n in np.unique(x.night):
        for b in np.unique(x.filter):
            rows = np.flatnonzero(
                (x.night == n)
                & (x.filter == b)
                & (solution.information[solution.model.slice(term)] > 0)
            )
            if rows.size:
                cloud[rows] = value[rows].max() - value[rows]
    figure, axes = new_figure(9.0, 5.0, 2, 1, sharex=True)
    k = np.arange(value.size)
    chi2 = solution.exposure_chi2()
    for clear, fill in ((True, None), (False, "none")):
        on = x.photometric == clear
        label = "taken as photometric" if clear else "cloudy"
        style = {"ms": 4, "mfc": fill, "color": "#0072b2", "label": label}
        axes[0, 0].plot(k[on], cloud[on], "o", **style)
        axes[1, 0].plot(k[on], chi2[on], "o", **style)
    axes[0, 0].set_ylabel("below the clearest [mag]")
    axes[1, 0].set_ylabel("chi2 per detection")
    axes[1, 0].axhline(1.0, color="black", lw=0.8)
    axes[1, 0].set_xlabel("exposure, in order of the table")
    axes[0, 0].legend(fontsize=8)
    for ax in axes[:, 0]:
        tidy(ax)
    return figure


def plot_loose_combinations(found: Sequence[LooseCombination]) -> Any:
    """What is known worst: the standard errors of the loosest combinations, in words.

    Examples
    --------
    >>> plot_loose_combinations([]) is None
    True
    """
    if not found:
        return None
    figure, axes = new_figure(9.6, 0.9 + 0.85 * len(found))
    ax = axes[0, 0]
    y = np.arange(len(found))[::-1]
    ax.barh(y, [_MMAG * f.sigma for f in found], color="#56b4e9", height=0.35)
    for k, f in zip(y, found, strict=True):
        text = textwrap.wrap(f.text, 132, max_lines=2, placeholder=" ...")
        ax.text(0.0, k + 0.22, "\n".join(text), fontsize=7.5, va="bottom", ha="left")
    ax.set_ylim(-0.5, len(found) - 0.1)
    ax.set_yticks([])
    ax.set_xlabel("standard error of the combination [mmag]")
    tidy(ax)
    return figure
