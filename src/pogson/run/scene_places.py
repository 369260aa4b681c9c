"""From positions on the sky and a list of exposures to the fits of a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import ConfigError
from pogson.run.scene_config import SceneRunConfig
from pogson.run.scene_targets import SceneTarget, StampRow, read_targets_table, safe_key

if TYPE_CHECKING:
    from pogson.scene import Ephemeris

__all__ = ["ScannedExposure", "plan_places"]


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
        those that move, time (MJD).
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
        path = Ephemeris.from_table(table[names == name], name=str(name))
        found = (
            _static(path, exposures, taken)
            if path.is_static
            else _moving(config, path, exposures, taken)
        )
        if not found:
            ra, dec = float(path.ra[0]), float(path.dec[0])
            why = f"no exposure shows {name} (ra={ra:.6f}, dec={dec:.6f})" + (
                "." if path.is_static else " at its time; the ephemeris has columns time, ra, dec."
            )
            found = [SceneTarget(safe_key(name, taken), name, ra, dec, (), problem=why)]
        targets += found
    return targets


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
    path: Ephemeris, exposures: Sequence[ScannedExposure], taken: set[str]
) -> list[SceneTarget]:
    """Return a light curve for each band."""
    ra, dec = path.at(0.0)
    some = [e for e in exposures if e.shows(ra, dec)]
    bands = list(dict.fromkeys(e.band for e in some))
    return [
        SceneTarget(
            safe_key(f"{path.name}-{band}" if len(bands) > 1 else path.name, taken),
            path.name,
            ra,
            dec,
            tuple(_row(e, ra, dec) for e in some if e.band == band),
        )
        for band in bands
    ]


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
                left_out=tuple(left_out),
            )
        )
    return found


def _target_inside(
    config: SceneRunConfig, path: Ephemeris, other: ScannedExposure, ra: float, dec: float
) -> str:
    """Return why another exposure shows the target itself, or nothing."""
    from pogson.scene.cutting import stamp_size

    if other.time is None:
        return ""
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
