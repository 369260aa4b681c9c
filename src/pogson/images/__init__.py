"""Images and photometry on them: exposures, backgrounds, detection, apertures, PSF fluxes."""

from __future__ import annotations

from pogson.images.aperture_correction import ApertureCorrection, fit_aperture_correction
from pogson.images.apertures import LocalAnnulus, measure_sources
from pogson.images.background import (
    Background,
    background_subtracted_image,
    estimate_background,
)
from pogson.images.background_matching import (
    BackgroundSamples,
    MatchedBackgrounds,
    match_backgrounds,
    sample_backgrounds,
    solve_backgrounds,
)
from pogson.images.chromatic_catalog import (
    ColorCorrection,
    fit_color_correction,
    flat_values,
    source_factors,
)
from pogson.images.coadd import Clipping, Coadd, CoaddInput, coadd
from pogson.images.coadd_grid import CoaddGrid, SkyTracts, Tile
from pogson.images.coadd_psf import CoaddPSF, PsfInput
from pogson.images.coadd_stream import (
    CoaddOptions,
    CoaddSource,
    TileResult,
    coadd_tile,
    coadd_tiles,
    with_weights,
)
from pogson.images.detection import detect
from pogson.images.exposure import Exposure
from pogson.images.flags import FLAG_DOCS, SourceFlag, count_flags, describe_flags
from pogson.images.flats import ChromaticFlat, FlatFactors
from pogson.images.flattening import Flattening, flatten
from pogson.images.focal_plane_background import (
    FocalPlaneBackground,
    fit_focal_plane_background,
)
from pogson.images.growth import CurveOfGrowth, curve_of_growth
from pogson.images.mask import BAD_FOR_BACKGROUND, BAD_FOR_PHOTOMETRY, MASK_DOCS, MaskBits
from pogson.images.mask_flags import mask_flags
from pogson.images.noise_correlation import (
    NoiseCorrelation,
    aperture_variance,
    stamp_variance,
)
from pogson.images.psf_fluxes import psf_flux
from pogson.images.sky_sed import SkySpectrum, fit_sky_spectrum
from pogson.images.variance import (
    VarianceEstimate,
    estimate_gain,
    estimate_variance,
    resolve_gain,
)
from pogson.images.warp import Warp, warp

__all__ = [
    "BAD_FOR_BACKGROUND",
    "BAD_FOR_PHOTOMETRY",
    "FLAG_DOCS",
    "MASK_DOCS",
    "ApertureCorrection",
    "Background",
    "BackgroundSamples",
    "ChromaticFlat",
    "Clipping",
    "Coadd",
    "CoaddGrid",
    "CoaddInput",
    "CoaddOptions",
    "CoaddPSF",
    "CoaddSource",
    "ColorCorrection",
    "CurveOfGrowth",
    "Exposure",
    "FlatFactors",
    "Flattening",
    "FocalPlaneBackground",
    "LocalAnnulus",
    "MaskBits",
    "MatchedBackgrounds",
    "NoiseCorrelation",
    "PsfInput",
    "SkySpectrum",
    "SkyTracts",
    "SourceFlag",
    "Tile",
    "TileResult",
    "VarianceEstimate",
    "Warp",
    "aperture_variance",
    "background_subtracted_image",
    "coadd",
    "coadd_tile",
    "coadd_tiles",
    "count_flags",
    "curve_of_growth",
    "describe_flags",
    "detect",
    "estimate_background",
    "estimate_gain",
    "estimate_variance",
    "fit_aperture_correction",
    "fit_color_correction",
    "fit_focal_plane_background",
    "fit_sky_spectrum",
    "flat_values",
    "flatten",
    "mask_flags",
    "match_backgrounds",
    "measure_sources",
    "psf_flux",
    "resolve_gain",
    "sample_backgrounds",
    "solve_backgrounds",
    "source_factors",
    "stamp_variance",
    "warp",
    "with_weights",
]
