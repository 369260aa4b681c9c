"""Figures of the spectral flux calibration: simulations on real pieces, real stars, speed."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

SEED = 20250611
DATA = Path(
    os.environ.get("POGSON_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data"
)
BANDS = ("ps1_g", "ps1_r", "ps1_i", "ps1_z")
# Teff from the literature. "LTE grids": the mean of the fits of Castelli-Kurucz, BOSZ and MARCS
# models to the CALSPEC spectra by the makers of CALSPEC (table in their pipeline's vmag.pro;
# method: Bohlin et al. 2017, AJ 153, 234); the three differ by up to 530 K.
LITERATURE = {
    "bd_17d4708": (6141, "Ramirez et al. 2006, A&A 459, 613: 6141 +- 50"),
    "hd111980": (5833, "LTE grids: 5860, 5820, 5820"),
    "hd074000": (6330, "LTE grids: 6260, 6250, 6480"),
    "bd21d0607": (6263, "LTE grids: 6260, 6150, 6380"),
    "bd26d2606": (6297, "LTE grids: 6300, 6130, 6460"),
    "bd29d2091": (5893, "LTE grids: 5840, 5840, 6000"),
    "bd02d3375": (6143, "LTE grids: 6080, 5910, 6440"),
    "p330e": (5877, "LTE grids: 5900, 5830, 5900"),
    "p177d": (5873, "LTE grids: 5880, 5830, 5910"),
    "hd106252": (5827, "LTE grids: 5820, 5850, 5810"),
    "18sco": (5823, "Melendez et al. 2014, ApJ 791, 14: 5823 +- 6"),
}


# ---- real pieces ---------------------------------------------------------------------------------


@cache
def kurucz() -> Any:
    """Return the SDSS grid of Kurucz models."""
    from pogson.spectro import TemplateLibrary

    return TemplateLibrary(DATA / "templates" / "kurucz_stds_v5.fit")


@cache
def kurucz_photometry() -> Any:
    """Return the grid with its photometry in PS1 griz."""
    from pogson.spectro import grid_photometry, load_filter_curves

    return grid_photometry(kurucz(), load_filter_curves(BANDS))


@cache
def calspec(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return wavelength, flux and FWHM of a CALSPEC star."""
    from astropy.io import fits

    (path,) = (DATA / "calspec").glob(f"{name}_*.fits.gz")
    with fits.open(path) as hdus:
        d = hdus[1].data
        good = (d["WAVELENGTH"] > 3000) & (d["WAVELENGTH"] < 11500)
        return tuple(np.array(d[k][good], np.float64) for k in ("WAVELENGTH", "FLUX", "FWHM"))  # type: ignore[return-value]


@cache
def _sdss_curve() -> tuple[np.ndarray, np.ndarray]:
    from astropy.io import fits
    from scipy.interpolate import BSpline

    from pogson.spectro import load_mask_regions

    parts = {}
    for arm in ("b1", "r1"):
        with fits.open(DATA / "sdss-fluxcal" / f"spFluxcalib-{arm}.fits") as hdus:
            t = hdus[1].data[0]
            knots, c = t["FULLBKPT"].astype(float), t["COEFF"].astype(float)
            k = int(t["NORD"])
            lam = 10 ** np.linspace(knots[k - 1] + 1e-4, knots[-k] - 1e-4, 3000)
            parts[arm] = (lam, BSpline(knots, c, k - 1)(np.log10(lam)))
    lam = np.arange(3790.0, 9200.0, 40.0)
    blue = np.interp(lam, *parts["b1"])
    red = np.interp(lam, *parts["r1"])
    red *= np.interp(5950.0, *parts["b1"]) / np.interp(5950.0, *parts["r1"])
    mix = np.clip((lam - 5860.0) / 180.0, 0, 1)
    curve = blue * (1 - mix) + red * mix
    keep = np.ones(lam.size, bool)
    for low, high in load_mask_regions("telluric_wide"):
        keep &= (lam < low - 25) | (lam > high + 25)
    return lam[keep], curve[keep]


def sdss_response(wavelength: Any) -> np.ndarray:
    """Response of a real SDSS spectrograph (plate calibration), telluric bands bridged."""
    from scipy.interpolate import PchipInterpolator

    lam, curve = _sdss_curve()
    x = np.clip(np.asarray(wavelength, np.float64), lam[0], lam[-1])
    return np.asarray(3e13 * PchipInterpolator(lam, curve)(x))


def magnitudes(name: str, wavelength: np.ndarray, flux: np.ndarray, error: float = 0.01) -> Any:
    """Return synthetic PS1 magnitudes of a spectrum."""
    from pogson.sed import Spectrum, synthetic_magnitude
    from pogson.spectro import Photometry, load_filter_curves

    s = Spectrum(wavelength, flux, name=name)
    mags = [synthetic_magnitude(s, c.bandpass) for c in load_filter_curves(BANDS).values()]
    return Photometry(BANDS, mags, [error] * len(BANDS))


@cache
def calspec_match(name: str, e_bv: float = 0.005, e_bv_error: float = 0.01) -> tuple[Any, Any]:
    """Match a real CALSPEC star with the Kurucz grid, as if its spectrum were counts."""
    from pogson.spectro import MatchConfig, StarSpectrum, match_star

    lam, flux, fwhm = calspec(name)
    i, j = np.searchsorted(lam, [3800.0, 9300.0])
    sel = slice(i, j)
    star = StarSpectrum(lam[sel], flux[sel], (100.0 / flux[sel]) ** 2, fwhm[sel] / 2.3548, name)
    config = MatchConfig(e_bv=e_bv, e_bv_error=e_bv_error)
    return star, match_star(star, magnitudes(name, lam, flux, 0.005), kurucz_photometry(), config)


@cache
def sharpened(name: str) -> Any:
    """Return a CALSPEC star at the Kurucz grid's resolution: its own SED, the model's lines."""
    from pogson.simulate import FibreTarget
    from pogson.spectro import LineSpread, spectral_transfer

    lam, flux, fwhm = calspec(name)
    _, match = calspec_match(name)
    library = kurucz()
    model = library.interpolate(match.teff, match.logg, match.feh)
    grid = model.wavelength
    rest = lam / (1 + match.rv_kms / 299792.458)
    spread = LineSpread.from_sigma(fwhm / 2.3548, wavelength=rest)
    inner = (rest > grid[0] + 60) & (rest < grid[-1] - 60)
    seen = spectral_transfer(
        grid, rest[inner], spread, native_sigma=library.native_sigma, samples="points"
    )(model.flux)
    ratio = flux[inner] / seen
    known = np.isfinite(ratio)
    rest_known = rest[inner][known]
    keep = (grid > max(3150.0, rest_known[0])) & (grid < min(10800.0, rest_known[-1]))
    smooth = np.interp(grid[keep], rest_known, ratio[known])
    return FibreTarget(
        name, grid[keep].copy(), smooth * model.flux[keep],
        native=LineSpread.from_sigma(library.native_sigma[keep], wavelength=grid[keep]),
        labels={"teff": match.teff, "logg": match.logg, "feh": match.feh},
    )  # fmt: skip


CALSPEC_IN_FRAME = (
    "bd_17d4708", "hd111980", "hd074000", "bd21d0607", "bd26d2606", "bd29d2091", "bd02d3375",
)  # fmt: skip


def frame_of_real_pieces(
    seed: int, *, n: int = 8, sn: tuple[float, float] = (10, 100), **how: Any
) -> Any:
    """Simulate a frame: half of the stars Kurucz models between nodes, half CALSPEC stars."""
    from pogson.simulate import simulate_fibres
    from pogson.streams import stream

    base = simulate_fibres(
        seed, n_stars=n, n_fibres=n, library=kurucz(), response=sdss_response, sn=sn, **how
    )
    targets = list(base.targets)
    rng = stream(seed, "which")
    order = rng.permutation(len(CALSPEC_IN_FRAME))
    for i in range(1, n, 2):
        real = sharpened(CALSPEC_IN_FRAME[order[(i // 2) % len(CALSPEC_IN_FRAME)]])
        old = targets[i]
        targets[i] = replace(
            real,
            name=f"{real.name} {i}",
            rv_kms=old.rv_kms,
            e_bv=old.e_bv,
            grey=old.grey,
            sn=old.sn,
        )
    return simulate_fibres(
        seed, n_stars=n, n_fibres=n, library=kurucz(), targets=targets, response=sdss_response,
        **how,
    )  # fmt: skip


def outside_telluric(sim: Any) -> np.ndarray:
    """True from 3900 to 9000 Angstrom where the atmosphere does not absorb."""
    from pogson.spectro import load_mask_regions

    lam = sim.frame.wavelength
    ok = (lam > 3900) & (lam < 9000)
    for low, high in load_mask_regions("telluric_default"):
        ok &= (lam < low - 5) | (lam > high + 5)
    return np.asarray(ok)


def calibrated(sim: Any, **how: Any) -> Any:
    """Calibrate a simulated frame."""
    from pogson.spectro import FluxCalConfig, calibrate_fibres

    return calibrate_fibres(sim.frame, sim.standards, kurucz_photometry(), FluxCalConfig(**how))


def campaign(n_frames: int = 12, seed: int = SEED, n: int = 8, **how: Any) -> dict[str, Any]:
    """Calibrate frames of real pieces; errors of shape and scale, pulls of the calibration."""
    shapes, scales, pulls, rejected = [], [], [], 0
    for k in range(n_frames):
        sim = frame_of_real_pieces(seed + k, n=n, **how)
        cal = calibrated(sim)
        rejected += len(cal.rejected)
        lam, ok = sim.frame.wavelength, outside_telluric(sim)
        ratio = cal.factor(lam) / sim.true_factor(cal.solution.names_used)
        shapes.append(float(np.std(ratio[ok]) / np.mean(ratio[ok])))
        scales.append(float(np.mean(ratio[ok]) - 1))
        pulls.append(np.log(ratio[ok][::40]) / np.sqrt(cal.solution.log_variance(lam[ok][::40])))
    flat = np.concatenate(pulls)
    return {
        "shape": np.array(shapes), "scale": np.array(scales),
        "pull": float(np.sqrt(np.mean(flat**2))),
        "pulls": pulls, "rejected": rejected,
    }  # fmt: skip


# ---- other figures -------------------------------------------------------------------------------


def real_stars() -> dict[str, tuple[float, float]]:
    """Return, of each CALSPEC star, rms of the SED ratio (%, smoothed) and Teff - literature."""
    from scipy.ndimage import uniform_filter1d

    out = {}
    for name, (teff, _) in LITERATURE.items():
        star, match = calspec_match(name)
        lam = star.wavelength
        ratio = star.counts / match.model
        ok = (lam > 3900) & (lam < 9000) & np.isfinite(ratio)
        smooth = uniform_filter1d(ratio[ok], 12, mode="nearest")
        out[name] = (100 * float(np.std(smooth) / np.mean(smooth)), match.teff - teff)
    return out


def bias_at_low_sn(n_frames: int = 6, sn: float = 5.0) -> tuple[float, float, float]:
    """Mean error of the level at one S/N: joint solution, its error, mean of model/counts."""
    from pogson.spectro import StandardData, solve_response
    from pogson.streams import stream

    errors, naive = [], []
    for k in range(n_frames):
        rng = stream(SEED, "bias", k)
        lam = 10 ** np.arange(np.log10(3800.0), np.log10(9300.0), 1e-4)
        truth = sdss_response(lam)
        truth = truth / truth.mean()
        stars, factors, weights = [], [], []
        for i in range(6):
            model = 1e4 * (lam / 5500) ** rng.uniform(-1.5, -0.5)
            signal = truth * model
            level = np.median(signal) / sn
            variance = level**2 * (0.5 + 0.5 * signal / np.median(signal))
            counts = signal + rng.normal(size=lam.size) * np.sqrt(variance)
            seen = level**2 * (0.5 + 0.5 * np.maximum(counts, 0) / np.median(signal))
            stars.append(StandardData(f"s{i}", lam, counts, 1 / seen, model))
            good = counts > 0
            f = np.where(good, model / np.where(good, counts, 1), np.nan)
            factors.append(f)
            weights.append(np.where(good, counts**2 / (f**2 * seen), 0))
        ratio = solve_response(stars).response(lam) / truth
        errors.append(float(np.mean(ratio) - 1))
        f, w = np.array(factors), np.array(weights)
        mean = np.nansum(np.where(w > 0, f * w, 0), axis=0) / w.sum(axis=0)
        naive.append(float(np.mean(mean * truth) - 1))
    return float(np.mean(errors)), float(np.std(errors) / np.sqrt(n_frames)), float(np.mean(naive))


def galaxy_target(kind: str, like: Any) -> Any:
    """Return something that is not the standard star: a galaxy, a cool or a hot star."""
    from pogson.sed import Spectrum, load_filter_curve

    lam = like.wavelength
    if kind == "x100":
        return replace(like, listed=like.flux / 100.0)
    if kind == "galaxy":
        old = kurucz().interpolate(5000.0, 4.0, 0.0)
        flux = np.interp(lam, old.wavelength, old.flux)
        flux = flux / np.interp(5500.0, lam, flux) * np.where(lam < 4000, 0.6, 1.0)
        z = 0.03
        flux = np.interp(lam, lam * (1 + z), flux)
        for line, height in ((3728.0, 0.5), (4862.7, 0.3), (5008.2, 1.0), (6564.6, 1.5)):
            flux = flux + height * np.exp(-0.5 * ((lam - line * (1 + z)) / 4.0) ** 2)
    elif kind == "cool":  # an M dwarf: molecular bands
        flux = (lam / 6000.0) ** 3 * (1 - 0.5 * np.exp(-(((lam - 7100.0) % 600.0) / 200.0)))
    else:  # a white dwarf: broad Balmer lines on a hot continuum
        flux = (lam / 5000.0) ** -3.2
        for line in (4102.9, 4341.7, 4862.7, 6564.6):
            flux = flux * (1 - 0.6 * np.exp(-np.abs(lam - line) / 45.0))
    r = load_filter_curve("ps1_r").bandpass
    scale = Spectrum(lam, like.flux).scaled(1.0)
    wrong = Spectrum(lam, flux)
    from pogson.sed import synthetic_flux

    flux = flux * synthetic_flux(scale, r) / synthetic_flux(wrong, r)
    return replace(like, flux=flux, listed=None)


def wrong_star(kind: str, n: int, seed: int) -> bool:
    """Return whether the wrong star among n, and no other, is rejected by name."""
    from pogson.simulate import simulate_fibres

    base = frame_of_real_pieces(seed, n=n, sn=(20, 100))
    targets = list(base.targets)
    place = seed % n
    targets[place] = galaxy_target(kind, targets[place])
    sim = simulate_fibres(
        seed, n_stars=n, n_fibres=n, library=kurucz(), targets=targets, response=sdss_response
    )
    return set(calibrated(sim).rejected) == {targets[place].name}


def leave_one_out(n_frames: int = 2) -> tuple[float, float]:
    """Rms (mag) and pull of PS1 griz predicted for a star by the calibration of the others.

    The fibre loss of the star itself, one number, is taken out.
    """
    from pogson.sed import Spectrum, load_filter_curves, synthetic_magnitude
    from pogson.spectro import apply_calibration, calibrate_fibres

    left, pulls = [], []
    curves = load_filter_curves(BANDS)
    for k in range(n_frames):
        sim = frame_of_real_pieces(
            SEED + 50 + k,
            sn=(20, 100),
            wavelength=10 ** np.arange(np.log10(3790.0), np.log10(9900.0), 1e-4),
        )
        lam = sim.frame.wavelength
        for name, photometry in sim.standards.items():
            others = {m: p for m, p in sim.standards.items() if m != name}
            cal = calibrate_fibres(sim.frame, others, kurucz_photometry())
            row = sim.frame.row(name)
            out = apply_calibration(sim.frame.select([row]), cal)
            good = np.isfinite(out.flux[0])
            flux = np.interp(lam, lam[good], out.flux[0][good])
            spectrum = Spectrum(lam, flux)
            gap = np.array([synthetic_magnitude(spectrum, c.bandpass) for c in curves.values()])
            gap = gap - photometry.magnitudes
            gap -= gap.mean()
            left.append(gap)
            # errors of the catalogue and of the response; and as the other stars scatter, this one
            pivots = np.log([c.pivot_wavelength for c in curves.values()])
            s = cal.solution
            curve = np.nanmedian(np.abs(s.scatter[s.used]), axis=0) / 0.6745
            own = np.interp(pivots, s.bins, curve)
            slope = np.std(s.slope[s.used], ddof=1) * (pivots - pivots.mean())
            shape2 = s.template_error(np.exp(pivots)) ** 2 + own**2 + slope**2
            error2 = 1.0857**2 * shape2 + photometry.mag_errors**2
            pulls.append(gap / np.sqrt(error2 * 0.75))
    return float(np.sqrt(np.mean(np.square(left)))), float(np.sqrt(np.mean(np.square(pulls))))


def best_of(function: Callable[[], Any], repeats: int = 3) -> float:
    """Return the shortest wall time of several calls, in seconds, after one to warm up."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def match_speed() -> tuple[float, float]:
    """Wall and CPU seconds to match and calibrate 10 stars with 500 models at 4000 pixels."""
    from pogson.simulate import simulate_fibres
    from pogson.spectro import (
        TemplateLibrary,
        calibrate_fibres,
        grid_photometry,
        load_filter_curves,
    )

    base = kurucz()
    teff, logg, feh = np.meshgrid(
        np.linspace(5000, 7000, 25), [4.0, 4.5], np.linspace(-2, 0, 10), indexing="ij"
    )
    labels = np.array([teff.ravel(), logg.ravel(), feh.ravel()])
    flux = np.array([base.interpolate(*label).flux for label in labels.T])
    library = TemplateLibrary.from_arrays(
        base.wavelength, flux, teff=labels[0], logg=labels[1], feh=labels[2], native=base.native
    )
    sim = simulate_fibres(
        SEED, n_stars=10, n_fibres=10, library=base, response=sdss_response,
        wavelength=np.geomspace(3800.0, 9300.0, 4000),
    )  # fmt: skip
    phot = grid_photometry(library, load_filter_curves(BANDS))
    wall = best_of(lambda: calibrate_fibres(sim.frame, sim.standards, phot))
    start = time.process_time()
    calibrate_fibres(sim.frame, sim.standards, phot)
    return wall, time.process_time() - start


def apply_speed() -> tuple[float, float]:
    """Bandwidth in GB/s of applying a calibration to 5000 x 4000 pixels, and of copying memory."""
    from pogson.spectro._apply_kernels import apply_factor

    shape = (5000, 4000)
    counts, ivar = np.ones(shape), np.ones(shape)
    mask, bits = np.zeros(shape, np.uint32), np.zeros((1, 4000), np.uint32)
    factor = np.full((1, 4000), 1e-17)
    flux, out, bad = np.empty(shape), np.empty(shape), np.empty(shape, np.uint32)
    seconds = best_of(lambda: apply_factor(counts, ivar, mask, factor, bits, flux, out, bad), 5)
    moved = counts.nbytes * 4 + mask.nbytes * 2
    copy = best_of(lambda: np.copyto(flux, counts), 5)
    return moved / seconds / 1e9, 2 * counts.nbytes / copy / 1e9


def desispec_peer() -> dict[str, float] | None:
    """Run desispec and ours on one simulated frame; None where there is no desispec.

    ``POGSON_DESISPEC_PYTHON`` names the Python of an environment in which desispec is installed.
    """
    import json
    import subprocess

    python = os.environ.get("POGSON_DESISPEC_PYTHON")
    if not python:
        return None
    script = Path(__file__).resolve().parent / "peers" / "desispec_peer.py"
    done = subprocess.run([python, str(script)], capture_output=True, text=True, check=False)
    return dict(json.loads(done.stdout.splitlines()[-1])) if done.returncode == 0 else None


def _row(
    figure: str, ours: float, target: str, passed: bool, peer: float | None = None, name: str = ""
) -> dict[str, Any]:
    return {
        "figure": figure, "ours": float(ours), "peer": peer, "peer_name": name, "target": target,
        "passed": bool(passed),
    }  # fmt: skip


def rows() -> list[dict[str, Any]]:
    """Return all figures."""
    if not (DATA / "templates" / "kurucz_stds_v5.fit").exists():
        return []
    out = []
    c = campaign(8)
    print(f"bench_spectro: frames of seeds {SEED} to {SEED + 7}")
    shape, scale = 100 * float(np.mean(c["shape"])), 100 * float(np.sqrt(np.mean(c["scale"] ** 2)))
    out.append(
        _row("spectra: shape rms, frames of 8 real-piece stars, %", shape, "< 0.7", shape < 0.7)
    )
    out.append(_row("spectra: absolute, the same frames, rms %", scale, "< 1.0", scale < 1.0))
    out.append(
        _row("spectra: pulls of the calibration", c["pull"], "0.8-1.2", 0.8 < c["pull"] < 1.2)
    )
    bias, _, naive = bias_at_low_sn()
    out.append(
        _row(
            "spectra: bias at S/N 5, %",
            100 * bias,
            "< 0.3",
            abs(bias) < 0.003,
            100 * naive,
            "mean of model/counts",
        )
    )
    real = real_stars()
    good = np.mean([r <= 1.5 for r, _ in real.values()])
    near = np.mean([abs(d) <= 250 for _, d in real.values()])
    for name, (rms, gap) in real.items():
        out.append(
            _row(
                f"CALSPEC {name}: SED ratio rms %; Teff - literature {gap:+.0f} K",
                rms,
                "<= 1.5",
                rms <= 1.5,
            )
        )
        out[-1]["passed"] = None
    out.append(
        _row("CALSPEC stars with SED ratio rms <= 1.5 %, fraction", good, ">= 0.75", good >= 0.75)
    )
    out.append(_row("CALSPEC stars with Teff within 250 K, fraction", near, "> 0.8", near > 0.8))
    found = [wrong_star(k, n, 17 + n) for k in ("x100", "galaxy", "cool", "white") for n in (3, 6)]
    out.append(
        _row("spectra: wrong star rejected and named, fraction", np.mean(found), "1", all(found))
    )
    rms, pull = leave_one_out(3)
    out.append(_row("spectra: PS1 griz of a left-out star, rms mag", rms, "< 0.03", rms < 0.03))
    out.append(_row("spectra: their pulls", pull, "0.8-1.3", 0.8 < pull < 1.3))
    seconds, cpu = match_speed()
    out.append(
        _row("spectra: 10 stars x 500 models x 4000 px, wall s", seconds, "<= 2", seconds <= 2)
    )
    out.append(_row("spectra: the same, CPU s of all threads", cpu, "<= 4", cpu <= 4))
    ours, copy = apply_speed()
    out.append(
        _row(
            "spectra: apply, 5000 x 4000, GB/s",
            ours,
            ">= 0.3 x copy",
            ours >= 0.3 * copy,
            copy,
            "memory copy",
        )
    )
    peer = desispec_peer()
    if peer is not None:
        gain = peer["peer_cpu"] / peer["ours_cpu"]
        out.append(
            _row(
                f"spectra: 6 stars' response, CPU s ({gain:.0f} times faster)", peer["ours_cpu"],
                "20 x faster", gain >= 20, peer["peer_cpu"], "desispec",
            )
        )  # fmt: skip
        better = peer["ours_shape"] <= peer["peer_shape"]
        out.append(
            _row(
                "spectra: the same, shape rms %",
                peer["ours_shape"],
                "<= peer",
                better,
                peer["peer_shape"],
                "desispec",
            )
        )
    return out


if __name__ == "__main__":
    for row in rows():
        print(row)
    sys.exit(0)
