"""What goes into and comes out of a spectral flux calibration; immutable, checked when made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import IntFlag
from typing import Any

import numpy as np

from pogson.errors import MissingDataError, PogsonValueError, choices
from pogson.sed import FilterCurve, Spectrum
from pogson.spectro._checks import (
    check_wavelengths,
    freeze,
    inverse,
    per_pixel,
)

__all__ = [
    "CalibrationVector",
    "FilterCurve",
    "FluxCalibrationResult",
    "Photometry",
    "PixelMask",
    "Spectrum1D",
    "StellarTemplate",
]

_MEDIA = ("vacuum", "air")


class PixelMask(IntFlag):
    """Why a pixel of a fibre spectrum is not used; 0 is good.

    Examples
    --------
    >>> PixelMask.FLAGGED | PixelMask.NO_IVAR
    <PixelMask.NO_IVAR|FLAGGED: 6>
    """

    NOT_FINITE = 1
    """The count was NaN or infinite."""
    NO_IVAR = 2
    """Inverse variance zero or not finite: nothing is known about the noise."""
    FLAGGED = 4
    """Masked by whoever extracted the spectrum."""
    OUTSIDE = 8
    """Outside the wavelengths that the calibration covers."""
    TELLURIC = 16
    """Inside a telluric band that was not corrected."""


def _meta(meta: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a private copy of free-form metadata."""
    return dict(meta or {})


class _Comparable:
    """Equality of frozen containers of arrays, field by field, NaN equal to NaN."""

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        names = [f.name for f in fields(self)]  # type: ignore[arg-type]
        return all(_same(getattr(self, n), getattr(other, n)) for n in names)

    __hash__ = None  # type: ignore[assignment]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        a, b = np.asarray(a), np.asarray(b)
        return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float) and np.isnan(a) and np.isnan(b):
        return True
    return bool(a == b)


@dataclass(frozen=True, eq=False, repr=False)
class Spectrum1D(_Comparable):
    """One spectrum with its variance and its good pixels.

    Parameters
    ----------
    wavelength : array_like, shape (n,)
        Vacuum wavelengths in Angstrom, strictly increasing.
    flux : array_like, shape (n,)
        Counts or flux density. Zero and negative values are kept; values that are not finite are
        marked bad.
    variance : array_like, shape (n,), optional
        Variance of ``flux``; zeros (a model) unless given. Not finite or negative: marked bad.
    mask : array_like of bool, shape (n,), optional
        True for *good* pixels; all unless given.
    meta : mapping, optional
        Anything else; copied.

    Raises
    ------
    PogsonValueError
        If lengths differ or the wavelengths do not increase.

    Examples
    --------
    >>> s = Spectrum1D([5000.0, 5001.0, 5002.0], [1.0, np.nan, -0.5], [1.0, 1.0, 4.0])
    >>> s.mask, s.ivar, s.n_good
    (array([ True, False,  True]), array([1.  , 0.  , 0.25]), 2)
    """

    wavelength: np.ndarray
    flux: np.ndarray
    variance: Any = None
    mask: Any = None
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lam = check_wavelengths(self.wavelength, "the spectrum")
        flux = per_pixel(self.flux, lam, "The flux")
        variance = per_pixel(self.variance, lam, "The variance", default=0.0)
        mask = per_pixel(self.mask, lam, "The mask", default=True, dtype=bool)
        good = mask & np.isfinite(flux) & np.isfinite(variance) & ~(variance < 0)
        for name, value in (
            ("wavelength", lam),
            ("flux", flux),
            ("variance", variance),
            ("mask", good),
        ):
            object.__setattr__(self, name, freeze(value))
        object.__setattr__(self, "meta", _meta(self.meta))

    @property
    def ivar(self) -> np.ndarray:
        """Inverse variance; 0 where masked or where the variance is not positive."""
        return inverse(np.where(self.mask, self.variance, 0.0))

    @property
    def n_pixels(self) -> int:
        """Number of pixels."""
        return int(self.wavelength.size)

    @property
    def wave_range(self) -> tuple[float, float]:
        """First and last wavelength, Angstrom."""
        return float(self.wavelength[0]), float(self.wavelength[-1])

    @property
    def n_good(self) -> int:
        """Number of good pixels."""
        return int(self.mask.sum())

    def __repr__(self) -> str:
        low, high = self.wave_range
        return f"Spectrum1D({self.n_pixels} pixels {low:g}-{high:g} Angstrom, {self.n_good} good)"


@dataclass(frozen=True, eq=False, repr=False)
class Photometry(_Comparable):
    """Broadband AB magnitudes of one star.

    Parameters
    ----------
    filter_names : sequence of str
        Names of the bands, those of the filter curves used with them.
    magnitudes : array_like, shape (n,)
        AB magnitudes; NaN where a band is missing.
    mag_errors : array_like, shape (n,)
        1-sigma errors; NaN, zero or negative where a band is missing.
    meta : mapping, optional
        Anything else (``ra``, ``dec``, ``ebv`` ...); copied.

    Raises
    ------
    PogsonValueError
        If lengths differ or a band is named twice.

    Examples
    --------
    >>> p = Photometry(["ps1_g", "ps1_r"], [15.2, np.nan], [0.01, 0.01])
    >>> p.get_band("ps1_g"), p.valid_bands()
    ((15.2, 0.01), ['ps1_g'])
    """

    filter_names: Any
    magnitudes: Any
    mag_errors: Any
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = tuple(str(n) for n in self.filter_names)
        mags = np.array(self.magnitudes, np.float64)
        errors = np.array(self.mag_errors, np.float64)
        if mags.shape != (len(names),) or errors.shape != mags.shape:
            raise PogsonValueError(
                f"There are {len(names)} filter names, magnitudes of shape {mags.shape} and errors "
                f"of shape {errors.shape}; give one magnitude and one error for each name."
            )
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise PogsonValueError(
                f"The bands {choices(twice)} are given more than once; combine them first."
            )
        object.__setattr__(self, "filter_names", names)
        object.__setattr__(self, "magnitudes", freeze(mags))
        object.__setattr__(self, "mag_errors", freeze(errors))
        object.__setattr__(self, "meta", _meta(self.meta))

    def get_band(self, name: str) -> tuple[float, float]:
        """Return (magnitude, error) of a band.

        Raises
        ------
        MissingDataError
            (a KeyError's sibling, `LookupError`) if there is no such band.
        """
        try:
            i = self.filter_names.index(name)
        except ValueError:
            raise MissingDataError(
                f"No photometry in band {name!r}; there is {choices(self.filter_names)}."
            ) from None
        return float(self.magnitudes[i]), float(self.mag_errors[i])

    def valid_bands(self) -> list[str]:
        """Names of bands with a finite magnitude and a finite, positive error."""
        ok = np.isfinite(self.magnitudes) & np.isfinite(self.mag_errors) & (self.mag_errors > 0)
        return [n for n, good in zip(self.filter_names, ok, strict=True) if good]

    def __len__(self) -> int:
        return len(self.filter_names)

    def __repr__(self) -> str:
        values = ", ".join(
            f"{n}={m:.3f}+-{e:.3f}"
            for n, m, e in zip(self.filter_names, self.magnitudes, self.mag_errors, strict=True)
        )
        return f"Photometry({values})"


@dataclass(frozen=True, eq=False, repr=False)
class StellarTemplate(_Comparable):
    """One model spectrum of a star.

    Parameters
    ----------
    wavelength : array_like, shape (n,)
        Vacuum wavelengths in Angstrom.
    flux : array_like, shape (n,)
        Flux density per Angstrom; its absolute scale has no meaning.
    continuum : array_like, shape (n,), optional
        Theoretical continuum in the same units; NaN where unknown.
    teff, logg, feh : float
        Effective temperature (K), log10 of gravity (cgs), [M/H]; NaN where unknown.
    alpha_m, carbon_m, vmicro : float, optional
        [alpha/M], [C/M], microturbulence in km/s.
    atmos_model, source : str, optional
        Code of the model atmosphere, and where the spectrum came from.
    native_sigma : array_like, shape (n,), optional
        Gaussian sigma in Angstrom that the spectrum is already broadened by; zeros unless given.

    Examples
    --------
    >>> t = StellarTemplate([5000.0, 5001.0], [1.0, 0.9], teff=6000, logg=4.5, feh=-0.5)
    >>> t.label
    'Teff=6000 logg=4.50 [M/H]=-0.50'
    """

    wavelength: np.ndarray
    flux: np.ndarray
    continuum: Any = None
    teff: float = float("nan")
    logg: float = float("nan")
    feh: float = float("nan")
    alpha_m: float = 0.0
    carbon_m: float = 0.0
    vmicro: float = float("nan")
    atmos_model: str = ""
    source: str = ""
    native_sigma: Any = None

    def __post_init__(self) -> None:
        lam = check_wavelengths(self.wavelength, "the template")
        object.__setattr__(self, "wavelength", freeze(lam))
        for name, default in (("flux", None), ("continuum", np.nan), ("native_sigma", 0.0)):
            values = per_pixel(getattr(self, name), lam, f"The {name}", default=default)
            object.__setattr__(self, name, freeze(values))
        if not np.all(np.isfinite(self.flux)):
            raise PogsonValueError(
                f"The template {self.source!r} has {int((~np.isfinite(self.flux)).sum())} fluxes "
                f"that are not finite; cut its wavelength range."
            )

    def to_spectrum1d(self) -> Spectrum1D:
        """Return a `Spectrum1D` without variance, all pixels good."""
        keys = ("teff", "logg", "feh", "alpha_m", "source")
        meta = {k: getattr(self, k) for k in keys} | {"continuum": self.continuum}
        return Spectrum1D(self.wavelength, self.flux, meta=meta)

    def to_spectrum(self) -> Spectrum:
        """Return a `pogson.sed.Spectrum` for synthetic photometry."""
        return Spectrum(self.wavelength, self.flux, name=self.label)

    @property
    def label(self) -> str:
        """The parameters in words."""
        text = f"Teff={self.teff:.0f} logg={self.logg:.2f} [M/H]={self.feh:+.2f}"
        return text + (f" [a/M]={self.alpha_m:+.2f}" if self.alpha_m else "")

    def __repr__(self) -> str:
        return f"StellarTemplate({self.label}, {self.wavelength.size} samples, {self.source!r})"


@dataclass(frozen=True, eq=False, repr=False)
class CalibrationVector(_Comparable):
    """Factor that turns counts into flux density at each wavelength: ``flux = counts * factor``.

    Parameters
    ----------
    wavelength : array_like, shape (n,)
        Vacuum Angstrom.
    cal_factor : array_like, shape (n,)
        erg/s/cm2/Angstrom per count; NaN where there is no calibration.
    cal_variance : array_like, shape (n,)
        Variance of ``cal_factor`` at each pixel, all components together. What the pixels share
        (the scale, the template) makes them correlated; it is kept as components by
        `pogson.spectro` results and must not be averaged down by binning this array.
    mask : array_like of bool, shape (n,), optional
        True for reliable pixels. A pixel whose factor is not finite and positive is never reliable.
    meta : mapping, optional
        ``star_name``, ``fiber_id``, ``teff``, ``rv_kms``, ``scale_factor`` ...; copied.

    Examples
    --------
    >>> c = CalibrationVector([5000.0, 5001.0], [1e-17, np.nan], [1e-38, 0.0])
    >>> c.mask, c.n_good, c.cal_error
    (array([ True, False]), 1, array([1.e-19, nan]))
    """

    wavelength: np.ndarray
    cal_factor: np.ndarray
    cal_variance: np.ndarray
    mask: Any = None
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lam = check_wavelengths(self.wavelength, "the calibration vector")
        factor = per_pixel(self.cal_factor, lam, "The calibration factor")
        variance = per_pixel(self.cal_variance, lam, "The calibration variance")
        mask = per_pixel(self.mask, lam, "The mask", default=True, dtype=bool)
        mask = mask & np.isfinite(factor) & (factor > 0) & np.isfinite(variance) & ~(variance < 0)
        object.__setattr__(self, "wavelength", freeze(lam))
        object.__setattr__(self, "cal_factor", freeze(factor))
        object.__setattr__(self, "cal_variance", freeze(variance))
        object.__setattr__(self, "mask", freeze(mask))
        object.__setattr__(self, "meta", _meta(self.meta))

    @property
    def cal_error(self) -> np.ndarray:
        """1-sigma error of the factor; NaN where it is not reliable."""
        return np.where(self.mask, np.sqrt(np.where(self.mask, self.cal_variance, 0.0)), np.nan)

    @property
    def n_good(self) -> int:
        """Number of reliable pixels."""
        return int(self.mask.sum())

    def __repr__(self) -> str:
        lam = self.wavelength
        name = f"{self.meta['star_name']!r}, " if self.meta.get("star_name") else ""
        return (
            f"CalibrationVector({name}{lam.size} pixels {lam[0]:g}-{lam[-1]:g} Angstrom, "
            f"{self.n_good} of them good)"
        )


@dataclass(frozen=True, eq=False, repr=False)
class FluxCalibrationResult(_Comparable):
    """Outcome of combining the calibration vectors of several stars.

    Parameters
    ----------
    combined_vector : CalibrationVector
        What to apply.
    per_star_vectors : sequence of CalibrationVector
        What went in, in the order given.
    per_star_residuals : sequence of ndarray, shape (n,)
        ``(star - combined) / combined`` of each star; NaN where either is not reliable.
    summary : mapping, optional
        ``n_stars_used``, ``n_stars_rejected``, ``rms_scatter`` (NaN for a single star),
        ``wavelength_range``, ``per_star_metrics``.

    Examples
    --------
    >>> c = CalibrationVector([5000.0, 5001.0], [1e-17, 1e-17], [1e-38, 1e-38])
    >>> FluxCalibrationResult(c, [c], [np.zeros(2)], {"n_stars_used": 1}).n_stars
    1
    """

    combined_vector: CalibrationVector
    per_star_vectors: Any
    per_star_residuals: Any
    summary: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "per_star_vectors", tuple(self.per_star_vectors))
        residuals = tuple(freeze(np.array(r, np.float64)) for r in self.per_star_residuals)
        object.__setattr__(self, "per_star_residuals", residuals)
        object.__setattr__(self, "summary", _meta(self.summary))

    @property
    def n_stars(self) -> int:
        """Number of stars given."""
        return len(self.per_star_vectors)

    def __repr__(self) -> str:
        return f"FluxCalibrationResult({self.n_stars} stars, {self.combined_vector!r})"
