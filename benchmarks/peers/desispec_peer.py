"""Solve the response of six stars of known flux with desispec and with pogson; print JSON.

desispec's corrections for the fibre positions need the data of desimodel; they are 1 here.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))
os.environ.setdefault("DESI_LOGLEVEL", "critical")

import desispec.fiberfluxcorr as corrections
import numpy as np
from astropy.table import Table
from desispec.fluxcalibration import compute_flux_calibration
from desispec.frame import Frame
from desispec.resolution import Resolution

from pogson.spectro.throughput import StandardData, solve_response

N, SN = 6, 50.0


def one(fibermap: Table, *args: object, **how: object) -> np.ndarray:
    return np.ones(len(fibermap))


def main() -> None:
    corrections.flat_to_psf_flux_correction = one
    corrections.psf_to_fiber_flux_correction = one
    rng = np.random.default_rng(1)
    lam, fine = np.arange(4000.0, 6500.0, 1.0), np.arange(3950.0, 6550.0, 0.25)
    truth = 50 * np.exp(-(((lam - 5400) / 1500) ** 2))
    offset = np.arange(5, -6, -1)
    kernel = np.exp(-0.5 * (offset / 1.1) ** 2)
    resolution = np.tile((kernel / kernel.sum())[None, :, None], (N, 1, lam.size))
    depth = [1 - 0.5 * np.exp(-(((fine - c) / 11) ** 2)) for c in (4102, 4341, 4862)]
    lines = np.prod(depth, axis=0)
    model = np.array([10 * (fine / 5000) ** rng.uniform(-2, -1) * lines for _ in range(N)])
    grey = rng.uniform(0.8, 1.0, N)
    seen, flux, ivar = [], [], []
    for i in range(N):
        matrix, source = Resolution(resolution[i]), np.interp(lam, fine, model[i])
        seen.append(matrix.dot(source))
        signal = grey[i] * matrix.dot(source * truth)
        sigma = np.median(signal) / SN
        flux.append(signal + rng.normal(0, sigma, lam.size))
        ivar.append(np.full(lam.size, sigma**-2.0))
    table = Table({"FIBER": np.arange(N), "EBV": np.zeros(N), "FIBERSTATUS": np.zeros(N, int)})
    for name in ("FIBER_X", "FIBER_Y"):
        table[name] = np.zeros(N)
    for band in "GRZ":
        table[f"FLUX_{band}"] = np.full(N, 100.0)
    frame = Frame(
        lam, np.array(flux), np.array(ivar), resolution_data=resolution, fibermap=table,
        fibers=np.arange(N), spectrograph=0, meta={"CAMERA": "b0", "EXPTIME": 900.0},
    )  # fmt: skip
    start = time.process_time()
    peer = compute_flux_calibration(frame, fine, model, np.arange(N), stdcheck=False)
    peer_cpu = time.process_time() - start
    stars = [StandardData(f"s{i}", lam, flux[i], ivar[i], seen[i]) for i in range(N)]
    solve_response(stars)  # compiles
    start = time.process_time()
    ours = solve_response(stars)
    ours_cpu = time.process_time() - start
    shapes = []
    for curve in (np.median(peer.calib, axis=0), ours.response(lam)):
        ratio = (curve / truth)[50:-50]
        shapes.append(100 * float(np.std(ratio) / np.mean(ratio)))
    print(
        json.dumps(
            {
                "peer_cpu": peer_cpu,
                "ours_cpu": ours_cpu,
                "peer_shape": shapes[0],
                "ours_shape": shapes[1],
            }
        )
    )


main()
