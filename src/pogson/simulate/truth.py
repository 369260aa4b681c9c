"""Calibrated fluxes beside the truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import MaskedDataError, MissingDataError, PogsonValueError, choices

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["TruthComparison", "truth_comparison"]

_POGSON = 2.5 / np.log(10.0)
_OUTLIER = 5.0


@dataclass(frozen=True, eq=False)
class TruthComparison:
    """Calibrated fluxes of one exposure compared with true ones; see `truth_comparison`.

    Parameters
    ----------
    row, truth_row : numpy.ndarray of int
        Rows of the catalogue and of the truth that were compared.
    magnitude : numpy.ndarray
        True AB magnitudes.
    difference : numpy.ndarray
        Measured minus true, magnitudes, to first order in the flux (so that negative fluxes
        count): ``-2.5/ln 10 (f / f_true - 1)``.
    pull : numpy.ndarray
        Flux differences about the exposure's median difference, over their errors.
    median : float
        Weighted median difference of the well-measured stars in mmag.
    median_err : float
        Its standard error in mmag.
    pull_rms : float
        Root mean square of the pulls within 5.
    n_outliers : int
        Pulls beyond 5, left out of ``pull_rms``.
    n_unmatched : int
        Usable measurements with no true star within the radius.

    Examples
    --------
    >>> z = np.zeros(1)
    >>> TruthComparison(z, z, z, z, z, 0.1, 0.2, 1.0, 0, 0).median
    0.1
    """

    row: np.ndarray
    truth_row: np.ndarray
    magnitude: np.ndarray
    difference: np.ndarray
    pull: np.ndarray
    median: float
    median_err: float
    pull_rms: float
    n_outliers: int
    n_unmatched: int

    def to_dict(self) -> dict[str, float | int]:
        """Return the numbers, JSON-ready."""
        return {
            "n": int(self.row.size),
            "median_mmag": self.median,
            "median_err_mmag": self.median_err,
            "pull_rms": self.pull_rms,
            "n_outliers": self.n_outliers,
            "n_unmatched": self.n_unmatched,
        }


def truth_comparison(
    catalog: Table,
    truth: Table,
    *,
    flux: str,
    true_flux: str,
    flux_err: str | None = None,
    use: Any = None,
    match_radius: float = 0.5,
    min_snr: float = 30.0,
    floor: float = 0.002,
) -> TruthComparison:
    """Compare the calibrated fluxes of one exposure with the truth.

    Parameters
    ----------
    catalog : astropy.table.Table
        Measured sources: ``ra``, ``dec`` in degrees, calibrated total fluxes in nJy.
    truth : astropy.table.Table
        The truth table of the simulation: ``ra``, ``dec``, true fluxes in nJy. Compare like with
        like: ``flux_<band>`` is in the instrument's own bandpass, which is what a calibrated
        exposure holds; ``flux_<band>_standard`` only after each star's colour term is applied.
    flux, true_flux : str
        Columns of the measured and the true flux.
    flux_err : str, optional
        Column of the error; by default ``flux`` with ``_err`` after it.
    use : array_like of bool, optional
        Rows of the catalogue to use (unflagged ones, say); all by default.
    match_radius : float, optional
        Arcsec; nearest true star.
    min_snr : float, optional
        True flux over error from which a star counts for the median difference. Selecting on the
        true flux keeps the selection from biasing the median. If fewer than 10 stars reach it, all
        count.
    floor : float, optional
        Magnitudes added in quadrature to the errors in the weights of the median.

    Returns
    -------
    TruthComparison

    Raises
    ------
    MissingDataError
        If a column is missing.
    MaskedDataError
        If no star is left to compare.

    Notes
    -----
    The median is weighted by the inverse errors, the best weights for a median of normal deviates;
    its variance is then pi/2 over the sum of the inverse variances. Pulls are taken about it: the
    zero-point error is common to the exposure, and per-source errors do not include it.

    Examples
    --------
    >>> from astropy.table import Table
    >>> true = Table({"ra": [10.0, 10.1], "dec": [0.0, 0.0], "flux_g": [1000.0, 2000.0]})
    >>> seen = Table({"ra": [10.1, 10.0], "dec": [0.0, 0.0], "f": [2002.0, 1001.0]})
    >>> seen["f_err"] = [10.0, 5.0]
    >>> result = truth_comparison(seen, true, flux="f", true_flux="flux_g")
    >>> round(float(result.median), 3), result.truth_row
    (-1.086, array([1, 0]))
    """
    flux_err = f"{flux}_err" if flux_err is None else flux_err
    f, err, ra, dec = (_column(catalog, c, "catalogue") for c in (flux, flux_err, "ra", "dec"))
    t, true_ra, true_dec = (_column(truth, c, "truth") for c in (true_flux, "ra", "dec"))
    good = np.isfinite(f) & np.isfinite(err) & (err > 0) & np.isfinite(ra) & np.isfinite(dec)
    if use is not None:
        use = np.asarray(use, bool)
        if use.shape != good.shape:
            raise PogsonValueError(f"use has shape {use.shape}, the catalogue {good.size} rows.")
        good &= use
    rows = np.flatnonzero(good)
    index = _nearest(ra[rows], dec[rows], true_ra, true_dec, match_radius)
    matched = index >= 0
    row, truth_row = rows[matched], index[matched]
    if row.size == 0:
        raise MaskedDataError(
            f"None of {rows.size} usable measurements ({good.size} rows) has a true star within "
            f"{match_radius:g} arcsec of {truth_row.size} matches; is this the truth of the field?"
        )
    f, err, t = f[row], err[row], t[truth_row]
    relative = f / t - 1.0
    bright = t / err >= min_snr
    if bright.sum() < 10:
        bright[:] = True
    weight = 1.0 / np.hypot(err / t, floor / _POGSON)[bright]
    middle = _weighted_median(relative[bright], weight)
    pull = (relative - middle) * t / err
    inside = np.abs(pull) <= _OUTLIER
    return TruthComparison(
        row=row,
        truth_row=truth_row,
        magnitude=31.4 - 2.5 * np.log10(t),
        difference=-_POGSON * relative,
        pull=pull,
        median=float(-1e3 * _POGSON * middle),
        median_err=float(1e3 * _POGSON * np.sqrt(np.pi / 2 / np.sum(weight**2))),
        pull_rms=float(np.sqrt(np.mean(pull[inside] ** 2))),
        n_outliers=int(np.sum(~inside)),
        n_unmatched=int(np.sum(~matched)),
    )


def _weighted_median(values: np.ndarray, weight: np.ndarray) -> float:
    """Value that has half the weight on either side, interpolated between neighbours."""
    order = np.argsort(values, kind="stable")
    v, w = values[order], weight[order]
    middle = np.cumsum(w) - 0.5 * w
    return float(np.interp(0.5 * np.sum(w), middle, v))


def _column(table: Table, name: str, what: str) -> np.ndarray:
    """Return a column as float64, masked values NaN."""
    if name not in table.colnames:
        raise MissingDataError(
            f"The {what} has no column {name!r}; it has {choices(table.colnames)}."
        )
    values = np.ma.filled(np.ma.asarray(table[name]).astype(np.float64), np.nan)
    return np.asarray(values, np.float64)


def _nearest(
    ra: np.ndarray, dec: np.ndarray, true_ra: np.ndarray, true_dec: np.ndarray, radius: float
) -> np.ndarray:
    """Return for each position the nearest true star within the radius, each used once, or -1."""
    from scipy.spatial import cKDTree

    def vectors(a: np.ndarray, d: np.ndarray) -> np.ndarray:
        a, d = np.deg2rad(a), np.deg2rad(d)
        return np.column_stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)])

    out = np.full(ra.size, -1)
    if ra.size == 0 or true_ra.size == 0:
        return out
    distance, index = cKDTree(vectors(true_ra, true_dec)).query(vectors(ra, dec))
    near = distance <= 2 * np.sin(np.deg2rad(radius / 3600.0) / 2)
    taken: set[int] = set()
    for i in np.argsort(distance, kind="stable"):
        if near[i] and int(index[i]) not in taken:
            taken.add(int(index[i]))
            out[i] = index[i]
    return out
