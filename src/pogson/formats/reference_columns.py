"""Finding positions, fluxes and magnitudes in the columns of reference tables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import astropy.units as u
import numpy as np

from pogson.errors import MissingDataError, PogsonValueError, UnitMismatchError, choices
from pogson.formats.reference import GAIA_DR2_AB_OFFSETS, ReferenceCatalog, ReferenceFlag
from pogson.units import flux_to_magnitude, magnitude_to_flux

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["build", "build_gaia", "is_gaia"]

_POSITION = {
    "ra": ("ra", "RA", "coord_ra", "RAJ2000", "RA_ICRS", "ra_deg", "raj2000"),
    "dec": ("dec", "DEC", "coord_dec", "DEJ2000", "DE_ICRS", "dec_deg", "dej2000", "decl"),
    "id": ("id", "source_id", "objid", "ID", "objID", "name", "designation"),
    "epoch": ("epoch", "ref_epoch"),
    "pmra": ("pmra", "pmRA", "pm_ra"),
    "pmdec": ("pmdec", "pmDE", "pm_dec"),
}
# how catalogues spell flux, flux error, magnitude and magnitude error of band {b}
_FLUX = ("flux_{b}", "{b}_flux", "{b}flux")
_FLUX_ERR = ("flux_{b}_err", "{b}_fluxErr", "{b}_flux_err", "fluxerr_{b}", "{b}_fluxSigma")
_MAG = ("mag_{b}", "{b}mag", "{b}_mag", "{b}MeanPSFMag", "{b}_psf", "phot_{b}_mean_mag")
_MAG_ERR = (
    "mag_{b}_err", "{b}magerr", "{b}_mag_err", "e_{b}mag", "{b}_magErr", "magerr_{b}",
    "{b}MeanPSFMagErr", "{b}_psf_err", "{b}_e", "err_{b}",
)  # fmt: skip
# magnitudes beyond these are sentinels (99, -999), not measurements
_SANE_MAGNITUDE = (-10.0, 50.0)


def is_gaia(table: Table) -> bool:
    """Return whether a table has Gaia's photometric columns."""
    return {"phot_g_mean_mag", "ra", "dec"} <= set(table.colnames)


def _numbers(table: Table, name: str) -> np.ndarray:
    """Return a column as float64 with masked values NaN."""
    column = table[name]
    values = np.asarray(np.ma.getdata(column))
    if values.dtype.kind not in "biuf" or values.ndim != 1:
        raise UnitMismatchError(
            f"Column {name!r} of the reference catalogue must hold one number per row; it has "
            f"type {values.dtype} and shape {values.shape}."
        )
    values = values.astype(np.float64)
    if hasattr(column, "mask"):
        values = np.where(np.asarray(column.mask), np.nan, values)
    return values


def _degrees(table: Table, name: str) -> np.ndarray:
    values, unit = _numbers(table, name), table[name].unit
    if unit is None:
        return values
    try:
        return np.asarray((values * u.Unit(unit)).to_value(u.deg))
    except (u.UnitConversionError, ValueError, TypeError):
        raise UnitMismatchError(
            f"Column {name!r} has unit '{unit}'; positions are in degrees or radians."
        ) from None


def _find(table: Table, quantity: str, columns: Mapping[str, str] | None) -> str | None:
    if columns and quantity in columns:
        name = columns[quantity]
        if name not in table.colnames:
            raise MissingDataError(
                f"The reference catalogue has no column {name!r} for {quantity}; it has "
                f"{choices(table.colnames[:30])}."
            )
        return name
    return next((c for c in _POSITION[quantity] if c in table.colnames), None)


def _first(table: Table, patterns: tuple[str, ...], band: str) -> str | None:
    return next((p.format(b=band) for p in patterns if p.format(b=band) in table.colnames), None)


def _recognised(table: Table) -> list[str]:
    """Return the bands whose flux or magnitude columns have a known spelling."""
    found: dict[str, None] = {}
    for pattern in (*_FLUX, *_MAG):
        expression = re.escape(pattern).replace(r"\{b\}", r"([A-Za-z][A-Za-z0-9]{0,7})")
        for name in table.colnames:
            match = re.fullmatch(expression, name)
            if match and table[name].dtype.kind in "fiu" and match.group(1) not in ("e", "inst"):
                found[match.group(1)] = None
    return list(found)


def _band_rules(table: Table, bands: Any) -> dict[str, dict[str, Any]]:
    if bands is None:
        bands = _recognised(table)
        if not bands:
            raise MissingDataError(
                f"No flux or magnitude column was recognised among {choices(table.colnames[:40])}; "
                f"say where they are with bands={{'g': 'column'}}."
            )
    if isinstance(bands, str):
        bands = [bands]
    rules: dict[str, dict[str, Any]] = {}
    items = bands.items() if isinstance(bands, Mapping) else ((b, None) for b in bands)
    for band, rule in items:
        if rule is None:
            rule = {}
        elif isinstance(rule, str):
            flux_like = _is_flux(table[rule].unit if rule in table.colnames else None)
            rule = {"flux" if flux_like else "mag": rule}
        unknown = set(rule) - {"flux", "flux_err", "mag", "mag_err", "unit", "system", "ab_offset"}
        if unknown:
            raise PogsonValueError(
                f"bands[{band!r}] has unknown keys {sorted(unknown)}; allowed: flux, flux_err, "
                f"mag, mag_err, unit, system, ab_offset."
            )
        rule = dict(rule)
        if "flux" not in rule and "mag" not in rule:
            flux, mag = _first(table, _FLUX, band), _first(table, _MAG, band)
            if flux is None and mag is None:
                raise MissingDataError(
                    f"The reference catalogue has no band {band!r}: no column such as "
                    f"{choices(p.format(b=band) for p in (*_FLUX[:2], *_MAG[:2]))}; recognised "
                    f"bands are {choices(_recognised(table)) or 'none'}."
                )
            rule["flux" if flux is not None else "mag"] = flux if flux is not None else mag
        kind, patterns = ("flux", _FLUX_ERR) if "flux" in rule else ("mag", _MAG_ERR)
        if f"{kind}_err" not in rule:
            rule[f"{kind}_err"] = _first(table, patterns, band)
        for key in ("flux", "flux_err", "mag", "mag_err"):
            if rule.get(key) is not None and rule[key] not in table.colnames:
                raise MissingDataError(
                    f"The reference catalogue has no column {rule[key]!r} (bands[{band!r}]); it "
                    f"has {choices(table.colnames[:30])}."
                )
        rules[band] = rule
    return rules


def _is_flux(unit: Any) -> bool:
    return unit is not None and u.Unit(unit, parse_strict="silent").is_equivalent(u.nJy)


def _photometry(
    table: Table, band: str, rule: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, str]:
    """Return flux, error, magnitude, error (NaN where missing) and the system in words."""
    if "flux" in rule:
        factor = _flux_factor(table, rule["flux"], rule.get("unit"), band)
        flux = _numbers(table, rule["flux"]) * factor
        err = np.full(len(table), np.nan)
        if rule.get("flux_err"):
            err = _numbers(table, rule["flux_err"]) * factor
        mag, mag_err = flux_to_magnitude(flux, err)
        return flux, err, mag, mag_err, "AB"
    mag = _numbers(table, rule["mag"])
    unit = table[rule["mag"]].unit
    if unit is not None and str(unit) not in ("mag", "mag(AB)", "ABmag"):
        raise UnitMismatchError(
            f"Column {rule['mag']!r} has unit '{unit}'; magnitudes have 'mag' (or no unit)."
        )
    with np.errstate(invalid="ignore"):
        mag = np.where((mag > _SANE_MAGNITUDE[0]) & (mag < _SANE_MAGNITUDE[1]), mag, np.nan)
    mag_err = np.full(len(table), np.nan)
    if rule.get("mag_err"):
        mag_err = _numbers(table, rule["mag_err"])
    offset = float(rule.get("ab_offset", 0.0))
    flux, err = magnitude_to_flux(mag + offset, mag_err)
    system = rule.get("system") or ("AB" if "ab_offset" not in rule else f"AB - {offset:g}")
    return flux, err, mag, mag_err, str(system)


def _flux_factor(table: Table, name: str, unit: Any, band: str) -> float:
    found = table[name].unit if unit is None else unit
    if found is None:
        version = {k.upper(): v for k, v in table.meta.items()}.get("REFCAT_FORMAT_VERSION")
        if isinstance(version, int):
            # LSST reference catalogues: Jy before version 1, nJy since
            return 1.0 if version >= 1 else 1e9
        raise UnitMismatchError(
            f"Flux column {name!r} of band {band!r} has no unit; say it, for example "
            f"bands={{{band!r}: {{'flux': {name!r}, 'unit': 'nJy'}}}}."
        )
    try:
        return float(u.Unit(found).to(u.nJy))
    except (u.UnitConversionError, ValueError, TypeError):
        raise UnitMismatchError(
            f"Flux column {name!r} has unit '{found}', which is not a flux density such as nJy."
        ) from None


def build(
    table: Table,
    columns: Mapping[str, str] | None,
    bands: Any,
    epoch: float | None,
    duplicate_radius: float,
    sources: tuple[str, ...],
) -> ReferenceCatalog:
    """Make a catalogue from any table; see `pogson.formats.read_reference_catalog`."""
    from astropy.table import Table

    where = {q: _find(table, q, columns) for q in _POSITION}
    for quantity in ("ra", "dec"):
        if where[quantity] is None:
            raise MissingDataError(
                f"The reference catalogue has no column for {quantity}; tried "
                f"{choices(_POSITION[quantity])}. Name it with columns={{{quantity!r}: ...}}."
            )
    out = Table()
    n = len(table)
    out["id"] = _identifiers(table, where["id"])
    out["ra"] = _degrees(table, str(where["ra"]))
    out["dec"] = _degrees(table, str(where["dec"]))
    nothing = np.full(n, np.nan)
    for quantity in ("epoch", "pmra", "pmdec"):
        name = where[quantity]
        out[quantity] = nothing if name is None else _numbers(table, name)
    if epoch is not None:
        out["epoch"] = float(epoch)
    systems = {}
    for band, rule in _band_rules(table, bands).items():
        flux, err, mag, mag_err, systems[band] = _photometry(table, band, rule)
        for suffix, values in (("", flux), ("_err", err)):
            out[f"flux_{band}{suffix}"] = values * u.nJy
        for suffix, values in (("", mag), ("_err", mag_err)):
            out[f"mag_{band}{suffix}"] = values * u.mag
    return _finish(out, systems, {}, duplicate_radius, sources, np.zeros(n, bool))


def _identifiers(table: Table, name: str | None) -> np.ndarray:
    if name is None:
        return np.array([f"row{i}" for i in range(len(table))], str)
    values = np.asarray(np.ma.getdata(table[name]))
    if values.dtype.kind == "S":
        return np.char.decode(values, "utf-8", "replace")
    return values.astype(str)


def build_gaia(table: Table, duplicate_radius: float, sources: tuple[str, ...]) -> ReferenceCatalog:
    """Make a catalogue from Gaia rows (DR2 spelling, as in the Legacy Surveys' chunks)."""
    from astropy.table import Table

    out = Table()
    out["id"] = _identifiers(table, _find(table, "id", None))
    for name in ("ra", "dec"):
        out[name] = _degrees(table, name)
    for quantity in ("epoch", "pmra", "pmdec"):
        found = _find(table, quantity, None)
        out[quantity] = np.full(len(table), np.nan) if found is None else _numbers(table, found)
    systems, aliases = {}, {}
    for band, key in (("G", "g"), ("BP", "bp"), ("RP", "rp")):
        column = f"phot_{key}_mean_mag"
        if column not in table.colnames:
            continue
        mag = _numbers(table, column)
        with np.errstate(invalid="ignore", divide="ignore"):
            # zero is how these chunks write a missing magnitude in some releases
            mag = np.where((mag > 0) & (mag < _SANE_MAGNITUDE[1]), mag, np.nan)
            snr = np.full(len(table), np.nan)
            if f"phot_{key}_mean_flux_over_error" in table.colnames:
                snr = _numbers(table, f"phot_{key}_mean_flux_over_error")
            mag_err = np.where(snr > 0, 2.5 / np.log(10.0) / snr, np.nan)
        flux, err = magnitude_to_flux(mag + GAIA_DR2_AB_OFFSETS[band], mag_err)
        out[f"flux_{band}"], out[f"flux_{band}_err"] = flux * u.nJy, err * u.nJy
        out[f"mag_{band}"], out[f"mag_{band}_err"] = mag * u.mag, mag_err * u.mag
        systems[band], aliases[column] = "Vega (Gaia DR2)", band
    suspect = np.zeros(len(table), bool)
    for name in ("duplicated_source", "phot_variable_flag"):
        if name in table.colnames and table[name].dtype.kind == "b":
            suspect |= np.asarray(table[name])
    return _finish(out, systems, aliases, duplicate_radius, sources, suspect)


def _finish(
    out: Table,
    systems: dict[str, str],
    aliases: dict[str, str],
    duplicate_radius: float,
    sources: tuple[str, ...],
    suspect: np.ndarray,
) -> ReferenceCatalog:
    """Flag what is wrong with each row and make the catalogue."""
    flags = np.zeros(len(out), np.int32)
    ra, dec = np.asarray(out["ra"]), np.asarray(out["dec"])
    with np.errstate(invalid="ignore"):
        placed = np.isfinite(ra) & np.isfinite(dec) & (np.abs(dec) <= 90) & (np.abs(ra) <= 360)
    flags[~placed] |= int(ReferenceFlag.BAD_POSITION)
    flags[suspect] |= int(ReferenceFlag.SUSPECT)
    for band in systems:
        flags[~np.isfinite(np.asarray(out[f"flux_{band}"]))] |= int(ReferenceFlag.MISSING_BAND)
    flags[_duplicates(out, placed, duplicate_radius)] |= int(ReferenceFlag.DUPLICATE)
    out["flags"] = flags
    out["ra"].unit = out["dec"].unit = u.deg
    out["epoch"].unit = u.yr
    out["pmra"].unit = out["pmdec"].unit = u.mas / u.yr
    return ReferenceCatalog(out, tuple(systems), systems, aliases, sources)


def _duplicates(out: Table, placed: np.ndarray, radius: float) -> np.ndarray:
    """Return which rows repeat an identifier, or have another row within the radius (arcsec)."""
    from scipy.spatial import cKDTree

    wrong = np.zeros(len(out), bool)
    ids = np.asarray(out["id"])
    _, first = np.unique(ids, return_index=True)
    repeated = np.ones(len(out), bool)
    repeated[first] = False
    wrong |= repeated
    rows = np.flatnonzero(placed & ~repeated)
    if radius <= 0 or rows.size < 2:
        return wrong
    a, d = np.deg2rad(np.asarray(out["ra"])[rows]), np.deg2rad(np.asarray(out["dec"])[rows])
    xyz = np.column_stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)])
    chord = 2 * np.sin(np.deg2rad(radius / 3600.0) / 2)
    pairs = cKDTree(xyz).query_pairs(chord, output_type="ndarray")
    wrong[rows[pairs.ravel()]] = True
    return wrong
