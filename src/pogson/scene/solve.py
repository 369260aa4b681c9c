"""The linear part: exposures weighted, skies projected out, scene eliminated exactly.

Nothing here is approximate: a flat prior on the sky of every exposure is a projection of its
weighted pixels, and the scene is eliminated through one Cholesky factor, with or without its prior.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import LinAlgError, blas, cholesky, lapack, solve_triangular

from pogson.errors import CalibrationError
from pogson.scene.design import ExposureDesign

__all__ = ["Block", "Columns", "Elimination", "SceneSystem", "make_block", "one_thread"]

_SINGULAR = 1e-14


@functools.cache
def _controller() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def one_thread() -> AbstractContextManager[Any]:
    """Return a context in which linear algebra uses one thread.

    Matrices of a few hundred rows lose more to threads waiting for each other than they gain, and
    many targets are fitted side by side.
    """
    context: AbstractContextManager[Any] = _controller().limit(limits=1)
    return context


def between(matrix: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Return the lower triangle of ``factor.T @ matrix @ factor``; what is above it is not set.

    ``matrix`` is symmetric and ``factor`` a lower triangle.

    Examples
    --------
    >>> result = between(np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([[1.0, 0.0], [1.0, 2.0]]))
    >>> np.tril(result)
    array([[ 7.,  0.],
           [ 8., 12.]])
    """
    if matrix.size == 0:
        return matrix.copy()
    # reduction to standard form of a generalised eigenproblem: half the work of two products
    result: np.ndarray = lapack.dsygst(matrix.T, factor, itype=2, lower=1)[0]
    return result


@dataclass(eq=False)
class Block:
    """One exposure, weighted and with its sky projected out.

    Attributes
    ----------
    design : ExposureDesign
        The exposure.
    root : numpy.ndarray, shape (n,)
        Square root of the weights.
    basis : numpy.ndarray, shape (n_sky, n)
        Orthonormal weighted sky.
    scene : numpy.ndarray, shape (n_points, n)
        Weighted scene columns without their sky part.
    data : numpy.ndarray, shape (n,)
        Weighted data without its sky part.
    """

    design: ExposureDesign
    root: np.ndarray
    basis: np.ndarray
    scene: np.ndarray
    data: np.ndarray

    @functools.cached_property
    def normal(self) -> np.ndarray:
        """Normal matrix of the scene points in this exposure."""
        return self.scene @ self.scene.T

    def project(self, rows: np.ndarray) -> np.ndarray:
        """Return rows weighted and without their sky part."""
        from pogson.scene import _scene_kernels as kernels

        weighted = np.empty(rows.shape)
        kernels.project_rows(np.ascontiguousarray(rows), self.root, self.basis, weighted)
        return weighted


def make_block(design: ExposureDesign, variance: np.ndarray, keep: np.ndarray | None) -> Block:
    """Weight one exposure and project its sky out.

    Parameters
    ----------
    design : ExposureDesign
        The exposure.
    variance : numpy.ndarray, shape (n,)
        Variance of its usable pixels in the common unit.
    keep : numpy.ndarray of int or None
        Scene points to use; None for all.

    Raises
    ------
    CalibrationError
        If the pixels do not determine the sky.
    """
    root = 1.0 / np.sqrt(variance)
    q, r = np.linalg.qr((design.sky * root).T)
    diagonal = np.abs(np.diag(r))
    if diagonal.size > root.size or not diagonal.min() > 1e-10 * diagonal.max():
        raise CalibrationError(
            f"The {root.size} usable pixels of exposure {design.exposure.exposure_id!r} do not "
            "determine its sky; use sky_order=0, or leave the exposure out."
        )
    block = Block(design, root, np.ascontiguousarray(q.T), np.empty((0, 0)), np.empty(0))
    block.scene = block.project(design.scene if keep is None else design.scene[keep])
    block.data = block.project(design.data[None])[0]
    return block


@dataclass(eq=False)
class Columns:
    """Source columns of some exposures: for each, its number, its rows, and their parameters."""

    parts: list[tuple[int, np.ndarray, np.ndarray]]
    size: int


@dataclass(eq=False)
class Elimination:
    """The normal equations of source columns with scene and sky eliminated.

    Attributes
    ----------
    matrix, rhs : numpy.ndarray, shape (m, m) and (m,)
        Normal matrix and right-hand side.
    cross : numpy.ndarray, shape (n_points, m)
        Whitened products of scene and columns.
    bare, bare_rhs : numpy.ndarray
        The same without the scene.
    """

    matrix: np.ndarray
    rhs: np.ndarray
    cross: np.ndarray
    bare: np.ndarray
    bare_rhs: np.ndarray


class SceneSystem:
    """Normal equations of the scene over all exposures.

    Parameters
    ----------
    blocks : sequence of Block
        Weighted exposures.

    Attributes
    ----------
    normal, rhs : numpy.ndarray
        Of the scene points, skies projected out.
    data_norm : float
        Squared norm of the projected data.
    reciprocal_condition : float
        Estimate for the factored matrix; NaN before `factor` is called.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.blocks = list(blocks)
        n = self.blocks[0].scene.shape[0]
        self.normal, self.rhs, self.data_norm = np.zeros((n, n)), np.zeros(n), 0.0
        for block in self.blocks:
            self.normal += block.normal
            self.rhs += block.scene @ block.data
            self.data_norm += float(block.data @ block.data)
        self.reciprocal_condition = float("nan")
        self._prior: np.ndarray | None = None
        self._root = np.empty((0, 0))
        self._held: dict[int, np.ndarray] = {}
        self.whitened = np.empty(0)
        self.log_determinant = 0.0

    def factor(self, prior: np.ndarray | None) -> None:
        """Factor the normal matrix.

        Parameters
        ----------
        prior : numpy.ndarray or None
            Root of the prior covariance of the scene, or None for a flat prior.

        Raises
        ------
        CalibrationError
            If the matrix is singular to working precision.
        """
        self._prior = prior
        self._held = {}
        if prior is None:
            matrix, rhs = self.normal, self.rhs
        else:
            own = np.diag(prior)
            # independent points: no products needed
            alone = np.count_nonzero(prior) == np.count_nonzero(own)
            matrix = self.normal * np.outer(own, own) if alone else between(self.normal, prior)
            matrix[np.diag_indices_from(matrix)] += 1.0
            rhs = prior.T @ self.rhs
        self._root, self.reciprocal_condition = _checked_root(matrix)
        self.whitened = solve_triangular(self._root, rhs, lower=True, check_finite=False)
        # with a flat prior the volume of the scene has no meaning
        self.log_determinant = (
            0.0 if prior is None else 2.0 * float(np.log(np.diag(self._root)).sum())
        )

    @property
    def factored(self) -> bool:
        """Whether `factor` has been called."""
        return bool(np.isfinite(self.reciprocal_condition))

    @property
    def constant(self) -> float:
        """Objective without sources: chi2 plus the prior's term, minimised over the scene."""
        return self.data_norm - float(self.whitened @ self.whitened)

    def hold(self, exposures: Sequence[int]) -> None:
        """Keep the whitened scene of some exposures: eliminating their columns gets quicker.

        Worth its price where many columns of few exposures follow, as in a search for positions.
        """
        for k in (k for k in exposures if k not in self._held):
            scene = self.blocks[k].scene
            if self._prior is not None:
                scene = blas.dtrmm(1.0, self._prior, scene.T, side=1, lower=1).T
            self._held[k] = blas.dtrsm(1.0, self._root, scene.T, side=1, lower=1, trans_a=1).T

    def products(self, columns: Columns) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return scene x columns, columns x columns and columns x data, nothing eliminated."""
        cross = np.zeros((self.rhs.size, columns.size))
        bare, rhs = np.zeros((columns.size, columns.size)), np.zeros(columns.size)
        for k, rows, index in columns.parts:
            block = self.blocks[k]
            cross[:, index] += block.scene @ rows.T
            bare[np.ix_(index, index)] += rows @ rows.T
            rhs[index] += rows @ block.data
        return cross, bare, rhs

    def whiten(self, cross: np.ndarray) -> np.ndarray:
        """Return scene products in the basis in which the scene's normal matrix is 1."""
        inner = cross if self._prior is None else self._prior.T @ cross
        result: np.ndarray = solve_triangular(self._root, inner, lower=True, check_finite=False)
        return result

    def eliminate(self, columns: Columns) -> Elimination:
        """Return the normal equations of source columns with the scene eliminated."""
        if all(k in self._held for k, _, _ in columns.parts):
            v = np.zeros((self.rhs.size, columns.size))
            bare, rhs = np.zeros((columns.size, columns.size)), np.zeros(columns.size)
            for k, rows, index in columns.parts:
                v[:, index] += self._held[k] @ rows.T
                bare[np.ix_(index, index)] += rows @ rows.T
                rhs[index] += rows @ self.blocks[k].data
        else:
            cross, bare, rhs = self.products(columns)
            v = self.whiten(cross)
        return Elimination(bare - v.T @ v, rhs - v.T @ self.whitened, v, bare, rhs)

    def scene_fluxes(self, elimination: Elimination, fluxes: np.ndarray) -> np.ndarray:
        """Return the scene fluxes that go with source fluxes."""
        z = solve_triangular(
            self._root, self.whitened - elimination.cross @ fluxes, lower=True, trans="T",
            check_finite=False,
        )  # fmt: skip
        result: np.ndarray = z if self._prior is None else self._prior @ z
        return result

    def effective_parameters(self) -> np.ndarray:
        """Return how many scene parameters each exposure determines (trace of its share)."""
        count = np.empty(len(self.blocks))
        for k, block in enumerate(self.blocks):
            part = self.whiten(block.scene)
            count[k] = float(np.sum(part * part))
        return count

    def total_effective_parameters(self) -> float:
        """Return how many scene parameters all exposures determine together."""
        if self._prior is None or self.rhs.size == 0:
            return float(self.rhs.size)
        inverse = lapack.dtrtri(self._root, lower=1)[0]
        return float(self.rhs.size - np.sum(inverse * inverse))


def _checked_root(matrix: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the Cholesky root of a matrix and its reciprocal condition, scaled to unit diagonal.

    Raises
    ------
    CalibrationError
        If it is singular.
    """
    if matrix.shape[0] == 0:
        return matrix.copy(), 1.0
    try:
        root = cholesky(matrix, lower=True, check_finite=False)
    except LinAlgError:
        reciprocal = 0.0
    else:
        size = np.abs(np.tril(matrix))
        norm = float((size.sum(axis=0) + size.sum(axis=1) - np.diag(size)).max())
        reciprocal = float(lapack.dpocon(root, norm, uplo="L")[0])
    if not reciprocal > _SINGULAR:
        raise CalibrationError(
            f"The scene cannot be solved for: the normal matrix of {matrix.shape[0]} parameters is "
            f"singular (reciprocal condition {reciprocal:.1e}). Use a scene prior, a coarser or "
            "smaller grid, or fewer free parameters."
        )
    return root, reciprocal
