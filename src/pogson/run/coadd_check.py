"""Stage after the coadds: fluxes on a tile against those of its visits, and against the truth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import PogsonError
from pogson.fields import Box

if TYPE_CHECKING:
    from pogson.calib import FluxReference
    from pogson.images import Coadd, Exposure

__all__ = ["CheckJob", "check_tile", "empty_apertures", "predicted_and_found"]

_MOST = 150  # sources of a tile that are compared; PSFs are drawn for each input of each
_FAINTEST = 10.0  # signal over noise
_EMPTY = 400
_OTHERS = 0.1  # light of other sources in an aperture of an isolated one, in errors
_SEED = 8
_FLUX = "nJy, total where there are PSFs"


@dataclass(frozen=True)
class CheckJob:
    """What `check_tile` needs.

    Parameters
    ----------
    image : str
        The tile.
    inner : tuple of int
        Its own pixels (x_min, y_min, nx, ny), without the overlap.
    inputs : tuple of (str, float)
        Images that were added, and their weights.
    snr : float
        Signal over noise of the sources whose completeness is counted.
    radius : float
        Of the apertures, arcsec.
    truth : str or None
        Catalogue of true fluxes.
    true_flux : str or None
        Its column.
    table, record : str
        Files to write.
    """

    image: str
    inner: tuple[int, ...]
    inputs: tuple[tuple[str, float], ...]
    snr: float
    radius: float
    truth: str | None
    true_flux: str | None
    table: str
    record: str


def check_tile(job: CheckJob) -> dict[str, Any]:
    """Measure sources on a tile and on the images that were added; write both.

    Parameters
    ----------
    job : CheckJob
        What to read and write.

    Returns
    -------
    dict
        ``n_sources``.
    """
    from astropy.table import Table

    from pogson.atomic import atomic_write_text
    from pogson.calib import FluxReference
    from pogson.formats import write_catalog
    from pogson.formats.coadd_files import read_coadd

    coadd = read_coadd(job.image)
    inner = Box(*job.inner)
    reference = FluxReference.aperture(job.radius, frame="sky")
    x, y, alone = _sources(coadd, inner, reference)
    measured = _on_coadd(coadd, reference, x, y)
    keep = _chosen(measured, alone)
    rows = {k: v[keep] for k, v in measured.items()}
    at = (float(rows["x"][0]), float(rows["y"][0])) if keep.size else None
    others = _light_of_others(coadd, reference, x, y, measured["flux"], keep, at)
    rows["isolated"] = others < _OTHERS * rows["flux_err"]
    total = coadd.psf is not None
    if total and keep.size:
        energy = reference.enclosed_energy(coadd.psf, coadd.exposure.sky, x=rows["x"], y=rows["y"])
        for name in ("flux", "flux_err", "flux_err_diagonal"):
            rows[name] = rows[name] / energy
    rows |= _on_visits(job.inputs, reference, rows, total)
    record: dict[str, Any] = {
        "radius": job.radius, "total": total, "n_detected": len(x),
        "empty": empty_apertures(coadd, inner, job.radius), "truth": None,
    }  # fmt: skip
    if job.truth is not None and job.true_flux is not None and total and keep.size:
        rows["true_flux"], record["truth"] = _with_truth(job, coadd, inner, reference, rows, energy)
    write_catalog(job.table, Table(rows, meta={"flux": _FLUX}))
    atomic_write_text(job.record, json.dumps(_finite(record), allow_nan=False))
    return {"n_sources": int(keep.size)}


def _finite(value: Any) -> Any:
    from pogson.run.summary import json_ready

    return json_ready(value)


def _sources(
    coadd: Coadd, inner: Box, reference: FluxReference
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the sources found on the tile's own pixels, and whether none other is near."""
    from scipy.spatial import cKDTree

    from pogson.images import detect

    try:
        found = detect(coadd.exposure, 5.0)
    except PogsonError:
        return np.zeros(0), np.zeros(0), np.zeros(0, bool)
    x, y = np.asarray(found["x"], float), np.asarray(found["y"], float)
    mine = np.asarray(inner.contains(x=x, y=y), bool)
    if not mine.any():
        return np.zeros(0), np.zeros(0), np.zeros(0, bool)
    points = np.column_stack([x, y])
    near = cKDTree(points).query(points[mine], k=2)[0][:, 1]
    return x[mine], y[mine], near > 2.0 * _pixels(coadd, reference.radius or 0.0)


def _pixels(coadd: Coadd, radius: float) -> float:
    sky: Any = coadd.exposure.sky
    x, y = coadd.exposure.box.center
    return radius / float(sky.pixel_scale(x=x, y=y))


def _on_coadd(
    coadd: Coadd, reference: FluxReference, x: np.ndarray, y: np.ndarray
) -> dict[str, np.ndarray]:
    """Return aperture fluxes with both kinds of error; unusable ones are not ``clean``."""
    from pogson.images import SourceFlag, aperture_variance, measure_sources

    radius = _pixels(coadd, reference.radius or 0.0)
    out = {"x": x, "y": y}
    if not x.size:
        names = ("ra", "dec", "flux", "flux_err", "flux_err_diagonal")
        none = {n: np.zeros(0) for n in names}
        return {**out, **none, "clean": np.zeros(0, bool), "n_inputs": np.zeros(0, int)}
    table = measure_sources(coadd.exposure, x=x, y=y, references=[reference], background=None)
    name = f"flux_{reference.slug}"
    harmless = int(SourceFlag.SUSPECT | SourceFlag.NEIGHBOR)
    good = (np.asarray(table[f"{name}_flags"]) & ~harmless) == 0
    same, count = _evenly_covered(coadd, x, y, radius)
    for key, covariance in (("flux_err", True), ("flux_err_diagonal", False)):
        out[key] = np.sqrt(aperture_variance(coadd, x=x, y=y, radius=radius, covariance=covariance))
    return {
        **out, "ra": np.asarray(table["ra"]), "dec": np.asarray(table["dec"]),
        "flux": np.asarray(table[name]), "clean": good & same, "n_inputs": count,
    }  # fmt: skip


def _evenly_covered(
    coadd: Coadd, x: np.ndarray, y: np.ndarray, radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return where one set of inputs holds the whole aperture and none was clipped; its number."""
    box, count = coadd.exposure.box, coadd.count
    clipped = _with_bit(coadd.exposure, "CLIPPED")
    half = int(np.ceil(radius)) + 2
    good, number = np.zeros(x.size, bool), np.zeros(x.size, int)
    for k, (i, j) in enumerate(zip(np.round(x).astype(int), np.round(y).astype(int), strict=True)):
        rows = slice(max(j - half - box.y_min, 0), j + half + 1 - box.y_min)
        columns = slice(max(i - half - box.x_min, 0), i + half + 1 - box.x_min)
        part = count[rows, columns]
        number[k] = int(part.max(initial=0))
        good[k] = part.size == (2 * half + 1) ** 2 and int(part.min()) == number[k] > 0
        if clipped is not None and clipped[rows, columns].any():
            good[k] = False
    return good, number


def _with_bit(exposure: Exposure, name: str) -> np.ndarray | None:
    """Return the pixels that have a mask name; None where there can be none."""
    if exposure.mask is None or name not in exposure.mask_bits:
        return None
    return np.asarray((exposure.mask & exposure.mask_bits.value(name)) != 0)


def _chosen(measured: dict[str, np.ndarray], alone: np.ndarray) -> np.ndarray:
    """Return the rows to compare: clean, alone, above the noise; at random if there are many."""
    with np.errstate(invalid="ignore", divide="ignore"):
        snr = measured["flux"] / measured["flux_err"]
    some = np.flatnonzero(measured["clean"] & alone & (snr > _FAINTEST))
    if some.size > _MOST:
        some = np.sort(np.random.default_rng(_SEED).choice(some, _MOST, replace=False))
    return some


def _light_of_others(
    coadd: Coadd, reference: FluxReference, x: np.ndarray, y: np.ndarray, flux: np.ndarray,
    keep: np.ndarray, at: tuple[float, float] | None,
) -> np.ndarray:  # fmt: skip
    """Return the flux of all other sources in the aperture of some, by the PSF at one place."""
    if at is None or coadd.psf is None:
        return np.full(keep.size, np.inf)
    from scipy.spatial import cKDTree

    radius = _pixels(coadd, reference.radius or 0.0)
    far = min(40.0, 6.0 * radius)
    steps = np.linspace(1.2 * radius, far, 12)
    inside = [float(coadd.psf.enclosed_energy(r, x=at[0], y=at[1])) for r in steps]
    middle = 0.5 * (steps[1:] + steps[:-1])
    # light per pixel at a distance from a star, times the pixels of the aperture
    share = np.maximum(np.diff(inside), 0.0) / (2.0 * middle * np.diff(steps)) * radius**2
    points, known = np.column_stack([x, y]), np.abs(np.nan_to_num(flux))
    light = np.zeros(keep.size)
    for row, near in enumerate(cKDTree(points).query_ball_point(points[keep], far)):
        others = np.array([n for n in near if n != keep[row]], int)
        away = np.hypot(*(points[others] - points[keep[row]]).T)
        light[row] = np.sum(known[others] * np.interp(away, middle, share))
    return light


def _on_visits(
    inputs: Sequence[tuple[str, float]],
    reference: FluxReference,
    rows: dict[str, np.ndarray],
    total: bool,
) -> dict[str, np.ndarray]:
    """Return the mean of the fluxes on the inputs with the weights of the coadd."""
    from pogson.formats.native import read_native
    from pogson.images import SourceFlag, measure_sources

    n = rows["x"].size
    weight, flux, variance, number = np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n, int)
    harmless = int(SourceFlag.SUSPECT | SourceFlag.NEIGHBOR)
    for path, w in inputs if n else ():
        exposure = read_native(path)
        sky: Any = exposure.sky
        x, y = map(np.asarray, sky.pixel(rows["ra"], rows["dec"]))
        on = np.flatnonzero(exposure.box.contains(x=x, y=y))
        if not on.size:
            continue
        table = measure_sources(exposure, x=x[on], y=y[on], references=[reference], background=None)
        name = f"flux_{reference.slug}"
        values = np.asarray(table[name], float)
        errors = np.asarray(table[f"{name}_err"], float)
        values[(np.asarray(table[f"{name}_flags"]) & ~harmless) != 0] = np.nan
        if total:
            energy = reference.enclosed_energy(exposure.psf, sky, x=x[on], y=y[on])
            values, errors = values / energy, errors / energy
        flux[on] += w * values
        variance[on] += (w * errors) ** 2
        weight[on] += w
        number[on] += 1
    with np.errstate(invalid="ignore", divide="ignore"):
        mean, error = flux / weight, np.sqrt(variance) / weight
    mean[number != rows["n_inputs"]] = np.nan  # an input holds the centre but not the aperture
    return {"visit_flux": mean, "visit_flux_err": error}


def empty_apertures(coadd: Coadd, inner: Box, radius: float) -> dict[str, Any]:
    """Return the scatter of sums where nothing is, over both kinds of error.

    Parameters
    ----------
    coadd : Coadd
        The coadd.
    inner : Box
        Pixels on which the apertures are centred.
    radius : float
        Of the apertures, arcsec.

    Returns
    -------
    dict
        ``n``, and the rms over the error from the tracked covariance (``tracked``) and from the
        diagonal (``diagonal``), robust against what is left of sources.
    """
    from pogson.psf import ApertureOperator

    exposure = coadd.exposure
    size = _pixels(coadd, radius)
    rng = np.random.default_rng(_SEED)
    x = np.round(rng.uniform(inner.x_min, inner.x_max, 4 * _EMPTY))
    y = np.round(rng.uniform(inner.y_min, inner.y_max, 4 * _EMPTY))
    light = np.where(_light(exposure), 1.0, 0.0)
    box = exposure.box
    operator = ApertureOperator.exact()
    touched = operator.sum(light, x=x, y=y, a=size, x_min=box.x_min, y_min=box.y_min).flux
    even, _ = _evenly_covered(coadd, x, y, size)
    free = np.flatnonzero((np.asarray(touched) == 0) & even)[:_EMPTY]
    if free.size < 20:
        return {"n": int(free.size), "tracked": None, "diagonal": None, "mean": None}
    return _empty_pulls(coadd, x[free], y[free], size)


def _light(exposure: Exposure) -> np.ndarray:
    """Return pixels with the light of sources, and what is bad."""
    from scipy.ndimage import maximum_filter, uniform_filter

    bad = exposure.bad()
    smooth = uniform_filter(np.where(bad, 0.0, exposure.image), 3)
    level = smooth[~bad]
    middle = np.median(level) if level.size else 0.0
    width = 1.4826 * np.median(np.abs(level - middle)) if level.size else 0.0
    return np.asarray(maximum_filter((smooth > middle + 3.5 * width) | bad, size=11))


def _empty_pulls(coadd: Coadd, x: np.ndarray, y: np.ndarray, size: float) -> dict[str, Any]:
    from pogson.images import aperture_variance
    from pogson.psf import ApertureOperator

    box = coadd.exposure.box
    sums = np.asarray(ApertureOperator.exact().sum(
        coadd.exposure.image, x=x, y=y, a=size, x_min=box.x_min, y_min=box.y_min).flux)  # fmt: skip
    out: dict[str, Any] = {"n": int(x.size)}
    for name, covariance in (("tracked", True), ("diagonal", False)):
        error = np.sqrt(aperture_variance(coadd, x=x, y=y, radius=size, covariance=covariance))
        pull = sums / error
        low, middle, high = np.percentile(pull, [15.865, 50.0, 84.135])
        out[name] = float(0.5 * (high - low))
        if covariance:
            out["mean"] = float(middle)
    return out


def _with_truth(
    job: CheckJob, coadd: Coadd, inner: Box, reference: FluxReference,
    rows: dict[str, np.ndarray], energy: np.ndarray,
) -> tuple[np.ndarray, dict[str, Any]]:  # fmt: skip
    """Return the true fluxes of the rows, and found and predicted numbers of true sources."""
    from scipy.spatial import cKDTree

    from pogson.formats import read_catalog

    truth = read_catalog(str(job.truth))
    sky: Any = coadd.exposure.sky
    x, y = map(np.asarray, sky.pixel(np.asarray(truth["ra"]), np.asarray(truth["dec"])))
    flux = np.asarray(truth[job.true_flux], float)
    here = np.isfinite(x) & np.isfinite(y)
    here[here] = coadd.exposure.box.contains(x=x[here], y=y[here])
    x, y, flux = x[here], y[here], flux[here]
    out = np.full(rows["x"].size, np.nan)
    if not x.size:
        return out, {"n": 0}
    tree = cKDTree(np.column_stack([x, y]))
    radius = _pixels(coadd, job.radius)
    if out.size:
        far, which = tree.query(np.column_stack([rows["x"], rows["y"]]))
        out = np.where(far < 0.3 * radius, flux[which], np.nan)
    alone = np.ones(x.size, bool)
    if x.size > 1:
        alone = tree.query(np.column_stack([x, y]), k=2)[0][:, 1] > 2.0 * radius
    some = alone & np.asarray(inner.contains(x=x, y=y), bool)
    measured = _on_coadd(coadd, reference, x[some], y[some])
    inside = np.full(int(some.sum()), float(np.median(energy)))
    for number in np.unique(rows["n_inputs"]):  # it is that of the inputs which hold a place
        inside[measured["n_inputs"] == number] = np.median(energy[rows["n_inputs"] == number])
    at = float(rows["x"][0]), float(rows["y"][0])  # the coadd has a PSF there
    others = _light_of_others(coadd, reference, x, y, flux, np.flatnonzero(some), at)
    clean = measured["clean"] & (others < _OTHERS * measured["flux_err"])
    return out, predicted_and_found(
        measured["flux"][clean] / inside[clean], measured["flux_err"][clean] / inside[clean],
        measured["flux_err_diagonal"][clean] / inside[clean], flux[some][clean], job.snr,
    )  # fmt: skip


def predicted_and_found(
    flux: np.ndarray, error: np.ndarray, diagonal: np.ndarray, true: np.ndarray, snr: float
) -> dict[str, Any]:
    """Return, by true magnitude, which sources reach a signal over noise and which should.

    Parameters
    ----------
    flux, error, diagonal : numpy.ndarray, shape (n,)
        Measured fluxes at the true positions, nJy; their errors by the tracked covariance and by
        the diagonal only.
    true : numpy.ndarray, shape (n,)
        True fluxes.
    snr : float
        Signal over noise.

    Returns
    -------
    dict
        ``n``; per source ``magnitude``, ``true_snr``, the pulls by both errors, ``reached`` and
        ``expected``, the chance to reach ``snr`` with a normal error; ``depth``, the median
        magnitude at which errors give just ``snr``.

    Examples
    --------
    >>> import numpy as np
    >>> error = np.array([10.0, 10.0])
    >>> found = predicted_and_found(np.array([90.0, 250.0]), error, error / 2,
    ...                             np.array([100.0, 200.0]), 20.0)
    >>> found["reached"], [round(p, 3) for p in found["expected"]], round(found["depth"], 2)
    ([False, True], [0.0, 0.5], 25.65)
    """
    from scipy.stats import norm

    from pogson.units import NJY_AB_MAGNITUDE

    good = np.isfinite(flux) & (error > 0) & (true > 0)
    flux, error, diagonal, true = flux[good], error[good], diagonal[good], true[good]
    if not flux.size:
        return {"n": 0}
    true_snr = true / error
    near = true_snr < 3 * snr  # brighter ones have noise of their own
    depth = NJY_AB_MAGNITUDE - 2.5 * np.log10(np.median(snr * error[near])) if near.any() else None
    return {
        "n": int(flux.size), "snr": snr,
        "magnitude": (NJY_AB_MAGNITUDE - 2.5 * np.log10(true)).round(4).tolist(),
        "true_snr": true_snr.round(3).tolist(),
        "pull": ((flux - true) / error).round(4).tolist(),
        "pull_diagonal": ((flux - true) / diagonal).round(4).tolist(),
        "reached": (flux / error >= snr).tolist(),
        "expected": norm.cdf(true_snr - snr).round(5).tolist(),
        "depth": None if depth is None else float(depth),
    }  # fmt: skip
