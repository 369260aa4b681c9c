"""Terms that depend on where a star falls: polynomials, star flats, templates, the Jacobian."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pogson.errors import ConfigError
from pogson.fields import Field
from pogson.survey._bases import check_order, design_2d, interpolated, orders
from pogson.survey.observations import Observations, SurveyTables
from pogson.survey.terms import Constraint, Design, LocalTerm, Term
from pogson.survey.terms_grey import groups, require

__all__ = ["ExposurePolynomial", "KnownJacobian", "RadialFlat", "StarFlat", "TemplateFlat"]

_POGSON = 2.5 / np.log(10.0)


def _pair_names(pairs: list[tuple[int, int]]) -> list[str]:
    return [f"T{i}{j}" for i, j in pairs]


@dataclass(frozen=True)
class ExposurePolynomial(Term):
    """A Chebyshev polynomial of each exposure over the focal plane, or of each of its detectors.

    Parameters
    ----------
    name : str
        Name of the term.
    order : int
        Largest total degree.
    frame : {'focal_plane', 'detector'}
        One polynomial an exposure in focal-plane coordinates, or one for each detector of each
        exposure in that detector's coordinates.
    constant : bool
        Include the constant; leave it out beside zero points of exposures.
    prior_mean, prior_sigma : float or array_like
        Prior in magnitudes.

    Examples
    --------
    >>> from pogson.survey import Detectors, Exposures
    >>> tables = SurveyTables(Exposures([1, 2]), Detectors([0]))
    >>> ExposurePolynomial(order=1).parameter_names(tables)
    ['1;T10', '1;T01', '2;T10', '2;T01']
    """

    name: str = "exposure_polynomial"
    order: int = 2
    frame: Literal["focal_plane", "detector"] = "focal_plane"
    constant: bool = False
    prior_mean: Any = 0.0
    prior_sigma: Any = np.inf

    def __post_init__(self) -> None:
        require(self.frame, ("focal_plane", "detector"), "frame")
        check_order(self.order, self.name, constant=self.constant)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Degrees (i, j) of the polynomials T_i(u) T_j(v)."""
        return orders(int(self.order), self.constant)

    def size(self, tables: SurveyTables) -> int:
        """Return the number of coefficients."""
        e, d = tables.counts
        return len(self.pairs) * (e if self.frame == "focal_plane" else e * d)

    def parameter_names(self, tables: SurveyTables) -> list[str]:
        """Return exposure (and detector) and degrees."""
        labels = tables.exposures.labels
        if self.frame == "detector":
            labels = [f"{e},{d}" for e in labels for d in tables.detectors.labels]
        return [f"{g};{p}" for g in labels for p in _pair_names(self.pairs)]

    def design(self, observations: Observations, parameters: np.ndarray | None = None) -> Design:
        """Return the polynomials at the detections."""
        o, detectors = observations, observations.tables.detectors
        width = np.int32(len(self.pairs))
        if self.frame == "focal_plane":
            u, v = detectors.focal_plane(o.detector, x=o.x, y=o.y)
            return Design(o.exposure * width, design_2d(u, v, self.pairs))
        u, v = detectors.scaled(o.detector, x=o.x, y=o.y)
        base = (o.exposure * np.int32(len(detectors)) + o.detector) * width
        return Design(base, design_2d(u, v, self.pairs))

    def local(self, exposure: int, detector: int, tables: SurveyTables) -> LocalTerm:
        """Return the polynomials as Chebyshev fields (exact)."""
        index = exposure
        if self.frame == "detector":
            index = exposure * tables.counts[1] + detector
        return LocalTerm(
            index * len(self.pairs), _fields(tables, detector, self.pairs, self.frame, self.order)
        )


def _fields(
    tables: SurveyTables, detector: int, pairs: list[tuple[int, int]], frame: str, order: int
) -> tuple[Field, ...]:
    """Polynomials over a detector's box as fields."""
    detectors, box = tables.detectors, tables.detectors.boxes[detector]

    def make(pair: tuple[int, int]) -> Field:
        def value(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            place = detectors.focal_plane if frame == "focal_plane" else detectors.scaled
            rows = np.full(x.shape, detector)
            u, v = place(rows, x=x, y=y)
            return design_2d(np.asarray(u), np.asarray(v), [pair])[:, 0]

        return interpolated(value, box, order)

    return tuple(make(p) for p in pairs)


@dataclass(frozen=True)
class StarFlat(Term):
    """Response of each detector as a Chebyshev polynomial, per filter and epoch.

    The parameters are response in magnitudes as `DetectorZeroPoint` is: the term is minus the
    polynomial, so that a positive one means a more sensitive place.

    Parameters
    ----------
    name : str
        Name of the term.
    order : int
        Largest total degree over a detector.
    by : tuple of str
        Exposure columns that separate one flat from the next.
    constant : bool
        Include each detector's constant; leave it out beside `DetectorZeroPoint`.
    prior_mean, prior_sigma : float or array_like
        Prior in magnitudes.

    Examples
    --------
    >>> from pogson.survey import Detectors, Exposures
    >>> tables = SurveyTables(Exposures([1, 2]), Detectors([0, 1]))
    >>> StarFlat(order=3).size(tables)
    18
    """

    name: str = "star_flat"
    order: int = 3
    by: tuple[str, ...] = ("filter", "epoch")
    constant: bool = False
    prior_mean: Any = 0.0
    prior_sigma: Any = np.inf

    def __post_init__(self) -> None:
        check_order(self.order, self.name, constant=self.constant)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Degrees (i, j) of the polynomials."""
        return orders(int(self.order), self.constant)

    def size(self, tables: SurveyTables) -> int:
        """Return sets times detectors times coefficients."""
        return len(groups(tables.exposures, self.by)[1]) * tables.counts[1] * len(self.pairs)

    def parameter_names(self, tables: SurveyTables) -> list[str]:
        """Return set, detector and degrees."""
        labels = groups(tables.exposures, self.by)[1]
        ids = tables.detectors.labels
        return [f"{g};{d};{p}" for g in labels for d in ids for p in _pair_names(self.pairs)]

    def design(self, observations: Observations, parameters: np.ndarray | None = None) -> Design:
        """Return minus the polynomials at the detections."""
        o, tables = observations, observations.tables
        group = groups(tables.exposures, self.by)[0]
        base = group[o.exposure] * np.int32(tables.counts[1]) + o.detector
        xs, ys = tables.detectors.scaled(o.detector, x=o.x, y=o.y)
        return Design(base * np.int32(len(self.pairs)), -design_2d(xs, ys, self.pairs))

    def constraints(self, tables: SurveyTables) -> list[Constraint]:
        """With constants, hold their mean over the detectors of each set at zero."""
        if not self.constant:
            return []
        n, width = tables.counts[1], len(self.pairs)
        out = []
        for i, g in enumerate(groups(tables.exposures, self.by)[1]):
            columns = (i * n + np.arange(n)) * width
            out.append(Constraint(f"mean of {g}", columns, np.full(n, 1.0 / n)))
        return out

    def local(self, exposure: int, detector: int, tables: SurveyTables) -> LocalTerm:
        """Return minus the polynomials as Chebyshev fields."""
        group = int(groups(tables.exposures, self.by)[0][exposure])
        base = (group * tables.counts[1] + detector) * len(self.pairs)
        found = _fields(tables, detector, self.pairs, "detector", self.order)
        return LocalTerm(base, tuple(-f for f in found))


@dataclass(frozen=True)
class RadialFlat(Term):
    """Response that depends on the distance from the optical axis, per filter and epoch.

    Minus a polynomial in the squared radius (half widths of the focal plane), without a constant.

    Parameters
    ----------
    name : str
        Name of the term.
    order : int
        Largest power of the squared radius.
    by : tuple of str
        Exposure columns that separate one flat from the next.
    prior_mean, prior_sigma : float or array_like
        Prior in magnitudes.

    Examples
    --------
    >>> from pogson.survey import Detectors, Exposures
    >>> RadialFlat(order=2).parameter_names(SurveyTables(Exposures([1]), Detectors([0])))
    ['0,epoch0;r2', '0,epoch0;r4']
    """

    name: str = "radial_flat"
    order: int = 1
    by: tuple[str, ...] = ("filter", "epoch")
    prior_mean: Any = 0.0
    prior_sigma: Any = np.inf

    def __post_init__(self) -> None:
        check_order(self.order, self.name)

    def size(self, tables: SurveyTables) -> int:
        """Return sets times powers."""
        return len(groups(tables.exposures, self.by)[1]) * int(self.order)

    def parameter_names(self, tables: SurveyTables) -> list[str]:
        """Return set and power of the radius."""
        labels = groups(tables.exposures, self.by)[1]
        return [f"{g};r{2 * k}" for g in labels for k in range(1, int(self.order) + 1)]

    def design(self, observations: Observations, parameters: np.ndarray | None = None) -> Design:
        """Return minus the powers of the squared radius."""
        o = observations
        group = groups(o.tables.exposures, self.by)[0]
        u, v = o.tables.detectors.focal_plane(o.detector, x=o.x, y=o.y)
        r2 = u * u + v * v
        values = np.stack([-(r2**k) for k in range(1, int(self.order) + 1)], axis=1)
        return Design(group[o.exposure] * np.int32(self.order), values)

    def local(self, exposure: int, detector: int, tables: SurveyTables) -> LocalTerm:
        """Return the powers as Chebyshev fields (exact)."""
        box = tables.detectors.boxes[detector]

        def power(k: int) -> Field:
            def value(x: np.ndarray, y: np.ndarray) -> np.ndarray:
                u, v = tables.detectors.focal_plane(np.full(x.shape, detector), x=x, y=y)
                return np.asarray(-((u * u + v * v) ** k))

            return interpolated(value, box, 2 * k)

        group = int(groups(tables.exposures, self.by)[0][exposure])
        found = tuple(power(k) for k in range(1, int(self.order) + 1))
        return LocalTerm(group * int(self.order), found)


@dataclass(frozen=True)
class TemplateFlat(Term):
    """Amplitudes of given response templates, such as tree rings, per filter and epoch.

    Parameters
    ----------
    name : str
        Name of the term.
    templates : tuple of mapping {detector identifier: Field}
        Each template: response in magnitudes per unit amplitude over each detector's box;
        detectors without a field are not touched by it.
    by : tuple of str
        Exposure columns that separate one amplitude from the next.
    per_detector : bool
        Each detector has its own amplitude.
    prior_mean, prior_sigma : float or array_like
        Prior of the amplitudes.

    Examples
    --------
    >>> from pogson.fields import Box, ChebyshevField
    >>> from pogson.survey import Detectors, Exposures
    >>> ring = ChebyshevField(Box(0, 0, 10, 10), [[0.0, 0.01]])
    >>> term = TemplateFlat("rings", ({5: ring},))
    >>> term.size(SurveyTables(Exposures([1]), Detectors([5])))
    1
    """

    name: str = "template_flat"
    templates: tuple[Mapping[int, Field], ...] = ()
    by: tuple[str, ...] = ("filter",)
    per_detector: bool = False
    prior_mean: Any = 0.0
    prior_sigma: Any = np.inf
    unit = "template amplitude"

    def size(self, tables: SurveyTables) -> int:
        """Return sets (times detectors) times templates."""
        n = tables.counts[1] if self.per_detector else 1
        return len(groups(tables.exposures, self.by)[1]) * n * len(self.templates)

    def parameter_names(self, tables: SurveyTables) -> list[str]:
        """Return set, detector and template number."""
        labels = groups(tables.exposures, self.by)[1]
        if self.per_detector:
            labels = [f"{g};{d}" for g in labels for d in tables.detectors.labels]
        return [f"{g};{k}" for g in labels for k in range(len(self.templates))]

    def _base(self, group: Any, detector: Any, tables: SurveyTables) -> Any:
        if self.per_detector:
            group = group * np.int32(tables.counts[1]) + detector
        return group * np.int32(len(self.templates))

    def design(self, observations: Observations, parameters: np.ndarray | None = None) -> Design:
        """Return minus the templates at the detections."""
        o, tables = observations, observations.tables
        values = np.zeros((len(o), len(self.templates)))
        for row, identifier in enumerate(tables.detectors.identifier):
            on = np.flatnonzero(o.detector == row)
            for k, template in enumerate(self.templates):
                found = template.get(int(identifier))
                if found is not None and on.size:
                    values[on, k] = -found(x=o.x[on], y=o.y[on], extrapolate=True)
        group = groups(tables.exposures, self.by)[0][o.exposure]
        return Design(np.asarray(self._base(group, o.detector, tables), np.int32), values)

    def local(self, exposure: int, detector: int, tables: SurveyTables) -> LocalTerm:
        """Return minus the templates."""
        identifier = int(tables.detectors.identifier[detector])
        group = int(groups(tables.exposures, self.by)[0][exposure])
        found = (t.get(identifier) for t in self.templates)
        return LocalTerm(
            int(self._base(group, detector, tables)),
            tuple(None if f is None else -f for f in found),
        )


@dataclass(frozen=True)
class KnownJacobian(Term):
    """Pixel area relative to a reference area: known, not fitted.

    An image flattened on the sky makes point sources fainter where pixels are large:
    ``flux = instrumental flux * area / reference area``. The term is ``+2.5 log10`` of the ratio.

    Parameters
    ----------
    name : str
        Name of the term.
    areas : mapping
        Relative pixel area as a dimensionless Field, by detector identifier, or by
        ``(exposure identifier, detector identifier)``, which takes precedence.

    Raises
    ------
    ConfigError
        When used, if a detector of a detection has no area.

    Examples
    --------
    >>> from pogson.fields import Box, ConstantField
    >>> from pogson.survey import Detectors, Exposures, Stars
    >>> tables = SurveyTables(Exposures([1]), Detectors([5], Box(0, 0, 9, 9)))
    >>> obs = Observations.from_columns(tables, Stars([1]), star=[0], exposure=0, detector=0,
    ...     x=0, y=0, mag=-9.0, mag_err=0.01)
    >>> KnownJacobian(areas={5: ConstantField(Box(0, 0, 9, 9), 10**0.04)}).offset(obs)
    array([0.1])
    """

    name: str = "jacobian"
    areas: Mapping[Any, Field] = None  # type: ignore[assignment]

    def size(self, tables: SurveyTables) -> int:
        """Return 0: nothing is fitted."""
        return 0

    def parameter_names(self, tables: SurveyTables) -> list[str]:
        """Return no names."""
        return []

    def design(self, observations: Observations, parameters: np.ndarray | None = None) -> Design:
        """Return a design that touches nothing."""
        return Design(np.full(len(observations), -1, np.int32), None, 0.0)

    def _area(self, exposure: int, detector: int, tables: SurveyTables) -> Field:
        e = int(tables.exposures.identifier[exposure])
        d = int(tables.detectors.identifier[detector])
        areas = self.areas or {}
        found = areas.get((e, d), areas.get(d))
        if found is None:
            raise ConfigError(
                f"Term {self.name!r} has no pixel area for detector {d} (exposure {e}); give one "
                "by detector or by (exposure, detector)."
            )
        return found

    def offset(self, observations: Observations) -> np.ndarray:
        """Return 2.5 log10 of the relative pixel area at the detections."""
        o, tables = observations, observations.tables
        out = np.empty(len(o))
        pairs = isinstance(next(iter(self.areas or {}), None), tuple)
        key = o.exposure.astype(np.int64) * tables.counts[1] + o.detector if pairs else o.detector
        order = np.argsort(key, kind="stable")
        edges = np.flatnonzero(np.diff(key[order], prepend=-1))
        for a, b in zip(edges, [*edges[1:], len(o)], strict=True):
            rows = order[a:b]
            area = self._area(int(o.exposure[rows[0]]), int(o.detector[rows[0]]), tables)
            value = area(x=o.x[rows], y=o.y[rows], extrapolate=True)
            out[rows] = _POGSON * np.log(value)
        return out

    def local(self, exposure: int, detector: int, tables: SurveyTables) -> LocalTerm:
        """Return the area as the known factor of the calibration."""
        return LocalTerm(-1, (), self._area(exposure, detector, tables))
