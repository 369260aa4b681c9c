"""The linear algebra and the robust iteration behind `fit_zero_point`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pogson.calib.scatter import ScatterFit, fit_with_scatter
from pogson.calib.stars import Stars, StarStatus, count_status
from pogson.errors import CalibrationError, MaskedDataError, PogsonValueError
from pogson.fields import Box, ChebyshevField, ConstantField, Field
from pogson.units import NJY_AB_MAGNITUDE

__all__ = ["Model", "Solution", "solve_robust"]

_LN = 0.4 * np.log(10.0)
_POGSON = 1.0 / _LN
_MAX_ITERATIONS = 60


@dataclass(frozen=True)
class Model:
    """Parameters of the zero point and how they act on a star."""

    box: Box
    order: int
    fit_color: bool
    pivot: float
    names: tuple[str, ...]
    basis: ChebyshevField
    prior_precision: np.ndarray
    prior_center: np.ndarray
    prior_names: tuple[str, ...]

    @classmethod
    def make(
        cls,
        box: Box,
        order: int,
        fit_color: bool,
        pivot: float,
        prior: Mapping[str, tuple[float, float]] | None,
    ) -> Model:
        """Return the model with named parameters and priors."""
        basis = ChebyshevField(box, np.zeros((order + 1, order + 1)), total=True)
        names = [
            "zero_point" if (j, i) == (0, 0) else f"zero_point_x{i}_y{j}"
            for j, i in basis.free_coefficients
        ]
        if fit_color:
            names.append("color_slope")
        precision, center = np.zeros(len(names)), np.zeros(len(names))
        for name, given in (prior or {}).items():
            if name not in names:
                raise PogsonValueError(f"Prior on unknown parameter {name!r}; there are {names}.")
            value, error = (float(v) for v in given)
            if not (np.isfinite(value) and error > 0):
                raise PogsonValueError(
                    f"The prior on {name!r} must be (value, positive error), not {given!r}."
                )
            precision[names.index(name)] = error**-2
            center[names.index(name)] = value
        return cls(
            box, order, fit_color, pivot, tuple(names), basis, precision, center, tuple(prior or {})
        )

    def design(self, stars: Stars) -> np.ndarray:
        """Return d(effective zero point)/d(parameters), shape (n, p)."""
        if self.order == 0:
            columns = [np.ones((len(stars), 1))]
        else:
            columns = [self.basis.basis(x=stars.x, y=stars.y)]
        if self.fit_color:
            columns.append(-(stars.color - self.pivot)[:, None])
        return np.hstack(columns)

    def zero_point_field(self, parameters: np.ndarray) -> ChebyshevField:
        """Return the zero point in magnitudes over the box."""
        c = np.zeros((self.order + 1, self.order + 1))
        for (j, i), value in zip(self.basis.free_coefficients, parameters, strict=False):
            c[j, i] = value
        return ChebyshevField(self.box, c, total=True)

    def terms(self) -> list[Field | None]:
        """Return d ln C / d parameter as fields."""
        out: list[Field | None] = []
        for j, i in self.basis.free_coefficients:
            if self.order == 0:
                out.append(ConstantField(self.box, -_LN))
                continue
            c = np.zeros((j + 1, i + 1))
            c[j, i] = -_LN
            out.append(ChebyshevField(self.box, c))
        return out + [None] * self.fit_color


@dataclass(frozen=True, eq=False)
class Solution:
    """What `solve_robust` found; arrays over all stars."""

    parameters: np.ndarray
    scatter: ScatterFit
    used: np.ndarray
    status: np.ndarray
    residuals: np.ndarray
    errors: np.ndarray
    pulls: np.ndarray
    chi2: float
    chi2_known: float


@dataclass(frozen=True, eq=False)
class _Linear:
    """The problem linearised at some parameters, in magnitudes."""

    y: np.ndarray  # parameter-like residual: what the effective zero point should change by
    known: np.ndarray  # its known variance
    design: np.ndarray  # with the colours' best estimates


def _linearise(model: Model, a: np.ndarray, stars: Stars, p: np.ndarray, s: float) -> _Linear:
    """Return residuals, variances and design; see the notes of `fit_zero_point`."""
    scale = 10.0 ** (-0.4 * (a @ p - NJY_AB_MAGNITUDE))
    g, g_var = scale * stars.inst, (scale * stars.inst_err) ** 2
    f, f_var = stars.ref, stars.ref_err**2
    total = g_var + f_var
    truth = np.where(total > 0, (g * f_var + f * g_var) / np.where(total > 0, total, 1.0), f)
    for _ in range(3):  # the intrinsic scatter is relative to the true flux itself
        half = 0.5 * (s * _LN * truth) ** 2
        total = g_var + f_var + 2 * half
        truth = (g * (f_var + half) + f * (g_var + half)) / total
    # far below S/N 5, which min_snr excludes by default, the estimate may reach zero
    truth = np.where(truth > 0.1 * f, truth, 0.1 * f)
    y = _POGSON * (g - f) / truth
    known = _POGSON**2 * (g_var + f_var) / truth**2
    if not model.fit_color:
        return _Linear(y, known, a)
    slope = p[-1]
    known = known + (slope * stars.color_err) ** 2
    # best estimate of the true colour, independent of the residual: the design must not
    # contain the colour noise that the residual contains, slope * (colour - true colour)
    best = stars.color - slope * stars.color_err**2 * y / (known + s * s)
    design = a.copy()
    design[:, -1] = -(best - model.pivot)
    return _Linear(y, known, design)


def _fit(
    model: Model,
    stars: Stars,
    start: np.ndarray,
    fixed: float | None,
    scatter_prior: float,
) -> tuple[np.ndarray, ScatterFit]:
    """Iterate the linear fit to convergence on given stars."""
    a = model.design(stars)
    p, s = start, 0.0 if fixed is None else fixed

    def fit_once(n_grid: int) -> ScatterFit:
        linear = _linearise(model, a, stars, p, s)
        return fit_with_scatter(
            linear.design,
            linear.y,
            linear.known,
            prior_scale=scatter_prior,
            prior_precision=model.prior_precision,
            prior_offset=model.prior_center - p,
            fixed=fixed,
            n_grid=n_grid,
        )

    for _ in range(_MAX_ITERATIONS):
        fit = fit_once(0)  # at the mode of the scatter only
        p = p + fit.parameters
        done = np.max(np.abs(fit.parameters)) < 1e-9 and abs(fit.scatter - s) < 1e-6
        s = fit.scatter
        if done:
            break
    fit = fit_once(61)
    if not np.isfinite(p + fit.parameters).all():
        raise CalibrationError("The zero-point fit diverged; check the fluxes and their errors.")
    # the parameters above are changes; what is kept is absolute
    fit = replace(fit, parameters=p + fit.parameters, grid_parameters=p + fit.grid_parameters)
    return fit.parameters, fit


def _least_absolute(model: Model, stars: Stars) -> np.ndarray:
    """Return parameters of least absolute residuals, by reweighting; bright stars count more."""
    good = stars.inst > 0
    if good.sum() < len(model.names):
        raise CalibrationError(
            f"Only {int(good.sum())} of {len(stars)} usable stars have a positive measured flux; "
            f"{len(model.names)} parameters cannot be fitted. Check sign and background."
        )
    chosen = stars.select(good)
    a = model.design(chosen)
    y = NJY_AB_MAGNITUDE - 2.5 * np.log10(chosen.ref / chosen.inst)
    error = _POGSON * np.hypot(chosen.inst_err / chosen.inst, chosen.ref_err / chosen.ref)
    weight = 1.0 / np.hypot(error, 0.02)
    p = np.zeros(a.shape[1])
    p[0] = _weighted_median(y, weight)
    for _ in range(30):
        r = (y - a @ p) * weight
        w = weight**2 / np.maximum(np.abs(r), 0.03)
        lhs = a.T @ (w[:, None] * a) + np.diag(model.prior_precision)
        # a little ridge keeps a start that the stars do not determine finite
        lhs += 1e-9 * np.trace(lhs) * np.eye(len(p))
        new = np.linalg.solve(lhs, a.T @ (w * y) + model.prior_precision * model.prior_center)
        change, p = np.max(np.abs(new - p)), new
        if change < 1e-5:
            break
    return p


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    cumulative = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(cumulative, 0.5 * cumulative[-1])])


def _check_determined(model: Model, stars: Stars) -> None:
    n, p = len(stars), len(model.names)
    free = p - len(model.prior_names)
    if n < max(free, 1):
        raise CalibrationError(
            f"{n} usable stars cannot determine {p} parameters "
            f"({', '.join(model.names)}). Lower the order, fix the colour term, or give priors."
        )
    a = model.design(stars)
    with_prior = np.vstack([a, np.diag(np.sqrt(model.prior_precision))])
    scale = np.maximum(np.linalg.norm(with_prior, axis=0), 1e-300)
    if np.linalg.matrix_rank(with_prior / scale, tol=1e-7) < p:
        raise CalibrationError(
            f"The {n} usable stars do not determine the {p} parameters ({', '.join(model.names)}): "
            "their positions or colours are too much alike. Lower the order or fix the colour term."
        )


def solve_robust(
    model: Model,
    stars: Stars,
    *,
    min_snr: float,
    clip: float | None,
    fixed_scatter: float | None,
    scatter_prior: float,
) -> Solution:
    """Fit, with outliers and low S/N found on the way; see `fit_zero_point`."""
    status = stars.status.copy()
    usable = np.flatnonzero(status == StarStatus.USED)
    _require_stars(status, stars, usable)
    _check_determined(model, stars.select(usable))
    p = _least_absolute(model, stars.select(usable))
    # S/N expected from the reference flux: a cut on it does not select on the noise
    scale = 10.0 ** (-0.4 * (model.design(stars.select(usable)) @ p - NJY_AB_MAGNITUDE))
    expected = stars.ref[usable] / (scale * stars.inst_err[usable])
    low = (expected < min_snr) | (stars.ref[usable] < min_snr * stars.ref_err[usable])
    status[usable[low]] = StarStatus.LOW_SNR
    usable = usable[~low]
    _require_stars(status, stars, usable)
    chosen = stars.select(usable)
    _check_determined(model, chosen)
    kept, p, fit = _clip_loop(model, chosen, p, clip, fixed_scatter, scatter_prior)
    status[usable[~kept]] = StarStatus.OUTLIER
    return _finish(model, stars, status, p, fit)


def _require_stars(status: np.ndarray, stars: Stars, usable: np.ndarray) -> None:
    if usable.size == 0:
        reasons = ", ".join(f"{n} {name}" for name, n in count_status(status).items())
        raise MaskedDataError(f"None of the {len(stars)} stars can be used: {reasons}.")


def _core(model: Model, stars: Stars, p: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the stars to start from and a robust scatter."""
    linear = _linearise(model, model.design(stars), stars, p, 0.0)
    width = 1.4826 * float(np.median(np.abs(linear.y)))
    s = float(np.sqrt(max(width**2 - np.median(linear.known), 0.0)))
    distance = np.abs(linear.y) / np.sqrt(linear.known + s * s + 1e-12)
    least = max(len(model.names) + 2, (len(stars) + 1) // 2)
    limit = max(3.0, float(np.sort(distance)[min(least, len(stars)) - 1]))
    return distance <= limit, s


def _clip_loop(
    model: Model,
    stars: Stars,
    p: np.ndarray,
    clip: float | None,
    fixed: float | None,
    scatter_prior: float,
) -> tuple[np.ndarray, np.ndarray, ScatterFit]:
    """Alternate between fitting the stars kept and judging all of them."""
    if clip is None:
        p, fit = _fit(model, stars, p, fixed, scatter_prior)
        return np.ones(len(stars), bool), p, fit
    kept, _ = _core(model, stars, p)
    if not _determined(model, stars.select(kept)):
        kept = np.ones(len(stars), bool)
    seen: set[bytes] = set()
    while True:
        seen.add(kept.tobytes())
        p, fit = _fit(model, stars.select(kept), p, fixed, scatter_prior)
        y, error, _ = _judge(model, stars, p, fit, kept, _mean_square_scatter(fit))
        dof = int(kept.sum()) - len(model.names) + len(model.prior_names)
        new = np.abs(y) <= _threshold(clip, fixed, dof, fit, error) * error
        if not _determined(model, stars.select(new)):
            return kept, p, fit
        if new.tobytes() in seen:
            if not np.array_equal(new, kept):  # a cycle: keep only what every turn keeps
                kept = kept & new
                p, fit = _fit(model, stars.select(kept), p, fixed, scatter_prior)
            return kept, p, fit
        kept = new


def _determined(model: Model, stars: Stars) -> bool:
    try:
        _check_determined(model, stars)
    except CalibrationError:
        return False
    return True


def _threshold(
    clip: float, fixed: float | None, dof: int, fit: ScatterFit, error: np.ndarray
) -> np.ndarray:
    """Return the clipping threshold of each star in its own standard errors.

    The variance of a star is partly known and partly (the scatter) estimated with few degrees of
    freedom; Satterthwaite's effective number gives the fitting Student's t.
    """
    from scipy.stats import norm
    from scipy.stats import t as student

    if fixed is not None:
        return np.full(error.shape, clip)
    share = np.clip(_mean_square_scatter(fit) / error**2, 1e-6, 1.0)
    effective = np.minimum(max(dof, 1) / share**2, 1e6)
    return np.asarray(student.isf(norm.sf(clip), effective))


def _mean_square_scatter(fit: ScatterFit) -> float:
    """Return the posterior mean of the squared scatter: large while few stars set it."""
    return float(fit.weights @ fit.grid**2)


def _judge(
    model: Model,
    stars: Stars,
    p: np.ndarray,
    fit: ScatterFit,
    kept: np.ndarray,
    scatter_squared: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return residuals, their predicted errors (scatter and fit included) and variances."""
    linear = _linearise(model, model.design(stars), stars, p, fit.scatter)
    variance = linear.known + scatter_squared
    spread = np.einsum("ni,ij,nj->n", linear.design, fit.covariance, linear.design)
    # a star in the fit pulls it along (its residual is smaller), one outside does not
    inside = np.maximum(variance - spread, 0.05 * variance)
    return linear.y, np.sqrt(np.where(kept, inside, variance + spread)), variance


def _finish(
    model: Model, stars: Stars, status: np.ndarray, p: np.ndarray, fit: ScatterFit
) -> Solution:
    """Return residuals, errors and pulls of every star that has them."""
    used = status == StarStatus.USED
    with np.errstate(invalid="ignore"):
        known = (
            np.isfinite(stars.inst)
            & (stars.inst_err > 0)
            & np.isfinite(stars.inst_err)
            & (stars.ref > 0)
            & np.isfinite(stars.ref)
            & (stars.ref_err >= 0)
            & np.isfinite(stars.ref_err)
        )
    if model.order:
        known &= np.isin(status, (StarStatus.OUTSIDE_BOX,), invert=True)
        known &= np.isfinite(stars.x) & np.isfinite(stars.y)
    if model.fit_color:
        known &= np.isfinite(stars.color) & np.isfinite(stars.color_err)
    out: dict[str, Any] = {
        name: np.full(len(stars), np.nan) for name in ("residuals", "errors", "pulls")
    }
    y, error, variance = _judge(model, stars.select(known), p, fit, used[known], fit.scatter**2)
    # y is what the zero point should grow by: positive when the calibrated flux is too bright
    out["residuals"][known] = -y
    out["errors"][known] = np.sqrt(variance)
    out["pulls"][known] = -y / error
    inside = used[known]
    chi2 = float(np.sum(y[inside] ** 2 / variance[inside]))
    chi2_known = float(np.sum(y[inside] ** 2 / (variance[inside] - fit.scatter**2)))
    return Solution(p, fit, used, status, **out, chi2=chi2, chi2_known=chi2_known)
