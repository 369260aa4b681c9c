"""The configuration of a global solution: sections ``[solve]`` and ``[sources]``."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    field_validator,
)
from pydantic import model_validator as validator

from pogson.errors import ConfigError, PogsonError, choices

if TYPE_CHECKING:
    from pogson.survey import SurveyTables, Term

__all__ = [
    "TERM_KINDS",
    "SolveConfig",
    "SolveTermConfig",
    "SourcesConfig",
    "build_terms",
]

# kind in the configuration -> class in pogson.survey
TERM_KINDS: dict[str, str] = {
    "exposure_zero_point": "ExposureZeroPoint",
    "detector_zero_point": "DetectorZeroPoint",
    "exposure_polynomial": "ExposurePolynomial",
    "star_flat": "StarFlat",
    "radial_flat": "RadialFlat",
    "template_flat": "TemplateFlat",
    "jacobian": "KnownJacobian",
    "airmass_extinction": "AirmassExtinction",
    "color_slope": "ColorSlope",
    "color_flat": "ColorFlat",
    "seeing": "SeeingTerm",
    "mirror_decay": "MirrorDecay",
    "background_offset": "BackgroundOffset",
    "grey_cloud": "GreyCloud",
    "atmosphere": "Atmosphere",
}
"""Terms that a configuration may name, and their classes in `pogson.survey`."""

_DEFAULT: tuple[Mapping[str, Any], ...] = ({"kind": "exposure_zero_point"},)


class SolveTermConfig(BaseModel):
    """One table ``[[solve.terms]]``: a kind of term, and the settings of its class.

    Keys other than ``kind`` are those of the class in `pogson.survey`, such as ``name``,
    ``order``, ``by``, ``per``, ``prior_sigma``. A `TemplateFlat` takes ``files``, a `KnownJacobian`
    takes ``areas``: tables of field files (`pogson.fields`) by detector. The keys of an
    ``atmosphere`` are those of `pogson.run.solve_atmosphere.AtmosphereConfig`.

    Examples
    --------
    >>> SolveTermConfig(kind="star_flat", order=2).settings
    {'order': 2}
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, Any]

    kind: str

    @property
    def settings(self) -> dict[str, Any]:
        """Keys other than the kind."""
        return dict(self.model_extra or {})

    @validator(mode="after")
    def _known(self) -> SolveTermConfig:
        if self.kind not in TERM_KINDS:
            close = difflib.get_close_matches(self.kind, list(TERM_KINDS), n=1, cutoff=0.5)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(
                f"a term of kind {self.kind!r} is not known; allowed: {', '.join(TERM_KINDS)}{hint}"
            )
        return self


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _texts(value: Any) -> Any:
    many = value if isinstance(value, (list, tuple)) else [value]
    return [str(v) if isinstance(v, int) else v for v in many]


class SolveConfig(BaseModel):
    """``[solve]``: one calibration of all exposures from the stars that they share.

    Lengths in arcsec, magnitudes AB. ``floor`` and ``reference_floor`` are magnitudes or ``"fit"``;
    see `pogson.survey.SolveSettings` for them and for ``huber``, ``reject_sigma``, ``gauge``,
    ``solver``, ``held_out`` and ``max_passes``. ``nights_start`` is the fraction of a (UTC) day at
    which one night ends and the next begins; ``epochs`` are the dates (MJD) at which a new
    instrument epoch begins; ``floor_per`` says which exposures share an intrinsic floor;
    ``exclude`` names exposures that are to take no part; ``suspect_probability`` is the chance of a
    star's chi2 below which it is listed as variable or mismatched.

    Examples
    --------
    >>> SolveConfig().terms
    (SolveTermConfig(kind='exposure_zero_point'),)
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = True
    terms: tuple[SolveTermConfig, ...] = Field(
        default=tuple(SolveTermConfig(**t) for t in _DEFAULT), min_length=1
    )
    references: bool = True
    match_radius: PositiveFloat = 1.0
    isolation: float = Field(default=0.0, ge=0.0)
    min_detections: PositiveInt = 1
    min_snr: PositiveFloat = 10.0
    magnitude_range: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    floor: float | Literal["fit"] = "fit"
    floor_per: Literal["all", "filter", "night"] = "filter"
    reference_floor: float | Literal["fit"] = "fit"
    reject_sigma: PositiveFloat | None = 5.0
    huber: PositiveFloat | None = None
    max_passes: PositiveInt = 50
    gauge: Literal["refuse", "anchor"] = "refuse"
    min_ties: PositiveInt = 3
    exclude: Annotated[list[str], BeforeValidator(_texts)] = []
    solver: Literal["auto", "dense", "iterative"] = "auto"
    held_out: float = Field(default=0.0, ge=0.0, lt=1.0)
    seed: int = 1
    photometric_threshold: PositiveFloat | None = None
    nights_start: float = Field(default=0.5, ge=0.0, lt=1.0)
    epochs: tuple[float, ...] = ()
    partitions: Literal["auto", "never", "always"] = "auto"
    partition_rows: PositiveInt = 2_000_000
    suspect_probability: float = Field(default=1e-6, gt=0.0, lt=1.0)

    @validator(mode="after")
    def _names_differ(self) -> SolveConfig:
        names = [str(t.settings.get("name", t.kind)) for t in self.terms]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(
                f"two terms are called {choices(twice)}; give each its own name = '...'"
            )
        if [t.kind for t in self.terms].count("atmosphere") > 1:
            raise ValueError("two terms are an atmosphere; a solution has one at most")
        for key in ("floor", "reference_floor"):
            value = getattr(self, key)
            if not isinstance(value, str) and value < 0:
                raise ValueError(f"{key} = {value} must be magnitudes, 0 or more, or 'fit'")
        return self


class SourcesConfig(BaseModel):
    """``[sources]``: what the columns of the tables given to ``pogson solve`` are called.

    Needed for tables of other programs only: tables that pogson wrote say it themselves. ``flux``
    is an instrumental flux of the kind ``flux_reference`` ("total", "psf", or a radius in arcsec);
    or give ``mag`` instead. A value of ``band`` that is not a column is the band of all rows.

    Examples
    --------
    >>> SourcesConfig(flux="FLUX_APER").exposure
    'exposure'
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    files: Annotated[list[str], BeforeValidator(_one_or_many)] = []
    exposure: str = "exposure"
    detector: str = "detector"
    band: str = "band"
    ra: str = "ra"
    dec: str = "dec"
    x: str = "x"
    y: str = "y"
    flux: str = "flux"
    flux_err: str = "flux_err"
    mag: str | None = None
    mag_err: str | None = None
    mjd: str = "mjd"
    airmass: str = "airmass"
    seeing: str = "seeing"
    flags: str = "flags"
    unit: str = "adu"
    flux_reference: Literal["total", "psf"] | PositiveFloat = "total"
    measure: Literal["fluence", "surface_brightness"] = "fluence"
    detector_size: Annotated[list[PositiveInt], Field(min_length=2, max_length=2)] | None = None

    @field_validator("unit")
    @classmethod
    def _is_unit(cls, value: str) -> str:
        from astropy.units import Unit

        try:
            Unit(value)
        except ValueError:
            raise ValueError(
                f"{value!r} is not a unit of instrumental flux; give one such as 'adu', 'electron' "
                "or 'electron / s'"
            ) from None
        return value


def build_terms(
    config: SolveConfig,
    folder: Path,
    tables: SurveyTables,
    stars: tuple[np.ndarray, np.ndarray] | None = None,
) -> list[Term]:
    """Return the terms that a configuration names, in its order.

    Parameters
    ----------
    config : SolveConfig
        Section ``[solve]``.
    folder : pathlib.Path
        Where relative paths of field files start.
    tables : SurveyTables
        Exposures and detectors, for files by detector.
    stars : tuple of numpy.ndarray, optional
        Filter of each star and its colours, for an atmosphere with several of them.

    Raises
    ------
    ConfigError
        Naming the term and the key that is wrong.

    Examples
    --------
    >>> from pogson.survey import Detectors, Exposures, SurveyTables
    >>> tables = SurveyTables(Exposures([1]), Detectors([0]))
    >>> build_terms(SolveConfig(), Path(), tables)[0].name
    'exposure_zero_point'
    """
    return [
        _build(t, f"[solve] terms, number {i} ({t.kind})", folder, tables, stars)
        for i, t in enumerate(config.terms, start=1)
    ]


def _build(
    term: SolveTermConfig,
    where: str,
    folder: Path,
    tables: SurveyTables,
    stars: tuple[np.ndarray, np.ndarray] | None,
) -> Term:
    import pogson.survey as survey

    if term.kind == "atmosphere":
        from pogson.run.solve_atmosphere import build_atmosphere

        return build_atmosphere(term.settings, where, folder, tables, stars)
    made: Any = getattr(survey, TERM_KINDS[term.kind])
    settings = dict(term.settings)
    if term.kind == "jacobian":
        settings["areas"] = _fields(settings.get("areas"), "areas", where, folder, tables)
    if term.kind == "template_flat":
        maps = settings.pop("files", None)
        listed = maps if isinstance(maps, Sequence) and not isinstance(maps, str) else [maps]
        settings["templates"] = tuple(_fields(m, "files", where, folder, tables) for m in listed)
    allowed = [f.name for f in fields(made)]
    for key, value in settings.items():
        if key not in allowed:
            close = difflib.get_close_matches(key, allowed, n=1, cutoff=0.5)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ConfigError(f"{where}: unknown key {key!r}; allowed: {', '.join(allowed)}.{hint}")
        if key == "by":
            settings[key] = (value,) if isinstance(value, str) else tuple(value)
        elif isinstance(value, list):
            settings[key] = np.asarray(value, float)
    try:
        out: Term = made(**settings)
        out.size(tables)
        out.prior(tables)
    except PogsonError as error:
        raise ConfigError(f"{where}: {error}") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{where}: {settings} does not fit: {error}.") from None
    return out


def _fields(value: Any, key: str, where: str, folder: Path, tables: SurveyTables) -> dict[int, Any]:
    """Read a table of field files by detector."""
    from pogson.fields import read_field

    if not isinstance(value, Mapping) or not value:
        raise ConfigError(
            f"{where}: {key} must be a table of field files by detector, such as "
            f"{{ 1 = 'area_1.json' }}, not {value!r}."
        )
    detectors = tables.detectors
    known = dict(zip(detectors.labels, detectors.identifier, strict=True))
    out = {}
    for name, path in value.items():
        if str(name) not in known:
            raise ConfigError(
                f"{where}: {key} names detector {name!r}; the sources have "
                f"{choices(sorted(known))}."
            )
        file = folder / str(path)
        try:
            out[int(known[str(name)])] = read_field(file)
        except (OSError, ValueError, PogsonError) as error:
            raise ConfigError(f"{where}: {key}: cannot read {str(file)!r}: {error}.") from None
    return out
