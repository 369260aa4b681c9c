"""Where a target is at a time: tables of positions, interpolated on the sphere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pogson.errors import BoundsError, MissingDataError, PogsonValueError, choices
from pogson.units import strip_unit

__all__ = ["Ephemeris"]

_STATIC_ARCSEC = 1e-3


@dataclass(frozen=True, eq=False)
class Ephemeris:
    """Positions of a target in time.

    Parameters
    ----------
    time : array_like, shape (n,)
        Modified Julian dates, in order. Empty or of one element: a target that does not move.
    ra, dec : array_like, shape (n,)
        Degrees.
    name : str, optional
        Of the target.

    Raises
    ------
    PogsonValueError
        If a value is not finite, a time comes twice, or the arrays differ in length.

    Notes
    -----
    Unit vectors are interpolated, by a cubic spline where there are four positions or more, else
    linearly, so that neither the poles nor right ascension 0 are special.

    Examples
    --------
    >>> path = Ephemeris([60000.0, 60001.0], [359.9, 0.1], [5.0, 5.0], name="rock")
    >>> path.is_static
    False
    >>> ra, dec = path.at(60000.5)
    >>> round(min(ra, 360.0 - ra), 9), round(dec, 4)
    (0.0, 5.0)
    """

    time: Any
    ra: Any
    dec: Any
    name: str = ""

    def __post_init__(self) -> None:
        for field in ("time", "ra", "dec"):
            value = np.atleast_1d(np.array(getattr(self, field), np.float64))
            value.flags.writeable = False
            object.__setattr__(self, field, value)
        who = f"of target {self.name!r}" if self.name else ""
        if self.ra.size == 0 or self.ra.shape != self.dec.shape or self.time.ndim != 1:
            raise PogsonValueError(f"The ephemeris {who} needs as many ra as dec, at least one.")
        if self.time.size not in (0, self.ra.size):
            raise PogsonValueError(f"The ephemeris {who} has {self.time.size} times and "
                                   f"{self.ra.size} positions.")  # fmt: skip
        if not (np.isfinite(self.ra).all() and (np.abs(self.dec) <= 90.0).all()):
            raise PogsonValueError(f"The ephemeris {who} has positions that are not on the sky.")
        if self.time.size > 1 and not (np.diff(self.time) > 0).all():
            raise PogsonValueError(f"The times of the ephemeris {who} must rise, none twice.")

    @classmethod
    def from_table(cls, table: Any, *, name: str = "") -> Ephemeris:
        """Make an ephemeris of a table with columns ``ra``, ``dec`` and, if it moves, ``time``.

        Parameters
        ----------
        table : astropy.table.Table
            ``ra`` and ``dec`` in degrees (or their own units), ``time`` in MJD (days), or an
            `astropy.time.Time` column.
        name : str, optional
            Of the target.

        Raises
        ------
        MissingDataError
            If a column is missing, or ``time`` is with more than one position.

        Examples
        --------
        >>> from astropy.table import Table
        >>> Ephemeris.from_table(Table({"ra": [10.0], "dec": [-5.0]})).is_static
        True
        """
        missing = [c for c in ("ra", "dec") if c not in table.colnames]
        if missing:
            raise MissingDataError(
                f"An ephemeris needs the columns ra and dec; {choices(missing)} is missing (there "
                f"are {', '.join(table.colnames)})."
            )
        ra = np.atleast_1d(strip_unit(table["ra"], "deg", "ra"))
        dec = np.atleast_1d(strip_unit(table["dec"], "deg", "dec"))
        if "time" not in table.colnames:
            if len(table) > 1 and not cls([], ra, dec).is_static:
                raise MissingDataError(
                    f"The ephemeris {name!r} has {len(table)} positions and no column time (MJD)."
                )
            return cls([], ra[:1], dec[:1], name)
        column = table["time"]
        time = column.mjd if hasattr(column, "mjd") else strip_unit(column, "day", "time")
        time = np.asarray(time, np.float64)
        if len(table) == 1 and not np.isfinite(time).all():
            return cls([], ra, dec, name)
        order = np.argsort(time, kind="stable")
        return cls(time[order], ra[order], dec[order], name)

    @property
    def vectors(self) -> np.ndarray:
        """Unit vectors of the positions, shape (n, 3)."""
        ra, dec = np.deg2rad(self.ra), np.deg2rad(self.dec)
        return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)

    @property
    def is_static(self) -> bool:
        """Whether all positions are the same, to a thousandth of an arcsec."""
        vectors = self.vectors
        gap = np.linalg.norm(vectors - vectors[0], axis=-1)
        return bool(np.rad2deg(gap.max()) * 3600.0 < _STATIC_ARCSEC)

    def covers(self, time: float) -> bool:
        """Return whether there is a position at a time; a static target has one at all times."""
        return self.is_static or bool(self.time[0] <= time <= self.time[-1])

    def at(self, time: float) -> tuple[float, float]:
        """Return the position (ra, dec) in degrees at a time (MJD).

        A target that `is_static` stays at its first and last position outside the table.

        Raises
        ------
        BoundsError
            If the target moves and the time is outside the table: nothing is extrapolated.
        """
        if self.time.size < 2:
            return float(self.ra[0]), float(self.dec[0])
        if self.is_static:
            time = float(np.clip(time, self.time[0], self.time[-1]))
        if not self.covers(time):
            raise BoundsError(
                f"The ephemeris of {self.name or 'the target'} runs from MJD {self.time[0]:.5f} to "
                f"{self.time[-1]:.5f}; it has no position at {time:.5f}."
            )
        vectors = self.vectors
        if self.time.size >= 4:
            from scipy.interpolate import CubicSpline

            found = CubicSpline(self.time, vectors)(time)
        else:
            found = np.array([np.interp(time, self.time, vectors[:, k]) for k in range(3)])
        ra = float(np.rad2deg(np.arctan2(found[1], found[0])) % 360.0)
        return ra, float(np.rad2deg(np.arctan2(found[2], np.hypot(found[0], found[1]))))

    def separation(self, time: float, ra: float, dec: float) -> float:
        """Return the distance in arcsec of the target at a time from a position in degrees.

        Infinite where the ephemeris has no position.
        """
        if not self.covers(time):
            return float("inf")
        here = Ephemeris([], [self.at(time)[0], ra], [self.at(time)[1], dec]).vectors
        return float(np.rad2deg(2.0 * np.arcsin(0.5 * np.linalg.norm(here[1] - here[0]))) * 3600.0)
