"""Methods of `PhotoCalib` that turn instrumental fluxes into physical ones and back."""

from __future__ import annotations

from typing import Any

import astropy.units as u
import numpy as np

from pogson.calib.covariance import ParameterCovariance
from pogson.calib.reference import FluxReference, require_same
from pogson.errors import (
    CalibrationError,
    MeasureError,
    MissingDataError,
    PogsonValueError,
    UnitMismatchError,
)
from pogson.fields import Box, Field
from pogson.units import Measure, flux_to_magnitude, magnitude_to_flux, strip_unit

__all__ = ["EVERYWHERE", "FluxMethods", "instrument_unit", "require_positive"]

EVERYWHERE = Box.everywhere()
"""The box of a constant calibration that holds at any position."""


class FluxMethods:
    """Fluxes, magnitudes and the error of the calibration itself."""

    field: Field
    measure: Measure
    reference: FluxReference
    covariance: ParameterCovariance | None

    @property
    def box(self) -> Box:
        """Pixel box where the calibration holds."""
        return self.field.box

    @property
    def instrument_unit(self) -> u.UnitBase:
        """Unit of the instrumental fluxes."""
        return instrument_unit(self.field.unit)

    @property
    def is_constant(self) -> bool:
        """Whether one number calibrates every position."""
        from pogson.fields import ConstantField

        return isinstance(self.field, ConstantField)

    def mean(self, box: Box | None = None) -> float:
        """Area average of the calibration, nJy per instrumental unit.

        Parameters
        ----------
        box : Box, optional
            Box to average over; that of the field by default.
        """
        if self.is_constant:
            return float(self.field(x=self.box.center[0], y=self.box.center[1]))
        return self.field.mean(box)

    def local(self, *, x: Any = None, y: Any = None, extrapolate: bool = False) -> np.ndarray:
        """Calibration at positions, nJy per instrumental unit.

        Parameters
        ----------
        x, y : array_like, optional
            Positions in pixels (0-based, pixel centres on integers); may be left out only if the
            calibration is constant.
        extrapolate : bool
            Allow positions outside the box.

        Returns
        -------
        calibration : numpy.ndarray
            NaN at NaN positions.

        Raises
        ------
        MissingDataError
            If the calibration varies and no position is given.
        BoundsError
            If a position is outside the box.
        CalibrationError
            If the calibration there is not positive.
        """
        if x is None or y is None:
            if not self.is_constant:
                raise MissingDataError(
                    "This calibration varies over the image: pass x= and y= (pixels), or "
                    "calibrate with its area average, mean(), yourself."
                )
            x, y = self.box.center
        value = np.asarray(self.field(x=x, y=y, extrapolate=extrapolate), np.float64)
        return require_positive(value, "at these positions")

    # -- fluxes -----------------------------------------------------------------------------
    def flux(
        self,
        inst_flux: Any,
        inst_flux_err: Any = None,
        *,
        x: Any = None,
        y: Any = None,
        reference: FluxReference | None = None,
        measure: Measure | str | None = None,
        extrapolate: bool = False,
    ) -> Any:
        """Flux density in nJy of instrumental fluxes.

        Parameters
        ----------
        inst_flux, inst_flux_err : array_like or Quantity
            Instrumental fluxes and their errors; bare numbers are in `instrument_unit`.
        x, y : array_like, optional
            Positions in pixels (0-based, pixel centres on integers).
        reference : FluxReference, optional
            Reference of the fluxes given; checked.
        measure : Measure or str, optional
            Measure of the image they were measured on; checked.
        extrapolate : bool
            Allow positions outside the box.

        Returns
        -------
        flux : numpy.ndarray
            nJy.
        flux_err : numpy.ndarray
            Only with ``inst_flux_err``. Without the calibration's own error, which is shared by
            all sources: see `flux_covariance`.

        Raises
        ------
        ReferenceMismatchError, MeasureError, UnitMismatchError
            If the fluxes are not of the kind that this calibration applies to.
        BoundsError
            If a position is outside the box.

        Examples
        --------
        >>> from pogson.calib import FluxReference, PhotoCalib
        >>> import astropy.units as u
        >>> calib = PhotoCalib.constant(2.0, unit="nJy/electron", reference=FluxReference.psf())
        >>> calib.flux(50.0 * u.electron)
        array(100.)
        """
        self._check_kind(reference, measure)
        scale = self.local(x=x, y=y, extrapolate=extrapolate)
        value = strip_unit(inst_flux, self.instrument_unit, "inst_flux") * scale
        if inst_flux_err is None:
            return np.asarray(value)
        err = strip_unit(inst_flux_err, self.instrument_unit, "inst_flux_err") * scale
        return np.asarray(value), np.asarray(np.abs(err))

    def magnitude(self, inst_flux: Any, inst_flux_err: Any = None, **where: Any) -> Any:
        """AB magnitude of instrumental fluxes.

        Parameters
        ----------
        inst_flux, inst_flux_err : array_like or Quantity
            As in `flux`.
        **where
            ``x``, ``y``, ``reference``, ``measure``, ``extrapolate`` as in `flux`.

        Returns
        -------
        magnitude : numpy.ndarray
            NaN where the flux is not positive.
        magnitude_err : numpy.ndarray
            Only with ``inst_flux_err``; never negative.

        Examples
        --------
        >>> from pogson.calib import FluxReference, PhotoCalib
        >>> calib = PhotoCalib.constant(1.0, reference=FluxReference.total())
        >>> calib.magnitude([100.0, -1.0], [1.0, 1.0])
        (array([26.4,  nan]), array([0.01085736,        nan]))
        """
        if inst_flux_err is None:
            return np.asarray(flux_to_magnitude(self.flux(inst_flux, **where)))
        flux, err = self.flux(inst_flux, inst_flux_err, **where)
        mag, mag_err = flux_to_magnitude(flux, err)
        return np.asarray(mag), np.asarray(mag_err)

    def inst_flux(
        self,
        flux: Any,
        flux_err: Any = None,
        *,
        x: Any = None,
        y: Any = None,
        reference: FluxReference | None = None,
        measure: Measure | str | None = None,
        extrapolate: bool = False,
    ) -> Any:
        """Instrumental flux of a flux density; the inverse of `flux`.

        Parameters
        ----------
        flux, flux_err : array_like or Quantity
            Flux densities and errors; bare numbers are nJy.
        x, y, reference, measure, extrapolate
            As in `flux`.

        Returns
        -------
        inst_flux : numpy.ndarray
            In `instrument_unit`.
        inst_flux_err : numpy.ndarray
            Only with ``flux_err``.
        """
        self._check_kind(reference, measure)
        scale = self.local(x=x, y=y, extrapolate=extrapolate)
        value = np.asarray(strip_unit(flux, u.nJy, "flux") / scale)
        if flux_err is None:
            return value
        return value, np.asarray(np.abs(strip_unit(flux_err, u.nJy, "flux_err") / scale))

    def inst_flux_from_magnitude(
        self, magnitude: Any, magnitude_err: Any = None, **where: Any
    ) -> Any:
        """Instrumental flux of an AB magnitude; the inverse of `magnitude`.

        Parameters
        ----------
        magnitude, magnitude_err : array_like
            AB magnitudes and errors.
        **where
            ``x``, ``y``, ``reference``, ``measure``, ``extrapolate`` as in `flux`.

        Examples
        --------
        >>> from pogson.calib import FluxReference, PhotoCalib
        >>> calib = PhotoCalib.constant(1.0, reference=FluxReference.total())
        >>> calib.inst_flux_from_magnitude(26.4)
        array(100.)
        """
        if magnitude_err is None:
            return self.inst_flux(magnitude_to_flux(magnitude), **where)
        return self.inst_flux(*magnitude_to_flux(magnitude, magnitude_err), **where)

    def inst_flux_at_zero_magnitude(self, *, x: Any = None, y: Any = None) -> np.ndarray:
        """Instrumental flux of a source of AB magnitude 0 (the FLUXMAG0 of some headers)."""
        return np.asarray(self.inst_flux_from_magnitude(0.0, x=x, y=y))

    def zero_point(self, *, x: Any = None, y: Any = None) -> np.ndarray:
        """AB magnitude of a source of one instrumental unit.

        Examples
        --------
        >>> from pogson.calib import FluxReference, PhotoCalib
        >>> PhotoCalib.constant(100.0, reference=FluxReference.total()).zero_point()
        array(26.4)
        """
        return np.asarray(flux_to_magnitude(self.local(x=x, y=y)))

    # -- error of the calibration itself ----------------------------------------------------
    def relative_error(
        self, *, x: Any = None, y: Any = None, extrapolate: bool = False
    ) -> np.ndarray:
        """Relative standard error of the calibration at positions, from its covariance.

        It is common to all sources: do not add it to their variances.

        Parameters
        ----------
        x, y : array_like, optional
            Positions in pixels (0-based, pixel centres on integers).
        extrapolate : bool
            Allow positions outside the box.

        Raises
        ------
        MissingDataError
            If the calibration has no covariance, or varies and no position is given.
        """
        return self._covariance().relative_error(**self._positions(x, y), extrapolate=extrapolate)

    def zero_point_error(self, *, x: Any = None, y: Any = None) -> np.ndarray:
        """Standard error of `zero_point` in magnitudes, from the covariance."""
        return np.asarray(2.5 / np.log(10.0) * self.relative_error(x=x, y=y))

    def flux_covariance(
        self, flux: Any, flux_err: Any = None, *, x: Any, y: Any, extrapolate: bool = False
    ) -> np.ndarray:
        """Covariance of calibrated fluxes between sources.

        Parameters
        ----------
        flux : array_like, shape (n,)
            Calibrated fluxes, nJy.
        flux_err : array_like, shape (n,), optional
            Their independent errors, nJy; added on the diagonal.
        x, y : array_like, shape (n,)
            Positions in pixels (0-based, pixel centres on integers).
        extrapolate : bool
            Allow positions outside the box.

        Returns
        -------
        covariance : numpy.ndarray, shape (n, n)
            nJy squared: ``f_i f_j cov(ln C_i, ln C_j) + delta_ij sigma_i**2``.

        Examples
        --------
        >>> from pogson.calib import FluxReference, PhotoCalib
        >>> calib = PhotoCalib.constant(1.0, error=0.1, reference=FluxReference.total())
        >>> calib.flux_covariance([10.0, 20.0], [1.0, 1.0], x=[0, 1], y=[0, 1])
        array([[2., 2.],
               [2., 5.]])
        """
        f = np.atleast_1d(strip_unit(flux, u.nJy, "flux"))
        if f.ndim != 1:
            raise PogsonValueError(f"flux must be one-dimensional, not of shape {f.shape}.")
        xa, ya = np.broadcast_to(x, f.shape), np.broadcast_to(y, f.shape)
        shared = self._covariance().relative_covariance(x=xa, y=ya, extrapolate=extrapolate)
        out = np.outer(f, f) * shared
        if flux_err is not None:
            err = np.broadcast_to(strip_unit(flux_err, u.nJy, "flux_err"), f.shape)
            out[np.diag_indices_from(out)] += err**2
        return out

    def _covariance(self) -> ParameterCovariance:
        if self.covariance is None:
            raise MissingDataError(
                "This calibration has no covariance: its error is unknown, not zero."
            )
        return self.covariance

    def _positions(self, x: Any, y: Any) -> dict[str, Any]:
        if x is None or y is None:
            if not self.is_constant:
                raise MissingDataError("The calibration varies over the image: pass x= and y=.")
            x, y = self.box.center
        return {"x": x, "y": y}

    def _check_kind(self, reference: FluxReference | None, measure: Measure | str | None) -> None:
        if reference is not None:
            require_same(reference, self.reference, "The fluxes and the calibration")
        if measure is not None and Measure.parse(measure) is not self.measure:
            raise MeasureError(
                f"This calibration applies to {self.measure.value!r}, not to "
                f"{Measure.parse(measure).value!r}: convert the image, or use fluence_part() / "
                "surface_brightness_part() of the calibration."
            )


def instrument_unit(unit: u.UnitBase) -> u.UnitBase:
    """Return what nJy is divided by in the unit of a calibration field."""
    instrument = u.nJy / unit
    if instrument == u.nJy:  # the calibration of an image that is in nJy already
        return u.nJy
    parts = instrument.bases if hasattr(instrument, "bases") else []
    if instrument.scale != 1.0 or any(u.kg in part.decompose().bases for part in parts):
        raise UnitMismatchError(
            f"A calibration field must be in nJy per instrumental unit, such as 'nJy / adu'; "
            f"this one is in '{unit}'."
        )
    return instrument


def require_positive(value: np.ndarray, where: str) -> np.ndarray:
    """Raise when a calibration is zero, negative or infinite (NaN positions stay NaN)."""
    lowest = np.nanmin(value) if value.size and not np.isnan(value).all() else 1.0
    if not (lowest > 0 and np.isfinite(np.nanmax(value, initial=lowest))):
        raise CalibrationError(
            f"The calibration {where} is not positive and finite everywhere (its lowest value is "
            f"{lowest:.6g}); the field extrapolates badly or is wrong."
        )
    return value
