"""All diagnostics of a solution together, as arrays that can be written and read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import numpy as np

from pogson.errors import CalibrationError, FileFormatError, MissingDataError
from pogson.fields import Box
from pogson.streams import stream
from pogson.survey.diagnostics import (
    BinnedResiduals,
    HeldOutExposures,
    LooseCombination,
    NightlyValues,
    Repeatability,
    StructureFunction,
    SuperpixelMap,
    detector_offsets,
    hold_out_exposures,
    loosest_combinations,
    nightly_extinction,
    nightly_values,
    repeatability,
    residuals_versus,
    structure_function,
    superpixel_map,
)
from pogson.survey.likelihood import SolveSettings, _residuals
from pogson.survey.normal import prepare
from pogson.survey.observations import Detectors, Observations, RowFlag
from pogson.survey.solution import Solution, StarResults
from pogson.survey.terms_grey import GreyCloud
from pogson.survey.terms_position import ExposurePolynomial

__all__ = ["SurveyDiagnostics", "diagnose", "solution_at"]

_TRENDS = ("airmass", "color", "mjd", "magnitude", "seeing", "radius")
_LIMIT = 5.0  # standard deviations beyond which detections seen afterwards are outliers
_KIND = TypeVar("_KIND")


@dataclass(frozen=True, eq=False)
class SurveyDiagnostics:
    """What a solution is worth, by band.

    Parameters
    ----------
    detectors : Detectors
        The focal plane that maps are drawn on.
    repeatability, superpixels, trends : mapping
        By band; see `pogson.survey.diagnostics`.
    structure : mapping of str to StructureFunction
        By band, of all pairs and (``"g same exposure"``) of those of one exposure.
    nightly : tuple of NightlyValues
        Parameters by night, and the extinction that zero points imply.
    loose : tuple of LooseCombination
        What the data know worst.
    held_out : HeldOutExposures, optional
        Exposures predicted by a solution without them.

    Examples
    --------
    >>> SurveyDiagnostics(Detectors([1])).bands
    ()
    """

    detectors: Detectors
    repeatability: Mapping[str, Repeatability] = field(default_factory=dict)
    superpixels: Mapping[str, SuperpixelMap] = field(default_factory=dict)
    trends: Mapping[str, tuple[BinnedResiduals, ...]] = field(default_factory=dict)
    structure: Mapping[str, StructureFunction] = field(default_factory=dict)
    nightly: tuple[NightlyValues, ...] = ()
    loose: tuple[LooseCombination, ...] = ()
    held_out: HeldOutExposures | None = None

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands that have repeated measurements."""
        return tuple(self.repeatability)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values (NaN becomes None)."""
        d = self.detectors
        boxes = [[b.x_min, b.y_min, b.nx, b.ny] for b in d.boxes]
        return {
            "detectors": {"identifier": d.identifier.tolist(), "boxes": boxes,
                          "transform": d.transform.tolist()},
            "repeatability": {k: _packed(v) for k, v in self.repeatability.items()},
            "superpixels": {k: _packed(v) for k, v in self.superpixels.items()},
            "trends": {k: [_packed(b) for b in v] for k, v in self.trends.items()},
            "structure": {k: _packed(v) for k, v in self.structure.items()},
            "nightly": [_packed(v) for v in self.nightly],
            "loose": [_packed(v) for v in self.loose],
            "held_out": None if self.held_out is None else _packed(self.held_out),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SurveyDiagnostics:
        """Make it from what `to_dict` returned.

        Raises
        ------
        FileFormatError
            If something is missing or of another kind.
        """
        try:
            d = data["detectors"]
            boxes = tuple(Box(*(int(v) for v in b)) for b in d["boxes"])
            held = data["held_out"]
            return cls(
                Detectors(np.array(d["identifier"]), boxes, np.array(d["transform"], np.float64)),
                {k: _unpacked(Repeatability, v) for k, v in data["repeatability"].items()},
                {k: _unpacked(SuperpixelMap, v) for k, v in data["superpixels"].items()},
                {k: tuple(_unpacked(BinnedResiduals, b) for b in v)
                 for k, v in data["trends"].items()},
                {k: _unpacked(StructureFunction, v) for k, v in data["structure"].items()},
                tuple(_unpacked(NightlyValues, v) for v in data["nightly"]),
                tuple(_unpacked(LooseCombination, v) for v in data["loose"]),
                None if held is None else _unpacked(HeldOutExposures, held),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FileFormatError(f"These are not diagnostics of a survey: {error!r}.") from error


def _packed(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass of arrays, numbers and texts as JSON values."""
    return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _unpacked(kind: type[_KIND], data: Mapping[str, Any]) -> _KIND:
    out: dict[str, Any] = {}
    for f in fields(kind):  # type: ignore[arg-type]
        value = data[f.name]
        if value is None:
            value = np.nan
        elif isinstance(value, list):
            text = any(isinstance(v, str) for v in value)
            value = tuple(value) if text else _array(value)
        out[f.name] = value
    return kind(**out)


def _array(value: list[Any]) -> np.ndarray:
    found = np.array(value, dtype=object)
    whole = found.size > 0 and all(isinstance(v, int) for v in found.ravel())
    return found.astype(np.int64 if whole else np.float64)


def solution_at(solution: Solution, observations: Observations) -> Solution:
    """Return a solution with residuals and stars of some detections.

    Parameters
    ----------
    solution : Solution
        For example of partitions, which keeps no detections.
    observations : Observations
        Detections with their stars; whole stars, or the magnitudes are of a part of them.

    Returns
    -------
    Solution
        The same parameters and covariance; detections beyond 5 sigma are flagged as rejected.

    Examples
    --------
    >>> from pogson.survey import Exposures, ExposureZeroPoint, Stars, SurveyTables, calibrate
    >>> obs = Observations.from_columns(SurveyTables(Exposures([1, 2]), Detectors([0])),
    ...     Stars([7], reference_mag=[18.0], reference_err=[0.01]), star=[0, 0], exposure=[0, 1],
    ...     detector=0, x=0, y=0, mag=[-7.0, -7.1], mag_err=0.01)
    >>> solution = calibrate(obs, [ExposureZeroPoint()])
    >>> solution_at(solution, obs).stars.mag.round(6)
    array([18.])
    """
    o = observations
    for _ in range(6):
        p = prepare(solution.model, o, solution.parameters, solution.weighting)
        res = _residuals(p, None, 1)
        bad = _outliers(p, res, o.star)
        if not bad.size:
            break
        flags = np.array(o.flags)
        flags[bad] |= RowFlag.REJECTED.value
        o = o.with_flags(flags)
    n = len(o.stars)
    mag, err, chi2, reference = (np.full(n, np.nan) for _ in range(4))
    part = slice(p.star0, p.star0 + p.ref_weight.size)
    on = p.weight > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        mag[part] = p.center + res.star_mean
        err[part] = np.where(res.star_weight > 0, res.star_weight**-0.5, np.nan)
    counts = np.bincount(o.star[on], minlength=n)
    chi2 = np.bincount(o.star[on], p.weight[on] * res.deviation[on] ** 2, n)
    reference[part] = res.reference
    return replace(
        solution, observations=o, stars=StarResults(mag, err, counts, chi2, reference),
        residual=res.deviation, weight=p.weight, rejected_references=np.zeros(n, bool),
    )  # fmt: skip


def _outliers(p: Any, res: Any, star: np.ndarray) -> np.ndarray:
    """Rows beyond the limit, the worst of each star: it moves the star, and so the others."""
    with np.errstate(invalid="ignore"):
        z = np.abs(res.deviation) * np.sqrt(p.weight / np.maximum(1.0 - res.leverage, 1e-6))
    rows = np.flatnonzero((p.weight > 0) & (z > _LIMIT) & (res.leverage < 0.999))
    rows = rows[np.argsort(-z[rows], kind="stable")]
    return np.asarray(rows[np.unique(star[rows], return_index=True)[1]])


def diagnose(
    solution: Solution, *, cells: tuple[int, int] = (8, 4), held_out: int = 0, loose: int = 5
) -> SurveyDiagnostics:
    """Return all diagnostics of a solution.

    Parameters
    ----------
    solution : Solution
        With its detections; see `solution_at`.
    cells : tuple of int
        Cells of maps along y and x of a detector; fewer where there are few detections.
    held_out : int
        Exposures of each band to predict from a solution without them; it is solved again, with
        weights and rejections as they are.
    loose : int
        Number of combinations of parameters that are known worst.

    Returns
    -------
    SurveyDiagnostics
        Without what cannot be told, such as trends with a quantity that no detection has.

    Examples
    --------
    >>> from pogson.survey import (Exposures, ExposureZeroPoint, Stars, SurveyTables, calibrate)
    >>> rng, n = np.random.default_rng(2), 300
    >>> stars = Stars(np.arange(n), reference_mag=np.full(n, 18.0), reference_err=np.full(n, 0.02),
    ...     ra=rng.uniform(10, 11, n), dec=rng.uniform(0, 1, n))
    >>> tables = SurveyTables(Exposures([11, 12, 13], filter_names=("r",)), Detectors([0]))
    >>> obs = Observations.from_columns(tables, stars, star=np.repeat(np.arange(n), 3),
    ...     exposure=np.tile(np.arange(3), n), detector=0, x=1.0, y=2.0, mag_err=0.01,
    ...     mag=-7.0 + 0.01 * rng.normal(size=3 * n))
    >>> found = diagnose(calibrate(obs, [ExposureZeroPoint()]))
    >>> found.bands, [b.quantity for b in found.trends["r"]]
    (('r',), ['magnitude'])
    """
    x = solution.model.tables.exposures
    out: dict[str, dict[str, Any]] = {
        k: {} for k in ("repeatability", "superpixels", "trends", "structure")
    }
    for f in np.unique(x.filter):
        band = x.filter_name(int(f))
        try:
            out["repeatability"][band] = repeatability(solution, filter=int(f))
        except MissingDataError:
            continue
        out["superpixels"][band] = _map(solution, int(f), cells)
        out["trends"][band] = _trends(solution, int(f))
        out["structure"] |= _structures(solution, int(f), band)
    worst = [] if solution.covariance is None else loosest_combinations(solution, loose)
    nightly = (*nightly_values(solution)[:12], *nightly_extinction(solution))
    return SurveyDiagnostics(
        solution.model.tables.detectors, nightly=nightly, loose=tuple(worst),
        held_out=_held_out(solution, held_out), **out,
    )  # fmt: skip


def _map(solution: Solution, f: int, cells: tuple[int, int]) -> SuperpixelMap:
    """Superpixels of ten detections or more on average."""
    count = np.count_nonzero((solution.weight > 0) & (solution.observations.exposure_column(
        "filter") == f))  # fmt: skip
    ny, nx = cells
    per = count / max(len(solution.model.tables.detectors), 1)
    while ny * nx > 1 and per / (ny * nx) < 10:
        ny, nx = max(ny // 2, 1), max(nx // 2, 1)
    return superpixel_map(solution, shape=(ny, nx), filter=f)


def _trends(solution: Solution, f: int) -> tuple[BinnedResiduals, ...]:
    found = []
    for quantity in _TRENDS:
        try:
            one = residuals_versus(solution, quantity, bins=12, filter=f)
        except MissingDataError:
            continue
        if np.ptp(one.center) > 1e-9 * np.abs(one.center).max():
            found.append(one)
    return tuple(found)


def _structures(solution: Solution, f: int, band: str) -> dict[str, StructureFunction]:
    o = detector_offsets(solution, filter=f)
    use = np.isfinite(o.ra + o.dec)
    if np.count_nonzero(use) < 3:
        return {}
    ra, dec, offset, error = (v[use] for v in (o.ra, o.dec, o.offset, o.error))
    near = (ra - ra[0] + 180.0) % 360.0 - 180.0
    span = np.hypot(np.ptp(near) * np.cos(np.radians(dec.mean())), np.ptp(dec))
    if not span > 0:
        return {}
    edges = np.concatenate([[0.0], np.geomspace(span / 32.0, 1.001 * span, 11)])
    rng = stream(1, "structure", f)  # which points, where there are very many
    every = structure_function(ra, dec, offset, error, edges, rng=rng)
    same = structure_function(
        ra, dec, offset, error, edges, rng=rng, group=o.exposure[use], limit=8000
    )
    found = {band: every, f"{band} same exposure": same}
    return {k: s for k, s in found.items() if np.any(s.pairs > 2)}


def _held_out(solution: Solution, each: int) -> HeldOutExposures | None:
    """Some exposures of each band, well tied ones; None where terms of single exposures forbid."""
    model, x = solution.model, solution.model.tables.exposures
    several = any(
        isinstance(t, ExposurePolynomial) or (isinstance(t, GreyCloud) and t.per != "exposure")
        for t in model.terms
    )
    if each < 1 or several or not model.linear:
        return None
    rows: list[int] = []
    for f in np.unique(x.filter):
        here = np.flatnonzero((x.filter == f) & x.photometric & (solution.connections.shared > 20))
        if here.size > 3 * each:
            rows += [
                int(v) for v in here[np.linspace(0, here.size - 1, each + 2).astype(int)[1:-1]]
            ]
    if not rows:
        return None
    settings = SolveSettings(
        floor=solution.weighting.floor, reference_floor=solution.weighting.reference_floor,
        use_references=solution.weighting.use_references, huber=solution.weighting.huber,
        space=solution.weighting.space, gauge="anchor", covariance=False,
    )  # fmt: skip
    try:
        return hold_out_exposures(
            solution.observations, model, [int(x.identifier[r]) for r in rows], settings
        )[1]
    except CalibrationError:
        return None
