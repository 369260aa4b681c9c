"""Pulls of fluxes on noisy stars: means and widths within what the statistics allow."""

from __future__ import annotations

import numpy as np
import pytest

from pogson.calib import FluxReference
from pogson.fields import Box, ChebyshevField, PixelAreaField
from pogson.images import (
    Exposure,
    LocalAnnulus,
    estimate_background,
    estimate_variance,
    measure_sources,
    psf_flux,
)
from pogson.psf import MoffatPSF

GAIN = 2.5
SKY = 150.0
READ = 4.0  # electron
N_SIDE, SPACING = 22, 60
BOX = Box.from_shape((N_SIDE * SPACING, N_SIDE * SPACING))
PSF = MoffatPSF(
    ChebyshevField(BOX, [[3.6, 0.3], [0.2, 0.0]]), ChebyshevField(BOX, [[3.0, -0.15], [0.1, 0.0]])
)
RATIO = PixelAreaField(ChebyshevField(BOX, [[1.025, 0.0125], [0.0125, 0.0]]))
R5 = FluxReference.aperture(5.0)


def noisy_scene(rng, flux):
    """Poisson stars on a Poisson sky flat in surface brightness, in adu; and the truth."""
    c = SPACING * (np.arange(N_SIDE) + 0.5)
    x, y = (v.ravel() + rng.uniform(-0.5, 0.5, v.size) for v in np.meshgrid(c, c))
    fluence = SKY * RATIO.render()
    stamps, x_min, y_min = PSF.draw_many(x=x, y=y, half_size=28)
    fluxes = np.broadcast_to(flux, x.size)
    for stamp, x0, y0, f in zip(stamps, x_min, y_min, fluxes, strict=True):
        part = Box(int(x0), int(y0), 57, 57).intersection(BOX)
        fluence[part.slices(BOX)] += f * stamp[part.slices(Box(int(x0), int(y0), 57, 57))]
    electrons = rng.poisson(fluence * GAIN) + rng.normal(0, READ, BOX.shape)
    ratio = RATIO.render()
    true_variance = fluence / GAIN + (READ / GAIN) ** 2
    exposure = Exposure(
        electrons / GAIN / ratio,
        variance=true_variance / ratio**2,
        unit="adu",
        measure="surface_brightness",
        area_ratio=RATIO,
        psf=PSF,
        metadata={"gain": GAIN},
    )
    return exposure, x, y, fluxes


def check_pulls(name, pulls, *, widest=0.0):
    """Mean 0 and width 1 to 4.5 standard errors (plus a stated allowance for the width)."""
    pulls = np.asarray(pulls)
    n = pulls.size
    print(f"{name}: n {n}, mean {pulls.mean():.3f}, std {pulls.std():.3f}")
    assert abs(pulls.mean()) < 4.5 / np.sqrt(n)
    assert abs(pulls.std() - 1.0) < 4.5 / np.sqrt(2 * n) + widest


def in_aperture(x, y, flux):
    return flux * R5.enclosed_energy(PSF, x=x, y=y)


@pytest.mark.parametrize("brightness", [300.0, 30000.0])
def test_pulls_of_apertures_and_psf_fluxes(rng, brightness):
    """Errors with the true variance are right for faint and bright stars.

    The background is known here, so that its own error does not widen the pulls.
    """
    e, x, y, flux = noisy_scene(rng, brightness)
    f = e.to("fluence")
    f = f.with_(image=f.image - SKY * RATIO.render())
    table = measure_sources(f, x=x, y=y, references=[R5, FluxReference.psf()])
    name = "flux_aperture_5px_exact"
    pulls = (table[name] - in_aperture(x, y, flux)) / table[f"{name}_err"]
    check_pulls("aperture", pulls)
    check_pulls("psf", (table["flux_psf"] - flux) / table["flux_psf_err"])


def test_source_noise_makes_the_difference_it_should(rng):
    """Scatter of bright stars is the error with source noise, far above the one without."""
    e, x, y, flux = noisy_scene(rng, 30000.0)
    f = e.to("fluence")
    f = f.with_(image=f.image - SKY * RATIO.render())
    name = "flux_aperture_5px_exact"
    sky_only = f.with_(
        variance=SKY * RATIO.render() / GAIN + (READ / GAIN) ** 2,
        metadata={"gain": GAIN, "variance_includes_sources": False},
    )
    for exposure in (f, sky_only):
        table = measure_sources(exposure, x=x, y=y, references=[R5])
        residual = np.asarray(table[name]) - in_aperture(x, y, flux)
        # the rim's approximation of flux / gain: below 2 % of the variance
        check_pulls("with source noise", residual / table[f"{name}_err"], widest=0.02)
        assert np.std(residual / np.asarray(table[f"{name}_err_sky"])) > 1.5


@pytest.mark.parametrize("local", [False, True])
def test_estimated_background_leaves_no_bias(rng, local):
    """The whole chain in surface brightness: sky, local annulus, variance from the background."""
    e, x, y, flux = noisy_scene(rng, 3000.0)
    e = e.with_(variance=None)
    e = e.with_background(estimate_background(e, mask_sources=True))
    background = LocalAnnulus(18, 28) if local else "attached"
    table = measure_sources(e, x=x, y=y, references=[R5], background=background)
    assert table.meta["variance_from"] == "background rms"
    name = "flux_aperture_5px_exact"
    residual = np.asarray(table[name]) - in_aperture(x, y, flux)
    error = np.asarray(table[f"{name}_err"])
    pulls = residual / error
    area = np.pi * 25
    # clipping the skewed noise of the annulus costs 1.3 +- 0.3 adu here (8 seeds); allow 5
    allowance = 5.0
    print(f"mean residual {residual.mean():.1f} of {flux[0]:.0f}, std of pulls {pulls.std():.3f}")
    assert abs(residual.mean()) < 4.5 * error.mean() / np.sqrt(x.size) + allowance
    assert abs(pulls.std() - 1.0) < 4.5 / np.sqrt(2 * x.size) + 0.06
    # no gradient with the pixel area: the slope of the residual along x + y, 4.5 sigma
    t = (x + y) / (x + y).max() - 0.5
    slope = np.sum(t * residual) / np.sum(t * t)
    assert abs(slope) < 4.5 * error.mean() / np.sqrt(np.sum(t * t))
    # a sky level of 150 that ignored the 5 % would leave a slope of about 150 * 0.05 * area
    assert 4.5 * error.mean() / np.sqrt(np.sum(t * t)) < 0.5 * SKY * 0.05 * area


def test_weights_that_follow_the_noise_bias_and_uniform_ones_do_not(rng):
    """The known bias of weighting by a variance plane made from the noisy pixels."""
    e, x, y, flux = noisy_scene(rng, 3000.0)
    f = e.to("fluence")
    noisy_plane = np.maximum(f.image, 1.0) / GAIN + (READ / GAIN) ** 2
    f = f.with_(image=f.image - SKY * RATIO.render(), variance=noisy_plane)
    uniform = psf_flux(f, x=x, y=y)
    weighted = psf_flux(f, x=x, y=y, weighting="variance")
    sky = estimate_variance(f, include_sources=False)
    model = f.with_(variance=np.full(BOX.shape, np.nanmedian(sky.variance)))
    optimal = psf_flux(model, x=x, y=y, weighting="variance")
    error = np.asarray(uniform["flux_psf_err"]).mean() / np.sqrt(x.size)
    fits = {"uniform": uniform, "noisy weights": weighted, "sky weights": optimal}
    bias = {k: float(np.mean(t["flux_psf"]) - flux[0]) for k, t in fits.items()}
    print({k: f"{v:.1f} +- {error:.1f}" for k, v in bias.items()})
    assert abs(bias["uniform"]) < 4.5 * error
    assert abs(bias["sky weights"]) < 4.5 * error
    assert bias["noisy weights"] < -4.5 * error


def test_psf_flux_with_local_background_pulls(rng):
    e, x, y, flux = noisy_scene(rng, 2000.0)
    table = psf_flux(e, x=x, y=y, local_background=True)
    check_pulls("psf + level", (table["flux_psf"] - flux) / table["flux_psf_err"])
    levels = (table["local_background"] - SKY) / table["local_background_err"]
    check_pulls("level", levels)
    ndof = np.asarray(table["n_pixels"]) - 2
    reduced = np.asarray(table["chi2"]) / ndof
    assert abs(reduced.mean() - 1) < 4.5 * np.sqrt(2 / ndof.sum()) + 0.01
