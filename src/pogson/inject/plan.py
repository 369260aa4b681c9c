r"""What to draw where: from catalogue fluxes to light on pixels, row by row.

A flux F (nJy) under a reference r becomes

.. math:: T = F / (c(x, y)\,E_r(x, y))

units of light on the fluence image, c the calibration (nJy per unit of the fluence image) and E_r
the fraction of the source's light that the operator of r counts, both **at the source**: for a
star of the PSF there, for an extended source of its own stamp.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.calib import FluxReference
from pogson.errors import (
    MeasureError,
    MissingDataError,
    PogsonError,
    PogsonTypeError,
    PogsonValueError,
    ReferenceMismatchError,
    UnitMismatchError,
)
from pogson.fields import Box
from pogson.inject.flags import NOT_DRAWN, InjectionFlag
from pogson.units import Measure

if TYPE_CHECKING:
    from pogson.images import Exposure
    from pogson.inject.catalogue import InjectionCatalog
    from pogson.psf import PSF

__all__ = ["InjectionPlan", "local_calibration", "make_plan"]

_MARGIN = 2  # pixels that an operator may look beyond the aperture's edge


def local_calibration(exposure: Exposure, *, x: Any, y: Any) -> np.ndarray:
    """Return nJy per unit of an exposure's *fluence* image at positions.

    Parameters
    ----------
    exposure : Exposure
        With a ``photo_calib``, or in a unit of flux density.
    x, y : array_like, shape (n,)
        Positions in pixels (0-based, centres on integers).

    Returns
    -------
    calibration : numpy.ndarray, shape (n,)
        NaN where the calibration is not defined, not finite or not positive.

    Raises
    ------
    MissingDataError
        If there is no calibration.
    UnitMismatchError
        If the calibration is for another unit.
    MeasureError
        If it is for surface brightness and the exposure has no area ratio.

    Examples
    --------
    >>> import numpy as np
    >>> from pogson.images import Exposure
    >>> exposure = Exposure(np.ones((4, 4)), unit="uJy", measure="fluence")
    >>> local_calibration(exposure, x=[1.0], y=[2.0])
    array([1000.])
    """
    import astropy.units as u

    xs, ys = np.atleast_1d(np.asarray(x, np.float64)), np.atleast_1d(np.asarray(y, np.float64))
    calib = exposure.photo_calib
    if calib is None:
        if not exposure.unit.is_equivalent(u.nJy):
            raise MissingDataError(
                f"The exposure is in '{exposure.unit}' and has no photo_calib, so a flux in nJy "
                "has no meaning on it; give it one with exposure.with_(photo_calib=...), on the "
                "command line with --zero-point MAG."
            )
        return np.full(xs.shape, float(exposure.unit.to(u.nJy)))
    try:
        factor = float(exposure.unit.to(u.nJy / calib.field.unit))
    except u.UnitConversionError:
        raise UnitMismatchError(
            f"The image is in '{exposure.unit}', but its photo_calib is in '{calib.field.unit}'."
        ) from None
    out = np.full(xs.shape, np.nan)
    inside = np.isfinite(xs) & np.isfinite(ys)
    inside[inside] = np.asarray(calib.field.box.contains(x=xs[inside], y=ys[inside]))
    if inside.any():
        xi, yi = xs[inside], ys[inside]
        values = np.asarray(calib.field(x=xi, y=yi), np.float64) * factor
        if calib.measure is Measure.SURFACE_BRIGHTNESS:
            if exposure.area_ratio is None:
                raise MeasureError(
                    "The photo_calib is for surface brightness and the exposure has no area_ratio; "
                    "add it with exposure.with_area_ratio()."
                )
            # a cut-out's ratio ends at its edge, its sources do not
            values = values / np.asarray(exposure.area_ratio(x=xi, y=yi, extrapolate=True))
        with np.errstate(invalid="ignore"):
            out[inside] = np.where(np.isfinite(values) & (values > 0), values, np.nan)
    return out


@dataclass(eq=False)
class InjectionPlan:
    """The rows of a catalogue made ready for one exposure; arrays of one entry a row.

    Parameters
    ----------
    catalog : InjectionCatalog
        With positions and the one band of the exposure.
    exposure : Exposure
        Where the sources go.
    reference : FluxReference
        Of the catalogue's fluxes.
    psf : PSF or None
        To draw with, wings joined.
    x, y : numpy.ndarray
        Positions in pixels.
    flux : numpy.ndarray
        Requested flux, nJy.
    calibration : numpy.ndarray
        nJy per unit of the fluence image.
    enclosed : numpy.ndarray
        Fraction of the source's light that the reference counts.
    total : numpy.ndarray
        Light of the whole source in units of the fluence image.
    half_size : numpy.ndarray of int
        Half-size of the stamp.
    flags : numpy.ndarray of int32
        `InjectionFlag` bits.
    a, b, theta : numpy.ndarray
        Ellipse of the reference's aperture (pixels, radians); NaN for other references.
    accuracy : float
        Largest fraction of a source's flux that its stamp may miss.
    stamps : dict
        Unit-flux stamp (image, box) of each extended source, by row.
    """

    catalog: InjectionCatalog
    exposure: Exposure
    reference: FluxReference
    psf: PSF | None
    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    calibration: np.ndarray
    enclosed: np.ndarray
    total: np.ndarray
    half_size: np.ndarray
    flags: np.ndarray
    a: np.ndarray
    b: np.ndarray
    theta: np.ndarray
    accuracy: float
    stamps: dict[int, tuple[np.ndarray, Box]] = field(default_factory=dict)

    @property
    def drawable(self) -> np.ndarray:
        """Rows without a reason not to be drawn."""
        return np.asarray((self.flags & int(NOT_DRAWN)) == 0)

    @property
    def points(self) -> np.ndarray:
        """Rows of point sources."""
        return np.asarray(self.catalog.table["source_type"]) == "point"

    def in_order(self, rows: np.ndarray) -> np.ndarray:
        """Return the numbers of the rows where an array is true, ordered by id.

        Everything is added to the image in this order, so that the order of the catalogue has no
        influence on rounding.
        """
        chosen = np.flatnonzero(rows)
        return chosen[np.argsort(self.catalog.ids[chosen], kind="stable")]

    def stamp_box(self, row: int) -> Box:
        """Return the box of a row's stamp."""
        if row in self.stamps:
            return self.stamps[row][1]
        half = int(self.half_size[row])
        side = 2 * half + 1
        x0, y0 = np.floor(self.x[row] + 0.5), np.floor(self.y[row] + 0.5)
        return Box(int(x0) - half, int(y0) - half, side, side)


def make_plan(
    exposure: Exposure,
    catalog: InjectionCatalog,
    *,
    psf: PSF | None,
    accuracy: float,
    largest_radius: Any,
    threads: int | None = None,
) -> InjectionPlan:
    """Work out light, stamp sizes and flags of every row; nothing is drawn on the image.

    Parameters
    ----------
    exposure : Exposure
        Where the sources go.
    catalog : InjectionCatalog
        What to inject; see `InjectionCatalog.for_exposure`.
    psf : PSF or None
        To draw with; None is allowed if no row needs it.
    accuracy : float
        Largest fraction of the flux that may be missing within the largest radius.
    largest_radius : float, FluxReference, sequence of these, or None
        What will be measured, pixels or references; the catalogue's own reference is always
        among them.
    threads : int, optional
        Threads to draw extended sources with.

    Returns
    -------
    InjectionPlan

    Raises
    ------
    MissingDataError
        If there is no calibration, or a PSF is needed and missing.
    ReferenceMismatchError
        If the reference states another PSF normalisation than the PSF's.
    """
    if not 0 < accuracy < 0.5:
        raise PogsonValueError(f"accuracy={accuracy!r} must be a fraction above 0 and below 0.5.")
    placed = catalog.for_exposure(exposure)
    band = next(iter(placed.references))
    reference = placed.references[band]
    n = len(placed)
    x, y = (np.asarray(placed.table[c], np.float64) for c in ("x", "y"))
    nan = np.full(n, np.nan)
    plan = InjectionPlan(
        placed, exposure, reference, psf, x, y, placed.flux(band), nan.copy(), nan.copy(),
        nan.copy(), np.zeros(n, np.int64), placed.flags.copy(), nan.copy(), nan.copy(), nan.copy(),
        accuracy,
    )  # fmt: skip
    _check_psf(plan)
    _calibrate(plan)
    _position_flags(plan)
    _apertures(plan)
    references = _references(largest_radius)
    _plan_points(plan, references)
    _plan_extended(plan, references)
    _light(plan)
    return plan


def _references(largest_radius: Any) -> list[FluxReference]:
    if largest_radius is None:
        return []
    if isinstance(largest_radius, FluxReference):
        return [largest_radius]
    if isinstance(largest_radius, Iterable) and not isinstance(largest_radius, str):
        return [r for one in largest_radius for r in _references(one)]
    try:
        return [FluxReference.aperture(float(largest_radius))]
    except (TypeError, ValueError):
        raise PogsonTypeError(
            f"largest_radius={largest_radius!r} must be pixels, a FluxReference, or a list of them."
        ) from None


def _check_psf(plan: InjectionPlan) -> None:
    types = np.asarray(plan.catalog.table["source_type"])
    if plan.psf is None:
        needed = plan.drawable & ~np.isin(types, ("stamp",))
        if needed.any():
            raise MissingDataError(
                f"The exposure has no PSF to draw {int(needed.sum())} of the sources with; give it "
                "one with exposure.with_(psf=...), or pass injection_psf= (on the command line "
                "--image-psf FILE, or --psf FILE)."
            )
        return
    stated = plan.reference.normalization
    if stated is not None and stated != plan.psf.normalization:
        raise ReferenceMismatchError(
            f"The fluxes have the reference '{plan.reference.label}', stated for PSFs with "
            f"{stated!r}, but the PSF to inject with has {plan.psf.normalization!r}."
        )
    if plan.psf.box is not None:
        finite = np.isfinite(plan.x) & np.isfinite(plan.y)
        outside = finite.copy()
        outside[finite] = ~np.asarray(plan.psf.box.contains(x=plan.x[finite], y=plan.y[finite]))
        plan.flags[outside & (types != "stamp")] |= int(InjectionFlag.NO_PSF)


def _calibrate(plan: InjectionPlan) -> None:
    plan.calibration[:] = local_calibration(plan.exposure, x=plan.x, y=plan.y)
    finite = np.isfinite(plan.x) & np.isfinite(plan.y)
    plan.flags[finite & ~np.isfinite(plan.calibration)] |= int(InjectionFlag.NO_CALIBRATION)


def _position_flags(plan: InjectionPlan) -> None:
    from pogson.images import BAD_FOR_PHOTOMETRY

    exposure = plan.exposure
    finite = np.isfinite(plan.x) & np.isfinite(plan.y)
    inside = np.asarray(exposure.box.contains(x=plan.x, y=plan.y)) & finite
    plan.flags[finite & ~inside] |= int(InjectionFlag.OFF_IMAGE)
    rows = np.flatnonzero(inside)
    i = np.clip(np.floor(plan.x[rows] + 0.5).astype(int) - exposure.box.x_min, 0, None)
    j = np.clip(np.floor(plan.y[rows] + 0.5).astype(int) - exposure.box.y_min, 0, None)
    i, j = np.minimum(i, exposure.box.nx - 1), np.minimum(j, exposure.box.ny - 1)
    names = [n for n in BAD_FOR_PHOTOMETRY if n in exposure.mask_bits]
    on_bad = exposure.bad(names)[j, i]
    plan.flags[rows[on_bad]] |= int(InjectionFlag.ON_MASKED)
    with np.errstate(invalid="ignore"):
        plan.flags[plan.flux < 0] |= int(InjectionFlag.NEGATIVE_FLUX)


def _apertures(plan: InjectionPlan) -> None:
    if plan.reference.kind != "aperture":
        return
    rows = plan.drawable
    if rows.any():
        ellipse = plan.reference.ellipse(plan.exposure.sky, x=plan.x[rows], y=plan.y[rows])
        plan.a[rows], plan.b[rows], plan.theta[rows] = ellipse


def _radius(plan: InjectionPlan, rows: np.ndarray, references: list[FluxReference]) -> np.ndarray:
    """Return the largest radius in pixels to be measured at each row; 0 where none is named."""
    radius = np.zeros(rows.size)
    for reference in (plan.reference, *references):
        if reference.kind == "aperture":
            a, _, _ = reference.ellipse(plan.exposure.sky, x=plan.x[rows], y=plan.y[rows])
            radius = np.maximum(radius, a)
    return radius


def _plan_points(plan: InjectionPlan, references: list[FluxReference]) -> None:
    from pogson.inject.stamps import stamp_half_size
    from pogson.psf.base import MAX_HALF_SIZE

    rows = plan.in_order(plan.points & plan.drawable)
    if not rows.size:
        return
    psf = plan.psf
    assert psf is not None
    x, y = plan.x[rows], plan.y[rows]
    enclosed = plan.reference.enclosed_energy(psf, plan.exposure.sky, x=x, y=y)
    bad = ~(np.isfinite(enclosed) & (enclosed > 0))
    plan.flags[rows[bad]] |= int(InjectionFlag.NO_ENCLOSED_ENERGY)
    plan.enclosed[rows] = enclosed
    radius = _radius(plan, rows, references)
    half = np.zeros(rows.size, np.int64)
    for some, reach in ((radius > 0, radius), (radius == 0, None)):
        if some.any():
            at = {"x": x[some], "y": y[some], "accuracy": plan.accuracy}
            within = None if reach is None else reach[some]
            half[some] = stamp_half_size(psf, radius=within, **at)
    # the aperture of the fluxes themselves is always whole, so that they are exact
    own = np.nan_to_num(plan.a[rows])
    half = np.maximum(half, np.where(own > 0, np.ceil(own) + _MARGIN, 0).astype(np.int64))
    plan.flags[rows[half >= MAX_HALF_SIZE]] |= int(InjectionFlag.STAMP_LIMITED)
    plan.half_size[rows] = np.minimum(half, MAX_HALF_SIZE)


def _plan_extended(plan: InjectionPlan, references: list[FluxReference]) -> None:
    rows = plan.in_order(~plan.points & plan.drawable)
    if not rows.size:
        return
    from pogson.inject.extended import unit_stamp

    radius = _radius(plan, rows, references)
    for row, size in zip(rows.tolist(), radius.tolist(), strict=True):
        try:
            image, box, flag = unit_stamp(plan, row, size)
        except PogsonError:
            image, box, flag = None, None, InjectionFlag.RENDER_FAILED
        if image is None or box is None or flag & NOT_DRAWN:
            plan.flags[row] |= int(flag)
            continue
        plan.flags[row] |= int(flag)
        enclosed = _stamp_fraction(plan, row, image, box)
        if not (np.isfinite(enclosed) and enclosed > 0):
            plan.flags[row] |= int(InjectionFlag.NO_ENCLOSED_ENERGY)
            continue
        plan.enclosed[row] = enclosed
        plan.half_size[row] = max(box.nx, box.ny) // 2
        plan.stamps[row] = (image, box)


def _stamp_fraction(plan: InjectionPlan, row: int, image: np.ndarray, box: Box) -> float:
    """Return what the reference counts of a unit-flux stamp."""
    if plan.reference.kind != "aperture":
        return 1.0
    assert plan.reference.operator is not None
    sums = plan.reference.operator.sum(
        image, x=plan.x[row], y=plan.y[row], a=plan.a[row], b=plan.b[row], theta=plan.theta[row],
        x_min=box.x_min, y_min=box.y_min,
    )  # fmt: skip
    return float(sums.flux)


def _light(plan: InjectionPlan) -> None:
    rows = plan.drawable
    plan.total[rows] = plan.flux[rows] / (plan.calibration[rows] * plan.enclosed[rows])
    for row in plan.in_order(rows).tolist():
        try:
            plan.stamp_box(row).intersection(plan.exposure.box)
        except PogsonError:
            plan.flags[row] |= int(InjectionFlag.NO_OVERLAP)
            plan.stamps.pop(row, None)
