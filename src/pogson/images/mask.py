"""Names and bits of pixel masks: the one registry that every instrument is mapped to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from pogson.errors import MissingDataError, PogsonValueError

__all__ = ["BAD_FOR_BACKGROUND", "BAD_FOR_PHOTOMETRY", "MASK_DOCS", "MaskBits"]

_STANDARD: tuple[tuple[str, str], ...] = (
    ("NO_DATA", "nothing was recorded here: the image is NaN and the inverse variance 0"),
    ("BAD", "defective pixel: dead, hot, or a bad column"),
    ("SATURATED", "above saturation: the value is a lower limit"),
    ("BLEED", "charge bled from a saturated star"),
    ("COSMIC_RAY", "hit by a cosmic ray"),
    ("CROSSTALK", "contaminated by crosstalk from another amplifier"),
    ("STREAK", "crossed by a satellite or aeroplane trail"),
    ("EDGE", "too near the detector edge to be trusted"),
    ("SUSPECT", "usable with care: beyond the linear range, interpolated, or similar"),
    ("INTERPOLATED", "the value was interpolated from neighbours"),
    ("DETECTED", "part of the footprint of a detected source"),
    ("INJECTED", "a synthetic source was added here"),
    ("INJECTED_CORE", "the central pixels of a synthetic source"),
    ("CLIPPED", "rejected when exposures were combined"),
)

MASK_DOCS: Mapping[str, str] = dict(_STANDARD)
"""What each standard mask name means."""

BAD_FOR_PHOTOMETRY = (
    "NO_DATA",
    "BAD",
    "SATURATED",
    "BLEED",
    "COSMIC_RAY",
    "CROSSTALK",
    "STREAK",
)
"""Mask names whose pixels carry no usable flux (left out of sums, and flagged)."""

BAD_FOR_BACKGROUND = (*BAD_FOR_PHOTOMETRY, "EDGE", "DETECTED")
"""Mask names left out of background estimates."""


class MaskBits(Mapping[str, int]):
    """An immutable mapping of mask names to bit numbers of a ``uint32`` mask.

    Parameters
    ----------
    bits : mapping of str to int
        Bit number (0 to 31) of each name. Names are upper case.
    docs : mapping of str to str, optional
        What the names mean; standard names need none.

    Raises
    ------
    PogsonValueError
        If a bit is outside 0-31 or used twice.

    Examples
    --------
    >>> bits = MaskBits.standard()
    >>> bits["NO_DATA"], bits.value("NO_DATA", "SATURATED")
    (0, 5)
    >>> bits.names(0b101)
    ('NO_DATA', 'SATURATED')
    """

    __slots__ = ("_bits", "_docs")
    _bits: dict[str, int]
    _docs: dict[str, str]

    def __init__(self, bits: Mapping[str, int], docs: Mapping[str, str] | None = None) -> None:
        clean = {str(name).upper(): int(bit) for name, bit in bits.items()}
        wrong = {name: bit for name, bit in clean.items() if not 0 <= bit <= 31}
        if wrong:
            raise PogsonValueError(f"Mask bits {wrong} are outside 0 to 31 (masks are uint32).")
        if len(set(clean.values())) != len(clean):
            raise PogsonValueError(f"Mask bits {clean} use one bit for two names.")
        words = {name: MASK_DOCS.get(name, "") for name in clean}
        words.update({str(k).upper(): str(v) for k, v in (docs or {}).items()})
        object.__setattr__(self, "_bits", clean)
        object.__setattr__(self, "_docs", {n: words[n] for n in clean})

    @classmethod
    def standard(cls) -> MaskBits:
        """Return the standard names in their standard order."""
        return _STANDARD_BITS

    def doc(self, name: str) -> str:
        """Return what a name means."""
        self.value(name)
        return self._docs[name]

    def value(self, *names: str) -> int:
        """Return the integer with the bits of these names set.

        Raises
        ------
        MissingDataError
            If a name is not defined here.
        """
        total = 0
        for name in names:
            if name not in self._bits:
                raise MissingDataError(
                    f"No mask bit is named {name!r}; defined here: {', '.join(self._bits)}."
                )
            total |= 1 << self._bits[name]
        return total

    def value_of_known(self, names: Iterable[str]) -> int:
        """Return the integer of those names that are defined here, skipping the others."""
        return self.value(*(n for n in names if n in self._bits))

    def names(self, value: int) -> tuple[str, ...]:
        """Return the names of the bits set in a value."""
        return tuple(n for n, b in self._bits.items() if (int(value) >> b) & 1)

    def with_names(self, **docs: str) -> MaskBits:
        """Return a registry with more names, each given the lowest free bit and its meaning.

        Examples
        --------
        >>> MaskBits.standard().with_names(GHOST="reflection of a bright star")["GHOST"]
        14
        """
        bits = dict(self._bits)
        for name in docs:
            free = next((b for b in range(32) if b not in bits.values()), None)
            if name.upper() not in bits:
                if free is None:
                    raise PogsonValueError(f"No bit of the 32 is free for mask name {name!r}.")
                bits[name.upper()] = free
        return MaskBits(bits, {**self._docs, **docs})

    def translate(self, mask: np.ndarray, bits: Mapping[str, Iterable[int]]) -> np.ndarray:
        """Translate an instrument's mask into this registry.

        Parameters
        ----------
        mask : numpy.ndarray of integer
            The instrument's mask.
        bits : mapping of str to iterable of int
            For each name of this registry, the instrument's bit numbers that mean it.

        Returns
        -------
        mask : numpy.ndarray of uint32

        Examples
        --------
        >>> MaskBits.standard().translate(np.array([0, 2, 6]), {"BAD": [1], "EDGE": [2]})
        array([  0,   2, 130], dtype=uint32)
        """
        source = np.asarray(mask)
        out = np.zeros(source.shape, np.uint32)
        for name, theirs in bits.items():
            pattern = sum(1 << int(b) for b in theirs)
            out[(source & source.dtype.type(pattern)) != 0] |= np.uint32(self.value(name))
        return out

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return {"bits": dict(self._bits), "docs": dict(self._docs)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MaskBits:
        """Return the registry described by `to_dict`."""
        return cls(data["bits"], data.get("docs"))

    def __getitem__(self, name: str) -> int:
        if name not in self._bits:
            self.value(name)
        return self._bits[name]

    def __contains__(self, name: object) -> bool:
        return name in self._bits

    def __iter__(self) -> Iterator[str]:
        return iter(self._bits)

    def __len__(self) -> int:
        return len(self._bits)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MaskBits):
            return NotImplemented
        return self._bits == other._bits

    def __hash__(self) -> int:
        return hash(frozenset(self._bits.items()))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("MaskBits is immutable; use with_names().")

    def __reduce__(self) -> tuple[Any, ...]:
        return (MaskBits, (self._bits, self._docs))

    def __repr__(self) -> str:
        return f"MaskBits({self._bits!r})"


_STANDARD_BITS = MaskBits({name: bit for bit, (name, _) in enumerate(_STANDARD)})
