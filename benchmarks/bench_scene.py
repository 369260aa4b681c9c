"""Scene-modelling photometry beside the published algorithm, written out plainly, in one run.

The published algorithm (Bernardinelli et al. 2023): one Piff ``draw`` per grid point and exposure,
``scipy.sparse.linalg.lsqr`` at its default tolerance, and a dense covariance through a diagonal
weight matrix; a binary is a Powell search whose every evaluation draws two PSFs, builds the matrix
and runs lsqr again. Piff's reader would need pixmappy to unpickle the WCS in the files, so the Piff
objects are built in memory from the numeric tables and the FITS headers of the WCS: cheaper to draw
than the published ones. Powell's time is that of one evaluation, timed, times the number of
evaluations that Powell takes on our own objective.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "scene"))

import scene_campaigns as campaigns

from pogson.fields import Box
from pogson.scene import PointSource, SceneExposure, SceneGrid, SceneModel, fit_binary, fit_scene
from pogson.scene.design import PsfTable

_DATA = Path(
    os.environ.get("POGSON_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data"
)


def row(
    figure: str, ours: float, peer: float | None, peer_name: str, target: str, passed: bool | None
) -> dict[str, Any]:
    return {
        "figure": figure, "ours": float(ours), "peer": None if peer is None else float(peer),
        "peer_name": peer_name, "target": target, "passed": passed,
    }  # fmt: skip


def find(name: str) -> Path:
    return _DATA / name


def piff_psf(name: str) -> tuple[Any, Any]:
    """Return a Piff PSF made from the numeric tables of a file, without its pickled WCS."""
    import galsim
    import piff
    from astropy.io import fits

    with fits.open(find(f"des-smp/psf/{name}_piff.fits")) as hdus:
        interp = piff.BasisPolynomial(order=3)
        interp.q = np.array(hdus["psf_interp_solution"].data["q"][0], float)
        ra = float(hdus["psf_wcs"].data["ra"][0]) * galsim.hours
        dec = float(hdus["psf_wcs"].data["dec"][0]) * galsim.degrees
    psf = piff.SimplePSF(piff.PixelGrid(0.3, 17, interp=galsim.Lanczos(3)), interp)
    header = fits.Header.fromtextfile(find(f"des-smp/wcs/{name}.hdr"))
    psf.wcs, psf.pointing = {0: galsim.AstropyWCS(header=header)}, galsim.CelestialCoord(ra, dec)
    return psf, header


class Published:
    """The published algorithm."""

    def __init__(self, exposures: list[SceneExposure], detection: str, at: tuple[float, float]):
        from astropy.table import Table

        table = Table.read(find("des-smp/exposures.ecsv"))
        detector = {str(r["expnum"]): int(r["ccdnum"]) for r in table}
        self.exposures, self.detection, self.at = exposures, detection, at
        names = [f"{e.exposure_id}_{detector[e.exposure_id]}" for e in exposures]
        self.psfs = [piff_psf(name)[0] for name in names]
        self.grid = SceneGrid.smp2023().centered(*at)
        self.data = np.concatenate([e.scale * e.image.ravel() for e in exposures])
        with np.errstate(divide="ignore"):
            weight = [
                np.where(e.good, 1.0 / (e.scale**2 * e.variance), 0.0).ravel() for e in exposures
            ]
        self.weight = np.concatenate(weight)
        self.targets = [e.sky.pixel(*at) for e in exposures]

    def draw(self, k: int, x: float, y: float) -> np.ndarray:
        """Draw one star at a 0-based position on the stamp, PSF of the target's place."""
        import galsim

        exposure = self.exposures[k]
        x0, y0 = self.targets[k]
        box = exposure.box
        bounds = galsim.BoundsI(box.x_min + 1, box.x_max + 1, box.y_min + 1, box.y_max + 1)
        image = galsim.Image(bounds, dtype=float, wcs=self.psfs[k].wcs[0])
        return self.psfs[k].draw(x0 + 1, y0 + 1, center=(x + 1, y + 1), image=image).array

    def scene(self) -> np.ndarray:
        """Draw the whole scene."""
        blocks = []
        for k, exposure in enumerate(self.exposures):
            gx, gy = exposure.sky.pixel(*self.grid.positions())
            blocks.append(
                np.array([self.draw(k, x, y).ravel() for x, y in zip(gx, gy, strict=True)])
            )
        return np.concatenate(blocks, axis=1)

    def design(self, scene: np.ndarray, places: list[tuple[float, float]]) -> Any:
        """Return the sparse weighted matrix for targets at offsets in pixels."""
        from scipy.sparse import csr_matrix

        n = 900
        skies = np.zeros((len(self.exposures), n * len(self.exposures)))
        targets = np.zeros((len(places), n * len(self.exposures)))
        for k, exposure in enumerate(self.exposures):
            skies[k, k * n : (k + 1) * n] = 1.0
            if exposure.exposure_id == self.detection:
                x, y = exposure.sky.pixel(*self.at)
                for j, (dx, dy) in enumerate(places):
                    targets[j, k * n : (k + 1) * n] = self.draw(k, x + dx, y + dy).ravel()
        matrix = np.concatenate([scene, skies, targets]).T
        return csr_matrix(matrix * np.sqrt(self.weight)[:, None])

    def solve(self, matrix: Any) -> np.ndarray:
        from scipy.sparse.linalg import lsqr

        return lsqr(matrix, np.sqrt(self.weight) * self.data)[0]

    def single(self) -> tuple[float, float]:
        """Return the flux and its error as published: lsqr and a dense covariance."""
        scene = self.scene()
        matrix = self.design(scene, [(0.0, 0.0)])
        flux = self.solve(matrix)[-1]
        plain = np.asarray(matrix.todense()) / np.sqrt(np.maximum(self.weight, 1e-300))[:, None]
        covariance = np.linalg.inv(plain.T @ np.diag(self.weight) @ plain)
        return float(flux), float(np.sqrt(covariance[-1, -1]))

    def evaluation(self, scene: np.ndarray) -> float:
        """Time one evaluation of a binary's chi2."""
        start = time.perf_counter()
        matrix = self.design(scene, [(0.3, 0.1), (-0.4, 0.2)])
        solution = self.solve(matrix)
        np.sum((matrix @ solution - np.sqrt(self.weight) * self.data) ** 2)
        return time.perf_counter() - start


def powell_evaluations(exposures: list[SceneExposure], model: SceneModel) -> int:
    """Return how many evaluations Powell (xtol 1e-3) takes on our own objective of a binary."""
    from scipy.optimize import minimize

    from pogson.scene.binary import _continue, _doubled
    from pogson.scene.fit import prepare, solve_scene
    from pogson.scene.positions import evaluate

    prepared = prepare(exposures, model)
    first = solve_scene(prepared, model, [np.zeros(0)])
    pair, doubled = _doubled(prepared, first, model)
    begin = np.array([0.1, 0.05, -0.1, -0.05])
    moving = SceneModel(
        tuple(
            PointSource(s.name, s.ra, s.dec, s.epochs, position="free") for s in pair.sources
        ), grid=model.grid, prior=None, poisson=False, origin_test=False,
    )  # fmt: skip
    done = _continue(doubled, first, moving, [begin]).done

    def objective(theta: np.ndarray) -> float:
        trial = evaluate(done.system, done.layout, theta, positive=False)
        return 1e9 if trial is None else trial.objective

    return int(minimize(objective, begin, method="Powell", options={"xtol": 1e-3}).nfev)


def write_job(folder: Path, count: int, n_exposures: int = 10, pixels: int = 25) -> Path:
    """Write a job of ``count`` targets on simulated stamps of 31 x 31 pixels over galaxies.

    The pixels of ``pixels`` simulated targets serve all: every target reads its files anew.
    """
    from astropy.table import vstack

    from pogson.formats import read_catalog, write_catalog
    from pogson.simulate import SceneJobModel, write_scene_job

    model = SceneJobModel(n_targets=min(pixels, count), n_exposures=n_exposures)
    config, _ = write_scene_job(model, folder, rng_seed=5)
    table = read_catalog(folder / "targets.ecsv")
    table["pixels"] = [str(name) for name in table["target"]]
    parts = []
    for turn in range(-(-count // model.n_targets)):
        part = table.copy()
        part["target"] = [f"{name}x{turn}" for name in table["pixels"]]
        parts.append(part)
    rows = vstack(parts, metadata_conflicts="silent")
    write_catalog(folder / "targets.ecsv", rows[: count * n_exposures])
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("{target}_", "{pixels}_"), encoding="utf-8")
    return config


def throughput(count: int) -> float:
    """Return targets per second of a whole `pogson scene` on two processes.

    Start of the processes, reading of stamps, PSFs and maps, fits, JSON, pictures' pixels and the
    Parquet table included; the page with its drawings is not asked for.
    """
    from pogson.run import load_scene_config, run_scene

    with tempfile.TemporaryDirectory() as folder:
        file = write_job(Path(folder), count)
        config = load_scene_config(file, ["report.enabled=false"])
        start = time.perf_counter()
        result = run_scene(config, workers=2, kind="processes")
        elapsed = time.perf_counter() - start
    if result.n_done != count:
        raise RuntimeError(f"{result.n_done} of {count} targets were measured.")
    return count / elapsed


def fit_memory() -> tuple[float, float]:
    """Return peak memory in MB of a fresh process after a fit, and before it."""
    code = (
        "import re, bench_scene as b\n"
        "status = '/proc/self/status'\n"
        "rss = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', open(status).read())[1]) / 1e3\n"
        "e, d, at = b.campaigns.load(b.find, 'eris')\n"
        "import pogson.scene._scene_kernels; before = rss()\n"
        "b.fit_scene(e, b.SceneModel(b.PointSource('eris', *at, epochs=d)))\n"
        "print(rss(), before)"
    )
    here = Path(__file__).resolve().parent
    text = subprocess.run(
        [sys.executable, "-c", code], cwd=here, capture_output=True, text=True, check=True
    ).stdout
    after, before = (float(v) for v in text.split())
    return after, before


def _best(function: Any, repeats: int = 5) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def _rendering(exposure: SceneExposure, published: Published) -> list[dict[str, Any]]:
    ra, dec = published.at
    x, y = (float(v) for v in exposure.sky.pixel(ra, dec))
    table = PsfTable.of(exposure.psf, x=x, y=y, reach=60)
    gx, gy = exposure.sky.pixel(*published.grid.positions())
    ours = _best(lambda: table.render(gx, gy, exposure.box)) / gx.size
    theirs = _best(lambda: [published.draw(0, gx[i], gy[i]) for i in range(50)]) / 50
    stamp = published.psfs[0].draw(x + 1, y + 1, stamp_size=30, center=(x + 1, y + 1))
    box = Box(stamp.bounds.xmin - 1, stamp.bounds.ymin - 1, 30, 30)
    mine = table.render(np.array([x]), np.array([y]), box)[0]
    error = float(np.abs(mine - stamp.array).max() / stamp.array.max())
    return [
        row("PSF of a grid point, s", ours, theirs, "Piff draw", ">= 50 x", theirs >= 50 * ours),
        row("worst pixel beside Piff draw, of peak", error, None, "", "<= 1e-5", error <= 1e-5),
    ]


def rows() -> list[dict[str, Any]]:
    """Return the figures; none where the real data are absent."""
    if not find("des-smp/exposures.ecsv").exists():
        return []
    exposures, detection, at = campaigns.load(find, "eris")
    published = Published(exposures, detection, at)
    source = PointSource("eris", *at, epochs=detection)
    fit_scene(exposures, SceneModel(source))
    fit_binary(exposures, SceneModel(source))
    ours = _best(lambda: fit_scene(exposures, SceneModel(source)))
    two = _best(lambda: fit_binary(exposures, SceneModel(source), starts=4), 3)
    memory, base = fit_memory()
    table = _rendering(exposures[0], published)
    start = time.perf_counter()
    flux, error = published.single()
    theirs = time.perf_counter() - start
    plain = SceneModel(source, grid=SceneGrid.smp2023(), prior=None, origin_test=False)
    same = fit_scene(exposures, plain)
    table += [
        row("Eris end to end, default model, s", ours, theirs, "published algorithm",
            "<= 1 s, >= 30 x", ours <= 1.0 and theirs >= 30 * ours),
        row("Eris flux, free grid", same.flux()[0], flux, "published algorithm, this geometry",
            "1 % of error", abs(same.flux()[0] - flux) < 0.01 * error),
    ]  # fmt: skip
    scene = published.scene()
    one = min(published.evaluation(scene) for _ in range(2))
    plainer = SceneModel(source, grid=SceneGrid.smp2023(), prior=None, poisson=False)
    count = powell_evaluations(exposures, plainer)
    table += [
        row(f"Eris binary, 4 starts, s (Powell takes {count} evaluations)", two, one * count,
            "one Powell start", "<= 2 s, >= 100 x", two <= 2.0 and one * count >= 100 * two),
        row("peak memory that a fit adds, MB", memory - base, None, "", "< 300",
            memory - base < 300),
        row("peak memory of the whole process, MB", memory, None, "", "-", None),
    ]  # fmt: skip
    return table + _throughput_rows()


def _throughput_rows() -> list[dict[str, Any]]:
    """Return the rate of a whole job; POGSON_SCENE_TARGETS=1000 for the full length."""
    count = int(os.environ.get("POGSON_SCENE_TARGETS", "100"))
    speed = throughput(count)
    name = f"targets x 10 exposures per s, two cores, job of {count}"
    return [row(name, speed, None, "", ">= 5", speed >= 5)]


if __name__ == "__main__":
    for line in rows():
        print(line)
