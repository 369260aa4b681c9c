"""Priors of distance: the Galaxy as thin disc, thick disc and halo, or no preference."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from pogson.errors import MissingDataError, PogsonValueError
from pogson.stars.grid import StellarGrid

__all__ = ["DistancePrior", "FlatDistance", "GalacticPrior"]


@runtime_checkable
class DistancePrior(Protocol):
    """What a prior of distance must offer.

    Examples
    --------
    >>> isinstance(GalacticPrior(), DistancePrior)
    True
    """

    @property
    def needs_position(self) -> bool:
        """Whether it depends on the direction."""
        ...

    def log_density(self, distance_kpc: np.ndarray, l: float, b: float) -> np.ndarray:  # noqa: E741
        """Return ln number density per volume, shape (n_components, n_distances)."""
        ...

    def log_model_weights(self, grid: StellarGrid) -> np.ndarray:
        """Return ln probability of each model in each component, (n_components, n_models)."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return what identifies the prior, as JSON-like values."""
        ...


@dataclass(frozen=True)
class FlatDistance:
    """No preference of distance: flat in distance between the limits of the fit.

    Parameters
    ----------
    power : float
        Number of stars per distance grows as this power of it: 0 flat, 2 uniform in volume, -1
        flat in distance modulus.

    Examples
    --------
    >>> FlatDistance(power=2).log_density(np.array([1.0, 10.0]), 0.0, 0.0)
    array([[0., 0.]])
    """

    power: float = 0.0
    needs_position = False

    def log_density(self, distance_kpc: np.ndarray, l: float, b: float) -> np.ndarray:  # noqa: E741
        """Return the log density per volume, one component."""
        return np.asarray((self.power - 2.0) * np.log(distance_kpc))[None, :]

    def log_model_weights(self, grid: StellarGrid) -> np.ndarray:
        """Return zeros: all models alike."""
        return np.zeros((1, grid.n_models))

    def describe(self) -> dict[str, Any]:
        """Return kind and parameters."""
        return {"kind": "FlatDistance", **asdict(self)}


@dataclass(frozen=True)
class GalacticPrior:
    r"""Thin disc, thick disc and flattened halo, with metallicities and ages.

    Parameters
    ----------
    metallicity, age : bool
        Whether to use the distributions of [Fe/H] (label ``feh``) and age (label ``loga``, log10
        years) of the components.
    solar_radius, solar_height : float
        Place of the Sun, kpc from the Galactic axis and above the plane.
    disc_lengths, disc_heights, disc_smoothing : tuple of float
        Scale lengths, scale heights and central smoothing radii of thin and thick disc, kpc.
    thick_fraction, halo_fraction : float
        Densities near the Sun relative to the thin disc.
    halo_slope, halo_smoothing : float
        Power law of the halo and its core radius in kpc.
    halo_flattening : tuple of float
        Axis ratio at the centre and far out, and the scale in kpc between them.
    feh_means, feh_sds : tuple of float
        Mean and standard deviation of [Fe/H] of thin disc, thick disc and halo.
    age_limits : tuple of float
        Youngest and oldest age, Gyr.
    age_feh_centre, age_feh_scale : float
        Logistic relation between mean age and mean [Fe/H].
    age_sd_limits, age_sigma_to_limit : float
        The age spread of a component is the distance from its mean to the oldest age over
        ``age_sigma_to_limit``, within the limits (Gyr).

    Notes
    -----
    With R, Z the Galactocentric cylindrical coordinates, a disc is

    .. math:: n \propto \exp\left[-(\sqrt{R^2 + R_s^2} - \sqrt{R_\odot^2 + R_s^2})/L
              - (|Z| - |Z_\odot|)/H\right]

    and the halo :math:`n \propto [R^2 + (Z/q)^2 + R_s^2]^{-\eta/2}`, with the axis ratio
    :math:`q(r) = q_\infty - (q_\infty - q_0) \exp(1 - \sqrt{r^2 + r_q^2}/r_q)`. Each component has
    a Gaussian [Fe/H] and a Gaussian age cut at the limits. The structure is that of Green et al.
    (2014, ApJ 783, 114) after Juric et al. (2008, ApJ 673, 864); the default numbers follow
    Bland-Hawthorn & Gerhard (2016, ARA&A 54, 529) and are those of brutus (Speagle et al. 2025,
    arXiv:2503.02227). Component, metallicity and age are one joint mixture: a metal-poor star is
    more likely in the halo, and then old.

    Examples
    --------
    >>> prior = GalacticPrior()
    >>> prior.log_density(np.array([1e-6]), 90.0, 45.0)[1:, 0].round(3)
    array([-3.219, -5.298])
    """

    metallicity: bool = True
    age: bool = True
    solar_radius: float = 8.2
    solar_height: float = 0.025
    disc_lengths: tuple[float, float] = (2.6, 2.0)
    disc_heights: tuple[float, float] = (0.3, 0.9)
    disc_smoothing: tuple[float, float] = (2.0, 2.0)
    thick_fraction: float = 0.04
    halo_fraction: float = 0.005
    halo_slope: float = 4.2
    halo_smoothing: float = 2.0
    halo_flattening: tuple[float, float, float] = (0.2, 0.8, 6.0)
    feh_means: tuple[float, float, float] = (-0.2, -0.7, -1.6)
    feh_sds: tuple[float, float, float] = (0.3, 0.4, 0.5)
    age_limits: tuple[float, float] = (0.0, 13.8)
    age_feh_centre: float = -0.5
    age_feh_scale: float = 0.5
    age_sd_limits: tuple[float, float] = (1.0, 4.0)
    age_sigma_to_limit: float = 2.0
    needs_position = True

    def __post_init__(self) -> None:
        lengths = (*self.disc_lengths, *self.disc_heights, *self.feh_sds, self.solar_radius)
        if min(lengths) <= 0.0 or self.thick_fraction < 0.0 or self.halo_fraction < 0.0:
            raise PogsonValueError(
                f"Scales must be positive and fractions not negative in {self!r}."
            )

    def log_density(self, distance_kpc: np.ndarray, l: float, b: float) -> np.ndarray:  # noqa: E741
        """Return ln density of the three components relative to the thin disc near the Sun.

        Parameters
        ----------
        distance_kpc : numpy.ndarray, shape (n,)
            Distances from the Sun.
        l, b : float
            Galactic longitude and latitude, degrees.
        """
        d = np.asarray(distance_kpc, np.float64)
        lon, lat = np.radians(l), np.radians(b)
        x = d * np.cos(lat) * np.cos(lon) - self.solar_radius
        radius2 = x**2 + (d * np.cos(lat) * np.sin(lon)) ** 2
        height = d * np.sin(lat) + self.solar_height
        out = np.empty((3, d.size))
        for k, fraction in enumerate((1.0, self.thick_fraction)):
            smooth2 = self.disc_smoothing[k] ** 2
            along = np.sqrt(radius2 + smooth2) - np.sqrt(self.solar_radius**2 + smooth2)
            above = np.abs(height) - abs(self.solar_height)
            out[k] = -along / self.disc_lengths[k] - above / self.disc_heights[k]
            out[k] += np.log(max(fraction, 1e-300))
        here = self._halo(np.array(self.solar_radius**2), np.array(self.solar_height))
        out[2] = self._halo(radius2, height) - here + np.log(max(self.halo_fraction, 1e-300))
        return out

    def _halo(self, radius2: np.ndarray, height: np.ndarray) -> np.ndarray:
        inner, outer, scale = self.halo_flattening
        r = np.sqrt(radius2 + height**2 + scale**2)
        q = outer - (outer - inner) * np.exp(1.0 - r / scale)
        effective2 = radius2 + (height / q) ** 2 + self.halo_smoothing**2
        return np.asarray(-0.5 * self.halo_slope * np.log(effective2))

    def log_model_weights(self, grid: StellarGrid) -> np.ndarray:
        """Return ln p([Fe/H], age | component) of each model, shape (3, n_models).

        Raises
        ------
        MissingDataError
            If the grid lacks ``feh`` or ``loga`` and that term is not switched off.
        """
        out = np.zeros((3, grid.n_models))
        if self.metallicity:
            feh = self._label(grid, "feh", "metallicity")
            for k in range(3):
                z = (feh - self.feh_means[k]) / self.feh_sds[k]
                out[k] -= 0.5 * z**2 + np.log(self.feh_sds[k] * np.sqrt(2.0 * np.pi))
        if self.age:
            with np.errstate(over="ignore"):
                gyr = 10.0 ** (self._label(grid, "loga", "age") - 9.0)
            for k in range(3):
                out[k] += self._log_age(gyr, self.feh_means[k])
        return out

    def _log_age(self, gyr: np.ndarray, mean_feh: float) -> np.ndarray:
        from scipy.special import ndtr

        low, high = self.age_limits
        mean = low + (high - low) / (
            1.0 + np.exp((mean_feh - self.age_feh_centre) / self.age_feh_scale)
        )
        sd = float(np.clip((high - mean) / self.age_sigma_to_limit, *self.age_sd_limits))
        mass = ndtr((high - mean) / sd) - ndtr((low - mean) / sd)
        lnp = -0.5 * ((gyr - mean) / sd) ** 2 - np.log(sd * np.sqrt(2.0 * np.pi) * mass)
        return np.where((gyr >= low) & (gyr <= high), lnp, -np.inf)

    @staticmethod
    def _label(grid: StellarGrid, name: str, switch: str) -> np.ndarray:
        try:
            return np.asarray(grid.label(name), np.float64)
        except MissingDataError as error:
            raise MissingDataError(
                f"GalacticPrior needs it. {error} To do without: GalacticPrior({switch}=False)."
            ) from None

    def describe(self) -> dict[str, Any]:
        """Return kind and parameters."""
        return {"kind": "GalacticPrior", **asdict(self)}
