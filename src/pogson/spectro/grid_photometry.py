"""Synthetic photometry of a whole grid of models behind dust, ready for fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import astropy.units as u
import numpy as np

from pogson.errors import CalibrationError, MissingDataError, PogsonValueError, choices
from pogson.sed.bandpass import Bandpass
from pogson.spectro.containers import Photometry
from pogson.spectro.model_grid import ModelGrid

__all__ = ["GridPhotometry"]

_LAWS = ("F99", "G23", "CCM89", "O94", "F04", "F19")
_EBV = np.array([0.0, 0.15, 0.5])


@dataclass(frozen=True, eq=False)
class GridPhotometry:
    r"""Fluxes of every model of a grid in every band, as functions of E(B-V).

    Parameters
    ----------
    grid : ModelGrid
        The models.
    bands : mapping of str to Bandpass
        The bands by the name that the photometry uses. Bands that the models do not cover to 99 %
        are left out and listed in ``uncovered`` with the reason.
    law : {"F99", "G23", "CCM89", "O94", "F04", "F19"}, optional
        Extinction law of the dust_extinction package.
    r_v : float, optional
        A(V)/E(B-V).

    Notes
    -----
    ln f of a band is a quadratic in E(B-V) through the exact values at 0, 0.15 and 0.5; from 0 to
    0.5 it is right to 0.1 mmag.

    Examples
    --------
    >>> x = np.log(3500.0) + 1e-3 * np.arange(1000)
    >>> grid = ModelGrid(x[0], 1e-3, np.exp(-2 * x)[None], [6000], [4.0], [0.0])
    >>> bands = {b: Bandpass.from_speclite(f"panstarrs-{b}") for b in "gr"}
    >>> phot = GridPhotometry(grid, bands)
    >>> mags = 31.4 - 2.5 * np.log10(phot.fluxes(np.array([0]), np.array([1.0]), 0.0))
    >>> round(float(mags[0] - mags[1]), 4)   # constant AB magnitude
    0.0
    """

    grid: ModelGrid
    bands: Mapping[str, Bandpass]
    law: str = "F99"
    r_v: float = 3.1
    uncovered: dict[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    curve: np.ndarray = None  # type: ignore[assignment]
    _log_flux: np.ndarray = None  # type: ignore[assignment]
    _slopes: np.ndarray = None  # type: ignore[assignment]
    _operators: np.ndarray = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        from dust_extinction import parameter_averages

        if self.law not in _LAWS:
            raise PogsonValueError(
                f"Unknown extinction law {self.law!r}; allowed: {choices(_LAWS)}."
            )
        lam = self.grid.wavelength
        curve = (
            np.asarray(getattr(parameter_averages, self.law)(Rv=self.r_v)(lam * u.AA)) * self.r_v
        )
        operators, names, lost = [], [], {}
        for name, band in self.bands.items():
            try:
                operators.append(self.grid.band_operator(band))
                names.append(name)
            except CalibrationError as error:
                lost[name] = str(error)
        matrix = np.array(operators).reshape(len(names), lam.size)
        logs = np.array(
            [np.log(self.grid.flux @ (matrix * 10 ** (-0.4 * curve * e)).T) for e in _EBV]
        )  # (3, n_model, n_band)
        first = (logs[1] - logs[0]) / _EBV[1]
        second = ((logs[2] - logs[0]) / _EBV[2] - first) / (_EBV[2] - _EBV[1])
        values = {
            "uncovered": lost,
            "names": tuple(names),
            "curve": curve,
            "_log_flux": logs[0],
            "_slopes": np.array([first - second * _EBV[1], second]),
            "_operators": matrix,
        }
        for key, value in values.items():
            object.__setattr__(self, key, value)

    def reddening(self, e_bv: float) -> np.ndarray:
        """Transmission of dust on the samples of the grid."""
        return np.asarray(10 ** (-0.4 * self.curve * e_bv))

    def fluxes(self, rows: np.ndarray, weights: np.ndarray, e_bv: float) -> np.ndarray:
        """Fluxes in nJy of a weighted sum of models behind dust, one a band of ``names``."""
        clear = weights @ np.exp(self._log_flux[rows])
        slope = weights @ self._slopes[0, rows]
        bend = weights @ self._slopes[1, rows]
        return np.asarray(clear * np.exp(e_bv * (slope + e_bv * bend)))

    def band_shares(
        self, rows: np.ndarray, weights: np.ndarray, e_bv: float, n: int = 96
    ) -> tuple[np.ndarray, np.ndarray]:
        """Share of wavelengths in the band fluxes of a weighted sum of models behind dust.

        Returns
        -------
        position : ndarray, shape (n,)
            ln(wavelength), even, over the range of the bands.
        shares : ndarray, shape (n_band, n)
            Rows add to 1.
        """
        through = self._operators * (weights @ self.grid.flux[rows]) * self.reddening(e_bv)
        seen = np.flatnonzero(np.any(through > 0, axis=0))
        x = self.grid.log_start + self.grid.log_step * np.arange(through.shape[1])
        edges = np.linspace(x[seen[0]], x[seen[-1]] + 1e-9, n + 1)
        place = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, n - 1)
        shares = np.array([np.bincount(place, row, n) for row in through])
        return 0.5 * (edges[1:] + edges[:-1]), shares / shares.sum(axis=1, keepdims=True)

    def observed(self, photometry: Photometry, floor: float) -> tuple[np.ndarray, np.ndarray]:
        """Fluxes (nJy) and errors of a star in the bands of ``names``; NaN where missing.

        ``floor`` (magnitudes) is added to the errors in quadrature.

        Raises
        ------
        MissingDataError
            If no band is usable: then there is no scale, and none is made up.
        """
        flux = np.full(len(self.names), np.nan)
        error = np.full(len(self.names), np.nan)
        valid = set(photometry.valid_bands())
        for i, name in enumerate(self.names):
            if name in valid:
                mag, err = photometry.get_band(name)
                flux[i] = 10 ** (-0.4 * (mag - 31.4))
                error[i] = flux[i] * 0.4 * np.log(10) * np.hypot(err, floor)
        if not np.any(np.isfinite(flux)):
            raise MissingDataError(
                "No band of the photometry can be used: it has "
                f"{choices(sorted(valid)) or 'none'}, "
                f"the filter curves {choices(self.names) or 'none'}"
                + "".join(f"; {reason}" for reason in self.uncovered.values())
                + ". Without a band there is no flux scale."
            )
        return flux, error


def as_bands(bands: Mapping[str, Any] | Sequence[Any]) -> dict[str, Bandpass]:
    """Return bandpasses by name, from a mapping or a list of bandpasses or filter curves."""
    items = bands.items() if isinstance(bands, Mapping) else [(b.name, b) for b in bands]
    out: dict[str, Bandpass] = {}
    for name, band in items:
        if isinstance(band, Bandpass):
            out[str(name)] = band
        else:
            out[str(name)] = band.bandpass
    return out
