"""The interface of point-spread functions.

Every PSF of pogson is effective: the response of the pixel is in it once and only once. Models of
the optical profile (`PSF.pixel_integrated` true: Gaussian, Moffat, Kolmogorov) are integrated over
pixels when drawn; models built from pixels (`PixelGridPSF`) hold the pixel already and are sampled.

Pixel convention: 0-based, pixel centres on integers, stamps indexed ``[y, x]``.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pogson.errors import (
    BoundsError,
    FileFormatError,
    PogsonTypeError,
    PogsonValueError,
    choices,
)
from pogson.fields import Box
from pogson.psf.apertures import ApertureOperator

__all__ = ["PSF", "PsfNormalization", "Stamp", "psf_from_dict"]

MAX_HALF_SIZE = 512
"""Largest half-size of a stamp in pixels."""

_KINDS: dict[str, Callable[[Mapping[str, Any]], PSF]] = {}


class Stamp(NamedTuple):
    """A unit-flux star on pixels.

    Examples
    --------
    >>> from pogson.psf import GaussianPSF
    >>> stamp = GaussianPSF(fwhm=3.0).draw(x=10.0, y=20.0, half_size=5)
    >>> stamp.box
    Box(x_min=5, y_min=15, nx=11, ny=11)
    """

    image: np.ndarray
    """Pixel values, float64, shape (ny, nx)."""
    box: Box
    """Where the stamp lies on the pixel lattice."""


@dataclass(frozen=True, slots=True)
class PsfNormalization:
    """What "unit flux" means for a PSF.

    ``total``: the integral over the whole plane is 1 (for a pixel grid: the maker's values are
    taken as they are). ``box``: the pixels of a stamp of half-size `radius` sum to 1 (for a pixel
    grid without radius: the samples of the grid do). ``aperture``: the exact-overlap sum in a
    circle of `radius` pixels about the star is 1. Always at the star's own position.

    Parameters
    ----------
    kind : {"total", "box", "aperture"}
        Convention.
    radius : float, optional
        Half-size of the box (whole pixels) or radius of the aperture (pixels).

    Raises
    ------
    PogsonValueError
        If the kind is unknown or the radius does not fit it.

    Examples
    --------
    >>> PsfNormalization("aperture", 12.0)
    PsfNormalization(kind='aperture', radius=12.0)
    """

    kind: str = "total"
    radius: float | None = None

    def __post_init__(self) -> None:
        allowed = ("total", "box", "aperture")
        if self.kind not in allowed:
            raise PogsonValueError(
                f"Unknown PSF normalisation {self.kind!r}; allowed: {choices(allowed)}."
            )
        if self.radius is None:
            if self.kind == "aperture":
                raise PogsonValueError("An 'aperture' normalisation needs its radius in pixels.")
            return
        if self.kind == "total":
            raise PogsonValueError(f"A 'total' normalisation has no radius (got {self.radius!r}).")
        radius = float(self.radius)
        if not 0 < radius <= MAX_HALF_SIZE:
            raise PogsonValueError(
                f"Normalisation radius={self.radius!r} must be positive and at most "
                f"{MAX_HALF_SIZE} pixels."
            )
        if self.kind == "box" and radius != int(radius):
            raise PogsonValueError(f"A box half-size must be whole pixels, not {self.radius!r}.")
        object.__setattr__(self, "radius", radius)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return {"kind": self.kind, "radius": self.radius}


class PSF(ABC):
    """A point-spread function that may vary over a detector; immutable.

    Concrete kinds implement `_draw`, `fwhm`, `default_half_size` and `_parameters`; everything
    public is here, so that every kind behaves alike.

    Examples
    --------
    >>> from pogson.psf import MoffatPSF
    >>> psf = MoffatPSF(fwhm=4.0, beta=3.0)
    >>> psf.pixel_integrated, psf.normalization.kind, psf.box
    (True, 'total', None)
    >>> stamp = psf.draw(x=30.2, y=29.9, half_size=20)
    >>> stamp.image.shape, round(float(stamp.image.sum()), 3)
    ((41, 41), 0.999)
    """

    __slots__ = ("_box", "_identifier", "_normalization")
    _box: Box | None
    _normalization: PsfNormalization
    _identifier: str

    #: name of the kind in `to_dict`
    kind: str = ""

    @property
    @abstractmethod
    def pixel_integrated(self) -> bool:
        """True when the parameters describe the optical profile and drawing adds the pixel."""

    @property
    def box(self) -> Box | None:
        """Pixels for which the PSF is valid, or None for everywhere."""
        return self._box

    @property
    def normalization(self) -> PsfNormalization:
        """What the unit flux of a drawn star means."""
        return self._normalization

    @property
    def detector(self) -> str:
        """Name or number of the detector whose PSF it is; empty where that is not known."""
        return ""

    @property
    def identifier(self) -> str:
        """Short name that depends on every parameter: equal PSFs have equal identifiers."""
        if not self._identifier:
            text = json.dumps(self.to_dict(), sort_keys=True).encode()
            self._set(_identifier=f"{self.kind}-{hashlib.sha256(text).hexdigest()[:12]}")
        return self._identifier

    # -- what a concrete kind provides ------------------------------------------------------
    @abstractmethod
    def _draw(
        self, x: np.ndarray, y: np.ndarray, x_min: np.ndarray, y_min: np.ndarray, out: np.ndarray
    ) -> None:
        """Fill ``out`` (n, m, m) with stars in the kind's own normalisation ("total")."""

    @abstractmethod
    def fwhm(self, *, x: Any, y: Any) -> Any:
        """Full width at half maximum in pixels at positions in pixels.

        Of the optical profile where `pixel_integrated`, of the effective PSF otherwise; the
        circularised width (geometric mean of the axes) for elliptical profiles.
        """

    @abstractmethod
    def default_half_size(self, *, x: Any, y: Any) -> int:
        """Half-size in pixels of a stamp that holds nearly all light at all given positions."""

    @abstractmethod
    def _parameters(self) -> dict[str, Any]:
        """Return the JSON-ready parameters of the kind."""

    # -- drawing ------------------------------------------------------------------------------
    def draw(self, *, x: float, y: float, half_size: int | None = None) -> Stamp:
        """Draw a unit-flux star.

        Parameters
        ----------
        x, y : float
            Position in pixels (0-based, pixel centres on integers).
        half_size : int, optional
            The stamp has ``2 half_size + 1`` pixels a side, centred on the pixel of the star.
            By default from `default_half_size`.

        Returns
        -------
        stamp : Stamp
            Image and its box on the pixel lattice. Light outside the stamp is not put back: the
            sum is below 1 by what the stamp misses, unless the normalisation says otherwise.

        Raises
        ------
        BoundsError
            If the position is outside the box of the PSF.
        PogsonValueError
            If the position is not finite or the half-size not from 0 to 512.
        """
        stamps, x_min, y_min = self.draw_many(x=[x], y=[y], half_size=half_size)
        image = stamps[0]
        image.flags.writeable = False
        return Stamp(image, Box(int(x_min[0]), int(y_min[0]), image.shape[1], image.shape[0]))

    def draw_many(
        self, *, x: Any, y: Any, half_size: int | None = None, out: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw many unit-flux stars on stamps of one size.

        Parameters
        ----------
        x, y : array_like, shape (n,)
            Positions in pixels (0-based, pixel centres on integers).
        half_size : int, optional
            As in `draw`; by default the largest that any of the positions wants.
        out : numpy.ndarray, shape (n, m, m), optional
            Contiguous float64 array to draw into, to save memory from being allocated anew.

        Returns
        -------
        stamps : numpy.ndarray, shape (n, m, m)
            Pixel values, float64, ``m = 2 half_size + 1``; ``out`` where given.
        x_min, y_min : numpy.ndarray of int, shape (n,)
            Pixel coordinates of the first pixel of each stamp.

        Raises
        ------
        BoundsError
            If a position is outside the box of the PSF.
        PogsonValueError
            If a position is not finite, the half-size not from 0 to 512, or ``out`` not such an
            array.
        """
        xs, ys = self._positions(x, y)
        if half_size is None:
            half_size = self.default_half_size(x=xs, y=ys) if xs.size else 0
        if int(half_size) != half_size or not 0 <= half_size <= MAX_HALF_SIZE:
            raise PogsonValueError(
                f"half_size={half_size!r} must be a whole number from 0 to {MAX_HALF_SIZE} pixels."
            )
        half = int(half_size)
        x_min = np.floor(xs + 0.5) - half
        y_min = np.floor(ys + 0.5) - half
        shape = (xs.size, 2 * half + 1, 2 * half + 1)
        if out is None:
            out = np.empty(shape)
        elif out.shape != shape or out.dtype != np.float64 or not out.flags.c_contiguous:
            raise PogsonValueError(
                f"out must be a contiguous float64 array of shape {shape}, not {out.dtype} of "
                f"shape {out.shape}."
            )
        if xs.size:
            self._draw(xs, ys, x_min, y_min, out)
            factor = self._normalization_factor(xs, ys)
            if factor is not None:
                out *= factor[:, None, None]
        return out, x_min.astype(np.int64), y_min.astype(np.int64)

    def _normalization_factor(self, x: np.ndarray, y: np.ndarray) -> np.ndarray | None:
        """Return the factor from the kind's own normalisation to the one asked for."""
        norm = self._normalization
        if norm.kind == "total" or norm.radius is None:
            return None
        half = int(np.ceil(norm.radius)) + (norm.kind == "aperture")
        sums = np.empty(x.size)
        step = max(1, 4_000_000 // (2 * half + 1) ** 2)
        for start in range(0, x.size, step):
            part = slice(start, start + step)
            x_min = np.floor(x[part] + 0.5) - half
            y_min = np.floor(y[part] + 0.5) - half
            stamps = np.zeros((x_min.size, 2 * half + 1, 2 * half + 1))
            self._draw(x[part], y[part], x_min, y_min, stamps)
            if norm.kind == "box":
                sums[part] = stamps.sum(axis=(1, 2))
            else:
                from pogson.psf.enclosed import sum_stamps

                radius = np.full((x_min.size, 1), norm.radius)
                sums[part] = sum_stamps(
                    stamps, x[part] - x_min, y[part] - y_min, radius, radius, 0.0 * radius,
                    ApertureOperator.exact(),
                )[:, 0]  # fmt: skip
        if not (sums > 0).all():
            raise PogsonValueError(
                f"The PSF cannot be normalised in its {norm.kind} of {norm.radius:g} pixels: "
                f"the sum there is {sums.min():.3g}, not positive."
            )
        return 1.0 / sums

    # -- numbers --------------------------------------------------------------------------------
    def enclosed_energy(
        self,
        radius: Any = None,
        operator: ApertureOperator | str | None = None,
        *,
        x: Any,
        y: Any,
        a: Any = None,
        b: Any = None,
        theta: Any = 0.0,
        phase: str = "source",
    ) -> Any:
        """Return the flux an aperture operator finds for a unit-flux star.

        The star is drawn on the pixel lattice at exactly (x, y) and summed by the operator
        itself, so the pixel response, the sub-pixel phase and the habits of the operator are all
        in the answer, each once. Multiply a total flux by it to predict the measurement; divide a
        measurement by it to get the total.

        Parameters
        ----------
        radius : float or array_like, shape (n_radii,)
            Radii of circles in pixels, the same for every star. Or give ``a`` (and ``b``).
        operator : ApertureOperator or str, optional
            How pixels are summed; exact overlap by default.
        x, y : array_like, shape (n,) or scalar
            Positions of stars and apertures in pixels (0-based, centres on integers).
        a, b : array_like, optional
            Semi-axes of one ellipse per star, in pixels, instead of ``radius``.
        theta : array_like, optional
            Angle of ``a`` in radians, counter-clockwise from +x.
        phase : {"source", "mean"}, optional
            "source": at the star's own sub-pixel phase. "mean": the average over a 4 x 4 grid of
            sub-pixel phases of the PSF at that position.

        Returns
        -------
        fraction : float or numpy.ndarray
            Of shape (n,) for one radius or ellipses, (n, n_radii) for a sequence of radii; without
            the first axis for scalar positions.

        Raises
        ------
        BoundsError
            If a position is outside the box of the PSF.
        PogsonValueError
            If a radius is not positive, or both or neither of ``radius`` and ``a`` are given.

        Examples
        --------
        >>> from pogson.psf import MoffatPSF
        >>> psf = MoffatPSF(fwhm=4.0, beta=3.0)
        >>> psf.enclosed_energy([4.0, 12.0], "exact", x=10.3, y=20.1).round(4)
        array([0.7515, 0.9906])
        """
        from pogson.psf.enclosed import enclosed_energy

        return enclosed_energy(self, radius, operator, x=x, y=y, a=a, b=b, theta=theta, phase=phase)

    def effective_area(self, *, x: Any, y: Any) -> Any:
        """Return the noise-equivalent area 1/sum(P^2) in pixels at positions in pixels.

        The variance of an optimal PSF flux on uniform noise is this area times the variance of a
        pixel. P is the drawn unit-flux star at its own sub-pixel phase.

        Examples
        --------
        >>> from pogson.psf import GaussianPSF
        >>> round(GaussianPSF(fwhm=6.0).effective_area(x=0.0, y=0.0), 2)
        82.63
        """
        shape = np.broadcast_shapes(np.shape(x), np.shape(y))
        xs, ys = self._positions(x, y)
        result = np.empty(xs.size)
        for k in range(xs.size):
            stamp = self.draw_many(x=xs[k : k + 1], y=ys[k : k + 1])[0]
            result[k] = 1.0 / np.sum(stamp * stamp)
        return float(result[0]) if shape == () else result.reshape(shape)

    def _positions(self, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return flat float64 positions, checked against the box."""
        try:
            xa, ya = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(y, np.float64))
        except ValueError as error:
            raise PogsonValueError(f"Positions x and y do not fit each other: {error}.") from None
        xs, ys = np.ascontiguousarray(xa).ravel(), np.ascontiguousarray(ya).ravel()
        wrong = ~(np.isfinite(xs) & np.isfinite(ys) & (np.abs(xs) < 1e9) & (np.abs(ys) < 1e9))
        if wrong.any():
            i = int(np.flatnonzero(wrong)[0])
            raise PogsonValueError(
                f"PSF position x={xs[i]:.6g}, y={ys[i]:.6g} ({int(wrong.sum())} of {xs.size}) is "
                "not a finite pixel position; select the sources with positions first."
            )
        if self._box is not None:
            outside = ~self._box.contains(x=xs, y=ys)
            if outside.any():
                i = int(np.flatnonzero(outside)[0])
                raise BoundsError(
                    f"PSF asked at x={xs[i]:.6g}, y={ys[i]:.6g} ({int(outside.sum())} of "
                    f"{xs.size} positions), outside its box x {self._box.x_bounds}, "
                    f"y {self._box.y_bounds}."
                )
        return xs, ys

    # -- dictionary, equality, pickling ---------------------------------------------------------
    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description, read back by `psf_from_dict`."""
        return {
            "kind": self.kind,
            "normalization": self._normalization.to_dict(),
            "box": None if self._box is None else list(self._box),
            **self._parameters(),
        }

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> PSF:
        """Return the PSF described by `to_dict`, of whichever kind it is."""
        return psf_from_dict(description)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PSF):
            return NotImplemented
        return type(self) is type(other) and self.identifier == other.identifier

    def __hash__(self) -> int:
        return hash(self.identifier)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable; cannot set {name!r}.")

    def _set(self, **values: Any) -> None:
        """Fill slots during construction."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return psf_from_dict, (self.to_dict(),)


def register(kind: str, build: Callable[[Mapping[str, Any]], PSF]) -> None:
    """Make a kind of PSF known to `psf_from_dict`."""
    _KINDS[kind] = build


def psf_from_dict(description: Mapping[str, Any]) -> PSF:
    """Return the PSF described by `PSF.to_dict`.

    Raises
    ------
    FileFormatError
        If the kind is unknown or a part is missing.

    Examples
    --------
    >>> from pogson.psf import GaussianPSF
    >>> psf = GaussianPSF(fwhm=3.5)
    >>> psf_from_dict(psf.to_dict()) == psf
    True
    """
    if not isinstance(description, Mapping):
        raise PogsonTypeError(f"A PSF description must be a mapping, not {type(description)}.")
    kind = description.get("kind")
    if kind not in _KINDS:
        raise FileFormatError(f"Unknown PSF kind {kind!r}; allowed: {choices(_KINDS)}.")
    try:
        return _KINDS[kind](description)
    except KeyError as error:
        raise FileFormatError(f"The description of a {kind!r} PSF has no {error}.") from None


def box_from_dict(description: Mapping[str, Any]) -> Box | None:
    """Return the box of a description."""
    box = description.get("box")
    return None if box is None else Box(*box)


def normalization_from_dict(description: Mapping[str, Any]) -> PsfNormalization:
    """Return the normalisation of a description."""
    return PsfNormalization(**description["normalization"])
