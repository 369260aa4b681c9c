"""Real DECam cutouts of the same sky, added: fluxes on the coadd against those of the visits."""

import numpy as np

from pogson.calib import FluxReference, PhotoCalib
from pogson.images import CoaddGrid, aperture_variance, coadd, detect, estimate_background
from pogson.psf import ApertureOperator

RADIUS = 2.5  # arcsec


def test_fluxes_on_the_coadd_and_on_the_visits_agree(shared_data):
    from pogson.formats import read_exposure

    data = shared_data("decam-cutouts/testcase3")
    files = sorted((data / "images").rglob("*_ooi_*.fits*"))
    groups = {}
    for path in files:
        groups.setdefault(path.name.split("_ooi_")[1][0], []).append(path)
    checked = 0
    for name, paths in groups.items():
        visits = [prepared(read_exposure(p), k) for k, p in enumerate(paths)]
        if len(visits) < 2:
            continue
        checked += compare(name, visits)
    assert checked >= 3  # cutouts of a few arcsec: one source a band lies whole on all visits


def prepared(exposure, k):
    exposure = exposure if exposure.area_ratio is not None else exposure.with_area_ratio()
    background = estimate_background(exposure, mesh=64)
    clean = exposure.with_background(background).subtract_background()
    # any common scale serves: the test is of fluxes against each other, visit by visit
    calib = PhotoCalib.constant(
        1.0, unit=f"nJy / ({exposure.unit})" if exposure.unit.to_string() else "nJy",
        measure=clean.measure, reference=FluxReference.total(),
    )  # fmt: skip
    done = clean.with_(photo_calib=calib).calibrated()
    return done.with_(flattening_sed="dome", exposure_id=f"v{k}", background=None,
                      background_subtracted=False, flattening=None)  # fmt: skip


def compare(name, visits):
    grid = CoaddGrid.covering([(v.sky, v.box) for v in visits])
    made = coadd(visits, grid.sky, grid.box, weights="uniform", clip=None)
    inside = made.count == len(visits)
    if inside.sum() < 1000:
        return 0
    sources = detect(made.exposure, threshold=10.0)
    x, y = np.asarray(sources["x"]), np.asarray(sources["y"])
    ok = np.array([_covered(inside, a, b, 14) for a, b in zip(x, y, strict=True)], bool)
    if not ok.any():
        return 0
    x, y = x[ok], y[ok]
    ra, dec = grid.sky.sky(x=x, y=y)
    scale = float(grid.sky.pixel_scale(x=x[0], y=y[0]))
    on = _sums(made.exposure, x, y, RADIUS / scale)
    each = []
    for v in visits:
        px, py = v.sky.pixel(ra, dec)
        each.append(_sums(v, px, py, RADIUS / float(v.sky.pixel_scale(x=px[0], y=py[0]))))
    mean = np.mean(each, axis=0)
    good = np.isfinite(mean) & np.isfinite(on)
    error = np.sqrt(aperture_variance(made, x=x, y=y, radius=RADIUS / scale))
    pull = ((on - mean) / error)[good]
    print(f"{name}: {good.sum()} sources, coadd - visits {np.median(pull):.3f} sigma, worst {np.abs(pull).max():.2f}; "  # noqa: E501
          f"median {np.median((on / mean)[good]) - 1:.2e}")  # fmt: skip
    # the same photons on other pixels: far closer than the errors, which they share
    assert np.abs(pull).max() < 1.0
    assert abs(np.median((on / mean)[good]) - 1.0) < 5e-3
    return int(good.sum())


def _covered(inside, x, y, half):
    i, j = round(float(x)), round(float(y))
    part = inside[max(j - half, 0) : j + half + 1, max(i - half, 0) : i + half + 1]
    return part.shape == (2 * half + 1, 2 * half + 1) and part.all()


def _sums(exposure, x, y, radius):
    sums = ApertureOperator.exact().sum(
        exposure.image, x=np.array(x), y=np.array(y), a=radius,
        bad=np.isnan(exposure.image), x_min=exposure.box.x_min, y_min=exposure.box.y_min,
    )  # fmt: skip
    return np.where(np.asarray(sums.flux) != 0, np.asarray(sums.flux), np.nan)
