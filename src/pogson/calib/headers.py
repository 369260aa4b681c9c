r"""Zero points in FITS headers, with the convention said.

The same keyword means different things in different places: MAGZERO of one pipeline is the
magnitude of one count of the exposure, of another that of one count per second. No convention is
guessed; the caller names it.

===================== ========= ==================================================================
convention            keyword   calibration in nJy per instrumental unit
===================== ========= ==================================================================
``fluxmag0``          FLUXMAG0  :math:`C = F_0 / \mathrm{FLUXMAG0}`, counts of an AB = 0 source
``magzero-exposure``  MAGZERO   :math:`C = F_0\,10^{-0.4\,\mathrm{MAGZERO}}`
``magzero-second``    MAGZERO   :math:`C = F_0\,10^{-0.4\,\mathrm{MAGZERO}} / \mathrm{EXPTIME}`
``magzpt-second``     MAGZPT    as above with MAGZPT (DECam community pipeline: per second)
``photzp-exposure``   PHOTZP    as ``magzero-exposure``
``photzp-second``     PHOTZP    as ``magzero-second``
``decam-cp``          MAGZERO   per exposure; checked against MAGZPT + 2.5 log10 EXPTIME if there
``hst-rate``          PHOTFLAM  image in counts per second; with PHOTPLAM
``nanomaggies``       NMGY      SDSS: nanomaggies per count
===================== ========= ==================================================================

:math:`F_0` is the flux of AB magnitude 0, 3630.78 Jy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import astropy.units as u
import numpy as np

from pogson.calib.photo_calib import PhotoCalib
from pogson.calib.reference import FluxReference
from pogson.errors import CalibrationError, MissingDataError, PogsonValueError, choices
from pogson.units import NJY_AB_MAGNITUDE, Measure, parse_unit

__all__ = ["HEADER_CONVENTIONS", "HeaderConvention", "header_cards", "photo_calib_from_header"]

_AB_ZERO_NJY = 10.0 ** (0.4 * NJY_AB_MAGNITUDE)
# FITS keywords hold eight characters; the longest names in use are these.
_CONVENTION_CARD = "MAGZTIME"


@dataclass(frozen=True, slots=True)
class HeaderConvention:
    """How a header states its zero point.

    Parameters
    ----------
    keyword : str
        Keyword of the value.
    quantity : {"magnitude", "fluxmag0", "photflam", "nanomaggies"}
        What the value is: an AB zero point in magnitudes, the counts of a source of AB magnitude
        0, an inverse sensitivity in erg/s/cm2/AA per count/s, or nanomaggies per count.
    per : {"exposure", "second"}
        Whether the zero point is for one count of the exposure or for one count per second.
    error_keyword : str, optional
        Keyword of its standard error (same quantity).
    exposure_time_keyword : str
        Keyword of the exposure time in seconds, used when ``per="second"``.
    image_is_rate : bool
        Whether the image already is in counts per second, so that no exposure time enters.

    Examples
    --------
    >>> HeaderConvention("ZPT", per="second").keyword
    'ZPT'
    """

    keyword: str
    quantity: str = "magnitude"
    per: str = "exposure"
    error_keyword: str | None = None
    exposure_time_keyword: str = "EXPTIME"
    image_is_rate: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (
            ("quantity", ("magnitude", "fluxmag0", "photflam", "nanomaggies")),
            ("per", ("exposure", "second")),
        ):
            if getattr(self, name) not in allowed:
                raise PogsonValueError(
                    f"HeaderConvention {name}={getattr(self, name)!r}; allowed: {choices(allowed)}."
                )


HEADER_CONVENTIONS: Mapping[str, HeaderConvention] = {
    "fluxmag0": HeaderConvention("FLUXMAG0", "fluxmag0", error_keyword="FLUXMAG0ERR"),
    "magzero-exposure": HeaderConvention("MAGZERO", error_keyword="MAGZUNC"),
    "magzero-second": HeaderConvention("MAGZERO", per="second", error_keyword="MAGZUNC"),
    "magzpt-second": HeaderConvention("MAGZPT", per="second"),
    "photzp-exposure": HeaderConvention("PHOTZP", error_keyword="PHOTZPER"),
    "photzp-second": HeaderConvention("PHOTZP", per="second", error_keyword="PHOTZPER"),
    "decam-cp": HeaderConvention("MAGZERO"),
    "hst-rate": HeaderConvention("PHOTFLAM", "photflam", per="second", image_is_rate=True),
    "nanomaggies": HeaderConvention("NMGY", "nanomaggies", error_keyword="NMGYIVAR"),
}
"""The conventions known by name; see the module's table."""


def photo_calib_from_header(
    header: Mapping[str, Any],
    *,
    convention: str | HeaderConvention,
    reference: FluxReference,
    measure: Measure | str = Measure.FLUENCE,
    unit: Any = "adu",
    bandpass: str | None = None,
    box: Any = None,
) -> PhotoCalib:
    """Read a calibration from header keywords.

    Parameters
    ----------
    header : mapping
        FITS header.
    convention : str or HeaderConvention
        How the header states its zero point; a name of `HEADER_CONVENTIONS` or your own. There is
        no default: the factor EXPTIME between conventions is not to be guessed.
    reference : FluxReference
        Reference of the fluxes that it calibrates; headers hardly ever say.
    measure : Measure or str
        Measure of the image.
    unit : unit-like
        Instrumental unit of the image.
    bandpass : str, optional
        Name of the bandpass.
    box : Box, optional
        Box where it holds; everywhere by default.

    Returns
    -------
    calibration : PhotoCalib
        Constant; its error, if the header has one, is the covariance of one shared parameter.

    Raises
    ------
    MissingDataError
        If a keyword is missing.
    CalibrationError
        If a value is not usable, or two keywords contradict each other.

    Examples
    --------
    >>> header = {"MAGZERO": 26.4, "EXPTIME": 100.0}
    >>> total = FluxReference.total()
    >>> per_exposure = photo_calib_from_header(
    ...     header, convention="magzero-exposure", reference=total)
    >>> per_second = photo_calib_from_header(header, convention="magzero-second", reference=total)
    >>> per_exposure.mean(), per_second.mean()
    (100.0, 1.0)
    """
    name, rule = _convention(convention)
    if name == "fluxmag0" and rule.error_keyword not in header:
        error = _number(header, "FLUXM0ER", required=False)  # the eight-character spelling
    else:
        error = _number(header, rule.error_keyword, required=False)
    number = _number(header, rule.keyword)
    assert number is not None
    value, relative_error = _njy_per_count(rule, number, error, header)
    if rule.per == "second" and not rule.image_is_rate:
        value /= _exposure_time(header, rule.exposure_time_keyword)
    if name == "decam-cp":
        _check_decam(header, number)
    return PhotoCalib.constant(
        value,
        unit=u.nJy / parse_unit(unit),
        error=None if relative_error is None else value * relative_error,
        measure=measure,
        reference=reference,
        bandpass=bandpass,
        box=box,
        provenance={"source": "header", "convention": name, rule.keyword: number},
    )


def header_cards(
    calib: PhotoCalib, *, exposure_time: float | None = None
) -> list[tuple[str, Any, str]]:
    """Return standard header cards of the area-averaged calibration.

    Parameters
    ----------
    calib : PhotoCalib
        Calibration.
    exposure_time : float, optional
        Seconds. If given, MAGZERO is written per second (MAGZTIME says which); the image is in
        counts of the exposure either way.

    Returns
    -------
    cards : list of (keyword, value, comment)
        MAGZERO, MAGZTIME, PHOTSYS, FLUXMAG0, FLUXREF, IMMEASUR and, with a covariance, MAGZUNC and
        FLUXM0ER. For a varying calibration they are those of the area average.

    Examples
    --------
    >>> calib = PhotoCalib.constant(1.0, reference=FluxReference.total())
    >>> cards = {key: value for key, value, _ in header_cards(calib)}
    >>> cards["MAGZERO"], cards["MAGZTIME"], cards["PHOTSYS"]
    (31.4, 'exposure', 'AB')
    """
    mean = calib.mean()
    time = 1.0 if exposure_time is None else float(exposure_time)
    if not (np.isfinite(time) and time > 0):
        raise CalibrationError(f"The exposure time {exposure_time!r} must be positive seconds.")
    per = "exposure" if exposure_time is None else "second"
    zero_point = NJY_AB_MAGNITUDE - 2.5 * np.log10(mean * time)
    cards: list[tuple[str, Any, str]] = [
        ("MAGZERO", float(zero_point), f"[mag] AB mag of 1 {calib.instrument_unit} per {per}"),
        (_CONVENTION_CARD, per, "MAGZERO is per 'exposure' or per 'second'"),
        ("PHOTSYS", "AB", "AB magnitudes, zero point -48.60"),
        ("FLUXMAG0", float(_AB_ZERO_NJY / mean), "instrumental flux of an AB=0 source"),
        ("FLUXREF", calib.reference.slug[:60], "what the fluxes count"),
        ("IMMEASUR", calib.measure.value, "kind of image it applies to"),
    ]
    if not calib.is_constant:
        cards.append(("MAGZVARY", True, "calibration varies; cards are its area mean"))
    if calib.covariance is not None:
        x, y = calib.box.center
        relative = float(calib.covariance.relative_error(x=x, y=y))
        cards.append(("MAGZUNC", 2.5 / np.log(10.0) * relative, "[mag] shared error, at centre"))
        cards.append(("FLUXM0ER", float(_AB_ZERO_NJY / mean * relative), "error of FLUXMAG0"))
    if calib.bandpass is not None:
        cards.append(("BANDPASS", calib.bandpass, "bandpass of the calibrated fluxes"))
    return cards


def _convention(convention: str | HeaderConvention) -> tuple[str, HeaderConvention]:
    if isinstance(convention, HeaderConvention):
        return f"{convention.keyword} per {convention.per}", convention
    if convention not in HEADER_CONVENTIONS:
        raise PogsonValueError(
            f"Unknown header convention {convention!r}; allowed: {choices(HEADER_CONVENTIONS)}, "
            "or a HeaderConvention."
        )
    return convention, HEADER_CONVENTIONS[convention]


def _number(
    header: Mapping[str, Any], keyword: str | None, *, required: bool = True
) -> float | None:
    """Return a finite number of the header, or None if it is neither there nor required."""
    if keyword is None or keyword not in header:
        if required:
            raise MissingDataError(
                f"The header has no keyword {keyword!r}; name the convention that it follows, "
                "or give the zero point with PhotoCalib.from_zero_point."
            )
        return None
    try:
        value = float(header[keyword])
    except (TypeError, ValueError):
        raise CalibrationError(f"{keyword} = {header[keyword]!r} is not a number.") from None
    if not np.isfinite(value):
        raise CalibrationError(f"{keyword} = {value!r} is not finite.")
    return value


def _njy_per_count(
    rule: HeaderConvention, number: float, error: float | None, header: Mapping[str, Any]
) -> tuple[float, float | None]:
    """Return nJy per count (or per count/s) and its relative error."""
    if rule.quantity == "magnitude":
        relative = None if error is None else abs(error) * 0.4 * np.log(10.0)
        return 10.0 ** (-0.4 * (number - NJY_AB_MAGNITUDE)), relative
    if number <= 0:
        raise CalibrationError(f"{rule.keyword} = {number!r} must be positive.")
    if rule.quantity == "fluxmag0":
        return _AB_ZERO_NJY / number, None if error is None else abs(error) / number
    if rule.quantity == "nanomaggies":
        # the companion keyword of SDSS frames is the inverse variance
        relative = None if not error or error <= 0 else 1.0 / np.sqrt(error) / number
        return number * 1e-9 * _AB_ZERO_NJY, relative
    pivot = _number(header, "PHOTPLAM")
    flux = (number * u.erg / u.s / u.cm**2 / u.AA).to(
        u.nJy, equivalencies=u.spectral_density(pivot * u.AA)
    )
    return float(flux.value), None


def _exposure_time(header: Mapping[str, Any], keyword: str) -> float:
    time = _number(header, keyword)
    assert time is not None
    if time <= 0:
        raise CalibrationError(f"{keyword} = {time!r} must be a positive number of seconds.")
    return time


def _check_decam(header: Mapping[str, Any], magzero: float) -> None:
    """Check that MAGZERO is MAGZPT plus the exposure time, as the community pipeline writes."""
    per_second = _number(header, "MAGZPT", required=False)
    if per_second is None:
        return
    expected = per_second + 2.5 * np.log10(_exposure_time(header, "EXPTIME"))
    if abs(expected - magzero) > 0.002:  # they are written to 0.001 mag
        raise CalibrationError(
            f"MAGZERO = {magzero} but MAGZPT + 2.5 log10(EXPTIME) = {expected:.4f}: the header "
            "does not follow the 'decam-cp' convention (MAGZERO per exposure, MAGZPT per second)."
        )
