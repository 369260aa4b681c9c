"""Plots and the self-contained HTML report."""

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
