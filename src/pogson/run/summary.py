"""Everything numeric about a finished run, as one JSON-ready dictionary, and it in words."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson._version import __version__
from pogson.run.audit_summary import audit_headlines
from pogson.run.coadd_summary import coadd_headlines, coadd_summary
from pogson.run.config import RunConfig
from pogson.run.plan import ExposureTask
from pogson.run.solve_summary import solve_headlines, solve_summary
from pogson.run.statistics import Detections, repeatability, summarize_pulls

if TYPE_CHECKING:
    from astropy.table import Table

    from pogson.run.stages import Failure

__all__ = ["headlines", "json_ready", "make_summary"]

SCHEMA = 1


def make_summary(
    config: RunConfig,
    tasks: Sequence[ExposureTask],
    failures: Sequence[Failure],
    root: Path,
    files: Callable[[str], Any],
) -> dict[str, Any]:
    """Gather the numbers of a run and write the tables that span exposures.

    Parameters
    ----------
    config : RunConfig
        The configuration.
    tasks : sequence of ExposureTask
        All exposures.
    failures : sequence of Failure
        Those that failed.
    root : pathlib.Path
        Folder of the results.
    files : callable
        From a key to the files of that task.

    Returns
    -------
    dict
        JSON-ready: numbers that are not finite are None.
    """
    failed = {f.key: f for f in failures}
    exposures: list[dict[str, Any]] = []
    bands: dict[str, list[Detections]] = {}
    truth = _Truth(config)
    for index, task in enumerate(tasks):
        entry = _entry(task, failed, files(task.key))
        exposures.append(entry)
        if entry["status"] == "done":
            catalog = _read(files(task.key).catalog)
            bands.setdefault(entry["band"], []).append(_detections(catalog, index))
            truth.add(index, entry, catalog)
    joined = {band: Detections.join(parts) for band, parts in bands.items()}
    table, repeat = repeatability(joined, config.report.repeatability_radius)
    _write_table(
        root / "statistics" / "repeatability.parquet",
        {n: getattr(table, n) for n in ("band", "magnitude", "scatter", "expected", "n")},
    )
    truth.write(root / "statistics" / "truth.parquet")
    summary = {
        "schema": SCHEMA,
        "pogson": __version__,
        "name": config.survey.name,
        "title": config.report.title or config.survey.name,
        "n_exposures": len(tasks),
        "n_failed": len(failures),
        "zero_point_source": "solve" if config.solves else config.zero_point.source,
        "solve": solve_summary(root) if config.solves else None,
        "coadd": coadd_summary(root, config.coadd.compare_snr) if config.coadd else None,
        "exposures": exposures,
        "repeatability": repeat,
        "truth": truth.summary(exposures),
        "catalog_files": [str(Path(files(t.key).catalog).relative_to(root)) for t in tasks
                          if t.key not in failed],
        "stale_files": _stale(root, tasks, files),
    }  # fmt: skip
    result: dict[str, Any] = json_ready(summary)
    return result


def _read(path: str) -> Table:
    from pogson.formats import read_catalog

    return read_catalog(path)


def _write_table(path: Path, columns: dict[str, Any]) -> None:
    from astropy.table import Table

    from pogson.formats import write_catalog

    path.parent.mkdir(parents=True, exist_ok=True)
    write_catalog(path, Table(columns))


def _stale(root: Path, tasks: Sequence[ExposureTask], files: Callable[[str], Any]) -> list[str]:
    """Return results in the folder that belong to none of the exposures of this run."""
    ours = {files(t.key).catalog for t in tasks} | {files(t.key).image for t in tasks}
    found = [p for sub in ("catalogs", "images") for p in sorted((root / sub).glob("*"))]
    return [str(p.relative_to(root)) for p in found if str(p) not in ours and p.name[0] != "."]


def _entry(task: ExposureTask, failed: dict[str, Failure], where: Any) -> dict[str, Any]:
    """Return the numbers of one exposure, as far as it got."""
    entry: dict[str, Any] = {
        "key": task.key, "file": task.path, "status": "done", "reason": "", "stage": "",
        "exposure_id": task.key, "detector": "" if task.detector is None else str(task.detector),
        "band": "", "footprint": [], "values": {}, "flags": {}, "star_counts": {},
    }  # fmt: skip
    record_file = Path(where.stage("measure", ".json"))
    if record_file.exists():
        record = json.loads(record_file.read_text(encoding="utf-8"))
        for name in ("exposure_id", "detector", "band", "footprint", "flags", "unit", "measure",
                     "measure_because", "reference_label", "flux_from", "flux_column", "psf",
                     "positions_from"):  # fmt: skip
            entry[name] = record.get(name)
        entry["values"].update(record["values"])
    if task.key in failed:
        failure = failed[task.key]
        entry.update(status="failed", reason=failure.reason, stage=failure.stage)
        return entry
    found = json.loads(Path(where.stage("zero_point", ".json")).read_text(encoding="utf-8"))
    entry["values"].update(found["values"])
    entry["star_counts"] = found["counts"]
    entry["star_meanings"] = found["meanings"]
    entry["catalog_reference"] = found["photo_calib"].get("provenance", {}).get("reference_catalog")
    return entry


def _usable(catalog: Table) -> np.ndarray:
    from pogson.images import SourceFlag

    harmless = int(SourceFlag.SUSPECT | SourceFlag.CENTROID)
    return np.asarray((np.asarray(catalog["main_flags"]) & ~harmless) == 0)


def _detections(catalog: Table, index: int) -> Detections:
    good = _usable(catalog)
    name = catalog.meta["main_flux"]
    return Detections(
        np.full(int(good.sum()), index),
        np.asarray(catalog["ra"], float)[good],
        np.asarray(catalog["dec"], float)[good],
        np.asarray(catalog[name], float)[good],
        np.asarray(catalog[f"{name}_err"], float)[good],
    )


class _Truth:
    """Comparison with known fluxes, gathered exposure by exposure."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config.truth
        self.rows: list[tuple[np.ndarray, ...]] = []
        self.table = None if config.truth is None else _read(str(config.path(config.truth.catalog)))

    def add(self, index: int, entry: dict[str, Any], catalog: Table) -> None:
        """Compare one exposure; its numbers go into its entry."""
        from pogson.errors import MaskedDataError
        from pogson.simulate.truth import truth_comparison

        if self.config is None or self.table is None:
            return
        column = self.config.bands.get(entry["band"], f"flux_{entry['band']}")
        try:
            result = truth_comparison(
                catalog, self.table, flux=catalog.meta["main_flux"], true_flux=column,
                use=_usable(catalog), match_radius=self.config.match_radius,
            )  # fmt: skip
        except MaskedDataError as error:
            entry["truth_reason"] = str(error)
            return
        n = result.row.size
        self.rows.append(
            (np.full(n, index), np.full(n, entry["band"]), result.magnitude, result.difference,
             result.pull)
        )  # fmt: skip
        entry["values"].update(
            truth_median=1e-3 * result.median,
            truth_median_err=1e-3 * result.median_err,
            truth_pull_rms=result.pull_rms,
            truth_n=n,
            truth_n_outliers=result.n_outliers,
            truth_n_unmatched=result.n_unmatched,
        )

    def write(self, path: Path) -> None:
        """Write the rows of all exposures, or remove an old file."""
        if not self.rows:
            path.unlink(missing_ok=True)
            return
        names = ("exposure", "band", "magnitude", "difference", "pull")
        _write_table(path, {n: np.concatenate([r[i] for r in self.rows])
                            for i, n in enumerate(names)})  # fmt: skip

    def summary(self, exposures: list[dict[str, Any]]) -> dict[str, Any] | None:
        """Return the numbers over all exposures."""
        if self.config is None or not self.rows:
            return None
        values = [e["values"] for e in exposures if "truth_median" in e["values"]]
        medians = np.array([v["truth_median"] for v in values])
        pulls = np.concatenate([r[4] for r in self.rows])
        return {
            "worst_median": float(np.max(np.abs(medians))),
            "rms_median": float(np.sqrt(np.mean(medians**2))),
            "zero_point_pull_rms": _zero_point_pulls(values),
            "pulls": summarize_pulls(pulls[np.abs(pulls) <= 5.0]),
            "n_outliers": int(np.sum(np.abs(pulls) > 5.0)),
        }


def _zero_point_pulls(values: list[dict[str, Any]]) -> float:
    """Rms of the exposures' median differences over the errors that the fits claim."""
    pulls = [
        v["truth_median"] / np.hypot(v["zero_point_err"], v["truth_median_err"])
        for v in values
        if v.get("zero_point_err")
    ]
    return float(np.sqrt(np.mean(np.square(pulls)))) if pulls else float("nan")


def json_ready(value: Any) -> Any:
    """Return a value that JSON can hold: numbers that are not finite become None.

    Examples
    --------
    >>> json_ready({"a": np.float64("nan"), "b": (1, 2)})
    {'a': None, 'b': [1, 2]}
    """
    if isinstance(value, dict):
        return {str(k): json_ready(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def headlines(summary: dict[str, Any]) -> list[str]:
    """Return the result of a run in a few sentences.

    Parameters
    ----------
    summary : dict
        From `make_summary`.

    Examples
    --------
    >>> headlines({"n_exposures": 2, "n_failed": 1, "exposures": [], "repeatability": {},
    ...            "truth": None})
    ['1 of 2 detector images calibrated, 1 failed.']
    """
    n, bad = summary["n_exposures"], summary["n_failed"]
    done = [e for e in summary["exposures"] if e["status"] == "done"]
    exposures = len({e["exposure_id"] for e in done})
    out = [
        f"{n - bad} of {n} detector images calibrated"
        + (f" (of {exposures} exposure{'' if exposures == 1 else 's'})" if done else "")
        + (f", {bad} failed." if bad else ".")
    ]
    for band in dict.fromkeys(e["band"] for e in done):
        here = [e["values"] for e in done if e["band"] == band]
        zero = [v["zero_point"] for v in here if v.get("zero_point") is not None]
        errors = [v["zero_point_err"] for v in here if v.get("zero_point_err") is not None]
        text = f"{band}: {len(here)} image{'s' * (len(here) != 1)}, "
        text += f"zero points {min(zero):.3f} to {max(zero):.3f} mag"
        if errors:
            text += f", median error {1e3 * float(np.median(errors)):.1f} mmag"
        repeat = summary["repeatability"].get(band) or {}
        if repeat.get("n_stars"):
            if repeat.get("bright_scatter") is not None:
                scatter = 1e3 * repeat["bright_scatter"]
                text += f"; the brightest quarter of the stars repeats to {scatter:.1f} mmag"
            if repeat.get("chi2_per_dof") is not None:
                text += f" (chi2 per degree of freedom {repeat['chi2_per_dof']:.2f})"
        out.append(text + ".")
    truth = summary["truth"]
    if truth:
        out.append(
            f"Against the truth: median offset of an exposure at worst "
            f"{1e3 * truth['worst_median']:.2f} mmag, rms {1e3 * truth['rms_median']:.2f} mmag; "
            f"pulls of the stars have rms {truth['pulls']['rms']:.3f}."
        )
    out += solve_headlines(summary.get("solve"))
    out += coadd_headlines(summary.get("coadd"))
    out += audit_headlines(summary.get("audit"))
    if summary.get("stale_files"):
        out.append(
            f"{len(summary['stale_files'])} files in the folder belong to none of these exposures "
            "(left from another run): " + ", ".join(summary["stale_files"][:3]) + "."
        )
    return out
