"""Interpolation between the nodes of a grid of models, as weights over the models."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np

from pogson.errors import BoundsError, CalibrationError

_NAMES = ("Teff", "log g", "[M/H]")


def _axis_weights(nodes: np.ndarray, value: float) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes and Lagrange weights: up to four nodes around the value (cubic inside)."""
    exact = np.flatnonzero(nodes == value)
    if exact.size:
        return exact, np.ones(1)
    upper = int(np.searchsorted(nodes, value))
    low = min(max(upper - 2, 0), max(nodes.size - 4, 0))
    index = np.arange(low, min(low + 4, nodes.size))
    at = nodes[index]
    weight = np.ones(index.size)
    for i in range(index.size):
        for j in range(index.size):
            if i != j:
                weight[i] *= (value - at[j]) / (at[i] - at[j])
    return index, weight


@dataclass(frozen=True, eq=False)
class GridNodes:
    """Where the models of a library lie in (Teff, log g, [M/H]).

    Parameters
    ----------
    teff, logg, feh : ndarray, shape (n_model,)
        Parameters; NaN for models without.
    """

    teff: np.ndarray
    logg: np.ndarray
    feh: np.ndarray

    @cached_property
    def axes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Different values along each axis, sorted."""
        a, b, c = (np.unique(v[np.isfinite(v)]) for v in (self.teff, self.logg, self.feh))
        return a, b, c

    @cached_property
    def table(self) -> np.ndarray:
        """Index of the model at each node, -1 where there is none."""
        table = np.full(tuple(a.size for a in self.axes), -1)
        for i, values in enumerate(zip(self.teff, self.logg, self.feh, strict=True)):
            if np.all(np.isfinite(values)):
                where = tuple(
                    int(np.searchsorted(a, v)) for a, v in zip(self.axes, values, strict=True)
                )
                if table[where] < 0:
                    table[where] = i
        return table

    @property
    def bounds(self) -> tuple[tuple[float, float], ...]:
        """Lowest and highest value along each axis."""
        if min(a.size for a in self.axes) == 0:
            raise CalibrationError(
                "The models have no known Teff, log g and [M/H]; they can be compared with data "
                "one by one, not interpolated."
            )
        return tuple((float(a[0]), float(a[-1])) for a in self.axes)

    def weights(self, teff: float, logg: float, feh: float) -> tuple[np.ndarray, np.ndarray]:
        """Return models and weights whose sum is the spectrum between the nodes.

        Raises
        ------
        BoundsError
            Outside the grid; nothing is extrapolated.
        """
        values = (float(teff), float(logg), float(feh))
        for name, value, (low, high) in zip(_NAMES, values, self.bounds, strict=True):
            if not low <= value <= high:
                raise BoundsError(
                    f"{name} = {value:g} is outside the grid's {low:g} to {high:g}; nothing is "
                    f"extrapolated."
                )
        parts = [_axis_weights(a, v) for a, v in zip(self.axes, values, strict=True)]
        total: dict[int, float] = {}
        for combination in product(*(range(p[0].size) for p in parts)):
            node = tuple(int(p[0][k]) for p, k in zip(parts, combination, strict=True))
            weight = float(np.prod([p[1][k] for p, k in zip(parts, combination, strict=True)]))
            for model, share in self._model(node):
                total[model] = total.get(model, 0.0) + weight * share
        index = np.array(sorted(total))
        return index, np.array([total[i] for i in index])

    def _model(self, node: tuple[int, ...]) -> list[tuple[int, float]]:
        """Return the model at a node, or for a hole the plane through its neighbours."""
        here = int(self.table[node])
        if here >= 0:
            return [(here, 1.0)]
        for a, b in ((0, 1), (0, 2), (1, 2)):
            for da in self._steps(node, a):
                for db in self._steps(node, b):
                    one, two, both = list(node), list(node), list(node)
                    one[a] = both[a] = da
                    two[b] = both[b] = db
                    found = [int(self.table[tuple(n)]) for n in (one, two, both)]
                    if min(found) >= 0:
                        return [(found[0], 1.0), (found[1], 1.0), (found[2], -1.0)]
        raise CalibrationError(
            f"The grid has a hole at {self._name(node)} and no neighbours to bridge it."
        )

    def _steps(self, node: tuple[int, ...], axis: int) -> list[int]:
        size = self.table.shape[axis]
        return [k for k in (node[axis] + 1, node[axis] - 1) if 0 <= k < size]

    def _name(self, node: tuple[int, ...]) -> str:
        return ", ".join(f"{n} = {a[k]:g}" for n, a, k in zip(_NAMES, self.axes, node, strict=True))
