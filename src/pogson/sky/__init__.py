"""Pixel to sky and back, the local Jacobian, and the area of pixels."""

from pogson.sky.ast_field import AstField
from pogson.sky.ast_map import AstSkyMap
from pogson.sky.base import SkyMap, skymap_from_dict
from pogson.sky.fits_map import FitsSkyMap
from pogson.sky.geometry import angular_separation, polygon_area
from pogson.sky.gwcs_map import GwcsSkyMap

__all__ = [
    "AstField",
    "AstSkyMap",
    "FitsSkyMap",
    "GwcsSkyMap",
    "SkyMap",
    "angular_separation",
    "polygon_area",
    "skymap_from_dict",
]
