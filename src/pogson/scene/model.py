"""What is fitted: the scene, the sky, and the point sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pogson.errors import PogsonTypeError, PogsonValueError, choices
from pogson.scene.grid import SceneGrid
from pogson.scene.prior import ScenePrior

__all__ = ["PointSource", "SceneModel"]

_CONVENTIONS = ("pogson", "smp2023")


@dataclass(frozen=True)
class PointSource:
    """A point source, or a trail, on the scene.

    Parameters
    ----------
    name : str
        Name, unique within a model.
    ra, dec : float
        Position in degrees at the epochs it is seen in.
    epochs : str or sequence of str, optional
        ``"all"``, the ``exposure_id`` of the one exposure it is seen in, or several.
    per_epoch : bool, optional
        One flux per epoch (a light curve), or one flux for all (a known star).
    position : "fixed", "free", float or array_like of shape (2, 2), optional
        Free positions are fitted. A number is the error in arcsec per axis of an astrometric prior,
        an array its covariance (east, north) in arcsec squared.
    tied_to : str, optional
        Name of a source with fitted position whose offset this one shares: two sources at a known
        separation, neither of whose places is known.
    trail : tuple of float, optional
        Length in arcsec and position angle in degrees (north through east) of a trail of uniform
        brightness, centred on the position.

    Raises
    ------
    PogsonValueError
        If a number is not finite, or a covariance not positive definite.

    Examples
    --------
    >>> PointSource("Eris", 25.6247, -3.418, epochs="234928", position=0.01).position_sigma
    (0.01, 0.01)
    """

    name: str
    ra: float
    dec: float
    epochs: str | tuple[str, ...] = "all"
    per_epoch: bool = True
    position: Any = "fixed"
    trail: tuple[float, float] | None = None
    tied_to: str | None = None

    def __post_init__(self) -> None:
        if not (np.isfinite(self.ra) and np.isfinite(self.dec) and abs(self.dec) <= 90):
            raise PogsonValueError(
                f"Source {self.name!r}: ra={self.ra!r}, dec={self.dec!r} is not a position in "
                "degrees."
            )
        if not isinstance(self.epochs, str):
            object.__setattr__(self, "epochs", tuple(str(e) for e in self.epochs))
        if isinstance(self.position, str):
            if self.position not in ("fixed", "free"):
                raise PogsonValueError(
                    f"Source {self.name!r}: position={self.position!r}; allowed: 'fixed', 'free', "
                    "an error in arcsec or a covariance."
                )
        else:
            object.__setattr__(self, "position", _covariance(self.name, self.position))
        if self.trail is not None:
            length, angle = (float(v) for v in self.trail)
            if not (np.isfinite([length, angle]).all() and length >= 0):
                raise PogsonValueError(
                    f"Source {self.name!r}: trail={self.trail!r} must be a length of 0 arcsec or "
                    "more and a position angle in degrees."
                )
            object.__setattr__(self, "trail", (length, angle))

    @property
    def moves(self) -> bool:
        """Whether the position is fitted."""
        return not (isinstance(self.position, str) and self.position == "fixed")

    @property
    def position_precision(self) -> np.ndarray:
        """Inverse covariance of the astrometric prior (arcsec^-2), zero where there is none."""
        if isinstance(self.position, str):
            return np.zeros((2, 2))
        return np.linalg.inv(np.array(self.position))

    @property
    def position_sigma(self) -> tuple[float, float] | None:
        """Errors of the astrometric prior (east, north) in arcsec, or None."""
        if isinstance(self.position, str):
            return None
        sigma = np.sqrt(np.diag(np.array(self.position)))
        return float(sigma[0]), float(sigma[1])

    def seen_in(self, exposure_id: str) -> bool:
        """Return whether the source is seen in an exposure.

        Parameters
        ----------
        exposure_id : str
            Name of the exposure.
        """
        if isinstance(self.epochs, str):
            return self.epochs in ("all", exposure_id)
        return exposure_id in self.epochs


def _covariance(name: str, value: Any) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return a positive definite 2 x 2 covariance as nested tuples."""
    array = np.asarray(value, float)
    if array.ndim == 0:
        array = float(array) * abs(float(array)) * np.eye(2)
    good = array.shape == (2, 2) and bool(np.isfinite(array).all())
    if not good or np.linalg.eigvalsh(0.5 * (array + array.T)).min() <= 0:
        raise PogsonValueError(
            f"Source {name!r}: the astrometric prior {value!r} must be a positive error in arcsec "
            "or a positive definite covariance of shape (2, 2)."
        )
    rows = [[float(v) for v in row] for row in 0.5 * (array + array.T)]
    return (rows[0][0], rows[0][1]), (rows[1][0], rows[1][1])


def _check_names(sources: Sequence[PointSource]) -> None:
    names = [s.name for s in sources]
    if len(set(names)) < len(names):
        raise PogsonValueError(f"Source names must differ, not {names}.")
    free = [s.name for s in sources if s.moves]
    for source in sources:
        if source.tied_to is not None and (source.moves or source.tied_to not in free):
            raise PogsonValueError(
                f"Source {source.name!r} is tied to {source.tied_to!r}, which must be a source "
                f"with fitted position ({choices(free) if free else 'there is none'}); its own "
                "position must be 'fixed'."
            )


@dataclass(frozen=True)
class SceneModel:
    """A scene, its sky and its sources.

    Parameters
    ----------
    sources : sequence of PointSource
        The first is the target: the PSF is taken at its place, and an automatic grid is centred
        on it.
    grid : SceneGrid, "auto" or None, optional
        Scene grid; None for no scene.
    sky_order : {0, 1}, optional
        Constant sky per exposure, or a plane.
    prior : ScenePrior, "auto" or None, optional
        Prior of the scene; "auto" chooses amplitude and smoothness by marginal likelihood, None
        leaves the grid free.
    convention : {"pogson", "smp2023"}, optional
        "smp2023" draws the scene as the code of Bernardinelli et al. (2023) does, turned by 180
        degrees in every stamp and a pixel off: for comparison only.
    origin_test : bool, optional
        Test whether a stamp whose origin is ambiguous fits better a pixel away.
    poisson : bool or "estimate", optional
        Add the photon noise of sources and scene, iterated, in exposures with a gain. "estimate"
        takes the gain of the others from how residuals grow with the model, where that shows.
    robust : float, optional
        Pixels with residuals above this many sigma lose weight (Huber loss); None for least
        squares.
    noise_rescale : bool, optional
        Scale the variance of every exposure to chi2 per degree of freedom of 1.
    search_radius_arcsec : float, optional
        Largest shift of a fitted position; by default 1.5 of the target's PSF widths.
    positive : bool, optional
        Hold source fluxes at zero or above.
    zero_point_error, psf_normalization_error : float, optional
        Relative errors that all exposures share; kept apart from pixel noise in the result's
        ``common_modes``.

    Raises
    ------
    PogsonValueError
        If names repeat, there is no source, or an option is unknown.

    Examples
    --------
    >>> SceneModel((PointSource("target", 150.0, 2.0, epochs="a"),)).convention
    'pogson'
    """

    sources: tuple[PointSource, ...]
    grid: SceneGrid | str | None = "auto"
    sky_order: int = 0
    prior: ScenePrior | str | None = "auto"
    convention: str = "pogson"
    origin_test: bool = True
    poisson: bool | str = True
    robust: float | None = None
    noise_rescale: bool = False
    search_radius_arcsec: float | None = None
    positive: bool = False
    zero_point_error: float = 0.0
    psf_normalization_error: float = 0.0

    def __post_init__(self) -> None:
        sources: Sequence[PointSource] = self.sources
        if isinstance(sources, PointSource):
            sources = (sources,)
        object.__setattr__(self, "sources", tuple(sources))
        if not self.sources or not all(isinstance(s, PointSource) for s in self.sources):
            raise PogsonTypeError("A SceneModel needs at least one PointSource as sources.")
        _check_names(self.sources)
        if self.convention not in _CONVENTIONS:
            raise PogsonValueError(
                f"Unknown convention {self.convention!r}; allowed: {choices(_CONVENTIONS)}."
            )
        if self.sky_order not in (0, 1):
            raise PogsonValueError(f"sky_order={self.sky_order!r} must be 0 or 1.")
        if isinstance(self.grid, str) and self.grid != "auto":
            raise PogsonValueError(f"grid={self.grid!r} must be a SceneGrid, 'auto' or None.")
        if isinstance(self.prior, str):
            if self.prior != "auto":
                raise PogsonValueError(f"prior={self.prior!r} must be a ScenePrior, 'auto' or None")
            object.__setattr__(self, "prior", ScenePrior())
        for name in ("zero_point_error", "psf_normalization_error"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value >= 0):
                raise PogsonValueError(f"{name}={value!r} must be a relative error of 0 or more.")
        for name in ("robust", "search_radius_arcsec"):
            value = getattr(self, name)
            if value is not None and not (np.isfinite(value) and value > 0):
                raise PogsonValueError(f"{name}={value!r} must be positive, or None.")
