"""Instrument presets: what a camera's files hold and what their numbers mean, as TOML data.

A preset says where the image, mask and weight are (extensions or sibling files), which header
keyword is which quantity, how mask values map to pogson's mask names, the unit of the pixels, and
whether the flat-fielding left surface brightness or fluence. Presets of known pipelines ship with
the package; a user's own is a TOML file with the same keys.
"""

from __future__ import annotations

import os
import re
import tomllib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pogson.errors import ConfigError, choices
from pogson.images.mask import MASK_DOCS
from pogson.units import Measure, parse_unit

__all__ = [
    "InstrumentPreset",
    "MaskRule",
    "MeasureRule",
    "available_instruments",
    "load_instrument",
]

MASK_NAMES = tuple(MASK_DOCS)
"""Mask names a preset may map to."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MeasureRule(_Strict):
    """One rule for the measure of an image: a header keyword that is present decides.

    Parameters
    ----------
    keyword : str
        Header keyword.
    present : bool
        Whether the rule fires when the keyword has a value (default) or has none.
    measure : {"fluence", "surface_brightness"}
        What the image then is.
    because : str
        Why, in words; shown by ``pogson inspect``.
    """

    keyword: str
    present: bool = True
    measure: Measure
    because: str


class MaskRule(_Strict):
    """How mask pixel values map to mask names.

    Parameters
    ----------
    kind : {"codes", "bits", "planes"}
        ``codes``: the value is one integer code; ``bits``: powers of two are added; ``planes``:
        the header names its own bits (``MP_<NAME> = bit number``, the LSST convention).
    values : dict
        Value (codes), bit value (bits) or plane name (planes) -> mask name; an empty name means
        the value is ignored. A value that is not listed becomes ``unknown``.
    unknown : str
        Mask name for values that are not listed.
    source : str
        Where this is documented.
    """

    kind: Literal["codes", "bits", "planes"]
    values: dict[str, str]
    unknown: str = "BAD"
    source: str = ""

    @field_validator("values")
    @classmethod
    def _names_known(cls, values: dict[str, str]) -> dict[str, str]:
        for key, name in values.items():
            if name and name not in MASK_NAMES:
                raise ValueError(f"{key} = {name!r}: allowed names are {choices(MASK_NAMES)}")
        return values

    @field_validator("unknown")
    @classmethod
    def _unknown_known(cls, name: str) -> str:
        if name not in MASK_NAMES:
            raise ValueError(f"unknown = {name!r}: allowed names are {choices(MASK_NAMES)}")
        return name


class VersionedMask(_Strict):
    """Mask rules that depend on the pipeline version in the header."""

    version_keyword: str
    since: str
    after: MaskRule
    before: MaskRule


class AmplifierKeywords(_Strict):
    """Header keywords of one amplifier's gain and of its part of the image.

    Parameters
    ----------
    gain : str
        Keyword of the gain, electron per pixel unit.
    section : str
        Keyword of the section ``[x1:x2,y1:y2]``, FITS pixels (from 1) of the stored image.
    """

    gain: str
    section: str


class Siblings(_Strict):
    """File-name rule that finds the image, mask and weight of one exposure from any of the three.

    Parameters
    ----------
    pattern : str
        Regular expression with exactly one group, the part of the name that differs.
    image, mask, weight : str
        That part in the three names (``mask`` and ``weight`` empty when there is no such file).
    """

    pattern: str
    image: str
    mask: str = ""
    weight: str = ""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        if groups != 1:
            raise ValueError(f"must have exactly one group, has {groups}")
        return pattern


class InstrumentPreset(_Strict):
    """What the files of one instrument or pipeline mean.

    Parameters
    ----------
    name, description : str
        Short name and one sentence.
    sources : list of str
        Documents on which the preset rests.
    unit : str
        Unit of the pixels when the header's BUNIT is absent (``"adu"``, ``"electron / s"`` ...);
        empty for "unknown".
    unit_because, measure_because : str
        Why, in words; a text that begins with "assumed" says that the files do not tell.
    trust_bunit : bool
        Whether BUNIT, when present, wins over ``unit``.
    per_second : bool or None
        Whether pixels are rates; only for words, the unit says it too. None: unknown.
    measure : Measure or None
        Measure when no rule of ``measure_rules`` fires; None for unknown.
    measure_rules : list of MeasureRule
        Tried in order.
    pixel_area : float or None
        Reference pixel area A0 in arcsec2 (fluence = surface brightness x A / A0), one for the
        whole camera so that zero points of its detectors can be compared. None: the area at the
        centre of each image.
    keywords : dict
        Quantity -> header keywords in order of preference. Known quantities: exposure_time (s),
        gain (electron per pixel unit; several keywords are averaged when ``average_gain``),
        airmass, mjd, filter, band, exposure, detector, saturation, seeing, read_noise ...; others
        are copied to the metadata as they are.
    amplifiers : list of AmplifierKeywords
        Gain and section of each amplifier, for images whose amplifiers are not gain-balanced; kept
        as ``metadata["amplifiers"]``.
    bands : dict
        First word of the filter name -> short band name.
    image_extension, mask_extension, weight_extension : str or None
        Extension names in the image's own file, when the three are in one file.
    weight_kind : {"inverse_variance", "variance", "standard_deviation"}
        What the weight numbers are.

    Examples
    --------
    >>> preset = load_instrument("decam-cp")
    >>> preset.unit, preset.weight_kind, preset.keywords["airmass"]
    ('adu', 'inverse_variance', ['AIRMASS'])
    """

    name: str
    description: str = ""
    sources: list[str] = Field(default_factory=list)
    unit: str = ""
    unit_because: str = ""
    trust_bunit: bool = True
    per_second: bool | None = None
    measure: Measure | None = None
    measure_because: str = ""
    measure_rules: list[MeasureRule] = Field(default_factory=list)
    pixel_area: float | None = Field(default=None, gt=0)
    keywords: dict[str, list[str]] = Field(default_factory=dict)
    average_gain: bool = False
    amplifiers: list[AmplifierKeywords] = Field(default_factory=list)
    bands: dict[str, str] = Field(default_factory=dict)
    bandpasses: dict[str, str] = Field(default_factory=dict)
    image_extension: str | None = None
    mask_extension: str | None = None
    weight_extension: str | None = None
    weight_kind: Literal["inverse_variance", "variance", "standard_deviation"] = "inverse_variance"
    siblings: Siblings | None = None
    mask: MaskRule | None = None
    versioned_mask: VersionedMask | None = None
    zero_point: str = ""
    background: str = ""

    @field_validator("unit")
    @classmethod
    def _unit_known(cls, unit: str) -> str:
        if unit:
            try:
                parse_unit(unit)
            except ValueError as error:
                raise ValueError(str(error)) from None
        return unit

    def mask_rule(self, version: Any) -> MaskRule | None:
        """Return the mask rule for a pipeline version (any text such as ``'V4.8.2a'``).

        Examples
        --------
        >>> preset = load_instrument("decam-cp")
        >>> preset.mask_rule("V4.8.2a").kind, preset.mask_rule("V3.2.0").kind
        ('codes', 'bits')
        """
        if self.versioned_mask is None:
            return self.mask
        rules = self.versioned_mask
        if version is None:
            return rules.after
        newer = version_tuple(version) >= version_tuple(rules.since)
        return rules.after if newer else rules.before


def version_tuple(text: Any) -> tuple[int, ...]:
    """Return the numbers of a version text, e.g. (4, 8, 2) for ``'V4.8.2a'``.

    Examples
    --------
    >>> version_tuple("DES V3.5.0+1")
    (3, 5, 0)
    """
    match = re.search(r"(\d+)(?:\.(\d+))?(?:\.(\d+))?", str(text))
    if match is None:
        return (0, 0, 0)
    a, b, c = (int(g) if g else 0 for g in match.groups())
    return (a, b, c)


@cache
def available_instruments() -> tuple[str, ...]:
    """Return the names of the presets that ship with the package.

    Examples
    --------
    >>> available_instruments()
    ('decam-cp', 'generic', 'hsc', 'native', 'pogson-sim')
    """
    folder = resources.files("pogson.formats") / "instruments"
    return tuple(sorted(p.name[:-5] for p in folder.iterdir() if p.name.endswith(".toml")))


def load_instrument(name: str | os.PathLike[str] | InstrumentPreset) -> InstrumentPreset:
    """Return an instrument preset.

    Parameters
    ----------
    name : str, path-like or InstrumentPreset
        Name of a shipped preset, the path of a TOML file with the same keys, or a preset.

    Returns
    -------
    InstrumentPreset

    Raises
    ------
    ConfigError
        If there is no such preset or file, or it has unknown keys or values; the message names
        the key and what is allowed.

    Examples
    --------
    >>> load_instrument("decam-cp").unit
    'adu'
    """
    if isinstance(name, InstrumentPreset):
        return name
    text = os.fspath(name)
    if text in available_instruments():
        folder = resources.files("pogson.formats") / "instruments"
        return _parse((folder / f"{text}.toml").read_text("utf-8"), f"preset {text}")
    path = Path(text)
    if path.suffix == ".toml":
        try:
            return _parse(path.read_text("utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"Cannot read the instrument preset {path}: {error}.") from error
    raise ConfigError(
        f"Unknown instrument {text!r}; allowed: {choices(available_instruments())}, or the path "
        f"of a .toml file."
    )


def _parse(text: str, where: str) -> InstrumentPreset:
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where} is not valid TOML: {error}.") from error
    base = content.pop("based_on", None)
    if base is not None:
        content = {**load_instrument(base).model_dump(exclude_unset=True), **content}
    try:
        return InstrumentPreset.model_validate(content)
    except ValidationError as error:
        lines = []
        for item in error.errors():
            key = ".".join(str(part) for part in item["loc"])
            if item["type"] == "extra_forbidden":
                lines.append(
                    f"{key}: unknown key; allowed: {choices(sorted(InstrumentPreset.model_fields))}"
                )
            else:
                lines.append(f"{key}: {item['msg']} (got {item['input']!r})")
        raise ConfigError(f"{where}: " + "; ".join(lines) + ".") from None
