"""The global solution with a physical atmosphere: linearised again and again until it settles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import CalibrationError, ConfigError, PogsonValueError
from pogson.survey.atmosphere_term import Atmosphere
from pogson.survey.chromatic import StarSeds
from pogson.survey.likelihood import SolveSettings, calibrate
from pogson.survey.observations import Observations, Stars, SurveyTables
from pogson.survey.solution import Solution
from pogson.survey.terms import Model, Term

if TYPE_CHECKING:
    from pogson.survey.out_of_core import PartitionedSolution
    from pogson.survey.partition_files import Partition

__all__ = [
    "PhysicalSolution",
    "blind_parameters",
    "calibrate_physical",
    "calibrate_physical_partitions",
]


@dataclass(frozen=True, eq=False)
class PhysicalSolution:
    """A solution with a physical atmosphere, and what was done to reach it.

    Parameters
    ----------
    solution : Solution
        The solution; everything else that a solution does is there.
    term : str
        Name of the atmosphere term.
    rounds : int
        Times the whole problem was solved: for colours and for bounds.
    color_change : float
        Largest change of a star's colour in the last round, magnitudes; 0 if colours were given.
    at_bounds : tuple of str
        Parameters that ran into a limit and are held there.
    blind : tuple of str
        Parameters that these observations cannot see (see `blind_parameters`).

    Examples
    --------
    >>> PhysicalSolution.__name__
    'PhysicalSolution'
    """

    solution: Solution
    term: str
    rounds: int
    color_change: float
    at_bounds: tuple[str, ...]
    blind: tuple[str, ...]

    def nights(self) -> dict[str, np.ndarray]:
        """Return the fitted parameters a night and their errors.

        Returns
        -------
        dict of str to numpy.ndarray, shape (nights,)
            Each parameter, and its standard error as ``name_err`` where the covariance was kept.
        """
        term = _atmosphere(self.solution.model)
        width = len(term.fit)
        values = self.solution[self.term].reshape(-1, width)
        out = {p: values[:, j].copy() for j, p in enumerate(term.fit)}
        if self.solution.covariance is not None:
            errors = self.solution.error(self.term).reshape(-1, width)
            out |= {f"{p}_err": errors[:, j].copy() for j, p in enumerate(term.fit)}
        return out

    def exposures(self) -> dict[str, np.ndarray]:
        """Return the atmosphere of each exposure: pressure, ozone, aerosol, exponent, water."""
        term = _atmosphere(self.solution.model)
        exposures = self.solution.model.tables.exposures
        state = term.state(exposures, self.solution[self.term])
        names = ("pressure", "ozone", "aerosol", "aerosol_exponent", "water")
        return {n: np.array(np.broadcast_to(getattr(state, n), len(exposures))) for n in names}

    def __repr__(self) -> str:
        return f"<PhysicalSolution: {self.rounds} rounds, {self.solution!r}>"


def blind_parameters(model: Model, *, threshold: float = 2e-5) -> tuple[str, ...]:
    """Name atmosphere parameters that the filters, airmasses and times of a survey cannot show.

    Parameters
    ----------
    model : Model
        Model with an `Atmosphere`.
    threshold : float
        Magnitudes: a parameter is blind if one sigma of its prior (or its bounds' half width)
        changes the difference between any two exposures of its night by less than this.

    Returns
    -------
    tuple of str
        Names. They take part, but stay at their priors.

    Examples
    --------
    >>> from pogson.sed import Bandpass, stellar_template
    >>> from pogson.survey import Detectors, Exposures, ExposureZeroPoint, SurveyTables
    >>> from pogson.survey.chromatic import ColorSeds
    >>> g = Bandpass("g", [4000.0, 4100.0, 5300.0, 5400.0], [0.0, 1.0, 1.0, 0.0])
    >>> i = Bandpass("i", [7000.0, 7100.0, 8300.0, 8400.0], [0.0, 1.0, 1.0, 0.0])
    >>> seds = ColorSeds.from_spectra([stellar_template(t) for t in (4500, 8000)], [g],
    ...                               color=(g, i))
    >>> tables = SurveyTables(Exposures([1, 2], airmass=[1.0, 1.5]), Detectors([0]))
    >>> term = Atmosphere([g], seds, fit=("log_aerosol", "log_water"))
    >>> blind_parameters(Model([term], tables))
    ('atmosphere[night0;log_water]',)
    """
    term = _atmosphere(model)
    exposures, first = model.tables.exposures, model.slice(term.name).start
    start = term.start(model.tables)
    flux, slope, _ = term.integrals(exposures, start)
    by = 1.0857 * np.abs(slope[:, :, 0] / flux[:, :, 0, None]).mean(axis=1)
    sigma = term.prior(model.tables)[1]
    low, high = term.limits(model.tables)
    reach = np.minimum(sigma, 0.5 * (high - low))
    out, width = [], len(term.fit)
    for night in range(exposures.night_count):
        rows = exposures.night == night
        for j in range(width):
            k = night * width + j
            if k in term.held:
                continue
            effect = by[rows, j].max(initial=0.0) * reach[k]
            if effect < threshold:
                out.append(model.parameter_name(first + k))
    return tuple(out)


def _atmosphere(model: Model) -> Atmosphere:
    found = [t for t in model.terms if isinstance(t, Atmosphere)]
    if len(found) != 1:
        raise ConfigError(
            f"The model has {len(found)} Atmosphere terms; a physical solution needs one."
        )
    return found[0]


def _with(model: Model, term: Atmosphere) -> Model:
    terms = [term if isinstance(t, Atmosphere) else t for t in model.terms]
    return Model(terms, model.tables, model.extra)


def _colors(stars: Stars, mag: np.ndarray, filters: tuple[int, int], known: bool) -> np.ndarray:
    """Return colours of the stars from solved magnitudes; the old ones where one band is lacking.

    Without references each band's zero is free; then the median colour stays what it was.
    """
    objects, row = np.unique(stars.identifier, return_inverse=True)
    sides = []
    for f in filters:
        use = (stars.filter == f) & np.isfinite(mag)
        value = np.full(objects.size, np.nan)
        value[row[use]] = mag[use]
        sides.append(value)
    new = (sides[0] - sides[1])[row]
    both = np.isfinite(new) & np.isfinite(stars.color)
    if not known and np.any(both):
        new = new + np.median(stars.color[both] - new[both])
    return np.where(np.isfinite(new), new, stars.color)


def calibrate_physical(
    observations: Observations,
    model: Model | Sequence[Term],
    settings: SolveSettings | None = None,
    *,
    color_filters: tuple[int, int] | None = None,
    rounds: int = 8,
    color_tolerance: float = 0.002,
    **changes: Any,
) -> PhysicalSolution:
    """Solve for zero points and a physical atmosphere together.

    Parameters
    ----------
    observations : Observations
        Detections. The stars have a colour (for `ColorSeds`).
    model : Model or sequence of Term
        Terms, one of them an `Atmosphere`.
    settings : SolveSettings, optional
        How to solve.
    color_filters : tuple of int, optional
        Blue and red filter (rows) whose solved magnitudes make the colours: the stars' spectra are
        then improved round by round. By default colours stay as given.
    rounds : int
        Largest number of rounds.
    color_tolerance : float
        Rounds end when no colour changes by more, magnitudes.
    **changes
        Single settings by name.

    Returns
    -------
    PhysicalSolution

    Raises
    ------
    CalibrationError
        If combinations of parameters are undetermined (named before anything is solved), or
        colours or bounds do not settle.
    ConfigError
        If the model has no atmosphere, or several.

    Notes
    -----
    Within a round `calibrate` repeats Gauss-Newton steps until the step promises no more. A
    parameter that ends outside its limits is held at the limit and the round is done again.

    Examples
    --------
    >>> from pogson.survey import Detectors, Exposures, GreyCloud, SurveyTables
    >>> from pogson.sed import Bandpass, stellar_template
    >>> from pogson.survey.chromatic import ColorSeds
    >>> g = Bandpass("g", [4000.0, 4100.0, 5300.0, 5400.0], [0.0, 1.0, 1.0, 0.0])
    >>> i = Bandpass("i", [7000.0, 7100.0, 8300.0, 8400.0], [0.0, 1.0, 1.0, 0.0])
    >>> seds = ColorSeds.from_spectra([stellar_template(t) for t in (4500, 8000)], [g],
    ...                               color=(g, i))
    >>> term = Atmosphere([g], seds, fit=("log_aerosol",), standard_airmass=1.0)
    >>> tables = SurveyTables(Exposures([1, 2, 3], airmass=[1.0, 1.4, 1.8]), Detectors([0]))
    >>> star, exposure = np.repeat(np.arange(50), 3), np.tile(np.arange(3), 50)
    >>> obs = Observations.from_columns(tables, Stars(np.arange(50), filter=0, color=0.5),
    ...     star=star, exposure=exposure, detector=0, x=0, y=0, mag=-10.0, mag_err=0.01)
    >>> hazy = Observations.from_columns(tables, obs.stars, star=star, exposure=exposure,
    ...     detector=0, x=0, y=0, mag_err=0.01,
    ...     mag=-10.0 + term.evaluate(obs, np.log([0.06])))
    >>> found = calibrate_physical(hazy, [term], gauge="anchor")
    >>> bool(abs(np.exp(found.nights()["log_aerosol"][0]) - 0.06) < 0.005)
    True
    """
    s = replace(settings or SolveSettings(), **changes)
    if not isinstance(model, Model):
        model = Model(tuple(model), observations.tables)
    if color_filters is not None and observations.stars.filter.min(initial=0) < 0:
        raise PogsonValueError("color_filters needs the filter of every star; give Stars(filter=).")
    known = s.use_references and bool(observations.stars.has_reference.any())
    now = observations

    def solve(with_term: Model) -> Solution:
        return calibrate(now, with_term, s)

    def recolor(solution: Solution) -> float:
        nonlocal now
        if color_filters is None:
            return 0.0
        old = solution.observations.stars.color
        color = _colors(now.stars, solution.stars.mag, color_filters, known)
        now = replace(now, stars=replace(now.stars, color=color))
        return float(np.nanmax(np.abs(color - old), initial=0.0))

    return _settle(model, solve, recolor, rounds, color_tolerance)


def _settle(
    model: Model,
    solve: Callable[[Model], Solution],
    recolor: Callable[[Solution], float],
    rounds: int,
    tolerance: float,
) -> PhysicalSolution:
    """Solve again and again until colours stay and no parameter is outside its limits."""
    term = _atmosphere(model)
    blind = blind_parameters(model)
    low, high = term.limits(model.tables)
    change, done = 0.0, 0
    while done < rounds:
        done += 1
        solution = solve(_with(model, term))
        p = solution[term.name]
        free = ~np.isin(np.arange(p.size), list(term.held))
        outside = np.flatnonzero(free & ((p < low) | (p > high)))
        held = {**term.held, **{int(i): float(np.clip(p[i], low[i], high[i])) for i in outside}}
        term = replace(term, held=held, initial=np.clip(p, low, high))
        change = recolor(solution)
        if not outside.size and change <= tolerance:
            break
    else:
        raise CalibrationError(
            f"Colours (last change {change:.4f} mag) or bounds ({len(term.held)} parameters held) "
            f"did not settle in {rounds} rounds."
        )
    first = model.slice(term.name).start
    names = tuple(model.parameter_name(first + i) for i in sorted(term.held))
    return PhysicalSolution(solution, term.name, done, change, names, blind)


def calibrate_physical_partitions(
    partitions: Sequence[Partition],
    model: Model | Sequence[Term],
    tables: SurveyTables,
    settings: SolveSettings | None = None,
    *,
    rounds: int = 8,
    **options: Any,
) -> tuple[PhysicalSolution, PartitionedSolution]:
    """Solve for zero points and a physical atmosphere from partitions of the stars on disk.

    Parameters
    ----------
    partitions, model, tables, settings
        As in `calibrate_partitions`; one of the terms is an `Atmosphere` whose spectra follow from
        the stars' colours (`ColorSeds`).
    rounds : int
        Largest number of rounds, for bounds.
    **options
        Of `calibrate_partitions`: ``executor``, ``results``, ``left_out`` and single settings.

    Returns
    -------
    physical : PhysicalSolution
        The atmosphere; its solution has no rows.
    whole : PartitionedSolution
        Of the last round.

    Raises
    ------
    CalibrationError
        As `calibrate_partitions`; or if bounds do not settle.
    ConfigError
        If the model has no atmosphere, or spectra that are given star by star.

    Examples
    --------
    >>> from pogson.survey import Detectors, Exposures, ExposureZeroPoint, SurveyTables
    >>> tables = SurveyTables(Exposures([1]), Detectors([0]))
    >>> calibrate_physical_partitions([], [ExposureZeroPoint()], tables)
    Traceback (most recent call last):
      ...
    pogson.errors.ConfigError: The model has 0 Atmosphere terms; a physical solution needs one.
    """
    from pogson.survey.out_of_core import calibrate_partitions

    if not isinstance(model, Model):
        model = Model(tuple(model), tables)
    if isinstance(_atmosphere(model).seds, StarSeds):
        raise ConfigError(
            "Spectra given star by star belong to one table of stars; for partitions give "
            "ColorSeds, or solve in memory."
        )
    last: list[PartitionedSolution] = []

    def solve(with_term: Model) -> Solution:
        last[:] = [calibrate_partitions(partitions, with_term, tables, settings, **options)]
        return last[0].solution

    return _settle(model, solve, lambda _: 0.0, rounds, 0.0), last[0]
