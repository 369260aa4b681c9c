"""Finding and reading PSF files, whatever software wrote them."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pogson.errors import FileFormatError, MissingDataError, choices
from pogson.formats.fits_access import open_fits, reading

if TYPE_CHECKING:
    from pogson.psf import PSF

__all__ = ["find_psf_file", "psf_kind", "read_psf"]


def find_psf_file(image: str | os.PathLike[str], detector: str = "") -> Path:
    """Find the PSFEx file that belongs to a DECam image in a Legacy Surveys tree.

    The trees keep images under ``images/decam/...`` and PSFs beside it, merged per exposure under
    ``calib/psfex/...-psfex.fits`` or single per detector under ``calib/psfex-single/...``.

    Parameters
    ----------
    image : path-like
        Image file below a folder ``images``.
    detector : str
        Extension name of the detector, for single files.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    MissingDataError
        If there is no such file; the message names the places tried.

    Examples
    --------
    >>> import tempfile
    >>> root = Path(tempfile.mkdtemp())
    >>> image = root / "images/decam/CP1/c4d_170316_062107_ooi_z_ls9.fits.fz"
    >>> merged = root / "calib/psfex/decam/CP1/c4d_170316_062107_ooi_z_ls9-psfex.fits"
    >>> merged.parent.mkdir(parents=True)
    >>> merged.touch()
    >>> find_psf_file(image) == merged
    True
    """
    path = Path(image).absolute()
    match = re.match(r"(c4d_\d{6}_\d{6})_oo[idw]_([A-Za-z]+_[^.]+)", path.name)
    parts = path.parts
    if match is None or "images" not in parts:
        raise MissingDataError(
            f"No PSF file can be found for {image} by its name: psf='auto' knows DECam Community "
            f"Pipeline images in a Legacy Surveys tree (.../images/decam/...). Give psf= a file."
        )
    at = len(parts) - 1 - parts[::-1].index("images")
    root, inside = Path(*parts[:at]), Path(*parts[at + 1 : -1])
    stem = f"{match.group(1)}_ooi_{match.group(2)}"
    tried = [
        root / "calib" / "psfex" / inside / f"{stem}-psfex.fits",
        root / "calib" / "psfex-single" / inside / stem / f"{stem}-{detector}-psfex.fits",
    ]
    for candidate in tried:
        if candidate.exists():
            return candidate
    raise MissingDataError(f"No PSF file for {image}; tried {choices(str(t) for t in tried)}.")


def psf_kind(path: str | os.PathLike[str]) -> str:
    """Return ``"psfex"``, ``"piff"`` or ``"json"``, what kind of PSF file this is.

    Raises
    ------
    FileFormatError
        If it is none of them.
    """
    target = Path(path)
    if target.suffix == ".json":
        return "json"
    with open_fits(target) as hdus:
        for hdu in hdus:
            columns = {str(n).lower() for n in getattr(hdu.columns, "names", [])} if (
                type(hdu).__name__ == "BinTableHDU"
            ) else set()  # fmt: skip
            if hdu.name.upper() == "PSF_DATA" or "psf_mask" in columns:
                return "psfex"
            if hdu.name.lower() == "psf" and "type" in columns:
                return "piff"
    raise FileFormatError(
        f"{target} is not a PSF file that pogson reads; allowed are PSFEx (.psf, or the Legacy "
        f"Surveys' tables with psf_mask), Piff, and pogson's .json."
    )


def read_psf(
    path: str | os.PathLike[str],
    *,
    detector: str | None = None,
    detector_number: Any = None,
    exposure: str | None = None,
    sky: Any = None,
    box: Any = None,
    **options: Any,
) -> PSF:
    """Read a PSF file: PSFEx, Piff, or pogson's JSON.

    Parameters
    ----------
    path : path-like
        The file.
    detector, exposure : str, optional
        What the PSF must be of, where the file says it; also picks the row of a merged file.
    detector_number : int, optional
        The same, for files that number their detectors.
    sky : SkyMap, optional
        Pixel to sky map, which Piff models in sky coordinates need.
    box : Box, optional
        Pixels that the PSF must cover.
    **options
        Passed to the reader of the format.

    Returns
    -------
    pogson.psf.PSF

    Raises
    ------
    FileFormatError
        If the file is not a PSF file, or damaged.
    MissingDataError
        If the PSF is of another exposure or detector.

    Examples
    --------
    >>> import tempfile
    >>> from pogson.psf import MoffatPSF
    >>> path = Path(tempfile.mkdtemp()) / "star.json"
    >>> _ = path.write_text(json.dumps(MoffatPSF(fwhm=4.0, beta=3.0).to_dict()))
    >>> read_psf(path) == MoffatPSF(fwhm=4.0, beta=3.0)
    True
    """
    target = Path(path)
    kind = psf_kind(target)
    if kind == "json":
        from pogson.psf import psf_from_dict

        with reading(target, "a PSF in JSON"):
            return psf_from_dict(json.loads(target.read_text("utf-8")))
    if kind == "psfex":
        from pogson.formats.psfex import read_psfex

        return read_psfex(target, detector=detector, exposure=exposure, box=box, **options)
    from pogson.formats.piff import read_piff

    number = detector if detector_number is None else detector_number
    return read_piff(target, sky, detector=number, exposure=exposure, box=box, **options)
