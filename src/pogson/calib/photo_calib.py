"""Photometric calibrations that know what they calibrate.

Pixel convention: 0-based, pixel centres on integers. Fluxes are AB flux densities in nJy; 1 nJy is
magnitude 31.4 exactly.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import astropy.units as u
import numpy as np

from pogson.calib._fluxes import EVERYWHERE, instrument_unit
from pogson.calib._images import ImageMethods
from pogson.calib.covariance import ParameterCovariance
from pogson.calib.reference import FluxReference
from pogson.errors import (
    CalibrationError,
    PogsonTypeError,
    PogsonValueError,
)
from pogson.fields import Box, Field
from pogson.units import (
    NJY_AB_MAGNITUDE,
    Measure,
    parse_unit,
    strip_unit,
)

if TYPE_CHECKING:
    from astropy.io import fits
    from astropy.table import Table


__all__ = ["EVERYWHERE", "PhotoCalib"]

SCHEMA = "pogson/photo_calib"
SCHEMA_VERSION = 1


@dataclass(frozen=True, eq=True, repr=False)
class PhotoCalib(ImageMethods):
    """A calibration from instrumental units to nJy, with all that its numbers mean; immutable.

    ``flux[nJy] = field(x, y) * instrumental flux`` for fluxes of the stated reference, measured on
    an image of the stated measure.

    Parameters
    ----------
    field : Field
        Calibration in nJy per instrumental unit (``nJy / adu``, ``nJy / electron`` ...).
    measure : Measure or str
        Kind of image that it applies to: "fluence" or "surface_brightness".
    reference : FluxReference
        Reference of the instrumental fluxes, and hence of the calibrated ones.
    bandpass : str, optional
        Name of the bandpass of the calibrated fluxes.
    sed : str, optional
        Name of the spectrum for which the calibration is exact; None: not stated.
    covariance : ParameterCovariance, optional
        Covariance of the calibration's parameters. It is shared by every source, so it never
        enters per-source errors; see `relative_error` and `flux_covariance`.
    provenance : mapping, optional
        Where the calibration came from; JSON values.

    Raises
    ------
    UnitMismatchError
        If the field's unit is not nJy per something.

    Notes
    -----
    Equality compares everything. The mean has one meaning: the area average of the field.

    Examples
    --------
    >>> calib = PhotoCalib.constant(2.5, unit="nJy/adu", reference=FluxReference.total())
    >>> calib.flux([100.0, -4.0], [10.0, 10.0])
    (array([250., -10.]), array([25., 25.]))
    >>> calib.magnitude(1000.0)
    array(22.90514998)
    """

    field: Field
    measure: Measure
    reference: FluxReference
    bandpass: str | None
    sed: str | None
    covariance: ParameterCovariance | None
    provenance: Mapping[str, Any]

    def __init__(
        self,
        field: Field,
        *,
        measure: Measure | str,
        reference: FluxReference,
        bandpass: str | None = None,
        sed: str | None = None,
        covariance: ParameterCovariance | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(field, Field):
            raise PogsonTypeError(
                f"PhotoCalib needs a Field in nJy per instrumental unit, not {field!r}; for one "
                "number use PhotoCalib.constant(value, unit='nJy/adu', ...)."
            )
        if not isinstance(reference, FluxReference):
            raise PogsonTypeError(
                f"PhotoCalib needs reference=, a FluxReference (total, aperture or psf) of the "
                f"fluxes it calibrates; got {reference!r}."
            )
        instrument_unit(field.unit)
        try:
            kept = json.loads(json.dumps(dict(provenance or {})))
        except (TypeError, ValueError) as error:
            raise PogsonValueError(f"Provenance must be JSON values: {error}.") from None
        values = {
            "field": field,
            "measure": Measure.parse(measure),
            "reference": reference,
            "bandpass": bandpass,
            "sed": sed,
            "covariance": covariance,
            "provenance": MappingProxyType(kept),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    # -- constructors -----------------------------------------------------------------------
    @classmethod
    def constant(
        cls,
        value: Any,
        *,
        unit: Any = "nJy/adu",
        box: Box | None = None,
        error: float | None = None,
        measure: Measure | str = Measure.FLUENCE,
        reference: FluxReference,
        bandpass: str | None = None,
        sed: str | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> PhotoCalib:
        """One calibration for all positions.

        Parameters
        ----------
        value : float or Quantity
            nJy per instrumental unit, positive.
        unit : unit-like
            Unit of a bare ``value``.
        box : Box, optional
            Box where it holds; everywhere by default.
        error : float, optional
            Standard error of ``value``, same unit; kept as the covariance of one shared parameter.
        measure, reference, bandpass, sed, provenance
            As in the class.

        Raises
        ------
        CalibrationError
            If the value is not finite and positive.

        Examples
        --------
        >>> calib = PhotoCalib.constant(3.0, error=0.03, reference=FluxReference.aperture(12))
        >>> calib.relative_error(x=0, y=0)
        array(0.01)
        """
        from pogson.fields import ConstantField

        if isinstance(value, u.Quantity):
            unit, number = value.unit, float(value.value)
        else:
            number = float(strip_unit(value, "", "value"))
        if not (np.isfinite(number) and number > 0):
            raise CalibrationError(
                f"The calibration {number!r} must be a positive number of nJy per instrumental "
                "unit."
            )
        box = EVERYWHERE if box is None else box
        covariance = None
        if error is not None:
            covariance = ParameterCovariance(
                ["log_calibration"], [[(float(error) / number) ** 2]], [ConstantField(box, 1.0)]
            )
        return cls(
            ConstantField(box, number, parse_unit(unit)),
            measure=measure,
            reference=reference,
            bandpass=bandpass,
            sed=sed,
            covariance=covariance,
            provenance=provenance,
        )

    @classmethod
    def from_zero_point(
        cls,
        magnitude: float,
        *,
        magnitude_err: float | None = None,
        exposure_time: float | None = None,
        unit: Any = "adu",
        **kwargs: Any,
    ) -> PhotoCalib:
        """Calibration of an AB zero point.

        Parameters
        ----------
        magnitude : float
            AB magnitude of a source of one instrumental unit (``exposure_time`` None), or of one
            instrumental unit per second (``exposure_time`` given; the image holds the whole
            exposure's counts).
        magnitude_err : float, optional
            Standard error in magnitudes; kept as a covariance shared by all sources.
        exposure_time : float, optional
            Seconds. Give it if and only if the zero point is per second and the image is not.
        unit : unit-like
            Instrumental unit of the image, for example "adu" or "electron".
        **kwargs
            ``measure``, ``reference``, ``bandpass``, ``sed``, ``box``, ``provenance`` as in
            `constant`.

        Raises
        ------
        CalibrationError
            If the zero point or the exposure time is not usable.

        Notes
        -----
        ``calibration = 10**(-0.4 (zero point - 31.4)) / exposure time`` in nJy per unit.

        Examples
        --------
        >>> total = FluxReference.total()
        >>> a = PhotoCalib.from_zero_point(31.4, reference=total)
        >>> b = PhotoCalib.from_zero_point(26.4, exposure_time=100.0, reference=total)
        >>> a.mean(), b.mean()
        (1.0, 1.0)
        """
        zp = float(magnitude)
        if not np.isfinite(zp):
            raise CalibrationError(f"The zero point {magnitude!r} must be a finite magnitude.")
        value = 10.0 ** (-0.4 * (zp - NJY_AB_MAGNITUDE))
        if exposure_time is not None:
            if not (np.isfinite(exposure_time) and exposure_time > 0):
                raise CalibrationError(
                    f"The exposure time {exposure_time!r} must be a positive number of seconds."
                )
            value /= float(exposure_time)
        error = None
        if magnitude_err is not None:
            error = value * 0.4 * np.log(10.0) * abs(float(magnitude_err))
        return cls.constant(value, unit=u.nJy / parse_unit(unit), error=error, **kwargs)

    # -- what it is -------------------------------------------------------------------------
    def with_(self, **changes: Any) -> PhotoCalib:
        """Return a copy with some attributes changed.

        Examples
        --------
        >>> calib = PhotoCalib.constant(2.0, reference=FluxReference.total())
        >>> calib.with_(bandpass="decam2014-r").bandpass
        'decam2014-r'
        """
        names = ("field", "measure", "reference", "bandpass", "sed", "covariance", "provenance")
        unknown = set(changes) - set(names)
        if unknown:
            raise PogsonValueError(f"PhotoCalib has no {sorted(unknown)}; it has {list(names)}.")
        values = {name: getattr(self, name) for name in names} | changes
        return PhotoCalib(values.pop("field"), **values)

    # -- catalogues and files ---------------------------------------------------------------
    def calibrate_catalog(self, table: Table, **options: Any) -> Table:
        """Add nJy and magnitude columns to a catalogue; see `pogson.calib.calibrate_catalog`.

        Parameters
        ----------
        table : astropy.table.Table
            Catalogue whose flux columns carry their reference.
        **options
            Keywords of `pogson.calib.calibrate_catalog`.
        """
        from pogson.calib.catalog import calibrate_catalog

        return calibrate_catalog(self, table, **options)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description, read back by `from_dict`."""
        return {
            "schema": SCHEMA,
            "version": SCHEMA_VERSION,
            "field": self.field.to_dict(),
            "measure": self.measure.value,
            "reference": self.reference.to_dict(),
            "bandpass": self.bandpass,
            "sed": self.sed,
            "covariance": None if self.covariance is None else self.covariance.to_dict(),
            "provenance": json.loads(json.dumps(dict(self.provenance))),
        }

    @classmethod
    def from_dict(cls, data: Any) -> PhotoCalib:
        """Read the description written by `to_dict`.

        Raises
        ------
        FileFormatError
            If it is not such a description, or of a newer version.
        """
        from pogson.calib.files import photo_calib_from_dict

        return photo_calib_from_dict(data)

    def to_json(self) -> str:
        """Return the description as JSON text, read back by `from_json`."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> PhotoCalib:
        """Read JSON text written by `to_json`.

        Examples
        --------
        >>> calib = PhotoCalib.constant(2.0, reference=FluxReference.total())
        >>> PhotoCalib.from_json(calib.to_json()) == calib
        True
        """
        from pogson.calib.files import photo_calib_from_json

        return photo_calib_from_json(text)

    def to_hdu(self, name: str = "PHOTOCALIB") -> fits.BinTableHDU:
        """Return a FITS table extension with the exact description and standard header cards."""
        from pogson.calib.files import photo_calib_to_hdu

        return photo_calib_to_hdu(self, name)

    @classmethod
    def from_hdu(cls, hdu: Any) -> PhotoCalib:
        """Read the extension written by `to_hdu`."""
        from pogson.calib.files import photo_calib_from_hdu

        return photo_calib_from_hdu(hdu)

    def write(self, path: Any) -> None:
        """Write a ``.json`` or ``.fits`` file, whole or not at all.

        Parameters
        ----------
        path : path-like
            File to write; replaced if it exists.
        """
        from pogson.calib.files import write_photo_calib

        write_photo_calib(self, path)

    @classmethod
    def read(cls, path: Any) -> PhotoCalib:
        """Read a file written by `write`.

        Raises
        ------
        FileFormatError
            If the file holds no such calibration.
        """
        from pogson.calib.files import read_photo_calib

        return read_photo_calib(path)

    def __repr__(self) -> str:
        parts = [
            repr(self.field),
            f"measure={self.measure.value!r}",
            f"reference={self.reference!r}",
        ]
        parts += [
            f"{name}={getattr(self, name)!r}"
            for name in ("bandpass", "sed", "covariance")
            if getattr(self, name) is not None
        ]
        if self.provenance:
            parts.append(f"provenance={dict(self.provenance)!r}")
        return f"PhotoCalib({', '.join(parts)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (PhotoCalib.from_dict, (self.to_dict(),))

    def __hash__(self) -> int:
        return hash((self.field, self.measure, self.reference, self.bandpass, self.sed))
