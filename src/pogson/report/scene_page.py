"""The HTML page of a scene job: one self-contained file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pogson.report import scene_plots
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
from pogson.report.scene_data import SceneReportData, SceneTargetRecord

__all__ = ["render_scene_html", "write_scene_report"]

_MAX_ROWS = 2000
_FIT_NUMBERS = (
    "exposures", "dropped", "pixels", "χ²", "dof", "χ²/dof", "parameters in effect",
    "origins moved", "null rms",
)  # fmt: skip
_KINDS = {"detection": "one exposure", "light_curve": "light curve", "binary": "binary"}


def _cell(value: Any, digits: int, scale: float = 1.0) -> Cell:
    return number_cell(float("nan") if value is None else float(value), digits, scale)


def _digits(error: Any) -> int:
    """Return how many decimals make two digits of an error.

    Examples
    --------
    >>> _digits(925.0), _digits(0.034), _digits(None)
    (0, 3, 1)
    """
    if error is None or not np.isfinite(error) or error <= 0:
        return 1
    return int(np.clip(1 - np.floor(np.log10(error)), 0, 8))


def _flux_table(data: SceneReportData) -> Table:
    columns = [Column(n, True) for n in ("target", "band", "source", "exposure")]
    columns += [Column(n) for n in ("MJD", "flux [nJy]", "±", "AB mag", "± [mag]", "S/N")]
    with_truth = any(t.key in data.truth for t in data.done)
    if with_truth:
        columns += [Column("truth [nJy]"), Column("(flux − truth)/±")]
    rows = []
    for target in data.done:
        for flux in target.fluxes:
            value, error = float(flux["flux"]), flux["flux_err"]
            digits = _digits(error)
            row = [text_cell(t) for t in (target.key, target.band, flux["source"], flux["epoch"])]
            row += [_cell(flux.get("time"), 4), _cell(value, digits), _cell(error, digits)]
            row += [_cell(flux.get("magnitude"), 3), _cell(flux.get("magnitude_err"), 3)]
            row.append(_cell(value / error if error else None, 1))
            if with_truth:
                truth = data.truth.get(target.key)
                pull = None if truth is None or not error else (value - truth) / error
                row += [_cell(truth, digits), _cell(pull, 2)]
            rows.append(row)
    return Table(columns, rows[:_MAX_ROWS])


def _fit_table(data: SceneReportData) -> Table:
    names = ("target", "fit", "flags")
    columns = [Column(n, True) for n in names]
    columns += [Column(n) for n in _FIT_NUMBERS]
    rows = []
    for target in data.done:
        v = target.values
        dof, chi2 = target.number("dof"), target.number("chi2")
        flags = str(v.get("flags", "none"))
        moved = sum(1 for o in v.get("origins", {}).values() if o.get("applied"))
        rows.append([
            text_cell(target.key), text_cell(_KINDS.get(target.kind, target.kind)),
            text_cell(flags, "t wrap" if flags == "none" else "t wrap bad"),
            _cell(len(target.exposures), 0), _cell(len(v.get("dropped", {})), 0),
            _cell(sum(e["n_pixels"] for e in target.exposures), 0), _cell(chi2, 1), _cell(dof, 0),
            _cell(chi2 / dof if dof else None, 3), _cell(v.get("effective_parameters"), 0),
            _cell(moved, 0), _cell(v.get("null_rms"), 2),
        ])  # fmt: skip
    return Table(columns, rows[:_MAX_ROWS])


_PAIR_UNITS = {"separation": "separation [arcsec]", "flux_ratio": "flux ratio B/A",
               "flux_a": "flux A [nJy]", "flux_b": "flux B [nJy]",
               "flux_total": "A + B [nJy]"}  # fmt: skip


def _interval_text(interval: Mapping[str, Any] | None) -> str:
    """Return the ends of an interval, with the decimals that its width is worth.

    Examples
    --------
    >>> _interval_text({"low": 11649.7, "high": 61577.0})
    '11650 to 61577'
    >>> _interval_text({"low": 0.124, "high": 0.65})
    '0.12 to 0.65'
    """
    ends = [(interval or {}).get(k) for k in ("low", "high")]
    if ends[0] is None or ends[1] is None:
        return "–"
    digits = _digits(0.5 * (ends[1] - ends[0]))
    return f"{ends[0]:.{digits}f} to {ends[1]:.{digits}f}"


def _binary_table(data: SceneReportData) -> Section | None:
    """Return what speaks for one source and for two, and what the pair would be."""
    some = [t for t in data.done if t.values.get("binary")]
    if not some:
        return None
    known = dict.fromkeys(k for t in some for k in t.values["binary"].get("intervals") or {})
    parts = [k for k in known if k != "flux_ratio"]
    verdicts, pairs = [], []
    for t in some:
        v = t.values["binary"]
        lone = next(iter((v.get("single") or {}).get("fluxes") or [{}]))
        digits = _digits(lone.get("flux_err"))
        verdicts.append([
            text_cell(t.key), text_cell("two" if v["is_binary"] else "one"),
            _cell(v.get("delta_chi2"), 1), _cell(v.get("delta_bic"), 1),
            _cell(v.get("log_bayes_factor"), 1), _cell(lone.get("flux"), digits),
            _cell(lone.get("flux_err"), digits),
        ])  # fmt: skip
        intervals = v.get("intervals") or {}
        pairs.append([
            text_cell(t.key), _cell(v.get("separation_arcsec"), 3),
            _cell(v.get("separation_err_arcsec"), 3), _cell(v.get("flux_ratio"), 2),
            *(text_cell(_interval_text(intervals.get(k))) for k in parts),
        ])  # fmt: skip
    threshold = some[0].values["binary"].get("threshold", 16.0)
    caption = (
        "One source whose position is free against two, which have three parameters more. Above "
        f"Δχ² = {threshold:g} a source is called two; a positive ΔBIC and a positive log Bayes "
        "factor speak for two. Below, the pair as it would be: best fit, then the 68 % intervals "
        "of the posterior, which hold where the pair is not resolved and errors to first order do "
        "not."
    )
    heads = [Column("target", True), Column("sources", True)]
    heads += [Column(n) for n in ("Δχ²", "ΔBIC", "ln Bayes factor", "flux if one [nJy]", "±")]
    pair_heads = [Column("target", True)]
    pair_heads += [Column(n) for n in ("separation [arcsec]", "±", "flux ratio B/A")]
    pair_heads += [Column(f"{_PAIR_UNITS.get(k, k.replace('_', ' '))}, 68 %") for k in parts]
    tables = [Table(heads, verdicts), Table(pair_heads, pairs)]
    return Section("binaries", "One source or two", caption, tables=tables)


def _dropped_section(data: SceneReportData) -> Section:
    section = Section("left-out", "What was left out, and why")
    failed = [t for t in data.targets if t.status != "done"]
    if failed:
        section.tables.append(
            Table(
                [Column("failed target", True), Column("reason", True)],
                [[text_cell(t.key), text_cell(t.reason, "t wrap")] for t in failed],
            )
        )
    dropped = [
        [text_cell(t.key), text_cell(str(name)), text_cell(str(why), "t wrap")]
        for t in data.done
        for name, why in t.values.get("dropped", {}).items()
    ]
    if dropped:
        head = [Column("target", True), Column("exposure left out", True), Column("reason", True)]
        section.tables.append(Table(head, dropped[:_MAX_ROWS]))
    section.caption = (
        f"{len(failed)} of {len(data.targets)} targets failed; {len(dropped)} exposures of the "
        "others were left out."
    )
    return section


def _picture_sections(data: SceneReportData) -> list[Section]:
    sections = []
    titles = {t.key: t for t in data.done}
    for number, (key, panels) in enumerate(data.images.items()):
        shown = len(scene_plots.choose_rows(panels))
        more = (
            f" {len(panels) - shown} more exposures are not shown." if shown < len(panels) else ""
        )
        caption = (
            "Each row an exposure, bold where the source was fitted, its place marked (dotted "
            "where it was not there). Data, model and data − source share one asinh stretch about "
            "the sky; data − scene in nJy; residuals over each pixel's error. Grey: pixels not "
            "used." + more
        )
        sections.append(
            figure_section(
                f"target-{number}",
                _target_title(titles[key]),
                lambda panels=panels: scene_plots.plot_scene_panels(panels),  # type: ignore[misc]
                caption,
                "No picture.",
            )
        )
        if titles[key].kind == "binary":
            sections.append(
                figure_section(
                    f"positions-{number}",
                    f"{key}: the two components",
                    lambda record=titles[key]: scene_plots.plot_separation(record),  # type: ignore[misc]
                    "Offsets from the nominal position, with 1-sigma ellipses.",
                    "The positions were not fitted.",
                )
            )
    return sections


def _target_title(record: SceneTargetRecord) -> str:
    fluxes = record.fluxes
    if len(fluxes) > 2:
        return f"{record.key}: {len(fluxes)} fluxes"
    said = []
    for flux in fluxes:
        digits, error = _digits(flux["flux_err"]), flux["flux_err"] or float("nan")
        said.append(f"{flux['flux']:.{digits}f} ± {error:.{digits}f}")
    doubt = (record.values.get("binary") or {}).get("is_binary") is False
    tail = " if two; one source suffices" if doubt else ""
    return f"{record.key}: {' and '.join(said)} nJy{tail}"


def _tiles(data: SceneReportData) -> list[Mapping[str, str]]:
    done = data.done
    tiles: list[Mapping[str, str]] = [
        {
            "value": f"{len(done)} of {len(data.targets)}",
            "label": "targets measured",
            "tone": "good" if len(done) == len(data.targets) else "bad",
        },
        {"value": f"{sum(len(t.fluxes) for t in done):,}", "label": "fluxes", "tone": ""},
    ]
    dof = sum(t.number("dof") for t in done)
    if done and dof > 0:
        ratio = sum(t.number("chi2") for t in done) / dof
        tiles.append({"value": f"{ratio:.3f}", "label": "χ² per degree of freedom", "tone": ""})
    pulls = np.array([p for t in done for p in t.values.get("null_pulls", ())], float)
    if pulls.size:
        rms = float(np.sqrt(np.mean(pulls**2)))
        tone = "good" if 0.9 <= rms <= 1.1 else "bad"
        tiles.append({"value": f"{rms:.2f}", "label": "rms of null pulls", "tone": tone})
    truth = [
        (float(f["flux"]) - data.truth[t.key]) / float(f["flux_err"])
        for t in done if t.key in data.truth for f in t.fluxes if f["flux_err"]
    ]  # fmt: skip
    if truth:
        rms = float(np.sqrt(np.mean(np.square(truth))))
        tiles.append({"value": f"{rms:.2f}", "label": "rms pull against truth", "tone": ""})
    return tiles


def render_scene_html(data: SceneReportData, *, made: str = "") -> str:
    """Return the page as one HTML text.

    Parameters
    ----------
    data : SceneReportData
        What to show.
    made : str, optional
        When it was made; empty by default, so that the same data give the same text.

    Returns
    -------
    str
        HTML with style, script and pictures inside; it opens without a network.

    Examples
    --------
    >>> html = render_scene_html(SceneReportData(title="My <targets>"))
    >>> "My &lt;targets&gt;" in html, "http" in html
    (True, False)
    """
    sections = [
        Section("summary", "In words", words=data.headlines, facts=dict(data.facts)),
        Section("fluxes", "Fluxes", tables=[_flux_table(data)], caption=_FLUX_CAPTION),
        figure_section(
            "light-curves", "Light curves", lambda: scene_plots.plot_light_curves(data.done),
            "Flux of every epoch above the scene that all exposures share. The errors of epochs "
            "are correlated through that scene; scene.json has the covariance.",
            "No target has more than one epoch.",
        ),
    ]  # fmt: skip
    sections += _picture_sections(data)
    binaries = _binary_table(data)
    sections += [] if binaries is None else [binaries]
    sections += [
        Section("fits", "Fits", "Click a column's head to sort.", tables=[_fit_table(data)]),
        figure_section(
            "nulls", "Null tests", lambda: scene_plots.plot_null_pulls(data.done),
            "Fluxes of sources forced where there is none, over their errors; honest errors follow "
            "the curve. Neighbouring positions are correlated.",
            "No null tests were made; set [nulls] enabled = true.",
        ),
        _dropped_section(data),
    ]  # fmt: skip
    return render_page(data, sections, _tiles(data), config_text=data.config_text, made=made)


_FLUX_CAPTION = (
    "Total flux of each source in the normalisation of its PSF model. Errors hold the noise of the "
    "pixels, the scene and the sky, and the position where it was fitted; errors that all "
    "fluxes share (zero point, PSF normalisation) are kept apart in scene.json."
)


def write_scene_report(data: SceneReportData, path: str | Path, *, made: str = "") -> Path:
    """Write the page to a file, by a temporary name and a rename.

    Parameters
    ----------
    data : SceneReportData
        What to show.
    path : str or pathlib.Path
        The HTML file.
    made : str, optional
        See `render_scene_html`.

    Returns
    -------
    pathlib.Path
        The file.

    Examples
    --------
    >>> import tempfile
    >>> write_scene_report(SceneReportData(title="x"), tempfile.mkdtemp() + "/scene.html").name
    'scene.html'
    """
    from pogson.atomic import atomic_write_text

    return atomic_write_text(path, render_scene_html(data, made=made))
