r"""What a star's spectrum does to its magnitude when the passband changes.

Within a passband the spectrum of a star, per unit frequency, is a sum of a few functions,
:math:`f_\nu(\lambda) \propto \sum_k c_k \phi_k(\lambda)`; every flux through every atmosphere is
then the same sum of integrals :math:`J_k = \int \phi_k S\,T\,d\lambda/\lambda`. With two functions,
one and the distance from the centre of the band, that is the first-order correction of Burke et al.
(2018, AJ 155, 41) with their integrals I0 and I1; with more, the full integral to any accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pogson.errors import PogsonValueError, choices
from pogson.sed import Bandpass, Spectrum, synthetic_color

__all__ = ["ColorSeds", "SedBasis", "StarSeds", "first_order_correction"]

_UNIT = 1000.0  # Angstrom: slopes are per this


def _grid(bandpasses: Sequence[Bandpass], step: float) -> np.ndarray:
    low = min(b.wavelength_range[0] for b in bandpasses)
    high = max(b.wavelength_range[1] for b in bandpasses)
    n = max(int(np.ceil((high - low) / step)), 8)
    return np.linspace(low, high, n + 1)


def _weights(lam: np.ndarray, bandpass: Bandpass) -> np.ndarray:
    """Return S(lambda) d lambda / lambda^p on an even grid (midpoint-free trapezoid rule)."""
    power = 1 if bandpass.detector == "photon" else 2
    w = np.full(lam.size, lam[1] - lam[0])
    w[[0, -1]] *= 0.5
    return np.asarray(w * bandpass.evaluate(lam) / lam**power)


@dataclass(frozen=True, eq=False)
class SedBasis:
    """Functions of which the spectra of stars are made within one filter.

    Parameters
    ----------
    wavelength : numpy.ndarray, shape (m,)
        Even grid, vacuum Angstrom.
    functions : numpy.ndarray, shape (K, m)
        Flux density per unit frequency, to a factor that is the same for all.

    Examples
    --------
    >>> band = Bandpass("b", [4000.0, 4100.0, 5000.0, 5100.0], [0.0, 1.0, 1.0, 0.0])
    >>> SedBasis.first_order(band).functions.shape
    (2, 221)
    """

    wavelength: np.ndarray
    functions: np.ndarray

    @classmethod
    def first_order(cls, bandpass: Bandpass | Sequence[Bandpass], *, step: float = 5.0) -> SedBasis:
        """Return one and the distance from the pivot wavelength in units of 1000 Angstrom.

        Parameters
        ----------
        bandpass : Bandpass or sequence of Bandpass
            The filter (of each detector).
        step : float
            Step of the grid, Angstrom.
        """
        bands = [bandpass] if isinstance(bandpass, Bandpass) else list(bandpass)
        lam = _grid(bands, step)
        center = np.mean([b.pivot_wavelength for b in bands])
        return cls(lam, np.stack([np.ones(lam.size), (lam - center) / _UNIT]))

    @classmethod
    def from_spectra(
        cls,
        spectra: Sequence[Spectrum],
        bandpass: Bandpass | Sequence[Bandpass],
        *,
        tolerance: float = 1e-5,
        step: float = 5.0,
    ) -> SedBasis:
        """Return the fewest functions that represent all of some spectra.

        Parameters
        ----------
        spectra : sequence of Spectrum
            Spectra that cover the filter.
        bandpass : Bandpass or sequence of Bandpass
            The filter (of each detector).
        tolerance : float
            Largest rms error of a spectrum in the band, relative.
        step : float
            Step of the grid, Angstrom.

        Examples
        --------
        >>> from pogson.sed import stellar_template
        >>> stars = [stellar_template(t) for t in (4500.0, 5500.0, 7000.0, 9000.0)]
        >>> band = Bandpass("b", [4000.0, 4100.0, 5000.0, 5100.0], [0.0, 1.0, 1.0, 0.0])
        >>> SedBasis.from_spectra(stars, band, tolerance=0.01).functions.shape[0] <= 4
        True
        """
        bands = [bandpass] if isinstance(bandpass, Bandpass) else list(bandpass)
        lam = _grid(bands, step)
        f = _shapes(spectra, lam)
        w = np.sqrt(sum(_weights(lam, b) for b in bands))
        f = f / np.sqrt(np.mean((f * w) ** 2, axis=1) / np.mean(w * w))[:, None]
        _, s, v = np.linalg.svd(f * w, full_matrices=False)
        scale = np.sqrt(lam.size * np.mean(w * w))
        rest = np.sqrt(np.append(np.cumsum(s[::-1] ** 2)[::-1][1:], 0.0))
        k = int(np.argmax(rest <= tolerance * scale)) + 1
        inside = w > 1e-6 * w.max()
        functions = np.where(inside, v[:k] / np.where(inside, w, 1.0), 0.0)
        return cls(lam, functions * scale)

    @property
    def size(self) -> int:
        """Number of functions."""
        return int(self.functions.shape[0])

    def weights(self, bandpass: Bandpass) -> np.ndarray:
        """Return functions times response for sums over the grid, shape (K, m)."""
        return self.functions * _weights(self.wavelength, bandpass)

    def coefficients(self, spectra: Sequence[Spectrum], bandpass: Bandpass) -> np.ndarray:
        """Return the best coefficients of spectra, shape (n, K), normalised to unit mean flux.

        Parameters
        ----------
        spectra : sequence of Spectrum
            Spectra that cover the filter.
        bandpass : Bandpass
            Weight of the fit.
        """
        w = _weights(self.wavelength, bandpass)
        f = _shapes(spectra, self.wavelength)
        f = f / (f @ w / w.sum())[:, None]
        root = np.sqrt(w)
        c = np.linalg.lstsq((self.functions * root).T, (f * root).T, rcond=None)[0].T
        return np.asarray(c)


def _shapes(spectra: Sequence[Spectrum], lam: np.ndarray) -> np.ndarray:
    """Return f_nu of spectra on a grid, to a factor each."""
    out = np.array([np.asarray(s.evaluate(lam), np.float64) * lam**2 for s in spectra])
    if not np.isfinite(out).all() or np.any(out.max(axis=1) <= 0):
        bad = [s.name for s, f in zip(spectra, out, strict=True) if not np.isfinite(f).all()]
        raise PogsonValueError(
            f"Spectra {bad[:5]} do not cover {lam[0]:g}-{lam[-1]:g} Angstrom or have no flux there."
        )
    return out / out.max(axis=1, keepdims=True)


@dataclass(frozen=True, eq=False)
class ColorSeds:
    """Spectra that follow from a star's colour, along a sequence of spectra.

    Parameters
    ----------
    bases : tuple of SedBasis
        One a filter (row of the exposure table's filter).
    color : numpy.ndarray, shape (s,)
        Colours of the sequence, increasing, as in `Stars.color`.
    nodes : tuple of numpy.ndarray, shape (s, K)
        Coefficients along the sequence, one array a filter.

    Notes
    -----
    Between the colours of the sequence coefficients are interpolated by a monotone cubic; beyond
    its ends they stay what they are there. Stars without colour have no spectrum, and their
    detections are flagged ``MISSING_INPUT``.

    Examples
    --------
    >>> from pogson.sed import stellar_template
    >>> bands = [Bandpass("b", [4000.0, 4100.0, 5000.0, 5100.0], [0.0, 1.0, 1.0, 0.0]),
    ...          Bandpass("r", [6000.0, 6100.0, 7000.0, 7100.0], [0.0, 1.0, 1.0, 0.0])]
    >>> stars = [stellar_template(t) for t in (4500.0, 5500.0, 7000.0, 9000.0)]
    >>> seds = ColorSeds.from_spectra(stars, bands, color=(bands[0], bands[1]))
    >>> seds.coefficients(np.array([0, 1]), np.array([0.0, 0.5])).shape
    (2, 2)
    """

    bases: tuple[SedBasis, ...]
    color: np.ndarray
    nodes: tuple[np.ndarray, ...]

    @classmethod
    def from_spectra(
        cls,
        spectra: Sequence[Spectrum],
        bandpasses: Sequence[Bandpass | Sequence[Bandpass]],
        *,
        color: tuple[Bandpass, Bandpass],
        order: str = "first",
        tolerance: float = 1e-4,
    ) -> ColorSeds:
        """Make it from a sequence of spectra, such as stars of all temperatures.

        Parameters
        ----------
        spectra : sequence of Spectrum
            At least two, of different colours.
        bandpasses : sequence of Bandpass
            One a filter (or one a detector of it).
        color : tuple of Bandpass
            Blue and red passband of `Stars.color`.
        order : {"first", "full"}
            The slope only, or as many functions as the tolerance demands.
        tolerance : float
            Of the full representation.

        Raises
        ------
        PogsonValueError
            If two spectra have the same colour or the order is unknown.
        """
        if order not in ("first", "full"):
            raise PogsonValueError(f"order is {order!r}; allowed: {choices(('first', 'full'))}.")
        c = np.array([synthetic_color(s, *color) for s in spectra])
        rank = np.argsort(c)
        spectra, c = [spectra[i] for i in rank], c[rank]
        if c.size < 2 or np.any(np.diff(c) <= 1e-6):
            raise PogsonValueError(
                f"{c.size} spectra of colours {c[0]:.3f} to {c[-1]:.3f} do not make a sequence; at "
                "least two are needed, all of different colours."
            )
        bases, nodes = [], []
        for band in bandpasses:
            bands = [band] if isinstance(band, Bandpass) else list(band)
            basis = (
                SedBasis.first_order(bands)
                if order == "first"
                else SedBasis.from_spectra(spectra, bands, tolerance=tolerance)
            )
            bases.append(basis)
            nodes.append(basis.coefficients(spectra, bands[0]))
        return cls(tuple(bases), c, tuple(nodes))

    def coefficients(self, filter: np.ndarray, color: np.ndarray) -> np.ndarray:
        """Return coefficients of stars, shape (n, K), NaN where the colour is unknown.

        Parameters
        ----------
        filter : numpy.ndarray of int, shape (n,)
            Filter of each star.
        color : numpy.ndarray, shape (n,)
            Colour of each star.
        """
        from scipy.interpolate import PchipInterpolator

        filter, color = np.asarray(filter), np.asarray(color, np.float64)
        out = np.zeros((filter.size, max(b.size for b in self.bases)))
        inside = np.clip(color, self.color[0], self.color[-1])
        for f, nodes in enumerate(self.nodes):
            rows = np.flatnonzero(filter == f)
            if rows.size:
                out[rows, : nodes.shape[1]] = PchipInterpolator(self.color, nodes)(inside[rows])
        out[~np.isfinite(color)] = np.nan
        return out


@dataclass(frozen=True, eq=False)
class StarSeds:
    """Spectra given star by star.

    Parameters
    ----------
    bases : tuple of SedBasis
        One a filter.
    values : numpy.ndarray, shape (stars, K)
        Coefficients of each row of the table of stars, in its own filter's basis.

    Examples
    --------
    >>> band = Bandpass("b", [4000.0, 4100.0, 5000.0, 5100.0], [0.0, 1.0, 1.0, 0.0])
    >>> slopes = StarSeds((SedBasis.first_order(band),), np.array([[1.0, 0.2], [1.0, -0.1]]))
    >>> slopes.values.shape
    (2, 2)
    """

    bases: tuple[SedBasis, ...]
    values: np.ndarray

    @classmethod
    def from_spectra(
        cls,
        spectra: Sequence[Spectrum],
        which: Any,
        filter: Any,
        bandpasses: Sequence[Bandpass],
        *,
        tolerance: float = 1e-6,
    ) -> StarSeds:
        """Make it from spectra and the number of the spectrum of each star.

        Parameters
        ----------
        spectra : sequence of Spectrum
            Spectra.
        which, filter : array_like of int, shape (stars,)
            Spectrum and filter of each star.
        bandpasses : sequence of Bandpass
            One a filter.
        tolerance : float
            Of the representation.
        """
        which, filter = np.asarray(which), np.asarray(filter)
        bases = tuple(SedBasis.from_spectra(spectra, b, tolerance=tolerance) for b in bandpasses)
        out = np.zeros((which.size, max(b.size for b in bases)))
        for f, (basis, band) in enumerate(zip(bases, bandpasses, strict=True)):
            rows = np.flatnonzero(filter == f)
            out[rows, : basis.size] = basis.coefficients(spectra, band)[which[rows]]
        return cls(bases, out)

    @classmethod
    def from_colors(
        cls,
        spectra: Sequence[Spectrum],
        color_bandpasses: Sequence[tuple[Bandpass, Bandpass]],
        colors: Any,
        filter: Any,
        bandpasses: Sequence[Bandpass | Sequence[Bandpass]],
        *,
        order: str = "full",
        tolerance: float = 1e-3,
    ) -> StarSeds:
        """Make it from several colours of each star, such as of a reference catalogue.

        One colour cannot tell a cool star from a reddened one; two or three can.

        Parameters
        ----------
        spectra : sequence of Spectrum
            Spectra of all kinds of stars there are, reddened as they may be.
        color_bandpasses : sequence of tuple of Bandpass
            Blue and red passband of each colour.
        colors : array_like, shape (stars, colours)
            Colours of each star; NaN: its spectrum is unknown.
        filter : array_like of int, shape (stars,)
            Filter of each star.
        bandpasses : sequence of Bandpass
            One a filter (or one a detector of it).
        order : {"first", "full"}
            As in `ColorSeds`.
        tolerance : float
            Of the full representation.

        Notes
        -----
        Coefficients are quadratic polynomials of the colours (cubic in each single one), fitted to
        the given spectra; colours beyond those of the spectra are taken as at the limit.

        Examples
        --------
        >>> from pogson.sed import stellar_template
        >>> b, r = (Bandpass(n, [x, x + 100, x + 900, x + 1000], [0.0, 1.0, 1.0, 0.0])
        ...         for n, x in (("b", 4000.0), ("r", 6000.0)))
        >>> stars = [stellar_template(t) for t in (4000, 4500, 5000, 6000, 7000, 9000)]
        >>> StarSeds.from_colors(stars, [(b, r)], [[0.0], [1.0]], [0, 1], [b, r]).values.shape[0]
        2
        """
        colors, filter = np.atleast_2d(np.asarray(colors, np.float64)), np.asarray(filter)
        known = np.array(
            [[synthetic_color(s, *c) for c in color_bandpasses] for s in spectra], np.float64
        )
        if colors.shape != (filter.size, known.shape[1]):
            raise PogsonValueError(
                f"Colours have shape {colors.shape}; they must be {(filter.size, known.shape[1])}."
            )
        low, high = known.min(axis=0), known.max(axis=0)
        design = _powers((known - low) / (high - low))
        at = _powers((np.clip(colors, low, high) - low) / (high - low))
        bases, parts = [], []
        for one in bandpasses:
            bands = [one] if isinstance(one, Bandpass) else list(one)
            basis = (
                SedBasis.first_order(bands)
                if order == "first"
                else SedBasis.from_spectra(spectra, bands, tolerance=tolerance)
            )
            target = basis.coefficients(spectra, bands[0])
            bases.append(basis)
            parts.append(np.linalg.lstsq(design, target, rcond=1e-6)[0])
        out = np.zeros((filter.size, max(b.size for b in bases)))
        for f, (basis, part) in enumerate(zip(bases, parts, strict=True)):
            rows = np.flatnonzero(filter == f)
            out[rows, : basis.size] = at[rows] @ part
        return cls(tuple(bases), out)

    def coefficients(self, filter: np.ndarray, color: np.ndarray) -> np.ndarray:
        """Return the coefficients as given; filter and colour have no effect.

        Raises
        ------
        PogsonValueError
            If there is not one row a star.
        """
        if self.values.shape[0] != np.size(filter):
            raise PogsonValueError(
                f"Spectra of {self.values.shape[0]} stars for {np.size(filter)} stars."
            )
        return self.values


def _powers(c: np.ndarray) -> np.ndarray:
    """Return all products of up to two colours, and the cube of each."""
    n = c.shape[1]
    columns = [np.ones(c.shape[0]), *c.T, *(c**3).T]
    columns += [c[:, i] * c[:, j] for i in range(n) for j in range(i, n)]
    return np.stack(columns, axis=1)


def first_order_correction(slope: Any, integrals: Any, standard_integrals: Any) -> np.ndarray:
    r"""Return the chromatic correction of a magnitude to first order.

    Parameters
    ----------
    slope : array_like
        Relative slope F' of the star's flux density per frequency at the centre of the band, per
        1000 Angstrom.
    integrals, standard_integrals : array_like, shape (..., 2)
        I0 and I1 of the passband of the observation and of the standard one.

    Returns
    -------
    correction : numpy.ndarray
        Magnitudes to add to one that is calibrated for a star without slope:
        :math:`2.5 \log_{10} [(1 + F' I_{10}^{obs}) / (1 + F' I_{10}^{std})]`.

    Notes
    -----
    Burke et al. (2018, AJ 155, 41).

    Examples
    --------
    >>> round(float(first_order_correction(0.5, [1.0, 0.02], [1.0, 0.0])), 5)
    0.0108
    """
    f = np.asarray(slope, np.float64)
    i, s = (np.asarray(v, np.float64) for v in (integrals, standard_integrals))
    ratio = (1 + f * i[..., 1] / i[..., 0]) / (1 + f * s[..., 1] / s[..., 0])
    return np.asarray(2.5 * np.log10(ratio))
