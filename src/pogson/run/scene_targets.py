"""From the table of targets to what is fitted: which pixels belong to which source."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pogson.errors import ConfigError, choices
from pogson.run.scene_config import SceneRunConfig
from pogson.units import strip_unit

__all__ = ["SceneTarget", "StampRow", "plan_stamp_targets", "read_targets_table", "safe_key"]

_NEEDED = ("target", "exposure", "ra", "dec")
_KNOWN = (
    *_NEEDED, "detector", "band", "time", "zero_point", "zero_point_err", "detection", "gain",
    "x_min", "y_min", "trail_length", "trail_angle",
)  # fmt: skip
_UNITS = {"ra": "deg", "dec": "deg", "trail_length": "arcsec", "trail_angle": "deg"}
_SAME_PLACE_ARCSEC = 0.01
_YES, _NO = ("true", "t", "yes", "y", "1"), ("false", "f", "no", "n", "0", "")


@dataclass(frozen=True)
class StampRow:
    """One exposure of one target: its files and what the table says about it.

    Parameters
    ----------
    exposure : str
        Name of the exposure.
    ra, dec : float
        Position in degrees that the stamp was cut for.
    stamp, psf : str
        Files; for whole exposures ``stamp`` is the file of cuts.
    wcs : str or None
        File with the map to the sky; None: that of the PSF file, or of the stamp itself.
    detector, band : str
        What it is of.
    detection : bool
        Whether the source is in this exposure.
    time, zero_point, zero_point_err, gain : float or None
        MJD; AB magnitude of one count and its error; electrons per count.
    origin : tuple of int or None
        First pixel, where the table says it.

    Examples
    --------
    >>> StampRow("100", 10.0, -5.0, "a.fits", "a.psf").detection
    False
    """

    exposure: str
    ra: float
    dec: float
    stamp: str
    psf: str
    wcs: str | None = None
    detector: str = ""
    band: str = ""
    detection: bool = False
    time: float | None = None
    zero_point: float | None = None
    zero_point_err: float | None = None
    gain: float | None = None
    origin: tuple[int, int] | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """Files whose change makes results stale."""
        return tuple(f for f in (self.stamp, self.psf, self.wcs) if f)


@dataclass(frozen=True)
class SceneTarget:
    """One fit: a source, its exposures, and in which of them it shines.

    Parameters
    ----------
    key : str
        Unique name, safe as a file name.
    name : str
        Of the target.
    ra, dec : float
        Where the source is, in degrees.
    rows : tuple of StampRow
        All exposures.
    detections : tuple of str
        Exposures with the source; empty: it may be in every one (a light curve).
    trail : tuple of float or None
        Length in arcsec and position angle in degrees of a trailed source.
    problem : str
        Why it cannot be fitted, if that is known already.
    left_out : tuple of (str, str)
        Exposures that are known not to be usable, and why.

    Examples
    --------
    >>> SceneTarget("a", "a", 10.0, -5.0, ()).files
    ()
    """

    key: str
    name: str
    ra: float
    dec: float
    rows: tuple[StampRow, ...]
    detections: tuple[str, ...] = ()
    trail: tuple[float, float] | None = None
    problem: str = ""
    left_out: tuple[tuple[str, str], ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """Files whose change makes the result stale."""
        return tuple(dict.fromkeys(f for row in self.rows for f in row.files))


def safe_key(name: str, taken: set[str]) -> str:
    """Return a name as a file name that is not taken yet, and take it.

    Examples
    --------
    >>> taken = set()
    >>> safe_key("2014 VV39", taken), safe_key("2014/VV39", taken)
    ('2014_VV39', '2014_VV39-2')
    """
    key = re.sub(r"[^A-Za-z0-9._+-]+", "_", name) or "target"
    unique, number = key, 2
    while unique in taken:
        unique, number = f"{key}-{number}", number + 1
    taken.add(unique)
    return unique


def read_targets_table(config: SceneRunConfig, needed: Iterable[str] = _NEEDED) -> Any:
    """Read the table of targets with its columns under the names used here.

    Parameters
    ----------
    config : SceneRunConfig
        The configuration.
    needed : iterable of str
        Columns that must be there.

    Returns
    -------
    astropy.table.Table

    Raises
    ------
    ConfigError
        If the file, a column or a target of ``only`` is missing, or there are no rows.
    """
    from pogson.formats import read_catalog

    path = config.path(config.targets.table)
    if not path.exists():
        raise ConfigError(f"[targets] table: there is no file {str(path)!r}.")
    table = read_catalog(path)
    for ours, theirs in config.targets.columns.items():
        if theirs not in table.colnames:
            raise ConfigError(
                f"[targets] columns: {path.name} has no column {theirs!r}; it has "
                f"{', '.join(table.colnames)}."
            )
        if ours != theirs and ours not in table.colnames:
            table.rename_column(theirs, ours)
    if "target" not in table.colnames and "name" in table.colnames:
        table.rename_column("name", "target")
    missing = [name for name in needed if name not in table.colnames]
    if missing:
        raise ConfigError(
            f"[targets] table {path.name} has no column {choices(missing)}; it has "
            f'{", ".join(table.colnames)}. Map yours with columns = {{ {missing[0]} = "..." }}.'
        )
    if config.targets.only is not None:
        names = np.array([str(n) for n in table["target"]])
        absent = [n for n in config.targets.only if n not in set(names)]
        if absent:
            raise ConfigError(
                f"[targets] only: {choices(absent)} is not in {path.name}, which has "
                f"{', '.join(sorted(set(names))[:20])}."
            )
        table = table[np.isin(names, config.targets.only)]
    if not len(table):
        raise ConfigError(f"[targets] table {path.name} has no rows.")
    return _in_our_units(table)


def _in_our_units(table: Any) -> Any:
    """Return the table with angles in degrees, lengths in arcsec and times in MJD (UTC)."""
    from pogson.scene.ephemeris import mjd_of

    for name, unit in _UNITS.items():
        if name in table.colnames:
            table[name] = strip_unit(table[name], unit, name)
    if "time" in table.colnames:
        table["time"] = mjd_of(table["time"])
    return table


def plan_stamp_targets(config: SceneRunConfig) -> list[SceneTarget]:
    """Return the fits of a job whose pixels come as stamps.

    Parameters
    ----------
    config : SceneRunConfig
        With a section ``[stamps]``.

    Returns
    -------
    list of SceneTarget
        In the order of the table. A target without a detection is a light curve, one for each
        band; one with detections takes the exposures of the detection's band only.

    Raises
    ------
    ConfigError
        If the table or a file-name pattern is wrong.
    """
    table = read_targets_table(config)
    by_name: dict[str, list[StampRow]] = {}
    trails: dict[str, tuple[float, float] | None] = {}
    for record in table:
        name = str(record["target"])
        by_name.setdefault(name, []).append(_stamp_row(config, record, table.colnames))
        if "trail_length" in table.colnames and _number(record["trail_length"]):
            angle = record["trail_angle"] if "trail_angle" in table.colnames else 0.0
            trails[name] = (float(record["trail_length"]), _number(angle) or 0.0)
    taken: set[str] = set()
    targets = []
    for name, rows in by_name.items():
        for part in _parts(config, rows):
            source = next((r for r in part if r.detection), part[0])
            several = len({r.band for r in rows}) > 1
            targets.append(
                SceneTarget(
                    safe_key(f"{name}-{source.band}" if several else name, taken),
                    name,
                    source.ra,
                    source.dec,
                    tuple(part),
                    tuple(r.exposure for r in part if r.detection),
                    trails.get(name),
                    _problem(config, name, part),
                )
            )
    return targets


def _parts(config: SceneRunConfig, rows: list[StampRow]) -> list[list[StampRow]]:
    """Split the rows of a target by band; with detections, only bands that have one."""
    if config.model.kind == "light_curve":
        rows = [replace(r, detection=False) for r in rows]
    bands = dict.fromkeys(r.band for r in rows)
    parts = [[r for r in rows if r.band == band] for band in bands]
    if any(r.detection for r in rows):
        return [part for part in parts if any(r.detection for r in part)]
    return parts


def _problem(config: SceneRunConfig, name: str, rows: list[StampRow]) -> str:
    """Return why a target cannot be fitted, or nothing."""
    from pogson.sky.geometry import angular_separation

    nowhere = [r.exposure for r in rows if not np.isfinite([r.ra, r.dec]).all()]
    if nowhere:
        return f"target {name!r} has no position (ra, dec) for exposure {choices(nowhere)}."
    ids = [r.exposure for r in rows]
    twice = sorted({i for i in ids if ids.count(i) > 1})
    if twice:
        return f"target {name!r} has more than one row for exposure {choices(twice)}."
    lit = [r for r in rows if r.detection] or rows
    ra, dec = np.array([(r.ra, r.dec) for r in lit]).T
    gap = 3600.0 * float(np.max(angular_separation(ra[0], dec[0], ra, dec)))
    if gap > _SAME_PLACE_ARCSEC:
        return (
            f"the positions of target {name!r} differ by up to {gap:.3g} arcsec between the "
            f"exposures {choices(r.exposure for r in lit)} in which it is to be measured. If it "
            "moves, give each detection a target name of its own; if not, give all rows one "
            "position."
        )
    return ""


def _number(value: Any) -> float | None:
    if np.ma.is_masked(value) or value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"[targets] table: {str(value)!r} is not a number.") from None
    return number if np.isfinite(number) else None


def _yes(value: Any) -> bool:
    """Return what a cell of the column ``detection`` says.

    Examples
    --------
    >>> _yes(True), _yes("False"), _yes(1), _yes(float("nan"))
    (True, False, True, False)
    """
    if np.ma.is_masked(value):
        return False
    if isinstance(value, str | bytes):
        text = (value.decode() if isinstance(value, bytes) else str(value)).strip().lower()
        if text in _YES + _NO:
            return text in _YES
    elif value != value:
        return False
    elif value in (0, 1):
        return bool(value)
    raise ConfigError(
        f"[targets] table: detection = {str(value)!r} is not clear; allowed are true and false, "
        "yes and no, 1 and 0."
    )


def _stamp_row(config: SceneRunConfig, record: Any, names: list[str]) -> StampRow:
    stamps = config.stamps
    assert stamps is not None
    values = {n: record[n] for n in names}

    def number(name: str) -> float | None:
        return _number(values[name]) if name in values else None

    def text(name: str) -> str:
        return "" if name not in values or np.ma.is_masked(values[name]) else str(values[name])

    ra, dec = number("ra"), number("dec")
    origin = None
    if stamps.origin == "table":
        first = number("x_min"), number("y_min")
        if first[0] is None or first[1] is None:
            raise ConfigError("[stamps] origin = 'table' needs the columns x_min and y_min.")
        origin = (int(first[0]), int(first[1]))
    return StampRow(
        exposure=text("exposure"),
        ra=float("nan") if ra is None else ra,
        dec=float("nan") if dec is None else dec,
        stamp=_filled(config, "files", stamps.files, values),
        psf=_filled(config, "psf", stamps.psf, values),
        wcs=None if stamps.wcs is None else _filled(config, "wcs", stamps.wcs, values),
        detector=text("detector"),
        band=text("band"),
        detection="detection" in values and _yes(values["detection"]),
        time=number("time"),
        zero_point=number("zero_point"),
        zero_point_err=number("zero_point_err"),
        gain=stamps.gain if number("gain") is None else number("gain"),
        origin=origin,
    )


def _filled(config: SceneRunConfig, key: str, pattern: str, values: Mapping[str, Any]) -> str:
    try:
        filled = pattern.format(**{k: str(v) for k, v in values.items()})
    except (KeyError, IndexError, ValueError) as error:
        raise ConfigError(
            f"[stamps] {key} = {pattern!r}: cannot fill in {error}; allowed are the columns of the "
            f"table of targets: {', '.join('{' + k + '}' for k in values)}."
        ) from None
    return str(Path(config.path(filled)))
