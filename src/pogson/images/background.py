"""Sky backgrounds: estimated on surface brightness, given back in the caller's measure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import astropy.units as u
import numpy as np

from pogson.errors import MaskedDataError, MeasureError, PogsonValueError
from pogson.fields import Box, Field, GridField
from pogson.images._sep import for_sep
from pogson.images._states import state_factors
from pogson.images.exposure import Exposure
from pogson.images.mask import BAD_FOR_BACKGROUND
from pogson.units import Measure

if TYPE_CHECKING:
    from pogson.images.flats import ChromaticFlat, FlatFactors
    from pogson.images.flattening import Flattening
    from pogson.sed import Spectrum

__all__ = ["Background", "background_subtracted_image", "estimate_background"]


@dataclass(frozen=True, repr=False)
class Background:
    """A sky background and its pixel-to-pixel noise, as fields of surface brightness.

    Parameters
    ----------
    level : Field
        Background in surface brightness, in the unit of the image it belongs to.
    rms : Field
        Standard deviation of the background pixels in surface brightness, same unit.
    area_ratio : Field, optional
        Pixel area over the reference area A(x, y) / A0; needed to give the background in fluence.
    flattening : Flattening, optional
        Flat and spectrum for which the level is given; needed to subtract it from an image that is
        flattened for another spectrum.

    Examples
    --------
    >>> from pogson.fields import Box, ConstantField
    >>> box = Box(0, 0, 4, 3)
    >>> sky = Background(ConstantField(box, 100.0, "adu"), ConstantField(box, 10.0, "adu"),
    ...                  area_ratio=ConstantField(box, 1.05))
    >>> float(sky.image("fluence")[0, 0])
    105.0
    >>> sky
    <Background: 4 x 3 pixels, x 0 to 3, y 0 to 2; surface brightness 100 to 100 adu, rms 10 to 10;
    pixel areas known>
    """

    level: Field
    rms: Field
    area_ratio: Field | None = None
    flattening: Flattening | None = None

    def __post_init__(self) -> None:
        if self.rms.unit != self.level.unit:
            raise PogsonValueError(
                f"Background level in '{self.level.unit}' but rms in '{self.rms.unit}'."
            )

    @property
    def box(self) -> Box:
        """Pixel box on which the background is defined."""
        return self.level.box

    @property
    def unit(self) -> u.UnitBase:
        """Unit of level and rms."""
        return self.level.unit

    def with_box(self, box: Box) -> Background:
        """Return the same background on a smaller box."""
        ratio = self.area_ratio
        return Background(
            self.level.with_box(box),
            self.rms.with_box(box),
            None if ratio is None else ratio.with_box(box),
            self.flattening,
        )

    def _factor(self, measure: Measure | str, flattening: Flattening | None = None) -> Field | None:
        area = self._area_factor(measure)
        states = state_factors(flattening, self.flattening)
        if states is None:
            return area
        now, wanted = states
        factor = (now.ratio() / wanted.ratio()).with_box(self.box)
        return factor if area is None else factor * area

    def _area_factor(self, measure: Measure | str) -> Field | None:
        if Measure.parse(measure) is Measure.SURFACE_BRIGHTNESS:
            return None
        if self.area_ratio is None:
            raise MeasureError(
                "This background knows no pixel areas, so it can be given only in "
                "surface_brightness. Estimate it on an exposure that has an area_ratio "
                "(exposure.with_area_ratio())."
            )
        return self.area_ratio

    def field(self, measure: Measure | str, *, flattening: Flattening | None = None) -> Field:
        """Return the level as a field in a measure, for a flattening where one is given.

        Raises
        ------
        MeasureError
            If fluence is asked for and the pixel areas are unknown.
        """
        factor = self._factor(measure, flattening)
        return self.level if factor is None else self.level * factor

    def rms_field(self, measure: Measure | str) -> Field:
        """Return the noise as a field in a measure."""
        factor = self._factor(measure)
        return self.rms if factor is None else self.rms * factor

    def image(
        self,
        measure: Measure | str,
        *,
        box: Box | None = None,
        dtype: Any = np.float32,
        flattening: Flattening | None = None,
    ) -> np.ndarray:
        """Return the level on every pixel of a box, in a measure.

        Parameters
        ----------
        measure : Measure or str
            ``"fluence"`` or ``"surface_brightness"``.
        box : Box, optional
            By default the whole background.
        dtype : dtype, optional
            float32 by default.
        flattening : Flattening, optional
            State of the image that the level is for; as estimated by default.
        """
        return self._rendered(self.level, measure, box, dtype, flattening)

    def rms_image(
        self, measure: Measure | str, *, box: Box | None = None, dtype: Any = np.float32
    ) -> np.ndarray:
        """Return the noise (standard deviation) on every pixel of a box, in a measure."""
        return self._rendered(self.rms, measure, box, dtype)

    def _rendered(
        self,
        what: Field,
        measure: Measure | str,
        box: Box | None,
        dtype: Any,
        flattening: Flattening | None = None,
    ) -> np.ndarray:
        factor = self._factor(measure, flattening)
        image = what.render(box, dtype=dtype)
        if factor is not None:
            image = image * factor.render(image_box(what, box), dtype=dtype)
        return image

    def scaled(self, calibration: Field) -> Background:
        """Return the background times a calibration field, for a calibrated image."""
        return Background(
            self.level * calibration, self.rms * calibration, self.area_ratio, self.flattening
        )

    def __repr__(self) -> str:
        b, unit = self.box, self.unit.to_string() or "(no unit)"
        x = np.linspace(b.x_min, b.x_max, 5)
        y = np.linspace(b.y_min, b.y_max, 5)[:, None]
        level, rms = (np.asarray(f(x=x, y=y), np.float64) for f in (self.level, self.rms))
        areas = "unknown" if self.area_ratio is None else "known"
        return (
            f"<Background: {b.nx} x {b.ny} pixels, x {b.x_min} to {b.x_max}, y {b.y_min} to "
            f"{b.y_max}; surface brightness {level.min():.5g} to {level.max():.5g} {unit}, rms "
            f"{rms.min():.4g} to {rms.max():.4g}; pixel areas {areas}>"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description, read back by `from_dict`."""
        ratio = self.area_ratio
        return {
            "level": self.level.to_dict(),
            "rms": self.rms.to_dict(),
            "area_ratio": None if ratio is None else ratio.to_dict(),
            "flattening": None if self.flattening is None else self.flattening.to_dict(),
        }

    @classmethod
    def from_dict(
        cls, data: dict[str, Any], flat: ChromaticFlat | FlatFactors | None = None
    ) -> Background:
        """Return the background described by `to_dict`; ``flat`` where it only names its flat."""
        from pogson.fields import field_from_dict
        from pogson.images.flattening import Flattening

        ratio, flattening = data.get("area_ratio"), data.get("flattening")
        return cls(
            field_from_dict(data["level"]),
            field_from_dict(data["rms"]),
            None if ratio is None else field_from_dict(ratio),
            None if flattening is None else Flattening.from_dict(flattening, flat),
        )


def image_box(field: Field, box: Box | None) -> Box:
    """Return a box, or the field's own where none is given."""
    return field.box if box is None else box


def estimate_background(
    exposure: Exposure,
    *,
    mesh: int = 64,
    filter_size: int = 3,
    mask_names: Iterable[str] | None = None,
    mask: Any = None,
    mask_sources: bool = False,
    source_threshold: float = 3.0,
    sky_sed: Spectrum | None = None,
) -> Background:
    """Estimate the background of an exposure, always on surface brightness.

    The exposure may be in either measure; it is converted for the estimate and not changed. A sky
    that is smooth in surface brightness is not smooth in fluence where the pixel area varies, so an
    estimate on fluence would put the camera's distortion into the sky.

    Parameters
    ----------
    exposure : Exposure
        In either measure. In fluence it needs an ``area_ratio``.
    mesh : int, optional
        Size of the mesh cells in pixels (adjusted a little so that cells fill the image).
    filter_size : int, optional
        Size in cells of the median filter over the mesh; 1 for none.
    mask_names : iterable of str, optional
        Mask names to leave out; by default those of `pogson.images.BAD_FOR_BACKGROUND` that the
        exposure defines.
    mask : array_like of bool, optional
        More pixels to leave out, shape of the image.
    mask_sources : bool, optional
        Estimate twice, the second time without the pixels of sources found after the first. Slower,
        and less biased: in crowded images, and because source-free cells can take the mean, while
        the mode used otherwise lies 5/12 of an electron below the mean of photon noise.
    source_threshold : float, optional
        Threshold in units of the noise for ``mask_sources``, on the image smoothed over 3 x 3
        pixels; the pixels found are grown by 4.
    sky_sed : Spectrum, optional
        Spectrum of the sky of that night: the estimate is made on the image flattened for it, where
        the sky is smooth. Needs an exposure with a ``flattening``.

    Returns
    -------
    Background
        Level and noise as cubic-spline fields, with the exposure's area ratio and the flattening
        under which the level was estimated.

    Raises
    ------
    MaskedDataError
        If no usable pixel is left.
    MeasureError
        If the exposure is in fluence and has no ``area_ratio``.
    PogsonValueError
        If ``mesh`` or ``filter_size`` is out of range.

    Notes
    -----
    Cell values and noise are those of SExtractor (Bertin & Arnouts 1996, A&AS 117, 393), computed
    by SEP (Barbary 2016, JOSS 1, 58): clipped at 3 sigma, then the mean, or 2.5 x median - 1.5 x
    mean where a cell is crowded. They are joined by a natural bicubic spline.

    Examples
    --------
    >>> import numpy as np
    >>> from pogson.images import Exposure, estimate_background
    >>> noise = np.random.default_rng(1).normal(100.0, 5.0, (256, 256))
    >>> exposure = Exposure(noise, unit="adu", measure="surface_brightness")
    >>> sky = estimate_background(exposure)
    >>> abs(sky.level.mean() - 100.0) < 0.1, abs(sky.rms.mean() - 5.0) < 0.2
    (True, True)
    """
    if not int(mesh) >= 4:
        raise PogsonValueError(f"The background mesh is {mesh} pixels; it must be at least 4.")
    if int(filter_size) < 1:
        raise PogsonValueError(f"filter_size is {filter_size}; it must be at least 1 (no filter).")
    surface = in_surface_brightness(exposure)
    if sky_sed is not None:
        surface = surface.flattened_for(sky_sed)
    bad = _background_mask(exposure, mask_names, mask)
    image = for_sep(surface.image)
    level, rms = _mesh_fields(exposure, image, bad, int(mesh), int(filter_size))
    if mask_sources:
        found = source_pixels(image, level.render(dtype=np.float32), rms, bad, source_threshold)
        found = found if bad is None else found | bad
        if not found.all():
            level, rms = _mesh_fields(exposure, image, found, int(mesh), int(filter_size))
            level = _with_mean_residuals(exposure, image, level, rms, bad, int(mesh))
    return Background(level, rms, exposure.area_ratio, surface.flattening)


def in_surface_brightness(exposure: Exposure) -> Exposure:
    """Return the exposure in surface brightness, its background restored if it was subtracted."""
    try:
        return exposure.to(Measure.SURFACE_BRIGHTNESS)
    except MeasureError as error:
        raise MeasureError(
            f"A background is estimated on surface brightness. {error} If the pixels of this image "
            f"are known to cover equal areas, say so with a ConstantField of 1 as area_ratio."
        ) from None


def _background_mask(
    exposure: Exposure, mask_names: Iterable[str] | None, mask: Any
) -> np.ndarray | None:
    """Return the pixels to leave out, or None where there are none."""
    if mask_names is None:
        mask_names = [n for n in BAD_FOR_BACKGROUND if n in exposure.mask_bits]
    bad = exposure.bad(mask_names)
    if mask is not None:
        extra = np.asarray(mask, bool)
        if extra.shape != bad.shape:
            raise PogsonValueError(f"mask has shape {extra.shape} but the image has {bad.shape}.")
        bad = bad | extra
    if not bad.any():
        return None
    if bad.all():
        raise MaskedDataError(
            f"Every one of the {bad.size} pixels is masked; no background can be estimated."
        )
    return bad


def cell_size(n: int, mesh: int, parity: int) -> int:
    """Return the cell size near ``mesh``, odd or even, whose last cell is more than half full.

    Examples
    --------
    >>> cell_size(4096, 64, 0), cell_size(4096, 64, 1), cell_size(70, 64, 0)
    (64, 57, 70)
    """
    if n <= mesh * 3 // 2:
        return n
    widths = [w for w in range(max(4, mesh // 2), mesh * 2 + 1) if w % 2 == parity]

    def cost(width: int) -> float:
        left = n % width
        fill = 1.0 if left == 0 else left / width
        return abs(width - mesh) / mesh + 10.0 * max(0.0, 0.6 - fill)

    return min(widths, key=cost)


def _mesh_fields(
    exposure: Exposure, image: np.ndarray, bad: np.ndarray | None, mesh: int, filter_size: int
) -> tuple[Field, Field]:
    """Return level and rms of an image as spline fields through the cells of SEP's mesh."""
    import sep

    ny, nx = image.shape
    # SEP does not give the values of its cells, only the rendered mesh. Its spline passes through
    # them at bw * (i + 1/2) - 1/2 along x but bh * (j + 1/2) along y (half a pixel past the cell's
    # centre), which are whole pixels for an odd width and an even height.
    bw, bh = cell_size(nx, mesh, 1), cell_size(ny, mesh, 0)
    mask = None if bad is None else for_sep(bad)
    estimate = sep.Background(image, mask=mask, bw=bw, bh=bh, fw=filter_size, fh=filter_size)
    x_centers, y_centers = _centers(nx, bw), _centers(ny, bh)
    columns = np.minimum(np.round(x_centers).astype(int), nx - 1)
    rows = np.minimum(np.round(y_centers + 0.5).astype(int), ny - 1)
    level, rms = (
        spline_through_cells(
            rendered[np.ix_(rows, columns)], exposure.box, x_centers, y_centers, exposure.unit
        )
        for rendered in (estimate.back(dtype=np.float32), estimate.rms(dtype=np.float32))
    )
    return level, rms


_LEAST_CELL = 0.2  # fraction of a cell's pixels that its mean needs
_MEAN_CLIP = 4.0


def _with_mean_residuals(
    exposure: Exposure,
    image: np.ndarray,
    level: Field,
    rms: Field,
    bad: np.ndarray | None,
    mesh: int,
) -> Field:
    """Return the level with the mean residual of each cell's source-free pixels added.

    The mode 2.5 x median - 1.5 x mean and the median lie below the mean of photon noise, whose
    distribution is skew: by 5/12 and 1/6 of an electron per pixel, which an aperture adds up. Where
    the sources are masked the mean is safe, and is what makes the noise of apertures average to 0.
    """
    ny, nx = image.shape
    excess = image - level.render(dtype=np.float32)
    noise = rms.render(dtype=np.float32)
    # A higher threshold and a wider margin than for the first mask: leaving out single upward
    # fluctuations would push the mean down, and the wings of stars would push it up.
    used = ~source_pixels(image, image - excess, rms, bad, 5.0, grow=10)
    used &= np.abs(excess) <= _MEAN_CLIP * noise
    if bad is not None:
        used &= ~bad
    bw, bh = cell_size(nx, mesh, 1), cell_size(ny, mesh, 0)
    rows, columns = np.arange(0, ny, bh), np.arange(0, nx, bw)

    def cell_sums(values: np.ndarray) -> np.ndarray:
        sums = np.add.reduceat(values, rows, axis=0, dtype=np.float64)
        return np.asarray(np.add.reduceat(sums, columns, axis=1))

    count = cell_sums(used)
    total = cell_sums(np.where(used, excess, 0.0))
    enough = count >= _LEAST_CELL * bw * bh
    if not enough.any():
        return level
    mean = np.where(
        enough, total / np.maximum(count, 1.0), total[enough].sum() / count[enough].sum()
    )
    x_centers, y_centers = _centers(nx, bw), _centers(ny, bh)
    box = exposure.box
    added = spline_through_cells(mean, box, x_centers, y_centers, exposure.unit)
    return level + added


def _centers(n: int, width: int) -> np.ndarray:
    """Return the centres of the cells along an axis, from the first pixel's centre."""
    return width * (np.arange(-(-n // width)) + 0.5) - 0.5


def spline_through_cells(
    cells: np.ndarray, box: Box, x_centers: np.ndarray, y_centers: np.ndarray, unit: Any
) -> GridField:
    """Return the natural bicubic spline through cell values, continued to the edges of a box.

    Parameters
    ----------
    cells : numpy.ndarray, shape (n_y, n_x)
        Value of each cell.
    box : Box
        Where the image lies.
    x_centers, y_centers : numpy.ndarray
        Centres of the cells, from the centre of the box's first pixel.
    unit : unit-like
        Unit of the values.
    """
    x_nodes, x_matrix = _natural(x_centers, box.nx)
    y_nodes, y_matrix = _natural(y_centers, box.ny)
    values = y_matrix @ cells.astype(np.float64) @ x_matrix.T
    return GridField(
        box, x_nodes + box.x_min, y_nodes + box.y_min, values, unit, interpolation="cubic"
    )


def _natural(centers: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return field nodes and the matrix from cell values to node values along an axis.

    A natural spline through the cell centres, continued to the image's edges, is also the
    not-a-knot spline of `GridField` once a node is added beyond each end: not-a-knot drops the
    second and the last but one node, so the knots left are the natural spline's own inner ones.
    """
    from scipy.interpolate import CubicSpline

    count = len(centers)
    if count < 3:  # constant, or a straight line: four nodes carry it
        nodes = np.linspace(-0.5, max(n - 0.5, centers[-1]), 4)
    else:
        first, last = min(-0.5, centers[0] - 1.0), max(n - 0.5, centers[-1] + 1.0)
        nodes = np.concatenate([[first], centers, [last]])
    if count == 1:
        return nodes, np.ones((4, 1))
    return nodes, np.asarray(CubicSpline(centers, np.eye(count), bc_type="natural")(nodes))


def source_pixels(
    image: np.ndarray,
    level: np.ndarray,
    rms: Field,
    bad: np.ndarray | None,
    threshold: float,
    grow: int = 4,
) -> np.ndarray:
    """Return the pixels of sources: smoothed image above the threshold, grown by some pixels."""
    from scipy.ndimage import binary_dilation, uniform_filter

    excess = image - level
    if bad is not None:
        excess[bad] = 0.0
    smooth = uniform_filter(excess, 3, mode="constant")
    # The mean of 9 pixels has a third of their noise.
    found = smooth > (threshold / 3.0) * rms.render(dtype=np.float32)
    return np.asarray(binary_dilation(found, iterations=grow))


def background_subtracted_image(exposure: Exposure) -> np.ndarray:
    """Return the image less its attached background, in the exposure's measure.

    Nothing is changed; where the background is subtracted already, or none is attached, this is
    the image itself.

    Examples
    --------
    >>> import numpy as np
    >>> from pogson.images import Exposure
    >>> exposure = Exposure(np.ones((2, 2)), unit="adu", measure="fluence")
    >>> background_subtracted_image(exposure) is exposure.image
    True
    """
    if exposure.background is None:
        return exposure.image
    return exposure.subtract_background().image
