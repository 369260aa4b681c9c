"""The section ``[coadd]`` of a survey configuration."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

__all__ = ["CoaddConfig"]


class CoaddConfig(BaseModel):
    """``[coadd]``: one coadd a band from all calibrated images, on tiles.

    ``background``: ``"focal-plane"`` fits one smooth sky over the detectors of a visit and a
    pedestal for each; ``"detector"`` a mesh for each detector; ``"none"`` leaves the images as
    ``[output]`` has them. With ``match_backgrounds`` each visit then loses the smooth
    level, of total degree ``match_degree``, by which it differs from the others in bins of
    ``match_bin`` output pixels. ``sky_sed`` names the spectrum of the sky: the fit is then made in
    the flat for it. ``flattening_sed`` names the spectrum for which images that do not say so are
    flat.

    Examples
    --------
    >>> CoaddConfig(flattening_sed="G2V").kernel
    'lanczos3'
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = True
    background: Literal["focal-plane", "detector", "none"] = "detector"
    background_order: int = Field(default=4, ge=0, le=12)
    background_mesh: PositiveInt = 64
    pedestals: bool = True
    match_backgrounds: bool = False
    match_degree: int = Field(default=1, ge=0, le=6)
    match_bin: int = Field(default=64, ge=8)
    sky_sed: str | None = None
    flat: str | None = None
    flattening_sed: str | None = None
    kernel: Literal["lanczos3", "lanczos2", "lanczos4", "exact"] = "lanczos3"
    weights: Literal["inverse_variance", "uniform"] = "inverse_variance"
    clip: bool = True
    clip_sigma: PositiveFloat = 5.0
    center: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    size: Annotated[list[PositiveFloat], Field(min_length=2, max_length=2)] | None = None
    scale: PositiveFloat | None = None
    tile_size: int = Field(default=2048, ge=16)
    overlap: int = Field(default=100, ge=0)
    compare_snr: PositiveFloat = 20.0
    compare_radius: PositiveFloat | None = None

    @model_validator(mode="after")
    def _plane_is_whole(self) -> CoaddConfig:
        if (self.center is None) != (self.size is None):
            raise ValueError("center = [ra, dec] and size = [arcmin, arcmin] go together")
        if self.center is not None and not (
            math.isfinite(self.center[0]) and -90.0 <= self.center[1] <= 90.0
        ):
            raise ValueError(
                f"center = {self.center} must be [ra, dec] in degrees, dec from -90 to 90"
            )
        if self.overlap > self.tile_size:
            raise ValueError(f"overlap = {self.overlap} must be at most tile_size")
        return self
