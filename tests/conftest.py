"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import hypothesis
import numpy as np
import pytest

hypothesis.settings.register_profile(
    "pogson",
    deadline=None,  # the first call of a kernel compiles it
    max_examples=50,
    print_blob=True,
    # New examples on every run of a person; the same ones in CI, where red must mean "changed".
    derandomize="CI" in os.environ,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("pogson")

_DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Return a function that finds a real data file or skips the test, saying why."""
    root = Path(os.environ.get("POGSON_DATA") or _DEFAULT_DATA)

    def find(name: str) -> Path:
        path = root / name
        if not path.exists():
            pytest.skip(f"real data {name!r} is not in {root}; set POGSON_DATA to its folder")
        return path

    return find


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Return a generator keyed by the test's name; the seed is printed."""
    seed = abs(hash_text(request.node.nodeid)) % 2**32
    print(f"seed {seed}")
    return np.random.default_rng(seed)


def hash_text(text: str) -> int:
    """Return a stable integer for a text (Python's own hash changes from run to run)."""
    import hashlib

    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
