"""What the photometric and astrometric maps of ``gbdes`` share: YAML, polynomials, templates."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pogson.errors import FileFormatError, MissingDataError, PogsonValueError, choices
from pogson.fields import Box, Field, TableField

_MAX_BYTES = 200_000_000
_MAX_DEPTH = 20
# small files that expand without end
_ALIAS = re.compile(r"^[^#\n]*[\s\[{,]\*\w", re.MULTILINE)
_KINDS = ("Identity", "Constant", "Linear", "Poly", "Template", "Color", "Composite", "Piecewise")


@dataclass(frozen=True, eq=False)
class Polynomial:
    """A polynomial of pixels scaled to [-1, 1]; coefficients ``[power of x, power of y]``."""

    limits: tuple[float, float, float, float]
    coefficients: np.ndarray

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        x0, x1, y0, y1 = self.limits
        xs = (2.0 * x - x0 - x1) / (x1 - x0)
        ys = (2.0 * y - y0 - y1) / (y1 - y0)
        return np.asarray(np.polynomial.polynomial.polyval2d(xs, ys, self.coefficients))


def _load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a YAML file of named mappings; only plain values."""
    import yaml  # type: ignore[import-untyped]

    source = Path(path)
    if source.stat().st_size > _MAX_BYTES:
        raise FileFormatError(f"{source} is larger than {_MAX_BYTES} bytes; not a map collection.")
    text = source.read_text(encoding="utf-8", errors="replace")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    if _ALIAS.search(text):
        raise FileFormatError(f"{source} uses YAML aliases; map collections have none.")
    try:
        data = yaml.load(text, Loader=loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise FileFormatError(f"{source} is not readable YAML: {error}") from error
    if not isinstance(data, dict):
        raise FileFormatError(f"{source} holds {type(data).__name__}, not a mapping of names.")
    return {str(k): v for k, v in data.items()}


def number(node: Mapping[str, Any], key: str, where: str) -> float:
    value = node.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise FileFormatError(f"Map {where!r}: {key} must be a finite number, not {value!r}.")
    return float(value)


def numbers(node: Mapping[str, Any], key: str, where: str) -> np.ndarray:
    value = node.get(key)
    try:
        out = np.array(value, np.float64)
    except (TypeError, ValueError):
        out = np.full(0, np.nan)
    if out.ndim != 1 or not out.size or not np.isfinite(out).all():
        raise FileFormatError(f"Map {where!r}: {key} must be a list of finite numbers.")
    return out


def mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise FileFormatError(f"Map {where!r} is {type(value).__name__}; it must be a mapping.")
    return value


def polynomial(node: Mapping[str, Any], key: str, where: str) -> Polynomial:
    if node.get("UsePixelCoords", True) is not True:
        raise FileFormatError(
            f"Map {where!r} uses exposure coordinates; only maps of detector pixels are read."
        )
    a, b, c0, d0 = (number(node, k, where) for k in ("XMin", "XMax", "YMin", "YMax"))
    limits = (a, b, c0, d0)
    if not (limits[1] > limits[0] and limits[3] > limits[2]):
        raise FileFormatError(f"Map {where!r}: the limits {limits} are empty.")
    p = mapping(node.get(key), where)
    nx = _order(p, "OrderX", where)
    c = numbers(p, "Coefficients", where)
    if not p.get("SumOrder", True):
        ny = _order(p, "OrderY", where)
        if c.size != (nx + 1) * (ny + 1):
            raise FileFormatError(f"Map {where!r}: {c.size} coefficients for {nx} by {ny}.")
        return Polynomial(limits, c.reshape(nx + 1, ny + 1))
    out = np.zeros((nx + 1, nx + 1))
    # 1, x, y, x2, xy, y2, ...: by total degree, falling powers of x
    pairs = [(d - j, j) for d in range(nx + 1) for j in range(d + 1)]
    if c.size != len(pairs):
        raise FileFormatError(f"Map {where!r}: {c.size} coefficients for total degree {nx}.")
    for value, (i, j) in zip(c, pairs, strict=True):
        out[i, j] = value
    return Polynomial(limits, out)


def _order(node: Mapping[str, Any], key: str, where: str) -> int:
    value = node.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 30:
        raise FileFormatError(f"Map {where!r}: {key} must be a whole number 0 to 30: {value!r}.")
    return value


def read_map_templates(path: str | os.PathLike[str], *, box: Box) -> dict[str, TableField]:
    """Read a template library, such as tree rings and edges.

    Parameters
    ----------
    path : path-like
        YAML file of tables of x, y or radius.
    box : Box
        Pixel box of the detectors (0-based).

    Returns
    -------
    dict of str to TableField
        By template name, per unit amplitude.

    Raises
    ------
    FileFormatError
        If the file is not such a library.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "rings.yaml"
    >>> _ = file.write_text("N1: {Axis: X, ArgStart: 1, ArgStep: 4, Values: [0.0, 0.01]}")
    >>> read_map_templates(file, box=Box(0, 0, 8, 8))["N1"](x=2.0, y=0.0)
    0.005
    """
    return {name: _table(mapping(node, name), name, box) for name, node in _load(path).items()}


def _table(node: Mapping[str, Any], name: str, box: Box) -> TableField:
    axes = {"X": "x", "Y": "y", "R": "radius"}
    axis = str(node.get("Axis"))
    if axis not in axes:
        raise FileFormatError(f"Template {name!r}: Axis is {axis!r}; allowed: {choices(axes)}.")
    center = (0.0, 0.0)
    start, step = number(node, "ArgStart", name), number(node, "ArgStep", name)
    if axis == "R":
        center = (number(node, "XCenter", name) - 1.0, number(node, "YCenter", name) - 1.0)
    else:
        start -= 1.0
    try:
        return TableField(box, axes[axis], start, step, numbers(node, "Values", name), center)
    except PogsonValueError as error:
        raise FileFormatError(f"Template {name!r}: {error}") from error


class Collection:
    """Named maps with composites resolved."""

    def __init__(
        self, nodes: Mapping[str, Any], source: str, templates: Mapping[str, Field] | None
    ) -> None:
        self._nodes = dict(nodes)
        self._source = source
        self._templates = dict(templates or {})

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, name: object) -> bool:
        return name in self._nodes

    @property
    def names(self) -> list[str]:
        """Names of all maps, in the order of the file."""
        return list(self._nodes)

    @property
    def missing_templates(self) -> list[str]:
        """Templates that maps name and that were not given, each once."""
        wanted = (n.get("LowTable") for n in self._nodes.values() if n["Type"] == "Template")
        return sorted({str(w) for w in wanted if w not in self._templates})

    def node(self, name: str) -> Mapping[str, Any]:
        """Return the settings of a map as in the file.

        Raises
        ------
        MissingDataError
            If there is no such map.
        """
        if name not in self._nodes:
            near = [n for n in self._nodes if n.split("/")[0] == name.split("/")[0]][:4]
            hint = f" (there are {choices(near)}, ...)" if near else ""
            raise MissingDataError(f"No map {name!r} in {self._source}{hint}.")
        found: Mapping[str, Any] = self._nodes[name]
        return found

    def elements(self, name: str) -> list[str]:
        """Return the names of the simple maps that a map applies, in order.

        Raises
        ------
        FileFormatError
            If composites contain themselves.
        """
        return self._elements(name, 0)

    def _elements(self, name: str, depth: int) -> list[str]:
        if depth > _MAX_DEPTH:
            raise FileFormatError(f"Map {name!r} is nested too deep, or contains itself.")
        node = self.node(name)
        if node["Type"] != "Composite":
            return [name]
        parts = node.get("Elements")
        if not isinstance(parts, list):
            raise FileFormatError(f"Composite {name!r} needs a list of Elements, not {parts!r}.")
        out: list[str] = []
        for part in parts:
            out += self._elements(str(part), depth + 1)
        if len(out) > 1000:
            raise FileFormatError(f"Composite {name!r} has more than 1000 elements.")
        return out

    def _template(self, node: Mapping[str, Any], name: str) -> Field | None:
        """The template times its amplitude; None if the template is not known."""
        if node.get("HasSplit"):
            raise FileFormatError(f"Map {name!r} is a split template, which is not read.")
        found = self._templates.get(str(node.get("LowTable")))
        return None if found is None else found * number(node, "Parameter", name)


def collection(path: str | os.PathLike[str], head: str) -> dict[str, Any]:
    data = _load(path)
    if head not in data:
        raise FileFormatError(f"{path} is no {head}: the entry of that name is not there.")
    del data[head]
    for name, node in data.items():
        kind = mapping(node, name).get("Type")
        if kind not in _KINDS:
            raise FileFormatError(f"Map {name!r} has type {kind!r}; known: {choices(_KINDS)}.")
    return data
