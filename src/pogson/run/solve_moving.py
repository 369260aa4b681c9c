"""Stars that move between the exposures: found by the proper motions of the reference catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.run.solve_config import SolveConfig

if TYPE_CHECKING:
    from pogson.formats import ReferenceCatalog
    from pogson.survey import Seeds

__all__ = ["Moving", "moving_objects", "with_known", "years"]


@dataclass(frozen=True, eq=False)
class Moving:
    """Objects of the reference catalogue that move between the exposures.

    Parameters
    ----------
    seeds : Seeds
        Their places and proper motions.
    row : numpy.ndarray of int
        Row of each in the catalogue.

    Examples
    --------
    >>> Moving.__name__
    'Moving'
    """

    seeds: Seeds
    row: np.ndarray

    def rows(self, seed: np.ndarray) -> np.ndarray:
        """Return the rows in the catalogue of stars that have a seed, else -1."""
        return np.where(seed >= 0, self.row[np.maximum(seed, 0)], -1)


def moving_objects(
    catalog: ReferenceCatalog | None, mjd: np.ndarray, config: SolveConfig
) -> Moving | None:
    """Return the objects that move too far between the exposures to be matched by their place.

    Parameters
    ----------
    catalog : ReferenceCatalog or None
        With proper motions and epochs, or without.
    mjd : numpy.ndarray
        Of the exposures; 0: not known.
    config : SolveConfig
        With the matching radius: a fifth of it is far.

    Returns
    -------
    Moving or None
        None if there are none.
    """
    from pogson.survey import Seeds

    known = np.asarray(mjd)[np.asarray(mjd) > 0]
    if catalog is None or known.size < 2:
        return None
    t = catalog.table
    columns = {n: np.asarray(np.ma.filled(np.ma.asarray(t[n]), np.nan), float)
               for n in ("ra", "dec", "pmra", "pmdec", "epoch")}  # fmt: skip
    with np.errstate(invalid="ignore"):
        far = 1e-3 * np.hypot(columns["pmra"], columns["pmdec"]) * np.ptp(years(known))
        rows = np.flatnonzero((far > 0.2 * config.match_radius) & np.isfinite(columns["epoch"]))
    if not rows.size:
        return None
    ra, dec, pm_ra, pm_dec, epoch = (v[rows] for v in columns.values())
    return Moving(Seeds(ra, dec, pm_ra, pm_dec, epoch), rows)


def years(mjd: np.ndarray) -> np.ndarray:
    """Return Julian years; where the date is 0 (not known) the median of the others."""
    mjd = np.asarray(mjd, float)
    middle = float(np.median(mjd[mjd > 0])) if np.any(mjd > 0) else 51544.5
    return np.asarray(2000.0 + (np.where(mjd > 0, mjd, middle) - 51544.5) / 365.25)


def with_known(
    match: Any, known: np.ndarray, all_known: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pairs of stars and references, and whether each is clear.

    Parameters
    ----------
    match : CatalogMatch
        By place.
    known : numpy.ndarray of int
        Row in the catalogue of each star that was found by its proper motion, -1: others. Such
        pairs are clear, and no other star is given their references.
    all_known : numpy.ndarray of int
        The same of stars of all bands.
    """
    ours, theirs = match.rows
    clear = ~match.ambiguous[ours]
    moving = np.flatnonzero(known >= 0)
    if not moving.size:
        return ours, theirs, clear
    others = ~np.isin(theirs, all_known[all_known >= 0]) & (known[ours] < 0)
    return (
        np.concatenate([ours[others], moving]),
        np.concatenate([theirs[others], known[moving]]),
        np.concatenate([clear[others], np.ones(moving.size, bool)]),
    )
