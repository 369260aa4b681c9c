"""Summary table, JSON and page of a job on stars, from its posteriors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson._version import __version__
from pogson.flags import describe_flags
from pogson.run.stages import Listener
from pogson.run.stars_config import StarsRunConfig
from pogson.run.stars_inputs import StarInputs

if TYPE_CHECKING:
    from pogson.report.stars_data import ClusterRecord, OffsetsRecord, StarRecord, StarsReportData
    from pogson.run.stars_fit import StarsRunResult
    from pogson.stars import StarPhotometry, StarPosteriors, StellarGrid

__all__ = ["finish_stars", "report_data", "residuals_of", "star_record"]

SCHEMA, SCHEMA_VERSION = "pogson/stars", 1
_SAMPLE = 5000  # stars whose residuals and draws are drawn
_DRAWS = 60
_LABELS = {"logt": "log Teff [K]", "logg": "log g", "feh": "[Fe/H]", "loga": "log age [yr]"}
_UNITS = {"distance_kpc": "kpc", "av": "mag"}
_WORDS = {
    "distance_kpc": "distance, posterior median", "av": "extinction A_V, posterior median",
    "rv": "R_V, posterior median", "ess": "effective sample size of the posterior",
    "log_evidence": "ln probability of the data under grid and priors",
    "best_chi2": "smallest chi-square met", "n_data": "bands and parallax used",
    "flags": "bits of pogson.stars.StarFlag",
}  # fmt: skip


def posterior_parts(path: Path) -> Iterator[StarPosteriors]:
    """Yield the posteriors of a file by row groups, so that a large one need not fit in memory."""
    import pyarrow.parquet as pq

    from pogson.stars.posteriors import DRAW_COLUMNS, STAR_COLUMNS, StarPosteriors

    file = pq.ParquetFile(path)
    header = json.loads(file.schema_arrow.metadata[b"pogson"])
    for k in range(file.num_row_groups):
        table = file.read_row_group(k)
        columns: dict[str, Any] = {"ids": table["id"].to_numpy()}
        for name, kind in STAR_COLUMNS.items():
            columns[name] = table[name].to_numpy().astype(kind)
        for name, kind in DRAW_COLUMNS.items():
            chunks = table[name].chunks
            values = [c.flatten().to_numpy(zero_copy_only=False) for c in chunks]
            shape = (table.num_rows, chunks[0].type.list_size)
            columns[name] = np.concatenate(values).astype(kind).reshape(shape)
        yield StarPosteriors(
            bands=tuple(header["bands"]), grid_digest=header["grid_digest"],
            provenance=header["provenance"], **columns,
        )  # fmt: skip


def finish_stars(
    config: StarsRunConfig,
    inputs: StarInputs,
    table: Path,
    n_computed: int,
    listener: Listener | None = None,
    *,
    name: str = "stars",
    offsets: OffsetsRecord | None = None,
    more: Mapping[str, Any] | None = None,
    said: Sequence[str] = (),
) -> StarsRunResult:
    """Write the summary table, the JSON file and the page.

    Parameters
    ----------
    config : StarsRunConfig
        The configuration.
    inputs : StarInputs
        The stars that were fitted.
    table : pathlib.Path
        Their posteriors.
    n_computed : int
        Tasks computed now.
    listener : Listener, optional
        Progress display.
    name : str, optional
        Stem of the JSON file and the page.
    offsets : OffsetsRecord, optional
        Offsets of the bands.
    more : mapping, optional
        Further entries of the JSON file.
    said : sequence of str, optional
        Sentences to begin with.
    """
    from pogson.atomic import atomic_write_text
    from pogson.formats import write_catalog
    from pogson.run.stars_fit import StarsRunResult
    from pogson.run.summary import json_ready

    root = config.output_folder
    if listener is not None:
        listener.begin("report", 1)
    summary, sample = _summary_and_sample(inputs, table)
    photometry = _ordered(inputs.photometry, summary["id"])
    write_catalog(root / "summary.parquet", _summary_table(summary, photometry))
    flags = _flag_counts(summary["flags"])
    cluster, words = _cluster(config, sample)
    lines = [*said, *_headlines(summary, flags), *words]
    content = {
        "schema": SCHEMA, "version": SCHEMA_VERSION, "pogson": __version__,
        "name": config.stars.name, "n_stars": len(photometry),
        "n_fitted": int(np.isfinite(summary["distance_kpc"]).sum()), "bands": photometry.bands,
        "flags": {n: k for n, k, _ in flags}, "missing": inputs.missing,
        "notes": list(inputs.notes), "headlines": lines,
        "cluster": _cluster_json(cluster), **(more or {}),
    }  # fmt: skip
    atomic_write_text(root / f"{name}.json", json.dumps(json_ready(content), indent=1))
    atomic_write_text(root / "config.json", config.model_dump_json(indent=1))
    report = None
    if config.report.enabled:
        from pogson.report.stars_page import write_stars_report

        data = report_data(config, inputs, summary, sample, lines, flags, cluster, offsets)
        report = write_stars_report(data, root / f"{name}.html")
    if listener is not None:
        listener.advance("report", None)
    return StarsRunResult(
        root, len(photometry), content["n_fitted"], n_computed, content, tuple(lines), table, report
    )


def _summary_and_sample(
    inputs: StarInputs, table: Path
) -> tuple[dict[str, np.ndarray], StarPosteriors]:
    """Return the summary of all stars and the posteriors of a sample of them."""
    from pogson.stars import StarPosteriors

    step = max(1, -(-len(inputs.photometry) // _SAMPLE))
    rows, parts, first = [], [], 0
    for part in posterior_parts(table):
        rows.append(part.summary())
        take = np.arange(first, first + len(part)) % step == 0
        if take.any():
            parts.append(part.select(take))
        first += len(part)
    summary = {k: np.concatenate([r[k] for r in rows]) for k in rows[0]}
    return summary, StarPosteriors.concatenate(parts)


def _ordered(photometry: StarPhotometry, ids: np.ndarray) -> StarPhotometry:
    """Return the photometry in the order of the posteriors (they may be ordered by pixel)."""
    if np.array_equal(photometry.ids, ids):
        return photometry
    place = {v: k for k, v in enumerate(photometry.ids.tolist())}
    return photometry.select(np.array([place[v] for v in ids.tolist()], np.intp))


def _summary_table(summary: Mapping[str, np.ndarray], photometry: StarPhotometry) -> Any:
    from astropy.table import Column, Table

    table = Table()
    ids = summary["id"]
    table["id"] = ids.astype(str) if ids.dtype.kind == "O" else ids  # texts come back as objects
    table["l"] = Column(photometry.l, unit="deg", description="Galactic longitude")
    table["b"] = Column(photometry.b, unit="deg", description="Galactic latitude")
    for name, values in summary.items():
        if name == "id":
            continue
        base = name.removesuffix("_16").removesuffix("_84")
        words = _WORDS[base]
        if name != base:
            words = words.replace("median", f"{name[-2:]} % quantile")
        table[name] = Column(values, unit=_UNITS.get(base), description=words)
    table.meta["pogson"] = __version__
    return table


def _flag_counts(flags: np.ndarray) -> tuple[tuple[str, int, str], ...]:
    from pogson.stars import STAR_FLAG_DOCS

    counts = [(str(f.name), int(((flags & f) != 0).sum()), w) for f, w in STAR_FLAG_DOCS.items()]
    return tuple(c for c in counts if c[1])


def _headlines(
    summary: Mapping[str, np.ndarray], flags: Sequence[tuple[str, int, str]]
) -> list[str]:
    """Return the result in a few sentences."""
    distance = summary["distance_kpc"]
    good = np.isfinite(distance)
    lines = [f"{int(good.sum())} of {len(distance)} stars fitted."]
    if good.any():
        lo, mid, hi = np.percentile(distance[good], [16, 50, 84])
        error = 0.5 * (summary["distance_kpc_84"] - summary["distance_kpc_16"])[good]
        lines.append(
            f"Distances: median {mid:.3f} kpc, 68 % of the stars between {lo:.3f} and {hi:.3f}; "
            f"median error {100 * np.median(error / distance[good]):.1f} %."
        )
        spread = 0.5 * (summary["av_84"] - summary["av_16"])[good]
        lines.append(
            f"A_V: median {np.median(summary['av'][good]):.3f} mag, median error "
            f"{np.median(spread):.3f}."
        )
    lines += [f"{n} stars {name}: {words}." for name, n, words in flags]
    return lines


def _cluster(
    config: StarsRunConfig, sample: StarPosteriors
) -> tuple[ClusterRecord | None, list[str]]:
    if not config.report.cluster:
        return None, []
    from pogson.report.stars_data import ClusterRecord
    from pogson.stars.cluster import cluster_summary

    c = cluster_summary(sample)
    words = (
        f"Cluster: {1e3 * c.distance_kpc:.1f} +- {1e3 * c.distance_err_kpc:.1f} pc, A_V "
        f"{c.av:.3f} +- {c.av_err:.3f} (errors from the scatter of stars alone), "
        f"{100 * c.member_fraction:.0f} % members."
    )
    record = ClusterRecord(
        c.distance_modulus, c.av, c.covariance, c.distance_kpc, c.distance_err_kpc,
        c.modulus_scatter, c.av_scatter, c.member_fraction, c.n_used,
    )  # fmt: skip
    return record, [words]


def _cluster_json(cluster: ClusterRecord | None) -> dict[str, Any] | None:
    if cluster is None:
        return None
    return {**vars(cluster), "covariance": cluster.covariance.tolist()}


def report_data(
    config: StarsRunConfig,
    inputs: StarInputs,
    summary: Mapping[str, np.ndarray],
    sample: StarPosteriors,
    lines: Sequence[str],
    flags: tuple[tuple[str, int, str], ...],
    cluster: ClusterRecord | None,
    offsets: OffsetsRecord | None,
) -> StarsReportData:
    """Return what the page shows."""
    from pogson.report.stars_data import StarsReportData

    photometry = _ordered(inputs.photometry, summary["id"])
    grid = config.read_grid(photometry.bands)
    rows = np.flatnonzero(np.isin(summary["id"], sample.ids))
    chosen = photometry.select(rows)
    magnitude, residual = residuals_of(grid, chosen, sample)
    few = slice(None, None, max(1, sample.n_draws // _DRAWS))
    shown = _choose(sample, config.report.stars)
    return StarsReportData(
        title=config.report.title or config.stars.name,
        headlines=tuple(lines),
        facts=_facts(config, inputs, grid, sample),
        bands=photometry.bands,
        summary=summary,
        flags=flags,
        longitude=np.asarray(photometry.l),
        latitude=np.asarray(photometry.b),
        magnitudes=magnitude,
        residuals=residual,
        residual_rows=rows,
        draws=(sample.distance_kpc[:, few].astype(float), sample.av[:, few].astype(float)),
        stars=tuple(star_record(grid, chosen, sample, k) for k in shown),
        missing=inputs.missing,
        notes=inputs.notes,
        offsets=offsets,
        cluster=cluster,
        config_text=config.model_dump_json(indent=1),
    )


def _choose(sample: StarPosteriors, n: int) -> list[int]:
    """Return stars to show singly: from the well fitted to the worst."""
    fitted = np.flatnonzero(sample.fitted)
    if not len(fitted) or n == 0:
        return []
    ratio = sample.best_chi2[fitted] / np.maximum(sample.n_data[fitted], 1)
    order = fitted[np.argsort(ratio, kind="stable")]
    places = np.linspace(0.1, 1.0, n) if n > 1 else np.array([0.5])
    return list(dict.fromkeys(int(order[int(p * (len(order) - 1))]) for p in places))


def residuals_of(
    grid: StellarGrid, photometry: StarPhotometry, posteriors: StarPosteriors
) -> tuple[np.ndarray, np.ndarray]:
    """Return magnitudes, and observed less model in magnitudes, of every star and band.

    Parameters
    ----------
    grid : StellarGrid
        The grid fitted, in the bands of the photometry.
    photometry : StarPhotometry
        The stars.
    posteriors : StarPosteriors
        Their fit, in the same order.

    Returns
    -------
    magnitudes, residuals : numpy.ndarray, shape (n_stars, n_bands)
        NaN where a band was not observed or its flux is not positive. The model is the posterior
        mean of the flux.
    """
    shape = photometry.flux.shape
    mean = np.full(shape, np.nan)
    few = slice(None, None, max(1, posteriors.n_draws // _DRAWS))
    for k in np.flatnonzero(posteriors.fitted):
        mean[k] = _draw_fluxes(grid, posteriors, int(k), few).mean(axis=0)
    good = photometry.observed & (photometry.flux > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        magnitude = np.where(good, -2.5 * np.log10(np.where(good, photometry.flux, 1.0)), np.nan)
        return magnitude, magnitude + 2.5 * np.log10(mean)


def _draw_fluxes(grid: StellarGrid, p: StarPosteriors, k: int, few: slice) -> np.ndarray:
    return np.asarray(
        grid.fluxes(
            p.model_index[k, few], av=p.av[k, few].astype(float), rv=p.rv[k, few].astype(float),
            distance_kpc=p.distance_kpc[k, few].astype(float),
        )
    )  # fmt: skip


def star_record(
    grid: StellarGrid, photometry: StarPhotometry, posteriors: StarPosteriors, k: int
) -> StarRecord:
    """Return one star for its corner plot and its SED.

    Parameters
    ----------
    grid : StellarGrid
        The grid fitted, in the bands of the photometry.
    photometry : StarPhotometry
        The stars.
    posteriors : StarPosteriors
        Their fit, in the same order.
    k : int
        Which star.
    """
    from pogson.report.stars_data import StarRecord
    from pogson.stars import StarFlag

    posteriors.check_grid(grid)
    index = posteriors.model_index[k]
    parameters: dict[str, np.ndarray] = {
        "distance [kpc]": posteriors.distance_kpc[k].astype(float),
        "$A_V$ [mag]": posteriors.av[k].astype(float),
        "$R_V$": posteriors.rv[k].astype(float),
    }
    for name, label in _LABELS.items():
        if name in grid.label_names:
            parameters[label] = grid.label(name)[index]
    flux, error = photometry.flux[k], photometry.flux_err[k]
    good = photometry.observed[k] & (flux > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        magnitude = np.where(good, -2.5 * np.log10(np.where(good, flux, 1.0)), np.nan)
        spread = np.where(good, 2.5 / np.log(10) * error / np.where(good, flux, 1.0), np.nan)
    model = -2.5 * np.log10(_draw_fluxes(grid, posteriors, k, slice(None)))
    flags = int(posteriors.flags[k])
    note = f"χ² {posteriors.best_chi2[k]:.1f} of {int(posteriors.n_data[k])} data"
    note += f", {describe_flags(StarFlag, flags)}" if flags else ""
    return StarRecord(
        str(photometry.ids[k]), parameters, photometry.bands, magnitude, spread, model, note,
        ", ".join(sorted({grid.systems[b] for b in photometry.bands if b in grid.systems})),
    )  # fmt: skip


def _facts(
    config: StarsRunConfig, inputs: StarInputs, grid: StellarGrid, sample: StarPosteriors
) -> dict[str, str]:
    p = config.priors
    dust = f"flat, {p.av_limits[0]:g} to {p.av_limits[1]:g} mag"
    if p.dust_map is not None:
        dust = f"map {Path(p.dust_map).name} ± {p.dust_scatter:g} mag, cut likewise ({dust})"
    elif p.av_sd is not None:
        dust = f"{p.av_mean:g} ± {p.av_sd:g}, cut at {p.av_limits[0]:g} and {p.av_limits[1]:g} mag"
    own = config.catalog.extinction
    if own is not None:
        names = own if isinstance(own, str) else " ± ".join(own)
        floor = config.catalog.extinction_floor
        dust = (f"{config.catalog.extinction_scale:g} x ({names}) of each star ± {floor:g} mag; "
                f"for stars without: {dust}")  # fmt: skip
    floors = sample.provenance["config"]["error_floor"]
    said = f"{100 * floors:g} %" if isinstance(floors, int | float) else ", ".join(
        f"{b} {100 * v:.2g} %" for b, v in floors.items()
    )  # fmt: skip
    shift = config.catalog.parallax_zero_point
    systems = sorted(set(grid.systems.values()))
    return {
        "stars": ", ".join(inputs.sources),
        "grid": f"{Path(config.grid.file).name}: {grid.n_models:,} models, "
        f"{grid.provenance.get('source', 'origin not stated')}; magnitudes {', '.join(systems)}; "
        f"digest {sample.grid_digest[:16]}",
        "distance prior": {"galactic": "thin disc, thick disc and halo", "flat": "flat in distance",
                           "modulus": "flat in distance modulus",
                           "volume": "uniform in volume"}[p.distance],
        "extinction prior": f"A_V {dust}; R_V {p.rv_mean:g} ± {p.rv_sd:g}",
        "error floor": said or "none",
        "parallaxes": f"zero point {shift:g} mas subtracted"
        if shift
        else "as they are; no zero point was subtracted",
        "seed": str(config.stars.seed),
    }  # fmt: skip
