"""The stars of a zero-point fit: what was given, what may be used, and why not."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import astropy.units as u
import numpy as np

from pogson.errors import MaskedDataError, PogsonValueError
from pogson.fields import Box
from pogson.units import parse_unit, strip_unit

__all__ = ["StarStatus", "Stars", "count_status", "prepare_stars"]


class StarStatus(IntEnum):
    """What became of a star in a zero-point fit.

    USED: in the fit. OUTLIER: residual beyond the clipping threshold. SATURATED and FLAGGED: the
    caller's flags. LOW_SNR: measured or reference flux expected below the S/N limit. NOT_FINITE:
    a number is missing, or an error is not positive. NO_REFERENCE: no positive reference flux.
    COLOR_RANGE: colour missing or outside the range. DUPLICATE: its identifier occurs more than
    once. OUTSIDE_BOX: not on the detector.

    Examples
    --------
    >>> StarStatus(3).name, int(StarStatus.USED)
    ('FLAGGED', 0)
    """

    USED = 0
    OUTLIER = 1
    SATURATED = 2
    FLAGGED = 3
    LOW_SNR = 4
    NOT_FINITE = 5
    NO_REFERENCE = 6
    COLOR_RANGE = 7
    DUPLICATE = 8
    OUTSIDE_BOX = 9


@dataclass(frozen=True, eq=False)
class Stars:
    """Plain arrays of the stars of a fit, all of one length."""

    inst: np.ndarray
    inst_err: np.ndarray
    ref: np.ndarray
    ref_err: np.ndarray
    x: np.ndarray
    y: np.ndarray
    color: np.ndarray
    color_err: np.ndarray
    status: np.ndarray

    def __len__(self) -> int:
        return int(self.inst.size)

    def select(self, mask: np.ndarray) -> Stars:
        """Return the stars of a mask."""
        return Stars(*(getattr(self, name)[mask] for name in self.__dataclass_fields__))


def count_status(status: np.ndarray) -> dict[str, int]:
    """Return how many stars have each status, by name; zeros left out.

    Examples
    --------
    >>> count_status(np.array([0, 0, 1]))
    {'USED': 2, 'OUTLIER': 1}
    """
    counts = np.bincount(np.asarray(status, np.int64), minlength=len(StarStatus))
    return {s.name: int(counts[s]) for s in StarStatus if counts[s]}


def prepare_stars(
    inst_flux: Any,
    inst_flux_err: Any,
    ref_flux: Any,
    ref_flux_err: Any,
    *,
    unit: Any,
    x: Any,
    y: Any,
    box: Box | None,
    color: Any,
    color_err: Any,
    color_range: tuple[float, float] | None,
    use_color: bool,
    saturated: Any,
    flagged: Any,
    ids: Any,
) -> Stars:
    """Return checked arrays with a status for every star; see `fit_zero_point`.

    Raises
    ------
    PogsonValueError
        If lengths disagree.
    MaskedDataError
        If there is no star at all.
    """
    inst = np.atleast_1d(_plain(inst_flux, parse_unit(unit), "inst_flux"))
    n = inst.size
    if inst.ndim != 1:
        raise PogsonValueError(f"inst_flux must be one-dimensional, not of shape {inst.shape}.")
    if n == 0:
        raise MaskedDataError(
            "No star has both a measured and a reference flux: the reference catalogue and the "
            "measured sources do not overlap. Check positions, epoch and the match radius."
        )

    def array(value: Any, name: str, default: float = np.nan, in_unit: Any = "") -> np.ndarray:
        if value is None:
            return np.full(n, default)
        out = np.atleast_1d(_plain(value, in_unit, name))
        if out.shape not in ((n,), (1,)):
            raise PogsonValueError(f"{name} has shape {out.shape}, but there are {n} stars.")
        return np.array(np.broadcast_to(out, (n,)))

    stars = Stars(
        inst=inst,
        inst_err=array(inst_flux_err, "inst_flux_err", in_unit=parse_unit(unit)),
        ref=array(ref_flux, "ref_flux", in_unit=u.nJy),
        ref_err=array(ref_flux_err, "ref_flux_err", 0.0, in_unit=u.nJy),
        x=array(x, "x"),
        y=array(y, "y"),
        color=array(color, "color"),
        color_err=array(color_err, "color_err", 0.0),
        status=np.zeros(n, np.int8),
    )
    _set_status(
        stars,
        positions=x is not None and y is not None,
        box=box,
        color_range=color_range,
        use_color=use_color,
        flags={
            StarStatus.FLAGGED: _mask(flagged, n, "flagged"),
            StarStatus.SATURATED: _mask(saturated, n, "saturated"),
        },
        duplicate=_duplicates(ids, n),
    )
    return stars


def _set_status(
    stars: Stars,
    *,
    positions: bool,
    box: Box | None,
    color_range: tuple[float, float] | None,
    use_color: bool,
    flags: dict[StarStatus, np.ndarray],
    duplicate: np.ndarray,
) -> None:
    """Mark unusable stars; the last reason written is the one reported."""
    status = stars.status
    with np.errstate(invalid="ignore"):
        if positions and box is not None:
            inside = box.contains(x=stars.x, y=stars.y)
            status[~inside] = StarStatus.OUTSIDE_BOX
        if use_color:
            low, high = (-np.inf, np.inf) if color_range is None else color_range
            good = (stars.color >= low) & (stars.color <= high) & np.isfinite(stars.color_err)
            status[~(good & np.isfinite(stars.color))] = StarStatus.COLOR_RANGE
        status[duplicate] = StarStatus.DUPLICATE
        for reason, mask in flags.items():
            status[mask] = reason
        status[~(stars.ref > 0)] = StarStatus.NO_REFERENCE
        finite = np.isfinite(stars.inst) & np.isfinite(stars.inst_err) & np.isfinite(stars.ref_err)
        finite &= (stars.inst_err > 0) & (stars.ref_err >= 0)
        if positions:
            finite &= np.isfinite(stars.x) & np.isfinite(stars.y)
        status[~finite] = StarStatus.NOT_FINITE
        status[np.isinf(stars.ref)] = StarStatus.NO_REFERENCE


def _plain(value: Any, unit: Any, name: str) -> np.ndarray:
    """Return float64 numbers; masked entries are NaN."""
    if isinstance(value, np.ma.MaskedArray):
        column_unit = getattr(value, "unit", None)
        filled = np.ma.filled(np.ma.asarray(value, np.float64), np.nan)
        value = np.asarray(filled) if column_unit is None else np.asarray(filled) * column_unit
    elif getattr(value, "unit", None) is not None and not isinstance(value, u.Quantity):
        value = np.asarray(value, np.float64) * value.unit
    return strip_unit(value, unit, name)


def _mask(value: Any, n: int, name: str) -> np.ndarray:
    if value is None:
        return np.zeros(n, bool)
    mask = np.asarray(value)
    if mask.shape != (n,):
        raise PogsonValueError(f"{name} has shape {mask.shape}, but there are {n} stars.")
    return mask.astype(bool)


def _duplicates(ids: Any, n: int) -> np.ndarray:
    """Return which stars share their identifier with another one."""
    if ids is None:
        return np.zeros(n, bool)
    values = np.asarray(ids)
    if values.shape != (n,):
        raise PogsonValueError(f"ids has shape {values.shape}, but there are {n} stars.")
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray(counts[inverse] > 1)
