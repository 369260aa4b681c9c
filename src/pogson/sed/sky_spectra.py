r"""Broad shapes of the night sky's light: moonlight, twilight, zodiacal light, the dark sky.

These are for flat fields: a flat is an average over a bandpass, so that the slope of the light over
the band matters and single airglow lines hardly do. They are approximations from a few lines of
physics and broad-band measurements; use a measured sky spectrum where you have one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pogson.errors import PogsonValueError
from pogson.sed.spectrum import SPEED_OF_LIGHT, Spectrum
from pogson.sed.stellar import stellar_template

__all__ = [
    "dark_sky_spectrum",
    "moonlight_spectrum",
    "twilight_spectrum",
    "zodiacal_spectrum",
]

_SUN = 5772.0  # K, nominal effective temperature (IAU 2015 resolution B3)
_GRID = np.arange(3000.0, 11001.0, 20.0)

# Dark sky at Cerro Paranal near solar maximum, mag/arcsec2 in Vega's system (Patat 2003), and the
# AB magnitude of Vega (Blanton & Roweis 2007), at the wavelengths of the bands in Angstrom.
_BANDS = {
    "U": (3600.0, 22.28, 0.79),
    "B": (4400.0, 22.64, -0.09),
    "V": (5500.0, 21.61, 0.02),
    "R": (6500.0, 20.87, 0.21),
    "I": (8000.0, 19.71, 0.45),
}


def _sunlight(lam: np.ndarray) -> np.ndarray:
    """Sunlight, 1 at 5500 Angstrom."""
    sun = stellar_template(_SUN, metallicity=0.0, wavelength_range=(2500.0, 15000.0))
    return np.asarray(sun.evaluate(lam) / sun.evaluate(5500.0))


def moonlight_spectrum(*, mie_fraction: float = 0.3, wavelength: Any = None) -> Spectrum:
    r"""Spectrum of a sky lit by the Moon.

    Parameters
    ----------
    mie_fraction : float, optional
        Share of the light at 5500 Angstrom that aerosols scatter, 0 to 1: larger near the Moon and
        on hazy nights.
    wavelength : array_like, optional
        Vacuum wavelengths in Angstrom.

    Returns
    -------
    Spectrum
        Shape only; 1 at 5500 Angstrom.

    Raises
    ------
    PogsonValueError
        If the share is not between 0 and 1.

    Notes
    -----
    Sunlight (`stellar_template`), reflected by a Moon that is redder as
    :math:`\lambda^{0.9}` (Velikodsky et al. 2011, Icarus 214, 30), scattered by molecules as
    :math:`\lambda^{-4}` and by aerosols as :math:`\lambda^{-1.3}` (Krisciunas & Schaefer 1991,
    PASP 103, 1033; Jones et al. 2013, A&A 560, A91).

    Examples
    --------
    >>> moon = moonlight_spectrum()
    >>> bool(moon.evaluate(4500.0) > 1.5 * moon.evaluate(6500.0))
    True
    """
    if not 0.0 <= float(mie_fraction) <= 1.0:
        raise PogsonValueError(f"mie_fraction={mie_fraction!r} must be between 0 and 1.")
    lam = _GRID if wavelength is None else np.asarray(wavelength, float)
    ratio = lam / 5500.0
    scattered = (1.0 - mie_fraction) * ratio**-4.0 + mie_fraction * ratio**-1.3
    return Spectrum(lam, _sunlight(lam) * ratio**0.9 * scattered, name="moonlight")


def twilight_spectrum(*, ozone_paths: float = 15.0, wavelength: Any = None) -> Spectrum:
    r"""Spectrum of the clear twilight sky at the zenith.

    Parameters
    ----------
    ozone_paths : float, optional
        How many vertical ozone columns of 300 Dobson units the sunlight crosses: a few at sunset,
        10 to 20 when the Sun is some degrees below the horizon.
    wavelength : array_like, optional
        Vacuum wavelengths in Angstrom.

    Returns
    -------
    Spectrum
        Shape only; 1 at 5500 Angstrom without ozone.

    Raises
    ------
    PogsonValueError
        If the number of columns is negative.

    Notes
    -----
    Sunlight scattered once by molecules, :math:`\lambda^{-4}`, through the Chappuis band of ozone,
    here a Gaussian of 5e-21 cm2 at 6000 Angstrom with a standard deviation of 550 (Patat,
    Ugolnikov & Postylyakov 2006, A&A 455, 385, who show why the twilight is blue).

    Examples
    --------
    >>> blue = twilight_spectrum()
    >>> bool(blue.evaluate(4500.0) > 3 * blue.evaluate(6000.0))
    True
    """
    if not float(ozone_paths) >= 0:
        raise PogsonValueError(f"ozone_paths={ozone_paths!r} must not be negative.")
    lam = _GRID if wavelength is None else np.asarray(wavelength, float)
    column = 300.0 * 2.687e16 * ozone_paths
    depth = column * 5e-21 * np.exp(-0.5 * ((lam - 6000.0) / 550.0) ** 2)
    return Spectrum(lam, _sunlight(lam) * (lam / 5500.0) ** -4.0 * np.exp(-depth), name="twilight")


def zodiacal_spectrum(*, wavelength: Any = None) -> Spectrum:
    r"""Spectrum of the zodiacal light: sunlight, a little reddened.

    Parameters
    ----------
    wavelength : array_like, optional
        Vacuum wavelengths in Angstrom.

    Returns
    -------
    Spectrum
        Shape only; 1 at 5000 Angstrom times the Sun's ratio there.

    Notes
    -----
    Reddening at elongations above 90 degrees after Leinert et al. (1998, A&AS 127, 1), eq. 22:
    :math:`1 + 0.6 \log_{10}(\lambda/5000)` above 5000 Angstrom and
    :math:`1 + 0.9 \log_{10}(\lambda/5000)` below.

    Examples
    --------
    >>> zodiacal_spectrum().name
    'zodiacal light'
    """
    lam = _GRID if wavelength is None else np.asarray(wavelength, float)
    step = np.log10(lam / 5000.0)
    return Spectrum(
        lam, _sunlight(lam) * (1 + np.where(step > 0, 0.6, 0.9) * step), name="zodiacal light"
    )


def dark_sky_spectrum(*, wavelength: Any = None) -> Spectrum:
    r"""Spectrum of the moonless night sky per square arcsecond, from its broad-band brightness.

    Parameters
    ----------
    wavelength : array_like, optional
        Vacuum wavelengths in Angstrom.

    Returns
    -------
    Spectrum
        Per arcsec2.

    Notes
    -----
    Surface brightness in U, B, V, R and I of Patat (2003, A&A 400, 1183), to AB by Blanton & Roweis
    (2007, AJ 133, 734), joined by straight lines in magnitude against wavelength and continued
    beyond the ends. Airglow lines are smeared over the bands.

    Examples
    --------
    >>> dark = dark_sky_spectrum()
    >>> bool(dark.flux_density(8000.0) > 5 * dark.flux_density(4400.0))
    True
    """
    lam = _GRID if wavelength is None else np.asarray(wavelength, float)
    centers, vega, to_ab = (np.array(v) for v in zip(*_BANDS.values(), strict=True))
    slope = np.diff(vega + to_ab)[[0, -1]] / np.diff(centers)[[0, -1]]
    magnitude = np.interp(lam, centers, vega + to_ab)
    magnitude += np.where(lam < centers[0], (lam - centers[0]) * slope[0], 0.0)
    magnitude += np.where(lam > centers[-1], (lam - centers[-1]) * slope[1], 0.0)
    f_nu = 10.0 ** (-0.4 * (magnitude + 48.60))
    return Spectrum(lam, f_nu * SPEED_OF_LIGHT / lam**2, name="dark sky")
