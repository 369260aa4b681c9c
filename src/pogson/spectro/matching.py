"""Which model a star is: radial velocity and lines from the spectrum, dust from the colours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from pogson.errors import CalibrationError
from pogson.spectro._match_fit import (
    _C_KMS,
    _STEPS,
    _Local,
    _node_fits,
    _Problem,
    _refine,
    _velocity_scan,
    _weights_with_floor,
)
from pogson.spectro._shape_modes import StarShape
from pogson.spectro.containers import Photometry
from pogson.spectro.grid_photometry import GridPhotometry
from pogson.spectro.star_match import _PARAMETERS, MatchConfig, StarMatch, StarSpectrum

__all__ = ["MatchConfig", "StarMatch", "StarSpectrum", "cross_correlate_rv", "match_star"]

_SHAPES = [0, 1, 2, 4, 5]  # of the parameters: those that shape the model


def cross_correlate_rv(
    star: StarSpectrum, phot: GridPhotometry, config: MatchConfig | None = None
) -> tuple[float, float, bool]:
    """Radial velocity of a star by correlation with three models across the grid.

    Parameters
    ----------
    star : StarSpectrum
        The spectrum.
    phot : GridPhotometry
        The models.
    config : MatchConfig, optional
        Velocity range and continuum.

    Returns
    -------
    rv, rv_error : float
        km/s.
    at_edge : bool
        Whether the best velocity is the last one tried, so that it cannot be trusted.

    Notes
    -----
    The correlation is weighted with the inverse variances, masked pixels have no part in it, and
    at every velocity the model is multiplied by the smooth continuum that fits best: minus half the
    chi-square, rather than the product of two normalised spectra.

    Examples
    --------
    >>> x = np.log(4000.0) + 1e-4 * np.arange(3000)
    >>> line = 1 - 0.5 * np.exp(-0.5 * ((x - np.log(4500.0)) / 5e-4) ** 2)
    >>> from pogson.spectro import GridPhotometry, ModelGrid
    >>> phot = GridPhotometry(ModelGrid(x[0], 1e-4, line[None], [6000], [4.0], [0.0]), {})
    >>> lam = np.exp(x[100:-100:3])
    >>> seen = np.interp(lam / (1 + 100 / 299792.458), np.exp(x), line)
    >>> star = StarSpectrum(lam, seen, np.full(lam.size, 1e4), 0.0)
    >>> rv, error, at_edge = cross_correlate_rv(star, phot)
    >>> abs(rv - 100) < 5, at_edge
    (True, False)
    """
    return _velocity_scan(_Problem(star, phot, config or MatchConfig()))


def match_star(
    star: StarSpectrum,
    photometry: Photometry,
    phot: GridPhotometry,
    config: MatchConfig | None = None,
    *,
    response: np.ndarray | None = None,
    start: StarMatch | None = None,
) -> StarMatch:
    r"""Find the model of a star: velocity, Teff, log g, [Fe/H] and E(B-V), with their errors.

    Parameters
    ----------
    star : StarSpectrum
        Counts; zero and negative ones are used.
    photometry : Photometry
        AB magnitudes; ``meta["ebv"]`` and ``meta["ebv_error"]``, if there, are the prior of the
        reddening.
    phot : GridPhotometry
        The models and their photometry.
    config : MatchConfig, optional
        How.
    response : ndarray, shape (n,), optional
        What is known of the response, in any unit; structure finer than the continuum of the fit
        is then not taken for lines.
    start : StarMatch, optional
        An earlier match of the star, to be refined instead of searching the whole grid.

    Returns
    -------
    StarMatch

    Raises
    ------
    MissingDataError
        If no band can be used.
    MaskedDataError
        If too few pixels can.
    CalibrationError
        If the counts add to nothing.

    Notes
    -----
    The counts are compared with ``model * B(lambda) c``, B a cubic spline whose coefficients are
    solved for every model: data and model share one continuum, no pseudo-continuum is drawn, and
    dust, response and throughput have no say in the lines. Chi-square is minimised together with
    that of the bands over the six parameters (variable projection and Levenberg-Marquardt). The
    part of the residual beyond the noise is taken as the misfit of the models, in proportion to
    the flux and shared by the pixels of a resolution element, so that a spectrum of high S/N does
    not silence the colours.

    Examples
    --------
    See `pogson.spectro.calibrate_fibres`, which calls this for every star.

    >>> match_star.__module__
    'pogson.spectro.matching'
    """
    config = config or MatchConfig()
    if not np.sum(star.counts * np.sqrt(star.ivar)) > 0:
        raise CalibrationError(
            f"The spectrum of {star.name!r} has no light: its counts add to nothing or less. Look "
            f"at its fibre and at the sky subtraction."
        )
    problem = _Problem(star, phot, config, response)
    flux, error = phot.observed(photometry, config.photometric_floor)
    meta = photometry.meta
    prior = (
        float(meta.get("ebv", config.e_bv)),
        max(float(meta.get("ebv_error", config.e_bv_error)), 1e-4),
    )
    if start is None:
        p, model, found, second, at_edge = _search(problem, flux, error, prior)
        best, node = problem.fit(model), problem.grid.names[found]
    else:
        p = np.array([getattr(start, name) for name in _PARAMETERS] + [start.line_offset])
        rows, weights = problem.grid.weights(p[0] + p[6], p[1], p[2])
        node = start.nearest
        second, at_edge = start.runner_up_chi2, False
        best = problem.fit(weights @ problem.seen(rows, p[3]))
    root, misfit, clipped = _weights_with_floor(problem, best)
    local = _Local(problem, float(p[3]))
    p, covariance, residual, alone = _refine(local, p, root, flux, error, prior)
    if abs(p[3] - local.rv) > 0.5 * _STEPS[3]:
        local = _Local(problem, float(p[3]))
        p, covariance, residual, alone = _refine(local, p, root, flux, error, prior)
    result = _result(
        local, p, covariance, residual, flux, error, misfit, clipped, node, second, at_edge
    )
    bare = phot.observed(photometry, 0.0)[1]
    return replace(result, shape=_star_shape(local, p, alone, flux, bare / flux))


def _search(
    problem: _Problem, flux: np.ndarray, error: np.ndarray, prior: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, int, float, bool]:
    """First parameters from velocities and all nodes of the grid."""
    grid, phot = problem.grid, problem.phot
    rv, _, at_edge = _velocity_scan(problem)
    lines, colours, e_bv, inflate = _node_fits(problem, rv, flux, error, prior)
    best = int(np.argmin(lines / inflate + colours))
    start = np.array([grid.teff[best], grid.logg[best], grid.feh[best], rv, e_bv[best], 0.0, 0.0])
    use = np.isfinite(flux)
    bare = phot.fluxes(np.array([best]), np.ones(1), e_bv[best])
    start[5] = np.average(np.log(flux[use] / bare[use]), weights=(flux[use] / error[use]) ** 2)
    second = float(np.partition(lines, 1)[1]) if lines.size > 1 else float("nan")
    return start, problem.seen(np.array([best]), rv)[0], best, second, at_edge


def _result(
    local: _Local,
    p: np.ndarray,
    covariance: np.ndarray,
    residual: np.ndarray,
    flux: np.ndarray,
    error: np.ndarray,
    misfit: float,
    clipped: int,
    nearest: str,
    second: float,
    at_edge: bool,
) -> StarMatch:
    problem = local.problem
    grid, phot, star = problem.grid, problem.phot, problem.star

    sed = _sed(local, p[3])
    root = np.linalg.cholesky(covariance[np.ix_(_SHAPES, _SHAPES)] + 1e-18 * np.eye(5))
    model, modes = sed(p), root.T @ _derivative(sed, p, grid.limits[:, 1])
    rows, weights = grid.weights(*p[:3])
    at_lines = grid.weights(p[0] + p[6], p[1], p[2])
    synthetic = np.exp(p[5]) * phot.fluxes(rows, weights, p[4])
    use = np.isfinite(flux)
    left = -2.5 * np.log10(synthetic / flux)
    bands = {name: float(left[i]) for i, name in enumerate(phot.names) if use[i]}
    n_lines = star.counts.size
    lines = residual[:n_lines]
    band_chi2 = float(np.sum(residual[n_lines:-2] ** 2))
    seen = local.seen(*at_lines, p[3])
    dof = int(problem.n_pixels - clipped - (problem.n_intervals + 3) - 4)
    model_chi2 = float(
        np.sum((lines != 0) * problem.weight * (star.counts - problem.fit(seen)) ** 2)
    )
    teff, logg, feh, rv_kms, e_bv, log_scale, offset = (float(v) for v in p)
    return StarMatch(
        name=star.name,
        teff=teff,
        logg=logg,
        feh=feh,
        rv_kms=rv_kms,
        e_bv=e_bv,
        log_scale=log_scale,
        covariance=covariance[:6, :6],
        model=model,
        shape_modes=modes,
        chi2=model_chi2,
        ndof=dof,
        misfit=misfit,
        photometric_chi2=band_chi2,
        band_residuals=bands,
        flags=_flags(local, p, at_edge, band_chi2, int(use.sum())),
        n_clipped=clipped + int(np.sum(problem.spikes)),
        nearest=nearest,
        runner_up_chi2=second,
        fit=problem.fit(seen),
        line_offset=offset,
    )


def _sed(local: _Local, rv: float) -> Callable[[np.ndarray], np.ndarray]:
    """Flux density at the pixels as a function of the parameters."""
    problem = local.problem
    grid = problem.grid
    grid_x = grid.log_start + grid.log_step * np.arange(grid.flux.shape[1])
    at_rest = np.log(problem.star.wavelength) - np.arctanh(rv / _C_KMS)
    curve = np.interp(at_rest, grid_x, problem.phot.curve)

    def sed(q: np.ndarray) -> np.ndarray:
        seen = local.seen(*grid.weights(*q[:3]), q[3])
        return np.asarray(
            np.where(problem.reach, np.exp(q[5]) * seen * 10 ** (-0.4 * q[4] * curve), np.nan)
        )

    return sed


def _derivative(
    values: Callable[[np.ndarray], np.ndarray], p: np.ndarray, top: np.ndarray
) -> np.ndarray:
    """Derivative of ln(values) by the parameters that shape a model, one a row."""
    here = values(p)
    derivative = np.zeros((len(_SHAPES), here.size))
    for row, i in enumerate(_SHAPES):
        other, step = p.copy(), _STEPS[i]
        if i < 3 and p[i] + step > top[i]:
            step = -step
        other[i] += step
        with np.errstate(invalid="ignore", divide="ignore"):
            derivative[row] = np.nan_to_num(np.log(values(other) / here) / step)
    return derivative


def _star_shape(
    local: _Local,
    p: np.ndarray,
    alone: tuple[np.ndarray, np.ndarray],
    flux: np.ndarray,
    error: np.ndarray,
) -> StarShape:
    """What the lines alone say, and the photometry, for the joint solution."""
    phot, grid = local.problem.phot, local.problem.grid
    use = np.isfinite(flux)

    def bands(q: np.ndarray) -> np.ndarray:
        return np.asarray(np.exp(q[5]) * phot.fluxes(*grid.weights(*q[:3]), q[4])[use])

    top = grid.limits[:, 1]
    position, shares = phot.band_shares(*grid.weights(*p[:3]), p[4])
    step, covariance = alone
    return StarShape(
        step[_SHAPES],
        covariance[np.ix_(_SHAPES, _SHAPES)],
        _derivative(_sed(local, p[3]), p, top),
        np.log(flux[use] / bands(p)),
        error[use],
        _derivative(bands, p, top).T,
        tuple(n for n, u in zip(phot.names, use, strict=True) if u),
        position,
        shares[use],
    )


def _flags(
    local: _Local, p: np.ndarray, at_edge: bool, band_chi2: float, n_bands: int
) -> tuple[str, ...]:
    """What deserves a look about a match."""
    problem, flags = local.problem, []
    for i, name in enumerate(("teff", "logg", "feh")):
        low, high = problem.grid.limits[i]
        if high > low and not low + 1e-6 < p[i] < high - 1e-6:
            flags.append(f"{name} at the edge of the grid")
    if at_edge or abs(p[3]) > problem.config.rv_limit - 1e-6:
        flags.append("radial velocity at the edge")
    if band_chi2 > n_bands + 5 * np.sqrt(2 * n_bands) + 9:
        flags.append("colours do not fit")
    if problem.unresolved > 0.5:
        flags.append("models are broader than the data")
    return tuple(flags)
