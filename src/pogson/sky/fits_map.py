"""Sky maps held as FITS headers: every projection of FITS paper II, SIP, TPV and lookup tables."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import PogsonTypeError, PogsonValueError
from pogson.fields.box import Box
from pogson.sky.base import SkyMap, check_offset
from pogson.sky.gnomonic import Gnomonic, fit_tan_sip_header

if TYPE_CHECKING:
    from astropy.io.fits import Header

__all__ = ["FitsSkyMap"]

# Header keywords whose value must be a finite number (prefix, then digits or underscore).
_NUMERIC = ("CRVAL", "CRPIX", "CDELT", "CROTA", "CD", "PC", "PV", "LONPOLE", "LATPOLE", "EQUINOX")
_SIP = ("A_", "B_", "AP_", "BP_")


class FitsSkyMap(SkyMap):
    """Sky map held as FITS cards and applied by `astropy.wcs`.

    Parameters
    ----------
    header_or_wcs : astropy.io.fits.Header, Mapping, str or astropy.wcs.WCS
        Cards of a two-dimensional celestial coordinate system (FITS papers I and II, SIP, TPV and
        the other registered conventions that astropy knows), or the WCS made from them.
    offset : tuple of float, optional
        Pixels (dx, dy) added before the header's map; see `SkyMap.shifted`.

    Raises
    ------
    PogsonTypeError
        If the argument is none of these.
    PogsonValueError
        If the header has no celestial projection, more or fewer than two axes, a NaN or a text
        where a number belongs, a singular CD (or PC and CDELT) matrix, or is not equatorial in
        ICRS or FK5 of equinox J2000.

    Notes
    -----
    FITS counts pixels from 1; here they count from 0. The header form is what defines the map: one
    built from a WCS object is written to cards and read back, so that a copy, a pickle and a file
    agree to the last bit.

    The inverse of a map with SIP is iterated until the forward map returns to 1e-8 pixel; positions
    for which that fails (far outside the image) are NaN.

    Examples
    --------
    >>> header = {
    ...     "CTYPE1": "RA---TAN", "CRVAL1": 150.0, "CRPIX1": 51.0, "CD1_1": -5e-5, "CD1_2": 0.0,
    ...     "CTYPE2": "DEC--TAN", "CRVAL2": 2.0, "CRPIX2": 51.0, "CD2_1": 0.0, "CD2_2": 5e-5,
    ... }
    >>> sky = FitsSkyMap(header)
    >>> sky.sky(x=50.0, y=50.0)
    (150.0, 2.0)
    >>> round(sky.pixel_scale(x=50.0, y=50.0), 9)
    0.18
    """

    __slots__ = ("_cards", "_gnomonic", "_tables", "_wcs")
    _cards: str
    _tables: str | None
    _wcs: Any
    _gnomonic: Gnomonic | None

    def __init__(self, header_or_wcs: Any, *, offset: tuple[float, float] = (0.0, 0.0)) -> None:
        import astropy.wcs

        source: Header | None = None
        if isinstance(header_or_wcs, astropy.wcs.WCS):
            given = header_or_wcs
        else:
            source = _as_header(header_or_wcs)
            given = _wcs_from_header(source)
        _check(given)
        self._adopt(given, source, check_offset(offset))

    def _adopt(self, given: Any, source: Header | None, offset: tuple[float, float]) -> None:
        """Write the cards of a checked WCS and rebuild the map from them."""
        tables = _tables_of(given)
        header = _cards_of(given, source)
        rebuilt = _wcs_from_tables(tables) if tables else _wcs_from_header(header)
        _check_same(given, rebuilt)
        self._set(
            _cards=header.tostring(sep="\n", endcard=False, padding=False),
            _tables=tables,
            _wcs=rebuilt,
            _gnomonic=None if tables else Gnomonic.from_wcs(rebuilt, header),
            _offset=offset,
        )

    @classmethod
    def from_header(cls, header: Any) -> FitsSkyMap:
        """Build the map of a FITS header; same as the constructor.

        Parameters
        ----------
        header : astropy.io.fits.Header, Mapping or str
            The cards.
        """
        return cls(_as_header(header))

    @classmethod
    def tan(
        cls,
        ra: float,
        dec: float,
        *,
        x: float,
        y: float,
        scale_arcsec: float,
        rotation_deg: float = 0.0,
        flip: bool = True,
    ) -> FitsSkyMap:
        """Build an undistorted gnomonic map.

        Parameters
        ----------
        ra, dec : float
            Tangent point in degrees.
        x, y : float
            Pixel of the tangent point (0-based, centres on integers).
        scale_arcsec : float
            Pixel scale there, arcsec per pixel.
        rotation_deg : float, optional
            Position angle of the y axis: degrees from north through east.
        flip : bool, optional
            True (default): x runs toward west when y points north, as on the sky.

        Returns
        -------
        sky : FitsSkyMap

        Raises
        ------
        PogsonValueError
            If the scale is not positive or a value is not finite.

        Examples
        --------
        >>> sky = FitsSkyMap.tan(10.0, 20.0, x=0.0, y=0.0, scale_arcsec=1.0, rotation_deg=90.0)
        >>> ra, dec = sky.sky(x=0.0, y=1.0)  # one pixel up is one arcsec toward east
        >>> ra > 10.0, round((dec - 20.0) * 3600, 3)
        (True, 0.0)
        """
        values = (ra, dec, x, y, scale_arcsec, rotation_deg)
        if not np.isfinite(np.asarray(values, np.float64)).all() or not scale_arcsec > 0:
            raise PogsonValueError(
                f"A tangent map needs finite numbers and scale_arcsec > 0; got ra={ra!r}, "
                f"dec={dec!r}, x={x!r}, y={y!r}, scale_arcsec={scale_arcsec!r}, "
                f"rotation_deg={rotation_deg!r}."
            )
        if not -90 <= dec <= 90:
            raise PogsonValueError(f"dec={dec!r} is outside [-90, 90] degrees.")
        s, angle = scale_arcsec / 3600.0, np.deg2rad(rotation_deg)
        sign = -1.0 if flip else 1.0
        header = {
            "CTYPE1": "RA---TAN",
            "CRVAL1": float(ra),
            "CRPIX1": x + 1.0,
            "CTYPE2": "DEC--TAN",
            "CRVAL2": float(dec),
            "CRPIX2": y + 1.0,
            "CD1_1": sign * s * np.cos(angle),
            "CD1_2": s * np.sin(angle),
            "CD2_1": -sign * s * np.sin(angle),
            "CD2_2": s * np.cos(angle),
            # said outright, because the default turns by half a circle at dec = 90
            "CUNIT1": "deg",
            "CUNIT2": "deg",
            "RADESYS": "ICRS",
            "LONPOLE": 180.0,
        }
        return cls(header)

    @classmethod
    def fit_tan_sip(cls, sky: SkyMap, box: Box, *, degree: int = 5) -> tuple[FitsSkyMap, float]:
        """Fit a gnomonic map with SIP distortion to any sky map over a box.

        Parameters
        ----------
        sky : SkyMap
            The map to copy into FITS form, for example an AST or gwcs one.
        box : Box
            Pixels over which the copy is to hold.
        degree : int, optional
            Degree of the SIP polynomials, 2 to 9.

        Returns
        -------
        copy : FitsSkyMap
        max_error : float
            Largest distance on the sky between the two, arcsec, on an independent grid.

        Raises
        ------
        PogsonValueError
            If the degree is out of range or the map is undefined on part of the box.
        """
        header, test = fit_tan_sip_header(sky, box, degree)
        from pogson.sky.geometry import angular_separation

        copy = cls(header)
        gap = angular_separation(*sky.sky(**test), *copy.sky(**test))
        return copy, float(np.max(gap)) * 3600.0

    @property
    def wcs(self) -> Any:
        """A copy of the `astropy.wcs.WCS` of the unshifted map."""
        return self._wcs.deepcopy()

    def _to_sky(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with np.errstate(all="ignore"):
            world = self._wcs.all_pix2world(np.stack([x, y], axis=-1), 0)
        lng, lat = self._wcs.wcs.lng, self._wcs.wcs.lat
        return world[:, lng], world[:, lat]

    def _to_pixel(self, ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        world = np.empty((ra.size, 2))
        world[:, self._wcs.wcs.lng], world[:, self._wcs.wcs.lat] = ra, dec
        with np.errstate(all="ignore"):
            pixel = self._wcs.wcs_world2pix(world, 0)
        pixel[~np.isfinite(world).all(axis=1)] = np.nan
        x, y = pixel[:, 0], pixel[:, 1]
        if self._wcs.sip is None and not _has_tables(self._wcs):
            return x, y
        return self._undistort(x, y)

    def _undistort(self, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Invert the pixel distortion by fixed-point iteration; NaN where that does not converge.

        An error shrinks by the derivative of the distortion, a few per cent, in each round.
        """
        out = np.full((u.size, 2), np.nan)
        todo = np.flatnonzero(np.isfinite(u) & np.isfinite(v))
        target = np.stack([u[todo], v[todo]], axis=-1)
        pixel = target.copy()
        with np.errstate(all="ignore"):
            for _ in range(60):
                if todo.size == 0:
                    break
                step = target - self._wcs.pix2foc(pixel, 0)
                pixel += step
                change = np.hypot(step[:, 0], step[:, 1])
                done = change <= 1e-8
                ended = done | ~(change < 1e7)  # far outside the image the polynomials diverge
                if ended.mean() > 0.2:
                    out[todo[done]] = pixel[done]
                    todo, target, pixel = todo[~ended], target[~ended], pixel[~ended]
            if todo.size:  # stragglers fewer than the share above
                step = target - self._wcs.pix2foc(pixel, 0)
                done = np.hypot(step[:, 0], step[:, 1]) <= 1e-8
                out[todo[done]] = pixel[done]
        return out[:, 0], out[:, 1]

    def _analytic_jacobian(self, x: np.ndarray, y: np.ndarray) -> np.ndarray | None:
        return None if self._gnomonic is None else self._gnomonic.jacobian(x, y)

    def shifted(self, dx: float, dy: float) -> FitsSkyMap:
        """Return the map of an image whose first pixel is pixel (dx, dy) of this one."""
        dx, dy = check_offset((dx, dy))
        new = object.__new__(FitsSkyMap)
        new._set(
            _cards=self._cards,
            _tables=self._tables,
            _wcs=self._wcs,
            _gnomonic=self._gnomonic,
            _offset=(self._offset[0] + dx, self._offset[1] + dy),
        )
        return new

    def to_header(self) -> Header:
        """Return the FITS cards of this map, with CRPIX moved by the offset.

        Raises
        ------
        PogsonValueError
            If the map has distortion lookup tables, which cards cannot hold.
        """
        from astropy.io.fits import Header

        if self._tables:
            raise PogsonValueError(
                "This map has distortion lookup tables, which header cards cannot hold; "
                "keep its to_dict() instead."
            )
        header = Header.fromstring(self._cards, sep="\n")
        for axis, shift in enumerate(self._offset, start=1):
            header[f"CRPIX{axis}"] = header.get(f"CRPIX{axis}", 0.0) - shift
        return header

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description, read back by `skymap_from_dict`."""
        out: dict[str, Any] = {"kind": "fits", "header": self._cards, "offset": list(self._offset)}
        if self._tables:
            out["tables"] = self._tables
        return out

    @classmethod
    def _from_dict(cls, description: Mapping[str, Any]) -> FitsSkyMap:
        offset = check_offset(description["offset"])
        tables = description.get("tables")
        if tables:
            wcs = _wcs_from_tables(tables)
            _check(wcs)
            new = object.__new__(cls)
            new._adopt(wcs, None, offset)
            return new
        header = _as_header(description["header"])
        wcs = _wcs_from_header(header)
        _check(wcs)
        new = object.__new__(cls)
        new._set(
            _cards=description["header"],
            _tables=None,
            _wcs=wcs,
            _gnomonic=Gnomonic.from_wcs(wcs, header),
            _offset=offset,
        )
        return new

    def __repr__(self) -> str:
        from astropy.io.fits import Header

        w, header = self._wcs.wcs, Header.fromstring(self._cards, sep="\n")
        projection = f"{header.get('CTYPE1')}/{header.get('CTYPE2')}"
        return (
            f"<FitsSkyMap {projection} at ra={w.crval[w.lng]:.6f}, dec={w.crval[w.lat]:.6f}, "
            f"offset={self._offset}>"
        )


# -- reading and checking cards -------------------------------------------------------------
def _as_header(given: Any) -> Header:
    from astropy.io.fits import Header

    if isinstance(given, Header):
        return given
    try:
        if isinstance(given, str):
            return Header.fromstring(given, sep="\n" if "\n" in given else "")
        if isinstance(given, Mapping):
            return Header(given.items())
    except Exception as error:
        raise PogsonValueError(f"Not usable as FITS cards: {error}") from None
    raise PogsonTypeError(
        f"FitsSkyMap takes a FITS header, a mapping of cards or an astropy WCS, not a "
        f"{type(given).__name__}."
    )


def _check_cards(header: Header) -> None:
    """Raise for a WCS card that should be a finite number and is not."""
    for card in header.cards:
        key = str(card.keyword)
        stem = key.rstrip("0123456789_")
        indexed = (stem in _NUMERIC and key != stem) or (
            key.startswith(_SIP) and key[-1:].isdigit()
        )
        if not indexed and key not in ("LONPOLE", "LATPOLE", "EQUINOX"):
            continue
        value: Any = "not readable"
        try:
            value = card.value
            finite = not isinstance(value, str) and bool(np.isfinite(float(value)))
        except Exception:  # astropy's VerifyError for what is no FITS value, such as a bare NaN
            finite = False
        if not finite:
            raise PogsonValueError(
                f"The WCS card {key} is {value!r}; a finite number is needed. Correct the header."
            )
    # astropy takes a row or a column of zeros in the CD matrix for pixels of one degree.
    keys = ("CD1_1", "CD1_2", "CD2_1", "CD2_2")
    if any(k in header for k in keys) and not any(k in header for k in ("CD3_3", "CD4_4")):
        matrix = np.reshape([float(header.get(k, 0.0)) for k in keys], (2, 2))
        if not (matrix.any(axis=0).all() and matrix.any(axis=1).all()):
            raise PogsonValueError(
                f"The WCS has a singular CD matrix, {matrix.tolist()}: it maps the image to a line "
                f"or a point. Correct the header."
            )


def _wcs_from_header(header: Header) -> Any:
    import astropy.wcs

    _check_cards(header)
    # Cards about the data array would tie the map to one image.
    slim = header.copy(strip=True)
    for key in ("SIMPLE", "XTENSION", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "NAXIS3"):
        slim.remove(key, ignore_missing=True, remove_all=True)
    for key in ("COMMENT", "HISTORY", ""):
        slim.remove(key, ignore_missing=True, remove_all=True)
    with warnings.catch_warnings():
        # Astropy reports every spelling it repairs; what cannot be repaired is checked below.
        warnings.simplefilter("ignore")
        try:
            wcs = astropy.wcs.WCS(slim)
            wcs.wcs.set()
        except Exception as error:  # wcslib raises a dozen kinds, some plain ValueError
            text = str(error).strip().splitlines()
            if "ingular" in str(error):
                raise PogsonValueError(
                    "The WCS has a singular CD (or PC and CDELT) matrix: it maps the image to a "
                    "line or a point. Correct the header."
                ) from None
            raise PogsonValueError(
                f"The header holds no usable coordinate system: {text[-1] if text else error!r}. "
                "Projections of the FITS standard are read (TAN, ZPN, STG, ...), with SIP or TPV."
            ) from None
    return wcs


def _check(wcs: Any) -> None:
    """Raise for a WCS that is not a usable map from two pixel axes to equatorial coordinates."""
    if wcs.naxis != 2:
        raise PogsonValueError(
            f"The coordinate system has {wcs.naxis} axes; a sky map has 2. For a cube pass the "
            f"celestial part, `WCS(header).celestial`."
        )
    w = wcs.wcs
    arrays = [("CRVAL", w.crval), ("CRPIX", w.crpix), ("CD or PC", wcs.pixel_scale_matrix)]
    arrays += [(f"PV{i}_{m}", value) for i, m, value in w.get_pv()]
    if wcs.sip is not None:
        arrays += [("SIP A", wcs.sip.a), ("SIP B", wcs.sip.b)]
    for name, values in arrays:
        if values is not None and not np.isfinite(np.asarray(values, np.float64)).all():
            raise PogsonValueError(
                f"The WCS has a value that is not finite in {name}: {np.asarray(values).tolist()}."
            )
    if not wcs.has_celestial:
        raise PogsonValueError(
            f"The header has no celestial projection (CTYPE is {list(map(str, w.ctype))}); a sky "
            f"map needs for example CTYPE1='RA---TAN', CTYPE2='DEC--TAN'."
        )
    _check_matrix(wcs)
    _check_frame(wcs)


def _check_matrix(wcs: Any) -> None:
    matrix = np.asarray(wcs.pixel_scale_matrix, np.float64)
    size = np.abs(matrix).max()
    if size == 0 or abs(np.linalg.det(matrix / size)) < 1e-12:
        raise PogsonValueError(
            f"The WCS has a singular CD (or PC and CDELT) matrix {matrix.tolist()}: it maps the "
            f"image to a line or a point. Correct the header."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            wcs.wcs.set()
        except Exception as error:
            raise PogsonValueError(f"The coordinate system is not usable: {error}") from None


def _check_frame(wcs: Any) -> None:
    w = wcs.wcs
    kind = str(w.ctype[w.lng])[:4].rstrip("-")
    if kind != "RA":
        raise PogsonValueError(
            f"The coordinate system is not equatorial (CTYPE {list(map(str, w.ctype))}); "
            f"right ascension and declination are needed."
        )
    frame = str(w.radesys).strip().upper()
    if frame not in ("", "ICRS", "FK5"):
        raise PogsonValueError(
            f"The coordinate system is in RADESYS '{frame}'; allowed: ICRS, or FK5 of J2000."
        )
    if frame == "FK5" and np.isfinite(w.equinox) and abs(w.equinox - 2000.0) > 1e-6:
        raise PogsonValueError(f"FK5 coordinates of equinox {w.equinox} are not supported: J2000.")
    if frame == "" and np.isfinite(w.equinox) and abs(w.equinox - 2000.0) > 1e-6:
        raise PogsonValueError(f"Equinox {w.equinox} without RADESYS is not supported: J2000 is.")


# -- writing cards --------------------------------------------------------------------------
def _cards_of(wcs: Any, source: Header | None) -> Header:
    """Return cards at full precision (astropy's own writer keeps 12 digits)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = wcs.to_header(relax=True)
    w = wcs.wcs
    for key in [k for k in header if str(k).startswith(("PC", "CDELT", "CD1_", "CD2_"))]:
        del header[key]
    matrix = np.asarray(wcs.pixel_scale_matrix, np.float64)
    for i in (1, 2):
        header[f"CRPIX{i}"] = float(w.crpix[i - 1])
        header[f"CRVAL{i}"] = float(w.crval[i - 1])
        for j in (1, 2):
            header[f"CD{i}_{j}"] = float(matrix[i - 1, j - 1])
    # wcslib hides the PV of TPV and of SCAMP's TAN once it has set itself up: take those it was
    # given, where they are the ones it writes.
    for key in [k for k in header if str(k).startswith("PV")]:
        if source is not None and key in source:
            header[key] = float(source[key])
    if wcs.sip is not None:
        for name in ("a", "b", "ap", "bp"):
            table = getattr(wcs.sip, name)
            if table is None:
                continue
            for p, q in np.argwhere(table != 0):
                header[f"{name.upper()}_{p}_{q}"] = float(table[p, q])
    return header


def _has_tables(wcs: Any) -> bool:
    return any(
        getattr(wcs, name) is not None for name in ("cpdis1", "cpdis2", "det2im1", "det2im2")
    )


def _tables_of(wcs: Any) -> str | None:
    """Return the FITS form of a WCS with lookup tables, as base64 text; None without tables."""
    if not _has_tables(wcs):
        return None
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wcs.to_fits(relax=True).writeto(buffer)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _wcs_from_tables(text: str) -> Any:
    import astropy.wcs
    from astropy.io import fits

    try:
        with (
            warnings.catch_warnings(),
            fits.open(io.BytesIO(base64.b64decode(text, validate=True))) as hdus,
        ):
            warnings.simplefilter("ignore")
            return astropy.wcs.WCS(hdus[0].header, hdus)
    except Exception as error:
        raise PogsonValueError(f"Not readable as a map with lookup tables: {error}") from None


def _check_same(given: Any, rebuilt: Any) -> None:
    """Raise if the cards do not reproduce the WCS they were written from."""
    step = np.array([[-300.0, 200.0], [0.0, 0.0], [450.0, 500.0]]) + given.wcs.crpix
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        a, b = given.all_pix2world(step, 1), rebuilt.all_pix2world(step, 1)
    if not np.allclose(a, b, rtol=0, atol=1e-9, equal_nan=True):
        raise PogsonValueError(
            "This WCS cannot be written as FITS cards without changing it, so it is not supported."
        )
