"""Catalogue fluxes corrected for each source's own spectrum: full integral or first order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pogson.errors import BoundsError, PogsonValueError
from pogson.fields import ChebyshevField, Field
from pogson.images._flat_integrals import effective_weights
from pogson.images.flats import ChromaticFlat, FlatFactors
from pogson.images.flattening import Flattening
from pogson.sed import Bandpass, Spectrum, synthetic_color

__all__ = ["ColorCorrection", "fit_color_correction", "flat_values", "source_factors"]


def flat_values(
    flat: ChromaticFlat | FlatFactors | Field,
    seds: Sequence[Spectrum],
    bandpass: Bandpass,
    *,
    x: Any,
    y: Any,
) -> np.ndarray:
    """Return the flat for each source's own spectrum at its own position.

    Parameters
    ----------
    flat : ChromaticFlat or FlatFactors or Field
        The flat.
    seds : sequence of Spectrum, length n
        One a source; a spectrum that is repeated (the same object) is integrated once.
    bandpass : Bandpass
        The response.
    x, y : array_like, shape (n,)
        Pixels (0-based, centres on integers).

    Returns
    -------
    numpy.ndarray, shape (n,)

    Raises
    ------
    PogsonValueError
        If the numbers of spectra and positions differ.
    BoundsError
        If a position is outside the flat.
    CalibrationError
        See `ChromaticFlat.flat_for`.

    Examples
    --------
    >>> from pogson.fields import Box, ChebyshevField
    >>> box = Box(0, 0, 100, 50)
    >>> flat = ChromaticFlat.from_fields(
    ...     [3000.0, 12000.0], [ChebyshevField(box, [[1.0, s]]) for s in (0.05, -0.05)])
    >>> r = Bandpass.from_speclite("decam2014-r")
    >>> star = Spectrum.constant_ab(20.0)
    >>> values = flat_values(flat, [star, star], r, x=[0.0, 99.0], y=[9.0, 9.0])
    >>> bool(values[0] < 1.0 < values[1])
    True
    """
    xs, ys = np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float))
    if not len(seds) == xs.size == ys.size:
        raise PogsonValueError(
            f"{len(seds)} spectra for {xs.size} x and {ys.size} y positions; give one for each."
        )
    if isinstance(flat, Field):
        return np.asarray(flat(x=xs, y=ys), float)
    if isinstance(flat, FlatFactors):
        product = np.ones(xs.size)
        for factor in flat.factors.values():
            product *= flat_values(factor, seds, bandpass, x=xs, y=ys)
        return product
    known: dict[int, np.ndarray] = {}
    for sed in seds:
        if id(sed) not in known:
            known[id(sed)] = effective_weights(flat, sed, bandpass)
    weights = np.array([known[id(sed)] for sed in seds]).reshape(len(seds), len(flat.components))
    components = np.array([np.asarray(f(x=xs, y=ys), float) for f in flat.components])
    return np.einsum("nk,kn->n", weights, components)


def source_factors(
    flattening: Flattening, seds: Sequence[Spectrum], *, x: Any, y: Any
) -> np.ndarray:
    r"""Return what fluxes are to be multiplied by, for each source's own spectrum (full integral).

    A source of spectrum s on an image flattened for S comes out too bright by
    :math:`F_s(x, y) / F_S(x, y)`; the factor is the inverse. Dividing by it undoes the correction.

    Parameters
    ----------
    flattening : Flattening
        State of the image on which the fluxes were measured.
    seds : sequence of Spectrum, length n
        One a source.
    x, y : array_like, shape (n,)
        Pixels.

    Returns
    -------
    numpy.ndarray, shape (n,)
        Factors of fluxes and of their errors.

    Raises
    ------
    BoundsError
        If a source is outside the flat.

    Examples
    --------
    >>> from pogson.fields import Box, ChebyshevField
    >>> box = Box(0, 0, 100, 50)
    >>> flat = ChromaticFlat.from_fields(
    ...     [3000.0, 12000.0], [ChebyshevField(box, [[1.0, s]]) for s in (0.05, -0.05)])
    >>> state = Flattening(flat, Bandpass.from_speclite("decam2014-r"), Spectrum.constant_ab(20.0))
    >>> float(source_factors(state, [state.sed], x=[10.0], y=[20.0])[0])
    1.0
    """
    xs, ys = np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float))
    outside = ~np.atleast_1d(flattening.box.contains(x=xs, y=ys))
    if outside.any():
        i = int(np.flatnonzero(outside)[0])
        raise BoundsError(
            f"{int(outside.sum())} of {xs.size} sources are outside the flat's {flattening.box}, "
            f"first x={xs[i]:g}, y={ys[i]:g}."
        )
    own = flat_values(flattening.flat, seds, flattening.bandpass, x=xs, y=ys)
    return np.asarray(flattening.field()(x=xs, y=ys), float) / own


@dataclass(frozen=True)
class ColorCorrection:
    """First-order correction of fluxes for the colour of a source; made by `fit_color_correction`.

    Parameters
    ----------
    slope : Field
        Magnitudes that a source comes out too faint, per magnitude of colour, over the detector.
    reference_color : float
        Colour of the spectrum that the image is flattened for: no correction there.
    colors : tuple of str
        Names of the two bandpasses of the colour, blue first.
    largest_residual : float
        Largest difference from the full integral over the spectra and positions of the fit, mag.
    color_range : tuple of float
        Colours of the spectra used.

    Examples
    --------
    >>> from pogson.fields import Box, ConstantField
    >>> correction = ColorCorrection(ConstantField(Box(0, 0, 9, 9), 0.01), 0.5, ("g", "r"), 1e-4,
    ...                              (0.0, 1.5))
    >>> flux = correction.correct(100.0, x=4.0, y=4.0, color=1.5)
    >>> round(float(flux), 4), round(float(correction.restore(flux, x=4.0, y=4.0, color=1.5)), 9)
    (100.9253, 100.0)
    """

    slope: Field
    reference_color: float
    colors: tuple[str, str]
    largest_residual: float
    color_range: tuple[float, float]

    def factor(self, *, x: Any, y: Any, color: Any) -> Any:
        """Return what fluxes (and their errors) are to be multiplied by."""
        excess = np.asarray(color, float) - self.reference_color
        return 10.0 ** (0.4 * np.asarray(self.slope(x=x, y=y)) * excess)

    def correct(self, flux: Any, *, x: Any, y: Any, color: Any) -> Any:
        """Return fluxes as if the image were flattened for each source's own colour.

        Parameters
        ----------
        flux : array_like
            Measured fluxes (or errors), any linear unit.
        x, y : array_like
            Pixels.
        color : array_like
            Colours in the bands of `colors`, AB magnitudes.
        """
        return np.asarray(flux) * self.factor(x=x, y=y, color=color)

    def restore(self, flux: Any, *, x: Any, y: Any, color: Any) -> Any:
        """Undo `correct`."""
        return np.asarray(flux) / self.factor(x=x, y=y, color=color)


def fit_color_correction(
    flattening: Flattening,
    spectra: Sequence[Spectrum],
    color: tuple[Bandpass, Bandpass],
    *,
    order: int = 6,
    samples: int = 12,
) -> ColorCorrection:
    """Return the correction, linear in colour, that is closest to the full integral for spectra.

    Parameters
    ----------
    flattening : Flattening
        State of the image on which fluxes are measured.
    spectra : sequence of Spectrum
        Sources of the colours that occur, stellar templates for example; at least two.
    color : tuple of Bandpass
        (blue, red).
    order : int, optional
        Total order of the polynomial over the detector for the slope.
    samples : int, optional
        Positions along each axis at which the slope is fitted (at least ``order + 1``).

    Raises
    ------
    PogsonValueError
        If all spectra have one colour, or too few samples are asked for.

    Notes
    -----
    The slope at a position is the least-squares one through zero correction at the colour of the
    spectrum that the image is flattened for. How good first order is depends on flat and filter:
    see `ColorCorrection.largest_residual`, and use `source_factors` where it is too large.

    Examples
    --------
    >>> from pogson.fields import Box, ChebyshevField
    >>> from pogson.sed import stellar_template
    >>> box = Box(0, 0, 100, 50)
    >>> flat = ChromaticFlat.from_fields(
    ...     [3000.0, 12000.0], [ChebyshevField(box, [[1.0, s]]) for s in (0.05, -0.05)])
    >>> g, r = (Bandpass.from_speclite(f"decam2014-{b}") for b in "gr")
    >>> state = Flattening(flat, r, stellar_template(6000.0))
    >>> stars = [stellar_template(t) for t in (4000.0, 5000.0, 7000.0)]
    >>> fit_color_correction(state, stars, (g, r), order=2).largest_residual < 3e-4
    True
    """
    excess = np.array([synthetic_color(s, *color) for s in spectra])
    zero = synthetic_color(flattening.sed, *color)
    if excess.size < 2 or np.ptp(excess) < 1e-6:
        raise PogsonValueError(
            f"A colour correction needs spectra of at least two colours; {excess.size} were given "
            f"with a range of {np.ptp(excess) if excess.size else 0:g} mag."
        )
    if samples <= order:
        raise PogsonValueError(f"samples={samples} must be larger than order={order}.")
    box = flattening.box
    # Chebyshev nodes keep the polynomial close between the samples
    nodes = np.cos(np.pi * (np.arange(samples) + 0.5) / samples)
    x = box.x_min + 0.5 * (box.nx - 1) * (1 + nodes)
    y = box.y_min + 0.5 * (box.ny - 1) * (1 + nodes)
    xs, ys = (a.ravel() for a in np.meshgrid(x, y))
    faint = np.array(
        [2.5 * np.log10(source_factors(flattening, [s] * xs.size, x=xs, y=ys)) for s in spectra]
    )
    centered = excess - zero
    slope = centered @ faint / (centered @ centered)
    fitted = ChebyshevField.fit(box, xs, ys, slope, order=order)
    residual = faint - centered[:, None] * np.asarray(fitted(x=xs, y=ys))[None, :]
    return ColorCorrection(
        fitted,
        float(zero),
        (color[0].name, color[1].name),
        float(np.abs(residual).max()),
        (float(excess.min()), float(excess.max())),
    )
