"""Resampled images on top of each other, a part of the coadd at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import BoundsError, PogsonValueError
from pogson.fields import Box
from pogson.images._pixel_map import PixelMap
from pogson.images._resampling import Resampling
from pogson.images.exposure import Exposure
from pogson.images.noise_correlation import NoiseCorrelation, cells_of, warp_correlation
from pogson.images.warp import (
    MaskRules,
    Warp,
    in_bands,
    map_between,
    resample,
    variance_level,
)

if TYPE_CHECKING:
    from pogson.images.coadd import Clipping
    from pogson.psf import PSF
    from pogson.sky import SkyMap

__all__ = ["Contribution", "Stack", "contribution_of"]

STACK_BYTES = 192 << 20
"""Memory for the stack of resampled images; larger coadds are made in parts."""
_FALLBACK_FRACTION = 0.3
_DEFAULT_THRESHOLD = 0.1


@dataclass(frozen=True, eq=False)
class Contribution:
    """One input, ready to be resampled to any part of the coadd."""

    index: int
    exposure: Exposure
    sky_out: SkyMap
    sky: SkyMap
    box: Box
    psf: PSF | None
    part: Box
    mapping: PixelMap | None
    resampling: Resampling
    rules: MaskRules
    noise: NoiseCorrelation
    variance_share: np.ndarray
    white_variance: float

    @property
    def exposure_id(self) -> str:
        """Name of the exposure."""
        return self.exposure.exposure_id

    @property
    def detector(self) -> str:
        """Name of the detector."""
        return self.exposure.detector

    @property
    def name(self) -> str:
        """Name for messages."""
        return f"image {self.index}" + (f" ({self.exposure_id})" if self.exposure_id else "")

    def arrays(self, box: Box, threads: int) -> tuple[Any, Any, Any, Box] | None:
        """Return image, variance, mask and the box they lie on; None where it does not reach."""
        try:
            inner = self.part.intersection(box)
        except BoundsError:
            return None
        if self.mapping is None:
            some = inner.slices(self.exposure.box)
            e = self.exposure
            variance = None if e.variance is None else e.variance[some]
            mask = np.zeros(inner.shape, np.uint32) if e.mask is None else e.mask[some]
            return e.image[some], variance, mask, inner
        made = resample(self.exposure, self.mapping, inner, self.resampling, self.rules, threads)
        return (*made, inner)


def contribution_of(
    item: Exposure | Warp,
    index: int,
    sky: SkyMap,
    box: Box,
    kernel: str,
    mask_thresholds: Mapping[str, float] | None,
) -> Contribution:
    """Return the contribution of an exposure or a warp to a box."""
    if isinstance(item, Warp):
        e = item.exposure
        part = item.source.overlap.intersection(e.box).intersection(box)
        ny, nx = cells_of(box)
        rules = MaskRules.of(e.mask_bits, mask_thresholds)
        total = item.noise.kernels.sum(axis=(2, 3)).mean()
        share = np.full((ny, nx), item.white_variance / total)
        return Contribution(
            index, e, sky, item.source.sky, item.source.box, item.source.psf, part, None,
            item.resampling, rules, item.noise.on(box), share, item.white_variance,
        )  # fmt: skip
    source: Any = item.sky
    mapping, part, resampling = map_between(source, item.box, sky, box, item._name(), kernel)
    rules = MaskRules.of(item.mask_bits, mask_thresholds)
    noise, gain = warp_correlation(
        mapping, box, resampling.order, resampling.stretch, resampling.exact, part
    )
    level = variance_level(item)
    area = float(np.median(mapping.nodes[2]))
    return Contribution(
        index, item, sky, source, item.box, item.psf, part, mapping, resampling, rules,
        noise, level * gain, level * area,
    )  # fmt: skip


class Stack:
    """Accumulates the mean, variance, mask and counts of contributions over a box."""

    def __init__(
        self,
        found: Sequence[Contribution],
        weights: np.ndarray,
        box: Box,
        clip: Clipping | None,
        thresholds: Mapping[str, float] | None,
        threads: int,
    ) -> None:
        self.found, self.weights, self.box = list(found), weights, box
        self.clip, self.threads = clip, threads
        self.bits = found[0].exposure.mask_bits
        self.limits = _coadd_limits(self.bits, thresholds)
        self.has_variance = all(c.exposure.variance is not None for c in found)
        self.image = np.full(box.shape, np.nan, np.float32)
        self.variance = np.full(box.shape, np.nan, np.float32) if self.has_variance else None
        self.mask = np.zeros(box.shape, np.uint32)
        self.count = np.zeros(box.shape, np.uint16)
        ny, nx = cells_of(box)
        self.coverage = np.zeros((len(self.found), ny, nx))
        self.n_pixels = np.zeros(len(self.found), np.int64)
        self.n_clipped = np.zeros(len(self.found), np.int64)

    def run(self) -> None:
        """Fill the arrays, a part of the box at a time."""
        fraction = self._fractions()
        for part in self._parts():
            self._one(part, fraction)
        self._mark_edges()
        self._cells()

    def _parts(self) -> list[Box]:
        """Return parts of the box whose stacks fit the memory, each with its neighbourhood."""
        box = self.box
        rows = max(16, STACK_BYTES // (12 * len(self.found) * box.nx))
        n = max(1, -(-box.ny // rows))
        edges = np.linspace(0, box.ny, n + 1).astype(int)
        return [Box(box.x_min, box.y_min + int(a), box.nx, int(b - a)) for a, b in pairwise(edges)]

    def _one(self, part: Box, fraction: np.ndarray) -> None:
        from pogson.images import _coadd_kernels as kernels

        # clipping looks at neighbours: a margin makes the parts seamless
        margin = 0 if self.clip is None else self.clip.reach
        y0 = max(part.y_min - margin, self.box.y_min)
        y1 = min(part.y_max + margin, self.box.y_max)
        wide = Box(part.x_min, y0, part.nx, y1 - y0 + 1)
        planes, variances, masks, use = self._planes(wide)
        if not use:
            self.mask[part.slices(self.box)] = self.bits.value_of_known(["NO_DATA"])
            return
        index = np.array(use)
        keep = np.ones(planes.shape, np.bool_)
        if self.clip is not None and len(use) > 1 and self.has_variance:
            reference = np.empty(wide.shape, np.float32)
            in_bands(
                lambda rows: kernels.reference_rows(planes, rows, reference),
                wide.shape,
                self.threads,
            )
            bright = kernels.local_maximum(reference, self.clip.reach)
            in_bands(
                lambda rows: kernels.clip_rows(
                    planes,
                    variances,
                    reference,
                    bright,
                    self.clip.sigma,
                    fraction[index],
                    rows,
                    keep,
                ),
                wide.shape,
                self.threads,
            )
        inner = slice(part.y_min - y0, part.y_min - y0 + part.ny)
        some = part.slices(self.box)
        image, mask, count = self.image[some], self.mask[some], self.count[some]
        variance = (
            self.variance[some] if self.variance is not None else np.empty((1, 1), np.float32)
        )
        no_data = np.uint32(self.bits.value_of_known(["NO_DATA"]))
        clipped = np.uint32(self.bits.value_of_known(["CLIPPED"]))
        args = (planes[:, inner], variances[:, inner] if self.has_variance else variances,
                masks[:, inner], keep[:, inner], self.has_variance, self.weights[index],
                self.limits, no_data, clipped)  # fmt: skip
        in_bands(
            lambda rows: kernels.mean_rows(*args, rows, image, variance, mask, count),
            part.shape,
            self.threads,
        )
        seen = ~np.isnan(planes[:, inner])
        self.n_pixels[index] += (seen & keep[:, inner]).sum(axis=(1, 2))
        self.n_clipped[index] += (seen & ~keep[:, inner]).sum(axis=(1, 2))

    def _planes(self, wide: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[int]]:
        """Return the stacks of images, variances and masks on a box, and who is in them."""
        made: list[tuple[int, Any]] = []
        for k, one in enumerate(self.found):
            arrays = one.arrays(wide, self.threads)
            if arrays is not None:
                made.append((k, arrays))
        n = len(made)
        planes = np.full((n, *wide.shape), np.nan, np.float32)
        variances = np.full(
            (n, *wide.shape) if self.has_variance else (n, 1, 1), np.nan, np.float32
        )
        masks = np.zeros((n, *wide.shape), np.uint32)
        for k, (_, (image, variance, mask, box)) in enumerate(made):
            some = (k, *box.slices(wide))
            planes[some] = image
            masks[some] = mask
            if self.has_variance:
                variances[some] = variance
        return planes, variances, masks, [k for k, _ in made]

    def _fractions(self) -> np.ndarray:
        """Return for each input how much its stars may differ, as a fraction of the flux nearby."""
        n = len(self.found)
        if self.clip is None:
            return np.zeros(n)
        if self.clip.flux_fraction is not None:
            return np.full(n, float(self.clip.flux_fraction))
        if any(c.psf is None for c in self.found) or n < 2:
            return np.full(n, _FALLBACK_FRACTION)
        from pogson.images._coadd_seeing import seeing_fractions

        return seeing_fractions(self.found, self.weights, self.clip.reach)

    def _mark_edges(self) -> None:
        """Set EDGE where the border of an input passes within the reach of the PSF."""
        bit = np.uint32(self.bits.value_of_known(["EDGE"]))
        if not bit:
            return
        from scipy.ndimage import maximum_filter

        line = np.zeros(self.box.shape, np.uint8)
        for one in self.found:
            x, y = self._border(one)
            on = self.box.contains(x=x, y=y)
            i = np.floor(x[on] + 0.5).astype(int) - self.box.x_min
            j = np.floor(y[on] + 0.5).astype(int) - self.box.y_min
            line[j, i] = 1
        if line.any():
            near = maximum_filter(line, size=2 * self._edge_reach() + 1, mode="constant")
            self.mask[near > 0] |= bit

    def _edge_reach(self) -> int:
        """Return 1.5 FWHM of the widest PSF, in pixels; 5 where there is none."""
        widths = []
        for one in self.found:
            if one.psf is None:
                return 5
            x, y = one.box.center
            widths.append(float(one.psf.fwhm(x=x, y=y)) / self._scale(one))
        return int(np.clip(np.ceil(1.5 * max(widths)), 3, 50))

    @staticmethod
    def _scale(one: Contribution) -> float:
        return 1.0 if one.mapping is None else one.mapping.scale

    @staticmethod
    def _border(one: Contribution) -> tuple[np.ndarray, np.ndarray]:
        """Return pixels of the coadd along the border of an input, closer than a pixel apart."""
        (x0, x1), (y0, y1) = one.box.x_bounds, one.box.y_bounds
        step = min(Stack._scale(one), 1.0)
        # a border is smooth: coarse points on the sky, straight lines between
        t = np.linspace(0.0, 1.0, 129)
        corners_x = np.concatenate(
            [x0 + (x1 - x0) * t, np.full(129, x1), x1 - (x1 - x0) * t, np.full(129, x0)]
        )
        corners_y = np.concatenate(
            [np.full(129, y0), y0 + (y1 - y0) * t, np.full(129, y1), y1 - (y1 - y0) * t]
        )
        ra, dec = one.sky.sky(x=corners_x, y=corners_y)
        px, py = one.sky_out.pixel(ra, dec)
        length = max(one.box.nx, one.box.ny) / step
        fine = max(2, int(np.ceil(2.0 * length / 128)))
        s = np.arange((px.size - 1) * fine + 1) / fine
        k = np.arange(px.size)
        good = np.isfinite(px) & np.isfinite(py)
        if good.sum() < 2:
            return np.empty(0), np.empty(0)
        return np.interp(s, k[good], px[good]), np.interp(s, k[good], py[good])

    def _cells(self) -> None:
        """Fill the share of each cell that each input covers."""
        ny, nx = self.coverage.shape[1:]
        x = np.linspace(*self.box.x_bounds, nx + 1)
        y = np.linspace(*self.box.y_bounds, ny + 1)
        for k, one in enumerate(self.found):
            p, total = one.part, one.part.area
            filled = self.n_pixels[k] / total
            wide = np.clip(
                np.minimum(x[1:], p.x_max + 0.5) - np.maximum(x[:-1], p.x_min - 0.5), 0, None
            )
            high = np.clip(
                np.minimum(y[1:], p.y_max + 0.5) - np.maximum(y[:-1], p.y_min - 0.5), 0, None
            )
            area = (x[1] - x[0]) * (y[1] - y[0])
            self.coverage[k] = filled * high[:, None] * wide[None, :] / area

    def effective_gain(self) -> dict[str, float]:
        """Return the gain of the coadd, electron per nJy, where all inputs contribute."""
        gains = [c.exposure.metadata.get("gain") for c in self.found]
        if not all(isinstance(g, (int, float)) for g in gains):
            return {}
        w = self.weights
        return {"effective_gain": float(w.sum() ** 2 / np.sum(w**2 / np.array(gains, float)))}


def _coadd_limits(bits: Any, thresholds: Mapping[str, float] | None) -> np.ndarray:
    limits = np.full(32, _DEFAULT_THRESHOLD)
    given = {"SATURATED": 0.0, **{str(k).upper(): float(v) for k, v in (thresholds or {}).items()}}
    bits.value(*(n for n in given if n != "SATURATED"))
    for name, value in given.items():
        if not 0.0 <= value < 1.0:
            raise PogsonValueError(
                f"The threshold of {name} is {value!r}; it is from 0 to below 1."
            )
        if name in bits:
            limits[bits[name]] = value
    return limits
