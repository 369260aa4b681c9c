r"""The posterior of an unresolved or barely resolved pair: intervals that hold where errors do not.

Below about a PSF width the likelihood of two sources is a curved valley (a close equal pair and a
wide unequal one have the same second moments), and no covariance at its bottom describes it. Here
the posterior itself is sampled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from pogson.errors import CalibrationError
from pogson.scene.passes import Pass
from pogson.scene.positions import SourceLayout
from pogson.scene.solve import Columns

__all__ = ["Interval", "PairPosterior", "sample_pair"]

_PARTICLES = 512
_TURNS = 10
_KEPT = 12
_RANK_CUT = 1e-7
_QUANTILES = (0.158655, 0.5, 0.841345)


class Interval(NamedTuple):
    """Median and central 68.3 % interval of a posterior.

    Examples
    --------
    >>> Interval(1.0, 2.0, 3.0).covers(2.5)
    True
    """

    low: float
    """15.9 % quantile."""
    median: float
    """50 % quantile."""
    high: float
    """84.1 % quantile."""

    def covers(self, value: float) -> bool:
        """Return whether a value lies within.

        Parameters
        ----------
        value : float
            The value.
        """
        return self.low <= value <= self.high


@dataclass(frozen=True, eq=False)
class PairPosterior:
    """Samples of the posterior of a pair, and what they say.

    Attributes
    ----------
    flux_a, flux_b : numpy.ndarray, shape (n,)
        Fluxes of the brighter and the fainter source.
    offset_a, offset_b : numpy.ndarray, shape (n, 2)
        Offsets (east, north) in arcsec from the nominal position.
    log_bayes_factor : float
        Log evidence of the pair less that of a single source with free position.
    acceptance : float
        Share of the last moves that were taken.

    Notes
    -----
    Priors: the centre of light uniform, as for the single source; total flux uniform; separation
    uniform up to twice the search radius, all directions alike; ratio of fluxes uniform from 0 to
    1; both sources within the search radius.

    Examples
    --------
    >>> flux = np.linspace(0.0, 100.0, 1001)
    >>> samples = PairPosterior(100 + flux, flux, np.zeros((1001, 2)),
    ...                         np.full((1001, 2), 0.3), 5.0, 0.3)
    >>> round(samples.intervals["flux_b"].median, 6)
    50.0
    """

    flux_a: np.ndarray
    flux_b: np.ndarray
    offset_a: np.ndarray
    offset_b: np.ndarray
    log_bayes_factor: float
    acceptance: float

    @property
    def intervals(self) -> Mapping[str, Interval]:
        """`Interval` of flux_a, flux_b, flux_total, flux_ratio and separation (arcsec)."""
        vector = self.offset_b - self.offset_a
        values = {
            "flux_a": self.flux_a,
            "flux_b": self.flux_b,
            "flux_total": self.flux_a + self.flux_b,
            "flux_ratio": self.flux_b / self.flux_a,
            "separation": np.hypot(vector[:, 0], vector[:, 1]),
        }
        return MappingProxyType(
            {k: Interval(*(float(q) for q in np.quantile(v, _QUANTILES)))
             for k, v in values.items()}
        )  # fmt: skip


class _Stars(NamedTuple):
    """Stars about a place as splines of short vectors."""

    coefficients: np.ndarray
    half: float
    step: float
    z: np.ndarray


def sample_pair(
    done: Pass, source: int, radius: float, fwhm_arcsec: float, rng: np.random.Generator
) -> PairPosterior:
    """Sample the posterior of a source as a pair.

    Scene, sky and the fluxes of all other sources are marginalised; other fitted positions are
    held where they are.

    Parameters
    ----------
    done : Pass
        The solution with the source single.
    source : int
        Number of the source.
    radius : float
        Search radius in arcsec.
    fwhm_arcsec : float
        Width of the sharpest PSF.
    rng : numpy.random.Generator
        Random stream.

    Raises
    ------
    CalibrationError
        If no start of the sampling has any likelihood.

    Notes
    -----
    Sequential Monte Carlo (Del Moral et al. 2006, J. R. Statist. Soc. B 68, 411): 512 pairs drawn
    from the prior, the likelihood raised to its power in steps that halve the effective sample,
    each followed by ten moves of every pair (stretch moves of Goodman & Weare 2010, Comm. App.
    Math. Comp. Sci. 5, 65, and differential evolution of ter Braak 2006, Stat. Comput. 16, 239).
    """
    stars = _tabulate(done, source, radius, fwhm_arcsec)
    longest = 2.0 * radius
    args = (*stars, radius, longest)
    from pogson.scene import _pair_kernels as kernels

    places, values = _prior_draws(args, radius, longest, rng)
    power, evidence, share = 0.0, 0.0, 0.0
    while power < 1.0:
        step = _next_step(values, 1.0 - power)
        weights = step * values
        top = float(weights.max())
        weights = np.exp(weights - top)
        evidence += top + float(np.log(weights.mean()))
        places = places[_resampled(weights, rng)]
        values = kernels.log_likelihoods(*args, places)
        power = min(power + step, 1.0)
        share = kernels.sweep(rng, *args, places, values, power, _TURNS)
    kept = []
    for _ in range(_KEPT):
        share = kernels.sweep(rng, *args, places, values, 1.0, _TURNS // 2)
        kept.append(places.copy())
    chosen = np.concatenate(kept)
    moments = kernels.flux_moments(*stars, chosen)
    total = np.abs(rng.normal(moments[:, 0], moments[:, 1]))
    share_b = chosen[:, 4] / (1.0 + chosen[:, 4])
    middle, vector = chosen[:, :2], chosen[:, 2:4]
    single = _single_evidence(args, done.layout.offset(source, done.trial.theta), radius)
    return PairPosterior(
        total * (1.0 - share_b), total * share_b,
        middle - vector * share_b[:, None], middle + vector * (1.0 - share_b)[:, None],
        evidence - single, float(share),
    )  # fmt: skip


def _tabulate(done: Pass, source: int, radius: float, fwhm_arcsec: float) -> _Stars:
    """Render stars on a grid of places, and reduce them to short vectors.

    Vectors w are such that w_i w_j is the product of two stars with all else eliminated, and w z
    that of a star with the data.
    """
    from scipy.ndimage import spline_filter1d

    system, layout = done.system, done.layout
    step = min(fwhm_arcsec / 14.0, radius / 8.0)
    count = 2 * (int(np.ceil(radius / step)) + 3) + 1
    half = 0.5 * (count - 1) * step
    axis = (np.arange(count) - 0.5 * (count - 1)) * step
    eta, xi = (g.ravel() for g in np.meshgrid(axis, axis, indexing="ij"))
    seen = [k for k in range(len(system.blocks)) if source in [s for s, _ in layout.seen[k]]]
    parts = [system.blocks[k].project(_stars_of(layout, done, k, source, xi, eta)) for k in seen]
    rows = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    sample = rows[:: max(1, count * count // 300)]
    _, values, basis = np.linalg.svd(sample, full_matrices=False)
    basis = basis[values > _RANK_CUT * values[0]]
    matrix, rhs = _reduced(done, source, seen, basis)
    size, vectors = np.linalg.eigh(matrix)
    use = size > 1e-12 * size[-1]
    root = vectors[:, use] * np.sqrt(size[use])
    w = (rows @ (basis.T @ root)).reshape(count, count, -1)
    for k in (0, 1):
        w = spline_filter1d(w, axis=k)
    z = vectors[:, use].T @ rhs / np.sqrt(size[use])
    return _Stars(np.ascontiguousarray(w), half, step, np.ascontiguousarray(z))


def _stars_of(
    layout: SourceLayout, done: Pass, k: int, source: int, xi: np.ndarray, eta: np.ndarray
) -> np.ndarray:
    """Return unit-flux images of a source at many offsets, trails as they are."""
    dx, de, weights = layout.nodes[source]
    design = done.system.blocks[k].design
    total = weights[0] * design.stars(source, xi + dx[0], eta + de[0])
    for a, b, w in zip(dx[1:], de[1:], weights[1:], strict=True):
        total += w * design.stars(source, xi + a, eta + b)
    return total


def _reduced(
    done: Pass, source: int, seen: list[int], basis: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the normal equations of basis images, scene, sky and other sources eliminated."""
    system, layout, size = done.system, done.layout, len(basis)
    others = [j for j, (s, _) in enumerate(layout.components) if s != source]
    parts, at = [], 0
    for k, block in enumerate(system.blocks):
        rows, index = [np.empty((0, block.root.size))], [np.empty(0, int)]
        if k in seen:
            rows.append(basis[:, at : at + block.root.size])
            index.append(np.arange(size))
            at += block.root.size
        for i, (s, j) in enumerate(layout.seen[k]):
            if s != source:
                rows.append(block.project(done.rows[k][i : i + 1]))
                index.append(np.array([size + others.index(j)]))
        parts.append((k, np.concatenate(rows), np.concatenate(index)))
    reduced = system.eliminate(Columns(parts, size + len(others)))
    matrix, rhs = reduced.matrix, reduced.rhs
    if others:
        share = np.linalg.solve(matrix[size:, size:], matrix[size:, :size])
        rhs = rhs[:size] - share.T @ rhs[size:]
        matrix = matrix[:size, :size] - matrix[:size, size:] @ share
    return matrix[:size, :size], rhs[:size]


def _prior_draws(
    args: tuple[np.ndarray | float, ...], radius: float, longest: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    from pogson.scene import _pair_kernels as kernels

    found = np.empty((0, 5))
    values = np.empty(0)
    for _ in range(50):
        n = 4 * _PARTICLES
        distance, turn = radius * np.sqrt(rng.random(n)), rng.uniform(0, 2 * np.pi, n)
        length, angle = longest * rng.random(n), rng.uniform(0, 2 * np.pi, n)
        places = np.stack(
            [distance * np.cos(turn), distance * np.sin(turn), length * np.cos(angle),
             length * np.sin(angle), rng.random(n)], axis=1,
        )  # fmt: skip
        value = kernels.log_likelihoods(*args, places)
        good = value > -1e299
        found = np.concatenate([found, places[good]])
        values = np.concatenate([values, value[good]])
        if len(found) >= _PARTICLES:
            return found[:_PARTICLES], values[:_PARTICLES]
    raise CalibrationError("The pair cannot be sampled: no place near the target has any light.")


def _next_step(values: np.ndarray, most: float) -> float:
    """Return the step of the power that leaves half of the sample effective."""
    low, high = 0.0, most
    spread = values - values.max()

    def effective(step: float) -> float:
        weights = np.exp(step * spread)
        return float(weights.sum() ** 2 / np.sum(weights**2)) / values.size

    if effective(most) > 0.5:
        return most
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if effective(middle) > 0.5 else (low, middle)
    return high


def _resampled(weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return numbers drawn in proportion to weights, evenly (systematic resampling), shuffled."""
    edges = np.cumsum(weights) / weights.sum()
    at = (np.arange(weights.size) + rng.random()) / weights.size
    chosen = np.minimum(np.searchsorted(edges, at), weights.size - 1)
    return rng.permutation(chosen)


def _single_evidence(
    args: tuple[np.ndarray | float, ...], at: tuple[float, float], radius: float
) -> float:
    """Return the log evidence of one source: the mean likelihood over the disk of places."""
    from pogson.scene import _pair_kernels as kernels

    def at_places(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        places = np.zeros((x.size, 5))
        places[:, 0], places[:, 1] = x, y
        return kernels.log_likelihoods(*args, places)

    # the width of the peak from its curvature, then sums over a grid that covers it
    h = 1e-3 * radius
    line = at_places(
        at[0] + h * np.array([0, 1, -1, 0, 0.0]), at[1] + h * np.array([0, 0, 0, 1, -1.0])
    )
    bend = np.array([line[1] + line[2], line[3] + line[4]]) - 2 * line[0]
    sigma = h / np.sqrt(np.maximum(-bend, (2 * h / radius) ** 2))
    axis = np.linspace(-7.0, 7.0, 57)
    gx, gy = (g.ravel() for g in np.meshgrid(axis * sigma[0], axis * sigma[1]))
    values = at_places(at[0] + gx, at[1] + gy)
    top = float(values.max())
    cell = (axis[1] - axis[0]) ** 2 * sigma[0] * sigma[1]
    return top + float(np.log(np.exp(values - top).sum() * cell / (np.pi * radius**2)))
