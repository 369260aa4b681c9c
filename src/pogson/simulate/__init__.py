"""Skies, cameras and nights with known truth."""

from pogson.simulate.chromatic import ChromaticModel, ChromaticScene, simulate_chromatic
from pogson.simulate.decam_camera import DecamCamera, stand_in_templates
from pogson.simulate.decam_survey import (
    DecamCampaign,
    DecamSurvey,
    campaign_spectra,
    simulate_decam_survey,
)
from pogson.simulate.fibre_job import write_fibre_frame, write_fibre_job
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
    "ChromaticModel",
    "ChromaticScene",
    "DecamCamera",
    "DecamCampaign",
    "DecamSurvey",
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
    "campaign_spectra",
    "color_term",
    "demo_library",
    "demo_model",
    "demo_response",
    "draw_stars",
    "draw_visit",
    "field_half_width",
    "reference_catalog",
    "render_detector",
    "simulate_chromatic",
    "simulate_decam_survey",
    "simulate_fibres",
    "simulate_scene",
    "simulate_survey",
    "stand_in_templates",
    "system_ties",
    "telluric_transmission",
    "truth_comparison",
    "truth_table",
    "visit_psf",
    "visit_sky",
    "write_fibre_frame",
    "write_fibre_job",
    "write_scene_job",
]
