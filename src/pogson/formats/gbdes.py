"""Photometric and astrometric maps of ``gbdes`` and ``pixmappy``: YAML collections of named maps.

The files hold one mapping per name: polynomials, colour terms, tabulated templates (tree rings,
edges) and composites of them. They count pixels from 1; everything here is 0-based, with pixel
centres on integers. Only plain YAML is read: tags that make objects are refused.

Photometric maps give the magnitude to add to an instrumental one (Bernstein et al. 2018, PASP 130,
054501); astrometric ones lead from pixels to the tangent plane in degrees (Bernstein et al. 2017,
PASP 129, 074503).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pogson.errors import FileFormatError, MissingDataError, PogsonValueError
from pogson.fields import Box, ChebyshevField, Field
from pogson.formats._gbdes_nodes import (
    Collection,
    Polynomial,
    collection,
    mapping,
    number,
    polynomial,
    read_map_templates,
)
from pogson.formats.gbdes_astrometry import (
    DetectorOffsets,
    PixelMaps,
    read_detector_offsets,
    read_pixel_maps,
)

__all__ = [
    "ColorMap",
    "DetectorOffsets",
    "PhotoMaps",
    "PixelMaps",
    "decam_detector_number",
    "read_detector_offsets",
    "read_map_templates",
    "read_photo_maps",
    "read_pixel_maps",
]

# CCD numbers of the rows of DECam's focal plane, by detector position, south to north
_ROWS = ((29, 31), (25, 28), (20, 24), (14, 19), (8, 13), (1, 7))


def _detector_numbers() -> dict[str, int]:
    order = [f"S{i}" for a, b in _ROWS for i in range(a, b + 1)]
    order += [f"N{i}" for i in range(1, 32)]
    return {name: number for number, name in enumerate(order, start=1)}


_NUMBERS = _detector_numbers()


def decam_detector_number(position: str) -> int:
    """Return the number (CCDNUM, 1 to 62) of a DECam detector by its position (DETPOS).

    Raises
    ------
    MissingDataError
        If there is no such position.

    Examples
    --------
    >>> decam_detector_number("S29"), decam_detector_number("N4"), decam_detector_number("N31")
    (1, 35, 62)
    """
    if position not in _NUMBERS:
        raise MissingDataError(f"No DECam detector {position!r}; they are S1 to S31, N1 to N31.")
    return _NUMBERS[position]


@dataclass(frozen=True, eq=False)
class ColorMap:
    """A magnitude proportional to the colour from a reference colour.

    Parameters
    ----------
    reference : float
        Colour at which the term vanishes, magnitudes.
    slope : Field
        Magnitudes per magnitude of colour over a detector.

    Examples
    --------
    >>> from pogson.fields import ConstantField
    >>> ColorMap(0.6, ConstantField(Box(0, 0, 9, 9), 0.01)).reference
    0.6
    """

    reference: float
    slope: Field


class PhotoMaps(Collection):
    """Photometric maps of one camera: what to add to instrumental magnitudes.

    Made by `read_photo_maps`. Names are as in the file, for example ``g/N1/poly``.

    Parameters
    ----------
    nodes : mapping
        Settings of each map.
    source : str
        Name of the file, for messages.
    templates : mapping of str to Field, optional
        Known templates by name.
    box : Box
        Pixel box of a detector.

    Examples
    --------
    >>> maps = PhotoMaps({"g/N1/poly": {"Type": "Constant", "Parameter": 0.02}}, "made up")
    >>> maps.field("g/N1/poly")(x=0.0, y=0.0)
    0.02
    """

    def __init__(
        self,
        nodes: Mapping[str, Any],
        source: str = "maps",
        templates: Mapping[str, Field] | None = None,
        box: Box | None = None,
    ) -> None:
        super().__init__(nodes, source, templates)
        self.box = Box(0, 0, 2048, 4096) if box is None else box

    def __repr__(self) -> str:
        return (
            f"<PhotoMaps: {len(self)} maps, bands {', '.join(self.bands)}, "
            f"{len(self.detectors)} detectors, {len(self.missing_templates)} templates not given>"
        )

    @property
    def bands(self) -> list[str]:
        """Bands, in the order of the file (first part of the names)."""
        return list(dict.fromkeys(n.split("/")[0] for n in self._nodes if n.count("/") == 2))

    @property
    def detectors(self) -> list[str]:
        """Detector positions, in the order of the file (second part of the names)."""
        return list(dict.fromkeys(n.split("/")[1] for n in self._nodes if n.count("/") == 2))

    def with_templates(self, templates: Mapping[str, Field]) -> PhotoMaps:
        """Return the maps with more templates known.

        Parameters
        ----------
        templates : mapping of str to Field
            By the name that the maps use (``LowTable``), magnitudes per unit amplitude.
        """
        return PhotoMaps(self._nodes, self._source, {**self._templates, **templates}, self.box)

    def amplitude(self, name: str) -> tuple[str, float]:
        """Return the template of a map and its amplitude.

        Raises
        ------
        PogsonValueError
            If the map is not a template.
        """
        node = self.node(name)
        if node["Type"] != "Template":
            raise PogsonValueError(f"Map {name!r} is a {node['Type']}, not a Template.")
        return str(node.get("LowTable")), number(node, "Parameter", name)

    def field(self, name: str) -> Field:
        """Return the magnitudes that a map adds, for a star of the reference colour.

        Parameters
        ----------
        name : str
            A map, or a composite of maps.

        Returns
        -------
        Field
            Exact: polynomials as Chebyshev fields, templates as tables. Colour terms vanish.

        Raises
        ------
        MissingDataError
            If there is no such map, or it needs a template that was not given.
        """
        total: Field | None = None
        for part in self.elements(name):
            one = self._one(part)
            if one is not None:
                total = one if total is None else total + one
        return ChebyshevField(self.box, [[0.0]]) if total is None else total

    def _one(self, name: str) -> Field | None:
        node = self.node(name)
        kind = node["Type"]
        if kind in ("Identity", "Color"):
            return None
        if kind == "Constant":
            return ChebyshevField(self.box, [[number(node, "Parameter", name)]])
        if kind == "Poly":
            return self._chebyshev(polynomial(node, "Poly", name))
        if kind == "Template":
            found = self._template(node, name)
            if found is None:
                raise MissingDataError(
                    f"Map {name!r} needs template {node.get('LowTable')!r} of file "
                    f"{node.get('Filename')!r}; give it with with_templates()."
                )
            return found
        raise FileFormatError(f"A {kind} map ({name!r}) has no meaning in magnitudes.")

    def _chebyshev(self, p: Polynomial) -> Field:
        to_chebyshev = np.polynomial.chebyshev.poly2cheb
        n = max(p.coefficients.shape)
        c = np.zeros((n, n))
        c[: p.coefficients.shape[0], : p.coefficients.shape[1]] = p.coefficients
        for axis in (0, 1):  # poly2cheb drops trailing zeros
            c = np.apply_along_axis(
                lambda v: np.pad(k := to_chebyshev(v), (0, n - k.size)), axis, c
            )
        x0, x1, y0, y1 = p.limits
        return ChebyshevField(self.box, c.T, domain=(x0 - 1.0, x1 - 1.0, y0 - 1.0, y1 - 1.0))

    def color(self, name: str) -> ColorMap:
        """Return a colour term.

        Raises
        ------
        PogsonValueError
            If the map is not one.
        """
        node = self.node(name)
        if node["Type"] != "Color":
            raise PogsonValueError(f"Map {name!r} is a {node['Type']}, not a Color term.")
        function = dict(mapping(node.get("Function"), name))
        if function.get("Type") == "Poly":
            slope = self._chebyshev(polynomial(function, "Poly", name))
        elif function.get("Type") == "Constant":
            slope = ChebyshevField(self.box, [[number(function, "Parameter", name)]])
        else:
            raise FileFormatError(f"Map {name!r}: a colour term of {function.get('Type')!r}.")
        return ColorMap(number(node, "Reference", name), slope)

    def correction(self, name: str, *, x: Any, y: Any, color: Any = None) -> np.ndarray:
        """Return what a map adds to instrumental magnitudes.

        Parameters
        ----------
        name : str
            A map, or a composite of maps.
        x, y : array_like
            Pixels (0-based, centres on integers).
        color : array_like, optional
            Colour of the stars; needed by colour terms.

        Raises
        ------
        MissingDataError
            If a template or the colour is needed and not given.
        """
        xa, ya = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(y, np.float64))
        out = np.zeros(xa.shape)
        for part in self.elements(name):
            if self.node(part)["Type"] == "Color":
                if color is None:
                    raise MissingDataError(f"Map {part!r} is a colour term; give color=.")
                term = self.color(part)
                shift = np.asarray(color, np.float64) - term.reference
                out = out + shift * term.slope(x=xa, y=ya, extrapolate=True)
            else:
                one = self._one(part)
                out = out if one is None else out + one(x=xa, y=ya, extrapolate=True)
        return np.asarray(out)


def read_photo_maps(
    path: str | os.PathLike[str],
    *,
    templates: Mapping[str, Field] | None = None,
    box: Box | None = None,
) -> PhotoMaps:
    r"""Read the photometric maps of a camera (``*.guts.photo``, ``*.photo``).

    Parameters
    ----------
    path : path-like
        YAML file with the entry ``PhotoMapCollection``.
    templates : mapping of str to Field, optional
        From `read_map_templates`.
    box : Box, optional
        Pixel box of a detector; 2048 x 4096 by default.

    Raises
    ------
    FileFormatError
        If the file is not such a collection.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "a.photo"
    >>> _ = file.write_text("PhotoMapCollection: x\nr/N1/poly: {Type: Constant, Parameter: 0.1}")
    >>> read_photo_maps(file)
    <PhotoMaps: 1 maps, bands r, 1 detectors, 0 templates not given>
    """
    return PhotoMaps(collection(path, "PhotoMapCollection"), str(path), templates, box)
