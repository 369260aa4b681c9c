"""The audit of a whole run: exposures together, each source over its visits, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import MaskedDataError, PogsonError
from pogson.run.config import AuditConfig

if TYPE_CHECKING:
    from astropy.table import Table

    from pogson.inject import Audit, AuditSettings
    from pogson.run.audit_plan import AuditPlan

__all__ = ["audit_headlines", "combine_audits", "exposure_numbers", "stack_visits"]

SCHEMA = "pogson/run-audit"
_LEAST_IN_STACK = 20
_FOR_STACKS = ("max_bias_mmag", "max_pull_mean", "min_pull_rms", "max_pull_rms", "significance")
_KEPT = (
    "id", "round", "x", "y", "magnitude", "flux_in", "flux_out", "flux_out_err", "flux_catalog",
    "neighbour_light", "neighbour_distance", "detected", "flags",
)  # fmt: skip


def audit_settings(audit: AuditConfig) -> AuditSettings:
    """Return what the audit looks at."""
    from pogson.inject import AuditSettings

    return AuditSettings(
        bin_width=audit.bin_width,
        min_snr=audit.pull_snr[0],
        max_snr=audit.pull_snr[1],
        isolation=audit.isolation,
        max_neighbour_light=audit.neighbor_light,
    )


def exposure_numbers(table: Table, audit: AuditConfig) -> dict[str, float]:
    """Return the numbers of one exposure that the report's table shows.

    Parameters
    ----------
    table : astropy.table.Table
        Recovered sources; see `pogson.run.auditing.AUDIT_COLUMNS`.
    audit : AuditConfig
        Section ``[audit]``.

    Returns
    -------
    dict
        ``audit_n``, ``audit_bias``, ``audit_bias_err`` (magnitudes), ``audit_pull_rms``,
        ``audit_depth_50``; NaN where they are not known.
    """
    from pogson.inject import audit_sources

    try:
        values = audit_sources(table, settings=audit_settings(audit)).values
    except MaskedDataError:
        return {"audit_n": 0}
    bias = values["bias"]["overall"]
    return {
        "audit_n": values["counts"]["used"],
        "audit_bias": 1e-3 * bias["median_mmag"],
        "audit_bias_err": 1e-3 * bias["median_err_mmag"],
        "audit_pull_rms": values["pulls"]["rms"],
        "audit_depth_50": values["completeness"]["depth_50"],
    }


def stack_visits(tables: Sequence[Table], settings: AuditSettings | None = None) -> Table:
    """Return each source's inverse-variance mean over the exposures that saw it.

    Parameters
    ----------
    tables : sequence of astropy.table.Table
        Recovered sources of the exposures of one band.
    settings : AuditSettings, optional
        What makes a measurement usable; all usable ones are averaged, isolated or not.

    Returns
    -------
    astropy.table.Table
        One row a source seen in two exposures or more: ``id``, ``n_visits``, and the columns of a
        recovery table. ``detected``: in any of the exposures; ``neighbour_light`` is averaged with
        the same weights.

    Notes
    -----
    Weights are 1 / error^2 of each measurement. The errors contain the *expected* photon noise of
    the source, not the noisy one, so that weights and fluxes are independent and the mean is not
    biased towards faint.
    """
    from astropy.table import Table, vstack

    from pogson.inject.audit import classify_rows

    parts = []
    for table in tables:
        if len(table):
            rows = classify_rows(table, settings)
            part = table[rows["measured"]]
            if len(part):
                parts.append(part)
    if not parts:
        return Table()
    rows_of_all = vstack(parts, metadata_conflicts="silent")
    ids, inverse, n = np.unique(
        np.asarray(rows_of_all["id"]), return_inverse=True, return_counts=True
    )
    weight = 1.0 / np.asarray(rows_of_all["flux_out_err"], float) ** 2

    def total(values: Any) -> np.ndarray:
        return np.bincount(inverse, np.asarray(values, float), ids.size)

    def mean(name: str) -> np.ndarray:
        return np.asarray(total(weight * np.asarray(rows_of_all[name], float)) / total(weight))

    nearest = np.full(ids.size, np.inf)
    np.minimum.at(nearest, inverse, np.asarray(rows_of_all["neighbour_distance"], float))
    stack = Table({"id": ids, "n_visits": n})
    for name in ("magnitude", "flux_in", "flux_out", "neighbour_light", "ra", "dec"):
        stack[name] = mean(name)
    stack["flux_out_err"] = 1.0 / np.sqrt(total(weight))
    stack["neighbour_distance"] = nearest
    stack["detected"] = total(np.asarray(rows_of_all["detected"], bool)) > 0
    stack["drawn"], stack["ambiguous"], stack["flags"] = True, False, 0
    for name in ("flux_in", "flux_out", "flux_out_err", "neighbour_light"):
        stack[name].unit = "nJy"
        stack[name].info.meta = dict(rows_of_all[name].info.meta)
    spread = (
        total(np.asarray(rows_of_all["flux_in"], float) ** 2) / n
        - (total(rows_of_all["flux_in"]) / n) ** 2
    )
    stack["flux_in_spread"] = np.sqrt(np.maximum(spread, 0.0)) / np.abs(stack["flux_in"])
    stack = stack[n > 1]
    stack.meta["match_radius"] = max(float(t.meta.get("match_radius", 0.0)) for t in parts)
    return stack


def combine_audits(
    audit: AuditConfig,
    tables: Mapping[str, Mapping[int, Table]],
    plan: AuditPlan,
    failures: Sequence[str],
    folder: Path,
) -> dict[str, Any]:
    """Audit the exposures of each band together, and the mean over visits; judge them.

    Parameters
    ----------
    audit : AuditConfig
        Section ``[audit]``.
    tables : mapping of str to mapping of int to astropy.table.Table
        For each band, the recovered sources of each exposure, by its index.
    plan : AuditPlan
        What was injected.
    failures : sequence of str
        Exposures that were calibrated and could not be audited.
    folder : pathlib.Path
        Where ``audit.parquet`` and ``audit_stack.parquet`` go.

    Returns
    -------
    dict
        JSON-ready: ``passed``, ``exit_code``, ``checks`` (with ``band`` and ``of``), ``failures``,
        ``plan`` and ``bands`` with the results of ``exposures`` and ``stack``.
    """
    from pogson.inject import AuditLimits, audit_sources
    from pogson.inject.audit_statistics import pull_statistics

    limits = AuditLimits.from_dict(audit.limits.model_dump(exclude_none=True))
    fewer = AuditLimits(**{name: getattr(limits, name) for name in _FOR_STACKS})
    settings = audit_settings(audit)
    bands: dict[str, Any] = {}
    checks: list[dict[str, Any]] = []
    kept: list[Table] = []
    stacks: list[Table] = []
    for band, by_exposure in tables.items():
        found: dict[str, Any] = {}
        filled = {i: t for i, t in by_exposure.items() if len(t)}
        groups: list[tuple[str, Any, AuditLimits]] = [("exposures", list(filled.values()), limits)]
        stack = stack_visits(list(filled.values()), settings)
        if len(stack):
            groups.append(("stack", stack, fewer))
            stacks.append(_labelled(stack, band, settings))
        for name, rows, wanted in groups:
            try:
                result = audit_sources(rows, limits=wanted, settings=settings)
            except MaskedDataError as error:
                found[name] = {"reason": str(error)}
                checks.append(_failed_check(band, name, str(error)))
                continue
            found[name] = result.to_dict()
            found[name]["lines"] = result.lines()
            judged = [c for c in _plain_checks(result) if name == "exposures" or _enough(c)]
            checks += [{"band": band, "of": name, **c} for c in judged]
        if filled:
            found["exposures"]["catalogue"] = _as_catalogued(list(filled.values()), settings)
            found["exposures"]["pulls_less_neighbours"] = pull_statistics(
                _less_neighbours(list(filled.values()), settings)
            )
        if len(stack):
            found["stack"]["visits"] = {
                "median": float(np.median(stack["n_visits"])),
                "largest": int(np.max(stack["n_visits"])),
                "largest_spread_of_flux_in": float(np.max(stack["flux_in_spread"])),
            }
        bands[band] = found
        kept += [_labelled(t, band, settings, i) for i, t in filled.items()]
    _write(folder / "audit.parquet", kept)
    _write(folder / "audit_stack.parquet", stacks)
    if failures:
        checks.append(_failed_check("", "audit", f"not audited: {', '.join(failures)}"))
    passed = all(c["passed"] for c in checks)
    return {
        "schema": SCHEMA, "version": 1, "passed": passed, "exit_code": 0 if passed else 1,
        "checks": checks, "failures": list(failures), "plan": plan.settings(), "bands": bands,
    }  # fmt: skip


def _plain_checks(result: Audit) -> list[dict[str, Any]]:
    checks: list[dict[str, Any]] = result.to_dict()["verdict"]["checks"]
    return checks


def _enough(check: Mapping[str, Any]) -> bool:
    """Return whether a mean over visits can be judged: few sources may be in several exposures."""
    return check["value"] is not None and (check["n"] is None or check["n"] >= _LEAST_IN_STACK)


def _failed_check(band: str, of: str, reason: str) -> dict[str, Any]:
    return {"band": band, "of": of, "name": "audited", "value": None, "error": None, "limit": None,
            "passed": False, "n": 0, "reason": reason}  # fmt: skip


def _as_catalogued(tables: Sequence[Table], settings: AuditSettings) -> dict[str, Any]:
    """Return the bias of the fluxes measured where sources were detected.

    Near the limit these are biased: what is lifted by noise is found, and its centroid moves to
    the brighter pixels. That is a property of the catalogue, not of the calibration.
    """
    from pogson.inject import audit_sources

    swapped = []
    for table in tables:
        copy = table.copy(copy_data=False)
        for name in ("flux_out", "flux_out_err"):
            copy[name] = np.asarray(table[name.replace("out", "catalog")], float)
        swapped.append(copy)
    try:
        values = audit_sources(swapped, settings=settings).to_dict()
    except PogsonError:
        return {}
    return {"bias": values["bias"], "pulls": values["pulls"]}


def _less_neighbours(tables: Sequence[Table], settings: AuditSettings) -> np.ndarray:
    """Return pulls of all measured sources, less the predicted light of their neighbours."""
    from pogson.inject.audit import classify_rows

    out = []
    for table in tables:
        rows = classify_rows(table, settings)
        err = np.asarray(table["flux_out_err"], float)
        light = np.asarray(table["neighbour_light"], float) / err
        use = rows["measured"] & (light < 1.0)
        use &= (rows["snr"] >= settings.min_snr) & (rows["snr"] <= settings.max_snr)
        out.append((rows["pull"] - light)[use])
    return np.concatenate(out) if out else np.zeros(0)


def _labelled(table: Table, band: str, settings: AuditSettings, index: int | None = None) -> Table:
    """Return the columns that the report plots, and what each row is used for."""
    from astropy.table import Table

    from pogson.inject.audit import classify_rows

    rows = classify_rows(table, settings)
    names = [n for n in (*_KEPT, "n_visits", "flux_out_err") if n in table.colnames]
    out = Table({name: table[name] for name in dict.fromkeys(names)})
    out["band"] = np.full(len(table), band)
    if index is not None:
        out["exposure"] = np.full(len(table), index)
    for name, values in rows.items():
        out[name] = values
    return out


def _write(path: Path, tables: Sequence[Table]) -> None:
    from astropy.table import vstack

    from pogson.formats import write_catalog

    if not tables:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    joined = vstack(list(tables), metadata_conflicts="silent")
    joined.meta.clear()
    write_catalog(path, joined)


def audit_headlines(audit: Mapping[str, Any] | None) -> list[str]:
    """Return the audit of a run in a few sentences.

    Parameters
    ----------
    audit : mapping or None
        From `combine_audits`; None: there was no audit.

    Examples
    --------
    >>> audit_headlines(None)
    []
    >>> audit_headlines({"bands": {}, "checks": [], "passed": True})
    ['Audit: no limits are set ([audit.limits]).']
    """
    if audit is None:
        return []
    out = []
    for band, found in audit["bands"].items():
        parts = [_sentence(name, found[name]) for name in ("exposures", "stack") if name in found]
        out.append(f"Audit, {band}: " + "; ".join(parts) + ".")
    broken = [c for c in audit["checks"] if not c["passed"]]
    n = len(audit["checks"])
    if not n:
        out.append("Audit: no limits are set ([audit.limits]).")
    elif not broken:
        out.append(f"Audit: all {n} limits are kept.")
    for check in broken:
        where = " ".join(w for w in (check["band"], check["of"]) if w)
        if check["value"] is None or str(check["reason"]).startswith("only "):
            out.append(f"Audit BROKEN: {where}: {check['name']}: {check['reason']}.")
        else:
            out.append(
                f"Audit BROKEN: {where}: {check['name']} is {check['value']:.4g}, the limit is "
                f"{check['limit']:.4g} ({check['reason']})."
            )
    return out


def _sentence(name: str, result: Mapping[str, Any]) -> str:
    if "bias" not in result:
        return str(result.get("reason", "not audited"))
    bias, pulls = result["bias"]["overall"], result["pulls"]

    def text(value: Any, form: str) -> str:
        return "unknown" if value is None else format(value, form)

    pull = (
        f"{pulls['n']} pulls with mean {text(pulls['mean'], '+.3f')} and rms "
        f"{text(pulls['rms'], '.3f')}"
    )
    if name == "stack":
        return f"means over visits: bias {text(bias['median_mmag'], '+.2f')} mmag, {pull}"
    depth = result["completeness"]["depth_50"]
    return (
        f"{result['counts']['used']} injected sources, half of them found at "
        f"{text(depth, '.2f')} mag, bias {text(bias['median_mmag'], '+.2f')} +- "
        f"{text(bias['median_err_mmag'], '.2f')} mmag, {pull}"
    )
