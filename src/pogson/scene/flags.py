"""Flags of scene fits: the one registry of their names, bits and meanings."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntFlag

from pogson import flags

__all__ = ["SCENE_FLAG_DOCS", "SceneFlag", "describe_scene_flags"]


class SceneFlag(IntFlag):
    """What may be wrong with a scene fit; 0 means nothing is. `SCENE_FLAG_DOCS` has the meanings.

    Examples
    --------
    >>> SceneFlag.DROPPED | SceneFlag.FLAT_VALLEY
    <SceneFlag.DROPPED|FLAT_VALLEY: 33>
    """

    DROPPED = 1
    ORIGIN_MOVED = 2
    ORIGIN_SUSPECT = 4
    NO_GAIN = 8
    NOT_CONVERGED = 16
    FLAT_VALLEY = 32
    STARTS_DISAGREE = 64
    BAD_CHI2 = 128
    ILL_CONDITIONED = 256
    MASKED_CORE = 512
    ROBUST = 1024
    AT_LIMIT = 2048
    NEGATIVE_FLUX = 4096
    NO_REFERENCE = 8192


SCENE_FLAG_DOCS: Mapping[SceneFlag, str] = {
    SceneFlag.DROPPED: "exposures were left out; `dropped` has the reason of each",
    SceneFlag.ORIGIN_MOVED: "the origin of a stamp was ambiguous and moved by a pixel",
    SceneFlag.ORIGIN_SUSPECT: "a stamp fits much better a pixel away, though nothing makes its "
    "origin ambiguous: it was left in place",
    SceneFlag.NO_GAIN: "no gain is known: the errors lack the noise of source and scene photons",
    SceneFlag.NOT_CONVERGED: "the position search did not converge",
    SceneFlag.FLAT_VALLEY: "the data hardly fix a position: its error is above half a PSF width",
    SceneFlag.STARTS_DISAGREE: "fewer than half of the starts reached the best minimum",
    SceneFlag.BAD_CHI2: "chi2 per degree of freedom of an exposure is below 0.7 or above 1.4",
    SceneFlag.ILL_CONDITIONED: "the normal matrix is close to singular (reciprocal condition "
    "below 1e-11)",
    SceneFlag.MASKED_CORE: "masks remove over a tenth of a source's light from the fit",
    SceneFlag.ROBUST: "the robust loss reduced the weight of over 2 % of an exposure's pixels",
    SceneFlag.AT_LIMIT: "a position is at the limit of its search radius",
    SceneFlag.NEGATIVE_FLUX: "a flux that must be positive is held at zero",
    SceneFlag.NO_REFERENCE: "a source has a flux of its own in every exposure: the scene below it "
    "is told from it by the prior alone",
}
"""What each flag means."""


def describe_scene_flags(value: int) -> str:
    """Return the names of the flags set in a value, or "none".

    Examples
    --------
    >>> describe_scene_flags(33)
    'DROPPED, FLAT_VALLEY'
    """
    return flags.describe_flags(SceneFlag, value)
