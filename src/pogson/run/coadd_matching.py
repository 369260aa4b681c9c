"""Backgrounds matched between the visits of a coadd, as resumable tasks over files.

Per tile, the stage "coadd_sample" measures the surface brightness between sources on every image;
all tiles together give each visit a smooth level; per image, "coadd_match" takes it out. Shared by
``pogson run`` and ``pogson image coadd``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.fields import Box
from pogson.run.coadd_tiles import CoaddFile, image_reach, load_image, reaches, tile_name
from pogson.run.resume import fingerprint
from pogson.run.stages import StagedRun, StageItem

if TYPE_CHECKING:
    from pogson.images import BackgroundSamples, CoaddGrid, MatchedBackgrounds
    from pogson.sky import SkyMap

__all__ = [
    "MATCH",
    "SAMPLE",
    "MatchJob",
    "MatchingOptions",
    "SampleJob",
    "match_image",
    "matched_groups",
    "sample_tile",
]

SAMPLE, MATCH = "coadd_sample", "coadd_match"


@dataclass(frozen=True)
class MatchingOptions:
    """How backgrounds are matched.

    Parameters
    ----------
    degree : int, optional
        Total degree of the level of a visit.
    bin_size : int, optional
        Output pixels a side of the bins that are compared.

    Examples
    --------
    >>> MatchingOptions().degree
    1
    """

    degree: int = 1
    bin_size: int = 64


@dataclass(frozen=True)
class SampleJob:
    """What `sample_tile` needs.

    Parameters
    ----------
    files : tuple of CoaddFile
        Images that may reach the tile.
    sky : SkyMap
        Mapping of the output.
    box : Box
        The tile's own pixels.
    bin_size : int
        Of the bins.
    output : str
        File to write.
    """

    files: tuple[CoaddFile, ...]
    sky: SkyMap
    box: Box
    bin_size: int
    output: str


def sample_tile(job: SampleJob) -> dict[str, Any]:
    """Sample the backgrounds on a tile and write them.

    Parameters
    ----------
    job : SampleJob
        What to read and write.

    Returns
    -------
    dict
        ``n_samples``.
    """
    from pogson.atomic import atomic_path
    from pogson.images import CoaddSource, sample_backgrounds

    sources = [
        CoaddSource(
            f.exposure_id, f.sky, f.box,
            partial(load_image, path=f.path, exposure_id=f.exposure_id), f.detector,
        )
        for f in job.files
    ]  # fmt: skip
    found = sample_backgrounds(sources, job.sky, job.box, bin_size=job.bin_size)
    arrays: dict[str, Any] = {}
    if found is not None:
        arrays = {
            "visits": np.array(found.visits, dtype=np.str_), "box": np.array(tuple(found.box)),
            "unit": np.array(found.unit), "bins": found.bins, "visit": found.visit,
            "cell": found.cell, "value": found.value, "error": found.error,
        }  # fmt: skip
    with atomic_path(job.output) as path, open(path, "wb") as stream:
        np.savez(stream, **arrays)
    return {"n_samples": 0 if found is None else int(found.value.size)}


def _read_samples(path: str | Path) -> BackgroundSamples | None:
    from pogson.images import BackgroundSamples

    with np.load(path, allow_pickle=False) as data:
        if "visits" not in data.files:
            return None
        return BackgroundSamples(
            tuple(map(str, data["visits"])), Box(*map(int, data["box"])), data["bins"],
            data["visit"], data["cell"], data["value"], data["error"], str(data["unit"]),
        )  # fmt: skip


@dataclass(frozen=True)
class MatchJob:
    """What `match_image` needs.

    Parameters
    ----------
    image : str
        Image to read.
    level : MatchedBackgrounds
        The level of its visit alone.
    output : str
        Image to write.
    """

    image: str
    level: MatchedBackgrounds
    output: str


def match_image(job: MatchJob) -> dict[str, Any]:
    """Write an image less the level of its visit; its background has the level in it.

    Parameters
    ----------
    job : MatchJob
        What to read and write.

    Returns
    -------
    dict
        ``level``, at the middle of the image, per arcsec2.
    """
    from pogson.formats import write_exposure
    from pogson.formats.native import read_native

    exposure = read_native(job.image)
    write_exposure(job.output, job.level.subtract(0, exposure))
    sky, output_sky = exposure.sky, job.level.sky
    assert sky is not None  # as it could not be added otherwise
    assert output_sky is not None
    x, y = output_sky.pixel(*sky.sky(x=exposure.box.center[0], y=exposure.box.center[1]))
    return {"level": float(job.level.levels[0](x=x, y=y, extrapolate=True))}


def matched_groups(
    run: StagedRun,
    groups: Mapping[str, Sequence[CoaddFile]],
    grid: CoaddGrid,
    folder: Path,
    options: MatchingOptions,
) -> tuple[dict[str, list[CoaddFile]], dict[str, str]]:
    """Return the images of each coadd with backgrounds that match, written to ``folder``.

    Parameters
    ----------
    run : StagedRun
        Runs the stages "coadd_sample" and "coadd_match".
    groups : mapping of str to sequence of CoaddFile
        Images of each coadd, by band.
    grid : CoaddGrid
        Output of all.
    folder : pathlib.Path
        Where images go; ``matching-BAND.json`` has the levels.
    options : MatchingOptions
        How.

    Returns
    -------
    groups : dict
        As the parameter. Images of visits that share too little sky with others are as they were;
        those that failed are left out, and in the failures of ``run``.
    levels : dict of str to str
        By band, the file with the levels.
    """
    items: list[StageItem] = []
    by_group: dict[str, list[StageItem]] = {}
    for band, files in groups.items():
        by_group[band] = _sample_items(run, files, grid, band, options)
        items += by_group[band]
    run.stage(SAMPLE, sample_tile, items)
    jobs: list[StageItem] = []
    out: dict[str, list[CoaddFile]] = {}
    said: dict[str, str] = {}
    for band, files in groups.items():
        done = [i for i in by_group[band] if Path(i.outputs[0]).exists()]
        path = folder / f"matching{'-' if band else ''}{band}.json"
        levels, said[band] = _levels(done, grid, path, options), str(path)
        out[band] = []
        for file, name in zip(files, _names(files, band), strict=True):
            level = levels.get(file.exposure_id)
            if level is None:
                out[band].append(file)
                continue
            target = str(folder / f"{name}.fits")
            how = [level.levels[0].to_dict(), grid.to_dict()["sky"]]
            mark = fingerprint(files=[file.path], settings=how)
            jobs.append(StageItem(name, MatchJob(file.path, level, target), mark, (target,)))
            out[band].append(replace(file, path=target))
    run.stage(MATCH, match_image, jobs)
    failed = {f.key for f in (*run.failures.values(), *run.optional_failures.values())
              if f.stage == MATCH}  # fmt: skip
    lost = {i.outputs[0] for i in jobs if i.key in failed}
    left = {band: [f for f in files if f.path not in lost] for band, files in out.items()}
    return {band: files for band, files in left.items() if files}, said


def _sample_items(
    run: StagedRun,
    files: Sequence[CoaddFile],
    grid: CoaddGrid,
    band: str,
    options: MatchingOptions,
) -> list[StageItem]:
    if len({f.exposure_id for f in files}) < 2:
        return []
    reach = [image_reach(f, grid) for f in files]
    out = []
    for tile in grid:
        near = tuple(f for f, r in zip(files, reach, strict=True) if reaches(r, tile.inner))
        if len({f.exposure_id for f in near}) < 2:
            continue
        key = tile_name(tile, band)
        target = str(run.root / "stages" / SAMPLE / f"{key}.npz")
        job = SampleJob(near, grid.sky, tile.inner, options.bin_size, target)
        mark = fingerprint(
            files=[f.path for f in near],
            settings=[grid.to_dict()["sky"], list(tile.inner), options.bin_size],
        )
        out.append(StageItem(key, job, mark, (target,)))
    return out


def _names(files: Sequence[CoaddFile], band: str) -> list[str]:
    """Return names of images that differ."""
    stems = [re.sub(r"\.fits(\.fz|\.gz)?$", "", Path(f.path).name) for f in files]
    if len(set(stems)) == len(stems):
        return stems
    return [f"{'-'.join(p for p in (band, str(k)) if p)}-{s}" for k, s in enumerate(stems)]


def _levels(
    items: Sequence[StageItem], grid: CoaddGrid, path: Path, options: MatchingOptions
) -> dict[str, MatchedBackgrounds]:
    """Return the level of each visit that has one; from the file where it is still true."""
    from pogson.atomic import atomic_write_text
    from pogson.fields import field_from_dict
    from pogson.images import BackgroundSamples, MatchedBackgrounds, solve_backgrounds

    mark = fingerprint(settings=[options.degree, *((i.key, i.fingerprint) for i in items)])
    data: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        data = json.loads(path.read_text(encoding="utf-8"))
    if data.get("mark") != mark:
        found = [_read_samples(i.outputs[0]) for i in items]
        parts = [p for p in found if p is not None]
        samples = BackgroundSamples.joined(parts) if parts else None
        data = {"mark": mark, "degree": options.degree, "bin_size": options.bin_size,
                "visits": [], "unmatched": [], "rms_before": None, "rms_after": None}  # fmt: skip
        if samples is not None and len(samples.visits) > 1:
            made = solve_backgrounds(samples, grid.sky, degree=options.degree)
            data |= {
                "visits": [_said(made, k, samples) for k in range(len(made.visits))],
                "unmatched": list(made.unmatched), "unit": samples.unit,
                "rms_before": _finite(made.rms_before), "rms_after": _finite(made.rms_after),
            }  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(path, json.dumps(data, allow_nan=False))
    out: dict[str, MatchedBackgrounds] = {}
    for row in data["visits"]:
        if row["exposure_id"] in data["unmatched"]:
            continue
        level: Any = field_from_dict(row["level"])
        out[row["exposure_id"]] = MatchedBackgrounds(
            (level,), 0.0, 0.0, (row["exposure_id"],), (), grid.sky
        )
    return out


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _said(made: MatchedBackgrounds, k: int, samples: BackgroundSamples) -> dict[str, Any]:
    """Return what is written of the level of a visit."""
    mine = samples.visit == k
    x, y = samples.bins[samples.cell[mine]].T
    level = np.asarray(made.levels[k](x=x, y=y))
    value = samples.value[mine]
    return {
        "exposure_id": made.visits[k], "n_bins": int(mine.sum()), "mean": float(level.mean()),
        "lowest": float(level.min()), "highest": float(level.max()),
        "sky": float(np.median(value)), "level": made.levels[k].to_dict(),
    }  # fmt: skip
