"""Partitions of the stars of a survey on disk, as Parquet: whole stars, in the order of stars."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pogson.errors import FileFormatError, MissingDataError, PogsonValueError
from pogson.survey.observations import Observations, Stars, SurveyTables

__all__ = ["Partition", "read_partition", "write_partitions"]

_DETECTION = ("star", "exposure", "detector", "x", "y", "mag", "mag_err", "flags")
_STAR = ("identifier", "filter", "color", "reference_mag", "reference_err", "ra", "dec")


@dataclass(frozen=True)
class Partition:
    """Where a partition is and which stars it holds.

    Parameters
    ----------
    detections, star_table : str
        Parquet files.
    first_star, stars : int
        Number of the first star in the whole survey, and of stars here.
    rows : int
        Detections.
    numbered : bool
        The identifiers of the stars are their numbers, from 1, in a whole survey in another order:
        stars to be held out are chosen by them.

    Examples
    --------
    >>> Partition("d.parquet", "s.parquet", 0, 10, 100).stars
    10
    """

    detections: str
    star_table: str
    first_star: int
    stars: int
    rows: int
    numbered: bool = False


def write_partitions(
    observations: Observations | Iterable[Observations], folder: str | Path, rows: int = 2_000_000
) -> tuple[Partition, ...]:
    """Write observations as partitions of about a number of rows.

    Parameters
    ----------
    observations : Observations or iterable of Observations
        One set, which is cut between stars; or several sets of different stars (each with its own
        table of stars, numbered from 0), each of which becomes one partition.
    folder : path-like
        Folder to write; made if needed.
    rows : int
        Detections in a partition, about.

    Returns
    -------
    tuple of Partition

    Raises
    ------
    PogsonValueError
        If ``rows`` is not positive.

    Examples
    --------
    >>> import tempfile
    >>> from pogson.survey import Detectors, Exposures
    >>> tables = SurveyTables(Exposures([1]), Detectors([0]))
    >>> obs = Observations.from_columns(tables, Stars([5, 6]), star=[0, 1], exposure=0, detector=0,
    ...     x=0, y=0, mag=[-9.0, -8.0], mag_err=0.1)
    >>> parts = write_partitions(obs, tempfile.mkdtemp(), rows=1)
    >>> [p.first_star for p in parts], read_partition(parts[1], tables).mag
    ([0, 1], array([-8.]))
    """
    if rows < 1:
        raise PogsonValueError(f"rows={rows!r}: a partition needs at least one row.")
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    pieces = (
        cut(observations, rows) if isinstance(observations, Observations) else iter(observations)
    )
    out: list[Partition] = []
    first = 0
    for k, o in enumerate(pieces):
        out.append(write_partition(root / f"part-{k:05d}", o, first))
        first += len(o.stars)
    return tuple(out)


def cut(o: Observations, rows: int) -> Iterable[Observations]:
    """Yield pieces of about a number of rows that number their stars from 0."""
    from dataclasses import fields, replace

    at = 0
    n = len(o.stars)
    edges = np.searchsorted(o.start, np.arange(0, len(o) + rows, rows))
    edges = np.unique(np.clip(np.append(edges, n), 0, n))
    for end in edges[1:] if edges[0] == 0 else edges:
        part = o.select_stars(at, int(end))
        stars = Stars(**{f.name: getattr(o.stars, f.name)[at:end] for f in fields(Stars)})
        yield replace(part, star=np.asarray(part.star) - np.int32(at), stars=stars)
        at = int(end)


def write_partition(stem: Path, o: Observations, first: int) -> Partition:
    """Write one partition whose stars are numbered from ``first`` in the whole survey."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pogson.atomic import atomic_path

    rows: dict[str, Any] = {n: getattr(o, n) for n in _DETECTION}
    rows |= {n: getattr(o, n) for n in ("airmass", "seeing") if getattr(o, n) is not None}
    names = (Path(f"{stem}.detections.parquet"), Path(f"{stem}.stars.parquet"))
    for path, columns in zip(names, (rows, {n: getattr(o.stars, n) for n in _STAR}), strict=True):
        with atomic_path(path) as temporary:
            table = pa.table({k: np.asarray(v) for k, v in columns.items()})
            pq.write_table(table, temporary, compression="none", use_dictionary=False)
    return Partition(str(names[0]), str(names[1]), first, len(o.stars), len(o))


def read_partition(partition: Partition, tables: SurveyTables) -> Observations:
    """Read a partition.

    Parameters
    ----------
    partition : Partition
        From `write_partitions`.
    tables : SurveyTables
        Exposures and detectors.

    Returns
    -------
    Observations
        With the partition's own stars, numbered from 0.

    Raises
    ------
    MissingDataError
        If a file is not there.
    FileFormatError
        If a file is not a partition.

    Examples
    --------
    See `write_partitions`.

    >>> read_partition(Partition("no.parquet", "no.parquet", 0, 1, 1), None)
    Traceback (most recent call last):
      ...
    pogson.errors.MissingDataError: ...
    """
    d = _columns(partition.detections, _DETECTION)
    s = _columns(partition.star_table, _STAR)
    return Observations(tables=tables, stars=Stars(**s), checked=True, **d)


def _columns(path: str, needed: tuple[str, ...]) -> dict[str, np.ndarray]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, memory_map=True)
    except FileNotFoundError:
        raise MissingDataError(f"There is no partition file {path!r}.") from None
    except (OSError, pa.ArrowException) as error:
        raise FileFormatError(f"{path} cannot be read as Parquet: {error}.") from None
    missing = [n for n in needed if n not in table.column_names]
    if missing:
        raise FileFormatError(f"{path} is not a partition: it has no column {', '.join(missing)}.")
    return {n: table.column(n).to_numpy() for n in table.column_names}
