"""Astrometric maps of ``gbdes`` and ``pixmappy``: from pixels to the tangent plane.

The files count pixels from 1; everything here is 0-based, with pixel centres on integers. See
Bernstein et al. (2017, PASP 129, 074503).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pogson.errors import FileFormatError, MissingDataError
from pogson.fields import Field, TableField
from pogson.formats._gbdes_nodes import Collection, collection, numbers, polynomial

__all__ = ["DetectorOffsets", "PixelMaps", "read_detector_offsets", "read_pixel_maps"]


class PixelMaps(Collection):
    """Astrometric maps of one camera: from pixels to the tangent plane, degrees.

    Made by `read_pixel_maps`.

    Parameters
    ----------
    nodes : mapping
        Settings of each map.
    source : str
        Name of the file, for messages.
    templates : mapping of str to Field, optional
        Known templates; maps whose template is not known are left out if ``lenient``.
    lenient : bool
        Leave out templates that are not known instead of raising.

    Notes
    -----
    Templates shift pixels along their own axis, radial ones away from their centre. Coloured maps
    (differential refraction and lateral colour, milliarcseconds) are evaluated at their reference
    colour, where they vanish.

    Examples
    --------
    >>> node = {"Type": "Linear", "Coefficients": [1, 0.5, 0, 2, 0, 0.5]}
    >>> maps = PixelMaps({"a": node}, "made up")
    >>> maps.plane("a", x=1.0, y=3.0)
    (array(2.), array(4.))
    """

    def __init__(
        self,
        nodes: Mapping[str, Any],
        source: str = "maps",
        templates: Mapping[str, Field] | None = None,
        lenient: bool = False,
    ) -> None:
        super().__init__(nodes, source, templates)
        self.lenient = lenient

    def __repr__(self) -> str:
        return f"<PixelMaps: {len(self)} maps, {len(self.missing_templates)} templates not given>"

    def plane(self, name: str, *, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return positions on the tangent plane (or on pixels, for maps of pixels to pixels).

        Parameters
        ----------
        name : str
            A map, or a composite of maps.
        x, y : array_like
            Pixels (0-based, centres on integers).

        Raises
        ------
        MissingDataError
            If a template is needed that was not given.
        FileFormatError
            If a map is of a kind that is not read.
        """
        xa, ya = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(y, np.float64))
        u, v = xa + 1.0, ya + 1.0
        for part in self.elements(name):
            u, v = self._apply(part, u, v)
        return np.asarray(u), np.asarray(v)

    def _apply(self, name: str, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        node = self.node(name)
        kind = node["Type"]
        if kind in ("Identity", "Color"):
            return x, y
        if kind == "Constant":
            dx, dy = self._vector(node, "Parameters", name, 2)
            return x + dx, y + dy
        if kind == "Linear":
            b = self._vector(node, "Coefficients", name, 6)
            return b[0] + b[1] * x + b[2] * y, b[3] + b[4] * x + b[5] * y
        if kind == "Poly":
            px, py = (polynomial(node, k, name) for k in ("XPoly", "YPoly"))
            return px(x, y), py(x, y)
        if kind == "Template":
            return self._shifted(node, name, x, y)
        raise FileFormatError(f"Map {name!r} is of type {kind!r}, which is not read.")

    def _vector(self, node: Mapping[str, Any], key: str, name: str, n: int) -> np.ndarray:
        out = numbers(node, key, name)
        if out.size != n:
            raise FileFormatError(f"Map {name!r}: {key} has {out.size} numbers, not {n}.")
        return out

    def _shifted(
        self, node: Mapping[str, Any], name: str, x: np.ndarray, y: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        found = self._template(node, name)
        if found is None:
            if self.lenient:
                return x, y
            raise MissingDataError(
                f"Map {name!r} needs template {node.get('LowTable')!r} of file "
                f"{node.get('Filename')!r}; give it, or read with lenient=True to leave it out."
            )
        assert isinstance(found, TableField)
        p = found._parameters()
        shift = found(x=x - 1.0, y=y - 1.0, extrapolate=True)
        if p["axis"] == "x":
            return x + shift, y
        if p["axis"] == "y":
            return x, y + shift
        dx, dy = x - 1.0 - p["center"][0], y - 1.0 - p["center"][1]
        r = np.maximum(np.hypot(dx, dy), 1e-9)
        return x + shift * dx / r, y + shift * dy / r


def read_pixel_maps(
    path: str | os.PathLike[str],
    *,
    templates: Mapping[str, Field] | None = None,
    lenient: bool = False,
) -> PixelMaps:
    r"""Read the astrometric maps of a camera (``*.guts.astro``, ``*.astro``).

    Parameters
    ----------
    path : path-like
        YAML file with the entry ``PixelMapCollection``.
    templates : mapping of str to Field, optional
        From `read_map_templates`.
    lenient : bool
        Leave out templates (tree rings, edges) that are not known.

    Raises
    ------
    FileFormatError
        If the file is not such a collection.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "a.astro"
    >>> _ = file.write_text("PixelMapCollection: x\nN1: {Type: Identity}")
    >>> read_pixel_maps(file).plane("N1", x=0.0, y=0.0)
    (array(1.), array(1.))
    """
    return PixelMaps(collection(path, "PixelMapCollection"), str(path), templates, lenient)


@dataclass(frozen=True, eq=False)
class DetectorOffsets:
    """Small affine changes of detectors with time, as in ``y6a1.affine.fits``.

    Parameters
    ----------
    position : numpy.ndarray of str, shape (n,)
        Detector positions.
    mjd : numpy.ndarray, shape (n,)
        Start of validity.
    terms : numpy.ndarray, shape (n, 6)
        x0, y0 (pixels), magnification, e1, e2, rotation.

    Examples
    --------
    >>> one = DetectorOffsets(np.array(["N1"]), np.array([50000.0]), np.zeros((1, 6)))
    >>> one.pixels("N1", 55000.0, x=3.0, y=4.0)
    (array(3.), array(4.))
    """

    position: np.ndarray
    mjd: np.ndarray
    terms: np.ndarray

    def pixels(self, position: str, mjd: float, *, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return pixels moved to where the camera's maps expect them.

        Parameters
        ----------
        position : str
            Detector position.
        mjd : float
            Time of the exposure; before the first entry, the first holds.
        x, y : array_like
            Pixels (0-based).

        Raises
        ------
        MissingDataError
            If the table has no such detector.
        """
        rows = np.flatnonzero(self.position == position)
        if not rows.size:
            raise MissingDataError(f"No offsets of detector {position!r} in the table.")
        rows = rows[np.argsort(self.mjd[rows], kind="stable")]
        at = max(int(np.searchsorted(self.mjd[rows], mjd, side="right")) - 1, 0)
        x0, y0, mag, e1, e2, rot = self.terms[rows[at]]
        xa, ya = np.asarray(x, np.float64), np.asarray(y, np.float64)
        dx, dy = xa - 1023.5, ya - 2047.5
        return (
            np.asarray(xa - x0 + (mag + e1) * dx + (e2 + rot) * dy),
            np.asarray(ya - y0 + (e2 - rot) * dx + (mag - e1) * dy),
        )


def read_detector_offsets(path: str | os.PathLike[str]) -> DetectorOffsets:
    """Read a FITS table of affine changes of detectors (``y6a1.affine.fits``).

    Raises
    ------
    FileFormatError
        If columns are missing.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from astropy.table import Table
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "affine.fits"
    >>> names = ["detpos", "mjd", "x0", "y0", "mag", "e1", "e2", "rot"]
    >>> Table(rows=[["N1", 56000.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]], names=names).write(file)
    >>> read_detector_offsets(file).pixels("N1", 56001.0, x=1023.5, y=0.0)
    (array(1022.5), array(0.))
    """
    from astropy.io import fits

    try:
        data = fits.getdata(path, 1)
        terms = [np.asarray(data[n], np.float64) for n in ("x0", "y0", "mag", "e1", "e2", "rot")]
        position = np.char.strip(np.asarray(data["detpos"], np.str_))
        mjd = np.asarray(data["mjd"], np.float64)
    except (OSError, KeyError, IndexError, TypeError, ValueError) as error:
        raise FileFormatError(f"{path} is no table of detector offsets: {error}") from error
    return DetectorOffsets(position, mjd, np.stack(terms, axis=1))
