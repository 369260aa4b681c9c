"""Zero points that somebody else found: from a table, or from the exposure's own file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import CalibrationError, ConfigError, MissingDataError
from pogson.run.config import RunConfig
from pogson.run.plan import ExposureTask

if TYPE_CHECKING:
    from pogson.calib import FluxReference, PhotoCalib

__all__ = ["given_zero_point"]


def given_zero_point(
    config: RunConfig, task: ExposureTask, record: dict[str, Any], reference: FluxReference
) -> tuple[PhotoCalib, dict[str, Any]]:
    """Return the calibration of an exposure from a table or its header.

    Parameters
    ----------
    config : RunConfig
        The configuration.
    task : ExposureTask
        The exposure.
    record : dict
        What the first stage wrote about it.
    reference : FluxReference
        Reference of the fluxes measured; tables and headers hardly ever say theirs, so it is taken
        to be this one, and the calibration says that.

    Returns
    -------
    calibration : PhotoCalib
    values : dict
        ``zero_point`` and, if known, ``zero_point_err``.

    Raises
    ------
    MissingDataError
        If there is no zero point for the exposure.
    CalibrationError
        If the exposure time is needed and not known.
    """
    if config.zero_point.source == "table":
        return _from_table(config, task, record, reference)
    return _from_header(config, task, record, reference)


def _from_table(
    config: RunConfig, task: ExposureTask, record: dict[str, Any], reference: FluxReference
) -> tuple[PhotoCalib, dict[str, Any]]:
    from pogson.calib import PhotoCalib
    from pogson.formats import read_catalog

    choice = config.zero_point
    path = config.path(str(choice.table))
    if not path.exists():
        raise ConfigError(f"[zero_point] table: there is no file {str(path)!r}.")
    table = read_catalog(path)
    kind = choice.table_format
    error: float | None
    if kind == "auto":
        kind = "survey-ccds" if {"image_filename", "ccdzpt"} <= set(table.colnames) else "plain"
    if kind == "survey-ccds":
        zero_point, error, per, why = _survey_ccds_row(table, path, task, record)
    else:
        zero_point, error = _plain_row(table, path, choice.table_column, task, record)
        per, why = choice.per, f"column {choice.table_column}, per {choice.per}"
    seconds = None
    if per == "second" and not _is_rate(record["unit"]):
        seconds = record["values"].get("exposure_time")
        if not seconds:
            raise CalibrationError(
                f"{task.path}: the zero point {zero_point:.4f} is per second, but the exposure "
                "time is not known; name its keyword in the instrument preset."
            )
    calib = PhotoCalib.from_zero_point(
        zero_point,
        magnitude_err=error,
        exposure_time=seconds,
        unit=record["unit"],
        reference=reference,
        bandpass=record["bandpass"],
        provenance={"zero_point_table": path.name, "convention": why},
    )
    return calib, {
        "zero_point": 31.4 - 2.5 * np.log10(calib.mean()),
        "zero_point_err": float("nan") if error is None else error,
        "zero_point_given": zero_point,
    }


def _is_rate(unit: str) -> bool:
    import astropy.units as u

    parsed = u.Unit(unit)
    return any(b == u.s and p < 0 for b, p in zip(parsed.bases, parsed.powers, strict=True))


def _survey_ccds_row(
    table: Any, path: Path, task: ExposureTask, record: dict[str, Any]
) -> tuple[float, float, str, str]:
    """Return the zero point of a Legacy Surveys CCD table: AB magnitude of one count per second.

    The pipeline that writes these tables defines ``ccdzpt`` for counts per second: the noise in the
    same row, ``sig1`` in nanomaggies, is ``skyrms`` (counts per second) times
    10**(-0.4 (ccdzpt - 22.5)), without the exposure time.
    """
    names = np.array([Path(str(n).strip()).name for n in table["image_filename"]])
    ours = re.sub(r"\.(fz|gz)$", "", Path(task.path).name)
    found = np.array([re.sub(r"\.(fz|gz)$", "", n) == ours for n in names])
    if found.sum() > 1:
        found &= np.array([str(c).strip() == record["detector"] for c in table["ccdname"]])
    if found.sum() != 1:
        raise MissingDataError(
            f"{path} has {int(found.sum())} rows for {ours}, detector {record['detector']!r}; "
            "there must be one."
        )
    row = table[found][0]
    error = float(row["ccdphrms"]) / np.sqrt(max(1, int(row["ccdnphotom"])))
    return float(row["ccdzpt"]), error, "second", "ccdzpt: AB magnitude of one count per second"


def _plain_row(
    table: Any, path: Path, column: str, task: ExposureTask, record: dict[str, Any]
) -> tuple[float, float | None]:
    """Return the zero point of a table with a column ``exposure`` and perhaps ``detector``."""
    for needed in ("exposure", column):
        if needed not in table.colnames:
            raise MissingDataError(
                f"{path} has columns {', '.join(table.colnames)}; it needs 'exposure' (file name, "
                f"its stem or the exposure's identifier) and {column!r}."
            )
    file = Path(task.path).name
    known = {file, file.split(".", 1)[0], record["exposure_id"], task.key}
    found = np.array([str(e).strip() in known for e in table["exposure"]])
    if "detector" in table.colnames:
        found &= np.array([str(d).strip() == record["detector"] for d in table["detector"]])
    if found.sum() != 1:
        raise MissingDataError(
            f"{path} has {int(found.sum())} rows for exposure {record['exposure_id']!r}, detector "
            f"{record['detector']!r}; there must be one."
        )
    row = table[found][0]
    error = float(row[f"{column}_err"]) if f"{column}_err" in table.colnames else None
    return float(row[column]), error


def _from_header(
    config: RunConfig, task: ExposureTask, record: dict[str, Any], reference: FluxReference
) -> tuple[PhotoCalib, dict[str, Any]]:
    from pogson.calib import PhotoCalib, photo_calib_from_header
    from pogson.calib.reference import require_same

    if record.get("photo_calib") is not None:
        calib = PhotoCalib.from_dict(record["photo_calib"])
        require_same(reference, calib.reference, f"{task.path}: measured fluxes and the file's")
    else:
        convention = config.zero_point.header_convention
        if convention is None:
            raise ConfigError(
                f"{task.path} carries no pogson calibration; say how its header states the zero "
                "point with zero_point.header_convention, such as 'magzero-exposure' or "
                "'magzero-second'."
            )
        from pogson.formats.fits_access import find_image_hdu, merged_header, open_fits

        with open_fits(task.path) as hdus:
            index = find_image_hdu(hdus, Path(task.path), task.detector)
            header = merged_header(hdus, hdus[index])
        calib = photo_calib_from_header(
            header, convention=convention, reference=reference, unit=record["unit"],
            bandpass=record["bandpass"],
        )  # fmt: skip
    from pogson.fields import Box

    box = Box(*record["box"])
    x, y = box.center
    error = float("nan")
    if calib.covariance is not None:
        error = float(calib.zero_point_error(x=x, y=y))
    return calib, {"zero_point": 31.4 - 2.5 * np.log10(calib.mean(box)), "zero_point_err": error}
