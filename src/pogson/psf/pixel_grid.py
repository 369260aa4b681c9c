r"""PSFs given as samples on a grid, each sample a polynomial of position: PSFEx, Piff.

The samples describe the effective PSF: the pixel is in them already, so drawing interpolates and
does not integrate over the pixel again.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from pogson.errors import FileFormatError, PogsonTypeError, PogsonValueError, choices
from pogson.fields import Box
from pogson.psf.base import (
    MAX_HALF_SIZE,
    PSF,
    PsfNormalization,
    box_from_dict,
    normalization_from_dict,
    register,
)
from pogson.psf.frames import PixelFrame, SkyFrame, frame_from_dict

__all__ = ["PixelGridPSF", "polynomial_powers"]

_ORDERS = {"lanczos3": 3, "lanczos4": 4, "lanczos5": 5, "lagrange6": -3}
INTERPOLATIONS = tuple(_ORDERS)
"""Names of the kernels that join samples."""
_MAX_VALUES = 20_000_000


def polynomial_powers(degree: int, *, x_fastest: bool = True) -> np.ndarray:
    """Return the exponents (i, j) of U^i V^j with i + j <= degree, shape (n_terms, 2).

    Parameters
    ----------
    degree : int
        Total degree, at least 0.
    x_fastest : bool, optional
        PSFEx order (1, U, U^2, V, UV, V^2) if true, else 1, V, V^2, U, UV, U^2 (Piff).

    Examples
    --------
    >>> polynomial_powers(1).tolist()
    [[0, 0], [1, 0], [0, 1]]
    """
    powers = [(i, j) for j in range(degree + 1) for i in range(degree + 1 - j)]
    if not x_fastest:
        powers = [(j, i) for i, j in powers]
    return np.array(powers, np.int64).reshape(-1, 2)


class PixelGridPSF(PSF):
    r"""An effective PSF sampled on a grid, varying over the detector.

    Parameters
    ----------
    coefficients : array_like, shape (n_terms, ny, nx) or (ny, nx)
        Samples; term k is multiplied by U^i V^j with (i, j) = ``powers[k]``.
    powers : array_like of int, shape (n_terms, 2), optional
        Exponents; [[0, 0]] for a constant PSF.
    frame : PixelFrame or SkyFrame, optional
        Sampling and coordinates U, V; one sample per pixel by default.
    interpolation : {"lanczos3", "lanczos4", "lanczos5", "lagrange6"}, optional
        How samples are joined: Lanczos kernels, their taps divided by the sum, as PSFEx and Piff
        do; or the polynomial through the 6 x 6 nearest samples, more accurate for fine grids.
    center : tuple of float, optional
        Grid coordinates (x, y) of the star; by default sample ``(nx // 2, ny // 2)``.
    box : Box, optional
        Pixels for which the PSF is valid.
    normalization : PsfNormalization, optional
        By default ``PsfNormalization("box")``: the samples at the position sum to 1. With
        "total" they are taken as they are.
    metadata : mapping, optional
        JSON-ready facts about the origin (file, seeing, error of a fit); not interpreted, but
        for ``detector``, which an exposure's own detector must match.

    Raises
    ------
    PogsonValueError
        If shapes disagree, values are not finite, or an option is unknown.

    Notes
    -----
    Value of a pixel at offset d from the star: :math:`|M|\sum_{kl} p_{kl} L(g_x - k) L(g_y - l)`
    with :math:`g = c + M d`, M the matrix d(grid)/d(pixel) of the frame, p the samples divided
    by their sum and L the kernel, :math:`\mathrm{sinc}(x)\,\mathrm{sinc}(x/n)` for Lanczos. Samples
    beyond the grid are zero.

    Examples
    --------
    >>> from pogson.psf import GaussianPSF
    >>> samples = GaussianPSF(fwhm=4.0).draw(x=20, y=20, half_size=15).image
    >>> psf = PixelGridPSF(samples)
    >>> round(float(psf.draw(x=100.5, y=80.25).image.sum()), 3)
    1.0
    """

    __slots__ = ("_center", "_coefficients", "_frame", "_interpolation", "_metadata", "_powers")
    kind = "pixel_grid"
    _coefficients: np.ndarray
    _powers: np.ndarray
    _frame: PixelFrame | SkyFrame
    _interpolation: str
    _center: tuple[float, float]
    _metadata: Mapping[str, Any]

    def __init__(
        self,
        coefficients: Any,
        powers: Any = None,
        frame: PixelFrame | SkyFrame | None = None,
        *,
        interpolation: str = "lanczos3",
        center: Sequence[float] | None = None,
        box: Box | None = None,
        normalization: PsfNormalization | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        if interpolation not in _ORDERS:
            raise PogsonValueError(
                f"Unknown interpolation {interpolation!r}; allowed: {choices(_ORDERS)}."
            )
        values, exponents = _check_samples(coefficients, powers)
        frame = PixelFrame() if frame is None else frame
        if not isinstance(frame, PixelFrame | SkyFrame):
            raise PogsonTypeError(
                f"frame must be a PixelFrame or SkyFrame, not {type(frame).__name__}."
            )
        ny, nx = values.shape[1:]
        cx, cy = (nx // 2, ny // 2) if center is None else center
        if not (-0.5 <= cx <= nx - 0.5 and -0.5 <= cy <= ny - 0.5):
            raise PogsonValueError(f"center {(cx, cy)} is outside the grid of {nx} x {ny} samples.")
        self._set(
            _coefficients=values,
            _powers=exponents,
            _frame=frame,
            _interpolation=interpolation,
            _center=(float(cx), float(cy)),
            _metadata=MappingProxyType(dict(metadata or {})),
            _box=box,
            _normalization=PsfNormalization("box") if normalization is None else normalization,
            _identifier="",
        )

    @property
    def pixel_integrated(self) -> bool:
        """False: the samples hold the pixel response already."""
        return False

    @property
    def coefficients(self) -> np.ndarray:
        """Samples of every polynomial term, shape (n_terms, ny, nx), read-only."""
        return self._coefficients

    @property
    def powers(self) -> np.ndarray:
        """Exponents of U and V per term, shape (n_terms, 2), read-only."""
        return self._powers

    @property
    def frame(self) -> PixelFrame | SkyFrame:
        """Sampling and coordinates."""
        return self._frame

    @property
    def center(self) -> tuple[float, float]:
        """Grid coordinates (x, y) of the star."""
        return self._center

    @property
    def interpolation(self) -> str:
        """Name of the interpolation kernel."""
        return self._interpolation

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Facts about the origin of the PSF, read-only."""
        return self._metadata

    @property
    def detector(self) -> str:
        """Name or number of the detector, from ``metadata["detector"]``; empty if not there."""
        return str(self._metadata.get("detector", ""))

    def samples(self, *, x: Any, y: Any) -> np.ndarray:
        """Return the samples at positions, as drawing uses them.

        Parameters
        ----------
        x, y : array_like, shape (n,)
            Positions in pixels (0-based, centres on integers).

        Returns
        -------
        samples : numpy.ndarray, shape (n, ny, nx)

        Raises
        ------
        PogsonValueError
            If the samples sum to 0 or less at a position (far outside the fit).
        """
        xs, ys = self._positions(x, y)
        return self._samples(xs, ys)

    def _samples(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        from pogson.psf import _grid_kernels as kernels

        u, v = self._frame.coordinates(x, y)
        n_terms, ny, nx = self._coefficients.shape
        samples, sums = np.empty((x.size, ny, nx)), np.empty(x.size)
        kernels.polynomial_samples(
            np.ascontiguousarray(u), np.ascontiguousarray(v), self._powers,
            self._coefficients.reshape(n_terms, -1), samples.reshape(x.size, -1), sums,
        )  # fmt: skip
        if self._normalization.kind == "box" and self._normalization.radius is None:
            wrong = ~(sums > 1e-3 * np.abs(samples).max(axis=(1, 2)))
            if wrong.any():
                i = int(np.flatnonzero(wrong)[0])
                raise PogsonValueError(
                    f"The samples of the PSF sum to {sums[i]:.3g} at x={x[i]:.6g}, y={y[i]:.6g}: "
                    "the position is far outside the region the PSF was fitted on."
                )
            samples /= sums[:, None, None]
        return samples

    def _draw(
        self, x: np.ndarray, y: np.ndarray, x_min: np.ndarray, y_min: np.ndarray, out: np.ndarray
    ) -> None:
        from pogson.psf import _grid_kernels as kernels

        order = _ORDERS[self._interpolation]
        step = max(1, 2_000_000 // self._coefficients[0].size)
        for start in range(0, x.size, step):
            part = slice(start, start + step)
            samples = self._samples(x[part], y[part])
            position = (x[part], y[part], x_min[part], y_min[part])
            if isinstance(self._frame, PixelFrame):
                inverse = 1.0 / self._frame.sampling
                kernels.draw_separable(
                    samples, *self._center, *position, inverse,
                    np.full(samples.shape[0], inverse**2), order, out[part],
                )  # fmt: skip
            else:
                matrix = np.ascontiguousarray(self._frame.matrix(x[part], y[part]))
                kernels.draw_general(
                    samples, *self._center, *position, matrix,
                    np.abs(np.linalg.det(matrix)), order, out[part],
                )  # fmt: skip

    def fwhm(self, *, x: Any, y: Any) -> Any:
        """Full width at half maximum in pixels of the effective PSF.

        The half-maximum radius about the star is found along 32 directions; the width is twice
        the root mean square of them (the circle of equal area).

        Parameters
        ----------
        x, y : array_like
            Positions in pixels (0-based, centres on integers).
        """
        shape = np.broadcast_shapes(np.shape(x), np.shape(y))
        xs, ys = self._positions(x, y)
        samples, matrices = self._samples(xs, ys), self._frame.matrix(xs, ys)
        result = np.array([self._width(s, m) for s, m in zip(samples, matrices, strict=True)])
        return float(result[0]) if shape == () else result.reshape(shape)

    def _width(self, samples: np.ndarray, matrix: np.ndarray) -> float:
        from pogson.psf import _grid_kernels as kernels

        angle = np.arange(32) * (2 * np.pi / 32)
        reach = max(samples.shape) / np.sqrt(abs(np.linalg.det(matrix)))
        radius = np.arange(0.0, reach, 0.05 * min(1.0, reach / 10))
        # the first third of the way is enough where all beyond is far below the peak
        for part in (radius[: radius.size // 3], radius):
            offset = np.stack([np.cos(angle), np.sin(angle)])[:, :, None] * part
            grid = np.einsum("ij,jkl->ikl", matrix, offset)
            profile = np.empty(grid[0].size)
            kernels.grid_points(
                samples, self._center[0] + grid[0].ravel(), self._center[1] + grid[1].ravel(),
                _ORDERS[self._interpolation], profile,
            )  # fmt: skip
            rays = profile.reshape(32, -1)
            half = 0.5 * rays.max()
            first = np.argmax(rays < half, axis=1)
            if (first > 0).all() and self._outer_peak(samples, matrix, part[-1]) < half:
                break
        if not (first > 0).all():
            return float("nan")
        k = np.arange(32)
        high, low = rays[k, first - 1], rays[k, first]
        crossing = radius[first - 1] + (high - half) / (high - low) * radius[1]
        return float(2.0 * np.sqrt(np.mean(crossing**2)))

    def _outer_peak(self, samples: np.ndarray, matrix: np.ndarray, radius: float) -> float:
        """Return the largest sample within reach of a place further than a radius from the star.

        Interpolation between samples overshoots them by less than a factor of 2.
        """
        iy, ix = np.indices(samples.shape)
        offset = np.linalg.inv(matrix) @ np.stack(
            [ix.ravel() - self._center[0], iy.ravel() - self._center[1]]
        )
        reach = _ORDERS[self._interpolation] / np.sqrt(abs(np.linalg.det(matrix)))
        outer = np.hypot(*offset) > radius - abs(reach)
        return float(np.abs(samples.ravel()[outer]).max(initial=0.0))

    def default_half_size(self, *, x: Any, y: Any) -> int:
        """Half-size in pixels of a stamp that holds the whole grid.

        Parameters
        ----------
        x, y : array_like
            Positions in pixels; the largest half-size wanted by any is returned.
        """
        ny, nx = self._coefficients.shape[1:]
        cx, cy = self._center
        if isinstance(self._frame, PixelFrame):
            reach = (max(cx, cy, nx - 1 - cx, ny - 1 - cy) + 1.0) * self._frame.sampling
        else:
            xs, ys = self._positions(x, y)
            inverse = np.linalg.inv(self._frame.matrix(xs, ys))
            corner = np.array([max(cx, nx - 1 - cx) + 1.0, max(cy, ny - 1 - cy) + 1.0])
            reach = float(np.max(np.abs(inverse) @ corner))
        return min(int(np.ceil(reach)), MAX_HALF_SIZE)

    def _parameters(self) -> dict[str, Any]:
        return {
            "coefficients": _encode(self._coefficients),
            "powers": self._powers.tolist(),
            "frame": self._frame.to_dict(),
            "interpolation": self._interpolation,
            "center": list(self._center),
            "metadata": dict(self._metadata),
        }

    def __repr__(self) -> str:
        terms, ny, nx = self._coefficients.shape
        return (
            f"<PixelGridPSF {nx} x {ny} samples, {terms} terms, "
            f"{type(self._frame).__name__}, {self._interpolation}, {self.identifier}>"
        )


def _check_samples(coefficients: Any, powers: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return read-only samples (n_terms, ny, nx) and exponents."""
    try:
        values = np.array(coefficients, np.float64)
    except (TypeError, ValueError):
        raise PogsonTypeError("PSF samples must be an array of numbers.") from None
    if values.ndim == 2:
        values = values[None]
    if values.ndim != 3 or min(values.shape) < 1 or values.size > _MAX_VALUES:
        raise PogsonValueError(
            f"PSF samples must have shape (n_terms, ny, nx) and at most {_MAX_VALUES} values, "
            f"not {values.shape}."
        )
    if not np.isfinite(values).all():
        raise PogsonValueError(f"{int((~np.isfinite(values)).sum())} PSF samples are not finite.")
    exponents = np.array([[0, 0]] if powers is None else powers, np.int64)
    if exponents.shape != (values.shape[0], 2) or (exponents < 0).any() or exponents.max() > 20:
        raise PogsonValueError(
            f"powers must be one pair of exponents (0 to 20) per term, shape "
            f"({values.shape[0]}, 2), not {exponents.shape}."
        )
    values.flags.writeable = False
    exponents.flags.writeable = False
    return values, exponents


def _encode(array: np.ndarray) -> dict[str, Any]:
    """Return an array as base64 text, in float32 where that is exact."""
    with np.errstate(over="ignore"):
        small = array.astype("<f4")
    exact = bool((small.astype(np.float64) == array).all())
    data = small if exact else array.astype("<f8")
    return {
        "dtype": data.dtype.str,
        "shape": list(data.shape),
        "base64": base64.b64encode(np.ascontiguousarray(data).tobytes()).decode("ascii"),
    }


def _decode(text: Mapping[str, Any]) -> np.ndarray:
    """Return the array of `_encode`."""
    if text["dtype"] not in ("<f4", "<f8"):
        raise FileFormatError(f"PSF samples of type {text['dtype']!r} are not allowed.")
    try:
        data = np.frombuffer(base64.b64decode(text["base64"], validate=True), text["dtype"])
        return data.reshape([int(n) for n in text["shape"]])
    except (binascii.Error, ValueError) as error:
        raise FileFormatError(f"The samples of a PSF cannot be decoded: {error}.") from None


def _from_dict(description: Mapping[str, Any]) -> PSF:
    return PixelGridPSF(
        _decode(description["coefficients"]),
        description["powers"],
        frame_from_dict(description["frame"]),
        interpolation=description["interpolation"],
        center=description["center"],
        box=box_from_dict(description),
        normalization=normalization_from_dict(description),
        metadata=description["metadata"],
    )


register("pixel_grid", _from_dict)
