"""Speed and accuracy of the sky room beside its peers, in one process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

HEADER = {
    "CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "CRVAL1": 150.0, "CRVAL2": 2.0,
    "CRPIX1": 2048.5, "CRPIX2": 2048.5, "CD1_1": -7e-5, "CD1_2": 1e-6, "CD2_1": 2e-6,
    "CD2_2": 7e-5, "A_ORDER": 3, "B_ORDER": 3, "A_3_0": 2e-9, "A_1_2": 2e-9, "B_0_3": 2e-9,
    "B_2_1": 2e-9, "A_2_0": 1e-6, "B_1_1": -1e-6,
}  # fmt: skip


def best_of(n: int, function: Callable[[], Any]) -> float:
    """Return the shortest wall time of n calls, in seconds."""
    times = []
    for _ in range(n):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def row(figure: str, ours: float, peer: float, name: str, target: str, passed: bool) -> dict:
    return {
        "figure": figure,
        "ours": ours,
        "peer": peer,
        "peer_name": name,
        "target": target,
        "passed": bool(passed),
    }


def rows() -> list[dict]:
    """Return one row a figure: ours, the peer's in the same run, the target, and whether met."""
    import astropy.wcs
    from astropy.io.fits import Header

    from pogson.fields import Box
    from pogson.sky import FitsSkyMap

    box = Box(0, 0, 4096, 4096)
    sky = FitsSkyMap(HEADER)
    peer = astropy.wcs.WCS(Header(HEADER.items()))
    out = []

    def finite_difference(n: int) -> np.ndarray:
        """Pixel areas the usual way: cross products of one-pixel steps in 3-space."""
        axis = np.linspace(0, 4095, n)
        x, y = (a.ravel() for a in np.meshgrid(axis, axis))
        vectors = []
        for dx, dy in ((0, 0), (1, 0), (0, 1)):
            ra, dec = np.deg2rad(peer.all_pix2world(x + dx, y + dy, 0))
            vectors.append(
                np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], -1)
            )
        cross = np.cross(vectors[1] - vectors[0], vectors[2] - vectors[0])
        return np.linalg.norm(cross, axis=-1).reshape(n, n) * np.rad2deg(3600.0) ** 2

    sky.pixel_area_field(box)
    ours = best_of(5, lambda: sky.pixel_area_field(box))
    theirs = best_of(3, lambda: finite_difference(512)) * 64
    out.append(
        row("pixel-area field of 4096^2 (s)", ours, theirs,
            "astropy, one-pixel differences, every pixel", "<= 0.3", ours <= 0.3)
    )  # fmt: skip

    area = sky.pixel_area_field(box)
    truth = sky.pixel_area(
        x=np.linspace(0, 4095, 101)[np.newaxis, :], y=np.linspace(0, 4095, 103)[:, np.newaxis]
    )
    model = area(
        x=np.linspace(0, 4095, 101)[np.newaxis, :], y=np.linspace(0, 4095, 103)[:, np.newaxis]
    )
    error = float(np.abs(model / truth - 1).max())
    axis = np.linspace(0, 4095, 64)
    exact = sky.pixel_area(x=axis[np.newaxis, :], y=axis[:, np.newaxis])
    peer_error = float(np.abs(finite_difference(64) / exact - 1).max())
    out.append(
        row("pixel-area field, max relative error", error, peer_error,
            "one-pixel differences", "<= 1e-6", error <= 1e-6)
    )  # fmt: skip

    rng = np.random.default_rng(1)
    x, y = rng.uniform(0, 4095, 100_000), rng.uniform(0, 4095, 100_000)
    ra, dec = sky.sky(x=x, y=y)
    forward = best_of(5, lambda: sky.sky(x=x, y=y))
    forward_peer = best_of(5, lambda: peer.all_pix2world(x, y, 0))
    out.append(
        row("pixel to sky, 1e5 positions (s)", forward, forward_peer, "astropy all_pix2world",
            "<= 1.5 x peer", forward <= 1.5 * forward_peer)
    )  # fmt: skip
    back = best_of(3, lambda: sky.pixel(ra, dec))
    back_peer = best_of(3, lambda: peer.all_world2pix(ra, dec, 0, tolerance=1e-8, quiet=True))
    out.append(
        row("sky to pixel (SIP), 1e5 positions (s)", back, back_peer, "astropy all_world2pix",
            "<= 1.5 x peer", back <= 1.5 * back_peer)
    )  # fmt: skip
    return out


if __name__ == "__main__":
    for r in rows():
        print(
            f"{r['figure']:42s} {r['ours']:10.3g}  {r['peer_name']}: {r['peer']:.3g}  "
            f"target {r['target']}: {'met' if r['passed'] else 'NOT met'}"
        )
