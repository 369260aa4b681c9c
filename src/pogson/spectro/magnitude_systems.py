"""Vega magnitudes given as AB, or the other way round: what the residuals of the bands say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pogson.errors import MissingDataError, PogsonValueError
from pogson.sed import load_filter_curve

__all__ = ["MagnitudeShift", "SystemSuspicion", "check_magnitude_systems", "vega_to_ab"]

# AB magnitude of Vega (CALSPEC alpha_lyr_stis_011) in bands whose catalogues are in AB: what they
# would be off by if they were converted; tests/spectro/test_magnitude_systems.py derives them again
_AB_BANDS: dict[str, float] = {
    "ps1_g": -0.0962, "ps1_r": 0.1460, "ps1_i": 0.3728, "ps1_z": 0.5138, "ps1_y": 0.5532,
    "sdss_u": 0.8683, "sdss_g": -0.1109, "sdss_r": 0.1454, "sdss_i": 0.3664, "sdss_z": 0.5235,
    "decam_u": 0.3168, "decam_g": -0.0986, "decam_r": 0.1862, "decam_i": 0.4157,
    "decam_z": 0.5258, "decam_Y": 0.5768,
}  # fmt: skip
_LEAST_GAIN = 25.0  # chi-square, as 5 sigma
_FREE_SCALE = 10.0  # magnitudes: each star's level says nothing


def vega_to_ab(band: str) -> float:
    """Return what turns a Vega magnitude of a band into an AB magnitude.

    Parameters
    ----------
    band : str
        Name as in `pogson.sed.load_filter_curve`.

    Raises
    ------
    MissingDataError
        If it is not tabulated; derive it with `pogson.sed.vega_offset`. It is never taken as 0.

    Examples
    --------
    >>> vega_to_ab("ps1_z"), vega_to_ab("2mass_j")
    (0.5138, 0.9033)
    """
    if band in _AB_BANDS:
        return _AB_BANDS[band]
    curve = load_filter_curve(band)
    if curve.system != "Vega":
        raise MissingDataError(
            f"The offset from Vega to AB of band {band!r} is not tabulated; derive it with "
            f"pogson.sed.vega_offset and give it (vega_to_ab). A missing offset is not zero."
        )
    return curve.vega_to_ab


@dataclass(frozen=True, eq=False)
class MagnitudeShift:
    """A parameter by which a fit may have hidden wrong magnitudes, with what was known of it.

    Parameters
    ----------
    pattern : array_like, shape (n_star, n_band) or (n_band,)
        Change of the synthetic magnitudes with the parameter.
    moved : array_like, shape (n_star,)
        Fitted value less the value expected before the bands were seen.
    error : array_like, shape (n_star,) or float
        1-sigma error of what was expected.

    Examples
    --------
    >>> MagnitudeShift([3.6, 2.6], [0.1], 0.03).error
    0.03
    """

    pattern: Any
    moved: Any
    error: Any


@dataclass(frozen=True)
class SystemSuspicion:
    """Bands whose magnitudes seem to be in another system than was said.

    Parameters
    ----------
    bands : tuple of str
        The bands.
    declared, likely : str
        "AB" or "Vega".
    amplitude, amplitude_error : float
        How much of the offsets the residuals show; 1 if the suspicion is right, 0 if not.
    gain : float
        Chi-square that the other system saves.

    Examples
    --------
    >>> print(SystemSuspicion(("gaia_g",), "AB", "Vega", 0.98, 0.05, 380.0))
    gaia_g: given as AB, look like Vega (0.98 +- 0.05 of the offsets, chi-square 380 lower)
    """

    bands: tuple[str, ...]
    declared: str
    likely: str
    amplitude: float
    amplitude_error: float
    gain: float

    def __str__(self) -> str:
        return (
            f"{', '.join(self.bands)}: given as {self.declared}, look like {self.likely} "
            f"({self.amplitude:.2f} +- {self.amplitude_error:.2f} of the offsets, chi-square "
            f"{self.gain:.0f} lower)"
        )


def check_magnitude_systems(
    bands: Sequence[str],
    residuals: Any,
    errors: Any,
    declared: Mapping[str, str] | str = "AB",
    *,
    offsets: Mapping[str, float] | None = None,
    shifts: Sequence[MagnitudeShift] = (),
) -> tuple[SystemSuspicion, ...]:
    r"""Compare residuals of bands with what a mix-up of Vega and AB would leave.

    Parameters
    ----------
    bands : sequence of str, length n_band
        Names.
    residuals : array_like, shape (n_star, n_band)
        Synthetic minus catalogue magnitude (AB, as used in the fit); NaN where missing.
    errors : array_like, same shape
        1-sigma errors of the magnitudes, with the floor that the models deserve.
    declared : mapping or {"AB", "Vega"}, optional
        The system in which the catalogue was said to be, of each band or of all. Bands said to be
        in Vega had their offsets added before the fit.
    offsets : mapping, optional
        What turns Vega into AB, by band; by default `vega_to_ab`. Bands without one are left out.
    shifts : sequence of MagnitudeShift, optional
        Reddening and temperature, by which the fit follows wrong colours.

    Returns
    -------
    suspicions : tuple of SystemSuspicion
        Of disjoint groups of bands, the strongest first; empty if the systems are as declared.

    Raises
    ------
    PogsonValueError
        If shapes differ.

    Notes
    -----
    The level of each star is free, so that only differences between bands count: one band alone,
    and an offset that all bands share, cannot be told. What the fit has moved along a pattern is
    put back, with the prior error of that parameter as covariance:
    :math:`y_i = r_i - \sum_j p_{ij} \delta_{ij}`,
    :math:`C_i = \mathrm{diag}(\sigma^2) + \sum_j s_{ij}^2 p_{ij} p_{ij}^T + L^2 1 1^T`. The
    amplitude of the offsets is estimated from all stars together. It must lie within 0.5 and 1.5,
    in the median of the stars too, and save a chi-square of 25 after the scatter of the residuals
    has been allowed for.

    Examples
    --------
    >>> bands = ["ps1_g", "ps1_r", "gaia_bp", "gaia_rp"]
    >>> rng = np.random.default_rng(1)
    >>> noise = rng.normal(0, 0.02, (4, 4))
    >>> check_magnitude_systems(bands, noise, np.full((4, 4), 0.02))
    ()
    >>> vega = noise + [0, 0, 0.0585, 0.3767]
    >>> [s.bands for s in check_magnitude_systems(bands, vega, np.full((4, 4), 0.02))]
    [('gaia_bp', 'gaia_rp')]
    """
    names = tuple(bands)
    r, e = np.atleast_2d(np.asarray(residuals, float)), np.atleast_2d(np.asarray(errors, float))
    if r.shape != e.shape or r.shape[1] != len(names):
        raise PogsonValueError(
            f"Residuals have shape {r.shape} and errors {e.shape} for {len(names)} bands; give "
            f"(n_star, n_band)."
        )
    system = {b: declared if isinstance(declared, str) else declared[b] for b in names}
    known = _offsets(names, offsets)
    y, inverse = _raw(r, e, shifts)
    found: list[SystemSuspicion] = []
    free = set(known)
    while True:
        tried = [
            (_suspicion(group, names, system, known, y, inverse), group)
            for group in _groups(names, system, free)
        ]
        tests = [(s, g) for s, g in tried if s is not None]
        if not tests:
            return tuple(found)
        best, group = max(tests, key=lambda pair: pair[0].gain)
        found.append(best)
        free -= set(group)
        # what one group explains is not shown to the next
        sign = 1.0 if best.declared == "AB" else -1.0
        y = y - sign * np.array([known.get(b, 0.0) if b in group else 0.0 for b in names])


def _offsets(names: Sequence[str], given: Mapping[str, float] | None) -> dict[str, float]:
    out = {}
    for band in names:
        try:
            value = vega_to_ab(band) if given is None else given[band]
        except (MissingDataError, KeyError):
            continue
        if np.isfinite(value):
            out[band] = float(value)
    return out


def _groups(
    names: Sequence[str], system: Mapping[str, str], free: set[str]
) -> list[tuple[str, ...]]:
    """Bands that may have been mixed up together: those of one survey, all of one system."""
    out = []
    for word in ("AB", "Vega"):
        mine = [b for b in names if system[b] == word and b in free]
        out.append(tuple(mine))
        surveys = dict.fromkeys(_survey(b) for b in mine)
        out += [tuple(b for b in mine if _survey(b) == survey) for survey in surveys]
    return [g for g in dict.fromkeys(out) if g]


def _survey(band: str) -> str:
    return band.replace("-", "_").partition("_")[0]


def _raw(
    r: np.ndarray, e: np.ndarray, shifts: Sequence[MagnitudeShift]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Residuals as they were before the fit followed the colours, and inverse covariances."""
    y = r.copy()
    inverse = []
    for i in range(r.shape[0]):
        use = np.isfinite(r[i]) & np.isfinite(e[i]) & (e[i] > 0)
        c = np.diag(np.where(use, e[i], 1.0) ** 2) + _FREE_SCALE**2
        for shift in shifts:
            p = np.broadcast_to(np.asarray(shift.pattern, float), r.shape)[i]
            y[i] -= p * float(np.broadcast_to(shift.moved, r.shape[0])[i])
            c = c + float(np.broadcast_to(shift.error, r.shape[0])[i]) ** 2 * np.outer(p, p)
        w = np.zeros_like(c)
        if use.sum() > 1:
            w[np.ix_(use, use)] = np.linalg.inv(c[np.ix_(use, use)])
        inverse.append(w)
    return np.where(np.isfinite(y), y, 0.0), inverse


def _suspicion(
    group: Sequence[str],
    names: Sequence[str],
    system: Mapping[str, str],
    known: Mapping[str, float],
    y: np.ndarray,
    inverse: Sequence[np.ndarray],
) -> SystemSuspicion | None:
    declared = system[group[0]]
    sign = 1.0 if declared == "AB" else -1.0
    p = np.array([sign * known[b] if b in group else 0.0 for b in names])
    num = np.array([p @ w @ v for w, v in zip(inverse, y, strict=True)])
    den = np.array([p @ w @ p for w in inverse])
    told = den > 1e-12
    if not told.any() or den.sum() < _LEAST_GAIN:
        return None
    amplitude = float(num.sum() / den.sum())
    left = [
        float((v - amplitude * p) @ w @ (v - amplitude * p))
        for w, v, t in zip(inverse, y, told, strict=True)
        if t
    ]
    dof = sum(int((np.diag(w) > 0).sum()) - 1 for w, t in zip(inverse, told, strict=True) if t) - 1
    inflate = max(1.0, float(np.sum(left)) / max(dof, 1))
    gain = float(2 * num.sum() - den.sum()) / inflate
    middle = float(np.median(num[told] / den[told]))
    if gain < _LEAST_GAIN or not (0.5 < amplitude < 1.5 and 0.5 < middle < 1.5):
        return None
    likely = "Vega" if declared == "AB" else "AB"
    error = float(np.sqrt(inflate / den.sum()))
    return SystemSuspicion(tuple(group), declared, likely, amplitude, error, gain)
