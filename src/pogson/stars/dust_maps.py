"""Maps of interstellar extinction in HEALPix files, as priors by sightline."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pogson.errors import FileFormatError, MissingDataError, PogsonValueError
from pogson.stars.priors_dust import DustMapPrior

__all__ = ["HealpixDustMap", "read_dust_map"]


class _Map(NamedTuple):
    """Contents of a file: mean and sd of shape (pixels, distances), distances or None."""

    nside: int
    order: str
    frame: str
    mean: np.ndarray
    sd: np.ndarray
    distance: np.ndarray | None


@dataclass(frozen=True)
class HealpixDustMap:
    """Extinction along sightlines of a HEALPix map in a file; what `DustMapPrior` calls.

    The file is read once a process, when it is first needed, so that processes and Dask workers
    pass its name and not its contents.

    Parameters
    ----------
    path : str
        FITS or HDF5 file; see `read_dust_map`.
    digest : str
        SHA-256 of the file; it must still be that when a worker reads it.
    column : str, optional
        Which column of a FITS file holds the mean.
    sd_column : str, optional
        Which column holds its standard deviation.

    Examples
    --------
    >>> HealpixDustMap("map.fits", "0" * 64).column is None
    True
    """

    path: str
    digest: str = field(repr=False)
    column: str | None = None
    sd_column: str | None = None

    def __call__(
        self,
        distance_kpc: np.ndarray,
        l: float,  # noqa: E741
        b: float,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation; an infinite one (flat) where the map has no data."""
        from astropy import units as u
        from astropy.coordinates import SkyCoord
        from astropy_healpix import HEALPix  # type: ignore[import-untyped]

        data = _loaded(self.path, self.digest, self.column, self.sd_column)
        lon, lat = float(l), float(b)
        if data.frame != "galactic":
            place = SkyCoord(lon * u.deg, lat * u.deg, frame="galactic").icrs
            lon, lat = float(place.ra.deg), float(place.dec.deg)
        pixels = HEALPix(nside=data.nside, order=data.order)
        k = int(pixels.lonlat_to_healpix(lon * u.deg, lat * u.deg))
        mean, sd = data.mean[k].astype(float), data.sd[k].astype(float)
        d = np.asarray(distance_kpc, float)
        if data.distance is None:
            mean, sd = np.full(d.shape, mean[0]), np.full(d.shape, sd[0])
        else:  # zero at the observer, constant beyond the last distance
            at = np.concatenate([[0.0], data.distance])
            mean = np.interp(d, at, np.concatenate([[0.0], mean]))
            sd = np.interp(d, at, np.concatenate([sd[:1], sd]))
        known = np.isfinite(mean) & np.isfinite(sd)
        return np.where(known, mean, 0.0), np.where(known, sd, np.inf)


def read_dust_map(
    path: str | Path,
    *,
    scale: float = 1.0,
    scatter: float = 0.1,
    column: str | None = None,
    sd_column: str | None = None,
    low: float = 0.0,
    high: float = 20.0,
) -> DustMapPrior:
    """Return a prior of A_V from a HEALPix map in a FITS or HDF5 file.

    Parameters
    ----------
    path : path-like
        A FITS table in the HEALPix convention (``NSIDE``, ``ORDERING``, ``COORDSYS`` G or C; full
        sky, one value or one row of values a pixel), or an HDF5 file with the dataset ``mean``, of
        shape (pixels,) or (pixels, distances), and optionally ``sd`` of the same shape; attributes
        ``nside``, ``order`` ("nested" or "ring") and ``frame`` ("galactic" or "icrs"). Maps with
        distances have them in kpc in the dataset ``distance_kpc`` (FITS: in the first column of the
        second table); extinction is cumulative and linear between them.
    scale : float, optional
        A_V per unit of the map, for mean and standard deviation: 2.742 for E(B-V) of SFD (Schlafly
        & Finkbeiner 2011, ApJ 737, 103).
    scatter : float, optional
        Scatter of stars about the map in magnitudes of A_V, in quadrature; must be positive where
        the map has no standard deviation.
    column, sd_column : str, optional
        Columns of a FITS file; by default the first one, and no standard deviation.
    low, high : float, optional
        Limits of A_V.

    Returns
    -------
    DustMapPrior
        Flat between the limits where the map has no data (NaN or the code -1.6375e30 of HEALPix).

    Raises
    ------
    FileFormatError
        If the file is missing, or not such a map.
    MissingDataError
        If it lacks a column.
    PogsonValueError
        If there is neither a standard deviation nor ``scatter``.

    Notes
    -----
    Pixels are those of Gorski et al. (2005, ApJ 622, 759); a sightline takes the pixel that it
    falls in.

    Examples
    --------
    >>> import h5py, tempfile
    >>> path = tempfile.mkdtemp() + "/map.h5"
    >>> with h5py.File(path, "w") as file:
    ...     file["mean"] = np.full((12, 2), [0.1, 0.3])
    ...     file["distance_kpc"] = [0.5, 1.0]
    ...     file.attrs.update(nside=1, order="nested", frame="galactic")
    >>> prior = read_dust_map(path, scatter=0.05)
    >>> prior.profile(np.array([0.25, 0.75, 9.0]), 120.0, 30.0)[0].round(3)
    array([0.05, 0.2 , 0.3 ])
    """
    file = Path(path).absolute()
    if not file.is_file():
        raise FileFormatError(f"There is no dust map {str(file)!r}.")
    if not scale > 0:
        raise PogsonValueError(f"scale={scale!r}: A_V per unit of the map must be positive.")
    digest = _digest(file)
    data = _loaded(str(file), digest, column, sd_column)
    if not scatter > 0 and not np.nanmin(np.where(np.isfinite(data.mean), data.sd, np.nan)) > 0:
        raise PogsonValueError(
            f"The dust map {file.name} has no standard deviations: give the scatter of stars about "
            f"it in magnitudes (scatter=0.1); it is {scatter!r}."
        )
    sightline = HealpixDustMap(str(file), digest, column, sd_column)
    return DustMapPrior(
        sightline, f"{file.name} {digest[:16]} {column or ''}".strip(), scatter, scale, low, high
    )


def _digest(file: Path) -> str:
    value = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            value.update(block)
    return value.hexdigest()


@lru_cache(maxsize=4)
def _loaded(path: str, digest: str, column: str | None, sd_column: str | None) -> _Map:
    file = Path(path)
    if not file.is_file():
        raise FileFormatError(f"There is no dust map {path!r} on this machine.")
    if _digest(file) != digest:
        raise FileFormatError(f"The dust map {path} has changed since the job began.")
    if file.suffix in (".h5", ".hdf5", ".hdf"):
        found = _from_hdf5(file)
    else:
        found = _from_fits(file, column, sd_column)
    return _checked(found, file)


def _from_hdf5(file: Path) -> _Map:
    import h5py

    try:
        with h5py.File(file, "r") as data:
            if "mean" not in data or "nside" not in data.attrs:
                raise MissingDataError(
                    f"{file} needs the dataset 'mean' and the attribute 'nside'; it has "
                    f"{sorted(data)} and {sorted(data.attrs)}."
                )
            mean = np.asarray(data["mean"][()], np.float32)
            sd = np.asarray(data["sd"][()], np.float32) if "sd" in data else np.zeros_like(mean)
            distance = (
                np.asarray(data["distance_kpc"][()], float) if "distance_kpc" in data else None
            )
            words = [str(data.attrs.get(k, d)) for k, d in (("order", "nested"),
                                                            ("frame", "galactic"))]  # fmt: skip
            return _Map(int(data.attrs["nside"]), words[0], words[1], mean, sd, distance)
    except (OSError, TypeError, ValueError) as error:
        raise FileFormatError(f"Cannot read {file} as a dust map: {error}.") from error


def _from_fits(file: Path, column: str | None, sd_column: str | None) -> _Map:
    from astropy.io import fits

    try:
        with fits.open(file) as hdus:
            tables = [h for h in hdus if isinstance(h, fits.BinTableHDU)]
            if not tables or "NSIDE" not in tables[0].header:
                raise FileFormatError(f"{file} has no table with NSIDE: not a HEALPix map.")
            header, names = tables[0].header, tables[0].columns.names
            for name in (column, sd_column):
                if name is not None and name not in names:
                    raise MissingDataError(f"{file} has no column {name!r}; it has {names}.")
            nside = int(header["NSIDE"])
            mean = np.asarray(tables[0].data[column or names[0]], np.float32)
            sd = np.zeros_like(mean)
            if sd_column is not None:
                sd = np.asarray(tables[0].data[sd_column], np.float32)
            distance = None
            if len(tables) > 1:
                distance = np.asarray(tables[1].data.field(0), float).ravel()
            elif mean.ndim == 2:  # maps are often written 1024 pixels a row
                mean, sd = mean.ravel(), sd.ravel()
            order = str(header.get("ORDERING", "")).strip().lower()
            frame = {"g": "galactic", "c": "icrs", "q": "icrs"}.get(
                str(header.get("COORDSYS", "G")).strip().lower()[:1], "?"
            )
            order = "nested" if order.startswith("nest") else order
            return _Map(nside, order, frame, mean, sd, distance)
    except OSError as error:
        if isinstance(error, FileFormatError):
            raise
        raise FileFormatError(f"Cannot read {file} as a dust map: {error}.") from error


def _checked(found: _Map, file: Path) -> _Map:
    """Return the map with values of shape (pixels, distances) and NaN where it has none."""
    pixels = 12 * found.nside**2
    mean, sd = found.mean, found.sd
    if found.nside < 1 or len(mean) != pixels or mean.shape != sd.shape or mean.ndim > 2:
        raise FileFormatError(
            f"{file}: a map of nside {found.nside} has {pixels} pixels; mean has shape "
            f"{mean.shape}, sd {sd.shape}."
        )
    if found.order not in ("nested", "ring") or found.frame not in ("galactic", "icrs"):
        raise FileFormatError(
            f"{file}: order {found.order!r} must be nested or ring, frame {found.frame!r} galactic "
            "or icrs."
        )
    mean, sd = mean.reshape(pixels, -1), sd.reshape(pixels, -1)
    distance = found.distance
    if mean.shape[1] > 1 and distance is None:
        raise FileFormatError(f"{file}: {mean.shape[1]} values a pixel need 'distance_kpc'.")
    if distance is not None and (
        distance.shape != (mean.shape[1],) or not (np.diff(distance, prepend=0.0) > 0).all()
    ):
        raise FileFormatError(
            f"{file}: distances must be positive, rising and as many as the {mean.shape[1]} "
            f"values a pixel; they have shape {distance.shape}."
        )
    known = np.isfinite(mean) & (mean > -1e29) & np.isfinite(sd)
    if (sd[known] < 0).any() or not known.any():
        raise FileFormatError(f"{file}: no usable pixel, or negative standard deviations.")
    mean, sd = (np.where(known, v, np.float32(np.nan)) for v in (mean, sd))
    return found._replace(mean=mean, sd=sd)
