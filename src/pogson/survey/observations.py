"""Repeated measurements of stars, and the exposures, detectors and stars they belong to.

Magnitudes throughout this room are instrumental AB-style magnitudes, ``-2.5 log10`` of the
instrumental flux; a *star* is one unknown magnitude: one object in one band. Pixel convention:
0-based, pixel centres on integers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import IntFlag
from functools import cached_property
from typing import Any

import numpy as np

from pogson.errors import PogsonValueError
from pogson.flags import count_flags
from pogson.survey.tables import Detectors, Exposures, Stars, SurveyTables, Table, column

__all__ = ["Detectors", "Exposures", "Observations", "RowFlag", "Stars", "SurveyTables"]

_POGSON = 2.5 / np.log(10.0)


class RowFlag(IntFlag):
    """Why a detection takes no part in the solution (0: it does).

    Examples
    --------
    >>> RowFlag.describe(3)
    'NOT_FINITE, BAD_ERROR'
    """

    NOT_FINITE = 1
    BAD_ERROR = 2
    DUPLICATE = 4
    WRONG_FILTER = 8
    REJECTED = 16
    HELD_OUT = 32
    MISSING_INPUT = 64

    @classmethod
    def describe(cls, value: int) -> str:
        """Return the names of the flags that are set."""
        return ", ".join(str(f.name) for f in cls if value & f)


@dataclass(frozen=True, eq=False)
class Observations(Table):
    """Detections of stars, all those of a star together: the rows that a solution is made of.

    Parameters
    ----------
    star, exposure, detector : array_like of int, shape (n,)
        Row numbers in the tables of stars, exposures and detectors. Rows are sorted by star (use
        `from_columns` to sort).
    x, y : array_like of float, shape (n,)
        Detector pixels (0-based, centres on integers).
    mag, mag_err : array_like of float, shape (n,)
        Instrumental magnitude and its standard error from noise alone.
    tables : SurveyTables
        Exposures and detectors.
    stars : Stars
        Stars.
    flags : array_like of int, optional
        `RowFlag` bits; rows with any set have no weight. NaN magnitudes and useless errors are
        flagged here, never dropped.
    airmass, seeing : array_like of float, shape (n,), optional
        Per detection; by default those of the exposure.

    Raises
    ------
    PogsonValueError
        If lengths differ, rows are not sorted by star, or an index has no row in its table.

    Examples
    --------
    >>> tables = SurveyTables(Exposures([1, 2]), Detectors([0]))
    >>> obs = Observations.from_columns(tables, Stars([5, 6]), star=[1, 0, 0], exposure=[0, 1, 0],
    ...     detector=0, x=1.0, y=2.0, mag=[-9.0, -8.0, float("nan")], mag_err=0.01)
    >>> obs.star, obs.start
    (array([0, 0, 1]...), array([0, 2, 3]))
    >>> obs.flag_counts()
    {'NOT_FINITE': 1}
    """

    star: np.ndarray
    exposure: np.ndarray
    detector: np.ndarray
    x: np.ndarray
    y: np.ndarray
    mag: np.ndarray
    mag_err: np.ndarray
    tables: SurveyTables
    stars: Stars
    flags: np.ndarray = None  # type: ignore[assignment]
    airmass: np.ndarray | None = None
    seeing: np.ndarray | None = None
    checked: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        n = int(np.size(self.star))
        for name in ("star", "exposure", "detector"):
            object.__setattr__(self, name, column(getattr(self, name), n, name, np.int32, 0))
        for name in ("x", "y", "mag", "mag_err", "airmass", "seeing"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, column(value, n, name, np.float64, 0.0))
        flags = column(self.flags, n, "flags", np.uint8, 0)
        if not self.checked:
            self._check_indices()
            flags = self._flagged(flags)
        object.__setattr__(self, "flags", flags)
        object.__setattr__(self, "checked", True)

    def _check_indices(self) -> None:
        if self.star.size and np.any(np.diff(self.star) < 0):
            raise PogsonValueError(
                "Detections must be sorted by star; use Observations.from_columns, which sorts."
            )
        sizes = (len(self.stars), *self.tables.counts)
        for name, size in zip(("star", "exposure", "detector"), sizes, strict=True):
            column = getattr(self, name)
            if column.size and (column.min() < 0 or column.max() >= size):
                raise PogsonValueError(
                    f"Column {name!r} holds rows {column.min()} to {column.max()}, but its table "
                    f"has {size} rows (0 to {size - 1})."
                )

    def _flagged(self, flags: np.ndarray) -> np.ndarray:
        flags = flags.copy()
        with np.errstate(invalid="ignore"):
            flags[~(np.isfinite(self.mag))] |= RowFlag.NOT_FINITE.value
            flags[~(np.isfinite(self.mag_err) & (self.mag_err > 0))] |= RowFlag.BAD_ERROR.value
        flags[~(np.isfinite(self.x) & np.isfinite(self.y))] |= RowFlag.MISSING_INPUT.value
        band = self.stars.filter
        if band.size and band.max() >= 0:
            wanted = band[self.star]
            wrong = (wanted >= 0) & (wanted != self.tables.exposures.filter[self.exposure])
            flags[wrong] |= RowFlag.WRONG_FILTER.value
        flags.flags.writeable = False
        return flags

    @classmethod
    def from_columns(
        cls,
        tables: SurveyTables,
        stars: Stars,
        *,
        star: Any,
        exposure: Any,
        detector: Any,
        x: Any,
        y: Any,
        mag: Any,
        mag_err: Any,
        airmass: Any = None,
        seeing: Any = None,
        flags: Any = None,
    ) -> Observations:
        """Sort rows by star and exposure and mark duplicates.

        Parameters are those of the class; scalars are repeated. Of several detections of one star
        on one exposure and detector, all but the first are flagged ``DUPLICATE``.

        Raises
        ------
        PogsonValueError
            As for the class.
        """
        star = np.asarray(star, np.int64).ravel()
        n = star.size
        raw = {"exposure": exposure, "detector": detector, "x": x, "y": y}
        raw |= {"mag": mag, "mag_err": mag_err, "airmass": airmass, "seeing": seeing}
        raw |= {"flags": flags}
        columns: dict[str, Any] = {
            k: np.broadcast_to(np.asarray(v), (n,)) for k, v in raw.items() if v is not None
        }
        e, d = columns["exposure"].astype(np.int64), columns["detector"].astype(np.int64)
        order = np.lexsort((d, e, star))
        star, e, d = star[order], e[order], d[order]
        columns = {k: v[order] for k, v in columns.items()}
        same = np.zeros(n, bool)
        same[1:] = (np.diff(star) == 0) & (np.diff(e) == 0) & (np.diff(d) == 0)
        bits = np.array(columns.pop("flags", np.zeros(n)), np.uint8)
        bits[same] |= RowFlag.DUPLICATE.value
        return cls(star=star, tables=tables, stars=stars, flags=bits, **columns)

    @classmethod
    def from_fluxes(
        cls, tables: SurveyTables, stars: Stars, *, flux: Any, flux_err: Any, **columns: Any
    ) -> Observations:
        """Make observations from instrumental fluxes.

        Parameters
        ----------
        tables, stars, **columns
            As in `from_columns`.
        flux, flux_err : array_like
            Instrumental fluxes and standard errors; those that are not positive are flagged
            ``NOT_FINITE``, because the model is one of magnitudes.

        Examples
        --------
        >>> obs = Observations.from_fluxes(SurveyTables(Exposures([1]), Detectors([0])),
        ...     Stars([1, 2]), star=[0, 1], exposure=0, detector=0, x=0, y=0,
        ...     flux=[100.0, -1.0], flux_err=1.0)
        >>> obs.mag, obs.flags
        (array([-5., nan]), array([0, 1]...))
        """
        f, e = np.asarray(flux, np.float64), np.asarray(flux_err, np.float64)
        good = f > 0
        safe = np.where(good, f, 1.0)
        mag = np.where(good, -2.5 * np.log10(safe), np.nan)
        return cls.from_columns(
            tables, stars, mag=mag, mag_err=_POGSON * np.abs(e) / safe, **columns
        )

    # -- what terms need ----------------------------------------------------------------------
    @cached_property
    def start(self) -> np.ndarray:
        """First row of each star, shape (stars + 1,)."""
        return np.searchsorted(self.star, np.arange(len(self.stars) + 1)).astype(np.int64)

    @property
    def usable(self) -> np.ndarray:
        """Rows without flags."""
        return np.asarray(self.flags == 0)

    def exposure_column(self, name: str) -> np.ndarray:
        """Return a column of the exposure table for each detection."""
        return np.asarray(getattr(self.tables.exposures, name)[self.exposure])

    def detection_airmass(self) -> np.ndarray:
        """Return the airmass of each detection."""
        return self.exposure_column("airmass") if self.airmass is None else self.airmass

    def detection_seeing(self) -> np.ndarray:
        """Return the seeing of each detection, arcsec."""
        return self.exposure_column("seeing") if self.seeing is None else self.seeing

    def detection_color(self) -> np.ndarray:
        """Return the colour of each detection's star, magnitudes."""
        return np.asarray(self.stars.color[self.star])

    def flag_counts(self) -> dict[str, int]:
        """Return how many rows carry each flag (those that occur)."""
        return count_flags(RowFlag, self.flags)

    def with_flags(self, flags: Any) -> Observations:
        """Return the same rows with other flags (no other column is checked again)."""
        return replace(self, flags=np.asarray(flags, np.uint8))

    def select_stars(self, first: int, last: int) -> Observations:
        """Return the detections of stars ``first <= star < last``, with the same tables.

        Star numbers are kept, so that partial results add.
        """
        i, j = (int(v) for v in np.searchsorted(self.star, [first, last]))
        names = ("star", "exposure", "detector", "x", "y", "mag", "mag_err", "flags")
        cut = {n: getattr(self, n)[i:j] for n in (*names, "airmass", "seeing")
               if getattr(self, n) is not None}  # fmt: skip
        return replace(self, **cut)

    def partitions(self, rows: int = 2_000_000) -> Iterator[Observations]:
        """Yield pieces of about ``rows`` detections, cut between stars."""
        stars = len(self.stars)
        edges = np.searchsorted(self.start, np.arange(0, len(self) + rows, rows))
        edges = np.unique(np.clip(np.append(edges, stars), 0, stars))
        for a, b in itertools.pairwise(edges):
            yield self.select_stars(int(a), int(b))

    def __repr__(self) -> str:
        e, d = self.tables.counts
        return f"<Observations: {len(self)} detections of {len(self.stars)} stars, {e} x {d}>"
