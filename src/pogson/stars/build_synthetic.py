"""A grid from any spectra, bandpasses and extinction law, by synthetic photometry."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pogson.errors import CalibrationError, PogsonValueError
from pogson.sed import Bandpass, Spectrum, bandpass_coverage, extinction_curve
from pogson.sed._grid import quadrature, union_grid
from pogson.sed.spectrum import SPEED_OF_LIGHT
from pogson.stars.extinction_fit import AV_NODES, RV_NODES, fit_extinction
from pogson.stars.grid import StellarGrid, missing_name

__all__ = ["build_synthetic_grid"]

_SMALLEST_COVERAGE = 0.99
_NUMBERS_AT_ONCE = 4_000_000


def build_synthetic_grid(
    spectra: Sequence[Spectrum],
    bandpasses: Mapping[str, Bandpass] | Sequence[Bandpass],
    labels: Any,
    *,
    predictions: Any = None,
    scale: Any = 1.0,
    law: str = "G23",
    av: Sequence[float] = AV_NODES,
    rv: Sequence[float] = RV_NODES,
    vega_offsets: Mapping[str, float] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> StellarGrid:
    r"""Compute the photometry of spectra behind dust and fit the coefficients of a grid.

    Parameters
    ----------
    spectra : sequence of Spectrum
        One a model. Those that share their wavelengths are computed together.
    bandpasses : mapping of names to Bandpass, or sequence of Bandpass
        The bands; `Bandpass.from_speclite` has those of most surveys.
    labels, predictions : mapping of names to columns, or structured array
        Parameters of the models; see `StellarGrid`.
    scale : float or array_like of shape (n_models,), optional
        Factor that brings each spectrum to what is seen from 1 kpc; :math:`(R/1\,\mathrm{kpc})^2`
        for fluxes at the surface of a star of radius R.
    law : str, optional
        Extinction law by its name in dust_extinction; see `pogson.sed.extinction_curve`.
    av, rv : sequence of float, optional
        Lattice on which :math:`m = c_0 + A_V (c_1 + R_V c_2)` is fitted.
    vega_offsets : mapping of band to float, optional
        AB magnitude of Vega in the bands whose magnitudes shall be in the Vega system
        (`pogson.sed.vega_offset`); all others are AB.
    progress : callable, optional
        Called as ``progress(done, total)`` after each band.

    Returns
    -------
    StellarGrid
        With `StellarGrid.fit_error`: the largest error of the formula on the lattice. c0 is exact.

    Raises
    ------
    CalibrationError
        If a spectrum covers less than 99 % of a bandpass, or gives no light in it.
    PogsonValueError
        If shapes do not fit, or the law does not cover a wavelength or R_V.
    MissingDataError
        If ``vega_offsets`` names a band that is not asked for.

    Notes
    -----
    AB photometry as in `pogson.sed.synthetic_flux`, photon-counting unless the bandpass says
    energy, with the transmission of the dust inside the integral: a wide band's extinction
    depends on the star's spectrum and on A_V.

    Examples
    --------
    >>> from pogson.sed import stellar_template
    >>> bands = [Bandpass.from_speclite(f"sdss2010-{b}") for b in "gri"]
    >>> temperatures = [4500.0, 5800.0, 7500.0]
    >>> grid = build_synthetic_grid(
    ...     [stellar_template(t) for t in temperatures], bands, {"teff": temperatures}
    ... )
    >>> grid
    StellarGrid(3 models, 3 bands: sdss2010-g sdss2010-r sdss2010-i, labels: teff)
    >>> bool(grid.fit_error.max() < 0.06)
    True
    """
    named = (
        dict(bandpasses)
        if isinstance(bandpasses, Mapping)
        else {band.name: band for band in bandpasses}
    )
    offsets = dict(vega_offsets or {})
    for name in offsets:
        if name not in named:
            raise missing_name(name, named, "filter", "The list of bandpasses")
    n = len(spectra)
    factor = np.asarray(scale, np.float64)
    if factor.ndim and factor.shape != (n,):
        raise PogsonValueError(
            f"scale must be one number or have shape ({n},), one a spectrum; got {factor.shape}."
        )
    if n == 0 or not named or not np.all(factor > 0):
        raise PogsonValueError(
            f"A grid needs spectra, bandpasses and positive scales; got {n} spectra, {len(named)} "
            f"bandpasses and a smallest scale of {np.min(factor, initial=np.inf):g}."
        )
    a, r = np.asarray(av, np.float64), np.asarray(rv, np.float64)
    groups = _by_wavelength(spectra)
    values = np.empty((n, len(named), 4))
    for j, (name, band) in enumerate(named.items()):
        for members in groups:
            flux = _dusty_fluxes([spectra[i] for i in members], members, band, law, a, r)
            bare = -2.5 * np.log10(flux[:, 0])
            change = -2.5 * np.log10(flux[:, 1:]) - bare[:, None]
            c1, c2, error = fit_extinction(change.reshape(-1, a.size, r.size), a, r)
            values[members, j] = np.stack([bare, c1, c2, error], axis=-1)
        values[:, j, 0] += 31.4 - offsets.get(name, 0.0) - 2.5 * np.log10(factor)
        if progress is not None:
            progress(j + 1, len(named))
    provenance = {
        "source": f"synthetic photometry of {n} spectra",
        "extinction_law": law,
        "fit_av": [float(v) for v in a],
        "fit_rv": [float(v) for v in r],
        "reference_distance_pc": 1000.0,
        "systems": {b: "Vega" if b in offsets else "AB" for b in named},
        "vega_offsets": {k: float(v) for k, v in offsets.items()},
    }
    outputs = np.empty(0) if predictions is None else predictions
    return StellarGrid(
        values[..., :3],
        tuple(named),
        labels,
        outputs,
        provenance=provenance,
        fit_error=values[..., 3],
    )


def _by_wavelength(spectra: Sequence[Spectrum]) -> list[np.ndarray]:
    """Return the positions of spectra that share their wavelengths, group by group."""
    groups: dict[tuple[bytes, str], list[int]] = {}
    for i, spectrum in enumerate(spectra):
        groups.setdefault((spectrum.wavelength.tobytes(), spectrum.medium), []).append(i)
    return [np.array(members) for members in groups.values()]


def _dusty_fluxes(
    spectra: Sequence[Spectrum],
    members: np.ndarray,
    band: Bandpass,
    law: str,
    av: np.ndarray,
    rv: np.ndarray,
) -> np.ndarray:
    """Return AB fluxes in nJy without dust and then for each (A_V, R_V), shape (n, 1 + n_dust)."""
    first = spectra[0].to_vacuum()
    covered = bandpass_coverage(first, band)
    low, high = band.wavelength_range
    lam = first.wavelength
    if covered < _SMALLEST_COVERAGE:
        raise CalibrationError(
            f"Spectrum {int(members[0])} {first.name!r} ({lam[0]:g}-{lam[-1]:g} Angstrom) covers "
            f"{100 * covered:.2f} % of bandpass {band.name!r} ({low:g}-{high:g} Angstrom); at "
            f"least {100 * _SMALLEST_COVERAGE:g} % is needed. Extend the spectra with a model."
        )
    edges = union_grid(band.wavelength, lam, max(low, lam[0]), min(high, lam[-1]))
    nodes, weight = quadrature(edges)
    weight = weight * band.evaluate(nodes) / nodes**band._power
    weight = weight / np.sum(weight)
    # A / A_V at each R_V
    curve = np.stack([extinction_curve(nodes, r_v=float(v), law=law) / v for v in rv])
    dust = 10.0 ** (-0.4 * av[:, None, None] * curve[None])
    filters = np.concatenate([weight[None], weight * dust.reshape(-1, nodes.size)])
    place = np.clip(np.searchsorted(lam, nodes, side="right") - 1, 0, lam.size - 2)
    share = (nodes - lam[place]) / (lam[place + 1] - lam[place])
    # weights of the samples of lambda^2 f_lambda, between which the spectra are linear
    sampled = np.zeros((len(filters), lam.size))
    for row, dusty in zip(sampled, filters, strict=True):
        row += np.bincount(place, dusty * (1 - share), lam.size)
        row += np.bincount(place + 1, dusty * share, lam.size)
    used = np.flatnonzero(sampled[0])
    sampled = sampled[:, used] * (lam[used] ** 2 / (SPEED_OF_LIGHT * 1e-32))
    out = np.empty((len(spectra), len(filters)))
    block = max(1, _NUMBERS_AT_ONCE // lam.size)
    for begin in range(0, len(spectra), block):
        some = spectra[begin : begin + block]
        flux = np.stack([s.to_vacuum().flux[used] for s in some])
        out[begin : begin + block] = flux @ sampled.T
    dark = ~(out > 0).all(axis=1)
    if dark.any():
        i = int(members[np.flatnonzero(dark)[0]])
        raise CalibrationError(
            f"{int(dark.sum())} spectra give no light in bandpass {band.name!r}, the first is "
            f"number {i}; a magnitude needs a positive flux. Leave them out."
        )
    return out
