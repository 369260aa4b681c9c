"""LSST bounded fields and photometric calibrations, read without the LSST pipelines.

Knows ``ChebyshevBoundedField``, ``PixelAreaBoundedField``, ``ProductBoundedField``,
``TransformBoundedField`` (jointcal) and ``FluxFitBoundedField`` (meas_mosaic), and ``PhotoCalib``.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import astropy.units as u
import numpy as np

from pogson.errors import FileFormatError, PogsonValueError, PogsonWarning, choices
from pogson.fields import Box, ChebyshevField, ConstantField, Field
from pogson.formats.fits_access import open_fits
from pogson.formats.lsst_archive import ArchiveRow, LsstArchive, open_lsst_archive
from pogson.formats.lsst_sky import ast_text_of, sky_map_from_archive, sky_origin_area
from pogson.sky.geometry import ARCSEC_PER_RADIAN
from pogson.units import Measure, ab_zero_flux, parse_unit

if TYPE_CHECKING:
    from pogson.calib import FluxReference, PhotoCalib
    from pogson.sky import SkyMap

__all__ = [
    "LsstPhotoCalibParts",
    "read_lsst_field",
    "read_lsst_photo_calib",
    "read_lsst_photo_calib_parts",
    "read_meas_mosaic_fcr",
]

# As pogson.calib.EVERYWHERE: the box of what holds at any position.
_EVERYWHERE = Box(-(2**30), -(2**30), 2**31, 2**31)

# Largest relative error of the Chebyshev form of a meas_mosaic polynomial.
_POLYNOMIAL_TOLERANCE = 1e-9

# Fields may contain fields; a file that loops must not recurse for ever.
_MAX_DEPTH = 20

HSC_CCD = Box(0, 0, 2048, 4176)
"""Pixels of a trimmed HSC CCD, the only detector meas_mosaic was written for."""


@dataclass(frozen=True)
class LsstPhotoCalibParts:
    """What an LSST PhotoCalib file says, before it is told what it applies to.

    Parameters
    ----------
    field : Field
        Calibration in nJy per instrumental unit.
    mean : float
        The file's own "mean" of the calibration, same unit. LSST producers mean three things by
        it (area mean, value at the centre, constant factor), so it is kept apart from
        ``field.mean()``.
    error : float
        The file's error of that mean, same unit; it is shared by all sources.
    is_constant : bool
        Whether the file calls the calibration spatially constant.
    version : int
        0 (maggies, converted on request) or 1 (nJy).
    """

    field: Field
    mean: float
    error: float
    is_constant: bool
    version: int


# -- public readers -------------------------------------------------------------------------
def read_lsst_field(
    path: str | os.PathLike[str], *, ident: int | None = None, unit: Any = ""
) -> Field:
    """Read an LSST ``BoundedField`` from a table archive.

    Parameters
    ----------
    path : path-like
        FITS file.
    ident : int, optional
        Archive id; by default the only field in the file that is not part of another.
    unit : unit-like, optional
        Unit to give the values; the files hold none.

    Returns
    -------
    field : Field
        A `ChebyshevField` (exact), a dimensionless `PixelAreaField` (its error stored), a
        `pogson.sky.AstField` (exact), or a product of such. A meas_mosaic field becomes the product
        of a Chebyshev field that holds its polynomial to a relative 1e-9 and, where the file has a
        sky map, the pixel area relative to that at the map's reference point; so its Jacobian can
        be divided out.

    Raises
    ------
    FileFormatError
        If the file is damaged, has no such object, or one of an unknown class.
    """
    with open_lsst_archive(path) as archive:
        if ident is None:
            ident = _outermost_field(archive)
        return field_from_archive(archive, ident) * parse_unit(unit)


def read_lsst_photo_calib_parts(
    path: str | os.PathLike[str],
    *,
    ident: int | None = None,
    unit: Any = "nJy / adu",
    convert_maggies: bool = False,
) -> LsstPhotoCalibParts:
    """Read an LSST ``PhotoCalib`` without deciding what it applies to.

    Parameters
    ----------
    path : path-like
        FITS file with a table archive that holds a PhotoCalib.
    ident : int, optional
        Archive id, where the file holds several.
    unit : unit-like, optional
        Unit of the calibration. (The files say "count", which is a mistake in them: it is nJy per
        instrumental unit.)
    convert_maggies : bool, optional
        Files without a version or of version 0 are in maggies per instrumental unit. They are
        refused unless this is True; then they are multiplied by the AB zero flux,
        3.63078...e12 nJy.

    Returns
    -------
    parts : LsstPhotoCalibParts

    Raises
    ------
    FileFormatError
        If the file is damaged, holds no PhotoCalib, has an unknown version, or is in maggies and
        ``convert_maggies`` is False.
    """
    with open_lsst_archive(path) as archive:
        return photo_calib_parts_from_archive(
            archive,
            archive.find("PhotoCalib", ident),
            unit=unit,
            convert_maggies=convert_maggies,
        )


def read_lsst_photo_calib(
    path: str | os.PathLike[str],
    *,
    measure: Measure | str,
    reference: FluxReference,
    ident: int | None = None,
    unit: Any = "nJy / adu",
    bandpass: str | None = None,
    convert_maggies: bool = False,
) -> PhotoCalib:
    """Read an LSST ``PhotoCalib``.

    Parameters
    ----------
    path : path-like
        FITS file with a table archive that holds a PhotoCalib.
    measure : Measure or str
        Kind of image that the calibration applies to. The file does not say: "surface_brightness"
        where the pixel area is part of the field (meas_mosaic, jointcal, fgcmcal with the
        Jacobian composed), "fluence" for images that are already corrected.
    reference : FluxReference
        Reference of the fluxes that it calibrates. The file does not say; in the LSST pipelines
        of the HSC era it is ``FluxReference.aperture(12.0)``.
    ident, unit, convert_maggies
        As `read_lsst_photo_calib_parts`.
    bandpass : str, optional
        Name of the bandpass.

    Returns
    -------
    calib : PhotoCalib
        The file's error becomes one parameter, ``log_calibration``, shared by all sources.

    Raises
    ------
    FileFormatError
        As `read_lsst_photo_calib_parts`.
    """
    from pogson.calib import ParameterCovariance, PhotoCalib

    parts = read_lsst_photo_calib_parts(
        path, ident=ident, unit=unit, convert_maggies=convert_maggies
    )
    covariance = None
    if parts.error > 0:
        relative = parts.error / parts.mean
        covariance = ParameterCovariance(
            ["log_calibration"], [[relative**2]], [ConstantField(parts.field.box, 1.0)]
        )
    return PhotoCalib(
        parts.field,
        measure=measure,
        reference=reference,
        bandpass=bandpass,
        covariance=covariance,
        provenance={
            "file": os.path.basename(os.fspath(path)),
            "format": "LSST PhotoCalib",
            "version": parts.version,
            "calibration_mean": parts.mean,
            "calibration_err": parts.error,
        },
    )


def read_meas_mosaic_fcr(
    path: str | os.PathLike[str],
    *,
    box: Box = HSC_CCD,
    quarter_turns: int = 0,
    sky: SkyMap | None = None,
    unit: Any = "nJy / adu",
) -> Field:
    r"""Read a meas_mosaic flux correction (``fcr-*.fits``) as a calibration field.

    .. math:: C(x, y) = \frac{F_0}{\mathrm{FLUXMAG0}}\, 10^{-0.4 P(x', y')}\,
              \frac{A(x, y)}{A_\mathrm{ref}}

    with :math:`F_0` the AB zero flux, *P* the polynomial of the header (magnitudes), and the last
    factor, the pixel area relative to that at the reference point of the sky map, only if ``sky``
    is given.

    Parameters
    ----------
    path : path-like
        FITS file; all is in its primary header.
    box : Box, optional
        Pixels of the detector, starting at (0, 0); those of an HSC CCD by default.
    quarter_turns : int, optional
        Quarter turns between detector and focal plane (``nQuarter`` of the detector's
        orientation), which the header does not have: the polynomial is in focal-plane axes.
    sky : AstSkyMap, optional
        Map of the same detector, as `pogson.formats.lsst_sky.read_lsst_sky_map` returns it.
    unit : unit-like, optional
        Unit of the calibration.

    Returns
    -------
    field : Field
        The polynomial factor as a Chebyshev field good to a relative 1e-9.

    Raises
    ------
    FileFormatError
        If a header card is missing or is no number.

    Warns
    -----
    PogsonWarning
        If the Chebyshev form is worse than 1e-9.

    Examples
    --------
    A correction of 0.01 mag per 1000 pixels along x on top of a zero point of 27 mag:

    >>> import tempfile
    >>> from astropy.io import fits
    >>> cards = {"ORDER": 1, "HIERARCH CHEBYSHEV": False, "C_0_0": 0.0, "C_1_0": 1e-5,
    ...          "C_0_1": 0.0, "X0": 0.0, "Y0": 0.0, "U_MAX": 1.0, "V_MAX": 1.0,
    ...          "FLUXMAG0": 10**(0.4 * 27)}
    >>> path = tempfile.mkdtemp() + "/fcr.fits"
    >>> fits.PrimaryHDU(header=fits.Header(cards.items())).writeto(path)
    >>> field = read_meas_mosaic_fcr(path)
    >>> field(x=[0.0, 1000.0], y=0.0)
    array([57.54399373, 57.01642723])
    """
    with open_fits(path) as hdus:
        header = dict(hdus[0].header)
    source = os.fspath(path)
    order = int(_card(header, "ORDER", source))
    if not 0 <= order <= 30:
        raise FileFormatError(f"{source}: ORDER={order} is outside 0 to 30.")
    packed = [
        _card(header, f"C_{total - j}_{j}", source)
        for total in range(order + 1)
        for j in range(total + 1)
    ]
    flux_mag0 = _card(header, "FLUXMAG0", source)
    if not flux_mag0 > 0:
        raise FileFormatError(f"{source}: FLUXMAG0={flux_mag0} must be positive.")
    chebyshev = header.get("CHEBYSHEV")
    if not isinstance(chebyshev, bool | np.bool_):
        raise FileFormatError(f"{source}: CHEBYSHEV={chebyshev!r} must be T or F.")
    polynomial = _MosaicPolynomial(
        coefficients=np.array(packed),
        x0=_card(header, "X0", source),
        y0=_card(header, "Y0", source),
        u_max=_card(header, "U_MAX", source),
        v_max=_card(header, "V_MAX", source),
        chebyshev=bool(chebyshev),
        quarter_turns=int(quarter_turns) % 4,
    )
    factor = _ab_zero_njy() / flux_mag0
    return _mosaic_field(polynomial, box, factor, sky, source) * parse_unit(unit)


# -- archives -------------------------------------------------------------------------------
def photo_calib_parts_from_archive(
    archive: LsstArchive, ident: int, *, unit: Any, convert_maggies: bool
) -> LsstPhotoCalibParts:
    """Return the parts of an archived PhotoCalib; see `read_lsst_photo_calib_parts`."""
    row = archive.row(ident)
    version = row.integer("version") if "version" in row else 0
    if version not in (0, 1):
        raise FileFormatError(f"{row.source} has version {version}; versions 0 and 1 are known.")
    if version == 0 and not convert_maggies:
        raise FileFormatError(
            f"{row.source} is of the old version 0, whose calibration is in maggies per "
            f"instrumental unit, not nJy. Pass convert_maggies=True to convert it by the AB zero "
            f"flux of 3630.78 Jy."
        )
    factor = _ab_zero_njy() if version == 0 else 1.0
    mean, error = row.number("calibrationMean") * factor, row.number("calibrationErr") * factor
    if not (mean > 0 and error >= 0):
        raise FileFormatError(
            f"{row.source}: calibration {mean} +- {error} must be positive, and its error not "
            f"negative."
        )
    is_constant = row.flags.get("isConstant")
    if is_constant is None:
        raise FileFormatError(f"{row.source} has no flag 'isConstant'.")
    target = parse_unit(unit)
    if is_constant:
        field: Field = ConstantField(_EVERYWHERE, mean, target)
    else:
        field = field_from_archive(archive, row.integer("field")) * factor * target
    return LsstPhotoCalibParts(field, mean, error, is_constant, version)


def field_from_archive(archive: LsstArchive, ident: int, depth: int = 0) -> Field:
    """Return a dimensionless field for an archived BoundedField."""
    if depth > _MAX_DEPTH:
        raise FileFormatError(f"{archive.path}: fields are nested more than {_MAX_DEPTH} deep.")
    name = archive.class_name(ident)
    if name == "ProductBoundedField":
        return _product(archive, ident, depth)
    if name not in _FIELD_READERS:
        known = [*_FIELD_READERS, "ProductBoundedField"]
        raise FileFormatError(
            f"{archive.path}: object {ident} is a {name}, not a field this reader knows "
            f"({choices(known)})."
        )
    field: Field = _FIELD_READERS[name](archive, archive.row(ident))
    return field


def _outermost_field(archive: LsstArchive) -> int:
    fields = [i for i in archive.ids() if archive.class_name(i).endswith("BoundedField")]
    parts = {
        row.integer("id") for i in archive.ids("ProductBoundedField") for row in archive.rows(i)
    }
    outer = [i for i in fields if i not in parts]
    if len(outer) == 1:
        return outer[0]
    if not outer:
        raise FileFormatError(f"{archive.path} holds no BoundedField.")
    raise FileFormatError(
        f"{archive.path} holds {len(outer)} fields; pass ident= with one of {outer}."
    )


def _box_of(row: ArchiveRow) -> Box:
    x0, y0 = row.integer("bbox_min_x"), row.integer("bbox_min_y")
    x1, y1 = row.integer("bbox_max_x"), row.integer("bbox_max_y")
    if x1 < x0 and y1 < y0:  # LSST's empty box, "valid anywhere"
        return _EVERYWHERE
    if x1 < x0 or y1 < y0:
        raise FileFormatError(f"{row.source}: the box x {x0}..{x1}, y {y0}..{y1} is empty.")
    return Box(x0, y0, x1 - x0 + 1, y1 - y0 + 1)


def _chebyshev(archive: LsstArchive, row: ArchiveRow) -> Field:
    coefficients = row.array("coefficients")
    nx = row.integer("order_x") + 1
    if nx < 1 or coefficients.size % nx or coefficients.size == 0:
        raise FileFormatError(
            f"{row.source}: {coefficients.size} coefficients do not make rows of order_x + 1 = "
            f"{nx}."
        )
    box = _box_of(row)
    if box == _EVERYWHERE:
        if coefficients.size != 1:
            raise FileFormatError(f"{row.source}: a field with an empty box must be constant.")
        return ConstantField(box, float(coefficients[0]))
    return ChebyshevField(box, coefficients.reshape(-1, nx))


def _pixel_area(archive: LsstArchive, row: ArchiveRow) -> Field:
    scaling = row.number("scaling")
    if not scaling > 0:
        raise FileFormatError(f"{row.source}: scaling={scaling} must be positive.")
    sky = sky_map_from_archive(archive, row.integer("wcs"))
    area = sky.pixel_area_field(_box_of(row))
    # value = scaling * area in steradian
    return area.relative_to(ARCSEC_PER_RADIAN**2 / scaling)


def _transform(archive: LsstArchive, row: ArchiveRow) -> Field:
    from pogson.sky import AstField

    return AstField(_box_of(row), ast_text_of(row.text_bytes("frameSet"), row.source))


def _product(archive: LsstArchive, ident: int, depth: int) -> Field:
    rows = archive.rows(ident)
    if not rows:
        raise FileFormatError(f"{archive.path}: the product {ident} has no factors.")
    field = field_from_archive(archive, rows[0].integer("id"), depth + 1)
    for row in rows[1:]:
        field = field * field_from_archive(archive, row.integer("id"), depth + 1)
    return field


def _flux_fit(archive: LsstArchive, row: ArchiveRow) -> Field:
    for flag in ("chebyshev", "absolute"):
        if flag not in row.flags:
            raise FileFormatError(f"{row.source} has no flag {flag!r}.")
    polynomial = _MosaicPolynomial(
        coefficients=row.array("coefficients"),
        x0=row.number("x0"),
        y0=row.number("y0"),
        u_max=row.number("uMax"),
        v_max=row.number("vMax"),
        chebyshev=row.flags["chebyshev"],
        quarter_turns=row.integer("nQuarter") % 4,
    )
    zero_point = row.number("zeroPoint")
    if not zero_point > 0:
        raise FileFormatError(f"{row.source}: zeroPoint={zero_point} must be positive.")
    wcs = row.integer("wcs")
    sky = sky_map_from_archive(archive, wcs) if wcs else None
    factor = _ab_zero_njy() / zero_point
    return _mosaic_field(polynomial, _box_of(row), factor, sky, row.source)


_FIELD_READERS: Mapping[str, Any] = {
    "ChebyshevBoundedField": _chebyshev,
    "PixelAreaBoundedField": _pixel_area,
    "TransformBoundedField": _transform,
    "FluxFitBoundedField": _flux_fit,
}


# -- meas_mosaic ----------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class _MosaicPolynomial:
    """The polynomial of a meas_mosaic flux correction, in magnitudes.

    Coefficients are packed by total degree, within it by falling power of u: u^0, u, v, u^2, uv,
    v^2, ...; ``u = (x' + x0) / u_max`` and likewise v, with (x', y') the detector position turned
    into focal-plane axes.
    """

    coefficients: np.ndarray
    x0: float
    y0: float
    u_max: float
    v_max: float
    chebyshev: bool
    quarter_turns: int

    def table(self, source: str) -> np.ndarray:
        """Return the coefficients as ``c[i, j]`` of the powers (or Chebyshev degrees) of u, v."""
        n = self.coefficients.size
        order = round((np.sqrt(8 * n + 1) - 3) / 2)
        if (order + 1) * (order + 2) // 2 != n:
            raise FileFormatError(f"{source}: {n} coefficients are not those of a total order.")
        table = np.zeros((order + 1, order + 1))
        total = np.repeat(np.arange(order + 1), np.arange(1, order + 2))
        j = np.arange(n) - total * (total + 1) // 2
        table[total - j, j] = self.coefficients
        return table

    def turned(self, box: Box, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return positions turned by quarters about the detector, to focal-plane axes."""
        if self.quarter_turns == 1:
            return box.ny - 1 - y, x
        if self.quarter_turns == 2:
            return box.nx - 1 - x, box.ny - 1 - y
        if self.quarter_turns == 3:
            return y, box.nx - 1 - x
        return x, y

    def magnitudes(self, box: Box, x: np.ndarray, y: np.ndarray, source: str) -> np.ndarray:
        """Evaluate at detector positions."""
        if self.u_max == 0 or self.v_max == 0:
            raise FileFormatError(f"{source}: the polynomial's scale (u_max, v_max) is zero.")
        xt, yt = self.turned(box, x, y)
        u_axis, v_axis = (xt + self.x0) / self.u_max, (yt + self.y0) / self.v_max
        evaluate = (
            np.polynomial.chebyshev.chebval2d
            if self.chebyshev
            else np.polynomial.polynomial.polyval2d
        )
        with np.errstate(all="ignore"):
            return evaluate(u_axis, v_axis, self.table(source))


def _mosaic_field(
    polynomial: _MosaicPolynomial, box: Box, factor: float, sky: SkyMap | None, source: str
) -> Field:
    """Return ``factor * 10^(-0.4 P)`` as a Chebyshev field, times the relative pixel area."""
    from pogson.sky import AstSkyMap
    from pogson.sky.area import chebyshev_coefficients, chebyshev_nodes

    if (box.x_min, box.y_min) != (0, 0) or box == _EVERYWHERE:
        raise FileFormatError(f"{source}: the box must start at pixel (0, 0), not {box}.")
    half_x, half_y = 0.5 * box.nx, 0.5 * box.ny

    def correction(t_x: np.ndarray, t_y: np.ndarray) -> np.ndarray:
        x, y = np.broadcast_arrays((t_x + 1) * half_x - 0.5, ((t_y + 1) * half_y - 0.5)[:, None])
        with np.errstate(all="ignore"):
            values = factor * 10.0 ** (-0.4 * polynomial.magnitudes(box, x, y, source))
        if not (np.isfinite(values).all() and (values > 0).all()):
            raise FileFormatError(f"{source}: the flux correction is not positive and finite.")
        return values

    test = np.linspace(-1.0, 1.0, 41)
    truth = correction(test, test)
    for order in (10, 16, 24, 40):
        nodes = chebyshev_nodes(order + 1)
        field = ChebyshevField(box, chebyshev_coefficients(correction(nodes, nodes)))
        model = field(x=(test + 1) * half_x - 0.5, y=((test + 1) * half_y - 0.5)[:, None])
        error = float(np.max(np.abs(model / truth - 1)))
        if error <= _POLYNOMIAL_TOLERANCE:
            break
    else:
        warnings.warn(
            f"{source}: the Chebyshev form of the flux correction has a relative error of "
            f"{error:.2g}.",
            PogsonWarning,
            stacklevel=4,
        )
    if sky is None:
        return field
    if not isinstance(sky, AstSkyMap):
        raise PogsonValueError("sky= must be the AstSkyMap that read_lsst_sky_map returns.")
    return field * sky.pixel_area_field(box).relative_to(sky_origin_area(sky))


def _ab_zero_njy() -> float:
    return float(ab_zero_flux().to_value(u.nJy))


def _card(header: Mapping[str, Any], key: str, source: str) -> float:
    value = header.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise FileFormatError(
            f"{source}: the header card {key} is {value!r}; a meas_mosaic flux correction has a "
            f"finite number there."
        )
    return float(value)
