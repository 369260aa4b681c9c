"""The configuration of `pogson fluxcal`: a frame, its standard stars and how it is calibrated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, model_validator

from pogson.run.config import TextList
from pogson.run.toml_config import checked_config, read_toml_config

__all__ = [
    "BandConfig",
    "FluxCalConfigFile",
    "FluxCalReportConfig",
    "FluxCalSection",
    "FrameConfig",
    "ScienceConfig",
    "SpectroModelConfig",
    "StandardsConfig",
    "TemplatesConfig",
    "load_fluxcal_config",
]

Medium = Literal["vacuum", "air"]
System = Literal["AB", "Vega"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FluxCalSection(_Section):
    """``[fluxcal]``: what the job is called and where its files go.

    Examples
    --------
    >>> FluxCalSection().output
    'fluxcal-output'
    """

    name: str = "fluxcal"
    output: str = "fluxcal-output"


class FrameConfig(_Section):
    """``[frame]``: the frame with the standard stars, and what its file does not say.

    ``resolution`` (resolving power) or ``fwhm`` (Angstrom, or coefficients of a polynomial in the
    wavelength, constant first) is the line spread where the file has none; ``extension`` chooses
    one exposure of an SDSS spectrum.

    Examples
    --------
    >>> FrameConfig(path="frame.fits", resolution=1800).fwhm is None
    True
    """

    path: str
    medium: Medium | None = None
    exposure_time: PositiveFloat | None = None
    airmass: Annotated[float, Field(ge=1.0, lt=40.0)] | None = None
    resolution: PositiveFloat | None = None
    fwhm: PositiveFloat | Annotated[list[float], Field(min_length=1)] | None = None
    extension: str | None = None

    @model_validator(mode="after")
    def _one_spread(self) -> FrameConfig:
        if self.resolution is not None and self.fwhm is not None:
            raise ValueError("give resolution or fwhm, not both")
        return self


class StandardsConfig(_Section):
    """``[standards]``: the table of standard stars and their magnitudes.

    ``columns`` maps the names used here to those of the table; ``match`` says by what its rows
    find their fibres, never by their order; ``radius`` in arcsec; ``system`` is "AB" or "Vega", of
    all bands or of each by name; ``only`` names the stars that must be used; ``bands`` those that
    may be.

    Examples
    --------
    >>> StandardsConfig(table="standards.ecsv").match
    'auto'
    """

    table: str
    columns: dict[str, str] = Field(default_factory=dict)
    match: Literal["auto", "fibre", "name", "position"] = "auto"
    radius: PositiveFloat = 1.0
    system: System | dict[str, System] | None = None
    bands: TextList | None = None
    only: TextList | None = None


class BandConfig(_Section):
    """``[bands.NAME]``: a filter curve of your own.

    Examples
    --------
    >>> BandConfig(file="r.dat", unit="nm", detector="photon").vega_to_ab is None
    True
    """

    file: str
    detector: Literal["photon", "energy"]
    unit: str | None = None
    medium: Medium = "vacuum"
    vega_to_ab: float | None = None


class TemplatesConfig(_Section):
    """``[templates]``: the library of model spectra.

    Examples
    --------
    >>> TemplatesConfig(path="kurucz_stds_v5.fit").resolution
    'r10000'
    """

    path: str
    medium: Medium | None = None
    resolution: str = "r10000"
    wave_range: tuple[float, float] | None = (3000.0, 11000.0)


class SpectroModelConfig(_Section):
    """``[model]``: how stars are matched and the response is solved.

    ``extinction`` is an observatory (see `pogson.spectro.OBSERVATORIES`) or a text file of two
    columns, Angstrom and magnitudes per airmass. ``e_bv`` and ``e_bv_error`` are the prior of
    stars without their own.

    Examples
    --------
    >>> SpectroModelConfig(extinction="paranal").least_stars
    1
    """

    extinction: str | None = None
    mask_regions: str = "telluric_default"
    metric: Literal["chi2", "huber"] = "chi2"
    law: Literal["F99", "G23", "CCM89", "O94", "F04", "F19"] = "F99"
    r_v: PositiveFloat = 3.1
    e_bv: float = 0.0
    e_bv_error: PositiveFloat = 0.05
    photometric_floor: PositiveFloat = 0.01
    rv_limit: PositiveFloat = 600.0
    slopes: bool = True
    least_stars: Annotated[int, Field(ge=1)] = 1


class ScienceConfig(_Section):
    """``[science]``: more frames to which the same calibration is applied.

    Examples
    --------
    >>> ScienceConfig().frames
    []
    """

    frames: TextList = Field(default_factory=list)


class FluxCalReportConfig(_Section):
    """``[report]``: the HTML page; ``stars`` is the largest number of stars with pictures.

    Examples
    --------
    >>> FluxCalReportConfig().stars
    16
    """

    enabled: bool = True
    title: str | None = None
    stars: Annotated[int, Field(ge=0)] = 16


class FluxCalConfigFile(_Section):
    """A whole configuration of `pogson fluxcal`; see `load_fluxcal_config`.

    Examples
    --------
    >>> config = FluxCalConfigFile(frame={"path": "frame.fits"}, templates={"path": "grid.fits"},
    ...                            standards={"table": "standards.ecsv", "system": "AB"})
    >>> config.output_folder.name
    'fluxcal-output'
    """

    fluxcal: FluxCalSection = Field(default_factory=FluxCalSection)
    frame: FrameConfig
    standards: StandardsConfig
    templates: TemplatesConfig
    bands: dict[str, BandConfig] = Field(default_factory=dict)
    model: SpectroModelConfig = Field(default_factory=SpectroModelConfig)
    science: ScienceConfig = Field(default_factory=ScienceConfig)
    report: FluxCalReportConfig = Field(default_factory=FluxCalReportConfig)
    folder: Path = Field(default=Path(), exclude=True, repr=False)

    @property
    def output_folder(self) -> Path:
        """Folder of the results; a relative one is taken from the folder of the TOML file."""
        return self.folder / self.fluxcal.output

    def path(self, text: str) -> Path:
        """Return a path of the configuration, relative ones from the folder of the TOML file."""
        return self.folder / text


def load_fluxcal_config(
    path: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    output: str | Path | None = None,
    given: Mapping[str, Mapping[str, Any]] | None = None,
) -> FluxCalConfigFile:
    r"""Read and check the configuration of a flux calibration.

    Parameters
    ----------
    path : str or pathlib.Path, optional
        TOML file; without one everything is in ``given``, relative paths from the current folder.
    overrides : sequence of str, optional
        ``"section.key=value"`` texts that replace values of the file.
    output : str or pathlib.Path, optional
        Replaces ``fluxcal.output``; relative to the current folder.
    given : mapping of sections to keys, optional
        Values that replace those of the file, such as the arguments of the command line.

    Returns
    -------
    FluxCalConfigFile
        Immutable.

    Raises
    ------
    ConfigError
        Naming the file, the line, the key, the value, what is allowed and a likely spelling.

    Examples
    --------
    >>> given = {"frame": {"path": "frame.fits"}, "templates": {"path": "grid.fits"},
    ...          "standards": {"table": "standards.ecsv", "system": "AB"}}
    >>> load_fluxcal_config(given=given, overrides=["model.extinction=ctio"]).model.extinction
    'ctio'
    """
    if path is not None:
        return read_toml_config(
            path, FluxCalConfigFile, overrides, output=output, output_section="fluxcal",
            given=given,
        )  # fmt: skip
    return checked_config(
        given or {}, FluxCalConfigFile, overrides, output=output, output_section="fluxcal",
        folder=Path.cwd(), said="the command line",
    )  # fmt: skip
