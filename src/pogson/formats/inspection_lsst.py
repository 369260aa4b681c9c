"""Inspection of files of the LSST stack: calibrations, WCSs, backgrounds, summaries, sources."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from pogson.errors import PogsonError
from pogson.fields import Box
from pogson.formats.fits_access import is_image
from pogson.formats.inspection import Inspection

__all__ = ["inspect_lsst"]

Facts = list[tuple[str, str]]


def inspect_lsst(path: Path, hdus: Any) -> Inspection | None:
    """Inspect a file written by the LSST stack; None if it is not one, or holds an image."""
    primary = hdus[0].header
    if "BKGD_X0" in primary:
        return _background(path, hdus)
    if "NCOEFF" in primary and "C_0_0" in primary and "FLUXMAG0" in primary:
        return _fcr(path, primary)
    if any(is_image(h) for h in hdus):
        return None
    names = [str(h.header.get("AR_NAME", "")).strip() for h in hdus]
    kinds = {str(h.header.get("AFW_TYPE", "")).strip() for h in hdus}
    if "EXPOSURE" in kinds:
        return _summary(path, hdus)
    if "PhotoCalib" in names:
        return _photo_calib(path)
    if "SkyWcs" in names and len(hdus) > 1 and "EXTTYPE" in hdus[1].header:
        return _sky_map(path)
    if len(hdus) > 1 and "REFCAT_FORMAT_VERSION" in hdus[1].header:
        return _reference(path, hdus)
    if len(hdus) > 1 and "coord_ra" in getattr(getattr(hdus[1], "columns", None), "names", []):
        return _sources(path, hdus)
    return None


def _background(path: Path, hdus: Any) -> Inspection:
    primary = hdus[0].header
    layers = len(hdus) // 3
    width, height = primary["BKGD_WIDTH"], primary["BKGD_HEIGHT"]
    shape = hdus[0].shape
    facts = (
        ("values", "sky level of each cell of a coarse grid, not of pixels"),
        ("unit", "unknown: not in the file; that of the image it was estimated on"),
        ("measure", "unknown: not in the file; LSST backgrounds are estimated on flat-fielded "
                    "images, which are surface brightness"),
        ("grid", f"{shape[1]} x {shape[0]} cells over {width} x {height} pixels"),
        ("layers", f"{layers}, each an image, a mask and a variance; the background is their sum"),
    )  # fmt: skip
    data = {"layers": layers, "shape": list(shape), "unit": None, "measure": None,
            "width": width, "height": height}  # fmt: skip
    title = f"An LSST-stack background model of {layers} layers."
    return Inspection(str(path), "lsst-background", title, facts, data)


def _fcr(path: Path, header: Any) -> Inspection:
    flux0 = float(header["FLUXMAG0"])
    order = int(header.get("ORDER", 0))
    zero = 2.5 * math.log10(flux0) if flux0 > 0 else math.nan
    facts = (
        ("values", f"polynomial of order {order}, {header['NCOEFF']} coefficients, in magnitudes; "
                   "flux correction = 10^(-0.4 polynomial)"),
        ("zero point", f"FLUXMAG0 = {flux0:.6g}: AB {zero:.4f} mag of one count of the exposure "
                       "(EXPTIME included)"),
        ("flux reference", "unknown: not in the file (meas_mosaic used the calibration aperture of "
                           "its catalogues)"),
        ("measure", "applies to surface brightness: the pixel area (Jacobian) is a further factor "
                    "that this file does not hold"),
        ("bandpass", f"unknown (FILTER = {header.get('FILTER')!r})"),
    )  # fmt: skip
    data = {"zero_point": zero, "fluxmag0": flux0, "order": order, "reference": None,
            "measure": "surface_brightness"}  # fmt: skip
    title = "A meas_mosaic flux-correction file (fcr): zero point and illumination polynomial."
    return Inspection(str(path), "meas-mosaic-fcr", title, facts, data)


def _photo_calib(path: Path) -> Inspection:
    from pogson.formats.lsst_fields import read_lsst_photo_calib_parts

    maggies = False
    try:
        parts = read_lsst_photo_calib_parts(path)
    except PogsonError as error:
        try:
            parts = read_lsst_photo_calib_parts(path, convert_maggies=True)
            maggies = True
        except PogsonError:
            raise error from None
    field_kind = type(parts.field).__name__
    unit = "the file is in maggies per count (format version 0 or none); the numbers here are " \
        "converted, and the reader does so only on request" if maggies else (
        "nJy per count (the file's own unit 'count' is a mistake in the format)"
    )  # fmt: skip
    zero = 31.4 - 2.5 * math.log10(parts.mean) if parts.mean > 0 else math.nan
    spread = "constant" if parts.is_constant else f"varies over the detector ({field_kind})"
    facts: Facts = [
        ("values", f"{parts.mean:.6g} nJy per count, error {parts.error:.3g}; {spread}"),
        ("unit", unit),
        ("zero point", f"AB {zero:.4f} mag of one count of the image it applies to"),
        ("measure", "unknown: the format does not say whether it applies to fluence or surface "
                    "brightness" + ("" if parts.is_constant else
                    "; a field that contains the pixel area applies to surface brightness")),
        ("flux reference", "unknown: the format does not say (12-pixel aperture in HSC pipelines)"),
        ("error", "shared by all sources; not to be added per source"),
    ]  # fmt: skip
    data = {"mean": parts.mean, "error": parts.error, "constant": parts.is_constant,
            "maggies": maggies, "version": parts.version, "zero_point": zero, "reference": None,
            "measure": None, "field": field_kind}  # fmt: skip
    return Inspection(str(path), "lsst-photocalib", "An LSST PhotoCalib.", tuple(facts), data)


def _sky_map(path: Path) -> Inspection:
    from pogson.formats.inspection_images import describe_sky
    from pogson.formats.lsst_sky import read_lsst_sky_map

    data: dict[str, Any] = {}
    try:
        sky = read_lsst_sky_map(path)
    except PogsonError as error:
        facts: Facts = [
            ("content", "an AST mapping from pixels to the sky"),
            ("not read", str(error)),
        ]
        return Inspection(str(path), "lsst-wcs", "An LSST SkyWcs.", tuple(facts), data)
    box = Box(0, 0, 2048, 4176)
    facts = [("content", "AST mapping of pixels (0-based) to ICRS")]
    facts += describe_sky(sky, box, data)
    data["box"] = list(box)
    facts.append(("area", "evaluated on 2048 x 4176 pixels (an HSC detector); the file has no box"))
    return Inspection(str(path), "lsst-wcs", "An LSST SkyWcs (pixel to sky).", tuple(facts), data)


def _summary(path: Path, hdus: Any) -> Inspection:
    rows = hdus[1].data
    names = {n.lower(): n for n in rows.names}
    facts: Facts = [("rows", f"{len(rows)} detectors of one visit")]
    for key, words in (
        ("visit", "visit"), ("physical_filter", "filter"), ("zeroPoint", "zero point (mag; AB of "
         "one count of the exposure, mean over the detector)"), ("skyBg", "sky (count)"),
        ("psfSigma", "PSF sigma (pixels)"),
    ):  # fmt: skip
        if key.lower() in names:
            facts.append((words, str(rows[names[key.lower()]][0]).strip()))
    facts.append(("also", "a PhotoCalib, an AST SkyWcs and a VisitInfo per detector"))
    facts.append(("flux reference", "unknown: not in the file"))
    data = {"rows": len(rows), "columns": list(rows.names), "reference": None}
    title = "An LSST visit summary: calibration, WCS and statistics of each detector."
    return Inspection(str(path), "lsst-visit-summary", title, tuple(facts), data)


def _reference(path: Path, hdus: Any) -> Inspection:
    from pogson.formats.reference import read_reference_catalog

    catalog = read_reference_catalog(path)
    facts = (
        ("rows", f"{len(catalog)} stars; flagged {catalog.counts() or 'none'}"),
        ("bands", ", ".join(catalog.bands)),
        ("unit", "fluxes in nJy (AB)"),
        ("flux reference", "total: a reference catalogue gives the star's whole flux"),
        ("positions", "coord_ra, coord_dec in radian"),
    )
    data = {"rows": len(catalog), "bands": list(catalog.bands), "unit": "nJy"}
    title = "An LSST reference catalogue."
    return Inspection(str(path), "reference-catalog", title, facts, data)


def _sources(path: Path, hdus: Any) -> Inspection:
    columns = hdus[1].columns
    apertures = sorted(
        {n.split("CircularApertureFlux_")[1].replace("_", ".").split(".flux")[0].split(".inst")[0]
         for n in columns.names if "CircularApertureFlux_" in n and "flag" not in n.lower()}
    )  # fmt: skip
    fluxes = [c.name for c in columns if c.unit == "count"]
    facts = (
        ("rows", f"{len(hdus[1].data)} sources, {len(columns.names)} columns"),
        ("unit", "instrumental fluxes in count (not calibrated); positions in radian and pixels"),
        ("fluxes", ", ".join(fluxes[:12]) + (" ..." if len(fluxes) > 12 else "")),
        ("flux references", "named by the columns: circular apertures, PSF, Gaussian, shape; "
                            f"aperture suffixes {', '.join(a for a in apertures[:12])} (pixels)"),
        ("measure", "unknown: not in the file"),
    )  # fmt: skip
    data = {"rows": len(hdus[1].data), "columns": list(columns.names), "fluxes": fluxes}
    title = "An LSST source catalogue (afw)."
    return Inspection(str(path), "lsst-sources", title, facts, data)
