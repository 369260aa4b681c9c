"""From the files of a finished run to its report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from pogson.errors import FileFormatError, MissingDataError, PogsonError
from pogson.report.audit_data import AuditBand, AuditReport, AuditRows
from pogson.report.data import (
    ExposureRecord,
    GrowthCurve,
    PixelMap,
    Rejection,
    Repeatability,
    ReportData,
    StarResiduals,
    TruthComparison,
)
from pogson.report.solve_data import SolveReport
from pogson.run.coadd_reporting import coadd_report
from pogson.run.summary import headlines

__all__ = ["report_data", "report_from_folder"]


def report_from_folder(folder: str | Path, output: str | Path | None = None) -> Path:
    """Write the report of a finished run.

    Parameters
    ----------
    folder : path-like
        Folder of the results.
    output : path-like, optional
        HTML file; default ``report.html`` in the folder.

    Returns
    -------
    pathlib.Path
        The HTML file.

    Raises
    ------
    MissingDataError
        If the folder does not hold a finished run.
    FileFormatError
        If a file of the run is damaged.
    """
    from pogson.report import write_report

    root = Path(folder)
    try:
        data = report_data(root)
    except PogsonError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        said = f"{type(error).__name__}: {error}"
        raise FileFormatError(
            f"{root}: a file of this run is damaged ({said}). Run 'pogson run' again; what is "
            f"whole is not made again."
        ) from error
    return write_report(data, root / "report.html" if output is None else output)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FileFormatError(
            f"{path} is damaged: {error}. Delete it and run 'pogson run' again."
        ) from None


def report_data(root: Path) -> ReportData:
    """Gather what the report shows from the files of a run.

    Parameters
    ----------
    root : pathlib.Path
        Folder of the results.

    Raises
    ------
    MissingDataError
        If there is no readable ``summary.json``.
    """
    if not (root / "summary.json").is_file():
        raise MissingDataError(
            f"{root} does not hold a finished run: there is no summary.json in it. Give the folder "
            f"of the results of 'pogson run' or 'pogson fluxcal'."
        )
    try:
        summary = _json(root / "summary.json")
        entries = summary["exposures"]
    except (OSError, KeyError, TypeError) as error:
        raise MissingDataError(
            f"{root} does not hold a finished run: its summary.json cannot be read ({error}). Give "
            "the output folder of 'pogson run'."
        ) from None
    records = tuple(_record(e) for e in entries)
    growth, areas, backgrounds = _maps(root, entries)
    config = root / "config.json"
    return ReportData(
        title=summary["title"],
        exposures=records,
        stars=_stars(root, entries),
        growth=growth,
        areas=areas,
        backgrounds=backgrounds,
        rejections=_rejections(entries),
        repeatability=_repeatability(root),
        truth=_truth(root),
        audit=_audit(root),
        solve=_solve(root, summary),
        coadd=coadd_report(root, summary),
        headlines=tuple(headlines(summary)),
        facts=_facts(entries),
        config_text=config.read_text(encoding="utf-8") if config.exists() else "",
    )


def _record(entry: dict[str, Any]) -> ExposureRecord:
    return ExposureRecord(
        entry["key"], entry["exposure_id"], entry["detector"] or "", entry["band"] or "?",
        entry["status"], entry["reason"], entry["values"],
        tuple((float(a), float(b)) for a, b in entry["footprint"] or ()),
    )  # fmt: skip


def _read(path: Path) -> Any:
    from pogson.formats import read_catalog

    return read_catalog(path)


def _stars(root: Path, entries: list[dict[str, Any]]) -> StarResiduals:
    parts: list[list[Any]] = []
    for index, entry in enumerate(entries):
        path = root / "stages" / "zero_point" / f"{entry['key']}.parquet"
        if entry["status"] != "done" or not path.exists():
            continue
        table = _read(path)
        n = len(table)
        columns = [np.asarray(table[c], float) for c in
                   ("magnitude", "color", "x", "y", "residual", "pull")]  # fmt: skip
        used = np.asarray(table["status"]).astype(str) == "USED"
        parts.append([np.full(n, index), np.full(n, entry["band"]), *columns, used])
    if not parts:
        return StarResiduals.empty()
    return StarResiduals(*(np.concatenate(c) for c in zip(*parts, strict=True)))


def _floats(rows: Any) -> np.ndarray:
    return np.array([[np.nan if v is None else v for v in row] for row in rows], float)


def _maps(
    root: Path, entries: list[dict[str, Any]]
) -> tuple[tuple[GrowthCurve, ...], tuple[PixelMap, ...], tuple[PixelMap, ...]]:
    """Return growth curves of all, one pixel-area map a detector, and the first backgrounds."""
    growth: list[GrowthCurve] = []
    areas: dict[str, PixelMap] = {}
    backgrounds: list[PixelMap] = []
    for entry in entries:
        path = root / "stages" / "measure" / f"{entry['key']}.json"
        if not path.exists():
            continue
        record = _json(path)
        curve = record["growth"]
        if curve is not None:
            growth.append(
                GrowthCurve(entry["key"], entry["band"], curve["radius"], curve["fraction"],
                            curve["scatter"], curve["model"])
            )  # fmt: skip
        detector = record["detector"] or "-"
        if record["area_map"] is not None and detector not in areas:
            extent = tuple(record["area_map"]["extent"])
            areas[detector] = PixelMap(
                f"detector {detector}", _floats(record["area_map"]["values"]), extent
            )
        if record["background_map"] is not None and len(backgrounds) < 12:
            extent = tuple(record["background_map"]["extent"])
            label = f"{record['exposure_id']} {record['detector']} {record['band']}"
            backgrounds.append(PixelMap(label, _floats(record["background_map"]["values"]), extent))
    return tuple(growth), tuple(areas.values()), tuple(backgrounds)


def _rejections(entries: list[dict[str, Any]]) -> tuple[Rejection, ...]:
    from pogson.images import FLAG_DOCS

    flags: dict[str, int] = {}
    stars: dict[str, int] = {}
    meanings: dict[str, str] = {}
    for entry in entries:
        for name, count in (entry["flags"] or {}).items():
            flags[name] = flags.get(name, 0) + int(count)
        for name, count in (entry["star_counts"] or {}).items():
            stars[name] = stars.get(name, 0) + int(count)
        meanings.update(entry.get("star_meanings") or {})
    docs = {str(flag.name): text for flag, text in FLAG_DOCS.items()}
    out = [Rejection("source flag", n, c, docs.get(n, "")) for n, c in flags.items()]
    out += [Rejection("reference star", n, c, meanings.get(n, "")) for n, c in stars.items() if c]
    return tuple(out)


def _repeatability(root: Path) -> Repeatability:
    path = root / "statistics" / "repeatability.parquet"
    if not path.exists():
        return Repeatability.empty()
    table = _read(path)
    magnitude, scatter, expected = (
        np.asarray(table[n], float) for n in ("magnitude", "scatter", "expected")
    )
    band = np.asarray(table["band"]).astype(str)
    return Repeatability(band, magnitude, scatter, expected, np.asarray(table["n"], int))


def _truth(root: Path) -> TruthComparison | None:
    path = root / "statistics" / "truth.parquet"
    if not path.exists():
        return None
    table = _read(path)
    names = ("magnitude", "difference", "pull")
    return TruthComparison(
        np.asarray(table["exposure"], int), np.asarray(table["band"]).astype(str),
        *(np.asarray(table[n], float) for n in names),
    )  # fmt: skip


def _solve(root: Path, summary: dict[str, Any]) -> SolveReport | None:
    """Return the global solution, None where zero points come from elsewhere."""
    from pogson.run.solve_reporting import solve_report

    return solve_report(root / "solve") if summary.get("solve") else None


def _audit(root: Path) -> AuditReport | None:
    """Return what the audit found, None without one."""
    path = root / "audit.json"
    if not path.exists():
        return None
    found = _json(path)
    bands = tuple(
        AuditBand(band, values.get("exposures") or {}, values.get("stack") or {})
        for band, values in found["bands"].items()
    )
    plan = found["plan"]
    magnitudes = "; ".join(
        f"{band}: {low:g} to {high:g}" for band, (low, high) in plan["magnitudes"].items()
    )
    rounds = plan["audit"]["rounds"]
    facts = {
        "injected": f"{plan['density']:g} point sources per arcmin², {plan['audit']['pattern']}, "
        f"at least {plan['min_separation']:g}″ apart"
        + (f", in {rounds} rounds" if rounds > 1 else "")
        + f"; seed {plan['audit']['seed']}",
        "magnitudes": magnitudes or f"as in {plan['audit']['distribution']}",
        "injected fluxes": found["reference"],
        "compared in": found["measured_reference"],
        "drawn with": found["injection_psf"],
        "photon noise": found["photon_noise"] or "none (the gain is not known, or it is off)",
        "real neighbours": found["neighbors"],
        "not audited": "; ".join(f"{k}: {v}" for k, v in found["reasons"].items()),
    }
    return AuditReport(
        bands, _audit_rows(root / "statistics" / "audit.parquet"),
        _audit_rows(root / "statistics" / "audit_stack.parquet"), tuple(found["checks"]),
        {k: v for k, v in facts.items() if v},
    )  # fmt: skip


def _audit_rows(path: Path) -> AuditRows:
    if not path.exists():
        return AuditRows()
    table = _read(path)
    names = ("band", "exposure", "magnitude", "difference", "pull", "isolated", "bright",
             "for_pulls", "x", "y")  # fmt: skip
    columns: dict[str, Any] = {n: np.asarray(table[n]) for n in names if n in table.colnames}
    columns["band"] = columns["band"].astype(str)
    return AuditRows(columns)


def _facts(entries: list[dict[str, Any]]) -> dict[str, str]:
    """Return what the numbers mean, in words."""
    done = [e for e in entries if e["status"] == "done"]

    def each(name: str) -> str:
        return "; ".join(dict.fromkeys(str(e[name]) for e in done if e.get(name)))

    facts = {
        "calibrated fluxes": f"nJy (AB, -48.60 exactly); reference: {each('reference_label')}",
        "measured as": each("flux_from"),
        "image measure": each("measure"),
        "why": each("measure_because"),
        "positions": each("positions_from"),
        "reference catalogue": each("catalog_reference"),
    }
    return {k: v for k, v in facts.items() if v} if done else {}
