"""Finding and measuring injected sources again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.calib import FluxReference
from pogson.errors import MissingDataError, PogsonValueError, ReferenceMismatchError, choices
from pogson.inject.flags import NOT_DRAWN, InjectionFlag
from pogson.inject.matching import column_reference, match_injections, require_comparable
from pogson.inject.plan import local_calibration
from pogson.units import NJY_AB_MAGNITUDE

if TYPE_CHECKING:
    from astropy.table import Table

    from pogson.images import Exposure
    from pogson.inject.engine import Injection

__all__ = ["RECOVERY_COLUMNS", "DetectionSettings", "recover", "recovery_from_catalog"]

RECOVERY_COLUMNS = {
    "id": "id of the injected source",
    "image_id": "image it was injected into",
    "x": "injected position, pixels",
    "y": "injected position, pixels",
    "magnitude": "injected AB magnitude in the reference of flux_in",
    "flux_in": "injected flux in the reference of flux_out, nJy",
    "flux_out": "measured flux, nJy",
    "flux_out_err": "its error, nJy",
    "flux_before": "the same measurement before the injection: noise, background residual and "
    "neighbours, nJy",
    "drawn": "whether the source was put on the image",
    "detected": "whether it was found again",
    "ambiguous": "a real source as bright lies within the match radius",
    "separation": "distance of the detection",
    "neighbour_distance": "distance to the nearest real source",
    "injection_flags": "InjectionFlag bits",
    "flags": "SourceFlag bits of the measurement",
    "is_star": "whether a point source was injected",
}
"""Columns of a recovery table."""


@dataclass(frozen=True)
class DetectionSettings:
    """How to look for sources.

    Parameters
    ----------
    threshold : float
        Pixel threshold in units of the noise, see `pogson.images.detect`.
    min_pixels : int
        Least number of connected pixels.
    background_mesh : int or None
        Estimate the background anew on each image, with this mesh; None keeps the attached one.

    Examples
    --------
    >>> DetectionSettings(threshold=3.0)
    DetectionSettings(threshold=3.0, min_pixels=5, background_mesh=None)
    """

    threshold: float = 5.0
    min_pixels: int = 5
    background_mesh: int | None = None

    def background(self, exposure: Exposure) -> Exposure:
        """Return the exposure with the background to use."""
        from pogson.images import estimate_background

        if self.background_mesh is None:
            return exposure
        bare = exposure.restore_background().with_(background=None)
        found = estimate_background(bare, mesh=self.background_mesh, mask_sources=True)
        return bare.with_background(found)

    def detect(self, exposure: Exposure) -> Table:
        """Return the sources found on an exposure."""
        from pogson.images import detect

        return detect(exposure, self.threshold, min_pixels=self.min_pixels)


def recover(
    original: Exposure,
    injection: Injection,
    *,
    measure: FluxReference | None = None,
    match_radius: float | None = None,
    settings: DetectionSettings | None = None,
    real: Table | None = None,
    gain: float | str | None = None,
) -> Table:
    """Find and measure injected sources again, and what lay there before.

    Parameters
    ----------
    original : Exposure
        The exposure before the injection.
    injection : Injection
        What `inject` made of it.
    measure : FluxReference, optional
        What to measure at the injected positions; by default the reference of the injected
        fluxes. Another one is converted to with the exposure's PSF; a total flux cannot be
        measured, so it needs this. Extended sources can only be compared in their own reference.
    match_radius : float, optional
        Pixels; by default the PSF's FWHM at the image's centre, at least 2.
    settings : DetectionSettings, optional
        How to detect.
    real : astropy.table.Table, optional
        Real sources with ``x``, ``y`` and ``flux_isophotal``; by default those detected on
        ``original``.
    gain : float or "estimate", optional
        For errors; see `pogson.images.measure_sources`.

    Returns
    -------
    astropy.table.Table
        One row for each row of the truth table; see `RECOVERY_COLUMNS`. ``table.meta`` counts
        detections and those that are neither injected nor real.

    Raises
    ------
    ReferenceMismatchError
        If a total flux would have to be measured.
    PogsonValueError
        If the two exposures do not cover the same pixels.

    Notes
    -----
    Fluxes are measured at the injected positions, so that they are there for sources that were
    not detected too: a sample of detections alone is biased bright near the limit.
    """
    from pogson.images import measure_sources

    settings = settings or DetectionSettings()
    truth = injection.truth
    if original.box != injection.exposure.box:
        raise PogsonValueError(
            f"The exposure before the injection covers {original.box}, the one after "
            f"{injection.exposure.box}; they must be the same."
        )
    asked = column_reference(truth, "flux_requested")
    wanted = measure if measure is not None else asked
    if wanted.kind == "total":
        raise ReferenceMismatchError(
            "The injected fluxes are total, and a total flux cannot be measured on pixels: pass "
            "measure=, an aperture or FluxReference.psf(); it is converted with the PSF."
        )
    before, after = settings.background(original), settings.background(injection.exposure)
    detections = settings.detect(after)
    if real is None:
        real = settings.detect(before)
    x, y = (np.asarray(truth[c], np.float64) for c in ("x", "y"))
    radius = _default_radius(original) if match_radius is None else float(match_radius)
    match = match_injections(
        truth, detections, radius, real=real,
        real_flux="flux_isophotal" if "flux_isophotal" in real.colnames else None,
    )  # fmt: skip
    cal = local_calibration(original, x=x, y=y)
    seen = [
        measure_sources(e, x=x, y=y, references=wanted, gain=gain, neighbor_radius=radius)
        for e in (before, after)
    ]
    column = f"flux_{wanted.slug}"
    fluxes = [np.asarray(t[column], np.float64) * cal for t in seen]
    values = {
        "flux_in": _flux_in(truth, asked, wanted, original),
        "flux_out": fluxes[1],
        "flux_out_err": np.asarray(seen[1][f"{column}_err"], np.float64) * cal,
        "flux_before": fluxes[0],
        "flags": np.asarray(seen[1]["flags"]),
    }
    table = _recovery_table(truth, match, values, wanted)
    if "half_light_radius" in detections.colnames:
        table["half_light_radius"] = _taken(detections["half_light_radius"], match.index)
        table["half_light_radius"].unit = "pixel"
    table.meta["match_radius"] = radius
    return table


def recovery_from_catalog(
    truth: Table,
    catalog: Table,
    *,
    flux: str,
    match_radius: float,
    frame: str = "sky",
    flux_err: str | None = None,
    real: Table | None = None,
    real_flux: str | None = None,
    truth_flux: str = "flux_requested",
    called_star: str | None = None,
) -> Table:
    """Compare the truth with a catalogue that any pipeline made of the injected image.

    Parameters
    ----------
    truth : astropy.table.Table
        Truth table of the injection.
    catalog : astropy.table.Table
        Calibrated sources, with positions, a flux column in nJy that states its reference in
        ``info.meta["reference"]``, and its error.
    flux : str
        Flux column.
    match_radius : float
        Arcsec (``frame="sky"``) or pixels.
    frame : {"sky", "pixel"}, optional
        Which positions to compare.
    flux_err : str, optional
        Column of the error; ``flux`` with ``_err`` by default.
    real : astropy.table.Table, optional
        Real sources, with positions.
    real_flux, truth_flux : str, optional
        Columns to compare the brightness of real and injected sources.
    called_star : str, optional
        Boolean column: classified as a star.

    Returns
    -------
    astropy.table.Table
        See `RECOVERY_COLUMNS`; ``flux_before`` is NaN. Sources without a match have NaN fluxes.

    Raises
    ------
    ReferenceMismatchError
        If injected and measured fluxes have different references.

    Examples
    --------
    >>> from astropy.table import Table
    >>> total, r12 = FluxReference.total(), FluxReference.aperture(12)
    >>> truth = Table({"id": ["a"], "x": [1.0], "y": [1.0], "flux_requested": [10.0]})
    >>> truth["flux_requested"].info.meta = {"reference": total.to_dict()}
    >>> seen = Table({"x": [1.1], "y": [1.0], "f": [9.9], "f_err": [0.1]})
    >>> seen["f"].info.meta = {"reference": r12.to_dict()}
    >>> recovery_from_catalog(truth, seen, flux="f", match_radius=1.0, frame="pixel")
    Traceback (most recent call last):
    ...
    pogson.errors.ReferenceMismatchError: The injected fluxes and the measured column 'f' ...
    """
    reference = require_comparable(truth, catalog, flux)
    error = flux_err or f"{flux}_err"
    if error not in catalog.colnames:
        raise MissingDataError(
            f"The catalogue has no column {error!r}; it has {choices(catalog.colnames)}."
        )
    match = match_injections(
        truth, catalog, match_radius, real=real, frame=frame, real_flux=real_flux,
        truth_flux=truth_flux,
    )  # fmt: skip
    flags = _taken(catalog["flags"], match.index) if "flags" in catalog.colnames else None
    values = {
        "flux_in": np.asarray(truth["flux_requested"], np.float64),
        "flux_out": _taken(catalog[flux], match.index),
        "flux_out_err": _taken(catalog[error], match.index),
        "flux_before": np.full(len(truth), np.nan),
        "flags": np.zeros(len(truth), int) if flags is None else np.nan_to_num(flags).astype(int),
    }
    table = _recovery_table(truth, match, values, reference)
    table.meta["match_radius"] = float(match_radius)
    if called_star is not None:
        table["called_star"] = _taken(catalog[called_star], match.index) == 1.0
    return table


def _default_radius(exposure: Exposure) -> float:
    if exposure.psf is None:
        return 2.0
    x, y = exposure.box.center
    return max(2.0, float(exposure.psf.fwhm(x=x, y=y)))


def _taken(column: Any, index: np.ndarray) -> np.ndarray:
    """Return column values of matches as float64, NaN without a match."""
    out = np.full(index.shape, np.nan)
    values = np.ma.filled(np.ma.asarray(column).astype(np.float64), np.nan)
    out[index >= 0] = values[index[index >= 0]]
    return out


def _flux_in(
    truth: Table, asked: FluxReference, wanted: FluxReference, exposure: Exposure
) -> np.ndarray:
    """Return the injected fluxes in the reference that is measured."""
    flux = np.array(truth["flux_requested"], np.float64)
    if asked.matches(wanted):
        return flux
    stars = np.asarray(truth["source_type"]) == "point"
    drawn = (np.asarray(truth["flags"]) & int(NOT_DRAWN)) == 0
    inside = np.asarray(exposure.box.contains(x=truth["x"], y=truth["y"]))
    rows = stars & drawn & inside
    if rows.any():
        flux[rows] = asked.convert(
            flux[rows], to=wanted, psf=exposure.psf, sky=exposure.sky,
            x=np.asarray(truth["x"])[rows], y=np.asarray(truth["y"])[rows],
        )  # fmt: skip
    flux[~rows] = np.nan
    return flux


def _recovery_table(
    truth: Table, match: Any, values: dict[str, np.ndarray], reference: FluxReference
) -> Table:
    from astropy.table import Table

    n = len(truth)

    def given(name: str, default: Any) -> np.ndarray:
        return np.asarray(truth[name]) if name in truth.colnames else np.full(n, default)

    flags = given("flags", 0).astype(np.int32)
    off = (flags & int(NOT_DRAWN | InjectionFlag.OFF_IMAGE)) != 0
    flux_in = values["flux_in"]
    with np.errstate(divide="ignore", invalid="ignore"):
        magnitude = np.where(flux_in > 0, NJY_AB_MAGNITUDE - 2.5 * np.log10(flux_in), np.nan)
    columns: dict[str, Any] = {
        "id": given("id", ""),
        "image_id": given("image_id", ""),
        "x": given("x", np.nan),
        "y": given("y", np.nan),
        "magnitude": magnitude,
        **values,
        "drawn": ~off,
        "detected": match.matched,
        "ambiguous": match.ambiguous,
        "separation": match.separation,
        "neighbour_distance": match.neighbour_distance,
        "injection_flags": flags,
        "is_star": given("source_type", "point") == "point",
    }
    table = Table({name: columns[name] for name in RECOVERY_COLUMNS})
    for name, doc in RECOVERY_COLUMNS.items():
        table[name].info.description = doc
    for name in ("flux_in", "flux_out", "flux_before", "flux_out_err"):
        table[name].unit = "nJy"
    for name in ("flux_in", "flux_out", "flux_before"):
        table[name].info.meta = {"reference": reference.to_dict(), "measure": "fluence"}
    table.meta.update(
        n_detections=match.n_detections,
        n_spurious=match.n_spurious,
        reference=reference.to_dict(),
        reference_label=reference.label,
    )
    return table
