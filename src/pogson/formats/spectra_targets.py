"""What the fibres of a frame look at: numbers, names and places from its table of fibres."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pogson.errors import FileFormatError

__all__ = ["NO_FIBRE", "PLACE_COLUMNS", "fibre_labels", "table_labels"]

_FIBRE = ("fibre", "fiber", "fibre_id", "fiber_id", "fibreid", "fiberid")
_NAME = ("name", "target", "targetid", "object", "objname", "obj_name", "source_id")
_PLACE = (("ra", "dec"), ("target_ra", "target_dec"), ("fiber_ra", "fiber_dec"),
          ("ra_icrs", "de_icrs"))  # fmt: skip
PLACE_COLUMNS = tuple(name for pair in _PLACE for name in pair)
"""Names, in lower case, that columns of places may have."""
NO_FIBRE = int(np.iinfo(np.int64).min)
"""Stands for the fibre number of a row that has none."""
_STANDARD = ("standard", "is_standard", "isstd")
_STANDARD_TYPES = ("SPECTROPHOTO_STD", "REDDEN_STD", "STANDARD")


def table_labels(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return the labels that a table of fibres has, by usual names of columns.

    Parameters
    ----------
    columns : mapping of str to array_like
        Columns by name, in any case.

    Returns
    -------
    labels : dict
        As far as there are: ``fibre_ids`` (int; `NO_FIBRE` where NaN), ``names``
        (tuple of str), ``ra`` and ``dec``
        (degrees), ``standard`` (bool).

    Examples
    --------
    >>> sorted(table_labels({"FIBER": [3], "TARGET_RA": [1.5], "TARGET_DEC": [2.0], "mag": [1]}))
    ['dec', 'fibre_ids', 'ra']
    """
    data = {str(k).lower(): v for k, v in columns.items()}
    out: dict[str, Any] = {}
    fibre = next((n for n in _FIBRE if n in data), None)
    if fibre is not None and np.asarray(data[fibre]).dtype.kind in "iuf":
        ids = np.asarray(data[fibre])
        known = np.isfinite(ids)
        out["fibre_ids"] = np.where(known, np.where(known, ids, 0).astype(np.int64), NO_FIBRE)
    name = next((n for n in _NAME if n in data), None)
    if name is not None:
        out["names"] = tuple(_text(v) for v in np.asarray(data[name]))
    for ra, dec in _PLACE:
        if ra in data and dec in data:
            out["ra"] = np.asarray(data[ra], np.float64)
            out["dec"] = np.asarray(data[dec], np.float64)
            break
    mark = next((n for n in _STANDARD if n in data), None)
    if mark is not None:
        out["standard"] = np.asarray(data[mark]).astype(bool)
    elif "desi_target" in data:
        bits = (1 << 33) | (1 << 34) | (1 << 35)
        out["standard"] = (np.asarray(data["desi_target"], np.int64) & bits) != 0
    elif "objtype" in data:
        kinds = np.array([_text(v).upper() for v in np.asarray(data["objtype"])])
        out["standard"] = np.isin(kinds, _STANDARD_TYPES)
    return out


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    return str(value).strip()


def fibre_labels(hdus: Any, n: int, path: Any = "The file") -> dict[str, Any]:
    """Return the labels of the ``n`` fibres of an open FITS file, from the table that has them.

    Parameters
    ----------
    hdus : astropy.io.fits.HDUList
        The file.
    n : int
        Number of fibres.
    path : path-like, optional
        For messages.

    Raises
    ------
    FileFormatError
        If a table of fibres has another number of rows.

    Examples
    --------
    >>> from astropy.io import fits
    >>> table = fits.BinTableHDU.from_columns(
    ...     [fits.Column("FIBRE", "J", array=np.arange(2)), fits.Column("RA", "D", array=[1., 2.]),
    ...      fits.Column("DEC", "D", array=[0., 0.])], name="FIBRES")
    >>> fibre_labels(fits.HDUList([fits.PrimaryHDU(), table]), 2)["ra"]
    array([1., 2.])
    """
    for hdu in hdus:
        if getattr(hdu, "columns", None) is None or hdu.data is None:
            continue
        named = hdu.name.upper() in (
            "FIBRES",
            "FIBERS",
            "FIBERMAP",
            "FIBREMAP",
            "PLUGMAP",
            "TARGETS",
        )
        labels = table_labels({c: hdu.data[c] for c in hdu.columns.names})
        if not named and "fibre_ids" not in labels:
            continue
        if len(hdu.data) != n:
            if named:
                raise FileFormatError(
                    f"{path}: the table {hdu.name} has {len(hdu.data)} rows but there are {n} "
                    f"spectra."
                )
            continue
        return labels
    return {}
