"""Bandpasses, spectra and synthetic photometry.

Wavelengths are vacuum wavelengths in Angstrom; spectra are flux densities per wavelength in
erg/s/cm2/Angstrom; synthetic fluxes are AB flux densities in nJy.
"""

from pogson.sed.bandpass import Bandpass
from pogson.sed.spectrum import Spectrum, air_to_vacuum, vacuum_to_air
from pogson.sed.stellar import stellar_template
from pogson.sed.synthetic import (
    bandpass_coverage,
    color_term_slope,
    synthetic_color,
    synthetic_flux,
    synthetic_magnitude,
)

__all__ = [
    "Bandpass",
    "Spectrum",
    "air_to_vacuum",
    "bandpass_coverage",
    "color_term_slope",
    "stellar_template",
    "synthetic_color",
    "synthetic_flux",
    "synthetic_magnitude",
    "vacuum_to_air",
]
