"""The tasks of a flux calibration: solve it from the standards; apply it to a frame."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pogson.errors import CalibrationError, ConfigError, PogsonError
from pogson.run.fluxcal_config import FluxCalConfigFile
from pogson.run.fluxcal_inputs import StandardStars, read_frame, read_library, read_standards
from pogson.run.fluxcal_store import load_calibration, save_calibration
from pogson.spectro import (
    AtmosphereExtinction,
    CalibrationVector,
    FibreSpectra,
    FluxCalConfig,
    FluxCalibration,
    GridPhotometry,
    MagnitudeShift,
    MatchConfig,
    Photometry,
    ResponseConfig,
    Spectrum1D,
    StarMatch,
    SystemSuspicion,
    apply_calibration,
    calibrate_fibres,
    check_magnitude_systems,
    grid_photometry,
    load_atmosphere_extinction,
    synthetic_photometry,
)

__all__ = ["ApplyJob", "CalibrateJob", "apply_to_frame", "calibrate_frame", "suspect_systems"]

# Kelvin by which lines may have followed wrong colours
_TEFF_FREEDOM = 200.0
_COVARIANCE_SAMPLES = 160


@dataclass(frozen=True)
class CalibrateJob:
    """Solve the calibration of a frame; the files that it writes."""

    config: FluxCalConfigFile
    calibration: str
    spectra: str
    record: str
    workers: int | None = None


@dataclass(frozen=True)
class ApplyJob:
    """Calibrate one frame."""

    config: FluxCalConfigFile
    frame: str
    calibration: str
    record: str
    output: str
    is_standard_frame: bool


def read_extinction(config: FluxCalConfigFile) -> AtmosphereExtinction | None:
    """Return the extinction curve of a configuration: an observatory's, or a file's.

    Raises
    ------
    ConfigError
        If it is neither.
    """
    from pogson.spectro import OBSERVATORIES

    name = config.model.extinction
    if name is None:
        return None
    if name.lower() in OBSERVATORIES:
        return load_atmosphere_extinction(name)
    path = config.path(name)
    if not path.is_file():
        raise ConfigError(
            f"model.extinction is {name!r}: neither an observatory ({', '.join(OBSERVATORIES)}) "
            f"nor a file."
        )
    try:
        lam, values = np.loadtxt(path, usecols=(0, 1), unpack=True, ndmin=2)
        return AtmosphereExtinction(lam, values, path.name)
    except (ValueError, PogsonError) as error:
        raise ConfigError(
            f"model.extinction: {path} is not two columns of numbers, Angstrom and magnitudes per "
            f"airmass: {error}"
        ) from None


def calibrate_frame(job: CalibrateJob) -> str:
    """Read everything, solve the calibration, write it with what the page needs."""
    from pogson.atomic import atomic_write_text

    config = job.config
    frame = _with_names(read_frame(config.frame, config.path(config.frame.path)))
    standards = read_standards(config, frame)
    frame = _named(frame, standards)
    curve = read_extinction(config)
    phot = grid_photometry(
        read_library(config), standards.curves, law=config.model.law, r_v=config.model.r_v
    )
    _check_bands(phot, config)
    model = config.model
    settings = FluxCalConfig(
        match=MatchConfig(
            metric=model.metric, rv_limit=model.rv_limit, e_bv=model.e_bv,
            e_bv_error=model.e_bv_error, photometric_floor=model.photometric_floor,
        ),
        response=ResponseConfig(slopes=model.slopes),
        mask_regions=_regions(config),
        bands=standards.curves, law=model.law, r_v=model.r_v, extinction=curve,
        workers=job.workers,
    )  # fmt: skip
    calibration = calibrate_fibres(frame, [(f, p) for f, _, p in standards.stars], phot, settings)
    used = calibration.solution.names_used
    if len(used) < model.least_stars:
        raise CalibrationError(
            f"{len(used)} standard stars are left of {len(standards.stars)}; model.least_stars "
            f"asks for {model.least_stars}. "
            + " ".join(f"{n}: {r}" for n, r in calibration.rejected.items())
        )
    suspicions = suspect_systems(calibration, standards, phot, model.photometric_floor)
    record = _record(frame, calibration, standards, phot, suspicions)
    save_calibration(job.calibration, calibration, extinction=curve)
    _save_spectra(job.spectra, frame, calibration, standards)
    atomic_write_text(job.record, json.dumps(record, indent=1, allow_nan=False))
    return f"{len(used)} of {len(standards.stars)} stars"


def _regions(config: FluxCalConfigFile) -> str:
    from pogson.spectro.mask_regions import MASK_REGIONS

    name = config.model.mask_regions
    return name if name in MASK_REGIONS else str(config.path(name))


def _check_bands(phot: GridPhotometry, config: FluxCalConfigFile) -> None:
    """Refuse bands that were asked for and that the templates do not cover."""
    asked = set(config.standards.bands or ()) & set(phot.uncovered)
    if asked or not phot.names:
        words = " ".join(phot.uncovered[b] for b in sorted(asked or phot.uncovered))
        raise ConfigError(
            f"Bands outside the coverage of the templates: {words} Leave them out "
            f"(standards.bands) or keep more of the templates (templates.wave_range)."
        )


def _with_names(frame: FibreSpectra) -> FibreSpectra:
    from dataclasses import replace

    return replace(frame, names=tuple(n.strip() for n in frame.names))


def _named(frame: FibreSpectra, standards: StandardStars) -> FibreSpectra:
    """Return the frame with the names of the table where a fibre has none or a doubtful one."""
    from dataclasses import replace

    names = list(frame.names)
    for fibre, name, _ in standards.stars:
        row = frame.row(fibre)
        if not names[row] or names.count(names[row]) > 1:
            names[row] = name if names.count(name) == 0 else f"{name} (fibre {fibre})"
    return replace(frame, names=tuple(names))


# ---- magnitudes in another system than was said --------------------------------------------------


def suspect_systems(
    calibration: FluxCalibration,
    standards: StandardStars,
    phot: GridPhotometry,
    floor: float = 0.01,
) -> tuple[SystemSuspicion, ...]:
    """Ask of the residuals of all matched stars whether Vega and AB were mixed up.

    Parameters
    ----------
    calibration : FluxCalibration
        With its matches.
    standards : StandardStars
        What the table said.
    phot : GridPhotometry
        The models in the bands.
    floor : float, optional
        Magnitudes added to the errors in quadrature.
    """
    photometry = _photometry_by_name(calibration, standards)
    stars = [m for n, m in calibration.matches.items() if n in photometry]
    bands = phot.names
    if not stars or len(bands) < 2:
        return ()
    r = np.full((len(stars), len(bands)), np.nan)
    e = np.full_like(r, np.nan)
    hotter, redder = np.zeros_like(r), np.zeros_like(r)
    moved = np.zeros((2, len(stars)))
    error = np.full(len(stars), calibration.config.match.e_bv_error)
    for i, match in enumerate(stars):
        p = photometry[match.name]
        for k, band in enumerate(bands):
            if band in match.band_residuals:
                r[i, k] = match.band_residuals[band]
                e[i, k] = np.hypot(p.get_band(band)[1], floor)
        hotter[i], redder[i] = _patterns(phot, match)
        prior = float(p.meta.get("ebv", calibration.config.match.e_bv))
        error[i] = float(p.meta.get("ebv_error", error[i]))
        moved[:, i] = -match.line_offset, match.e_bv - prior
    shifts = (
        MagnitudeShift(hotter, moved[0], _TEFF_FREEDOM),
        MagnitudeShift(redder, moved[1], error),
    )
    return check_magnitude_systems(bands, r, e, standards.systems, shifts=shifts)


def _photometry_by_name(
    calibration: FluxCalibration, standards: StandardStars
) -> dict[str, Photometry]:
    known = set(calibration.matches)
    out = {}
    for fibre, name, p in standards.stars:
        for candidate in (name, f"{name} (fibre {fibre})", f"fibre {fibre}"):
            if candidate in known:
                out[candidate] = p
                break
    return out


def _patterns(phot: GridPhotometry, match: StarMatch) -> tuple[np.ndarray, np.ndarray]:
    """Change of the magnitudes of every band per Kelvin and per magnitude of E(B-V)."""

    def mags(teff: float, e_bv: float) -> np.ndarray:
        rows, weights = phot.grid.weights(teff, match.logg, match.feh)
        return -2.5 * np.log10(phot.fluxes(rows, weights, e_bv))

    low, high = phot.grid.limits[0]
    a, b = max(low, match.teff - 100.0), min(high, match.teff + 100.0)
    hotter = np.zeros(len(phot.names)) if b <= a else (mags(b, 0.0) - mags(a, 0.0)) / (b - a)
    return hotter, (mags(match.teff, 0.1) - mags(match.teff, 0.0)) / 0.1


# ---- what is kept --------------------------------------------------------------------------------


def _number(value: Any) -> float | None:
    value = float(value)
    return value if np.isfinite(value) else None


def _record(
    frame: FibreSpectra,
    calibration: FluxCalibration,
    standards: StandardStars,
    phot: GridPhotometry,
    suspicions: Sequence[SystemSuspicion],
) -> dict[str, Any]:
    """Everything about the calibration that is not a long array, ready for JSON."""
    s = calibration.solution
    photometry = _photometry_by_name(calibration, standards)
    stars = [
        _star_record(name, fibre, frame, calibration, photometry.get(name), standards)
        for name, fibre in _star_rows(frame, standards)
    ]
    notes = list(standards.notes)
    if phot.uncovered:
        notes.append(
            "Bands not used: " + " ".join(f"{b}: {why}" for b, why in phot.uncovered.items())
        )
    if s.contradiction > s.config.rejection.odds:
        notes.append(
            f"The two stars contradict each other (chi-square {s.contradiction:.1f} per bin, "
            f"levels {np.ptp(s.log_grey[s.used]) * 1.0857:.2f} mag apart): one of them is wrong, "
            f"and with two nobody can say which. Do not use this calibration."
        )
    return {
        "frame": {
            "fibres": frame.n_fibres, "pixels": frame.n_pixels, "unit": frame.unit,
            "wavelength": [float(frame.wavelength.min()), float(frame.wavelength.max())],
            "exposure_time": _number(frame.exposure_time), "airmass": _number(frame.airmass),
            "good_pixels": int(frame.good.sum()),
        },
        "stars": stars,
        "bands": list(phot.names),
        "systems": {b: standards.systems.get(b, "") for b in phot.names},
        "pivots": {b: standards.curves[b].pivot_wavelength for b in phot.names},
        "matched_by": standards.matched_by,
        "unmatched_rows": dict(standards.lost),
        "notes": notes,
        "suspicions": [str(x) for x in suspicions],
        "log_scale_error": _number(s.log_scale_error),
        "grey_scatter": _number(s.grey_scatter),
        "intervals": int(s.coefficients.size - 3),
        "cross_validation": {str(k): _number(v) for k, v in s.cross_validation.items()},
        "chi2": _number(s.chi2),
        "ndof": int(s.ndof),
        "shape_scatter": _number(_shape_scatter(s)),
        "telluric_regions": [list(r) for r in s.config.telluric_regions],
        "law": calibration.config.law,
    }  # fmt: skip


def _shape_scatter(solution: Any) -> float:
    rows = solution.scatter[solution.used]
    if rows.shape[0] < 2:
        return float("nan")
    shape = rows - np.nanmean(rows, axis=1, keepdims=True)
    return float(np.sqrt(np.nansum(shape**2) / ((rows.shape[0] - 1) * rows.shape[1])))


def _star_rows(frame: FibreSpectra, standards: StandardStars) -> list[tuple[str, int]]:
    return [
        (frame.names[frame.row(fibre)] or f"fibre {fibre}", fibre)
        for fibre, _, _ in standards.stars
    ]


def _star_record(
    name: str,
    fibre: int,
    frame: FibreSpectra,
    calibration: FluxCalibration,
    photometry: Photometry | None,
    standards: StandardStars,
) -> dict[str, Any]:
    s, match = calibration.solution, calibration.matches.get(name)
    good = frame.good[frame.row(fibre)]
    noise = frame.ivar[frame.row(fibre)][good]
    sn = frame.counts[frame.row(fibre)][good] * np.sqrt(noise)
    out: dict[str, Any] = {
        "name": name, "fibre": fibre, "used": name in s.names_used,
        "rejected": calibration.rejected.get(name, ""), "flags": [],
        "sn": _number(np.median(sn)) if sn.size else None,
    }  # fmt: skip
    keys = ("teff", "logg", "feh", "rv_kms", "e_bv")
    out |= {k: None for key in keys for k in (key, f"{key}_err")}
    out |= dict.fromkeys(("scale", "scale_err", "grey", "slope", "chi2", "ndof", "misfit"))
    out |= {"template": "", "band_residuals": {}, "band_errors": {}, "spectrum_residuals": {}}
    if match is None:
        return out
    out |= {k: _number(getattr(match, k)) for k in keys}
    out |= {f"{k}_err": _number(match.error(k)) for k in keys}
    i = s.names.index(name)
    out |= {
        "flags": list(match.flags), "scale": _number(match.scale),
        "scale_err": _number(match.scale * match.error("log_scale")),
        "grey": _number(np.exp(s.log_grey[i])), "slope": _number(s.slope[i]),
        "chi2": _number(match.chi2), "ndof": int(match.ndof), "misfit": _number(match.misfit),
        "template": match.nearest,
        "band_residuals": {b: _number(v) for b, v in match.band_residuals.items()},
    }  # fmt: skip
    if photometry is not None:
        out["band_errors"] = {b: _number(photometry.get_band(b)[1]) for b in match.band_residuals}
        flux, variance = _star_flux(frame, fibre, calibration, name)
        seen = Spectrum1D(
            frame.fibre_wavelength(frame.row(fibre)), flux, variance, np.isfinite(flux)
        )
        out["spectrum_residuals"] = _spectrum_residuals(seen, photometry, match, standards)
    return out


def _spectrum_residuals(
    seen: Spectrum1D, photometry: Photometry, match: StarMatch, standards: StandardStars
) -> dict[str, float | None]:
    """Magnitudes of the calibrated spectrum itself less those of the catalogue."""
    out = {}
    for band in match.band_residuals:
        try:
            value = synthetic_photometry(seen, standards.curves[band])
        except PogsonError:
            continue  # the spectrum does not cover the band
        out[band] = _number(value - photometry.get_band(band)[0])
    return out


def _star_flux(
    frame: FibreSpectra, fibre: int, calibration: FluxCalibration, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated flux of a star, its own grey loss and slope taken out, and its variance."""
    row = frame.row(fibre)
    s = calibration.solution
    i = s.names.index(name)
    lam = frame.fibre_wavelength(row)
    factor = calibration.factor(
        lam, exposure_time=frame.exposure_time, airmass=frame.airmass, unit=frame.unit
    )
    if np.isfinite(s.log_grey[i]):
        x = np.log(lam) - 0.5 * sum(s.log_range)
        factor = factor / np.exp(s.log_grey[i] + s.slope[i] * x)
    ivar = frame.ivar[row]
    with np.errstate(divide="ignore"):
        return np.where(ivar > 0, frame.counts[row] * factor, np.nan), factor**2 / ivar


def _save_spectra(
    path: str, frame: FibreSpectra, calibration: FluxCalibration, standards: StandardStars
) -> None:
    """Write the arrays that the page draws: of every star and of the response."""
    from pogson.atomic import atomic_path

    s = calibration.solution
    arrays: dict[str, Any] = {}
    for k, (name, fibre) in enumerate(_star_rows(frame, standards)):
        match = calibration.matches.get(name)
        if match is None:
            continue
        row = frame.row(fibre)
        lam = frame.fibre_wavelength(row)
        flux, variance = _star_flux(frame, fibre, calibration, name)
        with np.errstate(divide="ignore", invalid="ignore"):
            expected = match.model / calibration.factor(
                lam, exposure_time=frame.exposure_time, airmass=frame.airmass, unit=frame.unit
            )
            ratio = np.where(frame.ivar[row] > 0, frame.counts[row] / expected, np.nan)
        parts = {
            "wavelength": lam, "flux": flux, "variance": variance, "model": match.model,
            "counts": np.where(frame.ivar[row] > 0, frame.counts[row], np.nan),
            "fit": match.fit, "ratio": ratio, "expected": expected,
        }  # fmt: skip
        arrays |= {f"star{k}_{n}": np.asarray(v, np.float64) for n, v in parts.items()}
    low, high = np.exp(s.log_range)
    lam = np.geomspace(low * (1 + 1e-9), high * (1 - 1e-9), 1500)
    fine = np.concatenate([np.linspace(a, b, 400) for a, b in s.config.telluric_regions] or [lam])
    fine = fine[(fine >= low) & (fine <= high)]
    arrays |= {
        "wavelength": lam, "response": s.response(lam),
        "noise": np.sqrt(s.noise_variance(lam)), "template": s.template_error(lam),
        "telluric_wavelength": s.telluric_wavelength, "telluric": s.telluric,
        "telluric_error": np.sqrt(s.telluric_variance),
        "bins": s.bins, "scatter": s.scatter,
    }  # fmt: skip
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


# ---- applying ------------------------------------------------------------------------------------


def apply_to_frame(job: ApplyJob) -> str:
    """Calibrate all fibres of a frame and write them to FITS."""
    from pogson.formats import write_calibrated_spectra

    section = job.config.frame
    if not job.is_standard_frame:
        section = section.model_copy(
            update={"exposure_time": None, "airmass": None, "extension": None}
        )
    frame = read_frame(section, Path(job.frame))
    calibration = load_calibration(job.calibration)
    record = json.loads(Path(job.record).read_text(encoding="utf-8"))
    spectra = apply_calibration(frame, calibration)
    vector, components = _frame_vector(frame, calibration)
    solution = calibration.solution
    keywords = {
        "EXPTIME": (frame.exposure_time, "[s] exposure time of this frame"),
        "AIRMASS": (frame.airmass, "airmass of this frame"),
        "FCALXSTD": (calibration.airmass, "airmass of the standards"),
        "FCALTSTD": (calibration.exposure_time, "[s] exposure time of the standards"),
        "FCALSERR": (solution.log_scale_error, "error of the scale, fraction"),
        "FCALGREY": (solution.grey_scatter, "scatter of ln(fibre loss)"),
        "FCALREAC": (solution.template_reach, "reach of template errors, ln(wavelength)"),
    }
    images = {} if frame.lsf_sigma is None else {"LSF_SIGMA": frame.lsf_sigma}
    write_calibrated_spectra(
        job.output, spectra.wavelength, spectra.flux, spectra.ivar, spectra.mask,
        fibre_ids=spectra.fibre_ids, names=spectra.names,
        places=(frame.meta["ra"], frame.meta["dec"]) if "ra" in frame.meta else None,
        stars=[_fits_star(s, record["bands"]) for s in record["stars"]],
        calibration=vector, components=components, keywords=keywords,
        history=[f"frame {Path(job.frame).name}", f"templates {job.config.templates.path}",
                 f"atmospheric extinction {job.config.model.extinction or 'none'}"],
        images=images | _covariance(calibration),
    )  # fmt: skip
    return f"{int(np.sum(spectra.mask == 0))} good pixels"


def _frame_vector(
    frame: FibreSpectra, calibration: FluxCalibration
) -> tuple[CalibrationVector, dict[str, np.ndarray]]:
    """Factor of a frame with its errors, and their components as fractions."""
    lam = frame.wavelength if frame.wavelength.ndim == 1 else frame.wavelength[0]
    s = calibration.solution
    factor = calibration.factor(
        lam, exposure_time=frame.exposure_time, airmass=frame.airmass, unit=frame.unit
    )
    parts = {n: np.sqrt(s.log_variance(lam, [n])) for n in ("noise", "scale", "template")}
    with np.errstate(invalid="ignore"):
        variance = factor**2 * sum(p**2 for p in parts.values())
    vector = CalibrationVector(lam, factor, variance, meta={"bunit": frame.unit})
    return vector, {f"{n}_error": v for n, v in parts.items()}


def _covariance(calibration: FluxCalibration) -> dict[str, np.ndarray]:
    """Covariance of ln(response) on a coarse grid, component by component."""
    s = calibration.solution
    low, high = np.exp(s.log_range)
    lam = np.geomspace(low * (1 + 1e-9), high * (1 - 1e-9), _COVARIANCE_SAMPLES)
    parts = {f"COV_{n.upper()}": s.log_covariance(lam, [n]) for n in ("noise", "scale", "template")}
    return {"COV_WAVELENGTH": lam, **parts}


def _fits_star(star: dict[str, Any], bands: Sequence[str]) -> dict[str, Any]:
    """One row of the table STARS."""
    numbers = (
        "sn", "teff", "teff_err", "logg", "feh", "rv_kms", "rv_kms_err", "e_bv", "e_bv_err",
        "scale", "grey", "slope", "misfit",
    )  # fmt: skip
    out: dict[str, Any] = {"name": star["name"], "fibre": star["fibre"], "used": star["used"]}
    out |= {n: float("nan") if star[n] is None else float(star[n]) for n in numbers}
    for band in bands:
        value = star["band_residuals"].get(band)
        out[f"d_{band}"] = float("nan") if value is None else float(value)
    out |= {"template": star["template"], "flags": "; ".join(star["flags"])}
    return out | {"rejected": star["rejected"]}
