"""Catalogues of any length: fitted in parts, by threads, processes or a Dask cluster, resumable."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pogson.errors import CalibrationError, PogsonTypeError, PogsonValueError
from pogson.parallel import SerialExecutor, TaskResult, map_tasks
from pogson.stars.fit import FitConfig, StarFitter
from pogson.stars.grid import StellarGrid
from pogson.stars.photometry_table import StarPhotometry
from pogson.stars.posterior_file import PosteriorWriter, write_posteriors
from pogson.stars.priors import StarPriors
from pogson.stars.priors_dust import needs_extinctions

__all__ = ["fit_catalog", "healpix_of"]

_FITTERS: dict[Any, StarFitter] = {}  # one a process: preparing a grid takes a second


class _Part:
    """Some stars of a catalogue, taken out of it where they are fitted, or to travel there."""

    def __init__(self, stars: StarPhotometry, rows: np.ndarray | None) -> None:
        self.stars, self.rows = stars, rows

    def __call__(self) -> StarPhotometry:
        return self.stars if self.rows is None else self.stars.select(self.rows)

    def __reduce__(self) -> Any:
        return _Part, (self(), None)


@dataclass(frozen=True)
class _Task:
    """One part of a catalogue, small enough to travel between processes."""

    grid: Any
    bands: tuple[str, ...]
    priors: StarPriors
    config: FitConfig
    seed: int
    stars: Callable[[], StarPhotometry]
    path: Path
    digest: str


def fit_catalog(
    grid: StellarGrid | str | Path,
    stars: StarPhotometry | Sequence[Callable[[], StarPhotometry]],
    path: str | Path,
    *,
    seed: int,
    priors: StarPriors | None = None,
    config: FitConfig | None = None,
    chunk_size: int = 512,
    nside: int | None = None,
    executor: Executor | None = None,
    progress: Callable[[TaskResult], None] | None = None,
) -> Path:
    """Fit a catalogue into a Parquet file, part by part; go on where a killed job stopped.

    Parameters
    ----------
    grid : StellarGrid or path
        The grid, or its file (read once a process, in the bands of the stars: model indices are
        those of `read_grid` with these bands). Processes and Dask need the file.
    stars : StarPhotometry or sequence of callables
        The catalogue; or one callable a part (file, HEALPix pixel ...) that returns its photometry,
        such as ``functools.partial(read_my_file, "part-7.fits")``, importable for processes.
    path : path-like
        The Parquet file to make; see `read_posteriors`. If it is there it is made again.
    seed : int
        Seed of the random draws, keyed by star: parts and executor do not change the result.
    priors, config
        As in `fit_stars`.
    chunk_size : int
        Stars a part, of a catalogue in memory.
    nside : int, optional
        Order the stars of a catalogue in memory by HEALPix pixel (nested, Galactic) of this nside,
        a part a pixel or less: neighbours share their dust sightlines.
    executor : concurrent.futures.Executor, optional
        From `pogson.parallel.get_executor`; default this process.
    progress : callable, optional
        Called with the `TaskResult` of every part as it is finished.

    Returns
    -------
    pathlib.Path
        The file. Rows are in the order of the catalogue, or of the pixels with ``nside``.

    Raises
    ------
    CalibrationError
        If parts failed: those finished are kept, and a new call fits only the others.
    ReferenceMismatchError
        If parts of another fit lie beside the file.

    Examples
    --------
    >>> import tempfile
    >>> from pogson.stars import FitConfig, StarPhotometry, fit_catalog, read_posteriors
    >>> from pogson.stars import simulated_grid
    >>> grid = simulated_grid()
    >>> flux = grid.fluxes([10, 20, 30], av=0.4)
    >>> stars = StarPhotometry.from_fluxes(
    ...     flux, 0.03 * flux, bands=grid.bands, l=[10.0] * 3, b=[45.0] * 3
    ... )
    >>> file = fit_catalog(
    ...     grid, stars, tempfile.mkdtemp() + "/fit.parquet", seed=1, chunk_size=2,
    ...     config=FitConfig(n_draws=50),
    ... )
    >>> len(read_posteriors(file))
    3
    """
    runner = SerialExecutor() if executor is None else executor
    here = isinstance(runner, SerialExecutor | ThreadPoolExecutor)
    if isinstance(grid, StellarGrid) and not here:
        raise PogsonTypeError(
            "Processes and Dask need the path of the grid's file, not the grid: write it with "
            "write_grid(grid, path) and pass the path."
        )
    priors = StarPriors() if priors is None else priors
    config = FitConfig() if config is None else config
    bands = stars.bands if isinstance(stars, StarPhotometry) else ()
    if isinstance(stars, StarPhotometry):
        needs_extinctions(priors.extinction, stars)
    parts, content = _parts(stars, chunk_size, nside)
    plan = {
        "grid": _digest(grid, bands), "priors": dict(priors.describe()),
        "config": config.describe(), "seed": int(seed), "catalogue": content,
    }  # fmt: skip
    writer = PosteriorWriter(path, plan, len(parts))
    # workers elsewhere may have another current folder
    where = grid if isinstance(grid, StellarGrid) else str(Path(grid).absolute())
    tasks = [
        _Task(
            where, bands, priors, config, seed, parts[k], writer.part(k).absolute(),
            writer.digest,
        )
        for k in writer.missing()
    ]  # fmt: skip
    results = map_tasks(_fit_part, tasks, executor=runner, progress=progress)
    failed = [r for r in results if not r.ok]
    if failed:
        first = failed[0].error
        raise CalibrationError(
            f"{len(failed)} of {len(parts)} parts failed; the others are kept beside {path}, run "
            f"again to fit the rest. The first: {first.message if first else ''}"
        )
    return writer.finish()


def _parts(
    stars: Any, chunk_size: int, nside: int | None
) -> tuple[list[Callable[[], StarPhotometry]], str]:
    """Return a callable for the photometry of every part, and what identifies the catalogue."""
    if chunk_size < 1:
        raise PogsonValueError(f"chunk_size must be at least 1, not {chunk_size}.")
    if not isinstance(stars, StarPhotometry):
        sources = list(stars)
        if not sources or not all(callable(s) for s in sources):
            raise PogsonTypeError(
                "stars must be a StarPhotometry or a list of callables that return one, a part."
            )
        return sources, repr([_called(s) for s in sources])
    if len(stars) == 0:
        raise PogsonValueError("The catalogue has no stars.")
    groups = [np.arange(len(stars))]
    if nside is not None:
        pixel = healpix_of(stars.l, stars.b, nside)
        order = np.argsort(pixel, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(pixel[order])) + 1)
    rows = [g[i : i + chunk_size] for g in groups for i in range(0, len(g), chunk_size)]
    digest = hashlib.sha256()
    for name in ("flux", "flux_err", "parallax", "parallax_err", "l", "b"):
        digest.update(np.ascontiguousarray(getattr(stars, name)).tobytes())
    if np.isfinite(stars.av_mean).any():
        digest.update(np.stack([stars.av_mean, stars.av_sd]).tobytes())
    digest.update("\x1f".join([*stars.bands, *map(str, stars.ids.tolist())]).encode())
    return [_Part(stars, r) for r in rows], f"{digest.hexdigest()} {chunk_size} {nside}"


def _called(source: Any) -> str:
    """Return what identifies a callable and its arguments, the same in every process."""
    inner = getattr(source, "func", source)
    name = f"{getattr(inner, '__module__', '')}.{getattr(inner, '__qualname__', type(inner))}"
    return f"{name}{getattr(source, 'args', ())}{getattr(source, 'keywords', {})}"


def _read(path: str, bands: tuple[str, ...]) -> StellarGrid:
    """Return the grid in the bands of the stars: others are not read, and lose no model."""
    from pogson.stars.grid_file import read_grid

    return read_grid(path, bands=bands or None)


def _digest(grid: Any, bands: tuple[str, ...]) -> str:
    """Return what identifies a grid in the bands of the stars, so far as they are known."""
    if isinstance(grid, StellarGrid):
        return grid.digest
    from pogson.stars.grid_file import grid_contents

    known = None if bands else grid_contents(grid).digest
    return known or _read(str(grid), bands).digest


def fitter_of(
    digest: str, grid: Any, bands: tuple[str, ...], priors: StarPriors, config: FitConfig
) -> StarFitter:
    """Return a fitter, the last one made in this process if it is the same.

    Parameters
    ----------
    digest : str
        What identifies grid, priors and configuration.
    grid : StellarGrid or path
        The grid or its file.
    bands, priors, config
        As `StarFitter` takes them.
    """
    key = (digest, bands)
    fitter = _FITTERS.get(key)
    if fitter is None:
        grid = grid if isinstance(grid, StellarGrid) else _read(str(grid), bands)
        _FITTERS.clear()
        fitter = StarFitter(grid, bands, priors=priors, config=config)
        _FITTERS[key] = fitter
    return fitter


def _fit_part(task: _Task) -> int:
    """Fit one part and write its file; return the number of stars."""
    photometry = task.stars()
    fitter = fitter_of(task.digest, task.grid, photometry.bands, task.priors, task.config)
    write_posteriors(task.path, fitter.fit(photometry, seed=task.seed))
    return len(photometry)


def healpix_of(l: Any, b: Any, nside: int) -> np.ndarray:  # noqa: E741
    """Return HEALPix pixels in the nested scheme.

    Parameters
    ----------
    l, b : array_like
        Longitude and latitude, degrees.
    nside : int
        A power of two.

    Returns
    -------
    numpy.ndarray of int
        Pixel numbers; -1 where a coordinate is not finite.

    Raises
    ------
    PogsonValueError
        If ``nside`` is not a power of two.

    Notes
    -----
    Equal-area pixels of Gorski et al. (2005, ApJ 622, 759).

    Examples
    --------
    >>> healpix_of([0.0, 10.0], [0.0, 80.0], 1)
    array([4, 0])
    """
    if nside < 1 or nside & (nside - 1):
        raise PogsonValueError(f"nside must be a power of two, not {nside}.")
    lon, lat = np.broadcast_arrays(np.asarray(l, np.float64), np.asarray(b, np.float64))
    good = np.isfinite(lon) & np.isfinite(lat)
    z = np.sin(np.radians(np.where(good, lat, 0.0)))
    t = np.mod(np.where(good, lon, 0.0), 360.0) / 90.0
    # equatorial belt: lines of equal x + y and x - y
    up, down = nside * (0.5 + t - 0.75 * z), nside * (0.5 + t + 0.75 * z)
    a, c = np.floor(up).astype(np.int64), np.floor(down).astype(np.int64)
    fa, fc = a // nside, c // nside
    face = np.where(fa == fc, fa % 4 + 4, np.where(fa < fc, fa % 4, fc % 4 + 8))
    x, y = c % nside, nside - 1 - a % nside
    # polar caps
    quarter = np.minimum(np.floor(t).astype(np.int64), 3)
    r = nside * np.sqrt(3.0 * (1.0 - np.abs(z)))
    i = np.minimum((r * (t - quarter)).astype(np.int64), nside - 1)
    j = np.minimum((r * (1.0 - (t - quarter))).astype(np.int64), nside - 1)
    cap = np.abs(z) > 2.0 / 3.0
    north = z > 0.0
    face = np.where(cap, np.where(north, quarter, quarter + 8), face)
    x = np.where(cap, np.where(north, nside - 1 - j, i), x)
    y = np.where(cap, np.where(north, nside - 1 - i, j), y)
    pixel = np.zeros(z.shape, np.int64)
    for bit in range(int(nside).bit_length()):
        pixel |= ((x >> bit) & 1) << (2 * bit) | ((y >> bit) & 1) << (2 * bit + 1)
    return np.where(good, pixel + face * nside**2, -1)
