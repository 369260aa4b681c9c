r"""Adding sources to an image, so that not one bit depends on how the work is cut.

Whatever the order in which sources are given, the tiles an image is drawn in, or the number of
threads, the pixels are the same bits:

- a stamp depends on its source and the PSF alone;
- stamps are added in an order that the sources themselves define (first row, then position, flux
  and size), in double precision, and each pixel of the image is rounded once.

Threads own rows. Each walks upward through the sources that reach its rows, drawing a few hundred
stamps at a time into a buffer it keeps: memory is the image, a few rows and a few stamps.

Pixel convention: 0-based, pixel centres on integers, arrays indexed ``[y, x]``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from typing import Any

import numpy as np

from pogson.errors import BoundsError, PogsonTypeError, PogsonValueError
from pogson.fields import Box
from pogson.parallel import usable_cores
from pogson.psf import PSF, Stamp
from pogson.psf.base import MAX_HALF_SIZE

__all__ = ["add_point_sources", "add_stamps"]

_BUFFER_PIXELS = 2**19  # of the stamps a thread holds: 4 MB
_FEWEST_SOURCES = 32  # below this many a thread does not pay


def add_point_sources(
    image: np.ndarray,
    psf: PSF,
    *,
    x: Any,
    y: Any,
    flux: Any,
    half_size: Any,
    box: Box | None = None,
    threads: int | None = None,
) -> np.ndarray:
    """Add point sources to an image, in place.

    Parameters
    ----------
    image : numpy.ndarray of float32 or float64, shape (ny, nx)
        Changed in place. May be a view of a larger image.
    psf : PSF
        Evaluated at the position of every source.
    x, y : array_like, shape (n,)
        Positions in pixels (0-based, centres on integers), in the coordinates of `box`.
    flux : array_like, shape (n,)
        Light of each source in the unit of the image, in the normalisation of the PSF. Any sign.
    half_size : int or array_like of int, shape (n,)
        A stamp has ``2 half_size + 1`` pixels a side, centred on the pixel of its source.
    box : Box, optional
        Where the image lies on the pixel lattice; by default it starts at pixel (0, 0).
    threads : int, optional
        Number of threads; by default all usable cores. The result does not depend on it.

    Returns
    -------
    deposited : numpy.ndarray, shape (n,)
        Light that fell on pixels of the image, per source, in the unit of the image.

    Raises
    ------
    BoundsError
        If the PSF is not defined at a source whose stamp reaches the image.
    PogsonTypeError
        If the image is not a writeable array of float32 or float64.
    PogsonValueError
        If a position, flux or half-size is not usable.

    Notes
    -----
    A source whose stamp does not reach the image costs nothing and deposits 0. Light beyond the
    stamp is not put back; `pogson.inject.stamp_half_size` chooses stamps by what they miss. Pixels
    are the same bits for any order of the sources, any tiling of the image (`box`) and any number
    of threads.

    Examples
    --------
    >>> import numpy as np
    >>> from pogson.psf import MoffatPSF
    >>> image = np.zeros((100, 100), np.float32)
    >>> psf = MoffatPSF(fwhm=3.5, beta=3.0)
    >>> light = add_point_sources(
    ...     image, psf, x=[20.3, 99.0], y=[40.1, 50.0], flux=[1000.0, 500.0], half_size=20
    ... )
    >>> light.round(1)
    array([999.5, 303.5])
    >>> round(float(image.sum()), 1) == round(float(light.sum()), 1)
    True
    """
    box = _check_image(image, box)
    sources = _check_sources(x, y, flux, half_size)
    if not isinstance(psf, PSF):
        raise PogsonTypeError(f"psf must be a PSF, not {type(psf).__name__}.")
    deposited = np.zeros(sources.x.size)
    rows = sources.reaching(box)
    # by content, first of all by first row: the order of adding is no matter of who comes first
    order = rows[
        np.lexsort(
            tuple(v[rows] for v in (sources.half, sources.flux, sources.x, sources.y, sources.y0))
        )
    ]
    if order.size:
        deposited[order] = _Painter(image, psf, sources.take(order), box).paint(threads)
    return deposited


def add_stamps(
    image: np.ndarray, stamps: Sequence[Stamp], *, flux: Any, box: Box | None = None
) -> np.ndarray:
    """Add stamps of any kind of source to an image, in place.

    Parameters
    ----------
    image : numpy.ndarray of float32 or float64, shape (ny, nx)
        Changed in place.
    stamps : sequence of Stamp
        Images on boxes of the pixel lattice, for unit flux.
    flux : float or array_like, shape (n,)
        Factor of each stamp.
    box : Box, optional
        Where the image lies on the pixel lattice; by default it starts at pixel (0, 0).

    Returns
    -------
    deposited : numpy.ndarray, shape (n,)
        Light that fell on pixels of the image, per stamp.

    Raises
    ------
    PogsonTypeError
        If the image is not a writeable array of float32 or float64.
    PogsonValueError
        If a stamp does not fit its box, or a number is not finite.

    Notes
    -----
    Stamps are added in an order that their boxes, fluxes and pixels define, in double precision:
    the result is the same bits for any order of the stamps and any tiling.

    Examples
    --------
    >>> import numpy as np
    >>> from pogson.psf import GaussianPSF
    >>> image = np.zeros((20, 20))
    >>> stamp = GaussianPSF(fwhm=3.0).draw(x=10.0, y=10.0)
    >>> add_stamps(image, [stamp], flux=5.0)
    array([5.])
    """
    box = _check_image(image, box)
    factors = np.broadcast_to(np.asarray(flux, np.float64), (len(stamps),))
    if not np.isfinite(factors).all():
        raise PogsonValueError(f"{int((~np.isfinite(factors)).sum())} fluxes are not finite.")
    keys = []
    for k, (pixels, place) in enumerate(stamps):
        if np.shape(pixels) != place.shape or not np.isfinite(pixels).all():
            raise PogsonValueError(
                f"Stamp {k} of shape {np.shape(pixels)} does not fit its box of shape "
                f"{place.shape}, or has pixels that are not finite."
            )
        digest = sha256(np.ascontiguousarray(pixels, np.float64).tobytes()).digest()
        keys.append((place.y_min, place.x_min, place.ny, place.nx, float(factors[k]), digest, k))
    deposited = np.zeros(len(stamps))
    order = [key[-1] for key in sorted(keys)]
    commons = {k: c for k in order if (c := _overlap(stamps[k].box, box)) is not None}
    if not commons:
        return deposited
    hull = _hull(commons.values())
    total = np.zeros(hull.shape)
    for k, common in commons.items():
        part = factors[k] * np.asarray(stamps[k].image, np.float64)[common.slices(stamps[k].box)]
        total[common.slices(hull)] += part
        deposited[k] = part.sum()
    target = image[hull.slices(box)]
    np.add(target, total, out=target, where=total != 0, casting="same_kind")
    return deposited


def _overlap(a: Box, b: Box) -> Box | None:
    """Return the pixels of both boxes, or None."""
    try:
        return a.intersection(b)
    except BoundsError:
        return None


def _hull(boxes: Iterable[Box]) -> Box:
    """Return the smallest box that holds all."""
    several = list(boxes)
    x0, y0 = min(b.x_min for b in several), min(b.y_min for b in several)
    x1, y1 = max(b.x_max for b in several), max(b.y_max for b in several)
    return Box(x0, y0, x1 - x0 + 1, y1 - y0 + 1)


@dataclass(frozen=True, slots=True)
class _Sources:
    """Checked sources, with the first pixel of each stamp."""

    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    half: np.ndarray
    x0: np.ndarray
    y0: np.ndarray

    def take(self, rows: np.ndarray) -> _Sources:
        return _Sources(*(getattr(self, name)[rows] for name in self.__slots__))

    def reaching(self, box: Box) -> np.ndarray:
        """Return the numbers of the sources whose stamps have pixels in a box."""
        side = 2 * self.half
        return np.flatnonzero(
            (self.x0 <= box.x_max)
            & (self.x0 + side >= box.x_min)
            & (self.y0 <= box.y_max)
            & (self.y0 + side >= box.y_min)
        )


def _check_image(image: Any, box: Box | None) -> Box:
    """Return the box of an image that can be drawn on."""
    if (
        not isinstance(image, np.ndarray)
        or image.dtype not in (np.dtype(np.float32), np.dtype(np.float64))
        or not image.flags.writeable
        or image.ndim != 2
    ):
        what = f"{image.dtype} array" if isinstance(image, np.ndarray) else type(image).__name__
        raise PogsonTypeError(
            f"The image must be a writeable 2-d array of float32 or float64 in native byte order, "
            f"not a {what} of shape {np.shape(image)}; draw on a copy."
        )
    if box is None:
        return Box.from_shape(image.shape)
    if box.shape != image.shape:
        raise PogsonValueError(f"The image of shape {image.shape} does not fit {box!r}.")
    return box


def _check_sources(x: Any, y: Any, flux: Any, half_size: Any) -> _Sources:
    """Return sources of equal length with sane values."""
    try:
        xs, ys, fluxes, halves = np.broadcast_arrays(
            *(np.atleast_1d(np.asarray(v, np.float64)) for v in (x, y, flux, half_size))
        )
    except ValueError as error:
        raise PogsonValueError(f"x, y, flux and half_size do not fit: {error}.") from None
    if xs.ndim != 1:
        raise PogsonValueError(f"x, y, flux must be 1-d, not of shape {xs.shape}.")
    for name, values in (("x", xs), ("y", ys), ("flux", fluxes)):
        wrong = ~(np.abs(values) < (np.inf if name == "flux" else 1e9))
        if wrong.any():
            i = int(np.flatnonzero(wrong)[0])
            raise PogsonValueError(
                f"{name}={values[i]} of source {i} ({int(wrong.sum())} of {xs.size}) is not finite "
                "or far off any image; leave such rows out."
            )
    wrong = ~((halves >= 0) & (halves <= MAX_HALF_SIZE) & (halves == np.floor(halves)))
    if wrong.any():
        raise PogsonValueError(
            f"half_size={halves[wrong][0]} must be a whole number from 0 to {MAX_HALF_SIZE}."
        )
    half = halves.astype(np.int64)
    x0 = np.floor(xs + 0.5).astype(np.int64) - half
    y0 = np.floor(ys + 0.5).astype(np.int64) - half
    return _Sources(*(np.ascontiguousarray(v) for v in (xs, ys, fluxes, half, x0, y0)))


class _Painter:
    """Draws sources that are in the order of adding on one image."""

    def __init__(self, image: np.ndarray, psf: PSF, sources: _Sources, box: Box) -> None:
        self.image, self.psf, self.sources = image, psf, sources
        self.sides = 2 * sources.half + 1
        self.x0, self.y0 = sources.x0 - box.x_min, sources.y0 - box.y_min
        self.first_sum = np.concatenate([[0], np.cumsum(self.sides)[:-1]]).astype(np.int64)
        self.sums = np.zeros(int(self.sides.sum()))

    def paint(self, threads: int | None) -> np.ndarray:
        """Paint all rows and return the light deposited per source."""
        from pogson.inject import _render_kernels as kernels

        n = self.sides.size
        count = usable_cores() if threads is None else int(threads)
        if count < 1:
            raise PogsonValueError(f"threads={threads!r} must be at least 1.")
        count = max(1, min(count, n // _FEWEST_SOURCES))
        blocks = self._blocks(count)
        if len(blocks) == 1:
            self._paint_rows(*blocks[0])
        else:
            with ThreadPoolExecutor(count) as pool:
                for future in [pool.submit(self._paint_rows, *block) for block in blocks]:
                    future.result()
        deposited = np.empty(n)
        kernels.total_sums(self.sums, self.first_sum, self.sides, self.sources.flux, deposited)
        return deposited

    def _blocks(self, count: int) -> list[tuple[int, int]]:
        """Return blocks of rows with about as many sources each."""
        ny = self.image.shape[0]
        if count == 1:
            return [(0, ny)]
        # stamps across an edge are drawn twice, so blocks are few: two a thread
        centre = np.clip(np.sort(self.y0 + self.sides // 2), 0, ny)
        parts = 2 * count
        inner = centre[(np.arange(1, parts) * centre.size) // parts]
        edges = np.unique([0, *inner.tolist(), ny])
        return [(int(a), int(b)) for a, b in pairwise(edges)]

    def _paint_rows(self, bottom: int, top: int) -> None:
        """Add all sources to the rows from ``bottom`` to ``top - 1``."""
        from pogson.inject import _render_kernels as kernels

        chosen = np.flatnonzero((self.y0 < top) & (self.y0 + self.sides > bottom))
        if not chosen.size:
            return
        sides = self.sides[chosen]
        height = min(int(sides.max()), top - bottom)
        ring = np.zeros((height, self.image.shape[1]))
        rows = np.array([bottom, top, bottom], np.int64)
        area = sides**2
        buffer = np.empty(int(min(max(_BUFFER_PIXELS, area.max()), area.sum())))
        filled = np.cumsum(area)
        start = 0
        while start < chosen.size:
            before = filled[start] - area[start]
            stop = int(np.searchsorted(filled, before + buffer.size, side="right"))
            part = chosen[start:stop]
            starts = self._draw(part, buffer)
            kernels.accumulate(
                buffer, starts, self.sides[part], self.x0[part], self.y0[part],
                self.sources.flux[part], rows, self.image, ring, self.sums, self.first_sum[part],
            )  # fmt: skip
            start = stop
        # the last rows in the ring; what lies above was never touched
        kernels.flush(self.image, ring, int(rows[2]), min(int(rows[2]) + height, top))

    def _draw(self, part: np.ndarray, buffer: np.ndarray) -> np.ndarray:
        """Draw unit-flux stamps in a buffer, one size at a time, and return where each starts."""
        half = self.sources.half[part]
        starts = np.empty(part.size, np.int64)
        used = 0
        for size in np.unique(half).tolist():
            some = np.flatnonzero(half == size)
            side = 2 * size + 1
            pixels = some.size * side * side
            rows = part[some]
            self.psf.draw_many(
                x=self.sources.x[rows],
                y=self.sources.y[rows],
                half_size=size,
                out=buffer[used : used + pixels].reshape(some.size, side, side),
            )
            starts[some] = used + np.arange(some.size) * side * side
            used += pixels
        return starts
