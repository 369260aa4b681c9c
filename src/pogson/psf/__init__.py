"""Point-spread functions, apertures, and the flux an aperture finds for a star."""

from pogson.psf.analytic import GaussianPSF, KolmogorovPSF, MoffatPSF
from pogson.psf.apertures import ApertureOperator, ApertureSums, sky_circle_to_ellipse
from pogson.psf.base import PSF, PsfNormalization, Stamp, psf_from_dict
from pogson.psf.frames import PixelFrame, SkyFrame
from pogson.psf.pixel_grid import PixelGridPSF
from pogson.psf.profiles import (
    gaussian_enclosed_energy,
    kolmogorov_enclosed_energy,
    moffat_enclosed_energy,
)

__all__ = [
    "PSF",
    "ApertureOperator",
    "ApertureSums",
    "GaussianPSF",
    "KolmogorovPSF",
    "MoffatPSF",
    "PixelFrame",
    "PixelGridPSF",
    "PsfNormalization",
    "SkyFrame",
    "Stamp",
    "gaussian_enclosed_energy",
    "kolmogorov_enclosed_energy",
    "moffat_enclosed_energy",
    "psf_from_dict",
    "sky_circle_to_ellipse",
]
