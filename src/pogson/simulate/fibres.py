"""A frame of fibre spectra with standard stars, with everything that is true about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import numpy as np

from pogson.errors import PogsonValueError
from pogson.sed import Spectrum, load_filter_curves, stellar_template, synthetic_magnitude
from pogson.spectro import FibreSpectra, LineSpread, Photometry, TemplateLibrary, spectral_transfer
from pogson.streams import stream

__all__ = [
    "FibreSimulation",
    "FibreTarget",
    "demo_library",
    "demo_response",
    "simulate_fibres",
    "telluric_transmission",
]

_BANDS = ("ps1_g", "ps1_r", "ps1_i", "ps1_z")
# first and last vacuum Angstrom, optical depth of the strongest lines at airmass 1, number of
# lines, power of the airmass
_TELLURIC = (
    (6865.0, 6955.0, 0.9, 60, 0.55),
    (7160.0, 7335.0, 0.35, 90, 0.65),
    (7594.0, 7695.0, 1.8, 60, 0.55),
    (8120.0, 8350.0, 0.45, 110, 0.65),
    (8930.0, 9195.0, 0.8, 130, 0.65),
)


def telluric_transmission(wavelength: Any, airmass: float = 1.0) -> np.ndarray:
    """Transmission of oxygen and water vapour with lines, as at a site of average humidity.

    Parameters
    ----------
    wavelength : array_like
        Vacuum Angstrom.
    airmass : float, optional
        Optical depth grows like its power 0.55 in the saturated O2 bands and 0.65 in those of H2O.

    Notes
    -----
    Five bands of Gaussian lines, 0.8 Angstrom wide, at places and of strengths drawn once and for
    all: the places and depths of the bands are those of the atmosphere, the single lines are not.

    Examples
    --------
    >>> through = telluric_transmission(np.linspace(7000.0, 7700.0, 7001))
    >>> bool(through[:1000].min() > 0.999), bool(through[6000:].min() < 0.3)
    (True, True)
    """
    lam = np.asarray(wavelength, np.float64)
    depth = np.zeros(lam.shape)
    for k, (low, high, strongest, n, power) in enumerate(_TELLURIC):
        rng = stream(20, "telluric", k)
        centre = rng.uniform(low, high, n)
        strength = strongest * rng.beta(1.0, 2.0, n)
        band = np.zeros(lam.shape)
        near = (lam > low - 20) & (lam < high + 20)
        for c, s in zip(centre, strength, strict=True):
            band[near] += s * np.exp(-0.5 * ((lam[near] - c) / 0.8) ** 2)
        depth += band * airmass**power
    return np.asarray(np.exp(-depth))


def demo_response(wavelength: Any) -> np.ndarray:
    """Response of a made-up spectrograph, counts/s/Angstrom for 1 erg/s/cm2/Angstrom.

    Examples
    --------
    >>> bool(demo_response(6000.0) > demo_response(4000.0))
    True
    """
    x = (np.asarray(wavelength, np.float64) - 6600.0) / 2800.0
    return np.asarray(6e14 * np.exp(-1.1 * x**2 - 0.3 * x) * (1 + 0.04 * np.sin(7 * x)))


@cache
def demo_library() -> TemplateLibrary:
    """Return 27 schematic stars from 5000 to 7000 K, on a grid in Teff and [Fe/H].

    Examples
    --------
    >>> len(demo_library())
    27
    """
    lam = np.geomspace(3200.0, 10800.0, 24000)
    nodes = [(t, z) for z in (-1.5, -0.75, 0.0) for t in np.arange(5000.0, 7001.0, 250.0)]
    flux = []
    for teff, feh in nodes:
        base = stellar_template(float(teff), metallicity=float(feh))
        flux.append(base.evaluate(lam) * _metal_lines(lam, teff, feh))
    teff, feh = np.array(nodes).T
    return TemplateLibrary.from_arrays(
        lam, np.array(flux), teff=teff, logg=4.25, feh=feh, name="schematic stars"
    )


def _metal_lines(lam: np.ndarray, teff: float, feh: float) -> np.ndarray:
    """Transmission of 400 narrow lines that deepen with metals and fade in hot stars."""
    rng = stream(21, "metal lines")
    centre = 3300.0 + 5700.0 * rng.beta(1.0, 2.5, 400)
    strength = 0.7 * rng.beta(1.0, 3.0, 400)
    depth = np.zeros(lam.size)
    grow = 10 ** (0.45 * feh) * (5800.0 / teff) ** 3
    for c, s in zip(centre, strength, strict=True):
        i, j = np.searchsorted(lam, (c - 6.0, c + 6.0))
        depth[i:j] += s * grow * np.exp(-0.5 * ((lam[i:j] - c) / 1.2) ** 2)
    return np.asarray(np.exp(-depth))


@dataclass(frozen=True, eq=False)
class FibreTarget:
    """What a fibre looks at.

    Parameters
    ----------
    name : str
        The target.
    wavelength, flux : ndarray, shape (n,)
        Vacuum Angstrom at rest, finely sampled, and erg/s/cm2/Angstrom in front of any dust.
    rv_kms, e_bv : float
        Radial velocity and reddening that it is given.
    grey : float
        Fraction of the light that enters the fibre.
    sn : float
        Signal-to-noise ratio per pixel, median.
    native : LineSpread, optional
        Broadening that ``flux`` has already.
    labels : dict, optional
        Teff, log g, [Fe/H], if it is a star.
    listed : ndarray, optional
        The flux that the catalogue believes in, if it is not ``flux``.

    Examples
    --------
    >>> FibreTarget("a", np.array([4000.0, 9000.0]), np.ones(2)).grey
    1.0
    """

    name: str
    wavelength: np.ndarray
    flux: np.ndarray
    rv_kms: float = 0.0
    e_bv: float = 0.0
    grey: float = 1.0
    sn: float = 50.0
    native: LineSpread | None = None
    labels: dict[str, float] = field(default_factory=dict)
    listed: np.ndarray | None = None

    def dusty(self, flux: np.ndarray | None = None) -> Spectrum:
        """The flux behind its dust (law F99), at rest."""
        base = self.flux if flux is None else flux
        return Spectrum(self.wavelength, base, name=self.name).redden(self.e_bv, law="F99")


@dataclass(frozen=True, eq=False)
class FibreSimulation:
    """A simulated frame and its truth.

    Parameters
    ----------
    frame : FibreSpectra
        What the spectrograph recorded.
    standards : dict of str to Photometry
        Magnitudes of the standard stars, by the name of the target.
    library : TemplateLibrary
        Models that the stars may be compared with.
    targets : tuple of FibreTarget
        What every fibre looked at, in the order of the rows.
    true_flux : ndarray, shape (n_fibre, n_pixel)
        Flux density above the atmosphere through the LSF, before fibre losses.
    response, transmission : ndarray, shape (n_pixel,)
        Counts/s/Angstrom per flux density, and the telluric transmission through the LSF.

    Examples
    --------
    >>> sim = simulate_fibres(seed=1, n_stars=2, n_fibres=3)
    >>> sim.frame.n_fibres, sorted(sim.standards)
    (3, ['star 1', 'star 2'])
    """

    frame: FibreSpectra
    standards: dict[str, Photometry]
    library: TemplateLibrary
    targets: tuple[FibreTarget, ...]
    true_flux: np.ndarray
    response: np.ndarray
    transmission: np.ndarray

    def true_factor(self, names: Sequence[str] | None = None) -> np.ndarray:
        """Flux density of one count for a fibre with the mean loss (geometric) of some stars.

        ``names``: the standards that count; all by default.
        """
        chosen = set(self.standards if names is None else names)
        grey = np.exp(np.mean([np.log(t.grey) for t in self.targets if t.name in chosen]))
        width = np.gradient(self.frame.wavelength)
        return np.asarray(
            1 / (self.response * self.transmission * width * self.frame.exposure_time * grey)
        )


def _draw(
    rng: np.random.Generator,
    sn: tuple[float, float],
    grey: tuple[float, float],
    rv: float,
    e_bv: tuple[float, float],
) -> dict[str, float]:
    return {
        "rv_kms": float(rng.uniform(-rv, rv)),
        "e_bv": float(rng.uniform(*e_bv)),
        "grey": float(rng.uniform(*grey)),
        "sn": float(np.exp(rng.uniform(*np.log(sn)))),
    }


def _library_star(
    name: str, library: TemplateLibrary, rng: np.random.Generator, drawn: dict[str, float]
) -> FibreTarget:
    labels = {
        "teff": float(rng.uniform(5750, 6750)),
        "logg": float(rng.uniform(library.logg.min(), library.logg.max())),
        "feh": float(rng.uniform(max(library.feh.min(), -1.8), library.feh.max())),
    }
    template = library.interpolate(labels["teff"], labels["logg"], labels["feh"])
    spectrum = template.to_spectrum()
    r = load_filter_curves(["ps1_r"])["ps1_r"].bandpass
    spectrum = spectrum.scaled_to(float(rng.uniform(15.5, 18.0)), r)
    return FibreTarget(
        name,
        spectrum.wavelength,
        spectrum.flux,
        native=library.native,
        labels=labels,
        rv_kms=drawn["rv_kms"],
        e_bv=drawn["e_bv"],
        grey=drawn["grey"],
        sn=drawn["sn"],
    )


def _catalogued(
    target: FibreTarget,
    bands: Sequence[str],
    magnitude_error: float,
    map_error: float,
    rng: np.random.Generator,
) -> Photometry:
    """Magnitudes and dust of a target, as a catalogue has them."""
    listed = target.dusty(target.listed)
    curves = load_filter_curves(bands)
    exact = np.array([synthetic_magnitude(listed, curves[b].bandpass) for b in bands])
    mags = exact + rng.normal(size=len(exact)) * magnitude_error
    dust = {"ebv": target.e_bv + rng.normal() * map_error, "ebv_error": map_error}
    return Photometry(tuple(bands), mags, np.full(len(mags), magnitude_error), dust)


def _observe(
    target: FibreTarget,
    lam: np.ndarray,
    spread: LineSpread,
    scale: np.ndarray,
    airmass: float,
    rng: np.random.Generator,
    from_counts: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Flux through the line spread, counts and their inverse variance, as a pipeline gives it."""
    native = 0.0 if target.native is None else target.native.sigma(target.wavelength)
    transfer = spectral_transfer(
        target.wavelength, lam, spread, native_sigma=native, rv_kms=target.rv_kms, samples="points"
    )
    source = target.dusty().flux
    beta = target.rv_kms / 299792.458
    observed = target.wavelength * np.sqrt((1 + beta) / (1 - beta))
    signal = transfer(source * telluric_transmission(observed, airmass)) * scale * target.grey
    level = float(np.nanmedian(signal))
    unit = (level / target.sn) ** 2
    seen = signal + rng.normal(size=lam.size) * np.sqrt(unit * (0.5 + 0.5 * signal / level))
    basis = seen if from_counts else signal
    return transfer(source), seen, 1 / (unit * (0.5 + 0.5 * np.maximum(basis, 0) / level))


def simulate_fibres(
    seed: int = 1,
    *,
    n_stars: int = 8,
    n_fibres: int = 20,
    library: TemplateLibrary | None = None,
    targets: Sequence[FibreTarget] | None = None,
    response: Callable[[np.ndarray], np.ndarray] = demo_response,
    wavelength: Any = None,
    resolution: tuple[float, float] = (1600.0, 2000.0),
    sn: tuple[float, float] = (10.0, 100.0),
    grey: tuple[float, float] = (0.6, 1.0),
    e_bv: tuple[float, float] = (0.0, 0.1),
    rv_limit: float = 150.0,
    airmass: float = 1.15,
    exposure_time: float = 900.0,
    magnitude_error: float = 0.01,
    map_error: float = 0.015,
    bands: Sequence[str] = _BANDS,
    ivar_from: Literal["counts", "truth"] = "counts",
) -> FibreSimulation:
    """Simulate one exposure of a multi-fibre spectrograph with standard stars among its targets.

    Parameters
    ----------
    seed : int, optional
        Everything follows from it.
    n_stars, n_fibres : int, optional
        Standard stars (the first rows, ``"star 1"`` ...) and fibres in all; the other fibres look
        at stars too.
    library : TemplateLibrary, optional
        Stars are drawn between its nodes; `demo_library` by default.
    targets : sequence of FibreTarget, optional
        The targets themselves; then the first ``n_stars`` of them are the standards.
    response : callable, optional
        Counts/s/Angstrom per erg/s/cm2/Angstrom at vacuum wavelengths; `demo_response` by default.
    wavelength : array_like, optional
        Pixel centres, vacuum Angstrom; 3800 to 9300 at 69 km/s a pixel by default.
    resolution : tuple of float, optional
        Resolving power at the blue and at the red end, linear between.
    sn, grey, e_bv : tuple of float, optional
        Ranges from which S/N a pixel, fibre transmission and reddening are drawn.
    rv_limit : float, optional
        Radial velocities are within it, km/s.
    airmass, exposure_time : float, optional
        Of the exposure.
    magnitude_error : float, optional
        Errors of the catalogue magnitudes.
    map_error : float, optional
        Error of the dust map whose E(B-V) comes with the photometry.
    bands : sequence of str, optional
        Names of the filter curves.
    ivar_from : {"counts", "truth"}, optional
        Whether inverse variances are made from the noisy counts, as pipelines do, or true.

    Returns
    -------
    FibreSimulation

    Raises
    ------
    PogsonValueError
        If there are fewer fibres than stars.

    Notes
    -----
    Stars are reddened (F99), absorbed by the atmosphere and only then convolved with the line
    spread and integrated over pixels by `pogson.spectro.spectral_transfer`, which is not what the
    fits use. Half of the noise variance is proportional to the counts, half of it constant.

    Examples
    --------
    >>> sim = simulate_fibres(seed=2, n_stars=3, n_fibres=4)
    >>> sim.frame
    FibreSpectra(4 fibres x 3887 pixels, 3800-9297.87 Angstrom, 15548 good pixels, count)
    """
    library = demo_library() if library is None else library
    if targets is None:
        rngs = [stream(seed, "target", i) for i in range(n_fibres)]
        targets = [
            _library_star(
                f"star {i + 1}" if i < n_stars else f"target {i + 1}", library, rng,
                _draw(rng, sn, grey, rv_limit, e_bv),
            )
            for i, rng in enumerate(rngs)
        ]  # fmt: skip
    if len(targets) < n_stars:
        raise PogsonValueError(f"There are {len(targets)} fibres for {n_stars} stars.")
    if wavelength is None:
        lam = 10 ** np.arange(np.log10(3800.0), np.log10(9300.0), 1e-4)
    else:
        lam = np.asarray(wavelength, np.float64)
    power = np.interp(lam, lam[[0, -1]], resolution)
    spread = LineSpread.from_sigma(lam / (2.3548200450309493 * power), wavelength=lam)
    r = response(lam)
    width = np.gradient(lam)
    flux, counts, ivar, standards = [], [], [], {}
    fine = np.geomspace(lam[0] * 0.99, lam[-1] * 1.01, 30000)
    smooth = spectral_transfer(fine, lam, spread)
    transmission = smooth(telluric_transmission(fine, airmass))
    scale = r * width * exposure_time
    for i, target in enumerate(targets):
        rng = stream(seed, "noise", i)
        above, seen, inverse = _observe(
            target, lam, spread, scale, airmass, rng, ivar_from == "counts"
        )
        flux.append(above)
        counts.append(seen)
        ivar.append(inverse)
        if i < n_stars:
            standards[target.name] = _catalogued(target, bands, magnitude_error, map_error, rng)
    frame = FibreSpectra(
        lam, np.array(counts), np.array(ivar), lsf_sigma=spread.sigma(lam),
        exposure_time=exposure_time, airmass=airmass, names=tuple(t.name for t in targets),
    )  # fmt: skip
    return FibreSimulation(
        frame, standards, library, tuple(targets), np.array(flux), r, np.asarray(transmission)
    )
