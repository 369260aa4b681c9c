"""Run every benchmark module and print one table: our figure, the peer's, the ratio.

Usage: python benchmarks/run.py [NAME ...]   (names without ``bench_``; all by default)
"""

from __future__ import annotations

import importlib
import json
import platform
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def modules(names: list[str]) -> list[str]:
    """Return the benchmark modules asked for, in alphabetical order."""
    found = sorted(p.stem for p in HERE.glob("*.py") if p.stem != "run")
    if not names:
        return found
    wanted = [m for m in found if m in names or m.removeprefix("bench_") in names]
    if not wanted:
        sys.exit(f"No benchmark named {names}; there are {found}.")
    return wanted


def cell(value: object) -> str:
    """Format a number for the table; text passes through."""
    return f"{value:.4g}" if isinstance(value, float) else ("-" if value is None else str(value))


def main() -> int:
    """Print the table, write it as JSON, return 1 if a target was missed."""
    from rich.console import Console
    from rich.table import Table

    sys.path.insert(0, str(HERE))
    table = Table(title=f"pogson benchmarks, {platform.processor() or platform.machine()}")
    for heading in ("figure", "ours", "peer", "ratio ours/peer", "target", "reached"):
        table.add_column(heading)
    rows = []
    for name in modules(sys.argv[1:]):
        for row in importlib.import_module(name).rows():
            rows.append({"module": name, **row})
            ours, peer = row["ours"], row.get("peer")
            ratio = ours / peer if isinstance(ours, float) and isinstance(peer, float) else None
            peer_cell = cell(peer) + (f"  ({row['peer_name']})" if row.get("peer_name") else "")
            verdict = {True: "yes", False: "NO", None: "-"}[row.get("passed")]
            table.add_row(row["figure"], cell(ours), peer_cell, cell(ratio), row["target"], verdict)
    Console(width=180).print(table)
    out = HERE / "results"
    out.mkdir(exist_ok=True)
    (out / "latest.json").write_text(json.dumps(rows, indent=1, default=str) + "\n")
    return int(any(row.get("passed") is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
