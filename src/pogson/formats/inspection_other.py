"""Inspection of files that are not FITS: Parquet, HDF5, text tables, headers, JSON, YAML."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pogson.errors import PogsonError
from pogson.fields import Box
from pogson.formats.inspection import Inspection

__all__ = ["inspect_other"]


def inspect_other(path: Path, head: bytes) -> Inspection:
    """Inspect a file by its first bytes."""
    if head.startswith(b"\x89HDF"):
        return _hdf5(path)
    if head.startswith(b"PAR1"):
        return _catalog(path, "A Parquet catalogue")
    text = head.decode("utf-8", "replace")
    if text.startswith("# %ECSV"):
        return _catalog(path, "An ECSV catalogue")
    if "<VOTABLE" in text[:2000]:
        return _catalog(path, "A VOTable")
    if re.match(r"(SIMPLE|XTENSION|WCSAXES|COMMENT|[A-Z][A-Z0-9_-]{0,7}) *= ", text):
        found = _header_text(path)
        if found is not None:
            return found
    if text.lstrip().startswith("{"):
        return _json(path)
    if re.search(r"^\S[^\n]*:\n  +(Type|Coefficients|Elements|XMin)", text, re.M):
        return _maps(path, text)
    if _is_binary(head):
        facts = (("first bytes", head[:8].hex(" ")), ("meaning", "unknown"))
        return Inspection(str(path), "unknown", "A binary file of unknown format.", facts, {})
    return _text(path, text)


def _is_binary(head: bytes) -> bool:
    return b"\0" in head or sum(c < 9 or 13 < c < 32 for c in head) > 0.05 * len(head)


def _catalog(path: Path, title: str) -> Inspection:
    from pogson.formats.catalogs import _read_ecsv, _read_parquet, _read_votable
    from pogson.formats.inspection_tables import describe_catalog

    readers = {
        "A Parquet catalogue": _read_parquet,
        "An ECSV catalogue": _read_ecsv,
        "A VOTable": _read_votable,
    }
    return describe_catalog(path, readers[title](path), title)


def _hdf5(path: Path) -> Inspection:
    import h5py

    found: list[dict[str, Any]] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            fields = list(item.dtype.names or [])
            found.append(
                {"name": name, "shape": list(item.shape), "type": str(item.dtype),
                 "columns": fields, "attributes": sorted(str(k) for k in item.attrs)}
            )  # fmt: skip

    with h5py.File(path, "r") as stream:
        stream.visititems(visit)
    facts = [("datasets", f"{len(found)}")]
    for item in found[:20]:
        inside = f": {', '.join(item['columns'])}" if item["columns"] else f" of {item['type']}"
        facts.append((item["name"], f"shape {tuple(item['shape'])}{inside}"))
    if any(item["columns"] for item in found):
        facts.append(("units", "unknown: HDF5 tables carry none unless attributes say them"))
    if any({"mag", "err", "parallax"} <= set(item["columns"]) for item in found):
        words = "stellar photometry with parallaxes; several bands a row, not named in the file"
        facts.append(("looks like", words))
    return Inspection(str(path), "hdf5", "An HDF5 file.", tuple(facts), {"datasets": found})


def _header_text(path: Path) -> Inspection | None:
    from astropy.io import fits

    from pogson.formats.inspection_images import describe_sky
    from pogson.sky import FitsSkyMap

    raw = path.read_text("ascii", "replace")
    sep = "\n" if "\n" in raw else ""
    header = fits.Header.fromstring(raw, sep=sep)
    if "CTYPE1" not in header and "SIMPLE" not in header:
        return None
    data: dict[str, Any] = {"cards": len(header)}
    facts: list[tuple[str, str]] = [("content", f"{len(header)} header cards and no pixels")]
    for key in ("EXPNUM", "CCDNUM", "FILTER", "EXPTIME"):
        if key in header:
            facts.append((key, str(header[key])))
            data[key.lower()] = header[key]
    if "CTYPE1" in header:
        nx, ny = int(header.get("NAXIS1", 2048)), int(header.get("NAXIS2", 4096))
        try:
            sky = FitsSkyMap.from_header(header)
            # a local fit holds near its reference pixel only: stay there
            x, y = int(header["CRPIX1"]) - 1, int(header["CRPIX2"]) - 1
            box = Box(max(0, min(x - 15, nx - 31)), max(0, min(y - 15, ny - 31)), 31, 31)
            facts += describe_sky(sky, box, data)
            facts.append(("evaluated", "on 31 x 31 pixels around the reference pixel; whether the "
                                       "solution holds farther away is not stated"))  # fmt: skip
        except PogsonError as error:
            facts.append(("WCS", f"unusable: {error}"))
    return Inspection(str(path), "header", "FITS header cards as text.", tuple(facts), data)


def _json(path: Path) -> Inspection:
    facts: tuple[tuple[str, str], ...]
    try:
        content = json.loads(path.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        facts = (("problem", f"not valid JSON: {error}"),)
        return Inspection(str(path), "unknown", "Text that begins like JSON.", facts, {})
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema == "pogson/photo_calib":
        from pogson.calib import PhotoCalib
        from pogson.formats.inspection_tables import describe_photo_calib

        return describe_photo_calib(path, PhotoCalib.from_dict(content))
    if isinstance(schema, str) and schema.startswith("pogson"):
        facts = (("schema", f"{schema}, version {content.get('version')}"),
                 ("unit", str(content.get("unit", "not applicable"))))  # fmt: skip
        return Inspection(str(path), "pogson-json", "A pogson object as JSON.", facts,
                          {"schema": schema, "version": content.get("version")})  # fmt: skip
    keys = list(content)[:20] if isinstance(content, dict) else []
    facts = (("keys", ", ".join(map(str, keys)) or "none"), ("meaning", "unknown"))
    return Inspection(str(path), "json", "JSON of no schema that pogson knows.", facts, {})


def _maps(path: Path, text: str) -> Inspection:
    """Describe the YAML collections of gbdes: photometric or pixel maps."""
    whole = path.read_text("utf-8", "replace")
    names = re.findall(r"^(\S[^\n:]*):[ ]*$", whole, re.M)
    types: dict[str, int] = {}
    for kind in re.findall(r"^  +Type: *(\w+)", whole, re.M):
        types[kind] = types.get(kind, 0) + 1
    photometric = "PhotoMapCollection" in text
    pairs = ", ".join(f"{k} {n}" for k, n in sorted(types.items(), key=lambda t: -t[1]))
    if photometric:
        title = "A gbdes photometric solution: star-flat maps in YAML."
        values = ("magnitudes to add to instrumental magnitudes, so factors on fluence; positions "
                  "in pixels of each detector (device/band in the names)")  # fmt: skip
    else:
        title = "A gbdes astrometric solution: pixel maps in YAML."
        values = "maps between pixel and sky-plane coordinates (degrees); no fluxes"
    facts = (
        ("values", values),
        ("maps", f"{len(names)} named entries; types {pairs}"),
        ("flux reference", "unknown: not in the file" if photometric else "not applicable"),
    )
    data = {"maps": len(names), "types": types, "photometric": photometric}
    return Inspection(str(path), "gbdes-maps", title, facts, data)


def _text(path: Path, text: str) -> Inspection:
    facts: tuple[tuple[str, str], ...]
    first = next((line for line in text.splitlines() if line.strip()), "")
    if path.suffix.lower() == ".csv" or (first.count(",") >= 2 and " " not in first):
        names = first.split(",")
        facts = (
            ("columns", ", ".join(names[:40])),
            ("units", "unknown: CSV carries none"),
            ("meaning", "only what the column names suggest"),
        )
        data = {"columns": names, "rows": _count_lines(path) - 1}
        return Inspection(str(path), "csv", "A table of comma-separated text.", facts, data)
    facts = (("first line", first[:100]), ("numbers", "none that pogson would use as data"))
    return Inspection(str(path), "text", "Plain text, not a data file.", facts, {})


def _count_lines(path: Path) -> int:
    with path.open("rb") as stream:
        return sum(1 for _ in stream)
