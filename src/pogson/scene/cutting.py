"""From whole exposures and a position to the cut-outs that a scene fit takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from pogson.errors import (
    BoundsError,
    MaskedDataError,
    MissingDataError,
    PogsonError,
    ReferenceMismatchError,
)
from pogson.fields import Box
from pogson.scene.ephemeris import Ephemeris
from pogson.units import NJY_AB_MAGNITUDE, Measure

if TYPE_CHECKING:
    from pogson.images import Exposure
    from pogson.scene.exposure import SceneExposure

__all__ = ["SceneCut", "cut_exposure", "cut_scene", "mid_time", "stamp_size"]

_SMALLEST, _LARGEST = 21, 81


@dataclass(frozen=True)
class SceneCut:
    """The cut-outs of one target: what a fit takes, and what was left out and why.

    Parameters
    ----------
    exposures : tuple of SceneExposure
        In the order given; the detection among them.
    detection : str
        Name of the exposure with the source; empty for a light curve, where every one has it.
    ra, dec : float
        Position of the target (at the detection) in degrees.
    dropped : mapping of str to str
        Exposures left out, with the reason.

    Examples
    --------
    Made by `cut_scene`, where there is an example.
    """

    exposures: tuple[SceneExposure, ...]
    detection: str
    ra: float
    dec: float
    dropped: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "dropped", MappingProxyType(dict(self.dropped)))


def mid_time(exposure: Exposure) -> float | None:
    """Return the middle of an exposure as MJD; None where the header did not say when it began.

    Examples
    --------
    >>> import numpy as np
    >>> from pogson.images import Exposure
    >>> exposure = Exposure(np.ones((2, 2)), unit="adu", measure="fluence",
    ...                     metadata={"mjd": 60000.0, "exposure_time": 86.4})
    >>> round(mid_time(exposure), 6)
    60000.0005
    """
    start = exposure.metadata.get("mjd")
    if start is None:
        return None
    seconds = exposure.metadata.get("exposure_time") or 0.0
    return float(start) + 0.5 * float(seconds) / 86400.0


def stamp_size(fwhm: float) -> int:
    """Return the side of a stamp for a PSF: odd, some 7 full widths, from 21 to 81 pixels.

    Parameters
    ----------
    fwhm : float
        Full width at half maximum in pixels.

    Examples
    --------
    >>> stamp_size(4.0), stamp_size(1.0), stamp_size(50.0)
    (29, 21, 81)
    """
    return int(np.clip(2 * np.ceil(3.5 * fwhm) + 1, _SMALLEST, _LARGEST))


def cut_exposure(
    exposure: Exposure,
    *,
    ra: float,
    dec: float,
    size: int | None = None,
    bad: Iterable[str] | None = None,
    zero_point: float | None = None,
    variance_includes_sources: bool = True,
) -> SceneExposure:
    """Cut one exposure around a position.

    Parameters
    ----------
    exposure : Exposure
        With variance, sky map, PSF and, unless ``zero_point`` is given, a flux calibration.
    ra, dec : float
        Position in degrees.
    size : int, optional
        Side of the stamp in pixels; by default from the PSF, see `stamp_size`. Where the stamp
        would stick out of the detector it is smaller.
    bad : iterable of str, optional
        Names of mask bits whose pixels are left out; `pogson.images.BAD_FOR_PHOTOMETRY` by
        default.
    zero_point : float, optional
        AB magnitude of one unit of the image, instead of the exposure's own calibration.
    variance_includes_sources : bool, optional
        Whether the variance already holds the photon noise of sources, as that of most cameras'
        pipelines does.

    Returns
    -------
    SceneExposure
        In fluence, whatever the measure of the exposure.

    Raises
    ------
    MissingDataError
        If the variance, sky map, PSF or calibration is missing.
    ReferenceMismatchError
        If the calibration is stated for another PSF normalisation.
    BoundsError
        If the position is not on the detector.
    MaskedDataError
        If no pixel of the stamp is usable.

    Examples
    --------
    >>> import numpy as np
    >>> from pogson import Exposure, FitsSkyMap, FluxReference, MoffatPSF, PhotoCalib
    >>> exposure = Exposure(
    ...     np.zeros((100, 100)), variance=np.ones((100, 100)), unit="adu", measure="fluence",
    ...     sky=FitsSkyMap.tan(150.0, 2.0, x=60.0, y=40.0, scale_arcsec=0.26),
    ...     psf=MoffatPSF(fwhm=4.0, beta=3.0), exposure_id="a",
    ...     photo_calib=PhotoCalib.constant(2.0, reference=FluxReference.total()))
    >>> stamp = cut_exposure(exposure, ra=150.0, dec=2.0)
    >>> stamp.box
    Box(x_min=46, y_min=26, nx=29, ny=29)
    """
    from pogson.scene.exposure import SceneExposure, scale_from_zero_point

    name = exposure.exposure_id or "the exposure"
    for part, words in (
        ("sky", "map to the sky"), ("psf", "PSF"), ("variance", "variance (weight map)")
    ):  # fmt: skip
        if getattr(exposure, part) is None:
            raise MissingDataError(f"{name} has no {words}; a scene fit needs it.")
    assert exposure.sky is not None
    box = _box(exposure, name, ra, dec, size)
    counted = 1.0
    part_of = exposure.cutout(box).with_(background=None, background_subtracted=False)
    if zero_point is None:
        if exposure.photo_calib is None:
            raise MissingDataError(
                f"{name} has no zero point: it has no flux calibration and none was given."
            )
        counted = _counted_light(exposure, name, ra, dec)
        part_of = part_of.calibrated()
        zero_point = NJY_AB_MAGNITUDE
    part_of = part_of.to(Measure.FLUENCE)
    wrong = part_of.bad(bad)
    if wrong.all():
        raise MaskedDataError(f"{name} has no usable pixel around ra={ra:.6f}, dec={dec:.6f}.")
    assert part_of.variance is not None
    assert part_of.sky is not None
    gain = part_of.metadata.get("gain")
    return SceneExposure(
        part_of.image,
        part_of.variance,
        box,
        part_of.sky,
        part_of.psf,
        counted * scale_from_zero_point(float(zero_point), NJY_AB_MAGNITUDE),
        wrong,
        exposure_id=exposure.exposure_id,
        gain=None if gain is None else float(gain),
        time=mid_time(exposure),
        variance_includes_sources=variance_includes_sources,
        origin_exact=True,
        scale_error=_scale_error(exposure, box),
        metadata={"band": exposure.bandpass or ""},
    )


def _counted_light(exposure: Exposure, name: str, ra: float, dec: float) -> float:
    """Return the share of a star's light here that the fluxes of the calibration count.

    A calibration of aperture fluxes makes up for the light that the aperture loses; a fit of the
    whole PSF loses none.
    """
    assert exposure.photo_calib is not None
    assert exposure.psf is not None
    assert exposure.sky is not None
    reference = exposure.photo_calib.reference
    stated, own = reference.normalization, exposure.psf.normalization
    if stated is not None and stated != own:
        raise ReferenceMismatchError(
            f"{name} is calibrated for fluxes of reference '{reference.label}', but its PSF is "
            f"normalised to {own.kind}{'' if own.radius is None else f' {own.radius:g}'}; use the "
            "PSF that the calibration was made with."
        )
    x, y = exposure.sky.pixel(ra, dec)
    return float(reference.enclosed_energy(exposure.psf, exposure.sky, x=x, y=y))


def _scale_error(exposure: Exposure, box: Box) -> float:
    """Return the relative error of the exposure's calibration; 0 where it states none."""
    if exposure.photo_calib is None or exposure.photo_calib.covariance is None:
        return 0.0
    x, y = box.center
    return float(exposure.photo_calib.relative_error(x=x, y=y))


def _box(exposure: Exposure, name: str, ra: float, dec: float, size: int | None) -> Box:
    """Return the box of the stamp, cut off at the edges of the detector."""
    assert exposure.sky is not None
    assert exposure.psf is not None
    x, y = exposure.sky.pixel(ra, dec)
    if not (np.isfinite(x) and np.isfinite(y) and bool(exposure.box.contains(x=x, y=y))):
        raise BoundsError(
            f"ra={ra:.6f}, dec={dec:.6f} is at x={x:.1f}, y={y:.1f}, outside {name}, which covers "
            f"x {exposure.box.x_min} to {exposure.box.x_max}, y {exposure.box.y_min} to "
            f"{exposure.box.y_max}."
        )
    side = stamp_size(float(exposure.psf.fwhm(x=x, y=y))) if size is None else int(size)
    cx, cy = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
    wanted = Box(cx - side // 2, cy - side // 2, side, side)
    return wanted.intersection(exposure.box)


def cut_scene(
    exposures: Iterable[Exposure],
    ephemeris: Ephemeris,
    *,
    detection: str | None = None,
    size: int | None = None,
    bad: Iterable[str] | None = None,
    avoid_arcsec: float | None = None,
    zero_points: Mapping[str, float] | None = None,
    variance_includes_sources: bool = True,
) -> SceneCut:
    """Cut a target out of whole exposures.

    Parameters
    ----------
    exposures : iterable of Exposure
        All that may show the place.
    ephemeris : Ephemeris or astropy.table.Table
        Where the target is; a table as `Ephemeris.from_table` takes it.
    detection : str, optional
        Name of the exposure in which a moving target is measured; its band is that of the fit. A
        target that does not move needs none: it may be in every exposure of the first one's band.
    size, bad
        As in `cut_exposure`.
    avoid_arcsec : float, optional
        A moving target that is nearer than this to its place of detection in another exposure
        would be taken for a part of the scene: that exposure is dropped. By default half the
        diagonal of the stamp plus two widths of the PSF.
    zero_points : mapping of str to float, optional
        AB magnitude of one unit of the image by ``exposure_id``, instead of the exposures' own
        calibrations.
    variance_includes_sources : bool, optional
        As in `cut_exposure`.

    Returns
    -------
    SceneCut
        With the exposures that were left out and why: not covering the place, another band,
        missing parts, no usable pixel, target inside.

    Raises
    ------
    MissingDataError
        If the detection is not among the exposures, or nothing is left.
    PogsonError
        If the detection itself cannot be cut: its own reason.

    Examples
    --------
    >>> import numpy as np
    >>> from astropy.table import Table
    >>> from pogson import Exposure, FitsSkyMap, FluxReference, MoffatPSF, PhotoCalib
    >>> exposures = [
    ...     Exposure(
    ...         np.zeros((100, 100)), variance=np.ones((100, 100)), unit="adu",
    ...         measure="fluence", psf=MoffatPSF(fwhm=4.0, beta=3.0), exposure_id=name,
    ...         sky=FitsSkyMap.tan(150.0, 2.0, x=x, y=40.0, scale_arcsec=0.26),
    ...         photo_calib=PhotoCalib.constant(2.0, reference=FluxReference.total()))
    ...     for name, x in (("a", 60.0), ("b", 50.3), ("c", 400.0))
    ... ]
    >>> cut = cut_scene(exposures, Table({"ra": [150.0], "dec": [2.0]}), detection="a")
    >>> [e.exposure_id for e in cut.exposures], list(cut.dropped)
    (['a', 'b'], ['c'])
    """
    some = list(exposures)
    path = ephemeris if isinstance(ephemeris, Ephemeris) else Ephemeris.from_table(ephemeris)
    moving = not path.is_static
    ra, dec = path.ra[0], path.dec[0]
    band = next((e.bandpass for e in some if e.bandpass), None)
    if moving or detection is not None:
        target = next((e for e in some if e.exposure_id == detection), None)
        if target is None:
            raise MissingDataError(
                f"The detection {detection!r} is not among the exposures: "
                f"{', '.join(e.exposure_id for e in some)}. A moving target needs detection=."
            )
        when = mid_time(target)
        if moving and when is None:
            raise MissingDataError(f"{detection} has no time (MJD); the ephemeris needs one.")
        ra, dec = path.at(0.0 if when is None else when)
        band = target.bandpass
    kept, dropped = [], {}
    for exposure in some:
        name = exposure.exposure_id
        try:
            stamp = cut_exposure(
                exposure, ra=ra, dec=dec, size=size, bad=bad,
                zero_point=None if zero_points is None else zero_points.get(name),
                variance_includes_sources=variance_includes_sources,
            )  # fmt: skip
            if name != detection:
                _check_other(exposure, stamp, band, path if moving else None, ra, dec, avoid_arcsec)
            kept.append(stamp)
        except PogsonError as error:
            if name == detection:
                raise
            dropped[name] = str(error)
    if not kept:
        raise MissingDataError("No exposure shows the place: " + " ".join(dropped.values()))
    return SceneCut(tuple(kept), detection or "", float(ra), float(dec), dropped)


def _check_other(
    exposure: Exposure,
    stamp: SceneExposure,
    band: str | None,
    path: Ephemeris | None,
    ra: float,
    dec: float,
    avoid_arcsec: float | None,
) -> None:
    """Refuse an exposure that shows another scene: of another band, or with the target in it."""
    name = exposure.exposure_id
    if band and exposure.bandpass and exposure.bandpass != band:
        raise MissingDataError(f"{name} is in band {exposure.bandpass}, not in {band}.")
    if path is None:
        return
    when = mid_time(exposure)
    if when is None:
        raise MissingDataError(
            f"{name} does not say when it was taken, so that it may show the moving target."
        )
    x, y = stamp.sky.pixel(ra, dec)
    scale = stamp.sky.pixel_scale(x=x, y=y)
    if avoid_arcsec is None:
        assert stamp.psf is not None
        width = float(stamp.psf.fwhm(x=x, y=y))
        avoid_arcsec = (0.5 * np.hypot(stamp.box.nx, stamp.box.ny) + 2.0 * width) * scale
    distance = path.separation(when, ra, dec)
    if distance < avoid_arcsec:
        raise BoundsError(
            f"{name} shows the moving target itself, {distance:.1f} arcsec from the place of "
            f"detection (less than {avoid_arcsec:.1f})."
        )
