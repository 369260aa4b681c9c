"""Where a target is at a time: tables of positions, interpolated on the sphere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pogson.errors import BoundsError, MissingDataError, PogsonValueError, choices
from pogson.units import strip_unit

__all__ = ["Ephemeris", "mjd_of"]

_STATIC_ARCSEC = 1e-3
_LARGEST_MJD = 1e6


def mjd_of(column: Any) -> np.ndarray:
    """Return the times of a table column as MJD (UTC), as exposures have them.

    Parameters
    ----------
    column : astropy.table.Column or astropy.time.Time
        Numbers in MJD (days, or their own unit), texts such as ``2026-01-31T04:05:06`` (UTC), or
        times of any scale.

    Raises
    ------
    PogsonValueError
        If they are none of these, or Julian dates that are not modified.

    Examples
    --------
    >>> from astropy.time import Time
    >>> mjd_of(Time([60000.0], format="mjd", scale="tdb")).round(5)
    array([59999.9992])
    """
    if hasattr(column, "mjd"):
        time = column if column.scale == "local" else column.utc
        return np.asarray(np.ma.filled(time.mjd, np.nan), np.float64)
    if np.asarray(column).dtype.kind in "US":
        return _mjd_of_texts([str(v) for v in np.ma.filled(column, "")])
    time = np.asarray(strip_unit(column, "day", "time"), np.float64)
    if np.any(time > _LARGEST_MJD):
        raise PogsonValueError(
            f"time = {time.max():.5f} is not a modified Julian date; subtract 2400000.5 from "
            "Julian dates."
        )
    return time


def _mjd_of_texts(texts: list[str]) -> np.ndarray:
    from astropy.time import Time

    found = np.full(len(texts), np.nan)
    for k, text in enumerate(texts):
        if text.strip():
            try:
                found[k] = Time(text.strip(), scale="utc").mjd
            except ValueError:
                raise PogsonValueError(
                    f"time = {text!r} is neither an MJD nor a date such as 2026-01-31T04:05:06."
                ) from None
    return found


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
        time = mjd_of(table["time"])
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

        Outside the table the target goes straight on from its two positions nearest in time:
        enough to tell whether it may be in a stamp, not for measuring it.
        """
        place = self.at(time) if self.covers(time) else self._straight_on(time)
        here = Ephemeris([], [place[0], ra], [place[1], dec]).vectors
        half = min(0.5 * float(np.linalg.norm(here[1] - here[0])), 1.0)
        return float(np.rad2deg(2.0 * np.arcsin(half)) * 3600.0)

    def trail(self, time: float, seconds: float) -> tuple[float, float]:
        """Return how far a target goes in an exposure, and which way.

        Parameters
        ----------
        time : float
            Middle of the exposure, MJD.
        seconds : float
            Exposure time.

        Returns
        -------
        length, angle : float
            Arcsec, and position angle in degrees (north through east).

        Examples
        --------
        >>> path = Ephemeris([60000.0, 60001.0], [10.0, 10.1], [0.0, 0.0])
        >>> length, angle = path.trail(60000.5, 240.0)
        >>> round(length, 3), round(angle, 3)
        (1.0, 90.0)
        """
        if self.is_static:
            return 0.0, 0.0
        half = 0.5 * seconds / 86400.0
        ends = [self.at(t) if self.covers(t) else self._straight_on(t)
                for t in (time - half, time + half)]  # fmt: skip
        a, b = Ephemeris([], *np.array(ends).T).vectors
        ra = np.deg2rad(ends[0][0])
        east = np.array([-np.sin(ra), np.cos(ra), 0.0])
        north = np.cross(a, east)
        length = 2.0 * np.arcsin(min(0.5 * float(np.linalg.norm(b - a)), 1.0))
        angle = np.rad2deg(np.arctan2((b - a) @ east, (b - a) @ north))
        return float(np.rad2deg(length) * 3600.0), float(angle % 360.0)

    def _straight_on(self, time: float) -> tuple[float, float]:
        """Return the position on the great circle through the first or last two positions."""
        near = (0, 1) if time < self.time[0] else (-1, -2)
        a, b = (self.vectors[k] for k in near)
        angle = 2.0 * np.arcsin(0.5 * np.linalg.norm(b - a))
        turn = angle * (time - self.time[near[0]]) / (self.time[near[1]] - self.time[near[0]])
        across = b - a * (a @ b)
        size = np.linalg.norm(across)
        found = a if size == 0 else a * np.cos(turn) + across / size * np.sin(turn)
        ra = float(np.rad2deg(np.arctan2(found[1], found[0])) % 360.0)
        return ra, float(np.rad2deg(np.arctan2(found[2], np.hypot(found[0], found[1]))))
