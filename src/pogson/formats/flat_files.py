"""Chromatic flats in files: our own, cubes of monochromatic flats, and collimated-beam scans."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import astropy.units as u
import numpy as np

from pogson.atomic import atomic_path
from pogson.errors import FileFormatError, MissingDataError, PogsonValueError
from pogson.fields import Field
from pogson.fields.persistence import externalised, internalised
from pogson.formats.fits_access import describe_hdus, open_fits

if TYPE_CHECKING:
    from pogson.fields import Box
    from pogson.images import ChromaticFlat, FlatFactors

__all__ = ["read_chromatic_flat", "write_chromatic_flat"]

_DOCUMENT = "FLAT"
_COLUMNS = {
    "x": ("x", "x_image", "xpix", "x_pixel"),
    "y": ("y", "y_image", "ypix", "y_pixel"),
    "wavelength": ("wavelength", "lambda", "wave", "wl"),
    "throughput": ("throughput", "flux", "response", "value"),
    "throughput_err": ("throughput_err", "throughput_error", "flux_err", "error", "sigma"),
}


def write_chromatic_flat(
    path: str | os.PathLike[str], flat: ChromaticFlat | FlatFactors, *, overwrite: bool = False
) -> Path:
    """Write a flat as FITS, whole or not at all, its images as image extensions.

    Parameters
    ----------
    path : path-like
        ``.fits``.
    flat : ChromaticFlat or FlatFactors
        What to write.
    overwrite : bool, optional
        Replace an existing file.

    Raises
    ------
    FileFormatError
        If the file exists and ``overwrite`` is False.

    Examples
    --------
    >>> import tempfile
    >>> from pogson.fields import Box, ConstantField
    >>> from pogson.images import ChromaticFlat
    >>> flat = ChromaticFlat.from_fields([4e3, 6e3], [ConstantField(Box(0, 0, 9, 9), 1.0)] * 2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     read_chromatic_flat(write_chromatic_flat(folder + "/flat.fits", flat)) == flat
    True
    """
    from astropy.io import fits

    target = Path(path)
    if target.suffix.lower() not in (".fits", ".fit"):
        raise PogsonValueError(f"{target}: flats are written as .fits.")
    if target.exists() and not overwrite:
        raise FileFormatError(f"{target} exists; pass overwrite=True to replace it.")
    arrays: list[np.ndarray] = []
    text = json.dumps(externalised(_description(flat), arrays), allow_nan=False).encode()
    primary = fits.PrimaryHDU()
    primary.header["POGSON"] = ("flat", "a flat as a function of wavelength")
    primary.header["PGDIGEST"] = flat.digest[:64]
    hdus = [primary, fits.ImageHDU(np.frombuffer(text, np.uint8).copy(), name=_DOCUMENT)]
    hdus += [fits.ImageHDU(a, name=f"ARRAY{k + 1}") for k, a in enumerate(arrays)]
    with atomic_path(target) as temporary:
        fits.HDUList(hdus).writeto(temporary)
    return target


def _description(flat: Any) -> Any:
    """Return a flat as numbers, arrays and fields."""
    from pogson.images import ChromaticFlat, FlatFactors

    if isinstance(flat, FlatFactors):
        factors = {name: _description(f) for name, f in flat.factors.items()}
        return {"kind": "factors", "factors": factors}
    if isinstance(flat, ChromaticFlat):
        return {
            "kind": "chromatic",
            "wavelength": flat.wavelength,
            "weights": flat.weights.tolist(),
            "components": list(flat.components),
            "achieved_error": flat.achieved_error,
            "name": flat.name,
        }
    assert isinstance(flat, Field)
    return flat


def read_chromatic_flat(
    path: str | os.PathLike[str],
    *,
    box: Box | None = None,
    order: int = 3,
    tolerance: float = 1e-4,
) -> Any:
    """Read a flat as a function of wavelength and position.

    Parameters
    ----------
    path : path-like
        One of: a file of `write_chromatic_flat`; a FITS cube (wavelength, y, x) whose wavelengths
        are in a table extension with a column ``WAVELENGTH``, or on its third world axis; a FITS
        table of a collimated-beam scan with columns ``X``, ``Y`` (pixels, 0-based), ``WAVELENGTH``,
        ``THROUGHPUT`` and ``THROUGHPUT_ERR``. Wavelengths are in the unit that the file says,
        Angstrom otherwise.
    box : Box, optional
        Where a cube lies on the detector; the detector's box for a scan, which needs it.
    order : int, optional
        Order of the polynomial over the detector at each wavelength of a scan.
    tolerance : float, optional
        Largest error of the components of a cube.

    Returns
    -------
    ChromaticFlat or FlatFactors

    Raises
    ------
    FileFormatError
        If the file is damaged.
    MissingDataError
        If it is none of these, or has no wavelengths.
    PogsonValueError
        If the wavelengths are not sorted or the flat has zeros or NaN.

    Examples
    --------
    >>> import tempfile
    >>> from astropy.io import fits
    >>> from astropy.table import Table
    >>> planes = fits.PrimaryHDU(np.full((2, 8, 9), [[[1.0]], [[1.1]]]))
    >>> lam = Table({"WAVELENGTH": [500.0, 900.0]}, units={"WAVELENGTH": "nm"})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fits.HDUList([planes, fits.BinTableHDU(lam)]).writeto(folder + "/cube.fits")
    ...     flat = read_chromatic_flat(folder + "/cube.fits")
    >>> round(flat.at(7000.0)(x=4, y=4), 6)
    1.05
    """
    from pogson.images import ChromaticFlat
    from pogson.images.flats import flat_from_dict

    name = Path(path).name
    with open_fits(path) as hdus:
        if str(hdus[0].header.get("POGSON", "")).strip() == "flat":
            text = bytes(np.asarray(hdus[_DOCUMENT].data, np.uint8))
            arrays = {
                h.name: np.asarray(h.data, np.float64) for h in hdus if h.name.startswith("ARRAY")
            }
            return flat_from_dict(internalised(json.loads(text), arrays, 0))
        cube = next((h for h in hdus if _is_cube(h)), None)
        if cube is not None:
            lam = _cube_wavelengths(hdus, cube, path)
            data = np.asarray(cube.data, np.float64)
            return ChromaticFlat.from_cube(lam, data, box=box, tolerance=tolerance, name=name)
        scan = next((h for h in hdus if _scan_columns(h)), None)
        if scan is None:
            raise MissingDataError(
                f"{path} holds no chromatic flat: neither a cube of flats nor a table with "
                f"columns X, Y, WAVELENGTH, THROUGHPUT, THROUGHPUT_ERR. It has "
                f"{describe_hdus(hdus)}."
            )
        columns = _scan_columns(scan)
        assert columns is not None
        values = {key: np.asarray(scan.data[c], np.float64) for key, c in columns.items()}
        factor = _to_angstrom(scan.columns[columns["wavelength"]].unit, path)
    if box is None:
        raise MissingDataError(
            f"{path} is a scan of spots; pass box= with the pixel box of the detector."
        )
    return ChromaticFlat.from_scan(
        values["wavelength"] * factor,
        values["throughput"],
        values["throughput_err"],
        x=values["x"],
        y=values["y"],
        box=box,
        order=order,
        name=name,
    )


def _is_cube(hdu: Any) -> bool:
    names = ("PrimaryHDU", "ImageHDU", "CompImageHDU")
    return type(hdu).__name__ in names and len(hdu.shape) == 3


def _scan_columns(hdu: Any) -> Mapping[str, str] | None:
    """Return the columns of a scan by meaning, or None where the table is another."""
    names = getattr(getattr(hdu, "columns", None), "names", None)
    if not names:
        return None
    lower = {n.lower(): n for n in names}
    found = {}
    for meaning, aliases in _COLUMNS.items():
        match = next((lower[a] for a in aliases if a in lower), None)
        if match is None:
            return None
        found[meaning] = match
    return found


def _cube_wavelengths(hdus: Any, cube: Any, path: Any) -> np.ndarray:
    """Return the wavelengths of a cube's planes in Angstrom."""
    for hdu in hdus:
        names = getattr(getattr(hdu, "columns", None), "names", None) or []
        for column in names:
            if column.lower() in _COLUMNS["wavelength"]:
                factor = _to_angstrom(hdu.columns[column].unit, path)
                return np.asarray(hdu.data[column], np.float64).ravel() * factor
    header = cube.header
    kind = str(header.get("CTYPE3", "")).strip().upper()
    if kind.startswith(("WAVE", "LAMBDA")) and "CRVAL3" in header:
        step = header.get("CDELT3", header.get("CD3_3"))
        if step is not None:
            plane = np.arange(1, int(header["NAXIS3"]) + 1)
            lam = float(header["CRVAL3"]) + (plane - float(header.get("CRPIX3", 1.0))) * float(step)
            return np.asarray(lam * _to_angstrom(header.get("CUNIT3"), path))
    raise MissingDataError(
        f"{path}: the cube does not say its wavelengths. Add a table extension with a column "
        f"WAVELENGTH (one row a plane, with its unit), or CTYPE3='WAVE' with CRVAL3, CDELT3, "
        f"CUNIT3."
    )


def _to_angstrom(unit: Any, path: Any) -> float:
    """Return the factor from a file's wavelength unit to Angstrom."""
    if unit is None or not str(unit).strip():
        return 1.0
    try:
        return float(u.Unit(str(unit)).to(u.AA))
    except (ValueError, u.UnitConversionError):
        raise FileFormatError(
            f"{path}: {unit!r} is not a unit of wavelength; use Angstrom, nm, um or m."
        ) from None
