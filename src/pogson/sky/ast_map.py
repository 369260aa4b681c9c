"""Sky maps held as AST FrameSets (Starlink; also what LSST's SkyWcs is)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from pogson.errors import MissingDataError, PogsonTypeError, PogsonValueError
from pogson.sky.ast_text import checked_ast_text
from pogson.sky.base import SkyMap, check_offset
from pogson.sky.geometry import unit_vectors

__all__ = ["AstSkyMap"]


def _ast() -> Any:
    """Import starlink.Ast or say how to get it."""
    try:
        import starlink.Ast as Ast
    except ImportError:
        raise MissingDataError(
            "This file or map needs the AST library, which is not installed; "
            "install it with: pip install 'pogson[ast]'"
        ) from None
    return Ast


class _Source:
    """Feeds text to an AST channel line by line."""

    def __init__(self, text: str) -> None:
        self.lines = iter(text.splitlines())

    def astsource(self) -> str | None:
        return next(self.lines, None)


class _Sink:
    """Collects the lines an AST channel writes."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def astsink(self, line: str) -> None:
        self.lines.append(line)


def read_ast_object(text: str) -> Any:
    """Return the AST object that a text dump describes.

    Raises
    ------
    PogsonValueError
        If the text is no AST dump.
    MissingDataError
        If the AST library is not installed.
    """
    ast = _ast()
    checked = checked_ast_text(text)
    try:
        found = ast.Channel(_Source(checked)).read()
    except (ast.AstError, TypeError, ValueError) as error:
        raise PogsonValueError(f"Not a readable AST description: {_first_line(error)}") from None
    if found is None:
        raise PogsonValueError("The text holds no AST object (it should have 'Begin FrameSet').")
    return found


def write_ast_object(thing: Any) -> str:
    """Return the text dump of an AST object, without comments."""
    sink = _Sink()
    _ast().Channel(None, sink, "Full=-1,Comment=0").write(thing)
    return "\n".join(line.strip() for line in sink.lines)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


class AstSkyMap(SkyMap):
    """Sky map held as an AST FrameSet from pixels to a sky frame.

    Needs the AST library (``pip install 'pogson[ast]'``).

    Parameters
    ----------
    ast_text : str
        Text dump of the FrameSet ("Begin FrameSet ..."), whose base frame has two pixel axes and
        whose current frame is a SkyFrame. Frames in other equatorial, galactic or ecliptic systems
        are converted to ICRS by AST.
    pixel_origin : float, optional
        Coordinate that the FrameSet gives to the centre of the first pixel: 0 for LSST files (the
        default), 1 where the base frame came from FITS.
    offset : tuple of float, optional
        Pixels (dx, dy) added before the FrameSet is applied; see `SkyMap.shifted`.

    Raises
    ------
    PogsonValueError
        If the text is not a FrameSet from two pixel axes to the sky.
    MissingDataError
        If the AST library is not installed.

    Examples
    --------
    >>> from pogson.sky import AstSkyMap, FitsSkyMap
    >>> tan = FitsSkyMap.tan(150.0, 2.0, x=50.0, y=50.0, scale_arcsec=0.2)
    >>> sky = AstSkyMap.from_header(tan.to_header())
    >>> ra, dec = sky.sky(x=50.0, y=50.0)
    >>> round(ra, 9), round(dec, 9)
    (150.0, 2.0)
    """

    __slots__ = ("_frameset", "_latitude_axis", "_text")
    _text: str
    _frameset: Any
    _latitude_axis: int

    def __init__(
        self,
        ast_text: str,
        *,
        pixel_origin: float = 0,
        offset: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        dx, dy = check_offset(offset)
        frameset = read_ast_object(ast_text)
        ast = _ast()
        if not isinstance(frameset, ast.FrameSet):
            raise PogsonValueError(
                f"The AST text holds a {type(frameset).__name__}, not a FrameSet."
            )
        base, current = frameset.getframe(ast.BASE), frameset.getframe(ast.CURRENT)
        if not isinstance(current, ast.SkyFrame):
            raise PogsonValueError(
                f"The FrameSet leads to a {type(current).__name__} (domain '{current.Domain}'), "
                f"not to a SkyFrame."
            )
        if base.Naxes != 2:
            raise PogsonValueError(f"The FrameSet starts from {base.Naxes} axes; 2 are needed.")
        try:
            if frameset.get("System") not in ("ICRS", "FK5"):
                # Setting System on the FrameSet remaps the current frame
                frameset.set("System=ICRS")
            latitude_axis = int(frameset.get("LatAxis")) - 1
        except ast.AstError as error:
            raise PogsonValueError(f"Unusable sky frame: {_first_line(error)}") from None
        self._set(
            _text=write_ast_object(frameset),
            _frameset=frameset,
            _latitude_axis=latitude_axis,
            _offset=(dx + float(pixel_origin), dy + float(pixel_origin)),
        )

    @classmethod
    def from_header(cls, header: Any) -> AstSkyMap:
        """Build the map that AST makes of a FITS header.

        Parameters
        ----------
        header : astropy.io.fits.Header or str
            Cards of the coordinate system.

        Raises
        ------
        PogsonValueError
            If AST finds no sky coordinates in the header.
        """
        ast = _ast()
        cards = header if isinstance(header, str) else header.tostring(sep="\n")
        channel = ast.FitsChan(None)
        try:
            for card in cards.splitlines():
                channel.putfits(card, False)
            channel.clear("Card")
            frameset = channel.read()
        except ast.AstError as error:
            raise PogsonValueError(f"AST cannot use this header: {_first_line(error)}") from None
        if frameset is None:
            raise PogsonValueError("AST found no coordinate system in this header.")
        return cls(write_ast_object(frameset), pixel_origin=1)

    @property
    def ast_text(self) -> str:
        """Text dump of the FrameSet."""
        return self._text

    def _tran(self, a: np.ndarray, b: np.ndarray, *, forward: bool) -> np.ndarray:
        ast = _ast()
        good = np.isfinite(a) & np.isfinite(b)
        out = np.full((2, a.size), np.nan)
        if good.any():
            try:
                points = np.ascontiguousarray(np.stack([a[good], b[good]]))
                result = np.asarray(self._frameset.tran(points, forward))
            except ast.AstError as error:
                raise PogsonValueError(
                    f"AST could not apply the map: {_first_line(error)}"
                ) from None
            # AST marks undefined coordinates by its BAD value, near -1.8e308
            out[:, good] = np.where(np.abs(result) < 1e300, result, np.nan)
        return out

    def _to_sky(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        out = np.rad2deg(self._tran(x, y, forward=True))
        return out[1 - self._latitude_axis], out[self._latitude_axis]

    def _to_pixel(self, ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        lon, lat = np.deg2rad(ra), np.deg2rad(dec)
        first, second = (lat, lon) if self._latitude_axis == 0 else (lon, lat)
        if not self._frameset.TranInverse:
            raise PogsonTypeError("This AST mapping has no inverse, so pixel() is not available.")
        x, y = self._tran(first, second, forward=False)
        # Some AST inverses (SIP, fitted polynomials) are only approximate: check, then refine.
        at_ra, at_dec = self._to_sky(x, y)
        gap = np.linalg.norm(unit_vectors(ra, dec) - unit_vectors(at_ra, at_dec), axis=-1)
        if np.nanmax(gap, initial=0.0) > 1e-7 * self._scale(x, y):
            return self._newton_pixel(ra, dec, x, y)
        return x, y

    def shifted(self, dx: float, dy: float) -> AstSkyMap:
        """Return the map of an image whose first pixel is pixel (dx, dy) of this one."""
        dx, dy = check_offset((dx, dy))
        return AstSkyMap(self._text, offset=(self._offset[0] + dx, self._offset[1] + dy))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description, read back by `skymap_from_dict`."""
        return {"kind": "ast", "ast": self._text, "offset": list(self._offset)}

    @classmethod
    def _from_dict(cls, description: Mapping[str, Any]) -> AstSkyMap:
        return cls(description["ast"], offset=description["offset"])

    def __repr__(self) -> str:
        return f"<AstSkyMap of {len(self._text)} characters, offset={self._offset}>"


def ast_sky_reference(text: str) -> tuple[float, float] | None:
    """Return the reference point (ra, dec) in degrees of a FrameSet's sky frame, None if unset.

    The attribute itself is only given rounded to the frame's display format; the dump has it in
    radians at full precision.
    """
    frameset = read_ast_object(text)
    dump = write_ast_object(frameset.getframe(_ast().CURRENT))
    found = [re.search(rf"^SRef{axis} = (\S+)", dump, re.MULTILINE) for axis in (1, 2)]
    if found[0] is None or found[1] is None:
        return None
    try:
        lon, lat = (float(np.rad2deg(float(m.group(1)))) for m in found if m)
    except ValueError:
        return None
    return lon % 360.0, lat
