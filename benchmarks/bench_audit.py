"""The audit of the demo survey: pulls of injected point sources over the whole run.

The survey of ``pogson demo`` (40 exposures of 1024 x 1024 pixels) is simulated, calibrated by the
main job, and injected in several rounds; every source is recovered by the run's own code.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROUNDS = 8
PULLS = 20_000


def campaign(folder: Path, *, rounds: int = ROUNDS, seed: int = 1) -> dict[str, Any]:
    """Simulate, run and audit; return the joint statistics of the pulls, and how long it took."""
    from pogson.formats import read_catalog
    from pogson.inject.audit_statistics import pull_statistics
    from pogson.run import load_config, run_survey
    from pogson.simulate import demo_model, simulate_survey

    survey = simulate_survey(demo_model(), folder, rng_seed=20260101, workers=2)
    overrides = [
        "audit.number=220", f"audit.rounds={rounds}", f"audit.seed={seed}",
        "audit.neighbors=truth.parquet", "audit.magnitudes=[18.0, 23.5]", "output.images=false",
        "report.enabled=false", "audit.pull_snr=[5, 200]",
    ]  # fmt: skip
    start = time.perf_counter()
    result = run_survey(load_config(survey.config, overrides))
    seconds = time.perf_counter() - start
    rows = read_catalog(result.folder / "statistics" / "audit.parquet")
    audit = json.loads((result.folder / "audit.json").read_text())
    pulls = np.asarray(rows["pull"])[np.asarray(rows["for_pulls"])]
    stack = read_catalog(result.folder / "statistics" / "audit_stack.parquet")
    stacked = np.asarray(stack["pull"])[np.asarray(stack["for_pulls"])]
    return {
        "pulls": pull_statistics(pulls), "stack": pull_statistics(stacked), "audit": audit,
        "n_rows": len(rows), "seconds": seconds, "pull_values": pulls,
        "snr": np.asarray(rows["snr"])[np.asarray(rows["for_pulls"])],
    }  # fmt: skip


def rows() -> list[dict[str, Any]]:
    """Return the figures of one campaign."""
    with tempfile.TemporaryDirectory() as folder:
        found = campaign(Path(folder))
    pulls, stack = found["pulls"], found["stack"]
    said = f"demo survey, {pulls['n']} isolated injections of S/N 5-200"
    return [
        {"figure": f"{said}: rms of pulls", "ours": pulls["rms"], "peer": None,
         "target": f"0.97-1.03, n >= {PULLS}",
         "passed": 0.97 <= pulls["rms"] <= 1.03 and pulls["n"] >= PULLS},
        {"figure": f"{said}: mean pull", "ours": pulls["mean"], "peer": None,
         "target": "within 0.03", "passed": abs(pulls["mean"]) < 0.03},
        {"figure": f"the same over visits ({stack['n']} sources): rms of pulls",
         "ours": stack["rms"], "peer": None, "target": "0.95-1.05",
         "passed": 0.95 <= stack["rms"] <= 1.05},
        {"figure": f"run with audit of {found['n_rows']} injections [s]", "ours": found["seconds"],
         "peer": None, "target": "-", "passed": None},
    ]  # fmt: skip
