"""Positions for forced photometry: the sources of the deepest image."""

from __future__ import annotations

import filecmp
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pogson.errors import PogsonError
from pogson.run.config import RunConfig
from pogson.run.plan import ExposureTask

__all__ = ["deepest_image", "five_sigma_limit", "write_positions"]

# Noise-equivalent area of a Gaussian PSF, 4 pi sigma^2, in FWHM^2.
_PSF_AREA = np.pi / (2.0 * np.log(2.0))


def five_sigma_limit(record: dict[str, Any], zero_point: float, aperture: float) -> float:
    """Return the magnitude of a star of 5 sigma of the sky noise in its PSF.

    Parameters
    ----------
    record : dict
        What the first stage wrote: ``values`` with ``flux_err_sky`` (noise of the sky in the
        calibration aperture, image unit) and ``fwhm`` (arcsec).
    zero_point : float
        AB magnitude of one image unit.
    aperture : float
        Radius of the calibration aperture in arcsec.

    Returns
    -------
    float
        NaN where the noise or the FWHM is not known.

    Notes
    -----
    The noise of the aperture, of area pi R^2, is scaled to the noise-equivalent area of a Gaussian
    PSF, 4 pi sigma^2 = 2.27 FWHM^2, as for white noise.

    Examples
    --------
    >>> record = {"values": {"flux_err_sky": 10.0, "fwhm": 1.0}}
    >>> round(five_sigma_limit(record, 30.0, aperture=3.0), 3)
    27.123
    """
    noise, fwhm = (record["values"].get(k) for k in ("flux_err_sky", "fwhm"))
    if not noise or not fwhm:
        return float("nan")
    sigma = float(noise) * np.sqrt(_PSF_AREA * float(fwhm) ** 2 / (np.pi * aperture**2))
    return float(zero_point - 2.5 * np.log10(5.0 * sigma))


def deepest_image(
    config: RunConfig, tasks: Sequence[ExposureTask], stage: Callable[[str, str], str]
) -> tuple[str, str] | None:
    """Return the key of the deepest image and why it is, or None where there are no images.

    Parameters
    ----------
    config : RunConfig
        The configuration.
    tasks : sequence of ExposureTask
        Images in which sources were detected.
    stage : callable
        File of a task's detections, from its key and a suffix.

    Notes
    -----
    The faintest 5-sigma limit, where the zero points are given (by a table or the headers) and the
    limit of every image is known. Before a fit they are not: then the image in which most sources
    are found, and of equals the one with the higher signal-to-noise ratios.
    """
    records = {
        t.key: json.loads(Path(stage(t.key, ".json")).read_text(encoding="utf-8")) for t in tasks
    }
    if not records:
        return None
    limits = {t.key: _limit(config, t, records[t.key]) for t in tasks}
    if np.isfinite(list(limits.values())).all():
        key = max(limits, key=lambda k: limits[k])
        return key, f"faintest 5-sigma limit, {limits[key]:.2f} mag"
    found = {key: _detections(stage(key, ".parquet"), records[key]) for key in records}
    key = max(found, key=lambda k: found[k])
    return key, f"most sources found, {found[key][0]}"


def _limit(config: RunConfig, task: ExposureTask, record: dict[str, Any]) -> float:
    from pogson.calib import FluxReference
    from pogson.run.given_zero_points import given_zero_point

    if config.zero_point.source == "fit":
        return float("nan")
    try:
        reference = FluxReference.from_dict(record["reference"])
        _, values = given_zero_point(config, task, record, reference)
    except PogsonError:
        return float("nan")  # the stage that needs it will say why
    return five_sigma_limit(record, values["zero_point"], config.measure.calibration_aperture)


def _detections(path: str, record: dict[str, Any]) -> tuple[int, float]:
    """Return the number of sources with a flux and the root sum square of their S/N."""
    from pogson.formats import read_catalog

    table, column = read_catalog(path), record["flux_column"]
    with np.errstate(invalid="ignore", divide="ignore"):
        snr = np.asarray(table[column], float) / np.asarray(table[f"{column}_err"], float)
    snr = snr[np.isfinite(snr)]
    return int(snr.size), float(np.sqrt(np.sum(np.maximum(snr, 0.0) ** 2)))


def write_positions(root: Path, key: str, why: str, detections: str) -> tuple[Path, int]:
    """Write the positions of an image's sources, and where they come from.

    Sources at the edge are left out where there are others. A file that would not change is kept,
    and with it what was made from it.

    Returns
    -------
    path : pathlib.Path
    n : int
        Number of positions.
    """
    from pogson.formats import read_catalog, write_catalog
    from pogson.images import SourceFlag

    table = read_catalog(detections)
    outside = (np.asarray(table["flags"]) & int(SourceFlag.EDGE)) != 0
    kept = table[~outside] if (~outside).any() else table
    path = root / "positions.ecsv"
    out = kept["id", "ra", "dec"]
    out.meta = {"from": key, "because": why, "left_out_at_the_edge": int(outside.sum())}
    fresh = path.with_name("positions-new.ecsv")
    write_catalog(fresh, out)
    if path.exists() and filecmp.cmp(fresh, path, shallow=False):
        fresh.unlink()
    else:
        os.replace(fresh, path)
    return path, len(out)
