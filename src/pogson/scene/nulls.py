"""Null tests: what flux a source that is not there seems to have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pogson.errors import PogsonValueError
from pogson.scene.exposure import SceneExposure
from pogson.scene.fit import Solution, prepare, solve_scene
from pogson.scene.model import SceneModel
from pogson.scene.passes import starting_points
from pogson.scene.positions import LEAST_LEFT
from pogson.scene.result import SceneResult
from pogson.scene.solve import one_thread
from pogson.streams import stream

__all__ = ["NullTests", "null_offsets", "null_pulls", "null_tests"]


@dataclass(frozen=True, eq=False)
class NullTests:
    """Fluxes of sources that are not there.

    Attributes
    ----------
    offsets : numpy.ndarray, shape (n, 2)
        Where they were forced, pixels (x, y) from the target.
    fluxes, errors : mapping of str to numpy.ndarray, shape (n,)
        Per exposure tested; NaN where no usable pixel sees the place.

    Examples
    --------
    >>> flux, error = np.array([3.0, -4.0]), np.array([4.0, 4.0])
    >>> tests = NullTests(np.zeros((2, 2)), {"a": flux}, {"a": error})
    >>> round(tests.rms, 3)
    0.884
    """

    offsets: np.ndarray
    fluxes: Mapping[str, np.ndarray]
    errors: Mapping[str, np.ndarray]

    @property
    def pulls(self) -> np.ndarray:
        """Fluxes over errors of all exposures, one after the other; those that could be had."""
        if not self.fluxes:
            return np.empty(0)
        found = np.concatenate([self.fluxes[k] / self.errors[k] for k in self.fluxes])
        return found[np.isfinite(found)]

    @property
    def rms(self) -> float:
        """Root mean square pull; 1 is right. Pulls of neighbours are correlated."""
        pulls = self.pulls
        return float(np.sqrt(np.mean(pulls**2))) if pulls.size else float("nan")

    def rms_of(self, exposure_id: str) -> float:
        """Return the rms pull of one exposure.

        Parameters
        ----------
        exposure_id : str
            Its name.
        """
        pulls = self.fluxes[exposure_id] / self.errors[exposure_id]
        pulls = pulls[np.isfinite(pulls)]
        return float(np.sqrt(np.mean(pulls**2))) if pulls.size else float("nan")


def null_offsets(reach: float = 4.0, step: float = 2.0) -> np.ndarray:
    """Return a square grid of offsets in pixels, shape (n, 2).

    Parameters
    ----------
    reach, step : float, optional
        Half-size and spacing.

    Examples
    --------
    >>> null_offsets().shape
    (25, 2)
    """
    axis = np.arange(-reach, reach + 0.5 * step, step)
    return np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)


def null_tests(
    exposures: Sequence[SceneExposure],
    model: SceneModel | SceneResult,
    *,
    offsets: Any = None,
    min_good: float = 0.85,
    starts: int = 1,
    seed: int = 0,
) -> NullTests:
    """Force a source where there is none, in every exposure without one, and return its flux.

    Each forced source is one more column of the fit, alone: scene, skies and the real sources are
    fitted with it.

    Parameters
    ----------
    exposures : sequence of SceneExposure
        All exposures.
    model : SceneModel or SceneResult
        As for `pogson.scene.fit_scene`, or a result, whose model is fitted again.
    offsets : array_like, shape (n, 2) or (m,), optional
        Pixels (x, y) from the target, or the values that x and y each take; by default
        `null_offsets`.
    min_good : float, optional
        Exposures with a smaller fraction of usable pixels are not tested.
    starts, seed : int, optional
        As for `pogson.scene.fit_scene`.

    Returns
    -------
    tests : NullTests

    Examples
    --------
    >>> from pogson.fields import Box
    >>> from pogson.psf import GaussianPSF
    >>> from pogson.scene import PointSource, SceneExposure, SceneModel
    >>> from pogson.sky import FitsSkyMap
    >>> sky = FitsSkyMap.tan(150.0, 2.0, x=50.0, y=50.0, scale_arcsec=0.25)
    >>> rng, shape = np.random.default_rng(1), (21, 21)
    >>> exposures = [
    ...     SceneExposure(rng.normal(size=shape), np.ones(shape), Box(40, 40, 21, 21), sky,
    ...                   GaussianPSF(fwhm=4.0), exposure_id=name)
    ...     for name in "abc"
    ... ]
    >>> model = SceneModel(PointSource("target", 150.0, 2.0, epochs="a"), poisson=False)
    >>> tests = null_tests(exposures, model)
    >>> sorted(tests.fluxes), bool(0.5 < tests.rms < 1.5)
    (['b', 'c'], True)
    """
    if isinstance(model, SceneResult):
        model = model.model
    where = null_offsets() if offsets is None else np.asarray(offsets, float)
    if where.ndim == 1:
        where = np.stack(np.meshgrid(where, where), axis=-1).reshape(-1, 2)
    if where.ndim != 2 or where.shape[1] != 2:
        raise PogsonValueError(f"offsets must have shape (n, 2), not {where.shape}.")
    prepared = prepare(exposures, model)
    rng = stream(seed, "scene", "starts")
    points = starting_points(
        [s.moves for s in model.sources], starts, 0.3 * prepared.fwhm_arcsec, rng
    )
    with one_thread():
        return null_pulls(solve_scene(prepared, model, points), where, min_good=min_good)


def null_pulls(solution: Solution, offsets: np.ndarray, *, min_good: float = 0.85) -> NullTests:
    """Return null tests of a solution at hand.

    Parameters
    ----------
    solution : Solution
        Of `pogson.scene.fit.solve_scene`.
    offsets : numpy.ndarray, shape (n, 2)
        Pixels (x, y) from the target.
    min_good : float, optional
        As in `null_tests`.
    """
    done = solution.done
    system, layout, base = done.system, done.layout, done.elimination
    fluxes, errors = {}, {}
    for k, block in enumerate(system.blocks):
        design = block.design
        if layout.seen[k] or design.good.size < min_good * design.exposure.box.area:
            continue
        x, y = design.center
        images = design.table.render(x + offsets[:, 0], y + offsets[:, 1], design.exposure.box)
        rows = block.project(images.reshape(len(offsets), -1)[:, design.good])
        v = system.whiten(block.scene @ rows.T)
        # nothing of a real source is in this exposure: they meet through the scene alone
        cross = -base.cross.T @ v
        diagonal = np.sum(rows * rows, axis=1) - np.sum(v * v, axis=0)
        rhs = rows @ block.data - v.T @ system.whitened
        share = np.linalg.solve(base.matrix, cross)
        information = diagonal - np.sum(cross * share, axis=0)
        # off the stamp, or in no way told from the scene
        information[~(information > LEAST_LEFT * max(float(diagonal.max()), 0.0))] = np.nan
        value = (rhs - share.T @ base.rhs) / information
        fluxes[design.exposure.exposure_id] = value
        errors[design.exposure.exposure_id] = 1.0 / np.sqrt(information)
    return NullTests(offsets, fluxes, errors)
