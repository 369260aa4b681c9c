"""Grids of stellar models made ready for fitting: even sampling, interpolation, band fluxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pogson.errors import CalibrationError, PogsonValueError
from pogson.sed.bandpass import Bandpass

__all__ = ["ModelGrid"]

_C_KMS = 299792.458
_SMALLEST_COVERAGE = 0.99


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
    Lagrange interpolation over up to four nodes in Teff and in [Fe/H], linear in log g. Because it
    is linear it commutes with convolution and resampling, so that nodes are seen through an
    instrument once and combined afterwards. Holes of the grid are filled along Teff.

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
    def _axes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return np.unique(self.teff), np.unique(self.logg), np.unique(self.feh)

    @property
    def limits(self) -> np.ndarray:
        """Smallest and largest Teff, log g and [Fe/H]: shape (3, 2)."""
        return np.array([(axis[0], axis[-1]) for axis in self._axes])

    @cached_property
    def _table(self) -> dict[tuple[int, int, int], list[tuple[int, float]]]:
        """Rows and weights that make each node; a missing node comes from its row of Teff."""
        axes = self._axes
        place = [
            np.searchsorted(a, v)
            for a, v in zip(axes, (self.teff, self.logg, self.feh), strict=True)
        ]
        have = {
            (int(i), int(j), int(k)): row for row, (i, j, k) in enumerate(zip(*place, strict=True))
        }
        table: dict[tuple[int, int, int], list[tuple[int, float]]] = {}
        for j in range(axes[1].size):
            for k in range(axes[2].size):
                held = np.array([i for i in range(axes[0].size) if (i, j, k) in have])
                for i in range(axes[0].size):
                    if (i, j, k) in have:
                        table[i, j, k] = [(have[i, j, k], 1.0)]
                    elif held.size:
                        near = np.sort(held[np.argsort(np.abs(held - i), kind="stable")[:2]])
                        w = _lagrange(axes[0][near], axes[0][i])
                        table[i, j, k] = [
                            (have[int(n), j, k], float(v)) for n, v in zip(near, w, strict=True)
                        ]
        return table

    def weights(self, teff: float, logg: float, feh: float) -> tuple[np.ndarray, np.ndarray]:
        """Rows and weights whose sum is the spectrum at these labels (clipped to the grid).

        Examples
        --------
        >>> grid = ModelGrid(8.0, 1e-3, np.ones((2, 9)), [5500, 6000], [4, 4], [0, 0])
        >>> grid.weights(5625.0, 4.0, 0.0)
        (array([0, 1]), array([0.75, 0.25]))
        """
        parts = [
            _stencil(axis, value, width)
            for axis, value, width in zip(self._axes, (teff, logg, feh), (4, 2, 4), strict=True)
        ]
        total: dict[int, float] = {}
        for i, wi in zip(*parts[0], strict=True):
            for j, wj in zip(*parts[1], strict=True):
                for k, wk in zip(*parts[2], strict=True):
                    for row, w in self._table.get((int(i), int(j), int(k)), []):
                        total[row] = total.get(row, 0.0) + wi * wj * wk * w
        rows = np.array(sorted(total), np.int64)
        weight = np.array([total[int(r)] for r in rows])
        return rows, weight / weight.sum()

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

    def band_operator(self, band: Bandpass) -> np.ndarray:
        r"""Weights over the samples that give the mean :math:`f_\lambda \lambda^2/c`, in nJy.

        Raises
        ------
        CalibrationError
            If the models cover less than 99 % of the band.
        """
        from pogson.sed.spectrum import SPEED_OF_LIGHT, Spectrum
        from pogson.sed.synthetic import bandpass_coverage

        lam = self.wavelength
        ends = np.array([lam[0], lam[-1]])
        covered = bandpass_coverage(Spectrum(ends, np.ones(2)), band)
        if covered < _SMALLEST_COVERAGE:
            low, high = band.wavelength_range
            raise CalibrationError(
                f"The models ({lam[0]:.0f}-{lam[-1]:.0f} Angstrom) cover {100 * covered:.1f} % of "
                f"{band.name!r} ({low:.0f}-{high:.0f}); at least 99 % is needed. Leave it out."
            )
        weight = band.evaluate(lam) * lam**-band._power * lam  # d lambda = lambda d ln lambda
        weight[[0, -1]] *= 0.5
        return np.asarray(weight / weight.sum() * lam**2 / (SPEED_OF_LIGHT * 1e-32))

    def __repr__(self) -> str:
        (t0, t1), (g0, g1), (z0, z1) = self.limits
        lam = self.wavelength
        return (
            f"ModelGrid({self.flux.shape[0]} models, {lam[0]:.0f}-{lam[-1]:.0f} Angstrom, Teff "
            f"{t0:.0f}-{t1:.0f}, log g {g0:.1f}-{g1:.1f}, [Fe/H] {z0:+.1f} to {z1:+.1f})"
        )


def _lagrange(nodes: np.ndarray, value: float) -> np.ndarray:
    out = np.ones(nodes.size)
    for i in range(nodes.size):
        for j in range(nodes.size):
            if i != j:
                out[i] *= (value - nodes[j]) / (nodes[i] - nodes[j])
    return out


def _stencil(axis: np.ndarray, value: float, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and Lagrange weights around a value, clipped to the axis."""
    value = float(np.clip(value, axis[0], axis[-1]))
    i = int(np.clip(np.searchsorted(axis, value) - width // 2, 0, max(axis.size - width, 0)))
    index = np.arange(i, min(i + width, axis.size))
    return index, _lagrange(axis[index], value)
