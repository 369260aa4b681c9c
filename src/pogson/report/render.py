"""One self-contained HTML file from a `ReportData`: no network, no files beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pogson.report import plots
from pogson.report.audit_sections import audit_sections, audit_tile
from pogson.report.coadd_page import coadd_sections
from pogson.report.data import ExposureRecord, ReportData
from pogson.report.html_parts import (
    Cell,
    Column,
    Section,
    Table,
    figure_section,
    number_cell,
    render_page,
    text_cell,
)
from pogson.report.solve_page import solve_sections

__all__ = ["render_html", "write_report"]

# column title, key of the record's values, digits, scale
_COLUMNS: tuple[tuple[str, str, int, float], ...] = (
    ("airmass", "airmass", 2, 1),
    ("exposure [s]", "exposure_time", 1, 1),
    ("FWHM [″]", "fwhm", 2, 1),
    ("sky [mag/″²]", "sky", 2, 1),
    ("sources", "n_sources", 0, 1),
    ("matched", "n_matched", 0, 1),
    ("used", "n_used", 0, 1),
    ("zero point [mag]", "zero_point", 4, 1),
    ("± [mmag]", "zero_point_err", 2, 1e3),
    ("intrinsic scatter [mmag]", "intrinsic_scatter", 1, 1e3),
    ("colour term", "color_term", 4, 1),
    ("±", "color_term_err", 4, 1),
    ("pull rms", "pull_rms", 2, 1),
    ("5σ depth [mag]", "depth", 2, 1),
    ("− truth [mmag]", "truth_median", 2, 1e3),
    ("± [mmag]", "truth_median_err", 2, 1e3),
    ("truth pull rms", "truth_pull_rms", 2, 1),
    ("injected", "audit_n", 0, 1),
    ("50 % depth [mag]", "audit_depth_50", 2, 1),
    ("audit bias [mmag]", "audit_bias", 2, 1e3),
    ("± [mmag]", "audit_bias_err", 2, 1e3),
    ("audit pull rms", "audit_pull_rms", 2, 1),
)


def _exposure_table(exposures: Iterable[ExposureRecord]) -> Table:
    rows = list(exposures)
    known = [c for c in _COLUMNS if any(math.isfinite(e.number(c[1])) for e in rows)]
    head = [Column(n, True) for n in ("exposure", "detector", "band", "status")]
    body = []
    for e in rows:
        css = "t good" if e.status == "done" else "t bad"
        cells = [
            text_cell(e.exposure_id),
            text_cell(e.detector),
            text_cell(e.band),
            text_cell(e.status, css),
        ]
        cells += [number_cell(e.number(key), digits, scale) for _, key, digits, scale in known]
        body.append(cells)
    return Table(head + [Column(c[0]) for c in known], body)


def _rejection_section(data: ReportData) -> Section:
    section = Section("rejected", "What was rejected, and why")
    failed = [e for e in data.exposures if e.status != "done"]
    if failed:
        section.tables.append(
            Table(
                [Column("failed exposure", True), Column("reason", True)],
                [[text_cell(e.key), text_cell(e.reason, "t wrap")] for e in failed],
            )
        )
    if data.rejections:
        columns = [Column("stage", True), Column("reason", True), Column("count"),
                   Column("meaning", True)]  # fmt: skip
        rows = [
            [text_cell(r.stage), text_cell(r.reason), Cell(f"{r.count:,}", str(r.count)),
             text_cell(r.meaning, "t wrap")]
            for r in data.rejections
        ]  # fmt: skip
        section.tables.append(Table(columns, rows))
    section.caption = (
        f"{len(failed)} of {len(data.exposures)} detector images failed. "
        "Nothing is dropped silently: flagged rows stay in the catalogues with their flags."
    )
    return section


def _n_exposures(records: Iterable[ExposureRecord]) -> str:
    """Return in words how many exposures the detector images are of."""
    n = len({r.exposure_id for r in records})
    return f"{n} exposure{'' if n == 1 else 's'}"


def _tiles(data: ReportData) -> list[dict[str, str]]:
    done = data.done
    errors = np.array([e.number("zero_point_err") for e in done])
    errors = errors[np.isfinite(errors)]
    tiles = [
        {
            "value": f"{len(done)} of {len(data.exposures)}",
            "label": f"detector images calibrated, of {_n_exposures(data.exposures)}",
            "tone": "good" if len(done) == len(data.exposures) else "bad",
        }
    ]
    sources = sum(int(np.nan_to_num(e.number("n_sources"))) for e in done)
    tiles.append({"value": f"{sources:,}", "label": "source measurements", "tone": ""})
    if errors.size:
        tiles.append({"value": f"{1e3 * np.median(errors):.2f} mmag",
                      "label": "median zero-point error", "tone": ""})  # fmt: skip
    pulls = data.stars.pull[data.stars.used & np.isfinite(data.stars.pull)]
    if pulls.size:
        tiles.append({"value": f"{np.sqrt(np.mean(pulls**2)):.2f}",
                      "label": "rms of reference-star pulls", "tone": ""})  # fmt: skip
    medians = np.array([e.number("truth_median") for e in done])
    medians = medians[np.isfinite(medians)]
    if medians.size:
        worst = 1e3 * np.max(np.abs(medians))
        tiles.append({"value": f"{worst:.2f} mmag", "label": "worst median offset from truth",
                      "tone": "good" if worst < 2 else "bad"})  # fmt: skip
    return tiles + audit_tile(data)


def _truth_sections(data: ReportData) -> list[Section]:
    if data.truth is None:
        return []
    return [
        figure_section(
            "truth", "Truth beside result", lambda: plots.plot_truth(data),
            "Calibrated fluxes of simulated stars minus the fluxes put in. Black: medians. Right: "
            "differences about the median of their exposure over the errors of the single sources; "
            "the error of the zero point is common to an exposure and is judged in the next "
            "figure.",
            "No star of the truth catalogue was matched.",
        ),
        figure_section(
            "truth-exposures", "Truth by exposure", lambda: plots.plot_truth_exposures(data),
            "Median over the stars of one detector in one exposure, and its standard error.",
            "No exposure has enough stars with known truth.",
        ),
    ]  # fmt: skip


_NO_STARS = "No reference stars took part: zero points were given, not fitted."


def _plot_sections(data: ReportData) -> list[Section]:
    return [
        figure_section(
            "sky", "Exposures on the sky", lambda: plots.plot_sky(data),
            "Outline of each detector of each exposure. Dashed grey: failed.",
            "No exposure has a known position.",
        ),
        figure_section(
            "zero-points", "Zero point of each exposure", lambda: plots.plot_zero_points(data),
            "AB magnitude of a source that gives one unit of the image in the calibration's "
            "reference, averaged over the detector; bars: standard error of the fit, intrinsic "
            "scatter of the stars included.",
            "No zero points.",
        ),
        figure_section(
            "residuals", "Residuals against magnitude and colour",
            lambda: plots.plot_residuals(data),
            "Calibrated minus reference magnitude of every matched reference star. Crosses: "
            "rejected. Black: medians of the stars used, with standard errors.", _NO_STARS,
        ),
        figure_section(
            "residual-maps", "Residuals against position", lambda: plots.plot_residual_maps(data),
            "Mean residual of the stars used over the pixels of each detector; a pattern means "
            "that the flat field, the PSF or the order of the zero-point field leaves something.",
            _NO_STARS,
        ),
        figure_section(
            "airmass", "Residuals against airmass", lambda: plots.plot_residual_airmass(data),
            "Median residual of each exposure; bars: its standard error.",
            "Airmasses are not known, or no reference stars took part.",
        ),
        figure_section(
            "growth", "Aperture growth", lambda: plots.plot_growth(data),
            "Left: median curve of growth of the stars of each exposure. Right: its difference "
            "from the PSF model where there is one, else the scatter between stars.",
            "No star was bright and alone enough for a curve of growth.",
        ),
        figure_section(
            "pulls", "Pulls of the reference stars", lambda: plots.plot_pulls(data),
            "Residual over its standard error, intrinsic scatter included; honest errors follow "
            "the curve.", _NO_STARS,
        ),
        figure_section(
            "repeatability", "Repeatability", lambda: plots.plot_repeatability(data),
            "Standard deviation of each star's calibrated magnitudes over exposures; dashed: what "
            "the errors predict. The level on the bright side is the floor of the calibration.",
            "No star was seen in two or more exposures of one band.",
        ),
        figure_section(
            "areas", "Pixel area", lambda: plots.plot_maps(
                data.areas, "pixel area / reference area"),
            "Area of each pixel on the sky over the survey's reference pixel area: what turns "
            "surface brightness into fluence.", "No pixel areas: positions on the sky unknown.",
        ),
        figure_section(
            "backgrounds", "Backgrounds", lambda: plots.plot_maps(
                data.backgrounds, "background / its median"),
            "Background in surface brightness over its median, for the first exposures.",
            "No background was estimated.",
        ),
    ]  # fmt: skip


def render_html(data: ReportData, *, made: str = "") -> str:
    """Return the report as one HTML text.

    Parameters
    ----------
    data : ReportData
        What to show.
    made : str, optional
        When it was made, for the line under the title; empty by default, so that the same data
        give the same text.

    Returns
    -------
    str
        HTML with style, script and pictures inside; it opens without a network.

    Examples
    --------
    >>> html = render_html(ReportData(title="My <survey>"))
    >>> "My &lt;survey&gt;" in html, "http" in html
    (True, False)
    """
    sections = [Section("summary", "In words", words=data.headlines, facts=dict(data.facts))]
    sections += _truth_sections(data)
    sections += audit_sections(data)
    sections += [] if data.coadd is None else coadd_sections(data.coadd)
    sections += [] if data.solve is None else solve_sections(data.solve)
    plotted = _plot_sections(data)
    table = Section("exposures", "Exposures", tables=[_exposure_table(data.exposures)],
                     caption="Click a column's head to sort.")  # fmt: skip
    sections += [*plotted[:2], table, *plotted[2:], _rejection_section(data)]
    return render_page(data, sections, _tiles(data), config_text=data.config_text, made=made)


def write_report(data: ReportData, path: str | Path, *, made: str = "") -> Path:
    """Write the report to a file, by a temporary name and a rename.

    Parameters
    ----------
    data : ReportData
        What to show.
    path : str or pathlib.Path
        The HTML file.
    made : str, optional
        See `render_html`.

    Returns
    -------
    pathlib.Path
        The file.

    Examples
    --------
    >>> import tempfile
    >>> write_report(ReportData(title="x"), tempfile.mkdtemp() + "/report.html").name
    'report.html'
    """
    from pogson.atomic import atomic_write_text

    return atomic_write_text(path, render_html(data, made=made))
