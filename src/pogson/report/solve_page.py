"""The sections of a global solution, in the report of a run or on a page of their own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pogson.report import solve_plots as plots
from pogson.report import survey_plots
from pogson.report.html_parts import (
    Column,
    Section,
    Table,
    figure_section,
    number_cell,
    render_page,
    text_cell,
)
from pogson.report.solve_data import SolveReport

__all__ = ["render_solve_html", "solve_sections", "write_solve_report"]

Made = tuple[tuple[str, str, Callable[[SolveReport], Any], str, bool], ...]

_EXPOSURES = (
    ("airmass", "airmass", 2, 1.0),
    ("zero point [mag]", "zero_point", 4, 1.0),
    ("± [mmag]", "zero_point_err", 2, 1e3),
    ("mean squared pull", "chi2", 2, 1.0),
    ("stars that tie it", "tied_stars", 0, 1.0),
)


def _of(draw: Callable[..., Any], part: str) -> Callable[[SolveReport], Any]:
    """Return the drawing of a part of the diagnostics, which may be missing."""

    def made(data: SolveReport) -> Any:
        found = None if data.diagnostics is None else getattr(data.diagnostics, part)
        return draw(found) if found else None

    return made


def _maps(data: SolveReport) -> Any:
    d = data.diagnostics
    return None if d is None else survey_plots.plot_superpixels(d.superpixels, d.detectors)


def _flats(data: SolveReport) -> Any:
    if data.diagnostics is None or data.flats is None:
        return None
    return survey_plots.plot_star_flats(data.flats, data.diagnostics.detectors)


_OF_THE_FILES: Made = (
    ("solve-exposures", "Zero points of the solution", plots.plot_solve_exposures,
     "Zero point of each exposure about the median of its band, with the error from the kept "
     "covariance (references included), and the mean squared pull of its detections about their "
     "stars (1 if errors are right).", True),
    ("solve-clouds", "Clouds", plots.plot_solve_clouds,
     "Light lost beyond the clearest exposure of the same night and band (extinction by airmass "
     "included), or the clouds that were fitted.", False),
    ("solve-pulls", "Pulls inside the solution", plots.plot_solve_pulls,
     "Residual of each detection about its star over its error, with the star's own share taken "
     "out; honest errors follow the curve.", True),
    ("solve-references", "The reference catalogue against the solution",
     plots.plot_solve_references,
     "Median, in cells, of reference magnitude minus the mean of the star's own detections, "
     "rejected references included: a region of one colour is an offset of the catalogue.", True),
    ("solve-pit", "Held-out stars", plots.plot_solve_pit,
     "One detection of each star that took no part, predicted from the others; flat if all errors "
     "are right.", False),
)  # fmt: skip

_OF_THE_DIAGNOSTICS: Made = (
    ("solve-held-out", "Held-out exposures",
     _of(survey_plots.plot_held_out_exposures, "held_out"),
     "Some exposures of each band, predicted by a solution that had not seen them but for one zero "
     "point each: 1 and the curve if stars, flats and errors are right.", False),
    ("solve-repeatability", "Repeatability inside the solution",
     _of(survey_plots.plot_repeatability_by_magnitude, "repeatability"),
     "Scatter of single detections about their star by magnitude, with the star's own fit allowed "
     "for; lines: noise and fitted floor in quadrature.", True),
    ("solve-focal-plane", "Residuals over the focal plane", _maps,
     "Mean residual in cells of each detector, and over its error. A pattern means that a term is "
     "missing: a star flat, a higher order, another detector.", True),
    ("solve-trends", "Residuals against airmass, colour, time and others",
     _of(survey_plots.plot_residual_trends, "trends"),
     "Weighted means in bins of equal numbers. A slope with airmass or colour asks for extinction "
     "or colour terms.", True),
    ("solve-structure", "Errors that are correlated on the sky",
     _of(survey_plots.plot_structure_functions, "structure"),
     "Structure function of the mean residual of each detector of each exposure with its noise "
     "taken out: what zero points still lack, by distance. Zero if nothing is left but noise, and "
     "a little below where a zero point was fitted to these very detections.", False),
    ("solve-nightly", "Nights", _of(survey_plots.plot_nightly, "nightly"),
     "Parameters of every night, and the extinction that the zero points of photometric exposures "
     "imply.", False),
    ("solve-flats", "Star flats", _flats,
     "What is added to magnitudes over the focal plane, apart from pixel areas and zero points of "
     "exposures.", False),
    ("solve-loose", "What is known worst",
     _of(survey_plots.plot_loose_combinations, "loose"),
     "The combinations of parameters with the largest errors; combinations that the data cannot "
     "tell at all are refused or listed as gauges above.", False),
)  # fmt: skip


def solve_sections(data: SolveReport) -> list[Section]:
    """Return the sections of a global solution.

    Parameters
    ----------
    data : SolveReport
        What to show.

    Examples
    --------
    >>> [s.anchor for s in solve_sections(SolveReport("x"))][0]
    'solve'
    """
    out = [Section("solve", "The global solution", facts=_facts(data.facts))]
    for anchor, title, plot, caption, always in (*_OF_THE_FILES, *_OF_THE_DIAGNOSTICS):
        section = figure_section(anchor, title, partial(plot, data), caption, "Nothing to show.")
        if always or section.image:
            out.append(section)
    return out + _tables(data)


def _facts(facts: Any) -> dict[str, str]:
    if not facts:
        return {}

    def listed(name: str) -> str:
        return "; ".join(f"{k}: {v}" for k, v in (facts.get(name) or {}).items())

    floors = ", ".join(f"{1e3 * f:.2f}" for f in facts.get("floors") or ())
    out = {
        "model": "; ".join(facts.get("terms") or ()),
        "data": f"{facts.get('detections')} detections of {facts.get('stars')} stars, "
        f"{facts.get('references')} references",
        "goodness": f"chi² {facts.get('chi2', 0.0):.1f} with {facts.get('degrees_of_freedom')} "
        f"degrees of freedom, {facts.get('passes')} passes"
        + ("" if facts.get("converged", True) else ", NOT settled"),
        "scatter beyond the noise": f"{floors} mmag; of the references "
        f"{1e3 * (facts.get('reference_floor') or 0.0):.2f} mmag",
        "sources not used": listed("left_out"),
        "detections flagged": listed("flags"),
        "gauges": "; ".join(facts.get("gauges") or ()),
        "notes": " ".join(facts.get("notes") or ()),
    }
    return {k: v for k, v in out.items() if v}


def _tables(data: SolveReport) -> list[Section]:
    out = []
    e = data.exposures
    if e:
        columns = [Column("exposure", True), Column("band", True)]
        columns += [Column(c[0]) for c in _EXPOSURES] + [Column("problem", True)]
        rows = [
            [text_cell(str(e["exposure"][i])), text_cell(str(e["band"][i])),
             *(number_cell(float(e[k][i]), digits, scale) for _, k, digits, scale in _EXPOSURES),
             text_cell(str(e["problem"][i]), "t wrap")]
            for i in range(len(e["exposure"]))
        ]  # fmt: skip
        section = Section("solve-table", "Exposures of the solution")
        section.tables.append(Table(columns, rows))
        out.append(section)
    suspects = data.facts.get("suspects") or []
    if suspects:
        section = Section(
            "solve-suspects", "Stars that look variable or mismatched",
            caption=f"The first {min(len(suspects), 50)} of {data.facts.get('n_suspects')}: chi² "
            "improbably large, several detections rejected, or the reference rejected.",
        )  # fmt: skip
        columns = [Column(n, True) for n in ("band", "reference rejected")]
        columns += [Column(n) for n in ("ra", "dec", "magnitude", "detections", "chi²")]
        section.tables.append(Table(columns, [
            [text_cell(s["band"]), text_cell("yes" if s["reference_rejected"] else ""),
             number_cell(s["ra"], 5), number_cell(s["dec"], 5), number_cell(_value(s["mag"]), 3),
             number_cell(s["detections"], 0), number_cell(_value(s["chi2"]), 1)]
            for s in suspects[:50]
        ]))  # fmt: skip
        out.append(section)
    return out


def _value(value: Any) -> float:
    return float("nan") if value is None else float(value)


def render_solve_html(data: SolveReport, *, config_text: str = "") -> str:
    """Return the report of a global solution as one HTML text.

    Parameters
    ----------
    data : SolveReport
        What to show.
    config_text : str, optional
        The configuration.

    Examples
    --------
    >>> "The global solution" in render_solve_html(SolveReport("my survey"))
    True
    """
    sections = [Section("summary", "In words", words=data.words), *solve_sections(data)]
    return render_page(data, sections, _tiles(data), config_text=config_text)


def _tiles(data: SolveReport) -> list[dict[str, str]]:
    import numpy as np

    e, facts = data.exposures, data.facts
    if not e:
        return []
    good = np.isfinite(e["zero_point"])
    error = e["zero_point_err"][np.isfinite(e["zero_point_err"])]
    out = [
        {"value": f"{int(good.sum())} of {good.size}", "label": "exposures calibrated",
         "tone": "good" if good.all() else "bad"},
        {"value": f"{facts['stars']:,}", "label": "stars", "tone": ""},
        {"value": f"{facts['parameters']:,}", "label": "parameters", "tone": ""},
    ]  # fmt: skip
    if error.size:
        out.append({"value": f"{1e3 * float(np.median(error)):.2f} mmag",
                    "label": "median zero-point error", "tone": ""})  # fmt: skip
    return out


def write_solve_report(data: SolveReport, path: str | Path, *, config_text: str = "") -> Path:
    """Write the report of a global solution to a file.

    Parameters
    ----------
    data : SolveReport
        What to show.
    path : path-like
        HTML file.
    config_text : str, optional
        The configuration.

    Examples
    --------
    >>> import tempfile
    >>> write_solve_report(SolveReport("x"), tempfile.mkdtemp() + "/r.html").name
    'r.html'
    """
    from pogson.atomic import atomic_write_text

    return atomic_write_text(path, render_solve_html(data, config_text=config_text))
