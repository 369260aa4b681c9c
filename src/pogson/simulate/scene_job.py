"""Stamps with known truth for scene photometry: sources over galaxies, with all their files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import PogsonValueError, choices
from pogson.fields import Box
from pogson.streams import stream
from pogson.units import NJY_AB_MAGNITUDE

if TYPE_CHECKING:
    from pogson.psf import PSF
    from pogson.scene import SceneExposure
    from pogson.sky import SkyMap

__all__ = ["SceneJobModel", "SceneTruth", "simulate_scene", "write_scene_job"]

_KINDS = ("detection", "light_curve", "binary")
# A galaxy as a sum of round Gaussians: widths in units of its size, and their shares of the light.
_WIDTHS = (0.35, 0.8, 1.6)
_SHARES = (0.25, 0.45, 0.30)


@dataclass(frozen=True)
class SceneJobModel:
    """What is simulated; every target is on every exposure.

    Parameters
    ----------
    kind : {"detection", "light_curve", "binary"}
        A source in the first exposure; one that varies over all but the first third of them; two
        sources in the first.
    n_targets, n_exposures : int
        How many.
    size : int
        Side of a stamp in pixels.
    scale_arcsec : float
        Pixel scale.
    fwhm : tuple of float
        Range of the PSF's full width at half maximum over the exposures, in pixels.
    flux : tuple of float
        Range of the sources' fluxes in nJy, uniform in the logarithm.
    host_flux : tuple of float
        Range of the galaxies' fluxes in nJy, uniform in the logarithm; (0, 0): no galaxies.
    host_offset : float
        Galaxies lie at most this far from their source, in arcsec.
    host_size : tuple of float
        Range of the galaxies' sizes, in arcsec.
    sky_noise : float
        Noise of a pixel in nJy, without sources.
    gain : float
        Electrons per count.
    separation : float
        Distance of a binary's components in arcsec.
    flux_ratio : float
        Fainter over brighter component.

    Examples
    --------
    >>> SceneJobModel(n_targets=2).kind
    'detection'
    """

    kind: str = "detection"
    n_targets: int = 3
    n_exposures: int = 6
    size: int = 31
    scale_arcsec: float = 0.263
    fwhm: tuple[float, float] = (3.2, 4.6)
    flux: tuple[float, float] = (300.0, 3000.0)
    host_flux: tuple[float, float] = (1000.0, 20000.0)
    host_offset: float = 1.5
    host_size: tuple[float, float] = (0.3, 1.0)
    sky_noise: float = 6.0
    gain: float = 4.0
    separation: float = 0.7
    flux_ratio: float = 0.6

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise PogsonValueError(f"kind={self.kind!r}; allowed: {choices(_KINDS)}.")
        if self.n_targets < 1 or self.n_exposures < 2:
            raise PogsonValueError(
                f"n_targets={self.n_targets} must be 1 or more, n_exposures={self.n_exposures} 2 "
                "or more."
            )


@dataclass(frozen=True)
class SceneTruth:
    """What was put in for one target.

    Parameters
    ----------
    name : str
        Of the target.
    ra, dec : float
        Of the source in degrees (of the brighter one of a binary's two).
    fluxes : tuple of float
        Flux in nJy in each exposure.
    second : tuple of float or None
        Position and flux of the second source.
    host : tuple of float
        Position of the galaxy, its flux and size in arcsec.

    Examples
    --------
    >>> exposures, truth = simulate_scene(SceneJobModel(n_exposures=3, flux=(800, 801)), rng_seed=1)
    >>> [round(flux) for flux in truth.fluxes]
    [800, 0, 0]
    """

    name: str
    ra: float
    dec: float
    fluxes: tuple[float, ...]
    second: tuple[float, float, float] | None
    host: tuple[float, float, float, float]


@dataclass(frozen=True)
class _Night:
    """One exposure: names, PSF, map and scale."""

    name: str
    time: float
    psf: PSF
    sky: SkyMap
    zero_point: float


def _nights(model: SceneJobModel, rng_seed: int) -> list[_Night]:
    from pogson.psf import GaussianPSF
    from pogson.sky import FitsSkyMap

    nights = []
    for number in range(model.n_exposures):
        rng = stream(rng_seed, "exposure", number)
        sky = FitsSkyMap.tan(
            150.0,
            2.0,
            x=1000.0 + rng.uniform(-20, 20),
            y=1000.0 + rng.uniform(-20, 20),
            scale_arcsec=model.scale_arcsec,
            rotation_deg=rng.uniform(-2.0, 2.0),
        )
        psf = GaussianPSF(fwhm=float(rng.uniform(*model.fwhm)))
        zero_point = float(31.0 + rng.uniform(-0.3, 0.3))
        name = f"{100 + number}"
        nights.append(_Night(name, 60000.0 + 5.0 * number, psf, sky, zero_point))
    return nights


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return 0.0 if high <= 0 else float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _truth(model: SceneJobModel, number: int, rng_seed: int) -> SceneTruth:
    from pogson.scene.grid import offset_position

    rng = stream(rng_seed, "target", number)
    ra, dec = offset_position(150.0, 2.0, rng.uniform(-120, 120), rng.uniform(-120, 120))
    flux = _log_uniform(rng, *model.flux)
    angle, radius = rng.uniform(0, 2 * np.pi), model.host_offset * np.sqrt(rng.uniform())
    host = offset_position(ra, dec, radius * np.cos(angle), radius * np.sin(angle))
    host_flux = _log_uniform(rng, *model.host_flux)
    size = float(rng.uniform(*model.host_size))
    fluxes = [flux if k == 0 else 0.0 for k in range(model.n_exposures)]
    second = None
    if model.kind == "light_curve":
        first = model.n_exposures // 3
        age = np.arange(model.n_exposures) - first
        fluxes = [float(flux * a * np.exp(1 - a / 2.0) / 2.0) if a > 0 else 0.0 for a in age]
    if model.kind == "binary":
        turn = rng.uniform(0, 2 * np.pi)
        at = offset_position(
            ra, dec, model.separation * np.cos(turn), model.separation * np.sin(turn)
        )
        second = (float(at[0]), float(at[1]), model.flux_ratio * flux)
    return SceneTruth(
        f"t{number:04d}", float(ra), float(dec), tuple(fluxes), second,
        (float(host[0]), float(host[1]), host_flux, size),
    )  # fmt: skip


def _light(model: SceneJobModel, night: _Night, truth: SceneTruth, k: int, box: Box) -> np.ndarray:
    """Return the light of galaxy and sources on a box, in nJy."""
    from pogson.psf import GaussianPSF

    image = np.zeros(box.shape)

    def add(psf: PSF, ra: float, dec: float, flux: float) -> None:
        x, y = night.sky.pixel(ra, dec)
        reach = int(max(box.nx, box.ny) + np.hypot(x - box.center[0], y - box.center[1])) + 1
        stamp = psf.draw(x=x, y=y, half_size=reach)
        part = box.slices(stamp.box)
        image[...] += flux * stamp.image[part]

    fwhm = float(night.psf.fwhm(x=0.0, y=0.0))
    ra, dec, flux, size = truth.host
    for width, share in zip(_WIDTHS, _SHARES, strict=True):
        if flux > 0:  # Gaussians convolve by adding variances
            wide = np.hypot(fwhm, 2.3548 * width * size / model.scale_arcsec)
            add(GaussianPSF(fwhm=float(wide)), ra, dec, share * flux)
    if truth.fluxes[k] != 0:
        add(night.psf, truth.ra, truth.dec, truth.fluxes[k])
    if truth.second is not None and k == 0:
        add(night.psf, *truth.second)
    return image


def _stamp(
    model: SceneJobModel, night: _Night, truth: SceneTruth, k: int, rng_seed: int
) -> tuple[np.ndarray, np.ndarray, Box]:
    """Return pixels and variance in counts, and the box of a stamp."""
    x, y = night.sky.pixel(truth.ra, truth.dec)
    half = model.size // 2
    box = Box(int(np.floor(x + 0.5)) - half, int(np.floor(y + 0.5)) - half, model.size, model.size)
    counts_per_njy = 10.0 ** (0.4 * (night.zero_point - NJY_AB_MAGNITUDE))
    light = counts_per_njy * _light(model, night, truth, k, box)
    rng = stream(rng_seed, "noise", truth.name, k)
    variance = (model.sky_noise * counts_per_njy) ** 2
    noise = rng.normal(size=box.shape) * np.sqrt(variance + light / model.gain)
    level = 50.0 + 10.0 * rng.normal()
    return light + noise + level, np.full(box.shape, variance), box


def simulate_scene(
    model: SceneJobModel, *, number: int = 0, rng_seed: int
) -> tuple[list[SceneExposure], SceneTruth]:
    """Simulate the exposures of one target in memory.

    Parameters
    ----------
    model : SceneJobModel
        What is simulated.
    number : int, optional
        Which target, from 0; each has its own random stream.
    rng_seed : int
        Seed.

    Returns
    -------
    exposures : list of SceneExposure
        Scaled to nJy; the variance is that of the sky.
    truth : SceneTruth
        What was put in.

    Examples
    --------
    >>> exposures, truth = simulate_scene(SceneJobModel(n_exposures=3), rng_seed=1)
    >>> [e.exposure_id for e in exposures], sum(f > 0 for f in truth.fluxes)
    (['100', '101', '102'], 1)
    """
    from pogson.scene import SceneExposure, scale_from_zero_point

    truth = _truth(model, number, rng_seed)
    exposures = []
    for k, night in enumerate(_nights(model, rng_seed)):
        image, variance, box = _stamp(model, night, truth, k, rng_seed)
        exposures.append(
            SceneExposure(
                image,
                variance,
                box,
                night.sky,
                night.psf,
                scale_from_zero_point(night.zero_point, NJY_AB_MAGNITUDE),
                exposure_id=night.name,
                gain=model.gain,
                time=night.time,
            )
        )
    return exposures, truth


def write_scene_job(
    model: SceneJobModel, folder: str | Path, *, rng_seed: int
) -> tuple[Path, list[SceneTruth]]:
    """Simulate targets into a folder with all that `pogson scene` needs.

    Parameters
    ----------
    model : SceneJobModel
        What is simulated.
    folder : path-like
        Gets ``stamps/``, ``psf/``, ``wcs/``, ``targets.ecsv``, ``truth.ecsv`` and ``scene.toml``.
    rng_seed : int
        Seed.

    Returns
    -------
    config : pathlib.Path
        The ``scene.toml``.
    truths : list of SceneTruth
        What was put in.

    Examples
    --------
    >>> import tempfile
    >>> config, truths = write_scene_job(
    ...     SceneJobModel(n_targets=1, n_exposures=2), tempfile.mkdtemp(), rng_seed=1)
    >>> sorted(p.name for p in config.parent.iterdir())
    ['psf', 'scene.toml', 'stamps', 'targets.ecsv', 'truth.ecsv', 'wcs']
    """
    import json

    from pogson.atomic import atomic_write_text

    root = Path(folder)
    nights = _nights(model, rng_seed)
    for night in nights:
        text = json.dumps(night.psf.to_dict())
        atomic_write_text(root / "psf" / f"{night.name}.json", text)
        cards = night.sky.to_header().tostring(sep="\n", endcard=False, padding=False)
        atomic_write_text(root / "wcs" / f"{night.name}.hdr", cards)
    truths = [_truth(model, number, rng_seed) for number in range(model.n_targets)]
    for truth in truths:
        for k, night in enumerate(nights):
            image, variance, _ = _stamp(model, night, truth, k, rng_seed)
            _write_stamp(root / "stamps" / f"{truth.name}_{night.name}.fits", image, variance)
    _write_tables(model, root, nights, truths)
    atomic_write_text(
        root / "scene.toml", _TOML.format(kind=_TOML_KIND[model.kind], gain=model.gain)
    )
    return root / "scene.toml", truths


def _write_stamp(path: Path, image: np.ndarray, variance: np.ndarray) -> None:
    from astropy.io import fits

    from pogson.atomic import atomic_path

    planes: Sequence[tuple[str, Any]] = (
        ("SCI", image.astype(np.float32)),
        ("MSK", np.zeros(image.shape, np.int16)),
        ("WGT", (1.0 / variance).astype(np.float32)),
    )
    hdus = [fits.PrimaryHDU(), *(fits.ImageHDU(data, name=name) for name, data in planes)]
    with atomic_path(path) as temporary:
        fits.HDUList(hdus).writeto(temporary)


def _write_tables(
    model: SceneJobModel, root: Path, nights: Sequence[_Night], truths: Sequence[SceneTruth]
) -> None:
    from astropy.table import Table

    from pogson.formats import write_catalog

    rows = [(t, k, n) for t in truths for k, n in enumerate(nights)]
    table = Table(
        {
            "target": [t.name for t, _, _ in rows],
            "exposure": [n.name for _, _, n in rows],
            "band": ["r"] * len(rows),
            "time": [n.time for _, _, n in rows],
            "zero_point": [n.zero_point for _, _, n in rows],
            "ra": [t.ra for t, _, _ in rows],
            "dec": [t.dec for t, _, _ in rows],
            "detection": [t.fluxes[k] > 0 for t, k, _ in rows],
        }
    )
    write_catalog(root / "targets.ecsv", table)
    truth = Table(
        {
            "target": table["target"],
            "exposure": table["exposure"],
            "flux": [t.fluxes[k] for t, k, _ in rows],
        }
    )
    write_catalog(root / "truth.ecsv", truth)


_TOML_KIND = {"detection": "detection", "light_curve": "auto", "binary": "binary"}
_TOML = """\
[targets]
table = "targets.ecsv"

[stamps]
files = "stamps/{{target}}_{{exposure}}.fits"
psf = "psf/{{exposure}}.json"
wcs = "wcs/{{exposure}}.hdr"
origin = "centered"
gain = {gain}

[model]
kind = "{kind}"
"""
