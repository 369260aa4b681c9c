"""What images have to agree in before they are added."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import astropy.units as u

from pogson.errors import (
    CalibrationError,
    MeasureError,
    MissingDataError,
    PogsonError,
    PogsonTypeError,
    ReferenceMismatchError,
    UnitMismatchError,
)
from pogson.images.exposure import Exposure
from pogson.images.warp import Warp
from pogson.units import Measure

if TYPE_CHECKING:
    from pogson.sky import SkyMap

__all__ = ["check_inputs"]

_LISTED = 12


def check_inputs(
    items: Sequence[Any], sky: SkyMap | None, flattening_sed: str | None
) -> dict[str, Any]:
    """Raise with the list of what is mixed or unknown; return what the coadd has in common.

    Returns
    -------
    dict
        ``photo_calib``, ``bandpass`` and ``flattening_sed`` of the coadd.
    """
    problems: list[tuple[type[PogsonError], str]] = []
    exposures, names, seds = [], [], []
    for k, item in enumerate(items):
        exposure = item.exposure if isinstance(item, Warp) else item
        if not isinstance(exposure, Exposure):
            raise PogsonTypeError(f"Image {k} is a {type(item).__name__}; give Exposure or Warp.")
        name = f"image {k}" + (f" ({exposure.exposure_id})" if exposure.exposure_id else "")
        if exposure.detector:
            name += f" detector {exposure.detector}"
        exposures.append(exposure)
        names.append(name)
        problems += [(kind, f"{name}: {text}") for kind, text in _own(exposure)]
        if isinstance(item, Warp) and sky is not None and exposure.sky != sky:
            problems.append((CalibrationError, f"{name}: a warp on another sky mapping"))
        flattening = item.source.flattening if isinstance(item, Warp) else exposure.flattening
        sed, why = _flat_for(exposure, flattening, flattening_sed)
        seds.append(sed)
        if why:
            problems.append((MissingDataError, f"{name}: {why}"))
    problems += _mixed(exposures, names, seds)
    if problems:
        kinds = {kind for kind, _ in problems}
        kind = kinds.pop() if len(kinds) == 1 else CalibrationError
        lines = [text for _, text in problems]
        more = f"\n- and {len(lines) - _LISTED} more" if len(lines) > _LISTED else ""
        raise kind(
            "These images cannot be added. A coadd is of fluence in nJy, of one flux reference, "
            "one bandpass and one fiducial spectrum:\n- " + "\n- ".join(lines[:_LISTED]) + more
        )
    return {
        "photo_calib": _common_calibration(exposures[0]),
        "bandpass": exposures[0].bandpass,
        "flattening_sed": seds[0],
    }


def _own(exposure: Exposure) -> list[tuple[type[PogsonError], str]]:
    """Return what is wrong with one image by itself."""
    out: list[tuple[type[PogsonError], str]] = []
    if exposure.measure is not Measure.FLUENCE:
        out.append((MeasureError, "in surface brightness; convert it with exposure.to('fluence')"))
    if exposure.unit != u.nJy:
        out.append(
            (
                UnitMismatchError,
                f"in '{exposure.unit}', not nJy; calibrate it: exposure.calibrated()",
            )
        )
    if exposure.photo_calib is None:
        out.append((MissingDataError, "no photo_calib, so the reference of its fluxes is unknown"))
    if exposure.sky is None:
        out.append((MissingDataError, "no sky mapping"))
    return out


def _flat_for(exposure: Exposure, flattening: Any, assumed: str | None) -> tuple[str | None, str]:
    """Return the spectrum that an image is flat for, and what is wrong with it."""
    if flattening is not None and not flattening.is_fiducial:
        return None, (
            f"flat for {flattening.sed.name!r}, not for the fiducial {flattening.fiducial.name!r}; "
            f"use exposure.flattened_for('fiducial')"
        )
    sed = exposure.flattening_sed if exposure.flattening_sed is not None else assumed
    if sed is None:
        return None, (
            "it is not known for which spectrum it is flat; say so: "
            "exposure.with_(flattening_sed='...'), or for all of them flattening_sed= "
            "(--flattening-sed NAME)"
        )
    return sed, ""


def _mixed(
    exposures: Sequence[Exposure], names: Sequence[str], seds: Sequence[str | None]
) -> list[tuple[type[PogsonError], str]]:
    """Return where an image differs from the first."""
    out: list[tuple[type[PogsonError], str]] = []
    first = exposures[0]
    for exposure, name, sed in zip(exposures[1:], names[1:], seds[1:], strict=True):
        a, b = first.photo_calib, exposure.photo_calib
        if a is not None and b is not None and not a.reference.matches(b.reference):
            out.append(
                (
                    ReferenceMismatchError,
                    f"{name}: fluxes of reference '{b.reference.label}', {names[0]}: "
                    f"'{a.reference.label}'",
                )
            )
        if sed is not None and seds[0] is not None and sed != seds[0]:
            out.append((CalibrationError, f"{name}: flat for {sed!r}, {names[0]}: {seds[0]!r}"))
        if exposure.bandpass != first.bandpass:
            out.append(
                (
                    CalibrationError,
                    f"{name}: band {exposure.bandpass!r}, {names[0]}: {first.bandpass!r}",
                )
            )
        if exposure.mask_bits != first.mask_bits:
            out.append((CalibrationError, f"{name}: other mask bits than {names[0]}"))
        if (a is not None and b is not None) and a.sed != b.sed:
            out.append(
                (CalibrationError, f"{name}: calibrated for {b.sed!r}, {names[0]}: {a.sed!r}")
            )
    return out


def _common_calibration(exposure: Exposure) -> Any:
    """Return the calibration of the coadd: one, in nJy, of the inputs' reference."""
    from pogson.calib import PhotoCalib

    calib = exposure.photo_calib
    if calib is None:
        raise MissingDataError("The first image has no photo_calib.")
    return PhotoCalib.constant(
        1.0,
        unit=u.dimensionless_unscaled,
        measure=Measure.FLUENCE,
        reference=calib.reference,
        bandpass=calib.bandpass,
        sed=calib.sed,
    )
