"""From positions on the sky and a list of exposures to the fits of a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import ConfigError, PogsonError, PogsonValueError
from pogson.run.scene_config import SceneRunConfig
from pogson.run.scene_targets import SceneTarget, StampRow, read_targets_table, safe_key

if TYPE_CHECKING:
    from pogson.scene import Ephemeris

__all__ = ["ScannedExposure", "plan_places"]

_SHORT_TRAIL = 0.05
"""Trails shorter than this many PSF widths are points: they change fluxes by less than 1e-3."""
_TIMELESS = "it does not say when it was taken, so that it may show the target."


@dataclass(frozen=True)
class ScannedExposure:
    """What `pogson.run.scene_cuts.scan_exposure` found of an exposure.

    Parameters
    ----------
    key, exposure_id, detector, band : str
        Names.
    time : float or None
        Middle of the exposure, MJD.
    box : pogson.fields.Box
        Its pixels.
    sky : pogson.sky.SkyMap
        Its map to the sky.
    fwhm : float
        Of the PSF in the middle, in pixels.
    cuts : str
        File of cuts that will be made of it.
    seconds : float
        Exposure time; 0 where it is not known.
    """

    key: str
    exposure_id: str
    detector: str
    band: str
    time: float | None
    box: Any
    sky: Any
    fwhm: float
    cuts: str
    seconds: float = 0.0

    @classmethod
    def from_record(cls, record: Mapping[str, Any], cuts: str) -> ScannedExposure:
        """Return the exposure that a record describes."""
        from pogson.fields import Box
        from pogson.sky.base import skymap_from_dict

        names = ("key", "exposure_id", "detector", "band", "time", "fwhm")
        return cls(
            **{n: record[n] for n in names},
            box=Box(*record["box"]),
            sky=skymap_from_dict(record["sky"]),
            cuts=cuts,
            seconds=float(record.get("seconds", 0.0)),
        )

    def shows(self, ra: float, dec: float) -> bool:
        """Return whether a position (degrees) falls on its pixels."""
        x, y = self.sky.pixel(ra, dec)
        return bool(np.isfinite(x) and np.isfinite(y) and self.box.contains(x=x, y=y))


def plan_places(config: SceneRunConfig, exposures: Sequence[ScannedExposure]) -> list[SceneTarget]:
    """Return the fits of a job whose pixels come as whole exposures.

    Parameters
    ----------
    config : SceneRunConfig
        With a section ``[inputs]``. The table of targets has the columns target, ra, dec and, for
        those that move, time (MJD); for those that do not, it may have ``first`` and ``last``, the
        times (MJD) between which they may shine.
    exposures : sequence of ScannedExposure
        All exposures.

    Returns
    -------
    list of SceneTarget
        One for each band of a target that does not move (a light curve), one for each exposure of
        a target that moves (its detection; the other exposures of the band show the scene).

    Raises
    ------
    ConfigError
        If the table is wrong.
    """
    from pogson.scene.ephemeris import Ephemeris

    table = read_targets_table(config, ("target", "ra", "dec"))
    names = np.array([str(n) for n in table["target"]])
    taken: set[str] = set()
    targets: list[SceneTarget] = []
    for name in dict.fromkeys(names):
        rows = table[names == name]
        try:
            path = Ephemeris.from_table(rows, name=str(name))
            found = (
                _static(path, exposures, taken, _window(rows))
                if path.is_static
                else _moving(config, path, exposures, taken)
            )
        except ConfigError:
            raise
        except PogsonError as error:
            found = [_failed(name, rows, taken, str(error))]
        if not found:
            found = [_failed(name, rows, taken, _nowhere(path, exposures))]
        targets += found
    return targets


def _failed(name: str, rows: Any, taken: set[str], why: str) -> SceneTarget:
    ra, dec = (float(np.ma.filled(rows[c], np.nan)[0]) for c in ("ra", "dec"))
    return SceneTarget(safe_key(name, taken), name, ra, dec, (), problem=why)


def _nowhere(path: Ephemeris, exposures: Sequence[ScannedExposure]) -> str:
    """Return why no exposure shows a target."""
    ra, dec = float(path.ra[0]), float(path.dec[0])
    text = f"no exposure shows {path.name} (ra={ra:.6f}, dec={dec:.6f})"
    if path.is_static:
        return text + "."
    times = [e.time for e in exposures if e.time is not None]
    if not times:
        return text + " at its time: no exposure says when it was taken."
    return (
        f"{text} at its time: its ephemeris runs from MJD {path.time[0]:.4f} to "
        f"{path.time[-1]:.4f}, the exposures from {min(times):.4f} to {max(times):.4f}."
    )


def _window(rows: Any) -> tuple[float, float] | None:
    """Return between which times (MJD) a target that stays may shine; None: always."""
    from pogson.scene.ephemeris import mjd_of

    ends = [-np.inf, np.inf]
    for k, name in enumerate(("first", "last")):
        if name in rows.colnames:
            value = float(mjd_of(rows[name])[0])
            ends[k] = value if np.isfinite(value) else ends[k]
    if not ends[0] <= ends[1]:
        raise PogsonValueError(
            f"[targets] table: target {rows['target'][0]!s} has first = {ends[0]:.4f} after last = "
            f"{ends[1]:.4f}."
        )
    return None if np.isinf(ends).all() else (ends[0], ends[1])


def _row(exposure: ScannedExposure, ra: float, dec: float, *, detection: bool = False) -> StampRow:
    return StampRow(
        exposure=exposure.exposure_id,
        ra=ra,
        dec=dec,
        stamp=exposure.cuts,
        psf="",
        detector=exposure.detector,
        band=exposure.band,
        detection=detection,
        time=exposure.time,
    )


def _static(
    path: Ephemeris,
    exposures: Sequence[ScannedExposure],
    taken: set[str],
    window: tuple[float, float] | None,
) -> list[SceneTarget]:
    """Return a light curve for each band; exposures outside the window show the scene alone."""
    ra, dec = path.at(0.0)
    some = [e for e in exposures if e.shows(ra, dec)]
    bands = list(dict.fromkeys(e.band for e in some))
    found = []
    for band in bands:
        mine = [e for e in some if e.band == band]
        lit, left_out = mine, []
        if window is not None:
            left_out = [
                (e.exposure_id, f"{e.exposure_id}: {_TIMELESS}") for e in mine if e.time is None
            ]
            mine = [e for e in mine if e.time is not None]
            lit = [e for e in mine if window[0] <= (e.time or 0.0) <= window[1]]
        found.append(
            SceneTarget(
                safe_key(f"{path.name}-{band}" if len(bands) > 1 else path.name, taken),
                path.name,
                ra,
                dec,
                tuple(_row(e, ra, dec, detection=window is not None and e in lit) for e in mine),
                () if window is None else tuple(e.exposure_id for e in lit),
                problem="" if lit else _dark(path.name, band, window),
                left_out=tuple(left_out),
            )
        )
    return found


def _dark(name: str, band: str, window: tuple[float, float] | None) -> str:
    first, last = window or (-np.inf, np.inf)
    where = f" of band {band}" if band else ""
    return f"no exposure{where} was taken while {name} may shine, MJD {first:.4f} to {last:.4f}."


def _moving(
    config: SceneRunConfig, path: Ephemeris, exposures: Sequence[ScannedExposure], taken: set[str]
) -> list[SceneTarget]:
    """Return a fit for each exposure that shows the target."""
    if config.model.kind == "light_curve":
        raise ConfigError(
            f"[model] kind = 'light_curve' is for targets that do not move, but {path.name} does: "
            "each of its exposures is a detection of its own. Leave kind out."
        )
    found = []
    for detection in exposures:
        if detection.time is None or not path.covers(detection.time):
            continue
        ra, dec = path.at(detection.time)
        if not detection.shows(ra, dec):
            continue
        rows = [_row(detection, ra, dec, detection=True)]
        left_out = []
        for other in exposures:
            if other is detection or other.band != detection.band or not other.shows(ra, dec):
                continue
            why = _target_inside(config, path, other, ra, dec)
            if why:
                left_out.append((other.exposure_id, why))
            else:
                rows.append(_row(other, ra, dec))
        found.append(
            SceneTarget(
                safe_key(f"{path.name}-{detection.key}", taken),
                path.name,
                ra,
                dec,
                tuple(rows),
                (detection.exposure_id,),
                _trail(config, path, detection, ra, dec),
                left_out=tuple(left_out),
            )
        )
    return found


def _trail(
    config: SceneRunConfig, path: Ephemeris, detection: ScannedExposure, ra: float, dec: float
) -> tuple[float, float] | None:
    """Return the trail of a target in its exposure, from its ephemeris; None if it is a point."""
    if config.model.trail_length is not None or detection.time is None:
        return None
    length, angle = path.trail(detection.time, detection.seconds)
    x, y = detection.sky.pixel(ra, dec)
    width = detection.fwhm * float(detection.sky.pixel_scale(x=x, y=y))
    return (length, angle) if length > _SHORT_TRAIL * width else None


def _target_inside(
    config: SceneRunConfig, path: Ephemeris, other: ScannedExposure, ra: float, dec: float
) -> str:
    """Return why another exposure shows the target itself, or nothing."""
    from pogson.scene.cutting import stamp_size

    if other.time is None:
        return f"{other.exposure_id}: {_TIMELESS}"
    x, y = other.sky.pixel(ra, dec)
    side = config.cut.size or stamp_size(other.fwhm)
    reach = config.cut.avoid
    if reach is None:
        reach = (side / np.sqrt(2.0) + 2.0 * other.fwhm) * other.sky.pixel_scale(x=x, y=y)
    distance = path.separation(other.time, ra, dec)
    if distance >= reach:
        return ""
    return (
        f"{other.exposure_id} shows the moving target itself, {distance:.1f} arcsec from the place "
        f"of detection (less than {reach:.1f})."
    )
