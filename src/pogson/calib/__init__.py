"""Photometric calibration: what fluxes mean, and zero points that carry their errors."""

from pogson.calib.catalog import calibrate_catalog
from pogson.calib.color_terms import ColorTerm, list_color_terms, published_color_term
from pogson.calib.covariance import ParameterCovariance
from pogson.calib.headers import (
    HEADER_CONVENTIONS,
    HeaderConvention,
    header_cards,
    photo_calib_from_header,
)
from pogson.calib.matching import CatalogMatch, match_catalogs, propagate_positions
from pogson.calib.photo_calib import EVERYWHERE, PhotoCalib
from pogson.calib.reference import FluxReference, ReferenceKind, require_same
from pogson.calib.zero_points import StarStatus, ZeroPointFit, fit_zero_point

__all__ = [
    "EVERYWHERE",
    "HEADER_CONVENTIONS",
    "CatalogMatch",
    "ColorTerm",
    "FluxReference",
    "HeaderConvention",
    "ParameterCovariance",
    "PhotoCalib",
    "ReferenceKind",
    "StarStatus",
    "ZeroPointFit",
    "calibrate_catalog",
    "fit_zero_point",
    "header_cards",
    "list_color_terms",
    "match_catalogs",
    "photo_calib_from_header",
    "propagate_positions",
    "published_color_term",
    "require_same",
]
