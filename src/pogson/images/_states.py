"""From one state of an image to another: measure, and the spectrum it is flattened for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import MissingDataError, PogsonTypeError
from pogson.images._scaling import RatioImage, in_two_threads
from pogson.units import Measure

if TYPE_CHECKING:
    from pogson.images.exposure import Exposure
    from pogson.images.flattening import Flattening
    from pogson.sed import Spectrum

__all__ = ["change_state", "known_flattening", "state_factors"]

_ROWS = 32  # worked on at a time in double precision, within the cache


def known_flattening(exposure: Exposure) -> Flattening:
    """Return the flattening of an exposure, or raise: an unknown one is asked for, not assumed."""
    if exposure.flattening is None:
        named = (
            "and it is not said for which spectrum it was flattened"
            if exposure.flattening_sed is None
            else f"only the name {exposure.flattening_sed!r} of the spectrum is known"
        )
        raise MissingDataError(
            f"This exposure has no flattening, {named}. Say which flat divided it, for which "
            f"spectrum: exposure.with_(flattening=Flattening(flat, bandpass, sed, fiducial))."
        )
    return exposure.flattening


def change_state(
    exposure: Exposure, measure: Measure | str | None, sed: Spectrum | str | None
) -> Exposure:
    """Return the exposure in another measure and flattened for another spectrum."""
    wanted = exposure.measure if measure is None else Measure.parse(measure)
    if sed is None:
        return exposure.to(wanted)
    now = known_flattening(exposure)
    then = _wanted_flattening(now, sed)
    if then == now:
        return exposure.to(wanted)
    above, below = [now.ratio_image(exposure.box)], [then.ratio_image(exposure.box)]
    if wanted is not exposure.measure:
        (above if wanted is Measure.FLUENCE else below).append(exposure._ratio())
    image = _scaled(exposure, exposure.image, above, below, 1)
    variance = exposure.variance
    if variance is not None:
        variance = _scaled(exposure, variance, above, below, 2)
    background = exposure.background
    if background is not None and background.flattening is None:
        background = replace(background, flattening=now)  # it belonged to the image as it was
    new = exposure._shallow(
        image=image,
        measure=wanted,
        background=background,
        flattening=then,
        flattening_sed=then.sed.name,
        _pending_variance=None,
        _bad={},
    )
    new._fill(variance=variance)
    return new


def _wanted_flattening(now: Flattening, sed: Any) -> Flattening:
    from pogson.sed import Spectrum

    if isinstance(sed, Spectrum):
        return now.for_sed(sed)
    if sed == "fiducial":
        return now.for_fiducial()
    raise PogsonTypeError(
        f"sed must be a pogson.sed.Spectrum or 'fiducial', not {sed!r}; a name does not say what "
        f"the light is."
    )


def _scaled(
    exposure: Exposure,
    values: np.ndarray,
    above: list[RatioImage],
    below: list[RatioImage],
    power: int,
) -> np.ndarray:
    """Return values times ratios above, over ratios below, to a power; rounded once."""
    top = [r.image(exposure.box) for r in above]
    bottom = [r.image(exposure.box) for r in below]
    out = np.empty(values.shape, np.float32)

    def rows(part: slice) -> None:
        for start in range(part.start, part.stop, _ROWS):
            some = slice(start, min(start + _ROWS, part.stop))
            work = values[some].astype(np.float64)
            for _ in range(power):
                for ratio in top:
                    work *= ratio[some]
                for ratio in bottom:
                    work /= ratio[some]
            out[some] = work

    in_two_threads(rows, (values.shape[0], values.shape[1]))
    out.flags.writeable = False
    return out


def state_factors(
    exposure_flattening: Flattening | None, level_flattening: Flattening | None
) -> tuple[Flattening, Flattening] | None:
    """Return the two states between which a background has to be taken, or None where none."""
    if level_flattening is None or exposure_flattening is None:
        return None
    if level_flattening == exposure_flattening:
        return None
    level_flattening.check_same_flat(exposure_flattening)
    return level_flattening, exposure_flattening
