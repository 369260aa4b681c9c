"""A flux calibration in a file, so that more frames can be calibrated without the stars."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from pogson.errors import FileFormatError
from pogson.spectro import (
    AtmosphereExtinction,
    FluxCalConfig,
    FluxCalibration,
    RejectionPriors,
    ResponseConfig,
    ResponseSolution,
)

__all__ = ["load_calibration", "save_calibration"]

SCHEMA = "pogson/flux-calibration"
SCHEMA_VERSION = 1

_ARRAYS = (
    "used", "log_grey", "slope", "coefficients", "coefficient_covariance", "telluric_wavelength",
    "telluric", "telluric_variance", "template_positions", "template_log_error", "bins", "scatter",
)  # fmt: skip
_NUMBERS = ("unit", "airmass", "log_scale_error", "chi2", "ndof", "template_reach")


def save_calibration(
    path: str | Path,
    calibration: FluxCalibration,
    *,
    extinction: AtmosphereExtinction | None = None,
) -> Path:
    """Write a calibration to a ``.npz`` file, whole or not at all.

    Parameters
    ----------
    path : path-like
        The file.
    calibration : FluxCalibration
        What to keep. The models of the stars are not kept.
    extinction : AtmosphereExtinction, optional
        The curve it was made with; required if there is one.

    Raises
    ------
    FileFormatError
        If the file cannot be written, or the calibration has an extinction that is no table.

    Examples
    --------
    >>> import tempfile
    >>> from pogson.simulate import simulate_fibres
    >>> from pogson.spectro import calibrate_fibres
    >>> sim = simulate_fibres(seed=5, n_stars=2, n_fibres=2)
    >>> calibration = calibrate_fibres(sim.frame, sim.standards, sim.library)
    >>> path = save_calibration(tempfile.mkdtemp() + "/calibration.npz", calibration)
    >>> same = load_calibration(path)
    >>> bool(np.array_equal(same.factor([5000.0, 6000.0]), calibration.factor([5000.0, 6000.0])))
    True
    """
    from pogson.atomic import atomic_path

    if calibration.config.extinction is not None and extinction is None:
        raise FileFormatError(
            "The calibration corrects for the atmosphere; give the table it was made with."
        )
    s = calibration.solution
    words = {
        "schema": SCHEMA,
        "version": SCHEMA_VERSION,
        "names": s.names,
        "reasons": s.reasons,
        "log_range": s.log_range,
        "cross_validation": {str(k): v for k, v in s.cross_validation.items()},
        "config": asdict(s.config),
        "failures": calibration.failures,
        "unit": calibration.unit,
        "mask_regions": calibration.config.mask_regions,
        "extinction": None if extinction is None else extinction.name,
    }
    arrays: dict[str, Any] = {n: getattr(s, n) for n in _ARRAYS}
    arrays |= {f"number_{n}": np.array(getattr(s, n)) for n in _NUMBERS}
    arrays |= {
        "wavelength": calibration.wavelength,
        "exposure_time": np.array(calibration.exposure_time),
        "frame_airmass": np.array(calibration.airmass),
        "words": np.array(json.dumps(words)),
    }
    if s.template_covariance is not None:
        arrays["template_covariance"] = s.template_covariance
    if extinction is not None:
        arrays |= {
            "extinction_wavelength": extinction.wavelength,
            "extinction_values": extinction.extinction,
        }
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)
    return Path(path)


def load_calibration(path: str | Path) -> FluxCalibration:
    """Read what `save_calibration` wrote; ``matches`` is empty.

    Parameters
    ----------
    path : path-like
        The file.

    Raises
    ------
    FileFormatError
        If it is not such a file.

    Examples
    --------
    See `save_calibration`.

    >>> load_calibration("no-such-file.npz")
    Traceback (most recent call last):
    pogson.errors.FileFormatError: no-such-file.npz is not a flux calibration of pogson: ...
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            data = {k: file[k] for k in file.files}
        words = json.loads(str(data["words"]))
        if words.get("schema") != SCHEMA or words.get("version") != SCHEMA_VERSION:
            raise FileFormatError(
                f"{path} has schema {words.get('schema')!r} version {words.get('version')!r}; "
                f"{SCHEMA!r} version {SCHEMA_VERSION} is understood."
            )
        return _calibration(data, words)
    except (OSError, KeyError, ValueError, TypeError) as error:
        if isinstance(error, FileFormatError):
            raise
        raise FileFormatError(f"{path} is not a flux calibration of pogson: {error}") from error


def _calibration(data: dict[str, Any], words: dict[str, Any]) -> FluxCalibration:
    stored = words["config"]
    stored["rejection"] = RejectionPriors(**stored["rejection"])
    stored["knots"] = tuple(stored["knots"])
    stored["telluric_regions"] = tuple(tuple(r) for r in stored["telluric_regions"])
    known = {f.name for f in fields(ResponseConfig)}
    config = ResponseConfig(**{k: v for k, v in stored.items() if k in known})
    numbers = {n: data[f"number_{n}"].item() for n in _NUMBERS}
    solution = ResponseSolution(
        names=tuple(words["names"]),
        reasons=tuple(words["reasons"]),
        log_range=(float(words["log_range"][0]), float(words["log_range"][1])),
        cross_validation={int(k): v for k, v in words["cross_validation"].items()},
        config=config,
        template_covariance=data.get("template_covariance"),
        **{n: data[n] for n in _ARRAYS},
        **numbers,
    )
    curve = None
    if words["extinction"] is not None:
        curve = AtmosphereExtinction(
            data["extinction_wavelength"], data["extinction_values"], words["extinction"]
        )
    return FluxCalibration(
        solution,
        {},
        dict(words["failures"]),
        data["wavelength"],
        data["exposure_time"].item(),
        data["frame_airmass"].item(),
        words["unit"],
        FluxCalConfig(response=config, mask_regions=words["mask_regions"], extinction=curve),
    )
