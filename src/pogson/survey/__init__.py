"""One calibration for a whole survey: many exposures of the same stars, solved together."""

from pogson.survey.association import (
    Association,
    Seeds,
    associate,
    join_reference,
    make_observations,
)
from pogson.survey.association_partition import PartitionedAssociation, associate_partitions
from pogson.survey.atmosphere import AtmosphereModel, AtmosphereState
from pogson.survey.atmosphere_absorption import TabulatedAbsorber
from pogson.survey.atmosphere_fit import (
    PhysicalSolution,
    calibrate_physical,
    calibrate_physical_partitions,
)
from pogson.survey.atmosphere_term import Atmosphere
from pogson.survey.chromatic import ColorSeds, StarSeds
from pogson.survey.color_flat import ColorFlat
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
from pogson.survey.out_of_core import PartitionedSolution, calibrate_partitions
from pogson.survey.partition_checks import connect_partitions, find_degeneracies_partitions
from pogson.survey.partition_files import Partition, read_partition, write_partitions
from pogson.survey.solution import Solution, StarResults, Validation
from pogson.survey.solve import Covariance, DenseCovariance, SampledCovariance, SchurOperator
from pogson.survey.star_flats import (
    DetectorFlat,
    StarFlats,
    derive_star_flats,
    solve_star_flats,
    star_flat_terms,
)
from pogson.survey.survey_diagnostics import SurveyDiagnostics, diagnose, solution_at
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
    "Association",
    "Atmosphere",
    "AtmosphereModel",
    "AtmosphereState",
    "BackgroundOffset",
    "ColorFlat",
    "ColorSeds",
    "ColorSlope",
    "Connections",
    "Constraint",
    "Covariance",
    "Degeneracy",
    "DenseCovariance",
    "Design",
    "DetectorFlat",
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
    "Partition",
    "PartitionedAssociation",
    "PartitionedSolution",
    "PhysicalSolution",
    "RadialFlat",
    "RowFlag",
    "SampledCovariance",
    "SchurOperator",
    "Seeds",
    "SeeingTerm",
    "Solution",
    "SolveSettings",
    "StarFlat",
    "StarFlats",
    "StarResults",
    "StarSeds",
    "Stars",
    "SurveyDiagnostics",
    "SurveyTables",
    "TabulatedAbsorber",
    "TemplateFlat",
    "Term",
    "Validation",
    "Weighting",
    "accumulate",
    "accumulate_partitions",
    "associate",
    "associate_partitions",
    "calibrate",
    "calibrate_partitions",
    "calibrate_physical",
    "calibrate_physical_partitions",
    "connect_partitions",
    "derive_star_flats",
    "diagnose",
    "find_degeneracies",
    "find_degeneracies_partitions",
    "join_reference",
    "make_observations",
    "read_partition",
    "solution_at",
    "solve_star_flats",
    "star_flat_terms",
    "write_partitions",
]
