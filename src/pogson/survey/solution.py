"""The result of a global calibration: parameters by name, their covariance, calibrations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pogson.calib import FluxReference, ParameterCovariance, PhotoCalib
from pogson.errors import CalibrationError, MissingDataError
from pogson.fields import Box, ConstantField, Field, GridField, SumField, TableField
from pogson.streams import stream
from pogson.survey._bases import interpolated
from pogson.survey.degeneracy import Connections
from pogson.survey.normal import Weighting, prepare
from pogson.survey.observations import Observations, RowFlag
from pogson.survey.solve import Covariance
from pogson.survey.terms import Model
from pogson.units import NJY_AB_MAGNITUDE, Measure

__all__ = ["Solution", "StarResults", "Validation"]

_LN = 0.4 * np.log(10.0)


@dataclass(frozen=True, eq=False)
class StarResults:
    """What a solution says of each star, one row a star of the table.

    Parameters
    ----------
    mag, mag_err : numpy.ndarray
        Calibrated magnitude and its error from its own detections and reference (the shared error
        of the calibration is not in it); NaN without usable detections.
    detections : numpy.ndarray of int
        Usable detections.
    chi2 : numpy.ndarray
        Sum of squared residuals of its detections over their variances.
    reference_residual : numpy.ndarray
        Reference minus solution, magnitudes; NaN where there is no reference in use.

    Examples
    --------
    >>> import numpy as np
    >>> one = np.ones(1)
    >>> StarResults(18 * one, 0.01 * one, one, one, one).mag
    array([18.])
    """

    mag: np.ndarray
    mag_err: np.ndarray
    detections: np.ndarray
    chi2: np.ndarray
    reference_residual: np.ndarray


@dataclass(frozen=True, eq=False)
class Validation:
    """Prediction of detections that took no part.

    Parameters
    ----------
    z : numpy.ndarray
        Observed minus predicted over the predicted error, one detection a held-out star.
    pit : numpy.ndarray
        Probability integral transform of z; uniform on [0, 1] if all errors are right.
    p_value : float
        Kolmogorov-Smirnov probability of the PIT under uniformity.

    Examples
    --------
    >>> import numpy as np
    >>> Validation(np.zeros(1), np.array([0.5]), 1.0).p_value
    1.0
    """

    z: np.ndarray
    pit: np.ndarray
    p_value: float


@dataclass(frozen=True, eq=False)
class Solution:
    """One calibration of all exposures, with its covariance.

    Made by `calibrate`; ``solution["term name"]`` gives the parameters of a term.

    Parameters
    ----------
    model : Model
        Terms, with the gauge that was used.
    parameters : numpy.ndarray, shape (P,)
        All parameters; see `Model.slice`.
    covariance : Covariance or None
        Of all parameters.
    observations : Observations
        The detections with their final flags.
    weighting : Weighting
        Floors as fitted.
    stars : StarResults
        Stars.
    residual, weight : numpy.ndarray, shape (n,)
        Residuals of detections, magnitudes, and inverse variances (0: took no part).
    chi2, degrees_of_freedom : float, int
        Of detections, references, priors and constraints.
    information : numpy.ndarray, shape (P,)
        What the detections would say of each parameter if the stars were known (inverse
        variance); 0: no detection touches it.
    connections : Connections
        How exposures hang together.
    gauges : tuple of str
        Combinations that were held where they started.
    rejected_references : numpy.ndarray of bool, shape (stars,)
        References that were rejected.
    missing_input : int
        Detections left out because a term lacked an input (a colour).
    passes : int
        Solutions made.
    converged : bool
        Whether rejection and floors settled.

    Examples
    --------
    >>> Solution.__name__
    'Solution'
    """

    model: Model
    parameters: np.ndarray
    covariance: Covariance | None
    observations: Observations
    weighting: Weighting
    stars: StarResults
    residual: np.ndarray
    weight: np.ndarray
    chi2: float
    degrees_of_freedom: int
    information: np.ndarray
    connections: Connections
    gauges: tuple[str, ...]
    rejected_references: np.ndarray
    missing_input: int
    passes: int
    converged: bool

    def __post_init__(self) -> None:
        for name in ("parameters", "residual", "weight", "information", "rejected_references"):
            getattr(self, name).flags.writeable = False

    def __repr__(self) -> str:
        return (
            f"<Solution: {self.parameters.size} parameters, chi2 {self.chi2:.6g} with "
            f"{self.degrees_of_freedom} degrees of freedom, {self.passes} passes>"
        )

    # -- parameters ---------------------------------------------------------------------------
    def __getitem__(self, name: str) -> np.ndarray:
        return np.asarray(self.parameters[self.model.slice(name)])

    def error(self, name: str) -> np.ndarray:
        """Return standard errors of the parameters of a term (NaN where nothing touches them).

        Raises
        ------
        MissingDataError
            If the covariance was not kept or there is no such term.
        """
        part = self.model.slice(name)
        variance = self._covariance().variance()[part]
        return np.where(self._known[part], np.sqrt(variance), np.nan)

    @property
    def _known(self) -> np.ndarray:
        return np.asarray((self.information > 0) | np.isfinite(self.model.prior()[1]))

    def covariance_of(self, name: str) -> np.ndarray:
        """Return the covariance matrix of the parameters of a term."""
        part = self.model.slice(name)
        return self._covariance().block(np.arange(part.start, part.stop))

    def _covariance(self) -> Covariance:
        if self.covariance is None:
            raise MissingDataError("The covariance was not kept; solve with covariance=True.")
        return self.covariance

    # -- calibrations -------------------------------------------------------------------------
    def photo_calib(
        self,
        exposure: int,
        detector: int,
        *,
        reference: FluxReference,
        unit: Any = "adu",
        measure: Measure | str = Measure.FLUENCE,
        jacobian: bool = True,
    ) -> PhotoCalib:
        """Return the calibration of one detector of one exposure.

        Parameters
        ----------
        exposure, detector : int
            Identifiers.
        reference : FluxReference
            Reference of the instrumental fluxes that were solved.
        unit : unit-like
            Instrumental unit of those fluxes.
        measure : Measure or str
            Kind of image that it applies to.
        jacobian : bool
            Include known factors such as the pixel area (see `KnownJacobian`).

        Returns
        -------
        PhotoCalib
            Its covariance holds the parameters that act here and how they act.

        Raises
        ------
        CalibrationError
            If a parameter that acts here is touched by no detection.
        PogsonValueError
            If there is no such exposure or detector.
        """
        import astropy.units as u

        tables = self.model.tables
        e, d = tables.exposures.row(exposure), tables.detectors.row(detector)
        columns, fields, factors, constant = self._local(e, d)
        dead = [c for c in columns if not self._known[c]]
        if dead:
            raise CalibrationError(
                f"Exposure {exposure}, detector {detector}: no detection touches "
                f"{', '.join(self.model.parameter_name(c) for c in dead[:4])}."
            )
        box = tables.detectors.boxes[d]
        values = self.parameters[columns]
        target = u.Unit("nJy") / u.Unit(unit)
        field = _exponential(box, fields, values) * ConstantField(
            box, 10.0 ** (0.4 * (NJY_AB_MAGNITUDE + constant)), target
        )
        if jacobian:
            for f in factors:
                field = field * f
        covariance = None
        if self.covariance is not None and columns.size:
            covariance = ParameterCovariance(
                [self.model.parameter_name(int(c)) for c in columns],
                self.covariance.block(columns),
                [None if f is None else f * _LN for f in fields],
                float(max(self.degrees_of_freedom, 1)),
            )
        band = tables.exposures.filter_name(int(tables.exposures.filter[e]))
        return PhotoCalib(
            field, measure=measure, reference=reference, covariance=covariance,
            bandpass=band if tables.exposures.filter_names else None,
            provenance={"exposure": int(exposure), "detector": int(detector),
                        "by": "survey solution", "terms": [t.name for t in self.model.terms],
                        "gauges": list(self.gauges)},
        )  # fmt: skip

    def _local(self, e: int, d: int) -> tuple[np.ndarray, list[Field | None], list[Field], float]:
        columns: list[int] = []
        fields: list[Field | None] = []
        factors: list[Field] = []
        constant = 0.0
        for first, t in zip(self.model.first, self.model.terms, strict=True):
            here = t.local_at(e, d, self.model.tables, self[t.name])
            constant += here.constant
            if here.base >= 0:
                columns += [first + here.base + j for j in range(len(here.fields))]
                fields += here.fields
            if here.factor is not None:
                factors.append(here.factor)
        return np.array(columns, np.int64), fields, factors, constant

    # -- judgement ----------------------------------------------------------------------------
    def suspect_stars(self, probability: float = 1e-6, rejections: int = 3) -> np.ndarray:
        """Return rows of stars that look variable or mismatched.

        Parameters
        ----------
        probability : float
            Largest chance of a chi2 as large as the star's.
        rejections : int
            Number of rejected detections that is enough by itself.
        """
        from scipy.stats import chi2

        dof = np.maximum(self.stars.detections - 1, 1)
        unlikely = (self.stars.detections > 1) & (chi2.sf(self.stars.chi2, dof) < probability)
        bad = (self.observations.flags & RowFlag.REJECTED.value) > 0
        counts = np.bincount(self.observations.star[bad], minlength=unlikely.size)
        return np.flatnonzero(unlikely | (counts >= rejections) | self.rejected_references)

    def exposure_chi2(self) -> np.ndarray:
        """Return chi2 per detection of each exposure (NaN without detections).

        One far above the others is cloudy, of another filter than its label says, or badly
        measured.
        """
        n = len(self.model.tables.exposures)
        e = self.observations.exposure
        count = np.bincount(e[self.weight > 0], minlength=n)
        total = np.bincount(e, self.weight * np.nan_to_num(self.residual) ** 2, n)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(count > 0, total / count, np.nan)

    def reference_map(self, cells: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the mean residual of references over the sky.

        Parameters
        ----------
        cells : int
            Cells along each axis of the range of right ascension and declination.

        Returns
        -------
        mean, error : numpy.ndarray, shape (cells, cells)
            ``[dec, ra]``, magnitudes; NaN where a cell has no reference.
        count : numpy.ndarray of int

        Raises
        ------
        MissingDataError
            If the stars have no positions.
        """
        table = self.observations.stars
        use = np.isfinite(self.stars.reference_residual) & np.isfinite(table.ra + table.dec)
        if not use.any():
            raise MissingDataError("No star with position and reference; give ra and dec to Stars.")
        x, y, r = table.ra[use], table.dec[use], self.stars.reference_residual[use]
        x = (x - x[0] + 180.0) % 360.0  # no seam at 0
        edges = [np.linspace(v.min(), v.max() * (1 + 1e-12) + 1e-9, cells + 1) for v in (y, x)]
        count = np.histogram2d(y, x, edges)[0]
        total = np.histogram2d(y, x, edges, weights=r)[0]
        square = np.histogram2d(y, x, edges, weights=r * r)[0]
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = total / count
            error = np.sqrt(np.maximum(square / count - mean**2, 0.0) / count)
        return mean, error, count.astype(np.int64)

    def validate(self, seed: int = 1, limit: int = 5000) -> Validation:
        """Predict one detection of each held-out star from its others.

        Parameters
        ----------
        seed : int
            Chooses the detection.
        limit : int
            Largest number of stars.

        Returns
        -------
        Validation
            The predicted error combines the detection, the other detections and the parameters.

        Raises
        ------
        MissingDataError
            If no star was held out.
        """
        from scipy.stats import kstest, norm

        o = self.observations
        held = (o.flags & RowFlag.HELD_OUT.value) > 0
        only = o.with_flags(np.where(held, o.flags & ~np.uint8(RowFlag.HELD_OUT.value), 255))
        p = prepare(self.model, only, self.parameters, self.weighting)
        counts = np.bincount(o.star[p.weight > 0] - p.star0, minlength=p.start.size - 1)
        first = np.flatnonzero(counts > 1)
        if not first.size:
            raise MissingDataError("No star was held out; solve with held_out=0.05 or so.")
        rng = stream(seed, "validation")
        z = np.array([self._predict(p, s, rng) for s in first[:limit]])
        pit = norm.cdf(z)
        return Validation(z, pit, float(kstest(pit, "uniform").pvalue))

    def _predict(self, p: Any, s: int, rng: np.random.Generator) -> float:
        """Return the standardised error of predicting one detection of a star from the others."""
        rows = np.arange(p.start[s], p.start[s + 1])
        rows = rows[p.weight[rows] > 0]
        one = rows[rng.integers(rows.size)]
        rest = rows[rows != one]
        w = p.weight[rest]
        d = p.design
        coefficient: dict[int, float] = {}
        for i, f in [(one, 1.0), *zip(rest, -w / w.sum(), strict=True)]:
            for t in range(d.width.size):
                c0 = int(d.base[i, t])
                for j in range(int(d.width[t]) if c0 >= 0 else 0):
                    column = int(d.column[t])
                    v = d.constant[t] if column < 0 else d.values[i, column + j]
                    coefficient[c0 + j] = coefficient.get(c0 + j, 0.0) + f * float(v)
        columns = np.array(list(coefficient), np.int64)
        v = np.array(list(coefficient.values()))
        shared = float(v @ self._covariance().block(columns) @ v) if columns.size else 0.0
        variance = 1.0 / p.weight[one] + 1.0 / w.sum() + shared
        difference = p.residual[one] - float(w @ p.residual[rest]) / w.sum()
        return float(difference / np.sqrt(variance))

    def summary(self) -> str:
        """Return the main facts as text."""
        lines = [
            f"chi2 {self.chi2:.6g} with {self.degrees_of_freedom} degrees of freedom, "
            f"{self.passes} passes, {'converged' if self.converged else 'NOT converged'}",
            f"floors {', '.join(f'{1e3 * f:.2f}' for f in self.weighting.floor)} mmag; references "
            f"{1e3 * self.weighting.reference_floor:.2f} mmag",
            f"left out: {self.observations.flag_counts()}, {self.missing_input} without input, "
            f"{int(self.rejected_references.sum())} references rejected",
        ]
        lines += [f"gauge: {g}" for g in self.gauges] + self.connections.describe()
        return "\n".join([*lines, self.model.describe()])


def _exponential(box: Box, fields: list[Field | None], values: np.ndarray) -> Field:
    """Return 10**(0.4 sum of values times fields) as a field, to 1e-7.

    Tables (rings, edges) become tables, one a factor: a grid fine enough for them is a whole image.
    """
    pairs: list[tuple[Field, float]] = []
    tables: list[Field] = []
    for f, v in zip(fields, values, strict=True):
        for part in f.terms if isinstance(f, SumField) else () if f is None else (f,):
            if isinstance(part, TableField):
                tables.append(_exponential_table(part, float(v)))
            else:
                pairs.append((part, float(v)))
    out = _smooth_exponential(box, pairs)
    for one in tables:
        out = out * one
    return out


def _exponential_table(table: TableField, value: float) -> TableField:
    """Return 10**(0.4 value table) with nodes so dense that straight lines hold to 1e-7."""
    step = float(np.max(np.abs(np.diff(table.values)))) * abs(value) * _LN
    parts = max(1, int(np.ceil(step / np.sqrt(8e-7))))
    nodes = np.linspace(table.nodes[0], table.nodes[-1], parts * (table.values.size - 1) + 1)
    new = 10.0 ** (0.4 * value * np.interp(nodes, table.nodes, table.values))
    start, width = float(nodes[0]), float(nodes[1] - nodes[0])
    return TableField(table.box, table.axis, start, width, new, table.center)


def _smooth_exponential(box: Box, pairs: list[tuple[Field, float]]) -> Field:
    if all(isinstance(f, ConstantField) for f, _ in pairs):
        total = sum(f.value * v for f, v in pairs if isinstance(f, ConstantField))
        return ConstantField(box, 10.0 ** (0.4 * total))

    def value(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        total = np.zeros(x.shape)
        for f, v in pairs:
            total += v * f(x=x, y=y)
        return np.asarray(10.0 ** (0.4 * total))

    rng = np.random.default_rng(0)
    (x0, x1), (y0, y1) = box.x_bounds, box.y_bounds
    x, y = rng.uniform(x0, x1, 256), rng.uniform(y0, y1, 256)
    truth = value(x, y)
    for order in (2, 4, 6, 8, 12, 16):
        found = interpolated(value, box, order)
        if np.max(np.abs(found(x=x, y=y) / truth - 1.0)) < 1e-7:
            return found
    nodes = [np.linspace(a, b, max(2, int((b - a) // 4) + 1)) for a, b in ((x0, x1), (y0, y1))]
    gx, gy = np.meshgrid(*nodes)
    return GridField(box, nodes[0], nodes[1], value(gx.ravel(), gy.ravel()).reshape(gx.shape))
