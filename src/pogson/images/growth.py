"""Curves of growth: how the light of stars grows with the aperture."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pogson.calib import FluxReference
from pogson.errors import MaskedDataError, PogsonValueError
from pogson.images.apertures import LocalAnnulus, measure_sources, positions
from pogson.images.exposure import Exposure
from pogson.images.flags import SourceFlag
from pogson.psf import ApertureOperator

__all__ = ["CurveOfGrowth", "curve_of_growth"]

_MAD_TO_SIGMA = 1.4826022185056018
_REJECT = int(
    SourceFlag.EDGE
    | SourceFlag.BAD_PIXEL
    | SourceFlag.SATURATED
    | SourceFlag.NO_DATA
    | SourceFlag.NEIGHBOR
    | SourceFlag.BAD_POSITION
    | SourceFlag.OUTSIDE
    | SourceFlag.ALL_MASKED
)


@dataclass(frozen=True, eq=False)
class CurveOfGrowth:
    """Flux inside growing apertures over the flux inside a normalising one, stacked over stars.

    Parameters
    ----------
    radius : numpy.ndarray, shape (n_radii,)
        Aperture radii, in `frame`.
    frame : {"pixel", "sky"}
        Pixels or arcsec.
    operator : ApertureOperator
        How pixels were summed.
    normalization : float
        Radius whose flux is 1.
    fraction : numpy.ndarray, shape (n_radii,)
        Median over the stars.
    scatter : numpy.ndarray, shape (n_radii,)
        Robust standard deviation from star to star (1.4826 x median absolute deviation).
    error : numpy.ndarray, shape (n_radii,)
        Standard error of ``fraction`` from the scatter.
    n_stars : int
        Stars used.
    n_rejected : int
        Stars left out because of flags or an unusable flux.
    model : numpy.ndarray or None, shape (n_radii,)
        What the exposure's PSF gives for the same stars: mean enclosed energy by the same operator,
        normalised alike.

    Examples
    --------
    >>> import numpy as np
    >>> growth = CurveOfGrowth(np.array([3.0, 12.0]), "pixel", ApertureOperator.exact(), 12.0,
    ...                        np.array([0.8, 1.0]), np.array([0.01, 0.0]), np.array([0.001, 0.0]),
    ...                        n_stars=100, n_rejected=4)
    >>> growth.magnitude.round(4)
    array([0.2423, 0.    ])
    """

    radius: np.ndarray
    frame: str
    operator: ApertureOperator
    normalization: float
    fraction: np.ndarray
    scatter: np.ndarray
    error: np.ndarray
    n_stars: int
    n_rejected: int
    model: np.ndarray | None = None

    @property
    def magnitude(self) -> np.ndarray:
        """Growth in magnitudes, -2.5 log10(fraction): positive where light is missing."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(-2.5 * np.log10(self.fraction))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return {
            "radius": self.radius.tolist(),
            "frame": self.frame,
            "operator": self.operator.name,
            "normalization": self.normalization,
            "fraction": self.fraction.tolist(),
            "scatter": self.scatter.tolist(),
            "error": self.error.tolist(),
            "n_stars": self.n_stars,
            "n_rejected": self.n_rejected,
            "model": None if self.model is None else self.model.tolist(),
        }


def curve_of_growth(
    exposure: Exposure,
    *,
    x: Any,
    y: Any,
    radii: Iterable[float],
    frame: str = "pixel",
    operator: ApertureOperator | None = None,
    normalization: float | None = None,
    background: LocalAnnulus | str | None = "attached",
) -> CurveOfGrowth:
    """Measure the curve of growth of stars.

    Parameters
    ----------
    exposure : Exposure
        In either measure (measured in fluence).
    x, y : array_like, shape (n,)
        Positions of isolated stars in pixels (0-based, centres on integers).
    radii : iterable of float
        Aperture radii, increasing.
    frame : {"pixel", "sky"}, optional
        Frame of the radii.
    operator : ApertureOperator, optional
        Exact overlap by default.
    normalization : float, optional
        Radius whose flux is 1; the largest by default. It is added to ``radii`` if it is missing.
    background : optional
        As for `measure_sources`.

    Returns
    -------
    CurveOfGrowth

    Raises
    ------
    PogsonValueError
        If no radius is given, or one is not positive.
    MaskedDataError
        If no star is usable.

    Examples
    --------
    >>> import numpy as np
    >>> from pogson.images import Exposure, curve_of_growth
    >>> from pogson.psf import MoffatPSF
    >>> psf = MoffatPSF(fwhm=4.0, beta=3.0)
    >>> image = 1e4 * psf.draw(x=30.2, y=29.9, half_size=30).image
    >>> exposure = Exposure(image, unit="adu", measure="fluence", psf=psf)
    >>> growth = curve_of_growth(exposure, x=[30.2], y=[29.9], radii=[2, 4, 8, 16])
    >>> bool(np.allclose(growth.fraction, growth.model, atol=1e-4))
    True
    """
    operator = ApertureOperator.exact() if operator is None else operator
    sizes = sorted({float(r) for r in radii} | ({float(normalization)} if normalization else set()))
    if not sizes or sizes[0] <= 0:
        raise PogsonValueError(f"radii {sizes} must be one or more positive numbers.")
    unit = float(normalization) if normalization else sizes[-1]
    references = [FluxReference.aperture(r, frame, operator) for r in sizes]
    xs, ys = positions(x, y)
    table = measure_sources(exposure, x=xs, y=ys, references=references, background=background)
    flux = np.stack([np.asarray(table[f"flux_{r.slug}"]) for r in references], axis=1)
    base = flux[:, sizes.index(unit)]
    good = ((np.asarray(table["flags"]) & _REJECT) == 0) & np.isfinite(flux).all(axis=1)
    good &= base > 0
    n = int(good.sum())
    if not n:
        raise MaskedDataError(
            f"None of the {xs.size} stars is usable for a curve of growth (flags "
            f"{table.meta['flag_counts']}); choose isolated, unsaturated stars further than the "
            f"largest radius from the edges."
        )
    curves = flux[good] / base[good, None]
    fraction = np.median(curves, axis=0)
    scatter = _MAD_TO_SIGMA * np.median(np.abs(curves - fraction), axis=0)
    error = np.sqrt(np.pi / 2.0) * scatter / np.sqrt(n)  # standard error of a median
    return CurveOfGrowth(
        np.asarray(sizes), frame, operator, unit, fraction, scatter, error, n, xs.size - n,
        _model(exposure, references, unit, xs[good], ys[good]),
    )  # fmt: skip


def _model(
    exposure: Exposure, references: list[FluxReference], unit: float, x: np.ndarray, y: np.ndarray
) -> np.ndarray | None:
    """Return the mean curve of the exposure's PSF at the stars."""
    if exposure.psf is None:
        return None
    curves = [r.enclosed_energy(exposure.psf, exposure.sky, x=x, y=y) for r in references]
    base = next(c for r, c in zip(references, curves, strict=True) if r.radius == unit)
    return np.array([float(np.mean(c / base)) for c in curves])
