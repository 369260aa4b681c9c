"""Synthetic sources into images, and out again: inject, recover, audit."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pogson.inject.audit import (
        Audit,
        AuditLimits,
        AuditSettings,
        audit_sources,
        classify_rows,
    )
    from pogson.inject.catalogue import InjectionCatalog
    from pogson.inject.engine import Injection, inject, is_injected
    from pogson.inject.flags import (
        INJECTION_FLAG_DOCS,
        InjectionFlag,
        count_injection_flags,
        describe_injection_flags,
    )
    from pogson.inject.galaxies import BulgeDisc, Sersic, render_galaxy
    from pogson.inject.light_curves import LightCurves
    from pogson.inject.matching import match_injections
    from pogson.inject.noise import GainMap
    from pogson.inject.placement import place_sources, sample_fluxes, uniform_magnitudes
    from pogson.inject.plan import local_calibration
    from pogson.inject.recovery import DetectionSettings, recover, recovery_from_catalog
    from pogson.inject.render import add_point_sources, add_stamps
    from pogson.inject.sky_placement import place_on_sky
    from pogson.inject.stamps import stamp_half_size
    from pogson.inject.trails import render_trail
    from pogson.inject.wings import WingModel

# numba, scipy and tables load with the module that needs them
_WHERE = {
    "Audit": "audit",
    "AuditLimits": "audit",
    "AuditSettings": "audit",
    "audit_sources": "audit",
    "classify_rows": "audit",
    "BulgeDisc": "galaxies",
    "DetectionSettings": "recovery",
    "GainMap": "noise",
    "INJECTION_FLAG_DOCS": "flags",
    "Injection": "engine",
    "InjectionCatalog": "catalogue",
    "InjectionFlag": "flags",
    "LightCurves": "light_curves",
    "Sersic": "galaxies",
    "WingModel": "wings",
    "add_point_sources": "render",
    "add_stamps": "render",
    "count_injection_flags": "flags",
    "describe_injection_flags": "flags",
    "inject": "engine",
    "is_injected": "engine",
    "local_calibration": "plan",
    "match_injections": "matching",
    "place_on_sky": "sky_placement",
    "place_sources": "placement",
    "recover": "recovery",
    "recovery_from_catalog": "recovery",
    "render_galaxy": "galaxies",
    "render_trail": "trails",
    "sample_fluxes": "placement",
    "stamp_half_size": "stamps",
    "uniform_magnitudes": "placement",
}

__all__ = [
    "INJECTION_FLAG_DOCS",
    "Audit",
    "AuditLimits",
    "AuditSettings",
    "BulgeDisc",
    "DetectionSettings",
    "GainMap",
    "Injection",
    "InjectionCatalog",
    "InjectionFlag",
    "LightCurves",
    "Sersic",
    "WingModel",
    "add_point_sources",
    "add_stamps",
    "audit_sources",
    "classify_rows",
    "count_injection_flags",
    "describe_injection_flags",
    "inject",
    "is_injected",
    "local_calibration",
    "match_injections",
    "place_on_sky",
    "place_sources",
    "recover",
    "recovery_from_catalog",
    "render_galaxy",
    "render_trail",
    "sample_fluxes",
    "stamp_half_size",
    "uniform_magnitudes",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(_WHERE)
