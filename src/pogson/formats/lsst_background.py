"""Background models of the LSST pipelines (``bkgd-*.fits``, ``calexpBackground``).

A file holds layers; each is a small "statistics image" of the sky level in a grid of bins (with
mask and variance planes) and says how to make an image of it: a Chebyshev fit or an interpolation.
The background is the sum of the layers. It is a surface brightness: it was estimated on, and
subtracted from, an image flat-fielded to a uniform sky.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from pogson.errors import FileFormatError, PogsonError, choices
from pogson.fields import Box, ChebyshevField, Field, GridField
from pogson.formats.fits_access import open_fits, pixels
from pogson.units import parse_unit

__all__ = ["read_lsst_background", "read_lsst_background_layers"]

# Interpolation styles of lsst.afw.math.Interpolate that are supported.
_STYLES = {1: "linear", 2: "natural spline", 5: "Akima spline"}
_MIN_POINTS = {1: 2, 2: 3, 5: 5}

# Resampled nodes per bin: natural splines are reproduced exactly by any number; Akima splines,
# whose slopes switch where neighbouring differences change sign, to 0.4 % rms (10 % in the worst
# place) of the bin-to-bin scatter of white noise, which no real background comes near.
_REFINE = {1: 1, 2: 2, 5: 16}

_MAX_BINS = 4096


def read_lsst_background(path: str | os.PathLike[str], *, unit: Any = "adu") -> Field:
    """Read an LSST background list as one field, the sum of its layers.

    Parameters
    ----------
    path : path-like
        FITS file of layers, three extensions each.
    unit : unit-like, optional
        Unit of the image it belongs to; the file holds none.

    Returns
    -------
    background : Field
        Sky level per pixel as a surface brightness (`pogson.units.Measure.SURFACE_BRIGHTNESS`);
        pixels are 0-based as in the LSST pipelines.

    Raises
    ------
    FileFormatError
        If the file is damaged or no background list, or asks for an interpolation that is not
        supported.

    Examples
    --------
    A layer of 3 x 3 bins of 10 pixels, interpolated linearly, written as the pipelines do:

    >>> import tempfile, numpy as np
    >>> from astropy.io import fits
    >>> cards = {"BKGD_X0": 0, "BKGD_Y0": 0, "HIERARCH BKGD_WIDTH": 30,
    ...          "HIERARCH BKGD_HEIGHT": 30, "HIERARCH INTERPSTYLE": 1,
    ...          "HIERARCH APPROXSTYLE": -1}
    >>> bins = np.full((3, 3), 200.0) + np.arange(3)
    >>> planes = [bins, np.zeros((3, 3), np.int16), np.ones((3, 3))]
    >>> path = tempfile.mkdtemp() + "/bkgd.fits"
    >>> fits.HDUList(
    ...     [fits.PrimaryHDU(planes[0], fits.Header(cards.items()))]
    ...     + [fits.ImageHDU(p, fits.Header(cards.items())) for p in planes[1:]]
    ... ).writeto(path)
    >>> background = read_lsst_background(path)
    >>> background(x=[4.5, 14.5, 19.5], y=10.0)
    array([200. , 201. , 201.5])
    >>> background.unit
    Unit("adu")
    """
    layers = read_lsst_background_layers(path, unit=unit)
    total = layers[0]
    for layer in layers[1:]:
        total = total + layer
    return total


def read_lsst_background_layers(
    path: str | os.PathLike[str], *, unit: Any = "adu"
) -> tuple[Field, ...]:
    """Read the layers of an LSST background list, in the order of the file.

    Parameters
    ----------
    path, unit
        As `read_lsst_background`.

    Returns
    -------
    layers : tuple of Field
        A `ChebyshevField` for a layer that is a polynomial fit (fitted here to the bins, with the
        same weights), a `GridField` for an interpolated one.

    Raises
    ------
    FileFormatError
        As `read_lsst_background`.

    Notes
    -----
    The rules are those of ``lsst.afw.math.BackgroundMI``: bin edges at whole pixels, a Chebyshev
    fit of total order with inverse-variance weights if the layer has an approximation style, else
    interpolation of columns and then of rows, continued linearly beyond the outermost bin centres.
    An Akima spline becomes a cubic grid of sixteen nodes a bin, which differs from it by 0.4 %
    (rms) of the bin-to-bin scatter in the worst case, white noise; the others are exact. Bins
    without a finite value are left out.

    Examples
    --------
    Two constant layers, written as the pipelines do:

    >>> import tempfile
    >>> from astropy.io import fits
    >>> cards = {"BKGD_X0": 0, "BKGD_Y0": 0, "HIERARCH BKGD_WIDTH": 30,
    ...          "HIERARCH BKGD_HEIGHT": 30, "HIERARCH INTERPSTYLE": 1,
    ...          "HIERARCH APPROXSTYLE": -1}
    >>> header = fits.Header(cards.items())
    >>> hdus = fits.HDUList()
    >>> for level in (200.0, -1.5):
    ...     for plane in (np.full((3, 3), level), np.zeros((3, 3)), np.ones((3, 3))):
    ...         hdus.append(fits.ImageHDU(plane, header))
    >>> path = tempfile.mkdtemp() + "/bkgd.fits"
    >>> hdus.writeto(path)
    >>> [layer.mean() for layer in read_lsst_background_layers(path)]
    [200.0, -1.5]
    """
    with open_fits(path) as hdus:
        if len(hdus) == 0 or len(hdus) % 3:
            raise FileFormatError(
                f"{os.fspath(path)} has {len(hdus)} extensions; an LSST background list has three "
                f"for each layer (image, mask, variance)."
            )
        layers = []
        for i in range(0, len(hdus), 3):
            source = f"{os.fspath(path)}, layer {i // 3}"
            try:
                layers.append(_layer(hdus, i, source, unit))
            except FileFormatError:
                raise
            except PogsonError as error:
                raise FileFormatError(f"{source}: {error}") from error
    return tuple(layers)


def _layer(hdus: Any, first: int, source: str, unit: Any) -> Field:
    header = hdus[first].header
    box = Box(*(_whole(header, f"BKGD_{k}", source) for k in ("X0", "Y0", "WIDTH", "HEIGHT")))
    values = pixels(hdus[first], source, "statistics image").astype(np.float64)
    variance = pixels(hdus[first + 2], source, "variance plane").astype(np.float64)
    if values.shape != variance.shape or max(values.shape) > _MAX_BINS:
        raise FileFormatError(
            f"{source}: image {values.shape} and variance {variance.shape} do not fit."
        )
    if box.nx < values.shape[1] or box.ny < values.shape[0]:
        raise FileFormatError(f"{source}: {values.shape} bins are more than the pixels of {box}.")
    x = box.x_min + _bin_centers(box.nx, values.shape[1])
    y = box.y_min + _bin_centers(box.ny, values.shape[0])
    style = _whole(header, "APPROXSTYLE", source, default=-1)
    if style == 0:
        return _approximation(header, box, x, y, values, variance, source, unit)
    if style != -1:
        raise FileFormatError(f"{source}: APPROXSTYLE={style} is unknown; 0 and -1 are known.")
    return _interpolation(header, box, x, y, values, source, unit)


def _whole(header: Any, key: str, source: str, default: int | None = None) -> int:
    value = header.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > 2**31:
        raise FileFormatError(f"{source}: the header card {key} is {value!r}, not a whole number.")
    return value


def _bin_centers(size: int, bins: int) -> np.ndarray:
    """Return centres of the bins into which LSST divides ``size`` pixels, from the first pixel."""
    edges = np.minimum(((np.arange(bins) + 1) * size + bins // 2) // bins, size)
    starts = np.concatenate([[0], edges[:-1]])
    return starts + 0.5 * (edges - starts) - 0.5


def _approximation(
    header: Any,
    box: Box,
    x: np.ndarray,
    y: np.ndarray,
    values: np.ndarray,
    variance: np.ndarray,
    source: str,
    unit: Any,
) -> Field:
    order = _whole(header, "APPROXORDERX", source, default=1)
    order_y = _whole(header, "APPROXORDERY", source, default=-1)
    if not 0 <= order <= 50 or order_y not in (-1, order):
        raise FileFormatError(
            f"{source}: Chebyshev orders {order} and {order_y} must be equal, from 0 to 50."
        )
    weighted = header.get("APPROXWEIGHTING", True)
    with np.errstate(all="ignore"):
        weight = 1.0 / np.sqrt(variance) if weighted else np.ones_like(variance)
    good = np.isfinite(values) & np.isfinite(weight) & (weight > 0)
    if not good.any():
        raise FileFormatError(f"{source}: no bin has a finite value and a positive variance.")
    xx, yy = np.broadcast_arrays(x[np.newaxis, :], y[:, np.newaxis])
    return ChebyshevField.fit(
        box,
        xx[good],
        yy[good],
        values[good],
        order=order,
        total=True,
        weights=weight[good],
        unit=parse_unit(unit),
    )


def _interpolation(
    header: Any,
    box: Box,
    x: np.ndarray,
    y: np.ndarray,
    values: np.ndarray,
    source: str,
    unit: Any,
) -> Field:
    style = _whole(header, "INTERPSTYLE", source)
    if style not in _STYLES:
        raise FileFormatError(
            f"{source}: INTERPSTYLE={style} is not supported; supported: "
            f"{choices(f'{k} ({v})' for k, v in _STYLES.items())}."
        )
    x_fine = _refined(x, box.x_bounds, _REFINE[style])
    y_fine = _refined(y, box.y_bounds, _REFINE[style])
    columns = np.stack(
        [_along(y, values[:, i], y_fine, style, source) for i in range(x.size)], axis=1
    )
    fine = np.stack([_along(x, row, x_fine, style, source) for row in columns])
    kind = "linear" if style == 1 else "cubic"
    return GridField(box, x_fine, y_fine, fine, parse_unit(unit), interpolation=kind)


def _refined(nodes: np.ndarray, bounds: tuple[float, float], factor: int) -> np.ndarray:
    """Return nodes divided by ``factor`` and continued to the outer edges of the box."""
    inner = np.interp(
        np.arange((nodes.size - 1) * factor + 1) / factor, np.arange(nodes.size), nodes
    )
    # The middle node keeps the cubic grid's end condition ("not a knot") inside the linear part.
    low, high = (np.array([b, 0.5 * (b + n)]) for b, n in zip(bounds, nodes[[0, -1]], strict=True))
    return np.concatenate([low, inner, high[::-1]])


def _along(
    nodes: np.ndarray, values: np.ndarray, where: np.ndarray, style: int, source: str
) -> np.ndarray:
    """Interpolate one column or row, continued linearly beyond its outermost finite nodes."""
    from scipy.interpolate import Akima1DInterpolator, CubicSpline

    good = np.isfinite(values)
    t, v = nodes[good], values[good]
    if t.size < _MIN_POINTS[style]:
        raise FileFormatError(
            f"{source}: a row or column has {t.size} finite bins; a {_STYLES[style]} needs "
            f"{_MIN_POINTS[style]}."
        )
    curve: Callable[..., Any]
    if style == 1:
        slopes = np.diff(v) / np.diff(t)
        inside = np.interp(where, t, v)
        first, last = slopes[0], slopes[-1]
    else:
        spline = CubicSpline(t, v, bc_type="natural") if style == 2 else Akima1DInterpolator(t, v)
        curve = spline
        inside = curve(np.clip(where, t[0], t[-1]))
        first, last = (float(spline.derivative()(end)) for end in (t[0], t[-1]))
    inside = np.where(where < t[0], v[0] + first * (where - t[0]), inside)
    return np.where(where > t[-1], v[-1] + last * (where - t[-1]), inside)
