"""Tables of the exposures, detectors and stars of a survey.

A *star* is one unknown magnitude: one object in one band. Pixel convention: 0-based, pixel centres
on integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from pogson.errors import PogsonValueError
from pogson.fields import Box

__all__ = ["Detectors", "Exposures", "Stars", "SurveyTables"]


def column(values: Any, n: int, name: str, kind: Any, default: Any) -> np.ndarray:
    """Return a read-only column of length n."""
    if values is None:
        a = np.full(n, default, kind)
    else:
        a = np.asarray(values)
        if a.ndim == 0:
            a = np.full(n, a)
        if a.shape != (n,):
            raise PogsonValueError(f"Column {name!r} has shape {a.shape}, it must be ({n},).")
        if kind is np.float64 and a.dtype.kind == "f":
            a = np.array(a, copy=True) if a.flags.writeable else a
        else:
            try:
                a = a.astype(kind)
            except (TypeError, ValueError):
                raise PogsonValueError(
                    f"Column {name!r} holds {a.dtype}, it must be {np.dtype(kind).name}."
                ) from None
    a.flags.writeable = False
    return a


class Table:
    """Columns of equal length, read-only."""

    def __len__(self) -> int:
        return int(getattr(self, fields(self)[0].name).shape[0])  # type: ignore[arg-type]

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(
            _same(getattr(self, f.name), getattr(other, f.name))
            for f in fields(self)  # type: ignore[arg-type]
        )

    __hash__ = None  # type: ignore[assignment]


def _names(given: Sequence[str], n: int, what: str) -> tuple[str, ...]:
    names = tuple(str(v) for v in given)
    if names and (len(names) != n or len(set(names)) != n):
        raise PogsonValueError(
            f"{len(names)} names, {len(set(names))} of them different, for {n} {what}; give each "
            "its own, or none."
        )
    return names


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))
    return bool(a == b)


@dataclass(frozen=True, eq=False)
class Exposures(Table):
    """What is known of each exposure.

    Parameters
    ----------
    identifier : array_like of int, shape (n,)
        Exposure numbers as the survey knows them; detections hold row numbers, not these.
    mjd : array_like of float, optional
        Modified Julian date, days.
    airmass : array_like of float, optional
        Airmass at the field centre (1 by default).
    night, epoch, filter, category : array_like of int, optional
        Row numbers from 0: night, instrument epoch, filter (band), and class of exposures that
        share an intrinsic noise floor.
    seeing : array_like of float, optional
        Full width at half maximum, arcsec (1 by default).
    photometric : array_like of bool, optional
        Whether the exposure is taken to be cloudless (True by default).
    filter_names : sequence of str, optional
        Names of the filters.
    names : sequence of str, optional
        What the survey calls the exposures, where that is no number: for names of parameters.

    Raises
    ------
    PogsonValueError
        If columns differ in length, identifiers repeat, or an index is negative.

    Examples
    --------
    >>> exposures = Exposures([1001, 1002], airmass=[1.0, 1.4], night=[0, 1])
    >>> len(exposures), exposures.night_count
    (2, 2)
    """

    identifier: np.ndarray
    mjd: np.ndarray = None  # type: ignore[assignment]
    airmass: np.ndarray = None  # type: ignore[assignment]
    night: np.ndarray = None  # type: ignore[assignment]
    epoch: np.ndarray = None  # type: ignore[assignment]
    filter: np.ndarray = None  # type: ignore[assignment]
    category: np.ndarray = None  # type: ignore[assignment]
    seeing: np.ndarray = None  # type: ignore[assignment]
    photometric: np.ndarray = None  # type: ignore[assignment]
    filter_names: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n = int(np.size(self.identifier))
        kinds: dict[str, tuple[Any, Any]] = {
            "identifier": (np.int64, 0),
            "mjd": (np.float64, 0.0),
            "airmass": (np.float64, 1.0),
            "seeing": (np.float64, 1.0),
            "photometric": (np.bool_, True),
        }
        for name in ("night", "epoch", "filter", "category"):
            kinds[name] = (np.int32, 0)
        for name, (kind, default) in kinds.items():
            values = column(getattr(self, name), n, name, kind, default)
            if kind is np.int32 and values.min(initial=0) < 0:
                raise PogsonValueError(
                    f"Column {name!r} of the exposures holds {values.min()}; row numbers start at "
                    "0."
                )
            object.__setattr__(self, name, values)
        if np.unique(self.identifier).size != n:
            raise PogsonValueError("Exposure identifiers must each occur once.")
        object.__setattr__(self, "filter_names", tuple(str(f) for f in self.filter_names))
        object.__setattr__(self, "names", _names(self.names, n, "exposures"))

    @property
    def labels(self) -> list[str]:
        """Names of the exposures; their identifiers as text where they have none."""
        return list(self.names) or [str(i) for i in self.identifier]

    @property
    def night_count(self) -> int:
        """Number of nights."""
        return int(self.night.max(initial=-1)) + 1

    @property
    def epoch_count(self) -> int:
        """Number of instrument epochs."""
        return int(self.epoch.max(initial=-1)) + 1

    @property
    def filter_count(self) -> int:
        """Number of filters."""
        return max(int(self.filter.max(initial=-1)) + 1, len(self.filter_names))

    @property
    def category_count(self) -> int:
        """Number of exposure classes."""
        return int(self.category.max(initial=-1)) + 1

    def filter_name(self, index: int) -> str:
        """Return the name of a filter, or its number as text."""
        return self.filter_names[index] if index < len(self.filter_names) else str(index)

    def row(self, identifier: int) -> int:
        """Return the row of an exposure identifier.

        Raises
        ------
        PogsonValueError
            If there is no such exposure.
        """
        found = np.flatnonzero(self.identifier == int(identifier))
        if found.size != 1:
            raise PogsonValueError(
                f"No exposure {identifier!r} among the {len(self)} exposures of the solution."
            )
        return int(found[0])


@dataclass(frozen=True, eq=False)
class Detectors(Table):
    """The detectors of the camera and where they lie in the focal plane.

    Parameters
    ----------
    identifier : array_like of int, shape (n,)
        Detector numbers as the camera knows them.
    boxes : Box or sequence of Box, optional
        Pixel box of each detector; 2048 x 4096 at the origin by default.
    transform : array_like, shape (n, 2, 3), optional
        Affine map from pixels to the focal plane, ``(u, v) = transform @ (x, y, 1)``, in units of
        the focal plane's half width so that polynomials run over about [-1, 1]. By default one
        row of detectors side by side.
    names : sequence of str, optional
        What the camera calls the detectors, where that is no number: for names of parameters.

    Raises
    ------
    PogsonValueError
        If lengths differ or identifiers repeat.

    Examples
    --------
    >>> detectors = Detectors([1, 2], Box(0, 0, 100, 100))
    >>> u, v = detectors.focal_plane([0, 1], x=[49.5, 49.5], y=[49.5, 49.5])
    >>> u
    array([-0.5,  0.5])
    """

    identifier: np.ndarray
    boxes: tuple[Box, ...] = ()
    transform: np.ndarray = None  # type: ignore[assignment]
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n = int(np.size(self.identifier))
        ids = column(np.atleast_1d(self.identifier), n, "identifier", np.int64, 0)
        boxes = self.boxes
        if isinstance(boxes, Box):
            boxes = (boxes,) * n
        boxes = tuple(boxes) or (Box(0, 0, 2048, 4096),) * n
        transform = (
            _side_by_side(boxes)
            if self.transform is None
            else np.array(self.transform, np.float64, ndmin=3)
        )
        if len(boxes) != n or transform.shape != (n, 2, 3) or np.unique(ids).size != n:
            raise PogsonValueError(
                f"{n} detector identifiers (each once), {len(boxes)} boxes and transforms of shape "
                f"{transform.shape} do not fit; give one box and one 2x3 transform a detector."
            )
        if not np.isfinite(transform).all():
            raise PogsonValueError("Transforms from pixels to the focal plane must be finite.")
        transform.flags.writeable = False
        object.__setattr__(self, "identifier", ids)
        object.__setattr__(self, "boxes", boxes)
        object.__setattr__(self, "transform", transform)
        object.__setattr__(self, "names", _names(self.names, n, "detectors"))

    @property
    def labels(self) -> list[str]:
        """Names of the detectors; their identifiers as text where they have none."""
        return list(self.names) or [str(i) for i in self.identifier]

    def focal_plane(self, detector: Any, *, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return focal-plane positions of pixels.

        Parameters
        ----------
        detector : array_like of int
            Row numbers of detectors.
        x, y : array_like
            Pixels (0-based, centres on integers).

        Returns
        -------
        u, v : numpy.ndarray
            Positions, half widths of the focal plane.
        """
        t = self.transform[np.asarray(detector)]
        xa, ya = np.asarray(x, np.float64), np.asarray(y, np.float64)
        return (
            t[..., 0, 0] * xa + t[..., 0, 1] * ya + t[..., 0, 2],
            t[..., 1, 0] * xa + t[..., 1, 1] * ya + t[..., 1, 2],
        )

    @cached_property
    def _bounds(self) -> np.ndarray:
        """Outer edges of the boxes: x0, x1, y0, y1."""
        return np.array([[*b.x_bounds, *b.y_bounds] for b in self.boxes])

    def scaled(self, detector: Any, *, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return pixels scaled to [-1, 1] over the outer edges of their detector's box."""
        b = self._bounds[np.asarray(detector)]
        xs = (2.0 * np.asarray(x) - b[..., 0] - b[..., 1]) / (b[..., 1] - b[..., 0])
        ys = (2.0 * np.asarray(y) - b[..., 2] - b[..., 3]) / (b[..., 3] - b[..., 2])
        return xs, ys

    def row(self, identifier: int) -> int:
        """Return the row of a detector identifier.

        Raises
        ------
        PogsonValueError
            If there is no such detector.
        """
        found = np.flatnonzero(self.identifier == int(identifier))
        if found.size != 1:
            raise PogsonValueError(
                f"No detector {identifier!r} among the {len(self)} detectors of the solution."
            )
        return int(found[0])


def _side_by_side(boxes: Sequence[Box]) -> np.ndarray:
    n = len(boxes)
    out = np.zeros((n, 2, 3))
    for i, box in enumerate(boxes):
        (x0, x1), (y0, y1) = box.x_bounds, box.y_bounds
        out[i, 0] = 2.0 / (n * (x1 - x0)), 0.0, -1.0 + 2.0 * (i - x0 / (x1 - x0)) / n
        out[i, 1] = 0.0, 2.0 / (y1 - y0), -(y0 + y1) / (y1 - y0)
    return out


@dataclass(frozen=True, eq=False)
class Stars(Table):
    """What is known of each star (one object in one band).

    Parameters
    ----------
    identifier : array_like of int, shape (n,)
        Numbers of the objects; an object measured in two bands has two rows.
    filter : array_like of int, optional
        Filter row in which this star's magnitude is defined; -1 (default): not checked.
    color : array_like of float, optional
        Colour in magnitudes (NaN: unknown).
    reference_mag, reference_err : array_like of float, optional
        Magnitude in a reference catalogue, already brought to this band (see `with_references`),
        and its standard error; NaN where there is none.
    ra, dec : array_like of float, optional
        Degrees.

    Examples
    --------
    >>> stars = Stars([7, 9], reference_mag=[18.0, float("nan")], reference_err=0.01)
    >>> stars.has_reference
    array([ True, False])
    """

    identifier: np.ndarray
    filter: np.ndarray = None  # type: ignore[assignment]
    color: np.ndarray = None  # type: ignore[assignment]
    reference_mag: np.ndarray = None  # type: ignore[assignment]
    reference_err: np.ndarray = None  # type: ignore[assignment]
    ra: np.ndarray = None  # type: ignore[assignment]
    dec: np.ndarray = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        n = int(np.size(self.identifier))
        kinds: dict[str, tuple[Any, Any]] = {"identifier": (np.int64, 0), "filter": (np.int32, -1)}
        for name in ("color", "reference_mag", "reference_err", "ra", "dec"):
            kinds[name] = (np.float64, np.nan)
        for name, (kind, default) in kinds.items():
            object.__setattr__(self, name, column(getattr(self, name), n, name, kind, default))

    @property
    def has_reference(self) -> np.ndarray:
        """Whether a star has a usable reference magnitude."""
        with np.errstate(invalid="ignore"):
            return np.asarray(
                np.isfinite(self.reference_mag)
                & np.isfinite(self.reference_err)
                & (self.reference_err > 0)
            )

    def with_references(self, magnitude: Any, error: Any, *, color_term: Any = None) -> Stars:
        """Return the table with reference magnitudes.

        Parameters
        ----------
        magnitude, error : array_like, shape (n,)
            Magnitudes of the reference catalogue and standard errors; NaN where there is none.
        color_term : pogson.calib.ColorTerm, optional
            Leads from the reference band to this one through `color`; stars outside its colour
            range lose their reference.

        Examples
        --------
        >>> from pogson.calib import ColorTerm
        >>> term = ColorTerm((0.0, 0.1), color_range=(0.0, 2.0))
        >>> stars = Stars([1, 2], color=[1.0, 3.0]).with_references(18.0, 0.01, color_term=term)
        >>> stars.reference_mag
        array([18.1,  nan])
        """
        mag = np.broadcast_to(np.asarray(magnitude, np.float64), (len(self),)).copy()
        if color_term is not None:
            mag = mag + color_term.correction(self.color)
        return replace(self, reference_mag=mag, reference_err=error)


@dataclass(frozen=True, eq=False)
class SurveyTables:
    """The exposures and detectors that terms refer to.

    Parameters
    ----------
    exposures : Exposures
        One row an exposure.
    detectors : Detectors
        One row a detector.

    Examples
    --------
    >>> SurveyTables(Exposures([1, 2, 3]), Detectors([0])).counts
    (3, 1)
    """

    exposures: Exposures
    detectors: Detectors

    @property
    def counts(self) -> tuple[int, int]:
        """Numbers of exposures and detectors."""
        return len(self.exposures), len(self.detectors)
