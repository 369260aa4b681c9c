"""The long audit of the demo survey: more than 20,000 pulls of injected stars."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_pulls_of_the_demo_survey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delitem(sys.modules, "bench_audit", raising=False)
    import bench_audit

    found = bench_audit.campaign(tmp_path)
    pulls, stack = found["pulls"], found["stack"]
    print(f"\n{found['n_rows']} injections, run and audit {found['seconds']:.0f} s")
    print(f"{pulls['n']} pulls, S/N 5-200: mean {pulls['mean']:+.4f} +- {pulls['mean_err']:.4f}, "
          f"rms {pulls['rms']:.4f} +- {pulls['rms_err']:.4f}")  # fmt: skip
    for low, high in ((5, 10), (10, 20), (20, 50), (50, 100), (100, 200)):
        some = found["pull_values"][(found["snr"] > low) & (found["snr"] <= high)]
        print(f"  S/N {low:3d}-{high:3d}: n {some.size}, mean {some.mean():+.4f}, "
              f"rms {np.sqrt(np.mean(some**2)):.4f}")  # fmt: skip
    print(
        f"means over visits: {stack['n']} pulls, mean {stack['mean']:+.4f}, rms {stack['rms']:.4f}"
    )
    assert pulls["n"] >= bench_audit.PULLS
    assert 0.97 <= pulls["rms"] <= 1.03
    assert abs(pulls["mean"]) < 0.03
    assert 0.95 <= stack["rms"] <= 1.05
