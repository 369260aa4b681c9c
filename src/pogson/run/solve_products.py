"""What a global solution writes: calibrations with covariance, parameters, stars, diagnostics."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from pogson.errors import CalibrationError, FileFormatError, MissingDataError
from pogson.run.solve_diagnostics import write_diagnostics
from pogson.run.solve_fit import Solved
from pogson.run.solve_maps import reference_regions, reference_residuals

__all__ = ["SavedSolution", "read_solution", "write_products"]

SCHEMA = "pogson/solution"
_SAMPLE = 200_000
_MEANINGS = {
    "USED": "in the solution",
    "OUTLIER": "rejected: far from the other detections of its star, or from its reference",
    "FLAGGED": "another detection of the same star on this image, or a missing number",
}


@dataclass(frozen=True, eq=False)
class SavedSolution:
    """A solution as read back from its file.

    Parameters
    ----------
    names : tuple of str
        Parameters, ``term[parameter]``.
    values, errors : numpy.ndarray, shape (P,)
        Values and standard errors (NaN: nothing determines it).
    covariance : numpy.ndarray, shape (P, P), or None
        Exact covariance.
    draws : numpy.ndarray, shape (P, K), or None
        Draws that represent it, where it is not known exactly.
    facts : mapping
        What ``solution.json`` holds.

    Examples
    --------
    >>> one = SavedSolution(("a[1]",), np.ones(1), np.ones(1), np.eye(1), None, {})
    >>> one["a[1]"]
    1.0
    """

    names: tuple[str, ...]
    values: np.ndarray
    errors: np.ndarray
    covariance: np.ndarray | None
    draws: np.ndarray | None
    facts: Mapping[str, Any]

    def __getitem__(self, name: str) -> float:
        if name not in self.names:
            raise MissingDataError(
                f"No parameter {name!r} in the solution; the first are {', '.join(self.names[:5])}."
            )
        return float(self.values[self.names.index(name)])


def read_solution(folder: str | Path) -> SavedSolution:
    """Read ``solution.h5`` and ``solution.json`` of a folder.

    Parameters
    ----------
    folder : path-like
        The folder ``solve`` of a run, or the output folder of ``pogson solve``.

    Raises
    ------
    MissingDataError
        If there is no solution.
    FileFormatError
        If a file is not a solution.

    Examples
    --------
    >>> read_solution("/no/such/folder")
    Traceback (most recent call last):
      ...
    pogson.errors.MissingDataError: ...
    """
    import h5py

    root = Path(folder)
    root = root / "solve" if (root / "solve" / "solution.h5").exists() else root
    path = root / "solution.h5"
    if not path.exists():
        raise MissingDataError(f"{root} holds no solution.h5; give the folder of a solution.")
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("schema") != SCHEMA:
                raise FileFormatError(f"{path} is not a solution (schema {SCHEMA!r}).")
            names = tuple(n.decode() for n in file["names"][:])
            values, errors = file["values"][:], file["errors"][:]
            covariance = file["covariance"][:] if "covariance" in file else None
            draws = file["draws"][:] if "draws" in file else None
        facts = json.loads((root / "solution.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError) as error:
        raise FileFormatError(f"{root} does not hold a readable solution: {error}.") from None
    return SavedSolution(names, values, errors, covariance, draws, MappingProxyType(facts))


def write_products(root: Path, solved: Solved) -> list[Path]:
    """Write everything about a solution into a folder.

    Parameters
    ----------
    root : pathlib.Path
        Folder.
    solved : Solved
        The solution.

    Returns
    -------
    list of pathlib.Path
        The files.
    """
    root.mkdir(parents=True, exist_ok=True)
    out = [_write_parameters(root, solved)]
    frames = _Frames(solved)
    entries = []
    for k, frame in enumerate(solved.assembled.frames):
        entry = frames.entry(k)
        path = root / "calibrations" / f"{frame.key}.json"
        residuals = root / "residuals" / f"{frame.key}.parquet"
        for p in (path, residuals):
            p.parent.mkdir(parents=True, exist_ok=True)
        _write_json(path, entry)
        _table(residuals, frames.residuals(k))
        out += [path, residuals]
        entries.append(entry)
    out.append(_table(root / "parameters.parquet", _parameter_columns(solved)))
    sample = frames.sample()
    out.append(_table(root / "exposures.parquet", _exposure_columns(solved, entries, sample)))
    stars = _star_columns(solved)
    if stars is None:
        (root / "stars.parquet").unlink(missing_ok=True)
    else:
        out.append(_table(root / "stars.parquet", stars))
        shutil.rmtree(root / "stars", ignore_errors=True)  # of a solution from partitions
    out.append(_table(root / "sample.parquet", sample))
    _write_json(root / "solution.json", _facts(solved, entries))
    if solved.store is not None:
        solved.store.close()
    return [*out, root / "solution.json", *write_diagnostics(root, solved)]


def _write_json(path: Path, content: Any) -> None:
    from pogson.atomic import atomic_write_text
    from pogson.run.summary import json_ready

    atomic_write_text(path, json.dumps(json_ready(content), allow_nan=False))


def _table(path: Path, columns: Mapping[str, Any]) -> Path:
    from astropy.table import Table

    from pogson.formats import write_catalog

    write_catalog(path, Table(dict(columns)))
    return path


def _errors(solved: Solved) -> np.ndarray:
    s = solved.solution
    if s.covariance is None:
        return np.full(s.parameters.size, np.nan)
    known = (s.information > 0) | np.isfinite(s.model.prior()[1])
    return np.where(known, np.sqrt(np.maximum(s.covariance.variance(), 0.0)), np.nan)


def _write_parameters(root: Path, solved: Solved) -> Path:
    import h5py

    from pogson.atomic import atomic_path
    from pogson.survey import DenseCovariance, SampledCovariance

    s, path = solved.solution, root / "solution.h5"
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["schema"] = SCHEMA
        file.attrs["version"] = 1
        file["names"] = np.array([n.encode() for n in s.model.parameter_names])
        file["values"], file["errors"] = s.parameters, _errors(solved)
        if isinstance(s.covariance, DenseCovariance):
            file["covariance"] = s.covariance.matrix
        elif isinstance(s.covariance, SampledCovariance):
            file["draws"] = s.covariance.draws
    return path


def _parameter_columns(solved: Solved) -> dict[str, Any]:
    s = solved.solution
    terms = [t.name for t, n in zip(s.model.terms, s.model.sizes, strict=True) for _ in range(n)]
    names = [p for t in s.model.terms for p in t.parameter_names(s.model.tables)]
    units = [t.unit for t, n in zip(s.model.terms, s.model.sizes, strict=True) for _ in range(n)]
    return {"term": np.array(terms), "parameter": np.array(names), "unit": np.array(units),
            "value": np.array(s.parameters), "error": _errors(solved)}  # fmt: skip


class _Frames:
    """Numbers and residuals of each frame."""

    def __init__(self, solved: Solved) -> None:
        self.solved, a, s = solved, solved.assembled, solved.solution
        o = a.observations
        self.flags = np.asarray(s.observations.flags if len(s.observations) else o.flags)
        known = s.model.evaluate(o, s.parameters)
        self.natural = np.asarray(o.mag) - known  # the star's magnitude by this detection
        stars = o.stars
        floor = np.asarray(s.weighting.floor)
        category = o.exposure_column("category") if floor.size > 1 else 0
        self.variance = np.asarray(o.mag_err) ** 2 + floor[category] ** 2
        self.mag = (
            np.asarray(s.stars.mag)
            if len(s.observations)
            else _means(o, self.natural, self.variance)
        )
        if len(s.observations):
            self.mag_variance = np.asarray(s.stars.mag_err) ** 2
        else:
            on = self.flags == 0
            total = np.bincount(o.star[on], 1.0 / self.variance[on], len(stars))
            self.mag_variance = 1.0 / np.maximum(total, 1e-300)
        self.color = np.array(stars.color)
        self.color[solved.without_color] = np.nan
        self.ref_error = np.hypot(stars.reference_err, s.weighting.reference_floor)
        self.order = np.argsort(a.frame, kind="stable")
        self.edges = np.searchsorted(a.frame[self.order], np.arange(len(a.frames) + 1))
        self.slopes = dict(_color_slopes(solved))

    def rows(self, k: int) -> np.ndarray:
        """Return the detections of a frame."""
        return self.order[self.edges[k] : self.edges[k + 1]]

    def residuals(self, k: int) -> dict[str, Any]:
        """Return calibrated minus reference magnitudes of a frame, as a zero-point fit does."""
        if self.solved.store is not None:
            return self.solved.store.residuals(k)
        o = self.solved.assembled.observations
        rows = self.rows(k)
        rows = rows[np.isfinite(o.stars.reference_mag[o.star[rows]])]
        star = o.star[rows]
        residual = self.natural[rows] - o.stars.reference_mag[star]
        error = np.sqrt(self.variance[rows] + self.ref_error[star] ** 2)
        return {
            "id": self.solved.assembled.row[rows] + 1, "x": o.x[rows], "y": o.y[rows],
            "magnitude": o.stars.reference_mag[star], "color": self.color[star],
            "residual": residual, "residual_err": error, "pull": residual / error,
            "status": self.status(rows),
        }  # fmt: skip

    def status(self, rows: np.ndarray) -> np.ndarray:
        """Return in one word whether detections took part."""
        from pogson.survey import RowFlag

        flags = self.flags[rows]
        o, s = self.solved.assembled.observations, self.solved.solution
        gone = (flags & RowFlag.REJECTED.value) > 0
        if s.rejected_references.size:
            gone = gone | s.rejected_references[o.star[rows]]
        out = np.where(flags == 0, "USED", "FLAGGED")
        return np.asarray(np.where(gone, "OUTLIER", out).astype("U12"))

    def entry(self, k: int) -> dict[str, Any]:
        """Return the calibration of a frame and its numbers."""
        solved, a = self.solved, self.solved.assembled
        frame, e, d = a.frames[k], int(a.exposure[k]), int(a.detector[k])
        tables = solved.solution.model.tables
        out: dict[str, Any] = {"key": frame.key, "exposure": frame.exposure, "band": frame.band,
                               "detector": frame.detector, "source": "solve"}  # fmt: skip
        if e in solved.left_out:
            return out | {"problem": solved.left_out[e]}
        try:
            calib = solved.solution.photo_calib(
                int(tables.exposures.identifier[e]), int(tables.detectors.identifier[d]),
                reference=frame.reference, unit=frame.unit, measure=frame.measure,
            )  # fmt: skip
        except CalibrationError as error:
            return out | {"problem": str(error)}
        box = tables.detectors.boxes[d]
        x, y = box.center
        counts, n_used, pull = self.counts(k)
        values: dict[str, Any] = {
            "zero_point": 31.4 - 2.5 * np.log10(calib.mean(box)),
            "zero_point_err": float(calib.zero_point_error(x=x, y=y)) if calib.covariance else None,
            "intrinsic_scatter": self.floor(e) if counts else None,
            "n_matched": sum(counts.values()), "n_used": n_used, "pull_rms": pull,
            "exposure_chi2": float(solved.exposure_chi2[e]),
        }  # fmt: skip
        if frame.band in self.slopes:
            values["color_term"], values["color_term_err"] = self.slopes[frame.band]
        return out | {
            "photo_calib": calib.to_dict(), "values": values, "counts": counts,
            "meanings": {n: _MEANINGS[n] for n in counts},
        }  # fmt: skip

    def floor(self, exposure: int) -> float:
        """Return the scatter beyond the noise of an exposure (row), magnitudes."""
        floor = np.asarray(self.solved.solution.weighting.floor)
        category = self.solved.solution.model.tables.exposures.category[exposure]
        return float(floor[category if floor.size > 1 else 0])

    def counts(self, k: int) -> tuple[dict[str, int], int, float | None]:
        """Return detections of a frame by status, those used, and the rms of their pulls."""
        if self.solved.store is not None:
            return self.solved.store.counts(k)
        rows = self.rows(k)
        status, o = self.status(rows), self.solved.assembled.observations
        used = rows[status == "USED"]
        pull = (self.natural[used] - self.mag[o.star[used]]) / np.sqrt(self.variance[used])
        names, counts = np.unique(status, return_counts=True)
        said = {str(n): int(c) for n, c in zip(names, counts, strict=True)}
        return said, int(used.size), float(np.sqrt(np.mean(pull**2))) if used.size else None

    def sample(self) -> dict[str, Any]:
        """Return what the figures need of some detections, all of whole stars."""
        o, s = self.solved.assembled.observations, self.solved.solution
        rows = np.arange(len(o))
        if rows.size > _SAMPLE:
            step = int(np.ceil(rows.size / _SAMPLE))
            rows = np.flatnonzero(o.star % step == 0)
        tables, e, d = s.model.tables, o.exposure[rows], o.detector[rows]
        u, v = tables.detectors.focal_plane(d, x=o.x[rows], y=o.y[rows])
        star = o.star[rows]
        used = self.flags[rows] == 0
        n = np.bincount(o.star[self.flags == 0], minlength=len(o.stars))[star]
        with np.errstate(invalid="ignore", divide="ignore"):
            # the star's magnitude holds this detection: its share is taken out
            free = np.sqrt(np.maximum(self.variance[rows] - self.mag_variance[star], 0.0))
            residual = self.natural[rows] - self.mag[star]
            pull = np.where((n > 1) & used & (free > 0), residual / free, np.nan)
        band = np.array([tables.exposures.filter_name(int(f)) for f in o.stars.filter[star]])
        return {
            "star": star, "exposure": e, "detector": d, "band": band, "u": u, "v": v,
            "magnitude": self.mag[star], "color": self.color[star],
            "airmass": np.asarray(o.detection_airmass())[rows], "mjd": tables.exposures.mjd[e],
            "residual": residual, "pull": pull, "error": np.sqrt(self.variance[rows]),
            "used": used, "n": n,
        }  # fmt: skip


def _means(o: Any, natural: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Return the weighted means of the stars, where a solution kept none."""
    w = np.where(np.isfinite(natural) & (o.flags == 0), 1.0 / variance, 0.0)
    total = np.bincount(o.star, w, len(o.stars))
    mean = np.bincount(o.star, w * np.nan_to_num(natural), len(o.stars))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(total > 0, mean / total, np.nan))


def _color_slopes(solved: Solved) -> Iterator[tuple[str, tuple[float, float]]]:
    """Yield the colour slope of each band, where there is one a band."""
    from pogson.survey import ColorSlope

    s = solved.solution
    for t in s.model.terms:
        if isinstance(t, ColorSlope) and not t.per_detector and t.by == ("filter",):
            error = s.error(t.name) if s.covariance is not None else np.full(99, np.nan)
            for label, value, err in zip(
                t.parameter_names(s.model.tables), s[t.name], error, strict=False
            ):
                band, power = label.split(";")
                if power == "c1":
                    yield band, (float(value), float(err))


def _exposure_columns(
    solved: Solved, entries: list[dict[str, Any]], sample: dict[str, Any]
) -> dict[str, Any]:
    a, s = solved.assembled, solved.solution
    t = s.model.tables.exposures
    n = len(t)
    zero, error = np.full(n, np.nan), np.full(n, np.nan)
    good = np.isfinite(sample["pull"])
    e_good, pull = sample["exposure"][good], sample["pull"][good]
    count = np.bincount(e_good, minlength=n)
    mean = np.where(count > 0, np.bincount(e_good, pull**2, n) / np.maximum(count, 1), np.nan)
    for e in range(n):
        here = [entries[k]["values"] for k in np.flatnonzero(a.exposure == e)
                if "values" in entries[k]]  # fmt: skip
        if here:
            zero[e] = np.mean([v["zero_point"] for v in here])
            errors = [v["zero_point_err"] for v in here if v["zero_point_err"] is not None]
            error[e] = np.median(errors) if errors else np.nan
    return {
        "exposure": np.array(a.exposure_names), "identifier": t.identifier,
        "band": np.array([t.filter_name(int(f)) for f in t.filter]), "mjd": t.mjd,
        "airmass": t.airmass, "seeing": t.seeing, "night": t.night, "epoch": t.epoch,
        "photometric": t.photometric, "zero_point": zero, "zero_point_err": error,
        "chi2": mean, "tied_stars": s.connections.shared,
        "set": s.connections.group,
        "problem": np.array([solved.left_out.get(i, "") for i in range(n)], dtype=str),
    }  # fmt: skip


def _star_columns(solved: Solved) -> dict[str, Any] | None:
    a, s = solved.assembled, solved.solution
    if not len(s.observations):
        return None
    stars, names = a.observations.stars, s.model.tables.exposures
    suspect = np.zeros(len(stars), bool)
    suspect[s.suspect_stars(solved.suspect_probability)] = True
    from pogson.units import magnitude_to_flux

    flux, flux_err = magnitude_to_flux(s.stars.mag, s.stars.mag_err)
    return {
        "id": stars.identifier, "object": a.object + 1,
        "band": np.array([names.filter_name(int(f)) for f in stars.filter]),
        "ra": stars.ra, "dec": stars.dec, "color": stars.color, "mag": s.stars.mag,
        "mag_err": s.stars.mag_err, "njy": flux, "njy_err": flux_err,
        "detections": s.stars.detections, "chi2": s.stars.chi2, "suspect": suspect,
        "reference_mag": stars.reference_mag, "reference_err": stars.reference_err,
        "reference_residual": reference_residuals(solved),
        "reference_rejected": s.rejected_references,
    }  # fmt: skip


def _facts(solved: Solved, entries: list[dict[str, Any]]) -> dict[str, Any]:
    from pogson.survey import RowFlag

    a, s = solved.assembled, solved.solution
    o = s.observations if len(s.observations) else a.observations
    tables = s.model.tables
    out: dict[str, Any] = {
        "schema": SCHEMA, "version": 1,
        "exposures": len(tables.exposures), "detectors": len(tables.detectors),
        "stars": len(o.stars), "detections": len(o),
        "references": int(np.count_nonzero(a.observations.stars.has_reference)),
        "references_rejected": int(s.rejected_references.sum()),
        "parameters": int(s.parameters.size),
        "terms": [t.describe(tables) for t in s.model.terms],
        "chi2": s.chi2, "degrees_of_freedom": s.degrees_of_freedom,
        "floors": list(s.weighting.floor), "reference_floor": s.weighting.reference_floor,
        "floor_classes": int(tables.exposures.category_count),
        "passes": s.passes, "converged": s.converged, "gauges": list(s.gauges),
        "partitions": solved.partitions, "notes": list(solved.notes),
        "left_out": a.counts, "flags": o.flag_counts(),
        "missing_input": s.missing_input,
        "failed": {e["key"]: e["problem"] for e in entries if "problem" in e},
        "reference_regions": reference_regions(solved),
        "validation": None,
    }  # fmt: skip
    if len(s.observations):
        suspects = s.suspect_stars(solved.suspect_probability)
        out["suspects"] = [_suspect(solved, int(i)) for i in suspects[:200]]
        out["n_suspects"] = int(suspects.size)
    if solved.store is not None:
        out |= solved.store.facts
    if (o.flags & RowFlag.HELD_OUT.value).any():
        try:
            found = (s if len(s.observations) else replace(s, observations=o)).validate()
        except MissingDataError:
            out["notes"].append("No star that was held out is seen twice: none can be predicted.")
            return out
        out["validation"] = {
            "stars": int(found.z.size), "p_value": found.p_value,
            "rms": float(np.sqrt(np.mean(found.z**2))), "pit": found.pit[:5000].tolist(),
        }  # fmt: skip
    return out


def _suspect(solved: Solved, i: int) -> dict[str, Any]:
    s, stars = solved.solution, solved.assembled.observations.stars
    return {
        "id": int(stars.identifier[i]), "ra": float(stars.ra[i]), "dec": float(stars.dec[i]),
        "band": s.model.tables.exposures.filter_name(int(stars.filter[i])),
        "mag": float(s.stars.mag[i]), "chi2": float(s.stars.chi2[i]),
        "detections": int(s.stars.detections[i]),
        "reference_rejected": bool(s.rejected_references[i]),
    }  # fmt: skip
