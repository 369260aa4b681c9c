"""Real exposures and simulated skies for the tests of the scene room.

``python tests/scene/scene_campaigns.py NAME [N] [SEED]`` runs a campaign and prints its figures;
names: injection, free_grid (no prior), poisson, binaries, false_alarms.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from pogson.fields import Box
from pogson.scene import (
    PointSource,
    SceneExposure,
    SceneGrid,
    SceneModel,
    fit_binary,
    fit_scene,
    offset_position,
    scale_from_zero_point,
)
from pogson.scene.design import PsfTable, local_matrices
from pogson.sky import FitsSkyMap

HITS = ("a", "b", "total", "ratio", "separation")
"""What the intervals of a pair are given for."""

Find = Callable[[str], Path]


def load(find: Find, target: str) -> tuple[list[SceneExposure], str, tuple[float, float]]:
    """Return the exposures of a target, the detection's name, and its position."""
    from astropy.io import fits
    from astropy.table import Table

    from pogson.formats.piff import read_piff

    table = Table.read(find("des-smp/exposures.ecsv"))
    exposures, detection, position = [], "", (0.0, 0.0)
    for row in table[table["target"] == target]:
        name = f"{row['expnum']}_{row['ccdnum']}"
        sky = FitsSkyMap(fits.Header.fromtextfile(find(f"des-smp/wcs/{name}.hdr")))
        box = Box(int(np.ceil(row["x_fits"] - 15)), int(np.ceil(row["y_fits"] - 15)), 30, 30)
        psf = read_piff(find(f"des-smp/psf/{name}_piff.fits"), sky, box=box)
        with fits.open(find(f"des-smp/stamps/{target}_{row['expnum']}.fits")) as hdus:
            image, mask, weight = (hdus[k].data for k in ("SCI", "MSK", "WGT"))
        with np.errstate(divide="ignore"):
            variance = 1.0 / weight.astype(float)
        scale = scale_from_zero_point(row["zeropoint"], 30.0)
        exposures.append(
            SceneExposure(
                image,
                variance,
                box,
                sky,
                psf,
                scale,
                mask > 0,
                exposure_id=str(row["expnum"]),
                flux_zero_point=30.0,
            )
        )
        if row["is_detection"]:
            detection = str(row["expnum"])
        position = (float(row["ra"]), float(row["dec"]))
    return exposures, detection, position


def sersic_points(rng: np.random.Generator, n: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Return offsets in arcsec of equal parts of the light of a random Sersic galaxy."""
    from scipy.special import gammaincinv

    index, half_light = rng.uniform(1.0, 3.5), rng.uniform(0.3, 1.2)
    axis_ratio, angle = rng.uniform(0.3, 1.0), rng.uniform(0, np.pi)
    center = (
        1.5 * np.sqrt(rng.random()) * np.array([np.cos(a := rng.uniform(0, 2 * np.pi)), np.sin(a)])
    )
    # quantiles of the enclosed light, truncated at 95 %, and angles by the golden ratio
    part = 0.95 * (np.arange(n) + 0.5) / n
    radius = half_light * (gammaincinv(2 * index, part) / gammaincinv(2 * index, 0.5)) ** index
    turn = 2 * np.pi * ((np.arange(n) * 0.6180339887498949) % 1.0)
    u = radius * np.cos(turn) / np.sqrt(axis_ratio) * np.sqrt(1.0)
    v = radius * np.sin(turn) * np.sqrt(axis_ratio)
    return (
        center[0] + u * np.cos(angle) - v * np.sin(angle),
        center[1] + u * np.sin(angle) + v * np.cos(angle),
    )


def light(
    exposure: SceneExposure, ra: float, dec: float, xi: np.ndarray, eta: np.ndarray
) -> np.ndarray:
    """Return the mean image of unit-flux points at offsets from a position."""
    x, y = exposure.sky.pixel(ra, dec)
    table = PsfTable.of(exposure.psf, x=float(x), y=float(y), reach=60)
    px, py = exposure.sky.pixel(*offset_position(ra, dec, np.atleast_1d(xi), np.atleast_1d(eta)))
    total = np.zeros(exposure.box.shape)
    for part in np.array_split(np.arange(px.size), max(1, px.size // 500)):
        matrices = local_matrices(exposure.psf, px[part], py[part])
        total += table.render(px[part], py[part], exposure.box, matrices).sum(axis=0)
    return total / px.size


def noisy(exposure: SceneExposure, image: np.ndarray, rng: np.random.Generator) -> SceneExposure:
    """Return an exposure with this image (common unit) and noise of its own variance.

    With a gain, the photons of all that stands above the median add theirs.
    """
    variance = np.where(exposure.good, exposure.variance, 1.0)
    if exposure.gain is not None:
        variance = (
            variance + np.maximum(image - np.median(image), 0.0) / exposure.scale / exposure.gain
        )
    counts = image / exposure.scale + rng.normal(size=image.shape) * np.sqrt(variance)
    return replace(exposure, image=np.where(exposure.good, counts, np.nan))


def sigma_sky(exposure: SceneExposure) -> float:
    """Return the median pixel noise in the common unit."""
    return float(exposure.scale * np.sqrt(np.median(exposure.variance[exposure.good])))


def injection(
    find: Find,
    count: int,
    rng: np.random.Generator,
    model_options: dict | None = None,
    per_host: int = 8,
    gain: float | None = None,
) -> dict[str, np.ndarray]:
    """Inject moving point sources over random Sersic hosts; return fluxes, errors, truths."""
    exposures, detection, (ra, dec) = load(find, "2014vv39")
    exposures = [replace(e, gain=gain) for e in exposures]
    rows: list[tuple[float, ...]] = []
    host: dict[str, np.ndarray] = {}
    brightness = 0.0
    for i in range(count):
        if i % per_host == 0:
            points = sersic_points(rng)
            host = {e.exposure_id: light(e, ra, dec, *points) for e in exposures}
            first = next(e for e in exposures if e.exposure_id == detection)
            brightness = rng.uniform(0.0, 10.0)
            level = brightness * sigma_sky(first) / host[detection].max()
            host = {k: level * v for k, v in host.items()}
        at = offset_position(ra, dec, *rng.uniform(-0.4, 0.4, 2))
        star = light(first, *at, np.zeros(1), np.zeros(1))
        noise = np.where(first.good, first.scale * np.sqrt(first.variance), np.inf)
        truth = np.exp(rng.uniform(np.log(3.0), np.log(50.0))) / np.sqrt(
            np.sum((star / noise) ** 2)
        )
        images = {k: v + (truth * star if k == detection else 0.0) for k, v in host.items()}
        skies = rng.normal(0.0, 3.0, len(exposures))
        data = [
            noisy(e, images[e.exposure_id] + s * sigma_sky(e), rng)
            for e, s in zip(exposures, skies, strict=True)
        ]
        source = PointSource("target", float(at[0]), float(at[1]), epochs=detection)
        result = fit_scene(data, SceneModel(source, **(model_options or {})))
        flux, error = result.flux()
        moved = any(o.applied for o in result.origins.values())
        rows.append((truth, flux, error, brightness, float(moved)))
    names = ("truth", "flux", "error", "brightness", "moved")
    return dict(zip(names, np.array(rows).T, strict=True))


def pull_summary(found: dict[str, np.ndarray]) -> dict[str, float]:
    """Return mean and spread of pulls, and the flux bias weighted by S/N squared."""
    pull = (found["flux"] - found["truth"]) / found["error"]
    weight = found["truth"] / found["error"]
    return {
        "n": float(pull.size),
        "mean": float(pull.mean()),
        "std": float(pull.std(ddof=1)),
        "bias_percent": 100 * float(np.sum(weight * pull) / np.sum(weight**2)),
        "bias_error_percent": 100 / float(np.sqrt(np.sum(weight**2))),
        "moved": float(found["moved"].mean()) if "moved" in found else 0.0,
    }


def binaries(
    find: Find,
    count: int,
    rng: np.random.Generator,
    *,
    signal: tuple[float, float] = (100.0, 300.0),
    single: bool = False,
) -> dict[str, np.ndarray]:
    """Simulate pairs (or singles) in the VV39 detection; return what the binary fit says."""
    exposures, detection, (ra, dec) = load(find, "2014vv39")
    first = next(e for e in exposures if e.exposure_id == detection)
    references = [e for e in exposures if e.exposure_id != detection][:3]
    scale = float(first.sky.pixel_scale(x=first.box.center[0], y=first.box.center[1]))
    noise = np.where(first.good, first.scale * np.sqrt(first.variance), np.inf)
    rows = []
    for i in range(count):
        separation = rng.uniform(0.5, 4.0) * scale
        ratio = rng.uniform(0.2, 1.0)
        angle = rng.uniform(0, 2 * np.pi)
        middle = rng.uniform(-0.13, 0.13, 2)
        half = 0.5 * separation * np.array([np.cos(angle), np.sin(angle)])
        shape = light(first, ra, dec, middle[:1], middle[1:])
        total = rng.uniform(*signal) / np.sqrt(np.sum((shape / noise) ** 2))
        if single:
            image = total * shape
        else:
            a, b = middle + half, middle - half
            image = total / (1 + ratio) * light(first, ra, dec, a[:1], a[1:])
            image = image + total * ratio / (1 + ratio) * light(first, ra, dec, b[:1], b[1:])
        data = [noisy(first, image, rng)]
        data += [noisy(e, np.zeros(e.box.shape), rng) for e in references]
        source = PointSource("pair", ra, dec, epochs=detection, position="free")
        found = fit_binary(data, SceneModel(source, origin_test=False), seed=i)
        fluxes, errors = found.binary.fluxes, found.binary.flux_err
        said = found.intervals
        rows.append(
            (
                separation / scale, ratio, total, fluxes[0], errors[0], fluxes[1], errors[1],
                found.separation / scale, found.separation_err / scale, found.delta_chi2,
                float(found.is_binary), found.single.fluxes[0], found.single.flux_err[0],
                float(np.ptp(found.binary.starts)), found.log_bayes_factor,
                said["flux_a"].covers(total / (1 + ratio)),
                said["flux_b"].covers(total * ratio / (1 + ratio)),
                said["flux_total"].covers(total), said["flux_ratio"].covers(ratio),
                said["separation"].covers(separation),
            )
        )  # fmt: skip
    names = (
        "separation", "ratio", "total", "flux_a", "error_a", "flux_b", "error_b",
        "found_separation", "separation_error", "delta_chi2", "is_binary", "single",
        "single_error", "spread", "log_bayes_factor", "hit_a", "hit_b", "hit_total", "hit_ratio",
        "hit_separation",
    )  # fmt: skip
    return dict(zip(names, np.array(rows).T, strict=True))


def main() -> None:
    name, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 100
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else int(time.time())
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    root = Path(__file__).resolve().parents[3] / "shared" / "data"

    def find(path: str) -> Path:
        return root / path

    start = time.time()
    if name == "injection":
        print(pull_summary(injection(find, count, rng)))
    elif name == "poisson":
        # half an electron per count: photon noise of the brightest sources equals the sky's
        print(pull_summary(injection(find, count, rng, gain=0.5)))
    elif name == "free_grid":
        options = {"prior": None, "grid": SceneGrid.smp2023()}
        print(pull_summary(injection(find, count, rng, options)))
    else:
        found = binaries(find, count, rng, single=name == "false_alarms")
        bright = found["total"] / (1 + found["ratio"])
        faint = found["total"] - bright
        for low, high in ((0.5, 1.0), (1.0, 2.0), (2.0, 4.0), (0.5, 4.0)):
            use = (found["separation"] >= low) & (found["separation"] < high)
            first_order = [
                np.mean(np.abs(found[f"flux_{k}"] - truth)[use] < found[f"error_{k}"][use])
                for k, truth in (("a", bright), ("b", faint))
            ]
            shares = {k: found[f"hit_{k}"][use].mean() for k in HITS}
            print(
                f"separation {low}-{high} px: {use.sum()} trials, called binary "
                f"{found['is_binary'][use].mean():.3f}, starts agree "
                f"{np.mean(found['spread'][use] < 1e-3):.3f}; coverage "
                + ", ".join(f"{k} {v:.3f}" for k, v in shares.items())
                + "; first-order errors a {:.3f} b {:.3f}".format(*first_order)
            )
        print("largest delta chi2", np.sort(found["delta_chi2"])[-5:].round(2))
    print(f"{(time.time() - start) / count:.2f} s each")


if __name__ == "__main__":
    main()
