"""The configuration of `pogson stars fit` and `pogson offsets`: catalogue, grid, fit, priors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from pogson.errors import ConfigError
from pogson.run.config import TextList
from pogson.run.toml_config import checked_config, read_toml_config

__all__ = [
    "OffsetsConfig",
    "StarCatalogConfig",
    "StarFitConfig",
    "StarGridConfig",
    "StarPriorsConfig",
    "StarsConfig",
    "StarsReportConfig",
    "StarsRunConfig",
    "load_stars_config",
]


def _pair(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) and len(value) == 2 else value


Pair = Annotated[tuple[str, str], BeforeValidator(_pair)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StarsConfig(_Section):
    """``[stars]``: what the job is called, where its files go, and the seed of random draws.

    Examples
    --------
    >>> StarsConfig().output
    'stars-output'
    """

    name: str = "stars"
    output: str = "stars-output"
    seed: NonNegativeInt = 1


class StarCatalogConfig(_Section):
    """``[catalog]``: files of stars, and which columns hold what.

    ``bands`` maps bands of the grid to pairs of columns (value, error); where it is left out, and
    for parallax, position and identifier, usual names are looked for. ``table`` is the extension of
    FITS files or the dataset of HDF5 files. ``select`` keeps the rows whose values in some columns
    lie within limits. ``extinction`` names a column of what is known of each star's extinction
    beforehand, or a pair with its standard deviation; ``extinction_scale`` is A_V per unit of them,
    ``extinction_floor`` a scatter in A_V added in quadrature.

    Examples
    --------
    >>> StarCatalogConfig(files="stars.fits").kind
    'magnitude'
    """

    files: TextList = Field(min_length=1)
    table: str | int | None = None
    rows: tuple[NonNegativeInt, NonNegativeInt] | None = None
    select: dict[str, tuple[float, float]] = Field(default_factory=dict)
    kind: Literal["magnitude", "flux"] = "magnitude"
    unit: Literal["maggie", "nJy"] = "maggie"
    bands: dict[str, Pair] | None = None
    parallax: Pair | Literal["none"] | None = None
    parallax_unit: Literal["mas", "arcsec"] = "mas"
    parallax_zero_point: float = 0.0
    parallax_floor: NonNegativeFloat = 0.0
    position: Pair | None = None
    frame: Literal["galactic", "icrs"] = "galactic"
    id: str | None = None
    extinction: Pair | str | None = None
    extinction_scale: PositiveFloat = 1.0
    extinction_floor: NonNegativeFloat = 0.0
    min_bands: PositiveInt = 1
    bad_errors: Literal["mask", "raise"] = "mask"

    @model_validator(mode="after")
    def _spread_of_extinctions(self) -> StarCatalogConfig:
        if isinstance(self.extinction, str) and self.extinction_floor == 0.0:
            raise ValueError(
                f"extinction = {self.extinction!r} has no column of its standard deviation: give "
                f'one, extinction = ["{self.extinction}", "..."], or extinction_floor'
            )
        return self

    def column_options(self) -> dict[str, Any]:
        """Return what `pogson.formats.star_columns.StarColumns` takes."""
        names = ("kind", "unit", "parallax_unit", "parallax_zero_point", "parallax_floor",
                 "extinction_scale", "extinction_floor")  # fmt: skip
        out: dict[str, Any] = {n: getattr(self, n) for n in names}
        for name in ("bands", "position", "id"):
            if getattr(self, name) is not None:
                out[name] = getattr(self, name)
        if self.position is not None:
            out["frame"] = self.frame
        if self.extinction is not None:
            own = self.extinction
            out["extinction"] = (own,) if isinstance(own, str) else own
        if self.parallax is not None:
            out["parallax"] = None if self.parallax == "none" else self.parallax
        return out


class StarGridConfig(_Section):
    """``[grid]``: the file of models, and which of its bands and models to use.

    Without ``bands`` all that grid and catalogue share. Binaries are left out unless asked for.

    Examples
    --------
    >>> StarGridConfig(file="mist.h5").bands is None
    True
    """

    file: str
    bands: TextList | None = None
    main_sequence: bool = True
    evolved: bool = True
    binaries: bool = False

    @model_validator(mode="after")
    def _different_bands(self) -> StarGridConfig:
        if self.bands is not None and len(set(self.bands)) < len(self.bands):
            twice = sorted({b for b in self.bands if self.bands.count(b) > 1})
            raise ValueError(f"bands names {', '.join(twice)} more than once")
        return self

    @property
    def whole(self) -> bool:
        """Whether the models are those that a file is read with by default."""
        return self.main_sequence and self.evolved and not self.binaries


class StarFitConfig(_Section):
    """``[fit]``: settings of the fit, and the offsets to apply to the photometry first.

    ``error_floor`` is a fraction of the flux, for all bands or by band; ``"offsets"`` takes the
    intrinsic scatter that the offsets file holds. ``fit_error_scale`` times the error that the
    grid has for its extinction formula is added in quadrature. ``chunk`` is stars a task.

    Examples
    --------
    >>> StarFitConfig().draws
    250
    """

    draws: PositiveInt = 250
    proposals: PositiveInt = 2000
    min_ess: PositiveFloat = 200.0
    error_floor: float | dict[str, float] | Literal["offsets"] = 0.0
    fit_error_scale: NonNegativeFloat = 0.0
    offsets: str | None = None
    distance_limits: tuple[PositiveFloat, PositiveFloat] = (0.001, 1000.0)
    chunk: PositiveInt = 256
    nside: PositiveInt | None = None

    @model_validator(mode="after")
    def _floor_from_offsets(self) -> StarFitConfig:
        if self.error_floor == "offsets" and self.offsets is None:
            raise ValueError("error_floor = 'offsets' needs the file: offsets = 'offsets.ecsv'")
        return self


class StarPriorsConfig(_Section):
    """``[priors]``: what is known before the photometry.

    ``distance`` is ``"galactic"`` (thin disc, thick disc, halo), ``"flat"`` (in distance),
    ``"modulus"`` (flat in distance modulus) or ``"volume"``. Without ``av_sd`` the extinction is
    flat between its limits. ``dust_map`` is a HEALPix file of extinction by sightline (see
    `pogson.stars.read_dust_map`) in place of both; ``dust_scale`` is A_V per unit of the map,
    ``dust_scatter`` that of stars about it, magnitudes.

    Examples
    --------
    >>> StarPriorsConfig(av_mean=0.12, av_sd=0.02).distance
    'galactic'
    """

    distance: Literal["galactic", "flat", "modulus", "volume"] = "galactic"
    metallicity: bool = True
    age: bool = True
    mass_function: bool = True
    lattice_volume: bool = True
    av_mean: float = 0.0
    av_sd: PositiveFloat | None = None
    av_limits: tuple[float, float] = (0.0, 20.0)
    dust_map: str | None = None
    dust_scale: PositiveFloat = 1.0
    dust_scatter: NonNegativeFloat = 0.1
    dust_column: str | None = None
    dust_sd_column: str | None = None
    rv_mean: PositiveFloat = 3.32
    rv_sd: NonNegativeFloat = 0.18
    rv_limits: tuple[float, float] = (1.0, 8.0)

    @model_validator(mode="after")
    def _one_prior_of_extinction(self) -> StarPriorsConfig:
        if self.dust_map is not None and self.av_sd is not None:
            raise ValueError("dust_map takes the place of av_mean and av_sd; leave out one of them")
        return self


class OffsetsConfig(_Section):
    """``[offsets]``: how band offsets are inferred.

    ``gauge`` has no default: a grey offset looks like a change of all distances, so say what holds
    it: ``"parallax"`` for absolute offsets, a band's name for offsets relative to it, ``"mean"``.
    ``scatter`` holds the scatter of all bands; left out, one is inferred for each, not below
    ``scatter_floor``: what the colours of the models are good to, 0 for simulated stars. ``truth``
    is an offsets file to compare with, for simulations.

    Examples
    --------
    >>> OffsetsConfig(gauge="PS_r").min_bands
    5
    """

    gauge: str | None = None
    min_bands: PositiveInt = 5
    max_stars: PositiveInt | None = None
    max_rounds: PositiveInt = 20
    averages: PositiveInt = 4
    prior_std: PositiveFloat = 0.1
    scatter: NonNegativeFloat | None = None
    scatter_floor: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.02
    outliers: bool = True
    draws: PositiveInt = 250
    truth: str | None = None
    trends: bool = True


class StarsReportConfig(_Section):
    """``[report]``: the HTML page; ``stars`` is how many stars get a corner and an SED plot.

    ``cluster`` adds the common distance and extinction of the stars, with the rest of them as a
    background.

    Examples
    --------
    >>> StarsReportConfig().stars
    4
    """

    enabled: bool = True
    title: str | None = None
    stars: NonNegativeInt = 4
    cluster: bool = False


class StarsRunConfig(_Section):
    """A whole configuration of `pogson stars fit` and `pogson offsets`.

    Examples
    --------
    >>> config = StarsRunConfig(catalog={"files": "stars.fits"}, grid={"file": "mist.h5"})
    >>> config.fit.draws, config.priors.distance
    (250, 'galactic')
    """

    stars: StarsConfig = Field(default_factory=StarsConfig)
    catalog: StarCatalogConfig
    grid: StarGridConfig
    fit: StarFitConfig = Field(default_factory=StarFitConfig)
    priors: StarPriorsConfig = Field(default_factory=StarPriorsConfig)
    offsets: OffsetsConfig = Field(default_factory=OffsetsConfig)
    report: StarsReportConfig = Field(default_factory=StarsReportConfig)
    folder: Path = Field(default=Path(), exclude=True, repr=False)

    @model_validator(mode="after")
    def _same_priors_for_a_cluster(self) -> StarsRunConfig:
        own = self.priors.dust_map or self.catalog.extinction
        if self.report.cluster and (self.priors.distance == "galactic" or own is not None):
            raise ValueError(
                "[report] cluster needs priors that are the same for all stars: [priors] distance "
                '= "modulus" (or "flat", "volume"), no dust_map and no [catalog] extinction'
            )
        return self

    @property
    def output_folder(self) -> Path:
        """Folder of the results; a relative one is taken from the folder of the TOML file."""
        return self.folder / self.stars.output

    def path(self, text: str) -> Path:
        """Return a path of the configuration, relative ones from the folder of the TOML file."""
        return self.folder / text

    def catalog_files(self) -> list[Path]:
        """Return the files of stars, patterns expanded, in order.

        Raises
        ------
        ConfigError
            If one is not there.
        """
        out: list[Path] = []
        for text in self.catalog.files:
            whole = self.path(text)
            if whole.is_file():
                out.append(whole)
                continue
            found = sorted(whole.parent.glob(whole.name)) if set(whole.name) & set("*?[") else []
            if not found:
                raise ConfigError(f"[catalog] files: there is no file {str(whole)!r}.")
            out += found
        return out

    def read_grid(self, bands: Sequence[str]) -> Any:
        """Return the grid in some bands, with the models asked for."""
        from pogson.stars import read_grid

        g = self.grid
        return read_grid(
            self.path(g.file), bands=list(bands), include_ms=g.main_sequence,
            include_postms=g.evolved, include_binaries=g.binaries,
        )  # fmt: skip

    def priors_object(self) -> Any:
        """Return the priors as `pogson.stars.StarPriors`."""
        import numpy as np

        from pogson.stars import (
            ExtinctionPrior,
            FlatDistance,
            GalacticPrior,
            LatticeVolume,
            MassFunction,
            RvPrior,
            StarExtinctionPrior,
            StarPriors,
            read_dust_map,
        )

        p = self.priors
        distance: Any = GalacticPrior(metallicity=p.metallicity, age=p.age)
        powers = {"flat": 0.0, "modulus": -1.0, "volume": 2.0}
        if p.distance in powers:
            distance = FlatDistance(powers[p.distance])
        models: list[Any] = [MassFunction()] if p.mass_function else []
        models += [LatticeVolume()] if p.lattice_volume else []
        sd = np.inf if p.av_sd is None else p.av_sd
        extinction: Any = ExtinctionPrior(p.av_mean, sd, *p.av_limits)
        if p.dust_map is not None:
            extinction = read_dust_map(
                self.path(p.dust_map), scale=p.dust_scale, scatter=p.dust_scatter,
                column=p.dust_column, sd_column=p.dust_sd_column, low=p.av_limits[0],
                high=p.av_limits[1],
            )  # fmt: skip
        if self.catalog.extinction is not None:
            extinction = StarExtinctionPrior(extinction)
        return StarPriors(
            models=tuple(models),
            distance=distance,
            extinction=extinction,
            rv=RvPrior(p.rv_mean, p.rv_sd, *p.rv_limits),
        )


def load_stars_config(
    source: str | Path,
    overrides: Sequence[str] = (),
    *,
    output: str | Path | None = None,
    given: Mapping[str, Mapping[str, Any]] | None = None,
) -> StarsRunConfig:
    r"""Read and check a configuration, or make one for a catalogue.

    Parameters
    ----------
    source : str or pathlib.Path
        A file ending in ``.toml``, else a catalogue of stars.
    overrides : sequence of str, optional
        ``"section.key=value"`` texts that replace values.
    output : str or pathlib.Path, optional
        Replaces ``stars.output``; relative to the current folder.
    given : mapping of sections to keys, optional
        Values that replace those of the file, such as those of command-line options; paths are
        relative to the current folder.

    Returns
    -------
    StarsRunConfig
        Immutable.

    Raises
    ------
    ConfigError
        Naming the file, the line, the key, the value, what is allowed and a likely spelling.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "stars.toml"
    >>> _ = file.write_text('[catalog]\nfiles = "stars.fits"\n[grid]\nfile = "mist.h5"\n')
    >>> config = load_stars_config(file, ["fit.draws=100"])
    >>> config.catalog.files, config.fit.draws
    (['stars.fits'], 100)
    """
    extra = {s: dict(v) for s, v in (given or {}).items() if v}
    for section, key in (("grid", "file"), ("fit", "offsets"), ("offsets", "truth")):
        if key in extra.get(section, {}):
            extra[section][key] = str(Path(extra[section][key]).absolute())
    if Path(source).suffix == ".toml":
        return read_toml_config(
            source, StarsRunConfig, overrides, output=output, output_section="stars", given=extra
        )
    if not Path(source).is_file():
        raise ConfigError(f"There is no catalogue {str(source)!r}.")
    if "file" not in extra.get("grid", {}):
        raise ConfigError("A catalogue needs a grid of models: give --grid FILE.")
    extra.setdefault("catalog", {})["files"] = [str(Path(source).absolute())]
    return checked_config(
        extra, StarsRunConfig, overrides, output=output, output_section="stars",
        folder=Path.cwd(), said="command line",
    )  # fmt: skip
