"""Flags of injected sources: the one registry of their names, bits and meanings."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntFlag
from typing import Any

from pogson import flags

__all__ = [
    "INJECTION_FLAG_DOCS",
    "NOT_DRAWN",
    "InjectionFlag",
    "count_injection_flags",
    "describe_injection_flags",
]


class InjectionFlag(IntFlag):
    """What happened to a row of an injection catalogue; 0: drawn whole, as asked.

    A row is never lost: one that cannot be drawn stays in the truth table with its reason, and
    the others are drawn. `INJECTION_FLAG_DOCS` has the meaning of each bit; the bits of
    `NOT_DRAWN` are the reasons for which nothing was drawn.

    Examples
    --------
    >>> InjectionFlag.BAD_FLUX in NOT_DRAWN, InjectionFlag.CLIPPED in NOT_DRAWN
    (True, False)
    """

    BAD_FLUX = 1
    BAD_POSITION = 2
    UNKNOWN_TYPE = 4
    BAD_SHAPE = 8
    BAD_STAMP = 16
    DUPLICATE_ID = 32
    NO_PSF = 64
    NO_CALIBRATION = 128
    NO_ENCLOSED_ENERGY = 256
    NO_OVERLAP = 512
    NO_EXPOSURE_TIME = 1024
    RENDER_FAILED = 2048
    OFF_IMAGE = 4096
    CLIPPED = 8192
    ON_MASKED = 16384
    STAMP_LIMITED = 32768
    NEGATIVE_FLUX = 65536


INJECTION_FLAG_DOCS: Mapping[InjectionFlag, str] = {
    InjectionFlag.BAD_FLUX: "flux or magnitude missing, not finite, or a magnitude below 0: "
    "nothing drawn",
    InjectionFlag.BAD_POSITION: "the position is missing or has no pixel on this image: "
    "nothing drawn",
    InjectionFlag.UNKNOWN_TYPE: "unknown source type: nothing drawn",
    InjectionFlag.BAD_SHAPE: "a shape parameter is missing or out of range (Sersic index, radius, "
    "axis ratio, bulge fraction, rate): nothing drawn",
    InjectionFlag.BAD_STAMP: "the stamp is missing, not an image with light, or does not say "
    "which flux it holds: nothing drawn",
    InjectionFlag.DUPLICATE_ID: "other rows have the same id, and an id keys the noise: none of "
    "them drawn",
    InjectionFlag.NO_PSF: "the PSF is not defined at this position: nothing drawn",
    InjectionFlag.NO_CALIBRATION: "the calibration is not finite and positive at this position: "
    "nothing drawn",
    InjectionFlag.NO_ENCLOSED_ENERGY: "the reference's aperture holds no light of this source: "
    "nothing drawn",
    InjectionFlag.NO_OVERLAP: "no pixel of the stamp lies on the image: nothing drawn",
    InjectionFlag.NO_EXPOSURE_TIME: "a trail needs metadata['exposure_time']: nothing drawn",
    InjectionFlag.RENDER_FAILED: "the profile could not be drawn: nothing drawn",
    InjectionFlag.OFF_IMAGE: "the centre lies off the image; the part of the stamp on it was drawn",
    InjectionFlag.CLIPPED: "the image's edge or pixels without data took part of the light: see "
    "deposited_fraction",
    InjectionFlag.ON_MASKED: "the central pixel is masked as unusable; drawn all the same",
    InjectionFlag.STAMP_LIMITED: "the stamp is at its largest size and still misses more light "
    "than the accuracy asked for",
    InjectionFlag.NEGATIVE_FLUX: "the flux is negative; drawn, without photon noise of its own",
}
"""What each flag means."""

NOT_DRAWN = (
    InjectionFlag.BAD_FLUX
    | InjectionFlag.BAD_POSITION
    | InjectionFlag.UNKNOWN_TYPE
    | InjectionFlag.BAD_SHAPE
    | InjectionFlag.BAD_STAMP
    | InjectionFlag.DUPLICATE_ID
    | InjectionFlag.NO_PSF
    | InjectionFlag.NO_CALIBRATION
    | InjectionFlag.NO_ENCLOSED_ENERGY
    | InjectionFlag.NO_OVERLAP
    | InjectionFlag.NO_EXPOSURE_TIME
    | InjectionFlag.RENDER_FAILED
)
"""The flags of rows of which nothing was drawn."""


def describe_injection_flags(value: int) -> str:
    """Return the names of the flags set in a value, or "none".

    Examples
    --------
    >>> describe_injection_flags(3)
    'BAD_FLUX, BAD_POSITION'
    """
    return flags.describe_flags(InjectionFlag, value)


def count_injection_flags(values: Any) -> dict[str, int]:
    """Return how many rows carry each flag, flags that no row carries left out.

    Examples
    --------
    >>> count_injection_flags([0, 1, 8193])
    {'BAD_FLUX': 2, 'CLIPPED': 1}
    """
    return flags.count_flags(InjectionFlag, values)
