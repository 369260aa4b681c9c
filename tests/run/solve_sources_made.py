"""Tables of sources with known truth, for the tests of ``pogson solve``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.table import Table

from pogson.formats import write_catalog

SEED = 20261121
FIELD, SIZE = 0.3, 1000  # degrees, pixels of a detector's side; 2 x 2 detectors
FLOOR = 0.003
SLOPE = {"g": -0.03, "r": 0.02}  # of the camera's bands against the catalogue's, mag per mag


def make(folder: Path, *, n_stars: int = 400, visits: int = 8, change=None, seed: int = SEED):
    """Write ``sources.parquet``, ``reference.parquet``, ``solve.toml``; return zero points."""
    rng = np.random.default_rng(seed)
    sky = rng.uniform(-FIELD / 2, FIELD / 2, (2, n_stars))
    color, r = rng.uniform(0.1, 1.5, n_stars), rng.uniform(16, 19, n_stars)
    truth = {"g": r + color, "r": r}
    columns: dict[str, list] = {n: [] for n in (
        "exposure", "detector", "band", "x", "y", "ra", "dec", "flux", "flux_err", "mjd",
        "airmass", "star")}  # fmt: skip
    zero = {}
    for v in range(visits):
        band = "gr"[v % 2]
        zero[v] = 27.0 + 0.05 * rng.normal()
        shift = rng.uniform(-0.02, 0.02, 2)
        pixel = (sky + shift[:, None] + FIELD / 2) / (FIELD / 2) * SIZE
        column, row = np.floor(pixel / SIZE).astype(int)
        inside = (column >= 0) & (column < 2) & (row >= 0) & (row < 2)
        m = truth[band] + SLOPE[band] * (color - 0.5) - zero[v] + 0.004 * ((column + row) % 2)
        m = m + FLOOR * rng.normal(size=n_stars)
        flux = 10 ** (-0.4 * m)
        err = np.sqrt(flux) * 0.3 + 0.5
        on = np.flatnonzero(inside)
        values = {
            "exposure": 201 + v, "detector": (1 + column + 2 * row)[on], "band": band,
            "x": (pixel[0] - column * SIZE)[on] - 0.5, "y": (pixel[1] - row * SIZE)[on] - 0.5,
            "ra": 150.0 + sky[0, on], "dec": sky[1, on],
            "flux": (flux + err * rng.normal(size=n_stars))[on], "flux_err": err[on],
            "mjd": 60000.1 + 0.002 * v, "airmass": 1.0 + 0.05 * v, "star": on,
        }  # fmt: skip
        for k, value in values.items():
            columns[k].append(np.broadcast_to(value, on.shape))
    table = Table({k: np.concatenate(v) for k, v in columns.items()})
    error = 0.01
    reference = Table({"id": np.arange(n_stars), "ra": 150.0 + sky[0], "dec": sky[1]})
    for b in "gr":
        reference[f"mag_{b}"] = truth[b] + error * rng.normal(size=n_stars)
        reference[f"mag_{b}_err"] = np.full(n_stars, error)
    keep = np.ones(n_stars, bool)
    keep[: n_stars // 4] = False  # stars that the catalogue lacks
    reference = reference[keep]
    if change is not None:
        table, reference = change(table, reference)
    folder.mkdir(parents=True, exist_ok=True)
    write_catalog(folder / "sources.parquet", table)
    write_catalog(folder / "reference.parquet", reference)
    (folder / "solve.toml").write_text(CONFIG)
    return zero


CONFIG = """[survey]
name = "made"
output = "out"

[sources]
files = "sources.parquet"
detector_size = [1000, 1000]

[reference]
catalog = "reference.parquet"
color = ["g", "r"]

[solve]

[[solve.terms]]
kind = "exposure_zero_point"

[[solve.terms]]
kind = "detector_zero_point"
by = ["filter"]

[[solve.terms]]
kind = "color_slope"
per_detector = false
gauge = false
pivot = 0.5
"""
