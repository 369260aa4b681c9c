"""Tables, JSON and the page of a flux calibration, from what its tasks wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson._version import __version__
from pogson.errors import FileFormatError
from pogson.run.fluxcal_config import FluxCalConfigFile
from pogson.run.stages import Failure

if TYPE_CHECKING:
    from astropy.table import Table

    from pogson.report.fluxcal_data import FluxCalReportData

__all__ = ["fluxcal_headlines", "fluxcal_page", "make_fluxcal_summary", "star_table"]

SCHEMA = "pogson/fluxcal"
SCHEMA_VERSION = 1


def make_fluxcal_summary(
    config: FluxCalConfigFile,
    record: Mapping[str, Any],
    outputs: Sequence[Path],
    failures: Sequence[Failure],
) -> dict[str, Any]:
    """Return what ``fluxcal.json`` holds.

    Parameters
    ----------
    config : FluxCalConfigFile
        The configuration.
    record : mapping
        What the calibration wrote about itself.
    outputs : sequence of pathlib.Path
        Calibrated frames.
    failures : sequence of Failure
        Frames that could not be calibrated.
    """
    import astropy

    return {
        "schema": SCHEMA,
        "version": SCHEMA_VERSION,
        "pogson": __version__,
        "versions": {
            "pogson": __version__,
            "numpy": np.__version__,
            "astropy": astropy.__version__,
        },
        "name": config.fluxcal.name,
        "title": config.report.title or config.fluxcal.name,
        "flux_unit": "erg s-1 cm-2 Angstrom-1",
        "templates": config.templates.path,
        "extinction": config.model.extinction,
        **record,
        "n_used": sum(bool(s["used"]) for s in record["stars"]),
        "rejected": {s["name"]: s["rejected"] for s in record["stars"] if not s["used"]},
        "calibrated": [p.name for p in outputs],
        "failures": [{"key": f.key, "stage": f.stage, "reason": f.reason} for f in failures],
    }


def fluxcal_headlines(summary: Mapping[str, Any]) -> list[str]:
    """Return the result in a few sentences.

    Parameters
    ----------
    summary : mapping
        What ``fluxcal.json`` holds.
    """
    low, high = summary["frame"]["wavelength"]
    lines = [
        f"{summary['n_used']} of {len(summary['stars'])} standard stars used, {low:.0f}-{high:.0f} "
        f"Angstrom; stars found by {summary['matched_by']}.",
        f"Error of the scale {_percent(summary['log_scale_error'])}; the fibres' losses scatter by "
        f"{_percent(summary['grey_scatter'])}, the shapes of the stars by "
        f"{_percent(summary['shape_scatter'])}.",
    ]
    lines += [f"Rejected: {name}: {why}" for name, why in summary["rejected"].items()]
    lines += [f"Suspicious magnitudes: {text}" for text in summary["suspicions"]]
    flagged = [f"{s['name']} ({', '.join(s['flags'])})" for s in summary["stars"] if s["flags"]]
    if flagged:
        lines.append(f"Look at: {'; '.join(flagged)}.")
    lost = summary["unmatched_rows"]
    if lost:
        some = "; ".join(f"{n}: {why}" for n, why in list(lost.items())[:5])
        more = f" and {len(lost) - 5} more" if len(lost) > 5 else ""
        lines.append(f"{len(lost)} rows of the table were not used: {some}{more}.")
    lines += summary["notes"]
    lines.append(f"{len(summary['calibrated'])} frames calibrated.")
    return lines


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:.2f} %"


def star_table(summary: Mapping[str, Any]) -> Table:
    """Return one row a standard star.

    Parameters
    ----------
    summary : mapping
        What ``fluxcal.json`` holds.

    Returns
    -------
    astropy.table.Table
        Parameters with errors, grey loss, residual of every band (``d_BAND``, synthetic minus
        catalogue AB magnitude), whether the star was used, and why not.
    """
    from astropy.table import Column, Table

    units = {"teff": "K", "rv_kms": "km / s", "e_bv": "mag"}
    numbers = (
        "sn", "teff", "teff_err", "logg", "logg_err", "feh", "feh_err", "rv_kms", "rv_kms_err",
        "e_bv", "e_bv_err", "scale", "scale_err", "grey", "slope", "chi2", "misfit",
    )  # fmt: skip
    stars = summary["stars"]
    table = Table()
    table["name"] = np.array([s["name"] for s in stars], str)
    table["fibre"] = np.array([s["fibre"] for s in stars], np.int64)
    table["used"] = np.array([s["used"] for s in stars], bool)
    for name in numbers:
        values = [np.nan if s[name] is None else s[name] for s in stars]
        table[name] = Column(np.array(values, float), unit=units.get(name.removesuffix("_err")))
    table["ndof"] = np.array([s["ndof"] or 0 for s in stars], np.int64)
    for band in summary["bands"]:
        values = [s["band_residuals"].get(band) for s in stars]
        table[f"d_{band}"] = Column(
            np.array([np.nan if v is None else v for v in values], float), unit="mag",
            description="synthetic minus catalogue magnitude, AB",
        )  # fmt: skip
    for name in ("template", "rejected"):
        table[name] = np.array([s[name] for s in stars], str)
    table["flags"] = np.array(["; ".join(s["flags"]) for s in stars], str)
    table.meta.update(pogson=__version__, name=summary["name"])
    return table


def fluxcal_page(folder: str | Path, output: str | Path | None = None) -> Path:
    """Write the HTML page of a finished flux calibration.

    Parameters
    ----------
    folder : path-like
        Folder of the results.
    output : path-like, optional
        The page; ``fluxcal.html`` in the folder by default.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    FileFormatError
        If the folder holds no flux calibration.

    Examples
    --------
    >>> fluxcal_page("no-such-folder")
    Traceback (most recent call last):
    ...
    pogson.errors.FileFormatError: no-such-folder holds no flux calibration: ...
    """
    from pogson.report.fluxcal_page import write_fluxcal_report

    root = Path(folder)
    return write_fluxcal_report(report_data(root), Path(output or root / "fluxcal.html"))


def report_data(root: Path) -> FluxCalReportData:
    """Return what the page shows, from the files of a finished job."""
    from pogson.report.fluxcal_data import FluxCalReportData, StandardRecord

    try:
        summary = json.loads((root / "fluxcal.json").read_text(encoding="utf-8"))
        with np.load(root / "calibration" / "spectra.npz", allow_pickle=False) as file:
            arrays = {k: file[k] for k in file.files}
        config = (root / "config.json").read_text(encoding="utf-8")
    except (OSError, ValueError, KeyError) as error:
        raise FileFormatError(f"{root} holds no flux calibration: {error}") from None
    if summary.get("schema") != SCHEMA:
        raise FileFormatError(f"{root}/fluxcal.json has schema {summary.get('schema')!r}.")
    stars = []
    for k, star in enumerate(summary["stars"]):
        mine = {n.partition("_")[2]: v for n, v in arrays.items() if n.startswith(f"star{k}_")}
        stars.append(StandardRecord(star["name"], bool(star["used"]), star, mine))
    return FluxCalReportData(
        title=summary["title"],
        stars=tuple(stars),
        response={k: v for k, v in arrays.items() if not k.startswith("star")},
        bands=tuple(sorted(summary["bands"], key=lambda b: summary["pivots"][b])),
        headlines=tuple(fluxcal_headlines(summary)),
        facts=_facts(summary),
        suspicions=tuple(summary["suspicions"]),
        numbers={
            k: float("nan") if summary[k] is None else float(summary[k])
            for k in ("log_scale_error", "grey_scatter", "shape_scatter")
        },
        telluric_regions=tuple((a, b) for a, b in summary["telluric_regions"]),
        failures={f["key"]: f["reason"] for f in summary["failures"]},
        unmatched=dict(summary["unmatched_rows"]),
        config_text=config,
    )


def _facts(summary: Mapping[str, Any]) -> dict[str, str]:
    frame = summary["frame"]

    def said(value: Any, unit: str = "") -> str:
        return "unknown" if value is None else f"{value:g}{unit}"

    return {
        "Frame": f"{frame['fibres']} fibres of {frame['pixels']} pixels, in {frame['unit']}",
        "Exposure time": said(frame["exposure_time"], " s"),
        "Airmass": said(frame["airmass"]),
        "Atmospheric extinction": summary["extinction"] or "none: part of the response",
        "Templates": summary["templates"],
        "Dust": summary["law"],
        "Magnitudes": ", ".join(f"{b} ({s})" for b, s in summary["systems"].items()),
        "Spline intervals": f"{summary['intervals']}, by cross-validation",
        "Calibrated frames": ", ".join(summary["calibrated"]),
    }
