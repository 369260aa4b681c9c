"""Star flats: the response of a camera to stars, derived from dithered exposures.

A star flat is kept apart from what it must not be confused with: the pixel areas (known, see
`KnownJacobian`) and the grey terms of single exposures. Its magnitudes S are what must be added to
instrumental ones, ``m_star = m_inst + S + zero point``, so that the relative response is
``10**(0.4 S)``. Pixel convention: 0-based, pixel centres on integers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pogson.atomic import atomic_write_text
from pogson.calib import ParameterCovariance, PhotoCalib
from pogson.errors import (
    CalibrationError,
    ConfigError,
    FileFormatError,
    MeasureError,
    MissingDataError,
    PogsonError,
)
from pogson.fields import ChebyshevField, ConstantField, Field, field_from_dict
from pogson.images import Exposure
from pogson.survey.likelihood import SolveSettings, calibrate
from pogson.survey.observations import Observations, SurveyTables
from pogson.survey.solution import Solution, _exponential
from pogson.survey.terms import Model, Term
from pogson.survey.terms_grey import DetectorZeroPoint, ExposureZeroPoint
from pogson.survey.terms_position import KnownJacobian, RadialFlat, StarFlat, TemplateFlat
from pogson.survey.terms_star import ColorSlope
from pogson.units import Measure

__all__ = ["DetectorFlat", "StarFlats", "derive_star_flats", "solve_star_flats", "star_flat_terms"]

_KINDS = (DetectorZeroPoint, StarFlat, RadialFlat, TemplateFlat)
_LN = 0.4 * np.log(10.0)
_SCHEMA = "pogson.star_flats"
_KEY = "star_flat"


def _combined(parts: Sequence[tuple[float, Field]]) -> Field:
    """Sum of numbers times fields, with the polynomials merged into one."""
    total: Field | None = None
    merged: dict[Any, np.ndarray] = {}
    for value, one in parts:
        if isinstance(one, ConstantField):
            one = ChebyshevField(one.box, [[one.value]])
        if isinstance(one, ChebyshevField):
            key, c = (one.box, one.domain), value * one.coefficients
            old = merged.get(key)
            if old is not None:
                shape = np.maximum(old.shape, c.shape)
                new = np.zeros(shape)
                new[: old.shape[0], : old.shape[1]] = old
                new[: c.shape[0], : c.shape[1]] += c
                c = new
            merged[key] = c
        else:
            total = one * value if total is None else total + one * value
    for (box, domain), c in merged.items():
        smooth = ChebyshevField(box, c, domain=domain)
        total = smooth if total is None else total + smooth
    if total is None:
        raise CalibrationError("A star flat needs at least one field.")
    return total


@dataclass(frozen=True, eq=False)
class DetectorFlat:
    """The star flat of one detector in one filter and epoch.

    Parameters
    ----------
    filter : str
        Filter.
    epoch : int
        Instrument epoch.
    detector : int
        Detector number.
    magnitudes : Field
        What to add to instrumental magnitudes.
    covariance : ParameterCovariance, optional
        Of the parameters, with their effect on the natural logarithm of the response.

    Examples
    --------
    >>> from pogson.fields import Box
    >>> flat = DetectorFlat("r", 0, 5, ConstantField(Box(0, 0, 10, 10), 0.01))
    >>> round(float(flat.response()(x=1.0, y=1.0)), 5)
    1.00925
    """

    filter: str
    epoch: int
    detector: int
    magnitudes: Field
    covariance: ParameterCovariance | None = None

    def response(self) -> Field:
        """Return the relative response to stars, ``10**(0.4 S)``, dimensionless.

        To 1e-7: polynomials are expanded, tables of rings and edges stay tables, and other
        templates are tabulated on a grid of 4 pixels.
        """
        return _exponential(self.magnitudes.box, [self.magnitudes], np.ones(1))

    def error(self, *, x: Any, y: Any) -> np.ndarray:
        """Return the standard error of the star flat at pixels, magnitudes.

        Raises
        ------
        MissingDataError
            If the covariance was not kept.
        """
        if self.covariance is None:
            raise MissingDataError("The covariance of this star flat was not kept.")
        return np.asarray(self.covariance.relative_error(x=x, y=y)) / _LN

    # -- use ----------------------------------------------------------------------------------
    @property
    def _label(self) -> str:
        return f"{self.filter}, epoch {self.epoch}, detector {self.detector}"

    def apply(self, exposure: Exposure) -> Exposure:
        """Return an exposure in which a star has the same flux wherever it falls.

        Parameters
        ----------
        exposure : Exposure
            In fluence, of this detector, without the star flat and with its background subtracted
            or none.

        Raises
        ------
        MeasureError
            If the exposure is in surface brightness: its sky is flat, and stays so only without
            the star flat.
        CalibrationError
            If a star flat has been applied, or a background belongs to the exposure, which would
            keep its old scale.

        Notes
        -----
        Estimate backgrounds before; `remove` leads back.
        """
        if _KEY in exposure.metadata:
            raise CalibrationError(
                f"The star flat of {exposure.metadata[_KEY]} has been applied to this exposure; "
                "remove it first."
            )
        return self._scale(exposure, -1, {**exposure.metadata, _KEY: self._label})

    def remove(self, exposure: Exposure) -> Exposure:
        """Return the exposure as it was before `apply`.

        Raises
        ------
        CalibrationError
            If this star flat is not the one that was applied.
        """
        if exposure.metadata.get(_KEY) != self._label:
            raise CalibrationError(
                f"Star flat in the exposure: {exposure.metadata.get(_KEY, 'none')!r}; to be "
                f"removed: {self._label!r}."
            )
        return self._scale(exposure, 1, {k: v for k, v in exposure.metadata.items() if k != _KEY})

    def _scale(self, exposure: Exposure, sign: int, metadata: dict[str, Any]) -> Exposure:
        if exposure.measure is not Measure.FLUENCE:
            raise MeasureError(
                "A star flat applies to fluence; this exposure is in surface brightness. Take it "
                "there with exposure.to('fluence')."
            )
        if exposure.background is not None:
            raise CalibrationError(
                "A background belongs to this exposure and would keep its old scale; drop it with "
                "exposure.with_(background=None, background_subtracted=False)."
            )
        factor = 10.0 ** (0.4 * sign * self.magnitudes.render(exposure.box))
        variance = exposure.variance
        return exposure.with_(
            image=exposure.image * factor,
            variance=None if variance is None else variance * factor**2,
            metadata=metadata,
        )

    def calibration(self, calib: PhotoCalib) -> PhotoCalib:
        """Return a calibration for images without the star flat from one for images with it.

        Parameters
        ----------
        calib : PhotoCalib
            Calibrates fluxes from which the star flat has been removed, for example of
            `Solution.photo_calib` of a model without star flat.

        Returns
        -------
        PhotoCalib
            The same divided by the response; the covariance of the star flat joins that of the
            calibration as independent of it.
        """
        return calib.with_(
            field=calib.field / self.response(),
            covariance=_joined(calib.covariance, self.covariance),
        )

    def without(self, calib: PhotoCalib) -> PhotoCalib:
        """Return a calibration for star-flattened images: the inverse of `calibration`.

        The covariance stays as it is: dividing the star flat out does not make it better known.
        """
        return calib.with_(field=calib.field * self.response())


def _joined(
    a: ParameterCovariance | None, b: ParameterCovariance | None
) -> ParameterCovariance | None:
    if a is None or b is None:
        return a if b is None else b
    n, m = len(a.names), len(b.names)
    matrix = np.zeros((n + m, n + m))
    matrix[:n, :n], matrix[n:, n:] = a.matrix, b.matrix
    names = [*a.names, *(f"flat of {k}" if k in a.names else k for k in b.names)]
    dof = min(a.degrees_of_freedom, b.degrees_of_freedom)
    return ParameterCovariance(names, matrix, [*a.terms, *b.terms], dof)


@dataclass(frozen=True, eq=False)
class StarFlats:
    """Star flats of a camera, by filter, epoch and detector.

    Parameters
    ----------
    flats : tuple of DetectorFlat
        One a filter, epoch and detector.
    provenance : mapping
        JSON values.

    Examples
    --------
    >>> from pogson.fields import Box
    >>> flats = StarFlats((DetectorFlat("r", 0, 5, ConstantField(Box(0, 0, 10, 10), 0.01)),))
    >>> flats.get("r", 5).magnitudes(x=0.0, y=0.0)
    0.01
    """

    flats: tuple[DetectorFlat, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.flats)

    def __repr__(self) -> str:
        bands = ", ".join(dict.fromkeys(f.filter for f in self.flats))
        return f"<StarFlats: {len(self)} flats, filters {bands}>"

    def get(self, filter: str, detector: int, epoch: int = 0) -> DetectorFlat:
        """Return one star flat.

        Raises
        ------
        MissingDataError
            If there is none.
        """
        for f in self.flats:
            if (f.filter, f.detector, f.epoch) == (filter, int(detector), int(epoch)):
                return f
        raise MissingDataError(
            f"No star flat of filter {filter!r}, detector {detector}, epoch {epoch} in {self!r}."
        )

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write all star flats, with their covariance, as one JSON file."""
        rows = [
            {
                "filter": f.filter, "epoch": f.epoch, "detector": f.detector,
                "magnitudes": f.magnitudes.to_dict(),
                "covariance": None if f.covariance is None else f.covariance.to_dict(),
            }
            for f in self.flats
        ]  # fmt: skip
        data = {"schema": _SCHEMA, "version": 1, "provenance": dict(self.provenance), "flats": rows}
        atomic_write_text(path, json.dumps(data, allow_nan=False))

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> StarFlats:
        """Read what `write` wrote.

        Raises
        ------
        FileFormatError
            If the file is not of this kind.
        """
        try:
            with open(path, encoding="utf-8") as file:
                data = json.load(file)
            if data["schema"] != _SCHEMA or data["version"] != 1:
                raise FileFormatError(f"{path} is not a file of star flats of version 1.")
            flats = tuple(
                DetectorFlat(
                    str(r["filter"]), int(r["epoch"]), int(r["detector"]),
                    field_from_dict(r["magnitudes"]),
                    None if r["covariance"] is None
                    else ParameterCovariance.from_dict(r["covariance"]),
                )
                for r in data["flats"]
            )  # fmt: skip
            return cls(flats, dict(data["provenance"]))
        except (KeyError, TypeError, ValueError, UnicodeDecodeError) as error:
            if isinstance(error, PogsonError):
                raise
            raise FileFormatError(f"{path} is not a file of star flats: {error!r}.") from error


def _flat_terms(solution: Solution, names: Sequence[str] | None) -> list[Term]:
    model = solution.model
    terms: list[Term] = (
        [t for t in model.terms if isinstance(t, _KINDS)]
        if names is None
        else [model.term(n) for n in names]
    )
    if not terms:
        raise ConfigError(
            "The model has no term that is a star flat (detector zero points, star flat, radial "
            f"flat, templates); it has {', '.join(t.name for t in model.terms)}."
        )
    for t in terms:
        if set(getattr(t, "by", ("exposure",))) - {"filter", "epoch"}:
            raise ConfigError(
                f"Term {t.name!r} changes with {getattr(t, 'by', 'exposure')!r}; a star flat may "
                "change with filter and epoch only."
            )
    return terms


def derive_star_flats(
    solution: Solution, terms: Sequence[str] | None = None, *, covariance: bool = True
) -> StarFlats:
    """Take the star flats out of a solution, apart from pixel areas and grey terms.

    Parameters
    ----------
    solution : Solution
        With terms that describe the response of the camera.
    terms : sequence of str, optional
        Names of those terms; by default detector zero points, star flats, radial flats and
        templates.
    covariance : bool
        Keep their covariance.

    Returns
    -------
    StarFlats
        For every filter and epoch that occurs; detectors that no detection touches are left out.

    Raises
    ------
    ConfigError
        If there is no such term, or one changes with more than filter and epoch.

    Examples
    --------
    >>> from pogson.fields import Box
    >>> from pogson.survey import Detectors, Exposures, Stars
    >>> rng = np.random.default_rng(1)
    >>> tables = SurveyTables(Exposures([1]), Detectors([7, 8], Box(0, 0, 100, 100)))
    >>> mag, detector = rng.uniform(15, 17, 500), rng.integers(0, 2, 500)
    >>> obs = Observations.from_columns(
    ...     tables, Stars(np.arange(500), reference_mag=mag, reference_err=np.full(500, 0.001)),
    ...     star=np.arange(500), exposure=0, detector=detector, x=5.0, y=5.0, mag_err=0.001,
    ...     mag=mag - 25.0 - 0.02 * detector)
    >>> solution = calibrate(obs, [ExposureZeroPoint(), DetectorZeroPoint()])
    >>> flats = derive_star_flats(solution)
    >>> round(float(flats.get("0", 8).magnitudes(x=1.0, y=1.0)), 3)
    0.01
    """
    chosen = _flat_terms(solution, terms)
    tables = solution.model.tables
    x = tables.exposures
    found = []
    for f, epoch in sorted({(int(a), int(b)) for a, b in zip(x.filter, x.epoch, strict=True)}):
        e = int(np.flatnonzero((x.filter == f) & (x.epoch == epoch))[0])
        for d, number in enumerate(tables.detectors.identifier):
            one = _detector_flat(solution, chosen, e, d)
            if one is not None:
                parts, cov = one
                found.append(
                    DetectorFlat(x.filter_name(f), epoch, int(number), parts,
                                 cov if covariance else None)
                )  # fmt: skip
    names = [t.name for t in chosen]
    return StarFlats(tuple(found), {"terms": names, "by": "survey solution"})


def _detector_flat(
    solution: Solution, terms: list[Term], e: int, d: int
) -> tuple[Field, ParameterCovariance | None] | None:
    """Magnitudes of a detector, minus the terms; None where nothing is known."""
    model = solution.model
    columns: list[int] = []
    fields: list[Field | None] = []
    for t in terms:
        here = t.local(e, d, model.tables)
        if here.base >= 0:
            first = model.slice(t.name).start + here.base
            columns += [first + j for j in range(len(here.fields))]
            fields += here.fields
    known = solution._known[columns] if columns else np.zeros(0, bool)
    if not known.any() or not known[0]:
        return None
    kept = [(c, f) for c, f, k in zip(columns, fields, known, strict=True) if k and f is not None]
    parts = _combined([(-float(solution.parameters[c]), f) for c, f in kept])
    if solution.covariance is None:
        return parts, None
    index = np.array([c for c, _ in kept])
    return parts, ParameterCovariance(
        [model.parameter_name(int(c)) for c in index], solution.covariance.block(index),
        [f * -_LN for _, f in kept], float(max(solution.degrees_of_freedom, 1)),
    )  # fmt: skip


def star_flat_terms(
    tables: SurveyTables,
    *,
    order: int = 3,
    areas: Mapping[Any, Field] | None = None,
    templates: Sequence[Mapping[int, Field]] = (),
    color_pivot: float | None = None,
) -> list[Term]:
    """Return the terms of a model that derives star flats from dithered exposures.

    Parameters
    ----------
    tables : SurveyTables
        Exposures and detectors.
    order : int
        Order of the polynomial of each detector; 0: detector zero points alone.
    areas : mapping, optional
        Relative pixel areas; see `KnownJacobian`. Without them the star flat takes them in.
    templates : sequence of mapping {detector: Field}
        Rings, edges: amplitudes are fitted for each detector and filter.
    color_pivot : float, optional
        Fit a colour term of each detector about this colour.

    Examples
    --------
    >>> from pogson.survey import Detectors, Exposures
    >>> tables = SurveyTables(Exposures([1, 2]), Detectors([5, 6]))
    >>> [t.name for t in star_flat_terms(tables, order=2)]
    ['exposure_zero_point', 'detector_zero_point', 'star_flat']
    """
    terms: list[Term] = [ExposureZeroPoint()]
    if len(tables.detectors) > 1:
        terms.append(DetectorZeroPoint())
    if order > 0:
        terms.append(StarFlat(order=order))
    if areas is not None:
        terms.append(KnownJacobian(areas=areas))
    if templates:
        terms.append(TemplateFlat("templates", tuple(templates), per_detector=True))
    if color_pivot is not None:
        terms.append(ColorSlope(pivot=color_pivot, gauge=len(tables.detectors) > 1))
    return terms


def solve_star_flats(
    observations: Observations,
    *,
    order: int = 3,
    areas: Mapping[Any, Field] | None = None,
    templates: Sequence[Mapping[int, Field]] = (),
    color_pivot: float | None = None,
    terms: Sequence[Term] = (),
    settings: SolveSettings | None = None,
) -> tuple[Solution, StarFlats]:
    """Derive star flats from dithered exposures, or from one exposure of stars with references.

    Parameters
    ----------
    observations : Observations
        Stars seen at several places of the focal plane, or with reference magnitudes.
    order, areas, templates, color_pivot
        As in `star_flat_terms`.
    terms : sequence of Term
        More terms, such as an `ExposurePolynomial` for cloudy exposures.
    settings : SolveSettings, optional
        By default the intrinsic scatter is fitted and detections beyond 5 sigma are rejected.

    Returns
    -------
    solution : Solution
        Of the whole model.
    flats : StarFlats
        Taken out of it.

    Raises
    ------
    CalibrationError
        If the exposures are not dithered enough, or there are no references, to tell the star flat
        from the stars; the degenerate combinations are named.

    Notes
    -----
    With free zero points and no references, a slope of the star flat over the focal plane cannot
    be told from one over the sky; references, or zero points tied over a night, do that.

    Examples
    --------
    >>> from pogson.fields import Box
    >>> from pogson.survey import Detectors, Exposures, Stars
    >>> rng = np.random.default_rng(1)
    >>> tables = SurveyTables(Exposures([1]), Detectors([7], Box(0, 0, 100, 100)))
    >>> x, y, mag = rng.uniform(0, 99, 500), rng.uniform(0, 99, 500), rng.uniform(15, 17, 500)
    >>> obs = Observations.from_columns(
    ...     tables, Stars(np.arange(500), reference_mag=mag, reference_err=0.001),
    ...     star=np.arange(500), exposure=0, detector=0, x=x, y=y, mag_err=0.001,
    ...     mag=mag - 25.0 - 0.05 * (x - 49.5) / 50)
    >>> solution, flats = solve_star_flats(obs, order=1, settings=SolveSettings())
    >>> round(float(flats.get("0", 7).magnitudes(x=99.5, y=49.5)), 4)
    0.05
    """
    model = Model(
        [
            *star_flat_terms(
                observations.tables, order=order, areas=areas, templates=templates,
                color_pivot=color_pivot,
            ),
            *terms,
        ],
        observations.tables,
    )  # fmt: skip
    wanted = SolveSettings(floor="fit", reject_sigma=5.0) if settings is None else settings
    solution = calibrate(observations, model, wanted)
    return solution, derive_star_flats(solution)
