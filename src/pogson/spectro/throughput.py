"""The response of a spectrograph from several standard stars at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from pogson.errors import CalibrationError, PogsonValueError
from pogson.spectro._shape_modes import StarShape, hat_matrix
from pogson.spectro.star_rejection import RejectionPriors

__all__ = ["ResponseConfig", "ResponseSolution", "StandardData", "solve_response"]

_LARGEST_ERROR = 0.3  # of ln(response); where it is larger nothing is known


@dataclass(frozen=True)
class ResponseConfig:
    """How the joint solution is made.

    Parameters
    ----------
    knots : sequence of int, optional
        Numbers of spline intervals tried; cross-validation chooses.
    telluric_regions : sequence of (float, float), optional
        Vacuum ranges in Angstrom where the atmosphere absorbs; the spline is not fitted there and
        a transmission is solved for pixel by pixel.
    oxygen_power, water_power : float, optional
        Optical depth grows like airmass to this power in saturated O2 bands and in H2O.
    template_scatter : float, optional
        Mismatch of one star's template (rms, fraction) expected before the stars tell.
    template_floor : float, optional
        Mismatch that all templates share, which no number of stars averages down; where
        ``template_common`` is not used.
    template_common : float, optional
        Mismatch, broad in wavelength, that all templates share before the photometry of the stars
        tells; 0 leaves the photometry to the matching of each star alone.
    zero_point_error : float, optional
        Error of the zero point of each band, magnitudes; used with ``template_common``.
    scale_floor : float, optional
        Error of the flux scale that all stars share (zero points of the photometry), fraction;
        where ``zero_point_error`` is not used.
    huber : float, optional
        Pixels further than this many sigma weigh less.
    slopes : bool, optional
        Whether each star may have a chromatic loss, from three stars on.
    rejection : RejectionPriors, optional
        How much good stars may differ.
    largest_misfit : float, optional
        Fraction of the flux by which lines may differ from the model before the star is rejected.

    Notes
    -----
    Between 3900 and 9000 Angstrom eleven CALSPEC stars of types F and G differ from the Kurucz
    models that fit them best by 0.65 % rms all alike and by 0.6 % each on its own, in bins of
    ln(wavelength) 0.04: hence the defaults.

    Examples
    --------
    >>> ResponseConfig(template_floor=0.005).template_floor
    0.005
    """

    knots: Sequence[int] = (10, 14, 20, 28, 40, 56, 80, 112, 160)
    telluric_regions: Sequence[tuple[float, float]] = ()
    oxygen_power: float = 0.55
    water_power: float = 0.65
    template_scatter: float = 0.008
    template_floor: float = 0.0065
    template_common: float = 0.008
    zero_point_error: float = 0.003
    scale_floor: float = 0.003
    huber: float = 3.0
    slopes: bool = True
    rejection: RejectionPriors = field(default_factory=RejectionPriors)
    largest_misfit: float = 0.05


@dataclass(frozen=True, eq=False)
class StandardData:
    """Counts of one standard star beside the flux it should have.

    Parameters
    ----------
    name : str
        The star.
    wavelength, counts, ivar, model : ndarray, shape (n,)
        Vacuum Angstrom; counts; inverse variance; counts expected of response 1, that is
        flux density times exposure time times pixel width (and atmosphere, if its curve is known).
    airmass : float
        Airmass.
    log_scale_error : float
        Error of ln(model) that all pixels share.
    shape_modes : ndarray, shape (k, n), optional
        Errors of ln(model), independent modes.
    misfit : float
        Fraction by which lines and model differ; see `StarMatch`.
    shape : StarShape, optional
        Photometry and what the lines leave open about the model; with it the broad shape of the
        response rests on the photometry of all stars together.

    Examples
    --------
    >>> lam = np.linspace(4000.0, 7000.0, 300)
    >>> StandardData("a", lam, np.ones(300), np.ones(300), np.ones(300)).airmass
    1.0
    """

    name: str
    wavelength: np.ndarray
    counts: np.ndarray
    ivar: np.ndarray
    model: np.ndarray
    airmass: float = 1.0
    log_scale_error: float = 0.0
    shape_modes: np.ndarray | None = None
    misfit: float = 0.0
    shape: StarShape | None = None


@dataclass(frozen=True, eq=False)
class ResponseSolution:
    r"""A smooth response, a telluric transmission and what is known about their errors.

    Counts of a star are :math:`R(\lambda)\,T(\lambda)^{q}\,a_i\,(\lambda/\lambda_0)^{b_i}` times
    the counts expected of response 1. The geometric mean of the :math:`a_i` of the stars used is
    1 and the mean of the :math:`b_i` is 0.

    Parameters
    ----------
    names : tuple of str
        Stars given.
    used : ndarray of bool, shape (n_star,)
        Which of them the solution rests on.
    reasons : tuple of str
        Why a star was rejected; empty for those used.
    log_grey, slope : ndarray, shape (n_star,)
        ln a_i and b_i; NaN for rejected stars.
    log_range : tuple of float
        First and last ln(wavelength) of the spline.
    coefficients : ndarray, shape (n_interval + 3,)
        Of the cubic B-spline on even knots in ln(wavelength), times ``unit``.
    coefficient_covariance : ndarray
        Their covariance from pixel noise.
    unit : float
        Scale of the coefficients.
    telluric_wavelength, telluric, telluric_variance : ndarray
        Transmission at ``airmass`` in the telluric regions and its noise; NaN where no star has a
        usable pixel.
    airmass : float
        Mean airmass of the stars used.
    log_scale_error : float
        Error of ln R common to all wavelengths.
    template_positions, template_log_error : ndarray
        Error of ln R from templates at knots in ln(wavelength), correlated over ``template_reach``.
    scatter : ndarray, shape (n_star, n_bin)
        Residual ln curves of the stars about the solution, and ``bins`` where.
    cross_validation : dict
        Score of every number of intervals tried.
    chi2, ndof : float, int
        Of all pixels.
    config : ResponseConfig
        How it was made.
    template_reach : float
        Of the correlation, in ln(wavelength).
    template_covariance : ndarray, shape (n_knot, n_knot), optional
        Of the template error between its knots, if known better than by that reach.
    contradiction : float, optional
        Of exactly two stars, chi-square of one given the other; more than ``rejection.odds`` means
        that one of them is wrong, and nobody can say which. NaN otherwise.

    Examples
    --------
    >>> rng = np.random.default_rng(3)
    >>> lam = np.linspace(4000.0, 7000.0, 1500)
    >>> stars = [StandardData(n, lam, a * (1 + rng.normal(0, 0.02, 1500)), np.full(1500, 2500.0),
    ...                       np.ones(1500)) for n, a in (("a", 0.9), ("b", 1.0), ("c", 1.1))]
    >>> solution = solve_response(stars)
    >>> solution.names_used, bool(abs(solution.response(5500.0) - 0.9967) < 0.01)
    (('a', 'b', 'c'), True)
    """

    names: tuple[str, ...]
    used: np.ndarray
    reasons: tuple[str, ...]
    log_grey: np.ndarray
    slope: np.ndarray
    log_range: tuple[float, float]
    coefficients: np.ndarray
    coefficient_covariance: np.ndarray
    unit: float
    telluric_wavelength: np.ndarray
    telluric: np.ndarray
    telluric_variance: np.ndarray
    airmass: float
    log_scale_error: float
    template_positions: np.ndarray
    template_log_error: np.ndarray
    bins: np.ndarray
    scatter: np.ndarray
    cross_validation: dict[int, float]
    chi2: float
    ndof: int
    config: ResponseConfig
    template_reach: float = 0.12
    template_covariance: np.ndarray | None = None
    contradiction: float = float("nan")

    @property
    def names_used(self) -> tuple[str, ...]:
        """The stars that the solution rests on."""
        return tuple(n for n, u in zip(self.names, self.used, strict=True) if u)

    @property
    def rejected(self) -> dict[str, str]:
        """The rejected stars and why."""
        return {n: r for n, r in zip(self.names, self.reasons, strict=True) if r}

    @property
    def grey_scatter(self) -> float:
        """Scatter of ln a_i: what the absolute flux of one science fibre is uncertain by."""
        a = self.log_grey[self.used]
        return float(np.std(a, ddof=1)) if a.size > 1 else float("nan")

    @cached_property
    def _spline_error(self) -> tuple[np.ndarray, np.ndarray]:
        """ln(wavelength), finer than the knots, and the noise of ln(response) without tellurics."""
        x = np.linspace(*self.log_range, 8 * (self.coefficients.size - 3) + 1)
        rows, level = self._spline_rows(x)
        variance = np.einsum("pi,ij,pj->p", rows, self.coefficient_covariance, rows)
        return x, np.sqrt(variance) / np.maximum(np.abs(level), 1e-300)

    def _spline_rows(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Basis at ln(wavelength), (n, n_coefficient), and the spline there."""
        index, value = self._basis(np.exp(x))
        dense = np.zeros((x.size, self.coefficients.size))
        np.put_along_axis(dense, index[:, None] + np.arange(4), value, axis=1)
        return dense, dense @ self.coefficients

    def _telluric_rows(self, lam: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pixels inside a region, (2, n) samples that they lie between and the shares of these."""
        pixels, between, shares = [np.zeros(0, int)], [np.zeros((2, 0), int)], [np.zeros((2, 0))]
        for low, high in self.config.telluric_regions:
            grid = self.telluric_wavelength
            inside = np.flatnonzero((grid >= low) & (grid <= high))
            pick = np.flatnonzero((lam >= low) & (lam <= high))
            if pick.size and inside.size:
                at = np.interp(lam[pick], grid[inside], np.arange(inside.size))
                left = np.floor(at).astype(int)
                pixels.append(pick)
                between.append(inside[[left, np.minimum(left + 1, inside.size - 1)]])
                shares.append(np.array([1.0 - (at - left), at - left]))
        return np.concatenate(pixels), np.hstack(between), np.hstack(shares)

    def _basis(self, wavelength: Any) -> tuple[np.ndarray, np.ndarray]:
        from pogson.spectro._match_kernels import uniform_spline

        x = np.log(np.ravel(np.asarray(wavelength, np.float64)))
        return uniform_spline(x, *self.log_range, self.coefficients.size - 3)

    def covered(self, wavelength: Any) -> np.ndarray:
        """True within the wavelengths of the stars."""
        x = np.log(np.asarray(wavelength, np.float64))
        return np.asarray((x >= self.log_range[0] - 1e-9) & (x <= self.log_range[1] + 1e-9))

    def response(self, wavelength: Any) -> np.ndarray:
        """Smooth response without telluric absorption; NaN beyond the stars and in their gaps."""
        from pogson.spectro._match_kernels import spline_values

        lam = np.asarray(wavelength, np.float64)
        value = spline_values(self.coefficients, *self._basis(lam)).reshape(lam.shape)
        known = np.array(np.interp(np.log(lam), *self._spline_error) < _LARGEST_ERROR)
        # where the transmission is known its product with the response is, whatever this is
        known.reshape(-1)[self._telluric_rows(np.ravel(lam))[0]] = True
        return np.where(self.covered(lam) & known, value * self.unit, np.nan)

    def transmission(self, wavelength: Any, airmass: float | None = None) -> np.ndarray:
        """Telluric transmission at an airmass (default: the stars' own); 1 outside the regions.

        NaN where no star tells it.
        """
        lam = np.asarray(wavelength, np.float64)
        out = np.ones(lam.shape)
        for low, high in self.config.telluric_regions:
            pick = (lam >= low) & (lam <= high)
            inside = (self.telluric_wavelength >= low) & (self.telluric_wavelength <= high)
            if pick.any() and inside.any():
                value = np.interp(
                    lam[pick], self.telluric_wavelength[inside], self.telluric[inside]
                )
                if airmass is not None and np.isfinite(airmass):
                    power = _power(0.5 * (low + high), self.config)
                    value = np.maximum(value, 1e-4) ** ((airmass / self.airmass) ** power)
                out[pick] = value
        return out

    def noise_variance(self, wavelength: Any) -> np.ndarray:
        """Variance of ln(response) from the noise of the stars' pixels.

        In telluric regions that of response times transmission, which is what the stars tell.
        """
        lam = np.ravel(np.asarray(wavelength, np.float64))
        index, value = self._basis(lam)
        columns = index[:, None] + np.arange(4)
        block = self.coefficient_covariance[columns[:, :, None], columns[:, None, :]]
        variance = np.einsum("pi,pij,pj->p", value, block, value)
        level = np.sum(self.coefficients[columns] * value, axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            out = variance / level**2
        # the stars' pixels tell the product of response and transmission, without the spline
        pixels, between, shares = self._telluric_rows(lam)
        through = np.maximum(self.transmission(lam[pixels]), 1e-3)
        out[pixels] = np.sum(shares**2 * self.telluric_variance[between], axis=0) / through**2
        return np.asarray(np.where(self.covered(lam), out, np.nan)).reshape(np.shape(wavelength))

    def template_error(self, wavelength: Any) -> np.ndarray:
        """Error of ln(response) from the models of the stars."""
        x = np.log(np.asarray(wavelength, np.float64))
        return np.interp(x, self.template_positions, self.template_log_error)

    def log_variance(
        self, wavelength: Any, components: Sequence[str] = ("noise", "scale", "template")
    ) -> np.ndarray:
        """Variance of ln(response), the sum of the components named.

        Raises
        ------
        PogsonValueError
            If a component is unknown.
        """
        out = np.zeros(np.shape(wavelength))
        for name in components:
            if name == "noise":
                out = out + self.noise_variance(wavelength)
            elif name == "scale":
                out = out + self.log_scale_error**2
            elif name == "template":
                out = out + self.template_error(wavelength) ** 2
            else:
                raise PogsonValueError(
                    f"Unknown component {name!r}; allowed: 'noise', 'scale' or 'template'."
                )
        return np.asarray(out)

    def log_covariance(
        self, wavelength: Any, components: Sequence[str] = ("noise", "scale", "template")
    ) -> np.ndarray:
        """Covariance of ln(response) between wavelengths, shape (n, n)."""
        lam = np.asarray(wavelength, np.float64)
        out = np.zeros((lam.size, lam.size))
        self.log_variance(lam, components)  # checks the names
        if "noise" in components:
            dense, level = self._spline_rows(np.log(lam))
            dense /= level[:, None]
            pixels, between, shares = self._telluric_rows(lam)
            dense[pixels] = 0.0
            out += dense @ self.coefficient_covariance @ dense.T
            through = np.maximum(self.transmission(lam[pixels]), 1e-3)
            rows = np.zeros((lam.size, self.telluric_wavelength.size))
            np.add.at(rows, (pixels, between), shares / through)
            out += (rows * self.telluric_variance) @ rows.T
        if "scale" in components:
            out += self.log_scale_error**2
        if "template" in components:
            e, x = self.template_error(lam), np.log(lam)
            if self.template_covariance is None:
                shared = np.exp(-0.5 * ((x[:, None] - x[None, :]) / self.template_reach) ** 2)
            else:
                root = np.sqrt(np.diag(self.template_covariance))
                at = hat_matrix(self.template_positions, x)
                shared = at @ (self.template_covariance / np.outer(root, root)) @ at.T
                size = np.sqrt(np.diag(shared))
                shared /= np.outer(size, size)
            out += np.outer(e, e) * shared
        return out

    def __repr__(self) -> str:
        low, high = np.exp(self.log_range)
        lost = f", rejected: {', '.join(self.rejected)}" if self.rejected else ""
        return (
            f"ResponseSolution({int(self.used.sum())} stars, {low:.0f}-{high:.0f} Angstrom, "
            f"{self.coefficients.size - 3} intervals{lost})"
        )


def _power(wavelength: float, config: ResponseConfig) -> float:
    """Power of the airmass: O2 gamma, B and A bands saturate, water less."""
    oxygen = ((6270, 6340), (6850, 6980), (7580, 7720))
    inside = any(a <= wavelength <= b for a, b in oxygen)
    return config.oxygen_power if inside else config.water_power


def solve_response(
    stars: Sequence[StandardData], config: ResponseConfig | None = None
) -> ResponseSolution:
    r"""Solve for the response of all stars together, reject those that do not belong.

    Parameters
    ----------
    stars : sequence of StandardData
        At least one.
    config : ResponseConfig, optional
        How.

    Returns
    -------
    ResponseSolution

    Raises
    ------
    CalibrationError
        If there is no star, or none with usable pixels.

    Notes
    -----
    The likelihood is that of the counts: ``counts = t * model`` is linear in the throughput t, so
    that its estimate is a ratio of sums, unbiased at any signal-to-noise, and zero and negative
    counts count. (Averages of model/counts, weighted by their propagated errors, are low by 7 % at
    S/N 5.) Inverse variances that were made from the counts themselves are freed of that
    correlation first. Stars are weighted as noise plus template mismatch require, so that one
    bright star does not rule. Grey losses, slopes, spline and transmission are solved in turn,
    with Huber weights for pixels; the number of knots is the one that predicts left-out stars best
    (with fewer than three stars, left-out blocks of pixels).

    If every star brings its photometry (`StandardData.shape`), the broad shape of the response is
    then solved anew, together with what is uncertain about the models: the parameters of each star
    as its lines leave them, a broad mismatch of its own and one that all models share. Bands of all
    stars together tell the latter from the response.

    Examples
    --------
    See `ResponseSolution`.

    >>> solve_response([])
    Traceback (most recent call last):
    pogson.errors.CalibrationError: No standard star was given; ...
    """
    from pogson.spectro._response_fit import JointFit

    if not stars:
        raise CalibrationError("No standard star was given; at least one is needed.")
    twice = [s.name for s in stars if [t.name for t in stars].count(s.name) > 1]
    if twice:
        raise PogsonValueError(f"The star {twice[0]!r} is given twice; names must differ.")
    return JointFit(stars, config or ResponseConfig()).solve()
