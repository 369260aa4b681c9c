"""An exposure taken to nJy by its own calibration."""

from __future__ import annotations

import astropy.units as u
import numpy as np

from pogson.errors import MissingDataError, UnitMismatchError
from pogson.images.exposure import Exposure
from pogson.units import Measure

__all__ = ["calibrated_exposure"]


def calibrated_exposure(exposure: Exposure) -> Exposure:
    """Return the exposure in nJy and fluence; see `Exposure.calibrated`."""
    from pogson.calib import PhotoCalib

    calib = exposure.photo_calib
    if calib is None:
        raise MissingDataError(
            "The exposure has no photo_calib; fit one, or give one with "
            "exposure.with_(photo_calib=...)."
        )
    factor = _unit_factor(exposure.unit, calib.field.unit)
    source = exposure.to(calib.measure)
    image, variance = source.image, source.variance
    if factor != 1.0:
        image = image * np.float32(factor)
        variance = None if variance is None else variance * np.float32(factor**2)
    box = exposure.box
    if variance is None:
        image = calib.calibrate_image(image, box=box)
    else:
        image, variance = calib.calibrate_image(image, variance, box=box)
    # Whatever it is applied to, a PhotoCalib gives nJy per pixel: fluence.
    per_fluence = calib.field.with_box(box) * factor
    if calib.measure is Measure.SURFACE_BRIGHTNESS and exposure.area_ratio is not None:
        per_fluence = per_fluence / exposure.area_ratio.with_box(box)
    background = exposure.background
    if background is not None:
        if calib.measure is Measure.SURFACE_BRIGHTNESS and exposure.area_ratio is None:
            raise MissingDataError(
                "The attached background cannot be calibrated without the area_ratio; add it with "
                "exposure.with_area_ratio(), or drop the background with "
                "exposure.with_(background=None)."
            )
        background = background.with_box(box).scaled(per_fluence)
    metadata = dict(exposure.metadata)
    x, y = box.center
    for name in ("gain", "effective_gain"):  # electron per nJy; at the centre, where it varies
        if isinstance(metadata.get(name), (int, float)):
            metadata[name] = float(metadata[name]) / float(per_fluence(x=x, y=y))
    if isinstance(metadata.get("amplifiers"), (list, tuple)):
        metadata["amplifiers"] = [
            {**one, "gain": float(one["gain"]) / float(per_fluence(x=x, y=y))}
            for one in metadata["amplifiers"]
        ]
    return exposure.with_(
        image=image,
        variance=variance,
        unit=u.nJy,
        measure=Measure.FLUENCE,
        background=background,
        metadata=metadata,
        photo_calib=PhotoCalib.constant(
            1.0,
            unit=u.dimensionless_unscaled,
            measure=Measure.FLUENCE,
            reference=calib.reference,
            bandpass=calib.bandpass,
            sed=calib.sed,
        ).with_(covariance=calib.covariance),
    )


def _unit_factor(unit: u.UnitBase, calibration_unit: u.UnitBase) -> float:
    """Return the factor from the image's unit to the calibration's instrumental unit."""
    instrumental = u.nJy / calibration_unit
    try:
        return float(unit.to(instrumental))
    except u.UnitConversionError:
        raise UnitMismatchError(
            f"The image is in '{unit}' but its photo_calib converts '{instrumental}' to nJy."
        ) from None
