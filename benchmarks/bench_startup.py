"""Start-up times: ``import pogson`` and ``pogson --help``, beside importing a peer."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any


def seconds(command: list[str], n: int = 5) -> float:
    """Return the best of n wall-clock times of a fresh process."""
    best = float("inf")
    for _ in range(n):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        best = min(best, time.perf_counter() - start)
    return best


def rows() -> list[dict[str, Any]]:
    """Return the rows of the benchmark table."""
    python = sys.executable
    try:
        peer, name = seconds([python, "-c", "import photutils.aperture"], 2), "import photutils"
    except subprocess.CalledProcessError:
        peer, name = float("nan"), "photutils is not installed"
    out = []
    for figure, command, target in (
        ("import pogson [s]", [python, "-c", "import pogson"], 0.5),
        ("pogson --help [s]", [python, "-m", "pogson", "--help"], 0.3),
    ):
        ours = seconds(command)
        out.append(
            {
                "figure": figure,
                "ours": ours,
                "peer": peer,
                "peer_name": name,
                "target": f"< {target} s",
                "passed": ours < target,
            }
        )
    return out


if __name__ == "__main__":
    for row in rows():
        print(row)
