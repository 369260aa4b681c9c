"""From sources of many exposures to partitions of the stars on disk: memory is that of a part.

The tables of sources are gone through twice, some rows of one at a time: once for what each image
is, once to write their detections by the part of the sky on which they lie. Stars are matched a
part at a time, exactly across borders, and whole stars are written as the partitions that the
solution reads.
Numbers, stars and references are those of `pogson.run.solve_stars.assemble`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import CalibrationError
from pogson.run.config import ReferenceConfig
from pogson.run.resume import TaskState, fingerprint
from pogson.run.solve_config import SolveConfig
from pogson.run.solve_moving import Moving, moving_objects, years
from pogson.run.solve_sources import Image, SourceFrame, check_alike, in_order, joined
from pogson.run.solve_stars import (
    ambiguous,
    said_counts,
    star_places,
    star_references,
    survey_tables,
    thinning,
    usable_rows,
)

if TYPE_CHECKING:
    from pogson.formats import ReferenceCatalog
    from pogson.survey import Partition, PartitionedAssociation, SurveyTables

__all__ = ["PartitionedSurvey", "Scan", "assemble_partitions", "scan_sources"]

_LARGE = 5  # partitions above which "auto" means partitions
_MATCH = ("match_radius", "isolation", "min_snr", "min_detections", "magnitude_range",
          "references", "nights_start", "epochs", "floor_per", "partition_rows")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Scan:
    """What the tables hold.

    Parameters
    ----------
    frames : tuple of SourceFrame
        Sorted; with all their sources, or (``large``) a few of each.
    sizes : numpy.ndarray of int
        Sources of each.
    large : bool
        Whether the solution is to be made from partitions.

    Examples
    --------
    >>> Scan((), np.zeros(0, int), False).large
    False
    """

    frames: tuple[SourceFrame, ...]
    sizes: np.ndarray
    large: bool


class _Images:
    """The images that sources belong to, gathered piece by piece: with all sources, or a few."""

    def __init__(self, *, few: bool) -> None:
        self.few = few
        self.pieces: dict[Image, list[SourceFrame]] = {}
        self.sizes: dict[Image, int] = {}
        self.steps: dict[Image, int] = {}

    def add(self, frame: SourceFrame) -> None:
        """Add a piece, or every so many of its sources."""
        key, n = frame.image, len(frame)
        at = self.sizes.get(key, 0)
        self.sizes[key] = at + n
        here = self.pieces.setdefault(key, [])
        if not self.few:
            here.append(frame)
            return
        step = self.steps.setdefault(key, 1)
        here.append(_every(frame, step, -at % step))
        self._thin(key)

    def thin(self) -> None:
        """Keep a few sources of each from now on."""
        self.few = True
        for key in self.pieces:
            self._thin(key)

    def _thin(self, key: Image) -> None:
        step, new = self.steps.get(key, 1), thinning(self.sizes[key])
        self.pieces[key] = [_every(joined(self.pieces[key]), new // step, 0)]
        self.steps[key] = new

    def scan(self) -> Scan:
        """Return all images in order."""
        frames = [joined(p) for p in self.pieces.values()]
        sizes = list(self.sizes.values())
        check_alike(frames)
        order = in_order(frames)
        return Scan(tuple(frames[i] for i in order), np.array([sizes[i] for i in order]), self.few)


def _every(frame: SourceFrame, step: int, first: int) -> SourceFrame:
    if step == 1 and first == 0:
        return frame
    names = ("ra", "dec", "x", "y", "flux", "flux_err", "bad", "row")
    few: dict[str, Any] = {n: np.array(getattr(frame, n)[first::step]) for n in names}
    return replace(frame, **few)


def scan_sources(source: Callable[[], Iterator[SourceFrame]], config: SolveConfig) -> Scan:
    """Go through all sources; keep them if they are few.

    Parameters
    ----------
    source : callable
        Yields the frames, each time it is called, in one piece or several.
    config : SolveConfig
        Says what is few.

    Raises
    ------
    ConfigError
        If fluxes do not mean the same or an image occurs twice.
    """
    images = _Images(few=config.partitions == "always")
    total = 0
    for frame in source():
        total += len(frame)
        images.add(frame)
        many = config.partitions == "auto" and total > _LARGE * config.partition_rows
        if many and not images.few:
            images.thin()
    return images.scan()


@dataclass(frozen=True, eq=False)
class PartitionedSurvey:
    """Observations on disk, and what leads from them back to the tables of sources.

    Parameters
    ----------
    frames : tuple of SourceFrame
        The images; with a few of their sources.
    tables : SurveyTables
        Exposures and detectors.
    exposure, detector : numpy.ndarray of int, shape (frames,)
        Rows of each frame in the tables.
    exposure_names, detector_names : tuple of str
        What the tables of sources call the rows.
    partitions : tuple of Partition
        The detections and stars.
    without_color : numpy.ndarray of bool, shape (stars,)
        Stars that had no colour and were given that of the pivot.
    counts : dict
        How many sources do not take part, by reason.
    references : int
        Stars of known magnitude.

    Examples
    --------
    >>> PartitionedSurvey.__name__
    'PartitionedSurvey'
    """

    frames: tuple[SourceFrame, ...]
    tables: SurveyTables
    exposure: np.ndarray
    detector: np.ndarray
    exposure_names: tuple[str, ...]
    detector_names: tuple[str, ...]
    partitions: tuple[Partition, ...]
    without_color: np.ndarray
    counts: dict[str, int]
    references: int

    @property
    def stars(self) -> int:
        """Number of stars."""
        return sum(p.stars for p in self.partitions)

    @property
    def detections(self) -> int:
        """Number of detections."""
        return sum(p.rows for p in self.partitions)


def rows_file(partition: Partition) -> Path:
    """Return the file that says from which frame and row each detection of a partition came."""
    return Path(partition.detections.replace(".detections.", ".rows."))


def color_fill(config: SolveConfig) -> float | str | None:
    """Return what stars without colour are given: the pivot, "median", or None (no term asks)."""
    for term in config.terms:
        if term.kind in ("color_slope", "color_flat"):
            return float(term.settings.get("pivot", 0.0))
    return "median" if any(t.kind == "atmosphere" for t in config.terms) else None


def assemble_partitions(
    scan: Scan,
    source: Callable[[], Iterator[SourceFrame]],
    config: SolveConfig,
    folder: Path,
    catalog: ReferenceCatalog | None = None,
    reference: ReferenceConfig | None = None,
    *,
    mark: str = "",
) -> PartitionedSurvey:
    """Match sources into stars, join references, and write partitions of whole stars.

    Parameters
    ----------
    scan : Scan
        From `scan_sources`.
    source : callable
        Yields the frames again.
    config : SolveConfig
        Section ``[solve]``.
    folder : pathlib.Path
        Folder to write. What an interrupted or earlier run with the same input and settings left
        there is used again.
    catalog : ReferenceCatalog, optional
        Stars of known flux.
    reference : ReferenceConfig, optional
        How the catalogue's bands map on ours; needed with a catalogue.
    mark : str
        Fingerprint of the input files.

    Returns
    -------
    PartitionedSurvey

    Raises
    ------
    CalibrationError
        If no star was seen often enough.
    """
    tables, exposure, detector, names, detectors = survey_tables(scan.frames, config)
    settings = config.model_dump(mode="json")
    ask = [{k: settings[k] for k in _MATCH}, color_fill(config),
           None if reference is None else reference.model_dump(mode="json")]  # fmt: skip
    print_ = fingerprint(settings=ask, upstream=[mark])
    state = TaskState(folder, "partitions")
    if not (mark and state.is_current(print_)):
        state.begin()
        first = fingerprint(settings=[settings["match_radius"], settings["isolation"],
                                      settings["min_snr"], settings["partition_rows"]],
                            upstream=[mark])  # fmt: skip
        moving = moving_objects(catalog, tables.exposures.mjd, config)
        year = years(tables.exposures.mjd)[exposure]
        found, counts = _associated(scan, source, config, folder, first, moving, year)
        writer = _Writer(folder / "partitions", config, tables, exposure, detector, moving)
        writer.write(found, counts)
        content = writer.finish(catalog, reference, color_fill(config))
        (folder / "partitions.json").write_text(json.dumps(content), encoding="utf-8")
        outputs = [folder / "partitions.json", *sorted((folder / "partitions").iterdir())]
        state.finish(print_, outputs)
        TaskState(folder, "association").begin()
        shutil.rmtree(folder / "association", ignore_errors=True)
    return _survey(scan, folder, tables, (exposure, detector, tuple(names), tuple(detectors)))


def _survey(
    scan: Scan, folder: Path, tables: SurveyTables, said: tuple[Any, ...]
) -> PartitionedSurvey:
    from pogson.survey import Partition

    content = json.loads((folder / "partitions.json").read_text(encoding="utf-8"))
    exposure, detector, names, detectors = said
    return PartitionedSurvey(
        scan.frames, tables, exposure, detector, names, detectors,
        tuple(Partition(**p) for p in content["partitions"]),
        np.load(folder / "partitions" / "without_color.npy", allow_pickle=False),
        content["counts"], content["references"],
    )  # fmt: skip


def _resolution(scan: Scan, rows: int) -> int:
    """Return the coarsest nside at which no part of the sky holds more detections than wanted."""
    import astropy.units as u
    from astropy_healpix import HEALPix  # type: ignore[import-untyped]

    ra = np.concatenate([f.ra for f in scan.frames])
    dec = np.concatenate([f.dec for f in scan.frames])
    weight = np.concatenate([
        np.full(len(f), n / max(len(f), 1)) for f, n in zip(scan.frames, scan.sizes, strict=True)
    ])  # fmt: skip
    good = np.isfinite(ra + dec) & (np.abs(dec) <= 90)
    nside = 1
    while nside < 1024:
        pixel = HEALPix(nside, order="nested").lonlat_to_healpix(
            np.mod(ra[good], 360.0) * u.deg, dec[good] * u.deg
        )
        most = np.bincount(np.unique(pixel, return_inverse=True)[1], weight[good]).max(initial=0.0)
        if most <= rows:
            break
        nside *= 2
    return nside


def _associated(
    scan: Scan,
    source: Callable[[], Iterator[SourceFrame]],
    config: SolveConfig,
    folder: Path,
    print_: str,
    moving: Moving | None,
    year: np.ndarray,
) -> tuple[PartitionedAssociation, dict[str, int]]:
    """Match all usable sources, or take what an interrupted run matched."""
    from pogson.survey import PartitionedAssociation, associate_partitions

    state, said = TaskState(folder, "association"), folder / "association.json"
    if state.is_current(print_):
        content = json.loads(said.read_text(encoding="utf-8"))
        found = PartitionedAssociation(
            folder / "association", tuple(content["pixels"]), *content["numbers"]
        )
        return found, content["counts"]
    state.begin()
    shutil.rmtree(folder / "association", ignore_errors=True)
    place = {f.image: k for k, f in enumerate(scan.frames)}
    counts: dict[str, int] = {}
    found = associate_partitions(
        _detections(source(), place, config, counts, None if moving is None else year),
        folder / "association", radius=config.match_radius, isolation=config.isolation,
        nside=_resolution(scan, config.partition_rows),
        seeds=None if moving is None else moving.seeds,
    )  # fmt: skip
    numbers = [found.nside, found.stars, found.detections, found.unplaced]
    content = {"pixels": list(found.pixels), "numbers": numbers, "counts": counts}
    said.write_text(json.dumps(content), encoding="utf-8")
    state.finish(print_, [said, *sorted(found.folder.iterdir())])
    return found, counts


def _detections(
    frames: Iterator[SourceFrame],
    place: dict[Image, int],
    config: SolveConfig,
    counts: dict[str, int],
    year: np.ndarray | None,
) -> Iterator[Any]:
    """Yield the usable sources of each frame as a table; count the others."""
    import pyarrow as pa

    seen: dict[int, int] = {}  # sources of a frame in the pieces before
    for frame in frames:
        columns = {n: getattr(frame, n) for n in ("ra", "dec", "x", "y", "flux", "flux_err", "bad")}
        usable, gone = usable_rows(columns, config)
        for name, n in gone.items():
            counts[name] = counts.get(name, 0) + n
        on = np.flatnonzero(usable)
        kept = {n: np.asarray(columns[n][on]) for n in ("ra", "dec", "x", "y", "flux", "flux_err")}
        k = place[frame.image]
        number, at = np.full(on.size, k, np.int64), seen.get(k, 0)
        seen[k] = at + len(frame)
        if year is not None:
            kept["epoch"] = np.full(on.size, year[k])
        # as in a table of all sources: the row is that in the frame
        yield pa.table({**kept, "exposure": number, "source": on.astype(np.int64) + at})


class _Writer:
    """Collects the stars of parts of the sky, and writes partitions of about a number of rows."""

    def __init__(
        self,
        folder: Path,
        config: SolveConfig,
        tables: SurveyTables,
        exposure: np.ndarray,
        detector: np.ndarray,
        moving: Moving | None,
    ) -> None:
        self.folder, self.config, self.tables = folder, config, tables
        self.exposure, self.detector, self.moving = exposure, detector, moving
        self.partitions: list[Partition] = []
        self.label: list[np.ndarray] = []
        self.known: list[np.ndarray] = []
        self.places: list[tuple[np.ndarray, np.ndarray]] = []
        self.held: list[dict[str, np.ndarray]] = []
        self.counts: dict[str, int] = {}
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    def write(self, found: PartitionedAssociation, counts: dict[str, int]) -> None:
        """Write all parts."""
        self.counts = {**counts, "not isolated": 0, "star seen too few times": 0}
        size = 0
        for association, table in found.pieces():
            part = self._part(association, table)
            if part is not None:
                self.held.append(part)
                size += part["star"].size
            if size >= self.config.partition_rows:
                self._flush()
                size = 0
        self._flush()

    def _part(self, association: Any, table: Any) -> dict[str, np.ndarray] | None:
        """Return the detections of one part whose stars can be used, stars numbered from 0."""
        names = ("star", "exposure", "source", "ra", "dec", "x", "y", "flux", "flux_err")
        bands = self.tables.exposures.filter_count
        c = {n: table[n].to_numpy() for n in names}
        isolated = association.isolated[association.star]
        self.counts["not isolated"] += int(np.count_nonzero(~isolated))
        rows = np.flatnonzero(isolated)
        rows = rows[np.lexsort((c["source"][rows], c["exposure"][rows]))]
        c = {n: v[rows] for n, v in c.items()}
        band = np.asarray(self.tables.exposures.filter)[self.exposure[c["exposure"]]]
        label = c.pop("star") * bands + band
        unique, star, seen = np.unique(label, return_inverse=True, return_counts=True)
        enough = seen >= self.config.min_detections
        self.counts["star seen too few times"] += int(seen[~enough].sum())
        on = enough[star]
        if not on.any():
            return None
        out = {n: v[on] for n, v in c.items()}
        out |= {"star": (np.cumsum(enough) - 1)[star[on]], "label": unique[enough]}
        if self.moving is None:
            return out
        numbers = table["star"].to_numpy()  # of the stars in the whole survey
        row = np.full(int(numbers.max()) + 1, -1)
        row[numbers] = self.moving.rows(association.seed)[association.star]
        return out | {"known": row[out["label"] // bands]}

    def _flush(self) -> None:
        """Write what is held."""
        from pogson.survey import Observations, Stars
        from pogson.survey.partition_files import cut, write_partition

        if not self.held:
            return
        first = np.cumsum([0, *(p["label"].size for p in self.held)])
        star = np.concatenate([p["star"] + f for p, f in zip(self.held, first, strict=False)])
        c = {n: np.concatenate([p[n] for p in self.held]) for n in self.held[0]}
        self.held = []
        label, frame = c["label"], c["exposure"]
        ra, dec = star_places(c["ra"], c["dec"], star, label.size)
        e, d = self.exposure[frame], self.detector[frame]
        order = np.lexsort((d, e, star))
        star, e, d, frame = star[order], e[order], d[order], frame[order]
        flux = c["flux"][order]
        bands = self.tables.exposures.filter_count
        obs = Observations.from_fluxes(
            self.tables, Stars(np.zeros(label.size, int), filter=label % bands, ra=ra, dec=dec),
            star=star, exposure=e, detector=d, x=c["x"][order], y=c["y"][order], flux=flux,
            flux_err=c["flux_err"][order], flags=ambiguous(star, e, d, flux),
        )  # fmt: skip
        source, at = c["source"][order], 0
        for piece in cut(obs, max(self.config.partition_rows, 1)):
            n = len(self.partitions)
            before = self.partitions[-1] if self.partitions else None
            number = 0 if before is None else before.first_star + before.stars
            made = write_partition(self.folder / f"part-{n:05d}", piece, number)
            made = replace(made, numbered=True)
            self.partitions.append(made)
            rows = slice(at, at + len(piece))
            _save(rows_file(made), {"frame": frame[rows], "row": source[rows]})
            at += len(piece)
        self.label.append(label)
        self.known.append(c.get("known", np.full(label.size, -1)))
        self.places.append((ra, dec))

    def finish(
        self,
        catalog: ReferenceCatalog | None,
        reference: ReferenceConfig | None,
        fill: float | str | None,
    ) -> dict[str, Any]:
        """Join references to all stars, number the stars, and say what was written."""
        if not self.partitions:
            raise CalibrationError(
                f"No star is seen {self.config.min_detections} times or more; left out: "
                f"{said_counts(self.counts)}. Check solve.match_radius, min_snr and "
                "min_detections."
            )
        label = np.concatenate(self.label)
        bands = self.tables.exposures.filter_count
        ra, dec = (np.concatenate([p[k] for p in self.places]) for k in (0, 1))
        rank = np.empty(label.size, np.int64)
        order = np.argsort(label, kind="stable")
        rank[order] = np.arange(1, label.size + 1)
        columns = {n: np.full(label.size, np.nan)
                   for n in ("color", "reference_mag", "reference_err")}  # fmt: skip
        if catalog is not None and reference is not None:
            # in the order of the whole survey, in which ties of the match are decided
            mjd = np.asarray(self.tables.exposures.mjd)
            found = star_references(
                ra[order], dec[order], (label % bands)[order], mjd, self.tables, self.config,
                catalog, reference, np.concatenate(self.known)[order],
            )  # fmt: skip
            for name in columns:
                columns[name][order] = found[name]
        missing = np.zeros(label.size, bool)
        if fill is not None:
            missing = ~np.isfinite(columns["color"])
            known = columns["color"][~missing]
            if known.size:  # without any, the solution says what is wrong
                columns["color"][missing] = np.median(known) if fill == "median" else fill
        np.save(self.folder / "without_color.npy", missing)
        for p in self.partitions:
            part = slice(p.first_star, p.first_star + p.stars)
            _renew(p, {"identifier": rank[part], **{n: v[part] for n, v in columns.items()}})
        references = int(np.count_nonzero(np.isfinite(columns["reference_mag"])))
        counts = {k: v for k, v in self.counts.items() if v}
        return {"partitions": [asdict(p) for p in self.partitions], "counts": counts,
                "references": references}  # fmt: skip


def _save(path: Path, columns: dict[str, np.ndarray]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(
        pa.table({k: np.asarray(v) for k, v in columns.items()}), path, compression="none",
        use_dictionary=False,
    )  # fmt: skip


def _renew(partition: Partition, columns: dict[str, np.ndarray]) -> None:
    """Replace columns of the stars of a partition."""
    import pyarrow.parquet as pq

    table = pq.read_table(partition.star_table)
    known = {n: table.column(n).to_numpy() for n in table.column_names}
    del table
    _save(Path(partition.star_table), known | columns)
