"""A resolved binary beside the free single source that it must beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pogson.errors import PogsonValueError, choices
from pogson.scene.assemble import assemble
from pogson.scene.exposure import SceneExposure
from pogson.scene.fit import Prepared, Solution, prepare, solve_scene
from pogson.scene.model import SceneModel
from pogson.scene.pair import Interval, PairPosterior, sample_pair
from pogson.scene.passes import run_pass, starting_points
from pogson.scene.result import SceneResult
from pogson.scene.solve import one_thread
from pogson.streams import stream

__all__ = ["BINARY_THRESHOLD", "BinaryResult", "fit_binary"]

BINARY_THRESHOLD = 16.0
"""delta chi2 against the free single above which a source is called binary: see `BinaryResult`."""


@dataclass(frozen=True, eq=False)
class BinaryResult:
    r"""A single source with free position, and two sources.

    Attributes
    ----------
    single : SceneResult
        The free single source.
    binary : SceneResult
        Two sources, named with "/A" (the brighter) and "/B".
    delta_chi2 : float
        Objective of the free single less that of the binary (3 more parameters).
    delta_bic : float
        BIC of the single less that of the binary: delta chi2 - 3 ln N with N the pixels of the
        detection.
    separation, separation_err : float
        Arcsec, of the best fit; the error to first order.
    flux_ratio : float
        Fainter over brighter, of the best fit.
    posterior : PairPosterior
        Samples of the pair: its ``intervals`` hold where the pair is not resolved and the
        covariance of the best fit does not.

    Notes
    -----
    A source is called binary (`is_binary`) when delta chi2 exceeds 16: three free parameters alone
    would need 11.3 for 1 % of false alarms, and the position of the second source is searched for.
    The rate of false alarms is measured in the package's tests.

    Examples
    --------
    Made by `pogson.scene.fit_binary`, where there is an example.
    """

    single: SceneResult
    binary: SceneResult
    delta_chi2: float
    delta_bic: float
    separation: float
    separation_err: float
    flux_ratio: float
    posterior: PairPosterior = field(repr=False)

    @property
    def is_binary(self) -> bool:
        """Whether delta chi2 exceeds `BINARY_THRESHOLD` and both fluxes are positive."""
        return self.delta_chi2 > BINARY_THRESHOLD and self.flux_ratio > 0

    @property
    def log_bayes_factor(self) -> float:
        """Log evidence of the binary less that of the single, with the priors of the posterior."""
        return self.posterior.log_bayes_factor

    @property
    def intervals(self) -> Mapping[str, Interval]:
        """Medians and 68 % intervals of the posterior: see `PairPosterior.intervals`."""
        return self.posterior.intervals

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON-ready numbers, the single's fit included."""
        bayes = self.log_bayes_factor
        return {
            "delta_chi2": self.delta_chi2,
            "delta_bic": self.delta_bic,
            "log_bayes_factor": bayes if np.isfinite(bayes) else None,
            "separation_arcsec": self.separation,
            "separation_err_arcsec": self.separation_err,
            "flux_ratio": self.flux_ratio,
            "intervals": {k: v._asdict() for k, v in self.intervals.items()},
            "is_binary": self.is_binary,
            "threshold": BINARY_THRESHOLD,
            "single": self.single.to_dict(),
        }


def fit_binary(
    exposures: Sequence[SceneExposure],
    model: SceneModel,
    *,
    starts: int = 4,
    seed: int = 0,
    separation_arcsec: float | None = None,
) -> BinaryResult:
    """Fit the first source of a model as a free single and as two sources.

    Parameters
    ----------
    exposures : sequence of SceneExposure
        Pixels of all exposures.
    model : SceneModel
        As for `pogson.scene.fit_scene`; the first source is the one in question. An astrometric
        prior of it is ignored.
    starts : int, optional
        Starting configurations of the pair: equally many directions about the single.
    seed : int, optional
        Seed of the single's random starts and of the posterior's samples.
    separation_arcsec : float, optional
        Separation of the starting pairs; by default half a PSF width and a whole one by turns.

    Returns
    -------
    result : BinaryResult

    Raises
    ------
    PogsonValueError
        If ``starts`` is below 1, or the model is not of one flux for the source.

    Examples
    --------
    >>> from pogson.fields import Box
    >>> from pogson.psf import GaussianPSF
    >>> from pogson.scene import PointSource, SceneExposure, SceneModel
    >>> from pogson.sky import FitsSkyMap
    >>> sky = FitsSkyMap.tan(150.0, 2.0, x=50.0, y=50.0, scale_arcsec=0.25)
    >>> psf, rng = GaussianPSF(fwhm=4.0), np.random.default_rng(1)
    >>> pair = sum(psf.draw_many(x=[x], y=[50.2], half_size=10)[0][0] for x in (49.6, 50.4))
    >>> image = 3000.0 * pair + rng.normal(size=(21, 21))
    >>> empty = rng.normal(size=(21, 21))
    >>> exposures = [
    ...     SceneExposure(data, np.ones((21, 21)), Box(40, 40, 21, 21), sky, psf, exposure_id=name)
    ...     for name, data in (("a", image), ("b", empty), ("c", empty[::-1]))
    ... ]
    >>> model = SceneModel(PointSource("pair", 150.0, 2.0, epochs="a"), poisson=False)
    >>> result = fit_binary(exposures, model)
    >>> result.is_binary, bool(abs(result.separation - 0.2) < 4 * result.separation_err)
    (True, True)
    """
    if starts < 1:
        raise PogsonValueError(f"starts={starts!r} must be at least 1.")
    target = replace(model.sources[0], position="free")
    alone = replace(model, sources=(target, *model.sources[1:]))
    prepared = prepare(exposures, alone)
    rng = stream(seed, "scene", "starts")
    points = starting_points(
        [s.moves for s in alone.sources], min(starts, 2), 0.3 * prepared.fwhm_arcsec, rng
    )
    with one_thread():
        first = solve_scene(prepared, alone, points)
        single = assemble(first, prepared, alone)
        epochs = [c.epoch for c in single.components if c.source == target.name]
        if len(epochs) != 1:
            raise PogsonValueError(
                f"Source {target.name!r} has {len(epochs)} fluxes, in {choices(epochs)}; a binary "
                "is fitted in one detection: name one (epochs=), or take one flux for all "
                "(per_epoch=False)."
            )
        pair, doubled = _doubled(prepared, first, alone)
        begin = _pair_starts(first, starts, prepared.fwhm_arcsec, separation_arcsec)
        second = _continue(doubled, first, pair, begin)
        binary = assemble(second, doubled, pair)
        posterior = sample_pair(
            first.done, 0, prepared.radius, prepared.fwhm_arcsec, stream(seed, "scene", "pair")
        )
    return _compared(single, binary, first, second, posterior)


def _doubled(prepared: Prepared, first: Solution, model: SceneModel) -> tuple[SceneModel, Prepared]:
    """Return the model and the prepared exposures with the first source taken twice."""
    target = model.sources[0]
    sources = (
        replace(target, name=f"{target.name}/A"),
        replace(target, name=f"{target.name}/B"),
        *model.sources[1:],
    )
    for design in first.designs:
        design.maps = [design.maps[0], *design.maps]
        design.tables = [design.tables[0], *design.tables]
    pair = replace(model, sources=sources, positive=True, origin_test=False)
    return pair, replace(prepared, designs=first.designs)


def _pair_starts(
    first: Solution, starts: int, fwhm: float, separation: float | None
) -> list[np.ndarray]:
    """Return pairs about the single, in directions spread over the half circle."""
    theta = first.done.trial.theta
    result = []
    for k in range(starts):
        angle = np.pi * (k + 0.25) / starts
        distance = separation or (0.5 if k % 2 == 0 else 1.0) * fwhm
        half = 0.5 * distance * np.array([np.cos(angle), np.sin(angle)])
        result.append(np.concatenate([theta[:2] + half, theta[:2] - half, theta[2:]]))
    return result


def _continue(
    prepared: Prepared, first: Solution, model: SceneModel, starts: list[np.ndarray]
) -> Solution:
    """Fit the pair with the prior and the weights of the single: the two can be compared."""
    variances = [1.0 / block.root**2 for block in first.done.system.blocks]
    done = run_pass(
        first.designs, variances, model, prepared.grid, starts,
        choice=first.done.choice, radius=prepared.radius, reuse=first.done,
    )  # fmt: skip
    return replace(first, done=done)


def _compared(
    single: SceneResult,
    binary: SceneResult,
    first: Solution,
    second: Solution,
    posterior: PairPosterior,
) -> BinaryResult:
    binary = _brighter_first(binary)
    delta = first.done.trial.objective - second.done.trial.objective
    epoch = single.components[0].epoch
    chosen = [
        n for name, n in zip(single.exposure_ids, single.n_pixels, strict=True)
        if epoch in ("all", name)
    ]  # fmt: skip
    fluxes = binary.fluxes[:2]
    ratio = float(fluxes[1] / fluxes[0]) if fluxes[0] > 0 else 0.0
    separation, error = binary.separation(binary.components[0].source, binary.components[1].source)
    return BinaryResult(
        single, binary, float(delta), float(delta - 3.0 * np.log(float(sum(chosen)))),
        separation, error, ratio, posterior,
    )  # fmt: skip


def _brighter_first(result: SceneResult) -> SceneResult:
    """Return the pair with A the brighter."""
    if result.fluxes[0] >= result.fluxes[1]:
        return result
    n = result.fluxes.size
    order = np.array([1, 0, *range(2, n)])
    m = 2 * len(result.positions)
    places = np.array([2, 3, 0, 1, *range(4, m)])
    a, b = result.positions[:2]
    return replace(
        result,
        fluxes=result.fluxes[order],
        covariance=result.covariance[np.ix_(order, order)],
        positions=(b._replace(source=a.source), a._replace(source=b.source), *result.positions[2:]),
        position_covariance=result.position_covariance[np.ix_(places, places)],
        cross_covariance=result.cross_covariance[np.ix_(order, places)],
        scale_errors=result.scale_errors[order],
    )
