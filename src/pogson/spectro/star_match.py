"""What goes into and comes out of matching a star with models."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from pogson.errors import MaskedDataError, PogsonValueError, choices
from pogson.spectro._shape_modes import StarShape

__all__ = ["MatchConfig", "StarMatch", "StarSpectrum"]

_PARAMETERS = ("teff", "logg", "feh", "rv_kms", "e_bv", "log_scale")


@dataclass(frozen=True)
class MatchConfig:
    """How stars are matched with models.

    Parameters
    ----------
    metric : {"chi2", "huber"}, optional
        Chi-square, or Huber's function with the turn at 1.5 sigma.
    continuum_spacing : float, optional
        Distance in ln(wavelength) of the knots of the smooth curve by which every model is
        multiplied before it meets the data (0.04: 200 Angstrom at 5000).
    rv_limit : float, optional
        Largest radial velocity, towards or away, in km/s.
    photometric_floor : float, optional
        Magnitudes added in quadrature to the error of every band: what the models and the
        zero points of the bands are good for.
    e_bv, e_bv_error : float, optional
        Prior of the reddening: value of a dust map and its error, magnitudes. Used for stars
        without their own.
    clip : float, optional
        Pixels further than this many sigma from the best model are left out.
    model_floor : float, optional
        Fraction of the flux, at least, by which the lines of models and of stars differ; more if
        the residuals say so.
    line_teff_error : float, optional
        Kelvin by which the temperature of the lines may differ from that of the colours: Balmer
        lines of one-dimensional models run hot by 100 to 300 K in metal-poor F stars.

    Examples
    --------
    >>> MatchConfig(metric="huber").rv_limit
    600.0
    """

    metric: Literal["chi2", "huber"] = "chi2"
    continuum_spacing: float = 0.04
    rv_limit: float = 600.0
    photometric_floor: float = 0.01
    e_bv: float = 0.0
    e_bv_error: float = 0.05
    clip: float = 5.0
    model_floor: float = 0.005
    line_teff_error: float = 80.0

    def __post_init__(self) -> None:
        if self.metric not in ("chi2", "huber"):
            raise PogsonValueError(
                f"Unknown metric {self.metric!r}; allowed: {choices(['chi2', 'huber'])}."
            )
        for name in (
            "continuum_spacing",
            "rv_limit",
            "photometric_floor",
            "e_bv_error",
            "clip",
            "line_teff_error",
        ):
            if not getattr(self, name) > 0:
                raise PogsonValueError(f"{name} must be positive, not {getattr(self, name)!r}.")


@dataclass(frozen=True, eq=False)
class StarSpectrum:
    """The spectrum of one star, as the fits need it.

    Parameters
    ----------
    wavelength, counts, ivar, lsf_sigma : array_like, shape (n,)
        Vacuum Angstrom; counts; inverse variance, 0 where masked; sigma of the LSF in Angstrom.
    name : str, optional
        Name of the star.

    Raises
    ------
    MaskedDataError
        If fewer than 50 pixels have a positive inverse variance.

    Examples
    --------
    >>> lam = np.linspace(4000.0, 5000.0, 1000)
    >>> star = StarSpectrum(lam, np.ones(1000), np.ones(1000), 1.2)
    >>> round(float(star.high[0] - star.low[0]), 3)
    1.001
    """

    wavelength: np.ndarray
    counts: np.ndarray
    ivar: np.ndarray
    lsf_sigma: np.ndarray | float
    name: str = ""
    low: np.ndarray = field(init=False)
    high: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        lam = np.ascontiguousarray(self.wavelength, np.float64)
        counts = np.ascontiguousarray(self.counts, np.float64)
        ivar = np.ascontiguousarray(self.ivar, np.float64)
        good = np.isfinite(counts) & np.isfinite(ivar) & (ivar > 0)
        if good.sum() < 50:
            raise MaskedDataError(
                f"The spectrum of {self.name!r} has {int(good.sum())} usable pixels of {lam.size}; "
                f"at least 50 are needed. Look at its mask and inverse variance."
            )
        edges = np.concatenate(
            [
                [1.5 * lam[0] - 0.5 * lam[1]],
                0.5 * (lam[1:] + lam[:-1]),
                [1.5 * lam[-1] - 0.5 * lam[-2]],
            ]
        )
        sigma = np.broadcast_to(np.asarray(self.lsf_sigma, np.float64), lam.shape)
        for name, value in (
            ("wavelength", lam),
            ("counts", np.where(good, counts, 0.0)),
            ("ivar", np.where(good, ivar, 0.0)),
            ("lsf_sigma", np.ascontiguousarray(sigma)),
            ("low", edges[:-1].copy()),
            ("high", edges[1:].copy()),
        ):
            object.__setattr__(self, name, value)


@dataclass(frozen=True, eq=False)
class StarMatch:
    """The model that fits a star, and how well everything about it is known.

    Parameters
    ----------
    name : str
        The star.
    teff, logg, feh, rv_kms, e_bv, log_scale : float
        K, dex, dex, km/s, mag, ln of the factor from the grid's model to the observed flux.
    covariance : ndarray, shape (6, 6)
        Of these parameters in this order.
    model : ndarray, shape (n,)
        Flux density at the pixels of the star, through its LSF, shifted by its radial velocity,
        behind its dust, scaled to its photometry: erg/s/cm2/Angstrom; NaN beyond the models.
    shape_modes : ndarray, shape (5, n)
        Errors of ln(model), one independent mode a row: the covariance is ``modes.T @ modes``.
    chi2, ndof : float, int
        Of the lines, with the parameters and the continuum counted.
    misfit : float
        Fraction of the flux by which model and lines differ beyond the noise (rms).
    photometric_chi2 : float
        Of the bands, the errors with their floor.
    band_residuals : dict
        Synthetic minus catalogue magnitude of each band used.
    flags : tuple of str
        What deserves a look: an edge of the grid or of the velocities, bands that do not fit.
    n_clipped : int
        Pixels left out as outliers.
    nearest : str
        Name of the best single node of the grid.
    runner_up_chi2 : float
        Chi-square of the second-best node.
    fit : ndarray, shape (n,)
        The model times its smooth continuum, in counts.
    line_offset : float
        Temperature of the lines minus that of the colours, K.
    shape : StarShape, optional
        What the lines alone say about the parameters, and the photometry: what the joint solution
        of all stars needs to weigh them anew.

    Examples
    --------
    >>> from pogson.spectro import match_star
    >>> match_star.__name__     # returns one
    'match_star'
    """

    name: str
    teff: float
    logg: float
    feh: float
    rv_kms: float
    e_bv: float
    log_scale: float
    covariance: np.ndarray
    model: np.ndarray
    shape_modes: np.ndarray
    chi2: float
    ndof: int
    misfit: float
    photometric_chi2: float
    band_residuals: dict[str, float]
    flags: tuple[str, ...]
    n_clipped: int
    nearest: str
    runner_up_chi2: float
    fit: np.ndarray
    line_offset: float = 0.0
    shape: StarShape | None = None

    def error(self, parameter: str) -> float:
        """1-sigma error of a parameter, by its name.

        Raises
        ------
        PogsonValueError
            If there is no such parameter.
        """
        if parameter not in _PARAMETERS:
            raise PogsonValueError(f"No parameter {parameter!r}; there is {choices(_PARAMETERS)}.")
        i = _PARAMETERS.index(parameter)
        return float(np.sqrt(self.covariance[i, i]))

    @property
    def scale(self) -> float:
        """Factor from the grid's model (mean 1) to erg/s/cm2/Angstrom."""
        return float(np.exp(self.log_scale))

    def __repr__(self) -> str:
        return (
            f"StarMatch({self.name!r}, Teff={self.teff:.0f}+-{self.error('teff'):.0f}, "
            f"logg={self.logg:.2f}, [Fe/H]={self.feh:+.2f}, RV={self.rv_kms:.1f}+-"
            f"{self.error('rv_kms'):.1f} km/s, E(B-V)={self.e_bv:.3f}+-{self.error('e_bv'):.3f})"
        )
