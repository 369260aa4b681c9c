"""What the band calibration needs of a star fit: draws as model fluxes, from a sampler it calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pogson.errors import PogsonValueError
from pogson.stars.photometry_table import StarPhotometry

__all__ = ["StarDraws", "StarSampler"]


@dataclass(frozen=True, eq=False)
class StarDraws:
    """Posterior draws of stars as the fluxes that their models predict.

    Parameters
    ----------
    flux : ndarray (n, draws, bands)
        Model fluxes in maggies, distance and extinction applied.
    log_weight : ndarray (n, draws)
        ln of the weights that make the draws those of the posterior: zero for plain draws.
    controls : ndarray (n, draws, k), optional
        Functions of the draws whose posterior mean is zero, such as derivatives of the log
        posterior by the distance modulus. They are regressed out of the scores and so remove most
        of the Monte Carlo noise along the directions that a fit absorbs.
    directions : ndarray (n, draws, k, bands), optional
        How each control follows the data: its derivative by the derivative of the log likelihood
        by the ln of a band's model flux. With them the controls hold at other offsets as well;
        without, they are dropped as soon as draws are reweighted.

    Examples
    --------
    >>> import numpy as np
    >>> StarDraws(np.ones((4, 10, 3)), np.zeros((4, 10))).n_draws
    10
    """

    flux: NDArray[np.float64]
    log_weight: NDArray[np.float64]
    controls: NDArray[np.float64] | None = None
    directions: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        flux, log_weight = np.asarray(self.flux, float), np.asarray(self.log_weight, float)
        if flux.ndim != 3 or log_weight.shape != flux.shape[:2]:
            raise PogsonValueError(
                f"Draws have fluxes of shape {flux.shape} and weights of {log_weight.shape}; they "
                "must be (stars, draws, bands) and (stars, draws)."
            )
        arrays = {"flux": flux, "log_weight": log_weight}
        if self.controls is not None:
            arrays["controls"] = np.asarray(self.controls, float)
            if arrays["controls"].shape[:2] != log_weight.shape or arrays["controls"].ndim != 3:
                raise PogsonValueError(
                    f"controls have shape {arrays['controls'].shape}; they must be (stars, draws, "
                    f"functions) for {log_weight.shape} draws."
                )
            if self.directions is not None:
                arrays["directions"] = np.asarray(self.directions, float)
                wanted = (*arrays["controls"].shape, flux.shape[2])
                if arrays["directions"].shape != wanted:
                    raise PogsonValueError(
                        f"directions of shape {arrays['directions'].shape} must be {wanted}."
                    )
        for name, array in arrays.items():
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    @property
    def n_draws(self) -> int:
        """Number of draws of each star."""
        return int(self.flux.shape[1])

    def rows(self, at: slice | NDArray[np.intp]) -> StarDraws:
        """Return the draws of some stars."""
        controls = None if self.controls is None else self.controls[at]
        directions = None if self.directions is None else self.directions[at]
        return StarDraws(self.flux[at], self.log_weight[at], controls, directions)


class StarSampler(Protocol):
    """Anything that fits stars: photometry and a seed in, posterior draws out.

    Examples
    --------
    >>> def sampler(stars, seed):
    ...     return StarDraws(np.full((len(stars), 4, 1), 1e-6), np.zeros((len(stars), 4)))
    >>> sampler(StarPhotometry.from_fluxes([[1e-6]], [[1e-8]], bands=["g"]), 1).n_draws
    4
    """

    def __call__(self, stars: StarPhotometry, seed: int, /) -> StarDraws:
        """Return draws for the photometry as given, offsets applied and scatter in the errors."""
        ...
