"""What do this file's numbers mean? Answers in words and as JSON, for any file pogson meets.

Nothing is guessed: what the file does not say is called unknown, and what is concluded says why.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pogson.errors import FileFormatError
from pogson.formats.fits_access import open_fits, opened, reading

__all__ = ["Inspection", "inspect_file"]


@dataclass(frozen=True)
class Inspection:
    """What a file is and what its numbers mean.

    Parameters
    ----------
    path : str
        The file.
    kind : str
        Short name of the kind, for example ``"image"``, ``"mask"``, ``"catalog"``, ``"psfex"``.
    title : str
        One sentence: what the file is.
    facts : tuple of (str, str)
        Topic and answer, in reading order.
    data : dict
        The same for programs: JSON-ready.

    Examples
    --------
    >>> print(Inspection("a.fits", "image", "An image.", (("unit", "adu"),)))
    a.fits
      An image.
      unit: adu
    """

    path: str
    kind: str
    title: str
    facts: tuple[tuple[str, str], ...] = ()
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def words(self) -> list[str]:
        """The title and one sentence a fact."""
        return [self.title, *(f"{topic}: {answer}" for topic, answer in self.facts)]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as a JSON-ready dictionary."""
        from pogson.formats.json_values import to_json_value

        facts = dict(self.facts)
        whole = {"path": self.path, "kind": self.kind, "title": self.title, "facts": facts}
        return {**whole, "data": _finite(to_json_value(self.data, self.path))}

    def to_json(self) -> str:
        """Return everything as JSON text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def __str__(self) -> str:
        return "\n".join([self.path, *(f"  {line}" for line in self.words)])


def _finite(value: Any) -> Any:
    """Return a JSON value in which numbers that are not finite are null."""
    if isinstance(value, dict):
        return None if set(value) == {"__float__"} else {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return value


def inspect_file(path: str | os.PathLike[str]) -> Inspection:
    """Say what a file is and what its numbers mean.

    Parameters
    ----------
    path : path-like
        Any file: images, masks and weight maps, catalogues, PSFs, calibrations, fields, WCSs,
        backgrounds, spectra, HDF5 and text formats.

    Returns
    -------
    Inspection
        For images: unit, measure and why, zero point and what it includes, flux reference,
        bandpass, WCS with pixel scale and area variation, mask, background state, PSF; for
        catalogues: columns with units and references. A file of an unknown kind gives the kind
        ``"unknown"``, not an error.

    Raises
    ------
    FileFormatError
        If the file is missing, empty, or damaged.

    Examples
    --------
    >>> import tempfile
    >>> from astropy.table import Table
    >>> from pogson.formats import write_catalog
    >>> table = Table({"flux": [1.0]}, units={"flux": "nJy"})
    >>> found = inspect_file(write_catalog(tempfile.mktemp(suffix=".ecsv"), table))
    >>> found.kind
    'catalog'
    """
    target = Path(path)
    with opened(target) as stream:
        head = stream.read(4096)
    if not head:
        raise FileFormatError(f"{target} is empty (0 bytes).")
    plain = _unzipped_head(target, head)
    with reading(target):
        if plain.startswith(b"SIMPLE  ="):
            return _inspect_fits(target)
        from pogson.formats import inspection_other

        return inspection_other.inspect_other(target, plain)


def _unzipped_head(path: Path, head: bytes) -> bytes:
    if head[:2] != b"\x1f\x8b":
        return head
    import gzip

    with reading(path, "a gzipped file"), gzip.open(path) as stream:
        return stream.read(4096)


def _inspect_fits(path: Path) -> Inspection:
    from pogson.formats import inspection_images, inspection_lsst, inspection_tables

    with open_fits(path) as hdus:
        for inspector in (
            inspection_images.inspect_native,
            inspection_tables.inspect_pogson_table,
            inspection_lsst.inspect_lsst,
            inspection_tables.inspect_psf,
            inspection_tables.inspect_spectra,
            inspection_images.inspect_image,
            inspection_tables.inspect_tables,
        ):
            found = inspector(path, hdus)
            if found is not None:
                return found
        return Inspection(
            str(path),
            "unknown",
            f"A FITS file without images or tables that pogson knows ({len(hdus)} extensions).",
            (("meaning", "unknown"),),
            {"extensions": [h.name for h in hdus]},
        )
