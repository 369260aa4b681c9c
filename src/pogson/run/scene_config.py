"""The configuration of `pogson scene`: targets, their pixels and the model that is fitted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from pogson.run.config import InputsConfig, RunConfig, TextList, ZeroPointConfig
from pogson.run.toml_config import read_toml_config

__all__ = [
    "CutConfig",
    "NullsConfig",
    "SceneConfig",
    "SceneModelConfig",
    "SceneReportConfig",
    "SceneRunConfig",
    "StampsConfig",
    "TargetsConfig",
    "load_scene_config",
]


def _bits(value: Any) -> Any:
    return value if value in ("any", "none") or isinstance(value, list) else [value]


BadBits = Annotated[
    Literal["any", "none"] | list[str | int], BeforeValidator(_bits)
]  # fmt: skip


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SceneConfig(_Section):
    """``[scene]``: what the job is called, where its files go, and the seed of random starts.

    Examples
    --------
    >>> SceneConfig().output
    'scene-output'
    """

    name: str = "scene"
    output: str = "scene-output"
    seed: int = 1


class TargetsConfig(_Section):
    """``[targets]``: the table of targets.

    With ``[stamps]`` it has one row for each target and exposure, with ``[inputs]`` one row for
    each position (an ephemeris). ``columns`` maps the names used here to those of the table.

    Examples
    --------
    >>> TargetsConfig(table="objects.ecsv", columns={"exposure": "expnum"}).only is None
    True
    """

    table: str
    columns: dict[str, str] = Field(default_factory=dict)
    only: TextList | None = None


class StampsConfig(_Section):
    """``[stamps]``: files with pixels cut around each target.

    ``files``, ``psf`` and ``wcs`` are names with placeholders: any column of the table of targets,
    such as ``{target}``, ``{exposure}`` or ``{detector}``.

    Examples
    --------
    >>> StampsConfig(files="{target}_{exposure}.fits", psf="{exposure}.psf").origin
    'header'
    """

    files: str
    psf: str
    wcs: str | None = None
    origin: Literal["smp2023", "cutout", "centered", "header", "table"] = "header"
    bad: BadBits = "any"
    science: str = "SCI"
    weight: str = "WGT"
    mask: str | None = "MSK"
    gain: PositiveFloat | None = None
    variance_includes_sources: bool = False


class CutConfig(_Section):
    """``[cut]``: how stamps are cut from whole exposures.

    ``size`` is in pixels, from the PSF by default; ``avoid`` in arcsec: other exposures in which
    the moving target is nearer than this to its place of detection are left out.

    Examples
    --------
    >>> CutConfig().variance_includes_sources
    True
    """

    size: Annotated[int, Field(ge=9, le=301)] | None = None
    bad: TextList | None = None
    avoid: PositiveFloat | None = None
    variance_includes_sources: bool = True


class SceneModelConfig(_Section):
    """``[model]``: what is fitted; lengths in arcsec.

    Examples
    --------
    >>> SceneModelConfig().prior
    'auto'
    """

    kind: Literal["auto", "detection", "light_curve", "binary"] = "auto"
    position: Literal["auto", "fixed", "free", "prior"] = "auto"
    position_error: PositiveFloat = 0.01
    prior: Literal["auto", "none"] = "auto"
    grid: Literal["auto", "none", "smp2023"] = "auto"
    grid_spacing: PositiveFloat | None = None
    grid_half_extent: PositiveFloat | None = None
    sky_order: Literal[0, 1] = 0
    convention: Literal["pogson", "smp2023"] = "pogson"
    origin_test: bool = True
    poisson: bool | Literal["estimate"] = True
    noise_rescale: bool = False
    robust: PositiveFloat | None = None
    starts: PositiveInt = 4
    search_radius: PositiveFloat | None = None
    positive: bool = False
    zero_point_error: NonNegativeFloat = 0.0
    psf_normalization_error: NonNegativeFloat = 0.0
    trail_length: NonNegativeFloat | None = None
    trail_angle: float = 0.0
    companion_separation: PositiveFloat | None = None
    companion_angle: float = 0.0
    stars: str | None = None

    @model_validator(mode="after")
    def _whole_grid(self) -> SceneModelConfig:
        if (self.grid_spacing is None) != (self.grid_half_extent is None):
            raise ValueError(
                "grid_spacing and grid_half_extent (arcsec) belong together; give both or neither"
            )
        if self.companion_separation is not None and self.kind == "binary":
            raise ValueError(
                "kind = 'binary' fits the separation; with companion_separation take kind = 'auto'"
            )
        return self


class NullsConfig(_Section):
    """``[nulls]``: sources forced where there is none, in exposures without the target.

    ``offsets`` are those along x and y, in pixels; every pair of them is tried. Exposures with a
    smaller fraction of usable pixels than ``min_good`` are not tested.

    Examples
    --------
    >>> NullsConfig().offsets
    [-4.0, -2.0, 0.0, 2.0, 4.0]
    """

    enabled: bool = False
    offsets: list[float] = Field(default=[-4.0, -2.0, 0.0, 2.0, 4.0], min_length=1)
    min_good: Annotated[float, Field(gt=0.0, le=1.0)] = 0.85


class SceneReportConfig(_Section):
    """``[report]``: the HTML page; ``figures`` is the largest number of targets with pictures.

    Examples
    --------
    >>> SceneReportConfig().figures
    12
    """

    enabled: bool = True
    title: str | None = None
    figures: Annotated[int, Field(ge=0)] = 12


class SceneRunConfig(_Section):
    """A whole configuration of `pogson scene`; see `load_scene_config`.

    Examples
    --------
    >>> config = SceneRunConfig(targets={"table": "t.ecsv"},
    ...                         stamps={"files": "{target}.fits", "psf": "a.psf"})
    >>> config.from_stamps
    True
    """

    scene: SceneConfig = Field(default_factory=SceneConfig)
    targets: TargetsConfig
    stamps: StampsConfig | None = None
    inputs: InputsConfig | None = None
    cut: CutConfig = Field(default_factory=CutConfig)
    zero_point: ZeroPointConfig | None = None
    model: SceneModelConfig = Field(default_factory=SceneModelConfig)
    nulls: NullsConfig = Field(default_factory=NullsConfig)
    report: SceneReportConfig = Field(default_factory=SceneReportConfig)
    folder: Path = Field(default=Path(), exclude=True, repr=False)

    @model_validator(mode="after")
    def _one_kind_of_pixels(self) -> SceneRunConfig:
        if (self.stamps is None) == (self.inputs is None):
            raise ValueError(
                "give pixels either as a section [stamps] (files cut around each target) or as "
                "[inputs] (whole exposures)"
            )
        if self.zero_point is not None and self.zero_point.source == "fit":
            raise ValueError(
                "[zero_point] source must be 'table' or 'header' here; to fit zero points, "
                "calibrate the exposures with 'pogson run' first and take its images as [inputs]"
            )
        return self

    @property
    def from_stamps(self) -> bool:
        """Whether the pixels come as stamps."""
        return self.stamps is not None

    @property
    def output_folder(self) -> Path:
        """Folder of the results; a relative one is taken from the folder of the TOML file."""
        return self.folder / self.scene.output

    def path(self, text: str) -> Path:
        """Return a path of the configuration, relative ones from the folder of the TOML file."""
        return self.folder / text

    def run_config(self) -> RunConfig:
        """Return the part about whole exposures as `pogson run` takes it."""
        given = self.zero_point or ZeroPointConfig(source="header")
        return RunConfig(inputs=self.inputs, zero_point=given, folder=self.folder)


def load_scene_config(
    path: str | Path, overrides: Sequence[str] = (), *, output: str | Path | None = None
) -> SceneRunConfig:
    r"""Read and check the configuration of a scene job.

    Parameters
    ----------
    path : str or pathlib.Path
        TOML file.
    overrides : sequence of str, optional
        ``"section.key=value"`` texts that replace values of the file.
    output : str or pathlib.Path, optional
        Replaces ``scene.output``; relative to the current folder.

    Returns
    -------
    SceneRunConfig
        Immutable.

    Raises
    ------
    ConfigError
        Naming the file, the line, the key, the value, what is allowed and a likely spelling.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "scene.toml"
    >>> _ = file.write_text('[targets]\ntable = "t.ecsv"\n'
    ...                     '[inputs]\nexposures = "*.fits"\n')
    >>> load_scene_config(file, ["model.position=free"]).model.position
    'free'
    """
    return read_toml_config(path, SceneRunConfig, overrides, output=output, output_section="scene")
