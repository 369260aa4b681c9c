"""Association of more detections than memory holds: HEALPix partitions on disk, exact at borders.

Detections are read in pieces and written to one Parquet file a HEALPix pixel, each with those from
next door that lie within the matching radius of its border. Every pixel is matched by itself;
groups that share a detection are one star. The answer is that of `associate` in one piece: the same
stars, numbers and mean places, to the bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pogson.errors import ConfigError, FileFormatError, PogsonValueError
from pogson.survey.association import (
    Association,
    Seeds,
    _height,
    _radius,
    _to_seeds,
    friends_of_friends,
    nearest_position,
    summary,
)

__all__ = ["PartitionedAssociation", "associate_partitions"]

_NEEDED = ("ra", "dec", "exposure")


@dataclass(frozen=True, eq=False)
class PartitionedAssociation:
    """Associated detections on disk.

    Parameters
    ----------
    folder : pathlib.Path
        Where the files are: ``detections-PIXEL.parquet`` (all columns given, with ``star``,
        ``duplicate`` and ``row``, sorted by star; whole stars) and ``stars-PIXEL.parquet``.
    pixels : tuple of int
        HEALPix pixels with stars.
    nside : int
        Their resolution, nested scheme.
    stars, detections, unplaced : int
        Numbers in all; unplaced detections had no position and are in no file.

    Examples
    --------
    >>> PartitionedAssociation(Path("x"), (3, 4), 16, 10, 100, 0).detection_file(3).name
    'detections-3.parquet'
    """

    folder: Path
    pixels: tuple[int, ...]
    nside: int
    stars: int
    detections: int
    unplaced: int

    def detection_file(self, pixel: int) -> Path:
        """Return the path of the detections of a pixel's stars."""
        return self.folder / f"detections-{pixel}.parquet"

    def star_file(self, pixel: int) -> Path:
        """Return the path of the table of a pixel's stars."""
        return self.folder / f"stars-{pixel}.parquet"

    def pieces(self) -> Iterator[tuple[Association, Any]]:
        """Yield, for each pixel, the association of its stars and the table of its detections.

        Stars are numbered from 0 in each piece; the column ``star`` of the table holds numbers in
        the whole survey.
        """
        import pyarrow.parquet as pq

        for pixel in self.pixels:
            table = pq.read_table(self.detection_file(pixel))
            s = {n: c.to_numpy() for n, c in _columns(pq.read_table(self.star_file(pixel)))}
            star = np.searchsorted(s["star"], table["star"].to_numpy())
            meta = pq.read_schema(self.star_file(pixel)).metadata
            yield (
                Association(
                    star, table["duplicate"].to_numpy(zero_copy_only=False), s["ra"], s["dec"],
                    s["detections"], s["exposures"], s["extent"], s["neighbor"], s["seed"],
                    float(meta[b"radius_arcsec"]), float(meta[b"isolation_arcsec"]),
                ),
                table,
            )  # fmt: skip


def _columns(table: Any) -> Iterator[tuple[str, Any]]:
    return zip(table.column_names, table.columns, strict=True)


def _tables(sources: Iterable[Any], rows: int) -> Iterator[Any]:
    """Yield tables of about ``rows`` rows from tables and Parquet files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for source in sources:
        if isinstance(source, pa.Table):
            tables: Iterable[Any] = (source,)
        else:
            try:
                file = pq.ParquetFile(source)
            except (OSError, pa.ArrowInvalid) as error:
                raise FileFormatError(
                    f"{source} cannot be read as Parquet ({error}); give Parquet files or tables."
                ) from None
            tables = (pa.Table.from_batches([b]) for b in file.iter_batches(rows))
        for table in tables:
            missing = [n for n in _NEEDED if n not in table.column_names]
            if missing:
                raise FileFormatError(
                    f"{source if not isinstance(source, pa.Table) else 'A table'} lacks columns "
                    f"{missing}; detections need {list(_NEEDED)}."
                )
            yield table


class _Scatter:
    """First pass: write detections to the files of their pixels, and of those next door."""

    def __init__(self, folder: Path, nside: int, radius: float) -> None:
        from astropy_healpix import HEALPix  # type: ignore[import-untyped]

        fine = 1
        while 58.6 * 3600.0 / (2 * fine) > 4.0 * radius and fine < 2**24:
            fine *= 2
        if fine < nside:
            raise ConfigError(
                f"nside={nside} has pixels too small for a radius of {radius} arcsec; use at most "
                f"{fine}."
            )
        self.folder, self.nside, self.ratio = folder, nside, (fine // nside) ** 2
        self.grid = HEALPix(fine, order="nested")
        self.writers: dict[int, Any] = {}
        self.rows = self.unplaced = 0

    def add(self, table: Any) -> None:
        import astropy.units as u
        import pyarrow as pa

        ra = np.mod(table["ra"].to_numpy().astype(np.float64), 360.0)
        dec = table["dec"].to_numpy().astype(np.float64)
        number = np.arange(self.rows, self.rows + ra.size)
        self.rows += ra.size
        good = np.isfinite(ra) & np.isfinite(dec)
        if np.any(np.abs(dec[good]) > 90.0):
            raise PogsonValueError("A declination is outside [-90, 90] degrees.")
        self.unplaced += int(np.count_nonzero(~good))
        at = np.flatnonzero(good)
        fine = np.asarray(self.grid.lonlat_to_healpix(ra[at] * u.deg, dec[at] * u.deg))
        # within the radius of a position lie only its fine pixel and the eight around it
        cells, inverse = np.unique(fine, return_inverse=True)
        around = np.asarray(self.grid.neighbours(cells)).T
        around = np.where(around < 0, cells[:, None], around) // self.ratio
        home = cells // self.ratio
        border = np.any(around != home[:, None], axis=1)
        table = table.append_column("row", pa.array(number))
        own = home[inverse]
        rows, pixels, halo = [at], [own], [np.zeros(at.size, bool)]
        edge = np.flatnonzero(border[inverse])
        for k in range(8):
            other = around[inverse[edge], k]
            new = other != own[edge]
            for j in range(k):
                new &= other != around[inverse[edge], j]
            rows.append(at[edge[new]])
            pixels.append(other[new])
            halo.append(np.ones(int(new.sum()), bool))
        self._write(table, *(np.concatenate(v) for v in (rows, pixels, halo)))

    def _write(self, table: Any, rows: np.ndarray, pixels: np.ndarray, halo: np.ndarray) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        order = np.argsort(pixels, kind="stable")
        edges = np.flatnonzero(np.diff(pixels[order])) + 1
        for part in np.split(order, edges):
            if not part.size:
                continue
            pixel = int(pixels[part[0]])
            piece = table.take(pa.array(rows[part])).append_column("halo", pa.array(halo[part]))
            if pixel not in self.writers:
                path = self.folder / f"scatter-{pixel}.parquet"
                self.writers[pixel] = pq.ParquetWriter(path, piece.schema)
            self.writers[pixel].write_table(piece)

    def close(self) -> list[int]:
        for w in self.writers.values():
            w.close()
        return sorted(self.writers)


@dataclass
class _Groups:
    """Groups of all pixels, before those that share a detection are joined."""

    zone: list[np.ndarray]
    ra: list[np.ndarray]
    dec: list[np.ndarray]
    seed: list[np.ndarray]
    count: int = 0

    @classmethod
    def empty(cls) -> _Groups:
        return cls([], [], [], [])


def _match(
    path: Path, groups: _Groups, radius: float, seeds: Seeds | None, seeded_only: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Match one pixel; return row numbers, group numbers (-1: none) and which rows are its own."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    has_epoch = "epoch" in file.schema_arrow.names
    names = ["ra", "dec", "row", "halo", *(["epoch"] if has_epoch else [])]
    table = file.read(columns=names)
    x = np.mod(table["ra"].to_numpy().astype(np.float64), 360.0)
    y = table["dec"].to_numpy().astype(np.float64)
    own = ~table["halo"].to_numpy(zero_copy_only=False)
    group = np.full(x.size, -1, np.int64)
    rest = np.ones(x.size, bool)
    if seeds is not None and seeds.ra.size:
        moment = table["epoch"].to_numpy().astype(np.float64) if has_epoch else None
        hit = _to_seeds(x, y, moment, seeds, radius)
        mine = own & (hit >= 0)
        used, inverse = np.unique(hit[mine], return_inverse=True)
        group[mine] = inverse + groups.count
        rest = hit < 0
        for column in (groups.zone, groups.ra, groups.dec):
            column.append(np.zeros(used.size))
        groups.seed.append(used)
        groups.count += used.size
    rows = np.flatnonzero(rest)
    if rows.size and not seeded_only:
        found, first = friends_of_friends(x[rows], y[rows], radius)
        # groups of nothing but rows from next door are found there
        inside = np.bincount(found, own[rows], first.size) > 0
        number = np.where(inside, np.cumsum(inside) - 1 + groups.count, -1)
        group[rows] = number[found]
        at = rows[first[inside]]
        groups.zone.append(((y[at] + 90.0) / _height(radius)).astype(np.int64).astype(float))
        groups.ra.append(x[at])
        groups.dec.append(y[at])
        groups.seed.append(np.full(at.size, -1))
        groups.count += at.size
    return table["row"].to_numpy(), group, own


def _join(groups: _Groups, shared: np.ndarray, node: np.ndarray) -> tuple[np.ndarray, ...]:
    """Join groups by shared rows and seeds; return each group's star, and each star's seed."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n = groups.count
    zone, ra, dec = (
        np.concatenate([np.zeros(0), *v]) for v in (groups.zone, groups.ra, groups.dec)
    )
    seed = np.concatenate([np.zeros(0, np.int64), *groups.seed])
    order = np.argsort(shared, kind="stable")
    same = np.flatnonzero(np.diff(shared[order]) == 0)
    links = [(node[order[same]], node[order[same + 1]])]
    seeded = np.flatnonzero(seed >= 0)
    by_seed = seeded[np.argsort(seed[seeded], kind="stable")]
    same = np.flatnonzero(np.diff(seed[by_seed]) == 0)
    links.append((by_seed[same], by_seed[same + 1]))
    i, j = (np.concatenate([link[k] for link in links]) for k in (0, 1))
    graph = coo_matrix((np.ones(i.size, np.int8), (i, j)), shape=(n, n))
    label = connected_components(graph, directed=False)[1]
    # stars in the order of the best key among their groups: seeds first
    rank = np.lexsort((dec, ra, zone, np.where(seed >= 0, seed, np.iinfo(np.int64).max)))
    _, first = np.unique(label[rank], return_index=True)
    stars = rank[np.sort(first)]  # the group that represents each star
    number = np.empty(stars.size, np.int64)
    number[label[stars]] = np.arange(stars.size)
    return number[label], seed[stars], stars


def associate_partitions(
    sources: Iterable[Any],
    folder: str | Path,
    *,
    radius: float = 1.0,
    isolation: float = 5.0,
    nside: int = 16,
    seeds: Seeds | None = None,
    seeded_only: bool = False,
    rows: int = 2_000_000,
) -> PartitionedAssociation:
    """Match detections in Parquet files into stars, a part of the sky at a time.

    Parameters
    ----------
    sources : iterable of path-like or pyarrow.Table
        Detections: columns ``ra``, ``dec`` (degrees), ``exposure``, optionally ``epoch`` (Julian
        year) and ``weight``; all others are carried along.
    folder : path-like
        Where to write; made if needed.
    radius, isolation, seeds, seeded_only
        As in `associate`.
    nside : int
        HEALPix resolution of the partitions, a power of two: 16 is 3.7 degrees.
    rows : int
        Rows read at a time.

    Returns
    -------
    PartitionedAssociation

    Raises
    ------
    FileFormatError
        If a file is not Parquet or lacks a column.
    ConfigError
        If nside is not a power of two, or its pixels are too small for the radius.

    Notes
    -----
    A star whose detections lie in several pixels goes to the pixel of its representative
    detection. In memory at a time: one pixel, the rows near borders, and the places of all stars.

    Examples
    --------
    >>> import tempfile, pyarrow as pa
    >>> table = pa.table({"ra": [45.0, 45.0, 80.0], "dec": [0.00001, -0.00001, 5.0],
    ...                   "exposure": [1, 2, 1]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = associate_partitions([table], folder)
    ...     [a.star.tolist() for a, _ in found.pieces()]
    [[0, 0], [0]]
    """
    radius, isolation = _radius(radius, "radius"), _radius(isolation, "isolation", -1.0)
    if nside < 1 or nside & (nside - 1):
        raise ConfigError(f"nside is {nside!r}; it must be a power of two.")
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    scatter = _Scatter(out, int(nside), radius)
    for table in _tables(sources, rows):
        scatter.add(table)
    pixels = scatter.close()
    groups, shared, nodes, homes = _Groups.empty(), [], [], []
    for pixel in pixels:
        before = groups.count
        number, group, own = _match(
            out / f"scatter-{pixel}.parquet", groups, radius, seeds, seeded_only
        )
        np.save(out / f"groups-{pixel}.npy", group)
        placed = group >= 0
        # a group reaches over the border if it holds a row from next door
        touched = np.zeros(groups.count - before, bool)
        touched[group[~own & placed] - before] = True
        border = placed.copy()
        border[placed] = touched[group[placed] - before]
        shared.append(number[border])
        nodes.append(group[border])
        homes.append(np.full(groups.count - before, pixel))
    star_of, seed, first = _join(
        groups,
        np.concatenate([np.zeros(0, np.int64), *shared]),
        np.concatenate([np.zeros(0, np.int64), *nodes]),
    )
    home = np.concatenate([np.zeros(0, np.int64), *homes])[first]
    return _gather(out, pixels, scatter, star_of, seed, home, radius, isolation)


def _gather(
    out: Path, pixels: list[int], scatter: _Scatter, star_of: np.ndarray, seed: np.ndarray,
    home: np.ndarray, radius: float, isolation: float,
) -> PartitionedAssociation:  # fmt: skip
    """Bring whole stars together, summarise them and write the files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    moved: dict[int, list[Any]] = {}
    kept = 0
    for pixel in pixels:  # rows whose star lives elsewhere
        table, star = _own_rows(out, pixel, star_of)
        away = np.flatnonzero((star >= 0) & (home[np.maximum(star, 0)] != pixel))
        for p in np.unique(home[star[away]]):
            rows = away[home[star[away]] == p]
            part = table.take(pa.array(rows)).append_column("star", pa.array(star[rows]))
            moved.setdefault(int(p), []).append(part)
    places = np.full((seed.size, 2), np.nan)
    results: list[tuple[int, np.ndarray, Association]] = []
    for pixel in pixels:
        table, star = _own_rows(out, pixel, star_of)
        stay = np.flatnonzero((star >= 0) & (home[np.maximum(star, 0)] == pixel))
        table = table.take(pa.array(stay)).append_column("star", pa.array(star[stay]))
        table = pa.concat_tables([table, *moved.pop(pixel, [])])
        (out / f"scatter-{pixel}.parquet").unlink()
        (out / f"groups-{pixel}.npy").unlink()
        if not table.num_rows:
            continue
        c = {n: table[n].to_numpy() for n in ("ra", "dec", "exposure", "star")}
        used, local = np.unique(c["star"], return_inverse=True)
        w = table["weight"].to_numpy() if "weight" in table.column_names else np.ones(local.size)
        a = summary(
            local, np.mod(c["ra"].astype(np.float64), 360.0), c["dec"].astype(np.float64),
            c["exposure"].astype(np.int64), w.astype(np.float64), seed[used], radius, 0.0,
        )  # fmt: skip
        places[used] = np.stack([a.ra, a.dec], axis=1)
        order = np.lexsort((c["dec"], c["ra"], c["exposure"], local))
        table = table.append_column("duplicate", pa.array(a.duplicate)).take(pa.array(order))
        pq.write_table(table, out / f"detections-{pixel}.parquet")
        kept += table.num_rows
        results.append((pixel, used, a))
    neighbor = _neighbor(places, isolation)
    meta = {"radius_arcsec": repr(radius), "isolation_arcsec": repr(isolation), "ra_unit": "deg"}
    for pixel, used, a in results:
        columns = {"star": used, "ra": a.ra, "dec": a.dec, "detections": a.detections,
                   "exposures": a.exposures, "extent": a.extent, "neighbor": neighbor[used],
                   "seed": a.seed}  # fmt: skip
        table = pa.table(columns).replace_schema_metadata(meta)
        pq.write_table(table, out / f"stars-{pixel}.parquet")
    return PartitionedAssociation(
        out, tuple(p for p, _, _ in results), scatter.nside, int(seed.size), kept, scatter.unplaced
    )


def _neighbor(places: np.ndarray, isolation: float) -> np.ndarray:
    if isolation <= 0 or not places.size:
        return np.full(places.shape[0], np.inf)
    ra, dec = places.T
    return nearest_position(ra, dec, ra, dec, isolation, same=True)[1]


def _own_rows(out: Path, pixel: int, star_of: np.ndarray) -> tuple[Any, np.ndarray]:
    """Return a pixel's own detections and their stars (-1: none)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(out / f"scatter-{pixel}.parquet")
    own = np.flatnonzero(~table["halo"].to_numpy(zero_copy_only=False))
    group = np.load(out / f"groups-{pixel}.npy", allow_pickle=False)[own]
    star = np.where(group >= 0, star_of[np.maximum(group, 0)] if star_of.size else -1, -1)
    return table.take(pa.array(own)).drop_columns(["halo"]), star
