"""The main job: from the exposures of a survey to calibrated catalogues, images and a report."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pogson.run.config import RunConfig, load_config
    from pogson.run.demo import run_demo
    from pogson.run.pipeline import RunResult, describe_plan, run_survey
    from pogson.run.reporting import report_from_folder
    from pogson.run.scene_config import SceneRunConfig, load_scene_config
    from pogson.run.scene_products import scene_page
    from pogson.run.scene_run import SceneRunResult, describe_scene_plan, run_scene
    from pogson.run.stages import Failure

_WHERE = {
    "Failure": "stages",
    "RunConfig": "config",
    "RunResult": "pipeline",
    "SceneRunConfig": "scene_config",
    "SceneRunResult": "scene_run",
    "describe_plan": "pipeline",
    "describe_scene_plan": "scene_run",
    "load_config": "config",
    "load_scene_config": "scene_config",
    "report_from_folder": "reporting",
    "run_demo": "demo",
    "run_scene": "scene_run",
    "run_survey": "pipeline",
    "scene_page": "scene_products",
}

__all__ = [
    "Failure",
    "RunConfig",
    "RunResult",
    "SceneRunConfig",
    "SceneRunResult",
    "describe_plan",
    "describe_scene_plan",
    "load_config",
    "load_scene_config",
    "report_from_folder",
    "run_demo",
    "run_scene",
    "run_survey",
    "scene_page",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = value
    return value
