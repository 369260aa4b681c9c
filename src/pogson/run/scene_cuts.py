"""Whole exposures to stamps: one task an exposure cuts all targets that it shows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import FileFormatError, MissingDataError, PogsonError
from pogson.run.config import RunConfig
from pogson.run.plan import ExposureTask
from pogson.run.resume import file_identity
from pogson.run.scene_config import CutConfig

if TYPE_CHECKING:
    from pogson.images import Exposure
    from pogson.scene import SceneExposure

__all__ = ["CutJob", "ScanJob", "cut_one_exposure", "read_cut", "scan_exposure"]


@dataclass(frozen=True)
class ScanJob:
    """What `scan_exposure` reads and writes.

    Parameters
    ----------
    config : RunConfig
        The part of the configuration about exposures.
    task : ExposureTask
        The exposure.
    record : str
        JSON file to write.
    """

    config: RunConfig
    task: ExposureTask
    record: str


@dataclass(frozen=True)
class CutJob:
    """What `cut_one_exposure` reads and writes.

    Parameters
    ----------
    config : RunConfig
        The part of the configuration about exposures.
    cut : CutConfig
        How stamps are cut.
    task : ExposureTask
        The exposure.
    places : tuple of (str, float, float)
        Key of each target with its position (ra, dec) in degrees.
    output : str
        File of cuts to write.
    """

    config: RunConfig
    cut: CutConfig
    task: ExposureTask
    places: tuple[tuple[str, float, float], ...]
    output: str


def scan_exposure(job: ScanJob) -> dict[str, Any]:
    """Write when and where an exposure was taken: ``exposure_id``, ``time``, ``band``, ``sky``.

    Parameters
    ----------
    job : ScanJob
        What to read and write.

    Returns
    -------
    dict
        ``band`` and ``time``.

    Raises
    ------
    MissingDataError
        If the exposure has no PSF or variance.
    """
    from pogson.atomic import atomic_write_text
    from pogson.formats.json_values import to_json_value
    from pogson.scene.cutting import mid_time

    exposure = _opened(job.config, job.task)
    assert exposure.sky is not None
    for part, words in (("psf", "PSF; name its file with [inputs] psf"), ("variance", "variance")):
        if getattr(exposure, part) is None:
            raise MissingDataError(f"{job.task.path} has no {words}.")
    assert exposure.psf is not None
    x, y = exposure.box.center
    record = {
        "key": job.task.key,
        "exposure_id": exposure.exposure_id or job.task.key,
        "detector": exposure.detector,
        "band": exposure.bandpass or str(exposure.metadata.get("band") or ""),
        "time": mid_time(exposure),
        "seconds": float(exposure.metadata.get("exposure_time") or 0.0),
        "box": list(exposure.box),
        "fwhm": float(exposure.psf.fwhm(x=x, y=y)),
        "sky": to_json_value(exposure.sky.to_dict(), "sky"),
    }
    atomic_write_text(job.record, json.dumps(record, allow_nan=False))
    return {"band": record["band"], "time": record["time"]}


def _opened(config: RunConfig, task: ExposureTask) -> Exposure:
    from pogson.run.measuring import open_exposure

    if task.problem:
        raise MissingDataError(task.problem)
    return open_exposure(config, task, None)


def cut_one_exposure(job: CutJob) -> dict[str, Any]:
    """Cut all targets out of one exposure.

    Parameters
    ----------
    job : CutJob
        What to read and write. A place that cannot be cut is recorded with its reason.

    Returns
    -------
    dict
        ``n_cut`` and ``n_dropped``.
    """
    from pogson.scene.cutting import cut_exposure

    exposure = _calibrated(job.config, job.task)
    cuts: dict[str, SceneExposure] = {}
    dropped: dict[str, str] = {}
    for key, ra, dec in job.places:
        try:
            cuts[key] = cut_exposure(
                exposure,
                ra=ra,
                dec=dec,
                size=job.cut.size,
                bad=job.cut.bad,
                variance_includes_sources=job.cut.variance_includes_sources,
            )
        except PogsonError as error:
            dropped[key] = str(error)
    _write(Path(job.output), exposure, cuts, dropped)
    return {"n_cut": len(cuts), "n_dropped": len(dropped)}


def _calibrated(config: RunConfig, task: ExposureTask) -> Exposure:
    """Return the exposure with a flux calibration: its own, else the one given for it."""
    from pogson.calib import FluxReference
    from pogson.run.given_zero_points import given_zero_point

    exposure = _opened(config, task)
    if not exposure.exposure_id:
        exposure = exposure.with_(exposure_id=task.key)
    if exposure.photo_calib is not None and config.zero_point.source == "header":
        return exposure
    values = {"exposure_time": exposure.metadata.get("exposure_time")}
    record = {
        "unit": exposure.unit.to_string(),
        "bandpass": exposure.bandpass,
        "exposure_id": exposure.exposure_id,
        "detector": exposure.detector,
        "box": list(exposure.box),
        "values": values,
    }
    calib, _ = given_zero_point(config, task, record, FluxReference.total())
    return exposure.with_(photo_calib=calib)


def _write(
    path: Path,
    exposure: Exposure,
    cuts: Mapping[str, SceneExposure],
    dropped: Mapping[str, str],
) -> None:
    """Write cuts of one exposure: arrays of all stamps end to end, and a description in JSON."""
    from pogson.atomic import atomic_path
    from pogson.formats.json_values import to_json_value

    assert exposure.sky is not None
    assert exposure.psf is not None
    first = next(iter(cuts.values()), None)
    about: dict[str, Any] = {
        "exposure_id": exposure.exposure_id,
        "sky": to_json_value(exposure.sky.to_dict(), "sky"),
        "psf": to_json_value(exposure.psf.to_dict(), "psf"),
        "dropped": dict(dropped),
        "boxes": {key: list(cut.box) for key, cut in cuts.items()},
        "scales": {key: [cut.scale, cut.scale_error, cut.gain] for key, cut in cuts.items()},
        "time": None if first is None else first.time,
        "metadata": {} if first is None else dict(first.metadata),
        "variance_includes_sources": first is not None and first.variance_includes_sources,
    }
    text = np.frombuffer(json.dumps(about, allow_nan=False).encode("ascii"), np.uint8)

    def joined(name: str, kind: Any) -> np.ndarray:
        parts: Sequence[np.ndarray] = [getattr(c, name).ravel() for c in cuts.values()]
        return np.concatenate(parts).astype(kind) if parts else np.zeros(0, kind)

    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez(
            stream,
            about=text,
            image=joined("image", np.float32),
            variance=joined("variance", np.float32),
            bad=joined("bad", np.bool_),
        )


@lru_cache(maxsize=16)
def _read(path: str, identity: Any) -> tuple[dict[str, Any], dict[str, np.ndarray], Any, Any]:
    from pogson.psf import psf_from_dict
    from pogson.sky.base import skymap_from_dict

    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in ("about", "image", "variance", "bad")}
        about = json.loads(arrays.pop("about").tobytes())
    except (OSError, ValueError, KeyError) as error:
        raise FileFormatError(f"Cannot read the cuts {path}: {error}; run again.") from error
    return about, arrays, skymap_from_dict(about["sky"]), psf_from_dict(about["psf"])


def read_cut(path: str | Path, key: str) -> SceneExposure:
    """Read the stamp of one target from a file of cuts.

    Parameters
    ----------
    path : path-like
        File that `cut_one_exposure` wrote.
    key : str
        The target.

    Returns
    -------
    pogson.scene.SceneExposure

    Raises
    ------
    MissingDataError
        If the target could not be cut from this exposure; the message is the reason.
    FileFormatError
        If the file is damaged.
    """
    from pogson.fields import Box
    from pogson.scene.exposure import SceneExposure

    about, arrays, sky, psf = _read(str(path), file_identity(path))
    if key not in about["boxes"]:
        raise MissingDataError(about["dropped"].get(key, f"{path} does not show {key}."))
    start = 0
    for name, numbers in about["boxes"].items():
        box = Box(*numbers)
        if name == key:
            break
        start += box.area
    part = slice(start, start + box.area)
    scale, scale_error, gain = about["scales"][key]
    return SceneExposure(
        arrays["image"][part].reshape(box.shape),
        arrays["variance"][part].reshape(box.shape),
        box,
        sky,
        psf,
        scale,
        arrays["bad"][part].reshape(box.shape),
        exposure_id=about["exposure_id"],
        gain=gain,
        time=about["time"],
        variance_includes_sources=about["variance_includes_sources"],
        origin_exact=True,
        scale_error=scale_error,
        metadata=about["metadata"],
    )
