"""Colour terms that change over a detector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pogson.survey._bases import check_order, design_2d, orders
from pogson.survey.observations import Observations, SurveyTables
from pogson.survey.terms import Design, LocalTerm, Term
from pogson.survey.terms_grey import groups

__all__ = ["ColorFlat"]


@dataclass(frozen=True)
class ColorFlat(Term):
    """A star flat proportional to the star's colour: polynomials of each detector times colour.

    Without constants: those are `ColorSlope`'s.

    Parameters
    ----------
    name : str
        Name of the term.
    order : int
        Largest total degree over a detector.
    pivot : float
        Colour for which star flats and zero points hold.
    by : tuple of str
        Exposure columns that separate one set from the next.
    prior_mean, prior_sigma : float or array_like
        Prior, magnitudes per magnitude.

    Raises
    ------
    ConfigError
        If the order is no whole number, or below 1.

    Examples
    --------
    >>> from pogson.survey import Detectors, Exposures
    >>> ColorFlat().parameter_names(SurveyTables(Exposures([1]), Detectors([3])))
    ['0;3;T10', '0;3;T01']
    """

    name: str = "color_flat"
    order: int = 1
    pivot: float = 0.0
    by: tuple[str, ...] = ("filter",)
    prior_mean: Any = 0.0
    prior_sigma: Any = np.inf
    unit = "mag/mag"

    def __post_init__(self) -> None:
        check_order(self.order, self.name)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Degrees (i, j) of the polynomials T_i(x) T_j(y)."""
        return orders(int(self.order), False)

    def size(self, tables: SurveyTables) -> int:
        """Return sets times detectors times coefficients."""
        return len(groups(tables.exposures, self.by)[1]) * tables.counts[1] * len(self.pairs)

    def parameter_names(self, tables: SurveyTables) -> list[str]:
        """Return set, detector and degrees."""
        labels = groups(tables.exposures, self.by)[1]
        ids = tables.detectors.labels
        return [f"{g};{d};T{i}{j}" for g in labels for d in ids for i, j in self.pairs]

    def design(self, observations: Observations, parameters: np.ndarray | None = None) -> Design:
        """Return minus the polynomials times the colour from the pivot."""
        o, tables = observations, observations.tables
        base = groups(tables.exposures, self.by)[0][o.exposure] * np.int32(tables.counts[1])
        xs, ys = tables.detectors.scaled(o.detector, x=o.x, y=o.y)
        values = -design_2d(xs, ys, self.pairs) * (o.detection_color() - self.pivot)[:, None]
        return Design((base + o.detector) * np.int32(len(self.pairs)), values)

    def local(self, exposure: int, detector: int, tables: SurveyTables) -> LocalTerm:
        """Return no effect: the calibration is that of a star of the pivot colour."""
        base = int(groups(tables.exposures, self.by)[0][exposure]) * tables.counts[1] + detector
        return LocalTerm(base * len(self.pairs), (None,) * len(self.pairs))
