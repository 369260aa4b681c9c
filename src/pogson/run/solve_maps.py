"""Where on the sky a reference catalogue disagrees with a global solution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pogson.run.solve_fit import Solved

__all__ = [
    "reference_regions",
    "reference_residuals",
    "regions_of",
    "residual_cells",
    "share_taken_out",
]


def residual_cells(
    ra: Any, dec: Any, residual: Any, cells: int = 6, least: int = 5
) -> list[dict[str, float]]:
    """Return the median residual in cells of the sky.

    Parameters
    ----------
    ra, dec : array_like
        Degrees.
    residual : array_like
        Magnitudes.
    cells : int
        Cells along each axis of the range of positions.
    least : int
        Least number of stars in a cell.

    Returns
    -------
    list of dict
        ``ra``, ``dec`` (centre), ``median``, ``error`` (of the median), ``n``.

    Examples
    --------
    >>> residual_cells([0.0] * 5, [1.0] * 5, [0.1] * 5, cells=1)[0]["median"]
    0.1
    """
    x, y, r = (np.asarray(v, float) for v in (ra, dec, residual))
    good = np.isfinite(x + y + r)
    if not good.any():
        return []
    x, y, r = x[good], y[good], r[good]
    x = (x - x[0] + 180.0) % 360.0 - 180.0 + x[0]  # no seam at 0
    edges = [np.linspace(v.min(), v.max() + 1e-9, cells + 1) for v in (x, y)]
    i, j = (np.clip(np.searchsorted(e, v, "right") - 1, 0, cells - 1)
            for e, v in zip(edges, (x, y), strict=True))  # fmt: skip
    # the scatter of a few stars can be small by chance: that of all is the least
    whole = 1.4826 * float(np.median(np.abs(r - np.median(r))))
    out = []
    for cell in np.unique(i * cells + j):
        here = r[i * cells + j == cell]
        if here.size < least:
            continue
        a, b = divmod(int(cell), cells)
        median = float(np.median(here))
        spread = max(1.4826 * float(np.median(np.abs(here - median))), whole)
        out.append({
            "ra": float(0.5 * (edges[0][a] + edges[0][a + 1]) % 360.0),
            "dec": float(0.5 * (edges[1][b] + edges[1][b + 1])), "median": median,
            "error": 1.2533 * spread / np.sqrt(here.size), "n": int(here.size),
        })  # fmt: skip
    return out


def reference_residuals(solved: Solved) -> np.ndarray:
    """Return reference minus the mean of each star's detections alone, magnitudes.

    The reference itself, which pulls its star towards it where it takes part, is taken out.

    Parameters
    ----------
    solved : Solved
        A solution with its stars.
    """
    s, stars = solved.solution, solved.assembled.observations.stars
    return share_taken_out(stars, s.stars.mag, s.stars.mag_err, s.rejected_references, s.weighting)


def share_taken_out(
    stars: Any, mag: np.ndarray, mag_err: np.ndarray, rejected: np.ndarray, weighting: Any
) -> np.ndarray:
    """Return reference minus the mean of each star's detections alone, magnitudes.

    Parameters
    ----------
    stars : Stars
        With references, also those that were rejected.
    mag, mag_err : numpy.ndarray
        The stars in the solution.
    rejected : numpy.ndarray of bool
        References that took no part.
    weighting : Weighting
        How references took part.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        total = 1.0 / mag_err**2
        own = 1.0 / (stars.reference_err**2 + weighting.reference_floor**2)
        inside = stars.has_reference & ~rejected & weighting.use_references
        share = np.where(inside, total / (total - own), 1.0)
        out = (stars.reference_mag - mag) * share
    return np.where(stars.has_reference & np.isfinite(share) & (share >= 1.0), out, np.nan)


def reference_regions(
    solved: Solved, *, least_offset: float = 0.01, significance: float = 5.0
) -> list[dict[str, Any]]:
    """Return regions in which the references of a band disagree with the solution.

    Parameters
    ----------
    solved : Solved
        The solution.
    least_offset : float
        Magnitudes.
    significance : float
        Standard errors.

    Returns
    -------
    list of dict
        As `residual_cells`, with ``band``; rejected references take part.
    """
    s = solved.solution
    if not len(s.observations):
        return []
    stars, exposures = solved.assembled.observations.stars, s.model.tables.exposures
    on = stars.has_reference & (s.stars.detections > 0)
    residual = reference_residuals(solved)[on]
    return regions_of(
        stars.filter[on], stars.ra[on], stars.dec[on], residual, exposures,
        least_offset=least_offset, significance=significance,
    )  # fmt: skip


def regions_of(
    band: np.ndarray,
    ra: np.ndarray,
    dec: np.ndarray,
    residual: np.ndarray,
    exposures: Any,
    *,
    least_offset: float = 0.01,
    significance: float = 5.0,
) -> list[dict[str, Any]]:
    """Return regions in which residuals of references are off, band by band.

    Parameters
    ----------
    band, ra, dec, residual : numpy.ndarray, shape (n,)
        Filter (row), place (degrees) and residual (magnitudes) of each reference.
    exposures : Exposures
        Names of the filters.
    least_offset, significance : float
        As in `reference_regions`.
    """
    out: list[dict[str, Any]] = []
    for f in np.unique(band):
        on = band == f
        for cell in residual_cells(ra[on], dec[on], residual[on]):
            off = abs(cell["median"])
            if off > least_offset and off > significance * max(cell["error"], 1e-4):
                out.append({"band": exposures.filter_name(int(f)), **cell})
    return out
