"""Flags of fitted stars: the one registry of their names, bits and meanings."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntFlag

__all__ = ["STAR_FLAG_DOCS", "StarFlag"]


class StarFlag(IntFlag):
    """What may be wrong with a star's photometry or fit; 0 means nothing is.

    `STAR_FLAG_DOCS` has the meaning of each.

    Examples
    --------
    >>> from pogson.stars import StarFlag
    >>> StarFlag.NO_PARALLAX | StarFlag.LOW_ESS
    <StarFlag.NO_PARALLAX|LOW_ESS: 9>
    """

    NO_PARALLAX = 1
    ALL_MASKED = 2
    FEW_BANDS = 4
    LOW_ESS = 8
    POOR_FIT = 16
    BAD_ERROR = 32
    NO_POSITION = 64
    AT_EXTINCTION_LIMIT = 128
    LOW_SIGNAL = 256
    NO_MODEL = 512


STAR_FLAG_DOCS: Mapping[StarFlag, str] = {
    StarFlag.NO_PARALLAX: "no usable parallax: the distance is photometric",
    StarFlag.ALL_MASKED: "no usable band: the star was not fitted",
    StarFlag.FEW_BANDS: "fewer than four bands: distance, A_V and type are degenerate",
    StarFlag.LOW_ESS: "the effective sample size is below the one asked for",
    StarFlag.POOR_FIT: "the best chi-square has a probability below the limit of the configuration",
    StarFlag.BAD_ERROR: "a band or parallax with a zero or negative error was left out",
    StarFlag.NO_POSITION: "the prior needs a sky position and there is none: not fitted",
    StarFlag.AT_EXTINCTION_LIMIT: "a tenth of the posterior lies near the upper limit of A_V",
    StarFlag.LOW_SIGNAL: "no band reaches the signal-to-noise of the magnitude scan",
    StarFlag.NO_MODEL: "no model has a finite posterior: not fitted",
}
"""What each flag of a star means."""
