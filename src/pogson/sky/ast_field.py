"""Fields held as AST mappings (LSST's ``TransformBoundedField``, as jointcal writes it)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import astropy.units as u
import numpy as np

from pogson.errors import PogsonValueError
from pogson.fields import Box, Field, register_kind
from pogson.sky.ast_map import _ast, _first_line, read_ast_object, write_ast_object
from pogson.units import parse_unit

__all__ = ["AstField"]


@register_kind
class AstField(Field):
    """A field that is an AST mapping from two pixel axes to one number, evaluated exactly.

    Needs the AST library (``pip install 'pogson[ast]'``). To get rid of that need, approximate it:
    ``ChebyshevField.approximate(field, order)``. A description of such a field can be read once
    `pogson.sky` has been imported.

    Parameters
    ----------
    box : Box
        Pixel box (0-based, pixel centres on integers).
    ast_text : str
        Text dump of an AST Mapping or FrameSet with two inputs and one output.
    scale : float, optional
        Factor on the mapping's output.
    unit : unit-like, optional
        Unit of the values.

    Raises
    ------
    PogsonValueError
        If the text is no such mapping, or the scale is not finite.
    MissingDataError
        If the AST library is not installed.

    Examples
    --------
    >>> text = '''Begin MatrixMap
    ...   Nin = 2
    ...   Nout = 1
    ... IsA Mapping
    ...   M0 = 0.5
    ...   M1 = 2
    ...   Form = "Full"
    ... End MatrixMap'''
    >>> field = AstField(Box(0, 0, 10, 10), text, unit="nJy / adu")
    >>> field(x=4.0, y=3.0)
    8.0
    """

    __slots__ = ("_mapping", "_scale", "_text")
    kind = "ast"
    _mapping: Any
    _scale: float
    _text: str

    def __init__(self, box: Box, ast_text: str, *, scale: float = 1.0, unit: Any = "") -> None:
        ast = _ast()
        mapping = read_ast_object(ast_text)
        if not isinstance(mapping, ast.Mapping) or mapping.Nin != 2 or mapping.Nout != 1:
            shape = f"{mapping.Nin} to {mapping.Nout}" if isinstance(mapping, ast.Mapping) else "?"
            raise PogsonValueError(
                f"An AST field needs a mapping of 2 axes to 1, not a {type(mapping).__name__} of "
                f"{shape}."
            )
        if not np.isfinite(scale):
            raise PogsonValueError(f"scale={scale!r} must be finite.")
        self._set(
            _box=box,
            _unit=parse_unit(unit),
            _mapping=mapping,
            _scale=float(scale),
            _text=write_ast_object(mapping),
        )

    def _evaluate(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        ast = _ast()
        points = np.stack([np.ravel(x), np.ravel(y)])
        good = np.isfinite(points).all(axis=0)
        out = np.full(points.shape[1], np.nan)
        if good.any():
            try:
                value = np.asarray(
                    self._mapping.tran(np.ascontiguousarray(points[:, good]), True)
                ).reshape(-1)
            except ast.AstError as error:
                raise PogsonValueError(f"AST could not evaluate: {_first_line(error)}") from None
            out[good] = np.where(np.abs(value) < 1e300, value, np.nan) * self._scale
        return out.reshape(np.shape(x))

    def _scaled(self, factor: float, unit: u.UnitBase) -> AstField:
        return AstField(self._box, self._text, scale=self._scale * factor, unit=self._unit * unit)

    def with_box(self, box: Box) -> AstField:
        """Return the same field on a smaller box."""
        return AstField(self._restricted(box), self._text, scale=self._scale, unit=self._unit)

    def _parameters(self) -> dict[str, Any]:
        return {"ast": self._text, "scale": self._scale}

    @classmethod
    def _from_parameters(
        cls, box: Box, unit: u.UnitBase, parameters: Mapping[str, Any]
    ) -> AstField:
        return cls(box, str(parameters["ast"]), scale=float(parameters["scale"]), unit=unit)

    def _repr_arguments(self) -> dict[str, Any]:
        return {
            "box": self._box,
            "ast": f"<{len(self._text)} characters>",
            "scale": self._scale,
            "unit": self._unit.to_string(),
        }
