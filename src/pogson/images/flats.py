"""Flat fields that know their spectrum: response as a function of wavelength and position."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import astropy.units as u
import numpy as np

from pogson.errors import (
    BoundsError,
    MissingDataError,
    PogsonValueError,
    UnitMismatchError,
)
from pogson.fields import Box, ChebyshevField, Field, GridField, field_from_dict
from pogson.images._flat_integrals import effective_weights
from pogson.sed import Bandpass, Spectrum
from pogson.units import strip_unit

__all__ = ["ChromaticFlat", "FlatFactors", "flat_from_dict"]


@dataclass(frozen=True, eq=False, repr=False)
class ChromaticFlat:
    r"""A flat field as a function of wavelength and position; immutable.

    .. math:: F(\lambda, x, y) = \sum_k a_k(\lambda)\, f_k(x, y)

    with the :math:`a_k` linear between samples in wavelength. A set of monochromatic flats is the
    case of one component a wavelength (`from_fields`); a cube is reduced to the few components
    that it needs (`from_cube`).

    Parameters
    ----------
    wavelength : array_like, shape (n,)
        Vacuum wavelengths in Angstrom, strictly increasing.
    weights : array_like, shape (n, k)
        The :math:`a_k` at these wavelengths.
    components : sequence of Field, length k
        The :math:`f_k`, dimensionless, on one box.
    achieved_error : float, optional
        Largest absolute difference from the data that the flat was made from.
    name : str, optional
        What it is called in messages and files.

    Raises
    ------
    PogsonValueError
        If wavelengths do not increase, shapes disagree, or the flat is not finite and positive.
    UnitMismatchError
        If a component has a unit.

    Examples
    --------
    A flat whose left-right slope is different in the blue and in the red:

    >>> from pogson.fields import Box, ChebyshevField
    >>> box = Box(0, 0, 100, 50)
    >>> blue, red = ChebyshevField(box, [[1.0, 0.05]]), ChebyshevField(box, [[1.0, -0.05]])
    >>> flat = ChromaticFlat.from_fields([4000.0, 6000.0], [blue, red])
    >>> round(flat.at(4500.0)(x=99.5, y=10.0), 6)
    1.025
    """

    wavelength: np.ndarray
    weights: np.ndarray
    components: tuple[Field, ...]
    achieved_error: float = 0.0
    name: str = ""

    def __post_init__(self) -> None:
        lam = np.array(strip_unit(self.wavelength, u.AA, "wavelength"), np.float64)
        weights = np.array(self.weights, np.float64)
        components = tuple(self.components)
        _check_wavelengths(lam)
        if weights.shape != (lam.size, len(components)) or not components:
            raise PogsonValueError(
                f"weights have shape {weights.shape}; {lam.size} wavelengths and "
                f"{len(components)} components need {(lam.size, len(components))}."
            )
        if not np.all(np.isfinite(weights)):
            raise PogsonValueError("The weights of a flat must be finite.")
        box = components[0].box
        for component in components:
            if not component.unit.is_equivalent(u.dimensionless_unscaled):
                raise UnitMismatchError(
                    f"A component of the flat has unit '{component.unit}'; flats have no unit."
                )
            if component.box != box:
                raise BoundsError(f"The components of a flat lie on {box} and {component.box}.")
        lam.flags.writeable = weights.flags.writeable = False
        object.__setattr__(self, "wavelength", lam)
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "components", components)
        self._check_positive()

    def _check_positive(self) -> None:
        """Raise where the flat is not positive on a coarse grid at some wavelength."""
        box = self.box
        x = np.linspace(box.x_min, box.x_max, 9)
        y = np.linspace(box.y_min, box.y_max, 9)[:, None]
        samples = np.stack([np.asarray(f(x=x, y=y), np.float64).ravel() for f in self.components])
        values = self.weights @ samples
        if not (np.all(np.isfinite(values)) and values.min() > 0):
            i = int(np.argmin(np.where(np.isfinite(values), values, -np.inf).min(axis=1)))
            raise PogsonValueError(
                f"The flat {self.name!r} is zero, negative or not finite at "
                f"{self.wavelength[i]:g} Angstrom (smallest value "
                f"{np.nanmin(values):.6g}); a flat must be positive. Mask dead pixels in the "
                f"images and interpolate over them in the flat."
            )

    # -- making one -----------------------------------------------------------------------------
    @classmethod
    def from_fields(
        cls, wavelength: Any, fields: Iterable[Field], *, name: str = ""
    ) -> ChromaticFlat:
        """Return the flat that is these fields at these wavelengths, linear between.

        Parameters
        ----------
        wavelength : array_like, shape (n,)
            Angstrom, strictly increasing.
        fields : iterable of Field, length n
            One monochromatic flat for each.
        name : str, optional
            Its name.
        """
        lam = np.array(strip_unit(wavelength, u.AA, "wavelength"), np.float64)
        return cls(lam, np.eye(lam.size), tuple(fields), name=name)

    @classmethod
    def from_cube(
        cls,
        wavelength: Any,
        cube: Any,
        *,
        box: Box | None = None,
        tolerance: float = 1e-4,
        name: str = "",
    ) -> ChromaticFlat:
        """Return the flat of a cube of monochromatic flats, with as few components as it needs.

        Parameters
        ----------
        wavelength : array_like, shape (n,)
            Angstrom, strictly increasing.
        cube : array_like, shape (n, ny, nx)
            Flat at each wavelength, finite and positive.
        box : Box, optional
            Where the cube lies on the detector; starts at (0, 0) by default.
        tolerance : float, optional
            Largest absolute error of a pixel of the cube; the number of components is the smallest
            that reaches it.
        name : str, optional
            Its name.

        Raises
        ------
        PogsonValueError
            If the shapes disagree, the wavelengths are not sorted, or the cube has zeros, negative
            values or NaN.

        Notes
        -----
        Components are the leading singular vectors of the cube (Eckart & Young 1936, Psychometrika
        1, 211), by the eigenvectors of its n x n Gram matrix; one number a pixel and component is
        kept. The largest error over the whole cube is stored as `achieved_error`.

        Examples
        --------
        >>> import numpy as np
        >>> tilt = np.linspace(-0.05, 0.05, 40)
        >>> cube = np.stack([np.tile(1.0 + s * tilt, (30, 1)) for s in (1.0, 0.3, -1.0)])
        >>> flat = ChromaticFlat.from_cube([4000.0, 5000.0, 6000.0], cube)
        >>> len(flat.components), flat.achieved_error < 1e-12
        (2, True)
        """
        lam = np.array(strip_unit(wavelength, u.AA, "wavelength"), np.float64)
        data = np.asarray(cube, np.float64)
        if data.ndim != 3 or data.shape[0] != lam.size:
            raise PogsonValueError(
                f"The cube has shape {data.shape}; {lam.size} wavelengths need "
                f"({lam.size}, ny, nx)."
            )
        _check_wavelengths(lam)
        _check_cube(data, lam, name)
        box = Box.from_shape(data.shape[1:]) if box is None else box
        if box.shape != data.shape[1:]:
            raise PogsonValueError(f"The box has shape {box.shape}, the cube {data.shape[1:]}.")
        weights, images, error = _low_rank(data.reshape(lam.size, -1), tolerance)
        components = tuple(GridField.from_image(i.reshape(box.shape), box) for i in images)
        return cls(lam, weights, components, error, name)

    @classmethod
    def from_scan(
        cls,
        wavelength: Any,
        throughput: Any,
        throughput_err: Any,
        *,
        x: Any,
        y: Any,
        box: Box,
        order: int = 3,
        name: str = "",
    ) -> ChromaticFlat:
        """Return the flat of a collimated-beam scan: throughputs at positions and wavelengths.

        Parameters
        ----------
        wavelength, throughput, throughput_err : array_like, shape (n,)
            Wavelength in Angstrom, relative throughput of the beam and its standard deviation.
        x, y : array_like, shape (n,)
            Positions of the spots in pixels (0-based, centres on integers).
        box : Box
            Box of the detector.
        order : int, optional
            Total order of the Chebyshev polynomial fitted at each wavelength.
        name : str, optional
            Its name.

        Raises
        ------
        PogsonValueError
            If a wavelength has too few spots for the order, or an error is not positive.
        """
        lam = np.asarray(strip_unit(wavelength, u.AA, "wavelength"), np.float64)
        values, errors = np.asarray(throughput, float), np.asarray(throughput_err, float)
        xs, ys = np.asarray(x, float), np.asarray(y, float)
        if not (np.all(np.isfinite(errors)) and np.all(errors > 0)):
            raise PogsonValueError(
                f"{int((~(errors > 0)).sum())} throughput errors are not positive; every spot "
                "needs its standard deviation."
            )
        nodes = np.unique(lam)
        needed = (order + 1) * (order + 2) // 2
        fields, worst = [], 0.0
        for node in nodes:
            at = lam == node
            if int(at.sum()) < needed:
                raise PogsonValueError(
                    f"The scan has {int(at.sum())} spots at {node:g} Angstrom; a polynomial of "
                    f"order {order} needs {needed}. Lower the order."
                )
            fit = ChebyshevField.fit(
                box, xs[at], ys[at], values[at], order=order, weights=1.0 / errors[at]
            )
            worst = max(worst, float(np.abs(fit(x=xs[at], y=ys[at]) - values[at]).max()))
            fields.append(fit)
        return cls(nodes, np.eye(nodes.size), tuple(fields), worst, name)

    # -- using it -------------------------------------------------------------------------------
    @property
    def box(self) -> Box:
        """Pixel box of the detector."""
        return self.components[0].box

    def at(self, wavelength: float) -> Field:
        """Return the monochromatic flat at a wavelength in Angstrom.

        Raises
        ------
        BoundsError
            If the wavelength is outside the flat's.
        """
        lam = float(strip_unit(wavelength, u.AA, "wavelength"))
        first, last = float(self.wavelength[0]), float(self.wavelength[-1])
        slack = 1e-12 * lam  # a unit converted and back
        if not first - slack <= lam <= last + slack:
            raise BoundsError(
                f"The flat {self.name!r} covers {first:g}-{last:g} Angstrom, not {lam:g}."
            )
        return self._combined(
            np.array([np.interp(lam, self.wavelength, a) for a in self.weights.T])
        )

    def flat_for(self, sed: Spectrum, bandpass: Bandpass) -> Field:
        r"""Return the flat for light of a spectrum through a bandpass.

        .. math::

            F_S(x, y) = \frac{\int F(\lambda, x, y)\, T f_\lambda \lambda\, d\lambda}
                             {\int T f_\lambda \lambda\, d\lambda}

        for a photon-counting detector (without the :math:`\lambda` for an energy response).

        Parameters
        ----------
        sed : Spectrum
            The light; its scale does not matter.
        bandpass : Bandpass
            The response that does not vary over the detector.

        Returns
        -------
        Field
            Dimensionless, on the flat's box.

        Raises
        ------
        CalibrationError
            If spectrum or flat covers less than 99 % of the signal, or the signal is not positive.

        Examples
        --------
        >>> from pogson.fields import Box, ChebyshevField
        >>> box = Box(0, 0, 100, 50)
        >>> blue, red = ChebyshevField(box, [[1.0, 0.05]]), ChebyshevField(box, [[1.0, -0.05]])
        >>> flat = ChromaticFlat.from_fields([3000.0, 12000.0], [blue, red])
        >>> r = Bandpass.from_speclite("decam2014-r")
        >>> bluest = flat.flat_for(Spectrum([3000.0, 12000.0], [9.0, 1.0]), r)
        >>> reddest = flat.flat_for(Spectrum([3000.0, 12000.0], [1.0, 9.0]), r)
        >>> bool(bluest(x=99, y=9) > reddest(x=99, y=9))
        True
        """
        return self._combined(effective_weights(self, sed, bandpass))

    def _combined(self, coefficients: np.ndarray) -> Field:
        """Return the sum of components times coefficients, as one field where the kinds allow."""
        key = hashlib.sha256(coefficients.tobytes()).hexdigest()
        if key not in self._combinations:
            self._combinations[key] = _linear_combination(self.components, coefficients)
        return self._combinations[key]

    @cached_property
    def _combinations(self) -> dict[str, Field]:
        return {}

    # -- files and identity ---------------------------------------------------------------------
    @cached_property
    def digest(self) -> str:
        """Hash of everything but the name: two flats of equal digest flatten alike."""
        state = hashlib.sha256(self.wavelength.tobytes() + self.weights.tobytes())
        for component in self.components:
            state.update(component._digest.encode())
        return state.hexdigest()

    @property
    def size(self) -> int:
        """Return how many numbers the flat holds."""
        from pogson.fields.base import stored_values

        return int(sum(stored_values(f) for f in self.components)) + self.weights.size

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description, read back by `from_dict`."""
        return {
            "kind": "chromatic",
            "wavelength": self.wavelength.tolist(),
            "weights": self.weights.tolist(),
            "components": [f.to_dict() for f in self.components],
            "achieved_error": self.achieved_error,
            "name": self.name,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ChromaticFlat:
        """Return the flat described by `to_dict`."""
        return cls(
            np.asarray(data["wavelength"], float),
            np.asarray(data["weights"], float),
            tuple(field_from_dict(f) for f in data["components"]),
            float(data["achieved_error"]),
            str(data["name"]),
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ChromaticFlat):
            return NotImplemented
        return self is other or (self.name == other.name and self.digest == other.digest)

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        b = self.box
        label = f" {self.name!r}" if self.name else ""
        return (
            f"<ChromaticFlat{label}: {b.nx} x {b.ny} pixels, {self.wavelength.size} wavelengths "
            f"{self.wavelength[0]:g}-{self.wavelength[-1]:g} Angstrom, "
            f"{len(self.components)} components>"
        )


@dataclass(frozen=True)
class FlatFactors:
    """A flat as a product of separate named factors: dome flat, star flat, illumination, ...

    What divides the raw image is the product of all factors; any of them may be a field (grey: the
    same for every spectrum) or a `ChromaticFlat`. Keeping them apart lets one be replaced, and says
    what the flat contains: a dome flat contains the pixel areas, so that an image divided by it is
    in surface brightness; times an illumination correction that contains their inverse it is not.

    Parameters
    ----------
    factors : mapping of str to Field or ChromaticFlat
        By name; every factor is dimensionless and covers the detector.

    Raises
    ------
    PogsonValueError
        If there is no factor, or one has zeros or NaN.
    UnitMismatchError
        If a factor has a unit.

    Examples
    --------
    >>> from pogson.fields import Box, ChebyshevField, ConstantField
    >>> box = Box(0, 0, 100, 50)
    >>> factors = FlatFactors({"dome": ChebyshevField(box, [[1.0, 0.1]]),
    ...                        "illumination": ConstantField(box, 0.98)})
    >>> r = Bandpass.from_speclite("decam2014-r")
    >>> round(factors.flat_for(Spectrum.constant_ab(20.0), r)(x=49.5, y=9.0), 6)
    0.98
    >>> list(factors.without("illumination").factors)
    ['dome']
    """

    factors: Mapping[str, Field | ChromaticFlat] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from types import MappingProxyType

        if not self.factors:
            raise PogsonValueError("A flat needs at least one factor.")
        for name, factor in self.factors.items():
            if isinstance(factor, Field):
                _check_grey(name, factor)
        object.__setattr__(self, "factors", MappingProxyType(dict(self.factors)))

    @property
    def box(self) -> Box:
        """Pixel box that all factors cover."""
        box: Box | None = None
        for factor in self.factors.values():
            box = factor.box if box is None else box.intersection(factor.box)
        assert box is not None
        return box

    def flat_for(self, sed: Spectrum, bandpass: Bandpass) -> Field:
        """Return the product of the factors for light of a spectrum; see `ChromaticFlat`."""
        product: Field | None = None
        for factor in self.factors.values():
            one = factor if isinstance(factor, Field) else factor.flat_for(sed, bandpass)
            product = one if product is None else product * one
        assert product is not None
        return product

    def with_factor(self, name: str, factor: Field | ChromaticFlat) -> FlatFactors:
        """Return the flat with a factor added or replaced."""
        return FlatFactors({**self.factors, name: factor})

    def without(self, name: str) -> FlatFactors:
        """Return the flat without a factor.

        Raises
        ------
        MissingDataError
            If there is no factor of that name.
        """
        if name not in self.factors:
            raise MissingDataError(
                f"The flat has no factor {name!r}; it has {', '.join(self.factors)}."
            )
        return FlatFactors({k: v for k, v in self.factors.items() if k != name})

    @property
    def digest(self) -> str:
        """Hash of the factors and their names."""
        state = hashlib.sha256()
        for name, factor in self.factors.items():
            part = factor._digest if isinstance(factor, Field) else factor.digest
            state.update(f"{name}:{part};".encode())
        return state.hexdigest()

    @property
    def size(self) -> int:
        """Return how many numbers the factors hold."""
        from pogson.fields.base import stored_values

        return int(
            sum(stored_values(f) if isinstance(f, Field) else f.size for f in self.factors.values())
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description, read back by `from_dict`."""
        return {
            "kind": "factors",
            "factors": {name: factor.to_dict() for name, factor in self.factors.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FlatFactors:
        """Return the flat described by `to_dict`."""
        return cls({name: flat_from_dict(value) for name, value in data["factors"].items()})


def flat_from_dict(data: Mapping[str, Any]) -> Any:
    """Return the field, chromatic flat or factors that a description says."""
    if data.get("kind") == "chromatic":
        return ChromaticFlat.from_dict(data)
    if data.get("kind") == "factors":
        return FlatFactors.from_dict(data)
    return field_from_dict(dict(data))


def _check_wavelengths(lam: np.ndarray) -> None:
    if lam.ndim != 1 or lam.size < 1 or not np.all(np.isfinite(lam)) or not np.all(lam > 0):
        raise PogsonValueError(
            "The wavelengths of a flat must be positive finite numbers, in Angstrom."
        )
    steps = np.diff(lam)
    if not np.all(steps > 0):
        i = int(np.flatnonzero(~(steps > 0))[0])
        raise PogsonValueError(
            f"The wavelengths of a flat must increase; number {i + 1} ({lam[i + 1]:g} Angstrom) "
            f"follows {lam[i]:g}. Sort the planes of the cube with their wavelengths."
        )


def _check_cube(data: np.ndarray, lam: np.ndarray, name: str) -> None:
    bad = ~(np.isfinite(data) & (data > 0))
    if bad.any():
        plane, row, column = (int(i) for i in np.argwhere(bad)[0])
        raise PogsonValueError(
            f"The flat {name!r} is zero, negative or NaN at {int(bad.sum())} of {bad.size} values, "
            f"first {data[plane, row, column]:g} at {lam[plane]:g} Angstrom, array index "
            f"[y={row}, x={column}]. Interpolate over dead pixels (and mask them in the images)."
        )


def _check_grey(name: str, factor: Field) -> None:
    if not factor.unit.is_equivalent(u.dimensionless_unscaled):
        raise UnitMismatchError(f"Flat factor {name!r} has unit '{factor.unit}'; flats have none.")
    box = factor.box
    x = np.linspace(box.x_min, box.x_max, 9)
    y = np.linspace(box.y_min, box.y_max, 9)[:, None]
    values = np.asarray(factor(x=x, y=y))
    if not (np.all(np.isfinite(values)) and np.all(values > 0)):
        raise PogsonValueError(
            f"Flat factor {name!r} runs from {values.min():g} to {values.max():g}; it must be "
            f"finite and positive everywhere."
        )


def _low_rank(data: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Return weights (n, k), components (k, pixels) and the largest error of a low-rank fit."""
    if not (np.isfinite(tolerance) and tolerance > 0):
        raise PogsonValueError(f"tolerance={tolerance!r} must be a positive number.")
    _, vectors = np.linalg.eigh(data @ data.T)
    vectors = vectors[:, ::-1]
    for rank in range(1, data.shape[0] + 1):
        weights = vectors[:, :rank]
        images = weights.T @ data
        error = max(
            float(np.abs(w @ images - row).max()) for w, row in zip(weights, data, strict=True)
        )
        if error <= tolerance or rank == data.shape[0]:
            break
    return weights, images, error


def _linear_combination(components: Sequence[Field], coefficients: np.ndarray) -> Field:
    first = components[0]
    if all(_same_grid(first, f) for f in components):
        values = sum(c * f.values for c, f in zip(coefficients, components, strict=True))  # type: ignore[attr-defined]
        assert isinstance(first, GridField)
        return GridField(first.box, first.x_nodes, first.y_nodes, values, "", first.interpolation)
    total: Field | None = None
    for c, f in zip(coefficients, components, strict=True):
        if c != 0.0:
            total = float(c) * f if total is None else total + float(c) * f
    return first * 0.0 if total is None else total


def _same_grid(a: Field, b: Field) -> bool:
    return (
        isinstance(a, GridField)
        and isinstance(b, GridField)
        and a.interpolation == b.interpolation
        and a.box == b.box
        and np.array_equal(a.x_nodes, b.x_nodes)
        and np.array_equal(a.y_nodes, b.y_nodes)
    )
