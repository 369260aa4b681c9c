r"""Noise that resampling has made common to neighbouring pixels, and what it does to sums.

A resampled pixel shares input pixels with its neighbours. The variance plane holds the diagonal of
the covariance only, and sums of pixels with it alone are too certain: interpolation moves noise
from the diagonal to the neighbours. `NoiseCorrelation` holds, for cells of the image,

.. math:: \rho(\Delta) = \frac{\langle\mathrm{Cov}(p, p + \Delta)\rangle}
          {\langle\sqrt{V_p\,V_{p + \Delta}}\rangle},

from the weights of the resampling themselves, so that
:math:`\mathrm{Cov}(p, q) = \sqrt{V_p V_q}\,\rho(q - p)`. Pixels are 0-based with centres on
integers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import FileFormatError, PogsonTypeError, PogsonValueError
from pogson.fields import Box

if TYPE_CHECKING:
    from pogson.images._pixel_map import PixelMap
    from pogson.images.coadd import Coadd
    from pogson.images.warp import Warp

__all__ = ["NoiseCorrelation", "aperture_variance", "stamp_variance"]

CELL = 256
"""Pixels a side of a cell of one correlation kernel."""
_LARGEST_REACH = 12
_SAMPLES = 100


@dataclass(frozen=True, eq=False, repr=False)
class NoiseCorrelation:
    """Correlation of the noise of pixels with that of their neighbours, by place; immutable.

    Parameters
    ----------
    box : Box
        Pixels that it belongs to.
    kernels : array_like, shape (n_cells_y, n_cells_x, 2 k + 1, 2 k + 1)
        Correlation coefficients by offset, indexed ``[.., dy + k, dx + k]``; 1 in the middle. The
        cells divide the box evenly.

    Raises
    ------
    PogsonValueError
        If the shape is wrong, or a kernel is not 1 in the middle or not symmetric.

    Examples
    --------
    >>> noise = NoiseCorrelation.white(Box(0, 0, 100, 100))
    >>> noise.reach, noise.total(x=10, y=20)
    (0, 1.0)
    """

    box: Box
    kernels: np.ndarray

    def __post_init__(self) -> None:
        k = np.array(self.kernels, np.float64)
        if k.ndim != 4 or k.shape[2] != k.shape[3] or k.shape[2] % 2 == 0 or 0 in k.shape:
            raise PogsonValueError(
                f"Correlation kernels have shape (cells y, cells x, 2 k + 1, 2 k + 1), not "
                f"{k.shape}."
            )
        r = k.shape[2] // 2
        if not np.isfinite(k).all() or np.abs(k[:, :, r, r] - 1.0).max() > 1e-6:
            raise PogsonValueError("A correlation kernel must be finite, with 1 in the middle.")
        if np.abs(k - k[:, :, ::-1, ::-1]).max() > 1e-3:
            raise PogsonValueError(
                "A correlation kernel must be the same at an offset and minus it."
            )
        k.flags.writeable = False
        object.__setattr__(self, "kernels", k)

    @classmethod
    def white(cls, box: Box) -> NoiseCorrelation:
        """Return the correlation of pixels that share nothing.

        Parameters
        ----------
        box : Box
            Pixels.
        """
        return cls(box, np.ones((1, 1, 1, 1)))

    @property
    def reach(self) -> int:
        """Largest offset in pixels at which noise is correlated."""
        return int(self.kernels.shape[2]) // 2

    def cell(self, *, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the cell indices (j, i) of positions in pixels; the nearest, where outside."""
        ny, nx = self.kernels.shape[:2]
        i = np.floor((np.asarray(x, np.float64) - self.box.x_min + 0.5) * nx / self.box.nx)
        j = np.floor((np.asarray(y, np.float64) - self.box.y_min + 0.5) * ny / self.box.ny)
        return np.clip(j, 0, ny - 1).astype(np.int64), np.clip(i, 0, nx - 1).astype(np.int64)

    def at(self, *, x: Any, y: Any) -> np.ndarray:
        """Return the kernels at positions in pixels, shape (..., 2 k + 1, 2 k + 1)."""
        return self.kernels[self.cell(x=x, y=y)]

    def total(self, *, x: Any, y: Any) -> Any:
        """Return the sum of the kernel: variance of a large sum over that of independent pixels."""
        out = self.at(x=x, y=y).sum(axis=(-2, -1))
        return float(out) if np.ndim(out) == 0 else out

    def mean(self) -> np.ndarray:
        """Return the average kernel over the cells, shape (2 k + 1, 2 k + 1)."""
        return np.asarray(self.kernels.mean(axis=(0, 1)))

    def on(self, box: Box) -> NoiseCorrelation:
        """Return the correlation on the cells of another box, from the nearest cells of this one.

        Parameters
        ----------
        box : Box
            Pixels.
        """
        if box == self.box:
            return self
        ny, nx = cells_of(box)
        x, y = (
            low - 0.5 + (np.arange(n) + 0.5) * size / n
            for low, n, size in ((box.x_min, nx, box.nx), (box.y_min, ny, box.ny))
        )
        return NoiseCorrelation(box, self.at(x=x[None, :], y=y[:, None]))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description, read back by `from_dict`."""
        return {"box": list(self.box), "kernels": np.round(self.kernels, 6).tolist()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> NoiseCorrelation:
        """Return the correlation described by `to_dict`.

        Raises
        ------
        FileFormatError
            If it is no such description.
        """
        try:
            return cls(Box(*data["box"]), np.asarray(data["kernels"], np.float64))
        except (KeyError, TypeError, ValueError) as error:
            raise FileFormatError(f"Not a description of a noise correlation: {error}") from None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NoiseCorrelation):
            return NotImplemented
        return self.box == other.box and bool(np.array_equal(self.kernels, other.kernels))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        n = self.kernels.shape
        return (
            f"<NoiseCorrelation: {n[1]} x {n[0]} cells, reach {self.reach} pixels, sum of the "
            f"kernel {self.kernels.sum(axis=(2, 3)).mean():.4g}>"
        )


def cells_of(box: Box) -> tuple[int, int]:
    """Return how many cells (ny, nx) a box is divided into."""
    return max(1, round(box.ny / CELL)), max(1, round(box.nx / CELL))


def reach_of(order: int, stretch: float, exact: bool, scale: float) -> int:
    """Return how many output pixels apart two pixels may share an input pixel."""
    width = 1.0 + scale * np.sqrt(2.0) if exact else 2 * np.ceil(order * stretch) - 1
    return int(min(_LARGEST_REACH, max(1, np.ceil(width / scale))))


def warp_correlation(
    mapping: PixelMap,
    box: Box,
    order: int,
    stretch: float,
    exact: bool,
    part: Box | None = None,
) -> tuple[NoiseCorrelation, np.ndarray]:
    """Return the correlation that a resampling makes out of white noise, and the variance gains.

    The gains, shape (cells y, cells x), are the mean of an output pixel's variance over the
    input's.
    """
    from pogson.images import _warp_kernels as kernels

    reach = reach_of(order, stretch, exact, mapping.scale)
    ny, nx = cells_of(box)
    size = int(2 * np.ceil(order * stretch))
    if exact:
        size = int(np.ceil(mapping.scale * np.sqrt(2.0))) + 3
    m = 2 * reach + 1
    out, gain = np.zeros((ny, nx, m, m)), np.zeros((ny, nx))
    # golden-ratio points: spread over the cell and over sub-pixel phases, the same every time
    k = np.arange(_SAMPLES)
    u, v = (0.5 + 0.754877666 * k) % 1.0, (0.5 + 0.569840291 * k) % 1.0
    x_edges = np.linspace(*box.x_bounds, nx + 1)
    y_edges = np.linspace(*box.y_bounds, ny + 1)
    inner = mapping.box if part is None else part
    for j in range(ny):
        for i in range(nx):
            low_x, high_x = max(x_edges[i], inner.x_min), min(x_edges[i + 1], inner.x_max)
            low_y, high_y = max(y_edges[j], inner.y_min), min(y_edges[j + 1], inner.y_max)
            out[j, i, reach, reach] = 1.0
            if low_x > high_x or low_y > high_y:
                continue
            x = np.round(low_x + u * (high_x - low_x))
            y = np.round(low_y + v * (high_y - low_y))
            cov, var = np.zeros((m, m)), np.zeros((m, m))
            kernels.covariance_samples(
                mapping.nodes, (x - mapping.x_zero) / mapping.step,
                (y - mapping.y_zero) / mapping.step, 1.0 / mapping.step, exact, order, stretch,
                size, reach, cov, var,
            )  # fmt: skip
            half = cov[reach:] / np.where(var[reach:] > 0, var[reach:], 1.0)
            if not (np.isfinite(half).all() and var[reach, reach] > 0):
                continue
            # a pixel's correlation with the one below is that of the one above it with it
            half[0] = 0.5 * (half[0] + half[0, ::-1])
            out[j, i, reach:] = half
            out[j, i, :reach] = half[:0:-1, ::-1]
            gain[j, i] = cov[reach, reach] / _SAMPLES
    return NoiseCorrelation(box, out), gain


def combined(
    box: Box, parts: Sequence[tuple[float | np.ndarray, NoiseCorrelation]]
) -> NoiseCorrelation:
    """Return the correlation of a sum of images with independent noise.

    Parameters
    ----------
    box : Box
        Pixels of the sum.
    parts : sequence of (variance, NoiseCorrelation)
        Of each image its share of the variance, per cell of the box, and its correlation.
    """
    ny, nx = cells_of(box)
    reach = max((n.reach for _, n in parts), default=0)
    m = 2 * reach + 1
    total, norm = np.zeros((ny, nx, m, m)), np.zeros((ny, nx))
    for variance, noise in parts:
        share = np.broadcast_to(np.asarray(variance, np.float64), (ny, nx))
        pad = reach - noise.reach
        some = slice(pad, m - pad)
        total[:, :, some, some] += share[:, :, None, None] * noise.kernels
        norm += share
    empty = norm <= 0
    total[empty] = 0.0
    total[empty, reach, reach] = 1.0
    norm[empty] = 1.0
    return NoiseCorrelation(box, total / norm[:, :, None, None])


def aperture_variance(
    image: Coadd | Warp, *, x: Any, y: Any, radius: Any, covariance: bool = True
) -> np.ndarray:
    """Return the variance of sums in circular apertures, from the tracked covariance.

    Parameters
    ----------
    image : Coadd or Warp
        Image with its variance and noise correlation.
    x, y : array_like, shape (n,)
        Centres in pixels (0-based, centres on integers).
    radius : float or array_like
        Radii in pixels; pixels that the circle cuts count by their exact overlap.
    covariance : bool, optional
        False: with the diagonal only, as if pixels were independent - too small by a factor that
        this function is there to show.

    Returns
    -------
    variance : numpy.ndarray, shape (n,)
        In ``unit**2``. Pixels without a variance count as they do in a sum: not at all. NaN where
        no pixel is left.

    Raises
    ------
    PogsonValueError
        If a radius is not positive, or the image has no variance.

    Examples
    --------
    >>> from pogson.images import Exposure, warp
    >>> from pogson.sky import FitsSkyMap
    >>> sky = FitsSkyMap.tan(30.0, -20.0, x=50.0, y=50.0, scale_arcsec=0.25)
    >>> out = FitsSkyMap.tan(30.0, -20.0, x=50.4, y=50.3, scale_arcsec=0.25)
    >>> exposure = Exposure(np.zeros((100, 100)), variance=np.full((100, 100), 4.0), unit="nJy",
    ...                     measure="fluence", sky=sky)
    >>> warped = warp(exposure, out, Box(0, 0, 100, 100))
    >>> (aperture_variance(warped, x=[50], y=[50], radius=10.0) / (400 * np.pi)).round(2)
    array([0.96])
    >>> naive = aperture_variance(warped, x=[50], y=[50], radius=10.0, covariance=False)
    >>> bool(naive[0] < 0.75 * 400 * np.pi)
    True
    """
    from pogson.images import _noise_kernels as kernels

    exposure, noise = _parts(image)
    xs, ys, rs = (
        np.array(a, np.float64).ravel()
        for a in np.broadcast_arrays(np.atleast_1d(x), np.atleast_1d(y), radius)
    )
    if not ((rs > 0) & np.isfinite(rs)).all():
        raise PogsonValueError(f"Aperture radii must be positive (pixels); got {radius!r}.")
    rho = noise.at(x=xs, y=ys) if covariance else np.ones((xs.size, 1, 1))
    out = np.full(xs.size, np.nan)
    kernels.aperture_variances(
        exposure.variance, xs - exposure.box.x_min, ys - exposure.box.y_min, rs, rho, out
    )
    return out


def stamp_variance(
    image: Coadd | Warp, weights: np.ndarray, *, x_min: int, y_min: int, covariance: bool = True
) -> float:
    """Return the variance of a weighted sum of pixels.

    Parameters
    ----------
    image : Coadd or Warp
        Image with its variance and noise correlation.
    weights : array_like, shape (h, w)
        Weights of the pixels, for example of a PSF flux.
    x_min, y_min : int
        Pixel of the first weight.
    covariance : bool, optional
        False: as if pixels were independent.

    Examples
    --------
    >>> from pogson.images import Exposure, warp
    >>> from pogson.sky import FitsSkyMap
    >>> sky = FitsSkyMap.tan(30.0, -20.0, x=50.0, y=50.0, scale_arcsec=0.25)
    >>> exposure = Exposure(np.zeros((99, 99)), variance=np.full((99, 99), 4.0), unit="nJy",
    ...                     measure="fluence", sky=sky)
    >>> same = warp(exposure, sky, Box(0, 0, 99, 99))
    >>> stamp_variance(same, np.ones((3, 3)), x_min=40, y_min=40)
    36.0
    """
    from pogson.images import _noise_kernels as kernels

    exposure, noise = _parts(image)
    values = np.ascontiguousarray(weights, np.float64)
    if values.ndim != 2:
        raise PogsonValueError(f"weights must have two dimensions, not shape {values.shape}.")
    x = x_min + 0.5 * (values.shape[1] - 1)
    y = y_min + 0.5 * (values.shape[0] - 1)
    rho = noise.at(x=x, y=y) if covariance else np.ones((1, 1))
    return float(
        kernels.weighted_variance(
            exposure.variance, values, x_min - exposure.box.x_min, y_min - exposure.box.y_min, rho
        )
    )


def _parts(image: Any) -> tuple[Any, NoiseCorrelation]:
    """Return the exposure and the noise correlation of a coadd or warp."""
    exposure, noise = getattr(image, "exposure", None), getattr(image, "noise", None)
    if exposure is None or not isinstance(noise, NoiseCorrelation):
        raise PogsonTypeError(
            f"A Coadd or a Warp is needed, which knows its noise correlation, not "
            f"{type(image).__name__}."
        )
    if exposure.variance is None:
        raise PogsonValueError("The image has no variance, so its sums have no error.")
    return exposure, noise
