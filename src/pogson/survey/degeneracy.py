"""What a calibration cannot know, by name: degenerate combinations, loose sets, weak exposures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pogson.survey.normal import NormalBlocks, Prepared, Weighting, accumulate
from pogson.survey.observations import Observations
from pogson.survey.solve import SINGULAR, DenseSystem, Priors, blas_threads, dense_system
from pogson.survey.terms import Constraint, Model

__all__ = ["Connections", "Degeneracy", "connections", "find_degeneracies"]


@dataclass(frozen=True, eq=False)
class Degeneracy:
    """A combination of parameters that no data, prior or constraint determines.

    Parameters
    ----------
    vector : numpy.ndarray, shape (P,)
        The combination, largest element 1 in absolute value.
    terms : tuple of str
        Terms that take part.
    text : str
        What it is, in words.

    Examples
    --------
    >>> import numpy as np
    >>> Degeneracy(np.ones(2), ("a",), "a constant added to a").text
    'a constant added to a'
    """

    vector: np.ndarray
    terms: tuple[str, ...]
    text: str

    def gauge(self, parameters: np.ndarray) -> Constraint:
        """Return the constraint that keeps this combination where it is."""
        columns = np.flatnonzero(np.abs(self.vector) > 1e-9)
        values = self.vector[columns] / np.sum(self.vector[columns] ** 2)
        return Constraint(
            f"gauge: {self.text}", columns, values, float(values @ parameters[columns])
        )


def null_vectors(system: DenseSystem) -> np.ndarray:
    """Null space of a scaled normal matrix by pivoted Cholesky, shape (nulls, P), unscaled."""
    from scipy.linalg import lapack, solve_triangular

    A = np.triu(system.matrix)
    A = A + np.triu(A, 1).T
    n = A.shape[0]
    with blas_threads(n):
        U, piv, rank, _ = lapack.dpstrf(A, tol=SINGULAR, lower=0)
        if rank == n:
            values, vectors = np.linalg.eigh(A)
            return np.asarray((vectors[:, values < SINGULAR * n] * system.scale[:, None]).T)
        order = piv - 1
        upper = np.triu(U[:rank, :rank])
        top = -solve_triangular(upper, U[:rank, rank:])
    out = np.zeros((n - rank, n))
    out[:, order[:rank]] = top.T
    out[np.arange(n - rank), order[rank:]] = 1.0
    out *= system.scale
    return np.asarray(out / np.abs(out).max(axis=1, keepdims=True))


def _describe(model: Model, vector: np.ndarray) -> Degeneracy:
    parts, names = [], []
    for t in model.terms:
        v = vector[model.slice(t.name)]
        on = np.flatnonzero(np.abs(v) > 1e-6)
        if not on.size:
            continue
        names.append(t.name)
        labels = t.parameter_names(model.tables)
        which = f"all {v.size}" if on.size == v.size else f"{on.size} of {v.size}"
        if v.size == 1 or on.size == 1:
            parts.append(f"{t.name}[{labels[on[0]]}] ({v[on[0]]:+.3g})")
        elif np.ptp(v[on]) < 1e-6 * np.abs(v[on]).max():
            shown = ", ".join(labels[i] for i in on[:4]) + (", ..." if on.size > 4 else "")
            parts.append(f"the same {v[on[0]]:+.3g} to {which} of {t.name} [{shown}]")
        else:
            top = on[np.argsort(-np.abs(v[on]))[:3]]
            shown = ", ".join(f"{labels[i]}: {v[i]:+.3g}" for i in sorted(top))
            parts.append(f"a pattern over {which} of {t.name} [{shown}, ...]")
    text = "adding " + "; and ".join(parts) + " changes no residual (star magnitudes follow)"
    return Degeneracy(vector, tuple(names), text)


def degeneracies_of(model: Model, blocks: NormalBlocks, priors: Priors) -> list[Degeneracy]:
    """Name the null vectors of normal equations."""
    return [_describe(model, v) for v in null_vectors(dense_system(blocks, priors))]


def find_degeneracies(
    model: Model, observations: Observations, *, weighting: Weighting | None = None
) -> list[Degeneracy]:
    """Name the combinations of parameters that these observations cannot determine.

    Parameters
    ----------
    model : Model
        Terms, with their priors and constraints.
    observations : Observations
        Detections.
    weighting : Weighting, optional
        Whether references take part.

    Returns
    -------
    list of Degeneracy
        Empty if the solution is unique. Parameters that no detection touches are not listed here.

    Notes
    -----
    The null space of the normal matrix by Cholesky with complete pivoting (LAPACK ``pstrf``), after
    scaling to a unit diagonal.

    Examples
    --------
    >>> from pogson.survey import (Detectors, Exposures, ExposureZeroPoint, Model, Observations,
    ...     Stars, SurveyTables)
    >>> tables = SurveyTables(Exposures([1, 2]), Detectors([0]))
    >>> obs = Observations.from_columns(tables, Stars([5]), star=[0, 0], exposure=[0, 1],
    ...     detector=0, x=0, y=0, mag=[-9.0, -8.8], mag_err=0.1)
    >>> print(find_degeneracies(Model([ExposureZeroPoint()], tables), obs)[0].text)
    adding the same +1 to all 2 of exposure_zero_point [1, 2] changes no residual (star magnitudes
    follow)
    """
    blocks = accumulate(model, observations, weighting=weighting)
    return degeneracies_of(model, blocks, Priors.of(model, model.start(), blocks.information))


@dataclass(frozen=True, eq=False)
class Connections:
    """How exposures hang together through the stars they share.

    Parameters
    ----------
    group : numpy.ndarray of int, shape (exposures,)
        Number of the connected set of each exposure, the largest first; -1: no usable detection.
    anchored : numpy.ndarray of bool, shape (groups,)
        Whether a set holds stars with reference magnitudes.
    shared : numpy.ndarray of int, shape (exposures,)
        Stars that tie an exposure to another one or to a reference.
    identifier : numpy.ndarray of int
        Identifiers of the exposures.

    Examples
    --------
    >>> import numpy as np
    >>> one = Connections(np.array([0, 1]), np.array([True, False]), np.array([9, 1]),
    ...                   np.array([11, 12]))
    >>> one.weak(3)
    array([12])
    """

    group: np.ndarray
    anchored: np.ndarray
    shared: np.ndarray
    identifier: np.ndarray

    @property
    def count(self) -> int:
        """Number of connected sets."""
        return int(self.anchored.size)

    def members(self, group: int) -> np.ndarray:
        """Return the identifiers of the exposures of a set."""
        return np.asarray(self.identifier[self.group == group])

    def weak(self, minimum: int) -> np.ndarray:
        """Return identifiers of exposures tied by fewer than ``minimum`` stars."""
        return np.asarray(self.identifier[self.shared < minimum])

    def describe(self, minimum: int = 3) -> list[str]:
        """Return what is wrong, one sentence each; empty if all hangs together."""
        out = []
        if self.count > 1:
            for g in range(self.count):
                ids = self.members(g)
                how = "anchored by references" if self.anchored[g] else "with no reference"
                shown = ", ".join(map(str, ids[:6])) + (", ..." if ids.size > 6 else "")
                out.append(
                    f"set {g + 1} of {self.count} disconnected sets: {ids.size} exposures "
                    f"[{shown}], {how}"
                )
        weak = self.weak(minimum)
        if weak.size:
            shown = ", ".join(map(str, weak[:6])) + (", ..." if weak.size > 6 else "")
            out.append(f"{weak.size} exposures are tied by fewer than {minimum} stars: {shown}")
        return out


def connections(p: Prepared, observations: Observations) -> Connections:
    """Find the connected sets of exposures among prepared detections."""
    from pogson.survey._schur_kernels import connect, shared_stars

    n = len(observations.tables.exposures)
    node = np.asarray(observations.exposure)
    parent = np.arange(n + 1, dtype=np.int64)
    count, last = np.zeros(n, np.int64), np.full(n, -1, np.int64)
    no_reference = np.zeros_like(p.ref_weight)
    connect(p.start, node, p.weight, no_reference, parent)
    shared_stars(p.start, node, p.weight, p.ref_weight, count, last)
    root = np.arange(n)
    for i in range(n):
        a = i
        while parent[a] != a:
            a = int(parent[a])
        root[i] = a
    used = np.bincount(node[p.weight > 0], minlength=n) > 0
    sets, sizes = np.unique(root[used], return_counts=True)
    order = np.argsort(-sizes, kind="stable")
    group = np.full(n, -1)
    for rank, k in enumerate(order):
        group[used & (root == sets[k])] = rank
    with_ref = np.repeat(p.ref_weight > 0, np.diff(p.start)) & (p.weight > 0)
    anchored = np.zeros(sets.size, bool)
    anchored[np.unique(group[node[with_ref]])] = True
    return Connections(group, anchored, count, observations.tables.exposures.identifier)
