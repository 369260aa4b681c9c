"""DECam as its published solutions describe it: where its detectors lie and how they respond.

Pixel convention: 0-based, pixel centres on integers. Plane coordinates are degrees on the tangent
plane about the optical axis.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pogson.errors import MissingDataError, PogsonValueError
from pogson.fields import Box, ChebyshevField, Field, TableField
from pogson.formats.gbdes import (
    DetectorOffsets,
    PhotoMaps,
    PixelMaps,
    decam_detector_number,
    read_detector_offsets,
    read_photo_maps,
    read_pixel_maps,
)
from pogson.streams import stream
from pogson.survey import Detectors

__all__ = ["DecamCamera", "stand_in_templates"]

_BOX = Box(0, 0, 2048, 4096)
_HALF_WIDTH = 1.1  # degrees


def stand_in_templates(maps: PhotoMaps, *, rng_seed: int = 1) -> dict[str, Field]:
    """Draw the tables of tree rings and edges that a solution names but does not hold.

    Parameters
    ----------
    maps : PhotoMaps
        With the names and amplitudes of templates.
    rng_seed : int
        Of the ring patterns.

    Returns
    -------
    dict of str to TableField
        Magnitudes per unit amplitude.

    Notes
    -----
    Sizes after Plazas, Bernstein and Sheldon (2014, PASP 126, 750): rings of some tens of pixels
    and up to 6 mmag that grow with the distance from a centre off the corner of the detector;
    edges that fall to -0.07 mag within 20 pixels, with an overshoot of 6 mmag.

    Examples
    --------
    >>> node = {"Type": "Template", "LowTable": "N1", "Parameter": 0.9, "HasSplit": False}
    >>> rings = stand_in_templates(PhotoMaps({"g/N1/rings": node}))["N1"]
    >>> bool(0.002 < rings.values.max() < 0.02)
    True
    """
    out: dict[str, Field] = {}
    t = 8.0 * np.arange(19)
    edge = -0.085 * np.exp(-t / 13.0) + 0.017 * np.exp(-(((t - 48.0) / 24.0) ** 2))
    edge[-1] = 0.0
    for name in maps.missing_templates:
        if name.endswith("_left"):
            out[name] = TableField(maps.box, "x", 7.0, 8.0, edge)
        elif name.endswith("_right"):
            out[name] = TableField(maps.box, "x", 2040.0 - 144.0, 8.0, edge[::-1])
        else:
            out[name] = _rings(maps.box, name, rng_seed)
    return out


def _rings(box: Box, name: str, rng_seed: int) -> TableField:
    """Rings about a point beyond one of the corners on the right."""
    rng = stream(rng_seed, "rings", name)
    center = (box.nx + rng.uniform(40.0, 120.0), float(rng.choice([-90.0, box.ny + 90.0])))
    r = np.arange(0.0, np.hypot(2200.0, 4300.0), 2.0)
    scale = r / r[-1]
    value = np.zeros(r.size)
    for period in rng.uniform(30.0, 120.0, 6):
        phase = 2.0 * np.pi * (r / period + 0.6 * np.sin(r / rng.uniform(200.0, 500.0)))
        value += np.sin(phase + rng.uniform(0.0, 2.0 * np.pi))
    value *= 0.005 * scale / np.sqrt(3.0)
    return TableField(box, "radius", 0.0, 2.0, value, center)


@dataclass(frozen=True, eq=False)
class DecamCamera:
    """Geometry and response of DECam from published maps.

    Parameters
    ----------
    photo : PhotoMaps
        Star-flat solution, with all its templates.
    pixels : PixelMaps
        Astrometric solution.
    offsets : DetectorOffsets, optional
        Small motions of detectors with time.
    epoch : str
        Part of the names of the astrometric maps, for example ``g20130829``.
    detectors : sequence of str, optional
        Detector positions to use; all of both solutions by default.

    Raises
    ------
    MissingDataError
        If a map is not there.

    Examples
    --------
    >>> DecamCamera.__name__
    'DecamCamera'
    """

    photo: PhotoMaps
    pixels: PixelMaps
    offsets: DetectorOffsets | None = None
    epoch: str = "g20130829"
    detectors: Sequence[str] = ()
    _cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        names = tuple(self.detectors) or tuple(self.photo.detectors)
        for name in names:
            if f"{self.epoch}/{name}" not in self.pixels or name not in self.photo.detectors:
                raise MissingDataError(f"Detector {name!r} is not in both solutions.")
        object.__setattr__(self, "detectors", names)

    @classmethod
    def read(
        cls,
        folder: str | os.PathLike[str],
        *,
        detectors: Sequence[str] = (),
        epoch: str = "g20130829",
        rng_seed: int = 1,
    ) -> DecamCamera:
        """Read the published solutions from a folder, with stand-ins for missing templates.

        Parameters
        ----------
        folder : path-like
            With ``allsf.guts.photo``, ``y6a1.guts.astro`` and ``y6a1.affine.fits`` (the data set
            ``decam-starflat``).
        detectors : sequence of str, optional
            Detector positions; all by default.
        epoch : str
            Of the astrometric maps.
        rng_seed : int
            Of `stand_in_templates`.

        Raises
        ------
        FileFormatError, MissingDataError
            If a file is not there or not what its name says.
        """
        root = Path(folder)
        photo = read_photo_maps(root / "allsf.guts.photo")
        photo = photo.with_templates(stand_in_templates(photo, rng_seed=rng_seed))
        # astrometric rings move stars by hundredths of a pixel: left out
        pixels = read_pixel_maps(root / "y6a1.guts.astro", lenient=True)
        offsets = read_detector_offsets(root / "y6a1.affine.fits")
        return cls(photo, pixels, offsets, epoch, detectors)

    @cached_property
    def table(self) -> Detectors:
        """Detectors with their affine places in the focal plane (half width 1.1 degrees)."""
        affine = [self._affine(d) / _HALF_WIDTH for d in range(len(self.detectors))]
        numbers = [decam_detector_number(d) for d in self.detectors]
        return Detectors(np.array(numbers), (_BOX,) * len(numbers), np.stack(affine))

    def _affine(self, row: int) -> np.ndarray:
        """The best affine map of a detector to the plane, shape (2, 3)."""
        if ("affine", row) not in self._cache:
            x, y = (
                g.ravel() for g in np.meshgrid(np.linspace(0, 2047, 9), np.linspace(0, 4095, 9))
            )
            a = np.stack([x, y, np.ones(x.size)], axis=1)
            plane = np.stack(self.plane(row, x=x, y=y), axis=1)
            self._cache["affine", row] = np.linalg.lstsq(a, plane, rcond=None)[0].T
        found: np.ndarray = self._cache["affine", row]
        return found

    def _mapping(self, row: int) -> tuple[Field, Field]:
        """The map of a detector as Chebyshev fields, to 1e-10 degrees."""
        key = ("plane", row)
        if key not in self._cache:
            name = f"{self.epoch}/{self.detectors[row]}"
            parts = []
            for k in (0, 1):

                def one(x: np.ndarray, y: np.ndarray, k: int = k) -> np.ndarray:
                    return self.pixels.plane(name, x=x, y=y)[k]

                parts.append(_fitted(one))
            self._cache[key] = tuple(parts)
        found: tuple[Field, Field] = self._cache[key]
        return found

    def plane(
        self, row: int, *, x: Any, y: Any, mjd: float | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return plane positions of pixels of a detector (row number), at a time if given."""
        if mjd is not None and self.offsets is not None:
            x, y = self.offsets.pixels(self.detectors[row], mjd, x=x, y=y)
        u, v = self._mapping(row)
        return u(x=x, y=y, extrapolate=True), v(x=x, y=y, extrapolate=True)

    def find(
        self, row: int, *, u: np.ndarray, v: np.ndarray, mjd: float | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find the sources that fall on a detector.

        Parameters
        ----------
        row : int
            Row of the detector.
        u, v : numpy.ndarray
            Plane positions, degrees.
        mjd : float, optional
            Time.

        Returns
        -------
        index : numpy.ndarray of int
            Sources on the detector, 1 pixel or more from its edges.
        x, y : numpy.ndarray
            Their pixels.
        """
        a = self._affine(row)
        inverse = np.linalg.inv(a[:, :2])
        x, y = inverse @ np.stack([u - a[0, 2], v - a[1, 2]])
        near = np.flatnonzero((x > -50) & (x < 2098) & (y > -50) & (y < 4146))
        x, y = x[near], y[near]
        for _ in range(3):  # each gains three digits
            pu, pv = self.plane(row, x=x, y=y, mjd=mjd)
            dx, dy = inverse @ np.stack([u[near] - pu, v[near] - pv])
            x, y = x + dx, y + dy
        on = (x > 1.0) & (x < 2046.0) & (y > 1.0) & (y < 4094.0)
        return near[on], x[on], y[on]

    def area(self, row: int) -> Field:
        """Return the area of pixels relative to the middle of the camera (1 by convention)."""
        key = ("area", row)
        if key not in self._cache:

            def value(x: np.ndarray, y: np.ndarray) -> np.ndarray:
                (a, c), (b, d) = (
                    [p - q for p, q in zip(self.plane(row, x=x + dx, y=y + dy),
                                           self.plane(row, x=x - dx, y=y - dy), strict=True)]
                    for dx, dy in ((0.5, 0.0), (0.0, 0.5))
                )  # fmt: skip
                return np.asarray(np.abs(a * d - b * c))

            self._cache[key] = _fitted(value, 0.0) * (1.0 / self._reference_area)
        found: Field = self._cache[key]
        return found

    @cached_property
    def _reference_area(self) -> float:
        middle = [
            abs(float(np.linalg.det(self._affine(d)[:, :2]))) for d in range(len(self.detectors))
        ]
        return float(np.median(middle))

    def flat(self, band: str, row: int, *, parts: Sequence[str] = ()) -> Field:
        """Return the star flat of a detector: what to add to magnitudes at the reference colour.

        Parameters
        ----------
        band : str
            Band of the photometric solution.
        row : int
            Row of the detector.
        parts : sequence of str
            Of ``poly``, ``rings``, ``lowedge``, ``highedge``; all by default.

        Raises
        ------
        PogsonValueError
            If a part is not one of these.
        """
        every = ("poly", "rings", "lowedge", "highedge")
        wrong = [p for p in parts if p not in every]
        if wrong:
            raise PogsonValueError(f"No part {wrong[0]!r} of a star flat; allowed: {every}.")
        key = ("flat", band, row, tuple(parts))
        if key not in self._cache:
            names = [f"{band}/{self.detectors[row]}/{p}" for p in parts or every]
            total = self.photo.field(names[0])
            for name in names[1:]:
                total = total + self.photo.field(name)
            self._cache[key] = total
        found: Field = self._cache[key]
        return found

    def templates(self, band: str) -> tuple[dict[int, Field], ...]:
        """Return the rings and both edges of a band by detector number, per unit amplitude."""
        out: list[dict[int, Field]] = []
        for part in ("rings", "lowedge", "highedge"):
            one = {}
            for name in self.detectors:
                full = f"{band}/{name}/{part}"
                one[decam_detector_number(name)] = self.photo.field(full) * (
                    1.0 / self.photo.amplitude(full)[1]
                )
            out.append(one)
        return tuple(out)

    def color_slope(self, band: str, row: int) -> tuple[float, Field]:
        """Return the reference colour and the slope, magnitudes to add per magnitude of colour."""
        term = self.photo.color(f"{band}/{self.detectors[row]}/color")
        return term.reference, term.slope


def _fitted(function: Any, tolerance: float = 1e-10) -> ChebyshevField:
    """A Chebyshev field of order 6 that meets a tolerance on a grid between its nodes."""
    nodes = np.cos(np.pi * (np.arange(7) + 0.5) / 7)
    analysis = np.linalg.inv(np.polynomial.chebyshev.chebvander(nodes, 6))
    (x0, x1), (y0, y1) = _BOX.x_bounds, _BOX.y_bounds
    x, y = np.meshgrid(0.5 * (x0 + x1 + (x1 - x0) * nodes), 0.5 * (y0 + y1 + (y1 - y0) * nodes))
    values = function(x.ravel(), y.ravel()).reshape(7, 7)
    found = ChebyshevField(_BOX, analysis @ values @ analysis.T)
    gx, gy = (g.ravel() for g in np.meshgrid(np.linspace(0, 2047, 8), np.linspace(0, 4095, 9)))
    truth = function(gx, gy)
    worst = float(np.max(np.abs(found(x=gx, y=gy) - truth)))
    if worst > max(tolerance, 1e-7 * float(np.max(np.abs(truth)))):
        raise PogsonValueError(
            f"An astrometric map is not a polynomial of order 6 (left over: {worst:.3g}); leave "
            "its templates out."
        )
    return found
