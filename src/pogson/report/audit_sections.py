"""The audit's part of the report: verdict, numbers, figures, what they mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from pogson.report import audit_plots
from pogson.report.data import ReportData
from pogson.report.html_parts import (
    Cell,
    Column,
    Section,
    Table,
    figure_section,
    number_cell,
    text_cell,
)

__all__ = ["audit_sections", "audit_tile"]

# name of a limit -> what it limits, and how its values are shown
_LIMITS: dict[str, tuple[str, str]] = {
    "max_bias_mmag": ("absolute median difference of isolated bright sources [mmag]", ".2f"),
    "max_pull_mean": ("absolute mean pull", ".3f"),
    "min_pull_rms": ("rms of the pulls", ".3f"),
    "max_pull_rms": ("rms of the pulls", ".3f"),
    "min_depth_50": ("magnitude to which half of the sources are found", ".2f"),
    "min_depth_90": ("magnitude to which nine tenths of the sources are found", ".2f"),
    "min_bright_completeness": ("fraction of the brightest quarter found", ".3f"),
    "min_purity": ("fraction of detections that are real or injected", ".3f"),
    "max_background_residual": ("absolute median flux before the injection, in its errors", ".3f"),
    "max_star_contamination": ("fraction of galaxies called stars", ".3f"),
    "audited": ("exposures audited", ".0f"),
}  # fmt: skip

# column title, group of the numbers, path, digits
_NUMBERS: tuple[tuple[str, tuple[str, ...], int], ...] = (
    ("compared", ("counts", "used"), 0),
    ("ambiguous", ("counts", "ambiguous"), 0),
    ("found", ("counts", "detected"), 0),
    ("50 % depth", ("completeness", "depth_50"), 2),
    ("90 % depth", ("completeness", "depth_90"), 2),
    ("purity", ("purity", "purity"), 3),
)
_FLUXES: tuple[tuple[str, tuple[str, ...], int], ...] = (
    ("bright", ("bias", "overall", "n"), 0),
    ("bias [mmag]", ("bias", "overall", "median_mmag"), 2),
    ("±", ("bias", "overall", "median_err_mmag"), 2),
    ("pulls", ("pulls", "n"), 0),
    ("mean", ("pulls", "mean"), 3),
    ("±", ("pulls", "mean_err"), 3),
    ("rms", ("pulls", "rms"), 3),
    ("±", ("pulls", "rms_err"), 3),
    ("before [errors]", ("background", "median_in_errors"), 3),
)


def audit_tile(data: ReportData) -> list[dict[str, str]]:
    """Return the verdict as a tile for the head of the report."""
    if data.audit is None or not data.audit.checks:
        return []
    broken = sum(not c["passed"] for c in data.audit.checks)
    n = len(data.audit.checks)
    return [{"value": f"{n - broken} of {n}", "label": "audit limits kept",
             "tone": "bad" if broken else "good"}]  # fmt: skip


def _verdict(checks: tuple[Mapping[str, Any], ...]) -> Table:
    columns = [Column(n, True) for n in ("band", "of", "limit", "what")]
    columns += [Column("value"), Column("±"), Column("limit"), Column("verdict", True)]
    rows = []
    for c in checks:
        what, form = _LIMITS.get(c["name"], (c["name"], ".4g"))
        cells = [text_cell(c["band"] or "all"), text_cell(c["of"]), text_cell(c["name"])]
        cells.append(text_cell(what, "t wrap"))
        cells += [_shown(c[key], form) for key in ("value", "error", "limit")]
        passed = bool(c["passed"])
        said = "kept" if passed else f"broken: {c['reason']}"
        cells.append(text_cell(said, "t good" if passed else "t bad wrap"))
        rows.append(cells)
    return Table(columns, rows)


def _shown(value: Any, form: str) -> Cell:
    if value is None or not math.isfinite(float(value)):
        return Cell("–", "")
    return Cell(format(float(value), form).replace("-", "−"), repr(float(value)))


def _numbers(data: ReportData, chosen: tuple[tuple[str, tuple[str, ...], int], ...]) -> Table:
    assert data.audit is not None
    rows = []
    for band in data.audit.bands:
        for group, label in (("exposures", "single exposures"), ("stack", "means over visits")):
            if group == "stack" and not band.stack:
                continue
            cells = [text_cell(band.band), text_cell(label)]
            cells += [number_cell(band.number(group, *path), digits) for _, path, digits in chosen]
            rows.append(cells)
    head = [Column("band", True), Column("of", True)]
    return Table(head + [Column(name) for name, _, _ in chosen], rows)


def audit_sections(data: ReportData) -> list[Section]:
    """Return the sections of the audit; none without an audit."""
    if data.audit is None:
        return []
    first = Section(
        "audit", "Audit: sources put in and found again",
        "Synthetic stars were put into the exposures before their background was estimated, and "
        "found and measured by the run's own code. What lies between pixels and catalogue is "
        "tested; the zero point itself cancels. Bias and pulls are of isolated sources, measured "
        "at the injected positions, whether they were found or not. \"before\": the flux measured "
        "there before the injection, which is background residual and unknown neighbours.",
        tables=[_numbers(data, _NUMBERS), _numbers(data, _FLUXES)], facts=dict(data.audit.facts),
    )  # fmt: skip
    if data.audit.checks:
        first.tables.insert(0, _verdict(data.audit.checks))
    else:
        first.words = ["No limits are set; [audit.limits] of the configuration sets them."]
    figures: tuple[tuple[str, str, Callable[[ReportData], Any], str, str], ...] = (
        ("completeness", "Completeness", audit_plots.plot_completeness,
         "Fraction of the injected sources that were found; bars: 68 % binomial (Wilson) "
         "intervals, as if all were independent; but the same sources are in every visit, and what "
         "lies beside a star does in all of them. The curve is fitted to the single sources, not "
         "to the bins.",
         "No source was injected."),
        ("audit-bias", "Bias against magnitude", audit_plots.plot_audit_bias,
         "Recovered less injected magnitude of isolated sources, to first order in the flux; "
         "medians with standard errors. Points beyond the frame are drawn at its edge. Diamonds: "
         "the fluxes of the catalogue, of the sources that were found.",
         "No isolated source was measured."),
        ("audit-maps", "Bias against position", audit_plots.plot_audit_maps,
         "Weighted mean of recovered less injected of the bright isolated sources.",
         "No bright isolated source was measured."),
        ("audit-crowding", "Bias against crowding", audit_plots.plot_audit_crowding,
         "Median over all bright sources, isolated or not; those on a real source as bright are "
         "set aside as ambiguous. Left of a band's dashed line none counts as isolated, right of "
         "it those whose aperture holds little light of others.", "Too few bright sources."),
        ("audit-pulls", "Pulls of the injected sources", audit_plots.plot_audit_pulls,
         "Recovered less injected flux over its standard error; honest errors follow the curve.",
         "No isolated source in the range of signal-to-noise."),
        ("audit-stack", "Injected sources over all visits", audit_plots.plot_audit_stack,
         "The same sources are in every exposure of the place. Inverse-variance means over the "
         "exposures of a band, less the injected flux: errors that the exposures share do not "
         "average out.", "No injected source was measured in two exposures of a band."),
    )  # fmt: skip
    return [first, *(figure_section(a, t, lambda make=make: make(data), c, n)  # type: ignore[misc]
                     for a, t, make, c, n in figures)]  # fmt: skip
