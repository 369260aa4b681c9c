"""Piff files, read without Piff and without loading any pickle.

Piff (Jarvis et al. 2021, MNRAS 501, 1282) writes FITS tables. Its PixelGrid model with polynomial
interpolation is plain numbers; only the WCS inside the file is pickled Python, which is never
touched: the map to the sky is passed in, or fitted to the positions of the stars in the file.
"""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pogson.errors import (
    FileFormatError,
    MissingDataError,
    PogsonValueError,
    PogsonWarning,
    choices,
)
from pogson.fields import Box
from pogson.formats.fits_access import open_fits
from pogson.psf import PixelGridPSF, PsfNormalization, SkyFrame
from pogson.psf.pixel_grid import polynomial_powers
from pogson.sky import FitsSkyMap, SkyMap
from pogson.sky.geometry import gnomonic

__all__ = ["fit_sky_map", "read_piff"]

_MAX_MISMATCH = 3.0


class _Stars(NamedTuple):
    """The star table of a Piff file, in pogson's units."""

    x: np.ndarray
    y: np.ndarray
    ra: np.ndarray
    dec: np.ndarray
    u: np.ndarray
    v: np.ndarray


def read_piff(
    path: str | os.PathLike[str],
    sky: SkyMap | None = None,
    *,
    detector: str | int | None = None,
    exposure: str | int | None = None,
    box: Box | None = None,
    normalization: PsfNormalization | None = None,
) -> PixelGridPSF:
    """Read a Piff file with a PixelGrid model and polynomial interpolation.

    Parameters
    ----------
    path : path-like
        The file.
    sky : SkyMap, optional
        Map from pixels to the sky. Without it one is fitted to the star table of the file.
    detector, exposure : str or int, optional
        CCDNUM and EXPNUM the file must have, where it has them.
    box : Box, optional
        Pixels for which the PSF is valid.
    normalization : PsfNormalization, optional
        By default the samples at each position sum to 1, as in Piff.

    Returns
    -------
    psf : pogson.psf.PixelGridPSF
        ``metadata["sky_source"]`` says "given" or "fitted to stars", and
        ``metadata["sky_rms_pixels"]`` is the rms distance per axis in pixels between the map and
        the file's stars (for a fit, corrected for its degrees of freedom; for a map given,
        from the fit, over ``box`` or wherever they agree to 3 pixels): the error of a position
        taken from it. ``metadata["sky_reach"]`` is the fraction of that area where they agree.

    Raises
    ------
    FileFormatError
        If the file is not a Piff file, is damaged, holds another kind of model, or the sky map is
        more than 3 pixels off (anywhere on ``box`` if given, else everywhere on the detector).
    MissingDataError
        If the PSF is of another exposure or detector.

    Warns
    -----
    PogsonWarning
        If the map given holds on less than half of the detector and no box is given.

    Notes
    -----
    Samples are ``p = q @ [u^i v^j]`` for i + j up to the order (i outer, j inner), with u, v the
    gnomonic position about the pointing in arcsec, u toward west. The image is the sum of p L3 L3
    times abs(det J) / scale^2, J the local Jacobian. The Lanczos taps are divided by their sum;
    GalSim's conserve_dc does the same to 4e-6.
    """
    target = Path(path)
    with open_fits(target) as hdus:
        tables = {str(hdu.name).lower(): hdu for hdu in hdus[1:]}
        needed = ("psf", "psf_stars", "psf_model", "psf_interp", "psf_interp_solution")
        missing = [name for name in needed if name not in tables]
        if missing:
            raise FileFormatError(
                f"{target} is not a Piff file that pogson reads: it has no table "
                f"{choices(missing)}."
            )
        _check_origin(target, hdus[0].header, detector, exposure)
        try:
            psf = _build(target, hdus[0].header, tables, sky, box, normalization)
        except PogsonValueError as error:
            raise FileFormatError(f"{target} holds an impossible PSF: {error}") from error
    reach = psf.metadata["sky_reach"]
    if reach < 0.5:
        warnings.warn(
            f"The sky map given for {target} agrees with its stars to {_MAX_MISMATCH:g} pixels "
            f"over {100 * reach:.2g} % of the detector only. Give box= to say where the PSF will "
            "be used, and have the map checked there.",
            PogsonWarning,
            stacklevel=2,
        )
    return psf


def _check_origin(path: Path, header: Any, detector: Any, exposure: Any) -> None:
    for key, wanted, word in (("CCDNUM", detector, "detector"), ("EXPNUM", exposure, "exposure")):
        if wanted is None or key not in header:
            continue
        held = str(header[key]).strip()
        if held != str(wanted).strip():
            raise MissingDataError(
                f"{path} holds the PSF of {word} {held!r}, not of {str(wanted)!r}; use the PSF of "
                f"the same {word}."
            )


def _value(tables: dict[str, Any], table: str, column: str, path: Path) -> Any:
    """Return the first row of a column."""
    hdu = tables[table]
    names = list(getattr(getattr(hdu, "columns", None), "names", []))
    if column not in names or len(hdu.data) < 1:
        raise FileFormatError(f"{path}: table {table} has no value {column!r}.")
    return hdu.data[column][0]


class _Grid(NamedTuple):
    """The samples of a PixelGrid model as polynomials."""

    coefficients: np.ndarray
    powers: np.ndarray
    spacing: float
    interpolation: str


def _grid(path: Path, tables: dict[str, Any]) -> _Grid:
    """Return the samples, checked to be of the one kind of model that is read."""
    kinds = [
        ("psf", "SimplePSF"),
        ("psf_model", "PixelGrid"),
        ("psf_interp", "BasisPolynomial"),
    ]
    for table, wanted in kinds:
        held = str(_value(tables, table, "type", path)).strip()
        if held != wanted:
            raise FileFormatError(
                f"{path}: {table} is of type {held!r}; pogson reads {wanted!r} only."
            )
    size = int(_value(tables, "psf_model", "size", path))
    scale = float(_value(tables, "psf_model", "scale", path))
    order = int(_value(tables, "psf_interp", "order", path))
    kernel = str(_value(tables, "psf_model", "interp", path))
    match = re.search(r"Lanczos\(\s*(?:n\s*=\s*)?([345])\b", kernel)
    if match is None:
        raise FileFormatError(
            f"{path}: interpolation {kernel[:40]!r} is not one pogson draws; allowed: Lanczos of "
            "order 3, 4 or 5."
        )
    if not (1 <= size <= 200 and 0 <= order <= 10):
        raise FileFormatError(
            f"{path}: grid size {size} (1 to 200) or polynomial order {order} (0 to 10) is "
            "impossible."
        )
    powers = polynomial_powers(order, x_fastest=False)
    q = np.array(_value(tables, "psf_interp_solution", "q", path), np.float64)
    if q.size != size * size * len(powers):
        raise FileFormatError(
            f"{path}: the solution has {q.size} values; a {size} x {size} grid of order {order} "
            f"needs {size * size * len(powers)}."
        )
    coefficients = q.reshape(size, size, len(powers)).transpose(2, 0, 1)
    return _Grid(coefficients, powers, scale, f"lanczos{match[1]}")


def _build(
    path: Path,
    header: Any,
    tables: dict[str, Any],
    sky: SkyMap | None,
    box: Box | None,
    normalization: PsfNormalization | None,
) -> PixelGridPSF:
    grid = _grid(path, tables)
    ra, dec = _pointing(tables, path)
    stars = _stars(tables, path, ra, dec)
    given = sky is not None
    fitted, rms = fit_sky_map(stars.x, stars.y, stars.ra, stars.dec)
    reach = 1.0
    if sky is None:
        sky = fitted
    else:
        rms, reach = _mismatch(path, sky, fitted, stars, box)
    metadata: dict[str, Any] = {
        "format": "Piff",
        "file": path.name,
        "sky_source": "given" if given else "fitted to stars",
        "sky_rms_pixels": rms,
        "sky_reach": reach,
        "n_stars": int(stars.x.size),
    }
    for key, name in (("EXPNUM", "exposure"), ("CCDNUM", "detector"), ("BAND", "band")):
        if key in header:
            metadata[name] = str(header[key]).strip()
    return PixelGridPSF(
        grid.coefficients,
        grid.powers,
        SkyFrame(sky, ra, dec, grid.spacing),
        interpolation=grid.interpolation,
        normalization=normalization,
        box=box,
        metadata=metadata,
    )


def _pointing(tables: dict[str, Any], path: Path) -> tuple[float, float]:
    """Return the pointing (ra, dec) in degrees; the WCS table keeps hours and degrees."""
    if "psf_wcs" in tables and {"ra", "dec"} <= set(tables["psf_wcs"].columns.names):
        ra = 15.0 * float(_value(tables, "psf_wcs", "ra", path))
        dec = float(_value(tables, "psf_wcs", "dec", path))
    else:
        ra = float(_value(tables, "psf_stars", "point_ra", path))
        dec = float(_value(tables, "psf_stars", "point_dec", path))
    if not (0 <= ra <= 360 and -90 <= dec <= 90):
        raise FileFormatError(
            f"{path}: pointing ra={ra!r}, dec={dec!r} degrees is impossible; Piff files with a "
            "celestial pointing are read."
        )
    return ra, dec


def _stars(tables: dict[str, Any], path: Path, ra0: float, dec0: float) -> _Stars:
    """Return the star table, with pixels from 0 and degrees, checked against the pointing."""
    hdu = tables["psf_stars"]
    columns = {}
    for name in ("x", "y", "ra", "dec", "u", "v"):
        if name not in hdu.columns.names:
            raise FileFormatError(f"{path}: the star table has no column {name!r}.")
        columns[name] = np.array(hdu.data[name], np.float64)
    if not len(hdu.data) or not all(np.isfinite(c).all() for c in columns.values()):
        raise FileFormatError(f"{path}: the star table is empty or has values that are not finite.")
    stars = _Stars(
        columns["x"] - 1.0, columns["y"] - 1.0, 15.0 * columns["ra"], columns["dec"],
        columns["u"], columns["v"],
    )  # fmt: skip
    xi, eta = gnomonic(stars.ra, stars.dec, ra0, dec0)
    worst = float(np.max(np.hypot(-xi - stars.u, eta - stars.v)))
    if not worst < 0.5:
        raise FileFormatError(
            f"{path}: field positions u, v of the stars are up to {worst:.3g} arcsec from their "
            "ra, dec about the pointing; the file is damaged or of another convention."
        )
    return stars


def _mismatch(
    path: Path, sky: SkyMap, fitted: SkyMap, stars: _Stars, box: Box | None
) -> tuple[float, float]:
    """Return the rms per axis in pixels between the map given and the stars' own, and its reach.

    Both maps are compared on a grid: over the box, where the map will be used, or over all stars.
    The reach is the fraction of the grid where they agree; a map that holds only near its target
    has a small one, a map of another detector has none.
    """
    if box is None:
        bounds = (stars.x.min(), stars.x.max(), stars.y.min(), stars.y.max())
        # a local map holds over some 100 pixels
        steps = [int(np.clip(np.ceil(np.ptp(v) / 50.0), 2, 200)) for v in (stars.x, stars.y)]
    else:
        bounds, steps = (*box.x_bounds, *box.y_bounds), [3, 3]
    x, y = (
        g.ravel()
        for g in np.meshgrid(
            np.linspace(bounds[0], bounds[1], steps[0]), np.linspace(bounds[2], bounds[3], steps[1])
        )
    )
    where = fitted.pixel(*sky.sky(x=x, y=y))
    distance = np.hypot(where[0] - x, where[1] - y)
    close = distance <= _MAX_MISMATCH
    if not close.any() or (box is not None and not close.all()):
        best = float(np.min(distance[np.isfinite(distance)], initial=np.inf))
        raise FileFormatError(
            f"The sky map given is {best:.4g} pixels or more off the stars of {path}; at most "
            f"{_MAX_MISMATCH:g} is allowed. It belongs to another detector or exposure; leave sky "
            "out to fit one to the stars."
        )
    return float(np.sqrt(0.5 * np.mean(distance[close] ** 2))), float(close.mean())


def fit_sky_map(
    x: np.ndarray, y: np.ndarray, ra: np.ndarray, dec: np.ndarray, *, degree: int = 3
) -> tuple[FitsSkyMap, float]:
    """Fit a TAN-SIP map to matched positions.

    Parameters
    ----------
    x, y : numpy.ndarray, shape (n,)
        Pixels (0-based, centres on integers).
    ra, dec : numpy.ndarray, shape (n,)
        Degrees.
    degree : int, optional
        Highest polynomial degree, 1 to 5; lowered until there are 1.5 stars per coefficient.

    Returns
    -------
    sky : FitsSkyMap
        The map, with the tangent point among the stars.
    rms : float
        Residual per axis in pixels, corrected for the degrees of freedom.

    Raises
    ------
    FileFormatError
        If there are fewer than 6 stars or they do not span a plane.

    Examples
    --------
    >>> from pogson.sky import FitsSkyMap
    >>> truth = FitsSkyMap.tan(10.0, -20.0, x=500.0, y=500.0, scale_arcsec=0.25)
    >>> x, y = (g.ravel() for g in np.mgrid[0:1000:6j, 0:1000:6j])
    >>> sky, rms = fit_sky_map(x, y, *truth.sky(x=x, y=y))
    >>> rms < 1e-6
    True
    """
    n = x.size
    while degree > 1 and n < 0.75 * (degree + 1) * (degree + 2):
        degree -= 1
    if n < 6:
        raise FileFormatError(f"{n} stars are too few to fit a sky map; at least 6 are needed.")
    vectors = np.stack(
        [np.cos(np.deg2rad(dec)) * np.cos(np.deg2rad(ra)),
         np.cos(np.deg2rad(dec)) * np.sin(np.deg2rad(ra)), np.sin(np.deg2rad(dec))]
    ).mean(axis=1)  # fmt: skip
    ra0 = float(np.rad2deg(np.arctan2(vectors[1], vectors[0])) % 360.0)
    dec0 = float(np.rad2deg(np.arctan2(vectors[2], np.hypot(vectors[0], vectors[1]))))
    plane = np.stack(gnomonic(ra, dec, ra0, dec0), axis=-1) / 3600.0
    powers = polynomial_powers(degree)
    x0, y0 = float(x.mean()), float(y.mean())
    scale = float(max(np.ptp(x), np.ptp(y), 1.0)) / 2

    def basis(px: np.ndarray, py: np.ndarray) -> np.ndarray:
        return (px[:, None] / scale) ** powers[:, 0] * (py[:, None] / scale) ** powers[:, 1]

    design = basis(x - x0, y - y0)
    solution, _, rank, _ = np.linalg.lstsq(design, plane, rcond=1e-10)
    if rank < len(powers):
        raise FileFormatError("The stars do not span the detector; no sky map can be fitted.")
    residual = plane - design @ solution
    # reference pixel: where the fitted plane coordinates vanish, near the mean of the stars
    at = np.zeros(2)
    for _ in range(20):
        value = (basis(at[:1], at[1:]) @ solution)[0]
        step = 1e-3 * scale
        slope = np.stack(
            [(basis(at[:1] + dx, at[1:] + dy) @ solution)[0] - value
             for dx, dy in ((step, 0.0), (0.0, step))], axis=-1
        ) / step  # fmt: skip
        at = at - np.linalg.solve(slope, value)
    if not (np.isfinite(at).all() and np.abs(at).max() < scale):
        raise FileFormatError("The stars' positions make no invertible sky map.")
    # a polynomial moved to the new origin is a polynomial: refit it exactly on a grid
    gx, gy = (g.ravel() for g in np.meshgrid(*(np.linspace(-scale, scale, degree + 3),) * 2))
    moved = np.linalg.lstsq(basis(gx, gy), basis(gx + at[0], gy + at[1]) @ solution, rcond=None)[0]
    moved /= scale ** powers.sum(axis=1)[:, None]
    terms = {tuple(int(v) for v in power): moved[k] for k, power in enumerate(powers)}
    cd = np.stack([terms[1, 0], terms[0, 1]], axis=-1)
    rms = _pixel_rms(residual, cd, n - len(powers))
    return FitsSkyMap.from_header(
        _cards(terms, cd, (ra0, dec0), (x0 + at[0], y0 + at[1]), degree)
    ), rms


def _pixel_rms(residual: np.ndarray, cd: np.ndarray, freedom: int) -> float:
    """Return the rms residual per axis in pixels."""
    pixels = residual @ np.linalg.inv(cd).T
    return float(np.sqrt(0.5 * np.sum(pixels**2) / max(freedom, 1)))


def _cards(
    terms: dict[tuple[int, ...], np.ndarray],
    cd: np.ndarray,
    tangent: tuple[float, float],
    origin: tuple[float, float],
    degree: int,
) -> Any:
    """Return the FITS header of a TAN-SIP map."""
    from astropy.io import fits

    sip = "-SIP" if degree > 1 else ""
    header = fits.Header()
    header["CTYPE1"], header["CTYPE2"] = f"RA---TAN{sip}", f"DEC--TAN{sip}"
    header["CUNIT1"] = header["CUNIT2"] = "deg"
    header["CRVAL1"], header["CRVAL2"] = tangent
    header["CRPIX1"], header["CRPIX2"] = origin[0] + 1.0, origin[1] + 1.0
    header["RADESYS"] = "ICRS"
    for i in range(2):
        for j in range(2):
            header[f"CD{i + 1}_{j + 1}"] = float(cd[i, j])
    if degree > 1:
        header["A_ORDER"] = header["B_ORDER"] = degree
        for (p, q), value in terms.items():
            if p + q < 2:
                continue
            a, b = np.linalg.solve(cd, value)
            header[f"A_{p}_{q}"], header[f"B_{p}_{q}"] = float(a), float(b)
    return header
