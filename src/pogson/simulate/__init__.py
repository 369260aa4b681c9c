"""Skies, cameras and nights with known truth."""

from pogson.simulate.fibres import (
    FibreSimulation,
    FibreTarget,
    demo_library,
    demo_response,
    simulate_fibres,
    telluric_transmission,
)
from pogson.simulate.model import BandModel, CameraModel, StarModel, SurveyModel, demo_model
from pogson.simulate.render import DetectorImage, render_detector
from pogson.simulate.scene_job import (
    SceneJobModel,
    SceneTruth,
    simulate_scene,
    write_scene_job,
)
from pogson.simulate.stars import (
    StarCatalog,
    color_term,
    draw_stars,
    reference_catalog,
    system_ties,
)
from pogson.simulate.survey import SimulatedSurvey, field_half_width, simulate_survey, truth_table
from pogson.simulate.truth import TruthComparison, truth_comparison
from pogson.simulate.visits import Visit, draw_visit, visit_psf, visit_sky

__all__ = [
    "BandModel",
    "CameraModel",
    "DetectorImage",
    "FibreSimulation",
    "FibreTarget",
    "SceneJobModel",
    "SceneTruth",
    "SimulatedSurvey",
    "StarCatalog",
    "StarModel",
    "SurveyModel",
    "TruthComparison",
    "Visit",
    "color_term",
    "demo_library",
    "demo_model",
    "demo_response",
    "draw_stars",
    "draw_visit",
    "field_half_width",
    "reference_catalog",
    "render_detector",
    "simulate_fibres",
    "simulate_scene",
    "simulate_survey",
    "system_ties",
    "telluric_transmission",
    "truth_comparison",
    "truth_table",
    "visit_psf",
    "visit_sky",
    "write_scene_job",
]
