"""The result of a band calibration, and the gauges it can be expressed in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pogson.errors import PogsonValueError, choices

__all__ = ["BandCalibration"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class BandCalibration:
    """Offsets of bands against stellar models, with what is known about them.

    Parameters
    ----------
    bands : tuple of str
        Names.
    coefficients : ndarray (bands, terms)
        ln of the offset in each term of the basis; the first is the constant.
    coefficient_covariance : ndarray (bands x terms, bands x terms)
        Their covariance, bands slowest.
    scatter, scatter_error : ndarray (bands,)
        Intrinsic scatter as a fraction of the flux, and its error.
    gauge : str
        "parallax" (absolute), "mean" (mean ln offset zero), or the band that offsets are relative
        to.
    terms : tuple of str
        Names of the basis's terms.
    n_used : ndarray of int (bands,)
        Measurements that informed each band.
    outlier : ndarray of bool (stars, bands)
        Measurements left out as outliers.
    excluded : ndarray of bool (stars,)
        Stars that no model describes even without their worst measurements, or with too few bands.
    ess : float
        Median effective number of draws a star in the last round.
    rounds : int
        Refits made.
    converged : bool
        Whether the steps came down to the noise.
    monte_carlo_share : ndarray (bands,)
        Part of each offset's variance that the finite number of draws makes.
    history : ndarray (rounds, bands)
        ln offset (constant term) after each refit, in the parallax gauge.
    trends : Mapping
        By covariate: slopes of ln offset per unit of the covariate (bands,) and their covariance
        (bands, bands), in the same gauge.
    provenance : Mapping
        Configuration, seed, counts.

    Examples
    --------
    >>> import numpy as np
    >>> made = BandCalibration.from_offsets(["g", "r"], [1.02, 0.99], 1e-4 * np.eye(2))
    >>> made.offsets, made.relative_to("r").offsets
    (array([1.02, 0.99]), array([1.03030303, 1. ]))
    >>> made.relative_to("r").errors
    array([0.01457069, 0. ])
    """

    bands: tuple[str, ...]
    coefficients: Floats
    coefficient_covariance: Floats
    scatter: Floats
    scatter_error: Floats
    gauge: str
    terms: tuple[str, ...]
    n_used: NDArray[np.int64]
    outlier: NDArray[np.bool_]
    excluded: NDArray[np.bool_]
    ess: float
    rounds: int
    converged: bool
    monte_carlo_share: Floats
    history: Floats
    trends: Mapping[str, tuple[Floats, Floats]]
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray):
                value = value.copy()
                value.flags.writeable = False
                object.__setattr__(self, name, value)
        object.__setattr__(self, "trends", MappingProxyType(dict(self.trends)))
        object.__setattr__(self, "provenance", MappingProxyType(dict(self.provenance)))

    @classmethod
    def from_offsets(
        cls,
        bands: Any,
        offsets: Any,
        covariance: Any,
        *,
        scatter: Any = None,
        gauge: str = "parallax",
        provenance: Mapping[str, Any] | None = None,
    ) -> BandCalibration:
        """Make a calibration from offsets (flux factors) and the covariance of their logarithms.

        Examples
        --------
        >>> BandCalibration.from_offsets(["g"], [1.02], [[1e-4]]).errors
        array([0.0102])
        """
        bands = tuple(str(b) for b in bands)
        n = len(bands)
        offsets, covariance = np.asarray(offsets, float), np.asarray(covariance, float)
        if offsets.shape != (n,) or not (offsets > 0).all():
            raise PogsonValueError(f"offsets={offsets}: give {n} positive flux factors.")
        if covariance.shape != (n, n):
            raise PogsonValueError(f"covariance has shape {covariance.shape}, not ({n}, {n}).")
        zero = np.zeros(n)
        return cls(
            bands, np.log(offsets)[:, None], covariance,
            zero if scatter is None else np.asarray(scatter, float), zero, gauge, ("constant",),
            np.zeros(n, np.int64), np.zeros((0, n), bool), np.zeros(0, bool), np.nan, 0, True,
            zero, np.zeros((0, n)), {}, provenance or {},
        )  # fmt: skip

    @property
    def log_offsets(self) -> Floats:
        """Natural logarithm of the offsets, constant term (bands,)."""
        return self.coefficients[:, 0]

    @property
    def covariance(self) -> Floats:
        """Covariance of ln offset between bands, constant term (bands, bands)."""
        terms = self.coefficients.shape[1]
        return self.coefficient_covariance[::terms, ::terms]

    @property
    def offsets(self) -> Floats:
        """Flux factors: corrected flux = flux x offset (bands,)."""
        return np.exp(self.log_offsets)

    @property
    def errors(self) -> Floats:
        """Standard errors of the offsets (bands,)."""
        return self.offsets * np.sqrt(np.maximum(np.diagonal(self.covariance), 0.0))

    @property
    def magnitude_offsets(self) -> Floats:
        """The same as magnitudes to add: -2.5 log10(offset) (bands,)."""
        return -2.5 / np.log(10.0) * self.log_offsets + 0.0  # no negative zero

    def factors(self, design: Any = None) -> Floats:
        """Return the flux factor of every star and band.

        Parameters
        ----------
        design : array (stars, terms), optional
            Values of the basis; without it the constant term for one star.

        Examples
        --------
        >>> import numpy as np
        >>> BandCalibration.from_offsets(["g"], [1.02], [[1e-4]]).factors(np.ones((2, 1)))
        array([[1.02], [1.02]])
        """
        terms = self.coefficients.shape[1]
        design = np.eye(1, terms) if design is None else np.asarray(design, float)
        if design.ndim != 2 or design.shape[1] != terms:
            raise PogsonValueError(
                f"The basis has shape {design.shape}; it must be (stars, {terms}) for {self.terms}."
            )
        return np.exp(design @ self.coefficients.T)

    def relative_to(self, gauge: str) -> BandCalibration:
        """Return the same offsets relative to a band, or to the mean of all ("mean").

        The covariance is transformed with them: the reference band becomes exactly 1.

        Examples
        --------
        >>> import numpy as np
        >>> made = BandCalibration.from_offsets(["g", "r"], [1.02, 0.98], 1e-4 * np.eye(2))
        >>> float(made.relative_to("mean").log_offsets.sum())
        0.0
        """
        if gauge == self.gauge:
            return self
        n, terms = self.coefficients.shape
        if gauge == "mean":
            transform = np.eye(n) - 1.0 / n
        elif gauge in self.bands:
            transform = np.eye(n)
            transform[:, self.bands.index(gauge)] -= 1.0
        else:
            allowed = choices([*self.bands, "mean", self.gauge])
            raise PogsonValueError(f"gauge={gauge!r}: from here it can be {allowed}.")
        whole = np.kron(transform, np.eye(terms))
        covariance = whole @ self.coefficient_covariance @ whole.T
        return replace(
            self,
            coefficients=transform @ self.coefficients,
            coefficient_covariance=0.5 * (covariance + covariance.T),
            gauge=gauge,
            trends={
                name: (transform @ slope, transform @ c @ transform.T)
                for name, (slope, c) in self.trends.items()
            },
        )

    def __repr__(self) -> str:
        text = ", ".join(
            f"{b} {o:.4f}+-{e:.4f}"
            for b, o, e in zip(self.bands, self.offsets, self.errors, strict=True)
        )
        return f"BandCalibration({text}; gauge {self.gauge!r})"
