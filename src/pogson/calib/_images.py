"""Methods of `PhotoCalib` for images and for the two measures of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import astropy.units as u
import numpy as np

from pogson.calib._fluxes import EVERYWHERE, FluxMethods, require_positive
from pogson.errors import (
    BoundsError,
    MeasureError,
    MissingDataError,
    PogsonTypeError,
    PogsonValueError,
    UnitMismatchError,
)
from pogson.fields import Box, Field
from pogson.units import Measure, strip_unit

if TYPE_CHECKING:
    from pogson.calib.photo_calib import PhotoCalib
    from pogson.fields import PixelAreaField
    from pogson.sky import SkyMap

__all__ = ["ImageMethods"]


class ImageMethods(FluxMethods):
    """Images in nJy, and the Jacobian divided out or multiplied in."""

    if TYPE_CHECKING:

        def with_(self, **changes: Any) -> PhotoCalib: ...

    # -- images -----------------------------------------------------------------------------
    def calibrate_image(
        self,
        image: Any,
        variance: Any = None,
        *,
        box: Box | None = None,
        measure: Measure | str | None = None,
    ) -> Any:
        """Multiply an image by the calibration.

        Parameters
        ----------
        image : array_like, shape (ny, nx)
            Pixels in `instrument_unit`; NaN stays NaN. float32 stays float32.
        variance : array_like, shape (ny, nx), optional
            Per-pixel variance; scales by the square. The calibration's own error is not added.
        box : Box, optional
            Pixels that the array covers; ``Box.from_shape(image.shape)`` by default.
        measure : Measure or str, optional
            Measure of the image; checked.

        Returns
        -------
        image : numpy.ndarray
            nJy per pixel.
        variance : numpy.ndarray
            Only with ``variance``; nJy squared.

        Raises
        ------
        BoundsError
            If a pixel lies outside the calibration's box. No pixel is left uncalibrated.

        Examples
        --------
        >>> from pogson.calib import FluxReference, PhotoCalib
        >>> import numpy as np
        >>> calib = PhotoCalib.constant(2.0, reference=FluxReference.total())
        >>> image, variance = calib.calibrate_image(np.ones((2, 2)), np.ones((2, 2)))
        >>> float(image[0, 0]), float(variance[0, 0])
        (2.0, 4.0)
        """
        return self._scale_image(image, variance, box, measure, inverse=False)

    def uncalibrate_image(
        self,
        image: Any,
        variance: Any = None,
        *,
        box: Box | None = None,
        measure: Measure | str | None = None,
    ) -> Any:
        """Divide an image in nJy by the calibration; the inverse of `calibrate_image`.

        Parameters
        ----------
        image, variance, box, measure
            As in `calibrate_image`, in nJy.
        """
        return self._scale_image(image, variance, box, measure, inverse=True)

    def _scale_image(
        self,
        image: Any,
        variance: Any,
        box: Box | None,
        measure: Measure | str | None,
        *,
        inverse: bool,
    ) -> Any:
        self._check_kind(None, measure)
        pixels = _as_image(image, "image")
        box = Box.from_shape(pixels.shape) if box is None else box
        if box.shape != pixels.shape:
            raise PogsonValueError(f"image of shape {pixels.shape} does not fill the {box}.")
        if not self.box.contains_box(box):
            raise BoundsError(
                f"The image covers {box}, which is not wholly inside the calibration's "
                f"{self.box}; cut the image (or fit a calibration for all of it)."
            )
        if self.is_constant:
            value = 1.0 / self.mean() if inverse else self.mean()
            out = pixels * pixels.dtype.type(value)
            return out if variance is None else (out, _same_shape(variance, pixels) * value**2)
        scale = self.field.render(box, dtype=pixels.dtype)
        lowest, highest = float(scale.min()), float(scale.max())
        if not (lowest > 0 and np.isfinite(highest)):
            require_positive(np.array([lowest, highest]), "on this image")
        combine = np.divide if inverse else np.multiply
        if variance is None:
            return combine(pixels, scale, out=scale)
        out, var = combine(pixels, scale), _same_shape(variance, pixels)
        np.multiply(scale, scale, out=scale)
        return out, combine(var, scale.astype(var.dtype, copy=False))

    # -- surface brightness and fluence -----------------------------------------------------
    def fluence_part(
        self,
        area: PixelAreaField | Field | SkyMap,
        *,
        reference_area: Any = None,
        box: Box | None = None,
    ) -> PhotoCalib:
        """Divide the Jacobian out: the calibration of the fluence image.

        An image flat-fielded on the sky is surface brightness; its calibration to nJy per pixel
        contains the pixel area. ``fluence = surface brightness * A / A0``, so the calibration of
        the fluence image is this one divided by ``A / A0``.

        Parameters
        ----------
        area : PixelAreaField or SkyMap
            The dimensionless area ratio A(x, y) / A0, or a sky map with ``reference_area``.
        reference_area : float or Quantity, optional
            A0 in arcsec2, with a sky map (or an area field in arcsec2).
        box : Box, optional
            Box for the area field of a sky map; that of the calibration by default.

        Returns
        -------
        calibration : PhotoCalib
            With measure "fluence". `surface_brightness_part` with the same area gives this
            calibration back exactly.

        Raises
        ------
        MeasureError
            If this calibration already applies to fluence.
        UnitMismatchError
            If the area is not dimensionless and no reference area is given.
        """
        if self.measure is not Measure.SURFACE_BRIGHTNESS:
            raise MeasureError(
                "This calibration applies to fluence already; dividing by the pixel area twice "
                "would be wrong."
            )
        ratio = self._area_ratio(area, reference_area, box)
        return self.with_(field=_divide(self.field, ratio), measure=Measure.FLUENCE)

    def surface_brightness_part(
        self,
        area: PixelAreaField | Field | SkyMap,
        *,
        reference_area: Any = None,
        box: Box | None = None,
    ) -> PhotoCalib:
        """Multiply the Jacobian in: the inverse of `fluence_part`, with the same arguments.

        Parameters
        ----------
        area, reference_area, box
            As in `fluence_part`.

        Raises
        ------
        MeasureError
            If this calibration already applies to surface brightness.
        """
        if self.measure is not Measure.FLUENCE:
            raise MeasureError(
                "This calibration applies to surface brightness already; multiplying by the "
                "pixel area twice would be wrong."
            )
        ratio = self._area_ratio(area, reference_area, box)
        return self.with_(field=_multiply(self.field, ratio), measure=Measure.SURFACE_BRIGHTNESS)

    def _area_ratio(self, area: Any, reference_area: Any, box: Box | None) -> Field:
        if not isinstance(area, Field):
            if not hasattr(area, "pixel_area_field"):
                raise PogsonTypeError(f"area must be a PixelAreaField or a SkyMap, not {area!r}.")
            box = self.box if box is None else box
            if box == EVERYWHERE:
                raise MissingDataError("A calibration valid everywhere needs box= with a sky map.")
            area = area.pixel_area_field(box)
        ratio: Field = area
        if reference_area is not None:
            a0 = float(strip_unit(reference_area, u.arcsec**2, "reference_area"))
            if not (np.isfinite(a0) and a0 > 0):
                raise PogsonValueError(f"The reference area {reference_area!r} must be positive.")
            ratio = (
                area.relative_to(a0) if hasattr(area, "relative_to") else area / (a0 * u.arcsec**2)
            )
        if ratio.unit != u.dimensionless_unscaled:
            raise UnitMismatchError(
                f"The pixel-area field has unit '{ratio.unit}'; give the dimensionless ratio "
                "A/A0 (PixelAreaField.relative_to) or pass reference_area= in arcsec2."
            )
        return ratio


def _same_shape(variance: Any, pixels: np.ndarray) -> np.ndarray:
    var = _as_image(variance, "variance")
    if var.shape != pixels.shape:
        raise PogsonValueError(
            f"variance of shape {var.shape} does not match the image's {pixels.shape}."
        )
    return var


def _as_image(value: Any, name: str) -> np.ndarray:
    array = np.asarray(value)
    if array.ndim != 2:
        raise PogsonValueError(f"{name} must be a 2-d array [y, x], not of shape {array.shape}.")
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float64 if array.dtype.itemsize > 2 else np.float32)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _divide(numerator: Field, ratio: Field) -> Field:
    """Divide, undoing an earlier `_multiply` by the same ratio exactly."""
    from pogson.fields import ProductField

    if isinstance(numerator, ProductField):
        rest = _without(numerator, ratio)
        if rest is not None:
            return rest
    return numerator / ratio


def _multiply(field: Field, ratio: Field) -> Field:
    """Multiply, undoing an earlier `_divide` by the same ratio exactly."""
    from pogson.fields import QuotientField

    if isinstance(field, QuotientField) and field.denominator == ratio:
        return field.numerator
    return field * ratio


def _without(product: Any, factor: Field) -> Field | None:
    """Return the two-factor product without one factor, or None."""
    factors = list(product.factors)
    if len(factors) == 2:
        for i in (1, 0):
            if factors[i] == factor:
                return factors[1 - i]
    return None
