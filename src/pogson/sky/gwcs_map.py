"""Sky maps held as gwcs objects (Roman, JWST, lsst/images)."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from pogson.errors import MissingDataError, PogsonTypeError, PogsonValueError
from pogson.sky.base import SkyMap, check_offset

__all__ = ["GwcsSkyMap"]


class GwcsSkyMap(SkyMap):
    """Sky map held as a `gwcs.WCS`, whose pixels are 0-based as here.

    Needs gwcs (``pip install 'pogson[gwcs]'``).

    Parameters
    ----------
    wcs : gwcs.WCS
        From two pixel axes to an ICRS celestial frame. Its bounding box is not applied, so that
        positions just off the image still have coordinates. A transform without analytic inverse
        is inverted by Newton's rule.
    offset : tuple of float, optional
        Pixels (dx, dy) added before the transform; see `SkyMap.shifted`.

    Raises
    ------
    PogsonTypeError
        If ``wcs`` is not a gwcs object.
    PogsonValueError
        If it does not lead from two pixel axes to an ICRS celestial frame.

    Examples
    --------
    >>> from astropy import units as u
    >>> from astropy.coordinates import ICRS
    >>> from astropy.modeling import models as m
    >>> import gwcs
    >>> scale = 0.2 / 3600.0
    >>> to_sky = (
    ...     m.Shift(-50.0) & m.Shift(-50.0) | m.Scale(-scale) & m.Scale(scale)
    ...     | m.Pix2Sky_TAN() | m.RotateNative2Celestial(150.0, 2.0, 180.0)
    ... )
    >>> frame = gwcs.coordinate_frames.CelestialFrame(reference_frame=ICRS(), unit=(u.deg, u.deg))
    >>> sky = GwcsSkyMap(gwcs.WCS(to_sky, output_frame=frame))
    >>> ra, dec = sky.sky(x=50.0, y=50.0)
    >>> round(float(ra), 9), round(float(dec), 9)
    (150.0, 2.0)
    """

    __slots__ = ("_inverse", "_text", "_transform", "_wcs")
    _wcs: Any
    _transform: Any
    _inverse: Any
    _text: str

    def __init__(self, wcs: Any, *, offset: tuple[float, float] = (0.0, 0.0)) -> None:
        gwcs = _gwcs()
        if not isinstance(wcs, gwcs.WCS):
            raise PogsonTypeError(f"GwcsSkyMap takes a gwcs.WCS, not a {type(wcs).__name__}.")
        frame = wcs.output_frame
        reference = getattr(frame, "reference_frame", None)
        if reference is None or not hasattr(reference, "name"):
            raise PogsonValueError(
                f"The gwcs leads to {frame!r}, not to a celestial frame with a reference frame."
            )
        if reference.name not in ("icrs", "fk5") or (
            reference.name == "fk5" and str(reference.equinox) != "J2000.000"
        ):
            raise PogsonValueError(
                f"The gwcs leads to the frame '{reference.name}'; allowed: ICRS, or FK5 of J2000."
            )
        if wcs.forward_transform.n_inputs != 2 or wcs.forward_transform.n_outputs != 2:
            raise PogsonValueError(
                f"The gwcs maps {wcs.forward_transform.n_inputs} axes to "
                f"{wcs.forward_transform.n_outputs}; only two to two are allowed."
            )
        try:
            inverse = wcs.backward_transform
        except NotImplementedError:
            inverse = None
        self._set(
            _wcs=wcs,
            _transform=wcs.forward_transform,
            _inverse=inverse,
            _text="",
            _offset=check_offset(offset),
        )

    @property
    def wcs(self) -> Any:
        """The gwcs object."""
        return self._wcs

    def _to_sky(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._apply(self._transform, x, y, self._wcs.input_frame, self._wcs.output_frame)

    def _to_pixel(self, ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self._inverse is not None:
            return self._apply(
                self._inverse, ra, dec, self._wcs.output_frame, self._wcs.input_frame
            )
        box = self._wcs.bounding_box
        start = (0.0, 0.0)
        if box is not None:
            (x0, x1), (y0, y1) = box.bounding_box(order="F")
            start = (0.5 * float(x0 + x1), 0.5 * float(y0 + y1))
        return self._newton_pixel(ra, dec, np.full(ra.shape, start[0]), np.full(ra.shape, start[1]))

    def _apply(
        self, transform: Any, a: np.ndarray, b: np.ndarray, before: Any, after: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        inputs: list[Any] = [a, b]
        if transform.uses_quantity:
            inputs = [v * unit for v, unit in zip(inputs, before.unit, strict=True)]
        with np.errstate(all="ignore"):
            out = transform(*inputs, with_bounding_box=False)
        plain = [
            np.asarray(v.to_value(unit) if hasattr(v, "to_value") else v, np.float64)
            for v, unit in zip(out, after.unit, strict=True)
        ]
        return plain[0], plain[1]

    def shifted(self, dx: float, dy: float) -> GwcsSkyMap:
        """Return the map of an image whose first pixel is pixel (dx, dy) of this one."""
        dx, dy = check_offset((dx, dy))
        return GwcsSkyMap(self._wcs, offset=(self._offset[0] + dx, self._offset[1] + dy))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description (ASDF text), read back by `skymap_from_dict`."""
        if not self._text:
            asdf = _asdf()
            buffer = io.BytesIO()
            with asdf.AsdfFile({"wcs": self._wcs}) as file:
                file.write_to(buffer, all_array_storage="inline")
            self._set(_text=buffer.getvalue().decode("ascii"))
        return {"kind": "gwcs", "asdf": self._text, "offset": list(self._offset)}

    @classmethod
    def _from_dict(cls, description: Mapping[str, Any]) -> GwcsSkyMap:
        asdf = _asdf()
        text = description["asdf"]
        try:
            with asdf.open(io.BytesIO(text.encode("ascii")), lazy_load=False) as file:
                wcs = file["wcs"]
        except Exception as error:  # asdf, yaml and gwcs each have their own
            raise PogsonValueError(f"Not a readable gwcs description: {error}") from None
        sky = cls(wcs, offset=description["offset"])
        # The text is the identity of the map: writing it again could reorder it.
        sky._set(_text=text)
        return sky

    def __repr__(self) -> str:
        return f"<GwcsSkyMap {self._wcs.name!r}, offset={self._offset}>"


def _gwcs() -> Any:
    try:
        import gwcs
    except ImportError:
        raise MissingDataError(
            "This map needs gwcs, which is not installed; "
            "install it with: pip install 'pogson[gwcs]'"
        ) from None
    return gwcs


def _asdf() -> Any:
    try:
        import asdf  # type: ignore[import-untyped]
    except ImportError:
        raise MissingDataError(
            "Writing or reading a gwcs map needs asdf; install it with: pip install 'pogson[gwcs]'"
        ) from None
    return asdf
