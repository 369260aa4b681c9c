"""Measured sources as a global solution takes them, from whichever table they stand in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
Image = tuple[str, str, str, str]  # key, exposure, detector, band
_Names = tuple[str, str, str]  # exposure, detector, band
BATCH = 1_000_000  # rows of a Parquet file that are read at a time
_ARRAYS = ("ra", "dec", "x", "y", "flux", "flux_err", "bad", "row")
_COLUMNS = ("exposure", "detector", "band", "ra", "dec", "x", "y", "flux", "flux_err", "mag",
            "mag_err", "mjd", "airmass", "seeing", "flags")  # fmt: skip


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

    @property
    def image(self) -> Image:
        """Key, exposure, detector and band: what tells one image from another."""
        return self.key, self.exposure, self.detector, self.band


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
    pieces: dict[Image, list[SourceFrame]] = {}
    for frame in iter_sources(files, config):
        pieces.setdefault(frame.image, []).append(frame)
    frames = [joined(p) for p in pieces.values()]
    check_alike(frames)
    return [frames[i] for i in in_order(frames)]


def iter_sources(files: Sequence[str | Path], config: SourcesConfig) -> Iterator[SourceFrame]:
    """Yield the frames of tables of sources, a part of one table in memory at a time.

    Parameters
    ----------
    files, config
        As in `read_sources`.

    Yields
    ------
    SourceFrame
        An image that a Parquet file holds in several of its parts comes in pieces, one after
        another in the order of the rows; see `joined`.
    """
    if not files:
        raise MissingDataError("No table of sources is given; name some, as sources/*.parquet.")
    owner: dict[Image, int] = {}
    for k, file in enumerate(files):
        path = Path(file)
        if not path.is_file():
            raise MissingDataError(f"There is no table of sources {str(path)!r}.")
        for frame in _frames_of(path, config):
            if owner.setdefault(frame.image, k) != k:
                raise ConfigError(
                    f"The tables hold exposure and detector {frame.key!r} more than once: in "
                    f"{str(files[owner[frame.image]])!r} and {str(path)!r}; give each table once."
                )
            yield frame


def _frames_of(path: Path, config: SourcesConfig) -> Iterator[SourceFrame]:
    """Yield the frames of one table."""
    from pogson.formats import read_catalog

    record = path.with_suffix(".json")
    if record.is_file():
        yield measured_frame(path, record)
        return
    if path.suffix.lower() in (".parquet", ".parq", ".pq") and not _is_catalog(path):
        yield from _parquet_frames(path, config)
        return
    table = read_catalog(path)
    if "main_flux" in table.meta and "photo_calib" in table.meta:
        yield _catalog_frame(table, path)
    else:
        yield from wide_frames(table, config, str(path))


def _is_catalog(path: Path) -> bool:
    """Whether a Parquet file is a calibrated catalogue of one image, or cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        said = (pq.read_schema(path).metadata or {}).get(b"pogson", b"")
    except (OSError, pa.ArrowException):
        return True  # read_catalog says what is wrong
    return b'"photo_calib"' in said and b'"main_flux"' in said


def _parquet_frames(path: Path, config: SourcesConfig) -> Iterator[SourceFrame]:
    """Yield the frames of a table of any program, some rows and the needed columns at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from astropy.table import Table

    from pogson.errors import FileFormatError
    from pogson.formats.catalogs import column_from_arrow

    said = config.model_dump()
    wanted = {str(v) for k, v in said.items() if k in _COLUMNS and v is not None} | {"mag_err"}
    bands: dict[str, str] = {}
    first = 0
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            names = file.schema_arrow.names
            _check_columns(names, config, str(path))
            columns = [n for n in names if n in wanted]
            for batch in file.iter_batches(BATCH, columns=columns, use_threads=False):
                part = pa.Table.from_batches([batch])
                table = Table({
                    n: column_from_arrow(part.column(n), part.schema.field(n)) for n in columns
                })  # fmt: skip
                yield from wide_frames(table, config, str(path), first=first, bands=bands)
                first += len(table)
    except (OSError, pa.ArrowException) as error:
        raise FileFormatError(
            f"Cannot read {path} as a parquet catalogue: {error}. The file may be truncated, "
            "damaged, or of another format."
        ) from None
    if not first:
        raise MissingDataError(f"{path} has no rows.")


def joined(pieces: Sequence[SourceFrame]) -> SourceFrame:
    """Return one frame of the pieces of an image, in their order.

    Parameters
    ----------
    pieces : sequence of SourceFrame
        Of one image.
    """
    if len(pieces) == 1:
        return pieces[0]
    from pogson.fields import Box

    arrays: dict[str, Any] = {n: np.concatenate([getattr(p, n) for p in pieces]) for n in _ARRAYS}
    boxes = [p.box for p in pieces]
    box = boxes[0] if len(set(boxes)) == 1 else Box(
        0, 0, max(b.x_max for b in boxes) + 1, max(b.y_max for b in boxes) + 1
    )  # fmt: skip
    return replace(
        pieces[0], box=box, mjd=_mean(pieces, "mjd"), airmass=_mean(pieces, "airmass"),
        seeing=_mean(pieces, "seeing"), **arrays,
    )  # fmt: skip


def _mean(pieces: Sequence[SourceFrame], name: str) -> float:
    value = np.array([getattr(p, name) for p in pieces])
    weight = np.where(np.isfinite(value), [max(len(p), 1e-9) for p in pieces], 0.0)
    known = value[weight > 0]
    if not known.size or np.ptp(known) == 0.0:
        return float(known[0]) if known.size else float("nan")
    return float(known @ weight[weight > 0] / weight.sum())


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
    owner: dict[str, SourceFrame] = {}
    for f in frames:
        other = owner.setdefault(f.key, f)
        if other.image == f.image and other is not f:
            raise ConfigError(
                f"The tables hold exposure and detector {f.key!r} more than once; give each table "
                "once."
            )
        if other is not f:
            raise ConfigError(
                f"Exposure {other.exposure!r} with detector {other.detector!r}, and exposure "
                f"{f.exposure!r} with detector {f.detector!r} ({other.band}, {f.band}) would be "
                f"written to the same file, {f.key!r}; rename one of them."
            )


def _number(value: Any) -> float:
    try:
        return float("nan") if value is None else float(value)
    except (TypeError, ValueError):
        return float("nan")


def _name(detector: Any) -> str:
    """Return the name of a detector, which may be the number 0; none: the only one."""
    return "" if detector is None else str(detector)


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
        detector=_name(said["detector"]), band=str(said["band"]),
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
        detector=_name(meta.get("detector")), band=str(meta["band"]),
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


def wide_frames(
    table: Table,
    config: SourcesConfig,
    path: str,
    *,
    first: int = 0,
    bands: dict[str, str] | None = None,
) -> list[SourceFrame]:
    """Return the frames of a table with one row a detection, of any exposures and detectors.

    Parameters
    ----------
    table : astropy.table.Table
        Columns named as ``config`` says.
    config : SourcesConfig
        Names of columns.
    path : str
        For messages.
    first : int
        Row of the file with which the table begins.
    bands : dict, optional
        Bands of the exposures of the rows before; those of the table are added.

    Raises
    ------
    MissingDataError
        If columns are missing, rows do not say what they belong to, or an exposure has two bands.
    """
    columns = _wide_columns(table, config, path, first)
    names, code = _images(columns)
    order = np.argsort(code, kind="stable")
    edges = np.searchsorted(code[order], np.arange(len(names) + 1))
    boxes = _boxes(columns, config)
    bands = {} if bands is None else bands
    for e, _, b in names:
        if bands.setdefault(e, b) != b:
            raise MissingDataError(
                f"{path}: exposure {e!r} has rows of bands {bands[e]!r} and {b!r}; an exposure is "
                "taken through one filter. Correct the table."
            )
    return [
        _wide_frame(columns, order[edges[k] : edges[k + 1]], said, boxes[said[1]], config, first)
        for k, said in enumerate(names)
    ]


def _images(columns: dict[str, Any]) -> tuple[list[_Names], np.ndarray]:
    """Return exposure, detector and band of each image, and the number of each row's."""
    texts, code = [], np.zeros(columns["x"].size, np.int64)
    for name in ("exposure", "detector", "band"):
        text, number = columns[name]
        texts.append(text)
        code = code * len(text) + number
    unique, code = np.unique(code, return_inverse=True)
    detectors, bands = len(texts[1]), len(texts[2])
    images = [
        (str(texts[0][u // (detectors * bands)]), str(texts[1][u // bands % detectors]),
         str(texts[2][u % bands]))
        for u in unique
    ]  # fmt: skip
    order = sorted(range(len(images)), key=lambda i: images[i])
    rank = np.empty(len(images), np.int64)
    rank[order] = np.arange(len(images))
    return [images[i] for i in order], rank[code.reshape(-1)]


def _file_name(exposure: str, detector: str) -> str:
    """Return a key that is one part of a path whatever the exposure is called."""
    return re.sub(r"[^\w.+-]+", "_", f"{exposure}-{detector}" if detector else exposure)


def _wide_frame(
    c: dict[str, Any],
    rows: np.ndarray,
    said: _Names,
    box: Box,
    config: SourcesConfig,
    first: int,
) -> SourceFrame:
    from pogson.calib import FluxReference

    e, d, b = said
    kind = config.flux_reference
    if isinstance(kind, str):
        reference = FluxReference.total() if kind == "total" else FluxReference.psf()
    else:
        reference = FluxReference.aperture(kind, frame="sky")
    middle = {n: _middle(c[n][rows]) for n in ("mjd", "airmass", "seeing")}
    return SourceFrame(
        key=_file_name(e, d), exposure=e, detector=d, band=b, mjd=middle["mjd"],
        airmass=middle["airmass"], seeing=middle["seeing"], box=box, unit=config.unit,
        measure=config.measure, reference=reference, ra=c["ra"][rows], dec=c["dec"][rows],
        x=c["x"][rows], y=c["y"][rows], flux=c["flux"][rows], flux_err=c["flux_err"][rows],
        bad=c["flags"][rows] != 0, row=first + rows,
    )  # fmt: skip


def _middle(values: np.ndarray) -> float:
    good = values[np.isfinite(values)]
    return float(np.median(good)) if good.size else float("nan")


def _check_columns(names: Sequence[str], config: SourcesConfig, path: str) -> None:
    """Raise if a table lacks a column that is needed."""
    needed = [config.exposure, config.ra, config.dec, config.x, config.y]
    needed += [config.mag, config.mag_err or "mag_err"] if config.mag else [
        config.flux, config.flux_err]  # fmt: skip
    missing = [c for c in needed if c not in names]
    if missing:
        raise MissingDataError(
            f"{path} has no column {', '.join(map(repr, missing))}; it has "
            f"{', '.join(names)}. Say in [sources] what the columns are called."
        )


def _wide_columns(table: Table, config: SourcesConfig, path: str, first: int) -> dict[str, Any]:
    n, names = len(table), set(table.colnames)
    if not n:
        raise MissingDataError(f"{path} has no rows.")
    _check_columns(table.colnames, config, path)

    def number(name: str | None, default: float = np.nan) -> np.ndarray:
        if name is None or name not in names:
            return np.full(n, default)
        try:
            column = np.ma.asarray(table[name]).astype(float)
        except (TypeError, ValueError):
            raise MissingDataError(
                f"{path}: column {name!r} holds {table[name].dtype}, it must be numbers."
            ) from None
        return np.asarray(np.ma.filled(column, np.nan))

    out: dict[str, Any] = {}
    for key, default in (("exposure", ""), ("detector", "0"), ("band", config.band)):
        name = getattr(config, key)
        out[key] = (np.array([default]), np.zeros(n, np.int64))
        if name in names:
            out[key] = _texts(table[name], key, name, path, first)
    for key in ("ra", "dec", "x", "y", "mjd", "airmass", "seeing"):
        out[key] = number(getattr(config, key))
    if config.mag:
        out["flux"] = 10.0 ** (-0.4 * number(config.mag))
        out["flux_err"] = out["flux"] * number(config.mag_err or "mag_err") / _POGSON
    else:
        out["flux"], out["flux_err"] = number(config.flux), number(config.flux_err)
    out["flags"] = number(config.flags, 0.0)
    return out


def _texts(column: Any, what: str, name: str, path: str, first: int) -> tuple[Any, np.ndarray]:
    """Return the different names in a column as text, and the number of each row's."""
    values, lacking = np.asarray(np.ma.getdata(column)), np.ma.getmaskarray(column)
    lacking = lacking | ~np.isfinite(values) if values.dtype.kind == "f" else lacking
    if not lacking.all() and values.dtype.kind == "f" and np.all(values[~lacking] % 1 == 0):
        values = np.where(lacking, 0.0, values).astype(np.int64)  # integers, read as floats
    unique, code = np.unique(values, return_inverse=True)
    text, again = np.unique(np.char.strip(unique.astype(str)), return_inverse=True)
    code = again.reshape(-1)[code.reshape(-1)]
    if what != "detector":
        lacking = lacking | (text == "")[code]
    if lacking.any():
        raise MissingDataError(
            f"{path}: {int(lacking.sum())} rows have no {what} in column {name!r}, the first is "
            f"row {first + int(np.argmax(lacking))}; fill it in, or remove them."
        )
    return text, code


def _boxes(c: dict[str, Any], config: SourcesConfig) -> dict[str, Box]:
    """Return the box of each detector: given, or the smallest that holds its sources."""
    from pogson.fields import Box

    text, code = c["detector"]
    if config.detector_size is not None:
        return {str(d): Box(0, 0, *config.detector_size) for d in text}
    size = np.zeros((2, len(text)))
    for k, v in enumerate((c["x"], c["y"])):
        good = np.isfinite(v)
        np.maximum.at(size[k], code[good], v[good])
    whole = np.ceil(size).astype(int) + 1
    return {str(d): Box(0, 0, int(w), int(h)) for d, w, h in zip(text, *whole, strict=True)}
