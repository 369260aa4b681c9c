"""Tests of whether a stamp was cut a pixel away from where it is said to be."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pogson.scene.design import ExposureDesign
from pogson.scene.passes import Pass
from pogson.scene.result import OriginTest

__all__ = ["ambiguous_axes", "candidate_moves", "shift_scan"]

AMBIGUOUS = 0.02
"""A target this near (pixels) to where rounding turns over makes a stamp's origin ambiguous."""
APPLY_BELOW = -9.0
"""An ambiguous origin is moved if chi2 changes by less than this."""
SUSPECT_BELOW = -25.0
"""An origin that is not ambiguous is called suspect below this."""


def ambiguous_axes(design: ExposureDesign) -> tuple[bool, bool]:
    """Return whether rounding the target's x and y was a close call, per axis.

    Stamps are cut about a rounded position: where the fractional part is within 0.02 of turning
    over, a slightly different position was perhaps used. Both whole and half pixels are places
    where rules of rounding turn over.
    """
    if design.exposure.origin_exact:
        return False, False
    near = []
    for value in design.center:
        whole = abs(value - np.floor(value + 0.5))
        half = abs(value - 0.5 - np.floor(value))
        near.append(bool(min(whole, half) < AMBIGUOUS))
    return near[0], near[1]


def shift_scan(done: Pass, k: int) -> dict[tuple[int, int], float]:
    """Return how chi2 changes when an exposure is moved below its model image.

    The model image, as fitted, is compared with the data moved by up to a pixel on the pixels
    common to both, sky free. Nothing is fitted again.

    Parameters
    ----------
    done : Pass
        A solution.
    k : int
        Number of the exposure.

    Returns
    -------
    changes : dict
        Change of chi2 by (dx, dy), 0 for no move.
    """
    design = done.system.blocks[k].design
    light = design.image_of(done.scene_image(k) + done.source_image(k))
    data = design.image_of(design.data)
    root = design.image_of(done.system.blocks[k].root)
    ny, nx = data.shape
    changes = {(0, 0): 0.0}
    if min(ny, nx) < 5:
        return changes
    inner = (slice(1, ny - 1), slice(1, nx - 1))
    for dx, dy in candidate_moves((True, True)):
        # the pixel now called i was called i - dx: it shows the model of pixel i + dx
        moved = light[1 + dy : ny - 1 + dy, 1 + dx : nx - 1 + dx]
        both = np.isfinite(moved) & np.isfinite(light[inner]) & np.isfinite(data[inner])
        change = _chi2(data[inner], moved, root[inner], both)
        changes[dx, dy] = change - _chi2(data[inner], light[inner], root[inner], both)
    return changes


def _chi2(data: np.ndarray, light: np.ndarray, root: np.ndarray, use: np.ndarray) -> float:
    """Return chi2 with a constant sky fitted."""
    rest, weight = (data - light)[use], root[use] ** 2
    if rest.size == 0:
        return 0.0
    sky = float(np.sum(weight * rest) / np.sum(weight))
    return float(np.sum(weight * (rest - sky) ** 2))


def candidate_moves(axes: tuple[bool, bool]) -> list[tuple[int, int]]:
    """Return the moves to try for the axes that are ambiguous.

    Examples
    --------
    >>> candidate_moves((True, False))
    [(-1, 0), (1, 0)]
    """
    xs = (-1, 0, 1) if axes[0] else (0,)
    ys = (-1, 0, 1) if axes[1] else (0,)
    return [(dx, dy) for dy in ys for dx in xs if (dx, dy) != (0, 0)]


def settle_origins(
    designs: Sequence[ExposureDesign],
    done: Pass,
    rebuild: Callable[[ExposureDesign, int, int], ExposureDesign],
    solve: Callable[[list[ExposureDesign]], Pass],
) -> tuple[list[ExposureDesign], Pass, dict[str, OriginTest]]:
    """Test every origin, move the ambiguous ones that gain by it.

    Parameters
    ----------
    designs : sequence of ExposureDesign
        Exposures in place.
    done : Pass
        Their solution.
    rebuild : callable
        Makes the design of a moved exposure.
    solve : callable
        Solves a set of designs.

    Returns
    -------
    designs : list of ExposureDesign
        Exposures where they belong.
    done : Pass
        Their solution.
    tests : dict
        What was found, by exposure.
    """
    current, tests = list(designs), {}
    scans = [shift_scan(done, k) for k in range(len(current))]
    for k, design in enumerate(designs):
        name = design.exposure.exposure_id
        axes = ambiguous_axes(design)
        best: tuple[int, int, float] = (0, 0, 0.0)
        if any(axes):
            for dx, dy in candidate_moves(axes):
                if scans[k].get((dx, dy), 0.0) > -APPLY_BELOW:
                    continue
                trial = [*current[:k], rebuild(design, dx, dy), *current[k + 1 :]]
                solved = solve(trial)
                change = solved.trial.objective - done.trial.objective
                if change < best[2]:
                    best, chosen = (dx, dy, change), (trial, solved)
            applied = best[2] < APPLY_BELOW
            if applied:
                current, done = chosen
            tests[name] = OriginTest(*best, True, applied)
        else:
            move = min(scans[k], key=lambda m: scans[k][m])
            tests[name] = OriginTest(*move, scans[k][move], False, False)
    return current, done, tests
