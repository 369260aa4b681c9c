"""A global solution in numbers for ``summary.json`` and in sentences."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["solve_headlines", "solve_summary"]

_KEYS = (
    "exposures", "detectors", "stars", "detections", "references", "references_rejected",
    "parameters", "terms", "chi2", "degrees_of_freedom", "floors", "reference_floor", "passes",
    "converged", "gauges", "partitions", "notes", "left_out", "flags", "missing_input", "failed",
    "reference_regions", "n_suspects",
)  # fmt: skip


def solve_summary(root: Path) -> dict[str, Any] | None:
    """Return the main numbers of the solution of a run, None if there is none.

    Parameters
    ----------
    root : pathlib.Path
        Folder of the run, or of the solution.
    """
    for path in (root / "solve" / "solution.json", root / "solution.json"):
        if path.exists():
            facts = json.loads(path.read_text(encoding="utf-8"))
            out = {k: facts.get(k) for k in _KEYS}
            found = facts.get("validation")
            out["validation"] = found and {k: found[k] for k in ("stars", "p_value", "rms")}
            return out
    return None


def solve_headlines(summary: Mapping[str, Any] | None) -> list[str]:
    """Return a solution in a few sentences.

    Parameters
    ----------
    summary : mapping or None
        From `solve_summary`.

    Examples
    --------
    >>> solve_headlines(None)
    []
    """
    if not summary:
        return []
    s = summary
    floors = ", ".join(f"{1e3 * f:.1f}" for f in s["floors"])
    tied = f"{s['references']} references" if s["references"] else "no references (relative)"
    out = [
        f"One solution: {s['detections']} detections of {s['stars']} stars and {tied} determine "
        f"{s['parameters']} parameters; chi2 {s['chi2']:.1f} with {s['degrees_of_freedom']} "
        f"degrees of freedom; scatter beyond the noise {floors} mmag, of the references "
        f"{1e3 * s['reference_floor']:.1f} mmag."
    ]
    if s.get("validation"):
        v = s["validation"]
        out.append(
            f"Held-out stars: {v['stars']} predicted detections, pulls of rms {v['rms']:.3f}, PIT "
            f"uniform with p = {v['p_value']:.3g}."
        )
    rejected = (s.get("flags") or {}).get("REJECTED", 0)
    if rejected or s.get("n_suspects"):
        out.append(
            f"Rejected: detections {rejected}, references {s['references_rejected']}; stars that "
            f"look variable or mismatched: {s.get('n_suspects') or 0}."
        )
    out += [
        f"{r['band']}: the reference catalogue is off by {1e3 * r['median']:+.0f} +- "
        f"{1e3 * r['error']:.0f} mmag around ({r['ra']:.4f}, {r['dec']:+.4f}), {r['n']} stars."
        for r in (s.get("reference_regions") or [])[:3]
    ]
    out += [f"Gauge: {g}." for g in s.get("gauges") or []]
    out += list(s.get("notes") or [])
    return out
