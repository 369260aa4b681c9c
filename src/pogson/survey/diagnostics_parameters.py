"""Diagnostics of parameters: exposures held out, what is known worst, values by night."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pogson.errors import CalibrationError, MissingDataError
from pogson.survey.atmosphere_term import Atmosphere
from pogson.survey.degeneracy import _describe
from pogson.survey.likelihood import SolveSettings, calibrate
from pogson.survey.observations import Observations, RowFlag
from pogson.survey.solution import Solution
from pogson.survey.solve import DenseCovariance, SampledCovariance
from pogson.survey.terms import Model, Term

__all__ = [
    "HeldOutExposures",
    "LooseCombination",
    "NightlyValues",
    "hold_out_exposures",
    "loosest_combinations",
    "nightly_extinction",
    "nightly_values",
]


@dataclass(frozen=True, eq=False)
class HeldOutExposures:
    """Exposures predicted by a solution that had not seen them.

    Parameters
    ----------
    exposure : numpy.ndarray of int, shape (n,)
        Identifiers.
    zero_point, zero_point_error : numpy.ndarray, shape (n,)
        The one number fitted to each: its zero point, magnitudes.
    chi2, degrees_of_freedom : numpy.ndarray, shape (n,)
        Of its detections about stars, flats and colour terms of the others.
    scatter : numpy.ndarray, shape (n,)
        Robust scatter of its detections, magnitudes.
    z : numpy.ndarray
        Standardised errors of all its detections.
    p_value : float
        Kolmogorov-Smirnov probability that they are standard normal.

    Examples
    --------
    >>> HeldOutExposures.__name__
    'HeldOutExposures'
    """

    exposure: np.ndarray
    zero_point: np.ndarray
    zero_point_error: np.ndarray
    chi2: np.ndarray
    degrees_of_freedom: np.ndarray
    scatter: np.ndarray
    z: np.ndarray
    p_value: float


def hold_out_exposures(
    observations: Observations,
    model: Model | Sequence[Term],
    exposures: Sequence[int],
    settings: SolveSettings | None = None,
    **changes: Any,
) -> tuple[Solution, HeldOutExposures]:
    """Solve without some exposures and predict them.

    Parameters
    ----------
    observations : Observations
        All detections.
    model : Model or sequence of Term
        The model; terms that belong to single exposures must have one parameter, a zero point.
    exposures : sequence of int
        Identifiers of the exposures to hold out.
    settings, **changes
        As in `calibrate`.

    Returns
    -------
    solution : Solution
        Without these exposures.
    held_out : HeldOutExposures
        How well it predicts them.

    Raises
    ------
    CalibrationError
        If none of their stars is in the solution.

    Notes
    -----
    The errors of the predicted stars and of the detections enter; the shared errors of flats,
    small beside them, do not.

    Examples
    --------
    >>> import numpy as np
    >>> from pogson.survey import (Detectors, Exposures, ExposureZeroPoint, Observations, Stars,
    ...     SurveyTables, calibrate)
    >>> rng, n = np.random.default_rng(2), 300
    >>> stars = Stars(np.arange(n), reference_mag=np.full(n, 18.0), reference_err=np.full(n, 0.02),
    ...     ra=rng.uniform(10, 11, n), dec=rng.uniform(0, 1, n))
    >>> obs = Observations.from_columns(SurveyTables(Exposures([11, 12, 13]), Detectors([0])),
    ...     stars, star=np.repeat(np.arange(n), 3), exposure=np.tile(np.arange(3), n), detector=0,
    ...     x=1.0, y=2.0, mag=-7.0 + 0.01 * rng.normal(size=3 * n), mag_err=0.01)
    >>> solution = calibrate(obs, [ExposureZeroPoint()])
    >>> _, held = hold_out_exposures(obs, [ExposureZeroPoint()], [12])
    >>> bool(abs(held.zero_point[0] - 25.0) < 0.004)
    True
    """
    from scipy.stats import kstest

    rows = [observations.tables.exposures.row(e) for e in exposures]
    out = np.isin(observations.exposure, rows)
    flags = np.array(observations.flags)
    flags[out & (flags == 0)] |= RowFlag.HELD_OUT.value
    solution = calibrate(observations.with_flags(flags), model, settings, **changes)
    o = solution.observations
    mine = np.flatnonzero(out & (np.asarray(observations.flags) == 0))
    known = np.isfinite(solution.stars.mag_err[o.star[mine]])
    mine = mine[known]
    if not mine.size:
        raise CalibrationError("None of the stars of the exposures held out is in the solution.")
    part = replace_rows(o, mine)
    r = (
        part.mag
        - solution.model.evaluate(part, solution.parameters)
        - solution.stars.mag[part.star]
    )
    floor = np.array(solution.weighting.floor)
    category = part.exposure_column("category") if floor.size > 1 else np.zeros(mine.size, int)
    variance = part.mag_err**2 + floor[category] ** 2 + solution.stars.mag_err[part.star] ** 2
    n = len(rows)
    stats, zs = np.full((5, n), np.nan), []
    for k, row in enumerate(rows):
        on = (part.exposure == row) & np.isfinite(r)
        if np.count_nonzero(on) < 2:
            continue
        w = 1.0 / variance[on]
        offset = np.sum(w * r[on]) / np.sum(w)
        d = r[on] - offset
        z = d / np.sqrt(variance[on] - 1.0 / np.sum(w))
        spread = 1.4826 * np.median(np.abs(d - np.median(d)))
        stats[:, k] = -offset, np.sum(w) ** -0.5, np.sum(w * d**2), on.sum() - 1, spread
        zs.append(z)
    z = np.concatenate(zs) if zs else np.zeros(0)
    p = float(kstest(z, "norm").pvalue) if z.size else np.nan
    return solution, HeldOutExposures(
        np.asarray(exposures), stats[0], stats[1], stats[2], stats[3], stats[4], z, p
    )


def replace_rows(o: Observations, rows: np.ndarray) -> Observations:
    """Return some rows of observations, in their order."""
    names = ("star", "exposure", "detector", "x", "y", "mag", "mag_err", "flags")
    cut = {
        n: getattr(o, n)[rows] for n in (*names, "airmass", "seeing") if getattr(o, n) is not None
    }
    return replace(o, **cut)


@dataclass(frozen=True, eq=False)
class LooseCombination:
    """A combination of parameters that the data know badly.

    Parameters
    ----------
    sigma : float
        Standard error, magnitudes, of the effect of its leading parameter on detections.
    terms : tuple of str
        Terms that take part.
    text : str
        What it is.

    Examples
    --------
    >>> LooseCombination(0.002, ("star_flat",), "a slope").sigma
    0.002
    """

    sigma: float
    terms: tuple[str, ...]
    text: str


def loosest_combinations(solution: Solution, count: int = 3) -> list[LooseCombination]:
    """Return the combinations of parameters that are known worst, in words.

    Parameters
    ----------
    solution : Solution
        With its covariance.
    count : int
        How many.

    Returns
    -------
    list of LooseCombination
        The principal axes of the covariance of the parameters' effects in magnitudes, the loosest
        first; coefficients in the text are relative to the leading one, to one digit. Exact
        degeneracies are refused (or anchored) before solving; these are what comes nearest to one.

    Raises
    ------
    MissingDataError
        If the covariance was not kept.

    Examples
    --------
    >>> import numpy as np
    >>> from pogson.survey import (Detectors, Exposures, ExposureZeroPoint, Observations, Stars,
    ...     SurveyTables, calibrate)
    >>> rng, n = np.random.default_rng(2), 300
    >>> stars = Stars(np.arange(n), reference_mag=np.full(n, 18.0), reference_err=np.full(n, 0.02),
    ...     ra=rng.uniform(10, 11, n), dec=rng.uniform(0, 1, n))
    >>> obs = Observations.from_columns(SurveyTables(Exposures([11, 12, 13]), Detectors([0])),
    ...     stars, star=np.repeat(np.arange(n), 3), exposure=np.tile(np.arange(3), n), detector=0,
    ...     x=1.0, y=2.0, mag=-7.0 + 0.01 * rng.normal(size=3 * n), mag_err=0.01)
    >>> solution = calibrate(obs, [ExposureZeroPoint()])
    >>> loosest_combinations(solution, 1)[0].terms
    ('exposure_zero_point',)
    """
    c = solution.covariance
    scale = _effects(solution)
    known = np.flatnonzero(solution._known & (scale > 0))
    d = scale[known]
    if isinstance(c, DenseCovariance):
        values, vectors = _largest(c.matrix[np.ix_(known, known)] * np.outer(d, d), count)
    elif isinstance(c, SampledCovariance):
        draws = c.draws[known] * d[:, None] / np.sqrt(c.draws.shape[1])
        left, size, _ = np.linalg.svd(draws, full_matrices=False)
        values, vectors = size[:count][::-1] ** 2, left[:, :count][:, ::-1]
    else:
        raise MissingDataError("The covariance was not kept; solve with covariance=True.")
    out = []
    for value, vector in zip(values[::-1], vectors.T[::-1], strict=True):
        full = np.zeros(solution.parameters.size)
        top = vector[np.argmax(np.abs(vector))]
        full[known] = np.round(vector / top, 1)  # what is nearly the same reads as the same
        named = _describe(solution.model, full)
        text = named.text.removeprefix("adding ").split(" changes no residual")[0]
        sigma = float(np.sqrt(max(value, 0.0)) * abs(top))
        out.append(LooseCombination(sigma, named.terms, text))
    return out


def _largest(matrix: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Largest eigenvalues of a symmetric matrix, rising, and their vectors."""
    from scipy.linalg import eigh
    from scipy.sparse.linalg import eigsh

    n = matrix.shape[0]
    if n <= 1000:
        found = eigh(matrix, subset_by_index=[max(n - count, 0), n - 1])
    else:  # some products with the matrix instead of its reduction
        found = eigsh(matrix, count, which="LA", v0=np.ones(n))
    return np.asarray(found[0]), np.asarray(found[1])


def _effects(solution: Solution) -> np.ndarray:
    """Root mean square change of a detection's magnitude per unit of each parameter."""
    o, w, size = solution.observations, solution.weight, solution.parameters.size
    p = solution.model.design(o, solution.parameters)
    above, below = np.zeros(size), np.zeros(size)
    for t in range(p.width.size):
        on = np.flatnonzero((p.base[:, t] >= 0) & (w > 0))
        for j in range(int(p.width[t])):
            c = int(p.column[t])
            v = p.constant[t] if c < 0 else p.values[on, c + j]
            v = np.nan_to_num(v)
            above += np.bincount(p.base[on, t] + j, w[on] * v**2, size)
            below += np.bincount(p.base[on, t] + j, w[on], size)
    return np.sqrt(above / np.maximum(below, 1e-300))


@dataclass(frozen=True, eq=False)
class NightlyValues:
    """A parameter that every night has, by night.

    Parameters
    ----------
    term, parameter : str
        Which.
    night : numpy.ndarray of int, shape (n,)
        Night numbers.
    mjd : numpy.ndarray, shape (n,)
        Mean time of their exposures.
    value, error : numpy.ndarray, shape (n,)
        In ``unit``.
    unit : str
        Unit of the term's parameters.

    Examples
    --------
    >>> one = np.ones(1)
    >>> NightlyValues("airmass_extinction", "r;k", one, one, 0.1 * one, one, "mag/airmass").value
    array([0.1])
    """

    term: str
    parameter: str
    night: np.ndarray
    mjd: np.ndarray
    value: np.ndarray
    error: np.ndarray
    unit: str


def nightly_values(solution: Solution) -> list[NightlyValues]:
    """Return the parameters that belong to nights: extinction, aerosols, water, ozone, ...

    Parameters
    ----------
    solution : Solution
        With terms whose parameters are named after nights.

    Returns
    -------
    list of NightlyValues
        Empty if there is none; errors are NaN where the covariance was not kept.

    Examples
    --------
    >>> import numpy as np
    >>> from pogson.survey import (Detectors, Exposures, ExposureZeroPoint, Observations, Stars,
    ...     SurveyTables, calibrate)
    >>> rng, n = np.random.default_rng(2), 300
    >>> stars = Stars(np.arange(n), reference_mag=np.full(n, 18.0), reference_err=np.full(n, 0.02),
    ...     ra=rng.uniform(10, 11, n), dec=rng.uniform(0, 1, n))
    >>> obs = Observations.from_columns(SurveyTables(Exposures([11, 12, 13]), Detectors([0])),
    ...     stars, star=np.repeat(np.arange(n), 3), exposure=np.tile(np.arange(3), n), detector=0,
    ...     x=1.0, y=2.0, mag=-7.0 + 0.01 * rng.normal(size=3 * n), mag_err=0.01)
    >>> solution = calibrate(obs, [ExposureZeroPoint()])
    >>> nightly_values(solution)
    []
    """
    x = solution.model.tables.exposures
    pattern = re.compile(r"^night ?(\d+)[,;]?(.*)$")
    found: dict[tuple[str, str], list[tuple[int, float, float]]] = {}
    units = {}
    for t in solution.model.terms:
        part = solution.model.slice(t.name)
        names = t.parameter_names(solution.model.tables)
        matches = [pattern.match(name) for name in names]
        if not any(matches):
            continue
        error = np.full(len(names), np.nan)
        if solution.covariance is not None:
            error = solution.error(t.name)
        units[t.name] = t.unit
        for k, m in enumerate(matches):
            if m is not None:
                value = float(solution.parameters[part.start + k])
                found.setdefault((t.name, m[2]), []).append((int(m[1]), value, float(error[k])))
        if isinstance(t, Atmosphere):
            _name_atmosphere(found, units, t.name)
    out = []
    for (term, parameter), rows in found.items():
        night = np.array([r[0] for r in rows])
        mjd = np.array(
            [x.mjd[x.night == n].mean() if np.any(x.night == n) else np.nan for n in night]
        )
        values, errors = (np.array([r[k] for r in rows]) for k in (1, 2))
        unit = units.get(f"{term};{parameter}", units[term])
        out.append(NightlyValues(term, parameter, night, mjd, values, errors, unit))
    return out


_PHYSICAL = {
    "log_aerosol": ("aerosol depth", "at 5500 Angstrom"),
    "log_water": ("water vapour", "mm"),
    "ozone": ("ozone", "DU"),
    "aerosol_exponent": ("aerosol exponent", ""),
    "log_aerosol_slope": ("aerosol drift", "relative, per hour"),
    "log_water_slope": ("water drift", "relative, per hour"),
    "pressure": ("pressure", "hPa from the standard"),
}


def _name_atmosphere(
    found: dict[tuple[str, str], list[tuple[int, float, float]]], units: dict[str, str], term: str
) -> None:
    """Turn logarithms into quantities and give each parameter its own unit."""
    for kind, (name, unit) in _PHYSICAL.items():
        rows = found.pop((term, kind), None)
        if rows is None:
            continue
        if kind in ("log_aerosol", "log_water"):
            rows = [(n, float(np.exp(v)), float(np.exp(v)) * e) for n, v, e in rows]
        found[term, name] = rows
        units[f"{term};{name}"] = unit


def nightly_extinction(
    solution: Solution, term: str = "exposure_zero_point", *, least_range: float = 0.1
) -> list[NightlyValues]:
    """Return the extinction of each night that zero points of exposures imply.

    Where every exposure has a zero point of its own, the model needs no extinction; their slope
    with airmass tells it all the same.

    Parameters
    ----------
    solution : Solution
        With one zero point an exposure.
    term : str
        The term of these zero points.
    least_range : float
        Least range of airmass of a night.

    Returns
    -------
    list of NightlyValues
        One a filter, with the nights that have three photometric exposures or more over a range of
        airmass; empty if there is none. Errors are the larger of those of the zero points and of
        their scatter about the line.

    Examples
    --------
    >>> import numpy as np
    >>> from pogson.survey import (Detectors, Exposures, ExposureZeroPoint, Observations, Stars,
    ...     SurveyTables, calibrate)
    >>> rng, n, airmass = np.random.default_rng(2), 300, np.array([1.0, 1.3, 1.6])
    >>> obs = Observations.from_columns(
    ...     SurveyTables(Exposures([1, 2, 3], airmass=airmass), Detectors([0])),
    ...     Stars(np.arange(n), reference_mag=np.full(n, 18.0), reference_err=np.full(n, 0.02)),
    ...     star=np.repeat(np.arange(n), 3), exposure=np.tile(np.arange(3), n), detector=0, x=1.0,
    ...     y=2.0, mag=np.tile(-7.0 + 0.15 * airmass, n), mag_err=0.01)
    >>> solution = calibrate(obs, [ExposureZeroPoint()])
    >>> nightly_extinction(solution)[0].value.round(6)
    array([0.15])
    """
    x = solution.model.tables.exposures
    if term not in [t.name for t in solution.model.terms] or solution[term].size != len(x):
        return []
    part = solution.model.slice(term)
    good = (solution.information[part] > 0) & x.photometric & np.isfinite(x.airmass)
    out = []
    for f in np.unique(x.filter):
        rows = []
        for n in np.unique(x.night):
            on = np.flatnonzero(good & (x.filter == f) & (x.night == n))
            if on.size < 3 or np.ptp(x.airmass[on]) < least_range:
                continue
            rows.append((int(n), float(x.mjd[on].mean()), *_slope(solution, part.start, on)))
        if rows:
            night, mjd, value, error = (np.array(v) for v in zip(*rows, strict=True))
            out.append(NightlyValues(
                "slope of the zero points", x.filter_name(int(f)), night, mjd, value, error,
                "mag/airmass",
            ))  # fmt: skip
    return out


def _slope(solution: Solution, first: int, on: np.ndarray) -> tuple[float, float]:
    """Minus the slope of zero points with airmass, and its error."""
    airmass = solution.model.tables.exposures.airmass[on]
    a = np.stack([np.ones(on.size), airmass - airmass.mean()], axis=1)
    lever = np.linalg.pinv(a)[1]
    value = solution.parameters[first + on]
    left = value - a @ np.linalg.lstsq(a, value, rcond=None)[0]
    scatter = float(np.sum(left**2)) / (on.size - 2) * float(lever @ lever)
    known = 0.0
    if solution.covariance is not None:
        known = float(lever @ solution.covariance.block(first + on) @ lever)
    return -float(lever @ value), float(np.sqrt(max(scatter, known)))
