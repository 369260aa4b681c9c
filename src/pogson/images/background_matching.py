"""Backgrounds of visits made to match, from their differences on the same sky.

The sky above a field is the same in every visit but for what the atmosphere, the moon and the
background subtraction added. Differences of resampled visits hold no sources, so smooth differences
are background; they are found jointly, in surface brightness. What is common to all visits cannot
be told from the sky and stays. Pixels are 0-based with centres on integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import astropy.units as u
import numpy as np

from pogson.errors import (
    BoundsError,
    CalibrationError,
    MaskedDataError,
    MeasureError,
    MissingDataError,
    PogsonTypeError,
    PogsonValueError,
)
from pogson.fields import Box, ChebyshevField, ConstantField
from pogson.images._background_levels import (
    LevelSystem,
    in_gauge,
    level_shape,
    shared_rows,
    with_values,
)
from pogson.images.background import Background
from pogson.images.coadd_stream import CoaddSource, needed_part
from pogson.images.exposure import Exposure
from pogson.images.warp import Warp, warp
from pogson.units import Measure

if TYPE_CHECKING:
    from pogson.sky import SkyMap

__all__ = [
    "BackgroundSamples",
    "MatchedBackgrounds",
    "match_backgrounds",
    "sample_backgrounds",
    "solve_backgrounds",
]

_SOURCE_SIGMA = 3.0
_GROW = 4  # wings below the noise, wider in worse seeing
_FEWEST_PIXELS = 20
_ROUNDS = 4
_SAMPLE_BYTES = 192 << 20
_NODES = 12  # a side, where a level is followed onto the pixels of an image


@dataclass(frozen=True, eq=False)
class BackgroundSamples:
    """Surface brightness between the sources in bins of the output, for every visit there.

    Parameters
    ----------
    visits : tuple of str
        Names of the visits.
    box : Box
        Output pixels that were looked at.
    bins : numpy.ndarray, shape (n_bins, 2)
        Bin centres x, y in output pixels.
    visit, cell : numpy.ndarray of int, shape (n,)
        Which visit and which bin a value belongs to.
    value, error : numpy.ndarray, shape (n,)
        Median and its error, in ``unit``.
    unit : str
        Surface brightness, such as "nJy / arcsec2".

    Examples
    --------
    >>> some = BackgroundSamples(("a", "b"), Box(0, 0, 64, 64), [[31.5, 31.5]], [0, 1], [0, 0],
    ...                          [5.0, 7.0], [0.1, 0.1], "nJy / arcsec2")
    >>> BackgroundSamples.joined([some, some]).cell
    array([0, 0, 1, 1])
    """

    visits: tuple[str, ...]
    box: Box
    bins: np.ndarray
    visit: np.ndarray
    cell: np.ndarray
    value: np.ndarray
    error: np.ndarray
    unit: str

    def __post_init__(self) -> None:
        for name, kind in (
            ("bins", float), ("visit", int), ("cell", int), ("value", float), ("error", float),
        ):  # fmt: skip
            object.__setattr__(self, name, np.asarray(getattr(self, name), kind))

    @classmethod
    def joined(cls, parts: Sequence[BackgroundSamples]) -> BackgroundSamples:
        """Return the samples of several parts of the output, which share no bin.

        Raises
        ------
        PogsonValueError
            If there is no part.
        MeasureError
            If the parts are in different units.
        """
        if not parts:
            raise PogsonValueError("There are no samples of backgrounds to join.")
        units = {p.unit for p in parts}
        if len(units) > 1:
            raise MeasureError(f"Samples of backgrounds are in different units: {sorted(units)}.")
        names = tuple(dict.fromkeys(n for p in parts for n in p.visits))
        place = {n: k for k, n in enumerate(names)}
        starts = np.cumsum([0, *(len(p.bins) for p in parts)])
        x0, y0 = min(p.box.x_min for p in parts), min(p.box.y_min for p in parts)
        x1, y1 = max(p.box.x_max for p in parts), max(p.box.y_max for p in parts)
        return cls(
            names,
            Box(x0, y0, x1 - x0 + 1, y1 - y0 + 1),
            np.concatenate([p.bins for p in parts]),
            np.concatenate([np.array([place[n] for n in p.visits], int)[p.visit] for p in parts]),
            np.concatenate([p.cell + s for p, s in zip(parts, starts, strict=False)]),
            np.concatenate([p.value for p in parts]),
            np.concatenate([p.error for p in parts]),
            parts[0].unit,
        )


@dataclass(frozen=True, eq=False)
class MatchedBackgrounds:
    """Smooth levels by which visits differ, over the common output pixels.

    Attributes
    ----------
    levels : tuple of ChebyshevField
        For each visit, in ``unit / arcsec2`` over the output box; their weighted mean is 0, or
        that of the reference visit is.
    rms_before, rms_after : float
        Scatter of the binned visits about their common sky, in units of its expected error: near 1
        where the levels explain the differences.
    visits : tuple of str
        Names of the visits, in the order of ``levels``.
    unmatched : tuple of str
        Visits that share too little sky with others; their level is 0.
    sky : SkyMap or None
        Mapping of the output pixels.

    Examples
    --------
    >>> MatchedBackgrounds((), 5.0, 1.0).rms_after
    1.0
    """

    levels: tuple[ChebyshevField, ...]
    rms_before: float
    rms_after: float
    visits: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()
    sky: SkyMap | None = None

    def subtract(self, index: int, image: Warp | Exposure) -> Any:
        """Return a visit less its level.

        Parameters
        ----------
        index : int
            Which visit, in the order of ``levels``.
        image : Warp or Exposure
            A warp of the visit, or one of the exposures that warps were made from, in fluence. If
            a background was subtracted from it, the level is added to the one that it carries, so
            that ``restore_background`` still gives the whole sky back.

        Returns
        -------
        Warp or Exposure
            Of the same kind as ``image``.

        Raises
        ------
        PogsonValueError
            If there is no such visit.
        MissingDataError
            If an exposure has no sky mapping, or these levels have not.
        MeasureError
            If an exposure is in surface brightness.
        """
        return self._changed(index, image, -1.0)

    def restore(self, index: int, image: Warp | Exposure) -> Any:
        """Return a visit with its level added back, parameters as in `subtract`."""
        return self._changed(index, image, 1.0)

    def _changed(self, index: int, image: Any, sign: float) -> Any:
        if not 0 <= index < len(self.levels):
            raise PogsonValueError(f"There is no visit {index}; there are {len(self.levels)}.")
        level = self.levels[index]
        if isinstance(image, Warp):
            return replace(image, exposure=_shifted(image.exposure, level, sign))
        if isinstance(image, Exposure):
            if self.sky is None:
                raise MissingDataError("These levels do not know the mapping of their pixels.")
            return _shifted_exposure(image, level, self.sky, sign)
        raise PogsonTypeError(
            f"subtract and restore take a Warp or an Exposure, not {type(image).__name__}."
        )


def _shifted(exposure: Exposure, level: ChebyshevField, sign: float) -> Exposure:
    """Return a resampled exposure with a level in surface brightness added."""
    sky: Any = exposure.sky
    box = exposure.box
    area = sky.pixel_area_field(box)
    light = level.with_box(box).render(box) * area.render(box)
    return exposure.with_(image=exposure.image + sign * light.astype(np.float32))


def _shifted_exposure(
    exposure: Exposure, level: ChebyshevField, sky: SkyMap, sign: float
) -> Exposure:
    """Return an exposure on its own pixels with a level added, which its background remembers."""
    own: Any = exposure.sky
    if own is None:
        raise MissingDataError("The exposure has no sky mapping, so its level is not known.")
    if exposure.measure is not Measure.FLUENCE:
        raise MeasureError("Levels are taken from exposures in fluence: exposure.to('fluence').")
    if exposure.background is not None and not exposure.background_subtracted:
        raise PogsonValueError(
            "The exposure carries a background that is not subtracted; subtract_background() first."
        )
    box = exposure.box
    ratio = exposure.area_ratio
    if ratio is None:
        exposure = exposure.with_area_ratio()
        ratio = exposure.area_ratio
        assert ratio is not None
    x, y = box.center
    reference = float(own.pixel_area(x=x, y=y)) / float(ratio(x=x, y=y))  # arcsec2
    # a polynomial of output pixels is all but one of input pixels
    t = np.cos(np.pi * (np.arange(_NODES) + 0.5) / _NODES)
    gx, gy = np.meshgrid(box.center[0] + 0.5 * box.nx * t, box.center[1] + 0.5 * box.ny * t)
    px, py = sky.pixel(*own.sky(x=gx.ravel(), y=gy.ravel()))
    values = level(x=px, y=py, extrapolate=True) * (sign * reference)
    order = level.order_x + 3
    shift = ChebyshevField.fit(box, gx.ravel(), gy.ravel(), values, order=order, unit=exposure.unit)
    light = shift.render(box) * ratio.render(box)
    before = exposure.background
    if before is None:
        none = ConstantField(box, 0.0, exposure.unit)
        after = Background(-1.0 * shift, none, ratio, exposure.flattening)
    else:
        factor = before._factor(Measure.SURFACE_BRIGHTNESS, exposure.flattening)
        added = shift if factor is None else shift / factor
        after = replace(before, level=before.level - added)
    image = exposure.image + light.astype(np.float32)
    return exposure.with_(image=image, background=after, background_subtracted=True)


def match_backgrounds(
    warps: Sequence[Warp], *, degree: int = 1, bin_size: int = 64, reference: int | None = None
) -> MatchedBackgrounds:
    r"""Find the smooth backgrounds by which visits differ.

    Parameters
    ----------
    warps : sequence of Warp
        Visits on the same output pixels, in one unit, with variances.
    degree : int, optional
        Total degree of each visit's polynomial in x and y, 0 to 6.
    bin_size : int, optional
        Output pixels a side of the bins that are compared.
    reference : int, optional
        Visit whose level is 0. By default the weighted mean of all levels is.

    Returns
    -------
    MatchedBackgrounds

    Raises
    ------
    CalibrationError
        If visits do not overlap enough, or lie on different pixels.
    MissingDataError
        If a visit has no variance.

    See Also
    --------
    sample_backgrounds, solve_backgrounds : The same for images that do not fit into memory.

    Notes
    -----
    With :math:`d_{vb}` the median surface brightness of visit v in bin b, :math:`\sum_{vb} w_{vb}
    (d_{vb} - s_b - \sum_k c_{vk} T_k(b))^2` is minimised over the sky :math:`s_b` of every bin,
    which drops out, and the coefficients. Pixels bright in any visit are left out of all, so that
    seeing does not look like background; bins that fit badly are down-weighted (Huber). Where the
    overlaps leave a combination of levels free, the smallest is taken.

    Examples
    --------
    >>> from pogson.images import Exposure, warp
    >>> from pogson.sky import FitsSkyMap
    >>> rng = np.random.default_rng(1)
    >>> sky = FitsSkyMap.tan(30.0, -20.0, x=150.0, y=150.0, scale_arcsec=0.5)
    >>> box = Box(0, 0, 300, 300)
    >>> visits = [Exposure(rng.normal(level, 1.0, box.shape), variance=np.ones(box.shape),
    ...                    unit="nJy", measure="fluence", sky=sky) for level in (2.0, 5.0)]
    >>> matched = match_backgrounds([warp(v, sky, box) for v in visits], reference=0)
    >>> bool(abs(matched.levels[1](x=150, y=150) - 3.0 / 0.25) < 0.2)
    True
    """
    warps = list(warps)
    box = _check(warps, reference)
    _check_numbers(degree, bin_size)
    names = [str(k) for k in range(len(warps))]
    sky: Any = warps[0].exposure.sky
    samples = _binned(zip(names, warps, strict=True), sky, box, bin_size)
    if len(samples.visits) < len(warps):
        gone = [warps[int(n)].exposure.exposure_id or n for n in names if n not in samples.visits]
        raise CalibrationError(f"Visit {', '.join(gone)} has no bin of the output with data.")
    order = [samples.visits.index(n) for n in names]
    matched = solve_backgrounds(
        samples, sky, degree=degree, reference=None if reference is None else names[reference]
    )
    if matched.unmatched:
        few = [warps[int(n)].exposure.exposure_id or n for n in matched.unmatched]
        raise CalibrationError(
            f"Visit {', '.join(few)} shares too few bins with other visits for the coefficients of "
            f"a level of degree {degree}; lower the degree, or leave it out."
        )
    return replace(
        matched, levels=tuple(matched.levels[k] for k in order),
        visits=tuple(w.exposure.exposure_id or n for n, w in zip(names, warps, strict=True)),
    )  # fmt: skip


def sample_backgrounds(
    sources: Sequence[CoaddSource], sky: SkyMap, box: Box, *, bin_size: int = 64
) -> BackgroundSamples | None:
    """Measure the surface brightness between the sources of every visit on a part of the output.

    Parameters
    ----------
    sources : sequence of CoaddSource
        Images; those with the same ``exposure_id`` are detectors of one visit.
    sky : SkyMap
        Mapping of the output.
    box : Box
        Output pixels to look at. They are gone through in parts, so that memory stays bounded.
    bin_size : int, optional
        Output pixels a side of a bin.

    Returns
    -------
    BackgroundSamples or None
        None where no image has data.

    Raises
    ------
    MissingDataError
        If an image has no variance.

    Examples
    --------
    >>> from pogson.sky import FitsSkyMap
    >>> sky = FitsSkyMap.tan(30.0, -20.0, x=150.0, y=150.0, scale_arcsec=0.5)
    >>> box = Box(0, 0, 128, 128)
    >>> e = Exposure(np.full(box.shape, 5.0), variance=np.ones(box.shape), unit="nJy",
    ...              measure="fluence", sky=sky, exposure_id="v1")
    >>> sample_backgrounds([CoaddSource.of(e)], sky, box).value.round(2)
    array([20., 20., 20., 20.])
    """
    _check_numbers(0, bin_size)
    names = list(dict.fromkeys(s.exposure_id for s in sources))
    side = int(np.sqrt(_SAMPLE_BYTES / (5.0 * max(1, len(names)))))
    side = max(bin_size, side // bin_size * bin_size)
    xs = [*range(box.x_min, box.x_max + 1, side)]
    ys = [*range(box.y_min, box.y_max + 1, side)]
    parts = []
    for y in ys:
        for x in xs:
            some = Box(x, y, min(side, box.x_max + 1 - x), min(side, box.y_max + 1 - y))
            made = _binned(_warped(sources, sky, some), sky, some, bin_size)
            if made.visits:
                parts.append(made)
    return BackgroundSamples.joined(parts) if parts else None


def _warped(sources: Sequence[CoaddSource], sky: SkyMap, box: Box) -> Iterable[tuple[str, Warp]]:
    """Yield the sources that have data on a box, resampled."""
    for source in sources:
        needed = needed_part(source, sky, box)
        if needed is None:
            continue
        exposure = source.load(needed)
        if exposure.variance is None:
            raise MissingDataError(f"{source.name} has no variance.")
        try:
            yield source.exposure_id, warp(exposure, sky, box)
        except (BoundsError, MaskedDataError):
            continue


def solve_backgrounds(
    samples: BackgroundSamples,
    sky: SkyMap | None = None,
    *,
    degree: int = 1,
    reference: str | None = None,
) -> MatchedBackgrounds:
    """Find the smooth levels by which visits differ from samples of their backgrounds.

    Parameters
    ----------
    samples : BackgroundSamples
        From `sample_backgrounds`; all parts of the output joined.
    sky : SkyMap, optional
        Mapping of the output, needed to take levels from exposures.
    degree : int, optional
        Total degree of each visit's polynomial in x and y, 0 to 6.
    reference : str, optional
        Visit whose level is 0. By default the weighted mean of the levels is, in every group of
        visits that overlap.

    Returns
    -------
    MatchedBackgrounds
        Visits that share fewer bins with others than a level has coefficients are named in
        ``unmatched`` and have the level 0.

    Raises
    ------
    PogsonValueError
        If there are fewer than two visits, or ``reference`` is none of them.

    Examples
    --------
    >>> x, y = (v.ravel() for v in np.meshgrid(np.arange(32.0, 512, 64), np.arange(32.0, 512, 64)))
    >>> n = x.size
    >>> samples = BackgroundSamples(
    ...     ("a", "b"), Box(0, 0, 512, 512), np.column_stack([x, y]), np.repeat([0, 1], n),
    ...     np.tile(np.arange(n), 2), np.concatenate([np.zeros(n), 3.0 + 0.01 * x]),
    ...     np.full(2 * n, 0.1), "nJy / arcsec2")
    >>> round(float(solve_backgrounds(samples, reference="a").levels[1](x=100.0, y=7.0)), 6)
    4.0
    """
    _check_numbers(degree, 64)
    n = len(samples.visits)
    if n < 2:
        raise PogsonValueError(f"Backgrounds of at least two visits are matched, not {n}.")
    if reference is not None and reference not in samples.visits:
        raise PogsonValueError(f"reference={reference!r} is none of the visits.")
    terms = (degree + 1) * (degree + 2) // 2
    keep, lonely = shared_rows(samples, terms)
    some = replace(
        samples, visit=samples.visit[keep], cell=samples.cell[keep], value=samples.value[keep],
        error=samples.error[keep],
    )  # fmt: skip
    shapes = [level_shape(some, k, degree) for k in range(n)]
    if some.visit.size == 0:
        levels = tuple(shapes)
        return MatchedBackgrounds(levels, np.nan, np.nan, samples.visits, samples.visits, sky)
    system = LevelSystem(some, shapes, terms)
    weight = 1.0 / some.error**2
    before = system.rms(some.value, weight)
    robust = weight.copy()
    coefficients = np.zeros(n * terms)
    for _ in range(_ROUNDS):
        coefficients = system.solve(robust)
        pull = np.abs(system.centred(some.value - system.model(coefficients), robust))
        pull *= np.sqrt(weight)
        robust = weight * np.where(pull > 2.5, 2.5 / np.maximum(pull, 1e-12), 1.0)
    after = system.rms(some.value - system.model(coefficients), weight)
    first = None if reference is None else samples.visits.index(reference)
    table = in_gauge(some, shapes, coefficients.reshape(n, terms), weight, first)
    levels = tuple(with_values(s, row) for s, row in zip(shapes, table, strict=True))
    unmatched = tuple(samples.visits[k] for k in lonely)
    return MatchedBackgrounds(levels, before, after, samples.visits, unmatched, sky)


def _check_numbers(degree: int, bin_size: int) -> None:
    if int(degree) != degree or not 0 <= degree <= 6 or int(bin_size) != bin_size or bin_size < 8:
        raise PogsonValueError(
            f"degree={degree!r} must be from 0 to 6 and bin_size={bin_size!r} at least 8 pixels."
        )


def _check(warps: Sequence[Any], reference: int | None) -> Box:
    if len(warps) < 2:
        raise PogsonValueError(f"Backgrounds of at least two visits are matched, not {len(warps)}.")
    if reference is not None and not 0 <= reference < len(warps):
        raise PogsonValueError(f"reference={reference!r} is not the index of a visit.")
    for k, one in enumerate(warps):
        if not isinstance(one, Warp):
            raise PogsonTypeError(f"Visit {k} is a {type(one).__name__}; give warps.")
        e, first = one.exposure, warps[0].exposure
        if e.box != first.box or e.sky != first.sky:
            raise CalibrationError(f"Visit {k} lies on other output pixels than visit 0.")
        if e.unit != first.unit or e.measure is not Measure.FLUENCE:
            raise MeasureError(f"Visit {k} is in '{e.unit}', visit 0 in '{first.unit}'.")
        if e.variance is None:
            raise MissingDataError(f"Visit {k} has no variance.")
    return warps[0].exposure.box


def _binned(warps: Iterable[tuple[str, Warp]], sky: Any, box: Box, size: int) -> BackgroundSamples:
    """Return medians of surface brightness by visit and bin, from warps of detectors one by one."""
    images: dict[str, np.ndarray] = {}
    noise: dict[str, list[tuple[float, int]]] = {}
    unit = ""
    for name, one in warps:
        e = one.exposure
        unit = (e.unit / u.arcsec**2).to_string()
        values = np.where(e.bad(), np.nan, e.image).astype(np.float32)
        if e.box != box:
            raise CalibrationError(f"A warp of {name} lies on other output pixels.")
        noise.setdefault(name, []).append((one.white_variance, int(np.isfinite(values).sum())))
        if name in images:  # another detector of the visit
            values = np.where(np.isnan(images[name]), values, images[name])
        images[name] = values
    names = tuple(images)
    white = [sum(v * max(n, 1) for v, n in noise[k]) / sum(max(n, 1) for _, n in noise[k])
             for k in names]  # fmt: skip
    ny, nx = max(1, box.ny // size), max(1, box.nx // size)
    ye, xe = np.linspace(0, box.ny, ny + 1).astype(int), np.linspace(0, box.nx, nx + 1).astype(int)
    rows = []
    for j in range(ny):
        for i in range(nx):
            part = (slice(ye[j], ye[j + 1]), slice(xe[i], xe[i + 1]))
            rows += [
                (k, j * nx + i, value, np.sqrt(0.5 * np.pi * white[k] / count))
                for k, value, count in _medians([images[n][part] for n in names])
            ]
    x, y = np.meshgrid(
        box.x_min + 0.5 * (xe[1:] + xe[:-1] - 1), box.y_min + 0.5 * (ye[1:] + ye[:-1] - 1)
    )
    area = np.asarray(sky.pixel_area(x=x.ravel(), y=y.ravel()))
    table = np.array(rows, float).reshape(-1, 4)
    cell = table[:, 1].astype(int)
    return BackgroundSamples(
        names, box, np.column_stack([x.ravel(), y.ravel()]), table[:, 0].astype(int), cell,
        table[:, 2] / area[cell], table[:, 3] / area[cell], unit,
    )  # fmt: skip


def _medians(parts: Sequence[np.ndarray]) -> list[tuple[int, float, int]]:
    """Return index, median and count of images on a bin, of pixels bright in none of them."""
    enough = [k for k, p in enumerate(parts) if np.isfinite(p).sum() >= _FEWEST_PIXELS]
    if not enough:
        return []
    dark = np.ones(parts[0].shape, bool)
    for k in enough:
        dark &= ~_bright(parts[k])
    out = []
    for k in enough:
        values = parts[k][dark & np.isfinite(parts[k])]
        if values.size >= _FEWEST_PIXELS:
            out.append((k, float(np.median(values)), int(values.size)))
    return out


def _bright(values: np.ndarray) -> np.ndarray:
    """Return pixels with source light, and those about them."""
    from scipy.ndimage import maximum_filter, uniform_filter

    smooth = uniform_filter(np.where(np.isnan(values), np.nanmedian(values), values), 3)
    centre = np.median(smooth)
    width = 1.4826 * np.median(np.abs(smooth - centre))
    high = smooth > centre + _SOURCE_SIGMA * max(width, 1e-30)
    return np.asarray(maximum_filter(high, size=2 * _GROW + 1))
