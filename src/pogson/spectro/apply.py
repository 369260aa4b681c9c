"""Apply a calibration to all fibres of a frame."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import BoundsError, PogsonValueError
from pogson.spectro.containers import CalibrationVector, PixelMask
from pogson.spectro.frame import FibreSpectra

if TYPE_CHECKING:
    from pogson.spectro.calibrate import FluxCalibration

__all__ = ["CalibratedSpectra", "apply_calibration"]


@dataclass(frozen=True, eq=False)
class CalibratedSpectra:
    """Flux-calibrated spectra of one frame.

    Parameters
    ----------
    wavelength : ndarray, shape (n_pixel,) or (n_fibre, n_pixel)
        Vacuum Angstrom.
    flux : ndarray, shape (n_fibre, n_pixel)
        erg/s/cm2/Angstrom; NaN where masked.
    ivar : ndarray, shape (n_fibre, n_pixel)
        Inverse variance from the noise of each pixel alone; 0 where masked. The error of the
        calibration, which all fibres share, is not in it: ask ``calibration``.
    mask : ndarray of uint32, shape (n_fibre, n_pixel)
        Bits of `PixelMask`.
    fibre_ids : ndarray
        One for each row.
    names : tuple of str
        Targets.
    calibration : FluxCalibration or CalibrationVector
        What was applied.
    meta : dict, optional
        Metadata of the frame.

    Examples
    --------
    >>> frame = FibreSpectra([5000.0, 5001.0], [[10.0, -2.0], [np.nan, 4.0]], np.ones((2, 2)))
    >>> vector = CalibrationVector([5000.0, 5001.0], [1e-17, 2e-17], [0.0, 0.0])
    >>> out = apply_calibration(frame, vector)
    >>> out.flux, out.mask
    (array([[ 1.e-16, -4.e-17], [nan, 8.e-17]]), array([[0, 0], [1, 0]], dtype=uint32))
    """

    wavelength: np.ndarray
    flux: np.ndarray
    ivar: np.ndarray
    mask: np.ndarray
    fibre_ids: np.ndarray
    names: tuple[str, ...]
    calibration: Any
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("flux", "ivar", "mask"):
            getattr(self, name).flags.writeable = False

    def calibration_variance(self, row: int) -> np.ndarray:
        """Variance of the flux of one row from the calibration: common to all fibres.

        Shape (n_pixel,), in (erg/s/cm2/Angstrom)^2. Add it to 1/ivar for one fibre's total; do not
        average it down over fibres or neighbouring pixels.
        """
        lam = self.wavelength if self.wavelength.ndim == 1 else self.wavelength[row]
        if isinstance(self.calibration, CalibrationVector):
            c = self.calibration
            with np.errstate(divide="ignore", invalid="ignore"):
                relative = np.where(c.mask, c.cal_variance / c.cal_factor**2, np.nan)
        else:
            relative = self.calibration.solution.log_variance(lam)
        return np.asarray(relative * self.flux[row] ** 2)

    def __repr__(self) -> str:
        return (
            f"CalibratedSpectra({self.flux.shape[0]} fibres x {self.flux.shape[1]} pixels, "
            f"{self.wavelength.min():g}-{self.wavelength.max():g} Angstrom, "
            f"{int(np.sum(self.mask == 0))} good pixels)"
        )


def apply_calibration(
    frame: FibreSpectra, calibration: FluxCalibration | CalibrationVector
) -> CalibratedSpectra:
    """Return the flux densities of every fibre of a frame.

    Parameters
    ----------
    frame : FibreSpectra
        Counts. Its exposure time, airmass and count unit may differ from those of the standards
        when a `FluxCalibration` is applied; a plain `CalibrationVector` knows none of them and is
        per count of the frame it was made for.
    calibration : FluxCalibration or CalibrationVector
        What to apply.

    Returns
    -------
    CalibratedSpectra

    Raises
    ------
    BoundsError
        If no wavelength of the frame is covered.
    PogsonValueError
        If a vector's wavelengths are not those of the frame.

    Notes
    -----
    Pixels that were masked stay masked, and pixels without calibration get `PixelMask.OUTSIDE`:
    flux NaN, inverse variance 0. A flux of 0 with variance 0, a "perfect zero", is never made.

    Examples
    --------
    See `CalibratedSpectra`.

    >>> apply_calibration.__name__
    'apply_calibration'
    """
    from pogson.spectro._apply_kernels import apply_factor

    lam = frame.wavelength
    if isinstance(calibration, CalibrationVector):
        grid = (
            np.broadcast_to(calibration.wavelength, lam.shape)
            if (lam.shape[-1] == calibration.wavelength.size)
            else None
        )
        if grid is None or not np.allclose(grid, lam, rtol=0, atol=1e-3):
            raise PogsonValueError(
                f"The calibration vector ({calibration!r}) is not on the wavelengths of the frame "
                f"({lam.min():g}-{lam.max():g} Angstrom, {frame.n_pixels} pixels). Apply a "
                f"FluxCalibration, which can be evaluated anywhere, or resample the vector."
            )
        factor = np.where(calibration.mask, calibration.cal_factor, np.nan)[None, :]
    else:
        factor = np.atleast_2d(calibration.factor_for(frame))
    missing = ~(np.isfinite(factor) & (factor > 0))
    if missing.all():
        raise BoundsError(
            f"No wavelength of the frame ({lam.min():g}-{lam.max():g} Angstrom) is covered by "
            f"{calibration!r}."
        )
    bits = np.where(missing, np.uint32(PixelMask.OUTSIDE), np.uint32(0)).astype(np.uint32)
    flux = np.empty(frame.counts.shape)
    ivar = np.empty(frame.counts.shape)
    mask = np.empty(frame.counts.shape, np.uint32)
    apply_factor(
        frame.counts, frame.ivar, frame.mask, np.ascontiguousarray(factor), bits, flux, ivar, mask
    )
    return CalibratedSpectra(
        lam, flux, ivar, mask, frame.fibre_ids, frame.names, calibration, dict(frame.meta)
    )
