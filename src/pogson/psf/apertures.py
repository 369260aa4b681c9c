r"""Apertures: the operators that turn pixels into a flux.

Two codes that sum "the flux inside 4 pixels" may differ by 5-20 mmag, because one adds whole
pixels, one adds parts of pixels and one integrates the band-limited image. The operator is
therefore part of what a flux means, and it is an object here.

Pixel convention: 0-based, pixel centres on integers; angles of ellipses in radians counter-
clockwise from +x.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pogson.errors import PogsonTypeError, PogsonValueError

__all__ = ["ApertureOperator", "ApertureSums", "sky_circle_to_ellipse"]

_KINDS = ("exact", "sinc", "center", "subpixel")


class ApertureSums(NamedTuple):
    """Result of `ApertureOperator.sum`; every member has the broadcast shape of the sources.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.full((11, 11), 2.0)
    >>> sums = ApertureOperator.center().sum(image, x=5.0, y=5.0, a=1.2, variance=image)
    >>> float(sums.flux), float(sums.area), bool(sums.truncated)
    (10.0, 5.0, False)
    """

    flux: Any
    """Sum over usable pixels, in the unit of the image; NaN where no pixel was usable."""
    variance: Any
    """Sum of weight squared times pixel variance, or None when no variance was given."""
    area: Any
    """Area of the aperture on usable pixels (sum of the weights), in pixels."""
    bad_area: Any
    """Area of the aperture on bad pixels: masked, or with non-finite value or variance."""
    truncated: Any
    """True where the aperture runs off the image (its pixels there contribute nothing)."""
    squares: Any = None
    """Sum of weight squared times pixel value, or None when no variance was given: divided by the
    gain, the variance that the photons of the light in the aperture add."""
    square_area: Any = None
    """Sum of weight squared, in pixels, or None when no variance was given."""


@dataclass(frozen=True, slots=True, repr=False)
class ApertureOperator:
    """How an aperture sums pixels.

    Make one with `exact`, `sinc`, `center`, `subpixel` or, from its name, `parse`.

    ``exact``: each pixel counts with the exact area of its overlap with the ellipse.
    ``center``: a pixel counts if its centre is inside. ``subpixel(n)``: each pixel counts with the
    fraction of its n x n sub-pixel centres that are inside. ``sinc``: the integral over the true
    ellipse of the band-limited function through the pixel values (Bickerton & Lupton 2013, MNRAS
    431, 1275), which does not smooth by the pixel a second time.

    Parameters
    ----------
    kind : {"exact", "sinc", "center", "subpixel"}
        Operator.
    subpixels : int, optional
        Sub-pixels per side, for ``kind="subpixel"`` only; at least 1.

    Raises
    ------
    PogsonValueError
        If the kind is unknown or ``subpixels`` does not fit it.

    Examples
    --------
    >>> import numpy as np
    >>> ApertureOperator.exact()
    ApertureOperator.exact()
    >>> ApertureOperator.parse("subpixel5").subpixels
    5
    >>> sums = ApertureOperator.exact().sum(np.ones((21, 21)), x=10.2, y=9.7, a=3.0)
    >>> float(sums.flux - 9 * np.pi)
    0.0
    """

    kind: str
    subpixels: int = 0

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise PogsonValueError(
                f"Unknown aperture operator {self.kind!r}; allowed: {', '.join(_KINDS)}."
            )
        if self.kind == "subpixel":
            if int(self.subpixels) != self.subpixels or not 1 <= self.subpixels <= 100:
                raise PogsonValueError(
                    f"subpixels={self.subpixels!r} must be a whole number from 1 to 100."
                )
        elif self.subpixels:
            raise PogsonValueError(
                f"subpixels={self.subpixels!r} has no meaning for the {self.kind!r} operator."
            )

    @classmethod
    def exact(cls) -> ApertureOperator:
        """Return the exact-overlap operator."""
        return cls("exact")

    @classmethod
    def sinc(cls) -> ApertureOperator:
        """Return the sinc (band-limited) operator."""
        return cls("sinc")

    @classmethod
    def center(cls) -> ApertureOperator:
        """Return the whole-pixel operator: a pixel counts if its centre is inside."""
        return cls("center")

    @classmethod
    def subpixel(cls, n: int) -> ApertureOperator:
        """Return the operator that samples each pixel at n x n points."""
        return cls("subpixel", n)

    @classmethod
    def parse(cls, name: str | ApertureOperator) -> ApertureOperator:
        """Return the operator of a name such as "exact", "sinc", "center" or "subpixel5".

        Raises
        ------
        PogsonValueError
            If the name is unknown.
        """
        if isinstance(name, ApertureOperator):
            return name
        match = re.fullmatch(r"subpixel\(?(\d{1,3})\)?", str(name))
        if match:
            return cls.subpixel(int(match[1]))
        if name not in ("exact", "sinc", "center"):
            raise PogsonValueError(
                f"Unknown aperture operator {name!r}; allowed: 'exact', 'sinc', 'center' or "
                "'subpixelN' with N sub-pixels a side, such as 'subpixel5'."
            )
        return cls(str(name))

    @property
    def name(self) -> str:
        """Short name, read back by `parse`."""
        return f"{self.kind}{self.subpixels}" if self.kind == "subpixel" else self.kind

    def __repr__(self) -> str:
        return f"ApertureOperator.{self.kind}({self.subpixels or ''})"

    @property
    def _samples(self) -> int:
        """Sub-pixels for the compiled kernels; 0 is exact."""
        return {"exact": 0, "center": 1}.get(self.kind, self.subpixels)

    def sum(
        self,
        image: Any,
        *,
        x: Any,
        y: Any,
        a: Any,
        b: Any = None,
        theta: Any = 0.0,
        variance: Any = None,
        bad: Any = None,
        x_min: int = 0,
        y_min: int = 0,
    ) -> ApertureSums:
        """Sum elliptical apertures on an image.

        Parameters
        ----------
        image : array_like, shape (ny, nx)
            Pixel values. NaN and infinite pixels are bad.
        x, y : array_like
            Centres in pixels (0-based, centres on integers), broadcast with the shapes below.
        a, b : array_like
            Semi-axes in pixels; ``b`` defaults to ``a`` (a circle).
        theta : array_like, optional
            Position angle of ``a`` in radians, counter-clockwise from +x.
        variance : array_like, shape (ny, nx), optional
            Pixel variances; a pixel with non-finite variance is bad.
        bad : array_like of bool, shape (ny, nx), optional
            True where a pixel must not be used.
        x_min, y_min : int, optional
            Pixel coordinates of ``image[0, 0]``.

        Returns
        -------
        sums : ApertureSums
            Flux, variance, area, bad area and truncation flag per source; with a variance also the
            sums of weight squared, with and without the pixel value.

        Raises
        ------
        PogsonValueError
            If the image is not two-dimensional, shapes disagree, or a semi-axis is not positive.

        Notes
        -----
        Pixels are independent, so the variance of ``sum(w I)`` is ``sum(w^2 V)``; codes that sum
        ``w V`` instead overestimate the noise of small apertures. Bad pixels contribute nothing:
        nothing is interpolated, the area lost is returned. Non-finite positions give NaN.
        """
        pixels = _plane(image, "image")
        noise = pixels if variance is None else _plane(variance, "variance", pixels.shape)
        mask = np.zeros((0, 0), bool)
        if bad is not None:
            mask = np.ascontiguousarray(bad)
            if mask.dtype != np.bool_:
                raise PogsonTypeError(
                    f"bad must be a boolean array, not {mask.dtype}; test the mask bits first."
                )
            if mask.shape != pixels.shape:
                raise PogsonValueError(
                    f"bad has shape {mask.shape} but the image has {pixels.shape}."
                )
        shape, (xs, ys, aa, bb, tt) = _sources(x, y, a, b, theta)
        arguments = (xs - x_min, ys - y_min, aa, bb, tt)
        n = xs.size
        flux, var, area, lost, squares, square_area = (np.zeros(n) for _ in range(6))
        cut = np.zeros(n, bool)
        flags = (variance is not None, bad is not None)
        if self.kind == "sinc":
            from pogson.psf.sinc import sinc_sums

            sinc_sums(
                pixels, noise, mask, *flags, *arguments, flux, var, area, lost, cut, squares,
                square_area,
            )  # fmt: skip
        else:
            from pogson.psf import _aperture_kernels as kernels

            size = int(2 * max(aa.max(initial=1.0), bb.max(initial=1.0)) + 6)
            size = min(size, pixels.shape[1] + 2)
            kernels.aperture_sums(
                pixels, noise, mask, *flags, *arguments, self._samples, size,
                flux, var, area, lost, cut, squares, square_area,
            )  # fmt: skip
        sums = (flux, var, area, lost, cut, squares, square_area)
        parts: list[Any] = [v.reshape(shape)[()] for v in sums]
        if variance is None:
            parts[1] = parts[5] = parts[6] = None
        return ApertureSums(*parts)


def _plane(values: Any, name: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Return a contiguous native float32 or float64 image, checked."""
    array = np.asarray(values)
    if array.ndim != 2 or array.size == 0:
        raise PogsonValueError(f"{name} must be a non-empty 2-d array, not of shape {array.shape}.")
    if shape is not None and array.shape != shape:
        raise PogsonValueError(f"{name} has shape {array.shape} but the image has {shape}.")
    if array.dtype.kind not in "fiub":
        raise PogsonTypeError(f"{name} must hold real numbers, not {array.dtype}.")
    kind = np.float32 if array.dtype.kind == "f" and array.dtype.itemsize <= 4 else np.float64
    return np.ascontiguousarray(array, dtype=kind)


def _sources(
    x: Any, y: Any, a: Any, b: Any, theta: Any
) -> tuple[tuple[int, ...], list[np.ndarray]]:
    """Broadcast positions and ellipses to flat float64 arrays and check the axes."""
    values = [np.asarray(v, np.float64) for v in (x, y, a, a if b is None else b, theta)]
    try:
        arrays = np.broadcast_arrays(*values)
    except ValueError:
        shapes = ", ".join(str(v.shape) for v in values)
        raise PogsonValueError(
            f"Shapes of x, y, a, b, theta do not broadcast together: {shapes}."
        ) from None
    flat = [np.array(v, np.float64).ravel() for v in arrays]
    for name, axis in (("a", flat[2]), ("b", flat[3])):
        wrong = ~((axis > 0) & (axis < 1e6))
        if wrong.any():
            raise PogsonValueError(
                f"Aperture semi-axis {name}={axis[wrong][0]:.6g} ({int(wrong.sum())} of "
                f"{axis.size}) must be positive and below 1e6 pixels."
            )
    if not np.isfinite(flat[4]).all():
        raise PogsonValueError("Aperture angle theta must be finite (radians).")
    return arrays[0].shape, flat


def sky_circle_to_ellipse(jacobian: Any, radius: Any) -> tuple[Any, Any, Any]:
    r"""Return the pixel ellipse that is a circle on the sky.

    Parameters
    ----------
    jacobian : array_like, shape (..., 2, 2)
        Local Jacobian d(xi, eta)/d(x, y) in arcsec per pixel, as `SkyMap.jacobian` returns.
    radius : array_like
        Radius of the circle in arcsec, broadcast with the leading shape.

    Returns
    -------
    a, b : numpy.ndarray
        Semi-axes in pixels, a >= b.
    theta : numpy.ndarray
        Angle of ``a`` in radians, counter-clockwise from +x, in (-pi/2, pi/2].

    Raises
    ------
    PogsonValueError
        If a Jacobian is singular or not finite, or a radius not positive.

    Notes
    -----
    :math:`|J\,d| = R` is the ellipse :math:`d^T (J^T J) d = R^2`; its semi-axes are
    :math:`R/\sqrt{\lambda}` of the eigenvalues of :math:`J^T J`, and its area :math:`\pi R^2/|J|`.

    Examples
    --------
    >>> a, b, theta = sky_circle_to_ellipse([[-0.2, 0.0], [0.0, 0.25]], 1.0)
    >>> float(a), float(b), float(theta)
    (5.0, 4.0, 0.0)
    """
    jac = np.asarray(jacobian, np.float64)
    if jac.shape[-2:] != (2, 2):
        raise PogsonValueError(f"jacobian must have shape (..., 2, 2), not {jac.shape}.")
    size = np.asarray(radius, np.float64)
    if not (np.isfinite(size) & (size > 0)).all():
        raise PogsonValueError(f"radius={radius!r} must be positive and finite (arcsec).")
    g11 = jac[..., 0, 0] ** 2 + jac[..., 1, 0] ** 2
    g22 = jac[..., 0, 1] ** 2 + jac[..., 1, 1] ** 2
    g12 = jac[..., 0, 0] * jac[..., 0, 1] + jac[..., 1, 0] * jac[..., 1, 1]
    det = jac[..., 0, 0] * jac[..., 1, 1] - jac[..., 0, 1] * jac[..., 1, 0]
    if not (np.isfinite(jac).all() and (np.abs(det) > 1e-14 * (g11 + g22)).all()):
        raise PogsonValueError("jacobian is singular or not finite; no ellipse exists.")
    large = 0.5 * (g11 + g22) + np.hypot(0.5 * (g11 - g22), g12)
    # the small eigenvalue by the determinant: no cancellation for elongated pixels
    small = det**2 / large
    # the long axis of the ellipse lies along the eigenvector of the smaller eigenvalue
    theta = 0.5 * np.arctan2(-2.0 * g12, g22 - g11)
    return size / np.sqrt(small), size / np.sqrt(large), theta
