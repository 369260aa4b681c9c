"""Synthetic photometry: AB flux densities of spectra in bandpasses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pogson.errors import CalibrationError, PogsonValueError
from pogson.sed._grid import quadrature, union_grid
from pogson.sed.bandpass import Bandpass
from pogson.sed.spectrum import Spectrum
from pogson.units import flux_to_magnitude

__all__ = [
    "bandpass_coverage",
    "color_term_slope",
    "synthetic_color",
    "synthetic_flux",
    "synthetic_magnitude",
]

_SMALLEST_COVERAGE = 0.99


def _weight(bandpass: Bandpass, lam: np.ndarray) -> np.ndarray:
    """Weight of f_nu per unit wavelength: T / lambda^p."""
    return np.asarray(bandpass.evaluate(lam) / lam**bandpass._power)


def bandpass_coverage(spectrum: Spectrum, bandpass: Bandpass) -> float:
    r"""Fraction of a bandpass that a spectrum covers.

    The fraction of :math:`\int T\lambda^{-p}d\lambda` (see `Bandpass`) within the spectrum's
    wavelengths: the weight that an AB source would have there.

    Examples
    --------
    >>> r = Bandpass.from_speclite("decam2014-r")
    >>> bandpass_coverage(Spectrum([3000.0, 9000.0], [1.0, 1.0]), r) > 0.999
    True
    """
    spectrum = spectrum.to_vacuum()
    low, high = bandpass.wavelength_range
    lo, hi = max(low, spectrum.wavelength[0]), min(high, spectrum.wavelength[-1])
    if hi <= lo:
        return 0.0
    parts = []
    for a, b in ((lo, hi), (low, high)):
        lam, w = quadrature(union_grid(bandpass.wavelength, bandpass.wavelength, a, b))
        parts.append(float(np.sum(w * _weight(bandpass, lam))))
    # the same integral over the same range gives the same number, so full coverage is exactly 1
    return min(parts[0] / parts[1], 1.0)


def synthetic_flux(spectrum: Spectrum, bandpass: Bandpass) -> float:
    r"""AB flux density of a spectrum in a bandpass, in nJy.

    .. math::

        f = \frac{\int f_\nu(\lambda)\,T(\lambda)\,\lambda^{-p}\,d\lambda}
                 {\int T(\lambda)\,\lambda^{-p}\,d\lambda},\qquad
        f_\nu = f_\lambda \lambda^2 / c

    with :math:`p = 1` for a photon response and :math:`p = 2` for an energy response.

    Parameters
    ----------
    spectrum : Spectrum
        The source; air wavelengths are converted to vacuum.
    bandpass : Bandpass
        The response.

    Returns
    -------
    flux : float
        nJy. Zero and negative values are returned as they are.

    Raises
    ------
    CalibrationError
        If the spectrum covers less than 99 % of the bandpass (`bandpass_coverage`). Between 99 %
        and 100 % both integrals run over the part covered.

    Notes
    -----
    Photon-counting AB photometry of Fukugita et al. (1996, AJ 111, 1748), eq. 7. Both curves are
    linear between samples (the spectrum in :math:`\lambda^2 f_\lambda`), and Gauss-Legendre
    quadrature on the union of the two grids integrates their product to rounding. Numerator and
    denominator share nodes, so a source of constant AB magnitude has exactly zero colour.

    Examples
    --------
    >>> g, r = (Bandpass.from_speclite(f"decam2014-{b}") for b in "gr")
    >>> flat = Spectrum.constant_ab(20.0)
    >>> abs(synthetic_flux(flat, g) / synthetic_flux(flat, r) - 1) < 1e-14
    True
    """
    spectrum = spectrum.to_vacuum()
    covered = bandpass_coverage(spectrum, bandpass)
    low, high = bandpass.wavelength_range
    first, last = float(spectrum.wavelength[0]), float(spectrum.wavelength[-1])
    if covered < _SMALLEST_COVERAGE:
        raise CalibrationError(
            f"The spectrum {spectrum.name!r} ({first:g}-{last:g} Angstrom) covers "
            f"{100 * covered:.2f} % of bandpass {bandpass.name!r} ({low:g}-{high:g} Angstrom); at "
            f"least {100 * _SMALLEST_COVERAGE:g} % is needed. Extend the spectrum with a model."
        )
    edges = union_grid(bandpass.wavelength, spectrum.wavelength, max(low, first), min(high, last))
    lam, w = quadrature(edges)
    weight = w * _weight(bandpass, lam)
    return float(np.sum(weight * spectrum.flux_density(lam)) / np.sum(weight))


def synthetic_magnitude(spectrum: Spectrum, bandpass: Bandpass) -> float:
    """AB magnitude of a spectrum in a bandpass; NaN where the flux is not positive.

    See `synthetic_flux`.

    Examples
    --------
    >>> r = Bandpass.from_speclite("decam2014-r")
    >>> round(synthetic_magnitude(Spectrum.constant_ab(18.0), r), 12)
    18.0
    """
    return float(flux_to_magnitude(synthetic_flux(spectrum, bandpass)))


def synthetic_color(spectrum: Spectrum, blue: Bandpass, red: Bandpass) -> float:
    """AB magnitude in ``blue`` less that in ``red``.

    Examples
    --------
    >>> from pogson.sed import stellar_template
    >>> g, r = (Bandpass.from_speclite(f"sdss2010-{b}") for b in "gr")
    >>> bool(0.3 < synthetic_color(stellar_template(5800.0), g, r) < 0.6)
    True
    """
    return synthetic_magnitude(spectrum, blue) - synthetic_magnitude(spectrum, red)


def color_term_slope(
    spectra: Sequence[Spectrum],
    natural: Bandpass,
    standard: Bandpass,
    color: tuple[Bandpass, Bandpass],
) -> tuple[float, float, float]:
    """Linear colour term from a standard bandpass to a natural one, from spectra.

    Fits ``m_natural - m_standard = offset + slope * colour`` by least squares over the spectra.

    Parameters
    ----------
    spectra : sequence of Spectrum
        At least two, of different colour.
    natural, standard : Bandpass
        The instrument's own bandpass and the one a catalogue is in.
    color : tuple of Bandpass
        (blue, red): the colour is the AB magnitude difference.

    Returns
    -------
    slope, offset, scatter : float
        Magnitudes; ``scatter`` is the rms of the residuals.

    Raises
    ------
    PogsonValueError
        If fewer than two spectra of different colour are given.

    Examples
    --------
    >>> from pogson.sed import stellar_template
    >>> g, r = (Bandpass.from_speclite(f"decam2014-{b}") for b in "gr")
    >>> stars = [stellar_template(t) for t in (4800.0, 5500.0, 6500.0)]
    >>> slope, offset, scatter = color_term_slope(stars, g.shifted(40.0), g, (g, r))
    >>> bool(-0.15 < slope < -0.02)
    True
    """
    x = np.array([synthetic_color(s, *color) for s in spectra])
    if x.size < 2 or np.ptp(x) < 1e-6:
        raise PogsonValueError(
            f"A colour term needs at least two spectra of different colour; got {x.size} with a "
            f"colour range of {np.ptp(x) if x.size else 0:g} mag."
        )
    y = np.array(
        [synthetic_magnitude(s, natural) - synthetic_magnitude(s, standard) for s in spectra]
    )
    slope, offset = np.polyfit(x, y, 1)
    scatter = float(np.sqrt(np.mean((y - offset - slope * x) ** 2)))
    return float(slope), float(offset), scatter
