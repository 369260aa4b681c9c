"""The survey configuration: a TOML file, checked, with messages that name the line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from pogson.run.coadd_config import CoaddConfig
from pogson.run.solve_config import SolveConfig
from pogson.run.toml_config import read_toml_config

__all__ = [
    "AuditConfig",
    "AuditLimitsConfig",
    "InputsConfig",
    "MeasureConfig",
    "OutputConfig",
    "ReferenceConfig",
    "ReportConfig",
    "RunConfig",
    "SurveyConfig",
    "TruthConfig",
    "ZeroPointConfig",
    "load_config",
]


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str | int) and not isinstance(value, bool) else value


TextList = Annotated[list[str], BeforeValidator(_one_or_many)]
NameList = Annotated[list[str | int], BeforeValidator(_one_or_many)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SurveyConfig(_Section):
    """``[survey]``: what the run is called and where its files go.

    Examples
    --------
    >>> SurveyConfig(name="my field").output
    'pogson-output'
    """

    name: str = "survey"
    output: str = "pogson-output"


class InputsConfig(_Section):
    """``[inputs]``: the exposures and the files that belong to each.

    ``psf``, ``weight`` and ``mask`` are patterns: ``{stem}`` is the name of the exposure file
    without its last suffix, ``{root}`` the name up to its first dot, ``{detector}`` the detector;
    ``*`` and ``**`` work as in a shell.

    Examples
    --------
    >>> InputsConfig(exposures="night1/*.fits").exposures
    ['night1/*.fits']
    """

    exposures: TextList = Field(min_length=1)
    instrument: str | None = None
    detectors: NameList | None = None
    psf: str | None = None
    weight: str | None = None
    mask: str | None = None
    gain: PositiveFloat | None = None


class ReferenceConfig(_Section):
    """``[reference]``: the catalogue of known fluxes, and how its bands map on ours.

    ``bands`` maps a band of the exposures to the band of the catalogue; ``color`` names the two
    catalogue bands whose magnitude difference is the colour.

    Examples
    --------
    >>> ReferenceConfig(catalog="gaia.fits").match_radius
    1.0
    """

    catalog: TextList = Field(min_length=1)
    format: Literal["auto", "table", "gaia-chunk"] = "auto"
    bands: dict[str, str] = Field(default_factory=dict)
    color: Annotated[list[str], Field(min_length=2, max_length=2)] | None = None
    color_range: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    transformation: str | None = None
    match_radius: PositiveFloat = 1.0
    isolation: float = Field(default=0.0, ge=0.0)
    magnitude_range: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None


class MeasureConfig(_Section):
    """``[measure]``: how sources are found and measured; lengths in arcsec.

    Examples
    --------
    >>> MeasureConfig().calibration_aperture
    3.0
    """

    mode: Literal["detect", "forced"] = "detect"
    positions: str | None = None
    threshold: PositiveFloat = 5.0
    min_area: PositiveInt = 5
    apertures: list[PositiveFloat] = Field(default=[1.0, 1.5, 2.0, 3.0, 4.0, 5.0], min_length=1)
    calibration_aperture: PositiveFloat = 3.0
    operator: str = "exact"
    background: Literal["estimate", "local", "none"] = "estimate"
    background_mesh: PositiveInt = 128
    background_filter: PositiveInt = 3
    background_annulus: Annotated[list[PositiveFloat], Field(min_length=2, max_length=2)] = [
        6.0,
        9.0,
    ]
    measure: Literal["auto", "fluence", "surface_brightness"] = "auto"
    reference_pixel_area: PositiveFloat | None = None
    total: Literal["auto", "psf", "growth", "none"] = "auto"
    psf_flux: bool = True

    @model_validator(mode="after")
    def _calibration_aperture_is_measured(self) -> MeasureConfig:
        if self.mode == "detect" and not any(
            abs(r - self.calibration_aperture) < 1e-9 for r in self.apertures
        ):
            raise ValueError(
                f"calibration_aperture = {self.calibration_aperture} must be one of apertures = "
                f"{self.apertures}"
            )
        return self


class ZeroPointConfig(_Section):
    """``[zero_point]``: where zero points come from, and the model that is fitted.

    ``source = "fit"`` fits reference stars; ``"table"`` reads a table with a zero point per
    exposure; ``"header"`` takes the calibration that the exposure's own file declares.

    Examples
    --------
    >>> ZeroPointConfig().order
    0
    """

    source: Literal["fit", "table", "header"] = "fit"
    order: int = Field(default=0, ge=0, le=8)
    color_term: Literal["none", "fit", "fixed"] = "none"
    color_term_value: float | None = None
    color_pivot: float = 0.0
    min_stars: PositiveInt = 3
    clip: PositiveFloat = 4.0
    min_snr: PositiveFloat = 10.0
    table: str | None = None
    table_format: Literal["auto", "survey-ccds", "plain"] = "auto"
    table_column: str = "zero_point"
    per: Literal["second", "exposure"] = "second"
    header_convention: str | None = None

    @model_validator(mode="after")
    def _complete(self) -> ZeroPointConfig:
        if self.source == "table" and self.table is None:
            raise ValueError("source = 'table' needs the key table = 'path of the table'")
        if self.color_term == "fixed" and self.color_term_value is None:
            raise ValueError("color_term = 'fixed' needs the key color_term_value = (mag per mag)")
        return self


class OutputConfig(_Section):
    """``[output]``: which files are written and in what format.

    Examples
    --------
    >>> OutputConfig(catalog="ecsv").images
    True
    """

    catalog: Literal["parquet", "ecsv", "fits", "votable"] = "parquet"
    images: bool = True
    background_subtracted: bool = True


class ReportConfig(_Section):
    """``[report]``: the HTML report.

    Examples
    --------
    >>> ReportConfig().enabled
    True
    """

    enabled: bool = True
    title: str | None = None
    repeatability_radius: PositiveFloat = 1.0


class TruthConfig(_Section):
    """``[truth]``: known fluxes, for simulated data; the report shows them beside the result.

    Examples
    --------
    >>> TruthConfig(catalog="truth.parquet").match_radius
    0.5
    """

    catalog: str
    bands: dict[str, str] = Field(default_factory=dict)
    match_radius: PositiveFloat = 0.5


class AuditLimitsConfig(_Section):
    """``[audit.limits]``: what the audit must not break; see `pogson.inject.AuditLimits`.

    A limit is broken where the measured value lies beyond it by more than ``significance`` of its
    own standard errors, or could not be measured.

    Examples
    --------
    >>> AuditLimitsConfig(max_bias_mmag=5).significance
    2.0
    """

    max_bias_mmag: PositiveFloat | None = None
    max_pull_mean: PositiveFloat | None = None
    min_pull_rms: PositiveFloat | None = None
    max_pull_rms: PositiveFloat | None = None
    min_depth_50: float | None = None
    min_depth_90: float | None = None
    min_bright_completeness: float | None = Field(default=None, gt=0.0, le=1.0)
    min_purity: float | None = Field(default=None, gt=0.0, le=1.0)
    max_background_residual: PositiveFloat | None = None
    significance: float = Field(default=2.0, ge=0.0, le=10.0)


class AuditConfig(_Section):
    """``[audit]``: sources injected into every exposure and recovered; lengths in arcsec.

    Examples
    --------
    >>> AuditConfig().number
    200
    """

    enabled: bool = True
    number: PositiveInt = 200
    rounds: PositiveInt = 1
    pattern: Literal["random", "grid", "hexagonal"] = "random"
    min_separation: float | None = Field(default=None, ge=0.0)
    avoid: float = Field(default=0.0, ge=0.0)
    magnitudes: Literal["auto"] | Annotated[list[float], Field(min_length=2, max_length=2)] = "auto"
    distribution: str | None = None
    weight: str | None = None
    reference: str | None = None
    photon_noise: Literal["auto", "on", "off"] = "auto"
    injection_psf: str | None = None
    neighbors: str | None = None
    match_radius: PositiveFloat | None = None
    isolation: PositiveFloat | None = None
    neighbor_light: PositiveFloat = 0.1
    pull_snr: Annotated[list[float], Field(min_length=2, max_length=2)] = [5.0, 200.0]
    bin_width: PositiveFloat = 0.5
    seed: int = 0
    limits: AuditLimitsConfig = Field(default_factory=AuditLimitsConfig)

    @model_validator(mode="after")
    def _ranges_ascend(self) -> AuditConfig:
        if self.magnitudes != "auto" and not self.magnitudes[0] < self.magnitudes[1]:
            raise ValueError(f"magnitudes = {self.magnitudes} must be [bright, faint]")
        if not 0 <= self.pull_snr[0] < self.pull_snr[1]:
            raise ValueError(f"pull_snr = {self.pull_snr} must be [low, high]")
        if self.weight is not None and self.distribution is None:
            raise ValueError("weight names a column of distribution, which is not given")
        return self


class RunConfig(_Section):
    """A whole survey configuration; see `load_config`.

    Examples
    --------
    >>> config = RunConfig(inputs={"exposures": ["a.fits"]}, zero_point={"source": "header"})
    >>> config.measure.threshold
    5.0
    """

    survey: SurveyConfig = Field(default_factory=SurveyConfig)
    inputs: InputsConfig
    reference: ReferenceConfig | None = None
    measure: MeasureConfig = Field(default_factory=MeasureConfig)
    zero_point: ZeroPointConfig = Field(default_factory=ZeroPointConfig)
    solve: SolveConfig | None = None
    coadd: CoaddConfig | None = None
    output: OutputConfig = Field(default_factory=OutputConfig)
    report: ReportConfig = Field(default_factory=ReportConfig)
    truth: TruthConfig | None = None
    audit: AuditConfig | None = None
    folder: Path = Field(default=Path(), exclude=True, repr=False)

    @model_validator(mode="after")
    def _has_zero_points(self) -> RunConfig:
        relative = self.solves and not self.solve.references  # type: ignore[union-attr]
        if self.zero_point.source == "fit" and self.reference is None and not relative:
            raise ValueError(
                "zero points are fitted to a reference catalogue: add a section [reference] with "
                "catalog = ..., or set zero_point.source to 'table' or 'header'"
            )
        return self

    @model_validator(mode="after")
    def _has_images_to_add(self) -> RunConfig:
        if self.coadds and not self.output.images:
            raise ValueError("[coadd] adds the calibrated images, so output.images must be true")
        return self

    @property
    def coadds(self) -> bool:
        """Whether the calibrated images are added."""
        return self.coadd is not None and self.coadd.enabled

    @property
    def solves(self) -> bool:
        """Whether one solution of all exposures gives the zero points."""
        return self.solve is not None and self.solve.enabled

    @property
    def output_folder(self) -> Path:
        """Folder of the results; a relative one is taken from the folder of the TOML file."""
        return self.folder / self.survey.output

    def path(self, text: str) -> Path:
        """Return a path of the configuration, relative ones from the folder of the TOML file."""
        return self.folder / text


def load_config(
    path: str | Path, overrides: Sequence[str] = (), *, output: str | Path | None = None
) -> RunConfig:
    r"""Read and check a survey configuration.

    Parameters
    ----------
    path : str or pathlib.Path
        TOML file.
    overrides : sequence of str, optional
        ``"section.key=value"`` texts that replace values of the file; the value is TOML, or a
        bare word.
    output : str or pathlib.Path, optional
        Replaces ``survey.output``; relative to the current folder.

    Returns
    -------
    RunConfig
        Immutable.

    Raises
    ------
    ConfigError
        Naming the file, the line, the key, the value, what is allowed and a likely spelling.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "survey.toml"
    >>> _ = file.write_text('[inputs]\nexposures = "*.fits"\n[zero_point]\nsource = "header"\n')
    >>> load_config(file, ["measure.threshold=3"]).measure.threshold
    3.0
    >>> _ = file.write_text('[inputs]\nexposure = "*.fits"\n')
    >>> load_config(file)
    Traceback (most recent call last):
      ...
    pogson.errors.ConfigError: ...
    """
    return read_toml_config(path, RunConfig, overrides, output=output, output_section="survey")
