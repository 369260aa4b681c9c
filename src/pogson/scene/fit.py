"""Fitting a scene: the one kernel below light curves, moving objects, binaries and trails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pogson.errors import MaskedDataError, PogsonError, PogsonTypeError, PogsonValueError
from pogson.scene.assemble import assemble
from pogson.scene.design import ExposureDesign, build_design
from pogson.scene.exposure import SceneExposure
from pogson.scene.grid import SceneGrid, auto_grid, narrowest, psf_widths
from pogson.scene.model import PointSource, SceneModel
from pogson.scene.origins import settle_origins
from pogson.scene.passes import Pass, estimated_gain, reweighted, run_pass, starting_points
from pogson.scene.prior import PriorChoice
from pogson.scene.result import OriginTest, SceneResult
from pogson.scene.solve import one_thread
from pogson.streams import stream

__all__ = ["Prepared", "Solution", "fit_scene", "light_curve", "prepare", "solve_scene"]

_MAX_REWEIGHTS = 8
_SAME_NOISE = 0.01
"""Variances that change by less than this part move fluxes by about this part of their errors."""


@dataclass(eq=False)
class Prepared:
    """Exposures that can be used, as numbers.

    Attributes
    ----------
    designs : list of ExposureDesign
        One per usable exposure.
    grid : SceneGrid or None
        Scene grid with its centre.
    dropped : dict
        Exposures left out, with reasons.
    radius : float
        Search radius in arcsec.
    fwhm_arcsec : float
        Width of the sharpest PSF.
    """

    designs: list[ExposureDesign]
    grid: SceneGrid | None
    dropped: dict[str, str]
    radius: float
    fwhm_arcsec: float


@dataclass(eq=False)
class Solution:
    """A fit as numbers, before it is written down as a `SceneResult`."""

    done: Pass
    designs: list[ExposureDesign]
    origins: dict[str, OriginTest]
    factors: np.ndarray
    gains: tuple[float | None, ...]
    lost: np.ndarray


def fit_scene(
    exposures: Sequence[SceneExposure], model: SceneModel, *, starts: int = 4, seed: int = 0
) -> SceneResult:
    r"""Fit point sources over a static scene.

    Parameters
    ----------
    exposures : sequence of SceneExposure
        Pixels of all exposures, of any sizes; with the source (detections) and without
        (references).
    model : SceneModel
        Scene, sky and sources.
    starts : int, optional
        Starting positions of the search, where positions are fitted: the nominal one and random
        ones about it.
    seed : int, optional
        Seed of the random ones.

    Returns
    -------
    result : SceneResult
        Fluxes with their covariance, and what is needed to trust them.

    Raises
    ------
    MaskedDataError
        If an exposure that a source needs has no usable pixels, PSF or scale.
    CalibrationError
        If the data do not determine what is asked for.
    PogsonValueError
        If exposures repeat or a source names an exposure that is not there.

    Notes
    -----
    Model of pixel p of exposure m: :math:`\sum_k b_k P_m(p - x_{mk}) + s_m + \sum_j f_{jm}
    P_m(p - x_{mj})` with scene fluxes b shared by all exposures, sky s, and source fluxes f. Scene
    and sky are eliminated exactly; positions follow by variable projection. The grid of points is
    that of Bernardinelli et al. (2023, "scene modelling photometry"); the scene prior, its choice
    and the marginalised positions are not.

    Examples
    --------
    A source of flux 500 in the first of three exposures:

    >>> from pogson.fields import Box
    >>> from pogson.psf import GaussianPSF
    >>> from pogson.scene import PointSource, SceneExposure, SceneModel
    >>> from pogson.sky import FitsSkyMap
    >>> sky = FitsSkyMap.tan(150.0, 2.0, x=50.0, y=50.0, scale_arcsec=0.25)
    >>> psf, box = GaussianPSF(fwhm=4.0), Box(40, 40, 21, 21)
    >>> star = psf.draw(x=50.0, y=50.0, half_size=10).image
    >>> rng = np.random.default_rng(1)
    >>> exposures = [
    ...     SceneExposure(flux * star + rng.normal(size=star.shape), np.ones(star.shape), box, sky,
    ...                   psf, exposure_id=name)
    ...     for name, flux in (("a", 500.0), ("b", 0.0), ("c", 0.0))
    ... ]
    >>> target = PointSource("target", 150.0, 2.0, epochs="a")
    >>> result = fit_scene(exposures, SceneModel(target, poisson=False))
    >>> flux, error = result.flux("target")
    >>> bool(abs(flux - 500.0) < 4 * error), bool(5.0 < error < 9.0)
    (True, True)
    """
    prepared = prepare(exposures, model)
    rng = stream(seed, "scene", "starts")
    points = starting_points(
        [s.moves for s in model.sources], starts, 0.3 * prepared.fwhm_arcsec, rng
    )
    with one_thread():
        return assemble(solve_scene(prepared, model, points), prepared, model)


def light_curve(
    exposures: Sequence[SceneExposure],
    ra: float,
    dec: float,
    *,
    epochs: Sequence[str] | str = "all",
    name: str = "target",
    starts: int = 4,
    seed: int = 0,
    model: SceneModel | None = None,
) -> SceneResult:
    """Fit one flux per epoch of a source that stays where it is.

    Parameters
    ----------
    exposures : sequence of SceneExposure
        Pixels of all exposures.
    ra, dec : float
        Position in degrees.
    epochs : sequence of str or "all", optional
        Exposures in which the source may be seen; the others fix the scene below it. With "all"
        only the scene prior tells source from scene, and the errors say so.
    name : str, optional
        Name of the source.
    starts, seed : int, optional
        As in `fit_scene`.
    model : SceneModel, optional
        Everything else; its first source is replaced. Its position may be free.

    Returns
    -------
    result : SceneResult
        With one component per epoch and the covariance between epochs.

    Examples
    --------
    >>> from pogson.fields import Box
    >>> from pogson.psf import GaussianPSF
    >>> from pogson.scene import SceneExposure
    >>> from pogson.sky import FitsSkyMap
    >>> sky = FitsSkyMap.tan(150.0, 2.0, x=50.0, y=50.0, scale_arcsec=0.25)
    >>> psf, box, rng = GaussianPSF(fwhm=4.0), Box(40, 40, 21, 21), np.random.default_rng(1)
    >>> star = psf.draw(x=50.0, y=50.0, half_size=10).image
    >>> exposures = [
    ...     SceneExposure(flux * star + rng.normal(size=star.shape), np.ones(star.shape), box, sky,
    ...                   psf, exposure_id=name)
    ...     for name, flux in (("a", 500.0), ("b", 300.0), ("c", 0.0))
    ... ]
    >>> curve = light_curve(exposures, 150.0, 2.0, epochs=["a", "b"])
    >>> [c.epoch for c in curve.components]
    ['a', 'b']
    >>> bool((abs(curve.fluxes - [500.0, 300.0]) < 4 * curve.flux_err).all())
    True
    """
    chosen = epochs if isinstance(epochs, str) else tuple(epochs)
    if model is None:
        model = SceneModel((PointSource(name, ra, dec, chosen),))
    else:
        first = replace(model.sources[0], name=name, ra=ra, dec=dec, epochs=chosen)
        model = replace(model, sources=(first, *model.sources[1:]))
    return fit_scene(exposures, model, starts=starts, seed=seed)


def prepare(exposures: Sequence[SceneExposure], model: SceneModel) -> Prepared:
    """Choose usable exposures and the grid, and render everything.

    Parameters
    ----------
    exposures : sequence of SceneExposure
        All exposures.
    model : SceneModel
        What will be fitted.

    Raises
    ------
    MaskedDataError
        If an exposure that a source needs cannot be used.
    """
    _check_names(exposures, model)
    needed = {
        e
        for s in model.sources
        if s.epochs != "all"
        for e in ([s.epochs] if isinstance(s.epochs, str) else s.epochs)
    }
    usable, dropped = [], {}
    target = model.sources[0]
    for exposure in exposures:
        reason = _unusable(exposure, model)
        if reason is None:
            usable.append(exposure)
            continue
        if exposure.exposure_id in needed:
            raise MaskedDataError(
                f"Exposure {exposure.exposure_id!r}, in which a source is to be measured, cannot "
                f"be used: {reason}."
            )
        dropped[exposure.exposure_id] = reason
    if not usable:
        raise MaskedDataError(f"No exposure can be used: {dropped}.")
    widths, arcsec = psf_widths(usable, target.ra, target.dec)
    width = narrowest(arcsec)
    radius = model.search_radius_arcsec or 1.5 * width
    grid = model.grid
    if isinstance(grid, str):
        grid = auto_grid(
            usable, target.ra, target.dec, with_prior=model.prior is not None, width_arcsec=width
        )
    if grid is not None:
        grid = grid.centered(target.ra, target.dec)
    designs = [
        _design(exposure, grid, model, radius, float(fwhm))
        for exposure, fwhm in zip(usable, widths, strict=True)
    ]
    return Prepared(designs, grid, dropped, radius, width)


def _design(
    exposure: SceneExposure, grid: SceneGrid | None, model: SceneModel, radius: float, fwhm: float
) -> ExposureDesign:
    reach = radius + max((0.5 * s.trail[0] for s in model.sources if s.trail), default=0.0)
    return build_design(
        exposure,
        grid,
        [(s.ra, s.dec) for s in model.sources],
        sky_order=model.sky_order,
        search_radius=reach,
        flipped=model.convention == "smp2023",
        fwhm=fwhm,
    )


def _check_names(exposures: Sequence[SceneExposure], model: SceneModel) -> None:
    for exposure in exposures:
        if not isinstance(exposure, SceneExposure):
            raise PogsonTypeError(
                f"A scene is fitted to SceneExposures, not {type(exposure).__name__}; "
                "cut_exposure and cut_scene make them of whole exposures."
            )
    names = [e.exposure_id for e in exposures]
    if len(set(names)) < len(names):
        raise PogsonValueError(f"exposure_id must differ between exposures, not {names}.")
    units = {float(e.flux_zero_point) for e in exposures}
    if len(units) > 1:
        raise PogsonValueError(
            f"The exposures are scaled to different zero points, {sorted(units)}; scale all to one "
            "(see scale_from_zero_point)."
        )
    for source in model.sources:
        epochs = [source.epochs] if isinstance(source.epochs, str) else list(source.epochs)
        unknown = [e for e in epochs if e != "all" and e not in names]
        if unknown or not epochs:
            raise PogsonValueError(
                f"Source {source.name!r} is to be measured in {unknown or 'no exposure'}, which is "
                f"not among the exposures {names}."
            )


def _unusable(exposure: SceneExposure, model: SceneModel) -> str | None:
    """Return why an exposure cannot be used, or None."""
    target = model.sources[0]
    if exposure.psf is None:
        return "it has no PSF"
    if exposure.scale is None:
        return "it has no zero point"
    least = max(10, 0.02 * exposure.box.area)
    if exposure.n_good < least:
        return (
            f"{exposure.n_good} of {exposure.box.area} pixels are usable (masks, zero weights, "
            "values that are not finite)"
        )
    x, y = (float(v) for v in exposure.sky.pixel(target.ra, target.dec))
    if not (np.isfinite(x) and np.isfinite(y)):
        return "the target has no place on its sky map"
    if not bool(exposure.box.contains(x=x, y=y)):
        return (
            f"the target at x={x:.1f}, y={y:.1f} is outside its pixels "
            f"x {exposure.box.x_bounds}, y {exposure.box.y_bounds}"
        )
    try:
        exposure.psf.draw(x=x, y=y, half_size=0)
    except PogsonError as error:
        return f"its PSF is not defined at the target: {error}"
    return None


def solve_scene(prepared: Prepared, model: SceneModel, starts: Sequence[np.ndarray]) -> Solution:
    """Solve, settle the origins, and iterate the weights.

    Parameters
    ----------
    prepared : Prepared
        Exposures as numbers.
    model : SceneModel
        What is fitted.
    starts : sequence of numpy.ndarray
        Positions to start from.
    """

    def solve(
        designs: list[ExposureDesign],
        variances: list[np.ndarray] | None = None,
        choice: PriorChoice | None = None,
        points: Sequence[np.ndarray] = starts,
        reuse: Pass | None = None,
        smoothness: float | None = None,
    ) -> Pass:
        weights = [d.variance for d in designs] if variances is None else variances
        return run_pass(
            designs, weights, model, prepared.grid, points, choice=choice,
            radius=prepared.radius, reuse=reuse, smoothness=smoothness,
        )  # fmt: skip

    def rebuild(design: ExposureDesign, dx: int, dy: int) -> ExposureDesign:
        moved = design.exposure.moved(dx, dy)
        return _design(moved, prepared.grid, model, prepared.radius, design.table.fwhm)

    designs = prepared.designs
    done = solve(designs)
    origins: dict[str, OriginTest] = {}
    if model.origin_test:
        first = done
        designs, done, origins = settle_origins(
            designs, done, rebuild,
            lambda trial: solve(
                trial, choice=first.choice, points=[first.trial.theta], reuse=first
            ),
        )  # fmt: skip
        if done is not first:
            done = solve(designs, points=[done.trial.theta, *starts], reuse=done)
    gains = _gains(designs, model, done)
    factors, lost = np.ones(len(designs)), np.zeros(len(designs))
    weights = [d.variance for d in designs]
    if _reweights(designs, model, gains):
        for turn in range(_MAX_REWEIGHTS):
            variances, *changed = reweighted(done, designs, model, gains, factors)
            if turn and _same(variances, weights):
                break
            weights, (factors, lost) = variances, changed
            before = done.trial.fluxes
            # the prior's amplitude is chosen anew once the noise is known
            keep = done.choice if turn > 0 and done.keep.size == _size(done) else None
            points = [done.trial.theta] if turn else [done.trial.theta, *starts]
            ends = done.ends
            choice = None if model.robust else done.choice
            smoothness = None if choice is None else choice.smoothness_arcsec
            done = solve(designs, variances, keep, points, smoothness=smoothness)
            if turn:
                done.ends = ends
            error = np.sqrt(1.0 / np.maximum(np.diag(done.elimination.matrix), 1e-300))
            if turn and np.all(np.abs(done.trial.fluxes - before) < 0.01 * error):
                break
    return Solution(done, designs, origins, factors, gains, lost)


def _same(new: Sequence[np.ndarray], old: Sequence[np.ndarray]) -> bool:
    """Return whether variances are those of before, for all that matters."""
    pairs = zip(new, old, strict=True)
    return all(np.all(np.abs(a - b) < _SAME_NOISE * b) for a, b in pairs)


def _size(done: Pass) -> int:
    """Return how many points the prior of a pass was made for."""
    return 0 if done.choice is None else int(done.choice.factor.shape[0])


def _gains(
    designs: Sequence[ExposureDesign], model: SceneModel, done: Pass
) -> tuple[float | None, ...]:
    if model.poisson not in (True, False, "estimate"):
        raise PogsonValueError(f"poisson={model.poisson!r} must be True, False or 'estimate'.")
    gains = []
    for k, design in enumerate(designs):
        gain = design.exposure.gain
        included = design.exposure.variance_includes_sources
        if gain is None and model.poisson == "estimate" and not included:
            gain = estimated_gain(done, k)
        gains.append(gain)
    return tuple(gains)


def _reweights(
    designs: Sequence[ExposureDesign], model: SceneModel, gains: Sequence[float | None]
) -> bool:
    """Return whether the weights depend on the model."""
    photons = bool(model.poisson) and any(
        g is not None and not d.exposure.variance_includes_sources
        for g, d in zip(gains, designs, strict=True)
    )
    return photons or model.noise_rescale or model.robust is not None
