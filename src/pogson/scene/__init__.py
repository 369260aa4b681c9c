"""Scene-modelling photometry: point sources over a static scene, with honest errors."""

from __future__ import annotations

from pogson.scene.binary import BINARY_THRESHOLD, BinaryResult, fit_binary
from pogson.scene.cutting import SceneCut, cut_exposure, cut_scene
from pogson.scene.ephemeris import Ephemeris
from pogson.scene.exposure import SceneExposure, scale_from_zero_point
from pogson.scene.fit import fit_scene, light_curve
from pogson.scene.flags import SCENE_FLAG_DOCS, SceneFlag, describe_scene_flags
from pogson.scene.grid import SceneGrid, auto_grid, offset_position, tangent_offset
from pogson.scene.model import PointSource, SceneModel
from pogson.scene.nulls import NullTests, null_offsets, null_tests
from pogson.scene.pair import Interval, PairPosterior
from pogson.scene.prior import ScenePrior
from pogson.scene.result import (
    FittedPosition,
    FluxComponent,
    OriginTest,
    SceneImages,
    SceneResult,
)

__all__ = [
    "BINARY_THRESHOLD",
    "SCENE_FLAG_DOCS",
    "BinaryResult",
    "Ephemeris",
    "FittedPosition",
    "FluxComponent",
    "Interval",
    "NullTests",
    "OriginTest",
    "PairPosterior",
    "PointSource",
    "SceneCut",
    "SceneExposure",
    "SceneFlag",
    "SceneGrid",
    "SceneImages",
    "SceneModel",
    "ScenePrior",
    "SceneResult",
    "auto_grid",
    "cut_exposure",
    "cut_scene",
    "describe_scene_flags",
    "fit_binary",
    "fit_scene",
    "light_curve",
    "null_offsets",
    "null_tests",
    "offset_position",
    "scale_from_zero_point",
    "tangent_offset",
]
