"""One background for a whole focal plane, fitted jointly over its detectors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pogson.errors import CalibrationError, MissingDataError, PogsonValueError, UnitMismatchError
from pogson.fields import ChebyshevField, ConstantField, Field
from pogson.images.background import Background, in_surface_brightness, source_pixels
from pogson.images.exposure import Exposure
from pogson.images.mask import BAD_FOR_BACKGROUND
from pogson.sky.geometry import gnomonic

if TYPE_CHECKING:
    from pogson.sed import Spectrum

__all__ = ["FocalPlaneBackground", "fit_focal_plane_background"]

_CLIP = 4.0
_HUBER = 2.0  # cells further off than this, in sigma, are pulled in (sources missed by the mask)
_LEAST_FRACTION = 0.2  # of a cell's pixels that its mean needs
_LARGEST_FIELD_ERROR = 1e-5  # of the level, of the field that stands for the model on a detector
_HIGHEST_FIELD_ORDER = 14


class _Cells(NamedTuple):
    """Source-free means of one detector's mesh."""

    xi: np.ndarray
    eta: np.ndarray
    x: np.ndarray
    y: np.ndarray
    mean: np.ndarray
    error: np.ndarray
    rms: float


@dataclass(frozen=True, eq=False)
class FocalPlaneBackground:
    """The sky over a focal plane: a smooth function on the tangent plane plus detector pedestals.

    Made by `fit_focal_plane_background`.

    Parameters
    ----------
    ra, dec : float
        Tangent point, degrees.
    half_width : float
        Half width of the square on which the polynomial is defined, arcsec.
    order : int
        Its total Chebyshev order.
    coefficients : numpy.ndarray, shape (n,)
        Of the products T_i(xi / half_width) T_j(eta / half_width), i + j <= order, j slowest.
    pedestals, pedestal_errors : dict of str to float
        Constant added on each detector and its standard deviation; they sum to zero.
    covariance : numpy.ndarray
        Of coefficients, then pedestals in the order of the dictionary.
    backgrounds : dict of str to Background
        What to attach to each detector's exposure.
    chi2, dof : float, int
        Of the mesh cells.
    rejected : dict of str to int
        Cells of each detector pulled in by more than half of their misfit, or with too few
        source-free pixels.

    Examples
    --------
    See `fit_focal_plane_background`.
    """

    ra: float
    dec: float
    half_width: float
    order: int
    coefficients: np.ndarray
    pedestals: dict[str, float]
    pedestal_errors: dict[str, float]
    covariance: np.ndarray
    backgrounds: dict[str, Background]
    chi2: float
    dof: int
    rejected: dict[str, int]

    def smooth(self, ra: Any, dec: Any) -> np.ndarray:
        """Return the smooth part at sky positions in degrees, in surface brightness."""
        xi, eta = gnomonic(ra, dec, self.ra, self.dec)
        return np.asarray(
            sky_design(xi / self.half_width, eta / self.half_width, self.order) @ self.coefficients
        )

    def attach(self, exposures: Sequence[Exposure]) -> list[Exposure]:
        """Return the exposures, each with its detector's background attached.

        Raises
        ------
        MissingDataError
            If a detector was not in the fit.
        """
        out = []
        for exposure in exposures:
            if exposure.detector not in self.backgrounds:
                raise MissingDataError(
                    f"Detector {exposure.detector!r} was not in the fit, which had "
                    f"{', '.join(self.backgrounds)}."
                )
            out.append(exposure.with_background(self.backgrounds[exposure.detector]))
        return out


def fit_focal_plane_background(
    exposures: Sequence[Exposure],
    *,
    order: int = 4,
    pedestals: bool = True,
    mesh: int = 64,
    sky_sed: Spectrum | None = None,
    mask_sources: bool = True,
    grow: int = 10,
    mask_names: Iterable[str] | None = None,
) -> FocalPlaneBackground:
    """Fit one smooth sky over all detectors of a visit, on surface brightness.

    Large galaxies and haloes that fill a detector cannot be told from sky on that detector alone;
    over the focal plane they can. Each exposure is taken to surface brightness and, with
    ``sky_sed``, to the flat for the sky's own spectrum, where the sky is smooth across gaps.

    Parameters
    ----------
    exposures : sequence of Exposure
        The detectors of one visit, each with a sky mapping, a detector name and the same unit; in
        either measure.
    order : int, optional
        Total order of the polynomial on the tangent plane.
    pedestals : bool, optional
        Fit a constant for each detector (bias residuals, glow); they sum to zero.
    mesh : int, optional
        Size in pixels of the cells whose means are fitted.
    sky_sed : Spectrum, optional
        Spectrum of the sky of that visit. Needs exposures with a ``flattening``.
    mask_sources : bool, optional
        Leave out the pixels of sources: those above 3 sigma on the image smoothed over 3 x 3
        pixels, and around them.
    grow : int, optional
        By how many pixels the mask of sources is grown, for their wings.
    mask_names : iterable of str, optional
        Mask names to leave out; `pogson.images.BAD_FOR_BACKGROUND` by default.

    Returns
    -------
    FocalPlaneBackground

    Raises
    ------
    PogsonValueError
        If there are no exposures, two of one detector, or too few cells for the order.
    UnitMismatchError
        If the units differ.
    MissingDataError
        If an exposure has no sky mapping.
    CalibrationError
        If the reference pixel areas differ, so that surface brightnesses cannot be compared.

    Notes
    -----
    Least squares on clipped cell means (4 sigma about the cell's median) with their standard
    errors, iteratively reweighted with Huber's (1964, Ann. Math. Stat. 35, 73) function at 2 sigma.

    Examples
    --------
    >>> from pogson.sky import FitsSkyMap
    >>> rng = np.random.default_rng(4)
    >>> exposures = []
    >>> for k in range(2):  # two detectors side by side under a sky with a gradient
    ...     wcs = FitsSkyMap.tan(150.0, 2.0, x=300.0 - 310 * k, y=128.0, scale_arcsec=0.3)
    ...     x = np.arange(256) + 310 * k
    ...     image = rng.normal(1000.0 + 0.05 * x, 5.0, (256, 256)) + (3.0 if k else -3.0)
    ...     exposures.append(Exposure(image, unit="adu", measure="surface_brightness", sky=wcs,
    ...                               detector=f"ccd{k}").with_area_ratio(0.09))
    >>> sky = fit_focal_plane_background(exposures, order=1)
    >>> abs(sky.pedestals["ccd1"] - 3.0) < 0.3
    True
    >>> flat = [e.subtract_background() for e in sky.attach(exposures)]
    >>> all(abs(e.image.mean()) < 0.1 for e in flat)
    True
    """
    surfaces = comparable_surfaces(exposures, sky_sed)
    ra, dec = mean_direction(surfaces)
    options: dict[str, Any] = {"mesh": mesh, "mask_names": mask_names}
    options["grow"] = int(grow) if mask_sources else None
    cells = [detector_cells(e, at=(ra, dec), **options) for e in surfaces]
    xi, eta = (np.concatenate([getattr(c, name) for c in cells]) for name in ("xi", "eta"))
    half_width = 1.02 * float(max(np.abs(xi).max(), np.abs(eta).max()))
    smooth = sky_design(xi / half_width, eta / half_width, order)
    counts = [c.mean.size for c in cells]
    which = np.repeat(np.arange(len(cells)), counts)
    n_pedestals = len(cells) if pedestals and len(cells) > 1 else 0
    matrix = np.hstack([smooth, np.eye(len(cells))[which][:, :n_pedestals]])
    if matrix.shape[0] <= matrix.shape[1]:
        raise PogsonValueError(
            f"{matrix.shape[0]} mesh cells cannot determine {matrix.shape[1]} parameters (order "
            f"{order}, {n_pedestals} pedestals); lower the order or the mesh size."
        )
    values = np.concatenate([c.mean for c in cells])
    errors = np.concatenate([c.error for c in cells])
    solution, covariance, weights = _robust_fit(matrix, values, errors, n_pedestals)
    names = [e.detector for e in surfaces]
    offsets = solution[smooth.shape[1] :] if n_pedestals else np.zeros(len(names))
    sigma = np.sqrt(np.diag(covariance))[smooth.shape[1] :]
    residual = (values - matrix @ solution) / errors
    model = FocalPlaneBackground(
        ra,
        dec,
        half_width,
        order,
        solution[: smooth.shape[1]],
        dict(zip(names, map(float, offsets), strict=True)),
        dict(zip(names, map(float, sigma if n_pedestals else offsets), strict=True)),
        covariance,
        {},
        float((weights * residual**2).sum()),
        int(values.size - matrix.shape[1] + (1 if n_pedestals else 0)),
        {n: int((weights[which == k] < 0.5).sum()) for k, n in enumerate(names)},
    )
    for exposure, surface, cell in zip(exposures, surfaces, cells, strict=True):
        model.backgrounds[surface.detector] = _detector_background(model, exposure, surface, cell)
    return model


def comparable_surfaces(exposures: Sequence[Exposure], sky_sed: Spectrum | None) -> list[Exposure]:
    """Return the exposures in the state in which the sky is smooth, checked to be comparable."""
    if not exposures:
        raise PogsonValueError("There are no exposures; give the detectors of one visit.")
    names = [e.detector for e in exposures]
    if len(set(names)) < len(names) or not all(names):
        raise PogsonValueError(
            f"The exposures must be of different named detectors; these are of "
            f"{', '.join(map(repr, names))}."
        )
    units = {e.unit.to_string() for e in exposures}
    if len(units) > 1:
        raise UnitMismatchError(
            f"The exposures are in different units: {', '.join(sorted(units))}."
        )
    surfaces: list[Exposure] = []
    reference: float | None = None
    for exposure in exposures:
        if exposure.sky is None:
            raise MissingDataError(f"Detector {exposure.detector!r} has no sky mapping.")
        surface = in_surface_brightness(exposure).restore_background()
        if sky_sed is not None:
            surface = surface.flattened_for(sky_sed)
        area = _reference_area(surface)
        if area is not None:
            if reference is not None and abs(area / reference - 1) > 1e-3:
                raise CalibrationError(
                    f"The area ratio of detector {surface.detector!r} refers to a pixel of "
                    f"{area:.6g} arcsec2, that of {surfaces[0].detector!r} to {reference:.6g}: "
                    f"surface brightnesses cannot be compared. Give every detector the same "
                    f"reference: exposure.with_area_ratio(A0)."
                )
            reference = area
        surfaces.append(surface)
    return surfaces


def _reference_area(exposure: Exposure) -> float | None:
    """Return the reference pixel area A0 in arcsec2 that the exposure's area ratio refers to."""
    if exposure.area_ratio is None or exposure.sky is None:
        return None
    x, y = _middle(exposure)
    return float(exposure.sky.pixel_area(x=x, y=y)) / float(exposure.area_ratio(x=x, y=y))


def _middle(exposure: Exposure) -> tuple[float, float]:
    b = exposure.box
    return 0.5 * (b.x_min + b.x_max), 0.5 * (b.y_min + b.y_max)


def mean_direction(exposures: Sequence[Exposure]) -> tuple[float, float]:
    """Return the mean direction of the detectors' centres."""
    vectors = []
    for e in exposures:
        assert e.sky is not None
        x, y = _middle(e)
        ra, dec = (np.deg2rad(float(v)) for v in e.sky.sky(x=x, y=y))
        vectors.append([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])
    mean = np.mean(vectors, axis=0)
    return (
        float(np.rad2deg(np.arctan2(mean[1], mean[0])) % 360.0),
        float(np.rad2deg(np.arctan2(mean[2], np.hypot(mean[0], mean[1])))),
    )


def detector_cells(
    exposure: Exposure,
    *,
    mesh: int,
    grow: int | None,
    mask_names: Iterable[str] | None,
    at: tuple[float, float],
) -> _Cells:
    """Return the source-free mean of every cell of a detector that has enough pixels."""
    if not int(mesh) >= 4:
        raise PogsonValueError(f"The background mesh is {mesh} pixels; it must be at least 4.")
    names = BAD_FOR_BACKGROUND if mask_names is None else mask_names
    bad = exposure.bad([n for n in names if n in exposure.mask_bits])
    if grow is not None:
        bad = bad | _sources(exposure, bad, int(mesh), grow)
    ny, nx = exposure.box.shape
    rows, columns = np.arange(0, ny, mesh), np.arange(0, nx, mesh)
    found = []
    for j in rows:
        for i in columns:
            part = (slice(j, j + mesh), slice(i, i + mesh))
            pixels = exposure.image[part][~bad[part]].astype(np.float64)
            if pixels.size < max(_LEAST_FRACTION * bad[part].size, 9):
                continue
            mean, sigma, n = _clipped(pixels)
            yy, xx = np.nonzero(~bad[part])
            place = exposure.box.x_min + i + xx.mean(), exposure.box.y_min + j + yy.mean()
            found.append((*place, mean, sigma / np.sqrt(n), sigma))
    if not found:
        raise MissingDataError(
            f"Detector {exposure.detector!r} has no cell of {mesh} x {mesh} pixels of which a "
            f"fifth is free of sources and masks."
        )
    x, y, mean, error, sigma = np.array(found, float).T
    assert exposure.sky is not None
    xi, eta = gnomonic(*exposure.sky.sky(x=x, y=y), *at)
    # A cell without scatter (a simulation without noise) still has float32 pixels.
    floor = np.finfo(np.float32).eps * np.abs(mean) + np.finfo(np.float32).tiny
    return _Cells(xi, eta, x, y, mean, np.maximum(error, floor), float(np.median(sigma)))


def _sources(exposure: Exposure, bad: np.ndarray, mesh: int, grow: int) -> np.ndarray:
    """Return the pixels of sources, found over a background of the detector alone."""
    from pogson.images.background import estimate_background

    first = estimate_background(exposure, mesh=mesh, mask=bad)
    level = first.level.render(dtype=np.float32)
    image = np.array(exposure.image)
    image[~np.isfinite(image)] = 0.0
    return source_pixels(image, level, first.rms, bad, 3.0, grow)


def _clipped(pixels: np.ndarray) -> tuple[float, float, int]:
    """Return mean, standard deviation and number of pixels within 4 sigma of the median."""
    middle = np.median(pixels)
    sigma = 1.4826 * float(np.median(np.abs(pixels - middle)))
    kept = pixels[np.abs(pixels - middle) <= _CLIP * sigma] if sigma > 0 else pixels
    return float(kept.mean()), float(kept.std()), kept.size


def sky_design(u: np.ndarray, v: np.ndarray, order: int) -> np.ndarray:
    """Return the products of Chebyshev polynomials of total order, shape (n, terms)."""
    from numpy.polynomial.chebyshev import chebvander

    tu, tv = chebvander(np.ravel(u), order), chebvander(np.ravel(v), order)
    terms = [tu[:, i] * tv[:, j] for j in range(order + 1) for i in range(order + 1 - j)]
    return np.stack(terms, axis=1).reshape(*np.shape(u), len(terms))


def _robust_fit(
    matrix: np.ndarray, values: np.ndarray, errors: np.ndarray, n_pedestals: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return parameters, covariance and Huber weights; the last n_pedestals sum to zero."""
    basis = np.eye(matrix.shape[1])
    if n_pedestals:
        n_smooth = matrix.shape[1] - n_pedestals
        # pedestals = B z with columns of B orthogonal to (1, ..., 1)
        ones = np.linalg.qr(np.hstack([np.ones((n_pedestals, 1)), np.eye(n_pedestals)[:, 1:]]))[0]
        basis = np.zeros((matrix.shape[1], matrix.shape[1] - 1))
        basis[:n_smooth, :n_smooth] = np.eye(n_smooth)
        basis[n_smooth:, n_smooth:] = ones[:, 1:]
    design = (matrix @ basis) / errors[:, None]
    target = values / errors
    weights = np.ones(values.size)
    for _ in range(30):
        root = np.sqrt(weights)
        solution, _, rank, _ = np.linalg.lstsq(design * root[:, None], target * root, rcond=1e-12)
        if rank < design.shape[1]:
            raise PogsonValueError(
                f"The mesh cells determine {rank} of {design.shape[1]} parameters; lower the order."
            )
        misfit = np.abs(target - design @ solution)
        scale = max(1.4826 * float(np.median(misfit)), 1.0)
        new = np.minimum(1.0, _HUBER * scale / np.maximum(misfit, 1e-300))
        if np.abs(new - weights).max() < 1e-6:
            break
        weights = new
    inverse = np.linalg.inv((design * weights[:, None]).T @ design)
    return basis @ solution, basis @ inverse @ basis.T, weights


def _detector_background(
    model: FocalPlaneBackground, exposure: Exposure, surface: Exposure, cells: _Cells
) -> Background:
    """Return the model on one detector as a background, in the state in which it was fitted."""
    level = _as_field(model, surface)
    rms = ConstantField(surface.box, cells.rms, surface.unit)
    return Background(level, rms, exposure.area_ratio, surface.flattening)


def _as_field(model: FocalPlaneBackground, surface: Exposure) -> Field:
    """Return smooth part plus pedestal as a polynomial of pixel position, to 1e-5 of the level."""
    sky, box = surface.sky, surface.box
    assert sky is not None
    pedestal = model.pedestals[surface.detector]

    def level(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return model.smooth(*sky.sky(x=x, y=y)) + pedestal

    def mesh(n: int) -> tuple[np.ndarray, np.ndarray]:
        nodes = np.cos(np.pi * (np.arange(n) + 0.5) / n)
        x = 0.5 * (box.x_bounds[0] + box.x_bounds[1]) + 0.5 * box.nx * nodes
        y = 0.5 * (box.y_bounds[0] + box.y_bounds[1]) + 0.5 * box.ny * nodes
        xx, yy = np.meshgrid(x, y)
        return xx.ravel(), yy.ravel()

    check = mesh(_HIGHEST_FIELD_ORDER + 7)
    truth = level(*check)
    allowed = _LARGEST_FIELD_ERROR * max(float(np.abs(truth).mean()), 1e-30)
    for order in range(model.order, _HIGHEST_FIELD_ORDER + 1):
        x, y = mesh(order + 3)
        field = ChebyshevField.fit(box, x, y, level(x, y), order=order, unit=surface.unit)
        if np.abs(field(x=check[0], y=check[1]) - truth).max() <= allowed:
            return field
    return field
