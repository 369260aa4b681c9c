"""Inspection of FITS tables: catalogues, PSFs, spectra, sky models and zero-point tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pogson.errors import PogsonError
from pogson.formats.fits_access import is_image
from pogson.formats.inspection import Inspection

__all__ = [
    "column_facts",
    "inspect_pogson_table",
    "inspect_psf",
    "inspect_spectra",
    "inspect_tables",
]

Facts = list[tuple[str, str]]


def _tables(hdus: Any) -> list[Any]:
    return [h for h in hdus if type(h).__name__ in ("BinTableHDU", "TableHDU")]


def _columns(hdu: Any) -> set[str]:
    return {str(n).lower() for n in hdu.columns.names}


def inspect_pogson_table(path: Path, hdus: Any) -> Inspection | None:
    """Inspect pogson's own FITS tables: catalogues, calibrations, fields."""
    if "POGSON" in hdus and "CATALOG" in hdus:
        from pogson.formats.catalogs import read_catalog

        return describe_catalog(path, read_catalog(path), "A catalogue written by pogson")
    schema = str(hdus[0].header.get("POGSON", ""))
    if schema.startswith("pogson"):
        from pogson.fields import read_field

        field = read_field(path)
        facts = (("kind", type(field).__name__), ("unit", str(field.unit) or "dimensionless"),
                 ("box", str(field.box)), ("mean", f"{field.mean():.6g}"))  # fmt: skip
        data = {"unit": str(field.unit), "box": list(field.box), "field": type(field).__name__}
        return Inspection(str(path), "field", "A field written by pogson.", facts, data)
    for hdu in hdus:
        if hdu.header.get("PGSCHEMA") == "pogson/photo_calib":
            from pogson.calib import PhotoCalib

            return describe_photo_calib(path, PhotoCalib.from_hdu(hdu))
    return None


def describe_photo_calib(path: Path, calib: Any) -> Inspection:
    """Return what a pogson PhotoCalib says."""
    facts = (
        ("values", f"mean {calib.mean():.6g} {calib.field.unit}"),
        ("measure", f"applies to {calib.measure.value} (stated)"),
        ("flux reference", f"{calib.reference.label} (stated)"),
        ("bandpass", calib.bandpass or "not stated"),
    )
    data = {"mean": calib.mean(), "unit": str(calib.field.unit), "measure": calib.measure.value,
            "reference": calib.reference.to_dict(), "bandpass": calib.bandpass}  # fmt: skip
    return Inspection(str(path), "photo-calib", "A pogson calibration.", facts, data)


def inspect_psf(path: Path, hdus: Any) -> Inspection | None:
    """Inspect PSFEx and Piff files."""
    for hdu in _tables(hdus):
        columns = _columns(hdu)
        if hdu.name.upper() == "PSF_DATA" or "psf_mask" in columns:
            return _psfex(path, hdu, columns)
        if hdu.name.lower() == "psf" and {"type", "model", "interp"} <= columns:
            return _piff(path, hdus)
    return None


def _first(hdu: Any, name: str) -> Any:
    by_name = {str(n).lower(): n for n in hdu.columns.names}
    if name not in by_name or len(hdu.data) == 0:
        return None
    value = hdu.data[by_name[name]][0]
    return value.strip() if isinstance(value, str) else value


def _psfex(path: Path, hdu: Any, columns: set[str]) -> Inspection:
    def value(key: str) -> Any:
        found = _first(hdu, key.lower())
        return hdu.header.get(key.upper()) if found is None else found

    degree, sampling, width = value("poldeg1"), value("psf_samp"), value("psf_fwhm")
    axes = [value(f"psfaxis{i}") for i in (1, 2, 3)]
    rows = len(hdu.data) if "psf_mask" in columns else 1
    owner = ", ".join(
        f"{k} {value(k)}" for k in ("expnum", "ccdname") if value(k) is not None
    ) or "not stated"  # fmt: skip
    facts = (
        ("values", f"{axes[0]} x {axes[1]} samples, {axes[2]} components, one every {sampling} "
                   f"pixels; polynomial of degree {degree} in x and y"),
        ("normalisation", "sums to 1 over the model's box, as PSFEx defines it; not over infinity"),
        ("pixel response", "counted: an effective PSF (samples of the pixel-integrated image)"),
        ("width", f"FWHM {float(width):.3f} pixels (as PSFEx measured it)" if width else "unknown"),
        ("belongs to", f"{owner}; {rows} row(s), one a detector"),
    )  # fmt: skip
    data = {"rows": rows, "degree": degree, "sampling": sampling, "fwhm": width,
            "expnum": value("expnum"), "ccdname": value("ccdname")}  # fmt: skip
    return Inspection(str(path), "psfex", "A PSFEx model.", facts, data)


def _piff(path: Path, hdus: Any) -> Inspection:
    by_name = {h.name.lower(): h for h in hdus}
    model, interp = by_name.get("psf_model"), by_name.get("psf_interp")
    primary = hdus[0].header
    kind = None if model is None else _first(model, "type")
    scale = None if model is None else _first(model, "scale")
    interpolation = None if interp is None else _first(interp, "type")
    stars = by_name.get("psf_stars")
    owner = {k: primary.get(k) for k in ("EXPNUM", "CCDNUM", "BAND")}
    facts = (
        ("values", f"model {kind}, grid step {scale} arcsec; interpolation {interpolation}"),
        ("normalisation", "total flux 1 over the model's grid"),
        ("pixel response", "counted: the grid samples the effective PSF"),
        ("stars", "unknown" if stars is None else f"{len(stars.data)} used for the fit"),
        ("WCS", "embedded as a Python pickle, which is never loaded; pass a WCS, or one is fitted "
                "to the star table"),
        ("belongs to", ", ".join(f"{k} {v}" for k, v in owner.items() if v is not None)
         or "not stated"),
    )  # fmt: skip
    data = {"model": kind, "interpolation": interpolation, "scale": scale,
            "expnum": owner["EXPNUM"], "ccdnum": owner["CCDNUM"],
            "band": owner["BAND"]}  # fmt: skip
    return Inspection(str(path), "piff", "A Piff PSF model.", facts, data)


def inspect_spectra(path: Path, hdus: Any) -> Inspection | None:
    """Inspect spectra: CALSPEC, SDSS flux-calibration vectors, model grids, Redrock templates."""
    primary = hdus[0].header
    tables = _tables(hdus)
    columns = _columns(tables[0]) if tables else set()
    if "RRTYPE" in primary:
        return _redrock(path, hdus)
    if {"fullbkpt", "coeff"} <= columns:
        return _spfluxcalib(path, hdus, tables[0])
    if {"model", "teff"} <= columns and is_image(hdus[0]):
        return _model_grid(path, hdus, tables[0])
    if {"wavelength", "flux"} <= columns:
        return _spectrum(path, hdus, tables[0])
    return None


def _spectrum(path: Path, hdus: Any, hdu: Any) -> Inspection:
    units = {c.name.lower(): c.unit for c in hdu.columns}
    by_name = {c.name.lower(): c.name for c in hdu.columns}
    wave = np.asarray(hdu.data[by_name["wavelength"]], np.float64)
    primary = hdus[0].header
    flux_unit = str(units["flux"]) if units["flux"] else "unknown"
    meaning = "erg/s/cm2/AA (FLAM)" if flux_unit.upper() == "FLAM" else flux_unit
    calspec = str(primary.get("MAPKEY", "")).strip() == "calspec"
    errors = [n for n in ("staterror", "syserror", "error", "ivar") if n in by_name]
    medium = "vacuum" if calspec else "air or vacuum unknown"
    facts = (
        ("object", str(primary.get("TARGETID", primary.get("OBJECT", "not stated")))),
        ("values", f"flux density per wavelength in {meaning}, absolute"),
        ("wavelength", f"{wave.min():.1f} to {wave.max():.1f} {units['wavelength'] or ''}, "
                       f"{wave.size} points; {medium}"),
        ("errors", ", ".join(errors) or "none"),
        ("source", str(primary.get("SOURCE", "not stated")).strip()),
    )  # fmt: skip
    data = {"unit": meaning, "wavelength": [float(wave.min()), float(wave.max())],
            "points": wave.size, "object": primary.get("TARGETID"), "calspec": calspec}  # fmt: skip
    title = "A CALSPEC standard-star spectrum." if calspec else "A spectrum."
    return Inspection(str(path), "spectrum", title, facts, data)


def _spfluxcalib(path: Path, hdus: Any, hdu: Any) -> Inspection:
    primary = hdus[0].header
    coeff = np.asarray(_first(hdu, "coeff"))
    low, high = primary.get("WAVEMIN"), primary.get("WAVEMAX")
    facts = (
        ("values", f"B-spline of order {_first(hdu, 'nord')} with {coeff.size} coefficients over "
                   "wavelength: counts per flux unit of one exposure"),
        ("unit", "not in the file; SDSS: counts per 1e-17 erg/s/cm2/AA (divide counts by it)"),
        ("wavelength", f"{low} to {high} Angstrom"),
        ("exposure time", f"{primary.get('EXPTIME')} s, included (the vector is per exposure)"),
    )  # fmt: skip
    data = {"coefficients": coeff.size, "wavelength": [low, high],
            "exposure_time": primary.get("EXPTIME"), "unit": None}  # fmt: skip
    title = "An SDSS flux-calibration vector (spFluxcalib)."
    return Inspection(str(path), "spfluxcalib", title, facts, data)


def _model_grid(path: Path, hdus: Any, hdu: Any) -> Inspection:
    header = hdus[0].header
    rows, points = hdus[0].shape
    start, step = float(header["CRVAL1"]), float(header["CD1_1"])
    low, high = 10**start, 10 ** (start + step * (points - 1))
    facts = (
        ("values", f"{rows} model spectra of {points} points; BUNIT {header.get('BUNIT')!r}, but "
                   "the absolute scale is unknown: use the shapes"),
        ("wavelength", f"log10 spaced, {low:.1f} to {high:.1f} Angstrom; air or vacuum not stated"),
        ("parameters", ", ".join(hdu.columns.names)),
    )  # fmt: skip
    data = {"rows": rows, "points": points, "wavelength": [low, high],
            "unit": header.get("BUNIT"), "parameters": list(hdu.columns.names)}  # fmt: skip
    title = "A grid of stellar model spectra with their parameters."
    return Inspection(str(path), "spectral-grid", title, facts, data)


def _redrock(path: Path, hdus: Any) -> Inspection:
    header = hdus[0].header
    vectors, points = hdus[0].shape
    low = float(header.get("CRVAL1", np.nan))
    high = low + float(header.get("CDELT1", np.nan)) * (points - 1)
    coefficients = [h.shape for h in hdus if h.name == "ARCHETYPE_COEFF"]
    count = f"; {max(coefficients[0])} sets of coefficients" if coefficients else ""
    facts = (
        ("values", f"{vectors} basis vectors of {points} points{count}: spectra are their sums"),
        ("unit", "unknown: not in the file; relative flux per wavelength"),
        ("wavelength", f"{low:.1f} to {high:.1f} Angstrom, linear; air or vacuum not stated"),
        ("class", f"{header['RRTYPE']} {header.get('RRSUBTYP', '')}".strip()),
    )
    data = {"vectors": vectors, "points": points, "wavelength": [low, high], "unit": None}
    return Inspection(str(path), "spectral-templates", "A Redrock template.", facts, data)


_KNOWN: tuple[tuple[set[str], str, str], ...] = (
    ({"ccdzpt", "expnum", "ccdname"}, "zero-points",
     "A Legacy Surveys survey-ccds table: zero points of exposures"),
    ({"gridvals", "xgrid", "skyclass"}, "sky-model",
     "A Legacy Surveys sky model (spline through a coarse grid) in counts of the exposure"),
    ({"phot_g_mean_mag", "source_id", "ra"}, "reference-catalog",
     "Gaia DR2 rows (a HEALPix chunk of the Legacy Surveys)"),
    ({"x0", "y0", "mag", "e1", "rot", "detpos"}, "astrometric-solution",
     "A table of affine astrometric terms per exposure"),
)  # fmt: skip

_NOTES = {
    "zero-points": (
        ("zero point", "ccdzpt, zpt: AB magnitude of 1 adu PER SECOND (EXPTIME not included, no "
                       "gain): add 2.5 log10(exptime) for counts of the exposure"),
        ("flux reference", "unknown: not in the file"),
    ),
    "sky-model": (("measure", "subtracted from the image as it is; not stated"),),
    "reference-catalog": (
        ("system", "phot_*_mean_mag are Vega magnitudes of Gaia DR2, not AB; errors are "
                   "1.0857 / flux_over_error"),
        ("flux reference", "total: Gaia's photometry is of the whole star"),
        ("positions", "ra, dec in degrees at ref_epoch; pmra (with cos dec), pmdec in mas/yr"),
    ),
}  # fmt: skip


def inspect_tables(path: Path, hdus: Any) -> Inspection | None:
    """Inspect any other FITS table."""
    tables = _tables(hdus)
    if not tables:
        return None
    from pogson.formats.catalogs import _read_fits

    table = _read_fits(path)
    lower = {n.lower() for n in table.colnames}
    for needed, kind, title in _KNOWN:
        if needed <= lower:
            found = describe_catalog(path, table, title)
            plain = [f for f in found.facts[1:] if f[0] != "flux references"]
            facts = (*found.facts[:1], *_NOTES.get(kind, ()), *plain)
            data = {**found.data, "schema": kind}
            if kind == "zero-points":
                data["zero_point_includes"] = {"EXPTIME": False, "GAIN": False}
            return Inspection(str(path), kind, found.title, facts, data)
    return describe_catalog(path, table, "A catalogue")


def describe_catalog(path: Path, table: Any, title: str) -> Inspection:
    """Return what a catalogue's columns say about themselves."""
    facts, data = column_facts(table)
    return Inspection(str(path), "catalog", f"{title}.", tuple(facts), data)


def column_facts(table: Any) -> tuple[Facts, dict[str, Any]]:
    """Return words and JSON about the columns of a table: units, references, missing values."""
    facts: Facts = [("rows", f"{len(table)} rows, {len(table.colnames)} columns")]
    columns: dict[str, Any] = {}
    referenced: list[str] = []
    with_unit: list[str] = []
    without: list[str] = []
    for name in table.colnames:
        column = table[name]
        unit = None if column.unit is None else str(column.unit)
        meta = dict(column.info.meta or {})
        columns[name] = {"unit": unit, "type": str(column.dtype), "reference": None}
        if column.info.description:
            columns[name]["description"] = str(column.info.description)
        if "reference" in meta:
            columns[name]["reference"] = meta["reference"]
            columns[name]["measure"] = meta.get("measure")
            referenced.append(f"{name} ({_label(meta['reference'])})")
        (with_unit if unit else without).append(name if not unit else f"{name} [{unit}]")
    limit = 40
    if with_unit:
        facts.append(("with unit", ", ".join(with_unit[:limit]) + _more(with_unit, limit)))
    if without:
        facts.append(("no unit stated", ", ".join(without[:limit]) + _more(without, limit)))
    fluxes = [n for n in table.colnames if "flux" in n.lower() or "mag" in n.lower()]
    if referenced:
        facts.append(("flux references", ", ".join(referenced)))
    elif fluxes:
        facts.append(("flux references", "unknown: no column says which aperture or model its "
                                         "fluxes or magnitudes are of"))  # fmt: skip
    return facts, {"rows": len(table), "columns": columns}


def _label(reference: Any) -> str:
    from pogson.calib import FluxReference

    try:
        return FluxReference.from_dict(reference).label
    except (PogsonError, TypeError, KeyError):
        return str(reference)


def _more(items: list[str], limit: int) -> str:
    return f" and {len(items) - limit} more" if len(items) > limit else ""
