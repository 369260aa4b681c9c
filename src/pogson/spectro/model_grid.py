"""Grids of stellar models made ready for fitting: even sampling, interpolation, band fluxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pogson.errors import PogsonValueError
from pogson.sed.bandpass import Bandpass
from pogson.spectro._grid_nodes import GridNodes

__all__ = ["ModelGrid"]

_COARSE = (200.0, 0.4, 0.4)


@dataclass(frozen=True, eq=False)
class ModelGrid:
    r"""Model spectra on one even grid in ln(wavelength), interpolated in Teff, log g and [Fe/H].

    Parameters
    ----------
    log_start, log_step : float
        ln of the first vacuum wavelength (Angstrom) and the step.
    flux : array_like, shape (n_model, n_sample)
        Flux per Angstrom, in any scale of its own a model.
    teff, logg, feh : array_like, shape (n_model,)
        Labels: K, dex (cgs), dex.
    native_sigma : float or array_like, shape (n_sample,)
        Gaussian sigma of the models' own resolution, in units of ln(wavelength).
    names : sequence of str, optional
        What the models are called.

    Raises
    ------
    PogsonValueError
        If shapes differ, a flux is not finite or two models have the same labels.

    Notes
    -----
    A spectrum between nodes is a weighted sum of spectra at nodes, each first divided by its mean:
    Lagrange interpolation over up to four nodes an axis, as in `TemplateLibrary.interpolate`.
    Because it is linear it commutes with convolution and resampling, so that nodes are seen through
    an instrument once and combined afterwards. Holes of the grid are filled from their neighbours.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.log(4000.0) + 1e-3 * np.arange(100)
    >>> grid = ModelGrid(x[0], 1e-3, np.ones((2, 100)), [5500, 6000], [4.0, 4.0], [0.0, 0.0], 1e-4)
    >>> grid.spectrum(5600.0, 4.0, 0.0)[:2]
    array([1., 1.])
    """

    log_start: float
    log_step: float
    flux: np.ndarray
    teff: np.ndarray
    logg: np.ndarray
    feh: np.ndarray
    native_sigma: Any = 0.0
    names: Sequence[str] = ()

    def __post_init__(self) -> None:
        flux = np.array(self.flux, np.float64, ndmin=2)
        if not np.all(np.isfinite(flux)):
            raise PogsonValueError(
                f"{int(np.sum(~np.isfinite(flux)))} fluxes of the model grid are not finite; cut "
                f"the wavelength range or leave those models out."
            )
        labels = []
        for name in ("teff", "logg", "feh"):
            label = np.round(np.array(getattr(self, name), np.float64), 6)
            if label.shape != (flux.shape[0],):
                raise PogsonValueError(
                    f"{name} has shape {label.shape}; there are {flux.shape[0]} models."
                )
            labels.append(label)
        if len(set(zip(*labels, strict=True))) < flux.shape[0]:
            raise PogsonValueError("Two models of the grid have the same Teff, log g and [Fe/H].")
        mean = np.mean(flux, axis=1, keepdims=True)
        if np.any(mean <= 0):
            raise PogsonValueError("A model of the grid has no positive mean flux.")
        sigma = np.broadcast_to(np.asarray(self.native_sigma, np.float64), flux.shape[1:]).copy()
        for name, array in zip(
            ("flux", "teff", "logg", "feh", "native_sigma"),
            (flux / mean, *labels, sigma),
            strict=True,
        ):
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        names = tuple(self.names) or tuple(
            f"T{t:.0f}g{g:.1f}z{z:+.2f}" for t, g, z in zip(*labels, strict=True)
        )
        object.__setattr__(self, "names", names)

    @classmethod
    def from_arrays(
        cls,
        wavelength: Any,
        flux: Any,
        teff: Any,
        logg: Any,
        feh: Any,
        *,
        resolution: float | np.ndarray | None = None,
        oversample: int = 3,
        names: Sequence[str] = (),
    ) -> ModelGrid:
        """Return a grid from spectra on any common vacuum wavelengths.

        Parameters
        ----------
        wavelength : array_like, shape (n,)
            Vacuum wavelengths in Angstrom, increasing.
        flux : array_like, shape (n_model, n)
            Flux per Angstrom.
        teff, logg, feh : array_like, shape (n_model,)
            Labels.
        resolution : float or array_like, optional
            Resolving power lambda/FWHM of the models; None: far above the data's.
        oversample : int, optional
            Samples a sample of the input (cubic spline), so that shifts below a sample are exact.
        names : sequence of str, optional
            What the models are called.

        Examples
        --------
        >>> lam = [4000.0, 4002.0, 4004.0, 4006.0]
        >>> grid = ModelGrid.from_arrays(lam, np.ones((1, 4)), [6000.0], [4.0], [0.0])
        >>> grid.flux.shape[1] > 9
        True
        """
        from scipy.interpolate import CubicSpline

        lam = np.asarray(wavelength, np.float64)
        x = np.log(lam)
        step = float(np.min(np.diff(x))) / max(int(oversample), 1)
        n = int(np.floor((x[-1] - x[0]) / step * (1 + 1e-12))) + 1
        grid = np.minimum(x[0] + step * np.arange(n), x[-1])
        fine = CubicSpline(x, np.asarray(flux, np.float64), axis=1)(grid)
        sigma: Any = 0.0
        if resolution is not None:
            power = np.broadcast_to(np.asarray(resolution, np.float64), lam.shape)
            sigma = np.interp(grid, x, 1.0 / (2.3548200450309493 * power))
        return cls(float(x[0]), step, fine, teff, logg, feh, sigma, names)

    @property
    def wavelength(self) -> np.ndarray:
        """Vacuum wavelengths of the samples, Angstrom."""
        return np.exp(self.log_start + self.log_step * np.arange(self.flux.shape[1]))

    @cached_property
    def nodes(self) -> GridNodes:
        """Where the models lie in (Teff, log g, [Fe/H])."""
        return GridNodes(self.teff, self.logg, self.feh)

    @cached_property
    def limits(self) -> np.ndarray:
        """Smallest and largest Teff, log g and [Fe/H]: shape (3, 2)."""
        return np.array(self.nodes.bounds)

    def weights(self, teff: float, logg: float, feh: float) -> tuple[np.ndarray, np.ndarray]:
        """Rows and weights whose sum is the spectrum at these labels (clipped to the grid).

        Examples
        --------
        >>> grid = ModelGrid(8.0, 1e-3, np.ones((2, 9)), [5500, 6000], [4, 4], [0, 0])
        >>> grid.weights(5625.0, 4.0, 0.0)
        (array([0, 1]), array([0.75, 0.25]))
        """
        return self.nodes.weights(teff, logg, feh, clip=True)

    def spectrum(self, teff: float, logg: float, feh: float) -> np.ndarray:
        """Flux per Angstrom (mean 1) at these labels, on `wavelength`."""
        rows, w = self.weights(teff, logg, feh)
        return np.asarray(w @ self.flux[rows])

    @cached_property
    def representatives(self) -> np.ndarray:
        """Three spectra across the temperatures of the grid, for a first look at velocities."""
        (t0, t1), (g0, g1), (z0, z1) = self.limits
        middle = (0.5 * (g0 + g1), 0.3 * z0 + 0.7 * z1)
        return np.array([self.spectrum(t0 + f * (t1 - t0), *middle) for f in (0.15, 0.5, 0.85)])

    @cached_property
    def coarse(self) -> np.ndarray:
        """Rows for a first look: nodes about 200 K, 0.4 and 0.4 dex apart, the ends among them."""
        keep = np.ones(self.teff.size, bool)
        for axis, label, step in zip(
            self.nodes.axes, (self.teff, self.logg, self.feh), _COARSE, strict=True
        ):
            chosen = [axis[0]]
            for value in axis[1:]:
                if value - chosen[-1] >= step or value == axis[-1]:
                    chosen.append(value)
            keep &= np.isin(label, chosen)
        return np.flatnonzero(keep) if keep.any() else np.arange(keep.size)

    def around(self, row: int) -> np.ndarray:
        """Rows within 1.3 times the steps of `coarse` from one, itself among them."""
        keep = np.ones(self.teff.size, bool)
        for label, step in zip((self.teff, self.logg, self.feh), _COARSE, strict=True):
            keep &= np.abs(label - label[row]) < 1.3 * step
        return np.flatnonzero(keep)

    def band_operator(self, band: Bandpass) -> np.ndarray:
        r"""Weights over the samples that give the mean :math:`f_\lambda \lambda^2/c`, in nJy.

        Raises
        ------
        CalibrationError
            If the models cover less than 99 % of the band.
        """
        from pogson.spectro._band_weights import band_weights

        return band_weights(self.wavelength, [band])[0]

    def __repr__(self) -> str:
        (t0, t1), (g0, g1), (z0, z1) = self.limits
        lam = self.wavelength
        return (
            f"ModelGrid({self.flux.shape[0]} models, {lam[0]:.0f}-{lam[-1]:.0f} Angstrom, Teff "
            f"{t0:.0f}-{t1:.0f}, log g {g0:.1f}-{g1:.1f}, [Fe/H] {z0:+.1f} to {z1:+.1f})"
        )
