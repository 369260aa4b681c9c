"""Bandpasses, spectra and synthetic photometry.

Wavelengths are vacuum wavelengths in Angstrom; spectra are flux densities per wavelength in
erg/s/cm2/Angstrom; synthetic fluxes are AB flux densities in nJy.
"""

from pogson.sed.bandpass import Bandpass
from pogson.sed.extinction import EXTINCTION_LAWS, SFD_SCALE, extinction_curve, reddening
from pogson.sed.filters import (
    FilterCurve,
    load_filter_curve,
    load_filter_curves,
    synthetic_photometry,
)
from pogson.sed.sky_spectra import (
    dark_sky_spectrum,
    moonlight_spectrum,
    twilight_spectrum,
    zodiacal_spectrum,
)
from pogson.sed.spectrum import Spectrum, air_to_vacuum, vacuum_to_air
from pogson.sed.stellar import stellar_template
from pogson.sed.synthetic import (
    bandpass_coverage,
    color_term_slope,
    synthetic_color,
    synthetic_flux,
    synthetic_magnitude,
)
from pogson.sed.vega import VEGA_OFFSETS, VEGA_SOURCE, calspec_spectrum, vega_offset

__all__ = [
    "EXTINCTION_LAWS",
    "SFD_SCALE",
    "VEGA_OFFSETS",
    "VEGA_SOURCE",
    "Bandpass",
    "FilterCurve",
    "Spectrum",
    "air_to_vacuum",
    "bandpass_coverage",
    "calspec_spectrum",
    "color_term_slope",
    "dark_sky_spectrum",
    "extinction_curve",
    "load_filter_curve",
    "load_filter_curves",
    "moonlight_spectrum",
    "reddening",
    "stellar_template",
    "synthetic_color",
    "synthetic_flux",
    "synthetic_magnitude",
    "synthetic_photometry",
    "twilight_spectrum",
    "vacuum_to_air",
    "vega_offset",
    "zodiacal_spectrum",
]
