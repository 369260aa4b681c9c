"""What a header and an instrument preset together say about an image's numbers."""

from __future__ import annotations

import os
import re
from typing import Any

import astropy.units as u
import numpy as np

from pogson.errors import MeasureError, PogsonValueError, UnitMismatchError
from pogson.fields import Box
from pogson.formats.fits_access import header_value
from pogson.formats.instruments import InstrumentPreset
from pogson.units import Measure, parse_unit

__all__ = ["amplifier_gains", "checked_gain", "decide_measure", "decide_unit", "read_metadata"]


def decide_measure(
    header: Any, preset: InstrumentPreset, measure: str | Measure | None, path: Any = None
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
        try:
            return Measure.parse(card.strip().lower()), "the header card MEASURE"
        except MeasureError as error:
            where = "" if path is None else f"{os.fspath(path)}: "
            raise MeasureError(f"{where}header card MEASURE: {error}") from None
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
        try:
            found, why = parse_unit(card), "the header card BUNIT"
        except UnitMismatchError as error:
            raise UnitMismatchError(f"{os.fspath(path)}: header card BUNIT: {error}") from None
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
            f"of electrons per unit. Give the right one with gain=, or as [inputs] gain of a run."
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


def amplifier_gains(
    header: Any, preset: InstrumentPreset, path: Any, box: Box, factor: float = 1.0
) -> list[dict[str, Any]]:
    """Return the gain and the box of each amplifier that the preset and the header name.

    Gains are multiplied by ``factor`` (the exposure time for rates); boxes are in the exposure's
    pixel coordinates. Empty where the preset names none or an amplifier is not described.

    Examples
    --------
    >>> from pogson.formats.instruments import AmplifierKeywords, load_instrument
    >>> two = [AmplifierKeywords(gain=f"GAIN{k}", section=f"DATASEC{k}") for k in "AB"]
    >>> preset = load_instrument("generic").model_copy(update={"amplifiers": two})
    >>> header = {"GAINA": 1.5, "DATASECA": "[1:50,1:80]", "GAINB": 2, "DATASECB": "[51:100,1:80]"}
    >>> amplifier_gains(header, preset, "x.fits", Box(0, 0, 100, 80))[1]
    {'box': [50, 0, 50, 80], 'gain': 2.0}
    """
    out: list[dict[str, Any]] = []
    for one in preset.amplifiers:
        gain, section = (header_value(header, [k], path) for k in (one.gain, one.section))
        if gain is None or section is None:
            return []
        match = re.fullmatch(r"\[(\d+):(\d+),(\d+):(\d+)\]", str(section).replace(" ", ""))
        x1, x2, y1, y2 = (int(g) for g in match.groups()) if match else (0, -1, 0, -1)
        if not (1 <= x1 <= x2 and 1 <= y1 <= y2):
            raise PogsonValueError(
                f"{os.fspath(path)}: {one.section} {section!r} is no section; it must be "
                "[x1:x2,y1:y2] in FITS pixels, from 1."
            )
        corner = (box.x_min + x1 - 1, box.y_min + y1 - 1)
        out.append(
            {
                "box": [*corner, x2 - x1 + 1, y2 - y1 + 1],
                "gain": checked_gain(gain, one.gain, path) * factor,
            }
        )
    return out


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None
