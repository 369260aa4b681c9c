"""One self-contained HTML file from a `ReportData`: no network, no files beside it."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pogson._version import __version__
from pogson.report import plots
from pogson.report.data import ExposureRecord, ReportData

__all__ = ["render_html", "write_report"]

_DPI = 144  # twice the size at which the page shows a figure: sharp on dense screens


@dataclass
class _Cell:
    text: str
    sort: str
    css: str = ""


@dataclass
class _Column:
    name: str
    text: bool = False


@dataclass
class _Table:
    columns: list[_Column]
    rows: list[list[_Cell]]


@dataclass
class _Section:
    anchor: str
    title: str
    caption: str = ""
    words: Sequence[str] = ()
    image: str = ""
    width: int = 0
    tables: list[_Table] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    pre: str = ""


def _number(value: float, digits: int, scale: float = 1.0) -> _Cell:
    if not math.isfinite(value):
        return _Cell("–", "")
    shown = f"{scale * value:.{digits}f}".replace("-", "−")
    return _Cell(shown, repr(scale * value))


def _text(value: str, css: str = "t") -> _Cell:
    return _Cell(value, value, css)


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
)


def _exposure_table(exposures: Iterable[ExposureRecord]) -> _Table:
    rows = list(exposures)
    known = [c for c in _COLUMNS if any(math.isfinite(e.number(c[1])) for e in rows)]
    head = [_Column(n, True) for n in ("exposure", "detector", "band", "status")]
    body = []
    for e in rows:
        css = "t good" if e.status == "done" else "t bad"
        cells = [_text(e.exposure_id), _text(e.detector), _text(e.band), _text(e.status, css)]
        cells += [_number(e.number(key), digits, scale) for _, key, digits, scale in known]
        body.append(cells)
    return _Table(head + [_Column(c[0]) for c in known], body)


def _rejection_section(data: ReportData) -> _Section:
    section = _Section("rejected", "What was rejected, and why")
    failed = [e for e in data.exposures if e.status != "done"]
    if failed:
        section.tables.append(
            _Table(
                [_Column("failed exposure", True), _Column("reason", True)],
                [[_text(e.key), _text(e.reason, "t wrap")] for e in failed],
            )
        )
    if data.rejections:
        columns = [_Column("stage", True), _Column("reason", True), _Column("count"),
                   _Column("meaning", True)]  # fmt: skip
        rows = [
            [_text(r.stage), _text(r.reason), _Cell(f"{r.count:,}", str(r.count)),
             _text(r.meaning, "t wrap")]
            for r in data.rejections
        ]  # fmt: skip
        section.tables.append(_Table(columns, rows))
    section.caption = (
        f"{len(failed)} of {len(data.exposures)} exposures failed. "
        "Nothing is dropped silently: flagged rows stay in the catalogues with their flags."
    )
    return section


def _png(figure: Any) -> tuple[str, int]:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return base64.b64encode(buffer.getvalue()).decode("ascii"), round(figure.get_figwidth() * 92)


def _figure_section(
    anchor: str, title: str, make: Callable[[], Any], caption: str, absent: str
) -> _Section:
    figure = make()
    if figure is None:
        return _Section(anchor, title, absent)
    image, width = _png(figure)
    return _Section(anchor, title, caption, image=image, width=width)


def _tiles(data: ReportData) -> list[dict[str, str]]:
    done = data.done
    errors = np.array([e.number("zero_point_err") for e in done])
    errors = errors[np.isfinite(errors)]
    tiles = [
        {
            "value": f"{len(done)} of {len(data.exposures)}",
            "label": "exposures calibrated",
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
    return tiles


def _truth_sections(data: ReportData) -> list[_Section]:
    if data.truth is None:
        return []
    return [
        _figure_section(
            "truth", "Truth beside result", lambda: plots.plot_truth(data),
            "Calibrated fluxes of simulated stars minus the fluxes put in. Black: medians. Right: "
            "differences about the median of their exposure over the errors of the single sources; "
            "the error of the zero point is common to an exposure and is judged in the next "
            "figure.",
            "No star of the truth catalogue was matched.",
        ),
        _figure_section(
            "truth-exposures", "Truth by exposure", lambda: plots.plot_truth_exposures(data),
            "Median over the stars of one detector in one exposure, and its standard error.",
            "No exposure has enough stars with known truth.",
        ),
    ]  # fmt: skip


_NO_STARS = "No reference stars took part: zero points were given, not fitted."


def _plot_sections(data: ReportData) -> list[_Section]:
    return [
        _figure_section(
            "sky", "Exposures on the sky", lambda: plots.plot_sky(data),
            "Outline of each detector of each exposure. Dashed grey: failed.",
            "No exposure has a known position.",
        ),
        _figure_section(
            "zero-points", "Zero point of each exposure", lambda: plots.plot_zero_points(data),
            "AB magnitude of a source that gives one unit of the image in the calibration's "
            "reference, averaged over the detector; bars: standard error of the fit, intrinsic "
            "scatter of the stars included.",
            "No zero points.",
        ),
        _figure_section(
            "residuals", "Residuals against magnitude and colour",
            lambda: plots.plot_residuals(data),
            "Calibrated minus reference magnitude of every matched reference star. Crosses: "
            "rejected. Black: medians of the stars used, with standard errors.", _NO_STARS,
        ),
        _figure_section(
            "residual-maps", "Residuals against position", lambda: plots.plot_residual_maps(data),
            "Mean residual of the stars used over the pixels of each detector; a pattern means "
            "that the flat field, the PSF or the order of the zero-point field leaves something.",
            _NO_STARS,
        ),
        _figure_section(
            "airmass", "Residuals against airmass", lambda: plots.plot_residual_airmass(data),
            "Median residual of each exposure; bars: its standard error.",
            "Airmasses are not known, or no reference stars took part.",
        ),
        _figure_section(
            "growth", "Aperture growth", lambda: plots.plot_growth(data),
            "Left: median curve of growth of the stars of each exposure. Right: its difference "
            "from the PSF model where there is one, else the scatter between stars.",
            "No star was bright and alone enough for a curve of growth.",
        ),
        _figure_section(
            "pulls", "Pulls of the reference stars", lambda: plots.plot_pulls(data),
            "Residual over its standard error, intrinsic scatter included; honest errors follow "
            "the curve.", _NO_STARS,
        ),
        _figure_section(
            "repeatability", "Repeatability", lambda: plots.plot_repeatability(data),
            "Standard deviation of each star's calibrated magnitudes over exposures; dashed: what "
            "the errors predict. The level on the bright side is the floor of the calibration.",
            "No star was seen in two or more exposures of one band.",
        ),
        _figure_section(
            "areas", "Pixel area", lambda: plots.plot_maps(
                data.areas, "pixel area / reference area"),
            "Area of each pixel on the sky over the survey's reference pixel area: what turns "
            "surface brightness into fluence.", "No pixel areas: positions on the sky unknown.",
        ),
        _figure_section(
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
    from jinja2 import Environment, PackageLoader, select_autoescape

    sections = [_Section("summary", "In words", words=data.headlines, facts=dict(data.facts))]
    sections += _truth_sections(data)
    plotted = _plot_sections(data)
    table = _Section("exposures", "Exposures", tables=[_exposure_table(data.exposures)],
                     caption="Click a column's head to sort.")  # fmt: skip
    sections += [*plotted[:2], table, *plotted[2:], _rejection_section(data)]
    if data.config_text:
        sections.append(_Section("configuration", "Configuration", pre=data.config_text))
    environment = Environment(
        loader=PackageLoader("pogson.report", "."),
        autoescape=select_autoescape(default=True, default_for_string=True),
        trim_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        data=data, sections=sections, tiles=_tiles(data), version=__version__, made=made
    )


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
