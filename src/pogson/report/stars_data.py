"""What the page of a fit of stars shows, as plain data: no files, no science types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["BAND_MICRON", "ClusterRecord", "OffsetsRecord", "StarRecord", "StarsReportData"]

BAND_MICRON: Mapping[str, float] = {
    "GALEX_FUV": 0.154, "GALEX_NUV": 0.230,
    "Tycho_B": 0.422, "Tycho_V": 0.531, "Hipparcos_Hp": 0.535,
    "Bessell_U": 0.361, "Bessell_B": 0.440, "Bessell_V": 0.551, "Bessell_R": 0.658,
    "Bessell_I": 0.798,
    "Gaia_BP_MAWf": 0.511, "Gaia_G_MAW": 0.622, "Gaia_RP_MAW": 0.777,
    "Gaia_BP": 0.511, "Gaia_G": 0.622, "Gaia_RP": 0.777,
    "Kepler_Kp": 0.630, "Kepler_D51": 0.510, "TESS": 0.745,
    "SDSS_u": 0.356, "SDSS_g": 0.470, "SDSS_r": 0.618, "SDSS_i": 0.750, "SDSS_z": 0.892,
    "PS_g": 0.481, "PS_r": 0.617, "PS_i": 0.752, "PS_z": 0.866, "PS_y": 0.962, "PS_w": 0.608,
    "PS_open": 0.628,
    "DECam_u": 0.386, "DECam_g": 0.481, "DECam_r": 0.643, "DECam_i": 0.781, "DECam_z": 0.917,
    "DECam_Y": 0.987,
    "2MASS_J": 1.235, "2MASS_H": 1.662, "2MASS_Ks": 2.159,
    "VISTA_Z": 0.878, "VISTA_Y": 1.021, "VISTA_J": 1.253, "VISTA_H": 1.644, "VISTA_Ks": 2.146,
    "UKIDSS_Z": 0.883, "UKIDSS_Y": 1.031, "UKIDSS_J": 1.250, "UKIDSS_H": 1.635, "UKIDSS_K": 2.206,
    "WISE_W1": 3.353, "WISE_W2": 4.603, "WISE_W3": 11.56, "WISE_W4": 22.09,
}  # fmt: skip
"""Pivot wavelengths in micron (SVO Filter Profile Service, rounded), for drawing."""


@dataclass(frozen=True, eq=False)
class OffsetsRecord:
    """Offsets of bands.

    Parameters
    ----------
    bands : tuple of str
        Names.
    offsets, errors : numpy.ndarray, shape (n_bands,)
        Flux factors and their errors; an error of 0 marks the reference band.
    correlation : numpy.ndarray, shape (n_bands, n_bands)
        Correlation of ln offset; NaN for a reference band.
    gauge : str
        What holds the grey term.
    scatter, scatter_error : numpy.ndarray, shape (n_bands,)
        Intrinsic scatter as a fraction of the flux.
    n_used : numpy.ndarray, shape (n_bands,)
        Measurements used.
    n_outliers : numpy.ndarray, shape (n_bands,)
        Measurements left out.
    history : numpy.ndarray, shape (rounds, n_bands)
        ln offset after each round.
    trends : mapping of str to (numpy.ndarray, numpy.ndarray)
        By covariate: slopes of ln offset per unit, and their errors, by band.
    truth : numpy.ndarray, shape (n_bands,), optional
        Expected flux factors in the same gauge, for simulations.
    converged : bool
        Whether the iteration came to an end.

    Examples
    --------
    >>> z = np.zeros(1)
    >>> OffsetsRecord(("g",), z + 1.01, z + 0.002, z[:, None], "mean", z, z, z, z,
    ...               np.zeros((0, 1)), {}).bands
    ('g',)
    """

    bands: tuple[str, ...]
    offsets: np.ndarray
    errors: np.ndarray
    correlation: np.ndarray
    gauge: str
    scatter: np.ndarray
    scatter_error: np.ndarray
    n_used: np.ndarray
    n_outliers: np.ndarray
    history: np.ndarray
    trends: Mapping[str, tuple[np.ndarray, np.ndarray]]
    truth: np.ndarray | None = None
    converged: bool = True


@dataclass(frozen=True, eq=False)
class StarRecord:
    """One star with its draws.

    Parameters
    ----------
    name : str
        Identifier.
    parameters : mapping of str to numpy.ndarray, shape (n_draws,)
        Axis label -> draws.
    bands : tuple of str
        Bands of the photometry.
    magnitudes, magnitude_errors : numpy.ndarray, shape (n_bands,)
        As observed, offsets applied; NaN where not observed or not positive.
    model : numpy.ndarray, shape (n_draws, n_bands)
        Magnitudes of the draws.
    note : str
        chi2 and flags in words.
    systems : str
        Magnitude systems of the bands, such as ``"AB, Vega"``.

    Examples
    --------
    >>> z = np.zeros(3)
    >>> StarRecord("a", {"A_V": z}, ("g",), z[:1], z[:1], np.zeros((3, 1))).name
    'a'
    """

    name: str
    parameters: Mapping[str, np.ndarray]
    bands: tuple[str, ...]
    magnitudes: np.ndarray
    magnitude_errors: np.ndarray
    model: np.ndarray
    note: str = ""
    systems: str = ""


@dataclass(frozen=True, eq=False)
class ClusterRecord:
    """The distance modulus and extinction that the stars share.

    Examples
    --------
    >>> ClusterRecord(9.6, 0.12, np.eye(2), 0.85, 0.01, 0.02, 0.03, 0.9, 100).n_used
    100
    """

    distance_modulus: float
    av: float
    covariance: np.ndarray
    distance_kpc: float
    distance_err_kpc: float
    modulus_scatter: float
    av_scatter: float
    member_fraction: float
    n_used: int


@dataclass(frozen=True, eq=False)
class StarsReportData:
    """Everything that the page shows.

    Parameters
    ----------
    title : str
        Heading.
    headlines : tuple of str
        The result in sentences.
    facts : mapping of str to str
        Grid, priors and settings.
    bands : tuple of str
        Bands fitted.
    summary : mapping of str to numpy.ndarray
        Columns of `pogson.stars.StarPosteriors.summary`, one row a star.
    flags : tuple of (str, int, str)
        Name, number of stars, meaning.
    longitude, latitude : numpy.ndarray, shape (n_stars,)
        Galactic coordinates, degrees.
    magnitudes, residuals : numpy.ndarray, shape (n, n_bands)
        Of a sample of the stars: magnitudes as observed with offsets applied, and observed less
        posterior mean of the model; NaN where not observed.
    residual_rows : numpy.ndarray of int, shape (n,)
        Which stars these are.
    draws : (numpy.ndarray, numpy.ndarray)
        Distance in kpc and A_V of draws of many stars, each of shape (n, n_draws).
    stars : tuple of StarRecord
        Stars to show singly.
    missing : mapping of str to mapping
        Band -> code -> number of missing values.
    notes : tuple of str
        Remarks of the reader.
    offsets : OffsetsRecord, optional
        Offsets of the bands.
    cluster : ClusterRecord, optional
        What the stars share.
    config_text : str
        The configuration.

    Examples
    --------
    >>> StarsReportData(title="x").n_stars
    0
    """

    title: str
    headlines: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    bands: tuple[str, ...] = ()
    summary: Mapping[str, np.ndarray] = field(default_factory=dict)
    flags: tuple[tuple[str, int, str], ...] = ()
    longitude: np.ndarray = field(default_factory=lambda: np.zeros(0))
    latitude: np.ndarray = field(default_factory=lambda: np.zeros(0))
    magnitudes: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    residuals: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    residual_rows: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    draws: tuple[np.ndarray, np.ndarray] = (np.zeros((0, 0)), np.zeros((0, 0)))
    stars: tuple[StarRecord, ...] = ()
    missing: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    offsets: OffsetsRecord | None = None
    cluster: ClusterRecord | None = None
    config_text: str = ""

    @property
    def n_stars(self) -> int:
        """Number of stars."""
        return len(next(iter(self.summary.values()), ()))

    def column(self, name: str) -> Any:
        """Return a column of the summary, empty if it is not there."""
        return np.asarray(self.summary.get(name, np.zeros(0)))
