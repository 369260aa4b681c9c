r"""Positions by variable projection: fluxes, skies and scene eliminated, derivatives analytic.

The objective is chi2 (plus the priors' terms) minimised over everything linear; what is left is a
function of two numbers per moving source. Gauss-Newton steps of the joint problem of fluxes and
positions (Kaufman 1975, BIT 15, 49) with Levenberg-Marquardt damping go downhill from several
starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from pogson.scene.model import PointSource
from pogson.scene.solve import Block, Columns, SceneSystem

__all__ = ["Descent", "SourceLayout", "Trial", "descend", "evaluate", "trail_nodes"]

_MAX_STEPS = 150
_SETTLED = 1e-6
_MOVED = 1e-6
LEAST_LEFT = 1e-11
"""Part of the information on a flux that the scene must leave; less is rounding."""


def trail_nodes(
    trail: tuple[float, float] | None, fwhm_arcsec: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return offsets (xi, eta) in arcsec and weights of points that stand for a trail.

    Parameters
    ----------
    trail : tuple of float or None
        Length in arcsec and position angle in degrees (north through east); None for a point.
    fwhm_arcsec : float
        Width of the sharpest PSF.

    Notes
    -----
    Gauss-Legendre nodes at most 0.5 FWHM apart on average: the error of the line integral of a
    Gaussian of that width is below 1e-6 of its peak.

    Examples
    --------
    >>> xi, eta, weight = trail_nodes((2.0, 90.0), 1.0)
    >>> round(float(weight.sum()), 12), bool(abs(eta).max() < 1e-12)
    (1.0, True)
    """
    if trail is None or trail[0] == 0.0:
        return np.zeros(1), np.zeros(1), np.ones(1)
    count = int(np.ceil(trail[0] / (0.5 * fwhm_arcsec))) + 6
    nodes, weights = np.polynomial.legendre.leggauss(count)
    angle = np.deg2rad(trail[1])
    along = 0.5 * trail[0] * nodes
    return along * np.sin(angle), along * np.cos(angle), 0.5 * weights


class SourceLayout:
    """Which flux belongs to which source in which exposure, and which positions move.

    Parameters
    ----------
    sources : sequence of PointSource
        The sources of a model.
    blocks : sequence of Block
        The exposures of the fit.
    fwhm_arcsec : float
        Width of the sharpest PSF.

    Attributes
    ----------
    components : list of (int, int or None)
        Source and exposure of each flux; None for one flux over several exposures.
    moving : list of int
        Sources with fitted positions, two parameters (xi, eta in arcsec) each.
    slots : dict of int to int
        Number of the position of each source that moves, tied ones included.
    """

    def __init__(
        self, sources: Sequence[PointSource], blocks: Sequence[Block], fwhm_arcsec: float
    ) -> None:
        self.sources = tuple(sources)
        self.components: list[tuple[int, int | None]] = []
        self.seen: list[list[tuple[int, int]]] = [[] for _ in blocks]
        names = [block.design.exposure.exposure_id for block in blocks]
        for s, source in enumerate(self.sources):
            epochs = [k for k, name in enumerate(names) if source.seen_in(name)]
            shared = not source.per_epoch and len(epochs) > 1
            for k in epochs:
                if not shared or k == epochs[0]:
                    self.components.append((s, None if shared else k))
                self.seen[k].append((s, len(self.components) - 1))
        self.moving = [
            s for s, source in enumerate(self.sources)
            if source.moves and any(c[0] == s for c in self.components)
        ]  # fmt: skip
        self.slots = {s: slot for slot, s in enumerate(self.moving)}
        lead = {source.name: self.slots.get(s) for s, source in enumerate(self.sources)}
        for s, source in enumerate(self.sources):
            slot = None if source.tied_to is None else lead[source.tied_to]
            if slot is not None:
                self.slots[s] = slot
        self.nodes = [trail_nodes(source.trail, fwhm_arcsec) for source in self.sources]
        n = 2 * len(self.moving)
        self.precision = np.zeros((n, n))
        for slot, s in enumerate(self.moving):
            part = slice(2 * slot, 2 * slot + 2)
            self.precision[part, part] = self.sources[s].position_precision

    @property
    def n_fluxes(self) -> int:
        """Number of fluxes."""
        return len(self.components)

    def offset(self, source: int, theta: np.ndarray) -> tuple[float, float]:
        """Return the offset (xi, eta) of a source."""
        if source not in self.slots:
            return 0.0, 0.0
        slot = self.slots[source]
        return float(theta[2 * slot]), float(theta[2 * slot + 1])

    def rows(self, block: Block, k: int, theta: np.ndarray, *, slopes: bool) -> np.ndarray:
        """Return raw source columns of an exposure, shape (n_sources, 1 or 3, n)."""
        result = np.zeros((len(self.seen[k]), 3 if slopes else 1, block.root.size))
        for i, (s, _) in enumerate(self.seen[k]):
            dx, de, weights = self.nodes[s]
            xi, eta = self.offset(s, theta)
            if slopes and s in self.slots:
                stars = block.design.star_gradients(s, xi + dx, eta + de)
                result[i] = np.tensordot(weights, stars, axes=1)
            else:
                result[i, 0] = weights @ block.design.stars(s, xi + dx, eta + de)
        return result

    def columns(self, blocks: Sequence[Block], theta: np.ndarray, *, slopes: bool) -> Columns:
        """Return weighted columns; with slopes, flux j has columns j, n + 2 j and n + 2 j + 1."""
        parts, n = [], self.n_fluxes
        for k, block in enumerate(blocks):
            if not self.seen[k]:
                continue
            raw = self.rows(block, k, theta, slopes=slopes)
            own = np.array([j for _, j in self.seen[k]])
            if slopes:
                index = np.stack([own, n + 2 * own, n + 2 * own + 1], axis=1).ravel()
            else:
                index = own
            parts.append((k, block.project(raw.reshape(-1, block.root.size)), index))
        return Columns(parts, 3 * n if slopes else n)

    def combination(self, fluxes: np.ndarray) -> np.ndarray:
        """Return the matrix from (fluxes, positions) to the columns with slopes."""
        n = self.n_fluxes
        matrix = np.zeros((3 * n, n + 2 * len(self.moving)))
        matrix[:n, :n] = np.eye(n)
        for j, (s, _) in enumerate(self.components):
            if s in self.slots:
                slot = self.slots[s]
                for axis in range(2):
                    matrix[n + 2 * j + axis, n + 2 * slot + axis] = fluxes[j]
        return matrix


@dataclass(eq=False)
class Trial:
    """The linear problem solved at one set of positions.

    Attributes
    ----------
    theta : numpy.ndarray
        Positions (xi, eta of each moving source, arcsec from nominal).
    fluxes : numpy.ndarray
        Best fluxes.
    objective : float
        chi2 plus the priors' terms.
    matrix : numpy.ndarray
        Gauss-Newton normal matrix of (fluxes, positions), priors of positions included.
    slope : numpy.ndarray
        Minus half the derivative of the objective with respect to the positions.
    """

    theta: np.ndarray
    fluxes: np.ndarray
    objective: float
    matrix: np.ndarray
    slope: np.ndarray


def evaluate(
    system: SceneSystem, layout: SourceLayout, theta: np.ndarray, *, positive: bool
) -> Trial | None:
    """Solve for everything linear at given positions; None where fluxes are not determined.

    Parameters
    ----------
    system : SceneSystem
        Factored exposures.
    layout : SourceLayout
        Sources.
    theta : numpy.ndarray
        Positions.
    positive : bool
        Hold fluxes at zero or above.
    """
    n = layout.n_fluxes
    slopes = bool(layout.moving)
    reduced = system.eliminate(layout.columns(system.blocks, theta, slopes=slopes))
    left, alone = np.diag(reduced.matrix)[:n], np.diag(reduced.bare)[:n]
    if not np.all(left > LEAST_LEFT * alone):
        return None
    fluxes = _solve_fluxes(reduced.matrix[:n, :n], reduced.rhs[:n], positive)
    if fluxes is None:
        return None
    matrix, rhs = reduced.matrix, reduced.rhs
    if slopes:
        combine = layout.combination(fluxes)
        matrix, rhs = combine.T @ matrix @ combine, combine.T @ rhs
    gain = 2 * fluxes @ rhs[:n] - fluxes @ matrix[:n, :n] @ fluxes
    pull = layout.precision @ theta
    slope = rhs[n:] - matrix[n:, :n] @ fluxes - pull
    matrix = matrix.copy()
    matrix[n:, n:] += layout.precision
    objective = system.constant - float(gain) + float(theta @ pull)
    return Trial(theta, fluxes, objective, matrix, slope)


def _solve_fluxes(matrix: np.ndarray, rhs: np.ndarray, positive: bool) -> np.ndarray | None:
    """Return the best fluxes, those that would be negative held at zero if asked."""
    free = np.ones(rhs.size, bool)
    while True:
        fluxes = np.zeros(rhs.size)
        if free.any():
            inner = matrix[np.ix_(free, free)]
            size = np.sqrt(np.maximum(np.diag(inner), 0.0))
            if not size.min() > 0:
                return None
            try:
                root = cho_factor(inner / np.outer(size, size), lower=True, check_finite=False)
            except LinAlgError:
                return None
            if np.diag(root[0]).min() < 1e-7:
                return None
            fluxes[free] = cho_solve(root, rhs[free] / size, check_finite=False) / size
        if not positive or fluxes.min() >= 0:
            return fluxes
        worst = int(np.argmin(fluxes * np.sqrt(np.maximum(np.diag(matrix), 0.0))))
        free[worst] = False


@dataclass(eq=False)
class Descent:
    """The end of one descent.

    Attributes
    ----------
    trial : Trial
        Where it ended.
    steps : int
        Steps taken.
    converged : bool
        Whether the last step promised no improvement above 1e-6 in chi2.
    at_limit : bool
        Whether a position lies at the search radius.
    """

    trial: Trial
    steps: int
    converged: bool
    at_limit: bool


def descend(
    system: SceneSystem,
    layout: SourceLayout,
    start: np.ndarray,
    *,
    radius: float,
    positive: bool = False,
) -> Descent | None:
    """Go downhill from a start; None if fluxes are not determined there.

    Parameters
    ----------
    system : SceneSystem
        Factored exposures.
    layout : SourceLayout
        Sources.
    start : numpy.ndarray
        Positions to start from.
    radius : float
        Largest distance in arcsec of a source from its nominal position.
    positive : bool, optional
        Hold fluxes at zero or above.
    """
    trial = evaluate(system, layout, _limited(start, radius), positive=positive)
    if trial is None:
        return None
    if not layout.moving:
        return Descent(trial, 0, True, False)
    damping, n = 1e-3, layout.n_fluxes
    for step in range(1, _MAX_STEPS + 1):
        move, promise = _step(trial, n, damping)
        theta = _limited(trial.theta + move, radius)
        moved = float(np.abs(theta - trial.theta).max())
        if promise < _SETTLED or moved < _MOVED:
            return Descent(trial, step, True, _on_limit(trial.theta, radius))
        following = evaluate(system, layout, theta, positive=positive)
        if following is not None and following.objective < trial.objective:
            settled = trial.objective - following.objective < _SETTLED and damping < 1e-2
            trial, damping = following, max(damping / 8.0, 1e-9)
            if settled:
                return Descent(trial, step, True, _on_limit(theta, radius))
        else:
            damping *= 6.0
            if damping > 1e10:
                return Descent(trial, step, True, _on_limit(trial.theta, radius))
    return Descent(trial, _MAX_STEPS, False, _on_limit(trial.theta, radius))


def _step(trial: Trial, n: int, damping: float) -> tuple[np.ndarray, float]:
    """Return a damped Gauss-Newton step of the positions and the gain in chi2 it promises."""
    matrix = trial.matrix
    lit = np.flatnonzero(np.abs(trial.fluxes) > 0)
    inner = matrix[n:, n:].copy()
    if lit.size:
        cross = matrix[np.ix_(lit, np.arange(n, matrix.shape[0]))]
        inner -= cross.T @ np.linalg.solve(matrix[np.ix_(lit, lit)], cross)
    size = np.sqrt(np.maximum(np.diag(matrix)[n:], 1e-30))
    scaled = inner / np.outer(size, size)
    scaled[np.diag_indices_from(scaled)] += damping
    move = np.linalg.solve(scaled, trial.slope / size) / size
    return move, float(move @ trial.slope)


def _limited(theta: np.ndarray, radius: float) -> np.ndarray:
    """Return positions pulled back to the search radius."""
    pairs = theta.reshape(-1, 2)
    distance = np.hypot(pairs[:, 0], pairs[:, 1])
    factor = np.where(distance > radius, radius / np.maximum(distance, 1e-300), 1.0)
    return (pairs * factor[:, None]).ravel()


def _on_limit(theta: np.ndarray, radius: float) -> bool:
    pairs = theta.reshape(-1, 2)
    return bool((np.hypot(pairs[:, 0], pairs[:, 1]) > 0.9999 * radius).any())
