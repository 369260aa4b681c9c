"""Aperture sums beside sep and photutils, in the same process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from pogson.psf import ApertureOperator, sky_circle_to_ellipse


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
    figure: str, ours: float, peer: float, peer_name: str, target: str, passed: bool | None
) -> dict[str, Any]:
    return {
        "figure": figure,
        "ours": ours,
        "peer": peer,
        "peer_name": peer_name,
        "target": target,
        "passed": None if passed is None else bool(passed),
    }


def rows() -> list[dict[str, Any]]:
    """Return the figures: sky-sized exact apertures against sep's circles and photutils."""
    import sep
    from photutils.aperture import CircularAperture, EllipticalAperture

    rng = np.random.default_rng(1)
    image = rng.normal(10.0, 3.0, (4096, 4096))
    variance = np.full_like(image, 9.0)
    n = 20000
    x, y = rng.uniform(30, 4065, (2, n))
    # a distorted map: the pixel scale changes by some per cent over the detector
    jac = np.empty((n, 2, 2))
    jac[:, 0, 0], jac[:, 1, 1] = -0.26 * (1 + 1e-5 * x), 0.26 * (1 + 1e-5 * y)
    jac[:, 0, 1], jac[:, 1, 0] = 2e-6 * y, 2e-6 * x
    exact = ApertureOperator.exact()
    table = []
    for pixels in (2.0, 5.0, 12.0):

        def sky_sized(radius: float = pixels * 0.265) -> Any:
            a, b, theta = sky_circle_to_ellipse(jac, radius)
            return exact.sum(image, x=x, y=y, a=a, b=b, theta=theta)

        def circles(radius: float = pixels) -> Any:
            return sep.sum_circle(image, x, y, radius, subpix=0)

        ours, peer = (n / t for t in race(sky_sized, circles))
        table.append(
            row(
                f"sky-sized exact apertures per second, R = {pixels:g} px",
                ours,
                peer,
                "sep.sum_circle(subpix=0), one radius in pixels",
                ">= 0.8 x peer",
                ours >= 0.8 * peer,
            )
        )
    few = 500
    a, b, theta = sky_circle_to_ellipse(jac[:few], 5.0 * 0.265)

    def one_by_one() -> None:
        # photutils has one shape for all positions of an aperture, so an ellipse per source is an
        # object per source
        for k in range(few):
            shape = EllipticalAperture((x[k], y[k]), a[k], b[k], theta=theta[k])
            shape.do_photometry(image, method="exact")

    many = 2000
    apertures = CircularAperture(np.stack([x, y], -1)[:many], 5.0)
    times = race(lambda: exact.sum(image, x=x, y=y, a=5.05, b=4.95, theta=0.3), one_by_one, 3)
    ours, peer = n / times[0], few / times[1]
    table.append(
        row(
            "an ellipse per source, exact, per second, R = 5 px",
            ours,
            peer,
            "photutils, an EllipticalAperture per source",
            ">= 15 x peer",
            ours >= 15 * peer,
        )
    )
    times = race(
        lambda: exact.sum(image, x=x, y=y, a=5.05, b=4.95, theta=0.3),
        lambda: apertures.do_photometry(image, method="exact"),
    )
    ours, peer = n / times[0], many / times[1]
    table.append(
        row(
            "elliptical exact apertures per second, R = 5 px",
            ours,
            peer,
            "photutils, one CircularAperture for all sources",
            "for comparison",
            None,
        )
    )
    times = race(
        lambda: exact.sum(image, x=x, y=y, a=5.0, b=4.9, variance=variance),
        lambda: sep.sum_circle(image, x, y, 5.0, var=variance, subpix=0),
    )
    ours, peer = n / times[0], n / times[1]
    table.append(
        row(
            "the same with variance, R = 5 px",
            ours,
            peer,
            "sep.sum_circle(var=, subpix=0)",
            ">= 0.8 x peer",
            ours >= 0.8 * peer,
        )
    )
    flux = exact.sum(image, x=x, y=y, a=6.0, b=4.0, theta=0.4).flux
    theirs = sep.sum_ellipse(image, x, y, 6.0, 4.0, 0.4, 1.0, subpix=0)[0]
    photutils_flux = apertures.do_photometry(image, method="exact")[0]
    own = exact.sum(image, x=x[:many], y=y[:many], a=5.0).flux
    table.append(
        row(
            "largest relative difference of exact sums",
            float(np.abs(own / photutils_flux - 1).max()),
            float(np.abs(flux / theirs - 1).max()),
            "ours: to photutils; peer: to sep (float32 pixels)",
            "<= 1e-10 and <= 1e-6",
            np.abs(own / photutils_flux - 1).max() < 1e-10
            and np.abs(flux / theirs - 1).max() < 1e-6,
        )
    )
    return table


if __name__ == "__main__":
    for line in rows():
        print(line)
