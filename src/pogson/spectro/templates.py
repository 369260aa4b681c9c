"""Libraries of stellar model spectra: interpolated, broadened, resampled, shared by many stars."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pogson.errors import CalibrationError, MissingDataError, PogsonValueError
from pogson.sed import Bandpass, FilterCurve
from pogson.spectro._checks import check_wavelengths, freeze
from pogson.spectro._grid_nodes import GridNodes
from pogson.spectro.containers import Spectrum1D, StellarTemplate
from pogson.spectro.line_spread import LineSpread
from pogson.spectro.resample import SpectralTransfer, spectral_transfer

__all__ = ["PreparedTemplates", "TemplateLibrary", "prepare_template"]

_KEPT = 16


@dataclass(frozen=True, eq=False, repr=False)
class PreparedTemplates:
    """All spectra of a library as one spectrograph would see them; made by a library.

    Parameters
    ----------
    wavelength : ndarray, shape (n_pixel,)
        Vacuum Angstrom, as observed.
    flux : ndarray, shape (n_model, n_pixel)
        Mean flux density in each pixel, in the library's units; NaN outside the library's range.
    rv_kms : float
        Radial velocity the spectra have.
    nodes : GridNodes
        Parameters of the rows, for `interpolate`.
    blunt : ndarray of bool, shape (n_pixel,)
        True where the library is broader than the line spread asked for.

    Examples
    --------
    >>> lam = np.geomspace(4000.0, 6000.0, 4001)
    >>> library = TemplateLibrary.from_arrays(lam, [lam, 2 * lam], teff=[6000, 6500], logg=4, feh=0)
    >>> seen = library.prepare([5000.0, 5001.0], LineSpread.from_fwhm(3.0))
    >>> seen.flux.shape, seen.interpolate(6250.0, 4.0, 0.0).round(4)
    ((2, 2), array([7500. , 7501.5]))
    """

    wavelength: np.ndarray
    flux: np.ndarray
    rv_kms: float
    nodes: GridNodes
    blunt: np.ndarray

    def interpolate(self, teff: float, logg: float, feh: float) -> np.ndarray:
        """Return the spectrum between nodes, (n_pixel,); see `TemplateLibrary.interpolate`."""
        index, weight = self.nodes.weights(teff, logg, feh)
        return np.asarray(weight @ self.flux[index])

    def __len__(self) -> int:
        return int(self.flux.shape[0])

    def __repr__(self) -> str:
        lam = self.wavelength
        return (
            f"PreparedTemplates({len(self)} models x {lam.size} pixels {lam[0]:g}-{lam[-1]:g} "
            f"Angstrom, RV {self.rv_kms:g} km/s)"
        )


class TemplateLibrary:
    """A library of stellar model spectra on one wavelength grid; immutable.

    Parameters
    ----------
    library_dir : path-like
        A file (the SDSS grid ``kurucz_stds_v5.fit``, DESI's ``rrtemplate-STAR-*.fits``, a FITS or
        HDF5 grid with arrays ``wavelength``, ``flux``, ``teff``, ``logg``, ``feh``) or a folder of
        BOSZ files. Nothing is ever written there.
    resolution : str, optional
        For BOSZ: which of the resolutions, as in the file names.
    wave_range : (float, float), optional
        Wavelengths kept, vacuum Angstrom; None keeps all.
    medium : {"vacuum", "air"}, optional
        For grids that do not say it themselves; air wavelengths are converted. BOSZ files are
        taken to be in vacuum unless this says air.

    Raises
    ------
    MissingDataError
        If the file or folder is missing or holds no spectra.
    FileFormatError
        If a file is damaged or of no known layout.
    PogsonValueError
        If a grid says neither vacuum nor air and ``medium`` is not given.

    Notes
    -----
    The SDSS grid (89 Kurucz models, 5000-7000 K) comes at about the resolution of SDSS, which its
    third extension tabulates and which is taken off in quadrature. DESI's templates are sums of
    five vectors without parameters: 1705 spectra cost no more than five. BOSZ files hold the
    Eddington flux H; spectra here are 4 pi H.

    Examples
    --------
    >>> lam = np.linspace(4000.0, 6000.0, 2001)
    >>> library = TemplateLibrary.from_arrays(
    ...     lam, [np.ones(2001), 3 * np.ones(2001)], teff=[6000, 6500], logg=4.5, feh=-1.0
    ... )
    >>> library.interpolate(6125.0, 4.5, -1.0).flux[:2]
    array([1.5, 1.5])
    """

    def __init__(
        self,
        library_dir: str | os.PathLike[str],
        resolution: str = "r10000",
        wave_range: tuple[float, float] | None = (3000.0, 11000.0),
        medium: Literal["vacuum", "air"] | None = None,
    ) -> None:
        from pogson.spectro.template_files import read_library

        self._set(**read_library(Path(library_dir), resolution, wave_range, medium))

    @classmethod
    def from_arrays(
        cls,
        wavelength: Any,
        flux: Any = None,
        *,
        teff: Any = np.nan,
        logg: Any = np.nan,
        feh: Any = np.nan,
        alpha_m: Any = 0.0,
        native: LineSpread | None = None,
        samples: Literal["means", "points"] = "points",
        sources: Sequence[str] = (),
        name: str = "arrays",
        continuum: Any = None,
        coefficients: Any = None,
        basis: Any = None,
    ) -> TemplateLibrary:
        """Return a library of arrays in memory.

        Parameters
        ----------
        wavelength : array_like, shape (n,)
            Vacuum Angstrom.
        flux : array_like, shape (n_model, n)
            Flux densities per Angstrom. Or give ``coefficients`` and ``basis``.
        teff, logg, feh, alpha_m : array_like, shape (n_model,), optional
            Parameters; NaN where unknown.
        native : LineSpread, optional
            Broadening the spectra already have; none unless given.
        samples : {"means", "points"}, optional
            What the values are; see `spectral_transfer`.
        sources : sequence of str, optional
            Where each came from.
        name : str, optional
            Name of the library.
        continuum : array_like, shape (n_model, n), optional
            Theoretical continua.
        coefficients, basis : array_like, shape (n_model, k) and (k, n), optional
            Spectra as sums of a few vectors.

        Examples
        --------
        >>> lam = np.linspace(4000.0, 6000.0, 2001)
        >>> TemplateLibrary.from_arrays(lam, np.ones((2, 2001)), teff=[6000, 6250])
        TemplateLibrary('arrays', 2 models, 2001 samples 4000-6000 Angstrom)
        """
        library = cls.__new__(cls)
        library._set(
            wavelength=wavelength,
            flux=flux,
            teff=teff,
            logg=logg,
            feh=feh,
            alpha_m=alpha_m,
            native=native,
            samples=samples,
            sources=sources,
            name=name,
            continuum=continuum,
            coefficients=coefficients,
            basis=basis,
        )
        return library

    def _set(
        self,
        *,
        wavelength: Any,
        flux: Any = None,
        teff: Any = np.nan,
        logg: Any = np.nan,
        feh: Any = np.nan,
        alpha_m: Any = 0.0,
        native: LineSpread | None = None,
        samples: Literal["means", "points"] = "points",
        sources: Sequence[str] = (),
        name: str = "",
        continuum: Any = None,
        coefficients: Any = None,
        basis: Any = None,
    ) -> None:
        self.wavelength = freeze(check_wavelengths(wavelength, f"the library {name!r}"))
        if flux is None:
            if coefficients is None or basis is None:
                raise PogsonValueError("A library needs flux, or coefficients and basis.")
            self._coefficients: np.ndarray | None = np.atleast_2d(
                np.array(coefficients, np.float64)
            )
            self._basis = np.atleast_2d(np.array(basis, np.float64))
        else:
            self._basis = np.atleast_2d(np.array(flux, np.float64))
            self._coefficients = None
        if self._basis.shape[-1] != self.wavelength.size:
            raise PogsonValueError(
                f"The spectra of library {name!r} have shape {self._basis.shape} but there are "
                f"{self.wavelength.size} wavelengths."
            )
        if not np.all(np.isfinite(self._basis)):
            raise PogsonValueError(
                f"The library {name!r} has {int((~np.isfinite(self._basis)).sum())} fluxes that "
                f"are not finite; cut its wavelength range."
            )
        n = self._basis.shape[0] if self._coefficients is None else self._coefficients.shape[0]
        if n == 0:
            raise MissingDataError(f"The library {name!r} holds no spectra.")
        try:
            columns = [
                np.broadcast_to(np.asarray(v, np.float64), (n,)).copy()
                for v in (teff, logg, feh, alpha_m)
            ]
        except ValueError:
            raise PogsonValueError(
                f"The parameters of library {name!r} do not fit {n} spectra."
            ) from None
        self.teff, self.logg, self.feh, self.alpha_m = (freeze(c) for c in columns)
        self.native = native
        self.samples: Literal["means", "points"] = samples
        self.sources = tuple(sources) or tuple(f"{name}[{i}]" for i in range(n))
        self.name = name
        self._continuum = None if continuum is None else np.array(continuum, np.float64)
        self._prepared: OrderedDict[Any, PreparedTemplates] = OrderedDict()
        self._lock = threading.Lock()

    # ---- what is in it -------------------------------------------------------------------------

    def __len__(self) -> int:
        return int(self.teff.size)

    @property
    def grid_params(self) -> np.ndarray:
        """Parameters (Teff, log g, [M/H], [alpha/M]) of every model, shape (n_model, 4)."""
        return np.stack([self.teff, self.logg, self.feh, self.alpha_m], axis=1)

    @cached_property
    def nodes(self) -> GridNodes:
        """The parameters as a grid in (Teff, log g, [M/H])."""
        return GridNodes(self.teff, self.logg, self.feh)

    @cached_property
    def native_sigma(self) -> np.ndarray:
        """Gaussian sigma in Angstrom that the spectra already have, shape (n,)."""
        lam = self.wavelength
        return freeze(np.zeros(lam.size) if self.native is None else self.native.sigma(lam).copy())

    @property
    def flux(self) -> np.ndarray:
        """All spectra, shape (n_model, n); made anew for libraries kept as basis vectors."""
        if self._coefficients is None:
            return self._basis
        return np.asarray(self._coefficients @ self._basis)

    def model_flux(self, index: Any, weight: Any = None) -> np.ndarray:
        """Return one model's spectrum, or the weighted sum of several, shape (n,)."""
        index = np.atleast_1d(index)
        weight = np.ones(index.size) if weight is None else np.asarray(weight, np.float64)
        if self._coefficients is None:
            return np.asarray(weight @ self._basis[index])
        return np.asarray((weight @ self._coefficients[index]) @ self._basis)

    def query(
        self,
        teff_range: tuple[float, float] | None = None,
        logg_range: tuple[float, float] | None = None,
        feh_range: tuple[float, float] | None = None,
    ) -> list[dict[str, Any]]:
        """Return the parameters of models inside a box, each with its ``index``."""
        keep = np.ones(len(self), bool)
        for values, bounds in (
            (self.teff, teff_range),
            (self.logg, logg_range),
            (self.feh, feh_range),
        ):
            if bounds is not None:
                keep &= (values >= bounds[0]) & (values <= bounds[1])
        return [
            {
                "index": int(i),
                "teff": float(self.teff[i]),
                "logg": float(self.logg[i]),
                "feh": float(self.feh[i]),
                "alpha_m": float(self.alpha_m[i]),
                "source": self.sources[i],
            }
            for i in np.flatnonzero(keep)
        ]

    def load_template(self, entry: dict[str, Any] | int) -> StellarTemplate:
        """Return the model of an entry of `query`, or of an index."""
        i = int(entry["index"] if isinstance(entry, dict) else entry)
        continuum = None if self._continuum is None else self._continuum[i]
        return StellarTemplate(
            self.wavelength,
            self.model_flux(i),
            continuum,
            float(self.teff[i]),
            float(self.logg[i]),
            float(self.feh[i]),
            float(self.alpha_m[i]),
            source=self.sources[i],
            native_sigma=self.native_sigma,
        )

    def get_template(
        self, teff: float, logg: float, feh: float, alpha_m: float | None = None
    ) -> StellarTemplate:
        """Return the nearest model, distances in units of (250 K, 0.5, 0.25, 0.25)."""
        target = np.array([teff, logg, feh, 0.0 if alpha_m is None else alpha_m])
        scale = np.array([250.0, 0.5, 0.25, 0.25 if alpha_m is not None else np.inf])
        distance = np.sum(((self.grid_params - target) / scale) ** 2, axis=1)
        if not np.any(np.isfinite(distance)):
            raise CalibrationError(f"The models of library {self.name!r} have no parameters.")
        return self.load_template(int(np.nanargmin(distance)))

    def interpolate(self, teff: float, logg: float, feh: float) -> StellarTemplate:
        """Return the spectrum between the nodes of the grid."""
        index, weight = self.nodes.weights(teff, logg, feh)
        return StellarTemplate(
            self.wavelength,
            self.model_flux(index, weight),
            None,
            float(teff),
            float(logg),
            float(feh),
            float(weight @ self.alpha_m[index]),
            source=f"{self.name} interpolated",
            native_sigma=self.native_sigma,
        )

    # ---- as a spectrograph sees it -------------------------------------------------------------

    def transfer(
        self, wavelength: Any, line_spread: LineSpread | None, rv_kms: float = 0.0
    ) -> SpectralTransfer:
        """Return the matrix from this library's grid to observed pixels."""
        return spectral_transfer(
            self.wavelength,
            wavelength,
            line_spread,
            native_sigma=self.native_sigma,
            rv_kms=rv_kms,
            samples=self.samples,
        )

    def prepare(
        self, wavelength: Any, line_spread: LineSpread | None, rv_kms: float = 0.0
    ) -> PreparedTemplates:
        """Return all models redshifted, broadened and binned to pixels.

        The latest results are kept in memory, so that stars that share a grid, a line spread and
        a velocity share the work.
        """
        lam = check_wavelengths(wavelength, "the observed grid")
        spread = "" if line_spread is None else line_spread.key
        key = (hashlib.sha256(lam.tobytes()).hexdigest(), spread, float(rv_kms))
        with self._lock:
            if key in self._prepared:
                self._prepared.move_to_end(key)
                return self._prepared[key]
        transfer = self.transfer(lam, line_spread, rv_kms)
        flux = transfer(self._basis)
        if self._coefficients is not None:
            flux = self._coefficients @ flux
        made = PreparedTemplates(
            freeze(lam), freeze(flux), float(rv_kms), self.nodes, transfer.blunt
        )
        with self._lock:
            self._prepared[key] = made
            while len(self._prepared) > _KEPT:
                self._prepared.popitem(last=False)
        return made

    def band_fluxes(
        self,
        bands: Sequence[Bandpass | FilterCurve],
        *,
        e_bv: float = 0.0,
        r_v: float = 3.1,
        law: str = "G23",
    ) -> np.ndarray:
        """Return AB fluxes of all models in bands, nJy times the library's arbitrary scale.

        Parameters
        ----------
        bands : sequence of Bandpass or FilterCurve
            At most the range of the library (99 % coverage needed).
        e_bv, r_v, law : optional
            Dust in front; see `pogson.sed.Spectrum.redden`.

        Returns
        -------
        fluxes : ndarray, shape (n_model, n_band)
        """
        from pogson.spectro._band_weights import band_weights

        w = band_weights(self.wavelength, bands, e_bv=e_bv, r_v=r_v, law=law)
        out = self._basis @ w.T
        return np.asarray(out if self._coefficients is None else self._coefficients @ out)

    def __repr__(self) -> str:
        lam = self.wavelength
        return (
            f"TemplateLibrary({self.name!r}, {len(self)} models, {lam.size} samples "
            f"{lam[0]:g}-{lam[-1]:g} Angstrom)"
        )


def prepare_template(
    template: StellarTemplate,
    target_wavelength: Any,
    instrument_fwhm_angstrom: float | LineSpread | None = None,
    fwhm_poly_coeffs: Sequence[float] | None = None,
    *,
    rv_kms: float = 0.0,
    samples: Literal["means", "points"] = "points",
) -> Spectrum1D:
    """Return one template redshifted, broadened to the instrument and binned to its pixels.

    Parameters
    ----------
    template : StellarTemplate
        The model, at rest.
    target_wavelength : array_like, shape (n_pixel,)
        Vacuum Angstrom of the pixels, as observed.
    instrument_fwhm_angstrom : float or LineSpread, optional
        Full width at half maximum in Angstrom, the same everywhere, or any line spread. Without it
        only pixels integrate.
    fwhm_poly_coeffs : sequence of float, optional
        The width as a polynomial in wavelength, constant term first; wins over the constant.
    rv_kms : float, optional
        Radial velocity, applied before the line spread.
    samples : {"means", "points"}, optional
        What the template's values are; see `spectral_transfer`.

    Returns
    -------
    spectrum : Spectrum1D
        Without variance; pixels that the template does not wholly cover are NaN and bad. ``meta``
        has the parameters, ``continuum`` seen the same way (NaN where unknown), ``rv_kms`` and
        ``n_blunt``, the pixels where the template is already broader than the instrument.

    Notes
    -----
    The template's own width is taken off in quadrature at every wavelength; the result has the
    width asked for to 1e-3 on any grid (`spectral_transfer`).

    Examples
    --------
    >>> lam = np.linspace(4900.0, 5100.0, 4001)
    >>> line = StellarTemplate(lam, 1.0 - 0.5 * np.exp(-0.5 * ((lam - 5000.0) / 0.2) ** 2))
    >>> seen = prepare_template(line, np.arange(4950.0, 5050.0), 3.0, rv_kms=300.0)
    >>> float(seen.wavelength[np.argmin(seen.flux)])
    5005.0
    """
    if fwhm_poly_coeffs is not None:
        spread: LineSpread | None = LineSpread.from_fwhm(fwhm_poly_coeffs)
    elif isinstance(instrument_fwhm_angstrom, LineSpread) or instrument_fwhm_angstrom is None:
        spread = instrument_fwhm_angstrom
    else:
        spread = LineSpread.from_fwhm(instrument_fwhm_angstrom)
    transfer = spectral_transfer(
        template.wavelength,
        target_wavelength,
        spread,
        native_sigma=template.native_sigma,
        rv_kms=rv_kms,
        samples=samples,
    )
    flux = transfer(template.flux)
    known = np.all(np.isfinite(template.continuum))
    continuum = transfer(template.continuum) if known else np.full(flux.shape, np.nan)
    meta = template.to_spectrum1d().meta | {"continuum": continuum, "rv_kms": float(rv_kms)}
    meta["n_blunt"] = int(transfer.blunt.sum())
    return Spectrum1D(transfer.wavelength_out, flux, mask=np.isfinite(flux), meta=meta)
