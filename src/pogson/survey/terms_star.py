"""Terms that depend on the star or on how it was measured: colour, seeing, background."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pogson.survey._bases import check_order
from pogson.survey.observations import Observations, SurveyTables
from pogson.survey.terms import Constraint, Design, LocalTerm, Term
from pogson.survey.terms_grey import constant_fields, groups

__all__ = ["BackgroundOffset", "ColorSlope", "SeeingTerm"]

_POGSON = 2.5 / np.log(10.0)


@dataclass(frozen=True)
class ColorSlope(Term):
    r"""Colour term of each detector, per filter: :math:`T = \sum_k a_k (c - c_0)^k`.

    Parameters
    ----------
    name : str
        Name of the term.
    order : int
        Largest power of the colour.
    pivot : float
        Colour for which zero points hold.
    by : tuple of str
        Exposure columns that separate one set from the next.
    per_detector : bool
        Each detector has its own coefficients.
    gauge : bool
        Hold the mean over the detectors at zero: the colour system of the mean camera is the
        natural one. Without references of known colour the mean cannot be measured.
    prior_mean, prior_sigma : float or array_like
        Prior.

    Notes
    -----
    Detections of stars without colour are flagged ``MISSING_INPUT``.

    Examples
    --------
    >>> from pogson.survey import Detectors, Exposures
    >>> ColorSlope().parameter_names(SurveyTables(Exposures([1]), Detectors([3, 4])))
    ['0;3;c1', '0;4;c1']
    """

    name: str = "color_slope"
    order: int = 1
    pivot: float = 0.0
    by: tuple[str, ...] = ("filter",)
    per_detector: bool = True
    gauge: bool = True
    prior_mean: Any = 0.0
    prior_sigma: Any = np.inf
    unit = "mag/mag^k"

    def __post_init__(self) -> None:
        check_order(self.order, self.name)

    def _labels(self, tables: SurveyTables) -> list[str]:
        labels = groups(tables.exposures, self.by)[1]
        if self.per_detector:
            labels = [f"{g};{d}" for g in labels for d in tables.detectors.labels]
        return labels

    def size(self, tables: SurveyTables) -> int:
        """Return sets (times detectors) times powers."""
        return len(self._labels(tables)) * int(self.order)

    def parameter_names(self, tables: SurveyTables) -> list[str]:
        """Return set, detector and power."""
        powers = range(1, int(self.order) + 1)
        return [f"{g};c{k}" for g in self._labels(tables) for k in powers]

    def design(self, observations: Observations, parameters: np.ndarray | None = None) -> Design:
        """Return powers of the colour from the pivot."""
        o, tables = observations, observations.tables
        base = groups(tables.exposures, self.by)[0][o.exposure]
        if self.per_detector:
            base = base * np.int32(tables.counts[1]) + o.detector
        c = o.detection_color() - self.pivot
        values = np.stack([c**k for k in range(1, int(self.order) + 1)], axis=1)
        return Design(base * np.int32(self.order), values)

    def constraints(self, tables: SurveyTables) -> list[Constraint]:
        """Return one mean of zero a set and power."""
        if not self.gauge:
            return []
        n = tables.counts[1] if self.per_detector else 1
        out = []
        for i, g in enumerate(groups(tables.exposures, self.by)[1]):
            for k in range(int(self.order)):
                columns = (i * n + np.arange(n)) * int(self.order) + k
                out.append(Constraint(f"mean of {g};c{k + 1}", columns, np.full(n, 1.0 / n)))
        return out

    def local(self, exposure: int, detector: int, tables: SurveyTables) -> LocalTerm:
        """Return no effect: the calibration is that of a star of the pivot colour."""
        base = int(groups(tables.exposures, self.by)[0][exposure])
        if self.per_detector:
            base = base * tables.counts[1] + detector
        return LocalTerm(base * int(self.order), (None,) * int(self.order))


@dataclass(frozen=True)
class SeeingTerm(Term):
    """Light lost from the aperture when the seeing is worse, linear in the seeing, per filter.

    Parameters
    ----------
    name : str
        Name of the term.
    pivot : float
        Seeing, arcsec, at which zero points hold.
    by : tuple of str
        Exposure columns that separate one slope from the next.
    prior_mean, prior_sigma : float or array_like
        Prior, magnitudes per arcsec.

    Examples
    --------
    >>> from pogson.survey import Detectors, Exposures
    >>> SeeingTerm().size(SurveyTables(Exposures([1, 2], filter=[0, 1]), Detectors([0])))
    2
    """

    name: str = "seeing"
    pivot: float = 1.0
    by: tuple[str, ...] = ("filter",)
    prior_mean: Any = 0.0
    prior_sigma: Any = np.inf
    unit = "mag/arcsec"

    def size(self, tables: SurveyTables) -> int:
        """Return the number of slopes."""
        return len(groups(tables.exposures, self.by)[1])

    def parameter_names(self, tables: SurveyTables) -> list[str]:
        """Return the sets."""
        return groups(tables.exposures, self.by)[1]

    def design(self, observations: Observations, parameters: np.ndarray | None = None) -> Design:
        """Return the seeing from the pivot."""
        group = groups(observations.tables.exposures, self.by)[0]
        seeing = np.asarray(observations.detection_seeing(), np.float64) - self.pivot
        return Design(group[observations.exposure], seeing[:, None])

    def local(self, exposure: int, detector: int, tables: SurveyTables) -> LocalTerm:
        """Return the constant at the exposure's seeing."""
        group = int(groups(tables.exposures, self.by)[0][exposure])
        value = float(tables.exposures.seeing[exposure]) - self.pivot
        return LocalTerm(group, constant_fields(tables, detector, [value]))


@dataclass(frozen=True)
class BackgroundOffset(Term):
    """Flux added to every source by a background error, per detector (and set of exposures).

    To first order a constant flux b in the aperture changes a magnitude by
    ``-1.0857 b / flux``: faint stars more than bright ones, which tells it from a zero point.

    Parameters
    ----------
    name : str
        Name of the term.
    by : tuple of str
        Exposure columns that separate one offset from the next.
    prior_mean, prior_sigma : float or array_like
        Prior, instrumental flux units.

    Examples
    --------
    >>> from pogson.survey import Detectors, Exposures
    >>> BackgroundOffset().size(SurveyTables(Exposures([1, 2]), Detectors([0, 1])))
    2
    """

    name: str = "background_offset"
    by: tuple[str, ...] = ("filter",)
    prior_mean: Any = 0.0
    prior_sigma: Any = np.inf
    unit = "instrumental flux"

    def size(self, tables: SurveyTables) -> int:
        """Return sets times detectors."""
        return len(groups(tables.exposures, self.by)[1]) * tables.counts[1]

    def parameter_names(self, tables: SurveyTables) -> list[str]:
        """Return set and detector."""
        labels = groups(tables.exposures, self.by)[1]
        return [f"{g};{d}" for g in labels for d in tables.detectors.labels]

    def design(self, observations: Observations, parameters: np.ndarray | None = None) -> Design:
        """Return -1.0857 over the instrumental flux."""
        o, tables = observations, observations.tables
        base = groups(tables.exposures, self.by)[0][o.exposure] * np.int32(tables.counts[1])
        value = -_POGSON * 10.0 ** (0.4 * np.asarray(o.mag, np.float64))
        return Design(np.asarray(base + o.detector, np.int32), value[:, None])

    def local(self, exposure: int, detector: int, tables: SurveyTables) -> LocalTerm:
        """Return no effect on the scale of the calibration."""
        group = int(groups(tables.exposures, self.by)[0][exposure])
        return LocalTerm(group * tables.counts[1] + detector, (None,))
