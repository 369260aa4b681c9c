"""Values in JSON that come back as they were, numbers that are not finite included."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from pogson.errors import PogsonValueError

__all__ = ["from_json_value", "to_json_value"]


def to_json_value(value: Any, where: str) -> Any:
    """Return a JSON value from which `from_json_value` gives the same value back.

    Parameters
    ----------
    value : object
        None, booleans, numbers, texts, arrays, sequences and mappings of them.
    where : str
        What it is, for the message.

    Returns
    -------
    object
        JSON-ready; numbers that JSON lacks (NaN, infinities) as ``{"__float__": "nan"}``; tuples
        and arrays as lists.

    Raises
    ------
    PogsonValueError
        If the value is of another type.

    Examples
    --------
    >>> to_json_value({"a": (1, float("inf"))}, "meta")
    {'a': [1, {'__float__': 'inf'}]}
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"__float__": repr(value)}
    if isinstance(value, np.ndarray):
        return [to_json_value(v, where) for v in value.tolist()]
    if isinstance(value, (list, tuple)):
        return [to_json_value(v, where) for v in value]
    if isinstance(value, Mapping):
        return {str(k): to_json_value(v, where) for k, v in value.items()}
    raise PogsonValueError(
        f"{where} holds {value!r}, a {type(value).__name__}; files keep numbers, texts, "
        f"booleans, lists and mappings of them. Convert it, for example to text."
    )


def from_json_value(value: Any) -> Any:
    """Undo `to_json_value`.

    Examples
    --------
    >>> from_json_value({"a": {"__float__": "inf"}})
    {'a': inf}
    """
    if isinstance(value, dict):
        if set(value) == {"__float__"}:
            return float(value["__float__"])
        return {k: from_json_value(v) for k, v in value.items()}
    if isinstance(value, list):
        return [from_json_value(v) for v in value]
    return value
