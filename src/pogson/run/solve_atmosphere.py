"""The physical atmosphere of a configuration: passbands, spectra, priors of its term."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    ValidationError,
)

from pogson.errors import ConfigError, PogsonError, choices

if TYPE_CHECKING:
    from pogson.sed import Bandpass, Spectrum
    from pogson.survey import (
        Atmosphere,
        AtmosphereModel,
        AtmosphereState,
        ColorSeds,
        StarSeds,
        SurveyTables,
    )

__all__ = ["AtmosphereConfig", "build_atmosphere", "color_pairs", "solved_color_filters"]

_Pair = Annotated[list[float], Field(min_length=2, max_length=2)]
_Names = Annotated[list[str], Field(min_length=2, max_length=2)]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, (int, float)) else value


_Several = Annotated[list[float], BeforeValidator(_as_list), Field(min_length=1)]


class AtmosphereConfig(BaseModel):
    """A table ``[[solve.terms]]`` with ``kind = "atmosphere"``.

    ``bandpasses`` gives, for every band, the response of the instrument without atmosphere: a name
    as in `pogson.sed.load_filter_curve`, a file (ECSV, or text in ``wavelength_unit``), or a table
    of them by detector. Spectra follow from the stars' colour, whose passbands are
    ``color_bandpasses``, along stellar templates of ``temperatures`` (K) with ``metallicity`` and
    ``reddening`` E(B-V). With ``colors``, several pairs of bands of the reference catalogue, and as
    many pairs of ``color_bandpasses``, they follow from several colours of each star, along
    templates of every ``metallicity`` and ``reddening`` listed. ``order`` is "first" for the
    first-order correction, "full" for integrals of whole spectra to ``tolerance``. With
    ``solved_colors``, two bands, the colours are those of the solution itself, round by round.
    ``fit``, ``priors`` (mean, sigma) and ``bounds`` are those of `pogson.survey.Atmosphere`;
    ``standard`` holds fields of `pogson.survey.AtmosphereState` and ``altitude`` (m) says the
    pressure. ``absorbers`` replaces gases by tables of your own
    (`pogson.survey.TabulatedAbsorber.read`).

    Examples
    --------
    >>> AtmosphereConfig(bandpasses={"g": "decamDR1noatm-g"}).order
    'first'
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = "atmosphere"
    bandpasses: dict[str, str | dict[str, str]]
    color_bandpasses: _Names | list[_Names] | None = None
    colors: list[_Names] | None = None
    solved_colors: _Names | None = None
    order: Literal["first", "full"] = "first"
    tolerance: PositiveFloat = 1e-4
    temperatures: _Pair = [3600.0, 9000.0]
    metallicity: _Several = [-0.5]
    reddening: _Several = [0.0]
    fit: list[str] | None = None
    priors: dict[str, _Pair] = {}
    bounds: dict[str, _Pair] = {}
    standard: dict[str, float] = {}
    standard_airmass: PositiveFloat = 1.2
    altitude: float | None = None
    absorbers: dict[Literal["ozone", "oxygen", "water"], str] = {}
    wavelength_unit: str = "Angstrom"


def _checked(settings: Mapping[str, Any], where: str) -> AtmosphereConfig:
    try:
        return AtmosphereConfig(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(k) for k in first["loc"][:2])
        allowed = ", ".join(AtmosphereConfig.model_fields)
        extra = f"; allowed: {allowed}" if first["type"] == "extra_forbidden" else ""
        raise ConfigError(f"{where}: {key}: {first['msg']}{extra}.") from None


def solved_color_filters(
    settings: Mapping[str, Any], tables: SurveyTables
) -> tuple[int, int] | None:
    """Return the filters (rows) whose solved magnitudes make the colours, None if given ones do.

    Parameters
    ----------
    settings : mapping
        Of the term.
    tables : SurveyTables
        With the names of the filters.

    Raises
    ------
    ConfigError
        If a band has no exposure.

    Examples
    --------
    >>> from pogson.survey import Detectors, Exposures, SurveyTables
    >>> tables = SurveyTables(Exposures([1], filter_names=("g", "r")), Detectors([0]))
    >>> solved_color_filters({"solved_colors": ["g", "r"]}, tables)
    (0, 1)
    """
    names = settings.get("solved_colors")
    if names is None:
        return None
    bands = list(tables.exposures.filter_names)
    missing = [n for n in names if n not in bands]
    if missing:
        raise ConfigError(
            f"solved_colors names {choices(missing)}; the exposures have {choices(bands)}."
        )
    return bands.index(names[0]), bands.index(names[1])


def color_pairs(terms: Sequence[Any]) -> list[tuple[str, str]]:
    """Return the bands of the catalogue whose differences give stars their spectra, if several do.

    Parameters
    ----------
    terms : sequence of SolveTermConfig
        Terms of a configuration.

    Examples
    --------
    >>> from pogson.run.solve_config import SolveTermConfig
    >>> color_pairs([SolveTermConfig(kind="atmosphere", colors=[["g", "r"], ["r", "i"]])])
    [('g', 'r'), ('r', 'i')]
    """
    for term in terms:
        if term.kind == "atmosphere":
            pairs = term.settings.get("colors") or []
            if all(isinstance(p, (list, tuple)) and len(p) == 2 for p in pairs):
                return [(str(a), str(b)) for a, b in pairs]
    return []


def build_atmosphere(
    settings: Mapping[str, Any],
    where: str,
    folder: Path,
    tables: SurveyTables,
    stars: tuple[np.ndarray, np.ndarray] | None = None,
) -> Atmosphere:
    """Return the term that a configuration describes.

    Parameters
    ----------
    settings : mapping
        Keys of `AtmosphereConfig`.
    where : str
        For messages.
    folder : pathlib.Path
        Where relative paths start.
    tables : SurveyTables
        Exposures, with the names of their filters, and detectors.
    stars : tuple of numpy.ndarray, optional
        Filter of each star, and its colours, shape (stars, colours): for ``colors``.

    Raises
    ------
    ConfigError
        Naming the key that is wrong.

    Examples
    --------
    >>> from pogson.survey import Detectors, Exposures, SurveyTables
    >>> tables = SurveyTables(Exposures([1], filter_names=("g",)), Detectors([0]))
    >>> term = build_atmosphere(
    ...     {"bandpasses": {"g": "decamDR1noatm-g"}, "fit": ["log_aerosol"],
    ...      "color_bandpasses": ["sdss2010-g", "sdss2010-i"]}, "here", Path(), tables)
    >>> term.parameter_names(tables)
    ['night0;log_aerosol']
    """
    from pogson.survey import Atmosphere

    c = _checked(settings, where)
    try:
        standard = _standard(c, where)
        model = _model(c, folder)
        bands = [_band(c, name, where, folder, tables) for name in tables.exposures.filter_names]
        seds = (
            _one_color(c, where, folder, bands, model, standard, tables)
            if c.colors is None
            else _several_colors(c, where, folder, bands, stars)
        )
        options: dict[str, Any] = {} if c.fit is None else {"fit": tuple(c.fit)}
        return Atmosphere(
            bands, seds, name=c.name, model=model, standard=standard,
            standard_airmass=c.standard_airmass,
            priors={k: (v[0], v[1]) for k, v in c.priors.items()},
            bounds={k: (v[0], v[1]) for k, v in c.bounds.items()}, **options,
        )  # fmt: skip
    except (PogsonError, OSError, ValueError) as error:
        said = str(error)
        raise ConfigError(said if said.startswith(where) else f"{where}: {said}") from None


def _standard(c: AtmosphereConfig, where: str) -> AtmosphereState:
    from dataclasses import fields

    from pogson.survey import AtmosphereState
    from pogson.survey.atmosphere import site_pressure

    allowed = [f.name for f in fields(AtmosphereState)]
    wrong = [k for k in c.standard if k not in allowed]
    if wrong:
        raise ConfigError(f"{where}: standard has {choices(wrong)}; allowed: {choices(allowed)}.")
    values: dict[str, Any] = dict(c.standard)
    if c.altitude is not None:
        if "pressure" in values:
            raise ConfigError(f"{where}: give altitude or standard.pressure, not both.")
        values["pressure"] = site_pressure(c.altitude)
    return AtmosphereState(**values)


def _model(c: AtmosphereConfig, folder: Path) -> AtmosphereModel:
    from pogson.survey import AtmosphereModel, TabulatedAbsorber

    gases = {gas: TabulatedAbsorber.read(folder / file, gas) for gas, file in c.absorbers.items()}
    return AtmosphereModel(**gases)


def _curve(name: str, c: AtmosphereConfig, folder: Path) -> Bandpass:
    from pogson.sed import load_filter_curve

    file = folder / name
    if file.suffix and file.is_file():
        unit = None if file.suffix == ".ecsv" else c.wavelength_unit
        return load_filter_curve(file, unit=unit, detector="photon").bandpass
    return load_filter_curve(name).bandpass


def _band(
    c: AtmosphereConfig, band: str, where: str, folder: Path, tables: SurveyTables
) -> Bandpass | Sequence[Bandpass]:
    given = c.bandpasses.get(band)
    if given is None:
        raise ConfigError(
            f"{where}: bandpasses has none for band {band!r}; it has {choices(list(c.bandpasses))}."
        )
    if isinstance(given, str):
        return _curve(given, c, folder)
    names = tables.detectors.labels
    missing = [d for d in names if d not in given]
    if missing:
        raise ConfigError(
            f"{where}: bandpasses.{band} has none for detector {choices(missing[:5])}; give one "
            "for each, or one name for all."
        )
    return [_curve(given[d], c, folder) for d in names]


def _spectra(c: AtmosphereConfig, where: str) -> list[Spectrum]:
    from pogson.sed import stellar_template

    if min(c.reddening) < 0 or not np.isfinite(c.reddening).all():
        raise ConfigError(f"{where}: reddening {c.reddening} must be E(B-V), 0 or more.")
    low, high = sorted(c.temperatures)
    made = [stellar_template(t, metallicity=m)
            for m in c.metallicity for t in np.geomspace(low, high, 24)]  # fmt: skip
    return [s.redden(e) if e > 0 else s for e in c.reddening for s in made]


def _one_color(c: AtmosphereConfig, where: str, *given: Any) -> ColorSeds:
    """Return spectra along a sequence, by one colour."""
    from pogson.survey import ColorSeds

    if len(c.metallicity) > 1 or len(c.reddening) > 1:
        raise ConfigError(
            f"{where}: one colour cannot tell stars of different metallicity or reddening; give "
            "one number each, or colors, several pairs of bands of the reference catalogue."
        )
    bands = given[1]
    return ColorSeds.from_spectra(
        _spectra(c, where), bands, color=_color(c, where, *given), order=c.order,
        tolerance=c.tolerance,
    )  # fmt: skip


def _several_colors(
    c: AtmosphereConfig,
    where: str,
    folder: Path,
    bands: Sequence[Bandpass | Sequence[Bandpass]],
    stars: tuple[np.ndarray, np.ndarray] | None,
) -> StarSeds:
    """Return spectra star by star, by several colours."""
    from pogson.survey import StarSeds

    passbands, pairs = c.color_bandpasses or [], c.colors or []
    if len(pairs) != len(passbands) or any(isinstance(p, str) for p in passbands) or not pairs:
        raise ConfigError(
            f"{where}: colors has {len(pairs)} pairs of bands of the reference catalogue; give "
            "color_bandpasses a pair of passbands for each, in the same order, such as "
            "[['sdss2010-g', 'sdss2010-r'], ['sdss2010-r', 'sdss2010-i']]."
        )
    if c.solved_colors is not None:
        raise ConfigError(f"{where}: give colors or solved_colors, not both.")
    if stars is None:
        raise ConfigError(
            f"{where}: colors, spectra by several colours, need all stars in memory; choose "
            "solve.partitions = 'never', or one colour (reference.color, one pair of "
            "color_bandpasses)."
        )
    curves = [(_curve(p[0], c, folder), _curve(p[1], c, folder)) for p in passbands]
    filters, colors = stars
    return StarSeds.from_colors(
        _spectra(c, where), curves, colors, filters, bands, order=c.order,
        tolerance=max(c.tolerance, 1e-4),
    )  # fmt: skip


def _color(
    c: AtmosphereConfig,
    where: str,
    folder: Path,
    bands: Sequence[Bandpass | Sequence[Bandpass]],
    model: AtmosphereModel,
    standard: AtmosphereState,
    tables: SurveyTables,
) -> tuple[Bandpass, Bandpass]:
    """Return the passbands of the stars' colour: those named, or the standard ones of two bands."""
    from pogson.sed import Bandpass

    if c.color_bandpasses is not None:
        if c.solved_colors is not None:
            raise ConfigError(
                f"{where}: give color_bandpasses or solved_colors, not both: colours of the "
                "solution are in its own standard passbands."
            )
        names = c.color_bandpasses
        if len(names) != 2 or not all(isinstance(n, str) for n in names):
            raise ConfigError(
                f"{where}: color_bandpasses has {len(names)} pairs; say which bands of the "
                "reference catalogue they are of: colors = [['g', 'r'], ['r', 'i']]."
            )
        return _curve(str(names[0]), c, folder), _curve(str(names[1]), c, folder)
    filters = solved_color_filters({"solved_colors": c.solved_colors}, tables)
    if filters is None:
        raise ConfigError(
            f"{where}: give color_bandpasses, the passbands of the two bands of reference.color "
            "(such as ['sdss2010-g', 'sdss2010-r']), or solved_colors, two bands of the exposures."
        )
    first = [bands[f] if isinstance(bands[f], Bandpass) else bands[f][0] for f in filters]  # type: ignore[index]
    blue, red = (model.bandpass(b, c.standard_airmass, standard) for b in first)  # type: ignore[arg-type]
    return blue, red
