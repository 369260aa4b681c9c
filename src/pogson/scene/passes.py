"""One pass of a fit: weights given, everything else solved; and what changes the weights."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.linalg import solve_triangular

from pogson.errors import CalibrationError, MaskedDataError
from pogson.scene.design import ExposureDesign
from pogson.scene.grid import SceneGrid
from pogson.scene.model import SceneModel
from pogson.scene.positions import Descent, SourceLayout, Trial, descend
from pogson.scene.prior import PriorChoice, ScenePrior, choose_prior
from pogson.scene.solve import Elimination, SceneSystem, make_block

__all__ = ["Pass", "estimated_gain", "reweighted", "run_pass", "starting_points"]

_UNSEEN = 1e-10
_MAX_ROBUST_LOSS = 1e-3
_MAX_HELD = 2
_LEAST_FACTOR = 1e-4


@dataclass(eq=False)
class Pass:
    """The solution for one set of weights.

    Attributes
    ----------
    system : SceneSystem
        Factored exposures.
    layout : SourceLayout
        Sources.
    best : Descent
        The lowest minimum found.
    ends : list of Descent
        The end reached from each start.
    choice : PriorChoice or None
        Scene prior used.
    keep : numpy.ndarray of int
        Scene points used.
    elimination : Elimination
        Normal equations of the fluxes at the best positions.
    scene_fluxes : numpy.ndarray
        Fluxes of the points used.
    rows : list of (numpy.ndarray or None)
        Raw source columns of each exposure at the best positions, shape (n_sources, n).
    """

    system: SceneSystem
    layout: SourceLayout
    best: Descent
    ends: list[Descent]
    choice: PriorChoice | None
    keep: np.ndarray
    elimination: Elimination
    scene_fluxes: np.ndarray
    rows: list[np.ndarray]
    _scenes: dict[int, np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def trial(self) -> Trial:
        """The best linear solution."""
        return self.best.trial

    def source_image(self, k: int) -> np.ndarray:
        """Return the light of the sources on the usable pixels of exposure k."""
        own = [j for _, j in self.layout.seen[k]]
        result: np.ndarray = self.trial.fluxes[own] @ self.rows[k]
        return result

    def scene_image(self, k: int) -> np.ndarray:
        """Return the light of the scene on the usable pixels of exposure k."""
        if k not in self._scenes:
            scene = self.system.blocks[k].design.scene
            whole = self.keep.size == scene.shape[0]
            self._scenes[k] = self.scene_fluxes @ (scene if whole else scene[self.keep])
        return self._scenes[k]

    def sky_level(self, k: int, light: np.ndarray) -> np.ndarray:
        """Return the sky coefficients of exposure k, given scene plus sources."""
        block = self.system.blocks[k]
        design = (block.design.sky * block.root).T
        rest = block.root * (block.design.data - light)
        solution: np.ndarray = np.linalg.lstsq(design, rest, rcond=None)[0]
        return solution

    def residual(self, k: int) -> np.ndarray:
        """Return residuals over noise of exposure k."""
        block = self.system.blocks[k]
        light = self.scene_image(k) + self.source_image(k)
        weighted = block.root * (block.design.data - light)
        weighted -= block.basis.T @ (block.basis @ weighted)
        result: np.ndarray = weighted
        return result


def run_pass(
    designs: Sequence[ExposureDesign],
    variances: Sequence[np.ndarray],
    model: SceneModel,
    grid: SceneGrid | None,
    starts: Sequence[np.ndarray],
    *,
    choice: PriorChoice | None = None,
    radius: float,
    reuse: Pass | None = None,
    smoothness: float | None = None,
) -> Pass:
    """Solve for prior, scene, skies, fluxes and positions with given weights.

    Parameters
    ----------
    designs : sequence of ExposureDesign
        Exposures.
    variances : sequence of numpy.ndarray
        Variance of the usable pixels of each.
    model : SceneModel
        What is fitted.
    grid : SceneGrid or None
        Scene grid.
    starts : sequence of numpy.ndarray
        Positions to start from.
    choice : PriorChoice, optional
        A scene prior chosen before; otherwise chosen here, at the first start.
    radius : float
        Search radius in arcsec.
    reuse : Pass, optional
        A solution with the same variances, whose weighted exposures are taken where they serve.
    smoothness : float, optional
        Smoothness of the prior in arcsec, chosen before.

    Raises
    ------
    CalibrationError
        If something is not determined by the data.
    """
    keep = _seen_points(designs, variances)
    whole = keep.size == designs[0].scene.shape[0]
    known = {}
    if reuse is not None and np.array_equal(reuse.keep, keep):
        known = {id(block.design): block for block in reuse.system.blocks}
    blocks = [
        known.get(id(d)) or make_block(d, v, None if whole else keep)
        for d, v in zip(designs, variances, strict=True)
    ]
    # the same exposures under the same prior: factored already
    same = reuse is not None and choice is not None and choice is reuse.choice
    system = (
        reuse.system
        if reuse is not None and same and all(map(operator.is_, blocks, reuse.system.blocks))
        else SceneSystem(blocks)
    )
    fwhm = min(_fwhm_arcsec(d) for d in designs)
    layout = SourceLayout(model.sources, blocks, fwhm)
    if not layout.components:
        raise MaskedDataError("No source is seen in any usable exposure; check `epochs`.")
    if isinstance(model.prior, ScenePrior) and grid is not None:
        if choice is None:
            prior = model.prior
            if smoothness is not None:
                prior = replace(prior, smoothness_arcsec=smoothness)
            choice = _chosen(system, layout, prior, grid, keep, starts[0])
        if not system.factored:
            system.factor(choice.factor)
    else:
        choice = None
        system.factor(None)
    lit = [k for k, seen in enumerate(layout.seen) if seen]
    if layout.moving and len(lit) <= _MAX_HELD:
        system.hold(lit)
    found = [
        descend(system, layout, start, radius=radius, positive=model.positive) for start in starts
    ]
    ends = [end for end in found if end is not None]
    if not ends:
        raise CalibrationError(
            "The source fluxes are not determined: a source lies on masked pixels or outside its "
            "stamps, two coincide, or a flux in every exposure leaves nothing to tell it from a "
            "scene without a prior."
        )
    best = min(ends, key=lambda end: end.trial.objective)
    columns = layout.columns(blocks, best.trial.theta, slopes=False)
    elimination = system.eliminate(columns)
    rows = [
        layout.rows(block, k, best.trial.theta, slopes=False)[:, 0]
        for k, block in enumerate(blocks)
    ]
    scene = system.scene_fluxes(elimination, best.trial.fluxes)
    return Pass(system, layout, best, ends, choice, keep, elimination, scene, rows)


def _fwhm_arcsec(design: ExposureDesign) -> float:
    x, y = design.center
    return design.table.fwhm * float(design.exposure.sky.pixel_scale(x=x, y=y))


def _seen_points(designs: Sequence[ExposureDesign], variances: Sequence[np.ndarray]) -> np.ndarray:
    """Return the scene points that some usable pixel sees."""
    from pogson.scene import _scene_kernels as kernels

    weight = np.zeros(designs[0].scene.shape[0])
    for design, variance in zip(designs, variances, strict=True):
        kernels.add_squares(design.scene, variance, weight)
    return np.flatnonzero(weight > _UNSEEN * weight.max(initial=0.0))


def _chosen(
    system: SceneSystem,
    layout: SourceLayout,
    prior: ScenePrior,
    grid: SceneGrid,
    keep: np.ndarray,
    start: np.ndarray,
) -> PriorChoice:
    """Choose the prior with source fluxes integrated out at the starting positions."""
    columns = layout.columns(system.blocks, start, slopes=False)
    cross, bare, rhs = system.products(columns)
    normal, right, constant = system.normal, system.rhs, system.data_norm
    lit = np.diag(bare) > 0
    if lit.any():
        size = np.sqrt(np.diag(bare)[lit])
        inner = bare[np.ix_(lit, lit)] / np.outer(size, size)
        # two sources that start together are one
        root = np.linalg.cholesky(inner + 1e-10 * np.eye(size.size))
        x = solve_triangular(root, (cross[:, lit] / size).T, lower=True)
        y = solve_triangular(root, rhs[lit] / size, lower=True)
        normal, right = normal - x.T @ x, right - x.T @ y
        constant -= float(y @ y)
    xi, eta = grid.offsets()
    return choose_prior(prior, normal, right, constant, (xi[keep], eta[keep]), grid.spacing_arcsec)


def starting_points(
    layout_sources: Sequence[bool], count: int, width: float, rng: np.random.Generator
) -> list[np.ndarray]:
    """Return starts: the nominal positions, then random ones about them.

    Parameters
    ----------
    layout_sources : sequence of bool
        Whether each source moves.
    count : int
        Number of starts.
    width : float
        Standard deviation in arcsec.
    rng : numpy.random.Generator
        Random stream.
    """
    n = 2 * sum(layout_sources)
    if n == 0:
        return [np.zeros(0)]
    return [np.zeros(n), *rng.normal(0.0, width, (max(count, 1) - 1, n))]


def reweighted(
    done: Pass,
    designs: Sequence[ExposureDesign],
    model: SceneModel,
    gains: Sequence[float | None],
    factors: np.ndarray,
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Return variances with photon noise, rescaled noise and robust weights.

    Parameters
    ----------
    done : Pass
        The last solution.
    designs : sequence of ExposureDesign
        Exposures.
    model : SceneModel
        Which of these are wanted.
    gains : sequence of (float or None)
        Electrons per count.
    factors : numpy.ndarray
        Noise factors so far.

    Returns
    -------
    variances : list of numpy.ndarray
        New variances.
    factors : numpy.ndarray
        New noise factors.
    lost : numpy.ndarray
        Fraction of pixels of each exposure that lose weight.
    """
    variances, lost = [], np.zeros(len(designs))
    shares = done.system.effective_parameters() if model.noise_rescale else np.zeros(len(designs))
    factors = factors.copy()
    for k, design in enumerate(designs):
        light = done.scene_image(k) + done.source_image(k)
        plain = design.variance
        gain = gains[k]
        if model.poisson and gain is not None and not design.exposure.variance_includes_sources:
            scale = float(design.exposure.scale or 1.0)
            plain = plain + scale * np.maximum(light, 0.0) / gain
        residual = done.residual(k) / done.system.blocks[k].root
        if model.noise_rescale:
            free = residual.size - shares[k] - design.sky.shape[0]
            squares = np.sort(residual**2 / plain)
            if model.robust is not None:
                squares = np.minimum(squares, model.robust**2)
            factors[k] = float(squares.sum() / max(free, 1.0))
            if factors[k] < _LEAST_FACTOR:  # a constant image has no noise to tell
                factors[k] = 1.0
        variance = plain * factors[k]
        if model.robust is not None:
            pull = np.abs(residual) / np.sqrt(variance)
            weight = np.minimum(1.0, model.robust / np.maximum(pull, 1e-300))
            lost[k] = float(np.mean(weight < 1.0))
            variance = variance / np.maximum(weight, _MAX_ROBUST_LOSS)
        variances.append(variance)
    return variances, factors, lost


def estimated_gain(done: Pass, k: int) -> float | None:
    """Estimate the gain of an exposure from how its residuals grow with the model.

    Squared residuals are fitted as known variance plus light over gain, by weighted least squares;
    None unless the growth is seen at 3 sigma.
    """
    design = done.system.blocks[k].design
    residual = done.residual(k) / done.system.blocks[k].root
    light = np.maximum(done.scene_image(k) + done.source_image(k), 0.0)
    light *= float(design.exposure.scale or 1.0)
    inverse, variance = 0.0, design.variance
    for _ in range(5):
        weight = 0.5 / (variance + inverse * light) ** 2
        information = float(np.sum(weight * light**2))
        if information <= 0:
            return None
        inverse = max(float(np.sum(weight * light * (residual**2 - variance))) / information, 0.0)
    significant = inverse * np.sqrt(information) > 3.0
    return 1.0 / inverse if significant else None
