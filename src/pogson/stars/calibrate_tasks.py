"""Star fits of the band calibration as tasks, for processes or a Dask cluster."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pogson.atomic import atomic_path
from pogson.errors import CalibrationError, PogsonTypeError
from pogson.parallel import SerialExecutor, map_tasks
from pogson.stars.fit_setup import FitConfig
from pogson.stars.grid import StellarGrid
from pogson.stars.grid_file import read_grid
from pogson.stars.photometry_table import StarPhotometry
from pogson.stars.priors import StarPriors
from pogson.stars.streaming import fitter_of

__all__ = ["DrawnStars", "draw_in_tasks", "grid_of", "kept_draws"]

_NAMES = ("model", "distance", "av", "rv")


@dataclass(frozen=True, eq=False)
class DrawnStars:
    """Posterior draws of some stars, arrays of shape (n, draws); model -1 without a fit.

    Examples
    --------
    >>> one = np.ones((2, 3))
    >>> DrawnStars(one.astype(int), one, one, one).model.shape
    (2, 3)
    """

    model: NDArray[Any]
    distance: NDArray[Any]
    av: NDArray[Any]
    rv: NDArray[Any]


@dataclass(frozen=True)
class _Task:
    """Some stars to fit: small enough to travel between processes."""

    digest: str
    grid: StellarGrid | str
    priors: StarPriors
    config: FitConfig
    seed: int
    stars: StarPhotometry


def _draw(task: _Task) -> DrawnStars:
    fitter = fitter_of(task.digest, task.grid, task.stars.bands, task.priors, task.config)
    fit = fitter.fit(task.stars, seed=task.seed)
    return DrawnStars(fit.model_index, fit.distance_kpc, fit.av, fit.rv)


def grid_of(
    grid: StellarGrid | str | Path, bands: tuple[str, ...], executor: Executor
) -> StellarGrid:
    """Return a grid in some bands, and check that an executor can get at it.

    Parameters
    ----------
    grid : StellarGrid or path
        The grid or its file.
    bands : tuple of str
        Bands to read of a file.
    executor : concurrent.futures.Executor
        Where stars are fitted.

    Raises
    ------
    PogsonTypeError
        If processes or Dask are given a grid in memory.

    Examples
    --------
    >>> from pogson.stars import simulated_grid
    >>> grid_of(simulated_grid(), (), SerialExecutor()).n_bands
    8
    """
    if not isinstance(grid, StellarGrid):
        return read_grid(grid, bands=bands)
    if not isinstance(executor, SerialExecutor | ThreadPoolExecutor):
        raise PogsonTypeError(
            "Processes and Dask need the path of the grid's file, not the grid: write it with "
            "write_grid(grid, path) and pass the path."
        )
    return grid


def draw_in_tasks(
    grid: StellarGrid | str | Path,
    stars: StarPhotometry,
    seed: int,
    priors: StarPriors,
    config: FitConfig,
    *,
    grid_digest: str,
    executor: Executor,
    chunk_size: int,
) -> DrawnStars:
    """Fit stars, a chunk a task.

    Parameters
    ----------
    grid : StellarGrid or path
        The grid or its file.
    stars : StarPhotometry
        The stars.
    seed : int
        Seed of the fit; streams belong to stars, so that chunks do not change a result.
    priors, config : StarPriors, FitConfig
        Of the fit.
    grid_digest : str
        `StellarGrid.digest`: workers that live on keep a grid that is made ready, and must not take
        that of a file which has changed since.
    executor : concurrent.futures.Executor
        From `pogson.parallel.get_executor`.
    chunk_size : int
        Stars a task.

    Raises
    ------
    CalibrationError
        If a task failed.

    Examples
    --------
    >>> from pogson.stars import StarPriors, simulated_grid
    >>> grid = simulated_grid()
    >>> flux = grid.fluxes([40, 90], av=0.3)
    >>> stars = StarPhotometry.from_fluxes(
    ...     flux, 0.02 * flux, bands=grid.bands, l=[120.0, 121.0], b=[20.0, 21.0])
    >>> draw_in_tasks(
    ...     grid, stars, 1, StarPriors(), FitConfig(n_draws=5), grid_digest=grid.digest,
    ...     executor=SerialExecutor(), chunk_size=1).av.shape
    (2, 5)
    """
    # workers elsewhere may have another current folder
    where = grid if isinstance(grid, StellarGrid) else str(Path(grid).absolute())
    what = json.dumps(
        [grid_digest, dict(priors.describe()), config.describe()], sort_keys=True, default=str
    )
    digest = hashlib.sha256(what.encode()).hexdigest()
    tasks = [
        _Task(digest, where, priors, config, seed, stars.select(slice(k, k + chunk_size)))
        for k in range(0, len(stars), chunk_size)
    ]
    results = map_tasks(_draw, tasks, executor=executor)
    failed = [r.error for r in results if r.error is not None]
    if failed:
        raise CalibrationError(
            f"{len(failed)} of {len(tasks)} parts of the stars could not be fitted. The first: "
            f"{failed[0].message}"
        )
    parts = [r.value for r in results]
    return DrawnStars(*(np.concatenate([getattr(p, n) for p in parts]) for n in _NAMES))


def kept_draws(
    folder: str | Path, stars: StarPhotometry, seed: int, draw: Callable[[], DrawnStars]
) -> DrawnStars:
    """Return draws from a folder, or make them and put them there.

    A calibration that was killed thus runs through the fits that it had finished without repeating
    them, to the same result. The folder is for one grid, one set of priors and one configuration.

    Parameters
    ----------
    folder : path-like
        Where a file is kept for every fit of the stars: some 16 bytes a draw.
    stars : StarPhotometry
        The stars to fit.
    seed : int
        Seed of the fit.
    draw : callable
        Fits them.

    Examples
    --------
    >>> import tempfile
    >>> folder, one = tempfile.mkdtemp(), np.ones((1, 2))
    >>> stars = StarPhotometry.from_fluxes([[1e-6]], [[1e-8]], bands=["g"])
    >>> first = kept_draws(folder, stars, 1, lambda: DrawnStars(one, one, one, one))
    >>> kept_draws(folder, stars, 1, lambda: None).av
    array([[1., 1.]])
    """
    digest = hashlib.sha256(repr((seed, stars.bands)).encode())
    for name in ("flux", "flux_err", "observed", "parallax", "parallax_err", "l", "b", "av_mean",
                 "av_sd"):  # fmt: skip
        digest.update(np.ascontiguousarray(getattr(stars, name)).tobytes())
    digest.update("\x1f".join(map(str, stars.ids.tolist())).encode())
    file = Path(folder) / f"draws-{digest.hexdigest()[:32]}.npz"
    if file.is_file():
        with np.load(file, allow_pickle=False) as kept:
            return DrawnStars(*(kept[n] for n in _NAMES))
    made = draw()
    with atomic_path(file) as temporary, temporary.open("wb") as out:
        np.savez(out, **{n: getattr(made, n) for n in _NAMES})
    return made
