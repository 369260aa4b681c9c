"""Figures of the fields: rendering and evaluation, beside numpy's and astropy's, on one core."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

N = 4096
ORDER = 6


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
    figure: str,
    ours: float,
    peer: float | None = None,
    peer_name: str = "",
    *,
    seconds: float | None = None,
    ratio: float | None = None,
) -> dict[str, Any]:
    """Return one row of the table; ``ratio`` is the largest allowed ours / peer."""
    parts, passed = [], True
    if seconds is not None:
        parts.append(f"<= {seconds:g} s")
        passed &= ours <= seconds
    if ratio is not None and peer is not None:
        parts.append(f"<= {ratio:g} x peer")
        passed &= ours <= ratio * peer
    return {
        "figure": figure,
        "ours": ours,
        "peer": peer,
        "peer_name": peer_name,
        "target": ", ".join(parts) or "-",
        "passed": bool(passed),
    }


def rows() -> list[dict[str, Any]]:
    """Measure on one core and return the rows of the benchmark table."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        return _measure()


def _measure() -> list[dict[str, Any]]:
    from astropy.modeling.models import Chebyshev2D

    from pogson.fields import Box, ChebyshevField, GridField, PixelAreaField

    rng = np.random.default_rng(20261121)
    box = Box(0, 0, N, N)
    c = 0.01 * rng.normal(size=(ORDER + 1, ORDER + 1))
    c[0, 0] = 1.0
    field = ChebyshevField(box, c, "nJy / adu")
    area = PixelAreaField(ChebyshevField(box, c[:5, :5], "arcsec2"))
    grid = GridField(
        box, np.linspace(-1, N, 30), np.linspace(-1, N, 30), rng.normal(size=(30, 30)), "", "cubic"
    )
    t = (2 * box.x_pixels() + 1) / N - 1
    cheb = np.polynomial.chebyshev

    def chebgrid2d() -> np.ndarray:
        return cheb.chebgrid2d(t, t, c.T).T

    model = Chebyshev2D(ORDER, ORDER, x_domain=[-0.5, N - 0.5], y_domain=[-0.5, N - 0.5])
    for j in range(ORDER + 1):
        for i in range(ORDER + 1):
            setattr(model, f"c{i}_{j}", c[j, i])
    # astropy's model needs the pixel grid; a quarter of the rows is enough to see its rate
    yy, xx = np.mgrid[: N // 4, :N].astype(np.float64)
    np.testing.assert_allclose(field.render(), chebgrid2d(), rtol=1e-12)
    np.testing.assert_allclose(field.render(Box(0, 0, N, 8)), model(xx[:8], yy[:8]), rtol=1e-12)

    x, y = rng.uniform(0, N - 1, 10**6), rng.uniform(0, N - 1, 10**6)
    xt, yt = (2 * x + 1) / N - 1, (2 * y + 1) / N - 1
    size = f"{N}x{N}, order {ORDER}"
    numpy_grid = best_of(chebgrid2d)
    astropy_grid = 4 * best_of(lambda: model(xx, yy), 1)
    ours = best_of(field.render)
    full = best_of(lambda: (field * area).render())
    z = field(x=x, y=y)
    return [
        _row(f"render {size}", ours, numpy_grid, "numpy chebgrid2d", seconds=0.15, ratio=1.0),
        _row(f"render {size} ", ours, astropy_grid, "astropy Chebyshev2D", ratio=0.1),
        _row(
            f"render {size}, float32",
            best_of(lambda: field.render(dtype=np.float32)),
            numpy_grid,
            "numpy chebgrid2d (float64)",
            seconds=0.15,
        ),
        _row(f"render calibration x pixel area {N}x{N}", full, seconds=0.3),
        _row(f"render cubic grid of 30x30 nodes {N}x{N}", best_of(grid.render), seconds=0.3),
        _row(
            f"1e6 points, order {ORDER}",
            best_of(lambda: field(x=x, y=y)),
            best_of(lambda: cheb.chebval2d(xt, yt, c.T)),
            "numpy chebval2d",
            ratio=1.0,
        ),
        _row("1e6 points, cubic grid", best_of(lambda: grid(x=x, y=y)), seconds=1.5),
        _row(
            f"fit 1e6 points, order {ORDER} total",
            best_of(lambda: ChebyshevField.fit(box, x, y, z, order=ORDER), 1),
            best_of(lambda: np.linalg.lstsq(field.basis(x=x, y=y)[:, :28], z, rcond=None), 1),
            "numpy lstsq, 28 columns",
            ratio=1.5,
        ),
    ]


if __name__ == "__main__":
    for row in rows():
        beside = f"{row['peer']:9.4f} s {row['peer_name']}" if row["peer"] is not None else ""
        verdict = "ok" if row["passed"] else "MISSED"
        print(
            f"{row['figure']:44s} {row['ours']:9.4f} s  {verdict:6s} {row['target']:22s} {beside}"
        )
