"""Forced photometry at given positions, for a list of flux references."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.calib import FluxReference
from pogson.errors import (
    MeasureError,
    PogsonValueError,
    ReferenceMismatchError,
    choices,
)
from pogson.images.background import background_subtracted_image
from pogson.images.detection import add_sky_columns
from pogson.images.exposure import Exposure
from pogson.images.flags import FLAG_DOCS, SourceFlag, count_flags
from pogson.images.mask_flags import mask_flags
from pogson.images.variance import resolve_gain
from pogson.psf import ApertureOperator
from pogson.units import Measure

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["LocalAnnulus", "measure_sources", "to_fluence"]


@dataclass(frozen=True, slots=True)
class LocalAnnulus:
    """An annulus from which the background of each source is taken.

    The level is a clipped mean of *surface brightness*, so that a varying pixel area does not tilt
    it, and is subtracted in fluence with the pixel area at the source.

    Parameters
    ----------
    inner, outer : float
        Radii, 0 <= inner < outer.
    frame : {"pixel", "sky"}, optional
        Whether the radii are pixels or arcsec.
    clip : float, optional
        Clipping threshold in standard deviations.
    min_pixels : int, optional
        With fewer usable pixels the source is flagged LOCAL_BACKGROUND.

    Examples
    --------
    >>> LocalAnnulus(15, 25)
    LocalAnnulus(inner=15.0, outer=25.0, frame='pixel', clip=3.0, min_pixels=20)
    """

    inner: float
    outer: float
    frame: str = "pixel"
    clip: float = 3.0
    min_pixels: int = 20

    def __post_init__(self) -> None:
        object.__setattr__(self, "inner", float(self.inner))
        object.__setattr__(self, "outer", float(self.outer))
        if not 0 <= self.inner < self.outer < np.inf:
            raise PogsonValueError(
                f"Annulus radii inner={self.inner}, outer={self.outer} must satisfy "
                f"0 <= inner < outer."
            )
        if self.frame not in ("pixel", "sky"):
            raise PogsonValueError(
                f"Annulus frame is {self.frame!r}; allowed: {choices(['pixel', 'sky'])}."
            )
        if not self.clip > 0:
            raise PogsonValueError(f"Annulus clip is {self.clip}; it must be above 0.")


def to_fluence(exposure: Exposure, what: str = "Photometry") -> Exposure:
    """Return the exposure in fluence, or say why it cannot be measured.

    Raises
    ------
    MeasureError
        If it is in surface brightness without an area ratio.
    """
    if exposure.measure is Measure.FLUENCE:
        return exposure
    if exposure.area_ratio is None:
        raise MeasureError(
            f"{what} needs fluence (sums of pixels are fluxes), but this exposure is in "
            f"surface_brightness and has no area_ratio. Add it with exposure.with_area_ratio() "
            f"(it needs the sky mapping), or state that all pixels cover the same area by a "
            f"ConstantField of 1."
        )
    return exposure.to(Measure.FLUENCE)


def measure_sources(
    exposure: Exposure,
    *,
    x: Any,
    y: Any,
    references: FluxReference | Sequence[FluxReference],
    background: LocalAnnulus | str | None = "attached",
    ids: Any = None,
    mask_names: Iterable[str] | None = None,
    gain: float | str | None = None,
    neighbor_radius: float | None = None,
) -> Table:
    """Measure fluxes at given positions, one for each reference.

    Parameters
    ----------
    exposure : Exposure
        Measured in fluence; an exposure in surface brightness is converted.
    x, y : array_like, shape (n,)
        Positions in pixels (0-based, centres on integers). A position that is not finite is kept
        and flagged.
    references : FluxReference or sequence of FluxReference
        Apertures in pixels or on the sky (an ellipse for each source, from the local Jacobian), and
        ``FluxReference.psf()``. A total flux cannot be measured: measure one of these and convert.
    background : "attached", LocalAnnulus or None, optional
        "attached" subtracts the exposure's background where it has one; a `LocalAnnulus` subtracts
        that and then a local level (PSF fluxes fit it together with the star); None subtracts
        nothing.
    ids : array_like, shape (n,), optional
        Identifiers; 1, 2, 3, ... by default.
    mask_names : iterable of str, optional
        Mask names whose pixels are left out; see `Exposure.bad`.
    gain : float or "estimate" or None, optional
        Electrons per unit of the fluence image; see `pogson.images.resolve_gain`.
    neighbor_radius : float, optional
        Sources with another listed one within this distance in pixels are flagged; by default the
        largest aperture semi-axis.

    Returns
    -------
    astropy.table.Table
        ``id, x, y, ra, dec, flags`` and for each reference, with NAME its ``slug``: ``flux_NAME``,
        ``flux_NAME_err``, ``flux_NAME_err_sky`` (without the source's own photon noise; NaN where
        the gain is unknown and it cannot be told apart), ``flux_NAME_area`` (usable pixels),
        ``flux_NAME_masked`` (fraction of the aperture on masked pixels), ``flux_NAME_flags``.
        With a local annulus also ``local_background`` and its error (surface brightness).
        Flux columns carry reference and measure in ``info.meta``; ``table.meta`` says how the
        variance and gain were known and counts the flags.

    Raises
    ------
    MeasureError
        If the exposure is in surface brightness and has no area ratio.
    ReferenceMismatchError
        If a reference is "total", or listed twice.
    MaskedDataError
        If every pixel is masked.

    Notes
    -----
    Errors come from the variance plane, or without one from the background's rms plus, where the
    gain is known, the source's photon noise. The error of a local level is common to the pixels of
    an aperture and is added as such. The two kinds of error differ by the photon noise of the
    source, ``sum(w**2 I) / gain`` for an aperture of weights w on the background-subtracted image I
    (below ``flux / gain``: pixels on the rim count with w < 1), and ``flux / gain`` times
    ``sum(P**3) / sum(P**2)**2`` for a fit of the PSF P. It is not taken below 0.

    Examples
    --------
    >>> import numpy as np
    >>> from pogson.calib import FluxReference
    >>> from pogson.images import Exposure, measure_sources
    >>> exposure = Exposure(np.full((41, 41), 2.0), variance=np.full((41, 41), 9.0), unit="adu",
    ...                     measure="fluence", metadata={"gain": 4.0})
    >>> table = measure_sources(exposure, x=[20.0], y=[20.0],
    ...                         references=[FluxReference.aperture(5)])
    >>> float(table["flux_aperture_5px_exact"][0] / (2 * np.pi * 25))
    1.0
    """
    references = [references] if isinstance(references, FluxReference) else list(references)
    _check_references(references)
    if not (background is None or background == "attached" or isinstance(background, LocalAnnulus)):
        raise PogsonValueError(
            f"background is {background!r}; allowed: 'attached', a LocalAnnulus, or None."
        )
    exposure = to_fluence(exposure)
    xs, ys = positions(x, y)
    work = _Work.prepare(exposure, xs, ys, background, mask_names, gain)
    table = _base_table(exposure, xs, ys, ids)
    flags = work.position_flags()
    if work.level is not None:
        flags[work.level_count < work.annulus_pixels] |= int(SourceFlag.LOCAL_BACKGROUND)
    largest = 0.0
    parts: list[tuple[FluxReference, dict[str, np.ndarray]]] = []
    for reference in references:
        if reference.kind == "psf":
            if exposure.psf is not None:
                reference = reference.resolved(exposure.psf)
            columns = _psf_columns(work, reference, isinstance(background, LocalAnnulus))
        else:
            columns, size = _aperture_columns(work, reference)
            largest = max(largest, size)
        flags |= columns["_flags"]
        parts.append((reference, columns))
    flags |= neighbor_flags(xs, ys, largest if neighbor_radius is None else neighbor_radius)
    table["flags"] = flags
    for reference, columns in parts:
        _add_columns(table, exposure, reference, columns)
    if work.level is not None:
        table["local_background"], table["local_background_err"] = work.level, work.level_err
        table["local_background"].unit = table["local_background_err"].unit = exposure.unit
        table["local_background"].info.meta = {"measure": "surface_brightness"}
    table.meta.update(work.description(background), flag_counts=count_flags(flags))
    return table


def positions(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return flat float64 positions of equal length.

    Raises
    ------
    PogsonValueError
        If the lengths differ.
    """
    xs = np.atleast_1d(np.ma.filled(np.ma.asarray(x, np.float64), np.nan)).astype(np.float64)
    ys = np.atleast_1d(np.ma.filled(np.ma.asarray(y, np.float64), np.nan)).astype(np.float64)
    if xs.ndim != 1 or xs.shape != ys.shape:
        raise PogsonValueError(
            f"x and y must be one-dimensional and equally long; got {xs.shape} and {ys.shape}."
        )
    return xs, ys


def _check_references(references: list[FluxReference]) -> None:
    if not references:
        raise PogsonValueError("references is empty; list at least one FluxReference.")
    slugs = [r.slug for r in references]
    for reference in references:
        if reference.kind == "total":
            raise ReferenceMismatchError(
                "A total flux cannot be measured on pixels. Measure an aperture or the PSF flux, "
                "and convert it: reference.convert(flux, to=FluxReference.total(), psf=..., ...)."
            )
        if slugs.count(reference.slug) > 1:
            raise ReferenceMismatchError(f"The reference '{reference.label}' is listed twice.")


@dataclass
class _Work:
    """What all references of one call share."""

    exposure: Exposure
    x: np.ndarray
    y: np.ndarray
    image: np.ndarray
    bad: np.ndarray
    variance: np.ndarray | None
    includes_sources: bool
    gain: float | None
    gain_from: str
    variance_from: str
    level: np.ndarray | None = None
    level_err: np.ndarray | None = None
    level_count: Any = None
    annulus_pixels: int = 0

    @classmethod
    def prepare(
        cls,
        exposure: Exposure,
        x: np.ndarray,
        y: np.ndarray,
        background: LocalAnnulus | str | None,
        mask_names: Iterable[str] | None,
        gain: float | str | None,
    ) -> _Work:
        image = exposure.image if background is None else background_subtracted_image(exposure)
        value, origin = resolve_gain(exposure, gain)
        if exposure.variance is not None:
            variance: np.ndarray | None = exposure.variance
            includes = bool(exposure.metadata.get("variance_includes_sources", True))
            made_from = "variance plane"
        elif exposure.background is not None:
            variance = exposure.background.rms_image(exposure.measure, box=exposure.box) ** 2
            includes, made_from = False, "background rms"
        else:
            variance, includes, made_from = None, False, "none: errors are NaN"
        work = cls(
            exposure, x, y, np.ascontiguousarray(image), exposure.usable(mask_names), variance,
            includes, value, origin, made_from,
        )  # fmt: skip
        if isinstance(background, LocalAnnulus):
            work._measure_levels(background)
        return work

    def _measure_levels(self, annulus: LocalAnnulus) -> None:
        from pogson.images import _kernels

        n = self.x.size
        a = b = np.ones(n)
        theta = np.zeros(n)
        if annulus.frame == "sky":
            a, b, theta = self.ellipses(FluxReference.aperture(1.0, "sky"))
        exposure = self.exposure
        use_ratio = exposure.area_ratio is not None
        ratio = exposure.area_ratio_image() if use_ratio else np.zeros((1, 1), np.float32)
        level, error, count = np.empty(n), np.empty(n), np.zeros(n, np.int64)
        _kernels.annulus_levels(
            self.image, self.bad, ratio, use_ratio, self.x - exposure.box.x_min,
            self.y - exposure.box.y_min, a, b, theta, annulus.inner, annulus.outer, annulus.clip,
            level, error, count,
        )  # fmt: skip
        self.level, self.level_err, self.level_count = level, error, count
        self.annulus_pixels = annulus.min_pixels

    def ellipses(self, reference: FluxReference) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return semi-axes and angles, finite even where the position is not usable."""
        known = np.isfinite(self.x) & np.isfinite(self.y)
        a, b, theta = np.ones(self.x.size), np.ones(self.x.size), np.zeros(self.x.size)
        if reference.frame == "pixel":
            a[:] = b[:] = reference.radius
        elif known.any():
            parts = reference.ellipse(self.exposure.sky, x=self.x[known], y=self.y[known])
            a[known], b[known], theta[known] = parts
        return a, b, theta

    def position_flags(self) -> np.ndarray:
        finite = np.isfinite(self.x) & np.isfinite(self.y)
        flags = np.zeros(self.x.size, np.int32)
        flags[~finite] |= int(SourceFlag.BAD_POSITION)
        inside = np.asarray(self.exposure.box.contains(x=self.x, y=self.y))
        flags[finite & ~inside] |= int(SourceFlag.OUTSIDE)
        return flags

    def split_errors(
        self, variance: np.ndarray, light: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return errors with and without the photon noise of the source, ``light / gain``."""
        if self.gain is None:
            sky = np.full(light.shape, np.nan) if self.includes_sources else np.sqrt(variance)
            return np.sqrt(variance), sky
        photons = np.where(light > 0, light, 0.0) / self.gain
        if self.includes_sources:
            return np.sqrt(variance), np.sqrt(np.maximum(variance - photons, 0.0))
        return np.sqrt(variance + photons), np.sqrt(variance)

    def description(self, background: LocalAnnulus | str | None) -> dict[str, Any]:
        e = self.exposure
        attached = background is not None and e.background is not None
        source_noise = self.includes_sources or self.gain is not None
        return {
            "exposure_id": e.exposure_id,
            "detector": e.detector,
            "bandpass": e.bandpass,
            "measure": str(e.measure),
            "variance_from": self.variance_from,
            "source_noise": "included" if source_noise else "not included: the gain is unknown",
            "gain": self.gain,
            "gain_from": self.gain_from,
            "background": ("attached" if attached else "none")
            + (f" + {background!r}" if isinstance(background, LocalAnnulus) else ""),
            "flag_meanings": {flag.name: text for flag, text in FLAG_DOCS.items()},
        }


def _base_table(exposure: Exposure, x: np.ndarray, y: np.ndarray, ids: Any) -> Table:
    from astropy.table import Table

    table = Table()
    names = np.arange(1, x.size + 1, dtype=np.int64) if ids is None else np.asarray(ids)
    if names.shape != x.shape:
        raise PogsonValueError(f"ids has shape {names.shape} but there are {x.size} positions.")
    table["id"] = names
    table["x"], table["y"] = x, y
    table["x"].unit = table["y"].unit = "pixel"
    add_sky_columns(table, exposure)
    return table


def _aperture_columns(work: _Work, reference: FluxReference) -> tuple[dict[str, np.ndarray], float]:
    """Return the columns of one aperture and its largest semi-axis."""
    exposure, box = work.exposure, work.exposure.box
    a, b, theta = work.ellipses(reference)
    operator = reference.operator
    assert isinstance(operator, ApertureOperator)
    sums = operator.sum(
        work.image, x=work.x, y=work.y, a=a, b=b, theta=theta, variance=work.variance,
        bad=work.bad, x_min=box.x_min, y_min=box.y_min,
    )  # fmt: skip
    flux, area = np.array(sums.flux, np.float64), np.asarray(sums.area)
    variance = np.full(flux.shape, np.nan) if work.variance is None else np.array(sums.variance)
    variance[~np.isfinite(flux)] = np.nan
    light = np.zeros(flux.shape) if sums.squares is None else np.array(sums.squares, np.float64)
    if work.level is not None and work.level_err is not None:
        weight = area * ratio_at(exposure, work.x, work.y)
        flux = flux - work.level * weight
        variance = variance + (work.level_err * weight) ** 2
        if sums.square_area is not None:
            ratio = ratio_at(exposure, work.x, work.y)
            light = light - work.level * ratio * np.asarray(sums.square_area)
    flags = mask_flags(exposure, x=work.x, y=work.y, ellipse=(a, b, theta))
    bad_area = np.nan_to_num(np.asarray(sums.bad_area))
    flags[bad_area > 0] |= int(SourceFlag.BAD_PIXEL)
    known = np.isfinite(work.x) & np.isfinite(work.y)
    flags[known & np.asarray(sums.truncated)] |= int(SourceFlag.EDGE)
    flags[known & ~np.isfinite(np.asarray(sums.flux))] |= int(SourceFlag.ALL_MASKED)
    with np.errstate(invalid="ignore", divide="ignore"):
        masked = bad_area / (bad_area + np.nan_to_num(area))
        err, err_sky = work.split_errors(variance, light)
    columns = {"": flux, "_err": err, "_err_sky": err_sky, "_area": area, "_masked": masked}
    return {**columns, "_flags": flags}, float(max(a.max(initial=0.0), b.max(initial=0.0)))


def ratio_at(exposure: Exposure, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return A(x, y) / A0 at positions, 1 where the pixel areas are unknown."""
    if exposure.area_ratio is None:
        return np.ones(x.shape)
    inside = np.asarray(exposure.box.contains(x=x, y=y))
    out = np.full(x.shape, np.nan)
    if inside.any():
        out[inside] = exposure.area_ratio(x=x[inside], y=y[inside])
    return out


def _psf_columns(work: _Work, reference: FluxReference, local: bool) -> dict[str, np.ndarray]:
    from pogson.images.psf_fluxes import fit_psf_fluxes

    fit = fit_psf_fluxes(
        work.exposure, work.image, work.bad, work.variance, x=work.x, y=work.y, local=local
    )
    err, err_sky = work.split_errors(fit["variance"], fit["flux"] * fit["photons"])
    return {
        "": fit["flux"],
        "_err": err,
        "_err_sky": err_sky,
        "_area": fit["n_pixels"].astype(np.float64),
        "_masked": fit["missing"],
        "_chi2": fit["chi2"],
        "_flags": fit["flags"],
    }


def _add_columns(
    table: Table, exposure: Exposure, reference: FluxReference, columns: dict[str, np.ndarray]
) -> None:
    name = f"flux_{reference.slug}"
    for tail, values in columns.items():
        table[name + tail] = values
    meta = {
        "reference": reference.to_dict(),
        "measure": str(exposure.measure),
        "bandpass": exposure.bandpass,
        "label": reference.label,
    }
    table[name].info.meta = dict(meta)
    table[name].description = f"instrumental flux, not calibrated: {reference.label}"
    for tail in ("", "_err", "_err_sky"):
        table[name + tail].unit = exposure.unit
    # Errors name their reference too, under another key: they are no fluxes to be calibrated.
    table[f"{name}_err"].info.meta = {"error_of": name}
    table[f"{name}_err_sky"].info.meta = {"error_of": name, "source_noise": "left out"}


def neighbor_flags(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Return the NEIGHBOR flag for sources with another one within a radius in pixels.

    Examples
    --------
    >>> neighbor_flags(np.array([0.0, 3.0, 50.0]), np.zeros(3), 5.0)
    array([16, 16,  0], dtype=int32)
    """
    from scipy.spatial import cKDTree

    flags = np.zeros(x.size, np.int32)
    known = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    if radius > 0 and known.size > 1:
        pairs = cKDTree(np.stack([x[known], y[known]], axis=1)).query_pairs(
            radius, output_type="ndarray"
        )
        flags[known[pairs.ravel()]] = int(SourceFlag.NEIGHBOR)
    return flags
