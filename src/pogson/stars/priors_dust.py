"""Priors of extinction: flat or Gaussian between limits, by sightline of a map, or by star."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from pogson.errors import PogsonValueError

if TYPE_CHECKING:
    from pogson.stars.photometry_table import StarPhotometry

__all__ = ["DustMapPrior", "ExtinctionPrior", "ExtinctionProfile", "StarExtinctionPrior"]


@runtime_checkable
class ExtinctionProfile(Protocol):
    """What a prior of A_V must offer.

    Examples
    --------
    >>> isinstance(ExtinctionPrior(), ExtinctionProfile)
    True
    """

    @property
    def low(self) -> float:
        """Lower limit of A_V."""
        ...

    @property
    def high(self) -> float:
        """Upper limit of A_V."""
        ...

    @property
    def needs_position(self) -> bool:
        """Whether it depends on the direction or the distance."""
        ...

    def profile(
        self,
        distance_kpc: np.ndarray,
        l: float,  # noqa: E741
        b: float,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of A_V at each distance (sd inf: flat)."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return what identifies the prior, as JSON-like values."""
        ...


def _check_limits(low: float, high: float) -> None:
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise PogsonValueError(
            f"The limits of A_V must be finite and low < high; got {low}, {high}."
        )


@dataclass(frozen=True)
class ExtinctionPrior:
    """Prior of A_V alike in all directions: flat, or a truncated Gaussian.

    Parameters
    ----------
    mean, sd : float
        Of the Gaussian before it is cut; an ``sd`` of infinity (default) is flat.
    low, high : float
        Limits in magnitudes. The prior is cut and normalised there.

    Raises
    ------
    PogsonValueError
        If limits or sd do not make a prior.

    Examples
    --------
    >>> ExtinctionPrior(0.12, 0.02)
    ExtinctionPrior(mean=0.12, sd=0.02, low=0.0, high=20.0)
    """

    mean: float = 0.0
    sd: float = np.inf
    low: float = 0.0
    high: float = 20.0
    needs_position = False

    def __post_init__(self) -> None:
        _check_limits(self.low, self.high)
        if not (np.isfinite(self.mean) and self.sd > 0.0):
            raise PogsonValueError(f"{self!r} needs a finite mean and a positive sd.")

    def profile(
        self,
        distance_kpc: np.ndarray,
        l: float,  # noqa: E741
        b: float,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the same mean and standard deviation at every distance."""
        n = np.size(distance_kpc)
        return np.full(n, self.mean), np.full(n, self.sd)

    def describe(self) -> dict[str, Any]:
        """Return kind and parameters."""
        sd = "flat" if np.isinf(self.sd) else self.sd
        return {"kind": "ExtinctionPrior", **asdict(self), "sd": sd}


@dataclass(frozen=True)
class DustMapPrior:
    """Truncated Gaussian prior of A_V along each sightline of a dust map.

    Parameters
    ----------
    sightline : callable
        ``sightline(distance_kpc, l, b) -> (mean, sd)`` of A_V at an array of distances, Galactic
        coordinates in degrees. It must be importable for processes and Dask.
    name : str
        Name and version of the map, written into results.
    extra_sd : float
        Scatter of stars about the map, magnitudes, added in quadrature (angular structure that
        the map does not resolve; Green et al. 2019, ApJ 887, 93, discuss it).
    scale : float
        A_V per unit of the map: 1 for maps of A_V, about 2.742 for those of SFD E(B-V) (Schlafly
        & Finkbeiner 2011, ApJ 737, 103).
    low, high : float
        Limits of A_V.

    Raises
    ------
    PogsonValueError
        If limits, scatter or the map's answer do not make a prior.

    Examples
    --------
    >>> def foreground(distance_kpc, l, b):
    ...     return 0.3 * np.minimum(distance_kpc / 0.5, 1.0), np.full_like(distance_kpc, 0.03)
    >>> prior = DustMapPrior(foreground, "screen at 0.5 kpc")
    >>> prior.profile(np.array([0.25, 2.0]), 180.0, 5.0)[0]
    array([0.15, 0.3 ])
    """

    sightline: Callable[[np.ndarray, float, float], Any]
    name: str
    extra_sd: float = 0.0
    scale: float = 1.0
    low: float = 0.0
    high: float = 20.0
    needs_position = True

    def __post_init__(self) -> None:
        _check_limits(self.low, self.high)
        if not (self.extra_sd >= 0.0 and self.scale > 0.0):
            raise PogsonValueError("extra_sd must not be negative and scale must be positive.")

    def profile(
        self,
        distance_kpc: np.ndarray,
        l: float,  # noqa: E741
        b: float,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the map's mean and standard deviation of A_V at each distance."""
        d = np.asarray(distance_kpc, np.float64)
        mean, sd = self.sightline(d, l, b)
        mean = np.broadcast_to(np.asarray(mean, np.float64), d.shape) * self.scale
        sd = np.hypot(
            np.broadcast_to(np.asarray(sd, np.float64), d.shape) * self.scale, self.extra_sd
        )
        if not (np.all(np.isfinite(mean)) and np.all(sd > 0.0)):
            raise PogsonValueError(
                f"The dust map {self.name!r} gives no finite mean and positive sd of A_V at "
                f"l = {l:g}, b = {b:g}; where it has no data, return an sd of infinity (flat)."
            )
        return mean, sd

    def describe(self) -> dict[str, Any]:
        """Return kind and parameters."""
        return {
            "kind": "DustMapPrior", "name": self.name, "extra_sd": self.extra_sd,
            "scale": self.scale, "low": self.low, "high": self.high,
        }  # fmt: skip


@dataclass(frozen=True)
class StarExtinctionPrior:
    """The extinction that the catalogue gives for each star, and another prior where it has none.

    Parameters
    ----------
    otherwise : ExtinctionProfile
        Prior of the stars without an extinction of their own, and the limits of all. Default
        `ExtinctionPrior`, flat.

    Notes
    -----
    Means and standard deviations come with the stars: `StarPhotometry.with_extinctions`. The prior
    of such a star is ``N(A_V; mean, sd)`` cut at the limits and normalised there, the same at every
    distance.

    Examples
    --------
    >>> from pogson.stars import StarPriors
    >>> priors = StarPriors(extinction=StarExtinctionPrior(ExtinctionPrior(high=3.0)))
    >>> priors.extinction.high
    3.0
    """

    otherwise: ExtinctionProfile = field(default_factory=ExtinctionPrior)

    @property
    def low(self) -> float:
        """Lower limit of A_V."""
        return self.otherwise.low

    @property
    def high(self) -> float:
        """Upper limit of A_V."""
        return self.otherwise.high

    @property
    def needs_position(self) -> bool:
        """Whether the prior of the other stars depends on the direction or the distance."""
        return bool(getattr(self.otherwise, "needs_position", True))

    def profile(
        self,
        distance_kpc: np.ndarray,
        l: float,  # noqa: E741
        b: float,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of stars without an extinction of their own."""
        return self.otherwise.profile(distance_kpc, l, b)

    def describe(self) -> dict[str, Any]:
        """Return kind and the prior of the other stars."""
        return {"kind": "StarExtinctionPrior", "otherwise": self.otherwise.describe()}


def own_extinctions(prior: Any, stars: StarPhotometry) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of A_V of each star, NaN where it has none of its own.

    Raises
    ------
    PogsonValueError
        If stars have them and the prior does not take them.
    """
    if not isinstance(prior, StarExtinctionPrior) and np.isfinite(stars.av_mean).any():
        raise PogsonValueError(
            f"{int(np.isfinite(stars.av_mean).sum())} stars have an extinction of their own and "
            f"the prior {type(prior).__name__} does not use it: take "
            "StarPriors(extinction=StarExtinctionPrior()), or stars without."
        )
    return stars.av_mean, stars.av_sd


def needs_extinctions(prior: Any, stars: StarPhotometry) -> None:
    """Check that some stars have an extinction of their own, if the prior takes them.

    Raises
    ------
    PogsonValueError
        If none has.
    """
    if isinstance(prior, StarExtinctionPrior) and not np.isfinite(stars.av_mean).any():
        raise PogsonValueError(
            f"The prior is the extinction of each star and none of {len(stars)} has one: give "
            "them with stars.with_extinctions(av_mean, av_sd)."
        )
