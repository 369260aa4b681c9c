"""The global solution itself: weak exposures, degeneracies by name, colours, clouds, the fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import ConfigError, choices
from pogson.run.config import ReferenceConfig
from pogson.run.solve_atmosphere import color_pairs
from pogson.run.solve_config import SolveConfig, build_terms
from pogson.run.solve_judgement import connection_words, strange_exposures
from pogson.run.solve_methods import Answer, in_memory, solve_settings
from pogson.run.solve_stars import Assembled

if TYPE_CHECKING:
    from pogson.run.solve_store import DetectionStore
    from pogson.survey import Connections, Observations, Solution, SurveyTables, Term

__all__ = [
    "Solved",
    "check_inputs",
    "choose_photometric",
    "fit_survey",
    "refuse_degenerate",
    "weak_exposures",
]

SEARCHED = 10_000  # parameters up to which combinations that nothing determines are searched for
_NEEDS = {"airmass_extinction": "airmass", "atmosphere": "airmass", "seeing": "seeing"}


@dataclass(frozen=True, eq=False)
class Solved:
    """A solution and what led to it.

    Parameters
    ----------
    assembled : Assembled
        Observations and where they came from.
    solution : Solution
        The solution; without rows if it was made from partitions.
    left_out : dict
        Row of an exposure -> why it has no calibration.
    notes : tuple of str
        What a reader should know, in sentences.
    exposure_chi2 : numpy.ndarray
        Chi2 per detection of each exposure.
    partitions : int
        Number of partitions on disk; 0: solved in memory.
    without_color : numpy.ndarray of int
        Stars that had no colour and were given the pivot.
    store : DetectionStore, optional
        What is known of the detections that are on disk; then the observations of ``assembled`` are
        some of the stars.
    suspect_probability : float
        Chance of a star's chi2 below which it is suspect.

    Examples
    --------
    >>> Solved.__name__
    'Solved'
    """

    assembled: Assembled
    solution: Solution
    left_out: dict[int, str]
    notes: tuple[str, ...]
    exposure_chi2: np.ndarray
    partitions: int = 0
    without_color: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    store: DetectionStore | None = None
    suspect_probability: float = 1e-6


def fit_survey(
    assembled: Assembled,
    config: SolveConfig,
    folder: Path,
    *,
    reference: ReferenceConfig | None = None,
) -> Solved:
    """Solve for one calibration of all exposures as a configuration asks.

    Parameters
    ----------
    assembled : Assembled
        From `pogson.run.solve_stars.assemble`.
    config : SolveConfig
        Section ``[solve]``.
    folder : pathlib.Path
        Where relative paths of the configuration start.
    reference : ReferenceConfig, optional
        For the bands of colours.

    Returns
    -------
    Solved

    Raises
    ------
    ConfigError
        If the data cannot determine the terms chosen (each combination is named), or a term lacks
        an input.
    CalibrationError
        If nothing can be solved.
    """
    o = assembled.observations
    stars, remarks = _several_colors(assembled, config)
    terms = build_terms(config, folder, o.tables, stars)
    check_inputs(config, o.tables, assembled.exposure_names)
    needs_color = any(
        t.kind in ("color_slope", "color_flat") or (t.kind == "atmosphere" and stars is None)
        for t in config.terms
    )
    missing = np.zeros(0, np.int64)
    if needs_color:
        o, missing = _fill_colors(o, config, reference)
    o, left_out, notes = _without_weak(o, config, terms)
    notes += remarks
    _name_degeneracies(o, terms, config, reference)

    def solve(observations: Observations) -> Answer:
        return in_memory(observations, assembled.object, terms, solve_settings(config), config)

    answer = solve(o)
    per_detector = any(getattr(t, "per_detector", False) for t in terms if _is_color(t))
    if missing.size and per_detector:
        better = _solved_colors(answer.solution, assembled, missing, reference, terms)
        if better is not None:
            count = missing.size
            o = replace(o, stars=replace(o.stars, color=better))
            answer = solve(o)
            missing = missing[:0]
            notes.append(
                f"{count} stars have no colour in the reference catalogue; theirs is that "
                "of the solution itself."
            )
    if config.photometric_threshold is not None:

        def again(tables: SurveyTables) -> Answer:
            nonlocal o
            o = replace(o, tables=tables)
            return solve(o)

        answer, said = choose_photometric(o.tables, answer, terms, config, again)
        notes.append(said)
    if answer.color is not None:
        o = replace(o, stars=replace(o.stars, color=answer.color))
        missing = missing[:0]
    solution = answer.solution
    notes += answer.notes
    notes += connection_words(solution.connections, o.tables.exposures)
    notes += strange_exposures(answer.exposure_chi2, solution, o)
    notes += not_searched(config, solution.parameters.size)
    if not solution.converged:
        notes.append(f"Rejection and floors did not settle in {solution.passes} passes.")
    return Solved(
        replace(assembled, observations=o), solution, left_out, tuple(notes),
        answer.exposure_chi2, 0, missing, suspect_probability=config.suspect_probability,
    )  # fmt: skip


def _several_colors(
    assembled: Assembled, config: SolveConfig
) -> tuple[tuple[np.ndarray, np.ndarray] | None, list[str]]:
    """Return filters and colours of stars whose spectra follow from several, and what to say."""
    pairs = color_pairs(config.terms)
    if not pairs:
        return None, []
    stars = assembled.observations.stars
    given = assembled.colors
    known = np.zeros(len(stars), bool) if given is None else np.isfinite(given).all(axis=1)
    if given is None or not known.any():
        words = ", ".join(f"{a}-{b}" for a, b in pairs)
        raise ConfigError(
            f"[solve] The atmosphere asks for the colours {words}, but no star of the reference "
            "catalogue has them all: name its bands."
        )
    colors = np.where(known[:, None], given, np.median(given[known], axis=0))
    missing = int(np.count_nonzero(~known))
    said = f"{missing} stars lack a colour in the reference catalogue; theirs are the median ones."
    return (np.asarray(stars.filter), colors), [said] if missing else []


def _is_color(term: Term) -> bool:
    from pogson.survey import ColorSlope

    return isinstance(term, ColorSlope)


def check_inputs(config: SolveConfig, tables: SurveyTables, names: Sequence[str]) -> None:
    """Say which exposures lack a number that a term needs.

    Parameters
    ----------
    config : SolveConfig
        The terms.
    tables : SurveyTables
        Exposures.
    names : sequence of str
        What the tables of sources call them.

    Raises
    ------
    ConfigError
        Naming exposures.
    """
    for term in config.terms:
        name = _NEEDS.get(term.kind)
        if name is None:
            continue
        lacking = np.flatnonzero(~np.isfinite(getattr(tables.exposures, name)))
        if lacking.size:
            some = ", ".join(names[i] for i in lacking[:5])
            raise ConfigError(
                f"[solve] The term {term.kind!r} needs the {name} of every exposure; "
                f"{lacking.size} have none: {some}. Give it in the tables, or leave the term out."
            )


def weak_exposures(
    connect: Callable[[Sequence[int]], Connections | None],
    exposures: Any,
    least: int,
    exclude: Sequence[str] = (),
) -> dict[int, str]:
    """Find exposures that too few stars tie to the others or to references, one after the other.

    Parameters
    ----------
    connect : callable
        From the rows of exposures left out to how the others hang together, None: nothing does.
    exposures : Exposures
        Their names.
    least : int
        Least number of stars.
    exclude : sequence of str
        Names of exposures that are to take no part.

    Returns
    -------
    dict
        Row -> why it is left out.

    Raises
    ------
    ConfigError
        If there is no exposure of a name.
    """
    left_out = _excluded(exclude, exposures)
    for _ in range(5):
        links = connect(list(left_out))
        if links is None:
            break
        weak = [int(i) for i in np.flatnonzero(links.shared < least) if int(i) not in left_out]
        if not weak or len(left_out) + len(weak) == len(exposures):
            break
        for i in weak:
            n = int(links.shared[i])
            left_out[i] = (
                f"Exposure {exposures.labels[i]} is tied to the others and to references by "
                f"{n} star{'' if n == 1 else 's'}, fewer than solve.min_ties = {least}."
            )
    return left_out


def _excluded(names: Sequence[str], exposures: Any) -> dict[int, str]:
    rows = {name: row for row, name in enumerate(exposures.labels)}
    unknown = [n for n in names if n not in rows]
    if unknown:
        some = ", ".join(list(rows)[:5]) + (", ..." if len(rows) > 5 else "")
        raise ConfigError(
            f"[solve] exclude names {choices(unknown)}; the exposures are called {some}."
        )
    return {rows[n]: f"Exposure {n} is named in solve.exclude." for n in names}


def _without_weak(
    o: Observations, config: SolveConfig, terms: Sequence[Term]
) -> tuple[Observations, dict[int, str], list[str]]:
    """Leave out exposures that too few stars tie."""
    from pogson.survey import Model, RowFlag, Weighting
    from pogson.survey.degeneracy import connections
    from pogson.survey.normal import prepare

    model = Model(tuple(terms), o.tables)
    weighting = Weighting(use_references=config.references)

    def connect(left_out: Sequence[int]) -> Connections | None:
        nonlocal o
        flags = np.array(o.flags)
        flags[np.isin(o.exposure, left_out)] |= RowFlag.MISSING_INPUT.value
        o = o.with_flags(flags) if left_out else o
        p = prepare(model, o, model.start(), weighting)
        return connections(p, o) if np.any(p.weight > 0) else None

    left_out = weak_exposures(connect, o.tables.exposures, config.min_ties, config.exclude)
    if left_out:
        connect(list(left_out))
    return o, left_out, list(left_out.values())


def not_searched(config: SolveConfig, parameters: int) -> list[str]:
    """Say that a model was too large to search it for what the data do not determine.

    Parameters
    ----------
    config : SolveConfig
        Whether it should have been.
    parameters : int
        Number of parameters.
    """
    if config.gauge != "refuse" or parameters <= SEARCHED:
        return []
    return [
        f"{parameters} parameters are too many to search for combinations that the data do not "
        "determine: try the terms on a part of the exposures first."
    ]


def no_colors(stars: int, reference: ReferenceConfig | None) -> str:
    """Return the message for a colour term without any colour.

    Parameters
    ----------
    stars : int
        Number of stars.
    reference : ReferenceConfig or None
        Section ``[reference]``.
    """
    out = "[solve] A colour term is asked for, but no star has a colour: "
    if reference is None or reference.color is None:
        return out + "give reference.color = ['g', 'r'] and a catalogue that has these bands."
    return out + (
        f"none of the {stars} stars has a reference with {' and '.join(reference.color)} within "
        f"reference.match_radius = {reference.match_radius:g} arcsec. Does the catalogue cover "
        "this part of the sky?"
    )


def _fill_colors(
    o: Observations, config: SolveConfig, reference: ReferenceConfig | None
) -> tuple[Observations, np.ndarray]:
    """Give stars of unknown colour the pivot, which leaves their own magnitude natural."""
    color = np.array(o.stars.color)
    missing = np.flatnonzero(~np.isfinite(color))
    if missing.size == color.size:
        raise ConfigError(no_colors(color.size, reference))
    pivots = [
        float(t.settings.get("pivot", 0.0))
        for t in config.terms
        if t.kind in ("color_slope", "color_flat")
    ]
    color[missing] = pivots[0] if pivots else float(np.nanmedian(color))
    return replace(o, stars=replace(o.stars, color=color)), missing


def _name_degeneracies(
    o: Observations,
    terms: Sequence[Term],
    config: SolveConfig,
    reference: ReferenceConfig | None,
) -> None:
    from pogson.survey import Model, Weighting, find_degeneracies

    model = Model(tuple(terms), o.tables)
    if config.gauge != "refuse" or model.size > SEARCHED:
        return
    found = find_degeneracies(model, o, weighting=Weighting(use_references=config.references))
    refuse_degenerate(
        found, config.references and bool(o.stars.has_reference.any()),
        catalog=config.references and reference is not None,
    )  # fmt: skip


def refuse_degenerate(found: Sequence[Any], references: bool, *, catalog: bool = False) -> None:
    """Refuse terms that the data cannot tell apart.

    Parameters
    ----------
    found : sequence of Degeneracy
        Combinations that nothing determines.
    references : bool
        Whether there are references.
    catalog : bool
        Whether there is a catalogue to take them from.

    Raises
    ------
    ConfigError
        If there are any, naming them.
    """
    if not found:
        return
    lines = "".join(f"\n  {k}. {d.text}" for k, d in enumerate(found, start=1))
    why = "No star is in the reference catalogue" if catalog else "There are no references"
    without = "" if references else (
        f" {why}: choose solve.gauge = 'anchor' for a relative solution."
    )  # fmt: skip
    raise ConfigError(
        f"[solve] The data do not determine {len(found)} combination"
        f"{'' if len(found) == 1 else 's'} of the terms chosen:{lines}\n"
        "Remove one of the terms named, give it prior_sigma, or choose solve.gauge = 'anchor', "
        f"which keeps each combination at its start.{without}"
    )


def _solved_colors(
    solution: Solution,
    assembled: Assembled,
    missing: np.ndarray,
    reference: ReferenceConfig | None,
    terms: Sequence[Term],
) -> np.ndarray | None:
    """Return colours with those missing taken from the solved magnitudes of both bands."""
    names = None if reference is None else reference.color
    if names is None:
        return None
    bands = solution.model.tables.exposures.filter_names
    theirs = {} if reference is None else reference.bands
    rows = [next((i for i, b in enumerate(bands) if theirs.get(b, b) == n), -1) for n in names]
    if min(rows) < 0:
        return None
    term = next(t for t in terms if _is_color(t))
    pivot = float(getattr(term, "pivot", 0.0))
    stars, objects = solution.observations.stars, assembled.object
    mag = np.full((int(objects.max()) + 1, len(bands)), np.nan)
    mag[objects, stars.filter] = solution.stars.mag
    natural = (mag[:, rows[0]] - mag[:, rows[1]])[objects]
    labels = term.parameter_names(solution.model.tables)
    slope = [
        float(np.mean([v for v, t in zip(solution[term.name], labels, strict=True)
                       if t.split(";")[0].split(",")[0] == bands[r] and t.endswith("c1")] or [0.0]))
        for r in rows
    ]  # fmt: skip
    change = slope[0] - slope[1]
    color = np.array(stars.color)
    found = (natural + change * pivot) / (1.0 + change)
    good = missing[np.isfinite(found[missing])]
    color[good] = found[good]
    return color


def choose_photometric(
    tables: SurveyTables,
    answer: Answer,
    terms: Sequence[Term],
    config: SolveConfig,
    again: Callable[[SurveyTables], Answer],
) -> tuple[Answer, str]:
    """Choose the photometric exposures by their clouds and solve again, until they stay.

    Parameters
    ----------
    tables : SurveyTables
        Exposures and detectors.
    answer : Answer
        Of the first solution.
    terms : sequence of Term
        One of them a `GreyCloud`.
    config : SolveConfig
        With a threshold.
    again : callable
        Solves with other tables.

    Raises
    ------
    ConfigError
        If there is no cloud term.
    """
    from pogson.survey import GreyCloud

    term = next((t for t in terms if isinstance(t, GreyCloud)), None)
    if term is None:
        raise ConfigError(
            "[solve] photometric_threshold chooses exposures by the term grey_cloud, which is not "
            "among the terms."
        )
    limit = float(config.photometric_threshold or 0.0)
    n = 0
    for _ in range(10):
        # exposures that took no part stay at their prior, which says nothing of their clouds
        seen = answer.solution.information[answer.solution.model.slice(term.name)] > 0
        clouds = np.where(seen, answer.solution[term.name], np.nan)
        now = term.photometric(tables, clouds, limit)
        n = int(now.sum())
        if n == 0 or np.array_equal(now, tables.exposures.photometric):
            break
        tables = replace(tables, exposures=replace(tables.exposures, photometric=now))
        answer = again(tables)
    said = (
        f"{n} of {len(tables.exposures)} exposures are photometric (clouds within "
        f"{limit:g} mag of the clear end of their night)."
    )
    return answer, said
