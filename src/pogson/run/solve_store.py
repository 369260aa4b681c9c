"""What the products of a solution need of detections that are on disk, gathered part by part."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.run.config import ReferenceConfig
from pogson.run.solve_config import SolveConfig, build_terms
from pogson.run.solve_fit import (
    SEARCHED,
    Solved,
    check_inputs,
    choose_photometric,
    no_colors,
    not_searched,
    refuse_degenerate,
    weak_exposures,
)
from pogson.run.solve_judgement import connection_words, strange_exposures
from pogson.run.solve_maps import regions_of, share_taken_out
from pogson.run.solve_methods import Answer, from_partitions, solve_settings
from pogson.run.solve_partitions import PartitionedSurvey, rows_file
from pogson.run.solve_stars import Assembled

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from pogson.survey import Connections, Observations, SurveyTables

__all__ = ["DetectionStore", "fit_partitions"]

_STATUS = ("USED", "OUTLIER", "FLAGGED")
_SAMPLE = 200_000  # detections of the sample, about
_SUSPECTS = 200  # that are listed


@dataclass(frozen=True, eq=False)
class DetectionStore:
    """Sums over detections by frame, and what to read of each frame.

    Parameters
    ----------
    folder : pathlib.Path
        With one array a partition of the detections that have a reference, by frame.
    files : int
        Number of partitions.
    edges : numpy.ndarray of int, shape (files, frames + 1)
        Where each frame begins in the array of a partition.
    status : numpy.ndarray of int, shape (frames, 3)
        Detections used, rejected and flagged.
    pull2 : numpy.ndarray, shape (frames,)
        Sum of squared pulls of the used ones.
    facts : dict
        Numbers of the whole survey, as in ``solution.json``.

    Examples
    --------
    >>> DetectionStore.__name__
    'DetectionStore'
    """

    folder: Path
    files: int
    edges: np.ndarray
    status: np.ndarray
    pull2: np.ndarray
    facts: dict[str, Any]

    def residuals(self, k: int) -> dict[str, Any]:
        """Return calibrated minus reference magnitudes of a frame, as a zero-point fit does."""
        parts = []
        for f in range(self.files):
            a, b = self.edges[f, k : k + 2]
            if b > a:
                parts.append(np.load(self._file(f), mmap_mode="r", allow_pickle=False)[a:b])
        rows = np.sort(np.concatenate([np.zeros(0, _ROW), *parts]), order=["star", "id"])
        out: dict[str, Any] = {n: np.array(rows[n]) for n in _ROW.names or () if n != "star"}
        out["status"] = np.array(_STATUS)[out.pop("state")].astype("U12")
        return out

    def counts(self, k: int) -> tuple[dict[str, int], int, float | None]:
        """Return detections of a frame by status, those used, and the rms of their pulls."""
        said = {n: int(c) for n, c in zip(_STATUS, self.status[k], strict=True) if c}
        used = int(self.status[k, 0])
        return (
            dict(sorted(said.items())),
            used,
            float(np.sqrt(self.pull2[k] / used)) if used else None,
        )

    def _file(self, f: int) -> Path:
        return self.folder / f"residuals-{f:05d}.npy"

    def close(self) -> None:
        """Remove the arrays."""
        for f in range(self.files):
            self._file(f).unlink(missing_ok=True)


_ROW = np.dtype([
    ("star", "i8"), ("id", "i8"), ("x", "f8"), ("y", "f8"), ("magnitude", "f8"), ("color", "f8"),
    ("residual", "f8"), ("residual_err", "f8"), ("pull", "f8"), ("state", "i1"),
])  # fmt: skip


def fit_partitions(
    survey: PartitionedSurvey,
    config: SolveConfig,
    folder: Path,
    root: Path,
    *,
    reference: ReferenceConfig | None = None,
    executor: Executor | None = None,
) -> Solved:
    """Solve for one calibration of all exposures from partitions of the stars.

    Parameters
    ----------
    survey : PartitionedSurvey
        From `pogson.run.solve_partitions.assemble_partitions`.
    config : SolveConfig
        Section ``[solve]``.
    folder : pathlib.Path
        Where relative paths of the configuration start.
    root : pathlib.Path
        Folder to write.
    reference : ReferenceConfig, optional
        For messages: colours are those of the catalogue.
    executor : concurrent.futures.Executor, optional
        Where partitions are worked on.

    Returns
    -------
    Solved
        Its observations are those of some of the stars.

    Raises
    ------
    ConfigError, CalibrationError
        As `pogson.run.solve_fit.fit_survey`.
    """
    from pogson.survey import Model, connect_partitions, find_degeneracies_partitions

    tables, parts = survey.tables, survey.partitions
    terms = build_terms(config, folder, tables)
    check_inputs(config, tables, survey.exposure_names)
    _check_colors(survey, reference)
    shared: dict[str, Any] = {"use_references": config.references, "executor": executor}

    def connect(left_out: Sequence[int]) -> Connections | None:
        links = connect_partitions(parts, terms, tables, left_out=left_out, **shared)
        return links if np.any(links.group >= 0) else None

    left_out = weak_exposures(connect, tables.exposures, config.min_ties, config.exclude)
    notes = list(left_out.values())
    if config.gauge == "refuse" and Model(tuple(terms), tables).size <= SEARCHED:
        found = find_degeneracies_partitions(parts, terms, tables, left_out=[*left_out], **shared)
        refuse_degenerate(
            found, config.references and survey.references > 0,
            catalog=config.references and reference is not None,
        )  # fmt: skip

    def solve(now: SurveyTables) -> Answer:
        return from_partitions(
            parts, now, terms, solve_settings(config), config, executor=executor,
            results=root / "stars", left_out=[*left_out],
        )  # fmt: skip

    shutil.rmtree(root / "stars", ignore_errors=True)  # of another solution
    answer = solve(tables)
    if config.photometric_threshold is not None:
        answer, said = choose_photometric(tables, answer, terms, config, solve)
        notes.append(said)
    solution = answer.solution
    exposures = solution.model.tables.exposures
    notes += answer.notes
    notes += connection_words(solution.connections, exposures)
    notes += not_searched(config, solution.parameters.size)
    if not solution.converged:
        notes.append(f"Rejection and floors did not settle in {solution.passes} passes.")
    sample, store = _Gathering(survey, config, answer, tuple(left_out), root).run()
    notes += strange_exposures(answer.exposure_chi2, solution, sample.observations)
    return Solved(
        sample, solution, left_out, tuple(notes), answer.exposure_chi2, len(parts),
        np.flatnonzero(store.facts.pop("sample_without_color")), store, config.suspect_probability,
    )  # fmt: skip


def _check_colors(survey: PartitionedSurvey, reference: ReferenceConfig | None) -> None:
    from pogson.errors import ConfigError

    if survey.without_color.size and survey.without_color.all():
        raise ConfigError(no_colors(survey.stars, reference))


class _Gathering:
    """One pass over the partitions after the solution: sums by frame, rows to keep, a sample."""

    def __init__(
        self,
        survey: PartitionedSurvey,
        config: SolveConfig,
        answer: Answer,
        left_out: tuple[int, ...],
        root: Path,
    ) -> None:
        self.survey, self.config, self.answer, self.root = survey, config, answer, root
        self.left_out = left_out
        self.step = max(1, -(-survey.detections // _SAMPLE))
        n, parts = len(survey.frames), len(survey.partitions)
        self.status = np.zeros((n, 3), np.int64)
        self.pull2 = np.zeros(n)
        self.edges = np.zeros((parts, n + 1), np.int64)
        self.flags: dict[str, int] = {}
        self.suspects: list[dict[str, Any]] = []
        self.n_suspects = self.rejected_references = 0
        self.regions: list[tuple[np.ndarray, ...]] = []
        self.kept: list[tuple[Observations, np.ndarray, np.ndarray, np.ndarray]] = []

    def _jobs(self) -> Iterator[Any]:
        from pogson.survey.partition_checks import Job

        whole, s = self.answer.whole, self.answer.solution
        assert whole is not None
        total = self.survey.stars
        for p, rows, references in zip(
            self.survey.partitions, whole.rejected_rows, whole.rejected_references, strict=True
        ):
            yield Job(
                p, s.model, s.parameters, s.weighting, solve_settings(self.config), total, 1,
                rows, references, left_out=self.left_out,
            )  # fmt: skip

    def run(self) -> tuple[Assembled, DetectionStore]:
        """Go through all partitions."""
        self.root.mkdir(parents=True, exist_ok=True)
        for f, job in enumerate(self._jobs()):
            self._part(f, job)
        facts = {
            "stars": self.survey.stars, "detections": self.survey.detections, "flags": self.flags,
            "references": self.survey.references,
            "references_rejected": self.rejected_references, "suspects": self.suspects,
            "n_suspects": self.n_suspects, "reference_regions": self._regions(),
        }  # fmt: skip
        store = DetectionStore(
            self.root, len(self.survey.partitions), self.edges, self.status, self.pull2, facts
        )
        sample = self._sample()
        facts["sample_without_color"] = np.concatenate([k[3] for k in self.kept])
        return sample, store

    def _part(self, f: int, job: Any) -> None:
        """Take what is needed of one partition."""
        import pyarrow.parquet as pq

        from pogson.survey import RowFlag
        from pogson.survey.likelihood import _residuals

        o, p = job.prepared()
        res = _residuals(p, None, 1)
        rows = pq.read_table(rows_file(job.partition))
        frame, source = rows["frame"].to_numpy(), rows["row"].to_numpy()
        mag = np.full(len(o.stars), np.nan)
        weight = np.zeros(len(o.stars))
        on = slice(p.star0, p.star0 + p.ref_weight.size)
        mag[on], weight[on] = p.center + res.star_mean, res.star_weight
        natural = np.asarray(o.mag) - job.model.evaluate(o, job.parameters)
        floor = np.asarray(job.weighting.floor)
        category = o.exposure_column("category") if floor.size > 1 else 0
        variance = np.asarray(o.mag_err) ** 2 + floor[category] ** 2
        gone = (o.flags & RowFlag.REJECTED.value) > 0
        lost = np.zeros(len(o.stars), bool)
        lost[job.references] = True
        state = np.where(o.flags == 0, 0, 2)
        state[gone | lost[o.star]] = 1
        np.add.at(self.status, (frame, state), 1)
        used = state == 0
        pull2 = (natural[used] - mag[o.star[used]]) ** 2 / variance[used]
        self.pull2 += np.bincount(frame[used], np.nan_to_num(pull2), self.pull2.size)
        for name, n in o.flag_counts().items():
            self.flags[name] = self.flags.get(name, 0) + n
        given = self._given(job)
        self._references(f, job, o, given, (frame, source, natural, variance, state))
        self._judge(job, o, given, mag, weight, res, lost, p)
        self._keep(job, o, frame, source)

    def _given(self, job: Any) -> Any:
        """Return the stars with the references that were rejected, too."""
        from pogson.survey import read_partition

        return read_partition(job.partition, job.model.tables).stars

    def _references(self, f: int, job: Any, o: Any, given: Any, c: tuple[Any, ...]) -> None:
        """Write the detections that have a reference, by frame."""
        frame, source, natural, variance, state = c
        rows = np.flatnonzero(np.isfinite(given.reference_mag[o.star]))
        rows = rows[np.argsort(frame[rows], kind="stable")]
        star = o.star[rows]
        out = np.zeros(rows.size, _ROW)
        color = np.array(given.color)
        first = job.partition.first_star
        color[self.survey.without_color[first : first + color.size]] = np.nan
        error = np.hypot(given.reference_err, job.weighting.reference_floor)[star]
        out["star"], out["id"] = given.identifier[star], source[rows] + 1
        out["x"], out["y"] = o.x[rows], o.y[rows]
        out["magnitude"], out["color"] = given.reference_mag[star], color[star]
        out["residual"] = natural[rows] - given.reference_mag[star]
        out["residual_err"] = np.sqrt(variance[rows] + error**2)
        out["pull"] = out["residual"] / out["residual_err"]
        out["state"] = state[rows]
        self.edges[f] = np.searchsorted(frame[rows], np.arange(self.edges.shape[1]))
        np.save(self.root / f"residuals-{f:05d}.npy", out)

    def _judge(
        self, job: Any, o: Any, given: Any, mag: Any, weight: Any, res: Any, lost: Any, p: Any
    ) -> None:
        """List suspect stars; keep what a map of the references needs."""
        from scipy.stats import chi2 as law

        from pogson.survey import RowFlag

        n, on, limit = len(given), p.weight > 0, self.config.suspect_probability
        count = np.bincount(o.star[on], minlength=n)
        total = np.bincount(o.star[on], p.weight[on] * res.deviation[on] ** 2, n)
        gone = np.bincount(o.star[(o.flags & RowFlag.REJECTED.value) > 0], minlength=n)
        unlikely = (count > 1) & (law.sf(total, np.maximum(count - 1, 1)) < limit)
        found = np.flatnonzero(unlikely | (gone >= 3) | lost)
        self.n_suspects += int(found.size)
        self.rejected_references += int(lost.sum())
        names = job.model.tables.exposures
        for i in found[: max(0, _SUSPECTS - len(self.suspects))]:
            self.suspects.append({
                "id": int(given.identifier[i]), "ra": float(given.ra[i]),
                "dec": float(given.dec[i]), "band": names.filter_name(int(given.filter[i])),
                "mag": float(mag[i]), "chi2": float(total[i]), "detections": int(count[i]),
                "reference_rejected": bool(lost[i]),
            })  # fmt: skip
        with np.errstate(invalid="ignore", divide="ignore"):
            err = np.where(weight > 0, 1.0 / np.sqrt(weight), np.nan)
        residual = share_taken_out(given, mag, err, lost, job.weighting)
        here = given.has_reference & (count > 0)
        self.regions.append(tuple(
            np.asarray(v)[here] for v in (given.filter, given.ra, given.dec, residual)
        ))  # fmt: skip

    def _regions(self) -> list[dict[str, Any]]:
        band, ra, dec, residual = (np.concatenate([r[k] for r in self.regions]) for k in range(4))
        return regions_of(band, ra, dec, residual, self.survey.tables.exposures)

    def _keep(self, job: Any, o: Observations, frame: np.ndarray, source: np.ndarray) -> None:
        """Keep the detections of every so many stars."""
        from pogson.survey import Stars

        chosen = (np.arange(len(o.stars)) + job.partition.first_star) % self.step == 0
        rows = np.flatnonzero(chosen[o.star])
        number = np.cumsum(chosen) - 1
        numbers = ("exposure", "detector", "x", "y", "mag", "mag_err", "flags")
        some: dict[str, Any] = {n: getattr(o, n)[rows] for n in numbers}
        names = ("identifier", "filter", "color", "reference_mag", "reference_err", "ra", "dec")
        stars = Stars(**{n: getattr(o.stars, n)[chosen] for n in names})
        part = replace(o, star=number[o.star[rows]], stars=stars, **some)
        first = job.partition.first_star
        without = self.survey.without_color[first : first + chosen.size][chosen]
        self.kept.append((part, frame[rows], source[rows], without))

    def _sample(self) -> Assembled:
        from pogson.survey import Stars

        s = self.survey
        first = np.cumsum([0, *(len(k[0].stars) for k in self.kept)])
        names = ("identifier", "filter", "color", "reference_mag", "reference_err", "ra", "dec")
        stars = Stars(**{
            n: np.concatenate([getattr(k[0].stars, n) for k in self.kept]) for n in names
        })  # fmt: skip
        columns: dict[str, Any] = {
            n: np.concatenate([getattr(k[0], n) for k in self.kept])
            for n in ("exposure", "detector", "x", "y", "mag", "mag_err", "flags")
        }
        star = np.concatenate([k[0].star + f for k, f in zip(self.kept, first, strict=False)])
        tables = self.answer.solution.model.tables
        obs = replace(self.kept[0][0], star=star, stars=stars, tables=tables, **columns)
        return Assembled(
            s.frames, obs, s.exposure, s.detector, s.exposure_names, s.detector_names,
            np.concatenate([k[1] for k in self.kept]), np.concatenate([k[2] for k in self.kept]),
            np.arange(len(stars)), s.counts,
        )  # fmt: skip
