r"""The atmosphere above a telescope as a few physical parameters, and what it lets through.

.. math:: T(\lambda) = \exp\bigl[-X (\tau_R(\lambda) P/P_0 + \tau_a (\lambda/\lambda_0)^{-\alpha})
          - \tau_{O_3}(X u) - \tau_{O_2}(X) - \tau_{H_2O}(X w)\bigr]

with the airmass X, the pressure P, the ozone column u (Dobson units), the aerosol depth
:math:`\tau_a` and exponent :math:`\alpha` and the precipitable water w (mm).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pogson.errors import PogsonValueError
from pogson.sed import Bandpass
from pogson.survey.atmosphere_absorption import (
    BandAbsorber,
    TabulatedAbsorber,
    load_absorber,
    rayleigh_depth,
)

__all__ = ["AEROSOL_WAVELENGTH", "AtmosphereModel", "AtmosphereState", "site_pressure"]

AEROSOL_WAVELENGTH = 5500.0
"""Wavelength, Angstrom, at which the aerosol depth is given."""


def site_pressure(altitude: float) -> float:
    """Return the mean pressure at an altitude, hPa.

    Parameters
    ----------
    altitude : float
        Metres above the sea, up to 11000.

    Notes
    -----
    The ICAO standard atmosphere.

    Examples
    --------
    >>> round(site_pressure(2200.0))
    775
    """
    if not -500.0 <= float(altitude) <= 11000.0:
        raise PogsonValueError(f"An altitude of {altitude} m is outside -500 to 11000 m.")
    return float(1013.25 * (1.0 - 2.25577e-5 * altitude) ** 5.25588)


@dataclass(frozen=True)
class AtmosphereState:
    """Values of the physical parameters, numbers or arrays of one shape.

    Parameters
    ----------
    pressure : array_like
        hPa at the telescope.
    ozone : array_like
        Dobson units.
    aerosol : array_like
        Optical depth of aerosols through one airmass at 5500 Angstrom.
    aerosol_exponent : array_like
        The depth goes as the wavelength to minus this power.
    water : array_like
        Precipitable water, mm.

    Raises
    ------
    PogsonValueError
        If a value is negative or not finite (the exponent may be negative).

    Examples
    --------
    >>> AtmosphereState(water=5.0).ozone
    260.0
    """

    pressure: Any = 775.0
    ozone: Any = 260.0
    aerosol: Any = 0.03
    aerosol_exponent: Any = 1.0
    water: Any = 3.0

    def __post_init__(self) -> None:
        for name in ("pressure", "ozone", "aerosol", "aerosol_exponent", "water"):
            value = np.asarray(getattr(self, name), np.float64)
            if not np.isfinite(value).all() or (name != "aerosol_exponent" and np.any(value < 0)):
                raise PogsonValueError(
                    f"{name} of the atmosphere runs from {value.min()} to {value.max()}; it must "
                    "be finite" + ("." if name == "aerosol_exponent" else " and not negative.")
                )


@dataclass(frozen=True, eq=False)
class AtmosphereModel:
    """What the gases absorb, from the shipped tables or from tables of one's own.

    Parameters
    ----------
    ozone, oxygen, water : BandAbsorber or TabulatedAbsorber
        Absorption of each gas.

    Examples
    --------
    >>> air = AtmosphereModel()
    >>> air.transmission([4000.0, 6000.0, 7620.0, 9350.0], 1.2, AtmosphereState()).round(3)
    array([0.684, 0.871, 0.627, 0.654])
    """

    ozone: BandAbsorber | TabulatedAbsorber = field(default_factory=lambda: load_absorber("ozone"))
    oxygen: BandAbsorber | TabulatedAbsorber = field(
        default_factory=lambda: load_absorber("oxygen")
    )
    water: BandAbsorber | TabulatedAbsorber = field(default_factory=lambda: load_absorber("water"))

    def depth(self, wavelength: Any, airmass: Any, state: AtmosphereState) -> np.ndarray:
        """Optical depth along the line of sight, shape (..., wavelengths).

        Parameters
        ----------
        wavelength : array_like, shape (m,)
            Vacuum Angstrom.
        airmass : array_like, shape (...)
            Airmass; broadcast with the state.
        state : AtmosphereState
            The parameters.
        """
        return self.depth_and_slopes(wavelength, airmass, state)[0]

    def transmission(self, wavelength: Any, airmass: Any, state: AtmosphereState) -> np.ndarray:
        """Fraction of the light that arrives, shape (..., wavelengths)."""
        return np.asarray(np.exp(-self.depth(wavelength, airmass, state)))

    def depth_and_slopes(
        self, wavelength: Any, airmass: Any, state: AtmosphereState
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the depth and its derivatives by each parameter and by the airmass.

        Returns
        -------
        depth : numpy.ndarray, shape (..., wavelengths)
        slopes : dict of str to numpy.ndarray
            By ``pressure``, ``ozone``, ``aerosol``, ``aerosol_exponent``, ``water``, ``airmass``.
            The pressure's effect on the width of lines is left out of its derivative.
        """
        lam = np.asarray(wavelength, np.float64)
        x = np.asarray(airmass, np.float64)
        names = ("pressure", "ozone", "aerosol", "aerosol_exponent", "water")
        p, o3, tau, alpha, water = (np.asarray(getattr(state, n), np.float64) for n in names)
        X = x[..., None]
        molecular = rayleigh_depth(lam)
        ratio = np.log(lam / AEROSOL_WAVELENGTH)
        haze = np.exp(-alpha[..., None] * ratio)
        ozone, by_ozone = self.ozone.depth_and_slope(lam, o3 * x, p)
        oxygen, by_oxygen = self.oxygen.depth_and_slope(lam, x, p)
        wet, by_wet = self.water.depth_and_slope(lam, water * x, p)
        pressure = molecular / 1013.25
        clear = X * (pressure * p[..., None] + tau[..., None] * haze)
        slopes = {
            "pressure": X * pressure,
            "ozone": by_ozone / np.maximum(o3, 1e-12)[..., None],
            "aerosol": X * haze,
            "aerosol_exponent": -X * tau[..., None] * haze * ratio,
            "water": by_wet / np.maximum(water, 1e-12)[..., None],
            "airmass": (clear + by_ozone + by_oxygen + by_wet) / X,
        }
        return np.asarray(clear + ozone + oxygen + wet), slopes

    def bandpass(
        self, instrument: Bandpass, airmass: float, state: AtmosphereState, *, step: float = 5.0
    ) -> Bandpass:
        """Return the response of instrument and atmosphere together.

        Parameters
        ----------
        instrument : Bandpass
            Optics, filter and detector without atmosphere.
        airmass : float
            Airmass.
        state : AtmosphereState
            The parameters, single numbers.
        step : float
            Largest step in Angstrom.

        Examples
        --------
        >>> z = Bandpass("z", [8400.0, 8500.0, 9200.0, 9300.0], [0.0, 1.0, 1.0, 0.0])
        >>> wet, dry = (AtmosphereModel().bandpass(z, 1.2, AtmosphereState(water=w))
        ...             for w in (10.0, 1.0))
        >>> wet.pivot_wavelength < dry.pivot_wavelength
        True
        """
        low, high = instrument.wavelength_range
        lam = np.union1d(instrument.wavelength, np.arange(low, high, float(step)))
        lam = lam[(lam >= low) & (lam <= high)]
        passed = instrument.evaluate(lam) * self.transmission(lam, airmass, state)
        return replace(instrument, wavelength=lam, throughput=passed)
