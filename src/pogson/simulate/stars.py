"""The stars of a simulated field: positions, temperatures and true fluxes."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import MissingDataError, PogsonValueError, choices
from pogson.sed import color_term_slope, stellar_template, synthetic_magnitude
from pogson.simulate.model import BandModel, SurveyModel
from pogson.streams import stream
from pogson.units import flux_to_magnitude, magnitude_to_flux

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["StarCatalog", "color_term", "draw_stars", "reference_catalog", "system_ties"]

_TEFF_STEP = 100.0
_METALLICITY = (-1.5, -0.75, 0.0)


@dataclass(frozen=True, eq=False)
class StarCatalog:
    """True stars; arrays are read-only, one entry a star.

    Parameters
    ----------
    id : numpy.ndarray of int64
        Identifiers; every random number of a star is keyed by its id.
    ra, dec : numpy.ndarray
        ICRS degrees.
    teff, metallicity : numpy.ndarray
        Kelvin and [Fe/H] of the template spectrum.
    standard, natural : dict of str to numpy.ndarray
        Total flux density in nJy above the atmosphere, by band name: in the bandpass of the
        reference catalogue and in the instrument's own.

    Examples
    --------
    >>> stars = draw_stars(SurveyModel(), 60.0, rng_seed=1)
    >>> sorted(stars.natural)
    ['g', 'r']
    """

    id: np.ndarray
    ra: np.ndarray
    dec: np.ndarray
    teff: np.ndarray
    metallicity: np.ndarray
    standard: dict[str, np.ndarray] = field(default_factory=dict)
    natural: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = self.id.size
        if np.unique(self.id).size != n:
            raise PogsonValueError("Star ids must be different from each other.")
        for name, array in self._arrays().items():
            if array.shape != (n,):
                raise PogsonValueError(f"{name} has shape {array.shape}, but there are {n} stars.")
            array.flags.writeable = False

    def _arrays(self) -> dict[str, np.ndarray]:
        own = {k: getattr(self, k) for k in ("id", "ra", "dec", "teff", "metallicity")}
        own |= {f"standard {k}": v for k, v in self.standard.items()}
        return own | {f"natural {k}": v for k, v in self.natural.items()}

    def __len__(self) -> int:
        return int(self.id.size)

    def take(self, index: Any) -> StarCatalog:
        """Return the stars of an index array or boolean mask, in that order."""
        return StarCatalog(
            id=self.id[index].copy(),
            ra=self.ra[index].copy(),
            dec=self.dec[index].copy(),
            teff=self.teff[index].copy(),
            metallicity=self.metallicity[index].copy(),
            standard={k: v[index].copy() for k, v in self.standard.items()},
            natural={k: v[index].copy() for k, v in self.natural.items()},
        )

    def sorted(self) -> StarCatalog:
        """Return the stars in the order of their ids."""
        return self.take(np.argsort(self.id, kind="stable"))

    def flux(self, band: str, system: str = "natural") -> np.ndarray:
        """Total flux densities in nJy.

        Parameters
        ----------
        band : str
            Band name.
        system : {"natural", "standard"}, optional
            The instrument's own bandpass, or that of the reference catalogue.

        Raises
        ------
        MissingDataError
            If there is no such band.
        """
        if system not in ("natural", "standard"):
            raise PogsonValueError(
                f"Unknown system {system!r}; allowed: {choices(('natural', 'standard'))}."
            )
        fluxes = self.natural if system == "natural" else self.standard
        if band not in fluxes:
            raise MissingDataError(f"No band {band!r} in the truth; it has {choices(fluxes)}.")
        return fluxes[band]


def draw_stars(model: SurveyModel, half_width: float, *, rng_seed: int) -> StarCatalog:
    """Draw the stars of a square field.

    Parameters
    ----------
    model : SurveyModel
        The survey.
    half_width : float
        Half the side of the field in arcsec.
    rng_seed : int
        Seed of the simulation.

    Returns
    -------
    StarCatalog
        In the order of ids. Each star's numbers come from a stream of its own id.

    Notes
    -----
    Where ``minimum_separation`` is set, a star too near to one of smaller id does not occur. Stars
    brighter than magnitude 20 keep a larger distance, as 10**(0.06 (20 - m)), so that their wings
    stay below a percent of every neighbour.

    Examples
    --------
    >>> draw_stars(SurveyModel(), 120.0, rng_seed=1).id.size > 100
    True
    """
    stars = model.stars
    count = int(
        stream(rng_seed, "star count").poisson(stars.density * (2 * half_width / 60.0) ** 2)
    )
    if count == 0:
        raise PogsonValueError(f"The field has no stars: density={stars.density} per arcmin2.")
    uniform = np.empty((count, 4))
    normal = np.empty(count)
    for i in range(count):
        rng = stream(rng_seed, "star", i)
        uniform[i] = rng.random(4)
        normal[i] = rng.standard_normal()
    xi, eta = ((2 * uniform[:, k] - 1) * half_width for k in (0, 1))
    magnitude = _magnitudes(uniform[:, 2], *stars.magnitude_range, stars.slope)
    reach = stars.minimum_separation * 10.0 ** (0.06 * np.maximum(20.0 - magnitude, 0.0))
    keep = _separated(xi, eta, reach)
    ra, dec = _from_tangent_plane(xi[keep], eta[keep], model.ra, model.dec)
    magnitude = magnitude[keep]
    teff = np.clip(
        stars.temperature_median * np.exp(stars.temperature_scatter * normal[keep]),
        *stars.temperature_range,
    )
    metallicity = _METALLICITY[0] + (_METALLICITY[-1] - _METALLICITY[0]) * uniform[keep, 3]
    standard, natural = _fluxes(model.bands, magnitude, teff, metallicity)
    return StarCatalog(np.flatnonzero(keep), ra, dec, teff, metallicity, standard, natural)


def _separated(x: np.ndarray, y: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Return which points stay when each must keep its distance from all kept ones before it."""
    from scipy.spatial import cKDTree

    keep = np.ones(x.size, bool)
    if not reach.max() > 0:
        return keep
    near = cKDTree(np.column_stack([x, y])).query_pairs(float(reach.max()), output_type="ndarray")
    near = np.sort(near, axis=1)
    first, second = near[np.lexsort((near[:, 1], near[:, 0]))].T
    close = np.hypot(x[first] - x[second], y[first] - y[second]) < np.maximum(
        reach[first], reach[second]
    )
    for i, j in zip(first[close], second[close], strict=True):
        # pairs come in the order of the smaller id, whose fate is settled by then
        if keep[i]:
            keep[j] = False
    return keep


def _from_tangent_plane(
    xi: np.ndarray, eta: np.ndarray, ra0: float, dec0: float
) -> tuple[np.ndarray, np.ndarray]:
    """Inverse gnomonic projection of arcsec to degrees (Calabretta & Greisen 2002)."""
    x, y = (np.deg2rad(a / 3600.0) for a in (xi, eta))
    d0 = np.deg2rad(dec0)
    denominator = np.cos(d0) - y * np.sin(d0)
    ra = ra0 + np.rad2deg(np.arctan2(x, denominator))
    dec = np.arctan2(np.sin(d0) + y * np.cos(d0), np.hypot(x, denominator))
    return np.mod(ra, 360.0), np.rad2deg(dec)


def _magnitudes(u: np.ndarray, bright: float, faint: float, slope: float) -> np.ndarray:
    """Magnitudes with counts like 10**(slope m), by the inverse of the cumulative distribution."""
    if slope == 0:
        return bright + u * (faint - bright)
    a, b = 10.0 ** (slope * bright), 10.0 ** (slope * faint)
    return np.asarray(np.log10(a + u * (b - a)) / slope)


@cache
def _magnitude_grid(band: BandModel) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """AB magnitudes of the templates on a grid of temperature and metallicity (surface flux)."""
    teff = np.arange(3800.0, 8700.0 + 1, _TEFF_STEP)
    out = np.empty((2, teff.size, len(_METALLICITY)))
    systems = (band.standard_bandpass, band.natural_bandpass)
    for i, t in enumerate(teff):
        for j, z in enumerate(_METALLICITY):
            star = stellar_template(float(t), metallicity=z, wavelength_range=(2900.0, 12000.0))
            out[:, i, j] = [synthetic_magnitude(star, b) for b in systems]
    return teff, out[0], out[1]


def _fluxes(
    bands: tuple[BandModel, ...], magnitude: np.ndarray, teff: np.ndarray, metallicity: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Fluxes in nJy of template stars that have given standard magnitudes in the last band."""
    from scipy.interpolate import RectBivariateSpline

    surface = {}
    for band in bands:
        nodes, standard, natural = _magnitude_grid(band)
        surface[band.name] = [
            RectBivariateSpline(nodes, _METALLICITY, grid, kx=3, ky=2).ev(teff, metallicity)
            for grid in (standard, natural)
        ]
    anchor = magnitude - surface[bands[-1].name][0]
    return (
        {b.name: np.asarray(magnitude_to_flux(surface[b.name][0] + anchor)) for b in bands},
        {b.name: np.asarray(magnitude_to_flux(surface[b.name][1] + anchor)) for b in bands},
    )


def color_term(model: SurveyModel, band: str) -> tuple[float, float, float]:
    """Colour term ``m_natural - m_standard = offset + slope * colour`` of a band, from the SEDs.

    Parameters
    ----------
    model : SurveyModel
        The survey; the colour is (first band - last band) in the standard system.
    band : str
        Band name.

    Returns
    -------
    slope, offset, scatter : float
        Magnitudes, over templates of 4500 to 7500 K; see `pogson.sed.color_term_slope`.

    Examples
    --------
    >>> slope, offset, scatter = color_term(SurveyModel(), "g")
    >>> bool(-0.06 < slope < -0.01 and scatter < 0.004)
    True
    """
    chosen = {b.name: b for b in model.bands}[band]
    standard = tuple(model.bands[i].standard_bandpass for i in (0, -1))
    spectra = [
        stellar_template(t, wavelength_range=(2900.0, 12000.0)) for t in np.linspace(4500, 7500, 13)
    ]
    return color_term_slope(
        spectra, chosen.natural_bandpass, chosen.standard_bandpass, (standard[0], standard[1])
    )


def reference_catalog(model: SurveyModel, stars: StarCatalog, *, rng_seed: int) -> Table:
    """Return the reference catalogue of another survey: its brighter stars, with its errors.

    Parameters
    ----------
    model : SurveyModel
        The survey.
    stars : StarCatalog
        The truth.
    rng_seed : int
        Seed of the simulation.

    Returns
    -------
    astropy.table.Table
        ``id, ra, dec`` (degrees, 20 mas errors), and for each band ``mag_<band>``,
        ``mag_<band>_err`` (AB, standard bandpass). Errors are those of the numbers in fact; a
        fraction ``reference_outliers`` of the stars are off by much more, as variables are.

    Examples
    --------
    >>> model = SurveyModel()
    >>> table = reference_catalog(model, draw_stars(model, 60.0, rng_seed=1), rng_seed=1)
    >>> table.colnames[:4]
    ['id', 'ra', 'dec', 'mag_g']
    """
    import astropy.units as u
    from astropy.table import Table

    last = flux_to_magnitude(stars.flux(model.bands[-1].name, "standard"))
    bright = stars.take(last < model.stars.reference_limit).sorted()
    n, bands = len(bright), [b.name for b in model.bands]
    noise = np.empty((n, 2 + len(bands)))
    outlier = np.zeros(n)
    for i, star in enumerate(bright.id):
        rng = stream(rng_seed, "reference", int(star))
        noise[i] = rng.standard_normal(2 + len(bands))
        if rng.random() < model.stars.reference_outliers:
            outlier[i] = rng.choice([-1.0, 1.0]) * rng.uniform(0.1, 0.5)
    out = Table()
    out["id"] = bright.id
    mas20 = 0.020 / 3600.0
    out["ra"] = (bright.ra + mas20 * noise[:, 0] / np.cos(np.deg2rad(bright.dec))) * u.deg
    out["dec"] = (bright.dec + mas20 * noise[:, 1]) * u.deg
    for k, band in enumerate(bands):
        true = flux_to_magnitude(bright.flux(band, "standard"))
        error = _reference_error(model, true)
        out[f"mag_{band}"] = (true + error * noise[:, 2 + k] + outlier) * u.mag
        out[f"mag_{band}_err"] = error * u.mag
        out[f"mag_{band}"].description = f"AB magnitude, {model.bands[k].standard}"
    return out


def system_ties(model: SurveyModel, stars: StarCatalog) -> dict[str, dict[str, float]]:
    """How the instrument's own system is tied to the reference catalogue, band by band.

    A zero-point fit with a linear colour term makes the two systems agree at one colour, the pivot
    c0. Over the true reference stars, weighted as the catalogue's errors, the fit is
    ``m_natural - m_standard = tie + slope (colour - c0)``, both on the AB scale.

    Parameters
    ----------
    model : SurveyModel
        The survey; the colour is (first band - last band), the pivot `SurveyModel.color_pivot`.
    stars : StarCatalog
        The truth.

    Returns
    -------
    dict
        By band: ``tie``, ``slope``, ``scatter`` in magnitudes. Subtract ``tie`` from natural AB
        magnitudes to have them on the scale of the reference catalogue.

    Examples
    --------
    >>> model = SurveyModel()
    >>> ties = system_ties(model, draw_stars(model, 60.0, rng_seed=1))
    >>> bool(-0.05 < ties["g"]["slope"] < -0.02 and ties["g"]["scatter"] < 0.003)
    True
    """
    standard = {b.name: flux_to_magnitude(stars.flux(b.name, "standard")) for b in model.bands}
    color = standard[model.bands[0].name] - standard[model.bands[-1].name]
    bright = standard[model.bands[-1].name] < model.stars.reference_limit
    out = {}
    for band in (b.name for b in model.bands):
        y = (flux_to_magnitude(stars.flux(band)) - standard[band])[bright]
        x = color[bright] - model.color_pivot
        weight = 1.0 / _reference_error(model, standard[band][bright])
        order = 1 if np.ptp(x) > 0.01 and x.size > 2 else 0
        fit = np.polyfit(x, y, order, w=weight) if x.size else np.zeros(order + 1)
        residual = y - np.polyval(fit, x)
        out[band] = {
            "tie": float(fit[-1]),
            "slope": float(fit[0]) if order else 0.0,
            "scatter": float(np.sqrt(np.mean(residual**2))) if x.size else 0.0,
        }
    return out


def _reference_error(model: SurveyModel, magnitude: np.ndarray) -> np.ndarray:
    """Error of the reference catalogue's magnitudes."""
    faint = 0.008 * 10.0 ** (0.3 * (magnitude - 20.5))
    return np.hypot(model.stars.reference_floor, faint)
