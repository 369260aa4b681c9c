"""The main job: from the exposures of a survey to calibrated catalogues, images and a report."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pogson.run.config import RunConfig, load_config
    from pogson.run.demo import run_demo
    from pogson.run.pipeline import Failure, RunResult, describe_plan, run_survey
    from pogson.run.reporting import report_from_folder

_WHERE = {
    "Failure": "pipeline",
    "RunConfig": "config",
    "RunResult": "pipeline",
    "describe_plan": "pipeline",
    "load_config": "config",
    "report_from_folder": "reporting",
    "run_demo": "demo",
    "run_survey": "pipeline",
}

__all__ = [
    "Failure",
    "RunConfig",
    "RunResult",
    "describe_plan",
    "load_config",
    "report_from_folder",
    "run_demo",
    "run_survey",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = value
    return value
