"""The audit: is flux in flux out, are the errors right, how deep and how pure is the catalogue."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import ConfigError, MaskedDataError, ReferenceMismatchError, choices
from pogson.inject.audit_statistics import (
    CompletenessFit,
    binned_bias,
    binomial_interval,
    completeness_curve,
    confusion_matrix,
    fit_completeness,
    magnitude_difference,
    pull_statistics,
    robust_center,
)
from pogson.inject.matching import column_reference

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["Audit", "AuditLimits", "AuditSettings", "audit_sources", "classify_rows"]

_LEAST_FOR_CHECK = 10


@dataclass(frozen=True)
class AuditLimits:
    """Limits of the verdict, as in ``[audit.limits]``; None: no limit.

    Parameters
    ----------
    max_bias_mmag : float, optional
        Largest absolute median of magnitude out less in of the isolated bright sources, mmag.
    max_pull_mean : float, optional
        Largest absolute mean pull.
    min_pull_rms, max_pull_rms : float, optional
        Range of the rms pull.
    min_depth_50, min_depth_90 : float, optional
        Magnitudes to which half or nine tenths of the sources must be found.
    min_bright_completeness : float, optional
        Least completeness of the brightest quarter of the sources.
    min_purity : float, optional
        Least fraction of detections that are an injected or a real source.
    max_background_residual : float, optional
        Largest absolute median of the flux before injection over its error, isolated positions.
    max_star_contamination : float, optional
        Largest fraction of galaxies called stars.
    significance : float, optional
        A measured value breaks a limit only if it lies this many of its own standard errors
        beyond it.

    Examples
    --------
    >>> AuditLimits.from_dict({"max_bias_mmag": 2}).max_bias_mmag
    2.0
    """

    max_bias_mmag: float | None = None
    max_pull_mean: float | None = None
    min_pull_rms: float | None = None
    max_pull_rms: float | None = None
    min_depth_50: float | None = None
    min_depth_90: float | None = None
    min_bright_completeness: float | None = None
    min_purity: float | None = None
    max_background_residual: float | None = None
    max_star_contamination: float | None = None
    significance: float = 2.0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AuditLimits:
        """Read limits from a configuration.

        Raises
        ------
        ConfigError
            If a name is unknown or a value is not a number.
        """
        names = [f.name for f in fields(cls)]
        unknown = sorted(set(values) - set(names))
        if unknown:
            raise ConfigError(f"[audit.limits] has no {choices(unknown)}; it has {choices(names)}.")
        out = {}
        for name, value in values.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ConfigError(f"[audit.limits] {name} is {value!r}; it must be a number.")
            if not math.isfinite(value):
                raise ConfigError(f"[audit.limits] {name} is {value!r}; it must be finite.")
            out[name] = float(value)
        return cls(**out)


@dataclass(frozen=True)
class AuditSettings:
    """What the audit looks at.

    Parameters
    ----------
    bin_width : float
        Width of the magnitude bins.
    min_snr, max_snr : float
        Injected flux over error of the sources whose pulls are taken.
    bright_snr : float
        The same for the overall bias: fainter sources add noise, not knowledge.
    isolation : float or None
        Least distance from a real source, in the unit of ``neighbour_distance``, of isolated
        sources; None: the match radius times 3.
    position_bins : int
        Bins along x and along y.
    max_neighbour_light : float or None
        Isolated sources have at most this much light of real sources in their aperture, in errors
        of the flux, where the recovery tables say how much there is (``neighbour_light``): a bright
        star reaches farther than a faint one. None: no limit.

    Examples
    --------
    >>> AuditSettings().min_snr
    5.0
    """

    bin_width: float = 0.5
    min_snr: float = 5.0
    max_snr: float = float("inf")
    bright_snr: float = 20.0
    isolation: float | None = None
    position_bins: int = 4
    max_neighbour_light: float | None = 0.1


@dataclass(frozen=True, eq=False, repr=False)
class Audit:
    """Result of `audit_sources`.

    Parameters
    ----------
    values : dict
        ``counts``, ``completeness``, ``bias``, ``pulls``, ``background``, ``neighbours``,
        ``purity``, ``classes`` (where sources are classed); JSON-ready.
    checks : tuple of dict
        For each limit set: ``name``, ``value``, ``error``, ``limit``, ``passed``.
    completeness_fit : CompletenessFit or None
        The completeness curve.
    """

    values: dict[str, Any]
    checks: tuple[dict[str, Any], ...]
    completeness_fit: CompletenessFit | None = None

    @property
    def passed(self) -> bool:
        """Whether no limit is broken."""
        return all(c["passed"] for c in self.checks)

    @property
    def exit_code(self) -> int:
        """0 if no limit is broken, otherwise 1."""
        return 0 if self.passed else 1

    def verdict(self) -> dict[str, Any]:
        """Return the machine-readable verdict: ``passed``, ``exit_code``, ``checks``."""
        return {
            "passed": self.passed,
            "exit_code": self.exit_code,
            "checks": [dict(c) for c in self.checks],
        }

    def to_dict(self) -> dict[str, Any]:
        """Return everything, JSON-ready: numbers that are not finite are None."""
        return {"schema": "pogson/audit", "version": 1, **_clean(self.values),
                "verdict": _clean(self.verdict())}  # fmt: skip

    def lines(self) -> list[str]:
        """Return the result in words, a line for each part."""
        v = self.values
        out = [
            f"{v['counts']['used']} sources injected and compared in "
            f"'{v['reference']}' ({v['counts']['ambiguous']} ambiguous, "
            f"{v['counts']['not_drawn']} not drawn)"
        ]
        c = v["completeness"]
        out.extend(
            f"{p} % complete to {c[f'depth_{p}']:.3f} +- {c[f'depth_{p}_err']:.3f} mag"
            if math.isfinite(c[f"depth_{p}"])
            else f"the {p} % depth is not within the injected magnitudes"
            for p in (50, 90)
        )
        b, p = v["bias"]["overall"], v["pulls"]
        out.append(
            f"bias {b['median_mmag']:+.2f} +- {b['median_err_mmag']:.2f} mmag, scatter "
            f"{b['scatter_mmag']:.1f} mmag, {b['n']} isolated bright sources"
        )
        out.append(
            f"pulls: mean {p['mean']:+.3f} +- {p['mean_err']:.3f}, rms {p['rms']:.3f} +- "
            f"{p['rms_err']:.3f}, robust width {p['robust_width']:.3f}, {p['n']} sources"
        )
        out.extend(
            f"{check['name']}: {check['value']:.4g} against {check['limit']:.4g}: "
            + ("passed" if check["passed"] else "BROKEN")
            for check in self.checks
        )
        return out

    def __repr__(self) -> str:
        return "<Audit: " + "; ".join(self.lines()) + ">"


def audit_sources(
    recovered: Table | Iterable[Table],
    *,
    limits: AuditLimits | None = None,
    settings: AuditSettings | None = None,
) -> Audit:
    """Summarise recovered sources and hold them against limits.

    Parameters
    ----------
    recovered : astropy.table.Table or iterable of these
        Recovery tables of one or many images; see `pogson.inject.recovery`.
    limits : AuditLimits, optional
        Limits of the verdict; none by default.
    settings : AuditSettings, optional
        What to look at.

    Returns
    -------
    Audit

    Raises
    ------
    ReferenceMismatchError
        If the tables have fluxes of different references.
    MaskedDataError
        If no source was drawn.

    Notes
    -----
    Ambiguous sources are in no curve and counted. Completeness is of all others; bias and pulls
    are of isolated sources; what neighbours and the background add is taken from the measurement
    made before the injection, where there is one, and reported by itself. Bias by magnitude is
    of all sources, by crowding too.

    Examples
    --------
    >>> from astropy.table import Table
    >>> rng = np.random.default_rng(5)
    >>> flux = np.full(400, 1000.0)
    >>> table = Table({"magnitude": 31.4 - 2.5 * np.log10(flux), "flux_in": flux,
    ...                "flux_out": flux + rng.normal(0, 20.0, 400)})
    >>> for name, value in [("flux_out_err", 20.0), ("drawn", True), ("detected", True),
    ...                     ("ambiguous", False), ("neighbour_distance", np.inf), ("flags", 0)]:
    ...     table[name] = value
    >>> table["flux_in"].info.meta = {"reference": {"kind": "psf"}}
    >>> result = audit_sources(table, limits=AuditLimits(max_pull_mean=0.2, max_bias_mmag=5))
    >>> result.passed, 0.9 < result.values["pulls"]["rms"] < 1.1
    (True, True)
    """
    settings = settings or AuditSettings()
    rows = _Rows.collect(recovered, settings)
    fit = fit_completeness(rows["magnitude"][rows.used], rows["detected"][rows.used])
    values: dict[str, Any] = {
        "reference": rows.reference,
        "counts": rows.counts(),
        "settings": asdict(settings),
        "completeness": _completeness(rows, settings, fit),
        "bias": _bias(rows, settings),
        "pulls": pull_statistics(rows.pulls[rows.for_pulls]),
        **_before(rows),
        "purity": _purity(rows),
    }
    if rows.called_star is not None:
        known = rows.used & (rows["detected"] != 0)
        values["classes"] = confusion_matrix(rows["is_star"][known], rows.called_star[known])
    checks = _checks(values, limits or AuditLimits())
    return Audit(values, tuple(checks), fit)


def classify_rows(
    recovered: Table | Iterable[Table], settings: AuditSettings | None = None
) -> dict[str, np.ndarray]:
    """Return, for each recovered source, what the audit uses it for.

    Parameters
    ----------
    recovered : astropy.table.Table or iterable of these
        Recovery tables.
    settings : AuditSettings, optional
        What to look at.

    Returns
    -------
    dict of numpy.ndarray
        Boolean ``used`` (completeness), ``measured``, ``isolated``, ``bright`` (overall bias) and
        ``for_pulls``; ``pull``, ``snr`` and ``difference`` (mmag, out less in).

    Examples
    --------
    >>> from astropy.table import Table
    >>> table = Table({"magnitude": [22.65], "flux_in": [3162.0], "flux_out": [3200.0]})
    >>> for name, value in [("flux_out_err", 20.0), ("drawn", True), ("detected", True),
    ...                     ("ambiguous", False), ("neighbour_distance", np.inf), ("flags", 0)]:
    ...     table[name] = value
    >>> table["flux_in"].info.meta = {"reference": {"kind": "psf"}}
    >>> rows = classify_rows(table)
    >>> rows["bright"], rows["pull"]
    (array([ True]), array([1.9]))
    """
    rows = _Rows.collect(recovered, settings or AuditSettings())
    return {
        "used": rows.used, "measured": rows.measured, "isolated": rows.isolated,
        "bright": rows.bright, "for_pulls": rows.for_pulls, "pull": rows.pulls,
        "snr": rows.snr, "difference": rows.difference,
    }  # fmt: skip


class _Rows:
    """The columns of all tables, and which rows count for what."""

    names = (
        "magnitude", "flux_in", "flux_out", "flux_out_err", "flux_before", "drawn", "detected",
        "ambiguous", "neighbour_distance", "neighbour_light", "x", "y", "flags", "is_star",
    )  # fmt: skip

    def __init__(
        self,
        columns: dict[str, np.ndarray],
        reference: str,
        called_star: np.ndarray | None,
        detections: tuple[int, int],
        isolation: float,
        settings: AuditSettings,
    ) -> None:
        self.columns, self.reference, self.called_star = columns, reference, called_star
        self.n_detections, self.n_spurious = detections
        self.isolation = isolation
        finite = np.isfinite(self["magnitude"]) & np.isfinite(self["flux_in"])
        self.drawn = self["drawn"] != 0
        self.used = self.drawn & finite & (self["ambiguous"] == 0)
        if not self.drawn.any():
            raise MaskedDataError(
                f"None of {self.drawn.size} sources was drawn, so there is nothing to audit; see "
                "the flags of the truth table."
            )
        flux, out, err = self["flux_in"], self["flux_out"], self["flux_out_err"]
        with np.errstate(divide="ignore", invalid="ignore"):
            self.pulls = (out - flux) / err
            self.snr = flux / err
        self.difference = 1e3 * magnitude_difference(out, flux)
        from pogson.images import SourceFlag

        spoiled = int(
            SourceFlag.EDGE | SourceFlag.BAD_PIXEL | SourceFlag.SATURATED | SourceFlag.NO_DATA
            | SourceFlag.ALL_MASKED | SourceFlag.BAD_POSITION | SourceFlag.OUTSIDE
            | SourceFlag.NO_PSF | SourceFlag.POOR_FIT | SourceFlag.PSF_TRUNCATED
        )  # fmt: skip
        good = self.used & np.isfinite(self.pulls) & (err > 0)
        self.measured = good & ((self["flags"].astype(np.int64) & spoiled) == 0)
        self.isolated = self.measured & (self["neighbour_distance"] >= isolation)
        if settings.max_neighbour_light is not None:
            light = np.nan_to_num(self["neighbour_light"]) / np.where(err > 0, err, np.nan)
            self.isolated &= ~(light > settings.max_neighbour_light)
        in_range = (self.snr >= settings.min_snr) & (self.snr <= settings.max_snr)
        self.for_pulls = self.isolated & in_range
        self.bright = self.isolated & (self.snr >= settings.bright_snr)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    @classmethod
    def collect(cls, recovered: Table | Iterable[Table], settings: AuditSettings) -> _Rows:
        """Join the tables, making sure that they speak of the same flux."""
        tables: list[Any] = [recovered] if hasattr(recovered, "colnames") else list(recovered)
        if not tables:
            raise MaskedDataError("There are no recovered sources to audit.")
        references = [column_reference(t, "flux_in") for t in tables]
        for other in references[1:]:
            if not references[0].matches(other):
                raise ReferenceMismatchError(
                    "The recovered sources have fluxes of different references: "
                    f"'{references[0].label}' and '{other.label}'; audit them one by one."
                )
        columns = {}
        for name in cls.names:
            default = 1.0 if name == "is_star" else np.nan
            parts = [
                np.asarray(t[name], np.float64) if name in t.colnames
                else np.full(len(t), default)
                for t in tables
            ]  # fmt: skip
            columns[name] = np.concatenate(parts)
        classed = all("called_star" in t.colnames for t in tables)
        called = np.concatenate([np.asarray(t["called_star"], bool) for t in tables])\
            if classed else None  # fmt: skip
        total = sum(int(t.meta.get("n_detections", 0)) for t in tables)
        spurious = sum(int(t.meta.get("n_spurious", 0)) for t in tables)
        isolation = settings.isolation
        if isolation is None:
            isolation = 3.0 * max(float(t.meta.get("match_radius", 0.0)) for t in tables)
        return cls(
            columns, references[0].label, called, (total, spurious), float(isolation), settings
        )

    def counts(self) -> dict[str, int]:
        """Return how many sources are used for what."""
        return {
            "rows": int(self.drawn.size),
            "drawn": int(self.drawn.sum()),
            "not_drawn": int((~self.drawn).sum()),
            "ambiguous": int((self.drawn & (self["ambiguous"] != 0)).sum()),
            "used": int(self.used.sum()),
            "detected": int((self.used & (self["detected"] != 0)).sum()),
            "measured": int(self.measured.sum()),
            "isolated": int(self.isolated.sum()),
            "bright": int(self.bright.sum()),
        }


def _edges(values: np.ndarray, width: float) -> np.ndarray:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return np.array([0.0, width])
    low = math.floor(float(finite.min()) / width)
    high = max(math.ceil(float(finite.max()) / width), low + 1)
    return width * np.arange(low, high + 1)


def _completeness(
    rows: _Rows, settings: AuditSettings, fit: CompletenessFit | None
) -> dict[str, Any]:
    magnitude, found = rows["magnitude"][rows.used], rows["detected"][rows.used] != 0
    curve = completeness_curve(magnitude, found, _edges(magnitude, settings.bin_width))
    out: dict[str, Any] = {"bins": _lists(curve)}
    for percent in (50, 90):
        value, error = (math.nan, math.nan) if fit is None else fit.depth(percent / 100)
        out[f"depth_{percent}"], out[f"depth_{percent}_err"] = value, error
    bright = np.zeros(0, bool)
    if magnitude.size:
        bright = found[magnitude <= np.quantile(magnitude, 0.25)]
    low, high = binomial_interval(bright.sum(), bright.size)
    out["bright"] = float(bright.mean()) if bright.size else math.nan
    out["bright_low"], out["bright_high"], out["bright_n"] = float(low), float(high), bright.size
    if fit is not None:
        out["fit"] = {
            "amplitude": fit.amplitude, "midpoint": fit.midpoint, "width": fit.width,
            "covariance": fit.covariance.tolist(), "n": fit.n,
        }  # fmt: skip
    return out


def _bias(rows: _Rows, settings: AuditSettings) -> dict[str, Any]:
    d = rows.difference
    used, isolated, bright = rows.measured, rows.isolated, rows.bright
    median, error, scatter = robust_center(d[bright & np.isfinite(d)])
    out: dict[str, Any] = {
        "overall": {
            "n": int(bright.sum()), "median_mmag": median, "median_err_mmag": error,
            "scatter_mmag": scatter,
        },
        "isolation": rows.isolation,
    }  # fmt: skip
    magnitude = rows["magnitude"]
    edges = _edges(magnitude[used], settings.bin_width)
    out["by_magnitude"] = _lists(binned_bias(magnitude[isolated], d[isolated], edges))
    for axis in ("x", "y"):
        values = rows[axis][bright]
        if values.size:
            low, high = float(values.min()), float(values.max())
            bins = np.linspace(low, max(high, low + 1e-6), settings.position_bins + 1)
            out[f"by_{axis}"] = _lists(binned_bias(values, d[bright], bins))
    near = used & (rows.snr >= settings.bright_snr)
    distance = rows["neighbour_distance"]
    reach = max(rows.isolation, 1e-6)
    bins = np.array([0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0]) * reach
    out["by_crowding"] = _lists(binned_bias(distance[near], d[near], bins))
    return out


def _before(rows: _Rows) -> dict[str, Any]:
    """Return what the same apertures held before the injection, isolated and near neighbours."""
    flux, err = rows["flux_before"], rows["flux_out_err"]
    known = rows.measured & np.isfinite(flux)
    out: dict[str, Any] = {}
    groups = {
        "background": known & rows.isolated,
        "neighbours": known & ~rows.isolated,
    }
    background = math.nan
    for name, some in groups.items():
        median, error, scatter = robust_center(flux[some])
        relative, relative_err, _ = robust_center((flux / err)[some])
        if name == "background":
            background = median
        out[name] = {
            "n": int(some.sum()), "median_nJy": median, "median_err_nJy": error,
            "scatter_nJy": scatter, "median_in_errors": relative,
            "median_in_errors_err": relative_err,
        }  # fmt: skip
    with np.errstate(invalid="ignore"):
        mean = flux[groups["neighbours"]] - background
    out["neighbours"]["mean_excess_nJy"] = float(mean.mean()) if mean.size else math.nan
    out["pulls_without_before"] = pull_statistics(
        ((rows["flux_out"] - flux - rows["flux_in"]) / err)[rows.for_pulls & np.isfinite(flux)]
    )
    return out


def _purity(rows: _Rows) -> dict[str, Any]:
    n, spurious = rows.n_detections, rows.n_spurious
    low, high = binomial_interval(n - spurious, n)
    return {
        "detections": n, "spurious": spurious, "purity": (n - spurious) / n if n else math.nan,
        "purity_low": float(low), "purity_high": float(high),
    }  # fmt: skip


def _checks(values: dict[str, Any], limits: AuditLimits) -> list[dict[str, Any]]:
    bias, pulls = values["bias"]["overall"], values["pulls"]
    complete, purity = values["completeness"], values["purity"]
    before, classes = values["background"], values.get("classes", {})
    nan = math.nan
    # name, value, its error, which way the limit goes, number of sources behind it
    table = (
        ("max_bias_mmag", abs(bias["median_mmag"]), bias["median_err_mmag"], +1, bias["n"]),
        ("max_pull_mean", abs(pulls["mean"]), pulls["mean_err"], +1, pulls["n"]),
        ("min_pull_rms", pulls["rms"], pulls["rms_err"], -1, pulls["n"]),
        ("max_pull_rms", pulls["rms"], pulls["rms_err"], +1, pulls["n"]),
        ("min_depth_50", complete["depth_50"], complete["depth_50_err"], -1, None),
        ("min_depth_90", complete["depth_90"], complete["depth_90_err"], -1, None),
        ("min_bright_completeness", complete["bright"],
         complete["bright_high"] - complete["bright"], -1, complete["bright_n"]),
        ("min_purity", purity["purity"], purity["purity_high"] - purity["purity"], -1,
         purity["detections"]),
        ("max_background_residual", abs(before["median_in_errors"]),
         before["median_in_errors_err"], +1, before["n"]),
        ("max_star_contamination", classes.get("galaxy_contamination", nan),
         classes.get("galaxy_contamination", nan) - classes.get("galaxy_contamination_low", nan),
         +1, classes.get("galaxies", 0)),
    )  # fmt: skip
    out = []
    for name, value, error, sign, n in table:
        limit = getattr(limits, name)
        if limit is None:
            continue
        slack = limits.significance * (error if math.isfinite(error) else 0.0)
        # what could not be measured has not passed
        passed = math.isfinite(value) and sign * (value - limit) <= slack
        enough = n is None or n >= _LEAST_FOR_CHECK
        out.append(
            {
                "name": name, "value": float(value), "error": float(error), "limit": limit,
                "passed": bool(passed and enough), "n": n,
                "reason": _reason(value, passed, enough, n),
            }
        )  # fmt: skip
    return out


def _reason(value: float, passed: bool, enough: bool, n: int | None) -> str:
    if not math.isfinite(value):
        return "could not be measured"
    if not enough:
        return f"only {n} sources, at least {_LEAST_FOR_CHECK} are needed"
    return "within the limit" if passed else "beyond the limit by more than its error allows"


def _lists(arrays: dict[str, np.ndarray]) -> dict[str, list[Any]]:
    return {name: np.asarray(v).tolist() for name, v in arrays.items()}


def _clean(value: Any) -> Any:
    """Return JSON-ready values: no NaN or infinity."""
    if isinstance(value, Mapping):
        return {str(k): _clean(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(v) for v in value]
    if isinstance(value, (np.integer, np.bool_)):
        return value.item()
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value
