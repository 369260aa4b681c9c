"""What a report shows of an audit, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["AuditBand", "AuditReport", "AuditRows"]


@dataclass(frozen=True)
class AuditRows:
    """Injected sources, one row a source and exposure (or a mean over exposures).

    Parameters
    ----------
    columns : mapping of str to array
        ``band``, ``magnitude`` (injected), ``difference`` (mmag, out less in), ``pull``,
        ``isolated``, ``bright`` and ``for_pulls`` (bool); for exposures also ``exposure`` (index in
        the report's list), ``x``, ``y`` (pixels).

    Examples
    --------
    >>> AuditRows({"band": ["g", "r"], "pull": [0.1, 0.2]}).of_band("g")["pull"]
    array([0.1])
    """

    columns: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        arrays = {name: np.array(values) for name, values in self.columns.items()}
        for values in arrays.values():
            values.flags.writeable = False
        object.__setattr__(self, "columns", arrays)

    def __len__(self) -> int:
        return 0 if not self.columns else int(np.size(self.columns["band"]))

    def __getitem__(self, name: str) -> np.ndarray:
        return np.asarray(self.columns[name])

    def of_band(self, band: str) -> AuditRows:
        """Return the rows of one band."""
        if not len(self):
            return self
        mine = self["band"] == band
        return AuditRows({name: values[mine] for name, values in self.columns.items()})


@dataclass(frozen=True)
class AuditBand:
    """Results of one band.

    Parameters
    ----------
    band : str
        The band.
    exposures, stack : mapping
        As in ``audit.json``: of single exposures, and of means over visits (empty without).

    Examples
    --------
    >>> AuditBand("g", {"pulls": {"rms": 1.0}}).number("exposures", "pulls", "rms")
    1.0
    """

    band: str
    exposures: Mapping[str, Any] = field(default_factory=dict)
    stack: Mapping[str, Any] = field(default_factory=dict)

    def number(self, group: str, *path: str) -> float:
        """Return a number, NaN where it is not known."""
        here: Any = self.exposures if group == "exposures" else self.stack
        for name in path:
            here = here.get(name) if isinstance(here, Mapping) else None
        return float("nan") if here is None else float(here)

    def curve(self, group: str, *path: str) -> dict[str, np.ndarray]:
        """Return the arrays of a binned curve, empty where there is none."""
        here: Any = self.exposures if group == "exposures" else self.stack
        for name in path:
            here = here.get(name) if isinstance(here, Mapping) else None
        if not isinstance(here, Mapping):
            return {}
        return {
            name: np.array([np.nan if v is None else v for v in values], float)
            for name, values in here.items()
        }


@dataclass(frozen=True)
class AuditReport:
    """The audit of a run: injected sources recovered.

    Parameters
    ----------
    bands : tuple of AuditBand
    exposures, stack : AuditRows
        Single sources.
    checks : tuple of mapping
        The verdict: ``band``, ``of``, ``name``, ``value``, ``error``, ``limit``, ``passed``,
        ``reason``.
    facts : mapping of str to str
        What was injected and how, in words.

    Examples
    --------
    >>> AuditReport(checks=({"passed": False},)).passed
    False
    """

    bands: tuple[AuditBand, ...] = ()
    exposures: AuditRows = field(default_factory=AuditRows)
    stack: AuditRows = field(default_factory=AuditRows)
    checks: tuple[Mapping[str, Any], ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether no limit is broken."""
        return all(bool(c["passed"]) for c in self.checks)
