"""Star flats from dithered exposures: time and accuracy beside scipy's lsmr in the same run.

Then a DECam campaign through the camera's published star flats and astrometry (needs the data set
``decam-starflat``), recovered; figures are differences from the truth, beside what noise allows.

Usage alone: python benchmarks/bench_starflat.py
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

DETECTORS, EXPOSURES, STARS, ORDER = 61, 20, 15_000, 3
SEED = 20261121
ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("POGSON_DATA") or ROOT.parent / "shared" / "data") / "decam-starflat"


def survey() -> tuple[Any, np.ndarray]:
    """Stars of dithered exposures through a random star flat, with references."""
    from pogson.survey import Detectors, Exposures, Observations, Stars, SurveyTables
    from pogson.survey._bases import design_2d, orders

    rng = np.random.default_rng(20261121)
    tables = SurveyTables(Exposures(np.arange(EXPOSURES)), Detectors(np.arange(DETECTORS)))
    star = np.repeat(np.arange(STARS), EXPOSURES)
    exposure = np.tile(np.arange(EXPOSURES), STARS)
    detector = rng.integers(0, DETECTORS, star.size)
    x, y = rng.uniform(0, 2047, star.size), rng.uniform(0, 4095, star.size)
    pairs = orders(ORDER, True)
    truth = 0.01 * rng.normal(size=(DETECTORS, len(pairs)))
    truth[:, 0] -= truth[:, 0].mean()
    u, v = tables.detectors.scaled(detector, x=x, y=y)
    flat = np.sum(design_2d(u, v, pairs) * truth[detector], axis=1)
    mag, err = rng.uniform(15, 19, STARS), rng.uniform(0.004, 0.008, star.size)
    obs = Observations.from_columns(
        tables,
        Stars(np.arange(STARS), reference_mag=mag + 0.01 * rng.normal(size=STARS),
              reference_err=np.full(STARS, 0.01)),
        star=star, exposure=exposure, detector=detector, x=x, y=y, mag_err=err,
        mag=mag[star] - 25.0 - flat + err * rng.normal(size=star.size),
    )  # fmt: skip
    return obs, truth


def lsmr_flat(obs: Any, model: Any) -> np.ndarray:
    """All unknowns at once, scaled columns; the gauge as rows."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.linalg import lsmr

    d, n, size = model.design(obs), len(obs), model.size
    root = 1.0 / obs.mag_err
    rows, cols, values = [np.arange(n)], [size + obs.star], [root]
    for t in range(d.width.size):
        for j in range(int(d.width[t])):
            c = int(d.column[t])
            v = np.full(n, d.constant[t]) if c < 0 else d.values[:, c + j]
            rows.append(np.arange(n))
            cols.append(d.base[:, t] + j)
            values.append(v * root)
    stars = len(obs.stars)
    rows.append(n + np.arange(stars))
    cols.append(size + np.arange(stars))
    values.append(1.0 / obs.stars.reference_err)
    right = [obs.mag * root, obs.stars.reference_mag / obs.stars.reference_err]
    total = n + stars
    for c in model.constraints():
        rows.append(np.full(c.columns.size, total))
        cols.append(c.columns)
        values.append(c.values / 1e-5)
        right.append(np.zeros(1))
        total += 1
    A = csr_matrix(
        (np.concatenate(values), (np.concatenate(rows), np.concatenate(cols))),
        (total, size + stars),
    )
    scale = 1.0 / np.sqrt(np.asarray(A.multiply(A).sum(axis=0)).ravel())
    found = lsmr(A.multiply(scale).tocsr(), np.concatenate(right), atol=1e-10, btol=1e-10)
    return np.asarray(found[0] * scale)[:size]


def rows() -> list[dict[str, Any]]:
    """Measure and return the rows of the benchmark table."""
    from pogson.survey import Model, SolveSettings
    from pogson.survey.star_flats import solve_star_flats, star_flat_terms

    obs, truth = survey()
    settings = SolveSettings()
    solve_star_flats(obs.select_stars(0, 200), order=1, settings=SolveSettings(gauge="anchor"))
    ours = np.inf
    for _ in range(3):
        start = time.perf_counter()
        solution, _ = solve_star_flats(obs, order=ORDER, settings=settings)
        ours = min(ours, time.perf_counter() - start)
    start = time.perf_counter()
    model = Model(star_flat_terms(obs.tables, order=ORDER), obs.tables)
    peer = lsmr_flat(obs, model)
    theirs = time.perf_counter() - start
    flat = solution["star_flat"].reshape(DETECTORS, -1)
    pull = (flat - truth[:, 1:]).ravel() / solution.error("star_flat")
    rms = float(np.sqrt(np.mean(pull**2)))
    worst = float(np.abs(solution.parameters - peer).max())
    what = f"star flats: {len(obs):,} detections, {model.size} parameters"
    return [
        {"figure": f"{what}, full covariance and fields, s", "ours": ours, "peer": theirs,
         "peer_name": "scipy lsmr (no covariance)", "target": "-", "passed": None},
        {"figure": "star flats: rms of pulls of the coefficients", "ours": rms, "peer": None,
         "peer_name": "", "target": "0.9 to 1.1", "passed": 0.9 < rms < 1.1},
        {"figure": "star flats: largest difference to lsmr, mag", "ours": worst, "peer": None,
         "peer_name": "", "target": "<= 1e-4", "passed": worst <= 1e-4},
        *campaign(),
    ]  # fmt: skip


def figure(name: str, value: float, target: str, limit: float, peer: float | None = None,
           peer_name: str = "", low: float = -np.inf) -> dict[str, Any]:  # fmt: skip
    """Return one row of a figure that must not exceed a limit."""
    return {"figure": name, "ours": float(value), "peer": peer, "peer_name": peer_name,
            "target": target, "passed": bool(low < value < limit)}  # fmt: skip


def campaign() -> list[dict[str, Any]]:
    """Recover the DECam campaigns of the tests: star flats, zero points, clouds, atmosphere."""
    if not (DATA / "y6a1.guts.astro").exists():
        return []
    sys.path.insert(0, str(ROOT / "tests" / "survey"))
    import decam_world as world

    made = world.make(DATA, nights=3, exposures=8, stars=40_000, seed=SEED)
    start = time.perf_counter()
    solution, flats = world.solve(made, held_out=0.1, seed=SEED)
    seconds = time.perf_counter() - start
    what = f"DECam, {len(made.observations):,} detections, {solution.parameters.size} parameters"
    out = [{"figure": f"{what}: solution, s", "ours": seconds, "peer": None, "peer_name": "",
            "target": "-", "passed": None}]  # fmt: skip
    for band in made.campaign.bands:
        m = world.map_error(made, flats, band)
        name = f"DECam star flat {band}: rms error per superpixel, mmag"
        limit = min(1.0, 1.2e3 * m.expected)
        out.append(figure(name, 1e3 * m.rms, "< 1, <= 1.2 x noise limit", limit,
                          1e3 * m.expected, "noise limit"))  # fmt: skip
    d = 1e3 * (solution["exposure_zero_point"] - made.zero_points_in_gauge())
    clear = made.tables.exposures.photometric
    z = world.white_pulls(made, solution)
    out += [
        figure("DECam zero points: rms error, mmag", np.sqrt(np.mean(d**2)), "< 1", 1.0),
        figure("DECam photometric zero points beside clouds: largest error, mmag",
               np.abs(d[clear]).max(), "< 1", 1.0),
        figure(f"DECam pulls of {z.size} parameters: rms", np.sqrt(np.mean(z**2)), "0.9 to 1.1",
               1.1, low=0.9),
        figure("DECam held-out stars: 1 - KS p", 1.0 - solution.validate(SEED).p_value, "< 0.99",
               0.99),
    ]  # fmt: skip
    return [*out, *_clouds(world), *_colors(world)]


def _clouds(world: Any) -> list[dict[str, Any]]:
    made = world.make(
        DATA, world.NINE, bands=("g", "i"), nights=2, exposures=9, dither=0.25, stars=20_000,
        cloudy=0.3, color_terms=False, seed=SEED,
    )  # fmt: skip
    zero, photometric = world.find_clouds(made)
    clear = made.tables.exposures.photometric
    d = 1e3 * (zero - made.zero_points_in_gauge())[clear]
    wrong = float(np.sum(photometric != clear))
    return [
        figure("DECam, clouds unknown: exposures wrongly taken as photometric or not", wrong, "0",
               0.5),
        figure("DECam, clouds unknown: rms error of photometric zero points, mmag",
               np.sqrt(np.mean(d**2)), "< 1", 1.0),
    ]  # fmt: skip


def _colors(world: Any) -> list[dict[str, Any]]:
    made = world.make(
        DATA, world.NINE, bands=("g", "r", "i", "z"), nights=4, exposures=6, dither=0.25,
        stars=16_000, chromatic=True, cloudy=0.0, reference_fraction=1.0, reference_error=0.005,
        seed=SEED,
    )  # fmt: skip
    grey, solved = world.solve_atmosphere(made)
    out = []
    for band, name in enumerate(made.campaign.bands):
        before, after = (world.color_slopes(made, s, band) for s in (grey, solved))
        for kind in ("exposures", "stars"):
            a, b = (1e3 * abs(getattr(s, kind)) for s in (after, before))
            words = f"DECam, 2-10 mm of water, {name}: slope with colour of {kind}, mmag/mag"
            out.append(figure(words, a, "< 0.5", 0.5, b, "zero points alone"))
    return out


if __name__ == "__main__":
    for r in rows():
        print(r)
