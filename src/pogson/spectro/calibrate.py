"""From a frame with standard stars to its flux calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from pogson.errors import CalibrationError, MissingDataError, PogsonError, PogsonValueError
from pogson.parallel import get_executor, usable_cores
from pogson.sed import load_filter_curves
from pogson.spectro.atmosphere_extinction import AtmosphereExtinction, load_atmosphere_extinction
from pogson.spectro.containers import CalibrationVector, Photometry
from pogson.spectro.frame import FibreSpectra
from pogson.spectro.grid_photometry import GridPhotometry, as_bands
from pogson.spectro.mask_regions import load_mask_regions
from pogson.spectro.matching import MatchConfig, StarMatch, StarSpectrum, match_star
from pogson.spectro.model_grid import ModelGrid
from pogson.spectro.resample import pixel_edges
from pogson.spectro.throughput import (
    ResponseConfig,
    ResponseSolution,
    StandardData,
    solve_response,
)

__all__ = ["FluxCalConfig", "FluxCalibration", "calibrate_fibres", "grid_photometry"]

_C_KMS = 299792.458


@dataclass(frozen=True)
class FluxCalConfig:
    """How a frame is calibrated.

    Parameters
    ----------
    match : MatchConfig, optional
        How stars are matched with models.
    response : ResponseConfig, optional
        How the response is solved. Its telluric regions default to those of ``mask_regions``.
    mask_regions : str, optional
        Name of the telluric regions, see `load_mask_regions`; left out of the matching.
    bands : mapping or sequence, optional
        Filter curves by the names the photometry uses; by default the known curves of its names.
    law, r_v : str, float, optional
        Extinction law of interstellar dust.
    extinction : str, AtmosphereExtinction or callable, optional
        Atmospheric extinction: an observatory of `OBSERVATORIES`, a curve, or a function that
        gives magnitudes per airmass at wavelengths in Angstrom. Without it the response holds for
        the airmass of the standards.
    workers : int, optional
        Threads that match stars; all usable cores by default.

    Examples
    --------
    >>> FluxCalConfig().mask_regions
    'telluric_default'
    >>> FluxCalConfig(extinction="paranal").extinction(np.array([4000.0])).round(3)
    array([0.338])
    """

    match: MatchConfig = field(default_factory=MatchConfig)
    response: ResponseConfig = field(default_factory=ResponseConfig)
    mask_regions: str = "telluric_default"
    bands: Any = None
    law: str = "F99"
    r_v: float = 3.1
    extinction: Any = None
    workers: int | None = None

    def __post_init__(self) -> None:
        curve = self.extinction
        if isinstance(curve, str):
            curve = load_atmosphere_extinction(curve)
        if isinstance(curve, AtmosphereExtinction):
            # beyond the red end of a table extinction is small and flat
            object.__setattr__(self, "extinction", partial(curve, extrapolate=True))
        elif curve is not None and not callable(curve):
            raise PogsonValueError(
                f"extinction is {curve!r}; give the name of an observatory, an "
                f"AtmosphereExtinction or a function of the wavelength."
            )


@dataclass(frozen=True, eq=False)
class FluxCalibration:
    """The calibration of a frame: response, errors, stars; can be evaluated anywhere.

    Parameters
    ----------
    solution : ResponseSolution
        Response in counts per second and Angstrom for a flux density of 1 erg/s/cm2/Angstrom
        (per exposure if its time is unknown), telluric transmission, grey losses, errors.
    matches : dict of str to StarMatch
        The model of every star that could be matched.
    failures : dict of str to str
        Stars that could not be matched, and why.
    wavelength : ndarray
        Wavelengths of the first standard.
    exposure_time, airmass : float
        Of the frame.
    unit : str
        Count unit of the frame.
    config : FluxCalConfig
        How it was made.

    Examples
    --------
    See `calibrate_fibres`.

    >>> FluxCalibration.__name__
    'FluxCalibration'
    """

    solution: ResponseSolution
    matches: dict[str, StarMatch]
    failures: dict[str, str]
    wavelength: np.ndarray
    exposure_time: float
    airmass: float
    unit: str
    config: FluxCalConfig

    @property
    def rejected(self) -> dict[str, str]:
        """Every star that was not used, and why."""
        return {**self.failures, **self.solution.rejected}

    def factor(
        self,
        wavelength: Any,
        *,
        exposure_time: float | None = None,
        airmass: float | None = None,
        unit: str | None = None,
    ) -> np.ndarray:
        """Flux density of one count at each wavelength: erg/s/cm2/Angstrom; NaN where not covered.

        Parameters
        ----------
        wavelength : array_like, shape (n,)
            Vacuum Angstrom, pixel centres. Where counts are per pixel their spacing is the pixels'
            width: give all pixels, not every tenth.
        exposure_time, airmass, unit : optional
            Of the spectrum; by default those of the standards' frame.

        Raises
        ------
        CalibrationError
            If the airmass differs by more than 0.05 and no extinction curve was given, or an
            exposure time, or with an extinction curve an airmass, is needed and unknown (NaN).
        """
        lam = np.asarray(wavelength, np.float64)
        x = self.airmass if airmass is None else float(airmass)
        expected = _expected(
            lam,
            self.exposure_time if exposure_time is None else exposure_time,
            self.unit if unit is None else unit,
            self.exposure_time,
        )
        curve = self.config.extinction
        if curve is not None:
            if not np.isfinite(x):
                raise CalibrationError(
                    "The airmass of the spectrum is unknown, so the extinction curve cannot be "
                    "used; set FibreSpectra.airmass (the header card AIRMASS, or frame.airmass)."
                )
            expected = expected * 10 ** (-0.4 * curve(lam) * x)
        elif np.isfinite(x) and np.isfinite(self.airmass) and abs(x - self.airmass) > 0.05:
            raise CalibrationError(
                f"The spectrum was taken at airmass {x:.3f}, the standards at {self.airmass:.3f}; "
                f"give FluxCalConfig an extinction curve to correct the difference."
            )
        tell = self.solution.transmission(lam, x)
        with np.errstate(divide="ignore", invalid="ignore"):
            out = 1.0 / (self.solution.response(lam) * tell * expected)
        return np.where((tell > 0.02) & (out > 0), out, np.nan)

    def factor_for(self, frame: FibreSpectra) -> np.ndarray:
        """The factor at the pixels of a frame, in the shape of its wavelengths."""
        how = {
            "exposure_time": frame.exposure_time, "airmass": frame.airmass, "unit": frame.unit
        }  # fmt: skip
        if frame.wavelength.ndim == 1:
            return self.factor(frame.wavelength, **how)  # type: ignore[arg-type]
        return np.array([self.factor(row, **how) for row in frame.wavelength])  # type: ignore[arg-type]

    def vector(self, wavelength: Any = None) -> CalibrationVector:
        """Return factor and total variance at wavelengths (default: the first standard's)."""
        lam = self.wavelength if wavelength is None else np.asarray(wavelength, np.float64)
        factor = self.factor(lam)
        s = self.solution
        meta = {
            "stars": s.names_used, "rejected": self.rejected, "log_scale_error": s.log_scale_error,
        }  # fmt: skip
        return CalibrationVector(lam, factor, factor**2 * s.log_variance(lam), meta=meta)

    def __repr__(self) -> str:
        return f"FluxCalibration({self.solution!r})"


def _expected(lam: np.ndarray, exposure_time: float, unit: str, fallback: float) -> np.ndarray:
    """Counts of a flux density of 1 through a response of 1."""
    out = np.ones(lam.size)
    if not unit.endswith("/Angstrom"):
        edges = pixel_edges(lam)
        out = np.diff(edges)
    if "/s" not in unit:
        time = exposure_time
        if not np.isfinite(time):
            if np.isfinite(fallback):
                raise CalibrationError(
                    "The exposure time of the frame is unknown but that of the standards is "
                    f"{fallback:g} s; set FibreSpectra.exposure_time."
                )
            time = 1.0
        elif not np.isfinite(fallback):
            raise CalibrationError(
                f"The exposure time of the standards was unknown; a frame of {time:g} s cannot be "
                f"calibrated with them."
            )
        out = out * time
    return out


def grid_photometry(
    library: Any, bands: Any, *, law: str = "F99", r_v: float = 3.1
) -> GridPhotometry:
    """Return the models of a library with their photometry, to be used for many frames.

    Parameters
    ----------
    library : TemplateLibrary, ModelGrid or GridPhotometry
        The models; a GridPhotometry is returned as it is.
    bands : mapping or sequence of Bandpass or FilterCurve
        Filter curves by the names the photometry uses.
    law, r_v : str, float, optional
        Extinction law.

    Raises
    ------
    CalibrationError
        If models have no Teff, log g or [Fe/H].

    Examples
    --------
    >>> from pogson.spectro import TemplateLibrary
    >>> lam = np.geomspace(3500.0, 9500.0, 3000)
    >>> library = TemplateLibrary.from_arrays(lam, [lam**-2, lam**-2.5], teff=[6000, 6500], logg=4,
    ...                                       feh=0)
    >>> grid_photometry(library, load_filter_curves(["ps1_g", "ps1_r"])).names
    ('ps1_g', 'ps1_r')
    """
    if isinstance(library, GridPhotometry):
        return library
    grid = library
    if not isinstance(library, ModelGrid):
        labels = np.array([library.teff, library.logg, library.feh])
        if not np.all(np.isfinite(labels)):
            raise CalibrationError(
                f"{int(np.sum(~np.isfinite(labels).all(axis=0)))} models of {library!r} have no "
                f"Teff, log g or [Fe/H]; they cannot be interpolated."
            )
        sigma = np.asarray(library.native_sigma, np.float64)
        sampling = np.gradient(library.wavelength)
        fine = bool(np.median(sigma / sampling) > 2.5) or not np.any(sigma > 0)
        with np.errstate(divide="ignore"):
            resolution = (
                library.wavelength / (2.3548200450309493 * sigma) if np.any(sigma > 0) else None
            )
        grid = ModelGrid.from_arrays(
            library.wavelength, library.flux, library.teff, library.logg, library.feh,
            resolution=resolution, oversample=1 if fine else 3, names=library.sources,
        )  # fmt: skip
    return GridPhotometry(grid, as_bands(bands), law, r_v)


def _standards(standards: Any) -> list[tuple[int | str, Photometry]]:
    items = list(standards.items()) if isinstance(standards, Mapping) else list(standards)
    if not items:
        raise MissingDataError("No standard star was given; give {fibre id or name: Photometry}.")
    for item in items:
        if len(item) != 2 or not isinstance(item[1], Photometry):
            raise PogsonValueError(
                f"A standard is a fibre (id or name) and its Photometry, not {item!r}."
            )
    return items


def _star_spectrum(
    frame: FibreSpectra, row: int, name: str, regions: Sequence[tuple[float, float]]
) -> StarSpectrum:
    lam = frame.fibre_wavelength(row)
    if frame.lsf_sigma is None:
        raise MissingDataError(
            "The frame has no line-spread function; models cannot be matched. Set "
            "FibreSpectra.lsf_sigma (Angstrom)."
        )
    sigma = frame.lsf_sigma if frame.lsf_sigma.ndim == 1 else frame.lsf_sigma[row]
    outside = np.zeros(lam.size, bool)
    for low, high in regions:
        outside |= (lam >= low) & (lam <= high)
    ivar = np.where(outside, 0.0, frame.ivar[row])
    return StarSpectrum(lam, frame.counts[row], ivar, sigma, name)


def calibrate_fibres(
    frame: FibreSpectra,
    standards: Mapping[int | str, Photometry] | Sequence[tuple[int | str, Photometry]],
    library: Any,
    config: FluxCalConfig | None = None,
) -> FluxCalibration:
    """Match every standard with a model, solve for the response, reject stars that do not belong.

    Parameters
    ----------
    frame : FibreSpectra
        Counts with their line spread, exposure time and airmass.
    standards : mapping of fibre to Photometry
        Fibres by id (int) or by the name of their target (str), with AB magnitudes.
    library : TemplateLibrary, ModelGrid or GridPhotometry
        The models. A GridPhotometry, made once by `grid_photometry`, saves time over many frames.
    config : FluxCalConfig, optional
        How.

    Returns
    -------
    FluxCalibration

    Raises
    ------
    MissingDataError
        If a standard is not in the frame, or the frame has no line spread.
    PogsonValueError
        If a fibre or a name is given twice.
    CalibrationError
        If no standard could be matched; every reason is in the message. If there is an extinction
        curve and the airmass of the frame is unknown.

    Examples
    --------
    >>> from pogson.simulate import simulate_fibres
    >>> sim = simulate_fibres(seed=5, n_stars=4, n_fibres=6)
    >>> calibration = calibrate_fibres(sim.frame, sim.standards, sim.library)
    >>> calibration.rejected
    {}
    >>> ratio = calibration.factor(sim.frame.wavelength) / sim.true_factor()
    >>> bool(np.nanstd(ratio) < 0.02)
    True
    """
    from threadpoolctl import threadpool_limits

    config = config or FluxCalConfig()
    if config.extinction is not None and not np.isfinite(frame.airmass):
        raise CalibrationError(
            "The airmass of the frame is unknown, so the extinction curve cannot be used; set "
            "FibreSpectra.airmass (the header card AIRMASS, or frame.airmass)."
        )
    items = _standards(standards)
    rows = [frame.row(fibre) for fibre, _ in items]
    names = [frame.names[r] or f"fibre {frame.fibre_ids[r]}" for r in rows]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise PogsonValueError(f"The star {twice[0]!r} is given twice; names must differ.")
    bands = config.bands
    if bands is None:
        bands = load_filter_curves(sorted({b for _, p in items for b in p.filter_names}))
    phot = grid_photometry(library, bands, law=config.law, r_v=config.r_v)
    regions = load_mask_regions(config.mask_regions)

    response = config.response
    if not response.telluric_regions:
        response = replace(response, telluric_regions=tuple(regions))
    stars: dict[str, StarSpectrum | str] = {}
    for name, row in zip(names, rows, strict=True):
        try:
            stars[name] = _star_spectrum(frame, row, name, regions)
        except PogsonError as error:
            stars[name] = str(error)
    given = dict(zip(names, items, strict=True))
    with threadpool_limits(1):  # the matrices are small
        solution, matches, failures = _solve(frame, rows, stars, given, phot, config, response)
    return FluxCalibration(
        solution,
        matches,
        failures,
        frame.fibre_wavelength(rows[0]),
        frame.exposure_time,
        frame.airmass,
        frame.unit,
        config,
    )


def _solve(
    frame: FibreSpectra,
    rows: Sequence[int],
    stars: Mapping[str, StarSpectrum | str],
    standards: Mapping[str, tuple[int | str, Photometry]],
    phot: GridPhotometry,
    config: FluxCalConfig,
    response: ResponseConfig,
) -> tuple[ResponseSolution, dict[str, StarMatch], dict[str, str]]:
    """Match and solve, and once more with the response of all stars instead of each one's own."""
    earlier: tuple[ResponseSolution, Mapping[str, StarMatch], Mapping[str, str]] | None = None
    while True:
        matches, failures = _match_all(stars, standards, phot, config, earlier)
        if not matches:
            raise CalibrationError(
                "No standard star could be matched. "
                + " ".join(f"{n}: {r}" for n, r in failures.items())
            )
        data = [
            _standard_data(frame, row, matches[name], config)
            for name, row in zip(stars, rows, strict=True)
            if name in matches
        ]
        solution = solve_response(data, response)
        if earlier is not None:
            return solution, matches, failures
        earlier = (solution, matches, failures)


def _match_all(
    stars: Mapping[str, StarSpectrum | str],
    standards: Mapping[str, tuple[int | str, Photometry]],
    phot: GridPhotometry,
    config: FluxCalConfig,
    earlier: tuple[ResponseSolution, Mapping[str, StarMatch], Mapping[str, str]] | None,
) -> tuple[dict[str, StarMatch], dict[str, str]]:
    """Match stars in threads; the matches, and why others could not be matched."""

    def task(name: str) -> StarMatch | str:
        star = stars[name]
        if isinstance(star, str):
            return star
        try:
            if earlier is None:
                return match_star(star, standards[name][1], phot, config.match)
            if name not in earlier[1]:
                return earlier[2][name]
            response = earlier[0].response(star.wavelength)
            return match_star(
                star,
                standards[name][1],
                phot,
                config.match,
                response=response,
                start=earlier[1][name],
            )
        except PogsonError as error:
            return str(error)

    workers = max(1, min(config.workers or usable_cores(), len(stars)))
    with get_executor(workers, kind="threads" if workers > 1 else "serial") as executor:
        outcomes = dict(zip(stars, executor.map(task, stars), strict=True))
    return (
        {n: o for n, o in outcomes.items() if not isinstance(o, str)},
        {n: o for n, o in outcomes.items() if isinstance(o, str)},
    )


def _standard_data(
    frame: FibreSpectra, row: int, match: StarMatch, config: FluxCalConfig
) -> StandardData:
    lam = frame.fibre_wavelength(row)
    airmass = frame.airmass if np.isfinite(frame.airmass) else 1.0
    expected = _expected(lam, frame.exposure_time, frame.unit, frame.exposure_time)
    if config.extinction is not None:
        expected = expected * 10 ** (-0.4 * config.extinction(lam) * airmass)
    scale_error = float(np.sqrt(np.sum(np.mean(match.shape_modes, axis=1) ** 2)))
    return StandardData(
        match.name,
        lam,
        frame.counts[row],
        frame.ivar[row],
        match.model * expected,
        airmass,
        scale_error,
        match.shape_modes,
        match.misfit,
        match.shape,
    )
