"""Grey terms: zero points, clouds, extinction and the slow decay of the mirror."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pogson.errors import ConfigError, choices
from pogson.fields import ConstantField
from pogson.survey.observations import Exposures, Observations, SurveyTables
from pogson.survey.terms import Constraint, Design, LocalTerm, Term

__all__ = [
    "AirmassExtinction",
    "DetectorZeroPoint",
    "ExposureZeroPoint",
    "GreyCloud",
    "MirrorDecay",
]


_BY = ("night", "epoch", "filter", "category", "identifier")  # columns that make sets


def groups(exposures: Exposures, by: tuple[str, ...]) -> tuple[np.ndarray, list[str]]:
    """Number the combinations of exposure columns that occur; return each exposure's, and names."""
    if not by:
        return np.zeros(len(exposures), np.int32), [""]
    wrong = [b for b in by if b not in _BY]
    if wrong:
        raise ConfigError(f"by names {choices(wrong)}; allowed: {choices(_BY)}.")
    keys = np.stack([np.asarray(getattr(exposures, b), np.int64) for b in by], axis=1)
    unique, inverse = np.unique(keys, axis=0, return_inverse=True)
    labels = [
        ",".join(
            exposures.filter_name(int(v)) if b == "filter" else f"{b}{v}"
            for b, v in zip(by, row, strict=True)
        )
        for row in unique
    ]
    return inverse.reshape(-1).astype(np.int32), labels


def positive(sigma: Any, what: str) -> None:
    """Raise a ConfigError unless a standard deviation is positive."""
    if not np.all(np.asarray(sigma, np.float64) > 0):
        raise ConfigError(f"{what} is {sigma!r}; it must be positive (infinite: no prior).")


def require(value: Any, allowed: tuple[Any, ...], what: str) -> None:
    """Raise a ConfigError unless a setting is one of those allowed."""
    if value not in allowed:
        raise ConfigError(f"{what} is {value!r}; allowed: {choices(allowed)}.")


def constant_fields(
    tables: SurveyTables, detector: int, values: list[float]
) -> tuple[ConstantField, ...]:
    """Return one constant field a value over a detector's box."""
    box = tables.detectors.boxes[detector]
    return tuple(ConstantField(box, float(v)) for v in values)


@dataclass(frozen=True)
class ExposureZeroPoint(Term):
    """Zero point of each exposure, or of each detector of each exposure.

    The parameter is the zero point in its usual sense, ``m_star = m_inst + zero point``, so that
    the term is minus the parameter.

    Parameters
    ----------
    name : str
        Name of the term.
    per : {'exposure', 'exposure_detector'}
        What has its own zero point.
    prior_mean, prior_sigma : float or array_like
        Gaussian prior in magnitudes; infinite sigma (default): none.

    Examples
    --------
    >>> from pogson.survey import Detectors, Exposures
    >>> tables = SurveyTables(Exposures([1, 2]), Detectors([5, 6, 7]))
    >>> ExposureZeroPoint(per="exposure_detector").size(tables)
    6
    """

    name: str = "exposure_zero_point"
    per: Literal["exposure", "exposure_detector"] = "exposure"
    prior_mean: Any = 0.0
    prior_sigma: Any = np.inf

    def __post_init__(self) -> None:
        require(self.per, ("exposure", "exposure_detector"), "per")

    def size(self, tables: SurveyTables) -> int:
        """Return the number of zero points."""
        e, d = tables.counts
        return e if self.per == "exposure" else e * d

    def parameter_names(self, tables: SurveyTables) -> list[str]:
        """Return the identifiers of exposure (and detector)."""
        labels = tables.exposures.labels
        if self.per == "exposure":
            return labels
        return [f"{e},{d}" for e in labels for d in tables.detectors.labels]

    def design(self, observations: Observations, parameters: np.ndarray | None = None) -> Design:
        """Return -1 at the detection's zero point."""
        base = observations.exposure
        if self.per == "exposure_detector":
            base = base * np.int32(observations.tables.counts[1]) + observations.detector
        return Design(base, None, -1.0)

    def local(self, exposure: int, detector: int, tables: SurveyTables) -> LocalTerm:
        """Return the constant -1."""
        base = exposure
        if self.per == "exposure_detector":
            base = exposure * tables.counts[1] + detector
        return LocalTerm(base, constant_fields(tables, detector, [-1.0]))


@dataclass(frozen=True)
class DetectorZeroPoint(Term):
    """Zero point of each detector, per filter and epoch, relative to the mean of the camera.

    Parameters
    ----------
    name : str
        Name of the term.
    by : tuple of str
        Exposure columns that separate one set from the next.
    gauge : bool
        Hold the mean over the detectors of each set at zero. Without it, and with zero points of
        exposures, the sum of both is degenerate.
    prior_mean, prior_sigma : float or array_like
        Gaussian prior in magnitudes.

    Examples
    --------
    >>> from pogson.survey import Detectors, Exposures
    >>> tables = SurveyTables(Exposures([1, 2], filter=[0, 1]), Detectors([5, 6]))
    >>> DetectorZeroPoint().parameter_names(tables)
    ['0,epoch0;5', '0,epoch0;6', '1,epoch0;5', '1,epoch0;6']
    """

    name: str = "detector_zero_point"
    by: tuple[str, ...] = ("filter", "epoch")
    gauge: bool = True
    prior_mean: Any = 0.0
    prior_sigma: Any = np.inf

    def size(self, tables: SurveyTables) -> int:
        """Return detectors times sets."""
        return len(groups(tables.exposures, self.by)[1]) * tables.counts[1]

    def parameter_names(self, tables: SurveyTables) -> list[str]:
        """Return set and detector identifier."""
        labels = groups(tables.exposures, self.by)[1]
        return [f"{g};{d}" for g in labels for d in tables.detectors.labels]

    def design(self, observations: Observations, parameters: np.ndarray | None = None) -> Design:
        """Return -1 at the detection's detector."""
        tables = observations.tables
        group = groups(tables.exposures, self.by)[0]
        base = group[observations.exposure] * np.int32(tables.counts[1]) + observations.detector
        return Design(base.astype(np.int32), None, -1.0)

    def constraints(self, tables: SurveyTables) -> list[Constraint]:
        """Return one mean of zero a set."""
        if not self.gauge:
            return []
        n = tables.counts[1]
        labels = groups(tables.exposures, self.by)[1]
        return [
            Constraint(f"mean of {g}", np.arange(i * n, (i + 1) * n), np.full(n, 1.0 / n))
            for i, g in enumerate(labels)
        ]

    def local(self, exposure: int, detector: int, tables: SurveyTables) -> LocalTerm:
        """Return the constant -1."""
        group = int(groups(tables.exposures, self.by)[0][exposure])
        base = group * tables.counts[1] + detector
        return LocalTerm(base, constant_fields(tables, detector, [-1.0]))


@dataclass(frozen=True)
class GreyCloud(Term):
    """Grey extinction by clouds, one per exposure or per detector of an exposure.

    Exposures marked photometric have a tight prior about zero, the others a wide one: the
    photometric ones define the scale and the cloudy ones follow.

    Parameters
    ----------
    name : str
        Name of the term.
    per : {'exposure', 'exposure_detector'}
        What has its own cloud.
    photometric_sigma, cloudy_sigma : float
        Standard deviations of the priors, magnitudes.

    Examples
    --------
    >>> from pogson.survey import Detectors, Exposures
    >>> tables = SurveyTables(Exposures([1, 2], photometric=[True, False]), Detectors([0]))
    >>> GreyCloud(photometric_sigma=0.002).prior(tables)[1]
    array([0.002, 1.   ])
    """

    name: str = "grey_cloud"
    per: Literal["exposure", "exposure_detector"] = "exposure"
    photometric_sigma: float = 0.003
    cloudy_sigma: float = 1.0

    def __post_init__(self) -> None:
        require(self.per, ("exposure", "exposure_detector"), "per")
        positive(self.photometric_sigma, "photometric_sigma")
        positive(self.cloudy_sigma, "cloudy_sigma")

    def size(self, tables: SurveyTables) -> int:
        """Return the number of clouds."""
        e, d = tables.counts
        return e if self.per == "exposure" else e * d

    def parameter_names(self, tables: SurveyTables) -> list[str]:
        """Return the identifiers of exposure (and detector)."""
        return ExposureZeroPoint(per=self.per).parameter_names(tables)

    def design(self, observations: Observations, parameters: np.ndarray | None = None) -> Design:
        """Return +1 at the detection's cloud."""
        return Design(ExposureZeroPoint(per=self.per).design(observations).base, None, 1.0)

    def prior(self, tables: SurveyTables) -> tuple[np.ndarray, np.ndarray]:
        """Return zero, and sigma by whether the exposure is photometric."""
        sigma = np.where(tables.exposures.photometric, self.photometric_sigma, self.cloudy_sigma)
        repeat = self.size(tables) // max(len(tables.exposures), 1)
        return np.zeros(self.size(tables)), np.repeat(sigma, repeat)

    def photometric(self, tables: SurveyTables, clouds: Any, threshold: float) -> np.ndarray:
        """Select exposures that are photometric by their fitted clouds.

        Parameters
        ----------
        tables : SurveyTables
            Exposures.
        clouds : array_like
            Fitted parameters of this term; NaN: not known. An exposure without any is not
            photometric.
        threshold : float
            Largest cloud, magnitudes, measured from the clear end of each night (the 10th
            percentile of its exposures).

        Returns
        -------
        photometric : numpy.ndarray of bool, shape (exposures,)
            For `Exposures.photometric`.

        Examples
        --------
        >>> from pogson.survey import Detectors, Exposures
        >>> tables = SurveyTables(Exposures([1, 2, 3]), Detectors([0]))
        >>> GreyCloud().photometric(tables, [0.0, 0.001, 0.2], 0.01)
        array([ True,  True, False])
        """
        c = np.asarray(clouds, np.float64).reshape(len(tables.exposures), -1)
        known = np.isfinite(c).any(axis=1)
        c = np.where(np.isfinite(c), c, -np.inf).max(axis=1)
        out = np.zeros(c.size, bool)
        night = tables.exposures.night
        for n in np.unique(night[known]):
            rows = (night == n) & known
            out[rows] = c[rows] - np.percentile(c[rows], 10.0) <= threshold
        return out

    def local(self, exposure: int, detector: int, tables: SurveyTables) -> LocalTerm:
        """Return the constant +1."""
        base = ExposureZeroPoint(per=self.per).local(exposure, detector, tables).base
        return LocalTerm(base, constant_fields(tables, detector, [1.0]))


@dataclass(frozen=True)
class AirmassExtinction(Term):
    r"""First-order extinction per night and filter, with an optional drift through the night.

    .. math:: T = (k + \\dot k\\, \\Delta t)(X - X_0)

    Parameters
    ----------
    name : str
        Name of the term.
    by : tuple of str
        Exposure columns that separate one coefficient from the next.
    slope : bool
        Fit the drift, magnitudes per airmass per day from the middle of the set.
    pivot : float
        Airmass at which zero points hold.
    prior_mean, prior_sigma : float
        Prior of k, magnitudes per airmass.
    slope_sigma : float
        Prior sigma of the drift.

    Examples
    --------
    >>> from pogson.survey import Detectors, Exposures
    >>> tables = SurveyTables(Exposures([1, 2], night=[0, 1]), Detectors([0]))
    >>> AirmassExtinction(slope=True).parameter_names(tables)
    ['night0,0;k', 'night0,0;slope', 'night1,0;k', 'night1,0;slope']
    """

    name: str = "airmass_extinction"
    by: tuple[str, ...] = ("night", "filter")
    slope: bool = False
    pivot: float = 1.0
    prior_mean: float = 0.0
    prior_sigma: float = np.inf
    slope_sigma: float = np.inf
    unit = "mag/airmass"

    def __post_init__(self) -> None:
        positive(self.prior_sigma, "prior_sigma")
        positive(self.slope_sigma, "slope_sigma")

    def size(self, tables: SurveyTables) -> int:
        """Return one or two parameters a set."""
        return len(groups(tables.exposures, self.by)[1]) * (1 + self.slope)

    def parameter_names(self, tables: SurveyTables) -> list[str]:
        """Return set and k or slope."""
        kinds = ("k", "slope") if self.slope else ("k",)
        return [f"{g};{k}" for g in groups(tables.exposures, self.by)[1] for k in kinds]

    def prior(self, tables: SurveyTables) -> tuple[np.ndarray, np.ndarray]:
        """Return the priors of k and slope."""
        n = len(groups(tables.exposures, self.by)[1])
        if not self.slope:
            return np.full(n, self.prior_mean), np.full(n, float(self.prior_sigma))
        return (
            np.tile([self.prior_mean, 0.0], n),
            np.tile([float(self.prior_sigma), float(self.slope_sigma)], n),
        )

    def _times(self, exposures: Exposures) -> tuple[np.ndarray, np.ndarray]:
        group, labels = groups(exposures, self.by)
        count = np.maximum(np.bincount(group, minlength=len(labels)), 1)
        middle = np.bincount(group, exposures.mjd, len(labels)) / count
        return group, exposures.mjd - middle[group]

    def design(self, observations: Observations, parameters: np.ndarray | None = None) -> Design:
        """Return X - X0 and its product with time."""
        group, time = self._times(observations.tables.exposures)
        x = np.asarray(observations.detection_airmass(), np.float64) - self.pivot
        base = group[observations.exposure] * np.int32(1 + self.slope)
        if not self.slope:
            return Design(base, x[:, None])
        return Design(base, np.stack([x, x * time[observations.exposure]], axis=1))

    def local(self, exposure: int, detector: int, tables: SurveyTables) -> LocalTerm:
        """Return constants at the exposure's airmass."""
        group, time = self._times(tables.exposures)
        x = float(tables.exposures.airmass[exposure]) - self.pivot
        values = [x, x * float(time[exposure])] if self.slope else [x]
        base = int(group[exposure]) * (1 + self.slope)
        return LocalTerm(base, constant_fields(tables, detector, values))


@dataclass(frozen=True)
class MirrorDecay(Term):
    """Linear loss of throughput with time since the start of each epoch (a mirror wash).

    Parameters
    ----------
    name : str
        Name of the term.
    by : tuple of str
        Exposure columns that separate one rate from the next.
    prior_mean, prior_sigma : float or array_like
        Prior, magnitudes per day.

    Examples
    --------
    >>> from pogson.survey import Detectors, Exposures
    >>> tables = SurveyTables(Exposures([1, 2], epoch=[0, 1]), Detectors([0]))
    >>> MirrorDecay().describe(tables)
    'mirror_decay: MirrorDecay, 2 parameters [mag/day]'
    """

    name: str = "mirror_decay"
    by: tuple[str, ...] = ("epoch", "filter")
    prior_mean: Any = 0.0
    prior_sigma: Any = np.inf
    unit = "mag/day"

    def size(self, tables: SurveyTables) -> int:
        """Return the number of rates."""
        return len(groups(tables.exposures, self.by)[1])

    def parameter_names(self, tables: SurveyTables) -> list[str]:
        """Return the sets."""
        return groups(tables.exposures, self.by)[1]

    def _days(self, exposures: Exposures) -> tuple[np.ndarray, np.ndarray]:
        group = groups(exposures, self.by)[0]
        days = np.zeros(len(exposures))
        for e in np.unique(exposures.epoch):
            rows = exposures.epoch == e
            days[rows] = exposures.mjd[rows] - exposures.mjd[rows].min()
        return group, days

    def design(self, observations: Observations, parameters: np.ndarray | None = None) -> Design:
        """Return days since the start of the epoch."""
        group, days = self._days(observations.tables.exposures)
        e = observations.exposure
        return Design(group[e], days[e][:, None])

    def local(self, exposure: int, detector: int, tables: SurveyTables) -> LocalTerm:
        """Return the constant number of days."""
        group, days = self._days(tables.exposures)
        return LocalTerm(
            int(group[exposure]), constant_fields(tables, detector, [float(days[exposure])])
        )
