"""Tiles of coadds as resumable tasks over files; shared by ``pogson run`` and ``pogson image``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import CalibrationError, MissingDataError, PogsonError
from pogson.fields import Box
from pogson.run.resume import fingerprint
from pogson.run.stages import StagedRun, StageItem

if TYPE_CHECKING:
    from pogson.images import CoaddGrid, CoaddOptions, Tile
    from pogson.sky import SkyMap

__all__ = [
    "CoaddFile",
    "TileJob",
    "check_coadd_files",
    "coadd_file",
    "image_reach",
    "load_image",
    "make_tile",
    "reaches",
    "tile_items",
    "tile_name",
    "tiles_stage",
]

STAGE = "coadd"


@dataclass(frozen=True)
class CoaddFile:
    """An image file that can be added, and what is known of it without its pixels.

    Parameters
    ----------
    path : str
        Exposure in pogson's own format: nJy, fluence, background subtracted.
    exposure_id, detector : str
        Names.
    sky : SkyMap
        Mapping.
    box : Box
        Pixels.
    weight : float
        One over its variance per pixel of ``area``; 1 for uniform weights.
    area : float
        Pixel area at its centre, arcsec2; 0 if the weight does not depend on it.

    Examples
    --------
    >>> from pogson.sky import FitsSkyMap
    >>> sky = FitsSkyMap.tan(30.0, -20.0, x=5.0, y=5.0, scale_arcsec=0.5)
    >>> CoaddFile("a.fits", "a", "", sky, Box(0, 0, 9, 9), 4.0, 0.25).on_area(0.5).weight
    2.0
    """

    path: str
    exposure_id: str
    detector: str
    sky: SkyMap
    box: Box
    weight: float
    area: float

    def on_area(self, area: float) -> CoaddFile:
        """Return it with the weight for output pixels of an area."""
        if self.area <= 0:
            return self
        return replace(self, weight=self.weight * self.area / area, area=area)


def coadd_file(
    path: str | Path, *, weights: str = "inverse_variance", known: float | None = None
) -> CoaddFile:
    """Look at an image file that is to be added.

    Parameters
    ----------
    path : path-like
        Exposure in pogson's own format.
    weights : {"inverse_variance", "uniform"}, optional
        Which weight it gets.
    known : float, optional
        The inverse variance, where it is known already.

    Raises
    ------
    MissingDataError
        If it is not such a file, has no sky mapping, or no variance for its weight.
    """
    from pogson.formats import sniff_instrument
    from pogson.formats.native import read_native, read_native_description
    from pogson.images import CoaddGrid, CoaddSource, with_weights
    from pogson.sky import skymap_from_dict

    if sniff_instrument(path) != "native":
        raise MissingDataError(
            f"{path} is not an exposure written by pogson. Added are images in nJy that know their "
            f"calibration, such as 'pogson run' writes into the folder images of its results."
        )
    data = read_native_description(path)
    if data["sky"] is None:
        raise MissingDataError(f"{path} has no sky mapping: its place on the coadd is unknown.")
    from pogson.formats.json_values import from_json_value

    sky, box = skymap_from_dict(from_json_value(data["sky"])), Box(*data["box"])
    name = data["exposure_id"] or Path(path).name.split(".fits")[0]
    weight, area = 1.0, 0.0
    if weights == "inverse_variance":
        x, y = box.center
        area = float(sky.pixel_area(x=x, y=y))
        if known is None:
            source = CoaddSource(
                name, sky, box, lambda part: read_native(path, box=part), data["detector"]
            )
            known = with_weights([source], CoaddGrid(sky, box))[0].weight
        weight = float(known or 0.0)
    return CoaddFile(str(path), name, data["detector"], sky, box, weight, area)


def check_coadd_files(files: Sequence[CoaddFile], flattening_sed: str | None = None) -> None:
    """Refuse, with the whole list, images that cannot be added; no image is read whole.

    Parameters
    ----------
    files : sequence of CoaddFile
        The images.
    flattening_sed : str, optional
        Spectrum that images which do not say so are flat for.

    Raises
    ------
    CalibrationError, MeasureError, UnitMismatchError, ReferenceMismatchError, MissingDataError
        As `pogson.images.coadd`.
    """
    from pogson.formats.coadd_files import is_resampled
    from pogson.formats.native import read_native
    from pogson.images._coadd_checks import check_inputs

    first = [read_native(f.path, box=Box(f.box.x_min, f.box.y_min, 1, 1)) for f in files]
    again = [f.path for f, e in zip(files, first, strict=True) if is_resampled(e.metadata)]
    if again:
        raise CalibrationError(
            "These are warps or coadds, whose pixels share noise; add the images that they were "
            "made from:\n- " + "\n- ".join(again[:12])
        )
    check_inputs(first, None, flattening_sed)


def tile_name(tile: Tile, group: str = "") -> str:
    """Return the name of a tile's file, without a suffix.

    Examples
    --------
    >>> from pogson.images import Tile
    >>> tile_name(Tile(3, 2, Box(0, 0, 9, 9), Box(0, 0, 9, 9)), "r")
    'r-3-2'
    """
    return "-".join(part for part in (group, str(tile.column), str(tile.row)) if part)


@dataclass(frozen=True)
class TileJob:
    """What `make_tile` needs.

    Parameters
    ----------
    files : tuple of CoaddFile
        Images that may reach the tile, with weights for its pixels.
    grid : CoaddGrid
        The output.
    tile : Tile
        Which part.
    options : CoaddOptions
        How.
    image, record : str
        Files to write: the coadd, and what became of it.
    """

    files: tuple[CoaddFile, ...]
    grid: CoaddGrid
    tile: Tile
    options: CoaddOptions
    image: str
    record: str


def load_image(box: Box, path: str, exposure_id: str) -> Any:
    """Read a part of an image file, which gets a name where it has none.

    Parameters
    ----------
    box : Box
        Which part.
    path : str
        Exposure in pogson's own format.
    exposure_id : str
        The name.
    """
    from pogson.formats.native import read_native

    exposure = read_native(path, box=box)
    return exposure if exposure.exposure_id else exposure.with_(exposure_id=exposure_id)


def make_tile(job: TileJob) -> dict[str, Any]:
    """Make a tile and write it; its record says what was added, or that it is empty.

    Parameters
    ----------
    job : TileJob
        What to read and write.

    Returns
    -------
    dict
        ``n_inputs``.
    """
    from pogson.atomic import atomic_write_text
    from pogson.formats.coadd_files import write_coadd
    from pogson.images import CoaddSource, coadd_tile

    sources = [
        CoaddSource(f.exposure_id, f.sky, f.box, partial(load_image, path=f.path,
                    exposure_id=f.exposure_id), f.detector, f.weight)
        for f in job.files
    ]  # fmt: skip
    made = coadd_tile(sources, job.grid, job.tile, job.options)
    record: dict[str, Any] = {
        "tile": [job.tile.column, job.tile.row], "inner": list(job.tile.inner),
        "outer": list(job.tile.outer), "status": "empty", "inputs": [],
    }  # fmt: skip
    if made is not None:
        exposure = made.exposure
        record |= {
            "status": "made",
            "inputs": [_finite(one.to_dict()) for one in made.inputs],
            "file": Path(job.image).name,
            "coverage": float(np.mean(made.count > 0)),
            "mean_inputs": float(made.count[made.count > 0].mean()),
            "noise_total": float(made.noise.kernels.sum(axis=(2, 3)).mean()),
            "flattening_sed": exposure.flattening_sed, "bandpass": exposure.bandpass,
            "unit": exposure.unit.to_string(), "measure": exposure.measure.value,
            "photo_calib": None if exposure.photo_calib is None
            else exposure.photo_calib.to_dict(),
        }  # fmt: skip
        write_coadd(job.image, made)
    else:
        Path(job.image).unlink(missing_ok=True)
    atomic_write_text(job.record, json.dumps(record, allow_nan=False))
    return {"n_inputs": len(record["inputs"])}


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in row.items()}


def tile_items(
    files: Sequence[CoaddFile], grid: CoaddGrid, folder: Path, options: CoaddOptions,
    group: str = "",
) -> list[StageItem]:  # fmt: skip
    """Return the tasks of one coadd: one for each tile that an image may reach.

    Parameters
    ----------
    files : sequence of CoaddFile
        Images.
    grid : CoaddGrid
        Output.
    folder : pathlib.Path
        Where tiles go.
    options : CoaddOptions
        How.
    group : str, optional
        Start of the files' names, such as the band.
    """
    x, y = grid.box.center
    area = float(grid.sky.pixel_area(x=x, y=y))
    scaled = [f.on_area(area) for f in files]
    reach = [image_reach(f, grid) for f in scaled]
    items = []
    for tile in grid:
        near = tuple(f for f, r in zip(scaled, reach, strict=True) if reaches(r, tile.outer))
        if not near:
            continue
        key = tile_name(tile, group)
        image, record = str(folder / f"{key}.fits"), str(folder / f"{key}.json")
        _forget_if_lost(image, record)
        settings = [grid.to_dict(), tile.name, [f.weight for f in near], asdict(options)]
        mark = fingerprint(files=[f.path for f in near], settings=settings)
        job = TileJob(near, grid, tile, options, image, record)
        items.append(StageItem(key, job, mark, (record,)))
    return items


def _forget_if_lost(image: str, record: str) -> None:
    """Remove the record of a tile whose image is gone, so that it is made again."""
    try:
        said = json.loads(Path(record).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if said.get("status") == "made" and not Path(image).exists():
        Path(record).unlink()


def image_reach(file: CoaddFile, grid: CoaddGrid) -> tuple[float, float, float, float]:
    """Return the bounds (x0, x1, y0, y1) of an image in pixels of the grid, a little wide.

    Parameters
    ----------
    file : CoaddFile
        The image.
    grid : CoaddGrid
        The output.
    """
    ra, dec = np.asarray(file.sky.footprint(file.box)).T
    x, y = grid.sky.pixel(ra, dec)
    good = np.isfinite(x) & np.isfinite(y)
    if not good.any():
        return (np.inf, -np.inf, np.inf, -np.inf)
    margin = 0.1 * max(np.ptp(x[good]), np.ptp(y[good])) + 5.0  # sides bend
    return (float(x[good].min() - margin), float(x[good].max() + margin),
            float(y[good].min() - margin), float(y[good].max() + margin))  # fmt: skip


def reaches(reach: tuple[float, float, float, float], box: Box) -> bool:
    """Return whether bounds from `image_reach` meet a box.

    Examples
    --------
    >>> reaches((0.0, 9.0, 0.0, 9.0), Box(20, 0, 5, 5))
    False
    """
    x0, x1, y0, y1 = reach
    return x0 <= box.x_max and x1 >= box.x_min and y0 <= box.y_max and y1 >= box.y_min


def tiles_stage(
    run: StagedRun,
    groups: Mapping[str, Sequence[CoaddFile]],
    grid: CoaddGrid,
    folder: Path,
    options: CoaddOptions,
    *,
    matching: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Make the tiles of several coadds that are not up to date; return what there is now.

    Parameters
    ----------
    run : StagedRun
        Runs the stage "coadd"; failed tiles are in its failures, finished ones stay.
    groups : mapping of str to sequence of CoaddFile
        Images of each coadd, by band.
    grid : CoaddGrid
        Output of all.
    folder : pathlib.Path
        Where tiles go; ``coadd.json`` there lists them.
    options : CoaddOptions
        How.
    matching : mapping of str to str, optional
        By band, the file with the levels by which backgrounds were matched.

    Returns
    -------
    dict
        What ``coadd.json`` holds: ``grid`` and for each of ``bands`` its ``inputs`` and ``tiles``.
    """
    from pogson.atomic import atomic_write_text

    items: list[StageItem] = []
    bands: dict[str, Any] = {}
    for band, files in groups.items():
        found = tile_items(files, grid, folder, options, band)
        items += found
        bands[band] = {
            "inputs": [{"file": f.path, "exposure_id": f.exposure_id, "detector": f.detector}
                       for f in files],
            "records": [i.outputs[0] for i in found],
        }  # fmt: skip
    run.stage(STAGE, make_tile, items)
    for entry in bands.values():
        records = [Path(r) for r in entry.pop("records")]
        entry["tiles"] = [json.loads(r.read_text(encoding="utf-8")) for r in records if r.exists()]
    for band, path in (matching or {}).items():
        if band in bands:
            bands[band]["matching"] = path
    out = {"grid": grid.to_dict(), "bands": bands, "kernel": options.kernel}
    if not any(t["status"] == "made" for b in bands.values() for t in b["tiles"]):
        failed = [f.reason for f in (*run.failures.values(), *run.optional_failures.values())
                  if f.stage == STAGE]  # fmt: skip
        why = failed[0] if failed else "no image has data on it."
        raise CalibrationError(f"No tile of the coadd could be made: {why}")
    try:
        atomic_write_text(folder / "coadd.json", json.dumps(out, indent=1, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise PogsonError(f"The list of tiles cannot be written: {error}.") from None
    return out
