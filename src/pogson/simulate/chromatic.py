"""A camera with chromatic flats under a coloured sky, with known truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy.table import Table

from pogson.fields import Box, ChebyshevField, PixelAreaField
from pogson.images import ChromaticFlat, Exposure, Flattening
from pogson.psf import MoffatPSF
from pogson.sed import Bandpass, Spectrum, stellar_template
from pogson.sky import FitsSkyMap
from pogson.streams import stream
from pogson.units import Measure

__all__ = ["ChromaticModel", "ChromaticScene", "simulate_chromatic"]


@dataclass(frozen=True)
class ChromaticModel:
    """What `simulate_chromatic` draws.

    Parameters
    ----------
    detectors : int
        Detectors side by side.
    size : int
        Pixels on a side of each.
    area_gradient : float
        Relative change of the pixel area from one side of a detector to the other.
    chromatic : float
        Relative difference between the flats for sky and stars, from side to side.
    sky_level : float
        Surface brightness of the sky in electrons per reference pixel.
    sky_gradient : float
        Relative change of the sky over the whole focal plane.
    pedestal : float
        Spread of constants added to the detectors, electrons.
    temperatures : tuple of float
        Effective temperatures of the stars in kelvin, 3500 to 12000; each gets the same number.
    stars : int
        Stars on each detector, on a jittered grid.
    flux : float
        Electrons of each star.
    bandpass : str
        speclite's name.

    Examples
    --------
    >>> ChromaticModel(detectors=1).area_gradient
    0.1
    """

    detectors: int = 3
    size: int = 1024
    area_gradient: float = 0.10
    chromatic: float = 0.05
    sky_level: float = 1500.0
    sky_gradient: float = 0.03
    pedestal: float = 2.0
    temperatures: tuple[float, ...] = (3500.0, 4200.0, 5000.0, 5800.0, 7000.0, 10000.0)
    stars: int = 150
    flux: float = 2e7
    bandpass: str = "decam2014-r"


@dataclass(frozen=True, eq=False)
class ChromaticScene:
    """Exposures of `simulate_chromatic` and their truth.

    Parameters
    ----------
    exposures : tuple of Exposure
        One a detector: fluence in electrons, flattened for the fiducial spectrum, sky included.
    stars : astropy.table.Table
        ``detector`` (index), ``x``, ``y``, ``flux`` (electrons), ``teff``.
    spectra : dict of float to Spectrum
        By temperature.
    sky_sed, fiducial : Spectrum
        Spectrum of the sky, and of the star for which fluxes are calibrated.
    sky : tuple of Field
        True surface brightness of the sky on each detector under its own spectrum, pedestal in it.

    Examples
    --------
    See `simulate_chromatic`.
    """

    exposures: tuple[Exposure, ...]
    stars: Table
    spectra: dict[float, Spectrum]
    sky_sed: Spectrum
    fiducial: Spectrum
    sky: tuple[ChebyshevField, ...]


def simulate_chromatic(model: ChromaticModel, *, rng_seed: int) -> ChromaticScene:
    """Draw stars of many colours and a red sky on a camera whose flat depends on wavelength.

    A pixel counts its star light times the throughput for that star's spectrum, and sky light times
    its area times the throughput for the sky's spectrum; the counts (with photon noise) are divided
    by the flat for the fiducial spectrum. No spectrum but the fiducial one is flat in the result.

    Parameters
    ----------
    model : ChromaticModel
        What to draw.
    rng_seed : int
        Seed of the noise and of the positions.

    Examples
    --------
    >>> scene = simulate_chromatic(ChromaticModel(detectors=1, size=128, stars=4), rng_seed=1)
    >>> scene.exposures[0].measure.value, scene.exposures[0].flattening_sed, len(scene.stars)
    ('fluence', 'template 5800 K', 4)
    """
    bandpass = Bandpass.from_speclite(model.bandpass)
    spectra = {t: stellar_template(t) for t in model.temperatures}
    fiducial = spectra.get(5800.0) or stellar_template(5800.0)
    lam = fiducial.wavelength
    # airglow and moonlight: redder than any star here
    sky_sed = Spectrum(lam, 1e-17 * (lam / 6000.0) ** 3.0, name="night sky")
    exposures, tables, skies = [], [], []
    for index in range(model.detectors):
        exposure, table, sky = _detector(
            model, index, bandpass, spectra, fiducial, sky_sed, rng_seed
        )
        exposures.append(exposure)
        tables.append(table)
        skies.append(sky)
    stars = Table({name: np.concatenate([t[name] for t in tables]) for name in tables[0]})
    return ChromaticScene(tuple(exposures), stars, spectra, sky_sed, fiducial, tuple(skies))


def _detector(
    model: ChromaticModel,
    index: int,
    bandpass: Bandpass,
    spectra: dict[float, Spectrum],
    fiducial: Spectrum,
    sky_sed: Spectrum,
    rng_seed: int,
) -> tuple[Exposure, dict[str, np.ndarray], ChebyshevField]:
    rng = stream(rng_seed, "chromatic", index)
    box = Box(0, 0, model.size, model.size)
    flat = _flat(model, box, bandpass, fiducial, sky_sed, sign=1 if index % 2 == 0 else -1)
    area = PixelAreaField(ChebyshevField(box, [[1.0, 0.5 * model.area_gradient]]))
    sky, wcs = _sky(model, index, box, rng)
    x, y, teff = _positions(model, rng)
    psf = MoffatPSF(4.0, 3.5)
    counts = (sky * area * flat.flat_for(sky_sed, bandpass)).render()
    for t, spectrum in spectra.items():
        here = np.flatnonzero(teff == t)
        throughput = flat.flat_for(spectrum, bandpass).render()
        light = np.zeros(box.shape)
        stamps, x0, y0 = psf.draw_many(x=x[here], y=y[here], half_size=30)
        for stamp, i, j in zip(stamps, x0, y0, strict=True):
            light[j : j + stamp.shape[0], i : i + stamp.shape[1]] += model.flux * stamp
        counts += light * throughput
    now = Flattening(flat, bandpass, fiducial, fiducial)
    divisor = now.field().render()
    noisy = rng.poisson(counts)
    exposure = Exposure(
        noisy / divisor,
        unit="electron",
        measure=Measure.FLUENCE,
        variance=counts / divisor**2,
        box=box,
        sky=wcs,
        psf=psf,
        area_ratio=area,
        flattening=now,
        bandpass=model.bandpass,
        detector=f"ccd{index}",
        metadata={"gain": 1.0},
    )
    table = {
        "detector": np.full(x.size, index),
        "x": x,
        "y": y,
        "flux": np.full(x.size, model.flux),
        "teff": teff,
    }
    return exposure, table, sky


def _flat(
    model: ChromaticModel,
    box: Box,
    bandpass: Bandpass,
    fiducial: Spectrum,
    sky_sed: Spectrum,
    sign: int,
) -> ChromaticFlat:
    """Return a flat whose slope turns over the band, scaled to the model's sky-star difference."""
    first, last = bandpass.wavelength_range
    middle = bandpass.pivot_wavelength
    nodes = [first, middle - 700.0, middle, middle + 700.0, last]

    def with_slope(slope: float) -> ChromaticFlat:
        slopes = slope * np.array([1.0, 1.0, 0.1, -1.0, -1.0])
        return ChromaticFlat.from_fields(
            nodes,
            [ChebyshevField(box, [[1.0, s, 0.1 * s], [0.02, 0.0, 0.0]]) for s in slopes],
            name="simulated",
        )

    trial = with_slope(0.1)
    ratio = trial.flat_for(sky_sed, bandpass) / trial.flat_for(fiducial, bandpass)
    y = 0.5 * (box.ny - 1)
    difference = float(ratio(x=box.x_max, y=y) - ratio(x=box.x_min, y=y))
    return with_slope(sign * 0.1 * model.chromatic / abs(difference))


def _sky(
    model: ChromaticModel, index: int, box: Box, rng: np.random.Generator
) -> tuple[ChebyshevField, FitsSkyMap]:
    """Return the sky's surface brightness on a detector, pedestal included, and its WCS."""
    pitch = model.size + 40
    left = index * pitch - 0.5 * (model.detectors * pitch - 40)
    wcs = FitsSkyMap.tan(150.0, 2.0, x=-left, y=0.5 * model.size, scale_arcsec=0.27)
    half = 0.5 * model.detectors * pitch
    center, slope = (left + 0.5 * model.size) / half, 0.5 * model.size / half
    level = model.sky_level * (1 + 0.5 * model.sky_gradient * center)
    level += float(rng.normal()) * model.pedestal
    tilt = model.sky_level * 0.5 * model.sky_gradient * slope
    return ChebyshevField(box, [[level, tilt]], "electron"), wcs


def _positions(
    model: ChromaticModel, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return star positions on a jittered grid away from the edges, and their temperatures."""
    side = int(np.ceil(np.sqrt(model.stars)))
    step = (model.size - 80.0) / side
    grid = 40.0 + step * (np.arange(side) + 0.5)
    xx, yy = (a.ravel()[: model.stars] for a in np.meshgrid(grid, grid))
    jitter = rng.uniform(-0.5, 0.5, (2, model.stars))
    kinds: Sequence[float] = model.temperatures
    teff = np.array([kinds[k % len(kinds)] for k in range(model.stars)])
    return xx + jitter[0], yy + jitter[1], rng.permutation(teff)
