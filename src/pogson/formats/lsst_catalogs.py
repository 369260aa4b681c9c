"""LSST table files: source catalogues, reference catalogues and visit summaries."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import FileFormatError, PogsonError
from pogson.fields import Box
from pogson.formats.fits_access import open_fits
from pogson.formats.lsst_archive import LsstArchive, flag_names
from pogson.formats.lsst_fields import LsstPhotoCalibParts, photo_calib_parts_from_archive
from pogson.formats.lsst_sky import sky_map_from_archive

if TYPE_CHECKING:
    from astropy.table import Table

    from pogson.sky import AstSkyMap

__all__ = [
    "LsstDetectorSummary",
    "read_lsst_catalog",
    "read_lsst_reference_catalog",
    "read_lsst_visit_summary",
]

# Apertures up to this radius are summed with sinc coefficients by the LSST plugin, larger ones by
# whole pixels whose centre is inside (maxSincRadius of base_CircularApertureFlux).
_MAX_SINC_RADIUS = 10.0

_APERTURE = re.compile(r"(?:^|_)CircularApertureFlux_(\d+)_(\d+)_(?:instF|f)lux(Err|Sigma)?$")

# What the writers of old files called units, and their names here.
_UNITS = {"count": "adu", "pixel": "pix", "pixels": "pix", "": None}


@dataclass(frozen=True)
class LsstDetectorSummary:
    """One detector of a visit, from an LSST visit summary.

    Parameters
    ----------
    visit, detector : int
        Identifiers.
    box : Box
        Pixels (0-based, as in the LSST pipelines).
    physical_filter, band : str
        Names of the filter.
    sky : AstSkyMap or None
        Pixel to sky map.
    photo_calib : LsstPhotoCalibParts or None
        Photometric calibration.
    values : dict
        The remaining numbers by their names in the file (``zeroPoint`` in mag, ``skyBg`` and
        ``skyNoise`` in counts, ``psfSigma`` in pixels, ``ra``, ``decl`` in degrees, ...).
    visit_info : dict
        Numbers of the VisitInfo by name, in its units (``exposuretime`` in s,
        ``boresightairmass``, angles in radian).
    """

    visit: int
    detector: int
    box: Box
    physical_filter: str
    band: str
    sky: AstSkyMap | None
    photo_calib: LsstPhotoCalibParts | None
    values: dict[str, Any] = field(default_factory=dict)
    visit_info: dict[str, Any] = field(default_factory=dict)


def read_lsst_visit_summary(
    path: str | os.PathLike[str], *, unit: Any = "nJy / adu"
) -> tuple[LsstDetectorSummary, ...]:
    """Read an LSST visit summary (``visitSummary-*.fits``).

    Parameters
    ----------
    path : path-like
        FITS file: an exposure catalogue and its archive.
    unit : unit-like, optional
        Unit of the calibrations; the file does not have the instrumental unit.

    Returns
    -------
    detectors : tuple of LsstDetectorSummary

    Raises
    ------
    FileFormatError
        If the file is damaged or no visit summary.
    """
    with open_fits(path) as hdus:
        source = os.fspath(path)
        table = _catalog_hdu(hdus, source)
        if str(table.header.get("AFW_TYPE", "")).strip() != "EXPOSURE":
            raise FileFormatError(f"{source} is no visit summary: its AFW_TYPE is not 'EXPOSURE'.")
        archive = LsstArchive(hdus, path)
        try:
            return tuple(_summary(archive, table, i, unit) for i in range(len(table.data)))
        except FileFormatError:
            raise
        except PogsonError as error:
            raise FileFormatError(f"{source}: {error}") from error


def _summary(archive: LsstArchive, table: Any, i: int, unit: Any) -> LsstDetectorSummary:
    record = {str(n): table.data[i][n] for n in table.columns.names}
    try:
        x0, y0, x1, y1 = (int(record[f"bbox_{k}"]) for k in ("min_x", "min_y", "max_x", "max_y"))
        box = Box(x0, y0, x1 - x0 + 1, y1 - y0 + 1)
        names = [str(record.pop(k)).strip() for k in ("physical_filter", "band")]
        visit, detector = int(record.pop("visit")), int(record.pop("id"))
        ids = {k: int(record.pop(k)) for k in ("wcs", "photoCalib", "visitInfo")}
    except KeyError as missing:
        raise FileFormatError(f"{archive.path}: the table lacks the column {missing}.") from None
    values = {
        k: (v.tolist() if hasattr(v, "tolist") else v)
        for k, v in record.items()
        if not k.startswith("bbox_")
        and k not in ("psf", "apCorrMap", "validPolygon", "transmissionCurve", "detector", "flags")
    }
    info: dict[str, Any] = {}
    if ids["visitInfo"]:
        row = archive.row(archive.find("VisitInfo", ids["visitInfo"]))
        info = {k: (v.tolist() if hasattr(v, "tolist") else v) for k, v in row.values.items()}
    parts = None
    if ids["photoCalib"]:
        ident = archive.find("PhotoCalib", ids["photoCalib"])
        parts = photo_calib_parts_from_archive(archive, ident, unit=unit, convert_maggies=False)
    return LsstDetectorSummary(
        visit=visit,
        detector=detector,
        box=box,
        physical_filter=names[0],
        band=names[1],
        sky=sky_map_from_archive(archive, ids["wcs"]) if ids["wcs"] else None,
        photo_calib=parts,
        values=values,
        visit_info=info,
    )


def read_lsst_catalog(path: str | os.PathLike[str], *, unit: Any = "adu") -> Table:
    """Read an LSST source catalogue (``SRC-*.fits`` and other afw tables).

    Parameters
    ----------
    path : path-like
        FITS file.
    unit : unit-like, optional
        Unit of what the file calls "count".

    Returns
    -------
    table : astropy.table.Table
        All columns under their own names, flags as one boolean column each, and ``ra``, ``dec``
        in degrees in front if the file has ``coord_ra`` and ``coord_dec``. Columns of circular
        aperture fluxes carry their flux reference in ``column.info.meta["reference"]``. Aliases
        (slots) are in ``table.meta["aliases"]``.

    Raises
    ------
    FileFormatError
        If the file is damaged or has no LSST table.

    Notes
    -----
    Footprints and other objects in the file's archive are not read.
    """
    with open_fits(path) as hdus:
        table = _read_table(_catalog_hdu(hdus, os.fspath(path)), os.fspath(path), unit)
    _add_references(table)
    return table


def read_lsst_reference_catalog(path: str | os.PathLike[str]) -> Table:
    """Read one shard of an LSST reference catalogue.

    Parameters
    ----------
    path : path-like
        FITS file with ``coord_ra``, ``coord_dec`` in radian and ``<band>_flux``.

    Returns
    -------
    table : astropy.table.Table
        ``id``, ``ra`` and ``dec`` in degrees, and for each band ``flux_<band>`` and, where the file
        has it, ``flux_<band>_err`` in nJy. ``meta["bands"]`` lists the bands.

    Raises
    ------
    FileFormatError
        If the file is damaged, has no such columns, or is of the old format whose fluxes are in Jy
        without saying so.
    """
    from astropy.table import Table

    source = os.fspath(path)
    with open_fits(path) as hdus:
        hdu = _catalog_hdu(hdus, source)
        version = hdu.header.get("REFCAT_FORMAT_VERSION", 0)
        full = _read_table(hdu, source, "adu")
    bands = [n[: -len("_flux")] for n in full.colnames if n.endswith("_flux")]
    if not bands or "ra" not in full.colnames or "id" not in full.colnames:
        raise FileFormatError(f"{source} is no LSST reference catalogue: id, coord and flux.")
    if not isinstance(version, int) or version < 1:
        raise FileFormatError(
            f"{source} is a reference catalogue of format {version!r}; formats before 1 hold Jy "
            f"under the name of nJy and are refused. Convert it with the LSST tools first."
        )
    out = Table({name: full[name] for name in ("id", "ra", "dec")})
    for band in sorted(bands):
        out[f"flux_{band}"] = _njy(full[f"{band}_flux"], source)
        if f"{band}_fluxErr" in full.colnames:
            out[f"flux_{band}_err"] = _njy(full[f"{band}_fluxErr"], source)
    out.meta["bands"] = sorted(bands)
    return out


def _njy(column: Any, source: str) -> Any:
    import astropy.units as u
    from astropy.table import Column

    if column.unit != u.nJy:
        raise FileFormatError(f"{source}: column {column.name} is in '{column.unit}', not nJy.")
    return Column(np.asarray(column, np.float64), unit=u.nJy)


def _catalog_hdu(hdus: Any, source: str) -> Any:
    for hdu in hdus:
        if "AFW_TABLE_VERSION" in hdu.header and "EXTTYPE" not in hdu.header:
            if hdu.data is None:
                break
            return hdu
    raise FileFormatError(f"{source} has no LSST table (AFW_TABLE_VERSION) with rows.")


def _read_table(hdu: Any, source: str, unit: Any) -> Table:
    from astropy.table import Column, Table

    from pogson.units import parse_unit

    columns: dict[str, Any] = {}
    names = list(hdu.columns.names)
    if "coord_ra" in names and "coord_dec" in names:
        for name, angle in (("ra", "coord_ra"), ("dec", "coord_dec")):
            degrees = np.rad2deg(np.asarray(hdu.data[angle], np.float64))
            columns[name] = Column(degrees % 360.0 if name == "ra" else degrees, unit="deg")
    for column in hdu.columns:
        data = hdu.data[column.name]
        if column.name == "flags":
            bits = np.asarray(data).reshape(len(hdu.data), -1)
            for k, flag in flag_names(hdu.header).items():
                if k < bits.shape[1]:
                    columns[flag] = np.ascontiguousarray(bits[:, k])
            continue
        if data.dtype.kind not in "biufSU" or column.format.startswith(("P", "Q")):
            continue  # lists of varying length: footprints and the like
        word = str(column.unit or "").strip().replace("^", "")
        word = _UNITS.get(word, word) or ""
        word = str(parse_unit(unit)) if word == "adu" else word.replace("count", "adu")
        try:
            parsed = parse_unit(word.replace("pixel", "pix")) if word else None
        except PogsonError:
            parsed = None
        native = np.ascontiguousarray(data)
        columns[column.name] = Column(native.astype(native.dtype.newbyteorder("=")), unit=parsed)
    table = Table(columns)
    aliases = dict(
        str(v).split(":", 1) for v in _all(hdu.header, "ALIAS") if str(v).count(":") == 1
    )
    table.meta = {"aliases": aliases, "source": os.path.basename(source)}
    return table


def _all(header: Any, key: str) -> list[Any]:
    return [card.value for card in header.cards if card.keyword == key]


def _add_references(table: Table) -> None:
    """Attach the flux reference to each column of a circular aperture."""
    from pogson.calib import FluxReference
    from pogson.psf import ApertureOperator

    for name in table.colnames:
        match = _APERTURE.search(name)
        if match is None:
            continue
        radius = float(f"{match.group(1)}.{match.group(2)}")
        if not radius > 0:
            continue
        sinc = radius <= _MAX_SINC_RADIUS
        operator = ApertureOperator.sinc() if sinc else ApertureOperator.center()
        reference = FluxReference.aperture(radius, frame="pixel", operator=operator)
        table[name].info.meta = {"reference": reference.to_dict()}
