"""Flux in is flux out, under its reference: the figures of the injection issue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from astropy.table import Table

from pogson.calib import FluxReference, PhotoCalib
from pogson.errors import ReferenceMismatchError
from pogson.fields import ChebyshevField
from pogson.images import Exposure, measure_sources
from pogson.inject import (
    Injection,
    InjectionCatalog,
    WingModel,
    inject,
    local_calibration,
    recovery_from_catalog,
)
from pogson.psf import ApertureOperator, MoffatPSF

Make = Callable[..., Exposure]
Grid = Callable[..., dict[str, Any]]

R12 = FluxReference.aperture(12)


def measured(exposure: Exposure, stars: dict[str, Any], reference: FluxReference) -> np.ndarray:
    """Fluxes in nJy of an aperture at the injected positions."""
    table = measure_sources(exposure, x=stars["x"], y=stars["y"], references=reference)
    cal = local_calibration(exposure, x=stars["x"], y=stars["y"])
    return np.asarray(table[f"flux_{reference.slug}"]) * cal


def millimagnitudes(out: np.ndarray, flux: np.ndarray) -> np.ndarray:
    return -2500.0 * np.log10(out / flux)


def check_closure(offset: np.ndarray) -> None:
    """The test that an injector has to pass."""
    print(
        f"R=12 in, R=12 out: mean {offset.mean():+.5f}, rms {offset.std():.5f}, "
        f"max {np.abs(offset).max():.5f} mmag, {offset.size} stars"
    )
    assert abs(offset.mean()) < 0.01
    assert np.abs(offset).max() < 0.05


def test_aperture_in_aperture_out(make_exposure: Make, star_grid: Grid) -> None:
    exposure, stars = make_exposure(), star_grid()
    result = inject(exposure, stars, reference=R12)
    check_closure(millimagnitudes(measured(result.exposure, stars, R12), stars["flux"]))
    assert np.allclose(result.truth["flux_realised"], stars["flux"], rtol=1e-6)
    assert (np.asarray(result.truth["flags"]) == 0).all()
    assert not np.any(exposure.image)  # the input is as it was


def test_normalising_at_the_mean_position_fails_the_same_test(
    make_exposure: Make, star_grid: Grid
) -> None:
    """The habit of established injectors: shape at the source, normalisation at the centre."""
    exposure, stars = make_exposure(), star_grid()
    psf = exposure.psf
    assert psf is not None
    x0, y0 = exposure.box.center
    here = R12.enclosed_energy(psf, x=stars["x"], y=stars["y"])
    there = float(R12.enclosed_energy(psf, x=x0, y=y0))
    wrong = dict(stars, flux=stars["flux"] * here / there)
    result = inject(exposure, wrong, reference=R12)
    offset = millimagnitudes(measured(result.exposure, stars, R12), stars["flux"])
    assert 1.0 < offset.std() < 4.0
    with pytest.raises(AssertionError):
        check_closure(offset)


@pytest.mark.parametrize(
    "reference",
    [
        FluxReference.aperture(4.0),
        FluxReference.aperture(2.4, "sky"),
        FluxReference.aperture(6.0, "pixel", ApertureOperator.sinc()),
        FluxReference.aperture(5.0, "pixel", ApertureOperator.center()),
    ],
    ids=lambda r: r.slug,
)
def test_any_reference_closes(make_exposure: Make, star_grid: Grid, reference: Any) -> None:
    exposure, stars = make_exposure(), star_grid(spacing=80.7)
    result = inject(exposure, stars, reference=reference, largest_radius=20)
    offset = millimagnitudes(measured(result.exposure, stars, reference), stars["flux"])
    assert np.abs(offset).max() < 0.05


def test_total_differs_from_aperture_by_the_enclosed_energy(
    make_exposure: Make, star_grid: Grid
) -> None:
    exposure, stars = make_exposure(), star_grid()
    total = FluxReference.total()
    result = inject(exposure, stars, reference=total, largest_radius=14)
    out = measured(result.exposure, stars, R12)
    offset = millimagnitudes(out, stars["flux"])
    assert exposure.psf is not None
    expected = -2500.0 * np.log10(exposure.psf.enclosed_energy(12, x=stars["x"], y=stars["y"]))
    difference = offset - expected
    print(
        f"total in, R=12 out: mean {offset.mean():.2f} ({offset.min():.1f}..{offset.max():.1f}) "
        f"mmag; less -2.5 log10 EE12: max {np.abs(difference).max():.4f} mmag"
    )
    assert offset.mean() > 3
    assert np.abs(difference).max() < 0.1
    # what the stamps of half-size 14 miss of the total is told
    missing = 1.0 - np.asarray(result.truth["deposited_fraction"])
    assert 1e-3 < missing.mean() < 2e-2
    # an R=12 catalogue is not comparable with it
    catalog = measure_sources(result.exposure, x=stars["x"], y=stars["y"], references=R12)
    with pytest.raises(ReferenceMismatchError, match=r"total.*aperture 12 px"):
        recovery_from_catalog(
            result.truth, catalog, flux="flux_aperture_12px_exact", match_radius=1.0, frame="pixel"
        )


def test_surface_brightness_image_with_growing_pixels(make_exposure: Make, star_grid: Grid) -> None:
    base, stars = make_exposure(), star_grid()
    ratio = ChebyshevField(base.box, [[1.025, 0.02], [0.005, 0.0]])  # 0 to 5 %
    flat = PhotoCalib.constant(2.0, reference=R12)
    exposure = make_exposure(measure="surface_brightness", area_ratio=ratio, photo_calib=flat)
    result = inject(exposure, stars, reference=R12)
    offset = millimagnitudes(measured(result.exposure, stars, R12), stars["flux"])
    ignored = measure_sources(
        result.exposure.with_(measure="fluence"), x=stars["x"], y=stars["y"], references=R12
    )
    careless = millimagnitudes(2.0 * ignored["flux_aperture_12px_exact"], stars["flux"])
    print(f"surface brightness: max {np.abs(offset).max():.4f} mmag; ignoring the areas: "
          f"{careless.min():.0f}..{careless.max():.0f}")  # fmt: skip
    assert np.abs(offset).max() < 0.15
    assert np.abs(careless).max() > 30
    # a calibration made for surface brightness holds the pixel areas itself
    sb_calib = PhotoCalib(
        ChebyshevField(base.box, [[2.05, 0.04], [0.01, 0.0]], "nJy / adu"),
        measure="surface_brightness",
        reference=R12,
    )
    again = inject(exposure.with_(photo_calib=sb_calib), stars, reference=R12)
    assert np.allclose(again.exposure.image, result.exposure.image, rtol=1e-5, atol=1e-4)


def test_another_psf_and_wings(make_exposure: Make, star_grid: Grid) -> None:
    exposure, stars = make_exposure(), star_grid(spacing=120.3, margin=60)
    other = MoffatPSF(fwhm=4.4, beta=2.8)
    result = inject(exposure, stars, reference=R12, injection_psf=other)
    assert (
        np.abs(millimagnitudes(measured(result.exposure, stars, R12), stars["flux"])).max() < 0.05
    )
    assert set(result.truth["psf_id"]) == {exposure.psf.identifier}
    assert set(result.truth["injection_psf_id"]) == {other.identifier}
    wing = WingModel(radius=12.0, slope=2.6)
    winged = inject(exposure, stars, reference=R12, wing=wing, largest_radius=40)
    assert np.abs(millimagnitudes(measured(winged.exposure, stars, R12), stars["flux"])).max() < 0.1
    far = measured(winged.exposure, stars, FluxReference.aperture(40))
    plain = inject(exposure, stars, reference=R12, largest_radius=40)
    assert (far > 1.005 * measured(plain.exposure, stars, FluxReference.aperture(40))).all()


def test_extended_sources_close_in_their_aperture(make_exposure: Make) -> None:
    exposure = make_exposure((300, 300))
    rows = {
        "id": ["disc", "galaxy", "trail", "stamp"],
        "x": [60.3, 220.1, 70.0, 230.4],
        "y": [70.2, 60.7, 220.3, 230.9],
        "flux": [5e5, 8e5, 3e5, 2e5],
        "source_type": ["sersic", "bulge_disc", "trail", "stamp"],
        "sersic_index": [1.0, np.nan, np.nan, np.nan],
        "half_light_radius": [0.6, np.nan, np.nan, np.nan],
        "axis_ratio": [0.6, np.nan, np.nan, np.nan],
        "position_angle": [30.0, 0.0, 0.0, 0.0],
        "bulge_fraction": [np.nan, 0.3, np.nan, np.nan],
        "bulge_half_light_radius": [np.nan, 0.3, np.nan, np.nan],
        "disc_half_light_radius": [np.nan, 0.8, np.nan, np.nan],
        "rate_ra": [np.nan, np.nan, 0.1, np.nan],
        "rate_dec": [np.nan, np.nan, 0.05, np.nan],
    }
    for k in range(4):
        for name, value in (("bulge_sersic_index", 4.0), ("bulge_axis_ratio", 0.8),
                            ("bulge_position_angle", 10.0), ("disc_sersic_index", 1.0),
                            ("disc_axis_ratio", 0.5), ("disc_position_angle", 10.0)):  # fmt: skip
            rows.setdefault(name, []).append(value if k == 1 else np.nan)
    v, u = np.mgrid[-15:16, -15:16]
    table = Table(rows)
    table["stamp"] = [None, None, None, np.exp(-0.5 * (u**2 + v**2) / 9.0)]
    table["stamp_reference"] = [None, None, None, "total"]
    r = FluxReference.aperture(20)
    result = inject(exposure, table, reference=r, largest_radius=25)
    assert (np.asarray(result.truth["flags"]) == 0).all(), result.report
    out = measured(result.exposure, rows, r)
    assert np.abs(millimagnitudes(out, np.array(rows["flux"]))).max() < 0.5
    assert np.allclose(result.truth["flux_realised"], rows["flux"], rtol=1e-6)


def test_catalogue_of_a_band_and_of_the_sky(make_exposure: Make, star_grid: Grid) -> None:
    exposure, stars = make_exposure(bandpass="decam2014-r"), star_grid(spacing=150.3)
    assert exposure.sky is not None
    ra, dec = exposure.sky.sky(x=stars["x"], y=stars["y"])
    magnitude = 31.4 - 2.5 * np.log10(stars["flux"])
    rows = {"id": stars["id"], "ra": ra, "dec": dec, "mag_g": magnitude + 1, "mag_r": magnitude}
    catalog = InjectionCatalog.from_table(rows, reference=R12)
    result: Injection = inject(exposure, catalog)
    assert np.allclose(result.truth["x"], stars["x"], atol=1e-6)
    assert set(result.truth["band"]) == {"r"}
    check_closure(millimagnitudes(measured(result.exposure, stars, R12), stars["flux"]))


def test_against_sep_and_galsim(make_exposure: Make, star_grid: Grid) -> None:
    """Two codes of other people: SEP sums the apertures, GalSim draws the same galaxy."""
    import sep

    galsim = pytest.importorskip("galsim")
    exposure, stars = make_exposure(), star_grid(spacing=90.3)
    image = np.ascontiguousarray(inject(exposure, stars, reference=R12).exposure.image)
    sums, _, _ = sep.sum_circle(image.astype(float), stars["x"], stars["y"], 12.0, subpix=0)
    cal = local_calibration(exposure, x=stars["x"], y=stars["y"])
    check_closure(millimagnitudes(sums * cal, stars["flux"]))

    small = make_exposure((200, 200))
    one = {"id": ["g"], "x": [100.3], "y": [99.6], "flux": [1e6]}
    ours = Table(
        {
            **one,
            "source_type": ["sersic"],
            "sersic_index": [1.0],
            "half_light_radius": [0.5],
            "axis_ratio": [0.7],
            "position_angle": [20.0],
        }
    )
    theirs = Table({**one, "source_type": ["galsim"]})
    shape = galsim.Exponential(half_light_radius=0.5)
    theirs["galsim"] = [shape.shear(q=0.7, beta=(90 - 20) * galsim.degrees)]
    a, b = (inject(small, t, reference=R12, largest_radius=20) for t in (ours, theirs))
    assert list(b.truth["flags"]) == [0]
    difference = np.abs(a.exposure.image - b.exposure.image).max() / a.exposure.image.max()
    print(f"largest difference to GalSim: {difference:.1e} of the peak")
    assert difference < 2e-3
    assert np.isclose(a.truth["inst_flux_total"][0], b.truth["inst_flux_total"][0], rtol=1e-3)
    nonsense = Table({**one, "source_type": ["galsim"], "galsim": ["Exponential"]})
    assert inject(small, nonsense, reference=R12).truth["flags"][0] != 0
