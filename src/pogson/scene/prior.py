r"""The Gaussian prior of the scene, its amplitude and smoothness chosen by marginal likelihood."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import LinAlgError, cholesky, lapack, solve_triangular

from pogson.errors import CalibrationError, PogsonValueError
from pogson.scene.solve import between

__all__ = ["PriorChoice", "ScenePrior", "choose_prior", "correlation"]

_TRIED = (0.0, 1.0, 2.5)
_GRID = 61
_LOCAL_STEPS = 4
_SAFETY = 2.0
_NOTHING = 1e-4


@dataclass(frozen=True, slots=True)
class ScenePrior:
    r"""Zero-mean Gaussian prior of the fluxes of the grid points.

    Parameters
    ----------
    amplitude : float or "auto", optional
        Standard deviation of a grid flux in the common unit; "auto" maximises the marginal
        likelihood.
    smoothness_arcsec : float or "auto", optional
        Correlation length of neighbouring fluxes; 0 for independent ones. "auto" takes the best of
        0, 1 and 2.5 grid spacings.
    local : bool, optional
        With an automatic amplitude: let it follow the scene (see Notes). A galaxy fills a small
        part of a stamp; one amplitude for all of it would hold the galaxy down, and light missing
        from the scene below a source ends in the source: over Sersic galaxies half a sigma.

    Raises
    ------
    PogsonValueError
        If a number is not positive (smoothness: 0 or more).

    Notes
    -----
    Covariance :math:`\alpha_k \alpha_l (1 + \sqrt3 r/\ell) e^{-\sqrt3 r/\ell}` (Matern 3/2). One
    :math:`\alpha` maximises the marginal likelihood. With ``local``, four steps of expectation
    maximisation follow, in which :math:`\alpha_k^2` becomes the mean of
    :math:`\langle b_l^2 \rangle` over points within about a spacing of k (MacKay's automatic
    relevance determination, pooled), and twice the result is used: the price in the error is below
    1 %, and what shrinkage is left does not show in the fluxes.

    Examples
    --------
    >>> ScenePrior(amplitude=50.0, smoothness_arcsec=0.5)
    ScenePrior(amplitude=50.0, smoothness_arcsec=0.5, local=True)
    """

    amplitude: float | str = "auto"
    smoothness_arcsec: float | str = "auto"
    local: bool = True

    def __post_init__(self) -> None:
        for name, low in (("amplitude", 0.0), ("smoothness_arcsec", -1.0)):
            value = getattr(self, name)
            if isinstance(value, str):
                if value != "auto":
                    raise PogsonValueError(f"Prior {name}={value!r} must be a number or 'auto'.")
            elif not (np.isfinite(value) and value > low and value >= 0):
                raise PogsonValueError(
                    f"Prior {name}={value!r} must be positive (smoothness: 0 or more)."
                )


@dataclass(frozen=True, eq=False)
class PriorChoice:
    """A prior with numbers.

    Attributes
    ----------
    amplitude, smoothness_arcsec : float
        As in `ScenePrior`; the amplitude is the one for all points.
    log_evidence : float
        Log marginal likelihood of the exposures at the choice, scene, sky and source fluxes
        integrated out (flat priors of the latter two: up to a constant).
    factor : numpy.ndarray, shape (n_points, n_points)
        Lower triangular root of the covariance.
    """

    amplitude: float
    smoothness_arcsec: float
    log_evidence: float
    factor: np.ndarray


def correlation(xi: np.ndarray, eta: np.ndarray, length: float) -> np.ndarray:
    """Return the Matern-3/2 correlation of points, shape (n, n); the identity for length 0.

    Parameters
    ----------
    xi, eta : numpy.ndarray, shape (n,)
        Positions.
    length : float
        Correlation length, in the unit of the positions.

    Examples
    --------
    >>> correlation(np.array([0.0, 1.0]), np.zeros(2), 1.0).round(3)
    array([[1.   , 0.483],
           [0.483, 1.   ]])
    """
    if length <= 0:
        return np.eye(xi.size)
    r = np.sqrt((xi[:, None] - xi) ** 2 + (eta[:, None] - eta) ** 2) * (np.sqrt(3.0) / length)
    result: np.ndarray = (1.0 + r) * np.exp(-r)
    return result


def choose_prior(
    prior: ScenePrior,
    normal: np.ndarray,
    rhs: np.ndarray,
    constant: float,
    points: tuple[np.ndarray, np.ndarray],
    spacing: float,
) -> PriorChoice:
    r"""Return the prior of largest marginal likelihood.

    Parameters
    ----------
    prior : ScenePrior
        What is given and what is free.
    normal, rhs : numpy.ndarray, shape (n, n) and (n,)
        Normal matrix N and right-hand side h of the scene, everything with a flat prior projected
        out.
    constant : float
        Squared norm of the projected data.
    points : tuple of numpy.ndarray
        Positions (xi, eta) of the grid points in arcsec.
    spacing : float
        Grid spacing in arcsec.

    Notes
    -----
    With covariance :math:`\alpha^2 LL^T`, :math:`M = L^T N L` and :math:`q = L^T h`,
    :math:`-2\ln Z = c - \alpha^2 q^T(1 + \alpha^2 M)^{-1}q + \ln\det(1 + \alpha^2 M)` (MacKay 1992,
    Neural Comput. 4, 415).

    Raises
    ------
    CalibrationError
        If the correlation of the points cannot be factored.
    """
    if isinstance(prior.smoothness_arcsec, str):
        lengths = [t * spacing for t in _TRIED]
    else:
        lengths = [float(prior.smoothness_arcsec)]
    best: PriorChoice | None = None
    for length in lengths:
        factor, inner, right = np.eye(rhs.size), normal, rhs
        if length > 0:
            try:
                factor = cholesky(
                    correlation(*points, length) + 1e-9 * np.eye(rhs.size),
                    lower=True, check_finite=False,
                )  # fmt: skip
            except LinAlgError:
                raise CalibrationError(
                    f"A scene prior of smoothness {length:.3g} arcsec on a grid of spacing "
                    f"{spacing:.3g} arcsec is singular; take a shorter smoothness."
                ) from None
            inner, right = between(normal, factor), factor.T @ rhs
        if isinstance(prior.amplitude, str):
            amplitude, evidence = _best_amplitude(inner, right, constant)
        else:
            amplitude = float(prior.amplitude)
            evidence = _evidence(inner, right, constant, amplitude)
        if best is not None and evidence <= best.log_evidence:
            # past the maximum: longer ones fit still worse
            break
        best = PriorChoice(amplitude, length, evidence, amplitude * factor)
    assert best is not None
    # a scene that is not there has no places
    seen = best.amplitude**2 * float(np.diag(normal).max(initial=0.0)) > _NOTHING
    if prior.local and isinstance(prior.amplitude, str) and seen:
        factor = _local_factor(best, normal, rhs, points, spacing)
        best = PriorChoice(best.amplitude, best.smoothness_arcsec, best.log_evidence, factor)
    return best


def _local_factor(
    choice: PriorChoice,
    normal: np.ndarray,
    rhs: np.ndarray,
    points: tuple[np.ndarray, np.ndarray],
    spacing: float,
) -> np.ndarray:
    """Return the root of the covariance with amplitudes that follow the scene."""
    xi, eta = points
    distance2 = (xi[:, None] - xi) ** 2 + (eta[:, None] - eta) ** 2
    pool = np.exp(-0.5 * distance2 / (1.1 * spacing) ** 2)
    pool /= pool.sum(axis=1, keepdims=True)
    shape = choice.factor / choice.amplitude
    if choice.smoothness_arcsec == 0:
        precision = np.eye(xi.size)
    else:
        inverse = lapack.dtrtri(shape, lower=1)[0]
        precision = inverse.T @ inverse
    amplitude = np.full(xi.size, choice.amplitude)
    for _ in range(_LOCAL_STEPS):
        root = cholesky(
            normal + precision / np.multiply.outer(amplitude, amplitude),
            lower=True, check_finite=False,
        )  # fmt: skip
        # its inverse gives the variances and the mean
        inverse = lapack.dtrtri(root, lower=1)[0]
        mean = inverse.T @ (inverse @ rhs)
        amplitude = np.sqrt(pool @ (mean**2 + np.einsum("kn,kn->n", inverse, inverse)))
    result: np.ndarray = (_SAFETY * amplitude)[:, None] * shape
    return result


def _evidence(inner: np.ndarray, rhs: np.ndarray, constant: float, amplitude: float) -> float:
    """Return the log marginal likelihood at one amplitude."""
    root = cholesky(np.eye(rhs.size) + amplitude**2 * inner, lower=True, check_finite=False)
    y = solve_triangular(root, amplitude * rhs, lower=True, check_finite=False)
    return float(-0.5 * (constant - y @ y) - np.log(np.diag(root)).sum())


def _best_amplitude(inner: np.ndarray, rhs: np.ndarray, constant: float) -> tuple[float, float]:
    """Return the amplitude of largest marginal likelihood, and that likelihood's logarithm.

    One reduction to tridiagonal form serves all amplitudes. Of ``inner`` the lower triangle is
    read.
    """
    from pogson.scene import _scene_kernels as kernels

    top = float(np.trace(inner))  # no mode is better seen than all together
    if top <= 0:
        return 1.0, float(-0.5 * constant)
    if rhs.size == 1:
        diagonal, off, turned = inner[0].copy(), np.empty(0), rhs.copy()
    else:
        packed, diagonal, off, tau, _ = lapack.dsytrd(inner, lower=1, lwork=64 * rhs.size)
        turned = rhs.copy()
        kernels.apply_reflectors(packed, tau, turned)
    # from "the prior hides even the best seen mode" to "it hides nothing"
    low, high = -0.5 * np.log(top) - 4.0, -0.5 * np.log(top) + 14.0
    gains, logs = np.empty(_GRID), np.empty(_GRID)
    for _ in range(5):
        grid = np.linspace(low, high, _GRID)
        kernels.tridiagonal_evidence(diagonal, off, turned, np.exp(2.0 * grid), gains, logs)
        values = -0.5 * (constant - gains + logs)
        k = int(np.argmax(values))
        low, high = grid[max(k - 1, 0)], grid[min(k + 1, _GRID - 1)]
    return float(np.exp(grid[k])), float(values[k])
