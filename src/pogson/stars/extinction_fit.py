"""The extinction of a band as a straight formula, and how far from straight it is."""

from __future__ import annotations

from typing import Any

import numpy as np

from pogson.errors import PogsonValueError

__all__ = ["AV_NODES", "RV_NODES", "fit_extinction"]

AV_NODES = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
"""Where coefficients are fitted unless said: A_V in magnitudes."""

RV_NODES = (2.4, 2.7, 3.0, 3.3, 3.6, 3.9, 4.2)
"""Where coefficients are fitted unless said: R_V."""


def fit_extinction(
    extinction: Any, av: Any, rv: Any, *, typical_rv: float = 3.3
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""Fit :math:`A = A_V (c_1 + R_V c_2)` to extinctions on a lattice, by least squares.

    Parameters
    ----------
    extinction : array_like, shape (..., n_av, n_rv)
        Magnitude behind dust less magnitude without.
    av, rv : array_like, shapes (n_av,) and (n_rv,)
        The lattice; A_V above zero, at least two values of R_V.
    typical_rv : float, optional
        The fit is of A / A_V, with weights that fall by e for every 0.5 of R_V away from here.

    Returns
    -------
    c1, c2 : numpy.ndarray, shape (...)
        Extinction per A_V at R_V = 0, and its slope.
    error : numpy.ndarray, shape (...)
        Largest absolute error of the formula on the lattice, in magnitudes.

    Raises
    ------
    PogsonValueError
        If the lattice cannot fix two coefficients or shapes do not fit.

    Notes
    -----
    In a wide band the reddened star's own light moves to the red and A grows less than in
    proportion to A_V; and A depends on 1 / R_V rather than R_V (Cardelli, Clayton & Mathis 1989,
    ApJ 345, 245). The error says what the straight formula costs.

    Examples
    --------
    >>> import numpy as np
    >>> av, rv = np.array([0.5, 1.0]), np.array([2.5, 3.1, 4.0])
    >>> c1, c2, error = fit_extinction(av[:, None] * (0.9 + 0.05 * rv), av, rv)
    >>> print(round(float(c1), 6), round(float(c2), 6), bool(error < 1e-12))
    0.9 0.05 True
    """
    a, r = np.asarray(av, np.float64), np.asarray(rv, np.float64)
    y = np.asarray(extinction, np.float64)
    if a.ndim != 1 or r.ndim != 1 or np.unique(r).size < 2 or not np.all(a > 0):
        raise PogsonValueError(
            f"The lattice needs positive A_V and at least two values of R_V; got A_V {a.tolist()} "
            f"and R_V {r.tolist()}."
        )
    if y.shape[-2:] != (a.size, r.size):
        raise PogsonValueError(
            f"extinction must end in shape ({a.size}, {r.size}), one value a pair of A_V and R_V; "
            f"got {y.shape}."
        )
    slope = y / a[:, None]
    weight = np.sqrt(np.exp(-np.abs(r - typical_rv) / 0.5))
    basis = np.stack([np.ones_like(r), r], axis=1)
    # each A_V counts alike, so that their mean slope is fitted
    solution = (slope.mean(axis=-2) * weight) @ np.linalg.pinv(basis * weight[:, None]).T
    error = np.abs(y - a[:, None] * (solution @ basis.T)[..., None, :]).max(axis=(-2, -1))
    return solution[..., 0], solution[..., 1], error
