"""Backgrounds of visits made to match, from their differences on the same sky.

The sky above a field is the same in every visit but for what the atmosphere, the moon and the
background subtraction added. Differences of resampled visits hold no sources, so smooth differences
are background; they are found jointly, in surface brightness. What is common to all visits cannot
be told from the sky and stays. Pixels are 0-based with centres on integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import (
    CalibrationError,
    MeasureError,
    MissingDataError,
    PogsonTypeError,
    PogsonValueError,
)
from pogson.fields import Box, ChebyshevField
from pogson.images.warp import Warp
from pogson.units import Measure

if TYPE_CHECKING:
    from pogson.images.exposure import Exposure

__all__ = ["MatchedBackgrounds", "match_backgrounds"]

_SOURCE_SIGMA = 3.0
_GROW = 4  # wings below the noise, wider in worse seeing
_FEWEST_PIXELS = 20
_ROUNDS = 4


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

    Examples
    --------
    >>> MatchedBackgrounds((), 5.0, 1.0).rms_after
    1.0
    """

    levels: tuple[ChebyshevField, ...]
    rms_before: float
    rms_after: float

    def subtract(self, index: int, image: Warp | Exposure) -> Any:
        """Return a visit less its level.

        Parameters
        ----------
        index : int
            Which visit, in the order given to `match_backgrounds`.
        image : Warp or Exposure
            The warp itself, or the exposure that it was made from, in fluence.

        Returns
        -------
        Warp or Exposure
            Of the same kind as ``image``.
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
            from dataclasses import replace

            return replace(image, exposure=_shifted(image.exposure, level, sign))
        raise PogsonTypeError(
            f"subtract and restore take the Warp that was matched, not {type(image).__name__}."
        )


def _shifted(exposure: Exposure, level: ChebyshevField, sign: float) -> Exposure:
    """Return a resampled exposure with a level in surface brightness added."""
    sky: Any = exposure.sky
    box = exposure.box
    area = sky.pixel_area_field(box)
    light = level.with_box(box).render(box) * area.render(box)
    return exposure.with_(image=exposure.image + sign * light.astype(np.float32))


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
    box = _check(warps, degree, bin_size, reference)
    values, errors, x, y = _binned(warps, box, bin_size)
    powers = [(i, j) for i in range(degree + 1) for j in range(degree + 1 - i)]
    u = (x - box.center[0]) / (0.5 * box.nx)
    v = (y - box.center[1]) / (0.5 * box.ny)
    tx = np.polynomial.chebyshev.chebvander(u, degree)
    ty = np.polynomial.chebyshev.chebvander(v, degree)
    basis = np.stack([tx[:, i] * ty[:, j] for i, j in powers], axis=1)
    seen = np.isfinite(values) & np.isfinite(errors) & (errors > 0)
    seen &= seen.sum(axis=0) > 1
    _check_overlap(warps, seen, len(powers))
    weight = np.where(seen, 1.0 / np.where(seen, errors, 1.0) ** 2, 0.0)
    data = np.where(seen, values, 0.0)
    before = _rms(data, weight, seen)
    robust = weight.copy()
    for _ in range(_ROUNDS):
        solution = _solve(data, robust, basis, reference)
        model = solution @ basis.T
        residual = data - model
        centred = residual - _mean(residual, robust)
        pull = np.abs(centred) * np.sqrt(weight)
        robust = weight * np.where(pull > 2.5, 2.5 / np.maximum(pull, 1e-12), 1.0)
    after = _rms(data - model, weight, seen)
    unit = warps[0].exposure.unit
    import astropy.units as units

    fields = []
    for row in solution:
        table = np.zeros((degree + 1, degree + 1))
        for (i, j), c in zip(powers, row, strict=True):
            table[j, i] = c
        fields.append(ChebyshevField(box, table, unit=unit / units.arcsec**2))
    return MatchedBackgrounds(tuple(fields), before, after)


def _check(warps: Sequence[Any], degree: int, bin_size: int, reference: int | None) -> Box:
    if len(warps) < 2:
        raise PogsonValueError(f"Backgrounds of at least two visits are matched, not {len(warps)}.")
    if int(degree) != degree or not 0 <= degree <= 6 or int(bin_size) != bin_size or bin_size < 8:
        raise PogsonValueError(
            f"degree={degree!r} must be from 0 to 6 and bin_size={bin_size!r} at least 8 pixels."
        )
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


def _binned(
    warps: Sequence[Warp], box: Box, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return surface brightnesses and errors (n, bins) and bin centres."""
    ny, nx = max(1, box.ny // size), max(1, box.nx // size)
    ye, xe = np.linspace(0, box.ny, ny + 1).astype(int), np.linspace(0, box.nx, nx + 1).astype(int)
    sky: Any = warps[0].exposure.sky
    values = np.full((len(warps), ny * nx), np.nan)
    errors = np.full_like(values, np.nan)
    bad = [w.exposure.bad() for w in warps]
    for j in range(ny):
        for i in range(nx):
            some = (slice(ye[j], ye[j + 1]), slice(xe[i], xe[i + 1]))
            parts = np.array([w.exposure.image[some] for w in warps], np.float64)
            good = ~np.array([b[some] for b in bad])
            enough = good.sum(axis=(1, 2)) >= _FEWEST_PIXELS
            parts[~good] = np.nan
            bright = np.zeros(parts.shape[1:], bool)
            for k in map(int, np.flatnonzero(enough)):
                bright |= _bright(parts[k])
            for k in map(int, np.flatnonzero(enough)):
                use = good[k] & ~bright
                n = int(use.sum())
                if n < _FEWEST_PIXELS:
                    continue
                values[k, j * nx + i] = np.median(parts[k][use])
                errors[k, j * nx + i] = np.sqrt(0.5 * np.pi * warps[k].white_variance / n)
    x, y = np.meshgrid(
        box.x_min + 0.5 * (xe[1:] + xe[:-1] - 1), box.y_min + 0.5 * (ye[1:] + ye[:-1] - 1)
    )
    area = np.asarray(sky.pixel_area(x=x.ravel(), y=y.ravel()))
    return values / area, errors / area, x.ravel(), y.ravel()


def _bright(values: np.ndarray) -> np.ndarray:
    """Return pixels with source light, and those about them."""
    from scipy.ndimage import maximum_filter, uniform_filter

    smooth = uniform_filter(np.where(np.isnan(values), np.nanmedian(values), values), 3)
    centre = np.median(smooth)
    width = 1.4826 * np.median(np.abs(smooth - centre))
    high = smooth > centre + _SOURCE_SIGMA * max(width, 1e-30)
    return np.asarray(maximum_filter(high, size=2 * _GROW + 1))


def _check_overlap(warps: Sequence[Warp], seen: np.ndarray, n_terms: int) -> None:
    few = [w.exposure.exposure_id or str(k) for k, w in enumerate(warps) if seen[k].sum() < n_terms]
    if few:
        raise CalibrationError(
            f"Visit {', '.join(few)} shares fewer than {n_terms} bins with other visits, too few "
            f"for its {n_terms} coefficients; lower the degree, or leave it out."
        )


def _mean(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    total = weight.sum(axis=0)
    return np.where(total > 0, (weight * values).sum(axis=0) / np.where(total > 0, total, 1.0), 0.0)


def _rms(values: np.ndarray, weight: np.ndarray, seen: np.ndarray) -> float:
    centred = (values - _mean(values, weight)) * np.sqrt(weight)
    free = seen.sum() - seen.any(axis=0).sum()
    return float(np.sqrt((centred[seen] ** 2).sum() / max(int(free), 1)))


def _solve(
    data: np.ndarray, weight: np.ndarray, basis: np.ndarray, reference: int | None
) -> np.ndarray:
    """Return coefficients (n, terms); the sky of every bin is eliminated."""
    n, terms = data.shape[0], basis.shape[1]
    total = weight.sum(axis=0)
    inverse = np.where(total > 0, 1.0 / np.where(total > 0, total, 1.0), 0.0)
    matrix = np.zeros((n, terms, n, terms))
    right = np.zeros((n, terms))
    residual = data - _mean(data, weight)
    for a in range(n):
        right[a] = basis.T @ (weight[a] * residual[a])
        for b in range(n):
            w = -weight[a] * weight[b] * inverse
            if a == b:
                w = w + weight[a]
            matrix[a, :, b, :] = basis.T @ (w[:, None] * basis)
    flat = matrix.reshape(n * terms, n * terms)
    out = np.linalg.lstsq(flat, right.ravel(), rcond=1e-10)[0].reshape(n, terms)
    if reference is not None:
        return np.asarray(out - out[reference])
    share = weight.sum(axis=1)
    return np.asarray(out - (share @ out) / share.sum())
