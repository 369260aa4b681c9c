"""The diagnostics of a global solution, and its star flats, as files beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pogson.run.solve_fit import Solved
    from pogson.survey import Solution
    from pogson.survey.star_flats import StarFlats
    from pogson.survey.survey_diagnostics import SurveyDiagnostics

__all__ = ["DIAGNOSTICS", "STAR_FLATS", "read_diagnostics", "write_diagnostics"]

DIAGNOSTICS, STAR_FLATS = "diagnostics.json", "star_flats.json"
_ROWS = 2_000_000  # detections that diagnostics look at


def write_diagnostics(root: Path, solved: Solved) -> list[Path]:
    """Write the diagnostics of a solution, and its star flats where the model has such terms.

    Parameters
    ----------
    root : pathlib.Path
        Folder of the solution.
    solved : Solved
        The solution. Where it was made from partitions, or is very large, some of its stars are
        looked at, with all their detections.

    Returns
    -------
    list of pathlib.Path
        The files.
    """
    from pogson.atomic import atomic_write_text
    from pogson.survey import RowFlag
    from pogson.survey.survey_diagnostics import diagnose

    solution = _with_rows(solved)
    content: Any = None
    if solution is not None:
        # who keeps stars aside for validation wants exposures predicted, too
        keeps = bool((solution.observations.flags & RowFlag.HELD_OUT.value).any())
        content = diagnose(solution, held_out=2 if keeps else 0).to_dict()
    atomic_write_text(root / DIAGNOSTICS, json.dumps(content, allow_nan=False))
    out = [root / DIAGNOSTICS]
    flats = star_flats(solved.solution)
    if flats is None:
        (root / STAR_FLATS).unlink(missing_ok=True)
        return out
    flats.write(root / STAR_FLATS)
    return [*out, root / STAR_FLATS]


def _with_rows(solved: Solved) -> Solution | None:
    """Return the solution with detections to look at, None if there are none."""
    from pogson.survey.diagnostics_parameters import replace_rows
    from pogson.survey.survey_diagnostics import solution_at

    s = solved.solution
    o = s.observations if len(s.observations) else solved.assembled.observations
    if not len(o):
        return None
    step = -(-len(o) // _ROWS)
    if step > 1:
        o = replace_rows(o, np.flatnonzero(o.star % step == 0))
    elif len(s.observations):
        return s
    return solution_at(s, o)


def star_flats(solution: Solution) -> StarFlats | None:
    """Return the star flats of a solution, None if no term describes the focal plane.

    Parameters
    ----------
    solution : Solution
        Of a survey.
    """
    from pogson.survey import DetectorZeroPoint, RadialFlat, StarFlat, TemplateFlat
    from pogson.survey.star_flats import derive_star_flats

    kinds = (DetectorZeroPoint, StarFlat, RadialFlat, TemplateFlat)
    names = [
        t.name for t in solution.model.terms
        if isinstance(t, kinds) and set(getattr(t, "by", ())) <= {"filter", "epoch"}
    ]  # fmt: skip
    if not names:
        return None
    found = derive_star_flats(solution, names)
    return found if len(found) else None


def read_diagnostics(root: Path) -> tuple[SurveyDiagnostics | None, StarFlats | None]:
    """Read what `write_diagnostics` wrote; None for what is not there.

    Parameters
    ----------
    root : pathlib.Path
        Folder of the solution.

    Raises
    ------
    FileFormatError
        If a file is not what its name says.
    """
    from pogson.survey.star_flats import StarFlats
    from pogson.survey.survey_diagnostics import SurveyDiagnostics

    found, flats = None, None
    if (root / DIAGNOSTICS).exists():
        content = json.loads((root / DIAGNOSTICS).read_text(encoding="utf-8"))
        found = None if content is None else SurveyDiagnostics.from_dict(content)
    if (root / STAR_FLATS).exists():
        flats = StarFlats.read(root / STAR_FLATS)
    return found, flats
