"""kspecdr's way to apply a calibration: arrays in, arrays and header cards out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pogson.errors import CalibrationError, PogsonValueError
from pogson.spectro._checks import fits_text
from pogson.spectro.atmosphere_extinction import AtmosphereExtinction, load_atmosphere_extinction
from pogson.spectro.containers import CalibrationVector, FluxCalibrationResult

__all__ = ["apply_flux_calibration", "shared_conditions"]

_BUNIT = "erg / (Angstrom s cm2)"
_AIRMASS_TOLERANCE = 0.05


def shared_conditions(vectors: Sequence[CalibrationVector]) -> dict[str, Any]:
    """Return exposure time, airmass and unit of the stars of a combination, as far as known.

    Parameters
    ----------
    vectors : sequence of CalibrationVector
        Their ``meta`` may hold ``exptime``, ``airmass`` and ``bunit``.

    Returns
    -------
    conditions : dict
        The exposure time and unit that all share, and the mean airmass.

    Raises
    ------
    PogsonValueError
        If counts per exposure were taken in different times: they are not of one kind.

    Examples
    --------
    >>> lam = [5000.0, 5001.0]
    >>> stars = [CalibrationVector(lam, [1, 1], [0, 0], meta={"airmass": x}) for x in (1.1, 1.3)]
    >>> shared_conditions(stars)
    {'airmass': 1.2000000000000002}
    """
    out: dict[str, Any] = {}
    units = {str(v.meta["bunit"]) for v in vectors if v.meta.get("bunit")}
    if len(units) > 1:
        raise PogsonValueError(
            f"The stars are in different units ({', '.join(sorted(units))}); convert them first."
        )
    if units:
        out["bunit"] = units.pop()
    for key in ("exptime", "airmass"):
        values = np.array([float(v.meta.get(key, np.nan)) for v in vectors])
        known = values[np.isfinite(values)]
        if known.size:
            out[key] = float(known.mean())
        per_exposure = key == "exptime" and "/s" not in out.get("bunit", "")
        if per_exposure and known.size and np.ptp(known) > 1e-3 * known.mean():
            raise PogsonValueError(
                f"The stars were exposed for {known.min():g} to {known.max():g} s; divide the "
                f"counts by the time first (counts/s), or combine stars of one exposure."
            )
    return out


def _other_conditions(
    vector: CalibrationVector,
    exposure_time: float | None,
    airmass: float | None,
    extinction: Any,
) -> np.ndarray | float:
    """Factor for spectra of another exposure time or airmass than the stars'."""
    out: Any = 1.0
    time, x = vector.meta.get("exptime"), vector.meta.get("airmass")
    if exposure_time is not None and "/s" not in str(vector.meta.get("bunit", "")):
        if time is None or not np.isfinite(time):
            raise CalibrationError(
                f"The spectra were exposed for {exposure_time:g} s; how long the stars were is not "
                f'known. Put it into the vector: meta["exptime"].'
            )
        if not exposure_time > 0:
            raise PogsonValueError(f"exposure_time is {exposure_time}; it must be positive.")
        out = out * (float(time) / float(exposure_time))
    if airmass is None:
        return out
    if x is None or not np.isfinite(x):
        raise CalibrationError(
            f"The spectra were taken at airmass {airmass:g}; that of the stars is not known. Put "
            f'it into the vector: meta["airmass"].'
        )
    if extinction is None:
        if abs(float(airmass) - float(x)) > _AIRMASS_TOLERANCE:
            raise CalibrationError(
                f"The spectra were taken at airmass {airmass:g}, the stars at {float(x):g}; give "
                f"extinction (an observatory such as 'paranal', or a function of the wavelength)."
            )
        return out
    curve = load_atmosphere_extinction(extinction) if isinstance(extinction, str) else extinction
    lam = vector.wavelength
    k = curve(lam, extrapolate=True) if isinstance(curve, AtmosphereExtinction) else curve(lam)
    return np.asarray(out * 10 ** (0.4 * np.asarray(k) * (float(airmass) - float(x))))


def apply_flux_calibration(
    spectra: Any,
    variance: Any,
    calibration: CalibrationVector | FluxCalibrationResult,
    update_header: Any = None,
    *,
    wavelength: Any = None,
    exposure_time: float | None = None,
    airmass: float | None = None,
    extinction: Any = None,
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Multiply spectra by a calibration vector.

    Parameters
    ----------
    spectra, variance : array_like, shape (n_fibre, n_pixel), (n_pixel, n_fibre) or (n_pixel,)
        Counts and their variance.
    calibration : CalibrationVector or FluxCalibrationResult
        What to apply.
    update_header : mapping, optional
        A header to be updated in place too (one HISTORY card a star).
    wavelength : array_like, optional
        Wavelengths of the spectra; checked against those of the calibration.
    exposure_time, airmass : float, optional
        Of the spectra, where they differ from those of the stars (``meta["exptime"]`` and
        ``meta["airmass"]`` of the vector).
    extinction : str, AtmosphereExtinction or callable, optional
        Atmospheric extinction: an observatory, a curve, or magnitudes per airmass as a function of
        the wavelength. Needed when the airmass differs by more than 0.05.

    Returns
    -------
    cal_spectra, cal_variance : ndarray, same shape
        ``sigma^2 = sigma_obs^2 Cal^2 + C^2 sigma_Cal^2``; both NaN where the calibration is
        masked, the variance is NaN or negative, or counts and variance are both 0 (no data).
        The second term is shared by all fibres: do not average it down.
    header_updates : dict
        BUNIT, FLUXCAL, FCALNSTR, FCALRMS (absent for one star) and HISTORY, a list.

    Raises
    ------
    PogsonValueError
        If no axis has the length of the calibration, or both have, or the wavelengths differ.
    CalibrationError
        If the exposure time or airmass is given and that of the stars is not known, or the airmass
        differs and there is no extinction curve.

    Notes
    -----
    Telluric lines are those of the stars' airmass. Where spectra at another airmass need them
    right, apply a `FluxCalibration` (`apply_calibration`), which knows how they grow.

    Examples
    --------
    >>> vector = CalibrationVector([5000.0, 5001.0, 5002.0], [1e-17, np.nan, 2e-17], [0, 0, 0])
    >>> flux, var, header = apply_flux_calibration([[5.0, 5.0, -5.0]], np.ones((1, 3)), vector)
    >>> flux, header["BUNIT"]
    (array([[ 5.e-17, nan, -1.e-16]]), 'erg / (Angstrom s cm2)')
    """
    result = calibration if isinstance(calibration, FluxCalibrationResult) else None
    vector = result.combined_vector if result is not None else calibration
    if not isinstance(vector, CalibrationVector):
        raise PogsonValueError(f"Not a calibration: {calibration!r}.")
    counts, var = np.asarray(spectra, np.float64), np.asarray(variance, np.float64)
    n = vector.wavelength.size
    if counts.shape != var.shape or counts.ndim not in (1, 2) or n not in counts.shape:
        raise PogsonValueError(
            f"Spectra of shape {counts.shape} and variance of {var.shape} do not fit a calibration "
            f"of {n} pixels; one axis must have that length."
        )
    if wavelength is not None:
        lam = np.asarray(wavelength, np.float64)
        if lam.shape[-1] != n or not np.max(np.abs(lam - vector.wavelength)) <= 0.05:
            raise PogsonValueError(
                f"The spectra are at {lam.min():g}-{lam.max():g} Angstrom, not on the grid of the "
                f"calibration, {vector.wavelength[0]:g}-{vector.wavelength[-1]:g}; resample it."
            )
    if counts.ndim == 2 and counts.shape == (n, n):
        raise PogsonValueError(
            f"Spectra of shape {counts.shape}: rows and columns are both {n} long, so that fibres "
            f"and pixels cannot be told apart; apply the calibration fibre by fibre."
        )
    turned = counts.ndim == 2 and counts.shape[1] != n
    other = _other_conditions(vector, exposure_time, airmass, extinction)
    c = np.where(vector.mask, vector.cal_factor, np.nan) * other
    vc = np.where(vector.mask, vector.cal_variance, np.nan) * other**2
    if turned:
        c, vc = c[:, None], vc[:, None]
    out, total = counts * c, var * c**2 + counts**2 * vc
    # no data: variance NaN or negative, or 0 +- 0, which is how masked pixels are written
    lost = ~np.isfinite(out) | ~(var >= 0) | ((counts == 0) & (var == 0))
    out, total = np.where(lost, np.nan, out), np.where(lost, np.nan, total)
    header = _header(vector, result)
    if update_header is not None:
        _update(update_header, header)
    return out, total, header


def _header(vector: CalibrationVector, result: FluxCalibrationResult | None) -> dict[str, Any]:
    stars = [vector] if result is None else list(result.per_star_vectors)
    summary = {} if result is None else result.summary
    header: dict[str, Any] = {
        "BUNIT": _BUNIT,
        "FLUXCAL": True,
        "FCALNSTR": int(summary.get("n_stars_used", 1)),
    }
    rms = float(summary.get("rms_scatter", np.nan))
    if np.isfinite(rms):
        header["FCALRMS"] = rms
    lost = summary.get("rejected", {})
    history = []
    for v in stars:
        m = v.meta
        if "teff" not in m:
            continue
        teff, logg, feh, rv, scale = (
            float(m.get(k, np.nan)) for k in ("teff", "logg", "feh", "rv_kms", "scale_factor")
        )
        name = m.get("star_name", "")
        line = (
            f"FLUXCAL star={name} fibre={m.get('fiber_id', -1)} Teff={teff:.0f} logg={logg:.2f} "
            f"[M/H]={feh:+.2f} RV={rv:.1f} scale={scale:.5g}"
        )
        history.append(line + (" REJECTED" if name in lost else ""))
    header["HISTORY"] = history
    return header


def _update(header: Any, updates: Mapping[str, Any]) -> None:
    add = getattr(header, "add_history", None)
    for key, value in updates.items():
        if key != "HISTORY":
            header[key] = value
        elif add is not None:
            for line in value:
                add(fits_text(line))
        else:
            header[key] = list(value)
