"""Coadds and warps as files: pogson's exposure files with the correlation of the noise inside.

Layout
------
The file is that of `pogson.formats.native`, so that any viewer and `read_exposure` open it. Its
metadata hold, under ``coadd``, the noise correlation and the list of inputs; the extension
``COUNT`` holds the number of inputs in each pixel (uint16).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.atomic import atomic_path
from pogson.errors import FileFormatError, MissingDataError
from pogson.fields import Box
from pogson.formats.native import read_native, write_native

if TYPE_CHECKING:
    from pogson.images import Coadd, Warp

__all__ = ["is_resampled", "read_coadd", "write_coadd"]

_KEY = "coadd"


def is_resampled(metadata: Mapping[str, Any]) -> bool:
    """Return whether the metadata of an exposure say that its pixels were resampled.

    Examples
    --------
    >>> is_resampled({"airmass": 1.2})
    False
    """
    return _KEY in metadata


def write_coadd(path: str | os.PathLike[str], made: Coadd | Warp) -> Path:
    """Write a coadd or a warp, whole or not at all.

    Parameters
    ----------
    path : path-like
        ``.fits``.
    made : Coadd or Warp
        What to write.

    Returns
    -------
    pathlib.Path

    Examples
    --------
    >>> import tempfile
    >>> from pogson.images import Exposure, warp
    >>> from pogson.sky import FitsSkyMap
    >>> sky = FitsSkyMap.tan(30.0, -20.0, x=20.0, y=20.0, scale_arcsec=0.25)
    >>> exposure = Exposure(np.ones((40, 40)), unit="nJy", measure="fluence", sky=sky)
    >>> made = warp(exposure, sky, Box(0, 0, 40, 40))
    >>> path = write_coadd(tempfile.mkdtemp() + "/warp.fits", made)
    >>> bool(np.allclose(read_coadd(path).noise.kernels, made.noise.kernels, atol=1e-6))
    True
    """
    from astropy.io import fits

    inputs = [one.to_dict() for one in getattr(made, "inputs", ())]
    said = {"noise": made.noise.to_dict(), "inputs": inputs}
    metadata = {**made.exposure.metadata, _KEY: said}
    count = getattr(made, "count", None)
    if count is None:
        count = np.isfinite(made.exposure.image)
    with atomic_path(path) as temporary:
        write_native(temporary, made.exposure.with_(metadata=metadata))
        hdu = fits.ImageHDU(np.asarray(count, np.uint16), name="COUNT")
        with fits.open(temporary, mode="append") as hdus:
            hdus.append(hdu)
    return Path(path)


def read_coadd(path: str | os.PathLike[str]) -> Coadd:
    """Read a coadd or a warp that `write_coadd` wrote, as a coadd.

    Parameters
    ----------
    path : path-like
        The file.

    Returns
    -------
    Coadd

    Raises
    ------
    MissingDataError
        If the file is an exposure that was not resampled.
    FileFormatError
        If the file is damaged.

    Examples
    --------
    See `write_coadd`.
    """
    from pogson.formats.fits_access import open_fits, pixels
    from pogson.images import Coadd, CoaddInput, NoiseCorrelation

    exposure = read_native(path)
    said = exposure.metadata.get(_KEY)
    if said is None:
        raise MissingDataError(
            f"{os.fspath(path)} is an exposure without a noise correlation: not a coadd or a warp. "
            f"Read it with read_exposure."
        )
    with open_fits(path) as hdus:
        if "COUNT" not in hdus:
            raise FileFormatError(f"{os.fspath(path)} has no extension COUNT; it is not whole.")
        count = pixels(hdus["COUNT"], path, "COUNT").astype(np.uint16)
    if count.shape != exposure.box.shape:
        raise FileFormatError(
            f"{os.fspath(path)}: COUNT has shape {count.shape}, the image {exposure.box.shape}."
        )
    try:
        inputs = tuple(
            CoaddInput(**{**one, "overlap": Box(*one["overlap"])}) for one in said["inputs"]
        )
        noise = NoiseCorrelation.from_dict(said["noise"])
    except (KeyError, TypeError) as error:
        raise FileFormatError(f"{os.fspath(path)}: its list of inputs: {error}") from None
    metadata = {k: v for k, v in exposure.metadata.items() if k != _KEY}
    return Coadd(exposure.with_(metadata=metadata), noise, inputs, count)
