"""Simulating one 1024 x 1024 detector image, stars, sky, noise and defects, all told."""

from __future__ import annotations

import time

import numpy as np

from pogson.simulate import demo_model, draw_stars, draw_visit, render_detector


def best_of(function, repeats=3):
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def peer_noise(expected, rng):
    """The least any simulator does for such an image: one Poisson and one normal a pixel."""
    return rng.poisson(expected) + 7.0 * rng.standard_normal(expected.shape)


def main() -> None:
    model = demo_model()
    stars = draw_stars(model, 340.0, rng_seed=1)
    visit = draw_visit(model, 0, rng_seed=1)
    made = render_detector(model, visit, 0, stars, rng_seed=1)  # compiles the kernels
    ours = best_of(lambda: render_detector(model, visit, 0, stars, rng_seed=1))
    electrons = made.expected * model.camera.gain * made.flat
    rng = np.random.Generator(np.random.Philox(1))
    noise = best_of(lambda: peer_noise(electrons, rng))
    print(
        f"simulate 1024x1024, {made.x.size} stars: {ours:.3f} s; "
        f"numpy noise alone {noise:.3f} s; ratio {ours / noise:.1f}"
    )


if __name__ == "__main__":
    main()
