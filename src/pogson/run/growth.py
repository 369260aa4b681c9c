"""Aperture fluxes taken to the largest aperture by the stars' own curve of growth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import CalibrationError

if TYPE_CHECKING:
    from astropy.table import Table

    from pogson.calib import FluxReference
    from pogson.images import Exposure

__all__ = ["corrected_to_largest"]

_LEAST_SNR = 50.0
_STARS_FOR_ORDER = ((60, 2), (20, 1), (2, 0))


def corrected_to_largest(
    table: Table,
    apertures: list[FluxReference],
    aperture: FluxReference,
    exposure: Exposure,
    stars: Table | None = None,
) -> tuple[np.ndarray, np.ndarray, FluxReference]:
    """Return fluxes of one aperture corrected to the largest measured, where no PSF is known.

    Parameters
    ----------
    table : astropy.table.Table
        Measurements with all apertures.
    apertures : list of FluxReference
        Smallest first.
    aperture : FluxReference
        The aperture to correct.
    exposure : Exposure
        For the box of the correction field.
    stars : astropy.table.Table, optional
        Measurements from which the correction is found; by default ``table`` itself.

    Returns
    -------
    flux, flux_err : numpy.ndarray
        Instrumental units; the star-to-star scatter of the correction is in the error, the error
        of the field itself, shared by all stars, is not (a zero-point fit absorbs it).
    reference : FluxReference
        The largest aperture.

    Raises
    ------
    CalibrationError
        If too few bright stars are there to measure the correction.
    """
    from pogson.images import fit_aperture_correction

    largest = apertures[-1]
    flux = np.asarray(table[f"flux_{aperture.slug}"], float)
    err = np.asarray(table[f"flux_{aperture.slug}_err"], float)
    if largest == aperture:
        return flux, err, aperture
    stars = table if stars is None else stars
    use = _bright(stars, largest)
    order = next((o for least, o in _STARS_FOR_ORDER if use.sum() >= least), None)
    if order is None:
        raise CalibrationError(
            f"Only {int(use.sum())} stars are bright and clean enough (S/N {_LEAST_SNR:g} in "
            f"{largest.label}) for a curve of growth; set measure.total = 'none', or give a PSF."
        )
    correction: Any = fit_aperture_correction(
        stars, aperture, largest, box=exposure.box, order=order, use=use
    )
    out = correction.apply(
        flux, err, x=np.asarray(table["x"], float), y=np.asarray(table["y"], float)
    )
    corrected = np.asarray(out["flux"], float)
    scatter = correction.intrinsic_scatter * np.abs(corrected)
    return corrected, np.hypot(np.asarray(out["flux_err"], float), scatter), largest


def _bright(table: Table, largest: FluxReference) -> np.ndarray:
    flux = np.asarray(table[f"flux_{largest.slug}"], float)
    err = np.asarray(table[f"flux_{largest.slug}_err"], float)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((flux / err > _LEAST_SNR) & (np.asarray(table["flags"]) == 0))
