"""Least squares for the levels by which the backgrounds of visits differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pogson.fields import ChebyshevField

if TYPE_CHECKING:
    from pogson.images.background_matching import BackgroundSamples

__all__ = ["LevelSystem", "in_gauge", "level_shape", "shared_rows", "with_values"]


def shared_rows(samples: BackgroundSamples, terms: int) -> tuple[np.ndarray, list[int]]:
    """Return which rows are of bins that several matched visits share, and the other visits."""
    n = len(samples.visits)
    keep = np.isfinite(samples.value) & np.isfinite(samples.error) & (samples.error > 0)
    while True:
        per_bin = np.bincount(samples.cell[keep], minlength=len(samples.bins))
        keep &= per_bin[samples.cell] > 1
        count = np.bincount(samples.visit[keep], minlength=n)
        few = np.flatnonzero((count > 0) & (count < terms))
        if few.size == 0:
            return keep, [int(k) for k in np.flatnonzero(count == 0)]
        keep &= ~np.isin(samples.visit, few)


def level_shape(samples: BackgroundSamples, k: int, degree: int) -> ChebyshevField:
    """Return a level of zero whose polynomials run over the bins of a visit."""
    b = samples.box
    at = samples.bins[samples.cell[samples.visit == k]]
    domain = (*b.x_bounds, *b.y_bounds)
    if at.size:
        (x0, y0), (x1, y1) = at.min(axis=0) - 8.0, at.max(axis=0) + 8.0
        domain = (float(x0), float(x1), float(y0), float(y1))
    return ChebyshevField(b, np.zeros((degree + 1, degree + 1)), samples.unit, domain=domain,
                          total=True)  # fmt: skip


def with_values(shape: ChebyshevField, values: np.ndarray) -> ChebyshevField:
    """Return a level with other free coefficients."""
    table = np.zeros(shape.coefficients.shape)
    for (j, i), value in zip(shape.free_coefficients, values, strict=True):
        table[j, i] = value
    return ChebyshevField(shape.box, table, shape.unit, domain=shape.domain, total=True)


class LevelSystem:
    """Normal equations of the levels, in which the sky of every bin is eliminated."""

    def __init__(
        self, samples: BackgroundSamples, shapes: Sequence[ChebyshevField], terms: int
    ) -> None:
        from scipy import sparse

        visit, n = samples.visit, samples.visit.size
        basis = np.zeros((n, terms))
        for k, shape in enumerate(shapes):
            mine = visit == k
            if mine.any():
                x, y = samples.bins[samples.cell[mine]].T
                basis[mine] = shape.basis(x=x, y=y)
        columns = (visit[:, None] * terms + np.arange(terms)).ravel()
        size = len(samples.visits) * terms
        self._design = sparse.csr_matrix(
            (basis.ravel(), columns, np.arange(0, n * terms + 1, terms)), shape=(n, size)
        )
        self._bins = sparse.csr_matrix(
            (np.ones(n), (samples.cell, np.arange(n))), shape=(len(samples.bins), n)
        )
        self._value = samples.value
        self._n_free = n - int(np.unique(samples.cell).size)

    def model(self, coefficients: np.ndarray) -> np.ndarray:
        """Return the level of every row."""
        return np.asarray(self._design @ coefficients)

    def centred(self, values: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Return values less the weighted mean of their bin."""
        total = self._bins @ weight
        mean = (self._bins @ (weight * values)) / np.where(total > 0, total, 1.0)
        return np.asarray(values - self._bins.T @ mean)

    def rms(self, values: np.ndarray, weight: np.ndarray) -> float:
        """Return the scatter about the mean of the bins in units of the errors."""
        square = weight @ self.centred(values, weight) ** 2
        return float(np.sqrt(square / max(self._n_free, 1)))

    def solve(self, weight: np.ndarray) -> np.ndarray:
        """Return the coefficients; the smallest ones where a combination is free."""
        from scipy import sparse
        from scipy.linalg import eigh

        weighted = self._design.multiply(weight[:, None]).tocsr()
        total = self._bins @ weight
        share = sparse.diags(1.0 / np.where(total > 0, total, 1.0))
        by_bin = self._bins @ weighted
        matrix = (weighted.T @ self._design - by_bin.T @ share @ by_bin).toarray()
        right = weighted.T @ self.centred(self._value, weight)
        scale = np.sqrt(np.maximum(weighted.multiply(self._design).sum(axis=0).A1, 1e-300))
        scale[scale < 1e-100] = 1.0
        values, vectors = eigh(matrix / scale[:, None] / scale)
        good = values > 1e-10 * max(float(values[-1]), 1e-300)
        inverse = np.where(good, 1.0 / np.where(good, values, 1.0), 0.0)
        return np.asarray(vectors @ (inverse * (vectors.T @ (right / scale))) / scale)


def in_gauge(
    samples: BackgroundSamples,
    shapes: Sequence[ChebyshevField],
    table: np.ndarray,
    weight: np.ndarray,
    reference: int | None,
) -> np.ndarray:
    """Return coefficients less what all visits that hang together have in common."""
    from scipy import sparse

    visit, cell = samples.visit, samples.cell
    member = sparse.csr_matrix(
        (np.ones(visit.size), (visit, cell)), shape=(len(shapes), len(samples.bins))
    )
    _, group = sparse.csgraph.connected_components(member @ member.T, directed=False)
    out = table.copy()
    for label in np.unique(group[visit]):
        mine = np.flatnonzero(group == label)
        mine = mine[np.isin(mine, visit)]
        rows = np.isin(visit, mine)
        x, y = samples.bins[cell[rows]].T
        if reference is not None and reference in mine:
            base, common = shapes[reference], table[reference]
        else:
            base = level_shape(replace(samples, visit=np.where(rows, 0, 1)), 0, shapes[0].order_x)
            levels = np.empty(x.size)
            for k in mine.tolist():
                of = visit[rows] == k
                levels[of] = shapes[k].basis(x=x[of], y=y[of]) @ table[k]
            root = np.sqrt(weight[rows])
            common = np.linalg.lstsq(base.basis(x=x, y=y) * root[:, None], levels * root,
                                     rcond=1e-12)[0]  # fmt: skip
        for k in mine.tolist():
            x0, x1, y0, y1 = shapes[k].domain
            t = np.cos(np.pi * (np.arange(8) + 0.5) / 8)
            mx, my = np.meshgrid(0.5 * (x0 + x1 + (x1 - x0) * t), 0.5 * (y0 + y1 + (y1 - y0) * t))
            gx, gy = mx.ravel(), my.ravel()
            values = base.basis(x=gx, y=gy) @ common
            out[k] -= np.linalg.lstsq(shapes[k].basis(x=gx, y=gy), values, rcond=1e-12)[0]
    return out
