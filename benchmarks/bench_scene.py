"""Scene-modelling photometry beside the published algorithm, written out plainly, in one run.

The published algorithm (Bernardinelli et al. 2023), step by step as its code takes them: one Piff
``draw`` per grid point and exposure with the WCS of the exposure, sparse matrices,
``scipy.sparse.linalg.lsqr`` at its default tolerance, and the covariance as the inverse of
``A.T @ diag(w) @ A`` with sparse A and dense diag(w); a binary is a Powell search (xtol 1e-3, in
pixels) whose every evaluation draws two PSFs, builds the matrix and runs lsqr again.

Piff's reader would need pixmappy to unpickle the WCS in the files, so the Piff objects are built in
memory from the numeric tables and the FITS headers of the WCS: cheaper to draw than the published
ones, whose WCS are compositions of tables. A second row gives the same with a dense product of BLAS
in the covariance, which the published code does not use. Powell's time is that of one evaluation,
timed, times the number of evaluations that Powell takes on our own objective, the median over four
starts.
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

from pogson.scene import PointSource, SceneExposure, SceneGrid, SceneModel, fit_binary, fit_scene
from pogson.scene.design import PsfTable, local_matrices

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
        """Draw one star at a 0-based position on the stamp, PSF of the target's place.

        Stamps were cut one pixel higher than drawings fall: hence 1-based x less one.
        """
        x0, y0 = self.targets[k]
        image = self.psfs[k].draw(x0 + 1, y0 + 1, stamp_size=30, center=(float(x), float(y)))
        return image.array.ravel()

    def scene(self) -> Any:
        """Draw the whole scene, shape (pixels, points), sparse."""
        from scipy.sparse import csr_matrix, vstack

        blocks = []
        for k, exposure in enumerate(self.exposures):
            gx, gy = exposure.sky.pixel(*self.grid.positions())
            drawn = np.zeros((900, gx.size))
            for j in range(gx.size):
                drawn[:, j] = self.draw(k, gx[j], gy[j])
            blocks.append(csr_matrix(drawn))
        return vstack(blocks)

    def design(self, scene: Any, places: list[tuple[float, float]]) -> Any:
        """Return the sparse matrix for targets at offsets in pixels."""
        from scipy.sparse import block_diag, hstack

        k = [e.exposure_id for e in self.exposures].index(self.detection)
        x, y = self.targets[k]
        columns = np.zeros((scene.shape[0], len(places)))
        for j, (dx, dy) in enumerate(places):
            columns[900 * k : 900 * (k + 1), j] = self.draw(k, x + dx, y + dy)
        skies = block_diag(len(self.exposures) * [np.ones((900, 1))])
        return hstack([scene, skies, columns], dtype="float64")

    def solve(self, matrix: Any) -> np.ndarray:
        from scipy.sparse import diags
        from scipy.sparse.linalg import lsqr

        root = np.sqrt(self.weight)
        return lsqr(diags(root).dot(matrix), self.data * root)[0]

    def single(self) -> tuple[float, float, float, float]:
        """Return the flux, its error, and the seconds taken: as published, and with BLAS."""
        start = time.perf_counter()
        matrix = self.design(self.scene(), [(0.0, 0.0)])
        flux = self.solve(matrix)[-1]
        solved = time.perf_counter()
        covariance = np.linalg.inv(matrix.T @ np.diag(self.weight) @ matrix)
        ended = time.perf_counter()
        dense = matrix.toarray()
        np.linalg.inv(dense.T @ np.diag(self.weight) @ dense)
        last = time.perf_counter()
        return (
            float(flux),
            float(np.sqrt(covariance[-1, -1])),
            ended - start,
            (solved - start + last - ended),
        )

    def evaluation(self, scene: Any) -> float:
        """Time one evaluation of a binary's chi2."""
        start = time.perf_counter()
        matrix = self.design(scene, [(0.3, 0.1), (-0.4, 0.2)])
        residual = matrix @ self.solve(matrix) - self.data
        np.sum(residual * residual * self.weight)
        return time.perf_counter() - start


def powell_evaluations(exposures: list[SceneExposure], model: SceneModel) -> int:
    """Return how many evaluations Powell (xtol 1e-3) takes on our own objective of a binary.

    In pixels from four starts, pairs 1 pixel apart in four directions; the median.
    """
    from scipy.optimize import minimize

    from pogson.scene.binary import _continue, _doubled
    from pogson.scene.fit import prepare, solve_scene
    from pogson.scene.positions import evaluate

    prepared = prepare(exposures, model)
    first = solve_scene(prepared, model, [np.zeros(0)])
    pair, doubled = _doubled(prepared, first, model)
    scale = float(
        exposures[0].sky.pixel_scale(x=exposures[0].box.center[0], y=exposures[0].box.center[1])
    )
    moving = SceneModel(
        tuple(
            PointSource(s.name, s.ra, s.dec, s.epochs, position="free") for s in pair.sources
        ), grid=model.grid, prior=None, poisson=False, origin_test=False,
    )  # fmt: skip
    done = _continue(doubled, first, moving, [np.array([0.1, 0.05, -0.1, -0.05])]).done

    def objective(theta: np.ndarray) -> float:
        # x1, x2, y1, y2 in pixels, as published
        trial = evaluate(done.system, done.layout, scale * theta[[0, 2, 1, 3]], positive=False)
        return 1e9 if trial is None else trial.objective

    counts = []
    for angle in np.pi * (np.arange(4) + 0.25) / 4:
        dx, dy = 0.5 * np.cos(angle), 0.5 * np.sin(angle)
        found = minimize(objective, [dx, -dx, dy, -dy], method="Powell", options={"xtol": 1e-3})
        counts.append(found.nfev)
    return int(np.median(counts))


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


def _rendering_error(exposure: SceneExposure, published: Published, j: int) -> float:
    """Return the largest difference from Piff's drawing of a grid point, in units of its peak."""
    import galsim

    x0, y0 = published.targets[0]
    box = exposure.box
    gx, gy = (v[j : j + 1] for v in exposure.sky.pixel(*published.grid.positions()))
    bounds = galsim.BoundsI(box.x_min + 1, box.x_max + 1, box.y_min + 1, box.y_max + 1)
    image = galsim.Image(bounds, dtype=float, wcs=published.psfs[0].wcs[0])
    center = (float(gx[0]) + 1, float(gy[0]) + 1)
    truth = published.psfs[0].draw(x0 + 1, y0 + 1, center=center, image=image).array
    table = PsfTable.of(exposure.psf, x=float(x0), y=float(y0), reach=60)
    mine = table.render(gx, gy, box, local_matrices(exposure.psf, gx, gy))[0]
    return float(np.abs(mine - truth).max() / truth.max())


def _rendering(exposure: SceneExposure, published: Published) -> list[dict[str, Any]]:
    ra, dec = published.at
    x, y = (float(v) for v in exposure.sky.pixel(ra, dec))
    table = PsfTable.of(exposure.psf, x=x, y=y, reach=60)
    gx, gy = exposure.sky.pixel(*published.grid.positions())
    ours = (
        _best(lambda: table.render(gx, gy, exposure.box, local_matrices(exposure.psf, gx, gy)))
        / gx.size
    )
    theirs = _best(lambda: [published.draw(0, gx[i], gy[i]) for i in range(50)]) / 50
    error = max(_rendering_error(exposure, published, j) for j in range(0, gx.size, 13))
    worst = "worst pixel of grid points beside Piff draw, of peak"
    return [
        row("PSF of a grid point, s", ours, theirs, "Piff draw", ">= 50 x", theirs >= 50 * ours),
        row(worst, error, None, "", "<= 1e-5", error <= 1e-5),
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
    flux, error, theirs, lean = published.single()
    plain = SceneModel(source, grid=SceneGrid.smp2023(), prior=None, origin_test=False)
    same = fit_scene(exposures, plain)
    table += [
        row("Eris end to end, default model, s", ours, theirs, "published algorithm",
            "<= 1 s, >= 30 x", ours <= 1.0 and theirs >= 30 * ours),
        row("Eris end to end, default model, s", ours, lean,
            "published algorithm, covariance by dense BLAS", "-", None),
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
