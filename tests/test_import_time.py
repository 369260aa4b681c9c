"""Imports stay lazy: the two start-up figures and the modules that must not load."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

_HEAVY = ("numba", "matplotlib", "scipy", "astropy", "sep", "pyarrow", "pydantic", "rich", "numpy")


def _best(command: list[str], n: int = 3) -> float:
    times = []
    for _ in range(n):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return min(times)


def test_import_loads_nothing_heavy() -> None:
    code = f"import pogson, pogson.cli, sys; print([m for m in {_HEAVY!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("code", "limit"), [(["-c", "import pogson"], 0.5), (["-m", "pogson", "--help"], 0.3)]
)
def test_start_up_time(code: list[str], limit: float) -> None:
    # The interpreter's own start is part of the figure; machines under load get three tries.
    assert _best([sys.executable, *code]) < limit


def test_every_public_name_exists() -> None:
    import pogson

    for name in pogson.__all__:
        assert getattr(pogson, name) is not None, name
    assert "FluxReference" in dir(pogson)
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = pogson.nothing_of_the_kind
