"""The names of brutus with its argument order, shapes and units, for scripts that use it.

Fluxes are maggies (magnitude 0 is flux 1) and magnitudes are of whatever system the flux zero
points are in. `photometric_offsets` lives in `pogson.stars.offsets`.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np

from pogson.errors import PogsonValueError, PogsonWarning, choices
from pogson.stars.grid import LN_FLUX
from pogson.stars.grid_file import grid_contents, read_grid

__all__ = [
    "FILTERS",
    "get_seds",
    "inv_luptitude",
    "inv_magnitude",
    "load_models",
    "luptitude",
    "magnitude",
]

_LOG = logging.getLogger(__name__)
_LN10 = float(np.log(10.0))


def _system(prefix: str, bands: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{prefix}_{b}" for b in bands)


FILTERS: tuple[str, ...] = (
    *_system("Gaia", ["G_MAW", "BP_MAWf", "RP_MAW"]),
    *_system("SDSS", "ugriz"),
    *_system("PS", [*"grizyw", "open"]),
    *_system("DECam", "ugrizY"),
    *_system("Bessell", "UBVRI"),
    *_system("2MASS", ["J", "H", "Ks"]),
    *_system("VISTA", ["Z", "Y", "J", "H", "Ks"]),
    *_system("UKIDSS", "ZYJHK"),
    *_system("WISE", ["W1", "W2", "W3", "W4"]),
    *_system("Tycho", "BV"),
    "Hipparcos_Hp",
    *_system("Kepler", ["D51", "Kp"]),
    "TESS",
)
"""Filters of the published MIST grids, in the order in which `load_models` returns them."""

_DEFAULT_LABELS = (
    "mini", "feh", "eep", "smf", "afe", "loga", "logl", "logt", "logg", "Mr", "agewt"
)  # fmt: skip


def load_models(
    filepath: str | os.PathLike[str],
    filters: Iterable[str] | None = None,
    labels: Iterable[str] | None = None,
    include_ms: bool = True,
    include_postms: bool = True,
    include_binaries: bool = False,
    verbose: bool = True,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read a grid file as three arrays, as ``brutus.data.load_models`` does.

    Parameters
    ----------
    filepath : path-like
        HDF5 grid.
    filters : iterable of str, optional
        Filters, in the order wanted; default those of `FILTERS` that the file has.
    labels : iterable of str, optional
        Labels wanted; default ``mini, feh, eep, smf, afe, loga, logl, logt, logg, Mr, agewt``.
    include_ms, include_postms, include_binaries : bool, optional
        As for `read_grid`.
    verbose : bool, optional
        Whether to log what was read (logger ``pogson.stars.brutus_names``).

    Returns
    -------
    models : numpy.ndarray of float32, shape (n_models, n_filters, 3)
        Coefficients; see `StellarGrid`.
    labels : structured numpy.ndarray of float64, shape (n_models,)
        Labels that have a number. ``smf`` is left out with ``include_binaries=False``, a constant
        ``afe`` unless asked for.
    label_mask : structured numpy.ndarray of bool, shape (1,)
        True for what the models were computed at, False for predictions.

    Raises
    ------
    PogsonValueError
        If none of the filters is in the file, or both phases are left out.

    Warns
    -----
    PogsonWarning
        If filters asked for are not in the file: the columns that remain are named.

    Notes
    -----
    Only the filters asked for are kept in memory. Positions in the arrays depend on the options;
    `read_grid` keeps the row of each model in the file.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from pogson.stars import simulated_grid, write_grid
    >>> path = write_grid(simulated_grid(200), pathlib.Path(tempfile.mkdtemp()) / "grid.h5")
    >>> models, labels, label_mask = load_models(path, filters=["PS_g", "2MASS_Ks"])
    >>> models.shape, models.dtype.name, bool(label_mask["mini"][0]), bool(label_mask["logg"][0])
    ((184, 2, 3), 'float32', True, False)
    """
    contents = grid_contents(filepath)
    default = tuple(f for f in FILTERS if f in contents.bands) or contents.bands
    asked = default if filters is None else tuple(map(str, filters))
    present = tuple(f for f in asked if f in contents.bands)
    if not present:
        raise PogsonValueError(
            f"None of the filters {list(asked)} is in {os.fspath(filepath)}; it has: "
            f"{choices(contents.bands)}."
        )
    if len(present) < len(asked):
        missing = [f for f in asked if f not in contents.bands]
        warnings.warn(
            f"Filters {missing} are not in {os.fspath(filepath)} and are skipped; the columns are "
            f"{list(present)}.",
            PogsonWarning,
            stacklevel=2,
        )
    wanted = _DEFAULT_LABELS if labels is None else tuple(map(str, labels))
    known = {*contents.labels, *contents.predictions}
    # the cuts act on eep and smf only when these are among the labels asked for
    grid = read_grid(
        filepath,
        bands=present,
        labels=[name for name in wanted if name in known],
        include_ms=include_ms or "eep" not in wanted,
        include_postms=include_postms or "eep" not in wanted,
        include_binaries=include_binaries or "smf" not in wanted,
    )
    if not include_ms and not include_postms:
        raise PogsonValueError(
            "include_ms and include_postms are both False: no model is left. Set one to True."
        )
    names = [n for n in wanted if n in grid.label_names]
    if not include_binaries:
        names = [n for n in names if n != "smf"]
    if labels is None and "afe" in names and np.ptp(grid.label("afe")) == 0.0:
        names.remove("afe")
    out = np.empty(grid.n_models, [(n, np.float64) for n in names])
    mask = np.zeros(1, [(n, np.bool_) for n in names])
    for name in names:
        out[name] = grid.label(name)
        mask[name] = name in contents.labels
    if verbose:
        _LOG.info("%d models in %s from %s", grid.n_models, list(present), os.fspath(filepath))
    return np.array(grid.coefficients), out, mask


def _per_model(value: Any, default: float, n: int, name: str) -> np.ndarray:
    """Return a column of one value a model."""
    array = np.asarray(default if value is None else value, np.float64)
    if array.ndim and array.shape != (n,):
        raise PogsonValueError(
            f"{name} must be one number or have shape ({n},), one a model; got shape {array.shape}."
        )
    return np.broadcast_to(array, (n,))[:, None]


def get_seds(
    mag_coeffs: Any,
    av: Any = None,
    rv: Any = None,
    return_flux: bool = False,
    return_rvec: bool = False,
    return_drvec: bool = False,
) -> Any:
    r"""Magnitudes or fluxes of models behind dust, as ``brutus.core.get_seds`` gives them.

    Parameters
    ----------
    mag_coeffs : array_like, shape (n_models, n_bands, 3)
        Coefficients: :math:`m = c_0 + A_V (c_1 + R_V c_2)`.
    av, rv : float or array_like of shape (n_models,), optional
        Default 0 and 3.3.
    return_flux : bool, optional
        Whether to return fluxes in maggies, :math:`10^{-0.4 m}`, instead of magnitudes.
    return_rvec, return_drvec : bool, optional
        Whether to return reddening vectors too.

    Returns
    -------
    seds : numpy.ndarray of float64, shape (n_models, n_bands)
        Magnitudes or fluxes at 1 kpc.
    rvecs : numpy.ndarray, same shape
        With ``return_rvec``: change of ``seds`` per A_V, :math:`c_1 + R_V c_2`, for fluxes times
        :math:`-0.4 \ln 10` and the flux.
    drvecs : numpy.ndarray, same shape
        With ``return_drvec``: :math:`c_2`, for fluxes times the same.

    Raises
    ------
    PogsonValueError
        If shapes do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> mags, rvecs = get_seds(np.array([[[15.0, 0.9, 0.1]]]), av=1.0, rv=3.1, return_rvec=True)
    >>> mags, rvecs
    (array([[16.21]]), array([[1.21]]))
    """
    c = np.asarray(mag_coeffs)
    if c.ndim != 3 or c.shape[2] != 3:
        raise PogsonValueError(f"mag_coeffs must have shape (n_models, n_bands, 3); got {c.shape}.")
    a, r = (_per_model(v, d, len(c), n) for v, d, n in ((av, 0.0, "av"), (rv, 3.3, "rv")))
    drvecs = c[:, :, 2].astype(np.float64)
    rvecs = c[:, :, 1] + r * drvecs
    seds = c[:, :, 0] + a * rvecs
    if return_flux:
        seds = np.exp(LN_FLUX * seds)
        slope = LN_FLUX * seds
        if return_rvec:
            rvecs *= slope
        if return_drvec:
            drvecs *= slope
    if return_rvec and return_drvec:
        return seds, rvecs, drvecs
    if return_rvec:
        return seds, rvecs
    return (seds, drvecs) if return_drvec else seds


def magnitude(phot: Any, err: Any, zeropoints: Any = 1.0) -> tuple[Any, Any]:
    """Magnitudes and their errors from fluxes.

    Parameters
    ----------
    phot, err : array_like, shape (n_objects, n_filters)
        Fluxes and their errors.
    zeropoints : float or array_like of shape (n_filters,), optional
        Flux of magnitude 0.

    Returns
    -------
    mag, mag_err : numpy.ndarray
        NaN where a flux is not positive: use `luptitude` or stay with fluxes there.

    Examples
    --------
    >>> mag, mag_err = magnitude(100.0, 1.0)
    >>> print(f"{mag:.3f} {mag_err:.5f}")
    -5.000 0.01086
    """
    flux, error, zero = (np.asarray(v, np.float64) for v in (phot, err, zeropoints))
    usable = np.where(flux / zero > 0.0, flux, np.nan)
    return -2.5 * np.log10(usable / zero), 2.5 / _LN10 * error / usable


def inv_magnitude(mag: Any, err: Any, zeropoints: Any = 1.0) -> tuple[Any, Any]:
    """Fluxes and their errors from magnitudes; inverts `magnitude`.

    Parameters
    ----------
    mag, err : array_like, shape (n_objects, n_filters)
        Magnitudes and their errors.
    zeropoints : float or array_like of shape (n_filters,), optional
        Flux of magnitude 0.

    Returns
    -------
    phot, phot_err : numpy.ndarray
        Fluxes and their errors.

    Examples
    --------
    >>> flux, flux_err = inv_magnitude(-5.0, 0.01)
    >>> print(f"{flux:.3f} {flux_err:.5f}")
    100.000 0.92103
    """
    m, error, zero = (np.asarray(v, np.float64) for v in (mag, err, zeropoints))
    flux = 10.0 ** (-0.4 * m) * zero
    return flux, error * (0.4 * _LN10) * flux


def luptitude(phot: Any, err: Any, skynoise: Any = 1.0, zeropoints: Any = 1.0) -> tuple[Any, Any]:
    r"""Asinh magnitudes and their errors from fluxes; finite for every flux.

    Parameters
    ----------
    phot, err : array_like, shape (n_objects, n_filters)
        Fluxes and their errors.
    skynoise : float or array_like of shape (n_filters,), optional
        Softening, in the unit of the fluxes.
    zeropoints : float or array_like of shape (n_filters,), optional
        Flux of magnitude 0.

    Returns
    -------
    lupt, lupt_err : numpy.ndarray
        Asinh magnitudes and their errors.

    Notes
    -----
    :math:`L = -2.5/\ln 10\,[\mathrm{asinh}(f / 2b) + \ln b]` with flux and softening in units of
    the zero point (Lupton, Gunn & Szalay 1999, AJ 118, 1406).

    Examples
    --------
    >>> lupt, lupt_err = luptitude(0.0, 1.0)
    >>> print(f"{abs(lupt):.3f} {lupt_err:.5f}")
    0.000 0.54287
    """
    flux, error, sky, zero = (np.asarray(v, np.float64) for v in (phot, err, skynoise, zeropoints))
    f, df, b = flux / zero, error / zero, sky / zero
    lupt = -2.5 / _LN10 * (np.arcsinh(0.5 * f / b) + np.log(b))
    return lupt, 2.5 / _LN10 * df / (2.0 * b * np.sqrt(1.0 + (0.5 * f / b) ** 2))


def inv_luptitude(
    lupt: Any, err: Any, skynoise: Any = 1.0, zeropoints: Any = 1.0
) -> tuple[Any, Any]:
    """Fluxes and their errors from asinh magnitudes; inverts `luptitude`.

    Parameters
    ----------
    lupt, err : array_like, shape (n_objects, n_filters)
        Asinh magnitudes and their errors.
    skynoise, zeropoints : float or array_like of shape (n_filters,), optional
        As for `luptitude`.

    Returns
    -------
    phot, phot_err : numpy.ndarray
        Fluxes and their errors.

    Examples
    --------
    >>> flux, flux_err = inv_luptitude(*luptitude(-3.0, 0.5))
    >>> print(f"{flux:.6f} {flux_err:.6f}")
    -3.000000 0.500000
    """
    m, error, sky, zero = (np.asarray(v, np.float64) for v in (lupt, err, skynoise, zeropoints))
    b = sky / zero
    x = -0.4 * _LN10 * m - np.log(b)
    return 2.0 * b * np.sinh(x) * zero, error * (0.4 * _LN10) * 2.0 * b * np.cosh(x) * zero
