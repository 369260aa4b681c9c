r"""Column names of other injectors' catalogues, translated on request and never guessed.

``"lsst"``: catalogues of the Rubin Observatory's ``source_injection`` package (``ra``, ``dec`` in
degrees, ``mag``, ``source_type`` in GalSim's words). ``"legacy-radians"``: catalogues of the older
``insertFakes`` task (``raJ2000``, ``decJ2000`` in **radians**, ``<band>magVar``, bulge and disk
columns). A catalogue in radians read as degrees puts every source near (0, 0), so the schema has to
be named.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import MissingDataError, PogsonValueError, choices

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["SCHEMAS", "translate_columns"]

_POINT_NAMES = ("star", "deltafunction", "point", "psf")
_FIXED_SERSIC = {"exponential": 1.0, "devaucouleurs": 4.0, "gaussian": 0.5}


def translate_columns(table: Table, schema: str) -> Table:
    r"""Return a catalogue with the column names and units of pogson.

    Parameters
    ----------
    table : astropy.table.Table
        Catalogue in the named schema.
    schema : {"pogson", "lsst", "legacy-radians"}
        Whose column names they are. ``"pogson"`` returns the table as it is.

    Returns
    -------
    astropy.table.Table
        A new table. Source types without an equivalent keep their name, so that their rows are
        flagged UNKNOWN_TYPE later. References in column metadata are kept.

    Raises
    ------
    PogsonValueError
        If the schema is unknown.
    MissingDataError
        If a column that the schema requires is missing.

    Notes
    -----
    ``lsst``: GalSim's angle ``beta`` runs from east to north, so the position angle is
    ``90 - beta``; ``q`` is the axis ratio and ``n`` the Sersic index. Rows of type "Trail" there
    give the magnitude *per pixel* of the trail and its length in pixels; they are not translated.
    ``legacy-radians``: the semi-major half-light radius ``a`` of a component of axis ratio ``q``
    is the circularised radius :math:`a\sqrt{q}` here, and ``bulge_disk_flux_ratio`` r is the
    bulge fraction r / (1 + r), 1/2 where the column is missing: that task added bulge and disk
    with equal flux.

    Examples
    --------
    >>> from astropy.table import Table
    >>> old = Table({"raJ2000": [0.1], "decJ2000": [-0.2], "imagVar": [21.0],
    ...              "sourceType": ["star"]})
    >>> new = translate_columns(old, "legacy-radians")
    >>> new.colnames, round(float(new["ra"][0]), 4)
    (['ra', 'dec', 'mag_i', 'source_type'], 5.7296)
    """
    if schema not in SCHEMAS:
        raise PogsonValueError(
            f"Unknown catalogue schema {schema!r}; allowed: {choices(SCHEMAS)}. Column names are "
            "never guessed."
        )
    return SCHEMAS[schema](table)


def _as_it_is(table: Table) -> Table:
    return table


def _numbers(table: Table, name: str) -> np.ndarray:
    return np.asarray(np.ma.filled(np.ma.asarray(table[name]).astype(np.float64), np.nan))


def _require(table: Table, names: tuple[str, ...], schema: str) -> None:
    missing = [n for n in names if n not in table.colnames]
    if missing:
        raise MissingDataError(
            f"A catalogue of schema {schema!r} has columns {choices(names)}; this one lacks "
            f"{choices(missing)}. It has {choices(table.colnames)}."
        )


def _lsst(table: Table) -> Table:
    from astropy.table import Table

    out = Table(meta=dict(table.meta))
    simple = {"injection_id": "id", "ra": "ra", "dec": "dec", "x": "x", "y": "y", "stamp": "stamp"}
    for theirs, ours in simple.items():
        if theirs in table.colnames:
            out[ours] = table[theirs]
    for name in table.colnames:
        if re.fullmatch(r"mag(_\w+)?", name) or name in ("half_light_radius", "stamp_reference"):
            out[name] = table[name]
    types = _types(table)
    kinds = [_lsst_type(t) for t in types]
    out["source_type"] = np.array(kinds, dtype=str) if kinds else np.zeros(0, "U5")
    index = _numbers(table, "n") if "n" in table.colnames else np.full(len(table), np.nan)
    fixed = np.array([_FIXED_SERSIC.get(t.lower(), np.nan) for t in types], np.float64)
    index = np.where(np.isfinite(fixed), fixed, index)
    if np.isfinite(index).any():
        out["sersic_index"] = index
        out["axis_ratio"] = _numbers(table, "q") if "q" in table.colnames else 1.0
        beta = _numbers(table, "beta") if "beta" in table.colnames else np.zeros(len(table))
        out["position_angle"] = 90.0 - beta
    return out


def _types(table: Table) -> list[str]:
    if "source_type" not in table.colnames:
        return ["point"] * len(table)
    return [str(t).strip() for t in table["source_type"]]


def _lsst_type(name: str) -> str:
    word = name.lower()
    if word in _POINT_NAMES:
        return "point"
    if word == "sersic" or word in _FIXED_SERSIC:
        return "sersic"
    return "stamp" if word == "stamp" else name


def _legacy(table: Table) -> Table:
    from astropy.table import Table

    _require(table, ("raJ2000", "decJ2000"), "legacy-radians")
    out = Table(meta=dict(table.meta))
    for name in ("id", "ID", "fakeId", "fakeID"):
        if name in table.colnames:
            out["id"] = table[name]
            break
    out["ra"] = np.degrees(_numbers(table, "raJ2000"))
    out["dec"] = np.degrees(_numbers(table, "decJ2000"))
    out["ra"].unit = out["dec"].unit = "deg"
    for name in table.colnames:
        match = re.fullmatch(r"(\w+?)magVar", name)
        if match:
            out[f"mag_{match[1]}"] = table[name]
            out[f"mag_{match[1]}"].info.meta = dict(table[name].info.meta or {})
    types = (
        [str(t).strip() for t in table["sourceType"]]
        if "sourceType" in table.colnames
        else ["star"] * len(table)
    )
    names = {"star": "point", "galaxy": "bulge_disc"}
    out["source_type"] = [names.get(t.lower(), t) for t in types]
    if "galaxy" in [t.lower() for t in types]:
        _legacy_shapes(table, out)
    return out


def _legacy_shapes(table: Table, out: Table) -> None:
    for theirs, ours in (("bulge", "bulge"), ("disk", "disc")):
        names = tuple(f"{theirs}_{n}" for n in ("n", "semimajor", "axis_ratio", "pa"))
        _require(table, names, "legacy-radians")
        index, semimajor, ratio, angle = (_numbers(table, n) for n in names)
        out[f"{ours}_sersic_index"] = index
        out[f"{ours}_half_light_radius"] = semimajor * np.sqrt(ratio)
        out[f"{ours}_axis_ratio"] = ratio
        out[f"{ours}_position_angle"] = angle
    if "bulge_disk_flux_ratio" in table.colnames:
        ratio = _numbers(table, "bulge_disk_flux_ratio")
        out["bulge_fraction"] = ratio / (1.0 + ratio)
    else:
        out["bulge_fraction"] = 0.5


SCHEMAS: dict[str, Callable[[Any], Any]] = {
    "pogson": _as_it_is,
    "lsst": _lsst,
    "legacy-radians": _legacy,
}
"""Known catalogue schemas and their translations."""
