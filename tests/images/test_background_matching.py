"""Backgrounds matched between visits: known planes come back, sources and sky stay."""

import numpy as np
import pytest

from pogson.errors import CalibrationError, MissingDataError, PogsonTypeError, PogsonValueError
from pogson.fields import Box
from pogson.images import Exposure, match_backgrounds, warp
from pogson.psf import MoffatPSF
from pogson.sky import FitsSkyMap

BOX = Box(0, 0, 360, 360)
SKY = FitsSkyMap.tan(30.0, -20.0, x=180.0, y=180.0, scale_arcsec=0.3)


def visit(rng, plane, seeing, rotation=0.0, n=360):
    """Return a visit whose background is a plane of the output's pixels, in surface brightness."""
    sky = FitsSkyMap.tan(30.0, -20.0, x=180.0, y=180.0, scale_arcsec=0.3, rotation_deg=rotation)
    gx, gy = np.meshgrid(np.arange(n), np.arange(n))
    px, py = SKY.pixel(*sky.sky(x=gx, y=gy))
    image = (plane[0] + plane[1] * (px - 180) / 180 + plane[2] * (py - 180) / 180) * 0.09
    image += 30.0 * np.exp(-((px - 150) ** 2 + (py - 200) ** 2) / 60.0**2) * 0.09  # nebula: stays
    place = np.random.default_rng(9).uniform(40, 320, (2, 40))
    x, y = sky.pixel(*SKY.sky(x=place[0], y=place[1]))
    stamps, x0, y0 = MoffatPSF(seeing, 3.0).draw_many(x=x, y=y, half_size=15)
    for s, a, b in zip(stamps, x0, y0, strict=True):
        image[b : b + 31, a : a + 31] += 2000.0 * s
    image += rng.normal(0.0, 1.0, image.shape)
    return Exposure(
        image, variance=np.ones(image.shape), unit="nJy", measure="fluence", sky=sky,
        exposure_id=f"{rotation:g}",
    )  # fmt: skip


def test_planes_between_visits_come_back(rng):
    planes = [(5.0, 1.0, 0.0), (-2.0, 0.0, 3.0), (9.0, -4.0, 1.0)]
    warps = [
        warp(visit(rng, p, s, r), SKY, BOX)
        for p, s, r in zip(planes, (3.0, 4.5, 3.5), (0.0, 90.0, 180.0), strict=True)
    ]
    matched = match_backgrounds(warps, degree=1, bin_size=60, reference=0)
    x, y = np.array([60.0, 180.0, 300.0]), np.array([60.0, 200.0, 290.0])
    for k, p in enumerate(planes):
        truth = sum(
            (a - b) * f
            for a, b, f in zip(p, planes[0], (1.0, (x - 180) / 180, (y - 180) / 180), strict=True)
        )
        # medians of 3600 pixels of noise 11 nJy/arcsec2: 0.23 a bin, 36 bins
        np.testing.assert_allclose(matched.levels[k](x=x, y=y), truth, atol=0.35)
    assert matched.rms_after < 0.4 * matched.rms_before
    less = [matched.subtract(k, w).exposure.image for k, w in enumerate(warps)]
    inner = (slice(30, 330), slice(30, 330))
    # 0.6 apart before; what is left is the wings of stars in worse seeing, which are no background
    assert abs(np.nanmedian(less[1][inner] - less[0][inner])) < 0.2
    again = matched.restore(1, matched.subtract(1, warps[1])).exposure.image
    np.testing.assert_allclose(again, warps[1].exposure.image, rtol=1e-5, atol=1e-4)
    # the nebula, which all visits share, is untouched in the reference
    np.testing.assert_allclose(less[0], warps[0].exposure.image, rtol=0, atol=1e-6)


def test_without_a_reference_the_mean_is_zero(rng):
    warps = [warp(visit(rng, (c, 0.0, 0.0), 3.0), SKY, BOX) for c in (1.0, 4.0)]
    matched = match_backgrounds(warps, degree=0)
    values = [float(f(x=180, y=180)) for f in matched.levels]
    assert sum(values) == pytest.approx(0.0, abs=1e-6)
    assert values[1] - values[0] == pytest.approx(3.0, abs=0.3)


def test_refusals(rng):
    one = warp(visit(rng, (1.0, 0.0, 0.0), 3.0), SKY, BOX)
    with pytest.raises(PogsonValueError, match="at least two"):
        match_backgrounds([one])
    with pytest.raises(PogsonValueError, match="degree"):
        match_backgrounds([one, one], degree=9)
    with pytest.raises(CalibrationError, match="other output pixels"):
        match_backgrounds([one, warp(visit(rng, (1.0, 0, 0), 3.0), SKY, Box(0, 0, 300, 300))])
    with pytest.raises(PogsonTypeError, match="give warps"):
        match_backgrounds([one, one.exposure])
    bare = visit(rng, (1.0, 0.0, 0.0), 3.0).with_(variance=None)
    with pytest.raises(MissingDataError, match="no variance"):
        match_backgrounds([one, warp(bare, SKY, BOX)])
    with pytest.raises(PogsonValueError, match="no visit 4"):
        match_backgrounds([one, one]).subtract(4, one)
