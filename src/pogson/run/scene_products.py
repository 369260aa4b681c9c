"""Tables, JSON and the page of a scene job, from what its fits wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson._version import __version__
from pogson.errors import FileFormatError
from pogson.run.scene_config import SceneRunConfig
from pogson.run.stages import Failure

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["headlines", "make_summary", "result_table", "scene_page"]

SCHEMA = "pogson/scene"
SCHEMA_VERSION = 1


def make_summary(
    config: SceneRunConfig, records: Sequence[Mapping[str, Any]], failures: Sequence[Failure]
) -> dict[str, Any]:
    """Return what ``scene.json`` holds.

    Parameters
    ----------
    config : SceneRunConfig
        The configuration.
    records : sequence of mapping
        One for each target.
    failures : sequence of Failure
        What failed.
    """
    return {
        "schema": SCHEMA,
        "version": SCHEMA_VERSION,
        "pogson": __version__,
        "name": config.scene.name,
        "title": config.report.title or config.scene.name,
        "unit": "nJy",
        "n_targets": len(records),
        "n_done": sum(r["status"] == "done" for r in records),
        "failures": [{"key": f.key, "stage": f.stage, "reason": f.reason} for f in failures],
        "targets": [dict(r) for r in records],
    }


def headlines(summary: Mapping[str, Any]) -> list[str]:
    """Return the result in a few sentences.

    Parameters
    ----------
    summary : mapping
        What ``scene.json`` holds.
    """
    done = [t for t in summary["targets"] if t["status"] == "done"]
    n_flux = sum(len(t["fluxes"]) for t in done)
    lines = [f"{len(done)} of {summary['n_targets']} targets measured, {n_flux} fluxes."]
    for target in done[:5]:
        if (target.get("binary") or {}).get("is_binary") is False:
            lines.append(_single_sentence(target))
            continue
        lines += [_flux_sentence(target, flux) for flux in target["fluxes"][:2]]
        if len(target["fluxes"]) > 2:
            lines.append(f"{target['key']}: {len(target['fluxes'])} fluxes in all.")
    dof = sum(t["dof"] or 0.0 for t in done)
    if dof > 0:
        chi2 = sum(t["chi2"] for t in done)
        lines.append(f"chi2 {chi2:.1f} for {dof:.0f} degrees of freedom ({chi2 / dof:.3f}).")
    pulls = np.array([p for t in done for p in t.get("null_pulls", ())], float)
    if pulls.size:
        lines.append(f"Null tests: {pulls.size} pulls, rms {np.sqrt(np.mean(pulls**2)):.2f}.")
    flagged = [t["key"] for t in done if t["flag_bits"]]
    if flagged:
        some = ", ".join(flagged[:5]) + (" ..." if len(flagged) > 5 else "")
        have = "target has" if len(flagged) == 1 else "targets have"
        lines.append(f"{len(flagged)} {have} flags: {some}.")
    n_dropped = sum(len(t["dropped"]) for t in done)
    if n_dropped:
        lines.append(f"{n_dropped} exposures were left out; the reasons are in scene.json.")
    return lines


def _single_sentence(target: Mapping[str, Any]) -> str:
    """Say that a source is not two, and its flux as one."""
    binary = target["binary"]
    text = (
        f"{target['key']}: one source suffices (delta chi2 {binary['delta_chi2']:.1f} for two, "
        f"threshold {binary['threshold']:g})"
    )
    fluxes = (binary.get("single") or {}).get("fluxes") or []
    return f"{text}; as one, {_flux_sentence(target, fluxes[0])}" if fluxes else f"{text}."


def _flux_sentence(target: Mapping[str, Any], flux: Mapping[str, Any]) -> str:
    error = flux["flux_err"]
    digits = 1 if not error else int(np.clip(1 - np.floor(np.log10(error)), 0, 8))
    text = f"{target['key']}, {flux['source']} in {flux['epoch']}: "
    text += f"{flux['flux']:.{digits}f} +- {error or float('nan'):.{digits}f} nJy"
    if flux["magnitude"] is not None:
        text += f", AB {flux['magnitude']:.3f} +- {flux['magnitude_err']:.3f}"
    return text + "."


# name, unit, description, dtype
_COLUMNS: tuple[tuple[str, str | None, str, str], ...] = (
    ("target", None, "name of the target", "U"),
    ("key", None, "name of the fit; scene.json has its covariance", "U"),
    ("kind", None, "detection, light_curve or binary", "U"),
    ("band", None, "band", "U"),
    ("source", None, "source of the fit", "U"),
    ("exposure", None, "exposure of the flux; 'all' where one flux serves several", "U"),
    ("time", "d", "middle of the exposure, MJD", "f8"),
    ("ra", "deg", "right ascension of the source, fitted where it was free", "f8"),
    ("dec", "deg", "declination", "f8"),
    ("flux", "nJy", "total flux", "f8"),
    ("flux_err", "nJy", "its error: pixel noise, scene, sky and fitted positions", "f8"),
    ("flux_low", "nJy", "lower end of its 68 % interval; of the posterior for a pair", "f8"),
    ("flux_high", "nJy", "upper end", "f8"),
    ("magnitude", "mag", "AB; NaN where the flux is not positive", "f8"),
    ("magnitude_err", "mag", "its error", "f8"),
    ("zero_point_err", None, "relative error of the exposure's scale, not in flux_err", "f8"),
    ("chi2", None, "of the exposure", "f8"),
    ("dof", None, "degrees of freedom of the exposure", "f8"),
    ("n_pixels", None, "pixels used of the exposure", "i8"),
    ("flags", None, "bits of pogson.scene.SceneFlag, of the whole fit", "i8"),
)  # fmt: skip


def result_table(config: SceneRunConfig, records: Sequence[Mapping[str, Any]]) -> Table:
    """Return all fluxes as a table whose columns say what they are.

    Parameters
    ----------
    config : SceneRunConfig
        The configuration.
    records : sequence of mapping
        One for each target; those that failed have no row and are counted in the metadata.

    Returns
    -------
    astropy.table.Table
        One row a source and epoch; fluxes in nJy.
    """
    from astropy.table import Column, Table

    rows: list[dict[str, Any]] = []
    reference: Any = None
    for record in records:
        if record["status"] != "done":
            continue
        reference = record["reference"]
        rows += _rows(record)
    table = Table()
    for name, unit, words, kind in _COLUMNS:
        empty: Any = {"U": "", "f8": np.nan, "i8": 0}[kind]
        values = [empty if r.get(name) is None else r[name] for r in rows]
        column = Column(np.array(values, kind if kind != "U" else None), unit=unit,
                        description=words)  # fmt: skip
        if kind == "U" and not values:
            column = Column(np.array([], "U1"), description=words)
        table[name] = column
    for name in ("flux", "flux_err", "flux_low", "flux_high"):
        table[name].info.meta = {"reference": reference, "measure": "fluence"}
    table.meta.update(
        pogson=__version__,
        name=config.scene.name,
        failed={r["key"]: r["reason"] for r in records if r["status"] != "done"},
        model=config.model.model_dump(mode="json"),
    )
    return table


def _rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    exposures = {e["exposure"]: e for e in record["exposures"]}
    places = {s["name"]: s for s in record["sources"]}
    rows = []
    for flux, scale_error in zip(record["fluxes"], record["scale_errors"], strict=True):
        one = exposures.get(flux["epoch"], {})
        low, high = _interval(record, flux)
        rows.append(
            {
                "target": record["name"], "key": record["key"], "kind": record["kind"],
                "band": record["band"], "source": flux["source"], "exposure": flux["epoch"],
                "time": flux["time"], "ra": places[flux["source"]]["ra"],
                "dec": places[flux["source"]]["dec"], "flux": flux["flux"],
                "flux_err": flux["flux_err"], "flux_low": low, "flux_high": high,
                "magnitude": flux["magnitude"], "magnitude_err": flux["magnitude_err"],
                "zero_point_err": scale_error,
                "chi2": one.get("chi2"), "dof": one.get("dof"), "n_pixels": one.get("n_pixels"),
                "flags": record["flag_bits"],
            }
        )  # fmt: skip
    return rows


def _interval(record: Mapping[str, Any], flux: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the 68 % interval of a flux: from the posterior of a pair, else from the error."""
    sampled = (record.get("binary") or {}).get("intervals") or {}
    part = {"/A": "flux_a", "/B": "flux_b"}.get(str(flux["source"])[-2:], "")
    if part in sampled:
        return sampled[part]["low"], sampled[part]["high"]
    if flux["flux"] is None or flux["flux_err"] is None:
        return None, None
    return flux["flux"] - flux["flux_err"], flux["flux"] + flux["flux_err"]


def scene_page(folder: str | Path, output: str | Path | None = None) -> Path:
    """Write the HTML page of the scene job whose results are in a folder.

    Parameters
    ----------
    folder : path-like
        Folder with ``scene.json`` and ``config.json``.
    output : path-like, optional
        HTML file; by default ``scene.html`` in the folder.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    FileFormatError
        If the folder does not hold the results of a scene job.

    Examples
    --------
    >>> import tempfile
    >>> from pogson.run import load_scene_config, run_scene
    >>> from pogson.simulate import SceneJobModel, write_scene_job
    >>> model = SceneJobModel(n_targets=1, n_exposures=3, size=21)
    >>> config_file, _ = write_scene_job(model, tempfile.mkdtemp(), rng_seed=1)
    >>> result = run_scene(load_scene_config(config_file), workers=1)
    >>> scene_page(result.folder, result.folder / "again.html").name
    'again.html'
    """
    from pogson.report.scene_data import SceneReportData, SceneTargetRecord
    from pogson.report.scene_page import write_scene_report
    from pogson.run.scene_fit import read_panels

    root = Path(folder)
    try:
        summary = json.loads((root / "scene.json").read_text(encoding="utf-8"))
        config_text = (root / "config.json").read_text(encoding="utf-8")
        config = json.loads(config_text)
    except (OSError, ValueError) as error:
        raise FileFormatError(
            f"{root} does not hold the results of a scene job: {error}."
        ) from None
    records: list[SceneTargetRecord] = []
    images: dict[str, Any] = {}
    for entry in summary["targets"]:
        names = ("key", "name", "band", "kind", "status", "reason")
        values = {k: v for k, v in entry.items() if k not in names}
        records.append(SceneTargetRecord(**{n: entry[n] for n in names}, values=values))
        pictures = root / "stages" / "fit" / f"{entry['key']}.npz"
        wanted = entry["status"] == "done" and len(images) < config["report"]["figures"]
        if wanted and pictures.exists():
            images[entry["key"]] = read_panels(pictures, entry)
    data = SceneReportData(
        title=summary["title"],
        targets=tuple(records),
        images=images,
        headlines=tuple(headlines(summary)),
        facts=_facts(config),
        config_text=config_text,
    )
    return write_scene_report(data, output or root / "scene.html")


def _facts(config: Mapping[str, Any]) -> dict[str, str]:
    model = config["model"]
    grid = model["grid"]
    if model["grid_spacing"]:
        grid = f"{model['grid_spacing']:g} arcsec, to {model['grid_half_extent']:g} arcsec"
    return {
        "scene": f"grid {grid}; prior {model['prior']}; sky of order {model['sky_order']}",
        "position": str(model["position"]),
        "geometry": str(model["convention"]),
        "photon noise": "of sources added where a gain is known"
        if model["poisson"]
        else "of the sky",
        "fluxes": "nJy, total (AB magnitude 31.4 − 2.5 log10 flux)",
    }
