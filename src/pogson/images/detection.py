"""Detection of sources, through SEP."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import PogsonError, PogsonValueError, choices
from pogson.images._sep import for_sep
from pogson.images.background import background_subtracted_image
from pogson.images.exposure import Exposure
from pogson.images.flags import FLAG_DOCS, SourceFlag
from pogson.images.mask import BAD_FOR_PHOTOMETRY
from pogson.units import Measure

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["detect"]

_SEP_MERGED, _SEP_TRUNCATED = 0x0001, 0x0002
_WINDOW_FWHM = 2.3548200450309493  # FWHM of a Gaussian of unit sigma


def detect(
    exposure: Exposure,
    threshold: float = 5.0,
    *,
    min_pixels: int = 5,
    filter_type: str = "conv",
    deblend_levels: int = 32,
    deblend_contrast: float = 0.005,
    mask_names: Iterable[str] | None = None,
) -> Table:
    """Detect sources on the background-subtracted exposure.

    Parameters
    ----------
    exposure : Exposure
        In either measure (it is taken to fluence where it has an area ratio). An attached
        background is subtracted; without one the image is taken to be free of background.
    threshold : float, optional
        Pixel threshold in units of the noise: of the variance where there is one, otherwise of the
        background's rms.
    min_pixels : int, optional
        Least number of connected pixels.
    filter_type : {"conv", "matched"}, optional
        ``"conv"`` convolves the image with a small kernel and compares with the noise of single
        pixels, as SExtractor does; ``"matched"`` also weights by the variance: better where the
        noise varies from pixel to pixel, and about four times slower.
    deblend_levels, deblend_contrast : int, float, optional
        Deblending thresholds and contrast of SExtractor.
    mask_names : iterable of str, optional
        Mask names whose pixels cannot belong to a source; by default those of
        `pogson.images.BAD_FOR_PHOTOMETRY` except SATURATED, so that saturated stars are found and
        flagged.

    Returns
    -------
    astropy.table.Table
        One row a source: ``id``, ``x``, ``y`` (windowed centroid, pixels, 0-based), ``x_err``,
        ``y_err``, ``ra``, ``dec`` (deg; NaN without sky mapping), ``flux_isophotal`` (for a first
        look: it depends on the threshold), ``peak``, ``half_light_radius``, ``a``, ``b`` (rms along
        the axes, pixels), ``theta`` (rad from +x), ``n_pixels``, ``flags`` (`SourceFlag`).
        ``table.meta`` says how it was made.

    Raises
    ------
    MaskedDataError
        If every pixel is masked.
    PogsonValueError
        If the threshold is not positive, or there is neither variance nor background.

    Notes
    -----
    SEP (Barbary 2016, JOSS 1, 58) after SExtractor (Bertin & Arnouts 1996, A&AS 117, 393);
    centroids are the Gaussian-windowed ones (XWIN, YWIN), the window's width from the half-light
    radius.

    Examples
    --------
    >>> import numpy as np
    >>> from pogson.images import Exposure, detect
    >>> y, x = np.mgrid[:64, :64]
    >>> star = 1000.0 * np.exp(-0.5 * ((x - 30.3) ** 2 + (y - 40.8) ** 2) / 1.5**2)
    >>> exposure = Exposure(star, variance=np.full((64, 64), 4.0), unit="adu", measure="fluence")
    >>> found = detect(exposure)
    >>> len(found), float(found["x"][0]), float(found["y"][0])
    (1, 30.3, 40.8)
    """
    if not (np.isfinite(threshold) and threshold > 0):
        raise PogsonValueError(f"The detection threshold is {threshold!r}; it must be above 0.")
    if filter_type not in ("conv", "matched"):
        raise PogsonValueError(
            f"filter_type is {filter_type!r}; allowed: {choices(['conv', 'matched'])}."
        )
    if exposure.area_ratio is not None:
        exposure = exposure.to(Measure.FLUENCE)
    image = for_sep(background_subtracted_image(exposure))
    noise = _noise(exposure)
    bad: np.ndarray | None = exposure.usable(
        _detection_mask_names(exposure) if mask_names is None else mask_names
    )
    bad = for_sep(bad) if bad is not None and bad.any() else None
    found = _extract(
        image,
        threshold,
        **noise,
        mask=bad,
        minarea=int(min_pixels),
        filter_type=filter_type,
        deblend_nthresh=int(deblend_levels),
        deblend_cont=float(deblend_contrast),
    )
    table = _table(exposure, image, bad, found)
    table.meta.update(
        threshold=float(threshold),
        noise="variance" if "var" in noise else "background rms",
        filter_type=filter_type,
        measure=str(exposure.measure),
        exposure_id=exposure.exposure_id,
        detector=exposure.detector,
    )
    return table


def _detection_mask_names(exposure: Exposure) -> list[str]:
    return [n for n in BAD_FOR_PHOTOMETRY if n in exposure.mask_bits and n != "SATURATED"]


def _noise(exposure: Exposure) -> dict[str, Any]:
    """Return the noise argument for SEP."""
    if exposure.variance is not None:
        return {"var": for_sep(exposure.variance)}
    if exposure.background is not None:
        return {"err": for_sep(exposure.background.rms_image(exposure.measure, box=exposure.box))}
    raise PogsonValueError(
        "Detection needs to know the noise: give the exposure a variance, or attach a background "
        "with exposure.with_background(estimate_background(exposure))."
    )


def _extract(image: np.ndarray, threshold: float, **options: Any) -> np.ndarray:
    """Call SEP, giving it a larger pixel buffer when a crowded image needs one."""
    import sep

    def run() -> Any:
        return sep.extract(image, threshold, **options)

    return _with_larger_buffers(run)


def _with_larger_buffers(run: Callable[[], Any]) -> np.ndarray:
    import sep

    stack, objects = sep.get_extract_pixstack(), sep.get_sub_object_limit()
    try:
        for _ in range(5):
            try:
                return np.asarray(run())
            except Exception as error:  # SEP raises bare Exceptions
                text = str(error)
                if "pixel buffer full" in text:
                    sep.set_extract_pixstack(4 * sep.get_extract_pixstack())
                elif "deblending overflow" in text:
                    sep.set_sub_object_limit(4 * sep.get_sub_object_limit())
                else:
                    raise PogsonError(f"Detection failed: {text}") from error
        raise PogsonValueError(
            "Too many pixels are above the threshold; subtract a background or raise the threshold."
        )
    finally:
        # The limits are the library's own state; leave them as they were.
        sep.set_extract_pixstack(stack)
        sep.set_sub_object_limit(objects)


def _table(
    exposure: Exposure, image: np.ndarray, bad: np.ndarray | None, found: np.ndarray
) -> Table:
    """Return the catalogue of what SEP found."""
    from astropy.table import Table

    box, n = exposure.box, len(found)
    flags = np.zeros(n, np.int32)
    flags[(found["flag"] & _SEP_MERGED) != 0] |= int(SourceFlag.BLENDED)
    flags[(found["flag"] & _SEP_TRUNCATED) != 0] |= int(SourceFlag.EDGE)
    x, y, radius, failed = _windowed(image, bad, found)
    flags[failed] |= int(SourceFlag.CENTROID)
    flags |= _core_flags(exposure, x, y)
    x, y = x + box.x_min, y + box.y_min
    table = Table()
    table["id"] = np.arange(1, n + 1, dtype=np.int64)
    table["x"], table["y"] = x, y
    table["x_err"], table["y_err"] = np.sqrt(found["errx2"]), np.sqrt(found["erry2"])
    add_sky_columns(table, exposure)
    table["flux_isophotal"] = found["flux"]
    table["peak"] = found["peak"]
    table["half_light_radius"] = radius
    for name in ("a", "b", "theta"):
        table[name] = found[name]
    table["n_pixels"] = found["npix"].astype(np.int64)
    table["flags"] = flags
    for name in ("x", "y", "x_err", "y_err", "half_light_radius", "a", "b"):
        table[name].unit = "pixel"
    table["theta"].unit = "rad"
    table["flux_isophotal"].unit = table["peak"].unit = exposure.unit
    table.meta["flags"] = {flag.name: text for flag, text in FLAG_DOCS.items()}
    return table


def add_sky_columns(table: Table, exposure: Exposure) -> None:
    """Add ``ra`` and ``dec`` in degrees; NaN where there is no sky mapping or no position."""
    x, y = np.asarray(table["x"], np.float64), np.asarray(table["y"], np.float64)
    ra = np.full(x.shape, np.nan)
    dec = np.full(x.shape, np.nan)
    finite = np.isfinite(x) & np.isfinite(y)
    if exposure.sky is not None and finite.any():
        ra[finite], dec[finite] = exposure.sky.sky(x=x[finite], y=y[finite])
    table["ra"], table["dec"] = ra, dec
    table["ra"].unit = table["dec"].unit = "deg"


def _windowed(
    image: np.ndarray, bad: np.ndarray | None, found: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return windowed centroids, half-light radii and which centroids failed."""
    import sep

    if not len(found):
        empty = np.zeros(0)
        return empty, empty, empty, np.zeros(0, bool)
    x, y = found["x"].astype(np.float64), found["y"].astype(np.float64)
    radius, status = sep.flux_radius(image, x, y, 6.0 * found["a"], 0.5, mask=bad, subpix=2)
    usable = np.isfinite(radius) & (radius > 0.5) & (radius < 4.0 * found["a"] + 1)
    radius = np.where(usable, radius, np.maximum(1.1774 * found["b"], 1.0))
    width = 2.0 / _WINDOW_FWHM * radius
    wx, wy, status = sep.winpos(image, x, y, width, mask=bad, subpix=3)  # good to 1e-4 px
    failed = ~(np.isfinite(wx) & np.isfinite(wy)) | (np.hypot(wx - x, wy - y) > 2.0 * radius)
    failed |= (status & sep.APER_ALLMASKED) != 0
    return np.where(failed, x, wx), np.where(failed, y, wy), radius, failed


def _core_flags(exposure: Exposure, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return flags from the mask within two pixels of each source."""
    from pogson.images.mask_flags import mask_flags

    if exposure.mask is None or not len(x):
        return np.zeros(len(x), np.int32)
    return mask_flags(exposure, x=x + exposure.box.x_min, y=y + exposure.box.y_min, radius=2.0)
