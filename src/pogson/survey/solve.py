"""Solve the normal equations: dense with the full covariance, or by conjugate gradients.

Up to about ten thousand parameters the Schur complement is a dense matrix, factored by Cholesky.
Above, it is only applied (`SchurOperator`), and the covariance is represented by draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pogson.errors import CalibrationError
from pogson.parallel import usable_cores
from pogson.survey.normal import NormalBlocks, Prepared, share
from pogson.survey.terms import Constraint, Model

__all__ = ["Covariance", "DenseCovariance", "SampledCovariance", "SchurOperator", "solve_dense"]

SINGULAR = 1e-11  # of a squared pivot relative to its diagonal element


class Covariance:
    """Covariance of all parameters of a solution, whichever way it is known.

    Examples
    --------
    >>> import numpy as np
    >>> DenseCovariance(np.diag([4.0, 9.0])).block([1])
    array([[9.]])
    """

    def block(self, columns: Any) -> np.ndarray:
        """Return the covariance matrix of some parameters."""
        raise NotImplementedError

    def variance(self) -> np.ndarray:
        """Return the variance of every parameter."""
        raise NotImplementedError

    def quadratic(self, base: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """Return ``v C v`` for sparse vectors: columns (n, k) and values (n, k)."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class DenseCovariance(Covariance):
    """The exact covariance matrix.

    Parameters
    ----------
    matrix : numpy.ndarray, shape (P, P)
        Symmetric.

    Examples
    --------
    >>> import numpy as np
    >>> DenseCovariance(np.eye(2)).variance()
    array([1., 1.])
    """

    matrix: np.ndarray

    def block(self, columns: Any) -> np.ndarray:
        """Return the covariance matrix of some parameters."""
        c = np.asarray(columns, np.int64)
        return np.asarray(self.matrix[np.ix_(c, c)])

    def variance(self) -> np.ndarray:
        """Return the variance of every parameter."""
        return np.array(np.diag(self.matrix))

    def quadratic(self, base: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """Return ``v C v`` for sparse vectors: columns (n, k) and values (n, k)."""
        out = np.zeros(base.shape[0])
        for i in range(base.shape[1]):
            for j in range(base.shape[1]):
                out += vectors[:, i] * vectors[:, j] * self.matrix[base[:, i], base[:, j]]
        return out


@dataclass(frozen=True, eq=False)
class SampledCovariance(Covariance):
    """A covariance represented by draws of the parameters' errors.

    Parameters
    ----------
    draws : numpy.ndarray, shape (P, K)
        Draws from a normal distribution with the covariance; the relative error of a variance is
        ``sqrt(2 / K)``.

    Examples
    --------
    >>> import numpy as np
    >>> SampledCovariance(np.array([[1.0, -1.0]])).variance()
    array([1.])
    """

    draws: np.ndarray

    def block(self, columns: Any) -> np.ndarray:
        """Return the covariance matrix of some parameters (rank at most K)."""
        x = self.draws[np.asarray(columns, np.int64)]
        return np.asarray(x @ x.T / x.shape[1])

    def variance(self) -> np.ndarray:
        """Return the variance of every parameter."""
        return np.asarray(np.mean(self.draws**2, axis=1))

    def quadratic(self, base: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """Return ``v C v`` for sparse vectors: columns (n, k) and values (n, k)."""
        x = np.einsum("nk,nkr->nr", vectors, self.draws[base])
        return np.asarray(np.mean(x * x, axis=1))


@dataclass(frozen=True, eq=False)
class Priors:
    """Priors and constraints as additions to the normal equations at current parameters."""

    diagonal: np.ndarray
    vector: np.ndarray
    rows: tuple[Constraint, ...]
    gaps: np.ndarray  # target minus present value of each constraint
    chi2: float

    @classmethod
    def of(cls, model: Model, parameters: np.ndarray, information: np.ndarray) -> Priors:
        """Collect them; parameters that no detection touches leave the constraints."""
        mean, sigma = model.prior()
        diagonal = 1.0 / sigma**2
        gap = mean - parameters
        rows, gaps, chi2 = [], [], float(np.sum(gap**2 * diagonal))
        for c in model.constraints():
            kept = information[c.columns] > 0
            if not kept.any():
                continue
            values = c.values[kept]
            if not kept.all() and np.ptp(c.values) == 0:
                values = values * (c.values.sum() / values.sum())
            row = Constraint(c.name, c.columns[kept], values, c.target, c.sigma)
            rows.append(row)
            gaps.append(c.target - float(values @ parameters[row.columns]))
            chi2 += (gaps[-1] / c.sigma) ** 2
        return cls(diagonal, diagonal * gap, tuple(rows), np.array(gaps), chi2)


@dataclass(frozen=True, eq=False)
class DenseSystem:
    """The normal matrix with priors and constraints, scaled to a unit diagonal."""

    matrix: np.ndarray  # upper triangle
    vector: np.ndarray
    scale: np.ndarray
    free: np.ndarray  # parameters that something determines


def dense_system(blocks: NormalBlocks, priors: Priors) -> DenseSystem:
    """Add priors and constraints and scale."""
    A = np.array(blocks.matrix)
    b = blocks.vector + priors.vector
    i = np.arange(b.size)
    A[i, i] += priors.diagonal
    for row, gap in zip(priors.rows, priors.gaps, strict=True):
        weight = row.values / row.sigma
        A[np.ix_(row.columns, row.columns)] += np.outer(weight, weight)
        b[row.columns] += weight * (gap / row.sigma)
    diagonal = A[i, i]
    # a parameter whose detections all go into fixing their own stars: singular, said by name
    loose = (blocks.information > 0.0) & (diagonal <= 1e-12 * blocks.information)
    A[loose] = 0.0
    A[:, loose] = 0.0
    untouched = (blocks.information <= 0.0) & (diagonal <= 0.0)
    A[i[untouched], i[untouched]] = 1.0
    free = ~(loose | untouched)
    b = np.where(free, b, 0.0)
    scale = 1.0 / np.sqrt(np.where(free, diagonal, 1.0))
    A *= scale
    A *= scale[:, None]
    return DenseSystem(A, b, scale, free)


def blas_threads(size: int) -> Any:
    """Limit BLAS to one thread for small matrices, where more are slower."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1 if size < 2000 else usable_cores())


@dataclass(frozen=True, eq=False)
class DenseResult:
    """Step, covariance and the smallest pivot of a dense solution."""

    step: np.ndarray
    covariance: DenseCovariance | None
    pivot: float


def solve_dense(
    blocks: NormalBlocks, priors: Priors, *, covariance: bool = True
) -> DenseResult | None:
    """Solve by Cholesky; None if the matrix is singular to working precision.

    Parameters
    ----------
    blocks : NormalBlocks
        Sums over all stars.
    priors : Priors
        Priors and constraints.
    covariance : bool
        Also invert.

    Notes
    -----
    The matrix is scaled to a unit diagonal first; it counts as singular when a squared pivot is
    below 1e-11. LAPACK ``potrf``, ``potrs`` and ``potri``.

    Examples
    --------
    >>> import numpy as np
    >>> none = Priors(np.zeros(1), np.zeros(1), (), np.zeros(0), 0.0)
    >>> one = NormalBlocks(np.array([[4.0]]), np.array([2.0]), 0.0, 1, 1, 0, np.ones(1))
    >>> solve_dense(one, none).step
    array([0.5])
    """
    from scipy.linalg import lapack

    system = dense_system(blocks, priors)
    size = system.vector.size
    with blas_threads(size):
        # the upper triangle row by row is the lower triangle column by column
        factor, info = lapack.dpotrf(system.matrix.T, lower=1, overwrite_a=1, clean=0)
        pivot = 0.0 if info else float(np.min(np.diag(factor)) ** 2)
        if info or pivot < SINGULAR:
            return None
        x, _ = lapack.dpotrs(factor, system.vector * system.scale, lower=1)
        step = x * system.scale
        if not covariance:
            return DenseResult(step, None, pivot)
        inverse, _ = lapack.dpotri(factor, lower=1, overwrite_c=1)
    C = inverse.T  # upper triangle, row by row
    _mirror(C)
    scale = np.where(system.free, system.scale, 0.0)
    C *= scale
    C *= scale[:, None]
    return DenseResult(step, DenseCovariance(C), pivot)


def _mirror(C: np.ndarray, block: int = 512) -> None:
    """Copy the upper triangle onto the lower one, in place."""
    n = C.shape[0]
    for a in range(0, n, block):
        b = min(a + block, n)
        part = np.triu(C[a:b, a:b])
        C[a:b, a:b] = part + np.triu(part, 1).T
        C[b:, a:b] = C[a:b, b:].T


class SchurOperator:
    """The normal matrix as an operation, for more parameters than a dense matrix can hold.

    Parameters
    ----------
    prepared : Prepared
        Detections as kernels take them.
    priors : Priors
        Priors and constraints.
    model : Model
        Terms.
    threads : int
        Threads. The stars are cut into a fixed number of pieces whose sums are added in order, so
        that results do not depend on it.

    Examples
    --------
    >>> SchurOperator.PIECES
    4
    """

    PIECES = 4

    def __init__(
        self, prepared: Prepared, priors: Priors, model: Model, threads: int | None = None
    ) -> None:
        self.p, self.priors, self.model = prepared, priors, model
        self.threads = usable_cores() if threads is None else int(threads)
        stars = prepared.ref_weight.size
        self._edges = np.linspace(0, stars, self.PIECES + 1).astype(np.int64)
        self._inverse: list[tuple[int, int, np.ndarray]] = self._preconditioner()

    def _pieces(self, run: Any, shape: tuple[int, ...]) -> np.ndarray:
        parts = np.zeros((self.PIECES, *shape))
        share(
            lambda k: run(self._edges[k], self._edges[k + 1], parts[k]), self.PIECES, self.threads
        )
        for k in range(1, self.PIECES):
            parts[0] += parts[k]
        return np.asarray(parts[0])

    def _arguments(self, first: int, last: int) -> tuple[Any, ...]:
        d = self.p.design
        return (self.p.start[first : last + 1], d.base, d.width, d.column, d.constant, d.values)

    def apply(self, x: np.ndarray) -> np.ndarray:
        """Return the matrix times x, shape (P, R)."""
        from pogson.survey._schur_kernels import schur_apply

        x = np.ascontiguousarray(x)

        def run(a: int, b: int, out: np.ndarray) -> None:
            schur_apply(*self._arguments(a, b), self.p.weight, self.p.ref_weight[a:b], x, out)

        out = self._pieces(run, x.shape) + self.priors.diagonal[:, None] * x
        for row in self.priors.rows:
            weight = row.values / row.sigma
            out[row.columns] += weight[:, None] * (weight @ x[row.columns])
        return out

    def transpose(self, r: np.ndarray, r_ref: np.ndarray) -> np.ndarray:
        """Return ``V^T w (r - star mean)`` for residuals (n, R) and of references (stars, R)."""
        from pogson.survey._schur_kernels import schur_transpose

        def run(a: int, b: int, out: np.ndarray) -> None:
            schur_transpose(
                *self._arguments(a, b), self.p.weight, self.p.ref_weight[a:b], r, r_ref[a:b], out
            )

        return self._pieces(run, (self.model.size, r.shape[1]))

    def vector(self) -> np.ndarray:
        """Return the right-hand side, shape (P,)."""
        b = self.transpose(self.p.residual[:, None], self.p.ref_residual[:, None])[:, 0]
        b += self.priors.vector
        for row, gap in zip(self.priors.rows, self.priors.gaps, strict=True):
            b[row.columns] += row.values * (gap / row.sigma**2)
        return b

    def _preconditioner(self) -> list[tuple[int, int, np.ndarray]]:
        """Return inverse diagonal blocks: first parameter, width, (runs, width, width)."""
        from pogson.survey._schur_kernels import diagonal_blocks

        kept = [(f, s) for f, s in zip(self.model.first, self.model.sizes, strict=True) if s]
        width = self.p.design.width.astype(np.int64)
        sizes = np.array([s for _, s in kept]) * width
        at = np.concatenate([[0], np.cumsum(sizes)])
        first = np.array([f for f, _ in kept], np.int64)
        offset = (at[:-1] - first * width).astype(np.int64)

        def run(a: int, b: int, out: np.ndarray) -> None:
            diagonal_blocks(
                *self._arguments(a, b), self.p.weight, self.p.ref_weight[a:b], self.model.size,
                offset, out,
            )  # fmt: skip

        flat = self._pieces(run, (int(at[-1]),))
        extra = self.priors.diagonal.copy()
        out = []
        for k, (f, s) in enumerate(kept):
            w = int(width[k])
            blocks = flat[at[k] : at[k + 1]].reshape(s // w, w, w)
            i = np.arange(w)
            blocks[:, i, i] += extra[f : f + s].reshape(-1, w)
            diagonal = blocks[:, i, i]
            blocks[:, i, i] = np.where(diagonal > 0, diagonal * (1 + 1e-10), 1.0)
            out.append((f, w, np.linalg.pinv(blocks, rcond=1e-12, hermitian=True)))
        return out

    def precondition(self, x: np.ndarray) -> np.ndarray:
        """Return the preconditioner times x, shape (P, R)."""
        out = np.empty_like(x)
        for f, w, inverse in self._inverse:
            n = inverse.shape[0]
            part = x[f : f + n * w].reshape(n, w, -1)
            out[f : f + n * w] = (inverse @ part).reshape(n * w, -1)
        return out

    def solve(
        self, b: np.ndarray, *, tolerance: float = 1e-10, limit: int = 2000
    ) -> tuple[np.ndarray, int]:
        """Solve for right-hand sides (P, R) by preconditioned conjugate gradients.

        Parameters
        ----------
        b : numpy.ndarray, shape (P, R)
            Right-hand sides.
        tolerance : float
            Of the residual, relative to b, in the norm of the preconditioner.
        limit : int
            Largest number of iterations.

        Returns
        -------
        x : numpy.ndarray, shape (P, R)
        iterations : int

        Raises
        ------
        CalibrationError
            If it does not converge.
        """
        x = np.zeros_like(b)
        r = b.copy()
        z = self.precondition(r)
        p = z.copy()
        rz = np.einsum("ij,ij->j", r, z)
        goal = tolerance**2 * np.maximum(rz, 1e-300)
        for k in range(1, limit + 1):
            q = self.apply(p)
            pq = np.einsum("ij,ij->j", p, q)
            alpha = np.where(pq > 0, rz / np.where(pq > 0, pq, 1.0), 0.0)
            x += alpha * p
            r -= alpha * q
            z = self.precondition(r)
            new = np.einsum("ij,ij->j", r, z)
            if np.all(new <= goal):
                return x, k
            p = z + np.where(rz > 0, new / np.where(rz > 0, rz, 1.0), 0.0) * p
            rz = new
        raise CalibrationError(
            f"Conjugate gradients did not converge in {limit} iterations (residual "
            f"{float(np.max(np.sqrt(rz / goal)) * tolerance):.2g}, wanted {tolerance:g}): the "
            "model is nearly degenerate; add priors or a gauge, or remove a term."
        )

    def sample(
        self, rng: np.random.Generator, draws: int = 64, batch: int = 8
    ) -> SampledCovariance:
        """Draw errors of the parameters: the solution of pure noise.

        Parameters
        ----------
        rng : numpy.random.Generator
            Source of the noise.
        draws : int
            Number of draws.
        batch : int
            Draws solved at a time.
        """
        n, stars = self.p.weight.size, self.p.ref_weight.size
        sigma = np.where(self.p.weight > 0, 1.0 / np.sqrt(np.maximum(self.p.weight, 1e-300)), 0.0)
        w = self.p.ref_weight
        sigma_ref = np.where(w > 0, 1.0 / np.sqrt(np.maximum(w, 1e-300)), 0.0)
        out = []
        for a in range(0, draws, batch):
            k = min(batch, draws - a)
            b = self.transpose(
                sigma[:, None] * rng.normal(size=(n, k)),
                sigma_ref[:, None] * rng.normal(size=(stars, k)),
            )
            b += np.sqrt(self.priors.diagonal)[:, None] * rng.normal(size=b.shape)
            for row in self.priors.rows:
                b[row.columns] += (row.values / row.sigma)[:, None] * rng.normal(size=k)
            out.append(self.solve(b, tolerance=1e-5)[0])
        return SampledCovariance(np.concatenate(out, axis=1))


def condition_rows(rows: Sequence[Constraint]) -> str:
    """Return the names of constraints as text."""
    return ", ".join(r.name for r in rows) or "none"
