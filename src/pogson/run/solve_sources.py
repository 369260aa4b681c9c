"""Measured sources as a global solution takes them, from whichever table they stand in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import ConfigError, MissingDataError
from pogson.run.solve_config import SourcesConfig

if TYPE_CHECKING:
    from astropy.table import Table

    from pogson.calib import FluxReference
    from pogson.fields import Box

__all__ = ["SourceFrame", "read_sources"]

_POGSON = 2.5 / np.log(10.0)


@dataclass(frozen=True, eq=False)
class SourceFrame:
    """Sources of one detector of one exposure.

    Parameters
    ----------
    key, exposure, detector, band : str
        What they belong to; the key is safe as a file name.
    mjd, airmass, seeing : float
        Conditions (seeing in arcsec); NaN: not known.
    box : Box
        Pixels of the detector.
    unit, measure : str
        Instrumental unit of the fluxes, and the kind of image that the calibration is for.
    reference : FluxReference
        What the fluxes are.
    ra, dec : numpy.ndarray
        Degrees.
    x, y : numpy.ndarray
        Pixels (0-based, centres on integers).
    flux, flux_err : numpy.ndarray
        Instrumental.
    bad : numpy.ndarray of bool
        Flagged by the measurement.
    row : numpy.ndarray of int
        Row of each in its table.

    Examples
    --------
    >>> from astropy.table import Table
    >>> table = Table({"exposure": [7, 7], "detector": [1, 1], "band": ["g", "g"],
    ...                "ra": [10.0, 10.1], "dec": [0.0, 0.1], "x": [5.0, 9.0], "y": [5.0, 9.0],
    ...                "flux": [100.0, 200.0], "flux_err": [1.0, 2.0]})
    >>> frame = wide_frames(table, SourcesConfig(), "t.parquet")[0]
    >>> frame.key, frame.band, len(frame)
    ('7-1', 'g', 2)
    """

    key: str
    exposure: str
    detector: str
    band: str
    mjd: float
    airmass: float
    seeing: float
    box: Box
    unit: str
    measure: str
    reference: FluxReference
    ra: np.ndarray
    dec: np.ndarray
    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    flux_err: np.ndarray
    bad: np.ndarray
    row: np.ndarray

    def __len__(self) -> int:
        return int(self.x.size)


def read_sources(files: Sequence[str | Path], config: SourcesConfig) -> list[SourceFrame]:
    """Read tables of sources.

    Parameters
    ----------
    files : sequence of path-like
        Calibrated catalogues of ``pogson run``, the tables of its first stage (beside which lie
        their ``.json``), or tables of any program with a row for each detection.
    config : SourcesConfig
        What the columns of foreign tables are called.

    Returns
    -------
    list of SourceFrame
        Sorted by exposure and detector.

    Raises
    ------
    MissingDataError
        If a file cannot be read as sources, naming the columns that are missing.
    ConfigError
        If the fluxes of the tables do not mean the same.
    """
    frames = list(iter_sources(files, config))
    check_alike(frames)
    return [frames[i] for i in in_order(frames)]


def iter_sources(files: Sequence[str | Path], config: SourcesConfig) -> Iterator[SourceFrame]:
    """Yield the frames of tables of sources, one table in memory at a time.

    Parameters
    ----------
    files, config
        As in `read_sources`.
    """
    from pogson.formats import read_catalog

    if not files:
        raise MissingDataError("No table of sources is given; name some, as sources/*.parquet.")
    for file in files:
        path = Path(file)
        if not path.is_file():
            raise MissingDataError(f"There is no table of sources {str(path)!r}.")
        record = path.with_suffix(".json")
        if record.is_file():
            yield measured_frame(path, record)
            continue
        table = read_catalog(path)
        if "main_flux" in table.meta and "photo_calib" in table.meta:
            yield _catalog_frame(table, path)
        else:
            yield from wide_frames(table, config, str(path))


def in_order(frames: Sequence[SourceFrame]) -> list[int]:
    """Return the order of frames by exposure, detector and band."""
    keys = [(_natural(f.exposure), _natural(f.detector), f.band) for f in frames]
    return sorted(range(len(frames)), key=lambda i: keys[i])


def _natural(text: str) -> tuple[int, Any]:
    return (0, int(text)) if text.lstrip("-").isdigit() else (1, text)


def check_alike(frames: Sequence[SourceFrame]) -> None:
    """Raise unless all fluxes mean the same and no image occurs twice."""
    first = frames[0]
    for f in frames[1:]:
        if f.unit != first.unit or not f.reference.matches(first.reference):
            raise ConfigError(
                f"Fluxes of {f.key} are {f.reference.label} in {f.unit}, those of {first.key} are "
                f"{first.reference.label} in {first.unit}: one solution needs fluxes of one kind. "
                "Measure them alike, or solve them separately."
            )
    keys = [f.key for f in frames]
    twice = sorted({k for k in keys if keys.count(k) > 1}) if len(set(keys)) < len(keys) else []
    if twice:
        raise ConfigError(
            f"The tables hold exposure and detector {twice[0]!r} more than once; give each table "
            "once."
        )


def _number(value: Any) -> float:
    try:
        return float("nan") if value is None else float(value)
    except (TypeError, ValueError):
        return float("nan")


def serious(flags: Any) -> np.ndarray:
    """Return which flags of sources make a flux useless for a calibration."""
    from pogson.images import SourceFlag

    harmless = int(SourceFlag.SUSPECT | SourceFlag.CENTROID)
    return np.asarray((np.asarray(flags) & ~harmless) != 0)


def measured_frame(path: str | Path, record: str | Path) -> SourceFrame:
    """Return what the first stage of a run measured.

    Parameters
    ----------
    path, record : path-like
        The table and its JSON.
    """
    from pogson.calib import FluxReference
    from pogson.fields import Box
    from pogson.formats import read_catalog

    said = json.loads(Path(record).read_text(encoding="utf-8"))
    try:
        values, name = said["values"], said["flux_column"]
        reference, box = FluxReference.from_dict(said["reference"]), Box(*said["box"])
        key = said.get("key") or Path(path).stem
    except (KeyError, TypeError) as error:
        raise MissingDataError(
            f"{record} is not the record of measured sources that belongs to {path} ({error}); "
            "move it away if the table is to be read by itself."
        ) from None
    return _frame(
        read_catalog(path), name, key, box, reference, exposure=str(said["exposure_id"]),
        detector=str(said["detector"] or ""), band=str(said["band"]),
        mjd=_number(values.get("mjd")), airmass=_number(values.get("airmass")),
        seeing=_number(values.get("fwhm")), unit=said["unit"],
    )  # fmt: skip


def _catalog_frame(table: Table, path: Path) -> SourceFrame:
    """Return the instrumental fluxes of a calibrated catalogue of ``pogson run``."""
    from pogson.calib import PhotoCalib

    calib, meta = PhotoCalib.from_dict(table.meta["photo_calib"]), table.meta
    name = str(meta["main_flux"]).replace("njy_", "flux_", 1)
    if name not in table.colnames:
        raise MissingDataError(
            f"{path} has no instrumental flux {name!r} beside its calibrated one; its columns are "
            f"{', '.join(table.colnames)}."
        )
    return _frame(
        table, name, path.stem, calib.field.box, calib.reference, exposure=str(meta["exposure_id"]),
        detector=str(meta.get("detector") or ""), band=str(meta["band"]),
        mjd=_number(meta.get("mjd")), airmass=_number(meta.get("airmass")), seeing=float("nan"),
        unit=str(table[name].unit or "adu"),
    )  # fmt: skip


def _frame(
    table: Table, name: str, key: str, box: Box, reference: FluxReference, **said: Any
) -> SourceFrame:
    def floats(column: str) -> np.ndarray:
        return np.asarray(np.ma.filled(np.ma.asarray(table[column]), np.nan), float)

    return SourceFrame(
        key=key, box=box, measure="fluence", reference=reference, flux=floats(name),
        flux_err=floats(f"{name}_err"), bad=serious(table["main_flags"]),
        row=np.arange(len(table)), ra=floats("ra"), dec=floats("dec"), x=floats("x"),
        y=floats("y"), **said,
    )  # fmt: skip


def wide_frames(table: Table, config: SourcesConfig, path: str) -> list[SourceFrame]:
    """Return the frames of a table with one row a detection, of any exposures and detectors.

    Parameters
    ----------
    table : astropy.table.Table
        Columns named as ``config`` says.
    config : SourcesConfig
        Names of columns.
    path : str
        For messages.
    """
    columns = _wide_columns(table, config, path)
    exposure, detector, band = (columns[n] for n in ("exposure", "detector", "band"))
    label = np.char.add(np.char.add(exposure, "\x1f"), np.char.add(detector, "\x1f"))
    unique, inverse = np.unique(np.char.add(label, band), return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    edges = np.searchsorted(inverse[order], np.arange(unique.size + 1))
    boxes = _boxes(columns, config)
    bands: dict[str, str] = {}
    for text in unique:
        e, _, b = str(text).split("\x1f")
        if bands.setdefault(e, b) != b:
            raise MissingDataError(
                f"{path}: exposure {e!r} has rows of bands {bands[e]!r} and {b!r}; an exposure is "
                "taken through one filter. Correct the table."
            )
    out = []
    for k, text in enumerate(unique):
        rows = order[edges[k] : edges[k + 1]]
        e, d, b = str(text).split("\x1f")
        out.append(_wide_frame(columns, rows, (e, d, b), boxes[d], config))
    return out


def _wide_frame(
    c: dict[str, np.ndarray],
    rows: np.ndarray,
    said: tuple[str, str, str],
    box: Box,
    config: SourcesConfig,
) -> SourceFrame:
    from pogson.calib import FluxReference

    e, d, b = said
    kind = config.flux_reference
    if isinstance(kind, str):
        reference = FluxReference.total() if kind == "total" else FluxReference.psf()
    else:
        reference = FluxReference.aperture(kind, frame="sky")
    middle = {n: float(np.nanmedian(c[n][rows])) if np.isfinite(c[n][rows]).any() else np.nan
              for n in ("mjd", "airmass", "seeing")}  # fmt: skip
    return SourceFrame(
        key=f"{e}-{d}" if d else e, exposure=e, detector=d, band=b, mjd=middle["mjd"],
        airmass=middle["airmass"], seeing=middle["seeing"], box=box, unit=config.unit,
        measure=config.measure, reference=reference, ra=c["ra"][rows], dec=c["dec"][rows],
        x=c["x"][rows], y=c["y"][rows], flux=c["flux"][rows], flux_err=c["flux_err"][rows],
        bad=c["flags"][rows] != 0, row=rows,
    )  # fmt: skip


def _wide_columns(table: Table, config: SourcesConfig, path: str) -> dict[str, np.ndarray]:
    n, names = len(table), set(table.colnames)
    if not n:
        raise MissingDataError(f"{path} has no rows.")
    needed = [config.exposure, config.ra, config.dec, config.x, config.y]
    needed += [config.mag, config.mag_err or "mag_err"] if config.mag else [
        config.flux, config.flux_err]  # fmt: skip
    missing = [c for c in needed if c not in names]
    if missing:
        raise MissingDataError(
            f"{path} has no column {', '.join(map(repr, missing))}; it has "
            f"{', '.join(table.colnames)}. Say in [sources] what the columns are called."
        )

    def text(name: str, default: str) -> np.ndarray:
        if name not in names:
            return np.full(n, default, dtype="U64")
        return np.char.strip(np.asarray(table[name]).astype(str))

    def number(name: str | None, default: float = np.nan) -> np.ndarray:
        if name is None or name not in names:
            return np.full(n, default)
        return np.asarray(np.ma.filled(np.ma.asarray(table[name], float), np.nan), float)

    out = {"exposure": text(config.exposure, ""), "detector": text(config.detector, "0"),
           "band": text(config.band, config.band)}  # fmt: skip
    for key in ("ra", "dec", "x", "y", "mjd", "airmass", "seeing"):
        out[key] = number(getattr(config, key))
    if config.mag:
        out["flux"] = 10.0 ** (-0.4 * number(config.mag))
        out["flux_err"] = out["flux"] * number(config.mag_err or "mag_err") / _POGSON
    else:
        out["flux"], out["flux_err"] = number(config.flux), number(config.flux_err)
    out["flags"] = number(config.flags, 0.0)
    return out


def _boxes(c: dict[str, np.ndarray], config: SourcesConfig) -> dict[str, Box]:
    """Return the box of each detector: given, or the smallest that holds its sources."""
    from pogson.fields import Box

    out = {}
    for d in np.unique(c["detector"]):
        if config.detector_size is not None:
            out[str(d)] = Box(0, 0, *config.detector_size)
            continue
        on = c["detector"] == d
        x, y = c["x"][on], c["y"][on]
        size = [max(1, int(np.ceil(np.nanmax(v, initial=0.0))) + 1) for v in (x, y)]
        out[str(d)] = Box(0, 0, size[0], size[1])
    return out
