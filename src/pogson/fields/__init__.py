"""Bounded two-dimensional functions on a pixel box.

Pixel convention: 0-based, the centre of a pixel on integer coordinates; arrays are ``[y, x]``.
"""

from pogson.fields.base import Field
from pogson.fields.box import Box
from pogson.fields.chebyshev import ChebyshevField
from pogson.fields.composite import ProductField, QuotientField, SumField
from pogson.fields.constant import ConstantField
from pogson.fields.grid import GridField
from pogson.fields.persistence import field_from_dict, read_field, register_kind, write_field
from pogson.fields.pixel_area import PixelAreaField
from pogson.fields.table import TableField

__all__ = [
    "Box",
    "ChebyshevField",
    "ConstantField",
    "Field",
    "GridField",
    "PixelAreaField",
    "ProductField",
    "QuotientField",
    "SumField",
    "TableField",
    "field_from_dict",
    "read_field",
    "register_kind",
    "write_field",
]
