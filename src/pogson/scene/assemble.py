"""From a solution to a `SceneResult`: covariances, chi2 per exposure, images and flags."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pogson.calib import FluxReference
from pogson.errors import CalibrationError
from pogson.scene.flags import SceneFlag
from pogson.scene.model import SceneModel
from pogson.scene.origins import SUSPECT_BELOW
from pogson.scene.passes import Pass
from pogson.scene.result import (
    FittedPosition,
    FluxComponent,
    SceneImages,
    SceneResult,
    position_of,
)

if TYPE_CHECKING:
    from pogson.scene.fit import Prepared, Solution

__all__ = ["assemble", "joint_covariance"]


def joint_covariance(done: Pass) -> np.ndarray:
    """Return the covariance of (fluxes, positions), scene and sky marginalised.

    Positions of sources whose flux is held at zero are not determined: NaN. All is NaN where
    moving sources coincide, so that fluxes and positions are not determined together: an
    unresolved pair, which `SceneFlag.FLAT_VALLEY` then reports.

    Raises
    ------
    CalibrationError
        If the fluxes of fixed sources are not determined.
    """
    trial, layout = done.trial, done.layout
    n, total = layout.n_fluxes, trial.matrix.shape[0]
    use = np.diag(trial.matrix) > 0
    for slot in range(len(layout.moving)):
        own = [j for j, c in enumerate(layout.components) if layout.slots.get(c[0]) == slot]
        if not trial.fluxes[own].any():
            use[n + 2 * slot : n + 2 * slot + 2] = False
    index = np.flatnonzero(use)
    inner = trial.matrix[np.ix_(index, index)]
    size = np.sqrt(np.diag(inner))
    covariance = np.full((total, total), np.nan)
    try:
        root = np.linalg.cholesky(inner / np.outer(size, size))
    except np.linalg.LinAlgError:
        if layout.moving:
            return covariance
        raise CalibrationError(
            "The fluxes are not determined (singular covariance): two sources coincide. Leave one "
            "out, or put them apart."
        ) from None
    inverse = np.linalg.inv(root)
    covariance[np.ix_(index, index)] = inverse.T @ inverse / np.outer(size, size)
    return covariance


def assemble(solution: Solution, prepared: Prepared, model: SceneModel) -> SceneResult:
    """Write a solution down.

    Parameters
    ----------
    solution : Solution
        The fit as numbers.
    prepared : Prepared
        What went in.
    model : SceneModel
        What was fitted.
    """
    done, designs = solution.done, solution.designs
    layout, trial = done.layout, done.trial
    n = layout.n_fluxes
    covariance = joint_covariance(done)
    names = tuple(d.exposure.exposure_id for d in designs)
    components = tuple(
        FluxComponent(
            model.sources[s].name, "all" if k is None else names[k],
            None if k is None else designs[k].exposure.time,
        )
        for s, k in layout.components
    )  # fmt: skip
    scene = np.zeros(designs[0].scene.shape[0])
    scene[done.keep] = done.scene_fluxes
    images, levels, chi2 = _images(done)
    counts = _parameter_counts(done, model)
    called = {d.exposure.psf.normalization for d in designs if d.exposure.psf is not None}
    flags = _flags(solution, prepared, model, covariance, chi2 / np.maximum(counts[1], 1.0))
    objective = trial.objective
    return SceneResult(
        components=components,
        fluxes=_frozen(trial.fluxes),
        covariance=_frozen(covariance[:n, :n]),
        reference=FluxReference.total(normalization=called.pop() if len(called) == 1 else None),
        positions=_positions(done, model, covariance),
        position_covariance=_frozen(covariance[n:, n:]),
        cross_covariance=_frozen(covariance[:n, n:]),
        exposure_ids=names,
        chi2_per_exposure=_frozen(chi2),
        n_pixels=np.array([d.good.size for d in designs]),
        dof_per_exposure=_frozen(counts[1]),
        chi2=float(chi2.sum()),
        objective=float(objective),
        n_parameters=int(
            done.keep.size + sum(d.sky.shape[0] for d in designs) + trial.matrix.shape[0]
        ),
        effective_parameters=counts[0],
        log_evidence=float("nan") if done.choice is None else done.choice.log_evidence,
        amplitude=None if done.choice is None else done.choice.amplitude,
        smoothness_arcsec=None if done.choice is None else done.choice.smoothness_arcsec,
        grid=prepared.grid,
        scene_fluxes=_frozen(scene),
        sky_levels=_frozen(np.array(levels)),
        noise_factors=_frozen(solution.factors),
        gains=solution.gains,
        flags=flags,
        dropped=dict(prepared.dropped),
        origins=solution.origins,
        starts=tuple(float(end.trial.objective) for end in done.ends),
        flux_zero_point=float(designs[0].exposure.flux_zero_point),
        common_modes={
            "zero_point": model.zero_point_error,
            "psf_normalization": model.psf_normalization_error,
        },
        scale_errors=_frozen(_scale_errors(done)),
        images=images,
        model=model,
    )


def _scale_errors(done: Pass) -> np.ndarray:
    """Return the relative zero-point error of the exposure of each flux."""
    blocks = done.system.blocks
    return np.array(
        [
            0.0 if k is None else blocks[k].design.exposure.scale_error
            for _, k in done.layout.components
        ]
    )


def _frozen(values: np.ndarray) -> np.ndarray:
    array = np.array(values)
    array.flags.writeable = False
    return array


def _images(done: Pass) -> tuple[dict[str, SceneImages], list[np.ndarray], np.ndarray]:
    """Return images, sky levels and chi2 of all exposures."""
    images, levels, chi2 = {}, [], np.empty(len(done.system.blocks))
    for k, block in enumerate(done.system.blocks):
        design = block.design
        sources, scene = done.source_image(k), done.scene_image(k)
        level = done.sky_level(k, scene + sources)
        scene = scene + level @ design.sky
        model = scene + sources
        chi2[k] = float(np.sum((block.root * (design.data - model)) ** 2))
        levels.append(level)
        parts = (design.data, model, scene, sources, design.data - model, 1.0 / block.root)
        images[design.exposure.exposure_id] = SceneImages(
            *(_frozen(design.image_of(part)) for part in parts)
        )
    return images, levels, chi2


def _parameter_counts(done: Pass, model: SceneModel) -> tuple[float, np.ndarray]:
    """Return effective parameters, and degrees of freedom per exposure.

    The scene's parameters are shared out in proportion to the information of each exposure, unless
    the noise was rescaled: then exactly.
    """
    blocks = done.system.blocks
    if model.noise_rescale:
        shares = done.system.effective_parameters()
    else:
        total = done.system.total_effective_parameters()
        weight = np.array([float(np.trace(b.normal)) for b in blocks])
        shares = total * weight / max(float(weight.sum()), 1e-300)
    own = np.array([float(b.design.sky.shape[0]) for b in blocks])
    for s, k in done.layout.components:
        for j in range(len(blocks)):
            seen = [c[0] for c in done.layout.seen[j]]
            if k == j or (k is None and s in seen):
                share = (
                    1.0
                    if k is not None
                    else 1.0
                    / sum(s in [c[0] for c in done.layout.seen[q]] for q in range(len(blocks)))
                )
                own[j] += share * (3.0 if s in done.layout.moving and k is not None else 1.0)
    pixels = np.array([float(b.root.size) for b in blocks])
    sky = sum(b.design.sky.shape[0] for b in blocks)
    effective = float(shares.sum()) + sky + done.trial.matrix.shape[0]
    return effective, pixels - shares - own


def _positions(done: Pass, model: SceneModel, covariance: np.ndarray) -> tuple[FittedPosition, ...]:
    n, result = done.layout.n_fluxes, []
    for slot, s in enumerate(done.layout.moving):
        source = model.sources[s]
        part = slice(n + 2 * slot, n + 2 * slot + 2)
        result.append(
            position_of(
                source.name, source.ra, source.dec,
                done.layout.offset(s, done.trial.theta), _frozen(covariance[part, part]),
            )
        )  # fmt: skip
    return tuple(result)


def _flags(
    solution: Solution,
    prepared: Prepared,
    model: SceneModel,
    covariance: np.ndarray,
    reduced: np.ndarray,
) -> SceneFlag:
    """Return what may be wrong."""
    done = solution.done
    layout, n = done.layout, done.layout.n_fluxes
    flags = SceneFlag(0)
    origins = solution.origins.values()
    pairs: list[tuple[SceneFlag, bool]] = [
        (SceneFlag.DROPPED, bool(prepared.dropped)),
        (SceneFlag.ORIGIN_MOVED, any(o.applied for o in origins)),
        (
            SceneFlag.ORIGIN_SUSPECT,
            any(not o.ambiguous and o.delta_chi2 < SUSPECT_BELOW for o in origins),
        ),
        (
            SceneFlag.NO_GAIN,
            bool(model.poisson)
            and any(
                g is None and not d.exposure.variance_includes_sources
                for g, d in zip(solution.gains, solution.designs, strict=True)
            ),
        ),
        (SceneFlag.NOT_CONVERGED, not done.best.converged),
        (SceneFlag.AT_LIMIT, done.best.at_limit),
        (SceneFlag.BAD_CHI2, bool(((reduced < 0.7) | (reduced > 1.4)).any())),
        (SceneFlag.ILL_CONDITIONED, done.system.reciprocal_condition < 1e-11),
        (SceneFlag.ROBUST, bool((solution.lost > 0.02).any())),
        (SceneFlag.NEGATIVE_FLUX, model.positive and bool((done.trial.fluxes == 0).any())),
    ]
    spread = np.diag(covariance)[n:]
    valley = spread.size > 0 and not bool(np.all(spread < (0.5 * prepared.fwhm_arcsec) ** 2))
    pairs.append((SceneFlag.FLAT_VALLEY, valley))
    pairs.append((SceneFlag.STARTS_DISAGREE, bool(layout.moving) and _disagree(done)))
    pairs.append((SceneFlag.MASKED_CORE, _masked_core(done)))
    everywhere = any(
        source.per_epoch and all(source.seen_in(d.exposure.exposure_id) for d in solution.designs)
        for source in model.sources
    )
    pairs.append((SceneFlag.NO_REFERENCE, everywhere and len(layout.components) > 0))
    for flag, present in pairs:
        if present:
            flags |= flag
    return flags


def _disagree(done: Pass) -> bool:
    """Return whether fewer than half of the starts reached the lowest minimum.

    All starts were followed with the same weights, which may differ from those of the end.
    """
    ends = np.array([end.trial.objective for end in done.ends])
    return bool(2 * np.count_nonzero(ends < ends.min() + 1e-3) < ends.size)


def _masked_core(done: Pass) -> bool:
    """Return whether masks or edges take a tenth of a source's light anywhere."""
    for k, rows in enumerate(done.rows):
        for i, (s, _) in enumerate(done.layout.seen[k]):
            design = done.system.blocks[k].design
            dx, de, weights = done.layout.nodes[s]
            xi, eta = done.layout.offset(s, done.trial.theta)
            x, y = design.maps[s].pixel(xi + dx, eta + de)
            whole = weights @ design.table.render(x, y, design.exposure.box).sum(axis=(1, 2))
            if rows[i].sum() < 0.9 * max(float(whole), 0.5):
                return True
    return False
