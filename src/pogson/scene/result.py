"""What a scene fit returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from pogson.calib import FluxReference
from pogson.errors import MissingDataError, choices
from pogson.scene.flags import SceneFlag, describe_scene_flags
from pogson.scene.grid import SceneGrid, offset_position
from pogson.scene.model import SceneModel
from pogson.units import NJY_AB_MAGNITUDE

__all__ = ["FittedPosition", "FluxComponent", "OriginTest", "SceneImages", "SceneResult"]


class FluxComponent(NamedTuple):
    """What a fitted flux belongs to.

    Examples
    --------
    >>> FluxComponent("target", "234928", 56000.5).epoch
    '234928'
    """

    source: str
    """Name of the source."""
    epoch: str
    """``exposure_id`` of its exposure, or "all" for one flux over several."""
    time: float | None
    """Mid-exposure time, where known."""


class FittedPosition(NamedTuple):
    """Where a source was found.

    Examples
    --------
    >>> place = FittedPosition("target", 150.0, 2.0, (0.01, -0.02), 1e-4 * np.eye(2))
    >>> place.offset
    (0.01, -0.02)
    """

    source: str
    """Name of the source."""
    ra: float
    """Degrees."""
    dec: float
    """Degrees."""
    offset: tuple[float, float]
    """East and north of the nominal position, arcsec."""
    covariance: np.ndarray
    """Of the offset, arcsec squared, fluxes and other positions marginalised."""


class OriginTest(NamedTuple):
    """What a stamp says about its own origin.

    Examples
    --------
    >>> OriginTest(dx=0, dy=1, delta_chi2=-29.0, ambiguous=True, applied=True).dy
    1
    """

    dx: int
    """Best whole-pixel move along x."""
    dy: int
    """Best whole-pixel move along y."""
    delta_chi2: float
    """Change of chi2 of that move (negative: better); of the whole fit where it was applied."""
    ambiguous: bool
    """Whether the sub-pixel position of the target makes the origin ambiguous."""
    applied: bool
    """Whether the move was made."""


class SceneImages(NamedTuple):
    """Images of one exposure in the common unit; NaN where a pixel was not used.

    Examples
    --------
    Five panels: data, model, data without scene, data without sources, residual.

    >>> one = SceneImages(*np.full((6, 2, 2), 3.0))
    >>> panels = one.data, one.model, one.data - one.scene, one.data - one.sources, one.residual
    >>> len(panels)
    5
    """

    data: np.ndarray
    """Pixels."""
    model: np.ndarray
    """Scene, sources and sky."""
    scene: np.ndarray
    """Scene and sky."""
    sources: np.ndarray
    """Point sources alone."""
    residual: np.ndarray
    """Data minus model."""
    sigma: np.ndarray
    """Noise of the pixels as used, weights of the robust loss included."""


@dataclass(frozen=True, eq=False)
class SceneResult:
    """Fluxes over a scene, with what is needed to trust them.

    Attributes
    ----------
    components : tuple of FluxComponent
        What each flux belongs to.
    fluxes : numpy.ndarray, shape (n,)
        Fluxes in the common unit of the exposures: nJy, unless ``flux_zero_point`` differs.
    covariance : numpy.ndarray, shape (n, n)
        Of the fluxes; scene, sky and fitted positions marginalised, pixel noise only.
    reference : FluxReference
        Total flux, in the normalisation of the target's PSF.
    positions : tuple of FittedPosition
        Of the sources with fitted positions.
    position_covariance : numpy.ndarray
        Joint covariance of all fitted offsets (arcsec squared).
    cross_covariance : numpy.ndarray, shape (n, 2 n_positions)
        Between fluxes and offsets.
    exposure_ids : tuple of str
        Exposures used.
    chi2_per_exposure, n_pixels, dof_per_exposure : numpy.ndarray
        Of the exposures used; degrees of freedom are pixels less the parameters they determine.
    chi2 : float
        Sum of squared residuals over noise.
    objective : float
        chi2 plus the terms of the priors: what was minimised.
    n_parameters : int
        Scene points used, skies, fluxes and positions.
    effective_parameters : float
        The same with the scene's counted as far as the data determine them.
    log_evidence : float
        Log marginal likelihood of the prior's choice (positions as fitted); NaN without a prior.
    amplitude, smoothness_arcsec : float or None
        Scene prior used.
    grid : SceneGrid or None
        Scene grid.
    scene_fluxes : numpy.ndarray
        Fluxes of the grid points, zero for points that no pixel sees.
    sky_levels : numpy.ndarray, shape (n_exposures, 1 or 3)
        Sky coefficients.
    noise_factors : numpy.ndarray
        Factor put on the variance of each exposure.
    gains : tuple of (float or None)
        Gains used for photon noise.
    flags : SceneFlag
        What may be wrong.
    dropped : mapping
        Exposures left out, with reasons.
    origins : mapping
        Tests of the stamps' origins.
    starts : tuple of float
        Objective reached from each start of the position search.
    flux_zero_point : float
        AB magnitude of one unit of flux, as the exposures say: 31.4 for nJy.
    common_modes : mapping
        Relative errors that all fluxes share, kept out of ``covariance``: "zero_point" and
        "psf_normalization".
    scale_errors : numpy.ndarray
        Relative zero-point error of the exposure of each flux, kept out of ``covariance``.
    images : mapping
        `SceneImages` by exposure.
    model : SceneModel
        What was fitted.

    Examples
    --------
    Made by `pogson.scene.fit_scene`, where there is an example.
    """

    components: tuple[FluxComponent, ...]
    fluxes: np.ndarray
    covariance: np.ndarray
    reference: FluxReference
    positions: tuple[FittedPosition, ...]
    position_covariance: np.ndarray
    cross_covariance: np.ndarray
    exposure_ids: tuple[str, ...]
    chi2_per_exposure: np.ndarray
    n_pixels: np.ndarray
    dof_per_exposure: np.ndarray
    chi2: float
    objective: float
    n_parameters: int
    effective_parameters: float
    log_evidence: float
    amplitude: float | None
    smoothness_arcsec: float | None
    grid: SceneGrid | None
    scene_fluxes: np.ndarray
    sky_levels: np.ndarray
    noise_factors: np.ndarray
    gains: tuple[float | None, ...]
    flags: SceneFlag
    dropped: Mapping[str, str]
    origins: Mapping[str, OriginTest]
    starts: tuple[float, ...]
    flux_zero_point: float
    common_modes: Mapping[str, float]
    scale_errors: np.ndarray
    images: Mapping[str, SceneImages] = field(repr=False)
    model: SceneModel = field(repr=False)

    @property
    def convention(self) -> str:
        """Geometry used."""
        return self.model.convention

    @property
    def unit(self) -> str:
        """Unit of the fluxes in words: "nJy", or the magnitude of one."""
        if self.flux_zero_point == NJY_AB_MAGNITUDE:
            return "nJy"
        return f"counts at AB zero point {self.flux_zero_point:g}"

    @property
    def flux_err(self) -> np.ndarray:
        """Errors of the fluxes, shape (n,)."""
        return np.sqrt(np.diag(self.covariance))

    @property
    def magnitudes(self) -> tuple[np.ndarray, np.ndarray]:
        """Magnitudes and errors; NaN where the flux is not positive."""
        flux = np.where(self.fluxes > 0, self.fluxes, np.nan)
        error = 2.5 / np.log(10.0) * self.flux_err / flux
        return self.flux_zero_point - 2.5 * np.log10(flux), error

    @property
    def dof(self) -> float:
        """Degrees of freedom: pixels less effective parameters."""
        return float(self.n_pixels.sum() - self.effective_parameters)

    @property
    def bic(self) -> float:
        """Bayesian information criterion, chi2 + k ln N with the effective parameters as k.

        Differences mean something only between fits of the same pixels with the same scene prior.
        """
        n = float(self.n_pixels.sum())
        return float(self.objective + self.effective_parameters * np.log(n))

    def index(self, source: str, epoch: str | None = None) -> int:
        """Return the number of a flux.

        Parameters
        ----------
        source : str
            Name of the source.
        epoch : str, optional
            Its exposure; may be left out if the source has one flux.

        Raises
        ------
        MissingDataError
            If there is no such flux, or several.
        """
        found = [
            i for i, c in enumerate(self.components)
            if c.source == source and epoch in (None, c.epoch)
        ]  # fmt: skip
        if len(found) != 1:
            names = [f"{c.source}/{c.epoch}" for c in self.components]
            raise MissingDataError(
                f"{len(found)} fluxes fit source={source!r}, epoch={epoch!r}; there are "
                f"{choices(names)}."
            )
        return found[0]

    def flux(self, source: str | None = None, epoch: str | None = None) -> tuple[float, float]:
        """Return a flux and its error.

        Parameters
        ----------
        source : str, optional
            Name of the source; by default the first flux.
        epoch : str, optional
            Its exposure.
        """
        i = 0 if source is None else self.index(source, epoch)
        return float(self.fluxes[i]), float(self.flux_err[i])

    def total_covariance(self) -> np.ndarray:
        """Return the covariance with zero-point and PSF-normalisation errors added.

        The common modes move all fluxes together; the zero-point errors of single exposures move
        the fluxes of one exposure together. Their effect on the scene that is subtracted is left
        out.
        """
        outer = np.outer(self.fluxes, self.fluxes)
        total = self.covariance + outer * sum(v**2 for v in self.common_modes.values())
        epochs = np.array([c.epoch for c in self.components])
        same = epochs[:, None] == epochs
        result: np.ndarray = total + outer * np.outer(self.scale_errors, self.scale_errors) * same
        return result

    def separation(self, first: str, second: str) -> tuple[float, float]:
        """Return the distance of two fitted sources and its error, in arcsec.

        Parameters
        ----------
        first, second : str
            Names of sources with fitted positions.

        Raises
        ------
        MissingDataError
            If a source has no fitted position.

        Notes
        -----
        To first order in the errors: not to be trusted where the distance is not several times its
        error.
        """
        names = [p.source for p in self.positions]
        for name in (first, second):
            if name not in names:
                raise MissingDataError(f"Source {name!r} has no fitted position; {names} have.")
        i, j = names.index(first), names.index(second)
        a, b = self.positions[i], self.positions[j]
        from pogson.scene.grid import tangent_offset

        vector = np.array(tangent_offset(b.ra, b.dec, a.ra, a.dec), float)
        distance = float(np.hypot(*vector))
        slope = np.zeros(2 * len(names))
        unit = vector / max(distance, 1e-12)
        slope[2 * i : 2 * i + 2], slope[2 * j : 2 * j + 2] = -unit, unit
        return distance, float(np.sqrt(slope @ self.position_covariance @ slope))

    def to_dict(self) -> dict[str, Any]:
        """Return everything but images and scene as JSON-ready numbers."""
        magnitudes, errors = self.magnitudes
        return {
            "reference": self.reference.to_dict(),
            "convention": self.convention,
            "flux_zero_point": self.flux_zero_point,
            "unit": self.unit,
            "fluxes": [
                {
                    "source": c.source, "epoch": c.epoch, "time": c.time,
                    "flux": float(self.fluxes[i]), "flux_err": float(self.flux_err[i]),
                    "magnitude": _number(magnitudes[i]), "magnitude_err": _number(errors[i]),
                }
                for i, c in enumerate(self.components)
            ],
            "covariance": self.covariance.tolist(),
            "positions": [
                {**p._asdict(), "offset": list(p.offset), "covariance": p.covariance.tolist()}
                for p in self.positions
            ],
            "exposures": [
                {
                    "exposure": name, "chi2": float(self.chi2_per_exposure[k]),
                    "dof": float(self.dof_per_exposure[k]), "n_pixels": int(self.n_pixels[k]),
                    "noise_factor": float(self.noise_factors[k]), "gain": self.gains[k],
                    "sky": self.sky_levels[k].tolist(),
                }
                for k, name in enumerate(self.exposure_ids)
            ],
            "chi2": self.chi2, "objective": self.objective, "dof": self.dof, "bic": self.bic,
            "n_parameters": self.n_parameters,
            "effective_parameters": self.effective_parameters,
            "log_evidence": _number(self.log_evidence),
            "prior": {"amplitude": self.amplitude, "smoothness_arcsec": self.smoothness_arcsec},
            "flags": describe_scene_flags(self.flags),
            "dropped": dict(self.dropped),
            "origins": {k: v._asdict() for k, v in self.origins.items()},
            "starts": list(self.starts),
            "common_modes": dict(self.common_modes),
        }  # fmt: skip

    def __repr__(self) -> str:
        lines = [
            f"{c.source}/{c.epoch}: {f:.6g} +- {e:.3g}"
            for c, f, e in zip(self.components[:4], self.fluxes, self.flux_err, strict=False)
        ]
        more = f", ... {len(self.components)} fluxes" if len(self.components) > 4 else ""
        return (
            f"<SceneResult {', '.join(lines)}{more}; chi2 {self.chi2:.1f} / {self.dof:.0f}, "
            f"flags: {describe_scene_flags(self.flags)}>"
        )


def _number(value: float) -> float | None:
    """Return a float, or None where it is not finite."""
    return float(value) if np.isfinite(value) else None


def position_of(
    name: str, ra: float, dec: float, offset: tuple[float, float], covariance: np.ndarray
) -> FittedPosition:
    """Return a fitted position from its offset."""
    at_ra, at_dec = offset_position(ra, dec, *offset)
    return FittedPosition(name, float(at_ra), float(at_dec), offset, covariance)
