"""Flats and backgrounds of a chromatic camera: the errors that remain, and those made naively."""

from __future__ import annotations

import numpy as np

from pogson.calib import FluxReference
from pogson.images import (
    fit_color_correction,
    fit_focal_plane_background,
    measure_sources,
    source_factors,
)
from pogson.sed import Bandpass, synthetic_color
from pogson.simulate.chromatic import ChromaticModel, ChromaticScene, simulate_chromatic

SEED = 20
SKY_LEVEL = 1500.0  # electrons per pixel of the simulated sky


def row(
    figure: str, ours: float, naive: float | None, target: str, limit: float
) -> dict[str, object]:
    """Return one row of the table; the peer is the naive way."""
    return {
        "figure": figure,
        "ours": float(ours),
        "peer": None if naive is None else float(naive),
        "peer_name": "naive" if naive is not None else None,
        "target": target,
        "passed": bool(ours < limit),
    }


def worst_sky(scene: ChromaticScene, model: object) -> float:
    """Return the largest difference from the true sky, over the sky."""
    backgrounds = model.backgrounds  # type: ignore[attr-defined]
    return max(
        float(np.abs(backgrounds[e.detector].level.render() - truth.render()).max())
        for e, truth in zip(scene.exposures, scene.sky, strict=True)
    ) / SKY_LEVEL  # fmt: skip


def star_errors(scene: ChromaticScene, sky: object) -> dict[str, dict[float, float]]:
    """Return mean errors in mmag of each correction and temperature, over the field."""
    g, r = (Bandpass.from_speclite(f"decam2014-{b}") for b in "gr")
    colors = {t: synthetic_color(s, g, r) for t, s in scene.spectra.items()}
    found: dict[str, dict[float, list[float]]] = {"naive": {}, "full": {}, "first": {}}
    for index, e in enumerate(sky.attach(scene.exposures)):  # type: ignore[attr-defined]
        stars = scene.stars[scene.stars["detector"] == index]
        x, y, teff = (np.asarray(stars[n]) for n in ("x", "y", "teff"))
        table = measure_sources(e, x=x, y=y, references=[FluxReference.aperture(12.0)])
        inside = np.ravel(e.psf.enclosed_energy(12.0, x=x, y=y))
        flux = np.asarray(table["flux_aperture_12px_exact"]) / inside / np.asarray(stars["flux"])
        own = [scene.spectra[t] for t in teff]
        first = fit_color_correction(e.flattening, list(scene.spectra.values()), (g, r))
        fluxes = {
            "naive": flux,
            "full": flux * source_factors(e.flattening, own, x=x, y=y),
            "first": first.correct(flux, x=x, y=y, color=[colors[t] for t in teff]),
        }
        for name, values in fluxes.items():
            for t in scene.spectra:
                found[name].setdefault(t, []).extend(2500 * np.log10(values[teff == t]))
    worst = {n: {t: float(np.abs(v).max()) for t, v in d.items()} for n, d in found.items()}
    mean = {n: {t: abs(float(np.mean(v))) for t, v in d.items()} for n, d in found.items()}
    return {**mean, "worst naive": worst["naive"]}


def rows() -> list[dict[str, object]]:
    """Return the figures of flats and backgrounds."""
    scene = simulate_chromatic(ChromaticModel(detectors=2), rng_seed=SEED)
    naive = fit_focal_plane_background(scene.exposures, order=2)
    sky = fit_focal_plane_background(scene.exposures, sky_sed=scene.sky_sed, order=2)
    errors = star_errors(scene, sky)
    back = 0.0
    for e in scene.exposures:
        there = e.to_state(measure="fluence", sed=scene.sky_sed)
        again = there.to_state(measure="surface_brightness", sed="fiducial")
        start = e.to_state(measure="surface_brightness", sed="fiducial").image
        back = max(back, float(np.nanmax(np.abs(again.image - start) / np.spacing(np.abs(start)))))
    out = [
        row("state to state and back, units in the last place", back, None, "<= 2", 2.5),
        row(
            "background error over the sky, its own spectrum (naive: the fiducial flat)",
            worst_sky(scene, sky), worst_sky(scene, naive), "< 1e-3", 1e-3,
        ),
    ]  # fmt: skip
    for t in scene.spectra:
        limit = 0.2 if t == 5800.0 else 0.5
        worst = errors["worst naive"][t]
        out += [
            row(
                f"mean flux error of {t:.0f} K stars, {name} correction, mmag (naive: worst)",
                errors[name][t], worst, f"< {limit}", limit,
            )
            for name in ("full", "first")
        ]  # fmt: skip
    return out


if __name__ == "__main__":
    for line in rows():
        print(line)
