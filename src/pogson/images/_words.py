"""An exposure in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pogson.units import Measure

if TYPE_CHECKING:
    from pogson.images.exposure import Exposure

__all__ = ["exposure_text", "values_text"]


def exposure_text(exposure: Exposure) -> str:
    """Return the text of an exposure's repr."""
    name = exposure._name().replace("exposure", "Exposure", 1)
    b = exposure.box
    lines = [
        f"<{name}: {b.nx} x {b.ny} pixels, x {b.x_min} to {b.x_max}, y {b.y_min} to {b.y_max}",
        f"  values: {values_text(exposure)}",
    ]
    has_variance = exposure.__dict__.get("_pending_variance") is not None
    has_variance = has_variance or exposure.variance is not None
    parts = [
        ("variance" if has_variance else "no variance")
        + (", mask" if exposure.mask is not None else ", no mask"),
        "no sky mapping" if exposure.sky is None else type(exposure.sky).__name__,
        "no PSF" if exposure.psf is None else type(exposure.psf).__name__,
        "no flux calibration" if exposure.photo_calib is None else "calibration to nJy attached",
    ]
    if exposure.background is not None:
        parts.append(
            "background subtracted"
            if exposure.background_subtracted
            else "background attached, not subtracted"
        )
    if exposure.bandpass:
        parts.append(f"band {exposure.bandpass}")
    if exposure.flattening_sed is not None:
        parts.append(f"flat for {exposure.flattening_sed!r}")
    lines.append("  " + "; ".join(parts) + ">")
    return "\n".join(lines)


def values_text(exposure: Exposure) -> str:
    """Return in words what a pixel value of an exposure means."""
    unit = exposure.unit.to_string() or "no unit"
    if exposure.measure is Measure.FLUENCE:
        return f"fluence in {unit}: each pixel holds its own light; sums of pixels are fluxes"
    how = (
        "no area ratio is known, so sums of pixels are not fluxes"
        if exposure.area_ratio is None
        else "times the pixel-area ratio A/A0 it is fluence"
    )
    return f"surface brightness in {unit} per reference pixel area; {how}"
