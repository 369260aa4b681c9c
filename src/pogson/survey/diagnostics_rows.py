"""Which detections the diagnostics look at, with what remains of each after its star is fitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pogson.errors import MissingDataError, PogsonValueError, choices
from pogson.survey.solution import Solution


@dataclass(frozen=True, eq=False)
class Rows:
    """Detections in use, with residuals whose variance is that of the detections."""

    rows: np.ndarray
    residual: np.ndarray
    weight: np.ndarray
    free: np.ndarray  # 1 - leverage


def used_rows(solution: Solution, filter: int | str | None, select: Any = None) -> Rows:
    """Rows in use of one filter; stars measured once (and no reference) say nothing."""
    o, w = solution.observations, solution.weight
    on = (w > 0) & np.isfinite(solution.residual)
    if filter is not None:
        on &= o.exposure_column("filter") == filter_row(solution, filter)
    if select is not None:
        chosen = np.asarray(select)
        if chosen.shape != on.shape or chosen.dtype != bool:
            raise PogsonValueError(
                f"select must be one bool a detection, shape {on.shape}; got {chosen.shape}."
            )
        on &= chosen
    rows = np.flatnonzero(on)
    # the star's error is 1 / sqrt of the total weight, its reference included
    leverage = w[rows] * solution.stars.mag_err[o.star[rows]] ** 2
    free = 1.0 - leverage
    keep = free > 1e-6
    rows = rows[keep]
    return Rows(rows, np.asarray(solution.residual[rows]), np.asarray(w[rows]), free[keep])


def filter_row(solution: Solution, filter: int | str) -> int:
    """Row number of a filter given by number or name."""
    if not isinstance(filter, str):
        return int(filter)
    names = solution.model.tables.exposures.filter_names
    if filter not in names:
        raise MissingDataError(f"No filter {filter!r} in the solution; it has {choices(names)}.")
    return names.index(filter)
