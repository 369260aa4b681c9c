r"""Photon noise of injected sources, with the gain the right way round.

With g electrons per image unit, an expected light of F units is F g electrons on average, so that

.. math:: N \sim \mathrm{Poisson}(F g) / g, \qquad \mathrm{Var}\,N = F / g,

and the variance plane grows by F / g: by the expectation, not by the noisy value, so that plane
and noise stay uncorrelated. The noise of a source is keyed by seed, image and source id: neither
the order of rows nor the part of the image that is worked on changes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import MissingDataError, PogsonValueError
from pogson.fields import Box
from pogson.streams import stream

if TYPE_CHECKING:
    from pogson.fields import Field
    from pogson.images import Exposure

__all__ = ["GainMap", "poisson_light"]

_LARGEST_MEAN = 1e15  # above this the float64 grid is coarser than the noise cares about


@dataclass(frozen=True)
class GainMap:
    """Gain of an image in electrons per unit of the fluence image, by place.

    Parameters
    ----------
    default : float
        Gain outside the amplifiers' boxes.
    amplifiers : tuple of (Box, float)
        Gain in each amplifier's box (pixels of the exposure's own coordinates).
    field : Field, optional
        Gain as a field, instead, for a coadd whose number of exposures varies.
    origin : str
        Where the numbers come from.
    """

    default: float
    amplifiers: tuple[tuple[Box, float], ...] = ()
    field: Field | None = None
    origin: str = ""

    @classmethod
    def from_exposure(cls, exposure: Exposure, gain: Any = None) -> GainMap:
        """Find the gain of an exposure.

        Parameters
        ----------
        exposure : Exposure
            Its metadata are searched for, in this order: ``amplifiers``, a list of
            ``{"box": [x_min, y_min, nx, ny], "gain": g}``; ``effective_gain`` (a number or a
            Field), for coadds: electrons per unit such that light F has the variance F / gain;
            ``gain``. An image in electrons has gain 1.
        gain : float, Field or "estimate", optional
            To use instead; "estimate" takes it from the growth of the variance plane with the
            image where the metadata say nothing.

        Returns
        -------
        GainMap

        Raises
        ------
        MissingDataError
            If the gain is unknown.
        PogsonValueError
            If a gain is not finite and positive, or an amplifier is not described right.

        Examples
        --------
        >>> import numpy as np
        >>> from pogson.images import Exposure
        >>> amplifiers = [{"box": [0, 0, 4, 8], "gain": 1.5}, {"box": [4, 0, 4, 8], "gain": 2.0}]
        >>> exposure = Exposure(np.ones((8, 8)), unit="adu", measure="fluence",
        ...                     metadata={"amplifiers": amplifiers})
        >>> GainMap.from_exposure(exposure).at(Box(3, 0, 2, 1))
        array([[1.5, 2. ]])
        """
        from pogson.fields import Field

        if isinstance(gain, Field):
            return cls(1.0, (), gain, "argument")
        if gain is not None and gain != "estimate":
            return cls(_positive(gain, "gain="), origin="argument")
        meta = exposure.metadata
        amplifiers = meta.get("amplifiers")
        if amplifiers:
            parts = _amplifiers(amplifiers)
            default = meta.get("gain")
            fallback = np.mean([g for _, g in parts]) if default is None else default
            return cls(float(fallback), parts, None, "metadata amplifiers")
        effective = meta.get("effective_gain")
        if isinstance(effective, Mapping):
            from pogson.fields import field_from_dict

            effective = field_from_dict(dict(effective))
        if isinstance(effective, Field):
            return cls(1.0, (), effective, "metadata effective_gain")
        if effective is not None:
            value = _positive(effective, "metadata['effective_gain']")
            return cls(value, origin="metadata effective_gain")
        from pogson.images import resolve_gain

        number, origin = resolve_gain(exposure, gain)
        if number is None:
            raise MissingDataError(
                "Photon noise needs the gain, in electrons per unit of the fluence image, and this "
                "exposure does not say it. Put it into metadata['gain'] (one number), "
                "metadata['amplifiers'] or, for a coadd, metadata['effective_gain']; or pass "
                "gain=, a number or 'estimate'."
            )
        return cls(number, origin=origin)

    def at(self, box: Box) -> np.ndarray:
        """Return the gain on the pixels of a box, shape (ny, nx), float64.

        Raises
        ------
        PogsonValueError
            If a gain field is not finite and positive there.
        """
        if self.field is not None:
            values = np.asarray(
                self.field(x=box.x_pixels(), y=box.y_pixels()[:, None], extrapolate=True)
            )
            if not (np.isfinite(values) & (values > 0)).all():
                raise PogsonValueError(
                    f"The gain field is not finite and positive everywhere on {box}."
                )
            return np.broadcast_to(values, box.shape)
        if not self.amplifiers:
            return np.full(box.shape, self.default)
        out = np.full(box.shape, self.default)
        for amplifier, gain in self.amplifiers:
            x0, x1 = max(amplifier.x_min, box.x_min), min(amplifier.x_max, box.x_max)
            y0, y1 = max(amplifier.y_min, box.y_min), min(amplifier.y_max, box.y_max)
            if x0 <= x1 and y0 <= y1:
                out[y0 - box.y_min : y1 - box.y_min + 1, x0 - box.x_min : x1 - box.x_min + 1] = gain
        return out

    def describe(self) -> str:
        """Return the gain in words.

        Examples
        --------
        >>> GainMap(2.0, origin="metadata").describe()
        '2 electron per unit (metadata)'
        """
        if self.field is not None:
            number = "a field of"
        elif self.amplifiers:
            values = [g for _, g in self.amplifiers]
            number = f"{min(values):.6g} to {max(values):.6g}"
        else:
            number = f"{self.default:.6g}"
        return f"{number} electron per unit ({self.origin})"


def _positive(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not (np.isfinite(number) and number > 0):
        raise PogsonValueError(
            f"{name} is {value!r}; a gain is a finite number above 0, in electrons per unit."
        )
    return number


def _amplifiers(amplifiers: Any) -> tuple[tuple[Box, float], ...]:
    parts = []
    for k, one in enumerate(amplifiers):
        if not isinstance(one, Mapping) or not {"box", "gain"} <= set(one):
            raise PogsonValueError(
                f"metadata['amplifiers'][{k}] is {one!r}; each amplifier is "
                "{'box': [x_min, y_min, nx, ny], 'gain': electrons per unit}."
            )
        box = one["box"] if isinstance(one["box"], Box) else Box(*one["box"])
        parts.append((box, _positive(one["gain"], f"metadata['amplifiers'][{k}]['gain']")))
    return tuple(parts)


def poisson_light(
    light: np.ndarray, gain: np.ndarray, seed: int, image_id: str, source_id: str
) -> np.ndarray:
    """Draw the photon noise of one source's expected light.

    Parameters
    ----------
    light : numpy.ndarray, shape (ny, nx)
        Expected light in units of the fluence image; negative values get no noise.
    gain : numpy.ndarray
        Electrons per unit, of the same shape.
    seed : int
        Seed of the whole injection.
    image_id, source_id : str
        What the noise belongs to.

    Returns
    -------
    noise : numpy.ndarray, shape (ny, nx)
        Realised less expected light, float64: mean 0, variance ``light / gain``.

    Notes
    -----
    The whole stamp is drawn, also the part of it that lies off the image, so that the numbers do
    not depend on where the image ends.

    Examples
    --------
    >>> light, gain = np.full((200, 200), 50.0), np.full((200, 200), 4.0)
    >>> noise = poisson_light(light, gain, 1, "visit 1", "star 1")
    >>> bool(abs(noise.var() / (50.0 / 4.0) - 1.0) < 0.03), bool(abs(noise.mean()) < 0.1)
    (True, True)
    >>> bool(np.array_equal(noise, poisson_light(light, gain, 1, "visit 1", "star 1")))
    True
    """
    rng = stream(seed, "inject", "photons", image_id, source_id)
    positive = np.maximum(light, 0.0)
    electrons = positive * gain
    if electrons.max(initial=0.0) > _LARGEST_MEAN:
        drawn = electrons + np.sqrt(electrons) * rng.standard_normal(electrons.shape)
    else:
        drawn = rng.poisson(electrons)
    return np.asarray(drawn / gain - positive, np.float64)
