"""The PSF of an image that was resampled from others, or averaged of such.

A star on a coadd is the weighted sum of the same star on the inputs, each resampled. `CoaddPSF`
does to the inputs' PSFs what was done to their pixels: the star is drawn on the input's own pixels
at its own sub-pixel place there, taken through the same kernel on the same map, and added with the
input's weight. Pixels are 0-based with centres on integers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pogson.errors import BoundsError, PogsonTypeError, PogsonValueError
from pogson.fields import Box
from pogson.images._resampling import Resampling
from pogson.psf import PSF, PixelGridPSF, PsfNormalization, psf_from_dict
from pogson.psf.base import MAX_HALF_SIZE, box_from_dict, normalization_from_dict, register
from pogson.sky import SkyMap, skymap_from_dict

__all__ = ["CoaddPSF", "PsfInput"]


@dataclass(frozen=True)
class PsfInput:
    """One input of a coadd, as its PSF needs it.

    Parameters
    ----------
    psf : PSF
        PSF of the input, on its own pixels.
    sky : SkyMap
        Mapping of the input.
    box : Box
        Pixels of the input.
    weight : float
        Weight of the input in the coadd, positive.
    resampling : Resampling
        Kernel that took it to the coadd's pixels.

    Examples
    --------
    >>> from pogson.psf import GaussianPSF
    >>> from pogson.sky import FitsSkyMap
    >>> sky = FitsSkyMap.tan(30.0, -20.0, x=50.0, y=50.0, scale_arcsec=0.25)
    >>> PsfInput(GaussianPSF(3.0), sky, Box(0, 0, 100, 100), 2.0, Resampling("lanczos3")).weight
    2.0
    """

    psf: PSF
    sky: SkyMap
    box: Box
    weight: float
    resampling: Resampling

    def __post_init__(self) -> None:
        if not (np.isfinite(self.weight) and self.weight > 0):
            raise PogsonValueError(f"The weight of a PSF is {self.weight!r}; it must be positive.")

    def covers(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return whether positions on the input, in its pixels, lie on it."""
        good = np.isfinite(x) & np.isfinite(y)
        return good & self.box.contains(x=np.where(good, x, -1e9), y=np.where(good, y, 0.0))


class CoaddPSF(PSF):
    """Weighted sum of the resampled PSFs of the inputs that cover a position.

    Parameters
    ----------
    inputs : sequence of PsfInput
        The inputs, at least one.
    sky : SkyMap
        Mapping of the coadd.
    box : Box, optional
        Pixels of the coadd.
    normalization : PsfNormalization, optional
        "total" by default: as the inputs' own.

    Raises
    ------
    PogsonValueError
        If there are no inputs.

    Notes
    -----
    Inputs have constant weights, and an input counts at a position if the position lies on it.
    Where pixels of some input are masked or clipped the coadd's own PSF differs; such pixels have
    mask bits. Positions that no input covers raise `BoundsError`.

    Examples
    --------
    >>> from pogson.psf import GaussianPSF
    >>> from pogson.sky import FitsSkyMap
    >>> box, psf = Box(0, 0, 100, 100), GaussianPSF(fwhm=4.0)
    >>> skies = [FitsSkyMap.tan(30.0, -20.0, x=x, y=50.0, scale_arcsec=0.25) for x in (50.0, 50.5)]
    >>> inputs = [PsfInput(psf, sky, box, 1.0, Resampling("lanczos3")) for sky in skies]
    >>> coadd_psf = CoaddPSF(inputs, skies[0], box)
    >>> float(coadd_psf.draw(x=50.0, y=40.0).image.sum().round(4))
    1.0
    """

    __slots__ = ("_inputs", "_sky")
    kind = "coadd"
    _inputs: tuple[PsfInput, ...]
    _sky: SkyMap

    def __init__(
        self,
        inputs: Sequence[PsfInput],
        sky: SkyMap,
        box: Box | None = None,
        *,
        normalization: PsfNormalization | None = None,
    ) -> None:
        kept = tuple(inputs)
        if not kept:
            raise PogsonValueError("A coadd's PSF needs at least one input.")
        if not all(isinstance(i, PsfInput) for i in kept) or not isinstance(sky, SkyMap):
            raise PogsonTypeError("CoaddPSF takes PsfInput objects and the coadd's SkyMap.")
        self._set(
            _inputs=kept,
            _sky=sky,
            _box=box,
            _normalization=PsfNormalization() if normalization is None else normalization,
            _identifier="",
        )

    @property
    def pixel_integrated(self) -> bool:
        """False: the pixels of the inputs and the kernel are in it already."""
        return False

    @property
    def inputs(self) -> tuple[PsfInput, ...]:
        """What is added, with which weight."""
        return self._inputs

    @property
    def sky(self) -> SkyMap:
        """Mapping of the coadd."""
        return self._sky

    def with_box(self, box: Box | None) -> CoaddPSF:
        """Return the same PSF, valid on another box."""
        return CoaddPSF(self._inputs, self._sky, box, normalization=self._normalization)

    def coverage(self, *, x: Any, y: Any) -> np.ndarray:
        """Return which inputs cover positions of the coadd, shape (n_inputs, n)."""
        xs, ys = self._positions(x, y)
        ra, dec = self._sky.sky(x=xs, y=ys)
        return np.array([one.covers(*one.sky.pixel(ra, dec)) for one in self._inputs])

    def _draw(
        self, x: np.ndarray, y: np.ndarray, x_min: np.ndarray, y_min: np.ndarray, out: np.ndarray
    ) -> None:
        out[:] = 0.0
        total = np.zeros(x.size)
        ra, dec = self._sky.sky(x=x, y=y)
        for one in self._inputs:
            u, v = one.sky.pixel(ra, dec)
            on = np.flatnonzero(one.covers(u, v))
            if not on.size:
                continue
            step = max(1, 2_000_000 // out[0].size)
            for start in range(0, on.size, step):
                k = on[start : start + step]
                out[k] += one.weight * self._resampled(one, u[k], v[k], x_min[k], y_min[k], out)
            total[on] += one.weight
        bare = total <= 0
        if bare.any():
            i = int(np.flatnonzero(bare)[0])
            raise BoundsError(
                f"No input of the coadd covers x={x[i]:.6g}, y={y[i]:.6g} ({int(bare.sum())} of "
                f"{x.size} positions), so there is no PSF; ask coverage(x=, y=) first."
            )
        out /= total[:, None, None]

    def _resampled(
        self,
        one: PsfInput,
        u: np.ndarray,
        v: np.ndarray,
        x_min: np.ndarray,
        y_min: np.ndarray,
        out: np.ndarray,
    ) -> np.ndarray:
        """Return the stamps of stars at input positions (u, v), on output stamps."""
        from pogson.images import _warp_kernels as kernels

        m = out.shape[1]
        scale = self._scale(one, u, v, x_min, y_min, m)
        guard = one.resampling.guard(scale)
        nodes = self._nodes(one, x_min, y_min, m, guard)
        # the stamp on the input that holds everything the output stamp gathers from
        far = np.maximum(
            np.abs(nodes[:, 0] - u[:, None, None]).max(),
            np.abs(nodes[:, 1] - v[:, None, None]).max(),
        )
        size = one.resampling.support(float(np.sqrt(nodes[:, 2].max())))
        half = int(min(np.ceil(far) + size // 2 + 1, MAX_HALF_SIZE))
        half = min(half, one.psf.default_half_size(x=u, y=v))
        stamps, first_x, first_y = one.psf.draw_many(x=u, y=v, half_size=half)
        result = np.zeros((u.size, m, m))
        if one.resampling.exact:
            kernels.resample_stamps_exact(stamps, first_x, first_y, nodes, guard, size, result)
        else:
            table = kernels.weight_table(one.resampling.order)
            kernels.resample_stamps(
                stamps, first_x, first_y, nodes, guard, one.resampling.order,
                float(one.resampling.stretch), table, result,
            )  # fmt: skip
        return result

    def _scale(
        self, one: PsfInput, u: np.ndarray, v: np.ndarray, x: np.ndarray, y: np.ndarray, m: int
    ) -> float:
        """Return the side of the smallest output pixel at stars, in input pixels."""
        area = self._sky.pixel_area(x=x + m // 2, y=y + m // 2) / one.sky.pixel_area(x=u, y=v)
        return float(np.sqrt(np.min(area)))

    def _nodes(
        self, one: PsfInput, x_min: np.ndarray, y_min: np.ndarray, m: int, guard: int
    ) -> np.ndarray:
        """Return the map at 4 x 4 nodes over each stamp and its guard, shape (n, 3, 4, 4)."""
        g = np.arange(4) * (m + 2 * guard - 1) / 3.0 - guard
        x = (x_min[:, None, None] + g[None, None, :]) + 0.0 * g[None, :, None]
        y = (y_min[:, None, None] + g[None, :, None]) + 0.0 * g[None, None, :]
        ra, dec = self._sky.sky(x=x, y=y)
        px, py = one.sky.pixel(ra, dec)
        area = self._sky.pixel_area(x=x, y=y) / one.sky.pixel_area(x=px, y=py)
        nodes = np.stack([px, py, area], axis=1)
        if not np.isfinite(nodes).all():
            # beyond the domain of a distortion: the linear map about the star stands in
            raise BoundsError(
                "A stamp of the coadd's PSF reaches beyond where an input's sky mapping is "
                "defined; ask for a smaller half_size."
            )
        return np.ascontiguousarray(nodes)

    def fwhm(self, *, x: Any, y: Any) -> Any:
        """Full width at half maximum in pixels of the effective PSF.

        Parameters
        ----------
        x, y : array_like
            Positions in pixels (0-based, centres on integers).
        """
        shape = np.broadcast_shapes(np.shape(x), np.shape(y))
        xs, ys = self._positions(x, y)
        out = np.empty(xs.size)
        for k in range(xs.size):
            # at the centre of its pixel the stamp is a grid of samples about the star
            xk, yk = np.floor(xs[k] + 0.5), np.floor(ys[k] + 0.5)
            stamp = self.draw_many(x=[xk], y=[yk])[0][0]
            out[k] = PixelGridPSF(stamp, interpolation="lanczos3").fwhm(x=0.0, y=0.0)
        return float(out[0]) if shape == () else out.reshape(shape)

    def default_half_size(self, *, x: Any, y: Any) -> int:
        """Half-size in pixels of a stamp that holds nearly all light.

        Parameters
        ----------
        x, y : array_like
            Positions in pixels; the largest half-size wanted by any input is returned.
        """
        xs, ys = self._positions(x, y)
        ra, dec = self._sky.sky(x=xs, y=ys)
        largest = 1.0
        for one in self._inputs:
            u, v = one.sky.pixel(ra, dec)
            on = one.covers(u, v)
            if not on.any():
                continue
            scale = self._sky.pixel_scale(x=xs[on], y=ys[on]) / one.sky.pixel_scale(
                x=u[on], y=v[on]
            )
            half = one.psf.default_half_size(x=u[on], y=v[on])
            largest = max(largest, (half + 2.0) / float(np.min(scale)))
        return int(min(np.ceil(largest), MAX_HALF_SIZE))

    def _parameters(self) -> dict[str, Any]:
        return {
            "sky": self._sky.to_dict(),
            "inputs": [
                {
                    "psf": one.psf.to_dict(),
                    "sky": one.sky.to_dict(),
                    "box": list(one.box),
                    "weight": one.weight,
                    "resampling": one.resampling.to_dict(),
                }
                for one in self._inputs
            ],
        }

    def __repr__(self) -> str:
        return f"<CoaddPSF of {len(self._inputs)} inputs>"


def _build(description: Mapping[str, Any]) -> PSF:
    inputs = [
        PsfInput(
            psf_from_dict(one["psf"]),
            skymap_from_dict(one["sky"]),
            Box(*one["box"]),
            float(one["weight"]),
            Resampling.from_dict(one["resampling"]),
        )
        for one in description["inputs"]
    ]
    return CoaddPSF(
        inputs,
        skymap_from_dict(description["sky"]),
        box_from_dict(description),
        normalization=normalization_from_dict(description),
    )


register("coadd", _build)
