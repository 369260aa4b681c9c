r"""AB magnitudes, nanojansky, asinh magnitudes, and the two measures of an image.

The AB zero point is the definition of Oke & Gunn (1983, ApJ 266, 713),

.. math:: m = -2.5 \log_{10} f_\nu [\mathrm{erg\,s^{-1}\,cm^{-2}\,Hz^{-1}}] - 48.60,

exactly, so a source of magnitude 0 has 3630.78 Jy and 1 nJy is magnitude 31.4 exactly. The rounded
3631 Jy of some codes differs by 0.066 mmag and is not used.

Fluxes are the working quantity: zero and negative fluxes survive everywhere, and a Pogson magnitude
of them is NaN. Asinh magnitudes (Lupton, Gunn & Szalay 1999, AJ 118, 1406) are finite for every
flux.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import astropy.units as u
import numpy as np

from pogson.errors import MeasureError, PogsonValueError, UnitMismatchError, choices

__all__ = [
    "AB_ZERO_POINT",
    "NJY_AB_MAGNITUDE",
    "Measure",
    "ab_zero_flux",
    "asinh_magnitude_to_flux",
    "flux_to_asinh_magnitude",
    "flux_to_magnitude",
    "inverse_variance",
    "magnitude_to_flux",
    "parse_unit",
    "strip_unit",
]

AB_ZERO_POINT = -48.60
"""AB zero point in magnitudes for flux densities in erg/s/cm2/Hz (exact by definition)."""

NJY_AB_MAGNITUDE = 31.4
"""AB magnitude of 1 nJy: -2.5 log10(1e-32) - 48.60, exactly 31.4."""

_POGSON = 2.5 / np.log(10.0)


class Measure(StrEnum):
    """What a pixel value measures.

    ``FLUENCE``: the light collected by that pixel; sums of pixels are fluxes. Photometry, warping
    and coaddition work on it. ``SURFACE_BRIGHTNESS``: light per unit sky area, scaled to a
    reference pixel area A0 (``fluence * A0 / A(x, y)``), as an image flat-fielded on a uniform sky
    is. Backgrounds are estimated on it.

    Examples
    --------
    >>> Measure("fluence") is Measure.FLUENCE, str(Measure.SURFACE_BRIGHTNESS)
    (True, 'surface_brightness')
    """

    FLUENCE = "fluence"
    SURFACE_BRIGHTNESS = "surface_brightness"

    @classmethod
    def parse(cls, value: str | Measure) -> Measure:
        """Return the measure for a name.

        Raises
        ------
        MeasureError
            If the name is unknown.

        Examples
        --------
        >>> Measure.parse("fluence")
        <Measure.FLUENCE: 'fluence'>
        """
        try:
            return cls(value)
        except ValueError:
            raise MeasureError(
                f"Unknown image measure {value!r}; allowed: {choices(m.value for m in cls)}."
            ) from None


def ab_zero_flux() -> u.Quantity:
    """Flux density of AB magnitude 0, in Jy (3630.78...).

    Examples
    --------
    >>> round(float(ab_zero_flux().value), 2)
    3630.78
    """
    return 10.0 ** (0.4 * NJY_AB_MAGNITUDE) * 1e-9 * u.Jy


def strip_unit(value: Any, unit: Any, name: str) -> np.ndarray:
    """Return float64 numbers in a unit, converting a Quantity and taking bare numbers as they are.

    Parameters
    ----------
    value : array_like or Quantity
        The input; bare numbers are taken to be in ``unit`` already. The unit of a table column is
        honoured as that of a Quantity is; masked values become NaN. Magnitudes with a physical
        zero point (``astropy.units.ABmag``) convert to and from flux densities.
    unit : unit-like
        Unit required.
    name : str
        Name of the argument, for the message.

    Returns
    -------
    numbers : numpy.ndarray
        float64 in ``unit``, of the input's shape.

    Raises
    ------
    UnitMismatchError
        If a Quantity or column has a unit that cannot be converted.
    PogsonValueError
        If the input is not numbers.

    Examples
    --------
    >>> strip_unit([1.0, 2.0] * u.uJy, "nJy", "flux")
    array([1000., 2000.])
    >>> strip_unit(np.ma.array([1.0, 2.0], mask=[False, True]), "nJy", "flux")
    array([ 1., nan])
    """
    missing = getattr(value, "mask", None)
    given = getattr(value, "unit", None)
    if given is None or isinstance(value, u.Quantity):
        quantity = value
    else:
        quantity = u.Quantity(_numbers(value, name), given)
    if isinstance(quantity, u.Quantity):
        quantity = getattr(quantity, "unmasked", quantity)
        try:
            numbers = np.asarray(quantity.to_value(unit), np.float64)
        except u.UnitConversionError:
            raise UnitMismatchError(
                f"{name} has unit '{quantity.unit}', which cannot be converted to '{u.Unit(unit)}'."
            ) from None
    else:
        numbers = _numbers(value, name)
    if missing is not None and np.any(missing):
        return np.where(missing, np.nan, numbers)
    return numbers


def _numbers(value: Any, name: str) -> np.ndarray:
    """Return bare float64 numbers; text, None and complex numbers are not numbers here."""
    bare = getattr(value, "unmasked", value)
    if isinstance(bare, np.ma.MaskedArray):
        bare = bare.data
    try:
        array = np.asarray(bare)
        if array.dtype.kind not in "biufO" or bare is None:
            raise TypeError
        return np.asarray(array, np.float64)
    except (TypeError, ValueError):
        said = repr(value)
        if said.count("\n") or len(said) > 80:
            said = f"{type(value).__name__} of {getattr(value, 'dtype', 'objects')}"
        raise PogsonValueError(f"{name} must be numbers, not {said}.") from None


def _plain(array: Any) -> Any:
    """Return a float for a scalar, else the array."""
    return float(array) if np.ndim(array) == 0 else array


def _magnitudes(value: Any, name: str) -> np.ndarray:
    """Return AB magnitudes as bare float64 numbers."""
    unit = getattr(value, "unit", None)
    return strip_unit(value, u.mag if unit is None or unit == u.mag else u.ABmag, name)


def _magnitude_errors(value: Any, name: str) -> np.ndarray:
    """Return magnitude errors, never negative; a difference of ABmag has the unit mag."""
    return np.abs(strip_unit(value, u.mag, name))


# Spellings found in headers that astropy's parser does not take.
_UNIT_ALIASES = {
    "njy": "nJy",
    "nanojansky": "nJy",
    "jy": "Jy",
    "counts": "count",
    "count": "count",
    "counts/s": "count / s",
    "adu": "adu",
    "adus": "adu",
    "dn": "adu",
    "dn/s": "adu / s",
    "adu/s": "adu / s",
    "e-": "electron",
    "e": "electron",
    "electrons": "electron",
    "electron": "electron",
    "e-/s": "electron / s",
    "electrons/s": "electron / s",
    "electron/s": "electron / s",
    "electrons/sec": "electron / s",
}


def parse_unit(text: Any) -> u.UnitBase:
    """Return the unit for a unit or a header string, common spellings included.

    Raises
    ------
    UnitMismatchError
        If the text is not a unit, or a logarithmic one as ``mag(AB)``.

    Examples
    --------
    >>> parse_unit("ADU"), parse_unit("nJy")
    (Unit("adu"), Unit("nJy"))
    """
    if isinstance(text, u.UnitBase):
        return text
    word = "" if text is None else str(text).strip()
    try:
        unit = u.Unit(_UNIT_ALIASES.get(word.lower(), word))
    except (ValueError, TypeError, ArithmeticError, RecursionError):
        raise UnitMismatchError(
            f"Unknown unit {text!r}; write for example 'adu', 'electron', 'adu / s' or 'nJy'."
        ) from None
    if not isinstance(unit, u.UnitBase):
        raise UnitMismatchError(
            f"The unit {text!r} is logarithmic; pogson works on fluxes, as 'nJy' (see "
            "magnitude_to_flux)."
        )
    return unit


def flux_to_magnitude(flux: Any, flux_err: Any = None) -> Any:
    r"""AB magnitude of a flux density.

    Parameters
    ----------
    flux : array_like or Quantity
        Flux densities; bare numbers are nJy.
    flux_err : array_like or Quantity, optional
        Standard errors, same rule.

    Returns
    -------
    magnitude : float or numpy.ndarray
        :math:`31.4 - 2.5 \log_{10} f`; NaN where the flux is not positive.
    magnitude_err : float or numpy.ndarray
        Only with ``flux_err``: :math:`(2.5 / \ln 10)\,\sigma / f`, never negative; NaN where the
        flux is not positive. It is the first-order error, good to 1 % for signal-to-noise above 11;
        below that use fluxes.

    Raises
    ------
    UnitMismatchError
        If a Quantity is not a flux density.

    Examples
    --------
    >>> flux_to_magnitude([1.0, 3630780547.7, -5.0])
    array([31.4,  7.5,  nan])
    """
    f = strip_unit(flux, u.nJy, "flux")
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        mag = np.where(f > 0, NJY_AB_MAGNITUDE - 2.5 * np.log10(np.where(f > 0, f, 1.0)), np.nan)
        if flux_err is None:
            return _plain(mag)
        err = strip_unit(flux_err, u.nJy, "flux_err")
        mag_err = np.where(f > 0, _POGSON * np.abs(err) / np.where(f > 0, f, 1.0), np.nan)
        return _plain(mag), _plain(mag_err)


def magnitude_to_flux(magnitude: Any, magnitude_err: Any = None) -> Any:
    """Flux density in nJy of an AB magnitude; the inverse of `flux_to_magnitude`.

    Parameters
    ----------
    magnitude : array_like or Quantity
        AB magnitudes, as bare numbers or with the unit ``mag`` or ``ABmag``.
    magnitude_err : array_like or Quantity, optional
        Standard errors in magnitudes.

    Returns
    -------
    flux : float or numpy.ndarray
        nJy.
    flux_err : float or numpy.ndarray
        Only with ``magnitude_err``; nJy, to first order.

    Raises
    ------
    UnitMismatchError
        If a Quantity is not a magnitude on the AB system (as an ST magnitude).

    Examples
    --------
    >>> magnitude_to_flux(31.4)
    1.0
    """
    m = _magnitudes(magnitude, "magnitude")
    flux = np.asarray(10.0 ** (-0.4 * (m - NJY_AB_MAGNITUDE)))
    if magnitude_err is None:
        return _plain(flux)
    return _plain(flux), _plain(flux * _magnitude_errors(magnitude_err, "magnitude_err") / _POGSON)


def _softening(softening: Any) -> np.ndarray:
    b = strip_unit(softening, u.nJy, "softening")
    if not np.all((b > 0) & np.isfinite(b)):
        raise PogsonValueError(
            f"The asinh softening must be a positive flux in nJy, about the 1-sigma noise of a "
            f"faint source; got {softening!r}."
        )
    return b


def flux_to_asinh_magnitude(flux: Any, flux_err: Any = None, *, softening: Any) -> Any:
    r"""Asinh magnitude, finite for every flux.

    .. math:: \mu = 31.4 - 2.5\log_{10} b - \frac{2.5}{\ln 10}\,\mathrm{asinh}\frac{f}{2b}

    Parameters
    ----------
    flux, flux_err : array_like or Quantity
        Flux density and optional error; bare numbers are nJy.
    softening : float or Quantity
        The flux *b* in nJy at which the scale turns linear; there is no default, because the
        numbers mean nothing without it.

    Returns
    -------
    magnitude : float or numpy.ndarray
        Asinh magnitudes (equal to Pogson magnitudes for flux much above ``softening``).
    magnitude_err : float or numpy.ndarray
        Only with ``flux_err``: :math:`(2.5 / \ln 10)\,\sigma / \sqrt{f^2 + 4 b^2}`.

    Raises
    ------
    PogsonValueError
        If the softening is not positive.
    UnitMismatchError
        If a Quantity is not a flux density.

    Notes
    -----
    Lupton, Gunn & Szalay (1999, AJ 118, 1406), with *b* as a flux rather than as a fraction of the
    zero-magnitude flux.

    Examples
    --------
    >>> flux_to_asinh_magnitude([0.0, -3.0, 1e6], softening=10.0)
    array([28.9       , 29.06225086, 16.4       ])
    """
    b = _softening(softening)
    f = strip_unit(flux, u.nJy, "flux")
    mag = NJY_AB_MAGNITUDE - 2.5 * np.log10(b) - _POGSON * np.arcsinh(f / (2 * b))
    if flux_err is None:
        return _plain(mag)
    err = np.abs(strip_unit(flux_err, u.nJy, "flux_err"))
    return _plain(mag), _plain(_POGSON * err / np.hypot(f, 2 * b))


def asinh_magnitude_to_flux(magnitude: Any, magnitude_err: Any = None, *, softening: Any) -> Any:
    """Flux density in nJy of an asinh magnitude; the inverse of `flux_to_asinh_magnitude`.

    Parameters
    ----------
    magnitude : array_like or Quantity
        Asinh magnitudes, as bare numbers or with the unit ``mag``.
    magnitude_err : array_like or Quantity, optional
        Standard errors in magnitudes.
    softening : float or Quantity
        The softening flux in nJy that the magnitudes were made with.

    Returns
    -------
    flux : float or numpy.ndarray
        nJy; negative beyond the magnitude of zero flux.
    flux_err : float or numpy.ndarray
        Only with ``magnitude_err``; nJy, to first order.

    Raises
    ------
    PogsonValueError
        If the softening is not positive.
    UnitMismatchError
        If a Quantity has another unit than magnitudes.

    Examples
    --------
    >>> m = flux_to_asinh_magnitude(-3.0, softening=10.0)
    >>> round(float(asinh_magnitude_to_flux(m, softening=10.0)), 9)
    -3.0
    """
    b = _softening(softening)
    # an asinh magnitude is no ABmag: only bare numbers and plain "mag" are taken
    m = strip_unit(magnitude, u.mag, "magnitude")
    flux = np.asarray(2 * b * np.sinh((NJY_AB_MAGNITUDE - 2.5 * np.log10(b) - m) / _POGSON))
    if magnitude_err is None:
        return _plain(flux)
    err = _magnitude_errors(magnitude_err, "magnitude_err") * np.hypot(flux, 2 * b) / _POGSON
    return _plain(flux), _plain(err)


def inverse_variance(variance: Any) -> np.ndarray:
    """Inverse variance, 0 where the variance is not finite and positive (no data, not flux 0 +- 0).

    Parameters
    ----------
    variance : array_like
        Variances; masked values count as no data.

    Returns
    -------
    weight : numpy.ndarray
        float64, 1 / variance or 0.

    Examples
    --------
    >>> inverse_variance([4.0, 0.0, float("nan"), float("inf")])
    array([0.25, 0. , 0. , 0. ])
    """
    v = _numbers(variance, "variance")
    # the inverse of a subnormal number overflows
    good = np.isfinite(v) & (v >= np.finfo(np.float64).tiny)
    if getattr(variance, "mask", None) is not None:
        good &= ~np.asarray(variance.mask)
    return np.where(good, 1.0 / np.where(good, v, 1.0), 0.0)
