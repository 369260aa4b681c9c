"""Uncertainty that all sources of an exposure share.

The error of a calibration parameter moves every flux it calibrates in step. Adding it to each
source's variance would call it independent noise that averages down, which it is not. It is kept
as the covariance of the parameters with the linear map to the calibration at a position.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pogson.errors import MissingDataError, PogsonValueError
from pogson.fields import Field

__all__ = ["ParameterCovariance"]


class ParameterCovariance:
    r"""Covariance of calibration parameters and their effect on the calibration.

    The relative change of the calibration at a position is linear in the parameters,

    .. math:: \delta \ln C(x, y) = \sum_j t_j(x, y)\, \delta p_j,

    with fields :math:`t_j` ("terms"). Immutable.

    Parameters
    ----------
    names : sequence of str
        Names of the parameters, each once.
    matrix : array_like, shape (n, n)
        Their covariance; symmetric, no negative eigenvalue.
    terms : sequence of Field or None
        One field per parameter, dimensionless per parameter unit; None for a parameter without
        effect on the calibration (a colour-term slope, at the pivot colour).
    degrees_of_freedom : float, optional
        Degrees of freedom with which the covariance is known; infinite by default. Few stars give
        few, and intervals are then wider than those of a normal distribution.

    Raises
    ------
    PogsonValueError
        If shapes disagree or the matrix is not a covariance.

    Examples
    --------
    >>> from pogson.fields import Box, ConstantField
    >>> box = Box(0, 0, 100, 100)
    >>> shared = ParameterCovariance(["zero_point"], [[0.01**2]], [ConstantField(box, -0.921034)])
    >>> round(float(shared.relative_error(x=3.0, y=4.0)), 6)
    0.00921
    """

    __slots__ = ("_dof", "_matrix", "_names", "_terms")
    _names: tuple[str, ...]
    _matrix: np.ndarray
    _terms: tuple[Field | None, ...]
    _dof: float

    def __init__(
        self,
        names: Sequence[str],
        matrix: Any,
        terms: Sequence[Field | None],
        degrees_of_freedom: float = np.inf,
    ) -> None:
        names, terms = tuple(str(n) for n in names), tuple(terms)
        m = np.array(matrix, np.float64, ndmin=2)
        n = len(names)
        if len(set(names)) != n or m.shape != (n, n) or len(terms) != n:
            raise PogsonValueError(
                f"{n} parameter names {names}, a covariance of shape {m.shape} and {len(terms)} "
                "terms do not fit: give one name (each once), one row and one term a parameter."
            )
        if not np.isfinite(m).all() or not np.allclose(m, m.T, rtol=1e-9, atol=0.0):
            raise PogsonValueError("A parameter covariance must be finite and symmetric.")
        scale = np.sqrt(np.clip(np.diag(m), 1e-300, None))
        if np.linalg.eigvalsh(m / np.outer(scale, scale)).min(initial=0.0) < -1e-9:
            raise PogsonValueError("A parameter covariance must not have negative eigenvalues.")
        if not degrees_of_freedom > 0:
            raise PogsonValueError(f"Degrees of freedom {degrees_of_freedom!r} must be positive.")
        m = 0.5 * (m + m.T)
        m.flags.writeable = False
        for name, value in zip(
            self.__slots__, (float(degrees_of_freedom), m, names, terms), strict=True
        ):
            object.__setattr__(self, name, value)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters."""
        return self._names

    @property
    def matrix(self) -> np.ndarray:
        """Covariance matrix, shape (n, n), read-only."""
        return self._matrix

    @property
    def terms(self) -> tuple[Field | None, ...]:
        """Fields d ln C / d p, one per parameter (None: no effect)."""
        return self._terms

    @property
    def degrees_of_freedom(self) -> float:
        """Degrees of freedom of the covariance (infinite: known exactly)."""
        return self._dof

    def error(self, name: str) -> float:
        """Return the standard error of one parameter.

        Raises
        ------
        MissingDataError
            If there is no such parameter.
        """
        if name not in self._names:
            raise MissingDataError(
                f"No parameter {name!r}; there are {', '.join(map(repr, self._names))}."
            )
        i = self._names.index(name)
        return float(np.sqrt(self._matrix[i, i]))

    def design(self, *, x: Any, y: Any, extrapolate: bool = False) -> np.ndarray:
        """Linear map from parameters to relative calibration.

        Parameters
        ----------
        x, y : array_like
            Positions in pixels (0-based, pixel centres on integers).
        extrapolate : bool
            Allow positions outside the box of the terms.

        Returns
        -------
        design : numpy.ndarray, shape (..., n)
            d ln C / d p at each position.
        """
        xa, ya = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(y, np.float64))
        out = np.zeros((*xa.shape, len(self._names)))
        for j, term in enumerate(self._terms):
            if term is not None:
                out[..., j] = term(x=xa, y=ya, extrapolate=extrapolate)
        return out

    def relative_error(self, *, x: Any, y: Any, extrapolate: bool = False) -> np.ndarray:
        """Relative standard error of the calibration at positions (shared by all sources there).

        Parameters
        ----------
        x, y : array_like
            Positions in pixels (0-based, pixel centres on integers).
        extrapolate : bool
            Allow positions outside the box of the terms.

        Returns
        -------
        error : numpy.ndarray
            Standard error of ln C.
        """
        b = self.design(x=x, y=y, extrapolate=extrapolate)
        variance = np.einsum("...i,ij,...j->...", b, self._matrix, b)
        return np.asarray(np.sqrt(np.clip(variance, 0.0, None)))

    def relative_covariance(self, *, x: Any, y: Any, extrapolate: bool = False) -> np.ndarray:
        """Covariance of ln C between positions.

        Parameters
        ----------
        x, y : array_like, shape (m,)
            Positions in pixels (0-based, pixel centres on integers).
        extrapolate : bool
            Allow positions outside the box of the terms.

        Returns
        -------
        covariance : numpy.ndarray, shape (m, m)
        """
        xa, ya = np.broadcast_arrays(np.atleast_1d(x), np.atleast_1d(y))
        b = self.design(x=xa.ravel(), y=ya.ravel(), extrapolate=extrapolate)
        return np.asarray(b @ self._matrix @ b.T)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description, read back by `from_dict`."""
        return {
            "names": list(self._names),
            "matrix": self._matrix.tolist(),
            "terms": [None if t is None else t.to_dict() for t in self._terms],
            "degrees_of_freedom": None if np.isinf(self._dof) else self._dof,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ParameterCovariance:
        """Read the description written by `to_dict`.

        Raises
        ------
        PogsonValueError
            If it is not such a description.
        """
        from pogson.fields import field_from_dict

        if not isinstance(data, dict) or not {"names", "matrix", "terms"} <= set(data):
            raise PogsonValueError(
                "A parameter covariance is described by 'names', 'matrix' and 'terms'."
            )
        dof = data.get("degrees_of_freedom")
        return cls(
            data["names"],
            data["matrix"],
            [None if t is None else field_from_dict(t) for t in data["terms"]],
            np.inf if dof is None else dof,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ParameterCovariance):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self._names, self._matrix.tobytes()))

    def __repr__(self) -> str:
        tail = "" if np.isinf(self._dof) else f", degrees_of_freedom={self._dof!r}"
        return (
            f"ParameterCovariance({list(self._names)!r}, {self._matrix.tolist()!r}, "
            f"{list(self._terms)!r}{tail})"
        )

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"ParameterCovariance is immutable; cannot set {name!r}.")

    def __reduce__(self) -> tuple[Any, ...]:
        return (ParameterCovariance.from_dict, (self.to_dict(),))
