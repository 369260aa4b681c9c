"""Flux references written by people: in a configuration, on a command line."""

from __future__ import annotations

import re

from pogson.calib.reference import FluxReference
from pogson.errors import PogsonError, PogsonValueError

__all__ = ["reference_from_words"]

_APERTURE = re.compile(
    r"aperture\s+(?P<radius>[0-9.eE+-]+)\s*(?P<unit>px|pixels?|arcsec|\"|″)(?:\s+(?P<operator>\S+))?"
)
_FRAMES = {"px": "pixel", "pixel": "pixel", "pixels": "pixel"}


def reference_from_words(text: str) -> FluxReference:
    """Return the flux reference that a text names.

    Parameters
    ----------
    text : str
        ``"total"``, ``"psf"``, or ``"aperture RADIUS px"`` or ``"aperture RADIUS arcsec"``, perhaps
        followed by the summing operator ("exact" by default, "sinc", "center", "subpixel5"). Every
        `FluxReference.label` of these kinds is understood.

    Returns
    -------
    FluxReference

    Raises
    ------
    PogsonValueError
        If the text names none.

    Examples
    --------
    >>> reference_from_words("aperture 12 px")
    FluxReference.aperture(12.0, 'pixel', ApertureOperator.exact())
    >>> reference_from_words('aperture 3" sinc').label
    'aperture 3" sinc'
    >>> reference_from_words("12")
    Traceback (most recent call last):
      ...
    pogson.errors.PogsonValueError: '12' names no flux reference; write ...
    """
    words = " ".join(str(text).split())
    if words.lower() == "total":
        return FluxReference.total()
    if words.lower() == "psf":
        return FluxReference.psf()
    match = _APERTURE.fullmatch(words)
    if match is not None:
        try:
            return FluxReference.aperture(
                float(match["radius"]),
                frame=_FRAMES.get(match["unit"], "sky"),
                operator=match["operator"] or "exact",  # type: ignore[arg-type]
            )
        except (PogsonError, ValueError) as error:
            raise PogsonValueError(f"{text!r} names no flux reference: {error}") from None
    raise PogsonValueError(
        f"{text!r} names no flux reference; write 'total', 'aperture 12 px' or 'aperture 3 arcsec' "
        "(perhaps with the operator: 'aperture 12 px sinc')."
    )
