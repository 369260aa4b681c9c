"""Photometric offsets from draws, beside astro-brutus in the same run; memory; closed loop."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from pogson.stars import GalacticPrior

BANDS = 8
APPLIED = np.array([1.04, 0.97, 1.01, 0.98, 1.03, 0.99, 1.02, 0.96])
STREAM = (1_000_000, 250, 20_000)  # stars, draws, stars a chunk


@dataclass(frozen=True)
class _Nearby(GalacticPrior):
    """The Galactic prior within a survey's volume."""

    def log_density(self, distance_kpc, l, b):  # noqa: E741
        return super().log_density(distance_kpc, l, b) - (np.asarray(distance_kpc) / 2.0) ** 4


def _grid(n: int = 50_000) -> np.ndarray:
    rng = np.random.default_rng(3)
    models = np.zeros((n, BANDS, 3), dtype=np.float32)
    models[:, :, 0] = rng.uniform(3, 9, (n, 1)) + 0.5 * rng.normal(size=(n, BANDS))
    models[:, :, 1] = np.linspace(1.2, 0.1, BANDS)
    models[:, :, 2] = np.linspace(0.05, 0.0, BANDS)
    return models


def experiment(models: np.ndarray, n: int, draws: int, seed: int = 42) -> tuple[np.ndarray, ...]:
    """Stars with known offsets, and draws about the truth."""
    rng = np.random.default_rng(seed)
    k = rng.integers(0, len(models), n)
    av, rv, d = rng.uniform(0, 1.5, n), rng.uniform(2.8, 3.8, n), rng.uniform(0.5, 5, n)
    m = models[k, :, 0] + av[:, None] * (models[k, :, 1] + rv[:, None] * models[k, :, 2])
    flux = 10 ** (-0.4 * m) / d[:, None] ** 2 * APPLIED
    err = 0.03 * flux
    flux = np.maximum(flux + rng.normal(0, err), 1e-10)
    shape = (n, draws)
    reds = np.clip(av[:, None] + 0.05 * rng.standard_normal(shape, np.float32), 0, 5)
    dreds = np.clip(rv[:, None] + 0.05 * rng.standard_normal(shape, np.float32), 2, 5)
    dists = np.clip(d[:, None] + 0.1 * rng.standard_normal(shape, np.float32), 0.1, 20)
    return flux, err, np.ones((n, BANDS), int), np.tile(k[:, None], (1, draws)), reds, dreds, dists


def stream() -> None:
    """Stream a million stars and print the peak memory in GB and the seconds."""
    from pogson.stars import OffsetAccumulator

    stars, draws, chunk = STREAM
    total = OffsetAccumulator(_grid(), mask_fit=np.zeros(BANDS, bool))
    seconds = 0.0
    for i in range(stars // chunk):
        given = experiment(_grid() if i == 0 else total._models, chunk, draws, seed=i)
        start = time.perf_counter()
        total.add(*given)
        seconds += time.perf_counter() - start
    made = total.result()
    assert np.abs((made.offsets - 1 / APPLIED) / made.errors).max() < 6
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2, seconds)


def closed_loop(realisations: int = 4, n: int = 500) -> tuple[str, float, float, float]:
    """Offsets from stars drawn from the priors of the fit; grid, residual, pulls, seconds each.

    Photometry to 3 %, parallaxes to 0.02-0.05 mas, extinction known to 0.1 mag; offsets relative to
    the second band.
    """
    from pogson.errors import PogsonError
    from pogson.stars import (
        CalibrationConfig,
        ExtinctionPrior,
        FitConfig,
        StarPriors,
        build_mist_grid,
        calibrate_bands,
        draw_stars,
        grid_sampler,
        simulated_grid,
    )

    grid = simulated_grid(8000)
    name = "made-up stars"
    try:
        grid = build_mist_grid(grid.bands)
    except PogsonError:
        pass
    else:
        name = f"MIST ({grid.n_models:,} models)"
    priors = StarPriors(distance=_Nearby(), extinction=ExtinctionPrior(0.3, 0.1, 0.0, 2.0))
    few = FitConfig(n_draws=200, n_proposals=600, min_ess=60)
    sampler = grid_sampler(grid, priors=priors, config=few)
    truth = -np.log(APPLIED)
    residuals, pulls, seconds = [], [], 0.0
    for seed in range(realisations):
        stars, _ = draw_stars(
            grid, n, np.random.default_rng(seed), priors=priors, error=0.03,
            parallax_error=(0.02, 0.05), offsets=1 / APPLIED,
        )  # fmt: skip
        start = time.perf_counter()
        made = calibrate_bands(
            stars, sampler, gauge=grid.bands[1], config=CalibrationConfig(averages=2), seed=seed
        )
        seconds += time.perf_counter() - start
        keep = np.arange(BANDS) != 1
        residuals.append((made.log_offsets - truth + truth[1])[keep])
        pulls.append(residuals[-1] / np.sqrt(np.diagonal(made.covariance)[keep]))
    rms = [float(np.sqrt(np.mean(np.square(v)))) for v in (residuals, pulls)]
    return name, rms[0], rms[1], seconds / realisations


def rows() -> list[dict[str, Any]]:
    """Return the rows of the benchmark table."""
    from pogson.stars import photometric_offsets

    models = _grid()
    flux, err, mask, *draws = experiment(models, 20_000, 25)
    args = (flux, err, mask, models, *draws)
    unfitted = np.zeros(BANDS, bool)
    photometric_offsets(*args, mask_fit=unfitted)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        ours = photometric_offsets(*args, mask_fit=unfitted)
        times.append(time.perf_counter() - start)
    seconds, peer, ratio = min(times), None, None
    try:
        from brutus.analysis.offsets import photometric_offsets as brutus_offsets
    except ImportError:
        brutus_offsets = None
    if brutus_offsets is not None:
        small = tuple(a if a is models else a[:50] for a in args)
        brutus_offsets(*small, mask_fit=unfitted, verbose=False)
        start = time.perf_counter()
        theirs = brutus_offsets(
            *args, mask_fit=unfitted, verbose=False, rng=np.random.default_rng(42)
        )
        peer = time.perf_counter() - start
        ratio = float(np.median(ours[1] / theirs[1]))
    run = subprocess.run(
        [sys.executable, __file__, "stream"], capture_output=True, text=True, check=True
    )
    memory, streamed = (float(v) for v in run.stdout.split())
    name, residual, pull, each = closed_loop()
    loop = f"band offsets, closed loop, 500 {name} stars, 3 %, relative to PS_r"
    return [
        {
            "figure": "offsets, 20,000 stars x 25 draws x 8 bands (s)",
            "ours": seconds, "peer": peer, "peer_name": "astro-brutus" if peer else "",
            "target": "<= 0.3 s, <= 1/30 of peer",
            "passed": seconds <= 0.3 and (peer is None or seconds <= peer / 30),
        },
        {
            "figure": "offset errors, ours / bootstrap of 300 (median of bands)",
            "ours": ratio, "target": "0.9 to 1.1",
            "passed": None if ratio is None else 0.9 <= ratio <= 1.1,
        },
        {
            "figure": "offsets, 1M stars x 250 draws x 8 bands streamed: peak memory (GB)",
            "ours": memory, "target": "< 2 GB", "passed": memory < 2,
        },
        {
            "figure": "the same: time in the accumulator (s)",
            "ours": streamed, "target": "-", "passed": None,
        },
        {
            "figure": f"{loop}: residual rms of 4", "ours": residual, "target": "<= 0.005",
            "passed": residual <= 0.005,
        },
        {   # four realisations tell the rms of the pulls to 0.2; the slow tests tell it
            "figure": "the same: rms of pulls", "ours": pull, "target": "1 +- 0.5",
            "passed": 0.5 <= pull <= 1.5,
        },
        {"figure": "the same: s a calibration", "ours": each, "target": "-", "passed": None},
    ]  # fmt: skip


if __name__ == "__main__":
    stream()
