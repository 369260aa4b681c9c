"""One calibration for a whole survey: many exposures of the same stars, solved together."""

from pogson.survey.degeneracy import Connections, Degeneracy, find_degeneracies
from pogson.survey.likelihood import SolveSettings, calibrate
from pogson.survey.normal import NormalBlocks, Weighting, accumulate, accumulate_partitions
from pogson.survey.observations import (
    Detectors,
    Exposures,
    Observations,
    RowFlag,
    Stars,
    SurveyTables,
)
from pogson.survey.solution import Solution, StarResults, Validation
from pogson.survey.solve import Covariance, DenseCovariance, SampledCovariance, SchurOperator
from pogson.survey.terms import Constraint, Design, LocalTerm, Model, PackedDesign, Term
from pogson.survey.terms_grey import (
    AirmassExtinction,
    DetectorZeroPoint,
    ExposureZeroPoint,
    GreyCloud,
    MirrorDecay,
)
from pogson.survey.terms_position import (
    ExposurePolynomial,
    KnownJacobian,
    RadialFlat,
    StarFlat,
    TemplateFlat,
)
from pogson.survey.terms_star import BackgroundOffset, ColorSlope, SeeingTerm

__all__ = [
    "AirmassExtinction",
    "BackgroundOffset",
    "ColorSlope",
    "Connections",
    "Constraint",
    "Covariance",
    "Degeneracy",
    "DenseCovariance",
    "Design",
    "DetectorZeroPoint",
    "Detectors",
    "ExposurePolynomial",
    "ExposureZeroPoint",
    "Exposures",
    "GreyCloud",
    "KnownJacobian",
    "LocalTerm",
    "MirrorDecay",
    "Model",
    "NormalBlocks",
    "Observations",
    "PackedDesign",
    "RadialFlat",
    "RowFlag",
    "SampledCovariance",
    "SchurOperator",
    "SeeingTerm",
    "Solution",
    "SolveSettings",
    "StarFlat",
    "StarResults",
    "Stars",
    "SurveyTables",
    "TemplateFlat",
    "Term",
    "Validation",
    "Weighting",
    "accumulate",
    "accumulate_partitions",
    "calibrate",
    "find_degeneracies",
]
