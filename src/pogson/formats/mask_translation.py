"""Translating instruments' mask values into pogson's mask names."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from pogson.errors import FileFormatError, PogsonWarning
from pogson.formats.instruments import MaskRule

__all__ = ["plane_bits", "translate_mask"]


def plane_bits(header: Any) -> dict[str, int]:
    """Return the mask planes a header names itself: ``MP_<NAME> = bit number``.

    Examples
    --------
    >>> plane_bits({"MP_SAT": 1, "BITPIX": 16})
    {'SAT': 1}
    """
    planes = {}
    for key in header:
        if key.startswith("MP_"):
            value = header[key]
            if isinstance(value, int) and 0 <= value < 32:
                planes[key[3:]] = value
    return planes


def translate_mask(
    raw: np.ndarray | None, header: Any, rule: MaskRule | None, bits: Any, path: Any
) -> np.ndarray | None:
    """Translate an instrument's mask into ``uint32`` bits of a registry.

    Parameters
    ----------
    raw : numpy.ndarray or None
        Mask values, integer (or whole numbers in floating point).
    header : mapping
        Header of the mask, for rules of kind ``planes``.
    rule : MaskRule or None
        What the values mean. None: every non-zero value is BAD.
    bits : pogson.images.MaskBits
        Registry to translate to.
    path : path-like
        File named in messages.

    Returns
    -------
    numpy.ndarray or None
        A new uint32 array of the same shape.

    Warns
    -----
    PogsonWarning
        If values occur that the rule does not list; they are marked with its ``unknown`` name.

    Examples
    --------
    >>> from pogson.formats.instruments import load_instrument
    >>> from pogson.images.mask import MaskBits
    >>> rule = load_instrument("decam-cp").mask_rule("V4.8.2")
    >>> bits = MaskBits.standard()
    >>> out = translate_mask(np.array([[0, 3, 5]]), {}, rule, bits, "ood.fits")
    >>> [bits.names(v) for v in out[0]]
    [(), ('SATURATED',), ('COSMIC_RAY',)]
    """
    if raw is None:
        return None
    values = _whole_numbers(raw, path)
    if rule is None:
        return np.where(values != 0, np.uint32(bits.value("BAD")), np.uint32(0))
    if rule.kind == "codes":
        return _translate_codes(values, rule, bits, path)
    return _translate_bits(values, _bit_names(rule, header, path), rule, bits, path)


def _whole_numbers(raw: np.ndarray, path: Any) -> np.ndarray:
    if raw.dtype.kind in "iu":
        return raw.astype(np.int64)
    with np.errstate(invalid="ignore"):
        values = np.where(np.isfinite(raw), raw, -1).astype(np.int64)
    if not np.array_equal(values, raw):
        raise FileFormatError(f"{path}: mask values must be whole numbers, found others.")
    return values


def _names(name: str, bits: Any) -> np.uint32:
    return np.uint32(bits.value(name)) if name else np.uint32(0)


def _translate_codes(values: np.ndarray, rule: MaskRule, bits: Any, path: Any) -> np.ndarray:
    out = np.zeros(values.shape, np.uint32)
    unknown: dict[int, int] = {}
    found, counts = np.unique(values, return_counts=True)
    for code, count in zip(found.tolist(), counts.tolist(), strict=True):
        if code == 0:
            continue
        if str(code) in rule.values:
            name = rule.values[str(code)]
        else:
            name, unknown[code] = rule.unknown, count
        out[values == code] = _names(name, bits)
    _report(unknown, rule, path, "mask codes")
    return out


def _bit_names(rule: MaskRule, header: Any, path: Any) -> dict[int, str]:
    """Return bit number -> mask name."""
    if rule.kind == "planes":
        planes = plane_bits(header or {})
        if not planes:
            raise FileFormatError(
                f"{path}: the mask header names no planes (cards MP_<NAME> = bit number)."
            )
        return {bit: rule.values.get(name, rule.unknown) for name, bit in planes.items()}
    return {int(value).bit_length() - 1: name for value, name in rule.values.items()}


def _translate_bits(
    values: np.ndarray, names: dict[int, str], rule: MaskRule, bits: Any, path: Any
) -> np.ndarray:
    if values.min() < 0:
        # a signed storage of an unsigned mask
        values = values & 0xFFFFFFFF
    out = np.zeros(values.shape, np.uint32)
    unknown: dict[int, int] = {}
    present = int(np.bitwise_or.reduce(values, axis=None))
    for bit in range(present.bit_length()):
        if not (present >> bit) & 1:
            continue
        where = ((values >> bit) & 1).astype(bool)
        if bit in names:
            name = names[bit]
        else:
            name, unknown[bit] = rule.unknown, int(where.sum())
        out[where] |= _names(name, bits)
    _report(unknown, rule, path, "mask bits")
    return out


def _report(unknown: dict[int, int], rule: MaskRule, path: Any, what: str) -> None:
    if unknown:
        words = ", ".join(f"{v} ({n} pixels)" for v, n in list(unknown.items())[:8])
        warnings.warn(
            f"{path}: {what} {words} are not in the instrument preset; marked {rule.unknown}.",
            PogsonWarning,
            stacklevel=4,
        )
