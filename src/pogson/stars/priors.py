"""Priors of the stellar fit: of models, distance, extinction and R_V, as objects to exchange.

`StarPriors` holds one of each. A prior of models has ``log_prior(grid)``; of distance,
``log_density(distance_kpc, l, b)`` and ``log_model_weights(grid)``; of extinction,
``profile(distance_kpc, l, b)`` and the limits ``low`` and ``high``. Any object with these methods
and ``describe()`` (a JSON-like dictionary, written into results) will do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from pogson.errors import MissingDataError, PogsonTypeError, PogsonValueError
from pogson.stars.grid import StellarGrid
from pogson.stars.priors_dust import ExtinctionPrior, ExtinctionProfile
from pogson.stars.priors_galaxy import DistancePrior, GalacticPrior

__all__ = [
    "LatticeVolume",
    "MassFunction",
    "ModelPrior",
    "ModelWeights",
    "RvPrior",
    "StarPriors",
]


@runtime_checkable
class ModelPrior(Protocol):
    """What a prior of models must offer.

    Examples
    --------
    >>> isinstance(MassFunction(), ModelPrior)
    True
    """

    def log_prior(self, grid: StellarGrid) -> np.ndarray:
        """Return the log prior of each model up to a constant, shape (n_models,)."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return what identifies the prior, as JSON-like values."""
        ...


def described(prior: Any) -> dict[str, Any]:
    """Return a dataclass prior as a dictionary with its kind.

    Examples
    --------
    >>> described(RvPrior())["kind"]
    'RvPrior'
    """
    return {"kind": type(prior).__name__, **asdict(prior)}


@dataclass(frozen=True)
class MassFunction:
    """Broken power law of initial mass (Kroupa 2001, MNRAS 322, 231).

    Parameters
    ----------
    low_slope, high_slope : float
        Exponents of dN/dm below and above the break.
    break_mass, minimum_mass : float
        Solar masses; models below the minimum get probability zero.
    label : str
        Grid column with the initial mass.

    Examples
    --------
    >>> from pogson.stars import StellarGrid
    >>> grid = StellarGrid([[[5.0, 1.0, 0.1]]] * 2, ["g"], {"mini": [0.5, 1.0]})
    >>> lnp = MassFunction().log_prior(grid)
    >>> round(float(lnp[0] - lnp[1]), 4)
    1.5942
    """

    low_slope: float = 1.3
    high_slope: float = 2.3
    break_mass: float = 0.5
    minimum_mass: float = 0.08
    label: str = "mini"

    def log_prior(self, grid: StellarGrid) -> np.ndarray:
        """Return ln dN/dm of each model, up to a constant."""
        mass = column(grid, self.label, "MassFunction", "models=(LatticeVolume(),)")
        with np.errstate(divide="ignore", invalid="ignore"):
            scaled = np.log(mass / self.break_mass)
        slope = np.where(scaled < 0.0, self.low_slope, self.high_slope)
        return np.where(mass >= self.minimum_mass, -slope * scaled, -np.inf)

    def describe(self) -> dict[str, Any]:
        """Return kind and parameters."""
        return described(self)


@dataclass(frozen=True)
class LatticeVolume:
    """The volume that each model stands for: `StellarGrid.log_volume`.

    Without it the density of the lattice itself would act as a prior.

    Examples
    --------
    >>> from pogson.stars import StellarGrid
    >>> grid = StellarGrid([[[5.0, 1.0, 0.1]]] * 3, ["g"], {"mini": [1.0, 1.5, 3.0]})
    >>> np.exp(LatticeVolume().log_prior(grid))
    array([0.5, 1. , 1.5])
    """

    def log_prior(self, grid: StellarGrid) -> np.ndarray:
        """Return the log volume of each model."""
        return np.asarray(grid.log_volume, np.float64)

    def describe(self) -> dict[str, Any]:
        """Return the kind."""
        return described(self)


@dataclass(frozen=True, eq=False)
class ModelWeights:
    """A prior of models given as numbers, such as another code's.

    Parameters
    ----------
    log_weights : array_like, shape (n_models,)
        Log prior of each model up to a constant; -inf excludes one.
    name : str
        What to call it in results.

    Examples
    --------
    >>> from pogson.stars import StellarGrid
    >>> grid = StellarGrid([[[5.0, 1.0, 0.1]]] * 2, ["g"], {"mini": [1.0, 2.0]})
    >>> ModelWeights([0.0, -1.0]).log_prior(grid)
    array([ 0., -1.])
    """

    log_weights: Any
    name: str = "given"

    def log_prior(self, grid: StellarGrid) -> np.ndarray:
        """Return the numbers, checked to be one a model."""
        values = np.asarray(self.log_weights, np.float64)
        if values.shape != (grid.n_models,):
            raise PogsonValueError(
                f"ModelWeights has shape {values.shape}, the grid {grid.n_models} models; give one "
                "number a model of this very grid (select both alike)."
            )
        return values

    def describe(self) -> dict[str, Any]:
        """Return the name and a digest of the numbers."""
        import hashlib

        data = np.ascontiguousarray(self.log_weights, np.float64).tobytes()
        return {
            "kind": "ModelWeights", "name": self.name, "sha256": hashlib.sha256(data).hexdigest()
        }  # fmt: skip


@dataclass(frozen=True)
class RvPrior:
    """Truncated Gaussian prior of R_V.

    Parameters
    ----------
    mean, sd : float
        Default 3.32 +- 0.18 (Schlafly et al. 2016, ApJ 821, 78). A ``sd`` of 0 fixes R_V.
    low, high : float
        Limits: the Gaussian is cut and normalised there, its mass not heaped on them.

    Raises
    ------
    PogsonValueError
        If the numbers do not make a prior.

    Examples
    --------
    >>> RvPrior(3.1, 0.2)
    RvPrior(mean=3.1, sd=0.2, low=1.0, high=8.0)
    """

    mean: float = 3.32
    sd: float = 0.18
    low: float = 1.0
    high: float = 8.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.mean) and 0.0 <= self.sd < np.inf and self.low < self.high):
            raise PogsonValueError(f"{self!r} needs a finite mean, sd >= 0 and low < high.")
        if not self.low <= self.mean <= self.high:
            raise PogsonValueError(f"The mean {self.mean} of R_V must lie within its limits.")

    def describe(self) -> dict[str, Any]:
        """Return kind and parameters."""
        return described(self)


@dataclass(frozen=True)
class StarPriors:
    """All priors of a fit; exchange any of them.

    Parameters
    ----------
    models : tuple of ModelPrior
        Their logarithms add up. Empty: all models alike. Default `MassFunction` and
        `LatticeVolume`.
    distance : DistancePrior
        Default `GalacticPrior`; `FlatDistance` switches it off.
    extinction : ExtinctionProfile
        Default flat, `ExtinctionPrior`; `DustMapPrior` takes one by sightline,
        `StarExtinctionPrior` one that the catalogue gives for each star.
    rv : RvPrior
        Default `RvPrior`.

    Raises
    ------
    PogsonTypeError
        If one of them lacks the methods it needs.

    Notes
    -----
    The joint prior of model j, distance d, A_V and R_V is ``p_j * sum_c n_c(d) q_cj * d**2 *
    p(A_V | d) * p(R_V)`` with the components c of the distance prior, normalised as a whole within
    the limits of `FitConfig`, so that evidences of different grids and priors can be compared.

    Examples
    --------
    >>> from pogson.stars import FlatDistance
    >>> priors = StarPriors(distance=FlatDistance(), models=())
    >>> priors.needs_position
    False
    """

    models: tuple[ModelPrior, ...] = (MassFunction(), LatticeVolume())
    distance: DistancePrior = field(default_factory=GalacticPrior)
    extinction: ExtinctionProfile = field(default_factory=ExtinctionPrior)
    rv: RvPrior = field(default_factory=RvPrior)

    def __post_init__(self) -> None:
        object.__setattr__(self, "models", tuple(self.models))
        wanted: list[tuple[Any, tuple[str, ...], str]] = [
            (model, ("log_prior", "describe"), "models") for model in self.models
        ]
        wanted.append((self.distance, ("log_density", "log_model_weights", "describe"), "distance"))
        wanted.append((self.extinction, ("profile", "low", "high", "describe"), "extinction"))
        wanted.append((self.rv, ("mean", "sd", "low", "high"), "rv"))
        for prior, methods, name in wanted:
            missing = [m for m in methods if not hasattr(prior, m)]
            if missing:
                raise PogsonTypeError(
                    f"{prior!r} cannot be the prior of {name}: it has no {', '.join(missing)}."
                )

    @property
    def needs_position(self) -> bool:
        """Whether the distance or extinction prior depends on the direction."""
        return bool(
            getattr(self.distance, "needs_position", True)
            or getattr(self.extinction, "needs_position", True)
        )

    def log_model_prior(self, grid: StellarGrid) -> np.ndarray:
        """Return the summed log prior of the models.

        Raises
        ------
        PogsonValueError
            If no model has a finite one.
        """
        total = np.zeros(grid.n_models)
        for prior in self.models:
            total = total + np.asarray(prior.log_prior(grid), np.float64)
        total[np.isnan(total)] = -np.inf
        if not np.any(np.isfinite(total)):
            raise PogsonValueError(
                "Every model has prior probability zero: check the limits of the priors of models "
                "and the labels of the grid."
            )
        return total

    def describe(self) -> Mapping[str, Any]:
        """Return all priors as JSON-like values."""
        return {
            "models": [prior.describe() for prior in self.models],
            "distance": self.distance.describe(),
            "extinction": self.extinction.describe(),
            "rv": self.rv.describe(),
        }


def column(grid: StellarGrid, name: str, prior: str, instead: str) -> np.ndarray:
    """Return a column of the grid or say which prior needed it and how to do without.

    Examples
    --------
    >>> from pogson.stars import StellarGrid
    >>> column(StellarGrid([[[5.0, 1.0, 0.1]]], ["g"], {"feh": [0.1]}), "feh", "X", "Y")
    array([0.1])
    """
    try:
        return np.asarray(grid.label(name), np.float64)
    except MissingDataError as error:
        raise MissingDataError(f"{prior} needs it. {error} To do without: {instead}.") from None
