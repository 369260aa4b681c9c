"""PSF fluxes at fixed positions: a linear fit of the PSF to the pixels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.calib import FluxReference
from pogson.errors import MissingDataError, PogsonValueError, choices
from pogson.images.background import background_subtracted_image
from pogson.images.exposure import Exposure
from pogson.images.flags import SourceFlag, count_flags
from pogson.images.mask_flags import mask_flags

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["fit_psf_fluxes", "psf_flux"]

_WEIGHTINGS = ("uniform", "variance")
_CHUNK_PIXELS = 4_000_000
_LOST_LIGHT = 0.1


def psf_flux(
    exposure: Exposure,
    *,
    x: Any,
    y: Any,
    weighting: str = "uniform",
    local_background: bool = False,
    half_size: int | None = None,
    background: str | None = "attached",
    mask_names: Iterable[str] | None = None,
) -> Table:
    """Fit the amplitude of the PSF at fixed positions, each source on its own.

    Parameters
    ----------
    exposure : Exposure
        With a PSF; measured in fluence (converted if it is in surface brightness).
    x, y : array_like, shape (n,)
        Positions in pixels (0-based, centres on integers).
    weighting : {"uniform", "variance"}, optional
        "uniform" is unbiased whatever the variance plane holds, and its error is propagated from
        that plane. "variance" weights by the inverse variance: optimal when the variance is that of
        the sky alone; with a plane that follows the noisy pixels it is biased low.
    local_background : bool, optional
        Fit a constant surface brightness together with the flux.
    half_size : int, optional
        Half-size of the fitted stamp in pixels; by default it reaches to 3 FWHM of the PSF.
    background : "attached" or None, optional
        Whether to subtract the exposure's background where it has one.
    mask_names : iterable of str, optional
        Mask names whose pixels are left out of the fit; see `Exposure.bad`.

    Returns
    -------
    astropy.table.Table
        ``x, y, flux_psf, flux_psf_err, chi2, n_pixels`` (fitted pixels), ``missing`` (fraction of
        the stamp's PSF light on masked pixels or off the image), ``flags``, and with
        ``local_background`` the level and its error (surface brightness). ``flux_psf`` carries the
        reference ``FluxReference.psf()`` of the PSF's normalisation in ``info.meta``.

    Raises
    ------
    MissingDataError
        If the exposure has no PSF, or no variance for ``weighting="variance"``.
    MeasureError
        If the exposure is in surface brightness and has no area ratio.
    MaskedDataError
        If every pixel is masked.

    Notes
    -----
    The flux is ``sum(w P D) / sum(w P**2)`` with PSF P, data D and weight w; errors are
    ``sum(w**2 P**2 V) / sum(w P**2)**2``, right for both weightings. Masked pixels are left out of
    all sums, which does not bias the flux as long as the PSF is right.

    Examples
    --------
    >>> import numpy as np
    >>> from pogson.images import Exposure, psf_flux
    >>> from pogson.psf import MoffatPSF
    >>> psf = MoffatPSF(fwhm=4.0, beta=3.0)
    >>> image = 500.0 * psf.draw(x=30.2, y=29.9, half_size=30).image
    >>> exposure = Exposure(image, variance=np.ones(image.shape), unit="adu", measure="fluence",
    ...                     psf=psf)
    >>> table = psf_flux(exposure, x=[30.2], y=[29.9])
    >>> round(float(table["flux_psf"][0]), 2)
    500.0
    """
    from astropy.table import Table

    from pogson.images.apertures import positions, to_fluence

    exposure = to_fluence(exposure, "PSF photometry")
    psf = _psf(exposure)
    if background not in ("attached", None):
        raise PogsonValueError(f"background is {background!r}; allowed: 'attached' or None.")
    image = exposure.image if background is None else background_subtracted_image(exposure)
    variance = exposure.variance
    if variance is None and exposure.background is not None:
        variance = exposure.background.rms_image(exposure.measure, box=exposure.box) ** 2
    xs, ys = positions(x, y)
    fit = fit_psf_fluxes(
        exposure,
        np.ascontiguousarray(image),
        exposure.usable(mask_names),
        variance,
        x=xs,
        y=ys,
        local=local_background,
        weighting=weighting,
        half_size=half_size,
    )
    table = Table()
    table["x"], table["y"] = xs, ys
    table["flux_psf"], table["flux_psf_err"] = fit["flux"], np.sqrt(fit["variance"])
    table["flux_psf"].unit = table["flux_psf_err"].unit = exposure.unit
    table["flux_psf"].info.meta = {
        "reference": FluxReference.psf().resolved(psf).to_dict(),
        "measure": str(exposure.measure),
        "bandpass": exposure.bandpass,
    }
    for name in ("chi2", "n_pixels", "missing", "flags"):
        table[name] = fit[name]
    if local_background:
        table["local_background"] = fit["level"]
        table["local_background_err"] = np.sqrt(fit["level_variance"])
        table["local_background"].unit = table["local_background_err"].unit = exposure.unit
    table.meta.update(
        weighting=weighting, psf=psf.identifier, flag_counts=count_flags(fit["flags"])
    )
    return table


def _psf(exposure: Exposure) -> Any:
    if exposure.psf is None:
        raise MissingDataError("PSF fluxes need a PSF; give one with exposure.with_(psf=...).")
    return exposure.psf


def fit_psf_fluxes(
    exposure: Exposure,
    image: np.ndarray,
    bad: np.ndarray,
    variance: np.ndarray | None,
    *,
    x: np.ndarray,
    y: np.ndarray,
    local: bool = False,
    weighting: str = "uniform",
    half_size: int | None = None,
) -> dict[str, np.ndarray]:
    """Fit PSF fluxes on prepared arrays; see `psf_flux`.

    Parameters
    ----------
    exposure : Exposure
        In fluence, with a PSF.
    image, bad, variance : numpy.ndarray
        Background-subtracted image, unusable pixels, and pixel variance or None.
    x, y : numpy.ndarray, shape (n,)
        Positions in pixels; those not finite, or where the PSF is not defined, give NaN.
    local, weighting, half_size
        As ``local_background``, ``weighting`` and ``half_size`` of `psf_flux`.

    Returns
    -------
    dict of numpy.ndarray
        flux, variance, level, level_variance, chi2, n_pixels, missing, flags; ``photons``: the
        variance that the star's own photons make is ``flux / gain * photons``.
    """
    if weighting not in _WEIGHTINGS:
        raise PogsonValueError(f"weighting is {weighting!r}; allowed: {choices(_WEIGHTINGS)}.")
    if variance is None and weighting == "variance":
        raise MissingDataError("Weighting by variance needs a variance; use weighting='uniform'.")
    psf = _psf(exposure)
    n = x.size
    out: dict[str, np.ndarray] = {
        name: np.full(n, np.nan)
        for name in ("flux", "variance", "level", "level_variance", "chi2", "photons", "missing")
    }
    out["n_pixels"] = np.zeros(n, np.int64)
    flags = np.zeros(n, np.int32)
    known = np.isfinite(x) & np.isfinite(y)
    flags[~known] |= int(SourceFlag.BAD_POSITION)
    inside = known.copy()
    if psf.box is not None:
        inside &= np.asarray(psf.box.contains(x=x, y=y))
    flags[known & ~inside] |= int(SourceFlag.NO_PSF)
    rows = np.flatnonzero(inside)
    cut = np.zeros(n, bool)
    if rows.size:
        if half_size is None:
            fwhm = np.max(np.atleast_1d(psf.fwhm(x=x[rows], y=y[rows])))
            half_size = int(np.ceil(3.0 * fwhm))
        _fit_rows(
            exposure, psf, image, bad, variance, x, y, rows, half_size, local, weighting, out, cut
        )
        radius = 0.5 * half_size + 1.0
        flags[rows] |= mask_flags(exposure, x=x[rows], y=y[rows], radius=radius)
    flags[cut] |= int(SourceFlag.EDGE)
    flags[inside & (out["missing"] > _LOST_LIGHT)] |= int(SourceFlag.PSF_TRUNCATED)
    failed = inside & ~np.isfinite(out["flux"])
    flags[failed] |= int(SourceFlag.POOR_FIT)
    out["flags"] = flags
    if variance is None:
        for name in ("variance", "level_variance", "chi2"):
            out[name][:] = np.nan
    return out


def _fit_rows(
    exposure: Exposure,
    psf: Any,
    image: np.ndarray,
    bad: np.ndarray,
    variance: np.ndarray | None,
    x: np.ndarray,
    y: np.ndarray,
    rows: np.ndarray,
    half_size: int,
    local: bool,
    weighting: str,
    out: dict[str, np.ndarray],
    cut: np.ndarray,
) -> None:
    """Draw and fit the sources of some rows, a memory-friendly number at a time."""
    from pogson.images import _kernels

    box = exposure.box
    use_ratio = local and exposure.area_ratio is not None
    ratio = exposure.area_ratio_image() if use_ratio else np.ones((1, 1), np.float32)
    noise = np.ones(image.shape, np.float32) if variance is None else np.ascontiguousarray(variance)
    step = max(1, _CHUNK_PIXELS // (2 * half_size + 1) ** 2)
    for start in range(0, rows.size, step):
        part = rows[start : start + step]
        stamps, x_min, y_min = psf.draw_many(x=x[part], y=y[part], half_size=half_size)
        m = part.size
        floats = [np.empty(m) for _ in range(6)]
        used, lost, off = np.zeros(m, np.int64), np.empty(m), np.zeros(m, bool)
        _kernels.psf_fits(
            image, noise, bad, ratio, use_ratio, stamps, x_min - box.x_min, y_min - box.y_min,
            weighting == "variance", local, *floats, used, lost, off,
        )  # fmt: skip
        names = ("flux", "variance", "level", "level_variance", "chi2", "photons")
        for name, values in zip(names, floats, strict=True):
            out[name][part] = values
        out["n_pixels"][part], out["missing"][part], cut[part] = used, lost, off
