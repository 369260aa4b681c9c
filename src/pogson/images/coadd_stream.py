"""Coadds of many images, a tile at a time: memory for one tile, in parallel, and resumable.

Where images come from and where tiles go is the caller's: a source has a function that loads a part
of it, and a finished tile is handed to a function that keeps it. Pixels are 0-based with centres on
integers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import (
    BoundsError,
    CalibrationError,
    MaskedDataError,
    MissingDataError,
    PogsonValueError,
)
from pogson.fields import Box
from pogson.images._coadd_checks import check_inputs
from pogson.images._coadd_stack import Contribution, Stack, contribution_of
from pogson.images.coadd import Clipping, Coadd, finished, input_weights
from pogson.images.coadd_grid import CoaddGrid, Tile
from pogson.images.exposure import Exposure
from pogson.images.warp import map_between
from pogson.parallel import TaskResult, map_tasks

if TYPE_CHECKING:
    from pogson.sky import SkyMap

__all__ = [
    "CoaddOptions",
    "CoaddSource",
    "TileResult",
    "coadd_tile",
    "coadd_tiles",
    "needed_part",
    "with_weights",
]

_MARGIN = 12  # input pixels beyond the outermost one needed
_PATCH = 96
_PATCHES = 4


@dataclass(frozen=True)
class CoaddSource:
    """An image that can be loaded in parts.

    Parameters
    ----------
    exposure_id : str
        Name of the exposure.
    sky : SkyMap
        Its mapping.
    box : Box
        All its pixels.
    load : callable
        ``load(box)`` returns the `Exposure` on a box inside ``box``, in nJy and fluence. For
        process pools it must be importable: a function or a `functools.partial` of one.
    detector : str, optional
        Name of the detector.
    weight : float, optional
        Constant weight; see `with_weights`.

    Raises
    ------
    PogsonValueError
        If the weight is not positive.

    Examples
    --------
    >>> from pogson.sky import FitsSkyMap
    >>> sky = FitsSkyMap.tan(30.0, -20.0, x=50.0, y=50.0, scale_arcsec=0.25)
    >>> exposure = Exposure(np.ones((100, 100)), unit="nJy", measure="fluence", sky=sky)
    >>> CoaddSource("v1", sky, exposure.box, exposure.cutout).load(Box(10, 10, 5, 5)).image.shape
    (5, 5)
    """

    exposure_id: str
    sky: SkyMap
    box: Box
    load: Callable[[Box], Exposure]
    detector: str = ""
    weight: float | None = None

    def __post_init__(self) -> None:
        if self.weight is not None and not (np.isfinite(self.weight) and self.weight > 0):
            raise PogsonValueError(f"The weight {self.weight!r} of a source must be positive.")

    @classmethod
    def of(cls, exposure: Exposure) -> CoaddSource:
        """Return the source of an exposure in memory."""
        if exposure.sky is None:
            raise MissingDataError("The exposure has no sky mapping.")
        return cls(
            exposure.exposure_id, exposure.sky, exposure.box, exposure.cutout, exposure.detector
        )

    @property
    def name(self) -> str:
        """Exposure and detector."""
        return f"{self.exposure_id} {self.detector}".strip()


@dataclass(frozen=True)
class CoaddOptions:
    """How tiles are made; the keywords of `pogson.images.coadd`.

    Parameters
    ----------
    clip, kernel, flattening_sed, mask_thresholds, coadd_thresholds, threads
        As in `pogson.images.coadd`.

    Examples
    --------
    >>> CoaddOptions(kernel="exact").clip
    Clipping(sigma=5.0, flux_fraction=None, reach=2)
    """

    clip: Clipping | None = Clipping()  # noqa: RUF009  frozen
    kernel: str = "lanczos3"
    flattening_sed: str | None = None
    mask_thresholds: Mapping[str, float] | None = None
    coadd_thresholds: Mapping[str, float] | None = None
    threads: int = 1


@dataclass(frozen=True, slots=True)
class TileResult:
    """What became of a tile.

    Parameters
    ----------
    tile : Tile
        The tile.
    status : {"made", "kept", "empty", "failed"}
        Made now; finished before; no image has data there; not made because of an error.
    n_inputs : int
        Images added.
    message : str
        The error, or why it is empty.

    Examples
    --------
    >>> TileResult(Tile(0, 0, Box(0, 0, 9, 9), Box(0, 0, 9, 9)), "kept").n_inputs
    0
    """

    tile: Tile
    status: str
    n_inputs: int = 0
    message: str = ""


def with_weights(sources: Iterable[CoaddSource], grid: CoaddGrid) -> list[CoaddSource]:
    """Return the sources with inverse-variance weights, each one constant for all tiles.

    Parameters
    ----------
    sources : iterable of CoaddSource
        Those that have a weight keep it.
    grid : CoaddGrid
        The output, whose pixel area the variance is scaled to.

    Raises
    ------
    MissingDataError
        If a source has no variance.

    Notes
    -----
    The weight is one over the median variance of 16 small parts of the image, as a pixel of the
    output has it if noise were uncorrelated.

    Examples
    --------
    >>> from pogson.sky import FitsSkyMap
    >>> sky = FitsSkyMap.tan(30.0, -20.0, x=50.0, y=50.0, scale_arcsec=0.25)
    >>> exposure = Exposure(np.ones((100, 100)), variance=np.full((100, 100), 4.0), unit="nJy",
    ...                     measure="fluence", sky=sky)
    >>> grid = CoaddGrid(sky, exposure.box, 100, 0)
    >>> round(with_weights([CoaddSource.of(exposure)], grid)[0].weight, 6)
    0.25
    """
    out = []
    area = float(np.asarray(grid.sky.pixel_area(x=grid.box.center[0], y=grid.box.center[1])))
    for source in sources:
        if source.weight is not None:
            out.append(source)
            continue
        levels = []
        for box in _patches(source.box):
            variance = source.load(box).variance
            if variance is None:
                raise MissingDataError(
                    f"Inverse-variance weights need a variance, which {source.name} has not; give "
                    f"its CoaddSource a weight."
                )
            good = variance[np.isfinite(variance) & (variance > 0)]
            if good.size:
                levels.append(float(np.median(good)))
        if not levels:
            raise MissingDataError(f"{source.name} has no pixel with a variance.")
        x, y = source.box.center
        white = np.median(levels) * area / source.sky.pixel_area(x=x, y=y)
        out.append(replace(source, weight=float(1.0 / white)))
    return out


def _patches(box: Box) -> list[Box]:
    """Return small boxes spread over a box."""
    nx, ny = min(_PATCH, box.nx), min(_PATCH, box.ny)
    xs = np.unique(np.linspace(box.x_min, box.x_max + 1 - nx, _PATCHES).astype(int))
    ys = np.unique(np.linspace(box.y_min, box.y_max + 1 - ny, _PATCHES).astype(int))
    return [Box(int(x), int(y), nx, ny) for y in ys for x in xs]


def coadd_tile(
    sources: Sequence[CoaddSource], grid: CoaddGrid, tile: Tile, options: CoaddOptions | None = None
) -> Coadd | None:
    """Make one tile.

    Parameters
    ----------
    sources : sequence of CoaddSource
        All of them, with weights; those that do not reach the tile are not loaded.
    grid : CoaddGrid
        The output.
    tile : Tile
        Which part of it; the coadd is of ``tile.outer``.
    options : CoaddOptions, optional
        How.

    Returns
    -------
    Coadd or None
        None where no image has data.

    Raises
    ------
    MissingDataError
        If a source has no weight.
    CalibrationError
        If images are mixed; see `pogson.images.coadd`.

    Examples
    --------
    >>> from pogson.calib import FluxReference, PhotoCalib
    >>> from pogson.sky import FitsSkyMap
    >>> sky = FitsSkyMap.tan(30.0, -20.0, x=50.0, y=50.0, scale_arcsec=0.25)
    >>> exposure = Exposure(
    ...     np.ones((100, 100)), variance=np.full((100, 100), 4.0), unit="nJy", sky=sky,
    ...     measure="fluence", flattening_sed="G2V",
    ...     photo_calib=PhotoCalib.constant(1.0, unit="", reference=FluxReference.total()))
    >>> grid = CoaddGrid(sky, exposure.box, 50, 10)
    >>> sources = with_weights([CoaddSource.of(exposure)], grid)
    >>> coadd_tile(sources, grid, grid.tile(1, 0)).exposure.box
    Box(x_min=40, y_min=0, nx=60, ny=60)
    """
    options = CoaddOptions() if options is None else options
    missing = [s.name for s in sources if s.weight is None]
    if missing:
        raise MissingDataError(
            f"{', '.join(missing[:5])} {'has' if len(missing) == 1 else 'have'} no weight; a "
            f"weight must be the same for every tile: with_weights(sources, grid)."
        )
    found: list[Contribution] = []
    weights: list[float] = []
    loaded: list[Exposure] = []
    for index, source in enumerate(sources):
        needed = needed_part(source, grid.sky, tile.outer)
        if needed is None:
            continue
        exposure = source.load(needed)
        loaded.append(exposure)
        try:
            made = contribution_of(
                exposure, index, grid.sky, tile.outer, options.kernel, options.mask_thresholds
            )
        except BoundsError:
            continue
        found.append(replace(made, box=source.box))
        weights.append(float(source.weight or 0.0))
    if not found:
        return None
    meaning = check_inputs(loaded, grid.sky, options.flattening_sed)
    numbers = input_weights(found, {"": 1.0}, 0) if not weights else np.array(weights)
    stack = Stack(
        found, numbers, tile.outer, options.clip, options.coadd_thresholds, options.threads
    )
    stack.run()
    try:
        return finished(stack, meaning, grid.sky)
    except MaskedDataError:
        return None


def needed_part(source: CoaddSource, sky: SkyMap, box: Box) -> Box | None:
    """Return the part of a source that a box of the output needs; None for none."""
    try:
        mapping, b, _ = map_between(source.sky, source.box, sky, box, source.name, "exact")
    except BoundsError:
        return None
    x, y = np.meshgrid(np.linspace(*b.x_bounds, 33), np.linspace(*b.y_bounds, 33))
    px, py, _ = mapping(x.ravel(), y.ravel())
    margin = _MARGIN * max(1.0, mapping.scale)
    x0, x1 = np.floor(px.min() - margin), np.ceil(px.max() + margin)
    y0, y1 = np.floor(py.min() - margin), np.ceil(py.max() + margin)
    whole = source.box
    x0, x1 = max(int(x0), whole.x_min), min(int(x1), whole.x_max)
    y0, y1 = max(int(y0), whole.y_min), min(int(y1), whole.y_max)
    if x0 > x1 or y0 > y1:
        return None
    return Box(x0, y0, x1 - x0 + 1, y1 - y0 + 1)


def coadd_tiles(
    sources: Sequence[CoaddSource],
    grid: CoaddGrid,
    *,
    save: Callable[[Tile, Coadd], Any],
    done: Callable[[Tile], bool] | None = None,
    tiles: Iterable[Tile] | None = None,
    options: CoaddOptions | None = None,
    executor: Executor | None = None,
    progress: Callable[[TileResult], None] | None = None,
    on_failure: str = "raise",
) -> list[TileResult]:
    """Make all tiles of a grid that are not finished.

    Parameters
    ----------
    sources : sequence of CoaddSource
        Images; weights that are missing are measured first.
    grid : CoaddGrid
        The output.
    save : callable
        ``save(tile, coadd)`` keeps a finished tile; it must write whole files or none (see
        `pogson.atomic.atomic_path`). Importable, for process pools.
    done : callable, optional
        ``done(tile)`` says whether a tile is finished already and is to be kept.
    tiles : iterable of Tile, optional
        Which tiles; all by default.
    options : CoaddOptions, optional
        How.
    executor : concurrent.futures.Executor, optional
        From `pogson.parallel.get_executor`; one tile a task.
    progress : callable, optional
        Called with each `TileResult` as it is known.
    on_failure : {"raise", "return"}, optional
        Whether failed tiles raise after all others were made, or are only in the results.

    Returns
    -------
    list of TileResult
        In the order of the tiles.

    Raises
    ------
    CalibrationError
        If tiles failed, for example because the disk is full: with how many, and the first reason.
        Finished tiles are kept, so that another call resumes.

    Examples
    --------
    >>> from pogson.calib import FluxReference, PhotoCalib
    >>> from pogson.sky import FitsSkyMap
    >>> sky = FitsSkyMap.tan(30.0, -20.0, x=50.0, y=50.0, scale_arcsec=0.25)
    >>> exposure = Exposure(
    ...     np.ones((100, 100)), variance=np.full((100, 100), 4.0), unit="nJy", sky=sky,
    ...     measure="fluence", flattening_sed="G2V",
    ...     photo_calib=PhotoCalib.constant(1.0, unit="", reference=FluxReference.total()))
    >>> kept = {}
    >>> results = coadd_tiles([CoaddSource.of(exposure)], CoaddGrid(sky, exposure.box, 50, 10),
    ...                       save=lambda tile, made: kept.update({tile.name: made}))
    >>> [r.status for r in results], sorted(kept)
    (['made', 'made', 'made', 'made'], ['0,0', '0,1', '1,0', '1,1'])
    """
    if on_failure not in ("raise", "return"):
        raise PogsonValueError(f"on_failure={on_failure!r} must be 'raise' or 'return'.")
    if not sources:
        raise PogsonValueError("There is nothing to add: the list of sources is empty.")
    all_tiles = list(grid if tiles is None else tiles)
    results: dict[int, TileResult] = {}
    todo = []
    for k, tile in enumerate(all_tiles):
        if done is not None and done(tile):
            results[k] = TileResult(tile, "kept")
            if progress is not None:
                progress(results[k])
        else:
            todo.append(k)
    if todo:
        weighted = with_weights(sources, grid)
        tasks = [(weighted, grid, all_tiles[k], options or CoaddOptions(), save) for k in todo]

        def report(task: TaskResult) -> None:
            k = todo[task.index]
            if task.error is not None:
                text = f"{task.error.kind}: {task.error.message}"
                results[k] = TileResult(all_tiles[k], "failed", 0, text)
            else:
                results[k] = task.value
            if progress is not None:
                progress(results[k])

        map_tasks(_make, tasks, executor=executor, progress=report)
    out = [results[k] for k in range(len(all_tiles))]
    failed = [r for r in out if r.status == "failed"]
    if failed and on_failure == "raise":
        raise CalibrationError(
            f"{len(failed)} of {len(out)} tiles could not be made, first {failed[0].tile.name}: "
            f"{failed[0].message} The {len(out) - len(failed)} others are kept; run again to "
            f"resume."
        )
    return out


def _make(task: tuple[Any, CoaddGrid, Tile, CoaddOptions, Any]) -> TileResult:
    """Make and keep one tile."""
    sources, grid, tile, options, save = task
    made = coadd_tile(sources, grid, tile, options)
    if made is None:
        return TileResult(tile, "empty", 0, "no image has data there")
    save(tile, made)
    return TileResult(tile, "made", len(made.inputs))
