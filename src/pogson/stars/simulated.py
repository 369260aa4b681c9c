"""A small grid of made-up but plausible stars, for tests, examples and closed loops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pogson.errors import PogsonValueError
from pogson.stars.grid import StellarGrid, missing_name, named_columns

__all__ = ["simulated_grid"]

# Pivot wavelengths in micron, rounded (SVO Filter Profile Service).
_MICRON = {
    "PS_g": 0.481, "PS_r": 0.617, "PS_i": 0.752, "PS_z": 0.866, "PS_y": 0.962,
    "2MASS_J": 1.235, "2MASS_H": 1.662, "2MASS_Ks": 2.159,
    "SDSS_u": 0.356, "SDSS_g": 0.470, "SDSS_r": 0.618, "SDSS_i": 0.750, "SDSS_z": 0.892,
    "WISE_W1": 3.353, "WISE_W2": 4.603,
}  # fmt: skip
_BANDS = tuple(_MICRON)[:8]

_ZAMS, _TAMS, _TIP = 202, 454, 605
_SOLAR_RADIUS_IN_KPC = 6.957e8 / 3.0856775814913673e19


def simulated_grid(
    n_models: int = 4000, bands: Sequence[str] = _BANDS, *, oldest_gyr: float = 13.8
) -> StellarGrid:
    r"""Return a grid of made-up stars with the layout and the degeneracies of a real one.

    Parameters
    ----------
    n_models : int, optional
        About how many models; the lattice in mass, EEP and metallicity is chosen to match.
    bands : sequence of str, optional
        Bands of Pan-STARRS, 2MASS, SDSS or WISE; default the eight of Pan-STARRS and 2MASS.
    oldest_gyr : float, optional
        Older models are left out.

    Returns
    -------
    StellarGrid
        Labels ``mini, eep, feh, afe, smf``; predictions ``loga, logl, logt, logg, Mr, agewt``.

    Raises
    ------
    PogsonValueError
        If fewer than 100 models are asked for.
    MissingDataError
        If a band is not one of those above.

    Notes
    -----
    Not a stellar evolution code: luminosity and radius follow powers of mass and metallicity on
    the main sequence (EEP 202 to 454) and a giant branch (to 605), spectra are black bodies with
    metal lines in the blue, and extinction is the infrared power law and optical :math:`R_V`
    dependence of Cardelli, Clayton & Mathis (1989, ApJ 345, 245) at each band's pivot wavelength.
    Magnitudes are AB. Use `build_mist_grid` for science.

    Examples
    --------
    >>> grid = simulated_grid(1000)
    >>> grid.bands[:2], 500 < grid.n_models < 2000
    (('PS_g', 'PS_r'), True)
    """
    if n_models < 100:
        raise PogsonValueError(f"A simulated grid has at least 100 models; {n_models} asked for.")
    for band in bands:
        if band not in _MICRON:
            raise missing_name(band, _MICRON, "filter", "The simulated grid")
    n = n_models / 0.72  # about this share survives the age limit
    n_feh = max(3, round((n / 60.0) ** (1 / 3)))
    n_eep = max(6, round(n_feh * 4.0))
    n_mini = max(5, round(n / (n_feh * n_eep)))
    axes = (
        np.round(np.geomspace(0.3, 3.0, n_mini), 5),
        np.round(np.linspace(_ZAMS, _TIP, n_eep)),
        np.round(np.linspace(-2.0, 0.5, n_feh), 4),
    )
    mini, eep, feh = (a.ravel() for a in np.meshgrid(*axes, indexing="ij"))
    age = _age(mini, eep, feh)
    kept = age <= oldest_gyr * 1e9
    mini, eep, feh, age = mini[kept], eep[kept], feh[kept], age[kept]
    logl, logt, logg = _structure(mini, eep, feh)
    absolute = np.stack([_absolute(_MICRON[b], logl, logt, feh) for b in bands], axis=1)
    mr = _absolute(_MICRON["PS_r"], logl, logt, feh)
    coefficients = np.empty((mini.size, len(bands), 3))
    coefficients[..., 0] = absolute + 10.0
    for j, band in enumerate(bands):
        coefficients[:, j, 1:] = _extinction(_MICRON[band])
    step = 0.01
    agewt = (_age(mini, eep + step, feh) - _age(mini, eep - step, feh)) / (2 * step)
    zero = np.zeros_like(mini)
    labels = named_columns({"mini": mini, "eep": eep, "feh": feh, "afe": zero, "smf": zero})
    predictions = named_columns(
        {"loga": np.log10(age), "logl": logl, "logt": logt, "logg": logg, "Mr": mr, "agewt": agewt}
    )
    provenance = {
        "source": "simulated_grid: made-up stars, for tests and examples",
        "reference_distance_pc": 1000.0,
        "systems": dict.fromkeys(bands, "AB"),
    }
    return StellarGrid(coefficients, tuple(bands), labels, predictions, provenance=provenance)


def _phases(eep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how far along the main sequence and the giant branch, each 0 to 1."""
    on_main = np.clip((eep - _ZAMS) / (_TAMS - _ZAMS), 0.0, None)
    beyond = np.clip((eep - _TAMS) / (_TIP - _TAMS), 0.0, 1.0)
    return np.minimum(on_main, 1.0), beyond


def _age(mini: np.ndarray, eep: np.ndarray, feh: np.ndarray) -> np.ndarray:
    """Age in years."""
    main, giant = _phases(eep)
    life = 1.0e10 * mini**-2.8 * 10.0 ** (0.12 * feh)
    return np.asarray(life * (0.002 + 0.998 * main + 0.12 * giant))


def _structure(
    mini: np.ndarray, eep: np.ndarray, feh: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return log luminosity, log effective temperature and log gravity."""
    main, giant = _phases(eep)
    logm = np.log10(mini)
    slope = np.where(mini < 0.6, 3.2, 4.2)
    logl = slope * logm + np.where(mini < 0.6, 4.2 - 3.2, 0.0) * np.log10(0.6)
    logl = logl - 0.15 - 0.16 * feh + 0.30 * main + giant * (2.9 - 1.1 * logm)
    logt = np.log10(5700.0) + 0.52 * logm - 0.045 * feh - 0.03 * main**4
    bottom = np.log10(4750.0) - 0.03 * feh - 0.13 * giant + 0.05 * logm
    share = 1.0 / (1.0 + np.exp(-(giant - 0.15) / 0.04))
    share = share * (giant > 0)
    logt = (1 - share) * logt + share * bottom
    logg = 4.438 + logm + 4 * (logt - np.log10(5772.0)) - logl
    return logl, logt, logg


def _absolute(micron: float, logl: np.ndarray, logt: np.ndarray, feh: np.ndarray) -> np.ndarray:
    """Absolute AB magnitude of a black body with metal lines in the blue."""
    teff = 10.0**logt
    radius = np.sqrt(10.0**logl) * (5772.0 / teff) ** 2  # solar radii
    nu = 2.99792458e14 / micron
    x = 4.799243e-11 * nu / teff
    planck = 2 * 6.62607015e-34 * nu**3 / 2.99792458e8**2 / np.expm1(x)
    dilution = (radius * _SOLAR_RADIUS_IN_KPC * 100.0) ** 2  # at 10 pc
    flux = np.pi * planck * dilution * 1e3  # erg/s/cm2/Hz
    lines = 0.12 * (0.55 / micron) ** 3 * 10.0 ** (0.35 * feh) * (5500.0 / teff) ** 2
    molecules = 0.05 * (0.6 / micron) * np.clip((4200.0 - teff) / 400.0, 0.0, None) ** 1.5
    return np.asarray(-2.5 * np.log10(flux) - 48.60 + lines + molecules)


def _extinction(micron: float) -> tuple[float, float]:
    """Extinction per A_V as (at R_V = 0, slope), straight between R_V of 2.4 and 4.2."""
    x = 1.0 / micron
    if x < 1.1:
        a, b = 0.574 * x**1.61, -0.527 * x**1.61
    else:
        y = x - 1.82
        a = np.polyval([0.32999, -0.77530, 0.01979, 0.72085, -0.02427, -0.50447, 0.17699, 1.0], y)
        b = np.polyval([-2.09002, 5.30260, -0.62251, -5.38434, 1.07233, 2.28305, 1.41338, 0.0], y)
    low, high = a + b / 2.4, a + b / 4.2
    slope = (high - low) / (4.2 - 2.4)
    return float(low - 2.4 * slope), float(slope)
