"""From the files of a run with coadds to what its report shows of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pogson.fields import Box
from pogson.report.coadd_data import (
    BackgroundMaps,
    CoaddBand,
    CoaddPicture,
    CoaddReport,
    LevelsOfVisits,
    Product,
)
from pogson.run.coadd_summary import coadd_columns, matched_levels, read_coadd_list

__all__ = ["coadd_report", "mosaic"]

_PIXELS = 700  # of the picture's longer side
_ORDER = "uUBgGVrRiIzZyYJHK"


def coadd_report(root: Path, summary: Mapping[str, Any]) -> CoaddReport | None:
    """Gather what a report shows of coadds; None where there are none.

    Parameters
    ----------
    root : pathlib.Path
        Folder of the run.
    summary : mapping
        What ``summary.json`` holds.
    """
    numbers = summary.get("coadd")
    made = read_coadd_list(root)
    if not numbers or made is None:
        return None
    columns = coadd_columns(root, made)
    records = _visit_records(root, made)
    bands = {
        band: CoaddBand(numbers["bands"].get(band, {}), columns[band]["rows"],
                        columns[band]["truth"])
        for band in by_wavelength(made["bands"])
    }  # fmt: skip
    sky = made["grid"]
    facts = {
        "grid": f"{sky['box'][2]} x {sky['box'][3]} pixels, tiles of {sky['tile_size']} "
        f"overlapping by {sky['overlap']}; kernel {made['kernel']}",
        "backgrounds": "; ".join(dict.fromkeys(r["background"] for r in records.values()))[:600],
    }
    return CoaddReport(
        _products(made, records), _maps(records), mosaic(root, made), bands, facts,
        float(numbers["snr"]), _levels(made),
    )  # fmt: skip


def _levels(made: Mapping[str, Any]) -> tuple[LevelsOfVisits, ...]:
    """Return the levels of the visits of each band that was matched."""
    out = []
    for band in by_wavelength(made["bands"]):
        found = matched_levels(made["bands"][band])
        if found is None or not found["visits"]:
            continue
        rows = found["visits"]
        mean, lowest, highest = (
            np.array([r[name] for r in rows], float) for name in ("mean", "lowest", "highest")
        )
        out.append(LevelsOfVisits(
            band, tuple(r["exposure_id"] for r in rows), mean, lowest, highest, found["unit"],
            found["rms_before"], found["rms_after"], tuple(found["unmatched"]),
        ))  # fmt: skip
    return tuple(out)


def by_wavelength(bands: Any) -> list[str]:
    """Return band names from blue to red, as far as they are known.

    Examples
    --------
    >>> by_wavelength(["i", "g", "r"])
    ['g', 'r', 'i']
    """
    names = list(bands)

    def place(name: str) -> tuple[int, int]:
        short = name.split("-")[-1].split("_")[-1][:1]
        return (_ORDER.find(short) if short in _ORDER else len(_ORDER), names.index(name))

    return sorted(names, key=place)


def _visit_records(root: Path, made: Mapping[str, Any]) -> dict[tuple[str, str], Any]:
    """Return the records of the visits that were prepared, by band and file."""
    used = {Path(i["file"]).name: band for band, b in made["bands"].items() for i in b["inputs"]}
    out = {}
    for path in sorted((root / "stages" / "coadd_visits").glob("*.json")):
        if path.name.endswith(".state.json"):
            continue
        record = json.loads(path.read_text(encoding="utf-8"))
        names = [Path(i["file"]).name for i in record["images"]]
        found = [used[n] for n in names if n in used]
        if found:
            out[found[0], path.stem] = record
    return out


def _products(
    made: Mapping[str, Any], records: Mapping[tuple[str, str], Any]
) -> tuple[Product, ...]:
    out = []
    for band, entry in made["bands"].items():
        for tile in entry["tiles"]:
            if tile["status"] != "made":
                continue
            calib = tile["photo_calib"] or {}
            out.append(Product(
                "tile of the coadd", Path(tile["file"]).stem, band, tile["unit"],
                tile["measure"].replace("_", " "), tile["flattening_sed"] or "not known",
                "subtracted from the visits", str((calib.get("reference") or {}).get("kind", "-")),
            ))  # fmt: skip
    for (band, _), record in records.items():
        for image in record["images"]:
            known = image["flattening_known"]
            out.append(Product(
                "image of a visit, ready to add", image["key"], band, image["unit"],
                image["measure"].replace("_", " "),
                f"{image['flattening_sed']}{'' if known else ' (as told)'}",
                "subtracted" if image["background_subtracted"] else "not subtracted",
                image["reference"] or "-",
            ))  # fmt: skip
    return tuple(out)


def _floats(rows: Any) -> np.ndarray:
    return np.array([[np.nan if v is None else v for v in row] for row in rows], float)


def _maps(records: Mapping[tuple[str, str], Any]) -> tuple[BackgroundMaps, ...]:
    """Return the maps of the first visit of each band."""
    out: list[BackgroundMaps] = []
    seen: set[str] = set()
    for (band, _), record in records.items():
        if band in seen:
            continue
        seen.add(band)
        for image in record["images"]:
            maps = image["maps"]
            label = f"{image['exposure_id']} {image['detector']}".strip() or image["key"]
            out.append(BackgroundMaps(
                label, band, _floats(maps["before"]), _floats(maps["after"]),
                tuple(maps["extent"]), image["unit"], maps["surface_brightness"],
            ))  # fmt: skip
    return tuple(out)


def mosaic(root: Path, made: Mapping[str, Any]) -> CoaddPicture | None:
    """Return the tiles of each band as one small picture.

    Parameters
    ----------
    root : pathlib.Path
        Folder of the run.
    made : mapping
        What ``coadd.json`` holds.
    """
    from pogson.sky import skymap_from_dict

    whole = Box(*made["grid"]["box"])
    step = max(1, -(-max(whole.nx, whole.ny) // _PIXELS))
    ny, nx = -(-whole.ny // step), -(-whole.nx // step)
    images, counts = {}, {}
    for band in by_wavelength(made["bands"]):
        tiles = [t for t in made["bands"][band]["tiles"] if t["status"] == "made"]
        light, weight = np.zeros(ny * nx), np.zeros(ny * nx)
        most = np.zeros(ny * nx)
        for tile in tiles:
            image, count, box = _inner(root / "coadd" / tile["file"], Box(*tile["inner"]))
            x = (np.arange(box.x_min, box.x_max + 1) - whole.x_min) // step
            y = (np.arange(box.y_min, box.y_max + 1) - whole.y_min) // step
            cell = (y[:, None] * nx + x[None, :]).ravel()
            good = np.isfinite(image.ravel())
            light += np.bincount(cell[good], image.ravel()[good], ny * nx)
            weight += np.bincount(cell[good], minlength=ny * nx)
            np.maximum.at(most, cell, count.ravel())
        if tiles:
            with np.errstate(invalid="ignore"):
                images[band] = (light / np.where(weight > 0, weight, np.nan)).reshape(ny, nx)
            counts[band] = most.reshape(ny, nx)
    if not images:
        return None
    sky = skymap_from_dict(made["grid"]["sky"])
    middle = whole.center
    left, low = whole.x_bounds[0], whole.y_bounds[0]
    extent = (left, left + nx * step, low, low + ny * step)
    return CoaddPicture(images, counts, extent, float(sky.pixel_scale(x=middle[0], y=middle[1])))


def _inner(path: Path, inner: Box) -> tuple[np.ndarray, np.ndarray, Box]:
    """Return image and count of a tile on its own pixels."""
    from pogson.formats.coadd_files import read_coadd

    part = read_coadd(path).cutout(inner)
    return part.exposure.image, part.count, part.exposure.box
