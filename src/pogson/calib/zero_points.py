r"""Zero points: a robust fit of instrumental to reference fluxes.

Every star gives :math:`C_i f_i = F_i\,10^{-0.4 k (c_i - c_0)}` with the calibration
:math:`C = 10^{-0.4 (Z - 31.4)}`, a zero point :math:`Z(x, y)` that is constant or a Chebyshev
series in magnitudes, and the slope *k* of a colour term. The fit works on fluxes: see the notes of
`fit_zero_point`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import astropy.units as u
import numpy as np

from pogson.calib._zero_point_model import Model, Solution, solve_robust
from pogson.calib.color_terms import ColorTerm
from pogson.calib.covariance import ParameterCovariance
from pogson.calib.photo_calib import EVERYWHERE, PhotoCalib
from pogson.calib.reference import FluxReference
from pogson.calib.stars import Stars, StarStatus, count_status, prepare_stars
from pogson.errors import CalibrationError, MissingDataError, PogsonValueError
from pogson.fields import Box, ChebyshevField, ConstantField, Field
from pogson.units import NJY_AB_MAGNITUDE, Measure, parse_unit

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["StarStatus", "ZeroPointFit", "fit_zero_point"]

_LN = 0.4 * np.log(10.0)
DEFAULT_SCATTER_PRIOR = 0.05
"""Scale in magnitudes of the weak prior on the intrinsic scatter."""


@dataclass(frozen=True, eq=False)
class ZeroPointFit:
    """Result of `fit_zero_point`; arrays have one entry for every star given, in that order.

    Parameters
    ----------
    photo_calib : PhotoCalib
        The calibration, with its parameter covariance.
    parameters : mapping of str to float
        Magnitudes: "zero_point" (the constant term), "zero_point_x1_y0" ... (Chebyshev
        coefficients of the zero point) and "color_slope".
    covariance : ParameterCovariance
        Their covariance, marginalised over the intrinsic scatter.
    intrinsic_scatter, intrinsic_scatter_err : float
        Scatter in magnitudes beyond the known errors, by restricted maximum likelihood.
    color_term : ColorTerm or None
        Reference band to instrumental band, fixed or fitted.
    residuals : numpy.ndarray
        Calibrated minus reference flux in units of the star's flux, as magnitudes (positive: the
        star came out too faint); NaN where it cannot be said.
    residual_errors : numpy.ndarray
        Their standard errors, intrinsic scatter included.
    pulls : numpy.ndarray
        Residuals over their errors, the fit's own freedom taken into account.
    status : numpy.ndarray of int
        `StarStatus` of every star.
    chi2 : float
        Sum of squared residuals over errors (with intrinsic scatter) of the stars used.
    chi2_known : float
        The same with the known errors alone.
    n_used : int
        Stars used.
    degrees_of_freedom : int
        Stars used less free parameters.
    scatter_posterior : tuple of numpy.ndarray
        Values of the scatter, their weights, and the zero point and its error at each: the
        mixture behind `zero_point_interval`.

    Examples
    --------
    >>> import numpy as np
    >>> from pogson.calib import FluxReference, StarStatus
    >>> ref = np.geomspace(1e4, 1e6, 20)
    >>> counts = ref / 50.0
    >>> counts[3] *= 2.0
    >>> fit = fit_zero_point(counts, 0.01 * counts, ref, 0.01 * ref,
    ...                      reference=FluxReference.aperture(12))
    >>> fit.n_used, StarStatus(int(fit.status[3])).name, round(fit.zero_point, 3)
    (19, 'OUTLIER', 27.153)
    """

    photo_calib: PhotoCalib
    parameters: Mapping[str, float]
    covariance: ParameterCovariance
    intrinsic_scatter: float
    intrinsic_scatter_err: float
    color_term: ColorTerm | None
    residuals: np.ndarray
    residual_errors: np.ndarray
    pulls: np.ndarray
    status: np.ndarray
    chi2: float
    chi2_known: float
    n_used: int
    degrees_of_freedom: int
    scatter_posterior: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]

    @property
    def zero_point(self) -> float:
        """Constant term of the zero point: AB magnitude of one instrumental unit."""
        return self.parameters["zero_point"]

    @property
    def zero_point_err(self) -> float:
        """Standard error of `zero_point`."""
        return self.covariance.error("zero_point")

    @property
    def used(self) -> np.ndarray:
        """Whether each star is in the fit."""
        return self.status == StarStatus.USED

    def zero_point_interval(self, probability: float = 0.6827) -> tuple[float, float]:
        """Central interval of the zero point.

        Parameters
        ----------
        probability : float
            Probability content, between 0 and 1.

        Returns
        -------
        low, high : float
            Magnitudes. Quantiles of the mixture over the intrinsic scatter, which for few stars
            has heavy tails: wider than a normal distribution with `zero_point_err` far out.
        """
        from scipy.optimize import brentq
        from scipy.stats import norm

        if not 0 < probability < 1:
            raise PogsonValueError(f"probability {probability!r} must be between 0 and 1.")
        _, weights, centers, errors = self.scatter_posterior
        span = 60.0 * errors.max() + np.ptp(centers)

        def quantile(q: float) -> float:
            def excess(z: float) -> float:
                return float(weights @ norm.cdf((z - centers) / errors)) - q

            return float(brentq(excess, centers.min() - span, centers.max() + span, xtol=1e-10))

        return quantile(0.5 - probability / 2), quantile(0.5 + probability / 2)

    def counts(self) -> dict[str, int]:
        """Return the number of stars of each status."""
        return count_status(self.status)

    def summary(self) -> str:
        """Return the result in a few lines of words and numbers."""
        lines = [
            f"zero point {self.zero_point:.4f} +- {self.zero_point_err:.4f} mag (AB, per "
            f"{self.photo_calib.instrument_unit}, flux reference "
            f"'{self.photo_calib.reference.label}')",
            f"intrinsic scatter {1e3 * self.intrinsic_scatter:.1f} +- "
            f"{1e3 * self.intrinsic_scatter_err:.1f} mmag",
            f"chi2 {self.chi2:.1f} for {self.degrees_of_freedom} degrees of freedom "
            f"({self.chi2_known:.1f} with the known errors alone)",
            "stars: " + ", ".join(f"{n} {name}" for name, n in self.counts().items()),
        ]
        for name, value in self.parameters.items():
            if name != "zero_point":
                lines.insert(1, f"{name} {value:.4f} +- {self.covariance.error(name):.4f} mag")
        return "\n".join(lines)

    def table(self) -> Table:
        """Return residuals, errors, pulls and status name of every star as a table."""
        from astropy.table import Table

        return Table(
            {
                "residual": self.residuals * u.mag,
                "residual_err": self.residual_errors * u.mag,
                "pull": self.pulls,
                "status": [StarStatus(s).name for s in self.status],
            }
        )


def fit_zero_point(
    inst_flux: Any,
    inst_flux_err: Any,
    ref_flux: Any,
    ref_flux_err: Any = None,
    *,
    reference: FluxReference,
    measure: Measure | str = Measure.FLUENCE,
    unit: Any = "adu",
    x: Any = None,
    y: Any = None,
    box: Box | None = None,
    order: int = 0,
    color: Any = None,
    color_err: Any = None,
    color_term: ColorTerm | str | None = None,
    color_pivot: float | None = None,
    color_range: tuple[float, float] | None = None,
    saturated: Any = None,
    flagged: Any = None,
    ids: Any = None,
    min_snr: float = 5.0,
    clip: float | None = 4.0,
    intrinsic_scatter: float | None = None,
    scatter_prior: float = DEFAULT_SCATTER_PRIOR,
    prior: Mapping[str, tuple[float, float]] | None = None,
    bandpass: str | None = None,
    sed: str | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> ZeroPointFit:
    r"""Fit the calibration of instrumental fluxes to reference fluxes of the same stars.

    Parameters
    ----------
    inst_flux, inst_flux_err : array_like or Quantity, shape (n,)
        Measured fluxes and their errors in ``unit``; may be negative.
    ref_flux, ref_flux_err : array_like or Quantity, shape (n,)
        Reference flux densities and errors, nJy. Errors are 0 if not given.
    reference : FluxReference
        What the measured fluxes count; the calibration will apply to such fluxes only.
    measure : Measure or str
        Measure of the image they were measured on.
    unit : unit-like
        Unit of the measured fluxes.
    x, y : array_like, shape (n,), optional
        Positions in pixels (0-based, pixel centres on integers); needed if ``order > 0``.
    box : Box, optional
        Detector; needed if ``order > 0``. A constant holds everywhere if it is not given.
    order : int
        Total order of the Chebyshev series of the zero point; 0: constant.
    color, color_err : array_like, shape (n,), optional
        Colours in the reference system and their errors, magnitudes.
    color_term : ColorTerm or "fit", optional
        Term from the reference band to the instrument's band: given, or a slope fitted here.
    color_pivot : float, optional
        Colour at which a fitted slope has no effect; by default the median of the usable stars,
        rounded to 0.01.
    color_range : tuple of 2 floats, optional
        Colours to use.
    saturated, flagged : array_like of bool, shape (n,), optional
        Stars not to use.
    ids : array_like, shape (n,), optional
        Identifiers in the reference catalogue; stars that share one are not used.
    min_snr : float
        Least S/N, of the reference flux and of the measured flux *expected* from it. Cutting on
        the S/N measured would keep the faint stars that noise made brighter.
    clip : float or None
        Stars are outliers beyond the residual that has the two-sided probability of ``clip``
        standard deviations of a normal distribution; with few stars, whose scatter is uncertain,
        of Student's t. None: keep all.
    intrinsic_scatter : float, optional
        Known intrinsic scatter in magnitudes; fitted by default.
    scatter_prior : float
        Scale in magnitudes of the weak prior :math:`1/(1+(s/s_0)^2)` on the scatter. It matters
        for a handful of stars only.
    prior : mapping of str to (value, error), optional
        Gaussian priors on parameters by name, for example ``{"zero_point": (25.1, 0.02)}``.
    bandpass, sed : str, optional
        Names that the calibration carries.
    provenance : mapping, optional
        Further provenance of the calibration; JSON values.

    Returns
    -------
    fit : ZeroPointFit

    Raises
    ------
    MaskedDataError
        If no star is left; the message counts the reasons.
    CalibrationError
        If there are more parameters than stars, or the stars do not determine them.
    MissingDataError
        If positions or colours are needed and not given.

    Notes
    -----
    *No low-S/N bias.* Logarithms of noisy fluxes are biased by :math:`-\sigma^2/2f^2`, and errors
    as a fraction of the measured flux favour the upward fluctuations. Here the residual
    :math:`r = F - C f` is linear in both fluxes, and stars are weighted with their true flux,
    estimated by the combination :math:`\hat T` of :math:`F` and :math:`C f` with inverse variances.
    :math:`\hat T` and *r* are independent for normal errors, so that :math:`\sum r \hat T / v = 0`
    is unbiased (it is the maximum likelihood of the functional errors-in-variables model; York et
    al. 2004, Am. J. Phys. 72, 367). Colours with errors are treated alike.

    *Intrinsic scatter* is relative, shared half and half between the two fluxes, and fitted by
    restricted maximum likelihood; the covariance of the parameters is marginalised over it
    (`pogson.calib.scatter`).

    *Outliers*: the fit starts from the half of the stars nearest to a least-absolute-value fit
    and takes stars in until nothing changes, so that gross outliers never set the scale.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(1)
    >>> ref = 10.0 ** rng.uniform(4, 6, 200)
    >>> err = np.full(200, 100.0)
    >>> counts = ref / 50.0 + rng.normal(0, err)
    >>> fit = fit_zero_point(counts, err, ref, 0.01 * ref, reference=FluxReference.aperture(12))
    >>> abs(fit.zero_point - 27.1526) < 4 * fit.zero_point_err
    True
    """
    fixed_term, fit_color = _color_options(color_term, color)
    box = EVERYWHERE if box is None else box
    _check_options(order, x, y, box, min_snr, clip, intrinsic_scatter, scatter_prior)
    if fixed_term is not None:
        color_range = _overlap(fixed_term.color_range, color_range)
    stars = prepare_stars(
        inst_flux, inst_flux_err, ref_flux, ref_flux_err, unit=unit, x=x, y=y,
        box=None if box == EVERYWHERE else box, color=color, color_err=color_err,
        color_range=color_range,
        use_color=color is not None and (fit_color or fixed_term or color_range) is not None,
        saturated=saturated, flagged=flagged, ids=ids,
    )  # fmt: skip
    if fixed_term is not None:
        stars = _apply_color_term(stars, fixed_term)
    if color_pivot is None:
        good = stars.color[stars.status == StarStatus.USED]
        color_pivot = round(float(np.median(good)), 2) if fit_color and good.size else 0.0
    model = Model.make(box, order, fit_color, float(color_pivot), prior)
    solution = solve_robust(
        model, stars, min_snr=min_snr, clip=clip, fixed_scatter=intrinsic_scatter,
        scatter_prior=scatter_prior,
    )  # fmt: skip
    term = _fitted_term(model, solution, color_range) if fit_color else fixed_term
    attributes = {
        "measure": measure,
        "reference": reference,
        "bandpass": bandpass,
        "sed": sed,
        "provenance": _provenance(solution, term) | dict(provenance or {}),
    }
    return _result(model, solution, term, attributes, u.nJy / parse_unit(unit))


def _fitted_term(
    model: Model, solution: Solution, color_range: tuple[float, float] | None
) -> ColorTerm:
    return ColorTerm(
        (0.0, float(solution.parameters[-1])),
        pivot=model.pivot,
        color_range=color_range or (-np.inf, np.inf),
        citation="fitted here",
    )


def _provenance(solution: Solution, term: ColorTerm | None) -> dict[str, Any]:
    return {
        "method": "fit_zero_point",
        "n_used": int(solution.used.sum()),
        "n_stars": int(solution.used.size),
        "intrinsic_scatter_mag": float(solution.scatter.scatter),
        "color_term": None if term is None else term.to_dict(),
    }


def _color_options(color_term: Any, color: Any) -> tuple[ColorTerm | None, bool]:
    if color_term is not None and color is None:
        raise MissingDataError("A colour term needs the stars' colours: pass color=.")
    if color_term is None or isinstance(color_term, ColorTerm):
        return color_term, False
    if color_term != "fit":
        raise PogsonValueError(
            f"color_term must be a ColorTerm, 'fit' or None, not {color_term!r}."
        )
    return None, True


def _check_options(
    order: int,
    x: Any,
    y: Any,
    box: Box,
    min_snr: float,
    clip: float | None,
    scatter: float | None,
    scatter_prior: float,
) -> None:
    if int(order) != order or not 0 <= order <= 10:
        raise PogsonValueError(f"order {order!r} must be a whole number from 0 to 10.")
    if order > 0 and (x is None or y is None or box == EVERYWHERE):
        raise MissingDataError(
            f"A zero point of order {order} over the detector needs x=, y= and box=."
        )
    if not min_snr >= 0:
        raise PogsonValueError(f"min_snr {min_snr!r} must not be negative.")
    if clip is not None and not clip > 1:
        raise PogsonValueError(f"clip {clip!r} must be above 1 (standard deviations), or None.")
    if scatter is not None and not (np.isfinite(scatter) and scatter >= 0):
        raise PogsonValueError(f"intrinsic_scatter {scatter!r} must not be negative.")
    if not scatter_prior > 0:
        raise PogsonValueError(f"scatter_prior {scatter_prior!r} must be positive magnitudes.")


def _overlap(a: tuple[float, float], b: tuple[float, float] | None) -> tuple[float, float]:
    return a if b is None else (max(a[0], b[0]), min(a[1], b[1]))


def _apply_color_term(stars: Stars, term: ColorTerm) -> Stars:
    """Return the stars with reference fluxes in the instrument's band."""
    factor = 10.0 ** (-0.4 * term.correction(stars.color))
    slope_err = _LN * term.slope(stars.color) * stars.color_err
    ref = stars.ref * factor
    ref_err = np.hypot(stars.ref_err * factor, ref * slope_err)
    good = stars.status == StarStatus.USED
    values = {name: getattr(stars, name) for name in stars.__dataclass_fields__}
    values |= {
        "ref": np.where(good, ref, stars.ref),
        "ref_err": np.where(good, ref_err, stars.ref_err),
        "color_err": np.zeros(len(stars)),
    }
    return Stars(**values)


def _result(
    model: Model,
    solution: Solution,
    term: ColorTerm | None,
    attributes: dict[str, Any],
    unit: u.UnitBase,
) -> ZeroPointFit:
    """Pack the solution."""
    n_used = int(solution.used.sum())
    dof = n_used - len(model.names) + len(model.prior_names)
    scatter = solution.scatter
    covariance = ParameterCovariance(
        model.names,
        scatter.covariance,
        model.terms(),
        float(dof) if scatter.weights.size > 1 and dof > 0 else np.inf,
    )
    parameters = {name: float(v) for name, v in zip(model.names, solution.parameters, strict=True)}
    calib = PhotoCalib(
        _calibration_field(model, solution.parameters, unit), covariance=covariance, **attributes
    )
    for array in (solution.residuals, solution.errors, solution.pulls, solution.status):
        array.flags.writeable = False
    return ZeroPointFit(
        photo_calib=calib,
        parameters=parameters,
        covariance=covariance,
        intrinsic_scatter=scatter.scatter,
        intrinsic_scatter_err=scatter.scatter_err,
        color_term=term,
        residuals=solution.residuals,
        residual_errors=solution.errors,
        pulls=solution.pulls,
        status=solution.status,
        chi2=solution.chi2,
        chi2_known=solution.chi2_known,
        n_used=n_used,
        degrees_of_freedom=dof,
        scatter_posterior=(
            scatter.grid,
            scatter.weights,
            scatter.grid_parameters[:, 0],
            np.sqrt(scatter.grid_covariance[:, 0, 0]),
        ),
    )


def _calibration_field(model: Model, parameters: np.ndarray, unit: u.UnitBase) -> Field:
    """Return 10**(-0.4 (Z - 31.4)) as a field; Chebyshev to rounding when it varies."""
    if model.order == 0:
        value = 10.0 ** (-0.4 * (parameters[0] - NJY_AB_MAGNITUDE))
        return ConstantField(model.box, float(value), unit)
    zero_point = model.zero_point_field(parameters)
    for degree in (model.order + 4, model.order + 10, 2 * model.order + 20, 60):
        field = _exponential(zero_point, degree, unit)
        x, y = _check_points(model.box)
        exact = 10.0 ** (-0.4 * (zero_point(x=x, y=y) - NJY_AB_MAGNITUDE))
        if np.max(np.abs(field(x=x, y=y) / exact - 1.0)) < 1e-9:
            return field
    raise CalibrationError(
        "The zero point varies too wildly over the detector to be a calibration "
        f"(from {zero_point(x=x, y=y).min():.2f} to {zero_point(x=x, y=y).max():.2f} mag); "
        "lower the order."
    )


def _exponential(zero_point: ChebyshevField, degree: int, unit: u.UnitBase) -> ChebyshevField:
    """Interpolate the calibration of a zero-point field at Chebyshev nodes."""
    n = degree + 1
    angle = np.pi * (np.arange(n) + 0.5) / n
    (x0, x1, y0, y1) = zero_point.domain
    x = 0.5 * (x0 + x1) + 0.5 * (x1 - x0) * np.cos(angle)
    y = 0.5 * (y0 + y1) + 0.5 * (y1 - y0) * np.cos(angle)
    magnitudes = zero_point(x=x[None, :], y=y[:, None], extrapolate=True)
    values = 10.0 ** (-0.4 * (magnitudes - NJY_AB_MAGNITUDE))
    basis = np.cos(np.outer(np.arange(n), angle)) * (2.0 / n)
    basis[0] *= 0.5
    return ChebyshevField(zero_point.box, basis @ values @ basis.T, unit)


def _check_points(box: Box) -> tuple[np.ndarray, np.ndarray]:
    x = np.linspace(*box.x_bounds, 23)
    y = np.linspace(*box.y_bounds, 23)
    return x[None, :], y[:, None]
