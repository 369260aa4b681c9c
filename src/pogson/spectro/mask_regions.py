"""Wavelength ranges left out of fits: telluric bands and others."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pogson.errors import FileFormatError, MissingDataError, PogsonValueError, choices
from pogson.spectro._checks import check_wavelengths
from pogson.spectro.containers import Spectrum1D

__all__ = [
    "MASK_REGIONS",
    "apply_mask_regions",
    "apply_named_mask",
    "combine_regions",
    "load_mask_array",
    "load_mask_regions",
    "mask_coverage_fraction",
]

MASK_REGIONS: dict[str, tuple[tuple[float, float], ...]] = {
    # O2 B, H2O, O2 A, H2O, H2O
    "telluric_default": (
        (6860.0, 6960.0),
        (7150.0, 7340.0),
        (7590.0, 7700.0),
        (8100.0, 8360.0),
        (8920.0, 9200.0),
    ),
    # the same with O2 gamma and the water bands on the red side
    "telluric_wide": (
        (6270.0, 6335.0),
        (6860.0, 6970.0),
        (7150.0, 7400.0),
        (7585.0, 7715.0),
        (8100.0, 8380.0),
        (8920.0, 9220.0),
        (9270.0, 9820.0),
    ),
    "none": (),
}
"""Vacuum wavelength ranges in Angstrom by name."""


def load_mask_regions(
    mask_name: str | os.PathLike[str] = "telluric_default",
) -> list[tuple[float, float]]:
    """Return wavelength ranges to leave out, by name or from a file.

    Parameters
    ----------
    mask_name : str or path-like, optional
        A key of `MASK_REGIONS`, or a text file with two columns (first and last vacuum wavelength
        in Angstrom; ``#`` starts a comment).

    Returns
    -------
    regions : list of (float, float)
        Sorted.

    Raises
    ------
    MissingDataError
        If there is neither such a name nor such a file.
    FileFormatError
        If a line of the file is not two increasing numbers.

    Examples
    --------
    >>> load_mask_regions("telluric_default")[0]
    (6860.0, 6960.0)
    """
    if mask_name in MASK_REGIONS:
        return list(MASK_REGIONS[str(mask_name)])
    path = Path(mask_name)
    if not path.is_file():
        raise MissingDataError(
            f"There is no mask {str(mask_name)!r}: neither a file nor one of "
            f"{choices(sorted(MASK_REGIONS))}."
        )
    regions = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        try:
            low, high = float(words[0]), float(words[1])
        except (ValueError, IndexError):
            low = high = float("nan")
        if not low < high:
            raise FileFormatError(
                f"Line {number} of {path}, {line.strip()!r}, is not two increasing wavelengths."
            )
        regions.append((low, high))
    return sorted(regions)


def load_mask_array(
    wavelength: Any, mask_name: str | os.PathLike[str] = "telluric_default"
) -> np.ndarray:
    """Return True where a wavelength is outside all ranges (good), False inside one.

    Examples
    --------
    >>> load_mask_array([6800.0, 6900.0])
    array([ True, False])
    """
    lam = check_wavelengths(wavelength, "the mask")
    return outside_regions(lam, load_mask_regions(mask_name))


def outside_regions(lam: np.ndarray, regions: Iterable[tuple[float, float]]) -> np.ndarray:
    """Return True where a wavelength is outside all ranges."""
    good = np.ones(lam.shape, bool)
    for low, high in regions:
        if not low < high:
            raise PogsonValueError(
                f"The range {low:g} to {high:g} Angstrom does not increase; give (low, high)."
            )
        good &= (lam < low) | (lam > high)
    return good


def apply_mask_regions(spectrum: Spectrum1D, regions: Sequence[tuple[float, float]]) -> Spectrum1D:
    """Return the spectrum with the pixels inside the ranges marked bad.

    Examples
    --------
    >>> s = Spectrum1D([6800.0, 6900.0], [1.0, 1.0])
    >>> apply_mask_regions(s, [(6860.0, 6960.0)]).mask
    array([ True, False])
    """
    return replace(spectrum, mask=spectrum.mask & outside_regions(spectrum.wavelength, regions))


def apply_named_mask(
    spectrum: Spectrum1D, mask_name: str | os.PathLike[str] = "telluric_default"
) -> Spectrum1D:
    """Return the spectrum with the pixels inside named ranges marked bad.

    Examples
    --------
    >>> apply_named_mask(Spectrum1D([6800.0, 6900.0], [1.0, 1.0])).n_good
    1
    """
    return apply_mask_regions(spectrum, load_mask_regions(mask_name))


def mask_coverage_fraction(
    wavelength: Any, mask_name: str | os.PathLike[str] = "telluric_default"
) -> float:
    """Return the fraction of pixels inside named ranges.

    Examples
    --------
    >>> mask_coverage_fraction([6800.0, 6900.0])
    0.5
    """
    return float(np.mean(~load_mask_array(wavelength, mask_name)))


def combine_regions(*region_lists: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the union of lists of ranges, sorted, overlapping ones merged.

    Examples
    --------
    >>> combine_regions([(6860.0, 6960.0)], [(6300.0, 6320.0), (6950.0, 7000.0)])
    [(6300.0, 6320.0), (6860.0, 7000.0)]
    """
    merged: list[tuple[float, float]] = []
    for low, high in sorted(r for regions in region_lists for r in regions):
        if merged and low <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((float(low), float(high)))
    return merged
