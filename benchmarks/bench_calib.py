"""Figures of the calibrations: accuracy of zero points and speed, beside what is commonly done."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

SEED = 20240501


def best_of(function: Callable[[], Any], repeats: int = 5) -> float:
    """Return the shortest wall time of several calls, in seconds, after one to warm up."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def _row(
    figure: str, ours: float, peer: float | None, peer_name: str, target: str, passed: bool | None
) -> dict[str, Any]:
    return {
        "figure": figure,
        "ours": float(ours),
        "peer": None if peer is None else float(peer),
        "peer_name": peer_name,
        "target": target,
        "passed": None if passed is None else bool(passed),
    }


def _stars(
    rng: np.random.Generator, n: int, snr: tuple[float, float], outliers: float
) -> dict[str, np.ndarray]:
    """Simulate stars of zero point 25 with 10 mmag scatter and one-sided outliers."""
    truth = 10 ** rng.uniform(3, 5.5, n)
    counts = truth * 10 ** (0.4 * (25.0 - 31.4))
    error = counts / rng.uniform(*snr, n)
    measured = counts * 10 ** (-0.4 * rng.normal(0, 0.01, n)) + rng.normal(0, error)
    measured *= np.where(rng.random(n) < outliers, 10 ** (0.4 * rng.uniform(0.1, 1.5, n)), 1.0)
    return {
        "inst_flux": measured,
        "inst_flux_err": error,
        "ref_flux": truth * (1 + rng.normal(0, 0.005, n)),
        "ref_flux_err": 0.005 * truth,
    }


def _clipped_mean(stars: dict[str, np.ndarray]) -> float:
    """Zero point as commonly made: 3-sigma-clipped mean of magnitude differences."""
    from astropy.stats import sigma_clipped_stats

    good = stars["inst_flux"] > 0
    mags = 31.4 - 2.5 * np.log10(stars["ref_flux"][good] / stars["inst_flux"][good])
    return float(sigma_clipped_stats(mags, sigma=3.0)[0])


def _accuracy() -> list[dict[str, Any]]:
    from pogson.calib import FluxReference, fit_zero_point

    out = []
    for label, snr, outliers, limit in (
        ("S/N 5-6", (5.0, 6.0), 0.0, None),
        ("S/N 20-300, 20 % blends", (20.0, 300.0), 0.2, None),
    ):
        rng = np.random.default_rng(SEED)
        ours, peer, pulls = [], [], []
        for _ in range(60):
            stars = _stars(rng, 300, snr, outliers)
            fit = fit_zero_point(**stars, reference=FluxReference.total(), min_snr=3.0)
            ours.append(fit.zero_point - 25.0)
            pulls.append(ours[-1] / fit.zero_point_err)
            peer.append(_clipped_mean(stars) - 25.0)
        noise = np.std(ours) / np.sqrt(60)
        limit = 3.5 * noise
        out.append(
            _row(
                f"zero-point bias, {label} [mmag]",
                1e3 * abs(np.mean(ours)),
                1e3 * abs(np.mean(peer)),
                "astropy sigma-clipped mean of magnitudes",
                f"<= {1e3 * limit:.2f} (3.5 sigma)",
                abs(np.mean(ours)) <= limit,
            )
        )
        width = float(np.std(pulls))
        out.append(
            _row(f"zero-point pull width, {label}", width, None, "", "0.7-1.35", 0.7 < width < 1.35)
        )
    return out


def _speed() -> list[dict[str, Any]]:
    import astropy.units as u
    from astropy.coordinates import SkyCoord, match_coordinates_sky

    from pogson.calib import FluxReference, PhotoCalib, fit_zero_point, match_catalogs
    from pogson.fields import Box, ChebyshevField

    rng = np.random.default_rng(SEED)
    box = Box(0, 0, 4096, 4096)
    coefficients = np.diag([0.5, 0.02, 0.01])
    calib = PhotoCalib(
        ChebyshevField(box, coefficients, "nJy/adu"),
        measure="fluence",
        reference=FluxReference.total(),
    )
    image = rng.normal(100, 10, box.shape).astype(np.float32)
    work, other = image.copy(), np.ones_like(image)

    def multiply() -> None:
        np.multiply(work, other, out=work)

    peer = best_of(multiply)
    ours = best_of(lambda: calib.calibrate_image(image), repeats=3)
    out = [
        _row(
            "calibrate varying 4096^2 [s]",
            ours,
            peer,
            "numpy in-place multiply",
            "-",
            None,
        )
    ]
    n = 100_000
    ra, dec = rng.uniform(10, 12, n), rng.uniform(-1, 1, n)
    near = ra + rng.normal(0, 3e-5, n), dec + rng.normal(0, 3e-5, n)
    ours = best_of(lambda: match_catalogs(ra, dec, *near, 1.0), repeats=2)
    a, b = SkyCoord(ra, dec, unit=u.deg), SkyCoord(*near, unit=u.deg)
    peer = best_of(lambda: match_coordinates_sky(a, b, storekdtree=False), repeats=2)
    out.append(
        _row(
            "one-to-one match 100,000 x 100,000 [s]",
            ours,
            peer,
            "astropy match_coordinates_sky (not one-to-one)",
            "-",
            None,
        )
    )
    stars = _stars(rng, 2700, (20.0, 300.0), 0.05)
    x, y = rng.uniform(0, 4095, 2700), rng.uniform(0, 4095, 2700)

    def fit() -> None:
        fit_zero_point(**stars, reference=FluxReference.total(), x=x, y=y, box=box, order=2)

    seconds = best_of(fit, repeats=2)
    out.append(_row("fit 2,700 stars, order 2 [s]", seconds, None, "", "<= 1 s", seconds <= 1))
    return out


def rows() -> list[dict[str, Any]]:
    """Measure on one core and return the rows of the benchmark table."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        return _accuracy() + _speed()


if __name__ == "__main__":
    for row in rows():
        print(row)
