"""Names and counts of flags, whichever room defines them."""

from __future__ import annotations

from enum import IntFlag
from typing import Any

import numpy as np

__all__ = ["count_flags", "describe_flags"]


def describe_flags(kind: type[IntFlag], value: int) -> str:
    """Return the names of the flags set in a value, or "none".

    Parameters
    ----------
    kind : type of IntFlag
        Which flags.
    value : int
        Their bits.

    Examples
    --------
    >>> Problem = IntFlag("Problem", ["EDGE", "DARK", "BRIGHT"])
    >>> describe_flags(Problem, 5), describe_flags(Problem, 0)
    ('EDGE, BRIGHT', 'none')
    """
    return ", ".join(f.name or "" for f in kind if int(value) & f) or "none"


def count_flags(kind: type[IntFlag], values: Any) -> dict[str, int]:
    """Return how many values carry each flag, flags that none carries left out.

    Parameters
    ----------
    kind : type of IntFlag
        Which flags.
    values : array_like of int
        Their bits, of any shape.

    Examples
    --------
    >>> count_flags(IntFlag("Problem", ["EDGE", "DARK", "BRIGHT"]), [0, 1, 5])
    {'EDGE': 2, 'BRIGHT': 1}
    """
    bits = np.asarray(values, np.int64)
    counts = {f.name or "": int(np.count_nonzero(bits & int(f))) for f in kind}
    return {name: n for name, n in counts.items() if n}
