"""Coadds of the demo survey: fluxes against the visits, errors against the truth, completeness.

The survey of ``pogson demo`` (40 exposures of 1024 x 1024 pixels) is simulated and run with
``[coadd]`` over its whole field.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

SEED = 20260101


def campaign(folder: Path, *, size: int = 1024, seed: int = SEED) -> dict[str, Any]:
    """Simulate and run; return by band what ``summary.json`` says of the coadd."""
    from pogson.run import load_config, run_survey
    from pogson.simulate import demo_model, simulate_survey

    survey = simulate_survey(demo_model(size), folder, rng_seed=seed, workers=2)
    overrides = [
        'coadd.flattening_sed="night sky"', "coadd.background_mesh=128", "coadd.tile_size=1280",
        "coadd.overlap=40", "report.enabled=false",
    ]  # fmt: skip
    found = run_survey(load_config(survey.config, overrides)).summary["coadd"]["bands"]
    return dict(found)


def rows() -> list[dict[str, Any]]:
    """Return the figures of one campaign."""
    with tempfile.TemporaryDirectory() as folder:
        found = campaign(Path(folder))
    out: list[dict[str, Any]] = []
    for band, b in found.items():
        said = f"coadd of the demo survey, {band}: "
        c = b["completeness"]
        off = abs(c["reached"] - c["expected"]) / max(c["expected_err"], 1e-9)
        out += [
            _row(f"{said}coadd - visits of {b['n_compared']} stars, median, mmag",
                 abs(b["median_mmag"]), None, "< 0.5", abs(b["median_mmag"]) < 0.5),
            _row(f"{said}rms pull of {b['pulls']['n']} stars (5-100 sigma) against the truth",
                 b["pulls"]["rms"], b["pulls_diagonal"]["rms"], "0.95-1.05",
                 0.95 <= b["pulls"]["rms"] <= 1.05),
            _row(f"{said}scatter of {b['n_empty']} empty apertures / error",
                 b["empty_tracked"], b["empty_diagonal"], "0.95-1.05",
                 0.95 <= b["empty_tracked"] <= 1.05),
            _row(f"{said}{c['reached']} of {c['n']} stars above {c['snr']:g} sigma, "
                 f"{c['expected']:.1f} predicted (depth {c['depth']:.2f}): off by, sigma",
                 off, None, "< 3", off < 3.0),
        ]  # fmt: skip
    every = np.array([[b["pulls"]["n"], b["pulls"]["rms"], b["pulls_diagonal"]["rms"]]
                      for b in found.values()])  # fmt: skip
    n, tracked, diagonal = every.T
    both = [float(np.sqrt(np.average(v**2, weights=n))) for v in (tracked, diagonal)]
    out.append(_row(f"coadd of the demo survey: rms pull of all {int(n.sum())} stars", *both,
                    "0.95-1.05", 0.95 <= both[0] <= 1.05))  # fmt: skip
    return out


def _row(figure: str, ours: float, peer: float | None, target: str, passed: bool) -> dict[str, Any]:
    """Return one row; beside it what the diagonal of the covariance alone gives."""
    return {"figure": figure, "ours": float(ours), "peer": peer,
            "peer_name": None if peer is None else "diagonal only",
            "target": target, "passed": bool(passed)}  # fmt: skip


if __name__ == "__main__":
    for line in rows():
        print(line)
