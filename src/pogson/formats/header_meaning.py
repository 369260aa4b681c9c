"""What a header and an instrument preset together say about an image's numbers."""

from __future__ import annotations

import os
from typing import Any

import astropy.units as u
import numpy as np

from pogson.errors import PogsonValueError, UnitMismatchError
from pogson.formats.fits_access import header_value
from pogson.formats.instruments import InstrumentPreset
from pogson.units import Measure, parse_unit

__all__ = ["checked_gain", "decide_measure", "decide_unit", "read_metadata"]


def decide_measure(
    header: Any, preset: InstrumentPreset, measure: str | Measure | None
) -> tuple[Measure | None, str]:
    """Return what the pixels measure and why we think so; None where nothing tells.

    The order is: the caller's word, the header card MEASURE, the preset's rules, its default.

    Examples
    --------
    >>> from pogson.formats.instruments import load_instrument
    >>> decide_measure({"STARFIL": "a.fits"}, load_instrument("decam-cp"), None)[0].value
    'fluence'
    """
    if measure is not None and str(measure) != "auto":
        return Measure.parse(measure), "said by the caller"
    card = header_value(header, ["MEASURE"])
    if isinstance(card, str) and card:
        return Measure.parse(card.strip().lower()), "the header card MEASURE"
    for rule in preset.measure_rules:
        value = header_value(header, [rule.keyword])
        present = value is not None and value is not False
        if present == rule.present:
            return rule.measure, rule.because
    if preset.measure is not None:
        return preset.measure, preset.measure_because or f"the instrument preset {preset.name}"
    return None, "neither the header nor the instrument preset says it"


_PIXEL_UNITS = ("adu", "electron", "count", "photon", "DN", "nJy")


def decide_unit(
    header: Any, preset: InstrumentPreset, unit: Any, path: Any
) -> tuple[u.UnitBase | None, str]:
    """Return the unit of the pixels and why; None where nothing tells.

    Raises
    ------
    UnitMismatchError
        If the unit given or found is not counts, electrons, photons or a flux density, per second
        or per exposure.
    """
    card = header_value(header, ["BUNIT"], path)
    if unit is not None:
        found, why = parse_unit(unit), "said by the caller"
    elif card is not None and preset.trust_bunit:
        found, why = parse_unit(card), "the header card BUNIT"
    elif preset.unit:
        found = parse_unit(preset.unit)
        why = preset.unit_because or f"the instrument preset {preset.name}"
    else:
        return None, "the header has no BUNIT and the instrument preset does not say it"
    for base in _PIXEL_UNITS:
        for allowed in (u.Unit(base), u.Unit(base) / u.s):
            for per_area in (allowed, allowed / u.arcsec**2, allowed / u.pix):
                if found.is_equivalent(per_area):
                    return found, why
    raise UnitMismatchError(
        f"{os.fspath(path)}: unit {str(found)!r} is not a unit of pixels; allowed are adu, count, "
        f"DN, electron, photon (per exposure or per second) and flux densities such as nJy."
    )


def checked_gain(value: Any, keyword: str, path: Any) -> float:
    """Return a gain, making sure that it is a positive number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not (np.isfinite(number) and number > 0):
        raise PogsonValueError(
            f"{os.fspath(path)}: {keyword} {value!r} is not a gain; it must be a positive number "
            f"of electrons per unit. Give the right one with gain=."
        )
    return number


def read_metadata(
    header: Any, preset: InstrumentPreset, path: Any, unit: u.UnitBase | None, gain: Any = None
) -> dict[str, Any]:
    """Return the quantities a preset finds in a header, under their pogson names.

    ``gain`` is the number of electrons per unit of the pixels, so 1 for pixels in electrons and
    multiplied by the exposure time for rates.
    """
    out: dict[str, Any] = {}
    for name, keywords in preset.keywords.items():
        if name != "gain":
            value = header_value(header, keywords, path)
            out[name] = value.item() if isinstance(value, np.generic) else value
    seconds = _number(out.get("exposure_time"))
    out["exposure_time"] = seconds if seconds is not None and seconds > 0 else None
    for name in ("airmass", "mjd", "saturation", "read_noise", "seeing_pixels"):
        if name in out:
            out[name] = _number(out[name])
    gains = [
        checked_gain(header_value(header, [k], path), k, path)
        for k in preset.keywords.get("gain", [])
        if header_value(header, [k], path) is not None
    ]
    value = None if not gains else float(np.mean(gains if preset.average_gain else gains[:1]))
    if gain is not None:
        value = float(gain)
    elif unit is not None:
        seconds_unit = u.s in unit.bases and unit.powers[unit.bases.index(u.s)] == -1
        if u.electron in unit.bases or u.photon in unit.bases:
            value = 1.0
        elif unit.is_equivalent(u.nJy):
            value = None
        if seconds_unit and value is not None:
            value = None if out["exposure_time"] is None else value * out["exposure_time"]
    out["gain"] = value
    if out.get("filter") == "_unknown_":  # how the LSST stack says that it does not know
        out["filter"] = None
    if isinstance(out.get("filter"), str):
        word = out["filter"].split()[0]
        out["band"] = preset.bands.get(str(out.get("band") or word), out.get("band") or word)
    return out


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None
