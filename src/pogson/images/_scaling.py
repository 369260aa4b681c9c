"""Scaling of whole images by the pixel-area ratio: fast, in two threads, and lazy for variances."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import MeasureError
from pogson.fields import Box

if TYPE_CHECKING:
    from pogson.fields import Field

__all__ = [
    "PendingVariance",
    "RatioImage",
    "Recycled",
    "bad_pixels",
    "check_ratio",
    "scale_by_ratio",
]

_THREADED_PIXELS = 1 << 20  # below this a second thread costs more than it saves
_CACHED_ROWS = 32  # rows worked on at a time, so that a second operation finds them in the cache
_SPARE_IMAGES = 2  # an image and its variance


class Recycled:
    """The memory of an array, given back for the next one when no array uses it any more.

    Faulting in fresh pages for a new image takes longer than scaling it. The arrays made from this
    object keep it alive; when the last of them is gone, the memory goes to ``spare`` (at most two).
    """

    __slots__ = ("__array_interface__", "memory", "spare")

    def __init__(self, shape: tuple[int, ...], spare: list[np.ndarray]) -> None:
        try:
            memory = spare.pop()
        except IndexError:
            memory = np.empty(shape, np.float32)
        if memory.shape != shape:
            memory = np.empty(shape, np.float32)
        self.memory = memory
        self.spare = spare
        self.__array_interface__ = memory.__array_interface__

    def __del__(self) -> None:
        if len(self.spare) < _SPARE_IMAGES:
            self.spare.append(self.memory)


def scale_by_ratio(
    image: np.ndarray, ratio: np.ndarray, power: int, spare: list[np.ndarray] | None = None
) -> np.ndarray:
    """Return ``image * ratio**power`` in float32, read-only.

    The reverse of a multiplication is a division by the same float32 numbers, so that there and
    back differs from the input by rounding only (at most 2 units in the last place).

    Parameters
    ----------
    image, ratio : numpy.ndarray of float32, shape (ny, nx)
        Image and pixel-area ratio.
    power : int
        1 or -1 for images; 2 or -2 for variances.
    spare : list, optional
        Where memory no longer used is kept for the next image.
    """
    out = np.asarray(Recycled(image.shape, [] if spare is None else spare))
    operation: Any = np.multiply if power > 0 else np.divide

    def rows(part: slice) -> None:
        if abs(power) == 1:
            operation(image[part], ratio[part], out=out[part])
            return
        for start in range(part.start, part.stop, _CACHED_ROWS):
            some = slice(start, min(start + _CACHED_ROWS, part.stop))
            operation(image[some], ratio[some], out=out[some])
            for _ in range(abs(power) - 1):
                operation(out[some], ratio[some], out=out[some])

    in_two_threads(rows, image.shape)
    out.flags.writeable = False
    return out


def in_two_threads(rows: Callable[[slice], None], shape: tuple[int, int]) -> None:
    """Call a function for all rows of an image; for a large one, half of them in another thread.

    numpy releases the interpreter lock in its loops, and half of the page faults of a new array go
    to each thread.
    """
    ny, nx = shape
    if ny * nx < _THREADED_PIXELS:
        with np.errstate(over="ignore", invalid="ignore"):
            rows(slice(0, ny))
        return

    def quiet(part: slice) -> None:  # the error state belongs to a thread
        with np.errstate(over="ignore", invalid="ignore"):
            rows(part)

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(quiet, slice(ny // 2, ny))
        quiet(slice(0, ny // 2))
        other.result()


def bad_pixels(
    image: np.ndarray, mask: np.ndarray | None, value: int, variance: np.ndarray | None
) -> np.ndarray:
    """Return pixels that are not finite, masked by ``value``, or without a positive variance."""
    out = np.empty(image.shape, bool)

    def rows(part: slice) -> None:
        for start in range(part.start, part.stop, _CACHED_ROWS):
            some = slice(start, min(start + _CACHED_ROWS, part.stop))
            good = np.isfinite(image[some])
            if mask is not None and value:
                good &= (mask[some] & np.uint32(value)) == 0
            if variance is not None:
                good &= variance[some] > 0
                good &= variance[some] < np.inf
            np.logical_not(good, out=out[some])

    in_two_threads(rows, (image.shape[0], image.shape[1]))
    out.flags.writeable = False
    return out


class RatioImage:
    """A pixel-area ratio rendered once in float32 and shared by exposures derived from another.

    Parameters
    ----------
    field : Field
        Dimensionless ratio A(x, y) / A0.
    box : Box
        Box to render when first asked.
    """

    __slots__ = ("_image", "box", "field", "spare")

    def __init__(self, field: Field, box: Box) -> None:
        self.field = field
        self.box = box
        self._image: np.ndarray | None = None
        self.spare: list[np.ndarray] = []

    def image(self, box: Box) -> np.ndarray:
        """Return the ratio on a box inside `box`; read-only float32.

        Raises
        ------
        MeasureError
            If the ratio is anywhere zero, negative or not finite.
        """
        if self._image is None:
            rendered = np.asarray(self.field.render(self.box, dtype=np.float32), np.float32)
            check_ratio(rendered, self.box)
            rendered.flags.writeable = False
            self._image = rendered
        return self._image[box.slices(self.box)]


def check_ratio(values: np.ndarray, where: Any) -> None:
    """Raise unless every value of a pixel-area ratio is finite and positive."""
    smallest, largest = float(values.min()), float(values.max())  # NaN propagates through both
    if not (smallest > 0 and np.isfinite(largest)):
        wrong = int((~(np.isfinite(values) & (values > 0))).sum())
        raise MeasureError(
            f"The pixel-area ratio is zero, negative or not finite at {wrong} of {values.size} "
            f"positions checked on {where} (range {smallest:.6g} to {largest:.6g}); it must be "
            f"finite and positive everywhere. Check the sky mapping it was made from."
        )


class PendingVariance:
    """A variance not yet scaled: the array it came from and the power of the ratio to apply."""

    __slots__ = ("base", "box", "power", "ratio")

    def __init__(self, base: np.ndarray, ratio: RatioImage, box: Box, power: int) -> None:
        self.base = base
        self.ratio = ratio
        self.box = box
        self.power = power

    def compute(self) -> np.ndarray:
        """Return the scaled variance."""
        ratio = self.ratio
        return scale_by_ratio(self.base, ratio.image(self.box), self.power, ratio.spare)

    def cut(self, box: Box) -> PendingVariance:
        """Return the same for a smaller box."""
        return PendingVariance(self.base[box.slices(self.box)], self.ratio, box, self.power)
