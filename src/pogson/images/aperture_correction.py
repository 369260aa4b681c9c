"""Aperture corrections: the field that takes one measured flux to the scale of another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.calib import FluxReference
from pogson.errors import CalibrationError, MissingDataError, PogsonValueError
from pogson.fields import Box, ChebyshevField, field_from_dict
from pogson.images.flags import SourceFlag, count_flags

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["ApertureCorrection", "fit_aperture_correction"]

_MAD_TO_SIGMA = 1.4826022185056018


@dataclass(frozen=True, eq=False)
class ApertureCorrection:
    """The ratio of two fluxes of the same stars as a field, with what is known of its errors.

    Parameters
    ----------
    ratio : Field
        Flux of `to` over flux of `from_reference`, against pixel position.
    from_reference, to_reference : FluxReference
        What it takes a flux from and to.
    intrinsic_scatter : float
        Standard deviation of the ratio from star to star beyond the measurement errors: the least
        error of any single corrected flux, as a fraction.
    covariance : numpy.ndarray, shape (n, n)
        Covariance of the coefficients ``ratio.free_coefficients``: shared by all corrected fluxes.
    n_used, n_rejected : int
        Stars used, and stars left out by the clipping or by their flags.
    chi2 : float
        Of the stars used, with the intrinsic scatter.
    used : numpy.ndarray of bool
        Which rows of the table were used.

    Examples
    --------
    >>> import numpy as np
    >>> from pogson.fields import Box, ChebyshevField
    >>> correction = ApertureCorrection(
    ...     ChebyshevField(Box(0, 0, 100, 100), [[1.25]]), FluxReference.aperture(4),
    ...     FluxReference.aperture(12), intrinsic_scatter=0.004, covariance=np.array([[1e-6]]),
    ...     n_used=50, n_rejected=1, chi2=48.0, used=np.ones(51, bool))
    >>> correction.ratio_error(x=50.0, y=50.0)
    array([0.001])
    """

    ratio: ChebyshevField
    from_reference: FluxReference
    to_reference: FluxReference
    intrinsic_scatter: float
    covariance: np.ndarray
    n_used: int
    n_rejected: int
    chi2: float
    used: np.ndarray

    def ratio_error(self, *, x: Any, y: Any) -> np.ndarray:
        """Standard error of the ratio at positions, from the coefficient covariance.

        Parameters
        ----------
        x, y : array_like
            Positions in pixels (0-based, centres on integers).
        """
        basis = np.asarray(self.ratio.basis(x=np.atleast_1d(x), y=np.atleast_1d(y)))
        return np.sqrt(np.einsum("ni,ij,nj->n", basis, self.covariance, basis))

    def apply(self, flux: Any, flux_err: Any = None, *, x: Any, y: Any) -> dict[str, np.ndarray]:
        """Correct fluxes of ``from_reference`` to ``to_reference``.

        Parameters
        ----------
        flux, flux_err : array_like, shape (n,)
            Fluxes and, optionally, their own standard errors.
        x, y : array_like, shape (n,)
            Positions in pixels.

        Returns
        -------
        dict of numpy.ndarray
            ``flux``; ``flux_err``, the source's own error scaled (NaN without ``flux_err``);
            ``common_err``, the error of the correction, shared by neighbouring sources and never
            to be added to ``flux_err`` source by source; ``scatter``, the intrinsic scatter times
            the flux; ``ratio``; and ``flags``, APERTURE_CORRECTION where the ratio is not finite
            and positive or the position is outside the field (the flux is NaN there).

        Examples
        --------
        >>> from astropy.table import Table
        >>> import numpy as np
        >>> from pogson.calib import FluxReference
        >>> from pogson.fields import Box
        >>> from pogson.images import fit_aperture_correction
        >>> rng = np.random.default_rng(3)
        >>> stars = Table({"x": rng.uniform(0, 99, 50), "y": rng.uniform(0, 99, 50)})
        >>> small, large = FluxReference.aperture(4), FluxReference.aperture(12)
        >>> stars["flux_" + small.slug], stars["flux_" + large.slug] = np.full((2, 50), 100.0)
        >>> stars["flux_" + large.slug] *= 1.25
        >>> correction = fit_aperture_correction(stars, small, large, box=Box(0, 0, 100, 100))
        >>> correction.apply([80.0], x=[50.0], y=[50.0])["flux"]
        array([100.])
        """
        xs, ys = np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float))
        values = np.atleast_1d(np.asarray(flux, np.float64))
        errors = np.full(values.shape, np.nan) if flux_err is None else np.asarray(flux_err, float)
        inside = np.asarray(self.ratio.box.contains(x=xs, y=ys))
        ratio, ratio_err = np.full(xs.shape, np.nan), np.full(xs.shape, np.nan)
        if inside.any():
            ratio[inside] = self.ratio(x=xs[inside], y=ys[inside])
            ratio_err[inside] = self.ratio_error(x=xs[inside], y=ys[inside])
        wrong = ~(np.isfinite(ratio) & (ratio > 0))
        ratio[wrong] = np.nan
        return {
            "flux": values * ratio,
            "flux_err": np.abs(errors) * ratio,
            "common_err": np.abs(values) * ratio_err,
            "scatter": np.abs(values) * ratio * self.intrinsic_scatter,
            "ratio": ratio,
            "flags": np.where(wrong, int(SourceFlag.APERTURE_CORRECTION), 0).astype(np.int32),
        }

    def flux_covariance(self, flux: Any, *, x: Any, y: Any) -> np.ndarray:
        """Covariance of corrected fluxes due to the correction alone, shape (n, n)."""
        values = np.atleast_1d(np.asarray(flux, np.float64))
        basis = np.asarray(self.ratio.basis(x=np.atleast_1d(x), y=np.atleast_1d(y)))
        rows = basis * values[:, None]
        return np.asarray(rows @ self.covariance @ rows.T)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description, read back by `from_dict`."""
        return {
            "ratio": self.ratio.to_dict(),
            "from": self.from_reference.to_dict(),
            "to": self.to_reference.to_dict(),
            "intrinsic_scatter": self.intrinsic_scatter,
            "covariance": self.covariance.tolist(),
            "n_used": self.n_used,
            "n_rejected": self.n_rejected,
            "chi2": self.chi2,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ApertureCorrection:
        """Return the correction described by `to_dict` (which rows were used is not kept)."""
        ratio = field_from_dict(data["ratio"])
        if not isinstance(ratio, ChebyshevField):
            raise PogsonValueError("The ratio of an aperture correction must be a ChebyshevField.")
        return cls(
            ratio,
            FluxReference.from_dict(data["from"]),
            FluxReference.from_dict(data["to"]),
            float(data["intrinsic_scatter"]),
            np.asarray(data["covariance"], np.float64),
            int(data["n_used"]),
            int(data["n_rejected"]),
            float(data["chi2"]),
            np.zeros(0, bool),
        )


def fit_aperture_correction(
    table: Table,
    from_reference: FluxReference,
    to_reference: FluxReference,
    *,
    box: Box,
    order: int = 2,
    clip: float = 4.0,
    use: Any = None,
    max_iterations: int = 20,
) -> ApertureCorrection:
    """Fit the aperture correction between two fluxes of a table as a Chebyshev field.

    Parameters
    ----------
    table : astropy.table.Table
        From `measure_sources`: ``x, y``, the two fluxes, their ``_err`` where known, ``flags``.
    from_reference, to_reference : FluxReference
        References to correct from and to; columns ``flux_`` + ``slug``.
    box : Box
        Box of the field: that of the image.
    order : int, optional
        Total order of the polynomial.
    clip : float, optional
        Clipping threshold in standard deviations.
    use : array_like of bool, optional
        Rows to use: stars only, bright enough. By default all; flagged rows are always left out.
    max_iterations : int, optional
        Most rounds of clipping.

    Returns
    -------
    ApertureCorrection

    Raises
    ------
    MissingDataError
        If a column is missing.
    CalibrationError
        If fewer stars are left than the field has coefficients.

    Notes
    -----
    The noise of the two fluxes of a star is correlated (the small aperture is inside the large
    one); the variance of their ratio uses only the part they do not share,
    ``var(to) - var(from)``, plus the intrinsic scatter, which is found by making the chi-square
    per degree of freedom 1.

    Examples
    --------
    See `ApertureCorrection.apply`.
    """
    x, y, ratio, error = _ratios(table, from_reference, to_reference)
    candidates = np.ones(x.size, bool) if use is None else np.asarray(use, bool)
    if candidates.shape != x.shape:
        raise PogsonValueError(f"use has shape {candidates.shape}; the table has {x.size} rows.")
    good = candidates & np.isfinite(ratio) & (ratio > 0) & np.isfinite(error)
    good &= np.asarray(box.contains(x=x, y=y))
    flags = np.asarray(table["flags"]) if "flags" in table.colnames else np.zeros(x.size, int)
    good &= flags == 0
    n_free = (order + 1) * (order + 2) // 2
    if int(good.sum()) <= n_free:
        raise CalibrationError(
            f"Only {int(good.sum())} of {int(candidates.sum())} stars are usable for an aperture "
            f"correction of order {order}, which needs more than {n_free} (flags: "
            f"{count_flags(flags[candidates])}). Use more stars or a lower order."
        )
    center = np.median(ratio[good])
    spread = _MAD_TO_SIGMA * np.median(np.abs(ratio[good] - center))
    kept = good & (np.abs(ratio - center) <= max(3 * clip * spread, 1e-12))  # gross outliers
    scatter = 0.0
    for _ in range(max_iterations):
        field, covariance, scatter = _fit(box, x, y, ratio, error, kept, order)
        residual = ratio - field(x=x, y=y, extrapolate=True)
        sigma = np.sqrt(error**2 + scatter**2)
        typical = _MAD_TO_SIGMA * np.median(np.abs(residual[kept]))
        limit = clip * np.maximum(sigma, typical)
        new = good & (np.abs(residual) <= limit + 1e-14)
        if int(new.sum()) <= n_free or bool((new == kept).all()):
            break
        kept = new
    field, covariance, scatter = _fit(box, x, y, ratio, error, kept, order)
    residual = (ratio - field(x=x, y=y, extrapolate=True))[kept]
    total = error[kept] ** 2 + scatter**2
    chi2 = float(np.sum(residual**2 / total)) if (total > 0).all() else float("nan")
    return ApertureCorrection(
        field, from_reference, to_reference, scatter, covariance, int(kept.sum()),
        int(candidates.sum() - kept.sum()), chi2, kept,
    )  # fmt: skip


def _ratios(
    table: Table, from_reference: FluxReference, to_reference: FluxReference
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return positions, flux ratios and their errors."""
    small, large = f"flux_{from_reference.slug}", f"flux_{to_reference.slug}"
    for name in ("x", "y", small, large):
        if name not in table.colnames:
            raise MissingDataError(
                f"The table has no column {name!r}; measure both references with measure_sources."
            )

    def column(name: str) -> np.ndarray:
        return np.ma.filled(np.ma.asarray(table[name], np.float64), np.nan)

    x, y, f, t = column("x"), column("y"), column(small), column(large)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(f > 0, t / f, np.nan)
        error = np.zeros(x.shape)
        if f"{small}_err" in table.colnames and f"{large}_err" in table.colnames:
            ef, et = column(f"{small}_err"), column(f"{large}_err")
            if np.isfinite(ef).any() and np.isfinite(et).any():
                # var(t/f) with cov(t, f) = var(f): the smaller aperture lies inside the larger
                own = (et**2 + (ratio**2 - 2 * ratio) * ef**2) / f**2
                error = np.sqrt(np.maximum(own, 0.0))
    return x, y, ratio, error


def _fit(
    box: Box,
    x: np.ndarray,
    y: np.ndarray,
    ratio: np.ndarray,
    error: np.ndarray,
    kept: np.ndarray,
    order: int,
) -> tuple[ChebyshevField, np.ndarray, float]:
    """Fit the field and the intrinsic scatter that makes chi-square per degree of freedom 1."""
    xs, ys, rs, es = x[kept], y[kept], ratio[kept], error[kept]

    def fit(scatter: float) -> tuple[ChebyshevField, np.ndarray, float]:
        variance = es**2 + scatter**2
        weights = 1.0 / np.sqrt(variance) if (variance > 0).all() else None
        field, covariance = ChebyshevField.fit_with_covariance(
            box, xs, ys, rs, order=order, total=True, weights=weights
        )
        residual = rs - field(x=xs, y=ys, extrapolate=True)
        ndof = max(len(rs) - len(covariance), 1)
        if weights is None:
            return field, np.asarray(covariance), float(np.sqrt(residual @ residual / ndof))
        return field, np.asarray(covariance), float(np.sum((residual * weights) ** 2) / ndof)

    if not (es > 0).all():
        _, _, scatter = fit(0.0)
        field, covariance, _ = fit(max(scatter, 1e-15))
        return field, covariance, scatter
    field, covariance, reduced = fit(0.0)
    if reduced <= 1.0:
        return field, covariance, 0.0
    low, high = 0.0, float(np.std(rs)) * 2 + 1e-12
    for _ in range(60):
        middle = 0.5 * (low + high)
        if fit(middle)[2] > 1.0:
            low = middle
        else:
            high = middle
    field, covariance, _ = fit(high)
    return field, covariance, high
