"""Posterior draws of fitted stars, with what is needed to know where they came from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from pogson.errors import PogsonValueError, ReferenceMismatchError
from pogson.flags import count_flags
from pogson.stars.grid import StellarGrid
from pogson.stars.star_flags import StarFlag

__all__ = ["StarPosteriors"]

DRAW_COLUMNS: Mapping[str, str] = {
    "model_index": "int32",
    "distance_kpc": "float32",
    "av": "float32",
    "rv": "float32",
    "log_posterior": "float32",
    "log_likelihood": "float32",
}
STAR_COLUMNS: Mapping[str, str] = {
    "ess": "float64",
    "log_evidence": "float64",
    "best_chi2": "float64",
    "n_data": "int32",
    "flags": "int64",
}


@dataclass(frozen=True, eq=False)
class StarPosteriors:
    """Equally weighted posterior draws of stars; immutable.

    Stars that could not be fitted keep their row: model index -1, NaN elsewhere, and a flag.

    Parameters
    ----------
    ids : numpy.ndarray, shape (n_stars,)
        Identifiers, those of the photometry.
    model_index : numpy.ndarray of int, shape (n_stars, n_draws)
        Rows of the grid that was fitted; -1 where there is no fit.
    distance_kpc, av, rv : numpy.ndarray, shape (n_stars, n_draws)
        Draws of distance (kpc), A_V (mag) and R_V.
    log_posterior : numpy.ndarray, shape (n_stars, n_draws)
        Log of likelihood times prior of each draw, the prior per kpc, magnitude and unit of R_V.
    log_likelihood : numpy.ndarray, shape (n_stars, n_draws)
        Log likelihood of photometry and parallax, constants included.
    ess : numpy.ndarray, shape (n_stars,)
        Effective sample size (Kish) of the importance sample that the draws come from, the noise
        of models left out by lot included.
    log_evidence : numpy.ndarray, shape (n_stars,)
        Log probability of the data under grid and priors, all normalised.
    best_chi2 : numpy.ndarray, shape (n_stars,)
        Smallest chi-square of photometry and parallax met.
    n_data : numpy.ndarray of int, shape (n_stars,)
        Number of bands plus one for a parallax.
    flags : numpy.ndarray of int, shape (n_stars,)
        `StarFlag` bits.
    bands : tuple of str
        Bands fitted.
    grid_digest : str
        `StellarGrid.digest` of the grid fitted.
    provenance : mapping
        Priors, configuration, seed and versions, JSON-like.

    Examples
    --------
    >>> from pogson.stars import FitConfig, StarPhotometry, fit_stars, simulated_grid
    >>> grid = simulated_grid()
    >>> stars = StarPhotometry.from_fluxes(
    ...     grid.fluxes([100], av=0.5), 0.03 * grid.fluxes([100], av=0.5), bands=grid.bands,
    ...     parallax=[1.0], parallax_err=[0.05], l=[90.0], b=[30.0],
    ... )
    >>> posteriors = fit_stars(grid, stars, seed=1, config=FitConfig(n_draws=50))
    >>> posteriors.distance_kpc.shape
    (1, 50)
    """

    ids: np.ndarray
    model_index: np.ndarray
    distance_kpc: np.ndarray
    av: np.ndarray
    rv: np.ndarray
    log_posterior: np.ndarray
    log_likelihood: np.ndarray
    ess: np.ndarray
    log_evidence: np.ndarray
    best_chi2: np.ndarray
    n_data: np.ndarray
    flags: np.ndarray
    bands: tuple[str, ...]
    grid_digest: str
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        n, n_draws = np.shape(self.model_index)
        for name in ("ids", *DRAW_COLUMNS, *STAR_COLUMNS):
            array = np.asarray(getattr(self, name)).view()
            shape = (n, n_draws) if name in DRAW_COLUMNS else (n,)
            if array.shape != shape:
                raise PogsonValueError(f"{name} must have shape {shape}; it has {array.shape}.")
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        object.__setattr__(self, "bands", tuple(self.bands))

    def __len__(self) -> int:
        return len(self.model_index)

    @property
    def n_draws(self) -> int:
        """Number of draws a star."""
        return int(self.model_index.shape[1])

    @property
    def fitted(self) -> np.ndarray:
        """Which stars have a fit, shape (n_stars,)."""
        if self.n_draws == 0:
            return np.zeros(len(self), bool)
        return np.asarray(self.model_index[:, 0] >= 0)

    def check_grid(self, grid: StellarGrid) -> None:
        """Raise unless a grid is the one fitted, perhaps cut to the bands fitted.

        Raises
        ------
        ReferenceMismatchError
            If it is another grid: model indices would point at other models.
        """
        known = {self.grid_digest, self.provenance.get("bands_digest")}
        if grid.digest in known:
            return
        if set(self.bands) <= set(grid.bands) and grid.with_bands(self.bands).digest in known:
            return
        raise ReferenceMismatchError(
            f"These posteriors come from the grid {self.grid_digest[:12]}..., not from the grid "
            f"{grid.digest[:12]}... ({grid.n_models} models); their model indices mean nothing in "
            "it. Load the grid with the same options as for the fit, or fit again."
        )

    def label(self, grid: StellarGrid, name: str) -> np.ndarray:
        """Return a label of the drawn models, shape (n_stars, n_draws), NaN without a fit.

        Parameters
        ----------
        grid : StellarGrid
            The grid fitted (checked).
        name : str
            A label or prediction of the grid, such as ``"logt"``.

        Raises
        ------
        ReferenceMismatchError
            If it is another grid.
        """
        self.check_grid(grid)
        values = grid.label(name)[np.maximum(self.model_index, 0)]
        return np.where(self.model_index >= 0, values, np.nan)

    def select(self, rows: Any) -> StarPosteriors:
        """Return the stars of a boolean mask, slice or integer index array."""
        names = ("ids", *DRAW_COLUMNS, *STAR_COLUMNS)
        chosen: dict[str, Any] = {name: getattr(self, name)[rows] for name in names}
        return replace(self, **chosen)

    @classmethod
    def concatenate(cls, parts: Sequence[StarPosteriors]) -> StarPosteriors:
        """Return the stars of several results of one grid, priors and configuration.

        Raises
        ------
        PogsonValueError
            If there are no parts.
        ReferenceMismatchError
            If they come from different grids, bands, priors or configurations.
        """
        if not parts:
            raise PogsonValueError("There is nothing to concatenate; give at least one result.")
        first = parts[0]
        for k, part in enumerate(parts):
            if part.grid_digest != first.grid_digest or part.bands != first.bands:
                raise ReferenceMismatchError(
                    f"Part {k} was fitted with grid {part.grid_digest[:12]}... and bands "
                    f"{part.bands}, part 0 with {first.grid_digest[:12]}... and {first.bands}; "
                    "results of different grids cannot be combined."
                )
            if _fingerprint(part.provenance) != _fingerprint(first.provenance):
                raise ReferenceMismatchError(
                    f"Part {k} was fitted with other priors or settings than part 0; results of "
                    "different fits cannot be combined."
                )
        names = ("ids", *DRAW_COLUMNS, *STAR_COLUMNS)
        joined: dict[str, Any] = {n: np.concatenate([getattr(p, n) for p in parts]) for n in names}
        return replace(first, **joined)

    def quantiles(self, name: str, q: Any = (0.16, 0.5, 0.84)) -> np.ndarray:
        """Return quantiles of ``distance_kpc``, ``av`` or ``rv``, shape (n_stars, n_q)."""
        if name not in ("distance_kpc", "av", "rv"):
            raise PogsonValueError(f"No quantiles of {name!r}; there are distance_kpc, av and rv.")
        out = np.full((len(self), np.size(q)), np.nan)
        ok = self.fitted
        out[ok] = np.quantile(
            getattr(self, name)[ok].astype(np.float64), np.atleast_1d(q), axis=1
        ).T
        return out

    def summary(self) -> dict[str, np.ndarray]:
        """Return one row a star: ids, medians and 68 % limits, evidence, chi2, ESS, flags."""
        out: dict[str, np.ndarray] = {"id": self.ids}
        for name in ("distance_kpc", "av", "rv"):
            low, middle, high = self.quantiles(name).T
            out |= {name: middle, f"{name}_16": low, f"{name}_84": high}
        out |= {name: getattr(self, name) for name in STAR_COLUMNS}
        return out

    def count_flags(self) -> dict[str, int]:
        """Return how many stars carry each flag, those that occur only."""
        return count_flags(StarFlag, self.flags)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StarPosteriors):
            return NotImplemented
        for f in fields(self):
            a, b = getattr(self, f.name), getattr(other, f.name)
            if isinstance(a, np.ndarray):
                numbers = a.dtype.kind == "f"
                if a.shape != b.shape or not np.array_equal(a, b, equal_nan=numbers):
                    return False
            elif f.name == "provenance":
                if _fingerprint(a) != _fingerprint(b):
                    return False
            elif a != b:
                return False
        return True

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return (
            f"StarPosteriors({len(self)} stars, {int(self.fitted.sum())} fitted, {self.n_draws} "
            f"draws, bands: {' '.join(self.bands)}, grid {self.grid_digest[:12]})"
        )


def _fingerprint(provenance: Mapping[str, Any]) -> str:
    """Return provenance as canonical text."""
    return json.dumps(dict(provenance), sort_keys=True, default=str)
