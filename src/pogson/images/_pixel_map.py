"""The map from output pixels to input pixels, on a coarse grid that is proved fine enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pogson.errors import BoundsError, CalibrationError
from pogson.fields import Box

if TYPE_CHECKING:
    from pogson.sky import SkyMap

__all__ = ["PixelMap", "check_fold", "overlap_box", "pixel_map"]

TOLERANCE = 1e-4
"""Largest error of an interpolated position, in input pixels."""
AREA_TOLERANCE = 1e-5
"""Largest relative error of an interpolated area ratio."""
_STEPS = (64, 32, 16, 8, 4, 1)
_EDGE_POINTS = 65
_DEGREE = 5
_GRAINS = 2.0**26  # 1.5e-8 of a pixel


@dataclass(frozen=True, eq=False)
class PixelMap:
    """Input positions and area ratios at the nodes of a grid over output pixels.

    Between nodes cubic Lagrange polynomials through the 4 x 4 nearest nodes hold.

    Attributes
    ----------
    box : Box
        Output pixels for which it holds; wider than what is made, so that all output pixels that
        share an input pixel are known.
    step : int
        Output pixels between nodes.
    nodes : numpy.ndarray, shape (3, ny, nx)
        Input x, input y, and area of an output pixel over that of the input pixel there.
    x_zero, y_zero : float
        Output position of the first node.
    error : float
        Largest error of positions found at the centres of cells, in input pixels.
    """

    box: Box
    step: int
    nodes: np.ndarray
    x_zero: float
    y_zero: float
    error: float

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return input x, input y and area ratio at output positions, shape (3, n)."""
        gx = (np.asarray(x, np.float64) - self.x_zero) / self.step
        gy = (np.asarray(y, np.float64) - self.y_zero) / self.step
        ix = np.clip(np.floor(gx), 1, self.nodes.shape[2] - 3).astype(int)
        iy = np.clip(np.floor(gy), 1, self.nodes.shape[1] - 3).astype(int)
        wx, wy = lagrange(gx - ix), lagrange(gy - iy)
        out = np.zeros((3, *np.shape(gx)))
        for j in range(4):
            for i in range(4):
                out += wy[j] * wx[i] * self.nodes[:, iy + j - 1, ix + i - 1]
        return out

    @property
    def scale(self) -> float:
        """Side of an output pixel in input pixels, typical over the box."""
        return float(np.sqrt(np.median(self.nodes[2])))


def lagrange(t: np.ndarray) -> np.ndarray:
    """Return the weights of nodes at -1, 0, 1, 2 for a position t in [0, 1]."""
    return np.stack(
        [
            -t * (t - 1.0) * (t - 2.0) / 6.0,
            (t + 1.0) * (t - 1.0) * (t - 2.0) / 2.0,
            -(t + 1.0) * t * (t - 2.0) / 2.0,
            (t + 1.0) * t * (t - 1.0) / 6.0,
        ]
    )


def check_fold(sky: SkyMap, box: Box, name: str) -> float:
    """Return the sign of the Jacobian of a map over a box.

    Raises
    ------
    CalibrationError
        If the Jacobian vanishes or changes its sign: the map folds over, and one place on the sky
        has two pixels.
    """
    x = np.linspace(*box.x_bounds, 33)[None, :]
    y = np.linspace(*box.y_bounds, 33)[:, None]
    j = sky.jacobian(x=x, y=y)
    det = j[..., 0, 0] * j[..., 1, 1] - j[..., 0, 1] * j[..., 1, 0]
    if not np.isfinite(det).all():
        raise CalibrationError(
            f"The sky mapping of {name} is not defined at {int((~np.isfinite(det)).sum())} of "
            f"{det.size} positions over {box}; cut the image to where it is."
        )
    sign = float(np.sign(det[16, 16]))
    wrong = np.sign(det) != sign
    if sign == 0.0 or wrong.any():
        k = tuple(np.argwhere(wrong)[0]) if wrong.any() else (16, 16)
        raise CalibrationError(
            f"The sky mapping of {name} folds over: its Jacobian changes sign inside the image "
            f"(at {int(wrong.sum())} of {det.size} positions, first x={x[0, k[1]]:.6g}, "
            f"y={y[k[0], 0]:.6g}). Refit the distortion, or cut the image to where it is sound."
        )
    return sign


def overlap_box(sky_in: SkyMap, box_in: Box, sky_out: SkyMap, box_out: Box, margin: int) -> Box:
    """Return the output pixels that an input image may reach.

    Raises
    ------
    BoundsError
        If there are none.
    """
    xs = np.linspace(*box_in.x_bounds, _EDGE_POINTS)
    ys = np.linspace(*box_in.y_bounds, _EDGE_POINTS)
    x = np.concatenate([xs, xs, np.full(ys.size, xs[0]), np.full(ys.size, xs[-1])])
    y = np.concatenate([np.full(xs.size, ys[0]), np.full(xs.size, ys[-1]), ys, ys])
    inner = np.meshgrid(xs[::8], ys[::8])
    ra, dec = sky_in.sky(x=np.append(x, inner[0]), y=np.append(y, inner[1]))
    px, py = sky_out.pixel(ra, dec)
    good = np.isfinite(px) & np.isfinite(py)
    if good.any():
        low_x, high_x = np.floor(px[good].min()) - margin, np.ceil(px[good].max()) + margin
        low_y, high_y = np.floor(py[good].min()) - margin, np.ceil(py[good].max()) + margin
        x0, x1 = max(low_x, box_out.x_min), min(high_x, box_out.x_max)
        y0, y1 = max(low_y, box_out.y_min), min(high_y, box_out.y_max)
        if x0 <= x1 and y0 <= y1:
            return Box(int(x0), int(y0), int(x1 - x0) + 1, int(y1 - y0) + 1)
    where = "nowhere on the output's projection"
    if good.any():
        where = (
            f"on output pixels x {px[good].min():.0f} to {px[good].max():.0f}, "
            f"y {py[good].min():.0f} to {py[good].max():.0f}"
        )
    raise BoundsError(f"The image does not overlap the output: it lies {where}, not on {box_out}.")


def pixel_map(
    sky_in: SkyMap, box_in: Box, sky_out: SkyMap, box: Box, tolerance: float = TOLERANCE
) -> PixelMap:
    """Return the map of output pixels of a box to input pixels, with its error verified.

    The grid is made finer until the interpolated positions at the centres of all cells that fall
    on the input image are right to the tolerance; the finest has every pixel as a node.

    Parameters
    ----------
    sky_in, box_in
        Mapping and pixels of the input image.
    sky_out, box
        Mapping and pixels of the output.
    tolerance : float, optional
        In input pixels.

    Raises
    ------
    CalibrationError
        If the two maps have no common, finite area.
    """
    for step in _STEPS:
        if step > 4 and step > 2 * max(box.shape) and step != _STEPS[-1]:
            continue
        found = _sampled(sky_in, sky_out, box, step)
        if step == 1:
            return found
        x = found.x_zero + step * (np.arange(1, found.nodes.shape[2] - 2) + 0.5)
        y = found.y_zero + step * (np.arange(1, found.nodes.shape[1] - 2) + 0.5)
        gx, gy = (g.ravel() for g in np.meshgrid(x, y))
        model = found(gx, gy)
        truth = _exact(sky_in, sky_out, gx, gy)
        on = _near(box_in, model, 8.0) & np.isfinite(truth).all(axis=0)
        if not on.any():
            return found
        error = float(np.hypot(*(model[:2] - truth[:2])[:, on]).max())
        area = float(np.abs(model[2] / truth[2] - 1.0)[on].max())
        if error <= tolerance and area <= AREA_TOLERANCE:
            return PixelMap(box, step, found.nodes, found.x_zero, found.y_zero, error)
    raise AssertionError  # pragma: no cover


def _near(box: Box, position: np.ndarray, margin: float) -> np.ndarray:
    return np.asarray(
        (position[0] > box.x_min - margin)
        & (position[0] < box.x_max + margin)
        & (position[1] > box.y_min - margin)
        & (position[1] < box.y_max + margin)
    )


def _exact(sky_in: SkyMap, sky_out: SkyMap, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return input x, y and area ratio at output positions by the maps themselves."""
    ra, dec = sky_out.sky(x=x, y=y)
    px, py = sky_in.pixel(ra, dec)
    good = np.isfinite(px) & np.isfinite(py)
    area = np.full(x.shape, np.nan)
    if good.any():
        with np.errstate(all="ignore"):
            area[good] = sky_out.pixel_area(x=x[good], y=y[good]) / sky_in.pixel_area(
                x=px[good], y=py[good]
            )
    return np.stack([px, py, area])


def _sampled(sky_in: SkyMap, sky_out: SkyMap, box: Box, step: int) -> PixelMap:
    x_zero, y_zero = box.x_min - 0.5 - 1.5 * step, box.y_min - 0.5 - 1.5 * step
    if step == 1:
        x_zero, y_zero = box.x_min - 2.0, box.y_min - 2.0
    nx, ny = ((n + step - 1) // step + 5 for n in (box.nx, box.ny))
    x, y = np.meshgrid(x_zero + step * np.arange(nx), y_zero + step * np.arange(ny))
    nodes = _exact(sky_in, sky_out, x.ravel(), y.ravel()).reshape(3, ny, nx)
    _continue(nodes)
    # matrix products round differently with one thread and with several; a result must not
    nodes = np.round(nodes * _GRAINS) / _GRAINS
    return PixelMap(box, step, np.ascontiguousarray(nodes), x_zero, y_zero, 0.0)


def _continue(nodes: np.ndarray) -> None:
    """Continue the map to nodes where it is not defined, so that cells at the border are whole.

    The inverse of a distortion may be undefined just outside the image it belongs to. A polynomial
    through the defined nodes stands in; positions found by it are far off the image.
    """
    good = np.isfinite(nodes).all(axis=0) & (nodes[2] > 0)
    if good.all():
        return
    if good.sum() < 6:
        raise CalibrationError(
            "The two sky mappings have no common area: hardly any output pixel has a finite place "
            "on the input image. Check that both are of the same part of the sky."
        )
    ny, nx = good.shape
    u, v = np.meshgrid(np.linspace(-1, 1, nx), np.linspace(-1, 1, ny))
    degree = next(d for d in range(_DEGREE, -1, -1) if (d + 1) * (d + 2) <= good.sum())
    powers = [(i, j) for i in range(degree + 1) for j in range(degree + 1 - i)]
    design = np.stack([u**i * v**j for i, j in powers], axis=-1)
    solution = np.linalg.lstsq(design[good], nodes[:, good].T, rcond=None)[0]
    filled = design[~good] @ solution
    nodes[:, ~good] = filled.T
    nodes[2] = np.maximum(nodes[2], 1e-3 * np.median(nodes[2][good]))
