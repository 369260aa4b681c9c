"""The main job: from the exposures of a survey to calibrated catalogues, images and a report."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pogson.run.config import RunConfig, load_config
    from pogson.run.demo import run_demo
    from pogson.run.fluxcal_config import FluxCalConfigFile, load_fluxcal_config
    from pogson.run.fluxcal_products import fluxcal_page
    from pogson.run.fluxcal_run import FluxCalRunResult, describe_fluxcal_plan, run_fluxcal
    from pogson.run.fluxcal_store import load_calibration, save_calibration
    from pogson.run.pipeline import RunResult, describe_plan, run_survey
    from pogson.run.reporting import report_from_folder
    from pogson.run.scene_config import SceneRunConfig, load_scene_config
    from pogson.run.scene_products import scene_page
    from pogson.run.scene_run import SceneRunResult, describe_scene_plan, run_scene
    from pogson.run.solve_products import SavedSolution, read_solution
    from pogson.run.solve_run import (
        SolveRunConfig,
        SolveRunResult,
        load_solve_config,
        run_solve,
    )
    from pogson.run.stages import Failure

_WHERE = {
    "Failure": "stages",
    "FluxCalConfigFile": "fluxcal_config",
    "FluxCalRunResult": "fluxcal_run",
    "RunConfig": "config",
    "RunResult": "pipeline",
    "SavedSolution": "solve_products",
    "SceneRunConfig": "scene_config",
    "SceneRunResult": "scene_run",
    "SolveRunConfig": "solve_run",
    "SolveRunResult": "solve_run",
    "describe_fluxcal_plan": "fluxcal_run",
    "describe_plan": "pipeline",
    "describe_scene_plan": "scene_run",
    "fluxcal_page": "fluxcal_products",
    "load_calibration": "fluxcal_store",
    "load_config": "config",
    "load_fluxcal_config": "fluxcal_config",
    "load_scene_config": "scene_config",
    "load_solve_config": "solve_run",
    "read_solution": "solve_products",
    "report_from_folder": "reporting",
    "run_demo": "demo",
    "run_fluxcal": "fluxcal_run",
    "run_scene": "scene_run",
    "run_solve": "solve_run",
    "run_survey": "pipeline",
    "save_calibration": "fluxcal_store",
    "scene_page": "scene_products",
}

__all__ = [
    "Failure",
    "FluxCalConfigFile",
    "FluxCalRunResult",
    "RunConfig",
    "RunResult",
    "SavedSolution",
    "SceneRunConfig",
    "SceneRunResult",
    "SolveRunConfig",
    "SolveRunResult",
    "describe_fluxcal_plan",
    "describe_plan",
    "describe_scene_plan",
    "fluxcal_page",
    "load_calibration",
    "load_config",
    "load_fluxcal_config",
    "load_scene_config",
    "load_solve_config",
    "read_solution",
    "report_from_folder",
    "run_demo",
    "run_fluxcal",
    "run_scene",
    "run_solve",
    "run_survey",
    "save_calibration",
    "scene_page",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = value
    return value
