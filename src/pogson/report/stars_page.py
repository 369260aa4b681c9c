"""The HTML page of a fit of stars, or of the offsets of bands: one self-contained file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pogson.report import stars_plots as plots
from pogson.report import stars_single_plots as single_plots
from pogson.report.html_parts import (
    Column,
    Section,
    Table,
    figure_section,
    number_cell,
    render_page,
    text_cell,
)
from pogson.report.stars_data import OffsetsRecord, StarsReportData

__all__ = ["render_stars_html", "write_stars_report"]

_MAX_ROWS = 1000
_GAUGES = {
    "parallax": "Absolute: the grey term is held by the parallaxes and the priors of the fit.",
    "mean": "Relative to the mean of all bands: the grey term, which looks like a change of all "
    "distances, is left out.",
}


def _offsets_tables(record: OffsetsRecord) -> list[Table]:
    columns = [Column("filter", True), Column("offset (flux factor)"), Column("±"),
               Column("to add [mag]"), Column("± [mag]"), Column("scatter [%]"), Column("± [%]"),
               Column("stars"), Column("left out")]  # fmt: skip
    if record.truth is not None:
        columns += [Column("expected"), Column("pull")]
    rows = []
    for k, band in enumerate(record.bands):
        offset, error = float(record.offsets[k]), float(record.errors[k])
        row = [
            text_cell(band), number_cell(offset, 5), number_cell(error, 5),
            number_cell(-2.5 * np.log10(offset), 4),
            number_cell(2.5 / np.log(10) * error / offset, 4),
            number_cell(float(record.scatter[k]), 2, 100.0),
            number_cell(float(record.scatter_error[k]), 2, 100.0),
            number_cell(float(record.n_used[k]), 0), number_cell(float(record.n_outliers[k]), 0),
        ]  # fmt: skip
        if record.truth is not None:
            pull = (offset - record.truth[k]) / error if error > 1e-9 else np.nan
            row += [number_cell(float(record.truth[k]), 5), number_cell(float(pull), 2)]
        rows.append(row)
    return [Table(columns, rows)]


def _trend_table(record: OffsetsRecord) -> Section | None:
    if not record.trends:
        return None
    columns = [Column("filter", True)]
    for name in record.trends:
        columns += [Column(f"slope with {name} [%]"), Column("± [%]"), Column("σ")]
    rows = []
    for k, band in enumerate(record.bands):
        row = [text_cell(band)]
        for slope, error in record.trends.values():
            s, e = float(slope[k]), float(error[k])
            row += [number_cell(s, 3, 100.0), number_cell(e, 3, 100.0)]
            row.append(number_cell(s / e if e > 0 else np.nan, 1))
        rows.append(row)
    return Section(
        "trends", "Trends of the offsets",
        "How ln offset would change with each quantity, per unit of it, were it free to: reported, "
        "not corrected. Beyond 3 or 4 σ let the offsets vary (design= of calibrate_bands), or look "
        "for the cause: saturation, blends, a fault of the models at some colour.",
        tables=[Table(columns, rows)],
    )  # fmt: skip


def _offsets_sections(data: StarsReportData) -> list[Section]:
    record = data.offsets
    if record is None:
        return []
    gauge = _GAUGES.get(record.gauge, f"Relative to {record.gauge}, whose offset is 1 by choice.")
    first = figure_section(
        "offsets", "Offsets", lambda: plots.plot_offsets(record),
        f"Corrected flux = flux × offset. {gauge} Errors hold what the stars' models can absorb; "
        "bands share some of them, see the correlation.",
        "There are no bands.",
    )  # fmt: skip
    first.tables += _offsets_tables(record)
    out = [
        first,
        figure_section(
            "correlation", "Correlation", lambda: plots.plot_correlation(record),
            "Of the errors of ln offset between bands (blank: a reference band); offsets.ecsv has "
            "the covariance.",
            "There is no covariance.",
        ),
    ]  # fmt: skip
    trends = _trend_table(record)
    out += [] if trends is None else [trends]
    out.append(
        figure_section(
            "history", "Convergence", lambda: plots.plot_history(record),
            "Offsets after each refit of all stars; the last, at the solution, are averaged.",
            "There was one round.",
        )
    )  # fmt: skip
    return out


def _residual_sections(data: StarsReportData) -> list[Section]:
    if not len(data.residuals):
        return []
    bands, m, r = data.bands, data.magnitudes, data.residuals
    with np.errstate(invalid="ignore"):
        blue, red = 0, min(2, len(bands) - 1)
        colour = m[:, blue] - m[:, red]
    rows = data.residual_rows
    lon, lat = data.longitude[rows], data.latitude[rows]
    out = [
        figure_section(
            "by-magnitude", "Residuals by magnitude",
            lambda: plots.plot_residuals(m, r, bands, "{band} [mag]"),
            "Photometry, offsets applied, less the posterior mean of each star's model; points of "
            "medians with errors in bins of equal counts. Positive: fainter than the model.",
            "No residuals.",
        )
    ]  # fmt: skip
    if red > blue:
        label = f"{bands[blue]} − {bands[red]} [mag]"
        out.append(
            figure_section(
                "by-colour", "Residuals by colour",
                lambda: plots.plot_residuals(colour, r, bands, label),
                "A trend that all bands share in size and differ in sign is a fault of models or "
                "colour terms; one in a single band is that band's.",
                "No star has both bands.",
            )
        )  # fmt: skip
    out.append(
        figure_section(
            "residual-maps", "Residuals on the sky",
            lambda: plots.plot_residuals_on_sky(lon, lat, r, bands),
            "Medians in cells with three stars or more; grey: fewer.",
            "The stars have no positions, or are too few for maps.",
        )
    )  # fmt: skip
    return out


def _sky_section(data: StarsReportData) -> Section:
    with np.errstate(invalid="ignore", divide="ignore"):
        mu = 5 * np.log10(data.column("distance_kpc")) + 10
        chi2 = np.log10(data.column("best_chi2") / np.maximum(data.column("n_data"), 1))
    panels = [
        ("distance modulus [mag]", mu, False), ("$A_V$ [mag]", data.column("av"), False),
        ("log10(best χ² / data)", chi2, False),
    ]  # fmt: skip
    return figure_section(
        "sky", "On the sky",
        lambda: plots.plot_sky(data.longitude, data.latitude, panels) if data.n_stars else None,
        "Posterior medians of every star.", "The stars have no positions.",
    )  # fmt: skip


def _dust_section(data: StarsReportData) -> Section:
    section = figure_section(
        "distance-reddening", "Distance and reddening",
        lambda: plots.plot_distance_reddening(*data.draws, data.cluster),
        "Posterior draws of the stars in cells; extinction that grows at some distance is a cloud "
        "there.",
        "Too few stars have a fit.",
    )  # fmt: skip
    c = data.cluster
    if c is not None:
        section.facts = {
            "cluster": f"{1e3 * c.distance_kpc:.1f} ± {1e3 * c.distance_err_kpc:.1f} pc "
            f"(distance modulus {c.distance_modulus:.3f}), A_V {c.av:.3f} ± "
            f"{np.sqrt(c.covariance[1, 1]):.3f} mag",
            "scatter of members": f"{c.modulus_scatter:.3f} mag in modulus, {c.av_scatter:.3f} mag "
            "in A_V, beyond the stars' own errors",
            "members": f"{100 * c.member_fraction:.0f} % of {c.n_used} stars",
            "not in the errors": "what all stars share: parallax zero point, models, zero points",
        }
    return section


def _star_sections(data: StarsReportData) -> list[Section]:
    out = []
    for k, star in enumerate(data.stars):
        out.append(
            figure_section(
                f"sed-{k}", f"Star {star.name}: photometry",
                lambda star=star: single_plots.plot_sed(star),  # type: ignore[misc]
                "Points: magnitudes, offsets applied; bands: 68 % and 95 % of the posterior.",
                "It has no photometry.",
            )
        )  # fmt: skip
        out.append(
            figure_section(
                f"corner-{k}", f"Star {star.name}: posterior",
                lambda star=star: single_plots.plot_corner(star),  # type: ignore[misc]
                "Draws; contours hold 68 % and 95 %; above the diagonal median and half the 68 % "
                "interval.",
                "It has no fit.",
            )
        )  # fmt: skip
    return out


def _flag_section(data: StarsReportData) -> Section:
    section = Section("flags", "Flags, and what was missing")
    section.tables.append(
        Table(
            [Column("flag", True), Column("stars"), Column("meaning", True)],
            [
                [text_cell(n), number_cell(float(k), 0), text_cell(w, "t wrap")]
                for n, k, w in data.flags
            ],
        )
    )
    codes = dict.fromkeys(c for counts in data.missing.values() for c in counts)
    if codes:
        section.tables.append(
            Table(
                [Column("band", True)] + [Column(f"missing: {c}") for c in codes],
                [
                    [text_cell(b)] + [number_cell(float(n.get(c, 0)), 0) for c in codes]
                    for b, n in data.missing.items()
                ],
            )
        )
    section.words = data.notes
    section.caption = "No star is dropped: those that cannot be fitted keep their row, and a flag."
    return section


def _star_table(data: StarsReportData) -> Section:
    heads = [("distance_kpc", "d [kpc]", 3), ("distance_kpc_16", "16 %", 3),
             ("distance_kpc_84", "84 %", 3), ("av", "A_V", 3), ("av_16", "16 %", 3),
             ("av_84", "84 %", 3), ("rv", "R_V", 2), ("best_chi2", "best χ²", 1),
             ("n_data", "data", 0), ("ess", "ESS", 0), ("flags", "flags", 0)]  # fmt: skip
    heads = [h for h in heads if h[0] in data.summary]
    rows = [
        [text_cell(str(data.summary["id"][k]))]
        + [number_cell(float(data.summary[name][k]), digits) for name, _, digits in heads]
        for k in range(min(data.n_stars, _MAX_ROWS))
    ]
    more = f" The first {_MAX_ROWS} of {data.n_stars}." if data.n_stars > _MAX_ROWS else ""
    return Section(
        "stars", "Stars", f"Medians and 68 % limits. Click a column's head to sort.{more}",
        tables=[Table([Column("star", True)] + [Column(h[1]) for h in heads], rows)],
    )  # fmt: skip


def _tiles(data: StarsReportData) -> list[Mapping[str, str]]:
    distance, ess = data.column("distance_kpc"), data.column("ess")
    fitted = np.isfinite(distance.astype(float)) if distance.size else np.zeros(0, bool)
    tiles: list[Mapping[str, str]] = [
        {"value": f"{int(fitted.sum()):,} of {data.n_stars:,}", "label": "stars fitted",
         "tone": "good" if fitted.all() else ""},
        {"value": str(len(data.bands)), "label": "bands", "tone": ""},
    ]  # fmt: skip
    if fitted.any():
        tiles.append({"value": f"{np.median(ess[fitted]):.0f}",
                      "label": "median effective sample size", "tone": ""})  # fmt: skip
    if data.offsets is not None:
        free = data.offsets.errors > 1e-9
        if free.any():
            worst = 100 * float(np.median(data.offsets.errors[free]))
            tiles.append({"value": f"{worst:.2f} %", "label": "median error of an offset",
                          "tone": ""})  # fmt: skip
    if data.cluster is not None:
        tiles.append({"value": f"{1e3 * data.cluster.distance_kpc:.0f} pc",
                      "label": "distance of the cluster", "tone": ""})  # fmt: skip
    return tiles


def render_stars_html(data: StarsReportData, *, made: str = "") -> str:
    """Return the page as one HTML text.

    Parameters
    ----------
    data : StarsReportData
        What to show.
    made : str, optional
        When it was made; empty by default, so that the same data give the same text.

    Returns
    -------
    str
        HTML with style, script and pictures inside; it opens without a network.

    Examples
    --------
    >>> html = render_stars_html(StarsReportData(title="My <stars>"))
    >>> "My &lt;stars&gt;" in html, "http" in html
    (True, False)
    """
    sections = [Section("summary", "In words", words=data.headlines, facts=dict(data.facts))]
    sections += _offsets_sections(data)
    sections.append(_dust_section(data))
    sections += _residual_sections(data)
    sections.append(_sky_section(data))
    sections += _star_sections(data)
    sections += [_flag_section(data), _star_table(data)]
    return render_page(data, sections, _tiles(data), config_text=data.config_text, made=made)


def write_stars_report(data: StarsReportData, path: str | Path, *, made: str = "") -> Path:
    """Write the page to a file, by a temporary name and a rename.

    Parameters
    ----------
    data : StarsReportData
        What to show.
    path : str or pathlib.Path
        The HTML file.
    made : str, optional
        See `render_stars_html`.

    Returns
    -------
    pathlib.Path
        The file.

    Examples
    --------
    >>> import tempfile
    >>> write_stars_report(StarsReportData(title="x"), tempfile.mkdtemp() + "/stars.html").name
    'stars.html'
    """
    from pogson.atomic import atomic_write_text

    return atomic_write_text(path, render_stars_html(data, made=made))
