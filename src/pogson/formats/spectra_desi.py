"""DESI frames: extracted spectra of one camera with their resolution matrices."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from pogson.errors import FileFormatError
from pogson.formats.fits_access import describe_hdus, merged_header, open_fits
from pogson.spectro import FibreSpectra, PixelMask, pixel_edges

__all__ = ["read_desi_frame", "resolution_sigma"]

_UNITS = {
    "electron/angstrom": "count/Angstrom",
    "count/angstrom": "count/Angstrom",
    "count/a": "count/Angstrom",
    "photon/bin": "count",
    "electron": "count",
    "count": "count",
}


def resolution_sigma(diagonals: np.ndarray, wavelength: np.ndarray) -> np.ndarray:
    """Gaussian sigma in Angstrom of resolution matrices, before pixels integrate.

    Parameters
    ----------
    diagonals : ndarray, shape (n_fibre, n_diagonal, n_pixel)
        Bands of each matrix, from the highest offset to the lowest; column j holds the image of
        monochromatic light at wavelength j.
    wavelength : ndarray, shape (n_pixel,)
        Angstrom.

    Returns
    -------
    sigma : ndarray, shape (n_fibre, n_pixel)
        From second moments, less the width of a pixel (1/12 of its square). Columns cut by the
        ends of the grid take the value of the next whole one; a fibre whose matrix is empty (it is
        dead) takes the median of the others.

    Raises
    ------
    FileFormatError
        If the shapes do not fit or all matrices are empty.

    Notes
    -----
    Bands as `scipy.sparse.dia_matrix` keeps them: element k of column j is row j - offset[k].

    Examples
    --------
    >>> offsets = np.arange(5, -6, -1)
    >>> band = np.exp(-0.5 * (offsets / 1.5) ** 2)[:, None] * np.ones(40)
    >>> resolution_sigma(band[None], 4000.0 + 0.8 * np.arange(40))[0, :2].round(2)
    array([1.18, 1.18])
    """
    data = np.asarray(diagonals, np.float64)
    lam = np.asarray(wavelength, np.float64)
    if data.ndim != 3 or data.shape[2] != lam.size:
        raise FileFormatError(
            f"The resolution has shape {data.shape}; it must be (n_fibre, n_diagonal, {lam.size})."
        )
    n = data.shape[1]
    offset = (n // 2 - np.arange(n))[None, :, None]
    total = data.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (data * offset).sum(axis=1) / total
        variance = (data * offset**2).sum(axis=1) / total - mean**2 - 1.0 / 12.0
    ok = np.isfinite(variance) & (variance > 0) & (total > 0)
    edge = n // 2
    whole = np.zeros(lam.size, bool)
    whole[edge : lam.size - edge] = True
    ok &= whole
    alive = ok.any(axis=1)
    if not alive.any():
        raise FileFormatError(f"All {alive.size} resolution matrices are empty.")
    sigma = np.empty_like(variance)
    for i in np.flatnonzero(alive):
        sigma[i] = np.interp(lam, lam[ok[i]], np.sqrt(variance[i, ok[i]]))
    sigma[~alive] = np.median(sigma[alive], axis=0)
    return sigma * np.diff(pixel_edges(lam))


def is_desi_frame(hdus: Any) -> bool:
    """Return whether a file has the extensions of a DESI frame."""
    names = {h.name for h in hdus}
    return {"IVAR", "WAVELENGTH", "RESOLUTION"} <= names


def read_desi_frame(path: str | os.PathLike[str]) -> FibreSpectra:
    """Read a DESI frame or sky-subtracted frame (frame-*, sframe-*).

    Parameters
    ----------
    path : path-like
        FITS with FLUX (first extension), IVAR, WAVELENGTH, RESOLUTION and perhaps MASK and
        FIBERMAP.

    Returns
    -------
    frame : FibreSpectra
        ``names`` are the TARGETIDs; ``meta["standard"]`` is True for standard stars where the
        fibre map marks them (DESI_TARGET bits 33 to 35); ``meta["camera"]``.

    Raises
    ------
    FileFormatError
        If parts are missing or the unit is not counts (a cframe is calibrated already).

    Examples
    --------
    >>> read_desi_frame("frame-b0-00000001.fits")
    Traceback (most recent call last):
    ...
    pogson.errors.FileFormatError: frame-b0-00000001.fits does not exist.
    """
    with open_fits(path) as hdus:
        names = {h.name for h in hdus}
        if not is_desi_frame(hdus):
            raise FileFormatError(
                f"{path} is no DESI frame: it needs IVAR, WAVELENGTH and RESOLUTION, and has "
                f"{describe_hdus(hdus)}."
            )
        flux = hdus["FLUX"] if "FLUX" in names else hdus[0]
        header = merged_header(hdus, flux)
        unit = str(header.get("BUNIT", "")).strip()
        if unit.lower().replace(" ", "") not in _UNITS:
            raise FileFormatError(
                f"{path} has unit {unit!r}; a frame to calibrate is in electron/Angstrom. Files "
                f"in erg are calibrated already."
            )
        lam = np.asarray(hdus["WAVELENGTH"].data, np.float64)
        shape = np.shape(flux.data)
        mask = np.zeros(shape, np.uint32)
        if "MASK" in names:
            mask = np.where(np.asarray(hdus["MASK"].data) != 0, int(PixelMask.FLAGGED), 0)
        labels = _labels(hdus, shape[0])
        return FibreSpectra(
            lam,
            np.asarray(flux.data, np.float64),
            np.asarray(hdus["IVAR"].data, np.float64),
            mask,
            resolution_sigma(hdus["RESOLUTION"].data, lam),
            exposure_time=float(header.get("EXPTIME", np.nan)),
            airmass=float(header.get("AIRMASS", np.nan)),
            unit=_UNITS[unit.lower().replace(" ", "")],
            fibre_ids=labels["fibre"],
            names=labels["names"],
            meta={
                "camera": str(header.get("CAMERA", "")).strip().lower(),
                **{k: labels[k] for k in ("standard", "ra", "dec") if k in labels},
                "source": Path(path).name,
            },
        )


def _labels(hdus: Any, n: int) -> dict[str, Any]:
    """Return fibre numbers, target names and which are standards."""
    out: dict[str, Any] = {"fibre": None, "names": (), "standard": np.zeros(n, bool)}
    if "FIBERMAP" not in {h.name for h in hdus}:
        return out
    table = hdus["FIBERMAP"].data
    columns = set(table.names)
    if len(table) != n:
        raise FileFormatError(f"The fibre map has {len(table)} rows but there are {n} spectra.")
    if "FIBER" in columns:
        out["fibre"] = np.asarray(table["FIBER"], np.int64)
    if "TARGETID" in columns:
        out["names"] = tuple(str(int(t)) for t in table["TARGETID"])
    if "DESI_TARGET" in columns:
        bits = (1 << 33) | (1 << 34) | (1 << 35)
        out["standard"] = (np.asarray(table["DESI_TARGET"], np.int64) & bits) != 0
    if {"TARGET_RA", "TARGET_DEC"} <= columns:
        out["ra"] = np.asarray(table["TARGET_RA"], np.float64)
        out["dec"] = np.asarray(table["TARGET_DEC"], np.float64)
    return out
