"""What a report shows, as plain data: no files, no science types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pogson.report.audit_data import AuditReport
from pogson.report.coadd_data import CoaddReport
from pogson.report.solve_data import SolveReport

__all__ = [
    "ExposureRecord",
    "GrowthCurve",
    "PixelMap",
    "Rejection",
    "Repeatability",
    "ReportData",
    "StarResiduals",
    "TruthComparison",
]


def _arrays(instance: Any, *names: str) -> None:
    for name in names:
        value = np.asarray(getattr(instance, name))
        value = value.copy()
        value.flags.writeable = False
        object.__setattr__(instance, name, value)


@dataclass(frozen=True)
class ExposureRecord:
    """One exposure of one detector: what was measured, or why it failed.

    Parameters
    ----------
    key : str
        Name of the task, unique in the run.
    exposure_id, detector, band : str
        What it is.
    status : str
        ``"done"`` or ``"failed"``.
    reason : str
        Why it failed.
    values : mapping
        Numbers by name; those known to the report are ``zero_point``, ``zero_point_err`` (mag),
        ``intrinsic_scatter`` (mag), ``n_sources``, ``n_matched``, ``n_used``, ``chi2``,
        ``airmass``, ``mjd``, ``exposure_time`` (s), ``fwhm`` (arcsec), ``sky`` (mag/arcsec2),
        ``depth`` (5-sigma mag), ``color_term``, ``color_term_err``, ``pull_rms``,
        ``truth_median``, ``truth_median_err`` (mag), ``truth_pull_rms``, ``audit_n``,
        ``audit_depth_50``, ``audit_bias``, ``audit_bias_err`` (mag), ``audit_pull_rms``.
    footprint : sequence of (float, float)
        Corners (ra, dec) in degrees.

    Examples
    --------
    >>> record = ExposureRecord("v1-N1", "v1", "N1", "g", "done", "", {"airmass": 1.2}, ())
    >>> record.number("airmass"), record.number("fwhm")
    (1.2, nan)
    """

    key: str
    exposure_id: str
    detector: str
    band: str
    status: str
    reason: str
    values: Mapping[str, Any]
    footprint: tuple[tuple[float, float], ...]

    def number(self, name: str) -> float:
        """Return a number, NaN where it is not known."""
        value = self.values.get(name)
        return float("nan") if value is None else float(value)


@dataclass(frozen=True)
class StarResiduals:
    """Reference stars of all exposures: measured minus reference, one row a star and exposure.

    Parameters
    ----------
    exposure : array of int
        Index in the list of exposures.
    band : array of str
    magnitude, color : array of float
        Of the reference; colour NaN where none is used.
    x, y : array of float
        Pixels (0-based).
    residual : array of float
        Magnitudes, measured minus reference.
    pull : array of float
        Residual over its standard error.
    used : array of bool
        Whether the star took part in the fit.

    Examples
    --------
    >>> StarResiduals.empty().residual.size
    0
    """

    exposure: np.ndarray
    band: np.ndarray
    magnitude: np.ndarray
    color: np.ndarray
    x: np.ndarray
    y: np.ndarray
    residual: np.ndarray
    pull: np.ndarray
    used: np.ndarray

    def __post_init__(self) -> None:
        _arrays(self, *self.__dataclass_fields__)

    @classmethod
    def empty(cls) -> StarResiduals:
        """Return a table without rows."""
        none = np.zeros(0)
        some = (none, none, none, none, none, none)
        return cls(none.astype(int), none.astype(str), *some, none.astype(bool))


@dataclass(frozen=True)
class GrowthCurve:
    """Flux in growing apertures relative to the largest, for one exposure.

    Parameters
    ----------
    key, band : str
    radius : array of float
        Arcsec.
    fraction, scatter : array of float
        Median over stars, and the star-to-star scatter (robust standard deviation).
    model : array of float or None
        The same from the PSF model, where there is one.

    Examples
    --------
    >>> GrowthCurve("v1-N1", "g", [1, 2], [0.8, 1.0], [0.01, 0.0], None).radius
    array([1, 2])
    """

    key: str
    band: str
    radius: np.ndarray
    fraction: np.ndarray
    scatter: np.ndarray
    model: np.ndarray | None

    def __post_init__(self) -> None:
        _arrays(self, "radius", "fraction", "scatter")
        if self.model is not None:
            _arrays(self, "model")


@dataclass(frozen=True)
class PixelMap:
    """A small image over the pixels of a detector.

    Parameters
    ----------
    key : str
    values : array of float, shape (ny, nx)
    extent : tuple of float
        Pixel edges x0, x1, y0, y1.

    Examples
    --------
    >>> PixelMap("N1", [[1.0, 1.1]], (-0.5, 9.5, -0.5, 4.5)).values.shape
    (1, 2)
    """

    key: str
    values: np.ndarray
    extent: tuple[float, float, float, float]

    def __post_init__(self) -> None:
        _arrays(self, "values")


@dataclass(frozen=True)
class Rejection:
    """How many of what were left out, and why.

    Examples
    --------
    >>> Rejection("zero point", "outlier", 3, "more than 4 sigma from the fit").count
    3
    """

    stage: str
    reason: str
    count: int
    meaning: str


@dataclass(frozen=True)
class Repeatability:
    """Scatter of each star over its exposures in one band.

    Parameters
    ----------
    band : array of str
    magnitude : array of float
        Mean AB magnitude.
    scatter, expected : array of float
        Standard deviation over exposures, and what the errors predict; magnitudes.
    n : array of int
        Number of exposures.

    Examples
    --------
    >>> Repeatability.empty().n.size
    0
    """

    band: np.ndarray
    magnitude: np.ndarray
    scatter: np.ndarray
    expected: np.ndarray
    n: np.ndarray

    def __post_init__(self) -> None:
        _arrays(self, *self.__dataclass_fields__)

    @classmethod
    def empty(cls) -> Repeatability:
        """Return a table without rows."""
        none = np.zeros(0)
        return cls(none.astype(str), none, none, none, none.astype(int))


@dataclass(frozen=True)
class TruthComparison:
    """Calibrated fluxes beside the true ones, one row a star and exposure.

    Parameters
    ----------
    exposure : array of int
        Index in the list of exposures.
    band : array of str
    magnitude : array of float
        True AB magnitude.
    difference : array of float
        Measured minus true, magnitudes, to first order in the flux.
    pull : array of float
        Flux difference over its standard error.

    Examples
    --------
    >>> TruthComparison([0], ["g"], [18.0], [0.001], [0.5]).pull
    array([0.5])
    """

    exposure: np.ndarray
    band: np.ndarray
    magnitude: np.ndarray
    difference: np.ndarray
    pull: np.ndarray

    def __post_init__(self) -> None:
        _arrays(self, *self.__dataclass_fields__)


@dataclass(frozen=True)
class ReportData:
    """Everything that a report shows; see the classes of its parts.

    Examples
    --------
    >>> ReportData(title="empty").bands
    []
    """

    title: str
    exposures: tuple[ExposureRecord, ...] = ()
    stars: StarResiduals = field(default_factory=StarResiduals.empty)
    growth: tuple[GrowthCurve, ...] = ()
    areas: tuple[PixelMap, ...] = ()
    backgrounds: tuple[PixelMap, ...] = ()
    rejections: tuple[Rejection, ...] = ()
    repeatability: Repeatability = field(default_factory=Repeatability.empty)
    truth: TruthComparison | None = None
    audit: AuditReport | None = None
    solve: SolveReport | None = None
    coadd: CoaddReport | None = None
    headlines: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    config_text: str = ""

    @property
    def bands(self) -> list[str]:
        """Bands in order of first appearance."""
        return list(dict.fromkeys(e.band for e in self.exposures))

    @property
    def done(self) -> tuple[ExposureRecord, ...]:
        """Exposures that were calibrated."""
        return tuple(e for e in self.exposures if e.status == "done")
