"""The steps of matching a star: velocity scan, nodes, weights, Levenberg-Marquardt."""

from __future__ import annotations

import numpy as np

from pogson.errors import MaskedDataError
from pogson.spectro.grid_photometry import GridPhotometry
from pogson.spectro.star_match import MatchConfig, StarSpectrum

_C_KMS = 299792.458
_STEPS = np.array([40.0, 0.1, 0.1, 8.0, 0.01, 0.01, 40.0])


class _Problem:
    """One star against one grid: everything that the steps of the fit share."""

    def __init__(
        self,
        star: StarSpectrum,
        phot: GridPhotometry,
        config: MatchConfig,
        response: np.ndarray | None = None,
    ) -> None:
        from pogson.spectro import _match_kernels as kernels

        self.k, self.star, self.phot, self.grid = kernels, star, phot, phot.grid
        self.config = config
        self.latest: tuple[float, np.ndarray, np.ndarray] | None = None
        self.response = None
        if response is not None:
            level = np.nanmedian(response)
            known = np.isfinite(response) & (response > 0)
            self.response = np.where(known, response / level, 1.0)
        x = np.log(star.wavelength)
        self.n_intervals = max(int(np.ceil((x[-1] - x[0]) / config.continuum_spacing)), 1)
        self.index, self.value = kernels.uniform_spline(x, x[0], x[-1], self.n_intervals)
        grid_x = self.grid.log_start + self.grid.log_step * np.arange(self.grid.flux.shape[1])
        native = np.interp(x, grid_x, self.grid.native_sigma) * star.wavelength
        self.sigma = np.sqrt(np.maximum(star.lsf_sigma**2 - native**2, 0.0))
        self.unresolved = float(np.mean(star.lsf_sigma < 0.93 * native))
        # judged at the largest shifts, so that the set of pixels never changes
        self.start, weights = self.operator(0.0)
        shift = int(np.ceil(config.rv_limit / _C_KMS / self.grid.log_step)) + 2
        last = self.grid.flux.shape[1] - weights.shape[1]
        self.reach = np.isfinite(weights[:, 0])
        self.reach &= (self.start >= shift) & (self.start <= last - shift)
        self.weights = np.where(self.reach[:, None], weights, 0.0)
        self.spikes = _spikes(star)
        self.weight = np.where(self.reach & ~self.spikes, star.ivar, 0.0)
        self.n_pixels = int(np.sum(self.weight > 0))
        if self.n_pixels < 50:
            lam, own = self.grid.wavelength, star.wavelength
            raise MaskedDataError(
                f"Only {self.n_pixels} usable pixels of {star.name!r} ({own[0]:.0f}-{own[-1]:.0f} "
                f"Angstrom) lie within the models' {lam[0]:.0f}-{lam[-1]:.0f}; at least 50 are "
                f"needed."
            )

    def operator(self, rv: float) -> tuple[np.ndarray, np.ndarray]:
        """First samples and weights of all pixels; NaN where the models do not reach."""
        doppler = np.sqrt((1 + rv / _C_KMS) / (1 - rv / _C_KMS))
        g = self.grid
        return self.k.observation_operator(
            g.log_start,
            g.log_step,
            g.flux.shape[1],
            doppler,
            self.star.low,
            self.star.high,
            self.sigma,
        )

    def seen(self, rows: np.ndarray, rv: float) -> np.ndarray:
        """Models of the grid at the pixels, (n_row, n_pixel); 0 where they do not reach."""
        if self.latest is None or self.latest[0] != rv:
            start, weights = self.operator(rv)
            self.latest = (rv, start, np.where(self.reach[:, None], weights, 0.0))
        return self.k.observe(self.grid.flux, rows, *self.latest[1:])

    def shifted(self, flux: np.ndarray, samples: int) -> np.ndarray:
        """Models moved by whole samples of their grid towards the red."""
        start = np.clip(self.start - samples, 0, flux.shape[1] - self.weights.shape[1])
        return self.k.observe(flux, np.arange(flux.shape[0]), start, self.weights)

    def chi2(self, models: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
        w = self.weight if weight is None else weight
        if self.response is not None:
            models = models * self.response
        huber = 1.5 if self.config.metric == "huber" else 0.0
        return self.k.profiled_chi2(
            self.star.counts, w, models, self.index, self.value, self.n_intervals + 3, huber
        )

    def fit(self, model: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
        w = self.weight if weight is None else weight
        if self.response is not None:
            model = model * self.response
        return self.k.profiled_fit(
            self.star.counts, w, model, self.index, self.value, self.n_intervals + 3
        )


def _spikes(star: StarSpectrum) -> np.ndarray:
    """Pixels far above their neighbours, as cosmic rays leave: stars have no such lines."""
    from scipy.ndimage import median_filter

    level = median_filter(star.counts, 9, mode="nearest")
    excess = star.counts - level
    return np.asarray((excess * np.sqrt(star.ivar) > 6.0) & (excess > 0.5 * np.abs(level)))


def _velocity_scan(problem: _Problem) -> tuple[float, float, bool]:
    """Velocity that correlates best with a few models, its error, and if it is at the edge."""
    grid, config = problem.grid, problem.config
    models = grid.representatives
    pixel = float(np.median(np.diff(np.log(problem.star.wavelength)))) * _C_KMS
    width = float(np.median(problem.star.lsf_sigma / problem.star.wavelength)) * _C_KMS
    step = max(0.7 * max(width, pixel), config.rv_limit / 60)
    stride = max(int(step / _C_KMS / grid.log_step), 1)
    half = int(config.rv_limit / _C_KMS / (stride * grid.log_step))
    samples = stride * np.arange(-half, half + 1)
    doppler = np.exp(2 * samples * grid.log_step)
    velocity = _C_KMS * (doppler - 1) / (doppler + 1)
    chi2 = np.array([problem.chi2(problem.shifted(models, int(n))) for n in samples])
    i, j = (int(k) for k in np.unravel_index(np.argmin(chi2), chi2.shape))
    if i in (0, velocity.size - 1):
        return float(velocity[i]), float(step), True
    a, b, c = chi2[i - 1 : i + 2, j]
    bend = max(a - 2 * b + c, 1e-300)
    h = velocity[1] - velocity[0]
    reduced = max(b / max(problem.n_pixels, 1), 1.0)
    return (
        float(velocity[i] + 0.5 * h * (a - c) / bend),
        float(h * np.sqrt(2 * reduced / bend)),
        False,
    )


def _node_fits(
    problem: _Problem,
    rv: float,
    flux: np.ndarray,
    error: np.ndarray,
    prior: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Chi-square of lines and of colours and E(B-V) at nodes, and what to divide the first by.

    Of a fine grid every few nodes are tried, and then all around the two best; the lines of the
    others stay at infinity.
    """
    grid = problem.grid
    colours, e_bv = _node_colours(problem.phot, flux, error, prior)
    lines = np.full(colours.size, np.inf)
    rows = grid.coarse
    lines[rows] = problem.chi2(problem.seen(rows, rv))
    dof = max(problem.n_pixels - problem.n_intervals - 3 - 4, 1)
    inflate = max(float(lines.min()) / dof, 1.0) * 2.5
    if rows.size < lines.size:
        best = np.argsort(lines / inflate + colours)[:2]
        rows = np.unique(np.concatenate([grid.around(int(b)) for b in best]))
        rows = rows[np.isinf(lines[rows])]
        lines[rows] = problem.chi2(problem.seen(rows, rv))
        inflate = max(float(lines.min()) / dof, 1.0) * 2.5
    return lines, colours, e_bv, inflate


def _node_colours(
    phot: GridPhotometry, flux: np.ndarray, error: np.ndarray, prior: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Smallest chi-square of the colours over E(B-V), and that E(B-V), at every node."""
    use = np.isfinite(flux)
    sigma = error[use] / flux[use]
    trial = np.linspace(0.0, max(0.3, prior[0] + 3 * prior[1]), 25)
    clear = phot._log_flux[:, use]
    slope, bend = phot._slopes[:, :, use]
    t = trial[:, None, None]
    gap = np.log(flux[use]) - (clear + t * (slope + t * bend))  # (trial, model, band)
    w = 1 / sigma**2
    mean = (gap @ w) / w.sum()
    colours = ((gap - mean[..., None]) ** 2) @ w + ((trial - prior[0]) / prior[1])[:, None] ** 2
    best = np.argmin(colours, axis=0)
    return colours[best, np.arange(clear.shape[0])], trial[best]


class _Local:
    """Nodes at the pixels of a star near one velocity, linear in the velocity; made when asked."""

    def __init__(self, problem: _Problem, rv: float) -> None:
        self.problem, self.rv = problem, rv
        shape = (problem.grid.flux.shape[0], problem.star.counts.size)
        self.models, self.slope = np.empty(shape), np.empty(shape)
        self.known = np.zeros(shape[0], bool)
        self.operators = [
            (start, np.where(problem.reach[:, None], weights, 0.0))
            for start, weights in (problem.operator(v) for v in (rv, rv + _STEPS[3]))
        ]

    def _make(self, rows: np.ndarray) -> None:
        problem = self.problem
        here, there = (problem.k.observe(problem.grid.flux, rows, *o) for o in self.operators)
        self.models[rows], self.slope[rows] = here, (there - here) / _STEPS[3]
        self.known[rows] = True

    def seen(self, rows: np.ndarray, weights: np.ndarray, rv: float) -> np.ndarray:
        missing = rows[~self.known[rows]]
        if missing.size:
            self._make(missing)
        return np.asarray(
            self.problem.k.combine(self.models, self.slope, rows, weights, float(rv - self.rv))
        )


def _residuals(
    local: _Local,
    p: np.ndarray,
    root: np.ndarray,
    flux: np.ndarray,
    error: np.ndarray,
    prior: tuple[float, float],
) -> np.ndarray:
    problem = local.problem
    rows, weights = problem.grid.weights(p[0] + p[6], p[1], p[2])
    fit = problem.fit(local.seen(rows, weights, p[3]), root**2)
    lines = (problem.star.counts - fit) * root
    rows, weights = problem.grid.weights(*p[:3])
    use = np.isfinite(flux)
    model = np.exp(p[5]) * problem.phot.fluxes(rows, weights, p[4])
    bands = ((flux - model) / error)[use]
    priors = [(p[4] - prior[0]) / prior[1], p[6] / problem.config.line_teff_error]
    return np.concatenate([lines, bands, priors])


def _refine(
    local: _Local,
    start: np.ndarray,
    root: np.ndarray,
    flux: np.ndarray,
    error: np.ndarray,
    prior: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Levenberg-Marquardt within the grid, projected onto its bounds.

    Parameters, their covariance, residuals; and the step and covariance of lines and priors alone.
    """
    problem = local.problem
    low = np.array([*problem.grid.limits[:, 0], -problem.config.rv_limit, 0.0, -np.inf, -1e3])
    high = np.array([*problem.grid.limits[:, 1], problem.config.rv_limit, 3.0, np.inf, 1e3])
    free = high - low > 1e-9
    p = np.clip(start, low, high)

    def residuals(q: np.ndarray, err: np.ndarray) -> np.ndarray:
        return _residuals(local, q, root, flux, err, prior)

    def jacobian(q: np.ndarray, r0: np.ndarray, err: np.ndarray) -> np.ndarray:
        columns = np.zeros((r0.size, 7))
        for i in np.flatnonzero(free):
            step = _STEPS[i] if q[i] + _STEPS[i] <= high[i] else -_STEPS[i]
            other = q.copy()
            other[i] += step
            columns[:, i] = (residuals(other, err) - r0) / step
        return columns

    damping = 1e-3
    r = residuals(p, error)
    cost = float(r @ r)
    for _ in range(12):
        jac = jacobian(p, r, error)
        gradient = jac.T @ r
        # one that pushes against its bound stays there, lest the others step as if it moved
        held = ((p <= low) & (gradient > 0)) | ((p >= high) & (gradient < 0))
        active = np.flatnonzero(free & ~held)
        jac, gradient = jac[:, active], gradient[active]
        normal = jac.T @ jac
        for _ in range(6):
            scaled = normal + damping * np.diag(np.diag(normal) + 1e-12)
            q = p.copy()
            q[active] -= np.linalg.solve(scaled, gradient)
            q = np.clip(q, low, high)
            r_new = residuals(q, error)
            change = cost - float(r_new @ r_new)
            if change > 0:
                break
            damping *= 8
        if change <= 0:
            break
        p, r, cost, damping = q, r_new, cost - change, max(damping / 8, 1e-7)
        if change < 1e-2:
            break
    r = residuals(p, error)
    jac = jacobian(p, r, error)
    normal = jac.T @ jac
    # a label that nothing constrains is uncertain by the extent of the grid
    extent = np.array(
        [*(problem.grid.limits[:, 1] - problem.grid.limits[:, 0]), 600.0, 3.0, 10.0, 1e3]
    )
    bounds = np.diag(1.0 / np.maximum(extent, 1e-3) ** 2)
    n_lines = problem.star.counts.size
    others = np.r_[0:n_lines, r.size - 2 : r.size]  # all but the bands
    alone = np.linalg.inv(jac[others].T @ jac[others] + bounds)
    step = -alone @ (jac[others].T @ r[others])
    return p, np.linalg.inv(normal + bounds), r, (step, alone)


def _weights_with_floor(problem: _Problem, fit: np.ndarray) -> tuple[np.ndarray, float, int]:
    """Square roots of weights, with the misfit of models as noise that neighbours share."""
    counts, clip = problem.star.counts, problem.config.clip
    w = problem.weight.copy()
    used = w > 0
    variance = np.where(used, 1.0 / np.where(used, w, 1.0), np.inf)
    residual2 = (counts - fit) ** 2
    misfit = 0.0
    keep = used.copy()
    dof = problem.n_intervals + 3 + 4
    for _ in range(4):
        total = variance + (misfit * fit) ** 2
        keep = used & (residual2 < clip**2 * total * (1.0 if misfit else 4.0))
        n = max(int(keep.sum()) - dof, 1)
        excess = np.sum(residual2[keep] - variance[keep] * n / max(keep.sum(), 1))
        misfit = float(np.sqrt(max(excess / np.sum(fit[keep] ** 2), 0.0)))
        # weighted update: solve chi2(misfit) = n by a few secant steps in misfit^2
        low, high = 0.0, max(4 * misfit, 0.5)
        for _ in range(25):
            mid = 0.5 * (low + high)
            value = np.sum(residual2[keep] / (variance[keep] + (mid * fit[keep]) ** 2))
            low, high = (mid, high) if value > n else (low, mid)
        misfit = 0.5 * (low + high) if low > 0 else 0.0
    floor = max(misfit, problem.config.model_floor)
    step = np.gradient(problem.star.wavelength)
    shared = np.maximum(2.5 * problem.star.lsf_sigma / step, 1.0)
    w_out = np.where(keep, 1.0 / (variance + shared * (floor * fit) ** 2), 0.0)
    return np.sqrt(w_out), misfit, int(np.sum(used & ~keep))
