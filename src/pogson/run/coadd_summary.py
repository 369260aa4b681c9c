"""Coadds in numbers for ``summary.json`` and in sentences."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pogson.run.statistics import median_and_error, summarize_pulls

__all__ = [
    "coadd_columns",
    "coadd_headlines",
    "coadd_summary",
    "matched_levels",
    "matching_of",
    "read_coadd_list",
]

SNR_OF_PULLS = (5.0, 100.0)
"""True signal over noise of the stars whose pulls judge the errors: brighter, the zero point."""


def read_coadd_list(root: Path) -> dict[str, Any] | None:
    """Return what ``coadd.json`` of a run holds, None where there is none.

    Parameters
    ----------
    root : pathlib.Path
        Folder of the run.
    """
    path = root / "coadd" / "coadd.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def coadd_columns(root: Path, made: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return by band the sources compared (``rows``), and what was found of the tiles.

    Parameters
    ----------
    root : pathlib.Path
        Folder of the run.
    made : mapping
        From `read_coadd_list`.
    """
    from pogson.formats import read_catalog

    out: dict[str, dict[str, Any]] = {}
    for band, entry in made["bands"].items():
        tables, records = [], []
        for tile in entry["tiles"]:
            stem = root / "stages" / "coadd_check" / "-".join([band, *map(str, tile["tile"])])
            if tile["status"] != "made" or not Path(f"{stem}.json").exists():
                continue
            tables.append(read_catalog(f"{stem}.parquet"))
            records.append(json.loads(Path(f"{stem}.json").read_text(encoding="utf-8")))
        names = tables[0].colnames if tables else []
        rows = {n: np.concatenate([np.asarray(t[n]) for t in tables]) for n in names
                if all(n in t.colnames for t in tables)}  # fmt: skip
        truth: dict[str, np.ndarray] = {}
        known = [r["truth"] for r in records if r["truth"] and r["truth"]["n"]]
        for name in ("magnitude", "true_snr", "pull", "pull_diagonal", "reached", "expected"):
            truth[name] = np.array([v for r in known for v in r[name]], float)
        truth["depth"] = np.array([r["depth"] for r in known if r["depth"] is not None], float)
        truth["snr"] = np.array([r["snr"] for r in known], float)[:1]
        out[band] = {"rows": rows, "empty": [r["empty"] for r in records], "truth": truth,
                     "total": all(r["total"] for r in records) and bool(records),
                     "radius": records[0]["radius"] if records else None}  # fmt: skip
    return out


def coadd_summary(root: Path, snr: float) -> dict[str, Any] | None:
    """Return the main numbers of the coadds of a run, None if there are none.

    Parameters
    ----------
    root : pathlib.Path
        Folder of the run.
    snr : float
        Signal over noise from which fluxes are compared with those of the visits.
    """
    made = read_coadd_list(root)
    if made is None:
        return None
    columns = coadd_columns(root, made)
    bands = {}
    for band, entry in made["bands"].items():
        done = [t for t in entry["tiles"] if t["status"] == "made"]
        bands[band] = {
            "tiles": len(done), "inputs": len(entry["inputs"]),
            "mean_inputs": float(np.mean([t["mean_inputs"] for t in done])) if done else None,
            "noise_total": float(np.mean([t["noise_total"] for t in done])) if done else None,
            **_compared(columns[band], snr),
            "matching": matching_of(entry),
        }  # fmt: skip
    return {"bands": bands, "snr": snr, "kernel": made["kernel"], "grid": made["grid"]}


def matched_levels(entry: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return how the backgrounds of a band were matched, None if they were not.

    Parameters
    ----------
    entry : mapping
        The band in ``coadd.json``.
    """
    path = Path(entry.get("matching") or "")
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def matching_of(entry: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the main numbers of how the backgrounds of a band were matched; None if they were not.

    Parameters
    ----------
    entry : mapping
        The band in ``coadd.json``.
    """
    found = matched_levels(entry)
    if found is None or not found["visits"]:
        return None
    names = set(found["unmatched"])
    sizes = [max(abs(v["lowest"]), abs(v["highest"])) for v in found["visits"]
             if v["exposure_id"] not in names]  # fmt: skip
    return {
        "n_visits": len(sizes), "largest": max(sizes, default=None), "unit": found.get("unit"),
        "rms_before": found["rms_before"], "rms_after": found["rms_after"],
        "unmatched": found["unmatched"],
    }  # fmt: skip


def _compared(found: Mapping[str, Any], snr: float) -> dict[str, Any]:
    """Return the numbers of one band."""
    out: dict[str, Any] = {"radius": found["radius"], "total": found["total"]}
    rows = found["rows"]
    if rows:
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = 2500.0 * np.log10(rows["flux"] / rows["visit_flux"])
            use = np.isfinite(ratio) & (rows["flux"] > snr * rows["flux_err"])
        median, error = median_and_error(ratio[use])
        out |= {"n_compared": int(use.sum()), "median_mmag": median, "median_mmag_err": error}
    for name in ("tracked", "diagonal"):
        values = [e[name] for e in found["empty"] if e[name] is not None]
        sizes = [e["n"] for e in found["empty"] if e[name] is not None]
        out[f"empty_{name}"] = (
            float(np.sqrt(np.average(np.square(values), weights=sizes))) if values else None
        )
    out["n_empty"] = int(sum(e["n"] for e in found["empty"]))
    truth = found["truth"]
    if truth["pull"].size:
        low, high = SNR_OF_PULLS
        some = (truth["true_snr"] > low) & (truth["true_snr"] < high)
        for name, column in (("pulls", "pull"), ("pulls_diagonal", "pull_diagonal")):
            values = truth[column][some]
            out[name] = summarize_pulls(values[np.abs(truth["pull"][some]) < 5.0])
        p = truth["expected"]
        out["completeness"] = {
            "snr": float(truth["snr"][0]), "n": int(p.size), "reached": int(truth["reached"].sum()),
            "expected": float(p.sum()), "expected_err": float(np.sqrt(np.sum(p * (1.0 - p)))),
            "depth": float(np.median(truth["depth"])) if truth["depth"].size else None,
        }  # fmt: skip
    return out


def coadd_headlines(summary: Mapping[str, Any] | None) -> list[str]:
    """Return the coadds in a few sentences.

    Parameters
    ----------
    summary : mapping or None
        From `coadd_summary`.

    Examples
    --------
    >>> coadd_headlines(None)
    []
    """
    if not summary:
        return []
    out = []
    for band, b in summary["bands"].items():
        text = f"Coadd, {band}: {b['tiles']} tile{'' if b['tiles'] == 1 else 's'} of "
        text += f"{b['inputs']} detector images"
        m = b.get("matching")
        if m and m["n_visits"]:
            text += (
                f"; backgrounds of {m['n_visits']} visits matched: their differences fall from "
                f"{m['rms_before']:.1f} to {m['rms_after']:.1f} of the error"
            )
            if m["unmatched"]:
                text += f" ({len(m['unmatched'])} more share too little sky with others)"
        if b.get("n_compared"):
            text += (
                f"; {b['n_compared']} sources above {summary['snr']:g} sigma have the weighted "
                f"flux of their visits to {b['median_mmag']:+.3f} mmag (median)"
            )
        if b.get("empty_tracked") is not None:
            text += (
                f"; {b['n_empty']} empty apertures scatter by {b['empty_tracked']:.2f} of the error"
                f" from the covariance ({b['empty_diagonal']:.2f} of that from the diagonal alone)"
            )
        if b.get("pulls"):
            text += (
                f"; {b['pulls']['n']} stars against the truth have pulls of rms "
                f"{b['pulls']['rms']:.2f} ({b['pulls_diagonal']['rms']:.2f})"
            )
        c = b.get("completeness")
        if c:
            text += (
                f"; {c['reached']} of {c['n']} true stars reach {c['snr']:g} sigma where "
                f"{c['expected']:.0f} +- {c['expected_err']:.0f} should (depth {c['depth']:.2f})"
            )
        out.append(text + ".")
    return out
