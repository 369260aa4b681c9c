"""Checks of the parts of an exposure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import astropy.units as u
import numpy as np

from pogson.errors import BoundsError, PogsonTypeError, PogsonValueError, UnitMismatchError
from pogson.images._scaling import Recycled, check_ratio
from pogson.images.mask import MaskBits

if TYPE_CHECKING:
    from pogson.images.exposure import Exposure

__all__ = [
    "check_parts",
    "checked_mask",
    "checked_metadata",
    "checked_variance",
    "frozen",
    "missing_is_missing",
    "same_parts",
]


def frozen(array: Any, dtype: Any, name: str) -> np.ndarray:
    """Return a read-only array of a dtype; a copy unless nobody can write to it already."""
    try:
        out = np.asarray(array)
        if out.dtype == bool and dtype == np.float32:
            raise TypeError
        wanted = np.dtype(dtype)
        if out.dtype != wanted:
            with np.errstate(over="ignore"):
                out = out.astype(wanted)
        elif out.flags.writeable or _writeable_base(out):
            out = out.copy()
    except (TypeError, ValueError):
        raise PogsonTypeError(f"The {name} must be an array of numbers.") from None
    out.flags.writeable = False
    return out


def _writeable_base(array: np.ndarray) -> bool:
    base = array.base
    while isinstance(base, np.ndarray):
        if base.flags.writeable:
            return True
        base = base.base
    # memory that another object owns may change under us
    return base is not None and not isinstance(base, Recycled)


def checked_variance(variance: Any, image: np.ndarray) -> np.ndarray | None:
    """Return a read-only float32 variance of the image's shape, or None."""
    if variance is None:
        return None
    out = frozen(variance, np.float32, "variance")
    if out.shape != image.shape:
        raise PogsonValueError(
            f"The variance (or weight map) has shape {out.shape} but the image has {image.shape}."
        )
    negative = out < 0
    if negative.any():
        y, x = (int(i) for i in np.argwhere(negative)[0])
        raise PogsonValueError(
            f"The variance is negative at {int(negative.sum())} pixels, first {out[y, x]:.6g} at "
            f"array index [y={y}, x={x}]; a variance is at least 0 (0 or NaN means no data)."
        )
    return out


def checked_mask(mask: Any, image: np.ndarray) -> np.ndarray | None:
    """Return a read-only uint32 mask of the image's shape, or None."""
    if mask is None:
        return None
    given = np.asarray(mask)
    if given.dtype.kind not in "uib":
        raise PogsonTypeError(f"The mask must hold integers, not {given.dtype}.")
    if given.shape != image.shape:
        raise PogsonValueError(f"The mask has shape {given.shape}, the image {image.shape}.")
    return frozen(given, np.uint32, "mask")


def missing_is_missing(
    image: np.ndarray, variance: np.ndarray | None, mask: np.ndarray | None, bits: MaskBits
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Make NaN and the NO_DATA bit imply each other, with NaN variance."""
    if "NO_DATA" not in bits:
        return image, variance, mask
    bit = np.uint32(bits.value("NO_DATA"))
    missing = ~np.isfinite(image)
    if mask is not None:
        missing |= (mask & bit) != 0
    if not missing.any():
        return image, variance, mask
    image = np.where(missing, np.float32(np.nan), image)
    mask = np.where(missing, bit, np.uint32(0)) | (np.uint32(0) if mask is None else mask)
    if variance is not None:
        variance = np.where(missing, np.float32(np.nan), variance)
        variance.flags.writeable = False
    image.flags.writeable = mask.flags.writeable = False
    return image, variance, mask


def checked_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the metadata, its gain and exposure time finite and positive."""
    out = dict(metadata)
    for name in ("gain", "exposure_time"):
        value = out.get(name)
        if value is None:
            continue
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = float("nan")
        if not (np.isfinite(number) and number > 0):
            raise PogsonValueError(
                f"metadata[{name!r}] is {value!r}; it must be a finite number above 0. Leave it "
                f"out if it is unknown."
            )
        out[name] = number
    return out


def check_parts(exposure: Exposure) -> None:
    """Check that the parts belong together."""
    box, ratio, psf = exposure.box, exposure.area_ratio, exposure.psf
    if ratio is not None:
        if not ratio.unit.is_equivalent(u.dimensionless_unscaled):
            raise UnitMismatchError(
                f"The area ratio has unit '{ratio.unit}'; it must be dimensionless: divide a pixel "
                f"area by the reference area, area_field.relative_to(A0)."
            )
        if not ratio.box.contains_box(box):
            raise BoundsError(f"The area ratio covers {ratio.box}, not the image's {box}.")
        x = np.linspace(box.x_min, box.x_max, 9)
        y = np.linspace(box.y_min, box.y_max, 9)[:, None]
        check_ratio(np.asarray(ratio(x=x, y=y)), "a 9 x 9 grid")
    if psf is not None:
        _check_detector(exposure, str(psf.detector))
        if psf.box is not None and not psf.box.contains_box(box):
            raise BoundsError(
                f"The PSF is defined on {psf.box}, which does not contain the image's {box}: it "
                f"is of another detector, or of a part of this one."
            )
    flattening = exposure.flattening
    if flattening is not None:
        if not flattening.box.contains_box(box):
            raise BoundsError(f"The flat covers {flattening.box}, not the image's {box}.")
        if exposure.flattening_sed != flattening.sed.name:
            raise PogsonValueError(
                f"flattening_sed is {exposure.flattening_sed!r} but the flattening is for "
                f"{flattening.sed.name!r}; leave flattening_sed out."
            )
    background = exposure.background
    if background is not None and not background.box.contains_box(box):
        raise BoundsError(f"The background covers {background.box}, not the image's {box}.")


def _check_detector(exposure: Exposure, held: str) -> None:
    """Refuse the PSF of another detector; a name is compared with a name, a number with a number.

    A camera's detectors have names and numbers, and a PSF file may say either.
    """
    known = [str(v) for v in (exposure.detector, exposure.metadata.get("detector_number")) if v]
    comparable = [v for v in known if v.isdigit() == held.isdigit()]
    if not held or not comparable:
        return
    if not any(v == held or (held.isdigit() and int(v) == int(held)) for v in comparable):
        raise PogsonValueError(
            f"The PSF is of detector {held!r} but the exposure of {known[0]!r}"
            + (f" (number {known[1]})" if len(known) > 1 else "")
            + "; use the PSF of the same detector."
        )


def same_parts(one: Exposure, other: Exposure) -> bool:
    """Return whether all attributes of two exposures are equal, NaN equal to NaN."""
    for f in fields(one):
        mine, theirs = getattr(one, f.name), getattr(other, f.name)
        if isinstance(mine, np.ndarray) or isinstance(theirs, np.ndarray):
            if (mine is None) != (theirs is None):
                return False
            if mine is not theirs and not _same_array(mine, theirs):
                return False
        elif f.name == "metadata":
            if dict(mine) != dict(theirs):
                return False
        elif mine != theirs:
            return False
    return True


def _same_array(a: np.ndarray, b: np.ndarray) -> bool:
    """Return whether two arrays are equal, NaN equal to NaN."""
    return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))
