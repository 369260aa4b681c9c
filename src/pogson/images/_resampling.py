"""The kernel of a resampling: its name, order and width."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pogson.errors import PogsonValueError, choices

__all__ = ["KERNELS", "Resampling"]

KERNELS = {"lanczos3": 3, "lanczos4": 4, "lanczos2": 2, "exact": 0}
"""Names of the kernels and their orders."""

STRETCHED_ABOVE = 1.1
"""Output pixels larger than this many input pixels make a Lanczos kernel wider."""


@dataclass(frozen=True, slots=True)
class Resampling:
    """A kernel of resampling.

    Parameters
    ----------
    kernel : {"lanczos3", "lanczos2", "lanczos4", "exact"}
        Lanczos interpolation times the area ratio, or the exact overlap of output with input
        pixels (drizzle with full pixels).
    stretch : float, optional
        Factor by which a Lanczos kernel is wider than the input pixels want it, at least 1.

    Examples
    --------
    >>> Resampling("lanczos3").order, Resampling("exact").exact
    (3, True)
    """

    kernel: str = "lanczos3"
    stretch: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.kernel, str) or self.kernel not in KERNELS:
            raise PogsonValueError(f"Unknown kernel {self.kernel!r}; allowed: {choices(KERNELS)}.")
        if not 1.0 <= self.stretch <= 16.0:
            raise PogsonValueError(
                f"An output pixel is {self.stretch:.4g} input pixels wide; Lanczos kernels serve "
                f"up to 16. Use kernel='exact', or bin the image first."
            )

    @classmethod
    def for_scale(cls, kernel: str, scale: float) -> Resampling:
        """Return the kernel for output pixels of a side in input pixels."""
        if kernel == "exact" or scale <= STRETCHED_ABOVE:
            return cls(kernel)
        return cls(kernel, round(scale, 6))

    @property
    def order(self) -> int:
        """Lobes of the kernel."""
        return KERNELS[self.kernel]

    @property
    def exact(self) -> bool:
        """Whether it is the exact overlap."""
        return self.kernel == "exact"

    def support(self, scale: float) -> int:
        """Return how many input pixels along an axis an output pixel may gather from."""
        if self.exact:
            return math.ceil(scale * math.sqrt(2.0)) + 3
        return 2 * math.ceil(self.order * self.stretch)

    def guard(self, scale: float) -> int:
        """Return how many output pixels around it share input pixels with an output pixel."""
        return math.ceil((2 * self.order * self.stretch + 1.0) / max(scale, 0.05)) + 2

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return {"kernel": self.kernel, "stretch": self.stretch}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Resampling:
        """Return the kernel described by `to_dict`."""
        return cls(str(data["kernel"]), float(data["stretch"]))
