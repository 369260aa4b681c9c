"""Closure of aperture photometry: what goes in comes out, on isolated noiseless stars.

The stars are rendered here by an independent integrator (12 x 12 Gauss-Legendre points in every
pixel), not by ``pogson.psf``; only the enclosed energies under test come from the package. Run as
a script to print the table; ``--stars 400`` for a quick look.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
from numba import njit, prange

from pogson.calib import FluxReference
from pogson.fields import Box, ChebyshevField, PixelAreaField
from pogson.images import Exposure, fit_aperture_correction, measure_sources
from pogson.psf import MoffatPSF

FLUX = 10_000.0
SPACING = 60
FWHM = [[3.6, 0.32, 0.03], [0.29, 0.04, 0.0], [0.02, 0.0, 0.0]]  # Chebyshev c[j][i], pixels
BETA = [[3.0, -0.19, 0.0], [0.14, 0.02, 0.0], [0.0, 0.0, 0.0]]
HALF = 16  # pixels rendered about each star: more than the largest aperture needs


@njit(parallel=True, cache=False)
def _render(image, x, y, total, fwhm, beta, half, nodes, weights):  # type: ignore[no-untyped-def]
    """Add Moffat stars, integrated over every pixel by Gauss-Legendre quadrature."""
    for i in prange(x.size):
        alpha2 = fwhm[i] ** 2 / (4.0 * (2.0 ** (1.0 / beta[i]) - 1.0))
        peak = (beta[i] - 1.0) / (np.pi * alpha2)
        x0, y0 = int(np.round(x[i])), int(np.round(y[i]))
        for iy in range(y0 - half, y0 + half + 1):
            for ix in range(x0 - half, x0 + half + 1):
                value = 0.0
                for p in range(nodes.size):
                    dy = iy + 0.5 * nodes[p] - y[i]
                    for q in range(nodes.size):
                        dx = ix + 0.5 * nodes[q] - x[i]
                        r2 = (dx * dx + dy * dy) / alpha2
                        value += weights[p] * weights[q] * (1.0 + r2) ** (-beta[i])
                image[iy, ix] += total[i] * peak * value / 4.0


@dataclass(frozen=True)
class Scene:
    """A frame of isolated stars in surface brightness, and its truth."""

    exposure: Exposure
    x: np.ndarray
    y: np.ndarray
    psf: MoffatPSF
    declared: np.ndarray


def psf_of(box: Box) -> MoffatPSF:
    """Return a Moffat PSF with FWHM 3.0 to 4.3 px and beta 2.65 to 3.35 over a box."""
    return MoffatPSF(fwhm=ChebyshevField(box, FWHM), beta=ChebyshevField(box, BETA))


def area_ratio_of(box: Box) -> PixelAreaField:
    """Return a pixel-area ratio that grows by 5 % from one corner to the other."""
    return PixelAreaField(
        ChebyshevField(box, [[1.0242, 0.0125, 0.0005], [0.0120, 0.0, 0.0], [0.0003, 0.0, 0.0]]),
        0.0,
        "a test pattern",
    )


def make_scene(n_side: int = 61, *, seed: int = 20, injector: str = "source") -> Scene:
    """Render n_side x n_side stars whose R = 12 px exact-aperture flux is declared to be FLUX.

    ``injector="mean"`` normalises every star with the enclosed energy at the mean position, as
    established injectors do, and must fail the closure.
    """
    size = SPACING * n_side
    box = Box(0, 0, size, size)
    psf, ratio = psf_of(box), area_ratio_of(box)
    rng = np.random.default_rng(seed)
    centers = SPACING * (np.arange(n_side) + 0.5)
    gx, gy = np.meshgrid(centers, centers)
    x = gx.ravel() + rng.uniform(-0.5, 0.5, gx.size)
    y = gy.ravel() + rng.uniform(-0.5, 0.5, gx.size)
    reference = FluxReference.aperture(12.0)
    if injector == "source":
        fraction = reference.enclosed_energy(psf, x=x, y=y)
    else:
        fraction = np.full(
            x.size, float(reference.enclosed_energy(psf, x=[size / 2.0], y=[size / 2.0])[0])
        )
    fwhm, beta = psf_parameters(box, x, y)
    fluence = np.zeros((size, size))
    nodes, weights = np.polynomial.legendre.leggauss(12)
    _render(fluence, x, y, FLUX / fraction, fwhm, beta, HALF, nodes, weights)
    exposure = Exposure(
        fluence / ratio.render(),
        unit="adu",
        measure="surface_brightness",
        psf=psf,
        area_ratio=ratio,
    )
    return Scene(exposure, x, y, psf, np.full(x.size, FLUX))


def psf_parameters(box: Box, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Evaluate FWHM and beta of `psf_of` with numpy's own Chebyshev series."""
    u = (x - box.x_bounds[0]) / box.nx * 2 - 1
    v = (y - box.y_bounds[0]) / box.ny * 2 - 1
    cheb = np.polynomial.chebyshev.chebval2d
    return cheb(v, u, np.array(FWHM)), cheb(v, u, np.array(BETA))


def millimag(measured: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return -2.5 log10(measured / truth) in mmag."""
    return np.asarray(-2500.0 * np.log10(np.asarray(measured) / truth))


def campaign(scene: Scene, *, n_fit: int = 300, seed: int = 5) -> dict[str, np.ndarray]:
    """Measure a scene and return the errors in mmag of every star, by name."""
    references = {r: FluxReference.aperture(float(r)) for r in (4, 6, 9, 12)}
    exposure = scene.exposure
    table = measure_sources(exposure, x=scene.x, y=scene.y, references=list(references.values()))
    assert not np.any(table["flags"])

    def flux(radius: int) -> np.ndarray:
        return np.asarray(table[f"flux_{references[radius].slug}"])

    out = {"R=12": millimag(flux(12), scene.declared)}
    ignored = Exposure(exposure.image, unit="adu", measure="fluence")
    wrong = measure_sources(ignored, x=scene.x, y=scene.y, references=[references[12]])
    out["Jacobian ignored"] = -millimag(
        np.asarray(wrong[f"flux_{references[12].slug}"]), scene.declared
    )
    use = np.zeros(scene.x.size, bool)
    use[np.random.default_rng(seed).permutation(scene.x.size)[:n_fit]] = True
    for radius in (4, 6, 9):
        correction = fit_aperture_correction(
            table, references[radius], references[12], box=exposure.box, order=3, use=use
        )
        fixed = correction.apply(flux(radius), x=scene.x, y=scene.y)
        out[f"R={radius} corrected"] = millimag(fixed["flux"], scene.declared)
        converted = references[radius].convert(
            flux(radius), to=references[12], psf=scene.psf, x=scene.x, y=scene.y
        )
        out[f"R={radius} by the PSF"] = millimag(converted, scene.declared)
    return out


def rms(values: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(values))))


def rows(n_side: int = 61) -> list[dict[str, object]]:
    """Return the closure table as rows of the benchmark."""
    scene = make_scene(n_side)
    errors = campaign(scene)
    mean_injector = campaign(make_scene(n_side, injector="mean"))["R=12"]
    n = scene.x.size
    out: list[dict[str, object]] = []

    def add(figure: str, value: float, target: str, passed: bool, peer: object = None) -> None:
        out.append(
            {
                "figure": f"closure of {n} stars, mmag: {figure}",
                "ours": float(value),
                "peer": peer,
                "peer_name": "published, other injector" if peer else None,
                "target": target,
                "passed": bool(passed),
            }
        )

    r12 = errors["R=12"]
    add("R=12 declared and measured, |mean|", abs(r12.mean()), "< 0.01", abs(r12.mean()) < 0.01)
    add("R=12 declared and measured, max", np.abs(r12).max(), "< 0.05", np.abs(r12).max() < 0.05)
    for radius, limit in ((4, 1.0), (6, 0.2), (9, 0.05)):
        value = rms(errors[f"R={radius} corrected"])
        add(f"R={radius} after the field, rms", value, f"< {limit}", value < limit)
        value = rms(errors[f"R={radius} by the PSF"])
        add(f"R={radius} converted by the PSF model, rms", value, f"< {limit}", value < limit)
    lost = errors["Jacobian ignored"]
    add("Jacobian ignored, lowest", lost.min(), "-51", -56 < lost.min() < -46)
    add("Jacobian ignored, highest", lost.max(), "0", -3 < lost.max() < 3)
    add("Jacobian honoured, max", np.abs(r12).max(), "< 0.15", np.abs(r12).max() < 0.15)
    add(
        "an injector normalised at the mean position, rms (must be seen)",
        rms(mean_injector),
        "> 0.5",
        rms(mean_injector) > 0.5,
        2.0,
    )
    return out


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stars", type=int, default=3721, help="number of stars (a square)")
    n_side = round(parser.parse_args().stars ** 0.5)
    for row in rows(n_side):
        print(f"{row['figure']:75s} {row['ours']:10.4f}  {row['target']!s:>10s}  {row['passed']}")


if __name__ == "__main__":
    main()
