"""What the offsets are given: shapes, types and values checked, errors that say what is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pogson.errors import PogsonTypeError, PogsonValueError

__all__ = ["UNFITTED", "checked", "per_band"]

Floats = NDArray[np.float64]
UNFITTED = -99
"""brutus's fill value for rows that were never fitted."""


def per_band(values: NDArray[Any], bands: int, name: str) -> Floats:
    """Return values as one float a band, or say what is wrong."""
    if values.shape != (bands,):
        raise PogsonValueError(
            f"{name} has shape {values.shape}; it must have one value a band: ({bands},)."
        )
    return values.astype(float)


def checked(*given: Any) -> list[Any]:
    """Return the inputs as arrays of the right shapes and types, or say what is wrong."""
    phot, err, mask, idxs, reds, dreds, dists, sel, weights, models = given
    phot, err = np.asarray(phot, dtype=float), np.asarray(err, dtype=float)
    mask, idxs = np.asarray(mask), np.asarray(idxs)
    draws = [np.asarray(a) for a in (reds, dreds, dists)]
    if phot.ndim != 2 or phot.shape[1] != models.shape[1]:
        raise PogsonValueError(
            f"phot has shape {phot.shape}; these models need (objects, {models.shape[1]})."
        )
    for name, a in (("err", err), ("mask", mask)):
        if a.shape != phot.shape:
            raise PogsonValueError(f"{name} has shape {a.shape}, phot {phot.shape}.")
    if idxs.ndim != 2 or len(idxs) != len(phot):
        raise PogsonValueError(f"idxs has shape {idxs.shape}; it must be ({len(phot)}, draws).")
    for name, a in zip(("reds", "dreds", "dists"), draws, strict=True):
        if a.shape != idxs.shape:
            raise PogsonValueError(f"{name} has shape {a.shape}, idxs {idxs.shape}.")
    if not np.issubdtype(idxs.dtype, np.integer):
        raise PogsonTypeError(f"idxs has type {idxs.dtype}; model rows are integers.")
    if not np.isin(mask, (0, 1)).all():
        raise PogsonValueError("mask holds values other than 0 (not observed) and 1 (observed).")
    mask = mask.astype(bool)
    _check_values(phot, err, mask, idxs, len(models))
    n = len(phot)
    sel = np.ones(n, dtype=bool) if sel is None else np.asarray(sel)
    if sel.dtype != bool or sel.shape != (n,):
        raise PogsonTypeError(
            f"sel has type {sel.dtype} and shape {sel.shape}; give one True or False an object, "
            f"({n},). For row numbers: sel = np.zeros({n}, bool); sel[rows] = True."
        )
    if weights is None:
        weights = np.broadcast_to(np.float64(1.0), idxs.shape)
    weights = np.asarray(weights, dtype=float)
    if weights.shape != idxs.shape:
        raise PogsonValueError(f"weights has shape {weights.shape}, idxs {idxs.shape}.")
    bad = ~(weights >= 0) | np.isinf(weights)
    if bad.any():
        raise PogsonValueError(
            f"{int(bad.sum())} weights are negative or not finite, the first {weights[bad][0]:g}; "
            "weights are zero or positive."
        )
    return [phot, err, mask, idxs, *draws, sel, weights]


def _check_values(
    phot: Floats, err: Floats, mask: NDArray[np.bool_], idxs: NDArray[Any], n_models: int
) -> None:
    """Raise for fluxes, errors and model rows that cannot be."""
    for name, bad in (
        (" flux that is not finite", mask & ~np.isfinite(phot)),
        ("n error that is not positive and finite", mask & ~((err > 0) & np.isfinite(err))),
    ):
        if bad.any():
            row, band = (int(v) for v in np.argwhere(bad)[0])
            raise PogsonValueError(
                f"{int(bad.sum())} observed values have a{name}, the first in row {row}, band "
                f"{band}: {phot[row, band]:g} +- {err[row, band]:g}. Set mask to 0 there."
            )
    bad = (idxs >= n_models) | ((idxs < 0) & (idxs != UNFITTED))
    if bad.any():
        row = int(np.argwhere(bad)[0][0])
        raise PogsonValueError(
            f"{int(bad.sum())} model rows are outside 0..{n_models - 1}, the first "
            f"{int(idxs[bad][0])} in row {row}. Draws and grid must come from the same load "
            f"(same filters, same options); only {UNFITTED} stands for a star without a fit."
        )
