r"""Radial profiles and enclosed energies of optical PSFs, before the pixel.

Total flux 1; radii and widths in the same unit (pixels). These are the textbook functions: what an
aperture measures on pixels differs, by up to 40 mmag at small radii, and `PSF.enclosed_energy`
gives that.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from pogson.errors import PogsonValueError

__all__ = [
    "gaussian_enclosed_energy",
    "gaussian_sigma",
    "kolmogorov_enclosed_energy",
    "kolmogorov_profile",
    "moffat_alpha",
    "moffat_enclosed_energy",
]

_FWHM_PER_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))


def gaussian_sigma(fwhm: Any) -> Any:
    r"""Return sigma = FWHM / (2 sqrt(2 ln 2)).

    Examples
    --------
    >>> round(float(gaussian_sigma(2.3548200450309493)), 12)
    1.0
    """
    return fwhm / _FWHM_PER_SIGMA


def moffat_alpha(fwhm: Any, beta: Any) -> Any:
    r"""Return the Moffat core width alpha = FWHM / (2 sqrt(2^(1/beta) - 1)).

    Examples
    --------
    >>> float(moffat_alpha(2.0, 1.0))
    1.0
    """
    return fwhm / (2.0 * np.sqrt(np.exp2(1.0 / beta) - 1.0))


def gaussian_enclosed_energy(radius: Any, fwhm: Any) -> Any:
    r"""Return 1 - exp(-R^2 / 2 sigma^2), the fraction of a round Gaussian inside radius R.

    Examples
    --------
    >>> float(gaussian_enclosed_energy(2.0, 4.0))
    0.5
    """
    return -np.expm1(-0.5 * (np.asarray(radius) / gaussian_sigma(fwhm)) ** 2)


def moffat_enclosed_energy(radius: Any, fwhm: Any, beta: Any) -> Any:
    r"""Return 1 - (1 + R^2/alpha^2)^(1 - beta), the fraction of a round Moffat inside radius R.

    Raises
    ------
    PogsonValueError
        If beta is not above 1, where the flux is infinite.

    Examples
    --------
    >>> round(float(moffat_enclosed_energy(12.0, 4.0, 3.0)), 5)
    0.99068
    """
    if not (np.asarray(beta) > 1).all():
        raise PogsonValueError(f"A Moffat profile needs beta > 1 (got {beta!r}).")
    return -np.expm1(
        (1.0 - np.asarray(beta)) * np.log1p((np.asarray(radius) / moffat_alpha(fwhm, beta)) ** 2)
    )


class KolmogorovTable(NamedTuple):
    """Profile of the transfer function exp(-k^(5/3)) on a radial grid in its own unit."""

    step: float
    table: np.ndarray
    """Profile and its derivative at i*step, shape (n, 2)."""
    tail: np.ndarray
    """Coefficients of r^-(2 + 5(n+1)/3) beyond the table."""
    fwhm: float
    """Full width at half maximum in the table's unit."""


# k = t^3 turns exp(-k^(5/3)) into exp(-t^5), analytic at 0; it is 1e-17 at the upper limit
_T_MAX = 39.0**0.2


@lru_cache(maxsize=1)
def _transfer_nodes() -> tuple[np.ndarray, np.ndarray]:
    """Return frequencies k and weights of a quadrature of f(k) exp(-k^(5/3)) dk."""
    x, w = np.polynomial.legendre.leggauss(700)
    t = 0.5 * _T_MAX * (x + 1.0)
    weights = 0.5 * _T_MAX * w * 3.0 * t**2 * np.exp(-(t**5))
    return t**3, weights


def _tail_coefficients(n_terms: int) -> np.ndarray:
    """Return the asymptotic coefficients of the profile, from the series of the transfer function.

    The transform of k^s is 2^(s+1) Gamma(1+s/2) / Gamma(-s/2) r^(-s-2), with s = 5n/3.
    """
    n = np.arange(1, n_terms + 1)
    s = 5.0 * n / 3.0
    sign = np.where(n % 2 == 0, 1.0, -1.0)
    value = 2.0 ** (s + 1) * special.gamma(1 + s / 2) * special.rgamma(-s / 2)
    return sign / special.factorial(n) * value / (2 * np.pi)


@lru_cache(maxsize=1)
def kolmogorov_table() -> KolmogorovTable:
    """Return the tabulated profile; computed once."""
    k, w = _transfer_nodes()
    step, r_max = 0.02, 60.0
    r = np.arange(0.0, r_max + step, step)
    table = np.empty((r.size, 2))
    for start in range(0, r.size, 200):
        part = slice(start, start + 200)
        kr = r[part, None] * k[None, :]
        table[part, 0] = special.j0(kr) @ (w * k) / (2 * np.pi)
        table[part, 1] = -special.j1(kr) @ (w * k * k) / (2 * np.pi)
    from scipy.optimize import brentq

    def excess(radius: float) -> float:
        return float(special.j0(radius * k) @ (w * k)) / (2 * np.pi) - 0.5 * table[0, 0]

    fwhm = 2.0 * float(brentq(excess, 0.5, 5.0, xtol=1e-14))
    table.flags.writeable = False
    tail = _tail_coefficients(4)
    tail.flags.writeable = False
    return KolmogorovTable(step, table, tail, fwhm)


def kolmogorov_profile(radius: Any, fwhm: float) -> np.ndarray:
    r"""Return the Kolmogorov profile per unit area.

    The transfer function is :math:`\exp[-(k/k_0)^{5/3}]` (Fried 1966, J. Opt. Soc. Am. 56, 1372).

    Examples
    --------
    >>> p = kolmogorov_profile([0.0, 2.0], 4.0)
    >>> round(float(p[1] / p[0]), 9)
    0.5
    """
    from pogson.psf import _draw_kernels as kernels

    t = kolmogorov_table()
    unit = fwhm / t.fwhm
    r = np.atleast_1d(np.asarray(radius, np.float64)) / unit
    values = [kernels._table_value(v, t.table, t.step, t.tail) for v in r.ravel()]
    return np.array(values).reshape(r.shape) / unit**2


def kolmogorov_enclosed_energy(radius: Any, fwhm: float) -> Any:
    r"""Return the fraction of a Kolmogorov profile inside radius R.

    :math:`EE(R) = R \int_0^\infty e^{-(k/k_0)^{5/3}} J_1(kR)\,dk`; beyond 60 core units its
    asymptotic series.

    Examples
    --------
    >>> round(float(kolmogorov_enclosed_energy(12.0, 4.0)), 4)
    0.9841
    """
    unit = fwhm / kolmogorov_table().fwhm
    r = np.atleast_1d(np.asarray(radius, np.float64)) / unit
    k, w = _transfer_nodes()
    near = np.minimum(r, 60.0)
    value = near * (special.j1(near[..., None] * k) @ w)
    far = r > 60.0
    if far.any():
        tail = _tail_coefficients(4)
        s = 5.0 * np.arange(1, 5) / 3.0
        value[far] = 1.0 - 2 * np.pi * np.sum(tail / s * r[far, None] ** -s, axis=-1)
    return value[0] if np.ndim(radius) == 0 else value
