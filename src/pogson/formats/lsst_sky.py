"""LSST ``SkyWcs`` objects: AST FrameSets kept as bytes in a table archive."""

from __future__ import annotations

import os
import re

import numpy as np

from pogson.errors import FileFormatError
from pogson.formats.lsst_archive import LsstArchive, open_lsst_archive
from pogson.sky import AstSkyMap
from pogson.sky.ast_map import ast_sky_reference

__all__ = ["read_lsst_sky_map", "sky_origin_area"]


def read_lsst_sky_map(path: str | os.PathLike[str], *, ident: int | None = None) -> AstSkyMap:
    """Read an LSST ``SkyWcs``.

    Parameters
    ----------
    path : path-like
        FITS file with a table archive that holds a SkyWcs (``jointcal_wcs-*.fits``, a calexp, a
        visit summary).
    ident : int, optional
        Archive id, where the file holds several.

    Returns
    -------
    sky : AstSkyMap
        Pixels are 0-based as in the LSST pipelines. A FITS approximation stored beside the map is
        not used.

    Raises
    ------
    FileFormatError
        If the file is damaged or holds no such object.
    MissingDataError
        If the AST library is not installed (``pip install 'pogson[ast]'``).
    """
    with open_lsst_archive(path) as archive:
        return sky_map_from_archive(archive, archive.find("SkyWcs", ident))


def sky_map_from_archive(archive: LsstArchive, ident: int) -> AstSkyMap:
    """Return the sky map of an archived SkyWcs."""
    row = archive.row(archive.find("SkyWcs", ident))
    return AstSkyMap(ast_text_of(row.text_bytes("wcs"), row.source))


def ast_text_of(text: str, source: str) -> str:
    """Return the AST part of an LSST string, which has a version and a class name before it.

    Raises
    ------
    FileFormatError
        If there is no AST object in the text.
    """
    # "1 SkyWcs 0  Begin FrameSet ...": version, class, whether a FITS approximation follows.
    match = re.match(r"\s*\d+\s+\w+\s+(?:\d+\s+)?Begin\s", text)
    if match is None:
        raise FileFormatError(
            f"{source}: expected a version, a class name and an AST object ('Begin ...'), found "
            f"{text[:40]!r}."
        )
    return text[text.index("Begin ") :]


def sky_origin_area(sky: AstSkyMap) -> float:
    """Return the pixel area in arcsec2 at the reference point of the sky frame (its "CRVAL").

    Raises
    ------
    FileFormatError
        If the sky frame has no reference point or the map has no pixel there.
    """
    reference = ast_sky_reference(sky.ast_text)
    if reference is None:
        raise FileFormatError("The sky frame has no reference point (SkyRef).")
    x, y = sky.pixel(*reference)
    area = sky.pixel_area(x=x, y=y)
    if not (np.isfinite(area) and area > 0):
        raise FileFormatError(
            f"The map has no pixel area at its reference point ra={reference[0]}, "
            f"dec={reference[1]} degrees."
        )
    return float(area)
