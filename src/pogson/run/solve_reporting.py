"""From the files of a global solution to what its report shows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pogson.report.solve_data import SolveReport
from pogson.run.solve_diagnostics import read_diagnostics

__all__ = ["solve_report"]


def solve_report(root: Path, title: str = "", words: Sequence[str] = ()) -> SolveReport:
    """Gather what a report shows of a solution.

    Parameters
    ----------
    root : pathlib.Path
        Folder of the solution.
    title : str
        Of a page of its own.
    words : sequence of str
        Sentences at its head.
    """
    facts = json.loads((root / "solution.json").read_text(encoding="utf-8"))
    diagnostics, flats = read_diagnostics(root)
    return SolveReport(
        title=title, words=tuple(words), facts=facts, sample=_columns(root / "sample.parquet"),
        exposures=_columns(root / "exposures.parquet"),
        parameters=_columns(root / "parameters.parquet"),
        stars=_columns(root / "stars.parquet"), diagnostics=diagnostics, flats=flats,
    )  # fmt: skip


def _columns(path: Path) -> dict[str, np.ndarray]:
    if not path.exists():
        return {}
    from pogson.formats import read_catalog

    table: Any = read_catalog(path)
    return {n: np.asarray(table[n]) for n in table.colnames}
