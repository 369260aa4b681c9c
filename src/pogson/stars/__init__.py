"""Stars against model grids: distances, reddenings and types by brute force; band offsets.

Grids hold magnitudes at 1 kpc, linear in the extinction at fixed R_V:
``m = c0 + A_V (c1 + R_V c2)``. Fluxes inside the room are maggies: a flux of 1 is magnitude 0 in
the band's own system (AB or Vega, as the grid says). One AB maggy is 3630.78e9 nJy.
"""

from pogson.stars.brutus_names import (
    FILTERS,
    get_seds,
    inv_luptitude,
    inv_magnitude,
    load_models,
    luptitude,
    magnitude,
)
from pogson.stars.build_mist import MistLattice, build_mist_grid, mist_bands
from pogson.stars.build_synthetic import build_synthetic_grid
from pogson.stars.calibrate import (
    CalibrationConfig,
    StarDraws,
    StarSampler,
    calibrate_bands,
)
from pogson.stars.calibrate_basis import offset_field, polynomial_basis, position_basis
from pogson.stars.calibrate_result import BandCalibration
from pogson.stars.calibrate_sampler import grid_sampler
from pogson.stars.cluster import ClusterSummary, cluster_summary
from pogson.stars.draw_stars import draw_stars
from pogson.stars.dust_maps import HealpixDustMap, read_dust_map
from pogson.stars.extinction_fit import fit_extinction
from pogson.stars.fit import FitConfig, StarFitter, fit_stars
from pogson.stars.grid import StellarGrid
from pogson.stars.grid_file import GridContents, grid_contents, read_grid, write_grid
from pogson.stars.grid_summary import BandSummary, GridReport, LabelSummary, grid_report
from pogson.stars.offset_files import apply_offsets, load_offsets, read_offsets, write_offsets
from pogson.stars.offsets import (
    OffsetAccumulator,
    OffsetEstimate,
    PhotometricOffsetsConfig,
    photometric_offsets,
)
from pogson.stars.photometry_table import NJY_PER_MAGGIE, StarPhotometry
from pogson.stars.posterior_file import PosteriorWriter, read_posteriors, write_posteriors
from pogson.stars.posteriors import StarPosteriors
from pogson.stars.priors import (
    LatticeVolume,
    MassFunction,
    ModelPrior,
    ModelWeights,
    RvPrior,
    StarPriors,
)
from pogson.stars.priors_dust import (
    DustMapPrior,
    ExtinctionPrior,
    ExtinctionProfile,
    StarExtinctionPrior,
)
from pogson.stars.priors_galaxy import DistancePrior, FlatDistance, GalacticPrior
from pogson.stars.simulated import simulated_grid
from pogson.stars.star_flags import STAR_FLAG_DOCS, StarFlag
from pogson.stars.streaming import fit_catalog, healpix_of

__all__ = [
    "FILTERS",
    "NJY_PER_MAGGIE",
    "STAR_FLAG_DOCS",
    "BandCalibration",
    "BandSummary",
    "CalibrationConfig",
    "ClusterSummary",
    "DistancePrior",
    "DustMapPrior",
    "ExtinctionPrior",
    "ExtinctionProfile",
    "FitConfig",
    "FlatDistance",
    "GalacticPrior",
    "GridContents",
    "GridReport",
    "HealpixDustMap",
    "LabelSummary",
    "LatticeVolume",
    "MassFunction",
    "MistLattice",
    "ModelPrior",
    "ModelWeights",
    "OffsetAccumulator",
    "OffsetEstimate",
    "PhotometricOffsetsConfig",
    "PosteriorWriter",
    "RvPrior",
    "StarDraws",
    "StarExtinctionPrior",
    "StarFitter",
    "StarFlag",
    "StarPhotometry",
    "StarPosteriors",
    "StarPriors",
    "StarSampler",
    "StellarGrid",
    "apply_offsets",
    "build_mist_grid",
    "build_synthetic_grid",
    "calibrate_bands",
    "cluster_summary",
    "draw_stars",
    "fit_catalog",
    "fit_extinction",
    "fit_stars",
    "get_seds",
    "grid_contents",
    "grid_report",
    "grid_sampler",
    "healpix_of",
    "inv_luptitude",
    "inv_magnitude",
    "load_models",
    "load_offsets",
    "luptitude",
    "magnitude",
    "mist_bands",
    "offset_field",
    "photometric_offsets",
    "polynomial_basis",
    "position_basis",
    "read_dust_map",
    "read_grid",
    "read_offsets",
    "read_posteriors",
    "simulated_grid",
    "write_grid",
    "write_offsets",
    "write_posteriors",
]
