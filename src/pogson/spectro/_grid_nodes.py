"""Interpolation between the nodes of a grid of models, as weights over the models."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np

from pogson.errors import BoundsError, CalibrationError

_NAMES = ("Teff", "log g", "[M/H]")


def _axis_weights(nodes: list[float], value: float) -> tuple[range, list[float]]:
    """Return nodes and Lagrange weights: up to four nodes around the value (cubic inside)."""
    upper = bisect_left(nodes, value)
    if upper < len(nodes) and nodes[upper] == value:
        return range(upper, upper + 1), [1.0]
    low = min(max(upper - 2, 0), max(len(nodes) - 4, 0))
    at = nodes[low : low + 4]
    weight = []
    for i, here in enumerate(at):
        w = 1.0
        for j, other in enumerate(at):
            if i != j:
                w *= (value - other) / (here - other)
        weight.append(w)
    return range(low, low + len(at)), weight


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

    @cached_property
    def _steps_along(self) -> tuple[list[float], ...]:
        return tuple(a.tolist() for a in self.axes)

    @cached_property
    def bounds(self) -> tuple[tuple[float, float], ...]:
        """Lowest and highest value along each axis."""
        if min(a.size for a in self.axes) == 0:
            raise CalibrationError(
                "The models have no known Teff, log g and [M/H]; they can be compared with data "
                "one by one, not interpolated."
            )
        return tuple((float(a[0]), float(a[-1])) for a in self.axes)

    def weights(
        self, teff: float, logg: float, feh: float, *, clip: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return models and weights whose sum is the spectrum between the nodes.

        With ``clip``, parameters beyond the grid are moved to its edge.

        Raises
        ------
        BoundsError
            Outside the grid, without ``clip``; nothing is extrapolated.
        """
        values = (float(teff), float(logg), float(feh))
        if clip:
            values = tuple(
                min(max(v, low), high) for v, (low, high) in zip(values, self.bounds, strict=True)
            )  # type: ignore[assignment]
        for name, value, (low, high) in zip(_NAMES, values, self.bounds, strict=True):
            if not low <= value <= high:
                raise BoundsError(
                    f"{name} = {value:g} is outside the grid's {low:g} to {high:g}; nothing is "
                    f"extrapolated."
                )
        (i, wi), (j, wj), (k, wk) = (
            _axis_weights(a, v) for a, v in zip(self._steps_along, values, strict=True)
        )
        weight = (np.outer(wi, wj)[:, :, None] * np.array(wk)).ravel()
        index = self.table[i.start : i.stop, j.start : j.stop, k.start : k.stop].ravel()
        if index.min() >= 0:
            return index, weight
        total: dict[int, float] = {}
        for node, share in zip(product(i, j, k), weight, strict=True):
            for model, part in self._model(node):
                total[model] = total.get(model, 0.0) + float(share) * part
        index = np.array(sorted(total))
        return index, np.array([total[m] for m in index])

    def _model(self, node: tuple[int, ...]) -> list[tuple[int, float]]:
        """Return the model at a node; for a hole the plane or the line through its neighbours."""
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
        row = self.table[:, node[1], node[2]]
        held = np.flatnonzero(row >= 0)
        if held.size:
            near = np.sort(held[np.argsort(np.abs(held - node[0]), kind="stable")[:2]])
            if near.size == 1:
                return [(int(row[near[0]]), 1.0)]
            t = self.axes[0]
            w = float((t[node[0]] - t[near[0]]) / (t[near[1]] - t[near[0]]))
            return [(int(row[near[0]]), 1.0 - w), (int(row[near[1]]), w)]
        raise CalibrationError(
            f"The grid has a hole at {self._name(node)} and no neighbours to bridge it."
        )

    def _steps(self, node: tuple[int, ...], axis: int) -> list[int]:
        size = self.table.shape[axis]
        return [k for k in (node[axis] + 1, node[axis] - 1) if 0 <= k < size]

    def _name(self, node: tuple[int, ...]) -> str:
        return ", ".join(f"{n} = {a[k]:g}" for n, a, k in zip(_NAMES, self.axes, node, strict=True))
