"""`Exposure`: an image that knows what its numbers mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import (
    MaskedDataError,
    MeasureError,
    MissingDataError,
    PogsonTypeError,
    PogsonValueError,
)
from pogson.fields import Box
from pogson.images._checks import (
    check_parts,
    checked_mask,
    checked_metadata,
    checked_variance,
    frozen,
    missing_is_missing,
    same_parts,
)
from pogson.images._scaling import PendingVariance, RatioImage, bad_pixels, scale_by_ratio
from pogson.images.mask import BAD_FOR_PHOTOMETRY, MaskBits
from pogson.units import Measure, parse_unit

if TYPE_CHECKING:
    from pogson.calib import PhotoCalib
    from pogson.fields import Field
    from pogson.images.background import Background
    from pogson.images.flattening import Flattening
    from pogson.psf import PSF
    from pogson.sed import Spectrum
    from pogson.sky import SkyMap

__all__ = ["Exposure"]

_PIXEL_CHANGES = {
    "image", "variance", "mask", "mask_bits", "box", "unit", "measure", "area_ratio", "metadata",
}  # fmt: skip
"""Attributes whose change needs the arrays to be checked again."""


@dataclass(frozen=True, eq=False, repr=False)
class Exposure:
    """An image with its variance, mask and everything needed to say what a pixel value means.

    Immutable: arrays are read-only (copied unless they already are), and every method returns a
    new exposure. Pixel convention: 0-based, centres on integers, arrays ``[y, x]``; the first pixel
    of the arrays is pixel ``(box.x_min, box.y_min)``.

    Parameters
    ----------
    image : array_like, shape (ny, nx)
        Pixel values in `unit`; kept as float32. Values that are not finite are missing data: they
        become NaN and get the mask bit NO_DATA.
    unit : unit-like
        Unit of the pixel values, for example ``"adu"``, ``"electron"``, ``"adu / s"`` or ``"nJy"``.
    measure : Measure or str
        ``"fluence"`` (light of that pixel) or ``"surface_brightness"`` (light per sky area, times
        the reference pixel area). There is no default: an image that does not say which cannot be
        measured.
    variance : array_like, optional
        Variance of the pixel values in ``unit**2``; it never contains calibration uncertainty.
    mask : array_like of integer, optional
        Bits named by ``mask_bits``.
    mask_bits : MaskBits, optional
        Names of the bits.
    box : Box, optional
        Where the image lies; by default its first pixel is (0, 0).
    sky : SkyMap, optional
        Pixel to sky mapping.
    psf : PSF, optional
        Effective point spread function, of this detector.
    photo_calib : PhotoCalib, optional
        Conversion to nJy.
    bandpass : str, optional
        Name of the bandpass.
    flattening_sed : str, optional
        Name of the spectrum for which the flat field is right; that of ``flattening`` where known.
    flattening : Flattening, optional
        The flat that the image was divided by, and for which spectrum; with it the image can be
        taken to the flat of another spectrum (`flattened_for`).
    area_ratio : Field, optional
        Dimensionless pixel area over the reference area, A(x, y) / A0, finite and positive. With
        it, ``fluence = surface brightness * A / A0``.
    background : Background, optional
        Background that belongs to the image.
    background_subtracted : bool, optional
        Whether ``background`` has been subtracted from ``image``.
    exposure_id, detector : str, optional
        Names of the exposure and of the detector.
    metadata : mapping, optional
        Other values: ``exposure_time`` (s), ``gain`` (electron per unit of the fluence image),
        ``airmass``, ``mjd``, ...

    Raises
    ------
    PogsonValueError
        If shapes disagree, a variance is negative, or the gain or exposure time is not positive.
    MeasureError
        If the measure is unknown or the area ratio has zeros, negative values or NaN.
    UnitMismatchError
        If the unit is unknown or the area ratio is not dimensionless.
    BoundsError
        If the PSF, area ratio or background does not cover the image.

    Notes
    -----
    Fluence has no area factor; a sky-flattened image is ``fluence * A0 / A(x, y)``. Photometer,
    warp and add on fluence; estimate backgrounds on surface brightness. Because the measure is part
    of the type, a conversion can be asked for any number of times and is applied once.

    Examples
    --------
    >>> import numpy as np
    >>> from pogson.images import Exposure
    >>> exposure = Exposure(np.full((3, 4), 7.0), unit="adu", measure="fluence")
    >>> exposure
    <Exposure: 4 x 3 pixels, x 0 to 3, y 0 to 2
      values: fluence in adu: each pixel holds its own light; sums of pixels are fluxes
      no variance, no mask; no sky mapping; no PSF; no flux calibration>
    >>> exposure.to("fluence") is exposure
    True
    """

    image: np.ndarray
    unit: Any = field(kw_only=True)
    measure: Measure = field(kw_only=True)
    variance: np.ndarray | None = field(default_factory=lambda: None, kw_only=True)
    mask: np.ndarray | None = field(default=None, kw_only=True)
    mask_bits: MaskBits = field(default_factory=MaskBits.standard, kw_only=True)
    box: Box = field(default=None, kw_only=True)  # type: ignore[assignment]
    sky: SkyMap | None = field(default=None, kw_only=True)
    psf: PSF | None = field(default=None, kw_only=True)
    photo_calib: PhotoCalib | None = field(default=None, kw_only=True)
    bandpass: str | None = field(default=None, kw_only=True)
    flattening_sed: str | None = field(default=None, kw_only=True)
    flattening: Flattening | None = field(default=None, kw_only=True)
    area_ratio: Field | None = field(default=None, kw_only=True)
    background: Background | None = field(default=None, kw_only=True)
    background_subtracted: bool = field(default=False, kw_only=True)
    exposure_id: str = field(default="", kw_only=True)
    detector: str = field(default="", kw_only=True)
    metadata: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        image = frozen(self.image, np.float32, "image")
        if image.ndim != 2 or image.size == 0:
            raise PogsonValueError(
                f"An image must have two dimensions and some pixels; this has shape {image.shape}."
            )
        box = Box.from_shape(image.shape) if self.box is None else self.box
        if box.shape != image.shape:
            raise PogsonValueError(
                f"The box has shape {box.shape} (ny, nx) but the image has {image.shape}."
            )
        variance = checked_variance(self.variance, image)
        mask = checked_mask(self.mask, image)
        image, variance, mask = missing_is_missing(image, variance, mask, self.mask_bits)
        self._fill(
            image=image,
            variance=variance,
            mask=mask,
            box=box,
            unit=parse_unit(self.unit),
            measure=Measure.parse(self.measure),
            metadata=MappingProxyType(checked_metadata(self.metadata)),
            _ratio_image=None,
            _pending_variance=None,
            _bad={},
        )
        if self.flattening is not None and self.flattening_sed is None:
            self._fill(flattening_sed=self.flattening.sed.name)
        check_parts(self)
        if self.area_ratio is not None:
            self._fill(_ratio_image=RatioImage(self.area_ratio, box))

    def _fill(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            # Reached only where the attribute is not set: a variance that waits for its first use.
            pending = self.__dict__.get("_pending_variance")
            if name == "variance" and pending is not None:
                self._fill(variance=pending.compute(), _pending_variance=None)
                return self.variance
            raise AttributeError(f"Exposure has no attribute {name!r}.")

    # -- measures -----------------------------------------------------------------------------
    def to(self, measure: Measure | str) -> Exposure:
        """Return the exposure in a measure; itself if it is in that measure already.

        Parameters
        ----------
        measure : Measure or str
            ``"fluence"`` or ``"surface_brightness"``.

        Returns
        -------
        Exposure
            Image multiplied (to fluence) or divided (to surface brightness) by the pixel-area
            ratio, variance by its square. NaN stays NaN. The variance is computed when it is first
            read.

        Raises
        ------
        MeasureError
            If the exposure has no ``area_ratio``.

        Examples
        --------
        >>> import numpy as np
        >>> from pogson.fields import Box, ConstantField
        >>> exposure = Exposure(np.full((2, 2), 100.0), unit="adu", measure="surface_brightness",
        ...                     area_ratio=ConstantField(Box(0, 0, 2, 2), 1.05))
        >>> float(exposure.to("fluence").to("fluence").image[0, 0])
        105.0
        """
        wanted = Measure.parse(measure)
        if wanted == self.measure:
            return self
        ratio = self._ratio()
        power = 1 if wanted is Measure.FLUENCE else -1
        image = scale_by_ratio(self.image, ratio.image(self.box), power, ratio.spare)
        new = self._shallow(image=image, measure=wanted)
        new._defer_variance(self, ratio, 2 * power)
        return new

    def _defer_variance(self, source: Exposure, ratio: RatioImage, power: int) -> None:
        """Take over another exposure's variance, to be scaled by ratio**power when it is read."""
        pending = source.__dict__.get("_pending_variance")
        if pending is not None:
            base, power = pending.base, pending.power + power
        elif source.variance is None:
            return
        else:
            base = source.variance
        if power == 0:
            self._fill(variance=base, _pending_variance=None)
            return
        self.__dict__.pop("variance", None)
        self._fill(_pending_variance=PendingVariance(base, ratio, self.box, power))

    def _ratio(self) -> RatioImage:
        """Return the shared rendering of the area ratio."""
        ratio: RatioImage | None = self.__dict__["_ratio_image"]
        if ratio is None:
            raise MeasureError(
                f"This exposure is in {self.measure.value} and has no area_ratio, so it cannot be "
                f"converted to the other measure. Give it one: exposure.with_area_ratio() makes it "
                f"from the sky mapping"
                + ("." if self.sky is not None else ", which is also missing here.")
            )
        return ratio

    def area_ratio_image(self) -> np.ndarray:
        """Return A(x, y) / A0 on every pixel: read-only float32, rendered once and kept.

        Raises
        ------
        MeasureError
            If the exposure has no ``area_ratio``.
        """
        return self._ratio().image(self.box)

    def with_area_ratio(self, reference_area: float | None = None) -> Exposure:
        """Return the exposure with the pixel-area ratio of its own sky mapping.

        Parameters
        ----------
        reference_area : float, optional
            Reference pixel area A0 in arcsec2; by default the mean over the image. Give every
            detector of a camera the same one.

        Raises
        ------
        MissingDataError
            If the exposure has no sky mapping.
        """
        if self.sky is None:
            raise MissingDataError(
                "The exposure has no sky mapping, so its pixel areas are unknown; pass sky=..."
            )
        area = self.sky.pixel_area_field(self.box)
        reference = area.mean() if reference_area is None else float(reference_area)
        if not (np.isfinite(reference) and reference > 0):
            raise PogsonValueError(
                f"The reference pixel area must be positive (arcsec2), not {reference_area!r}."
            )
        return self.with_(area_ratio=area.relative_to(reference))

    # -- spectra of the flat ------------------------------------------------------------------
    def flattened_for(self, sed: Spectrum | str) -> Exposure:
        """Return the exposure flattened for another spectrum, in the same measure.

        Parameters
        ----------
        sed : Spectrum or "fiducial"
            The light for which the image is to be flat: the fiducial spectrum for photometry, the
            sky's for backgrounds.

        Raises
        ------
        MissingDataError
            If it is not known which flat, for which spectrum, the image was divided by.

        Examples
        --------
        >>> import numpy as np
        >>> from pogson.fields import Box, ChebyshevField
        >>> from pogson.images import ChromaticFlat, Flattening
        >>> from pogson.sed import Bandpass, Spectrum
        >>> box = Box(0, 0, 100, 2)
        >>> flat = ChromaticFlat.from_fields(
        ...     [3000.0, 12000.0], [ChebyshevField(box, [[1.0, s]]) for s in (0.05, -0.05)])
        >>> state = Flattening(flat, Bandpass.from_speclite("decam2014-r"),
        ...                    Spectrum.constant_ab(20.0))
        >>> exposure = Exposure(np.ones(box.shape), unit="adu", measure="fluence",
        ...                     flattening=state)
        >>> dusk = exposure.flattened_for(Spectrum([3000.0, 12000.0], [9.0, 0.1], name="dusk"))
        >>> dusk.flattening_sed, bool(dusk.image[0, -1] < 1.0 < dusk.image[0, 0])
        ('dusk', True)
        """
        return self.to_state(sed=sed)

    def to_state(
        self, *, measure: Measure | str | None = None, sed: Spectrum | str | None = None
    ) -> Exposure:
        """Return the exposure in a measure and flattened for a spectrum: one mapping for both.

        The mapping is pixel area times the ratio of the flats for two spectra. It is taken in
        double precision and rounded once, and the way back uses the same numbers, so that there
        and back differ from the input by at most 2 units in the last place.

        Parameters
        ----------
        measure : Measure or str, optional
            As it is by default.
        sed : Spectrum or "fiducial", optional
            As it is by default.

        Raises
        ------
        MeasureError
            If the measure is to change and the exposure has no ``area_ratio``.
        MissingDataError
            If the spectrum is to change and the exposure has no ``flattening``.
        """
        from pogson.images._states import change_state

        return change_state(self, measure, sed)

    # -- changes ------------------------------------------------------------------------------
    def with_(self, **changes: Any) -> Exposure:
        """Return a copy with some attributes changed, checked as in construction.

        Raises
        ------
        PogsonTypeError
            If an attribute does not exist.
        """
        if changes.get("flattening") is not None:
            changes.setdefault("flattening_sed", changes["flattening"].sed.name)
        names = [f.name for f in fields(self)]
        unknown = sorted(set(changes) - set(names))
        if unknown:
            raise PogsonTypeError(
                f"Exposure has no attribute {', '.join(unknown)}; it has {', '.join(names)}."
            )
        if not set(changes) & _PIXEL_CHANGES:
            new = self._shallow(**changes)
            check_parts(new)
            return new
        values = {name: changes[name] if name in changes else getattr(self, name) for name in names}
        new = Exposure(**values)
        if "area_ratio" not in changes and "box" not in changes:
            new._fill(_ratio_image=self.__dict__["_ratio_image"])  # keep what is rendered
        return new

    def _shallow(self, **changes: Any) -> Exposure:
        """Copy without checks, for changes that cannot make the exposure wrong."""
        new = object.__new__(Exposure)
        new.__dict__.update(self.__dict__)
        if "image" in changes:
            new.__dict__.pop("_before_subtraction", None)
        new.__dict__.update(changes)
        return new

    def cutout(self, box: Box) -> Exposure:
        """Return the part of the exposure on a smaller box, pixel coordinates unchanged.

        Parameters
        ----------
        box : Box
            Wholly inside the exposure's box.

        Returns
        -------
        Exposure
            Its arrays are views; position (x, y) means the same star as before.

        Raises
        ------
        BoundsError
            If ``box`` is not inside the exposure.
        """
        part = box.slices(self.box)
        new = self._shallow(image=self.image[part], box=box, _bad={})
        pending = self.__dict__.get("_pending_variance")
        if pending is not None:
            new._fill(_pending_variance=pending.cut(box))
        elif self.variance is not None:
            new._fill(variance=self.variance[part])
        if self.mask is not None:
            new._fill(mask=self.mask[part])
        if self.area_ratio is not None:
            new._fill(area_ratio=self.area_ratio.with_box(box))
        if self.background is not None:
            new._fill(background=self.background.with_box(box))
        return new

    # -- background ---------------------------------------------------------------------------
    def with_background(self, background: Background) -> Exposure:
        """Return the exposure with a background attached; no pixel changes.

        Raises
        ------
        PogsonValueError
            If another background is subtracted already.
        """
        if self.background_subtracted:
            raise PogsonValueError(
                "A background is subtracted from this exposure already; restore_background() first."
            )
        return self.with_(background=background)

    def subtract_background(self) -> Exposure:
        """Return the exposure less its attached background, in its own measure.

        The background stays attached, so `restore_background` undoes it: exactly, unless pixels
        were changed in between; then to rounding.

        Raises
        ------
        MissingDataError
            If no background is attached.
        """
        if self.background_subtracted:
            return self
        if self.background is None:
            raise MissingDataError(
                "No background is attached; exposure.with_background(estimate_background(...))."
            )
        image = self._background_image()
        np.subtract(self.image, image, out=image)
        image.flags.writeable = False
        new = self._shallow(image=image, background_subtracted=True)
        new._fill(_before_subtraction=self.image)
        return new

    def restore_background(self) -> Exposure:
        """Return the exposure with its attached background added back, if it was subtracted."""
        if not self.background_subtracted or self.background is None:
            return self
        before = self.__dict__.get("_before_subtraction")
        if before is not None:
            return self._shallow(image=before, background_subtracted=False)
        image = self._background_image()
        np.add(self.image, image, out=image)
        image.flags.writeable = False
        return self._shallow(image=image, background_subtracted=False)

    def _background_image(self) -> np.ndarray:
        """Return the attached background in this exposure's measure, with the ratio at hand."""
        background = self.background
        assert background is not None
        same_state = background.flattening is None or background.flattening == self.flattening
        shared = background.area_ratio is self.area_ratio is not None
        if self.measure is Measure.FLUENCE and shared and same_state:
            level = background.level.render(self.box, dtype=np.float32)
            return np.multiply(level, self.area_ratio_image(), out=level)
        return background.image(self.measure, box=self.box, flattening=self.flattening)

    # -- calibration --------------------------------------------------------------------------
    def calibrated(self) -> Exposure:
        """Return the exposure in nJy, by its `photo_calib`, in the exposure's own measure.

        The variance is scaled by the square of the calibration and carries no calibration
        uncertainty, which all pixels share; ask the PhotoCalib for that.

        Raises
        ------
        MissingDataError
            If there is no photo_calib.
        """
        from pogson.images._calibrated import calibrated_exposure

        return calibrated_exposure(self)

    # -- masks --------------------------------------------------------------------------------
    def bad(self, names: Iterable[str] | None = None) -> np.ndarray:
        """Return which pixels are unusable.

        Parameters
        ----------
        names : iterable of str, optional
            Mask names; by default `pogson.images.BAD_FOR_PHOTOMETRY`. Pixels that are not finite,
            or whose variance is not finite and positive, are always bad.

        Returns
        -------
        numpy.ndarray of bool, shape (ny, nx)
            Read-only, and kept for the next call.

        Raises
        ------
        MissingDataError
            If a name is not defined in `mask_bits`.
        """
        if names is None:
            value = self.mask_bits.value_of_known(BAD_FOR_PHOTOMETRY)
        else:
            value = self.mask_bits.value(*([names] if isinstance(names, str) else names))
        known: dict[int, np.ndarray] = self.__dict__["_bad"]
        if value not in known:
            pending = self.__dict__.get("_pending_variance")
            variance = self.variance if pending is None else pending.base  # of the same sign
            known[value] = bad_pixels(self.image, self.mask, value, variance)
        return known[value]

    @property
    def good(self) -> np.ndarray:
        """Usable pixels: the opposite of ``bad()``."""
        return ~self.bad()

    def usable(self, names: Iterable[str] | None = None) -> np.ndarray:
        """Return ``bad(names)``, making sure that some pixel is usable.

        Raises
        ------
        MaskedDataError
            If every pixel is bad.
        """
        bad = self.bad(names)
        if bad.all():
            raise MaskedDataError(
                f"Every one of the {bad.size} pixels of {self._name()} is masked or without data; "
                f"nothing can be measured on it. Check the mask, the weight map and the choice of "
                f"mask names."
            )
        return bad

    # -- value semantics ----------------------------------------------------------------------
    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Exposure):
            return NotImplemented
        if self is other:
            return True
        return same_parts(self, other)

    __hash__ = None  # type: ignore[assignment]

    def __getstate__(self) -> dict[str, Any]:
        state = {f.name: getattr(self, f.name) for f in fields(self)}
        state["metadata"] = dict(self.metadata)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name in ("image", "variance", "mask"):
            if state[name] is not None:
                state[name].flags.writeable = False
        ratio = state["area_ratio"]
        self.__dict__.update(state)
        self._fill(
            metadata=MappingProxyType(dict(state["metadata"])),
            _pending_variance=None,
            _bad={},
            _ratio_image=None if ratio is None else RatioImage(ratio, state["box"]),
        )

    def _name(self) -> str:
        words = ["exposure"]
        if self.exposure_id:
            words.append(repr(self.exposure_id))
        if self.detector:
            words.append(f"detector {self.detector!r}")
        return " ".join(words)

    def __repr__(self) -> str:
        from pogson.images._words import exposure_text

        return exposure_text(self)

    def describe_values(self) -> str:
        """Return in words what a pixel value means.

        Examples
        --------
        >>> import numpy as np
        >>> Exposure(np.ones((2, 2)), unit="nJy", measure="fluence").describe_values()
        'fluence in nJy: each pixel holds its own light; sums of pixels are fluxes'
        """
        from pogson.images._words import values_text

        return values_text(self)
