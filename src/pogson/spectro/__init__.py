"""Flux calibration of fibre spectra: from counts to erg/s/cm2/Angstrom, with errors that hold.

Wavelengths are vacuum wavelengths in Angstrom; spectra of a frame have shape
(n_fibre, n_pixel); flux densities are in erg/s/cm2/Angstrom.
"""

from pogson.sed import load_filter_curve, load_filter_curves, synthetic_photometry
from pogson.spectro.apply import CalibratedSpectra, apply_calibration
from pogson.spectro.atmosphere_extinction import (
    OBSERVATORIES,
    AtmosphereExtinction,
    airmass_factor,
    load_atmosphere_extinction,
)
from pogson.spectro.calibrate import (
    FluxCalConfig,
    FluxCalibration,
    calibrate_fibres,
    grid_photometry,
)
from pogson.spectro.containers import (
    CalibrationVector,
    FilterCurve,
    FluxCalibrationResult,
    Photometry,
    PixelMask,
    Spectrum1D,
    StellarTemplate,
)
from pogson.spectro.frame import FibreSpectra
from pogson.spectro.grid_photometry import GridPhotometry
from pogson.spectro.kspecdr_names import (
    apply_flux_calibration,
    combine_calibration_vectors,
    compute_calibration_vector_for_star,
    scale_template_to_photometry,
    select_best_template,
)
from pogson.spectro.line_spread import LineSpread
from pogson.spectro.magnitude_systems import (
    MagnitudeShift,
    SystemSuspicion,
    check_magnitude_systems,
    vega_to_ab,
)
from pogson.spectro.mask_regions import (
    apply_mask_regions,
    apply_named_mask,
    combine_regions,
    load_mask_array,
    load_mask_regions,
    mask_coverage_fraction,
)
from pogson.spectro.matching import (
    MatchConfig,
    StarMatch,
    StarSpectrum,
    cross_correlate_rv,
    match_star,
)
from pogson.spectro.model_grid import ModelGrid
from pogson.spectro.resample import (
    SpectralTransfer,
    convolve_spectrum,
    doppler_factor,
    pixel_edges,
    resample_spectrum,
    spectral_transfer,
)
from pogson.spectro.star_rejection import RejectionPriors, find_wrong_stars
from pogson.spectro.templates import PreparedTemplates, TemplateLibrary, prepare_template
from pogson.spectro.throughput import ResponseConfig, ResponseSolution, StandardData, solve_response

__all__ = [
    "OBSERVATORIES",
    "AtmosphereExtinction",
    "CalibratedSpectra",
    "CalibrationVector",
    "FibreSpectra",
    "FilterCurve",
    "FluxCalConfig",
    "FluxCalibration",
    "FluxCalibrationResult",
    "GridPhotometry",
    "LineSpread",
    "MagnitudeShift",
    "MatchConfig",
    "ModelGrid",
    "Photometry",
    "PixelMask",
    "PreparedTemplates",
    "RejectionPriors",
    "ResponseConfig",
    "ResponseSolution",
    "SpectralTransfer",
    "Spectrum1D",
    "StandardData",
    "StarMatch",
    "StarSpectrum",
    "StellarTemplate",
    "SystemSuspicion",
    "TemplateLibrary",
    "airmass_factor",
    "apply_calibration",
    "apply_flux_calibration",
    "apply_mask_regions",
    "apply_named_mask",
    "calibrate_fibres",
    "check_magnitude_systems",
    "combine_calibration_vectors",
    "combine_regions",
    "compute_calibration_vector_for_star",
    "convolve_spectrum",
    "cross_correlate_rv",
    "doppler_factor",
    "find_wrong_stars",
    "grid_photometry",
    "load_atmosphere_extinction",
    "load_filter_curve",
    "load_filter_curves",
    "load_mask_array",
    "load_mask_regions",
    "mask_coverage_fraction",
    "match_star",
    "pixel_edges",
    "prepare_template",
    "resample_spectrum",
    "scale_template_to_photometry",
    "select_best_template",
    "solve_response",
    "spectral_transfer",
    "synthetic_photometry",
    "vega_to_ab",
]
