"""The audit's part of the report, from made-up numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from astropy.table import Table

from pogson.inject import AuditLimits, audit_sources
from pogson.inject.audit import classify_rows
from pogson.report import (
    AuditBand,
    AuditReport,
    AuditRows,
    ExposureRecord,
    ReportData,
    audit_plots,
    render_html,
)

FIGURES = [getattr(audit_plots, name) for name in audit_plots.__all__]


def made_up_audit(rng: np.random.Generator, limit: float) -> ReportData:
    n = 2000
    magnitude = rng.uniform(18, 24, n)
    flux = 10 ** (0.4 * (31.4 - magnitude))
    table = Table({"magnitude": magnitude, "flux_in": flux,
                   "flux_out": flux + rng.normal(0, 300.0, n),
                   "detected": rng.random(n) < 1 / (1 + np.exp((magnitude - 22.5) / 0.2)),
                   "neighbour_distance": rng.uniform(0, 12, n), "x": rng.uniform(0, 500, n),
                   "y": rng.uniform(0, 500, n)})  # fmt: skip
    for name, value in (("flux_out_err", 300.0), ("drawn", True), ("ambiguous", False),
                        ("flags", 0)):  # fmt: skip
        table[name] = value
    table["flux_in"].info.meta = {"reference": {"kind": "total"}}
    table.meta["match_radius"] = 1.0
    result = audit_sources(table, limits=AuditLimits(max_bias_mmag=limit, min_depth_50=22.0))
    values = json.loads(json.dumps(result.to_dict()))
    checks = tuple({"band": "g", "of": "exposures", **c} for c in values["verdict"]["checks"])
    columns = {k: np.asarray(table[k]) for k in ("magnitude", "x", "y")}
    columns |= classify_rows(table) | {"band": np.full(n, "g"), "exposure": np.zeros(n, int)}
    record = ExposureRecord("v1", "v1", "N1", "g", "done", "", {"audit_n": n}, ())
    rows = AuditRows(columns)
    audit = AuditReport((AuditBand("g", values, values),), rows, rows, checks, {"seed": "0"})
    return ReportData(title="Audited", exposures=(record,), audit=audit)


def test_verdict_numbers_and_figures_are_shown(rng: np.random.Generator) -> None:
    data = made_up_audit(rng, limit=50.0)
    assert data.audit is not None
    assert data.audit.passed
    for figure in FIGURES:
        assert figure(data) is not None, figure.__name__
    html = render_html(data)
    assert "audit limits kept" in html
    assert "2 of 2" in html
    assert html.count("base64,") >= len(FIGURES)
    assert "http" not in html


def test_a_broken_limit_says_why(rng: np.random.Generator) -> None:
    data = made_up_audit(rng, limit=1e-6)
    broken = made_up_audit(rng, limit=50.0)
    assert broken.audit is not None
    checks = tuple({**c, "passed": False, "reason": "beyond <it>"} for c in broken.audit.checks)
    audit = AuditReport(broken.audit.bands, broken.audit.exposures, AuditRows(), checks)
    html = render_html(ReportData(title="x", exposures=data.exposures, audit=audit))
    assert not audit.passed
    assert "broken: beyond &lt;it&gt;" in html
    assert "No injected source was measured in two exposures" in html


@pytest.mark.parametrize("audit", [AuditReport(), AuditReport((AuditBand("g"),))])
def test_an_empty_audit_says_so_in_words(audit: AuditReport) -> None:
    data = ReportData(title="x", audit=audit)
    for figure in FIGURES:
        assert figure(data) is None
    assert "No limits are set" in render_html(data)


def test_without_an_audit_nothing_is_said() -> None:
    assert "Audit" not in render_html(ReportData(title="x"))
