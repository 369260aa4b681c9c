"""From exposures to matrices: sampled PSFs, local sky maps, scene columns and source columns.

Every matrix here has one row per parameter and one column per usable pixel, in the common flux
unit, so that products run along memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from pogson.errors import CalibrationError, PogsonValueError
from pogson.fields import Box
from pogson.psf import PSF, PixelGridPSF, SkyFrame
from pogson.scene.exposure import SceneExposure
from pogson.scene.grid import offset_position

__all__ = ["ExposureDesign", "LocalMap", "PsfTable", "build_design", "local_matrices"]

_ORDERS = {"lanczos3": 3, "lanczos4": 4, "lanczos5": 5, "lagrange6": -3}
_LARGEST_REACH = 200


@dataclass(frozen=True, eq=False)
class PsfTable:
    """A PSF at one place of a detector as samples, ready to be rendered anywhere near it.

    Build with `PsfTable.of`. Rendering gives the pixel values of unit-flux stars whose PSF is that
    of the place.

    Attributes
    ----------
    samples : numpy.ndarray, shape (ny, nx)
        Samples of the effective PSF.
    center : tuple of float
        Grid coordinates (x, y) of the star.
    matrix : numpy.ndarray, shape (2, 2)
        d(grid)/d(pixel).
    scale : float
        Factor from interpolated samples to pixel values.
    order : int
        Lanczos order, or -3 for the Lagrange polynomial through 6 x 6 samples.
    fwhm : float
        Width in pixels.
    place : tuple of float
        Pixel position (x, y) that ``matrix`` is for.
    slopes : numpy.ndarray, shape (2, 2, 2), or None
        Derivatives of ``matrix`` by x and y: near the edges of thick CCDs the scale of the pixels
        changes by per cents within a stamp. None where it does not change.

    Examples
    --------
    >>> from pogson.psf import GaussianPSF
    >>> table = PsfTable.of(GaussianPSF(fwhm=4.0), x=50.0, y=50.0, reach=15)
    >>> image = table.render(np.array([50.3]), np.array([49.8]), Box(35, 35, 31, 31))
    >>> round(float(image.sum()), 5)
    1.0
    """

    samples: np.ndarray
    center: tuple[float, float]
    matrix: np.ndarray
    scale: float
    order: int
    fwhm: float
    place: tuple[float, float] = (0.0, 0.0)
    slopes: np.ndarray | None = None

    @classmethod
    def of(cls, psf: PSF, *, x: float, y: float, reach: int, fwhm: float | None = None) -> PsfTable:
        """Sample a PSF at a position.

        Parameters
        ----------
        psf : PSF
            The PSF. A `PixelGridPSF` is taken as it is; others are drawn at 3 x 3 to 9 x 9
            sub-pixel phases and joined by polynomials, to about 1e-5 of the peak.
        x, y : float
            Position in pixels (0-based, centres on integers).
        reach : int
            Largest distance in pixels that matters.
        fwhm : float, optional
            Width in pixels, where it is known already.
        """
        if fwhm is None:
            fwhm = float(psf.fwhm(x=x, y=y))
        if isinstance(psf, PixelGridPSF):
            at = {"x": np.array([float(x)]), "y": np.array([float(y)])}
            matrix = np.ascontiguousarray(psf.frame.matrix(at["x"], at["y"])[0], np.float64)
            scale = abs(float(np.linalg.det(matrix)))
            if psf.normalization.kind != "total" and psf.normalization.radius is not None:
                plain = cls(psf.samples(**at)[0], psf.center, matrix, scale, 3, fwhm)
                scale *= plain._ratio(psf, _ORDERS[psf.interpolation], float(x), float(y))
            samples, center, order = psf.samples(**at)[0], psf.center, _ORDERS[psf.interpolation]
            table = cls(np.ascontiguousarray(samples), center, matrix, scale, order, fwhm)
            return table.at_scale_of(psf, float(x), float(y))
        factor = int(np.clip(2 * np.ceil(6.0 / fwhm) + 1, 3, 9))
        half = min(psf.default_half_size(x=x, y=y), int(reach) + 2, _LARGEST_REACH)
        grid, at_center = _oversample(psf, float(x), float(y), factor, half)
        return cls(grid, (at_center, at_center), factor * np.eye(2), 1.0, -3, fwhm)

    def _ratio(self, psf: PSF, order: int, x: float, y: float) -> float:
        """Return the factor that a normalisation other than the grid's own puts on samples."""
        stamp = psf.draw(x=x, y=y, half_size=3)
        table = PsfTable(self.samples, self.center, self.matrix, self.scale, order, self.fwhm)
        plain = table.render(np.array([x]), np.array([y]), stamp.box)[0]
        return float(np.sum(stamp.image * plain) / np.sum(plain * plain))

    def render(
        self, x: np.ndarray, y: np.ndarray, box: Box, matrices: np.ndarray | None = None
    ) -> np.ndarray:
        """Return unit-flux stars at pixel positions on a box, shape (n, ny, nx).

        ``matrices`` of shape (n, 2, 2) from `local_matrices` take the place of the table's own,
        which are linear about its place.
        """
        from pogson.scene import _scene_kernels as kernels

        matrices, scales = self._scaled(x, y, matrices)
        out = np.empty((x.size, *box.shape))
        kernels.render_points(
            self.samples, *self.center, matrices, scales, self.order,
            np.ascontiguousarray(x, np.float64), np.ascontiguousarray(y, np.float64),
            box.x_min, box.y_min, out,
        )  # fmt: skip
        return out

    def at_scale_of(self, psf: PSF, x: float, y: float, shift: float = 0.0) -> PsfTable:
        """Return the table with the pixel scale of a place, read ``shift`` pixels from it."""
        near = np.array([[0.0, 0.0], [-2.0, 0.0], [2.0, 0.0], [0.0, -2.0], [0.0, 2.0]]) + shift
        matrices = local_matrices(psf, x + near[:, 0], y + near[:, 1])
        if matrices is None or not np.isfinite(matrices).all():
            return self
        slopes = np.stack([matrices[2] - matrices[1], matrices[4] - matrices[3]]) / 4.0
        ratio = abs(float(np.linalg.det(matrices[0]) / np.linalg.det(self.matrix)))
        return replace(
            self, matrix=matrices[0].copy(), scale=ratio * self.scale, place=(x, y), slopes=slopes
        )

    def _scaled(
        self, x: np.ndarray, y: np.ndarray, matrices: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return matrices and scales at pixel positions, or one for all."""
        if matrices is None:
            if self.slopes is None:
                return self.matrix[None], np.array([self.scale])
            offset = np.stack([x - self.place[0], y - self.place[1]], axis=-1)
            matrices = self.matrix + np.tensordot(offset, self.slopes, axes=1)
        unit = self.scale / abs(_determinant(self.matrix))
        return np.ascontiguousarray(matrices), unit * np.abs(_determinant(matrices))

    def gradients(self, x: np.ndarray, y: np.ndarray, box: Box) -> np.ndarray:
        """Return stars and their derivatives by source x and y, shape (n, 3, ny, nx)."""
        from pogson.scene import _scene_kernels as kernels

        matrices, scales = self._scaled(x, y, None)
        out = np.empty((x.size, 3, *box.shape))
        kernels.render_gradients(
            self.samples, *self.center, matrices, scales, self.order,
            np.ascontiguousarray(x, np.float64), np.ascontiguousarray(y, np.float64),
            box.x_min, box.y_min, out,
        )  # fmt: skip
        return out


def _determinant(matrix: np.ndarray) -> Any:
    return matrix[..., 0, 0] * matrix[..., 1, 1] - matrix[..., 0, 1] * matrix[..., 1, 0]


def local_matrices(psf: PSF, x: np.ndarray, y: np.ndarray) -> np.ndarray | None:
    """Return d(grid)/d(pixel) of a PSF in sky coordinates at pixel positions, or None.

    None for a PSF in pixel coordinates, whose grid does not follow the sky.
    """
    if not (isinstance(psf, PixelGridPSF) and isinstance(psf.frame, SkyFrame)):
        return None
    return np.ascontiguousarray(psf.frame.matrix(x, y), np.float64)


def _oversample(psf: PSF, x: float, y: float, factor: int, half: int) -> tuple[np.ndarray, float]:
    """Return samples 1/factor pixel apart (factor odd) and the index of the star.

    A star displaced by a phase of minus p/factor shows the PSF at offsets of whole pixels plus
    p/factor; factor^2 drawings interleave into the grid.
    """
    x0, y0 = np.floor(x + 0.5), np.floor(y + 0.5)
    phase = np.arange(factor) - factor // 2
    py, px = (g.ravel() for g in np.meshgrid(phase, phase, indexing="ij"))
    stamps = psf.draw_many(x=x0 - px / factor, y=y0 - py / factor, half_size=half)[0]
    m = 2 * half + 1
    grid = stamps.reshape(factor, factor, m, m).transpose(2, 0, 3, 1).reshape(m * factor, -1)
    return np.ascontiguousarray(grid), float(half * factor + factor // 2)


class LocalMap(NamedTuple):
    """Pixel position as a cubic of the offset (xi, eta) in arcsec from a sky position.

    Attributes
    ----------
    coefficients : numpy.ndarray, shape (10, 2)
        Of 1, xi, eta, xi^2, xi eta, eta^2, ... for x and y.
    """

    coefficients: np.ndarray

    @classmethod
    def of(cls, sky: Any, ra: float, dec: float, radius: float) -> LocalMap:
        """Fit the map of an exposure within a radius in arcsec of a position."""
        axis = np.linspace(-radius, radius, 5)
        xi, eta = (g.ravel() for g in np.meshgrid(axis, axis))
        x, y = sky.pixel(*offset_position(ra, dec, xi, eta))
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise PogsonValueError(
                f"The sky map is not defined within {radius:.3g} arcsec of ra={ra:.6f}, "
                f"dec={dec:.6f}."
            )
        basis = _cubic(xi / radius, eta / radius)
        solution = np.linalg.lstsq(basis, np.stack([x, y], axis=-1), rcond=None)[0]
        return cls(solution / radius ** _POWERS.sum(axis=1)[:, None])

    def pixel(self, xi: Any, eta: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return pixel positions (x, y) of offsets in arcsec."""
        value = _cubic(np.asarray(xi, float), np.asarray(eta, float)) @ self.coefficients
        return value[..., 0], value[..., 1]

    def jacobian(self, xi: float, eta: float) -> np.ndarray:
        """Return d(x, y)/d(xi, eta) in pixels per arcsec, shape (2, 2)."""
        u, v = float(xi), float(eta)
        by_xi = (0.0, 1.0, 0.0, 2 * u, v, 0.0, 3 * u * u, 2 * u * v, v * v, 0.0)
        by_eta = (0.0, 0.0, 1.0, 0.0, u, 2 * v, 0.0, u * u, 2 * u * v, 3 * v * v)
        result: np.ndarray = (np.array([by_xi, by_eta]) @ self.coefficients).T
        return result


_POWERS = np.array([(n - j, j) for n in range(4) for j in range(n + 1)])


def _cubic(xi: np.ndarray, eta: np.ndarray) -> np.ndarray:
    one = np.ones(np.broadcast_shapes(xi.shape, eta.shape))
    x2, y2 = xi * xi, eta * eta
    terms = [one, xi, eta, x2, xi * eta, y2, x2 * xi, x2 * eta, xi * y2, y2 * eta]
    out = np.empty((*one.shape, 10))
    for k, term in enumerate(terms):
        out[..., k] = term
    return out


@dataclass(eq=False)
class ExposureDesign:
    """One exposure as numbers: usable pixels, scene columns, sky columns, maps of the sources.

    Attributes
    ----------
    exposure : SceneExposure
        The exposure, at the origin used.
    tables : list of PsfTable
        Its PSF at the target, with the pixel scale at each source.
    good : numpy.ndarray of int
        Flat indices of usable pixels.
    data, variance : numpy.ndarray, shape (n_good,)
        Pixels and their sky and read noise in the common unit.
    scene : numpy.ndarray, shape (n_points, n_good)
        Unit-flux grid points.
    sky : numpy.ndarray, shape (1 or 3, n_good)
        Constant, or plane.
    maps : list of LocalMap
        Pixel positions about each source.
    center : tuple of float
        Pixel position of the target.
    flipped : bool
        True for the geometry of the published code (see `build_design`).
    """

    exposure: SceneExposure
    tables: list[PsfTable]
    good: np.ndarray
    data: np.ndarray
    variance: np.ndarray
    scene: np.ndarray
    sky: np.ndarray
    maps: list[LocalMap]
    center: tuple[float, float]
    flipped: bool = False

    @property
    def table(self) -> PsfTable:
        """The PSF at the target."""
        return self.tables[0]

    def stars(self, source: int, xi: np.ndarray, eta: np.ndarray) -> np.ndarray:
        """Return unit-flux stars at offsets (arcsec) from a source, shape (n, n_good)."""
        x, y = self.maps[source].pixel(xi, eta)
        images = self.tables[source].render(np.atleast_1d(x), np.atleast_1d(y), self.exposure.box)
        return self._usable(images.reshape(len(images), -1))

    def star_gradients(self, source: int, xi: np.ndarray, eta: np.ndarray) -> np.ndarray:
        """Return stars and derivatives by xi and eta (arcsec), shape (n, 3, n_good)."""
        x, y = self.maps[source].pixel(xi, eta)
        images = self.tables[source].gradients(
            np.atleast_1d(x), np.atleast_1d(y), self.exposure.box
        )
        columns = self._usable(images.reshape(len(images), 3, -1))
        for k in range(len(images)):
            jacobian = self.maps[source].jacobian(float(xi[k]), float(eta[k]))
            columns[k, 1:] = jacobian.T @ columns[k, 1:]
        return columns

    def _usable(self, pixels: np.ndarray) -> np.ndarray:
        """Return the usable ones of all pixels, along the last axis."""
        return pixels if self.good.size == pixels.shape[-1] else pixels[..., self.good]

    def image_of(self, values: np.ndarray) -> np.ndarray:
        """Return values of usable pixels as an image, NaN elsewhere."""
        image = np.full(self.exposure.box.area, np.nan)
        image[self.good] = values
        return image.reshape(self.exposure.box.shape)


def build_design(
    exposure: SceneExposure,
    grid: Any,
    sources: Any,
    *,
    sky_order: int = 0,
    search_radius: float = 1.0,
    flipped: bool = False,
    fwhm: float | None = None,
) -> ExposureDesign:
    """Return the matrices of one exposure.

    Parameters
    ----------
    exposure : SceneExposure
        With PSF and scale.
    grid : SceneGrid or None
        Scene grid with a centre; None for no scene.
    sources : sequence of (ra, dec)
        Nominal positions of the sources in degrees; the first is the target, whose place the PSF
        is taken at.
    sky_order : {0, 1}, optional
        Constant or plane.
    search_radius : float, optional
        Sources will stay within this many arcsec of their positions.
    flipped : bool, optional
        Reproduce the code of Bernardinelli et al. (2023): scene points are drawn one pixel too
        high in x and y and the drawings turned by 180 degrees within the stamp; sources are drawn
        with the pixel scale of a place one pixel too low.
    fwhm : float, optional
        Width of the PSF at the target in pixels, where it is known already.

    Raises
    ------
    CalibrationError
        If a sky plane cannot be fitted to the pixels.
    """
    ra, dec = sources[0]
    x, y = (float(v) for v in exposure.sky.pixel(ra, dec))
    box = exposure.box
    if exposure.psf is None or exposure.scale is None:
        raise CalibrationError(f"Exposure {exposure.exposure_id!r} has no PSF or no scale.")
    table = PsfTable.of(exposure.psf, x=x, y=y, reach=box.nx + box.ny, fwhm=fwhm)
    good = np.flatnonzero(exposure.good.ravel())
    scene = np.empty((0, good.size))
    if grid is not None:
        gx, gy = exposure.sky.pixel(*grid.positions())
        matrices = local_matrices(exposure.psf, gx, gy)
        if flipped:
            images = table.render(gx + 1.0, gy + 1.0, box, matrices)[:, ::-1, ::-1]
        else:
            images = table.render(gx, gy, box, matrices)
        scene = images.reshape(grid.n_points, -1)
        if good.size < box.area:
            scene = scene[:, good]
    tables = []
    for a, b in sources:
        at = (x, y) if (a, b) == (ra, dec) else exposure.sky.pixel(a, b)
        sx, sy = (float(v) for v in at)
        known = (sx, sy) == (x, y) and not flipped
        shift = -1.0 if flipped else 0.0
        tables.append(table if known else table.at_scale_of(exposure.psf, sx, sy, shift))
    scale = float(exposure.scale)
    ys, xs = np.divmod(good, box.nx)
    sky = np.ones((1, good.size))
    if sky_order == 1:
        plane = [2.0 * xs / max(box.nx - 1, 1) - 1.0, 2.0 * ys / max(box.ny - 1, 1) - 1.0]
        sky = np.concatenate([sky, plane])
    return ExposureDesign(
        exposure=exposure,
        tables=tables,
        good=good,
        data=scale * exposure.image.ravel()[good],
        variance=scale**2 * exposure.variance.ravel()[good],
        scene=np.ascontiguousarray(scene),
        sky=sky,
        maps=[LocalMap.of(exposure.sky, a, b, max(search_radius, 0.5)) for a, b in sources],
        center=(x, y),
        flipped=flipped,
    )
