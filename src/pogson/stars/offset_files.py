"""Files of band offsets, and offsets applied to a catalogue with their provenance."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pogson.atomic import atomic_path, atomic_write_text
from pogson.errors import FileFormatError, MissingDataError, PogsonValueError
from pogson.stars.calibrate_result import BandCalibration
from pogson.stars.grid import missing_name

__all__ = ["apply_offsets", "load_offsets", "read_offsets", "write_offsets"]

_CODES = (-99.0, -999.0, -9999.0, -99999.0)  # fluxes that mean "not measured"
_ECSV = {".ecsv"}
_DOUBT = "NOT CONVERGED"


def write_offsets(path: str | os.PathLike[str], calibration: BandCalibration) -> Path:
    """Write offsets: text of "filter offset" lines, or ECSV with covariance and provenance.

    Parameters
    ----------
    path : path-like
        A name ending in ``.ecsv`` gives ECSV, any other the text that brutus reads.
    calibration : BandCalibration
        Offsets, constant term.

    Returns
    -------
    pathlib.Path
        The file.

    Notes
    -----
    Offsets are flux factors: corrected flux = flux x offset. The text file says so, with errors,
    in comments; readers of two columns skip them.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> made = BandCalibration.from_offsets(["PS_g", "PS_r"], [1.02, 0.99], [[1e-6, 0], [0, 1e-6]])
    >>> path = write_offsets(pathlib.Path(tempfile.mkdtemp()) / "offsets.txt", made)
    >>> print(path.read_text().splitlines()[-1])
    PS_r 0.99000000  # flux factor; error 0.000990, gauge parallax
    """
    path = Path(path)
    if path.suffix in _ECSV:
        with atomic_path(path) as temporary:
            _table(calibration).write(temporary, format="ascii.ecsv", overwrite=True)
        return path
    # comments stay on lines with data: older readers stumble over lines without
    doubt = "" if calibration.converged else f", {_DOUBT}"
    lines = [
        f"{band} {offset:.8f}  # flux factor; error {error:.6f}, gauge {calibration.gauge}{doubt}"
        for band, offset, error in zip(
            calibration.bands, calibration.offsets, calibration.errors, strict=True
        )
    ]
    return atomic_write_text(path, "\n".join(lines) + "\n")


def _table(calibration: BandCalibration) -> Any:
    from astropy.table import Table

    table = Table()
    table["filter"] = list(calibration.bands)
    table["offset"] = calibration.offsets
    table["offset_error"] = calibration.errors
    table["magnitude_offset"] = calibration.magnitude_offsets
    table["scatter"] = calibration.scatter
    table["n_used"] = calibration.n_used
    table["ln_offset_covariance"] = calibration.covariance
    table["offset"].description = "flux factor: corrected flux = flux x offset"
    table["magnitude_offset"].unit = "mag"
    table["magnitude_offset"].description = "to add to magnitudes: -2.5 log10(offset)"
    table["scatter"].description = "intrinsic scatter as a fraction of the flux"
    table["ln_offset_covariance"].description = "covariance of ln(offset) between the filters"
    table.meta.update(
        {"gauge": calibration.gauge, "convention": "corrected flux = flux x offset", "version": 1,
         "converged": bool(calibration.converged),
         "provenance": _plain(dict(calibration.provenance))}
    )  # fmt: skip
    return table


def _plain(value: Any) -> Any:
    """Return a value made of what YAML holds."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def read_offsets(path: str | os.PathLike[str]) -> BandCalibration:
    """Read offsets from either kind of file.

    Parameters
    ----------
    path : path-like
        ECSV of `write_offsets`, or two columns "filter offset".

    Returns
    -------
    BandCalibration
        From text, the covariance is NaN: the file does not say.

    Raises
    ------
    FileFormatError
        If the file is not one of them, names a filter twice, or an offset is not positive.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "offsets.ecsv"
    >>> made = BandCalibration.from_offsets(["PS_g", "PS_r"], [1.02, 0.99], [[4e-6, 0], [0, 1e-6]])
    >>> read_offsets(write_offsets(path, made)).covariance
    array([[4.e-06, 0.e+00], [0.e+00, 1.e-06]])
    """
    path = Path(path)
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileFormatError(f"Cannot read offsets from {path}: {error}.") from error
    if text.startswith("# %ECSV"):
        return _from_ecsv(path)
    names, values = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        content = line.split("#", 1)[0].split()
        if not content:
            continue
        try:
            if len(content) != 2:
                raise ValueError(f"{len(content)} words")
            value = float(content[1])
        except ValueError as error:
            raise FileFormatError(
                f"{path}, line {number}: {line!r} is not 'filter offset' ({error})."
            ) from error
        names.append(content[0])
        values.append(value)
    _check(path, names, values)
    unknown = np.full((len(names), len(names)), np.nan)
    made = BandCalibration.from_offsets(
        names, values, unknown, gauge="unknown", provenance={"file": path.name}
    )
    return replace(made, converged=_DOUBT not in text)


def _check(path: Path, names: Sequence[str], values: Sequence[float]) -> None:
    twice = sorted({n for n in names if list(names).count(n) > 1})
    if twice:
        raise FileFormatError(f"{path} names {', '.join(twice)} more than once.")
    if not names:
        raise FileFormatError(f"{path} has no line 'filter offset'.")
    bad = [n for n, v in zip(names, values, strict=True) if not (np.isfinite(v) and v > 0)]
    if bad:
        raise FileFormatError(
            f"{path}: the offset of {bad[0]} is not positive. Offsets are flux factors near 1, not "
            "magnitudes."
        )


def _from_ecsv(path: Path) -> BandCalibration:
    from astropy.table import Table

    try:
        table = Table.read(path, format="ascii.ecsv")
        names = [str(n) for n in table["filter"]]
        values = np.asarray(table["offset"], dtype=float)
        _check(path, names, list(values))
        made = BandCalibration.from_offsets(
            names, values, np.asarray(table["ln_offset_covariance"], dtype=float),
            scatter=np.asarray(table["scatter"], dtype=float), gauge=str(table.meta["gauge"]),
            provenance=table.meta.get("provenance", {}),
        )  # fmt: skip
        return replace(made, converged=bool(table.meta.get("converged", True)))
    except FileFormatError:
        raise
    except Exception as error:
        raise FileFormatError(f"{path} is not an offsets file: {error}.") from error


def load_offsets(path: str | os.PathLike[str], filters: Sequence[str]) -> np.ndarray:
    """Return the offsets of some filters, 1 for those not in the file, as brutus does.

    Parameters
    ----------
    path : path-like
        Offsets file of either kind.
    filters : sequence of str
        Filters.

    Returns
    -------
    ndarray (filters,)
        Flux factors.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "offsets.txt"
    >>> _ = path.write_text("PS_g 1.02")
    >>> load_offsets(path, ["PS_g", "PS_r"])
    array([1.02, 1. ])
    """
    known = read_offsets(path)
    found = dict(zip(known.bands, known.offsets, strict=True))
    return np.array([found.get(name, 1.0) for name in filters])


def apply_offsets(
    table: Any,
    calibration: BandCalibration,
    *,
    fluxes: Mapping[str, str] | None = None,
    flux_errors: Mapping[str, str] | None = None,
    magnitudes: Mapping[str, str] | None = None,
) -> Any:
    """Return a copy of a table with offsets applied, and a record of it in the metadata.

    Parameters
    ----------
    table : astropy.table.Table
        Catalogue.
    calibration : BandCalibration
        Offsets.
    fluxes, flux_errors, magnitudes : mapping of str to str, optional
        Column of each band. Fluxes and their errors are multiplied by the offset, magnitudes get
        -2.5 log10(offset) added; magnitude errors do not change. Numbers that stand for a missing
        value (of fluxes -99, -999 ...; of magnitudes 0, -9999, 99 ..., not finite) are left as they
        are.

    Returns
    -------
    astropy.table.Table
        The copy; ``meta["photometric_offsets"]`` is a list with one record an application.

    Raises
    ------
    MissingDataError
        If a band has no offset or a column is not there.
    PogsonValueError
        If no columns are given, the offsets vary with a basis, or the same offsets are there
        already.

    Examples
    --------
    >>> from astropy.table import Table
    >>> made = BandCalibration.from_offsets(["PS_g"], [1.02], [[1e-6]])
    >>> out = apply_offsets(Table({"g": [15.0]}), made, magnitudes={"PS_g": "g"})
    >>> float(out["g"][0])
    14.9784995707
    """
    groups = {"flux": fluxes or {}, "error": flux_errors or {}, "magnitude": magnitudes or {}}
    if not any(groups.values()):
        raise PogsonValueError("Give fluxes, flux_errors or magnitudes: {band: column}.")
    if calibration.coefficients.shape[1] > 1:
        raise PogsonValueError(
            f"These offsets vary with {calibration.terms[1:]}; multiply by factors(design) instead."
        )
    record = _record(calibration, groups)
    applied = list(table.meta.get("photometric_offsets", []))
    columns = set(record["columns"])
    for old in applied:
        shared = columns & set(old["columns"])
        if shared and old["offsets"] == record["offsets"]:
            raise PogsonValueError(
                f"These offsets were applied to {', '.join(sorted(shared))} before; the record is "
                "in meta['photometric_offsets']."
            )
    out = table.copy()
    for kind, names in groups.items():
        for band, column in names.items():
            if band not in calibration.bands:
                raise missing_name(band, calibration.bands, "filter", "The offsets file")
            if column not in out.colnames:
                raise MissingDataError(f"No column {column!r}; the table has {out.colnames}.")
            b = calibration.bands.index(band)
            if kind != "magnitude":
                with np.errstate(invalid="ignore"):
                    code = np.isin(np.ma.getdata(np.ma.asarray(out[column])), _CODES)
                out[column] = out[column] * np.where(code, 1.0, calibration.offsets[b])
                continue
            values = np.ma.filled(np.ma.asarray(out[column]).astype(float), np.nan)
            real = np.isfinite(values) & (values != 0) & (np.abs(values) < 90)
            shift = np.where(real, calibration.magnitude_offsets[b], 0.0)
            out[column] = out[column] + shift * (out[column].unit or 1)
    out.meta["photometric_offsets"] = [*applied, record]
    return out


def _record(
    calibration: BandCalibration, groups: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    """Return what was applied, as plain values."""
    used = sorted({band for names in groups.values() for band in names})
    index = {b: i for i, b in enumerate(calibration.bands)}
    return {
        "offsets": {b: float(calibration.offsets[index[b]]) for b in used if b in index},
        "errors": {b: float(calibration.errors[index[b]]) for b in used if b in index},
        "gauge": calibration.gauge,
        "columns": [c for names in groups.values() for c in names.values()],
        "provenance": _plain(dict(calibration.provenance)),
    }
