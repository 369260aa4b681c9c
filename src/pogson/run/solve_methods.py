"""How a global solution is made: in memory or from partitions, with an atmosphere or not."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.run.solve_atmosphere import solved_color_filters
from pogson.run.solve_config import SolveConfig

if TYPE_CHECKING:
    from pogson.survey import (
        Observations,
        Partition,
        PartitionedSolution,
        PhysicalSolution,
        Solution,
        SolveSettings,
        SurveyTables,
        Term,
    )

__all__ = ["Answer", "from_partitions", "in_memory", "solve_settings"]


@dataclass(frozen=True, eq=False)
class Answer:
    """A solution, however it was made.

    Parameters
    ----------
    solution : Solution
        The solution.
    exposure_chi2 : numpy.ndarray
        Chi2 per detection of each exposure.
    notes : tuple of str
        What a reader should know, in sentences.
    color : numpy.ndarray or None
        Colours of the stars, where the solution made them.
    whole : PartitionedSolution or None
        Where it was made from partitions.

    Examples
    --------
    >>> Answer.__name__
    'Answer'
    """

    solution: Solution
    exposure_chi2: np.ndarray
    notes: tuple[str, ...] = ()
    color: np.ndarray | None = None
    whole: PartitionedSolution | None = None


def solve_settings(config: SolveConfig) -> SolveSettings:
    """Return the settings of the solver that a configuration asks for.

    Parameters
    ----------
    config : SolveConfig
        Section ``[solve]``.

    Examples
    --------
    >>> solve_settings(SolveConfig(floor=0.003)).floor
    0.003
    """
    from pogson.survey import SolveSettings

    return SolveSettings(
        floor=config.floor, reference_floor=config.reference_floor,
        use_references=config.references, huber=config.huber, reject_sigma=config.reject_sigma,
        max_passes=config.max_passes, gauge=config.gauge, solver=config.solver,
        held_out=config.held_out, seed=config.seed,
    )  # fmt: skip


def _physical(config: SolveConfig) -> dict[str, Any] | None:
    """Return the settings of the atmosphere, None without one."""
    return next((t.settings for t in config.terms if t.kind == "atmosphere"), None)


def _words(found: PhysicalSolution) -> tuple[str, ...]:
    out = []
    if found.at_bounds:
        out.append(f"Atmosphere: {', '.join(found.at_bounds)} ran into a limit and is held there.")
    if found.blind:
        shown = ", ".join(found.blind[:6]) + (", ..." if len(found.blind) > 6 else "")
        out.append(
            f"Atmosphere: the bands and airmasses do not show {shown}; these stay at their priors."
        )
    return tuple(out)


def in_memory(
    o: Observations,
    objects: np.ndarray,
    terms: Sequence[Term],
    settings: SolveSettings,
    config: SolveConfig,
) -> Answer:
    """Solve observations in memory.

    Parameters
    ----------
    o : Observations
        Detections.
    objects : numpy.ndarray of int, shape (stars,)
        Object of each star, by which colours are made.
    terms, settings, config
        The model, and how to solve.
    """
    from pogson.survey import calibrate, calibrate_physical

    physical = _physical(config)
    if physical is None:
        solution = calibrate(o, terms, settings)
        return Answer(solution, solution.exposure_chi2())
    filters = solved_color_filters(physical, o.tables)
    known = np.asarray(o.stars.identifier)
    seen = o if filters is None else replace(o, stars=replace(o.stars, identifier=objects))
    found = calibrate_physical(seen, terms, settings, color_filters=filters)
    solution, color = found.solution, None
    if filters is not None:
        rows = solution.observations
        color = np.asarray(rows.stars.color)
        solution = replace(
            solution, observations=replace(rows, stars=replace(rows.stars, identifier=known))
        )
    return Answer(solution, solution.exposure_chi2(), _words(found), color)


def check_partitionable(config: SolveConfig) -> None:
    """Raise if a configuration cannot be solved from partitions.

    Parameters
    ----------
    config : SolveConfig
        Section ``[solve]``.

    Raises
    ------
    ConfigError
        If the colours are to be those of the solution.
    """
    from pogson.errors import ConfigError

    if (_physical(config) or {}).get("solved_colors") is not None:
        raise ConfigError(
            "[solve] atmosphere: solved_colors needs all stars in memory; give color_bandpasses "
            "and colours from the reference catalogue, or solve.partitions = 'never'."
        )


def from_partitions(
    partitions: Sequence[Partition],
    tables: SurveyTables,
    terms: Sequence[Term],
    settings: SolveSettings,
    config: SolveConfig,
    *,
    executor: Executor | None = None,
    results: Path | None = None,
    left_out: Sequence[int] = (),
) -> Answer:
    """Solve partitions of the stars on disk.

    Parameters
    ----------
    partitions : sequence of Partition
        The stars.
    tables : SurveyTables
        Exposures and detectors.
    terms, settings, config
        The model, and how to solve.
    executor : concurrent.futures.Executor, optional
        Where partitions are worked on.
    results : pathlib.Path, optional
        Folder for the stars.
    left_out : sequence of int
        Rows of exposures that take no part.

    Raises
    ------
    ConfigError
        If the colours are to be those of the solution.
    """
    from pogson.survey import calibrate_partitions, calibrate_physical_partitions

    options: dict[str, Any] = {"executor": executor, "results": results, "left_out": left_out}
    physical = _physical(config)
    if physical is None:
        whole = calibrate_partitions(partitions, terms, tables, settings, **options)
        return Answer(whole.solution, whole.exposure_chi2, whole=whole)
    check_partitionable(config)
    found, whole = calibrate_physical_partitions(partitions, terms, tables, settings, **options)
    return Answer(whole.solution, whole.exposure_chi2, _words(found), whole=whole)
