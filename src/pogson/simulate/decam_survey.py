"""A dithered campaign of many nights and bands with DECam, through its real star flat.

Every detection is star + atmosphere + cloud + pixel area - star flat - colour term - zero point +
noise, in magnitudes, with everything but the noise known. Pixel convention: 0-based, pixel centres
on integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from pogson.errors import PogsonValueError
from pogson.fields import ChebyshevField, Field
from pogson.sed import Bandpass, Spectrum, stellar_template, synthetic_magnitude
from pogson.simulate.decam_camera import DecamCamera
from pogson.streams import stream
from pogson.survey import Exposures, Observations, Stars, SurveyTables
from pogson.survey.atmosphere import AtmosphereModel, AtmosphereState

__all__ = ["DecamCampaign", "DecamSurvey", "campaign_spectra", "simulate_decam_survey"]

_FIELD = (60.0, -30.0)  # degrees
_FIRST_NIGHT = 56550.0


@dataclass(frozen=True)
class DecamCampaign:
    """What is observed, and how badly.

    Parameters
    ----------
    bands : tuple of str
        Of g, r, i, z, Y.
    nights, exposures : int
        Nights, and exposures of each band a night.
    stars : int
        Stars in the field (each measured in every band).
    dither : float
        Largest offset of the pointing along each axis, degrees.
    magnitudes : tuple of float
        Range of i magnitudes, as many a magnitude as `density_slope` says.
    colors : tuple of float
        Range of g - i.
    floor, cloudy_floor : float
        Intrinsic scatter of detections on photometric and cloudy exposures, magnitudes.
    cloudy : float
        Fraction of cloudy exposures.
    cloud : tuple of float
        Range of their grey extinction, magnitudes.
    cloud_structure : float
        Smooth variation of a cloud over the field, rms relative to its depth.
    water, aerosol : tuple of float
        Range of the nights' precipitable water (mm) and aerosol depth at 5500 Angstrom.
    chromatic : bool
        Let the atmosphere act through each star's spectrum; else as on the pivot colour.
    color_terms, jacobian, templates : bool
        Include the camera's colour terms, its pixel areas, and its rings and edges.
    pivot : float
        g - i for which zero points hold.
    reference_fraction, reference_error : float
        Stars with reference magnitudes and their error.
    seed : int
        Of everything random.

    Raises
    ------
    PogsonValueError
        If a number is out of range.

    Examples
    --------
    >>> DecamCampaign(bands=("g",), nights=1).exposures
    8
    """

    bands: tuple[str, ...] = ("g", "r", "i")
    nights: int = 3
    exposures: int = 8
    stars: int = 20_000
    dither: float = 0.6
    magnitudes: tuple[float, float] = (15.0, 19.5)
    colors: tuple[float, float] = (0.3, 3.0)
    floor: float = 0.002
    cloudy_floor: float = 0.005
    cloudy: float = 0.25
    cloud: tuple[float, float] = (0.05, 0.3)
    cloud_structure: float = 0.02
    water: tuple[float, float] = (2.0, 10.0)
    aerosol: tuple[float, float] = (0.02, 0.08)
    chromatic: bool = False
    color_terms: bool = True
    jacobian: bool = True
    templates: bool = True
    pivot: float = 0.61
    reference_fraction: float = 0.2
    reference_error: float = 0.01
    seed: int = 1

    def __post_init__(self) -> None:
        whole = (self.nights, self.exposures, self.stars)
        if min(whole) < 1 or not self.bands or not 0 <= self.cloudy < 1:
            raise PogsonValueError(
                f"A campaign needs bands, nights, exposures and stars, and cloudy in [0, 1): {self}"
            )


def campaign_spectra(
    colors: tuple[float, float], count: int = 25
) -> tuple[np.ndarray, list[Spectrum]]:
    """Return spectra of stars at even steps of g - i.

    Dwarf templates as far as they reach; beyond, the coolest one tilted by a power of the
    wavelength.

    Parameters
    ----------
    colors : tuple of float
        First and last g - i.
    count : int
        How many.

    Examples
    --------
    >>> color, spectra = campaign_spectra((0.4, 2.8), 5)
    >>> color.round(2)
    array([0.4, 1. , 1.6, 2.2, 2.8])
    """
    grid, spectra = _color_sequence(tuple(float(c) for c in colors), int(count))
    return grid.copy(), list(spectra)


@lru_cache(maxsize=4)
def _color_sequence(
    colors: tuple[float, ...], count: int
) -> tuple[np.ndarray, tuple[Spectrum, ...]]:
    from scipy.optimize import brentq

    g, i = (Bandpass.from_speclite(f"decam2014-{b}") for b in "gi")

    def made(t: float) -> Spectrum:
        """Temperature above 3500 K, below it a tilt."""
        if t >= 3500.0:
            return stellar_template(t)
        cool = stellar_template(3500.0)
        tilt = (cool.wavelength / 6000.0) ** ((3500.0 - t) / 100.0)
        return Spectrum(cool.wavelength, cool.flux * tilt)

    def color(t: float) -> float:
        s = made(t)
        return float(synthetic_magnitude(s, g) - synthetic_magnitude(s, i))

    grid = np.linspace(colors[0], colors[1], count)
    found = (float(brentq(lambda t, c=c: color(t) - c, 2500.0, 9500.0, xtol=1e-4)) for c in grid)
    return grid, tuple(made(t) for t in found)


@dataclass(frozen=True, eq=False)
class DecamSurvey:
    """A simulated campaign with its truth.

    Parameters
    ----------
    campaign : DecamCampaign
        How it was made.
    camera : DecamCamera
        Geometry and response.
    observations : Observations
        The detections.
    star_mag : numpy.ndarray, shape (rows of the star table,)
        True magnitudes in the natural system of the mean camera.
    zero_point : numpy.ndarray, shape (exposures,)
        True zero points for the pivot colour: instrument, atmosphere and cloud together.
    cloud : numpy.ndarray, shape (exposures,)
        Mean extinction by clouds.
    atmosphere : AtmosphereState
        One value an exposure.
    instrument_zero_point : numpy.ndarray, shape (bands,)
        Zero points without atmosphere and clouds.

    Examples
    --------
    >>> DecamSurvey.__name__
    'DecamSurvey'
    """

    campaign: DecamCampaign
    camera: DecamCamera
    observations: Observations
    star_mag: np.ndarray
    zero_point: np.ndarray
    cloud: np.ndarray
    atmosphere: AtmosphereState
    instrument_zero_point: np.ndarray

    def __repr__(self) -> str:
        return f"<DecamSurvey: {self.campaign.bands}, {self.observations!r}>"

    @property
    def tables(self) -> SurveyTables:
        """Exposures and detectors."""
        return self.observations.tables

    def areas(self) -> dict[int, Field]:
        """Return relative pixel areas by detector number, as `KnownJacobian` takes them."""
        ids = self.tables.detectors.identifier
        return {int(n): self.camera.area(row) for row, n in enumerate(ids)}

    def flat(self, band: str, row: int) -> Field:
        """Return the true star flat of a detector, magnitudes to add at the pivot colour."""
        parts = () if self.campaign.templates else ("poly",)
        return self.camera.flat(band, row, parts=parts)

    def color_slopes(self, band: str) -> np.ndarray:
        """Return the true colour term of each detector relative to the mean camera.

        As the coefficient of `pogson.survey.ColorSlope`: a change of the instrumental magnitude.
        """
        slopes = [
            self.camera.color_slope(band, d)[1].mean() for d in range(len(self.tables.detectors))
        ]
        return -(np.array(slopes) - np.mean(slopes))

    def zero_points_in_gauge(self) -> np.ndarray:
        """Return the true zero points where detector zero points have a mean of zero.

        The constant of each detector is that of its Chebyshev expansion over the detector, without
        rings and edges.
        """
        shift = []
        for band in self.campaign.bands:
            c = [
                ChebyshevField.approximate(self.camera.flat(band, d, parts=("poly",)), 3)
                for d in range(len(self.tables.detectors))
            ]
            shift.append(np.mean([f.coefficients[0, 0] for f in c]))
        return np.asarray(self.zero_point + np.array(shift)[self.tables.exposures.filter])

    def sources(self) -> Any:
        """Return the detections as a table of sources, one row each, as ``pogson solve`` reads it.

        Returns
        -------
        astropy.table.Table
            Fluxes in ADU whose instrumental magnitudes are those of the observations.
        """
        from astropy.table import Table

        o, x = self.observations, self.tables.exposures
        flux = 10.0 ** (-0.4 * np.asarray(o.mag))
        return Table({
            "exposure": x.identifier[o.exposure],
            "detector": self.tables.detectors.identifier[o.detector],
            "band": np.array(x.filter_names)[x.filter[o.exposure]],
            "ra": o.stars.ra[o.star], "dec": o.stars.dec[o.star], "x": o.x, "y": o.y,
            "flux": flux, "flux_err": flux * o.mag_err * (0.4 * np.log(10.0)),
            "mjd": x.mjd[o.exposure], "airmass": x.airmass[o.exposure],
            "seeing": x.seeing[o.exposure],
        })  # fmt: skip

    def references(self) -> Any:
        """Return the stars with reference magnitudes as a catalogue, one row each.

        Returns
        -------
        astropy.table.Table
            Positions, and magnitudes and errors of every band.
        """
        from astropy.table import Table

        n, s = self.campaign.stars, self.observations.stars
        known = np.flatnonzero(s.has_reference[:n])
        out = Table({"id": known, "ra": s.ra[known], "dec": s.dec[known]})
        for b, band in enumerate(self.campaign.bands):
            out[f"mag_{band}"] = s.reference_mag[b * n + known]
            out[f"mag_{band}_err"] = s.reference_err[b * n + known]
        return out

    @cached_property
    def bandpasses(self) -> tuple[Bandpass, ...]:
        """Response of instrument and filters without atmosphere."""
        return _bandpasses(self.campaign.bands)


def _bandpasses(bands: tuple[str, ...]) -> tuple[Bandpass, ...]:
    return tuple(Bandpass.from_speclite(f"decam2014-{b}") for b in bands)


def _exposures(
    c: DecamCampaign, rng: np.random.Generator
) -> tuple[Exposures, dict[str, np.ndarray]]:
    n = c.nights * len(c.bands) * c.exposures
    night = np.repeat(np.arange(c.nights), n // c.nights)
    k = np.tile(np.arange(n // c.nights), c.nights)
    band = k % len(c.bands)
    cloudy = rng.random(n) < c.cloudy
    cloud = np.where(cloudy, rng.uniform(*c.cloud, n), 0.0)
    hour = 8.0 * (k + 0.5) / (n // c.nights) - 4.0
    exposures = Exposures(
        np.arange(1, n + 1) + 200_000, mjd=_FIRST_NIGHT + night + 0.2 + hour / 24.0,
        airmass=1.0 + 0.045 * hour**2 + 0.02 * rng.random(n), night=night, filter=band,
        category=cloudy.astype(int), seeing=rng.uniform(0.8, 1.3, n), photometric=~cloudy,
        filter_names=c.bands,
    )  # fmt: skip
    depth = c.cloud_structure * cloud[:, None] / np.sqrt(5.0)
    return exposures, {
        "cloud": cloud,
        "shape": depth * rng.normal(size=(n, 5)) * np.sqrt([3.0, 3.0, 2.0, 9.0, 2.0]),
        "offset": rng.uniform(-c.dither, c.dither, (n, 2)),
        "water": rng.uniform(*c.water, c.nights)[night],
        "aerosol": rng.uniform(*c.aerosol, c.nights)[night],
    }


def _atmospheres(
    c: DecamCampaign, exposures: Exposures, state: AtmosphereState, spectra: list[Spectrum]
) -> np.ndarray:
    """Light lost by each spectrum on each exposure, relative to the standard, (exposures, s)."""
    air, out = AtmosphereModel(), np.empty((len(exposures), len(spectra)))
    bands = _bandpasses(c.bands)
    for b, band in enumerate(bands):
        lam = np.arange(*band.wavelength_range, 2.0)
        flux = np.stack([s.evaluate(lam) for s in spectra]) * band.evaluate(lam) * lam
        standard = flux @ air.transmission(lam, 1.2, AtmosphereState())
        for e in np.flatnonzero(exposures.filter == b):
            one = AtmosphereState(water=state.water[e], aerosol=state.aerosol[e])
            passed = flux @ air.transmission(lam, float(exposures.airmass[e]), one)
            out[e] = -2.5 * np.log10(passed / standard)
    return out


def _stars(
    c: DecamCampaign, rng: np.random.Generator, spectra: list[Spectrum], grid: np.ndarray
) -> Any:
    """Plane positions, colours and magnitudes of every band."""
    half = 1.15 + c.dither
    uv = rng.uniform(-half, half, (c.stars, 2))
    low, high = c.colors
    color = low + (high - low) * rng.beta(1.3, 2.0, c.stars)
    t = rng.random(c.stars)
    a, b = (10.0 ** (0.25 * m) for m in c.magnitudes)  # counts rise by 0.25 dex a magnitude
    i_mag = np.log10(a + (b - a) * t) / 0.25
    reference = Bandpass.from_speclite("decam2014-i")
    mags = []
    for band in _bandpasses(c.bands):
        step = [synthetic_magnitude(s, band) - synthetic_magnitude(s, reference) for s in spectra]
        mags.append(i_mag + np.interp(color, grid, np.array(step, float)))
    return uv, color, np.stack(mags)


def _detect(
    camera: DecamCamera, exposures: Exposures, offset: np.ndarray, uv: np.ndarray
) -> dict[str, np.ndarray]:
    """Find where each star falls on each exposure."""
    parts: dict[str, list[np.ndarray]] = {
        k: [] for k in ("object", "exposure", "detector", "x", "y")
    }
    for e in range(len(exposures)):
        u, v = (uv - offset[e]).T
        for d in range(len(camera.detectors)):
            index, x, y = camera.find(d, u=u, v=v, mjd=float(exposures.mjd[e]))
            full = np.full(index.size, e), np.full(index.size, d)
            for name, value in zip(parts, (index, *full, x, y), strict=True):
                parts[name].append(value)
    return {k: np.concatenate(v) for k, v in parts.items()}


def _response(
    c: DecamCampaign, camera: DecamCamera, rows: dict[str, np.ndarray], band: np.ndarray,
    color: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Pixel area minus star flat minus colour term at the detections, magnitudes."""
    out = np.zeros(band.size)
    parts = () if c.templates else ("poly",)
    for b, name in enumerate(c.bands):
        slopes = [camera.color_slope(name, d)[1] for d in range(len(camera.detectors))]
        mean = float(np.mean([s.mean() for s in slopes]))
        for d, slope in enumerate(slopes):
            on = np.flatnonzero((rows["detector"] == d) & (band == b))
            x, y = rows["x"][on], rows["y"][on]
            out[on] -= camera.flat(name, d, parts=parts)(x=x, y=y)
            if c.color_terms:
                out[on] -= (slope(x=x, y=y) - mean) * (color[on] - c.pivot)
            if c.jacobian:
                out[on] += 2.5 * np.log10(camera.area(d)(x=x, y=y))
    return out


def simulate_decam_survey(campaign: DecamCampaign, camera: DecamCamera) -> DecamSurvey:
    """Observe a field with a camera.

    Parameters
    ----------
    campaign : DecamCampaign
        What and how.
    camera : DecamCamera
        Geometry and response; its templates must be known if the campaign uses them.

    Returns
    -------
    DecamSurvey

    Notes
    -----
    The photon noise is 5 mmag at magnitude 18 and grows with the inverse root of the flux below
    the sky's; detections say this error and not the intrinsic scatter, which is to be found.

    Examples
    --------
    >>> simulate_decam_survey.__name__
    'simulate_decam_survey'
    """
    c = campaign
    rng = stream(c.seed, "decam campaign")
    exposures, made = _exposures(c, rng)
    tables = SurveyTables(exposures, camera.table)
    state = AtmosphereState(water=made["water"], aerosol=made["aerosol"])
    grid, spectra = campaign_spectra(c.colors)
    uv, color, mags = _stars(c, rng, spectra, grid)
    rows = _detect(camera, exposures, made["offset"], uv)
    e, d, band = rows["exposure"], rows["detector"], exposures.filter[rows["exposure"]]
    lost = _atmospheres(c, exposures, state, spectra)
    at_pivot = np.array([np.interp(c.pivot, grid, one) for one in lost])
    zero = 25.5 + 0.1 * rng.normal(size=len(c.bands))
    truth = mags[band, rows["object"]]
    signal = truth - zero[band] + made["cloud"][e]
    if c.chromatic:
        for k in range(len(exposures)):
            on = e == k
            signal[on] += np.interp(color[rows["object"][on]], grid, lost[k])
    else:
        signal += at_pivot[e]
    u, v = tables.detectors.focal_plane(d, x=rows["x"], y=rows["y"])
    shape = np.stack([u, v, 2 * u * u - 1, u * v, 2 * v * v - 1])
    signal += np.einsum("kn,nk->n", shape, made["shape"][e])
    signal += _response(c, camera, rows, band, color[rows["object"]])
    photon = 0.005 * np.sqrt(10 ** (0.4 * (truth - 18)) + 0.1 * 10 ** (0.8 * (truth - 18)))
    floor = np.where(exposures.photometric[e], c.floor, c.cloudy_floor)
    mag = signal + np.hypot(photon, floor) * rng.normal(size=e.size)
    stars = _star_table(c, rng, uv, color, mags)
    observations = Observations.from_columns(
        tables, stars, star=band * c.stars + rows["object"], exposure=e, detector=d, x=rows["x"],
        y=rows["y"], mag=mag, mag_err=photon,
    )  # fmt: skip
    truth_zero = zero[exposures.filter] - made["cloud"] - at_pivot
    return DecamSurvey(
        c, camera, observations, mags.ravel(), truth_zero, made["cloud"], state, zero
    )


def _star_table(
    c: DecamCampaign, rng: np.random.Generator, uv: np.ndarray, color: np.ndarray, mags: np.ndarray
) -> Stars:
    bands = len(c.bands)
    known = np.tile(rng.random(c.stars) < c.reference_fraction, bands)
    reference = mags.ravel() + c.reference_error * rng.normal(size=mags.size)
    ra = _FIELD[0] + uv[:, 0] / np.cos(np.radians(_FIELD[1]))
    return Stars(
        np.tile(np.arange(c.stars), bands), filter=np.repeat(np.arange(bands), c.stars),
        color=np.tile(color, bands), reference_mag=np.where(known, reference, np.nan),
        reference_err=np.full(mags.size, c.reference_error), ra=np.tile(ra, bands),
        dec=np.tile(_FIELD[1] + uv[:, 1], bands),
    )  # fmt: skip
