"""The spectrum of the sky, from the pattern it leaves on a camera with chromatic flats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pogson.errors import CalibrationError, PogsonValueError
from pogson.images._states import known_flattening
from pogson.images.exposure import Exposure
from pogson.images.focal_plane_background import (
    comparable_surfaces,
    detector_cells,
    mean_direction,
    sky_design,
)
from pogson.sed import Bandpass, Spectrum

__all__ = ["SkySpectrum", "fit_sky_spectrum"]


@dataclass(frozen=True, eq=False)
class SkySpectrum:
    """A sky spectrum as a mixture of templates; made by `fit_sky_spectrum`.

    Parameters
    ----------
    spectrum : Spectrum
        The mixture.
    fractions, fraction_errors : dict of str to float
        Share of the signal through the bandpass that each template gives, and standard deviations.
        They sum to 1; a share may come out negative within its error.
    covariance : numpy.ndarray
        Of the shares.
    chi2, dof : float, int
        Of the mesh cells.

    Examples
    --------
    See `fit_sky_spectrum`.
    """

    spectrum: Spectrum
    fractions: dict[str, float]
    fraction_errors: dict[str, float]
    covariance: np.ndarray
    chi2: float
    dof: int


def fit_sky_spectrum(
    exposures: Sequence[Exposure],
    templates: Sequence[Spectrum],
    *,
    order: int = 2,
    mesh: int = 64,
    mask_sources: bool = True,
    grow: int = 10,
) -> SkySpectrum:
    r"""Find the mixture of sky templates whose flat makes the sky smooth over the focal plane.

    Parameters
    ----------
    exposures : sequence of Exposure
        Detectors of one visit, with ``flattening``, sky mapping and detector name.
    templates : sequence of Spectrum
        Airglow, moonlight, twilight, ...; at least two, of different names.
    order : int, optional
        Total order of the polynomial on the tangent plane that the true sky follows.
    mesh, mask_sources, grow : optional
        As in `fit_focal_plane_background`.

    Returns
    -------
    SkySpectrum

    Raises
    ------
    PogsonValueError
        If there are fewer than two templates, or two of one name.
    MissingDataError
        If an exposure has no ``flattening``.
    CalibrationError
        If the flat cannot tell the templates apart: their patterns are the same to the noise.

    Notes
    -----
    Cell means on an image flattened for :math:`S_0` are modelled as
    :math:`P(\xi, \eta) \sum_j w_j F_j(x, y) / F_{S_0}(x, y)`, :math:`\sum_j w_j = 1`, with a
    polynomial P, by Gauss-Newton least squares.

    Examples
    --------
    >>> from pogson.simulate.chromatic import ChromaticModel, simulate_chromatic
    >>> from pogson.sed import Spectrum
    >>> scene = simulate_chromatic(ChromaticModel(detectors=2, size=256, stars=4), rng_seed=2)
    >>> lam = scene.sky_sed.wavelength
    >>> blue = Spectrum(lam, 1e-17 * (lam / 6000.0) ** -4.0, name="twilight")
    >>> found = fit_sky_spectrum(scene.exposures, [scene.sky_sed, blue], order=1, mesh=32)
    >>> share, error = found.fractions["night sky"], found.fraction_errors["night sky"]
    >>> abs(share - 1.0) < 4 * error, error < 0.2
    (True, True)
    """
    names = [t.name for t in templates]
    if len(templates) < 2 or len(set(names)) < len(names):
        raise PogsonValueError(
            f"Give at least two sky templates of different names; these are "
            f"{', '.join(map(repr, names))}."
        )
    surfaces = comparable_surfaces(exposures, None)
    flattenings = [known_flattening(e) for e in surfaces]
    center = mean_direction(surfaces)
    cells = [
        detector_cells(
            e, mesh=mesh, grow=grow if mask_sources else None, mask_names=None, at=center
        )
        for e in surfaces
    ]
    xi, eta = (np.concatenate([getattr(c, n) for c in cells]) for n in ("xi", "eta"))
    half_width = 1.02 * float(max(np.abs(xi).max(), np.abs(eta).max()))
    design = sky_design(xi / half_width, eta / half_width, order)
    patterns = np.concatenate(
        [
            np.stack(
                [
                    np.asarray((f.for_sed(t).field() / f.field())(x=c.x, y=c.y), float)
                    for t in templates
                ],
                axis=1,
            )
            for f, c in zip(flattenings, cells, strict=True)
        ]
    )
    values = np.concatenate([c.mean for c in cells])
    errors = np.concatenate([c.error for c in cells])
    shares, covariance, chi2 = _fit(design, patterns, values, errors, names)
    sigma = np.sqrt(np.diag(covariance))
    mixture = _mixture(shares, templates, flattenings[0].bandpass)
    return SkySpectrum(
        mixture,
        dict(zip(names, map(float, shares), strict=True)),
        dict(zip(names, map(float, sigma), strict=True)),
        covariance,
        chi2,
        values.size - design.shape[1] - len(names) + 1,
    )


def _fit(
    design: np.ndarray,
    patterns: np.ndarray,
    values: np.ndarray,
    errors: np.ndarray,
    names: Sequence[str],
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return shares, their covariance and chi2 of the bilinear model."""
    n = design.shape[1]
    # the last share is 1 minus the others
    contrast = patterns[:, :-1] - patterns[:, -1:]
    shares = np.full(len(names) - 1, 1.0 / len(names))
    poly = np.linalg.lstsq(design / errors[:, None], values / errors, rcond=None)[0]
    for _ in range(50):
        level = design @ poly
        shape = patterns[:, -1] + contrast @ shares
        jacobian = np.hstack([design * shape[:, None], contrast * level[:, None]])
        jacobian /= errors[:, None]
        residual = (values - level * shape) / errors
        size = np.maximum(np.sqrt((jacobian**2).sum(axis=0)), np.finfo(float).tiny)
        step, _, rank, singular = np.linalg.lstsq(jacobian / size, residual, rcond=1e-10)
        if rank < jacobian.shape[1] or singular[-1] < 1e-7 * singular[0]:
            raise CalibrationError(
                f"The flat cannot tell the templates {', '.join(names)} apart: their patterns on "
                f"the detectors are the same. Use fewer templates."
            )
        step = step / size
        poly, shares = poly + step[:n], shares + step[n:]
        if np.abs(step[n:]).max() < 1e-8:
            break
    inverse = np.linalg.inv((jacobian / size).T @ (jacobian / size)) / np.outer(size, size)
    spread = np.vstack([np.eye(len(names) - 1), -np.ones((1, len(names) - 1))])
    covariance: Any = spread @ inverse[n:, n:] @ spread.T
    full = np.append(shares, 1.0 - shares.sum())
    return full, covariance, float((residual**2).sum())


def _mixture(shares: np.ndarray, templates: Sequence[Spectrum], bandpass: Bandpass) -> Spectrum:
    """Return the sum of templates, each normalised to give unit signal through the bandpass."""
    low, high = bandpass.wavelength_range
    spectra = [t.to_vacuum() for t in templates]
    lam = np.unique(np.concatenate([bandpass.wavelength, *(t.wavelength for t in spectra)]))
    lam = lam[(lam >= max(t.wavelength[0] for t in spectra))]
    lam = lam[(lam <= min(t.wavelength[-1] for t in spectra))]
    energy = lam if bandpass.detector == "photon" else np.ones(lam.size)
    weight = bandpass.evaluate(lam) * energy
    flux = np.zeros(lam.size)
    for share, t in zip(shares, spectra, strict=True):
        values = t.evaluate(lam)
        flux += share * values / np.trapezoid(values * weight, lam)
    label = " + ".join(f"{s:.2f} {t.name}" for s, t in zip(shares, templates, strict=True))
    scale = np.abs(flux[(lam >= low) & (lam <= high)]).mean()
    return Spectrum(lam, flux / scale, name=label)
