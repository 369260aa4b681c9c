"""The functions of kspecdr's flux calibration, with the same names and arguments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np

from pogson.errors import MissingDataError, PogsonValueError, choices
from pogson.sed import Spectrum, bandpass_coverage, synthetic_magnitude
from pogson.spectro.calibrate import grid_photometry
from pogson.spectro.containers import (
    CalibrationVector,
    FluxCalibrationResult,
    Photometry,
    Spectrum1D,
    StellarTemplate,
)
from pogson.spectro.grid_photometry import GridPhotometry, as_bands
from pogson.spectro.kspecdr_apply import apply_flux_calibration, shared_conditions
from pogson.spectro.line_spread import LineSpread
from pogson.spectro.mask_regions import load_mask_regions, outside_regions
from pogson.spectro.matching import MatchConfig, StarMatch, StarSpectrum, match_star
from pogson.spectro.throughput import ResponseConfig, StandardData, solve_response

__all__ = [
    "apply_flux_calibration",
    "combine_calibration_vectors",
    "compute_calibration_vector_for_star",
    "scale_template_to_photometry",
    "select_best_template",
]

_FLOOR = 0.01


def _sigma(wavelength: np.ndarray, fwhm: Any, coefficients: Sequence[float] | None) -> np.ndarray:
    if coefficients is not None:
        return LineSpread.from_fwhm(np.asarray(coefficients, np.float64)).sigma(wavelength)
    if isinstance(fwhm, LineSpread):
        return fwhm.sigma(wavelength)
    value = np.asarray(fwhm, np.float64)
    if not np.all(np.isfinite(value) & (value > 0)):
        raise PogsonValueError(
            f"instrument_fwhm_angstrom is {fwhm!r}; give the FWHM of the line spread in Angstrom."
        )
    if value.shape not in ((), (1,), wavelength.shape):
        raise PogsonValueError(
            f"instrument_fwhm_angstrom has shape {value.shape}; give one width, or one for each of "
            f"{wavelength.size} pixels. A polynomial is fwhm_poly_coeffs."
        )
    return np.broadcast_to(value / 2.3548200450309493, wavelength.shape)


def _masked_star(
    observed: Spectrum1D,
    sigma: np.ndarray,
    regions: Iterable[tuple[float, float]] | None,
    name: str,
) -> StarSpectrum:
    ranges = load_mask_regions() if regions is None else list(regions)
    lam, ivar = observed.wavelength, observed.ivar.copy()
    ivar[~outside_regions(lam, ranges)] = 0.0
    return StarSpectrum(lam, np.nan_to_num(observed.flux), ivar, sigma, name)


def select_best_template(
    observed: Spectrum1D,
    library: Any,
    instrument_fwhm_angstrom: Any,
    fwhm_poly_coeffs: Sequence[float] | None = None,
    mask_regions: Iterable[tuple[float, float]] | None = None,
    metric: Literal["chi2", "huber"] = "chi2",
    photometry: Photometry | None = None,
    filter_curves: Any = None,
) -> tuple[StellarTemplate, float, dict[str, Any]]:
    """Return the model of a star between the nodes of a library, its velocity, and statistics.

    Parameters
    ----------
    observed : Spectrum1D
        Counts or flux.
    library : TemplateLibrary, ModelGrid or GridPhotometry
        The models.
    instrument_fwhm_angstrom : float, array_like or LineSpread
        FWHM of the line spread in Angstrom.
    fwhm_poly_coeffs : sequence of float, optional
        FWHM as a polynomial c0 + c1 lambda + ... instead.
    mask_regions : list of (float, float), optional
        Ranges left out; the telluric bands by default.
    metric : {"chi2", "huber"}, optional
        What is minimised.
    photometry, filter_curves : optional
        Colours that have a say too. Without them E(B-V) stays at 0 and only lines count.

    Returns
    -------
    template : StellarTemplate
        The spectrum at rest, at the library's own resolution.
    rv_kms : float
        Radial velocity. Give it to `prepare_template`: the template is not shifted.
    stats : dict
        best_score (reduced chi-square), chi2, ndof, runner_up_score, n_candidates, teff_range,
        best_params, errors, misfit, flags, match.

    Examples
    --------
    >>> from pogson.simulate import simulate_fibres
    >>> sim = simulate_fibres(seed=3, n_stars=1, n_fibres=1)
    >>> sigma = sim.frame.lsf_sigma
    >>> best, rv, stats = select_best_template(sim.frame.spectrum(0), sim.library, 2.3548 * sigma)
    >>> bool(abs(rv - sim.targets[0].rv_kms) < 20), stats["n_candidates"]
    (True, 27)
    """
    bands = {} if filter_curves is None else as_bands(filter_curves)
    if photometry is None:
        phot, photometry = _any_scale(library)
    else:
        phot = grid_photometry(library, bands)
    sigma = _sigma(observed.wavelength, instrument_fwhm_angstrom, fwhm_poly_coeffs)
    star = _masked_star(observed, sigma, mask_regions, "")
    config = MatchConfig(metric=metric, e_bv_error=0.05 if bands else 1e-4)
    match = match_star(star, photometry, phot, config)
    grid = phot.grid
    template = StellarTemplate(
        grid.wavelength,
        grid.spectrum(match.teff, match.logg, match.feh),
        teff=match.teff,
        logg=match.logg,
        feh=match.feh,
        source=f"interpolated; nearest node {match.nearest}",
        native_sigma=grid.native_sigma * grid.wavelength,
    )
    stats = {
        "best_score": match.chi2 / max(match.ndof, 1),
        "chi2": match.chi2,
        "ndof": match.ndof,
        "runner_up_score": match.runner_up_chi2 / max(match.ndof, 1),
        "n_candidates": grid.flux.shape[0],
        "teff_range": tuple(grid.limits[0]),
        "best_params": {"teff": match.teff, "logg": match.logg, "feh": match.feh},
        "errors": {p: match.error(p) for p in ("teff", "logg", "feh", "rv_kms", "e_bv")},
        "misfit": match.misfit,
        "flags": match.flags,
        "match": match,
    }
    return template, match.rv_kms, stats


def _any_scale(library: Any) -> tuple[GridPhotometry, Photometry]:
    """Return a band that only fixes the meaningless scale of a star without photometry."""
    from pogson.sed import Bandpass

    base = library.grid if isinstance(library, GridPhotometry) else library
    lam = base.wavelength
    a, b = float(lam[0]), float(lam[-1])
    edges = np.array([a, a + 1e-3 * (b - a), b - 1e-3 * (b - a), b])
    box = Bandpass("all", edges, np.array([0.0, 1.0, 1.0, 0.0]))
    return grid_photometry(base, {"all": box}), Photometry(("all",), [20.0], [0.05])


def scale_template_to_photometry(
    template_spec: Any, photometry: Photometry, filter_curves: Any
) -> tuple[float, float, dict[str, float]]:
    r"""Factor that brings a template to a star's magnitudes.

    Parameters
    ----------
    template_spec : Spectrum1D, StellarTemplate or Spectrum
        The template on its full wavelength range, not cut to that of the spectrograph.
    photometry : Photometry
        AB magnitudes.
    filter_curves : mapping or sequence
        Curves by the names of the photometry.

    Returns
    -------
    scale_factor, scale_error : float
        The factor and its error.
    band_residuals : dict
        Synthetic minus observed magnitude after scaling, of the bands used.

    Raises
    ------
    MissingDataError
        If no band is usable. A scale that nobody measured is never 1.

    Notes
    -----
    Weighted least squares on fluxes, an error of 0.01 mag added to every band in quadrature. Bands
    covered less than 99 % by the template are left out. If the bands differ by more than their
    errors the error of the scale grows in proportion.

    Examples
    --------
    >>> from pogson.sed import load_filter_curves
    >>> lam = np.linspace(3500.0, 10000.0, 2000)
    >>> flat = Spectrum1D(lam, 3.631e-20 * 2.998e18 / lam**2)     # AB magnitude 0
    >>> curves = load_filter_curves(["ps1_g", "ps1_r"])
    >>> scale, error, left = scale_template_to_photometry(
    ...     flat, Photometry(("ps1_g", "ps1_r"), [15.0, 15.0], [0.01, 0.01]), curves)
    >>> round(scale * 1e6, 3), round(error / scale, 4), sorted(left)
    (1.0, 0.0092, ['ps1_g', 'ps1_r'])
    """
    bands = as_bands(filter_curves)
    lam = np.asarray(template_spec.wavelength, np.float64)
    spectrum = Spectrum(lam, np.asarray(template_spec.flux, np.float64))
    synthetic, observed, error, names, short = [], [], [], [], []
    for name in photometry.valid_bands():
        if name not in bands:
            continue
        covered = bandpass_coverage(spectrum, bands[name])
        if covered < 0.99:
            short.append(f"{name} ({100 * covered:.0f} % covered)")
            continue
        mag, err = photometry.get_band(name)
        with np.errstate(divide="ignore", invalid="ignore"):
            bright = 10 ** (-0.4 * synthetic_magnitude(spectrum, bands[name]))
        if not (np.isfinite(bright) and bright > 0):
            short.append(f"{name} (no light of the template)")
            continue
        synthetic.append(bright)
        observed.append(10 ** (-0.4 * mag))
        error.append(observed[-1] * 0.4 * np.log(10) * np.hypot(err, _FLOOR))
        names.append(name)
    if not names:
        raise MissingDataError(
            f"No band can set the scale: the photometry has "
            f"{choices(photometry.valid_bands()) or 'none'}, "
            f"the curves {choices(list(bands)) or 'none'}; unusable: {', '.join(short) or 'none'}."
        )
    f, d, w = np.array(synthetic), np.array(observed), np.array(error) ** -2.0
    scale = float(np.sum(w * f * d) / np.sum(w * f * f))
    chi2 = float(np.sum(w * (d - scale * f) ** 2))
    inflate = max(1.0, chi2 / max(len(names) - 1, 1))
    residuals = {
        n: float(-2.5 * np.log10(scale * a / b)) for n, a, b in zip(names, f, d, strict=True)
    }
    return scale, float(np.sqrt(inflate / np.sum(w * f * f))), residuals


def compute_calibration_vector_for_star(
    observed: Spectrum1D,
    photometry: Photometry,
    library: Any,
    filter_curves: Any,
    instrument_fwhm_angstrom: Any,
    fwhm_poly_coeffs: Sequence[float] | None = None,
    mask_regions: Iterable[tuple[float, float]] | None = None,
    metric: Literal["chi2", "huber"] = "chi2",
    star_name: str = "",
    fiber_id: int = -1,
) -> CalibrationVector:
    """Match one star and return flux density per count at every pixel.

    Parameters
    ----------
    observed : Spectrum1D
        Counts.
    photometry : Photometry
        AB magnitudes.
    library, filter_curves, instrument_fwhm_angstrom, fwhm_poly_coeffs, mask_regions, metric
        See `select_best_template`.
    star_name, fiber_id : str, int, optional
        Kept in ``meta``.

    Returns
    -------
    CalibrationVector
        One factor a pixel. Masked and telluric pixels are NaN and not good; where the count is
        zero or negative the factor does not exist and is NaN too, but ``meta`` carries counts and
        model, and `combine_calibration_vectors` uses them all.

    Notes
    -----
    The model is shifted by the star's radial velocity, reddened, seen through the line spread and
    scaled to the photometry. The variance adds the noise of the counts, the scale and the errors
    of the model.

    Examples
    --------
    >>> from pogson.simulate import simulate_fibres
    >>> from pogson.sed import load_filter_curves
    >>> sim = simulate_fibres(seed=3, n_stars=1, n_fibres=1, sn=(80, 90))
    >>> phot = sim.standards["star 1"]
    >>> vector = compute_calibration_vector_for_star(
    ...     sim.frame.spectrum(0), phot, sim.library, load_filter_curves(phot.filter_names),
    ...     2.3548 * sim.frame.lsf_sigma, star_name="star 1")
    >>> ratio = (vector.cal_factor / sim.true_factor())[vector.mask]
    >>> bool(abs(np.median(ratio) - 1) < 0.04), bool(abs(vector.meta["rv_kms"]) < 160)
    (True, True)
    """
    phot = grid_photometry(library, as_bands(filter_curves))
    sigma = _sigma(observed.wavelength, instrument_fwhm_angstrom, fwhm_poly_coeffs)
    star = _masked_star(observed, sigma, mask_regions, star_name)
    match = match_star(star, photometry, phot, MatchConfig(metric=metric))
    counts, ivar = np.asarray(observed.flux), star.ivar
    good = (ivar > 0) & np.isfinite(match.model) & (counts > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.where(good, match.model / counts, np.nan)
        relative = 1.0 / (ivar * counts**2) + np.sum(match.shape_modes**2, axis=0)
    meta = {
        "star_name": star_name,
        "fiber_id": fiber_id,
        "teff": match.teff,
        "logg": match.logg,
        "feh": match.feh,
        "alpha_m": 0.0,
        "rv_kms": match.rv_kms,
        "rv_error_kms": match.error("rv_kms"),
        "e_bv": match.e_bv,
        "scale_factor": match.scale,
        "scale_error": match.scale * _scale_error(match),
        "band_residuals": match.band_residuals,
        "chi2": match.chi2,
        "ndof": match.ndof,
        "n_candidates": int(phot.grid.flux.shape[0]),
        "flags": match.flags,
        "misfit": match.misfit,
        "counts": np.where(ivar > 0, counts, np.nan),
        "ivar": ivar,
        "model": match.model,
        "shape_modes": match.shape_modes,
        **{k: v for k, v in observed.meta.items() if k in ("exptime", "airmass", "bunit")},
    }
    return CalibrationVector(
        observed.wavelength, factor, np.where(good, factor**2 * relative, np.nan), good, meta
    )


def _scale_error(match: StarMatch) -> float:
    """Error of the level of ln(model) over the spectrum."""
    return float(np.sqrt(np.sum(np.mean(match.shape_modes, axis=1) ** 2)))


def combine_calibration_vectors(
    vectors: Sequence[CalibrationVector],
    method: Literal["weighted_mean", "median"] = "weighted_mean",
    sigma_clip: float = 3.0,
    smooth: bool = False,
    smooth_window: int = 51,
) -> FluxCalibrationResult:
    """Combine the calibration vectors of several stars into one, and say which were not used.

    Parameters
    ----------
    vectors : sequence of CalibrationVector
        From `compute_calibration_vector_for_star`, all on one grid.
    method : {"weighted_mean", "median"}, optional
        How stars are combined at each pixel: the mean throughput, weighted by noise and template
        mismatch, or the median of the stars' throughputs after their grey losses are taken out.
    sigma_clip : float, optional
        Pixels further from the solution than this many sigma lose weight.
    smooth : bool, optional
        Return the smooth response (a B-spline whose knots cross-validation chooses) instead of
        values pixel by pixel. Telluric and masked pixels stay masked.
    smooth_window : int, optional
        Pixels that one interval of the spline spans at least.

    Returns
    -------
    FluxCalibrationResult
        ``summary``: n_stars_used, n_stars_rejected, rejected (name and reason), rms_scatter (of
        the stars' shapes; NaN for one star), wavelength_range, per_star_metrics, grey (factor of
        each star), log_scale_error.

    Raises
    ------
    PogsonValueError
        If there are no vectors, grids or exposure times differ, the method is unknown or a number
        is not positive.

    Notes
    -----
    What is averaged is the throughput, counts over model, as a ratio of sums: the mean of
    model/counts is biased by the noise of the counts. Whole stars are rejected by
    `find_wrong_stars`, from three stars on.

    Examples
    --------
    >>> lam = np.linspace(4000.0, 7000.0, 400)
    >>> good = [CalibrationVector(lam, a * np.full(400, 2e-17), np.full(400, 1e-38),
    ...         meta={"star_name": str(a)}) for a in (0.9, 1.0, 1.1, 100.0)]
    >>> result = combine_calibration_vectors(good)
    >>> result.summary["n_stars_used"], list(result.summary["rejected"])
    (3, ['100.0'])
    """
    methods = ("weighted_mean", "median")
    if not vectors:
        raise PogsonValueError("There are no calibration vectors to combine; give at least one.")
    if method not in methods:
        raise PogsonValueError(f"Unknown method {method!r}; allowed: {choices(methods)}.")
    for key, value in (("sigma_clip", sigma_clip), ("smooth_window", smooth_window)):
        if not (isinstance(value, int | float | np.number) and np.isfinite(value) and value > 0):
            raise PogsonValueError(f"{key} is {value!r}; it must be a positive number.")
    lam = vectors[0].wavelength
    for v in vectors:
        if v.wavelength.shape != lam.shape or not np.allclose(v.wavelength, lam, rtol=0, atol=1e-3):
            raise PogsonValueError(
                f"{v!r} is not on the wavelengths of the first vector; resample the spectra first."
            )
    conditions = shared_conditions(vectors)
    stars = [_standard(v, i) for i, v in enumerate(vectors)]
    most = max(4, lam.size // max(int(smooth_window), 5))
    knots = tuple(k for k in (4, 8, 14, 20, 28, 40, 56, 80, 112, 160) if k <= most)
    solution = solve_response(stars, ResponseConfig(knots=knots, huber=sigma_clip))
    grey = np.exp(solution.log_grey)
    throughput, variance = _combined(stars, solution, grey, method, smooth)
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = 1.0 / throughput
        good = np.isfinite(factor) & (factor > 0)
        common = solution.log_scale_error**2 + solution.template_error(lam) ** 2
        total = factor**2 * (variance / throughput**2 + common)
    combined = CalibrationVector(
        lam, np.where(good, factor, np.nan), np.where(good, total, np.nan), good, conditions
    )
    residuals = []
    for v in vectors:
        with np.errstate(invalid="ignore"):
            residuals.append(
                np.where(v.mask & good, v.cal_factor / combined.cal_factor - 1, np.nan)
            )
    used = solution.used
    spread = solution.scatter[used]
    shape = spread - np.nanmean(spread, axis=1, keepdims=True)
    rms = float(np.sqrt(np.nansum(shape**2) / max((used.sum() - 1) * shape.shape[1], 1)))
    summary = {
        "n_stars_used": int(used.sum()),
        "n_stars_rejected": int((~used).sum()),
        "rejected": solution.rejected,
        "rms_scatter": rms if used.sum() > 1 else float("nan"),
        "wavelength_range": (float(lam[good][0]), float(lam[good][-1])) if good.any() else None,
        "per_star_metrics": [dict(v.meta) for v in vectors],
        "grey": dict(zip(solution.names, grey.tolist(), strict=True)),
        "log_scale_error": solution.log_scale_error,
        "solution": solution,
    }
    return FluxCalibrationResult(combined, tuple(vectors), tuple(residuals), summary)


def _standard(vector: CalibrationVector, place: int) -> StandardData:
    meta = vector.meta
    name = str(meta.get("star_name") or f"star {place + 1}")
    if "counts" in meta and "model" in meta:
        return StandardData(
            name,
            vector.wavelength,
            np.asarray(meta["counts"]),
            np.asarray(meta["ivar"]),
            np.asarray(meta["model"]),
            log_scale_error=float(meta["scale_error"] / meta["scale_factor"]),
            shape_modes=meta.get("shape_modes"),
            misfit=float(meta.get("misfit", 0.0)),
        )
    # a vector from elsewhere: its inverse is the throughput, as counts of a model of 1e-17
    with np.errstate(divide="ignore", invalid="ignore"):
        counts = np.where(vector.mask, 1e-17 / vector.cal_factor, np.nan)
        relative = vector.cal_variance / vector.cal_factor**2
        floor = np.where(relative > 0, relative, 1e-6)
        ivar = np.where(vector.mask, 1.0 / (counts**2 * floor), 0.0)
    return StandardData(
        name, vector.wavelength, counts, np.nan_to_num(ivar), np.full(counts.size, 1e-17)
    )


def _combined(
    stars: Sequence[StandardData], solution: Any, grey: np.ndarray, method: str, smooth: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Throughput and its noise variance at each pixel; NaN where no star is good."""
    lam = stars[0].wavelength
    used = [i for i in range(len(stars)) if solution.used[i]]
    good = np.array(
        [
            (stars[i].ivar > 0) & np.isfinite(stars[i].model) & np.isfinite(stars[i].counts)
            for i in used
        ]
    )
    level = solution.response(lam)
    if smooth:
        known = good.any(axis=0) & np.isfinite(level)
        return np.where(known, level, np.nan), level**2 * solution.noise_variance(lam)
    x = np.log(lam) - 0.5 * sum(solution.log_range)
    t, v = [], []
    for i in used:
        s = stars[i]
        loss = s.model * grey[i] * np.exp(solution.slope[i] * x)
        with np.errstate(divide="ignore", invalid="ignore"):
            t.append(s.counts / loss)
            # weights from the expected, not the noisy, counts: the smooth response sets them
            v.append(1.0 / (s.ivar * loss**2))
    ratio, noise = np.where(good, t, np.nan), np.where(good, v, np.nan)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        smooth_v = np.array([_level(row) for row in noise])
        if method == "median":
            n = np.maximum(good.sum(axis=0), 1)
            factor = np.where(n > 2, np.pi / 2, 1.0)
            return np.nanmedian(ratio, axis=0), factor * np.nanmean(noise, axis=0) / n
        w = np.where(good, 1.0 / (smooth_v + (0.012 * level) ** 2), 0.0)
        total = w.sum(axis=0)
        mean = np.nansum(w * ratio, axis=0) / total
        return np.where(total > 0, mean, np.nan), np.nansum(w**2 * noise, axis=0) / total**2


def _level(variance: np.ndarray) -> np.ndarray:
    """Running median of a variance, so that a pixel's weight does not know its own noise."""
    from scipy.ndimage import median_filter

    good = np.isfinite(variance)
    if not good.any():
        return variance
    filled = np.interp(np.arange(variance.size), np.flatnonzero(good), variance[good])
    return np.asarray(median_filter(filled, 51, mode="nearest"))
