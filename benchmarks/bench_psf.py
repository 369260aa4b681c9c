"""Drawing PSFs beside GalSim, and enclosed energies, in the same process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from pogson.psf import ApertureOperator, MoffatPSF, PixelGridPSF
from pogson.psf.profiles import moffat_alpha


def race(ours: Callable[[], Any], peer: Callable[[], Any], repeats: int = 7) -> tuple[float, float]:
    """Return the shortest times of two functions run by turns, so that noise hits both alike."""
    times: list[list[float]] = [[], []]
    for turn in range(repeats + 1):
        for k, function in enumerate((ours, peer)):
            start = time.perf_counter()
            function()
            if turn:
                times[k].append(time.perf_counter() - start)
    return min(times[0]), min(times[1])


def row(
    figure: str, ours: float, peer: float | None, peer_name: str, target: str, passed: bool
) -> dict[str, Any]:
    return {
        "figure": figure,
        "ours": ours,
        "peer": peer,
        "peer_name": peer_name,
        "target": target,
        "passed": bool(passed),
    }


def truth(fwhm: float, beta: float, x: float, y: float, half: int) -> np.ndarray:
    """Integrate a Moffat profile over pixels with 24 x 24 Gauss-Legendre nodes."""
    t, w = np.polynomial.legendre.leggauss(24)
    alpha = moffat_alpha(fwhm, beta)
    i = np.arange(-half, half + 1)
    u = ((np.floor(x + 0.5) - x + i)[:, None] + t / 2)[None, :, None, :]
    v = ((np.floor(y + 0.5) - y + i)[:, None] + t / 2)[:, None, :, None]
    p = (beta - 1) / (np.pi * alpha**2) * (1 + (u * u + v * v) / alpha**2) ** -beta
    return np.einsum("jiqp,q,p->ji", p, w / 2, w / 2)


def rows() -> list[dict[str, Any]]:
    """Return the figures of drawing and of enclosed energy."""
    import galsim

    psf = MoffatPSF(3.5, 3.0)
    rng = np.random.default_rng(1)
    n = 1000
    x, y = rng.uniform(100, 3900, (2, n))
    profile = galsim.Moffat(fwhm=3.5, beta=3.0)
    image = galsim.ImageD(51, 51, scale=1.0)

    def theirs() -> None:
        for k in range(20):
            profile.drawImage(image, offset=(x[k] % 1 - 0.5, y[k] % 1 - 0.5))

    times = race(lambda: psf.draw_many(x=x, y=y, half_size=25), theirs)
    ours, peer = n / times[0], 20 / times[1]
    table = [
        row(
            "Moffat stars of 51 x 51 px drawn per second, one thread",
            ours,
            peer,
            "GalSim FFT, default parameters",
            ">= 5 x peer",
            ours >= 5 * peer,
        )
    ]
    mine = peer = 0.0
    for k in range(20):
        true = truth(3.5, 3.0, x[k], y[k], 25)
        stamp = psf.draw(x=x[k], y=y[k], half_size=25).image
        offset = (x[k] - np.floor(x[k] + 0.5), y[k] - np.floor(y[k] + 0.5))
        profile.drawImage(image, offset=offset)
        mine = max(mine, np.abs(stamp - true).max() / true.max())
        peer = max(peer, np.abs(image.array - true).max() / true.max())
    table.append(
        row(
            "worst pixel error over the peak",
            float(mine),
            float(peer),
            "GalSim FFT, default parameters",
            "<= 1e-6",
            mine <= 1e-6,
        )
    )
    for name, floor in (("exact", 5000.0), ("sinc", 2000.0)):
        operator = ApertureOperator.parse(name)

        def energies(chosen: ApertureOperator = operator) -> Any:
            return psf.enclosed_energy(12.0, chosen, x=x, y=y)

        ours = n / race(energies, lambda: None)[0]
        table.append(
            row(
                f"enclosed energies per second, {name}, R = 12 px, own sub-pixel phase",
                ours,
                None,
                "",
                f">= {floor:g}",
                ours >= floor,
            )
        )
    grid = PixelGridPSF(psf.draw(x=0, y=0, half_size=25).image)
    drawn = galsim.InterpolatedImage(
        galsim.ImageD(grid.coefficients[0].copy(), scale=1.0),
        x_interpolant=galsim.Lanczos(3),
        flux=1.0,
    )

    def interpolated() -> None:
        for k in range(100):
            drawn.drawImage(image, offset=(x[k] % 1 - 0.5, y[k] % 1 - 0.5), method="no_pixel")

    times = race(lambda: grid.draw_many(x=x, y=y, half_size=25), interpolated)
    ours, peer = n / times[0], 100 / times[1]
    table.append(
        row(
            "pixel-grid stars of 51 x 51 px drawn per second",
            ours,
            peer,
            "GalSim InterpolatedImage, Lanczos 3",
            ">= 2 x peer",
            ours >= 2 * peer,
        )
    )
    return table


if __name__ == "__main__":
    for line in rows():
        print(line)
