"""Plots and the self-contained HTML report."""

from pogson.report.audit_data import AuditBand, AuditReport, AuditRows
from pogson.report.data import (
    ExposureRecord,
    GrowthCurve,
    PixelMap,
    Rejection,
    Repeatability,
    ReportData,
    StarResiduals,
    TruthComparison,
)
from pogson.report.render import render_html, write_report

__all__ = [
    "AuditBand",
    "AuditReport",
    "AuditRows",
    "ExposureRecord",
    "GrowthCurve",
    "PixelMap",
    "Rejection",
    "Repeatability",
    "ReportData",
    "StarResiduals",
    "TruthComparison",
    "render_html",
    "write_report",
]
