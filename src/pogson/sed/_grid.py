"""Sampled curves on wavelength grids: checks, interpolation and quadrature shared by the room."""

from __future__ import annotations

from typing import Any

import astropy.units as u
import numpy as np

from pogson.errors import PogsonValueError
from pogson.units import strip_unit

# Four Gauss-Legendre points on segments with a wavelength ratio of at most 1.05 integrate a
# quadratic over lambda or lambda^2 to better than 1e-13 (the error falls like 80**(-8)).
_LARGEST_RATIO = 1.05
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(4)


def check_wavelength(wavelength: Any, what: str) -> np.ndarray:
    """Return read-only float64 wavelengths in Angstrom, or raise when they are not a grid."""
    lam = np.array(strip_unit(wavelength, u.AA, "wavelength"), np.float64)
    if lam.ndim != 1 or lam.size < 2:
        raise PogsonValueError(
            f"The wavelengths of {what} must be a list of at least 2 numbers; got shape "
            f"{lam.shape}."
        )
    if not (np.all(np.isfinite(lam)) and lam[0] > 0 and np.all(np.diff(lam) > 0)):
        raise PogsonValueError(
            f"The wavelengths of {what} must be finite, positive and strictly increasing "
            f"(Angstrom); they run from {lam[0]:g} to {lam[-1]:g} with "
            f"{int(np.sum(~(np.diff(lam) > 0)))} steps that do not increase. Sort them and drop "
            f"repeated values first."
        )
    lam.flags.writeable = False
    return lam


def check_values(values: Any, lam: np.ndarray, what: str) -> np.ndarray:
    """Return read-only float64 samples, one a wavelength, all finite."""
    out = np.array(values, np.float64)
    if out.shape != lam.shape:
        raise PogsonValueError(
            f"{what} has shape {out.shape} but there are {lam.size} wavelengths; give one value "
            f"for each."
        )
    bad = ~np.isfinite(out)
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        raise PogsonValueError(
            f"{what} has {int(bad.sum())} values that are not finite, the first at "
            f"{lam[i]:g} Angstrom. Interpolate over them or cut the range."
        )
    out.flags.writeable = False
    return out


def union_grid(first: np.ndarray, second: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return all samples of both grids within [low, high], ends included, long steps divided."""
    both = np.concatenate([first, second])
    edges = np.unique(np.concatenate([both[(both > low) & (both < high)], [low, high]]))
    ratio = edges[1:] / edges[:-1]
    pieces = np.maximum(np.ceil(np.log(ratio) / np.log(_LARGEST_RATIO)).astype(int), 1)
    if np.all(pieces == 1):
        return edges
    cut = [
        np.geomspace(a, b, n + 1)[1:-1]
        for a, b, n in zip(edges[:-1], edges[1:], pieces, strict=True)
        if n > 1
    ]
    return np.unique(np.concatenate([edges, *cut]))


def quadrature(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the nodes and weights of four-point Gauss-Legendre on every segment, flattened."""
    half = 0.5 * np.diff(edges)[:, None]
    middle = 0.5 * (edges[1:] + edges[:-1])[:, None]
    return (middle + half * _NODES).ravel(), (half * _WEIGHTS).ravel()
