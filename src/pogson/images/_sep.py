"""Handing read-only arrays to SEP."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["for_sep"]


class _Writable:
    """The memory of an array, said to be writable; keeps the array alive."""

    __slots__ = ("__array_interface__", "_owner")

    def __init__(self, array: np.ndarray) -> None:
        interface: dict[str, Any] = dict(array.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        self._owner = array
        self.__array_interface__ = interface


def for_sep(array: np.ndarray) -> np.ndarray:
    """Return a contiguous array for SEP, without a copy where possible.

    SEP asks for writable buffers although it only reads images, masks and variances; copying
    64 MiB for that would cost more than some of its work. Never write to the result.

    Examples
    --------
    >>> a = np.ones(3)
    >>> a.flags.writeable = False
    >>> for_sep(a).flags.writeable
    True
    """
    array = np.ascontiguousarray(array)
    return array if array.flags.writeable else np.asarray(_Writable(array))
