"""The physical atmosphere as a term of the calibration model: a few parameters a night."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np

from pogson.errors import ConfigError, PogsonValueError, choices
from pogson.sed import Bandpass
from pogson.survey.atmosphere import AtmosphereModel, AtmosphereState
from pogson.survey.chromatic import ColorSeds, SedBasis, StarSeds
from pogson.survey.observations import Exposures, Observations, SurveyTables
from pogson.survey.terms import Design, LocalTerm, Term
from pogson.survey.terms_grey import constant_fields

__all__ = ["ATMOSPHERE_PARAMETERS", "Atmosphere"]

ATMOSPHERE_PARAMETERS: dict[str, tuple[float, float, float, float, str]] = {
    "pressure": (0.0, 5.0, -100.0, 100.0, "hPa from the pressure given"),
    "ozone": (260.0, 50.0, 80.0, 600.0, "Dobson units"),
    "aerosol_exponent": (1.0, 0.5, -1.0, 4.0, ""),
    "log_aerosol": (float(np.log(0.03)), 1.0, float(np.log(1e-4)), float(np.log(2.0)), "ln"),
    "log_aerosol_slope": (0.0, 0.1, -1.0, 1.0, "1/hour"),
    "log_water": (float(np.log(3.0)), 1.0, float(np.log(0.02)), float(np.log(80.0)), "ln mm"),
    "log_water_slope": (0.0, 0.1, -1.0, 1.0, "1/hour"),
}
"""Parameters a night: prior mean and sigma, lower and upper bound, unit.

Slopes are in time from the middle of the night's exposures.
"""

_PHYSICAL = ("pressure", "ozone", "aerosol_exponent", "aerosol", "water")
_CHUNK = 256


@dataclass(frozen=True, eq=False)
class Atmosphere(Term):
    r"""Light lost in the atmosphere, from its transmission and the star's spectrum.

    The term is the change of a star's magnitude from the standard atmosphere to that of the
    detection,

    .. math:: T = -2.5 \log_{10} \frac{\int f_\nu S\,T_{atm}\,d\lambda/\lambda}
              {\int f_\nu \bar S\,T_{std}\,d\lambda/\lambda},

    so that the star's magnitude is that in the standard passband: the mean over the detectors of
    the instrument's response, behind the standard atmosphere.

    Parameters
    ----------
    bandpasses : sequence
        Response of the instrument without atmosphere, for each filter (row of the exposure table's
        filter): a `Bandpass`, or a sequence with one a detector.
    seds : ColorSeds or StarSeds
        Spectra of the stars.
    name : str
        Name of the term.
    model : AtmosphereModel
        Absorption of the gases.
    standard : AtmosphereState
        The standard atmosphere.
    standard_airmass : float
        Its airmass.
    pressure : array_like, optional
        Pressure at each exposure, hPa; that of the standard atmosphere by default.
    fit : tuple of str
        Parameters that are fitted, among `ATMOSPHERE_PARAMETERS`; the others stay at their prior
        mean.
    priors : mapping of str to (mean, sigma)
        Instead of those of `ATMOSPHERE_PARAMETERS`; an infinite sigma is no prior.
    bounds : mapping of str to (low, high)
        Limits, kept by `calibrate_physical`.
    held : mapping of int to float
        Parameters (numbers within the term) held at a value.
    initial : numpy.ndarray, optional
        Parameters to start from; the prior means by default.

    Raises
    ------
    ConfigError
        If a parameter's name is unknown, or a prior or bounds make no sense.

    Notes
    -----
    Integrals are sums over wavelength for every exposure at the current parameters, without
    interpolation in a table of atmospheres; the absorption of the gases is what is tabulated.
    Airmasses of single detections enter to first order in the logarithm of the flux.

    Examples
    --------
    >>> from pogson.sed import stellar_template
    >>> from pogson.survey import Detectors, Exposures
    >>> z = Bandpass("z", [8400.0, 8500.0, 9200.0, 9300.0], [0.0, 1.0, 1.0, 0.0])
    >>> g = Bandpass("g", [4000.0, 4100.0, 5300.0, 5400.0], [0.0, 1.0, 1.0, 0.0])
    >>> seds = ColorSeds.from_spectra([stellar_template(t) for t in (4500, 6000, 8000)], [g, z],
    ...                               color=(g, z))
    >>> term = Atmosphere([g, z], seds, fit=("log_aerosol", "log_water"))
    >>> tables = SurveyTables(Exposures([1, 2], night=[0, 1], filter=[0, 1]), Detectors([0]))
    >>> term.parameter_names(tables)
    ['night0;log_aerosol', 'night0;log_water', 'night1;log_aerosol', 'night1;log_water']
    """

    bandpasses: Sequence[Bandpass | Sequence[Bandpass]]
    seds: ColorSeds | StarSeds
    name: str = "atmosphere"
    model: AtmosphereModel = field(default_factory=AtmosphereModel)
    standard: AtmosphereState = field(default_factory=AtmosphereState)
    standard_airmass: float = 1.2
    pressure: Any = None
    fit: tuple[str, ...] = (
        "ozone",
        "aerosol_exponent",
        "log_aerosol",
        "log_aerosol_slope",
        "log_water",
        "log_water_slope",
    )
    priors: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    held: Mapping[int, float] = field(default_factory=dict)
    initial: np.ndarray | None = None
    linear = False
    unit = "DU, 1, ln, ln/hour"

    def __post_init__(self) -> None:
        known = tuple(ATMOSPHERE_PARAMETERS)
        for name in (*self.fit, *self.priors, *self.bounds):
            if name not in known:
                raise ConfigError(f"Atmosphere parameter {name!r}; allowed: {choices(known)}.")
        if not self.fit or len(set(self.fit)) != len(self.fit):
            raise ConfigError(f"fit={self.fit!r} must name each parameter once, at least one.")
        for name, (low, high) in self.bounds.items():
            mean = self.prior_of(name)[0]
            if not low < mean < high:
                raise ConfigError(f"Bounds {low} to {high} of {name!r} must enclose {mean}.")
        if len(self.seds.bases) != len(self.bandpasses):
            raise ConfigError(
                f"{len(self.bandpasses)} bandpasses and spectra for {len(self.seds.bases)} filters."
            )
        object.__setattr__(self, "_cache", [None, None])

    def __getstate__(self) -> dict[str, Any]:
        """Return what travels to other processes: settings, not what was worked out."""
        kept = {f.name for f in fields(self)}
        return {k: v for k, v in self.__dict__.items() if k in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the settings back."""
        self.__dict__.update(state)
        self.__dict__["_cache"] = [None, None]

    # -- parameters ---------------------------------------------------------------------------
    def prior_of(self, name: str) -> tuple[float, float]:
        """Return prior mean and sigma of a kind of parameter."""
        mean, sigma = self.priors.get(name, ATMOSPHERE_PARAMETERS[name][:2])
        return float(mean), float(sigma)

    def bounds_of(self, name: str) -> tuple[float, float]:
        """Return the limits of a kind of parameter."""
        low, high = self.bounds.get(name, ATMOSPHERE_PARAMETERS[name][2:4])
        return float(low), float(high)

    def size(self, tables: SurveyTables) -> int:
        """Return nights times fitted parameters."""
        return tables.exposures.night_count * len(self.fit)

    def parameter_names(self, tables: SurveyTables) -> list[str]:
        """Return night and parameter."""
        return [f"night{n};{p}" for n in range(tables.exposures.night_count) for p in self.fit]

    def prior(self, tables: SurveyTables) -> tuple[np.ndarray, np.ndarray]:
        """Return prior means and sigmas; those held are fixed."""
        nights = tables.exposures.night_count
        one = np.array([self.prior_of(p) for p in self.fit])
        mean, sigma = np.tile(one[:, 0], nights), np.tile(one[:, 1], nights)
        for k, value in self.held.items():
            mean[k], sigma[k] = value, 1e-9
        if not (np.isfinite(mean).all() and np.all(sigma > 0)):
            raise ConfigError(f"Term {self.name!r}: prior means must be finite and sigmas > 0.")
        return mean, sigma

    def start(self, tables: SurveyTables) -> np.ndarray:
        """Return the parameters to start from."""
        mean = self.prior(tables)[0]
        if self.initial is None:
            return mean
        start = np.array(self.initial, np.float64)
        if start.shape != mean.shape:
            raise ConfigError(f"initial has shape {start.shape}; it must be {mean.shape}.")
        for k, value in self.held.items():
            start[k] = value
        return start

    def limits(self, tables: SurveyTables) -> tuple[np.ndarray, np.ndarray]:
        """Return lower and upper bounds of all parameters."""
        both = np.array([self.bounds_of(p) for p in self.fit])
        n = tables.exposures.night_count
        return np.tile(both[:, 0], n), np.tile(both[:, 1], n)

    def limit_step(self, step: np.ndarray, tables: SurveyTables) -> np.ndarray:
        """Return a step of at most a tenth of the range of each parameter."""
        low, high = self.limits(tables)
        most = 0.1 * (high - low)
        return np.asarray(np.clip(step, -most, most))

    def hours(self, exposures: Exposures) -> np.ndarray:
        """Return hours of each exposure from the middle of its night's exposures."""
        out = np.zeros(len(exposures))
        for n in np.unique(exposures.night):
            rows = exposures.night == n
            t = exposures.mjd[rows]
            out[rows] = 24.0 * (t - 0.5 * (t.min() + t.max()))
        return out

    def state(self, exposures: Exposures, parameters: np.ndarray | None = None) -> AtmosphereState:
        """Return the atmosphere of each exposure.

        Parameters
        ----------
        exposures : Exposures
            Exposures.
        parameters : numpy.ndarray, optional
            Parameters of the term; prior means by default.
        """
        nights = exposures.night_count
        values = {p: np.full(nights, self.prior_of(p)[0]) for p in ATMOSPHERE_PARAMETERS}
        if parameters is not None:
            table = np.asarray(parameters, np.float64).reshape(nights, len(self.fit))
            values |= {p: table[:, j] for j, p in enumerate(self.fit)}
        v = {p: a[exposures.night] for p, a in values.items()}
        t = self.hours(exposures)
        base = self.standard.pressure if self.pressure is None else self.pressure
        with np.errstate(over="ignore"):
            return AtmosphereState(
                pressure=np.broadcast_to(base, t.shape) + v["pressure"],
                ozone=np.maximum(v["ozone"], 0.0),
                aerosol=np.exp(np.clip(v["log_aerosol"] + t * v["log_aerosol_slope"], -20, 5)),
                aerosol_exponent=v["aerosol_exponent"],
                water=np.exp(np.clip(v["log_water"] + t * v["log_water_slope"], -20, 8)),
            )

    def _chain(self, exposures: Exposures, state: AtmosphereState) -> tuple[list[int], np.ndarray]:
        """Return the physical parameter behind each fitted one and their derivative."""
        t = self.hours(exposures)
        factor = {
            "pressure": (0, np.ones(t.size)),
            "ozone": (1, np.ones(t.size)),
            "aerosol_exponent": (2, np.ones(t.size)),
            "log_aerosol": (3, state.aerosol),
            "log_aerosol_slope": (3, state.aerosol * t),
            "log_water": (4, state.water),
            "log_water_slope": (4, state.water * t),
        }
        return [factor[p][0] for p in self.fit], np.stack([factor[p][1] for p in self.fit], axis=1)

    # -- integrals ----------------------------------------------------------------------------
    @cached_property
    def _bands(self) -> list[tuple[SedBasis, list[Bandpass], np.ndarray]]:
        out = []
        for basis, band in zip(self.seds.bases, self.bandpasses, strict=True):
            bands = [band] if isinstance(band, Bandpass) else list(band)
            out.append((basis, bands, np.stack([basis.weights(b) for b in bands])))
        return out

    @cached_property
    def _shape(self) -> tuple[int, int]:
        return (
            max(len(bands) for _, bands, _ in self._bands),
            max(basis.size for basis, _, _ in self._bands),
        )

    @cached_property
    def _standard(self) -> np.ndarray:
        """Integrals of the standard passband of each filter, shape (filters, K)."""
        out = np.zeros((len(self._bands), self._shape[1]))
        for f, (basis, _, w) in enumerate(self._bands):
            through = self.model.transmission(
                basis.wavelength, self.standard_airmass, self.standard
            )
            out[f, : basis.size] = w.mean(axis=0) @ through
        return out

    def integrals(
        self,
        exposures: Exposures,
        parameters: np.ndarray | None = None,
        rows: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return integrals of each exposure (and detector) and basis function, with derivatives.

        Parameters
        ----------
        exposures : Exposures
            Exposures.
        parameters : numpy.ndarray, optional
            Parameters of the term; prior means by default.
        rows : numpy.ndarray of int, optional
            Rows of exposures; all by default.

        Returns
        -------
        flux : numpy.ndarray, shape (exposures, detectors or 1, K)
            With the first-order basis: I0 and I1.
        slope : numpy.ndarray, shape (exposures, detectors or 1, K, fitted)
            Derivatives by the parameters of the exposure's night.
        by_airmass : numpy.ndarray, shape of ``flux``
            Derivatives by the airmass.

        Raises
        ------
        PogsonValueError
            If an exposure's filter has no bandpass.
        """
        D, K = self._shape
        wanted = np.arange(len(exposures)) if rows is None else np.asarray(rows)
        E, P = wanted.size, len(self.fit)
        band, airmass = exposures.filter[wanted], exposures.airmass[wanted]
        if E and band.max() >= len(self._bands):
            raise PogsonValueError(
                f"Exposures have filters up to {band.max()}, the atmosphere term has "
                f"{len(self._bands)} bandpasses; give one a filter."
            )
        state = self.state(exposures, parameters)
        kinds, chain = self._chain(exposures, state)
        flux, by_airmass = np.zeros((E, D, K)), np.zeros((E, D, K))
        slope = np.zeros((E, D, K, P))
        for f, (basis, bands, w) in enumerate(self._bands):
            k, d = basis.size, len(bands)
            flat = np.ascontiguousarray(w.reshape(d * k, -1).T)
            mine = np.flatnonzero(band == f)
            for i in range(0, mine.size, _CHUNK):
                at = mine[i : i + _CHUNK]
                own = wanted[at]
                part = AtmosphereState(**{n: np.asarray(getattr(state, n))[own] for n in _PHYSICAL})
                depth, slopes = self.model.depth_and_slopes(basis.wavelength, airmass[at], part)
                through = np.exp(-depth)
                flux[at, :, :k] = (through @ flat).reshape(-1, d, k)
                by_airmass[at, :, :k] = (-(through * slopes["airmass"]) @ flat).reshape(-1, d, k)
                used = {
                    q: (-(through * slopes[_PHYSICAL[q]]) @ flat).reshape(-1, d, k)
                    for q in set(kinds)
                }
                for j, q in enumerate(kinds):
                    slope[at, :, :k, j] = used[q] * chain[own, j][:, None, None]
        return flux, slope, by_airmass

    # -- the term -----------------------------------------------------------------------------
    def coefficients(self, observations: Observations) -> np.ndarray:
        """Return the coefficients of the stars' spectra, shape (stars, K)."""
        stars = observations.stars
        band = stars.filter
        if len(stars) and band.min() < 0:
            first = np.searchsorted(observations.star, np.arange(len(stars)))
            first = np.minimum(first, max(len(observations) - 1, 0))
            own = observations.tables.exposures.filter[observations.exposure[first]]
            band = np.where(band < 0, own, band)
        return np.ascontiguousarray(self.seds.coefficients(band, stars.color))

    def _compute(
        self, observations: Observations, parameters: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the term and its derivatives; the last result is kept."""
        from pogson.parallel import usable_cores
        from pogson.survey._atmosphere_kernels import chromatic_rows
        from pogson.survey.normal import share

        o, exposures = observations, observations.tables.exposures
        p = self.start(o.tables) if parameters is None else np.asarray(parameters, np.float64)
        key = (p.tobytes(), o.star, o.exposure, o.stars.color)
        last = self._cache[0]  # type: ignore[attr-defined]
        same = last is not None and last[0] == key[0]
        if same and all(last[k] is key[k] for k in (1, 2, 3)):
            return last[4], last[5]
        known = self._cache[1]  # type: ignore[attr-defined]
        if known is None or known[0] is not o.stars.color or known[1] is not o.star:
            known = (o.stars.color, o.star, self.coefficients(o))
            self._cache[1] = known  # type: ignore[attr-defined]
        flux, slope, by_airmass = self.integrals(exposures, p)
        n = len(o)
        value, values = np.empty(n), np.empty((n, len(self.fit)))
        airmass = np.empty(0) if o.airmass is None else np.asarray(o.airmass)
        threads = min(usable_cores(), 1 + n // 50_000)
        edges = np.linspace(0, n, threads + 1).astype(np.int64)

        def run(k: int) -> None:
            chromatic_rows(
                edges[k], edges[k + 1], o.star, o.exposure, o.detector, exposures.filter, known[2],
                flux, slope, by_airmass, self._standard, airmass, exposures.airmass, value, values,
            )  # fmt: skip

        share(run, threads, threads)
        self._cache[0] = (*key, value, values)  # type: ignore[attr-defined]
        return value, values

    def design(self, observations: Observations, parameters: np.ndarray | None = None) -> Design:
        """Return the derivatives at the current parameters."""
        values = self._compute(observations, parameters)[1]
        night = observations.tables.exposures.night * np.int32(len(self.fit))
        return Design(night[observations.exposure], values)

    def evaluate(self, observations: Observations, parameters: np.ndarray) -> np.ndarray:
        """Return the term at detections, magnitudes; NaN for stars without a spectrum."""
        return self._compute(observations, parameters)[0]

    def local(self, exposure: int, detector: int, tables: SurveyTables) -> LocalTerm:
        """Return the term at the prior means; see `local_at`."""
        return self.local_at(exposure, detector, tables, self.start(tables))

    def local_at(
        self, exposure: int, detector: int, tables: SurveyTables, parameters: np.ndarray
    ) -> LocalTerm:
        """Return the term about given parameters, for a star with a flat spectrum per frequency.

        Derivatives are at these parameters; the field is what the term adds beyond them, so that
        derivatives times parameters and the known factor together give the term.
        """
        value, slope = self.grey(exposure, detector, tables, parameters)
        night, P = int(tables.exposures.night[exposure]), len(self.fit)
        rest = value - float(slope @ parameters[night * P : (night + 1) * P])
        return LocalTerm(night * P, constant_fields(tables, detector, list(slope)), constant=rest)

    def grey(
        self, exposure: int, detector: int, tables: SurveyTables, parameters: np.ndarray
    ) -> tuple[float, np.ndarray]:
        """Return the term and its derivatives for a star with a flat spectrum per frequency."""
        e = tables.exposures
        f = int(e.filter[exposure])
        basis = self._bands[f][0]
        flux, slope, _ = self.integrals(e, parameters, np.array([exposure]))
        d = detector if self._shape[0] > 1 else 0
        flat = np.linalg.lstsq(basis.functions.T, np.ones(basis.wavelength.size), rcond=None)[0]
        k = basis.size
        top = float(flux[0, d, :k] @ flat)
        value = -2.5 * np.log10(top / float(self._standard[f, :k] @ flat))
        return float(value), -2.5 / np.log(10.0) * (flat @ slope[0, d, :k]) / top
