"""Spectra: flux density per wavelength, with the medium of the wavelengths declared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import astropy.units as u
import numpy as np

from pogson.errors import (
    BoundsError,
    CalibrationError,
    PogsonValueError,
    UnitMismatchError,
    choices,
)
from pogson.sed._grid import check_values, check_wavelength
from pogson.units import magnitude_to_flux, strip_unit

if TYPE_CHECKING:
    from pogson.sed.bandpass import Bandpass

__all__ = ["SPEED_OF_LIGHT", "Spectrum", "air_to_vacuum", "vacuum_to_air"]

SPEED_OF_LIGHT = 2.99792458e18
"""Speed of light in Angstrom per second."""

# 1 nJy in erg/s/cm2/Hz
_NJY = 1e-32
_MEDIA = ("vacuum", "air")
_FLAM = u.erg / u.s / u.cm**2 / u.AA


def vacuum_to_air(wavelength: Any) -> np.ndarray:
    """Wavelength in standard dry air (15 C, 101325 Pa) of a vacuum wavelength, both Angstrom.

    Notes
    -----
    Refractive index of Ciddor (1996, Appl. Opt. 35, 1566) in the form used for stellar spectra,
    valid from 2300 to 16900 Angstrom. Below 2000 Angstrom wavelengths are returned unchanged,
    where by convention vacuum wavelengths are quoted.

    Examples
    --------
    >>> round(float(vacuum_to_air(6564.61)), 2)
    6562.8
    """
    lam = strip_unit(wavelength, u.AA, "wavelength")
    return np.where(lam < 2000.0, lam, lam / _refractive_index(lam))


def air_to_vacuum(wavelength: Any) -> np.ndarray:
    """Vacuum wavelength of a wavelength in standard air, both Angstrom; inverts `vacuum_to_air`.

    Examples
    --------
    >>> round(float(air_to_vacuum(6562.80)), 2)
    6564.61
    """
    air = strip_unit(wavelength, u.AA, "wavelength")
    lam = np.array(air, np.float64)
    # The index changes by 1e-8 per Angstrom, so three rounds reach double precision.
    for _ in range(4):
        lam = air * _refractive_index(lam)
    return np.where(air < 2000.0, air, lam)


def _refractive_index(vacuum: np.ndarray) -> np.ndarray:
    """Refractive index of standard air at vacuum wavelengths in Angstrom."""
    s2 = (1e4 / np.maximum(vacuum, 1000.0)) ** 2
    return 1.0 + 0.05792105 / (238.0185 - s2) + 0.00167917 / (57.362 - s2)


@dataclass(frozen=True, eq=False)
class Spectrum:
    r"""A spectrum of a source; immutable.

    Parameters
    ----------
    wavelength : array_like, shape (n,)
        Wavelengths in Angstrom (or a Quantity), strictly increasing.
    flux : array_like, shape (n,)
        Flux density :math:`f_\lambda` in erg/s/cm2/Angstrom (or a Quantity). Zero and negative
        values are kept.
    medium : {"vacuum", "air"}, optional
        What the wavelengths are measured in; "vacuum" unless said. Synthetic photometry converts.
    name : str, optional
        A label.

    Raises
    ------
    PogsonValueError
        If wavelengths do not increase, a value is not finite, or the medium is unknown.

    Notes
    -----
    Between samples :math:`\lambda^2 f_\lambda`, which is proportional to :math:`f_\nu`, is linear
    in wavelength. A source of constant AB magnitude is then represented exactly by any number of
    samples; for spectra sampled well the choice is immaterial.

    Examples
    --------
    >>> flat = Spectrum.constant_ab(20.0)
    >>> flat.flux_density([4000.0, 7000.0])
    array([36307.80547701, 36307.80547701])
    """

    wavelength: np.ndarray
    flux: np.ndarray
    medium: Literal["vacuum", "air"] = "vacuum"
    name: str = ""

    def __post_init__(self) -> None:
        what = f"spectrum {self.name!r}" if self.name else "the spectrum"
        lam = check_wavelength(self.wavelength, what)
        values = self.flux
        if isinstance(values, u.Quantity):
            try:
                values = values.to_value(_FLAM, u.spectral_density(lam * u.AA))
            except u.UnitConversionError:
                raise UnitMismatchError(
                    f"The flux of {what} has unit '{values.unit}'; it must be a flux density such "
                    f"as erg/s/cm2/Angstrom or nJy."
                ) from None
        if self.medium not in _MEDIA:
            raise PogsonValueError(
                f"Unknown wavelength medium {self.medium!r}; allowed: {choices(_MEDIA)}."
            )
        object.__setattr__(self, "wavelength", lam)
        object.__setattr__(self, "flux", check_values(values, lam, f"The flux of {what}"))

    @classmethod
    def constant_ab(
        cls, magnitude: float, wavelength_range: tuple[float, float] = (1000.0, 30000.0)
    ) -> Spectrum:
        """Return the spectrum whose AB magnitude is the same at every wavelength.

        Examples
        --------
        >>> Spectrum.constant_ab(31.4).flux_density(5000.0)
        array(1.)
        """
        lam = np.asarray(wavelength_range, np.float64)
        f_nu = float(magnitude_to_flux(magnitude)) * _NJY
        return cls(lam, f_nu * SPEED_OF_LIGHT / lam**2, name=f"AB {magnitude:g}")

    def evaluate(self, wavelength: Any) -> np.ndarray:
        """Flux density in erg/s/cm2/Angstrom at wavelengths in Angstrom, in this medium.

        Raises
        ------
        BoundsError
            If a wavelength is outside the samples; nothing is extrapolated.
        """
        lam = strip_unit(wavelength, u.AA, "wavelength")
        first, last = self.wavelength[0], self.wavelength[-1]
        outside = (lam < first) | (lam > last)
        if np.any(outside):
            raise BoundsError(
                f"Wavelength {np.atleast_1d(lam)[np.atleast_1d(outside)][0]:g} Angstrom is outside "
                f"the spectrum's {first:g} to {last:g}; nothing is extrapolated."
            )
        return np.interp(lam, self.wavelength, self.flux * self.wavelength**2) / lam**2

    def flux_density(self, wavelength: Any) -> np.ndarray:
        """Flux density per frequency in nJy at wavelengths in Angstrom."""
        lam = strip_unit(wavelength, u.AA, "wavelength")
        return np.asarray(self.evaluate(lam) * lam**2 / (SPEED_OF_LIGHT * _NJY))

    def to_vacuum(self) -> Spectrum:
        r"""Return the spectrum with vacuum wavelengths.

        The flux density per unit wavelength is changed by
        :math:`d\lambda_{air}/d\lambda_{vac}`, 3e-4, so that the energy is the same.
        """
        if self.medium == "vacuum":
            return self
        lam = air_to_vacuum(self.wavelength)
        stretch = np.gradient(self.wavelength, lam) if lam.size > 2 else np.ones(lam.size)
        return Spectrum(lam, self.flux * stretch, "vacuum", self.name)

    def scaled(self, factor: float) -> Spectrum:
        """Return the spectrum times a number."""
        return Spectrum(self.wavelength, self.flux * float(factor), self.medium, self.name)

    def scaled_to(self, magnitude: float, bandpass: Bandpass) -> Spectrum:
        """Return the spectrum scaled to an AB magnitude in a bandpass.

        Raises
        ------
        CalibrationError
            If the synthetic flux is not positive, so that no factor exists.

        Examples
        --------
        >>> from pogson.sed import Bandpass, synthetic_magnitude, stellar_template
        >>> r = Bandpass.from_speclite("decam2014-r")
        >>> star = stellar_template(5800.0).scaled_to(19.0, r)
        >>> round(synthetic_magnitude(star, r), 9)
        19.0
        """
        from pogson.sed.synthetic import synthetic_flux

        now = synthetic_flux(self, bandpass)
        if not now > 0:
            raise CalibrationError(
                f"Spectrum {self.name!r} has flux {now:g} nJy in {bandpass.name}; it cannot be "
                f"scaled to a magnitude."
            )
        return self.scaled(float(magnitude_to_flux(magnitude)) / now)

    def redden(self, e_bv: float, *, r_v: float = 3.1, law: str = "G23") -> Spectrum:
        """Return the spectrum behind dust, by an extinction law of the dust_extinction package.

        Parameters
        ----------
        e_bv : float
            Colour excess E(B-V) in magnitudes; negative values take dust away.
        r_v : float, optional
            A(V)/E(B-V).
        law : {"G23", "F99", "CCM89", "O94", "F04", "GCC09", "M14", "F19"}, optional
            Class name in `dust_extinction.parameter_averages`.

        Raises
        ------
        PogsonValueError
            If the law is unknown or does not cover the spectrum's wavelengths.

        Examples
        --------
        >>> flat = Spectrum(np.linspace(3000.0, 10000.0, 50), np.ones(50))
        >>> ratio = flat.redden(1.0).evaluate(5500.0) / flat.evaluate(5500.0)
        >>> bool(abs(-2.5 * np.log10(ratio) - 3.1) < 0.05)
        True
        """
        from pogson.sed.extinction import reddening

        factor = reddening(self.to_vacuum().wavelength, e_bv, r_v=r_v, law=law)
        return Spectrum(self.wavelength, self.flux * factor, self.medium, self.name)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Spectrum):
            return NotImplemented
        return (
            self.name == other.name
            and self.medium == other.medium
            and np.array_equal(self.wavelength, other.wavelength)
            and np.array_equal(self.flux, other.flux)
        )

    def __hash__(self) -> int:
        return hash((self.name, self.medium, self.flux.tobytes()))

    def __repr__(self) -> str:
        label = f"{self.name!r}, " if self.name else ""
        return (
            f"Spectrum({label}{self.wavelength.size} samples "
            f"{self.wavelength[0]:g}-{self.wavelength[-1]:g} Angstrom, {self.medium})"
        )
