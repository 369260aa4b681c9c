"""Reading the stamps of one target, each with its PSF, map to the sky and zero point."""

from __future__ import annotations

import warnings
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import ConfigError, MissingDataError, PogsonError, PogsonWarning
from pogson.run.resume import file_identity
from pogson.run.scene_config import SceneRunConfig
from pogson.run.scene_targets import SceneTarget, StampRow

if TYPE_CHECKING:
    from pogson.psf import PSF
    from pogson.scene import SceneExposure
    from pogson.sky import SkyMap

__all__ = ["load_stamps"]

_LOCAL = 0.5
"""A sky map that agrees with the stars of its PSF file on less than this part of the detector
holds near its target only."""


def load_stamps(
    config: SceneRunConfig, target: SceneTarget
) -> tuple[list[SceneExposure], dict[str, str]]:
    """Read the exposures of a target.

    Parameters
    ----------
    config : SceneRunConfig
        The configuration.
    target : SceneTarget
        What to read.

    Returns
    -------
    exposures : list of SceneExposure
        Those that can be used, in the order of the table.
    dropped : dict of str to str
        The others, with the reason: no stamp, PSF or zero point, no usable pixel, target outside.

    Raises
    ------
    MissingDataError
        If a detection is among those that cannot be used, or nothing is left.
    """
    exposures, dropped = [], {}
    for row in target.rows:
        try:
            exposures.append(_load(config, row))
        except PogsonError as error:
            if row.exposure in target.detections:
                raise MissingDataError(
                    f"The detection of {target.name}, exposure {row.exposure}, cannot be used: "
                    f"{error}"
                ) from error
            dropped[row.exposure] = str(error)
    if not exposures:
        raise MissingDataError(
            f"No exposure of {target.name} can be used: "
            + " ".join(dict.fromkeys(dropped.values()))
        )
    return exposures, dropped


def _load(config: SceneRunConfig, row: StampRow) -> SceneExposure:
    from pogson.formats.stamps import read_stamp

    stamps = config.stamps
    assert stamps is not None
    for path, what in ((row.stamp, "stamp"), (row.psf, "PSF"), (row.wcs, "WCS")):
        if path is not None and not Path(path).is_file():
            raise MissingDataError(f"there is no {what} file {path}.")
    sky = None if row.wcs is None else _sky(row.wcs, file_identity(row.wcs))
    psf, sky, rms = _psf_and_sky(row, sky)
    zero_point, error = _zero_point(config, row)
    origin: Any = row.origin if stamps.origin == "table" else stamps.origin
    exposure = read_stamp(
        row.stamp,
        ra=row.ra,
        dec=row.dec,
        psf=psf,
        sky=sky,
        zero_point=zero_point,
        zero_point_err=error,
        origin=origin,
        bad=stamps.bad,
        gain=row.gain,
        exposure_id=row.exposure,
        time=row.time,
        variance_includes_sources=stamps.variance_includes_sources,
        science=stamps.science,
        mask=stamps.mask or None,
        weight=stamps.weight,
        metadata={"band": row.band, "detector": row.detector, "sky_rms_pixels": rms},
    )
    _check_local_map(row, exposure)
    return exposure


def _psf_and_sky(row: StampRow, sky: SkyMap | None) -> tuple[PSF, SkyMap | None, float | None]:
    """Return the PSF, the map to the sky and, where it was fitted to stars, its rms in pixels."""
    psf = _psf(row.psf, row.wcs, row.exposure, row.detector, _identities(row))
    if sky is not None:
        return psf, sky, None
    found = getattr(getattr(psf, "frame", None), "sky", None)
    facts = getattr(psf, "metadata", {})
    return psf, found, facts.get("sky_rms_pixels") if found is not None else None


def _identities(row: StampRow) -> tuple[Any, ...]:
    return tuple(file_identity(f) for f in (row.psf, row.wcs) if f)


@lru_cache(maxsize=256)
def _sky(path: str, identity: Any) -> SkyMap:
    from pogson.formats.stamps import read_sky_header

    return read_sky_header(path)


@lru_cache(maxsize=64)
def _psf(path: str, wcs: str | None, exposure: str, detector: str, identities: Any) -> PSF:
    from pogson.formats import read_psf
    from pogson.formats.psf_files import psf_kind

    options: dict[str, Any] = {}
    if psf_kind(path) != "json":
        # File names may hold other names than the PSF's header does: numbers are compared.
        options["exposure"] = exposure if exposure.isdigit() else None
        options["detector"] = detector or None
    sky = None if wcs is None else _sky(wcs, identities[-1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PogsonWarning)  # a local map is checked where it is used
        return read_psf(path, sky=sky, **options)


def _check_local_map(row: StampRow, exposure: SceneExposure) -> None:
    """Check a map that holds near its target only against the PSF file's stars, on the stamp."""
    from pogson.formats import read_psf

    facts = getattr(exposure.psf, "metadata", {})
    if row.wcs is not None and facts.get("sky_reach", 1.0) < _LOCAL:
        read_psf(row.psf, sky=exposure.sky, box=exposure.box)


def _zero_point(config: SceneRunConfig, row: StampRow) -> tuple[float, float]:
    """Return the AB magnitude of one count, and its error (0 where it is not known)."""
    choice = config.zero_point
    if choice is not None and choice.source == "header":
        return _header_zero_point(config, row)
    if row.zero_point is None:
        raise MissingDataError(
            f"the table of targets has no zero point for exposure {row.exposure}."
        )
    return row.zero_point, row.zero_point_err or 0.0


def _header_zero_point(config: SceneRunConfig, row: StampRow) -> tuple[float, float]:
    from pogson.calib import FluxReference, photo_calib_from_header
    from pogson.formats.fits_access import find_image_hdu, merged_header, open_fits

    stamps, choice = config.stamps, config.zero_point
    assert stamps is not None
    assert choice is not None
    if choice.header_convention is None:
        raise ConfigError(
            "[zero_point] source = 'header' needs header_convention, such as 'magzero-exposure' "
            "or 'magzero-second': the same keyword means different things in different places."
        )
    with open_fits(row.stamp) as hdus:
        index = find_image_hdu(hdus, Path(row.stamp), stamps.science)
        header = merged_header(hdus, hdus[index])
    calib = photo_calib_from_header(
        header, convention=choice.header_convention, reference=FluxReference.total()
    )
    error = 0.0
    if calib.covariance is not None:
        error = float(calib.zero_point_error(x=0.0, y=0.0))
    return float(31.4 - 2.5 * np.log10(calib.mean())), error
