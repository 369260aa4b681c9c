"""Reference catalogues: stars of known flux, with epochs, systems and what is wrong with each."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntFlag
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import (
    FileFormatError,
    MissingDataError,
    PogsonValueError,
    choices,
)
from pogson.flags import count_flags
from pogson.formats.catalogs import read_catalog
from pogson.units import flux_to_magnitude

if TYPE_CHECKING:
    from astropy.table import Table

    from pogson.fields import Box
    from pogson.sky import SkyMap

__all__ = ["ReferenceCatalog", "ReferenceFlag", "read_reference_catalog"]

_MAS_PER_DEGREE = 3.6e6
_JULIAN_YEAR = 365.25
_MJD_J2000 = 51544.5

# AB minus Vega of the magnitudes published in Gaia DR2: differences of the AB and VEGAMAG zero
# points used for the release (table ext_phot_zero_point; Evans et al. 2018, A&A 616, A4).
GAIA_DR2_AB_OFFSETS = {"G": 0.1001, "BP": 0.0373, "RP": 0.3535}


class ReferenceFlag(IntFlag):
    """Why a row of a reference catalogue is not to be used, or with care."""

    BAD_POSITION = 1
    """Right ascension or declination missing or not on the sphere."""
    DUPLICATE = 2
    """Another row has the same identifier, or lies within the duplicate radius."""
    MISSING_BAND = 4
    """At least one band has no number (the others may be used)."""
    SUSPECT = 8
    """The catalogue itself warns (Gaia's duplicated_source, a variability flag)."""


@dataclass(frozen=True)
class ReferenceCatalog:
    """Stars of known flux.

    Parameters
    ----------
    table : astropy.table.Table
        Columns ``id`` (text), ``ra``, ``dec`` (degrees at the row's ``epoch``), ``epoch`` (Julian
        year, NaN unknown), ``pmra`` (mas/yr, with cos dec), ``pmdec``, and for each band ``flux_B``
        and ``flux_B_err`` (nJy, AB), ``mag_B`` and ``mag_B_err`` (in the catalogue's own system);
        ``flags`` (`ReferenceFlag`).
    bands : tuple of str
        Band names.
    systems : mapping
        Band -> the magnitude system in words, for example ``"AB"`` or ``"Vega (Gaia DR2)"``.
    aliases : mapping
        Other names of bands, such as the catalogue's column names.
    sources : tuple of str
        The files.

    Notes
    -----
    No row is dropped: rows that cannot be used carry a flag, and `counts` says how many.

    Examples
    --------
    >>> from astropy.table import Table
    >>> stars = Table({"ra": [10.0, 10.1], "dec": [0.0, 0.0], "mag_g": [20.0, float("nan")]})
    >>> catalog = ReferenceCatalog.from_table(stars)
    >>> catalog.bands, catalog.counts()
    (('g',), {'MISSING_BAND': 1})
    >>> catalog.usable(["g"]).tolist()
    [True, False]
    """

    table: Table
    bands: tuple[str, ...]
    systems: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "systems", MappingProxyType(dict(self.systems)))
        object.__setattr__(self, "aliases", MappingProxyType(dict(self.aliases)))

    def __len__(self) -> int:
        return len(self.table)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ReferenceCatalog):
            return NotImplemented
        same = self.bands == other.bands and dict(self.systems) == dict(other.systems)
        return same and _same_table(self.table, other.table)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        words = ", ".join(f"{b} ({self.systems.get(b, 'AB')})" for b in self.bands)
        return f"<ReferenceCatalog: {len(self)} stars, bands {words}; flagged {self.counts()}>"

    @classmethod
    def from_table(
        cls,
        table: Table,
        *,
        columns: Mapping[str, str] | None = None,
        bands: Any = None,
        epoch: float | None = None,
        duplicate_radius: float = 0.2,
        sources: Iterable[str] = (),
    ) -> ReferenceCatalog:
        """Make a catalogue from any table; parameters as in `read_reference_catalog`."""
        from pogson.formats.reference_columns import build

        return build(table, columns, bands, epoch, duplicate_radius, tuple(sources))

    # -- what is there ------------------------------------------------------------------------
    def band(self, name: str) -> str:
        """Return the catalogue's band for a name or alias.

        Raises
        ------
        MissingDataError
            If the catalogue has no such band; the message lists those it has.
        """
        if name in self.bands:
            return name
        if name in self.aliases:
            return self.aliases[name]
        folded = {b.lower(): b for b in self.bands}
        if name.lower() in folded and len(folded) == len(self.bands):
            return folded[name.lower()]
        raise MissingDataError(
            f"The reference catalogue ({', '.join(self.sources) or 'a table'}) has no band "
            f"{name!r}; it has {choices(self.bands)}."
        )

    def require(self, bands: Iterable[str]) -> tuple[str, ...]:
        """Return the catalogue's names of all bands asked for, or raise `MissingDataError`."""
        return tuple(self.band(b) for b in bands)

    def flux(self, band: str) -> tuple[np.ndarray, np.ndarray]:
        """Return AB flux densities and errors in nJy, NaN where missing."""
        name = self.band(band)
        return np.asarray(self.table[f"flux_{name}"]), np.asarray(self.table[f"flux_{name}_err"])

    def magnitude(self, band: str, system: str = "native") -> tuple[np.ndarray, np.ndarray]:
        """Return magnitudes and errors of a band.

        Parameters
        ----------
        band : str
            Name or alias.
        system : {"native", "AB"}
            The catalogue's own system (as published; what colour terms are made for), or AB.

        Returns
        -------
        magnitude, magnitude_err : numpy.ndarray
            NaN where missing.
        """
        name = self.band(band)
        if system == "native":
            return np.asarray(self.table[f"mag_{name}"]), np.asarray(self.table[f"mag_{name}_err"])
        if system != "AB":
            raise PogsonValueError(f"Unknown system {system!r}; allowed: 'native' or 'AB'.")
        magnitude, error = flux_to_magnitude(*self.flux(name))
        return magnitude, error

    def color(self, blue: str, red: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the colour ``blue - red`` and its error, in the catalogue's own system."""
        b, b_err = self.magnitude(blue)
        r, r_err = self.magnitude(red)
        return b - r, np.hypot(b_err, r_err)

    def usable(self, bands: Iterable[str] = (), *, suspect: bool = True) -> np.ndarray:
        """Return which rows have a position, are no duplicates, and have finite numbers in bands.

        Parameters
        ----------
        bands : iterable of str
            Bands that must have finite, positive fluxes.
        suspect : bool
            Whether rows flagged SUSPECT count as usable.
        """
        wrong = ReferenceFlag.BAD_POSITION | ReferenceFlag.DUPLICATE
        if not suspect:
            wrong |= ReferenceFlag.SUSPECT
        good = (np.asarray(self.table["flags"]) & int(wrong)) == 0
        for band in bands:
            magnitude, _ = self.magnitude(band)
            good &= np.isfinite(magnitude)
        return good

    def counts(self) -> dict[str, int]:
        """Return how many rows carry each flag (flags that do not occur are left out)."""
        return count_flags(ReferenceFlag, self.table["flags"])

    # -- where and when -----------------------------------------------------------------------
    def take(self, rows: Any) -> ReferenceCatalog:
        """Return the catalogue of some rows (a boolean or index array)."""
        return replace(self, table=self.table[np.asarray(rows)])

    def at_epoch(self, year: float | None = None, *, mjd: float | None = None) -> ReferenceCatalog:
        """Return the catalogue with positions moved to an epoch by the proper motions.

        Parameters
        ----------
        year : float
            Julian year, for example 2017.2.
        mjd : float
            Modified Julian date instead.

        Returns
        -------
        ReferenceCatalog
            Rows without epoch or proper motion stay where they are.

        Notes
        -----
        Linear motion in the tangent plane: enough for arcsecond matching away from the poles.

        Examples
        --------
        >>> from astropy.table import Table
        >>> stars = Table({"ra": [10.0], "dec": [60.0], "mag_g": [20.0], "pmra": [1800.0],
        ...                "pmdec": [0.0], "epoch": [2015.5]})
        >>> catalog = ReferenceCatalog.from_table(stars).at_epoch(2017.5)
        >>> round(float(catalog.table["ra"][0]), 6)
        10.002
        """
        if (year is None) == (mjd is None):
            raise PogsonValueError("Give either year= or mjd=.")
        when = float(year) if year is not None else 2000.0 + (mjd - _MJD_J2000) / _JULIAN_YEAR  # type: ignore[operator]
        table = self.table.copy()
        dt = when - np.asarray(table["epoch"], np.float64)
        move_dec = np.asarray(table["pmdec"]) * dt / _MAS_PER_DEGREE
        cos_dec = np.cos(np.deg2rad(np.asarray(table["dec"])))
        with np.errstate(invalid="ignore", divide="ignore"):
            move_ra = np.asarray(table["pmra"]) * dt / _MAS_PER_DEGREE / cos_dec
        known = np.isfinite(move_ra) & np.isfinite(move_dec)
        table["ra"] = np.where(known, (table["ra"] + move_ra) % 360.0, table["ra"])
        table["dec"] = np.where(known, table["dec"] + move_dec, table["dec"])
        table["epoch"] = np.where(known, when, table["epoch"])
        return replace(self, table=table)

    def within(self, sky: SkyMap, box: Box, *, margin: float = 10.0) -> ReferenceCatalog:
        """Return the stars that fall on an image.

        Parameters
        ----------
        sky : SkyMap
            Map of the image.
        box : Box
            Its pixels.
        margin : float
            Pixels around the image to include.

        Raises
        ------
        MissingDataError
            If no star falls on it: the catalogue does not overlap the image.
        """
        ra, dec = np.asarray(self.table["ra"]), np.asarray(self.table["dec"])
        x_mid, y_mid = box.center
        ra0, dec0 = sky.sky(x=x_mid, y=y_mid)
        distance = _separation(ra, dec, ra0, dec0)
        reach = 1.5 * (np.hypot(box.nx, box.ny) / 2 + margin) * sky.pixel_scale(x=x_mid, y=y_mid)
        near = np.flatnonzero(distance <= reach / 3600.0)
        x, y = sky.pixel(ra[near], dec[near])
        (x0, x1), (y0, y1) = box.x_bounds, box.y_bounds
        inside = (x >= x0 - margin) & (x <= x1 + margin) & (y >= y0 - margin) & (y <= y1 + margin)
        if not inside.any():
            placed = np.isfinite(distance)
            nearest = np.min(distance[placed]) if placed.any() else np.nan
            raise MissingDataError(
                f"The reference catalogue ({', '.join(self.sources) or 'a table'}) does not "
                f"overlap the image at ra={ra0:.5f}, dec={dec0:.5f}: "
                + (
                    f"of its {len(self)} stars the nearest is {nearest:.3f} degrees away. "
                    "Give a catalogue of this part of the sky, in degrees."
                    if placed.any()
                    else f"none of its {len(self)} rows has a finite position."
                )
            )
        return self.take(near[inside])


def _separation(ra: np.ndarray, dec: np.ndarray, ra0: float, dec0: float) -> np.ndarray:
    """Return separations in degrees (haversine); NaN for NaN."""
    a, d, a0, d0 = (np.deg2rad(np.asarray(v, np.float64)) for v in (ra, dec, ra0, dec0))
    with np.errstate(invalid="ignore"):
        h = np.sin((d - d0) / 2) ** 2 + np.cos(d) * np.cos(d0) * np.sin((a - a0) / 2) ** 2
        return np.rad2deg(2 * np.arcsin(np.sqrt(np.clip(h, 0, 1))))


def _same_table(a: Any, b: Any) -> bool:
    if a.colnames != b.colnames or len(a) != len(b):
        return False
    return all(
        np.array_equal(np.asarray(a[n]), np.asarray(b[n]), equal_nan=a[n].dtype.kind == "f")
        for n in a.colnames
    )


def read_reference_catalog(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    format: str = "auto",
    bands: Any = None,
    columns: Mapping[str, str] | None = None,
    epoch: float | None = None,
    duplicate_radius: float = 0.2,
) -> ReferenceCatalog:
    """Read a reference catalogue from one or more files.

    Parameters
    ----------
    path : path-like or sequence of path-like
        FITS, Parquet, ECSV or VOTable files, stacked in the order given.
    format : {"auto", "gaia-chunk", "table"}
        ``gaia-chunk``: Gaia DR2 rows as in the Legacy Surveys' HEALPix chunks; ``table``: any
        table with positions and fluxes or magnitudes, LSST reference catalogues included.
    bands : sequence of str or mapping, optional
        Bands needed. A sequence names them; a mapping says where their numbers are: band ->
        column name, or band -> mapping with the keys ``flux``, ``flux_err``, ``mag``, ``mag_err``
        (column names), ``unit`` (of a flux column without unit), ``system`` (words) and
        ``ab_offset`` (AB minus that system, in magnitudes). By default all that are recognised.
    columns : mapping, optional
        Column names of ``ra``, ``dec``, ``id``, ``epoch``, ``pmra``, ``pmdec``.
    epoch : float, optional
        Julian year of the positions, where no column says it.
    duplicate_radius : float
        arcsec; closer pairs are flagged DUPLICATE, both.

    Returns
    -------
    ReferenceCatalog

    Raises
    ------
    FileFormatError
        If a file is damaged or of an unknown kind.
    MissingDataError
        If positions or a needed band are missing, or there are no rows.
    UnitMismatchError
        If a flux column has no unit, or one that is not a flux density.

    Examples
    --------
    >>> import tempfile
    >>> from astropy.table import Table
    >>> stars = Table({"ra": [10.0], "dec": [0.0], "gmag": [20.0], "gmagerr": [0.01]})
    >>> name = tempfile.mktemp(suffix=".ecsv")
    >>> stars.write(name, format="ascii.ecsv")
    >>> catalog = read_reference_catalog(name, bands=["g"])
    >>> catalog.flux("g")[0].round(1)
    array([36307.8])
    """
    from astropy.table import vstack

    from pogson.formats.reference_columns import build, build_gaia, is_gaia

    allowed = ("auto", "gaia-chunk", "table")
    if format not in allowed:
        raise PogsonValueError(f"Unknown format {format!r}; allowed: {choices(allowed)}.")
    paths = [path] if isinstance(path, (str, os.PathLike)) else list(path)
    if not paths:
        raise MissingDataError("No reference catalogue file was given.")
    tables = [read_catalog(p) for p in paths]
    gaia = [is_gaia(t) for t in tables]
    names = tuple(str(Path(p)) for p in paths)
    if format == "gaia-chunk" and not all(gaia):
        wrong = names[gaia.index(False)]
        raise FileFormatError(f"{wrong} is not a Gaia chunk: it has no phot_g_mean_mag column.")
    stacked = tables[0] if len(tables) == 1 else vstack(tables, metadata_conflicts="silent")
    if len(stacked) == 0:
        raise MissingDataError(f"The reference catalogue {', '.join(names)} has no rows.")
    if format == "gaia-chunk" or (format == "auto" and all(gaia) and not isinstance(bands, dict)):
        catalog = build_gaia(stacked, duplicate_radius, names)
        if bands is not None:
            catalog.require([bands] if isinstance(bands, str) else bands)
        return catalog
    return build(stacked, columns, bands, epoch, duplicate_radius, names)
