"""From sources of many exposures to repeated observations of stars with references."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import CalibrationError, ConfigError
from pogson.run.config import ReferenceConfig
from pogson.run.solve_atmosphere import color_pairs
from pogson.run.solve_config import SolveConfig, SolveTermConfig
from pogson.run.solve_moving import Moving, moving_objects, with_known, years
from pogson.run.solve_sources import SourceFrame

if TYPE_CHECKING:
    from pogson.fields import Box
    from pogson.formats import ReferenceCatalog
    from pogson.survey import Observations, SurveyTables

__all__ = ["Assembled", "assemble", "survey_tables"]

_POGSON = 2.5 / np.log(10.0)
FOCAL_SAMPLE = 1000  # sources of an image that say where it lies in the focal plane


@dataclass(frozen=True, eq=False)
class Assembled:
    """Observations, and what leads from them back to the tables of sources.

    Parameters
    ----------
    frames : tuple of SourceFrame
        The sources.
    observations : Observations
        Detections of stars that can be used, sorted by star.
    exposure, detector : numpy.ndarray of int, shape (frames,)
        Rows of each frame in the tables of exposures and detectors.
    exposure_names, detector_names : tuple of str
        What the tables call the rows.
    frame, row : numpy.ndarray of int, shape (n,)
        Frame of each detection, and row in the frame's table.
    object : numpy.ndarray of int, shape (stars,)
        Object on the sky of each star (one object has a star in each band).
    counts : dict
        How many sources do not take part, by reason.
    colors : numpy.ndarray, shape (stars, colours), optional
        Colours in the reference catalogue, where spectra follow from several; NaN: not known.

    Examples
    --------
    >>> Assembled.__name__
    'Assembled'
    """

    frames: tuple[SourceFrame, ...]
    observations: Observations
    exposure: np.ndarray
    detector: np.ndarray
    exposure_names: tuple[str, ...]
    detector_names: tuple[str, ...]
    frame: np.ndarray
    row: np.ndarray
    object: np.ndarray
    counts: dict[str, int]
    colors: np.ndarray | None = None


def _numbered(names: Sequence[str]) -> np.ndarray:
    """Return the names as numbers if they are some, all different; else 1, 2, ..."""
    if all(n.isdigit() and len(n) < 18 for n in names):
        numbers = [int(n) for n in names]
        if len(set(numbers)) == len(numbers):
            return np.array(numbers)
    return np.arange(1, len(names) + 1)


def _texts(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names where their numbers do not say the same."""
    return () if [str(n) for n in _numbered(names)] == list(names) else tuple(names)


def survey_tables(
    frames: Sequence[SourceFrame], config: SolveConfig
) -> tuple[SurveyTables, np.ndarray, np.ndarray, list[str], list[str]]:
    """Return tables of exposures and detectors, and the rows of each frame in them.

    Parameters
    ----------
    frames : sequence of SourceFrame
        Sources of each detector of each exposure.
    config : SolveConfig
        Nights, epochs and classes.

    Returns
    -------
    tables : SurveyTables
    exposure, detector : numpy.ndarray of int
        Rows of each frame.
    exposure_names, detector_names : list of str
    """
    from pogson.survey import Detectors, Exposures, SurveyTables

    keys = [(f.exposure, f.band) for f in frames]
    known = list(dict.fromkeys(keys))
    plain = len({e for e, _ in known}) == len(known)
    names = [e if plain else f"{e}-{b}" for e, b in known]
    exposure = np.array([known.index(k) for k in keys]) if len(known) < 200 else _rows(keys, known)
    detectors = sorted({f.detector for f in frames}, key=lambda d: (len(d), d))
    place = {d: i for i, d in enumerate(detectors)}
    detector = np.array([place[f.detector] for f in frames])
    first = [int(np.flatnonzero(exposure == i)[0]) for i in range(len(known))]
    bands = list(dict.fromkeys(b for _, b in known))
    mjd = np.array([frames[i].mjd for i in first])
    mean = _per_exposure(frames, exposure, len(known))
    night = np.unique(np.floor(np.nan_to_num(mjd) - config.nights_start), return_inverse=True)[1]
    band = np.array([bands.index(b) for _, b in known])
    category = {"all": np.zeros_like(band), "filter": band, "night": night}[config.floor_per]
    table = Exposures(
        _numbered(names), mjd=np.nan_to_num(mjd), airmass=mean["airmass"], seeing=mean["seeing"],
        night=night, epoch=np.searchsorted(np.sort(config.epochs), np.nan_to_num(mjd), "right"),
        filter=band, category=category, filter_names=tuple(bands), names=_texts(names),
    )  # fmt: skip
    check_times(config, mjd, names)
    boxes = _boxes(frames, detector, len(detectors))
    transform: Any = focal_plane(frames, exposure, detector, boxes)
    made = Detectors(_numbered(detectors), tuple(boxes), transform, _texts(detectors))
    return SurveyTables(table, made), exposure, detector, names, detectors


def _boxes(frames: Sequence[SourceFrame], detector: np.ndarray, n: int) -> list[Box]:
    """Return the smallest box of each detector that holds those of all its frames."""
    from pogson.fields import Box

    out = []
    for i in range(n):
        here = list({frames[int(k)].box for k in np.flatnonzero(detector == i)})
        x0, y0 = min(b.x_min for b in here), min(b.y_min for b in here)
        x1, y1 = max(b.x_max for b in here), max(b.y_max for b in here)
        out.append(here[0] if len(here) == 1 else Box(x0, y0, x1 - x0 + 1, y1 - y0 + 1))
    return out


def check_times(config: SolveConfig, mjd: np.ndarray, names: Sequence[str]) -> None:
    """Raise if exposures lack the time that a term or a class of exposures goes by.

    Parameters
    ----------
    config : SolveConfig
        The terms.
    mjd : numpy.ndarray
        Of each exposure; NaN: not known.
    names : sequence of str
        What the tables of sources call them.

    Raises
    ------
    ConfigError
        Naming what needs the time, and exposures.
    """
    lacking = np.flatnonzero(~np.isfinite(mjd))
    if not lacking.size:
        return
    needs = [f"The term {t.kind!r}" for t in config.terms if _goes_by_time(t, config)]
    needs += ["solve.floor_per = 'night'"] if config.floor_per == "night" else []
    needs += ["solve.photometric_threshold"] if config.photometric_threshold is not None else []
    if needs:
        some = ", ".join(names[i] for i in lacking[:5])
        raise ConfigError(
            f"[solve] {needs[0]} needs the mjd of every exposure; {lacking.size} have none: "
            f"{some}. Give it in the tables, or leave it out (terms per night: by = ['filter'])."
        )


def _goes_by_time(term: SolveTermConfig, config: SolveConfig) -> bool:
    by = term.settings.get("by")
    if term.kind in ("atmosphere", "mirror_decay"):
        return True
    if term.kind == "airmass_extinction" and (by is None or term.settings.get("slope")):
        return True
    if by is None and term.kind in ("detector_zero_point", "star_flat", "radial_flat"):
        by = ["epoch"]
    return "night" in (by or ()) or ("epoch" in (by or ()) and len(config.epochs) > 0)


def _rows(keys: Sequence[Any], known: Sequence[Any]) -> np.ndarray:
    place = {k: i for i, k in enumerate(known)}
    return np.array([place[k] for k in keys])


def _per_exposure(
    frames: Sequence[SourceFrame], exposure: np.ndarray, n: int
) -> dict[str, np.ndarray]:
    """Return the mean airmass and seeing of the detectors of each exposure."""
    out = {}
    for name in ("airmass", "seeing"):
        values = np.array([getattr(f, name) for f in frames], float)
        good = np.isfinite(values)
        count = np.bincount(exposure[good], minlength=n)
        total = np.bincount(exposure[good], values[good], n)
        out[name] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return out


def focal_plane(
    frames: Sequence[SourceFrame],
    exposure: np.ndarray,
    detector: np.ndarray,
    boxes: Sequence[Box],
) -> np.ndarray | None:
    """Return affine maps from pixels to the focal plane, from the sources' own positions.

    The sky about the middle of one exposure is taken for the focal plane; detectors that it lacks
    are placed by other exposures, relative to detectors placed already. None if the positions do
    not say where a detector lies.
    """
    maps: dict[int, np.ndarray] = {}
    order = np.argsort(-np.bincount(exposure), kind="stable")
    for e in order:
        here = [int(i) for i in np.flatnonzero(exposure == e) if len(frames[int(i)]) >= 3]
        if not here or (maps and all(int(detector[i]) in maps for i in here)):
            continue
        ra = np.concatenate([_few(frames[i], "ra") for i in here])
        dec = np.concatenate([_few(frames[i], "dec") for i in here])
        center = _middle(ra, dec)
        found = {}
        for i in here:
            affine = _affine(frames[i], center)
            if affine is not None:
                found[int(detector[i])] = affine
        shared = [d for d in found if d in maps]
        if maps and not shared:
            continue
        shift = np.zeros(2)
        if shared:
            shift = np.mean([maps[d][:, 2] - found[d][:, 2] for d in shared], axis=0)
        for d, affine in found.items():
            if d not in maps:
                maps[d] = affine + np.array([[0, 0, shift[0]], [0, 0, shift[1]]])
        if len(maps) == len(boxes):
            break
    if len(maps) < len(boxes):
        return None
    return _scaled_to_unity(np.stack([maps[d] for d in range(len(boxes))]), boxes)


def _few(frame: SourceFrame, name: str) -> np.ndarray:
    """Return a column of some of the sources of an image: always the same ones."""
    return np.asarray(getattr(frame, name)[:: thinning(len(frame))])


def thinning(n: int) -> int:
    """Return the power of two so that every so manyth of n sources are no more than a sample.

    Powers of two: what was thinned before is thinned further to what thinning at once gives.
    """
    step = 1
    while -(-n // step) > FOCAL_SAMPLE:
        step *= 2
    return step


def _middle(ra: np.ndarray, dec: np.ndarray) -> tuple[float, float]:
    a, d = np.radians(ra), np.radians(dec)
    v = np.array([np.nanmean(np.cos(d) * np.cos(a)), np.nanmean(np.cos(d) * np.sin(a)),
                  np.nanmean(np.sin(d))])  # fmt: skip
    return float(np.arctan2(v[1], v[0])), float(np.arctan2(v[2], np.hypot(v[0], v[1])))


def _affine(frame: SourceFrame, center: tuple[float, float]) -> np.ndarray | None:
    """Fit tangent-plane positions in degrees linearly in pixels."""
    a, d = np.radians(_few(frame, "ra")) - center[0], np.radians(_few(frame, "dec"))
    x, y = _few(frame, "x"), _few(frame, "y")
    c = np.sin(center[1]) * np.sin(d) + np.cos(center[1]) * np.cos(d) * np.cos(a)
    xi = np.cos(d) * np.sin(a) / c
    eta = (np.cos(center[1]) * np.sin(d) - np.sin(center[1]) * np.cos(d) * np.cos(a)) / c
    good = np.isfinite(xi + eta + x + y) & (c > 0)
    if good.sum() < 3:
        return None
    design = np.stack([x[good], y[good], np.ones(int(good.sum()))], axis=1)
    solved, _, rank, _ = np.linalg.lstsq(design, np.stack([xi[good], eta[good]], axis=1))
    return None if rank < 3 else np.degrees(solved.T)


def _scaled_to_unity(maps: np.ndarray, boxes: Sequence[Box]) -> np.ndarray:
    """Centre and scale the maps so that the outermost pixel lies at 1 from the middle."""
    corners = []
    for m, box in zip(maps, boxes, strict=True):
        x, y = np.meshgrid(box.x_bounds, box.y_bounds)
        corners.append(m @ np.stack([x.ravel(), y.ravel(), np.ones(4)]))
    points = np.concatenate(corners, axis=1)
    low, high = points.min(axis=1), points.max(axis=1)
    half = 0.5 * float(np.max(high - low))
    out = maps / half
    out[:, :, 2] -= 0.5 * (low + high) / half
    return np.asarray(out)


def assemble(
    frames: Sequence[SourceFrame],
    config: SolveConfig,
    catalog: ReferenceCatalog | None = None,
    reference: ReferenceConfig | None = None,
) -> Assembled:
    """Match sources into stars, join references, and make observations.

    Parameters
    ----------
    frames : sequence of SourceFrame
        All sources.
    config : SolveConfig
        Section ``[solve]``.
    catalog : ReferenceCatalog, optional
        Stars of known flux.
    reference : ReferenceConfig, optional
        How the catalogue's bands map on ours; needed with a catalogue.

    Returns
    -------
    Assembled

    Raises
    ------
    CalibrationError
        If no star was seen often enough.
    """
    from pogson.survey import Observations

    tables, exposure, detector, names, detectors = survey_tables(frames, config)
    c = _joined(frames)
    usable, counts = usable_rows(c, config)
    moving = moving_objects(catalog, tables.exposures.mjd, config)
    group, isolated, known = _objects(c, usable, config, moving, exposure, tables.exposures.mjd)
    counts["not isolated"] = int(np.count_nonzero(usable & (group >= 0) & ~isolated))
    keep = np.flatnonzero(usable & (group >= 0) & isolated)
    band = np.asarray(tables.exposures.filter)[exposure[c["frame"][keep]]]
    bands = tables.exposures.filter_count
    label = group[keep] * bands + band
    unique, star, seen = np.unique(label, return_inverse=True, return_counts=True)
    enough = seen >= config.min_detections
    counts["star seen too few times"] = int(seen[~enough].sum())
    if not enough.any():
        raise CalibrationError(
            f"No star is seen {config.min_detections} times or more among {c['frame'].size} "
            f"sources; left out: {said_counts(counts)}. Check solve.match_radius, min_snr and "
            "min_detections."
        )
    number = np.cumsum(enough) - 1
    on = enough[star]
    keep, star = keep[on], number[star[on]]
    stars, objects, colors = _stars(
        unique[enough], bands, c, keep, star, tables, config, catalog, reference,
        known[unique[enough] // bands],
    )  # fmt: skip
    order = np.lexsort((detector[c["frame"][keep]], exposure[c["frame"][keep]], star))
    keep, star = keep[order], star[order]
    e, d = exposure[c["frame"][keep]], detector[c["frame"][keep]]
    flux = c["flux"][keep]
    obs = Observations.from_fluxes(
        tables, stars, star=star, exposure=e, detector=d, x=c["x"][keep], y=c["y"][keep],
        flux=flux, flux_err=c["flux_err"][keep], flags=ambiguous(star, e, d, flux),
    )  # fmt: skip
    return Assembled(
        tuple(frames), obs, exposure, detector, tuple(names), tuple(detectors),
        c["frame"][keep], c["row"][keep], objects, {k: v for k, v in counts.items() if v}, colors,
    )  # fmt: skip


def _joined(frames: Sequence[SourceFrame]) -> dict[str, np.ndarray]:
    names = ("ra", "dec", "x", "y", "flux", "flux_err", "bad")
    out = {n: np.concatenate([getattr(f, n) for f in frames]) for n in names}
    sizes = [len(f) for f in frames]
    out["frame"] = np.repeat(np.arange(len(frames)), sizes)
    out["row"] = np.concatenate([np.arange(n) for n in sizes])
    return out


def usable_rows(c: dict[str, np.ndarray], config: SolveConfig) -> tuple[np.ndarray, dict[str, int]]:
    """Return which sources may take part, and the others by their first reason."""
    with np.errstate(invalid="ignore", divide="ignore"):
        finite = np.isfinite(c["flux"]) & np.isfinite(c["flux_err"]) & (c["flux_err"] > 0)
        placed = np.isfinite(c["ra"] + c["dec"] + c["x"] + c["y"])
        beyond = np.abs(c["dec"]) > 90.0
        weak = c["flux"] < config.min_snr * c["flux_err"]
    reasons = {
        "number missing or error not positive": ~finite,
        "position missing": ~placed,
        "declination beyond 90 degrees": beyond,
        "flagged by the measurement": c["bad"],
        f"signal-to-noise below {config.min_snr:g}": weak,
    }
    usable, counts = np.ones(finite.size, bool), {}
    for name, wrong in reasons.items():
        counts[name] = int(np.count_nonzero(usable & wrong))
        usable &= ~wrong
    return usable, counts


def _objects(
    c: dict[str, np.ndarray],
    usable: np.ndarray,
    config: SolveConfig,
    moving: Moving | None,
    exposure: np.ndarray,
    mjd: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Match sources on the sky.

    Returns the object of each usable source (-1: none), whether it stands alone, and the row in the
    catalogue of each object that was found by its proper motion (-1: others).
    """
    from pogson.survey.association import associate

    group = np.full(usable.size, -1, np.int64)
    isolated = np.zeros(usable.size, bool)
    rows = np.flatnonzero(usable)
    if not rows.size:
        return group, isolated, group
    options: dict[str, Any] = {}
    if moving is not None:
        options = {"seeds": moving.seeds, "epoch": years(mjd)[exposure[c["frame"][rows]]]}
    found = associate(
        c["ra"][rows], c["dec"][rows], exposure=c["frame"][rows], radius=config.match_radius,
        isolation=config.isolation, **options,
    )  # fmt: skip
    group[rows] = found.star
    isolated[rows] = (found.star >= 0) & found.isolated[found.star]
    known = np.full(found.seed.size, -1) if moving is None else moving.rows(found.seed)
    return group, isolated, known


def ambiguous(star: np.ndarray, e: np.ndarray, d: np.ndarray, flux: np.ndarray) -> np.ndarray:
    """Flag detections that share their star, exposure and detector with a different one."""
    from pogson.survey import RowFlag

    bits = np.zeros(star.size, np.uint8)
    same = (np.diff(star) == 0) & (np.diff(e) == 0) & (np.diff(d) == 0)
    other = same & (np.diff(flux) != 0)
    bits[:-1][other] |= RowFlag.DUPLICATE.value
    bits[1:][other] |= RowFlag.DUPLICATE.value
    return bits


def star_places(
    ra: np.ndarray, dec: np.ndarray, star: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean place of each of n stars from those of its detections, degrees."""
    count = np.maximum(np.bincount(star, minlength=n), 1)
    ra0 = ra[np.unique(star, return_index=True)[1]]  # no seam within a star
    turn = (ra - ra0[star] + 180.0) % 360.0 - 180.0
    mean = (ra0 + np.bincount(star, turn, n) / count) % 360.0
    return mean, np.bincount(star, dec, n) / count


def _stars(
    label: np.ndarray,
    bands: int,
    c: dict[str, np.ndarray],
    keep: np.ndarray,
    star: np.ndarray,
    tables: SurveyTables,
    config: SolveConfig,
    catalog: ReferenceCatalog | None,
    reference: ReferenceConfig | None,
    known: np.ndarray,
) -> tuple[Any, np.ndarray, np.ndarray | None]:
    """Return the table of stars, with colours and references, their objects, and all colours."""
    from pogson.survey import Stars

    objects, band = np.unique(label // bands, return_inverse=True)[1], label % bands
    ra, dec = star_places(c["ra"][keep], c["dec"][keep], star, label.size)
    columns: dict[str, Any] = {"filter": band, "ra": ra, "dec": dec}
    if catalog is not None and reference is not None:
        mjd = np.asarray(tables.exposures.mjd)
        columns |= star_references(ra, dec, band, mjd, tables, config, catalog, reference, known)
    colors = columns.pop("colors", None)
    return Stars(np.arange(1, label.size + 1), **columns), objects, colors


def star_references(
    ra: np.ndarray,
    dec: np.ndarray,
    band: np.ndarray,
    mjd: np.ndarray,
    tables: SurveyTables,
    config: SolveConfig,
    catalog: ReferenceCatalog,
    reference: ReferenceConfig,
    known: np.ndarray,
) -> dict[str, np.ndarray]:
    """Return colour, reference magnitude and error of each star; NaN where there is none.

    ``known`` holds the row in the catalogue of stars that were found by their proper motion.
    """
    from pogson.calib.matching import match_catalogs
    from pogson.run.zeroing import reference_magnitudes
    from pogson.units import flux_to_magnitude

    if np.any(mjd > 0):
        catalog = catalog.at_epoch(mjd=float(np.median(mjd[mjd > 0])))
    good = np.asarray(catalog.usable())
    known = np.where((known >= 0) & good[np.maximum(known, 0)], known, -1)
    their_ra = np.where(good, np.asarray(catalog.table["ra"], float), np.nan)
    their_dec = np.asarray(catalog.table["dec"], float)
    out = {n: np.full(ra.size, np.nan) for n in ("color", "reference_mag", "reference_err")}
    pairs = color_pairs(config.terms)
    if pairs:
        out["colors"] = np.full((ra.size, len(pairs)), np.nan)
    for b in np.unique(band):
        rows = np.flatnonzero(band == b)
        match = match_catalogs(ra[rows], dec[rows], their_ra, their_dec, reference.match_radius)
        ours, theirs, clear = with_known(match, known[rows], known)
        name = tables.exposures.filter_name(int(b))
        flux, err, color = reference_magnitudes(catalog, reference, name)[:3]
        with np.errstate(divide="ignore", invalid="ignore"):
            mag = flux_to_magnitude(np.where(flux > 0, flux, np.nan))
            mag_err = _POGSON * np.where(np.isfinite(err), err, 0.0) / flux
        use = clear
        limits = config.magnitude_range or reference.magnitude_range
        if limits is not None:
            with np.errstate(invalid="ignore"):
                use &= (mag[theirs] >= min(limits)) & (mag[theirs] <= max(limits))
        if reference.color_range is not None and reference.transformation is None:
            low, high = reference.color_range
            use &= (color[theirs] >= low) & (color[theirs] <= high)
        at, theirs_used = rows[ours[use]], theirs[use]
        out["reference_mag"][at] = mag[theirs_used]
        out["reference_err"][at] = np.maximum(mag_err[theirs_used], 1e-6)
        if reference.transformation is not None and reference.color is not None:
            color = catalog.color(*reference.color)[0]
        if reference.transformation is None or reference.color is not None:
            out["color"][rows[ours]] = color[theirs]
        for k, pair in enumerate(pairs):
            out["colors"][rows[ours], k] = catalog.color(*pair)[0][theirs]
    if not config.references:
        out["reference_mag"][:] = np.nan
    if pairs and not np.isfinite(out["color"]).any():
        out["color"] = out["colors"][:, 0].copy()
    return out


def said_counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{v} {k}" for k, v in counts.items() if v) or "none"
