"""Flags of measured sources: the one registry of their names, bits and meanings."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntFlag
from typing import Any

from pogson import flags

__all__ = ["FLAG_DOCS", "SourceFlag", "count_flags", "describe_flags"]


class SourceFlag(IntFlag):
    """What may be wrong with a measured source; 0 means nothing is.

    A flagged measurement keeps its value where there is one: the flag says how far to trust it.
    `FLAG_DOCS` has the meaning of each.

    Examples
    --------
    >>> SourceFlag.EDGE | SourceFlag.SATURATED
    <SourceFlag.EDGE|SATURATED: 5>
    """

    EDGE = 1
    BAD_PIXEL = 2
    SATURATED = 4
    NO_DATA = 8
    NEIGHBOR = 16
    BLENDED = 32
    LOCAL_BACKGROUND = 64
    CENTROID = 128
    BAD_POSITION = 256
    ALL_MASKED = 512
    APERTURE_CORRECTION = 1024
    POOR_FIT = 2048
    NO_PSF = 4096
    SUSPECT = 8192
    PSF_TRUNCATED = 16384
    OUTSIDE = 32768


FLAG_DOCS: Mapping[SourceFlag, str] = {
    SourceFlag.EDGE: "the aperture or stamp runs off the image: the flux is a lower limit",
    SourceFlag.BAD_PIXEL: "masked pixels lie inside the aperture: the flux misses their light",
    SourceFlag.SATURATED: "saturated pixels lie inside the aperture",
    SourceFlag.NO_DATA: "pixels without data lie inside the aperture",
    SourceFlag.NEIGHBOR: "another listed source lies within the neighbour radius",
    SourceFlag.BLENDED: "separated from an overlapping source by the detection",
    SourceFlag.LOCAL_BACKGROUND: "the local background annulus had too few usable pixels",
    SourceFlag.CENTROID: "the windowed centroid failed: the position is the isophotal one",
    SourceFlag.BAD_POSITION: "the position is not finite: nothing was measured",
    SourceFlag.ALL_MASKED: "no usable pixel inside the aperture: the flux is NaN",
    SourceFlag.APERTURE_CORRECTION: "the aperture correction is not finite and positive here",
    SourceFlag.POOR_FIT: "too few usable pixels for a PSF fit, or the fit is singular",
    SourceFlag.NO_PSF: "the PSF is not defined at this position",
    SourceFlag.SUSPECT: "suspect or interpolated pixels lie inside the aperture",
    SourceFlag.PSF_TRUNCATED: "masks or edges removed a good part of the PSF's light from the fit",
    SourceFlag.OUTSIDE: "the position lies outside the image",
}
"""What each flag means."""


def describe_flags(value: int) -> str:
    """Return the names of the flags set in a value, or "none".

    Examples
    --------
    >>> describe_flags(5)
    'EDGE, SATURATED'
    """
    return flags.describe_flags(SourceFlag, value)


def count_flags(values: Any) -> dict[str, int]:
    """Return how many sources carry each flag, flags that nobody carries left out.

    Examples
    --------
    >>> count_flags([0, 1, 5])
    {'EDGE': 2, 'SATURATED': 1}
    """
    return flags.count_flags(SourceFlag, values)
